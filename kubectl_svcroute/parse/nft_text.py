"""`nft list ...`, the form for people -> the same types as from its JSON (parse/nft_json.py).

For nodes of which only this form was read. The frame is that of src/rule.c: `table FAMILY NAME {`, in it `set`, `map`,
`chain` and other blocks, each closed by a line with `}`, a rule a line. Every block has to be closed, and the last line
ended: text that stops early raises, wherever that is but between two tables, where nothing can show it.

Blocks are read at once, the words of a rule when they are asked for. A rule is read statement by statement; from the first
one that is not understood on, the rest of it is `Unknown`, because nothing marks where a statement ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..errors import ParseError
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
    Scalar,
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
from .nft_syntax import DEFAULT_REJECTS, FAMILIES, HOOKS, NAT_KINDS, VERDICTS

_TABLE = re.compile(r"table (?P<family>\S+) (?P<name>\S+) \{(?: # .*)?\Z")
_BLOCK = re.compile(
    r"(?P<kind>chain|set|map|meter|flowtable|counter|quota|limit|secmark|synproxy|tunnel|ct (?:helper|timeout|expectation)) "
    r"(?P<name>\S+) \{(?: # .*)?\Z"
)
_HOOK = re.compile(
    r"type (?P<type>\S+) hook (?P<hook>\S+)(?: devices? .*?)? priority (?P<priority>[^;]+);(?: policy (?P<policy>\S+);)?\Z"
)
_COMMENT = re.compile(r'comment "[^"]*"\Z')
_PRIORITY = re.compile(r"(?P<name>[a-z]+)?(?:(?: (?P<sign>[+-]) )?(?P<number>-?\d+))?\Z")
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_BRIDGE_PRIORITIES = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
"""include/uapi/linux/netfilter_ipv4.h and netfilter_bridge.h, by the names that nft gives them."""
_SET_LINES = ("type ", "typeof ", "flags ", "timeout ", "gc-interval ", "size ", "policy ", "comment ", "elements = {")
_HANDLE = re.compile(r" # handle \d+\Z")


def parse_nft_text(text: str, *, source: str = "") -> NftRules:
    """Index what `nft list ruleset` or `nft list table` printed.

    Raises ParseError, with the line, for anything that nft would not print and for a text that stops before its end.
    """
    if not text.strip():
        raise ParseError("the file is empty: nothing was read")
    if not text.endswith("\n"):
        raise ParseError("the text stops in the middle of a line", text.count("\n") + 1, text[text.rfind("\n") + 1 :])
    return NftRules(tables=_Lines(text).tables(), source=source)


class _Lines:
    """The lines of a text, taken one at a time."""

    def __init__(self, text: str) -> None:
        self.lines = [line.strip() for line in text.split("\n")]
        self.number = 0

    def next(self) -> str | None:
        """The next line that says something; None at the end."""
        while self.number < len(self.lines):
            line = self.lines[self.number]
            self.number += 1
            if line and not line.startswith("#"):
                return line
        return None

    def inside(self, what: str) -> str:
        """The next line of a block, which has to be there."""
        line = self.next()
        if line is None:
            raise ParseError(f"the text stops inside {what}", len(self.lines))
        return line

    def error(self, what: str, line: str) -> ParseError:
        return ParseError(what, self.number, line)

    def tables(self) -> dict[TableKey, NftTable]:
        found: dict[TableKey, NftTable] = {}
        while (line := self.next()) is not None:
            head = _TABLE.match(line)
            if head is None or head["family"] not in FAMILIES:
                raise self.error("not the beginning of a table, as nft would print it", line)
            key = (head["family"], head["name"])
            if key in found:
                raise self.error("a table that is printed twice", line)
            found[key] = self.table(*key)
        return found

    def table(self, family: str, name: str) -> NftTable:
        what = f"table {family} {name}"
        chains: dict[str, NftChain] = {}
        sets: dict[str, NftSet] = {}
        dormant = False
        while (line := self.inside(what)) != "}":
            if head := _BLOCK.match(line):
                kind, block = head["kind"], head["name"]
                inner = f"{kind} {block} of {what}"
                if block in (chains if kind == "chain" else sets):
                    raise self.error(f"{kind} {block} is declared twice", line)
                if kind == "chain":
                    chains[block] = self.chain(block, family, inner)
                elif kind in ("set", "map", "meter"):
                    sets[block] = self.set(block, inner, is_map=kind == "map")
                else:
                    while self.inside(inner) != "}":
                        pass
            elif line.startswith("flags "):
                dormant = "dormant" in re.split(r"[ ,;]+", line)
            elif not _COMMENT.match(line) and not line.startswith("owner "):
                raise self.error("not what nft would print in a table", line)
        return NftTable(family=family, name=name, chains=chains, sets=sets, dormant=dormant)

    def chain(self, name: str, family: str, what: str) -> NftChain:
        rules: list[Rule] = []
        found: re.Match[str] | None = None
        priority = 0
        while (line := self.inside(what)) != "}":
            if line.startswith("type ") and (hook := _HOOK.match(line)):
                if found or rules or hook["hook"] not in HOOKS or (hook["policy"] or "accept") not in ("accept", "drop"):
                    raise self.error("a hook that nft would not print here", line)
                found, priority = hook, self.priority(hook["priority"], family, line)
            elif not rules and _COMMENT.match(line):
                continue
            else:
                begun = self.number
                while (missing := _open_braces(line)) > 0:
                    line = f"{line} {self.inside(what)}"
                if missing < 0:
                    raise ParseError("more braces are closed than opened", begun, line)
                rules.append(Rule(line, read_line))
        if found is None:
            return NftChain(name=name, rules=rules)
        return NftChain(
            name=name, rules=rules, type=found["type"], hook=found["hook"], priority=priority, policy=found["policy"] or "accept"
        )

    def priority(self, text: str, family: str, line: str) -> int:
        found = _PRIORITY.match(text.strip())
        names = _BRIDGE_PRIORITIES if family == "bridge" else _PRIORITIES
        if found is None or not text.strip() or (found["name"] and found["name"] not in names):
            raise self.error(f"priority {text} is not known here", line)
        number = int(found["number"] or 0)
        return names.get(found["name"] or "", 0) + (-number if found["sign"] == "-" else number)

    def set(self, name: str, what: str, *, is_map: bool) -> NftSet:
        types: tuple[str, ...] = ()
        elements: list[Element] = []
        timeout: int | None = None
        flags: set[str] = set()
        while (line := self.inside(what)) != "}":
            word, _, rest = line.rstrip(";").partition(" ")
            if line.startswith("elements = {"):
                begun = self.number
                parts = [line]
                depth = _open_braces(line)
                while depth > 0:
                    parts.append(self.inside(what))
                    depth += _open_braces(parts[-1])
                try:
                    words = _Words(_split(" ".join(parts)[len("elements = ") :]))
                    elements = list(_elements(words).elements)
                    if not words.ended or depth < 0:
                        raise _NotUnderstoodError("something behind the elements")
                except (_NotUnderstoodError, ValueError, RecursionError) as error:
                    raise ParseError(f"elements of {what} that nft would not print: {error}", begun, line) from error
            elif word in ("type", "typeof"):
                types = tuple(part.strip() for part in rest.partition(" : ")[0].split(" . "))
            elif word == "flags":
                flags = {flag.strip() for flag in rest.split(",")}
            elif word == "timeout":
                timeout = _seconds(rest)
                if timeout is None:
                    raise self.error("a timeout that nft would not print", line)
            elif not line.startswith(_SET_LINES) and word not in ("auto-merge", "counter", "limit", "quota", "last", "ct"):
                raise self.error("not what nft would print in a set", line)
        return NftSet(
            name=name, elements=tuple(elements), types=types, is_map=is_map, timeout=timeout,
            runtime=timeout is not None or bool(flags & {"timeout", "dynamic"}),
        )  # fmt: skip


def _open_braces(line: str) -> int:
    """How many braces a line opens more than it closes, outside quotes."""
    if '"' in line:
        line = re.sub(r'"[^"]*"', "", line)
    return line.count("{") - line.count("}")


_DURATION = re.compile(r"(\d+)(ms|w|d|h|m|s)")
_UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _seconds(text: str) -> int | None:
    """`3h`, `1d2h3m`, `10s500ms` in whole seconds; None for anything else."""
    found = _DURATION.findall(text)
    if not found or "".join(n + unit for n, unit in found) != text:
        return None
    return int(sum(int(n) * _UNITS[unit] for n, unit in found))


# ---- words ----------------------------------------------------------------------------------------------------------------


class _NotUnderstoodError(Exception):
    """What is read here is not what this reader knows."""


class _Quoted(str):
    """A word that stood in quotes: never a keyword or a number, whatever it looks like."""

    __slots__ = ()


_WORD = re.compile(r'"([^"]*)"|([{},;()])|([^\s{},;()"]+)')


def _split(text: str) -> list[str]:
    words: list[str] = []
    for found in _WORD.finditer(text):
        quoted, mark, plain = found.groups()
        words.append(_Quoted(quoted) if quoted is not None else mark or plain)
    if text.count('"') % 2:
        raise _NotUnderstoodError("a quote that is not closed")
    return words


class _Words:
    """The words of a rule, taken one at a time."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.at = 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.words)

    def peek(self, ahead: int = 0) -> str:
        """The next word without taking it; empty at the end and for a quoted one."""
        position = self.at + ahead
        if position >= len(self.words) or isinstance(self.words[position], _Quoted):
            return ""
        return self.words[position]

    def take(self) -> str:
        if self.ended:
            raise _NotUnderstoodError("the rule stops early")
        self.at += 1
        return self.words[self.at - 1]

    def accept(self, *wanted: str) -> str:
        """Take the next word if it is one of these; else empty."""
        if self.peek() and self.peek() in wanted:
            return self.take()
        return ""

    def expect(self, wanted: str) -> None:
        if self.take() != wanted:
            raise _NotUnderstoodError(f"{wanted} is missing")

    def number(self) -> int:
        word = self.take()
        if not word.isdigit():
            raise _NotUnderstoodError(f"{word} is no number")
        return int(word)

    def rest(self, start: int) -> str:
        return " ".join(f'"{w}"' if isinstance(w, _Quoted) else w for w in self.words[start:])


# ---- statements -----------------------------------------------------------------------------------------------------------


def read_line(raw: str) -> tuple[tuple[Statement, ...], str]:
    """The statements and the comment of a rule's line."""
    try:
        words = _Words(_split(_HANDLE.sub("", raw)))
    except _NotUnderstoodError:
        return (Unknown(raw),), ""
    found: list[Statement] = []
    comment = ""
    while not words.ended:
        start = words.at
        if words.peek() == "comment" and start + 2 == len(words.words):
            comment = words.words[start + 1]
            break
        try:
            found.append(_statement(words))
        except (_NotUnderstoodError, ValueError, RecursionError):
            # The last two: a number of thousands of digits, and brackets deeper than Python goes. nft prints neither.
            found.append(Unknown(words.rest(start)))
            break
    return tuple(found), comment


def _statement(words: _Words) -> Statement:
    first = words.peek()
    if first in VERDICTS:
        return Decide(words.take())
    if first in ("jump", "goto"):
        return Decide(words.take(), words.take())
    reader = _STATEMENTS.get(first)
    if reader is not None:
        return reader(words)
    if first in ("add", "update", "delete") and words.peek(1).startswith("@"):
        return _update(words)
    if first == "ct" and words.peek(1) == "count":
        words.take()
        words.take()
        words.accept("over")
        words.number()
        return Limit("ct count")
    left = _expression(words)
    if words.accept("vmap"):
        return VerdictMap(left, _map_data(words))
    if words.accept("set"):
        return Assign(left, _assigned(words))
    return _relation(words, left)


_COMPARISONS = ("==", "!=", "<", ">", "<=", ">=")


def _relation(words: _Words, left: Expression) -> Statement:
    op = words.accept(*_COMPARISONS)
    explicit = bool(op)
    right: Expression
    if words.peek() == "{":
        right = _elements(words)
    elif words.peek().startswith("@"):
        right = SetRef(words.take()[1:])
    elif words.peek() in ("meta", "ct") and words.peek(1) == "mark":
        right = _expression(words)
    else:
        right = _values(words)
    if words.accept("/"):
        # `tcp flags syn / fin,syn`: the flags behind the slash are looked at, and only those before it set.
        return Match(op or "==", Binary("&", (left, _flags(words))), right)
    if not explicit:
        op = "in" if _has_bits(left) and not isinstance(right, SetOf | SetRef) else "=="
    return Match(op, left, right)


def _has_bits(left: Expression) -> bool:
    """Types of which an operator left out asks for any of the bits named (src/datatype.c, bitmask types)."""
    return (isinstance(left, Ct) and left.key in ("state", "status", "event", "label")) or left == Payload("tcp", "flags")


def _flags(words: _Words) -> Flags:
    found = _values(words)
    if isinstance(found, Flags):
        return found
    if isinstance(found, int | str):
        return Flags((found,))
    raise _NotUnderstoodError("flags")


def _values(words: _Words) -> Expression:
    """What stands on the right of a comparison: a value, names with commas, or values with dots between them."""
    parts: list[Expression] = [_value(words)]
    while words.accept("."):
        parts.append(_value(words))
    if len(parts) > 1:
        return Concat(tuple(parts))
    first = parts[0]
    if words.peek() != ",":
        return first
    names: list[Scalar] = []
    while True:
        if not isinstance(first, int | str):
            raise _NotUnderstoodError("a list of something else than names")
        names.append(first)
        if not words.accept(","):
            return Flags(tuple(names))
        first = _value(words)


def _assigned(words: _Words) -> Expression:
    if words.peek() in _STARTS or words.peek() in _BARE_META:
        found = _expression(words)
        return MapOf(found, _map_data(words)) if words.accept("map") else found
    return _values(words)


def _map_data(words: _Words) -> SetRef | SetOf:
    if words.peek().startswith("@"):
        return SetRef(words.take()[1:])
    if words.peek() == "{":
        return _elements(words)
    raise _NotUnderstoodError("a map is missing")


def _counter(words: _Words) -> Statement:
    words.take()
    if words.accept("name"):
        return Aside(f'counter name "{words.take()}"')
    if words.accept("packets"):
        words.number()
        words.expect("bytes")
        words.number()
    return Aside("counter")


def _log(words: _Words) -> Statement:
    words.take()
    while option := words.accept("prefix", "level", "group", "snaplen", "queue-threshold", "flags"):
        if option == "flags" and words.peek() in ("tcp", "ip"):
            words.take()
        words.take()
        while option == "flags" and words.accept(","):
            words.take()
    return Aside("log")


def _last(words: _Words) -> Statement:
    words.take()
    if words.accept("used"):
        words.take()
    return Aside("last")


def _limit(words: _Words) -> Statement:
    words.take()
    if words.accept("name"):
        return Limit(f'limit name "{words.take()}"')
    words.expect("rate")
    words.accept("over")
    rate = words.take()
    if "/" not in rate and "/" not in words.take():
        raise _NotUnderstoodError("a rate without its unit of time")
    if words.accept("burst"):
        words.number()
        words.take()
    return Limit("limit")


def _quota(words: _Words) -> Statement:
    words.take()
    if words.accept("name"):
        return Limit(f'quota name "{words.take()}"')
    words.accept("over", "until")
    words.number()
    words.take()
    if words.accept("used"):
        words.number()
        words.take()
    return Limit("quota")


def _reject(words: _Words) -> Statement:
    words.take()
    if not words.accept("with"):
        return Reject()
    kind = words.take()
    words.accept("type")
    reason = f"{kind} {words.take()}"
    return Reject("" if reason in DEFAULT_REJECTS else reason)


def _notrack(words: _Words) -> Statement:
    words.take()
    return Notrack()


def _update(words: _Words) -> Statement:
    op, name = words.take(), words.take()[1:]
    words.expect("{")
    key = _expression(words)
    timeout: int | None = None
    limited = False
    while not words.accept("}"):
        word = words.take()
        if word == ":":
            raise _NotUnderstoodError("an element of a map")
        if word == "timeout":
            timeout = _seconds(words.take())
        elif word in ("comment", "expires"):
            words.take()
        elif word == "counter":
            words.at -= 1
            _counter(words)
        elif word in ("limit", "quota", "ct"):
            limited = True
        elif not limited:
            raise _NotUnderstoodError(word)
    return Update(op, name, key, timeout, limited)


_NAT_FLAGS = ("random", "fully-random", "persistent", "netmap")
_SOCKET = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>\d+\.\d+\.\d+\.\d+(?:-\d+\.\d+\.\d+\.\d+)?))?:(?P<port>\d+(?:-\d+)?)\Z"
)


def _nat(words: _Words) -> Statement:
    kind = words.take()
    family = words.accept("ip", "ip6")
    flags: list[str] = []
    if mode := words.accept("prefix", "interval"):
        flags.append(mode)
    if words.peek() == "addr" and words.peek(1) == "." and words.peek(2) == "port":
        words.at += 3  # newer releases say so where a map gives both
    address: Expression | None = None
    port: Expression | None = None
    if words.accept("to"):
        found = _SOCKET.match(words.peek())
        if found:
            words.take()
            port = _plain(found["port"])
            if found["six"] or found["four"]:
                address = _plain(found["six"] or found["four"])
        else:
            starts = words.peek() in _STARTS or words.peek() in _BARE_META
            address = _expression(words) if starts else _values(words)
            if words.accept("map"):
                address = MapOf(address, _map_data(words))
            if words.peek().startswith(":") and words.peek()[1:].isdigit():
                port = int(words.take()[1:])
    while words.peek() in _NAT_FLAGS:
        flags.append(words.take())
        words.accept(",")
    if "prefix" in flags and "netmap" not in flags:
        flags.append("netmap")
    return Nat(kind, family, address, port, tuple(flags))


_STATEMENTS: dict[str, Callable[[_Words], Statement]] = {
    "counter": _counter, "log": _log, "last": _last, "limit": _limit, "quota": _quota, "reject": _reject, "notrack": _notrack,
    **dict.fromkeys(NAT_KINDS, _nat),
}  # fmt: skip


# ---- expressions ----------------------------------------------------------------------------------------------------------

_PROTOCOLS = frozenset(
    ("ip", "ip6", "tcp", "udp", "sctp", "th", "udplite", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp", "ether", "vlan",
     "arp", "gre", "geneve", "vxlan")
)  # fmt: skip
_BARE_META = frozenset(
    ("iif", "iifname", "iiftype", "iifgroup", "oif", "oifname", "oiftype", "oifgroup", "mark", "skuid", "skgid", "nftrace",
     "rtclassid", "ibrname", "obrname", "pkttype", "cpu", "cgroup")
)  # fmt: skip
_OPAQUE_STARTS = frozenset(("socket", "rt", "osf", "ipsec", "exthdr", "frag", "hbh", "dst", "mh", "srh"))
_STARTS = frozenset((*_PROTOCOLS, *_OPAQUE_STARTS, "meta", "ct", "fib", "numgen", "jhash", "symhash", "("))
_OPERATORS = {"&": "&", "and": "&", "|": "|", "or": "|", "^": "^", "xor": "^", "<<": "<<", ">>": ">>"}


def _expression(words: _Words) -> Expression:
    """Something of the packet, or several with dots between them, and what is made of it."""
    parts = [_primary(words)]
    while words.accept("."):
        parts.append(_primary(words))
    found: Expression = parts[0] if len(parts) == 1 else Concat(tuple(parts))
    while op := words.accept(*_OPERATORS):
        found = _combine(_OPERATORS[op], found, _operand(words))
    return found


def _operand(words: _Words) -> Expression:
    if words.peek() in _STARTS:
        return _primary(words)
    value = _value(words)
    return _list_of(value, words)


def _list_of(value: Value, words: _Words) -> Expression:
    if words.peek() != "," or not isinstance(value, int | str):
        return value
    names: list[Scalar] = [value]
    while words.accept(","):
        more = _value(words)
        if not isinstance(more, int | str):
            raise _NotUnderstoodError("a list of something else than names")
        names.append(more)
    return Flags(tuple(names))


def _combine(op: str, left: Expression, right: Expression) -> Expression:
    if op == "|" and isinstance(left, int | str | Flags) and isinstance(right, int | str | Flags):
        names = [n for p in (left, right) for n in (p.names if isinstance(p, Flags) else (p,))]
        return Flags(tuple(names))
    return Binary(op, (left, right))


def _primary(words: _Words) -> Expression:
    word = words.peek()
    if word == "(":
        words.take()
        found: Expression = _operand(words)
        while op := words.accept(*_OPERATORS):
            found = _combine(_OPERATORS[op], found, _operand(words))
        words.expect(")")
        return found
    if word == "meta":
        words.take()
        return Meta(words.take())
    if word in _BARE_META:
        return Meta(words.take())
    if word == "ct":
        return _ct(words)
    if word == "fib":
        words.take()
        flags = [words.take()]
        while words.accept("."):
            flags.append(words.take())
        result = words.accept("type", "oif", "oifname", "check")
        if not result:
            raise _NotUnderstoodError("fib without a question")
        return Fib(tuple(flags), result)
    if word == "numgen":
        words.take()
        mode = words.take()
        words.expect("mod")
        mod = words.number()
        return Numgen(mode, mod, words.number() if words.accept("offset") else 0)
    if word in ("jhash", "symhash"):
        return _hash(words)
    if word == "@th" and words.peek(1) == ",":
        words.take()
        words.expect(",")
        offset = words.number()
        words.expect(",")
        name = {(0, 16): "sport", (16, 16): "dport"}.get((offset, words.number()))
        if name is None:
            raise _NotUnderstoodError("a place in a header")
        return Payload("th", name)
    if word == "tcp" and words.peek(1) == "option":
        words.at += 2
        name = words.take()
        field = words.take() if words.peek() in ("size", "left", "right", "count", "length", "kind") else ""
        return Opaque(f"tcp option {name} {field}".rstrip())
    if word in _PROTOCOLS:
        words.take()
        return Payload(word, words.take())
    if word in _OPAQUE_STARTS:
        words.take()
        return Opaque(f"{word} {words.take()}")
    raise _NotUnderstoodError(f"{word or 'a text'} where something of the packet should stand")


def _ct(words: _Words) -> Expression:
    words.take()
    direction = words.accept("original", "reply")
    family = words.accept("ip", "ip6") if direction else ""
    key = words.take()
    return Ct(f"{family} {key}" if family else key, direction)


def _hash(words: _Words) -> Expression:
    kind = words.take()
    of = f" {render_value(_expression(words))}" if kind == "jhash" else ""
    words.expect("mod")
    mod = words.number()
    seed = f" seed {words.take()}" if words.accept("seed") else ""
    offset = words.number() if words.accept("offset") else 0
    return Hash(f"{kind}{of} mod {mod}{seed}" + (f" offset {offset}" if offset else ""), mod, offset)


# ---- values ---------------------------------------------------------------------------------------------------------------

_V4 = r"\d+\.\d+\.\d+\.\d+"
_V6 = r"(?:[0-9a-fA-F]*:){2,7}(?:[0-9a-fA-F]*|" + _V4 + ")"
_NUMBER = re.compile(r"(?:0x[0-9a-fA-F]+|\d+)\Z")
_PREFIX = re.compile(rf"({_V4}|{_V6})/(\d+)\Z")
_RANGE = re.compile(rf"({_V4}|{_V6}|0x[0-9a-fA-F]+|\d+)-({_V4}|{_V6}|0x[0-9a-fA-F]+|\d+)\Z")
_PUNCTUATION = frozenset("{},;():./") | {"."}


def _value(words: _Words) -> Value:
    word = words.take()
    if isinstance(word, _Quoted):
        return str(word)
    if word in _PUNCTUATION or word in _COMPARISONS:
        raise _NotUnderstoodError(f"{word} where a value should stand")
    return _plain(word)


def _plain(word: str) -> Value:
    if _NUMBER.match(word):
        return int(word, 0) if word.startswith("0x") else int(word)
    if found := _PREFIX.match(word):
        return Prefix(found[1], int(found[2]))
    if found := _RANGE.match(word):
        return Range(_scalar(found[1]), _scalar(found[2]))
    if word in ("exists", "missing"):
        return word == "exists"
    if "|" in word.strip("|"):
        return Flags(tuple(word.split("|")))  # `(fin|syn)`, as some releases print it
    return word


def _scalar(word: str) -> Scalar:
    return int(word, 0 if word.startswith("0x") else 10) if _NUMBER.match(word) else word


def _elements(words: _Words) -> SetOf:
    """`{ 10.96.0.1 . tcp . 443 comment "..." : goto service-..., ... }`."""
    words.expect("{")
    found: list[Element] = []
    while not words.accept("}"):
        key = [_value(words)]
        while words.accept("."):
            key.append(_value(words))
        comment = ""
        data: Decide | tuple[Value, ...] | None = None
        while not words.ended and words.peek() not in (",", "}", ":"):
            option = words.take()
            if option == "comment":
                comment = str(words.take())
            elif option in ("timeout", "expires"):
                words.take()
            elif option in ("counter", "limit", "quota", "last"):
                words.at -= 1
                _STATEMENTS[option](words)
            else:
                raise _NotUnderstoodError(f"{option} behind an element")
        if words.accept(":"):
            if words.peek() in VERDICTS:
                data = Decide(words.take())
            elif words.peek() in ("jump", "goto"):
                data = Decide(words.take(), words.take())
            else:
                parts = [_value(words)]
                while words.accept("."):
                    parts.append(_value(words))
                data = tuple(parts)
        found.append(Element(tuple(key), data, comment))
        if not words.accept(",") and words.peek() != "}":
            raise _NotUnderstoodError("a comma is missing")
    return SetOf(tuple(found))
