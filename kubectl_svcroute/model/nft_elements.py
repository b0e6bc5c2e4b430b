"""Elements of a large set or map: tens of thousands of plain words and numbers, of which a walk asks for a few dozen.

They are kept as rows of a table. What a column holds is looked at once; where it is addresses as nft prints them, protocols
by name, or numbers, a row is found by what a packet has without any other having been understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from .nft import Decide, Element, Scalar
from .ranges import number, text

Key = tuple[Scalar, ...]

ADDRESS4, ADDRESS6, PROTOCOL, NUMBER = "IPv4 address", "IPv6 address", "protocol", "number"
_PROTOCOLS = frozenset(("tcp", "udp", "sctp"))
_ADDRESSES4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3} )*", re.ASCII)


class PlainElements(Sequence[Element]):
    """The elements of one set (`verdicts` None) or verdict map, each made when it is asked for."""

    __slots__ = ("_groups", "_kinds", "keys", "printed", "verdicts")

    def __init__(self, keys: Sequence[Key], verdicts: Sequence[tuple[str, str]] | None, printed: bytes = b"") -> None:
        self.keys = keys
        self.verdicts = verdicts
        """What each leads to: `goto` or `jump`, and the chain; or `drop`, and nothing."""
        self.printed = printed
        """As they were printed: two that are equal here hold the same, in the same order."""
        self._kinds: tuple[str, ...] | None = None
        self._groups: dict[tuple[int, ...], Mapping[Key, Sequence[int]]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Element: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Element]: ...

    def __getitem__(self, at: int | slice) -> Element | Sequence[Element]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self.keys)))]
        if self.verdicts is None:
            return Element(self.keys[at])
        kind, target = self.verdicts[at]
        return Element(self.keys[at], Decide(kind, target))

    def __iter__(self) -> Iterator[Element]:
        return (self[n] for n in range(len(self.keys)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each column holds; empty where one of them holds anything else, or two rows are not of one length.

        A column of addresses or of protocols holds each of them in one spelling only.
        """
        if self._kinds is None:
            self._kinds = self._look()
        return self._kinds

    def _look(self) -> tuple[str, ...]:
        if not self.keys or len({len(key) for key in self.keys}) != 1:
            return ()
        found = []
        for column in zip(*self.keys, strict=True):
            types = {type(value) for value in column}
            if types == {int}:
                found.append(NUMBER)
            elif types != {str}:
                return ()
            elif _PROTOCOLS.issuperset(column):
                found.append(PROTOCOL)
            elif _are_addresses4(" ".join(map(str, column)) + " ", len(column)):
                found.append(ADDRESS4)
            elif all(_is_address6(str(value)) for value in column):
                found.append(ADDRESS6)
            else:
                return ()
        return tuple(found)

    def by(self, columns: tuple[int, ...]) -> Mapping[Key, Sequence[int]]:
        """The rows, by what they have in these columns."""
        found = self._groups.get(columns)
        if found is None:
            parts = list(zip(*self.keys, strict=True))
            keys = list(zip(*[parts[c] for c in columns], strict=True)) if parts else []
            found = dict(zip(keys, zip(range(len(keys))), strict=True))
            if len(found) < len(keys):
                more: dict[Key, list[int]] = {}
                for n, key in enumerate(keys):
                    more.setdefault(key, []).append(n)
                found = more
            self._groups[columns] = found
        return found


def _are_addresses4(words: str, count: int) -> bool:
    """Whether so many words are IPv4 addresses, as nft prints them."""
    return words.count(" ") == count and _ADDRESSES4.fullmatch(words) is not None


def _is_address6(value: str) -> bool:
    """Whether it is an IPv6 address in the one spelling that nft, and everybody, prints."""
    try:
        return ":" in value and text(number(value), 6) == value
    except ValueError:
        return False
