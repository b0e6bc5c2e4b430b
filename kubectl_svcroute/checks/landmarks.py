"""What kube-proxy calls its chains, per mode: where a packet's way can be seen to go right or wrong."""

from __future__ import annotations

from ..model.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """The names that tell where on its way a packet was lost."""

    table: str
    """How the label of the table that translates ends: `nat`, `kube-proxy`."""
    services: str
    node_ports: str
    mark: str
    """The chain that sets the masquerade mark; empty where rules set it themselves."""
    postrouting: str
    own_mark: str
    """What stands in the name of such a chain and of no other: nftables' hold `namespace/name`."""
    own_prefixes: tuple[str, ...]
    """Chains that belong to one Service or endpoint."""
    firewall_prefixes: tuple[str, ...]
    """Chains that enforce source ranges."""
    proxy_prefix: tuple[str, ...]
    """Chains of kube-proxy at all."""

    def of_service(self, chain: str) -> bool:
        """Whether a chain belongs to one Service or endpoint."""
        return chain.startswith(self.own_prefixes) and self.own_mark in chain

    def of_proxy(self, chain: str) -> bool:
        """Whether a chain is kube-proxy's or the kubelet's."""
        return chain.startswith(self.proxy_prefix)


IPTABLES = Landmarks(
    table=" nat",
    services="KUBE-SERVICES",
    node_ports="KUBE-NODEPORTS",
    mark="KUBE-MARK-MASQ",
    postrouting="KUBE-POSTROUTING",
    own_mark="-",
    own_prefixes=("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-"),
    firewall_prefixes=("KUBE-FW-", "KUBE-PROXY-FIREWALL", "KUBE-MARK-DROP", "KUBE-FIREWALL"),
    proxy_prefix=("KUBE-",),
)

NFTABLES = Landmarks(
    table=" kube-proxy",
    services="services",
    node_ports="service-nodeports",
    mark="mark-for-masquerade",
    postrouting="masquerading",
    own_mark="/",
    own_prefixes=("service-", "local-", "external-", "firewall-", "endpoint-"),
    firewall_prefixes=("firewall-",),
    proxy_prefix=(
        "service", "local-", "external-", "firewall", "endpoint", "nodeport-endpoints-check", "cluster-ips-check",
        "masquerading", "mark-for-masquerade", "reject-chain", "nat-", "filter-",
    ),
)  # fmt: skip
