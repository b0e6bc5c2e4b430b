"""One client's packets to one frontend: what should happen, beside what does.

Theory of operation. An `Expectation` is about a set of sources; the walk answered with atoms, sets of sources that the
node treats alike. For each atom, in this order:

1. what cannot be told is unsure, and nothing more is said of it;
2. an action that should not be: find the step of the way where it went wrong, and whose rule that is (`blame.py`);
3. the backends: which usable ones get nothing, which others get something, and whether the shares are even;
4. the masquerade of every leg that goes where it should.

Behaviour is compared, never rule text: two rule sets that do the same are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from ..model.fast_dataclass import dataclass
from ..model.net import Backend, FrontendKind
from ..model.plan import Expectation, PortPlan
from ..model.ranges import Ranges, contains, describe, number, single, subtract, union
from ..model.report import Severity
from ..model.routes import Action, Client, Leg
from ..model.walk_result import Atom, End, Observed
from . import blame
from .landmarks import Landmarks
from .observation import Observation, Unsure

CLOSE = 1e-6
"""Shares nearer to each other than this are the same; iptables keeps probabilities in 31 bits, and n rules multiply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question and both answers."""

    plan: PortPlan
    expectation: Expectation
    observed: Observed
    landmarks: Landmarks
    facts: blame.Facts
    pod_networks: Ranges
    tolerance: float
    """Relative error of a probability as this kube-proxy writes it."""
    mark: int
    """The bit that kube-proxy marks with."""
    clears_mark: bool
    endpoint_chain: Callable[[Backend], frozenset[str]]
    """The names that an endpoint's chain can have, to say whose chain sends elsewhere."""

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


def compare(case: Case) -> Iterator[Observation | Unsure]:
    """Every difference between what should be and what is."""
    expectation = case.expectation
    for atom in case.observed.atoms:
        if atom.unknown_share > CLOSE:
            yield Unsure(
                code="SR905" if any("iptables" in reason and "print" in reason for reason in atom.unknown) else "SR903",
                service=case.service,
                reason="; ".join(atom.unknown),
                frontend=expectation.frontend,
                client=expectation.client,
                evidence=_unknown_evidence(atom),
            )
            continue
        actions = {leg.action for leg in atom.shares}
        if expectation.also and actions <= {*expectation.also, expectation.action}:
            continue
        if expectation.action is Action.TRANSLATE:
            yield from _translated(case, atom)
        else:
            yield from _not_translated(case, atom)
    if expectation.action is Action.TRANSLATE:
        yield from _affinity(case)


def _unknown_evidence(atom: Atom) -> tuple[str, ...]:
    for end in atom.ends:
        if end.unknown:
            return tuple(step.rule for step in end.way[-4:])
    for end in atom.ends:
        if end.doubts:
            return tuple(step.rule for step in end.way[-4:])
    return ()


# ---- a packet that should reach an endpoint ----------------------------------------------------------------------------


def _translated(case: Case, atom: Atom) -> Iterator[Observation]:
    lost = {leg.action for leg, share in atom.shares.items() if leg.action is not Action.TRANSLATE and share > CLOSE}
    for action in sorted(lost):
        share = sum(s for leg, s in atom.shares.items() if leg.action is action)
        ends = [end for end in atom.ends if end.action is action]
        yield from _lost(case, atom, action, share, ends)
    if all(leg.action is not Action.TRANSLATE for leg in atom.shares):
        return
    wrong = yield from _backends(case, atom, whole=not lost)
    yield from _masquerade(case, atom, skip=wrong)


def _lost(case: Case, atom: Atom, action: Action, share: float, ends: list[End]) -> Iterator[Observation]:
    part = "connections" if share > 1 - CLOSE else f"{share:.0%} of connections"
    seen: set[tuple[str, str]] = set()
    for end in ends:
        verdict = blame.blame_untranslated(case, end) if action is Action.PASS else blame.blame_stopped(case, end)
        if (verdict.code, verdict.key) in seen:
            continue
        seen.add((verdict.code, verdict.key))
        yield _observe(
            case,
            atom,
            verdict.code,
            f"{verdict.message}",
            end,
            key=verdict.key,
            node_wide=verdict.node_wide,
            place=verdict.place,
            observed=f"{part} {_ACTIONS[action]}",
        )


_ACTIONS = {
    Action.PASS: "pass untranslated",
    Action.DROP: "are dropped",
    Action.REJECT: "are rejected",
    Action.TRANSLATE: "are translated",
}


def _backends(case: Case, atom: Atom, *, whole: bool) -> Generator[Observation, None, set[Backend]]:
    """Compare where packets go; returns (to `yield from`) the backends that are wrong."""
    expectation = case.expectation
    wanted = set(expectation.backends)
    got: dict[Backend, float] = {}
    for leg, share in atom.shares.items():
        if leg.backend is not None and share > CLOSE * 1e-3:
            got[leg.backend] = got.get(leg.backend, 0.0) + share
    missing = sorted(wanted - set(got))
    extra = sorted(set(got) - wanted)
    explained: set[Backend] = set()
    for backend in extra:
        end = next(end for end in atom.ends if end.backend == backend)
        foreign = blame.blame_translation(case, end)
        if foreign is not None:
            explained.update(missing)
            yield _observe(
                case,
                atom,
                foreign.code,
                foreign.message,
                end,
                key=foreign.key,
                node_wide=foreign.node_wide,
                place=foreign.place,
                observed=f"{got[backend]:.0%} to {backend}",
            )
            continue
        meant = next((m for m in missing if any(s.chain in case.endpoint_chain(m) for s in end.way)), None)
        instead = f" instead of {case.name(meant)}" if meant else ""
        if meant:
            explained.add(meant)
        code, what = _extra(case, backend)
        yield _observe(
            case,
            atom,
            code,
            f"{got[backend]:.0%} of connections go to {case.name(backend)}{instead}: {what}",
            end,
            key=str(backend),
            place="service",
            observed=f"{got[backend]:.0%} to {backend}",
        )
    unexplained = [backend for backend in missing if backend not in explained]
    if unexplained and whole:
        end = next(end for end in atom.ends if end.backend is not None)
        names = ", ".join(case.name(backend) for backend in unexplained[:4])
        more = f" and {len(unexplained) - 4} more" if len(unexplained) > 4 else ""
        yield _observe(
            case,
            atom,
            "SR201",
            f"no rule sends to {names}{more}",
            end,
            key=",".join(map(str, unexplained)),
            place="service",
            observed=_shares_text(got),
        )
    if not missing and not extra and whole:
        yield from _evenness(case, atom, got)
    return set(extra)


def _extra(case: Case, backend: Backend) -> tuple[str, str]:
    known = case.plan.selection.known.get(backend)
    if known is not None:
        if known.endpoint.ready and set(case.expectation.backends) == set(case.plan.selection.local):
            return "SR409", "a local traffic policy keeps this client's traffic on the node"
        if known.endpoint.ready:
            return "SR204", "topology hints or policy leave it to other nodes"
        return "SR204", f"it is {known.endpoint.state}"
    if any(b.address == backend.address for b in case.plan.selection.known):
        ports = sorted({str(b.port) for b in case.plan.selection.known if b.address == backend.address})
        return "SR203", f"the endpoint listens on {', '.join(ports)}"
    return "SR202", "no EndpointSlice of the Service has this address"


def _evenness(case: Case, atom: Atom, got: dict[Backend, float]) -> Iterator[Observation]:
    count = len(got)
    fair = 1 / count
    allowed = CLOSE + fair * count * 2 * case.tolerance
    odd = [backend for backend, share in got.items() if abs(share - fair) > allowed]
    if odd:
        worst = max(odd, key=lambda backend: abs(got[backend] - fair))
        end = next(end for end in atom.ends if end.backend == worst)
        yield _observe(
            case,
            atom,
            "SR205",
            f"{case.name(worst)} gets {_percent(got[worst])} of connections, and should get {_percent(fair)}",
            end,
            key="shares",
            place="service",
            observed=_shares_text(got),
        )


def _percent(share: float) -> str:
    return f"{share:.0%}" if abs(share * 100 - round(share * 100)) < 1e-3 else f"{share:.2%}"


def _shares_text(got: dict[Backend, float]) -> str:
    parts = [f"{_percent(share)} {backend}" for backend, share in sorted(got.items())[:6]]
    return ", ".join(parts) + (f", … ({len(got)} in all)" if len(got) > 6 else "")


# ---- masquerade ---------------------------------------------------------------------------------------------------


def _masquerade(case: Case, atom: Atom, *, skip: set[Backend]) -> Iterator[Observation]:
    expectation = case.expectation
    pieces: list[tuple[int | None, Ranges]] = []
    rest = atom.sources
    if expectation.masquerade == "self":
        for backend in expectation.backends:
            address = number(backend.address)
            if contains(rest, address):
                pieces.append((address, single(address)))
        rest = subtract(rest, union(ranges for _, ranges in pieces))
    if rest:
        pieces.append((None, rest))
    for source, ranges in pieces:
        wanted = {leg.backend: leg.masquerade for leg, _ in expectation.route(source).legs}
        for leg, share in atom.shares.items():
            if leg.action is not Action.TRANSLATE or leg.backend in skip or leg.backend not in wanted or share <= CLOSE * 1e-3:
                continue
            want, got = wanted[leg.backend], leg.masquerade
            end = next(end for end in atom.ends if end.leg == leg)
            if want and got and case.clears_mark and end.mark & case.mark and blame.by_proxy(case, end):
                yield _observe(
                    case,
                    atom,
                    "SR307",
                    f"packets leave with mark {case.mark:#x} still set",
                    end,
                    key="",
                    node_wide=True,
                    place="fixed",
                )
            if want is None or got is None or want == got:
                if want and end.masquerade not in ("", "node"):
                    yield from _foreign_address(case, atom, end)
                continue
            if want and leg.backend in expectation.lenient_masquerade and _own(source, leg):
                continue
            if want:
                yield from _not_masqueraded(case, atom, end, source, leg)
            elif not _harmless(case, leg, end, ranges):
                verdict = blame.blame_masquerade(case, end)
                yield _observe(
                    case,
                    atom,
                    verdict.code,
                    verdict.message,
                    end,
                    key=verdict.key,
                    node_wide=verdict.node_wide,
                    place=verdict.place,
                    observed="masqueraded",
                    sources=ranges,
                )


def _own(source: int | None, leg: Leg) -> bool:
    return source is not None and leg.backend is not None and number(leg.backend.address) == source


def _not_masqueraded(case: Case, atom: Atom, end: End, source: int | None, leg: Leg) -> Iterator[Observation]:
    hairpin = _own(source, leg)
    verdict = blame.blame_no_masquerade(case, end, hairpin=hairpin)
    severity = None
    message = verdict.message
    if hairpin and not verdict.node_wide and leg.backend is not None:
        message = f"{case.name(leg.backend)} is not masqueraded when the Service sends it to itself"
        known = case.plan.selection.known.get(leg.backend)
        if known is not None and not known.local:
            severity = Severity.WARNING
            message += f" (it runs on {known.endpoint.node}: nothing feels it until a pod with this address runs here)"
    yield _observe(
        case,
        atom,
        verdict.code,
        message,
        end,
        key=verdict.key or (str(leg.backend) if hairpin and not verdict.node_wide else ""),
        node_wide=verdict.node_wide,
        place=verdict.place,
        observed="not masqueraded",
        severity=severity,
        sources=None if source is None else single(source),
    )


def _foreign_address(case: Case, atom: Atom, end: End) -> Iterator[Observation]:
    verdict = blame.blame_masquerade(case, end)
    yield _observe(
        case,
        atom,
        "SR308",
        f"packets leave with source {end.masquerade}, which the node does not hold as far as is known",
        end,
        key=end.masquerade,
        node_wide=verdict.node_wide,
        place=verdict.place,
        observed=f"source {end.masquerade}",
    )


def _harmless(case: Case, leg: Leg, end: End, sources: Ranges) -> bool:
    """Masquerade that nobody asked for and that is as it should be all the same.

    CNIs masquerade what leaves the pod network (flannel, calico, ip-masq-agent): pods that reach a backend outside of it
    are masqueraded, whatever kube-proxy says. A process of the node leaves with an address of the node anyway. And what an
    endpoint on another node sends passes through that node's rules, not through these.
    """
    if blame.marked(case, end):
        return False
    if case.expectation.client is Client.HAIRPIN:
        here = (c for c in case.plan.selection.known.values() if c.local)
        if not any(contains(sources, number(c.backend.address)) for c in here):
            return True
    if case.expectation.client is Client.NODE and end.masquerade == "node":
        return True
    to_pods = leg.backend is not None and contains(case.pod_networks, number(leg.backend.address))
    return case.expectation.client in (Client.POD, Client.HAIRPIN) and not to_pods


# ---- a packet that should not reach an endpoint ------------------------------------------------------------------------


def _not_translated(case: Case, atom: Atom) -> Iterator[Observation]:
    expectation = case.expectation
    for action in sorted({leg.action for leg, share in atom.shares.items() if share > CLOSE}):
        ends = [end for end in atom.ends if end.action is action]
        if action is expectation.action or action in expectation.also:
            if expectation.explicit and action is Action.PASS:
                yield from _let_in(case, atom, ends)
            continue
        end = ends[0]
        if action is Action.TRANSLATE:
            yield from _wrongly_translated(case, atom, ends)
        elif expectation.frontend.kind is FrontendKind.HEALTH_CHECK:
            verdict = blame.blame_stopped(case, end)
            yield _observe(
                case,
                atom,
                "SR410",
                f"health checks {_ACTIONS[action]}: {verdict.message}",
                end,
                key=verdict.key,
                node_wide=False,
                place=verdict.place,
            )
        elif expectation.action is Action.PASS:
            verdict = blame.blame_stopped(case, end)
            yield _observe(
                case, atom, "SR402", verdict.message, end, key=verdict.key, node_wide=verdict.node_wide, place=verdict.place
            )
        else:
            yield from _not_stopped(case, atom, action, end)


def _let_in(case: Case, atom: Atom, ends: list[End]) -> Iterator[Observation]:
    for end in ends:
        if not any(s.hook == "INPUT" and s.target == "ACCEPT" and case.landmarks.of_proxy(s.chain) for s in end.way):
            port = case.expectation.frontend.port
            yield _observe(
                case, atom, "SR412", f"no rule of kube-proxy's lets health checks in on port {port}", end, key="", place="fixed"
            )
            return


def _wrongly_translated(case: Case, atom: Atom, ends: list[End]) -> Iterator[Observation]:
    expectation = case.expectation
    end = ends[0]
    foreign = blame.blame_translation(case, end)
    where = ", ".join(sorted({case.name(e.backend) for e in ends if e.backend is not None})[:4])
    if foreign is not None:
        code, message, key, wide, place = foreign.code, foreign.message, foreign.key, foreign.node_wide, foreign.place
    elif expectation.denied:
        sources = describe(atom.sources, expectation.frontend.family)
        code, message = "SR407", f"sources outside loadBalancerSourceRanges ({sources}) reach {where}"
        key, wide, place = "", False, "service"
    elif expectation.action is Action.PASS:
        code, message = "SR411", f"{expectation.frontend} reaches {where} where it should not be served"
        key, wide, place = "", False, "service"
    elif case.plan.selection.any:
        code, message = "SR409", f"a local traffic policy has no endpoint here, and connections reach {where} all the same"
        key, wide, place = "", False, "service"
    else:
        stale = sorted({e.backend for e in ends if e.backend is not None} - set(case.plan.selection.known))
        code = "SR202" if stale else "SR204"
        message = f"the Service has no usable endpoint, and connections are sent to {where}"
        key, wide, place = "", False, "service"
    yield _observe(case, atom, code, message, end, key=key, node_wide=wide, place=place, observed=f"translated to {where}")


def _not_stopped(case: Case, atom: Atom, action: Action, end: End) -> Iterator[Observation]:
    """Rejected or dropped is what it should be, and it is another of reject, drop and pass."""
    expectation = case.expectation
    hook = next((s.hook for s in reversed(end.way) if s.hook in ("INPUT", "FORWARD", "OUTPUT")), "")
    if not hook:
        hook = "OUTPUT" if expectation.from_node else ("INPUT" if end.local else "FORWARD")
    place = f"filter:{hook}"
    if expectation.action is Action.REJECT:
        message = "the Service has no endpoints, and connections are not rejected"
        if action is Action.DROP:
            verdict = blame.blame_stopped(case, end)
            message += f" but dropped: {verdict.message}"
        yield _observe(case, atom, "SR403", message, end, key="", place=place, observed=_ACTIONS[action])
        return
    if action is Action.REJECT:
        verdict = blame.blame_stopped(case, end)
        yield _observe(
            case,
            atom,
            "SR409",
            f"connections that should be dropped are rejected: {verdict.message}",
            end,
            key="reject",
            place=place,
            observed=_ACTIONS[action],
        )
        return
    if expectation.denied:
        message = "sources outside loadBalancerSourceRanges are not dropped"
        yield _observe(case, atom, "SR407", message, end, key="", place=place, observed=_ACTIONS[action])
        return
    message = "a local traffic policy has no endpoint here, and connections are not dropped"
    yield _observe(case, atom, "SR409", message, end, key="", place=place, observed=_ACTIONS[action])


# ---- affinity ------------------------------------------------------------------------------------------------------


def _affinity(case: Case) -> Iterator[Observation]:
    want = case.expectation.affinity
    got = case.observed.affinity
    if not got or got == {want} or not case.observed.atoms:
        return
    atom = case.observed.atoms[0]
    end = next((end for end in atom.ends if end.action is Action.TRANSLATE), None)
    if end is None or atom.unknown_share > CLOSE:
        return
    if want is None:
        seconds = max(value for value in got if value is not None)
        yield _observe(
            case,
            atom,
            "SR406",
            f"clients are kept on their endpoint for {seconds} s, and the Service asks for no affinity",
            end,
            key="",
            place="service",
            observed=f"{seconds} s",
        )
        return
    if None in got:
        whose = "no endpoint keeps" if got == {None} else "not every endpoint keeps"
        severity = Severity.WARNING if len(case.expectation.backends) < 2 else None
        yield _observe(
            case,
            atom,
            "SR404",
            f"{whose} the clients that it has had, and the Service asks for {want} s",
            end,
            key="",
            place="service",
            observed="not kept",
            severity=severity,
        )
        return
    seconds = next(value for value in sorted(value for value in got if value is not None) if value != want)
    yield _observe(
        case,
        atom,
        "SR405",
        f"clients are kept for {seconds} s, and the Service asks for {want} s",
        end,
        key="",
        place="service",
        observed=f"{seconds} s",
    )


# ---- in words ------------------------------------------------------------------------------------------------------


def _observe(
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
    each = f"{_percent(1 / count)} each to " if count > 1 else "to "
    masquerade = "masqueraded" if expectation.masquerade == "always" else "source kept"
    affinity = f", affinity {expectation.affinity} s" if expectation.affinity is not None else ""
    return f"{each}{shown}, {masquerade}{affinity}"
