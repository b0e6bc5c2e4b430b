# ruff: noqa: E501 - a rule of iptables is one line, however long
"""Hand-written rule sets, a few rules each: one for every match and target that the walker claims to know.

A line is `table chain rule...`; a chain that is not built in is made by being named. `{svc}` and the like are addresses of
the family that is tried (`WORDS`), and `{to}` is the place that DNAT sends to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.model.ranges import network, number, single, union
from kubectl_svcroute.model.routes import Client
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.hooks import BaseChain
from kubectl_svcroute.observe.iptables import base_chains
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.iptables_save import parse_iptables_save

from .lab import TABLES
from .questions import Question

WORDS = {
    4: {
        "svc": "10.96.0.10", "node": "172.18.0.11", "lo": "127.0.0.1", "podnet": "10.244.1.0/24", "pod": "10.244.1.7",
        "outnet": "198.51.100.0/24", "out": "198.51.100.7", "to": "10.9.9.9", "to_port": "10.9.9.9:99", "snat": "192.0.2.9",
        "lonet": "127.0.0.0/8", "lows": "198.51.100.0-198.51.100.15", "dsts": "10.96.0.1-10.96.0.20",
        "all": "255.255.255.255", "to_two": "10.9.9.8-10.9.9.9", "svcnet": "10.96.0.0/12", "icmp": "icmp-host-prohibited",
    },
    6: {
        "svc": "fd00:96::10", "node": "fd00:18::b", "lo": "::1", "podnet": "fd00:244:1::/64", "pod": "fd00:244:1::7",
        "outnet": "2001:db8::/64", "out": "2001:db8::7", "to": "fd00:9::9", "to_port": "[fd00:9::9]:99", "snat": "2001:db8:2::9",
        "lonet": "::1/128", "lows": "2001:db8::1-2001:db8::f", "dsts": "fd00:96::1-fd00:96::20",
        "all": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "to_two": "fd00:9::8-fd00:9::9", "svcnet": "fd00:96::/112",
        "icmp": "icmp6-adm-prohibited",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Micro:
    """A rule set and what is special about it."""

    name: str
    lines: tuple[str, ...]
    unverified: bool = False
    """The walker says of some packets that it cannot tell."""
    families: tuple[int, ...] = (4, 6)
    flavours: tuple[str, ...] = ("legacy", "nft")

    def text(self, family: int) -> str:
        """As iptables-restore takes it."""
        tables: dict[str, tuple[list[str], list[str]]] = {}
        for line in self.lines:
            table, chain, rule = line.format(**WORDS[family]).split(" ", 2)
            chains, rules = tables.setdefault(table, ([], []))
            if rule.startswith("policy "):
                chains.append(f":{chain} {rule[7:]} [0:0]")
                continue
            if chain not in TABLES[table] and f":{chain} - [0:0]" not in chains:
                chains.append(f":{chain} - [0:0]")
            rules.append(f"-A {chain} {rule}")
        found = []
        for table, (chains, rules) in tables.items():
            declared = {chain[1:].split()[0] for chain in chains}
            built_in = [f":{name} ACCEPT [0:0]" for name in TABLES[table] if name not in declared]
            found += [f"*{table}", *built_in, *chains, *rules, "COMMIT"]
        return "\n".join(found) + "\n"


def questions(family: int) -> list[Question]:
    """Every sort of client, to a cluster IP and to the node itself, in every protocol."""
    words = WORDS[family]
    found = []
    clients = [
        (Client.POD, network(words["podnet"]), False),
        (Client.OUTSIDE, network(words["outnet"]), False),
        (Client.NODE, single(number(words["node"])), True),
    ]
    for address, port, protocol in (
        ("svc", 80, Protocol.TCP), ("svc", 53, Protocol.TCP), ("svc", 53, Protocol.UDP), ("svc", 53, Protocol.SCTP),
        ("node", 30080, Protocol.TCP),
    ):  # fmt: skip
        for client, sources, from_node in clients:
            frontend = Frontend(words[address], protocol, port, FrontendKind.CLUSTER_IP)
            found.append(Question(frontend, client, sources, from_node))
    if family == 4:
        loopback = Frontend(words["lo"], Protocol.TCP, 30080, FrontendKind.NODE_PORT)
        found.append(Question(loopback, Client.NODE, single(number(words["lo"])), True))
    return found


def asker(text: str, family: int, *, hooks: Mapping[str, Sequence[BaseChain]] | None = None) -> Asker:
    """The walker, told the interfaces' names as a dump of a node's links would."""
    words = WORDS[family]
    return Asker(
        hooks=merge([base_chains(parse_iptables_save(text, family=family)) if hooks is None else hooks]),
        context=NodeContext(family=family, local=union([single(number(words["node"])), network(words["lonet"])])),
        pod_side=Interface(name="veth0"),
        uplink=Interface(name="eth0"),
    )


def _matches(name: str, *matches: str, hooks: str = "PREROUTING OUTPUT", **options: Any) -> list[Micro]:
    """A match in front of a DNAT: the packets that it holds for go elsewhere."""
    found = []
    for index, match in enumerate(matches):
        lines = tuple(f"nat {hook} {match} -j DNAT --to-destination {{to}}" for hook in hooks.split())
        found.append(Micro(f"{name}-{index}" if len(matches) > 1 else name, lines, **options))
    return found


_BOTH = ("nat PREROUTING -j SVC", "nat OUTPUT -j SVC")

MICRO: tuple[Micro, ...] = (
    # ---- what stands in front of the matches
    *_matches("source", "-s {out}", "! -s {podnet}", "-s {podnet}", "! -s {out}", "-s {node}"),
    *_matches("destination", "-d {svc}", "! -d {svc}", "-d {svcnet}", "! -d {svcnet}"),
    *_matches("protocol", "-p tcp", "! -p tcp", "-p udp", "-p sctp", "-p icmp", "-p 0", "-p 6"),
    *_matches("interface-in", "-i veth0", "! -i veth0", "-i veth+", "! -i eth+", "-i lo", "-i +", hooks="PREROUTING"),
    Micro("interface-out-lo", ("nat POSTROUTING -o lo -j MASQUERADE --random-fully", "filter FORWARD -o lo -j DROP")),
    Micro("interface-out-any", ("filter FORWARD -o + -j DROP", "filter OUTPUT -o + -d {svc} -p udp -j DROP")),
    Micro("interface-out-at-output", ("security OUTPUT -o lo -d {to} -j DROP", "nat OUTPUT -d {node} -j DNAT --to-destination {to}",
                                      "nat OUTPUT -d {svc} -j DNAT --to-destination {node}", "filter OUTPUT -o lo -d {node} -p udp -j DROP")),
    Micro("interface-out", ("filter FORWARD -o eth0 -j DROP",), unverified=True),
    Micro("interface-in-at-input", ("filter INPUT -i lo -j DROP", "filter FORWARD -i veth0 -j DROP")),
    *_matches("fragment", "-f", "! -f", families=(4,)),
    # ---- ports
    *_matches("tcp", "-p tcp -m tcp --dport 80", "-p tcp -m tcp ! --dport 80", "-p tcp -m tcp --dport 50:100",
              "-p tcp -m tcp ! --dport :79", "-p tcp -m tcp --dport 80:", "-p tcp -m tcp --sport 0:65535"),
    *_matches("tcp-sport", "-p tcp -m tcp --sport 1024:30000", unverified=True),
    *_matches("tcp-option", "-p tcp -m tcp --tcp-option 2", unverified=True),
    *_matches("tcp-flags", "-p tcp -m tcp --tcp-flags SYN SYN", "-p tcp -m tcp --tcp-flags SYN,ACK SYN",
              "-p tcp -m tcp --tcp-flags ALL SYN", "-p tcp -m tcp --tcp-flags ACK ACK", "-p tcp -m tcp --tcp-flags ALL NONE",
              "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", "-p tcp -m tcp --tcp-flags ALL ALL",
              "-p tcp -m tcp --syn", "-p tcp -m tcp ! --syn", "-p tcp -m tcp --tcp-flags FIN,PSH NONE"),
    *_matches("udp", "-p udp -m udp --dport 53", "-p udp -m udp ! --dport 53", "-p udp -m udp --dport 1:52"),
    Micro("udp-without-p", ("nat PREROUTING ! -p udp -m udp --dport 53 -j DNAT --to-destination {to}",), flavours=("nft",)),
    *_matches("sctp", "-p sctp -m sctp --dport 53", "-p sctp -m sctp ! --dport 53", "-p sctp -m sctp --dport 54:60"),
    *_matches("sctp-chunks", "-p sctp -m sctp --chunk-types any INIT", unverified=True),
    *_matches("multiport", "-p tcp -m multiport --dports 80,443", "-p tcp -m multiport ! --dports 80,443",
              "-p udp -m multiport --dports 1:52,53", "-p tcp -m multiport --dports 53,30000:40000"),
    *_matches("multiport-sport", "-p tcp -m multiport --sports 1024:30000", "-p tcp -m multiport --ports 81,1024:30000",
              unverified=True),
    # ---- marks
    Micro("mark", (
        "mangle PREROUTING -s {podnet} -j MARK --set-xmark 0x4000/0x4000",
        "nat PREROUTING -m mark --mark 0x4000/0x4000 -j DNAT --to-destination {to}",
        "filter FORWARD -m mark ! --mark 0x4000/0xffff -j DROP")),
    Micro("mark-arithmetic", (
        "mangle PREROUTING -j MARK --set-mark 0x0ff0", "mangle PREROUTING -j MARK --set-xmark 0x3000/0x0f00",
        "mangle PREROUTING -p udp -j MARK --or-mark 0x8000", "mangle PREROUTING -p tcp -j MARK --and-mark 0xf0ff",
        "mangle PREROUTING -p sctp -j MARK --xor-mark 0x30f0",
        "nat PREROUTING -p tcp -m mark --mark 0x30f0 -j DNAT --to-destination {to_port}",
        "nat PREROUTING -m mark --mark 0xb0f0 -j DNAT --to-destination {to}",
        "nat PREROUTING -m mark --mark 0x0/0xffffffff -j DNAT --to-destination {snat}")),
    Micro("connmark", (
        "mangle PREROUTING -s {out} -j CONNMARK --set-xmark 0x1/0x1",
        "mangle PREROUTING -p udp -j CONNMARK --or-mark 0x2",
        "nat PREROUTING -m connmark --mark 0x1/0x1 -j DNAT --to-destination {to}",
        "filter FORWARD -m connmark ! --mark 0x0 -p udp -j DROP")),
    Micro("connmark-save-restore", (
        "raw PREROUTING -s {podnet} -j MARK --set-xmark 0x4001/0xffffffff",
        "mangle PREROUTING -j CONNMARK --save-mark --nfmask 0x4000 --ctmask 0x4000",
        "mangle PREROUTING -j MARK --set-xmark 0x8/0xffffffff",
        "mangle PREROUTING -m connmark --mark 0x4000/0x4000 -j CONNMARK --restore-mark --nfmask 0x4000 --ctmask 0x4000",
        "nat PREROUTING -m mark --mark 0x4008 -j DNAT --to-destination {to}")),
    Micro("connmark-save-whole", (
        "mangle PREROUTING -p udp -j MARK --set-mark 0x77", "mangle PREROUTING -j CONNMARK --save-mark",
        "mangle PREROUTING -j MARK --set-mark 0", "mangle FORWARD -j CONNMARK --restore-mark",
        "filter FORWARD -m mark --mark 0x77 -j DROP")),
    Micro("mark-stays-on-loopback", (
        "mangle OUTPUT -d {node} -j MARK --set-mark 0x5", "filter INPUT -m mark --mark 0x5 -j DROP")),
    # ---- connections
    *_matches("conntrack-state", "-m conntrack --ctstate NEW", "-m conntrack ! --ctstate NEW",
              "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack --ctstate INVALID", "-m conntrack --ctstate UNTRACKED"),
    *_matches("state", "-m state --state NEW", "-m state ! --state ESTABLISHED,RELATED"),
    Micro("conntrack-dnat", (
        "nat PREROUTING -d {svc} -p tcp -j DNAT --to-destination {to_port}",
        "filter FORWARD -m conntrack --ctstate DNAT -m conntrack --ctorigdst {svc} -s {out} -j DROP",
        "filter FORWARD -m conntrack ! --ctstate DNAT -j REJECT",
        "filter FORWARD -p tcp -m conntrack --ctorigdstport 53 -j DROP")),
    Micro("conntrack-snat", (
        "nat POSTROUTING -d {svc} -j MASQUERADE --random-fully", "mangle INPUT -m conntrack --ctstate SNAT -j DROP",
        "nat POSTROUTING -o lo -j SNAT --to-source {snat}", "filter INPUT -m conntrack --ctorigsrc {node} -p tcp -j DROP")),
    *_matches("conntrack-originals", "-m conntrack --ctorigsrc {out}", "-m conntrack ! --ctorigsrc {podnet}",
              "-m conntrack --ctorigdst {svcnet}", "-m conntrack ! --ctorigdst {svc}", "-p tcp -m conntrack --ctorigdstport 80",
              "-p tcp -m conntrack ! --ctorigdstport 1:80", "-m conntrack --ctproto tcp", "-m conntrack ! --ctproto 17",
              "-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY"),
    *_matches("conntrack-others", "-m conntrack --ctstatus ASSURED", "-m conntrack --ctreplsrc {svc}", unverified=True),
    Micro("notrack", (
        "raw PREROUTING -d {svc} -p udp -j CT --notrack", "raw OUTPUT -d {svc} -p udp -j NOTRACK",
        "nat PREROUTING -d {svc} -j DNAT --to-destination {to}", "nat OUTPUT -d {svc} -j DNAT --to-destination {to}",
        "filter FORWARD -m conntrack --ctstate UNTRACKED -s {out} -j DROP", "nat POSTROUTING -j MASQUERADE --random-fully")),
    Micro("before-conntrack", (
        "raw PREROUTING -s {pod} -m conntrack --ctstate INVALID -j DROP", "raw PREROUTING -m conntrack --ctstate NEW -j DROP",
        "raw OUTPUT -p udp -m conntrack ! --ctstate NEW -j NOTRACK", "raw PREROUTING -m conntrack ! --ctorigdst {svc} -j DROP",
        "raw PREROUTING -m connmark ! --mark 0x7 -j DROP", "raw OUTPUT -p sctp -j CONNMARK --set-mark 0x7",
        "raw PREROUTING -i lo -m conntrack --ctstate NEW -p udp -j DROP", "raw PREROUTING -i lo -j NOTRACK",
        "nat OUTPUT -d {svc} -j DNAT --to-destination {node}", "filter INPUT -m conntrack --ctstate UNTRACKED -j DROP",
        "filter FORWARD -m connmark --mark 0x7 -j DROP")),
    Micro("untracked-asked-for-more", (
        "raw PREROUTING -p udp -j NOTRACK", "mangle PREROUTING -m conntrack ! --ctorigdst {svc} -j DROP",
        "mangle FORWARD -m conntrack --ctstate UNTRACKED --ctorigdst {node} -j DROP", "mangle FORWARD -m connmark ! --mark 0x9 -p udp -j DROP")),
    Micro("zone", ("raw PREROUTING -s {out} -j CT --zone 7", *(f"nat {h} -d {{svc}} -j DNAT --to-destination {{to}}"
                   for h in ("PREROUTING", "OUTPUT"))), unverified=True),
    # ---- addresses
    *_matches("addrtype", "-m addrtype --dst-type LOCAL", "-m addrtype ! --dst-type LOCAL", "-m addrtype --src-type LOCAL",
              "-m addrtype ! --src-type LOCAL", "-m addrtype --dst-type UNICAST", "-m addrtype ! --dst-type UNICAST",
              "-m addrtype --src-type UNICAST", "-m addrtype --dst-type UNICAST,LOCAL", "-m addrtype --src-type UNICAST,LOCAL",
              "-m addrtype --dst-type MULTICAST"),
    *_matches("addrtype-broadcast", "-m addrtype --dst-type BROADCAST", "-m addrtype ! --dst-type LOCAL,BROADCAST", families=(4,)),
    *_matches("addrtype-routes", "-m addrtype --dst-type PROHIBIT", unverified=True, families=(4,)),
    *_matches("addrtype-interface", "-m addrtype --dst-type LOCAL --limit-iface-in", hooks="PREROUTING", unverified=True),
    *_matches("iprange", "-m iprange --src-range {lows}", "-m iprange ! --src-range {lows}", "-m iprange --dst-range {dsts}",
              "-m iprange ! --dst-range {dsts}", "-m iprange --src-range {lows} --dst-range {dsts}"),
    # ---- chance and memory
    Micro("statistic", (*_BOTH, "nat SVC -d {svc} -m statistic --mode random --probability 0.3 -j DNAT --to-destination {to}",
                        "nat SVC -d {svc} -m statistic --mode random ! --probability 0.25 -j DNAT --to-destination {snat}")),
    Micro("statistic-edges", (*_BOTH, "nat SVC -p udp -m statistic --mode random --probability 0.0 -j DNAT --to-destination {to}",
                              "nat SVC -p tcp -m statistic --mode random --probability 1.0 -j DNAT --to-destination {to}")),
    Micro("statistic-nth", (*_BOTH, "nat SVC -d {svc} -p tcp --dport 80 -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination {to}",
                            "nat SVC -d {svc} -p tcp --dport 53 -m statistic --mode nth ! --every 4 --packet 0 -j DNAT --to-destination {to}")),
    Micro("recent", (
        *_BOTH,
        "nat SVC -d {svc} -m recent --rcheck --seconds 100 --reap --name A --mask {all} --rsource -j EP-A",
        "nat SVC -d {svc} -m recent --rcheck --seconds 100 --reap --name B --mask {all} --rsource -j EP-B",
        "nat SVC -d {svc} -m statistic --mode random --probability 0.5 -j EP-A", "nat SVC -d {svc} -j EP-B",
        "nat EP-A -m recent --set --name A --mask {all} --rsource -j DNAT --to-destination {to}",
        "nat EP-B -m recent --set --name B --mask {all} --rsource -j DNAT --to-destination {snat}")),
    Micro("recent-update", (
        *_BOTH, "nat SVC -d {svc} -m recent --update --seconds 100 --name A -j EP-A",
        "nat SVC -d {svc} -m statistic --mode random --probability 0.5 -j EP-A",
        "nat SVC -d {svc} -j DNAT --to-destination {snat}",
        "nat EP-A -m recent --set --name A -j DNAT --to-destination {to}")),
    Micro("recent-behind-chance", (
        *_BOTH, "nat SVC -d {svc} -m recent --rcheck --seconds 100 --name B -j EP-B",
        "nat SVC -d {svc} -m statistic --mode random --probability 0.5 -j EP-A",
        "nat SVC -d {svc} -m recent --rcheck --seconds 100 --name A -j EP-A", "nat SVC -d {svc} -j EP-B",
        "nat EP-A -m recent --set --name A -j DNAT --to-destination {to}",
        "nat EP-B -m recent --set --name B -j DNAT --to-destination {snat}")),
    Micro("recent-in-one-connection", (
        *_BOTH, "nat SVC -d {svc} -p tcp -m recent --name A --set", "nat SVC -d {svc} -m recent --name A --rcheck -j DNAT --to-destination {to}",
        "nat SVC -d {node} -p tcp -m recent --name B --set", "nat SVC -d {node} -m recent --name B ! --rcheck -j DNAT --to-destination {to}")),
    Micro("recent-negated", (
        *_BOTH, "nat SVC -d {svc} -m recent ! --rcheck --name A -j DNAT --to-destination {to}",
        "nat SVC -d {svc} -j DNAT --to-destination {snat}")),
    # ---- what a routed first packet answers by itself
    *_matches("physdev", "-m physdev --physdev-is-in", "-m physdev ! --physdev-is-in", "-m physdev --physdev-is-bridged",
              "-m physdev --physdev-in br0", hooks="PREROUTING"),
    *_matches("pkttype", "-m pkttype --pkt-type unicast", "-m pkttype ! --pkt-type unicast", "-m pkttype --pkt-type broadcast",
              hooks="PREROUTING"),
    *_matches("policy", "-m policy --dir in --pol none", "-m policy --dir in --pol ipsec", hooks="PREROUTING"),
    Micro("rpfilter", ("raw PREROUTING -m rpfilter --invert -j DROP", "mangle PREROUTING -m rpfilter -p udp -j DROP",
                       "mangle PREROUTING -m rpfilter --loose --invert -j DROP")),
    Micro("owner-foreign", ("nat POSTROUTING -m owner --socket-exists -s {outnet} -j MASQUERADE",
                            "nat POSTROUTING -m owner ! --uid-owner 7 -s {podnet} -j MASQUERADE")),
    Micro("owner", ("filter OUTPUT -m owner --uid-owner 7 -j DROP",), unverified=True),
    *_matches("comment", '-m comment --comment "-j DROP -d 1.2.3.4 \\\\ it\'s"'),
    *_matches("nfacct", "-m nfacct --nfacct-name lab-counter -d {svc}"),
    *_matches("limit", "-m limit --limit 1/hour", unverified=True),
    *_matches("length", "-m length --length 0:65535", unverified=True),
    *_matches("mac", "-m mac --mac-source 02:00:00:00:00:02", hooks="PREROUTING", unverified=True),
    # ---- the way through chains
    Micro("return", (
        *_BOTH, "nat SVC -p udp -j RETURN", "nat SVC -s {out} -j INNER", "nat SVC -d {svc} -j DNAT --to-destination {to}",
        "nat INNER -p tcp --dport 80 -j RETURN", "nat INNER -d {svc} -j DNAT --to-destination {snat}")),
    Micro("goto", (
        *_BOTH, "nat PREROUTING -d {svc} -j DNAT --to-destination {to}", "nat SVC -p udp -g INNER",
        "nat SVC -p tcp -j INNER", "nat SVC -d {svc} -j DNAT --to-destination {snat}",
        "nat INNER -s {out} -p tcp -j DNAT --to-destination {to_port}", "nat INNER -s {pod} -j RETURN")),
    Micro("goto-from-base", (
        "nat PREROUTING -p tcp -g INNER", "nat PREROUTING -j DNAT --to-destination {to}", "nat INNER -s {out} -j DNAT --to-destination {snat}",
        "filter FORWARD -g INNER", "filter FORWARD -j ACCEPT", "filter INNER -p tcp --dport 80 -j RETURN", "filter INNER -s {podnet} -j ACCEPT",
        "filter FORWARD policy DROP")),
    Micro("return-from-base", ("filter FORWARD -s {podnet} -j RETURN", "filter FORWARD -j ACCEPT", "filter FORWARD policy DROP")),
    Micro("policy-drop", ("filter FORWARD policy DROP", "filter FORWARD -s {podnet} -j ACCEPT", "filter INPUT policy DROP",
                          "filter INPUT -s {out} -j ACCEPT", "mangle OUTPUT policy DROP", "mangle OUTPUT -p udp -j ACCEPT")),
    Micro("no-target", (*_BOTH, "nat SVC -d {svc}", "nat SVC -d {svc} -j DNAT --to-destination {to}")),
    Micro("accept-ends-one-table", ("mangle PREROUTING -j ACCEPT", "mangle PREROUTING -j DROP", "raw PREROUTING -s {pod} -j DROP",
                                    "nat PREROUTING -s {out} -j ACCEPT", "nat PREROUTING -d {svc} -j DNAT --to-destination {to}")),
    Micro("tables-in-order", (
        "security FORWARD -s {out} -j DROP", "filter FORWARD -p udp -j DROP", "mangle FORWARD -p sctp -j DROP", "mangle POSTROUTING -d {node} -j DROP",
        "mangle INPUT -s {pod} -j DROP", "security OUTPUT -p udp -j DROP", "raw OUTPUT -p sctp -j DROP")),
    # ---- what becomes of a packet
    Micro("drop", ("filter FORWARD -s {podnet} -j DROP", "raw PREROUTING -p udp -j DROP", "filter OUTPUT -p sctp -j DROP")),
    Micro("reject", ("filter FORWARD -j REJECT", "filter INPUT -p tcp -j REJECT --reject-with tcp-reset",
                     "filter OUTPUT -d {svc} -j REJECT --reject-with {icmp}")),
    Micro("dnat-port", ("nat PREROUTING -d {svc} -p tcp -j DNAT --to-destination {to_port}",
                        "nat PREROUTING -d {svc} -p udp -j DNAT --to-destination {to_port}",
                        "nat PREROUTING -d {svc} -p sctp -j DNAT --to-destination {to_port}",
                        "nat OUTPUT -d {svc} -p tcp -j DNAT --to-destination {to_port}")),
    Micro("dnat-to-the-node", ("nat PREROUTING -d {svc} -j DNAT --to-destination {node}",
                               "nat OUTPUT -d {svc} -j DNAT --to-destination {node}", "filter INPUT -p udp -j DROP")),
    Micro("dnat-from-the-node", ("nat PREROUTING -d {node} -j DNAT --to-destination {to}",
                                 "nat OUTPUT -d {node} -j DNAT --to-destination {to}", "filter FORWARD -s {pod} -j DROP")),
    Micro("dnat-once", ("nat PREROUTING -d {svc} -j DNAT --to-destination {to}", "nat PREROUTING -d {to} -j DNAT --to-destination {snat}",
                        "nat OUTPUT -d {svc} -j DNAT --to-destination {node}", "nat PREROUTING -d {node} -i lo -j DNAT --to-destination {to}")),
    Micro("dnat-range", ("nat PREROUTING -d {svc} -j DNAT --to-destination {to_two}",), unverified=True),
    Micro("redirect", ("nat OUTPUT -d {svc} -p tcp -j REDIRECT --to-ports 99", "nat OUTPUT -d {svc} -p udp -j REDIRECT")),
    Micro("redirect-foreign", ("nat PREROUTING -d {svc} -p tcp -j REDIRECT --to-ports 99",), unverified=True),
    Micro("masquerade", ("nat POSTROUTING -s {podnet} -j MASQUERADE --random-fully", "nat PREROUTING -d {svc} -p tcp -j DNAT --to-destination {to}")),
    Micro("masquerade-plain", ("nat POSTROUTING -s {outnet} -j MASQUERADE", "nat PREROUTING -d {svc} -p tcp -j DNAT --to-destination {to}")),
    Micro("snat", ("nat POSTROUTING -s {podnet} -j SNAT --to-source {snat}", "nat POSTROUTING -j SNAT --to-source {node} --random",
                   "nat PREROUTING -d {svc} -j DNAT --to-destination {to}")),
    Micro("snat-at-input", ("nat INPUT -s {podnet} -j SNAT --to-source {snat}", "nat PREROUTING -d {svc} -j DNAT --to-destination {node}",
                            "security INPUT -s {out} -j DROP")),
    Micro("masquerade-then-input", ("nat POSTROUTING -o lo -j MASQUERADE --random-fully",
                                    "filter INPUT ! -s {lonet} -d {lonet} -j DROP", "filter INPUT -m addrtype --src-type LOCAL -d {node} -j DROP")),
    Micro("snat-then-input", ("nat POSTROUTING -o lo -j SNAT --to-source {snat}", "filter INPUT -s {snat} -j DROP")),
    Micro("continue", ("mangle PREROUTING -d {svc} -j LOG", "mangle PREROUTING -p tcp --syn -j TCPMSS --set-mss 1400", "mangle FORWARD -j DSCP --set-dscp 1",
                       "mangle POSTROUTING -j CHECKSUM --checksum-fill -p udp", "filter FORWARD -j NFLOG", "filter FORWARD -j AUDIT --type accept",
                       "mangle PREROUTING -j TOS --set-tos 0x8/0xff", "mangle POSTROUTING -j CLASSIFY --set-class 1:1",
                       "nat PREROUTING -d {svc} -j DNAT --to-destination {to}")),
    Micro("ttl", ("mangle PREROUTING -j TTL --ttl-set 20", "nat PREROUTING -d {svc} -j DNAT --to-destination {to}"), families=(4,)),
    Micro("hop-limit", ("mangle PREROUTING -j HL --hl-set 20", "nat PREROUTING -d {svc} -j DNAT --to-destination {to}"), families=(6,)),
    Micro("unknown-target", ("mangle PREROUTING -p udp -j HMARK --hmark-tuple src --hmark-mod 3 --hmark-offset 5 --hmark-rnd 1",), unverified=True),
    Micro("netmap", ("nat PREROUTING -d {svc} -j NETMAP --to {to}",), unverified=True),
)  # fmt: skip
