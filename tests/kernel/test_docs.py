"""docs/walker.md names every match and target that the walker knows, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from kubectl_svcroute.observe.iptables_match import MODULES
from kubectl_svcroute.observe.iptables_rule import CONTINUE_TARGETS

from .micro import MICRO

_TEXT = (Path(__file__).parents[2] / "docs" / "walker.md").read_text()
_TABLES = _TEXT[_TEXT.index("## Matches") : _TEXT.index("## What is ignored")]
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _TABLES.splitlines()
    if line.startswith("| ") and not line.startswith(("| match", "| target", "| ---"))
]


def test_every_match_and_target_has_a_row() -> None:
    """What the code answers is in the table, and what the table claims is in the code."""
    named = {name for row in _ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(MODULES) <= named
    assert named >= CONTINUE_TARGETS


def test_every_row_is_shown_by_tests_that_exist() -> None:
    """Each name in the last column begins the name of a hand-written rule set, or the row says that none shows it."""
    names = [micro.name for micro in MICRO]
    for row in _ROWS:
        shown = re.findall(r"`([^`/]+)`", row[2])
        assert shown or row[2].startswith("not shown"), row
        if row[2].startswith("not shown"):
            continue
        for name in shown:
            assert any(known.startswith(name) for known in names), f"no rule set begins with {name}"
