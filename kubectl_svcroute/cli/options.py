"""Options that several commands share (design.md, section 5): what is asked for, the API, the nodes, the output.

Flags follow kubectl where kubectl has them. Nothing here loads more than click.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..render import FORMATS
from .help import API, GENERAL, NODES, OUTPUT, PART, WHICH, put_under

_Command = TypeVar("_Command", bound=Callable[..., Any])

COMPLETE = "__complete"
"""The first word of kubectl's question, where a plugin has but one file (`cli/completion.py`)."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def duration(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds of `30`, `30s`, `1m30s`; 0 is no limit, as in kubectl."""
    if value is None:
        return None
    import re  # noqa: PLC0415

    text = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise click.BadParameter(f"{value!r} is no duration: write 30s, 2m or 1m30s", param=param)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in parts)


def _options(heading: str, *decorators: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Options that `--help` shows under a heading."""

    def decorate(command: _Command) -> _Command:
        before = len(getattr(command, "__click_params__", ()))
        for decorator in reversed(decorators):
            command = decorator(command)
        put_under(heading, getattr(command, "__click_params__", [])[before:])
        return command

    return decorate


which_options = _options(
    WHICH,
    click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Services (default: the context's)."),
    click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace."),
    click.option("-l", "--selector", metavar="LABELS", help="Label selector, as in kubectl: app=web,tier!=cache."),
    click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this node (repeatable)."),
    click.option(
        "--node-selector", metavar="LABELS", help="Only nodes with these labels, as in kubectl: type!=virtual-kubelet."
    ),
    click.option(
        "--snapshot",
        metavar="PATH",
        help="Read a saved snapshot (folder or .tar.gz; demo: the one that comes with the plugin).",
    ),
)
kube_options = _options(
    API,
    click.option("--kubeconfig", metavar="FILE", help="Path of the kubeconfig file."),
    click.option("--context", "kube_context", metavar="NAME", help="Name of the kubeconfig context."),
    click.option("--cluster", metavar="NAME", help="Name of the kubeconfig cluster."),
    click.option("--user", metavar="NAME", help="Name of the kubeconfig user."),
    click.option("-s", "--server", metavar="URL", help="Address of the API server."),
    click.option("--token", metavar="TOKEN", help="Bearer token for the API server."),
    click.option("--as", "as_user", metavar="USER", help="User to impersonate."),
    click.option("--as-group", "as_groups", multiple=True, metavar="GROUP", help="Group to impersonate (repeatable)."),
    click.option("--as-uid", metavar="UID", help="UID to impersonate."),
    click.option("--certificate-authority", metavar="FILE", help="Certificate authority file of the API server."),
    click.option("--insecure-skip-tls-verify", is_flag=True, help="Do not check the API server's certificate."),
    click.option("--tls-server-name", metavar="NAME", help="Name to expect in the API server's certificate."),
    click.option(
        "--request-timeout", callback=duration, metavar="DURATION", help="Limit of one API request with its retries (30s)."
    ),
)
node_options = _options(
    NODES,
    click.option(
        "--via",
        type=click.Choice(["auto", "ssh", "exec", "local"]),
        default="auto",
        show_default=True,
        help="How nodes are read: SSH, exec into their kube-proxy pods, or this machine itself.",
    ),
    click.option(
        "--conntrack",
        is_flag=True,
        help="Read the connections to these Services too: UDP flows held to endpoints that are gone.",
    ),
    click.option("--ssh-user", envvar="SVCROUTE_SSH_USER", metavar="USER", help="User to log in to nodes as."),
    click.option("-i", "--identity", "identities", multiple=True, metavar="FILE", help="SSH private key (repeatable)."),
    click.option("--ssh-port", type=click.IntRange(1, 65535), metavar="PORT", help="Port of the nodes' sshd."),
    click.option("-J", "--jump", envvar="SVCROUTE_SSH_JUMP", metavar="[USER@]HOST", help="Bastion to reach nodes through."),
    click.option(
        "--ssh-address",
        type=click.Choice(["internal", "external", "hostname", "name"]),
        multiple=True,
        help="Which address of a node to dial (repeatable, in order).",
    ),
    click.option("--ssh-config", metavar="FILE", help="Another ssh configuration than ~/.ssh/config."),
    click.option("--ssh-accept-new-host-keys", is_flag=True, help="Accept keys of hosts that are not known yet."),
    click.option("-K", "--ask-sudo-pass", is_flag=True, help="Ask for the sudo password of the nodes, once."),
    click.option(
        "--parallel", type=click.IntRange(1, 512), default=32, show_default=True, metavar="N", help="Nodes read at once."
    ),
    click.option(
        "--timeout",
        callback=duration,
        default="120s",
        show_default=True,
        metavar="DURATION",
        help="Limit for reading one node.",
    ),
    click.option(
        "--settle",
        callback=duration,
        default="10s",
        show_default=True,
        metavar="DURATION",
        help="How long a difference has to stay before it is a finding; 0 for a single look.",
    ),
)
part_options = _options(
    PART,
    click.option(
        "--shard",
        metavar="I/N",
        help="Only the I-th of N parts of the nodes, by hash of their names; job/N takes I from an Indexed Job, node/NAME"
        " is one node. `merge` makes one report of all parts.",
    ),
    click.option("--cached", is_flag=True, help="First read from the API server's cache; differences are read afresh."),
    click.option("--jitter", callback=duration, metavar="DURATION", help="Begin at a random moment within this time."),
)
output_options = _options(
    OUTPUT,
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        metavar="FORMAT[=FILE]",
        help=f"One of {', '.join(FORMATS)} (repeatable; with =FILE written there).",
    ),
    click.option("--output-file", metavar="PATH", help="Write the report here instead of to stdout."),
    click.option("--no-headers", is_flag=True, help="Tables without a head line."),
    click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colour."),
    click.option(
        "--fail-on",
        type=click.Choice(["error", "warning", "never"]),
        default="warning",
        show_default=True,
        help="From which severity on findings end with exit status 1.",
    ),
    click.option("--strict", is_flag=True, help="Other programs' rules that could not be judged count as not verified."),
    click.option("--allow-partial", is_flag=True, help="What could not be verified does not count (exit 0 instead of 3)."),
)
verbose_option = _options(
    GENERAL, click.option("-v", "--verbose", count=True, help="Say more on stderr (-vv: the ssh and API traffic).")
)
