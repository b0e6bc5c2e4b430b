"""A further node whose rules are those of one judged before is judged by what differs.

Theory of operation. On the first node of its kind most Services were found to be twins (`sharing/iptables.py`): right, because
a model is right whose rules are theirs but for names and addresses, and because no other rule tells the two apart. On a
further node with the same configuration (`Reference.compare`):

1. Its rules are those of the first one, or what differs is known chain by chain (`parse/iptables_delta.py`). A chain of a
   Service, or an entry for its address or node port, that differs makes the Service *touched*. Entries may stand in another
   order, as long as each stands on the same side of the rules that catch everything. Any other difference: judged in full.
2. Addresses that the node and the first one do not take for the same (the node's own, its pods, the pods' networks) may lie
   in other cells here: every Service that has one of them is touched.
3. Models are walked here, with everything that was no twin and everything touched. A twin is right here when it is not touched
   and its models are right here and not touched. Otherwise it is walked.
4. Models need no walk either where the rules are the same and the first node becomes this one by a renaming: its own addresses
   and its pods' exchanged for this node's, which no rule tells apart (`Reference._moves`).

What only rules decide (lines twice, chains that nobody jumps to, entries of deleted Services) is taken over where the rules
are the same, and looked at where they are not. Tests hold this way to the long one on edited rules of a further node.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..checks.observation import Observation
from ..expect.routes import LOOPBACK, NodeView
from ..model.cluster import ProxyConfig
from ..model.fast_dataclass import dataclass, field
from ..model.ranges import Ranges, contains, number, single, size, subtract, text, union
from ..model.ruleset import IptablesRules
from ..observe.hooks import Hooks
from .cells import Cells
from .eligible import PortCone
from .iptables import OWN, Entries

_ENTRY_CHAINS = frozenset((("nat", "KUBE-SERVICES"), ("nat", "KUBE-NODEPORTS")))
_FEW_ADDRESSES = 256
"""Up to so many addresses are looked up one by one."""


class Twin(NamedTuple):
    """A Service that was not walked, or was walked and found right as a model for others."""

    cones: Sequence[PortCone]
    """Of each port, without the text of its rules."""
    frontends: Sequence[str]
    walked: bool

    @property
    def models(self) -> list[str]:
        """The Services whose walk spoke for its ports."""
        return [cone.model for cone in self.cones if cone.model]

    @property
    def node_ports(self) -> list[int]:
        """Its node ports."""
        return [cone.ask.node_port for cone in self.cones if cone.ask.node_port]

    def dialled(self, node_ports: Sequence[str]) -> list[str]:
        """Its frontends on a node with these addresses for node ports."""
        return [text for cone in self.cones for text in cone.dialled(node_ports)]


class Difference(NamedTuple):
    """What a further node has not in common with the first one."""

    touched: set[str]
    """Twins that what differs may matter to."""
    rules: bool
    """Whether the rules differ in more than their order."""
    alike: bool
    """Whether no rule tells this node's own addresses and pods from the first one's: then models, too, are right here."""


@dataclass(slots=True, kw_only=True)
class Reference:
    """The first node of its kind, of one family."""

    rules: IptablesRules
    config: ProxyConfig
    view: NodeView
    entries: Entries
    cells: Cells
    hooks: Hooks
    """Its rules, understood as far as walks came: another node with the same ones need not do that again."""
    masquerading: Sequence[str]
    """The chains of table nat that masquerade."""
    structural: list[Observation] = field(default_factory=list)
    """What only the rules decide."""
    twins: dict[str, Twin] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)
    """Every single address that a rule asks for."""
    _by_text: dict[str, list[str]] = field(default_factory=dict)
    """Address of a twin -> the twins that have it."""
    _addresses: list[tuple[int, str]] = field(default_factory=list)
    _owners: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def kept(cones: Sequence[PortCone]) -> list[PortCone]:
        """What is kept of a Service that was not walked: no rules, which are the node's own."""
        return [cone._replace(key=None, cone=cone.cone._replace(text="", values=())) for cone in cones]

    def add(self, service: str, cones: Sequence[PortCone], frontends: Sequence[str], *, walked: bool = False) -> None:
        """Note a Service that was not walked, or was walked and is a model; `cones` as `kept` gives them."""
        self.twins[service] = Twin(cones, frontends, walked)

    @property
    def most(self) -> int:
        """The most endpoints that a twin's port has."""
        return max((cone.ask.endpoints for twin in self.twins.values() for cone in twin.cones), default=0)

    def compare(
        self, rules: IptablesRules, changed: frozenset[tuple[str, str]], config: ProxyConfig, view: NodeView
    ) -> Difference | None:
        """What differs on another node; None when it has to be judged in full."""
        if config != self.config or view.behaviour != self.view.behaviour or bool(view.address) != bool(self.view.address):
            return None
        most = self.most
        for one in (view, self.view):
            room = sum(high - low + 1 for low, high in one.pods)
            if bool(room) != bool(self.view.pods) or 0 < room <= most:
                return None  # whether any pod that is no endpoint can ask would depend on the Service
        if (view.detector.kind, view.detector.pattern) != (self.view.detector.kind, self.view.detector.pattern):
            return None
        near = self._near(view)
        if not self._asked:
            self._asked = sorted(self.cells.pinned.union(map(number, self.entries.addresses)))
        if self._asked_at(view):
            near.update(key for key, twin in self.twins.items() if twin.node_ports)
        try:
            found = self._changed(rules, changed, view)
        except ValueError:
            return None  # an address that is none: the walk says so
        if found is None:
            return None
        return Difference(near | found.touched, found.rules, not found.rules and self._moves(view))

    def _changed(self, rules: IptablesRules, changed: frozenset[tuple[str, str]], view: NodeView) -> Difference | None:
        touched: set[str] = set()
        chains = changed - _ENTRY_CHAINS
        if chains and not self._owners:
            self._owners = {chain: key for key, twin in self.twins.items() for one in twin.cones for chain in one.cone.chains}
        for table, chain in chains:
            if table != "nat" or not chain.startswith(OWN):
                return None
            if chain in self._owners:  # others belong to Services that are walked anyway, or to none
                touched.add(self._owners[chain])
        if not changed & _ENTRY_CHAINS:
            return Difference(touched, bool(chains), alike=False)
        differing = self.entries.differing(Entries(rules.tables["nat"].chains))
        if differing is None:
            return None
        addresses, ports = differing
        if any(contains(view.local, number(address)) for address in addresses):
            return None
        if addresses or ports:
            touched.update(
                key for key, twin in self.twins.items()
                if not ports.isdisjoint(twin.node_ports) or any(not addresses.isdisjoint(_addresses(one)) for one in twin.cones)
            )  # fmt: skip
        return Difference(touched, bool(chains or addresses or ports), alike=False)

    def _moves(self, view: NodeView) -> bool:
        """Whether the first node becomes this one by exchanging addresses that no rule tells apart.

        A walk there is then a walk here, with other names for the node and its pods.
        """
        mine = self.view
        if (view.outside, view.pod_networks, view.detector) != (mine.outside, mine.pod_networks, mine.detector):
            return False
        pairs: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for here, there in ((_named(view), _named(mine)), (_unnamed(view), _unnamed(mine)), (view.pods, mine.pods)):
            if len(here) != len(there):
                return False
            pairs += zip(here, there, strict=True)
        return all(self._same_to_rules(one, other, but=mine.local) for one, other in pairs)

    def _same_to_rules(self, one: tuple[int, int], other: tuple[int, int], *, but: Ranges) -> bool:
        """Whether every rule answers alike for all addresses of two ranges, those apart that ask for the node's own."""
        for low, high in (one, other):
            if bisect_right(self._asked, high) > bisect_left(self._asked, low):
                return False
        return self.cells.same(one, other, but=but)

    def _asked_at(self, view: NodeView) -> bool:
        """Whether rules ask for single addresses that are this node's own, and were not the first one's.

        They were weighed there as rules that no node port can meet.
        """
        own = subtract(view.local, self.view.local)
        return any(bisect_right(self._asked, high) > bisect_left(self._asked, low) for low, high in own)

    def _near(self, view: NodeView) -> set[str]:
        """Services that have an address which this node does not take for what the first one takes it for."""
        pairs = (
            (view.local, self.view.local),
            (view.detector.pods, self.view.detector.pods),
            (view.pod_networks, self.view.pod_networks),
        )
        odd = union(part for a, b in pairs if a != b for part in (subtract(a, b), subtract(b, a)))
        if size(odd) <= _FEW_ADDRESSES:
            if not self._by_text:
                for key, twin in self.twins.items():
                    for one in twin.cones:
                        for address in _addresses(one):
                            self._by_text.setdefault(address, []).append(key)
            texts = [text(value, view.family) for low, high in odd for value in range(low, high + 1)]
            return {key for address in texts for key in self._by_text.get(address, ())}
        if not self._addresses:
            self._addresses = sorted(
                (number(address), key) for key, twin in self.twins.items() for one in twin.cones for address in _addresses(one)
            )
        return {key for low, high in odd for key in self._between(low, high)}

    def _between(self, low: int, high: int) -> list[str]:
        start = bisect_left(self._addresses, (low, ""))
        return [key for _, key in self._addresses[start : bisect_left(self._addresses, (high + 1, ""))]]

    def right(self, wrong: Iterable[str], later: Iterable[str]) -> set[str]:
        """Of the twins that were left for later those that are right on another node, where those that were walked are wrong."""
        bad = {*wrong}
        return {key for key in later if bad.isdisjoint(self.twins[key].models)}


def _addresses(cone: PortCone) -> tuple[str, ...]:
    return (*cone.ask.addresses, *cone.cone.ips)


def _named(view: NodeView) -> list[tuple[int, int]]:
    """The node's addresses as the API has them, in their order: they are dialled, and packets leave with the first."""
    return [(number(ip), number(ip)) for ip in view.node.ips(view.family)]


def _unnamed(view: NodeView) -> Ranges:
    """Other addresses that the node holds."""
    return subtract(view.local, union((LOOPBACK[view.family], *(single(low) for low, _ in _named(view)))))
