"""What the README shows is what the program does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
try:
    from make_readme import README, blocks, output
finally:
    sys.path.pop(0)

PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_output_in_the_readme_is_the_programs() -> None:
    """`make generated` brings it up to date. The demo ends with 1: it has a finding."""
    shown = blocks(README.read_text(encoding="utf-8"))
    assert [arguments.split()[0] for arguments, _ in shown] == ["demo", "trace"]
    for (arguments, text), status in zip(shown, (1, 0), strict=True):
        assert output(arguments) == (text, status)


def test_the_exit_statuses_are_the_programs() -> None:
    """The table has every exit status and no other."""
    from kubectl_svcroute.model.report import ExitCode

    rows = re.findall(r"^\| (\d+) \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(int(code) for code in ExitCode)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    """No page links to a file that is not there."""
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
