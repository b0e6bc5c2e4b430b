"""What every node of one cluster is audited against: the API's objects, parsed once, and what is remembered of earlier nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..checks import frame_iptables
from ..checks.observation import Disturbance
from ..expect.versions import NEWEST, OLDEST
from ..model.cluster import ClusterState, Node, ProxyConfig, Service, Slice
from ..model.fast_dataclass import dataclass, field, replace
from ..model.node_result import SharedParts
from ..model.ranges import Ranges, network, number, single, union
from ..model.selection import Selection
from ..model.snapshot import ApiObjects, NodeDump
from ..parse.iptables_delta import Known
from ..parse.kube_objects import build_config, parse_cluster
from ..parse.proxy_config import settings_from_configz, settings_from_flags, version_of
from ..sharing.reference import Reference
from .ledger import Ledger

if TYPE_CHECKING:
    from ..sharing.reference_nft import NftReference

LARGE_CLUSTER = 1000
"""kube-proxy leaves out comments and defers deletions above this number of endpoints (kube-proxy-rules.md 3.15)."""
_FEW_SERVICES = 16
"""Up to this number of Services, each is walked, so that its path through the rules can be shown."""


@dataclass(slots=True, kw_only=True)
class Memory:
    """What is kept of the nodes audited so far, so that a later node costs only its differences."""

    parts: SharedParts = field(default_factory=SharedParts)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Service -> (ready, all) endpoints, where they were counted in another process."""
    texts: dict[str, Known] = field(default_factory=dict)
    """File -> what the first node had in it."""
    references: dict[int, Reference] = field(default_factory=dict)
    """Family -> the first node in iptables mode on which Services needed no walk."""
    nft_references: dict[int, NftReference] = field(default_factory=dict)
    """The same in nftables mode."""
    disturbances: dict[int, tuple[Disturbance, ...]] = field(default_factory=dict)
    """Family -> what other programs may do on the first node, whose walks later nodes with the same rules are spared."""
    large: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterContext:
    """One cluster's objects, and what was asked about them."""

    state: ClusterState
    objects: frozenset[str]
    """The kinds of objects that could be read, as the snapshot's files name them."""
    selection: Selection
    services: Sequence[Service]
    """The Services asked for."""
    nodes: Mapping[str, Node]
    inferred: ProxyConfig | None = None
    """kube-proxy's configuration as the nodes' rules show it, where the cluster shows none."""
    known: frame_iptables.Known | None
    """Every frontend of the cluster; None where not all Services were read, so that a strange one proves nothing."""
    pod_cidrs: Mapping[int, Ranges]
    node_ips: Mapping[int, Ranges]
    all_pods: Mapping[int, Ranges]
    thorough: bool
    """Walk every Service, also those whose rules equal another's: tests compare the two."""
    alone: bool
    """One node is audited, so nothing is kept for later ones."""
    memory: Memory = field(default_factory=Memory)

    @property
    def large(self) -> bool:
        """True if kube-proxy takes this for a large cluster. Counts all endpoints: ask only where a finding depends on it."""
        if self.memory.large is None:
            self.memory.large = self.state.endpoints_total() > LARGE_CLUSTER
        return self.memory.large

    @property
    def worth_comparing(self) -> bool:
        """True if enough Services are asked for that those with the rules of others need no walk of their own."""
        few = self.selection.services is not None and len(self.services) <= _FEW_SERVICES
        return not self.thorough and not few

    def slices_of(self, service: Service, *, legacy: bool = False) -> tuple[Slice, ...]:
        """The Service's slices, or its Endpoints for a kube-proxy that reads those."""
        if legacy and self.state.legacy is not None:
            return self.state.legacy.get(service.key, ())
        return self.state.slices.get(service.key, ())

    def counts_of(self, service: Service) -> tuple[int, int]:
        """(ready, all) endpoints as the API has them; one that serves several ports counts once."""
        if (known := self.memory.counts.get(service.key)) is not None:
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

    def detection_read(self, dump: NodeDump) -> bool:
        """Whether it was read, and not inferred, how this node's kube-proxy tells pods from others."""
        flags = dump.files.get("kube-proxy-cmdline.txt", "")
        return self.state.config is not None or "configz.json" in dump.files or ("--" in flags and "--config" not in flags)

    def config_of(self, node: Node, dump: NodeDump, ledger: Ledger) -> ProxyConfig | None:
        """The configuration of this node's kube-proxy; None, with the reason in the ledger, when its version is unknown."""
        config = self.state.config or self.inferred or build_config((0, 0), {})
        cmdline = dump.files.get("kube-proxy-cmdline.txt")
        if cmdline and not cmdline.endswith(("\n", "\0")):
            # Cut off, `--cluster-cidr=10.244.0.0/16` may end as another network.
            ledger.not_verified("SR902", "kube-proxy-cmdline.txt stops in the middle of a line")
        elif cmdline:
            config = replace(config, **settings_from_flags(cmdline.replace("\0", "\n").split()))
        configz = dump.files.get("configz.json")
        if configz:
            with ledger.unreadable("configz.json", every_service=False):
                config = replace(config, **settings_from_configz(configz, source="configz.json"))
        version = (
            self.state.proxy_versions.get(node.name)
            or version_of(node.proxy_version or "")
            or version_of(node.kubelet_version or "")
            or self.state.server_version
        )
        if version is None:
            ledger.not_verified("SR906", "neither the kube-proxy pod's image nor the node's status tells kube-proxy's version")
            return None
        if version < OLDEST:
            ledger.cannot(
                "SR906",
                f"kube-proxy {version[0]}.{version[1]} is not supported: the oldest whose rules are known here is"
                f" {OLDEST[0]}.{OLDEST[1]}",
            )
            return None
        if version > NEWEST:
            ledger.notes.append(
                f"kube-proxy {version[0]}.{version[1]} is outside of what is known"
                f" ({OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}): judged as the nearest"
            )
            version = NEWEST
        return replace(config, version=version)


def cluster_context(api: ApiObjects, selection: Selection, *, thorough: bool, alone: bool) -> ClusterContext:
    """Parse the API's objects. Raises ParseError when they are not what an API server would return."""
    state = parse_cluster(api, only=selection.services)
    whole = selection.services is None and state.namespaces is None
    return ClusterContext(
        state=state,
        objects=frozenset(api.objects),
        selection=selection,
        services=list(state.services),
        nodes={node.name: node for node in state.nodes},
        known=frame_iptables.known_frontends(state.services) if whole else None,
        pod_cidrs={
            family: union(network(c) for n in state.nodes for c in n.pod_cidrs if (":" in c) == (family == 6))
            for family in (4, 6)
        },
        node_ips={family: union(single(number(a)) for n in state.nodes for a in n.ips(family)) for family in (4, 6)},
        all_pods={
            family: union(single(number(ip)) for ips in state.pod_ips.values() for ip in ips if (":" in ip) == (family == 6))
            for family in (4, 6)
        },
        thorough=thorough,
        alone=alone,
    )
