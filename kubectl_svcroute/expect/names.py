"""The names of kube-proxy's chains: to explain and to point, never to decide (kube-proxy-rules.md, sections 1 and 5.1)."""

from __future__ import annotations

import base64
import hashlib

from ..model.net import Protocol, host_port


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()


def port_name(namespace: str, service: str, port: str, *, colon: bool = False) -> str:
    """`ns/service:port` as kube-proxy prints it; `colon` for an unnamed port up to 1.18, which keeps its colon."""
    return f"{namespace}/{service}:{port}" if port or colon else f"{namespace}/{service}"


def service_hash(namespace: str, service: str, port: str, protocol: Protocol, *, colon: bool = False) -> str:
    """The 16 characters behind KUBE-SVC-, KUBE-SVL-, KUBE-EXT-, KUBE-XLB- and KUBE-FW-."""
    return _hash(port_name(namespace, service, port, colon=colon) + protocol.value.lower())[:16]


def endpoint_hash(
    namespace: str, service: str, port: str, protocol: Protocol, address: str, number: int, *, colon: bool = False
) -> str:
    """The 16 characters behind KUBE-SEP-."""
    text = port_name(namespace, service, port, colon=colon) + protocol.value.lower() + host_port(address, number)
    return _hash(text)[:16]


def nft_service(namespace: str, service: str, port: str, protocol: Protocol) -> str:
    """What follows service-, local-, external- and firewall- in nftables mode."""
    text = f"{namespace}/{service}/{protocol.value.lower()}/{port}"
    return f"{_hash(text)[:8]}-{text}"


def nft_endpoint(namespace: str, service: str, port: str, protocol: Protocol, address: str, number: int) -> str:
    """What follows endpoint- and affinity- in nftables mode."""
    text = f"{namespace}/{service}/{protocol.value.lower()}/{port}__{address.replace(':', '.')}/{number}"
    name = f"{_hash(text)[:8]}-{text}"
    return name if len(name) <= 240 else name[:237] + "..."
