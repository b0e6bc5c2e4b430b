"""What other programs' rules do beside kube-proxy's: three kinds of doubt, what is certain, and who is to blame."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.audit.report_builder import conclude
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode, Report, Severity
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump, Snapshot
from kubectl_svcroute.shards.encoding import Contents, pack, unpack

IPTABLES, NFTABLES = "v1.36-iptables-nft", "v1.36-nftables"
NODE = "kubworker3"
SERVICES = frozenset(("default/kuard", "shop/web"))


@cache
def snapshot(name: str) -> Snapshot:
    return load_snapshot(capture(name))


@cache
def dump(name: str) -> NodeDump:
    found = next(handle.read() for handle in snapshot(name).nodes if handle.node.partition(".")[0] == NODE)
    assert isinstance(found, NodeDump)
    return found


def audited(files: dict[str, str], name: str = IPTABLES, *, strict: bool = False) -> Report:
    """The audit of one node, with some of its files otherwise."""
    judge = Audit(snapshot(name).api, Selection(services=SERVICES, strict=strict))
    judge.learn([dump(name)])
    changed = NodeDump(node=dump(name).node, files={**dump(name).files, **files})
    return judge.conclude([judge.node(changed)])


def with_rules(text: str, rules: Sequence[str]) -> str:
    """iptables-save's text with rules at the head of built-in chains (`filter -A FORWARD …`), and with chains of their own."""
    for rule in reversed(rules):
        table, _, line = rule.partition(" ")
        start = text.index(f"*{table}\n") if f"*{table}\n" in text else -1
        if start < 0:
            hooks = {"raw": ("PREROUTING", "OUTPUT"), "nat": ("PREROUTING", "OUTPUT", "POSTROUTING")}
            declared = "".join(f":{hook} ACCEPT [0:0]\n" for hook in hooks.get(table, ("INPUT", "FORWARD", "OUTPUT")))
            text, start = f"{text}*{table}\n{declared}COMMIT\n", len(text)
        chain = line.split()[1]
        head = text[start : text.index("COMMIT", start)]
        if f":{chain} " not in head:
            head = head.replace("\n", f"\n:{chain} - [0:0]\n", 1)
        at = head.find("\n-A ")
        at = len(head) if at < 0 else at + 1
        text = text[:start] + head[:at] + line + "\n" + head[at:] + text[start + len(text[start : text.index("COMMIT", start)]) :]
    return text


def iptables(*rules: str, edit: Callable[[str], str] = lambda text: text, strict: bool = False) -> Report:
    """The node in iptables mode, with other programs' rules and a fault."""
    text = edit(dump(IPTABLES).files["iptables-save.txt"])
    return audited({"iptables-save.txt": with_rules(text, rules)}, strict=strict)


def codes(report: Report) -> list[str]:
    """The codes of errors and warnings."""
    return sorted({f.code for f in report.findings if f.severity is not Severity.INFO})


# ---- three kinds of doubt --------------------------------------------------------------------------------------------

SET = "-m set --match-set odd src"


@pytest.mark.parametrize(
    ("rule", "effects", "program"),
    [
        (f"filter -A FORWARD {SET} -j DROP", ("drop",), "another program (chain FORWARD of table ip filter)"),
        (f"filter -A FORWARD {SET} -j REJECT --reject-with icmp-port-unreachable", ("reject",), None),
        (f"raw -A PREROUTING {SET} -j DROP", ("drop",), None),
        (f"nat -A POSTROUTING {SET} -j MASQUERADE", ("masquerade",), None),
        ("filter -A FORWARD -m set --match-set cali40s:x src -j DROP", ("drop",), "Calico"),
        ("filter -A FORWARD -m set --match-set azure-npm-1 src -j DROP", ("drop",), "Azure NPM"),
        ("filter -A FORWARD -o weave -m set --match-set weave-x dst -j DROP", ("drop",), "Weave Net"),
    ],
)  # fmt: skip
def test_a_doubt_about_another_program_leaves_services_verified(rule: str, effects: tuple[str, ...], program: str | None) -> None:
    """It is said once, and counts as not verified with --strict alone."""
    report = iptables(rule)
    assert (codes(report), report.unverified, report.exit_code()) == ([], (), ExitCode.OK)
    (item,) = report.not_judged
    assert item.effects == effects
    assert program in (None, item.program)
    assert "odd" in item.reason or "set" in item.reason or "interface" in item.reason
    assert all(row.nodes_verified == 1 for row in report.services)
    strict = iptables(rule, strict=True)
    assert (codes(strict), strict.not_judged, strict.exit_code()) == ([], (), ExitCode.NOT_VERIFIED)
    assert [u.code for u in strict.unverified] == ["SR911"]
    assert not any(row.nodes_verified for row in strict.services)


@pytest.mark.parametrize(
    "rule",
    [
        f"nat -A PREROUTING {SET} -j ACCEPT",
        f"nat -A PREROUTING {SET} -p tcp -j DNAT --to-destination 192.0.2.1:80",
        f"raw -A PREROUTING {SET} -j CT --notrack",
        f"mangle -A PREROUTING {SET} -j MARK --set-xmark 0x4000/0x4000",
    ],
)
def test_a_doubt_about_what_kube_proxys_rules_do_is_not_verified(rule: str) -> None:
    report = iptables(rule)
    assert (codes(report), report.not_judged) == ([], ())
    assert {u.code for u in report.unverified} == {"SR903"}
    assert report.exit_code() is ExitCode.NOT_VERIFIED


@pytest.mark.parametrize(
    "rule",
    [
        f"mangle -A PREROUTING {SET} -j MARK --set-xmark 0x1/0x1",
        f"filter -A FORWARD {SET} -j NFLOG --nflog-group 3",
        f"filter -A FORWARD {SET} -j ACCEPT",
    ],
)
def test_a_doubt_that_changes_nothing_is_not_mentioned(rule: str) -> None:
    report = iptables(rule)
    assert (codes(report), report.unverified, report.not_judged) == ([], (), ())


def cut(pattern: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, "", text, flags=re.MULTILINE)


def nat_output(text: str) -> str:
    start = text.index("*nat")
    return text[:start] + re.sub(r"(?m)^-A OUTPUT .*-j KUBE-SERVICES\n", "", text[start:])


FAULTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "no-prerouting-jump": ("SR103", cut(r"^-A PREROUTING .*-j KUBE-SERVICES\n")),
    "no-output-jump": ("SR103", nat_output),
    "no-postrouting-jump": ("SR305", cut(r"^-A POSTROUTING .*-j KUBE-POSTROUTING\n")),
    "mark-empty": ("SR304", cut(r"^-A KUBE-MARK-MASQ .*\n")),
    "postrouting-empty": ("SR304", cut(r"^-A KUBE-POSTROUTING .*\n")),
    "missing-endpoint": ("SR201", cut(r"^-A KUBE-SVC-KONBH\S+ .*--probability 0.5\S* -j KUBE-SEP-\S+\n")),
    "wrong-port": ("SR203", lambda t: re.sub(r"(?m)^(-A KUBE-SEP-XBHBV\S+ -p tcp .*--to-destination \S+?):\d+$", r"\1:9", t)),
    "no-hairpin": ("SR302", cut(r"^-A KUBE-SEP-D6Q6VQ2FMAEC5LB3 -s \S+ .*KUBE-MARK-MASQ\n")),
    "no-nodeports-jump": ("SR105", cut(r"^-A KUBE-SERVICES .*-j KUBE-NODEPORTS\n")),
    "no-cluster-masquerade": ("SR301", cut(r"^-A KUBE-(?:SVC-\S+|SERVICES) .*! -[is] .*KUBE-MARK-MASQ\n")),
    "masquerades-all": ("SR309", cut(r"^-A KUBE-POSTROUTING -m mark ! --mark 0x[0-9a-f]+/0x[0-9a-f]+ -j RETURN\n")),
}  # fmt: skip

BESIDE = {
    "certain": (
        # Rules that act on every packet and change nothing: raw marks, chains that return, accepts of the filter table.
        "raw -A PREROUTING -j MARK --set-xmark 0x0/0xf0000", "raw -A OUTPUT -j MARK --set-xmark 0x0/0xf0000",
        "mangle -A PREROUTING -j AWS-X", "mangle -A AWS-X -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
        "nat -A PREROUTING -j other-pre", "nat -A OUTPUT -j other-pre", "nat -A other-pre -j RETURN",
        "nat -A POSTROUTING -j FLANNEL-POSTRTG", "nat -A FLANNEL-POSTRTG -d 10.244.0.0/16 -j RETURN",
        "filter -A OUTPUT -j ufw-before-output", "filter -A ufw-before-output -m conntrack --ctstate NEW -j ACCEPT",
        "filter -A FORWARD -j ACCEPT",
    ),
    "doubtful": (
        "raw -A PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000",
        "raw -A PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP",
        "filter -A FORWARD -i cali+ -j cali-from", "filter -A FORWARD -o cali+ -j cali-to",
        "filter -A cali-from -i cali1 -j ACCEPT", "filter -A cali-from -j DROP",
        "filter -A cali-to -m set --match-set cali40s:x src -j ACCEPT", "filter -A cali-to -j DROP",
        "nat -A POSTROUTING -m set --match-set cali40masq src -m set ! --match-set cali40all dst -j MASQUERADE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_the_code_that_it_has_alone(fault: str, beside: str) -> None:
    """Whatever other programs' rules are on the path, kube-proxy's own fault is named, and nothing else; and all is verified."""
    code, edit = FAULTS[fault]
    alone = iptables(edit=edit)
    assert codes(alone) == [code]
    report = iptables(*BESIDE[beside], edit=edit)
    assert (codes(report), report.unverified) == ([code], ())
    assert {(f.code, f.service) for f in report.findings if f.code == code} == {
        (f.code, f.service) for f in alone.findings if f.code == code
    }


@pytest.mark.parametrize("beside", BESIDE)
def test_healthy_rules_beside_are_no_finding(beside: str) -> None:
    report = iptables(*BESIDE[beside])
    assert (codes(report), report.unverified, report.exit_code()) == ([], (), ExitCode.OK)
    assert {item.program for item in report.not_judged} == ({"Calico"} if beside == "doubtful" else set())


# ---- what another program certainly does ----------------------------------------------------------------------------------


def policy_drop(text: str) -> str:
    return text.replace(":FORWARD ACCEPT", ":FORWARD DROP", 1).replace("-A KUBE-FORWARD", "-A KUBE-FORWARD -s 192.0.2.9/32", 9)


@pytest.mark.parametrize(
    ("place", "rule", "code", "program", "words"),
    [
        ("filter FORWARD ts-forward", "-s 10.244.0.0/16 -j DROP", "SR402", "Tailscale", "stops the packet"),
        ("filter FORWARD cali-FORWARD", "-d 10.244.0.0/16 -j DROP", "SR402", "Calico", "polic"),
        ("filter FORWARD ufw-reject-forward", "-j REJECT", "SR402", "ufw", "ufw route allow"),
        ("nat PREROUTING NETBIRD-X", "-d 10.96.0.0/12 -j ACCEPT", "SR104", "NetBird", "takes the packet"),
        ("nat PREROUTING other", "-p tcp -j DNAT --to-destination 192.0.2.1:9", "SR104", "", "192.0.2.1:9"),
        ("raw PREROUTING LIBVIRT_X", "-j CT --notrack", "SR104", "libvirt", "takes the packet"),
        ("mangle FORWARD CILIUM_X", "-j MARK --set-xmark 0x0/0xffffffff", "SR311", "Cilium", "changes the mark"),
        ("nat POSTROUTING CNI-X", "-j ACCEPT", "SR306", "CNI plugins", "ends POSTROUTING"),
        ("nat POSTROUTING KILO-NAT", "-j MASQUERADE", "SR310", "Kilo", "changes the source"),
    ],
)  # fmt: skip
def test_the_rule_that_decides_is_named_with_its_program(place: str, rule: str, code: str, program: str, words: str) -> None:
    """It is one finding of the node, which kube-proxy does not heal."""
    table, hook, chain = place.split()
    rules = (f"{table} -A {hook} -j {chain}", f"{table} -A {chain} {rule}")
    noise = ("filter -A OUTPUT -j other-x", "filter -A other-x -j RETURN", "raw -A PREROUTING -j MARK --set-xmark 0x0/0xf0000")
    report = iptables(*rules, *noise)
    found = [f for f in report.findings if f.severity is Severity.ERROR]
    assert {f.code for f in found} == {code}, [(f.code, f.message) for f in found]
    assert len({f.message for f in found}) == 1
    assert program in found[0].message
    assert words in found[0].message
    assert "another program" in found[0].heals
    assert f"-A {chain} {rule}" in found[0].evidence


def test_dockers_policy_is_an_error_where_nothing_accepts() -> None:
    """Docker sets FORWARD's policy to DROP: where kube-proxy's accepts are gone too, it is named."""
    report = iptables("filter -A FORWARD -j DOCKER-USER", "filter -A DOCKER-USER -j RETURN", edit=policy_drop)
    found = [f for f in report.findings if f.code == "SR402"]
    assert len(found) == 1
    assert "Docker" in found[0].message
    assert "another program" in found[0].heals


def test_an_endpointless_service_that_another_program_takes_first_is_only_mentioned() -> None:
    """Its clients fail either way, and only later."""
    report = iptables("filter -A FORWARD -j ACCEPT")
    assert codes(report) == []
    assert {f.code for f in report.findings} <= {"SR403"}


# ---- nftables mode -----------------------------------------------------------------------------------------------------


def beside_nftables(*rules: str) -> Report:
    return audited(
        {
            "iptables-save.txt": with_rules(
                "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n", rules
            )
        },
        NFTABLES,
    )


@pytest.mark.parametrize(
    ("rules", "found", "judged"),
    [
        ((f"filter -A FORWARD {SET} -j DROP",), [], 1),
        (("filter -A FORWARD -j ts-forward", "filter -A ts-forward -s 10.244.0.0/16 -j DROP"), ["SR402"], 0),
        (("raw -A PREROUTING -j LIBVIRT_X", "raw -A LIBVIRT_X -j CT --notrack"), ["SR104"], 0),
        (("filter -A FORWARD -j ACCEPT", "filter -A OUTPUT -j ACCEPT"), [], 0),
    ],
)
def test_the_same_beside_nftables(rules: tuple[str, ...], found: list[str], judged: int) -> None:
    report = beside_nftables(*rules)
    assert (codes(report), report.unverified, len(report.not_judged)) == (found, (), judged)


def table(family: str, name: str, *chains: tuple[str, str, str, int]) -> str:
    listed = ", ".join(
        f'{{"chain": {{"family": "{family}", "table": "{name}", "name": "{chain}", "handle": 1, "type": "{kind}",'
        f' "hook": "{hook}", "prio": {priority}, "policy": "accept"}}}}'
        for chain, kind, hook, priority in chains
    )
    return (
        '{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "x", "json_schema_version": 1}},'
        f' {{"table": {{"family": "{family}", "name": "{name}", "handle": 3}}}}, {listed}]}}'
    )


@pytest.mark.parametrize(
    ("text", "effects"),
    [
        (table("inet", "firewalld", ("filter_FORWARD", "filter", "forward", 10)), ("firewalld", ("drop",))),
        (table("inet", "kindnet-ipmasq", ("postrouting", "nat", "postrouting", 90)), ("kindnet", ("masquerade",))),
        (table("inet", "x", ("pre", "nat", "prerouting", -90)), ("another program (nftables table inet x)", ("masquerade",))),
        (table("inet", "x", ("pre", "nat", "prerouting", -110)), None),
        (table("ip", "x", ("out", "nat", "output", -100)), None),
    ],
)
def test_a_table_that_was_not_read_matters_where_it_may_translate_first(
    text: str, effects: tuple[str, tuple[str, ...]] | None
) -> None:
    report = audited({"nft-tables.json": text})
    if effects is None:
        assert ([u.code for u in report.unverified], report.not_judged) == (["SR909"], ())
        return
    assert report.unverified == ()
    assert [(item.program, item.effects) for item in report.not_judged] == [effects]


# ---- other nodes, parts, and who answers -----------------------------------------------------------------------------------


def test_a_later_node_whose_walks_are_spared_says_the_same() -> None:
    """Nodes that are judged by their differences from the first name the same programs as nodes that are walked."""
    dumps = [handle.read() for handle in snapshot(IPTABLES).nodes]
    rules = (
        "filter -A FORWARD -m set --match-set cali40s:x src -j DROP",
        "nat -A POSTROUTING -m set --match-set y src -j MASQUERADE",
    )
    changed = [
        NodeDump(node=d.node, files={**d.files, "iptables-save.txt": with_rules(d.files["iptables-save.txt"], rules)})
        for d in dumps
        if isinstance(d, NodeDump)
    ]
    found = []
    for thorough in (False, True):
        judge = Audit(snapshot(IPTABLES).api, Selection(), thorough=thorough)
        judge.learn(changed)
        found.append([(r.row.node, r.not_judged) for r in map(judge.node, changed)])
    assert found[0] == found[1]
    assert all(len(items) == 2 for _, items in found[0])


def test_parts_keep_what_was_not_judged() -> None:
    """A part's results hold it, and merging counts it as it is asked to."""
    judge = Audit(snapshot(IPTABLES).api, Selection(services=SERVICES))
    text = with_rules(dump(IPTABLES).files["iptables-save.txt"], [f"filter -A FORWARD {SET} -j DROP"])
    result = judge.node(NodeDump(node=dump(IPTABLES).node, files={**dump(IPTABLES).files, "iptables-save.txt": text}))
    contents = Contents(listed=(), facts=judge.facts(), inference=None, everybody=False, results=(result,))
    (again,) = unpack(pack(contents)).results
    assert again.not_judged == result.not_judged != ()
    assert conclude(judge.facts(), [again]).exit_code() is ExitCode.OK
    assert conclude(judge.facts(), [again], strict=True).exit_code() is ExitCode.NOT_VERIFIED


LOCAL_DNS = (
    'raw -A PREROUTING -d {ip}/32 -p tcp -m tcp --dport {port} -m comment --comment "NodeLocal DNS Cache: skip" -j NOTRACK',
    'raw -A OUTPUT -d {ip}/32 -p tcp -m tcp --dport {port} -m comment --comment "NodeLocal DNS Cache: skip" -j NOTRACK',
    'filter -A INPUT -d {ip}/32 -p tcp -m tcp --dport {port} -m comment --comment "NodeLocal DNS Cache: allow" -j ACCEPT',
)  # fmt: skip


@pytest.mark.parametrize("held", [True, False])
def test_a_cluster_ip_that_the_node_holds_is_answered_there(held: bool) -> None:
    """It is not lost, and who answers is said. Where the node does not hold it, the same rules lose it."""
    item = next(i for i in snapshot(IPTABLES).api.items("services") if i["metadata"]["name"] == "kuard")
    ip, port = item["spec"]["clusterIP"], item["spec"]["ports"][0]["port"]
    text = with_rules(dump(IPTABLES).files["iptables-save.txt"], [rule.format(ip=ip, port=port) for rule in LOCAL_DNS])
    address = f"9: nodelocaldns    inet {ip}/32 scope global nodelocaldns\n" if held else ""
    files = {"iptables-save.txt": text, "addresses.txt": dump(IPTABLES).files.get("addresses.txt", "") + address}
    report = audited(files)
    assert any("NodeLocal DNSCache" in note and ip in note for note in report.notes) is held
    assert codes(report) == ([] if held else ["SR102"])
    assert report.unverified == ()
    row = next(row for row in report.services if row.service == "default/kuard")
    assert bool(row.wrong_on) is not held
