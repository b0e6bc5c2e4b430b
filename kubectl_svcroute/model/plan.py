"""What should happen on a node: which backends count, and where each client's packets should go."""

from __future__ import annotations

from .cluster import Endpoint, Service, ServicePort
from .fast_dataclass import dataclass, field
from .net import Backend, Frontend
from .ranges import Ranges, number
from .routes import Action, Client, Leg, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One endpoint as a place that a Service port could send to."""

    backend: Backend
    endpoint: Endpoint
    local: bool
    """It is on the node in question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which backends one node's kube-proxy uses for one Service port."""

    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]
    any: bool
    known: dict[Backend, Candidate]
    """Every backend that the API knows for the port, used or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What should happen to the packets of some sources to one frontend."""

    frontend: Frontend
    client: Client
    sources: Ranges
    from_node: bool
    action: Action
    also: frozenset[Action] = frozenset()
    """Other actions that are as right, where versions or the kubelet decide."""
    backends: tuple[Backend, ...] = ()
    masquerade: str = "self"
    """`always`; `self`: only what returns to its own source."""
    free: frozenset[Backend] = frozenset()
    """Backends at which masquerade cannot be or does not matter: the node's own addresses."""
    affinity: int | None = None
    port: ServicePort | None = field(default=None, repr=False)
    explicit: bool = False
    """The packet should be let in by a rule of kube-proxy's, not only by a policy (health-check node ports)."""
    denied: bool = False
    """Closed by source ranges."""
    lenient_masquerade: frozenset[Backend] = frozenset()
    """Backends for which not masquerading their own packets is as right (nftables 1.36, endpoints of other nodes)."""

    def route(self, source: int | None = None) -> Route:
        """The Route for one source address (which one matters only to `self`)."""
        if self.action is not Action.TRANSLATE:
            return Route(legs=((Leg(self.action, None, None), 1.0),))
        legs = []
        share = 1 / len(self.backends)
        for backend in self.backends:
            masquerade: bool | None
            if backend in self.free:
                masquerade = None
            elif self.masquerade == "always":
                masquerade = True
            else:
                masquerade = source is not None and number(backend.address) == source
            legs.append((Leg(Action.TRANSLATE, backend, masquerade), share))
        return Route(legs=tuple(legs), affinity=self.affinity)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """One Service port on one node and family: what counts there, and what should happen."""

    service: Service
    port: ServicePort
    family: int
    selection: Selection
    expectations: tuple[Expectation, ...]
