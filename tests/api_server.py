"""A server that speaks the Kubernetes API's HTTP, from captured objects: real TLS, real sockets, a real client in front.

    with ApiServer(capture("v1.36-nftables")) as server:
        config = server.kubeconfig(tmp_path / "config", token="good")
        subprocess.run([sys.executable, "-m", "kubectl_svcroute", "--kubeconfig", config, ...])
        assert [r.path for r in server.log] == [...]

It reads only, as we do, and runs commands in pods as far as the node script is one: `nodes` holds what it prints, and
`shells` really run what a pod is told. Lists come in
pages of one moment, with opaque `continue` tokens; errors are Status objects;
requests are authenticated (bearer token or client certificate) and, when there are `rules`, authorised. `inject` makes
it fail in the ways that API servers, load balancers and proxies fail.

What it is checked against: the API's conventions (kubernetes/community, api-conventions.md) and what a real API server
of 1.36 answered for the captures. Of selectors it knows labels that are equal; it
knows no watch and no writes.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import ipaddress
import json
import re
import select
import socket
import socketserver
import ssl
import struct
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

KINDS = {
    ("v1", "services"): "Service",
    ("v1", "endpoints"): "Endpoints",
    ("v1", "pods"): "Pod",
    ("v1", "nodes"): "Node",
    ("v1", "namespaces"): "Namespace",
    ("v1", "configmaps"): "ConfigMap",
    ("discovery.k8s.io/v1", "endpointslices"): "EndpointSlice",
    ("apps/v1", "daemonsets"): "DaemonSet",
}
CHUNK = 4096
"""Answers of more bytes than this come in chunks of as many."""


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]
    user: str | None
    """Who it was authenticated as; None: nobody."""

    def header(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True)
class Rule:
    """A PolicyRule of RBAC, in all namespaces or in one."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    namespace: str | None = None

    def allows(self, verb: str, group: str, resource: str, name: str | None, namespace: str | None) -> bool:
        """Whether it grants one request. A rule with names grants no lists."""
        return (
            verb in self.verbs
            and group in self.groups
            and resource in self.resources
            and (self.namespace is None or self.namespace == namespace)
            and (not self.names or name in self.names)
        )


def rules_of(path: Path, *names: str) -> list[Rule]:
    """The rules of the named ClusterRoles and Roles (without names: of all) in a manifest.

    A Role counts in its own namespace, a ClusterRole in all of them: bindings are not looked at.
    """
    import yaml

    rules: list[Rule] = []
    for document in yaml.safe_load_all(path.read_text()):
        if document and document["kind"] in ("ClusterRole", "Role") and (document["metadata"]["name"] in names or not names):
            rules += [
                Rule(
                    groups=tuple(rule["apiGroups"]),
                    resources=tuple(rule["resources"]),
                    verbs=tuple(rule["verbs"]),
                    names=tuple(rule.get("resourceNames", ())),
                    namespace=document["metadata"].get("namespace"),
                )
                for rule in document["rules"]
            ]
    return rules


@dataclass
class Fault:
    """What happens to the next `times` requests whose path matches, instead of an answer."""

    path: re.Pattern[str]
    times: int
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hang: bool = False
    cut: bool = False
    """Close the connection in the middle of the body: of one with a length, of one in chunks, by turns."""
    drip: bool = False
    """Send the body byte by byte, and never all of it."""
    only_continued: bool = False


class _Snapshot(NamedTuple):
    """The rest of a List whose first pages were given out."""

    version: str
    items: list[dict[str, Any]]


class ApiServer:
    """The server. Entering it starts it, leaving it stops it and everything that it started."""

    def __init__(
        self,
        objects: Path | Mapping[str, Sequence[dict[str, Any]]] | None = None,
        *,
        tokens: Mapping[str, str] | None = None,
        rules: Iterable[Rule] | None = None,
        without: Iterable[str] = (),
    ) -> None:
        """`objects`: a snapshot folder, or items by resource. `without`: API groups (`apps/v1`) that are not served.

        `tokens`: user by bearer token; the default takes `good` for `alice`. `rules`: None allows everything.
        """
        self.objects: dict[str, list[dict[str, Any]]] = {plural: [] for _, plural in KINDS}
        self.version: dict[str, Any] = {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}
        if isinstance(objects, Path):
            self._load(objects)
        else:
            self.objects.update({key: list(items) for key, items in (objects or {}).items()})
        self.tokens = dict({"good": "alice"} if tokens is None else tokens)
        self.rules = None if rules is None else list(rules)
        self.without = frozenset(without)
        self.warnings: list[str] = []
        """Sent with every answer, as `Warning: 299 - "..."`."""
        self.nodes: Path | None = objects / "nodes" if isinstance(objects, Path) else None
        """A folder for each node, whose files the node script prints when it is run in the node's kube-proxy pod."""
        self.logs: dict[tuple[str, str], str] = {}
        """What a pod printed, by namespace and name."""
        self.upgrade: Callable[[Any], None] | None = None
        self.shells: dict[str, Callable[[str], bytes]] = {}
        """Takes over connections that ask to become a websocket, after they are authenticated; gets the HTTP handler."""
        self.log: list[Request] = []
        self.resource_version = 1000
        self._faults: list[Fault] = []
        self._continued: dict[str, _Snapshot] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.pki = pki()

    def _load(self, folder: Path) -> None:
        for path in (folder / "api").glob("*.json"):
            found = json.loads(path.read_text())
            if path.stem == "version":
                self.version = found
            elif path.stem == "configmap-kube-proxy":
                self.objects["configmaps"] = [found]
            elif path.stem in self.objects:
                self.objects[path.stem] = found["items"]

    # Running ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> ApiServer:
        self._server = _Server(self)
        # A short poll only makes stopping prompt.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.stop()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    # Making it behave ------------------------------------------------------------------------------------------------

    def inject(  # one word for each way to fail
        self,
        path: str = ".*",
        *,
        times: int = 1,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        hang: bool = False,
        cut: bool = False,
        drip: bool = False,
        only_continued: bool = False,
    ) -> None:
        """Let the next `times` requests whose path matches fail. Faults are used up in the order given."""
        fault = Fault(re.compile(path), times, status, headers or {}, body, hang, cut, drip, only_continued)
        with self._lock:
            self._faults.append(fault)

    def expire_continues(self, times: int = 1, path: str = ".*") -> None:
        """Let the next `times` requests for a following page find that the List has expired."""
        self.inject(path, times=times, status=410, only_continued=True)

    def change(self, resource: str, name: str) -> dict[str, Any]:
        """Touch an object: it gets a new resourceVersion. Returns it, to be changed further."""
        with self._lock:
            self.resource_version += 1
            for item in self.objects[resource]:
                if item["metadata"]["name"] == name:
                    item["metadata"]["resourceVersion"] = str(self.resource_version)
                    return item
        raise KeyError(name)

    # Configuration for clients ---------------------------------------------------------------------------------------

    def kubeconfig(
        self,
        path: Path,
        *,
        token: str | None = "good",
        client_cert: bool = False,
        plugin: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        cluster: Mapping[str, Any] | None = None,
        context: str = "test",
        namespace: str | None = None,
    ) -> Path:
        """Write a kubeconfig for this server; `user` and `cluster` add to their entries, or take from them (None)."""
        entry: dict[str, Any] = {}
        if plugin is not None:
            entry["exec"] = plugin
        elif client_cert:
            entry["client-certificate"] = str(self.pki.client_cert)
            entry["client-key"] = str(self.pki.client_key)
        elif token is not None:
            entry["token"] = token
        where: dict[str, Any] = {"server": self.url, "certificate-authority": str(self.pki.ca)}
        inner = {"cluster": f"{context}-cluster", "user": f"{context}-user"}
        if namespace:
            inner["namespace"] = namespace
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": inner}],
            "clusters": [{"name": f"{context}-cluster", "cluster": _without_none({**where, **(cluster or {})})}],
            "users": [{"name": f"{context}-user", "user": _without_none({**entry, **(user or {})})}],
        }
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    # Answering -------------------------------------------------------------------------------------------------------

    def fault_for(self, path: str, continued: bool) -> Fault | None:
        """The next fault that is meant for a request, used up by one."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.path.search(path) and (continued or not fault.only_continued):
                    fault.times -= 1
                    return fault
        return None

    def user_of(self, authorization: str, certificate: Any) -> str | None:
        """Who a request is from."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer":
            return self.tokens.get(token)
        for part in (certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return str(value)
        return None

    def answer(self, path: str, query: Mapping[str, str], user: str) -> tuple[int, Any]:
        """Status and body of a GET that is authenticated."""
        if path == "/version":
            return 200, self.version
        parts = path.strip("/").split("/")
        group = "v1" if parts[0] == "api" else "/".join(parts[1:3])
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = None
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = (rest[0] if rest else ""), (rest[1] if len(rest) > 1 else None)
        if plural == "pods" and name is not None and namespace is not None and rest[2:] == ["log"]:
            if (why := self._forbidden(group, "pods/log", name, namespace, user)) is not None:
                return 403, status_object(403, "Forbidden", why)
            if (namespace, name) not in self.logs:
                return 404, status_object(404, "NotFound", f'pods "{name}" not found')
            return 200, self.logs[namespace, name]
        if (group, plural) not in KINDS or group in self.without:
            return 404, None
        if (why := self._forbidden(group, plural, name, namespace, user)) is not None:
            return 403, status_object(403, "Forbidden", why)
        with self._lock:
            items = [i for i in self.objects[plural] if namespace in (None, i["metadata"].get("namespace"))]
            if name is not None:
                found = [i for i in items if i["metadata"]["name"] == name]
                if not found:
                    return 404, status_object(404, "NotFound", f'{plural} "{name}" not found')
                return 200, {"kind": KINDS[group, plural], "apiVersion": group, **found[0]}
            for key, _, value in (word.partition("=") for word in query.get("labelSelector", "").split(",") if word):
                items = [i for i in items if (i["metadata"].get("labels") or {}).get(key) == value]
            return self._page(group, plural, items, query)

    def exec_in(self, path: str, user: str) -> tuple[int, Any]:
        """Whether a command may be run in a pod: 101 and its shell or the folder of its node, or a status and its body."""
        _, _, _, namespace, _, name, _ = path.strip("/").split("/")
        if (why := self._forbidden("v1", "pods/exec", name, namespace, user)) is not None:
            return 403, status_object(403, "Forbidden", why)
        if name in self.shells:
            return 101, self.shells[name]
        for pod in self.objects["pods"]:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name) and self.nodes is not None:
                return 101, self.nodes / pod["spec"]["nodeName"]
        return 404, status_object(404, "NotFound", f'pods "{name}" not found')

    def _page(self, group: str, plural: str, items: list[dict[str, Any]], query: Mapping[str, str]) -> tuple[int, Any]:
        version = str(self.resource_version)
        if token := query.get("continue"):
            if query.get("resourceVersion"):
                why = "specifying resource version is not allowed when using continue"
                return 400, status_object(400, "BadRequest", why)
            if token not in self._continued:
                why = "continue key is not valid: illegal base64 data"
                return 400, status_object(400, "BadRequest", why)
            version, items = self._continued[token]
        metadata: dict[str, Any] = {"resourceVersion": version}
        limit = int(query.get("limit", 0))
        # A List from the watch cache comes whole: the limit is not looked at.
        if limit and query.get("resourceVersion") != "0" and len(items) > limit:
            made = base64.urlsafe_b64encode(f"{version}/{plural}/{len(items)}/{len(self._continued)}".encode()).decode()
            self._continued[made] = _Snapshot(version, items[limit:])
            metadata |= {"continue": made, "remainingItemCount": len(items) - limit}
            items = items[:limit]
        kind = KINDS[group, plural]
        return 200, {"kind": f"{kind}List", "apiVersion": group, "metadata": metadata, "items": items}

    def _forbidden(self, group: str, plural: str, name: str | None, namespace: str | None, user: str) -> str | None:
        verb = "get" if name else "list"
        api_group = group.rpartition("/")[0]
        if self.rules is None or any(r.allows(verb, api_group, plural, name, namespace) for r in self.rules):
            return None
        scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        named = f' "{name}"' if name else ""
        return (
            f'{plural}{named} is forbidden: User "{user}" cannot {verb} resource "{plural}" '
            f'in API group "{api_group}" {scope}'
        )


def status_object(code: int, reason: str, message: str) -> dict[str, Any]:
    """A Status, as the API says what went wrong."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


REASONS = {
    401: ("Unauthorized", "Unauthorized"),
    410: ("Expired", "The provided continue parameter is too old to display a consistent list result."),
    429: ("TooManyRequests", "The server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "apiserver not ready"),
    504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that stopping waits for them: nothing outlives a test
    request_queue_size = 64

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(api.pki.server_cert, api.pki.server_key)
        context.load_verify_locations(api.pki.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        # The handshake belongs to the connection's own thread: a client that is slow at it must not stop the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away, or do not trust us, are what some tests are about."""

    def stop(self) -> None:
        """End every connection, and wait for its thread."""
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            # Of the socket below the TLS: shutting that down wakes a thread that waits for the next request.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet: in two, the second waits for the client's delayed ACK
    server: _Server

    def log_message(self, *_: object) -> None:
        """The log is `ApiServer.log`."""

    def do_POST(self) -> None:
        self._record(None)
        self._send(405, status_object(405, "MethodNotAllowed", "this server is read-only"))

    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 # http.server's names

    def do_GET(self) -> None:
        api = self.server.api
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        user = api.user_of(self.headers.get("Authorization", ""), certificate)
        self._record(user)
        fault = api.fault_for(url.path, "continue" in query)
        if fault is not None:
            self._fail(fault)
        elif user is None:
            self._send(401, status_object(401, "Unauthorized", "Unauthorized"))
        elif api.upgrade is not None and self.headers.get("Upgrade", "").lower() == "websocket":
            self.close_connection = True
            api.upgrade(self)
        elif url.path.endswith("/exec"):
            self._exec(*api.exec_in(url.path, self.headers.get("Impersonate-User", user)))
        else:
            self._send(*api.answer(url.path, query, self.headers.get("Impersonate-User", user)))

    def _exec(self, status: int, found: Any) -> None:
        """Speak v5.channel.k8s.io: take the node script from stdin, and print what it would have on that node."""
        if status != 101:
            self._send(status, found)
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        self.end_headers()
        self.wfile.flush()
        script = b""
        while not script.endswith(b"\nexit\n"):
            script += self._message()[1:]
        if callable(found):
            self._message_out(1, found(script.decode()))
        else:
            self._print_folder(found, script)
        self._message_out(3, json.dumps({"status": "Success"}).encode())
        self.wfile.write(struct.pack(">BBH", 0x88, 2, 1000))
        self.wfile.flush()
        self.close_connection = True

    def _print_folder(self, folder: Path, script: bytes) -> None:
        """What the node script would have printed."""
        nonce = re.search(rb"^K=([A-Za-z0-9-]+)$", script, re.MULTILINE)
        assert nonce is not None
        mark = nonce[1]
        self._message_out(1, mark + b" start plain\n")
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            name, text = file.name.encode(), file.read_bytes()
            self._message_out(1, b"\n%s begin %s\n%s\n%s end\n\n0" % (mark, name, text, mark))
        self._message_out(1, b"\n%s done\n" % mark)

    def _message(self) -> bytes:
        """The payload of the client's next frame."""
        _, second = self.rfile.read(2)
        size = second & 127
        if size > 125:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask = self.rfile.read(4)
        return bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(size)))

    def _message_out(self, channel: int, data: bytes) -> None:
        for start in range(0, len(data), 32_768):
            payload = bytes([channel]) + data[start : start + 32_768]
            size = len(payload)
            self.wfile.write(struct.pack(">BB", 0x82, size) if size < 126 else struct.pack(">BBH", 0x82, 126, size))
            self.wfile.write(payload)

    def _record(self, user: str | None) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        headers = tuple(self.headers.items())
        self.server.api.log.append(Request(self.command, url.path, query, headers, user))

    def _fail(self, fault: Fault) -> None:
        if fault.hang:
            self.server.api._stopping.wait()
            self.close_connection = True
        elif fault.drip:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server.api._stopping.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.close_connection = True
        elif fault.cut:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if fault.times % 2:
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"kind":')
            else:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b'8\r\n{"kind":\r\n')
            self.close_connection = True
        elif fault.body is not None:
            self._raw(fault.status, fault.body, fault.headers)
        else:
            reason, message = REASONS.get(fault.status, ("Unknown", "injected"))
            self._send(fault.status, status_object(fault.status, reason, message), fault.headers)

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        # Unknown paths are answered by the router, which does not speak Status.
        plain = body is None or isinstance(body, str)
        data = (body or "404 page not found\n").encode() if plain else json.dumps(body).encode()
        kind = "text/plain; charset=utf-8" if plain else "application/json"
        self._raw(status, data, {"Content-Type": kind, **(headers or {})})

    def _raw(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        # A real server compresses from 128 KB on; tests are better served by less.
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(data) > 1024:
            data = gzip.compress(data, 1)
            self.send_header("Content-Encoding", "gzip")
        for name, value in headers.items():
            self.send_header(name, value)
        for text in self.server.api.warnings:
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{escaped}"')
        if len(data) <= CHUNK:
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        # Go does not know the length of what it has not written yet: any answer of size comes in chunks.
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


# Certificates --------------------------------------------------------------------------------------------------------


class Pki(NamedTuple):
    """A certificate authority, a certificate for 127.0.0.1, localhost and `kube.test`, and one for the client `carol`."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    other_ca: Path
    """An authority that has signed nothing here."""


@cache
def pki() -> Pki:
    """Made once a process: keys cost time."""
    import atexit
    import shutil

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = Path(tempfile.mkdtemp(prefix="svcroute-pki-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    now = datetime.datetime.now(datetime.timezone.utc)

    def make(name: str, issuer: Any, *, authority: bool = False) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer_key, signer = issuer or (key, None)
        names = [x509.DNSName("localhost"), x509.DNSName("kube.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.subject if signer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            # OpenSSL's strict checks, which Python 3.13 turns on, want both ends of the chain named.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(signer_key, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return key, cert

    authority = make("ca", None, authority=True)
    make("other-ca", None, authority=True)
    make("server", authority)
    make("carol", authority)
    paths = [folder / n for n in ("ca.crt", "server.crt", "server.key", "carol.crt", "carol.key", "other-ca.crt")]
    return Pki(*paths)


# What stands around an API server --------------------------------------------------------------------------------------


def exec_plugin(folder: Path, tokens: Sequence[str], *, expires: str | None = None, status: int = 0) -> dict[str, Any]:
    """A credential plugin: each run gives the next token, the last one for ever. `folder/runs` counts its runs.

    `expires` is the expirationTimestamp of every token. A `status` other than 0 makes it fail, with words on stderr.
    """
    script = folder / "plugin.py"
    (folder / "runs").write_text("")
    script.write_text(
        textwrap.dedent(
            f"""
            import json, pathlib, sys
            runs = pathlib.Path({str(folder / "runs")!r})
            count = len(runs.read_text())
            runs.write_text("x" * (count + 1))
            if {status}:
                print("your session has ended", file=sys.stderr)
                sys.exit({status})
            tokens = {list(tokens)!r}
            status = {{"token": tokens[min(count, len(tokens) - 1)]}}
            if {expires!r}:
                status["expirationTimestamp"] = {expires!r}
            credential = {{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}
            print(json.dumps(credential))
            """
        )
    )
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(script)],
        "interactiveMode": "Never",
    }


class ConnectProxy:
    """An HTTP proxy that makes tunnels (CONNECT) and remembers where to."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self._server: socketserver.ThreadingTCPServer | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ConnectProxy:
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = self.rfile.readline().decode().split()
                while self.rfile.readline().strip():
                    pass
                proxy.targets.append(words[1])
                host, _, port = words[1].rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    while not proxy._stopping.is_set():
                        ready, _, _ = select.select([self.connection, upstream], [], [], 0.02)
                        for end in ready:
                            data = end.recv(65536)
                            if not data:
                                return
                            (upstream if end is self.connection else self.connection).sendall(data)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
