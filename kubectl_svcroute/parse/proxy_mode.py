"""What does the work of kube-proxy on a node, by what the node shows.

A node in a mode that is not verified here must be recognised: it is neither a pass nor "all rules are missing". Only raw
text is searched, by names that each project gives its chains, tables and sets, and each search stops at the first find.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..model.fast_dataclass import dataclass
from ..model.lazy_regex import pattern
from .iptables_save import listing_of

_SAVES = ("iptables-save.txt", "iptables-nft-save.txt", "iptables-legacy-save.txt",
          "ip6tables-save.txt", "ip6tables-nft-save.txt", "ip6tables-legacy-save.txt")  # fmt: skip
_NFT = ("nft-ruleset.json", "nft-ruleset.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMode:
    """What serves Services on a node."""

    mode: str
    """iptables, nftables, ipvs, ebpf, none (the node was read, and shows nothing), or unknown (too little was read)."""
    why: str
    """What on the node says so, in one line."""
    remedy: str = ""
    """Where it cannot be verified here: the command of that project that would tell."""
    leftovers: tuple[str, ...] = ()
    """Other modes of which the node holds something too: `iptables`, `nftables`, `ipvs`."""
    named: str = ""
    """What kube-proxy itself answered when it was asked; empty when it was not."""

    @property
    def verifiable(self) -> bool:
        """Whether rules of this mode can be held against the API here."""
        return self.mode in ("iptables", "nftables")


@dataclass(frozen=True, slots=True)
class _Replacement:
    name: str
    sign: re.Pattern[str]
    remedy: str


_IPTABLES_SERVICES = pattern(r"^:KUBE-(?:SVC|SVL|EXT|XLB)-[A-Z2-7]{16} ", re.MULTILINE)
_IPTABLES_FRAME = pattern(r"^:KUBE-SERVICES ", re.MULTILINE)
_IPVS = pattern(
    r"^-A KUBE-\S+ .*--match-set KUBE-(?:6-)?(?:CLUSTER-IP|LOOP-BACK|NODE-PORT-\S+|LOAD-BALANCER\S*|EXTERNAL-IP\S*) "
    r"|^:KUBE-IPVS-",
    re.MULTILINE,
)
_NFT_TABLE = pattern(r'"table": ?\{[^{}]*"name": ?"kube-proxy"|^table ip6? kube-proxy \{', re.MULTILINE)

_REPLACEMENTS = (
    _Replacement(
        "Cilium's eBPF programs serve Services here (chains CILIUM_*)",
        pattern(r"^:CILIUM_\S+ ", re.MULTILINE),
        "kubectl -n kube-system exec ds/cilium -- cilium-dbg service list (older releases: cilium service list)",
    ),
    _Replacement(
        "Calico's eBPF data plane serves Services here (chains cali-* that look for its marks on bpf traffic)",
        pattern(r"^-A cali-\S+ .*(?:BPF|bpf|eBPF)|^:cali-\S*[Bb][Pp][Ff]", re.MULTILINE),
        "kubectl -n calico-system exec ds/calico-node -- calico-node -bpf nat dump",
    ),
    _Replacement(
        "OVN-Kubernetes serves Services here (chains OVN-KUBE-*)",
        pattern(r"^:OVN-KUBE-\S+ ", re.MULTILINE),
        "ovn-nbctl lb-list, in the ovnkube-node pod of this node",
    ),
    _Replacement(
        "Antrea's proxy serves Services here (chains ANTREA-*)",
        pattern(r"^:ANTREA-\S+ ", re.MULTILINE),
        "antctl get serviceexternalip and ovs-ofctl dump-groups br-int, in the antrea-agent pod of this node",
    ),
    _Replacement(
        "kube-router serves Services here by IPVS (chains KUBE-ROUTER-* and sets kube-router-svip)",
        pattern(r"--match-set (?:inet6:)?kube-router-svip|^:KUBE-ROUTER-(?:SERVICES|HAIRPIN) ", re.MULTILINE),
        "ipvsadm -Ln, on this node",
    ),
)

_BY_NAME = {"iptables": "iptables", "nftables": "nftables", "ipvs": "ipvs"}
_IPVS_REMEDY = "ipvsadm -Ln and ip -o addr show kube-ipvs0, on this node"


def node_mode(files: Mapping[str, str]) -> NodeMode:
    """The mode of one node, by the files of its dump (model.snapshot.NodeDump.files).

    What kube-proxy answers itself decides, where it was asked; what the node holds of other modes is named as leftovers.
    Without an answer, what the node holds decides, and the newest mode of several: kube-proxy removes older state when
    it starts in nftables mode, and not the other way round (kube-proxy-rules.md, section 7).
    """
    saves = [files[name] for name in _SAVES if name in files]
    nft = [files[name] for name in _NFT if name in files]
    if "nft-tables.json" in files:
        nft.append(files["nft-tables.json"])
    held = _held(saves, nft)
    named = files.get("proxy-mode.txt", "").strip()
    mode = _BY_NAME.get(named, "")
    if mode:
        why = f"kube-proxy says that it runs in {mode} mode"
        others = tuple(name for name in held if name != mode)
        return NodeMode(mode=mode, why=why, remedy=_IPVS_REMEDY if mode == "ipvs" else "", leftovers=others, named=named)
    if "nftables" in held:
        return NodeMode(mode="nftables", why=held["nftables"], leftovers=tuple(n for n in held if n != "nftables"), named=named)
    if "ipvs" in held:
        return NodeMode(
            mode="ipvs", why=held["ipvs"], remedy=_IPVS_REMEDY, leftovers=tuple(n for n in held if n != "ipvs"), named=named
        )
    if "iptables" in held:
        return NodeMode(mode="iptables", why=held["iptables"], named=named)
    for other in _REPLACEMENTS:
        if any(other.sign.search(text) for text in saves):
            return NodeMode(mode="ebpf", why=f"{other.name}, and kube-proxy has no chains", remedy=other.remedy, named=named)
    if any(_IPTABLES_FRAME.search(text) for text in saves):
        # kube-proxy's frame without a single Service: never synced, or flushed. That is a finding of this mode.
        return NodeMode(mode="iptables", why="chain KUBE-SERVICES is there, and no Service's chain", named=named)
    if not saves and not nft:
        return NodeMode(mode="unknown", why="neither iptables nor nftables rules of this node were read", named=named)
    listed = next((command for text in saves if (command := listing_of(text))), "")
    if listed:
        why = f"what was read of this node is the output of {listed}, and what iptables-save prints is needed"
        return NodeMode(mode="unknown", why=why, named=named)
    return NodeMode(mode="none", why="no rules of kube-proxy, nor of a replacement that is known here", named=named)


def _held(saves: list[str], nft: list[str]) -> dict[str, str]:
    """Mode -> what of it the node holds."""
    held: dict[str, str] = {}
    if any(_NFT_TABLE.search(text) for text in nft):
        held["nftables"] = "nftables table kube-proxy is there"
    # What none of kube-proxy's other modes writes is looked for first: the pattern takes long over a large text.
    if any(_IPVS.search(text) for text in saves if "--match-set KUBE-" in text or ":KUBE-IPVS-" in text):
        held["ipvs"] = "rules ask for the ipsets of kube-proxy's IPVS mode (KUBE-CLUSTER-IP, KUBE-LOOP-BACK)"
    if any(_IPTABLES_SERVICES.search(text) for text in saves):
        held["iptables"] = "chains KUBE-SVC-* are there"
    return held
