"""Rules, sets and maps that kube-proxy never writes, drawn at random: the shortcuts say what the long way says, on every node.

A few fixed seeds and a few fresh ones, which are printed; `make twins TWINS=2000` tries more.
"""

from __future__ import annotations

import random
import sys

import pytest
from shortcut_edits import IptablesEdits, NftEdits
from test_twins import IPTABLES, NFTABLES, SEEDS, further, judges, snapshot, told

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.model.fast_dataclass import replace
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump
from kubectl_svcroute.parse import nft_json

FIXED = 9
BLOCK = 10
"""Seeds of one test: with fewer tests they share what is known of the clusters."""


def edited(dump: NodeDump, seed: int) -> tuple[NodeDump, list[str]]:
    """A node with one to three edits, and what they are."""
    rng = random.Random(seed)
    nft = "nft-ruleset.json" in dump.files
    six = not nft and "KUBE-SVC" in dump.files.get("ip6tables-save.txt", "") and rng.random() < 0.25
    file = "nft-ruleset.json" if nft else "ip6tables-save.txt" if six else "iptables-save.txt"
    edits = NftEdits(dump.files[file], rng) if nft else IptablesEdits(dump.files[file], rng)
    what = [edits.edit() for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return replace(dump, files={**dump.files, file: edits.text()}), what


def compare(names: list[str], seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed's edits on the first node, on a later one, and on all."""
    *captured, made = names
    name = made if seed % 6 else captured[seed // 6 % len(captured)]
    monkeypatch.setattr(nft_json, "LARGE", 0 if seed % 4 else sys.maxsize)
    nodes = [handle.read() for handle in snapshot(name).nodes[:3]]
    assert all(isinstance(node, NodeDump) for node in nodes)
    quick, thorough = judges(name)
    node, what = edited(nodes[1], seed)
    wanted = told(thorough.node(node))
    where = f"{name}, seed {seed}: {what}"
    assert told(quick.node(node)) == wanted, f"as the first node: {where}"
    assert told(further(name).node(node)) == wanted, f"behind a healthy node: {where}"
    if seed % 5 == 0:
        judge = Audit(snapshot(name).api, Selection())
        for one in nodes:
            same, _ = edited(one, seed)
            assert told(judge.node(same)) == told(thorough.node(same)), f"on all nodes, {one.node}: {where}"


@pytest.mark.parametrize("names", [IPTABLES, NFTABLES], ids=["iptables", "nftables"])
@pytest.mark.parametrize("block", range(1 + SEEDS // BLOCK))
def test_fixed(names: list[str], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed is one set of edits."""
    for seed in range(1 + block * BLOCK, 1 + block * BLOCK + FIXED):
        compare(names, seed, monkeypatch)


@pytest.mark.parametrize("names", [IPTABLES, NFTABLES], ids=["iptables", "nftables"])
def test_fresh(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits that nobody has tried before; the seed is printed."""
    first = random.SystemRandom().randrange(1 << 32)
    print(f"seeds from {first}")
    for seed in range(first, first + 4):
        compare(names, seed, monkeypatch)
