"""From the ends of a walk to what can be said of it: for each set of sources, the share of every leg.

A doubt forked the walk without splitting its weight: both sides carry the whole. Where both sides come to the same
shares the doubt did not matter; where they do not, what happens is not verified, for the reason that the doubt gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model.ranges import Ranges, intersect, subtract
from ..model.routes import Leg
from ..model.walk_result import Atom, End

CLOSE = 1e-9
"""Shares nearer to each other than this are the same: iptables keeps probabilities in 31 bits."""


def settle(ends: Sequence[End]) -> list[Atom]:
    """The atoms of a walk, in the order of their sources."""
    distinct: list[Ranges] = []
    for end in ends:
        if end.sources not in distinct:
            distinct.append(end.sources)
    parts = [distinct[0]] if len(distinct) == 1 else _partition(distinct)
    atoms = []
    for part in parts:
        mine = [end for end in ends if end.sources == part or intersect(end.sources, part)]
        shares, unknown_share, unknown = _resolve(mine, 0)
        atoms.append(
            Atom(
                sources=part,
                shares=shares,
                unknown_share=unknown_share,
                unknown=tuple(dict.fromkeys(unknown)),
                ends=tuple(mine),
            )
        )
    return sorted(atoms, key=lambda atom: atom.sources)


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


def _resolve(ends: Sequence[End], depth: int) -> tuple[dict[Leg, float], float, list[str]]:
    shares: dict[Leg, float] = {}
    unknown_share = 0.0
    unknown: list[str] = []
    forks: dict[int, tuple[list[End], list[End], str]] = {}
    for end in ends:
        if len(end.doubts) > depth:
            fork, taken, reason = end.doubts[depth]
            sides = forks.setdefault(fork, ([], [], reason))
            (sides[0] if taken else sides[1]).append(end)
            continue
        leg = end.leg
        if leg is None:
            unknown_share += end.weight
            unknown.append(end.unknown)
        else:
            shares[leg] = shares.get(leg, 0.0) + end.weight
    for with_it, without, reason in forks.values():
        # A side that no end of this atom took was empty for its sources: the other side is all there is.
        if not with_it or not without:
            side, side_unknown, reasons = _resolve(with_it or without, depth + 1)
        else:
            side, side_unknown, reasons = _resolve(with_it, depth + 1)
            other, other_unknown, _ = _resolve(without, depth + 1)
            if not same_shares(side, other) or side_unknown > CLOSE or other_unknown > CLOSE:
                side_unknown = sum(side.values()) + side_unknown
                side, reasons = {}, [reason]
        for leg, share in side.items():
            shares[leg] = shares.get(leg, 0.0) + share
        unknown_share += side_unknown
        unknown.extend(reasons)
    return shares, unknown_share, unknown


def same_shares(a: dict[Leg, float], b: dict[Leg, float], *, within: float = CLOSE) -> bool:
    """Whether two distributions over legs are the same."""
    return all(abs(a.get(leg, 0.0) - b.get(leg, 0.0)) <= within for leg in {*a, *b})
