"""When a difference is a fault, told without a cluster: sights, changes and times alone."""

from __future__ import annotations

from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.report import Finding, NodeRow, Severity
from kubectl_svcroute.run.settling import Settling, set_aside


def finding(code: str = "SR201", service: str | None = "a/one", cause: str = "10.0.0.1:80: gone", **more: object) -> Finding:
    given = {"code": code, "name": code, "severity": Severity.ERROR, "node": "n", "service": service, "message": "m"}
    return Finding(**{**given, "cause": cause, **more})  # type: ignore[arg-type]


def result(*findings: Finding) -> NodeResult:
    row = NodeRow(node="n", verified=True, mode="iptables", version="1.36", via="ssh", errors=9)
    return NodeResult(row=row, findings=findings)


def told(settling: Settling, found: Finding, times: list[float]) -> list[bool]:
    """Whether it is a fault after each of these readings."""
    answers = []
    for at in times:
        settling.saw(result(found), at)
        answers.append(settling.stays(found, result(found)))
    return answers


def test_it_has_to_stay_for_settle_and_be_seen_twice() -> None:
    """Neither one sight long ago nor two within a moment make a fault."""
    assert told(Settling(10), finding(), [0, 1, 9.9, 10]) == [False, False, False, True]
    assert told(Settling(10), finding(), [0]) == [False]


def test_what_went_away_begins_anew() -> None:
    """A difference that was gone at one reading is as young as its return."""
    settling = Settling(10)
    assert told(settling, finding(), [0, 5]) == [False, False]
    settling.saw(result(), 8)
    assert told(settling, finding(), [12, 20, 22]) == [False, False, True]


def test_a_service_that_changed_begins_anew() -> None:
    """What kube-proxy has to write for a change of second 8 may take until second 18."""
    settling = Settling(10)
    assert told(settling, finding(), [0, 5]) == [False, False]
    settling.moved({"a/one", "b/two"}, 8)
    assert told(settling, finding(), [9, 12, 18]) == [False, False, True]


def test_others_that_change_hide_nothing() -> None:
    """A Service at rest is judged whatever the others do, on the same node too."""
    settling = Settling(10)
    for at in range(0, 12, 2):
        settling.moved({"b/two"}, at)
        settling.saw(result(finding(), finding(service="b/two", cause=f"10.0.0.{at}:80: gone")), at)
    now = result(finding(), finding(service="b/two", cause="10.0.0.10:80: gone"))
    assert [settling.stays(f, now) for f in now.findings] == [True, False]


def test_a_node_wide_difference_needs_one_service_that_rests() -> None:
    """A hook that is gone is gone, however many of the Services that it breaks are changing; when all are, it may be they."""
    settling = Settling(10)
    wide = finding("SR103", None, "hook", about=frozenset({"a/one", "b/two"}))
    for at in range(0, 12, 2):
        settling.moved({"b/two"}, at)
        settling.saw(result(wide), at)
    assert settling.stays(wide, result(wide))
    settling = Settling(10)
    for at in range(0, 12, 2):
        settling.moved({"a/one", "b/two"}, at)
        settling.saw(result(wide), at)
    assert not settling.stays(wide, result(wide))


def test_a_service_that_never_rests() -> None:
    """An endpoint that gets nothing for three times `settle` is missing, whatever else moves; uneven shares may be new ones."""
    for code, expected in (("SR201", True), ("SR205", False), ("SR403", False)):
        settling = Settling(10)
        answers = []
        for at in range(0, 31, 3):
            settling.moved({"a/one"}, at)
            answers += told(settling, finding(code), [at])
        assert answers[-1] is expected, code
        assert not any(answers[:-1])


def test_what_is_set_aside_is_not_verified_and_not_counted() -> None:
    """A doubted difference leaves the findings and their counts, and its Service is not verified there."""
    doubted, other = finding(), finding(service="b/two")
    after = set_aside(result(doubted, other), doubted, "why")
    assert after.findings == (other,)
    assert [(u.code, u.service, u.reason) for u in after.unverified] == [("SR908", "a/one", "why; seen: SR201 m")]
    assert after.unverified_services == {"a/one"}
    assert (after.row.verified, after.row.errors) == (False, 1)
