"""Which endpoints count, for one Service port, one family and one node (kube-proxy-rules.md, section 4).

* An endpoint is *usable* when it is ready; where no ready one is left, one that is still serving while it terminates.
* The *cluster list* is what most traffic is spread over: the usable endpoints that topology hints leave.
* The *local list* is what local traffic policies allow: the usable endpoints on the node; hints do not apply.
* *Any* tells "no endpoints" (reject) from "none here" (drop): whether any usable endpoint exists anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model.cluster import Node, Service, ServicePort, Slice
from ..model.net import Backend
from ..model.plan import Candidate, Selection
from .versions import Behaviour


def candidates(
    slices: Iterable[Slice], port: ServicePort, family: int, node: Node, behaviour: Behaviour
) -> dict[Backend, Candidate]:
    """All endpoints of one port and family, by address and port.

    The slice's port is found by name and protocol; the Service's targetPort is not consulted. Of two copies of one address
    and port (slices that are being repacked) a local one wins, else the one that is met first (see `orders`); from 1.36 on one
    that does not terminate wins over one that does.
    """
    found: dict[Backend, Candidate] = {}
    me = node.name.strip().lower()
    for piece in slices:
        if piece.family != family:
            continue
        for number in piece.ports:
            if number.name != port.name or number.protocol != port.protocol or not number.port:
                continue
            for endpoint in piece.endpoints:
                backend = Backend(endpoint.address, number.port)
                local = (endpoint.node or "").lower() == me
                candidate = Candidate(backend=backend, endpoint=endpoint, local=local)
                other = found.get(backend)
                if other is None or _wins(candidate, other, behaviour):
                    found[backend] = candidate
    return found


def _wins(new: Candidate, old: Candidate, behaviour: Behaviour) -> bool:
    if behaviour.prefers_lasting and new.endpoint.terminating != old.endpoint.terminating:
        return old.endpoint.terminating
    return new.local


def orders(slices: Sequence[Slice]) -> Sequence[Sequence[Slice]]:
    """The orders in which kube-proxy may meet a Service's slices, as far as it matters: they are keys of a Go map.

    More than one where an address stands in several slices, and not with the same conditions.
    """
    if len(slices) < 2:
        return (slices,)
    seen: dict[tuple[int, str], object] = {}
    for piece in slices:
        for e in piece.endpoints:
            state = (e.ready, e.serving, e.terminating, e.node, e.zone_hints, e.node_hints)
            if seen.setdefault((piece.family, e.address), state) != state:
                return (slices, slices[::-1])
    return (slices,)


def select(service: Service, found: dict[Backend, Candidate], node: Node, behaviour: Behaviour, *, external: bool) -> Selection:
    """Which of the endpoints count. `external`: the port has a node port, a load-balancer IP or an external IP."""
    internal_local = service.internal_local and behaviour.internal_policy
    if behaviour.internal_yields and service.external_local:
        internal_local = False
    external_local = service.external_local and external
    everything = list(found.values())
    ready = [c for c in everything if c.endpoint.ready]
    spare = [c for c in everything if c.endpoint.serving and c.endpoint.terminating and not c.endpoint.ready]
    if internal_local and behaviour.internal_yields:
        here = tuple(sorted(c.backend for c in ready if c.local))
        return Selection(cluster=here, local=here, any=bool(here), known=found)
    fallback = behaviour.terminating == "always"
    local_fallback = fallback or (behaviour.terminating == "external-local" and external_local)
    cluster: Sequence[Candidate] = ()
    if not internal_local or external:
        cluster = _by_topology(service, ready, node, behaviour)
        if not cluster and fallback:
            cluster = spare
    local: Sequence[Candidate] = ()
    if internal_local or external_local:
        local = [c for c in ready if c.local] or ([c for c in spare if c.local] if local_fallback else [])
    present = bool(cluster)
    if internal_local or external_local:
        present = present or bool(ready) or (local_fallback and bool(spare))
    return Selection(
        cluster=tuple(sorted(c.backend for c in cluster)),
        local=tuple(sorted(c.backend for c in local)),
        any=present,
        known=found,
    )


def _by_topology(service: Service, ready: list[Candidate], node: Node, behaviour: Behaviour) -> list[Candidate]:
    """The ready endpoints that hints leave to this node; all of them unless every one has hints and some name it."""
    if not ready or not _asks_for_hints(service, behaviour):
        return ready
    if behaviour.node_hints and all(c.endpoint.node_hints is not None for c in ready):
        mine = [c for c in ready if node.name in (c.endpoint.node_hints or ())]
        if mine:
            return mine
    if behaviour.zone_hints and node.zone and all(c.endpoint.zone_hints is not None for c in ready):
        mine = [c for c in ready if node.zone in (c.endpoint.zone_hints or ())]
        if mine:
            return mine
    return ready


def _asks_for_hints(service: Service, behaviour: Behaviour) -> bool:
    """Whether kube-proxy looks at hints for this Service (CategorizeEndpoints and its predecessors)."""
    if not behaviour.hints_annotation:
        return True
    if behaviour.hints_annotation == "auto":
        return service.topology_aware_hints in ("Auto", "auto")
    return (service.topology_aware_hints or service.topology_mode) not in ("", "disabled", "Disabled")


def plain_backends(slices: Iterable[Slice], port: ServicePort, family: int) -> tuple[list[str], list[str | None]] | None:
    """(the backends of a port as text, the node of each), where every endpoint is ready, unhinted and stands once.

    None otherwise. For such a port `select` says the same on every node: all of them (where no local policy asks for less).
    """
    texts: list[str] = []
    nodes: list[str | None] = []
    name, protocol = port.name, port.protocol
    for piece in slices:
        if piece.family != family:
            continue
        for number in piece.ports:
            if number.name != name or number.protocol is not protocol:
                continue
            if piece.plain is not None:
                addresses, on, _ = piece.plain
            else:
                for endpoint in piece.endpoints:
                    if not endpoint.ready or endpoint.zone_hints is not None or endpoint.node_hints is not None:
                        return None
                addresses, on = [e.address for e in piece.endpoints], [e.node for e in piece.endpoints]
            where = f"]:{number.port}" if family == 6 else f":{number.port}"
            before = "[" if family == 6 else ""
            texts += [before + address + where for address in addresses]
            nodes += on
    return (texts, nodes) if texts and len(set(texts)) == len(texts) else None
