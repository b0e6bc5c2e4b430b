"""What the user's ssh configuration says of a host, as `ssh -G` tells it.

OpenSSH itself resolves Host, Match, Include and tokens; nothing here imitates it. Where there is no OpenSSH, the caller
brings another reader of the file and this module only shapes its answer.
"""

from __future__ import annotations

import base64
import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..errors import CollectError
from ..model.fast_dataclass import dataclass, replace
from .known_hosts import WrongHostKeyError, fingerprint

DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
ALGORITHMS = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms")
_TRUST: dict[str, Literal["accept-new", "no"]] = {"accept-new": "accept-new", "no": "no", "off": "no", "false": "no"}
_HOST = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[^\s'\"`;&<>|(){}\\$-][^\s'\"`;&<>|(){}\\$]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """How one host is to be reached."""

    alias: str
    """The name that was asked for; Host lines match it."""
    hostname: str
    user: str
    port: int = 22
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    proxy_jump: str = ""
    proxy_command: str = ""
    user_known_hosts: tuple[str, ...] = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
    global_known_hosts: tuple[str, ...] = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
    identities_only: bool = False
    identity_agent: str = ""
    """A socket's path, `none`, or empty for SSH_AUTH_SOCK."""
    host_key_alias: str = ""
    hash_known_hosts: bool = False
    trust: Literal["ask", "accept-new", "no"] = "ask"
    """StrictHostKeyChecking: `no` takes a new key and keeps nothing; a changed key is refused even then."""
    algorithms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(ciphers, macs, kexalgorithms or hostkeyalgorithms; what ssh's configuration allows), as far as it says."""
    revoked_keys: str = ""
    """The file of RevokedHostKeys."""

    @property
    def known_as(self) -> str:
        """The name that known_hosts has it under."""
        return self.host_key_alias or self.hostname

    def check_revoked(self, blob: bytes) -> None:
        """Raises WrongHostKeyError when the file of RevokedHostKeys holds the key, or cannot be read (ssh_config(5))."""
        if not self.revoked_keys:
            return
        try:
            data = Path(self.revoked_keys).read_bytes()
        except OSError as error:
            raise WrongHostKeyError(f"RevokedHostKeys {self.revoked_keys} cannot be read: {error.strerror}") from None
        if data.startswith(b"SSHKRL\n"):
            raise WrongHostKeyError(
                f"RevokedHostKeys {self.revoked_keys} is a key revocation list, which is not read here: use a list of public keys"
            )
        if base64.b64encode(blob) in data.split():
            raise WrongHostKeyError(f"host key {fingerprint(blob)} is revoked ({self.revoked_keys})")

    @property
    def label(self) -> str:
        """`user@host:port`, for people."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != 22 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says; it wins over the configuration, as with ssh."""

    user: str = ""
    port: int = 0
    identities: tuple[str, ...] = ()
    jump: str = ""
    config_file: str = ""


def safe_host(host: str) -> str:
    """The host again. Raises CollectError when it could be taken for an option or a piece of shell."""
    if not _HOST.fullmatch(host):
        raise CollectError(f"not a host name: {host[:80]!r}")
    return host


def split_jump(spec: str) -> list[str]:
    """The hops of `-J a,user@b:2222`, in the order in which they are passed."""
    return [hop.strip() for hop in spec.split(",") if hop.strip() and spec.strip() != "none"]


def parse_hop(hop: str) -> tuple[str, Overrides]:
    """Host, and the user and port that a hop names: `host`, `user@host:port`, `[v6]:port`, `ssh://…`."""
    rest = hop.removeprefix("ssh://").rstrip("/")
    user, at, host = rest.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise CollectError(f"not a user name in the jump host {hop[:80]!r}")
    found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|([0-9A-Fa-f:]+)", host)
    if not found:
        raise CollectError(f"not a jump host: {hop[:80]!r}")
    name = found[1] or found[3] or found[5]
    return safe_host(name), Overrides(user=user, port=int(found[2] or found[4] or 0))


def resolve(
    host: str,
    overrides: Overrides,
    *,
    fallback: Callable[[str, Overrides], Mapping[str, Sequence[str]]],
    timeout: float = 10.0,
) -> HostConfig:
    """What applies to a host. `fallback` answers, in the keys of `ssh -G`, where there is no OpenSSH.

    Raises CollectError when the configuration is wrong: ssh would refuse it too.
    """
    safe_host(host)
    ssh = shutil.which("ssh")
    if ssh is None:
        values = {key.lower(): list(value) for key, value in fallback(host, overrides).items()}
    else:
        values = _ask_ssh(ssh, host, overrides, timeout)
    return _shape(host, overrides, values)


def _ask_ssh(ssh: str, host: str, overrides: Overrides, timeout: float) -> dict[str, list[str]]:
    command = [ssh, "-G", "-T"]
    if overrides.config_file:
        command += ["-F", overrides.config_file]
    if overrides.user:
        command += ["-l", overrides.user]
    if overrides.port:
        command += ["-p", str(overrides.port)]
    for identity in overrides.identities:
        command += ["-i", identity]
    if overrides.jump:
        command += ["-J", overrides.jump]
    try:
        done = subprocess.run([*command, "--", host], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise CollectError(f"ssh -G {host} gave no answer within {timeout:g} s (a Match exec that hangs?)") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CollectError(f"ssh's configuration for {host} is not usable: {said[0] if said else 'ssh -G failed'}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value)
    return values


def _shape(host: str, overrides: Overrides, values: Mapping[str, Sequence[str]]) -> HostConfig:
    def one(key: str) -> str:
        found = values.get(key) or ("",)
        return "" if found[0].lower() == "none" and key != "identityagent" else found[0]

    def files(key: str) -> tuple[str, ...]:
        return tuple(word for value in values.get(key, ()) for word in value.split() if word.lower() != "none")

    user = one("user") or getpass.getuser()
    config = HostConfig(
        alias=host,
        hostname=safe_host(one("hostname") or host),
        user=user,
        port=int(one("port") or 22),
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
        identities_only=one("identitiesonly") == "yes" or bool(overrides.identities),
        identity_agent=one("identityagent"),
        host_key_alias=one("hostkeyalias"),
        hash_known_hosts=one("hashknownhosts") == "yes",
        trust=_TRUST.get(one("stricthostkeychecking"), "ask"),
        algorithms=tuple((key, tuple(one(key).split(","))) for key in ALGORITHMS if one(key)),
    )
    home = os.path.expanduser("~")  # noqa: PTH111 - without a home folder it stays as it is, and no file is there

    def expand(path: str) -> str:
        tokens = {"%%": "%", "%d": home, "%u": getpass.getuser(), "%r": user, "%h": config.hostname, "%n": host}
        path = re.sub("%.", lambda found: tokens.get(found[0], found[0]), path)
        return os.path.expanduser(path.replace("${HOME}", home))  # noqa: PTH111 - an agent's socket may be no path

    agent = config.identity_agent
    if agent.startswith("$"):
        agent = os.environ.get(agent.strip("${}"), "")
    elif agent.upper() == "SSH_AUTH_SOCK":
        agent = ""
    user_files, global_files = files("userknownhostsfile"), files("globalknownhostsfile")
    return replace(
        config,
        # A path may hold blanks, and ssh -G prints it bare: one identity a line.
        # Those of the command line alone, if there are any: with the others behind them, sshd's MaxAuthTries is near.
        identity_files=tuple(expand(path) for path in overrides.identities or values.get("identityfile", DEFAULT_IDENTITIES)),
        certificate_files=tuple(expand(path) for path in values.get("certificatefile", ())),
        user_known_hosts=tuple(map(expand, user_files if "userknownhostsfile" in values else config.user_known_hosts)),
        global_known_hosts=tuple(map(expand, global_files if "globalknownhostsfile" in values else config.global_known_hosts)),
        revoked_keys=expand(one("revokedhostkeys")) if one("revokedhostkeys") else "",
        identity_agent=agent if agent == "none" else expand(agent),
    )


def expand_proxy_command(config: HostConfig) -> str:
    """ProxyCommand with its tokens filled in (ssh_config(5), TOKENS: %%, %h, %n, %p, %r)."""
    tokens = {"%%": "%", "%h": config.hostname, "%n": config.alias, "%p": str(config.port), "%r": config.user}
    if "%r" in config.proxy_command and not _USER.fullmatch(config.user):
        raise CollectError(f"the user name {config.user!r} may not stand in a ProxyCommand")
    return re.sub("%.", lambda found: tokens.get(found[0], found[0]), config.proxy_command)
