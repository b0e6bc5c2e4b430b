"""What the API knows, reduced to what rules depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .fast_dataclass import dataclass
from .net import Protocol
from .proxy_container import ProxyContainer


class ServicePort(NamedTuple):
    """One port of a Service."""

    name: str
    """Empty for an unnamed port."""
    protocol: Protocol
    port: int
    node_port: int
    """0 when it has none."""

    def __str__(self) -> str:
        return f"{self.name or self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service as kube-proxy sees it."""

    namespace: str
    name: str
    type: str
    cluster_ips: tuple[str, ...]
    """Canonical; empty for headless and ExternalName Services."""
    ports: tuple[ServicePort, ...]
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[tuple[str, str], ...] = ()
    """(IP, ipMode): ipMode is `VIP`, `Proxy`, or empty when the status does not say."""
    source_ranges: tuple[str, ...] = ()
    external_local: bool = False
    """externalTrafficPolicy: Local."""
    internal_local: bool = False
    """internalTrafficPolicy: Local."""
    affinity: int | None = None
    """sessionAffinity: ClientIP, in seconds; None without."""
    health_check_port: int = 0
    skipped: str = ""
    """Why kube-proxy programs nothing for it; empty when it does."""
    publish_not_ready: bool = False
    topology_aware_hints: str = ""
    """The value of the annotation service.kubernetes.io/topology-aware-hints."""
    topology_mode: str = ""
    """The value of the annotation service.kubernetes.io/topology-mode, which took its place in 1.27."""
    headless_label: bool = False
    """Bears the label service.kubernetes.io/headless although it has a cluster IP."""
    resource_version: str = ""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of its own: cluster IPs, external IPs, load-balancer IPs."""
        return (*self.cluster_ips, *self.external_ips, *(ip for ip, _ in self.load_balancer_ips))


class Endpoint(NamedTuple):
    """One endpoint of an EndpointSlice (its first address), or one address of an Endpoints subset."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    node: str | None
    zone: str | None
    zone_hints: tuple[str, ...] | None
    """None: the endpoint has no zone hints."""
    node_hints: tuple[str, ...] | None
    pod: str | None
    """Name of the pod behind it, in the Service's namespace."""

    @property
    def state(self) -> str:
        """In the words of the API."""
        if self.ready:
            return "ready, terminating" if self.terminating else "ready"
        if self.terminating:
            return "terminating" if self.serving else "terminating, not serving"
        return "not ready"


class EndpointPort(NamedTuple):
    """A port of a slice: kube-proxy finds it by name and protocol."""

    name: str
    protocol: Protocol
    port: int


class PlainEndpoints(NamedTuple):
    """The endpoints of a slice where every one is ready, not terminating, and has no hints: all that is left to tell of them."""

    addresses: Sequence[str]
    nodes: Sequence[str | None]
    pods: Sequence[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """An EndpointSlice, or one subset of an Endpoints object."""

    name: str
    family: int
    ports: tuple[EndpointPort, ...]
    endpoints: Sequence[Endpoint]
    named: bool = False
    """It has the label service.kubernetes.io/service-proxy-name."""
    headless: bool = False
    """An Endpoints object with the label service.kubernetes.io/headless; slices with it are left out for all versions."""
    plain: PlainEndpoints | None = None
    """The same in short, where that is known; None says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node."""

    name: str
    addresses: tuple[tuple[str, str], ...]
    """(type, address): IPs canonical, host names as they are."""
    odd_addresses: tuple[str, ...] = ()
    """What stands where an IP belongs and is none. The API server takes any text from a kubelet there."""
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""
    kubelet_version: str = ""
    proxy_version: str = ""
    os: str = "linux"

    def ips(self, family: int) -> tuple[str, ...]:
        """Its IPs of a family, InternalIP first."""
        order = {"InternalIP": 0, "ExternalIP": 1}
        found = [(order[kind], n, a) for n, (kind, a) in enumerate(self.addresses) if kind in order]
        return tuple(a for _, _, a in sorted(found) if (":" in a) == (family == 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """How the kube-proxy of one node is configured, as far as rules depend on it."""

    version: tuple[int, int]
    """(1, 36)."""
    mode: str = ""
    """`iptables`, `nftables`, `ipvs`; empty when not known."""
    cluster_cidrs: tuple[str, ...] = ()
    detect_local: str = "ClusterCIDR"
    """ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix."""
    bridge_interface: str = ""
    interface_prefix: str = ""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_addresses: tuple[str, ...] = ()
    """CIDRs, or `primary`; empty for the default of the mode and version."""
    localhost_node_ports: bool = True
    feature_gates: Mapping[str, bool]
    slices: bool = True
    """Whether it reads EndpointSlices, not Endpoints."""
    sync_period: float = 30.0
    inferred: tuple[str, ...] = ()
    """What of this was not read but inferred, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Everything of the API that rules depend on."""

    services: tuple[Service, ...]
    slices: Mapping[str, tuple[Slice, ...]]
    """`namespace/name` of the Service -> its slices."""
    legacy: Mapping[str, tuple[Slice, ...]] | None
    """The same from Endpoints objects, for the kube-proxies that read them; None when they were not read."""
    nodes: tuple[Node, ...]
    pod_ips: Mapping[str, tuple[str, ...]]
    """Node name -> IPs of the pods there that have their own network."""
    config: ProxyConfig | None
    """What the cluster's ConfigMap or DaemonSet says; None when neither could be read."""
    proxy_versions: Mapping[str, tuple[int, int]]
    """Node name -> version of its kube-proxy, by the image of its pod; nodes without such a pod are absent."""
    proxy_containers: Mapping[str, ProxyContainer]
    """Node name -> the state of its kube-proxy's container; nodes without such a pod are absent."""
    namespaces: tuple[str, ...] | None
    """Which namespaces' Services were read; None for all."""
    endpoints_total: Callable[[], int]
    """Counts the endpoints of all Service ports together, as kube-proxy does for its large-cluster mode."""
    server_version: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
