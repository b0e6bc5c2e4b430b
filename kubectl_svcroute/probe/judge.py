"""Real connections held against what the API asks for and what the rules say.

A connection that fails is the rules' doing or the endpoint's, and which of the two is seen by where it went:

* to an endpoint that the API names and the rules give: the rules are right, and the endpoint is silent (SR701) or
  refuses (SR702);
* to where the rules send it and the API does not, or it was rejected, dropped or left alone by them: the rules are wrong
  (SR706), and the audit of the same rules says which;
* to where no rule sends it (SR703): something else than the rules that were read decides.

What is not known (the entry is gone, the rules are not understood to their end) is not judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..checks.case import expected_text
from ..checks.observation import Observation
from ..model.flow import Flow, ProbeRow, ProbeShare
from ..model.net import Backend, Frontend
from ..model.ranges import contains, number
from ..model.report import Severity, Unverified
from ..model.routes import Action, Client
from .chance import ERROR_RATE, binomial_tail, improbable
from .promise import DNS_QUERY, Dialler, NodePlan, Promise, promise
from .reading import Attempt, Dialled, flow_of, is_udp, packets_of, told_by
from .script import Target

_FAILED = ("refused", "timeout", "unreachable")
_WORDS = {"refused": "refused", "timeout": "timed out", "unreachable": "no way there"}
_ENTRIES = 3
"""So many connections are shown as evidence."""


@dataclass
class Judged:
    """What one target came to."""

    observations: list[Observation] = field(default_factory=list)
    unverified: list[Unverified] = field(default_factory=list)
    row: ProbeRow | None = None


@dataclass(frozen=True, slots=True)
class _Met:
    """A connection with what is known of its way."""

    attempt: Attempt
    flow: Flow | None
    backend: Backend | None
    """None: it was not translated, or that is not known."""

    @property
    def failed(self) -> bool:
        return self.attempt.result in _FAILED


def comparisons(plans: Sequence[NodePlan]) -> int:
    """How many shares a run compares: an endpoint for each frontend and node."""
    return sum(len(target.hosts) for plan in plans for target in plan.targets)


def judge(plan: NodePlan, target: Target, dialled: Dialled, dialler: Dialler, *, comparisons: int) -> Judged:
    """What connections from one place to one frontend say."""
    return _Case(plan, target, dialled, dialler, comparisons).judge()


class _Case:
    def __init__(self, plan: NodePlan, target: Target, dialled: Dialled, dialler: Dialler, comparisons: int) -> None:
        self.plan = plan
        self.front: Frontend = target.frontend
        self.target = target
        self.dialled = dialled
        self.dialler = dialler
        self.comparisons = comparisons
        self.service = plan.port(self.front).plan.service.key
        self.out = Judged()
        self.met = [self._met(a) for a in dialled.attempts]
        sources = Counter(m.attempt.source or (m.flow.src if m.flow else "") for m in self.met)
        self.source = next((s for s, _ in sources.most_common() if s), "")
        self.promise: Promise | None = promise(plan, self.front, dialler, self.source)

    def _met(self, attempt: Attempt) -> _Met:
        flow = flow_of(attempt, self.dialled, self.front)
        backend = Backend(flow.reply_src, flow.reply_sport) if flow is not None and flow.translated else None
        return _Met(attempt, flow, backend)

    def judge(self) -> Judged:
        if not self.dialled.tool:
            self._not_probed("there is nothing to dial with: neither python3, bash, nc (with -z) nor curl")
            return self.out
        tried = [m for m in self.met if m.attempt.result != "failed"]
        if not tried:
            why = next((m.attempt.detail for m in self.met if m.attempt.detail), "")
            self._not_probed(f"{self.dialled.tool} could not dial{': ' + why if why else ''}")
            return self.out
        found = self.promise
        self.out.row = self._row()
        if found is None:
            self._not_probed(f"the connections left with {self.source or 'an unknown address'}, of which nothing is promised")
            return self.out
        seen = [m for m in tried if m.flow is not None]
        self._blind(found, tried, seen)
        if found.known:
            for part in (self._unexplained, self._rules_fail, self._masquerade, self._affinity, self._shares):
                self.out.observations.extend(part(found, tried))
        self.out.observations.extend(self._endpoints(found, tried))
        return self.out

    # ---- what cannot be told ----------------------------------------------------------------------------------------

    def _not_probed(self, why: str) -> None:
        reason = f"{self.front} was not probed: {why}"
        self.out.unverified.append(Unverified(code="SR921", node=self.plan.node, service=self.service, reason=reason))

    def _blind(self, found: Promise, tried: Sequence[_Met], seen: Sequence[_Met]) -> None:
        """Say of connections that left no trace that they left none, and that nothing more is claimed of them."""
        if not found.gives(Action.TRANSLATE) or len(seen) == len(tried):
            return
        lost = [m for m in tried if m.flow is None and not self._stopped_by_rules(found, m)]
        if not lost:
            return
        if not told_by(self.dialled):
            why = "the node has neither conntrack nor a readable /proc/net/nf_conntrack"
            why += " nor a tcpdump that saw them" if self.dialled.no_capture else " (--capture asks tcpdump instead)"
        elif self.dialled.tool == "bash" and all(m.attempt.result == "refused" for m in lost):
            why = "bash does not tell the local port of a connection that was refused"
        else:
            why = f"{told_by(self.dialled)} shows no trace of them"
        reason = f"{self.front}: where {len(lost)} of {len(tried)} connections went is not known: {why}"
        self.out.unverified.append(Unverified(code="SR920", node=self.plan.node, service=self.service, reason=reason))
        failed = [m for m in lost if m.failed]
        if failed and found.expectation.action is Action.TRANSLATE:
            self.out.observations.append(
                self._observe(
                    "SR708",
                    f"{self._count(failed, tried)} to {self.front} failed ({self._how(failed)}), and where they went is not"
                    " known",
                    key="blind",
                    observed=self._results(tried),
                )
            )

    def _stopped_by_rules(self, found: Promise, met: _Met) -> bool:
        """A connection that the rules themselves refuse or drop: mostly it leaves no entry behind."""
        if met.attempt.result == "refused":
            return found.gives(Action.REJECT)
        return met.failed and (found.gives(Action.DROP) or found.gives(Action.REJECT))

    # ---- the rules --------------------------------------------------------------------------------------------------

    def _unexplained(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """Ways that no rule leads."""
        shares = found.shares
        strays: dict[Backend | None, list[_Met]] = defaultdict(list)
        for met in tried:
            if met.flow is None:
                if met.attempt.result == "connected" and not shares and not found.gives(Action.PASS):
                    strays[None].append(met)
            elif met.backend is None:
                if not found.gives(Action.PASS) and not self._stopped_by_rules(found, met):
                    strays[None].append(met)
            elif met.backend not in shares:
                strays[met.backend].append(met)
        for backend, group in sorted(strays.items(), key=lambda item: str(item[0])):
            if backend is not None:
                text = f"{self._count(group, tried)} to {self.front} went to {found.name(backend)}, where no rule sends them"
            elif group[0].flow is None:
                text = f"{self._count(group, tried)} to {self.front} were answered, and the rules stop all of them"
            else:
                text = f"{self._count(group, tried)} to {self.front} were not translated, and the rules translate all of them"
            yield self._observe(
                "SR703", text, key=f"{self.front} {backend}", observed=self._results(group), evidence=self._entries(group)
            )

    def _rules_fail(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """Connections that fail, or go astray, because the rules make them."""
        if found.expectation.action is not Action.TRANSLATE:
            return
        wanted = set(found.expectation.backends)
        groups: dict[tuple[str, Action, Backend | None], list[_Met]] = defaultdict(list)
        for met in tried:
            if met.backend is not None:
                if met.backend in found.shares and met.backend not in wanted:
                    text = f"went to {found.name(met.backend)}, which should get none from here"
                    groups[text, Action.TRANSLATE, met.backend].append(met)
            elif met.attempt.result == "refused" and found.gives(Action.REJECT):
                groups["were refused by a rule", Action.REJECT, None].append(met)
            elif met.failed and found.gives(Action.DROP):
                groups["were dropped by a rule", Action.DROP, None].append(met)
            elif met.failed and found.gives(Action.PASS):
                groups["were not translated, because no rule does it", Action.PASS, None].append(met)
        for (text, action, backend), group in sorted(groups.items(), key=lambda item: item[0][0]):
            end = next((e for e in found.atom.ends if e.action is action and backend in (None, e.backend)), None)
            rules = tuple(dict.fromkeys(step.rule for step in end.way)) if end is not None else ()
            results = f": {self._results(group)}" if backend is not None else ""
            yield self._observe(
                "SR706",
                f"{self._count(group, tried)} to {self.front} {text}{results}",
                key=text,
                observed=self._results(group),
                evidence=(*rules, *self._entries(group)),
            )

    # ---- the endpoints ----------------------------------------------------------------------------------------------

    def _endpoints(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """Endpoints that the API names and the rules give, and that do not answer."""
        mine: dict[Backend, list[_Met]] = defaultdict(list)
        # An endpoint may have answered these, and to an address from which nothing comes back: it is not to blame.
        astray = [m for group in self._wrong_sources(found, tried).values() for m in group if m.attempt.result == "timeout"]
        for met in tried:
            if met in astray:
                continue
            if met.backend is not None and met.backend in found.shares and met.backend in found.expectation.backends:
                mine[met.backend].append(met)
        for backend, group in sorted(mine.items()):
            failed = [m for m in group if m.failed]
            if not failed:
                continue
            refused = sum(m.attempt.result == "refused" for m in failed)
            code = "SR702" if 2 * refused > len(failed) else "SR701"
            whole = len(failed) == len(group)
            count = "none" if whole else f"{len(group) - len(failed)}"
            yield self._observe(
                code,
                f"{found.name(backend)} answered {count} of the {len(group)} connections to {self.front} that the rules sent"
                f" to it ({self._how(failed)}); the rules are right",
                # How many fail is chance: the same endpoint twice, or by two addresses, is the same fault.
                key=str(backend),
                observed=self._results(group),
                evidence=self._entries(failed),
                severity=Severity.WARNING if is_udp(self.front) and self.target.payload != DNS_QUERY else None,
            )

    # ---- masquerade, affinity, shares ---------------------------------------------------------------------------------

    def _wrong_sources(self, found: Promise, tried: Sequence[_Met]) -> dict[bool, list[_Met]]:
        """Connections whose source was not changed though the rules promise it (True), or was though they do not (False)."""
        local = found.asked.view.local
        wrong: dict[bool, list[_Met]] = defaultdict(list)
        for met in tried:
            if met.flow is None or met.backend is None:
                continue
            promised = {leg.masquerade for leg in found.legs(met.backend)}
            if len(promised) != 1 or None in promised:
                continue
            want = promised.pop()
            changed = met.flow.reply_dst != met.flow.src
            source = number(met.flow.src)
            loopback = met.flow.src in ("127.0.0.1", "::1")
            if want and not changed:
                # A process's own address may be the very one that a masquerade gives: nothing is to be seen then.
                if met.flow.reply_dport == met.flow.sport and (loopback or not contains(local, source)):
                    wrong[True].append(met)
            elif not want and changed:
                wrong[False].append(met)
        return wrong

    def _masquerade(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """Whether the source was changed as the rules promise, by who the answer goes to."""
        for want, group in sorted(self._wrong_sources(found, tried).items()):
            first = group[0].flow
            to = f" and left with {first.reply_dst}" if first is not None and not want else ""
            promised_text = "should be masqueraded and were not" if want else f"should keep their source{to}"
            yield self._observe(
                "SR705",
                f"{self._count(group, tried)} to {self.front} {promised_text}, against what the rules say",
                key=f"{self.front} {want}",
                observed="masqueraded" if not want else "source kept",
                evidence=self._entries(group),
            )

    def _affinity(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """One client, one endpoint."""
        seconds = found.expectation.affinity
        if seconds is None or not found.affinity or seconds < 60:
            return
        by_source: dict[str, dict[Backend, list[_Met]]] = defaultdict(lambda: defaultdict(list))
        for met in tried:
            if met.flow is not None and met.backend is not None and met.backend in found.shares:
                by_source[met.flow.src][met.backend].append(met)
        for source, groups in sorted(by_source.items()):
            if len(groups) > 1:
                yield self._observe(
                    "SR707",
                    f"connections from {source} to {self.front} went to {len(groups)} endpoints, and the rules keep"
                    " a client on one",
                    key=f"{self.front} {source}",
                    observed=", ".join(f"{len(group)} to {found.name(b)}" for b, group in sorted(groups.items())),
                    evidence=tuple(e for group in groups.values() for e in self._entries(group[:1])),
                )

    def _shares(self, found: Promise, tried: Sequence[_Met]) -> Iterator[Observation]:
        """Counts that chance does not explain. Not where a client is kept: there one connection decides for all."""
        if found.affinity or any(end.remembered for end in found.atom.ends):
            return
        shares = found.shares
        whole = sum(shares.values())
        counts = Counter(m.backend for m in tried if m.backend is not None and m.backend in shares)
        n = sum(counts.values())
        odd = [
            (binomial_tail(counts[b], n, min(1.0, p / whole)), b)
            for b, p in shares.items()
            if improbable(counts[b], n, min(1.0, p / whole), self.comparisons)
        ]
        if odd:
            tail, worst = min(odd)
            yield self._observe(
                "SR704",
                f"{found.name(worst)} got {counts[worst]} of {n} connections to {self.front}, and the rules give it"
                f" {shares[worst] / whole:.0%}: by chance with a probability of {tail:.1g}",
                key=str(self.front),
                observed=", ".join(f"{counts[b]} to {found.name(b)}" for b in sorted(shares)),
            )

    # ---- in words ---------------------------------------------------------------------------------------------------

    def _observe(
        self,
        code: str,
        message: str,
        *,
        key: str,
        observed: str = "",
        evidence: tuple[str, ...] = (),
        severity: Severity | None = None,
    ) -> Observation:
        expectation = self.promise.expectation if self.promise is not None else None
        return Observation(
            code=code,
            node_wide=False,
            service=self.service,
            message=message,
            key=key,
            frontend=self.front,
            client=expectation.client if expectation is not None else Client.NODE,
            expected=expected_text(expectation) if expectation is not None else "",
            observed=observed,
            evidence=evidence,
            severity=severity,
        )

    @staticmethod
    def _count(group: Sequence[_Met], tried: Sequence[_Met]) -> str:
        return f"{len(group)} of {len(tried)} connections"

    @staticmethod
    def _how(failed: Sequence[_Met]) -> str:
        kinds = Counter(m.attempt.result for m in failed)
        return ", ".join(_WORDS[kind] for kind, _ in kinds.most_common())

    @staticmethod
    def _results(group: Sequence[_Met]) -> str:
        kinds = Counter(m.attempt.result for m in group)
        words = {"connected": "connected", "failed": "failed", **_WORDS}
        return ", ".join(f"{kinds[kind]} {words[kind]}" for kind in words if kinds[kind])

    @staticmethod
    def _entries(group: Sequence[_Met]) -> tuple[str, ...]:
        return tuple(" ".join(m.flow.raw.split()) for m in group if m.flow is not None)[:_ENTRIES]

    def _row(self) -> ProbeRow:
        found = self.promise
        kinds = Counter(m.attempt.result for m in self.met)
        times = [m.attempt.seconds for m in self.met if m.attempt.result == "connected" and m.attempt.seconds is not None]
        shares = found.shares if found is not None else {}
        sent = Counter(m.backend for m in self.met if m.backend is not None)
        answered = Counter(m.backend for m in self.met if m.backend is not None and m.attempt.result == "connected")
        known = found is not None and found.known
        answers = tuple(
            ProbeShare(
                backend=str(b), pod=found.pod(b) if found is not None else None, sent=sent[b], answered=answered[b],
                share=shares.get(b, 0.0) if known else None,
            )
            for b in sorted({*shares, *sent})
        )  # fmt: skip
        lost = [m for m in self.met if m.flow is None and not (found is not None and self._stopped_by_rules(found, m))]
        return ProbeRow(
            node=self.plan.node,
            service=self.service,
            frontend=str(self.front),
            source=self.dialler.label,
            tool=self.dialled.tool,
            seen_by=told_by(self.dialled),
            dialled=len(self.met),
            connected=kinds["connected"],
            refused=kinds["refused"],
            timed_out=kinds["timeout"],
            failed=kinds["failed"] + kinds["unreachable"],
            latency=(median(times), max(times)) if times else None,
            expected=found.expectation.action.value if found is not None else "",
            answers=answers,
            unseen=len(lost),
            shown=self._shown(),
        )

    def _shown(self) -> tuple[str, ...]:
        """The first connections as they were dialled, each with its first packet as it was captured."""
        lines: list[str] = []
        kind = self.front.protocol.value
        for met in [m for m in self.met if m.attempt.port]:
            mine = packets_of(met.attempt, self.dialled, met.flow)
            if not mine:
                continue
            if len(lines) >= 4 * _ENTRIES:
                break
            source = met.attempt.source or mine[0].src
            lines.append(f"{kind} {source}.{met.attempt.port} > {self.front.address}.{self.front.port}: {met.attempt.result}")
            lines += dict.fromkeys(f"  {p.text}" for p in mine)
        return tuple(lines)


def tail_text(connections: int) -> str:
    """The stated test, for the report."""
    return (
        f"shares are tested by exact binomial tails, {connections} comparisons together at an error rate of {ERROR_RATE:g}"
    )
