"""What a walk saw: the ways that packets went on a node, and what became of them."""

from __future__ import annotations

from typing import NamedTuple

from .fast_dataclass import dataclass
from .net import Backend
from .ranges import Ranges
from .routes import Action, Leg


class Step(NamedTuple):
    """One rule that the packet matched: where it stands, what it said, and its raw text."""

    hook: str
    table: str
    """`ip nat`, `ip6 kube-proxy`."""
    chain: str
    rule: str
    """The raw line; for a policy, a description in parentheses."""
    target: str
    """The chain that it jumped to, or the target or verdict that it carried out."""
    pins: bool = False
    """The rule singles out one address or port: it is about one frontend or backend, not about all traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One branch of a walk at its end."""

    sources: Ranges
    weight: float
    action: Action | None
    """None: it cannot be told, and `unknown` says why."""
    backend: Backend | None
    masquerade: str
    """Empty, `node`, or the foreign address that the packet leaves with."""
    translated: bool
    """Its destination was changed on the way, whatever became of it then."""
    local: bool
    """It ends on the node itself, where nothing is masqueraded on the way in."""
    mark: int
    remembered: frozenset[str]
    seconds: int | None
    unknown: str
    doubts: tuple[tuple[int, bool, str], ...]
    way: tuple[Step, ...]

    @property
    def leg(self) -> Leg | None:
        """What the end comes to, to be compared; None when it cannot be told."""
        if self.action is None:
            return None
        masquerade = None if self.local else bool(self.masquerade)
        return Leg(self.action, self.backend, masquerade if self.action is Action.TRANSLATE else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """A set of sources that the node treats alike, and how."""

    sources: Ranges
    shares: dict[Leg, float]
    """Each leg's share of what can be told; sums to 1 less `unknown_share`."""
    unknown_share: float
    unknown: tuple[str, ...]
    """Why that much cannot be told."""
    ends: tuple[End, ...]
    possible: tuple[Atom, ...] = ()
    """Each thing that may happen, where a doubt decides what kube-proxy's rules do; empty where none does."""
    disturbed: tuple[End, ...] = ()
    """Ends that a doubt leads to at which another program's rule stops the packet or changes its source, where everything
    else is as in `shares`: what another program may do besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a node does with the packets of one client to one frontend."""

    atoms: tuple[Atom, ...]
    affinity: frozenset[int | None]
    """Seconds that each endpoint keeps a client that it has had; None for an endpoint that does not keep it."""
