"""Lists decoded item by item: the same as `json.loads`, for every document, and an error for every cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_svcroute.collect.list_stream import decode_list

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    head=st.dictionaries(st.text().filter(lambda key: key != "items"), VALUES, max_size=4),
    items=st.none() | st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=4),
    first=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_it_is_what_json_says(head: dict[str, Any], items: list[dict[str, Any]] | None, first: bool, indent: int | None) -> None:
    """Whatever stands around the items, and wherever they stand."""
    document = {"items": items, **head} if first else {**head, "items": items}
    rest, found = decode_list(json.dumps(document, indent=indent).encode(), lambda item: item)
    assert found == (items or [])
    assert rest == (head if items is not None else {**head, "items": None})


def test_what_is_cut_or_joined_is_an_error() -> None:
    """No shorter text is a List, nor is one with something behind it."""
    text = json.dumps({"kind": "PodList", "items": [{"a": 1}, {"b": [2]}], "metadata": {"x": "y"}})
    for at in range(len(text)):
        with pytest.raises(ValueError, match=r"\S"):
            decode_list(text[:at].encode(), lambda item: item)
    for bad in (text + text, text.replace("}, {", "} {"), text.replace('"kind":', '"kind"'), text[:-1] + ",}", "[1] 2", "\xff"):
        with pytest.raises(ValueError, match=r"\S"):
            decode_list(bad.encode("latin-1"), lambda item: item)
    assert decode_list(b" [1] ", lambda item: item) == ([1], [])
    assert decode_list(b"{}", lambda item: item) == ({}, [])
