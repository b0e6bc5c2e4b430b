"""A report from the reader's side: what the formats for people share, so that they say the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from ..model.fast_dataclass import dataclass
from ..model.report import EndpointRow, Finding, NotJudged, Report, ServiceRow, Severity, Unverified
from .text import plural

NOT_AN_ENDPOINT = "not an endpoint"
"""`EndpointRow.state` of an address that rules send to and the API does not know."""


def host_of(row: EndpointRow) -> str:
    """The address of an endpoint without its port."""
    return row.address.rpartition(":")[0]


def endpoint_counts(service: ServiceRow) -> tuple[int, int]:
    """(ready, all) endpoints: one that serves several ports counts once."""
    if service.counts is not None:
        return service.counts
    known = [row for row in service.endpoints if row.state != NOT_AN_ENDPOINT]
    return len({host_of(row) for row in known if row.ready}), len({host_of(row) for row in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The numbers of a report's summary."""

    services: int
    endpoints: int
    nodes: int
    nodes_verified: int
    errors: int
    warnings: int
    unverified: int
    verdict: str


def totals(report: Report) -> Totals:
    """Count once what every format tells."""
    return Totals(
        services=len(report.services),
        endpoints=sum(endpoint_counts(service)[1] for service in report.services),
        nodes=len(report.nodes),
        nodes_verified=report.nodes_verified,
        errors=report.errors,
        warnings=report.warnings,
        unverified=len(report.unverified),
        verdict=report.verdict,
    )


def summary_of(report: Report) -> str:
    """`3 services, 11 endpoints, 5 nodes: 1 error, 0 warnings; 1 node not verified`."""
    found = totals(report)
    seen = f"{plural(found.services, 'service')}, {plural(found.endpoints, 'endpoint')}, {plural(found.nodes, 'node')}"
    says = f"{plural(found.errors, 'error')}, {plural(found.warnings, 'warning')}"
    missing = []
    nodes = found.nodes - found.nodes_verified
    if nodes:
        missing.append(f"{plural(nodes, 'node')} not verified")
    rest = [item for item in report.unverified if item.node is None]
    if rest or (report.unverified and not nodes):
        count = len(rest) or len(report.unverified)
        missing.append(f"{plural(count, 'other thing' if nodes else 'thing')} not verified")
    if programs := {item.program for item in report.not_judged}:
        missing.append(f"rules of {plural(len(programs), 'other program')} not judged")
    return "; ".join([f"{seen}: {says}", *missing])


# ---- one block for what many nodes share -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Findings that differ in their node alone: a person reads them once."""

    first: Finding
    nodes: tuple[str, ...]
    """Empty for a finding about the cluster as a whole."""
    count: int
    """The largest `count` of them."""


def group_findings(findings: Iterable[Finding]) -> list[Group]:
    """In the order of the report; a group stands where its first finding stood."""
    groups: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
    for f in findings:
        groups[f.code, f.severity, f.service, f.frontend, f.client, f.message, f.heals, f.expected, f.observed].append(f)
    return [
        Group(
            first=same[0],
            nodes=tuple(dict.fromkeys(f.node for f in same if f.node is not None)),
            count=max(f.count for f in same),
        )
        for same in groups.values()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What could not be verified for one reason."""

    code: str
    reason: str
    nodes: tuple[str, ...]
    services: tuple[str, ...]
    evidence: tuple[str, ...]


def group_unverified(items: Iterable[Unverified]) -> list[Doubt]:
    """One for each code and reason, in the order of the report."""
    groups: dict[tuple[str, str], list[Unverified]] = defaultdict(list)
    for item in items:
        groups[item.code, item.reason].append(item)
    return [
        Doubt(
            code=code,
            reason=reason,
            nodes=tuple(dict.fromkeys(item.node for item in same if item.node is not None)),
            services=tuple(dict.fromkeys(item.service for item in same if item.service is not None)),
            evidence=next((item.evidence for item in same if item.evidence), ()),
        )
        for (code, reason), same in groups.items()
    ]


def group_not_judged(items: Iterable[NotJudged]) -> list[Doubt]:
    """One for each program and what it may do, in the order of the report."""
    return group_unverified(
        Unverified(code=item.code, node=item.node, reason=item.message, evidence=item.evidence) for item in items
    )


# ---- Services x nodes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One Service on one node."""

    status: str
    """error, warning, unverified, node (a fault of the node as a whole stands over it), skipped or ok: the worst of all."""
    findings: tuple[Finding, ...] = ()
    unverified: tuple[Unverified, ...] = ()


class Matrix:
    """What each Service looks like on each node.

    A cell is `ok` only when nothing was found there and nothing is in doubt: not for the Service, not for the node.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self._own: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        self._of_node: dict[str, list[Finding]] = defaultdict(list)
        self._everywhere: dict[str, list[Finding]] = defaultdict(list)
        for finding in report.findings:
            if finding.node is None:
                self._everywhere[finding.service or ""].append(finding)
            elif finding.service is None:
                self._of_node[finding.node].append(finding)
            else:
                self._own[finding.service, finding.node].append(finding)
        self._doubts: dict[tuple[str | None, str | None], list[Unverified]] = defaultdict(list)
        for item in report.unverified:
            self._doubts[item.service, item.node].append(item)
        self._wrong = {(service.service, node) for service in report.services for node in service.wrong_on}
        self._untold = {(service.service, node) for service in report.services for node in service.untold_on}
        self._dark = {row.node for row in report.nodes if not row.verified}

    def has_own_error(self, service: str, node: str) -> bool:
        """Whether the Service itself has an error there, so that no fault of the node has to explain what is wrong."""
        return any(f.severity is Severity.ERROR for f in self._own.get((service, node), ()))

    @cached_property
    def faulty_nodes(self) -> tuple[str, ...]:
        """Nodes that have an error as a whole."""
        return tuple(n for n, found in self._of_node.items() if any(f.severity is Severity.ERROR for f in found))

    def of_node(self, node: str) -> Cell:
        """The node as a whole: its own findings and doubts, no Service's."""
        findings = tuple(self._of_node.get(node, ()))
        doubts = tuple(self._doubts.get((None, node), ()))
        return Cell(status=_worst(findings, doubts), findings=findings, unverified=doubts)

    def cell(self, service: ServiceRow, node: str) -> Cell:
        """One Service on one node."""
        if service.skipped:
            return Cell(status="skipped")
        key = (service.service, node)
        findings = (*self._own.get(key, ()), *self._everywhere.get(service.service, ()))
        # A doubt about neither a node nor a Service (something that the API did not show) stands beside the cells: what of
        # them it leaves unverified, the audit has said of each.
        keys = ((service.service, node), (service.service, None), (None, node))
        doubts = tuple(item for at in keys for item in self._doubts.get(at, ()))
        status = _worst(findings, doubts)
        if status in ("ok", "warning") and key in self._wrong:
            status = "error"
        if status == "ok":
            if key in self._untold or self._blind(node):
                status = "unverified"
            elif any(f.severity is not Severity.INFO for f in self._of_node.get(node, ())):
                status = "node"
        return Cell(status=status, findings=findings, unverified=doubts)

    def _blind(self, node: str) -> bool:
        """The node is not verified, and nothing says that this is about other Services alone."""
        return node in self._dark and node not in self._doubted_by_service

    @cached_property
    def _doubted_by_service(self) -> frozenset[str]:
        return frozenset(node for service, node in self._doubts if service is not None and node is not None)


def _worst(findings: Sequence[Finding], doubts: Sequence[Unverified]) -> str:
    if any(f.severity is Severity.ERROR for f in findings):
        return "error"
    if doubts:
        return "unverified"
    return "warning" if any(f.severity is Severity.WARNING for f in findings) else "ok"


# ---- names -----------------------------------------------------------------------------------------------------------


def short_names(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Names without the domain that all have in common, and that domain: `kubworker1.prefetch.net` -> `kubworker1`.

    Labels alone are taken off, so the short names are as different as the long ones. One name stays whole.
    """
    distinct = list(dict.fromkeys(names))
    labels = [name.split(".") for name in distinct]
    shared = 0
    while len(distinct) > 1 and all(len(parts) > shared + 1 for parts in labels):
        if len({parts[-1 - shared] for parts in labels}) > 1:
            break
        shared += 1
    if not shared:
        return {name: name for name in distinct}, ""
    return {name: ".".join(name.split(".")[:-shared]) for name in distinct}, "." + ".".join(labels[0][-shared:])


def common_prefix(names: Sequence[str]) -> str:
    """What all begin with, as far as every name keeps at least one character; cut where a word or a number begins."""
    if len(names) < 2:
        return ""
    low, high = min(names), max(names)
    size = 0
    while size < min(len(low), len(high)) - 1 and low[size] == high[size]:
        size += 1
    size = min(size, min(len(name) for name in names) - 1)
    while size > 0 and any(name[size - 1].isalnum() and name[size - 1].isdigit() == name[size].isdigit() for name in names):
        size -= 1
    return low[:size]
