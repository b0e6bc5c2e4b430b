"""One command in one session: both streams drained together, bounds on time and bytes, sudo's prompt answered.

The traps, each met in practice: asked for the exit status before both streams are drained, paramiko waits for ever on a
node that fills one of them (its issues 448 and 1778); an exit status of -1 means that none came.
"""

from __future__ import annotations

import select
import threading
import time
from typing import Protocol

from ..errors import CollectError
from .node_script import NOISE_LIMIT, new_nonce, one_line

_STATUS_SECONDS = 10.0
"""How long after the end of its output a node may take to send its exit status."""

_AS_ROOT = """sh -c 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'"""
_PLAIN = "sh -s"
_WITH_PASSWORD = (
    """sh -c 'if [ "$(id -u)" = 0 ]; then echo {go}; exec sh -s; """
    """else exec sudo -S -p "{ask}" sh -c "echo {go}; exec sh -s"; fi'"""
)


def shell_command(*, sudo: bool, password: bool) -> tuple[str, bytes, bytes]:
    """The command that feeds standard input to a root shell; the word that says "go", and sudo's prompt.

    The words are drawn anew each time, and are not the frames' nonce: this command line stands in the node's process list.
    It is plain enough for any login shell (csh and fish too).
    """
    go, ask = new_nonce(), new_nonce()
    if not sudo:
        command = _PLAIN
    elif password:
        command = _WITH_PASSWORD.format(go=go, ask=ask)
    else:
        command = _AS_ROOT
    return command, go.encode(), ask.encode()


class Channel(Protocol):
    """What is used of paramiko.Channel."""

    eof_received: int
    closed: bool
    exit_status: int
    status_event: threading.Event

    def fileno(self) -> int:
        """A descriptor that is readable when either stream has data, or ends."""

    def recv_ready(self) -> bool:
        """Whether `recv` would return at once."""

    def recv(self, nbytes: int) -> bytes:
        """Some of standard output."""

    def recv_stderr_ready(self) -> bool:
        """Whether `recv_stderr` would return at once."""

    def recv_stderr(self, nbytes: int) -> bytes:
        """Some of standard error."""

    def sendall(self, s: bytes) -> None:
        """Write to standard input. Raises OSError when nobody reads it any more."""

    def shutdown_write(self) -> None:
        """End standard input."""


class Conversation:
    """Both streams of one command, drained together, with a bound on time and on bytes."""

    def __init__(self, channel: Channel, until: float, max_bytes: int, start: bytes) -> None:
        self._channel = channel
        self._until = until
        self._max_bytes = max_bytes
        self._start = start
        self._started = False
        self._out = bytearray()
        self._err = bytearray()
        self._unread = ""
        self._begun = time.monotonic()
        # One descriptor becomes readable when either stream has data, or ends.
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def _step(self) -> bool:
        """Take in what has come, or wait for more. False when both streams have ended."""
        channel = self._channel
        taken = False
        if channel.recv_ready():
            self._out += channel.recv(1 << 20)
            taken = True
        if channel.recv_stderr_ready():
            said = channel.recv_stderr(1 << 20)
            # The end of what a tool complains of tells most; a flood of it is taken in, and let go.
            self._err = (self._err + said)[-4000:]
            taken = True
        if taken:
            self._hold_bounds()
        elif channel.eof_received or channel.closed:
            return channel.recv_ready() or channel.recv_stderr_ready()
        else:
            self._poll.poll(1000 * min(1.0, max(0.001, self._until - time.monotonic())))
        if time.monotonic() > self._until:
            waited = time.monotonic() - self._begun
            raise CollectError(f"the node script did not end within {waited:.0f} s ({_size(len(self._out))} came)")
        return True

    def _hold_bounds(self) -> None:
        if not self._started:
            self._started = self._out.find(self._start, 0, NOISE_LIMIT) >= 0
            if not self._started and len(self._out) > NOISE_LIMIT:
                raise CollectError(f"the node prints something else than the node script ({_size(len(self._out))} of it)")
        if len(self._out) > self._max_bytes:
            raise CollectError(f"the node printed more than {_size(self._max_bytes)}")

    def say(self, data: bytes) -> None:
        """Write to the command's standard input.

        A command may end before it has read everything (a shell that is none, a sudo that refuses). That is no broken
        connection: what it printed and its exit status, which `finish` waits for, say why.
        """
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            self._unread = one_line(str(error)) or type(error).__name__

    def say_no_more(self) -> None:
        """End the command's standard input."""
        if not self._unread:
            self._channel.shutdown_write()

    def answer_sudo(self, ask: bytes, go: bytes, password: str) -> None:
        """Wait until the shell is root, telling sudo the password once if it asks.

        It is sent in reply to sudo's own prompt and never otherwise: where sudo needs none, a shell would read it.
        """
        told = False
        while go not in self._out:
            if ask in self._err:
                if told:
                    raise CollectError("sudo: the password was refused")
                del self._err[:]
                self.say(password.encode() + b"\n")
                told = True
            if not self._step():
                raise CollectError(why_failed(self._status(), bytes(self._err).replace(ask, b"")))

    def finish(self) -> tuple[bytes, bytes, int]:
        """Everything that came, and the exit status."""
        while self._step():
            pass
        return bytes(self._out), bytes(self._err), self._status()

    def _status(self) -> int:
        # Only now that both streams are drained: asked for before, it would wait for ever on a full one.
        if not self._channel.status_event.wait(min(_STATUS_SECONDS, max(0.1, self._until - time.monotonic()))):
            raise CollectError("the node closed its output and sent no exit status")
        if self._channel.exit_status == -1 and self._unread:
            raise CollectError(f"the connection broke: {self._unread}")
        return self._channel.exit_status


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


def why_failed(status: int, err: bytes) -> str:
    """Why a command ended with another status than 0, from what it said."""
    said = one_line(err.decode("utf-8", "backslashreplace"))
    lower = said.lower()
    if status == -1:
        return "the node sent no exit status" + (f": {said}" if said else "")
    if "sudo" in lower and ("not found" in lower or "no such file" in lower):
        return "not root, and the node has no sudo: log in as root"
    if "sudo:" in lower or "sudoers" in lower or "incident" in lower:
        return f"sudo refused ({said}): log in as root, allow it without a password (NOPASSWD), or give -K"
    return f"the node's shell ended with status {status}" + (f": {said}" if said else "")
