"""What all formats for people share: the cells of Services by nodes, short names, groups, numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import made
from samples import everything

from kubectl_svcroute.model.report import Report, Unverified
from kubectl_svcroute.render import summary_line
from kubectl_svcroute.render.text import clean, is_unsafe, json_safe, listed, percent, width, wrap
from kubectl_svcroute.render.view import Matrix, common_prefix, group_findings, short_names


def test_a_cell_is_right_only_where_nothing_was_found_and_nothing_is_in_doubt() -> None:
    """Errors, doubts, warnings, faults of the node and Services with nothing to verify each show as what they are."""
    report = everything()
    matrix = Matrix(
        Report(findings=report.findings, unverified=report.unverified[1:], services=report.services, nodes=report.nodes)
    )
    dns, web, db = report.services
    one, two, three, four = (row.node for row in report.nodes)
    assert [matrix.cell(dns, node).status for node in (one, two, three, four)] == ["warning", "node", "error", "unverified"]
    assert [matrix.cell(web, node).status for node in (one, two, three, four)] == ["ok", "node", "ok", "unverified"]
    assert {matrix.cell(db, node).status for node in (one, two, three, four)} == {"skipped"}
    assert [matrix.of_node(node).status for node in (one, two, three, four)] == ["ok", "error", "ok", "unverified"]


def test_a_doubt_about_the_whole_cluster_is_nobodys_cell() -> None:
    """What the API did not show stands by itself in every format: the audit says which cells it leaves unverified."""
    from xml.etree import ElementTree

    from kubectl_svcroute.render import render

    base = made(wrong=0)
    doubt = Unverified(code="SR907", node=None, reason="cannot list daemonsets")
    report = Report(findings=(), unverified=(doubt,), services=base.services, nodes=base.nodes)
    matrix = Matrix(report)
    assert {matrix.cell(base.services[0], row.node).status for row in base.nodes} == {"ok"}
    assert ElementTree.fromstring(render(report, "junit")).attrib["errors"] == "1"
    assert "cannot list daemonsets" in render(report, "table")


def test_a_doubt_about_one_service_leaves_the_others_right() -> None:
    """A rule that is not understood on the way to one Service says nothing about another."""
    base = made(services=2, wrong=0)
    node = base.nodes[0].node
    doubt = Unverified(code="SR903", node=node, service=base.services[0].service, reason="an unknown match")
    rows = tuple(
        type(row)(node=row.node, verified=row.node != node, mode="iptables", version="1.36", via="ssh") for row in base.nodes
    )
    matrix = Matrix(Report(findings=(), unverified=(doubt,), services=base.services, nodes=rows))
    assert [matrix.cell(service, node).status for service in base.services] == ["unverified", "ok"]


@pytest.mark.parametrize(
    ("names", "short", "domain"),
    [
        (["kubworker1.prefetch.net", "kubworker2.prefetch.net"], ["kubworker1", "kubworker2"], ".prefetch.net"),
        (["a.x.net", "a.y.net"], ["a.x", "a.y"], ".net"),
        (["a.net", "net"], ["a.net", "net"], ""),
        (["one.net"], ["one.net"], ""),
        (["a", "b"], ["a", "b"], ""),
        ([], [], ""),
    ],
)
def test_names_lose_the_domain_that_all_share(names: list[str], short: list[str], domain: str) -> None:
    """Whole labels go, never the first one, and a name alone stays whole."""
    found, cut = short_names(names)
    assert [found[name] for name in names] == short
    assert cut == domain


_LABELS = st.lists(st.sampled_from(("a", "b", "c", "n1", "n12")), min_size=1, max_size=4)


@given(st.lists(_LABELS.map(".".join), unique=True, max_size=8))
def test_short_names_stay_different(names: list[str]) -> None:
    """Shortening is one to one, and the domain brings the name back."""
    found, cut = short_names(names)
    assert len(set(found.values())) == len(names)
    assert all(short + cut == name for name, short in found.items())


@given(st.lists(st.from_regex(r"[ab1]{1,3}-?[ab12]{1,4}", fullmatch=True), unique=True, min_size=2, max_size=8))
def test_a_common_prefix_leaves_something_of_every_name(names: list[str]) -> None:
    """It is a prefix of all, none is empty without it, and no number is cut in two."""
    prefix = common_prefix(names)
    rests = [name.removeprefix(prefix) for name in names]
    assert all(name.startswith(prefix) for name in names)
    assert all(rests)
    assert not (prefix[-1:].isdigit() and any(rest[0].isdigit() for rest in rests))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.2, "20%"), (1.0, "100%"), (0.0, "0%"), (1 / 3, "33.3%"), (1 / 300, "0.33%"), (1e-6, "<0.01%"), (0.99996, "99.9%"),
     (0.20000000019, "20%"), (0.0625, "6.25%")],
)  # fmt: skip
def test_shares_are_said_without_noise_and_never_rounded_to_all_or_nothing(share: float, text: str) -> None:
    """100% and 0% only when it is that; the kernel's own rounding does not show."""
    assert percent(share) == text


def test_a_list_says_how_many_it_leaves_out() -> None:
    """Nothing goes missing without a number; one more is shown rather than counted."""
    assert listed("abc", 2) == "a, b, c"
    assert listed("abcd", 2) == "a, b and 2 more"


@given(st.text(), st.integers(16, 60))
def test_wrapped_text_is_whole_and_fits(text: str, columns: int) -> None:
    """Wrapping moves spaces and nothing else, and no line is wider than asked for."""
    lines = wrap(clean(text), columns)
    assert "".join(lines).replace(" ", "") == clean(text).replace(" ", "")
    assert all(width(line) <= columns for line in lines)


@given(st.text(st.characters(exclude_categories=[])))
def test_json_keeps_its_meaning_when_made_safe(text: str) -> None:
    """Escapes stand for the same characters, and nothing is left that a terminal would obey."""
    import json

    safe = json_safe(json.dumps({"key": text}, ensure_ascii=False))
    assert json.loads(safe) == {"key": text}
    assert not is_unsafe(safe)


def test_findings_that_differ_in_their_node_alone_are_one_block() -> None:
    """Two hundred nodes with the same fault are read once, with all their names."""
    (group,) = group_findings(made(nodes=200, wrong=200).findings)
    assert len(group.nodes) == 200


def test_the_summary_counts_what_is_not_verified_apart_from_nodes() -> None:
    """A doubt that is no node's is said as well, whether all nodes were verified or not."""
    assert summary_line(everything()) == (
        "3 services, 5 endpoints, 4 nodes: 2 errors, 1 warning; 1 node not verified; 1 other thing not verified;"
        " rules of 1 other program not judged"
    )
    base = made(wrong=0)
    doubt = Unverified(code="SR907", node=None, reason="cannot list nodes")
    partial = Report(findings=(), unverified=(doubt,), services=base.services, nodes=base.nodes)
    assert summary_line(partial) == "1 service, 5 endpoints, 5 nodes: 0 errors, 0 warnings; 1 thing not verified"
