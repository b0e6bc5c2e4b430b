"""`version`: which program this is, and where it comes from."""

from __future__ import annotations

import json

import click

from ..errors import ExitCode
from .help import Command
from .options import CONTEXT


@click.command(cls=Command, context_settings=CONTEXT)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="text or json.")
def command(output: str) -> int:
    """Print the version, the commit, how the program was installed, its Python and libraries, and which kube-proxy it knows.

    \b
    Examples:
      # For a bug report
      kubectl svcroute version -o json
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..run.about import about  # noqa: PLC0415

    found = about()
    if output == "json":
        click.echo(json.dumps(found.document(), indent=2))
        return ExitCode.OK
    rows = [
        ("Version", found.version),
        ("Commit", found.commit or "unknown"),
        ("Installed", f"{found.installed} ({found.path})"),
        ("Python", found.python),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in found.libraries if version)),
        ("kube-proxy", f"{found.kube_proxy[0]} to {found.kube_proxy[1]}"),
    ]
    for name, value in rows:
        click.echo(click.wrap_text(value, 80, f"{name + ':':<12}", " " * 12))
    return ExitCode.OK
