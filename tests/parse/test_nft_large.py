"""The fast way through a large document gives what the precise one gives, or leaves it to that one."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pytest

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.nft import Decide, LazyChains, NftRules
from kubectl_svcroute.model.nft_elements import ADDRESS4, ADDRESS6, NUMBER, PROTOCOL, PlainElements
from kubectl_svcroute.parse import nft_json
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_json_fast import read_large
from tests.captured import CAPTURES, capture
from tests.parse.test_nft_json import CHAIN, RULE, TABLE, document
from tests.test_twins import edited_nft, snapshot

NFTABLES = [name for name in CAPTURES if name.endswith("-nftables")]


def precise(text: str) -> NftRules | None:
    """What the precise reader says; None where it raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nft_json, "LARGE", sys.maxsize)
        try:
            return parse_nft_json(text)
        except ParseError:
            return None


def texts(name: str) -> list[str]:
    if name in CAPTURES:
        return [file.read_text() for file in sorted(capture(name).glob("nodes/*/nft-ruleset.json"))]
    dumps = [handle.read() for handle in snapshot(name).nodes]
    return [dump.files["nft-ruleset.json"] for dump in dumps if hasattr(dump, "files")]


def same(a: NftRules, b: NftRules) -> bool:
    """Equal, and in the same order wherever that means something."""
    order = [[(list(t.tables), [(list(x.chains), x.based, list(x.sets)) for x in t.tables.values()])] for t in (a, b)]
    return a == b and order[0] == order[1]


@pytest.mark.parametrize("name", [*NFTABLES, "made-nftables"])
def test_it_reads_what_nft_prints(name: str) -> None:
    """Real rulesets are read this way, and come out as they do the other way."""
    for text in texts(name):
        found = read_large(text)
        expected = precise(text)
        assert found is not None
        assert expected is not None
        assert same(found, expected)
        table = found.tables["ip", "kube-proxy"]
        assert isinstance(table.chains, LazyChains)
        assert isinstance(table.sets["service-ips"].elements, PlainElements), "else nothing is gained"
        again = read_large(text, like=found)
        assert again is not None
        assert again.tables["ip", "kube-proxy"].sets["service-ips"].elements is table.sets["service-ips"].elements
        assert same(again, expected)


@pytest.mark.parametrize("name", [*NFTABLES, "made-nftables"])
def test_it_agrees_about_edited_rules(name: str) -> None:
    """Whatever stands in it, this way says the same as the precise one, or nothing; also beside a ruleset read before."""
    text = texts(name)[0]
    before = read_large(text)
    read = 0
    for seed in range(12):
        changed = edited_nft(text, random.Random(seed))
        found, expected = read_large(changed, like=before), precise(changed)
        assert found is None or (expected is not None and same(found, expected)), seed
        read += found is not None
    assert read > 6


@pytest.mark.parametrize("name", NFTABLES)
def test_it_never_reads_what_is_not_whole(name: str) -> None:
    """Cut, or with characters changed, dropped or doubled anywhere: where the precise reader raises, this reads nothing."""
    text = texts(name)[0].rstrip()
    rng = random.Random(11)
    for cut in range(0, len(text), len(text) // 40):
        assert read_large(text[:cut]) is None
    assert read_large(text[:-1]) is None
    assert read_large(text + "}") is None
    tried = 0
    for _ in range(60):
        at, other = rng.randrange(len(text)), rng.choice('{}[]":, 0a\\-\n\x01\ud800é')
        broken = rng.choice([text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text[:at] + other + text[at:]])
        found = read_large(broken)
        if found is not None:
            expected = precise(broken)
            assert expected is not None, f"{at}: {broken[max(0, at - 40) : at + 40]!r}"
            assert same(found, expected)
            tried += 1
    assert tried, "some changes, of a name or a number, do no harm"


SET = {"set": {"family": "ip", "table": "t", "name": "s", "type": "ipv4_addr", "handle": 3, "elem": ["10.0.0.1", "10.0.0.2"]}}


@pytest.mark.parametrize(
    "things",
    [
        [CHAIN, RULE],  # its table is not printed
        [TABLE, RULE],
        [TABLE, RULE, CHAIN],
        [TABLE, TABLE],
        [TABLE, CHAIN, CHAIN],
        [TABLE, SET, SET],
        [TABLE, {"chain": {**CHAIN["chain"], "name": ""}}],
        [TABLE, {"chain": {**CHAIN["chain"], "hook": "nowhere", "type": "nat", "prio": 0, "policy": "accept"}}],
        [TABLE, {"chain": {**CHAIN["chain"], "hook": "input", "type": "nat", "prio": 0, "policy": "maybe"}}],
        [TABLE, {"chain": {**CHAIN["chain"], "hook": "input", "prio": 0, "policy": "drop"}}],
        [TABLE, {"chain": {**CHAIN["chain"], "hook": "input", "type": "nat", "policy": "drop"}}],
        [TABLE, CHAIN, {"rule": {**RULE["rule"], "expr": {"drop": None}}}],
        [TABLE, CHAIN, {"rule": {**RULE["rule"], "chain": "d"}}],
        [TABLE, CHAIN, {"rule": {"family": "ip", "table": "t", "chain": "c"}}],
        [TABLE, {**CHAIN, **RULE}],
        [TABLE, {}],
        [TABLE, {"somewhat": {}}],
        [TABLE, {"metainfo": {}}],
        [{"table": {"family": "ipx", "name": "t"}}],
        [TABLE, {"map": {**SET["set"], "elem": [["10.0.0.1"]]}}],
        [TABLE, {"map": {**SET["set"], "elem": ["10.0.0.1", "10.0.0.2"]}}],
        [TABLE, {"set": {**SET["set"], "elem": "10.0.0.1"}}],
    ],
)
def test_it_leaves_what_nft_would_not_print_to_the_precise_reader(things: list[dict[str, Any]]) -> None:
    """Which raises, or knows better."""
    text = document(*things)
    found, expected = read_large(text), precise(text)
    assert found is None or (expected is not None and same(found, expected))


@pytest.mark.parametrize(
    "elements",
    [
        [{"concat": ["10.0.0.1", "tcp", 80]}],
        ["10.0.0.1", {"prefix": {"addr": "10.1.0.0", "len": 16}}],
        [{"elem": {"val": "10.0.0.1", "comment": "a"}}],
        ["@other"],
        [80, 443],
        [True],
        [{"range": [1, 2]}],
    ],
)
def test_elements_of_every_form_are_the_same(elements: list[Any]) -> None:
    """Also those that have no place among the plain ones."""
    text = document(TABLE, {"set": {**SET["set"], "elem": elements}})
    found, expected = read_large(text), precise(text)
    assert found is not None
    assert expected is not None
    assert same(found, expected)
    assert tuple(found.tables["ip", "t"].sets["s"].elements) == tuple(expected.tables["ip", "t"].sets["s"].elements)


def test_an_expression_that_json_cannot_read_back_is_unknown() -> None:
    """A number of more digits than Python converts: the walk says that it does not understand the rule."""
    text = json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, TABLE, CHAIN, RULE]})
    text = text.replace('{"drop": null}', '{"drop": ' + "9" * 5000 + "}")
    assert precise(text) is None
    found = read_large(text)
    assert found is None or "Unknown" in repr(found.tables["ip", "t"].chains["c"].rules[0].statements[0])


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        ([("10.0.0.1", "tcp", 80), ("10.0.0.2", "udp", 53)], (ADDRESS4, PROTOCOL, NUMBER)),
        ([("fd00::1",), ("2001:db8::",)], (ADDRESS6,)),
        ([("fd00::1",), ("fd00:0::2",)], ()),  # one address could stand there twice
        ([("fd00::A",)], ()),
        ([("10.0.0.1",), ("10.0.0.02",)], ()),
        ([("10.0.0.256",)], ()),
        ([("10.0.0.1 10.0.0.2",)], ()),
        ([("10.0.0.1",), ("fd00::1",)], ()),
        ([("10.0.0.1",), (7,)], ()),
        ([("10.0.0.1", 1), ("10.0.0.2",)], ()),
        ([("tcp",), ("6",)], ()),
        ([], ()),
    ],
)
def test_what_columns_hold(keys: list[tuple[int | str, ...]], kinds: tuple[str, ...]) -> None:
    """A kind is said only where everything has one spelling."""
    assert PlainElements(keys, None).kinds == kinds


def test_plain_elements_are_elements() -> None:
    """They can be counted, gone through, and cut."""
    found = PlainElements([("10.0.0.1",), ("10.0.0.2",), ("10.0.0.1",)], [("goto", "a"), ("jump", "b"), ("goto", "c")])
    assert len(found) == 3
    assert [element.data for element in found] == [Decide("goto", "a"), Decide("jump", "b"), Decide("goto", "c")]
    assert [element.key for element in found[1:]] == [("10.0.0.2",), ("10.0.0.1",)]
    assert {key: list(rows) for key, rows in found.by((0,)).items()} == {("10.0.0.1",): [0, 2], ("10.0.0.2",): [1]}
    pairs = PlainElements([("a", 1), ("b", 2)], None)
    assert {key: list(rows) for key, rows in pairs.by((1,)).items()} == {(1,): [0], (2,): [1]}
    assert {key: list(rows) for key, rows in pairs.by((1, 0)).items()} == {(1, "a"): [0], (2, "b"): [1]}
