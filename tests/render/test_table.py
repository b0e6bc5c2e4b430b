"""What a person sees keeps to the terminal's width, shows where the fault is, and has words beside every colour."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE, made, of_capture

from kubectl_svcroute.model.report import Report
from kubectl_svcroute.render import RenderOptions, render, table
from kubectl_svcroute.render.page import render_page
from kubectl_svcroute.render.text import StandIns, clean, to_ascii, width, wrap

SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


def options(columns: int = 80, *, color: bool = False, ascii_only: bool = False, no_headers: bool = False) -> RenderOptions:
    return RenderOptions(width=columns, color=color, no_headers=no_headers, ascii_only=ascii_only)


CASES: dict[str, tuple[Report, str, RenderOptions]] = {
    "five-80": (made(dark=1), "table", options()),
    "five-200": (made(dark=1), "table", options(200)),
    "ascii": (made(dark=1), "table", options(ascii_only=True)),
    "one-node-one-endpoint": (made(nodes=1, endpoints=1, wrong=0), "table", options()),
    "nodes-200": (made(nodes=200, wrong=12, dark=3), "table", options()),
    "endpoints-300": (made(endpoints=300), "table", options()),
    "cjk": (made(name="日本語サービス", dark=1), "table", options()),
    "ipv6": (made(ipv6=True), "table", options()),
    "hostile": (made(nodes=3, text=HOSTILE, dark=1), "table", options()),
    "many-services": (made(nodes=200, services=4, wrong=12, dark=3), "table", options()),
}


@pytest.mark.parametrize("name", CASES)
def test_lines_fit_the_terminal_and_end_without_blanks(name: str) -> None:
    report, fmt, how = CASES[name]
    text = render(report, fmt, how)
    assert not [line for line in text.split("\n") if line != line.rstrip()]
    assert "\n\n\n" not in text
    if name != "hostile":  # a pod's name that is longer than the terminal stays whole
        assert max(map(width, text.split("\n"))) <= how.width


def test_the_fault_of_a_real_cluster_shows_where_it_is() -> None:
    """One Service, one node that misses one endpoint: the cell, the code, the node, what traffic feels."""
    text = render(of_capture("v1.36-iptables-nft", "missing-endpoint", "default/kuard"), "table", options())
    row = next(line for line in text.split("\n") if line.startswith("10.244.2.2:8080") and "✗" in line)
    assert row.split() == ["10.244.2.2:8080", "20%", "20%", "0%", "✗", "20%", "20%"]
    assert "KUBE-SERVICES → KUBE-SVC-KONBHUEJ3TRSITPT → KUBE-SEP-…" in text
    assert "ERROR SR201 backend-missing   node kubworker3.prefetch.net, default/kuard" in text
    assert "explain SR201 says more" in text


@pytest.mark.parametrize("report", [made(dark=1), made(nodes=40, wrong=3, dark=2), made(services=3, dark=1)])
def test_colour_comes_on_top_and_changes_no_word(report: Report) -> None:
    plain = render(report, "table", options())
    colored = render(report, "table", options(color=True))
    assert "\x1b[" not in plain
    assert colored != plain
    assert SEQUENCE.sub("", colored) == plain


def test_tables_need_no_more_than_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """tabulate measures with wcwidth where that is there, which no user has to have: both must look the same."""
    import tabulate

    monkeypatch.setattr(table, "SMALL", 0)
    with_it = render(CASES["cjk"][0], "table", options())
    monkeypatch.setattr(tabulate, "wcwidth", None, raising=False)
    monkeypatch.setattr(tabulate, "WIDE_CHARS_MODE", False, raising=False)
    assert render(CASES["cjk"][0], "table", options()) == with_it


_ODD = ["", " led", "日本 語", "e\u0301x", "\x1b[31;1m0% ✗\x1b[0m", "\u3000wide\u3000", "각", "12", "1e3", "0x1f"]
_CELLS = st.one_of(
    # An accent without a letter under it is nothing that tabulate can be told the width of, and no name begins with one.
    st.text(st.characters(exclude_categories=["Cs", "Mn", "Me"]), max_size=12).map(clean).filter(lambda t: all(map(width, t))),
    st.sampled_from(_ODD),
)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(_CELLS, min_size=n, max_size=n), min_size=1, max_size=9)))
def test_a_small_table_has_the_lines_that_tabulate_makes(rows: list[list[str]]) -> None:
    """Few rows are padded without it: line by line the same, whatever stands in the cells."""
    assert [line.rstrip() for line in table.padded(rows)] == [line.rstrip() for line in table.tabulated(rows)]


@pytest.mark.parametrize("name", CASES)
def test_small_tables_look_as_large_ones_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole report is the same, whoever lays out its tables."""
    report, fmt, how = CASES[name]
    monkeypatch.setattr(table, "SMALL", 0)
    with_tabulate = render(report, fmt, how)
    monkeypatch.setattr(table, "SMALL", 1 << 30)
    assert render(report, fmt, how) == with_tabulate


@pytest.mark.parametrize(
    ("text", "columns"), [("", 0), ("abc", 3), ("日本", 4), ("e\u0301", 1), ("\x1b[31;1mab\x1b[0m", 2), ("✗", 1), ("각", 2)]
)
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize("text", ["", "ascii", "日本語", "e\u0301x", "\x1b[31;1m日\x1b[0m ✗", "日日e\u0301日"])
def test_stand_ins_have_the_length_of_what_they_stand_for(text: str) -> None:
    names = StandIns()
    put = names.put(text)
    assert len(SEQUENCE.sub("", put)) == width(text)
    assert names.back(put) == text


def test_clean_leaves_nothing_that_moves_or_hides() -> None:
    assert clean(HOSTILE).isprintable()
    assert clean("日本 naïve ✗") == "日本 naïve ✗"
    assert to_ascii("✗ 日 → …") == "X \\u65e5 -> ..."


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_wrapping_loses_nothing(columns: int) -> None:
    text = "-A KUBE-SVC-KONBHUEJ3TRSITPT -m comment --comment 日本語日本語日本語日本語日本語日本語 " + "x" * 100
    lines = wrap(text, columns, indent="  ")
    assert all(width(line) <= columns for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_page_is_wrapped_and_its_code_is_not() -> None:
    command = "kubectl get endpointslices -n shop -l kubernetes.io/service-name=kuard -o yaml"
    page = f"# SR201 backend-missing\n\n{'many words ' * 30}\n\n- an item\n- {'b ' * 60}\n\n```sh\n{command}\n```\n"
    text = render_page(page, color=False, columns=60)
    assert f"    {command}\n" in text
    assert all(width(line) <= 60 for line in text.split("\n") if command not in line)
    assert SEQUENCE.sub("", render_page("**bold** words\n", color=True)) == "bold words\n"
    assert "\x1b[2J" not in render_page("a \x1b[2J b\n\n```\n\x1b[2J\n```\n", color=False)
