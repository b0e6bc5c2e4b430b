"""Metrics for node_exporter's textfile collector, so that a nightly audit can alert.

Gauges, as a report is a state and not a count over time. When it was written is told by `node_textfile_mtime_seconds`. An
alert on `svcroute_verified < 1` is as needed as one on `svcroute_findings > 0`: a report that saw nothing found nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ..model.report import Report
from . import RenderOptions
from .codes import label_of
from .text import clean, to_ascii
from .view import endpoint_counts, totals

Samples = Iterable[tuple[Mapping[str, str], int]]
VERDICTS = ("passed", "warned", "unverified", "failed")


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as metrics, family by family."""
    for name, help_text, samples in _families(report):
        yield f"# HELP svcroute_{name} {help_text}\n# TYPE svcroute_{name} gauge\n"
        for labels, value in samples:
            inside = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
            line = f"svcroute_{name}{'{' + inside + '}' if inside else ''} {value}\n"
            yield to_ascii(line) if options.ascii_only else line


def _families(report: Report) -> Iterator[tuple[str, str, Samples]]:
    found = totals(report)
    yield "services", "Services that were looked at.", [({}, found.services)]
    yield "endpoints", "Endpoints of these Services.", [({}, found.endpoints)]
    yield "nodes", "Nodes that were asked about.", [({}, found.nodes)]
    yield "nodes_verified", "Nodes of which every Service asked for was verified.", [({}, found.nodes_verified)]
    yield "verified", "1 when everything asked for was verified.", [({}, int(not report.unverified))]
    yield "verdict", "1 for the verdict of the report.", [({"verdict": v}, int(v == found.verdict)) for v in VERDICTS]
    severities = Counter(f.severity.value for f in report.findings)
    yield (
        "findings_by_severity",
        "Findings of each severity.",
        [({"severity": s}, severities[s]) for s in ("error", "warning", "info")],
    )
    yield "findings", "Findings by code, node and Service; the Service is empty for a fault of the node.", _findings(report)
    yield "unverified", "What could not be verified, by reason, node and Service; empty labels mean all.", _unverified(report)
    yield (
        "not_judged",
        "1 for another program on a node whose rules can disturb traffic of Services and were not judged.",
        [({"node": item.node, "program": item.program, "effects": ",".join(item.effects)}, 1) for item in report.not_judged],
    )
    by_node = [({"node": row.node}, row) for row in report.nodes]
    info = [({**labels, "mode": row.mode, "version": row.version}, 1) for labels, row in by_node]
    yield "node_info", "How kube-proxy runs on the node.", info
    yield (
        "node_verified",
        "1 when every Service asked for was verified on the node.",
        [(node, int(row.verified)) for node, row in by_node],
    )
    audited = [row for row in report.services if not row.skipped]
    yield (
        "service_nodes_verified",
        "Nodes on which the Service was verified.",
        [(_service(row.service), row.nodes_verified) for row in audited],
    )
    yield (
        "service_errors",
        "Error findings of the Service; faults of a node as a whole are not among them.",
        [(_service(row.service), row.errors) for row in audited],
    )
    yield (
        "service_endpoints_ready",
        "Ready endpoints of the Service, as the API has them.",
        [(_service(row.service), endpoint_counts(row)[0]) for row in audited],
    )


def _service(key: str | None) -> dict[str, str]:
    namespace, _, name = (key or "").rpartition("/")
    return {"namespace": namespace, "service": name}


def _findings(report: Report) -> Samples:
    counted = Counter((f.code, f.name, f.severity.value, f.node or "", f.service) for f in report.findings)
    for (code, name, severity, node, service), count in counted.items():
        yield {"code": code, "name": name, "severity": severity, "node": node, **_service(service)}, count


def _unverified(report: Report) -> Samples:
    counted = Counter((item.code, item.node or "", item.service) for item in report.unverified)
    for (code, node, service), count in counted.items():
        yield {"code": code, "name": label_of(code).partition(" ")[2], "node": node, **_service(service)}, count


def _label(text: str) -> str:
    return clean(text).replace("\\", "\\\\").replace('"', '\\"')
