"""What an audit says: findings, what could not be verified, and a row for each Service (design.md, 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ExitCode
from .fast_dataclass import dataclass, field
from .lazy_regex import pattern

_CODE = pattern(r"SR\d{3}")
_NAME = pattern(r"[a-z0-9-]*")


def read_code(code: object, name: object = "") -> str:
    """A code that came from a file: renderers print codes and names as they are. Raises ValueError for any other text."""
    if not isinstance(code, str) or not isinstance(name, str) or not _CODE.fullmatch(code) or not _NAME.fullmatch(name):
        raise ValueError("it holds a code that no finding has")
    return code

if TYPE_CHECKING:
    from .flow import ProbeRow
    from .shard import Shard


class Severity(str, Enum):
    """How bad: `error`: traffic goes wrong; `warning`: it will, or a setting is unsafe; `info`: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 is the worst: the order in which findings are shown."""
        return ("error", "warning", "info").index(self.value)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, on one node, for one Service or (service None) for the node as a whole."""

    code: str
    name: str
    severity: Severity
    node: str | None
    """None for a statement about the cluster as a whole."""
    service: str | None
    """`namespace/name`."""
    frontend: str | None = None
    client: str | None = None
    message: str
    """What is wrong, in one sentence."""
    effect: str = ""
    """What traffic feels of it."""
    heals: str = ""
    """Whether kube-proxy will mend it by itself, and when."""
    expected: str = ""
    observed: str = ""
    elsewhere: str = ""
    """The node-to-node difference, where it helps: "the other 4 nodes have it"."""
    evidence: tuple[str, ...] = ()
    """Raw rule lines that were walked, and names of the API objects relied on."""
    count: int = 1
    """How many (frontend, client) pairs, or Services for a node-wide finding, this one finding stands for."""
    about: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """The Services on which it was seen. Not shown: it tells whether what it is about was changing."""
    cause: str = field(default="", compare=False, repr=False)
    """What makes two sights of it one and the same, together with code, node and Service. Not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """Something that was asked for and could not be verified, with its reason."""

    code: str
    node: str | None
    service: str | None = None
    reason: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJudged:
    """Another program's rules on one node that may disturb traffic of Services; kube-proxy's own rules are verified there.

    Said once for a program and node. `--strict` counts it as not verified.
    """

    code: str
    node: str
    program: str
    """Its name, or where its rules are if it is not recognised."""
    effects: tuple[str, ...]
    """What it may do: `drop`, `reject`, `masquerade`."""
    reason: str
    """Why it is not known what it does."""
    evidence: tuple[str, ...] = ()
    """Some of the rules that decide."""

    @property
    def message(self) -> str:
        """The whole in one sentence, without the node."""
        can = " or ".join(self.effects)
        return f"rules of {self.program} can {can} traffic of Services, and were not judged: {self.reason}"


class EndpointRow(NamedTuple):
    """One endpoint of a Service as the API has it, and the share of connections that each node gives it."""

    address: str
    """`10.244.1.2:8080`."""
    pod: str | None
    node: str | None
    ready: bool
    state: str
    """ready, terminating, not ready: as a person would say it."""
    port: str
    """The Service port's name or number that this endpoint serves."""
    share: Mapping[str, float | None]
    """Node name -> share of a new pod-client connection to the cluster IP, 0 to 1; None where not verified."""
    wrong: frozenset[str] = frozenset()
    """Nodes where that share is not what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """One Service as it was audited."""

    service: str
    type: str
    cluster_ips: tuple[str, ...]
    ports: tuple[str, ...]
    """`http 80/TCP` or `8080/TCP`."""
    policy: str
    """Traffic policies, affinity and the like in a few words; empty when all are the default."""
    frontends: tuple[str, ...]
    endpoints: Sequence[EndpointRow]
    counts: tuple[int, int] | None = None
    """(ready, all) endpoints, where that is known without looking at the rows."""
    nodes: int
    """How many nodes were asked about."""
    nodes_verified: int
    """How many of these were verified for this Service."""
    errors: int
    warnings: int
    told: tuple[frozenset[str], frozenset[str]] | None = None
    """(nodes where a share is wrong, nodes where one is not known), where that is known without looking at the rows."""
    evidence: tuple[str, ...] = ()
    """The rule lines that a pod's packet to the first cluster IP walked, on the first node that was verified."""
    skipped: str = ""
    """Why kube-proxy programs nothing for it, and what to look at instead (headless, ExternalName, other proxy)."""


    @property
    def wrong_on(self) -> frozenset[str]:
        """Nodes where some endpoint's share is not what it should be."""
        return self.told[0] if self.told is not None else frozenset(node for row in self.endpoints for node in row.wrong)

    @property
    def untold_on(self) -> frozenset[str]:
        """Nodes where some endpoint's share is not verified."""
        if self.told is not None:
            return self.told[1]
        return frozenset(node for row in self.endpoints for node, share in row.share.items() if share is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node as it was audited."""

    node: str
    verified: bool
    mode: str
    """iptables, nftables, ipvs, ..., or empty when not known."""
    version: str
    """kube-proxy's version as far as known."""
    via: str
    errors: int = 0
    warnings: int = 0
    tracked: int | None = None
    """Entries of the connection-tracking table; None where they were not asked about, or not read."""
    tracked_most: int | None = None
    """How many it can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer. Its order is the same on every run."""

    findings: tuple[Finding, ...]
    unverified: tuple[Unverified, ...]
    services: tuple[ServiceRow, ...]
    nodes: tuple[NodeRow, ...]
    notes: tuple[str, ...] = ()
    """What a reader should know to weigh the rest: what was inferred, from what moment it is."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """Facts about the run: the origin, the kube-proxy mode and version that most nodes have."""
    shard: Shard | None = None
    """Which part of the nodes this is the report of, and what merging the parts needs; None when it is of all."""
    not_judged: tuple[NotJudged, ...] = ()
    """What other programs' rules may do besides, and nobody knows whether they do."""
    probes: tuple[ProbeRow, ...] = ()
    """What real connections came to, where some were made (`probe`)."""

    @property
    def errors(self) -> int:
        """Findings of severity error."""
        return sum(f.severity is Severity.ERROR for f in self.findings)

    @property
    def warnings(self) -> int:
        """Findings of severity warning."""
        return sum(f.severity is Severity.WARNING for f in self.findings)

    @property
    def nodes_verified(self) -> int:
        """Nodes of which every asked-for Service was verified."""
        return sum(n.verified for n in self.nodes)

    @property
    def verdict(self) -> str:
        """`failed` (errors), `warned` (warnings only), `unverified` (nothing found, not all verified) or `passed`."""
        if self.errors:
            return "failed"
        if self.warnings:
            return "warned"
        return "unverified" if self.unverified or not self.nodes else "passed"

    def exit_code(self, *, fail_on: str = "warning", allow_partial: bool = False) -> ExitCode:
        """The exit status of design.md, section 5."""
        failed = {"error": self.errors, "warning": self.errors + self.warnings, "never": 0}[fail_on]
        if failed:
            return ExitCode.FINDINGS
        if (self.unverified or not self.nodes) and not allow_partial:
            return ExitCode.NOT_VERIFIED  # an audit that looked at no node proves nothing
        return ExitCode.OK
