"""What `trace` is asked: the question, the frontend that it means, and the audited node that can be asked again."""

from __future__ import annotations

from collections.abc import Sequence

from ..audit.ask_port import AskedPort
from ..audit.node import Audited
from ..checks.observation import Observation
from ..errors import UsageError
from ..model.cluster import Node, Service
from ..model.fast_dataclass import dataclass, replace
from ..model.net import Frontend, FrontendKind, canonical_ip, host_port
from ..model.plan import PortPlan
from ..model.report import Finding
from ..model.routes import Client

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
class TracedNode:
    """An audited node that can be asked one question again."""

    node: Node
    audited: Audited
    ports: Sequence[AskedPort]

    @property
    def observations(self) -> Sequence[Observation]:
        """Everything that the audit found wrong."""
        return self.audited.ledger.observations

    def findings(self, observations: Sequence[Observation]) -> tuple[Finding, ...]:
        """What some observations come to."""
        # One Service is all that was asked for, so its number says nothing here.
        found = self.audited.findings(observations)
        return tuple(replace(f, message=f.message.removesuffix("; 1 Service affected")) for f in found)


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
