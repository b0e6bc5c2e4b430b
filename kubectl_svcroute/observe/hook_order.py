"""Several sources of base chains (iptables legacy, iptables-nft, nft tables) on one node, in the kernel's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .hooks import SOURCE_HOOKS, BaseChain, Hooks, meet
from .look_ahead import felt
from .packet import Doubt, Packet, divide
from .verdict import Verdict

NAT_OF_SOURCES, NAT_OF_DESTINATIONS = 100, -100
"""Where the NAT core hooks in. It calls all NAT chains of the hook from there, whatever priority they were given: that
orders them among each other only (net/netfilter/nf_nat_core.c, nf_nat_register_fn)."""


def _turn(hook: str, base: BaseChain) -> tuple[int, int]:
    if not base.nat:
        return base.priority, 0
    return NAT_OF_SOURCES if hook in SOURCE_HOOKS else NAT_OF_DESTINATIONS, base.priority


def merge(sources: Iterable[Mapping[str, Sequence[BaseChain]]]) -> Hooks:
    """All base chains of each hook in the order of their turns; within one turn, those of one source in the order given.

    Which of two sources comes first within a turn is not in any dump: it is the one that was hooked in last
    (net/netfilter/core.c, nf_hook_entries_grow inserts before its equals).
    """
    hooks: dict[str, dict[tuple[int, int], list[BaseChain]]] = {}
    for source in sources:
        for hook, bases in source.items():
            turns: dict[tuple[int, int], list[BaseChain]] = {}
            for base in bases:
                turns.setdefault(_turn(hook, base), []).append(base)
            there = hooks.setdefault(hook, {})
            for turn, mine in turns.items():
                there[turn] = [_either(there[turn], mine)] if turn in there else mine
    return {hook: [base for turn in sorted(turns) for base in turns[turn]] for hook, turns in hooks.items()}


def _either(some: Sequence[BaseChain], others: Sequence[BaseChain]) -> BaseChain:
    return BaseChain(
        priority=some[0].priority, nat=False, runner=_EitherFirst(some, others), label=f"{some[0].label}, {others[0].label}"
    )


class _EitherFirst:
    """Base chains of two sources, of which either may be asked first."""

    def __init__(self, some: Sequence[BaseChain], others: Sequence[BaseChain]) -> None:
        self.some, self.others = some, others

    def run(self, packet: Packet) -> list[tuple[Verdict, Packet]]:
        """Every branch of the packet with its verdict: both orders, where both sources do something to it."""
        if not (_acts(self.others, packet) and _acts(self.some, packet)):
            return _through([*self.some, *self.others], packet)
        reason = f"whether {self.some[0].label} or {self.others[0].label} is asked first: the one that was hooked in last"
        (one,), (two,) = divide(packet, [Doubt(reason)])
        return [*_through([*self.some, *self.others], one), *_through([*self.others, *self.some], two)]


def _through(bases: Sequence[BaseChain], packet: Packet) -> list[tuple[Verdict, Packet]]:
    done: list[tuple[Verdict, Packet]] = []
    going = [packet]
    for base in bases:
        seen = [result for branch in going for result in meet(base, branch)]
        going = [branch for verdict, branch in seen if verdict is Verdict.ACCEPT]
        done += [(verdict, branch) for verdict, branch in seen if verdict is not Verdict.ACCEPT]
    return done + [(Verdict.ACCEPT, branch) for branch in going]


def _acts(bases: Sequence[BaseChain], packet: Packet) -> bool:
    """True if these chains alone would change the packet or not let it pass."""
    return any(
        verdict is not Verdict.ACCEPT or felt(branch) != felt(packet)
        for verdict, branch in _through(bases, packet.copy())
    )
