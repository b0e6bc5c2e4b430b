"""What a check sees, before observations are rolled up into findings."""

from __future__ import annotations

from ..model.fast_dataclass import dataclass
from ..model.net import Frontend
from ..model.report import Severity
from ..model.routes import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One difference between what should be and what is."""

    code: str
    node_wide: bool
    """The cause is the node's, whatever Service it was seen on."""
    service: str | None
    message: str
    key: str = ""
    """Observations of one code and key, on one Service or node, are one finding."""
    frontend: Frontend | None = None
    client: Client | None = None
    expected: str = ""
    observed: str = ""
    evidence: tuple[str, ...] = ()
    severity: Severity | None = None
    """None: that of the code."""
    place: str = ""
    """Where the mistake is, which decides whether kube-proxy fixes it: a `heal.Place`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure:
    """One (frontend, client) that could not be judged."""

    code: str
    service: str
    reason: str
    frontend: Frontend
    client: Client
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Another program may stop some traffic or change its source, and whether it does is not known.

    Kube-proxy's own rules are verified all the same.
    """

    program: str
    effect: str
    """`drop`, `reject` or `masquerade`."""
    reason: str
    """What is not known."""
    rule: str = ""
    """The rule that would do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A Service's cluster IP is an address of the node, and another program keeps its traffic there: NodeLocal DNSCache does."""

    service: str
    address: str
    program: str

    def __str__(self) -> str:
        return (
            f"{self.service}: the node itself holds {self.address}, and rules of {self.program} keep its traffic from kube-proxy:"
            " a process of the node answers it"
        )


Result = Observation | Unsure | Disturbance | Answered
"""What the comparison of one frontend and client can give."""
