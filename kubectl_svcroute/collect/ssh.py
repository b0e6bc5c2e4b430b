"""Reading nodes over SSH. This module alone knows paramiko, and loads it when the first node is read.

One connection, one session and one command a node. A bastion's connection is opened once and carries all nodes. What
paramiko does not do is done here: known_hosts with its markers and wildcards (known_hosts.py), host certificates
(host_certificates.py), the user's configuration as `ssh -G` tells it (ssh_config.py), ProxyJump, certificates beside keys,
patience with MaxStartups. What is said within a session is in ssh_session.py.

Two traps, both met in practice: a refused banner is often a busy sshd (MaxStartups) and is tried again; too many keys
make sshd hang up, which paramiko calls "No existing session".
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CollectError
from ..model.fast_dataclass import dataclass, field, replace
from ..model.snapshot import NodeDump, NodeOutcome, Unreachable
from .fanout import ADDRESS_KINDS, NodeTarget
from .home import expand
from .host_certificates import authority_of, certificate_is_good
from .known_hosts import HostKeyError, KnownHosts, WrongHostKeyError, fingerprint, host_name
from .node_script import MAX_BYTES, Connections, new_nonce, node_dump, node_script, one_line, read_with
from .ssh_algorithms import restrict
from .ssh_config import HostConfig, Overrides, expand_proxy_command, parse_hop, resolve, split_jump
from .ssh_session import Conversation, shell_command, why_failed

if TYPE_CHECKING:
    import paramiko

HANDSHAKES = 8
"""Connections to one address that may be between TCP and authentication at once: below sshd's MaxStartups of 10."""

_BUSY_TRIES = 10
_MAX_HOPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How nodes are reached; what is left empty comes from the user's ssh configuration."""

    user: str = ""
    port: int = 0
    identities: tuple[str, ...] = ()
    """Private key files. When any is given, only these are offered, from the file or from the agent."""
    jump: str = ""
    """`-J`: hops, comma-separated."""
    addresses: tuple[str, ...] = ()
    """Kinds of address to try, in order (fanout.ADDRESS_KINDS); empty: the node's name where ssh's configuration has a
    HostName for it, else internal, external, hostname."""
    config_file: str = ""
    known_hosts: tuple[str, ...] = ()
    """Files to use instead of those of the configuration."""
    accept_new_host_keys: bool = False
    sudo: str = "auto"
    """auto: `sudo -n` unless the user is root; never: run as the user."""
    sudo_password: str = field(default="", repr=False)
    connect_timeout: float = 10.0
    """Seconds for TCP, for the handshake and for authentication, each."""
    command_timeout: float = 180.0
    """Seconds for the script, from its start to its exit status."""
    max_bytes: int = MAX_BYTES
    batch: bool = False
    """Never prompt for a key's passphrase."""
    connections: Connections | None = None
    """Also read these from each node's connection-tracking table."""


class _NoConnectionError(CollectError):
    """Nothing answered at this address; another address of the node may."""


class _BusyError(CollectError):
    """sshd hung up before it said its name: it has too many connections that are not authenticated yet."""


class SshReader:
    """A `NodeReader` over SSH. Safe to use from many threads."""

    via = "ssh"

    def __init__(self, options: SshOptions, *, warn: Callable[[str], None] | None = None) -> None:
        self._options = options
        self._warned: set[str] = set()
        self._warn_user = warn
        self._lock = threading.Lock()
        self._configs: dict[tuple[str, Overrides], HostConfig] = {}
        self._known: dict[tuple[str, ...], KnownHosts] = {}
        self._slots: dict[tuple[str, int, str], threading.Semaphore] = {}
        self._bastions: dict[HostConfig, _Bastion] = {}
        self._keys = _Keyring(options, self._warn)

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read one node at the first of its addresses that answers."""
        try:
            return read_with(lambda tools: self._read(target, tools))
        except CollectError as error:
            final = isinstance(error, WrongHostKeyError)
            return Unreachable(node=target.name, reason=one_line(f"ssh: {error}"), via=self.via, final=final)

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:  # noqa: ARG002 - of one way
        """What another script prints on the node. Raises CollectError."""
        with contextlib.closing(self._reach(target)) as transport:
            return self._run(transport, script, nonce)

    def close(self) -> None:
        """Close the connections to bastions and to the agent."""
        with self._lock:
            bastions, self._bastions = list(self._bastions.values()), {}
        for bastion in bastions:
            bastion.close()
        self._keys.close()

    def _warn(self, text: str) -> None:
        with self._lock:
            if text in self._warned:
                return
            self._warned.add(text)
        if self._warn_user is not None:
            self._warn_user(text)

    # -- one node ---------------------------------------------------------------------------------------------------

    def _read(self, target: NodeTarget, tools: str) -> NodeDump:
        taken = time.time()
        nonce = new_nonce()
        with contextlib.closing(self._reach(target)) as transport:
            data = self._run(transport, node_script(nonce, tools=tools, connections=self._options.connections), nonce)
        return node_dump(data, nonce, node=target.name, via=self.via, taken=taken, max_bytes=self._options.max_bytes)

    def _reach(self, target: NodeTarget) -> paramiko.Transport:
        """A connection to the first address of the node that answers."""
        told: list[str] = []
        for config in self._candidates(target):
            try:
                return self._connect(config)
            except _NoConnectionError as error:
                told.append(str(error))
        if not told:
            kinds = ", ".join(self._options.addresses or ADDRESS_KINDS)
            raise CollectError(f"the node has no address of the kinds {kinds}")
        raise CollectError("; ".join(dict.fromkeys(told)))

    def _candidates(self, target: NodeTarget) -> Iterator[HostConfig]:
        kinds = self._options.addresses
        if not kinds:
            by_name = self._resolve(target.name, self._from_options())
            if by_name.hostname != target.name:
                yield by_name
                return
            kinds = ADDRESS_KINDS
        for address in target.of_kinds(kinds):
            yield self._resolve(address, self._from_options())

    def _from_options(self) -> Overrides:
        o = self._options
        return Overrides(user=o.user, port=o.port, identities=o.identities, jump=o.jump, config_file=o.config_file)

    def _resolve(self, host: str, overrides: Overrides) -> HostConfig:
        with self._lock:
            found = self._configs.get((host, overrides))
        if found is None:
            found = resolve(host, overrides, fallback=self._without_openssh)
            with self._lock:
                self._configs[host, overrides] = found
        return found

    def _without_openssh(self, host: str, overrides: Overrides) -> Mapping[str, Sequence[str]]:
        pk = _paramiko()
        path = expand(overrides.config_file or "~/.ssh/config", "name the file with -F")
        answer: dict[str, list[str]] = {}
        if path.exists():
            text = path.read_text("utf-8", "replace")
            if any(line.strip().lower().startswith("include") for line in text.splitlines()):
                self._warn(f"{path}: Include is not followed, because OpenSSH's client is not installed here")
            try:
                found = pk.SSHConfig.from_text(text).lookup(host)
            except Exception as error:
                raise CollectError(f"{path} is not usable: {one_line(str(error))}") from error
            answer = {key: list(value) if isinstance(value, list) else [value] for key, value in found.items()}
        for key, value in (("user", overrides.user), ("port", overrides.port), ("proxyjump", overrides.jump)):
            if value:
                answer[key] = [str(value)]
        if overrides.identities:
            answer["identityfile"] = list(overrides.identities)
        return answer

    # -- connecting -------------------------------------------------------------------------------------------------

    def _connect(self, config: HostConfig) -> paramiko.Transport:
        """An authenticated connection. Tried again, with growing and uneven pauses, where sshd is too busy to talk."""
        self._hop_before(config, seen=())
        with self._lock:
            slots = self._slots.setdefault(
                (config.hostname, config.port, config.proxy_jump or config.proxy_command),
                threading.Semaphore(HANDSHAKES),
            )
        for attempt in range(_BUSY_TRIES):
            with slots:
                try:
                    return self._handshake(config, self._dial(config))
                except _BusyError as error:
                    busy = error
            # Uneven, or all that were turned away together would come back together.
            time.sleep(min(4.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
        raise CollectError(f"{busy} ({_BUSY_TRIES} times: sshd's MaxStartups, or something in front of it)")

    def _hop_before(self, config: HostConfig, seen: tuple[HostConfig, ...]) -> HostConfig | None:
        """The last jump host on the way, if there is one.

        Raises CollectError when the hosts jump in a circle, and before any is connected to: two nodes that each held
        one bastion and waited for the other would wait for ever.
        """
        if not config.proxy_jump:
            return None
        *before, last = split_jump(config.proxy_jump)
        host, overrides = parse_hop(last)
        hop = self._resolve(host, replace(overrides, jump=",".join(before), config_file=self._options.config_file))
        # ssh would not pass -i on to a hop; a key that opens the nodes mostly opens their bastion as well.
        hop = replace(hop, identity_files=tuple(dict.fromkeys((*hop.identity_files, *self._options.identities))))
        if hop in seen or len(seen) >= _MAX_HOPS:
            raise CollectError(f"the jump hosts on the way to {config.label} lead in a circle, or are too many")
        self._hop_before(hop, (*seen, hop))
        return hop

    def _dial(self, config: HostConfig) -> Any:
        """Something like a socket, connected to the host's sshd."""
        timeout = self._options.connect_timeout
        hop = self._hop_before(config, seen=())
        if hop is not None:
            return self._bastion(hop).channel(config, timeout)
        if config.proxy_command:
            return _proxy_command(expand_proxy_command(config))
        try:
            return socket.create_connection((config.hostname, config.port), timeout=timeout)
        except (OSError, UnicodeError) as error:
            raise _NoConnectionError(f"{host_name(config.hostname, config.port)}: {_why(error, timeout)}") from None

    def _bastion(self, hop: HostConfig) -> _Bastion:
        with self._lock:
            found = self._bastions.get(hop)
            if found is None:
                found = self._bastions[hop] = _Bastion(hop.label, lambda: self._connect(hop))
        return found

    def _handshake(self, config: HostConfig, sock: Any) -> paramiko.Transport:
        pk = _paramiko()
        timeout = self._options.connect_timeout
        known = self._known_hosts(config)
        transport: paramiko.Transport | None = None
        try:
            transport = pk.Transport(sock, default_window_size=4 << 20)
            transport.daemon = True
            # A busy node may take long to say its name; it must not take for ever.
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout
            restrict(transport.get_security_options(), config)
            _prefer_known_keys(transport, known, config)
            transport.start_client(timeout=timeout + 1)
            self._check_host_key(transport, known, config)
            transport.set_keepalive(15)
            self._keys.authenticate(transport, config)
        except BaseException as error:
            if transport is not None:
                transport.close()
            sock.close()
            if isinstance(error, CollectError) or not isinstance(error, Exception):
                raise
            raise _translated(error, config, timeout) from None
        return transport

    def _known_hosts(self, config: HostConfig) -> KnownHosts:
        paths = self._options.known_hosts or (*config.user_known_hosts, *config.global_known_hosts)
        with self._lock:
            known = self._known.get(paths)
        if known is None:
            known = KnownHosts.load(paths, self._warn)
            with self._lock:
                known = self._known.setdefault(paths, known)
        return known

    def _check_host_key(self, transport: paramiko.Transport, known: KnownHosts, config: HostConfig) -> None:
        """Raises HostKeyError unless the key is the host's, or new and new ones are accepted."""
        key = transport.get_remote_server_key()
        name, port = config.known_as, 22 if config.host_key_alias else config.port
        if key.public_blob is not None:
            signed_by = authority_of(key.public_blob.key_blob)
            known.check_revoked(name, port, signed_by)
            config.check_revoked(signed_by)
            authorities = known.authorities(name, port)
            if certificate_is_good(key.public_blob.key_blob, name, [a.blob for a in authorities], _signed_by):
                known.check_revoked(name, port, key.asbytes())
                config.check_revoked(key.asbytes())
                return
        blob = key.asbytes()
        config.check_revoked(blob)
        if known.knows(name, port, blob):
            return
        shown = host_name(name, port)
        if not (self._options.accept_new_host_keys or config.trust != "ask"):
            port_flag = f"-p {port} " if port != 22 else ""
            raise HostKeyError(
                f"the host key of {shown} is not known ({key.get_name()} {fingerprint(blob)}). Check it and add it "
                f"(ssh-keyscan {port_flag}{name} >> ~/.ssh/known_hosts), or give --ssh-accept-new-host-keys"
            )
        if config.trust == "no" and not self._options.accept_new_host_keys:
            self._warn(f"the host key of {shown} is not known, and is not asked for: ssh's StrictHostKeyChecking is no")
            return
        path = (self._options.known_hosts or config.user_known_hosts or ("~/.ssh/known_hosts",))[0]
        known.accept(name, port, key.get_name(), blob, path=path, hashed=config.hash_known_hosts)
        self._warn(f"the host key of {shown} was new and is now kept in {path}: {key.get_name()} {fingerprint(blob)}")

    # -- the command ------------------------------------------------------------------------------------------------

    def _run(self, transport: paramiko.Transport, script: str, nonce: str) -> bytes:
        """Run the script and return what it printed. Raises CollectError unless it ended with status 0."""
        pk = _paramiko()
        options = self._options
        until = time.monotonic() + options.command_timeout
        password = options.sudo_password if options.sudo != "never" else ""
        command, go, ask = shell_command(sudo=options.sudo != "never", password=bool(password))
        try:
            with contextlib.closing(transport.open_session(timeout=options.connect_timeout)) as channel:
                channel.settimeout(options.connect_timeout)
                channel.exec_command(command)
                talk = Conversation(channel, until, options.max_bytes, f"{nonce} start ".encode())
                if password:
                    talk.answer_sudo(ask, go, password)
                talk.say(script.encode())
                talk.say_no_more()
                out, err, status = talk.finish()
        except TimeoutError:
            raise CollectError("the node stopped answering") from None
        except (pk.SSHException, EOFError, OSError) as error:
            raise CollectError(f"the connection broke: {one_line(str(error)) or type(error).__name__}") from None
        if status != 0:
            raise CollectError(why_failed(status, err))
        return out


class _Bastion:
    """One connection to a jump host, opened at the first need, shared by all nodes behind it."""

    def __init__(self, label: str, connect: Callable[[], paramiko.Transport]) -> None:
        self._label = label
        self._connect = connect
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None
        self._refused: CollectError | None = None

    def channel(self, config: HostConfig, timeout: float) -> paramiko.Channel:
        """A stream to the host, through the bastion."""
        pk = _paramiko()
        transport = self._open()
        try:
            return transport.open_channel("direct-tcpip", (config.hostname, config.port), ("127.0.0.1", 0), timeout=timeout + 1)
        except pk.ChannelException as error:
            raise _NoConnectionError(
                f"{host_name(config.hostname, config.port)}: the jump host {self._label} cannot reach it "
                f"({one_line(str(error.text)).lower() or 'refused'})"
            ) from None
        except (pk.SSHException, EOFError, OSError) as error:
            raise _NoConnectionError(
                f"{host_name(config.hostname, config.port)}: no way through the jump host {self._label} "
                f"({one_line(str(error)).lower() or 'it hung up'})"
            ) from None

    def _open(self) -> paramiko.Transport:
        with self._lock:
            if self._refused is not None:
                # Said once is enough: two hundred nodes must not knock two hundred times at a locked door.
                raise self._refused
            if self._transport is None or not self._transport.is_active():
                try:
                    self._transport = self._connect()
                except CollectError as error:
                    self._refused = CollectError(f"jump host {self._label}: {error}")
                    raise self._refused from None
            return self._transport

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None


class _Keyring:
    """The keys that may open a node: the agent's and those in files, each file read and each passphrase asked once."""

    def __init__(self, options: SshOptions, warn: Callable[[str], None]) -> None:
        self._options = options
        self._warn = warn
        self._lock = threading.Lock()
        self._files: dict[str, paramiko.PKey | None] = {}
        self._agents: dict[str, Any] = {}

    def authenticate(self, transport: paramiko.Transport, config: HostConfig) -> None:
        """Log in with the first key that the host takes. Raises CollectError when it takes none."""
        pk = _paramiko()
        try:
            transport.auth_none(config.user)
        except pk.BadAuthenticationType as error:
            if "publickey" not in error.allowed_types:
                methods = one_line(", ".join(error.allowed_types)) or "nothing"
                raise CollectError(f"{config.label} takes no keys, which alone are offered here (only {methods})") from None
        except pk.AuthenticationException:
            pass
        if transport.is_authenticated():
            return
        tried: list[str] = []
        for label, key in self._candidates(config):
            try:
                further = transport.auth_publickey(config.user, key)
            except pk.AuthenticationException:
                tried.append(label)
                if not transport.is_active():
                    raise CollectError(_too_many(config, tried)) from None
                continue
            except (pk.SSHException, EOFError):
                if transport.is_active():
                    tried.append(f"{label} (cannot sign)")
                    continue
                raise CollectError(_too_many(config, [*tried, label])) from None
            if transport.is_authenticated():
                return
            raise CollectError(f"{config.label} took the key and asks for more: {one_line(', '.join(further))}")
        what = "; offered " + ", ".join(tried) if tried else "; there is no key to offer (agent empty, no identity file)"
        raise CollectError(f"permission denied for {config.label} (publickey){what}")

    def close(self) -> None:
        """Hang up on the agents."""
        with self._lock:
            agents, self._agents = list(self._agents.values()), {}
        for agent in agents:
            if agent is not None:
                agent._close()

    def _candidates(self, config: HostConfig) -> Iterator[tuple[str, paramiko.PKey]]:
        """Keys in ssh's order: configured ones that the agent holds, the agent's others, then files (sshconnect2.c)."""
        agent = [] if config.identity_agent == "none" else self._agent_keys(config.identity_agent)
        used: set[bytes] = set()
        in_agent = {key.blob: key for key in agent}
        certificates = [_certificate(path) for path in config.certificate_files]
        for path in config.identity_files:
            for blob in _public_blobs(path):
                if blob in in_agent and blob not in used:
                    used.add(blob)
                    yield f"{path} (agent)", in_agent[blob]
        if not config.identities_only:
            for key in agent:
                if key.blob not in used:
                    used.add(key.blob)
                    yield f"{key.comment or 'a key'} (agent)", key
        for path in config.identity_files:
            if any(blob in used for blob in _public_blobs(path)):
                continue
            loaded = self._file(path)
            if loaded is None:
                continue
            for certificate in [*certificates, _certificate(f"{path}-cert.pub")]:
                certified = _certified(loaded, certificate)
                if certified is not None:
                    yield f"{path} with its certificate", certified
            yield path, loaded

    def _agent_keys(self, path: str) -> list[paramiko.AgentKey]:
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            return []
        with self._lock:
            if path not in self._agents:
                self._agents[path] = _connect_agent(path, self._warn)
            agent = self._agents[path]
        keys = list(agent.get_keys()) if agent is not None else []
        for key in keys:
            # Before 5.1 the library lacks this for certificates and security keys, and looks for it all the same.
            key.__dict__.setdefault("public_blob", None)
        return keys

    def _file(self, path: str) -> paramiko.PKey | None:
        # Under the lock while a passphrase is asked for: thirty-two nodes must not ask thirty-two times.
        with self._lock:
            if path not in self._files:
                self._files[path] = self._load(path)
            return self._files[path]

    def _load(self, path: str) -> paramiko.PKey | None:
        pk = _paramiko()
        if not Path(path).is_file():
            if path in self._options.identities:
                self._warn(f"identity file {path} does not exist")
            return None
        try:
            return _private_key(path, None)
        except pk.PasswordRequiredException:
            pass
        except Exception as error:
            self._warn(f"identity file {path} is not used: {one_line(str(error)) or type(error).__name__}")
            return None
        if self._options.batch or not (sys.stdin.isatty() and sys.stderr.isatty()):
            self._warn(f"identity file {path} is not used: it is encrypted, and there is no terminal to ask at (ssh-add it)")
            return None
        for _ in range(3):
            try:
                return _private_key(path, getpass.getpass(f"Passphrase for {path}: ", stream=sys.stderr))
            except Exception as error:
                self._warn_user_of(path, error)
        return None

    def _warn_user_of(self, path: str, error: Exception) -> None:
        print(f"{path}: {one_line(str(error)) or 'wrong passphrase'}", file=sys.stderr)


def _paramiko() -> Any:
    """The library, loaded at the first need: it takes a fifth of a second, which --help must not pay."""
    import paramiko  # noqa: PLC0415 - see above

    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        # Without a handler, Python prints the library's tracebacks of every refused connection to stderr.
        logger.addHandler(logging.NullHandler())
    return paramiko


def _why(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return one_line(str(error)) or type(error).__name__


def _translated(error: Exception, config: HostConfig, timeout: float) -> CollectError:
    """What went wrong, in words that name the place and the remedy instead of the library's."""
    said = one_line(str(error))
    lower = said.lower()
    where = host_name(config.hostname, config.port)
    if "banner" in lower or isinstance(error, (EOFError, ConnectionResetError, BrokenPipeError)):
        return _BusyError(f"{where}: hung up before the SSH handshake was over")
    if "incompatible" in lower or "no acceptable" in lower:
        return CollectError(f"{where}: no cipher, key exchange or host key in common ({said})")
    if isinstance(error, TimeoutError) or "timeout" in lower or "timed out" in lower or "no existing session" in lower:
        return CollectError(f"{where}: no SSH handshake within {timeout:g} s")
    return CollectError(f"{where}: {said or type(error).__name__}")


def _too_many(config: HostConfig, tried: list[str]) -> str:
    return (
        f"{config.label} hung up after {len(tried)} key{'s' if len(tried) != 1 else ''} (its MaxAuthTries): "
        f"name the right one with -i; offered {', '.join(tried)}"
    )


def _proxy_command(command: str) -> socket.socket:
    """ProxyCommand's standard streams as a socket, so that time-outs work as on any other."""
    ours, theirs = socket.socketpair()
    with theirs:
        # The user's own configuration, run by the user's shell: what ssh does with it (ssh_config(5), ProxyCommand).
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
        )
    # It ends when its streams close; someone has to take note, or it stays as a zombie.
    threading.Thread(target=process.wait, name="proxy-command", daemon=True).start()
    return ours


def _prefer_known_keys(transport: paramiko.Transport, known: KnownHosts, config: HostConfig) -> None:
    """Ask first for the types of key that known_hosts has, as ssh does: another type could not be compared."""
    name, port = config.known_as, 22 if config.host_key_alias else config.port
    options = transport.get_security_options()
    usual = list(options.key_types)
    first: list[str] = []
    for kind in known.types(name, port):
        first += ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]
    wanted = [kind for kind in dict.fromkeys([*first, *usual]) if kind in usual]
    if known.authorities(name, port):
        wanted = [f"{kind}-cert-v01@openssh.com" for kind in usual] + wanted
    options.key_types = wanted


def _signed_by(authority: bytes, data: bytes, signature: bytes) -> bool:
    pk = _paramiko()
    signer = pk.PKey.from_type_string(pk.Message(authority).get_text(), authority)
    return bool(signer.verify_ssh_sig(data, pk.Message(signature)))


def _connect_agent(path: str, warn: Callable[[str], None]) -> Any:
    """The agent at a socket, made safe for many threads: two requests at once would get each other's answers."""
    pk = _paramiko()

    agent = pk.agent.AgentSSH()
    send, turn = agent._send_message, threading.Lock()

    def send_alone(message: Any) -> Any:
        with turn:
            return send(message)

    agent._send_message = send_alone
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(30.0)  # a hardware key may wait for a touch
        sock.connect(path)
        agent._connect(sock)
    except (OSError, pk.SSHException) as error:
        sock.close()
        warn(f"the ssh agent at {path} does not answer: {one_line(str(error))}")
        return None
    return agent


def _private_key(path: str, passphrase: str | None) -> paramiko.PKey:
    """A private key without its certificate. Raises PasswordRequiredException, or whatever is wrong with the file."""
    pk = _paramiko()
    for kind in (pk.Ed25519Key, pk.ECDSAKey, pk.RSAKey):
        try:
            key: paramiko.PKey = kind.from_private_key_file(path, passphrase)
        except pk.PasswordRequiredException:
            raise
        except Exception as error:  # paramiko raises a dozen kinds for "not this type"
            last = error
        else:
            return key
    raise last


def _public_blobs(path: str) -> list[bytes]:
    """The public key beside a private key file, and its certificate: what the agent would list them under."""
    found = []
    for name in (f"{path}-cert.pub", f"{path}.pub", path):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(name).read_bytes().split()
            if words[0].startswith((b"ssh-", b"ecdsa-", b"sk-")):
                found.append(b64decode(words[1], validate=True))
    return found


def _certificate(path: str) -> str:
    return path if Path(path).is_file() else ""


def _certified(key: paramiko.PKey, certificate: str) -> paramiko.PKey | None:
    """The key together with a certificate, or None when the certificate is not the key's."""
    if not certificate:
        return None
    import copy  # noqa: PLC0415 - rarely needed

    certified = copy.copy(key)
    try:
        certified.load_certificate(certificate)
    except Exception:  # a broken certificate file; the bare key is offered all the same
        return None
    return certified
