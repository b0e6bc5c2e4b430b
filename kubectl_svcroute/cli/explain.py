"""`explain`: what a finding means."""

from __future__ import annotations

import click

from ..errors import ExitCode
from .help import Command
from .options import CONTEXT


@click.command("explain", cls=Command, context_settings=CONTEXT)
@click.argument("code", required=False)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colour.")
def command(code: str | None, color: str) -> int:
    """What a finding means, why it happens, and what to do. Without CODE: the list of all.

    \b
    Examples:
      # By its code, or by its name
      kubectl svcroute explain SR201
      kubectl svcroute explain backend-missing

      # Every code there is
      kubectl svcroute explain
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..run.explain import explain  # noqa: PLC0415

    click.echo(explain(code, color=color), nl=False, color=True)  # what colour there is was asked for
    return ExitCode.OK
