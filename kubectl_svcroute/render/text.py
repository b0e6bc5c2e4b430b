"""Text for a terminal: what may be shown, how wide it is, how it is wrapped and coloured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from unicodedata import category, east_asian_width

from ..model.lazy_regex import pattern

# Controls (C0, DEL, C1), format characters (bidi overrides, zero-width ones, tags), surrogates, private use, and the line
# and paragraph separators: none shows itself, and each can hide or forge what stands beside it.
_UNSAFE = pattern(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]"
)
_SEQUENCE = pattern(r"\x1b\[[0-9;]*m")

ASCII_FOR = {"✗": "X", "…": "...", "·": "-", "\u2014": "-", "→": "->", "•": "*", "─": "-", "│": "|", "“": '"', "”": '"'}
"""What this program itself writes beyond ASCII, for streams that cannot show it."""


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def is_unsafe(text: str) -> bool:
    """Whether a text holds characters that must not reach a terminal as they are."""
    return _UNSAFE.search(text) is not None


def json_safe(document: str) -> str:
    r"""A JSON text with the same meaning in which nothing is left that a terminal would obey: `\u202e` for the character.

    `json.dumps` escapes C0 controls alone. Outside of strings JSON is ASCII, so what is found here stands in a string.
    """
    if document.isascii() and "\x7f" not in document:
        return document  # JSON has no other control character than its line ends
    return _UNSAFE.sub(lambda m: m[0] if m[0] == "\n" else "".join(f"\\u{unit:04x}" for unit in _utf16(m[0])), document)


def _utf16(character: str) -> Iterator[int]:
    number = ord(character)
    if number < 0x10000:
        yield number
    else:
        yield 0xD800 + (number - 0x10000 >> 10)
        yield 0xDC00 + (number - 0x10000 & 0x3FF)


def clean(text: str) -> str:
    r"""Text from a cluster, fit to be shown on one line: whatever could move the cursor or hide becomes `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape, text)


def to_ascii(text: str) -> str:
    r"""Text for a stream that shows ASCII alone: this program's own marks as letters, everything else as `\u65e5`.

    Newlines and colour sequences stay.
    """
    if text.isascii():
        return text
    for mark, letters in ASCII_FOR.items():
        text = text.replace(mark, letters)
    return re.sub(r"[^\x00-\x7f]", _escape, text)


@lru_cache(maxsize=1 << 14)
def width(text: str) -> int:
    """How many columns a cleaned text takes, colour not counted."""
    if text.isascii() and text.isprintable():
        return len(text)
    bare = _SEQUENCE.sub("", text)
    return sum(map(_columns, bare))


def _columns(character: str) -> int:
    """0 for what is drawn over the character before it, 2 for what is as wide as it is high, 1 for all else."""
    if category(character) in ("Mn", "Me", "Cf") or "\u1160" <= character <= "\u11ff":  # the latter: parts of a Hangul syllable
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


class StandIns:
    """Text in which `len` and width are the same, for code that only knows `len`, and the way back.

    A character that takes two columns, or one with accents over it, gives its place to characters for private use. Cleaned
    text has none of these.
    """

    def __init__(self) -> None:
        self._by_cluster: dict[str, str] = {}
        self._clusters: list[str] = []

    def put(self, text: str) -> str:
        """The text with stand-ins; colour sequences stay as they are."""
        if text.isascii():
            return text
        return "".join(
            part if _SEQUENCE.fullmatch(part) else self._put(part) for part in re.split(f"({_SEQUENCE.pattern})", text)
        )

    def _put(self, text: str) -> str:
        clusters: list[str] = []
        for character in text:
            if clusters and not _columns(character):
                clusters[-1] += character
            else:
                clusters.append(character)
        return "".join(cluster if len(cluster) == width(cluster) else self._stand_in(cluster) for cluster in clusters)

    def _stand_in(self, cluster: str) -> str:
        if cluster not in self._by_cluster:
            self._by_cluster[cluster] = chr(0xF0000 + len(self._clusters)) + "\uf8ff" * (width(cluster) - 1)
            self._clusters.append(cluster)
        return self._by_cluster[cluster]

    def back(self, text: str) -> str:
        """What was put in."""
        if not self._clusters:
            return text
        return re.sub("([\U000f0000-\U000ffffd])\uf8ff*", lambda m: self._clusters[ord(m[1]) - 0xF0000], text)


def pad(text: str, columns: int) -> str:
    """Fill with spaces up to a number of columns."""
    return text + " " * (columns - width(text))


def wrap(text: str, columns: int, *, indent: str = "") -> list[str]:
    """Break a cleaned text into lines of at most so many columns; a longer word is cut only when nothing else helps.

    `indent` begins every line but the first. Rule lines and names are often longer than any terminal: these break behind
    a character at which an eye can go on, and never lose one.
    """
    columns = max(columns, 16)
    lines: list[str] = []
    line, taken = "", 0
    for word in _words(text, columns - width(indent)):
        size = width(word)
        gap = 1 if line and not word.startswith("\0") else 0
        bare = word.removeprefix("\0")
        size = width(bare)
        if line and taken + gap + size > columns:
            lines.append(line)
            line, taken = indent + bare, width(indent) + size
        else:
            line, taken = line + " " * gap + bare, taken + gap + size
    lines.append(line)
    return lines


def _words(text: str, longest: int) -> Iterator[str]:
    """Words; of one that fits no line, pieces, the later ones marked with NUL: no space belongs before them."""
    for word in text.split(" "):
        rest, first = word, True
        while width(rest) > longest:
            cut = _cut_at(rest, longest)
            yield rest[:cut] if first else "\0" + rest[:cut]
            rest, first = rest[cut:], False
        yield rest if first else "\0" + rest


def _cut_at(word: str, longest: int) -> int:
    """How many characters fit, ending behind a `-`, `,`, `/` or `:` where there is one in the second half."""
    taken = fits = 0
    for character in word:
        taken += max(0, width(character))
        if taken > longest:
            break
        fits += 1
    fits = max(fits, 1)
    for at in range(fits, fits // 2, -1):
        if word[at - 1] in "-,/:.":
            return at
    return fits


_COLORS = {"error": "31;1", "warning": "33", "unverified": "35", "info": "36", "ok": "32", "dim": "2", "bold": "1"}


class Paint:
    """Colour for words that already say what the colour says; nothing when colour is off."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, kind: str, text: str) -> str:
        """`kind`: error, warning, unverified, info, ok, dim or bold."""
        return f"\x1b[{_COLORS[kind]}m{text}\x1b[0m" if self.on and text else text


MARKS = {"error": "✗", "warning": "!", "info": "i", "unverified": "?", "ok": "ok"}
"""The character that says what colour says too."""


def listed(items: Iterable[str], most: int = 6) -> str:
    """`a, b and 4 more`: never without saying how many are left out."""
    found = list(items)
    if len(found) <= most + 1:
        return ", ".join(found)
    return f"{', '.join(found[:most])} and {len(found) - most} more"


def plural(count: int, word: str, many: str = "") -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {word if count == 1 else many or word + 's'}"


def percent(share: float) -> str:
    """A share for people: `20%`, `33.3%`, `0.33%`. 100% and 0% only when it is that."""
    value = share * 100
    if value <= 0:
        return "0%"
    if abs(value - round(value)) < 1e-3:
        return f"{round(value)}%" if round(value) else "<0.01%"
    for digits, least in ((1, 10.0), (2, 0.01)):
        if value >= least:
            text = f"{value:.{digits}f}"
            if float(text) >= 100 > value:
                text = "99.9"
            return f"{text}%"
    return "<0.01%"
