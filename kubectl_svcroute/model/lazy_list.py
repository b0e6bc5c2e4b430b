"""A list that is made when it is first looked at: a report of thousands of Services needs few of their endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

_T = TypeVar("_T")


class Lazy(Sequence[_T]):
    """What `make` gives, asked for once it is needed."""

    __slots__ = ("_found", "_make")

    def __init__(self, make: Callable[[], Sequence[_T]]) -> None:
        self._make = make
        self._found: Sequence[_T] | None = None

    def _all(self) -> Sequence[_T]:
        if self._found is None:
            self._found = self._make()
        return self._found

    def __iter__(self) -> Iterator[_T]:
        """Once through all; what is only walked through is not kept."""
        return iter(self._make() if self._found is None else self._found)

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | Sequence[_T]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())
