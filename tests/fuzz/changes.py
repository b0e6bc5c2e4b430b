# ruff: noqa: E501 - lists of words
"""Changes to text that break parsers: lost, doubled and swapped parts, odd numbers, odd characters, deep nesting."""

from __future__ import annotations

import re
from typing import NamedTuple

NUMBERS = (
    "0", "-1", "1", "65535", "65536", "4294967296", "99999999999999999999", "1e9", "1.5", "1..5", "0x", "²", "٣", "+1", "", "9" * 5000,
)  # fmt: skip
JUNK = (
    "\0", "\r", "\x85", "\u2028", "\t", " ", "\n", '"', "'", "\\", "{", "}", "[", "]", ",", ":", ";", "#", "!", "-", "/", "@", "*",
    "=", "é", "漢", "\U0001f600", "\u202e", "null", "true", "{}", "[]", '""', "-j", "-m", "-A", "*nat", "COMMIT", "}\n}\n", "elements = {",
    "vmap", "map", "ct", "numgen", ". ", " : ", "[" * 20_000, "{" * 20_000, '{"a":' * 20_000, "( " * 2000, "! " * 50,
)  # fmt: skip


class Change(NamedTuple):
    """One change; whatever the numbers are, it can be done to any text."""

    kind: int
    at: int
    size: int
    pick: int


KINDS = 9


def apply(text: str, changes: list[Change]) -> str:
    """The text, changed."""
    for change in changes:
        text = _one(text, change)
    return text


def _one(text: str, change: Change) -> str:
    kind, at, size, pick = change
    at = at % (len(text) + 1)
    end = min(len(text), at + size % 60)
    if kind == 0:
        return text[:at] + text[end:]
    if kind == 1:
        return text[:end] + text[at:end] + text[end:]
    if kind == 2:
        return text[:at] + JUNK[pick % len(JUNK)] + text[at:]
    if kind == 3:
        return text[:at]
    if kind in (4, 5):
        # A number, or a word, becomes another.
        found = re.compile(r"\d+" if kind == 4 else r"[\w.-]+").search(text, at)
        if found is None:
            return text
        if kind == 4:
            new = NUMBERS[pick % len(NUMBERS)]
        else:
            words = re.findall(r"[\w.-]+", text[max(0, at - 2000) : at + 2000])
            new = words[pick % len(words)] if words else JUNK[pick % len(JUNK)]
        return text[: found.start()] + new + text[found.end() :]
    lines = text.split("\n")
    row, other = text.count("\n", 0, at), pick % len(lines)
    if kind == 6:
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == 7:
        lines.insert(other, lines[row])
    else:
        del lines[row : row + 1 + size % 4]
    return "\n".join(lines)
