"""`--help` of every command, in kubectl's manner; what it and the README show as examples can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kubectl_svcroute.checks.registry import CODES
from kubectl_svcroute.cli.root import check, cli
from kubectl_svcroute.run.explain import listing

ROOT = Path(__file__).parent.parent
PROGRAM = "kubectl svcroute"


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, the plugin alone first."""
    yield ()
    context = click.Context(cli)

    def under(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            if found is not None:
                yield (*words, name)
                if isinstance(found, click.Group):
                    yield from under(found, (*words, name))

    yield from under(cli, ())


COMMANDS = list(commands())


def text_of(words: tuple[str, ...], columns: int = 80) -> str:
    done = CliRunner().invoke(cli, [*words, "--help"], prog_name=PROGRAM, terminal_width=columns)
    assert done.exit_code == 0, done.output
    return done.output


def examples(text: str) -> list[str]:
    """The commands among the examples of a help."""
    found = re.search(r"^Examples:\n((?:  .*\n|\n(?=  ))+)", text, re.MULTILINE)
    assert found, "no examples"
    return [line.strip() for line in found[1].splitlines() if line.strip() and not line.startswith("  #")]


def parse(line: str) -> None:
    """Take a command line apart as the program would, and run nothing. Raises for what it would refuse."""
    words = shlex.split(line.replace("kubectl-svcroute", PROGRAM), comments=True)
    words = words[: words.index("|")] if "|" in words else words  # what comes behind is somebody else's
    assert words[:2] == ["kubectl", "svcroute"]
    command: click.Command = check
    words, context = words[2:], click.Context(cli, info_name=PROGRAM)
    found = cli.get_command(context, words[0]) if words else None
    while found is not None:
        command, words = found, words[1:]
        found = command.get_command(context, words[0]) if isinstance(command, click.Group) and words else None
    assert not isinstance(command, click.Group), f"{line}: no such command"
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_examples_first(words: tuple[str, ...]) -> None:
    """What it is for, examples, options under headings, and the usage last; prose and options fit the terminal."""
    text = text_of(words)
    heads = [line for line in text.splitlines() if re.fullmatch(r"[A-Z].*:", line)]
    assert heads[0] == "Examples:"
    assert heads[-1] == "Usage:"
    assert len(heads) == len(set(heads))
    assert text.index("Examples:") > 10
    behind = text[text.index("\n\n", text.index(examples(text)[-1])) :]
    assert max(map(len, behind.splitlines())) <= 80
    assert "\b" not in text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_can_be_typed(words: tuple[str, ...]) -> None:
    """Each is a command of its own kind with options that there are."""
    for line in examples(text_of(words)):
        parse(line)


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/ci/*")])
LEAST = {"README.md": 15, "docs/ci/cronjob.yaml": 1, "docs/ci/github-actions.yml": 1, "docs/ci/gitlab-ci.yml": 1}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_the_documentation_shows_can_be_typed(page: Path) -> None:
    """No command in a code block or a recipe has an option that is gone."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        text = "".join(re.findall(r"^```(?:sh|console|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^[ #]*(?:\$ |- |exec |\S+=\S+ |[\d* ]+root +)*\S*?(kubectl[- ]svcroute .+)$", text, re.MULTILINE)
    for line in lines:
        if not line.endswith("says more"):
            parse(line)
    assert len(lines) >= LEAST.get(str(page.relative_to(ROOT)), 0)


def test_the_list_of_codes_fits_a_terminal_and_a_script() -> None:
    """Wrapped on a terminal; a line a code in a pipe, each with its name and what it means."""
    for columns in (60, 80, 200):
        assert max(map(len, listing(columns).splitlines())) <= max(columns, 80)
    lines = listing(None).splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(CODES)
    assert all(line.endswith(code.title) and f" {code.name} " in line for line, code in zip(lines, CODES.values(), strict=True))


@pytest.mark.parametrize("arguments", [["demo"], ["explain", "SR201"]])
def test_colour_that_is_asked_for_stays_in_a_pipe(arguments: list[str]) -> None:
    """`--color always | less -R` is what it is for; without it a pipe gets none."""
    assert "\x1b[" in CliRunner().invoke(cli, [*arguments, "--color", "always"]).output
    assert "\x1b[" not in CliRunner().invoke(cli, arguments).output
