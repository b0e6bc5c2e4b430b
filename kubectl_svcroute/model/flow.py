"""Connections as a node's connection tracking knows them, and what a probe of one frontend came to."""

from __future__ import annotations

from typing import NamedTuple

from .fast_dataclass import dataclass
from .net import Protocol


class Flow(NamedTuple):
    """One entry of the connection-tracking table: who dialled what, and who is expected to answer to whom."""

    protocol: Protocol
    src: str
    sport: int
    dst: str
    dport: int
    reply_src: str
    """Who answers: the endpoint, where the destination was translated."""
    reply_sport: int
    reply_dst: str
    """To whom: another address than `src` where the source was translated."""
    reply_dport: int
    state: str
    """TCP's and SCTP's state; empty for UDP."""
    replied: bool
    zone: bool
    """It stands in a zone of its own (Open vSwitch, …): kube-proxy's rules never saw it as a connection."""
    raw: str

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.dst else 4

    @property
    def translated(self) -> bool:
        """Whether somebody else answers than was dialled."""
        return (self.reply_src, self.reply_sport) != (self.dst, self.dport)


class ProbeShare(NamedTuple):
    """One endpoint as a probe met it."""

    backend: str
    """`10.244.1.2:8080`."""
    pod: str | None
    sent: int
    """Connections that went to it."""
    answered: int
    share: float | None
    """The share of connections that the node's rules give it; None where that cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """What real connections from one place to one frontend came to."""

    node: str
    service: str
    frontend: str
    source: str
    """`node`, or `pod/NAME`."""
    tool: str
    """What dialled: python3, bash, nc or curl."""
    seen_by: str
    """What told where they went: conntrack, /proc/net/nf_conntrack, tcpdump; empty when nothing did."""
    dialled: int
    connected: int
    refused: int
    timed_out: int
    failed: int
    """Neither: the network was unreachable, or the dialling itself failed."""
    latency: tuple[float, float] | None
    """Median and longest time to connect (UDP: to the answer), in seconds."""
    expected: str
    """What the API asks for: translated, rejected, dropped."""
    answers: tuple[ProbeShare, ...] = ()
    unseen: int = 0
    """Connections of which it is not known where they went."""
    shown: tuple[str, ...] = ()
    """Packets as they were captured, with what was dialled before them."""
