"""How much a snapshot may hold."""

from __future__ import annotations

from ..model.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may hold, unpacked, before it is taken for a bomb. The defaults fit a thousand big nodes.

    The dump of one node with 5,000 Services of 10 endpoints is 32 MB.
    """

    total: int = 64 << 30
    """Bytes of all members together."""
    member: int = 1 << 30
    """Bytes of one member that is kept."""
    header: int = 1 << 20
    """Bytes of one extended header; an honest one holds a path."""
    members: int = 200_000


LIMITS = Limits()
