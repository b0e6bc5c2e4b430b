"""kube-proxy's iptables mode, 1.14 to 1.36, in the words of iptables-save."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cluster import Api, Endpoint, Json, ServicePort, Setup, digest, local_detector, node_ip_in, node_ips, service_ports

PORTALS = "kubernetes service portals"
EXTERNAL = "kubernetes externally-visible service portals"
SNAT = "kubernetes service traffic requiring SNAT"
LAST = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
BASE = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


@dataclass
class Dump:
    tables: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {t: {c: [] for c in cs} for t, cs in BASE.items()})

    def chain(self, table: str, name: str) -> list[str]:
        return self.tables[table].setdefault(name, [])

    def add(self, table: str, chain: str, *words: str) -> None:
        self.chain(table, chain).append(" ".join(w for w in words if w))

    def text(self) -> str:
        lines = []
        for table, chains in self.tables.items():
            lines.append(f"*{table}")
            order = [*BASE[table], *sorted(c for c in chains if c not in BASE[table])]
            lines += [f":{c} {'ACCEPT' if c in BASE[table] else '-'} [0:0]" for c in order]
            lines += [f"-A {c} {rule}" for c in order for rule in chains[c]]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"


def note(text: str) -> str:
    return f'-m comment --comment "{text}"'


def printed(probability: float, minor: int) -> str:
    said = round(probability, 10 if minor >= 17 else 5)
    return f"{round(said * 2**31) / 2**31:.11f}"


class Writer:
    def __init__(self, api: Api, node: Json, version: int, setup: Setup) -> None:
        self.dump = Dump()
        self.node, self.version, self.setup, self.minor = node, version, setup, setup.minor
        self.colon = self.minor <= 18
        self.bits = 32 if version == 4 else 128
        self.everyone = "255.255.255.255" if version == 4 else ":".join(["ffff"] * 8)
        self.reject = f"-j REJECT --reject-with {'icmp' if version == 4 else 'icmp6'}-port-unreachable"
        self.mark = f"{setup.mark:#x}"
        self.detector = local_detector(node, version, setup)
        self.ports = service_ports(api, node, version, setup)

    # words

    def host(self, ip: str) -> str:
        return f"-d {ip}/{self.bits}"

    def to(
        self, sp: ServicePort, chain: str, ip: str, kind: str, port: int, *target: str, source: str = "", note_text: str = ""
    ) -> None:
        """A rule on destination, protocol and port, as most of kube-proxy's are."""
        dst = self.host(ip) if ip else ""
        where = source if source.startswith(("-s", "! -s")) else ""
        link = source if source.startswith(("-i", "! -i")) else ""
        text = note_text or (f"{self.spn(sp)} {kind}" if kind else self.spn(sp))
        self.dump.add("nat", chain, where, dst, link, f"-p {sp.proto}", note(text), f"-m {sp.proto} --dport {port}", *target)

    def spn(self, sp: ServicePort) -> str:
        return sp.spn(colon=self.colon)

    def hash(self, sp: ServicePort) -> str:
        return digest(self.spn(sp) + sp.proto)[:16]

    def sep(self, sp: ServicePort, e: Endpoint) -> str:
        return "KUBE-SEP-" + digest(self.spn(sp) + sp.proto + e.at)[:16]

    def not_local(self) -> str | None:
        """The match for packets that come from no pod here; None where there is no way to tell."""
        if self.detector is None:
            return None
        kind, what = self.detector
        return f"! -s {what}" if kind == "source" else f"! -i {what.replace('*', '+')}"

    def from_local(self) -> str | None:
        if self.detector is None:
            return None
        kind, what = self.detector
        return f"-s {what}" if kind == "source" else f"-i {what.replace('*', '+')}"

    # the whole

    def write(self) -> str:
        if self.version in self.setup.families:
            self.fixed()
            for sp in self.ports:
                self.service(sp)
            self.node_ports_tail()
        if self.setup.kubelet:
            self.kubelet()
        return self.dump.text()

    def kubelet(self) -> None:
        dump = self.dump
        for table in ("mangle", "filter", "nat"):
            dump.chain(table, "KUBE-KUBELET-CANARY")
        if self.minor >= 25:
            dump.chain("mangle", "KUBE-IPTABLES-HINT")
        if self.minor <= 26:
            if not dump.chain("nat", "KUBE-MARK-DROP"):
                dump.add("nat", "KUBE-MARK-DROP", "-j MARK --set-xmark 0x8000/0x8000")
            dump.add(
                "filter",
                "KUBE-FIREWALL",
                note("kubernetes firewall for dropping marked packets"),
                "-m mark --mark 0x8000/0x8000 -j DROP",
            )
        if self.minor >= 18 and self.version == 4 and not any("localnet" in r for r in dump.chain("filter", "KUBE-FIREWALL")):
            self.localnet()
        for base in ("INPUT", "OUTPUT"):
            if "-j KUBE-FIREWALL" not in dump.chain("filter", base):
                dump.add("filter", base, "-j KUBE-FIREWALL")

    def localnet(self) -> None:
        self.dump.add(
            "filter",
            "KUBE-FIREWALL",
            "! -s 127.0.0.0/8 -d 127.0.0.0/8",
            note("block incoming localnet connections"),
            "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        )

    def fixed(self) -> None:
        dump, minor = self.dump, self.minor
        new = "-m conntrack --ctstate NEW"
        for table in ("mangle", "filter", "nat"):
            if minor >= 16:
                dump.chain(table, "KUBE-PROXY-CANARY")
        for chain in ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD"):
            dump.chain("filter", chain)
        for chain in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"):
            dump.chain("nat", chain)
        if 20 <= minor <= 24:
            dump.chain("nat", "KUBE-MARK-DROP")
        if minor >= 27:
            dump.chain("filter", "KUBE-FIREWALL")
            dump.add("filter", "INPUT", "-j KUBE-FIREWALL")
            dump.add("filter", "OUTPUT", "-j KUBE-FIREWALL")
            if self.version == 4 and self.setup.localhost_node_ports:
                self.localnet()
        if minor >= 25:
            dump.chain("filter", "KUBE-PROXY-FIREWALL")
            for base in ("INPUT", "FORWARD", "OUTPUT"):
                dump.add("filter", base, new, note("kubernetes load balancer firewall"), "-j KUBE-PROXY-FIREWALL")
        if minor <= 18:
            dump.add("filter", "INPUT", new, note(PORTALS), "-j KUBE-SERVICES")
        if minor >= 21:
            dump.chain("filter", "KUBE-NODEPORTS")
            dump.add("filter", "INPUT", note("kubernetes health check service ports"), "-j KUBE-NODEPORTS")
        dump.add("filter", "INPUT", new, note(EXTERNAL), "-j KUBE-EXTERNAL-SERVICES")
        dump.add("filter", "FORWARD", note("kubernetes forwarding rules"), "-j KUBE-FORWARD")
        dump.add("filter", "FORWARD", new, note(PORTALS), "-j KUBE-SERVICES")
        if minor >= 20:
            dump.add("filter", "FORWARD", new, note(EXTERNAL), "-j KUBE-EXTERNAL-SERVICES")
        dump.add("filter", "OUTPUT", new, note(PORTALS), "-j KUBE-SERVICES")
        for base in ("PREROUTING", "OUTPUT"):
            dump.add("nat", base, note(PORTALS), "-j KUBE-SERVICES")
        dump.add("nat", "POSTROUTING", note("kubernetes postrouting rules"), "-j KUBE-POSTROUTING")
        self.masquerade_rules()
        self.forward_rules()

    def masquerade_rules(self) -> None:
        dump, mark = self.dump, self.mark
        dump.add("nat", "KUBE-MARK-MASQ", f"-j MARK --set-xmark {mark}/{mark}")
        if self.minor >= 20:
            dump.add("nat", "KUBE-POSTROUTING", f"-m mark ! --mark {mark}/{mark} -j RETURN")
            dump.add("nat", "KUBE-POSTROUTING", f"-j MARK --set-xmark {mark}/0x0")
            dump.add("nat", "KUBE-POSTROUTING", note(SNAT), "-j MASQUERADE --random-fully")
        else:
            fully = " --random-fully" if self.minor >= 16 else ""
            dump.add("nat", "KUBE-POSTROUTING", note(SNAT), f"-m mark --mark {mark}/{mark} -j MASQUERADE{fully}")

    def forward_rules(self) -> None:
        dump = self.dump
        counted = "-m nfacct --nfacct-name  ct_state_invalid_dropped_pkts" if self.setup.counters and self.minor >= 31 else ""
        if self.minor >= 15:
            dump.add("filter", "KUBE-FORWARD", "-m conntrack --ctstate INVALID", counted, "-j DROP")
        dump.add(
            "filter", "KUBE-FORWARD", note("kubernetes forwarding rules"), f"-m mark --mark {self.mark}/{self.mark} -j ACCEPT"
        )
        known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        if self.minor >= 23:
            dump.add("filter", "KUBE-FORWARD", note("kubernetes forwarding conntrack rule"), known)
            return
        cidr = self.detector[1] if self.detector and self.detector[0] == "source" and self.minor <= 17 else ""
        if self.minor <= 17 and not cidr:
            return
        for flag, end in (("-s", "source"), ("-d", "destination")):
            text = f"kubernetes forwarding conntrack pod {end} rule"
            dump.add("filter", "KUBE-FORWARD", f"{flag} {cidr}" if cidr else "", note(text), known)

    def node_ports_tail(self) -> None:
        own = node_ips(self.node, self.version)
        wanted = [a for a in self.setup.node_port_addresses if a == "primary" or (":" in a) == (self.version == 6)]
        if wanted and wanted not in (["0.0.0.0/0"], ["::/0"]):
            for ip in own:
                self.dump.add("nat", "KUBE-SERVICES", f"-d {ip}/{self.bits}", note(LAST), "-j KUBE-NODEPORTS")
            return
        but = ""
        if self.minor >= 26 and self.version == 6:
            but = "! -d ::1/128"
        if self.minor >= 26 and self.version == 4 and not self.setup.localhost_node_ports:
            but = "! -d 127.0.0.0/8"
        self.dump.add("nat", "KUBE-SERVICES", but, note(LAST), "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")

    # one service port

    def service(self, sp: ServicePort) -> None:
        if sp.health and self.minor >= 21:
            text = note(f"{self.spn(sp)} health check node port")
            self.dump.add("filter", "KUBE-NODEPORTS", "-p tcp", text, f"-m tcp --dport {sp.health} -j ACCEPT")
        if not sp.any:
            self.refused(sp)
            return
        if self.minor >= 24:
            self.since_24(sp)
        else:
            self.until_23(sp)

    def refused(self, sp: ServicePort) -> None:
        text = note(f"{self.spn(sp)} has no endpoints")
        port = f"-m {sp.proto} --dport {sp.port}"
        proto = f"-p {sp.proto}"
        self.dump.add("filter", "KUBE-SERVICES", self.host(sp.cluster_ip), proto, text, port, self.reject)
        for ip in sp.external_ips:
            self.dump.add("filter", "KUBE-EXTERNAL-SERVICES", self.host(ip), proto, text, port, self.reject)
        for ip in sp.lb_ips:
            chain = "KUBE-SERVICES" if self.minor <= 18 else "KUBE-EXTERNAL-SERVICES"
            self.dump.add("filter", chain, self.host(ip), proto, text, port, self.reject)
        if sp.node_port:
            here = "-m addrtype --dst-type LOCAL"
            port = f"-m {sp.proto} --dport {sp.node_port}"
            self.dump.add("filter", "KUBE-EXTERNAL-SERVICES", proto, text, here, port, self.reject)

    def masquerade_cluster_ip(self, sp: ServicePort, chain: str) -> None:
        if self.setup.masquerade_all:
            self.to(sp, chain, sp.cluster_ip, "cluster IP", sp.port, "-j KUBE-MARK-MASQ")
        elif (outside := self.not_local()) is not None:
            self.to(sp, chain, sp.cluster_ip, "cluster IP", sp.port, "-j KUBE-MARK-MASQ", source=outside)

    def balance(self, sp: ServicePort, chain: str, endpoints: list[Endpoint], *, xlb: bool = False) -> None:
        minor = self.minor

        def label(e: Endpoint) -> str:
            if self.setup.large or minor <= 17:
                return ""
            return note(f"{self.spn(sp)} -> {e.at}" if minor >= 24 else self.spn(sp))

        if sp.affinity:
            for e in endpoints:
                name = self.sep(sp, e)
                text = note(self.spn(sp)) if xlb and minor <= 22 else label(e)
                seen = f"-m recent --rcheck --seconds {sp.affinity} --reap --name {name} --mask {self.everyone} --rsource"
                self.dump.add("nat", chain, text, seen, f"-j {name}")
        for i, e in enumerate(endpoints):
            text = note(f"Balancing rule {i} for {self.spn(sp)}") if xlb and minor <= 22 else label(e)
            left = len(endpoints) - i
            dice = f"-m statistic --mode random --probability {printed(1 / left, minor)}" if left > 1 else ""
            self.dump.add("nat", chain, text, dice, f"-j {self.sep(sp, e)}")

    def endpoint_chains(self, sp: ServicePort, endpoints: list[Endpoint]) -> None:
        for e in endpoints:
            name = self.sep(sp, e)
            if name in self.dump.tables["nat"]:
                continue
            text = note(self.spn(sp)) if self.minor >= 18 and not self.setup.large else ""
            self.dump.add("nat", name, f"-s {e.ip}/{self.bits}", text, "-j KUBE-MARK-MASQ")
            stick = f"-m recent --set --name {name} --mask {self.everyone} --rsource" if sp.affinity else ""
            self.dump.add("nat", name, f"-p {sp.proto}", text, stick, f"-m {sp.proto}", f"-j DNAT --to-destination {e.at}")

    def since_24(self, sp: ServicePort) -> None:
        svc, svl, ext, fw = (f"KUBE-{kind}-{self.hash(sp)}" for kind in ("SVC", "SVL", "EXT", "FW"))
        dump, spn = self.dump, self.spn(sp)
        inner = svl if sp.itp_local else svc
        drops = self.minor >= 25
        if sp.itp_local and not sp.local and drops:
            self.drop(sp, "KUBE-SERVICES", sp.cluster_ip)
        else:
            self.to(sp, "KUBE-SERVICES", sp.cluster_ip, "cluster IP", sp.port, f"-j {inner}")
            dump.chain("nat", inner)
            self.masquerade_cluster_ip(sp, inner)
        for ip in sp.external_ips:
            self.to(sp, "KUBE-SERVICES", ip, "external IP", sp.port, f"-j {ext}")
        filtered = bool(sp.ranges)
        for ip in sp.lb_ips:
            self.to(sp, "KUBE-SERVICES", ip, "loadbalancer IP", sp.port, f"-j {fw if filtered else ext}")
            if filtered and drops:
                text = note(f"{spn} traffic not accepted by {fw}")
                port = f"-m {sp.proto} --dport {sp.port}"
                dump.add("filter", "KUBE-PROXY-FIREWALL", self.host(ip), f"-p {sp.proto}", text, port, "-j DROP")
        if sp.node_port:
            if self.setup.counters and self.minor >= 31 and self.version == 4 and self.setup.localhost_node_ports:
                self.to(
                    sp,
                    "KUBE-NODEPORTS",
                    "",
                    "",
                    sp.node_port,
                    "-m nfacct --nfacct-name  localhost_nps_accepted_pkts",
                    f"-j {ext}",
                    source="",
                )
                last = self.dump.chain("nat", "KUBE-NODEPORTS")
                last[-1] = "-d 127.0.0.0/8 " + last[-1]
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, f"-j {ext}")
        if filtered and sp.lb_ips:
            self.firewall_24(sp, fw, ext)
        if sp.external:
            self.external_24(sp, svc, svl, ext)
        if sp.etp_local and sp.external and not sp.local and drops:
            for ip in [*sp.external_ips, *sp.lb_ips]:
                self.drop(sp, "KUBE-EXTERNAL-SERVICES", ip)
            if sp.node_port:
                self.drop(sp, "KUBE-EXTERNAL-SERVICES", "", sp.node_port)
        if not sp.itp_local or sp.external:
            dump.chain("nat", svc)
            self.balance(sp, svc, sp.cluster)
            self.endpoint_chains(sp, sp.cluster)
        if sp.uses_local and (sp.local or not drops):
            dump.chain("nat", svl)
            if sp.local:
                self.balance(sp, svl, sp.local)
                self.endpoint_chains(sp, sp.local)
            else:
                dump.add("nat", svl, note(f"{spn} has no local endpoints"), "-j KUBE-MARK-DROP")

    def drop(self, sp: ServicePort, chain: str, ip: str, node_port: int = 0) -> None:
        here = "-m addrtype --dst-type LOCAL" if node_port else ""
        text = note(f"{self.spn(sp)} has no local endpoints")
        port = f"-m {sp.proto} --dport {node_port or sp.port}"
        self.dump.add("filter", chain, self.host(ip) if ip else "", f"-p {sp.proto}", text, here, port, "-j DROP")

    def firewall_24(self, sp: ServicePort, fw: str, ext: str) -> None:
        text = note(f"{self.spn(sp)} loadbalancer IP")
        for net in sp.ranges:
            self.dump.add("nat", fw, f"-s {net}" if net not in ("0.0.0.0/0", "::/0") else "", text, f"-j {ext}")
        if self.own_address_in(sp):
            for ip in sp.lb_ips:
                self.dump.add("nat", fw, f"-s {ip}/{self.bits}", text, f"-j {ext}")
        if self.minor >= 27:
            self.dump.add("nat", fw, note(f"other traffic to {self.spn(sp)} will be dropped by KUBE-PROXY-FIREWALL"))
        elif self.minor == 24:
            self.dump.add("nat", fw, text, "-j KUBE-MARK-DROP")

    def own_address_in(self, sp: ServicePort) -> bool:
        """Whether the rule for a node that is a client of its own load balancer is there: dual-stack kube-proxies forgot it."""
        if 21 <= self.minor <= 27:
            return False
        if self.minor == 28 and self.version != self.setup.families[0]:
            return False
        return node_ip_in(sp.ranges, self.node, self.version)

    def external_24(self, sp: ServicePort, svc: str, svl: str, ext: str) -> None:
        dump, spn = self.dump, self.spn(sp)
        if not sp.etp_local:
            dump.add("nat", ext, note(f"masquerade traffic for {spn} external destinations"), "-j KUBE-MARK-MASQ")
            dump.add("nat", ext, f"-j {svc}")
            return
        if (inside := self.from_local()) is not None:
            dump.add("nat", ext, inside, note(f"pod traffic for {spn} external destinations"), f"-j {svc}")
        own = "-m addrtype --src-type LOCAL"
        dump.add("nat", ext, note(f"masquerade LOCAL traffic for {spn} external destinations"), own, "-j KUBE-MARK-MASQ")
        dump.add("nat", ext, note(f"route LOCAL traffic for {spn} external destinations"), own, f"-j {svc}")
        if sp.local or self.minor == 24:
            dump.add("nat", ext, f"-j {svl}")

    def until_23(self, sp: ServicePort) -> None:
        svc, xlb, fw = (f"KUBE-{kind}-{self.hash(sp)}" for kind in ("SVC", "XLB", "FW"))
        dump, minor = self.dump, self.minor
        local = sp.etp_local and sp.external
        outer = xlb if local else svc
        dump.chain("nat", svc)
        if minor <= 21:
            self.masquerade_cluster_ip(sp, "KUBE-SERVICES")
        self.to(sp, "KUBE-SERVICES", sp.cluster_ip, "cluster IP", sp.port, f"-j {svc}")
        if minor >= 22:
            self.masquerade_cluster_ip(sp, svc)
        for ip in sp.external_ips:
            # up to 1.18 the policy of an external IP was honoured only behind a gate
            self.external_ip_23(sp, ip, svc, outer if minor >= 20 else svc, local=local and minor >= 20)
        for ip in sp.lb_ips:
            self.to(sp, "KUBE-SERVICES", ip, "loadbalancer IP", sp.port, f"-j {fw}")
            text = note(f"{self.spn(sp)} loadbalancer IP")
            if not local:
                dump.add("nat", fw, text, "-j KUBE-MARK-MASQ")
            for net in sp.ranges or [""]:
                dump.add("nat", fw, f"-s {net}" if net and net not in ("0.0.0.0/0", "::/0") else "", text, f"-j {outer}")
            if sp.ranges and self.own_address_in(sp):
                dump.add("nat", fw, f"-s {ip}/{self.bits}", text, f"-j {outer}")
            dump.add("nat", fw, text, "-j KUBE-MARK-DROP")
        if sp.node_port:
            self.node_port_23(sp, svc, xlb, local=local)
        self.balance(sp, svc, sp.cluster)
        self.endpoint_chains(sp, [*sp.cluster, *(sorted(sp.all, key=lambda e: e.at) if minor == 22 else [])])
        if local:
            self.xlb(sp, svc, xlb)

    def external_ip_23(self, sp: ServicePort, ip: str, svc: str, outer: str, *, local: bool) -> None:
        kind = "external IP"
        if self.minor <= 20:
            if not local:
                self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, "-j KUBE-MARK-MASQ")
            far = "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL"
            self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, far, f"-j {outer}")
            self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, "-m addrtype --dst-type LOCAL", f"-j {outer}")
            return
        outside = self.not_local() or ""
        if self.minor == 21:
            if not local:
                self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, "-j KUBE-MARK-MASQ", source=outside)
            self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, f"-j {outer}")
            return
        self.to(sp, "KUBE-SERVICES", ip, kind, sp.port, f"-j {outer}")
        if not local:
            self.to(sp, svc, ip, kind, sp.port, "-j KUBE-MARK-MASQ", source=outside)

    def node_port_23(self, sp: ServicePort, svc: str, xlb: str, *, local: bool) -> None:
        if local:
            loop = "-s 127.0.0.0/8" if self.version == 4 else "-s ::1/128"
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, "-j KUBE-MARK-MASQ", source=loop)
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, f"-j {xlb}")
        elif self.minor <= 21:
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, "-j KUBE-MARK-MASQ")
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, f"-j {svc}")
        else:
            self.to(sp, "KUBE-NODEPORTS", "", "", sp.node_port, f"-j {svc}")
            self.to(sp, svc, "", "", sp.node_port, "-j KUBE-MARK-MASQ")

    def xlb(self, sp: ServicePort, svc: str, xlb: str) -> None:
        dump, spn = self.dump, self.spn(sp)
        if (inside := self.from_local()) is not None:
            dump.add(
                "nat", xlb, inside, note("Redirect pods trying to reach external loadbalancer VIP to clusterIP"), f"-j {svc}"
            )
        if self.minor >= 16:
            own = "-m addrtype --src-type LOCAL"
            dump.add("nat", xlb, note(f"masquerade LOCAL traffic for {spn} LB IP"), own, "-j KUBE-MARK-MASQ")
            dump.add("nat", xlb, note(f"route LOCAL traffic for {spn} LB IP to service chain"), own, f"-j {svc}")
        if sp.local:
            self.balance(sp, xlb, sp.local, xlb=True)
            self.endpoint_chains(sp, sp.local)
        else:
            dump.add("nat", xlb, note(f"{spn} has no local endpoints"), "-j KUBE-MARK-DROP")


def iptables_save(api: Api, node: Json, version: int, setup: Setup) -> str:
    """What iptables-save (4) or ip6tables-save (6) prints on this node."""
    return Writer(api, node, version, setup).write()
