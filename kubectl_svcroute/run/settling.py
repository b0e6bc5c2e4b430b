"""When a difference is a fault: not at first sight, but when it stays while what it is about does not change.

The API and the nodes are read at different moments, and kube-proxy writes a change some time after the API has it. So each
difference is watched by itself (code, node, Service and cause), and becomes a fault

- when its Service differed at every reading for `settle` seconds, in this way at the last two of them, and the Service did not
  change in that time: kube-proxy has had that long for it;
- sooner, after half of that, when the node's kube-proxy says that it has been at rest for longer than `settle` and has nothing
  queued: there is nothing that it could still write;
- also while its Service keeps changing, when it was there at every reading for three times as long, and names an object of
  its own: an endpoint that gets nothing for half a minute is not on its way, whatever happens to the others.

It is no fault yet while kube-proxy says that it has a change queued and has not ended two syncs since (the first may have begun
before the change): the rules are late, not wrong. When nothing is written for a minute, kube-proxy's own health check calls it
a failure, and so do we. What could not be told in time is not verified (SR908).

A Service's objects are known to have changed when two listings differ, and the later listing's time is taken: it can only be
later than the change.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..checks.node import STUCK
from ..model.fast_dataclass import dataclass, field, replace
from ..model.node_result import NodeResult, SyncState
from ..model.report import Finding, Severity, Unverified

PATIENCE = 4.0
"""How many times `settle` is waited in all."""
_STAYS = 3.0
"""How many times `settle` a difference stays on a Service that keeps changing before it is a fault all the same."""
_SIGHTS = 5
"""And how often it has to be seen in that time."""
_MOVES_WITH_ENDPOINTS = frozenset({"SR101", "SR106", "SR205", "SR401", "SR402", "SR403", "SR409"})
"""Faults that say nothing of a particular endpoint: of a Service that keeps changing, each reading may show a new one."""

_AT_ONCE = frozenset({"SR603"})
"""kube-proxy's own word that it is not in sync: it has waited a minute before it said so."""

Identity = tuple[str, str, str, str]


def identity(finding: Finding) -> Identity:
    """What makes two sights the same difference. Numbers that change from look to look are no part of it."""
    return (finding.code, finding.node or "", finding.service or "", finding.cause or finding.message)


@dataclass(slots=True)
class _Sights:
    times: list[float] = field(default_factory=list)

    def since(self, moment: float) -> int:
        return sum(at >= moment for at in self.times)


@dataclass(slots=True)
class _Syncs:
    """The syncs of one node's kube-proxy, as far as they were noticed: when they ended, on our clock."""

    ended: dict[float, float] = field(default_factory=dict)
    pending_since: float | None = None

    def note(self, state: SyncState, at: float) -> None:
        new = state.written not in self.ended
        self.ended.setdefault(state.written, at - (state.now - state.written))
        if state.queued is None:
            self.pending_since = None
        elif new or self.pending_since is None:
            self.pending_since = at
        if state.queued is not None and self.pending_since is not None:
            self.pending_since = min(self.pending_since, at - (state.now - state.queued))


class Settling:
    """The differences of all nodes, and the times at which they and the Services were seen. Reads nothing itself."""

    def __init__(self, settle: float) -> None:
        self.settle = settle
        self._moved: dict[str, float] = {}
        self._sights: dict[str, dict[Identity, _Sights]] = {}
        self._differs: dict[str, dict[str, float]] = {}
        """Node -> Service -> since when every reading showed it to differ, in one way or another."""
        self._syncs: dict[str, _Syncs] = {}

    def moved(self, services: Iterable[str], at: float) -> None:
        """A listing at this time showed that these Services had changed since the one before."""
        for service in services:
            self._moved[service] = at

    def saw(self, result: NodeResult, at: float) -> None:
        """One reading of a node. What it no longer shows is forgotten: it would have to stay anew."""
        before = self._sights.get(result.row.node, {})
        now: dict[Identity, _Sights] = {}
        for finding in result.findings:
            key = identity(finding)
            sights = before.get(key) or now.get(key) or _Sights()
            if not sights.times or sights.times[-1] != at:
                sights.times.append(at)
            now[key] = sights
        self._sights[result.row.node] = now
        known = self._differs.get(result.row.node, {})
        self._differs[result.row.node] = {f.service: known.get(f.service, at) for f in result.findings if f.service}
        if result.sync is not None:
            self._syncs.setdefault(result.row.node, _Syncs()).note(result.sync, at)

    def stays(self, finding: Finding, result: NodeResult) -> bool:
        """Whether a difference that the node's last reading showed is a fault."""
        if finding.code in _AT_ONCE:
            return True
        sights = self._sights.get(result.row.node, {}).get(identity(finding))
        if sights is None or self.late(finding, result):
            return False
        last, first = sights.times[-1], sights.times[0]
        quiet = self._quiet_since(finding, result)
        if sights.since(quiet) >= 2:
            at_rest = result.sync is not None and result.sync.queued is None and result.sync.now - result.sync.busy > self.settle
            if last - quiet >= (self.settle / 2 if at_rest else self.settle):
                return True
        particular = finding.code not in _MOVES_WITH_ENDPOINTS and not finding.cause.startswith("*")
        return particular and len(sights.times) >= _SIGHTS and last - first >= _STAYS * self.settle

    def late(self, finding: Finding, result: NodeResult) -> bool:
        """Whether kube-proxy has a change queued that may be what makes the difference."""
        sights = self._sights.get(result.row.node, {}).get(identity(finding))
        syncs = self._syncs.get(result.row.node)
        if result.sync is None or result.sync.queued is None or sights is None or syncs is None:
            return False
        if syncs.pending_since is not None and sights.times[-1] - syncs.pending_since >= STUCK:
            return False
        quiet = self._quiet_since(finding, result)
        return sum(ended >= quiet for ended in syncs.ended.values()) < 2

    def _quiet_since(self, finding: Finding, result: NodeResult) -> float:
        """Since when there was the difference and nothing changed that it is about: one Service that bears it out is enough."""
        node = result.row.node
        if finding.service is not None:
            first = self._differs[node][finding.service]
        else:
            first = self._sights[node][identity(finding)].times[0]
        return max(first, min((self._moved.get(service, first) for service in _about(finding)), default=first))


def set_aside(result: NodeResult, doubted: Finding, why: str) -> NodeResult:
    """Take a difference that did not prove to be a fault out of a result: it is not verified, for the reason given."""
    kept = tuple(finding for finding in result.findings if finding is not doubted)
    services = frozenset(_about(doubted))
    unverified = Unverified(
        code="SR908",
        node=result.row.node,
        service=doubted.service,
        reason=f"{why}; seen: {doubted.code} {doubted.message}",
        evidence=doubted.evidence,
    )
    return replace(
        result,
        findings=kept,
        unverified=(*result.unverified, unverified),
        unverified_services=result.unverified_services | services,
        wrong=frozenset(key for key in result.wrong if key[0] not in services),
        row=replace(
            result.row,
            verified=False,
            errors=sum(f.severity is Severity.ERROR for f in kept),
            warnings=sum(f.severity is Severity.WARNING for f in kept),
        ),
    )


def _about(finding: Finding) -> Iterable[str]:
    return finding.about or ((finding.service,) if finding.service else ())
