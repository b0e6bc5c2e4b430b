"""Real kube-proxies' rules in the kernel: it sends every client where the walker says, and conntrack bears that out."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator

import pytest
from captured import CAPTURES, capture, faults, truth

from .judge import Disagreement, Figures, Judge
from .lab import Lab
from .questions import Case, case, mode_of, nodes

_WITNESS = 13
"""Every how manieth packet's conntrack entry has to bear out what arrived. The smallest sample of an atom is 16."""
IPTABLES = [name for name in CAPTURES if mode_of(name) != "nftables"]
_CASES = [
    (name, node, family)
    for name in IPTABLES
    for node in (nodes(name)[0], nodes(name)[2])
    for family in (4, 6)
    if case(name, node, family).questions
]


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[tuple[str, str, str], Lab]]:
    """One lab a node and backend, made when it is first asked for."""
    made: dict[tuple[str, str, str], Lab] = {}
    yield made
    for lab in made.values():
        lab.close()


def lab_for(labs: dict[tuple[str, str, str], Lab], one: Case, flavour: str) -> Lab:
    key = (one.name, one.node, flavour)
    if key not in labs:
        labs[key] = Lab(flavour, one.addresses, one.pod_cidrs, one.endpoints, witness=_WITNESS)
    labs[key].load("", 10 - one.family)
    return labs[key]


def disagreements(
    one: Case, lab: Lab, rules: str, *, walked: str | None = None, most: int | None = None
) -> tuple[list[Disagreement], Figures]:
    """What differs between the kernel with some rules and the walker over what the node's tool prints of them."""
    lab.load(rules, one.family)
    printed = lab.save(one.family)
    asker = one.asker(walked if walked is not None else printed)
    rng = random.Random(zlib.crc32(f"{one.name} {one.node} {one.family}".encode()))
    asked = list(one.questions)
    if most is not None and len(asked) > most:
        asked = rng.sample(asked, most)
    figures = Figures()
    judge = Judge(lab, rng, figures)
    judge.renumbers = not re.search(r"-j MASQUERADE(?! --random-fully)", printed)
    before = lab.witnessed
    found = judge.check([(question, one.ask(asker, question)) for question in asked])
    assert lab.witnessed > before or not asked, "conntrack was asked about no packet"
    return found, figures


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "node", "family", "flavour"),
    # In both backends on one node; a second node in its own: what differs between nodes does not hang on the backend.
    [(n, at, f, flavour) for n, at, f in _CASES for flavour in ("legacy", "nft") if at == nodes(n)[0] or flavour == mode_of(n)],
)
def test_captured_rules(labs: dict[tuple[str, str, str], Lab], name: str, node: str, family: int, flavour: str) -> None:
    """Every frontend from every client, in both backends: same action, backends, shares, masquerade and affinity."""
    one = case(name, node, family)
    found, figures = disagreements(one, lab_for(labs, one, flavour), one.text)
    assert not found, "\n".join(map(str, found))
    assert not figures.unverified, figures.reasons


@pytest.mark.root
@pytest.mark.parametrize("name", [name for name in CAPTURES if mode_of(name) == "nftables"])
def test_captured_nftables(labs: dict[tuple[str, str, str], Lab], name: str) -> None:
    """The same of nftables mode: text into the kernel, JSON as nft prints it before the walker."""
    for node in (nodes(name)[0], nodes(name)[2]):
        for family in (4, 6):
            one = case(name, node, family)
            key = (name, node, "nftables")
            if key not in labs:
                labs[key] = Lab("nftables", one.addresses, one.pod_cidrs, one.endpoints, witness=_WITNESS)
            found, figures = disagreements(one, labs[key], one.text)
            assert not found, "\n".join(map(str, found))
            assert not figures.unverified, figures.reasons


@pytest.mark.root
@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in IPTABLES for fault in faults(name)])
def test_captured_faults(labs: dict[tuple[str, str, str], Lab], name: str, fault: str) -> None:
    """The same on nodes whose rules real accidents changed."""
    for family, file in ((4, "iptables-save.txt"), (6, "ip6tables-save.txt")):
        path = capture(name) / "faults" / fault / "nodes" / truth(name, fault)["node"] / file
        one = case(name, truth(name, fault)["node"], family)
        if not one.questions or not path.exists():
            continue
        found, _ = disagreements(one, lab_for(labs, one, mode_of(name)), path.read_text(), most=40)
        assert not found, "\n".join(map(str, found))


@pytest.mark.root
@pytest.mark.parametrize("fault", ["missing-endpoint", "wrong-dnat-port", "no-hairpin-masquerade", "affinity-missing"])
def test_the_judge_sees_a_difference(labs: dict[tuple[str, str, str], Lab], fault: str) -> None:
    """With one node's faults in the kernel and the healthy rules before the walker, they disagree."""
    name = "v1.28-iptables-legacy"
    one = case(name, truth(name, fault)["node"], 4)
    broken = (capture(name) / "faults" / fault / "nodes" / one.node / "iptables-save.txt").read_text()
    found, _ = disagreements(one, lab_for(labs, one, "legacy"), broken, walked=one.text)
    assert found
