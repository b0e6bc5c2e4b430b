"""One client's packets to one frontend: what should happen, beside what does.

Theory of operation. An `Expectation` is about a set of sources; the walk answered with atoms, sets of sources that the
node treats alike. For each atom, in this order:

1. what cannot be told is unsure, unless everything that may happen is wrong; a doubt that decides only whether another
   program disturbs the packet is not kube-proxy's, and is kept apart (`Disturbance`);
2. an action that should not be: find the step of the way where it went wrong, and whose rule that is (`blame.py`);
3. the backends: which usable ones get nothing, which others get something, and whether the shares are even;
4. the masquerade of every leg that goes where it should.

Behaviour is compared, never rule text: two rule sets that do the same are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from ..model.fast_dataclass import replace
from ..model.net import Backend, FrontendKind
from ..model.ranges import describe, intersect
from ..model.report import Severity
from ..model.routes import Action
from ..model.walk_result import Atom, End, Step
from . import blame, effect, programs
from .case import CLOSE, Case, difference, percent, shares_text
from .masquerade import harmless, masquerade
from .observation import Answered, Disturbance, Observation, Result, Unsure


def compare(case: Case) -> Iterator[Result]:
    """Every difference between what should be and what is, and what cannot be told."""
    wrong = []
    for atom in case.observed.atoms:
        if (answered := _answered(case, atom)) is not None:
            yield answered
            continue
        found = [_found(case, outcome) for outcome in atom.possible or (atom,)]
        if all(found):
            wrong.append(atom)
        elif all(result == [] for result in found):
            yield from _disturbed(case, atom)
        else:
            yield Unsure(
                code="SR905" if any("iptables" in reason and "print" in reason for reason in atom.unknown) else "SR903",
                service=case.service,
                reason="; ".join(atom.unknown or _reasons(atom.disturbed)),
                frontend=case.expectation.frontend,
                client=case.expectation.client,
                evidence=_unknown_evidence(atom),
            )
    yield from _blamed(case, wrong)
    if case.expectation.action is Action.TRANSLATE:
        yield from _affinity(case)


def _answered(case: Case, atom: Atom) -> Answered | None:
    """Who answers on the node in the Service's stead; None where nobody does.

    Nobody can hold a cluster IP by accident: who puts it on an interface of the node, keeps its packets from being translated,
    and lets them in, means to answer them.
    """
    frontend = case.expectation.frontend
    if frontend.kind is not FrontendKind.CLUSTER_IP or case.expectation.action is not Action.TRANSLATE or not atom.ends:
        return None
    keeper: Step | None = None
    for end in atom.ends:
        keeper = next((s for s in end.way if s.pins and s.target in _KEEPS and not case.landmarks.own(s)), None)
        if end.action is not Action.PASS or not end.local or keeper is None:
            return None
    program = programs.name_of(keeper, case.facts.chains()) if keeper is not None else ""
    return Answered(service=case.service, address=frontend.address, program=program)


_KEEPS = ("NOTRACK", "CT", "ACCEPT", "RETURN")
"""What keeps a packet from kube-proxy's translation."""


def _found(case: Case, outcome: Atom) -> list[Observation] | None:
    """What is wrong if this happens; None where it is not known what happens."""
    return list(_differences(case, outcome)) if outcome.unknown_share <= CLOSE else None


def _differences(case: Case, atom: Atom) -> Iterator[Observation]:
    expectation = case.expectation
    if expectation.also and {leg.action for leg in atom.shares} <= {*expectation.also, expectation.action}:
        return iter(())
    return _translated(case, atom) if expectation.action is Action.TRANSLATE else _not_translated(case, atom)


def _blamed(case: Case, wrong: Sequence[Atom]) -> Iterator[Observation]:
    """What is wrong whichever way the doubts go, with the code of what caused it.

    The rules are walked again for all of these sources at once: a fault of the node is met thousands of times.
    """
    touched = []
    for atom in wrong:
        if effect.touched(case, atom):
            touched.append(atom)
        else:
            yield from _differences(case, _seen(atom))
    if not touched:
        return
    culprits = effect.known(case, touched, _differences)
    if culprits is None:
        own = effect.by_own_rules(case, touched, _differences)
        for _, found in own:
            yield from found
        touched = [atom for atom in touched if not any(intersect(atom.sources, sources) for sources, _ in own)]
        stopped = [atom for atom in touched if _stopped(case, atom) is not None]
        for atom in stopped:
            yield from _or_stopped(case, atom)
        touched = [atom for atom in touched if atom not in stopped]
        culprits = effect.culprits(case, touched, _differences) if touched else frozenset()
    to_blame = replace(case, culprits=culprits)
    for atom in touched:
        # That another program lets health checks in before kube-proxy does is no fault.
        yield from (observation for observation in _differences(to_blame, _seen(atom)) if observation.code != "SR412")


def _seen(atom: Atom) -> Atom:
    """One thing that happens."""
    return atom.possible[0] if atom.possible else atom


def _stopped(case: Case, atom: Atom) -> End | None:
    """Where another program stops the packet, or does something else to it that is wrong."""
    return next((end for end in atom.disturbed if end.action in _STOPS and case.expectation.action is Action.TRANSLATE), None)


def _or_stopped(case: Case, atom: Atom) -> Iterator[Observation]:
    """Of the two, that it is stopped is the plainer word."""
    end = _stopped(case, atom)
    if end is not None:
        verdict = blame.blame_stopped(replace(case, culprits=frozenset((end.way[-1],))), end)
        yield difference(
            case, atom, verdict.code, verdict.message, end, key=verdict.key, node_wide=verdict.node_wide,
            place=verdict.place, observed="connections are stopped, or go wrong",
        )  # fmt: skip


_STOPS = (Action.DROP, Action.REJECT)


def _disturbed(case: Case, atom: Atom) -> Iterator[Disturbance]:
    """What another program may do to traffic that kube-proxy's rules send where they should."""
    for end in atom.disturbed:
        stopped = end.action in _STOPS
        if not stopped and (case.expectation.masquerade == "always" or _no_matter(case, end)):
            continue
        step = end.way[-1] if stopped else next(s for s in reversed(end.way) if s.target in ("MASQUERADE", "SNAT"))
        effect_ = end.action.value if stopped and end.action is not None else "masquerade"
        yield Disturbance(
            program=programs.name_of(step, case.facts.chains()),
            effect=effect_,
            reason=end.doubts[-1][2] if end.doubts else "",
            rule=step.rule,
        )


def _no_matter(case: Case, end: End) -> bool:
    """True if it does no harm that the packet is masqueraded."""
    return end.leg is not None and harmless(case, end.leg, end, end.sources)


def _reasons(ends: Sequence[End]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(end.doubts[-1][2] for end in ends if end.doubts))


def _unknown_evidence(atom: Atom) -> tuple[str, ...]:
    for end in (*(end for end in atom.ends if end.unknown), *(end for end in (*atom.ends, *atom.disturbed) if end.doubts)):
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
    yield from masquerade(case, atom, skip=wrong)


def _lost(case: Case, atom: Atom, action: Action, share: float, ends: list[End]) -> Iterator[Observation]:
    part = "connections" if share > 1 - CLOSE else f"{share:.0%} of connections"
    seen: set[tuple[str, str]] = set()
    for end in ends:
        verdict = blame.blame_untranslated(case, end) if action is Action.PASS else blame.blame_stopped(case, end)
        if (verdict.code, verdict.key) in seen:
            continue
        seen.add((verdict.code, verdict.key))
        yield difference(
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
            yield difference(
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
        # Who changes rules by hand takes endpoints away, or their ports: to let in what hints keep out, kube-proxy must mean it.
        place = "belief" if code in ("SR202", "SR204", "SR409") else "service"
        yield difference(
            case,
            atom,
            code,
            f"{got[backend]:.0%} of connections go to {case.name(backend)}{instead}: {what}",
            end,
            key=str(backend),
            place=place,
            observed=f"{got[backend]:.0%} to {backend}",
        )
    unexplained = [backend for backend in missing if backend not in explained]
    if unexplained and whole:
        end = next(end for end in atom.ends if end.backend is not None)
        names = ", ".join(case.name(backend) for backend in unexplained[:4])
        more = f" and {len(unexplained) - 4} more" if len(unexplained) > 4 else ""
        yield difference(
            case,
            atom,
            "SR201",
            f"no rule sends to {names}{more}",
            end,
            key=",".join(map(str, unexplained)),
            place="service",
            observed=shares_text(got),
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
        yield difference(
            case,
            atom,
            "SR205",
            f"{case.name(worst)} gets {percent(got[worst])} of connections, and should get {percent(fair)}",
            end,
            key="shares",
            place="service",
            observed=shares_text(got),
        )


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
            yield difference(
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
            yield difference(
                case, atom, "SR402", verdict.message, end, key=verdict.key, node_wide=verdict.node_wide, place=verdict.place
            )
        else:
            yield from _not_stopped(case, atom, action, end)


def _let_in(case: Case, atom: Atom, ends: list[End]) -> Iterator[Observation]:
    for end in ends:
        if not any(s.hook == "INPUT" and s.target == "ACCEPT" and case.landmarks.own(s) for s in end.way):
            port = case.expectation.frontend.port
            yield difference(
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
        key, wide, place = "", False, "belief"
    else:
        stale = sorted({e.backend for e in ends if e.backend is not None} - set(case.plan.selection.known))
        code = "SR202" if stale else "SR204"
        message = f"the Service has no usable endpoint, and connections are sent to {where}"
        key, wide, place = "", False, "belief"
    yield difference(case, atom, code, message, end, key=key, node_wide=wide, place=place, observed=f"translated to {where}")


def _not_stopped(case: Case, atom: Atom, action: Action, end: End) -> Iterator[Observation]:
    """Rejected or dropped is what it should be, and it is another of reject, drop and pass."""
    expectation = case.expectation
    hook = next((s.hook for s in reversed(end.way) if s.hook in ("INPUT", "FORWARD", "OUTPUT")), "")
    if not hook:
        hook = "OUTPUT" if expectation.from_node else ("INPUT" if end.local else "FORWARD")
    place, why, key = f"filter:{hook}", "", ""
    stopped = blame.blame_stopped(case, end) if action is not Action.PASS else None
    culprit = case.culprit(end)
    if stopped is not None:
        why = f": {stopped.message}"
        place = stopped.place if stopped.place == "foreign" else place
    elif culprit is not None:
        taken = blame.foreign(case, culprit, "takes the packet first", code="")
        why, place = f": {taken.message}", "foreign"
    severity = None
    if expectation.action is Action.REJECT:
        code, message = "SR403", "the Service has no endpoints, and connections are not rejected"
        if place == "foreign":
            # They fail either way, and only later: programs that accept or drop first do this to every such Service.
            severity = Severity.INFO
        message += " but dropped" if stopped is not None else ""
    elif action is Action.REJECT:
        code, message, key = "SR409", "connections that should be dropped are rejected", "reject"
    elif expectation.denied:
        code, message = "SR407", "sources outside loadBalancerSourceRanges are not dropped"
    else:
        code, message = "SR409", "a local traffic policy has no endpoint here, and connections are not dropped"
    yield difference(case, atom, code, message + why, end, key=key, place=place, observed=_ACTIONS[action], severity=severity)


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
        yield difference(
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
        yield difference(
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
    yield difference(
        case,
        atom,
        "SR405",
        f"clients are kept for {seconds} s, and the Service asks for {want} s",
        end,
        key="",
        place="service",
        observed=f"{seconds} s",
    )
