"""Which rules are to blame for a wrong end: those without which the packet would end as it should.

The question is asked of the rules themselves. They are walked again without all rules of other programs: what is wrong then is
kube-proxy's own fault, whatever else is on the path. If nothing is, other programs' rules are left out one by one, from
the end of the path to its beginning, until the packet ends as it should; of these, only those remain that cannot be spared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..model.ranges import Ranges, union
from ..model.walk_result import Atom, End, Step
from .case import CLOSE, Case, Without
from .observation import Observation

Differences = Callable[[Case, Atom], Iterator[Observation]]

_ACTING = frozenset((
    "ACCEPT", "RETURN", "DROP", "REJECT", "DNAT", "REDIRECT", "SNAT", "MASQUERADE", "MARK", "CONNMARK", "CT", "NOTRACK",
))  # fmt: skip
"""What a rule does that can change how a packet ends. A jump does nothing by itself."""
NOT_MASQUERADED = frozenset(("SR301", "SR302", "SR304", "SR305", "SR306", "SR311"))
"""What is found where a packet should be masqueraded and is not."""
_MOST = 24
"""Rules that are left out at the same time."""


def touched(case: Case, atom: Atom) -> bool:
    """True if another program's rules could have a part in how the packets end: one acted on some path, or a doubt decided."""
    return any(end.doubts or any(_acts(case, step) for step in end.way) for end in atom.ends)


def by_own_rules(case: Case, atoms: Sequence[Atom], differences: Differences) -> list[tuple[Ranges, list[Observation]]]:
    """What would be wrong, for which sources, if no other program had rules here."""
    alone = case.ask_without(union(atom.sources for atom in atoms), case.landmarks.foreign_rule)
    found = ((atom.sources, list(differences(case, atom))) for atom in alone.atoms if atom.unknown_share <= CLOSE)
    return [(sources, wrong) for sources, wrong in found if wrong]


def known(case: Case, atoms: Sequence[Atom], differences: Differences) -> frozenset[Step] | None:
    """Rules that were found to blame for something else, if they are for this too."""
    here = {step for atom in atoms for end in atom.ends for step in end.way}
    for steps in reversed(case.suspects[-4:]):
        if steps <= here and _wrong_without(case, atoms, differences, _rules(steps)) is None:
            return steps
    return None


def culprits(case: Case, atoms: Sequence[Atom], differences: Differences) -> frozenset[Step]:
    """The rules of other programs that are to blame. Kube-proxy's own rules, alone, are right."""
    for leave_out in (_rules, _chains):
        chosen: list[Step] = []
        wrong: Atom | None = atoms[0]
        while wrong is not None and len(chosen) < _MOST:
            step = next((s for s in _candidates(case, wrong) if s not in chosen), None)
            if step is None:
                break
            chosen.append(step)
            wrong = _wrong_without(case, atoms, differences, leave_out(frozenset(chosen)))
        if wrong is not None:
            continue
        needed = frozenset(chosen)
        for step in chosen[:-1]:
            fewer = needed - {step}
            if _wrong_without(case, atoms, differences, leave_out(fewer)) is None:
                needed = fewer
        case.suspects.append(needed)
        return needed
    # No set of rules mends it: what acted last is named.
    return frozenset(step for atom in atoms for step in list(_candidates(case, atom))[:1])


def _wrong_without(case: Case, atoms: Sequence[Atom], differences: Differences, left_out: Without) -> Atom | None:
    """What is wrong without these rules; None if everything is right."""
    before = ((atom.possible or (atom,))[0] for atom in atoms)
    unmarked = any(difference.code in NOT_MASQUERADED for atom in before for difference in differences(case, atom))
    for seen in case.ask_without(union(atom.sources for atom in atoms), left_out).atoms:
        for outcome in seen.possible or (seen,):
            # That something else masquerades in its place does not make a rule the cause.
            if unmarked and any(_masqueraded_by_another(case, end) for end in outcome.ends):
                continue
            if outcome.unknown_share <= CLOSE and not any(differences(case, outcome)):
                break
        else:
            return seen
    return None


def _masqueraded_by_another(case: Case, end: End) -> bool:
    step = next((s for s in reversed(end.way) if s.target in ("MASQUERADE", "SNAT")), None)
    return step is not None and not case.landmarks.own(step)


def _acts(case: Case, step: Step) -> bool:
    return step.target in _ACTING and not case.landmarks.own(step)


def _candidates(case: Case, atom: Atom) -> Iterator[Step]:
    for end in atom.ends:
        yield from (step for step in reversed(end.way) if _acts(case, step))


def _rules(steps: frozenset[Step]) -> Without:
    """Leave out these rules, found by their text."""
    keys = {(step.table, step.chain) for step in steps}
    texts = {(step.table, step.chain, step.rule) for step in steps}
    return lambda table, chain, rule, _: (table, chain) in keys and (table, chain, str(rule)) in texts


def _chains(steps: frozenset[Step]) -> Without:
    """Leave out all rules of these rules' chains: a path shows a rule of nftables that has a map with one element of it only."""
    keys = {(step.table, step.chain) for step in steps}
    return lambda table, chain, _, __: (table, chain) in keys
