"""What is kept of an API object: only what an audit needs, and nothing that is a secret.

Live reading and saved snapshots go through the same function, so a snapshot holds what the audit saw, and no more:

- every object loses `metadata.managedFields` and the annotation `kubectl.kubernetes.io/last-applied-configuration`,
  which repeat the object, with whatever its author once put there;
- a Pod keeps of its metadata name, namespace, uid, resourceVersion, labels, deletionTimestamp and ownerReferences; of its
  spec nodeName, hostNetwork and of each container name and ports; of its status phase, hostIP(s), podIP(s) and of each
  condition type and status. Environment, volumes, probes, security contexts, annotations and the rest go;
- a container's image, command and args stay only where it is kube-proxy's: they tell its version and its flags;
- a DaemonSet keeps name, namespace, labels, and of each container name, image, command and args;
- a Node loses `status.images` and its volumes, which are most of it;
- a ConfigMap loses every key that holds a kubeconfig, because some hold a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .flags import without_secrets

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "deletionTimestamp",
    "ownerReferences",
)
_POD_SPEC = ("nodeName", "hostNetwork")
_POD_STATUS = ("phase", "conditions", "hostIP", "hostIPs", "podIP", "podIPs")
_DAEMONSET_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels")
_NODE_STATUS_DROPPED = frozenset({"images", "volumesInUse", "volumesAttached"})
_ANNOTATIONS_THAT_MATTER = (
    "service.kubernetes.io/",
    "service.alpha.kubernetes.io/",
    "service.beta.kubernetes.io/",
    "endpoints.kubernetes.io/",
    "endpointslice.kubernetes.io/",
)
"""What kube-proxy and the endpoint controllers read or write; everything else a person or an add-on wrote."""


def project(key: str, found: Mapping[str, Any], *, terse: bool = False) -> dict[str, Any]:
    """One object, as far as an audit needs it. Pure: the argument is left as it is, parts of it are shared.

    `key` is the name of the List that it came from, as in `ApiObjects.objects`. `terse` also drops annotations that
    neither kube-proxy nor the endpoint controllers use: people put names, addresses and account numbers there.
    Projecting twice is projecting once.
    """
    metadata = _metadata(found.get("metadata"), terse=terse)
    if key == "pods":
        return _pod(found, metadata)
    if key == "daemonsets":
        template = _dict(_dict(_dict(found.get("spec")).get("template")).get("spec"))
        return {
            "metadata": _only(metadata, _DAEMONSET_METADATA),
            "spec": {"template": {"spec": {"containers": _containers(template, ("name", "image", "command", "args"))}}},
        }
    kept = dict(found)
    if "metadata" in kept:
        kept["metadata"] = metadata
    if key == "nodes" and isinstance(kept.get("status"), dict):
        kept["status"] = {name: value for name, value in kept["status"].items() if name not in _NODE_STATUS_DROPPED}
    if key.startswith("configmap"):
        for part in ("data", "binaryData"):
            if isinstance(kept.get(part), dict):
                kept[part] = {name: text for name, text in kept[part].items() if "kubeconfig" not in name.lower()}
    return kept


def project_list(key: str, found: Mapping[str, Any], *, terse: bool = False) -> dict[str, Any]:
    """A List with each of its items projected; an object that is no List is projected itself."""
    items = found.get("items")
    if not isinstance(items, Sequence) or isinstance(items, str):
        return project(key, found, terse=terse)
    return {**found, "items": [project(key, item, terse=terse) for item in items]}


def is_kube_proxy(pod: Mapping[str, Any]) -> bool:
    """Whether a Pod looks like kube-proxy's own: in kube-system, with its label or its name.

    kubeadm and most others label it `k8s-app: kube-proxy`; static pods of GKE and RKE2 `component: kube-proxy`.
    """
    metadata = _dict(pod.get("metadata"))
    labels = _dict(metadata.get("labels"))
    return metadata.get("namespace") == "kube-system" and (
        "kube-proxy" in (labels.get("k8s-app"), labels.get("component"), labels.get("app"))
        or str(metadata.get("name", "")).startswith("kube-proxy")
    )


def _pod(found: Mapping[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    spec = _dict(found.get("spec"))
    fields = ("name", "image", "ports", "command", "args") if is_kube_proxy(found) else ("name", "ports")
    status = _only(_dict(found.get("status")), _POD_STATUS)
    if "conditions" in status:
        # Without their times: those differ from pod to pod, and would be half of what a cluster's pods take.
        status["conditions"] = [_only(_dict(condition), ("type", "status")) for condition in status["conditions"] or ()]
    return {
        "metadata": _only(metadata, _POD_METADATA),
        "spec": {**_only(spec, _POD_SPEC), "containers": _containers(spec, fields)},
        "status": status,
    }


def _containers(spec: Mapping[str, Any], fields: Iterable[str]) -> list[dict[str, Any]]:
    found = [_only(_dict(container), fields) for container in spec.get("containers") or ()]
    for container in found:
        words = [str(word) for name in ("command", "args") for word in container.get(name) or ()]
        shown = without_secrets(words)  # of both together: a flag may end one, and its value begin the other
        if shown != words:
            count = len(container.get("command") or ())
            parts = {"command": shown[:count], "args": shown[count:]}
            container.update({name: part for name, part in parts.items() if name in container})
    return found


def _metadata(metadata: Any, *, terse: bool) -> dict[str, Any]:
    kept = {name: value for name, value in _dict(metadata).items() if name != "managedFields"}
    annotations = kept.get("annotations")
    if isinstance(annotations, dict):
        kept["annotations"] = {
            name: value
            for name, value in annotations.items()
            if name != LAST_APPLIED and (not terse or name.startswith(_ANNOTATIONS_THAT_MATTER))
        }
    return kept


def _only(found: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}
