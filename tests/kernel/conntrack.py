"""A second witness of what became of a packet: the entry that conntrack made of its connection.

The lab reads what arrives. The entry's reply tuple says the same from the other side: where answers would come from is
where the packet was sent to, where they would go is whom it was masqueraded as. A packet that was refused on its way
leaves no entry: it is made when the packet has passed the last hook. Where the two witnesses do not agree, the lab is
wrong, whatever the walker says.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from . import wire
from .netns import NETLINK_NETFILTER, Namespace, attribute

_GET, _NEW, _ERROR = 1 << 8 | 1, 1 << 8, 2
_REQUEST, _NESTED = 1, 0x8000
_ORIGINAL, _REPLY = 1, 2
_AT_ONCE = 100
_RCVBUFFORCE = 33


class Tuple(NamedTuple):
    """One direction of a connection."""

    proto: int
    src: int
    dst: int
    sport: int
    dport: int


class Entry(NamedTuple):
    """What conntrack knows of a connection."""

    original: Tuple
    reply: Tuple


class ContradictionError(AssertionError):
    """What arrived and what conntrack says are not the same: an error of the lab."""


class Conntrack:
    """Asks for the entries of one namespace, one by one, by netlink: no list of all of them is read."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        self.socket.settimeout(20)
        self.socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 4 << 20)

    def entries(self, family: int, asked: Sequence[Tuple]) -> list[Entry | None]:
        """The entry of each connection, by its original direction; None where there is none."""
        found: list[Entry | None] = []
        for start in range(0, len(asked), _AT_ONCE):
            found += self._some(family, asked[start : start + _AT_ONCE])
        return found

    def _some(self, family: int, asked: Sequence[Tuple]) -> list[Entry | None]:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        batch = []
        for number, wanted in enumerate(asked):
            body = struct.pack("!BBH", kind, 0, 0) + _written(family, wanted)
            batch.append(struct.pack("=IHHII", 16 + len(body), _GET, _REQUEST, number, 0) + body)
        self.socket.send(b"".join(batch))
        found: list[Entry | None] = [None] * len(asked)
        answered = 0
        while answered < len(asked):
            answer, at = self.socket.recv(65536), 0
            while at < len(answer):
                size, what, _, number = struct.unpack_from("=IHHI", answer, at)
                if what == _NEW:
                    found[number] = _read(answer[at + 20 : at + size])
                elif what == _ERROR:
                    code = -struct.unpack_from("=i", answer, at + 16)[0]
                    if code != errno.ENOENT:
                        raise OSError(code, os.strerror(code))
                answered += 1
                at += size + 3 & ~3
        return found

    def close(self) -> None:
        self.socket.close()


def _written(family: int, one: Tuple) -> bytes:
    size, first = (4, 1) if family == 4 else (16, 3)
    ends = attribute(first, one.src.to_bytes(size, "big")) + attribute(first + 1, one.dst.to_bytes(size, "big"))
    ports = attribute(2, struct.pack("!H", one.sport)) + attribute(3, struct.pack("!H", one.dport))
    proto = attribute(1, bytes([one.proto])) + ports
    return attribute(_ORIGINAL | _NESTED, attribute(1 | _NESTED, ends) + attribute(2 | _NESTED, proto))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += size + 3 & ~3


def _read(data: bytes) -> Entry:
    sides = {kind: body for kind, body in _attributes(data) if kind in (_ORIGINAL, _REPLY)}
    return Entry(_tuple(sides[_ORIGINAL]), _tuple(sides[_REPLY]))


def _tuple(data: bytes) -> Tuple:
    parts = dict(_attributes(data))
    ends = [int.from_bytes(value, "big") for _, value in sorted(_attributes(parts[1]))]
    proto = dict(_attributes(parts[2]))
    sport, dport = (int.from_bytes(proto[kind], "big") for kind in (2, 3))
    return Tuple(proto[1][0], ends[0], ends[1], sport, dport)


def contradiction(sent: Tuple, entry: Entry | None, arrived: Tuple | None, *, local: bool, looped: bool) -> str:
    """Why an entry cannot belong to what arrived; empty when it can.

    `local`: the node took the packet in. `looped`: a process of the node sent it, so that over loopback it may have been
    refused after its entry was made.
    """
    if entry is None:
        # A closed port's reset makes conntrack forget a TCP connection at once (nf_conntrack_proto_tcp.c).
        if arrived is None or (local and sent.proto == wire.TCP):
            return ""
        return "it arrived, and conntrack knows no such connection"
    if entry.original != sent:
        return f"asked for {sent}, conntrack answers about {entry.original}"
    if arrived is None:
        return "" if looped else f"nothing arrived, and conntrack has it sent on: {entry.reply}"
    answer = Tuple(arrived.proto, arrived.dst, arrived.src, arrived.dport, arrived.sport)
    if entry.reply != answer:
        return f"answers to what arrived would be {answer}, conntrack expects {entry.reply}"
    return ""
