"""API objects, as raw JSON, -> `ClusterState`.

What kube-proxy ignores is marked here with its reason (kube-proxy-rules.md, 4.1 and 4.2); what differs between its
versions is left to `expect/`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import ParseError
from ..model.cluster import (
    ClusterState,
    Endpoint,
    EndpointPort,
    Node,
    ProxyConfig,
    Service,
    ServicePort,
    Slice,
)
from ..model.net import Protocol, canonical_ip, family_of
from ..model.proxy_container import ProxyContainer, proxy_container
from ..model.snapshot import ApiObjects
from .proxy_config import Settings, settings_from_file, settings_from_flags, version_of

if TYPE_CHECKING:
    from ..model.raw_items import RawItems

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_LABEL = "kubernetes.io/service-name"


def parse_cluster(api: ApiObjects, *, only: frozenset[str] | None = None) -> ClusterState:
    """Everything that rules depend on. `only`: the Services that are asked for; of the others just the names are read.

    Raises ParseError, naming the object, for what no API server would return.
    """
    for needed in ("services", "nodes"):
        if needed not in api.objects:
            raise ParseError(f"api/{needed}.json was not read, and nothing can be judged without it")
    items = api.items("services")
    if only is not None:
        places = [place for place, (namespace, name) in enumerate(names_of(items)) if f"{namespace}/{name}" in only]
        items = [items[place] for place in places]
    services = tuple(
        sorted((_guard("Service", item, parse_service) for item in items), key=lambda s: (s.namespace, s.name))
    )
    slices = LazySlices(api.items("endpointslices"))
    legacy: dict[str, tuple[Slice, ...]] | None = None
    if "endpoints" in api.objects:
        legacy = {}
        for item in api.items("endpoints"):
            key, subsets = _guard("Endpoints", item, _endpoints)
            legacy[key] = subsets
    pod_ips: dict[str, list[str]] = defaultdict(list)
    versions: dict[str, tuple[int, int]] = {}
    containers: dict[str, ProxyContainer] = {}
    for item in api.items("pods"):
        _guard("Pod", item, lambda pod: _pod(pod, pod_ips, versions, containers))
    server = api.objects.get("version")
    server_version = version_of(str(server.get("gitVersion", ""))) if isinstance(server, dict) else None
    config, notes = _config(api)
    return ClusterState(
        services=services,
        slices=slices,
        endpoints_total=slices.total,
        legacy=legacy,
        nodes=tuple(sorted((_guard("Node", item, parse_node) for item in api.items("nodes")), key=lambda n: n.name)),
        pod_ips={node: tuple(sorted(ips)) for node, ips in pod_ips.items()},
        config=config,
        proxy_versions=versions,
        proxy_containers=containers,
        namespaces=None if api.namespace is None else (api.namespace,),
        server_version=server_version,
        notes=notes,
    )


def names_of(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(namespace, name) of each object of a List. Raises ParseError for one that has none."""
    if not isinstance(items, list):
        return [(head.metadata.namespace, head.metadata.name) for head in cast("RawItems", items).heads]
    return [_guard("object", item, _name_of) for item in items]


def _name_of(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class LazySlices(Mapping[str, tuple[Slice, ...]]):
    """`namespace/name` of a Service -> its slices, parsed when they are asked for: one Service needs one of thousands."""

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        self._items = items
        self._places: dict[str, list[int]] = {}
        self._parsed: dict[str, tuple[Slice, ...]] = {}
        self._parse = self._parse_object
        for place, key in enumerate(self._keys()):
            if key:
                self._places.setdefault(key, []).append(place)

    def _keys(self) -> Iterator[str]:
        """The Service of each item."""
        if not isinstance(self._items, list):
            from .slices_fast import slice_of  # noqa: PLC0415 - of large Lists alone

            items = cast("RawItems", self._items)
            found = items.heads
            if all(head.metadata.namespace and head.addresses is not None for head in found):

                def parse(place: int) -> Slice:
                    try:
                        return slice_of(items.texts[place])
                    except ValueError:
                        return self._parse_object(place)  # what is wrong with it is said there

                self._parse = parse
                for head in found:
                    yield _owner(head.metadata.namespace, head.metadata.labels or {}, head.addresses)
                return
        for item in self._items:
            yield _guard("EndpointSlice", item, _slice_of)

    def total(self) -> int:
        """Endpoints of all Service ports together, as kube-proxy counts them for its large-cluster mode."""
        places = (place for its in self._places.values() for place in its)
        return sum(_guard("EndpointSlice", self._items[place], _size_of) for place in places)

    def __getitem__(self, key: str) -> tuple[Slice, ...]:
        found = self._parsed.get(key)
        if found is None:
            pieces = [self._parse(place) for place in self._places[key]]
            found = self._parsed[key] = tuple(sorted(pieces, key=lambda s: s.name) if len(pieces) > 1 else pieces)
        return found

    def _parse_object(self, place: int) -> Slice:
        found: Slice = _guard("EndpointSlice", self._items[place], _slice)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _slice_of(item: Mapping[str, Any]) -> str:
    """The Service that a slice belongs to; empty for one that kube-proxy ignores."""
    meta = item["metadata"]
    return _owner(meta["namespace"], meta.get("labels") or {}, item.get("addressType"))


def _owner(namespace: str, labels: Mapping[str, str], kind: str | None) -> str:
    service = labels.get(SERVICE_LABEL)
    if not service or HEADLESS_LABEL in labels or kind not in ("IPv4", "IPv6"):
        return ""
    return f"{namespace}/{service}"


def _size_of(item: Mapping[str, Any]) -> int:
    return len(item.get("ports") or ()) * len(item.get("endpoints") or ())


def _guard(kind: str, item: Any, parse: Any) -> Any:
    try:
        return parse(item)
    except ParseError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        meta = item.get("metadata", {}) if isinstance(item, dict) else {}
        meta = meta if isinstance(meta, dict) else {}
        name = f"{meta.get('namespace', '')}/{meta.get('name', '?')}".lstrip("/")
        raise ParseError(f"{kind} {name} is not as an API server would return it ({type(error).__name__}: {error})") from error


def parse_service(item: Mapping[str, Any]) -> Service:
    """One Service."""
    meta, spec = item["metadata"], item.get("spec") or {}
    labels = meta.get("labels") or {}
    annotations = meta.get("annotations") or {}
    kind = spec.get("type") or "ClusterIP"
    raw_ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    cluster_ips = tuple(canonical_ip(ip) for ip in raw_ips if ip and ip != "None")
    skipped = ""
    if kind == "ExternalName":
        skipped = (
            f"ExternalName: kube-proxy programs nothing for it; DNS answers with {spec.get('externalName', '?')}"
            " (check it with `nslookup` from a pod)"
        )
        cluster_ips = ()
    elif PROXY_NAME_LABEL in labels:
        skipped = (
            f"label {PROXY_NAME_LABEL}={labels[PROXY_NAME_LABEL]!r}: another proxy serves it, and kube-proxy leaves it alone"
        )
    elif not cluster_ips:
        skipped = (
            "headless: kube-proxy programs nothing for it; DNS answers with the pods' own addresses"
            " (look at its EndpointSlices, and at `nslookup` from a pod)"
        )
    affinity = None
    if spec.get("sessionAffinity") == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity = int(client.get("timeoutSeconds") or 10800)
    ports = tuple(
        ServicePort(
            port.get("name") or "",
            Protocol(port.get("protocol") or "TCP"),
            int(port["port"]),
            int(port.get("nodePort") or 0),
        )
        for port in spec.get("ports") or ()
    )
    ingress = ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external_local = spec.get("externalTrafficPolicy") == "Local"
    return Service(
        namespace=meta["namespace"],
        name=meta["name"],
        type=kind,
        cluster_ips=cluster_ips,
        ports=ports,
        external_ips=tuple(canonical_ip(ip) for ip in spec.get("externalIPs") or ()),
        # kube-proxy asks for no type here: the API server, up to 1.28, leaves the status to a Service that was a load balancer.
        load_balancer_ips=tuple((canonical_ip(entry["ip"]), entry.get("ipMode") or "") for entry in ingress if entry.get("ip")),
        source_ranges=tuple(r.strip() for r in spec.get("loadBalancerSourceRanges") or () if r.strip()),
        external_local=external_local,
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        affinity=affinity,
        health_check_port=int(spec.get("healthCheckNodePort") or 0) if kind == "LoadBalancer" and external_local else 0,
        skipped=skipped,
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        topology_aware_hints=str(annotations.get("service.kubernetes.io/topology-aware-hints") or ""),
        topology_mode=str(annotations.get("service.kubernetes.io/topology-mode") or ""),
        headless_label=HEADLESS_LABEL in labels and not skipped,
        resource_version=str(meta.get("resourceVersion", "")),
    )


def _slice(item: Mapping[str, Any]) -> Slice:
    meta = item["metadata"]
    kind = item["addressType"]
    ports = tuple(
        EndpointPort(port.get("name") or "", Protocol(port.get("protocol") or "TCP"), int(port["port"]))
        for port in item.get("ports") or ()
        # A nil or zero port is skipped. A nil name is too, but the API server fills in "" and JSON omits it.
        if port.get("port")
    )
    endpoints = []
    for entry in item.get("endpoints") or ():
        addresses = entry.get("addresses") or ()
        if not addresses:
            continue
        conditions = entry.get("conditions") or {}
        hints = entry.get("hints") or {}
        zones, nodes = hints.get("forZones"), hints.get("forNodes")
        target = entry.get("targetRef") or {}
        ready = conditions.get("ready")
        serving = conditions.get("serving")
        endpoints.append(
            Endpoint(
                address=canonical_ip(addresses[0]),
                ready=True if ready is None else bool(ready),
                serving=True if serving is None else bool(serving),
                terminating=bool(conditions.get("terminating")),
                # v1beta1 of the API, up to 1.20, has the node among the topology labels.
                node=entry.get("nodeName") or (entry.get("topology") or {}).get("kubernetes.io/hostname"),
                zone=entry.get("zone"),
                zone_hints=tuple(z["name"] for z in zones) if zones else None,
                node_hints=tuple(n["name"] for n in nodes) if nodes else None,
                pod=target.get("name") if target.get("kind") == "Pod" else None,
            )
        )
    named = PROXY_NAME_LABEL in (meta.get("labels") or {})
    return Slice(name=meta["name"], family=4 if kind == "IPv4" else 6, ports=ports, endpoints=tuple(endpoints), named=named)


def _endpoints(item: Mapping[str, Any]) -> tuple[str, tuple[Slice, ...]]:
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    found = []
    for number, subset in enumerate(item.get("subsets") or ()):
        ports = tuple(
            EndpointPort(port.get("name") or "", Protocol(port.get("protocol") or "TCP"), int(port["port"]))
            for port in subset.get("ports") or ()
        )
        by_family: dict[int, list[Endpoint]] = {}
        for key, ready in (("addresses", True), ("notReadyAddresses", False)):
            for entry in subset.get(key) or ():
                address = canonical_ip(entry["ip"])
                target = entry.get("targetRef") or {}
                by_family.setdefault(family_of(address), []).append(
                    Endpoint(
                        address=address, ready=ready, serving=ready, terminating=False, node=entry.get("nodeName"), zone=None,
                        zone_hints=None, node_hints=None, pod=target.get("name") if target.get("kind") == "Pod" else None,
                    )
                )  # fmt: skip
        for family, endpoints in sorted(by_family.items()):
            found.append(
                Slice(
                    name=f"{meta['name']}/{number}",
                    family=family,
                    ports=ports,
                    endpoints=tuple(endpoints),
                    named=PROXY_NAME_LABEL in labels,
                    headless=HEADLESS_LABEL in labels,
                )
            )
    return f"{meta['namespace']}/{meta['name']}", tuple(found)


def parse_node(item: Mapping[str, Any]) -> Node:
    """One Node."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    labels = meta.get("labels") or {}
    info = status.get("nodeInfo") or {}
    addresses, odd = [], []
    for entry in status.get("addresses") or ():
        address = entry["address"]
        if entry["type"] in ("InternalIP", "ExternalIP"):
            try:
                address = canonical_ip(address)
            except ValueError:
                odd.append(f"{entry['type']} {address}")  # one kubelet's word: it costs that node alone
                continue
        addresses.append((entry["type"], address))
    zone = labels.get("topology.kubernetes.io/zone") or ""  # the label before it, failure-domain.beta…, is not read by kube-proxy
    return Node(
        name=meta["name"],
        addresses=tuple(addresses),
        odd_addresses=tuple(odd),
        pod_cidrs=tuple(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else ())),
        zone=zone,
        kubelet_version=info.get("kubeletVersion") or "",
        proxy_version=info.get("kubeProxyVersion") or "",
        os=labels.get("kubernetes.io/os") or info.get("operatingSystem") or "linux",
    )


_PROXY_IMAGE = re.compile(r"(?:^|/)kube-proxy(?:-[a-z0-9]+)?[:@]")


_PROXY_NAMESPACES = ("kube-system", "openshift-kube-proxy")
"""Where the distributions run kube-proxy: anyone may name a pod so in a namespace of their own."""


def _pod(
    item: Mapping[str, Any], pod_ips: dict[str, list[str]], versions: dict[str, tuple[int, int]],
    containers: dict[str, ProxyContainer],
) -> None:  # fmt: skip
    spec, status = item.get("spec") or {}, item.get("status") or {}
    node = spec.get("nodeName")
    if not node:
        return
    if not spec.get("hostNetwork"):
        ips = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
        ips = ips or ([status["podIP"]] if status.get("podIP") else [])
        if status.get("phase") not in ("Succeeded", "Failed"):
            pod_ips[node].extend(canonical_ip(ip) for ip in ips)
        return
    for container in spec.get("containers") or ():
        image = container.get("image") or ""
        if _PROXY_IMAGE.search(image) and (version := version_of(image)):
            versions[node] = version
            if item["metadata"].get("namespace") in _PROXY_NAMESPACES:
                state = proxy_container(item, container.get("name") or "")
                # While a pod takes the place of another, a node has two.
                if state is not None and (node not in containers or state.running):
                    containers[node] = state


def _config(api: ApiObjects) -> tuple[ProxyConfig | None, tuple[str, ...]]:
    """kube-proxy's configuration for the whole cluster: the ConfigMap's, else the DaemonSet's command line."""
    settings: Settings = {}
    known = False
    notes: list[str] = []
    configmap = api.objects.get("configmap-kube-proxy")
    if isinstance(configmap, dict):
        data = configmap.get("data") or {}
        for key in ("config.conf", "config", "kube-proxy-config", "config.yaml"):
            if isinstance(data, dict) and data.get(key):
                settings.update(settings_from_file(data[key], source=f"ConfigMap kube-proxy, key {key}"))
                known = True
                break
        else:
            notes.append("ConfigMap kube-system/kube-proxy has no configuration that is known; it was not used")
    if not known:
        for item in api.items("daemonsets"):
            if "kube-proxy" not in str((item.get("metadata") or {}).get("name", "")):
                continue
            containers = (((item.get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or ()
            for container in containers:
                flags = settings_from_flags([*(container.get("command") or ()), *(container.get("args") or ())])
                if flags:
                    settings.update(flags)
                    known = True
    if not known:
        return None, tuple(notes)
    return build_config((0, 0), settings), tuple(notes)


def build_config(version: tuple[int, int], settings: Settings) -> ProxyConfig:
    """A ProxyConfig of what is known, kube-proxy's defaults for the rest."""
    values = dict(settings)
    values.setdefault("feature_gates", {})
    return ProxyConfig(version=version, **values)
