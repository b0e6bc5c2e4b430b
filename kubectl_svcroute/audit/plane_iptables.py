"""kube-proxy in iptables mode."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ..checks import affinity_lists, frame_iptables
from ..checks.case import Facts
from ..checks.landmarks import IPTABLES
from ..expect.names import endpoint_hash, service_hash
from ..expect.routes import NodeView
from ..model.cluster import Service, ServicePort
from ..model.fast_dataclass import replace
from ..model.net import Backend
from ..model.ranges import intersect, network, subtract, union
from ..model.ruleset import IptablesRules
from ..observe.hook_order import merge
from ..observe.hooks import BaseChain
from ..observe.iptables import base_chains
from ..sharing.eligible import Alike
from ..sharing.iptables import Twins
from ..sharing.reference import Reference
from .ask_port import Ground
from .context import ClusterContext
from .iptables_rules import Changed, IptablesReader, other_chains
from .nft_rules import read_nft
from .services import on_first_node, on_later_node
from .subject import Subject
from .view import asker

if TYPE_CHECKING:
    from ..model.nft import NftRules, TableKey

NftChains = Mapping[str, Sequence[BaseChain]]
"""Hook -> the base chains of nftables tables there."""


class IptablesPlane:
    """One node's kube-proxy in iptables mode."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.reader = IptablesReader(subject)
        self.nft = read_nft(subject)
        """Tables of other programs, and what kube-proxy has left of its own."""

    def tables(self) -> Collection[tuple[str, str]] | None:
        """The nftables tables of the same reading; see `DataPlane`."""
        return self.nft.tables if self.nft is not None else ()

    def open(self, family: int, *, asked: bool) -> IptablesFamily | None:
        """The rules of a family; see `DataPlane`."""
        if not asked:
            self.reader.every(family, asked=False)
            return None
        sources = self.reader.of_proxy(family)
        beside = _nft_chains(self.nft, family, self.reader.printed[family]) if self.nft is not None else {}
        return IptablesFamily(self.subject, family, sources, self.reader.changed.get(family), beside) if sources else None

    def printed(self) -> Collection[int]:
        """The families of which iptables-nft's rules were read; see `DataPlane`."""
        return [family for family, tables in self.reader.printed.items() if tables]


def _nft_chains(rules: NftRules, family: int, printed: Collection[TableKey]) -> NftChains:
    """The base chains of nftables tables beside iptables' own, which were `printed` as such."""
    from ..observe.nftables import base_chains as nft_base_chains  # noqa: PLC0415 - few nodes in iptables mode have such tables

    return nft_base_chains(rules, family, skip_tables=printed)


class IptablesFamily:
    """The rules of one family: kube-proxy's backend first, then the other."""

    def __init__(
        self, subject: Subject, family: int, sources: Sequence[IptablesRules], changed: Changed | None, beside: NftChains
    ) -> None:
        """`changed`: what is not as on the first node; None where that is not known. `beside`: nftables' chains on the path."""
        self.subject = subject
        self.family = family
        self.rules = rules = sources[0]
        self.beside = beside
        self.others = sources[1:]
        self.alone = not self.others and not beside
        self.changed = changed
        memory = subject.context.memory
        self.reference = memory.references.get(family) if self.alone and changed is not None else None
        self.masquerading = self._masquerading(sources)
        view = self._view(sources)
        self.differs = None
        if self.reference is not None and changed is not None:
            self.differs = self.reference.compare(rules, changed, subject.config, view)
        self.same = self.differs is not None and not self.differs.rules
        hooks = self.reference.hooks if self.reference and self.same else merge([*map(base_chains, sources), beside])
        self.ground = Ground(
            view=view,
            asker=asker(view, hooks, IPTABLES),
            landmarks=IPTABLES,
            facts=Facts(
                services_programmed=frame_iptables.services_programmed(rules),
                own_chains=frame_iptables.programmed(rules),
                node_ports_programmed=frame_iptables.node_ports_programmed(rules),
                hooks=frame_iptables.hooks(rules),
                chains=cache(lambda: other_chains(sources)),
            ),
        )
        self.alike: Alike | None = None
        self.made: Reference | None = None
        """What later nodes are compared with, if this is the first one."""

    def _masquerading(self, sources: Sequence[IptablesRules]) -> list[list[str]]:
        """Of each source, the chains of table nat that masquerade."""
        if self.reference is None or self.changed is None:
            return [[*frame_iptables.masquerading(rules)] for rules in sources]
        return [[*self.reference.masquerading, *(chain for table, chain in self.changed if table == "nat")]]

    def _view(self, sources: Sequence[IptablesRules]) -> NodeView:
        """The node, without the networks of its own bridges (docker0) among those outside."""
        view = self.subject.view(self.family)
        bridged = [
            network(net)
            for rules, chains in zip(sources, self.masquerading, strict=True)
            for net in frame_iptables.bridged_networks(rules, chains)
        ]
        if bridged := [net for net in bridged if not intersect(net, view.pod_networks)]:
            return replace(view, outside=subtract(view.outside, union(bridged)))
        return view

    def audit_services(self) -> frame_iptables.Stops:
        """Audit every Service asked for; see `FamilyRules`."""
        if self.reference is not None and self.differs is not None:
            return on_later_node(self.subject, self.ground, self.reference, self.differs)
        context, view = self.subject.context, self.ground.view
        if not self.beside and context.worth_comparing:
            cells = (view.detector.pods, view.pod_networks)
            twins = Twins(self.rules, cells=cells, local=view.local, others=self.others)
            self.alike = Alike(twins, view) if twins.usable else None
            first = self.alone and self.family not in context.memory.references and self.changed == frozenset()
            if first and self.alike is not None:
                self.made = self.alike.reference = Reference(
                    rules=self.rules, config=self.subject.config, view=view, entries=twins.entries, cells=twins.cells,
                    hooks=self.ground.asker.hooks, masquerading=self.masquerading[0],
                )  # fmt: skip
        return on_first_node(self.subject, self.ground, self.alike)

    def frame_checks(self, stops: frame_iptables.Stops) -> None:
        """Note what is wrong outside of the Services' own rules; see `FamilyRules`."""
        subject, view = self.subject, self.ground.view
        observations = subject.ledger.observations
        mangle = self.rules.tables.get("mangle")
        if mangle is not None and "KUBE-PROXY-CANARY" not in mangle.chains:
            subject.ledger.canary_gone = True
        frame = frame_iptables.Frame(
            rules=self.rules,
            version=subject.config.version,
            localhost_node_ports=subject.behaviour.localhost_node_ports,
            route_localnet={"0": False, "1": True}.get(subject.sysctl.get("net.ipv4.conf.all.route_localnet", "")),
            detects_cidr=view.detector.kind == "cidr",
            dual_stack_services=True,
        )
        for check in (
            frame_iptables.filter_hooks, frame_iptables.forward_chain, frame_iptables.localnet_guard, frame_iptables.canaries,
        ):  # fmt: skip
            observations.extend(check(frame))
        observations.extend(frame_iptables.idle_stops(frame, stops))
        if self.same and self.reference is not None:
            observations.extend(self.reference.structural)
            return
        found = [*affinity_lists.of_iptables((self.rules, *self.others), lambda: _owners(subject.context))]
        if subject.context.known is not None:
            found += [
                *frame_iptables.duplicates(frame, lambda: _owners(subject.context)),
                *frame_iptables.leftover_chains(frame, self.alike.covered if self.alike is not None else frozenset()),
                *frame_iptables.deleted_services(frame, subject.context.known),
            ]
        observations.extend(found)
        if self.made is not None:
            self.made.structural = found

    def close(self) -> None:
        """Remember the first node; see `FamilyRules`."""
        if self.made is not None:
            self.subject.context.memory.references[self.family] = self.made
        if self.beside:
            from ..observe.nftables import forget  # noqa: PLC0415 - as above

            forget(self.beside)


def _owners(context: ClusterContext) -> dict[str, str]:
    """Chain -> Service, for all that is expected; made only when a chain needs an owner."""
    found: dict[str, str] = {}
    for service in context.services:
        slices = context.slices_of(service)
        for port in service.ports:
            backends = [Backend(e.address, n.port) for piece in slices for n in piece.ports for e in piece.endpoints]
            found.update(_chains_of(service, port, backends))
    return found


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
