"""A large List from a file: its items stay text until they are asked for (`model/raw_items.py`)."""

from __future__ import annotations

from typing import Any

import msgspec

from ..model.raw_items import RawItems


class _List(msgspec.Struct):
    items: list[msgspec.Raw]
    kind: str = "List"
    version: str | None = msgspec.field(name="apiVersion", default=None)
    metadata: Any = None


def large_list(data: bytes, kind: str) -> dict[str, Any] | None:
    """A List of objects of one kind, whole and valid; None for anything else, which the reader of small ones says more about.

    msgspec goes over the text of every item and takes no token that is no JSON, but does not look into its characters.
    """
    try:
        if not data.isascii():
            data.decode("utf-8")
        found = msgspec.json.decode(data, type=_List)
        items = RawItems(found.items)
        if any(head.kind not in (None, kind) for head in items.heads):
            return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    kept = {"apiVersion": found.version, "metadata": found.metadata}
    return {"kind": found.kind, **{name: value for name, value in kept.items() if value is not None}, "items": items}
