"""Which Services of a node are plain enough to be compared with one another, instead of being walked one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .expect.endpoints import plain_backends
from .expect.names import port_name
from .expect.routes import NodeView
from .model.cluster import Service, ServicePort, Slice
from .model.net import host_port
from .model.ranges import number, single, subtract, union
from .model.records import dataclass
from .observe.twins import Ask, Cone, Twins

if TYPE_CHECKING:
    from .again import Reference
    from .observe.twins_nft import NftTwins


@dataclass(frozen=True, slots=True, kw_only=True)
class PortCone:
    """One Service port that may be the twin of another."""

    port: ServicePort
    ask: Ask
    cone: Cone
    key: object
    model: str | None
    """The Service that was walked, and whose rules these are but for names and addresses; None when there is none."""

    def dialled(self, node_ports: Sequence[str]) -> list[str]:
        """Its frontends as text; `node_ports` are the addresses where its node port is served."""
        dialled = [(address, self.port.port) for address in self.ask.addresses]
        if self.port.node_port:
            dialled += [(address, self.port.node_port) for address in node_ports]
        return [f"{host_port(address, number_)}/{self.port.protocol.value}" for address, number_ in dialled]

    @property
    def twin(self) -> bool:
        """Whether there is such a Service."""
        return self.model is not None


class Alike:
    """Which Services of a node are plain enough to be compared with one another instead of being walked one by one."""

    def __init__(self, twins: Twins | NftTwins, view: NodeView) -> None:
        self.twins = twins
        self.family = view.family
        self.colon = view.config.version <= (1, 18)
        self.external_ips = view.behaviour.external_ips
        self.ip_mode = view.behaviour.ip_mode
        self.view = view
        self.reference: Reference | None = None
        """Where further nodes are to be held against this one: what they need to know of its Services."""
        self.me = view.node.name.strip().lower() if view.behaviour.hairpin_local_only else ""
        self.room = sum(high - low + 1 for low, high in view.pods)

    def cones(self, service: Service, slices: Sequence[Slice]) -> list[PortCone] | None:
        """The cones of all ports of a plain Service whose rules send exactly where they should; None otherwise."""
        v6 = self.family == 6
        addresses = [ip for ip in service.cluster_ips if (":" in ip) == v6]
        # Policies and source ranges give each node, or each source, another answer: these are walked.
        if service.internal_local or service.external_local or service.source_ranges or len(addresses) != 1:
            return None
        kinds = ["cluster"]
        if self.external_ips:
            addresses += [ip for ip in service.external_ips if (":" in ip) == v6]
        kinds += ["external"] * (len(addresses) - 1)
        balancers = [ip for ip, mode in service.load_balancer_ips if (":" in ip) == v6 and not (self.ip_mode and mode == "Proxy")]
        kinds += ["balancer"] * len(balancers)
        found = []
        for port in service.ports:
            backends = plain_backends(slices, port, self.family)
            if backends is None:
                return None
            ask = Ask(
                addresses=(*addresses, *balancers),
                kinds=tuple(kinds),
                proto=port.protocol.value.lower(),
                port=port.port,
                node_port=port.node_port,
                names=port_name(service.namespace, service.name, port.name, colon=self.colon),
                count=len(backends),
                affinity=service.affinity,
                local=frozenset(text for text, node in backends.items() if node == self.me) if self.me else frozenset(),
            )
            try:
                cone = self.twins.cone(ask)
            except ValueError:
                return None  # a rule that sends to what is no address: the walk says so
            if cone is None or backends.keys() != set(cone.destinations):
                return None
            key = self.twins.key(cone, ask)
            if key is None or not self._pods_ask(cone):
                return None
            found.append(PortCone(port=port, ask=ask, cone=cone, key=key, model=self.twins.models.of(key, cone)))
        return found

    def _pods_ask(self, cone: Cone) -> bool:
        """Whether pods that are no endpoints are among the clients of a Service: they are of all the others."""
        if not self.room or self.room > len(cone.ips):
            return True
        return bool(subtract(self.view.pods, union(single(number(ip)) for ip in cone.ips)))

    def learn(self, service: str, cones: Sequence[PortCone]) -> None:
        """Take what was walked and found right as models."""
        for cone in cones:
            if not cone.twin:
                self.twins.models.learn(cone.key, cone.cone, service)
