"""Snapshot -> Report: the whole pipeline on one screen, and its parts below it.

    report = Audit(api, selection).report(outcomes)

Each node is judged alone and reduced to a `NodeResult`; its text is let go before the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..checks.heal import ProxyState
from ..checks.node import proxy_health
from ..checks.rollup import roll_up
from ..errors import ParseError
from ..model.cluster import Service, Slice
from ..model.facts import EndpointFact, Facts, ServiceFacts
from ..model.fast_dataclass import replace
from ..model.lazy_list import Lazy
from ..model.net import Backend
from ..model.node_result import NodeResult
from ..model.report import Report
from ..model.selection import Selection
from ..model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable
from ..observe.config_votes import Inference, Votes
from ..parse.iptables_save import parse_iptables_save
from ..parse.kube_objects import build_config
from .ask_port import Listener
from .context import cluster_context
from .files import iptables_files, with_plain_line_ends
from .nft_rules import parse_nft
from .node import Audited, audit_node
from .report_builder import conclude, not_read


class Audit:
    """One cluster's API objects, parsed once, against which any number of nodes is judged."""

    def __init__(self, api: ApiObjects, selection: Selection, *, thorough: bool = False, alone: bool = False) -> None:
        """One cluster, and what is asked of it. Raises ParseError when the objects are not what an API server would return.

        `thorough`: walk every Service, also those whose rules equal another's (tests compare the two). `alone`: one
        node is judged, so nothing is kept for later ones.
        """
        self.context = cluster_context(api, selection, thorough=thorough, alone=alone)
        self.denied = api.denied
        self.inference: Inference | None = None

    # ---- the pipeline -----------------------------------------------------------------------------------------------

    def report(self, outcomes: Iterable[NodeOutcome], *, origin: str = "") -> Report:
        """Judge every node as it comes, and say what that comes to."""
        return self.conclude([self.node(outcome) for outcome in outcomes], origin=origin)

    @property
    def needs_inference(self) -> bool:
        """Whether nodes have to be looked at (`learn`) before they can be judged: no configuration could be read."""
        return self.context.state.config is None

    def learn(self, outcomes: Iterable[NodeOutcome]) -> None:
        """Let every node vote on the configuration that the cluster does not show."""
        votes, nodes = Votes(), 0
        for outcome in outcomes:
            if isinstance(outcome, NodeDump):
                nodes += 1
                files = with_plain_line_ends(outcome).files
                for file, family in {**dict.fromkeys(iptables_files(4), 4), **dict.fromkeys(iptables_files(6), 6)}.items():
                    if file in files:
                        try:
                            votes.add(parse_iptables_save(files[file], family=family, source=file))
                        except ParseError:
                            continue  # said when the node is judged
                try:
                    listed = parse_nft(files)
                except ParseError:
                    continue  # as above
                if listed is not None:
                    votes.add_nft(listed)
        self.take(Inference(nodes=nodes, votes=votes))

    def take(self, inference: Inference | None) -> None:
        """Use a configuration that was inferred before, from other readings of the same nodes."""
        self.inference = inference
        inferred = build_config((0, 0), inference.settings) if inference is not None else None
        self.context = replace(self.context, inferred=inferred)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of how the configuration was found out."""
        return (*self.context.state.notes, *((self.inference.note,) if self.inference is not None else ()))

    def renewed(self, api: ApiObjects, *, only: frozenset[str]) -> Audit:
        """The same audit by the objects of a later moment, of the Services that were there at the first (`only`)."""
        again = Audit(api, self.context.selection, thorough=self.context.thorough)
        again.take(self.inference)
        # A Service that came later was not judged on the nodes that were read before.
        services = [service for service in again.context.services if service.key in only]
        again.context = replace(again.context, services=services)
        return again

    @staticmethod
    def not_read(node: str, reason: str, *, via: str = "") -> NodeResult:
        """The result of a node that was not read."""
        return not_read(node, "SR901", reason, via=via)

    def node(self, outcome: NodeOutcome) -> NodeResult:
        """Judge one node. What a node prints can cost its own verdict at most, never that of the others."""
        if isinstance(outcome, Unreachable):
            return self._with_proxy(not_read(outcome.node, "SR901", outcome.reason, via=outcome.via))
        try:
            return self.judged(outcome)
        except Exception as error:  # whatever it is, it is one node's: the rest of the audit stands
            reason = (
                f"what the node printed could not be judged ({type(error).__name__}: {str(error)[:200]}): a bug of this program,"
                " please report it with a snapshot"
            )
            return not_read(outcome.node, "SR902", reason, via=outcome.via)

    def _with_proxy(self, result: NodeResult) -> NodeResult:
        """A node that was not read, with what the API says of its kube-proxy: it may be the reason."""
        container = self.context.state.proxy_containers.get(result.row.node)
        if container is None:
            return result
        state: ProxyState = "crashing" if container.crashes(None) else "stopped" if container.stopped else "runs"
        found = roll_up(result.row.node, proxy_health(state, container), services_expected={}, heals=lambda _: "")
        return replace(result, findings=tuple(found), row=replace(result.row, warnings=len(found))) if found else result

    def judged(self, dump: NodeDump) -> NodeResult:
        """Judge a node that was read. Raises nothing, if all is as it should be: tests ask this one."""
        if dump.node not in self.context.nodes:
            return not_read(dump.node, "SR906", "the API lists no such node, so what it should do is not known")
        return self.audited(dump).result

    def audited(self, dump: NodeDump, *, listeners: Sequence[Listener] = ()) -> Audited:
        """The same of a node that the API lists, for those who go on asking: `listeners` hear what is asked."""
        return audit_node(self.context, self.context.nodes[dump.node], with_plain_line_ends(dump), listeners=listeners)

    # ---- the whole cluster ------------------------------------------------------------------------------------------

    def conclude(self, results: Sequence[NodeResult], *, origin: str = "") -> Report:
        """One report of all nodes' results; the order of the results does not matter."""
        return conclude(self.facts(), results, origin=origin, strict=self.context.selection.strict)

    def facts(self) -> Facts:
        """What the API alone says, which a report shows beside what the nodes do."""
        return Facts(
            services=tuple(self._service_facts(service) for service in self.context.services),
            notes=self.notes,
            denied=tuple(self.denied),
        )

    def _service_facts(self, service: Service) -> ServiceFacts:
        return ServiceFacts(
            service=service.key,
            type=service.type,
            cluster_ips=service.cluster_ips,
            ports=tuple(_port_text(port.name, port.port, port.protocol.value, port.node_port) for port in service.ports),
            port_order=tuple(map(str, service.ports)),
            policy=_policy_text(service),
            counts=self.context.counts_of(service),
            skipped=service.skipped,
            endpoints=Lazy(self._endpoints_of(service)),
        )

    def _endpoints_of(self, service: Service) -> Callable[[], tuple[EndpointFact, ...]]:
        def make() -> tuple[EndpointFact, ...]:
            families = {":" in ip for ip in service.cluster_ips}
            found: dict[tuple[str, Backend], EndpointFact] = {}
            pieces = [piece for piece in self.context.slices_of(service) if (piece.family == 6) in families]
            if len(pieces) == len(service.ports) == 1 == len(pieces[0].ports) and pieces[0].plain is not None:
                (piece,), (port,), (number_,) = pieces, service.ports, pieces[0].ports
                once = len({*pieces[0].plain.addresses}) == len(pieces[0].plain.addresses)
                if once and number_.name == port.name and number_.protocol == port.protocol:
                    return tuple(_facts(piece, str(port), number_.port))  # nothing can stand twice
            for piece in pieces:
                for port in service.ports:
                    name = str(port)
                    for number_ in piece.ports:
                        if number_.name == port.name and number_.protocol == port.protocol:
                            for fact in _facts(piece, name, number_.port):
                                found.setdefault((name, fact.backend), fact)
            return tuple(found.values())

        return make


def audit(api: ApiObjects, outcomes: Iterable[NodeOutcome], selection: Selection | None = None, *, origin: str = "") -> Report:
    """Snapshot -> Report. Raises ParseError when the API objects are not what an API server would return."""
    whole = Audit(api, selection or Selection())
    if whole.needs_inference:
        kept = list(outcomes)
        whole.learn(kept)
        outcomes = kept
    return whole.report(outcomes, origin=origin)


def _port_text(name: str, port: int, protocol: str, node_port: int) -> str:
    label = f"{name} " if name else ""
    outside = f":{node_port}" if node_port else ""
    return f"{label}{port}{outside}/{protocol}"


def _facts(piece: Slice, port: str, number_: int) -> list[EndpointFact]:
    """The endpoints of a slice on one port."""
    if piece.plain is None:
        return [EndpointFact(port, Backend(e.address, number_), e.pod, e.node, e.ready, e.state) for e in piece.endpoints]
    return [
        EndpointFact(port, Backend(address, number_), pod, node, True, "ready")
        for address, node, pod in zip(*piece.plain, strict=True)
    ]


def _policy_text(service: Service) -> str:
    words = []
    if service.external_local:
        words.append("externalTrafficPolicy Local")
    if service.internal_local:
        words.append("internalTrafficPolicy Local")
    if service.affinity is not None:
        words.append(f"affinity ClientIP {service.affinity} s")
    if service.source_ranges:
        words.append(f"source ranges {', '.join(service.source_ranges)}")
    return ", ".join(words)
