"""`snapshot save`: what was read of a cluster, in a file."""

from __future__ import annotations

from typing import Any

import click

from .help import Group
from .options import CONTEXT, kube_options, node_options, verbose_option, which_options


@click.group("snapshot", cls=Group, context_settings=CONTEXT)
def command() -> None:
    """Keep what was read of a cluster, to look at it again or to send it to a colleague.

    \b
    Examples:
      # Keep the whole cluster, then look at it as often as you like
      kubectl svcroute snapshot save audit.tar.gz
      kubectl svcroute -A --snapshot audit.tar.gz
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are


@command.command("save", short_help="Read the API and the nodes, and keep it in a file or a folder.")
@click.argument("path", metavar="PATH")
@which_options
@kube_options
@node_options
@click.option("--redact", is_flag=True, help="Leave out annotations that no check needs.")
@verbose_option
def save(**given: Any) -> int:
    """Read the API and the nodes, and keep it in PATH: a folder, or a .tar.gz.

    Secrets are not part of it: no kubeconfig, no keys, no environment.

    \b
    Examples:
      # All Services and all nodes
      kubectl svcroute snapshot save audit.tar.gz

      # One node, without annotations that no check needs
      kubectl svcroute snapshot save node.tar.gz --node kubworker3 --redact
    """  # noqa: D301 - see above
    from ..run.check import save as keep  # noqa: PLC0415
    from ..run.settings import settings  # noqa: PLC0415

    path, redact = given.pop("path"), given.pop("redact")
    return keep(settings(given), path, redact=redact)
