"""The plugin's commands: `check`, which is the plugin without a command's name, and the table of all others.

`kubectl svcroute kuard` names no subcommand: `route` finds out whether the first word that is no option is one, and puts
`check` before everything when it is not. A Service that bears a subcommand's name is reached as `svc/trace`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import PLUGIN, PROGRAM, __version__
from .help import Group, write_options
from .options import (
    CONTEXT,
    kube_options,
    node_options,
    output_options,
    part_options,
    verbose_option,
    which_options,
)


def program() -> str:
    """How the user calls it: kubectl shows its plugins as its own commands."""
    return f"kubectl {PLUGIN}" if os.path.basename(sys.argv[0]).startswith("kubectl-") else PROGRAM  # noqa: PTH119


LAZY: dict[str, str] = {
    "demo": "The whole thing on a cluster that comes with the plugin.",
    "trace": "The way that a packet takes on one node, rule by rule.",
    "snapshot": "Keep what was read of a cluster, to look at it again.",
    "explain": "What a finding means, why it happens, and what to do.",
    "merge": "One report of the reports of all shards.",
    "probe": "Dial a Service from nodes or a pod, and see where it goes.",
    "job": "Manifests of a run inside the cluster; --collect: what it found.",
    "version": "Which program this is, where it comes from, and which kube-proxy it knows.",
    "completion": "Let the shell complete this plugin's words, through kubectl's completion.",
}
"""Subcommands, each in a module of its own, `cli/NAME.py`, which offers `command`: name -> short help.

They load when they are called: what one command needs, another's start does not pay for.
"""


class _Group(Group):
    """The whole plugin. Its help shows the examples first, as kubectl's does."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Every subcommand, and `check`, which is the plugin without one."""
        return [*self.commands, *LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, loaded when it is asked for."""
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module  # noqa: PLC0415

        module = import_module(f".{cmd_name.replace('-', '_')}", __package__)
        command: click.Command = module.command
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(_INTRO.format(program=program()))
        with formatter.section("Commands"):
            formatter.write_dl([*LAZY.items()])
        write_options(check, ctx, formatter)
        formatter.write(_STATUSES.format(program=program()))


_INTRO = """\
Does every node send every client of a Service to exactly the endpoints that the API says it should?

Examples:
  # Check one Service on every node
  {program} kuard

  # Check every Service of the cluster, as JSON; the exit status decides
  {program} -A -o json

  # The way of a packet on one node, rule by rule
  {program} trace kuard --from pod --node kubworker3

  # Look at the cluster that comes with the plugin
  {program} demo

  # Keep what was read, and look at it again elsewhere
  {program} snapshot save audit.tar.gz
  {program} kuard --snapshot audit.tar.gz

  # What a finding means, and what to do
  {program} explain SR201
"""
_STATUSES = """
Exit status:
  0    everything asked for was verified, and nothing was found
  1    findings at or above --fail-on
  2    could not run: wrong usage, no cluster, no permission, no such Service
  3    no finding, but something could not be verified (--allow-partial: 0)
  130  interrupted

Usage:
  {program} [NAME | svc/NAME]... [OPTIONS]
  {program} COMMAND [ARGS]...
"""


@click.group(cls=_Group, context_settings=CONTEXT)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Verify, node by node, that kube-proxy's rules send every client of a Service where the API says."""


@cli.command(hidden=True)
@click.argument("names", nargs=-1, metavar="[NAME | svc/NAME]...")
@which_options
@kube_options
@node_options
@part_options
@output_options
@verbose_option
def check(**given: Any) -> int:
    """Check Services on every node: does each send every client to exactly the endpoints that the API says it should?

    \b
    Examples:
      # One Service; several names and svc/NAME work too
      kubectl svcroute kuard

      # Every Service of a namespace with a label, on one node
      kubectl svcroute -n shop -l app=web --node kubworker3

      # The whole cluster, for a CI server and for people, at once
      kubectl svcroute -A -o junit=svcroute.xml -o html=svcroute.html -o table
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    from ..run.check import run  # noqa: PLC0415
    from ..run.settings import settings  # noqa: PLC0415

    return run(settings(given))


def route(arguments: Sequence[str]) -> list[str]:
    """Put `check` before everything unless the first word that is no option is a subcommand."""
    takes_value = {
        name for parameter in check.params if isinstance(parameter, click.Option) and not parameter.is_flag
        and not parameter.count for name in parameter.opts
    }  # fmt: skip
    at, words = 0, list(arguments)
    while at < len(words):
        word = words[at]
        if word == "--":
            break
        if word in ("-h", "--help", "--version") and at == 0:
            return words
        if word.startswith("-") and word != "-":
            at += 2 if word in takes_value else 1
            continue
        if word in LAZY:
            return [word, *words[:at], *words[at + 1 :]]
        break
    if words[:1] == ["check"]:
        words[0] = "svc/check"
    return ["check", *words]
