"""A Markdown page as terminal text: headings, paragraphs, lists, quotes, tables and code, wrapped to the terminal.

The pages are the package's own, in the little Markdown that they keep to. What is not recognised is shown as it is
written: Markdown reads well by itself. Code is never wrapped, so that a command can be copied.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from ..model.lazy_regex import pattern
from .text import Paint, clean, width, wrap

WIDEST = 100
"""Columns beyond which prose is no easier to read."""
_HEADING = pattern(r"(#{1,6}) +(.*?) *#*\Z")
_ITEM = pattern(r"( *)([-*+]|\d{1,3}[.)]) +(.*)\Z")
_FENCE = pattern(r" {0,3}(```+|~~~+)")
_RULE = pattern(r" {0,3}([-*_])( *\1){2,} *\Z")
_LINK = pattern(r"\[([^][]+)\]\(<?([^()<>\s]+)>?\)")
_COMMENT = pattern(r"<!--.*?-->", re.DOTALL)
_SPAN = pattern(r"(`+)(?P<code>.+?)\1|\*\*(?P<bold>\S(?:.*?\S)?)\*\*|(?<![\w*])\*(?P<em>[^\s*](?:[^*]*[^\s*])?)\*(?![\w*])")


def render_page(text: str, *, color: bool, columns: int | None = None) -> str:
    """The page, ending with a newline. `columns`: the terminal's width; by default what the terminal says.

    Without colour, code inside a sentence keeps its backquotes: nothing but them would set it apart.
    """
    if columns is None:
        columns = shutil.get_terminal_size((80, 24)).columns
    columns = max(20, min(columns, WIDEST))
    lines: list[str] = []
    for block in _blocks(_COMMENT.sub("", text.replace("\r\n", "\n").expandtabs(4)), columns, Paint(color)):
        if lines:
            lines.append("")
        lines += block
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _blocks(text: str, columns: int, paint: Paint) -> Iterator[list[str]]:
    """What an empty line parts, each as lines for the terminal."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        fence = _FENCE.match(line)
        if not line.strip():
            at += 1
        elif fence:
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines))
            yield _code(lines[at + 1 : end], paint, diff=line.strip() == "```diff")
            at = end + 1
        elif line.startswith("    "):
            end = _end_of_indented(lines, at)
            yield _code([inner[4:] for inner in lines[at:end]], paint)
            at = end
        elif heading := _HEADING.match(line):
            yield _heading(len(heading[1]), heading[2], columns, paint)
            at += 1
        elif _RULE.match(line):
            yield [paint("dim", "-" * columns)]
            at += 1
        elif _ITEM.match(line):
            end, block = _list(lines, at, columns, paint)
            yield block
            at = end
        elif line.lstrip().startswith("|"):
            end = next((n for n in range(at, len(lines)) if not lines[n].lstrip().startswith("|")), len(lines))
            yield _table(lines[at:end], columns, paint)
            at = end
        else:
            end = _end_of_paragraph(lines, at)
            yield _paragraph(lines[at:end], columns, paint)
            at = end


def _end_of_indented(lines: list[str], at: int) -> int:
    """Behind the last line of indented code; empty lines belong to it when more of it follows."""
    end = at
    for n in range(at, len(lines)):
        if lines[n].startswith("    "):
            end = n + 1
        elif lines[n].strip():
            break
    return end


def _end_of_paragraph(lines: list[str], at: int) -> int:
    for n in range(at + 1, len(lines)):
        line = lines[n]
        if not line.strip() or _FENCE.match(line) or _HEADING.match(line) or _ITEM.match(line) or line.startswith("|"):
            return n
    return len(lines)


def _heading(level: int, text: str, columns: int, paint: Paint) -> list[str]:
    """Upper-case and underlined the first, bold the others: they stand out without colour, too."""
    shown = wrap(_plain(text), columns)
    if level == 1:
        return [*(paint("bold", line) for line in shown), paint("dim", "=" * max(map(width, shown)))]
    if paint.on:
        return [paint("bold", line) for line in shown]
    return [line.upper() if level == 2 else line for line in shown]


def _code(lines: list[str], paint: Paint, *, diff: bool = False) -> list[str]:
    kinds = {"-": "error", "+": "ok", " ": "dim"} if diff else {}
    return [f"    {paint(kinds.get(line[:1], 'info'), clean(line))}" if line.strip() else "" for line in lines]


def _paragraph(lines: list[str], columns: int, paint: Paint) -> list[str]:
    if all(line.lstrip().startswith(">") for line in lines):
        inner = " ".join(line.lstrip()[1:].strip() for line in lines)
        return [f"  {paint('dim', '|')} {line}" for line in _flow(inner, columns - 4, paint)]
    found: list[str] = []
    part: list[str] = []
    for line in lines:
        part.append(line.strip().removesuffix("\\"))
        if line.endswith(("  ", "\\")):  # Markdown's way to end a line where it ends
            found += _flow(" ".join(part), columns, paint)
            part = []
    return [*found, *(_flow(" ".join(part), columns, paint) if part else [])]


def _list(lines: list[str], at: int, columns: int, paint: Paint) -> tuple[int, list[str]]:
    """(the line behind the list, the list). Lists within lists keep their indentation, code in an item its lines."""
    found: list[str] = []
    while at < len(lines):
        item = _ITEM.match(lines[at])
        if item is None:
            break
        indent = len(item[1])
        inner = indent + len(item[2]) + 1
        body, at = [item[3].strip()], at + 1
        while at < len(lines) and lines[at].strip() and not _ITEM.match(lines[at]) and not _FENCE.match(lines[at]):
            if _HEADING.match(lines[at]):
                break
            body.append(lines[at].strip())
            at += 1
        for n, line in enumerate(_flow(" ".join(body), columns - inner, paint)):
            found.append(f"{' ' * indent}{item[2]} {line}" if n == 0 else f"{' ' * inner}{line}")
        at, more = _in_item(lines, at, columns - inner, paint)
        found += [f"{' ' * inner}{line}" if line else "" for line in more]
    return at, found


def _in_item(lines: list[str], at: int, columns: int, paint: Paint) -> tuple[int, list[str]]:
    """(the line behind it, what belongs to an item behind its first paragraph): indented paragraphs and code."""
    found: list[str] = []
    while at < len(lines):
        ahead = at
        while ahead < len(lines) and not lines[ahead].strip():
            ahead += 1
        if ahead == len(lines):
            return ahead, found
        line = lines[ahead]
        depth = len(line) - len(line.lstrip())
        if _ITEM.match(line):
            return ahead, found
        # Code directly under an item belongs to it even when it is not indented.
        if depth < 2 and not (_FENCE.match(line) and ahead == at):
            return at, found
        fence = _FENCE.match(line.strip())
        if fence:
            end = next((n for n in range(ahead + 1, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines))
            found += _code([raw[depth:] for raw in lines[ahead + 1 : end]], paint)
            at = end + 1
        else:
            end = ahead
            while end < len(lines) and lines[end].strip() and not _ITEM.match(lines[end]) and not _FENCE.match(lines[end]):
                end += 1
            body = " ".join(raw.strip() for raw in lines[ahead:end])
            found += ["", *_flow(body, columns, paint)]
            at = end
    return at, found


def _table(lines: list[str], columns: int, paint: Paint) -> list[str]:
    """Columns side by side when they fit; else each row as a small list under the heads."""
    rows = [[_plain(cell.strip().replace("\\|", "|")) for cell in _cells(line)] for line in lines]
    if len(rows) > 1 and all(set(cell) <= set("-: ") for cell in rows[1]):
        del rows[1]
    count = max(map(len, rows))
    rows = [[*row, *[""] * (count - len(row))] for row in rows]
    sizes = [max(width(row[n]) for row in rows) for n in range(count)]
    heads, *rest = rows
    room = columns - sum(sizes[:-1]) - 3 * (count - 1)
    if room >= min(sizes[-1], 24):
        found = []
        for n, row in enumerate(rows):
            start = "".join(cell + " " * (size - width(cell) + 3) for cell, size in zip(row[:-1], sizes[:-1], strict=True))
            for k, line in enumerate(wrap(row[-1], room)):
                whole = (start if k == 0 else " " * width(start)) + line
                found.append(paint("bold", whole.rstrip()) if n == 0 else whole)
        return found
    found = []
    for row in rest or [heads]:
        for n, cell in enumerate(row):
            label = f"{heads[n]}: " if heads[n] and rest else ""
            lines = wrap(label + cell, columns - 2)
            found += [f"{'- ' if n == k == 0 else '  '}{line}" for k, line in enumerate(lines)]
    return found


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip().strip("|"))


def _plain(text: str) -> str:
    """Without the signs of emphasis and links, which a heading and a table need not show."""
    return _SPAN.sub(lambda m: m["code"] or m["bold"] or m["em"], _linked(clean(text)))


def _linked(text: str) -> str:
    """Links as text and address: a terminal cannot hide one behind the other."""
    return _LINK.sub(lambda m: m[1] if m[1] == m[2] or m[1] == m[2].rpartition("/")[2] else f"{m[1]} ({m[2]})", text)


def _flow(text: str, columns: int, paint: Paint) -> list[str]:
    """A paragraph, wrapped; emphasis and code in colour where that is on, and in their own signs where it is not."""
    text = _linked(clean(re.sub(r" +", " ", text.strip())))

    def show(match: re.Match[str]) -> str:
        if not paint.on:
            return match[0] if match["code"] else match["bold"] or match["em"]
        words = (match["code"] or match["bold"] or match["em"]).split(" ")
        # Each word by itself: a colour that runs over the end of a line would colour the indentation, too.
        return " ".join(paint("info" if match["code"] else "bold", word) for word in words)

    return wrap(_SPAN.sub(show, text), columns)
