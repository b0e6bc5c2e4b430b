"""Formats as their own readers see them: published models and parsers where they are installed, a browser elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from reports import made
from samples import SAMPLES, everything

from kubectl_svcroute.model.report import Report, Severity
from kubectl_svcroute.render import render

EVERY = pytest.mark.parametrize("sample", SAMPLES)


@pytest.mark.parametrize("fmt", ["json", "yaml", "name", "junit", "sarif", "prometheus", "markdown"])
def test_formats_for_programs_do_not_depend_on_the_terminal(fmt: str) -> None:
    """Width, colour and heads change tables alone."""
    from kubectl_svcroute.render import RenderOptions

    assert render(everything(), fmt, RenderOptions(width=40, color=True, no_headers=True)) == render(everything(), fmt)


def test_an_unknown_format_is_an_error() -> None:
    """It is never taken for another one."""
    with pytest.raises(KeyError):
        render(everything(), "xml")


def test_a_format_loads_no_other() -> None:
    """JSON does not wait for YAML, tables and HTML to be imported."""
    code = (
        "import sys; from kubectl_svcroute.render import render\n"
        "from kubectl_svcroute.model.report import Report\n"
        "render(Report(findings=(), unverified=(), services=(), nodes=()), 'json')\n"
        "print(sorted(set(sys.modules) & {'yaml', 'tabulate', 'kubectl_svcroute.render.table', 'kubectl_svcroute.render.html'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- JUnit -----------------------------------------------------------------------------------------------------------

_JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {
    # What Jenkins' schema junit-10 allows, as far as it is used: (required attributes, other attributes, children).
    "testsuites": (set(), {"name", "tests", "failures", "errors", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"skipped", "time", "hostname", "id"}, {"testcase"}),
    "testcase": ({"name"}, {"classname", "time"}, {"failure", "error", "skipped", "system-out"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def junit(report: Report) -> ElementTree.Element:
    root = ElementTree.fromstring(render(report, "junit"))
    for element in root.iter():
        required, others, children = _JUNIT[element.tag]
        assert required <= set(element.attrib) <= required | others, element.tag
        assert {child.tag for child in element} <= children, element.tag
    return root


@EVERY
def test_junit_has_only_what_ci_servers_read(sample: str) -> None:
    """Elements and attributes are those that Jenkins' schema allows."""
    junit(SAMPLES[sample])


def test_junit_never_passes_what_was_not_verified() -> None:
    """On a node that could not be read every Service is an error; a fault of the node fails the node's own case."""
    root = junit(everything())
    cases = {(case.attrib["classname"], case.attrib["name"]): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases["kubworker4.prefetch.net", "(node)"] == ["error"]
    assert cases["kubworker4.prefetch.net", "shop/web"] == ["error"]
    assert cases["kubworker4.prefetch.net", "shop/db"] == ["skipped"]
    assert cases["kubworker2.prefetch.net", "(node)"] == ["failure", "system-out"]
    assert cases["kubworker3.prefetch.net", "kube-system/kube-dns"] == ["failure"]
    assert cases["(cluster)", "(API)"] == ["error"]


def test_junit_has_no_failure_without_an_error() -> None:
    """Warnings and infos alone leave every case passing, with what was found in its output."""
    whole = everything()
    mild = tuple(finding for finding in whole.findings if finding.severity is not Severity.ERROR)
    root = junit(Report(findings=mild, unverified=(), services=whole.services[2:], nodes=whole.nodes[:3]))
    assert root.attrib["failures"] == root.attrib["errors"] == "0"
    assert "nothing jumps to" in (root.findtext(".//system-out") or "")


# ---- SARIF -----------------------------------------------------------------------------------------------------------


def sarif(report: Report) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(render(report, "sarif"))
    return log


@cache
def sarif_schema() -> jsonschema.Draft4Validator:
    """OASIS' schema of SARIF 2.1.0 (rtm.5, as SchemaStore publishes it and editors and GitHub validate with)."""
    schema = json.loads((Path(__file__).parent / "sarif-2.1.0.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)


@EVERY
def test_sarif_fits_its_schema(sample: str) -> None:
    """Valid by the 2.1.0 schema, and no finding and no doubt is left out."""
    log = sarif(SAMPLES[sample])
    assert [error.message for error in sarif_schema().iter_errors(log)] == []
    report = SAMPLES[sample]
    assert len(log["runs"][0]["results"]) == len(report.findings) + len(report.unverified) + len(report.not_judged)
    log["runs"][0]["results"].append({"ruleId": "SR201"})
    assert not sarif_schema().is_valid(log), "a result without a message is none"


@EVERY
def test_sarif_rules_have_the_page_of_the_code_as_help(sample: str) -> None:
    """A dashboard shows what `explain` shows."""
    for rule in sarif(SAMPLES[sample])["runs"][0]["tool"]["driver"]["rules"]:
        assert rule["help"]["markdown"].startswith(f"# {rule['id']} ")
        assert "## What to do" in rule["help"]["markdown"]


def test_sarif_says_that_not_all_was_verified() -> None:
    """A run with doubts was no success, and each doubt is a result and a notification."""
    run = sarif(everything())["runs"][0]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert len(run["invocations"][0]["toolExecutionNotifications"]) == 2
    assert {result["ruleId"] for result in run["results"]} >= {"SR901", "SR907"}


# ---- Prometheus ------------------------------------------------------------------------------------------------------


@EVERY
def test_prometheus_own_parser_reads_the_metrics(sample: str) -> None:
    """Every family parses, and the findings add up."""
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    text = render(SAMPLES[sample], "prometheus")
    families = {family.name: family.samples for family in parser.text_string_to_metric_families(text)}
    assert sum(s.value for s in families["svcroute_findings"]) == len(SAMPLES[sample].findings)
    assert sum(s.value for s in families["svcroute_unverified"]) == len(SAMPLES[sample].unverified)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def test_hostile_text_is_text_in_markdown() -> None:
    """Rendered, nothing of it is markup: no tag but those of the report itself, no link, no image."""
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = [
        inner for token in reader.parse(render(SAMPLES["hostile"], "markdown")) for inner in (token, *(token.children or ()))
    ]
    html = "".join(t.content for t in tokens if t.type in ("html_inline", "html_block"))
    assert set(re.findall(r"<(/?\w+)", html)) <= {"details", "summary", "/summary", "/details"}
    assert not {"link_open", "image"} & {t.type for t in tokens}
    shown = "".join(t.content for t in tokens if t.type in ("text", "code_inline", "fence"))
    assert "<script>alert(1)</script>" in shown


@pytest.mark.parametrize(
    "text",
    [
        "*a* _b_ [c](d) ![e](f)",
        "1. x",
        "- x",
        "# x",
        "a|b",
        "<b>",
        "`x` ``y",
        "a @you #12 http://x.y www.x.y",
        "\\",
        "&amp;",
        "---",
    ],
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    """Whatever is written in a message, a reader sees that."""
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    from kubectl_svcroute.render.markdown import code, plain

    reader = markdown_it.MarkdownIt("commonmark", {"html": True})
    for tokens in (reader.parse(plain(text)), reader.parse(code(text))):
        inner = [t for token in tokens for t in (token.children or ())]
        assert "".join(t.content for t in inner if t.type in ("text", "text_special", "code_inline")) == text


# ---- HTML ------------------------------------------------------------------------------------------------------------


def test_html_asks_nothing_of_the_network_and_may_not_run_anything() -> None:
    """The policy in its head forbids whatever might slip in, and its style fetches nothing."""
    head = render(everything(), "html").partition("<body>")[0]
    assert "default-src 'none'; style-src 'unsafe-inline'" in head
    assert not re.search(r"url\(|@import|https?://", head)


def test_a_big_matrix_begins_with_what_is_wrong() -> None:
    """500 Services by 100 nodes: rows and columns that are not right come first, and the file stays small."""
    text = render(made(nodes=100, services=500, endpoints=2, wrong=1, dark=1), "html")
    rows = text.partition('<table class="matrix">')[2].partition("</table>")[0].split("</tr>")
    heads = re.findall(r'<th scope="col" title="([^"]+)"', rows[0])
    assert len(heads) == 100
    assert heads[:2] == ["worker-000.example.net", "worker-099.example.net"]
    assert len(rows) == 503
    assert len(text) < 4_000_000
