"""A live cluster: read the API, read the nodes, and look again at every difference (design.md, section 7).

The API and the nodes are read at different moments, and kube-proxy programs a change some time after the API has it. So a
difference is a fault only when it stays (`settling.py`): the nodes that show one are read again, with the API read anew, until
they agree, or until it is told. A node is never judged by objects that were listed more than `settle` before it was read:
agreeing with what was true a minute ago would be no agreement. (Where listing itself takes long, a few times as long as that.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..audit.cluster import Audit
from ..checks.node import STUCK
from ..collect.fanout import NodeReader, NodeTarget, Progress, handles, read_all
from ..collect.spool import Spool
from ..errors import CollectError, is_interrupt
from ..model.fast_dataclass import dataclass, replace
from ..model.node_result import NodeResult
from ..model.report import Finding, Report, Unverified
from ..model.selection import Selection
from ..model.snapshot import ApiObjects, NodeOutcome, Unreachable
from .settling import PATIENCE, Settling, set_aside

SETTLE = 10.0
"""Seconds that a difference has to stay before it is a finding."""
_PAUSES = (1.0, 2.0, 3.0, 5.0)
"""Seconds between readings: the first come soon, because most differences are changes on their way."""
_SHARE = 4.0
"""Where listing takes long, a listing may get this many times as old as it took: the API is not to be listed all the time."""
_LOST = 3
"""How often a node that differed, and then could not be read, is tried again."""

_MOVING = "its objects changed while the node was read; run again, or with a longer --settle"
_LATE = "kube-proxy has changes queued that it has not written yet; run again, or with a longer --settle"
_INTERRUPTED = "interrupted before it was looked at a second time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How to read a cluster, again and again."""

    refresh: Callable[[ApiObjects], ApiObjects]
    """The objects as they are now, from those of before. Raises CollectError."""
    changed: Callable[[ApiObjects, ApiObjects], set[str]]
    """The Services that differ between two readings of the API."""
    is_gone: Callable[[str], bool]
    """Whether a node is no longer part of the cluster. Raises CollectError."""
    reader: NodeReader
    targets: tuple[NodeTarget, ...]
    parallel: int = 32
    node_timeout: float = 300.0
    settle: float = SETTLE
    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = lambda _: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def outcomes(self, targets: Sequence[NodeTarget]) -> Iterator[NodeOutcome]:
        """Read nodes, many at once, in the order in which they answer."""
        if self.progress is not None:
            self.progress(Progress(done=0, failed=0, left=len(targets)))  # the first answer may take its time
        return read_all(
            handles(self.reader, targets), parallel=self.parallel, node_timeout=self.node_timeout, progress=self.progress
        )


def audit_live(
    live: Live,
    api: ApiObjects,
    selection: Selection,
    *,
    origin: str,
    listed: float | None = None,
    conclude: Callable[[Audit, list[NodeResult]], Report] | None = None,
) -> tuple[Report, bool]:
    """(the report, whether it is whole): a Ctrl-C ends the reading, and what was verified until then is reported.

    `listed`: when the API was read, on the `clock`; None: just now. `conclude` makes the report of the results; None: as of a
    whole cluster.
    """
    reading = _Reading(live, api, selection, live.clock() if listed is None else listed)
    whole = reading.read()
    results = reading.outcome()
    return (reading.judge.conclude(results, origin=origin) if conclude is None else conclude(reading.judge, results)), whole


class _Reading:
    """One run over a live cluster, from the first reading to the last."""

    def __init__(self, live: Live, api: ApiObjects, selection: Selection, listed: float) -> None:
        self.live = live
        self.api = api
        self.listed = listed
        self.took = 0.0
        """Seconds that the last listing took."""
        self.judge = Audit(api, selection)
        self.first = frozenset(service.key for service in self.judge.context.services)
        self.results: dict[str, NodeResult] = {}
        self.settling = Settling(live.settle)
        self.lost: dict[str, list[str]] = {}
        """Nodes that differed and could not be read since -> why, once for each time that it was tried."""
        self.notes: list[str] = []
        self.trouble = ""
        """Why the API could not be read again, when it could not."""

    def read(self) -> bool:
        """Read, judge, and look again; False when a Ctrl-C ended it."""
        whole = True
        try:
            self._read_everything()
            if self.live.settle > 0:
                self._look_again()
                self._nodes_that_left()
        except BaseException as error:
            if not is_interrupt(error):
                raise
            whole = False
            if self.live.settle > 0:
                self._set_aside(lambda _finding, _result: _INTERRUPTED)
            for target in self.live.targets:
                if target.name not in self.results:
                    self.results[target.name] = self.judge.not_read(target.name, "interrupted before it was read")
        return whole

    # ---- the first reading --------------------------------------------------------------------------------------------

    def _read_everything(self) -> None:
        outcomes = self.live.outcomes(self.live.targets)
        if not self.judge.needs_inference:
            self._judge(outcomes)
            return
        with Spool() as spool:
            self.judge.learn(spool.keep(outcomes))
            self._judge(spool.outcomes())

    def _judge(self, outcomes: Iterable[NodeOutcome]) -> set[str]:
        """Judge nodes as they come, by objects that are at most `settle` old; returns who was read."""
        read: set[str] = set()
        for outcome in outcomes:
            if self.live.settle > 0 and self.live.clock() - self.listed > max(self.live.settle, _SHARE * self.took):
                self._list()
            self._take(outcome)
            if not isinstance(outcome, Unreachable):
                read.add(outcome.node)
        return read

    def _take(self, outcome: NodeOutcome) -> None:
        known = self.results.get(outcome.node)
        result = self.judge.node(outcome)
        if known is not None and isinstance(outcome, Unreachable):
            # What it showed before is neither confirmed nor refuted: try again.
            self.lost.setdefault(outcome.node, []).append(outcome.reason)
            if len(self.lost[outcome.node]) < _LOST:
                return
            seen = ", ".join(sorted({finding.code for finding in known.findings}))
            reason = f"{outcome.reason} (when it was first read it differed: {seen})"
            result = self.judge.not_read(outcome.node, reason, via=outcome.via)
        self.lost.pop(outcome.node, None)
        self.settling.saw(result, self.live.clock())
        self.results[outcome.node] = result

    # ---- looking again --------------------------------------------------------------------------------------------------

    def _list(self) -> bool:
        """Read the API anew, note what moved, and judge by it from now on; False when it could not be read."""
        asked = self.live.clock()
        try:
            api = self.live.refresh(self.api)
        except CollectError as error:
            if is_interrupt(error):
                raise
            self.trouble = str(error)
            self.listed = self.live.clock()  # not to ask again at once
            return False
        self.trouble = ""
        moved = self.live.changed(self.api, api)
        self.settling.moved(moved, self.live.clock())
        # Objects are as old as the moment at which they were asked for.
        self.api, self.listed, self.took = api, asked, self.live.clock() - asked
        if moved:
            self.judge = self.judge.renewed(api, only=self.first)
        return True

    def _look_again(self) -> None:
        live = self.live
        suspects = {name for name, result in self.results.items() if result.findings}
        if not suspects:
            return
        started = live.clock()
        many = f"{len(suspects)} nodes differ" if len(suspects) > 1 else "1 node differs"
        live.say(f"{many} from the API; looking again for up to {live.settle:g} s")
        targets = {target.name: target for target in live.targets}
        look = 0
        while suspects:
            live.sleep(min(_PAUSES[min(look, len(_PAUSES) - 1)], live.settle))
            look += 1
            if self._list():
                read = self._judge(live.outcomes([targets[name] for name in sorted(suspects)]))
                # What moved during the reading is neither right nor wrong yet: only a listing after it tells.
                if any(self._stays(finding, self.results[name]) for name in read for finding in self.results[name].findings):
                    self._list()
            suspects = {name for name in suspects if self._doubts(self.results[name])}
            waited = live.clock() - started
            if waited >= live.settle * PATIENCE:
                # Rules that are late are waited for until kube-proxy itself would call that a failure.
                if waited >= STUCK + live.settle:
                    break
                suspects = {name for name in suspects if self._is_late(self.results[name])}
        self._set_aside(self._why_not_told)

    def _stays(self, finding: Finding, result: NodeResult) -> bool:
        return not self.trouble and self.settling.stays(finding, result)

    def _doubts(self, result: NodeResult) -> list[Finding]:
        """The differences of a node that are not faults yet."""
        if result.row.node in self.lost:
            return list(result.findings)
        return [finding for finding in result.findings if not self._stays(finding, result)]

    def _is_late(self, result: NodeResult) -> bool:
        return any(self.settling.late(finding, result) for finding in result.findings)

    def _why_not_told(self, finding: Finding, result: NodeResult) -> str:
        if reasons := self.lost.get(result.row.node):
            return f"the node could not be read a second time ({reasons[-1]})"
        if self.trouble:
            return f"seen once, and the API could not be read a second time ({self.trouble})"
        if self.settling.late(finding, result):
            return _LATE
        return _MOVING

    def _set_aside(self, why: Callable[[Finding, NodeResult], str]) -> None:
        """What is still in doubt is not verified."""
        for name, result in self.results.items():
            for finding in self._doubts(result):
                self.results[name] = set_aside(self.results[name], finding, why(finding, result))

    # ---- what changed meanwhile -----------------------------------------------------------------------------------------

    def _nodes_that_left(self) -> None:
        """A node that could not be read because it was taken away is no longer part of the question."""
        unread = [name for name, result in self.results.items() if [u.code for u in result.unverified] == ["SR901"]]
        if len(unread) == len(self.results):
            return  # something else is wrong, and a report of no node at all would say nothing
        for name in unread:
            try:
                if not self.live.is_gone(name):
                    continue
            except CollectError:
                return  # not told: they stay unverified
            del self.results[name]
            self.notes.append(f"node {name} was taken out of the cluster while it was read: left out")

    def outcome(self) -> list[NodeResult]:
        """Every node's result, and with the first of them what was not there from the beginning to the end."""
        now = {service.key for service in self.judge.context.state.services}
        notes = list(self.notes)
        if self.trouble:
            notes.append(f"the API could not be read again, so the nodes are judged by what it said at first: {self.trouble}")
        gone = sorted(self.first - now)
        if gone:
            notes.append(f"deleted while the cluster was read: {_some(gone)}")
        if self.judge.context.known is not None and (new := sorted(now - self.first)):
            notes.append(f"made while the cluster was read, and not verified: {_some(new)}")
        results = [self.results[name] for name in sorted(self.results)]
        if gone and not self.first & now:
            reason = "all that was asked for was deleted while the cluster was read"
            results = [
                replace(
                    result,
                    row=replace(result.row, verified=False),
                    unverified=(*result.unverified, Unverified(code="SR908", node=result.row.node, reason=reason)),
                )
                for result in results
            ]
        if results and notes:
            results[0] = replace(results[0], notes=(*results[0].notes, *notes))
        return results


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
