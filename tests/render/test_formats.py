"""Formats for programs and tickets: well-formed whatever a cluster says, and never quieter than the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from reports import HOSTILE, made, of_capture

from kubectl_svcroute.model.report import Finding, Report, Severity
from kubectl_svcroute.render import RENDERERS, RenderOptions, render, summary_line

OPTIONS = RenderOptions(width=80, color=False, no_headers=False, ascii_only=False)
EMPTY = Report(findings=(), unverified=(), services=(), nodes=())
REPORTS = {
    "empty": EMPTY,
    "one": made(nodes=1, endpoints=1, wrong=0),
    "many": made(nodes=200, services=3, wrong=12, dark=3),
    "long": made(endpoints=300),
    "wide": made(name="日本語", dark=1),
    "ipv6": made(ipv6=True),
    "hostile": made(nodes=3, text=HOSTILE, dark=1),
    "hostile-many": made(nodes=3, services=2, text=HOSTILE, dark=1),
}
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]")


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("fmt", RENDERERS)
def test_nothing_of_a_cluster_reaches_a_terminal_as_a_command(fmt: str, report: Report) -> None:
    text = render(report, fmt, OPTIONS)
    assert not UNSAFE.search(text)
    assert text.endswith("\n") or not text
    assert text == render(report, fmt, OPTIONS)
    ascii_text = render(report, fmt, RenderOptions(width=80, color=False, no_headers=False, ascii_only=True))
    assert ascii_text.isascii()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_junit_is_xml_and_counts_right(report: Report) -> None:
    root = ET.fromstring(render(report, "junit", OPTIONS))
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[key]) == sum(case.find(tag) is not None for case in cases)
    assert int(root.attrib["tests"]) == len(root.findall("*/testcase"))


def test_a_node_that_was_not_read_passes_no_junit_case() -> None:
    root = ET.fromstring(render(made(nodes=3, services=2, dark=1, wrong=0), "junit", OPTIONS))
    suite = root.find("testsuite[@name='worker-002.example.net']")
    assert suite is not None
    assert all(case.find("error") is not None for case in suite.findall("testcase"))


def test_a_warning_passes_in_junit_and_is_told() -> None:
    finding = Finding(
        code="SR601",
        name="x",
        severity=Severity.WARNING,
        node="worker-000.example.net",
        service="default/kuard",
        message="unsafe",
    )
    base = made(nodes=1, wrong=0)
    report = Report(findings=(finding,), unverified=(), services=base.services, nodes=base.nodes)
    root = ET.fromstring(render(report, "junit", OPTIONS))
    case = root.find(".//testcase[@name='default/kuard']")
    assert case is not None
    assert case.find("failure") is None
    assert case.find("error") is None
    assert "unsafe" in (case.findtext("system-out") or "")


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_sarif_has_what_code_scanning_asks_for(report: Report) -> None:
    """The rules of SARIF 2.1.0 and of GitHub that bear on what is written here."""
    log = json.loads(render(report, "sarif", OPTIONS))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert len(run["results"]) == len(report.findings) + len(report.unverified) + len(report.not_judged)
    for rule in rules:
        assert rule["help"]["text"]
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert result["level"] in ("note", "warning", "error")
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"(?:[\w.~-]|%[0-9A-F]{2}|/)+", uri)
        assert not uri.startswith("/")
    prints = [json.dumps(result["partialFingerprints"]) for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_levels_follow_severity() -> None:
    levels = {r["level"] for r in json.loads(render(REPORTS["many"], "sarif", OPTIONS))["runs"][0]["results"]}
    assert levels == {"error", "warning"}


class Page(HTMLParser):
    """Tags that were opened, and whether each was closed in its turn."""

    VOID = frozenset({"meta", "br", "hr", "link", "img", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refs: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.refs += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_html_stands_alone_and_leads_only_into_itself(report: Report) -> None:
    page = Page()
    page.feed(render(report, "html", OPTIONS))
    page.close()
    assert not page.open
    assert not {"script", "iframe", "img", "link", "object", "embed", "form"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert len(set(page.ids)) == len(page.ids)
    assert all(ref.startswith("#") and ref[1:] in page.ids for ref in page.refs)


_LABEL = r'\w+="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"[a-z_]+(?:\{{{_LABEL}(?:,{_LABEL})*\}})? -?\d+(?:\.\d+)?")


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_prometheus_reads_every_line_and_sees_no_sample_twice(report: Report) -> None:
    lines = render(report, "prometheus", OPTIONS).splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(_SAMPLE.fullmatch(line) for line in samples)
    series = [line.rpartition(" ")[0] for line in samples]
    assert len(set(series)) == len(series)
    assert f"svcroute_verified {int(not report.unverified)}" in samples


def test_markdown_keeps_foreign_text_out_of_its_markup() -> None:
    lines = render(REPORTS["hostile-many"], "markdown", OPTIONS).splitlines()
    outside, fence = [], ""
    for line in lines:
        if not fence and (opened := re.match("`{3,}", line)):
            fence = opened[0]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line))
    assert not fence
    tags = set(re.findall(r"(?<!\\)<[^>]*>", "\n".join(outside)))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>", "<!-- -->"}
    rows = [line for line in lines if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_name_lists_every_service_that_was_audited() -> None:
    assert render(made(services=3), "name", OPTIONS) == "service/kuard0\nservice/kuard1\nservice/kuard2\n"


def test_summary_says_what_was_not_verified() -> None:
    assert summary_line(made(wrong=0)) == "1 service, 5 endpoints, 5 nodes: 0 errors, 0 warnings"
    assert summary_line(made(dark=1)) == "1 service, 5 endpoints, 5 nodes: 1 error, 0 warnings; 1 node not verified"


@pytest.mark.parametrize("fmt", RENDERERS)
def test_a_real_report_goes_into_every_format(fmt: str) -> None:
    text = render(of_capture("v1.36-iptables-nft", "missing-endpoint"), fmt, OPTIONS)
    assert text.isprintable() or not UNSAFE.search(text)
    assert "kuard" in text or fmt == "shard"  # of a whole cluster it has nothing
