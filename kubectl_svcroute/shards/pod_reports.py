"""The reports of a run inside the cluster, from its pods' logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..collect.job_pods import PodsApi, RunPod, log_of, pods_of
from ..errors import CollectError, UsageError
from ..model.fast_dataclass import dataclass
from .manifests import CONTAINER, NAME_LABEL
from .merge import Part
from .read import parts_of

_PAUSE = 5.0
"""Seconds between looks at pods that have not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What the pods left."""

    parts: tuple[Part, ...]
    words: tuple[str, ...]
    """Of each index without a report: how its pod stands."""


def gather(
    api: PodsApi,
    namespace: str,
    name: str,
    *,
    wait: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Gathered:
    """The parts that the newest run's pods printed. `wait`: seconds to wait for pods that have not ended.

    Raises UsageError when there is no such run, CollectError when no pod has left a report.
    """
    labels = {**NAME_LABEL, "app.kubernetes.io/instance": name}
    until = clock() + wait
    read: dict[str, Part | str] = {}
    while True:
        pods = pods_of(api, namespace, labels, CONTAINER)
        if not pods:
            raise UsageError(f"no pods of a run named {name} in namespace {namespace}: was it applied, or is it gone already?")
        for pod in pods:
            if pod.ended and pod.name not in read:
                read[pod.name] = _read(api, namespace, pod)
        parts = _newest(pods, read)
        if clock() >= until or not _unfinished(pods, parts):
            break
        say(f"{sum(pod.ended for pod in pods)} of {len(pods)} pods have ended")
        sleep(min(_PAUSE, max(0.1, until - clock())))
    words = _words(pods, read, parts)
    if not parts:
        raise CollectError("no pod has left a report: " + "; ".join(words[:4] or ["none has ended"]))
    return Gathered(parts=tuple(parts.values()), words=tuple(words))


def _read(api: PodsApi, namespace: str, pod: RunPod) -> Part | str:
    """The part in a pod's log, or why there is none."""
    try:
        parts = parts_of(log_of(api, namespace, pod, CONTAINER), f"pod {pod.name}")
    except (CollectError, UsageError) as error:
        return f"{error} ({pod.said})"
    return parts[-1]


def _newest(pods: Sequence[RunPod], read: dict[str, Part | str]) -> dict[str, Part]:
    """By index the report of the last pod that left one: an earlier one was begun again for some reason."""
    found: dict[str, Part] = {}
    for pod in pods:
        part = read.get(pod.name)
        if isinstance(part, Part):
            found[pod.index] = part
    return found


def _unfinished(pods: Sequence[RunPod], parts: dict[str, Part]) -> bool:
    if any(not pod.ended and pod.index not in parts for pod in pods):
        return True
    count = max((part.shard.of.count for part in parts.values()), default=0)
    return len({pod.index for pod in pods}) < count


def _words(pods: Sequence[RunPod], read: dict[str, Part | str], parts: dict[str, Part]) -> list[str]:
    last = {pod.index: pod for pod in pods}
    words = []
    for index, pod in last.items():
        if index not in parts:
            why = read.get(pod.name)
            words.append(why if isinstance(why, str) else f"pod {pod.name}: {pod.said}")
    return words
