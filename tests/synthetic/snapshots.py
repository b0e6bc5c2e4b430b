"""Snapshots of clusters that were never captured: the API objects of one that was, and what other kube-proxies make of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cluster import Api, Json, Setup
from .in_iptables import iptables_save

SYSCTL = """net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
net.ipv4.conf.all.route_localnet = 1
net.ipv4.conf.all.rp_filter = 0
net.netfilter.nf_conntrack_max = 262144
net.netfilter.nf_conntrack_count = 7
"""


def config_map(setup: Setup) -> Json:
    """The ConfigMap of kubeadm that makes kube-proxies run so."""
    said: Json = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": setup.mode,
        "clusterCIDR": ",".join(setup.cluster_cidrs),
        setup.mode: {"masqueradeBit": setup.bit, "masqueradeAll": setup.masquerade_all, "syncPeriod": "30s"},
    }
    if setup.detect != "ClusterCIDR":
        said["detectLocalMode"] = setup.detect
        key = {"BridgeInterface": "bridgeInterface", "InterfaceNamePrefix": "interfaceNamePrefix"}.get(setup.detect)
        if key:
            said["detectLocal"] = {key: setup.interface}
    if not setup.localhost_node_ports:
        said["iptables"]["localhostNodePorts"] = False
    if setup.node_port_addresses:
        said["nodePortAddresses"] = list(setup.node_port_addresses)
    if setup.slices is not None and setup.minor < 22:
        said["featureGates"] = {"EndpointSliceProxying": setup.slices}
    meta = {"name": "kube-proxy", "namespace": "kube-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config.conf": json.dumps(said)}}


class Objects:
    """The API objects of a capture, to be added to."""

    def __init__(self, folder: Path) -> None:
        self.lists = {path.stem: json.loads(path.read_text()) for path in (folder / "api").glob("*.json")}

    @property
    def api(self) -> Api:
        items = {name: self.lists.get(name, {}).get("items", []) for name in ("services", "endpointslices", "endpoints", "nodes")}
        return Api(items["services"], items["endpointslices"], items["endpoints"], items["nodes"])

    def nodes(self, names: int) -> None:
        self.lists["nodes"]["items"] = self.lists["nodes"]["items"][:names]

    def run(self, setup: Setup) -> None:
        """Let these kube-proxies run on all nodes."""
        for node in self.lists["nodes"]["items"]:
            node["status"]["nodeInfo"]["kubeletVersion"] = f"v1.{setup.minor}.2"
            if node["status"]["nodeInfo"].get("kubeProxyVersion"):
                node["status"]["nodeInfo"]["kubeProxyVersion"] = f"v1.{setup.minor}.2"

    def service(self, name: str, ports: list[tuple[str, str, int, int]], endpoints: Iterable[Json], **spec: Any) -> None:
        """Add a Service of ports (name, protocol, port, target), the slice of its endpoints, and the Endpoints that mirror it."""
        number = len(self.lists["services"]["items"])
        six = spec.pop("six", False)
        cluster_ip = f"fd00:96::7:{number:x}" if six else f"10.96.77.{number}"
        meta: Json = {
            "name": name,
            "namespace": "more",
            "labels": spec.pop("labels", {}),
            "annotations": spec.pop("annotations", {}),
        }
        status = {"loadBalancer": {"ingress": spec.pop("ingress", [])}}
        node_ports = spec.pop("node_ports", ())
        body: Json = {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv6" if six else "IPv4"],
            "ports": [
                {k: v for k, v in (("name", n), ("protocol", p), ("port", a), ("targetPort", t)) if v != ""}
                for n, p, a, t in ports
            ],
            **spec,
        }
        if body["type"] != "ClusterIP":
            body.setdefault("externalTrafficPolicy", "Cluster")
            for port, nodeport in zip(body["ports"], node_ports, strict=False):
                port["nodePort"] = nodeport
        kind = {"apiVersion": "v1", "kind": "Service"}
        self.lists["services"]["items"].append({**kind, "metadata": meta, "spec": body, "status": status})
        listed = list(endpoints)
        slice_ports = [{"name": n, "protocol": p, "port": t} for n, p, _, t in ports]
        self.lists["endpointslices"]["items"].append(
            {
                "metadata": {"name": f"{name}-a", "namespace": "more", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv6" if six else "IPv4",
                "ports": slice_ports,
                "endpoints": listed,
            }
        )
        addresses = [
            {"ip": e["addresses"][0], "nodeName": e.get("nodeName")}
            for e in listed
            if (e.get("conditions") or {}).get("ready", True)
        ]
        subsets = [{"addresses": addresses, "ports": [{"name": n, "protocol": p, "port": t} for n, p, _, t in ports]}]
        if "endpoints" in self.lists and not six:
            made = {"metadata": {"name": name, "namespace": "more"}, "subsets": subsets if addresses else []}
            self.lists["endpoints"]["items"].append(made)

    def keep(self, names: frozenset[str]) -> None:
        """Of the Services that were added, these alone."""
        wanted = names | {f"{name}-a" for name in names}
        for kind in ("services", "endpoints", "endpointslices"):
            if kind in self.lists:
                found = [
                    i
                    for i in self.lists[kind]["items"]
                    if i["metadata"]["namespace"] != "more" or i["metadata"]["name"] in wanted
                ]
                self.lists[kind]["items"] = found

    def copy(self) -> Objects:
        new = Objects.__new__(Objects)
        new.lists = copy.deepcopy(self.lists)
        return new

    def write(self, folder: Path, setup: Setup, *, shows_config: bool = True) -> Path:
        """A snapshot folder: these objects, and on each node the rules that kube-proxies of this setup make of them."""
        self.run(setup)
        api = folder / "api"
        api.mkdir(parents=True)
        lists = dict(self.lists)
        lists["configmap-kube-proxy"] = config_map(setup)
        if not shows_config:
            del lists["configmap-kube-proxy"]
        if setup.minor >= 21:
            lists.pop("endpoints", None)
        for name, content in lists.items():
            (api / f"{name}.json").write_text(json.dumps(content))
        for node in self.api.nodes:
            home = folder / "nodes" / node["metadata"]["name"]
            home.mkdir(parents=True)
            (home / "sysctl.txt").write_text(SYSCTL)
            if setup.mode == "iptables":
                (home / "iptables-save.txt").write_text(iptables_save(self.api, node, 4, setup))
                (home / "ip6tables-save.txt").write_text(iptables_save(self.api, node, 6, setup))
            else:
                from .in_nft import nft_json

                (home / "nft-ruleset.json").write_text(nft_json(self.api, node, setup))
            if shows_config:
                (home / "proxy-mode.txt").write_text(setup.mode)
        return folder


def endpoint(last: int, node: int, *, six: bool = False, hints: Json | None = None, **conditions: bool) -> Json:
    """One endpoint of a slice on the pod network of node `node` (0: of no node)."""
    ip = f"fd00:244:{node}::{last:x}" if six else (f"10.244.{node}.{last}" if node else f"172.18.9.{last}")
    made: Json = {"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False, **conditions}}
    if node:
        made["nodeName"] = f"kubworker{node}.prefetch.net"
    if hints:
        made["hints"] = hints
    return made


def more_kinds(o: Objects, *, six: bool = False) -> None:
    """Services of the kinds that the captures do not have."""
    t = ("", "TCP", 80, 8080)
    three = [endpoint(101, 1), endpoint(102, 2), endpoint(103, 3)]
    lb = {"type": "LoadBalancer"}
    o.service(
        "ext-local",
        [t],
        [endpoint(104, 1), endpoint(105, 2)],
        type="NodePort",
        externalIPs=["192.0.2.60"],
        externalTrafficPolicy="Local",
        node_ports=[31001],
    )
    o.service("itp-node", [("h", "TCP", 80, 8080)], three, type="NodePort", internalTrafficPolicy="Local", node_ports=[31002])
    o.service(
        "both-local",
        [t],
        [endpoint(106, 2), endpoint(107, 2), endpoint(108, 4)],
        **lb,
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32100,
        ingress=[{"ip": "203.0.113.60"}],
        node_ports=[31003],
    )
    o.service(
        "ranged",
        [t],
        three,
        **lb,
        loadBalancerSourceRanges=["10.0.0.0/8", " 172.18.0.0/24"],
        ingress=[{"ip": "203.0.113.61"}, {"ip": "203.0.113.62"}],
        node_ports=[31004],
    )
    o.service(
        "open", [t], three, **lb, loadBalancerSourceRanges=["0.0.0.0/0"], ingress=[{"ip": "203.0.113.63"}], node_ports=[31005]
    )
    o.service("named", [t], three, **lb, ingress=[{"hostname": "lb.example"}], node_ports=[31006])
    o.service("proxied", [t], three, **lb, ingress=[{"ip": "203.0.113.64", "ipMode": "Proxy"}], node_ports=[31007])
    o.service("udp", [("d", "UDP", 53, 5353), ("t", "TCP", 53, 5353)], three, type="NodePort", node_ports=[31008, 31008])
    o.service("sctp", [("s", "SCTP", 99, 99)], three, type="NodePort", node_ports=[31009])
    o.service(
        "sticky-local",
        [t],
        [endpoint(110, 1), endpoint(111, 1), endpoint(112, 3)],
        **lb,
        externalTrafficPolicy="Local",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 77}},
        healthCheckNodePort=32101,
        ingress=[{"ip": "203.0.113.65"}],
        node_ports=[31010],
    )
    o.service("nowhere", [t], [endpoint(1, 0), endpoint(2, 0)])
    o.service("ten", [t], [endpoint(120 + i, 1 + i % 5) for i in range(10)])
    o.service(
        "draining-here",
        [t],
        [endpoint(131, 1, ready=False, serving=True, terminating=True), endpoint(132, 2)],
        type="NodePort",
        externalTrafficPolicy="Local",
        node_ports=[31011],
    )
    o.service("ready-and-ending", [t], [endpoint(133, 1, terminating=True), endpoint(134, 2, terminating=True)])
    zone = {"forZones": [{"name": "zone-a"}]}
    other = {"forZones": [{"name": "zone-b"}]}
    modern, older = {"service.kubernetes.io/topology-mode": "Auto"}, {"service.kubernetes.io/topology-aware-hints": "auto"}
    for name, notes in (("hinted", {}), ("hinted-mode", modern), ("hinted-auto", older)):
        o.service(name, [t], [endpoint(140, 2, hints=zone), endpoint(141, 1, hints=other)], annotations=notes)
    o.service("half-hinted", [t], [endpoint(142, 2, hints=zone), endpoint(143, 1)], annotations=older)
    o.service("one-zone", [t], [endpoint(144, 2, hints=zone), endpoint(145, 4, hints=zone)], annotations=older)
    here = {"forNodes": [{"name": "kubworker2.prefetch.net"}], **zone}
    there = {"forNodes": [{"name": "kubworker4.prefetch.net"}], **zone}
    o.service("node-hinted", [t], [endpoint(146, 2, hints=here), endpoint(147, 4, hints=there)])
    o.service(
        "empty-lb",
        [t],
        [],
        **lb,
        externalTrafficPolicy="Local",
        healthCheckNodePort=32102,
        ingress=[{"ip": "203.0.113.66"}],
        node_ports=[31012],
        externalIPs=["192.0.2.66"],
    )
    o.service("labelled-headless", [t], three, labels={"service.kubernetes.io/headless": ""})
    if six:
        s = [endpoint(0x30 + i, i, six=True) for i in (1, 2, 3)]
        o.service(
            "six-lb",
            [t],
            s,
            six=True,
            **lb,
            externalTrafficPolicy="Local",
            healthCheckNodePort=32103,
            ingress=[{"ip": "2001:db8::66"}],
            node_ports=[31020],
            loadBalancerSourceRanges=["2001:db8:1::/48", "fd00:18::/64"],
        )
        o.service(
            "six-ext",
            [t],
            s,
            six=True,
            type="NodePort",
            node_ports=[31021],
            externalIPs=["2001:db8::67"],
            sessionAffinity="ClientIP",
        )
        o.service("six-none", [t], [], six=True, type="NodePort", node_ports=[31022])
