"""What has changed in the API since it was read: Services and their endpoints alone, and of these only what is asked about.

A second look needs no more. Nodes, configuration and permissions are those of the first reading; pods are read again where an
endpoint is a pod that was not there then. The parts that did not change are shared with the first reading, not copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from ..model.fast_dataclass import replace
from ..model.snapshot import ApiObjects
from .kube import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES, ApiError, KubeApi, Resource

FEW = 20
"""Up to so many Services are asked for one by one; above, whole Lists are cheaper for the server."""
_SERVICE_LABEL = "kubernetes.io/service-name"


def refresh(api: KubeApi, before: ApiObjects, services: frozenset[str] | None) -> ApiObjects:
    """The objects as they are now. `services`: `namespace/name` of those asked about; None: all.

    Raises ApiError and CollectError, as every reading does.
    """
    objects = dict(before.objects)
    for resource in (SERVICES, ENDPOINTSLICES, ENDPOINTS):
        if resource.key not in objects:
            continue
        if services is not None and len(services) <= FEW:
            objects[resource.key] = _some(api, objects[resource.key], resource, services)
        else:
            objects[resource.key] = _whole(api, objects[resource.key], resource, before.namespace)
    now = replace(before, objects=objects)
    if "pods" in objects and (namespaces := _namespaces_of_new_pods(before, now)):
        objects["pods"] = _pods(api, objects["pods"], namespaces)
    return now


def is_gone(api: KubeApi, node: str) -> bool:
    """Whether the API no longer has a Node. Raises ApiError, CollectError when it does not say."""
    try:
        api.get(f"/api/v1/nodes/{quote(node)}")
    except ApiError as error:
        if error.status == 404:
            return True
        raise
    return False


def _some(api: KubeApi, before: Mapping[str, Any], resource: Resource, services: frozenset[str]) -> dict[str, Any]:
    """A List in which the objects of some Services are replaced by what the API has of them now."""
    fresh: list[dict[str, Any]] = []
    for service in sorted(services):
        namespace, _, name = service.partition("/")
        # As Lists, which need no further permission, and give an empty answer for what is gone.
        if resource is ENDPOINTSLICES:
            wanted = {"labelSelector": f"{_SERVICE_LABEL}={name}"}
        else:
            wanted = {"fieldSelector": f"metadata.name={name}"}
        found = api.list(resource.path(namespace), resource.key, params=wanted)
        fresh += [item for item in found["items"] if service_of(resource.key, item) == service]
    rest = [item for item in before["items"] if service_of(resource.key, item) not in services]
    return {**before, "items": rest + fresh}


def _whole(api: KubeApi, before: Mapping[str, Any], resource: Resource, namespaces: str | None) -> dict[str, Any]:
    """A List read again from where it was read before."""
    if namespaces is None:
        return api.list(resource.path(), resource.key)
    items = [item for name in namespaces.split(",") for item in api.list(resource.path(name), resource.key)["items"]]
    return {**before, "items": items}


def _namespaces_of_new_pods(before: ApiObjects, now: ApiObjects) -> set[str]:
    """Namespaces in which an endpoint is a pod that was not there when pods were read."""
    old = {_uid(item) for item in before.items("endpointslices")}
    changed = [item for item in now.items("endpointslices") if _uid(item) not in old]
    wanted = {
        (str((item.get("metadata") or {}).get("namespace")), str(target.get("name")))
        for item in changed
        for endpoint in item.get("endpoints") or ()
        if (target := endpoint.get("targetRef") or {}).get("kind") == "Pod"
    }
    if not wanted:
        return set()
    known = {(str(pod["metadata"].get("namespace")), str(pod["metadata"].get("name"))) for pod in before.items("pods")}
    return {namespace for namespace, name in wanted - known}


def _uid(item: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = item.get("metadata") or {}
    return str(metadata.get("namespace")), str(metadata.get("name")), str(metadata.get("resourceVersion"))


def _pods(api: KubeApi, before: Mapping[str, Any], namespaces: Iterable[str]) -> dict[str, Any]:
    wanted = set(namespaces)
    rest = [item for item in before["items"] if item["metadata"].get("namespace") not in wanted]
    for namespace in sorted(wanted):
        rest += api.list(PODS.path(namespace), PODS.key)["items"]
    return {**before, "items": rest}


def service_of(key: str, item: Mapping[str, Any]) -> str:
    """`namespace/name` of the Service that an object of a List belongs to."""
    metadata = item.get("metadata") or {}
    name = metadata.get("name")
    if key == "endpointslices":
        name = (metadata.get("labels") or {}).get(_SERVICE_LABEL)
    return f"{metadata.get('namespace')}/{name}"


def changed_services(before: ApiObjects, after: ApiObjects) -> set[str]:
    """`namespace/name` of each Service that changed between two readings: itself, its EndpointSlices or Endpoints.

    By resourceVersion: a Service may be named whose rules are the same, and none whose rules differ is left out.
    """
    old, new = _versions(before), _versions(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _versions(api: ApiObjects) -> dict[str, frozenset[tuple[str, str, str]]]:
    """The versions of every object that makes up a Service, by its `namespace/name`."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for key in ("services", "endpointslices", "endpoints"):
        for item in api.items(key):
            metadata = item.get("metadata") or {}
            full = service_of(key, item)
            if key == "services" or full in found:
                version = (f"{key}/{metadata.get('name')}", str(metadata.get("uid")), str(metadata.get("resourceVersion")))
                found.setdefault(full, set()).add(version)
    return {name: frozenset(versions) for name, versions in found.items()}
