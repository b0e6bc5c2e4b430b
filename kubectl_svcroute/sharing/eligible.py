"""Which Services of a node are plain enough to be compared with one another, instead of being walked one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..expect.endpoints import plain_backends
from ..expect.names import port_name
from ..expect.routes import NodeView
from ..model.cluster import Service, ServicePort, Slice
from ..model.net import host_port
from ..model.ranges import number, single, subtract, union
from .iptables import Ask, Cone, Twins

if TYPE_CHECKING:
    from .nftables import NftTwins
    from .reference import Reference
    from .reference_nft import NftReference

_CLUSTER = ("cluster",)
_NOWHERE: frozenset[str] = frozenset()


class PortCone(NamedTuple):
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
        self.reference: Reference | NftReference | None = None
        """Where further nodes are to be held against this one: what they need to know of its Services."""
        self.covered: set[str] = set()
        """The chains of twins: each is led to, and none leads on to other Services' chains."""
        self.me = view.node.name.strip().lower() if view.behaviour.hairpin_local_only else ""
        self.room = sum(high - low + 1 for low, high in view.pods)

    def cones(self, service: Service, slices: Sequence[Slice]) -> list[PortCone] | None:
        """The cones of all ports of a plain Service whose rules send exactly where they should; None otherwise."""
        # Policies and source ranges give each node, or each source, another answer: these are walked.
        if service.internal_local or service.external_local or service.source_ranges:
            return None
        dialled = self._dialled(service)
        if dialled is None:
            return None
        addresses, kinds = dialled
        found = []
        for port in service.ports:
            backends = plain_backends(slices, port, self.family)
            if backends is None:
                return None
            texts, nodes = backends
            ask = Ask(
                addresses,
                kinds,
                port.protocol.value.lower(),
                port.port,
                port.node_port,
                port_name(service.namespace, service.name, port.name, colon=self.colon),
                len(texts),
                service.affinity,
                frozenset([text for text, node in zip(texts, nodes, strict=True) if (node or "").lower() == self.me])
                if self.me
                else _NOWHERE,
            )
            try:
                cone = self.twins.cone(ask)
            except ValueError:
                return None  # a rule that sends to what is no address: the walk says so
            if cone is None or len(texts) != len(cone.destinations) or set(texts) != set(cone.destinations):
                return None
            key = self.twins.key(cone, ask)
            if key is None or not self._pods_ask(cone):
                return None
            found.append(PortCone(port, ask, cone, key, self.twins.models.of(key, cone)))
        return found

    def _dialled(self, service: Service) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """(the addresses of a Service's own, what each of them is); None for one without exactly one cluster IP here."""
        v6 = self.family == 6
        own = [ip for ip in service.cluster_ips if (":" in ip) == v6]
        if len(own) != 1:
            return None
        if not service.external_ips and not service.load_balancer_ips:
            return tuple(own), _CLUSTER
        mine = [ip for ip in service.external_ips if (":" in ip) == v6] if self.external_ips else []
        balancers = [ip for ip, mode in service.load_balancer_ips if (":" in ip) == v6 and not (self.ip_mode and mode == "Proxy")]
        return (*own, *mine, *balancers), ("cluster", *["external"] * len(mine), *["balancer"] * len(balancers))

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
