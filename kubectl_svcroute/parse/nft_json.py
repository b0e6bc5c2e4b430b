"""`nft -j list ...` -> tables, chains, sets and rules.

Strict about structure: one document that begins with `metainfo` and is closed, nothing behind it, only the kinds of
objects that libnftables has (src/json.c; the schema is libnftables-json(5)), rules only of chains that were declared. A
document that stops early raises, wherever that is. Objects are read by their keys, never by position: releases of nft add
keys, wrap elements in `elem`, and print single values where others print lists.

A rule's own text is kept, and understood when it is asked for. A statement or expression that is not known becomes
`Unknown` or `Opaque`: what follows from that is for whoever walks it to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import ParseError
from ..model.fast_dataclass import replace
from ..model.nft import NftChain, NftRules, NftTable, Rule, TableKey
from .nft_syntax import FAMILIES, HOOKS, OBJECTS, as_list, elements, name_of, read_rule, read_set

LARGE = 100_000
"""Characters from which on it is worth its while to take a document apart the fast way."""
_HEAD = re.compile(r'\s*\{\s*"nftables"\s*:\s*\[')
_TAIL = re.compile(r"\s*\}\s*\Z")
_SPACE = re.compile(r"\s*")

_decode = json.JSONDecoder().raw_decode


def parse_nft_json(text: str, *, source: str = "", like: NftRules | None = None) -> NftRules:
    """Index what `nft -j list` printed: a ruleset, a table, a chain, a map.

    `like`: the rules of another node; elements that are to the letter its own are taken from there.

    Raises ParseError, with the place, for anything that nft would not print and for a document that is not whole.
    """
    if not text.strip():
        raise ParseError("the file is empty: nothing was read")
    if len(text) >= LARGE:
        from .nft_json_fast import read_large  # noqa: PLC0415 - what it imports is not worth its time for a small text

        if (found := read_large(text, source=source, like=like)) is not None:
            return found
    reader = _Reader(text)
    for start, end, thing in _objects(text):
        reader.take(start, end, thing)
    return NftRules(tables=reader.tables, source=source)


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(start, end, object) of everything in the document's list, one at a time: all at once take nine times its size."""
    head = _HEAD.match(text)
    if head is None:
        raise _error(text, 0, "not the output of nft -j: it does not begin with a list named nftables")
    position = head.end()
    while True:
        start = _space(text, position)
        try:
            thing, end = _decode(text, start)
        except ValueError:
            raise _error(text, start, "the document stops or is damaged here") from None
        except RecursionError:
            raise _error(text, start, "nested deeper than nft prints anything") from None
        if not isinstance(thing, dict) or len(thing) != 1:
            raise _error(text, start, "not an object of one kind, as nft prints them")
        yield start, end, thing
        position = _space(text, end)
        mark = text[position : position + 1]
        position += 1
        if mark == "]":
            break
        if mark != ",":
            raise _error(text, position - 1, "the list of objects stops or is damaged here")
    if _TAIL.match(text, position) is None:
        raise _error(text, position, "the document is not closed, or something stands behind it")


def _space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _error(text: str, position: int, what: str) -> ParseError:
    return ParseError(f"{what} (character {position + 1})", text.count("\n", 0, position) + 1, text[position : position + 80])


class _Reader:
    """Puts the objects of one document where they belong."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tables: dict[TableKey, NftTable] = {}
        self.chains: dict[TableKey, dict[str, NftChain]] = {}
        self.begun = False

    def take(self, start: int, end: int, thing: dict[str, Any]) -> None:
        ((kind, body),) = thing.items()
        if not isinstance(body, dict):
            raise _error(self.text, start, f"a {kind} that is no object")
        if not self.begun:
            if kind != "metainfo":
                raise _error(self.text, start, "metainfo is missing: the beginning was cut off")
            if body.get("json_schema_version", 1) != 1:
                raise _error(self.text, start, f"JSON schema {body['json_schema_version']} of nft is not known here")
            self.begun = True
            return
        try:
            self._take(kind, body, start, end)
        except (KeyError, TypeError, ValueError) as error:
            raise _error(self.text, start, f"a {kind} that nft would not print ({type(error).__name__}: {error})") from error

    def _take(self, kind: str, body: dict[str, Any], start: int, end: int) -> None:
        if kind == "rule":
            chain = self.chains.get((body["family"], body["table"]), {}).get(body["chain"])
            if chain is None:
                raise _error(self.text, start, f"a rule of chain {body['chain']}, which was not declared")
            if not isinstance(body["expr"], list):
                raise _error(self.text, start, "a rule without a list of statements")
            chain.rules.append(Rule(self.text[start:end], read_rule))
        elif kind == "chain":
            self._chain(body, start)
        elif kind in ("set", "map"):
            table = self._table(body["family"], body["table"], start)
            if body["name"] in table.sets:
                raise _error(self.text, start, f"set {body['name']} is declared twice")
            table.sets[name_of(body["name"])] = read_set(body, is_map=kind == "map")
        elif kind == "table":
            key = (body["family"], name_of(body["name"]))
            if key in self.tables:
                raise _error(self.text, start, f"table {key[0]} {key[1]} is declared twice")
            self._table(*key, start, dormant="dormant" in as_list(body.get("flags")))
        elif kind == "element":
            table = self._table(body["family"], body["table"], start)
            old = table.sets.get(body["name"])
            if old is None:
                raise _error(self.text, start, f"elements of set {body['name']}, which was not declared")
            more = elements(body.get("elem"), is_map=old.is_map)
            table.sets[old.name] = replace(old, elements=(*old.elements, *more))
        elif kind == "metainfo":
            raise _error(self.text, start, "a second beginning")
        elif kind not in OBJECTS:
            raise _error(self.text, start, f"a {kind}, which is not a kind of object known here")

    def _table(self, family: str, name: str, start: int, *, dormant: bool = False) -> NftTable:
        # `nft -j list chain` and `list map` print no table: what they print names it.
        if family not in FAMILIES:
            raise _error(self.text, start, f"family {family} is none of nft's")
        table = self.tables.get((family, name))
        if table is None:
            chains = self.chains[family, name] = {}
            table = self.tables[family, name] = NftTable(family=family, name=name, chains=chains, sets={}, dormant=dormant)
        return table

    def _chain(self, body: dict[str, Any], start: int) -> None:
        self._table(body["family"], body["table"], start)
        chains = self.chains[body["family"], body["table"]]
        name = name_of(body["name"])
        if name in chains:
            raise _error(self.text, start, f"chain {name} is declared twice")
        hook = body.get("hook", "")
        if not hook:
            chains[name] = NftChain(name=name, rules=[])
            return
        policy = body.get("policy", "accept")
        if hook not in HOOKS or policy not in ("accept", "drop"):
            raise _error(self.text, start, f"hook {hook} with policy {policy}, which is not known here")
        chains[name] = NftChain(
            name=name, rules=[], type=str(body["type"]), hook=hook, priority=int(body["prio"]), policy=policy
        )
