"""How a walk is kept from doubling where nothing comes of it.

A match that a dump cannot answer forks the packet. Firewalls log with such matches (`-m limit … -j LOG`, `-m time`), a dozen on
a path, and n forks are 2^n branches. But most of them change nothing: whichever way they go, the packet comes to the next rule
as it was. So where a doubt forks a packet, the runner looks ahead: if every branch comes back to the rule behind in the same
state, there was no fork. The same holds for a chain that is entered again and again: 16 chains, each jumping twice to the next,
are 2^16 walks of the last one. Answers are kept by place and state, so that each is found out once. The cost then grows with
the number of states in which a packet can be at a place, not with the number of paths. What still grows is bounded (budget.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .packet import Packet

_ENOUGH = 2_000
"""A walk that has tried so many rules is no usual one: chains that it enters again are looked at."""
_MOST_ANSWERS = 50_000

FELT = (
    "bound_dst", "bound_src", "ctmark", "dport", "dst", "left_as", "mark", "masquerade", "remembered", "seconds", "untracked",
)  # fmt: skip
"""What a rule can change of a packet that a later rule, or the end of its path, depends on."""
_KNOWN = ("early", "facts", "from_node", "hook", "iif", "memory", "original", "proto", "src")
"""What else a rule can ask for."""


def felt(packet: Packet) -> tuple[object, ...]:
    """What rules can have changed of a packet, to compare two branches at one place."""
    return tuple([getattr(packet, name) for name in FELT])


class LookAhead:
    """The answers of one runner: does what lies ahead of a place change a packet in a given state?"""

    def __init__(self) -> None:
        self._answers: dict[Hashable, bool] = {}

    def idle(self, place: Hashable, packet: Packet, ahead: Callable[[], bool]) -> bool:
        """True if `ahead` says that every branch comes back unchanged; asked once for a place and a state."""
        key = (place, packet.ctx, packet.without, felt(packet), *[getattr(packet, name) for name in _KNOWN])
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            found = self._answers[key] = ahead()
        return found

    @staticmethod
    def entered_again(packet: Packet, chain: Hashable) -> bool:
        """True if an unusual walk enters a chain that it has been in."""
        budget = packet.budget
        if budget.first - budget.steps < _ENOUGH:
            return False
        if chain in budget.entered:
            return True
        budget.entered.add(chain)
        return False
