"""One question about a client's packets to a frontend, with what should happen and what does, and how to report a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..model.fast_dataclass import dataclass
from ..model.net import Backend
from ..model.plan import Expectation, PortPlan
from ..model.ranges import Ranges, describe
from ..model.report import Severity
from ..model.routes import Action
from ..model.walk_result import Atom, End, Observed, Step
from .landmarks import Landmarks
from .observation import Observation

Without = Callable[[str, str, object, str], bool]
"""True for a rule that is left out: see `observe.packet.Without`."""

CLOSE = 1e-6
"""Shares nearer to each other than this are the same; iptables keeps probabilities in 31 bits, and n rules multiply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a node's rules as a whole."""

    services_programmed: int
    """Rules that lead from kube-proxy's entry chain to a Service's chain."""
    own_chains: bool = False
    """Chains of single Services are there, whether anything leads to them or not."""
    node_port_lookup: bool | None = None
    """nftables: whether packets are looked up in the map of node ports; None: the packet's way tells."""
    node_ports_programmed: int
    """Rules, or elements, that lead from a node port to a Service's chain."""
    node_port_ips: frozenset[str] | None = None
    """nftables: the node's addresses for which node ports are looked up; None where it is a matter of the rules alone."""
    hairpin_rule: bool | None = None
    """nftables from 1.36: whether the rule that masquerades what a pod sends to itself stands; None: pods are marked."""
    hooks: frozenset[tuple[str, str]]
    """(built-in chain, chain of kube-proxy) of each jump that stands, whatever it asks for."""
    chains: Callable[[], Iterable[str]] = tuple
    """The names of all chains of the node's rules, to name the program that a policy belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question and both answers."""

    plan: PortPlan
    expectation: Expectation
    observed: Observed
    landmarks: Landmarks
    facts: Facts
    pod_networks: Ranges
    tolerance: float
    """Relative error of a probability as this kube-proxy writes it."""
    mark: int
    """The bit that kube-proxy marks with."""
    clears_mark: bool
    endpoint_chain: Callable[[Backend], frozenset[str]]
    """The names that an endpoint's chain can have, to say whose chain sends elsewhere."""
    ask_without: Callable[[Ranges, Without], Observed]
    """Ask the same question for some sources, with rules left out."""
    suspects: list[frozenset[Step]]
    """Rules that were found to blame for other questions about the same rules, the last one last. Added to."""
    culprits: frozenset[Step] = frozenset()
    """The rules of other programs without which everything would be as expected; empty while kube-proxy's own are asked about."""

    def culprit(self, end: End) -> Step | None:
        """The first rule on the path that is to blame."""
        return next((step for step in end.way if step in self.culprits), None) if self.culprits else None

    @property
    def service(self) -> str:
        """`namespace/name`."""
        return self.plan.service.key

    def name(self, backend: Backend) -> str:
        """A backend as a person knows it."""
        known = self.plan.selection.known.get(backend)
        if known is None:
            same = next((c for b, c in self.plan.selection.known.items() if b.address == backend.address), None)
            return f"{backend} (port of pod {same.endpoint.pod})" if same and same.endpoint.pod else str(backend)
        return f"{backend} ({known.endpoint.pod})" if known.endpoint.pod else str(backend)


def difference(
    case: Case,
    atom: Atom,
    code: str,
    message: str,
    end: End,
    *,
    key: str,
    node_wide: bool = False,
    place: str = "",
    observed: str = "",
    severity: Severity | None = None,
    sources: Ranges | None = None,
) -> Observation:
    """A difference seen on the path that ends in `end`; `sources`: those it is about, if not all of the atom."""
    expectation = case.expectation
    return Observation(
        code=code,
        node_wide=node_wide,
        service=case.service,
        message=message,
        key=key,
        frontend=expectation.frontend,
        client=expectation.client,
        expected=expected_text(expectation),
        observed=observed + _sources_text(expectation, sources or atom.sources) if observed else "",
        evidence=tuple(dict.fromkeys(step.rule for step in end.way)),
        severity=severity,
        place=place,
    )


def _sources_text(expectation: Expectation, sources: Ranges) -> str:
    if sources == expectation.sources:
        return ""
    return f" (sources {describe(sources, expectation.frontend.family)})"


def expected_text(expectation: Expectation) -> str:
    """What should happen, in a few words."""
    if expectation.action is not Action.TRANSLATE:
        words = {Action.REJECT: "rejected", Action.DROP: "dropped", Action.PASS: "left alone"}
        return words[expectation.action]
    count = len(expectation.backends)
    shown = ", ".join(str(backend) for backend in expectation.backends[:6]) + (", …" if count > 6 else "")
    each = f"{percent(1 / count)} each to " if count > 1 else "to "
    masquerade = "masqueraded" if expectation.masquerade == "always" else "source kept"
    affinity = f", affinity {expectation.affinity} s" if expectation.affinity is not None else ""
    return f"{each}{shown}, {masquerade}{affinity}"


def percent(share: float) -> str:
    """A share as a person writes it: whole percents, or two decimals."""
    return f"{share:.0%}" if abs(share * 100 - round(share * 100)) < 1e-3 else f"{share:.2%}"


def shares_text(got: dict[Backend, float]) -> str:
    """Up to six backends with their shares."""
    parts = [f"{percent(share)} {backend}" for backend, share in sorted(got.items())[:6]]
    return ", ".join(parts) + (f", … ({len(got)} in all)" if len(got) > 6 else "")
