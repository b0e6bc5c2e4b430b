"""The logs of a Job's or DaemonSet's pods, as far as they have ended: what `kubectl svcroute job --collect` gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from ..errors import CollectError
from ..model.fast_dataclass import dataclass
from .kube import ApiError
from .node_script import one_line

_PAGE = 500
_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")
"""The second is what it was called before 1.27."""


class PodsApi(Protocol):
    """What is needed of the API's client (`collect.kube.KubeApi`)."""

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """One GET, decoded."""

    def get_text(self, path: str, params: Mapping[str, str | int] | None = None) -> str:
        """One GET of something that is not JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPod:
    """One pod of a run."""

    name: str
    created: str
    index: str
    """Its completion index, or the node that it runs on where it has none."""
    run: str
    """The Job's name; empty for a DaemonSet's."""
    ended: bool
    said: str
    """How it stands, in a few words, with what it left as its termination message."""


def pods_of(api: PodsApi, namespace: str, labels: Mapping[str, str], container: str) -> list[RunPod]:
    """The pods of the newest run with these labels, oldest first. Raises CollectError when they may not be listed."""
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    query: dict[str, str | int] = {"labelSelector": selector, "limit": _PAGE}
    found: list[RunPod] = []
    while True:
        try:
            page = api.get(f"/api/v1/namespaces/{quote(namespace)}/pods", query)
        except ApiError as error:
            if error.status == 403:
                raise CollectError(f"no permission to list pods in namespace {namespace}: {error}") from error
            raise
        found += [_pod(item, container) for item in page.get("items") or ()]
        more = (page.get("metadata") or {}).get("continue")
        if not more:
            break
        query["continue"] = more
    if not found:
        return []
    newest = max(found, key=lambda pod: (pod.created, pod.run)).run
    return sorted((pod for pod in found if pod.run == newest), key=lambda pod: (pod.created, pod.name))


def log_of(api: PodsApi, namespace: str, pod: RunPod, container: str) -> str:
    """What a pod's container printed. Raises CollectError, naming the pod, when the log cannot be had."""
    path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod.name)}/log"
    try:
        return api.get_text(path, {"container": container})
    except ApiError as error:
        if error.status == 403:
            raise CollectError(f"no permission for the verb get on pods/log in namespace {namespace}: {error}") from error
        raise CollectError(f"{pod.name}: its log cannot be read: {one_line(str(error))}") from error


def _pod(item: Mapping[str, Any], container: str) -> RunPod:
    meta, status = item.get("metadata") or {}, item.get("status") or {}
    labels: Mapping[str, str] = meta.get("labels") or {}
    states = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    mine: Mapping[str, Any] = next((state.get("state") or {} for state in states if state.get("name") == container), {})
    over = mine.get("terminated")
    phase = str(status.get("phase") or "Unknown")
    said = phase.lower()
    if isinstance(over, Mapping):
        message = one_line(str(over.get("message") or ""), 200)
        said = f"ended with status {over.get('exitCode')}" + (f": {message}" if message else "")
    else:
        waits = mine.get("waiting") or {}
        why = status.get("reason") or waits.get("reason") or _unschedulable(status.get("conditions") or ())
        said += f" ({one_line(str(why), 120)})" if why else ""
    return RunPod(
        name=str(meta.get("name")),
        created=str(meta.get("creationTimestamp") or ""),
        index=str((meta.get("annotations") or {}).get(_INDEX) or (item.get("spec") or {}).get("nodeName") or meta.get("name")),
        run=next((labels[key] for key in _JOB_LABELS if key in labels), ""),
        ended=isinstance(over, Mapping) or phase in ("Succeeded", "Failed"),
        said=said,
    )


def _unschedulable(conditions: Sequence[Mapping[str, Any]]) -> str:
    waits = (c for c in conditions if c.get("type") == "PodScheduled" and c.get("status") == "False")
    return next((str(c.get("message") or "") for c in waits), "")
