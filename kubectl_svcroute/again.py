"""A further node whose rules are those of one judged before is judged by what differs.

Theory of operation. On the first node of its kind most Services were found to be twins (`observe/twins.py`): right, because
a model is right whose rules are theirs but for names and addresses, and because no other rule tells the two apart. On a
further node with the same configuration (`Reference.compare`):

1. Its rules are those of the first one, or what differs is known chain by chain (`parse/iptables_again.py`). A chain of a
   Service, or an entry for its address or node port, that differs makes the Service *touched*. Entries may stand in another
   order, as long as each stands on the same side of the rules that catch everything. Any other difference: judged in full.
2. Addresses that the node and the first one do not take for the same (the node's own, its pods, the pods' networks) may lie
   in other cells here: every Service that has one of them is touched.
3. Models are walked here, with everything that was no twin and everything touched. A twin is right here when it is not touched
   and its models are right here and not touched. Otherwise it is walked.

What only rules decide (lines twice, chains that nobody jumps to, entries of deleted Services) is taken over where the rules
are the same, and looked at where they are not. Tests hold this way to the long one on edited rules of a further node.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .alike import PortCone
from .checks.observation import Observation
from .expect.routes import NodeView
from .model.cluster import ProxyConfig
from .model.ranges import contains, number, subtract, union
from .model.records import dataclass, field
from .model.ruleset import IptablesRules
from .observe.cells import Cells
from .observe.twins import OWN, Entries
from .observe.walk import Hooks

_ENTRY_CHAINS = frozenset((("nat", "KUBE-SERVICES"), ("nat", "KUBE-NODEPORTS")))


PortFrontends = Callable[[Sequence[str]], list[str]]


class Twin(NamedTuple):
    """A Service that was not walked."""

    models: frozenset[str]
    """The Services whose walk spoke for its ports."""
    cones: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """Of each port: the addresses that are dialled and sent to; the names of its chains."""
    node_ports: tuple[int, ...]
    frontends: tuple[str, ...]
    ports: tuple[PortFrontends, ...]
    """Of a Service with node ports, how its frontends are made: each node has others."""

    def dialled(self, node_ports: Sequence[str]) -> list[str]:
        """Its frontends on a node with these addresses for node ports."""
        return [text for port in self.ports for text in port(node_ports)]


class Difference(NamedTuple):
    """What a further node has not in common with the first one."""

    touched: set[str]
    """Twins that what differs may matter to."""
    rules: bool
    """Whether the rules differ in more than their order."""


@dataclass(slots=True, kw_only=True)
class Reference:
    """The first node of its kind, of one family."""

    keeps_models: bool = False
    """Whether it wants to know of Services that were walked, too."""
    rules: IptablesRules
    config: ProxyConfig
    view: NodeView
    entries: Entries
    cells: Cells
    hooks: Hooks
    """Its rules, understood as far as walks came: another node with the same ones need not do that again."""
    structural: list[Observation] = field(default_factory=list)
    """What only the rules decide."""
    _added: dict[str, tuple[Sequence[PortCone], Sequence[str]]] = field(default_factory=dict)
    _twins: dict[str, Twin] = field(default_factory=dict)
    _addresses: list[tuple[int, str]] = field(default_factory=list)
    _owners: dict[str, str] = field(default_factory=dict)

    def add(self, service: str, cones: Sequence[PortCone], frontends: Sequence[str]) -> None:
        """Note a Service that was not walked. The text of its rules is let go: it is the node's own."""
        self._added[service] = [cone._replace(cone=cone.cone._replace(text="")) for cone in cones], frontends

    @property
    def twins(self) -> dict[str, Twin]:
        """The Services that were not walked: put together when a further node is looked at, for often there is none."""
        for key, (cones, frontends) in self._added.items():
            self._twins[key] = Twin(
                models=frozenset(cone.model for cone in cones if cone.model),
                cones=tuple([(_addresses(cone), tuple(cone.cone.chains)) for cone in cones]),
                node_ports=tuple([cone.ask.node_port for cone in cones if cone.ask.node_port]),
                frontends=tuple(frontends),
                ports=tuple([cone.dialled for cone in cones]) if any(cone.ask.node_port for cone in cones) else (),
            )
        self._added.clear()
        return self._twins

    @property
    def most(self) -> int:
        """The most endpoints that a twin's port has."""
        return max((len(addresses) for twin in self.twins.values() for addresses, _ in twin.cones), default=0)

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
        if self._asked_at(view):
            near.update(key for key, twin in self.twins.items() if twin.node_ports)
        try:
            found = self._changed(rules, changed, view)
        except ValueError:
            return None  # an address that is none: the walk says so
        if found is None:
            return None
        return Difference(near | found.touched, found.rules)

    def _changed(self, rules: IptablesRules, changed: frozenset[tuple[str, str]], view: NodeView) -> Difference | None:
        touched: set[str] = set()
        chains = changed - _ENTRY_CHAINS
        if chains and not self._owners:
            self._owners = {chain: key for key, twin in self.twins.items() for _, names in twin.cones for chain in names}
        for table, chain in chains:
            if table != "nat" or not chain.startswith(OWN):
                return None
            if chain in self._owners:  # others belong to Services that are walked anyway, or to none
                touched.add(self._owners[chain])
        if not changed & _ENTRY_CHAINS:
            return Difference(touched, bool(chains))
        differing = self.entries.differing(Entries(rules.tables["nat"].chains))
        if differing is None:
            return None
        addresses, ports = differing
        if any(contains(view.local, number(address)) for address in addresses):
            return None
        if addresses or ports:
            touched.update(
                key for key, twin in self.twins.items()
                if not ports.isdisjoint(twin.node_ports) or any(not addresses.isdisjoint(known) for known, _ in twin.cones)
            )  # fmt: skip
        return Difference(touched, bool(chains or addresses or ports))

    def _asked_at(self, view: NodeView) -> bool:
        """Whether rules ask for single addresses that are this node's own, and were not the first one's.

        They were weighed there as rules that no node port can meet.
        """
        own = subtract(view.local, self.view.local)
        return any(contains(own, address) for address in self.cells.pinned | {number(a) for a in self.entries.addresses})

    def _near(self, view: NodeView) -> set[str]:
        """Services that have an address which this node does not take for what the first one takes it for."""
        pairs = (
            (view.local, self.view.local),
            (view.detector.pods, self.view.detector.pods),
            (view.pod_networks, self.view.pod_networks),
        )
        odd = union(part for a, b in pairs if a != b for part in (subtract(a, b), subtract(b, a)))
        if odd and not self._addresses:
            self._addresses = sorted(
                (number(address), key) for key, twin in self.twins.items() for addresses, _ in twin.cones for address in addresses
            )
        return {key for low, high in odd for key in self._between(low, high)}

    def _between(self, low: int, high: int) -> list[str]:
        start = bisect_left(self._addresses, (low, ""))
        return [key for _, key in self._addresses[start : bisect_left(self._addresses, (high + 1, ""))]]

    def right(self, wrong: Iterable[str], touched: set[str]) -> set[str]:
        """The twins that are right on another node, where these Services are not."""
        bad = {*wrong, *touched}
        return {key for key, twin in self.twins.items() if key not in touched and twin.models.isdisjoint(bad)}


def _addresses(cone: PortCone) -> tuple[str, ...]:
    return (*cone.ask.addresses, *cone.cone.ips)
