"""One node on its way from text to result: parse, expect, observe, compare, roll up.

The text is let go when `NodeAudit.judge` returns: what is left, a `NodeResult`, is small enough to keep for thousands of nodes.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checks import frame_iptables
from ..checks.blame import Facts
from ..checks.compare import Case, compare
from ..checks.heal import Healing
from ..checks.landmarks import IPTABLES, NFTABLES, Landmarks
from ..checks.node import behind, health, parse_sysctl, sysctls
from ..checks.observation import Observation, Unsure
from ..checks.rollup import roll_up
from ..errors import ParseError
from ..expect.endpoints import plain_backends
from ..expect.names import endpoint_hash, nft_endpoint, service_hash
from ..expect.routes import (
    LOOPBACK,
    NodeView,
    detector_of,
    filtering_ranges,
    never_clients,
    node_port_addresses,
    plan_service,
)
from ..expect.versions import Behaviour, behaviour
from ..fork import in_halves
from ..model.cluster import Node, ProxyConfig, Service, ServicePort, Slice
from ..model.fast_dataclass import replace
from ..model.net import Backend, Frontend, FrontendKind, Protocol
from ..model.node_result import BESIDE_RULES, NodeResult, ShareKey, SyncState
from ..model.plan import Expectation, PortPlan
from ..model.ranges import ALL, Ranges, intersect, network, number, single, subtract, union
from ..model.ranges import text as address_text
from ..model.report import Finding, NodeRow, Severity, Unverified
from ..model.routes import Action, Client
from ..model.ruleset import IptablesRules
from ..model.snapshot import NodeDump
from ..model.walk_result import Observed
from ..observe.ask import Asker
from ..observe.hook_order import merge
from ..observe.hooks import Hooks
from ..observe.iptables import base_chains
from ..observe.packet import Interface, NodeContext
from ..parse.iptables_delta import Known
from ..parse.iptables_save import parse_iptables_save
from ..parse.proxy_metrics import sync_state
from ..parse.proxy_mode import node_mode
from ..sharing.eligible import Alike, PortCone
from ..sharing.iptables import Twins
from ..sharing.reference import Difference, Reference

if TYPE_CHECKING:
    from ..checks import frame_nftables
    from ..model.flow import Flow
    from ..model.nft import NftRules
    from ..sharing.reference_nft import Difference as NftDifference
    from ..sharing.reference_nft import NftReference
    from .cluster import Audit

FILES = {4: "iptables-save.txt", 6: "ip6tables-save.txt"}
"""Family -> the file of a snapshot that holds what the node's own iptables prints."""
_OTHERS = {
    4: ("iptables-legacy-save.txt", "iptables-nft-save.txt"),
    6: ("ip6tables-legacy-save.txt", "ip6tables-nft-save.txt"),
}
_SYSCTLS = (
    # Every node that does NAT has these, so a sysctl.txt without one was cut off.
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
)
_MODELS_AMONG = 256
"""Among so many Services most of the kinds that a cluster has are met."""
_WORTH_HALVING = 1000
"""Services whose comparison takes longer than it takes to make a second process, and to hear from it."""
_FEW_SERVICES = 16
"""Where no more than so many Services are asked for, each is walked, and its way through the rules is there to be shown."""


def _why_absent(dump: NodeDump, file: str) -> str:
    """Why the node could not give a file, as its tools.txt says; empty when it does not."""
    start = f"not read: {file}: "
    lines = dump.files.get("tools.txt", "").splitlines()
    return next((line[len(start) :] for line in lines if line.startswith(start)), "")


def _said_empty(dump: NodeDump, file: str) -> bool:
    """Whether the node itself said that its kernel has no rules, so that there was nothing to put into a file."""
    return any(line.startswith(f"empty: {file}:") for line in dump.files.get("tools.txt", "").splitlines())


def _leftovers(others: Sequence[IptablesRules]) -> Iterator[Observation]:
    """kube-proxy's iptables rules on a node that runs in nftables mode: do they still catch packets?"""
    for rules in others:
        if not frame_iptables.programmed(rules):
            continue
        live = any(target == "KUBE-SERVICES" for _, target in frame_iptables.hooks(rules))
        says = "still catch packets" if live else "stand idle"
        yield Observation(
            code="SR505" if live else "SR506",
            node_wide=True,
            service=None,
            key=rules.source,
            message=f"kube-proxy's iptables rules in {rules.source} {says}, and kube-proxy runs in nftables mode",
            evidence=(frame_iptables.programmed_sample(rules),),
            place="foreign",
        )


class _Recognised(NamedTuple):
    """A Service whose rules are a model's."""

    frontends: list[str]
    chains: list[str]
    counts: tuple[int, int]
    """(ready, all) endpoints."""
    kept: Sequence[PortCone]
    """What further nodes are held against, where there are any."""


class NodeAudit:
    """One node on its way from text to result."""

    def __init__(self, whole: Audit, node: Node, dump: NodeDump) -> None:
        self.whole = whole
        self.node = node
        self.dump = dump
        self.unverified: list[Unverified] = []
        self.notes: list[str] = []
        self.observations: list[Observation] = []
        self.unsure: dict[tuple[str, str, str], tuple[Unsure, int]] = {}
        self.unverified_services: set[str] = set()
        self.shares: dict[ShareKey, float] = {}
        self.wrong: set[ShareKey] = set()
        self.even: set[str] = set()
        self.ways: dict[str, tuple[str, ...]] = {}
        self.frontends: dict[str, list[str]] = defaultdict(list)
        self.like_first: list[str] = []
        """Services whose frontends are those of the first node."""
        self.families: list[int] = []
        self.translated: dict[tuple[str, int], set[str]] = defaultdict(set)
        """(`*`, or a code that only some can have; family) -> Services that could have it."""
        self.changed: dict[int, frozenset[tuple[str, str]]] = {}
        """Family -> (table, chain) of what is not as on the first node; absent where that is not known."""
        self.sysctl: dict[str, str] = {}
        self.mode = ""
        self.sync: SyncState | None = None
        self.flows: dict[int, list[Flow]] = {}
        self._nft_parsed: NftRules | None = None

    def judge(self) -> NodeResult:
        """The way of one node, from its files to its findings."""
        config = self.whole.config_of(self.node, self.dump, self.unverified, self.notes)
        if config is None:
            return self._result(None, None)
        self.mode = self._mode(config)
        if self.mode not in ("iptables", "nftables"):
            return self._result(config, None)
        think = behaviour(config, mode=self.mode)
        if not self._endpoints_known(think):
            return self._result(config, None)
        families = self.families = self._families(config, think)
        self._node_files(think, families)
        self._sync_state()
        self._foreign_tables(families)
        self.flows = self._flows()
        if self.mode == "nftables":
            self._nft(families, config, think)
            return self._result(config, think)
        for family in (4, 6):
            if family in families:
                self._family(family, config, think)
            elif FILES[family] in self.dump.files:
                # Nothing asked for depends on it; but a file that is there was read whole, or something went wrong.
                self._rules(family, config, needed=False)
        return self._result(config, think)

    # ---- what the node shows ----------------------------------------------------------------------------------------

    def _mode(self, config: ProxyConfig) -> str:
        """The node's mode, by what kube-proxy answered, else by what the node holds, else by what the cluster says."""
        text = self.dump.files.get("proxy-mode.txt")
        if text is not None and text.strip() not in ("iptables", "nftables", "ipvs"):
            self._cannot("SR902", f"proxy-mode.txt holds {text!r}, which is no mode of kube-proxy")
            return ""
        shown = node_mode(self.dump.files)
        mode = shown.mode
        if mode in ("none", "unknown") and config.mode in ("iptables", "nftables"):
            # A node that shows nothing where the cluster says what it should show: that is the finding.
            mode = config.mode
        if mode not in ("iptables", "nftables"):
            ask = f"; what would tell: {shown.remedy}" if shown.remedy else ""
            self._cannot("SR904", f"{shown.why}{ask}")
            return mode
        for other in shown.leftovers:
            if other != "iptables":  # iptables' are looked at where its rules are read
                self.observations.append(
                    Observation(
                        code="SR505",
                        node_wide=True,
                        service=None,
                        key=other,
                        message=f"kube-proxy runs in {mode} mode, and rules of its {other} mode are still there",
                        evidence=(shown.why,),
                        place="foreign",
                    )
                )
        return mode

    def _foreign_tables(self, families: list[int]) -> None:
        """nftables tables of other programs that packets meet and that were not read: said, not taken for harmless."""
        text = self.dump.files.get("nft-tables.json")
        if text is None:
            return
        from ..parse.nft_other_tables import foreign_tables  # noqa: PLC0415 - nftables' modules load where a node has such rules

        walked = [(family, "kube-proxy") for family in ("ip", "ip6")]
        if "nft-ruleset.json" in self.dump.files:
            try:
                walked += list(self._nft_json().tables)
            except ParseError:
                return  # said where its rules are asked for
        printed = [f for f in (4, 6) if any(file in self.dump.files for file in (FILES[f], *_OTHERS[f]))]
        try:
            for table in foreign_tables(text, walked=walked, iptables=printed):
                if table.family == "inet" or {"ip": 4, "ip6": 6}.get(table.family) in families:
                    reason = f"nftables table {table} sees packets of Services, and its rules were not read"
                    self.unverified.append(Unverified(code="SR909", node=self.node.name, reason=reason))
        except ParseError as error:
            self._cannot("SR902", f"nft-tables.json: {error}")

    def _endpoints_known(self, think: Behaviour) -> bool:
        """Without the endpoints there is nothing to compare with, and an empty list of them is not the same as none."""
        objects = self.whole.objects
        needed = "endpointslices" if think.reads_slices else "endpoints"
        if needed in objects or not any(not s.skipped for s in self.whole.services):
            return True
        kind = "EndpointSlices" if think.reads_slices else "Endpoints, which this version of kube-proxy reads,"
        self._cannot("SR907", f"{kind} could not be read from the API, so what this node should do is not known")
        return False

    def _cannot(self, code: str, reason: str) -> None:
        self.unverified.append(Unverified(code=code, node=self.node.name, reason=reason))
        self.unverified_services.update(s.key for s in self.whole.services if not s.skipped)

    def _families(self, config: ProxyConfig, think: Behaviour) -> list[int]:
        """The families of the Services asked for, as far as this kube-proxy serves both."""
        wanted = {6 if ":" in ip else 4 for s in self.whole.services if not s.skipped for ip in s.cluster_ips}
        if not think.dual_stack and len(wanted) > 1:
            wanted = {6 if config.cluster_cidrs and ":" in config.cluster_cidrs[0] else 4}
        return sorted(wanted)

    def _node_files(self, think: Behaviour, families: list[int]) -> None:
        text = self.dump.files.get("sysctl.txt")
        if text is not None:
            try:
                self.sysctl = parse_sysctl(text)
                for name in _SYSCTLS + (("net.ipv6.conf.all.forwarding",) if 6 in families else ()):
                    if name not in self.sysctl:
                        self._cannot("SR902", f"sysctl.txt does not tell {name}: it is not whole")
                        break
            except ParseError as error:
                self._cannot("SR902", f"sysctl.txt: {error}")
            self.observations.extend(
                sysctls(self.sysctl, families=frozenset(families), localhost_node_ports=think.localhost_node_ports)
            )
        text = self.dump.files.get("healthz.json")
        if text is not None:
            try:
                self.observations.extend(health(text))
            except ParseError as error:
                self._cannot("SR902", f"healthz.json: {error}")

    def _sync_state(self) -> None:
        """How far kube-proxy says that it is: it tells how soon a difference is believed, and whether kube-proxy is stuck."""
        metrics = self.dump.files.get("metrics.txt")
        if metrics is not None:
            with contextlib.suppress(ParseError):
                self.sync = sync_state(metrics, self.dump.files.get("clock.txt", ""))
        if self.sync is not None:
            self.observations.extend(behind(self.sync))

    def _rules(self, family: int, config: ProxyConfig, *, needed: bool = True) -> list[IptablesRules]:
        """What the kernel runs in one family: the backend that holds kube-proxy's rules first, then the other."""
        found: list[IptablesRules] = []
        for file in (FILES[family], *_OTHERS[family]):
            if file not in self.dump.files:
                continue
            try:
                rules = self._parse(file, family)
            except ParseError as error:
                self._cannot("SR902", f"{file}: {error}")
                return []
            if found and rules.flavour and rules.flavour == found[0].flavour:
                continue  # the same backend under its other name
            found.append(rules)
        if not needed:
            return found
        if not found and _said_empty(self.dump, FILES[family]):
            # The kernel holds no rules at all: that is known, and every Service says so.
            return [IptablesRules(family=family, tables={}, source=FILES[family])]
        if not found:
            name = "iptables-save" if family == 4 else "ip6tables-save"
            why = _why_absent(self.dump, FILES[family]) or f"{name} was not read"
            self._cannot("SR902", f"{FILES[family]} is not there ({why}), and the Services have IPv{family} addresses")
            return []
        found.sort(key=lambda rules: not frame_iptables.programmed(rules))
        first = found[0]
        for table in ["nat", "filter"] + (["mangle"] if config.version >= (1, 16) else []):
            if table not in first.tables:
                self._cannot("SR902", f"{first.source}: table {table} is not in it, and kube-proxy always has it")
                return []
        if len(found) > 1 and frame_iptables.programmed(found[1]):
            self.observations.append(
                Observation(
                    code="SR502",
                    node_wide=True,
                    service=None,
                    key=str(family),
                    message=f"Service chains stand in {first.source} and in {found[1].source}: one of the two is a leftover",
                    evidence=tuple(frame_iptables.programmed_sample(rules) for rules in found),
                    place="hook",
                )
            )
            # Which of the two NAT tables comes first depends on which was registered first, and no dump tells.
            return [first]
        return found

    def _parse(self, file: str, family: int) -> IptablesRules:
        """The rules in a file: by what differs from the first node's, where that can be told. Raises ParseError."""
        text = self.dump.files[file]
        if file != FILES[family] or not self._worth_comparing():
            return parse_iptables_save(text, family=family, source=file)
        known = self.whole.texts.get(file)
        again = known.read(text, source=file) if known is not None else None
        if again is not None:
            self.changed[family] = again.changed
            return again.rules
        rules = parse_iptables_save(text, family=family, source=file)
        if known is None and not self.whole.alone:
            self.whole.texts[file] = Known(text, rules)
            self.changed[family] = frozenset()
        return rules

    # ---- one family -------------------------------------------------------------------------------------------------

    def _family(self, family: int, config: ProxyConfig, think: Behaviour) -> None:
        sources = self._rules(family, config)
        if not sources:
            return
        rules = sources[0]
        view = self.view(family, config, think)
        reference = self.whole.references.get(family) if len(sources) == 1 and family in self.changed else None
        masquerading = [frame_iptables.masquerading(r) for r in sources] if reference is None else [[*reference.masquerading]]
        if reference is not None:
            masquerading[0] += [chain for table, chain in self.changed[family] if table == "nat"]
        bridged = [
            network(net)
            for r, chains in zip(sources, masquerading, strict=True)
            for net in frame_iptables.bridged_networks(r, chains)
        ]
        if bridged := [net for net in bridged if not intersect(net, view.pod_networks)]:
            view = replace(view, outside=subtract(view.outside, union(bridged)))
        landmarks = IPTABLES
        facts = Facts(
            services_programmed=frame_iptables.services_programmed(rules),
            node_ports_programmed=frame_iptables.node_ports_programmed(rules),
            hooks=frame_iptables.hooks(rules),
        )
        differs = reference.compare(rules, self.changed[family], config, view) if reference is not None else None
        same = differs is not None and not differs.rules
        asker = self.asker(view, reference.hooks if reference and same else merge(base_chains(r) for r in sources))
        alike, made = None, None
        if reference is not None and differs is not None:
            stops = self._services_again(view, asker, landmarks, facts, reference, differs)
        else:
            if len(sources) == 1 and self._worth_comparing():
                twins = Twins(rules, cells=(view.detector.pods, view.pod_networks), local=view.local)
                alike = Alike(twins, view) if twins.usable else None
                if alike is not None and family not in self.whole.references and self.changed.get(family) == frozenset():
                    made = alike.reference = Reference(
                        rules=rules, config=config, view=view, entries=twins.entries, cells=twins.cells, hooks=asker.hooks,
                        masquerading=masquerading[0],
                    )  # fmt: skip
            stops = self._services(view, asker, landmarks, facts, alike)
        frame = frame_iptables.Frame(
            rules=rules,
            version=config.version,
            localhost_node_ports=think.localhost_node_ports,
            route_localnet={"0": False, "1": True}.get(self.sysctl.get("net.ipv4.conf.all.route_localnet", "")),
            detects_cidr=view.detector.kind == "cidr",
            dual_stack_services=True,
        )
        checks = (
            frame_iptables.filter_hooks, frame_iptables.forward_chain, frame_iptables.localnet_guard, frame_iptables.canaries,
        )  # fmt: skip
        for check in checks:
            self.observations.extend(check(frame))
        self.observations.extend(frame_iptables.idle_stops(frame, stops))
        if same and reference is not None:
            self.observations.extend(reference.structural)
        elif self.whole.known is not None:
            found = [
                *frame_iptables.duplicates(frame, self._owners),
                *frame_iptables.leftover_chains(frame, alike.covered if alike is not None else frozenset()),
                *frame_iptables.deleted_services(frame, self.whole.known),
            ]
            self.observations.extend(found)
            if made is not None:
                made.structural = found
        if made is not None:
            self.whole.references[family] = made

    def _services(
        self, view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts, alike: Alike | None
    ) -> frame_iptables.Stops:
        """Judge every Service asked for in one family; returns where anybody should be stopped."""
        stops = frame_iptables.Stops()
        self._connections(view)
        node_ports = node_port_addresses(view)
        twins = []
        services = list(self._programmed(view))
        recognised: dict[str, _Recognised] = {}
        for place, service in enumerate(services):
            key = service.key
            if place == _MODELS_AMONG and alike is not None:
                # The models are known by now: whose rules are theirs is found out on two processors.
                recognised = self._recognised(services[place:], alike, node_ports)
            if (found := recognised.get(key)) is not None and alike is not None:
                twins.append(key)
                self.frontends[key].extend(found.frontends)
                alike.covered.update(found.chains)
                self.whole.counts[key] = found.counts
                if alike.reference is not None:
                    alike.reference.add(key, found.kept, found.frontends)
                continue
            slices = self.whole.slices_of(service, legacy=not view.behaviour.reads_slices)
            cones = alike.cones(service, slices) if alike is not None else None
            if alike is not None and cones is not None and all(cone.twin for cone in cones):
                twins.append(key)
                for cone in cones:
                    self.frontends[key].extend(cone.dialled(node_ports))
                    alike.covered.update(cone.cone.chains)
                if alike.reference is not None:
                    alike.reference.add(key, alike.reference.kept(cones), self.frontends[key])
                continue
            noted = len(self.shares)
            right = self._walk(service, slices, view, asker, landmarks, facts, stops)
            if alike is not None and cones is not None and right:
                alike.learn(key, cones)
                self._told_as_twin(key, noted)
                if alike.reference is not None:
                    alike.reference.add(key, alike.reference.kept(cones), self.frontends[key], walked=True)
        self._right_as_others(twins, view)
        return stops

    def _told_as_twin(self, service: str, noted: int) -> None:
        """A model that was walked is told of as its twins are: who is walked depends on the node, and on which node came first.

        `noted`: how many shares were noted before the walk.
        """
        for share in list(self.shares)[noted:]:
            del self.shares[share]
        self.even.add(service)

    def _recognised(self, services: Sequence[Service], alike: Alike, node_ports: Sequence[str]) -> dict[str, _Recognised]:
        """Those of many Services whose rules are a model's; what is kept of each."""

        def work(part: Sequence[Service]) -> dict[str, _Recognised]:
            found = {}
            for service in part:
                slices = self.whole.slices_of(service, legacy=not alike.view.behaviour.reads_slices)
                cones = alike.cones(service, slices)
                if cones is not None and all(cone.twin for cone in cones):
                    found[service.key] = _Recognised(
                        [text for cone in cones for text in cone.dialled(node_ports)],
                        [chain for cone in cones for chain in cone.cone.chains],
                        self.whole.counts_of(service),
                        alike.reference.kept(cones) if alike.reference is not None else (),
                    )
            return found

        return {key: twin for part in in_halves(work, services, least=_WORTH_HALVING) for key, twin in part.items()}

    def _services_again(
        self, view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts, reference: Reference, differs: Difference
    ) -> frame_iptables.Stops:
        """The same on a further node: walk what was walked on the first one and what differs, and take over the rest."""
        stops = frame_iptables.Stops()
        self._connections(view)
        touched = differs.touched
        wrong, later = [], []
        for service in self._programmed(view):
            key = service.key
            if key in reference.twins and key not in touched and (differs.alike or not reference.twins[key].walked):
                later.append(service)
                continue
            slices = self.whole.slices_of(service, legacy=not view.behaviour.reads_slices)
            noted = len(self.shares)
            if not self._walk(service, slices, view, asker, landmarks, facts, stops):
                wrong.append(key)
            elif key in reference.twins:
                self._told_as_twin(key, noted)
        # A model that differs here is no model here, whatever becomes of it.
        right = reference.right([*wrong, *touched], (service.key for service in later))
        self._take_over(right, reference, view)
        for service in later if len(right) < len(later) else ():
            if service.key not in right:
                slices = self.whole.slices_of(service, legacy=not view.behaviour.reads_slices)
                self._walk(service, slices, view, asker, landmarks, facts, stops)
        return stops

    def _programmed(self, view: NodeView) -> Iterator[Service]:
        """The Services asked for that this kube-proxy has rules for."""
        for service in self.whole.services:
            if not (service.skipped or (service.headless_label and view.behaviour.ignores_headless_label)):
                yield service

    def _walk(
        self, service: Service, slices: Sequence[Slice], view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts,
        stops: frame_iptables.Stops,
    ) -> bool:  # fmt: skip
        """Ask the rules about one Service; whether everything was as it should be."""
        if filtering_ranges(service, view):
            stops.filtered.add(service.key)
        before = (len(self.observations), len(self.unsure))
        told = service.key in self.ways
        for plan in plan_service(service, slices, view):
            self._port(plan, view, asker, landmarks, facts)
            for expectation in plan.expectations:
                stops.add(service.key, expectation)
        right = before == (len(self.observations), len(self.unsure))
        if right and not told and self._worth_comparing():
            self.ways.pop(service.key, None)  # of its twins nobody knows the way, and who is a twin depends on the node
        return right

    def _take_over(self, right: set[str], reference: Reference | NftReference, view: NodeView) -> None:
        """Note what is known of Services that are right because they are on the first node."""
        there = node_port_addresses(reference.view) == node_port_addresses(view)
        # With two families a Service's frontends are put together from both.
        shared = len(self.families) == 1 and self.whole.alike.first_node == reference.view.node.name
        for key in right:
            twin = reference.twins[key]
            if there or not twin.node_ports:
                if shared:
                    self.like_first.append(key)
                    continue
                self.frontends[key].extend(twin.frontends)
            else:
                self.frontends[key].extend(twin.dialled(node_port_addresses(view)))
        self._right_as_others(right, view)

    def _worth_comparing(self) -> bool:
        """Whether so many Services are asked for that those with the same rules as others need no walk of their own."""
        few = self.whole.selection.services is not None and len(self.whole.services) <= _FEW_SERVICES
        return not self.whole.thorough and not few

    # ---- what is already flowing ------------------------------------------------------------------------------------

    def _flows(self) -> dict[int, list[Flow]]:
        """The connections that were read, by family; said where they were asked for and could not be."""
        text = self.dump.files.get("conntrack.txt")
        found: dict[int, list[Flow]] = defaultdict(list)
        why = ""
        if text is not None:
            try:
                from ..parse.conntrack import parse_conntrack  # noqa: PLC0415 - few snapshots hold connections

                dump = parse_conntrack(text)
            except ParseError as error:
                why = f"conntrack.txt: {error}"
            else:
                for flow in dump.flows:
                    found[flow.family].append(flow)
                if any(part.startswith("udp") for part in dump.cut):
                    why = "the node has more UDP flows than are read of one: only the first were looked at"
                elif dump.cut:
                    # What TCP connections show is no fault, so it is not missed as one would be.
                    self.notes.append("some nodes have more TCP connections than are read of one: only the first were looked at")
        elif self.whole.selection.conntrack:
            absent = "the snapshot was made without --conntrack" if self.dump.via == "snapshot" else "they were not read"
            why = f"the node's connections are not known ({_why_absent(self.dump, 'conntrack.txt') or absent})"
        if why:
            self.unverified.append(Unverified(code="SR920", node=self.node.name, reason=why))
            self.unverified_services.add(BESIDE_RULES)
        return found

    def _connections(self, view: NodeView) -> None:
        """Connections of one family to the Services asked for, held against the endpoints that there are."""
        mine = self.flows.get(view.family)
        if not mine:
            return
        from ..checks.flows import flows_of_services, stale_flows  # noqa: PLC0415 - as above

        services = {service.key: service for service in self.whole.services}
        for key, its in flows_of_services(mine, self.whole.services, view.local, view.address).items():
            service = services[key]
            slices = self.whole.slices_of(service, legacy=not view.behaviour.reads_slices)
            for plan in plan_service(service, slices, view):
                self.observations.extend(stale_flows(plan, its))

    # ---- nftables mode ----------------------------------------------------------------------------------------------

    def _nft_json(self) -> NftRules:
        """What `nft -j` printed. Raises ParseError."""
        from ..parse.nft_json import parse_nft_json  # noqa: PLC0415 - as above

        if self._nft_parsed is None:
            first = next(iter(self.whole.nft_references.values()), None)
            like = first.rules if first is not None else None
            self._nft_parsed = parse_nft_json(self.dump.files["nft-ruleset.json"], source="nft-ruleset.json", like=like)
        return self._nft_parsed

    def _nft_rules(self) -> NftRules | None:
        """kube-proxy's tables, and whatever else stands in the same file; None (with the reason) when not readable."""
        from ..parse.nft_text import parse_nft_text  # noqa: PLC0415 - as above

        for file in ("nft-ruleset.json", "nft-ruleset.txt"):
            text = self.dump.files.get(file)
            if text is None:
                continue
            try:
                return self._nft_json() if file == "nft-ruleset.json" else parse_nft_text(text, source=file)
            except ParseError as error:
                self._cannot("SR902", f"{file}: {error}")
                return None
        why = _why_absent(self.dump, "nft-ruleset.json") or "its tables were not read"
        self._cannot("SR902", f"nft-ruleset.json is not there: kube-proxy runs in nftables mode, and {why}")
        return None

    def _nft(self, families: list[int], config: ProxyConfig, think: Behaviour) -> None:
        from ..checks import frame_nftables  # noqa: PLC0415
        from ..observe.nftables import base_chains as nft_base_chains  # noqa: PLC0415
        from ..observe.nftables import forget  # noqa: PLC0415
        from ..sharing.nftables import NftTwins  # noqa: PLC0415
        from ..sharing.reference_nft import NftReference  # noqa: PLC0415 - as above

        rules = self._nft_rules()
        if rules is None:
            return
        for family in (4, 6):
            # iptables' tables beside kube-proxy's see the same packets: a CNI's, a firewall's, or leftovers.
            present = any(file in self.dump.files for file in (FILES[family], *_OTHERS[family]))
            others = self._rules(family, config, needed=False) if present else []
            if family not in families:
                continue
            view = self.view(family, config, think)
            table = frame_nftables.proxy_table(rules, family)
            known = self.whole.nft_references.get(family) if self._worth_comparing() else None
            reference, differs = known, None
            if reference is not None:
                differs = reference.compare(rules, others, config, view, self._endpoints_here(reference, view))
            facts = Facts(
                services_programmed=frame_nftables.services_programmed(table),
                node_ports_programmed=frame_nftables.node_ports_programmed(table),
                node_port_lookup=table is not None and "service-nodeports" in frame_nftables.looked_up(table, "services"),
                node_port_ips=frame_nftables.node_port_ips(table),
                hairpin_rule=frame_nftables.hairpin_rule(table, config.version),
                hooks=frame_nftables.hooks(table),
            )
            printed = {("ip" if family == 4 else "ip6", name) for other in others for name in other.tables}
            mine = nft_base_chains(rules, family, skip_tables=printed)
            asker = self.asker(view, merge([mine, *(base_chains(other) for other in others)]))
            if reference is not None and differs is not None:
                stops = self._nft_services_again(view, asker, facts, reference, differs)
            else:
                alike = None
                if self._worth_comparing():
                    cells = (view.detector.pods, view.pod_networks)
                    twins = NftTwins(rules, table, others, cells=cells, local=view.local)
                    alike = Alike(twins, view) if twins.usable else None
                    if alike is not None and reference is None and table is not None and not self.whole.alone:
                        reference = alike.reference = NftReference(rules, table, others, config, view, twins.models)
                stops = self._services(view, asker, NFTABLES, facts, alike)
                if known is None and reference is not None:
                    self.whole.nft_references[family] = reference
            self.observations.extend(_leftovers(others))
            if table is None:
                continue  # every Service says so already
            frame = frame_nftables.NftFrame(table=table, family=family, version=config.version)
            self.observations.extend(frame_nftables.filter_hooks(frame))
            self.observations.extend(frame_nftables.lookups(frame))
            self.observations.extend(frame_nftables.idle_stops(frame, stops))
            self.observations.extend(frame_nftables.missing_stops(frame, stops))
            self.observations.extend(frame_nftables.rejecting(frame))
            if self.whole.known is not None:
                comparable = known is None or differs is not None
                self._nft_elements(frame, self.whole.known, reference if comparable else None)
                self._unused_ports(frame, view, asker, self.whole.known)
            forget(mine)

    def _nft_elements(
        self, frame: frame_nftables.NftFrame, known: frame_iptables.Known, reference: NftReference | None
    ) -> None:
        """What the elements of sets and maps alone decide: looked at once where they are those of the first node."""
        from ..checks import frame_nftables  # noqa: PLC0415 - as above

        for name, check in frame_nftables.ELEMENTS.items():
            named = frame.table.sets.get(name)
            elements = named.elements if named is not None else ()
            kept = reference.structural.get(name) if reference is not None else None
            if kept is not None and kept[0] is elements:
                self.observations.extend(kept[1])
                continue
            found = list(check(frame, name, known))
            self.observations.extend(found)
            if reference is not None and kept is None:
                reference.structural[name] = (elements, found)

    def _endpoints_here(self, reference: NftReference, view: NodeView) -> Mapping[str, set[str]]:
        """Protocol -> the endpoints of twins on this node, as address and port, where that makes a difference."""
        if not view.behaviour.hairpin_local_only:
            return {}
        if reference.local is None:
            found: dict[tuple[str, str | None], list[str]] = defaultdict(list)
            for service in self._programmed(view):
                if service.key not in reference.twins:
                    continue
                slices = self.whole.slices_of(service, legacy=not view.behaviour.reads_slices)
                for port in service.ports:
                    proto = port.protocol.value.lower()
                    for where, node in zip(*(plain_backends(slices, port, view.family) or ((), ())), strict=True):
                        found[proto, node].append(where)
            reference.local = {}
            for (proto, node), places in found.items():
                reference.local.setdefault((node or "").lower(), {}).setdefault(proto, set()).update(places)
        return reference.local.get(view.node.name.strip().lower(), {})

    def _nft_services_again(
        self, view: NodeView, asker: Asker, facts: Facts, reference: NftReference, differs: NftDifference
    ) -> frame_iptables.Stops:
        """Judge every Service on a further node: walk what differs, and of those that are alike one."""
        stops = frame_iptables.Stops()
        self._connections(view)
        asked = {service.key: service for service in self._programmed(view)}

        def walk(key: str) -> bool:
            slices = self.whole.slices_of(asked[key], legacy=not view.behaviour.reads_slices)
            noted = len(self.shares)
            right = self._walk(asked[key], slices, view, asker, NFTABLES, facts, stops)
            if right and key in reference.plain:
                self._told_as_twin(key, noted)
            return right

        for key in asked:
            if key not in reference.twins or key in differs.touched:
                walk(key)
        right: set[str] = set()
        shown: set[object] = set()
        """What ports of Services that were found right here are like."""
        for group, keys in sorted(differs.groups.items(), key=lambda item: -len(item[0])):  # those of several ports show more
            for n, key in enumerate(keys):
                if shown.issuperset(group):
                    right.update(keys[n:])
                    break
                if walk(key):
                    shown.update(group)
        self._take_over(right, reference, view)
        return stops

    def _unused_ports(self, frame: frame_nftables.NftFrame, view: NodeView, asker: Asker, known: frame_iptables.Known) -> None:
        """Ask for a port that the lowest and the highest cluster IP do not have, from everybody."""
        from ..checks import frame_nftables  # noqa: PLC0415 - as above

        addresses = sorted(a for a in known.cluster_ips if (a >> 32 != 0) == (view.family == 6))
        checked = frame.version >= (1, 30) and "cluster-ips-check" in frame.table.chains
        for address in dict.fromkeys((*addresses[:1], *addresses[-1:])) if checked else ():
            where = address_text(address, view.family)
            frontend = Frontend(where, Protocol.TCP, frame_nftables.UNUSED_PORT, FrontendKind.CLUSTER_IP)
            own = single(number(view.address)) if view.address else ()
            for client, sources in ((Client.POD, view.pods), (Client.OUTSIDE, view.outside), (Client.NODE, own)):
                if sources:
                    seen = asker.ask(frontend, sources, from_node=client is Client.NODE, from_pod=client is Client.POD)
                    self.observations.extend(frame_nftables.unused_ports(frame, client, seen))

    def _right_as_others(self, services: Iterable[str], view: NodeView) -> None:
        """Note what is known of Services whose rules are those of some that were walked and found right."""
        self.even.update(services)
        for code in ("*", "SR301", "SR302", "SR303"):
            self.translated[code, view.family].update(services)

    def _owners(self) -> dict[str, str]:
        """Chain -> Service, for all that is expected; made only when a chain needs an owner."""
        found: dict[str, str] = {}
        for service in self.whole.services:
            slices = self.whole.slices_of(service)
            for port in service.ports:
                backends = [Backend(e.address, n.port) for piece in slices for n in piece.ports for e in piece.endpoints]
                found.update(_chains_of(service, port, backends))
        return found

    def view(self, family: int, config: ProxyConfig, think: Behaviour) -> NodeView:
        """What expectations on this node depend on."""
        whole = self.whole
        ips = self.node.ips(family)
        local = union([*(single(number(a)) for a in ips), LOOPBACK[family], *self._interface_addresses(family)])
        mine = union(network(c) for c in self.node.pod_cidrs if (":" in c) == (family == 6))
        running = union(single(number(ip)) for ip in whole.state.pod_ips.get(self.node.name, ()) if (":" in ip) == (family == 6))
        clusters = union(network(c) for c in config.cluster_cidrs if (":" in c) == (family == 6))
        pods = subtract(union((mine, running)) or clusters or whole.all_pods[family], union((local, whole.node_ips[family])))
        networks = subtract(
            union((clusters, whole.pod_cidrs[family], whole.all_pods[family])), union((local, whole.node_ips[family]))
        )
        outside = subtract(
            ALL[family],
            union((never_clients(family), networks, clusters, whole.pod_cidrs[family], whole.node_ips[family], local)),
        )
        return NodeView(
            node=self.node,
            family=family,
            behaviour=think,
            config=config,
            detector=detector_of(config, self.node, family),
            local=local,
            address=ips[0] if ips else "",
            pods=pods,
            outside=outside,
            pod_networks=networks,
        )

    def _interface_addresses(self, family: int) -> list[Ranges]:
        """The addresses of the node's interfaces, where `ip -o addr` was read."""
        text = self.dump.files.get("addresses.txt", "")
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

    @staticmethod
    def asker(view: NodeView, hooks: Hooks) -> Asker:
        """The node's rules, ready to be asked."""
        patterns = frozenset([view.detector.pattern]) if view.detector.pattern else frozenset[str]()
        return Asker(
            hooks=hooks,
            context=NodeContext(family=view.family, local=view.local, pod_networks=view.pod_networks),
            pod_side=Interface(fits=patterns, not_fits=frozenset({"lo"})),
            uplink=Interface(not_fits=patterns | {"lo"}),
        )

    def _port(self, plan: PortPlan, view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts) -> None:
        service = plan.service.key
        config = view.config

        def chains(backend: Backend) -> frozenset[str]:
            if view.behaviour.nftables:
                svc, port_ = plan.service, plan.port
                name = nft_endpoint(svc.namespace, svc.name, port_.name, port_.protocol, backend.address, backend.port)
                return frozenset(("endpoint-" + name,))
            return frozenset(
                "KUBE-SEP-"
                + endpoint_hash(
                    plan.service.namespace,
                    plan.service.name,
                    plan.port.name,
                    plan.port.protocol,
                    backend.address,
                    backend.port,
                    colon=colon,
                )
                for colon in (False, True)
            )

        for expectation in plan.expectations:
            text = str(expectation.frontend)
            if text not in self.frontends[service]:
                self.frontends[service].append(text)
            if expectation.action is Action.TRANSLATE:
                self.translated["*", view.family].add(service)
                if expectation.client is Client.HAIRPIN:
                    if not expectation.lenient_masquerade.issuperset(expectation.backends):  # an endpoint is here
                        self.translated["SR302", view.family].add(service)
                elif expectation.frontend.kind is FrontendKind.CLUSTER_IP:
                    self.translated["SR301" if expectation.masquerade == "always" else "SR303", view.family].add(service)
            from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
            observed = asker.ask(expectation.frontend, expectation.sources, from_node=expectation.from_node, from_pod=from_pod)
            case = Case(
                plan=plan,
                expectation=expectation,
                observed=observed,
                landmarks=landmarks,
                facts=facts,
                pod_networks=view.pod_networks,
                tolerance=view.behaviour.share_tolerance,
                mark=1 << config.masquerade_bit,
                clears_mark=view.behaviour.clears_mark,
                endpoint_chain=chains,
            )
            for result in compare(case):
                if isinstance(result, Observation):
                    self.observations.append(result)
                else:
                    self._not_sure(result)
            self._note_shares(plan, expectation, observed, view)

    def _not_sure(self, unsure: Unsure) -> None:
        key = (unsure.code, unsure.service, unsure.reason)
        first, count = self.unsure.get(key, (unsure, 0))
        self.unsure[key] = (first, count + 1)
        self.unverified_services.add(unsure.service)

    def _note_shares(self, plan: PortPlan, expectation: Expectation, observed: Observed, view: NodeView) -> None:
        """Keep what the table shows: a pod's shares on the cluster IP (the node's own where it can have no pods)."""
        wanted_client = Client.POD if view.pods else Client.NODE
        if expectation.frontend.kind is not FrontendKind.CLUSTER_IP or expectation.client is not wanted_client:
            return
        service, port = plan.service.key, str(plan.port)
        got: dict[Backend, float] = {}
        atom = observed.atoms[0]
        for leg, share in atom.shares.items():
            if leg.backend is not None:
                got[leg.backend] = got.get(leg.backend, 0.0) + share
        fair = 1 / len(expectation.backends) if expectation.action is Action.TRANSLATE else 0.0
        for backend in {*got, *expectation.backends}:
            key = (service, port, backend)
            self.shares[key] = got.get(backend, 0.0)
            should = fair if backend in expectation.backends else 0.0
            if abs(got.get(backend, 0.0) - should) > 1e-4 + 2 * view.behaviour.share_tolerance:
                self.wrong.add(key)
        if service not in self.ways and atom.ends:
            self.ways[service] = tuple(dict.fromkeys(step.rule for step in atom.ends[0].way))

    def _tracked(self) -> dict[str, int]:
        """How full the connection-tracking table is, where connections were asked about."""
        names = {"tracked": "net.netfilter.nf_conntrack_count", "tracked_most": "net.netfilter.nf_conntrack_max"}
        if not self.whole.selection.conntrack:
            return {}
        return {key: int(self.sysctl[name]) for key, name in names.items() if self.sysctl.get(name, "").isdigit()}

    # ---- the result -------------------------------------------------------------------------------------------------

    def _result(self, config: ProxyConfig | None, think: Behaviour | None) -> NodeResult:
        for (code, service, reason), (first, count) in self.unsure.items():
            more = f" ({count} of its addresses and clients)" if count > 1 else ""
            self.unverified.append(
                Unverified(
                    code=code,
                    node=self.node.name,
                    service=service,
                    reason=f"{first.frontend} from {first.client}: {reason}{more}",
                    evidence=first.evidence,
                )
            )
        findings: list[Finding] = []
        if think is not None and config is not None:
            healing = Healing(
                rewrites_always=think.rewrites_always,
                hourly=think.hourly_full_sync,
                version=config.version,
                large=bool(self.observations) and self.whole.large,
                nftables=think.nftables,
            )
            findings = roll_up(
                self.node.name,
                self.observations,
                heals=healing.of,
                services_expected={key: len(names) for key, names in self.translated.items()},
            )
        version = f"{config.version[0]}.{config.version[1]}" if config else ""
        return NodeResult(
            row=NodeRow(
                node=self.node.name,
                verified=not self.unverified,
                mode=self.mode,
                version=version,
                via=self.dump.via,
                errors=sum(f.severity is Severity.ERROR for f in findings),
                warnings=sum(f.severity is Severity.WARNING for f in findings),
                **self._tracked(),
            ),
            findings=tuple(findings),
            unverified=tuple(self.unverified),
            shares=self.shares,
            wrong=frozenset(self.wrong),
            even=self.whole.alike.names(self.even),
            unverified_services=frozenset(self.unverified_services),
            ways=self.ways,
            frontends=self.whole.alike.frontends(self.node.name, self.frontends, like_first=self.like_first),
            notes=tuple(self.notes),
            sync=self.sync,
        )


def _chains_of(service: Service, port: ServicePort, backends: Iterable[Backend]) -> dict[str, str]:
    """The chains of one Service port -> the Service, under both spellings of an unnamed port."""
    found = {}
    for colon in (False, True):
        hashed = service_hash(service.namespace, service.name, port.name, port.protocol, colon=colon)
        for prefix in ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-"):
            found[prefix + hashed] = service.key
        for backend in backends:
            name = endpoint_hash(
                service.namespace, service.name, port.name, port.protocol, backend.address, backend.port, colon=colon
            )
            found["KUBE-SEP-" + name] = service.key
    return found
