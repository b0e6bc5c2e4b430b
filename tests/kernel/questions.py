"""What a captured node is asked: every frontend that it should have, from every client, and how the walker answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from kubectl_svcroute.expect.routes import LOOPBACK, NodeView, detector_of, never_clients, plan_service
from kubectl_svcroute.expect.versions import behaviour
from kubectl_svcroute.model.cluster import ClusterState
from kubectl_svcroute.model.net import Frontend, FrontendKind
from kubectl_svcroute.model.plan import Expectation
from kubectl_svcroute.model.ranges import ALL, Ranges, network, number, single, subtract, union
from kubectl_svcroute.model.routes import Client
from kubectl_svcroute.model.snapshot import ApiObjects
from kubectl_svcroute.model.walk_result import Observed
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.iptables import base_chains
from kubectl_svcroute.observe.nftables import base_chains as nft_chains
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.iptables_save import parse_iptables_save
from kubectl_svcroute.parse.kube_objects import parse_cluster
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_text import parse_nft_text
from kubectl_svcroute.parse.proxy_config import version_of

from .crowd import folder as snapshot_folder

_UNUSED = 6


@dataclass(frozen=True)
class Question:
    """One client's packets to one frontend."""

    frontend: Frontend
    client: Client
    sources: Ranges
    from_node: bool
    expectation: Expectation | None = field(default=None, compare=False)

    @property
    def from_pod(self) -> bool:
        return self.client in (Client.POD, Client.HAIRPIN)

    @property
    def way(self) -> str:
        """How the lab sends it."""
        return "node" if self.from_node else "pod" if self.from_pod else "outside"

    def __str__(self) -> str:
        return f"{self.client.value} -> {self.frontend} ({self.frontend.kind.value})"


@dataclass(frozen=True)
class Case:
    """One node of one capture in one family."""

    name: str
    node: str
    family: int
    mode: str
    text: str
    """What the node's tool printed."""
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    """Of all nodes."""
    own_pods: Ranges
    """Addresses that pods on this node can have."""
    endpoints: tuple[str, ...]
    """Pods that answer for Services."""
    context: NodeContext
    pattern: str
    """The interface pattern by which kube-proxy knows pods; empty where it does not go by interface."""
    questions: tuple[Question, ...]

    def asker(self, text: str) -> Asker:
        """The walker over rules of this node; nftables' as JSON or as text, whichever it is."""
        patterns = frozenset([self.pattern]) if self.pattern else frozenset()
        if self.mode == "nftables":
            hooks = nft_chains((parse_nft_json if text.startswith("{") else parse_nft_text)(text), self.family)
        else:
            hooks = base_chains(parse_iptables_save(text, family=self.family))
        return Asker(
            hooks=merge([hooks]),
            context=self.context,
            pod_side=Interface(fits=patterns),
            uplink=Interface(not_fits=patterns),
        )

    def ask(self, asker: Asker, question: Question) -> Observed:
        """The walker's answer."""
        return asker.ask(
            question.frontend, question.sources, from_node=question.from_node, from_pod=question.from_pod
        )


@cache
def _api(folder: Path) -> Mapping[str, object]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "api").glob("*.json")}


def api_objects(name: str) -> ApiObjects:
    """The API's side of a capture."""
    return ApiObjects(objects=dict(_api(snapshot_folder(name))))


@cache
def nodes(name: str) -> tuple[str, ...]:
    """The nodes of a capture."""
    return tuple(sorted(path.name for path in (snapshot_folder(name) / "nodes").iterdir()))


@cache
def mode_of(name: str) -> str:
    """`legacy` or `nft` iptables, or `nftables`: what to load a capture's rules with."""
    if "nftables" in name:
        return "nftables"
    made = json.loads((snapshot_folder(name) / "cluster.json").read_text())
    return "nft" if made.get("iptables_backend") == "nft" else "legacy"


def _pods(cluster: ClusterState, networks: set[tuple[int, int]]) -> tuple[str, ...]:
    """The endpoints of all Services that are pods of the cluster's."""
    slices = [one for source in (cluster.slices, cluster.legacy or {}) for group in source.values() for one in group]
    found = {endpoint.address for one in slices for endpoint in one.endpoints}
    return tuple(sorted(a for a in found if any(low <= number(a) <= high for low, high in networks)))


@cache
def case(name: str, node_name: str, family: int = 4) -> Case:
    """A node of a capture, and what to ask it."""
    folder = snapshot_folder(name)
    cluster = parse_cluster(api_objects(name))
    mode = mode_of(name)
    node = next(n for n in cluster.nodes if n.name == node_name)
    assert cluster.config is not None
    version = version_of(node.kubelet_version)
    assert version is not None
    config = replace(cluster.config, version=version)
    proxy = behaviour(config, mode="nftables" if mode == "nftables" else "iptables")
    six = family == 6
    detector = detector_of(config, node, family)
    cidrs = [c for c in config.cluster_cidrs if (":" in c) == six]
    pod_cidrs = [c for n in cluster.nodes for c in n.pod_cidrs if (":" in c) == six]
    networks = union(network(c) for c in cidrs + pod_cidrs)
    all_nodes = union(single(number(a)) for n in cluster.nodes for a in n.ips(family))
    local = union([*(single(number(a)) for a in node.ips(family)), LOOPBACK[family]])
    view = NodeView(
        node=node, family=family, behaviour=proxy, config=config, detector=detector, local=local,
        address=(node.ips(family) or ("",))[0],
        pods=subtract(union(network(c) for c in node.pod_cidrs if (":" in c) == six), local),
        outside=subtract(ALL[family], union([never_clients(family), networks, all_nodes])), pod_networks=networks,
    )  # fmt: skip
    questions = []
    for service in cluster.services:
        slices = (cluster.slices if proxy.reads_slices else cluster.legacy or {}).get(service.key, ())
        for plan in plan_service(service, slices, view):
            for e in plan.expectations:
                questions.append(Question(e.frontend, e.client, e.sources, e.from_node, e))
    # A port that no Service has: rejected by some versions, passed by others, and never anybody's. One client each.
    plain = {(q.frontend.address, q.client): q for q in questions if q.frontend.kind is FrontendKind.CLUSTER_IP}
    for turn, address in enumerate(dict.fromkeys(address for address, _ in plain)):
        q = plain.get((address, (Client.POD, Client.OUTSIDE, Client.NODE)[turn % 3]))
        if q is not None:
            questions.append(replace(q, frontend=q.frontend._replace(port=_UNUSED), expectation=None))
    # nft 1.0.6 loses a set's `dynamic` in JSON, and could not load what it printed: text is loaded, JSON is walked.
    file = "nft-ruleset.txt" if mode == "nftables" else "ip6tables-save.txt" if six else "iptables-save.txt"
    return Case(
        name=name, node=node_name, family=family, mode=mode, text=(folder / "nodes" / node_name / file).read_text(),
        # Every pod is asked for as if it ran here, so the way back to it has to lead here (rpfilter looks).
        addresses=node.ips(4) + node.ips(6), pod_cidrs=tuple(c for n in cluster.nodes for c in n.pod_cidrs),
        own_pods=view.pods,
        endpoints=_pods(cluster, {network(c)[0] for n in cluster.nodes for c in n.pod_cidrs}),
        context=NodeContext(family=family, local=local, pod_networks=networks),
        pattern=detector.pattern, questions=tuple(questions),
    )  # fmt: skip
