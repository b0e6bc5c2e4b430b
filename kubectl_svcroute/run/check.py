"""One run: find what is asked for, read it, judge it, show it, say how it ended."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..audit.cluster import Audit
from ..errors import CollectError, ExitCode, UsageError
from ..model.fast_dataclass import replace
from ..model.lazy_regex import pattern
from ..model.report import Report
from ..model.selection import Selection, resolve_names
from ..model.snapshot import ApiObjects, NodeHandle, NodeOutcome, Snapshot, Unreachable
from .output_file import write_file
from .settings import Output, Settings

if TYPE_CHECKING:
    from ..collect.fanout import NodeReader, NodeTarget, Progress
    from ..collect.kube import KubeApi
    from ..collect.node_script import Connections
    from ..model.node_result import NodeResult
    from ..model.shard import ShardOf
    from ..shards.run import PartOf


def run(settings: Settings) -> int:
    """Check what is asked for and write the reports; returns the exit status."""
    if settings.note:
        click.echo(settings.note, err=True)
    if settings.jitter:
        import random  # noqa: PLC0415

        time.sleep(random.uniform(0, settings.jitter))  # noqa: S311 - so that many who start at once do not ask at once
    report, whole = _from_snapshot(settings) if settings.snapshot else _from_cluster(settings)
    write(report, settings)
    if not whole:
        click.echo("interrupted: what was not read yet is not verified", err=True)
        return ExitCode.INTERRUPTED
    return report.exit_code(fail_on=settings.fail_on, allow_partial=settings.allow_partial)


def save(settings: Settings, path: str, *, redact: bool) -> int:
    """Read a cluster, or another snapshot, and keep it; returns the exit status."""
    from ..collect.archive import load_snapshot  # noqa: PLC0415
    from ..collect.saving import save_snapshot  # noqa: PLC0415

    if settings.snapshot:
        source = load_snapshot(settings.snapshot)
        source = replace(source, nodes=_asked_handles(source, settings))
        saved = save_snapshot(source, path, redact=redact)
    else:
        with _cluster(settings) as (api, objects, reader):
            targets = _targets(objects, settings)
            from ..collect.fanout import handles, read_all  # noqa: PLC0415

            nodes = handles(reader, targets)
            snapshot = Snapshot(api=objects, nodes=nodes, origin=api.context_name)
            with _progress() as progress:
                outcomes = read_all(nodes, parallel=settings.parallel, node_timeout=_patience(settings), progress=progress)
                saved = save_snapshot(snapshot, path, outcomes=outcomes, redact=redact, facts={"context": api.context_name})
    unreachable = f", {saved.unreachable} of them unreachable" if saved.unreachable else ""
    click.echo(f"kept {saved.nodes} nodes in {saved.path}{unreachable}", err=True)
    return ExitCode.NOT_VERIFIED if saved.unreachable and not settings.allow_partial else ExitCode.OK


# ---- what is asked for ---------------------------------------------------------------------------------------------------


def select(api: ApiObjects, settings: Settings, namespace: str) -> Selection:
    """The Services and nodes that the options name. Raises UsageError for names that do not exist, and for nothing at all."""
    from ..parse.kube_objects import names_of  # noqa: PLC0415

    items = api.items("services")
    if settings.names:
        named = resolve_names(settings.names, names_of(items), namespace)
        return Selection(conntrack=settings.conntrack, strict=settings.strict, services=named)
    if settings.all_namespaces and not settings.selector:
        if not items:
            raise UsageError("nothing to check: the cluster shows no Service")
        return Selection(conntrack=settings.conntrack, strict=settings.strict)
    mine = []
    for item in items:
        meta = item.get("metadata") or {}
        if not settings.all_namespaces and meta.get("namespace") != namespace:
            continue
        if settings.selector and not matches_selector(settings.selector, meta.get("labels") or {}):
            continue
        mine.append(f"{meta.get('namespace')}/{meta.get('name')}")
    if not mine:
        where = "any namespace" if settings.all_namespaces else f"namespace {namespace}"
        what = f" with labels {settings.selector}" if settings.selector else ""
        names = {str((i.get("metadata") or {}).get("name")) for i in api.items("namespaces")}
        hint = f"; there is no namespace {namespace}" if names and not settings.all_namespaces and namespace not in names else ""
        raise UsageError(f"nothing to check: no Service{what} in {where}{hint}")
    return Selection(conntrack=settings.conntrack, strict=settings.strict, services=frozenset(mine))


_TERM = pattern(
    r"\s*(?:(?P<absent>!)\s*(?P<key0>[\w./-]+)|(?P<key>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)"
    r"|(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|\Z)"
)


def matches_selector(selector: str, labels: Mapping[str, str]) -> bool:
    """kubectl's label selectors: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, joined by commas.

    Raises UsageError for anything else.
    """
    at = 0
    while at < len(selector):
        found = _TERM.match(selector, at)
        if not found or found.end() == at:
            raise UsageError(f"-l {selector}: not a label selector, at {selector[at:]!r}")
        at = found.end()
        key = found["key0"] or found["key"]
        if found["absent"]:
            holds = key not in labels
        elif found["set"]:
            values = {value.strip() for value in found["values"].split(",")}
            holds = (labels.get(key) in values) if found["set"] == "in" else (labels.get(key) not in values)
        elif found["op"] == "!=":
            holds = labels.get(key) != found["value"]
        elif found["op"]:
            holds = labels.get(key) == found["value"]
        else:
            holds = key in labels
        if not holds:
            return False
    return True


def _known_node(wanted: str, names: Sequence[str]) -> str:
    """A node by its name, or by the first part of it. Raises UsageError for one that is not there."""
    same = [name for name in names if name == wanted] or [name for name in names if name.partition(".")[0] == wanted]
    if len(same) != 1:
        from difflib import get_close_matches  # noqa: PLC0415

        near = get_close_matches(wanted, names, n=3, cutoff=0.5)
        raise UsageError(f'node "{wanted}" not found' + (f"; did you mean {', '.join(near)}?" if near else ""))
    return same[0]


def _asked_nodes(settings: Settings, names: Sequence[str], items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The nodes of these names that the options ask for, in order. Raises UsageError for an unknown name, and for no node."""
    if settings.nodes:
        names = [_known_node(wanted, names) for wanted in settings.nodes]
    if settings.node_selector:
        labels = {str(item["metadata"]["name"]): item["metadata"].get("labels") or {} for item in items}
        names = [name for name in names if matches_selector(settings.node_selector, labels.get(name, {}))]
    if not names:
        which = f" with labels {settings.node_selector}" if settings.node_selector else ""
        raise UsageError(f"nothing to check: there is no node{which}")
    return sorted(set(names))


# ---- from a snapshot -----------------------------------------------------------------------------------------------------


def _asked_handles(snapshot: Snapshot, settings: Settings) -> tuple[NodeHandle, ...]:
    """The nodes of a snapshot; one that the API lists and the snapshot lacks is one that could not be read."""
    here = {handle.node: handle for handle in snapshot.nodes}
    items = snapshot.api.items("nodes")
    reasons = {str(item["metadata"]["name"]): not_ours(item) for item in items}

    def absent(name: str) -> Callable[[], NodeOutcome]:
        return lambda: Unreachable(node=name, reason=reasons[name] or "the snapshot holds nothing of this node")

    names = _asked_nodes(settings, list(dict.fromkeys([*here, *reasons])), items)
    return tuple(here.get(name) or NodeHandle(node=name, read=absent(name)) for name in names)


def _from_snapshot(settings: Settings) -> tuple[Report, bool]:
    from ..collect.archive import load_snapshot  # noqa: PLC0415

    if settings.snapshot is None:
        raise CollectError("no snapshot was named")
    snapshot = load_snapshot(settings.snapshot)
    selection = select(snapshot.api, settings, settings.namespace or "default")
    nodes = _asked_handles(snapshot, settings)
    if settings.shard is not None:
        return _part_of_snapshot(settings, settings.shard, snapshot, selection, nodes), True
    judge = Audit(snapshot.api, selection, alone=len(nodes) == 1)
    if judge.needs_inference:
        # Read twice, one at a time: a snapshot of many nodes is larger than memory may be.
        judge.learn(handle.read() for handle in nodes)
    return judge.report((handle.read() for handle in nodes), origin=snapshot.origin), True


def _part_of_snapshot(
    settings: Settings, shard: ShardOf, snapshot: Snapshot, selection: Selection, nodes: Sequence[NodeHandle]
) -> Report:
    from ..shards.run import PartOf  # noqa: PLC0415

    judge = Audit(snapshot.api, selection)
    if judge.needs_inference:
        # The others' files are here: they vote as they would in one run over all, and every part infers the same.
        judge.learn(handle.read() for handle in nodes)
    shard = _of_known(shard, [handle.node for handle in nodes])
    part = PartOf(
        of=shard,
        asked=settings.asked(settings.namespace or "default"),
        listed=tuple(handle.node for handle in nodes),
        api=snapshot.api,
        source="snapshot",
        everybody=True,
        origin=snapshot.origin,
    )
    return part.report(judge, [judge.node(handle.read()) for handle in nodes if shard.owns(handle.node)])


# ---- from a cluster ------------------------------------------------------------------------------------------------------


def not_ours(item: Mapping[str, Any]) -> str:
    """Why a Node runs no kube-proxy on Linux; empty when it may."""
    labels = (item.get("metadata") or {}).get("labels") or {}
    info = (item.get("status") or {}).get("nodeInfo") or {}
    if (labels.get("kubernetes.io/os") or info.get("operatingSystem") or "linux") != "linux":
        return "left out: it runs another system than Linux (--node-selector kubernetes.io/os=linux excludes it)"
    for label, value in (("type", "virtual-kubelet"), ("eks.amazonaws.com/compute-type", "fargate")):
        if labels.get(label) == value:
            return f"left out: it is not a machine of its own, by its label (--node-selector '{label}!={value}' excludes it)"
    return ""


def _targets(api: ApiObjects, settings: Settings) -> tuple[NodeTarget, ...]:
    """The nodes that the options ask for; those that are left out are among them, and the reader says why they are."""
    from ..collect.fanout import node_target  # noqa: PLC0415

    items = {str(item["metadata"]["name"]): item for item in api.items("nodes")}
    return tuple(node_target(items[name]) for name in _asked_nodes(settings, list(items), list(items.values())))


def _patience(settings: Settings) -> float:
    """Seconds for one node with all that belongs to it: connecting, retries, the command."""
    return (settings.timeout or 86400.0) * 2 + 60


def _collect(api: KubeApi, settings: Settings, *, cached: bool = False) -> ApiObjects:
    from ..collect.kube import collect_api  # noqa: PLC0415

    namespaces = None if settings.all_namespaces else [api.current_namespace]
    return collect_api(api, namespaces=namespaces, cached=cached)


@contextlib.contextmanager
def _cluster(settings: Settings) -> Iterator[tuple[KubeApi, ApiObjects, NodeReader]]:
    """The API, what it says, and a way to read nodes; closed at the end."""
    from ..collect.kube import KubeOptions, connect  # noqa: PLC0415

    def warn(text: str) -> None:
        click.echo(f"warning: {text}", err=True)

    with connect(KubeOptions(**settings.kube), on_warning=warn) as api:
        objects = _collect(api, settings, cached=settings.cached)
        left_out = {str(item["metadata"]["name"]): reason for item in objects.items("nodes") if (reason := not_ours(item))}
        reader = _reader(settings, api, objects, warn)
        if left_out:
            from ..collect.transports import Without  # noqa: PLC0415

            reader = Without(reader, left_out)
        try:
            yield api, objects, reader
        finally:
            reader.close()


def _connections(settings: Settings, api: KubeApi, objects: ApiObjects) -> Connections:
    """Which connections nodes are asked for: those to the Services asked for."""
    from ..collect.node_script import Connections  # noqa: PLC0415
    from ..parse.kube_objects import parse_service  # noqa: PLC0415

    wanted = select(objects, settings, api.current_namespace).services
    if wanted is None:
        return Connections()
    services = [s for s in map(parse_service, objects.items("services")) if s.key in wanted and not s.skipped]
    return Connections(
        addresses=tuple(dict.fromkeys(a for s in services for a in s.addresses)),
        ports=tuple(dict.fromkeys(p.node_port for s in services for p in s.ports if p.node_port)),
    )


def _reader(settings: Settings, api: KubeApi, objects: ApiObjects, warn: Callable[[str], None]) -> NodeReader:
    """The transports that --via asks for."""
    from ..collect.ssh import SshOptions, SshReader  # noqa: PLC0415
    from ..collect.transports import FirstOf, LocalReader  # noqa: PLC0415

    connections = _connections(settings, api, objects) if settings.conntrack else None
    if settings.via == "local":
        return LocalReader(connections=connections, command_timeout=settings.timeout or 86400.0)
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    password = ""
    if settings.ask_sudo_password:
        if not interactive:
            raise UsageError("-K asks for a password, and there is no terminal to ask on")
        password = click.prompt("sudo password of the nodes", hide_input=True, err=True)
    ssh = SshReader(SshOptions(**settings.ssh, sudo_password=password, batch=not interactive, connections=connections), warn=warn)
    if settings.via == "ssh":
        return ssh
    from ..collect.pod_exec import ExecReader  # noqa: PLC0415

    pods = ExecReader(api, objects.items("pods"), connections=connections, command_timeout=settings.timeout or 86400.0)
    return pods if settings.via == "exec" else FirstOf([ssh, pods])


def _from_cluster(settings: Settings) -> tuple[Report, bool]:
    from ..collect.refresh import changed_services, is_gone, refresh  # noqa: PLC0415
    from .live import Live, audit_live  # noqa: PLC0415

    began = time.time()
    listed = time.monotonic()
    with _cluster(settings) as (api, objects, reader):
        selection = select(objects, settings, api.current_namespace)
        targets = _targets(objects, settings)
        part = None
        if settings.shard is not None:
            part, targets = _part_of_cluster(settings, settings.shard, api, objects, targets, began)
        with _progress() as progress:
            live = Live(
                # Read afresh even where the first reading was from the cache: no finding rests on what may be old.
                refresh=lambda before: refresh(api, before, selection.services),
                changed=changed_services,
                is_gone=lambda node: part is None and is_gone(api, node),
                reader=reader,
                targets=targets,
                parallel=settings.parallel,
                node_timeout=_patience(settings),
                settle=settings.settle,
                progress=progress,
                say=(lambda text: click.echo(text, err=True)) if settings.verbose or sys.stderr.isatty() else (lambda _: None),
            )
            origin = f"context {api.context_name}"
            if part is None:
                return audit_live(live, objects, selection, origin=origin, listed=listed)
            return audit_live(live, objects, selection, origin=origin, listed=listed, conclude=partial(_conclude_part, part))


def _part_of_cluster(
    settings: Settings,
    shard: ShardOf,
    api: KubeApi,
    objects: ApiObjects,
    targets: tuple[NodeTarget, ...],
    began: float,
) -> tuple[PartOf, tuple[NodeTarget, ...]]:
    """The part that is asked for, and its nodes. No node may fall into it: then it says so."""
    from ..shards.run import PartOf  # noqa: PLC0415

    shard = _of_known(shard, [target.name for target in targets])
    part = PartOf(
        of=shard,
        asked=settings.asked(api.current_namespace),
        listed=tuple(target.name for target in targets),
        api=objects,
        source="live",
        everybody=False,
        began=began,
        origin=f"context {api.context_name}",
    )
    return part, tuple(target for target in targets if shard.owns(target.name))


def _of_known(shard: ShardOf, names: Sequence[str]) -> ShardOf:
    """The same part; one that is a node, by the node's whole name. Raises UsageError where there is no such node."""
    if not shard.node:
        return shard
    try:
        return replace(shard, node=_known_node(shard.node, names))
    except UsageError as error:
        raise UsageError(f"--shard {shard}: {error}") from None


def _conclude_part(part: PartOf, judge: Audit, results: list[NodeResult]) -> Report:
    return part.report(judge, results, ended=time.time())


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """A line on a terminal that says how far the reading is; silence in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(progress: Progress) -> None:
        failed = f", {progress.failed} failed" if progress.failed else ""
        sys.stderr.write(f"\r\x1b[Kreading nodes: {progress.done} done{failed}, {progress.left} to go")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


# ---- what is shown -------------------------------------------------------------------------------------------------------


def write(report: Report, settings: Settings) -> None:
    """Write a report wherever the settings want it, and the closing line to stderr."""
    from ..render import RenderOptions, render, summary_line  # noqa: PLC0415

    for output in settings.outputs:
        options = RenderOptions(
            width=_width(output),
            color=output.path is None and wants_color(settings.color),
            no_headers=settings.no_headers,
            ascii_only=output.path is None and not _unicode(),
        )
        text = render(report, output.format, options)
        if output.path is None:
            click.echo(text, nl=not text.endswith("\n"), color=True)  # what colour there is was asked for
        else:
            write_file(output.path, text if text.endswith("\n") else text + "\n", "the report")
    click.echo(summary_line(report), err=True)


def wants_color(choice: str) -> bool:
    """Whether stdout gets colour: on a terminal, unless NO_COLOR is set or the user says otherwise."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _unicode() -> bool:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return encoding.startswith("utf")


def _width(output: Output) -> int:
    if output.path is not None or not sys.stdout.isatty():
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isdigit() and int(columns) >= 40 else 120
    import shutil  # noqa: PLC0415

    return shutil.get_terminal_size((80, 24)).columns
