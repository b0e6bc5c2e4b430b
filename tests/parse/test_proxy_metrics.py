"""kube-proxy's metrics: what it has queued and what it has written."""

from __future__ import annotations

import pytest

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.node_result import SyncState
from kubectl_svcroute.parse.proxy_metrics import sync_state

OLD = """# HELP kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds [ALPHA] The last time a sync of proxy rules was queued
# TYPE kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 1.7e+09
kubeproxy_sync_proxy_rules_duration_seconds_count 12
kubeproxy_sync_proxy_rules_last_timestamp_seconds 1.7000000051e+09
"""
NEW = """kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.7e+09
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 1.700000020e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.700000005e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 1.700000001e+09
"""


def test_without_families() -> None:
    """Versions of one gauge: written after it was queued, so nothing is pending."""
    assert sync_state(OLD, "1700000030\n") == SyncState(
        now=1_700_000_030, queued=None, written=1_700_000_005.1, busy=1_700_000_005.1
    )


def test_each_family_by_itself() -> None:
    """What one family has written says nothing of the other: the one that is behind counts."""
    assert sync_state(NEW, "1700000030\n") == SyncState(
        now=1_700_000_030, queued=1_700_000_020, written=1_700_000_001, busy=1_700_000_020
    )


@pytest.mark.parametrize("metrics", ["", "# nothing\n", "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 1\n"])
def test_what_does_not_tell(metrics: str) -> None:
    """Without the metrics, or without the node's clock, nothing is known."""
    assert sync_state(metrics, "1700000030\n") is None
    assert sync_state(OLD, "") is None
    assert sync_state(OLD, "soon\n") is None


def test_a_damaged_value_is_refused() -> None:
    """A value that is no number raises: it is not taken for nothing queued."""
    with pytest.raises(ParseError):
        sync_state("kubeproxy_sync_proxy_rules_last_timestamp_seconds 1.7e\n", "1700000030\n")
