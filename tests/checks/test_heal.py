"""Whether kube-proxy fixes a mistake by itself: each place, version and state, as the reference has it (section 8)."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from kubectl_svcroute.checks.heal import Healing, Place, ProxyState
from kubectl_svcroute.expect.versions import behaviour
from kubectl_svcroute.model.cluster import ProxyConfig

KINDS = {
    "30s": "kube-proxy fixes this within 30 s",
    "any": "kube-proxy fixes this at the next change of any Service or endpoint",
    "full": "kube-proxy fixes this at its next full sync (within an hour)",
    "own or full": "kube-proxy fixes this when this Service or its endpoints change, or at its next full sync",
    "own": "kube-proxy fixes this only when this Service or its endpoints change",
    "never": "kube-proxy does not fix this by itself",
    "believes": "kube-proxy itself may take this for right",
    "foreign": "kube-proxy will not fix this, nor does a restart",
}

SHARED = ("hook", "fixed", "filter", "entry", "service", "flushed", "gone")
EVERYTHING = dict.fromkeys(SHARED, "any")
PARTIAL = {"fixed": "any", "filter": "any", "entry": "any", "gone": "any"}
NO_HOUR = {**PARTIAL, "hook": "never", "flushed": "never", "service": "own"}
HOURLY = {**PARTIAL, "hook": "full", "flushed": "full", "service": "own or full"}
NFT_NO_HOUR = {
    "hook": "never", "fixed": "never", "filter": "never", "flushed": "never", "gone": "any", "entry": "own", "service": "own",
}  # fmt: skip
NFT_HOURLY = {
    "hook": "full", "fixed": "full", "filter": "full", "flushed": "full", "gone": "any",
    "entry": "own or full", "service": "own or full",
}  # fmt: skip

TABLE = {
    # (mode, large): from version on -> place -> kind
    ("iptables", False): {14: dict.fromkeys(SHARED, "30s"), 17: EVERYTHING, 27: NO_HOUR, 33: HOURLY},
    ("iptables", True): {14: dict.fromkeys(SHARED, "30s"), 17: EVERYTHING, 27: NO_HOUR, 33: HOURLY, 34: NO_HOUR},
    ("nftables", False): {29: EVERYTHING, 31: NFT_NO_HOUR, 33: NFT_HOURLY},
    ("nftables", True): {29: EVERYTHING, 31: NFT_NO_HOUR, 33: NFT_HOURLY},
}
CASES = [
    (mode, large, minor, place, rows[max(start for start in rows if start <= minor)][place])
    for (mode, large), rows in TABLE.items()
    for minor in range(min(rows), 37)
    for place in SHARED
]


def healing(
    mode: str, minor: int, *, large: bool = False, proxy: ProxyState = "runs", canary_gone: bool = False, **gates: bool
) -> Healing:
    config = ProxyConfig(version=(1, minor), mode=mode, feature_gates=gates)
    return Healing(
        rewrites_always=behaviour(config, mode=mode).rewrites_always,
        large=large,
        version=config.version,
        nftables=mode == "nftables",
        proxy=proxy,
        canary_gone=canary_gone,
    )


def kind(text: str) -> str:
    """Which of the answers it is: the longest beginning that fits."""
    return max((name for name, start in KINDS.items() if text.startswith(start)), key=lambda name: len(KINDS[name]))


def test_every_place_of_every_version_has_the_references_answer() -> None:
    """Partial syncs rewrite what Services share in iptables mode, and nothing but the changed Services in nftables mode."""
    wrong = [
        (mode, large, minor, place, found, wanted)
        for mode, large, minor, place, wanted in CASES
        if (found := kind(healing(mode, minor, large=large).of(place))) != wanted
    ]
    assert not wrong
    assert set(SHARED) | {"belief", "mode", "leftover", "foreign", ""} == set(get_args(Place))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_what_no_sync_fixes(mode: str) -> None:
    """Another program's rule survives every sync and a restart; what kube-proxy itself believes takes a restart."""
    for minor in (17, 26, 30, 36):
        assert kind(healing(mode, minor).of("foreign")) == "foreign"
        assert kind(healing(mode, minor).of("leftover")) == "foreign"
        assert "restart the node's kube-proxy pod" not in healing(mode, minor).of("foreign") + healing(mode, minor).of("leftover")
        assert kind(healing(mode, minor).of("belief")) == "believes"
        assert healing(mode, minor).of("mode").startswith("kube-proxy removes rules of its other modes when it starts")
        assert healing(mode, minor).of("") == ""
        assert healing(mode, minor).of("filter:FORWARD") == healing(mode, minor).of("filter")


@pytest.mark.parametrize("place", [*SHARED, "belief"])
@pytest.mark.parametrize(("state", "says"), [
    ("stopped", "no kube-proxy runs"), ("crashing", "keeps crashing"), ("failing", "neither a change nor a restart"),
    ("behind", "another change need not fix this"),
])  # fmt: skip
def test_a_kube_proxy_that_cannot_write_heals_nothing(place: str, state: ProxyState, says: str) -> None:
    """Where kube-proxy does not run, or fails, no answer says that it fixes anything by itself."""
    for mode, minor in (("iptables", 16), ("iptables", 26), ("iptables", 36), ("nftables", 36)):
        text = healing(mode, minor, proxy=state, canary_gone=True).of(place)
        assert says in text
        assert not re.search(r"kube-proxy fixes this (within|at|when|only)", text)
        assert kind(healing(mode, minor, proxy=state).of("foreign")) == "foreign"


def test_a_lost_canary_brings_a_full_sync() -> None:
    """In iptables mode kube-proxy looks for its canary in table mangle; nftables mode has none."""
    assert kind(healing("iptables", 36, large=True, canary_gone=True).of("flushed")) == "30s"
    assert kind(healing("nftables", 36, canary_gone=True).of("flushed")) == "full"


def test_partial_restores_are_a_matter_of_the_gate() -> None:
    """MinimizeIPTablesRestore could be chosen in 1.26, left in 1.27, and neither before nor behind."""
    for minor, chosen, wanted in ((25, True, "any"), (26, True, "own"), (27, False, "any"), (28, False, "own")):
        assert kind(healing("iptables", minor, MinimizeIPTablesRestore=chosen).of("service")) == wanted
