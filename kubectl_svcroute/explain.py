"""`explain`: the page of a finding code, or the list of all codes."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from .checks.registry import CODES
from .errors import UsageError

PAGES = Path(__file__).parent / "data" / "codes"


def explain(code: str | None, *, color: str) -> str:
    """The page of a code or of a name (`SR201`, `backend-missing`). Raises UsageError for one that does not exist."""
    if code is None:
        rows = [f"{c.code}   {c.severity.value:<8}{c.name:<28}{c.title}" for c in CODES.values()]
        return "\n".join(rows) + "\n"
    wanted = code.strip().upper()
    by_name = {c.name: c.code for c in CODES.values()}
    found = wanted if wanted in CODES else by_name.get(code.strip().lower())
    if found is None:
        near = get_close_matches(wanted, CODES, n=3) or get_close_matches(code.lower(), by_name, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"no finding code {code!r}{hint} (without a code, explain lists them all)")
    from .render.page import render_page  # noqa: PLC0415
    from .session import wants_color  # noqa: PLC0415

    return render_page((PAGES / f"{found}.md").read_text(encoding="utf-8"), color=wants_color(color))
