"""Snapshot -> Report: the whole pipeline on one screen, and its parts below it.

    report = Audit(api, selection).report(outcomes)

Each node is judged alone and reduced to a `NodeResult`; its text is let go before the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..checks import frame_iptables
from ..errors import ParseError
from ..expect.versions import NEWEST, OLDEST
from ..model.cluster import Node, ProxyConfig, Service, Slice
from ..model.facts import EndpointFact, Facts, ServiceFacts
from ..model.fast_dataclass import replace
from ..model.lazy_list import Lazy
from ..model.net import Backend
from ..model.node_result import NodeResult, SharedParts
from ..model.ranges import network, number, single, union
from ..model.report import Report, Unverified
from ..model.selection import Selection
from ..model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable
from ..observe.config_votes import Inference, Votes
from ..parse.iptables_delta import Known
from ..parse.iptables_save import parse_iptables_save
from ..parse.kube_objects import build_config, parse_cluster
from ..parse.proxy_config import settings_from_configz, settings_from_flags, version_of
from ..sharing.reference import Reference
from .node import FILES, NodeAudit
from .report_builder import conclude, not_read

if TYPE_CHECKING:
    from ..sharing.reference_nft import NftReference

LARGE_CLUSTER = 1000
"""Endpoints from which on kube-proxy leaves out comments and defers deletions (kube-proxy-rules.md 3.15)."""


class Audit:
    """One cluster's API objects, parsed once, against which any number of nodes is judged."""

    def __init__(self, api: ApiObjects, selection: Selection, *, thorough: bool = False, alone: bool = False) -> None:
        """One cluster, and what is asked of it.

        `thorough`: walk every Service, also those whose rules are the same as another's (tests compare the two). `alone`: one
        node is judged, so nothing is kept for further ones to be held against.
        """
        self.state = parse_cluster(api, only=selection.services)
        self.denied = api.denied
        self.objects = frozenset(api.objects)
        self.selection = selection
        self.thorough = thorough
        self.alone = alone
        self.services = list(self.state.services)
        self.nodes = {node.name: node for node in self.state.nodes}
        self.alike = SharedParts()
        self.inference: Inference | None = None
        self._inferred: ProxyConfig | None = None
        whole = selection.services is None and self.state.namespaces is None
        self.known = frame_iptables.known_frontends(self.state.services) if whole else None
        self.pod_cidrs = {
            family: union(network(c) for n in self.state.nodes for c in n.pod_cidrs if (":" in c) == (family == 6))
            for family in (4, 6)
        }
        self.node_ips = {family: union(single(number(a)) for n in self.state.nodes for a in n.ips(family)) for family in (4, 6)}
        self.all_pods = {
            family: union(single(number(ip)) for ips in self.state.pod_ips.values() for ip in ips if (":" in ip) == (family == 6))
            for family in (4, 6)
        }
        self.counts: dict[str, tuple[int, int]] = {}
        """Service -> (ready, all) endpoints, where they were counted elsewhere."""
        self.texts: dict[str, Known] = {}
        """File -> what the first node had in it, for the further ones to be held against."""
        self.references: dict[int, Reference] = {}
        """Family -> the first node on which Services needed no walk."""
        self.nft_references: dict[int, NftReference] = {}
        """The same in nftables mode."""

    @cached_property
    def large(self) -> bool:
        """Whether kube-proxy takes the cluster for a large one; counted only where a finding depends on it."""
        return self.state.endpoints_total() > LARGE_CLUSTER

    # ---- the pipeline -----------------------------------------------------------------------------------------------

    def report(self, outcomes: Iterable[NodeOutcome], *, origin: str = "") -> Report:
        """Judge every node as it comes, and say what that comes to."""
        return self.conclude([self.node(outcome) for outcome in outcomes], origin=origin)

    @property
    def needs_inference(self) -> bool:
        """Whether nodes have to be looked at (`learn`) before they can be judged: no configuration could be read."""
        return self.state.config is None

    def learn(self, outcomes: Iterable[NodeOutcome]) -> None:
        """Let every node vote on the configuration that the cluster does not show."""
        votes, nodes = Votes(), 0
        for outcome in outcomes:
            if isinstance(outcome, NodeDump):
                nodes += 1
                for family, file in FILES.items():
                    if file in outcome.files:
                        try:
                            votes.add(parse_iptables_save(outcome.files[file], family=family, source=file))
                        except ParseError:
                            continue  # said when the node is judged
                if "nft-ruleset.json" in outcome.files:
                    from ..parse.nft_json import parse_nft_json  # noqa: PLC0415 - only where there are such rules

                    try:
                        votes.add_nft(parse_nft_json(outcome.files["nft-ruleset.json"], source="nft-ruleset.json"))
                    except ParseError:
                        continue  # as above
        self.take(Inference(nodes=nodes, votes=votes))

    def take(self, inference: Inference | None) -> None:
        """Use a configuration that was inferred before, from other readings of the same nodes."""
        self.inference = inference
        self._inferred = build_config((0, 0), inference.settings) if inference is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of how the configuration was found out."""
        return (*self.state.notes, *((self.inference.note,) if self.inference is not None else ()))

    def renewed(self, api: ApiObjects, *, only: frozenset[str]) -> Audit:
        """The same audit by the objects of a later moment, of the Services that were there at the first (`only`)."""
        again = Audit(api, self.selection, thorough=self.thorough)
        again.take(self.inference)
        # A Service that came later was not judged on the nodes that were read before.
        again.services = [service for service in again.services if service.key in only]
        return again

    @staticmethod
    def not_read(node: str, reason: str, *, via: str = "") -> NodeResult:
        """The result of a node that was not read."""
        return not_read(node, "SR901", reason, via=via)

    def node(self, outcome: NodeOutcome) -> NodeResult:
        """Judge one node. What a node prints can cost its own verdict at most, never that of the others."""
        if isinstance(outcome, Unreachable):
            return not_read(outcome.node, "SR901", outcome.reason, via=outcome.via)
        try:
            return self.judged(outcome)
        except Exception as error:  # whatever it is, it is one node's: the rest of the audit stands
            reason = (
                f"what the node printed could not be judged ({type(error).__name__}: {str(error)[:200]}): a bug of this program,"
                " please report it with a snapshot"
            )
            return not_read(outcome.node, "SR902", reason, via=outcome.via)

    def judged(self, dump: NodeDump) -> NodeResult:
        """Judge a node that was read. Raises nothing, if all is as it should be: tests ask this one."""
        node = self.nodes.get(dump.node)
        if node is None:
            return not_read(dump.node, "SR906", "the API lists no such node, so what it should do is not known")
        return NodeAudit(self, node, dump).judge()

    def config_of(
        self, node: Node, dump: NodeDump, unverified: list[Unverified], notes: list[str]
    ) -> ProxyConfig | None:
        """How this node's kube-proxy is configured; None (with the reason) when its version is not known."""
        config = self.state.config or self._inferred or build_config((0, 0), {})
        cmdline = dump.files.get("kube-proxy-cmdline.txt")
        if cmdline and not cmdline.endswith(("\n", "\0")):
            # Cut off, `--cluster-cidr=10.244.0.0/16` may end as another network.
            reason = "kube-proxy-cmdline.txt stops in the middle of a line"
            unverified.append(Unverified(code="SR902", node=node.name, reason=reason))
        elif cmdline:
            config = replace(config, **settings_from_flags(cmdline.replace("\0", "\n").split()))
        configz = dump.files.get("configz.json")
        if configz:
            try:
                config = replace(config, **settings_from_configz(configz, source="configz.json"))
            except ParseError as error:
                unverified.append(Unverified(code="SR902", node=node.name, reason=f"configz.json: {error}"))
        version = (
            self.state.proxy_versions.get(node.name)
            or version_of(node.proxy_version or "")
            or version_of(node.kubelet_version or "")
            or self.state.server_version
        )
        if version is None:
            reason = "neither the kube-proxy pod's image nor the node's status tells kube-proxy's version"
            unverified.append(Unverified(code="SR906", node=node.name, reason=reason))
            return None
        if not OLDEST <= version <= NEWEST:
            notes.append(
                f"kube-proxy {version[0]}.{version[1]} is outside of what is known"
                f" ({OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}): judged as the nearest"
            )
            version = min(max(version, OLDEST), NEWEST)
        return replace(config, version=version)

    # ---- the whole cluster ------------------------------------------------------------------------------------------

    def conclude(self, results: Sequence[NodeResult], *, origin: str = "") -> Report:
        """One report of all nodes' results; the order of the results does not matter."""
        return conclude(self.facts(), results, origin=origin)

    def facts(self) -> Facts:
        """What the API alone says, which a report shows beside what the nodes do."""
        return Facts(
            services=tuple(self._service_facts(service) for service in self.services),
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
            counts=self.counts_of(service),
            skipped=service.skipped,
            endpoints=Lazy(self._endpoints_of(service)),
        )

    def _endpoints_of(self, service: Service) -> Callable[[], tuple[EndpointFact, ...]]:
        def make() -> tuple[EndpointFact, ...]:
            families = {":" in ip for ip in service.cluster_ips}
            found: dict[tuple[str, Backend], EndpointFact] = {}
            pieces = [piece for piece in self.slices_of(service) if (piece.family == 6) in families]
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

    def counts_of(self, service: Service) -> tuple[int, int]:
        """(ready, all) endpoints as the API has them; one that serves several ports counts once."""
        if (known := self.counts.get(service.key)) is not None:
            return known
        if service.skipped:
            return 0, 0
        families = {":" in ip for ip in service.cluster_ips}
        pieces = [piece for piece in self.slices_of(service) if (piece.family == 6) in families]
        if all(piece.plain is not None for piece in pieces):
            ready = {address for piece in pieces if piece.plain is not None for address in piece.plain.addresses}
            return len(ready), len(ready)
        states: dict[str, bool] = {}
        for piece in pieces:
            for e in piece.endpoints:
                states[e.address] = states.get(e.address, False) or e.ready
        return sum(states.values()), len(states)

    def slices_of(self, service: Service, *, legacy: bool = False) -> tuple[Slice, ...]:
        """The Service's slices, or its Endpoints for a kube-proxy that reads those."""
        if legacy and self.state.legacy is not None:
            return self.state.legacy.get(service.key, ())
        return self.state.slices.get(service.key, ())


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
