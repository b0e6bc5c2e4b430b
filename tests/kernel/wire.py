"""First packets, made and read by hand. Each bears a number that no translation changes, so that it is known again.

TCP: a SYN whose sequence number it is; UDP: it is the payload; SCTP: an INIT whose initiate tag it is.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}


class Seen(NamedTuple):
    """A numbered packet, or an error about one, as it came by."""

    number: int
    src: int
    dst: int
    sport: int
    dport: int
    error: bool
    """It is an ICMP error, or a TCP reset, that answers the packet of that number."""


def _sum(data: bytes) -> int:
    if len(data) & 1:
        data += b"\0"
    return sum(struct.unpack(f"!{len(data) >> 1}H", data))


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def build(family: int, src: int, dst: int, proto: int, sport: int, dport: int, number: int) -> bytes:
    """A whole IP packet, its checksums right (REJECT does not answer packets whose checksum is wrong)."""
    if proto == TCP:
        body = struct.pack("!HHIIBBHHH", sport, dport, number, 0, 0x50, 2, 64240, 0, 0)
        place = 16
    elif proto == UDP:
        body = struct.pack("!HHHHI", sport, dport, 12, 0, number)
        place = 6
    else:
        # Common header, INIT chunk: type, flags, length, tag, window, streams out and in, first TSN.
        body = struct.pack("!HHIIBBHIIHHI", sport, dport, 0, 0, 1, 0, 20, number, 65536, 1, 1, number)
        place = 0
    size = 4 if family == 4 else 16
    ends = src.to_bytes(size, "big") + dst.to_bytes(size, "big")
    if place:
        check = _fold(_sum(ends) + proto + len(body) + _sum(body)) or 0xFFFF
        body = body[:place] + struct.pack("!H", check) + body[place + 2 :]
    if family == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), proto, 63) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number & 0xFFFF, 0x4000, 63, proto, 0)
    return head[:10] + struct.pack("!H", _fold(_sum(head) + _sum(ends))) + ends + body


def read(packet: bytes, *, inner: bool = False) -> Seen | None:
    """What a packet is, when it is one of ours or an error about one."""
    if not packet:
        return None
    if packet[0] >> 4 == 4:
        if len(packet) < 20:
            return None
        head, proto = (packet[0] & 15) * 4, packet[9]
        src, dst = packet[12:16], packet[16:20]
    elif packet[0] >> 4 == 6:
        if len(packet) < 40:
            return None
        head, proto = 40, packet[6]
        src, dst = packet[8:24], packet[24:40]
    else:
        return None
    return read_body(proto, packet[head:], src, dst, inner=inner)


def read_body(proto: int, body: bytes, src: bytes, dst: bytes, *, inner: bool = False) -> Seen | None:
    """The same from behind the IP header."""
    ends = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
    if proto in (ICMP, ICMP6):
        # Destination unreachable, of any code; its body is the packet that it is about.
        if inner or len(body) < 8 or body[0] != (3 if proto == ICMP else 1):
            return None
        about = read(body[8:], inner=True)
        return about._replace(error=True) if about else None
    if proto not in (TCP, UDP, SCTP) or len(body) < 8:
        return None
    sport, dport = struct.unpack_from("!HH", body)
    error = False
    if proto == TCP:
        number = struct.unpack_from("!I", body, 4)[0]
        if not inner and len(body) >= 20 and body[13] != 2:
            if not body[13] & 4:
                return None
            number, error = struct.unpack_from("!I", body, 8)[0] - 1, True
    elif proto == UDP:
        if len(body) < 12:
            return None
        number = struct.unpack_from("!I", body, 8)[0]
    else:
        if len(body) < 20 or body[12] != 1:
            return None
        number = struct.unpack_from("!I", body, 16)[0]
    return Seen(number, *ends, sport, dport, error)


def text(address: int, family: int) -> str:
    """An address as text."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    return socket.inet_ntop(kind, address.to_bytes(4 if family == 4 else 16, "big"))
