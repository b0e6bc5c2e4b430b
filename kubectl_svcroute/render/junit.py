"""JUnit XML, as CI servers read it: a suite for each node, in it a case for each Service and one for the node itself.

An error finding is a failure, what was not verified an error, a warning (for which JUnit has no word) the output of a case
that passes. A Service on a node that could not be read must not be a case that passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from ..model.report import Finding, NotJudged, Report, Severity, Unverified
from . import RenderOptions
from .codes import label_of
from .text import clean, to_ascii
from .view import Cell, Matrix

NODE_CASE = "(node)"
CLUSTER_SUITE = "(cluster)"


class _Case(NamedTuple):
    name: str
    outcome: str
    """failure, error, skipped or empty for one that passes."""
    kind: str
    message: str
    text: str
    output: str


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as one `testsuites` document, suite by suite."""
    suites = [*_suites(report)]
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f"<testsuites {_counts([case for _, cases in suites for case in cases], 'svcroute', skipped=False)}>\n"
    for name, cases in suites:
        yield f"  <testsuite {_counts(cases, name, skipped=True)}>\n"
        for case in cases:
            text = _xml(name, case)
            yield to_ascii(text) if options.ascii_only else text
        yield "  </testsuite>\n"
    yield "</testsuites>\n"


def _suites(report: Report) -> Iterator[tuple[str, list[_Case]]]:
    matrix = Matrix(report)
    findings = tuple(f for f in report.findings if f.node is None)
    doubts = tuple(u for u in report.unverified if u.node is None)
    if findings or doubts or not report.nodes:
        worst = "error" if any(f.severity is Severity.ERROR for f in findings) else "unverified" if doubts else "ok"
        yield CLUSTER_SUITE, [_case("(API)", Cell(status=worst, findings=findings, unverified=doubts))]
    for row in report.nodes:
        cases = [_case(NODE_CASE, matrix.of_node(row.node), [i for i in report.not_judged if i.node == row.node])]
        for service in report.services:
            if service.skipped:
                cases.append(_Case(service.service, "skipped", "", service.skipped, "", ""))
                continue
            cases.append(_case(service.service, matrix.cell(service, row.node)))
        yield row.node, cases


def _case(name: str, cell: Cell, not_judged: Sequence[NotJudged] = ()) -> _Case:
    """One Service on one node, or the node itself. `not_judged`: other programs' rules there, for the output of the case."""
    errors = [f for f in cell.findings if f.severity is Severity.ERROR]
    rest = [f for f in cell.findings if f.severity is not Severity.ERROR]
    doubts = _doubts(cell.unverified)
    if cell.status == "error":
        first = (
            f"{label_of(errors[0].code, errors[0].name)}: {errors[0].message}" if errors else "by a fault of the node as a whole"
        )
        if len(errors) > 1:
            first += f" (and {len(errors) - 1} more)"
        text = "\n\n".join([*map(_told, errors), *doubts])
        return _Case(name, "failure", errors[0].code if errors else "node", first, text, _output(rest, not_judged))
    if cell.status == "unverified":
        first = doubts[0] if doubts else "not verified: the node could not be verified"
        kind = cell.unverified[0].code if cell.unverified else "SR901"
        return _Case(name, "error", kind, first, "\n".join(doubts), _output(rest, not_judged))
    return _Case(name, "", "", "", "", _output(rest, not_judged))


def _doubts(items: Sequence[Unverified]) -> list[str]:
    return [f"not verified: {label_of(item.code)}: {item.reason}" for item in items]


def _output(findings: Iterable[Finding], not_judged: Iterable[NotJudged]) -> str:
    others = [f"not judged: {label_of(item.code)}: {item.message}" for item in not_judged]
    return "\n\n".join([*map(_told, findings), *others])


def _told(finding: Finding) -> str:
    lines = [f"{finding.severity.value} {label_of(finding.code, finding.name)}: {finding.message}"]
    for label, text in (
        ("frontend", finding.frontend), ("client", finding.client), ("expected", finding.expected),
        ("observed", finding.observed), ("traffic", finding.effect), ("repair", finding.heals), ("elsewhere", finding.elsewhere),
    ):  # fmt: skip
        if text:
            lines.append(f"{label}: {text}")
    return "\n".join([*lines, *(f"  {rule}" for rule in finding.evidence)])


def _counts(cases: Sequence[_Case], name: str, *, skipped: bool) -> str:
    count = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("failure", "error", "skipped")}
    attributes = {"name": name, "tests": len(cases), "failures": count["failure"], "errors": count["error"]}
    if skipped:
        attributes["skipped"] = count["skipped"]
    return " ".join(f'{key}="{_safe(str(value))}"' for key, value in attributes.items())


def _xml(suite: str, case: _Case) -> str:
    head = f'    <testcase classname="{_safe(suite)}" name="{_safe(case.name)}"'
    body = ""
    if case.outcome == "skipped":
        body = f'      <skipped message="{_safe(case.message)}"/>\n'
    elif case.outcome:
        body = (
            f'      <{case.outcome} type="{_safe(case.kind)}" message="{_safe(case.message)}">'
            f"{_block(case.text)}</{case.outcome}>\n"
        )
    if case.output:
        body += f"      <system-out>{_block(case.output)}</system-out>\n"
    return f"{head}>\n{body}    </testcase>\n" if body else f"{head}/>\n"


def _safe(text: str) -> str:
    """Fit for an attribute: XML 1.0 cannot hold control characters in any spelling, so they are shown as escapes."""
    return escape(clean(text))


def _block(text: str) -> str:
    return "\n".join(escape(clean(line), quote=False) for line in text.split("\n"))
