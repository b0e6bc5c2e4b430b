"""Several sources of base chains (iptables legacy, iptables-nft, nft tables) on one node, in the kernel's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from .hooks import SOURCE_HOOKS, BaseChain, Hooks

NAT_OF_SOURCES, NAT_OF_DESTINATIONS = 100, -100
"""Where the NAT core hooks in. It calls all NAT chains of the hook from there, whatever priority they were given: that
orders them among each other only (net/netfilter/nf_nat_core.c, nf_nat_register_fn)."""


def _turn(hook: str, base: BaseChain) -> tuple[int, int]:
    if not base.nat:
        return base.priority, 0
    return NAT_OF_SOURCES if hook in SOURCE_HOOKS else NAT_OF_DESTINATIONS, base.priority


def merge(sources: Iterable[Mapping[str, Sequence[BaseChain]]]) -> Hooks:
    """All base chains of each hook in the order of their turns; within one priority in the order given."""
    hooks: dict[str, list[BaseChain]] = {}
    for source in sources:
        for hook, bases in source.items():
            hooks.setdefault(hook, []).extend(bases)
    return {hook: sorted(bases, key=partial(_turn, hook)) for hook, bases in hooks.items()}
