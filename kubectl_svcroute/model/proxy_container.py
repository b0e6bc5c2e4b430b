"""The kube-proxy container of a pod: does it run, as the API says? (core/v1 ContainerStatus)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BACK_OFF = 600.0
"""Seconds that a container has to run before the kubelet forgets its crashes (pkg/kubelet, MaxContainerBackOff doubled)."""
MANY = 3
"""Restarts from which on short runs are a loop."""


class ProxyContainer(NamedTuple):
    """What a pod's status says of its kube-proxy container."""

    pod: str
    """`namespace/name`."""
    running: bool
    waiting: str
    """Why it waits: CrashLoopBackOff, ImagePullBackOff, ContainerCreating…; empty where it does not."""
    restarts: int
    ended: str
    """How its last run ended: `Error, exit code 1`; empty where none did."""
    started: float | None
    """When it was started, in seconds since the epoch; None where it does not run, or has never crashed."""
    last_run: float | None
    """How long its run before lasted, in seconds."""

    def crashes(self, now: float | None) -> bool:
        """True if it crashes again and again. `now`: when its status was read, in seconds since the epoch; None if not known."""
        if self.waiting == "CrashLoopBackOff":
            return True
        if self.restarts < MANY:
            return False
        if not self.running:
            return bool(self.ended) and not self.waiting
        short = self.last_run is not None and self.last_run < BACK_OFF
        return short and now is not None and self.started is not None and 0 <= now - self.started < BACK_OFF

    @property
    def stopped(self) -> str:
        """Why it does not run; empty where it runs, or is being started."""
        starting = self.running or self.waiting in ("", "ContainerCreating", "PodInitializing")
        return "" if starting else self.waiting

    def __str__(self) -> str:
        """In words, for a message about why it does not run."""
        times = f"restarted {self.restarts} times" if self.restarts != 1 else "restarted once"
        parts = [self.waiting, times if self.restarts else "", f"its last run ended with {self.ended}" if self.ended else ""]
        return ", ".join(part for part in parts if part)


def proxy_container(pod: Mapping[str, Any], container: str) -> ProxyContainer | None:
    """The state of one container; None where the pod's status does not list it, or the pod is being deleted."""
    meta, status = pod.get("metadata") or {}, pod.get("status") or {}
    if meta.get("deletionTimestamp"):
        return None
    for entry in status.get("containerStatuses") or ():
        if entry.get("name") != container:
            continue
        state, last = entry.get("state") or {}, (entry.get("lastState") or {}).get("terminated") or {}
        ended = state.get("terminated") or last
        restarts = int(entry.get("restartCount") or 0)
        timed = restarts >= MANY
        begun, over = (_seconds(last.get(key)) if timed else None for key in ("startedAt", "finishedAt"))
        return ProxyContainer(
            pod=f"{meta.get('namespace', '')}/{meta.get('name', '')}",
            running="running" in state,
            waiting=str((state.get("waiting") or {}).get("reason") or ""),
            restarts=restarts,
            ended=f"{ended.get('reason') or 'an error'}, exit code {ended.get('exitCode', '?')}" if ended else "",
            started=_seconds((state.get("running") or {}).get("startedAt")) if timed else None,
            last_run=over - begun if begun is not None and over is not None else None,
        )
    return None


def _seconds(text: object) -> float | None:
    """An RFC 3339 time of the API in seconds since the epoch; None for anything else."""
    from datetime import datetime  # noqa: PLC0415 - only where containers crash

    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
