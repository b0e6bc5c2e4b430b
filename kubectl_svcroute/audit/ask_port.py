"""Ask a node's rules about one Service port, and compare the answers with what should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..checks.case import Case, Facts
from ..checks.compare import compare
from ..checks.landmarks import Landmarks
from ..checks.observation import Result
from ..expect.names import endpoint_hash, nft_endpoint
from ..expect.routes import NodeView
from ..model.fast_dataclass import dataclass, field
from ..model.net import Backend
from ..model.plan import Expectation, PortPlan
from ..model.ranges import Ranges
from ..model.routes import Client
from ..model.walk_result import Observed, Step
from ..observe.ask import Asker
from ..observe.packet import Without


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One family of a node: its rules, ready to be asked, and what is known of them as a whole."""

    view: NodeView
    asker: Asker
    landmarks: Landmarks
    facts: Facts
    suspects: list[frozenset[Step]] = field(default_factory=list)
    """Other programs' rules that were found to blame."""

    def observe(
        self, expectation: Expectation, sources: Ranges | None = None, *, without: Without | None = None
    ) -> Observed:
        """What the rules do with the packets that an expectation is about. `sources`: those of some of its sources only."""
        from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
        return self.asker.ask(
            expectation.frontend, expectation.sources if sources is None else sources,
            from_node=expectation.from_node, from_pod=from_pod, without=without,
        )  # fmt: skip

    def case(self, plan: PortPlan, expectation: Expectation, observed: Observed) -> Case:
        """One question beside both answers."""
        config, behaviour = self.view.config, self.view.behaviour
        return Case(
            plan=plan,
            expectation=expectation,
            observed=observed,
            landmarks=self.landmarks,
            facts=self.facts,
            pod_networks=self.view.pod_networks,
            tolerance=behaviour.share_tolerance,
            mark=1 << config.masquerade_bit,
            clears_mark=behaviour.clears_mark,
            endpoint_chain=endpoint_chains(plan, nftables=behaviour.nftables),
            ask_without=lambda sources, without: self.observe(expectation, sources, without=without),
            suspects=self.suspects,
        )

    def compare(
        self, plan: PortPlan, expectation: Expectation, observed: Observed
    ) -> Iterator[Result]:
        """What is wrong, or cannot be judged."""
        return compare(self.case(plan, expectation, observed))


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPort:
    """One Service port of one family on the node: what should be, and the rules to ask."""

    plan: PortPlan
    ground: Ground

    @property
    def view(self) -> NodeView:
        """The node, as the expectations see it."""
        return self.ground.view

    @property
    def asker(self) -> Asker:
        """The node's rules."""
        return self.ground.asker

    def again(self, expectation: Expectation) -> list[Result]:
        """What the audit says about one expectation alone."""
        return list(self.ground.compare(self.plan, expectation, self.ground.observe(expectation)))


Listener = Callable[[AskedPort], None]
"""Is told of every Service port before it is asked about: trace and probe keep them to ask again."""


def endpoint_chains(plan: PortPlan, *, nftables: bool) -> Callable[[Backend], frozenset[str]]:
    """The names that the chain of an endpoint of this port can have."""
    service, port = plan.service, plan.port

    def chains(backend: Backend) -> frozenset[str]:
        where = (service.namespace, service.name, port.name, port.protocol, backend.address, backend.port)
        if nftables:
            return frozenset(("endpoint-" + nft_endpoint(*where),))
        return frozenset("KUBE-SEP-" + endpoint_hash(*where, colon=colon) for colon in (False, True))

    return chains
