"""kube-proxy's nftables mode, 1.29 to 1.36: a text for `nft -f`, and what the kernel makes of it as `nft -j` prints it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from .cluster import Api, Endpoint, Json, ServicePort, Setup, digest, local_detector, node_ip_in, node_ips, service_ports

Chains = dict[str, list[str]]


class Writer:
    def __init__(self, api: Api, node: Json, version: int, setup: Setup) -> None:
        self.node, self.version, self.setup, self.minor = node, version, setup, setup.minor
        self.ip = "ip" if version == 4 else "ip6"
        self.address = f"ipv{version}_addr"
        self.mark = f"0x{setup.mark:08x}"
        self.not_loopback = "ip daddr != 127.0.0.0/8" if version == 4 else "ip6 daddr != ::1"
        self.detector = local_detector(node, version, setup)
        self.ports = service_ports(api, node, version, setup)
        self.new_chains = self.minor >= 34 or (self.minor == 33 and not setup.old_base_chains)
        self.merged = self.minor >= 36
        """From 1.36 translation stands in the service's own chain."""
        self.chains: Chains = {}
        self.sets: list[str] = []
        self.elements: dict[str, list[str]] = {}

    # ---- words

    def key(self, ip: str, sp: ServicePort, port: int = 0) -> str:
        return f"{ip} . {sp.proto} . {port or sp.port}"

    def name(self, kind: str, sp: ServicePort) -> str:
        text = f"{sp.namespace}/{sp.name}/{sp.proto}/{sp.port_name}"
        return f"{kind}-{digest(text)[:8]}-{text}"

    def endpoint_name(self, kind: str, sp: ServicePort, e: Endpoint) -> str:
        text = f"{sp.namespace}/{sp.name}/{sp.proto}/{sp.port_name}__{e.ip.replace(':', '.')}/{e.port}"
        return f"{kind}-{digest(text)[:8]}-{text}"

    def from_pod(self, *, negated: bool) -> str | None:
        if self.detector is None:
            return None
        kind, what = self.detector
        op = "!= " if negated else ""
        if kind == "source":
            return f"{self.ip} saddr {op}{what}"
        word = "iifname" if self.new_chains else "iif"
        return f'{word} {op}"{what}"'

    @property
    def masquerade(self) -> str:
        return f"meta mark set meta mark | {self.mark}" if self.merged else "jump mark-for-masquerade"

    def put(self, name: str, element: str) -> None:
        self.elements.setdefault(name, []).append(element)

    # ---- the whole

    def write(self) -> str:
        self.fixed()
        for sp in self.ports:
            self.service(sp)
        lines = [f"table {self.ip} kube-proxy {{", 'comment "rules for kube-proxy"']
        for text, name in self.maps():
            held = self.elements.get(name, [])
            inner = f"\nelements = {{ {', '.join(held)} }}" if held else ""
            lines.append(text.replace("}", inner + "\n}"))
        lines += self.sets
        for chain, rules in self.chains.items():
            lines += [f"chain {chain} {{", *rules, "}"]
        return "\n".join([*lines, "}"]) + "\n"

    def maps(self) -> list[tuple[str, str]]:
        a = self.address
        full, short = f"{a} . inet_proto . inet_service", "inet_proto . inet_service"
        out = [
            ("map", "no-endpoint-services", f"{full} : verdict", "vmap to drop or reject packets to services with no endpoints"),
            (
                "map",
                "no-endpoint-nodeports",
                f"{short} : verdict",
                "vmap to drop or reject packets to service nodeports with no endpoints",
            ),
            ("map", "service-ips", f"{full} : verdict", "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
            ("map", "service-nodeports", f"{short} : verdict", "NodePort traffic"),
        ]
        if self.minor >= 30:
            out.append(("set", "cluster-ips", a, "Active ClusterIPs"))
            out.append(("map", "firewall-ips", f"{full} : verdict", "destinations that are subject to LoadBalancerSourceRanges"))
        else:
            out.append(("set", "firewall", full, "destinations that are subject to LoadBalancerSourceRanges"))
            allowed = "destinations+sources that are allowed by LoadBalancerSourceRanges"
            out.append(("set", "firewall-allow", f"{full} . {a}; flags interval", allowed))
        if self.merged:
            out.append(("set", "hairpin-connections", f"{a} . {full}", "service hairpin connections"))
        if self.node_port_ips():
            out.append(("set", "nodeport-ips", a, "IPs that accept NodePort traffic"))
        return [(f'{what} {name} {{\ntype {kind};\ncomment "{note}"\n}}', name) for what, name, kind, note in out]

    def node_port_ips(self) -> list[str]:
        """The addresses that serve node ports; none for every local one."""
        own = node_ips(self.node, self.version)
        said = [a for a in self.setup.node_port_addresses if a == "primary" or (":" in a) == (self.version == 6)]
        if not said and self.minor >= 30 and not self.setup.node_port_addresses:
            said = ["primary"]
        if not said or said in (["0.0.0.0/0"], ["::/0"]):
            return []
        return own

    def node_port_match(self) -> str:
        return f"{self.ip} daddr @nodeport-ips" if self.node_port_ips() else f"fib daddr type local {self.not_loopback}"

    def base(self, chain: str, kind: str, hook: str, priority: int, *rules: str) -> None:
        self.chains[chain] = [f"type {kind} hook {hook} priority {priority}; policy accept;", *rules]

    def fixed(self) -> None:
        new = "ct state new jump "
        ports, services, fw, cips = "nodeport-endpoints-check", "service-endpoints-check", "firewall-check", "cluster-ips-check"
        if self.minor == 29:
            check = new + "endpoints-check"
            self.base("filter-input", "filter", "input", -101, check, new + fw)
            self.base("filter-forward", "filter", "forward", -101, check, "jump forward", new + fw)
            self.base("filter-output", "filter", "output", -101, check, new + fw)
        elif not self.new_chains:
            self.base("filter-prerouting", "filter", "prerouting", -110, new + fw)
            self.base("filter-input", "filter", "input", -110, new + ports, new + services)
            self.base("filter-forward", "filter", "forward", -110, new + services, new + cips)
            self.base("filter-output", "filter", "output", -110, new + services, new + fw)
            self.base("filter-output-post-dnat", "filter", "output", -90, new + cips)
        else:
            self.base("filter-prerouting-pre-dnat", "filter", "prerouting", -110, new + fw)
            self.base("filter-output-pre-dnat", "filter", "output", -110, new + fw)
            self.base("filter-input", "filter", "input", 0, new + ports, new + services)
            self.base("filter-forward", "filter", "forward", 0, new + services, new + cips)
            self.base("filter-output", "filter", "output", 0, new + services, new + cips)
        self.base("nat-prerouting", "nat", "prerouting", -100, "jump services")
        self.base("nat-output", "nat", "output", -100, "jump services")
        self.base("nat-postrouting", "nat", "postrouting", 100, "jump masquerading")
        for ip in self.node_port_ips():
            self.put("nodeport-ips", ip)
        self.checks()
        self.services_chain()
        self.masquerading()
        self.chains["reject-chain"] = ['comment "helper for @no-endpoint-services / @no-endpoint-nodeports"', "reject"]
        if not self.merged:
            self.chains["mark-for-masquerade"] = [f"meta mark set meta mark | {self.mark}"]

    def checks(self) -> None:
        where = f"{self.ip} daddr . meta l4proto . th dport"
        none, ports = f"{where} vmap @no-endpoint-services", "meta l4proto . th dport vmap @no-endpoint-nodeports"
        if self.minor == 29:
            self.chains["endpoints-check"] = [none, f"{self.node_port_match()} {ports}"]
            self.chains["forward"] = ["ct state invalid drop"]
            self.chains["firewall-allow-check"] = [f"{where} . {self.ip} saddr @firewall-allow return", "drop"]
            self.chains["firewall-check"] = [f"{where} @firewall jump firewall-allow-check"]
            return
        own = f"{self.ip} daddr @nodeport-ips" if self.node_port_ips() else self.not_loopback
        self.chains["nodeport-endpoints-check"] = [f"{own} {ports}"]
        self.chains["service-endpoints-check"] = [none]
        self.chains["firewall-check"] = [f"{where} vmap @firewall-ips"]
        rules = [f'{self.ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"']
        for cidr in self.setup.service_cidrs:
            if (":" in cidr) == (self.version == 6):
                rules.append(f'{self.ip} daddr {cidr} drop comment "Drop traffic to unallocated ClusterIPs"')
        self.chains["cluster-ips-check"] = rules

    def services_chain(self) -> None:
        rules = []
        if self.merged:
            note = "masquerade clusterIP traffic from outside cluster"
            outside = self.from_pod(negated=True)
            if self.setup.masquerade_all:
                note, outside = "masquerade all clusterIP traffic", ""
            if outside is not None:
                rules.append(f'{self.ip} daddr @cluster-ips {outside} {self.masquerade} comment "{note}"')
        rules.append(f"{self.ip} daddr . meta l4proto . th dport vmap @service-ips")
        rules.append(f"{self.node_port_match()} meta l4proto . th dport vmap @service-nodeports")
        self.chains["services"] = rules

    def masquerading(self) -> None:
        m = self.mark
        if not self.merged:
            clear = f"meta mark set meta mark ^ {m}"
            self.chains["masquerading"] = [f"meta mark & {m} == 0 return", clear, "masquerade fully-random"]
            return
        hairpin = f"{self.ip} saddr . {self.ip} daddr . meta l4proto . th dport @hairpin-connections"
        self.chains["masquerading"] = [
            f"meta mark & {m} != 0 meta mark set meta mark ^ {m} masquerade fully-random",
            f"ct status dnat {hairpin} masquerade fully-random",
        ]

    # ---- one service port

    def service(self, sp: ServicePort) -> None:
        note = f'comment "{sp.spn(colon=False)}"'
        if self.minor >= 30 and sp.cluster_ip not in self.elements.get("cluster-ips", []):
            self.put("cluster-ips", sp.cluster_ip)
        inner = sp.local if sp.itp_local else sp.cluster
        outer = sp.local if sp.etp_local else sp.cluster
        stop = "drop" if sp.any else "goto reject-chain"
        chain = self.name("local" if sp.itp_local else "service", sp)
        external = self.name("external", sp)
        ips = [*sp.external_ips, *sp.lb_ips]
        if inner:
            self.put("service-ips", f"{self.key(sp.cluster_ip, sp)} : goto {chain}")
        else:
            self.put("no-endpoint-services", f"{self.key(sp.cluster_ip, sp)} {note} : {stop}")
        for ip in ips:
            if sp.any:
                self.put("service-ips", f"{self.key(ip, sp)} : goto {external}")
            if not outer:
                self.put("no-endpoint-services", f"{self.key(ip, sp)} {note} : {stop}")
        if sp.node_port:
            if sp.any:
                self.put("service-nodeports", f"{sp.proto} . {sp.node_port} : goto {external}")
            if not outer:
                self.put("no-endpoint-nodeports", f"{sp.proto} . {sp.node_port} {note} : {stop}")
        if sp.ranges and sp.lb_ips:
            self.firewall(sp, note)
        used = {e.at: e for e in [*(sp.cluster if sp.uses_cluster else []), *(sp.local if sp.uses_local else [])]}
        if sp.uses_cluster and sp.cluster:
            self.balance(sp, self.name("service", sp), sp.cluster)
        if sp.uses_local and sp.local:
            self.balance(sp, self.name("local", sp), sp.local)
        if sp.any and sp.external:
            self.external(sp, external)
        for e in used.values():
            self.endpoint(sp, e)
        if inner and not self.merged:
            self.masquerade_cluster_ip(sp, chain)

    def masquerade_cluster_ip(self, sp: ServicePort, chain: str) -> None:
        outside = "" if self.setup.masquerade_all else self.from_pod(negated=True)
        if outside is not None:
            port = f"{sp.proto} dport {sp.port}" if self.minor <= 33 else ""
            self.chains[chain].insert(0, f"{self.ip} daddr {sp.cluster_ip} {port} {outside} jump mark-for-masquerade")

    def balance(self, sp: ServicePort, chain: str, endpoints: list[Endpoint]) -> None:
        rules = self.chains.setdefault(chain, [])
        n = len(endpoints)
        if self.merged and not sp.affinity:
            parts = ", ".join(f"{i} : {e.ip} . {e.port}" for i, e in enumerate(endpoints))
            rules.append(f"meta l4proto {sp.proto} dnat {self.ip} to numgen random mod {n} map {{ {parts} }}")
            return
        if sp.affinity:
            for e in endpoints:
                known = self.endpoint_name("affinity", sp, e)
                rules.append(f"{self.ip} saddr @{known} goto {self.endpoint_name('endpoint', sp, e)}")
        parts = ", ".join(f"{i} : goto {self.endpoint_name('endpoint', sp, e)}" for i, e in enumerate(endpoints))
        rules.append(f"numgen random mod {n} vmap {{ {parts} }}")

    def endpoint(self, sp: ServicePort, e: Endpoint) -> None:
        if self.merged and e.node == self.node["metadata"]["name"]:
            element = f"{e.ip} . {e.ip} . {sp.proto} . {e.port}"
            if element not in self.elements.get("hairpin-connections", []):
                self.put("hairpin-connections", element)
        if self.merged and not sp.affinity:
            return
        rules = [] if self.merged else [f"{self.ip} saddr {e.ip} jump mark-for-masquerade"]
        if sp.affinity:
            known = self.endpoint_name("affinity", sp, e)
            spec = f"type {self.address}; size 65535; flags dynamic,timeout; timeout {sp.affinity}s;"
            self.sets.append(f"set {known} {{ {spec} }}")
            rules.append(f"update @{known} {{ {self.ip} saddr }}")
        rules.append(f"meta l4proto {sp.proto} dnat to {e.at}")
        self.chains[self.endpoint_name("endpoint", sp, e)] = rules

    def external(self, sp: ServicePort, external: str) -> None:
        service = self.name("service", sp)
        if not sp.etp_local:
            note = ' comment "masquerade"' if self.merged else ""
            self.chains[external] = [self.masquerade + note, f"goto {service}"]
            return
        rules = []
        inside = self.from_pod(negated=False)
        if inside is not None:
            rules.append(f'{inside} goto {service} comment "short-circuit pod traffic"')
        rules.append(f'fib saddr type local {self.masquerade} comment "masquerade local traffic"')
        rules.append(f'fib saddr type local goto {service} comment "short-circuit local traffic"')
        if sp.local:
            rules.append(f"goto {self.name('local', sp)}")
        self.chains[external] = rules

    def firewall(self, sp: ServicePort, note: str) -> None:
        sources = list(sp.ranges)
        if node_ip_in(sp.ranges, self.node, self.version):
            sources += sp.lb_ips
        if self.minor == 29:
            for ip in sp.lb_ips:
                self.put("firewall", f"{self.key(ip, sp)} {note}")
                for net in sources if "0.0.0.0/0" not in sources else sp.ranges:  # the kernel takes no overlaps
                    self.put("firewall-allow", f"{self.key(ip, sp)} . {net} {note}")
            return
        chain = self.name("firewall", sp)
        for ip in sp.lb_ips:
            text = note + " " if self.minor == 30 else ""
            self.put("firewall-ips", f"{self.key(ip, sp)} {text}: goto {chain}")
        self.chains[chain] = [f"{self.ip} saddr != {{ {', '.join(sources)} }} drop"]


def missing() -> str:
    """Why nothing can be loaded here; empty when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "not root on Linux"
    for tool in ("nft", "unshare"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    done = subprocess.run(["unshare", "-n", "nft", "list", "tables"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


def nft_text(api: Api, node: Json, setup: Setup) -> str:
    """The two tables of this node, to be loaded."""
    return "".join(Writer(api, node, version, setup).write() for version in (4, 6))


def nft_json(api: Api, node: Json, setup: Setup) -> str:
    """What `nft -j list ruleset` prints on this node: loaded into a network namespace of its own, and dumped again."""
    link = f"ip link add {setup.interface} type veth && " if setup.detect == "BridgeInterface" else ""
    command = ["unshare", "-n", "sh", "-c", f"{link}nft -f - && nft -j list ruleset"]
    done = subprocess.run(command, input=nft_text(api, node, setup), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr[:2000])
    return done.stdout
