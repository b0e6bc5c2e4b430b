"""Changed rule sets: the walker still says what the kernel does, and the audit finds something exactly when it matters.

Fixed seeds, the same on every run, and a few fresh ones: a failure names the seed, which makes the same rule set again
(`python -m tests.kernel.long --only CAPTURE --seed SEED --count 1`, with the options that the failing test's KINDS name).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from . import trial
from .judge import Figures
from .trial import Auditor, Bench, benches, verdict


@dataclass(frozen=True)
class Kind:
    """Some captures and how they are loaded."""

    name: str
    benches: dict[str, Any]
    seeds: int
    """Fixed ones, of each bench."""
    questions: int = 12
    thorough: bool = False
    """The audit's short cuts are held to the audit that walks everything."""
    fresh: int = field(default=1)


KINDS = (
    Kind("iptables", {"backends": ("legacy", "nft")}, 6),
    Kind("nftables", {"nftables": True}, 20, fresh=2),
    Kind("crowds", {"crowds": True}, 4, thorough=True),
    Kind("crowds-nftables", {"crowds": True, "nftables": True}, 6, thorough=True),
)
"""14 benches of iptables (both backends), 3 of nftables, 5 and 2 of many Services that are alike: some 200 rule sets, 27 of them
fresh."""


def try_seeds(kind: Kind, seeds: Sequence[int], figures: Figures) -> list[str]:
    """Everything wrong with the rule sets of some seeds."""
    wrong = []
    for bench in benches(figures, **kind.benches):
        try:
            auditor = Auditor(bench.case, thorough=kind.thorough)
            for seed in seeds:
                wrong += _tried(bench, auditor, seed, kind.questions)
        finally:
            bench.close()
    return wrong


def _tried(bench: Bench, auditor: Auditor, seed: int, questions: int) -> list[str]:
    made = bench.trial(seed, questions=questions)
    if made.refused:
        return []
    wrong = [str(made)] if made.disagreements or made.apart else []
    if what := verdict(bench, made, auditor):
        wrong.append("\n  ".join([made.name, *made.edits, what]))
    return wrong


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_seeds(kind: Kind, record_property: Any) -> None:
    """No disagreement between walker and kernel, no false green and no false alarm.

    Some changes are the same every time, and some nobody has seen: `SVCROUTE_SEED` repeats a run's. All are tried on the same
    benches, which take as long to make as several changes.
    """
    first = int(os.environ.get("SVCROUTE_SEED") or secrets.randbelow(1 << 31))
    figures = Figures()
    wrong = try_seeds(kind, [*range(1, kind.seeds + 1), *range(first, first + kind.fresh)], figures)
    record_property("seed", f"{kind.name}: SVCROUTE_SEED={first}")
    record_property("figures", f"{kind.name}: {figures}")
    assert not wrong, f"SVCROUTE_SEED={first}\n" + "\n".join(wrong)
    assert figures.rule_sets > 2 * figures.refused, "most of the changes were refused, so little was tried"
    assert figures.changed > figures.rule_sets // 4, "few of the changes did anything, so little was shown"


@pytest.mark.root
def test_without_a_change_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: rules that nobody edited, captured or grown, change nothing for the kernel, and the audit is silent."""
    for mutator in (trial.Mutator, trial.NftMutator):
        monkeypatch.setattr(mutator, "run", lambda _: [])
    figures = Figures()
    for kind in KINDS[1:]:
        for bench in benches(figures, **kind.benches):
            try:
                auditor = Auditor(bench.case)
                made = bench.trial(1, questions=4)
                assert not made.disagreements
                assert verdict(bench, made, auditor) == ""
                result, _ = auditor.of(made)
                assert not result.findings
                assert not result.unverified
            finally:
                bench.close()
    assert figures.changed == 0
