"""Real clusters: healthy ones give nothing, each fault is named on its node, for its Services, and for nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from captured import CAPTURES, capture, faults, faulty, truth

from kubectl_svcroute.audit.cluster import Audit, audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.report import ExitCode, Report, Severity
from kubectl_svcroute.model.selection import Selection

CASES = [(name, fault) for name in CAPTURES for fault in faults(name)]


@cache
def healthy(name: str) -> tuple[NodeResult, ...]:
    """What the nodes of a capture come to, each judged once: a node is judged alone, so a fault on another changes nothing."""
    snapshot = load_snapshot(capture(name))
    judge = Audit(snapshot.api, Selection())
    return tuple(judge.node(outcome) for outcome in snapshot.outcomes())


def report_of(path: Path, name: str, node: str) -> Report:
    """The report of all Services on all nodes of a snapshot that differs from a healthy capture on one node."""
    snapshot = load_snapshot(path)
    judge = Audit(snapshot.api, Selection())
    changed = next(handle for handle in snapshot.nodes if handle.node == node)
    return judge.conclude([judge.node(changed.read()), *(r for r in healthy(name) if r.row.node != node)])


@pytest.mark.parametrize("name", CAPTURES)
def test_a_healthy_cluster_is_healthy(name: str) -> None:
    """A capture of a healthy cluster passes: no finding of any severity that counts, nothing unverified, exit 0."""
    snapshot = load_snapshot(capture(name))
    report = audit(snapshot.api, snapshot.outcomes())
    assert [f for f in report.findings if f.severity is not Severity.INFO] == []
    assert report.unverified == ()
    assert report.exit_code() is ExitCode.OK


@pytest.mark.parametrize(("name", "fault"), CASES, ids=[f"{n}:{f}" for n, f in CASES])
def test_a_fault_is_named_where_it_is_and_nowhere_else(name: str, fault: str) -> None:
    """The fault's node and Services are named, or the node as a whole once; nothing else is."""
    known = truth(name, fault)
    report = report_of(faulty(name, fault), name, known["node"])
    bad = [f for f in report.findings if f.severity is not Severity.INFO]
    assert {f.node for f in bad} == {known["node"]}
    services = {f.service for f in bad}
    assert services == (set(known["services"]) or {None})
    assert report.exit_code() is ExitCode.FINDINGS
    assert all(f.evidence for f in bad if f.code not in ("SR507",))
