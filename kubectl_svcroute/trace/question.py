"""What `trace` is asked: the question, the frontend that it means, and the audited node that can be asked again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..audit.cluster import Audit
from ..audit.node import NodeAudit
from ..checks.blame import Facts
from ..checks.landmarks import Landmarks
from ..checks.observation import Observation, Unsure
from ..errors import UsageError
from ..expect.routes import NodeView
from ..model.cluster import Node, ProxyConfig, Service
from ..model.fast_dataclass import dataclass, replace
from ..model.net import Frontend, FrontendKind, canonical_ip, host_port
from ..model.node_result import NodeResult
from ..model.plan import Expectation, PortPlan
from ..model.report import Finding
from ..model.routes import Client
from ..model.snapshot import NodeDump
from ..observe.ask import Asker

_KINDS = {
    "cluster": FrontendKind.CLUSTER_IP,
    "clusterip": FrontendKind.CLUSTER_IP,
    "nodeport": FrontendKind.NODE_PORT,
    "lb": FrontendKind.LOAD_BALANCER,
    "loadbalancer": FrontendKind.LOAD_BALANCER,
    "external": FrontendKind.EXTERNAL_IP,
    "externalip": FrontendKind.EXTERNAL_IP,
    "health": FrontendKind.HEALTH_CHECK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked."""

    service: str
    """`namespace/name`."""
    client: Client = Client.POD
    to: str = ""
    """A frontend as the user names it; empty for the cluster IP and its first port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One Service port of one family on the node: what should be, and the rules to ask."""

    plan: PortPlan
    view: NodeView
    asker: Asker
    landmarks: Landmarks
    facts: Facts


class Watched(NodeAudit):
    """The audit of a node that keeps what it asked, to ask one question of it again."""

    def __init__(self, whole: Audit, node: Node, dump: NodeDump) -> None:
        super().__init__(whole, node, dump)
        self.grounds: list[Ground] = []
        self.config: ProxyConfig | None = None
        self.asked_for: list[Unsure] = []
        self._concluded: tuple[Any, ...] = (None, None)

    def _port(self, plan: PortPlan, view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts) -> None:
        self.grounds.append(Ground(plan=plan, view=view, asker=asker, landmarks=landmarks, facts=facts))
        super()._port(plan, view, asker, landmarks, facts)

    def _not_sure(self, unsure: Unsure) -> None:
        self.asked_for.append(unsure)
        super()._not_sure(unsure)

    def _result(self, *given: Any) -> NodeResult:
        self._concluded = given
        self.config = given[0]
        return super()._result(*given)

    def again(self, ground: Ground, expectation: Expectation) -> tuple[list[Observation], list[Unsure]]:
        """What the audit says of one expectation alone."""
        observed, unsure = len(self.observations), len(self.asked_for)
        plan = replace(ground.plan, expectations=(expectation,))
        super()._port(plan, ground.view, ground.asker, ground.landmarks, ground.facts)
        found = self.observations[observed:], self.asked_for[unsure:]
        del self.observations[observed:]
        return found

    def findings(self, observations: Iterable[Observation]) -> tuple[Finding, ...]:
        """What some observations come to."""
        kept, self.observations = self.observations, list(observations)
        try:
            found = super()._result(*self._concluded).findings
            # One Service is all that was asked for, so its number says nothing here.
            return tuple(replace(f, message=f.message.removesuffix("; 1 Service affected")) for f in found)
        finally:
            self.observations = kept


def choose_frontend(to: str, service: Service, grounds: Sequence[tuple[PortPlan, Frontend]]) -> Frontend:
    """The frontend that the user means by `10.0.0.1:80`, `30080`, `nodeport`, `lb:https`, `http`. Raises UsageError for none."""
    fronts = list(dict.fromkeys(front for _, front in grounds))
    ports = {front: plan.port for plan, front in grounds}
    own = {a: n for n, a in enumerate(service.cluster_ips)}
    order = {str(port): n for n, port in enumerate(service.ports)}
    fronts.sort(key=lambda f: (own.get(f.address, 0) if f.address in own else f.family != _family(service), order[str(ports[f])]))
    wanted = to.strip()
    word, _, rest = wanted.lower().partition(":")
    bare, _, protocol = wanted.partition("/")
    if not wanted:
        found = [f for f in fronts if f.kind is FrontendKind.CLUSTER_IP]
    elif word in _KINDS and "." not in wanted:
        found = [f for f in fronts if f.kind is _KINDS[word]]
        if rest:
            found = [f for f in found if rest in (str(f.port), str(ports[f].port), ports[f].name.lower())]
    elif bare.isdigit():
        found = [f for f in fronts if f.port == int(bare)]
        found.sort(key=lambda f: f.kind is not FrontendKind.NODE_PORT)
    elif any(port.name == wanted for port in service.ports):
        found = [f for f in fronts if ports[f].name == wanted and f.kind is FrontendKind.CLUSTER_IP]
    else:
        found = [f for f in fronts if bare in (host_port(f.address, f.port), f.address) or _same_address(bare, f.address)]
    if protocol:
        found = [f for f in found if f.protocol.value == protocol.upper()]
    # 127.0.0.1 is a node port's last address, because only the node itself reaches it.
    found.sort(key=lambda f: f.address in ("127.0.0.1", "::1"))
    if not found:
        have = ", ".join(f"{f} ({f.kind})" for f in fronts[:8]) + (", …" if len(fronts) > 8 else "")
        raise UsageError(f"--to {to}: {service.key} has no such frontend on this node; it has {have}")
    return found[0]


def _family(service: Service) -> int:
    return 6 if service.cluster_ips and ":" in service.cluster_ips[0] else 4


def _same_address(text: str, address: str) -> bool:
    try:
        return canonical_ip(text.strip("[]")) == address
    except ValueError:
        return False
