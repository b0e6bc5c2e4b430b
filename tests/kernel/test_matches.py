"""Every match and target that the walker claims to know, alone, against the kernel."""

from __future__ import annotations

import random
import zlib

import pytest

from kubectl_svcroute.observe.nftables import base_chains as nft_chains
from kubectl_svcroute.parse.nft_json import parse_nft_json

from .judge import Figures, Judge
from .lab import Lab
from .micro import MICRO, WORDS, Micro, asker, questions


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("micro", MICRO, ids=[m.name for m in MICRO])
def test_the_kernel_does_what_the_walker_says(micro: Micro, family: int, micro_lab: Lab) -> None:
    """No packet goes where the walker says that it cannot, and what it cannot tell is what the table says."""
    if family not in micro.families or micro_lab.flavour not in micro.flavours:
        pytest.skip("not in this family or backend")
    # Of the other family nothing may stay: a list of clients is shared between them, and has its first rule's mask.
    micro_lab.load("", 10 - family)
    micro_lab.load(micro.text(family), family)
    text = micro_lab.save(family)
    walker = asker(text, family)
    asked = [(q, walker.ask(q.frontend, q.sources, from_node=q.from_node, from_pod=q.from_pod)) for q in questions(family)]
    figures = Figures()
    judge = Judge(micro_lab, random.Random(zlib.crc32(micro.name.encode())), figures)
    judge.renumbers = "--random-fully" in text or "MASQUERADE" not in text
    found = judge.check(asked)
    assert not found, "\n".join([text, *map(str, found)])
    assert bool(figures.unverified) == micro.unverified, (figures.reasons, text)


NFT_ORDER = """table ip foreign {
    chain late { type nat hook output priority 110; meta l4proto tcp dnat to 10.9.9.9:99; }
    chain early { type nat hook prerouting priority -150; ip daddr 10.96.0.10 dnat to 10.9.9.9; }
    chain stop { type filter hook output priority 0; ip daddr 10.9.9.9 tcp dport 99 drop; }
    chain gone { type filter hook prerouting priority -120; ip daddr 10.96.0.10 udp dport 53 drop; }
    chain raws { type filter hook prerouting priority -300; ct state new drop; }
    chain routed { type route hook output priority -90; oifname "lo" ip daddr 10.9.9.9 drop; }
    chain final { type nat hook postrouting priority 50; ip saddr 10.244.1.0/24 masquerade fully-random; }
    chain veto { type filter hook postrouting priority 99; ip saddr 198.51.100.7 drop; }
}
"""


@pytest.mark.root
def test_nat_chains_of_nftables_take_their_turn_together() -> None:
    """All NAT chains of a hook are called from one place, whatever priority they were given."""
    lab = Lab("nftables", (WORDS[4]["node"], WORDS[6]["node"]), (WORDS[4]["podnet"], WORDS[6]["podnet"]))
    try:
        lab.load(NFT_ORDER)
        rules = parse_nft_json(lab.save())
        walker = asker("", 4, hooks=nft_chains(rules, 4))
        asked = [(q, walker.ask(q.frontend, q.sources, from_node=q.from_node, from_pod=q.from_pod)) for q in questions(4)]
        figures = Figures()
        found = Judge(lab, random.Random(1), figures).check(asked)
    finally:
        lab.close()
    assert not found, "\n".join(map(str, found))
    assert not figures.unverified, figures.reasons
