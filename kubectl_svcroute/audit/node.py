"""Audit one node: from the text that was read to its result.

    configuration -> mode -> the node's own state -> for each family: rules, every Service, the frame around them -> result

The text is let go when `audit_node` returns: what is left, a `NodeResult`, is small enough to keep for thousands of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..checks.node import behind, health, parse_sysctl, proxy_health, proxy_state, sysctls
from ..checks.observation import Disturbance, Observation
from ..checks.programs import of_table
from ..errors import ParseError
from ..expect.routes import NodeView
from ..expect.versions import Behaviour, behaviour
from ..model.cluster import Node, ProxyConfig, Service
from ..model.fast_dataclass import dataclass, replace
from ..model.node_result import NodeResult, SyncState
from ..model.node_tools import parse_tools
from ..model.report import Finding
from ..model.snapshot import NodeDump
from ..parse.proxy_metrics import failures, sync_state
from ..parse.proxy_mode import node_mode
from .ask_port import Listener
from .connections import check_connections, read_flows, tracked
from .context import ClusterContext
from .ledger import Ledger
from .planes import DataPlane, is_mode, plane
from .subject import Subject

_SYSCTLS = (
    # Every node that does NAT has these, so a sysctl.txt without one was cut off.
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A node that was audited: its result, and what trace needs to go on asking."""

    result: NodeResult
    ledger: Ledger
    mode: str
    subject: Subject | None
    """None where kube-proxy's configuration or mode is not known, so that nothing was asked."""
    large: bool = False

    def findings(self, observations: Sequence[Observation]) -> list[Finding]:
        """What some observations about this node come to."""
        if self.subject is None:
            return []
        return self.ledger.findings(observations, self.subject.config, self.subject.behaviour, large=self.large)


def audit_node(context: ClusterContext, node: Node, dump: NodeDump, *, listeners: Sequence[Listener] = ()) -> Audited:
    """Audit a node that was read. `listeners` are told of every Service port before its rules are asked."""
    ledger = Ledger(node.name, context.services)
    for odd in node.odd_addresses:
        ledger.cannot("SR906", f"the API gives this node the address {odd!r}, which is no IP: who is local here is not known")
    config = context.config_of(node, dump, ledger)
    mode = _mode(dump, config, ledger) if config is not None else ""
    subject, sync = None, None
    if config is not None and is_mode(mode):
        believed = behaviour(config, mode=mode)
        if believed.reads_slices and config.version <= (1, 20) and "endpointslices" not in context.objects:
            # Their API has slices as v1beta1 alone. Endpoints have the same ready addresses, and no others count there.
            believed = replace(believed, reads_slices="endpoints" not in context.objects)
        if _endpoints_known(context, believed, ledger):
            sysctl, sync = _node_state(context, config, believed, dump, ledger)
            subject = Subject(
                context=context,
                node=node,
                dump=dump,
                config=config,
                behaviour=believed,
                families=_families(context.services, config, believed),
                sysctl=sysctl,
                flows=read_flows(dump, ledger, asked=context.selection.conntrack),
                ledger=ledger,
                listeners=listeners,
            )
            _audit_rules(subject, plane(mode, subject))
    large = bool(ledger.observations) and context.large
    findings = ledger.findings(ledger.observations, subject.config, subject.behaviour, large=large) if subject is not None else []
    result = ledger.result(
        findings,
        mode=mode,
        version=f"{config.version[0]}.{config.version[1]}" if config is not None else "",
        via=dump.via,
        tracked=tracked(subject.sysctl) if subject is not None and context.selection.conntrack else {},
        sync=sync,
        parts=context.memory.parts,
    )
    return Audited(result=result, ledger=ledger, mode=mode, subject=subject, large=large)


def _audit_rules(subject: Subject, data_plane: DataPlane) -> None:
    """Every family's rules: the Services asked for, and the frame around them."""
    for family in (4, 6):
        rules = data_plane.open(family, asked=family in subject.families)
        if rules is None:
            continue
        _note_pods(subject, rules.ground.view)
        check_connections(subject, rules.ground.view)
        noted = len(subject.ledger.observations)
        rules.frame_checks(rules.audit_services())
        if rules.ground.view.detector.kind == "none" and not subject.context.detection_read(subject.dump):
            _not_assumed(subject.ledger, noted, family)
        rules.close()
    _unread_tables(subject, data_plane)


def _not_assumed(ledger: Ledger, noted: int, family: int) -> None:
    """Take back what was noted, from `noted` on, about masquerading for cluster IPs: whom to spare could not be inferred."""
    later = ledger.observations[noted:]
    doubtful = [o for o in later if o.code in ("SR301", "SR303")]
    if not doubtful:
        return
    ledger.observations[noted:] = [o for o in later if o.code not in ("SR301", "SR303")]
    ledger.not_verified(
        "SR906",
        f"kube-proxy's configuration could not be read, and how it tells pods from others could not be inferred (IPv{family}):"
        " which packets to cluster IPs it masquerades is not known",
    )
    ledger.unverified_services.update(o.service for o in doubtful if o.service)


def _note_pods(subject: Subject, view: NodeView) -> None:
    """Say how pods' addresses were known, where neither the Node nor kube-proxy's configuration has a network of theirs."""
    cidrs = (*view.node.pod_cidrs, *subject.config.cluster_cidrs)
    if any((":" in cidr) == (view.family == 6) for cidr in cidrs):
        return
    known = "the addresses that pods have now stand for all" if view.pods else "no pod has one, and nothing was asked as a pod"
    text = f"some nodes have no podCIDR and kube-proxy no cluster CIDR (IPv{view.family}): {known}"
    if text not in subject.ledger.notes:
        subject.ledger.notes.append(text)


# ---- what the node shows ------------------------------------------------------------------------------------------------


def _mode(dump: NodeDump, config: ProxyConfig, ledger: Ledger) -> str:
    """The node's mode, by what kube-proxy answered, else by what the node holds, else by what the cluster says."""
    text = dump.files.get("proxy-mode.txt")
    if text is not None and text.strip() not in ("iptables", "nftables", "ipvs"):
        ledger.cannot("SR902", f"proxy-mode.txt holds {text!r}, which is no mode of kube-proxy")
        return ""
    shown = node_mode(dump.files)
    mode: str = shown.mode
    if mode in ("none", "unknown") and is_mode(config.mode):
        # A node that shows nothing where the cluster says what it should show: that is the finding.
        mode = config.mode
    if not is_mode(mode):
        ask = f"; what would tell: {shown.remedy}" if shown.remedy else ""
        ledger.cannot("SR904", f"{shown.why}{ask}")
        return mode
    for other in shown.leftovers:
        if other != "iptables":  # iptables' are looked at where its rules are read
            ledger.observations.append(
                Observation(
                    code="SR505",
                    node_wide=True,
                    service=None,
                    key=other,
                    message=f"kube-proxy runs in {mode} mode, and rules of its {other} mode are still there",
                    evidence=(shown.why,),
                    # At its start it removes iptables' and ipvs' in nftables mode, and nftables' in the others.
                    place="mode" if "nftables" in (mode, other) and config.version >= (1, 29) else "leftover",
                )
            )
    return mode


def _endpoints_known(context: ClusterContext, believed: Behaviour, ledger: Ledger) -> bool:
    """Without the endpoints there is nothing to compare with, and an empty list of them is not the same as none."""
    needed = "endpointslices" if believed.reads_slices else "endpoints"
    if needed in context.objects or all(service.skipped for service in context.services):
        return True
    kind = "EndpointSlices" if believed.reads_slices else "Endpoints, which this version of kube-proxy reads,"
    ledger.cannot("SR907", f"{kind} could not be read from the API, so what this node should do is not known")
    return False


def _families(services: Iterable[Service], config: ProxyConfig, believed: Behaviour) -> list[int]:
    """The families of the Services asked for, as far as this kube-proxy serves both."""
    wanted = {6 if ":" in ip else 4 for service in services if not service.skipped for ip in service.cluster_ips}
    if not believed.dual_stack and len(wanted) > 1:
        wanted = {6 if config.cluster_cidrs and ":" in config.cluster_cidrs[0] else 4}
    return sorted(wanted)


def _node_state(
    context: ClusterContext, config: ProxyConfig, believed: Behaviour, dump: NodeDump, ledger: Ledger
) -> tuple[dict[str, str], SyncState | None]:
    """Check the node's sysctls and kube-proxy's own health; returns the sysctls, and how far kube-proxy says that it is."""
    families = _families(context.services, config, believed)
    sysctl: dict[str, str] = {}
    if (text := dump.files.get("sysctl.txt")) is not None:
        with ledger.unreadable("sysctl.txt"):
            sysctl = parse_sysctl(text)
            for name in _SYSCTLS + (("net.ipv6.conf.all.forwarding",) if 6 in families else ()):
                if name not in sysctl:
                    ledger.cannot("SR902", f"sysctl.txt does not tell {name}: it is not whole")
                    break
        localhost = believed.localhost_node_ports
        ledger.observations.extend(sysctls(sysctl, families=frozenset(families), localhost_node_ports=localhost))
    elif (why := parse_tools(dump.files.get("tools.txt", "")).not_read.get("sysctl.txt")) is not None:
        ledger.cannot("SR902", f"sysctl.txt was not read ({why}): whether the node forwards packets is not known")
    if (text := dump.files.get("healthz.json")) is not None:
        with ledger.unreadable("healthz.json"):
            ledger.observations.extend(health(text))
    sync, failed = None, 0
    if (metrics := dump.files.get("metrics.txt")) is not None:
        failed = failures(metrics)
        try:
            sync = sync_state(metrics, dump.files.get("clock.txt", ""))
        except ParseError:
            sync = None
    if sync is not None:
        ledger.observations.extend(behind(sync, failed=failed))
    container = context.state.proxy_containers.get(ledger.node)
    ledger.proxy = proxy_state(container, dump.files, parse_tools(dump.files.get("tools.txt", "")), sync, failed)
    ledger.observations.extend(proxy_health(ledger.proxy, container))
    return sysctl, sync


def _unread_tables(subject: Subject, data_plane: DataPlane) -> None:
    """nftables tables of other programs that packets meet and that were not read: said, not taken for harmless."""
    files = subject.dump.files
    if "nft-tables.json" not in files:
        if (why := parse_tools(files.get("tools.txt", "")).not_read.get("nft-tables.json")) is not None:
            reason = f"nft-tables.json was not read ({why}): nftables tables of other programs may see packets of Services"
            subject.ledger.not_verified("SR909", reason)
        return
    from ..parse.nft_other_tables import foreign_tables  # noqa: PLC0415 - few nodes in iptables mode have such a file

    tables = data_plane.tables()
    if tables is None:
        return  # said where its rules are asked for
    with subject.ledger.unreadable("nft-tables.json"):
        for table in foreign_tables(files["nft-tables.json"], walked=tables, iptables=data_plane.printed()):
            if table.family == "inet" or {"ip": 4, "ip6": 6}.get(table.family) in subject.families:
                reason = f"nftables table {table} sees packets of Services, and its rules were not read"
                if table.before:
                    subject.ledger.not_verified("SR909", reason)
                    continue
                program = of_table(table.name)
                name = program.name if program is not None else f"another program (nftables table {table.family} {table.name})"
                for effect in table.effects:
                    subject.ledger.note(Disturbance(program=name, effect=effect, reason=reason))
