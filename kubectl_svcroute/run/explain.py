"""`explain`: the page of a finding code, or the list of all codes."""

from __future__ import annotations

import shutil
import sys
from difflib import get_close_matches
from pathlib import Path

from ..checks.registry import CODES
from ..errors import UsageError

PAGES = Path(__file__).parent.parent / "data" / "codes"


def listing(columns: int | None) -> str:
    """A line for each code; on a terminal of so many columns, what it means is wrapped under itself."""
    from ..render.text import wrap  # noqa: PLC0415

    rows = [("CODE", "SEVERITY", "NAME", "MEANING")]
    rows += [(c.code, "not verified" if c.code.startswith("SR9") else c.severity.value, c.name, c.title) for c in CODES.values()]
    wide = [max(len(row[n]) for row in rows) for n in range(3)]
    lines = []
    for *cells, title in rows:
        lead = "".join(f"{text:<{size + 2}}" for text, size in zip(cells, wide, strict=True))
        parts = wrap(title, max(columns - len(lead), 24)) if columns else [title]
        lines += [(" " * len(lead) if n else lead) + part for n, part in enumerate(parts)]
    return "".join(f"{line}\n" for line in lines)


def explain(code: str | None, *, color: str) -> str:
    """The page of a code or of a name (`SR201`, `backend-missing`). Raises UsageError for one that does not exist."""
    if code is None:
        return listing(shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None)
    wanted = code.strip().upper()
    by_name = {c.name: c.code for c in CODES.values()}
    found = wanted if wanted in CODES else by_name.get(code.strip().lower())
    if found is None:
        near = get_close_matches(wanted, CODES, n=3) or get_close_matches(code.lower(), by_name, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"no finding code {code!r}{hint} (without a code, explain lists them all)")
    from ..render.page import render_page  # noqa: PLC0415
    from .check import wants_color  # noqa: PLC0415

    return render_page((PAGES / f"{found}.md").read_text(encoding="utf-8"), color=wants_color(color))
