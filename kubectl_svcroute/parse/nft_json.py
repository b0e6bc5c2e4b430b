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
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ParseError
from ..model.fast_dataclass import replace
from ..model.nft import (
    Aside,
    Assign,
    Binary,
    Concat,
    Ct,
    Decide,
    Element,
    Expression,
    Fib,
    Flags,
    Hash,
    Limit,
    MapOf,
    Match,
    Meta,
    Nat,
    NftChain,
    NftRules,
    NftSet,
    NftTable,
    Notrack,
    Numgen,
    Opaque,
    Payload,
    Prefix,
    Range,
    Reject,
    Rule,
    SetOf,
    SetRef,
    Statement,
    TableKey,
    Unknown,
    Update,
    Value,
    VerdictMap,
    render_value,
)

FAMILIES = frozenset(("ip", "ip6", "inet", "arp", "bridge", "netdev"))
HOOKS = frozenset(("prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"))
OBJECTS = frozenset(
    # What a table can hold besides chains, sets and rules: nothing happens by them unless a rule names them.
    ("flowtable", "counter", "quota", "ct helper", "ct timeout", "ct expectation", "limit", "secmark", "synproxy", "tunnel")
)
LARGE = 100_000
"""Characters from which on it is worth its while to take a document apart the fast way."""
_HEAD = re.compile(r'\s*\{\s*"nftables"\s*:\s*\[')
_TAIL = re.compile(r"\s*\}\s*\Z")
_SPACE = re.compile(r"\s*")
DEFAULT_REJECTS = frozenset(("icmp port-unreachable", "icmpv6 port-unreachable", "icmpx port-unreachable"))
VERDICTS = frozenset(("accept", "drop", "continue", "return"))
NAT_KINDS = frozenset(("dnat", "snat", "masquerade", "redirect"))

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
            table.sets[_name(body["name"])] = _set(body, is_map=kind == "map")
        elif kind == "table":
            key = (body["family"], _name(body["name"]))
            if key in self.tables:
                raise _error(self.text, start, f"table {key[0]} {key[1]} is declared twice")
            self._table(*key, start, dormant="dormant" in _list(body.get("flags")))
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
        name = _name(body["name"])
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


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def elements(printed: Any, *, is_map: bool) -> tuple[Element, ...]:
    """The elements of a set or map, as they are printed in it."""
    if isinstance(printed, dict) and "set" in printed:
        printed = printed["set"]
    if printed is None:
        return ()
    if not isinstance(printed, list):
        raise TypeError("elements that are no list")
    return tuple([_element(one, is_map=is_map) for one in printed])


def _set(body: dict[str, Any], *, is_map: bool) -> NftSet:
    flags = _list(body.get("flags"))
    timeout = body.get("timeout")
    return NftSet(
        name=_name(body["name"]),
        elements=elements(body.get("elem"), is_map=is_map),
        types=tuple(t if isinstance(t, str) else json.dumps(t) for t in _list(body.get("type"))),
        is_map=is_map,
        timeout=int(timeout) if timeout is not None else None,
        runtime=timeout is not None or "timeout" in flags or "dynamic" in flags,
    )


# ---- elements -------------------------------------------------------------------------------------------------------------


def _element(printed: Any, *, is_map: bool) -> Element:
    if not is_map:
        key, comment = _key(printed)
        return Element(key, None, comment)
    wrapped = ""
    if isinstance(printed, dict) and "elem" in printed:
        wrapped = str(printed["elem"].get("comment", ""))
        printed = printed["elem"]["val"]
    if not isinstance(printed, list) or len(printed) != 2:
        raise TypeError(f"a map's element that is not a pair: {printed!r}")
    key, comment = _key(printed[0])
    return Element(key, _data(printed[1]), comment or wrapped)


def _key(printed: Any) -> tuple[tuple[Value, ...], str]:
    comment = ""
    if isinstance(printed, dict) and "elem" in printed:
        printed, comment = printed["elem"]["val"], str(printed["elem"].get("comment", ""))
    if isinstance(printed, dict) and "concat" in printed:
        return tuple(_value(part) for part in printed["concat"]), comment
    return (_value(printed),), comment


def _data(printed: Any) -> Decide | tuple[Value, ...]:
    decided = _verdict(printed)
    return decided if decided is not None else _key(printed)[0]


def _verdict(printed: Any) -> Decide | None:
    if not isinstance(printed, dict) or len(printed) != 1:
        return None
    ((kind, body),) = printed.items()
    if kind in VERDICTS:
        return Decide(kind)
    if kind in ("jump", "goto") and isinstance(body, dict) and isinstance(body.get("target"), str):
        return Decide(kind, body["target"])
    return None


def _value(printed: Any) -> Value:
    # Nearly all are plain words and numbers, and there are tens of thousands of them.
    if type(printed) is int or (type(printed) is str and printed[:1] != "@"):
        return printed
    found = expression(printed)
    if isinstance(found, int | str | Prefix | Range | Flags | Opaque):
        return found
    return Opaque(render_value(found))


# ---- statements -----------------------------------------------------------------------------------------------------------


def read_rule(raw: str) -> tuple[tuple[Statement, ...], str]:
    """The statements and the comment of a `{"rule": ...}` object."""
    body = json.loads(raw)["rule"]
    return tuple(statement(printed) for printed in body["expr"]), str(body.get("comment") or "")


def statement(printed: Any) -> Statement:
    """One statement of a rule; `Unknown` where it is not understood."""
    if not isinstance(printed, dict) or len(printed) != 1:
        return Unknown(_compact(printed))
    decided = _verdict(printed)
    if decided is not None:
        return decided
    ((kind, body),) = printed.items()
    reader = _STATEMENTS.get(kind)
    if reader is None:
        return Unknown(_compact(printed))
    try:
        return reader(kind, body)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Unknown(_compact(printed))


def _compact(printed: Any) -> str:
    return json.dumps(printed, separators=(",", ":"))


def _match(_: str, body: Any) -> Statement:
    op, right = body["op"], expression(body["right"])
    if op not in ("==", "!=", "<", ">", "<=", ">=", "in"):
        raise ValueError(op)
    return Match(op, expression(body["left"]), right)


def _vmap(_: str, body: Any) -> Statement:
    data = expression(body["data"])
    if not isinstance(data, SetOf | SetRef):
        raise TypeError("a vmap without a map")
    return VerdictMap(expression(body["key"]), data)


def _mangle(_: str, body: Any) -> Statement:
    return Assign(expression(body["key"]), expression(body["value"]))


def _nat(kind: str, body: Any) -> Statement:
    body = body or {}
    unknown = set(body) - {"family", "addr", "port", "flags", "type_flags"}
    if unknown:
        raise ValueError(f"{kind} with {unknown}")
    flags = [str(flag) for flag in (*_list(body.get("type_flags")), *_list(body.get("flags")))]
    return Nat(
        kind,
        body.get("family", ""),
        expression(body["addr"]) if "addr" in body else None,
        expression(body["port"]) if "port" in body else None,
        tuple(flags),
    )


def _reject(_: str, body: Any) -> Statement:
    body = body or {}
    reason = " ".join(str(body[key]) for key in ("type", "expr") if key in body)
    return Reject("" if reason in DEFAULT_REJECTS else reason)


def _update(_: str, body: Any) -> Statement:
    if body["op"] not in ("add", "update", "delete"):
        raise ValueError(body["op"])
    name, element = body["set"], body["elem"]
    timeout = None
    limited = bool(body.get("stmt"))
    if isinstance(element, dict) and "elem" in element:
        wrapped = element["elem"]
        element, timeout = wrapped["val"], wrapped.get("timeout")
        limited = limited or bool({*wrapped} - {"val", "timeout", "expires", "comment", "counter", "last"})
    return Update(body["op"], name.removeprefix("@"), expression(element), timeout, limited)


def _aside(kind: str, body: Any) -> Statement:
    if kind == "counter":
        # Its numbers change while one reads, and say nothing about the next packet.
        return Aside(f'counter name "{body}"' if isinstance(body, str) else "counter")
    return Aside(kind)


def _limit(kind: str, body: Any) -> Statement:
    return Limit(f'{kind} name "{body}"' if isinstance(body, str) else kind)


_STATEMENTS: dict[str, Callable[[str, Any], Statement]] = {
    "match": _match, "vmap": _vmap, "mangle": _mangle,
    "dnat": _nat, "snat": _nat, "masquerade": _nat, "redirect": _nat,
    "reject": _reject, "set": _update, "notrack": lambda *_: Notrack(),
    "counter": _aside, "log": _aside, "last": _aside,
    "limit": _limit, "quota": _limit, "ct count": _limit,
}  # fmt: skip


# ---- expressions ----------------------------------------------------------------------------------------------------------

_OPERATORS = frozenset(("&", "|", "^", "<<", ">>"))


def expression(printed: Any) -> Expression:
    """An expression; `Opaque` where it is not understood."""
    if isinstance(printed, str):
        return SetRef(printed[1:]) if printed.startswith("@") else printed
    if isinstance(printed, int):
        return printed
    if isinstance(printed, list):
        if all(isinstance(part, int | str) for part in printed):
            return Flags(tuple(printed))
        return Opaque(_compact(printed))
    if isinstance(printed, dict) and len(printed) == 1:
        ((kind, body),) = printed.items()
        try:
            found = _expression(kind, body)
        except (KeyError, TypeError, ValueError, AttributeError):
            found = None
        if found is not None:
            return found
    return Opaque(_compact(printed))


def _expression(kind: str, body: Any) -> Expression | None:
    if kind == "payload":
        return _payload(body)
    if kind == "meta":
        return Meta(_name(body["key"]))
    if kind == "ct":
        return Ct(_name(body["key"]), body.get("dir", ""))
    if kind == "concat":
        return Concat(tuple(expression(part) for part in body))
    if kind == "prefix":
        return Prefix(_name(body["addr"]), int(body["len"]))
    if kind == "range":
        low, high = body
        return Range(low, high) if isinstance(low, int | str) and isinstance(high, int | str) else None
    if kind == "set":
        # A map's elements are pairs, a set's are not.
        return SetOf(tuple(_element(e, is_map=_is_pair(e)) for e in _list(body)))
    if kind == "map":
        data = expression(body["data"])
        return MapOf(expression(body["key"]), data) if isinstance(data, SetOf | SetRef) else None
    if kind == "numgen":
        return Numgen(_name(body["mode"]), int(body["mod"]), int(body.get("offset", 0)))
    if kind in ("jhash", "symhash"):
        of = f" {render_value(expression(body['expr']))}" if "expr" in body else ""
        seed = f" seed {body['seed']:#x}" if "seed" in body else ""
        offset = int(body.get("offset", 0))
        text = f"{kind}{of} mod {body['mod']}{seed}" + (f" offset {offset}" if offset else "")
        return Hash(text, int(body["mod"]), offset)
    if kind == "fib":
        return Fib(tuple(str(flag) for flag in _list(body["flags"])), _name(body["result"]))
    if kind == "elem":
        return expression(body["val"])
    if kind in _OPERATORS:
        parts = tuple(expression(part) for part in body)
        if kind == "|" and all(isinstance(part, int | str | Flags) for part in parts):
            names = [n for p in parts for n in (p.names if isinstance(p, Flags) else (p,)) if isinstance(n, int | str)]
            return Flags(tuple(names))
        return Binary(kind, parts)
    if kind == "tcp option":
        return Opaque(f"tcp option {body['name']} {body.get('field', '')}".rstrip())
    if kind in ("rt", "socket"):
        return Opaque(f"{kind} {_name(body['key'])}")
    return None


def _is_pair(printed: Any) -> bool:
    if isinstance(printed, dict) and "elem" in printed:
        printed = printed["elem"].get("val")
    return isinstance(printed, list) and len(printed) == 2


def _payload(body: Any) -> Expression | None:
    if "base" in body:
        # Some releases print the ports so: `@th,16,16`.
        name = {(0, 16): "sport", (16, 16): "dport"}.get((body["offset"], body["len"]))
        return Payload("th", name) if name and body["base"] == "transport" else None
    return Payload(_name(body["protocol"]), _name(body["field"]))
