"""Names for the shell to offer: of a saved snapshot, of the kubeconfig, or of the cluster, asked for briefly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PATIENCE = 3.0
"""Seconds that somebody who pressed the tab key waits for an API server."""
MOST = 500
"""Names of one kind: more are no help, and a cluster may have tens of thousands."""

Given = Mapping[str, Sequence[str]]
"""Options that the line has already, by parameter."""


def names(kind: str, given: Given) -> list[tuple[str, str]]:
    """`services`, `nodes`, `namespaces`, `labels`, `contexts`, `clusters` or `users`, each with a few words about it.

    Nothing where nothing can be read: no cluster, no permission, a server that does not answer.
    """
    try:
        return _names(kind, given)
    except Exception:  # whoever presses the tab key asked for no report about a cluster
        return []


def _names(kind: str, given: Given) -> list[tuple[str, str]]:
    if kind in ("contexts", "clusters", "users"):
        from ..collect.kube import kubeconfig_names  # noqa: PLC0415

        return [(name, "") for name in kubeconfig_names(kind, _last(given, "kubeconfig"))]
    if path := _last(given, "snapshot"):
        from ..run.settings import snapshot_path  # noqa: PLC0415

        path = snapshot_path(path) or path
        return list(_of_snapshot(kind, path, _last(given, "namespace"), everywhere="all_namespaces" in given))
    return list(_of_cluster(kind, given))


def _last(given: Given, name: str) -> str | None:
    return given[name][-1] if given.get(name) else None


def _of_snapshot(kind: str, path: str, namespace: str | None, *, everywhere: bool) -> Iterator[tuple[str, str]]:
    from ..collect.archive import load_snapshot  # noqa: PLC0415

    api = load_snapshot(path).api
    if kind == "namespaces":
        seen = sorted({_meta(item).get("namespace", "") for item in api.items("services")})
        yield from ((name, "") for name in seen if name)
        return
    items = api.items("nodes" if kind == "nodes" else "services")
    if kind != "nodes" and not everywhere:
        items = [item for item in items if _meta(item).get("namespace") == (namespace or "default")]
    yield from _offers(kind, items)


def _of_cluster(kind: str, given: Given) -> Iterator[tuple[str, str]]:
    from ..collect.kube import KubeOptions, connect  # noqa: PLC0415

    options: dict[str, Any] = {"request_timeout": PATIENCE}
    for name, values in given.items():
        field = "context" if name == "kube_context" else name
        if field in KubeOptions.__dataclass_fields__ and field != "request_timeout":
            options[field] = tuple(values) if field == "as_groups" else values[-1] or True
    with connect(KubeOptions(**options)) as api:
        path = {"nodes": "/api/v1/nodes", "namespaces": "/api/v1/namespaces"}.get(kind)
        if path is None:
            everywhere = "all_namespaces" in given
            path = "/api/v1/services" if everywhere else f"/api/v1/namespaces/{api.current_namespace}/services"
        yield from _offers(kind, api.get(path, {"limit": MOST})["items"])


def _meta(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = item.get("metadata") or {}
    return found


def _offers(kind: str, items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    if kind == "labels":
        pairs = {f"{key}={value}" for item in items for key, value in (_meta(item).get("labels") or {}).items()}
        yield from ((pair, "") for pair in sorted(pairs)[:MOST])
        return
    about = {"services": _service, "nodes": _node}.get(kind, lambda _: "")
    for item in sorted(items, key=lambda item: str(_meta(item).get("name")))[:MOST]:
        yield str(_meta(item).get("name")), about(item)


def _service(item: Mapping[str, Any]) -> str:
    spec = item.get("spec") or {}
    ports = ",".join(f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in spec.get("ports") or ())
    return " ".join(str(part) for part in (spec.get("type", "ClusterIP"), spec.get("clusterIP"), ports) if part)


def _node(item: Mapping[str, Any]) -> str:
    status = item.get("status") or {}
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    ready = {"True": "Ready", "False": "NotReady"}.get(str(conditions.get("Ready")), "")
    address = next((one.get("address") for one in status.get("addresses") or () if one.get("type") == "InternalIP"), "")
    return " ".join(part for part in (ready, str(address or "")) if part)
