"""One node during its audit: what was read of it, and what is known of it so far."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..checks.frame_iptables import Stops
from ..checks.observation import Answered, Observation, Result, Unsure
from ..expect.endpoints import orders, plain_backends
from ..expect.routes import NodeView, filtering_ranges, plan_service
from ..expect.versions import Behaviour
from ..model.cluster import Node, ProxyConfig, Service, Slice
from ..model.fast_dataclass import dataclass
from ..model.flow import Flow
from ..model.plan import Expectation, PortPlan
from ..model.snapshot import NodeDump
from ..model.walk_result import Observed
from .ask_port import AskedPort, Ground, Listener
from .context import ClusterContext
from .ledger import Ledger
from .view import node_view


class _Asked(NamedTuple):
    """One Service port, and what the rules answered to each expectation."""

    plan: PortPlan
    answers: list[tuple[Expectation, Observed, list[Result]]]

    @property
    def wrong(self) -> int:
        return sum(isinstance(result, Observation | Unsure) for _, _, results in self.answers for result in results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One node during its audit."""

    context: ClusterContext
    node: Node
    dump: NodeDump
    config: ProxyConfig
    behaviour: Behaviour
    families: Sequence[int]
    """The families of the Services asked for, as far as this kube-proxy serves them."""
    sysctl: Mapping[str, str]
    flows: Mapping[int, Sequence[Flow]]
    """Family -> the connections that were read."""
    ledger: Ledger
    listeners: Sequence[Listener] = ()

    def view(self, family: int) -> NodeView:
        """What expectations on this node depend on, in one family."""
        return node_view(self.context, self.node, self.dump, family, self.config, self.behaviour)

    def programmed(self) -> Iterator[Service]:
        """The Services asked for that this kube-proxy has rules for."""
        for service in self.context.services:
            if not (service.skipped or (service.headless_label and self.behaviour.ignores_headless_label)):
                yield service

    def slices_of(self, service: Service) -> tuple[Slice, ...]:
        """The Service's endpoints, from the objects that this kube-proxy reads."""
        found = self.context.slices_of(service, legacy=not self.behaviour.reads_slices)
        if any(piece.named or piece.headless for piece in found):
            behaviour = self.behaviour
            unseen = (behaviour.ignores_named_endpoints, behaviour.ignores_headless_label)
            return tuple(p for p in found if not (p.named and unseen[0]) and not (p.headless and unseen[1]))
        return found

    def hairpins(self, services: Collection[str], view: NodeView) -> set[str]:
        """Of plain Services those whose endpoints can be their own clients here, so that a rule has to masquerade that."""
        if not self.behaviour.hairpin_local_only:
            return set(services)
        me, wanted, found = view.node.name.strip().lower(), set(services), set()
        for service in self.programmed():
            if service.key in wanted:
                slices = self.slices_of(service)
                each = (plain_backends(slices, port, view.family) for port in service.ports)
                if any((node or "").lower() == me for backends in each if backends for node in backends[1]):
                    found.add(service.key)
        return found

    def walk(self, service: Service, slices: Sequence[Slice], ground: Ground, stops: Stops) -> bool:
        """Ask the rules about one Service; True if everything is as it should be. Notes in `stops` who should be stopped."""
        view, ledger = ground.view, self.ledger
        if filtering_ranges(service, view):
            stops.filtered.add(service.key)
        before = ledger.mark
        told = service.key in ledger.ways
        first, *others = orders(slices)
        asked = self._ask(service, first, ground)
        for order in others:
            if any(port.wrong for port in asked):
                # kube-proxy may have met the slices in this order: what fits its rules better is taken.
                asked = min(asked, self._ask(service, order, ground), key=lambda ports: sum(port.wrong for port in ports))
        for plan, answers in asked:
            for listener in self.listeners:
                listener(AskedPort(plan=plan, ground=ground))
            for expectation, observed, results in answers:
                stops.add(service.key, expectation)
                ledger.expected(expectation, service.key, view.family)
                for result in results:
                    ledger.note(result)
                if not any(isinstance(result, Answered) for result in results):
                    ledger.shares_of(plan, expectation, observed, view)
        right = before == ledger.mark
        if right and not told and self.context.worth_comparing:
            ledger.ways.pop(service.key, None)  # nobody knows the path of its twins, and who is a twin depends on the node
        return right

    def _ask(self, service: Service, slices: Sequence[Slice], ground: Ground) -> list[_Asked]:
        """Ask the rules everything about one Service, with its slices in this order."""
        asked = []
        for plan in plan_service(service, slices, ground.view):
            found = [(expectation, ground.observe(expectation)) for expectation in plan.expectations]
            asked.append(_Asked(plan, [(e, seen, list(ground.compare(plan, e, seen))) for e, seen in found]))
        return asked
