"""Shares and chance: the exact tails, and how rarely a healthy cluster is said to share unevenly. And who may dial at all."""

from __future__ import annotations

import ast
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

import kubectl_svcroute
from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.checks.observation import Observation
from kubectl_svcroute.collect.node_script import Connections, node_script
from kubectl_svcroute.model.flow import ProbeRow, ProbeShare
from kubectl_svcroute.probe.chance import ERROR_RATE, binomial_tail, improbable
from kubectl_svcroute.probe.judge import Judged
from kubectl_svcroute.probe.run import _Look, _Run

PACKAGE = Path(kubectl_svcroute.__file__).parent


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (20, 0.2), (20, 1 / 3), (40, 0.05), (7, 0.99)])
def test_tails_are_exact(n: int, p: float) -> None:
    """Against sums of binomial coefficients, for every count."""
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    for k in range(n + 1):
        side = sum(mass[: k + 1]) if k <= n * p else sum(mass[k:])
        assert binomial_tail(k, n, p) == pytest.approx(min(1.0, 2 * side), rel=1e-9)


def test_a_share_of_all_or_nothing_allows_no_exception() -> None:
    """What the rules send to one endpoint alone goes there, and what they never send to one does not."""
    assert (binomial_tail(20, 20, 1.0), binomial_tail(19, 20, 1.0)) == (1.0, 0.0)
    assert (binomial_tail(0, 20, 0.0), binomial_tail(1, 20, 0.0)) == (1.0, 0.0)


@pytest.mark.parametrize(("n", "endpoints"), [(20, 5), (20, 2), (100, 3), (1000, 20)])
def test_even_shares_are_not_called_uneven(n: int, endpoints: int) -> None:
    """The sum of all counts that would be reported, times their probability, keeps to the stated rate: exactly, not by trying."""
    p = 1 / endpoints
    logs = math.lgamma(n + 1)

    def mass(k: int) -> float:
        return math.exp(logs - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p))

    reported = math.fsum(mass(k) for k in range(n + 1) if improbable(k, n, p, endpoints))
    assert reported * endpoints <= ERROR_RATE


def test_real_unevenness_is_seen() -> None:
    """All connections to one of five endpoints, or a third of them to one that should get a twentieth."""
    assert improbable(20, 20, 0.2, 5 * 100)
    assert improbable(67, 200, 0.05, 20 * 100)
    rng = random.Random(7)
    counts = Counter(rng.randrange(5) for _ in range(20))
    assert not any(improbable(counts[k], 20, 0.2, 5) for k in range(5))


def seen(code: str, backend: str, *, sent: int, share: float) -> list[Judged]:
    """What is left of a failure of the first look, when the second had so many connections to the endpoint and no failure."""
    observation = Observation(code=code, node_wide=False, service="default/kuard", message="it failed", key=backend)
    row = ProbeRow(
        node="n", service="default/kuard", frontend="10.96.0.1:80/TCP", source="node", tool="python3", seen_by="conntrack",
        dialled=10, connected=10, refused=0, timed_out=0, failed=0, latency=None, expected="translate",
        answers=(ProbeShare(backend, None, sent, sent, share),),
    )  # fmt: skip
    look = _Look(audit=cast("Audit", None), judged={"n": [Judged(observations=[observation])]})
    return _Run._not_met_again(look, "n", set(), [Judged(row=row)], set())


def test_a_failure_that_chance_did_not_meet_again_is_not_forgotten() -> None:
    """Neither a finding (seen once) nor green: not verified. Refuted is what answered, or what the rules no longer give."""
    [part] = seen("SR701", "10.244.3.2:80", sent=0, share=0.2)
    assert [(u.code, u.service) for u in part.unverified] == [("SR921", "default/kuard")]
    assert "it failed: seen once" in part.unverified[0].reason
    assert seen("SR702", "10.244.3.2:80", sent=3, share=0.2) == []
    assert seen("SR701", "10.244.3.2:80", sent=0, share=0.0) == []


# ---- who may dial -----------------------------------------------------------------------------------------------------


def test_no_other_command_opens_a_connection_to_a_service() -> None:
    """Only `probe` loads the code that dials; the script that reads a node opens none but to kube-proxy's own ports."""
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and re.match(r"probe\b", node.module or ""):
                users.add(str(path.relative_to(PACKAGE)))
    assert users == {"cli/probe.py"}
    connections = Connections(addresses=("10.96.0.10", "fd00:96::1"), ports=(30080,))
    script = node_script("nonce", connections=connections)
    for word in ("/dev/tcp", "/dev/udp", "python", "telnet", "socket"):
        assert word not in script
    assert not re.search(r"\b(nc|ncat|socat|ping|dig|nslookup)\b", script)
    # What is fetched is at kube-proxy's own addresses, and nowhere is a Service's dialled: its addresses are grep's words alone.
    assert set(re.findall(r'"(?:http://|telnet://)([^"]*)"', script)) == {"$at/proxyMode", "$at/configz", "$at/metrics",
                                                                         "$a/proxyMode", "$a/healthz"}  # fmt: skip
    for line in script.splitlines():
        if "10.96.0.10" in line or "30080" in line:
            assert line.startswith("if have grep") or re.match(r"if have grep && \[ -n '", line), line


def test_what_goes_into_the_script_is_an_address() -> None:
    """An address that is none never becomes part of a command."""
    with pytest.raises(ValueError, match="invalid literal"):
        node_script("nonce", connections=Connections(addresses=("10.0.0.1; reboot",)))
