"""Faults of every family, on rules that no capture holds: each is named for its Services, or for the node, and for nothing else.

The truth beside each fault: the Services that a right audit names, None for the node as a whole, `"none"` for what is no fault
(what CNIs and container runtimes do to a node), `"info"` for what is worth knowing and harms nobody.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode, Report, Severity
from kubectl_svcroute.model.snapshot import NodeDump

from .cluster import Setup, digest
from .edits import Rules
from .snapshots import SYSCTL, Objects, more_kinds

DUAL = ("10.244.0.0/16", "fd00:244::/32")
VERSIONS = {
    20: ("v1.17-iptables-legacy", Setup(20, kubelet=True)),
    25: ("v1.36-iptables-nft", Setup(25, families=(4, 6), cluster_cidrs=DUAL)),
    35: ("v1.36-iptables-nft", Setup(35, families=(4, 6), cluster_cidrs=DUAL)),
}
FILES = {4: "iptables-save.txt", 6: "ip6tables-save.txt"}
K = "default/kuard"


class Cluster:
    """A healthy cluster of one version, to be damaged."""

    def __init__(self, minor: int) -> None:
        name, self.setup = VERSIONS[minor]
        self.minor = minor
        objects = Objects(capture(name))
        more_kinds(objects)
        objects.keep(frozenset({"itp-node", "both-local", "ranged", "sticky-local", "ext-local", "udp"}))
        with tempfile.TemporaryDirectory() as folder:
            snapshot = load_snapshot(objects.write(Path(folder) / "s", self.setup))
            self.api = snapshot.api
            read = [handle.read() for handle in snapshot.nodes]
        self.dumps = {dump.node.partition(".")[0]: dump for dump in read if isinstance(dump, NodeDump)}
        services = objects.lists["services"]["items"]
        self.ips = {f"{s['metadata']['namespace']}/{s['metadata']['name']}": s["spec"].get("clusterIP") for s in services}

    def hash(self, service: str, port: str) -> str:
        return digest((f"{service}:{port}" if port else service) + "tcp")[:16]

    def sep(self, service: str, port: str, at: str) -> str:
        return "KUBE-SEP-" + digest((f"{service}:{port}" if port else service) + "tcp" + at)[:16]

    def judge(self, node: int, files: dict[str, str | None]) -> Report:
        dump = self.dumps[f"kubworker{node}"]
        changed = {**dump.files, **files}
        kept = {name: text for name, text in changed.items() if text is not None}
        return audit(self.api, [dataclasses.replace(dump, files=kept)])


cluster = cache(Cluster)
Edit = Callable[[Rules, Cluster], Any]
FAULTS: dict[str, tuple[Any, int, int, Callable[[Cluster], bool], Edit]] = {}


def fault(truth: Any, *, node: int = 1, fam: int = 4, when: Callable[[Cluster], bool] = lambda _: True) -> Callable[[Edit], Edit]:
    def note(edit: Edit) -> Edit:
        FAULTS[edit.__name__] = (truth, node, fam, when, edit)
        return edit

    return note


@fault(None)
def no_filter_services_forward(t: Rules, e: Cluster):
    t.delete("filter", "^-A FORWARD .*KUBE-SERVICES")


@fault(None)
def no_filter_external_input(t: Rules, e: Cluster):
    t.delete("filter", "^-A INPUT .*KUBE-EXTERNAL-SERVICES")


@fault(None)
def accept_range_first(t: Rules, e: Cluster):
    t.insert("nat", "PREROUTING", "-d 10.96.0.0/12 -j ACCEPT")


@fault("none")
def forward_policy_drop_with_cni(t: Rules, e: Cluster):
    t.policy("filter", "FORWARD", "DROP")
    t.append("filter", "FORWARD", '-s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT')
    t.append("filter", "FORWARD", '-d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT')


@fault("none")
def flannel_masq(t: Rules, e: Cluster):
    t.chain("nat", "FLANNEL-POSTRTG")
    t.append("nat", "POSTROUTING", '-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG')
    for r in [
        '-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN',
        '-s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN',
        '-s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN',
        '! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN',
        '-s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully',
        '! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully',
    ]:
        t.append("nat", "FLANNEL-POSTRTG", r)


@fault("none")
def kind_masq(t: Rules, e: Cluster):
    t.chain("nat", "KIND-MASQ-AGENT")
    t.append(
        "nat",
        "POSTROUTING",
        '-m addrtype ! --dst-type LOCAL -m comment --comment "kind-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom KIND-MASQ-AGENT chain" -j KIND-MASQ-AGENT',
    )
    t.append(
        "nat",
        "KIND-MASQ-AGENT",
        '-d 10.244.0.0/16 -m comment --comment "kind-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN',
    )
    t.append(
        "nat",
        "KIND-MASQ-AGENT",
        '-m comment --comment "kind-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE',
    )


@fault("none")
def docker_rules(t: Rules, e: Cluster):
    for c in ("DOCKER",):
        t.chain("nat", c)
    for c in ("DOCKER", "DOCKER-USER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"):
        t.chain("filter", c)
    t.append("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER")
    t.append("nat", "OUTPUT", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER")
    t.insert("nat", "POSTROUTING", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE")
    t.append("nat", "DOCKER", "-i docker0 -j RETURN")
    t.append("filter", "FORWARD", "-j DOCKER-USER")
    t.append("filter", "FORWARD", "-j DOCKER-ISOLATION-STAGE-1")
    t.append("filter", "FORWARD", "-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    t.append("filter", "FORWARD", "-o docker0 -j DOCKER")
    t.append("filter", "DOCKER-USER", "-j RETURN")
    t.append("filter", "DOCKER-ISOLATION-STAGE-1", "-i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2")
    t.append("filter", "DOCKER-ISOLATION-STAGE-1", "-j RETURN")
    t.append("filter", "DOCKER-ISOLATION-STAGE-2", "-o docker0 -j DROP")


@fault("none")
def hostport_cni(t: Rules, e: Cluster):
    for c in ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"):
        t.chain("nat", c)
    t.append("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT")
    t.append("nat", "OUTPUT", "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT")
    t.insert("nat", "POSTROUTING", '-m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ')
    t.append("nat", "CNI-HOSTPORT-MASQ", "-m mark --mark 0x2000/0x2000 -j MASQUERADE")
    t.append(
        "nat", "CNI-HOSTPORT-SETMARK", '-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000'
    )


@fault(None)
def nodeports_empty(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-NODEPORTS ")


@fault([K])
def duplicate_behind(t: Rules, e: Cluster):
    r = t.rules("nat", "KUBE-SVC-" + e.hash(K, ""))
    t.lines.insert(r[-1] + 1, t.lines[r[-1]])


@fault(["shop/web", "shop/edge"])
def entries_swapped(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-SERVICES .*shop/web:http cluster IP.* -j )KUBE-SVC-.*", "\\1KUBE-SVC-" + e.hash("shop/edge", "http"))
    t.sub("nat", "(^-A KUBE-SERVICES .*shop/edge:http cluster IP.* -j )KUBE-SVC-.*", "\\1KUBE-SVC-" + e.hash("shop/web", "http"))


@fault([K])
def entry_wrong_port(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-SERVICES .*default/kuard:? cluster IP.*--dport )8080( -j KUBE-SVC.*)", "\\g<1>8081\\2")


@fault(["more/itp-node"], when=lambda e: e.minor >= 24)
def ext_loses_jump(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-EXT-" + e.hash("more/itp-node", "h") + " -j KUBE-SVC")


@fault(["more/sticky-local"], when=lambda e: e.minor >= 24)
def local_has_stranger(t: Rules, e: Cluster):
    t.insert(
        "nat",
        "KUBE-SVL-" + e.hash("more/sticky-local", ""),
        "-m statistic --mode random --probability 0.50000000000 -j " + e.sep("more/sticky-local", "", "10.244.3.112:8080"),
    )


@fault(["more/sticky-local"], when=lambda e: e.minor >= 24)
def no_pod_shortcut(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-EXT-" + e.hash("more/sticky-local", "") + " .*pod traffic")


@fault(["more/sticky-local"], when=lambda e: e.minor >= 24)
def no_local_shortcut(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-EXT-" + e.hash("more/sticky-local", "") + " .*route LOCAL")


@fault(["more/sticky-local"], when=lambda e: e.minor >= 24)
def no_local_mark(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-EXT-" + e.hash("more/sticky-local", "") + " .*masquerade LOCAL")


@fault(["more/sticky-local"], when=lambda e: e.minor <= 23)
def xlb_empty(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-XLB-" + e.hash("more/sticky-local", "") + " .*KUBE-SEP")


@fault(["more/both-local"], when=lambda e: e.minor >= 25)
def no_local_drop_missing(t: Rules, e: Cluster):
    t.delete("filter", "^-A KUBE-EXTERNAL-SERVICES .*more/both-local has no local.*")


@fault(["more/itp-node"], when=lambda e: e.minor >= 24)
def itp_to_cluster(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-SERVICES .*more/itp-node:h cluster IP.* -j )KUBE-SVL", "\\1KUBE-SVC")


@fault(["shop/cart"])
def affinity_one_missing(t: Rules, e: Cluster):
    t.delete("nat", "KUBE-SVC-" + e.hash("shop/cart", "tcp") + " .*--rcheck", 1)


@fault(["shop/cart"])
def affinity_set_missing(t: Rules, e: Cluster):
    t.sub(
        "nat",
        "(^-A " + e.sep("shop/cart", "tcp", "10.244.3.13:7000") + " .*)-m recent --set \\S+ \\S+ --mask \\S+ --rsource ",
        "\\1",
    )


@fault([K])
def affinity_uncalled(t: Rules, e: Cluster):
    for sep in ["10.244.1.2:8080"]:
        t.insert(
            "nat",
            "KUBE-SVC-" + e.hash(K, ""),
            f"-m recent --rcheck --seconds 10800 --reap --name {e.sep(K, '', sep)} --mask 255.255.255.255 --rsource -j {e.sep(K, '', sep)}",
        )
        t.sub(
            "nat",
            "(^-A " + e.sep(K, "", sep) + " -p tcp .*)(-m tcp -j DNAT)",
            "\\1-m recent --set --name " + e.sep(K, "", sep) + " --mask 255.255.255.255 --rsource \\2",
        )


@fault(["more/ranged"], when=lambda e: e.minor >= 24)
def firewall_bypassed(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-SERVICES .*more/ranged loadbalancer IP.* -j )KUBE-FW", "\\1KUBE-EXT")


@fault(["shop/empty"])
def reject_missing_nodeport(t: Rules, e: Cluster):
    t.delete("filter", "^-A KUBE-EXTERNAL-SERVICES .*shop/empty:? has no")


@fault(["shop/empty"])
def reject_is_drop(t: Rules, e: Cluster):
    t.sub("filter", "(^-A KUBE-SERVICES .*shop/empty:? has no.*)-j REJECT.*", "\\1-j DROP")


def _deleted(t: Rules, e: Cluster, comment: bool = True):
    spn = "gone/old:http"
    h = digest(spn + "tcp")[:16]
    sep = "KUBE-SEP-" + digest(spn + "tcp" + "10.244.2.200:80")[:16]

    def c(text: str) -> str:
        return f'-m comment --comment "{text}" ' if comment else ""

    for x in ("KUBE-SVC-" + h, sep):
        t.chain("nat", x)
    t.insert("nat", "KUBE-SERVICES", f"-d 10.96.99.99/32 -p tcp {c(spn + ' cluster IP')}-m tcp --dport 80 -j KUBE-SVC-{h}")
    t.append("nat", "KUBE-SVC-" + h, f"{c(spn)}-j {sep}")
    t.append("nat", sep, f"-s 10.244.2.200/32 {c(spn)}-j KUBE-MARK-MASQ")
    t.append("nat", sep, f"-p tcp {c(spn)}-m tcp -j DNAT --to-destination 10.244.2.200:80")


@fault(None)
def deleted_service_unnamed(t: Rules, e: Cluster):
    _deleted(t, e, False)


@fault(["gone/old"])
def deleted_service_node_port(t: Rules, e: Cluster):
    _deleted(t, e)
    t.delete("nat", "10.96.99.99")
    h = digest("gone/old:http" + "tcp")[:16]
    t.append("nat", "KUBE-NODEPORTS", f'-p tcp -m comment --comment "gone/old:http" -m tcp --dport 32222 -j KUBE-SVC-{h}')


@fault([K])
def removed_port_still_there(t: Rules, e: Cluster):
    t.insert(
        "nat",
        "KUBE-SERVICES",
        f"""-d {e.ips[K]}/32 -p tcp -m comment --comment "default/kuard:old cluster IP" -m tcp --dport 9999 -j KUBE-SVC-{e.hash(K, "")}""",
    )


@fault("info")
def leftover_chain(t: Rules, e: Cluster):
    _deleted(t, e)
    t.delete("nat", "10.96.99.99")


@fault([K], when=lambda e: e.minor >= 22)
def no_cluster_masq(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-SVC-" + e.hash(K, "") + " .*MARK-MASQ")


@fault([K], when=lambda e: e.minor <= 21)
def no_cluster_masq_old(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-SERVICES .*default/kuard:? cluster IP.*MARK-MASQ")


@fault([K])
def wrong_cidr(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-S\\S+ ! -s )10.244.0.0/16(.*default/kuard:? cluster)", "\\g<1>10.200.0.0/16\\2")


@fault(None)
def wrong_cidr_all(t: Rules, e: Cluster):
    t.sub("nat", "(^-A KUBE-S\\S+ ! -s )10.244.0.0/16(.* cluster IP)", "\\g<1>10.200.0.0/16\\2")


@fault([K])
def sep_empty(t: Rules, e: Cluster):
    t.delete("nat", "^-A " + e.sep(K, "", "10.244.1.2:8080"))


@fault(None, fam=6)
def no_ipv6_prerouting(t: Rules, e: Cluster):
    t.delete("nat", "^-A PREROUTING")


@fault(None, fam=6)
def ipv6_services_empty(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-SERVICES .*cluster IP")


@fault(["shop/legacy"], when=lambda e: e.minor <= 20)
def external_ip_half(t: Rules, e: Cluster):
    t.delete("nat", "shop/legacy:? external IP.*! --src-type")


@fault(["shop/legacy"], when=lambda e: e.minor <= 23)
def external_ip_no_mark(t: Rules, e: Cluster):
    t.delete("nat", "shop/legacy:? external IP.*MARK-MASQ")


@fault(["more/udp"])
def udp_port_gone(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-SERVICES .*-p udp .*more/udp:d cluster IP.*-j KUBE-SVC")


@fault([K])
def return_in_services(t: Rules, e: Cluster):
    t.insert("nat", "KUBE-SERVICES", f"-d {e.ips[K]}/32 -j RETURN")


@fault(None)
def filter_flushed(t: Rules, e: Cluster):
    t.flush("filter")


@fault("none")
def stale_health(t: Rules, e: Cluster):
    return {
        "healthz.json": '{"lastUpdated": "2026-11-23 20:53:46.862323446 +0000 UTC m=+29.618013973","currentTime": "2026-11-23 22:53:46.862323446 +0000 UTC m=+29.618013973"}'
    }


@fault("none")
def fine_health(t: Rules, e: Cluster):
    return {
        "healthz.json": '{"lastUpdated": "2026-11-23 20:53:46.862323446 +0000 UTC m=+29.618013973","currentTime": "2026-11-23 20:53:47.862323446 +0000 UTC m=+29.618013973"}'
    }


@fault(None, when=lambda e: 6 in e.setup.families)
def no_ipv6_forward(t: Rules, e: Cluster):
    return {"sysctl.txt": SYSCTL.replace("all.forwarding = 1", "all.forwarding = 0")}


@fault(None)
def no_route_localnet(t: Rules, e: Cluster):
    return {"sysctl.txt": SYSCTL.replace("route_localnet = 1", "route_localnet = 0")}


@fault([K])
def unknown_target_share(t: Rules, e: Cluster):
    t.insert("filter", "FORWARD", "-d 10.244.1.2/32 -j REJECT --reject-with icmp-host-prohibited")


@fault(["shop/web"])
def node_port_mark_lost(t: Rules, e: Cluster):
    if e.minor >= 24:
        t.delete("nat", "^-A KUBE-EXT-" + e.hash("shop/web", "http") + " .*MARK-MASQ")
    elif e.minor >= 22:
        t.delete("nat", "^-A KUBE-SVC-" + e.hash("shop/web", "http") + " -p .*30080.*MARK-MASQ")
    else:
        t.delete("nat", "^-A KUBE-NODEPORTS .*30080.*MARK-MASQ")


@fault(None)
def wrong_mark_forward(t: Rules, e: Cluster):
    t.sub("filter", "^(-A KUBE-FORWARD .*mark) 0x4000/0x4000", "\\1 0x8/0x8")
    t.policy("filter", "FORWARD", "DROP")
    t.append("filter", "FORWARD", "-s 10.244.0.0/16 -j ACCEPT")


@fault(["shop/media"])
def sctp_gone(t: Rules, e: Cluster):
    t.delete("nat", "shop/media:sip cluster IP.*-j KUBE-SVC")


@fault(["more/ext-local"], when=lambda e: e.minor >= 20)
def external_ip_of_local_gone(t: Rules, e: Cluster):
    t.delete("nat", "^-A KUBE-SERVICES .*more/ext-local:? external IP")


@fault(["shop/api"], when=lambda e: e.minor >= 21)
def health_port_blocked(t: Rules, e: Cluster):
    t.insert("filter", "INPUT", "-p tcp -m tcp --dport 32000 -j DROP")


@fault(None)
def duplicate_hook(t: Rules, e: Cluster):
    r = t.rules("nat", "PREROUTING")
    t.lines.insert(r[0], t.lines[r[0]])


@fault(None)
def duplicate_everywhere(t: Rules, e: Cluster):
    for c in ("PREROUTING", "OUTPUT"):
        r = t.rules("nat", c)
        t.lines[r[0] : r[0]] = [t.lines[r[0]]] * 20


def _cases() -> list[tuple[str, int]]:
    """Each fault on one version that can have it, all versions in turn."""
    found = []
    for n, (name, (_, _, fam, when, _)) in enumerate(FAULTS.items()):
        can = [m for m, (_, setup) in VERSIONS.items() if fam in setup.families and when(_Only(m, setup))]
        found.append((name, can[n % len(can)]))
    return found


class _Only(Cluster):
    """What `when` asks for, without the work."""

    def __init__(self, minor: int, setup: Setup) -> None:
        self.minor, self.setup = minor, setup


CASES = _cases()


@pytest.mark.parametrize(("name", "minor"), CASES, ids=[f"{name}-1.{minor}" for name, minor in CASES])
def test_a_fault_is_named_where_it_is_and_nowhere_else(name: str, minor: int) -> None:
    truth, node, fam, _, edit = FAULTS[name]
    healthy = cluster(minor)
    rules = Rules(healthy.dumps[f"kubworker{node}"].files[FILES[fam]])
    more = edit(rules, healthy)
    report = healthy.judge(node, {FILES[fam]: rules.text, **(more or {})})
    bad = [f for f in report.findings if f.severity is not Severity.INFO]
    named = {f.service for f in bad}
    seen = [(f.code, f.service, f.message) for f in bad]
    assert report.unverified == ()
    if truth in ("none", "info"):
        assert seen == []
        assert report.exit_code() is ExitCode.OK
        assert truth == "none" or report.findings
        return
    assert named == ({None} if truth is None else set(truth)) or (truth is None and None in named and name in ALSO), seen
    assert report.exit_code() is ExitCode.FINDINGS


ALSO = {
    "filter_flushed": "what nothing else lets in is said for its Services too",
}
