"""What all nodes' results come to: one report, the same whoever judged the nodes, and in whatever order.

    report = conclude(facts, results)

An audit of a whole cluster ends here, and so does the merging of an audit in parts: whatever is said about more nodes than
one is said here, and nowhere before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter

from ..checks.rollup import sort_key
from ..model.facts import EndpointFact, Facts, ServiceFacts
from ..model.fast_dataclass import replace
from ..model.lazy_list import Lazy
from ..model.node_result import NodeResult
from ..model.report import EndpointRow, Finding, NodeRow, Report, ServiceRow, Severity, Unverified


def conclude(
    facts: Facts, results: Sequence[NodeResult], *, origin: str = "", whole: bool = True, strict: bool = False
) -> Report:
    """One report of all nodes' results. Not `whole`: there are other nodes, and nothing is said about what they have.

    `strict`: a node on which another program's rules were not judged is not verified.
    """
    if strict:
        results = [_strictly(result) for result in results]
    results = sorted(results, key=lambda result: result.row.node)
    findings = [f for result in results for f in result.findings]
    if whole:
        findings = _with_difference(findings, results)
    unverified = [u for result in results for u in result.unverified] + list(facts.denied)
    index = _Index(results, findings)
    services = [_service_row(service, index) for service in facts.services]
    modes = Counter(f"{r.row.mode} {r.row.version}".strip() for r in results if r.row.mode)
    notes = list(dict.fromkeys((*facts.notes, *(note for result in results for note in result.notes))))
    if len({r.row.mode for r in results if r.row.mode}) > 1:
        mixed = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        notes.append(f"the nodes do not run the same proxy mode: {mixed}")
    notes += _tracked([result.row for result in results])
    ways = Counter(r.row.via for r in results if r.row.mode and r.row.via in ("ssh", "exec", "local"))
    if len(ways) > 1:
        told = ", ".join(f"{count} through {way}" for way, count in sorted(ways.items()))
        notes.append(f"the nodes were not all read in the same way: {told} (-o wide says which)")
    meta = {"origin": origin}
    if modes:
        meta["proxy"] = min(modes.items(), key=lambda mode: (-mode[1], mode[0]))[0]
    return Report(
        findings=tuple(sorted(findings, key=sort_key)),
        unverified=tuple(sorted(unverified, key=lambda u: (u.node or "", u.code, u.service or "", u.reason))),
        services=tuple(services),
        nodes=tuple(result.row for result in results),
        notes=tuple(notes),
        meta=meta,
        not_judged=tuple(item for result in results for item in result.not_judged),
    )


def _strictly(result: NodeResult) -> NodeResult:
    """The same node, where what was not judged is not verified, for any Service."""
    if not result.not_judged:
        return result
    return replace(
        result,
        row=replace(result.row, verified=False),
        unverified=(
            *result.unverified,
            *(
                Unverified(code=item.code, node=item.node, reason=item.message, evidence=item.evidence)
                for item in result.not_judged
            ),
        ),
        unverified_services=frozenset(),
        not_judged=(),
    )


def _tracked(rows: Sequence[NodeRow]) -> list[str]:
    """How full the connection-tracking tables are, where that was asked: the fullest stands for all."""
    known = [(row.tracked / row.tracked_most, row) for row in rows if row.tracked is not None and row.tracked_most]
    if not known:
        return []
    share, row = max(known, key=lambda item: (item[0], item[1].node))
    head = f"the connection-tracking table of {row.node} holds {row.tracked} of {row.tracked_most} entries ({share:.1%})"
    return [head + (f": the fullest of {len(known)} nodes" if len(known) > 1 else "")]


def not_read(node: str, code: str, reason: str, *, via: str = "") -> NodeResult:
    """The result of a node of which nothing is known, and why."""
    return NodeResult(
        row=NodeRow(node=node, verified=False, mode="", version="", via=via),
        unverified=(Unverified(code=code, node=node, reason=reason),),
    )


class _Index:
    """What results and findings hold of each Service, gathered once: thousands of Services ask about hundreds of nodes."""

    def __init__(self, results: Sequence[NodeResult], findings: Sequence[Finding]) -> None:
        self.results = results
        self.findings: dict[str | None, list[Finding]] = defaultdict(list)
        for finding in findings:
            self.findings[finding.service].append(finding)
        self.wrong: dict[str, set[str]] = defaultdict(set)
        for result in results:
            for service, _, _ in result.wrong:
                self.wrong[service].add(result.row.node)
        self.noted: dict[str, list[NodeResult]] = defaultdict(list)
        """Service -> the nodes on which shares of its own were noted."""
        for result in results:
            for name in {key[0] for key in (*result.shares, *result.wrong)}:
                self.noted[name].append(result)
        # Most nodes have the same frontends, in one object.
        self.frontends = list({id(result.frontends): result.frontends for result in results}.values())
        self.ways = [result.ways for result in results if result.ways]
        self.in_parts = [result for result in results if result.unverified_services]
        self.whole = [r for r in results if r.row.verified and not r.unverified_services]

    def verified(self, service: str) -> Sequence[NodeResult]:
        """The nodes on which a Service is verified."""
        if not self.in_parts:
            return self.whole
        return [r for r in self.results if service not in r.unverified_services and (r.row.verified or r.unverified_services)]


def _service_row(service: ServiceFacts, index: _Index) -> ServiceRow:
    key = service.service
    verified = index.verified(key)
    mine = index.findings.get(key, ())
    nodes = len(index.results)
    return ServiceRow(
        service=key,
        type=service.type,
        cluster_ips=service.cluster_ips,
        ports=service.ports,
        policy=service.policy,
        frontends=_frontends(key, index),
        endpoints=Lazy(lambda: () if service.skipped else tuple(_endpoint_rows(service, index, verified))),
        counts=service.counts,
        told=_told(service, index, verified),
        nodes=nodes,
        nodes_verified=nodes if service.skipped else len(verified),
        errors=sum(f.severity is Severity.ERROR for f in mine),
        warnings=sum(f.severity is Severity.WARNING for f in mine),
        skipped=service.skipped,
        evidence=next((ways[key] for ways in index.ways if key in ways), ()),
    )


def _frontends(service: str, index: _Index) -> tuple[str, ...]:
    lists = dict.fromkeys([frontends.get(service, ()) for frontends in index.frontends])
    return next(iter(lists)) if len(lists) == 1 else tuple(dict.fromkeys(text for some in lists for text in some))


def _told(service: ServiceFacts, index: _Index, verified: Sequence[NodeResult]) -> tuple[frozenset[str], frozenset[str]]:
    wrong = frozenset(index.wrong.get(service.service, ()))
    if service.skipped or len(verified) == len(index.results):
        return wrong, frozenset()
    told = {r.row.node for r in verified}
    return wrong, frozenset(r.row.node for r in index.results if r.row.node not in told)


def _endpoint_rows(service: ServiceFacts, index: _Index, verified: Sequence[NodeResult]) -> Iterator[EndpointRow]:
    name = service.service
    facts = list(iter(service.endpoints))
    # Even shares are those of the API's endpoints: an address that one node alone sends to takes nothing on the others.
    even: Counter[tuple[str, bool]] = Counter([(fact.port, ":" in fact.backend.address) for fact in facts])
    told = {r.row.node for r in verified}
    noted = {r.row.node: r for r in index.noted.get(name, ())}
    if noted:
        known = {(fact.port, fact.backend) for fact in facts}
        others = dict.fromkeys(key[1:] for r in noted.values() for key in r.shares if key[0] == name and key[1:] not in known)
        facts += [EndpointFact(port, backend, None, None, False, "not an endpoint") for port, backend in others]
    fair_on = {r.row.node: name in r.even if r.row.node in told else None for r in index.results}
    shares = {count: {node: _fair(fair, count) for node, fair in fair_on.items()} for count in {0, *even.values()}}
    order = {port: n for n, port in enumerate(service.port_order)}
    facts.sort(key=itemgetter(1) if len(even) < 2 and not noted else lambda fact: (order.get(fact.port, 99), fact.backend))
    wrong: frozenset[str] = frozenset()
    for port, backend, pod, node, ready, state in facts:
        share = shares[even[port, ":" in backend.address] if state != "not an endpoint" else 0]
        if noted:
            key = (name, port, backend)
            own = {where: r.shares[key] for where, r in noted.items() if where in told and key in r.shares}
            share = {**share, **own} if own else share
            wrong = frozenset([where for where, r in noted.items() if key in r.wrong])
        address = str(backend) if ":" in backend[0] else f"{backend[0]}:{backend[1]}"
        yield EndpointRow(address, pod, node, ready, state, port, share, wrong)


def _fair(fair: bool | None, count: int) -> float | None:
    """The share on a node of which nothing else was noted; None where it is not verified."""
    return None if fair is None else 1 / count if fair and count else 0.0


def _with_difference(findings: Sequence[Finding], results: Sequence[NodeResult]) -> list[Finding]:
    """Say what the other nodes have, where that helps: a fault on one node alone is that node's history.

    Nodes that were not verified are not counted among those that do not have it.
    """
    judged = {r.row.node for r in results if r.row.verified}
    nodes: dict[tuple[str, str | None], set[str | None]] = defaultdict(set)
    for f in findings:
        nodes[f.code, f.service].add(f.node)
    again = []
    for f in findings:
        mine = nodes[f.code, f.service]
        rest = len(judged - mine)
        text = ""
        if len(results) > 1:
            if not rest and len(mine) == len(results):
                text = f"all {len(mine)} nodes have this"
            elif len(mine) > 1:
                text = f"{len(mine)} nodes have this, {rest} verified nodes do not"
            elif rest:
                which = f"the other {rest} nodes do" if rest > 1 else "the other node does"
                all_of = "" if rest + 1 == len(results) else f" ({len(results) - rest - 1} more are not verified)"
                text = f"{which} not have this{all_of}"
        again.append(replace(f, elsewhere=text) if text else f)
    return again
