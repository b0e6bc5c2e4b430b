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
from ..model.nft_elements import Key, PlainElements
from . import nft_syntax

_NOTHING = Raw(b"")


class _Rule(Struct, gc=False):
    family: str
    table: str
    chain: str
    expr: Raw
    comment: str | None = None


class _Chain(Struct, gc=False):
    family: str
    table: str
    name: str
    hook: str = ""
    type: Any = None
    prio: int | None = None
    policy: str = "accept"


class _Set(Struct, gc=False):
    family: str
    table: str
    name: str
    type: Any = None
    elem: Raw = _NOTHING
    flags: Any = None
    timeout: int | None = None


class _TableHead(Struct, gc=False):
    family: str
    name: str
    flags: Any = None


class _Release(Struct, gc=False):
    json_schema_version: int = 1


class _Object(Struct, gc=False, forbid_unknown_fields=True):
    """One object, of one kind. Labels (handles, comments of sets) are passed over."""

    rule: _Rule | None = None
    chain: _Chain | None = None
    set: _Set | None = None
    map: _Set | None = None
    table: _TableHead | None = None
    metainfo: _Release | None = None


class _Document(Struct, forbid_unknown_fields=True):
    nftables: list[_Object]


class _Concat(Struct, gc=False, forbid_unknown_fields=True):
    concat: tuple[str | int, ...]


class _Target(Struct, gc=False, forbid_unknown_fields=True):
    target: str


class _Verdict(Struct, gc=False, forbid_unknown_fields=True):
    goto: _Target | UnsetType = UNSET
    jump: _Target | UnsetType = UNSET
    drop: UnsetType | None = UNSET


_DOCUMENT = Decoder(_Document)
_SET = Decoder(list[str | int | _Concat])
_MAP = Decoder(list[tuple[str | int | _Concat, _Verdict]])
_FRAME = re.compile(r'\s*\{\s*"nftables"\s*:\s*\[')


class _OddError(Exception):
    """Something that only the precise reader may judge."""


def _read(comment: str, printed: str) -> tuple[tuple[Statement, ...], str]:
    try:
        return tuple(nft_syntax.statement(one) for one in json.loads(printed)), comment
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

    __slots__ = ("bases", "chains", "comments", "dormant", "sets")

    def __init__(self, *, dormant: bool) -> None:
        self.dormant = dormant
        self.chains: dict[str, list[bytes]] = {}
        """The list of statements of each rule of each chain."""
        self.comments: dict[tuple[str, int], str] = {}
        """Chain and place -> comment, of rules that have one."""
        self.bases: list[_Chain] = []
        self.sets: dict[str, NftSet] = {}

    def rules(self, chain: str) -> list[Rule]:
        """The rules of a chain, each to be understood when it is first asked for."""
        exprs = self.chains[chain]
        return [Rule(expr.decode(), partial(_read, self.comments.get((chain, n), ""))) for n, expr in enumerate(exprs)]

    def made(self, key: TableKey) -> NftTable:
        based = {
            body.name: NftChain(name=body.name, rules=self.rules(body.name), type=body.type, hook=body.hook,
                                priority=body.prio or 0, policy=body.policy)
            for body in self.bases
        }  # fmt: skip
        chains = LazyChains(self.chains, self.rules, based)
        return NftTable(family=key[0], name=key[1], chains=chains, sets=self.sets, dormant=self.dormant)


def _tables(objects: list[_Object], like: Mapping[TableKey, NftTable]) -> dict[TableKey, NftTable]:
    if not objects or objects[0] != _Object(metainfo=_Release()):
        raise _OddError
    tables: dict[TableKey, _Table] = {}
    for thing in objects[1:]:
        rule = thing.rule
        if rule is not None:
            if thing.chain or thing.set or thing.map or thing.table or thing.metainfo:
                raise _OddError
            expr = bytes(rule.expr)
            if expr[:1] != b"[":
                raise _OddError
            table = tables[rule.family, rule.table]
            exprs = table.chains[rule.chain]
            if rule.comment:
                table.comments[rule.chain, len(exprs)] = rule.comment
            exprs.append(expr)
            continue
        chain = thing.chain
        if chain is not None:
            if thing.set or thing.map or thing.table or thing.metainfo:
                raise _OddError
            _declare(tables[chain.family, chain.table], chain)
            continue
        others = [kind for kind in (thing.set, thing.map, thing.table) if kind is not None]
        if len(others) != 1 or thing.metainfo is not None:
            raise _OddError
        if thing.table is not None:
            key = (thing.table.family, thing.table.name)
            if key in tables or key[0] not in nft_syntax.FAMILIES or not key[1]:
                raise _OddError
            tables[key] = _Table(dormant="dormant" in _list(thing.table.flags))
            continue
        body = thing.set if thing.set is not None else thing.map
        if body is None:
            raise _OddError
        key = (body.family, body.table)
        sets = tables[key].sets
        if not body.name or body.name in sets:
            raise _OddError
        other = like[key].sets.get(body.name) if key in like else None
        sets[body.name] = _set(body, is_map=thing.map is not None, other=other)
    return {key: table.made(key) for key, table in tables.items()}


def _declare(table: _Table, chain: _Chain) -> None:
    if not chain.name or chain.name in table.chains:
        raise _OddError
    table.chains[chain.name] = []
    if chain.hook:
        _check_base(chain)
        table.bases.append(chain)


def _check_base(body: _Chain) -> None:
    known = body.hook in nft_syntax.HOOKS and body.policy in ("accept", "drop")
    if not known or body.prio is None or not isinstance(body.type, str):
        raise _OddError


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _set(body: _Set, *, is_map: bool, other: NftSet | None) -> NftSet:
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
    return nft_syntax.elements(json.loads(printed), is_map=is_map)


def _plain(printed: bytes, *, is_map: bool) -> PlainElements:
    if not is_map:
        return PlainElements([_key(one) for one in _SET.decode(printed)], None, printed)
    keys, verdicts = [], []
    for one, verdict in _MAP.decode(printed):
        keys.append(_key(one))
        goto, jump, drop = verdict.goto, verdict.jump, verdict.drop
        if goto is not UNSET and jump is UNSET and drop is UNSET:
            verdicts.append(("goto", goto.target))
        elif jump is not UNSET and goto is UNSET and drop is UNSET:
            verdicts.append(("jump", jump.target))
        elif drop is not UNSET and goto is UNSET and jump is UNSET:
            verdicts.append(("drop", ""))
        else:
            raise DecodeError("no verdict, or two")
    return PlainElements(keys, verdicts, printed)


def _key(one: str | int | _Concat) -> Key:
    return one.concat if isinstance(one, _Concat) else (one,)
