"""`--help` in kubectl's manner: what a command is for, examples, options by what they are about, and the usage last.

A command's docstring holds its examples, under `Examples:` and behind click's mark for lines that stay as they are; here they
come first, because most people look no further. Options that several commands share stand under headings (`HEADINGS`), in
one order everywhere.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from ..model.lazy_regex import pattern

OWN, GENERAL = "Options", "More"
WHICH, OUTPUT, PART, NODES, API = (
    "Which Services, and on which nodes",
    "What is written, and the exit status",
    "Parts of a large cluster",
    "How nodes are read",
    "The cluster, as for kubectl",
)
HEADINGS = (OWN, WHICH, OUTPUT, PART, NODES, API, GENERAL)
"""In the order in which they are shown."""

_heading_of: dict[click.Parameter, str] = {}
_EXAMPLES = pattern(r"(?:\A|\n\n)\x08?\n?Examples:\n(?P<lines>(?:.*\S.*(?:\n|\Z)|\n(?=[ ]))+)")


def put_under(heading: str, parameters: list[click.Parameter]) -> None:
    """Show these options under a heading."""
    _heading_of.update(dict.fromkeys(parameters, heading))


def format_command(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The whole help of one command."""
    import textwrap  # noqa: PLC0415 - for help alone

    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    examples = _EXAMPLES.search(text)
    if examples:
        text = text[: examples.start()] + "\n\n" + text[examples.end() :]
    write_words(formatter, text)
    if examples:
        formatter.write("Examples:\n" + textwrap.indent(textwrap.dedent(examples["lines"]).strip("\n"), "  ") + "\n")
    if isinstance(command, click.Group):
        named = ((name, command.get_command(ctx, name)) for name in command.list_commands(ctx))
        write_commands(formatter, ((name, found) for name, found in named if found is not None))
    write_options(command, ctx, formatter)
    # What is hidden is run by its parent's name alone.
    path = ctx.parent.command_path if command.hidden and ctx.parent is not None else ctx.command_path
    formatter.write(f"\nUsage:\n  {path} {' '.join(command.collect_usage_pieces(ctx))}\n")


def write_words(formatter: click.HelpFormatter, text: str) -> None:
    """Paragraphs, each followed by an empty line; one that begins with click's mark stays as it is."""
    import textwrap  # noqa: PLC0415 - as above

    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        if paragraph.startswith("\b\n"):
            formatter.write(paragraph.removeprefix("\b\n") + "\n\n")
        elif paragraph:
            formatter.write(textwrap.fill(" ".join(paragraph.split()), formatter.width, break_on_hyphens=False) + "\n\n")


def write_commands(formatter: click.HelpFormatter, commands: Iterator[tuple[str, click.Command]]) -> None:
    """Subcommands with a line each."""
    with formatter.section("Commands"):
        formatter.write_dl([(name, command.get_short_help_str(formatter.width - 20)) for name, command in commands])


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Options under their headings; those that are no other's come first."""
    rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            own = GENERAL if "--help" in parameter.opts or "--version" in parameter.opts else OWN
            rows[_heading_of.get(parameter, own)].append(record)
    if not any(rows[heading] for heading in HEADINGS if heading != GENERAL):
        rows[OWN], rows[GENERAL] = rows[GENERAL], []
    for heading, found in rows.items():
        if found:
            with formatter.section(heading):
                formatter.write_dl(found, col_max=28)


class Command(click.Command):
    """A command with help in kubectl's manner."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What `--help` prints."""
        format_command(self, ctx, formatter)


class Group(click.Group):
    """A group of commands with help in kubectl's manner."""

    command_class = Command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What `--help` prints."""
        format_command(self, ctx, formatter)
