"""The command line: options in, one call, text out; `main` alone decides the exit status (design.md, section 5).

`kubectl svcroute kuard` names no subcommand: `route` finds out whether the first word that is no option is one, and puts
`check` before everything when it is not. A Service that bears a subcommand's name is reached as `svc/trace`.

Nothing here imports kubernetes, paramiko or any other stage before a command needs it: `--help` has to be instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import PLUGIN, PROGRAM, __version__
from .command_help import Group, write_options
from .command_options import (
    COMPLETE,
    CONTEXT,
    kube_options,
    node_options,
    output_options,
    part_options,
    verbose_option,
    which_options,
)
from .errors import SvcrouteError, UsageError
from .model.report import ExitCode

if TYPE_CHECKING:
    from .options import Settings


def _program() -> str:
    """How the user calls it: kubectl shows its plugins as its own commands."""
    return f"kubectl {PLUGIN}" if os.path.basename(sys.argv[0]).startswith("kubectl-") else PROGRAM  # noqa: PTH119


LAZY: dict[str, str] = {
    "merge": "One report of the reports of all shards.",
    "probe": "Dial a Service from nodes or a pod, and see where it goes.",
    "job": "Manifests of a run inside the cluster; --collect: what it found.",
    "completion": "Let the shell complete this plugin's words, through kubectl's completion.",
}
"""Subcommands that live in a module of their own, `commands/NAME.py`, which offers `command`: name -> short help.

They load when they are called: what one command needs, another's start does not pay for.
"""


class _Group(Group):
    """The whole plugin. Its help shows the examples first, as kubectl's does."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Every subcommand, those of `commands/` last."""
        return [*self.commands, *LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, loaded when it is asked for."""
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module  # noqa: PLC0415

        module = import_module(f".commands.{cmd_name.replace('-', '_')}", __package__)
        command: click.Command = module.command
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(_INTRO.format(program=_program()))
        with formatter.section("Commands"):
            rows = [(name, self.commands[name].get_short_help_str(70)) for name in self.commands if name != "check"]
            rows += LAZY.items()
            formatter.write_dl(rows)
        write_options(check, ctx, formatter)
        formatter.write(_STATUSES.format(program=_program()))


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
    return _check(_settings(given))


@cli.command(short_help="The whole thing on a cluster that comes with the plugin.")
@output_options
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Services.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace.")
def demo(**given: Any) -> int:
    """The whole thing on a cluster that comes with the plugin: five nodes, one of them with a fault.

    \b
    Examples:
      # One Service, of which one node lacks a rule
      kubectl svcroute demo

      # All Services of that cluster, as a page for a browser
      kubectl svcroute demo -A -o html=demo.html
    """  # noqa: D301 - as above
    from .demo import demo_settings  # noqa: PLC0415

    return _check(demo_settings(given))


@cli.command(short_help="The way that a packet takes on one node, rule by rule.")
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
def trace(**given: Any) -> int:
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
    """  # noqa: D301 - as above
    from .trace_session import run_trace  # noqa: PLC0415

    return run_trace(given)


@cli.group(cls=Group, context_settings=CONTEXT, short_help="Keep what was read of a cluster, to look at it again.")
def snapshot() -> None:
    """Keep what was read of a cluster, to look at it again or to send it to a colleague.

    \b
    Examples:
      # Keep the whole cluster, then look at it as often as you like
      kubectl svcroute snapshot save audit.tar.gz
      kubectl svcroute -A --snapshot audit.tar.gz
    """  # noqa: D301 - as above


@snapshot.command("save", short_help="Read the API and the nodes, and keep it in a file or a folder.")
@click.argument("path", metavar="PATH")
@which_options
@kube_options
@node_options
@click.option("--redact", is_flag=True, help="Leave out annotations that no check needs.")
@verbose_option
def snapshot_save(**given: Any) -> int:
    """Read the API and the nodes, and keep it in PATH: a folder, or a .tar.gz.

    Secrets are not part of it: no kubeconfig, no keys, no environment.

    \b
    Examples:
      # All Services and all nodes
      kubectl svcroute snapshot save audit.tar.gz

      # One node, without annotations that no check needs
      kubectl svcroute snapshot save node.tar.gz --node kubworker3 --redact
    """  # noqa: D301 - as above
    from .session import save  # noqa: PLC0415

    path, redact = given.pop("path"), given.pop("redact")
    return save(_settings(given), path, redact=redact)


@cli.command(short_help="What a finding means, why it happens, and what to do.")
@click.argument("code", required=False)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colour.")
def explain(code: str | None, color: str) -> int:
    """What a finding means, why it happens, and what to do. Without CODE: the list of all.

    \b
    Examples:
      # By its code, or by its name
      kubectl svcroute explain SR201
      kubectl svcroute explain backend-missing

      # Every code there is
      kubectl svcroute explain
    """  # noqa: D301 - as above
    from .explain import explain as show  # noqa: PLC0415

    click.echo(show(code, color=color), nl=False, color=True)  # what colour there is was asked for
    return ExitCode.OK


def _settings(given: dict[str, Any]) -> Settings:
    from .options import settings  # noqa: PLC0415

    return settings(given)


def _check(found: Settings) -> int:
    from .session import run  # noqa: PLC0415

    return run(found)


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
        if (word in cli.commands and word != "check") or word in LAZY:
            return [word, *words[:at], *words[at + 1 :]]
        break
    if words[:1] == ["check"]:
        words[0] = "svc/check"
    return ["check", *words]


def main() -> NoReturn:
    """Run the plugin and exit with a status of design.md, section 5.

    click ends with 1 on its own errors and Python does on a traceback; 1 means findings here, so neither may pass.
    """
    from .startup import prepare  # noqa: PLC0415

    prepare()
    if sys.argv[1:2] == [COMPLETE]:
        from .completion import main as complete  # noqa: PLC0415

        complete(sys.argv[2:])
    try:
        status = cli.main(args=route(sys.argv[1:]), prog_name=_program(), standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = ExitCode.CANNOT_RUN
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        status = ExitCode.INTERRUPTED
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        status = ExitCode.CANNOT_RUN
    except SvcrouteError as error:
        click.echo(f"error: {error}", err=True)
        status = ExitCode.CANNOT_RUN
    except BrokenPipeError:
        # The reader of our output went away (`| head`): what was found cannot be told any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = ExitCode.CANNOT_RUN
    except Exception as error:  # the last resort, so that a bug is not taken for a finding
        if "-v" in sys.argv or "-vv" in sys.argv or "--verbose" in sys.argv:
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        click.echo(
            f"error: a bug in {PROGRAM} {__version__}: {type(error).__name__}: {error}"
            " (run again with -v for the traceback, and report it)",
            err=True,
        )
        status = ExitCode.CANNOT_RUN
    sys.exit(int(status or 0))
