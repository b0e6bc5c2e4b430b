"""JSON, as design.md 6.2 and data/report.schema.json have it. Fields are added, never renamed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from ..fork import in_halves
from ..model.flow import ProbeRow
from ..model.report import EndpointRow, Finding, NodeRow, NotJudged, Report, ServiceRow, Unverified
from . import RenderOptions
from .document import API_VERSION
from .text import json_safe
from .view import totals

KIND = "RouteReport"
_FEW_NODES = 4
"""Up to so many nodes the text of all Services is short enough to be held, and to be sent from a second process."""
_WORTH_HALVING = 1000
"""Services whose text takes longer to make than a second process."""


def envelope(report: Report) -> dict[str, Any]:
    """Everything of a report but its lists."""
    found = totals(report)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "summary": {
            "services": found.services,
            "endpoints": found.endpoints,
            "nodes": found.nodes,
            "nodesVerified": found.nodes_verified,
            "errors": found.errors,
            "warnings": found.warnings,
            "unverified": found.unverified,
            "notJudged": len(report.not_judged),
            "verdict": found.verdict,
        },
        "meta": dict(report.meta),
        "notes": list(report.notes),
    }


def finding_of(finding: Finding) -> dict[str, Any]:
    """One finding."""
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "node": finding.node,
        "service": finding.service,
        "frontend": finding.frontend,
        "client": finding.client,
        "message": finding.message,
        "effect": finding.effect,
        "heals": finding.heals,
        "expected": finding.expected,
        "observed": finding.observed,
        "elsewhere": finding.elsewhere,
        "evidence": list(finding.evidence),
        "count": finding.count,
    }


def unverified_of(item: Unverified) -> dict[str, Any]:
    """One thing that was not verified."""
    return {
        "code": item.code,
        "node": item.node,
        "service": item.service,
        "reason": item.reason,
        "evidence": list(item.evidence),
    }


def not_judged_of(item: NotJudged) -> dict[str, Any]:
    """One program on one node whose rules were not judged."""
    return {
        "code": item.code,
        "node": item.node,
        "program": item.program,
        "effects": list(item.effects),
        "reason": item.reason,
        "evidence": list(item.evidence),
    }


def service_of(row: ServiceRow) -> dict[str, Any]:
    """One Service."""
    return _service(row, [endpoint_of(endpoint) for endpoint in row.endpoints])


def _service(row: ServiceRow, endpoints: Sequence[Any]) -> dict[str, Any]:
    return {
        "service": row.service,
        "type": row.type,
        "clusterIPs": list(row.cluster_ips),
        "ports": list(row.ports),
        "policy": row.policy,
        "skipped": row.skipped or None,
        "nodes": row.nodes,
        "nodesVerified": row.nodes_verified,
        "errors": row.errors,
        "warnings": row.warnings,
        "frontends": list(row.frontends),
        "endpoints": endpoints,
        "evidence": list(row.evidence),
    }


def endpoint_of(row: EndpointRow) -> dict[str, Any]:
    """One endpoint. A share is null where the node was not verified."""
    return {
        "pod": row.pod,
        "address": row.address,
        "port": row.port,
        "node": row.node,
        "ready": row.ready,
        "state": row.state,
        "share": _share_of(row),
        "wrong": sorted(row.wrong),
    }


def _share_of(row: EndpointRow) -> dict[str, float | None]:
    # Seven digits are more than kube-proxy writes, and keep the noise of sums of floats out.
    return {node: None if share is None else round(share, 7) for node, share in row.share.items()}


def node_of(row: NodeRow) -> dict[str, Any]:
    """One node."""
    found: dict[str, Any] = {
        "node": row.node,
        "verified": row.verified,
        "mode": row.mode,
        "version": row.version,
        "via": row.via,
        "errors": row.errors,
        "warnings": row.warnings,
    }
    if row.tracked is not None:
        found["connections"] = {"tracked": row.tracked, "most": row.tracked_most}
    return found


def probe_of(row: ProbeRow) -> dict[str, Any]:
    """What real connections from one place to one frontend came to."""
    return {
        "node": row.node,
        "service": row.service,
        "frontend": row.frontend,
        "from": row.source,
        "expected": row.expected,
        "tool": row.tool,
        "seenBy": row.seen_by or None,
        "dialled": row.dialled,
        "connected": row.connected,
        "refused": row.refused,
        "timedOut": row.timed_out,
        "failed": row.failed,
        "unseen": row.unseen,
        "latency": None if row.latency is None else {"median": round(row.latency[0], 6), "longest": round(row.latency[1], 6)},
        "endpoints": [
            {
                "address": answer.backend,
                "pod": answer.pod,
                "sent": answer.sent,
                "answered": answer.answered,
                "share": None if answer.share is None else round(answer.share, 7),
            }
            for answer in row.answers
        ],
        "packets": list(row.shown),
    }


def lists(report: Report) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """The lists of a report under their names, each made as it is read."""
    yield "findings", map(finding_of, report.findings)
    yield "unverified", map(unverified_of, report.unverified)
    yield "notJudged", map(not_judged_of, report.not_judged)
    yield "services", map(service_of, report.services)
    yield "nodes", map(node_of, report.nodes)
    if report.probes:
        yield "probes", map(probe_of, report.probes)


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as JSON, indented, list entry by list entry; of the many endpoints each is one line."""
    encode = json.JSONEncoder(indent=2, ensure_ascii=options.ascii_only).encode
    writer = _Writer(ascii_only=options.ascii_only)
    yield json_safe(encode(envelope(report))).removesuffix("\n}")
    def text_of(entry: dict[str, Any]) -> str:
        return json_safe(writer.indented(entry, "\n    "))

    def texts_of(rows: Sequence[ServiceRow]) -> list[str]:
        return [text_of(_service(row, list(iter(row.endpoints)))) for row in rows]

    for name, entries in lists(report):
        texts: Iterable[str] = map(text_of, entries)
        if name == "services" and len(report.nodes) <= _FEW_NODES:
            texts = chain.from_iterable(in_halves(texts_of, report.services, least=_WORTH_HALVING))
        elif name == "services":
            texts = (texts_of([row])[0] for row in report.services)
        yield f',\n  "{name}": ['
        comma = ""
        for text in texts:
            yield f"{comma}\n    {text}"
            comma = ","
        yield "\n  ]" if comma else "]"
    if report.shard is not None:
        from .shard import shard_of  # noqa: PLC0415 - of the few reports that are parts

        yield ',\n  "shard": ' + json_safe(encode(shard_of(report.shard))).replace("\n", "\n  ")
    yield "\n}\n"


class _Writer:
    """JSON with a field a line, an item a line, an endpoint a line. What json itself has for that is Python too, and slower."""

    def __init__(self, *, ascii_only: bool) -> None:
        self._whole = json.JSONEncoder(ensure_ascii=ascii_only).encode
        self._quoted = encode_basestring_ascii if ascii_only else encode_basestring
        self._known = cache(self.flat)
        """The same, for what is there many times."""

    def flat(self, value: object) -> str:
        """A value on one line."""
        return self._quoted(value) if isinstance(value, str) else "null" if value is None else self._whole(value)

    def indented(self, value: object, before: str) -> str:
        """A value on lines of its own. `before`: the line break and the blanks that stand before each."""
        if isinstance(value, dict) and value:
            inner = before + "  "
            fields = []
            for name, found in value.items():
                if isinstance(found, str):
                    text = self.flat(found)
                elif name == "endpoints":
                    text = self._endpoints(found, inner)
                else:
                    text = self.indented(found, inner)
                fields.append(f'"{name}": {text}')
            return f"{{{inner}{f',{inner}'.join(fields)}{before}}}"
        if isinstance(value, list) and value:
            inner = before + "  "
            return f"[{inner}{f',{inner}'.join([self.indented(item, inner) for item in value])}{before}]"
        return self.flat(value)

    def _endpoints(self, endpoints: Sequence[Any], before: str) -> str:
        if not endpoints:
            return "[]"
        lines = self._rows(endpoints) if isinstance(endpoints[0], EndpointRow) else map(self.flat, endpoints)
        inner = before + "  "
        return f"[{inner}{f',{inner}'.join(lines)}{before}]"

    def _rows(self, rows: Sequence[EndpointRow]) -> list[str]:
        """What `flat(endpoint_of(row))` gives for each; most of it is common to the rows of a Service, or to all rows."""
        flat, known = self._quoted, self._known
        alike: Mapping[str, float | None] | None = None
        share = ""
        lines = []
        for row in rows:
            if row.share is not alike:
                alike, share = row.share, self._whole(_share_of(row))
            pod = "null" if row.pod is None else flat(row.pod)
            lines.append(
                f'{{"pod": {pod}, "address": {flat(row.address)}, "port": {known(row.port)}, "node": {known(row.node)}, '
                f'"ready": {"true" if row.ready else "false"}, "state": {known(row.state)}, "share": {share}, '
                f'"wrong": {self._whole(sorted(row.wrong)) if row.wrong else "[]"}}}'
            )
        return lines
