"""kube-proxy in nftables mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache

from ..checks import frame_iptables, frame_nftables, unused_ports
from ..checks.case import Facts
from ..checks.landmarks import NFTABLES
from ..checks.observation import Observation
from ..expect.endpoints import plain_backends
from ..expect.routes import NodeView
from ..model.nft import NftRules, TableKey
from ..model.ranges import number, single
from ..model.routes import Client
from ..model.ruleset import IptablesRules
from ..observe.hook_order import merge
from ..observe.iptables import base_chains as iptables_base_chains
from ..observe.nftables import base_chains, forget
from ..sharing.eligible import Alike
from ..sharing.nftables import NftTwins
from ..sharing.reference_nft import NftReference
from .ask_port import Ground
from .files import why_absent
from .iptables_rules import IptablesReader, other_chains
from .nft_rules import NFT_FILES, read_nft
from .services import on_first_node, on_later_nft_node
from .subject import Subject
from .view import asker


class NftablesPlane:
    """One node's kube-proxy in nftables mode."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.reader = IptablesReader(subject)
        self.rules = self._read()

    def _read(self) -> NftRules | None:
        """kube-proxy's tables, and whatever else is in the same file; None (with the reason) when not readable."""
        dump, ledger = self.subject.dump, self.subject.ledger
        if not any(file in dump.files for file in NFT_FILES):
            why = why_absent(dump, "nft-ruleset.json") or "its tables were not read"
            ledger.cannot("SR902", f"nft-ruleset.json is not there: kube-proxy runs in nftables mode, and {why}")
            return None
        first = next(iter(self.subject.context.memory.nft_references.values()), None)
        return read_nft(self.subject, like=first.rules if first is not None else None)

    def tables(self) -> Collection[tuple[str, str]] | None:
        """The tables that were read; see `DataPlane`."""
        return self.rules.tables if self.rules is not None else None

    def open(self, family: int, *, asked: bool) -> NftablesFamily | None:
        """The rules of a family; see `DataPlane`."""
        if self.rules is None:
            return None
        # iptables' tables beside kube-proxy's see the same packets: a CNI's, a firewall's, or leftovers.
        beside = self.reader.every(family, asked=asked)
        return NftablesFamily(self.subject, family, self.rules, beside, self.reader.printed.get(family, set())) if asked else None

    def printed(self) -> Collection[int]:
        """The families of which iptables-nft's rules were read; see `DataPlane`."""
        return [family for family, tables in self.reader.printed.items() if tables]


class NftablesFamily:
    """The rules of one family: kube-proxy's table, and what iptables has beside it."""

    def __init__(
        self, subject: Subject, family: int, rules: NftRules, beside: Sequence[IptablesRules], printed: Collection[TableKey]
    ) -> None:
        """`beside`: iptables' backends; `printed`: the tables that are walked as theirs."""
        self.subject = subject
        self.family = family
        self.rules = rules
        self.beside = beside
        self.others = others = [one for one in beside if not one.idle]
        """Those that packets meet."""
        context = subject.context
        view = subject.view(family)
        self.table = table = frame_nftables.proxy_table(rules, family)
        self.known = context.memory.nft_references.get(family) if context.worth_comparing else None
        """The first node, if this is a later one."""
        self.differs = None
        if self.known is not None:
            here = self._endpoints_here(self.known, view)
            self.differs = self.known.compare(rules, others, subject.config, view, here)
        self.reference = self.known
        self.chains = base_chains(rules, family, skip_tables=printed)
        self.ground = Ground(
            view=view,
            asker=asker(view, merge([self.chains, *(iptables_base_chains(other) for other in others)]), NFTABLES),
            landmarks=NFTABLES,
            facts=Facts(
                services_programmed=frame_nftables.services_programmed(table),
                own_chains=table is not None and any(map(NFTABLES.of_service, table.chains)),
                node_ports_programmed=frame_nftables.node_ports_programmed(table),
                node_port_lookup=table is not None and "service-nodeports" in frame_nftables.looked_up(table, "services"),
                node_port_ips=frame_nftables.node_port_ips(table),
                hairpin_rule=frame_nftables.hairpin_rule(table, subject.config.version),
                hooks=frame_nftables.hooks(table),
                chains=cache(lambda: other_chains(others)),
            ),
        )

    def _endpoints_here(self, reference: NftReference, view: NodeView) -> Mapping[str, set[str]]:
        """Protocol -> the endpoints of twins on this node, as address and port, where that makes a difference."""
        if not view.behaviour.hairpin_local_only:
            return {}
        if reference.local is None:
            found: dict[tuple[str, str | None], list[str]] = defaultdict(list)
            for service in self.subject.programmed():
                if service.key not in reference.twins:
                    continue
                slices = self.subject.slices_of(service)
                for port in service.ports:
                    proto = port.protocol.value.lower()
                    for where, node in zip(*(plain_backends(slices, port, view.family) or ((), ())), strict=True):
                        found[proto, node].append(where)
            reference.local = {}
            for (proto, node), places in found.items():
                reference.local.setdefault((node or "").lower(), {}).setdefault(proto, set()).update(places)
        return reference.local.get(view.node.name.strip().lower(), {})

    def audit_services(self) -> frame_iptables.Stops:
        """Audit every Service asked for; see `FamilyRules`."""
        if self.known is not None and self.differs is not None:
            return on_later_nft_node(self.subject, self.ground, self.known, self.differs)
        context, view = self.subject.context, self.ground.view
        alike = None
        if context.worth_comparing:
            cells = (view.detector.pods, view.pod_networks)
            twins = NftTwins(self.rules, self.table, self.others, cells=cells, local=view.local)
            alike = Alike(twins, view) if twins.usable else None
            if alike is not None and self.known is None and self.table is not None and not context.alone:
                self.reference = alike.reference = NftReference(
                    self.rules, self.table, self.others, self.subject.config, view, twins.models
                )
        return on_first_node(self.subject, self.ground, alike)

    def frame_checks(self, stops: frame_iptables.Stops) -> None:
        """Note what is wrong outside of the Services' own rules; see `FamilyRules`."""
        subject = self.subject
        observations = subject.ledger.observations
        observations.extend(_leftovers(self.beside))
        if self.table is None:
            return  # every Service says so already
        frame = frame_nftables.NftFrame(table=self.table, family=self.family, version=subject.config.version)
        observations.extend(frame_nftables.filter_hooks(frame))
        observations.extend(frame_nftables.lookups(frame))
        observations.extend(frame_nftables.idle_stops(frame, stops))
        observations.extend(frame_nftables.missing_stops(frame, stops))
        observations.extend(frame_nftables.rejecting(frame))
        observations.extend(frame_nftables.affinity_sets(self.table, {service.key for service in subject.context.services}))
        if subject.context.known is not None:
            self._elements(frame, subject.context.known)
            self._unused_ports(frame, subject.context.known)

    def _elements(self, frame: frame_nftables.NftFrame, known: frame_iptables.Known) -> None:
        """What the elements of sets and maps alone decide: looked at once where they are those of the first node."""
        reference = self.reference if self.known is None or self.differs is not None else None
        observations = self.subject.ledger.observations
        for name, check in frame_nftables.ELEMENTS.items():
            named = frame.table.sets.get(name)
            elements = named.elements if named is not None else ()
            kept = reference.structural.get(name) if reference is not None else None
            if kept is not None and kept[0] is elements:
                observations.extend(kept[1])
                continue
            found = list(check(frame, name, known))
            observations.extend(found)
            if reference is not None and kept is None:
                reference.structural[name] = (elements, found)

    def _unused_ports(self, frame: frame_nftables.NftFrame, known: frame_iptables.Known) -> None:
        """Ask about ports that cluster IPs do not have, from everybody."""
        view, ledger = self.ground.view, self.subject.ledger
        asked = unused_ports.questions(frame, known)
        if asked is None:
            ledger.not_verified("SR903", "the rules distinguish more unused ports of cluster IPs than can be asked about")
            return
        own = single(number(view.address)) if view.address else ()
        for frontend in asked:
            for client, sources in ((Client.POD, view.pods), (Client.OUTSIDE, view.outside), (Client.NODE, own)):
                if sources:
                    seen = self.ground.asker.ask(
                        frontend, sources, from_node=client is Client.NODE, from_pod=client is Client.POD
                    )
                    ledger.observations.extend(unused_ports.unused_ports(frame, client, seen))

    def close(self) -> None:
        """Remember the first node, and let go of the chains that were taken apart; see `FamilyRules`."""
        if self.known is None and self.reference is not None:
            self.subject.context.memory.nft_references[self.family] = self.reference
        forget(self.chains)


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
            place="mode",
        )
