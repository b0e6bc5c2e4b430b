"""Nodes that are left out are in the report, and an audit that looked at no node is never a pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from captured import capture

from kubectl_svcroute.collect.fanout import NodeTarget
from kubectl_svcroute.collect.transports import Without
from kubectl_svcroute.errors import CollectError
from kubectl_svcroute.model.report import ExitCode, Report
from kubectl_svcroute.model.snapshot import Unreachable

NAME = "v1.36-iptables-nft"
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command on a capture to which nodes with these labels were added: (status, JSON, stderr)."""
    from kubectl_svcroute.cli import main

    def command(*words: str, labels: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
        folder = tmp_path / "snapshot"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(capture(NAME), folder)
        if labels is not None:
            path = folder / "api" / "nodes.json"
            nodes = json.loads(path.read_text())
            nodes["items"].append({"metadata": {"name": "other", "labels": labels}, "status": {"nodeInfo": {}}})
            path.write_text(json.dumps(nodes))
        monkeypatch.setattr("sys.argv", ["kubectl-svcroute", "-A", "--snapshot", str(folder), "-o", "json", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out) if out.strip() else {}, err

    return command


@pytest.mark.parametrize("labels", [
    {"type": "virtual-kubelet"}, {"eks.amazonaws.com/compute-type": "fargate"}, {"kubernetes.io/os": "windows"},
], ids=str)  # fmt: skip
def test_a_node_that_is_left_out_is_in_the_report(run: Run, labels: dict[str, str]) -> None:
    """A kubelet may set these labels: the node is not verified, with the reason, unless the user excludes it."""
    ((label, value),) = labels.items()
    status, report, _ = run(labels=labels)
    assert status == ExitCode.NOT_VERIFIED
    assert [(u["node"], u["reason"].partition(":")[0]) for u in report["unverified"]] == [("other", "left out")]
    assert report["summary"]["nodes"] == report["summary"]["nodesVerified"] + 1
    excluding = "kubernetes.io/os=linux" if value == "windows" else f"{label}!={value}"
    assert excluding in report["unverified"][0]["reason"]
    if value != "windows":  # the capture's own nodes have no such label
        status, report, _ = run("--node-selector", excluding, labels=labels)
        assert (status, report["unverified"]) == (ExitCode.OK, [])
    assert run("--node", "kubworker3", labels=labels)[0] == ExitCode.OK


@pytest.mark.parametrize(("words", "says"), [
    (["--shard", "node/kubworker33"], 'node "kubworker33" not found; did you mean'),
    (["--shard", "node/x"], '--shard node/x: node "x" not found'),
    (["--node", "kubworker33"], "did you mean"),
    (["--node-selector", "zone=nowhere"], "there is no node with labels zone=nowhere"),
    (["--node", "kubworker3", "--node-selector", "zone=nowhere"], "there is no node with labels"),
    (["--node-selector", "a=b=c"], "not a label selector"),
], ids=str)  # fmt: skip
def test_what_names_no_node_is_an_error(run: Run, words: list[str], says: str) -> None:
    """A misspelt name and labels that no node has are usage errors, never a pass."""
    status, _, err = run(*words)
    assert status == ExitCode.CANNOT_RUN
    assert says in err


def test_a_part_of_one_node_is_named_as_elsewhere(run: Run) -> None:
    """`--shard node/NAME` takes the first part of a name, as `--node` does, and looks at that node."""
    status, report, _ = run("--shard", "node/kubworker3")
    assert status == ExitCode.OK
    assert report["summary"]["nodes"] == 1
    assert report["shard"]["shard"].startswith("node/kubworker3.")


def test_a_part_without_nodes_is_not_verified(run: Run) -> None:
    """Whichever parts have no node, they say so, and end with 3; `--allow-partial` accepts it."""
    statuses = {}
    for index in range(1, 21):
        statuses[index], report, _ = run("--shard", f"{index}/20")
        empty = report["summary"]["nodes"] == 0
        assert (statuses[index] == ExitCode.NOT_VERIFIED) is empty
        assert [u["code"] for u in report["unverified"]] == (["SR912"] if empty else [])
        assert (report["summary"]["verdict"] == "unverified") is empty
        if empty:
            break
    assert ExitCode.NOT_VERIFIED in statuses.values()
    assert run("--shard", f"{index}/20", "--allow-partial")[0] == ExitCode.OK


def test_a_report_of_no_node_is_no_pass() -> None:
    """However it came about."""
    report = Report(findings=(), unverified=(), services=(), nodes=())
    assert (report.exit_code(), report.verdict) == (ExitCode.NOT_VERIFIED, "unverified")
    assert report.exit_code(allow_partial=True) is ExitCode.OK


def test_a_node_that_is_left_out_is_not_contacted() -> None:
    """Neither read nor asked to run anything; the others are."""
    seen: list[str] = []
    inner = SimpleNamespace(
        via="ssh", read=lambda target: seen.append(target.name), run=lambda target, *_, **__: seen.append(target.name) or b"",
        close=lambda: seen.append("closed"),
    )  # fmt: skip
    reader = Without(inner, {"virtual": "left out: x"})
    outcome = reader.read(NodeTarget(name="virtual"))
    assert outcome == Unreachable(node="virtual", reason="left out: x")
    with pytest.raises(CollectError, match="left out: x"):
        reader.run(NodeTarget(name="virtual"), "script", "nonce")
    reader.read(NodeTarget(name="real"))
    reader.run(NodeTarget(name="real"), "script", "nonce")
    reader.close()
    assert (seen, reader.via) == (["real", "real", "closed"], "ssh")
