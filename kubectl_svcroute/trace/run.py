"""One run of `trace`: find the Service, read one node, tell the way, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import CollectError, UsageError
from ..model.fast_dataclass import dataclass, replace
from ..model.report import Unverified
from ..model.routes import Client
from ..model.snapshot import ApiObjects, NodeDump, NodeHandle, NodeOutcome
from ..model.trace import Trace
from ..run import check
from ..run.output_file import write_file
from ..run.settings import Output, Settings, settings
from ..run.settling import PATIENCE
from .question import Question
from .tracer import Tracer

if TYPE_CHECKING:
    from ..collect.kube import KubeApi

FORMATS = ("tree", "json", "mermaid", "dot", "svg")
_TRIES = 3
"""So many nodes of a live cluster are tried, where the user names none and they cannot be read."""
_PAUSES = (1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of `trace` beyond what every command is asked."""

    client: Client
    to: str
    commands: bool
    everything: bool


def run_trace(given: Mapping[str, Any]) -> int:
    """Trace what is asked for and write it; returns the exit status."""
    rest = dict(given)
    format_, _, path = str(rest.pop("output")).partition("=")
    if format_ not in FORMATS:
        raise UsageError(f"-o {format_}: no such format; there are {', '.join(FORMATS)}")
    file = rest.pop("output_file", None) or path or None
    wish = Wish(
        client=Client(rest.pop("client")),
        to=rest.pop("to") or "",
        commands=rest.pop("commands"),
        everything=bool(rest.get("verbose")),
    )
    node = rest.pop("node")
    found = settings({**rest, "names": (rest.pop("service"),), "nodes": (node,) if node else ()})
    trace = _from_snapshot(found, wish) if found.snapshot else _from_cluster(found, wish)
    _write(trace, Output(format=format_, path=file), found, wish)
    return trace.exit_code(allow_partial=found.allow_partial)


# ---- which node ------------------------------------------------------------------------------------------------------------


def _order(nodes: Sequence[str], tracer: Tracer) -> list[str]:
    """Nodes in the order in which they are tried: for hairpin those that have an endpoint."""
    if tracer.question.client is not Client.HAIRPIN:
        return list(nodes)
    mine = [name for name in tracer.endpoint_nodes() if name in nodes]
    if not mine:
        raise UsageError(f"--from hairpin: {tracer.service.key} has no endpoint on any node")
    return mine


def _first(tracer: Tracer, names: Sequence[str], read: Callable[[str], NodeOutcome], *, tries: int | None) -> Trace:
    """The trace on the first node that can be verified, else on the first. Raises UsageError when no node has such a way."""
    first: Trace | None = None
    trouble: UsageError | None = None
    for name in names[:tries]:
        try:
            trace = tracer.trace(read(name))
        except UsageError as error:
            trouble = trouble or error
            continue
        if trace.verdict != "unverified":
            return trace
        first = first or trace
    if first is not None:
        return first
    raise trouble or UsageError("nothing to trace: there is no node")


def _from_snapshot(found: Settings, wish: Wish) -> Trace:
    from ..collect.archive import load_snapshot  # noqa: PLC0415

    if found.snapshot is None:
        raise CollectError("no snapshot was named")
    snapshot = load_snapshot(found.snapshot)
    question = _question(snapshot.api, found, wish, found.namespace or "default")
    handles = {handle.node: handle for handle in check._asked_handles(snapshot, found)}
    if not handles:
        raise UsageError(f"{found.snapshot}: the snapshot has no nodes")
    tracer = Tracer(snapshot.api, question, origin=snapshot.origin)
    if tracer.audit.needs_inference:
        tracer.audit.learn(_outcomes(snapshot.nodes))
    names = list(handles) if found.nodes else _order(list(handles), tracer)
    return _first(tracer, names, lambda name: handles[name].read(), tries=None)


def _outcomes(handles: Sequence[NodeHandle]) -> Iterator[NodeOutcome]:
    for handle in handles:
        yield handle.read()


def _question(api: ApiObjects, found: Settings, wish: Wish, namespace: str) -> Question:
    wanted = check.select(api, found, namespace).services or frozenset()
    return Question(service=next(iter(wanted)), client=wish.client, to=wish.to)


# ---- live ------------------------------------------------------------------------------------------------------------------


def _from_cluster(found: Settings, wish: Wish) -> Trace:
    with check._cluster(found) as (api, objects, reader):
        question = _question(objects, found, wish, api.current_namespace)
        targets = check._targets(objects, found)
        by_name = {target.name: target for target in targets}
        origin = f"context {api.context_name}"
        tracer = Tracer(objects, question, origin=origin)
        names = [target.name for target in targets] if found.nodes else _order(list(by_name), tracer)

        def read(name: str, mine: Tracer) -> NodeOutcome:
            outcome = reader.read(by_name[name])
            if mine.audit.needs_inference and isinstance(outcome, NodeDump):
                mine.audit.learn([outcome])
            return outcome

        trace = _first(tracer, names, lambda name: read(name, tracer), tries=None if found.nodes else _TRIES)
        if not trace.differs or found.settle <= 0:
            return trace
        return _second_look(trace, api, objects, found, question, read)


def _second_look(
    trace: Trace,
    api: KubeApi,
    objects: ApiObjects,
    found: Settings,
    question: Question,
    read: Callable[[str, Tracer], NodeOutcome],
) -> Trace:
    """The API and the node were read at different moments: a difference counts when it stays (design.md, section 7).

    It stays when the node differed at every reading for --settle, in this way at the last two of them, and the Service did not
    change in that time; the same rule as an audit's (run/settling.py).
    """
    from ..collect.refresh import changed_services, refresh  # noqa: PLC0415

    click.echo(f"{trace.node} differs from the API; looking again for up to {found.settle:g} s", err=True)
    mine = frozenset({question.service})
    started = quiet = time.monotonic()
    look, trouble = 0, ""
    while time.monotonic() - started < PATIENCE * found.settle:
        time.sleep(min(_PAUSES[min(look, len(_PAUSES) - 1)], found.settle))
        look += 1
        try:
            before, objects = objects, refresh(api, objects, mine)
            moved = changed_services(before, objects)
            if moved:
                quiet = time.monotonic()
            tracer = Tracer(objects, question, origin=trace.origin)
            again = tracer.trace(read(trace.node, tracer))
            if not again.differs:
                return again
            same, trace = not moved and _findings(again) == _findings(trace), again
            if same and time.monotonic() - quiet >= found.settle:
                # What moved during the reading is neither right nor wrong yet: only a listing after it tells.
                before, objects = objects, refresh(api, objects, mine)
                if not changed_services(before, objects):
                    return trace
                quiet = time.monotonic()
            trouble = ""
        except CollectError as error:
            trouble = str(error)
    return _moving(trace, trouble)


def _findings(trace: Trace) -> set[tuple[str, str]]:
    return {(f.code, f.message) for f in (*trace.findings, *trace.beside)}


def _moving(trace: Trace, trouble: str) -> Trace:
    """What was still changing, or could not be looked at again, is neither right nor wrong."""
    reason = "its objects changed while the node was read; run again, or with a longer --settle"
    if trouble:
        reason = f"it differed, and the API could not be read a second time ({trouble})"
    unverified = Unverified(code="SR908", node=trace.node, service=trace.service, reason=reason)
    return replace(trace, findings=(), beside=(), unverified=(*trace.unverified, unverified))


# ---- what is shown -----------------------------------------------------------------------------------------------------------


def _write(trace: Trace, output: Output, found: Settings, wish: Wish) -> None:
    from ..render import RenderOptions  # noqa: PLC0415
    from ..render.text import clean  # noqa: PLC0415

    options = RenderOptions(
        width=check._width(output),
        color=output.path is None and check.wants_color(found.color),
        ascii_only=output.path is None and not check._unicode(),
    )
    text = "".join(render_trace(trace, output.format, options, commands=wish.commands, everything=wish.everything))
    if output.path is None:
        click.echo(text, nl=False, color=True)  # what colour there is was asked for
    else:
        write_file(output.path, text, "the trace")
    if output.format != "tree" or output.path is not None:
        codes = sorted({f.code for f in (*trace.findings, *trace.beside)} | {u.code for u in trace.unverified})
        why = f" ({', '.join(codes)})" if codes else ""
        click.echo(f"{clean(trace.service)} on {clean(trace.node)}: {trace.verdict}{why}", err=True)


def render_trace(
    trace: Trace, fmt: str, options: Any, *, commands: bool = False, everything: bool = False
) -> Iterator[str]:
    """The text of a trace, piece by piece. Raises KeyError for an unknown format."""
    if fmt == "tree":
        from ..render.trace_tree import pieces  # noqa: PLC0415

        yield from pieces(trace, options, commands=commands, everything=everything)
    elif fmt == "json":
        from ..render.trace_json import document  # noqa: PLC0415

        yield document(trace, options, commands=commands)
    else:
        from ..render import trace_graph  # noqa: PLC0415

        yield {"mermaid": trace_graph.mermaid, "dot": trace_graph.dot, "svg": trace_graph.svg}[fmt](trace)
