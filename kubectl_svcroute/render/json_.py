"""JSON, as design.md 6.2 and data/report.schema.json have it. Fields are added, never renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..model.flow import ProbeRow
from ..model.report import EndpointRow, Finding, NodeRow, Report, ServiceRow, Unverified
from . import RenderOptions
from .text import json_safe
from .view import totals

API_VERSION = "svcroute/v1"
KIND = "RouteReport"


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


def service_of(row: ServiceRow) -> dict[str, Any]:
    """One Service."""
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
        "endpoints": [endpoint_of(endpoint) for endpoint in row.endpoints],
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
        # Seven digits are more than kube-proxy writes, and keep the noise of sums of floats out.
        "share": {node: None if share is None else round(share, 7) for node, share in row.share.items()},
        "wrong": sorted(row.wrong),
    }


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
    yield "services", map(service_of, report.services)
    yield "nodes", map(node_of, report.nodes)
    if report.probes:
        yield "probes", map(probe_of, report.probes)


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as JSON, indented, list entry by list entry; of the many endpoints each is one line."""
    encode = json.JSONEncoder(indent=2, ensure_ascii=options.ascii_only).encode
    flat = json.JSONEncoder(ensure_ascii=options.ascii_only).encode
    yield json_safe(encode(envelope(report))).removesuffix("\n}")
    for name, entries in lists(report):
        yield f',\n  "{name}": ['
        comma = ""
        for entry in entries:
            endpoints = entry.get("endpoints")
            text = encode({**entry, "endpoints": []} if endpoints else entry).replace("\n", "\n    ")
            if endpoints:
                # In a string a quote is never bare, so these words stand only between two endpoints.
                lines = flat(endpoints).replace('}, {"pod": ', '},\n        {"pod": ')
                text = text.replace('"endpoints": []', f'"endpoints": [\n        {lines[1:-1]}\n      ]', 1)
            yield comma + "\n    " + json_safe(text)
            comma = ","
        yield "\n  ]" if comma else "]"
    if report.shard is not None:
        from .shard import shard_of  # noqa: PLC0415 - of the few reports that are parts

        yield ',\n  "shard": ' + json_safe(encode(shard_of(report.shard))).replace("\n", "\n  ")
    yield "\n}\n"
