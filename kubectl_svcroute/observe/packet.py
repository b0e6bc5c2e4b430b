"""The first packet of a connection, as a walk carries it.

A packet stands for every packet that one client could send to one frontend: its source is a *set* of addresses, which a
rule that asks for a source splits in two. Chance (`statistic`, `numgen`) splits its weight. What cannot be known from a
dump (an interface's name, the members of an ipset, the time of day) splits it too, but not its weight: both futures are
walked, and if they end alike the unknown did not matter (`observe/shares.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.fast_dataclass import dataclass, field
from ..model.ranges import ALL, EMPTY, Ranges, contains, intersect, subtract
from ..model.walk_result import Step
from .budget import Work


class Trace(NamedTuple):
    """The way that a packet went, newest step first, shared between the branches of a walk."""

    step: Step
    before: Trace | None


def steps(trace: Trace | None) -> list[Step]:
    """The steps of a trace, first one first."""
    found = []
    while trace is not None:
        found.append(trace.step)
        trace = trace.before
    found.reverse()
    return found


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that a packet came in by, of which little is known: which name patterns it is known to fit or not."""

    fits: frozenset[str] = frozenset()
    not_fits: frozenset[str] = frozenset()
    name: str = ""
    """Its name, where that is known; empty where it is not."""

    def matches(self, pattern: str) -> bool | None:
        """Whether `-i pattern` holds: iptables' `eth+`, nft's `eth*`. None: it cannot be known."""
        prefix = pattern[:-1] if pattern[-1:] in ("+", "*") else None
        if prefix == "":
            return True
        if self.name:
            return self.name.startswith(prefix) if prefix is not None else self.name == pattern
        key = pattern[:-1] + "+" if pattern.endswith("*") else pattern
        if key in self.fits:
            return True
        if key in self.not_fits:
            return False
        return None


LOOPBACK = Interface(name="lo")
NO_INTERFACE = Interface(name="\0")
"""A packet of a local process has no input interface: no name fits, and a negated match holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What the walk needs to know of the node itself."""

    family: int
    local: Ranges = EMPTY
    """Addresses that the node holds, loopback included."""
    pod_networks: Ranges = EMPTY
    """Where pods of the cluster live: what the CNIs' own address sets hold."""
    uplink: Interface = field(default_factory=Interface)
    work: Work = field(default_factory=Work)
    """What walks on this node may cost together, and have cost."""

    def is_local(self, address: int) -> bool:
        """Whether the node takes packets for this address in, instead of passing them on."""
        return contains(self.local, address)


Without = Callable[[str, str, object, str], bool]
"""True for a rule that is left out of a walk: by its table's label, its chain, the rule (`str` gives its text) and its target
(empty in nftables)."""


class Packet:
    """One branch of a walk. Mutable, and copied at forks; `trace` is shared."""

    __slots__ = (
        "bound_dst", "bound_src", "budget", "ctmark", "ctx", "doubts", "dport", "dst", "early", "facts", "from_node", "hook",
        "iif", "left_as", "mark", "masquerade", "memory", "original", "proto", "remembered", "seconds", "src", "trace",
        "unknown", "untracked", "weight", "without",
    )  # fmt: skip

    def __init__(
        self,
        ctx: NodeContext,
        *,
        src: Ranges,
        dst: int,
        proto: str,
        dport: int,
        iif: Interface,
        from_node: bool = False,
    ) -> None:
        self.ctx = ctx
        self.budget = ctx.work.budget()
        self.src = src
        self.dst = dst
        self.proto = proto
        """tcp, udp or sctp."""
        self.dport = dport
        self.original = (dst, dport)
        self.iif = iif
        self.from_node = from_node
        self.hook = ""
        self.mark = 0
        self.ctmark = 0
        self.weight = 1.0
        self.trace: Trace | None = None
        self.doubts: tuple[tuple[int, bool, str], ...] = ()
        """Unknowns that were assumed on the way: (which fork, how it was taken, why it is not known)."""
        self.facts: tuple[tuple[str, bool], ...] = ()
        """What was assumed of facts that other rules may ask for again."""
        self.memory: frozenset[str] = frozenset()
        """Affinity lists that hold the client's address from an earlier connection."""
        self.remembered: frozenset[str] = frozenset()
        """Affinity lists that this connection puts the client's address into."""
        self.seconds: int | None = None
        """How long the affinity list that decided this connection remembers; None when none did."""
        self.bound_dst = False
        self.bound_src = False
        self.masquerade = ""
        """`node`: leaves with an address of the node; otherwise the foreign address that it leaves with."""
        self.left_as: Ranges = EMPTY
        """Addresses that its source may have been changed to, which later rules see; empty while it bears its own."""
        self.untracked = False
        self.early = False
        """The chain that it is in runs before connection tracking has seen the packet, as table raw does."""
        self.without: Without | None = None
        """What is left out of the walk, to ask what would happen without it; None to walk the rules as they are."""
        self.unknown = ""
        """Why what happens to the packet cannot be told."""

    @property
    def tracked(self) -> bool:
        """Whether it has a connection: without one, only its state can be asked for."""
        return not self.untracked and not self.early

    def copy(self) -> Packet:
        """The same packet, to go another way."""
        self.budget.branches -= 1
        other = Packet.__new__(Packet)
        for slot in Packet.__slots__:
            setattr(other, slot, getattr(self, slot))
        return other

    def step(self, table: str, chain: str, rule: str, target: str, *, pins: bool = False) -> None:
        """Note that the packet matched a rule."""
        self.trace = Trace(Step(self.hook, table, chain, rule, target, pins), self.trace)


class SourceSplit(NamedTuple):
    """A match that holds for these sources only."""

    ranges: Ranges
    original: bool = False
    """Asks for the source that the connection began with, whatever it was changed to."""


class Chance(NamedTuple):
    """A match that holds with this probability."""

    probability: float


class Doubt(NamedTuple):
    """A match of which a dump cannot tell whether it holds."""

    reason: str
    fact: str = ""
    """What would have to be known, where other matches may ask for the same: a branch that assumed it goes on assuming it."""
    negated: bool = False
    """Holds where the fact does not."""


Result = bool | SourceSplit | Chance | Doubt
"""What a match says of a packet."""

_fork_numbers = iter(range(1, 1 << 62))


def new_fork() -> int:
    """A number that no fork had before."""
    return next(_fork_numbers)


def divide(packet: Packet, results: Sequence[Result]) -> tuple[list[Packet], list[Packet]]:
    """Split a packet by what the matches of one rule said: (branches that match, branches that do not).

    `results` holds no False (the caller has left then) and may be empty.
    """
    matched, unmatched = [packet], []
    for result in results:
        if result is True:
            continue
        again = []
        for branch in matched:
            yes, no = _split(branch, result)
            if yes is not None:
                again.append(yes)
            if no is not None:
                unmatched.append(no)
        matched = again
    return matched, unmatched


def _split(packet: Packet, result: Result) -> tuple[Packet | None, Packet | None]:
    if isinstance(result, SourceSplit):
        if packet.left_as and not result.original:
            # A packet that the node sends to itself meets INPUT with the source that POSTROUTING gave it.
            inside = intersect(packet.left_as, result.ranges)
            if inside == packet.left_as:
                return packet, None
            return _split(packet, Doubt("which address the node masquerades with")) if inside else (None, packet)
        inside = intersect(packet.src, result.ranges)
        if inside == packet.src:
            return packet, None
        if not inside:
            return None, packet
        other = packet.copy()
        other.src = subtract(packet.src, result.ranges)
        mine = packet.copy()
        mine.src = inside
        return mine, other
    if isinstance(result, Chance):
        if result.probability >= 1:
            return packet, None
        if result.probability <= 0:
            return None, packet
        other = packet.copy()
        other.weight = packet.weight * (1 - result.probability)
        mine = packet.copy()
        mine.weight = packet.weight * result.probability
        return mine, other
    if isinstance(result, Doubt):
        if result.fact:
            known = next((holds for fact, holds in packet.facts if fact == result.fact), None)
            if known is not None:
                return (None, packet) if known is result.negated else (packet, None)
        packet.budget.doubts -= 1
        fork = new_fork()
        other = packet.copy()
        other.doubts = (*packet.doubts, (fork, False, result.reason))
        mine = packet.copy()
        mine.doubts = (*packet.doubts, (fork, True, result.reason))
        if result.fact:
            mine.facts = (*packet.facts, (result.fact, not result.negated))
            other.facts = (*packet.facts, (result.fact, result.negated))
        return mine, other
    return (packet, None) if result else (None, packet)


def negate(result: Result, ctx: NodeContext) -> Result:
    """What `!` makes of a match's answer."""
    if isinstance(result, bool):
        return not result
    if isinstance(result, SourceSplit):
        return SourceSplit(subtract(ALL[ctx.family], result.ranges), result.original)
    if isinstance(result, Chance):
        return Chance(1 - result.probability)
    return result._replace(negated=not result.negated)
