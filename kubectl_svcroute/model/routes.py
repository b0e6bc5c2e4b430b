"""Routes: what happens to the first packet of a connection. Expected and observed share these types."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from .fast_dataclass import dataclass
from .net import Backend


class Client(str, Enum):
    """Where the packet comes from, because rules differ by it (design.md, section 4)."""

    POD = "pod"
    """A pod on this node that is no endpoint of the Service."""
    HAIRPIN = "hairpin"
    """An endpoint of the Service itself."""
    NODE = "node"
    """A process on the node: enters at OUTPUT; all others enter at PREROUTING."""
    OUTSIDE = "outside"
    """Off-cluster; in range where the Service has source ranges."""
    STRANGER = "stranger"
    """Off-cluster and not in the Service's source ranges."""

    def __str__(self) -> str:
        return self.value


class Action(str, Enum):
    """What becomes of the packet."""

    TRANSLATE = "translate"
    REJECT = "reject"
    DROP = "drop"
    PASS = "pass"
    """Untouched: it goes on to the address that was dialled."""

    def __str__(self) -> str:
        return self.value


class Leg(NamedTuple):
    """One branch of a Route: where it ends, whether its source address is masqueraded on the way out."""

    action: Action
    backend: Backend | None
    masquerade: bool | None
    """None: it does not matter, or cannot happen (the backend is the node itself)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a node does with new connections of one client to one frontend."""

    legs: tuple[tuple[Leg, float], ...]
    """Each branch and its share; shares sum to 1. One leg of share 1 for everything that is not translated."""
    affinity: int | None = None
    """Session affinity by client address: seconds that a client stays on its endpoint; None when it does not."""

    @property
    def action(self) -> Action | None:
        """The one action of all legs, or None when they differ."""
        actions = {leg.action for leg, _ in self.legs}
        return actions.pop() if len(actions) == 1 else None

    @property
    def backends(self) -> dict[Backend, float]:
        """The share of each backend."""
        shares: dict[Backend, float] = {}
        for leg, share in self.legs:
            if leg.backend is not None:
                shares[leg.backend] = shares.get(leg.backend, 0.0) + share
        return shares
