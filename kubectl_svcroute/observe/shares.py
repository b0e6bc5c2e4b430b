"""From the ends of a walk to what can be said of it: for each set of sources, the share of every leg.

A doubt forked the walk without splitting its weight: both sides carry the whole. There are three kinds:

* Both sides come to the same shares: the doubt does not matter.
* They differ only in that a rule of another program stops the packet, or changes its source, on one of them: the doubt is
  not about kube-proxy's rules. The atom has the shares of the undisturbed side, and keeps the ends of the other in
  `Atom.disturbed`.
* They differ in what kube-proxy's rules do: all that may happen is in `Atom.possible`, and what is not common to all of it
  is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..model.fast_dataclass import dataclass, field
from ..model.ranges import Ranges, intersect, subtract
from ..model.routes import Action, Leg
from ..model.walk_result import Atom, End, Step

CLOSE = 1e-9
"""Shares nearer to each other than this are the same: iptables keeps probabilities in 31 bits."""
_MOST_OUTCOMES = 32
"""Doubts that come to more outcomes than this for one set of sources are given up as unknown."""
_MOST_NESTED = 200
"""Doubts behind each other that are more than this are given up as unknown: each costs as much as all behind it."""
_STOPS = (Action.DROP, Action.REJECT)
_SOURCE_TARGETS = ("MASQUERADE", "SNAT")

Own = Callable[[Step], bool]


@dataclass(slots=True)
class _Outcome:
    """One thing that may happen to the packets of a set of sources."""

    legs: dict[Leg, float] = field(default_factory=dict)
    """What no rule of another program disturbed."""
    disturbed: dict[Leg, float] = field(default_factory=dict)
    """What such a rule stopped, or whose source it changed."""
    unknown: float = 0.0
    reasons: tuple[str, ...] = ()
    """Why `unknown` is not known, and which doubts led here instead of to another outcome."""
    ends: list[End] = field(default_factory=list)
    beside: list[End] = field(default_factory=list)
    """Ends of doubts that decide only whether another program disturbs the packet."""

    @property
    def weight(self) -> float:
        return sum(self.legs.values()) + sum(self.disturbed.values()) + self.unknown

    def add(self, other: _Outcome) -> _Outcome:
        """Both of two outcomes that happen beside each other."""
        return _Outcome(
            _sum(self.legs, other.legs), _sum(self.disturbed, other.disturbed), self.unknown + other.unknown,
            self.reasons + other.reasons, self.ends + other.ends, self.beside + other.beside,
        )  # fmt: skip

    @property
    def shares(self) -> dict[Leg, float]:
        """Each leg's share, whoever decided it."""
        return _sum(self.legs, self.disturbed)


def settle(ends: Sequence[End], *, own: Own = lambda _: True) -> list[Atom]:
    """The atoms of a walk, in the order of their sources. `own`: whether a step is of a rule of kube-proxy's."""
    distinct: list[Ranges] = []
    for end in ends:
        if end.sources not in distinct:
            distinct.append(end.sources)
    parts = [distinct[0]] if len(distinct) == 1 else _partition(distinct)
    atoms = []
    for part in parts:
        mine = [end for end in ends if end.sources == part or intersect(end.sources, part)]
        atoms.append(_atom(part, mine, _outcomes(mine, 0, own)))
    return sorted(atoms, key=lambda atom: atom.sources)


def _atom(sources: Ranges, ends: Sequence[End], outcomes: Sequence[_Outcome]) -> Atom:
    each = tuple(
        Atom(
            sources=sources,
            shares=outcome.shares,
            unknown_share=outcome.unknown,
            unknown=tuple(dict.fromkeys(outcome.reasons)),
            ends=tuple(outcome.ends),
            disturbed=tuple(outcome.beside),
        )
        for outcome in outcomes
    )
    if len(each) == 1:
        return each[0]
    common = {leg: share for leg in each[0].shares if (share := min(atom.shares.get(leg, 0.0) for atom in each)) > CLOSE}
    return Atom(
        sources=sources,
        shares=common,
        unknown_share=max(0.0, max(outcome.weight for outcome in outcomes) - sum(common.values())),
        unknown=tuple(dict.fromkeys(reason for atom in each for reason in atom.unknown)),
        ends=tuple(ends),
        possible=each,
        disturbed=tuple(end for atom in each for end in atom.disturbed),
    )


def _partition(sets: Iterable[Ranges]) -> list[Ranges]:
    """The coarsest partition of the union of the sets in which each set is a union of parts."""
    parts: list[Ranges] = []
    for ranges in sets:
        rest = ranges
        again: list[Ranges] = []
        for part in parts:
            inside = intersect(part, rest) if rest else ()
            if not inside:
                again.append(part)
                continue
            again.append(inside)
            outside = subtract(part, inside)
            if outside:
                again.append(outside)
            rest = subtract(rest, inside)
        if rest:
            again.append(rest)
        parts = again
    return parts


def _outcomes(ends: Sequence[End], depth: int, own: Own) -> list[_Outcome]:
    """Everything that may happen, by the doubts from `depth` on."""
    if depth > _MOST_NESTED:
        weight = min(1.0, sum(end.weight for end in ends))
        reason = f"more than {_MOST_NESTED} matches behind each other cannot be answered by a dump"
        return [_Outcome(unknown=weight, reasons=(reason,), ends=list(ends))]
    sure = _Outcome()
    forks: dict[int, tuple[list[End], list[End], str]] = {}
    for end in ends:
        if len(end.doubts) > depth:
            fork, taken, reason = end.doubts[depth]
            sides = forks.setdefault(fork, ([], [], reason))
            (sides[0] if taken else sides[1]).append(end)
            continue
        sure.ends.append(end)
        leg = end.leg
        if leg is None:
            sure.unknown += end.weight
            sure.reasons += (end.unknown,)
        else:
            kind = sure.disturbed if _disturbed(end, own) else sure.legs
            kind[leg] = kind.get(leg, 0.0) + end.weight
    found = [sure]
    for with_it, without, reason in forks.values():
        # A side that no end of this atom took was empty for its sources: the other side is all there is.
        if with_it and without:
            sides_ = _merged(_outcomes(without, depth + 1, own), _outcomes(with_it, depth + 1, own), reason)
        else:
            sides_ = _outcomes(with_it or without, depth + 1, own)
        found = [one.add(other) for one in found for other in sides_]
        if len(found) > _MOST_OUTCOMES:
            weight = max(outcome.weight for outcome in found)
            reasons = tuple(dict.fromkeys(r for outcome in found for r in outcome.reasons))
            found = [_Outcome(unknown=weight, reasons=reasons, ends=list(ends))]
    return found


def stopped_by_other(end: End, own: Own) -> bool:
    """True if a rule of another program stopped the packet."""
    return end.action in _STOPS and bool(end.way) and not own(end.way[-1])


def _disturbed(end: End, own: Own) -> bool:
    """True if a rule of another program stopped the packet or changed its source."""
    if end.action in _STOPS:
        return stopped_by_other(end, own)
    if not end.masquerade or end.local:
        return False
    step = next((s for s in reversed(end.way) if s.target in _SOURCE_TARGETS), None)
    return step is not None and not own(step)


def _merged(one: list[_Outcome], other: list[_Outcome], reason: str) -> list[_Outcome]:
    """The outcomes of both sides of a doubt, those that do not differ in what kube-proxy's rules do as one."""
    found = list(one)
    apart = False
    for outcome in other:
        for n, before in enumerate(found):
            same = _together(before, outcome)
            if same is not None:
                found[n] = same
                break
        else:
            found.append(outcome)
            apart = True
    if apart or len(found) > len(other):
        for outcome in found:
            outcome.reasons = (*outcome.reasons, reason)
    return found


def _together(a: _Outcome, b: _Outcome) -> _Outcome | None:
    """One outcome for two that are equal, or differ only in what another program disturbs; None where they differ in more."""
    if a.unknown > CLOSE or b.unknown > CLOSE:
        return None
    if same_shares(a.shares, b.shares):
        calm = a if len(a.disturbed) <= len(b.disturbed) else b
        reasons = tuple(dict.fromkeys(a.reasons + b.reasons))
        return _Outcome(calm.legs, calm.disturbed, 0.0, reasons, a.ends + b.ends, a.beside + b.beside)
    legs = {leg: max(a.legs.get(leg, 0.0), b.legs.get(leg, 0.0)) for leg in {*a.legs, *b.legs}}
    if not (_fits(a, legs) and _fits(b, legs)):
        return None
    rest = max(a.weight, b.weight) - sum(legs.values())
    if rest <= CLOSE:
        rest, left = 0.0, dict[Leg, float]()
    else:
        # Some of it is stopped on both sides, whichever way the doubt goes.
        stopped = sum(a.disturbed.values())
        left = {leg: share * rest / stopped for leg, share in a.disturbed.items()}
    ends = a.ends + b.ends if rest else [end for side in (a, b) for end in side.ends if end.leg in side.legs]
    gone = [end for side in (a, b) for end in side.ends if end.leg in side.disturbed and end.leg not in side.legs]
    return _Outcome(legs, left, 0.0, a.reasons + b.reasons, ends, a.beside + b.beside + gone)


def _fits(outcome: _Outcome, legs: dict[Leg, float]) -> bool:
    """True if the outcome is these legs, but for what another program disturbs."""
    stopped = sum(share for leg, share in outcome.disturbed.items() if leg.action in _STOPS)
    changed: dict[object, float] = {}
    for leg, share in outcome.disturbed.items():
        if leg.action not in _STOPS:
            changed[leg.action, leg.backend] = changed.get((leg.action, leg.backend), 0.0) + share
    for leg, share in legs.items():
        lacks = share - outcome.legs.get(leg, 0.0)
        here = min(lacks, changed.get((leg.action, leg.backend), 0.0))
        if here > 0:
            changed[leg.action, leg.backend] -= here
            lacks -= here
        stopped -= max(0.0, lacks)
    return stopped >= -CLOSE


def _sum(a: dict[Leg, float], b: dict[Leg, float]) -> dict[Leg, float]:
    total = dict(a)
    for leg, share in b.items():
        total[leg] = total.get(leg, 0.0) + share
    return total


def same_shares(a: dict[Leg, float], b: dict[Leg, float], *, within: float = CLOSE) -> bool:
    """Whether two distributions over legs are the same."""
    return all(abs(a.get(leg, 0.0) - b.get(leg, 0.0)) <= within for leg in {*a, *b})
