"""What the pages of the finding codes say (`data/codes/SRnnn.md`): the first lines name the code and tell what it means.

A report carries the codes of what was not verified without their names, and SARIF wants the whole page as help.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_PAGES = Path(__file__).parent.parent / "data" / "codes"


class Page(NamedTuple):
    """One page. All empty for a code that has none."""

    name: str
    """`backend-missing`."""
    title: str
    """What it means, in one line."""
    markdown: str


@lru_cache(maxsize=128)
def page_of(code: str) -> Page:
    """The page of a code."""
    if not code.isalnum():  # it becomes part of a path
        return Page("", "", "")
    try:
        text = re.sub(r"<!--.*?-->\n", "", _PAGES.joinpath(f"{code}.md").read_text(encoding="utf-8"))
    except OSError:
        return Page("", "", "")
    lines = [line for line in text.splitlines()[:6] if line]
    name = lines[0].removeprefix("# ").partition(" ")[2] if lines else ""
    return Page(name, lines[1] if len(lines) > 1 else "", text)


def label_of(code: str, name: str = "") -> str:
    """`SR201 backend-missing`; the code alone when nothing else is known."""
    return f"{code} {name or page_of(code).name}".rstrip()
