"""known_hosts as OpenSSH reads it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), line by line.

paramiko's own loader raises at the first `@cert-authority` or `@revoked` line, knows no wildcards, and cannot name the
line that a changed key contradicts. A bad line here costs a warning and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import CollectError
from ..model.fast_dataclass import dataclass
from .home import expand

DEFAULT_PORT = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """One line of a known_hosts file."""

    marker: str
    """Empty, `cert-authority` or `revoked`."""
    names: str
    """Comma-separated patterns, or one hashed name."""
    type: str
    blob: bytes
    """The public key in the form that SSH sends it."""
    place: str
    """`/home/me/.ssh/known_hosts:12`."""


class HostKeyError(CollectError):
    """The host's key is unknown, changed or revoked. Changed and revoked keys stay refused whatever the options."""


class WrongHostKeyError(HostKeyError):
    """Someone else may be answering: the key has changed, or was revoked. No other way to the host may hide that."""


def host_name(host: str, port: int) -> str:
    """The name under which known_hosts keeps a host: `host`, or `[host]:port` for a port other than 22."""
    return host.lower() if port == DEFAULT_PORT else f"[{host.lower()}]:{port}"


def fingerprint(blob: bytes) -> str:
    """`SHA256:…` as ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def parse_line(line: str, place: str) -> KnownKey | None:
    """One line, or None for an empty line and a comment. Raises ValueError for anything else."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker = ""
    if words[0].startswith("@"):
        marker = words.pop(0)[1:]
        if marker not in ("cert-authority", "revoked"):
            raise ValueError(f"unknown marker @{marker}")
    if len(words) < 3:
        raise ValueError("fewer than three fields")
    try:
        blob = base64.b64decode(words[2], validate=True)
    except binascii.Error as error:
        raise ValueError("the key is not base64") from error
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size].decode("ascii", "replace") != words[1]:
        raise ValueError("the key is not of the type that its line names")
    return KnownKey(marker=marker, names=words[0], type=words[1], blob=blob, place=place)


def _matches(names: str, name: str) -> bool:
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    matched = False
    for pattern in names.lower().split(","):
        wanted = pattern.removeprefix("!")
        # Brackets are part of a name here, not a character class.
        if fnmatchcase(name, wanted.replace("[", "[[]")):
            if wanted != pattern:
                return False
            matched = True
    return matched


class KnownHosts:
    """The known_hosts files that apply to a host, and the place where a newly accepted key goes."""

    _lock = threading.Lock()

    def __init__(self, keys: Iterable[KnownKey] = ()) -> None:
        self._plain: dict[str, list[KnownKey]] = {}
        self._rest: list[KnownKey] = []
        for key in keys:
            self._add(key)

    def _add(self, key: KnownKey) -> None:
        # Most lines name hosts plainly; only wildcards and hashes must be tried one by one.
        if any(c in key.names for c in "*?!|"):
            self._rest.append(key)
        else:
            for name in key.names.lower().split(","):
                self._plain.setdefault(name, []).append(key)

    @classmethod
    def load(cls, paths: Sequence[str], warn: Callable[[str], None]) -> KnownHosts:
        """Read files in order; one that does not exist is empty. A bad line is skipped, with a warning."""
        keys: list[KnownKey] = []
        for path in paths:
            try:
                text = expand(path).read_bytes().decode("utf-8", "replace")
            except (FileNotFoundError, NotADirectoryError, CollectError):
                continue  # also for a user without a home folder, who has no such file
            except OSError as error:
                warn(f"known hosts in {path} are not read: {error.strerror}")
                continue
            for number, line in enumerate(text.splitlines(), start=1):
                try:
                    key = parse_line(line, f"{path}:{number}")
                except ValueError as error:
                    warn(f"{path}:{number} is skipped: {error}")
                    continue
                if key is not None:
                    keys.append(key)
        return cls(keys)

    def lines_for(self, host: str, port: int) -> list[KnownKey]:
        """The lines that speak of a host, whatever their marker."""
        name = host_name(host, port)
        return [*self._plain.get(name, ()), *(key for key in self._rest if _matches(key.names, name))]

    def authorities(self, host: str, port: int) -> list[KnownKey]:
        """Keys that may sign this host's certificate. OpenSSH looks them up with the port and without."""
        found = self.lines_for(host, port)
        if port != DEFAULT_PORT:
            found = found + self.lines_for(host, DEFAULT_PORT)
        revoked = {key.blob for key in found if key.marker == "revoked"}
        return [key for key in found if key.marker == "cert-authority" and key.blob not in revoked]

    def check_revoked(self, host: str, port: int, blob: bytes) -> None:
        """Raises HostKeyError when a `@revoked` line for this host holds the key."""
        for key in [*self.lines_for(host, port), *self.lines_for(host, DEFAULT_PORT)]:
            if key.marker == "revoked" and key.blob == blob:
                raise WrongHostKeyError(f"host key {fingerprint(blob)} is revoked ({key.place})")

    def types(self, host: str, port: int) -> list[str]:
        """The types of key known of a host, in the order of the files, each once."""
        found = [key.type for key in self.lines_for(host, port) if not key.marker]
        if not found and port != DEFAULT_PORT:
            found = [key.type for key in self.lines_for(host, DEFAULT_PORT) if not key.marker]
        return list(dict.fromkeys(found))

    def knows(self, host: str, port: int, blob: bytes) -> bool:
        """Whether the key is the host's. False when the host is not known at all; raises HostKeyError when it is
        known with other keys only, or the key is revoked (OpenSSH, sshconnect.c:check_host_key).
        """
        self.check_revoked(host, port, blob)
        mine = [key for key in self.lines_for(host, port) if not key.marker]
        if any(key.blob == blob for key in mine):
            return True
        if mine:
            raise WrongHostKeyError(
                f"the host key has changed: {host_name(host, port)} shows {fingerprint(blob)}, {mine[0].place} has "
                f"{fingerprint(mine[0].blob)}. Someone may be in between; if the node was made anew, remove that line"
            )
        # A host on another port may stand there under its bare name; a different key there proves nothing.
        return port != DEFAULT_PORT and any(key.blob == blob for key in self.lines_for(host, DEFAULT_PORT) if not key.marker)

    def accept(self, host: str, port: int, key_type: str, blob: bytes, *, path: str, hashed: bool) -> None:
        """Append a new key to a file, as `StrictHostKeyChecking accept-new` does. Raises CollectError if it cannot."""
        name = host_name(host, port)
        if hashed:
            salt = secrets.token_bytes(20)
            digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
            name = f"|1|{base64.b64encode(salt).decode('ascii')}|{base64.b64encode(digest).decode('ascii')}"
        line = f"{name} {key_type} {base64.b64encode(blob).decode('ascii')}\n"
        target = expand(path)
        # Many nodes are accepted at once, and other programs write here too: append only, under both locks.
        with self._lock:
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(descriptor, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    size = file.seek(0, os.SEEK_END) if file.seekable() else 0
                    if size:
                        file.seek(size - 1)
                        if file.read(1) != b"\n":
                            line = "\n" + line
                    file.write(line.encode("ascii"))
            except OSError as error:
                raise CollectError(f"the new host key cannot be added to {path}: {error.strerror}") from error
            self._add(KnownKey(marker="", names=host_name(host, port), type=key_type, blob=blob, place=str(target)))
