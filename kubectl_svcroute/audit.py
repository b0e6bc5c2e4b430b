"""Snapshot -> Report: the whole pipeline on one screen, and its parts below it.

    report = Audit(api, selection).report(outcomes)

Each node is judged alone and reduced to a `NodeResult`; its text is let go before the next one is looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .checks import structure
from .checks.rollup import sort_key
from .errors import ParseError
from .expect.versions import NEWEST, OLDEST
from .model.cluster import Node, ProxyConfig, Service, Slice
from .model.net import Backend
from .model.node_result import NodeResult, ShareKey
from .model.ranges import network, number, single, union
from .model.report import EndpointRow, Finding, LazyRows, NodeRow, Report, ServiceRow, Severity, Unverified
from .model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable
from .node_audit import FILES, NodeAudit
from .observe.infer import Votes, differing_cidrs
from .parse.iptables_save import parse_iptables_save
from .parse.kube_objects import build_config, parse_cluster
from .parse.nft_json import parse_nft_json
from .parse.proxy_config import settings_from_configz, settings_from_flags, version_of
from .selection import Selection


class Audit:
    """One cluster's API objects, parsed once, against which any number of nodes is judged."""

    def __init__(self, api: ApiObjects, selection: Selection, *, thorough: bool = False) -> None:
        """`thorough`: walk every Service, also those whose rules are the same as another's (tests compare the two)."""
        self.state = parse_cluster(api)
        self.denied = api.denied
        self.objects = frozenset(api.objects)
        self.selection = selection
        self.thorough = thorough
        self.services = [s for s in self.state.services if selection.services is None or s.key in selection.services]
        self.nodes = {node.name: node for node in self.state.nodes}
        self.notes: list[str] = list(self.state.notes)
        self.votes = Votes()
        self.inferred: ProxyConfig | None = None
        whole = selection.services is None and self.state.namespaces is None
        self.known = structure.known_frontends(self.state.services) if whole else None
        self.pod_cidrs = {
            family: union(network(c) for n in self.state.nodes for c in n.pod_cidrs if (":" in c) == (family == 6))
            for family in (4, 6)
        }
        self.node_ips = {family: union(single(number(a)) for n in self.state.nodes for a in n.ips(family)) for family in (4, 6)}
        self.all_pods = {
            family: union(single(number(ip)) for ips in self.state.pod_ips.values() for ip in ips if (":" in ip) == (family == 6))
            for family in (4, 6)
        }
        self.endpoints_total = self.state.endpoints_total

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
        nodes = 0
        for outcome in outcomes:
            if isinstance(outcome, NodeDump):
                nodes += 1
                for family, file in FILES.items():
                    if file in outcome.files:
                        try:
                            self.votes.add(parse_iptables_save(outcome.files[file], family=family, source=file))
                        except ParseError:
                            continue  # said when the node is judged
                if "nft-ruleset.json" in outcome.files:
                    try:
                        self.votes.add_nft(parse_nft_json(outcome.files["nft-ruleset.json"], source="nft-ruleset.json"))
                    except ParseError:
                        continue  # as above
        settings = self.votes.settings()
        if differing_cidrs(self.votes):
            settings["detect_local"] = "NodeCIDR"
        if self.votes.single_addresses.most_common(1)[:1] and self.votes.single_addresses.most_common(1)[0][0]:
            settings["node_port_addresses"] = ("primary",)
        self.inferred = build_config((0, 0), settings)
        told = ", ".join(f"{key}={_plain(value)}" for key, value in sorted(settings.items())) or "nothing"
        self.notes.append(
            f"kube-proxy's configuration could not be read; inferred from what {nodes} nodes have in common: {told}"
        )

    @staticmethod
    def not_read(node: str, reason: str) -> NodeResult:
        """The result of a node that was not read."""
        return _not_read(node, "SR901", reason)

    def node(self, outcome: NodeOutcome) -> NodeResult:
        """Judge one node."""
        if isinstance(outcome, Unreachable):
            return _not_read(outcome.node, "SR901", outcome.reason, via=outcome.via)
        node = self.nodes.get(outcome.node)
        if node is None:
            return _not_read(outcome.node, "SR906", "the API lists no such node, so what it should do is not known")
        return NodeAudit(self, node, outcome).judge()

    def config_of(self, node: Node, dump: NodeDump, unverified: list[Unverified]) -> ProxyConfig | None:
        """How this node's kube-proxy is configured; None (with the reason) when its version is not known."""
        config = self.state.config or self.inferred or build_config((0, 0), {})
        cmdline = dump.files.get("kube-proxy-cmdline.txt")
        if cmdline:
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
            note = (
                f"kube-proxy {version[0]}.{version[1]} is outside of what is known"
                f" ({OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}): judged as the nearest"
            )
            if note not in self.notes:
                self.notes.append(note)
            version = min(max(version, OLDEST), NEWEST)
        return replace(config, version=version)

    # ---- the whole cluster ------------------------------------------------------------------------------------------

    def conclude(self, results: Sequence[NodeResult], *, origin: str = "") -> Report:
        """One report of all nodes' results; the order of the results does not matter."""
        results = sorted(results, key=lambda result: result.row.node)
        findings = _with_difference([f for result in results for f in result.findings], results)
        unverified = [u for result in results for u in result.unverified] + list(self.denied)
        services = [self._service_row(service, results, findings) for service in self.services]
        modes = Counter(f"{r.row.mode} {r.row.version}".strip() for r in results if r.row.mode)
        notes = list(dict.fromkeys(self.notes))
        if len({r.row.mode for r in results if r.row.mode}) > 1:
            mixed = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
            notes.append(f"the nodes do not run the same proxy mode: {mixed}")
        meta = {"origin": origin}
        if modes:
            meta["proxy"] = modes.most_common(1)[0][0]
        return Report(
            findings=tuple(sorted(findings, key=sort_key)),
            unverified=tuple(sorted(unverified, key=lambda u: (u.node or "", u.code, u.service or "", u.reason))),
            services=tuple(services),
            nodes=tuple(result.row for result in results),
            notes=tuple(notes),
            meta=meta,
        )

    def _service_row(self, service: Service, results: Sequence[NodeResult], findings: Sequence[Finding]) -> ServiceRow:
        verified = [r for r in results if service.key not in r.unverified_services and (r.row.verified or r.unverified_services)]
        mine = [f for f in findings if f.service == service.key]
        fronts = tuple(dict.fromkeys(f for r in results for f in r.frontends.get(service.key, ())))
        way = next((r.ways[service.key] for r in results if service.key in r.ways), ())
        return ServiceRow(
            service=service.key,
            type=service.type,
            cluster_ips=service.cluster_ips,
            ports=tuple(_port_text(port.name, port.port, port.protocol.value, port.node_port) for port in service.ports),
            policy=_policy_text(service),
            frontends=fronts,
            endpoints=LazyRows(lambda: () if service.skipped else tuple(self._endpoint_rows(service, results, verified))),
            counts=self._counts(service),
            told=self._told(service, results, verified),
            nodes=len(results),
            nodes_verified=len(results) if service.skipped else len(verified),
            errors=sum(f.severity is Severity.ERROR for f in mine),
            warnings=sum(f.severity is Severity.WARNING for f in mine),
            skipped=service.skipped,
            evidence=way,
        )

    @staticmethod
    def _told(
        service: Service, results: Sequence[NodeResult], verified: Sequence[NodeResult]
    ) -> tuple[frozenset[str], frozenset[str]]:
        wrong = frozenset(r.row.node for r in results if r.wrong and any(key[0] == service.key for key in r.wrong))
        if service.skipped or len(verified) == len(results):
            return wrong, frozenset()
        told = {r.row.node for r in verified}
        return wrong, frozenset(r.row.node for r in results if r.row.node not in told)

    def _counts(self, service: Service) -> tuple[int, int]:
        """(ready, all) endpoints as the API has them; one that serves several ports counts once."""
        if service.skipped:
            return 0, 0
        families = {":" in ip for ip in service.cluster_ips}
        states: dict[tuple[str | None, str], bool] = {}
        for piece in self.slices_of(service):
            if (piece.family == 6) in families:
                for e in piece.endpoints:
                    states[e.address, ""] = states.get((e.address, ""), False) or e.ready
        return sum(states.values()), len(states)

    def _endpoint_rows(
        self, service: Service, results: Sequence[NodeResult], verified: Sequence[NodeResult]
    ) -> Iterator[EndpointRow]:
        told = {r.row.node for r in verified}
        rows: dict[tuple[str, Backend], tuple[str | None, str | None, bool, str]] = {}
        for piece in self.slices_of(service):
            for port in service.ports:
                for number_ in piece.ports:
                    if number_.name != port.name or number_.protocol != port.protocol:
                        continue
                    for e in piece.endpoints:
                        if (":" in e.address) in {":" in ip for ip in service.cluster_ips}:
                            rows.setdefault((str(port), Backend(e.address, number_.port)), (e.pod, e.node, e.ready, e.state))
        for result in results:
            for key in result.shares:
                if key[0] == service.key:
                    rows.setdefault((key[1], key[2]), (None, None, False, "not an endpoint"))
        even: Counter[tuple[str, bool]] = Counter((port, ":" in backend.address) for port, backend in rows)
        order = {str(port): n for n, port in enumerate(service.ports)}
        for (port_text, backend), (pod, node, ready, state) in sorted(
            rows.items(), key=lambda row: (order.get(row[0][0], 99), row[0][1])
        ):
            key = (service.key, port_text, backend)
            fair = 1 / even[port_text, ":" in backend.address]
            yield EndpointRow(
                address=str(backend),
                pod=pod,
                node=node,
                ready=ready,
                state=state,
                port=port_text,
                share={r.row.node: (_share(r, key, fair) if r.row.node in told else None) for r in results},
                wrong=frozenset(r.row.node for r in results if key in r.wrong),
            )

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


def _share(result: NodeResult, key: ShareKey, fair: float) -> float:
    """The share of a backend on a node; even for a Service of which nothing else was noted."""
    return result.shares.get(key, fair if key[0] in result.even else 0.0)


def _plain(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _not_read(node: str, code: str, reason: str, *, via: str = "") -> NodeResult:
    return NodeResult(
        row=NodeRow(node=node, verified=False, mode="", version="", via=via),
        unverified=(Unverified(code=code, node=node, reason=reason),),
    )


def _port_text(name: str, port: int, protocol: str, node_port: int) -> str:
    label = f"{name} " if name else ""
    outside = f":{node_port}" if node_port else ""
    return f"{label}{port}{outside}/{protocol}"


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
