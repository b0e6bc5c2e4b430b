"""A live cluster: read the API, read the nodes, and look twice at every difference (design.md, section 7).

The API and the nodes are read at different moments, and kube-proxy programs a change some time after the API has it. So a
difference is a fault only when it stays: the nodes that show one are read again, with the API read anew, until they
agree, or until they have shown the same through two readings and `settle` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .audit import Audit
from .collect.fanout import NodeReader, NodeTarget, Progress, handles, read_all
from .model.node_result import NodeResult
from .model.report import Finding, Report, Unverified
from .model.snapshot import ApiObjects, NodeOutcome
from .selection import Selection

SETTLE = 10.0
"""Seconds that a difference has to stay before it is a finding."""
_PAUSES = (1.0, 2.0, 3.0, 5.0)
"""Seconds between readings: the first come soon, because most differences are changes on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How to read a cluster, again and again."""

    read_api: Callable[[], ApiObjects]
    reader: NodeReader
    targets: tuple[NodeTarget, ...]
    changed: Callable[[ApiObjects, ApiObjects], set[str]]
    parallel: int = 32
    node_timeout: float = 300.0
    settle: float = SETTLE
    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = lambda _: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def outcomes(self, targets: Sequence[NodeTarget]) -> Iterator[NodeOutcome]:
        """Read nodes, many at once, in the order in which they answer."""
        return read_all(
            handles(self.reader, targets), parallel=self.parallel, node_timeout=self.node_timeout, progress=self.progress
        )


def audit_live(
    live: Live,
    api: ApiObjects,
    selection: Selection,
    *,
    origin: str,
    conclude: Callable[[Audit, list[NodeResult]], Report] | None = None,
) -> tuple[Report, bool]:
    """(the report, whether it is whole): a Ctrl-C ends the reading, and what was verified until then is reported.

    `conclude` makes the report of the results; None: as of a whole cluster.
    """
    judge = Audit(api, selection)
    results: dict[str, NodeResult] = {}
    whole = True
    try:
        outcomes: Iterator[NodeOutcome] = live.outcomes(live.targets)
        if judge.needs_inference:
            kept = list(outcomes)
            judge.learn(kept)
            outcomes = iter(kept)
        for outcome in outcomes:
            result = judge.node(outcome)
            results[result.row.node] = result
        judge = _second_look(live, judge, api, selection, results)
    except KeyboardInterrupt:
        whole = False
        for target in live.targets:
            if target.name not in results:
                results[target.name] = judge.not_read(target.name, "interrupted before it was read")
    found = list(results.values())
    return (judge.conclude(found, origin=origin) if conclude is None else conclude(judge, found)), whole


def _second_look(live: Live, judge: Audit, api: ApiObjects, selection: Selection, results: dict[str, NodeResult]) -> Audit:
    """Read again what differs, until it agrees or stays."""
    suspects = {name for name, result in results.items() if result.findings}
    if not suspects or live.settle <= 0:
        return judge
    started = live.clock()
    seen: dict[tuple[str, ...], int] = {}
    live.say(f"{len(suspects)} nodes differ from the API; looking again for up to {live.settle:g} s")
    targets = {target.name: target for target in live.targets}
    look = 0
    while suspects:
        live.sleep(_PAUSES[min(look, len(_PAUSES) - 1)])
        look += 1
        before, api = api, live.read_api()
        again = Audit(api, selection)
        again.take(judge.inference)
        judge = again
        after_names: set[str] = set()
        for outcome in live.outcomes([targets[name] for name in sorted(suspects)]):
            result = judge.node(outcome)
            results[result.row.node] = result
            after_names.add(result.row.node)
        past = live.clock() - started >= live.settle
        moving = live.changed(before, api)
        if past:
            # What moved during the last reading is neither right nor wrong yet.
            moving |= live.changed(api, live.read_api())
        still: set[str] = set()
        for name in suspects:
            result = results[name]
            if not result.findings:
                continue
            counts = {key: seen.get(key, 0) + 1 for key in (_identity(f) for f in result.findings)}
            seen.update(counts)
            if past and all(count >= 2 for count in counts.values()):
                results[name] = _set_aside(result, moving)
            else:
                still.add(name)
        suspects = still
        if past and look > 2 * len(_PAUSES) + live.settle:
            for name in suspects:
                results[name] = _set_aside(results[name], {f.service for f in results[name].findings if f.service})
            break
    return judge


def _identity(finding: Finding) -> tuple[str, ...]:
    return (finding.code, finding.node or "", finding.service or "", finding.message)


def _set_aside(result: NodeResult, moving: set[str]) -> NodeResult:
    """Findings about Services that were still changing are not verified."""
    kept = tuple(f for f in result.findings if f.service is None or f.service not in moving)
    gone = {f.service for f in result.findings if f.service is not None and f.service in moving}
    if not gone:
        return result
    unverified = tuple(
        Unverified(
            code="SR908",
            node=result.row.node,
            service=service,
            reason="its objects changed while the node was read; run again, or with a longer --settle",
        )
        for service in sorted(gone)
    )
    return replace(
        result,
        findings=kept,
        unverified=(*result.unverified, *unverified),
        unverified_services=result.unverified_services | gone,
        row=replace(result.row, verified=False),
    )
