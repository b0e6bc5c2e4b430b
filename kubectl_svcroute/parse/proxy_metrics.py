"""kube-proxy's own word on how far it is: what it queued last, and what it wrote last.

`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds` is set when a change is queued, `..._last_timestamp_seconds` when a
sync has ended well (pkg/proxy/metrics/metrics.go). Newer versions have one of each for every IP family. A change that comes
during a sync is queued before that sync ends and is not in it, so "queued before written" alone does not prove that nothing
is pending: only a kube-proxy that has written nothing for some time, and has nothing queued, is at rest.
"""

from __future__ import annotations

import re

from ..errors import ParseError
from ..model.lazy_regex import pattern
from ..model.node_result import SyncState

_SAMPLE = pattern(
    r"kubeproxy_sync_proxy_rules_last_(?P<queued>queued_)?timestamp_seconds(?P<labels>\{[^}]*\})? (?P<value>\S+)(?: -?\d+)?"
)


_FAILURES = pattern(
    r"kubeproxy_sync_proxy_rules_(?:iptables_restore|nftables_sync)_failures_total(?:\{[^}]*\})? (?P<value>[0-9.e+]{1,24})"
)


def failures(metrics: str) -> int:
    """How many syncs have failed since kube-proxy's start, of both families; 0 where the metrics do not say."""
    found = (_FAILURES.fullmatch(line.strip()) for line in metrics.splitlines())
    try:
        return sum(int(float(match["value"])) for match in found if match is not None)
    except (ValueError, OverflowError):
        return 0


def sync_state(metrics: str, clock: str) -> SyncState | None:
    """What the node's kube-proxy had queued and written when it was asked; None when the metrics do not tell.

    `clock` is the node's own time at the end of its reading, so that nobody else's clock is needed. Raises ParseError for
    values that are no numbers.
    """
    queued: dict[str, float] = {}
    written: dict[str, float] = {}
    for number, line in enumerate(metrics.splitlines(), start=1):
        found = _SAMPLE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            value = float(found["value"])
        except ValueError as error:
            raise ParseError("not a number where kube-proxy prints one", number, line) from error
        (queued if found["queued"] else written)[found["labels"] or ""] = value
    if not written or not re.fullmatch(r"[0-9]{1,20}", clock.strip()):
        return None
    pending = [at for labels, at in queued.items() if at > written.get(labels, 0.0)]
    return SyncState(
        now=float(clock),
        queued=min(pending, default=None),
        written=min(written.values()),
        busy=max((*queued.values(), *written.values())),
    )
