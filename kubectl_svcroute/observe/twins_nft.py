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

import re
from collections import deque
from collections.abc import Sequence
from operator import itemgetter

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
    Match,
    Meta,
    Nat,
    NftRules,
    NftTable,
    Payload,
    Prefix,
    Range,
    Reject,
    Rule,
    SetOf,
    SetRef,
    Statement,
    Value,
    VerdictMap,
)
from ..model.ranges import Ranges, contains, number
from ..model.ruleset import IptablesRules
from .cells import Cells
from .nft_match import address_ranges, calculable
from .twins import Ask, Cone, Models, Template, cells_of

_OWN = ("service-", "local-", "external-", "endpoint-", "firewall-")
_FIXED = frozenset(("firewall-check", "service-endpoints-check"))
_EXPRESSIONS = '"expr": ['
_JUMPS = re.compile(r'\{"(?:goto|jump)": \{"target": "([^"\\]*)"\}\}')
_SETS = re.compile(r'"@([^"\\]*)"')
_DESTINATION = re.compile(r'\{"concat": \["([0-9a-f.:]+)", (\d+)\]\}|"addr": "([0-9a-f.:]+)", "port": (\d+)')
_WORD = re.compile(r'"[^"\\]*"(?:, (?:"port": )?\d+)?|(?<="right": )\d+')
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", "6": "tcp", "17": "udp", "132": "sctp"}
_SERVICE_KEY = ("daddr", "l4proto", "dport")
_PORT_KEY = ("l4proto", "dport")
_HAIRPIN_KEY = ("saddr", "daddr", "l4proto", "dport")


class NftTwins:
    """The Services of one node and family that need no walk of their own."""

    def __init__(
        self, rules: NftRules, table: NftTable | None, others: Sequence[IptablesRules], *, cells: Sequence[Ranges], local: Ranges
    ) -> None:
        self.cells = Cells((*cells, local))
        self.models = Models(_template)
        self._table = table
        self._services: dict[tuple[int, str, int], Element | None] = {}
        self._node_ports: dict[tuple[str, int], Element | None] = {}
        self._hairpins: dict[tuple[int, str, int], list[int]] = {}
        self._cluster_ips: set[int] = set()
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
            for chain in found.chains.values():
                if mine and _is_own(chain.name) and not chain.hook:
                    continue
                if not all(self._weigh(statement, found, mine=mine) for rule in chain.rules for statement in rule.statements):
                    return False
        lines = (line for other in others for part in other.tables.values() for chain in part.chains.values() for line in chain)
        # An address of the node itself that has an entry is asked for before the node ports are.
        self._at_node = any(contains(local, address) for address, _, _ in self._services)
        return all(self.cells.weigh(line) for line in lines)

    def _index(self, table: NftTable) -> bool:
        try:
            for element in _elements(table, "service-ips"):
                address, proto, port = element.key
                key = (number(str(address)), _protocol(proto), int(str(port)))
                self._services[key] = None if key in self._services else element
            for element in _elements(table, "service-nodeports"):
                proto, port = element.key
                dialled = (_protocol(proto), int(str(port)))
                self._node_ports[dialled] = None if dialled in self._node_ports else element
            for element in _elements(table, "hairpin-connections"):
                source, address, proto, port = element.key
                where = (number(str(address)), _protocol(proto), int(str(port)))
                self._hairpins.setdefault(where, []).append(number(str(source)))
            for element in _elements(table, "cluster-ips"):
                (address,) = element.key
                self._cluster_ips.add(number(str(address)))
        except (TypeError, ValueError):
            return False  # an element that is a network, a span, or of another shape
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
            return len(values) == len(left.parts) and all(
                self._weigh_match(part, "==", value) for part, value in zip(left.parts, values, strict=True)
            )
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
        parts = key.parts if isinstance(key, Concat) else (key,)
        return len(parts) == len(values) and all(self._weigh_match(p, "==", v) for p, v in zip(parts, values, strict=True))

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
        if mine and _names(key) == _KNOWN.get(name, ()):
            return True
        if named.runtime or name in _KNOWN:
            return False  # what traffic fills, or kube-proxy's maps asked in another way
        return all(self._weigh_key(key, element.key) for element in named.elements)

    # ---- one Service port -----------------------------------------------------------------------------------------------

    def cone(self, ask: Ask) -> Cone | None:
        """The rules of one Service port; None when they do not have the usual build."""
        table = self._table
        if table is None:
            return None
        parts: list[str] = []
        chains: list[str] = []
        for address in ask.addresses:
            if not _enter(self._services.get((number(address), ask.proto, ask.port)), f'"{address}" ', ask.port, parts, chains):
                return None
        if ask.node_port and self._at_node:
            return None
        if ask.node_port and not _enter(self._node_ports.get((ask.proto, ask.node_port)), "", ask.node_port, parts, chains):
            return None
        sets: list[str] = []
        if not _follow(table, chains, sets, parts, most=2 * ask.count + 4):
            return None
        text = "\n".join(parts)
        found = dict.fromkeys((a or c, int(b or d)) for a, b, c, d in _DESTINATION.findall(text))
        if len(found) != ask.count:
            return None
        hairpins = []
        for ip, port in found:
            address_ = number(ip)
            sources = self._hairpins.get((address_, ask.proto, port), [])
            if sources and sources != [address_]:
                return None
            hairpins.append(bool(sources))
        made = []
        for name in sets:
            named = table.sets.get(name)
            if named is None or not named.runtime:
                return None  # only of the sets that traffic fills does a walk not look at the elements
            made.append((named.is_map, named.timeout))
        destinations = tuple([f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in found])
        ports = [str(ask.port)] + ([str(ask.node_port)] if ask.node_port else [])
        values = (
            *[f'"{address}"' for address in ask.addresses],
            *[f'"{name}"' for name in chains],
            *[f'"@{name}"' for name in sets],
            *[f'"{ip}"' for ip, _ in found],
            *[f'"{ip}", {port}' for ip, port in found],
            *[f'"{ip}", "port": {port}' for ip, port in found],
            *ports,
        )
        known = tuple([number(address) in self._cluster_ips for address in ask.addresses])
        return Cone(
            text=text, values=values, ports=len(ports), ips=tuple([ip for ip, _ in found]), destinations=destinations,
            more=(known, tuple(hairpins), tuple(made)),
        )  # fmt: skip

    def key(self, cone: Cone, ask: Ask) -> object | None:
        """What two Services must have in common beside their template; None when the Service is one of a kind."""
        cells = cells_of(self.cells, cone, ask) if self.usable else None
        if cells is None:
            return None
        here = tuple([where in ask.local for where in cone.destinations])
        return (ask.proto, ask.kinds, ask.affinity, cone.more, here, cells)


_KNOWN = {
    "service-ips": _SERVICE_KEY, "service-nodeports": _PORT_KEY, "hairpin-connections": _HAIRPIN_KEY, "cluster-ips": ("daddr",),
}  # fmt: skip
"""The maps and sets that are indexed, and the key that each has to be asked by."""


def _elements(table: NftTable, name: str) -> Sequence[Element]:
    found = table.sets.get(name)
    return found.elements if found is not None else ()


def _is_own(chain: str) -> bool:
    """Whether a chain is one of a Service's, or of an endpoint's."""
    return chain.startswith(_OWN) and chain not in _FIXED


def _stays(data: object) -> bool:
    """Whether a verdict does not lead into some Service's chains, whose rules are not weighed."""
    return not isinstance(data, Decide) or not _is_own(data.target)


def _protocol(value: Value) -> str:
    if not isinstance(value, int | str):
        raise TypeError("no protocol")
    return _PROTOCOLS.get(value, str(value))


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


def _enter(element: Element | None, address: str, port: int, parts: list[str], chains: list[str]) -> bool:
    """Take one entry into the cone; False where there is none, or none that leads to a Service's chain."""
    if element is None or not isinstance(element.data, Decide) or not _is_own(element.data.target):
        return False
    target = element.data.target
    parts.append(f'{address}"right": {port} {element.data.kind} "{target}"')
    if target not in chains:
        chains.append(target)
    return True


def _follow(table: NftTable, chains: list[str], sets: list[str], parts: list[str], *, most: int) -> bool:
    """Take in the rules of these chains and of all Services' chains that they lead to; False for what is not plain."""
    todo = deque(chains)
    while todo:
        chain = table.chains.get(todo.popleft())
        if chain is None or chain.hook:
            return False
        parts.append(f'"{chain.name}"')
        for rule in chain.rules:
            text = _plain(rule)
            if text is None:
                return False
            parts.append(text)
            for target in _JUMPS.findall(text):
                if _is_own(target) and target not in chains:
                    if len(chains) >= most:
                        return False
                    chains.append(target)
                    todo.append(target)
            for name in _SETS.findall(text):
                if name not in sets:
                    sets.append(name)
    return True


def _plain(rule: Rule) -> str | None:
    """A rule's statements as nft printed them, without its handle and its comment; None where it was not printed as JSON."""
    raw = rule.raw
    at = raw.find(_EXPRESSIONS)
    return raw[at:] if at > 0 and raw[0] == "{" and "\\" not in raw[at:] else None


def _template(cone: Cone) -> Template | None:
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
    template = Template(text=text, pick=itemgetter(*order), count=len(cone.values))
    return template if template.fits(cone) else None
