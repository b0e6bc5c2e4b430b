"""Every form in which people keep a node's rules comes to the same verdict, and what is no dump is named."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.nft import Ct, Expression, Fib, Match, Meta, Value
from kubectl_svcroute.model.report import Report
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump
from kubectl_svcroute.observe.nft_match import named_bits, part_of
from kubectl_svcroute.parse.iptables_save import parse_iptables_save
from kubectl_svcroute.parse.nft_text import read_line
from kubectl_svcroute.parse.proxy_mode import node_mode
from tests.captured import CAPTURES, capture

NFTABLES = [name for name in CAPTURES if name.endswith("-nftables")]
NUMBERS = {
    # What `nft -n` of 1.0.6 prints for what kube-proxy's tables hold.
    r"\bct state new\b": "ct state 0x8", r"\bct status dnat\b": "ct status 0x20", r"\bmeta l4proto tcp\b": "meta l4proto 6",
    r"\bmeta l4proto udp\b": "meta l4proto 17", r"\bmeta l4proto sctp\b": "meta l4proto 132", r" \. tcp\b": " . 6",
    r" \. udp\b": " . 17", r" \. sctp\b": " . 132", r"(elements = \{ |^\s+)tcp \. ": r"\g<1>6 . ",
    r"(elements = \{ |^\s+)udp \. ": r"\g<1>17 . ", r"fib daddr type local\b": "fib daddr type 2",
    r"priority dstnat;": "priority -100;", r"priority srcnat;": "priority 100;",
}  # fmt: skip


@cache
def nodes(name: str) -> tuple[NodeDump, ...]:
    found = [handle.read() for handle in load_snapshot(capture(name)).nodes]
    return tuple(dump for dump in found if isinstance(dump, NodeDump))


def api(name: str, *without: str) -> ApiObjects:
    found = load_snapshot(capture(name)).api
    return replace(found, objects={key: value for key, value in found.objects.items() if key not in without})


def as_text(dump: NodeDump) -> NodeDump:
    """The same node, of which only nft's form for people was read."""
    return replace(dump, files={name: text for name, text in dump.files.items() if name != "nft-ruleset.json"})


def in_numbers(dump: NodeDump) -> NodeDump:
    """The same node, as `nft -n` prints it."""
    text = dump.files["nft-ruleset.txt"]
    for name, number in NUMBERS.items():
        text = re.sub(name, number, text, flags=re.MULTILINE)
    assert "ct state 0x8" in text
    assert " . 6" in text
    return replace(as_text(dump), files={**as_text(dump).files, "nft-ruleset.txt": text})


def with_handles(dump: NodeDump) -> NodeDump:
    """The same node, as `nft -a` prints it."""
    text = re.sub(r"^(\s*(?:table|chain|set|map) .*\{|\t\t(?:ct|ip6?|jump|meta) .*[^,{])$", r"\1 # handle 7",
                  dump.files["nft-ruleset.txt"], flags=re.MULTILINE)  # fmt: skip
    assert text.count("# handle") > 20
    return replace(as_text(dump), files={**as_text(dump).files, "nft-ruleset.txt": text})


def judged(name: str, dumps: list[NodeDump], *without: str) -> tuple[Audit, Report]:
    judge = Audit(api(name, *without), Selection())
    if judge.needs_inference:
        judge.learn(dumps)
    return judge, judge.report(dumps)


@pytest.mark.parametrize("form", [as_text, in_numbers, with_handles])
@pytest.mark.parametrize("name", NFTABLES)
def test_each_form_of_nft_tells_the_same(name: str, form) -> None:  # type: ignore[no-untyped-def]
    """A configuration is inferred from each as from JSON, and the node is as healthy."""
    dumps = list(nodes(name)[:2])
    wanted, _ = judged(name, dumps, "configmap-kube-proxy")
    got, report = judged(name, [form(dump) for dump in dumps], "configmap-kube-proxy")
    assert wanted.inference is not None
    assert got.inference is not None
    assert wanted.inference.settings["cluster_cidrs"]
    assert got.inference == wanted.inference
    assert (report.findings, report.unverified) == ((), ())


@pytest.mark.parametrize("name", NFTABLES)
def test_a_fault_is_found_in_numbers_too(name: str) -> None:
    """A filter chain that asks for another state than `new` lets packets pass; a number must not hide it."""
    dump = in_numbers(nodes(name)[0])
    for state, faulty in (("0x8", False), ("0x2", True), ("0x2,0x8", False), ("0x2,0x4", True)):
        text = dump.files["nft-ruleset.txt"].replace("ct state 0x8", f"ct state {state}")
        _, report = judged(name, [replace(dump, files={**dump.files, "nft-ruleset.txt": text})])
        assert bool(report.findings) is faulty, state


@pytest.mark.parametrize(
    ("expression", "pairs"),
    [
        (Ct("state"), [("invalid", 1), ("established", 2), ("related", 4), ("new", 8), ("untracked", 64)]),
        (Ct("status"), [("expected", 1), ("seen-reply", 2), ("assured", 4), ("snat", 16), ("dnat", 32), ("dying", 512)]),
        (Fib(("daddr",), "type"), [("unicast", 1), ("local", 2), ("broadcast", 3), ("multicast", 5)]),
        (Fib(("saddr",), "type"), [("unicast", 1), ("local", 2)]),
        (Meta("nfproto"), [("ipv4", 2), ("ipv6", 10)]),
        (Meta("pkttype"), [("host", 0)]),
        (Meta("l4proto"), [("tcp", 6), ("udp", 17), ("sctp", 132)]),
        (Meta("protocol"), [("ip", 0x0800), ("ip", 8), ("ip6", 0x86DD)]),
        (Ct("direction"), [("original", 0)]),
    ],
)
def test_a_number_is_read_as_its_name(expression: Expression, pairs: list[tuple[Value, Value]]) -> None:
    """`nft -n` prints numbers where nft prints names."""
    read = part_of(expression).read
    for name, number in pairs:
        assert read(name) == read(number)


def test_bits_in_one_number_are_as_many_names() -> None:
    """A mask of two states asks for either."""
    states = part_of(Ct("state")).bits
    assert states is not None
    assert named_bits(10, states) == ["established", "new"]
    assert named_bits("new", states) == ["new"]
    assert named_bits(0, states) == [0]
    (match,), _ = read_line("ct state 0x2,0x8")
    assert isinstance(match, Match)
    assert match.op == "in"


@pytest.mark.parametrize("line", ["reject", "reject with icmp 3", "reject with icmp port-unreachable", "reject with icmpx 1"])
def test_the_default_reject_has_many_spellings(line: str) -> None:
    assert read_line(line) == read_line("reject")


@pytest.mark.parametrize("name", ["v1.36-nftables", "v1.28-iptables-legacy"])
@pytest.mark.parametrize("without", [(), ("configmap-kube-proxy",)])
def test_lines_that_end_with_cr_lf(name: str, without: tuple[str, ...]) -> None:
    """Files that went through a terminal or an editor say the same; a line that was cut is cut."""
    dump = as_text(nodes(name)[0])
    files = {file: text.replace("\n", "\r\n") for file, text in dump.files.items()}
    _, report = judged(name, [dump], *without)
    _, again = judged(name, [replace(dump, files=files)], *without)
    assert (again.findings, again.unverified, again.notes) == ((), (), report.notes)
    rules = "nft-ruleset.txt" if name in NFTABLES else "iptables-save.txt"
    _, cut = judged(name, [replace(dump, files={**files, rules: files[rules][:-1]})], *without)
    assert any("middle of a line" in one.reason for one in cut.unverified)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-N KUBE-SERVICES\n-A INPUT -j KUBE-SERVICES\n", "iptables -S"),
        ("-N KUBE-SERVICES\n-A KUBE-SERVICES -j RETURN\n", "iptables -S"),
        ("# Warning: iptables-legacy tables present, use iptables-legacy to see them\n-P INPUT ACCEPT\n", "iptables -S"),
        ("Chain INPUT (policy ACCEPT)\ntarget     prot opt source               destination\n", "iptables -L"),
        ("Chain INPUT (policy DROP 12 packets, 34K bytes)\nnum   pkts bytes target\n", "iptables -L"),
        ("Chain KUBE-SERVICES (2 references)\ntarget     prot opt source               destination", "iptables -L"),
    ],
)
def test_a_listing_in_place_of_a_dump_is_named(text: str, command: str) -> None:
    """Neither form names its table: the remedy is to run iptables-save."""
    with pytest.raises(ParseError, match=f"output of {command}.*iptables-save"):
        parse_iptables_save(text, family=4)
    found = node_mode({"iptables-save.txt": text})
    assert found.mode == "unknown"
    assert command in found.why


@pytest.mark.parametrize(("version", "verified"), [("v1.13.12", False), ("v1.2.0", False), ("v1.14.0", True), ("v1.99.0", True)])
def test_an_unsupported_version_is_not_audited(version: str, verified: bool) -> None:
    """Rules older than the oldest that is known are not held against those of another version."""
    name = "v1.17-iptables-legacy"
    found = api(name, "pods", "daemonsets")
    listed = found.objects["nodes"]
    items = [{**node, "status": {**node["status"], "nodeInfo": {"kubeletVersion": version, "kubeProxyVersion": version}}}
             for node in listed["items"]]  # fmt: skip
    changed = replace(found, objects={**found.objects, "nodes": {**listed, "items": items}})
    report = Audit(changed, Selection()).report([nodes(name)[0]])
    refused = [one.reason for one in report.unverified if one.code == "SR906" and "is not supported" in one.reason]
    assert bool(refused) is not verified
    if not verified:
        assert report.findings == ()
        assert all("1.14" in reason for reason in refused)


@pytest.mark.parametrize("name", ["v1.36-nftables", "v1.36-iptables-nft"])
def test_what_could_not_be_inferred_is_not_assumed(name: str) -> None:
    """Without votes nobody knows whom kube-proxy spares: not verified (SR906), and no false SR303."""
    judge = Audit(api(name, "configmap-kube-proxy"), Selection())
    judge.learn([])
    report = judge.report([nodes(name)[0]])
    assert "SR906" in {one.code for one in report.unverified}
    assert not {"SR301", "SR303"} & {finding.code for finding in report.findings}
