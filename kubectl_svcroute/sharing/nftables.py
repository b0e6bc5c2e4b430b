"""Services whose nftables rules are the same but for names and addresses are walked once.

The idea, and what makes it safe, is that of `twins.py`; what differs is what belongs to a Service. Its cone is the elements
that lead from its addresses and ports to its chains, and these chains with all that they lead to, as nft printed them
(`nft -j`; what was only printed as text is walked). Beside the cone, two Services must have in common which of their
addresses are in `cluster-ips`, which of their endpoints are in `hairpin-connections`, and the make of their affinity sets.

Every other rule is weighed (`cells.py`). It may look packets up in these maps and sets by the keys that kube-proxy uses; it
may ask for networks, ports, marks, interfaces and states. An element of any other set or map pins or divides the addresses
and ports that it names. A rule that asks for anything else turns this off, and every Service is walked.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, cast

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
    LazyChains,
    Match,
    Meta,
    Nat,
    NftRules,
    NftTable,
    Payload,
    Prefix,
    Range,
    Reject,
    Scalar,
    SetOf,
    SetRef,
    Statement,
    Value,
    VerdictMap,
)
from ..model.nft_elements import ADDRESS4, ADDRESS6, NUMBER, PROTOCOL, Key, PlainElements
from ..model.ranges import Ranges, contains, network, number, single
from ..model.ruleset import IptablesRules
from ..observe.nft_match import address_ranges, calculable
from .cells import Cells
from .iptables import Ask, Cone, Template, cells_of

_OWN = ("service-", "local-", "external-", "endpoint-", "firewall-")
_FIXED = frozenset(("firewall-check", "service-endpoints-check"))
_EXPRESSIONS = '"expr": ['
_PREFIX = re.compile(r'\{"prefix": \{"addr": "([^"]*)", "len": (\d+)\}\}')
_LITERAL = re.compile(r'"[0-9a-f]*[:.][0-9a-f:.]*"|"right": [1-9{\[]|"port": [^%]|"range"|"prefix"|"set": \["')
_JUMPS = re.compile(r'\{"(?:goto|jump)": \{"target": "([^"\\]*)"\}\}')
_SETS = re.compile(r'"@([^"\\]*)"')
_DESTINATION = re.compile(r'(?:\{"concat": \[|"addr": )("([0-9a-f.:]+)", (?:"port": )?(\d+))')
_WORD = re.compile(r'"[^"\\]*"(?:, (?:"port": )?\d+)?|(?<="right": )\d+')
_decode = json.JSONDecoder().raw_decode
_SERVICE_KEY = ("daddr", "l4proto", "dport")
_PORT_KEY = ("l4proto", "dport")
_HAIRPIN_KEY = ("saddr", "daddr", "l4proto", "dport")


class NftTwins:
    """The Services of one node and family that need no walk of their own."""

    def __init__(
        self, rules: NftRules, table: NftTable | None, others: Sequence[IptablesRules], *, cells: Sequence[Ranges], local: Ranges
    ) -> None:
        self.cells = Cells((*cells, local))
        self._local = local
        self.models = NftModels(self.cells)
        self._table = table
        self._services: Mapping[Key, Sequence[int]] = {}
        self._service_verdicts: Verdicts = ()
        self._node_ports: Mapping[Key, Sequence[int]] = {}
        self._node_port_verdicts: Verdicts = ()
        self.hairpins = Hairpins((), six=False)
        self._cluster_ips: Container[Key] = ()
        self._at_node = False
        try:
            self.usable = table is not None and self._read(rules, table, others, local) and self.cells.few
        except (IndexError, ValueError):
            self.usable = False  # a rule that iptables or nft would not print: whoever walks it says so

    # ---- the rest of the rules ------------------------------------------------------------------------------------------

    def _read(self, rules: NftRules, table: NftTable, others: Sequence[IptablesRules], local: Ranges) -> bool:
        """Index kube-proxy's maps and weigh all that is not a Service's; False when that cannot be done."""
        if not self._index(table):
            return False
        for found in rules.tables.values():
            if found.family not in (table.family, "inet"):
                continue  # another family's packets
            mine = found is table
            based = {chain.name for chain in found.based}
            for name in found.chains:
                if mine and is_own(name) and name not in based:
                    continue
                rules_ = found.chains[name].rules
                if not all(self._weigh(statement, found, mine=mine) for rule in rules_ for statement in rule.statements):
                    return False
        lines = (line for other in others for part in other.tables.values() for chain in part.chains.values() for line in chain)
        # An address of the node itself that has an entry is asked for before the node ports are.
        self._at_node = any(contains(local, number(str(address))) for address, _, _ in self._services)
        return all(self.cells.weigh(line) for line in lines)

    def _index(self, table: NftTable) -> bool:
        """Find kube-proxy's entries by their keys; False where one has another shape, or could be spelled in two ways."""
        six = table.family == "ip6"
        address = ADDRESS6 if six else ADDRESS4
        services = plain(table, "service-ips", (address, PROTOCOL, NUMBER))
        node_ports = plain(table, "service-nodeports", (PROTOCOL, NUMBER))
        hairpins = plain(table, "hairpin-connections", (address, address, PROTOCOL, NUMBER))
        cluster_ips = plain(table, "cluster-ips", (address,))
        if services is None or node_ports is None or hairpins is None or cluster_ips is None:
            return False
        self._services, self._service_verdicts = services.by((0, 1, 2)), services.verdicts or ()
        self._node_ports, self._node_port_verdicts = node_ports.by((0, 1)), node_ports.verdicts or ()
        self.hairpins = Hairpins(hairpins.keys, six=six)
        self._cluster_ips = cluster_ips.by((0,))
        return True

    def _weigh(self, statement: Statement, table: NftTable, *, mine: bool) -> bool:
        """Note what a statement asks for; False when it asks for something that cannot be weighed."""
        match statement:
            case Match(left=left, right=right, op=op):
                if isinstance(right, SetRef):
                    return self._weigh_set(left, right.name, table, mine=mine)
                if isinstance(right, SetOf):
                    return op in ("==", "!=", "in") and all(self._weigh_key(left, e.key) for e in right.elements)
                return self._weigh_match(left, op, right)
            case VerdictMap(key=key, data=data):
                if isinstance(data, SetRef):
                    return self._weigh_set(key, data.name, table, mine=mine)
                return all(self._weigh_key(key, e.key) and _stays(e.data) for e in data.elements)
            case Assign(key=key, value=value):
                return isinstance(key, Meta | Ct) and key.key == "mark" and calculable(value)
            case Nat(kind=kind):
                return kind == "masquerade"
            case Decide():
                return _stays(statement)
            case Reject() | Aside():
                return True
        return False

    def _weigh_match(self, left: Expression, op: str, right: Expression) -> bool:
        if isinstance(left, Concat):
            values = right.parts if isinstance(right, Concat) else ()
            return op == "==" and len(values) == len(left.parts) and self._weigh_all([*zip(left.parts, values, strict=True)])
        if isinstance(left, Payload) and left.field in ("saddr", "daddr", "dport"):
            if op in ("<", ">", "<=", ">="):
                # An order divides at its limit: below, the limit itself, and above are three cells.
                if not isinstance(right, int) or left.field != "dport":
                    return False
                self.cells.note_ports(0, right)
                self.cells.note_ports(right, 65535)
                return True
            return self._weigh_value(left, right)
        return _tells_nothing(left)

    def _weigh_key(self, key: Expression, values: Sequence[Value]) -> bool:
        if values == ("*",):
            return True
        pairs = _pairs(key, values)
        return bool(pairs) and self._weigh_all(pairs)

    def _weigh_all(self, pairs: Sequence[tuple[Expression, Expression]]) -> bool:
        """Weigh what has to hold at once. A packet to an address that is not the one asked for never meets the rest of it."""
        return self._pins(pairs) or all(self._weigh_match(part, "==", value) for part, value in pairs)

    def _pins(self, pairs: Sequence[tuple[Expression, Expression]]) -> bool:
        """True, and noted, if all of this is about one destination that is not the node's own, where node ports are dialled."""
        for part, value in pairs:
            if isinstance(part, Payload) and part.field == "daddr" and isinstance(value, str):
                address = number(value)
                if not contains(self._local, address):
                    self.cells.note(single(address))
                    return True
        return False

    def _weigh_value(self, part: Payload, value: Expression) -> bool:
        try:
            if part.field == "dport":
                match value:
                    case int(port):
                        self.cells.note_ports(port, port)
                    case Range(low=int(low), high=int(high)):
                        self.cells.note_ports(low, high)
                    case _:
                        return False
                return True
            if not isinstance(value, str | Prefix | Range):
                return False
            self.cells.note(address_ranges(value))
        except ValueError:
            return False
        return True

    def _weigh_set(self, key: Expression, name: str, table: NftTable, *, mine: bool) -> bool:
        """A lookup in a named set or map: those of kube-proxy's that are indexed by their own keys, all others by element."""
        named = table.sets.get(name)
        if named is None:
            return False
        if mine and name in _KNOWN and _names(key) == _KNOWN[name]:
            return True
        if named.runtime or name in _KNOWN:
            return False  # what traffic fills, or kube-proxy's maps asked in another way
        # An element about one address may lead into a Service's chain, as those of firewall-ips do: that Service is walked.
        return all(
            self._weigh_key(key, element.key) and (_stays(element.data) or self._pins(_pairs(key, element.key)))
            for element in named.elements
        )

    # ---- one Service port -----------------------------------------------------------------------------------------------

    def cone(self, ask: Ask) -> Cone | None:
        """The rules of one Service port; None when they do not have the usual build."""
        table = self._table
        if table is None:
            return None
        parts: list[str] = []
        chains: list[str] = []
        for address in ask.addresses:
            rows = self._services.get((address, ask.proto, ask.port), ())
            if not _enter(self._service_verdicts, rows, f'"{address}" ', ask.port, parts, chains):
                return None
        if ask.node_port:
            rows = self._node_ports.get((ask.proto, ask.node_port), ())
            if self._at_node or not _enter(self._node_port_verdicts, rows, "", ask.node_port, parts, chains):
                return None
        sets: list[str] = []
        if not _follow(table, chains, sets, parts, most=2 * ask.endpoints + 4):
            return None
        text = "\n".join(parts)
        found = dict.fromkeys(_DESTINATION.findall(text))
        if len(found) != ask.endpoints:
            return None
        made = []
        for name in sets:
            named = table.sets.get(name)
            if named is None or not named.runtime:
                return None  # only of the sets that traffic fills does a walk not look at the elements
            made.append((named.is_map, named.timeout))
        wholes, ips, ends = zip(*found, strict=True)
        ports = [str(ask.port)] + ([str(ask.node_port)] if ask.node_port else [])
        values = (
            *[f'"{address}"' for address in ask.addresses],
            *[f'"{name}"' for name in chains],
            *[f'"@{name}"' for name in sets],
            *([f'"{ip}"' for ip in ips] if len(chains) > 1 else ()),  # in the chains of endpoints, some versions ask for them
            *wholes,
            *ports,
        )
        if table.family == "ip6":
            destinations = [f"[{ip}]:{end}" for ip, end in zip(ips, ends, strict=True)]
        else:
            destinations = [f"{ip}:{end}" for ip, end in zip(ips, ends, strict=True)]
        known = tuple([(address,) in self._cluster_ips for address in ask.addresses])
        return Cone(text, values, len(ports), ips, destinations, (known, tuple(made)))

    def key(self, cone: Cone, ask: Ask) -> NftKey | None:
        """What two Services must have in common beside their template; None when the Service is one of a kind."""
        cells = cells_of(self.cells, cone, ask) if self.usable else None
        if cells is None:
            return None
        places = cast("Places", cells)
        kinds = self.hairpins.kinds(cone, ask.proto, ask.local, places)
        return NftKey((ask.proto, ask.kinds, ask.affinity, cone.more), places, kinds) if kinds is not None else None


Places = tuple[tuple[int, ...], tuple[int, ...], tuple[object, ...], tuple[object, ...]]
"""The cells of the addresses dialled, of the endpoints' addresses, of their ports (one for all, or one of each), and of the
ports dialled."""


class NftKey(NamedTuple):
    """What two Service ports must have in common beside their template."""

    make: object
    cells: Places
    kinds: Kinds
    """Which endpoints it has of those that are here, and of those that are in `hairpin-connections`."""


Kinds = tuple[int, ...] | frozenset[tuple[object, int]]
"""How many endpoints a port has of each kind: none, 1, or 2 for more.

A kind is where an endpoint's address and port lie, whether it is here, and whether it is in the set. No rule of a Service's own
chains can ask for the last two. So it does not matter which endpoints these are: only that a model has one, or more than one,
of each kind that the Service has, and no other kinds.
"""


def count_kinds(both: int, only_set: int, only_here: int, rest: int) -> Kinds:
    """The kinds of endpoints that all lie in one cell: here and in the set, or in one of the two, or in neither."""
    return (min(both, 2), min(only_set, 2), min(only_here, 2), min(rest, 2))


class Hairpins:
    """The connections of endpoints to themselves that `hairpin-connections` masquerades."""

    def __init__(self, keys: Iterable[Key], *, six: bool) -> None:
        self.own: dict[str, set[str]] = {}
        """Protocol -> endpoints, as address and port."""
        self.odd: dict[str, set[str]] = {}
        """The same where connections of others are masqueraded too."""
        by_protocol: dict[Scalar, list[Key]] = {}
        for key in keys:
            by_protocol.setdefault(key[2], []).append(key)
        before, after = ("[", "]:") if six else ("", ":")
        for proto, its in by_protocol.items():
            self.own[str(proto)] = {f"{before}{key[1]}{after}{key[3]}" for key in its if key[0] == key[1]}
            self.odd[str(proto)] = {f"{before}{key[1]}{after}{key[3]}" for key in its if key[0] != key[1]}

    def kinds(self, cone: Cone, proto: str, local: Collection[str], cells: Places) -> Kinds | None:
        """The kinds of endpoints that a Service port has; None where one is odd."""
        own, odd = self.own.get(proto, ()), self.odd.get(proto)
        if odd and not odd.isdisjoint(cone.destinations):
            return None
        _, ips, ports, _ = cells
        ends = cone.destinations
        if len(ips) == len(ports) == 1:
            mine = [where for where in ends if where in own]
            both = sum(where in local for where in mine) if local else 0
            here = len(local) - both  # those that are here are among the endpoints
            return count_kinds(both, len(mine) - both, here, len(ends) - len(mine) - here)
        if len(ips) == 1:
            ips *= len(ends)
        if len(ports) == 1:
            ports *= len(ends)
        count: dict[object, int] = {}
        for where, ip, port in zip(ends, ips, ports, strict=True):
            kind = (ip, port, where in local, where in own)
            count[kind] = min(count.get(kind, 0) + 1, 2)
        return frozenset(count.items())


_MOST_MODELS = 8


class NftModels:
    """Templates of Services that were walked and found right, and with which kinds of endpoints they were."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._templates: dict[object, list[tuple[Template, set[Kinds]]]] = {}
        self._made = 0

    def of(self, key: object, cone: Cone) -> str | None:
        """The template with this key that has the same rules, by its name; None when there is none."""
        found = self._find(key, cone) if isinstance(key, NftKey) else None
        return found[0].owner if found is not None and isinstance(key, NftKey) and key.kinds in found[1] else None

    def _find(self, key: NftKey, cone: Cone) -> tuple[Template, set[Kinds]] | None:
        templates = self._templates.get((key.make, key.cells, len(cone.values), cone.text.count("\n")), ())
        return next((found for found in templates if found[0].fits(cone)), None)

    def learn(self, key: object, cone: Cone, owner: str) -> None:
        """Take a port of a Service that was walked and found right as a model."""
        if not isinstance(key, NftKey):
            return
        found = self._find(key, cone)
        if found is not None:
            found[1].add(key.kinds)
            return
        templates = self._templates.setdefault((key.make, key.cells, len(cone.values), cone.text.count("\n")), [])
        if len(templates) < _MOST_MODELS and (template := _template(cone, self.cells)) is not None:
            self._made += 1
            template.owner = f"{owner} {self._made}"
            templates.append((template, {key.kinds}))


Verdicts = Sequence[tuple[str, str]]
"""`goto` or `jump`, and the chain that each element of a map leads to."""
_KNOWN = {
    "service-ips": _SERVICE_KEY, "service-nodeports": _PORT_KEY, "hairpin-connections": _HAIRPIN_KEY, "cluster-ips": ("daddr",),
}  # fmt: skip
"""The maps and sets that are indexed, and the key that each has to be asked by."""


def plain(table: NftTable, name: str, kinds: tuple[str, ...]) -> PlainElements | None:
    """The elements of one of kube-proxy's sets or maps, none where it is not there; None where they are not of the usual form."""
    named = table.sets.get(name)
    if named is None or not named.elements:
        return _NONE
    found = as_plain(named.elements)
    return found if found is not None and found.kinds == kinds else None


_NONE = PlainElements((), None)


def as_plain(elements: Sequence[Element]) -> PlainElements | None:
    """Elements without their comments, in the form of those of a large set; None where one of them has no place in it."""
    if isinstance(elements, PlainElements):
        return elements
    keys: list[Key] = []
    verdicts: list[tuple[str, str]] = []
    for element in elements:
        key = tuple([value for value in element.key if isinstance(value, int | str)])
        if len(key) != len(element.key):
            return None
        keys.append(key)
        if isinstance(element.data, Decide):
            verdicts.append((element.data.kind, element.data.target))
        elif element.data is not None:
            return None
    return PlainElements(keys, verdicts if len(verdicts) == len(keys) else None)


def is_own(chain: str) -> bool:
    """Whether a chain is one of a Service's, or of an endpoint's."""
    return chain.startswith(_OWN) and chain not in _FIXED


def _pairs(key: Expression, values: Sequence[Value]) -> list[tuple[Expression, Expression]]:
    """Each part of a key beside its value in an element; empty where they do not go together."""
    parts = key.parts if isinstance(key, Concat) else (key,)
    return [*zip(parts, values, strict=True)] if len(parts) == len(values) else []


def _stays(data: object) -> bool:
    """Whether a verdict does not lead into some Service's chains, whose rules are not weighed."""
    return not isinstance(data, Decide) or not is_own(data.target)


def _names(key: Expression) -> tuple[str, ...]:
    """The fields that a key is made of; empty for one that holds anything else."""
    found: list[str] = []
    for part in key.parts if isinstance(key, Concat) else (key,):
        match part:
            case Payload(protocol="ip" | "ip6", field="saddr" | "daddr" as name) | Payload(protocol="th", field="dport" as name):
                found.append(name)
            case Meta(key="l4proto"):
                found.append("l4proto")
            case _:
                return ()
    return tuple(found)


def _tells_nothing(left: Expression) -> bool:
    """Whether an expression says the same of the packets to any two Services of one protocol in the same cells."""
    match left:
        case Meta(key="mark" | "l4proto" | "nfproto" | "protocol" | "iifname" | "oifname" | "iif" | "oif" | "pkttype"):
            return True
        case Ct(key="state" | "status" | "mark" | "direction"):
            return True
        case Fib(result="type"):
            return True  # the node's own addresses are a cell
        case Payload(protocol="ip" | "ip6", field="protocol" | "nexthdr" | "version"):
            return True
        case Binary():
            return calculable(left)
    return False


def _enter(
    verdicts: Verdicts, rows: Sequence[int], address: str, port: int, parts: list[str], chains: list[str]
) -> bool:
    """Take one entry into the cone; False where there is none, or two, or none that leads to a Service's chain."""
    if len(rows) != 1 or not verdicts:
        return False
    kind, target = verdicts[rows[0]]
    if not is_own(target):
        return False
    parts.append(f'{address}"right": {port} {kind} "{target}"')
    if target not in chains:
        chains.append(target)
    return True


def _follow(table: NftTable, chains: list[str], sets: list[str], parts: list[str], *, most: int) -> bool:
    """Take in the rules of these chains and of all Services' chains that they lead to; False for what is not plain."""
    todo = deque(chains)
    while todo:
        name = todo.popleft()
        texts = _texts(table, name)
        if texts is None:
            return False
        parts.append(f'"{name}"')
        for text in texts:
            if "\\" in text:
                return False
            parts.append(text)
            for target in _JUMPS.findall(text) if "{\"goto" in text or "{\"jump" in text else ():
                if is_own(target) and target not in chains:
                    if len(chains) >= most:
                        return False
                    chains.append(target)
                    todo.append(target)
            if '"@' in text:
                sets.extend(name for name in _SETS.findall(text) if name not in sets)
    return True


def _texts(table: NftTable, name: str) -> Sequence[str] | None:
    """Each rule's statements as nft printed them; None where that is not there, or was not printed as JSON."""
    chains = table.chains
    if isinstance(chains, LazyChains):
        printed = chains.printed.get(name)
        return [rule.decode() for rule in printed] if printed is not None and name not in chains.based else None
    chain = chains.get(name)
    if chain is None or chain.hook:
        return None
    starts = [(rule.raw, rule.raw.find(_EXPRESSIONS)) for rule in chain.rules]
    return [raw[at:] for raw, at in starts] if all(at > 0 and raw[0] == "{" for raw, at in starts) else None


def _template(cone: Cone, cells: Cells) -> Template | None:
    """The cone with placeholders for its own values; None when that does not give the cone back."""
    index = {}
    for position, value in enumerate(cone.values):
        if value in index:
            return None  # a name, an address or a port that is also another of them cannot be told apart in the text
        index[value] = position
    order: list[int] = []

    def replace(found: re.Match[str]) -> str:
        at = index.get(found[0])
        if at is None:
            return found[0]
        order.append(at)
        return "%s"

    text = _WORD.sub(replace, cone.text.replace("%", "%%"))
    if len(order) < 2 or any(word.startswith(f'"{own}') for own in _OWN for word in _WORD.findall(text)) or '"@' in text:
        return None  # rules that lead on to another Service's chains or sets: what stands there is not part of the template
    if not _weighed(text, cells) or not _plain_statements(cone.text):
        return None
    template = Template(text=text, pick=itemgetter(*order), count=len(cone.values))
    return template if template.fits(cone) else None


def _plain_statements(text: str) -> bool:
    """True if a Service's rules are made of what kube-proxy writes: no port or address decides there but by a placeholder."""
    for line in text.split("\n"):
        start = line.find("[") if line.startswith(("[", _EXPRESSIONS)) else -1
        if start >= 0:
            try:
                statements, _ = _decode(line, start)
            except ValueError:
                return False
            if not all(isinstance(one, dict) and len(one) == 1 and _plain_statement(*one.popitem()) for one in statements):
                return False
    return True


def _plain_statement(kind: str, body: Any) -> bool:
    match kind, body:
        case "match", {"left": {"meta": {"key": "l4proto" | "mark" | "nfproto"}}}:
            return True
        case "match", {"left": {"payload": {"field": "saddr" | "daddr" | "dport" | "protocol" | "nexthdr"}}}:
            return True
        case "match", {"left": {"fib": {"result": "type"}} | {"ct": {"key": "state" | "status" | "mark"}}}:
            return True
        case "vmap", {"key": {"numgen": _}, "data": {"set": _}}:
            return True
        case "dnat", {"addr": str()} | {"addr": {"map": {"key": {"numgen": _}, "data": {"set": _}}}}:
            return True
        case "mangle", {"key": {"meta": {"key": "mark"}}}:
            return True
        case "set", {"op": "update" | "add", "elem": {"payload": {"field": "saddr"}} | {"elem": _}}:
            return True
    return kind in ("jump", "goto", "return", "accept", "drop", "reject", "counter", "comment", "continue")


def _weighed(text: str, cells: Cells) -> bool:
    """Whether what the rules ask of addresses and ports, beside those of their own Service, is what all rules were weighed by.

    Else it might be about another Service whose rules look the same.
    """
    for address, length in _PREFIX.findall(text):
        if not cells.divides(network(f"{address}/{length}")):
            return False
    return _LITERAL.search(_PREFIX.sub("", text)) is None
