"""What a walk may cost: one that tries too many rules or splits into too many branches is given up, and is not verified.

Rules of a kernel cannot lead in a circle (it refuses to load them), but a dump may hold anything.
"""

from __future__ import annotations

from collections.abc import Hashable

MOST_STEPS = 200_000
"""Rules that one walk may try. One through the rules of 5,000 Services tries some hundred."""
MOST_BRANCHES = 100_000
"""Branches that one walk may have, at all hooks together. A Service has two for each of its endpoints and kinds of clients."""
MOST_DOUBTS = 12_000
"""Forks by what a dump cannot tell: 2^n where n doubts lead to states of their own. A Service of 2,000 endpoints behind five
rules of a network policy whose sets are not known has 10,000."""
MOST_STEPS_OF_NODE = 100_000_000
"""Rules that all walks of one node and family may try."""
_LEAST_STEPS = 2_000


class Work:
    """What all walks of one node and family have cost."""

    __slots__ = ("left", "over")

    def __init__(self, left: int = MOST_STEPS_OF_NODE) -> None:
        self.left = left
        self.over = 0
        """Walks that were given up: each makes the next one's bound smaller, so that they cannot all cost the most."""

    def budget(self) -> Budget:
        """The budget of one more walk."""
        return Budget(max(min(MOST_STEPS >> min(self.over, 8), self.left), min(_LEAST_STEPS, self.left)), self)


class Budget:
    """What one walk may still cost. All branches of a packet share it."""

    __slots__ = ("branches", "doubts", "entered", "first", "steps", "work")

    def __init__(self, steps: int, work: Work) -> None:
        self.first = self.steps = steps
        self.branches = MOST_BRANCHES
        self.doubts = MOST_DOUBTS >> min(work.over, 5)
        self.entered: set[Hashable] = set()
        """Chains that the walk has been in."""
        self.work = work

    @property
    def spent(self) -> bool:
        """True if the walk has to be given up."""
        return self.steps < 0 or self.branches < 0 or self.doubts < 0

    def end(self) -> str:
        """Charge the walk to the node; why it was given up, or nothing."""
        self.work.left -= self.first - self.steps
        if not self.spent:
            return ""
        self.work.over += 1
        if self.doubts < 0:
            return f"what a dump cannot tell splits the packet into more than {MOST_DOUBTS} branches"
        if self.branches < 0:
            return f"the rules split the packet into more than {MOST_BRANCHES} branches"
        if self.work.left <= 0:
            return f"the walks of this node have tried {MOST_STEPS_OF_NODE} rules, which is more than any node's should"
        return f"the packet meets more than {self.first} rules: chains lead into each other again and again"
