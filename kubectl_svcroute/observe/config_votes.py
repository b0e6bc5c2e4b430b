"""What a node's rules tell of the configuration of the kube-proxy that wrote them.

Used where the cluster shows no configuration (a managed one, or a snapshot without it): each node votes, and what most
nodes have in common is taken for what all should have. The report says that it was inferred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..model.fast_dataclass import dataclass, field
from ..model.lazy_regex import pattern
from ..model.ruleset import IptablesRules

if TYPE_CHECKING:
    from ..model.nft import NftRules

_MARKS_CLUSTER_IP = pattern(
    r"-A (?:KUBE-SERVICES|KUBE-SV[CL]-\S+) (?:! -s (?P<cidr>\S+) )?-d \S+ (?:! -i (?P<iface>\S+) )?-p .* -j KUBE-MARK-MASQ\Z"
)
_POD_SHORTCUT = pattern(r"-A KUBE-(?:EXT|XLB)-\S+ (?:-s (?P<cidr>\S+)|-i (?P<iface>\S+)) .*-j KUBE-SVC-\S+\Z")
_MARK = pattern(r"-A KUBE-MARK-MASQ -j MARK --set-xmark (0x[0-9a-f]+)/")
_TAIL = pattern(r"-A KUBE-SERVICES (?:(?P<not>! )?-d (?P<net>\S+) )?.*-j KUBE-NODEPORTS\Z")


_NFT_NOT_FROM = pattern(r'ip6? saddr != (?P<cidr>\S+)|iif(?:name)? != "(?P<iface>[^"]+)"')
_NFT_SHORTCUT = pattern(r'(?:ip6? saddr (?P<cidr>\S+)|iif(?:name)? "(?P<iface>[^"]+)") goto service-')
_NFT_BIT = pattern(r"meta mark & (0x[0-9a-f]+)")


_T = TypeVar("_T")


def _most(counts: Counter[_T]) -> _T:
    """What most nodes say; of two that as many say, always the same one, whichever node came first."""
    return min(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[0]


def _as_pattern(name: str | None) -> str:
    """An interface pattern of nft's, `veth*`, as iptables spells it."""
    return name[:-1] + "+" if name and name.endswith("*") else name or ""


@dataclass(slots=True)
class Votes:
    """What nodes' rules say, counted by node."""

    cidrs: dict[int, Counter[str]] = field(default_factory=lambda: {4: Counter(), 6: Counter()})
    """Family -> the CIDR that is not masqueraded to cluster IPs; empty text for rules that ask for none."""
    interfaces: Counter[str] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    localhost: Counter[bool] = field(default_factory=Counter)
    single_addresses: Counter[bool] = field(default_factory=Counter)
    """Whether node ports are served on listed addresses only."""
    shortcuts: dict[int, Counter[tuple[str, str]]] = field(default_factory=lambda: {4: Counter(), 6: Counter()})
    """Family -> (CIDR, interface) by which local-policy chains tell pods: all that is left to see with masqueradeAll."""

    def add(self, rules: IptablesRules) -> None:
        """Count one node's rules of one family."""
        nat = rules.tables.get("nat")
        if nat is None:
            return
        asked: Counter[tuple[str, str]] = Counter()
        for chain in nat.chains:
            if not chain.startswith(("KUBE-SERVICES", "KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-")):
                continue
            lines = nat.chains[chain]
            if chain.startswith(("KUBE-EXT-", "KUBE-XLB-")) and lines and (found := _POD_SHORTCUT.match(lines[0])):
                self.shortcuts[rules.family][found["cidr"] or "", found["iface"] or ""] += 1
            if chain != "KUBE-SERVICES" and not chain.startswith(("KUBE-SVC-", "KUBE-SVL-")):
                continue
            for line in lines[:1] if chain != "KUBE-SERVICES" else lines:
                if "cluster IP" in line or chain == "KUBE-SERVICES":
                    found = _MARKS_CLUSTER_IP.match(line)
                    if found and "external IP" not in line:
                        asked[found["cidr"] or "", found["iface"] or ""] += 1
        if asked:
            cidr, interface = _most(asked)
            self.cidrs[rules.family][cidr] += 1
            self.interfaces[interface] += 1
        for line in nat.chains.get("KUBE-MARK-MASQ", ()):
            if found := _MARK.match(line):
                self.bits[int(found[1], 16).bit_length() - 1] += 1
        for line in nat.chains.get("KUBE-SERVICES", ())[-4:]:
            if (found := _TAIL.match(line)) and rules.family == 4:
                self.localhost[not (found["not"] and found["net"] == "127.0.0.0/8")] += 1
                self.single_addresses[bool(found["net"] and not found["not"])] += 1

    def add_nft(self, rules: NftRules) -> None:
        """Count one node's kube-proxy tables of nftables mode."""
        for family, kind in ((4, "ip"), (6, "ip6")):
            table = rules.tables.get((kind, "kube-proxy"))
            if table is None:
                continue
            asked: Counter[tuple[str, str]] = Counter()
            for chain in table.chains.values():
                if chain.name.startswith("external-") and chain.rules and (found := _NFT_SHORTCUT.match(chain.rules[0].text)):
                    self.shortcuts[family][found["cidr"] or "", _as_pattern(found["iface"])] += 1
                if chain.name != "services" and not chain.name.startswith(("service-", "local-")):
                    continue
                for rule in chain.rules[:1]:
                    text = rule.text
                    if "mark-for-masquerade" in text or "mark set" in text:
                        where = _NFT_NOT_FROM.search(text)
                        asked[(where["cidr"] or "", _as_pattern(where["iface"])) if where else ("", "")] += 1
            if asked:
                cidr, interface = _most(asked)
                self.cidrs[family][cidr] += 1
                self.interfaces[interface] += 1
            masquerading = table.chains.get("masquerading")
            for rule in masquerading.rules[:1] if masquerading is not None else ():
                if found := _NFT_BIT.search(rule.text):
                    self.bits[int(found[1], 16).bit_length() - 1] += 1

    def settings(self) -> dict[str, object]:
        """The fields of a ProxyConfig that the majority tells."""
        found: dict[str, object] = {}
        cidrs = [_most(counts) for counts in self.cidrs.values() if counts]
        interface = _most(self.interfaces) if self.interfaces else ""
        if interface.endswith("+"):
            found.update(detect_local="InterfaceNamePrefix", interface_prefix=interface[:-1])
        elif interface:
            found.update(detect_local="BridgeInterface", bridge_interface=interface)
        elif cidrs and all(cidrs):
            found["cluster_cidrs"] = tuple(cidrs)
        else:
            if cidrs:
                found["masquerade_all"] = True
            shortcuts = [_most(counts) for counts in self.shortcuts.values() if counts]
            if any(interface for _, interface in shortcuts):
                name = next(interface for _, interface in shortcuts if interface)
                kind = "InterfaceNamePrefix" if name.endswith("+") else "BridgeInterface"
                key = "interface_prefix" if name.endswith("+") else "bridge_interface"
                found.update({"detect_local": kind, key: name.removesuffix("+")})
            elif shortcuts:
                found["cluster_cidrs"] = tuple(cidr for cidr, _ in shortcuts)
        if self.bits:
            found["masquerade_bit"] = _most(self.bits)
        if self.localhost:
            found["localhost_node_ports"] = _most(self.localhost)
        if differing_cidrs(self):
            found["detect_local"] = "NodeCIDR"
        if self.single_addresses and _most(self.single_addresses) is True:
            found["node_port_addresses"] = ("primary",)
        return found

    def plain(self) -> dict[str, Any]:
        """The counts as lists and numbers, to be kept in a file; `from_plain` reads them."""

        def counted(counts: Counter[Any]) -> list[list[Any]]:
            return sorted(([list(k) if isinstance(k, tuple) else k, n] for k, n in counts.items()), key=str)

        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            found[f.name] = counted(value) if isinstance(value, Counter) else {str(k): counted(v) for k, v in value.items()}
        return found

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Votes:
        """The votes that `plain` kept."""

        def counted(pairs: Iterable[Any]) -> Counter[Any]:
            return Counter({tuple(key) if isinstance(key, list) else key: n for key, n in pairs})

        found: dict[str, Any] = {
            name: {int(k): counted(v) for k, v in value.items()} if isinstance(value, dict) else counted(value)
            for name, value in plain.items()
        }
        return cls(**found)

    def __add__(self, other: Votes) -> Votes:
        """The votes of both."""
        found: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            found[f.name] = mine + theirs if isinstance(mine, Counter) else {key: mine[key] + theirs[key] for key in mine}
        return Votes(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The configuration that some nodes' rules tell, and whose."""

    nodes: int
    """How many nodes were looked at."""
    votes: Votes

    @property
    def settings(self) -> dict[str, object]:
        """The fields of a ProxyConfig that the majority tells."""
        return self.votes.settings()

    @property
    def told(self) -> str:
        """The settings in words."""
        return ", ".join(f"{key}={_plain(value)}" for key, value in sorted(self.settings.items())) or "nothing"

    @property
    def note(self) -> str:
        """That it was inferred, from what, and what it is."""
        return (
            f"kube-proxy's configuration could not be read; inferred from what {self.nodes}"
            f" {'node shows' if self.nodes == 1 else 'nodes have in common'}: {self.told}"
        )


def _plain(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def differing_cidrs(votes: Votes) -> bool:
    """Whether each node has a CIDR of its own: then kube-proxy runs with detectLocalMode NodeCIDR."""
    for counts in votes.cidrs.values():
        named = [cidr for cidr in counts if cidr]
        if len(named) > 1 and len(named) >= sum(counts.values()) - 1:
            return True
    return False
