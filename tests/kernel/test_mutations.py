"""Changed rule sets: the walker still says what the kernel does, and the audit finds something exactly when it matters.

Fixed seeds, the same on every run, and a few fresh ones: a failure names the seed, which makes the same rule set again
(`python -m tests.kernel.long --only CAPTURE --seed SEED --count 1`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from .judge import Figures
from .trial import Auditor, Bench, benches, verdict

FIXED = 36
"""Rule sets a bench; there are seven benches."""
FRESH = 2


@pytest.fixture(scope="module")
def made(figures: Figures) -> Iterator[list[tuple[Bench, Auditor]]]:
    found = benches(figures)
    yield [(bench, Auditor(bench.case)) for bench in found]
    for bench in found:
        bench.close()


def try_seeds(made: list[tuple[Bench, Auditor]], seeds: list[int]) -> list[str]:
    """Everything wrong with the rule sets of these seeds."""
    wrong = []
    for seed in seeds:
        for bench, auditor in made:
            trial = bench.trial(seed, questions=16)
            if trial.refused:
                continue
            if trial.disagreements:
                wrong.append(str(trial))
            if what := verdict(bench, trial, auditor):
                wrong.append("\n  ".join([trial.name, *trial.edits, what]))
    return wrong


@pytest.mark.root
def test_fixed_seeds(made: list[tuple[Bench, Auditor]], figures: Figures) -> None:
    """No disagreement between walker and kernel, no false green and no false alarm, on the same changes every time."""
    wrong = try_seeds(made, list(range(1, FIXED + 1)))
    print(figures)
    assert not wrong, "\n".join(wrong)
    assert figures.rule_sets > 5 * FIXED, "most of the changes were refused, so little was tried"


@pytest.mark.root
def test_fixed_seeds_in_nftables_mode(figures: Figures) -> None:
    """Walker and kernel agree on changed nftables rule sets too: text into the kernel, JSON before the walker."""
    wrong = []
    for bench in benches(figures, nftables=True):
        try:
            wrong += [str(t) for t in (bench.trial(seed, questions=12) for seed in range(1, 9)) if t.disagreements]
        finally:
            bench.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.root
def test_fresh_seeds(made: list[tuple[Bench, Auditor]]) -> None:
    """The same on changes that nobody has seen; `SVCROUTE_SEED` repeats a run's."""
    first = int(os.environ.get("SVCROUTE_SEED") or secrets.randbelow(1 << 31))
    print(f"fresh seeds from SVCROUTE_SEED={first}")
    wrong = try_seeds(made, list(range(first, first + FRESH)))
    assert not wrong, f"SVCROUTE_SEED={first}\n" + "\n".join(wrong)
