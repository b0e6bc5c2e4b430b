"""Faults made here, of every family of findings, on real rules: each is named on its node, for its Services, and alone.

The edits are of text; the truth of each is what a right audit names: the Services, or nothing for the node as a whole.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from captured import CAPTURES, capture, faults, faulty, truth

from kubectl_svcroute.audit.cluster import Audit, audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import SvcrouteError
from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.report import ExitCode, Report, Severity
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump, Snapshot

IPTABLES = [name for name in CAPTURES if "iptables" in name]
NFTABLES = [name for name in CAPTURES if "nftables" in name]
Edit = Callable[[str, str], str]
"""(capture, text) -> text with the fault."""


@cache
def snapshot(name: str) -> Snapshot:
    """A capture, loaded once."""
    return load_snapshot(capture(name))


@cache
def dumps(name: str) -> tuple[NodeDump, ...]:
    """All nodes of a capture."""
    found = [handle.read() for handle in snapshot(name).nodes]
    return tuple(dump for dump in found if isinstance(dump, NodeDump))


@cache
def cluster_ip(name: str, service: str) -> str:
    """The cluster IP of `namespace/name`."""
    for item in snapshot(name).api.items("services"):
        if f"{item['metadata']['namespace']}/{item['metadata']['name']}" == service:
            return str(item["spec"]["clusterIP"])
    raise KeyError(service)


@cache
def healthy(name: str) -> tuple[NodeResult, ...]:
    """What the nodes of a capture come to, each judged once: a node is judged alone, so a fault on another changes nothing."""
    judge = Audit(snapshot(name).api, Selection())
    return tuple(judge.node(dump) for dump in dumps(name))


def report_of(name: str, changed: NodeDump) -> Report:
    """The audit of a capture with one node changed."""
    judge = Audit(snapshot(name).api, Selection())
    return judge.conclude([judge.node(changed), *(r for r in healthy(name) if r.row.node != changed.node)])


def hold(report: Report, node: str, services: list[str]) -> None:
    """The fault is named on its node, for its Services (or for the node as a whole), and nothing else is."""
    bad = [f for f in report.findings if f.severity is not Severity.INFO]
    assert {f.node for f in bad} == {node}, [(f.code, f.node, f.service) for f in bad]
    assert {f.service for f in bad} == (set(services) or {None}), [(f.code, f.service, f.message) for f in bad]
    assert report.exit_code() is ExitCode.FINDINGS


# ---- iptables --------------------------------------------------------------------------------------------------------


def insert(table: str, chain: str, rule: str) -> Edit:
    """A rule at the head of a chain, as another program would put it there."""

    def edit(name: str, text: str) -> str:
        made = rule.replace("KUARD", cluster_ip(name, "default/kuard"))
        lines = text.split("\n")
        start = lines.index(f"*{table}")
        end = lines.index("COMMIT", start)
        mine = [n for n in range(start, end) if lines[n].startswith(f"-A {chain} ")]
        first = next((n for n in range(start, end) if lines[n].startswith("-A ")), end)
        lines.insert(mine[0] if mine else first, f"-A {chain} {made}")
        return "\n".join(lines)

    return edit


def sub(pattern: str, replacement: str, *, count: int = 1, table: str = "") -> Edit:
    """A substitution, in one table or in all."""

    def edit(name: str, text: str) -> str:
        wanted = pattern.replace("KUARD", re.escape(cluster_ip(name, "default/kuard")))
        start = text.index(f"*{table}\n") if table else 0
        end = text.index("COMMIT", start) if table else len(text)
        made, found = re.subn(wanted, replacement, text[start:end], count=count, flags=re.MULTILINE)
        assert found, f"{name} has nothing like {wanted}"
        return text[:start] + made + text[end:]

    return edit


def chain_of(name: str, text: str, service: str) -> str:
    """The chain of a Service's first cluster-IP rule."""
    ip = re.escape(cluster_ip(name, service))
    found = re.search(rf"^-A KUBE-SERVICES -d {ip}/32 -p .*-j (KUBE-SV\S+)$", text, re.MULTILINE)
    assert found
    return found[1]


def in_chain(service: str, change: Callable[[list[str]], list[str]]) -> Edit:
    """A change of the balancing rules of one Service."""

    def edit(name: str, text: str) -> str:
        chain = chain_of(name, text, service)
        lines = text.split("\n")
        at = [n for n, line in enumerate(lines) if line.startswith(f"-A {chain} ") and "KUBE-SEP-" in line]
        return "\n".join(lines[: at[0]] + change(lines[at[0] : at[-1] + 1]) + lines[at[-1] + 1 :])

    return edit


def to_other_chain(name: str, text: str) -> str:
    """kuard's cluster IP leads to another Service's chain."""
    other = chain_of(name, text, "shop/legacy")
    ip = re.escape(cluster_ip(name, "default/kuard"))
    return re.sub(rf"^(-A KUBE-SERVICES -d {ip}/32 .*-j) KUBE-SVC-\S+$", rf"\1 {other}", text, flags=re.MULTILINE)


def deleted(_: str, text: str) -> str:
    """The rules of a Service that the API no longer has."""
    text = text.replace("*nat\n", "*nat\n:KUBE-SVC-GONEGONEGONEGONE - [0:0]\n:KUBE-SEP-GONEGONEGONEGON1 - [0:0]\n")
    rules = (
        '-A KUBE-SERVICES -d 10.96.77.77/32 -p tcp -m comment --comment "shop/gone:http cluster IP" -m tcp --dport 80 '
        "-j KUBE-SVC-GONEGONEGONEGONE\n-A KUBE-SVC-GONEGONEGONEGONE -j KUBE-SEP-GONEGONEGONEGON1\n"
        "-A KUBE-SEP-GONEGONEGONEGON1 -p tcp -m tcp -j DNAT --to-destination 10.244.9.9:80\n"
    )
    start = text.index("*nat\n")
    return text[:start] + text[start:].replace("-A KUBE-SERVICES ", rules + "-A KUBE-SERVICES ", 1)


MADE: dict[str, tuple[Edit, list[str]]] = {
    "nat-accept-first": (insert("nat", "PREROUTING", "-j ACCEPT"), []),
    "nat-accept-one": (insert("nat", "PREROUTING", "-d KUARD/32 -j ACCEPT"), ["default/kuard"]),
    "foreign-dnat-one": (
        insert("nat", "PREROUTING", "-d KUARD/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 9.9.9.9:80"),
        ["default/kuard"],
    ),
    "foreign-dnat-all": (insert("nat", "PREROUTING", "-p tcp -j DNAT --to-destination 9.9.9.9:80"), []),
    "return-in-services": (insert("nat", "KUBE-SERVICES", "-j RETURN"), []),
    "notrack": (
        lambda _, text: text.replace(
            "*mangle\n",
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -j CT --notrack\nCOMMIT\n*mangle\n",
            1,
        ),
        [],
    ),
    "no-output-jump": (sub(r"^-A OUTPUT .*KUBE-SERVICES\n", "", table="nat"), []),
    "node-ports-jump-gone": (sub(r"^-A KUBE-SERVICES .*-j KUBE-NODEPORTS\n", ""), []),
    "flushed-nat": (sub(r"^(-A .*|:KUBE.*)\n", "", count=0, table="nat"), []),
    "postrouting-accept": (insert("nat", "POSTROUTING", "-j ACCEPT"), []),
    "postrouting-masquerade-all": (insert("nat", "POSTROUTING", "-j MASQUERADE"), []),
    "postrouting-snat-pods": (insert("nat", "POSTROUTING", "-s 10.244.0.0/16 -j SNAT --to-source 172.18.0.13"), []),
    "no-postrouting-jump": (sub(r"^-A POSTROUTING .*KUBE-POSTROUTING\n", ""), []),
    "masquerade-gone": (sub(r"^-A KUBE-POSTROUTING .*MASQUERADE.*\n", ""), []),
    "mark-chain-empty": (sub(r"^-A KUBE-MARK-MASQ .*\n", ""), []),
    "mark-cleared": (insert("mangle", "POSTROUTING", "-j MARK --set-xmark 0x0/0xffffffff"), []),
    "probability": (
        in_chain("default/kuard", lambda r: [re.sub(r"y \S+ -j", "y 0.70000000000 -j", r[0]), *r[1:]]),
        ["default/kuard"],
    ),
    "order": (in_chain("default/kuard", lambda r: [r[-1], *r[:-1]]), ["default/kuard"]),
    "duplicate-endpoint": (in_chain("default/kuard", lambda r: [r[0], *r]), ["default/kuard"]),
    "duplicate-jump": (
        insert("nat", "PREROUTING", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
        [],
    ),
    "other-chain": (to_other_chain, ["default/kuard"]),
    "deleted-service": (deleted, ["shop/gone"]),
    "forward-drop": (insert("filter", "FORWARD", "-j DROP"), []),
    "forward-drop-one": (insert("filter", "FORWARD", "-d 10.244.1.2/32 -j DROP"), ["default/kuard"]),
    "forward-policy-drop": (sub(r"^:FORWARD ACCEPT", ":FORWARD DROP", table="filter"), []),
    "mangle-drop-one": (insert("mangle", "PREROUTING", "-p tcp -m tcp --dport 30080 -j DROP"), ["shop/web"]),
    "reject-gone": (sub(r"^-A KUBE-SERVICES .*shop/empty.*REJECT.*\n", ""), ["shop/empty"]),
    "filter-jumps-gone": (sub(r"^-A FORWARD .*KUBE-(EXTERNAL-)?SERVICES\n", "", count=9), []),
    "forward-accept-gone": (sub(r"^-A KUBE-FORWARD .*-m mark .*ACCEPT\n", ""), []),
    "affinity-seconds": (sub(r"--seconds 3600", "--seconds 60", count=99), ["shop/cart"]),
    "protocol": (
        sub(r"^(-A KUBE-SERVICES -d 10.96.0.10/32 -p) udp (.*) -m udp (.*-j KUBE-SVC)", r"\1 tcp \2 -m tcp \3"),
        ["kube-system/kube-dns"],
    ),
}


@pytest.mark.parametrize("name", IPTABLES)
@pytest.mark.parametrize("fault", MADE)
def test_a_made_fault_is_named(name: str, fault: str) -> None:
    """Named on its node, for its Services or the node as a whole, and nothing besides."""
    edit, services = MADE[fault]
    dump = next(d for d in dumps(name) if d.node.startswith("kubworker3"))
    text = edit(name, dump.files["iptables-save.txt"])
    hold(report_of(name, NodeDump(node=dump.node, files={**dump.files, "iptables-save.txt": text})), dump.node, services)


RECENT: dict[str, tuple[Edit, list[str], str]] = {
    "local-policy-ignored": (
        sub(r"^(-A KUBE-EXT-TG4Y7II5EGIOXNPD -j) KUBE-SVL-\S+", r"\1 KUBE-SVC-TG4Y7II5EGIOXNPD"),
        ["shop/api"],
        "2",
    ),
    "local-chain-unreached": (sub(r"^-A KUBE-EXT-TG4Y7II5EGIOXNPD -j KUBE-SVL-\S+\n", ""), ["shop/api"], "2"),
    "range-open": (insert("nat", "KUBE-FW-TG4Y7II5EGIOXNPD", "-j KUBE-EXT-TG4Y7II5EGIOXNPD"), ["shop/api"], "3"),
    "range-closed": (sub(r"^-A KUBE-FW-TG4Y7II5EGIOXNPD -s 198.51.*\n", ""), ["shop/api"], "2"),
    "firewall-gone": (sub(r"^-A KUBE-PROXY-FIREWALL .*\n", ""), ["shop/api"], "3"),
    "internal-local-drop-gone": (sub(r"^-A KUBE-SERVICES .*shop/agent.*DROP\n", ""), ["shop/agent"], "3"),
    "external-mark-gone": (sub(r"^-A KUBE-EXT-67NZLRHBNDSAWJRO .*KUBE-MARK-MASQ\n", ""), ["shop/web"], "3"),
    "external-local-drop-gone": (sub(r"^-A KUBE-EXTERNAL-SERVICES .*shop/api.*DROP\n", "", count=9), ["shop/api"], "3"),
    "mark-kept": (sub(r"^-A KUBE-POSTROUTING -j MARK.*\n", ""), [], "3"),
    "return-gone": (sub(r"^-A KUBE-POSTROUTING .*RETURN\n", ""), [], "3"),
    "health-check-rule-gone": (sub(r"^-A KUBE-NODEPORTS .*health check.*\n", ""), ["shop/api"], "3"),
}


@pytest.mark.parametrize("name", [name for name in IPTABLES if not name.startswith(("v1.17", "v1.23"))])
@pytest.mark.parametrize("fault", RECENT)
def test_a_made_fault_of_recent_chains_is_named(name: str, fault: str) -> None:
    """The same for chains that kube-proxy writes from 1.24 on."""
    edit, services, number = RECENT[fault]
    dump = next(d for d in dumps(name) if d.node.startswith(f"kubworker{number}"))
    text = edit(name, dump.files["iptables-save.txt"])
    hold(report_of(name, NodeDump(node=dump.node, files={**dump.files, "iptables-save.txt": text})), dump.node, services)


@pytest.mark.parametrize("name", IPTABLES)
def test_both_backends_are_told(name: str) -> None:
    """Service chains in iptables-legacy and in iptables-nft: one finding, for the node."""
    dump = next(d for d in dumps(name) if d.node.startswith("kubworker3"))
    text = dump.files["iptables-save.txt"]
    other = text.replace("(nf_tables)", "(legacy)") if "(nf_tables)" in text else text.replace("v1.8.9 ", "v1.8.9 (nf_tables) ")
    report = report_of(name, NodeDump(node=dump.node, files={**dump.files, "iptables-legacy-save.txt": other}))
    hold(report, dump.node, [])
    assert [f.code for f in report.findings if f.severity is not Severity.INFO] == ["SR502"]


@pytest.mark.parametrize("name", IPTABLES)
def test_a_kernel_without_rules_is_a_finding(name: str) -> None:
    """The node says that its kernel holds no table: every Service is dead there, which is one finding and no doubt."""
    dump = next(d for d in dumps(name) if d.node.startswith("kubworker3"))
    files = {key: text for key, text in dump.files.items() if "save" not in key}
    files["tools.txt"] = "empty: iptables-save.txt: the kernel has no table\nempty: ip6tables-save.txt: the kernel has no table\n"
    report = report_of(name, NodeDump(node=dump.node, files=files))
    hold(report, dump.node, [])
    assert "SR106" in {f.code for f in report.findings}
    assert report.unverified == ()


def test_a_file_that_could_not_be_read_says_why() -> None:
    """The node's own reason is in the report."""
    dump = dumps(IPTABLES[0])[0]
    files = {key: text for key, text in dump.files.items() if key != "iptables-save.txt"}
    files["tools.txt"] = "not read: iptables-save.txt: status 4: xtables lock\n"
    report = report_of(IPTABLES[0], NodeDump(node=dump.node, files=files))
    assert ["xtables lock" in u.reason for u in report.unverified] == [True]
    assert report.exit_code() is ExitCode.NOT_VERIFIED


def test_a_node_that_cannot_be_judged_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that one node's output meets leaves that node unverified, with its reason, and all others judged."""
    name = IPTABLES[0]
    judge = Audit(snapshot(name).api, Selection())
    right = Audit.judged

    def wrong(self: Audit, dump: NodeDump) -> NodeResult:
        if dump.node.startswith("kubworker3"):
            raise RecursionError("too deep")
        return right(self, dump)

    monkeypatch.setattr(Audit, "judged", wrong)
    report = judge.report(dumps(name))
    assert [(u.code, (u.node or "").partition(".")[0]) for u in report.unverified] == [("SR902", "kubworker3")]
    assert "RecursionError: too deep" in report.unverified[0].reason
    assert [row.verified for row in report.nodes].count(True) == 4
    assert report.exit_code() is ExitCode.NOT_VERIFIED


# ---- nftables --------------------------------------------------------------------------------------------------------

Nft = dict[str, list[dict[str, Any]]]


def of(ruleset: Nft, kind: str, **wanted: str) -> list[dict[str, Any]]:
    """Objects of one kind in table ip kube-proxy with these fields."""
    found = [item[kind] for item in ruleset["nftables"] if kind in item]
    return [o for o in found if o["family"] == "ip" and all(o.get(key) == value for key, value in wanted.items())]


def without(ruleset: Nft, *gone: dict[str, Any]) -> None:
    """Take objects out."""
    assert gone
    ruleset["nftables"] = [item for item in ruleset["nftables"] if not any(next(iter(item.values())) is o for o in gone)]


def rules_with(ruleset: Nft, chain: str, text: str) -> list[dict[str, Any]]:
    """Rules of a chain that hold a text."""
    return [rule for rule in of(ruleset, "rule", chain=chain) if text in json.dumps(rule)]


def chain_named(ruleset: Nft, prefix: str, part: str) -> str:
    """A chain by prefix and part."""
    return str(next(c["name"] for c in of(ruleset, "chain") if c["name"].startswith(prefix) and part in c["name"]))


def from_map(ruleset: Nft, kind: str, name: str, text: str) -> None:
    """Take elements with a text out of a set or map."""
    held = of(ruleset, kind, name=name)[0]
    kept = [element for element in held["elem"] if text not in json.dumps(element)]
    assert len(kept) < len(held["elem"])
    held["elem"] = kept


def skew(_: str, ruleset: Nft) -> None:
    """A map that counts to more than it has elements."""
    for rule in rules_with(ruleset, chain_named(ruleset, "service-", "default/kuard"), "numgen"):
        rule["expr"] = json.loads(re.sub(r'"mod": (\d+)', lambda m: f'"mod": {int(m[1]) + 3}', json.dumps(rule["expr"])))


def swap(name: str, ruleset: Nft) -> None:
    """kuard's address leads to another Service's chain."""
    elements = of(ruleset, "map", name="service-ips")[0]["elem"]
    mine = next(e for e in elements if cluster_ip(name, "default/kuard") in json.dumps(e[0]))
    other = next(e for e in elements if cluster_ip(name, "shop/legacy") in json.dumps(e[0]))
    mine[1] = copy.deepcopy(other[1])


def mark_bit(_: str, ruleset: Nft) -> None:
    """Marks are set with another bit than is looked for."""
    for rule in of(ruleset, "rule"):
        if rule["chain"] in ("mark-for-masquerade", "services") or rule["chain"].startswith("external-"):
            rule["expr"] = json.loads(json.dumps(rule["expr"]).replace("16384", "32768"))


def no_table(_: str, ruleset: Nft) -> None:
    """Table ip kube-proxy is gone."""
    ruleset["nftables"] = [
        item for item in ruleset["nftables"] if "metainfo" in item or next(iter(item.values()))["family"] != "ip"
    ]


def no_chain(chain: str) -> Callable[[str, Nft], None]:
    """A base chain is gone, with its rules."""
    return lambda _, ruleset: without(ruleset, *of(ruleset, "chain", name=chain), *of(ruleset, "rule", chain=chain))


def foreign(rule: list[dict[str, Any]], *, hook: str, kind: str, priority: int) -> Callable[[str, Nft], None]:
    """A table of another program with one rule."""

    def edit(name: str, ruleset: Nft) -> None:
        expr = json.loads(json.dumps(rule).replace("KUARD", cluster_ip(name, "default/kuard")))
        where = {"family": "ip", "table": "fw"}
        ruleset["nftables"] += [
            {"table": {"family": "ip", "name": "fw", "handle": 99}},
            {"chain": {**where, "name": "c", "handle": 1, "type": kind, "hook": hook, "prio": priority, "policy": "accept"}},
            {"rule": {**where, "chain": "c", "handle": 2, "expr": expr}},
        ]

    return edit


TO_KUARD = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "KUARD"}}


def affinity(_: str, ruleset: Nft) -> None:
    """Affinity sets that forget too early."""
    for found in of(ruleset, "set"):
        if found["name"].startswith("affinity-") and "shop/cart" in found["name"]:
            found["timeout"] = 60


def deleted_nft(name: str, ruleset: Nft) -> None:
    """An address that no Service has leads to kuard's chain."""
    elements = of(ruleset, "map", name="service-ips")[0]["elem"]
    mine = copy.deepcopy(next(e for e in elements if cluster_ip(name, "default/kuard") in json.dumps(e[0])))
    mine[0] = json.loads(json.dumps(mine[0]).replace(cluster_ip(name, "default/kuard"), "10.96.77.77"))
    elements.append(mine)


MADE_NFT: dict[str, tuple[Callable[[str, Nft], None], list[str]]] = {
    "skewed-map": (skew, ["default/kuard"]),
    "swapped-chain": (swap, ["default/kuard"]),
    "mark-bit": (mark_bit, []),
    "table-gone": (no_table, []),
    "prerouting-gone": (no_chain("nat-prerouting"), []),
    "output-gone": (no_chain("nat-output"), []),
    "postrouting-gone": (no_chain("nat-postrouting"), []),
    "forward-gone": (no_chain("filter-forward"), []),
    "range-rule-gone": (lambda _, r: without(r, *of(r, "rule", chain=chain_named(r, "firewall-", "shop/api"))), ["shop/api"]),
    "range-element-gone": (lambda _, r: from_map(r, "map", "firewall-ips", "203.0.113.10"), ["shop/api"]),
    "reject-gone": (lambda n, r: from_map(r, "map", "no-endpoint-services", cluster_ip(n, "shop/empty")), ["shop/empty"]),
    "reject-chain-empty": (lambda _, r: without(r, *of(r, "rule", chain="reject-chain")), []),
    "cluster-ip-not-in-set": (lambda n, r: from_map(r, "set", "cluster-ips", cluster_ip(n, "default/kuard")), ["default/kuard"]),
    "deleted-service": (deleted_nft, ["default/kuard"]),
    "foreign-drop": (foreign([{"drop": None}], hook="forward", kind="filter", priority=-5), []),
    "foreign-dnat": (
        foreign([TO_KUARD, {"dnat": {"addr": "9.9.9.9", "port": 80}}], hook="prerouting", kind="nat", priority=-110),
        ["default/kuard"],
    ),
    "masquerading-empty": (lambda _, r: without(r, *of(r, "rule", chain="masquerading")), []),
    "affinity-seconds": (affinity, ["shop/cart"]),
    "services-lookup-gone": (lambda _, r: without(r, *rules_with(r, "services", "service-ips")), []),
    "node-ports-lookup-gone": (lambda _, r: without(r, *rules_with(r, "services", "service-nodeports")), []),
}


@pytest.mark.parametrize("name", NFTABLES)
@pytest.mark.parametrize("fault", MADE_NFT)
def test_a_made_fault_of_nftables_is_named(name: str, fault: str) -> None:
    """Named on its node, for its Services or the node as a whole, and nothing besides."""
    edit, services = MADE_NFT[fault]
    dump = next(d for d in dumps(name) if d.node.startswith("kubworker3"))
    ruleset = json.loads(dump.files["nft-ruleset.json"])
    edit(name, ruleset)
    files = {key: text for key, text in dump.files.items() if key != "nft-ruleset.txt"}
    hold(report_of(name, NodeDump(node=dump.node, files={**files, "nft-ruleset.json": json.dumps(ruleset)})), dump.node, services)


# ---- what cannot be known --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize(
    "file", ["iptables-save.txt", "ip6tables-save.txt", "nft-ruleset.json", "proxy-mode.txt", "healthz.json", "sysctl.txt"]
)
def test_a_file_cut_anywhere_is_never_a_pass(name: str, file: str) -> None:
    """Fifty cuts of each file of a node, the empty one first: exit 2 or 3, whatever else was read."""
    dump = dumps(name)[2]
    if file not in dump.files:
        return
    text = dump.files[file]
    # All Services are asked for where the file is about all of them; elsewhere some that it matters to tell as much.
    some = None if file in ("iptables-save.txt", "nft-ruleset.json") else frozenset({"default/kuard", "shop/six"})
    cuts = [len(text) * n // 50 for n in range(50)] if len(text) < 50_000 else [len(text) * n // 12 for n in range(12)]
    # The newline behind JSON's last brace is no part of it.
    for at in (*cuts, len(text.rstrip()) - 1):
        try:
            cut = NodeDump(node=dump.node, files={**dump.files, file: text[:at]})
            status = audit(snapshot(name).api, [cut], Selection(services=some)).exit_code()
        except SvcrouteError:
            status = ExitCode.CANNOT_RUN
        assert status in (ExitCode.CANNOT_RUN, ExitCode.NOT_VERIFIED), f"{file} cut at {at} of {len(text)}"


@pytest.mark.parametrize("name", CAPTURES)
def test_the_configuration_is_inferred_where_none_is_shown(name: str) -> None:
    """Without the ConfigMap a healthy cluster is healthy, each fault is found all the same, and the report says so.

    The faulty node votes too. When the nodes come to the same configuration without it, the others are judged as before.
    """
    found = snapshot(name)
    api = replace(found.api, objects={key: value for key, value in found.api.objects.items() if key != "configmap-kube-proxy"})
    clean = Audit(api, Selection())
    clean.learn(dumps(name))
    report = clean.report(dumps(name))
    assert report.exit_code() is ExitCode.OK
    assert any("inferred" in note for note in report.notes)
    for fault in faults(name):
        node = truth(name, fault)["node"]
        changed = next(handle for handle in load_snapshot(faulty(name, fault)).nodes if handle.node == node).read()
        judge = Audit(api, Selection())
        judge.learn([changed, *(dump for dump in dumps(name) if dump.node != node)])
        assert judge.inference is not None
        assert clean.inference is not None
        assert judge.inference.settings == clean.inference.settings, fault
        bad = {f.service for f in judge.node(changed).findings if f.severity is not Severity.INFO}
        assert bad == (set(truth(name, fault)["services"]) or {None}), f"{name} {fault}"


@pytest.mark.parametrize("name", [name for name in IPTABLES if "configured" not in name])
@pytest.mark.parametrize("shown", [True, False])
def test_masquerade_all(name: str, shown: bool) -> None:
    """A cluster that masquerades everything to cluster IPs is healthy, whether its configuration is shown or not."""
    objects = dict(snapshot(name).api.objects)
    if shown:
        shown_map = copy.deepcopy(objects["configmap-kube-proxy"])
        config = json.loads(shown_map["data"]["config.conf"])
        config.setdefault("iptables", {})["masqueradeAll"] = True
        shown_map["data"]["config.conf"] = json.dumps(config)
        objects["configmap-kube-proxy"] = shown_map
    else:
        del objects["configmap-kube-proxy"]
    outcomes = []
    for dump in dumps(name):
        files = dict(dump.files)
        for file in ("iptables-save.txt", "ip6tables-save.txt"):
            # Only what is for cluster IPs: from 1.21 to 1.23, external IPs go by the detector all the same.
            files[file] = re.sub(
                r"^(-A \S+) ! -s \S+ (-d .* cluster IP.*KUBE-MARK-MASQ)$", r"\1 \2", files[file], flags=re.MULTILINE
            )
        outcomes.append(NodeDump(node=dump.node, files=files))
    report = audit(replace(snapshot(name).api, objects=objects), outcomes)
    assert [f for f in report.findings if f.severity is not Severity.INFO] == []
    assert report.exit_code() is ExitCode.OK
