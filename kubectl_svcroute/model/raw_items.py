"""The items of a large List as they were read: JSON text until one of them is asked for.

Of the tens of thousands of EndpointSlices of a large cluster an audit of one Service needs one or two, and an audit of all
needs a few fields of each. Lists of the size that people have at hand are decoded at once instead (`collect/archive.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import msgspec

_T = TypeVar("_T")


class Metadata(msgspec.Struct, frozen=True):
    """Of an object's metadata, what names it."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None


class Head(msgspec.Struct, frozen=True):
    """An object by its kind and name; of an EndpointSlice the kind of its addresses too."""

    metadata: Metadata
    kind: str | None = None
    addresses: str | None = msgspec.field(name="addressType", default=None)


class RawItems(Sequence[dict[str, Any]]):
    """JSON objects, each decoded when it is asked for, and not kept."""

    def __init__(self, texts: Sequence[msgspec.Raw]) -> None:
        """`texts`: whole JSON values, valid and in UTF-8."""
        self.texts = texts
        self._heads: list[Head] | None = None

    @property
    def heads(self) -> list[Head]:
        """Kind, name, namespace and labels of each. Raises msgspec.ValidationError where one has them in another shape."""
        if self._heads is None:
            self._heads = self.as_type(Head)
        return self._heads

    def as_type(self, kind: type[_T]) -> list[_T]:
        """Each decoded to a struct. Raises msgspec.ValidationError for one of another shape."""
        decode = msgspec.json.Decoder(kind).decode
        return [decode(text) for text in self.texts]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> RawItems: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | RawItems:
        if isinstance(index, slice):
            return RawItems(self.texts[index])
        found: dict[str, Any] = msgspec.json.decode(self.texts[index])
        return found

    def __len__(self) -> int:
        return len(self.texts)
