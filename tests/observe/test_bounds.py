"""What a walk costs, counted in rules that were tried: by the states in which a packet can be, not by the paths to them.

And the shortcuts to that end (looking ahead, branches that meet again) against walks without them, on rules drawn by seed.
"""

from __future__ import annotations

import os
import random

import pytest

from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.model.ranges import intersect, network, number, single, union
from kubectl_svcroute.model.walk_result import Observed
from kubectl_svcroute.observe import hooks
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.budget import MOST_DOUBTS, Work
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.iptables import base_chains
from kubectl_svcroute.observe.look_ahead import LookAhead
from kubectl_svcroute.observe.nftables import base_chains as nft_base_chains
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.iptables_save import parse_iptables_save
from kubectl_svcroute.parse.nft_text import parse_nft_text
from tests.observe.test_walk import dump

DIALLED = Frontend("10.96.0.9", Protocol.TCP, 80, FrontendKind.CLUSTER_IP)
DOUBT = "-m time --timestart 10:00:00 --timestop 11:00:00"
DNAT = "PREROUTING -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.2.2:8080"
NFT_DOUBT = "meta hour 10:00-11:00"
NFT_DNAT = "ip daddr 10.96.0.9 tcp dport 80 dnat to 10.244.2.2:8080"


def iptables(**tables: list[str]) -> Asker:
    text = dump(**{name: "\n".join(rules) for name, rules in tables.items()})
    return _asker(merge([base_chains(parse_iptables_save(text, family=4))]))


def nftables(base: list[str], chains: dict[str, list[str]] | None = None, *, hook: str = "prerouting") -> Asker:
    lines = "\n".join(base)
    others = "\n".join(f"chain {name} {{\n" + "\n".join(rules) + "\n}" for name, rules in (chains or {}).items())
    mangle = f"chain a {{\ntype filter hook {hook} priority -150; policy accept;\n{lines}\n}}"
    nat = f"chain b {{\ntype nat hook prerouting priority -100; policy accept;\n{NFT_DNAT}\n}}"
    return _asker(merge([nft_base_chains(parse_nft_text(f"table ip t {{\n{others}\n{mangle}\n{nat}\n}}\n"), 4)]))


def _asker(found: hooks.Hooks) -> Asker:
    local = union([single(number("172.18.0.13")), network("127.0.0.0/8")])
    return Asker(
        hooks=found,
        context=NodeContext(family=4, local=local, pod_networks=network("10.244.0.0/16"), work=Work()),
        pod_side=Interface(fits=frozenset({"veth+"}), not_fits=frozenset({"lo"})),
        uplink=Interface(not_fits=frozenset({"veth+", "lo"})),
    )


def ask(asker: Asker) -> tuple[Observed, int]:
    """The answer, and how many rules were tried for it."""
    before = asker.context.work.left
    seen = asker.ask(DIALLED, network("10.244.1.0/24"), from_node=False, from_pod=True)
    return seen, before - asker.context.work.left


def marks(chain: str, count: int, *, bits: bool) -> list[str]:
    return [f"{chain} {DOUBT} -j MARK --set-xmark {hex(1 << (16 + (n if bits else 0)))}/0xffff0000" for n in range(count)]


def ladder(levels: int, each: int, last: list[str], *, match: str = "") -> list[str]:
    """Chains that each jump `each` times to the next."""
    rules = [f"L{n} {match} -j L{n + 1}" for n in range(levels) for _ in range(each)]
    return ["FORWARD -j L0", *rules, *last]


def nft_ladder(levels: int, each: int, last: list[str], *, match: str = "") -> Asker:
    chains = {f"L{n}": [f"{match} jump L{n + 1}"] * each for n in range(levels)}
    ordered = {f"L{levels}": last, **dict(reversed(chains.items()))}
    return nftables(["jump L0"], ordered, hook="forward")


LOG = [f"FORWARD {DOUBT} -j LOG"]
ANSWERED = {
    "rules that log": (lambda: iptables(nat=[DNAT], filter=LOG * 40), 1_000),
    "rules that log into chains that only log": (
        lambda: iptables(nat=[DNAT], filter=[f"FORWARD {DOUBT} -j LOGGING"] * 40 + [f"LOGGING {DOUBT} -j LOG"] * 4), 2_000),
    "marks of one bit at two hooks": (
        lambda: iptables(nat=[DNAT], mangle=marks("PREROUTING", 12, bits=False) + marks("POSTROUTING", 12, bits=False)), 3_000),
    "chains that jump twice to the next": (lambda: iptables(nat=[DNAT], filter=ladder(16, 2, ["L16 -j LOG"])), 8_000),
    "the same, where nobody knows whether": (
        lambda: iptables(nat=[DNAT], filter=ladder(16, 2, ["L16 -j LOG"], match=DOUBT)), 8_000),
    "nft: rules that log": (lambda: nftables([f"{NFT_DOUBT} log"] * 40, hook="forward"), 1_000),
    "nft: marks of one bit": (lambda: nftables([f"{NFT_DOUBT} meta mark set 0x1"] * 40), 2_000),
    "nft: 14 levels of two jumps": (lambda: nft_ladder(14, 2, ["counter"]), 8_000),
    "nft: 8 levels of four jumps": (lambda: nft_ladder(8, 4, ["log"]), 8_000),
    "nft: 8 levels of four jumps, where nobody knows whether": (lambda: nft_ladder(8, 4, ["log"], match=NFT_DOUBT), 8_000),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERED)
def test_what_changes_nothing_costs_little(case: str) -> None:
    """It is answered as if it were not there, and for so many rules tried at the most."""
    make, most = ANSWERED[case]
    seen, steps = ask(make())
    (atom,) = seen.atoms
    assert [(str(leg.backend), share) for leg, share in atom.shares.items()] == [("10.244.2.2:8080", 1.0)]
    assert atom.unknown_share == 0
    assert steps <= most


GIVEN_UP = {
    "a chain that leads to itself": (
        lambda: iptables(nat=[DNAT], filter=["FORWARD -j LOOP", "LOOP -g LOOP"]), "chain LOOP leads back to itself"),
    "two chains that jump into each other in doubt": (
        lambda: iptables(nat=[DNAT], filter=["FORWARD -j A", "A -p tcp -m tcp --sport 9 -j B", "A -j DROP", "B -j A"]),
        "chain A leads back to itself"),
    "two chains in a circle": (
        lambda: iptables(nat=[DNAT], filter=["FORWARD -g A", "A -g B", "B -g A"]), "chains lead into each other again and again"),
    "matches behind each other, and chance behind them": (
        lambda: iptables(nat=[
            *(f"PREROUTING -m limit --limit {n}/sec -j RETURN" for n in range(1, 1200)),
            "PREROUTING -m statistic --mode random --probability 0.5 -j ACCEPT", DNAT]),
        "matches behind each other"),
    "marks with a bit each": (
        lambda: iptables(nat=[DNAT], mangle=marks("PREROUTING", 16, bits=True)), f"more than {MOST_DOUBTS} branches"),
    "nft: a ladder with a counter of its own in the mark": (
        lambda: nft_ladder(15, 3, ["meta mark set meta mark xor 0x1"], match=NFT_DOUBT), f"more than {MOST_DOUBTS} branches"),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN_UP)
def test_what_does_not_end_is_given_up_with_its_reason(case: str) -> None:
    """Nothing is verified then, and the reason is the kind of rules. Each such walk makes the next one's bound smaller."""
    make, reason = GIVEN_UP[case]
    asker = make()
    seen, first = ask(asker)
    (atom,) = seen.atoms
    assert not atom.shares
    assert any(reason in one for one in atom.unknown)
    assert first < 500_000
    costs = [ask(asker)[1] for _ in range(10)]
    assert sum(costs) < 2 * first + 10 * 5_000, "later ones cost less"


def drawn(rng: random.Random) -> dict[str, list[str]]:
    """A few rules of every kind that can split a packet, change it, or lead it elsewhere."""
    matches = ["", DOUBT, "-m time --timestart 12:00:00 --timestop 13:00:00", "-s 10.244.1.0/26", "-m mark --mark 0x1/0x1",
               "-m statistic --mode random --probability 0.50000000000", "! -s 10.244.1.128/25", "-i eth7"]  # fmt: skip
    targets = ["-j MARK --set-xmark 0x1/0x1", "-j MARK --set-xmark 0x0/0x1", "-j MARK --xor-mark 0x2", "-j LOG", "-j RETURN",
               "-j ONE", "-j TWO", "-g TWO", "-j ACCEPT"]  # fmt: skip
    found: dict[str, list[str]] = {}
    for table, bases in (("mangle", ("PREROUTING", "FORWARD", "POSTROUTING")), ("filter", ("FORWARD",))):
        rules = []
        for chain in (*bases, "ONE", "TWO"):
            for _ in range(rng.randint(1, 4)):
                allowed = [t for t in targets if chain != "TWO" or t.split()[1] not in ("ONE", "TWO")]
                allowed = [t for t in allowed if chain != "ONE" or t.split()[1] != "ONE"]
                target = rng.choice(allowed + (["-j DROP"] if table == "filter" else []))
                rules.append(f"{chain} {rng.choice(matches)} {target}")
        found[table] = rules
    return {"nat": [DNAT, "POSTROUTING -m mark --mark 0x1/0x1 -j MASQUERADE"], **found}


def compatible(one: Observed, other: Observed) -> bool:
    """True if neither answer is sure of what the other excludes.

    Where doubts come to very many outcomes, or a walk to its bound, one of the two may know less. It may never know otherwise.
    """
    return all(
        a.shares.get(leg, 0.0) <= b.shares.get(leg, 0.0) + b.unknown_share + 1e-9
        for some, others in ((one, other), (other, one))
        for a in some.atoms
        for b in others.atoms
        if intersect(a.sources, b.sources)
        for leg in a.shares
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(int(os.environ.get("SVCROUTE_BOUNDS", "60"))))
def test_shortcuts_change_no_answer(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking ahead, and without branches that meet again, the same may happen to the same sources."""
    tables = drawn(random.Random(seed))
    quick, _ = ask(iptables(**tables))
    monkeypatch.setattr(LookAhead, "idle", lambda *_: False)
    monkeypatch.setattr(hooks, "_merged", lambda _, results: results)
    slow, _ = ask(iptables(**tables))
    assert compatible(quick, slow), tables
    assert seed >= 60 or sum(a.unknown_share for a in quick.atoms) == 0 or sum(a.unknown_share for a in slow.atoms) > 0
