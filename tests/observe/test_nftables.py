"""Packets through nftables chains: each statement by itself, and real kube-proxies' rules against the API."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kubectl_svcroute.expect.routes import LOOPBACK, NodeView, detector_of, never_clients, plan_service
from kubectl_svcroute.expect.versions import behaviour
from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.model.plan import Expectation
from kubectl_svcroute.model.ranges import ALL, network, number, single, subtract, union
from kubectl_svcroute.model.routes import Action, Client, Leg
from kubectl_svcroute.model.snapshot import ApiObjects
from kubectl_svcroute.model.walk_result import Atom, End, Observed
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.nftables import base_chains, not_walked
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.kube_objects import parse_cluster
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_text import parse_nft_text
from kubectl_svcroute.parse.proxy_config import version_of
from tests.captured import CAPTURES, capture, faults, faulty, truth

NFTABLES = [name for name in CAPTURES if name.endswith("-nftables")]
NODE = network("172.18.0.11")
DIALLED = Frontend("10.96.0.1", Protocol.TCP, 80, FrontendKind.CLUSTER_IP)
CLIENTS = network("10.244.1.0/24")


def asker(rules: str, *, family: int = 4) -> Asker:
    local = union((NODE, network("127.0.0.0/8"))) if family == 4 else network("::1")
    return Asker(
        hooks=merge([base_chains(parse_nft_text(rules), family)]),
        context=NodeContext(family=family, local=local, pod_networks=network("10.244.0.0/16")),
        pod_side=Interface(fits=frozenset(("veth+",))),
        uplink=Interface(not_fits=frozenset(("veth+",))),
    )


def ask(
    statements: str,
    *,
    declared: str = "",
    chains: str = "",
    kind: str = "nat",
    hook: str = "prerouting",
    policy: str = "accept",
) -> Observed:
    """What rules in one base chain do with a new connection."""
    lines = "\n".join(line.strip() for line in statements.strip().splitlines())
    base = f"chain base {{\ntype {kind} hook {hook} priority -100; policy {policy};\n{lines}\n}}\n"
    return asker(f"table ip t {{\n{declared}\n{base}{chains}\n}}\n").ask(DIALLED, CLIENTS, from_node=False, from_pod=True)


def ends(observed: Observed) -> list[End]:
    return [end for atom in observed.atoms for end in atom.ends]


def actions(observed: Observed) -> list[Action]:
    """The action of each atom that has one."""
    return [leg.action for atom in observed.atoms for leg in atom.shares]



HIT = "dnat to 10.9.9.9:99"


@pytest.mark.parametrize(
    ("matches", "wanted"),
    [
        ("", True),
        ("ip daddr 10.96.0.1", True),
        ("ip daddr != 10.96.0.1", False),
        ("ip daddr 10.96.0.0/16", True),
        ("ip daddr 10.96.0.2-10.96.0.9", False),
        ("ip daddr { 10.96.0.9, 10.96.0.1 }", True),
        ("ip daddr != { 10.96.0.9, 10.96.0.1 }", False),
        ("tcp dport 80", True),
        ("tcp dport != 81", True),
        ("tcp dport 1-79", False),
        ("tcp dport >= 80", True),
        ("th dport { 80, 443 }", True),
        ("udp dport 80", False),
        ("udp dport != 81", False),  # no UDP header: the rule breaks, whatever it asks
        ("ip6 daddr != fd00::1", False),
        ("sctp dport 80", False),
        ("icmp type != echo-request", False),
        ("meta l4proto tcp", True),
        ("meta l4proto { tcp, udp }", True),
        ("meta l4proto != tcp", False),
        ("ip protocol tcp", True),
        ("meta nfproto ipv4", True),
        ("meta protocol ip", True),
        ("ip daddr . meta l4proto . th dport { 10.96.0.1 . tcp . 80 }", True),
        ("ip daddr . meta l4proto . th dport { 10.96.0.1 . udp . 80 }", False),
        ("ip daddr . tcp dport 10.96.0.1 . 80", True),
        ("ct state new", True),
        ("ct state established,related", False),
        ("ct state established,new", True),
        ("ct state != new", False),
        ("ct state { new, untracked }", True),
        ("ct state invalid", False),
        ("ct status dnat", False),
        ("ct direction original", True),
        ("ct original ip daddr 10.96.0.1", True),
        ("ct original proto-dst 81", False),
        ("ct mark 0x0", True),
        ("meta mark 0x00000000", True),
        ("meta mark & 0x00004000 == 0x00000000", True),
        ("meta mark & 0x00004000 != 0x00000000", False),
        ("tcp flags syn", True),
        ("tcp flags & (fin|syn|rst|ack) == syn", True),
        ("tcp flags syn / fin,syn,rst,ack", True),
        ("tcp flags ack", False),
        ("fib daddr type local", False),
        ("fib daddr type unicast", True),
        ("fib saddr type local", False),
        ("fib saddr . iif oif missing", False),
        ("fib saddr . iif oif exists", True),
        ('iifname "veth*"', True),
        ('iifname != "veth*"', False),
        ('iifname "lo"', False),
        ('iifname "eth0"', None),
        ('iifname { "veth*", "eth0" }', True),
        ('oifname "eth0"', False),  # nothing has been routed yet at prerouting
        ("meta pkttype host", True),
        ("meta skuid 0", False),  # a packet from a wire has no socket yet
        ("tcp sport 1024-65535", None),
        ("ip ttl 64", None),
        ("meta cgroup 5", None),
        ("limit rate 10/second", None),
        ("quota over 10 mbytes", None),
        ("ct count over 5", None),
        ("counter packets 5 bytes 10", True),
        ('log prefix "hi" level info', True),
        ("socket transparent 1", None),
        ("jhash ip saddr mod 2 0", None),
    ],
)
def test_what_each_match_says_of_a_new_connection(matches: str, wanted: bool | None) -> None:
    """None where a dump cannot tell: it is then neither assumed to hold nor not to."""
    packet = replace(asker("table ip t {\n}\n"), pod_side=Interface(fits=frozenset(("veth+",)), not_fits=frozenset(("lo",))))
    rules = f"table ip t {{\nchain b {{\ntype nat hook prerouting priority dstnat; policy accept;\n{matches} {HIT}\n}}\n}}\n"
    observed = replace(packet, hooks=merge([base_chains(parse_nft_text(rules), 4)])).ask(
        DIALLED, CLIENTS, from_node=False, from_pod=True
    )
    if any(atom.unknown for atom in observed.atoms):
        assert wanted is None, observed.atoms[0].unknown
        return
    assert {leg.action is Action.TRANSLATE for atom in observed.atoms for leg in atom.shares} == {wanted}


def test_a_source_splits_the_clients() -> None:
    """One walk says it of every client."""
    observed = ask(f"ip saddr {{ 10.244.1.0/25, 10.244.1.200 }} {HIT}")
    translated = [a for a in observed.atoms if next(iter(a.shares)).action is Action.TRANSLATE]
    assert union(a.sources for a in translated) == union((network("10.244.1.0/25"), network("10.244.1.200")))


def test_a_concatenation_with_the_source_splits_too() -> None:
    """The elements with this destination, protocol and port say which sources: kube-proxy's hairpin set."""
    declared = """set h {
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
    elements = { 10.244.1.5 . 10.96.0.1 . tcp . 80, 10.244.1.6 . 10.96.0.1 . udp . 80, 10.244.1.7 . 10.96.0.2 . tcp . 80 }
    }"""
    observed = ask(f"ip saddr . ip daddr . meta l4proto . th dport @h {HIT}", declared=declared)
    (hit,) = [a for a in observed.atoms if next(iter(a.shares)).action is Action.TRANSLATE]
    assert hit.sources == network("10.244.1.5")


VERDICTS = """chain ends {
tcp dport 80 drop
}
chain back {
return
}
chain through {
continue
tcp dport 81 drop
}"""


@pytest.mark.parametrize(
    ("rules", "policy", "wanted"),
    [
        ("accept", "drop", Action.PASS),
        ("drop", "accept", Action.DROP),
        ("reject", "accept", Action.REJECT),
        ("reject with tcp reset", "accept", Action.REJECT),
        ("", "drop", Action.DROP),
        ("return\ndrop", "accept", Action.PASS),
        ("return\naccept", "drop", Action.DROP),
        ("jump back\ndrop", "accept", Action.DROP),
        ("goto back\ndrop", "accept", Action.PASS),
        ("goto back\naccept", "drop", Action.DROP),
        ("jump through\ndrop", "accept", Action.DROP),
        ("goto ends\naccept", "accept", Action.DROP),
        ("continue\ndrop", "accept", Action.DROP),
        ("th dport vmap { 80 : drop }\naccept", "accept", Action.DROP),
        ("th dport vmap { 81 : drop }\naccept", "accept", Action.PASS),
        ("th dport vmap { 1-100 : jump back, 200 : accept }\ndrop", "accept", Action.DROP),
        ("th dport vmap { 81 : accept, * : drop }", "accept", Action.DROP),
        ("th dport vmap { 80 : continue }\ndrop", "accept", Action.DROP),
        ("ct state vmap { established : accept, new : jump ends }", "accept", Action.DROP),
        ("meta l4proto . th dport vmap { tcp . 80 : goto ends }", "accept", Action.DROP),
        ("numgen random mod 2 vmap { 0 : drop, 1 : drop }", "accept", Action.DROP),
        ("numgen random mod 100 < 100 drop", "accept", Action.DROP),
        # a mark that was set before a match that does not hold stays (nft_do_chain)
        ("meta mark set 0x1 tcp dport 81 accept\nmeta mark 0x1 drop", "accept", Action.DROP),
        ("meta mark set 0x10 meta mark set meta mark | 0x1\nmeta mark set meta mark ^ 0x10\nmeta mark 0x1 drop", "accept",
         Action.DROP),
        ("ct mark set 0x5\nmeta mark set ct mark\nmeta mark 0x5 drop", "accept", Action.DROP),
        ("meta mark set meta mark & 0xffffbfff | 0x2\nmeta mark 0x2 drop", "accept", Action.DROP),
        ("meta mark set ip daddr map { 10.96.0.1 : 0x7 }\nmeta mark 0x7 drop", "accept", Action.DROP),
        ("meta nftrace set 1\nip dscp set cs1\ndrop", "accept", Action.DROP),
    ],
)
def test_verdicts_are_the_kernels(rules: str, policy: str, wanted: Action) -> None:
    """Jumps, gotos, returns, policies, and what stays of a rule that does not match."""
    observed = ask(rules, kind="filter", policy=policy, chains=VERDICTS)
    assert actions(observed) == [wanted], [atom.unknown for atom in observed.atoms]


@pytest.mark.parametrize(
    "rule",
    [
        "xt match banana",
        "jump nowhere",
        "ip daddr @nothing drop",
        "th dport vmap @nothing",
        "dnat to 10.0.0.1-10.0.0.9:80",
        "dnat to ip daddr map @nothing",
        "redirect to :8080",
        "tproxy to :80",
        "ip daddr set 1.1.1.1",
        "ct zone set 1",
        "meta mark set numgen inc mod 2",
        "queue to 1",
        "jump loop",
    ],
)
def test_what_is_not_understood_is_not_verified(rule: str) -> None:
    """It is neither passed over nor taken to match."""
    observed = ask(rule, chains="chain loop {\ngoto loop\n}")
    assert observed.atoms[0].unknown
    assert not observed.atoms[0].shares


def test_an_unknown_rule_that_no_packet_reaches_does_not_matter() -> None:
    """Only what is walked has to be understood."""
    assert actions(ask("tcp dport 80 accept\nxt match banana", kind="filter")) == [Action.PASS]


def shares(observed: Observed) -> dict[str, float]:
    (atom,) = observed.atoms
    return {str(leg.backend): share for leg, share in atom.shares.items()}


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("dnat to 10.0.0.1:8080", {"10.0.0.1:8080": 1.0}),
        ("dnat to 10.0.0.1", {"10.0.0.1:80": 1.0}),
        ("meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 1, 1 : 10.0.0.2 . 2 }",
         {"10.0.0.1:1": 0.5, "10.0.0.2:2": 0.5}),
        ("dnat ip to numgen random mod 4 map { 0-2 : 10.0.0.1 . 1, 3 : 10.0.0.2 . 2 }", {"10.0.0.1:1": 0.75, "10.0.0.2:2": 0.25}),
        ("dnat ip to numgen random mod 4 offset 10 map { 10 : 10.0.0.1 . 1, 11-13 : 10.0.0.2 . 2, 0 : 10.0.0.3 . 3 }",
         {"10.0.0.1:1": 0.25, "10.0.0.2:2": 0.75}),
        ("dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 1, 1 : 10.0.0.1 . 1 }", {"10.0.0.1:1": 1.0}),
        # a number without an element is a rule that does not match
        ("dnat ip to numgen random mod 4 map { 0 : 10.0.0.1 . 1 }", {"10.0.0.1:1": 0.25, "None": 0.75}),
        ("numgen random mod 3 vmap { 0 : goto a, 1 : goto a }", {"10.0.0.7:7": 2 / 3, "None": 1 / 3}),
        ("numgen random mod 10 < 3 goto a", {"10.0.0.7:7": 0.3, "None": 0.7}),
        ("dnat ip to ip daddr . tcp dport map { 10.96.0.1 . 80 : 10.0.0.3 . 3 }", {"10.0.0.3:3": 1.0}),
        ("dnat ip to tcp dport map { 80 : 10.0.0.4 }", {"10.0.0.4:80": 1.0}),
        ("dnat ip6 to [fd00::1]:80", {"None": 1.0}),
    ],
)  # fmt: skip
def test_translations_and_their_shares(rule: str, wanted: dict[str, float]) -> None:
    """Shares are exact."""
    got = shares(ask(rule, chains="chain a {\ndnat to 10.0.0.7:7\n}"))
    assert got == pytest.approx(wanted)


def test_a_hash_gives_no_share() -> None:
    """Which backend a client gets is fixed, and not in the dump."""
    observed = ask("dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1 . 1, 1 : 10.0.0.2 . 2 }")
    assert "jhash" in observed.atoms[0].unknown[0]
    same = ask("dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1 . 1, 1 : 10.0.0.1 . 1 }")
    assert shares(same) == {"10.0.0.1:1": 1.0}


AFFINITY = """set {name} {{
type ipv4_addr
flags dynamic,timeout
timeout 3h
}}
"""


def test_session_affinity_is_followed_to_the_next_connection() -> None:
    """A client that an endpoint's set remembers comes back to it, for as long as the set says."""
    declared = AFFINITY.format(name="a1") + AFFINITY.format(name="a2")
    chains = "\n".join(
        f"chain e{n} {{\nupdate @a{n} {{ ip saddr }}\nmeta l4proto tcp dnat to 10.0.0.{n}:80\n}}" for n in (1, 2)
    )
    rules = "ip saddr @a1 goto e1\nip saddr @a2 goto e2\nnumgen random mod 2 vmap { 0 : goto e1, 1 : goto e2 }"
    assert ask(rules, declared=declared, chains=chains).affinity == {10800}
    without = rules.replace("ip saddr @a2 goto e2\n", "")
    assert ask(without, declared=declared, chains=chains).affinity == {10800, None}
    swapped = chains.replace("update @a1", "update @a0").replace("update @a2", "update @a1").replace("update @a0", "update @a2")
    assert ask(rules, declared=declared, chains=swapped).affinity == {None}


def test_steps_name_the_element_that_decided() -> None:
    """Evidence shows the one element of ten thousand, and what it singles out."""
    declared = """map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 10.96.0.1 . tcp . 80 : goto a, 10.96.0.2 . tcp . 80 : goto a }
    }"""
    observed = ask("ip daddr . meta l4proto . th dport vmap @service-ips", declared=declared, chains=f"chain a {{\n{HIT}\n}}")
    first, second = ends(observed)[0].way
    assert first.rule == "ip daddr . meta l4proto . th dport vmap @service-ips { 10.96.0.1 . tcp . 80 : goto a }"
    assert (first.table, first.chain, first.target, first.pins) == ("ip t", "base", "a", True)
    assert (second.chain, second.target, second.pins) == ("a", "DNAT", False)


def test_a_map_that_has_nothing_says_so() -> None:
    """The step before a packet passes untranslated is the map that lacks its element."""
    declared = "map m {\ntype inet_service : verdict\n}"
    (step,) = ends(ask("th dport vmap @m", declared=declared))[0].way
    assert step.target == "m"
    assert "no element" in step.rule


def test_masquerade_and_snat() -> None:
    """At postrouting, after a translation."""
    rules = """table ip t {
    chain d {
    type nat hook prerouting priority dstnat; policy accept;
    dnat to 10.9.9.9:99
    }
    chain s {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.244.1.1 snat to 172.18.0.11
    ip saddr 10.244.1.2 snat to 192.0.2.1
    ip saddr 10.244.1.4-10.244.1.255 ct status dnat masquerade fully-random
    }
    }
"""
    observed = asker(rules).ask(DIALLED, network("10.244.1.0/29"), from_node=False, from_pod=True)
    left = {atom.sources: atom.ends[0].masquerade for atom in observed.atoms}
    assert left[network("10.244.1.1")] == "node"
    assert left[network("10.244.1.2")] == "192.0.2.1"
    assert left[((number("10.244.1.4"), number("10.244.1.7")),)] == "node"


def test_accept_ends_its_own_base_chain_only() -> None:
    """A later base chain still sees the packet; a drop is final; the later of two equals is asked first."""
    table = "table ip {} {{\nchain c {{\ntype filter hook forward priority {}; policy accept;\n{}\n}}\n}}\n"
    first = table.format("a", -5, "accept") + table.format("b", 0, "drop")
    assert [e.action for e in ends(asker(first).ask(DIALLED, CLIENTS, from_node=False, from_pod=True))] == [Action.DROP]
    equals = table.format("a", 0, "reject") + table.format("b", 0, "drop")
    assert [e.action for e in ends(asker(equals).ask(DIALLED, CLIENTS, from_node=False, from_pod=True))] == [Action.DROP]


def test_tables_that_are_not_walked_are_named() -> None:
    """Dormant tables do nothing; those of other layers are left out with their reason; skipped ones are skipped."""
    body = "chain c {\ntype filter hook forward priority 0; policy drop;\n}\n}\n"
    text = f"table ip a {{\nflags dormant\n{body}table bridge b {{\n{body}table inet c {{\n{body}"
    rules = parse_nft_text(text)
    assert [base.label for base in base_chains(rules, 4)["FORWARD"]] == ["inet c c"]
    assert not base_chains(rules, 6, skip_tables={("inet", "c")})
    assert [passed.table for passed in not_walked(rules)] == [("bridge", "b")]


# ---- real kube-proxies ----------------------------------------------------------------------------------------------------


def wrong_services(root: Path, only: str = "") -> dict[str, set[str]]:
    """Node -> the Services that it does not serve as the API says; asserts that nothing is unverified."""
    api = ApiObjects(objects={file.stem: json.loads(file.read_text()) for file in root.glob("api/*.json")})
    cluster = parse_cluster(api)
    assert cluster.config is not None
    found: dict[str, set[str]] = {}
    for node in cluster.nodes:
        if only and node.name != only:
            continue
        config = replace(cluster.config, version=version_of(node.kubelet_version))
        think = behaviour(config, mode="nftables")
        rules = parse_nft_json((root / "nodes" / node.name / "nft-ruleset.json").read_text())
        wrong = found.setdefault(node.name, set())
        for family in (4, 6):
            nets = union(
                network(c)
                for c in (*config.cluster_cidrs, *(c for n in cluster.nodes for c in n.pod_cidrs))
                if (":" in c) == (family == 6)
            )
            nodes = union(single(number(a)) for n in cluster.nodes for a in n.ips(family))
            local = union([*(single(number(a)) for a in node.ips(family)), LOOPBACK[family]])
            view = NodeView(
                node=node, family=family, behaviour=think, config=config, detector=detector_of(config, node, family), local=local,
                address=(node.ips(family) or ("",))[0],
                pods=subtract(union(network(c) for c in node.pod_cidrs if (":" in c) == (family == 6)), local),
                outside=subtract(ALL[family], union((never_clients(family), nets, nodes))), pod_networks=nets,
            )  # fmt: skip
            mine = Asker(
                hooks=merge([base_chains(rules, family)]),
                context=NodeContext(family=family, local=local, pod_networks=nets), pod_side=Interface(), uplink=Interface(),
            )  # fmt: skip
            for service in cluster.services:
                for plan in plan_service(service, cluster.slices.get(service.key, ()), view):
                    for expectation in plan.expectations:
                        pod = expectation.client in (Client.POD, Client.HAIRPIN)
                        observed = mine.ask(
                            expectation.frontend, expectation.sources, from_node=expectation.from_node, from_pod=pod
                        )
                        if not as_expected(expectation, observed):
                            wrong.add(service.key)
    return found


def as_expected(expectation: Expectation, observed: Observed) -> bool:
    for atom in observed.atoms:
        assert not atom.unknown, atom.unknown
        if not atom_as_expected(expectation, atom):
            return False
    if expectation.action is Action.TRANSLATE:
        return observed.affinity == {expectation.affinity}
    return True


def atom_as_expected(expectation: Expectation, atom: Atom) -> bool:
    got = {leg.action for leg in atom.shares}
    if got and got <= expectation.also:
        return True
    # A pod that reaches itself is an atom of its own; every single source of an atom is treated alike.
    sources = [low for low, _ in atom.sources] if expectation.client is Client.HAIRPIN else [atom.sources[0][0]]
    for source in sources:
        wanted: dict[Leg, float] = {}
        for leg, share in expectation.route(source).legs:
            wanted[leg] = wanted.get(leg, 0.0) + share
        if _loose(wanted, expectation) != pytest.approx(_loose(atom.shares, expectation)):
            return False
    return True


def _loose(shares: dict[Leg, float], expectation: Expectation) -> dict[Leg, float]:
    return {
        leg._replace(masquerade=None) if leg.backend in expectation.lenient_masquerade else leg: share
        for leg, share in shares.items()
    }


@pytest.mark.parametrize("name", NFTABLES)
def test_a_healthy_capture_does_what_the_api_says(name: str) -> None:
    """On every node, for every Service, client and family; and nothing is unverified."""
    assert all(not wrong for wrong in wrong_services(capture(name)).values())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in NFTABLES for fault in faults(name)])
def test_a_fault_differs_for_its_service_alone(name: str, fault: str) -> None:
    """The walk sees the fault of the capture, and no other."""
    told = truth(name, fault)
    assert wrong_services(faulty(name, fault), told["node"])[told["node"]] == set(told["services"])
