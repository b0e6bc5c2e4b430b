"""Endpoints that answer: a network namespace beside a node's, with the addresses of a capture's pods and a sink at each.

    with Pods(node, ["10.244.1.2:8080", "10.244.2.2:8080"], ...) as pods:
        pods.close_port("10.244.2.2:8080")      # refuses from now on
        pods.remove("10.244.1.2")               # silent from now on

A sink answers with its own address, over TCP and UDP. The node reaches all of them by one link, and is given the address that
its rules know it by.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from sshd import SshNode

_SINKS = '''
"""Listens at the addresses given as JSON; takes commands on stdin, a line each, and says "ok" to each."""
import json, select, socket, sys
sinks = {}
def listen(address):
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), int(port)))
        if kind == socket.SOCK_STREAM:
            sock.listen(200)
        sinks[sock] = address
for address in json.loads(sys.argv[1]):
    listen(address)
print("ready", flush=True)
while True:
    for sock in select.select([sys.stdin, *sinks], [], [])[0]:
        if sock is sys.stdin:
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            word, address = line.split()
            if word == "close":
                for one in [s for s, a in sinks.items() if a == address]:
                    one.close()
                    del sinks[one]
            else:
                listen(address)
            print("ok", flush=True)
            break
        if sock.type == socket.SOCK_DGRAM:
            _, who = sock.recvfrom(4096)
            sock.sendto(b"I am %s\\n" % sinks[sock].encode(), who)
        else:
            client, _ = sock.accept()
            client.sendall(b"I am %s\\n" % sinks[sock].encode())
            client.close()
'''


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


_NETWORKS4 = ("10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
_NETWORKS6 = ("fd00::/16",)


class Client:
    """A pod that dials."""

    def __init__(self, node: SshNode, address: str) -> None:
        self.namespace = f"{node.namespace}c"
        _ip("netns", "add", self.namespace)
        _ip("-n", node.namespace, "link", "add", "client0", "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("-n", node.namespace, "link", "set", "client0", "up")
        _ip("-n", node.namespace, "route", "add", f"{address}/32", "dev", "client0")
        _ip("-n", node.namespace, "addr", "add", "169.254.8.1/32", "dev", "client0")
        for name in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", name, "up")
        _ip("-n", self.namespace, "addr", "add", f"{address}/32", "dev", "eth0")
        _ip("-n", self.namespace, "route", "add", "default", "via", "169.254.8.1", "dev", "eth0", "onlink")

    def shell(self, script: str) -> bytes:
        """What a script prints, run in the pod."""
        command = ["ip", "netns", "exec", self.namespace, "sh", "-s"]
        done = subprocess.run(command, input=script.encode(), capture_output=True, check=True, timeout=60)
        return done.stdout

    def close(self) -> None:
        """Undo it."""
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)


class Pods:
    """The pods' side of one node."""

    def __init__(self, node: SshNode, endpoints: Sequence[str], *, own: Sequence[str]) -> None:
        self.node = node
        self.namespace = f"{node.namespace}p"
        _ip("netns", "add", self.namespace)
        quiet = "for d in all default; do echo 0 >/proc/sys/net/ipv6/conf/$d/accept_dad; done"
        for namespace in (node.namespace, self.namespace):
            subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", quiet], check=True)
        _ip("-n", node.namespace, "link", "add", "pods0", "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("-n", node.namespace, "link", "set", "pods0", "up")
        for name in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", name, "up")
        _ip("-n", node.namespace, "addr", "add", "fe80::7:1/64", "dev", "pods0", "nodad")
        _ip("-n", self.namespace, "addr", "add", "fe80::7:2/64", "dev", "eth0", "nodad")
        _ip("-n", self.namespace, "addr", "add", "169.254.7.2/32", "dev", "eth0")
        _ip("-n", self.namespace, "-6", "route", "add", "default", "via", "fe80::7:1", "dev", "eth0")
        for address in own:
            # What the node sends to Services and pods, and what it masquerades, has its own address.
            family = ["-6"] if ":" in address else []
            extra = ["nodad"] if ":" in address else []
            via = ["via", "fe80::7:2"] if family else ["via", "169.254.7.2"]
            _ip("-n", node.namespace, "addr", "add", f"{address}/{128 if family else 32}", "dev", "pods0", *extra)
            for network in _NETWORKS6 if family else _NETWORKS4:
                route = [network, *via, "dev", "pods0", "onlink", "src", address]
                _ip("-n", node.namespace, *family, "route", "add", *route)
            if not family:
                _ip("-n", self.namespace, "route", "add", "default", "via", address, "dev", "eth0", "onlink")
        self.addresses: set[str] = set()
        self._clients: list[Client] = []
        for endpoint in endpoints:
            self.add(endpoint.rpartition(":")[0].strip("[]"))
        self._sinks = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _SINKS, json.dumps(list(endpoints))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._out.readline() == "ready\n"

    @property
    def _out(self) -> IO[str]:
        assert self._sinks.stdout is not None
        return self._sinks.stdout

    def _tell(self, line: str) -> None:
        assert self._sinks.stdin is not None
        self._sinks.stdin.write(line + "\n")
        self._sinks.stdin.flush()
        assert self._out.readline() == "ok\n"

    def close_port(self, endpoint: str) -> None:
        """The pod is there, and nothing listens: it refuses."""
        self._tell(f"close {endpoint}")

    def open_port(self, endpoint: str) -> None:
        """Listen again."""
        self._tell(f"open {endpoint}")

    def add(self, address: str) -> None:
        """Give the pods' side an address."""
        if address not in self.addresses:
            self.addresses.add(address)
            extra = ["nodad"] if ":" in address else []
            _ip("-n", self.namespace, "addr", "add", f"{address}/{128 if ':' in address else 32}", "dev", "lo", *extra)

    def remove(self, address: str) -> None:
        """The pod is gone: whoever sends there hears nothing."""
        self.addresses.discard(address)
        _ip("-n", self.namespace, "addr", "del", f"{address}/{128 if ':' in address else 32}", "dev", "lo")
        family = ["-6"] if ":" in address else []
        _ip("-n", self.namespace, *family, "route", "add", "blackhole", address)

    def restore(self, address: str) -> None:
        """The pod is back."""
        family = ["-6"] if ":" in address else []
        _ip("-n", self.namespace, *family, "route", "del", "blackhole", address)
        self.add(address)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the pods' network."""
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command], capture_output=True, text=True, check=False, timeout=60
        )

    def client(self, address: str) -> Client:
        """A pod in a network of its own, that dials: an endpoint beside the others would get its answers past the node."""
        if address in self.addresses:
            self.addresses.discard(address)
            _ip("-n", self.namespace, "addr", "del", f"{address}/32", "dev", "lo")
        client = Client(self.node, address)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Undo everything."""
        for client in self._clients:
            client.close()
        assert self._sinks.stdin is not None
        self._sinks.stdin.close()
        self._sinks.wait()
        self._out.close()
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)

    def __enter__(self) -> Pods:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
