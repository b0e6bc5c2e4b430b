"""The second witness: a lab that misreads what arrives is found out by conntrack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kubectl_svcroute.model.ranges import number

from . import wire
from .conntrack import ContradictionError, Tuple
from .lab import Lab, Probe
from .micro import WORDS

_RULES = """*nat
-A PREROUTING -d {svc} -p udp -j DNAT --to-destination {to_port}
-A OUTPUT -d {svc} -p udp -j DNAT --to-destination {to_port}
-A POSTROUTING -d {to} -j MASQUERADE
COMMIT
*filter
-A FORWARD -d {svc} -p tcp -j REJECT
COMMIT
"""
Change = Callable[[wire.Seen], wire.Seen | None]


class Misreading(Lab):
    """Changes what it reads, or overlooks it."""

    change: Change | None = None

    def _collect(self) -> Iterator[tuple[wire.Seen, bool]]:
        for seen, local in super()._collect():
            now = self.change(seen) if self.change else seen
            if now is not None:
                yield now, local


@pytest.fixture(scope="module")
def lab() -> Iterator[Misreading]:
    made = Misreading("nft", (WORDS[4]["node"], WORDS[6]["node"]), (WORDS[4]["podnet"], WORDS[6]["podnet"]), witness=1)
    for family in (4, 6):
        made.load(_RULES.format(**WORDS[family]), family)
    yield made
    made.close()


def probes(family: int) -> list[Probe]:
    """From a pod and from outside, and from the node, to what is translated, passed and rejected."""
    words = {name: number(WORDS[family][name]) for name in ("svc", "to", "pod", "out", "node")}
    return [
        Probe(family, words[source], words[target], proto, 53, way)
        for way, source in (("pod", "pod"), ("outside", "out"), ("node", "node"))
        for target in ("svc", "to")
        for proto in ("udp", "tcp")
    ]


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_conntrack_bears_the_lab_out(lab: Misreading, family: int) -> None:
    """Translated, masqueraded, passed and rejected: every packet has its entry, or none where it was refused."""
    lab.change = None
    before = lab.witnessed
    outcomes = lab.send(probes(family))
    assert {outcome.action for outcome in outcomes} == {"translate", "pass", "reject"}
    assert any(outcome.src != probe.src for outcome, probe in zip(outcomes, probes(family), strict=True))
    assert lab.witnessed - before == len(outcomes)


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_what_the_node_takes_in(lab: Misreading, family: int) -> None:
    """UDP has its entry; TCP was answered with a reset, and conntrack has forgotten it."""
    lab.change = None
    out, node = number(WORDS[family]["out"]), number(WORDS[family]["node"])
    outcomes = lab.send([Probe(family, out, node, proto, 53, "outside") for proto in ("udp", "tcp")])
    assert all(outcome.local for outcome in outcomes)
    port = lab._ports - 1
    asked = [Tuple(wire.NUMBERS[proto], out, node, at, 53) for proto, at in (("udp", port), ("tcp", port + 1))]
    entries = lab.conntrack.entries(family, asked)
    assert [entry is not None for entry in entries] == [True, False]


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda seen: seen._replace(dst=seen.dst + 1), "expects"),
        (lambda seen: seen._replace(dport=seen.dport + 1), "expects"),
        (lambda seen: seen._replace(src=seen.src + 1), "expects"),
        (lambda seen: seen._replace(sport=seen.sport ^ 1), "expects"),
        (lambda seen: None, "has it sent on"),
        (lambda seen: seen._replace(error=False), "knows no such connection"),
    ],
    ids=["backend", "port", "masquerade", "source-port", "lost", "rejection"],
)
def test_what_is_misread_is_found_out(lab: Misreading, family: int, change: Change, what: str) -> None:
    """Each way to misread an arrival contradicts an entry, and the lab ends with it."""
    lab.change = change
    with pytest.raises(ContradictionError, match=what):
        lab.send(probes(family))
