"""`probe` as its user runs it: real rules in a real kernel, endpoints that answer or do not, and the report of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from captured import capture
from pods import Pods
from sshd import SshLab, SshNode, why_not

from kubectl_svcroute.collect.node_script import parse_sections
from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.probe.promise import DNS_QUERY
from kubectl_svcroute.probe.reading import flow_of, parse_probe
from kubectl_svcroute.probe.script import Bounds, Target, dial_script

NODE = "kubworker1.prefetch.net"
CLIENT = "10.244.1.17"
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")


def endpoints_of(folder: Path) -> list[str]:
    """`address:port` of every endpoint of a capture that is a pod."""
    found = []
    for piece in json.loads((folder / "api" / "endpointslices.json").read_text())["items"]:
        for endpoint in piece.get("endpoints") or []:
            address = endpoint["addresses"][0]
            ports = [port["port"] for port in piece.get("ports") or []]
            found += [f"[{address}]:{p}" if ":" in address else f"{address}:{p}" for p in ports if address[:4] != "172."]
    return list(dict.fromkeys(found))


class World:
    """One node with the rules of a capture, the pods behind them, and an API server."""

    def __init__(self, name: str, lab: SshLab, api: ApiServer, folder: Path) -> None:
        self.name = name
        self.api = api
        self.folder = folder
        self.kubeconfig = api.kubeconfig(folder / "kubeconfig")
        self.node: SshNode = lab.node(NODE, files=capture(name) / "nodes" / NODE, users=["tcpdump"], proxy=True)
        lab.trust(self.node)
        self.config = lab.config(f"Host {NODE}", f"  HostName {self.node.address}", "  User root")
        self.pods = Pods(self.node, endpoints_of(capture(name)), own=["172.18.0.11", "fd00:18::b"])

    def arguments(self, *words: str) -> list[str]:
        return [
            *words, "--kubeconfig", str(self.kubeconfig), "--ssh-config", str(self.config), "--settle", "200ms",
        ]  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": str(self.folder), "NO_COLOR": "1", "COLUMNS": "80"}
        return subprocess.run(
            [sys.executable, "-m", "kubectl_svcroute", *self.arguments(*words, "--node", NODE)],
            capture_output=True, text=True, check=False, env=env, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def report(self, *words: str, status: int) -> dict[str, Any]:
        done = self.run("probe", "-o", "json", "--rate", "200", "--wait", "1s", *words)
        assert done.returncode == status, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    @cached_property
    def client(self) -> str:
        """The name of a pod of the shop's that has a network of its own, and a shell that the API server leads to."""
        pods = json.loads((capture(self.name) / "api" / "pods.json").read_text())["items"]
        name = str(next(p["metadata"]["name"] for p in pods if p["status"].get("podIP") == CLIENT))
        self.api.shells[name] = self.pods.client(CLIENT).shell
        return name

    def rules(self) -> str:
        """All rules of the node."""
        return self.node.run("nft", "list", "ruleset") if "nftables" in self.name else self.node.run("iptables-nft-save")

    def load(self, rules: str) -> None:
        """Put other rules in their place."""
        if "nftables" in self.name:
            self.node.run("nft", "-f", "-", stdin="flush ruleset\n" + rules)
        else:
            self.node.run("iptables-nft-restore", stdin=rules)


@pytest.fixture(scope="module", params=["v1.36-iptables-nft", "v1.36-nftables"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One node for all tests of a mode; each leaves it as it was."""
    with SshLab() as lab, ApiServer(capture(request.param)) as api:
        made = World(request.param, lab, api, tmp_path_factory.mktemp("home"))
        with made.pods:
            yield made


ONE_MODE = pytest.mark.parametrize("world", ["v1.36-iptables-nft"], indirect=True)
"""For what does not depend on whose rules they are."""


def codes(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(finding["code"], finding["service"]) for finding in report["findings"]}


def test_what_is_healthy_passes(world: World) -> None:
    """Cluster IPs, node ports, loopback, IPv6, affinity, a Service without endpoints: all as the rules say, exit 0."""
    report = world.report("cart", "dual", "empty", "six", "-n", "shop", status=0)
    assert report["findings"] == report["unverified"] == []
    rows = {row["frontend"]: row for row in report["probes"]}
    assert {row["seenBy"] for row in rows.values()} == {"conntrack"}
    for row in rows.values():
        assert row["dialled"] == 20
        if row["service"] == "shop/empty":
            assert (row["expected"], row["refused"]) == ("reject", 20)
            continue
        assert row["connected"] == 20, row
        assert sum(endpoint["answered"] for endpoint in row["endpoints"]) == 20
        assert sum(endpoint["share"] for endpoint in row["endpoints"]) == pytest.approx(1, abs=1e-6)
        if row["service"] in ("shop/cart", "shop/six"):
            assert sorted(endpoint["sent"] for endpoint in row["endpoints"])[-1] == 20
    assert len([front for front in rows if front.startswith("[fd00")]) == 3
    assert ("127.0.0.1:30086/TCP" in rows) == ("iptables" in world.name)


def test_a_pod_that_does_not_answer_is_told_from_rules_that_are_wrong(world: World) -> None:
    """One pod silent, one refusing, one DNAT wrong, one endpoint rejected by a foreign rule: each is called what it is."""
    rules = world.rules()
    broken = "".join(
        line.replace("10.244.3.24", "10.244.3.99") if "shared-a" in line or "iptables" not in world.name else line
        for line in rules.splitlines(keepends=True)
    )
    foreign = "-A OUTPUT -d 10.244.1.19/32 -p tcp -j REJECT --reject-with icmp-port-unreachable\n"
    if "iptables" in world.name:
        head, _, tail = broken.partition("*filter")
        broken = head + "*filter" + re.sub(r"^-A", foreign + "-A", tail, count=1, flags=re.MULTILINE)
    world.pods.remove("10.244.1.22")
    world.pods.close_port("10.244.1.17:4000")
    world.load(broken)
    try:
        report = world.report("agent", "near", "shared-a", "half", "-n", "shop", "--count", "40", status=1)
    finally:
        world.load(rules)
        world.pods.restore("10.244.1.22")
        world.pods.open_port("10.244.1.17:4000")
    probed = {(code, service) for code, service in codes(report) if code.startswith("SR7")}
    wanted = {("SR701", "shop/near"), ("SR702", "shop/agent"), ("SR706", "shop/shared-a")}
    if "iptables" in world.name:
        wanted.add(("SR706", "shop/half"))
    assert probed == wanted
    # The audit of the same rules names the cause, and finds nothing where only a pod is to blame.
    assert ("SR202", "shop/shared-a") in codes(report)
    assert {service for code, service in codes(report) if not code.startswith("SR7")} == {
        service for code, service in wanted if code == "SR706"
    }
    [silent] = [f for f in report["findings"] if f["code"] == "SR701"]
    assert re.search(r"\(10\.244\.1\.22:8080\) answered none of the \d+ connections", silent["message"])
    assert "src=10.244.1.22" in silent["evidence"][0]


def test_dns_is_asked_over_udp(world: World) -> None:
    """Port 53 gets a query over UDP, and its answer counts."""
    report = world.report("kube-dns", "-n", "kube-system", "--count", "5", status=0)
    rows = {row["frontend"]: row for row in report["probes"]}
    assert rows["10.96.0.10:53/UDP"]["connected"] == 5
    assert sum(endpoint["answered"] for endpoint in rows["10.96.0.10:53/UDP"]["endpoints"]) == 5


@ONE_MODE
def test_it_says_what_it_will_do_and_a_dry_run_does_nothing(world: World) -> None:
    """The plan stands on stderr before the report; --dry-run prints the commands, and connection tracking stays empty."""
    front = next(line for line in world.run("probe", "kuard", "--count", "2").stderr.splitlines() if line.startswith("  to "))
    address = front.split()[1].partition(":")[0]
    world.node.run("conntrack", "-F")
    dry = world.run("probe", "kuard", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"section probe-1.txt probe tcp {address} 8080 20 20 2 " in dry.stdout
    assert world.node.run("conntrack", "-L", "-d", address).strip() == ""
    long = world.run("probe", "kuard", "--count", "1000", "--rate", "1")
    assert long.returncode == 2
    assert "longer than --timeout (120 s): give --timeout 1014s" in long.stderr
    assert world.node.run("conntrack", "-L", "-d", address).strip() == ""


@ONE_MODE
def test_a_capture_shows_the_way_and_leaves_nothing_behind(world: World) -> None:
    """Each dialled SYN stands before the one behind the rules; then no process of it runs on the node, and no file is new."""
    before = sorted(p.name for p in Path(world.node.folder / "home").rglob("*"))
    [row] = world.report("kuard", "--count", "3", "--capture", status=0)["probes"]
    dialled, behind = row["packets"][:2]
    assert re.fullmatch(r"TCP 172\.18\.0\.11\.\d+ > 10\.96\.141\.137\.8080: connected", dialled)
    assert re.fullmatch(r"  pods0 Out 172\.18\.0\.11\.\d+ > 10\.244\.\d\.2\.8080: Flags \[S\]", behind)
    pids = subprocess.run(["ip", "netns", "pids", world.node.namespace], capture_output=True, text=True, check=True).stdout
    names = {Path("/proc", pid, "comm").read_text().strip() for pid in pids.split()}
    assert names & {"tcpdump", "conntrack", "timeout", "python3", "bash", "sh"} == set()
    assert sorted(p.name for p in Path(world.node.folder / "home").rglob("*")) == before


@ONE_MODE
def test_a_pod_dials_and_its_node_tells_where_it_went(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--from pod/NAME: the pod keeps its own address on the way, and both SYNs, before and behind the rules, are shown."""
    from kubectl_svcroute.cli.root import cli

    monkeypatch.setenv("HOME", str(world.folder))
    monkeypatch.setattr("kubectl_svcroute.probe.run.WATCH_LEAD", 2.5)
    file = tmp_path / "report.json"
    status = cli.main(
        args=world.arguments(
            "probe", "api", "-n", "shop", "--from", f"pod/{world.client}", "-o", f"json={file}", "--capture",
            "--count", "8", "--wait", "300ms",
        ),
        standalone_mode=False,
    )  # fmt: skip
    report = json.loads(file.read_text())
    assert status == 0, report
    row = next(row for row in report["probes"] if row["frontend"].endswith(":9000/TCP") and row["frontend"].startswith("10.96"))
    assert row["from"] == f"pod/{world.client}"
    assert (row["connected"], row["seenBy"], row["unseen"]) == (8, "conntrack", 0)
    dialled, before, behind = row["packets"][:3]
    front = row["frontend"].removesuffix("/TCP").replace(":", ".")
    assert dialled.startswith("TCP 10.244.1.17.")
    assert re.fullmatch(rf"  client0 In 10\.244\.1\.17\.\d+ > {re.escape(front)}: Flags \[S\]", before)
    assert re.fullmatch(r"  pods0 Out 10\.244\.1\.17\.\d+ > 10\.244\.[24]\.11\.9000: Flags \[S\]", behind)


@ONE_MODE
def test_what_is_new_while_it_is_looked_at_is_no_finding(world: World) -> None:
    """A pod that answers again by the second look: nothing was found twice, exit 0."""
    world.pods.close_port("10.244.1.19:8080")
    command = [sys.executable, "-m", "kubectl_svcroute", *world.arguments("probe", "half", "-n", "shop", "--node", NODE)]
    command[command.index("--settle") + 1] = "6s"
    env = {**os.environ, "HOME": str(world.folder), "NO_COLOR": "1"}
    try:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        assert running.stderr is not None
        said = [next(running.stderr) for _ in range(4)]
        assert "dialling a second time" in said[-1], said
    finally:
        world.pods.open_port("10.244.1.19:8080")
    out, err = running.communicate(timeout=100)
    assert running.returncode == 0, out + err


# ---- with what a node has -------------------------------------------------------------------------------------------


def with_tools(world: World, folder: Path, *tools: str, udp: bool = False, count: int = 4, capture: bool = False) -> Any:
    """Dial kube-dns by a node that has these tools and the most common ones, and nothing else."""
    for tool in ("tail", "cat", "nice", "timeout", "gzip", "grep", "sleep", "date", "readlink", "sh", *tools):
        place = next(p for d in ("/usr/bin", "/bin", "/usr/sbin", "/sbin") if (p := Path(d, tool)).exists())
        (folder / tool).symlink_to(place)
    front = Frontend("10.96.0.10", Protocol.UDP if udp else Protocol.TCP, 53, FrontendKind.CLUSTER_IP)
    hosts = ("10.244.1.14 53", "10.244.2.14 53")
    target = Target(number=1, frontend=front, payload=DNS_QUERY if udp else b"", hosts=hosts)
    script = dial_script("n", [target], Bounds(count=count, rate=100, patience=1, capture=capture))
    script = re.sub(r"^PATH=.*", f"PATH={folder}; export PATH", script, count=1, flags=re.MULTILINE)
    script = script.replace("/proc/net/nf_conntrack", "/proc/net/absent").replace("yes$(command -v gzip 2>/dev/null)", "")
    text = parse_sections(world.node.run("/bin/sh", "-s", stdin=script).encode(), "n").files["probe-1.txt"]
    return parse_probe(text, front), front


@ONE_MODE
@pytest.mark.parametrize(
    ("tool", "udp"), [("python3", False), ("bash", False), ("bash", True), ("nc", False), ("nc", True), ("curl", False)]
)
def test_each_tool_dials_and_each_connection_is_found_again(world: World, tmp_path: Path, tool: str, udp: bool) -> None:
    """What a node has dials: every connection succeeds, and conntrack tells for each which endpoint it reached."""
    dialled, front = with_tools(world, tmp_path, tool, "conntrack", udp=udp)
    assert dialled.tool == tool
    assert [attempt.result for attempt in dialled.attempts] == ["connected"] * 4
    flows = [flow_of(attempt, dialled, front) for attempt in dialled.attempts]
    assert {flow.reply_src for flow in flows if flow is not None} <= {"10.244.1.14", "10.244.2.14"}
    assert None not in flows


@ONE_MODE
@pytest.mark.parametrize("tool", ["python3", "bash", "nc", "curl"])
def test_each_tool_tells_a_refusal_from_silence(world: World, tmp_path: Path, tool: str) -> None:
    """One endpoint refuses, the other is silent: refused and timed out, and never connected."""
    world.pods.close_port("10.244.1.14:53")
    world.pods.remove("10.244.2.14")
    try:
        dialled, front = with_tools(world, tmp_path, tool, "conntrack", count=5)
    finally:
        world.pods.restore("10.244.2.14")
        world.pods.open_port("10.244.1.14:53")
    assert {attempt.result for attempt in dialled.attempts} <= {"refused", "timeout"}
    for attempt in dialled.attempts:
        flow = flow_of(attempt, dialled, front)
        if flow is not None:
            assert flow.reply_src == {"refused": "10.244.1.14", "timeout": "10.244.2.14"}[attempt.result]
        else:
            assert (tool, attempt.result) == ("bash", "refused")


@ONE_MODE
def test_without_conntrack_nothing_is_guessed(world: World, tmp_path: Path) -> None:
    """A node with neither conntrack nor tcpdump says that it cannot tell; with tcpdump alone, the capture tells."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    blind, front = with_tools(world, tmp_path / "a", "python3", capture=True)
    assert (blind.seen_by, blind.no_capture, blind.flows) == ("", True, ())
    assert [flow_of(attempt, blind, front) for attempt in blind.attempts] == [None] * 4
    seen, front = with_tools(world, tmp_path / "b", "python3", "tcpdump", capture=True)
    assert seen.seen_by == ""
    flows = [flow_of(attempt, seen, front) for attempt in seen.attempts]
    assert {flow.reply_src for flow in flows if flow is not None} <= {"10.244.1.14", "10.244.2.14"}
    assert None not in flows


@ONE_MODE
def test_a_node_with_nothing_to_dial_with_says_so(world: World, tmp_path: Path) -> None:
    """No tool: nothing is dialled, and the script says which there is (none)."""
    dialled, _ = with_tools(world, tmp_path, "conntrack")
    assert (dialled.tool, dialled.attempts) == ("", ())


@ONE_MODE
@pytest.mark.parametrize("others", [(), ("curl",)])
def test_an_nc_that_cannot_only_connect_is_not_used(world: World, tmp_path: Path, others: tuple[str, ...]) -> None:
    """busybox's nc, built without -z and -u: curl in its place, and where there is none, nothing dials, which is said."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    (tmp_path / "nc").symlink_to(busybox)
    dialled, _ = with_tools(world, tmp_path, "conntrack", *others)
    assert dialled.tool == "".join(others)
    assert {attempt.result for attempt in dialled.attempts} == ({"connected"} if others else set())


@ONE_MODE
def test_a_udp_port_gets_the_payload_that_is_given(world: World) -> None:
    """UDP on a port that is not DNS's: not probed without --payload, and with it each datagram's way is known."""
    rules = world.rules()
    [service] = [s for s in world.api.objects["services"] if s["metadata"]["name"] == "kube-dns"]
    [port] = [p for p in service["spec"]["ports"] if p["protocol"] == "UDP"]
    words = ("kube-dns", "-n", "kube-system", "--count", "5")
    port["port"] = 5353
    try:
        moved = re.sub(r"^(-A KUBE-.* -d 10\.96\.0\.10/32 -p udp .*--dport) 53 ", r"\1 5353 ", rules, flags=re.MULTILINE)
        assert moved != rules
        world.load(moved)
        silent = world.report(*words, status=3)
        asked = world.report(*words, "--payload", "hello", status=0)
        planned = world.run("probe", *words, "--payload", "hello", "--dry-run").stdout
    finally:
        port["port"] = 53
        world.load(rules)
    [unverified] = silent["unverified"]
    assert (unverified["code"], silent["findings"]) == ("SR921", [])
    assert unverified["reason"].startswith("10.96.0.10:5353/UDP was not probed: it is UDP")
    assert {row["frontend"].rpartition("/")[2] for row in silent["probes"]} == {"TCP"}
    [row] = [row for row in asked["probes"] if row["frontend"] == "10.96.0.10:5353/UDP"]
    assert (row["connected"], row["unseen"]) == (5, 0)
    assert re.search(rf"probe udp 10\.96\.0\.10 5353 5 20 2 {b'hello'.hex()} ", planned)


# ---- what is already flowing ------------------------------------------------------------------------------------------

_SEND = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("172.18.0.11", int(sys.argv[1])))
sock.settimeout(5)
sock.sendto(b"x", ("10.96.0.10", 53))
if len(sys.argv) > 2: sock.recv(100)
"""


def test_flows_that_rules_no_longer_explain_are_found(world: World, tmp_path: Path) -> None:
    """Rules that change under UDP flows: what they were held to is told, live and from a snapshot; a good flow is left alone."""
    rules = world.rules()

    def send(port: str, *answer: str) -> None:
        world.node.run(sys.executable, "-c", _SEND, port, *answer)

    world.node.run("conntrack", "-F")
    send("2001", "answered")
    words = ("kube-dns", "-n", "kube-system", "--conntrack", "-o", "json")
    done = world.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["nodes"][0]["connections"]["tracked"] > 0
    assert any("connection-tracking table" in note for note in report["notes"])
    try:
        world.load(rules.replace("10.244.1.14", "10.244.1.99").replace("10.244.2.14", "10.244.1.99"))
        send("2002")
        # Before kube-proxy wrote the Service; a rule that tracks keeps the kernel tracking.
        tracks = "table ip keep { chain c { type nat hook output priority 0; ct state new accept; }; }"
        world.load(tracks if "nftables" in world.name else rules.replace("10.96.0.10", "10.96.0.11"))
        send("2003")
    finally:
        world.load(rules)
    done = world.run(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert [(finding["code"], finding["service"]) for finding in findings] == [
        ("SR621", "kube-system/kube-dns"), ("SR622", "kube-system/kube-dns"),
    ]  # fmt: skip
    stale, idle = findings
    assert "held to 10.244.1.99:53" in stale["message"]
    assert ["sport=2002" in stale["evidence"][0], "sport=2003" in idle["evidence"][0]] == [True, True]
    assert (len(stale["evidence"]), len(idle["evidence"])) == (1, 1)
    kept = tmp_path / "kept"
    assert world.run("snapshot", "save", str(kept), "-n", "kube-system", "--conntrack").returncode == 0
    again = world.run("kube-dns", "-n", "kube-system", "-o", "json", "--snapshot", str(kept))
    assert [(f["code"], f["message"]) for f in json.loads(again.stdout)["findings"]] == [
        (f["code"], f["message"]) for f in findings
    ]


@ONE_MODE
def test_connections_that_were_not_read_are_said(world: World, tmp_path: Path) -> None:
    """--conntrack on a snapshot that was made without: exit 3, the reason named, and the rules verified all the same."""
    kept = tmp_path / "kept"
    assert world.run("snapshot", "save", str(kept)).returncode == 0
    done = world.run("kuard", "-o", "json", "--snapshot", str(kept), "--conntrack")
    assert done.returncode == 3, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [item["code"] for item in report["unverified"]] == ["SR920"]
    assert "made without --conntrack" in report["unverified"][0]["reason"]
    assert report["services"][0]["nodesVerified"] == 1
    assert report["summary"]["nodesVerified"] == 0


# ---- what the rules do not say ------------------------------------------------------------------------------------------


def address_of(world: World, name: str) -> str:
    """The cluster IP of a Service of the shop's."""
    items = json.loads((capture(world.name) / "api" / "services.json").read_text())["items"]
    return str(next(i["spec"]["clusterIP"] for i in items if i["metadata"]["name"] == name))


@contextlib.contextmanager
def foreign_table(world: World, chain: str) -> Iterator[None]:
    """An nft table of somebody else's, with one chain, beside kube-proxy's rules."""
    world.node.run("nft", "-f", "-", stdin=f"table ip stranger {{ chain c {{ {chain}; }}; }}")
    try:
        yield
    finally:
        world.node.run("nft", "delete", "table", "ip", "stranger")


def test_a_translation_before_the_rules_is_told(world: World) -> None:
    """Another tool's table sends connections elsewhere before kube-proxy's rules see them: SR703, and no endpoint is blamed."""
    front = f"{address_of(world, 'half')}:80/TCP"
    dnat = f"ip daddr {address_of(world, 'half')} tcp dport 80 dnat to 10.244.1.17:4000"
    with foreign_table(world, f"type nat hook output priority -150; {dnat}"):
        report = world.report("half", "-n", "shop", status=1)
    [finding] = report["findings"]
    said = f"20 of 20 connections to {front} went to 10.244.1.17:4000, where no rule sends them"
    assert (finding["code"], finding["message"]) == ("SR703", said)
    assert "src=10.244.1.17" in finding["evidence"][0]
    # That the table is there and was not read is said beside it.
    assert [(u["code"], "table ip stranger" in u["reason"]) for u in report["unverified"]] == [("SR909", True)]


@ONE_MODE
def test_a_masquerade_that_another_prevents_is_not_the_endpoints_fault(world: World) -> None:
    """kube-proxy's mark is wiped before its masquerade: SR705, and endpoints whose answers find no way back are not blamed."""
    with foreign_table(world, "type filter hook postrouting priority 99; ip saddr 127.0.0.0/8 meta mark set 0"):
        report = world.report("dual", "-n", "shop", status=1)
    [finding] = report["findings"]
    said = "20 of 20 connections to 127.0.0.1:30086/TCP should be masqueraded and were not, against what the rules say"
    assert (finding["code"], finding["message"]) == ("SR705", said)
    [row] = [row for row in report["probes"] if row["frontend"].startswith("127.")]
    assert (row["connected"], row["timedOut"]) == (0, 20)


@ONE_MODE
def test_a_source_that_another_changes_is_told(world: World) -> None:
    """A pod that should be seen as itself leaves as the node, by another tool's table: SR705 from the pod, over pods/exec."""
    words = ("half", "-n", "shop", "--from", f"pod/{world.client}", "--count", "5")
    before = len(world.api.log)
    assert world.report(*words, status=0)["findings"] == []
    asked = [r.path for r in world.api.log[before:] if r.path.endswith("/exec")]
    assert asked == [f"/api/v1/namespaces/shop/pods/{world.client}/exec"]
    with foreign_table(world, f"type nat hook postrouting priority 50; ip saddr {CLIENT} snat to {world.node.address}"):
        [finding] = world.report(*words, status=1)["findings"]
    said = f"should keep their source and left with {world.node.address}, against what the rules say"
    assert finding["code"] == "SR705"
    assert finding["message"] == f"5 of 5 connections to {address_of(world, 'half')}:80/TCP {said}"


@ONE_MODE
def test_kube_proxys_own_pod_has_nothing_to_dial_with(world: World, tmp_path: Path) -> None:
    """--via exec into an image with kube-proxy's tools: the node is verified, nothing is dialled, and that is said; exit 3."""
    image = ("iptables-save", "ip6tables-save", "iptables", "nft", "conntrack")
    for tool in ("tail", "cat", "nice", "timeout", "grep", "sleep", "date", "readlink", "sh", *image):
        found = shutil.which(tool)
        assert found is not None, tool
        (tmp_path / tool).symlink_to(found)
    proxy = {
        "metadata": {"name": "kube-proxy-x7k2p", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
        "spec": {"nodeName": NODE, "hostNetwork": True, "containers": [{"name": "kube-proxy"}]},
        "status": {"phase": "Running"},
    }

    def inside(script: str) -> bytes:
        script = re.sub(r"^PATH=.*", f"PATH={tmp_path}; export PATH", script, count=1, flags=re.MULTILINE)
        command = ["ip", "netns", "exec", world.node.namespace, "/bin/sh", "-s"]
        return subprocess.run(command, input=script.encode(), capture_output=True, check=True, timeout=60).stdout

    world.api.objects["pods"].append(proxy)
    world.api.shells["kube-proxy-x7k2p"] = inside
    world.node.run("conntrack", "-F")
    try:
        report = world.report("kuard", "--via", "exec", status=3)
    finally:
        world.api.objects["pods"].remove(proxy)
    assert report["findings"] == []
    assert {(u["code"], u["service"]) for u in report["unverified"]} == {("SR921", "default/kuard")}, report["unverified"]
    why = "was not probed: there is nothing to dial with: neither python3, bash, nc (with -z) nor curl"
    assert all(u["reason"].endswith(why) for u in report["unverified"])
    assert [node["via"] for node in report["nodes"]] == ["exec"]
    assert world.node.run("conntrack", "-L", "-d", report["services"][0]["clusterIPs"][0]).strip() == ""


_FORGET = r"""
import pathlib, subprocess, sys, time
print("ready", flush=True)
recent = list(pathlib.Path("/proc/net/xt_recent").glob("KUBE-SEP-*")) if sys.argv[1] == "recent" else []
while True:
    for one in recent: one.write_text("/\n")
    if not recent: subprocess.run(["nft", "-f", "-"], input=sys.argv[1].encode(), check=True)
    time.sleep(0.002)
"""


@contextlib.contextmanager
def forgetful(world: World) -> Iterator[None]:
    """Something empties, again and again, the lists by which the rules of shop/cart keep a client."""
    sets = re.findall(r"set (affinity-\S+shop/cart\S+) \{", world.rules()) if "nftables" in world.name else []
    what = "".join(f"flush set ip kube-proxy {name}\n" for name in sets) or "recent"
    with subprocess.Popen(
        ["ip", "netns", "exec", world.node.namespace, sys.executable, "-c", _FORGET, what], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield
            assert running.poll() is None
        finally:
            running.kill()


def test_a_client_that_is_not_kept_is_told(world: World) -> None:
    """Rules that promise affinity, over lists that something else empties: SR707, with a connection to each endpoint."""
    with forgetful(world):
        report = world.report("cart", "-n", "shop", "--rate", "25", status=1)
    [finding] = report["findings"]
    front = f"{address_of(world, 'cart')}:7000/TCP"
    assert finding["code"] == "SR707"
    said = rf"connections from 172\.18\.0\.11 to {front} went to [23] endpoints, and the rules keep a client on one"
    assert re.fullmatch(said, finding["message"])
    assert len({re.findall(r"src=(\S+)", line)[-1] for line in finding["evidence"]}) == len(finding["evidence"]) >= 2


@contextlib.contextmanager
def without_conntrack(world: World) -> Iterator[None]:
    """Sessions on the node find no conntrack."""
    inside = ["nsenter", "--mount", "--target", str(world.node.processes[-1].pid)]
    tool = shutil.which("conntrack")
    assert tool is not None
    subprocess.run([*inside, "mount", "--bind", "/dev/null", tool], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "umount", tool], check=True)


@ONE_MODE
def test_what_fails_and_leaves_no_trace_blames_nobody(world: World) -> None:
    """Refused connections, which the kernel forgets at once, on a node without conntrack: SR708, and that it is not known."""
    world.pods.close_port("10.244.1.19:8080")
    try:
        with without_conntrack(world):
            report = world.report("half", "-n", "shop", status=1)
    finally:
        world.pods.open_port("10.244.1.19:8080")
    [finding], [unknown] = report["findings"], report["unverified"]
    front = f"{address_of(world, 'half')}:80/TCP"
    assert (finding["code"], unknown["code"]) == ("SR708", "SR920")
    assert finding["message"] == f"20 of 20 connections to {front} failed (refused), and where they went is not known"
    assert unknown["reason"].endswith("/proc/net/nf_conntrack shows no trace of them")


@ONE_MODE
def test_without_conntrack_the_kernels_table_is_read(world: World) -> None:
    """/proc/net/nf_conntrack in conntrack's place: every connection, of TCP and UDP, is found in it; a silent pod as well."""
    world.pods.remove("10.244.2.14")
    try:
        with without_conntrack(world):
            report = world.report("kube-dns", "-n", "kube-system", status=1)
    finally:
        world.pods.restore("10.244.2.14")
    assert {(finding["code"], finding["severity"]) for finding in report["findings"]} == {("SR701", "error")}
    assert all("(10.244.2.14:" in finding["message"] for finding in report["findings"])
    assert report["unverified"] == []
    assert {(row["seenBy"], row["unseen"]) for row in report["probes"]} == {("/proc/net/nf_conntrack", 0)}
    assert {row["frontend"].rpartition("/")[2] for row in report["probes"]} == {"TCP", "UDP"}


_HELD = """
import socket, sys
sink = socket.create_server(("10.244.1.99", 53))
print("ready", flush=True)
client, _ = sink.accept()
print("held", flush=True)
sys.stdin.read()
"""
_HOLD = """
import socket, sys
sock = socket.create_connection(("10.96.0.10", 53), timeout=5)
print("held", flush=True)
sys.stdin.read()
"""


def test_tcp_connections_that_outlived_their_endpoint_are_told(world: World) -> None:
    """A connection that is held to an address that is no endpoint any more: SR623, a piece of information; exit 0."""
    rules = world.rules()

    def start(namespace: str, program: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    world.node.run("conntrack", "-F")
    world.pods.add("10.244.1.99")
    with start(world.pods.namespace, _HELD) as sink:
        assert sink.stdout is not None
        assert sink.stdout.readline() == "ready\n"
        world.load(rules.replace("10.244.1.14", "10.244.1.99").replace("10.244.2.14", "10.244.1.99"))
        with start(world.node.namespace, _HOLD) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "held\n"
            finally:
                world.load(rules)
            done = world.run("kube-dns", "-n", "kube-system", "--conntrack", "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    [finding] = json.loads(done.stdout)["findings"]
    assert (finding["code"], finding["severity"]) == ("SR623", "info")
    said = "TCP connections to 10.96.0.10:53/TCP are held to 10.244.1.99:53, which is no endpoint of the Service"
    assert finding["message"] == said
    assert "ESTABLISHED" in finding["evidence"][0]
