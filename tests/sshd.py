"""Nodes to log in to: real sshds, each in a network namespace of its own, with real rules in that namespace's kernel.

    with SshLab() as lab:
        node = lab.node("kubworker1", files=capture("v1.36-iptables-nft") / "nodes" / "kubworker1.prefetch.net")
        lab.trust(node)                          # writes its host key to lab.known_hosts
        run_the_program("--ssh-config", lab.config(node), ...)

A node has an address that answers from the namespace of the tests, a host key, sshd on port 22, the rules and sysctls of
the snapshot folder given, and optionally a kube-proxy that answers on 10249 and 10256. Everything is undone at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
_counter = itertools.count()

_KUBE_PROXY = '''
"""Answers like kube-proxy: the files of a folder on 10249 (metrics) and 10256 (health)."""
import http.server, pathlib, sys, threading
folder = pathlib.Path(sys.argv[1])
pathlib.Path("/proc/self/comm").write_text("kube-proxy")
PAGES = {"/proxyMode": "proxy-mode.txt", "/configz": "configz.json", "/metrics": "metrics.txt", "/healthz": "healthz.json"}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        file = folder / PAGES.get(self.path, "none")
        if not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
servers = [http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in (10249, 10256)]
threading.Thread(target=servers[0].serve_forever, daemon=True).start()
print("ready", flush=True)
servers[1].serve_forever()
'''


_COUNTERS = '''
"""Makes the accounting objects that rules with -m nfacct name: what the nfacct tool does, with a netlink socket."""
import socket, struct, sys
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
for name in sys.argv[1:]:
    text = name.encode() + b"\\0"
    attribute = struct.pack("=HH", len(text) + 4, 1) + text + b"\\0" * (-len(text) % 4)  # NFACCT_NAME
    body = struct.pack("=BBH", 0, 0, 0) + attribute
    # NFNL_SUBSYS_ACCT << 8 | NFNL_MSG_ACCT_NEW; NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    sock.send(struct.pack("=IHHII", 16 + len(body), 7 << 8, 0x405, 1, 0) + body)
    error = struct.unpack("=i", sock.recv(4096)[16:20])[0]
    assert error in (0, -17, -16), error
'''


def _loadable(listing: str) -> str:
    """`nft -j list` prints maps before the chains that their elements go to; loaded in that order, nft finds none."""
    objects = [item for item in json.loads(listing)["nftables"] if "metainfo" not in item]
    order: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ("table", "chain", "set", "map", "element", "rule")}
    for item in objects:
        [(kind, value)] = item.items()
        order[kind].append({kind: {key: v for key, v in value.items() if key not in ("elem", "handle")}})
        if value.get("elem"):
            element = {key: value[key] for key in ("family", "table", "name", "elem")}
            order["element"].append({"element": element})
    return json.dumps({"nftables": [{"add": item} for kind in order.values() for item in kind]})


def why_not() -> str:
    """Why no lab can be made here, or empty."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    if SSHD is None:
        return "needs OpenSSH's sshd"
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"svc-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"needs network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns is there from Python 3.12 on


@dataclass
class SshNode:
    """One node: a namespace, an address, an sshd."""

    name: str
    address: str
    namespace: str
    folder: Path
    port: int = 22
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def host_key(self) -> str:
        """The public host key, `type base64`."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def host_key_file(self) -> Path:
        return self.folder / "host_key"

    @property
    def known_as(self) -> str:
        """The node's name in known_hosts."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    @property
    def log(self) -> str:
        """What its sshd logged."""
        return (self.folder / "sshd.log").read_text("utf-8", "replace")

    def run(self, *command: str, stdin: str | bytes | None = None) -> str:
        """Run a command in the node's namespace and return what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{command} in {self.name}: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout.decode("utf-8", "replace")

    def load(self, files: Path) -> None:
        """Put the rules and sysctls of a snapshot's node folder into the namespace's kernel."""
        for family, name in (("", "iptables-save.txt"), ("6", "ip6tables-save.txt")):
            for backend in ("", "legacy-", "nft-"):
                path = files / name.replace("-save", f"-{backend}save")
                if path.is_file():
                    text = path.read_text()
                    counters = sorted(set(re.findall(r"--nfacct-name +(\S+)", text)))
                    if counters:
                        self.run(sys.executable, "-c", _COUNTERS, *counters)
                    kind = backend.rstrip("-") or ("nft" if "(nf_tables)" in text else "legacy")
                    self.run(f"ip{family}tables-{kind}-restore", stdin=text)
        if (files / "nft-ruleset.json").is_file():
            self.run("nft", "-j", "-f", "-", stdin=_loadable((files / "nft-ruleset.json").read_text()))
        if (files / "sysctl.txt").is_file():
            for line in (files / "sysctl.txt").read_text().splitlines():
                setting, _, value = line.partition(" = ")
                with contextlib.suppress(AssertionError):  # some belong to the machine, not to a namespace
                    self.run("sh", "-c", 'printf %s "$1" >"/proc/sys/$(echo "$0" | tr . /)"', setting, value)

    def stop(self) -> None:
        """End what was started in the namespace, sessions included."""
        self.stop_processes()
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def stop_processes(self) -> None:
        """End sshd and kube-proxy, to start them again otherwise."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


def _enter(namespace: int) -> None:
    """Move this thread, and with it all threads and processes that it starts from now on, into a network namespace."""
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class SshLab:
    """A network of nodes, a client key that they take, and the files that a client needs.

    While it is open, the thread that made it is in the lab's network: servers that a test needs besides have to be started
    after it.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="svcroute-lab-"))
        # One network a lab, out of a block that nothing real should use, so that tests may run side by side.
        self._id = f"{os.getpid() % 100000}x{next(_counter)}"
        number = (os.getpid() * 16 + next(_counter)) % (128 * 250)
        self._network = f"198.18.{number % 250}" if number < 250 else f"10.{128 + number // 250 % 100}.{number % 250}"
        self._bridge = f"sv{self._id}"[:15]
        self.nodes: list[SshNode] = []
        self.identity = self.keygen("id_client")
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text("")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # The client lives in a namespace of the lab's own too, so that no address of the lab is ever seen outside of it.
        self._namespace = f"svl{self._id}"
        self._ip("netns", "add", self._namespace)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        with Path("/run/netns", self._namespace).open() as inside:
            _enter(inside.fileno())
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", self._bridge, "type", "bridge", "forward_delay", "0")
        self._ip("addr", "add", f"{self._network}.1/24", "dev", self._bridge)
        self._ip("link", "set", self._bridge, "up")

    def __enter__(self) -> SshLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def keygen(self, name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        """A new key pair in the lab's folder."""
        path = self.folder / name
        command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def node(
        self,
        name: str,
        *,
        files: Path | None = None,
        settings: Sequence[str] = (),
        proxy: bool = False,
        users: Sequence[str] = (),
        port: int = 22,
        keys: Sequence[Path] = (),
    ) -> SshNode:
        """Start a node. `settings` are further lines for sshd_config; `users` are further names in its /etc/passwd."""
        number = len(self.nodes) + 2
        node = SshNode(
            name=name,
            address=f"{self._network}.{number}",
            namespace=f"svc{self._id}n{number}",
            folder=self.folder / f"node{number}",
            port=port,
        )
        node.folder.mkdir()
        self.nodes.append(node)
        etc = Path("/etc/netns") / node.namespace
        # `ip netns exec` mounts these over /etc: users of the node only, and none of the machine. Root's shell and home are
        # the node's own as well, or whatever the machine's profile does (and how long it takes) would be done at each login.
        etc.mkdir(parents=True)
        (node.folder / "home").mkdir()
        home = node.folder / "home"
        people = {"root": 0, "sshd": 4710, **{user: 4711 + i for i, user in enumerate(users)}}
        (etc / "passwd").write_text("".join(f"{user}:x:{n}:{n}::{home}:/bin/sh\n" for user, n in people.items()))
        (etc / "shadow").write_text("".join(f"{user}:*:19000:0:99999:7:::\n" for user in people))
        self._ip("netns", "add", node.namespace)
        inner = f"v{self._id}n{number}"[:15]
        self._ip("link", "add", inner, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        self._ip("link", "set", inner, "master", self._bridge, "up")
        self._ip("-n", node.namespace, "link", "set", "lo", "up")
        self._ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
        self._ip("-n", node.namespace, "link", "set", "eth0", "up")
        if files is not None:
            node.load(files)
        if proxy:
            self._start_proxy(node, files)
        shutil.move(str(self.keygen(f"host{number}")), node.folder / "host_key")
        shutil.move(str(self.folder / f"host{number}.pub"), node.folder / "host_key.pub")
        allowed = "".join(key.with_name(key.name + ".pub").read_text() for key in (self.identity, *keys))
        (node.folder / "authorized_keys").write_text(allowed)
        for public in (self.folder, node.folder):
            public.chmod(0o755)
        self.start_sshd(node, settings)
        return node

    def start_sshd(self, node: SshNode, settings: Sequence[str] = ()) -> None:
        """Start (or start again, with other settings) the node's sshd."""
        assert SSHD is not None
        config = node.folder / "sshd_config"
        # What sshd takes is the first line for a setting: the caller's stand first.
        config.write_text(
            "\n".join(
                [
                    *settings,
                    f"Port {node.port}",
                    f"ListenAddress {node.address}",
                    f"HostKey {node.host_key_file}",
                    f"AuthorizedKeysFile {node.folder / 'authorized_keys'}",
                    "PermitRootLogin prohibit-password",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "StrictModes no",
                    "UsePAM no",
                    "UseDNS no",
                    "LogLevel VERBOSE",
                    "PidFile none",
                ]
            )
            + "\n"
        )
        with (node.folder / "sshd.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", node.namespace, SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        node.processes.append(process)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection((node.address, node.port), timeout=5):
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"sshd of {node.name} does not listen: {node.log}")

    def _start_proxy(self, node: SshNode, files: Path | None) -> None:
        folder = files or node.folder
        process = subprocess.Popen(
            ["ip", "netns", "exec", node.namespace, sys.executable, "-c", _KUBE_PROXY, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        node.processes.append(process)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"

    def trust(self, *nodes: SshNode) -> None:
        """Add the nodes' host keys to the lab's known_hosts."""
        with self.known_hosts.open("a") as file:
            file.writelines(f"{node.known_as} {node.host_key}\n" for node in nodes)

    def config(self, *lines: str) -> Path:
        """An ssh_config for the client: the lab's key and known_hosts for every host, and the lines given before that."""
        path = self.folder / "ssh_config"
        rest = [
            "Host *",
            f"  UserKnownHostsFile {self.known_hosts}",
            "  GlobalKnownHostsFile /dev/null",
            f"  IdentityFile {self.identity}",
            "  IdentitiesOnly yes",
            "  IdentityAgent none",
            "  HashKnownHosts no",
        ]
        path.write_text("\n".join([*lines, *rest]) + "\n")
        return path

    def script(self, name: str, text: str) -> Path:
        """An executable shell script in the lab's folder, for ForceCommand or as a tool on a node's PATH."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def close(self) -> None:
        """Undo everything."""
        for node in self.nodes:
            node.stop()
            subprocess.run(["ip", "netns", "del", node.namespace], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / node.namespace, ignore_errors=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)
        _enter(self._outside)
        os.close(self._outside)
        subprocess.run(["ip", "netns", "del", self._namespace], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def ssh_lab() -> Iterator[SshLab]:
    """A lab for one test; the test is skipped, with the reason, where none can be made."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with SshLab() as lab:
        yield lab
