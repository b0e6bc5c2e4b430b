"""The node itself: forwarding, connection tracking, kube-proxy's own word on its health."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from ..errors import ParseError
from ..model.lazy_regex import pattern
from ..model.node_result import SyncState
from ..model.node_tools import NodeTools
from ..model.proxy_container import ProxyContainer
from ..model.report import Severity
from .heal import ProxyState
from .observation import Observation

FULL_AT = 0.9
"""Share of the conntrack table from which on it is worth a warning."""


STUCK = 60.0
"""Seconds that a change may be queued: twice the 30 s of syncPeriod after which a failed sync is tried again."""
_COUNT = pattern(r"[0-9]{1,20}")


def parse_sysctl(text: str) -> dict[str, str]:
    """`name = value` lines. Raises ParseError for anything else, and for a text that stops in the middle of a line."""
    found: dict[str, str] = {}
    if not text.strip():
        raise ParseError("the file is empty: nothing was read")
    if not text.endswith("\n"):
        raise ParseError("the text stops in the middle of a line", text.count("\n") + 1, text[text.rfind("\n") + 1 :])
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[\w.\-/]+", name.strip()):
            raise ParseError("not a line of sysctl's", number, line)
        found[name.strip()] = value.strip()
    return found


def sysctls(values: Mapping[str, str], *, families: frozenset[int], localhost_node_ports: bool) -> Iterator[Observation]:
    """Settings of the kernel without which right rules do nothing."""
    for family, name in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
        if family in families and values.get(name) == "0":
            yield _of_node("SR601", f"{name} is 0", name, (f"{name} = 0",))
    if 4 in families and localhost_node_ports and values.get("net.ipv4.conf.all.route_localnet") == "0":
        name = "net.ipv4.conf.all.route_localnet"
        yield _of_node("SR604", f"{name} is 0", name, (f"{name} = 0",))
    for family, name in ((4, "net.bridge.bridge-nf-call-iptables"), (6, "net.bridge.bridge-nf-call-ip6tables")):
        if family in families and values.get(name) == "0":
            yield _of_node("SR605", f"{name} is 0", name, (f"{name} = 0",))
    count, most = values.get("net.netfilter.nf_conntrack_count", ""), values.get("net.netfilter.nf_conntrack_max", "")
    if _COUNT.fullmatch(count) and _COUNT.fullmatch(most) and int(most) and int(count) >= FULL_AT * int(most):
        severity = Severity.ERROR if int(count) >= int(most) else None
        yield _of_node(
            "SR602",
            f"the connection-tracking table holds {count} of {most} entries",
            "conntrack",
            (f"net.netfilter.nf_conntrack_count = {count}", f"net.netfilter.nf_conntrack_max = {most}"),
            severity,
        )


def _of_node(code: str, message: str, key: str, evidence: tuple[str, ...], severity: Severity | None = None) -> Observation:
    return Observation(
        code=code, node_wide=True, service=None, message=message, key=key, evidence=evidence, severity=severity, place=""
    )


def proxy_state(
    container: ProxyContainer | None, files: Mapping[str, str], tools: NodeTools, sync: SyncState | None, failed: int
) -> ProxyState:
    """What is known of the node's kube-proxy, the worst first.

    `failed`: syncs that failed since its start. No process alone proves nothing: k3s runs kube-proxy within its own.
    """
    answers = [files.get(name) for name in ("proxy-mode.txt", "healthz.json", "metrics.txt", "configz.json")]
    clock = files.get("clock.txt", "").strip()
    if container is not None and container.crashes(float(clock) if _COUNT.fullmatch(clock) else None):
        return "crashing"
    if container is not None and container.stopped:
        return "stopped"
    if tools.process is False and not any(answers):
        why = tools.not_read.get("proxy-mode.txt", "")
        if "healthz.json" in tools.not_read and "curl" not in why:
            return "stopped"
    if sync is not None and sync.queued is not None and sync.now - sync.queued >= STUCK:
        return "failing" if failed else "behind"
    return "runs"


def proxy_health(state: ProxyState, container: ProxyContainer | None) -> Iterator[Observation]:
    """A kube-proxy that does not run: its rules stay as they are, and changes do not reach the node."""
    evidence = (f"pod {container.pod}: {container}",) if container is not None else ()
    if state == "crashing":
        yield _of_node("SR609", f"kube-proxy crashes again and again ({container})", "crash", evidence)
    elif state == "stopped" and container is not None and container.stopped:
        yield _of_node("SR610", f"kube-proxy does not run ({container})", "stopped", evidence)
    elif state == "stopped":
        message = "no process named kube-proxy, and nothing answers at its health check and metrics addresses"
        yield _of_node("SR610", message, "stopped", evidence)


def behind(sync: SyncState, *, failed: int = 0) -> Iterator[Observation]:
    """A change that kube-proxy queued a minute ago and has not written: what its /healthz from 1.36 calls unhealthy.

    `failed`: syncs that failed since kube-proxy's start.
    """
    if sync.queued is not None and sync.now - sync.queued >= STUCK:
        evidence: tuple[str, ...] = (
            f"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds {sync.queued:.0f}",
            f"kubeproxy_sync_proxy_rules_last_timestamp_seconds {sync.written:.0f}",
            f"now {sync.now:.0f}",
        )
        message = f"kube-proxy has had a change queued for over {STUCK:g} s and has not written it"
        if failed:
            message += f": {failed} syncs failed since it was started"
            evidence = (*evidence, f"kubeproxy_sync_proxy_rules_…_failures_total {failed}")
        yield _of_node("SR603", message, "queue", evidence)


def health(text: str) -> Iterator[Observation]:
    """kube-proxy's `/healthz`: JSON with lastUpdated, currentTime, and from 1.36 `healthy`, also for each family.

    Raises ParseError when it is not that. Before 1.36 only the status code told; the text then only has the times, and
    kube-proxy without changes writes nothing for up to an hour, so an old lastUpdated alone is no fault.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"not JSON ({error})") from error
    if not isinstance(document, dict) or "lastUpdated" not in document:
        raise ParseError("not the answer of kube-proxy's /healthz")
    families = document.get("status")
    unhealthy = [
        name
        for name, status in sorted(families.items() if isinstance(families, dict) else ())
        if isinstance(status, dict) and status.get("healthy") is False
    ]
    if document.get("healthy") is False or unhealthy:
        which = f" for {' and '.join(unhealthy)}" if unhealthy else ""
        last = document.get("lastUpdated")
        yield _of_node(
            "SR603", f"kube-proxy says that it is not healthy{which}; its last sync was at {last}", "health", (text.strip(),)
        )
