"""`trace`: the way of a packet on one node."""

from __future__ import annotations

from typing import Any

import click

from .help import Command
from .options import CONTEXT, kube_options, node_options


@click.command("trace", cls=Command, context_settings=CONTEXT)
@click.argument("service", metavar="SERVICE")
@click.option(
    "--from",
    "client",
    type=click.Choice(["pod", "node", "outside", "hairpin"]),
    default="pod",
    show_default=True,
    help="Who dials: a pod on the node, the node itself, somebody outside, or an endpoint that may reach itself.",
)
@click.option(
    "--to",
    metavar="FRONTEND",
    help="What is dialled: IP:PORT, a node port's number, a port's name, or cluster, nodeport, lb, external, health"
    " (lb:https for one port of several). Default: the cluster IP and its first port.",
)
@click.option("--node", metavar="NAME", help="The node to trace on (default: the first that can be verified).")
@click.option("-o", "--output", default="tree", show_default=True, metavar="FORMAT[=FILE]",
              help="One of tree, json, mermaid, dot, svg.")  # fmt: skip
@click.option("--output-file", metavar="PATH", help="Write it here instead of to stdout.")
@click.option("--commands", is_flag=True, help="Say with which commands, which only read, each hop can be seen by hand.")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Service (default: the context's).")
@click.option(
    "--snapshot",
    metavar="PATH",
    help="Read a saved snapshot (folder or .tar.gz; demo: the one that comes with the plugin).",
)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colour.")
@click.option("--allow-partial", is_flag=True, help="What could not be verified does not count (exit 0 instead of 3).")
@kube_options
@node_options
@click.option("-v", "--verbose", count=True, help="Tell every branch in full, and say more on stderr.")
def command(**given: Any) -> int:
    """The way that a packet takes on one node, rule by rule, and what each is for.

    \b
    Examples:
      # What happens when a pod dials the Service's cluster IP
      kubectl svcroute trace kuard

      # A pod that reaches itself through its own Service
      kubectl svcroute trace kuard --from hairpin

      # A client outside that dials a node port, and the commands to see each step by hand
      kubectl svcroute trace web -n shop --from outside --to nodeport --node kubworker3 --commands

      # The same as a picture
      kubectl svcroute trace web -n shop --from outside --to lb:https -o svg=way.svg
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..trace.run import run_trace  # noqa: PLC0415

    return run_trace(given)
