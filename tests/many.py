"""A cluster of any size, as kube-proxy 1.36 writes it: for benchmarks where no captured one is at hand, and to grow.

`write` makes a snapshot folder. Its Services are a mixture like that of the captured ones: most have a cluster IP, every
20th a node port, every 50th session affinity, every 35th two ports. Endpoints are spread over five nodes. `local` gives some a
traffic policy Local, for which every node has chains of its own. What the nodes hold loads with `iptables-restore --test` and
`nft -j -c`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubectl_svcroute.expect.names import endpoint_hash, nft_endpoint, nft_service, port_name, service_hash
from kubectl_svcroute.model.net import Protocol

WHEN = "Mon Nov 23 20:58:08 2026"
SPREAD = 5
"""Over so many nodes the endpoints are spread."""


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service, with its endpoints in the order of their addresses."""

    name: str
    port: int
    target: int
    node_port: int


@dataclass(frozen=True, slots=True)
class Made:
    """One Service."""

    name: str
    ip: str
    ports: tuple[Port, ...]
    affinity: bool
    endpoints: tuple[tuple[str, str], ...]
    """(address, node)."""
    external_local: bool
    internal_local: bool

    def on(self, node: int) -> list[str]:
        """The addresses of the endpoints on a node."""
        return [ip for ip, where in self.endpoints if where == node_name(node)]

    def used(self, port: Port) -> bool:
        """Whether anybody is sent to endpoints everywhere."""
        return not self.internal_local or bool(port.node_port)

    def local_chain(self, port: Port) -> bool:
        """Whether somebody is sent to endpoints of this node alone."""
        return self.internal_local or (self.external_local and bool(port.node_port))


def node_name(number: int) -> str:
    """The name of a node, from 1."""
    return f"worker{number}.example.net"


def services(count: int, endpoints: int, *, local: bool = False) -> list[Made]:
    """So many Services of so many endpoints each; with `local`, one in 40 by its node port and one in 25 by its cluster IP."""
    found = []
    for n in range(count):
        http = Port("http", 80, 8080, 30000 + n // 20 if n % 20 == 0 else 0)
        https = Port("https", 443, 8443, 0)
        first = n * endpoints
        backends = tuple(
            (f"10.{244 + (k >> 16)}.{(k >> 8) & 255}.{k & 255}", node_name(k % SPREAD + 1))
            for k in range(first + 1024, first + 1024 + endpoints)
        )
        ports = (http, https) if n % 35 == 3 else (http,)
        policies = (local and n % 40 == 0, local and n % 25 == 7)
        found.append(Made(f"svc-{n:05d}", f"10.97.{n // 250}.{n % 250 + 1}", ports, n % 50 == 1, backends, *policies))
    return found


CIDR = "10.240.0.0/12"
"""The pods' network: the endpoints' addresses, and the nodes' own ranges."""

# ---- the API's side -------------------------------------------------------------------------------------------------------


def api(made: Sequence[Made], nodes: int, mode: str) -> dict[str, Any]:
    """What the API server lists."""
    items, slices = [], []
    for service in made:
        meta = {"name": service.name, "namespace": "scale", "uid": service.name, "resourceVersion": "1"}
        items.append({
            "metadata": meta,
            "spec": {
                "type": "NodePort" if service.ports[0].node_port else "ClusterIP",
                "clusterIP": service.ip, "clusterIPs": [service.ip], "ipFamilies": ["IPv4"],
                "ports": [
                    {"name": p.name, "protocol": "TCP", "port": p.port, "targetPort": p.target}
                    | ({"nodePort": p.node_port} if p.node_port else {})
                    for p in service.ports
                ],
                "sessionAffinity": "ClientIP" if service.affinity else "None",
                "internalTrafficPolicy": "Local" if service.internal_local else "Cluster",
            } | ({"externalTrafficPolicy": "Local"} if service.external_local else {})
            | ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}} if service.affinity else {}),
        })  # fmt: skip
        slices.append({
            "metadata": {**meta, "name": f"{service.name}-1", "labels": {"kubernetes.io/service-name": service.name}},
            "addressType": "IPv4",
            "ports": [{"name": p.name, "protocol": "TCP", "port": p.target} for p in service.ports],
            "endpoints": [
                {"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False}, "nodeName": node,
                 "targetRef": {"kind": "Pod", "namespace": "scale", "name": f"{service.name}-{n}"}}
                for n, (ip, node) in enumerate(service.endpoints)
            ],
        })  # fmt: skip
    listed = [
        {
            "metadata": {"name": node_name(n)},
            "spec": {"podCIDR": f"10.250.{n % 256}.0/24", "podCIDRs": [f"10.250.{n % 256}.0/24"]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": f"172.18.{n // 200}.{n % 200 + 11}"}],
                "nodeInfo": {"kubeletVersion": "v1.36.2", "operatingSystem": "linux"},
            },
        }
        for n in range(1, nodes + 1)
    ]
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": mode,
        "clusterCIDR": CIDR,
    }  # fmt: skip
    return {
        "services": {"kind": "ServiceList", "apiVersion": "v1", "items": items},
        "endpointslices": {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": slices},
        "nodes": {"kind": "NodeList", "apiVersion": "v1", "items": listed},
        "pods": {"kind": "PodList", "apiVersion": "v1", "items": []},
        "version": {"gitVersion": "v1.36.2"},
        "configmap-kube-proxy": {
            "kind": "ConfigMap", "metadata": {"name": "kube-proxy"}, "data": {"config.conf": json.dumps(config)},
        },
    }


# ---- iptables -------------------------------------------------------------------------------------------------------------

_BEFORE = f"""\
# Generated by iptables-save v1.8.9 (nf_tables) on {WHEN}
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
# Completed on {WHEN}
# Generated by iptables-save v1.8.9 (nf_tables) on {WHEN}
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
# Completed on {WHEN}
# Generated by iptables-save v1.8.9 (nf_tables) on {WHEN}
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
"""  # noqa: E501 - as iptables-save prints it
_FIXED = """\
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"""
_LAST = """\
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" \
-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"""


def _probability(left: int) -> str:
    return f"{round((1 / left) * 0x80000000) / 0x80000000:.11f}"


def iptables(made: Sequence[Made], node: int, cidr: str) -> str:
    """What iptables-save prints of a node."""
    chains: dict[str, list[str]] = {}
    entries: list[str] = []
    node_ports: list[str] = []
    for service in made:
        for port in service.ports:
            _iptables_port(service, port, node, cidr, chains, entries, node_ports)
    declared = ["KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY", "KUBE-SERVICES", *sorted(chains)]
    lines = [_filtering(made, node), *[f":{name} - [0:0]\n" for name in declared], _FIXED]
    lines += [f"{line}\n" for line in node_ports]
    lines += [f"{line}\n" for name in sorted(chains) for line in chains[name]]
    lines += [f"{line}\n" for line in entries]
    lines += [_LAST, f"COMMIT\n# Completed on {WHEN}\n"]
    return "".join(lines)


def _filtering(made: Sequence[Made], node: int) -> str:
    """All before the nat table's chains: what may not leave this node, and has no endpoint on it, is dropped."""
    outside = inside = ""
    for service in made:
        for port in service.ports:
            if not service.local_chain(port) or service.on(node):
                continue
            text = f'-p tcp -m comment --comment "{port_name("scale", service.name, port.name)} has no local endpoints"'
            if service.external_local and port.node_port:
                here = "-m addrtype --dst-type LOCAL"
                outside += f"-A KUBE-EXTERNAL-SERVICES {text} {here} -m tcp --dport {port.node_port} -j DROP\n"
            if service.internal_local:
                inside += f"-A KUBE-SERVICES -d {service.ip}/32 {text} -m tcp --dport {port.port} -j DROP\n"
    head, tail = _BEFORE.rsplit("COMMIT\n", 1)
    return head.replace("-A KUBE-FIREWALL ", f"{outside}-A KUBE-FIREWALL ", 1) + inside + "COMMIT\n" + tail


def _iptables_port(
    service: Made, port: Port, node: int, cidr: str, chains: dict[str, list[str]], entries: list[str], node_ports: list[str]
) -> None:
    name = port_name("scale", service.name, port.name)
    key = service_hash("scale", service.name, port.name, Protocol.TCP)
    svc, svl = f"KUBE-SVC-{key}", f"KUBE-SVL-{key}"
    where = f"-d {service.ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port.port}"
    inner, here = svl if service.internal_local else svc, service.on(node)
    ends = {ip: f"KUBE-SEP-{endpoint_hash('scale', service.name, port.name, Protocol.TCP, ip, port.target)}"
            for ip, _ in service.endpoints}  # fmt: skip
    led = {}
    if service.used(port):
        led[svc] = [*ends]
    if service.local_chain(port) and here:
        led[svl] = here
    if inner in led:
        entries.append(f"-A KUBE-SERVICES {where} -j {inner}")
    for chain, addresses in led.items():
        rules = [f"-A {chain} ! -s {cidr} {where} -j KUBE-MARK-MASQ"] if chain == inner else []
        if service.affinity:
            rules += [
                f'-A {chain} -m comment --comment "{name} -> {ip}:{port.target}" -m recent --rcheck --seconds 10800 --reap'
                f" --name {ends[ip]} --mask 255.255.255.255 --rsource -j {ends[ip]}"
                for ip in addresses
            ]
        for n, ip in enumerate(addresses):
            left = len(addresses) - n
            chance = f" -m statistic --mode random --probability {_probability(left)}" if left > 1 else ""
            rules.append(f"-A {chain}{chance} -j {ends[ip]}")
        chains[chain] = rules
    for ip in dict.fromkeys(ip for addresses in led.values() for ip in addresses):
        sep = ends[ip]
        recent = f" -m recent --set --name {sep} --mask 255.255.255.255 --rsource" if service.affinity else ""
        chains[sep] = [
            f"-A {sep} -s {ip}/32 -j KUBE-MARK-MASQ",
            f"-A {sep} -p tcp{recent} -m tcp -j DNAT --to-destination {ip}:{port.target}",
        ]
    if port.node_port:
        ext = f"KUBE-EXT-{key}"
        chains[ext] = [
            f'-A {ext} -m comment --comment "masquerade traffic for {name} external destinations" -j KUBE-MARK-MASQ',
            f"-A {ext} -j {svc}",
        ]
        if service.external_local:
            own, what = "-m addrtype --src-type LOCAL", f"traffic for {name} external destinations"
            chains[ext] = [
                f'-A {ext} -s {cidr} -m comment --comment "pod {what}" -j {svc}',
                f'-A {ext} -m comment --comment "masquerade LOCAL {what}" {own} -j KUBE-MARK-MASQ',
                f'-A {ext} -m comment --comment "route LOCAL {what}" {own} -j {svc}',
                *([f"-A {ext} -j {svl}"] if here else []),
            ]
        start, dport = f'-p tcp -m comment --comment "{name}" -m tcp --dport {port.node_port}', f"-j {ext}"
        node_ports.append(
            f"-A KUBE-NODEPORTS -d 127.0.0.0/8 {start} -m nfacct --nfacct-name  localhost_nps_accepted_pkts {dport}"
        )
        node_ports.append(f"-A KUBE-NODEPORTS {start} {dport}")


IP6TABLES = (
    _BEFORE.replace("iptables-save", "ip6tables-save").replace(
        next(line for line in _BEFORE.splitlines(keepends=True) if "127.0.0.0" in line), ""
    )
    + "".join(f":KUBE-{name} - [0:0]\n" for name in ("MARK-MASQ", "NODEPORTS", "POSTROUTING", "PROXY-CANARY", "SERVICES"))
    + _FIXED + _LAST + f"COMMIT\n# Completed on {WHEN}\n"
)  # fmt: skip


# ---- nftables -------------------------------------------------------------------------------------------------------------


def _payload(field: str, protocol: str = "ip") -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


_PROTO = {"meta": {"key": "l4proto"}}
_DPORT = _payload("dport", "th")
_MARK = {"meta": {"key": "mark"}}
_TYPES = {"address": "ipv4_addr", "proto": "inet_proto", "port": "inet_service"}
_PORTS = [_TYPES["proto"], _TYPES["port"]]


def _match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def nft_objects(made: Sequence[Made], node: int, cidr: str) -> Iterator[dict[str, Any]]:
    """What `nft -j list table ip kube-proxy` prints of a node, object by object."""
    here = {"family": "ip", "table": "kube-proxy"}
    yield {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}
    yield {"table": {"family": "ip", "name": "kube-proxy", "handle": 3}}
    ports = [(s, p) for s in made for p in s.ports]
    hairpins = [{"concat": [ip, ip, "tcp", p.target]} for s, p in ports for ip, on in s.endpoints if on == node_name(node)]
    entries = [
        [{"concat": [s.ip, "tcp", p.port]}, {"goto": {"target": f"{'local' if s.internal_local else 'service'}-{_nft(s, p)}"}}]
        for s, p in ports if not s.internal_local or s.on(node)
    ]  # fmt: skip
    lacking = [(s, p) for s, p in ports if s.local_chain(p) and not s.on(node)]
    closed = [[{"concat": [s.ip, "tcp", p.port]}, {"drop": None}] for s, p in lacking if s.internal_local]
    closed_outside = [
        [{"concat": ["tcp", p.node_port]}, {"drop": None}] for s, p in lacking if s.external_local and p.node_port
    ]
    outside = [
        [{"concat": ["tcp", p.node_port]}, {"goto": {"target": f"external-{_nft(s, p)}"}}] for s, p in ports if p.node_port
    ]
    sets: list[tuple[str, str, Any, list[Any]]] = [
        ("set", "hairpin-connections", [_TYPES["address"], _TYPES["address"], *_PORTS], hairpins),
        ("set", "cluster-ips", _TYPES["address"], [s.ip for s in made]),
        ("set", "nodeport-ips", _TYPES["address"], [f"172.18.{node // 200}.{node % 200 + 11}"]),
        ("map", "no-endpoint-services", [_TYPES["address"], *_PORTS], closed),
        ("map", "no-endpoint-nodeports", _PORTS, closed_outside),
        ("map", "firewall-ips", [_TYPES["address"], *_PORTS], []),
        ("map", "service-ips", [_TYPES["address"], *_PORTS], entries),
        ("map", "service-nodeports", _PORTS, outside),
    ]
    for name, kind, hook, priority in (
        ("filter-prerouting-pre-dnat", "filter", "prerouting", -110), ("filter-output-pre-dnat", "filter", "output", -110),
        ("filter-input", "filter", "input", 0), ("filter-forward", "filter", "forward", 0),
        ("filter-output", "filter", "output", 0),
        ("nat-prerouting", "nat", "prerouting", -100), ("nat-output", "nat", "output", -100),
        ("nat-postrouting", "nat", "postrouting", 100),
    ):  # fmt: skip
        yield {"chain": here | {"name": name, "handle": 1, "type": kind, "hook": hook, "prio": priority, "policy": "accept"}}
    plain = ("nodeport-endpoints-check", "service-endpoints-check", "firewall-check", "services", "masquerading",
             "cluster-ips-check", "reject-chain")  # fmt: skip
    rules = list(_nft_rules(ports, node, cidr))
    for name in (*plain, *dict.fromkeys(chain for chain, _ in rules if "/" in chain)):
        yield {"chain": here | {"name": name, "handle": 1}}
    # nft prints sets first; so that it can also load this, what their elements lead to comes before them.
    for kind, name, types, elements in sets:
        found = {"family": "ip", "name": name, "table": "kube-proxy", "type": types, "handle": 1}
        yield {kind: found | ({"map": "verdict"} if kind == "map" else {}) | ({"elem": elements} if elements else {})}
    affine = [(s, p, ip) for s, p in ports if s.affinity for ip, _ in s.endpoints]
    for s, p, ip in affine:
        yield {"set": {"family": "ip", "name": f"affinity-{_nft_end(s, p, ip)}", "table": "kube-proxy", "type": "ipv4_addr",
                       "handle": 1, "flags": ["timeout"], "timeout": 10800}}  # fmt: skip
    for number, (chain, statements) in enumerate(rules, start=20):
        yield {"rule": here | {"chain": chain, "handle": number, "expr": statements}}


def _nft(service: Made, port: Port) -> str:
    return nft_service("scale", service.name, port.name, Protocol.TCP)


def _nft_end(service: Made, port: Port, address: str) -> str:
    return nft_endpoint("scale", service.name, port.name, Protocol.TCP, address, port.target)


def _nft_rules(ports: Sequence[tuple[Made, Port]], node: int, cidr: str) -> Iterator[tuple[str, list[Any]]]:
    new = _match({"ct": {"key": "state"}}, "new", "in")
    for chain, target in (
        ("filter-prerouting-pre-dnat", "firewall-check"), ("filter-output-pre-dnat", "firewall-check"),
        ("filter-input", "nodeport-endpoints-check"), ("filter-input", "service-endpoints-check"),
        ("filter-forward", "service-endpoints-check"), ("filter-forward", "cluster-ips-check"),
        ("filter-output", "service-endpoints-check"), ("filter-output", "cluster-ips-check"),
    ):  # fmt: skip
        yield chain, [new, {"jump": {"target": target}}]
    for chain, target in (("nat-prerouting", "services"), ("nat-output", "services"), ("nat-postrouting", "masquerading")):
        yield chain, [{"jump": {"target": target}}]
    by_port, dst = {"concat": [_PROTO, _DPORT]}, _payload("daddr")
    by_service = {"concat": [dst, _PROTO, _DPORT]}
    network = {"prefix": {"addr": cidr.partition("/")[0], "len": int(cidr.partition("/")[2])}}
    masquerade = {"masquerade": {"flags": "fully-random"}}
    mark = {"mangle": {"key": _MARK, "value": {"|": [_MARK, 16384]}}}
    nodes = _match(dst, "@nodeport-ips")
    yield "nodeport-endpoints-check", [nodes, {"vmap": {"key": by_port, "data": "@no-endpoint-nodeports"}}]
    yield "service-endpoints-check", [{"vmap": {"key": by_service, "data": "@no-endpoint-services"}}]
    yield "firewall-check", [{"vmap": {"key": by_service, "data": "@firewall-ips"}}]
    yield "services", [_match(dst, "@cluster-ips"), _match(_payload("saddr"), network, "!="), mark]
    yield "services", [{"vmap": {"key": by_service, "data": "@service-ips"}}]
    yield "services", [nodes, {"vmap": {"key": by_port, "data": "@service-nodeports"}}]
    yield "masquerading", [
        _match({"&": [_MARK, 16384]}, 0, "!="), {"mangle": {"key": _MARK, "value": {"^": [_MARK, 16384]}}}, masquerade
    ]  # fmt: skip
    itself = {"concat": [_payload("saddr"), dst, _PROTO, _DPORT]}
    yield "masquerading", [_match({"ct": {"key": "status"}}, "dnat", "in"), _match(itself, "@hairpin-connections"), masquerade]
    refused = {"reject": {"type": "icmp", "expr": "port-unreachable"}}
    yield "cluster-ips-check", [_match(dst, "@cluster-ips"), refused]
    yield "cluster-ips-check", [_match(dst, {"prefix": {"addr": "10.96.0.0", "len": 12}}), {"drop": None}]
    yield "reject-chain", [refused]
    for service, port in ports:
        svc = f"service-{_nft(service, port)}"
        here = service.on(node)
        if service.used(port):
            yield from _nft_balance(service, port, svc, [ip for ip, _ in service.endpoints])
        if service.local_chain(port) and here:
            yield from _nft_balance(service, port, f"local-{_nft(service, port)}", here)
        if not port.node_port:
            continue
        external = f"external-{_nft(service, port)}"
        if not service.external_local:
            yield external, [mark]
            yield external, [{"goto": {"target": svc}}]
            continue
        own = _match({"fib": {"result": "type", "flags": ["saddr"]}}, "local")
        yield external, [_match(_payload("saddr"), network), {"goto": {"target": svc}}]
        yield external, [own, mark]
        yield external, [own, {"goto": {"target": svc}}]
        if here:
            yield external, [{"goto": {"target": f"local-{_nft(service, port)}"}}]


def _nft_balance(service: Made, port: Port, chain: str, addresses: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    chance = {"numgen": {"mode": "random", "mod": len(addresses), "offset": 0}}
    tcp = _match(_PROTO, "tcp")
    if not service.affinity:
        where = [[n, {"concat": [ip, port.target]}] for n, ip in enumerate(addresses)]
        yield chain, [tcp, {"dnat": {"family": "ip", "addr": {"map": {"key": chance, "data": {"set": where}}}}}]
        return
    ends = [(ip, f"endpoint-{_nft_end(service, port, ip)}") for ip in addresses]
    for ip, end in ends:
        yield chain, [_match(_payload("saddr"), f"@affinity-{_nft_end(service, port, ip)}"), {"goto": {"target": end}}]
    chosen = [[n, {"goto": {"target": end}}] for n, (_, end) in enumerate(ends)]
    yield chain, [{"vmap": {"key": chance, "data": {"set": chosen}}}]
    for ip, end in ends:
        yield end, [{"set": {"op": "update", "elem": _payload("saddr"), "set": f"@affinity-{_nft_end(service, port, ip)}"}}]
        yield end, [tcp, {"dnat": {"addr": ip, "port": port.target}}]


def nftables(made: Sequence[Made], node: int, cidr: str) -> str:
    """What `nft -j list table ip kube-proxy` prints of a node."""
    return json.dumps({"nftables": list(nft_objects(made, node, cidr))}) + "\n"


# ---- a snapshot -----------------------------------------------------------------------------------------------------------

_SYSCTLS = """\
net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
net.ipv4.conf.all.route_localnet = 1
net.ipv4.conf.all.rp_filter = 0
net.netfilter.nf_conntrack_max = 262144
net.netfilter.nf_conntrack_count = 3
"""


def node_files(made: Sequence[Made], node: int, mode: str) -> dict[str, str]:
    """The files of one node."""
    rules = (
        {"iptables-save.txt": iptables(made, node, CIDR), "ip6tables-save.txt": IP6TABLES}
        if mode == "iptables"
        else {"nft-ruleset.json": nftables(made, node, CIDR)}
    )
    return {"proxy-mode.txt": mode, "sysctl.txt": _SYSCTLS, **rules}


def write(folder: Path, *, mode: str, count: int, endpoints: int = 10, nodes: int = 2, local: bool = False) -> Path:
    """Write a snapshot of a cluster in one mode (`iptables` or `nftables`)."""
    made = services(count, endpoints, local=local)
    for name, value in api(made, nodes, mode).items():
        path = folder / "api" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    for n in range(1, nodes + 1):
        for name, text in node_files(made, n, mode).items():
            path = folder / "nodes" / node_name(n) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder
