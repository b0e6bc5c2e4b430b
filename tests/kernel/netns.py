"""Network namespaces without names, and the little netlink that a lab needs.

A namespace lives as long as a file descriptor or a socket holds it: nothing is mounted under /run/netns, so nothing is
left behind when a test dies, however it dies.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_HERE = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)

NETLINK_NETFILTER = 12
_REQUEST, _ACK, _CREATE = 1, 4, 0x400


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


class Namespace:
    """A network namespace of its own, empty but for `lo`."""

    def __init__(self) -> None:
        before = os.open(_HERE, os.O_RDONLY)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self.fd = os.open(_HERE, os.O_RDONLY)
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While it lasts, sockets that this thread makes and programs that it starts are in the namespace, and stay there."""
        before = os.open(_HERE, os.O_RDONLY)
        try:
            _call("setns", self.fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def run(self, words: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
        """A program's end, started inside."""
        with self.inside():
            return subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=120)

    def must(self, words: Sequence[str], text: str | None = None) -> str:
        """What a program printed that has to succeed."""
        done = self.run(words, text)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def sysctl(self, values: dict[str, str]) -> None:
        """Set what exists of these; `/proc/sys/net` shows a thread its own namespace."""
        with self.inside():
            for name, value in values.items():
                path = Path("/proc/sys") / name.replace(".", "/")
                if path.exists():
                    path.write_text(value)

    def close(self) -> None:
        """Let it go; the kernel removes it with all that is in it."""
        os.close(self.fd)


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


class Netfilter:
    """A netlink socket for conntrack and accounting objects in one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))

    def _ask(self, kind: int, flags: int, payload: bytes = b"") -> None:
        # struct nlmsghdr, then struct nfgenmsg: family (unspecified), version, resource.
        body = struct.pack("=BBH", 0, 0, 0) + payload
        self.socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
        answer = self.socket.recv(65536)
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(code, os.strerror(code))

    def flush_connections(self) -> None:
        """Forget every connection: IPCTNL_MSG_CT_DELETE without a tuple."""
        self._ask(1 << 8 | 2, 0)

    def create_counter(self, name: str) -> None:
        """What `nfacct add NAME` does: kube-proxy makes these itself before it writes rules that count."""
        try:
            self._ask(7 << 8, _CREATE, attribute(1, name.encode() + b"\0"))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):  # nfnetlink_acct.c: it is there
                raise

    def flush_sets(self, names: Sequence[tuple[str, str, str]]) -> None:
        """What `nft flush set FAMILY TABLE NAME` does, for many, in one transaction and without a process."""
        if not names:
            return

        def message(kind: int, flags: int, number: int, family: int, resource: int, payload: bytes) -> bytes:
            body = struct.pack("!BBH", family, 0, resource) + payload
            return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, number, 0) + body

        # NFNL_MSG_BATCH_BEGIN and _END name the subsystem (10, nf_tables); DELSETELEM (14) without elements empties a set.
        batch = [message(16, 0, 0, 0, 10, b"")]
        for number, (family, table, name) in enumerate(names, 1):
            words = attribute(1, table.encode() + b"\0") + attribute(2, name.encode() + b"\0")
            batch.append(message(10 << 8 | 14, _ACK, number, {"ip": 2, "ip6": 10, "inet": 1}[family], 0, words))
        batch.append(message(17, 0, len(names) + 1, 0, 10, b""))
        self.socket.send(b"".join(batch))
        answered = 0
        while answered < len(names):
            answer, at = self.socket.recv(65536), 0
            while at < len(answer):
                size = struct.unpack_from("=I", answer, at)[0]
                if code := -struct.unpack_from("=i", answer, at + 16)[0]:
                    raise OSError(code, os.strerror(code))
                answered += 1
                at += size + 3 & ~3

    def close(self) -> None:
        self.socket.close()
