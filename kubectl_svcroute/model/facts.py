"""What the API alone says of the Services asked for: what a report shows beside what the nodes do.

It is the same for every node, so an audit in parts (`--shard`) needs it once, whoever judged the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .fast_dataclass import dataclass, field
from .net import Backend
from .report import Unverified


class EndpointFact(NamedTuple):
    """One endpoint on one port, as the API has it."""

    port: str
    """The Service port's name or number that it serves."""
    backend: Backend
    pod: str | None
    node: str | None
    ready: bool
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """One Service as the API has it, in the words of the report."""

    service: str
    """`namespace/name`."""
    type: str
    cluster_ips: tuple[str, ...]
    ports: tuple[str, ...]
    """`http 80/TCP` or `8080/TCP`."""
    port_order: tuple[str, ...]
    """The ports as endpoints name them, in the Service's order."""
    policy: str
    counts: tuple[int, int]
    """(ready, all) endpoints; one that serves several ports counts once."""
    skipped: str = ""
    endpoints: Sequence[EndpointFact] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a report says which no node had to be asked for."""

    services: tuple[ServiceFacts, ...]
    notes: tuple[str, ...] = ()
    denied: tuple[Unverified, ...] = field(default_factory=tuple)
    """What the API did not show."""
