"""`kubectl svcroute merge`: one report of the reports of all shards."""

from __future__ import annotations

from typing import Any

import click

from .help import Command
from .options import CONTEXT, duration, output_options


@click.command(cls=Command, context_settings=CONTEXT)
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option(
    "--within",
    callback=duration,
    default="15m",
    metavar="DURATION",
    show_default=True,
    help="How far apart shards may have read a live cluster; 0 for however far.",
)
@output_options
def command(reports: tuple[str, ...], within: float, **given: Any) -> int:
    """One report of the reports of all shards: the same as that of one run over all nodes.

    REPORT is what a run with --shard wrote with -o shard, -o json or -o yaml; the log of a pod that did will do, and - is
    standard input. What does not belong together is refused (exit status 2). A shard that is missing leaves its nodes not
    verified (exit status 3).

    \b
    Examples:
      # Two parts of the nodes, perhaps on two machines, and one report
      kubectl svcroute -A --shard 1/2 -o shard=part1.json
      kubectl svcroute -A --shard 2/2 -o shard=part2.json
      kubectl svcroute merge part1.json part2.json

      # For a script
      kubectl svcroute merge part1.json part2.json -o json --fail-on error
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..run.check import write  # noqa: PLC0415
    from ..run.settings import settings  # noqa: PLC0415
    from ..shards.merge import merge  # noqa: PLC0415
    from ..shards.read import read_parts  # noqa: PLC0415

    found = settings(given)
    merged = merge([part for path in reports for part in read_parts(path)], within=within, strict=found.strict)
    for word in merged.words:
        click.echo(word, err=True)
    write(merged.report, found)
    return merged.report.exit_code(fail_on=found.fail_on, allow_partial=found.allow_partial)
