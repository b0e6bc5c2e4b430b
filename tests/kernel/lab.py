"""A node, made of network namespaces: real rules in it, real packets through it.

    world ----- veth0 (pods)       [ node: forwarding,    ]
    world ----- veth1 (endpoints)  [ conntrack, the rules ]  eth0 (uplink) ----- world

Clients in pods send into `veth0`, a Service's own endpoints into `veth1`, clients outside into `eth0`; the node's own
processes send from a raw socket inside it. What the node routes out is read at the world's end of all three; what it
takes in is read from raw sockets in it, which the kernel serves behind the INPUT hook. Nothing answers, so every
packet is the first of its connection.

What the kernel has queued it works off in order, on the processor that queued it: a datagram that passes through an
idle namespace's loopback on the same processor proves that all packets sent before it have come to their end. So the
lab never waits for a packet that does not come.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import NamedTuple

from kubectl_svcroute.model import ranges

from . import wire
from .conntrack import Conntrack, ContradictionError, Entry, Tuple, contradiction
from .netns import Namespace, Netfilter

_libc = ctypes.CDLL(None)

TABLES = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_PEERS = {"pod": "pods", "endpoint": "endpoints", "outside": "uplink"}
"""The world's end of each link."""
_SIZE = {4: 4, 6: 16}
_BATCH = 400
_RCVBUFFORCE = 33
_MAC = "02:00:00:00:00:01"
"""Of the node's own links: only what is addressed to it is passed on."""


class Probe(NamedTuple):
    """One first packet to send."""

    family: int
    src: int
    dst: int
    proto: str
    """tcp, udp or sctp."""
    dport: int
    way: str
    """`pod`, `outside`: in by that interface; `node`: from a process on the node."""


class Outcome(NamedTuple):
    """What the kernel did with one packet."""

    action: str
    """translate, pass, reject, drop."""
    dst: int
    dport: int
    src: int
    """Where it came from when it arrived: another address than it was sent with where it was masqueraded."""
    local: bool
    """The node took it in."""
    renumbered: bool
    """Its source port was changed."""


class LoadError(Exception):
    """The rules are none that the tool accepts; says what it printed."""


@dataclass
class Lab:
    """One node and the world around it. `flavour`: `legacy` or `nft` iptables, or `nftables`."""

    flavour: str
    addresses: tuple[str, ...]
    """The node's own, of both families."""
    pod_cidrs: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    """Pods that answer for Services: behind a link of their own, so that a Service's own pod comes in where it goes out."""
    lists: list[tuple[str, str, str]] = field(default_factory=list)
    """nftables: family, table and name of every set that remembers clients."""
    witness: int = 0
    """Every how manieth packet's conntrack entry is held against what arrived; 0: none's."""
    witnessed: int = 0
    """Packets of which that was done."""
    loaded: int = 0
    sent: int = 0
    _number: int = 0
    _ports: int = 1024
    _sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._endpoints = {(6 if ":" in address else 4, ranges.number(address)) for address in self.endpoints}
        self.node, self.world, self.idle = Namespace(), Namespace(), Namespace()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        quiet = {
            f"net.ipv6.conf.{which}.{name}": value
            for which in ("all", "default")
            for name, value in (("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0"))
        }
        self.node.sysctl({
            **quiet,
            "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.default.forwarding": "1",
            "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0",
            "net.ipv4.conf.all.route_localnet": "1", "net.ipv4.conf.default.route_localnet": "1",
            "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
            # Every rejected packet has to be told; a real node limits how often it says so.
            "net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_per_sec": "1000000", "net.ipv4.icmp_msgs_burst": "1000000",
            "net.ipv6.icmp.ratelimit": "0",
            # SCTP packets are sent without their CRC.
            "net.netfilter.nf_conntrack_checksum": "0",
        })  # fmt: skip
        self.world.sysctl({"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"})
        self.idle.must(["ip", "link", "set", "lo", "up"])
        lines = ["link set lo up"]
        for name, peer in (("veth0", "pods"), ("veth1", "endpoints"), ("eth0", "uplink")):
            # Without ARP every address behind a link has a neighbour at once.
            lines += [f"link add {name} address {_MAC} arp off type veth peer name {peer}", f"link set {name} up"]
        for address in self.addresses:
            lines.append(
                f"addr add {address}/{'128 nodad' if ':' in address else '32'} dev eth0"
            )
        for cidr in self.pod_cidrs:
            lines.append(f"route add {cidr} dev veth0")
        for address in self.endpoints:
            lines.append(f"route add {address}/{'128' if ':' in address else '32'} dev veth1")
        lines += ["route add 0.0.0.0/0 dev eth0", "route add ::/0 dev eth0"]
        for peer in _PEERS.values():
            lines.append(f"link set {peer} netns /proc/{os.getpid()}/fd/{self.world.fd}")
        self.node.must(["ip", "-batch", "-"], "\n".join(lines) + "\n")
        self.world.must(["ip", "-batch", "-"], "".join(f"link set {p} arp off up\n" for p in _PEERS.values()))
        self._open()

    def _open(self) -> None:
        def made(*arguments: int) -> socket.socket:
            new = socket.socket(*arguments)
            self._sockets.append(new)
            new.setblocking(False)
            with contextlib.suppress(OSError):
                new.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 16 << 20)
            return new

        self.wires: dict[str, socket.socket] = {}
        with self.world.inside():
            for way, name in _PEERS.items():
                tap = made(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
                tap.bind((name, 3))  # ETH_P_ALL
                self.wires[way] = tap
        self.inputs: list[tuple[int, int, socket.socket]] = []
        self.outputs: dict[int, socket.socket] = {}
        with self.node.inside():
            for proto in (wire.TCP, wire.UDP, wire.SCTP, wire.ICMP):
                self.inputs.append((4, proto, made(socket.AF_INET, socket.SOCK_RAW, proto)))
            for proto in (wire.TCP, wire.UDP, wire.SCTP, wire.ICMP6):
                six = made(socket.AF_INET6, socket.SOCK_RAW, proto)
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self.inputs.append((6, proto, six))
            self.outputs[4] = made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            six = made(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            six.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
            self.outputs[6] = six
        with self.idle.inside():
            self.fence = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sockets.append(self.fence)
            self.fence.bind(("127.0.0.1", 0))
            self.fence.connect(self.fence.getsockname())
            self.fence.settimeout(20)
        self.netfilter = Netfilter(self.node)
        self.conntrack = Conntrack(self.node)

    def close(self) -> None:
        """Let everything go."""
        for open_socket in self._sockets:
            open_socket.close()
        if hasattr(self, "netfilter"):
            self.netfilter.close()
        if hasattr(self, "conntrack"):
            self.conntrack.close()
        for namespace in (self.node, self.world, self.idle):
            namespace.close()

    # ---- rules -------------------------------------------------------------------------------------------------------

    def load(self, text: str, family: int = 4) -> None:
        """Replace the rules of a family, and forget every connection. Raises LoadError when the tool refuses them."""
        if self.flavour == "nftables":
            done = self.node.run(["nft", "-f", "-"], "flush ruleset\n" + text)
            self.lists = _dynamic_sets(text) if not done.returncode else []
        else:
            for name in set(re.findall(r"--nfacct-name\s+(\S+)", text)):
                self.netfilter.create_counter(name)
            tool = f"{'ip6' if family == 6 else 'ip'}tables-{self.flavour}-restore"
            done = self.node.run([tool, "-w", "20"], complete(text))
        if done.returncode:
            raise LoadError(done.stderr.strip())
        self.loaded += 1
        self.forget()

    def save(self, family: int = 4, *, counters: bool = False) -> str:
        """What the node's own tool prints of the rules: the text that an audit would have."""
        if self.flavour == "nftables":
            return self.node.must(["nft", "-j", "list", "ruleset"])
        tool = f"{'ip6' if family == 6 else 'ip'}tables-{self.flavour}-save"
        return self.node.must([tool, "-c"] if counters else [tool])

    def listing(self) -> str:
        """nftables rules as text, for those who read that."""
        return self.node.must(["nft", "list", "ruleset"])

    def refusals(self, family: int) -> int:
        """How many errors the node has made: of unreachability, and TCP resets by rules."""
        with self.node.inside():
            if family == 6:
                lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
                count = sum(int(line.split()[1]) for line in lines if line.startswith("Icmp6OutDestUnreachs"))
            else:
                names, values = [
                    line.split()
                    for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                    if line.startswith("Icmp:")
                ]
                count = int(values[names.index("OutDestUnreachs")])
        if self.flavour != "nftables":
            lines = self.save(family, counters=True).splitlines()
            count += sum(int(x[1:].partition(":")[0]) for x in lines if x[:1] == "[" and " --reject-with tcp-reset" in x)
        return count

    def forget(self) -> None:
        """Forget every connection, and every client that an affinity list remembers."""
        self.netfilter.flush_connections()
        self.forget_clients()

    def forget_clients(self) -> None:
        """Forget the clients of affinity lists; far cheaper than to forget connections, which new ports make needless."""
        if self.flavour == "nftables":
            self.netfilter.flush_sets(self.lists)
            return
        with self.node.inside():
            recent = Path("/proc/thread-self/net/xt_recent")
            if recent.is_dir():
                for entry in recent.iterdir():
                    entry.write_text("/")

    # ---- packets -----------------------------------------------------------------------------------------------------

    def send(self, probes: Sequence[Probe]) -> list[Outcome]:
        """Send packets, one after the other, and say what became of each."""
        outcomes: list[Outcome] = []
        before = os.sched_getaffinity(0)
        # The processor that this runs on already: to be moved costs more than to send.
        here = _libc.sched_getcpu()
        os.sched_setaffinity(0, {here} if here in before else {min(before)})
        try:
            for start in range(0, len(probes), _BATCH):
                outcomes += self._batch(probes[start : start + _BATCH])
        finally:
            os.sched_setaffinity(0, before)
        self.sent += len(probes)
        return outcomes

    def _batch(self, probes: Sequence[Probe]) -> list[Outcome]:
        self._collect()  # what is left of an earlier batch: late errors
        first = self._number
        ports = []
        for probe in probes:
            self._ports = self._ports + 1 if self._ports < 65000 else 1025
            ports.append(self._ports)
            self._emit(probe, self._ports, self._number + 0x10000000)
            self._number = (self._number + 1) % 0x0F000000
        for _ in range(3):
            # One more for an answer to an answer: each can only be queued behind what caused it.
            self.fence.send(b"x")
            self.fence.recv(8)
        arrived: dict[int, tuple[wire.Seen, bool]] = {}
        refused: set[int] = set()
        for seen, local in self._collect():
            if seen.error:
                refused.add(seen.number)
            else:
                arrived[seen.number] = (seen, local)
        if self.witness:
            self._compare(first, probes, ports, [arrived.get((first + i) % 0x0F000000 + 0x10000000) for i in range(len(probes))])
        outcomes = []
        for index, probe in enumerate(probes):
            number = (first + index) % 0x0F000000 + 0x10000000
            found = arrived.get(number)
            if found is None:
                outcomes.append(Outcome("reject" if number in refused else "drop", 0, 0, 0, False, False))
                continue
            seen, local = found
            same = (seen.dst, seen.dport) == (probe.dst, probe.dport)
            outcomes.append(
                Outcome(
                    "pass" if same else "translate", seen.dst, seen.dport, seen.src, local, seen.sport != ports[index]
                )
            )
        return outcomes

    def _compare(
        self, first: int, probes: Sequence[Probe], ports: Sequence[int], arrived: Sequence[tuple[wire.Seen, bool] | None]
    ) -> None:
        """Hold some of what arrived against conntrack. Raises ContradictionError."""
        picked: dict[int, list[int]] = {}
        for index in range(-first % self.witness, len(probes), self.witness):
            picked.setdefault(probes[index].family, []).append(index)
        for family, indices in picked.items():
            asked = []
            for index in indices:
                probe = probes[index]
                asked.append(Tuple(wire.NUMBERS[probe.proto], probe.src, probe.dst, ports[index], probe.dport))
            for index, sent, entry in zip(indices, asked, self.conntrack.entries(family, asked), strict=True):
                self._witness(probes[index], sent, entry, arrived[index])

    def _witness(self, probe: Probe, sent: Tuple, entry: Entry | None, arrived: tuple[wire.Seen, bool] | None) -> None:
        seen, local = arrived or (None, False)
        landed = Tuple(sent.proto, seen.src, seen.dst, seen.sport, seen.dport) if seen else None
        if why := contradiction(sent, entry, landed, local=local, looped=probe.way == "node"):
            raise ContradictionError(f"{probe} from port {sent.sport}: {why}")
        self.witnessed += 1

    def _emit(self, probe: Probe, sport: int, number: int) -> None:
        packet = wire.build(
            probe.family, probe.src, probe.dst, wire.NUMBERS[probe.proto], sport, probe.dport, number
        )
        if probe.way == "node":
            target = wire.text(probe.dst, probe.family)
            with contextlib.suppress(OSError):  # EPERM: a rule at OUTPUT dropped it. No arrival says the same.
                self.outputs[probe.family].sendto(packet, (target, 0))
            return
        ethertype = 0x0800 if probe.family == 4 else 0x86DD
        way = "endpoint" if probe.way == "pod" and (probe.family, probe.src) in self._endpoints else probe.way
        self.wires[way].sendto(packet, (_PEERS[way], ethertype, 0, 0, bytes.fromhex(_MAC.replace(":", ""))))

    def _collect(self) -> Iterator[tuple[wire.Seen, bool]]:
        found: list[tuple[wire.Seen, bool]] = []
        for tap in self.wires.values():
            for packet, where in _drain(tap):
                if where[2] != 4 and (seen := wire.read(packet)):  # PACKET_OUTGOING: what we sent ourselves
                    found.append((seen, False))
        for family, proto, raw in self.inputs:
            if family == 4:
                for packet, _ in _drain(raw):
                    if seen := wire.read(packet):
                        found.append((seen, True))
            else:
                for body, ancillary, source in _drain6(raw):
                    dst = next((data[:16] for _, kind, data in ancillary if kind == socket.IPV6_PKTINFO), b"")
                    src = socket.inet_pton(socket.AF_INET6, source[0].partition("%")[0])
                    if seen := wire.read_body(proto, body, src, dst):
                        found.append((seen, True))
        return iter(found)


def _drain(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int, int, int, bytes]]]:
    while True:
        try:
            yield sock.recvfrom(2048)
        except BlockingIOError:
            return


def _drain6(sock: socket.socket) -> Iterator[tuple[bytes, list[tuple[int, int, bytes]], tuple[str, int]]]:
    while True:
        try:
            body, ancillary, _, source = sock.recvmsg(2048, 128)
        except BlockingIOError:
            return
        yield body, ancillary, source


def complete(text: str) -> str:
    """iptables-save text with every table in it: one that it lacks would otherwise keep the rules of the last set."""
    present = set(re.findall(r"^\*(\S+)$", text, re.MULTILINE))
    missing = [
        f"*{name}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains) + "COMMIT\n"
        for name, chains in TABLES.items()
        if name not in present
    ]
    return text + "".join(missing)


def _dynamic_sets(text: str) -> list[tuple[str, str, str]]:
    found, family, table, name = [], "", "", ""
    for line in text.splitlines():
        if line.startswith("table "):
            family, table = line.split()[1:3]
        elif line.startswith("\tset "):
            name = line[5:].rstrip(" {")
        elif "flags" in line and "dynamic" in line:
            found.append((family, table, name))
    return found


def missing() -> str:
    """Why no lab can be built here; empty when one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "not root: network namespaces cannot be made"
    for tool in ("ip", "iptables-legacy-restore", "iptables-nft-restore", "ip6tables-legacy-restore", "nft"):
        if which(tool) is None:
            return f"no {tool} on this machine"
    try:
        namespace = Namespace()
    except OSError as error:
        return f"no network namespaces here ({error})"
    try:
        for tool in ("iptables-legacy-restore", "iptables-nft-restore"):
            if namespace.run([tool], complete("")).returncode:
                return f"{tool} does not work here: the kernel lacks a table"
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot start programs in a namespace ({error})"
    finally:
        namespace.close()
    return ""


def probes_of(probe: Probe, sources: Iterable[int]) -> list[Probe]:
    """The same packet from several sources."""
    return [probe._replace(src=source) for source in sources]
