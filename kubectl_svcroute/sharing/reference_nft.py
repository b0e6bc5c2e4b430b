"""A further node in nftables mode whose rules are those of one judged before is judged by what differs.

The idea is that of `reference.py`. On the first node most Services were found to be twins (`sharing/nftables.py`): the rules
of each are a template that was walked and found right, and no other rule of the node tells it from the Service that was walked.
On a further node with the same configuration (`NftReference.compare`):

1. Chains are held against the first node's by their names, sets and maps by their elements; their order means nothing. A
   Service is *touched* by a chain of its own that differs, and by an element for one of its addresses or node ports. Any other
   difference: judged in full. What traffic fills is passed over: no walk looks at it.
2. Addresses that the node and the first one do not take for the same (the node's own, above all) may lie in other cells
   here: every Service that has one of them is touched.
3. Each node masquerades the connections of its own endpoints to themselves: `hairpin-connections` differs everywhere. So the
   ports of Services are grouped by their templates and by the kinds of endpoints that they have *here* (`nftables.Kinds`). So
   many are walked, beside all that are touched or were no twins, that each port is like one of a Service found right.

Tests hold this way to the long one on edited rules of a further node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..checks.observation import Observation
from ..expect.routes import NodeView
from ..model.cluster import ProxyConfig
from ..model.nft import Element, LazyChains, NftChain, NftRules, NftSet, NftTable
from ..model.nft_elements import ADDRESS4, ADDRESS6, NUMBER, PROTOCOL, Key, PlainElements
from ..model.ranges import Ranges, contains, number, subtract, union
from ..model.ranges import text as address_text
from ..model.ruleset import IptablesRules
from .eligible import PortCone
from .nftables import Hairpins, Kinds, NftKey, NftModels, as_plain, count_kinds, is_own, plain

_FEW_ADDRESSES = 256
_BY_ADDRESS = ("service-ips", "no-endpoint-services", "firewall-ips")
_BY_PORT = ("service-nodeports", "no-endpoint-nodeports")


class NftTwin(NamedTuple):
    """A Service that needed no walk, or was the first of its kind to be walked."""

    cones: Sequence[PortCone]
    frontends: Sequence[str]

    def dialled(self, node_ports: Sequence[str]) -> list[str]:
        """Its frontends on a node with these addresses for node ports."""
        return [text for cone in self.cones for text in cone.dialled(node_ports)]

    @property
    def node_ports(self) -> set[int]:
        """Its node ports."""
        return {cone.ask.node_port for cone in self.cones if cone.ask.node_port}


class Difference(NamedTuple):
    """What a further node has not in common with the first one."""

    touched: set[str]
    """Twins that what differs may matter to."""
    groups: dict[tuple[object, ...], list[str]]
    """The other twins, by what each of their ports is like: a port is right when another is that is like it."""


class NftReference:
    """The first node of its kind, of one family."""

    def __init__(
        self, rules: NftRules, table: NftTable, others: Sequence[IptablesRules], config: ProxyConfig, view: NodeView,
        models: NftModels,
    ) -> None:  # fmt: skip
        self.rules = rules
        self.table = table
        self.others = others
        self.config = config
        self.view = view
        self.structural: dict[str, tuple[Sequence[Element], list[Observation]]] = {}
        """Set or map -> its elements, and what they alone decide."""
        self.plain: set[str] = set()
        """Services that are told of as twins, whether they were walked or not."""
        self.twins: dict[str, NftTwin] = {}
        self.local: dict[str, dict[str, set[str]]] | None = None
        """Node -> protocol -> the endpoints of twins there, as address and port; put together for the first further node."""
        self._index: _Index | None = None
        self._models = models

    def kept(self, cones: Sequence[PortCone]) -> list[PortCone]:
        """What is kept of a Service that was not walked, or taught what others were not walked for: no rules."""
        models = [cone.model or self._models.of(cone.key, cone.cone) for cone in cones]
        return [
            cone._replace(model=model, cone=cone.cone._replace(text="")) for cone, model in zip(cones, models, strict=True)
        ]

    def add(
        self, service: str, cones: Sequence[PortCone], frontends: Sequence[str], *, walked: bool = False  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Note such a Service; `cones` as `kept` gives them. Whether it was `walked` makes no difference here."""
        self.plain.add(service)
        if all(cone.model for cone in cones):
            self.twins[service] = NftTwin(cones, frontends)

    def compare(
        self, rules: NftRules, others: Sequence[IptablesRules], config: ProxyConfig, view: NodeView, here: Mapping[str, set[str]]
    ) -> Difference | None:
        """What differs on another node; None when it has to be judged in full.

        `here`: protocol -> the endpoints on this node, as address and port.
        """
        table = rules.tables.get((self.table.family, self.table.name))
        index = self._index = self._index or _Index(self.twins, six=view.family == 6)
        if table is None or config != self.config or not self._alike(view, index):
            return None
        if [other.tables for other in others] != [other.tables for other in self.others]:
            return None
        touched = _Touched()
        if not self._compare_tables(rules, table, touched):
            return None
        if index.has_port(touched.ports):
            return None  # a port that a Service or an endpoint has too: how it was weighed no longer holds
        hairpins = plain(table, "hairpin-connections", _hairpin_key(view.family))
        services = plain(table, "service-ips", _service_key(view.family))
        if hairpins is None or services is None:
            return None
        if self._at_node(services, view):
            return None
        if self._models.cells.pins_in(subtract(view.local, self.view.local)):
            return None  # a rule about an address of this node was weighed as one that no node port meets
        here_ = Hairpins(hairpins.keys, six=view.family == 6)
        keys = index.touched_by(touched, self._odd(view)) | index.with_destinations(here_.odd)
        return Difference(keys, index.groups(here_, here, keys))

    def _alike(self, view: NodeView, index: _Index) -> bool:
        mine = self.view
        if view.behaviour != mine.behaviour or bool(view.address) != bool(mine.address):
            return False
        for one in (view, mine):
            room = sum(high - low + 1 for low, high in one.pods)
            if bool(room) != bool(mine.pods) or 0 < room <= index.most:
                return False  # whether any pod that is no endpoint can ask would depend on the Service
        return (view.detector.kind, view.detector.pattern) == (mine.detector.kind, mine.detector.pattern)

    # ---- rules ----------------------------------------------------------------------------------------------------------

    def _compare_tables(self, rules: NftRules, table: NftTable, touched: _Touched) -> bool:
        families = (table.family, "inet")
        mine = {key: found for key, found in self.rules.tables.items() if found.family in families}
        its = {key: found for key, found in rules.tables.items() if found.family in families}
        if list(mine) != list(its):
            return False
        for key, found in its.items():
            old = mine[key]
            if found.dormant != old.dormant or _hooked(found) != _hooked(old):
                return False
            own = found is table
            for name in _differing_chains(found, old):
                if own and is_own(name) and name not in _bases(found):
                    touched.chains.add(name)
                elif _rules(found.chains.get(name)) != _rules(old.chains.get(name)):
                    return False  # not in counters or comments alone
            for name in found.sets.keys() | old.sets.keys():
                if not self._compare_sets(found, found.sets.get(name), old.sets.get(name), touched, own=own):
                    return False
        return True

    def _compare_sets(self, table: NftTable, new: NftSet | None, old: NftSet | None, touched: _Touched, *, own: bool) -> bool:
        """Note what differs between two sets of one name; False where that is more than can be noted."""
        either = new or old
        if either is None or (new is not None and old is not None and new.elements is old.elements and new.make == old.make):
            return True
        name = either.name
        if new is None or old is None or new.make != old.make:
            touched.sets.add(name)
            return own and name.startswith("affinity-")
        if new.runtime:
            return True
        if own and name == "hairpin-connections":
            return True  # what is in it is looked at Service by Service
        if _same(new, old):
            table.sets[name] = old  # in another order: what is known of the first one's elements holds
            return True
        return own and touched.elements(name, new, old)

    # ---- the node -------------------------------------------------------------------------------------------------------

    def _at_node(self, services: PlainElements, view: NodeView) -> bool:
        """Whether an address of this node has an entry, which is asked for before the node ports are."""
        own = subtract(view.local, self.view.local)
        if all(high - low < _FEW_ADDRESSES for low, high in own):
            known = services.by((0,))
            return any((address_text(n, view.family),) in known for low, high in own for n in range(low, high + 1))
        return any(contains(own, number(str(address))) for address, _, _ in services.keys)

    def _odd(self, view: NodeView) -> Ranges:
        """The addresses that this node does not take for what the first one takes them for."""
        pairs = (
            (view.local, self.view.local),
            (view.detector.pods, self.view.detector.pods),
            (view.pod_networks, self.view.pod_networks),
        )
        return union(part for a, b in pairs if a != b for part in (subtract(a, b), subtract(b, a)))


class _Touched:
    """What differs on a further node, by name, address and port."""

    def __init__(self) -> None:
        self.chains: set[str] = set()
        self.sets: set[str] = set()
        self.addresses: set[str] = set()
        self.node_ports: set[int] = set()
        self.ports: set[int] = set()

    def elements(self, name: str, new: NftSet, old: NftSet) -> bool:
        """Note the elements that only one of two sets has; False where these are of a set that cannot be told apart so."""
        a, b = as_plain(new.elements), as_plain(old.elements)
        if a is None or b is None:
            return False
        kinds = {it.kinds for it in (a, b) if it}
        if len(kinds) != 1:
            return False
        (columns,) = kinds
        rows = _rows(a) ^ _rows(b)
        if (name in _BY_ADDRESS and columns[1:] == (PROTOCOL, NUMBER)) or name in ("cluster-ips", "nodeport-ips"):
            if columns[:1] not in ((ADDRESS4,), (ADDRESS6,)):
                return False
            self.addresses.update(str(key[0]) for key, _ in rows)
            return True
        if name in _BY_PORT and columns == (PROTOCOL, NUMBER):
            ports = {int(key[1]) for key, _ in rows}
            self.node_ports |= ports
            if name != "service-nodeports":
                self.ports |= ports
            return True
        return False


def _same(a: NftSet, b: NftSet) -> bool:
    if isinstance(a.elements, PlainElements) and isinstance(b.elements, PlainElements):
        return a.elements.printed == b.elements.printed or _rows(a.elements) == _rows(b.elements)
    return a == b


def _rows(elements: PlainElements) -> set[tuple[Key, object]]:
    verdicts: Sequence[object] = elements.verdicts or [None] * len(elements.keys)
    return set(zip(elements.keys, verdicts, strict=True))


def _hairpin_key(family: int) -> tuple[str, ...]:
    address = ADDRESS6 if family == 6 else ADDRESS4
    return (address, address, PROTOCOL, NUMBER)


def _service_key(family: int) -> tuple[str, ...]:
    return (ADDRESS6 if family == 6 else ADDRESS4, PROTOCOL, NUMBER)


def _hooked(table: NftTable) -> list[tuple[str, str, str, int, str]]:
    return [(chain.name, chain.type, chain.hook, chain.priority, chain.policy) for chain in table.based]


def _bases(table: NftTable) -> set[str]:
    return {chain.name for chain in table.based}


def _differing_chains(new: NftTable, old: NftTable) -> set[str]:
    """The chains that one of two tables lacks, or that have other rules."""
    a, b = new.chains, old.chains
    if isinstance(a, LazyChains) and isinstance(b, LazyChains):
        return a.differing(b)
    return {name for name in a.keys() | b.keys() if _rules(a.get(name)) != _rules(b.get(name))}


def _rules(chain: NftChain | None) -> object:
    return None if chain is None else [rule.statements for rule in chain.rules]


class _Index:
    """The twins by what a difference can be about."""

    def __init__(self, twins: Mapping[str, NftTwin], *, six: bool) -> None:
        self.six = six
        self._twins = twins
        self._names: dict[str, str] = {}
        self._ports: list[tuple[str, PortCone]] = [(key, cone) for key, twin in twins.items() for cone in twin.cones]
        self._sizes = [len(cone.cone.ips) for _, cone in self._ports]
        self.most = max(self._sizes, default=0)
        """The most endpoints that a port has."""
        self._mixed = [n for n, (_, cone) in enumerate(self._ports) if not _in_one_cell(cone)]
        """The ports whose endpoints do not all lie in one cell."""
        self._owner: dict[str, dict[str, int]] = {}
        """Protocol -> destination -> the last of `_ports` that leads there."""
        for n, (_, cone) in enumerate(self._ports):
            self._owner.setdefault(cone.ask.proto, {}).update(dict.fromkeys(cone.cone.destinations, n))
        self._more: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """The others that lead there."""
        if sum(map(len, self._owner.values())) < sum(self._sizes):
            for n, (_, cone) in enumerate(self._ports):
                for where in cone.cone.destinations:
                    if self._owner[cone.ask.proto][where] != n:
                        self._more[cone.ask.proto][where].append(n)
        classes: dict[object, int] = {}
        self._classes: list[tuple[str, int, tuple[int, ...]]] = []
        """Service, the first of its `_ports`, and the class of each."""
        first = 0
        for key, twin in twins.items():
            its = tuple([classes.setdefault(_class(cone), len(classes)) for cone in twin.cones])
            self._classes.append((key, first, its))
            first += len(its)

    def has_port(self, ports: set[int]) -> bool:
        """Whether one of these is the port of a Service or of an endpoint."""
        return any(
            cone.ask.port in ports or any(int(where[where.rfind(":") + 1 :]) in ports for where in cone.cone.destinations)
            for _, cone in (self._ports if ports else ())
        )

    def touched_by(self, touched: _Touched, odd: Ranges) -> set[str]:
        """The Services to which chains, sets, addresses and node ports belong."""
        if all(high - low < _FEW_ADDRESSES for low, high in odd):
            family = 6 if self.six else 4
            found = self._with(touched.addresses | {address_text(n, family) for low, high in odd for n in range(low, high + 1)})
        else:
            found = self._with(touched.addresses) | self._within(odd)
        if (touched.chains or touched.sets) and not self._names:
            self._names = {v: key for key, twin in self._twins.items() for cone in twin.cones for v in cone.cone.values}
        names = [f'"{name}"' for name in touched.chains] + [f'"@{name}"' for name in touched.sets]
        found.update(self._names[name] for name in names if name in self._names)
        if touched.node_ports:
            found.update(key for key, twin in self._twins.items() if not touched.node_ports.isdisjoint(twin.node_ports))
        return found

    def _with(self, addresses: set[str]) -> set[str]:
        """The Services that have one of these addresses, or send to one."""
        if not addresses:
            return set()
        return {
            key for key, cone in self._ports
            if not addresses.isdisjoint(cone.cone.ips) or not addresses.isdisjoint(self._dialled(cone))
        }  # fmt: skip

    def _dialled(self, cone: PortCone) -> Sequence[str]:
        """Its own addresses as nft prints them."""
        return [address_text(number(address), 6) for address in cone.ask.addresses] if self.six else cone.ask.addresses

    def _within(self, ranges: Ranges) -> set[str]:
        """The same by networks."""
        return {
            key for key, cone in self._ports
            if any(contains(ranges, number(address)) for address in (*cone.cone.ips, *cone.ask.addresses))
        }  # fmt: skip

    def with_destinations(self, where: Mapping[str, Iterable[str]]) -> set[str]:
        """The Services that send there."""
        return {self._ports[n][0] for proto, ends in where.items() for end in ends for n in self._leading(proto, end)}

    def _leading(self, proto: str, end: str) -> list[int]:
        last = self._owner[proto].get(end) if proto in self._owner else None
        return [] if last is None else [last, *self._more.get(proto, {}).get(end, ())]

    def groups(
        self, hairpins: Hairpins, here: Mapping[str, set[str]], touched: set[str]
    ) -> dict[tuple[object, ...], list[str]]:
        """The twins that are not touched, by the templates of their ports and the kinds of endpoints that these have here."""
        kinds = self._kinds(hairpins, here)
        found: dict[tuple[object, ...], list[str]] = {}
        for key, first, classes in self._classes:
            if key in touched:
                continue
            if len(classes) == 1:
                group: tuple[object, ...] = ((classes[0], kinds.get(first)),)
            else:
                group = tuple([(its, kinds.get(first + n)) for n, its in enumerate(classes)])
            found.setdefault(group, []).append(key)
        return found

    def _kinds(self, hairpins: Hairpins, here: Mapping[str, set[str]]) -> dict[int, Kinds]:
        """The kinds of endpoints of each port that has any here, or in the set."""
        found: dict[int, Kinds] = {}
        nothing: set[str] = set()
        for proto, owner in self._owner.items():
            own, mine = hairpins.own.get(proto, nothing), here.get(proto, nothing)
            both, only_set, only_here = (
                self._count(proto, owner, ends) for ends in (own & mine, own - mine, mine - own)
            )
            made: dict[tuple[int, int, int, int], Kinds] = {}
            for n in both.keys() | only_set.keys() | only_here.keys():
                a, b, c = both.get(n, 0), only_set.get(n, 0), only_here.get(n, 0)
                counts = (a, b, c, self._sizes[n] - a - b - c)
                found[n] = made.get(counts) or made.setdefault(counts, count_kinds(*counts))
        for n in self._mixed:
            cone, proto = self._ports[n][1], self._ports[n][1].ask.proto
            cells = cone.key.cells if isinstance(cone.key, NftKey) else None
            exact = hairpins.kinds(cone.cone, proto, here.get(proto, nothing), cells) if cells is not None else None
            if exact is not None:
                found[n] = exact
        return found

    def _count(self, proto: str, owner: Mapping[str, int], ends: set[str]) -> Mapping[int, int]:
        """How many of these are endpoints of each port."""
        if not ends:
            return {}
        found: Counter[int | None] = Counter(map(owner.get, ends))
        for end, others in self._more.get(proto, {}).items():
            if end in ends:
                found.update(others)
        return {n: count for n, count in found.items() if n is not None}


def _in_one_cell(cone: PortCone) -> bool:
    """Whether no rule of any other Service tells its endpoints from each other."""
    return isinstance(cone.key, NftKey) and len(cone.key.cells[1]) == len(cone.key.cells[2]) == 1


def _class(cone: PortCone) -> object:
    """The template of a Service port, and what the Service has in common with all others of it but for where endpoints are."""
    return cone.model, cone.key[:2] if isinstance(cone.key, NftKey) else cone.key
