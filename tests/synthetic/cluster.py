"""What one kube-proxy of a given version sees of a cluster: its service ports, and the endpoints that each uses on one node."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Setup:
    """How the kube-proxies of a cluster run."""

    minor: int
    mode: str = "iptables"
    families: tuple[int, ...] = (4,)
    cluster_cidrs: tuple[str, ...] = ("10.244.0.0/16",)
    detect: str = "ClusterCIDR"
    interface: str = ""
    masquerade_all: bool = False
    bit: int = 14
    localhost_node_ports: bool = True
    node_port_addresses: tuple[str, ...] = ()
    kubelet: bool = False
    counters: bool = False
    large: bool = False
    slices: bool | None = None
    """Whether it reads EndpointSlices: by version, unless said."""
    old_base_chains: bool = False
    """Only 1.33, nftables: the base chains of its patches up to 1.33.5."""
    service_cidrs: tuple[str, ...] = ()

    @property
    def mark(self) -> int:
        return 1 << self.bit

    @property
    def reads_slices(self) -> bool:
        return self.minor >= 19 if self.slices is None else self.slices


@dataclass(frozen=True)
class Endpoint:
    ip: str
    port: int
    node: str | None
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None

    @property
    def at(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


@dataclass
class ServicePort:
    namespace: str
    name: str
    port_name: str
    proto: str
    port: int
    cluster_ip: str
    node_port: int = 0
    external_ips: list[str] = field(default_factory=list)
    lb_ips: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    etp_local: bool = False
    itp_local: bool = False
    affinity: int = 0
    health: int = 0
    hints: bool = False
    all: list[Endpoint] = field(default_factory=list)
    # what the node uses of them
    cluster: list[Endpoint] = field(default_factory=list)
    local: list[Endpoint] = field(default_factory=list)
    any: bool = False

    def spn(self, *, colon: bool) -> str:
        return f"{self.namespace}/{self.name}:{self.port_name}" if self.port_name or colon else f"{self.namespace}/{self.name}"

    @property
    def external(self) -> bool:
        return bool(self.node_port or self.external_ips or self.lb_ips)

    @property
    def uses_cluster(self) -> bool:
        return not self.itp_local or self.external

    @property
    def uses_local(self) -> bool:
        return self.itp_local or (self.etp_local and self.external)


@dataclass(frozen=True)
class Api:
    services: list[Json]
    slices: list[Json]
    endpoints: list[Json]
    nodes: list[Json]

    @classmethod
    def read(cls, folder: Path) -> Api:
        def items(name: str) -> list[Json]:
            path = folder / f"{name}.json"
            return json.loads(path.read_text())["items"] if path.exists() else []  # type: ignore[no-any-return]

        return cls(items("services"), items("endpointslices"), items("endpoints"), items("nodes"))


def family(address: str) -> int:
    return ipaddress.ip_network(address.strip(), strict=False).version


def of_family(addresses: list[str], version: int) -> list[str]:
    return [a.strip() for a in addresses if family(a) == version]


def node_ips(node: Json, version: int) -> list[str]:
    return [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP" and family(a["address"]) == version]


def _annotated(service: Json, minor: int) -> bool:
    """Whether zone hints count for this Service."""
    if minor < 24:
        return False
    if minor >= 31:
        return True
    notes = service["metadata"].get("annotations") or {}
    old = notes.get("service.kubernetes.io/topology-aware-hints")
    if minor <= 26 or old is not None:
        return old in ("Auto", "auto") if minor <= 26 else (old or "").lower() not in ("", "disabled")
    return notes.get("service.kubernetes.io/topology-mode", "").lower() not in ("", "disabled")


def _slices_of(api: Api, service: Json, version: int, minor: int) -> list[Json]:
    meta = service["metadata"]
    found = []
    for piece in api.slices:
        labels = piece["metadata"].get("labels") or {}
        if piece["metadata"]["namespace"] != meta["namespace"] or labels.get("kubernetes.io/service-name") != meta["name"]:
            continue
        if "service.kubernetes.io/headless" in labels or (minor <= 35 and "service.kubernetes.io/service-proxy-name" in labels):
            continue
        if piece["addressType"] == f"IPv{version}":
            found.append(piece)
    return found


def _from_slices(api: Api, service: Json, port: Json, version: int, setup: Setup) -> list[Endpoint]:
    by_key: dict[object, Endpoint] = {}
    for piece in _slices_of(api, service, version, setup.minor):
        for number in piece["ports"] or []:
            if number.get("name") is None or not number.get("port"):
                continue
            if number["name"] != port.get("name", "") or number.get("protocol", "TCP") != port.get("protocol", "TCP"):
                continue
            for entry in piece["endpoints"] or []:
                if not entry.get("addresses"):
                    continue
                said = entry.get("conditions") or {}
                hints = entry.get("hints") or {}
                ready = said.get("ready") is not False
                serving = said.get("serving") is not False if said.get("serving") is not None else True
                found = Endpoint(
                    ip=str(ipaddress.ip_address(entry["addresses"][0])),
                    port=number["port"],
                    node=entry.get("nodeName"),
                    ready=ready,
                    serving=serving,
                    terminating=bool(said.get("terminating")),
                    zones=tuple(z["name"] for z in hints["forZones"]) if hints.get("forZones") else None,
                    nodes=tuple(n["name"] for n in hints["forNodes"]) if hints.get("forNodes") else None,
                )
                key = found.ip if setup.minor <= 21 else (found.ip, found.port)
                by_key.setdefault(key, found)
    return list(by_key.values())


def _from_endpoints(api: Api, service: Json, port: Json, version: int, setup: Setup) -> list[Endpoint]:
    found = []
    for one in api.endpoints:
        if (one["metadata"]["namespace"], one["metadata"]["name"]) != (
            service["metadata"]["namespace"],
            service["metadata"]["name"],
        ):
            continue
        for subset in one.get("subsets") or []:
            for number in subset["ports"]:
                if number.get("name", "") != port.get("name", ""):
                    continue
                if setup.minor >= 17 and number.get("protocol", "TCP") != port.get("protocol", "TCP"):
                    continue
                for address in subset.get("addresses") or []:
                    if family(address["ip"]) == version:
                        found.append(Endpoint(address["ip"], number["port"], address.get("nodeName")))
    return found


def _by_hints(ready: list[Endpoint], node: Json, setup: Setup) -> list[Endpoint]:
    name = node["metadata"]["name"]
    if setup.minor >= 34 and ready and all(e.nodes for e in ready) and any(name in (e.nodes or ()) for e in ready):
        return [e for e in ready if name in (e.nodes or ())]
    zone = (node["metadata"].get("labels") or {}).get("topology.kubernetes.io/zone")
    if zone and ready and all(e.zones for e in ready) and any(zone in (e.zones or ()) for e in ready):
        return [e for e in ready if zone in (e.zones or ())]
    return ready


def _choose(found: ServicePort, node: Json, setup: Setup) -> None:
    name = node["metadata"]["name"]
    ready = [e for e in found.all if e.ready]
    draining = [e for e in found.all if e.serving and e.terminating] if setup.minor >= 26 else []
    if setup.minor <= 23 and found.itp_local and not (found.etp_local and found.external):
        # 1.22 and 1.23: the one chain of the Service holds local endpoints only
        ready = [e for e in ready if e.node == name]
        found.itp_local = False
    elif setup.minor <= 23:
        found.itp_local = False
    if found.uses_cluster:
        found.cluster = (_by_hints(ready, node, setup) if found.hints else ready) or draining
    if found.uses_local:
        found.local = [e for e in ready if e.node == name] or [e for e in draining if e.node == name]
    found.any = bool(found.cluster) or (found.uses_local and bool(ready or draining))
    if setup.minor >= 17:
        found.cluster.sort(key=lambda e: e.at)
        found.local.sort(key=lambda e: e.at)


def service_ports(api: Api, node: Json, version: int, setup: Setup) -> list[ServicePort]:
    """Each service port that kube-proxy on this node programs for this address family, with the endpoints that it uses."""
    out = []
    for service in api.services:
        meta, spec = service["metadata"], service["spec"]
        labels = meta.get("labels") or {}
        if "service.kubernetes.io/service-proxy-name" in labels:
            continue
        if 16 <= setup.minor <= 35 and "service.kubernetes.io/headless" in labels:
            continue
        ips = of_family([i for i in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if i and i != "None"], version)
        if spec.get("type") == "ExternalName" or not ips:
            continue
        lb = []
        for entry in (service.get("status", {}).get("loadBalancer") or {}).get("ingress") or []:
            if entry.get("ip") and not (setup.minor >= 30 and entry.get("ipMode") == "Proxy"):
                lb.append(entry["ip"])
        ranges = spec.get("loadBalancerSourceRanges") or []
        if setup.minor >= 34 and any(ipaddress.ip_network(r.strip(), strict=False).prefixlen == 0 for r in ranges):
            ranges = []
        for port in spec.get("ports") or []:
            external = of_family(spec.get("externalIPs") or [], version)
            lb_ips = of_family(lb, version)
            typed = spec.get("type") in ("NodePort", "LoadBalancer")
            local = spec.get("externalTrafficPolicy") == "Local" and (typed or (bool(external) and setup.minor >= 20))
            found = ServicePort(
                namespace=meta["namespace"],
                name=meta["name"],
                port_name=port.get("name", ""),
                proto=port.get("protocol", "TCP").lower(),
                port=port["port"],
                cluster_ip=ips[0],
                node_port=port.get("nodePort", 0) if typed else 0,
                external_ips=external,
                lb_ips=lb_ips,
                ranges=of_family(ranges, version),
                etp_local=local,
                itp_local=spec.get("internalTrafficPolicy") == "Local" and setup.minor >= 22,
                affinity=((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds", 10800)
                if spec.get("sessionAffinity") == "ClientIP"
                else 0,
                health=spec.get("healthCheckNodePort", 0) if spec.get("type") == "LoadBalancer" and local else 0,
                hints=_annotated(service, setup.minor),
            )
            find = _from_slices if setup.reads_slices else _from_endpoints
            found.all = find(api, service, port, version, setup)
            _choose(found, node, setup)
            out.append(found)
    return out


def local_detector(node: Json, version: int, setup: Setup) -> tuple[str, str] | None:
    """("source", CIDR) or ("interface", pattern): how this kube-proxy knows a pod's packet; None where it cannot."""
    if setup.detect == "ClusterCIDR":
        cidrs = of_family(list(setup.cluster_cidrs), version)
        return ("source", cidrs[0]) if cidrs else None
    if setup.detect == "NodeCIDR":
        cidrs = of_family(node["spec"].get("podCIDRs") or [], version)
        return ("source", cidrs[0]) if cidrs else None
    pattern = setup.interface + ("*" if setup.detect == "InterfaceNamePrefix" else "")
    return ("interface", pattern)


def node_ip_in(ranges: list[str], node: Json, version: int) -> bool:
    own = node_ips(node, version)
    return bool(own) and any(ipaddress.ip_address(own[0]) in ipaddress.ip_network(r, strict=False) for r in ranges)
