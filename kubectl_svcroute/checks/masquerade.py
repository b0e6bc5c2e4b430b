"""Is each packet that reaches an endpoint masqueraded exactly where it must be?"""

from __future__ import annotations

from collections.abc import Iterator

from ..model.net import Backend, FrontendKind
from ..model.ranges import Ranges, contains, number, single, subtract, union
from ..model.report import Severity
from ..model.routes import Action, Client, Leg
from ..model.walk_result import Atom, End
from . import blame
from .case import CLOSE, Case, difference
from .observation import Observation


def masquerade(case: Case, atom: Atom, *, skip: set[Backend]) -> Iterator[Observation]:
    """Every leg whose masquerade is not what it should be. `skip`: backends that are wrong anyhow."""
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
                yield difference(
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
            elif not harmless(case, leg, end, ranges):
                verdict = blame.blame_masquerade(case, end)
                yield difference(
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
    yield difference(
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
    yield difference(
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


def harmless(case: Case, leg: Leg, end: End, sources: Ranges) -> bool:
    """Masquerade that nobody asked for and that is as it should be all the same.

    CNIs masquerade what leaves the pod network (flannel, calico, ip-masq-agent): pods that reach a backend outside of it
    are masqueraded, whatever kube-proxy says. A process of the node leaves with an address of the node anyway. And what an
    endpoint on another node sends passes through that node's rules, not through these.
    """
    if case.expectation.client is Client.HAIRPIN:
        here = (c for c in case.plan.selection.known.values() if c.local)
        if not any(contains(sources, number(c.backend.address)) for c in here):
            return True
    if blame.marked(case, end):
        return False
    if case.expectation.client is Client.NODE and end.masquerade == "node":
        return True
    if case.expectation.client is Client.OUTSIDE and case.expectation.frontend.kind is FrontendKind.CLUSTER_IP:
        return True  # kube-proxy itself does so wherever it is told which addresses are pods'
    to_pods = leg.backend is not None and contains(case.pod_networks, number(leg.backend.address))
    return case.expectation.client in (Client.POD, Client.HAIRPIN) and not to_pods
