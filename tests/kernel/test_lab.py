"""The lab is laid out as it says."""

from __future__ import annotations

import pytest

from kubectl_svcroute.model.ranges import number

from .lab import Lab, Probe
from .micro import WORDS

_IN = "*raw\n-A PREROUTING -i veth1 -j DROP\nCOMMIT\n"
_OUT = "*mangle\n-A FORWARD -o veth1 -j DROP\nCOMMIT\n"


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_endpoints_have_a_link_of_their_own(family: int) -> None:
    """What an endpoint sends comes in there, what is sent to it leaves there, and nothing else does."""
    words = WORDS[family]
    endpoint, out = (number(words[name]) for name in ("pod", "out"))
    lab = Lab("nft", (words["node"],), (words["podnet"],), (words["pod"],))
    try:
        # From the endpoint and from another pod outwards; from outside to the endpoint and to the other pod.
        pairs = [("pod", endpoint, out), ("pod", endpoint + 1, out), ("outside", out, endpoint), ("outside", out, endpoint + 1)]
        probes = [Probe(family, src, dst, "udp", 53, way) for way, src, dst in pairs]
        lab.load(_IN, family)
        assert [outcome.action for outcome in lab.send(probes)] == ["drop", "pass", "pass", "pass"]
        lab.load(_OUT, family)
        assert [outcome.action for outcome in lab.send(probes)] == ["pass", "pass", "drop", "pass"]
        # Its own Service leads it back by the link that it came from.
        lab.load(f"*nat\n-A PREROUTING -d {words['svc']} -p udp -j DNAT --to-destination {words['pod']}\nCOMMIT\n", family)
        back = lab.send([Probe(family, endpoint, number(words["svc"]), "udp", 53, "pod")])[0]
        assert (back.action, back.dst, back.src) == ("translate", endpoint, endpoint)
    finally:
        lab.close()
