"""What serves Services on a node is recognised by what the node shows."""

from __future__ import annotations

import json

import pytest

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.parse.nft_other_tables import PROXY_TABLES, foreign_tables
from kubectl_svcroute.parse.proxy_mode import node_mode
from tests.captured import CAPTURES, capture

IPTABLES = ":KUBE-SERVICES - [0:0]\n:KUBE-SVC-KONBHUEJ3TRSITPT - [0:0]\n"
IPVS = "-A KUBE-SERVICES -m comment --comment x -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\n"


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_are_what_they_are_called(name: str) -> None:
    """With kube-proxy's answer and without it, by rules alone."""
    wanted = "nftables" if name.endswith("-nftables") else "iptables"
    for node in capture(name).glob("nodes/*"):
        files = {file.name: file.read_text() for file in node.iterdir()}
        assert node_mode(files).mode == wanted
        files.pop("proxy-mode.txt", None)
        assert node_mode(files).mode == wanted


@pytest.mark.parametrize(
    ("rules", "mode", "command"),
    [
        (IPTABLES, "iptables", ""),
        (":KUBE-SERVICES - [0:0]\n", "iptables", ""),
        (IPVS, "ipvs", "ipvsadm -Ln"),
        (":CILIUM_POST_nat - [0:0]\n", "ebpf", "cilium-dbg service list"),
        ('-A cali-PREROUTING -m comment --comment "x" -m mark --mark 0x1 -j cali-BPF\n', "ebpf", "calico-node -bpf nat dump"),
        (":OVN-KUBE-NODEPORT - [0:0]\n", "ebpf", "ovn-nbctl"),
        (":ANTREA-PREROUTING - [0:0]\n", "ebpf", "antctl"),
        ("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", "none", ""),
    ],
)
def test_each_data_plane_is_recognised(rules: str, mode: str, command: str) -> None:
    """And what cannot be verified here names the command that would tell."""
    found = node_mode({"iptables-save.txt": rules})
    assert found.mode == mode
    assert command in found.remedy
    assert bool(found.remedy) is not (found.verifiable or mode == "none")


def test_a_node_of_which_nothing_was_read_is_unknown() -> None:
    """Not "none": nothing was seen, which says nothing."""
    assert node_mode({"sysctl.txt": ""}).mode == "unknown"


def test_leftovers_of_another_mode_are_named() -> None:
    """A node that changed its mode and kept the old rules."""
    nft = "table ip kube-proxy {\n}\n"
    found = node_mode({"proxy-mode.txt": "nftables", "iptables-save.txt": IPTABLES, "nft-ruleset.txt": nft})
    assert (found.mode, found.leftovers) == ("nftables", ("iptables",))
    assert node_mode({"proxy-mode.txt": "ipvs\n", "iptables-save.txt": IPVS + IPTABLES}).leftovers == ("iptables",)


def listed(*things: dict[str, object]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *things]})


def table(family: str, name: str) -> dict[str, object]:
    return {"table": {"family": family, "name": name}}


def chain(family: str, of: str, name: str, hook: str = "") -> dict[str, object]:
    more = {"type": "filter", "hook": hook, "prio": 0, "policy": "accept"} if hook else {}
    return {"chain": {"family": family, "table": of, "name": name, **more}}


def test_foreign_tables_that_packets_may_meet_are_named() -> None:
    """kube-proxy's own, those of other layers and iptables-nft's own are not foreign."""
    text = listed(table("ip", "kube-proxy"), table("inet", "firewalld"), table("bridge", "b"), table("ip", "nat"))
    assert [str(t) for t in foreign_tables(text, walked=PROXY_TABLES, iptables=(4,))] == ["inet firewalld"]
    assert [str(t) for t in foreign_tables(text, walked=PROXY_TABLES)] == ["inet firewalld", "ip nat"]


def test_where_chains_were_listed_only_hooks_count() -> None:
    """A table without a base chain does nothing, and a strange base chain in iptables' table is somebody else's."""
    text = listed(
        chain("inet", "idle", "c"), chain("inet", "fw", "c", "forward"), chain("ip", "nat", "PREROUTING", "prerouting"),
        chain("ip", "filter", "strange", "forward"),
    )  # fmt: skip
    assert [str(t) for t in foreign_tables(text, walked=PROXY_TABLES, iptables=(4, 6))] == [
        "inet fw: c (forward 0)", "ip filter: strange (forward 0)",
    ]  # fmt: skip


def test_a_list_that_was_cut_raises() -> None:
    """It would look like a node without foreign tables."""
    with pytest.raises(ParseError):
        foreign_tables(listed(table("inet", "x"))[:-2], walked=PROXY_TABLES)
