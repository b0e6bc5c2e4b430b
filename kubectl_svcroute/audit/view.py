"""One node as its expectations depend on it: who is local, who is a pod here, who is outside."""

from __future__ import annotations

from ..checks.landmarks import Landmarks
from ..expect.routes import LOOPBACK, NodeView, detector_of, never_clients
from ..expect.versions import Behaviour
from ..model.cluster import Node, ProxyConfig
from ..model.ranges import ALL, Ranges, network, number, single, subtract, union
from ..model.snapshot import NodeDump
from ..observe.ask import Asker
from ..observe.hooks import Hooks
from ..observe.packet import Interface, NodeContext
from .context import ClusterContext


def node_view(
    context: ClusterContext, node: Node, dump: NodeDump, family: int, config: ProxyConfig, behaviour: Behaviour
) -> NodeView:
    """The node in one family."""

    def mine(text: str) -> bool:
        return (":" in text) == (family == 6)

    ips = node.ips(family)
    node_ips, all_pods = context.node_ips[family], context.all_pods[family]
    local = union([*(single(number(a)) for a in ips), LOOPBACK[family], *_interface_addresses(dump, family)])
    own = union(network(c) for c in node.pod_cidrs if mine(c))
    running = union(single(number(ip)) for ip in context.state.pod_ips.get(node.name, ()) if mine(ip))
    clusters = union(network(c) for c in config.cluster_cidrs if mine(c))
    # Where the Node has no podCIDR (Calico's and the clouds' own address management), a pod here can have any address of pods.
    pods = subtract(union((own or clusters, running)) if own or clusters else all_pods, union((local, node_ips)))
    networks = subtract(union((clusters, context.pod_cidrs[family], all_pods)), union((local, node_ips)))
    outside = subtract(
        ALL[family], union((never_clients(family), networks, clusters, context.pod_cidrs[family], node_ips, local))
    )
    return NodeView(
        node=node,
        family=family,
        behaviour=behaviour,
        config=config,
        detector=detector_of(config, node, family),
        local=local,
        address=ips[0] if ips else "",
        pods=pods,
        outside=outside,
        pod_networks=networks,
    )


def _interface_addresses(dump: NodeDump, family: int) -> list[Ranges]:
    """The addresses of the node's interfaces, where `ip -o addr` was read."""
    text = dump.files.get("addresses.txt", "")
    word = "inet" if family == 4 else "inet6"
    found = []
    for line in text.splitlines():
        parts = line.split()
        if word in parts and parts.index(word) + 1 < len(parts):
            try:
                found.append(single(number(parts[parts.index(word) + 1].partition("/")[0])))
            except ValueError:
                continue
    return found


def asker(view: NodeView, hooks: Hooks, landmarks: Landmarks) -> Asker:
    """The node's rules, ready to be asked. `landmarks`: what tells kube-proxy's rules from other programs'."""
    patterns = frozenset([view.detector.pattern]) if view.detector.pattern else frozenset[str]()
    return Asker(
        hooks=hooks,
        context=NodeContext(family=view.family, local=view.local, pod_networks=view.pod_networks),
        pod_side=Interface(fits=patterns, not_fits=frozenset({"lo"})),
        uplink=Interface(not_fits=patterns | {"lo"}),
        own=landmarks.own,
    )
