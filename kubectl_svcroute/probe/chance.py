"""Whether shares can be chance: exact binomial tails, one error rate for all comparisons of a run together.

Each endpoint of each frontend and node is one comparison: of n connections, k went to an endpoint that the rules give the
share p. k is Binomial(n, p). The probability of a count at least as far out, on its own side and doubled, is held against
`ERROR_RATE` divided by the number of comparisons (Bonferroni): on a cluster whose rules are carried out as they stand, a whole
run says so falsely with a probability of at most `ERROR_RATE`, however many nodes and endpoints it has. What is found is looked
at a second time, with new connections, and counts only when it is found again.
"""

from __future__ import annotations

import math

ERROR_RATE = 1e-6


def binomial_tail(count: int, n: int, p: float) -> float:
    """The probability of a count as far off as this one, both sides: twice the exact tail of its own side, at most 1."""
    if p <= 0 or p >= 1:
        return 1.0 if count == n * p else 0.0
    logs, logp, logq = math.lgamma(n + 1), math.log(p), math.log1p(-p)

    def mass(k: int) -> float:
        return math.exp(logs - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * logp + (n - k) * logq)

    lower = count <= n * p
    return min(1.0, 2 * math.fsum(mass(k) for k in (range(count + 1) if lower else range(count, n + 1))))


def improbable(count: int, n: int, p: float, comparisons: int) -> bool:
    """Whether a count is no chance, at `ERROR_RATE` for all comparisons together."""
    return binomial_tail(count, n, p) * max(1, comparisons) < ERROR_RATE
