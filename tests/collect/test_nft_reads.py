"""Which nft commands are run for one Service."""

from __future__ import annotations

from kubectl_svcroute.collect.nft_reads import cheapest, inventory, service_reads, shared_reads


def test_nothing_is_ever_listed_whole_but_kube_proxys_own_table() -> None:
    """No command lists the ruleset, or a table of somebody else's."""
    reads = [*shared_reads(4), *shared_reads(6), *service_reads(4, ["A-x"], ["B-y"], affinity=True)]
    for read in [*reads, *cheapest(4, reads)]:
        assert read[:3] == ("nft", "-j", "list")
        assert read[4] in ("ip", "ip6")
        assert read[5] == "kube-proxy"
    assert inventory() == [("nft", "-j", "list", "chains")]


def test_one_service_asks_for_its_chains_once_each() -> None:
    """By its names, and only for what is there where that is known."""
    assert service_reads(6, ["A-x", "A-x"], present=["service-A-x", "services"]) == [
        ("nft", "-j", "list", "chain", "ip6", "kube-proxy", "service-A-x")
    ]
    assert ("nft", "-j", "list", "set", "ip", "kube-proxy", "affinity-B-y") in service_reads(4, [], ["B-y"], affinity=True)


def test_many_chains_are_dearer_than_their_table() -> None:
    """Maps and a single chain are read apart, more chains as one table."""
    one = service_reads(4, ["A-x"], present=["service-A-x"])
    assert cheapest(4, one) == one
    assert cheapest(4, service_reads(4, ["A-x"])) == [("nft", "-j", "list", "table", "ip", "kube-proxy")]
