"""The JSON that libnftables prints for rules, sets, elements and expressions -> the model's values.

Everything is read by its keys, never by position: releases of nft add keys, wrap elements in `elem`, and print single values
where others print lists (libnftables-json(5)). A statement or expression that is not known becomes `Unknown` or `Opaque`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

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
    NftSet,
    Notrack,
    Numgen,
    Opaque,
    Payload,
    Prefix,
    Range,
    Reject,
    SetOf,
    SetRef,
    Statement,
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
DEFAULT_REJECTS = frozenset(
    # By name, and by number, as `nft -n` prints them.
    ("icmp port-unreachable", "icmpv6 port-unreachable", "icmpx port-unreachable", "icmp 3", "icmpv6 4", "icmpx 1")
)
VERDICTS = frozenset(("accept", "drop", "continue", "return"))
NAT_KINDS = frozenset(("dnat", "snat", "masquerade", "redirect"))


def name_of(value: Any) -> str:
    """A name as nft prints it. Raises ValueError for anything else."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def as_list(value: Any) -> list[Any]:
    """The values of a key that holds none, one or a list of them, depending on the release of nft."""
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


def read_set(body: dict[str, Any], *, is_map: bool) -> NftSet:
    """A set or map with its elements. Raises KeyError, TypeError or ValueError for what nft would not print."""
    flags = as_list(body.get("flags"))
    timeout = body.get("timeout")
    return NftSet(
        name=name_of(body["name"]),
        elements=elements(body.get("elem"), is_map=is_map),
        types=tuple(t if isinstance(t, str) else json.dumps(t) for t in as_list(body.get("type"))),
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
    flags = [str(flag) for flag in (*as_list(body.get("type_flags")), *as_list(body.get("flags")))]
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
        return Meta(name_of(body["key"]))
    if kind == "ct":
        return Ct(name_of(body["key"]), body.get("dir", ""))
    if kind == "concat":
        return Concat(tuple(expression(part) for part in body))
    if kind == "prefix":
        return Prefix(name_of(body["addr"]), int(body["len"]))
    if kind == "range":
        low, high = body
        return Range(low, high) if isinstance(low, int | str) and isinstance(high, int | str) else None
    if kind == "set":
        # A map's elements are pairs, a set's are not.
        return SetOf(tuple(_element(e, is_map=_is_pair(e)) for e in as_list(body)))
    if kind == "map":
        data = expression(body["data"])
        return MapOf(expression(body["key"]), data) if isinstance(data, SetOf | SetRef) else None
    if kind == "numgen":
        return Numgen(name_of(body["mode"]), int(body["mod"]), int(body.get("offset", 0)))
    if kind in ("jhash", "symhash"):
        of = f" {render_value(expression(body['expr']))}" if "expr" in body else ""
        seed = f" seed {body['seed']:#x}" if "seed" in body else ""
        offset = int(body.get("offset", 0))
        text = f"{kind}{of} mod {body['mod']}{seed}" + (f" offset {offset}" if offset else "")
        return Hash(text, int(body["mod"]), offset)
    if kind == "fib":
        return Fib(tuple(str(flag) for flag in as_list(body["flags"])), name_of(body["result"]))
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
        return Opaque(f"{kind} {name_of(body['key'])}")
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
    return Payload(name_of(body["protocol"]), name_of(body["field"]))
