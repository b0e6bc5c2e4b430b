"""Addresses, protocols, and what clients dial and reach.

Addresses are canonical text (`10.0.0.1`, `fd00::1`): they are compared and shown by the hundred thousand and computed
with rarely, and `ipaddress` objects cost ten times as much to make and to hash.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple


class Protocol(str, Enum):
    """A transport protocol that a Service port can have, spelled as in the API."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    def __str__(self) -> str:
        return self.value


class FrontendKind(str, Enum):
    """What sort of address a frontend is; rules differ by it."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load-balancer IP"
    NODE_PORT = "node port"
    HEALTH_CHECK = "health-check node port"

    def __str__(self) -> str:
        return self.value


ONE_ADDRESS = r"(?:[0-9.]+(?=/32 )|[0-9a-f.]*:[0-9a-f:.]*(?=/128 ))"
"""A pattern for a single address as iptables-save prints it, before its `/32` or `/128`: `2001:db8::/32` is 2^96 of them."""
_OCTETS = frozenset(str(number) for number in range(256))


@lru_cache(maxsize=1 << 17)
def canonical_ip(text: str) -> str:
    """The canonical spelling of an IP address. Raises ValueError when it is none; a zone (`fe80::1%eth0`) makes it none.

    kube-proxy canonicalises endpoint addresses before it hashes them (leading zeros dropped, IPv6 compressed).
    """
    if ":" not in text:
        parts = text.split(".")
        # The usual spelling needs no parsing; this is asked for by the ten thousand.
        if len(parts) == 4 and _OCTETS.issuperset(parts):
            return text
        # Go's ParseIPSloppy takes leading zeros as decimal; ipaddress refuses them.
        text = ".".join(part.lstrip("0") or "0" for part in text.split("."))
    if "%" in text:
        # ip_address takes any text for a zone; no field of the API that holds an address may have one.
        raise ValueError(f"{text!r} has a zone")
    return str(ip_address(text))


def family_of(address: str) -> int:
    """4 or 6, by the look of a canonical address or CIDR."""
    return 6 if ":" in address else 4


def host_port(address: str, port: int) -> str:
    """`10.0.0.1:80` or `[fd00::1]:80`: the form of iptables, of kube-proxy's hashes and of people."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Backend(NamedTuple):
    """Where a connection ends up: one endpoint's address and port. The protocol is the frontend's."""

    address: str
    port: int

    def __str__(self) -> str:
        return host_port(self.address, self.port)


class Frontend(NamedTuple):
    """An address clients dial: one IP, protocol and port that kube-proxy should intercept."""

    address: str
    protocol: Protocol
    port: int
    kind: FrontendKind

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)

    def __str__(self) -> str:
        return f"{host_port(self.address, self.port)}/{self.protocol.value}"
