"""What differs between the versions of kube-proxy, in one place (kube-proxy-rules.md, sections 3.1, 4 and 5)."""

from __future__ import annotations

from ..model.cluster import ProxyConfig
from ..model.fast_dataclass import dataclass
from ..model.ranges import contains, network, number

OLDEST = (1, 14)
NEWEST = (1, 36)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one kube-proxy thinks."""

    reads_slices: bool
    """EndpointSlices, not Endpoints."""
    terminating: str
    """When serving but terminating endpoints step in for absent ready ones: `always`, `external-local`, `never`."""
    internal_policy: bool
    """Whether internalTrafficPolicy counts."""
    internal_yields: bool
    """1.22 and 1.23: internalTrafficPolicy is ignored on a Service with externalTrafficPolicy: Local, and on any other it
    leaves the Service's one chain, which node ports and external addresses use too, to the node's own endpoints."""
    zone_hints: bool
    hints_annotation: str
    """What annotation zone hints need: `auto` (to 1.26: topology-aware-hints, as Auto), `mode` (to 1.30: that one, or
    topology-mode, as anything but disabled), or empty for none."""
    ignores_headless_label: bool
    """1.16 to 1.35: a Service with the label service.kubernetes.io/headless is not even received."""
    ignores_named_endpoints: bool
    """Up to 1.35: slices and Endpoints with the label service.kubernetes.io/service-proxy-name are not even received."""
    prefers_lasting: bool
    """From 1.36: of two copies of an endpoint one that does not terminate is taken."""
    node_hints: bool
    ip_mode: bool
    """Whether load-balancer IPs with `ipMode: Proxy` are left alone."""
    external_ips_bridged: bool
    """Up to 1.20: external IPs serve off-node clients only, and the node itself where it holds the address."""
    external_ips_local_policy: bool
    """Whether external IPs honour externalTrafficPolicy: Local."""
    external_ips_spare_pods: bool
    """1.21 to 1.23: pods' packets to external IPs are not masqueraded."""
    external_ips: bool
    """Off only in 1.36 with gate AllowServiceExternalIPs disabled."""
    local_shortcut_for_node: bool
    """From 1.16: the node's own packets to a local-policy address are masqueraded and sent to any endpoint."""
    external_reject_forwarded: bool
    """From 1.20: external IPs without endpoints are rejected when forwarded, not only when taken in."""
    load_balancer_reject_everywhere: bool
    """Up to 1.18: load-balancer IPs without endpoints are rejected at OUTPUT too."""
    drops_in_filter: bool
    """From 1.25, and in nftables mode: what must not pass is dropped by kube-proxy itself. Before, it was marked with
    0x8000 for the kubelet's KUBE-FIREWALL, which looks at INPUT and OUTPUT only, and is gone from newer kubelets."""
    zero_range_opens: bool
    """From 1.34: a source range of all addresses turns the filter off."""
    firewall_without_endpoints: bool
    """nftables: source ranges are enforced even where there is no endpoint."""
    health_check_rule: bool
    """From 1.21: the health-check node port is accepted explicitly."""
    localhost_node_ports: bool
    """Whether node ports can be dialled on 127.0.0.1."""
    default_node_ports: str
    """`all` local addresses, or the `primary` one of each family."""
    nftables: bool
    node_dropped_before_dnat: str
    """nftables, when the node's own packets to a local-policy address without a local endpoint are dropped at OUTPUT, because
    the check for endpoints stands before the translation there: `always` (to 1.32), `perhaps` (1.33: the patch decides),
    `never` (from 1.34 on). Compare kubernetes issue 131765."""
    checks_after_dnat: bool
    """nftables in 1.29: source ranges are checked at INPUT and FORWARD, when packets that come from elsewhere have been
    translated already and no longer bear the address; and at OUTPUT the check for endpoints includes node ports."""
    share_tolerance: float
    """Relative error of one probability as it is written: five decimals up to 1.16."""
    clears_mark: bool
    """From 1.20: the masquerade mark is taken off again before the packet leaves."""
    hairpin_local_only: bool
    """nftables from 1.36: only endpoints on the node itself are in the hairpin set."""
    dual_stack: bool
    rewrites_always: bool
    """iptables up to 1.26, nftables up to 1.30: each sync rewrites every chain; later ones what changed, until a full one."""


def behaviour(config: ProxyConfig, *, mode: str) -> Behaviour:
    """How the kube-proxy with this configuration thinks in `mode` (`iptables` or `nftables`)."""
    v = config.version
    gates = config.feature_gates
    nft = mode == "nftables"
    fallback = "never"
    if v >= (1, 26) and gates.get("ProxyTerminatingEndpoints", True):
        fallback = "always"
    elif v >= (1, 22) and gates.get("ProxyTerminatingEndpoints", False):
        fallback = "external-local" if v <= (1, 23) else "always"
    distribution = gates.get("ServiceTrafficDistribution", v >= (1, 31))
    return Behaviour(
        reads_slices=v >= (1, 22) or gates.get("EndpointSliceProxying", v >= (1, 19)),
        terminating=fallback,
        internal_policy=gates.get("ServiceInternalTrafficPolicy", v >= (1, 22)),
        internal_yields=v <= (1, 23),
        zone_hints=gates.get("TopologyAwareHints", v >= (1, 24)),
        hints_annotation="" if distribution else "auto" if v <= (1, 26) else "mode",
        ignores_headless_label=(1, 16) <= v <= (1, 35),
        ignores_named_endpoints=v <= (1, 35),
        prefers_lasting=v >= (1, 36),
        node_hints=gates.get("PreferSameTrafficDistribution", v >= (1, 34)),
        ip_mode=gates.get("LoadBalancerIPMode", v >= (1, 30)),
        external_ips_bridged=v <= (1, 20),
        external_ips_local_policy=v >= (1, 20) or gates.get("ExternalPolicyForExternalIP", False),
        external_ips_spare_pods=(1, 21) <= v <= (1, 23),
        external_ips=gates.get("AllowServiceExternalIPs", True) or v < (1, 36),
        local_shortcut_for_node=v >= (1, 16),
        external_reject_forwarded=v >= (1, 20) or nft,
        load_balancer_reject_everywhere=v <= (1, 18) or nft,
        drops_in_filter=v >= (1, 25) or nft,
        zero_range_opens=v >= (1, 34),
        firewall_without_endpoints=nft,
        health_check_rule=v >= (1, 21) and not nft,
        localhost_node_ports=not nft and (config.localhost_node_ports or v < (1, 26)) and _covers_loopback(config),
        default_node_ports="primary" if nft and v >= (1, 30) else "all",
        nftables=nft,
        node_dropped_before_dnat="never" if not nft or v >= (1, 34) else "perhaps" if v == (1, 33) else "always",
        checks_after_dnat=nft and v <= (1, 29),
        share_tolerance=5e-6 if v <= (1, 16) else 0.0,
        clears_mark=v >= (1, 20),
        hairpin_local_only=nft and v >= (1, 36),
        dual_stack=v >= (1, 21) or gates.get("IPv6DualStack", False),
        rewrites_always=v <= (1, 30) if nft else not _partial_restores(config),
    )


def _partial_restores(config: ProxyConfig) -> bool:
    """iptables: True if a sync writes only the Services that changed; opt-in in 1.26, on in 1.27, the only way from 1.28 on."""
    chosen = config.feature_gates.get("MinimizeIPTablesRestore", config.version >= (1, 27))
    return config.version >= (1, 28) or (config.version >= (1, 26) and chosen)


def _covers_loopback(config: ProxyConfig) -> bool:
    """Whether nodePortAddresses, as far as they are IPv4, take 127.0.0.1 in; kube-proxy asks the same before it opens it."""
    mine = [entry for entry in config.node_port_addresses if ":" not in entry]
    if not mine:
        return True
    return any(contains(network(entry), number("127.0.0.1")) for entry in mine if entry != "primary")
