"""Which frontends one node has for a Service, and where each client's packet should go from each.

The contract, in kube-proxy's own order of thinking:

* which endpoints count is `endpoints.select`'s answer;
* a cluster IP reaches the cluster list, or with internalTrafficPolicy Local the local list or nothing (drop);
* node ports, external IPs and load-balancer IPs reach the cluster list; with externalTrafficPolicy Local the clients from
  outside reach the local list or nothing, and pods and the node itself still reach the cluster list;
* no usable endpoint anywhere: everything is rejected;
* a load-balancer IP with source ranges is closed to every source that is not in one, pods and the node included;
* masqueraded is what could not find its way back: to a cluster IP, what does not come from a pod; to the external
  addresses, everything under policy Cluster and the node's own packets under Local; always, a pod that reaches itself.

An `Expectation` is about a set of sources, because that is what rules tell apart; its `client` is the name that people
have for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..model.cluster import Node, ProxyConfig, Service, ServicePort, Slice
from ..model.fast_dataclass import dataclass
from ..model.net import Backend, Frontend, FrontendKind
from ..model.plan import Expectation, PortPlan, Selection
from ..model.ranges import ALL, EMPTY, Ranges, contains, intersect, network, number, single, subtract, union
from ..model.routes import Action, Client
from .endpoints import candidates, select
from .versions import Behaviour

_NEVER_CLIENTS = {
    # Addresses that no client outside can have: this network, loopback, link-local, multicast and reserved.
    4: union(network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    6: union(network(n) for n in ("::/8", "fe80::/10", "ff00::/8")),
}
LOOPBACK = {4: network("127.0.0.0/8"), 6: network("::1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """How kube-proxy tells a pod's packet from others: by source address, by interface, or not at all."""

    kind: str
    """`cidr`, `interface`, `none`, or `all` (masqueradeAll: nothing counts as a pod's when masquerade is decided)."""
    pods: Ranges = EMPTY
    pattern: str = ""
    """`cbr0` or `veth+`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node, one family: what expectations on it depend on."""

    node: Node
    family: int
    behaviour: Behaviour
    config: ProxyConfig
    detector: Detector
    local: Ranges
    """Addresses that the node holds, loopback included."""
    address: str
    """The one that its own packets leave with; empty when the API shows none of the family."""
    pods: Ranges
    """Addresses that pods on the node can have."""
    outside: Ranges
    """Addresses that clients outside can have."""
    pod_networks: Ranges


def detector_of(config: ProxyConfig, node: Node, family: int) -> Detector:
    """kube-proxy's local traffic detector (proxy/util/localdetector, kube-proxy-rules.md 3.4)."""
    mode = config.detect_local
    if mode == "BridgeInterface" and config.bridge_interface:
        return Detector(kind="interface", pattern=config.bridge_interface)
    if mode == "InterfaceNamePrefix" and config.interface_prefix:
        return Detector(kind="interface", pattern=config.interface_prefix + "+")
    cidrs = node.pod_cidrs if mode == "NodeCIDR" else config.cluster_cidrs
    mine = [c for c in cidrs if (":" in c) == (family == 6)]
    if not mine:
        return Detector(kind="none")
    return Detector(kind="cidr", pods=network(mine[0]))


def never_clients(family: int) -> Ranges:
    """Addresses that no client outside has."""
    return _NEVER_CLIENTS[family]


def filtering_ranges(service: Service, view: NodeView) -> list[str]:
    """The source ranges for which kube-proxy writes a filter, though it may let everybody pass."""
    if view.behaviour.zero_range_opens and any(r.endswith("/0") for r in service.source_ranges):
        return []
    return [r for r in service.source_ranges if (":" in r) == (view.family == 6)]


def plan_service(service: Service, slices: Sequence[Slice], view: NodeView) -> Iterator[PortPlan]:
    """What should happen on one node to one Service, port by port, in one family."""
    family = view.family
    cluster_ips = [ip for ip in service.cluster_ips if (":" in ip) == (family == 6)]
    if service.skipped or not cluster_ips or (service.headless_label and view.behaviour.ignores_headless_label):
        return
    mine = [ip for ip in service.external_ips if (":" in ip) == (family == 6)] if view.behaviour.external_ips else []
    balancers = [
        ip
        for ip, mode in service.load_balancer_ips
        if (":" in ip) == (family == 6) and not (view.behaviour.ip_mode and mode == "Proxy")
    ]
    for port in service.ports:
        external = bool(port.node_port or balancers or mine)
        found = candidates(slices, port, family, view.node, view.behaviour)
        selection = select(service, found, view.node, view.behaviour, external=external)
        planner = _Planner(service, port, view, selection)
        expectations = [
            *planner.cluster_ips(cluster_ips),
            *planner.external_ips(mine),
            *planner.balancers(balancers),
            *planner.node_ports(),
            *planner.health_check(),
        ]
        yield PortPlan(service=service, port=port, family=family, selection=selection, expectations=tuple(expectations))


def own_addresses(view: NodeView) -> list[str]:
    """The node's addresses at which its node ports are asked for: internal ones, where it has any."""
    addresses = list(view.node.ips(view.family))
    return [a for kind, a in view.node.addresses if kind == "InternalIP" and a in addresses] or addresses


def node_port_addresses(view: NodeView) -> list[str]:
    """Where the node port of a Service that has endpoints is asked for: loopback too, where iptables could serve it."""
    loopback = ["127.0.0.1"] if view.family == 4 and not view.behaviour.nftables else []
    return own_addresses(view) + loopback


@dataclass(frozen=True, slots=True)
class _Source:
    """Some sources that a rule could tell apart, and what they are called."""

    client: Client
    sources: Ranges
    from_node: bool
    detected: bool
    """kube-proxy takes these for a pod's packets."""


class _Planner:
    def __init__(self, service: Service, port: ServicePort, view: NodeView, selection: Selection) -> None:
        self.service = service
        self.port = port
        self.view = view
        self.b = view.behaviour
        self.selection = selection
        self.family = view.family
        self.internal_local = service.internal_local and self.b.internal_policy
        if self.b.internal_yields and service.external_local:
            self.internal_local = False
        used = {*selection.cluster, *selection.local}
        self.free = frozenset(x for x in used if contains(view.local, number(x.address)))
        known = union(single(number(x.address)) for x in selection.known)
        # A process on a node reaches the Service as the node, not as the endpoint that it is.
        self.endpoints = intersect(subtract(known, view.local), union((view.pod_networks, view.pods)))
        self.pods = subtract(view.pods, known)
        self.outside = subtract(view.outside, known)

    # ---- who may ask ---------------------------------------------------------------------------------------------

    def sources(self, *, loopback: bool = False) -> Iterator[_Source]:
        """Every source there is, split where kube-proxy's detector splits it."""
        if loopback:
            yield _Source(Client.NODE, single(number("127.0.0.1" if self.family == 4 else "::1")), True, False)
            return
        used = union(single(number(x.address)) for x in {*self.selection.cluster, *self.selection.local})
        for client, ranges in ((Client.POD, self.pods), (Client.HAIRPIN, intersect(self.endpoints, used))):
            yield from self._detected(client, ranges)
        if self.view.address:
            node = single(number(self.view.address))
            detected = self.view.detector.kind == "cidr" and intersect(node, self.view.detector.pods) == node
            yield _Source(Client.NODE, node, True, detected)
        if self.outside:
            yield _Source(Client.OUTSIDE, self.outside, False, False)

    def _detected(self, client: Client, ranges: Ranges) -> Iterator[_Source]:
        detector = self.view.detector
        if not ranges:
            return
        if detector.kind == "cidr":
            inside, outside = intersect(ranges, detector.pods), subtract(ranges, detector.pods)
            if inside:
                yield _Source(client, inside, False, True)
            if outside:
                yield _Source(client, outside, False, False)
        else:
            yield _Source(client, ranges, False, detector.kind == "interface")

    # ---- what should happen -----------------------------------------------------------------------------------------

    def _frontend(self, address: str, kind: FrontendKind, port: int) -> Frontend:
        return Frontend(address, self.port.protocol, port, kind)

    def _sent(self, frontend: Frontend, source: _Source, backends: tuple[Backend, ...], masquerade: str) -> Expectation:
        lenient: frozenset[Backend] = frozenset()
        if self.b.hairpin_local_only:
            lenient = frozenset(x for x in backends if not self.selection.known[x].local)
        return Expectation(
            frontend=frontend, client=source.client, sources=source.sources, from_node=source.from_node,
            action=Action.TRANSLATE, backends=backends, masquerade=masquerade, free=self.free,
            affinity=self.service.affinity, port=self.port, lenient_masquerade=lenient,
        )  # fmt: skip

    def _refused(self, frontend: Frontend, source: _Source, action: Action, *also: Action, denied: bool = False) -> Expectation:
        client = source.client
        if denied and client is Client.OUTSIDE:
            client = Client.STRANGER
        return Expectation(
            frontend=frontend, client=client, sources=source.sources, from_node=source.from_node,
            action=action, also=frozenset(also), port=self.port, denied=denied,
        )  # fmt: skip

    def _drop(self, frontend: Frontend, source: _Source, *, denied: bool = False) -> Expectation:
        also = () if self.b.drops_in_filter else (Action.PASS,)
        if denied and self.b.checks_after_dnat and not source.from_node:
            also = (Action.TRANSLATE,)
        return self._refused(frontend, source, Action.DROP, *also, denied=denied)

    def _no_endpoints(self, frontend: Frontend, source: _Source) -> Expectation:
        """The Service has no endpoint: reject, wherever the version's REJECT rule is on the packet's way."""
        kind = frontend.kind
        taken_in = contains(self.view.local, number(frontend.address))
        if taken_in and source.from_node and not self.b.nftables:
            # Where a rule in front of kube-proxy's lets in what the node sends to itself, its own TCP, or UDP, refuses it.
            return self._refused(frontend, source, Action.REJECT, Action.PASS)
        if kind is FrontendKind.CLUSTER_IP or taken_in or self.b.nftables:
            return self._refused(frontend, source, Action.REJECT)
        if kind is FrontendKind.LOAD_BALANCER and self.b.load_balancer_reject_everywhere:
            return self._refused(frontend, source, Action.REJECT)
        if source.from_node:
            return self._refused(frontend, source, Action.PASS)
        if kind is FrontendKind.EXTERNAL_IP and not self.b.external_reject_forwarded:
            return self._refused(frontend, source, Action.PASS, Action.REJECT)
        return self._refused(frontend, source, Action.REJECT)

    def cluster_ips(self, addresses: Sequence[str]) -> Iterator[Expectation]:
        backends = self.selection.local if self.internal_local else self.selection.cluster
        for address in addresses:
            frontend = self._frontend(address, FrontendKind.CLUSTER_IP, self.port.port)
            for source in self.sources():
                if not self.selection.any:
                    yield self._no_endpoints(frontend, source)
                elif backends:
                    yield self._sent(frontend, source, backends, self._cluster_masquerade(source))
                else:
                    yield self._drop(frontend, source)

    def _cluster_masquerade(self, source: _Source) -> str:
        if self.view.config.masquerade_all:
            return "always"
        if self.view.detector.kind == "none" or source.detected:
            return "self"
        return "always"

    def _external(self, frontend: Frontend, source: _Source, *, local_policy: bool, spare_pods: bool) -> Expectation:
        """An external address with endpoints somewhere."""
        cluster = self.selection.cluster
        if not local_policy:
            # masqueradeAll is not asked here, and without a detector nobody counts as a pod.
            masquerade = "self" if spare_pods and source.detected else "always"
            return self._sent(frontend, source, cluster, masquerade) if cluster else self._no_endpoints(frontend, source)
        if source.detected and not source.from_node and cluster:
            return self._sent(frontend, source, cluster, "self")
        if source.from_node and cluster and self.b.local_shortcut_for_node:
            checked = frontend.kind is not FrontendKind.NODE_PORT or self.b.checks_after_dnat
            if checked and not self.selection.local:
                if self.b.node_dropped_before_dnat == "always":
                    return self._refused(frontend, source, Action.DROP)
                if self.b.node_dropped_before_dnat == "perhaps":
                    return self._refused(frontend, source, Action.DROP, Action.TRANSLATE)
            return self._sent(frontend, source, cluster, "always")
        if self.selection.local:
            loopback = contains(LOOPBACK[self.family], source.sources[0][0])
            return self._sent(frontend, source, self.selection.local, "always" if loopback else "self")
        return self._drop(frontend, source)

    def external_ips(self, addresses: Sequence[str]) -> Iterator[Expectation]:
        local_policy = self.service.external_local and self.b.external_ips_local_policy
        for address in addresses:
            frontend = self._frontend(address, FrontendKind.EXTERNAL_IP, self.port.port)
            for source in self.sources():
                if not self.selection.any:
                    yield self._no_endpoints(frontend, source)
                elif self.b.external_ips_bridged and source.from_node and not contains(self.view.local, number(address)):
                    # Up to 1.20 the jump asks for a source that is not the node's own.
                    yield self._refused(frontend, source, Action.PASS)
                else:
                    yield self._external(frontend, source, local_policy=local_policy, spare_pods=self.b.external_ips_spare_pods)

    def balancers(self, addresses: Sequence[str]) -> Iterator[Expectation]:
        allowed = self._source_ranges()
        undecided = EMPTY
        if allowed is not None and any(contains(allowed, number(ip)) for ip in self.view.node.ips(self.family)):
            # A node that stands in a range may dial its own load balancer, and then with the balancer's address where it holds
            # that; versions (and bindAddress) differ in whether there is a rule for it (kube-proxy-rules.md 3.9).
            undecided = union(single(number(ip)) for ip in addresses)
        for address in addresses:
            frontend = self._frontend(address, FrontendKind.LOAD_BALANCER, self.port.port)
            for source in self.sources():
                inside, outside = source.sources, EMPTY
                if allowed is not None:
                    inside, outside = intersect(source.sources, allowed), subtract(source.sources, allowed)
                    outside = subtract(outside, undecided)
                if inside:
                    part = _Source(source.client, inside, source.from_node, source.detected)
                    if self.selection.any:
                        yield self._external(frontend, part, local_policy=self.service.external_local, spare_pods=False)
                    else:
                        yield self._no_endpoints(frontend, part)
                if outside:
                    part = _Source(source.client, outside, source.from_node, source.detected)
                    if self.selection.any or self.b.firewall_without_endpoints:
                        yield self._drop(frontend, part, denied=True)
                    else:
                        yield self._no_endpoints(frontend, part)

    def _source_ranges(self) -> Ranges | None:
        """Who may dial the load-balancer IPs; None for everybody."""
        mine = filtering_ranges(self.service, self.view)
        ranges = union(network(r) for r in mine)
        return None if not mine or ranges == ALL[self.family] else ranges

    def node_ports(self) -> Iterator[Expectation]:
        if not self.port.node_port:
            return
        served = self._served_addresses()
        loopback = "127.0.0.1"
        for address in own_addresses(self.view):
            frontend = self._frontend(address, FrontendKind.NODE_PORT, self.port.node_port)
            for source in self.sources():
                if not self.selection.any:
                    yield self._no_endpoints(frontend, source)
                elif address in served:
                    yield self._external(frontend, source, local_policy=self.service.external_local, spare_pods=False)
                else:
                    # eTP Local's drop rules ask only for a local address, so an address that is not served may be dropped.
                    yield self._refused(frontend, source, Action.PASS, Action.DROP)
        if self.family == 4 and not self.b.nftables and self.selection.any:
            frontend = self._frontend(loopback, FrontendKind.NODE_PORT, self.port.node_port)
            for source in self.sources(loopback=True):
                if self.b.localhost_node_ports and loopback in served:
                    yield self._external(frontend, source, local_policy=self.service.external_local, spare_pods=False)
                else:
                    yield self._refused(frontend, source, Action.PASS, Action.DROP)

    def _served_addresses(self) -> set[str]:
        """On which of the node's addresses node ports are served (nodePortAddresses, kube-proxy-rules.md 3.8 and 5.2)."""
        wanted = self.view.config.node_port_addresses
        addresses = [*self.view.node.ips(self.family)]
        mine = [w for w in wanted if w == "primary" or (":" in w) == (self.family == 6)]
        if not wanted and self.b.default_node_ports == "primary":
            mine = ["primary"]
        if not mine:
            return {*addresses, "127.0.0.1"}
        served = set()
        for entry in mine:
            if entry == "primary":
                served.update(addresses[:1])
            else:
                nets = network(entry)
                served.update(a for a in (*addresses, "127.0.0.1") if (":" in a) == (":" in entry) and contains(nets, number(a)))
        return served

    def health_check(self) -> Iterator[Expectation]:
        """The port where kube-proxy itself answers a load balancer: it has to be let in, untouched."""
        if not self.service.health_check_port or self.port != self.service.ports[0] or not self.view.address:
            return
        frontend = Frontend(self.view.address, self.port.protocol.TCP, self.service.health_check_port, FrontendKind.HEALTH_CHECK)
        for source in self.sources():
            if source.client is Client.OUTSIDE:
                yield Expectation(
                    frontend=frontend, client=source.client, sources=source.sources, from_node=False, action=Action.PASS,
                    port=self.port, explicit=self.b.health_check_rule,
                )  # fmt: skip
