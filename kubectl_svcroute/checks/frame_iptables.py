"""What a walk does not show: rules that no packet of a Service meets, and the frame that kube-proxy keeps around its rules.

None of these is a matter of opinion about text: each says what traffic would feel, or will when something else happens.
A healthy node of every version passes; what only some versions write is asked for of those alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network

from ..model.cluster import Service
from ..model.fast_dataclass import dataclass, field
from ..model.lazy_regex import pattern
from ..model.net import ONE_ADDRESS, FrontendKind
from ..model.plan import Expectation
from ..model.ranges import number
from ..model.report import Severity
from ..model.routes import Action
from ..model.ruleset import IptablesRules, Table
from .observation import Observation

_OWN = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-")
_ENTRY = pattern(
    r"-A \S+ (?:(?P<not>! )?-s \S+ )?(?:-d (?P<ip>" + ONE_ADDRESS + r")/\d+ )?(?:! -i \S+ )?-p (?P<proto>tcp|udp|sctp) "
    r'(?:-m comment --comment (?P<comment>"(?:[^"\\]|\\.)*"|[^" ]+) )?(?P<rest>.*)-m (?:tcp|udp|sctp) --dport (?P<port>\d{1,5})\b'
)
_INTO_OWN = pattern(r" -[jg] KUBE-(?:SVC|SVL|EXT|XLB|FW|SEP)-\S*\n")
_TARGET = pattern(r" -[jg] (\S+)(?: --reject-with \S+)?\Z")
_NAME = pattern(r'"?([a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9]*[a-z0-9])?)(?=[: "])')


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What these checks need to know of one node and family."""

    rules: IptablesRules
    version: tuple[int, int]
    localhost_node_ports: bool
    route_localnet: bool | None
    detects_cidr: bool
    dual_stack_services: bool
    """Whether any Service has an address of this family."""


def target_of(rule: str) -> str:
    """The chain or target that a raw rule ends in; empty when it has none, or options follow that this does not know."""
    found = _TARGET.search(rule)
    if found:
        return found[1]
    at = max(rule.rfind(" -j "), rule.rfind(" -g "))
    return rule[at + 4 :].split(" ", 1)[0] if at >= 0 else ""


def jumps(table: Table, chain: str) -> set[str]:
    """Where the rules of a chain lead."""
    return {target_of(rule) for rule in table.chains.get(chain, ())}


def services_programmed(rules: IptablesRules) -> int:
    """Rules of KUBE-SERVICES that lead to a Service's chain."""
    nat = rules.tables.get("nat")
    if nat is None:
        return 0
    return _led_on(nat, "KUBE-SERVICES")


def node_ports_programmed(rules: IptablesRules) -> int:
    """Rules of KUBE-NODEPORTS that lead to a Service's chain."""
    nat = rules.tables.get("nat")
    if nat is None:
        return 0
    return _led_on(nat, "KUBE-NODEPORTS")


def _led_on(nat: Table, chain: str) -> int:
    # A jump has no options: the chain is the line's last word.
    return len(_INTO_OWN.findall(nat.chains.texts.get(chain, "")))


_BRIDGED = pattern(r"-A \S+ -s (\S+) ! -o \S+ (?:-m comment --comment \S+ )?-j MASQUERADE")


def masquerading(rules: IptablesRules) -> list[str]:
    """The chains of table nat that masquerade."""
    nat = rules.tables.get("nat")
    return [chain for chain, text in nat.chains.texts.items() if " -j MASQUERADE" in text] if nat is not None else []


def bridged_networks(rules: IptablesRules, chains: Iterable[str]) -> Iterator[str]:
    """Networks behind a bridge of the node itself, as docker, podman and libvirt have them: masqueraded wherever else they go.

    Whoever dials from there is neither a pod nor a client from outside. `chains`: where such rules may stand in table nat.
    """
    nat = rules.tables.get("nat")
    for chain in chains:
        for rule in nat.chains.get(chain, ()) if nat is not None else ():
            if "MASQUERADE" in rule and (found := _BRIDGED.match(rule)):
                net = ip_network(found[1], strict=False)
                if net.is_private and net.prefixlen >= (12 if net.version == 4 else 48):
                    yield found[1]


def programmed(rules: IptablesRules) -> bool:
    """Whether a backend holds chains of Services."""
    nat = rules.tables.get("nat")
    return nat is not None and any(chain.startswith(_OWN) for chain in nat.chains)


def programmed_sample(rules: IptablesRules) -> str:
    """One line that shows it."""
    nat = rules.tables["nat"]
    chain = next(chain for chain in nat.chains if chain.startswith(_OWN))
    return nat.chains[chain][0] if nat.chains[chain] else f":{chain} - [0:0]"


def hooks(rules: IptablesRules) -> frozenset[tuple[str, str]]:
    """(built-in chain, kube-proxy's chain) of each jump of the NAT table."""
    nat = rules.tables.get("nat")
    if nat is None:
        return frozenset()
    return frozenset((chain, target) for chain in nat.policies for target in jumps(nat, chain) if target.startswith("KUBE-"))


def filter_hooks(frame: Frame) -> Iterator[Observation]:
    """Every jump from filter's built-in chains that this version writes."""
    version = frame.version
    wanted = [
        ("FORWARD", "KUBE-SERVICES"),
        ("OUTPUT", "KUBE-SERVICES"),
        ("INPUT", "KUBE-EXTERNAL-SERVICES"),
        ("FORWARD", "KUBE-FORWARD"),
    ]
    if version >= (1, 20):
        wanted.append(("FORWARD", "KUBE-EXTERNAL-SERVICES"))
    if version >= (1, 21):
        wanted.append(("INPUT", "KUBE-NODEPORTS"))
    if version >= (1, 25):
        wanted += [(hook, "KUBE-PROXY-FIREWALL") for hook in ("INPUT", "FORWARD", "OUTPUT")]
    table = frame.rules.tables.get("filter")
    if table is None:
        return
    for hook, chain in wanted:
        if chain not in jumps(table, hook):
            yield Observation(
                code="SR608",
                node_wide=True,
                service=None,
                key=f"{hook} {chain}",
                message=f"{hook} of table filter no longer jumps to {chain} ({_family(frame)})",
                evidence=tuple(table.chains.get(hook, ()))[:4],
                place=f"hook:{hook}",
            )


def forward_chain(frame: Frame) -> Iterator[Observation]:
    """KUBE-FORWARD lets marked packets and answers through where FORWARD's policy is DROP."""
    table = frame.rules.tables.get("filter")
    if table is None or "KUBE-FORWARD" not in table.chains:
        return
    rules = table.chains["KUBE-FORWARD"]
    lacks = []
    if not any("-m mark --mark" in rule and target_of(rule) == "ACCEPT" for rule in rules):
        lacks.append("the rule that accepts packets marked for masquerade")
    if (frame.version >= (1, 18) or frame.detects_cidr) and not any(
        "RELATED,ESTABLISHED" in rule and target_of(rule) == "ACCEPT" for rule in rules
    ):
        lacks.append("the rule that accepts answers")
    for what in lacks:
        yield Observation(
            code="SR606",
            node_wide=True,
            service=None,
            key=what,
            message=f"KUBE-FORWARD lacks {what} ({_family(frame)})",
            evidence=tuple(rules),
            place="fixed",
        )


def localnet_guard(frame: Frame) -> Iterator[Observation]:
    """From 1.27 kube-proxy itself blocks neighbours from 127.0.0.0/8 when it has opened that for node ports."""
    if frame.rules.family != 4 or frame.version < (1, 27) or not frame.localhost_node_ports or frame.route_localnet is False:
        return
    table = frame.rules.tables.get("filter")
    if table is None:
        return
    guarded = any("-d 127.0.0.0/8" in rule and target_of(rule) == "DROP" for rule in table.chains.get("KUBE-FIREWALL", ()))
    reached = all("KUBE-FIREWALL" in jumps(table, hook) for hook in ("INPUT", "OUTPUT"))
    if not guarded or not reached:
        what = "is not reached from INPUT and OUTPUT" if guarded else "lacks the rule that blocks incoming localnet connections"
        yield Observation(
            code="SR607",
            node_wide=True,
            service=None,
            message=f"KUBE-FIREWALL {what}",
            evidence=tuple(table.chains.get("KUBE-FIREWALL", ())),
            place="fixed",
        )


def canaries(frame: Frame) -> Iterator[Observation]:
    """kube-proxy puts an empty chain into mangle, nat and filter; one that is gone tells of a flush."""
    present = {name: "KUBE-PROXY-CANARY" in table.chains for name, table in frame.rules.tables.items()}
    seen = [present.get(name, False) for name in ("mangle", "nat", "filter")]
    if frame.version < (1, 16) or all(seen) or not any(seen):
        return
    gone = [name for name in ("mangle", "nat", "filter") if not present.get(name, False)]
    yield Observation(
        code="SR507",
        node_wide=True,
        service=None,
        key=",".join(gone),
        message=f"KUBE-PROXY-CANARY is gone from {' and '.join(gone)} ({_family(frame)}): the table was emptied under kube-proxy",
        place="hook",
    )


_ONCE = (
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-EXT-",
)
"""Chains in which kube-proxy writes no line twice. Up to 1.23 it does in KUBE-FW-… (one block per load-balancer IP)."""


def duplicates(frame: Frame, owners_of: Callable[[], Mapping[str, str]]) -> Iterator[Observation]:
    """The same line twice in one chain. `owners_of`: chain -> Service, asked for only when something is found."""
    owners: Mapping[str, str] | None = None
    for name in ("nat", "filter"):
        table = frame.rules.tables.get(name)
        if table is None:
            continue
        for chain, text in table.chains.texts.items():
            many = text.count("\n")
            if many < 2 or (many == 2 and text[: len(text) // 2] != text[len(text) // 2 :]):
                continue  # most chains are an endpoint's, of two rules
            lines = text.split("\n")
            base = chain in table.policies
            if len(set(lines)) == len(lines) or not (base or chain.startswith(_ONCE)):
                continue
            for rule, count in Counter(lines[:-1]).items():
                if count < 2 or (base and not target_of(rule).startswith("KUBE-")):
                    continue
                owners = owners_of() if owners is None else owners
                service = owners.get(chain) or owners.get(target_of(rule)) or (_named(rule) if not base else None)
                yield Observation(
                    code="SR503",
                    node_wide=service is None,
                    service=service,
                    key=rule,
                    message=f"a rule stands {count} times in chain {chain} of table {name} ({_family(frame)})",
                    evidence=(rule,),
                    place="service" if service else "hook",
                )


def _named(rule: str) -> str | None:
    found = re.search(r'--comment (?:"([^"]*)"|(\S+))', rule)
    text = (found[1] or found[2]) if found else ""
    name = _NAME.match(text + " ")
    return name[1] if name else None


def leftover_chains(frame: Frame, covered: Collection[str] = frozenset()) -> Iterator[Observation]:
    """Chains of Services that nothing jumps to. `covered`: chains that are known to be led to, and to lead to none but such."""
    nat = frame.rules.tables.get("nat")
    if nat is None:
        return
    # A jump has no options, so the chain is the line's last word. Most chains are an endpoint's, which lead to no such chain.
    referenced: set[str] = set()
    owned = []
    for chain, text in nat.chains.texts.items():
        if chain in covered:
            continue
        if chain.startswith(_OWN):
            owned.append(chain)
        if text.count(" -j KUBE-") > text.count(" -j KUBE-MARK-MASQ\n") or " -g KUBE-" in text:
            referenced.update([rule[rule.rfind(" ") + 1 :] for rule in text.split("\n")])
    idle = sorted(chain for chain in owned if chain not in referenced)
    if idle:
        shown = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
        yield Observation(
            code="SR504", node_wide=True, service=None, message=f"nothing jumps to {shown} ({_family(frame)})", place="fixed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Every address and port that some Service has, for telling the rules of deleted ones."""

    addresses: Mapping[tuple[int, str, int], str]
    """(IP, protocol, port) -> Service: what kube-proxy should or may have rules for."""
    ips: Mapping[int, str]
    cluster_ips: Mapping[int, str]
    """Cluster IP -> Service."""
    node_ports: Mapping[tuple[str, int], str]


def known_frontends(services: Sequence[Service]) -> Known:
    """All frontends of all Services, those left to another proxy excluded."""
    addresses: dict[tuple[int, str, int], str] = {}
    ips: dict[int, str] = {}
    cluster_ips: dict[int, str] = {}
    node_ports: dict[tuple[str, int], str] = {}
    for service in services:
        if service.skipped:
            continue
        key = service.key
        own = [number(ip) for ip in service.addresses]
        for ip in own:
            ips[ip] = key
        if not service.headless_label:  # whether kube-proxy looks at one depends on its version
            for ip in own[: len(service.cluster_ips)]:
                cluster_ips[ip] = key
        for port in service.ports:
            proto = port.protocol.value.lower()
            for ip in own:
                addresses[ip, proto, port.port] = key
            if port.node_port:
                node_ports[proto, port.node_port] = key
        if service.health_check_port:
            node_ports["tcp", service.health_check_port] = key
    return Known(addresses=addresses, ips=ips, cluster_ips=cluster_ips, node_ports=node_ports)


def deleted_services(frame: Frame, known: Known) -> Iterator[Observation]:
    """Entry rules for an address and port that no Service has."""
    for table_name, chain in (
        ("nat", "KUBE-SERVICES"),
        ("nat", "KUBE-NODEPORTS"),
        ("filter", "KUBE-SERVICES"),
        ("filter", "KUBE-EXTERNAL-SERVICES"),
        ("filter", "KUBE-NODEPORTS"),
        ("filter", "KUBE-PROXY-FIREWALL"),
    ):
        table = frame.rules.tables.get(table_name)
        if table is None:
            continue
        for rule in table.chains.get(chain, ()):
            found = _ENTRY.match(rule)
            if not found:
                continue
            proto, port = found["proto"], int(found["port"])
            if found["ip"] and chain != "KUBE-NODEPORTS":
                try:
                    address = number(found["ip"])
                except ValueError:
                    continue
                if (address, proto, port) in known.addresses:
                    continue
                service = known.ips.get(address)
                where = f"{found['ip']} port {port}/{proto.upper()}"
            else:
                if (proto, port) in known.node_ports:
                    continue
                service = None
                where = f"node port {port}/{proto.upper()}"
            if target_of(rule) in ("KUBE-MARK-MASQ", "KUBE-NODEPORTS", ""):
                continue
            name = service or _named(rule)
            code = "SR411" if service else "SR501"
            says = f"Service {service} has no such port" if service else "no Service of the API has it"
            yield Observation(
                code=code,
                node_wide=name is None,
                service=name,
                key=where,
                message=f"rules catch {where}, and {says}",
                evidence=(rule,),
                place="fixed",
            )


def _family(frame: Frame) -> str:
    return "IPv6" if frame.rules.family == 6 else "IPv4"


@dataclass(slots=True)
class Stops:
    """For every frontend of the Services asked for: whether anybody should be rejected or dropped there."""

    addresses: dict[tuple[int, str, int], tuple[str, set[Action]]] = field(default_factory=dict)
    node_ports: dict[tuple[str, int], tuple[str, set[Action]]] = field(default_factory=dict)
    filtered: set[str] = field(default_factory=set)
    """The Services that have a filter for sources, though it may let everybody pass (a range of all addresses)."""

    def add(self, service: str, expectation: Expectation) -> None:
        """Note what one client should find."""
        frontend = expectation.frontend
        proto = frontend.protocol.value.lower()
        actions = {expectation.action, *expectation.also}
        if frontend.kind in (FrontendKind.NODE_PORT, FrontendKind.HEALTH_CHECK):
            self.node_ports.setdefault((proto, frontend.port), (service, set()))[1].update(actions)
        else:
            key = (number(frontend.address), proto, frontend.port)
            self.addresses.setdefault(key, (service, set()))[1].update(actions)


def idle_stops(frame: Frame, stops: Stops) -> Iterator[Observation]:
    """REJECT and DROP rules for addresses at which nobody should be stopped.

    A packet that the NAT table translates no longer has that address when it comes to the filter table, so such a rule may
    harm nobody: it says that kube-proxy's last word on the Service was another one, and stops everything as soon as the
    translation is lost (projectcalico/calico#2024, kubernetes/kubernetes#97360).
    """
    table = frame.rules.tables.get("filter")
    if table is None:
        return
    for chain in ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"):
        for rule in table.chains.get(chain, ()):
            found = _ENTRY.match(rule)
            target = target_of(rule)
            if not found or target not in ("REJECT", "DROP"):
                continue
            proto, port = found["proto"], int(found["port"])
            if found["ip"]:
                try:
                    known = stops.addresses.get((number(found["ip"]), proto, port))
                except ValueError:
                    continue
                where = f"{found['ip']} port {port}/{proto.upper()}"
            else:
                known = stops.node_ports.get((proto, port))
                where = f"node port {port}/{proto.upper()}"
            if known is None or known[1] & {Action.REJECT, Action.DROP}:
                continue
            if chain == "KUBE-PROXY-FIREWALL" and known[0] in stops.filtered:
                continue
            yield Observation(
                code="SR401" if target == "REJECT" else "SR402",
                node_wide=False,
                service=known[0],
                key=f"idle {where}",
                message=f"a {target} rule stands in chain {chain} of table filter for {where}, which has usable endpoints",
                observed="packets that are translated first do not meet it",
                severity=Severity.WARNING,
                evidence=(rule,),
                place="fixed",
            )
