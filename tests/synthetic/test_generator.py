"""The generator is right where there is a capture to say so: rule for rule the same as real kube-proxies wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from captured import capture

from .cluster import Api, Setup
from .compare import differences, nft_differences
from .in_iptables import iptables_save
from .in_nft import missing, nft_json

DUAL = ("10.244.0.0/16", "fd00:244::/32")
CAPTURED = {
    "v1.17-iptables-legacy": Setup(17, kubelet=True),
    "v1.23-iptables-nft": Setup(23, families=(4, 6)),
    "v1.28-iptables-legacy": Setup(28, families=(4, 6), cluster_cidrs=DUAL),
    "v1.28-iptables-configured": Setup(
        28,
        families=(4, 6),
        detect="InterfaceNamePrefix",
        interface="v",
        bit=10,
        localhost_node_ports=False,
        node_port_addresses=("172.18.0.0/24",),
    ),
    "v1.36-iptables-nft": Setup(36, families=(4, 6), cluster_cidrs=DUAL, counters=True),
}
IN_NFT = {
    "v1.31-nftables": Setup(31, mode="nftables"),
    "v1.36-nftables": Setup(36, mode="nftables", cluster_cidrs=DUAL, service_cidrs=("10.96.0.0/16", "fd00:96::/112")),
}
FILES = {4: "iptables-save.txt", 6: "ip6tables-save.txt"}


@pytest.mark.parametrize("name", CAPTURED)
def test_prints_what_a_real_kube_proxy_wrote(name: str) -> None:
    """Every chain and every rule of every node, in both families, and none more."""
    folder = capture(name)
    api = Api.read(folder / "api")
    for node in api.nodes:
        for version, file in FILES.items():
            real = (folder / "nodes" / node["metadata"]["name"] / file).read_text()
            assert differences(iptables_save(api, node, version, CAPTURED[name]), real) == []


def test_a_difference_is_seen() -> None:
    """The comparison itself: versions differ, and a rule that moved within a chain is a difference."""
    folder: Path = capture("v1.28-iptables-legacy")
    api = Api.read(folder / "api")
    here = iptables_save(api, api.nodes[0], 4, CAPTURED["v1.28-iptables-legacy"])
    assert differences(here, iptables_save(api, api.nodes[0], 4, CAPTURED["v1.23-iptables-nft"])) != []
    lines = here.splitlines()
    n = next(n for n, line in enumerate(lines) if line.startswith("-A KUBE-SEP-"))
    lines[n], lines[n + 1] = lines[n + 1], lines[n]
    assert differences("\n".join(lines), here) != []


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=f"no kernel to ask: {missing()}")
@pytest.mark.parametrize("name", IN_NFT)
def test_loads_what_a_real_kube_proxy_loaded(name: str) -> None:
    """nftables: every set, map, element, chain and rule of every node, as the kernel gives them back."""
    folder = capture(name)
    api = Api.read(folder / "api")
    for node in api.nodes:
        real = (folder / "nodes" / node["metadata"]["name"] / "nft-ruleset.json").read_text()
        assert nft_differences(nft_json(api, node, IN_NFT[name]), real) == []
    older = nft_json(api, api.nodes[0], Setup(33, mode="nftables", old_base_chains=True))
    assert nft_differences(older, nft_json(api, api.nodes[0], Setup(33, mode="nftables"))) != []
