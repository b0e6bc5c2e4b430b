"""`demo`: the whole thing on a cluster that comes with the plugin."""

from __future__ import annotations

from typing import Any

import click

from .help import Command
from .options import CONTEXT, output_options


@click.command("demo", cls=Command, context_settings=CONTEXT)
@output_options
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Services.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace.")
def command(**given: Any) -> int:
    """The whole thing on a cluster that comes with the plugin: five nodes, one of them with a fault.

    \b
    Examples:
      # One Service, of which one node lacks a rule
      kubectl svcroute demo

      # All Services of that cluster, as a page for a browser
      kubectl svcroute demo -A -o html=demo.html
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..run.check import run  # noqa: PLC0415
    from ..run.demo import demo_settings  # noqa: PLC0415

    return run(demo_settings(given))
