"""The way of one packet through one node, as it is told to a person.

A `Trace` is about the first packet of a connection from one client to one frontend: the packets after it follow what
conntrack remembers of the first. It has one `Way` for each set of sources that the node treats alike, and a way has two
parts: a tree up to where the destination is decided, which forks where chance chooses an endpoint, and the exits behind
it, where it is decided whether the packet may pass and whether its source is changed. Branches that leave alike share an
exit: five endpoints are told five times where they differ, and once where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ..errors import ExitCode
from .fast_dataclass import dataclass
from .net import Frontend
from .report import Finding, Severity, Unverified
from .routes import Client


class Role(str, Enum):
    """What a hop is to the story."""

    ENTER = "enter"
    """A built-in chain hands the packet over to kube-proxy."""
    FIND = "find"
    """The address that was dialled is found among all Services."""
    THROUGH = "through"
    """On through the Service's own chains: policy, source ranges."""
    CHOOSE = "choose"
    """An endpoint is chosen."""
    ASK = "ask"
    """Masquerade is asked for: on to the chain that sets the mark."""
    MARK = "mark"
    """The mark is set."""
    DROP_MARK = "drop mark"
    """The other mark is set: the packet is to be dropped later."""
    TRANSLATE = "translate"
    """The destination is changed."""
    LOOK = "look"
    """A chain that the packet was led through and that had nothing to say about it."""
    UNMARKED = "unmarked"
    """The mark was looked for, and is not there."""
    CLEAR = "clear"
    """The mark is taken off."""
    MASQUERADE = "masquerade"
    """The source is changed."""
    ACCEPT = "accept"
    STOP = "stop"
    """Dropped or rejected."""
    OTHER = "other"
    UNKNOWN = "unknown"
    """What this rule does cannot be told."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One rule that the packet matched."""

    role: Role
    hook: str
    table: str
    """`nat`, or `ip kube-proxy` for an nftables table."""
    chain: str
    target: str
    rule: str
    """The raw line, as the node's own tool prints it."""
    words: str
    """What the rule asks for, and what it does."""
    why: str = ""
    """What it is for; empty where the words say it all."""
    foreign: bool = False
    """Another program's rule, not kube-proxy's."""
    command: str = ""
    """A command that only reads and shows this rule on the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What becomes of one branch."""

    action: str | None
    """translate, reject, drop, pass; None when it cannot be told."""
    share: float
    should: float | None
    """The share that it should have; None where no comparison was possible."""
    address: str = ""
    """Where a translated packet goes: `10.244.1.2:8080`."""
    pod: str = ""
    node: str = ""
    state: str = ""
    """In the words of the API; empty for an address that the API does not know as an endpoint of the Service."""
    ready: bool | None = None
    """None for an address that the API does not know."""
    here: bool = False
    """The endpoint is on the node that is traced."""
    exit: int | None = None
    """Index into the way's exits; None when the packet does not get so far."""
    unknown: str = ""
    wrong: str = ""
    """Why this is not as it should be; empty when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A stretch of the way, and how it goes on: with further branches, or with its end."""

    share: float
    """Of all connections."""
    hops: tuple[Hop, ...]
    branches: tuple[Branch, ...] = ()
    end: Ending | None = None

    def leaves(self) -> Iterator[Branch]:
        """All branches that end, in order."""
        if self.end is not None:
            yield self
        for branch in self.branches:
            yield from branch.leaves()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Behind the decision: whether the packet may pass, and whether its source is changed."""

    share: float
    hops: tuple[Hop, ...]
    ends: int
    """How many branches leave this way."""
    who: str
    """Which of the branches these are; empty when it is all of them."""
    action: str | None
    marked: bool
    """Masquerade was asked for on the way."""
    mark_reason: str
    """Why it was, or why it was not."""
    masquerade: bool
    source: str
    """What its source address is when it leaves."""
    answer: str
    """How the answer finds its way back, or what the client gets instead."""
    wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What the node does with the packets of some sources."""

    client: Client
    sources: str
    """Who these are, in words."""
    expected: str
    """What should happen to them, in words."""
    tree: Branch
    exits: tuple[Exit, ...]
    missing: tuple[Ending, ...] = ()
    """Endpoints that should get a share and get none."""
    unknown: tuple[str, ...] = ()
    """Why a part of it cannot be told."""
    alike: str = ""
    """Of which of the sources it is told, where several have rules of their own that do the same."""
    affinity: str = ""
    """How a client that comes again is treated; empty when like any other."""
    affinity_rule: str = ""
    """The rule that sends it back to the endpoint that it has had."""

    def endings(self) -> tuple[Ending, ...]:
        """All ends, in the order of the tree."""
        return tuple(branch.end for branch in self.tree.leaves() if branch.end is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that only reads, and what it shows."""

    shows: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The answer to one `trace`."""

    service: str
    node: str
    client: Client
    frontend: Frontend | None
    """None when the node could not be asked at all."""
    port: str = ""
    """The Service port's name or number."""
    mode: str = ""
    version: str = ""
    mark: int = 0x4000
    mark_chain: str = ""
    """The chain that sets the mark."""
    test_chain: str = ""
    """The chain that looks for it."""
    ways: tuple[Way, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Where this way differs from what should be."""
    beside: tuple[Finding, ...] = ()
    """What else is wrong with the node as a whole."""
    elsewhere: tuple[Finding, ...] = ()
    """What is wrong with the Service on this node for other clients or at other addresses."""
    unverified: tuple[Unverified, ...] = ()
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = ""

    @property
    def differs(self) -> bool:
        """Whether this way is not as it should be, or the node is broken for all of them."""
        return any(f.severity is not Severity.INFO for f in self.findings) or any(
            f.severity is Severity.ERROR for f in self.beside
        )

    @property
    def verdict(self) -> str:
        """`differs`, `unverified` or `as it should be`."""
        if self.differs:
            return "differs"
        return "unverified" if self.unverified or not self.ways else "as it should be"

    def exit_code(self, *, allow_partial: bool = False) -> ExitCode:
        """The exit status, as for every command."""
        if self.differs:
            return ExitCode.FINDINGS
        if self.verdict == "unverified" and not allow_partial:
            return ExitCode.NOT_VERIFIED
        return ExitCode.OK
