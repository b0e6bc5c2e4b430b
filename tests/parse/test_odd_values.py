"""Values that no kube-proxy and no kernel prints, and that must not bring a parser down: each was found by fuzzing."""

from __future__ import annotations

import json

import pytest
from captured import CAPTURES, capture

from kubectl_svcroute.audit import Audit
from kubectl_svcroute.checks.node import health, sysctls
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.snapshot import NodeDump
from kubectl_svcroute.parse.proxy_config import duration, settings_from_configz, settings_from_flags, version_of
from kubectl_svcroute.selection import Selection

DEEP = '{"kubeproxy.config.k8s.io":' + "[" * 20_000


@pytest.mark.parametrize("value", ["1.2.3s", "..s", "9" * 400 + "h", float("nan"), float("inf"), 10**400, "٣s", True, -1])
def test_what_is_no_duration_is_none(value: object) -> None:
    """Neither an exception nor a number that no timer has."""
    assert duration(value) is None


def test_durations_are_read() -> None:
    """Go's own spelling, nanoseconds and the object that older ones print."""
    assert duration("1m30.5s") == 90.5
    assert duration(".5s") == 0.5
    assert duration({"duration": 30_000_000_000}) == 30


def test_deep_nesting_is_refused() -> None:
    """JSON can be nested deeper than Python can read it."""
    for read in (lambda text: settings_from_configz(text, source="f"), lambda text: list(health(text))):
        with pytest.raises(ParseError, match="not JSON"):
            read(DEEP)


def test_health_of_another_shape() -> None:
    """A status that is no object says nothing of a family."""
    assert list(health('{"lastUpdated": "x", "status": "healthy"}')) == []


@pytest.mark.parametrize("bit", ["²", "32", "-1", "9" * 5000, ""])
def test_a_bit_that_no_mark_has_is_not_taken(bit: str) -> None:
    """kube-proxy refuses to start with one."""
    assert "masquerade_bit" not in settings_from_flags(["kube-proxy", f"--iptables-masquerade-bit={bit}"])
    with pytest.raises(ParseError, match="masqueradeBit"):
        settings_from_configz(json.dumps({"kubeproxy.config.k8s.io": {"iptables": {"masqueradeBit": True}}}), source="f")


def test_a_version_of_thousands_of_digits() -> None:
    """It is none."""
    assert version_of("v1." + "3" * 5000) is None
    assert version_of("v1.٣") is None


def test_counts_in_other_digits_are_no_counts() -> None:
    """`str.isdigit` holds for more than `int` takes."""
    values = {"net.netfilter.nf_conntrack_count": "²", "net.netfilter.nf_conntrack_max": "²"}
    assert list(sysctls(values, families=frozenset([4]), localhost_node_ports=True)) == []


def test_a_command_line_that_was_cut_is_not_used() -> None:
    """`--cluster-cidr=10.244.0.0/16` cut to `/1` is another network: what it would decide is not verified."""
    name = CAPTURES[0]
    snapshot = load_snapshot(capture(name))
    audit = Audit(snapshot.api, Selection())
    dump = snapshot.nodes[0].read()
    assert isinstance(dump, NodeDump)
    for text, cut in (("kube-proxy\n--cluster-cidr=10.244.0.0/16\n", False), ("kube-proxy\n--cluster-cidr=10.244.0.0/1", True)):
        result = audit.node(NodeDump(node=dump.node, files={**dump.files, "kube-proxy-cmdline.txt": text}))
        assert bool([u for u in result.unverified if "kube-proxy-cmdline" in u.reason]) is cut
        assert result.findings == ()
