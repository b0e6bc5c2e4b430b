"""`nft -j list tables`, `nft -j list chains` -> the tables of other programs that were not walked.

Only kube-proxy's own tables are read whole: listing everything can take a node over half a minute (docs/reading-nftables.md).
That another program's table exists is cheap to know, and it is said, instead of assuming that it does nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from ..model.fast_dataclass import dataclass
from ..model.nft import NftChain, NftRules, NftTable, TableKey
from ..model.ruleset import IptablesRules
from .nft_json import parse_nft_json

ROUTED = frozenset(("ip", "ip6", "inet"))
"""Families whose tables see packets as they are routed."""

PROXY_TABLES = frozenset((("ip", "kube-proxy"), ("ip6", "kube-proxy")))

IPTABLES_TABLES = frozenset((family, name) for family in ("ip", "ip6") for name in ("filter", "nat", "mangle", "raw", "security"))
"""What iptables-nft keeps its rules in (iptables/nft.c, xtables_ipv4)."""

DSTNAT = -100
"""The priority at which kube-proxy translates in both of its modes (NF_IP_PRI_NAT_DST)."""

_BUILTIN = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTable:
    """A table of another program that packets of Services may meet, and whose rules were not read."""

    family: str
    name: str
    chains: tuple[str, ...] | None
    """Its base chains, each `name (hook priority)`; None when only the tables were listed."""
    effects: tuple[str, ...] = ()
    """What its base chains can do to a packet that kube-proxy's rules send where they should: `drop`, `masquerade`."""
    before: bool = True
    """It can translate destinations before kube-proxy does, or hold rules of kube-proxy's; or nobody knows that it cannot."""

    def __str__(self) -> str:
        where = f": {', '.join(self.chains)}" if self.chains else ""
        return f"{self.family} {self.name}{where}"


def foreign_tables(text: str, *, walked: Collection[TableKey], iptables: Collection[int] = ()) -> tuple[ForeignTable, ...]:
    """The tables in `text` that packets may meet and that are not in `walked`.

    `iptables` names the families (4, 6) of which iptables-nft printed its rules: the tables that these are in are not
    foreign. Tables without a base chain do nothing and are left out, where the chains were listed. Raises ParseError
    as `parse_nft_json` does.
    """
    listed: NftRules = parse_nft_json(text, source="nft-tables.json")
    with_chains = any(table.chains for table in listed.tables.values())
    found = []
    for key, table in listed.tables.items():
        if key in walked or table.family not in ROUTED or table.dormant:
            continue
        if _is_iptables(table) and {"ip": 4, "ip6": 6}[table.family] in iptables:
            continue
        based = tuple(
            f"{chain.name} ({chain.hook} {chain.priority})" for chain in table.based
        )
        if based or not with_chains:
            found.append(
                ForeignTable(
                    family=table.family,
                    name=table.name,
                    chains=based if with_chains else None,
                    effects=_effects(table),
                    before=not with_chains
                    or any(_translates_first(chain) for chain in table.based)
                    or _is_iptables(table)
                    or key in PROXY_TABLES,
                )
            )
    return tuple(found)


def _translates_first(chain: NftChain) -> bool:
    """True for NAT of destinations whose turn may come before kube-proxy's (of equal priorities, nobody knows which)."""
    return chain.type == "nat" and chain.hook in ("prerouting", "output") and (chain.priority or 0) <= DSTNAT


def _effects(table: NftTable) -> tuple[str, ...]:
    """What the base chains of a table can do besides: those of type filter or route drop, those of NAT change sources."""
    drops = any(chain.type != "nat" for chain in table.based)
    masquerades = any(chain.type == "nat" for chain in table.based)
    return ("drop",) * drops + ("masquerade",) * masquerades


def _is_iptables(table: NftTable) -> bool:
    """Whether it is one of iptables-nft's own: by name, and by its base chains where they are known."""
    if (table.family, table.name) not in IPTABLES_TABLES:
        return False
    return all(chain.name in _BUILTIN for chain in table.based)


def has_iptables_tables(text: str, rules: IptablesRules) -> bool:
    """True if the tables that nft lists are those of an iptables-save dump: then iptables-nft printed it.

    The legacy backend keeps tables of its own, which nft does not see. Where the chains were listed too, each table must have
    the dump's built-in chains. Raises ParseError as `parse_nft_json` does.
    """
    listed = parse_nft_json(text, source="nft-tables.json")
    family = "ip" if rules.family == 4 else "ip6"
    mine = {key[1]: table for key, table in listed.tables.items() if key[0] == family and _is_iptables(table)}
    if mine.keys() != rules.tables.keys():
        return False
    if not any(table.chains for table in listed.tables.values()):
        return True
    return all({chain.name for chain in table.based} == rules.tables[name].policies.keys() for name, table in mine.items())
