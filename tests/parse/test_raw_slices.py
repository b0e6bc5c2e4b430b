"""EndpointSlices decoded straight from text: what the dictionaries of the same objects give."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from captured import CAPTURES, capture
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_svcroute.collect.large_list import large_list
from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.cluster import Slice
from kubectl_svcroute.parse.kube_objects import LazySlices
from kubectl_svcroute.parse.slices_fast import slice_of


def raw(items: list[Any]) -> Sequence[dict[str, Any]]:
    """Objects as a large List holds them; as they are where that refuses them."""
    found = large_list(json.dumps({"kind": "EndpointSliceList", "items": items}).encode(), "EndpointSlice")
    return found["items"] if found is not None else items


def told(slices: LazySlices) -> dict[str, Any]:
    """All that slices say, or why they do not."""
    found: dict[str, Any] = {}
    for key in slices:
        try:
            found[key] = [(s.name, s.family, s.ports, list(s.endpoints)) for s in slices[key]]
        except ParseError as error:
            found[key] = str(error)
    return found


def slices_in(name: str) -> list[dict[str, Any]]:
    """The EndpointSlices of a capture."""
    items: list[dict[str, Any]] = json.loads((capture(name) / "api" / "endpointslices.json").read_text(encoding="utf-8"))["items"]
    return items


@pytest.mark.parametrize("name", CAPTURES)
def test_text_and_dictionaries_say_the_same(name: str) -> None:
    """On every capture; and what is said in short agrees with the endpoints."""
    if not (capture(name) / "api" / "endpointslices.json").is_file():
        pytest.skip("a cluster without EndpointSlices")
    items = slices_in(name)
    one, other = LazySlices(items), LazySlices(raw(items))
    assert told(one) == told(other)
    assert one.total() == other.total()
    for key in other:
        for piece in other[key]:
            check_short(piece)


def check_short(piece: Slice) -> None:
    """`plain` is there for exactly the slices it is meant for, and tells them rightly."""
    all_plain = all(e.ready and not e.terminating and e.zone_hints is None and e.node_hints is None for e in piece.endpoints)
    if piece.plain is None:
        assert not all_plain
    else:
        assert all_plain
        assert list(piece.plain.addresses) == [e.address for e in piece.endpoints]
        assert list(piece.plain.nodes) == [e.node for e in piece.endpoints]
        assert list(piece.plain.pods) == [e.pod for e in piece.endpoints]


ODD: list[Any] = [
    None, "", "x", 0, 1, 70000, 1.5, True, False, [], {}, ["10.0.0.1"], ["010.1.2.3"], ["1.2.3"], ["::1"], ["fd00::0:1"], [None],
    {"ready": False}, {"ready": None, "serving": False, "terminating": True}, {"forZones": [{"name": "a"}]},
    {"forNodes": [{"name": "n"}]}, {"forZones": []}, {"kind": "Pod", "name": "p"}, "IPv4", "IPv6", "FQDN", "UDP", "SCTP", "ICMP",
]  # fmt: skip


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *[place for key, value in inner for place in places(value, (*path, key))]]


@given(st.data())
@settings(max_examples=150)
def test_odd_objects_are_judged_alike(data: st.DataObject) -> None:
    """Any value in any place, or none there: the same slices, or a refusal of both, with the same words."""
    items = copy.deepcopy(slices_in("v1.36-iptables-nft")[:4])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(items) if len(p) > 1]))
        target = items
        for step in path[:-1]:
            target = target[step]
        if isinstance(target, dict) and data.draw(st.booleans()):
            del target[path[-1]]
        else:
            target[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    results = []
    for given_ in (items, raw(items)):
        try:
            results.append(told(LazySlices(given_)))
        except ParseError as error:
            results.append({"refused": str(error)})
    assert results[0] == results[1]


def test_what_is_taken_at_once_is_taken_rightly() -> None:
    """One slice, by hand."""
    text = json.dumps(
        {
            "metadata": {"name": "a-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4",
            "ports": [{"port": 80}, {"name": "none"}],
            "endpoints": [
                {"addresses": ["10.0.0.010"], "nodeName": "w", "targetRef": {"kind": "Pod", "name": "p"}},
                {"addresses": []},
            ],
        }
    ).encode()
    piece = slice_of(msgspec.Raw(text))
    assert piece.plain is not None
    assert list(piece.plain.addresses) == ["10.0.0.10"]
    assert [port.port for port in piece.ports] == [80]
    assert [(e.address, e.node, e.pod) for e in piece.endpoints] == [("10.0.0.10", "w", "p")]


@pytest.mark.parametrize(
    "text",
    [
        b'{"kind": "EndpointSliceList", "items": [{"metadata": {"name": "a"}}]} and more',
        b'{"kind": "EndpointSliceList", "items": [{"metadata": {"name": "a"}, "x": tru}]}',
        b'{"kind": "EndpointSliceList", "items": [{"metadata": {"name": "a"}, "x": "\xff"}]}',
        b'{"kind": "EndpointSliceList", "items": [{"metadata": {"name": "a"}},]}',
        b'{"kind": "EndpointSliceList", "items": [{"metadata": {"name": "a"}}',
        b'{"kind": "EndpointSliceList", "items": [{"kind": "Pod", "metadata": {"name": "a"}}]}',
        b'{"kind": "EndpointSliceList", "items": [7]}',
        b'{"kind": "EndpointSliceList", "items": {}}',
        b'{"kind": "EndpointSliceList"}',
        b"[]",
        b"",
    ],
)
def test_what_is_no_whole_list_is_left_to_the_reader_of_small_ones(text: bytes) -> None:
    """It says what is wrong; here nothing is taken for granted."""
    assert large_list(text, "EndpointSlice") is None
