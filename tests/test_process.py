"""The whole program as its user runs it: kubeconfig in, ssh to nodes with real rules in a real kernel, report and status out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import ApiServer, rules_of
from captured import capture, faulty
from sshd import SshLab, why_not

NAME = "v1.36-iptables-nft"
FIRST, THIRD = "kubworker1.prefetch.net", "kubworker3.prefetch.net"
ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")


class Cluster:
    """An API server and two nodes with real rules, and what the program needs to reach them."""

    def __init__(self, api: ApiServer, lab: SshLab, folder: Path) -> None:
        self.api = api
        self.lab = lab
        self.folder = folder
        self.kubeconfig = api.kubeconfig(folder / "kubeconfig")
        self.healthy = lab.node(FIRST, files=capture(NAME) / "nodes" / FIRST, proxy=True)
        self.broken = lab.node(THIRD, files=faulty(NAME, "missing-endpoint") / "nodes" / THIRD, proxy=True)
        lab.trust(self.healthy, self.broken)
        hosts = [line for node in lab.nodes for line in (f"Host {node.name}", f"  HostName {node.address}", "  User root")]
        self.config = lab.config(*hosts)

    def command(self, *arguments: str, nodes: tuple[str, ...] = (FIRST, THIRD)) -> list[str]:
        """The command line for these nodes."""
        asked = [word for node in nodes for word in ("--node", node)]
        return [
            sys.executable, "-m", "kubectl_svcroute", *arguments, *asked, "--kubeconfig", str(self.kubeconfig),
            "--ssh-config", str(self.config), "--settle", "1s", "--timeout", "60s",
        ]  # fmt: skip

    def run(self, *arguments: str, nodes: tuple[str, ...] = (FIRST, THIRD)) -> subprocess.CompletedProcess[str]:
        """Run the program to its end."""
        env = {**os.environ, "HOME": str(self.folder), "NO_COLOR": "1", "COLUMNS": "100"}
        return subprocess.run(
            self.command(*arguments, nodes=nodes), capture_output=True, text=True, check=False, env=env, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of this file."""
    with SshLab() as lab, ApiServer(capture(NAME)) as api:
        yield Cluster(api, lab, tmp_path_factory.mktemp("home"))


def test_a_fault_is_found_on_its_node(cluster: Cluster) -> None:
    """The main job: one Service on two nodes, one of which lacks an endpoint's rule."""
    done = cluster.run("kuard", "-o", "json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [(f["code"], f["node"], f["service"]) for f in report["findings"]] == [("SR201", THIRD, "default/kuard")]
    assert report["summary"]["nodesVerified"] == 2
    assert {node["via"] for node in report["nodes"]} == {"ssh"}


def test_a_healthy_node_passes(cluster: Cluster) -> None:
    """Every Service of the cluster on the healthy node: nothing, and exit 0."""
    done = cluster.run("-A", nodes=(FIRST,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SR" not in done.stdout
    assert "0 errors" in done.stderr


def test_a_node_that_cannot_be_reached_is_not_verified(cluster: Cluster) -> None:
    """The healthy node passes, the other refuses: exit 3, the node and the reason named once; with --allow-partial 0."""
    done = cluster.run("kuard", nodes=(FIRST, "kubworker2.prefetch.net"))
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.count("SR901") >= 1
    assert "kubworker2" in done.stdout
    assert cluster.run("kuard", "--allow-partial", nodes=(FIRST, "kubworker2.prefetch.net")).returncode == 0


def test_a_saved_snapshot_says_the_same(cluster: Cluster, tmp_path: Path) -> None:
    """`snapshot save` and `--snapshot` give the findings of the live run, and the archive holds nothing secret."""
    path = tmp_path / "audit.tar.gz"
    saved = cluster.run("snapshot", "save", str(path))
    assert saved.returncode == 0, saved.stderr
    live = json.loads(cluster.run("-A", "-o", "json").stdout)
    again = cluster.run("-A", "-o", "json", "--snapshot", str(path))
    replayed = json.loads(again.stdout)
    assert replayed["findings"] == live["findings"]
    assert replayed["summary"] == live["summary"]
    with tarfile.open(path) as tar:
        texts = [found.read() for member in tar if (found := tar.extractfile(member)) is not None]
    assert not any(b"PRIVATE KEY" in text or text == b"good" for text in texts)


def test_a_rule_that_comes_back_is_no_finding(cluster: Cluster) -> None:
    """A difference that goes away while it is looked at a second time is a rollout, not a fault."""
    chain = "KUBE-SVC-KONBHUEJ3TRSITPT"
    rules = cluster.healthy.run("iptables-nft-save", "-t", "nat").splitlines()
    first = next(line for line in rules if line.startswith(f"-A {chain} ") and "KUBE-SEP" in line)
    cluster.healthy.run("iptables-nft", "-t", "nat", "-D", chain, "2")
    command = [*cluster.command("kuard", nodes=(FIRST,)), "--settle", "20s", "-v"]
    env = {**os.environ, "HOME": str(cluster.folder), "NO_COLOR": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    looked = until(running, "looking again")
    parts = first.split('--comment "')[1].split('" ')
    cluster.healthy.run("iptables-nft", "-t", "nat", "-I", chain, "2", "-m", "comment", "--comment", parts[0], *parts[1].split())
    out, err = running.communicate(timeout=100)
    assert running.returncode == 0, out + looked + err


def until(running: subprocess.Popen[str], word: str) -> str:
    """Wait until a program says something on stderr; returns what it said up to there."""
    assert running.stderr is not None
    said = ""
    for line in iter(running.stderr.readline, ""):
        said += line
        if word in line:
            return said
    raise AssertionError(f"it ended without {word!r}: {said}")


def test_an_interrupt_ends_it_with_130(cluster: Cluster) -> None:
    """Ctrl-C while the second look waits: status 130, and what was read so far is reported."""
    command = [*cluster.command("kuard"), "--settle", "60s", "-v"]
    env = {**os.environ, "HOME": str(cluster.folder), "NO_COLOR": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    until(running, "looking again")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, out + err
    assert "kuard" in out
    assert "interrupted before it was looked at a second time; seen: SR201" in " ".join(out.split())
    assert "Traceback" not in err


def test_permissions_that_lack_are_named(cluster: Cluster, tmp_path: Path) -> None:
    """A reader who may not list nodes is told the verb and the resource, and the status is 2."""
    rules = [rule for rule in rules_of(ROOT / "docs" / "rbac.yaml") if "nodes" not in rule.resources]
    with ApiServer(capture(NAME), rules=rules) as api:
        config = api.kubeconfig(tmp_path / "kubeconfig")
        done = subprocess.run(
            [sys.executable, "-m", "kubectl_svcroute", "kuard", "--kubeconfig", str(config)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert "list" in done.stderr
    assert "nodes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such"], "not found in namespace default"),
        (["kuart"], "did you mean kuard"),
        (["web"], "namespace shop has one"),
        (["kuard", "--context", "nowhere"], "nowhere"),
        (["kuard", "-A"], "cannot be asked for in all namespaces"),
        (["kuard", "-o", "fancy"], "no such format"),
        (["kuard", "--node", "kubworker9"], "not found"),
        (["-n", "nowhere"], "nothing to check"),
        (["-l", "a=(b"], "not a label selector"),
        (["explain", "SR999"], "no finding code"),
        (["kuard", "--request-timeout", "soon"], "is no duration"),
    ],
)
def test_bad_input_is_told_in_one_line(cluster: Cluster, arguments: list[str], says: str) -> None:
    """Wrong usage names the input and the remedy on stderr, says nothing on stdout, and ends with 2."""
    nodes = () if "--node" in arguments or "explain" in arguments else (FIRST,)
    if "explain" in arguments:
        done = subprocess.run([sys.executable, "-m", "kubectl_svcroute", *arguments], capture_output=True, text=True, check=False)
    else:
        done = cluster.run(*arguments, nodes=nodes)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["db", "outside", "other"])
def test_a_service_that_is_not_kube_proxys_passes_with_a_word(cluster: Cluster, name: str) -> None:
    """Headless, ExternalName, another proxy's: said, with what to look at instead; exit 0."""
    done = cluster.run(name, "-n", "shop", nodes=(FIRST,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kube-proxy" in done.stdout


def test_no_kubeconfig_is_said(tmp_path: Path) -> None:
    """Without a cluster to talk to, the remedy is named."""
    env = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST")}
    done = subprocess.run(
        [sys.executable, "-m", "kubectl_svcroute", "kuard"], capture_output=True, text=True, check=False,
        env={**env, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr
