"""Connections that are there already: do they still lead to an endpoint?

Rules are asked for the first packet of a connection alone. Where it went is kept with the connection, and a UDP flow lasts as
long as somebody sends: a client that keeps its port (DNS resolvers, tunnels, metrics) stays on an endpoint that is gone, or on
none, while every rule is right. kube-proxy deletes such entries when it sees an endpoint go; versions have missed some
(kubernetes issues 125467, 126130, 139628).

A TCP connection to an endpoint that is gone ends by itself, when the client gives up: that is worth knowing, and no fault.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..model.cluster import Service
from ..model.flow import Flow
from ..model.net import Backend, Frontend, FrontendKind, Protocol
from ..model.plan import Expectation, PortPlan
from ..model.ranges import Ranges, contains, number
from ..model.routes import Action
from .observation import Observation

_SHOWN = 3
"""So many entries are shown as evidence."""


def flows_of_services(
    flows: Sequence[Flow], services: Iterable[Service], local: Ranges, address: str
) -> Mapping[str, list[Flow]]:
    """Service -> the connections that somebody opened to one of its addresses, or to a node port of this node.

    Not those in a zone of their own: what Open vSwitch tracks has not met kube-proxy's rules there. A node port of another node
    is that node's business.
    """
    own: dict[tuple[str, Protocol, int], str] = {}
    ports: dict[tuple[Protocol, int], str] = {}
    for service in services:
        if service.skipped:
            continue
        for port in service.ports:
            own.update({(ip, port.protocol, port.port): service.key for ip in service.addresses})
            if port.node_port:
                ports[port.protocol, port.node_port] = service.key
    found: dict[str, list[Flow]] = defaultdict(list)
    for flow in flows:
        if flow.zone:
            continue
        key = own.get((flow.dst, flow.protocol, flow.dport))
        if key is None and (flow.protocol, flow.dport) in ports:
            here = flow.dst == address or contains(local, number(flow.dst))
            key = ports[flow.protocol, flow.dport] if here else None
        if key is not None:
            found[key].append(flow)
    return found


def stale_flows(plan: PortPlan, flows: Sequence[Flow]) -> Iterator[Observation]:
    """Connections to one Service port that lead nowhere."""
    dialled: dict[tuple[str, int], list[Expectation]] = defaultdict(list)
    for expectation in plan.expectations:
        if expectation.frontend.kind is not FrontendKind.HEALTH_CHECK:
            dialled[expectation.frontend.address, expectation.frontend.port].append(expectation)
    gone: dict[tuple[Frontend, Backend], list[Flow]] = defaultdict(list)
    idle: dict[Frontend, list[Flow]] = defaultdict(list)
    for flow in flows:
        expectations = dialled.get((flow.dst, flow.dport))
        if not expectations or flow.protocol is not plan.port.protocol:
            continue
        backend = Backend(flow.reply_src, flow.reply_sport)
        if flow.translated:
            if backend not in plan.selection.known:
                gone[expectations[0].frontend, backend].append(flow)
        elif _should_be_translated(flow, expectations):
            idle[expectations[0].frontend].append(flow)
    for (frontend, backend), group in sorted(gone.items(), key=lambda item: (str(item[0][0]), item[0][1])):
        tcp = plan.port.protocol is Protocol.TCP
        held = [flow for flow in group if not tcp or flow.state == "ESTABLISHED"]
        if held and plan.port.protocol in (Protocol.TCP, Protocol.UDP):
            what = "TCP connections" if tcp else "UDP flows"
            yield _observe(
                plan,
                "SR623" if tcp else "SR621",
                frontend,
                held,
                f"{what} to {frontend} are held to {backend}, which is no endpoint of the Service",
                key=f"{backend}",
            )
    for frontend, group in sorted(idle.items(), key=lambda item: str(item[0])):
        message = f"UDP flows to {frontend} are held untranslated, and the Service has usable endpoints"
        yield _observe(plan, "SR622", frontend, group, message, key="untranslated")


def _should_be_translated(flow: Flow, expectations: Sequence[Expectation]) -> bool:
    """Whether every rule sends such a client to an endpoint. TCP cannot be held so: without an answer there is no connection."""
    if flow.protocol is not Protocol.UDP:
        return False
    mine = [e for e in expectations if contains(e.sources, number(flow.src))]
    return bool(mine) and all(e.action is Action.TRANSLATE for e in mine)


def _observe(
    plan: PortPlan, code: str, frontend: Frontend, flows: Sequence[Flow], message: str, *, key: str
) -> Observation:
    silent = sum(not flow.replied for flow in flows)
    clients = len({flow.src for flow in flows})
    return Observation(
        code=code,
        node_wide=False,
        service=plan.service.key,
        message=message,
        key=f"{frontend} {key}",
        frontend=frontend,
        expected="each connection leads to an endpoint that there is",
        observed=f"{len(flows)} of {clients} client{'s' if clients != 1 else ''}, {silent} without an answer",
        evidence=tuple(" ".join(flow.raw.split()) for flow in flows[:_SHOWN]),
    )
