"""An nftables ruleset: tables, chains, sets, and rules as lists of statements.

`nft -j` and plain `nft list` print the same things in two ways, and both are read into these types, so that what walks
them need not know which it was. Rules stay as they were printed until somebody asks for their statements: on a large
node most are never walked. `Rule.text` is how nft itself would print the rule, for people to read.

What only labels (handles, counters' values, comments of tables, chains and sets) is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .fast_dataclass import dataclass, field

Scalar = int | str


@dataclass(frozen=True, slots=True)
class Prefix:
    """`10.244.0.0/16`."""

    address: str
    length: int


@dataclass(frozen=True, slots=True)
class Range:
    """`10.0.0.1-10.0.0.9`, `1000-2000`; both ends belong to it."""

    low: Scalar
    high: Scalar


@dataclass(frozen=True, slots=True)
class Flags:
    """`established,related`: names of bits, any or all of which are asked for."""

    names: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """An expression that is not understood, as it was printed."""

    text: str


Value = Scalar | Prefix | Range | Flags | Opaque
"""What can stand in a set, or on the right of a comparison. The text `*` in a set is its catch-all element."""


@dataclass(frozen=True, slots=True)
class Payload:
    """`ip daddr`, `th dport`: a field of a header. It holds only for packets that have that header."""

    protocol: str
    field: str


@dataclass(frozen=True, slots=True)
class Meta:
    """`meta mark`, `iifname`."""

    key: str


@dataclass(frozen=True, slots=True)
class Ct:
    """`ct state`, `ct original ip daddr`."""

    key: str
    direction: str = ""


@dataclass(frozen=True, slots=True)
class Fib:
    """`fib daddr type`: what the routing table says."""

    flags: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Numgen:
    """`numgen random mod 3 offset 0`: a number from `offset` on, below `offset + mod`."""

    mode: str
    mod: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Hash:
    """`jhash ip saddr mod 2`: a number that the packet itself decides."""

    text: str
    mod: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Concat:
    """`ip daddr . meta l4proto . th dport`."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Binary:
    """`meta mark & 0x4000`; `op` is &, |, ^, << or >>, over all parts from left to right."""

    op: str
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class SetRef:
    """`@service-ips`: a named set or map of the same table."""

    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set (`data` None) or a map."""

    key: tuple[Value, ...]
    """One value for each part of a concatenation."""
    data: Decide | tuple[Value, ...] | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class SetOf:
    """`{ 80, 443 }`: a set or map without a name."""

    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    """`numgen random mod 2 map { 0 : 10.0.0.1 . 80, ... }`: what a map gives for a key."""

    key: Expression
    data: SetRef | SetOf


Expression = (
    int
    | str
    | Prefix
    | Range
    | Flags
    | Opaque
    | Payload
    | Meta
    | Ct
    | Fib
    | Numgen
    | Hash
    | Concat
    | Binary
    | SetRef
    | SetOf
    | MapOf
)


@dataclass(frozen=True, slots=True)
class Match:
    """`ip daddr 10.96.0.1`. `op` is ==, !=, <, >, <=, >=, or `in`: any of the bits named (`ct state new`)."""

    op: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Decide:
    """accept, drop, continue, return; jump and goto with the chain that they lead to."""

    kind: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """`... vmap @service-ips`: a verdict looked up."""

    key: Expression
    data: SetRef | SetOf


@dataclass(frozen=True, slots=True)
class Assign:
    """`meta mark set meta mark | 0x4000`."""

    key: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Nat:
    """dnat, snat, masquerade or redirect."""

    kind: str
    family: str = ""
    """`ip` or `ip6` where it is said."""
    address: Expression | None = None
    """An address, a concatenation of address and port, or a map that gives one of these."""
    port: Expression | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """`reject`, `reject with tcp reset`."""

    reason: str = ""
    """Empty for the default, port unreachable."""


@dataclass(frozen=True, slots=True)
class Update:
    """`update @affinity-X { ip saddr }`: the packet itself changes a set."""

    op: str
    """add, update or delete."""
    set: str
    key: Expression
    timeout: int | None = None
    """Seconds, where the element is given its own."""
    limited: bool = False
    """It also asks for a rate, a quota or a count, and matches only while that lasts."""


@dataclass(frozen=True, slots=True)
class Notrack:
    """`notrack`: the connection is not tracked, so NAT passes it over."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A statement that does nothing to the packet's way: counter, log."""

    text: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A statement that matches as long as something lasts: limit, quota, ct count."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A statement that is not understood, as it was printed; in the text form with all that follows it in the rule."""

    text: str


Statement = Match | Decide | VerdictMap | Assign | Nat | Reject | Update | Notrack | Aside | Limit | Unknown

Reader = Callable[[str], tuple[tuple[Statement, ...], str]]
"""Printed rule -> (statements, comment). Never raises: what it does not understand becomes `Unknown`."""


class Rule:
    """One rule, understood when it is first asked for."""

    __slots__ = ("_comment", "_read", "_statements", "raw")

    def __init__(self, raw: str, read: Reader) -> None:
        self.raw = raw
        """As it was printed: a line, or a JSON object."""
        self._read = read
        self._statements: tuple[Statement, ...] | None = None
        self._comment = ""

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What it says, in order."""
        if self._statements is None:
            self._statements, self._comment = self._read(self.raw)
        return self._statements

    @property
    def comment(self) -> str:
        """The comment at its end; it says nothing to the kernel."""
        if self._statements is None:
            self._statements, self._comment = self._read(self.raw)
        return self._comment

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The rule as nft prints it."""
        return render(self.statements, self.comment)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return self.statements == other.statements and self.comment == other.comment

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Rule({self.text!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NftSet:
    """A named set or map. What two are compared by is all but order, what traffic fills, and what releases print differently."""

    name: str
    elements: Sequence[Element]
    """In the order printed, which is the kernel's own and means nothing."""
    types: tuple[str, ...] = ()
    """`ipv4_addr`, `inet_service`, ...: one for each part of the key. Some releases print expressions instead."""
    is_map: bool = False
    timeout: int | None = None
    """Seconds that an element stays, where the set says so."""
    runtime: bool = False
    """Its elements come and go with traffic. nft 1.0.6 leaves the flag `dynamic` out of its JSON."""

    @property
    def make(self) -> tuple[bool, int | None, bool]:
        """What it is, beside what is in it."""
        return self.is_map, self.timeout, self.runtime

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NftSet):
            return NotImplemented
        if (self.name, self.is_map, self.timeout) != (other.name, other.is_map, other.timeout):
            return False
        mine, theirs = (frozenset(() if it.runtime else it.elements) for it in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class NftChain:
    """A chain; a base chain has a hook."""

    name: str
    rules: list[Rule]
    type: str = ""
    """filter, nat or route; empty for a chain that is only jumped to."""
    hook: str = ""
    """prerouting, input, forward, output, postrouting, ingress, egress."""
    priority: int = 0
    policy: str = ""
    """accept or drop, of a base chain."""


class LazyChains(Mapping[str, NftChain]):
    """The chains of a large table: their rules are understood when a chain is asked for."""

    __slots__ = ("_made", "_rules", "based", "printed")

    def __init__(
        self, printed: Mapping[str, list[bytes]], rules: Callable[[str], list[Rule]], based: dict[str, NftChain]
    ) -> None:
        """`based`: the base chains, ready; the rules of all others are what `rules` makes of a name."""
        self.printed = printed
        """The list of statements of each rule, as JSON."""
        self._rules = rules
        self._made = dict(based)
        self.based = based

    def __getitem__(self, name: str) -> NftChain:
        made = self._made.get(name)
        if made is None:
            if name not in self.printed:
                raise KeyError(name)
            made = self._made[name] = NftChain(name=name, rules=self._rules(name))
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.printed)

    def __len__(self) -> int:
        return len(self.printed)

    def __contains__(self, name: object) -> bool:
        return name in self.printed

    def differing(self, other: LazyChains) -> set[str]:
        """The chains that one of both lacks, or whose rules were printed in another way."""
        mine, its = self.printed, other.printed
        found = mine.keys() ^ its.keys()
        found.update(name for name, rules in mine.items() if its.get(name, rules) != rules)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NftTable:
    """A table."""

    family: str
    """ip, ip6, inet, arp, bridge or netdev."""
    name: str
    chains: Mapping[str, NftChain]
    sets: dict[str, NftSet]
    """Sets and maps: they share their names."""
    dormant: bool = False
    """Its chains are not hooked in at all."""

    @property
    def based(self) -> list[NftChain]:
        """Its base chains, in the order printed."""
        if isinstance(self.chains, LazyChains):
            return list(self.chains.based.values())
        return [chain for chain in self.chains.values() if chain.hook]

    @property
    def label(self) -> str:
        """`ip kube-proxy`."""
        return f"{self.family} {self.name}"


TableKey = tuple[str, str]
"""(family, name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NftRules:
    """What `nft list` printed of one node."""

    tables: Mapping[TableKey, NftTable]
    """In the order printed, which is the order in which they were made."""
    source: str = field(default="", compare=False)
    """The file it was parsed from, for messages."""


# ---- as nft prints it ---------------------------------------------------------------------------------------------------

_HEX = {"mark", "nfmark", "ctmark"}
_BARE_META = {"iif", "iifname", "iiftype", "iifgroup", "oif", "oifname", "oiftype", "oifgroup"}
_QUOTED_META = {"iif", "iifname", "oif", "oifname", "ibrname", "obrname", "sdifname"}


def _is_mark(like: Expression | None) -> bool:
    match like:
        case Meta(key="mark") | Ct(key="mark"):
            return True
        case Binary(parts=parts):
            return any(_is_mark(part) for part in parts)
    return False


def _is_name(like: Expression | None) -> bool:
    return isinstance(like, Meta) and like.key in _QUOTED_META


def render_value(value: Expression, like: Expression | None = None) -> str:
    """A value; `like` is what it is compared with or given to, which decides how nft spells it."""
    match value:
        case bool():
            return "exists" if value else "missing"
        case int():
            return f"0x{value:08x}" if _is_mark(like) else str(value)
        case str():
            return f'"{value}"' if _is_name(like) and value != "*" else value
        case Prefix(address=address, length=length):
            return f"{address}/{length}"
        case Range(low=low, high=high):
            return f"{render_value(low, like)}-{render_value(high, like)}"
        case Flags(names=names):
            return ",".join(render_value(name, like) for name in names)
        case Opaque(text=text):
            return text
        case Payload(protocol=protocol, field=name):
            return f"{protocol} {name}"
        case Meta(key=key):
            return key if key in _BARE_META else f"meta {key}"
        case Ct(key=key, direction=direction):
            return f"ct {direction} {key}" if direction else f"ct {key}"
        case Fib(flags=flags, result=result):
            return f"fib {' . '.join(flags)} {result}"
        case Numgen(mode=mode, mod=mod, offset=offset):
            return f"numgen {mode} mod {mod}" + (f" offset {offset}" if offset else "")
        case Hash(text=text):
            return text
        case Concat(parts=parts):
            return " . ".join(render_value(part, _part(like, n)) for n, part in enumerate(parts))
        case Binary(op=op, parts=parts):
            return f" {op} ".join(
                f"({render_value(p, value)})" if isinstance(p, Binary) and p.op != op and n else render_value(p, value)
                for n, p in enumerate(parts)
            )
        case SetRef(name=name):
            return f"@{name}"
        case SetOf(elements=elements):
            return "{ " + ", ".join(render_element(e, like) for e in elements) + " }"
        case MapOf(key=key, data=data):
            return f"{render_value(key)} map {render_value(data, key)}"


def _part(like: Expression | None, number: int) -> Expression | None:
    if isinstance(like, Concat):
        return like.parts[number] if number < len(like.parts) else None
    return like


def render_element(element: Element, like: Expression | None = None) -> str:
    """`10.96.0.1 . tcp . 443 : goto service-...`."""
    text = " . ".join(render_value(value, _part(like, n)) for n, value in enumerate(element.key))
    if element.comment:
        text += f' comment "{element.comment}"'
    if element.data is None:
        return text
    return f"{text} : {render_data(element.data)}"


def render_data(data: Decide | tuple[Value, ...]) -> str:
    """What a map's element leads to."""
    return render_statement(data) if isinstance(data, Decide) else " . ".join(render_value(value) for value in data)


def render_statement(statement: Statement, *, deciding: str = "") -> str:
    """One statement. `deciding` replaces the elements of its map: the ones that decided."""
    match statement:
        case Match(op=op, left=left, right=right):
            shown = "" if op == "in" or (op == "==" and not isinstance(left, Binary)) else f"{op} "
            return f"{render_value(left)} {shown}{render_value(right, left)}"
        case Decide(kind=kind, target=target):
            return f"{kind} {target}" if target else kind
        case VerdictMap(key=key, data=data):
            return f"{render_value(key)} vmap {_elements(data, key, deciding)}"
        case Assign(key=key, value=value):
            if deciding and isinstance(value, MapOf):
                return f"{render_value(key)} set {render_value(value.key)} map {_elements(value.data, value.key, deciding)}"
            return f"{render_value(key)} set {render_value(value, key)}"
        case Nat():
            return _render_nat(statement, deciding)
        case Reject(reason=reason):
            return f"reject with {reason}" if reason else "reject"
        case Update(op=op, set=name, key=key, timeout=timeout, limited=limited):
            more = (f" timeout {timeout}s" if timeout is not None else "") + (" ..." if limited else "")
            return f"{op} @{name} {{ {render_value(key)}{more} }}"
        case Notrack():
            return "notrack"
        case Aside(text=text) | Limit(text=text) | Unknown(text=text):
            return text


def _elements(data: SetRef | SetOf, like: Expression, deciding: str) -> str:
    if not deciding:
        return render_value(data, like)
    return f"@{data.name} {{ {deciding} }}" if isinstance(data, SetRef) else f"{{ {deciding} }}"


def _render_nat(nat: Nat, deciding: str) -> str:
    words = nat.kind
    if nat.family:
        words += f" {nat.family}"
    if nat.address is not None:
        if deciding and isinstance(nat.address, MapOf):
            address = f"{render_value(nat.address.key)} map {_elements(nat.address.data, nat.address.key, deciding)}"
        else:
            address = render_value(nat.address)
            if nat.port is not None and ":" in address:
                address = f"[{address}]"
        words += f" to {address}"
    elif nat.port is not None:
        words += " to "
    if nat.port is not None:
        words += f":{render_value(nat.port)}"
    return f"{words} {','.join(nat.flags)}" if nat.flags else words


def render(statements: Iterable[Statement], comment: str = "") -> str:
    """A rule as nft prints it."""
    text = " ".join(render_statement(statement) for statement in statements)
    return f'{text} comment "{comment}"' if comment else text
