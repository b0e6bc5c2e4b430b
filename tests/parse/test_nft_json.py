"""`nft -j`: read by key, strict about the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.nft import Decide, Element, Flags, Prefix, Range, SetOf, Unknown
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_syntax import statement
from tests.captured import CAPTURES, capture

NFTABLES = [name for name in CAPTURES if name.endswith("-nftables")]
META = {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}
TABLE = {"table": {"family": "ip", "name": "t", "handle": 1}}
CHAIN = {"chain": {"family": "ip", "table": "t", "name": "c", "handle": 1}}
RULE = {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": [{"drop": None}]}}


def document(*things: dict[str, Any]) -> str:
    return json.dumps({"nftables": [META, *things]}) + "\n"


def small() -> str:
    return document(TABLE, CHAIN, RULE)


def test_a_small_document_is_read() -> None:
    """Tables, chains and rules are found by their names."""
    table = parse_nft_json(small()).tables["ip", "t"]
    assert table.chains["c"].rules[0].statements == (Decide("drop"),)
    assert table.chains["c"].rules[0].text == "drop"


@given(cut=st.integers(min_value=0, max_value=len(small().rstrip()) - 1))
def test_cut_anywhere_it_raises(cut: int) -> None:
    """A document that stops early is never a smaller ruleset."""
    with pytest.raises(ParseError):
        parse_nft_json(small()[:cut])


@pytest.mark.parametrize("name", NFTABLES)
def test_captures_cut_anywhere_raise(name: str) -> None:
    """Nor is a real one, wherever it is cut."""
    file = next(capture(name).glob("nodes/*/nft-ruleset.json"))
    text = file.read_text().rstrip()
    for cut in range(0, len(text), max(1, len(text) // 60)):
        with pytest.raises(ParseError):
            parse_nft_json(text[:cut])
    with pytest.raises(ParseError):
        parse_nft_json(text[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "{}",
        "[]",
        '{"nftables": []}',
        '{"nftables": {}}',
        json.dumps({"nftables": [TABLE]}),
        document(META),
        document({"banana": {}}),
        document({"table": []}),
        document({"table": {"family": "ip"}}),
        document({"table": {"family": "ipx", "name": "t"}}),
        document(TABLE, TABLE),
        document(TABLE, CHAIN, CHAIN),
        document(TABLE, RULE),
        document(RULE),
        document({"set": {"family": "ip", "table": "t", "name": "s", "elem": 7}}),
        document({"map": {"family": "ip", "table": "t", "name": "s", "elem": [1]}}),
        document({"chain": {**CHAIN["chain"], "type": "nat", "hook": "sideways", "prio": 0}}),
        document({"rule": {**RULE["rule"], "expr": None}}),
        small() + "x",
        small() + small(),
        "Error: syntax error\n" + small(),
        json.dumps({"nftables": [{"metainfo": {"json_schema_version": 2}}, TABLE]}),
    ],
)
def test_what_nft_would_not_print_raises(text: str) -> None:
    """Each names a place."""
    with pytest.raises(ParseError) as error:
        parse_nft_json(text)
    assert error.value.what


def elements(printed: list[Any], *, is_map: bool = False) -> tuple[Element, ...]:
    kind = "map" if is_map else "set"
    text = document(TABLE, {kind: {"family": "ip", "table": "t", "name": "s", "type": "x", "elem": printed}})
    return parse_nft_json(text).tables["ip", "t"].sets["s"].elements


def test_elements_are_read_however_they_are_wrapped() -> None:
    """With and without concat and elem, prefixes and ranges, comments and timeouts."""
    assert elements(["10.0.0.1", {"concat": ["10.0.0.1", "tcp", 80]}, {"prefix": {"addr": "10.0.0.0", "len": 8}}]) == (
        Element(("10.0.0.1",)),
        Element(("10.0.0.1", "tcp", 80)),
        Element((Prefix("10.0.0.0", 8),)),
    )
    assert elements([{"range": [1, 9]}, {"elem": {"val": "10.0.0.1", "timeout": 3600, "expires": 12, "comment": "a"}}]) == (
        Element((Range(1, 9),)),
        Element(("10.0.0.1",), None, "a"),
    )
    goto = {"goto": {"target": "x"}}
    wanted = (Element(("tcp", 80), Decide("goto", "x"), "n/s"),)
    assert elements([[{"elem": {"val": {"concat": ["tcp", 80]}, "comment": "n/s"}}, goto]], is_map=True) == wanted
    assert elements([{"elem": {"val": [{"concat": ["tcp", 80]}, goto], "comment": "n/s"}}], is_map=True) == wanted
    assert elements([["*", {"drop": None}]], is_map=True) == (Element(("*",), Decide("drop")),)


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ({"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"meta": {"key": "mark"}}, 16384]}}},
         "meta mark set meta mark | 0x00004000"),
        ({"reject": None}, "reject"),
        ({"reject": {"type": "icmp", "expr": "port-unreachable"}}, "reject"),
        ({"reject": {"type": "tcp reset"}}, "reject with tcp reset"),
        ({"masquerade": None}, "masquerade"),
        ({"masquerade": {"flags": "fully-random"}}, "masquerade fully-random"),
        ({"masquerade": {"flags": ["random", "persistent"]}}, "masquerade random,persistent"),
        ({"dnat": {"family": "ip6", "addr": "fd00::1", "port": 80}}, "dnat ip6 to [fd00::1]:80"),
        ({"redirect": {"port": 8080}}, "redirect to :8080"),
        ({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
         "ct state established,related"),
        ({"match": {"op": "==", "left": {"payload": {"base": "transport", "offset": 16, "len": 16}}, "right": 80}},
         "th dport 80"),
        ({"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": False}},
         "fib saddr . iif oif missing"),
        ({"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@a"}},
         "update @a { ip saddr }"),
        ({"vmap": {"key": {"numgen": {"mode": "random", "mod": 2}}, "data": {"set": [[0, {"drop": None}]]}}},
         "numgen random mod 2 vmap { 0 : drop }"),
        ({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["veth*", "lo"]}}},
         'iifname { "veth*", "lo" }'),
    ],
)  # fmt: skip
def test_statements_read_as_nft_prints_them(printed: dict[str, Any], text: str) -> None:
    """The evidence that a person sees is nft's own spelling."""
    from kubectl_svcroute.model.nft import render_statement

    assert render_statement(statement(printed)) == text


@pytest.mark.parametrize(
    "printed",
    [
        {"banana": 1}, {"xt": None}, "x", {}, {"dnat": {"addr": "1.1.1.1", "banana": 1}}, {"vmap": {"key": 1, "data": 2}},
        {"match": 3},
    ],
)
def test_a_statement_that_is_not_known_is_kept_as_unknown(printed: Any) -> None:
    """It is never left out, and never raises: the walk says what follows from it."""
    assert isinstance(statement(printed), Unknown)


def test_names_of_bits_are_flags_in_every_form() -> None:
    """A list, or an or of names."""
    from kubectl_svcroute.parse.nft_syntax import expression

    assert expression(["fin", "syn"]) == expression({"|": ["fin", "syn"]}) == Flags(("fin", "syn"))
    assert isinstance(expression({"set": [1, {"range": [2, 3]}]}), SetOf)


@pytest.mark.parametrize("name", NFTABLES)
def test_everything_in_the_captures_is_understood(name: str) -> None:
    """No statement of kube-proxy's is Unknown, and each rule reads as nft printed it."""
    for file in sorted(capture(name).glob("nodes/*/nft-ruleset.json")):
        lines = {line.strip() for line in file.with_suffix(".txt").read_text().splitlines()}
        for table in parse_nft_json(file.read_text()).tables.values():
            for chain in table.chains.values():
                for rule in chain.rules:
                    assert rule.text in lines
