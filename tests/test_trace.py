"""`trace`: what is told of a packet's way is what the audit saw, on real captures, healthy and with faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from captured import CAPTURES, capture, faults, faulty, truth

from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import UsageError
from kubectl_svcroute.model.routes import Client
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeHandle, Snapshot, Unreachable
from kubectl_svcroute.model.trace import Branch, Hop, Role, Trace
from kubectl_svcroute.run import check
from kubectl_svcroute.trace import run
from kubectl_svcroute.trace.question import Question
from kubectl_svcroute.trace.rule_words import asks, destination
from kubectl_svcroute.trace.tracer import Tracer

KUBE = "v1.36-iptables-nft"
NODE = "kubworker{}.prefetch.net"


@cache
def loaded(name: str, fault: str = "") -> Snapshot:
    return load_snapshot(str(faulty(name, fault) if fault else capture(name)))


def dump_of(snapshot: Snapshot, node: str) -> NodeDump:
    outcome = next(handle for handle in snapshot.nodes if handle.node == node).read()
    assert isinstance(outcome, NodeDump)
    return outcome


def traced(
    service: str, node: int | str, client: str = "pod", to: str = "", *, name: str = KUBE, fault: str = "",
    change: tuple[str, str] | None = None,
) -> Trace:  # fmt: skip
    """A trace on a capture; `change` replaces one text in the node's IPv4 rules."""
    snapshot = loaded(name, fault)
    dump = dump_of(snapshot, NODE.format(node) if isinstance(node, int) else node)
    if change is not None:
        text = dump.files["iptables-save.txt"]
        assert change[0] in text
        dump = replace(dump, files={**dump.files, "iptables-save.txt": text.replace(*change, 1)})
    return Tracer(snapshot.api, Question(service=service, client=Client(client), to=to)).trace(dump)


def hops(branch: Branch) -> Iterator[Hop]:
    yield from branch.hops
    for inner in branch.branches:
        yield from hops(inner)


def everything_of(trace: Trace) -> Iterator[Hop]:
    for way in trace.ways:
        yield from hops(way.tree)
        for exit_ in way.exits:
            yield from exit_.hops


# ---- what is told is what is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURES)
def test_a_healthy_node_is_as_it_should_be_for_everybody(name: str) -> None:
    """Every Service, address and client: nothing differs, shares are whole, every exit is somebody's."""
    snapshot = loaded(name)
    dump = dump_of(snapshot, NODE.format(2))
    told = 0
    for item in snapshot.api.items("services"):
        service = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        try:
            tracer = Tracer(snapshot.api, Question(service=service))
        except UsageError:
            continue  # headless, ExternalName, another proxy's
        for client in ("pod", "node", "outside", "hairpin"):
            for to in ("", "nodeport", "lb", "external", "health"):
                with contextlib.suppress(UsageError):
                    tracer.question = Question(service=service, client=Client(client), to=to)
                    trace = tracer.trace(dump)
                    told += 1
                    assert (trace.verdict, int(trace.exit_code())) == ("as it should be", 0), (service, client, to)
                    assert not trace.elsewhere
                    for way in trace.ways:
                        ends = way.endings()
                        assert sum(end.share for end in ends) == pytest.approx(1)
                        assert not any(end.wrong or end.unknown for end in ends)
                        used = {end.exit for end in ends if end.exit is not None}
                        assert used == set(range(len(way.exits)))
                        assert not way.missing
    assert told > 60


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in CAPTURES for fault in faults(name)])
def test_a_fault_is_told_on_the_way_that_it_breaks(name: str, fault: str) -> None:
    """Of all clients and addresses of the Service at least one way differs, and its trace says where."""
    found = truth(name, fault)
    snapshot = loaded(name, fault)
    dump = dump_of(snapshot, found["node"])
    service = (found["services"] or ["default/kuard"])[0]
    fronts = ("", "nodeport", "lb", "lb:443", "external", "health", "[fd00:96::bb5f]:80")
    names = {p.get("name") for i in snapshot.api.items("services") for p in i["spec"].get("ports", [])} - {None}
    ips = {
        str(ip["ip"])
        for i in snapshot.api.items("services")
        for ip in (i.get("status", {}).get("loadBalancer", {}).get("ingress") or ())
    }
    v6 = {ip for i in snapshot.api.items("services") for ip in i["spec"].get("clusterIPs", []) if ":" in ip}
    tracer = Tracer(snapshot.api, Question(service=service))
    for client in ("pod", "outside", "node", "hairpin"):
        for to in (*fronts, *sorted(names), *sorted(ips), *sorted(v6)):
            with contextlib.suppress(UsageError):
                tracer.question = Question(service=service, client=Client(client), to=to)
                trace = tracer.trace(dump)
                if trace.differs:
                    assert trace.exit_code() == 1
                    assert trace.findings or trace.beside
                    return
    # No packet takes that way on this node today: the endpoint without its mark is on another node, the REJECT is for an
    # address that is changed before it is asked. It is named all the same.
    assert fault in ("no-hairpin-masquerade", "nft-no-hairpin", "reject-with-endpoints")
    trace = traced(service, found["node"], name=name, fault=fault)
    assert {f.code for f in (*trace.beside, *trace.elsewhere)} <= {"SR302", "SR401"}
    assert trace.beside or trace.elsewhere


def test_pods_are_told_by_name_node_and_readiness() -> None:
    trace = traced("default/kuard", 3)
    ends = trace.ways[0].endings()
    assert [(e.pod, e.address, e.node, e.state, e.here) for e in ends] == [
        ("kuard-8xwx7", "10.244.1.2:8080", NODE.format(1), "ready", False),
        ("kuard-bd4cj", "10.244.2.2:8080", NODE.format(2), "ready", False),
        ("kuard-hfkgd", "10.244.3.2:8080", NODE.format(3), "ready", True),
        ("kuard-j9fks", "10.244.4.2:8080", NODE.format(4), "ready", False),
        ("kuard-lpzlr", "10.244.5.2:8080", NODE.format(5), "ready", False),
    ]
    assert all(e.share == pytest.approx(0.2) and e.should == 0.2 for e in ends)


@pytest.mark.parametrize(
    ("service", "client", "to", "marked", "masquerade"),
    [
        ("default/kuard", "pod", "", [False], [False]),
        ("default/kuard", "node", "", [True], [True]),
        ("default/kuard", "outside", "", [True], [True]),
        ("default/kuard", "hairpin", "", [False, True], [False, True]),
        ("shop/web", "outside", "nodeport", [True], [True]),
        ("shop/web", "node", "nodeport", [True], [True]),
        ("shop/empty", "pod", "", [False], [False]),
    ],
)
@pytest.mark.parametrize("name", ["v1.17-iptables-legacy", "v1.23-iptables-nft", KUBE, "v1.31-nftables"])
def test_marks_lead_to_masquerade(
    name: str, service: str, client: str, to: str, marked: list[bool], masquerade: list[bool]
) -> None:
    """Who is marked is masqueraded, in every version, and for both there is a reason."""
    trace = traced(service, 3, client, to, name=name)
    exits = sorted((e for way in trace.ways for e in way.exits), key=lambda e: e.marked)
    assert [e.marked for e in exits] == marked
    assert [e.masquerade for e in exits] == masquerade
    assert all(e.mark_reason and e.answer for e in exits)


def test_local_policy_keeps_the_client() -> None:
    """externalTrafficPolicy Local: the endpoint here sees who its client is; where there is none, the packet is dropped."""
    served, not_served = traced("shop/api", 2, "outside", "nodeport"), traced("shop/api", 3, "outside", "nodeport")
    (exit_,) = served.ways[0].exits
    assert (exit_.marked, exit_.masquerade, exit_.source) == (False, False, "the client's own")
    assert served.ways[0].endings()[0].pod == "api-2"
    assert [e.action for e in not_served.ways[0].endings()] == ["drop"]
    found = next(hop for hop in everything_of(not_served) if hop.target.startswith("KUBE-EXT-"))
    assert "no endpoint is on this node" in found.why


def test_source_ranges_make_two_ways() -> None:
    """Who is in a range and who is not are told side by side; the ranges among themselves are one."""
    trace = traced("shop/api", 2, "outside", "lb")
    assert [[e.action for e in way.endings()] for way in trace.ways] == [["translate"], ["drop"]]
    assert "198.51.100.0/24" in trace.ways[0].sources
    assert "203.0.113.128-203.0.113.255" in trace.ways[0].alike


def test_affinity_shows_the_rule_that_keeps_a_client() -> None:
    way = traced("shop/cart", 3).ways[0]
    assert "3600 s" in way.affinity
    assert "--rcheck --seconds 3600" in way.affinity_rule


# ---- what stands in the way ------------------------------------------------------------------------------------------------


def test_another_programs_rule_is_pointed_at() -> None:
    """A foreign DNAT before kube-proxy's rules is told as what it is."""
    rule = "-A PREROUTING -d 10.96.141.137/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.0.2.1:81"
    anchor = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    trace = traced("default/kuard", 3, change=(anchor, f"{rule}\n{anchor}"))
    assert [f.code for f in trace.findings] == ["SR102"]
    assert [(h.rule, h.foreign) for h in hops(trace.ways[0].tree)] == [(rule, True)]
    assert trace.ways[0].endings()[0].wrong
    assert len(trace.ways[0].missing) == 5


def test_a_rule_that_is_not_understood_is_not_verified() -> None:
    """It is neither right nor wrong: exit status 3, with the rule."""
    anchor = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    trace = traced("default/kuard", 3, change=(anchor, f"-A PREROUTING -m quantum --spin up -j ACCEPT\n{anchor}"))
    assert (trace.verdict, int(trace.exit_code()), int(trace.exit_code(allow_partial=True))) == ("unverified", 3, 0)
    assert [u.code for u in trace.unverified] == ["SR903"]
    assert any("quantum" in hop.rule for hop in everything_of(trace))


def test_what_does_not_matter_is_a_note() -> None:
    """A rule of which nobody knows whether it matches, and that changes nothing, leaves the verdict alone."""
    anchor = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    rule = "-A PREROUTING -m set --match-set odd src -j MARK --set-xmark 0x1/0x1"
    trace = traced("default/kuard", 3, change=(anchor, f"{rule}\n{anchor}"))
    assert trace.verdict == "as it should be"
    assert any("without effect" in note for note in trace.notes)
    assert sum(e.share for e in trace.ways[0].endings()) == pytest.approx(1)


def test_what_another_program_may_do_is_a_note() -> None:
    """It is not known whether it stops the packet; kube-proxy's rules send it where they should."""
    anchor = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    trace = traced("default/kuard", 3, change=(anchor, f"-A PREROUTING -m set --match-set cali40s:x src -j DROP\n{anchor}"))
    assert trace.verdict == "as it should be"
    assert any("Calico can drop these packets" in note for note in trace.notes)
    assert sum(e.share for e in trace.ways[0].endings()) == pytest.approx(1)


def test_a_doubt_that_matters_is_not_given_a_share() -> None:
    anchor = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    trace = traced("default/kuard", 3, change=(anchor, f"-A PREROUTING -m set --match-set odd src -j ACCEPT\n{anchor}"))
    assert trace.verdict == "unverified"
    assert all(e.unknown for e in trace.ways[0].endings())
    assert not trace.ways[0].missing


def test_what_is_wrong_elsewhere_is_named_and_does_not_count() -> None:
    """A node port's fault is not on the way to the cluster IP."""
    trace = traced("shop/web", 3, fault="node-port-missing")
    assert int(trace.exit_code()) == 0
    assert {f.code for f in trace.elsewhere} == {"SR101"}


def test_what_breaks_the_node_counts_for_every_way() -> None:
    trace = traced("default/kuard", 4, fault="node-not-forwarding")
    assert [f.code for f in trace.beside] == ["SR601"]
    assert int(trace.exit_code()) == 1


def test_the_other_bit_is_seen_where_it_is_set() -> None:
    trace = traced("default/kuard", 3, "node", fault="mark-mismatch")
    setter = next(hop for hop in everything_of(trace) if hop.role is Role.MARK)
    assert "0x8000" in setter.why
    assert "0x4000" in setter.why
    assert [e.wrong for e in trace.ways[0].exits] == [True]


# ---- what is asked for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "to", "client", "frontend"),
    [
        ("shop/web", "", "pod", "10.96.254.104:80/TCP"),
        ("shop/web", "cluster", "pod", "10.96.254.104:80/TCP"),
        ("shop/web", "https", "pod", "10.96.254.104:443/TCP"),
        ("shop/web", "443", "pod", "10.96.254.104:443/TCP"),
        ("shop/web", "10.96.254.104:443", "pod", "10.96.254.104:443/TCP"),
        ("shop/web", "10.96.254.104:443/tcp", "pod", "10.96.254.104:443/TCP"),
        ("shop/web", "10.96.254.104", "pod", "10.96.254.104:80/TCP"),
        ("shop/web", "nodeport", "outside", "172.18.0.13:30080/TCP"),
        ("shop/web", "nodeport:https", "outside", "172.18.0.13:30443/TCP"),
        ("shop/web", "30443", "outside", "172.18.0.13:30443/TCP"),
        ("shop/web", "127.0.0.1:30080", "node", "127.0.0.1:30080/TCP"),
        ("shop/edge", "lb", "outside", "203.0.113.20:80/TCP"),
        ("shop/edge", "203.0.113.21", "outside", "203.0.113.21:80/TCP"),
        ("shop/legacy", "external", "outside", "192.0.2.50:8080/TCP"),
        ("shop/api", "health", "outside", "172.18.0.13:32000/TCP"),
        ("shop/dual", "", "pod", "10.96.159.5:80/TCP"),
        ("shop/dual", "[fd00:96::bb5f]:80", "pod", "[fd00:96::bb5f]:80/TCP"),
        ("shop/dual", "FD00:96:0::bb5f", "pod", "[fd00:96::bb5f]:80/TCP"),
        ("kube-system/kube-dns", "dns-tcp", "pod", "10.96.0.10:53/TCP"),
        ("kube-system/kube-dns", "53/TCP", "pod", "10.96.0.10:53/TCP"),
        ("kube-system/kube-dns", "53", "pod", "10.96.0.10:53/UDP"),
    ],
)
def test_a_frontend_is_found_by_what_people_call_it(service: str, to: str, client: str, frontend: str) -> None:
    assert str(traced(service, 3, client, to).frontend) == frontend


@pytest.mark.parametrize(
    ("service", "client", "to", "says"),
    [
        ("default/kuard", "pod", "nodeport", "no such frontend"),
        ("default/kuard", "pod", "99", "10.96.141.137:8080/TCP (cluster IP)"),
        ("shop/api", "pod", "health", "only outside clients dial that"),
        ("shop/cart", "hairpin", "", "there are some on kubworker3"),
        ("shop/empty", "hairpin", "", "has no endpoint"),
        ("shop/db", "pod", "", "headless"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(service: str, client: str, to: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        traced(service, 1, client, to)
    assert says in str(error.value)


def test_a_node_that_was_not_read_is_not_verified() -> None:
    snapshot = loaded(KUBE)
    tracer = Tracer(snapshot.api, Question(service="default/kuard"))
    dark = tracer.trace(Unreachable(node=NODE.format(1), reason="ssh: connection refused"))
    assert (dark.verdict, [u.code for u in dark.unverified]) == ("unverified", ["SR901"])
    empty = tracer.trace(NodeDump(node=NODE.format(1), files={"proxy-mode.txt": "ipvs\n"}))
    assert [u.code for u in empty.unverified] == ["SR904"]
    cut = dump_of(snapshot, NODE.format(1))
    half = cut.files["iptables-save.txt"][:4000]
    assert tracer.trace(replace(cut, files={**cut.files, "iptables-save.txt": half})).verdict == "unverified"


# ---- rules in words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("-A X -j Y", "every packet that comes here"),
        ("-A X ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment \"a, b\" -m tcp --dport 80 -j Y",
         "not from 10.244.0.0/16, to 10.96.0.1, TCP port 80"),
        ("-A X -d fd00::/32 -p udp -m udp --dport 53 -j Y", "to fd00::/32, UDP port 53"),
        ("-A X -m statistic --mode random --probability 0.33333333349 -j Y", "by chance, 1 in 3"),
        ("-A X -m statistic --mode random --probability 0.33332999982 -j Y", "by chance, 1 in 3"),
        ("-A X -m addrtype --src-type LOCAL -j Y", "from an address of this node"),
        ("-A X -m mark ! --mark 0x4000/0x4000 -j RETURN", "mark 0x4000 not set"),
        ("-A X -m conntrack --ctstate NEW -j Y", "of a new connection"),
        ("-A X ! -i cali+ -p tcp -m tcp -j Y", "not in by interface cali*, TCP"),
        ("-A X -m set --match-set hosts src -j Y", "-m set --match-set hosts src"),
        ("-A X -m comment --comment \"-j DROP\" -j Y", "every packet that comes here"),
        ("jump services", "every packet that comes here"),
        ("ct state new jump firewall-check", "of a new connection"),
        ("ip daddr . meta l4proto . th dport vmap @service-ips { 10.0.0.1 . tcp . 80 : goto service-X-a/b/tcp/ }",
         "10.0.0.1 TCP port 80 is in the map service-ips"),
        ("meta mark & 0x00004000 == 0x00000000 return", "mark 0x4000 not set"),
        ("numgen random mod 3 vmap { 2 : goto endpoint-X }", "by chance, 1 in 3"),
        ("ip saddr != { 198.51.100.0/24, 203.0.113.0/24 } drop", "from none of 198.51.100.0/24, 203.0.113.0/24"),
        ("ip saddr 10.0.0.0/8 osf name linux drop", "from 10.0.0.0/8, osf name linux"),
        ("(policy DROP of chain FORWARD, table ip filter)", "what no rule of the chain has decided"),
        ("-A X -j Y \"", "something that is not understood"),
    ],
)  # fmt: skip
def test_a_rule_in_words(rule: str, words: str) -> None:
    """What is known is said; what is not is repeated as it stands."""
    assert asks(rule) == words


def test_every_rule_of_a_capture_is_said_without_a_rest() -> None:
    """kube-proxy's own rules are all said in words: none falls back to repeating the rule."""
    for name in CAPTURES:
        snapshot = loaded(name)
        for handle in snapshot.nodes[:1]:
            dump = handle.read()
            assert isinstance(dump, NodeDump)
            for file in ("iptables-save.txt", "ip6tables-save.txt"):
                for line in dump.files.get(file, "").splitlines():
                    if line.startswith("-A ") and "physdev" not in line:
                        assert " -m " not in f" {asks(line)}"
                        assert "--" not in asks(line)


def test_destinations() -> None:
    assert destination("-A X -p tcp -m tcp -j DNAT --to-destination [fd00::1]:80") == "[fd00::1]:80"
    assert destination("meta l4proto tcp dnat to 10.0.0.1:80") == "10.0.0.1:80"
    assert destination("meta l4proto tcp dnat ip6 to numgen random mod 5 map { 0 : fd00::1 . 80 }") == "[fd00::1]:80"


# ---- commands by hand, in a real kernel ----------------------------------------------------------------------------------------

_CHANGES = re.compile(r"-[ADFIXRPZ]\b|-restore|\bset\b|\bflush|\bdelete|\breset|>|sudo")


@pytest.mark.root
@pytest.mark.parametrize("name", [KUBE, "v1.36-nftables", "v1.31-nftables"])
def test_the_commands_show_the_rules_in_a_real_kernel(name: str) -> None:
    """Each hop's command, run where the node's own rules are loaded, prints the hop's rule, and changes nothing."""
    tools = ("unshare", "iptables-nft-restore") if "iptables" in name else ("unshare", "nft")
    if os.geteuid() != 0 or not all(map(shutil.which, tools)):
        pytest.skip(f"needs root and {' and '.join(tools)}")
    node = capture(name) / "nodes" / NODE.format(2)
    nft = "iptables" not in name
    load = f"nft -f {node}/nft-ruleset.txt" if nft else f"grep -v nfacct {node}/iptables-save.txt | iptables-nft-restore"
    shown: dict[str, Hop] = {}
    for service, client, to in [
        ("default/kuard", "hairpin", ""), ("shop/web", "outside", "nodeport"), ("shop/api", "outside", "lb"),
        ("shop/cart", "node", ""),
    ]:  # fmt: skip
        for hop in everything_of(traced(service, 2, client, to, name=name)):
            shown.setdefault(hop.command, hop)
    assert len(shown) > 12
    # iptables-save may be the legacy backend's here; on a node it is whatever kube-proxy uses.
    script = "\n".join([f"{load} || exit 9", *(f"echo '### {n}'; {_nft_save(c)}" for n, c in enumerate(shown))])
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 9:
        pytest.skip(f"this kernel does not load these rules: {done.stderr.strip()[:200]}")
    parts = re.split(r"^### \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(parts) == len(shown)
    for (command, hop), printed in zip(shown.items(), parts, strict=True):
        assert not _CHANGES.search(re.sub(r"'[^']*'", "", command))
        if not nft:
            assert hop.rule in printed, command
        elif "vmap @" in hop.rule:
            assert hop.rule.partition(" : ")[2].removesuffix(" }") in printed.replace("\n", " "), command
        else:
            words = hop.rule.partition(" { ")[0].partition(" vmap")[0].partition(" map")[0]
            assert words.split()[-1] in printed, command


def _nft_save(command: str) -> str:
    return command.replace("iptables-save", "iptables-nft-save")


def test_general_commands_only_read() -> None:
    for command in traced("shop/six", 2).commands:
        assert not _CHANGES.search(re.sub(r"'[^']*'", "", command.command))
        assert re.match(r"(conntrack -L|tcpdump|ip (-6 )?route get) ", command.command)


# ---- the command -----------------------------------------------------------------------------------------------------------


def given(**more: Any) -> dict[str, Any]:
    return {
        "service": "kuard", "client": "pod", "to": None, "node": None, "output": "json", "output_file": None, "commands": False,
        "namespace": None, "snapshot": None, "color": "never", "allow_partial": False, "verbose": 0, **more,
    }  # fmt: skip


def test_the_command_on_a_snapshot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit statuses, the default node, a file for the picture."""
    path = str(capture(KUBE))
    assert run.run_trace(given(snapshot=path)) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["node"], said["client"], said["verdict"]) == (NODE.format(1), "pod", "as it should be")
    assert run.run_trace(given(snapshot=path, service="svc/cart", namespace="shop", client="hairpin")) == 0
    assert json.loads(capsys.readouterr().out)["node"] == NODE.format(3)
    broken = str(faulty(KUBE, "missing-endpoint"))
    assert run.run_trace(given(snapshot=broken, node="kubworker3")) == 1
    picture = tmp_path / "way.svg"
    assert run.run_trace(given(snapshot=broken, node="kubworker3", output=f"svg={picture}")) == 1
    assert picture.read_text().startswith("<svg ")
    assert "differs (SR201)" in capsys.readouterr().err
    for wrong in ({"output": "png"}, {"service": "kuarf"}, {"node": "nope"}, {"to": "nodeport"}):
        with pytest.raises(UsageError):
            run.run_trace(given(snapshot=path, **wrong))


def test_the_first_node_that_can_be_verified_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that was not read does not stand in the way, unless it is the one that was asked for."""
    where = tmp_path / "snapshot"
    shutil.copytree(capture(KUBE), where, ignore=shutil.ignore_patterns("faults"))
    first = where / "nodes" / NODE.format(1)
    shutil.rmtree(first)
    first.mkdir()
    (first / "unreachable.txt").write_text("ssh: connection refused\n")
    assert run.run_trace(given(snapshot=str(where))) == 0
    assert json.loads(capsys.readouterr().out)["node"] == NODE.format(2)
    assert run.run_trace(given(snapshot=str(where), node="kubworker1")) == 3
    assert run.run_trace(given(snapshot=str(where), node="kubworker1", allow_partial=True)) == 0


class _Api:
    context_name = "here"
    current_namespace = "default"


class _Reader:
    """Nodes of a cluster: each reading takes the next of the node's dumps, and the last one stays."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self.snapshots = list(snapshots)
        self.read_nodes: list[str] = []

    def read(self, target: Any) -> NodeDump:
        self.read_nodes.append(target.name)
        now = self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]
        return dump_of(now, target.name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A live cluster made of captures, without waiting."""

    def make(*faults_: str) -> _Reader:
        reader = _Reader(*(loaded(KUBE, fault) for fault in faults_))
        api: ApiObjects = loaded(KUBE).api

        @contextlib.contextmanager
        def fake(_: Any) -> Iterator[Any]:
            yield _Api(), api, reader

        clock = iter(range(0, 1000, 4))
        monkeypatch.setattr(check, "_cluster", fake)
        monkeypatch.setattr("kubectl_svcroute.collect.refresh.refresh", lambda _api, before, _services: before)
        monkeypatch.setattr(run.time, "sleep", lambda _: None)
        monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
        return reader

    return make


def test_live_reads_the_one_node_alone(cluster: Any) -> None:
    reader = cluster("")
    assert run.run_trace(given(node="kubworker3")) == 0
    assert reader.read_nodes == [NODE.format(3)]


def test_a_difference_that_goes_away_is_none(cluster: Any) -> None:
    """The API and the node were read at different moments: a second look finds them alike."""
    reader = cluster("missing-endpoint", "")
    assert run.run_trace(given(node="kubworker3")) == 0
    assert len(reader.read_nodes) == 2


def test_a_difference_that_stays_is_one(cluster: Any) -> None:
    reader = cluster("missing-endpoint")
    assert run.run_trace(given(node="kubworker3")) == 1
    assert len(reader.read_nodes) >= 3
    assert set(reader.read_nodes) == {NODE.format(3)}


def test_live_tries_a_few_nodes_and_no_more(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = cluster("")
    monkeypatch.setattr(reader, "read", lambda target: Unreachable(node=target.name, reason="no route to host"))
    assert run.run_trace(given()) == 3


def test_handles_are_read_once() -> None:
    """A snapshot's other nodes are not read for a trace of one."""
    snapshot = loaded(KUBE)
    seen: list[str] = []

    def watched(handle: NodeHandle) -> NodeHandle:
        def read() -> Any:
            seen.append(handle.node)
            return handle.read()

        return NodeHandle(node=handle.node, read=read)

    tracer = Tracer(snapshot.api, Question(service="default/kuard"))
    by_name = {handle.node: watched(handle) for handle in snapshot.nodes}
    run._first(tracer, list(by_name), lambda name: by_name[name].read(), tries=None)
    assert seen == [NODE.format(1)]
