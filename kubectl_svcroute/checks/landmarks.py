"""What kube-proxy calls its chains, per mode: where a packet's way can be seen to go right or wrong."""

from __future__ import annotations

from ..model.fast_dataclass import dataclass
from ..model.walk_result import Step


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
    proxy_prefix: tuple[str, ...] = ()
    """How the names of chains of kube-proxy, or of the kubelet, begin."""
    proxy_chains: frozenset[str] = frozenset()
    """The whole names of such chains. Others begin with `KUBE-` too: kube-router's `KUBE-POD-FW-`, `KUBE-ROUTER-`."""
    own_table: bool = False
    """kube-proxy has a table of its own, and every chain in it is kube-proxy's; no other is."""

    def of_service(self, chain: str) -> bool:
        """Whether a chain belongs to one Service or endpoint."""
        return chain.startswith(self.own_prefixes) and self.own_mark in chain

    def of_proxy(self, table: str, chain: str) -> bool:
        """True for a chain of kube-proxy's or the kubelet's. `table` is a label such as `ip nat`."""
        if self.own_table:
            return table.endswith(self.table)
        return chain in self.proxy_chains or chain.startswith(self.proxy_prefix)

    def own(self, step: Step) -> bool:
        """True for a rule of kube-proxy's or the kubelet's, false for another program's."""
        return self.of_proxy(step.table, step.chain)

    def foreign_rule(self, table: str, chain: str, _: object, target: str) -> bool:
        """True for what is left out to ask what kube-proxy's rules alone do: all rules but its own and the jumps to them."""
        return not self.of_proxy(table, chain) and (self.own_table or not self.of_proxy(table, target))


IPTABLES = Landmarks(
    table=" nat",
    services="KUBE-SERVICES",
    node_ports="KUBE-NODEPORTS",
    mark="KUBE-MARK-MASQ",
    postrouting="KUBE-POSTROUTING",
    own_mark="-",
    own_prefixes=("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-"),
    firewall_prefixes=("KUBE-FW-", "KUBE-PROXY-FIREWALL", "KUBE-MARK-DROP", "KUBE-FIREWALL"),
    proxy_prefix=("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-"),
    proxy_chains=frozenset((
        "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-MARK-DROP",
        "KUBE-FORWARD", "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-KUBELET-CANARY", "KUBE-LOAD-BALANCER",
        "KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER", "KUBE-IPTABLES-HINT",
    )),
)  # fmt: skip

NFTABLES = Landmarks(
    table=" kube-proxy",
    services="services",
    node_ports="service-nodeports",
    mark="mark-for-masquerade",
    postrouting="masquerading",
    own_mark="/",
    own_prefixes=("service-", "local-", "external-", "firewall-", "endpoint-"),
    firewall_prefixes=("firewall-",),
    own_table=True,
)
