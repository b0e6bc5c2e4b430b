"""What a walk does not show of nftables mode: entries for Services that are gone, and the frame around kube-proxy's maps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from ..model.fast_dataclass import dataclass
from ..model.net import canonical_ip
from ..model.nft import Decide, Element, LazyChains, Match, NftRules, NftTable, Reject, Rule, SetRef, Update, VerdictMap
from ..model.nft_elements import NUMBER, PROTOCOL, PlainElements
from ..model.ranges import number
from ..model.report import Severity
from ..model.routes import Action
from .affinity_lists import observation
from .frame_iptables import Known, Stops
from .observation import Observation

_SERVICE_CHAIN = re.compile(r"(?:service|local|external)-[A-Z0-9]+-([^/]+/[^/]+)/")
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NftFrame:
    """kube-proxy's table of one family on one node, and what its checks depend on."""

    table: NftTable
    family: int
    version: tuple[int, int]

    @property
    def name(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self.family}"


def proxy_table(rules: NftRules, family: int) -> NftTable | None:
    """kube-proxy's table of a family; None when it is not there."""
    return rules.tables.get(("ip" if family == 4 else "ip6", "kube-proxy"))


def services_programmed(table: NftTable | None) -> int:
    """Elements that lead from an address to a Service's chain."""
    if table is None or "service-ips" not in looked_up(table, "services"):
        return 0
    found = table.sets.get("service-ips")
    return len(found.elements) if found is not None else 0


def node_ports_programmed(table: NftTable | None) -> int:
    """Elements that lead from a node port to a Service's chain."""
    found = table.sets.get("service-nodeports") if table is not None else None
    return len(found.elements) if found is not None else 0


def node_port_ips(table: NftTable | None) -> frozenset[str] | None:
    """The set nodeport-ips, where the lookup of node ports asks for it."""
    services = table.chains.get("services") if table is not None else None
    found = table.sets.get("nodeport-ips") if table is not None else None
    if services is None or found is None or not any("@nodeport-ips" in str(rule) for rule in services.rules):
        return None
    return frozenset(str(element.key[0]) for element in found.elements if len(element.key) == 1)


def looked_up(table: NftTable, chain: str) -> set[str]:
    """The maps that the rules of a chain look packets up in."""
    found = table.chains.get(chain)
    statements = [s for rule in (found.rules if found else ()) for s in rule.statements]
    return {s.data.name for s in statements if isinstance(s, VerdictMap) and isinstance(s.data, SetRef)}


def hairpin_rule(table: NftTable | None, version: tuple[int, int]) -> bool | None:
    """From 1.36: whether the masquerade chain asks for the connections of pods to themselves. None for older ones."""
    if table is None or version < (1, 36):
        return None
    chain = table.chains.get("masquerading")
    return chain is not None and any("@hairpin-connections" in str(rule) for rule in chain.rules)


def hooks(table: NftTable | None) -> frozenset[tuple[str, str]]:
    """(hook, chain of kube-proxy) of each jump out of its base chains, in iptables' names of the hooks."""
    if table is None:
        return frozenset()
    return frozenset(
        (chain.hook.upper(), target) for chain in table.based for target in jumps(table, chain.name)
    )


def jumps(table: NftTable, chain: str) -> set[str]:
    """The chains that the rules of a chain jump or go to."""
    found = table.chains.get(chain)
    if found is None:
        return set()
    return {s.target for rule in found.rules for s in rule.statements if isinstance(s, Decide) and s.target}


def filter_hooks(frame: NftFrame) -> Iterator[Observation]:
    """The jumps from filter hooks, as 1.30 and later write them (kube-proxy-rules.md, 5.3)."""
    if frame.version < (1, 30):
        return
    wanted = [
        ("INPUT", "nodeport-endpoints-check"), ("INPUT", "service-endpoints-check"),
        ("FORWARD", "service-endpoints-check"), ("OUTPUT", "service-endpoints-check"),
        ("FORWARD", "cluster-ips-check"), ("OUTPUT", "cluster-ips-check"),
        ("PREROUTING", "firewall-check"), ("OUTPUT", "firewall-check"),
    ]  # fmt: skip
    present = hooks(frame.table)
    for hook, chain in wanted:
        if (hook, chain) not in present:
            yield Observation(
                code="SR608",
                node_wide=True,
                service=None,
                key=f"{hook} {chain}",
                message=f"hook {hook.lower()} no longer jumps to {chain} ({frame.name})",
                evidence=tuple(
                    str(rule) for found in frame.table.based if found.hook.upper() == hook for rule in found.rules
                )[:4],
                place=f"hook:{hook}",
            )


def lookups(frame: NftFrame) -> Iterator[Observation]:
    """The chains that look packets up in kube-proxy's maps have to do so."""
    if frame.version < (1, 30):
        return
    wanted = (
        ("service-endpoints-check", "no-endpoint-services", "packets to Services without endpoints are not rejected"),
        ("nodeport-endpoints-check", "no-endpoint-nodeports", "packets to node ports without endpoints are not rejected"),
        ("firewall-check", "firewall-ips", "source ranges are not enforced"),
    )
    for chain, name, effect in wanted:
        found = frame.table.chains.get(chain)
        if name not in looked_up(frame.table, chain):
            yield Observation(
                code="SR608", node_wide=True, service=None, key=chain,
                message=f"chain {chain} no longer looks packets up in {name} ({frame.name}): {effect}",
                evidence=tuple(str(rule) for rule in (found.rules if found else ())), place="hook",
            )  # fmt: skip
    check = frame.table.chains.get("cluster-ips-check")
    if check is not None and not any("@cluster-ips" in str(rule) and "reject" in str(rule) for rule in check.rules):
        yield Observation(
            code="SR608", node_wide=True, service=None, key="cluster-ips-check",
            message=f"chain cluster-ips-check no longer rejects packets to unused ports of cluster IPs ({frame.name})",
            evidence=tuple(str(rule) for rule in check.rules), place="fixed",
        )  # fmt: skip


def rejecting(frame: NftFrame) -> Iterator[Observation]:
    """The chain that every map element for a Service without endpoints goes to has to reject."""
    chain = frame.table.chains.get("reject-chain")
    if chain is None or not any(isinstance(s, Reject) for rule in chain.rules for s in rule.statements):
        yield Observation(
            code="SR608", node_wide=True, service=None, key="reject-chain",
            message=f"chain reject-chain no longer rejects ({frame.name}): packets to Services without endpoints pass",
            evidence=tuple(str(rule) for rule in (chain.rules if chain else ())), place="hook:",
        )  # fmt: skip


def missing_stops(frame: NftFrame, stops: Stops) -> Iterator[Observation]:
    """Elements that should stand for addresses at which nobody is served.

    A cluster IP is rejected without one too, by cluster-ips-check; so that alone harms nobody yet.
    """
    if frame.version < (1, 30):
        return
    held = {tuple(map(str, e.key)) for e in _elements(frame.table, "no-endpoint-services")}
    known = {(_address(key[0]), _proto(key[1]), _port(key[2])) for key in held if len(key) == 3}
    for (address, proto, port), (service, actions) in sorted(stops.addresses.items()):
        if (address >> 32 != 0) != (frame.family == 6) or not actions <= {Action.REJECT, Action.DROP}:
            continue
        if (address, proto, port) not in known:
            yield Observation(
                code="SR403", node_wide=False, service=service, key="map",
                message=f"map no-endpoint-services lacks the Service's port {port}/{proto.upper()}, which has no endpoint here",
                evidence=(f"map no-endpoint-services of table {frame.table.label}",), severity=Severity.WARNING, place="fixed",
            )  # fmt: skip


def cluster_ips(frame: NftFrame, name: str, known: Known) -> Iterator[Observation]:
    """From 1.30 the set cluster-ips holds every active cluster IP: packets to their unused ports are rejected by it."""
    found = frame.table.sets.get(name)
    if found is None or frame.version < (1, 30):
        return
    keys = found.elements.keys if isinstance(found.elements, PlainElements) else [element.key for element in found.elements]
    held = {_address(key[0]) for key in keys if len(key) == 1}
    for address, service in sorted(known.cluster_ips.items()):
        if (address >> 32 != 0) == (frame.family == 6) and address not in held:
            yield Observation(
                code="SR403", node_wide=False, service=service, key="cluster-ips",
                message="its cluster IP is not in the set cluster-ips: packets to ports that it does not have are not rejected",
                evidence=(f"set cluster-ips of table {frame.table.label}",), severity=Severity.WARNING, place="fixed",
            )  # fmt: skip


def deleted_services(frame: NftFrame, name: str, known: Known) -> Iterator[Observation]:
    """Map elements for an address and port that no Service has."""
    elements = _elements(frame.table, name)
    if isinstance(elements, PlainElements) and elements.kinds[1:] == (PROTOCOL, NUMBER):
        # Those that a Service has need not be made.
        odd = [n for n, key in enumerate(elements.keys) if (_address(key[0]), *key[1:]) not in known.addresses]
        elements = [elements[n] for n in odd]
    for element in elements:
        if len(element.key) != 3:
            continue
        address, proto, port = _address(element.key[0]), _proto(element.key[1]), _port(element.key[2])
        if address is None or port is None or (address, proto, port) in known.addresses:
            continue
        service = known.ips.get(address)
        owner = service or _owner(element)
        says = f"Service {service} has no such port" if service else "no Service of the API has it"
        yield Observation(
            code="SR411" if service else "SR501", node_wide=owner is None, service=owner, key=f"{address} {proto} {port}",
            message=f"map {name} has {element.key[0]} port {port}/{proto.upper()}, and {says}",
            evidence=(str(element),), place="fixed",
        )  # fmt: skip


def deleted_node_ports(frame: NftFrame, name: str, known: Known) -> Iterator[Observation]:
    """Map elements for a node port that no Service has."""
    for element in _elements(frame.table, name):
        if len(element.key) != 2:
            continue
        proto, port = _proto(element.key[0]), _port(element.key[1])
        if port is None or (proto, port) in known.node_ports:
            continue
        owner = _owner(element)
        yield Observation(
            code="SR501", node_wide=owner is None, service=owner, key=f"{proto} {port}",
            message=f"map {name} has node port {port}/{proto.upper()}, and no Service of the API has it",
            evidence=(str(element),), place="fixed",
        )  # fmt: skip


ELEMENTS: dict[str, Callable[[NftFrame, str, Known], Iterator[Observation]]] = {
    "service-ips": deleted_services, "no-endpoint-services": deleted_services, "firewall-ips": deleted_services,
    "service-nodeports": deleted_node_ports, "no-endpoint-nodeports": deleted_node_ports, "cluster-ips": cluster_ips,
}  # fmt: skip
"""Set or map -> the check that its elements alone decide."""


def idle_stops(frame: NftFrame, stops: Stops) -> Iterator[Observation]:
    """Elements that reject or drop where nobody should be stopped (kubernetes/kubernetes#131765)."""
    for element in _elements(frame.table, "no-endpoint-services"):
        if len(element.key) != 3:
            continue
        address, proto, port = _address(element.key[0]), _proto(element.key[1]), _port(element.key[2])
        known = stops.addresses.get((address, proto, port)) if address is not None and port is not None else None
        where = f"{element.key[0]} port {port}/{proto.upper()}"
        yield from _idle("no-endpoint-services", element, known, where)
    for element in _elements(frame.table, "no-endpoint-nodeports"):
        if len(element.key) != 2:
            continue
        proto, port = _proto(element.key[0]), _port(element.key[1])
        known = stops.node_ports.get((proto, port)) if port is not None else None
        yield from _idle("no-endpoint-nodeports", element, known, f"node port {port}/{proto.upper()}")


def _idle(name: str, element: Element, known: tuple[str, set[Action]] | None, where: str) -> Iterator[Observation]:
    if known is None or known[1] & {Action.REJECT, Action.DROP}:
        return
    yield Observation(
        code="SR401", node_wide=False, service=known[0], key=f"idle {where}",
        message=f"map {name} stops packets for {where}, which has usable endpoints",
        observed="packets that are translated first do not meet it", severity=Severity.WARNING,
        evidence=(str(element),), place="fixed",
    )  # fmt: skip


def affinity_sets(table: NftTable, services: Collection[str]) -> Iterator[Observation]:
    """Rules that change a set of clients from elsewhere than its endpoint's chain. `services`: those asked for."""
    if not any(named.runtime for named in table.sets.values()):
        return
    readers: dict[str, dict[str, str]] = defaultdict(dict)
    writers: list[tuple[Update, str, Rule]] = []
    for chain in _using_sets(table):
        for rule in table.chains[chain].rules:
            targets = [s.target for s in rule.statements if isinstance(s, Decide) and s.target.startswith("endpoint-")]
            for statement in rule.statements:
                if isinstance(statement, Update):
                    writers.append((statement, chain, rule))
                elif isinstance(statement, Match) and isinstance(statement.right, SetRef):
                    readers[statement.right.name].update(dict.fromkeys(targets, chain))
    for update, chain, rule in writers:
        if update.set not in readers or (update.op == "update" and chain in readers[update.set]):
            continue
        does = "removes clients from" if update.op == "delete" else "enters clients in"
        for endpoint, reader in readers[update.set].items():
            says = f"chain {chain} {does} the affinity set of {endpoint}"
            if chain == endpoint and update.op == "add":
                says = f"chain {chain} adds clients to its affinity set, and does not renew the time of those that are in it"
            found = _SERVICE_CHAIN.match(reader)
            if found and found[1] in services:
                yield observation(found[1], says, str(rule))


def _using_sets(table: NftTable) -> Iterator[str]:
    """The chains that may look up or change an affinity set."""
    chains = table.chains
    if not isinstance(chains, LazyChains):
        yield from chains
        return
    for name, rules in chains.printed.items():
        if any(b'"@affinity-' in rule for rule in rules):
            yield name


def _elements(table: NftTable, name: str) -> Sequence[Element]:
    found = table.sets.get(name)
    return found.elements if found is not None else ()


def _address(value: object) -> int | None:
    try:
        return number(canonical_ip(str(value)))
    except ValueError:
        return None


def _proto(value: object) -> str:
    return _PROTOCOLS.get(str(value), str(value))


def _port(value: object) -> int | None:
    return int(str(value)) if re.fullmatch(r"[0-9]{1,5}", str(value)) else None


def _owner(element: Element) -> str | None:
    """The Service that a chain's name tells: `service-HASH-ns/name/tcp/port`; or the element's comment, `ns/name:port`."""
    data = element.data
    if isinstance(data, Decide) and data.target.count("/") >= 2:
        namespace, name, *_ = data.target.split("-", 2)[2].split("/")
        return f"{namespace}/{name}"
    text = element.comment.partition(":")[0]
    return text if text.count("/") == 1 else None
