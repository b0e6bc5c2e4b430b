"""`kubectl svcroute job`: the manifests of a run inside the cluster; `--collect`: what it found."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UsageError
from .help import Command
from .options import CONTEXT, duration, kube_options, output_options


@click.command(cls=Command, context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME | svc/NAME]...")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Services (default: every namespace).")
@click.option("-l", "--selector", metavar="LABELS", help="Label selector of the Services.")
@click.option("--shards", type=click.IntRange(1, 1000), default=10, show_default=True, metavar="N", help="Parts of the nodes.")
@click.option(
    "--via",
    type=click.Choice(["exec", "ssh", "local"]),
    default="exec",
    show_default=True,
    help="How pods read nodes: exec into kube-proxy's pods, SSH, or each its own (a DaemonSet).",
)
@click.option("--schedule", metavar="CRON", help="A CronJob that runs then, such as '17 3 * * *'.")
@click.option("--name", default="svcroute", show_default=True, metavar="NAME", help="Name of everything that is made.")
@click.option("--job-namespace", default="svcroute", show_default=True, metavar="NAME", help="Namespace that it runs in.")
@click.option("--image", metavar="IMAGE", help="The program's image (default: that of this version).")
@click.option("--ssh-secret", default="svcroute-ssh", show_default=True, metavar="NAME", help="Secret with `id`, `known_hosts`.")
@click.option("--ssh-user", default="root", show_default=True, metavar="USER", help="User to log in to nodes as.")
@click.option("--collect", is_flag=True, help="Gather the reports of the last run, and merge them.")
@click.option("--wait", callback=duration, default="0s", metavar="DURATION", help="With --collect: wait for pods to end.")
@click.option("--within", callback=duration, default="15m", metavar="DURATION", help="With --collect: as of merge.")
@output_options
@kube_options
def command(collect: bool, wait: float, within: float, **given: Any) -> int:
    """Print the manifests of a run inside the cluster, in shards. It applies nothing; kubectl does that.

    By exec or SSH it is an Indexed Job (a CronJob with --schedule), whose pods each take a shard of the nodes; locally a
    DaemonSet. All else is for kustomize: docs/in-cluster.md shows how. The Job ends as failed when there are findings.

    \b
    Examples:
      # Look at it; `kubectl apply -f -` behind a pipe runs it
      kubectl svcroute job --shards 20

      # What it found, as one report; the exit status is that of a check
      kubectl svcroute job --collect --wait 10m

      # Every night
      kubectl svcroute job --schedule '17 3 * * *' --via ssh
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are
    if collect:
        return _collect(given, wait, within)
    return _print(given)


def _print(given: dict[str, Any]) -> int:
    import yaml  # noqa: PLC0415 - only what prints YAML needs it

    from ..shards.manifests import IMAGE, Plan, manifests  # noqa: PLC0415

    for option, word in (("outputs", "-o"), ("output_file", "--output-file"), ("no_headers", "--no-headers")):
        if given.get(option):
            raise UsageError(f"{word} is about a report: it goes with --collect")
    if given["schedule"] and given["via"] == "local":
        raise UsageError("--schedule makes a CronJob, and --via local needs a pod on each node: leave out one of them")
    plan = Plan(
        name=given["name"],
        namespace=given["job_namespace"],
        image=given["image"] or IMAGE,
        shards=given["shards"],
        via=given["via"],
        schedule=given["schedule"] or "",
        ssh_secret=given["ssh_secret"],
        ssh_user=given["ssh_user"],
        words=_words(given),
    )
    text = yaml.safe_dump_all(manifests(plan), sort_keys=False, default_flow_style=False, width=120, explicit_start=False)
    click.echo(f"# A run of kubectl svcroute inside the cluster. Review it, then: kubectl apply -f -\n{text}", nl=False)
    return 0


def _words(given: dict[str, Any]) -> tuple[str, ...]:
    """What the pods are asked for, in the words of the command line."""
    from ..run.settings import settings  # noqa: PLC0415

    names, namespace, selector = given["names"], given["namespace"], given["selector"]
    everywhere = not (names or namespace)
    settings({"names": names, "namespace": namespace, "selector": selector, "all_namespaces": everywhere})
    if names and not namespace:
        raise UsageError("name the namespace of the Services too (-n): the pods know no kubeconfig's")
    words = [*names]
    words += ["-n", namespace] if namespace else ["-A"]
    return (*words, *(["-l", selector] if selector else []))


def _collect(given: dict[str, Any], wait: float, within: float) -> int:
    from ..collect.kube import KubeOptions, connect  # noqa: PLC0415
    from ..run.check import write  # noqa: PLC0415
    from ..run.settings import settings  # noqa: PLC0415
    from ..shards.merge import merge  # noqa: PLC0415
    from ..shards.pod_reports import gather  # noqa: PLC0415

    found = settings({**given, "names": (), "namespace": None, "selector": None})
    with connect(KubeOptions(**found.kube), on_warning=lambda text: click.echo(f"warning: {text}", err=True)) as api:
        gathered = gather(
            api, given["job_namespace"], given["name"], wait=wait, say=lambda text: click.echo(text, err=True)
        )
    merged = merge(gathered.parts, within=within, strict=found.strict)
    for word in (*gathered.words, *merged.words):
        click.echo(word, err=True)
    write(merged.report, found)
    return merged.report.exit_code(fail_on=found.fail_on, allow_partial=found.allow_partial)
