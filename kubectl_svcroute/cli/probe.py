"""`probe`: real connections to a Service, and where they went. The one command that does more than read."""

from __future__ import annotations

from typing import Any

import click

from .help import Command
from .options import CONTEXT, duration, kube_options, node_options, output_options, verbose_option


@click.command(cls=Command, context_settings=CONTEXT, short_help="Dial a Service from nodes or a pod, and see where it goes.")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--from", "origin", metavar="pod/NAME", help="Dial from inside this pod (pods/exec) instead of from nodes.")
@click.option("-c", "--container", metavar="NAME", help="Container of that pod (default: its first).")
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N",
              help="Connections to each address, from each place.")  # fmt: skip
@click.option("--rate", type=click.IntRange(1, 200), default=20, show_default=True, metavar="N",
              help="Connections a second from each place.")  # fmt: skip
@click.option("--wait", callback=duration, default="2s", show_default=True, metavar="DURATION",
              help="How long a connection may take.")  # fmt: skip
@click.option("--payload", metavar="TEXT", help="What to send to UDP ports (port 53 gets a DNS query without it).")
@click.option("--payload-hex", metavar="DIGITS", help="The same in hexadecimal.")
@click.option("--capture", is_flag=True, help="Watch with tcpdump too: the SYN, and where it goes behind the rules.")
@click.option("--dry-run", is_flag=True, help="Print every command that would be run, and dial nothing.")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Services (default: the context's).")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only from this node (repeatable).")
@kube_options
@node_options
@output_options
@verbose_option
def command(**given: Any) -> int:
    """Open real connections to a Service, from every node or from a pod, and find where each went.

    TCP connections are opened and closed again; nothing is sent in them. UDP ports get a datagram each. What was found is
    set beside what the rules say, and looked at a second time. Nothing is installed or written on a node.

    \b
    Examples:
      kubectl svcroute probe kuard
      kubectl svcroute probe kuard --node kubworker3 --capture
      kubectl svcroute probe kuard --from pod/client
      kubectl svcroute probe web -n shop --dry-run
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..probe.run import run_probe  # noqa: PLC0415

    return run_probe(given)
