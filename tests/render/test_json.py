"""JSON and YAML: the published schema holds for every report, and both say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from captured import CAPTURES, faults
from reports import HOSTILE, made, of_capture

import kubectl_svcroute
from kubectl_svcroute.model.report import Report
from kubectl_svcroute.render import RenderOptions, json_, render
from kubectl_svcroute.render.text import json_safe

SCHEMA: dict[str, Any] = json.loads((Path(kubectl_svcroute.__file__).parent / "data" / "report.schema.json").read_text())
OPTIONS = RenderOptions(width=80, color=False, no_headers=False, ascii_only=False)
ASCII = RenderOptions(width=80, color=False, no_headers=False, ascii_only=True)


def strict(schema: Any) -> Any:
    """The schema with no other fields allowed: readers must bear new ones, this test must not."""
    if isinstance(schema, dict):
        closed = {key: strict(value) for key, value in schema.items()}
        return {**closed, "additionalProperties": False} if "properties" in closed and "type" in closed else closed
    return [strict(value) for value in schema] if isinstance(schema, list) else schema


def check(report: Report) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(report, "json", OPTIONS))
    jsonschema.Draft202012Validator(strict(SCHEMA)).validate(document)
    return document


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", CAPTURES)
def test_real_reports_keep_to_the_schema(name: str) -> None:
    check(of_capture(name))
    for fault in faults(name)[:1]:
        document = check(of_capture(name, fault))
        # Which of the two is the audit's business; that a fault never looks like a clean report is everybody's.
        assert document["findings"] or document["unverified"]
        assert document["summary"]["errors"] == sum(f["severity"] == "error" for f in document["findings"])


@pytest.mark.parametrize(
    "report",
    [
        made(),
        made(nodes=1, endpoints=1, wrong=0),
        made(nodes=60, endpoints=3, wrong=12, dark=3),
        made(nodes=2, endpoints=300),
        made(text=HOSTILE, dark=1),
        made(name="日本語"),
        Report(findings=(), unverified=(), services=(), nodes=()),
    ],
)
def test_made_reports_keep_to_the_schema_and_yaml_says_the_same(report: Report) -> None:
    document = check(report)
    assert yaml.safe_load(render(report, "yaml", OPTIONS)) == document
    for fmt, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        text = render(report, fmt, ASCII)
        assert text.isascii()
        assert load(text) == document


def test_lists_come_with_their_lengths() -> None:
    """What the summary counts is what the lists hold."""
    document = check(made(nodes=7, services=3, wrong=2, dark=2))
    assert document["summary"] == {
        "services": 3, "endpoints": 15, "nodes": 7, "nodesVerified": 5,
        "errors": 2, "warnings": 0, "unverified": 2, "notJudged": 0, "verdict": "failed",
    }  # fmt: skip
    assert len(document["services"]) == 3
    assert len(document["unverified"]) == 2


def test_a_share_is_null_where_it_is_not_known() -> None:
    document = check(made(nodes=2, dark=1, wrong=0))
    assert document["services"][0]["endpoints"][0]["share"] == {"worker-000.example.net": 0.2, "worker-001.example.net": None}


def as_json_has_it(report: Report, how: RenderOptions) -> str:
    """The same document by json's own encoder: indented by two, but for endpoints, of which each is one line."""
    document = {**json_.envelope(report), **{name: list(entries) for name, entries in json_.lists(report)}}
    flat = json.JSONEncoder(ensure_ascii=how.ascii_only).encode
    lines: dict[str, str] = {}
    for entry in (*document["services"], *document.get("probes", ())):
        for n, endpoint in enumerate(entry["endpoints"]):
            mark = f"endpoint {len(lines)}"
            lines[json.dumps(mark)] = flat(endpoint)
            entry["endpoints"][n] = mark
    text = json.dumps(document, indent=2, ensure_ascii=how.ascii_only) + "\n"
    return re.sub(r'"endpoint \d+"', lambda found: lines[found[0]], text)


@pytest.mark.parametrize("how", [OPTIONS, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize(
    "report",
    [
        made(),
        made(nodes=3, endpoints=2, wrong=2, dark=1),
        made(nodes=2, services=3, endpoints=5, text=HOSTILE, dark=1),
        made(endpoints=0),
        made(name="日本語"),
        of_capture("v1.36-iptables-nft"),
        of_capture("v1.31-nftables", faults("v1.31-nftables")[0]),
    ],
)
def test_the_text_is_what_json_would_print(report: Report, how: RenderOptions) -> None:
    assert render(report, "json", how) == json_safe(as_json_has_it(report, how))
