"""Finding codes: the registry, the code that gives them out, their pages and their index say the same."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubectl_svcroute.checks.registry import CODES, Code

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kubectl_svcroute"
PAGES = PACKAGE / "data" / "codes"
SECTIONS = ("What it means", "What traffic feels", "Usual causes", "Confirm by hand", "What to do")
CODE = re.compile(r"SR\d{3}")

RESERVED: dict[str, str] = {
    # code -> why it has a number and a page, and is not given out yet
}


def emitted() -> set[str]:
    """Every code that the package gives out: literals that are passed on, not those that are only compared with."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "registry.py":
            found.update(_passed_on(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def _passed_on(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Compare | ast.Set):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _passed_on(child)


def sections(page: str) -> dict[str, str]:
    """Heading -> text of a page's sections, in order."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_codes_are_unique_and_well_formed() -> None:
    """A code is SR and three digits, in order; its name is used once."""
    assert all(CODE.fullmatch(code) for code in CODES)
    assert list(CODES) == sorted(CODES)
    assert len({code.name for code in CODES.values()}) == len(CODES)


def test_what_is_given_out_is_registered_and_the_other_way_round() -> None:
    """No code without an entry, no entry without code behind it, but for those reserved with a reason."""
    given = emitted()
    assert given - set(CODES) == set()
    assert set(CODES) - given == set(RESERVED)


def test_every_page_belongs_to_a_code() -> None:
    """One page for each code, and no page left over from a code that is gone."""
    assert {path.stem for path in PAGES.glob("*")} == set(CODES)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
def test_a_page_says_all_that_it_should(code: Code) -> None:
    """Head, what it means in one line as in the registry, all sections in order with text, two commands to confirm by."""
    page = (PAGES / f"{code.code}.md").read_text(encoding="utf-8")
    head, one_line = [line for line in page.splitlines() if line][:2]
    assert head == f"# {code.code} {code.name}"
    assert one_line == f"{code.title[0].upper()}{code.title[1:]}."
    found = sections(page)
    assert tuple(heading for heading in found if heading != "Example") == SECTIONS
    assert "Example" not in found or list(found).index("Example") == SECTIONS.index("Confirm by hand")
    assert all(len(text.strip()) > 5 for text in found.values())
    by_hand = re.findall(r"^```sh\n(.+?)^```", found["Confirm by hand"], flags=re.MULTILINE | re.DOTALL)
    assert len("".join(by_hand).splitlines()) >= 2
    assert page.count("```") % 2 == 0


@pytest.mark.parametrize("code", CODES)
def test_commands_to_confirm_by_only_read(code: str) -> None:
    """Whoever confirms a finding changes nothing."""
    text = sections((PAGES / f"{code}.md").read_text(encoding="utf-8"))["Confirm by hand"]
    commands = re.findall(r"^```sh\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)
    changes = re.compile(
        r"kubectl (?:-n \S+ )?(?:delete|apply|patch|edit|scale|drain|cordon|rollout)\b"
        r"|iptables(?:-\w+)? (?:-t \w+ )?-[ADIFXRPZ]\b|-restore\b|\bsysctl -w|\bconntrack -[DFU]\b"
        r"|\bnft (?:-\w+ )*(?:add|delete|flush|insert|replace|destroy|reset)\b|>\s*/(?!dev/null)"
    )
    assert [found[0] for found in map(changes.search, commands) if found] == []


@pytest.mark.parametrize("code", CODES)
def test_links_between_pages_lead_somewhere(code: str) -> None:
    """A page names other codes only as links to pages that are there."""
    page = (PAGES / f"{code}.md").read_text(encoding="utf-8")
    body = page.partition("\n")[2]
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", body):
        if target.startswith("https://"):
            assert (ROOT / target.partition("/blob/main/")[2]).is_file(), target
        else:
            assert target == f"{text}.md"
            assert (PAGES / target).is_file(), target
    assert set(CODE.findall(re.sub(r"\[[^\]]+\]\([^)]+\)", "", body))) == set()


def test_the_index_is_what_is_made_from_the_registry() -> None:
    """docs/codes/README.md is generated: `make generated` brings it up to date."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_code_index import INDEX, index
    finally:
        sys.path.pop(0)
    assert INDEX.read_text(encoding="utf-8") == index()
