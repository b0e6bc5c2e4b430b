"""Which `nft` commands read what one Service needs of a node, and no more (docs/reading-nftables.md).

Two rounds: first what every packet meets and the maps that name Services, then the chains that these maps lead to. The
second round can also be computed from names alone, which finds chains that no map leads to any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FAMILY_NAMES = {4: "ip", 6: "ip6"}
TABLE = "kube-proxy"

SHARED_CHAINS = (
    # 1.29
    "endpoints-check", "firewall-allow-check",
    # 1.30 to 1.33.5
    "filter-prerouting", "filter-output-post-dnat",
    # from 1.33.6 and 1.34
    "filter-prerouting-pre-dnat", "filter-output-pre-dnat",
    # all
    "filter-input", "filter-forward", "filter-output", "nat-prerouting", "nat-output", "nat-postrouting",
    "nodeport-endpoints-check", "service-endpoints-check", "firewall-check", "services", "masquerading", "cluster-ips-check",
    "mark-for-masquerade", "reject-chain",
)  # fmt: skip
"""Chains that every packet may meet, in any version: each is a handful of rules."""

MAPS = ("service-ips", "service-nodeports", "no-endpoint-services", "no-endpoint-nodeports", "firewall-ips")
SETS = ("cluster-ips", "nodeport-ips", "hairpin-connections", "firewall", "firewall-allow")

Command = tuple[str, ...]
"""An argument vector, to be run without a shell."""


def shared_reads(family: int, present: Iterable[str] | None = None) -> list[Command]:
    """The first round: what every packet meets, and the maps and sets. `family` is 4 or 6.

    `present` are the names of chains, maps and sets that the table is known to hold (`nft -j list chains`, cheap): nft ends
    with status 1 when it is asked for one that is not there, and no version of kube-proxy has them all.
    """
    name = FAMILY_NAMES[family]
    known = None if present is None else frozenset(present)
    reads = [_list("map", name, m) for m in MAPS if known is None or m in known]
    reads += [_list("set", name, s) for s in SETS if known is None or s in known]
    reads += [_list("chain", name, c) for c in SHARED_CHAINS if known is None or c in known]
    return reads


def service_reads(
    family: int,
    services: Sequence[str],
    endpoints: Sequence[str] = (),
    *,
    affinity: bool = False,
    present: Iterable[str] | None = None,
) -> list[Command]:
    """The second round: the chains of one Service, in an order that is the same on every run.

    `services` are the names of its ports (expect.names.nft_service), `endpoints` those of all their endpoints
    (expect.names.nft_endpoint): chains of these exist up to 1.35, and from 1.36 on only with session affinity.
    """
    name = FAMILY_NAMES[family]
    known = None if present is None else frozenset(present)
    wanted: list[tuple[str, str]] = [
        ("chain", prefix + base) for base in services for prefix in ("service-", "local-", "external-", "firewall-")
    ]
    wanted += [("chain", f"endpoint-{base}") for base in endpoints]
    if affinity:
        wanted += [("set", f"affinity-{base}") for base in endpoints]
    return [_list(kind, name, item) for kind, item in dict.fromkeys(wanted) if known is None or item in known]


def inventory() -> list[Command]:
    """What tells which tables and chains exist, with their hooks and priorities: no rule is printed.

    Not `list tables`: nft 1.0.6 asks the kernel about every chain for that too, and takes thirty times as long to say less.
    A table that `list chains` does not show has no chain, and so does nothing.
    """
    return [("nft", "-j", "list", "chains")]


def _list(kind: str, family: str, name: str) -> Command:
    return ("nft", "-j", "list", kind, family, TABLE, name)


CHAINS_APART = 1
"""From how many chains on the whole table is cheaper. Measured with nft 1.0.6 (docs/reading-nftables.md): it asks the kernel
for every chain of the table before it prints one of them, so one chain costs two thirds of the table, and two cost more."""


def cheapest(family: int, reads: Iterable[Command]) -> list[Command]:
    """The same reads, with the whole table in their place where that spares the node work."""
    reads = list(reads)
    if sum(read[3] == "chain" for read in reads) <= CHAINS_APART:
        return reads
    return [("nft", "-j", "list", "table", FAMILY_NAMES[family], TABLE)]
