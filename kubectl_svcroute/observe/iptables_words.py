r"""The words of an iptables-save rule.

iptables quotes with double quotes and escapes `"`, `\` and `'` inside them with a backslash (xtables_save_string in
libxtables/xtables.c); nothing else is special. `shlex` reads other rules, and is thirty times slower.
"""

from __future__ import annotations

import re

from ..errors import ParseError

_WORD = re.compile(r' *(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?: |\Z)')
"""Matched from where the last word ended, never searched for: a word that is not one is found out in one go."""
_ESCAPED = re.compile(r"\\(.)")


class Quoted(str):
    """A word that stood in quotes: never an option, whatever it looks like."""

    __slots__ = ()


def split_rule(line: str) -> list[str]:
    """Split a rule into words; quoted ones come as `Quoted`. Raises ParseError for text that iptables does not print."""
    if '"' not in line:
        return line.split()
    words: list[str] = []
    position = 0
    length = len(line.rstrip(" "))
    while position < length:
        found = _WORD.match(line, position)
        if found is None:
            raise ParseError("quoting that iptables would not print", 0, line)
        quoted, plain = found.groups()
        words.append(Quoted(_ESCAPED.sub(r"\1", quoted)) if quoted is not None else plain)
        position = found.end()
    return words
