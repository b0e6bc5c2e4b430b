"""Real clusters: healthy ones give nothing, each fault is named on its node, for its Services, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from captured import CAPTURES, capture, faults, faulty, truth

from kubectl_svcroute.audit import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode, Report, Severity

CASES = [(name, fault) for name in CAPTURES for fault in faults(name)]


def report_of(path: Path) -> Report:
    """The report of all Services on all nodes of a snapshot."""
    snapshot = load_snapshot(path)
    return audit(snapshot.api, snapshot.outcomes())


@pytest.mark.parametrize("name", CAPTURES)
def test_a_healthy_cluster_is_healthy(name: str) -> None:
    """A capture of a healthy cluster passes: no finding of any severity that counts, nothing unverified, exit 0."""
    report = report_of(capture(name))
    assert [f for f in report.findings if f.severity is not Severity.INFO] == []
    assert report.unverified == ()
    assert report.exit_code() is ExitCode.OK


@pytest.mark.parametrize(("name", "fault"), CASES, ids=[f"{n}:{f}" for n, f in CASES])
def test_a_fault_is_named_where_it_is_and_nowhere_else(name: str, fault: str) -> None:
    """The fault's node and Services are named, or the node as a whole once; nothing else is."""
    report = report_of(faulty(name, fault))
    known = truth(name, fault)
    bad = [f for f in report.findings if f.severity is not Severity.INFO]
    assert {f.node for f in bad} == {known["node"]}
    services = {f.service for f in bad}
    assert services == (set(known["services"]) or {None})
    assert report.exit_code() is ExitCode.FINDINGS
    assert all(f.evidence for f in bad if f.code not in ("SR507",))
