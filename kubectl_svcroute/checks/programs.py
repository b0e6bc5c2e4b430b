"""Whose rules those are: the programs that share a node's rules with kube-proxy, recognised by the names that they use.

This explains a finding and never decides one: a rule is judged by what it does, whoever wrote it. The names are those that the
programs' own sources and public dumps show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ..model.fast_dataclass import dataclass
from ..model.walk_result import Step

_POLICY = "look at the network policies that select these pods"
_FIREWALL = "let it accept traffic to and from the pod network"
_ENGINE = "let it accept forwarded traffic to and from the pod network"
_VPN = "take the pod network and the Service network out of what it routes or drops"
_CNI = "look at its configuration and its log on this node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program that writes rules beside kube-proxy."""

    name: str
    chains: re.Pattern[str]
    """The names of its chains."""
    tables: re.Pattern[str]
    """The names of its nftables tables."""
    words: re.Pattern[str]
    """What only its rules hold: comments, sets, interfaces."""
    advice: str
    """What to do about a rule of it that stops or changes traffic of Services."""


_NEVER = r"(?!)"


def _program(name: str, chains: str, advice: str, *, tables: str = _NEVER, words: str = _NEVER) -> Program:
    return Program(
        name=name,
        chains=re.compile(chains or _NEVER),
        tables=re.compile(rf"(?:{tables})$"),
        words=re.compile(words),
        advice=advice,
    )


PROGRAMS = (
    _program(
        "Calico",
        r"cali[-_]|cali\d|filter-cali-|nat-cali-|raw-cali-|mangle-cali-",
        f"{_POLICY} (calicoctl get globalnetworkpolicy,networkpolicy)",
        tables="calico",
        words=r"cali:|cali[46]0|-[io] cali",
    ),
    _program("Cilium", r"(?:OLD_)?CILIUM_", f"{_POLICY} (cilium policy get)", tables="cilium.*", words=r"cilium[:_]|-[io] lxc"),
    _program(
        "Antrea", r"ANTREA-", f"{_POLICY} (antctl get networkpolicy)", tables="antrea.*", words=r"ANTREA-|antrea-gw|Antrea:"
    ),
    _program(
        "Weave Net",
        r"WEAVE(?:-|$)",
        f"{_POLICY} (weave-npc's log tells what it blocks)",
        words=r"match-set weave-|-[io] weave|vethwe-",
    ),
    _program("kube-router", r"KUBE-(?:ROUTER-|NWPLCY-|POD-FW-)", _POLICY, words=r"kube-router|KUBE-(?:SRC|DST)-[A-Z0-9]{16}"),
    _program("Azure NPM", r"AZURE-NPM", f"{_POLICY} (azure-npm's log on this node)", words=r"azure-npm-"),
    _program("flannel", r"FLANNEL-", _CNI, tables="flannel-ipv[46]", words=r"flanneld|flannel\.\d|-[io] flannel"),
    _program("the AWS VPC CNI", r"AWS-(?:SNAT|CONNMARK)-CHAIN", _CNI, words=r"\bAWS, |-[io] eni\+"),
    _program("kindnet", r"KIND-MASQ-AGENT|KINDNET", _POLICY, tables="kindnet.*|kube-network-policies", words=r"kind-masq-agent"),
    _program(
        "ip-masq-agent", r"IP-MASQ(?:-AGENT)?$", "look at its list of networks that are not masqueraded", words=r"ip-masq-agent"
    ),
    _program("Istio", r"ISTIO_", "look at istio-cni's log on this node", tables="istio.*", words=r"istio-inpod"),
    _program("NodeLocal DNSCache", r"", "look at node-local-dns on this node", words=r"NodeLocal DNS Cache"),
    _program(
        "firewalld",
        r"(?:INPUT|FORWARD|PREROUTING|POSTROUTING|OUTPUT|FWDI|FWDO|FWD|IN|PRE|POST)_(?:direct|ZONES|IN_ZONES|OUT_ZONES|POLICIES|public|trusted|block|dmz|drop|external|home|internal|work|nm-shared)"
        r"|(?:filter|nat|mangle|raw)_(?:INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING|IN_|FWD)",
        f"{_FIREWALL} (firewall-cmd --zone=trusted --add-source=…)",
        tables="firewalld|firewalld_policy_drop",
    ),
    _program(
        "ufw", r"ufw6?-", f"{_FIREWALL} (ufw route allow …, or DEFAULT_FORWARD_POLICY in /etc/default/ufw)", words=r"\[UFW "
    ),
    _program(
        "Docker",
        r"DOCKER(?:-|$)",
        f"{_ENGINE} (a rule in DOCKER-USER, or the policy of FORWARD)",
        tables="docker-bridges",
        words=r"-[io] docker0",
    ),
    _program("libvirt", r"LIBVIRT_", _ENGINE, tables="libvirt_network", words=r"-[io] virbr"),
    _program(
        "LXD", r"lxd_|lxdbr", _ENGINE, tables="lxd|incus", words=r"-[io] (?:lxdbr|incusbr)|generated for (?:LXD|Incus) network"
    ),
    _program("Podman", r"NETAVARK", _ENGINE, tables="netavark", words=r"-[io] podman"),
    _program("Tailscale", r"ts-(?:input|forward|postrouting)", _VPN, tables="tailscale.*", words=r"-[io] tailscale"),
    _program("NetBird", r"NETBIRD-|netbird-", _VPN, tables="netbird.*", words=r"netbird|-[io] wt0"),
    _program("WireGuard", r"", _VPN, tables="wg-quick-.*", words=r"wg-quick\(8\)|-[io] wg"),
    _program(
        "OVN-Kubernetes",
        r"OVN-KUBE-",
        f"{_POLICY} (ovnkube-node's log on this node)",
        tables="ovn-kubernetes.*",
        words=r"ovn-k8s-",
    ),
    _program("Kube-OVN", r"OVN-", f"{_POLICY}", words=r"match-set ovn[46]0"),
    _program("the OpenShift SDN", r"OPENSHIFT-", _POLICY, words=r"-[io] tun0 .*OPENSHIFT|-[io] tun0\b"),
    _program(
        "CNI plugins (portmap, bridge, firewall)", r"CNI-", "look at the CNI configuration in /etc/cni/net.d", tables="cni_.*"
    ),
    _program("Submariner", r"SUBMARINER-", _VPN, tables="submariner.*", words=r"SUBMARINER"),
    _program("Kilo", r"KILO-", _VPN, words=r"-[io] kilo"),
    _program("Terway", r"terway|TERWAY", _POLICY, words=r"terway"),
    _program("Talos", r"talos", "look at the machine's NetworkRuleConfig", tables="talos"),
    _program("fail2ban", r"f2b-", "look at what it banned (fail2ban-client status)", tables="f2b-table", words=r"match-set f2b-"),
    _program("CrowdSec", r"CROWDSEC", "look at what it banned (cscli decisions list)", tables="crowdsec6?", words=r"crowdsec"),
    _program("Oracle Cloud's image", r"InstanceServices", _FIREWALL, words=r"InstanceServices"),
)
"""Programs in the order in which they are tried."""

_POLICY_SETTERS = ("ufw", "Docker", "firewalld")
"""Programs that set the policy of FORWARD or INPUT to DROP."""


def of_table(name: str) -> Program | None:
    """The program that an nftables table belongs to; None when it is not recognised."""
    return next((program for program in PROGRAMS if program.tables.match(name)), None)


def of_chain(name: str) -> Program | None:
    """The program that a chain belongs to; None when it is not recognised."""
    return next((program for program in PROGRAMS if program.chains.match(name)), None)


def of_step(step: Step, chains: Iterable[str] = ()) -> Program | None:
    """The program whose rule a step is: by its chain, its table, or the words of the rule; None when it is not recognised.

    `chains`: the names of all chains of the node's rules. A policy has no words, and is ascribed to the one program there
    that sets policies.
    """
    found = _of_rule(step.table.partition(" ")[2], step.chain, step.target, step.rule)
    if found is None and step.rule.startswith("(policy"):
        there = {p.name: p for name in chains if not name.startswith("KUBE-") and (p := of_chain(name)) is not None}
        setters = [there[name] for name in _POLICY_SETTERS if name in there]
        found = setters[0] if setters else None
    return found


@lru_cache(maxsize=1 << 10)
def _of_rule(table: str, chain: str, target: str, rule: str) -> Program | None:
    found = of_chain(chain) or of_table(table) or of_chain(target)
    return found or next((program for program in PROGRAMS if program.words.search(rule)), None)


def name_of(step: Step, chains: Iterable[str] = ()) -> str:
    """Whose rule a step is, for people: a program, or the chain and table where none is recognised."""
    program = of_step(step, chains)
    return program.name if program is not None else f"another program (chain {step.chain} of table {step.table})"
