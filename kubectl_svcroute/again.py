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

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
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


class Twin(NamedTuple):
    """A Service that was not walked."""

    cones: Sequence[PortCone]
    """Of each port, without the text of its rules."""
    frontends: Sequence[str]

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
    twins: dict[str, Twin] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)
    """Every single address that a rule asks for."""
    _addresses: list[tuple[int, str]] = field(default_factory=list)
    _owners: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def kept(cones: Sequence[PortCone]) -> list[PortCone]:
        """What is kept of a Service that was not walked: no rules, which are the node's own."""
        return [cone._replace(key=None, cone=cone.cone._replace(text="", values=())) for cone in cones]

    def add(self, service: str, cones: Sequence[PortCone], frontends: Sequence[str]) -> None:
        """Note a Service that was not walked; `cones` as `kept` gives them."""
        self.twins[service] = Twin(cones, frontends)

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
            self._owners = {chain: key for key, twin in self.twins.items() for one in twin.cones for chain in one.cone.chains}
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
                if not ports.isdisjoint(twin.node_ports) or any(not addresses.isdisjoint(_addresses(one)) for one in twin.cones)
            )  # fmt: skip
        return Difference(touched, bool(chains or addresses or ports))

    def _asked_at(self, view: NodeView) -> bool:
        """Whether rules ask for single addresses that are this node's own, and were not the first one's.

        They were weighed there as rules that no node port can meet.
        """
        own = subtract(view.local, self.view.local)
        if not self._asked:
            self._asked = sorted(self.cells.pinned.union(map(number, self.entries.addresses)))
        return any(bisect_right(self._asked, high) > bisect_left(self._asked, low) for low, high in own)

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
                (number(address), key) for key, twin in self.twins.items() for one in twin.cones for address in _addresses(one)
            )
        return {key for low, high in odd for key in self._between(low, high)}

    def _between(self, low: int, high: int) -> list[str]:
        start = bisect_left(self._addresses, (low, ""))
        return [key for _, key in self._addresses[start : bisect_left(self._addresses, (high + 1, ""))]]

    def right(self, wrong: Iterable[str], touched: set[str]) -> set[str]:
        """The twins that are right on another node, where these Services are not."""
        bad = {*wrong, *touched}
        return {key for key, twin in self.twins.items() if key not in touched and bad.isdisjoint(twin.models)}


def _addresses(cone: PortCone) -> tuple[str, ...]:
    return (*cone.ask.addresses, *cone.cone.ips)
