"""SARIF 2.1.0, for code-scanning dashboards: a rule for each code, a result for each finding and each doubt.

A cluster has no files, and GitHub takes no result without one: each result points at a made-up path of node and Service,
which is the same on every run, so that an alert is recognised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from ..model.report import Finding, NotJudged, Report, Severity, Unverified
from . import RenderOptions
from .codes import page_of
from .text import clean, json_safe

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as one SARIF log with one run."""
    results = [*map(_finding, report.findings), *map(_doubt, report.unverified), *map(_not_judged, report.not_judged)]
    codes = sorted({result["ruleId"] for result in results})
    index = {code: n for n, code in enumerate(codes)}
    seen: dict[str, int] = {}
    for result in results:
        result["ruleIndex"] = index[result["ruleId"]]
        print_ = result["partialFingerprints"]["svcroute/v1"]
        seen[print_] = seen.get(print_, 0) + 1
        # Two findings of one code at one place differ by their message alone: count them, or dashboards merge them.
        result["partialFingerprints"]["primaryLocationLineHash"] = f"{print_[:16]}:{seen[print_]}"
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {**_driver(), "rules": [_rule(code, report) for code in codes]}},
                "automationDetails": {"id": "svcroute/"},
                "invocations": [
                    {
                        "executionSuccessful": not report.unverified,
                        "toolExecutionNotifications": [_notification(item) for item in report.unverified],
                    }
                ],
                "columnKind": "unicodeCodePoints",
                "results": results,
                "properties": {"verdict": report.verdict, "notes": [clean(note) for note in report.notes]},
            }
        ],
    }
    yield json_safe(json.dumps(log, indent=2, ensure_ascii=options.ascii_only)) + "\n"


def _driver() -> dict[str, Any]:
    from .. import __version__  # noqa: PLC0415

    return {
        "name": "kubectl-svcroute",
        "version": __version__,
        "informationUri": "https://github.com/kubectl-svcroute/kubectl-svcroute",
    }


def _rule(code: str, report: Report) -> dict[str, Any]:
    page = page_of(code)
    first = next((f for f in report.findings if f.code == code), None)
    others = any(item.code == code for item in report.not_judged)
    name = page.name or (first.name if first else code)
    text = page.markdown or name
    return {
        "id": code,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "shortDescription": {"text": page.title or name},
        "fullDescription": {"text": page.title or name},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": _LEVELS[first.severity] if first else "note" if others else "warning"},
        "properties": {"tags": ["kube-proxy", name]},
    }


def _location(node: str | None, service: str | None) -> dict[str, Any]:
    parts = ["nodes", node] if node else ["cluster"]
    if service:
        parts += ["services", *service.split("/")]
    # A trailing name that no node or Service can bear keeps a node apart from a folder of its Services.
    uri = "/".join(quote(_utf8(part), safe="") for part in parts) + "/kube-proxy-rules"
    logical = (
        [{"name": clean(service), "kind": "resource", "fullyQualifiedName": clean(f"{node or 'cluster'}/{service}")}]
        if service
        else []
    )
    if node:
        logical.append({"name": clean(node), "kind": "resource", "fullyQualifiedName": clean(node)})
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}
    if logical:
        location["logicalLocations"] = logical
    return location


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _fingerprint(*parts: str | None) -> dict[str, str]:
    return {"svcroute/v1": sha256("\0".join(part or "" for part in parts).encode("utf-8", "backslashreplace")).hexdigest()}


def _finding(finding: Finding) -> dict[str, Any]:
    where = ", ".join(part for part in (finding.node, finding.service) if part)
    sentences = [f"{where}: {finding.message}" if where else finding.message]
    sentences += [text for text in (finding.effect, finding.heals, finding.elsewhere) if text]
    return {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": {"text": ". ".join(clean(text) for text in sentences)},
        "locations": [_location(finding.node, finding.service)],
        "partialFingerprints": _fingerprint(finding.code, finding.node, finding.service, finding.frontend, finding.client),
        "properties": {
            "frontend": finding.frontend,
            "client": finding.client,
            "expected": finding.expected,
            "observed": finding.observed,
            "evidence": list(finding.evidence),
            "count": finding.count,
        },
    }


def _doubt(item: Unverified) -> dict[str, Any]:
    where = ", ".join(part for part in (item.node, item.service) if part)
    text = f"{where}: not verified: {item.reason}" if where else f"not verified: {item.reason}"
    return {
        "ruleId": item.code,
        "level": "warning",
        "message": {"text": clean(text)},
        "locations": [_location(item.node, item.service)],
        "partialFingerprints": _fingerprint(item.code, item.node, item.service),
        "properties": {"evidence": list(item.evidence)},
    }


def _not_judged(item: NotJudged) -> dict[str, Any]:
    return {
        "ruleId": item.code,
        "level": "note",
        "message": {"text": clean(f"{item.node}: {item.message}")},
        "locations": [_location(item.node, None)],
        "partialFingerprints": _fingerprint(item.code, item.node, item.program),
        "properties": {"program": item.program, "effects": list(item.effects), "evidence": list(item.evidence)},
    }


def _notification(item: Unverified) -> dict[str, Any]:
    where = ", ".join(part for part in (item.node, item.service) if part)
    return {
        "level": "error",
        "descriptor": {"id": item.code},
        "message": {"text": clean(f"{where}: {item.reason}" if where else item.reason)},
    }
