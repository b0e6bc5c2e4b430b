"""The ways to a node: SSH, exec into its kube-proxy pod, this machine itself, or whichever of the first two works."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, cast

from ..errors import CollectError
from ..model.snapshot import NodeDump, NodeOutcome, Unreachable
from .fanout import NodeReader, NodeTarget
from .node_script import MAX_BYTES, Connections, new_nonce, node_dump, node_script, one_line, read_with


class FirstOf:
    """`--via auto`: the first reader that can read the node. Which it was stands in `NodeDump.via`."""

    via = "auto"

    def __init__(self, readers: Sequence[NodeReader]) -> None:
        self._readers = tuple(readers)

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read one node; when no reader can, every reader's reason is given."""
        reasons: list[str] = []
        for reader in self._readers:
            outcome = reader.read(target)
            if isinstance(outcome, NodeDump):
                return outcome
            reasons.append(outcome.reason)
            if outcome.final:
                break
        return Unreachable(node=target.name, reason="; ".join(reasons) or "no way to read nodes was given", via=self.via)

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:
        """Run a script the way that `via` names, which is the way that the node was read: never twice, in two ways."""
        for reader in self._readers:
            if reader.via == via:
                return reader.run(target, script, nonce)
        raise CollectError(f"no way to the node: {via or 'it was not read'}")

    def close(self) -> None:
        """Close all readers."""
        for reader in self._readers:
            reader.close()


class Without:
    """A reader that some nodes are not read with: these are Unreachable at once, each for its reason."""

    def __init__(self, reader: NodeReader, reasons: Mapping[str, str]) -> None:
        self._reader = reader
        self._reasons = reasons

    @property
    def via(self) -> str:
        """That of the reader."""
        return self._reader.via

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read one node, unless it is left out."""
        reason = self._reasons.get(target.name)
        return Unreachable(node=target.name, reason=reason) if reason else self._reader.read(target)

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:
        """Run a script on a node that is not left out."""
        if target.name in self._reasons:
            raise CollectError(self._reasons[target.name])
        return self._reader.run(target, script, nonce, via=via)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class LocalReader:
    """`--via local`: the node that the program runs on."""

    via = "local"

    def __init__(
        self,
        *,
        command_timeout: float = 180.0,
        max_bytes: int = MAX_BYTES,
        connections: Connections | None = None,
    ) -> None:
        self._timeout = command_timeout
        self._connections = connections
        self._max_bytes = max_bytes

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read this machine, if it is the node asked for: another's rules under its name would be a lie."""
        if not is_here(target):
            reason = f"local: this machine ({socket.gethostname()}) has neither the node's name nor an address of it"
            return Unreachable(node=target.name, reason=reason, via=self.via)
        try:
            return read_with(lambda tools: self._read(target, tools))
        except CollectError as error:
            return Unreachable(node=target.name, reason=one_line(f"local: {error}"), via=self.via)

    def close(self) -> None:
        """Nothing is shared between nodes."""

    def _read(self, target: NodeTarget, tools: str) -> NodeDump:
        taken = time.time()
        nonce = new_nonce()
        data = self.run(target, node_script(nonce, tools=tools, connections=self._connections), nonce)
        return node_dump(data, nonce, node=target.name, via=self.via, taken=taken, max_bytes=self._max_bytes)

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:  # noqa: ARG002 - the interface's
        """What a script prints here. Raises CollectError."""
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        data, err, status = run_bounded([*sudo, "sh", "-s"], script.encode(), timeout=self._timeout, max_bytes=self._max_bytes)
        if status != 0:
            said = one_line(err.decode("utf-8", "backslashreplace"))
            hint = ": run the program as root, or sudo -v first" if sudo else ""
            raise CollectError(f"the node script ended with status {status}{': ' + said if said else ''}{hint}")
        return data


def is_here(target: NodeTarget) -> bool:
    """Whether this machine is the node: it has the node's name, or one of its addresses."""
    mine = socket.gethostname().lower()
    if target.name.lower() in (mine, mine.partition(".")[0]):
        return True
    for kind, address in target.addresses:
        if kind not in ("internal", "external"):
            continue
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            # An address can be bound to only where it is configured. Nothing is sent.
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((address, 0))
        except OSError:
            continue
        return True
    return False


def run_bounded(command: Sequence[str], stdin: bytes, *, timeout: float, max_bytes: int) -> tuple[bytes, bytes, int]:
    """Run a command with a bound on time and on bytes: its output, the end of its stderr, its exit status.

    Raises CollectError when a bound is passed or the command is not there; whatever it started is ended then.
    """
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CollectError(f"{command[0]} cannot be run: {error.strerror}") from None
    out, err = bytearray(), bytearray()
    until = time.monotonic() + timeout
    into, from_out, from_err = cast("tuple[IO[bytes], ...]", (process.stdin, process.stdout, process.stderr))
    try:
        with into, from_out, from_err, selectors.DefaultSelector() as selector:
            with contextlib.suppress(BrokenPipeError):  # it ended without reading; its status says why
                into.write(stdin)  # smaller than a pipe holds
                into.close()
            selector.register(from_out, selectors.EVENT_READ, out)
            selector.register(from_err, selectors.EVENT_READ, err)
            while selector.get_map():
                ready = selector.select(max(0.0, until - time.monotonic()))
                if not ready:
                    raise CollectError(f"the node script did not end within {timeout:g} s")
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                if len(out) > max_bytes:
                    raise CollectError(f"the node script printed more than {max_bytes >> 20} MiB")
                del err[:-4000]
            status = process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise CollectError(f"the node script did not end within {timeout:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return bytes(out), bytes(err), status
