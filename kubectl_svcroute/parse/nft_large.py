"""A large document of `nft -j`, taken apart by msgspec: its frame is checked, its rules stay text until they are asked for.

This reads only what is beyond doubt, and says nothing about the rest: whatever is not of the plain form goes to `nft_json.py`,
which understands every form and tells what is wrong with a text that nft would not print. Both give the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType
from msgspec.json import Decoder

from ..model.nft import Element, LazyChains, NftChain, NftRules, NftSet, NftTable, Rule, Statement, TableKey, Unknown
from ..model.nft_plain import Key, PlainElements
from . import nft_json

_NOTHING = Raw(b"")


class _Body(Struct, gc=False):
    """What any kind of object may have. Labels (handles, comments of sets) are passed over."""

    family: str = ""
    table: str = ""
    chain: str = ""
    name: str = ""
    expr: Raw = _NOTHING
    comment: str | None = None
    hook: str = ""
    type: Any = None
    prio: int | None = None
    policy: str = "accept"
    elem: Raw = _NOTHING
    flags: Any = None
    timeout: int | None = None
    json_schema_version: int = 1


class _Document(Struct, forbid_unknown_fields=True):
    nftables: list[dict[str, _Body]]


class _Concat(Struct, gc=False, forbid_unknown_fields=True):
    concat: tuple[str | int, ...]


class _Target(Struct, gc=False, forbid_unknown_fields=True):
    target: str


class _Verdict(Struct, gc=False, forbid_unknown_fields=True):
    goto: _Target | UnsetType = UNSET
    jump: _Target | UnsetType = UNSET


_DOCUMENT = Decoder(_Document)
_SET = Decoder(list[str | int | _Concat])
_MAP = Decoder(list[tuple[str | int | _Concat, _Verdict]])
_FRAME = re.compile(r'\s*\{\s*"nftables"\s*:\s*\[')


class _OddError(Exception):
    """Something that only the precise reader may judge."""


class _Printed:
    """The rules of one chain as they were printed."""

    __slots__ = ("bodies",)

    def __init__(self) -> None:
        self.bodies: list[_Body] = []

    def texts(self) -> list[str]:
        return [bytes(body.expr).decode() for body in self.bodies]

    def printed(self) -> list[bytes]:
        return [bytes(body.expr) for body in self.bodies]

    def rules(self) -> list[Rule]:
        return [Rule(bytes(body.expr).decode(), partial(_read, body.comment or "")) for body in self.bodies]


def _read(comment: str, printed: str) -> tuple[tuple[Statement, ...], str]:
    try:
        return tuple(nft_json.statement(one) for one in json.loads(printed)), comment
    except (ValueError, RecursionError):  # a number of thousands of digits, or what is nested as deep
        return (Unknown(printed),), comment


def read_large(text: str, *, source: str = "", like: NftRules | None = None) -> NftRules | None:
    """What `parse_nft_json` would give; None where that has to read the text itself."""
    if not _FRAME.match(text) or text.count('"nftables"') != 1:
        return None
    try:
        found = _DOCUMENT.decode(text.encode())
        return NftRules(tables=_tables(found.nftables, like.tables if like is not None else {}), source=source)
    except (DecodeError, _OddError, UnicodeError, RecursionError, KeyError, TypeError, ValueError):
        return None


class _Table:
    """A table while its objects are read."""

    __slots__ = ("bases", "chains", "dormant", "sets")

    def __init__(self, *, dormant: bool) -> None:
        self.dormant = dormant
        self.chains: dict[str, _Printed] = {}
        self.bases: list[_Body] = []
        self.sets: dict[str, NftSet] = {}

    def made(self, key: TableKey) -> NftTable:
        based = {
            body.name: NftChain(name=body.name, rules=self.chains[body.name].rules(), type=body.type, hook=body.hook,
                                priority=body.prio or 0, policy=body.policy)
            for body in self.bases
        }  # fmt: skip
        return NftTable(family=key[0], name=key[1], chains=LazyChains(self.chains, based), sets=self.sets, dormant=self.dormant)


def _tables(objects: list[dict[str, _Body]], like: Mapping[TableKey, NftTable]) -> dict[TableKey, NftTable]:
    if not objects or objects[0].keys() != {"metainfo"} or objects[0]["metainfo"].json_schema_version != 1:
        raise _OddError
    tables: dict[TableKey, _Table] = {}
    for thing in objects[1:]:
        ((kind, body),) = thing.items()
        if kind == "rule":
            if bytes(body.expr)[:1] != b"[":
                raise _OddError
            tables[body.family, body.table].chains[body.chain].bodies.append(body)
        elif kind == "chain":
            table = tables[body.family, body.table]
            if not body.name or body.name in table.chains:
                raise _OddError
            table.chains[body.name] = _Printed()
            if body.hook:
                _check_base(body)
                table.bases.append(body)
        elif kind in ("set", "map"):
            key = (body.family, body.table)
            sets = tables[key].sets
            if not body.name or body.name in sets:
                raise _OddError
            sets[body.name] = _set(body, is_map=kind == "map", other=like[key].sets.get(body.name) if key in like else None)
        elif kind == "table":
            key = (body.family, body.name)
            if key in tables or body.family not in nft_json.FAMILIES or not body.name:
                raise _OddError
            tables[key] = _Table(dormant="dormant" in _list(body.flags))
        elif kind not in nft_json.OBJECTS:
            raise _OddError
    return {key: table.made(key) for key, table in tables.items()}


def _check_base(body: _Body) -> None:
    known = body.hook in nft_json.HOOKS and body.policy in ("accept", "drop")
    if not known or body.prio is None or not isinstance(body.type, str):
        raise _OddError


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _set(body: _Body, *, is_map: bool, other: NftSet | None) -> NftSet:
    flags = _list(body.flags)
    printed = bytes(body.elem)
    elements: Sequence[Element] = ()
    if printed:
        old = other.elements if other is not None and other.is_map == is_map else ()
        elements = old if isinstance(old, PlainElements) and old.printed == printed else _elements(printed, is_map=is_map)
    return NftSet(
        name=body.name,
        elements=elements,
        types=tuple(t if isinstance(t, str) else json.dumps(t) for t in _list(body.type)),
        is_map=is_map,
        timeout=body.timeout,
        runtime=body.timeout is not None or "timeout" in flags or "dynamic" in flags,
    )


def _elements(printed: bytes, *, is_map: bool) -> Sequence[Element]:
    if b'"@' not in printed:  # else a word stands for a set
        try:
            return _plain(printed, is_map=is_map)
        except DecodeError:
            pass  # comments, timeouts, networks, values that are no verdicts
    return nft_json.elements(json.loads(printed), is_map=is_map)


def _plain(printed: bytes, *, is_map: bool) -> PlainElements:
    if not is_map:
        return PlainElements([_key(one) for one in _SET.decode(printed)], None, printed)
    keys, verdicts = [], []
    for one, verdict in _MAP.decode(printed):
        keys.append(_key(one))
        if verdict.jump is UNSET and verdict.goto is not UNSET:
            verdicts.append(("goto", verdict.goto.target))
        elif verdict.goto is UNSET and verdict.jump is not UNSET:
            verdicts.append(("jump", verdict.jump.target))
        else:
            raise DecodeError("no verdict, or two")
    return PlainElements(keys, verdicts, printed)


def _key(one: str | int | _Concat) -> Key:
    return one.concat if isinstance(one, _Concat) else (one,)
