"""Reading nodes through their kube-proxy pods, with the API's `pods/exec`, where there is no SSH.

The same script runs, in the kube-proxy container: it shares the node's network namespace and has the very iptables that
wrote the rules. The stream is a websocket that speaks `v5.channel.k8s.io` or v4 (kubernetes, staging/src/k8s.io/
apimachinery/pkg/util/remotecommand/constants.go): each message begins with a byte that names its channel. This module
alone uses websocket-client. The `kubernetes` package's wrapper around it is not used: it sends no impersonation headers,
so that it would act as the wrong identity, and turns every failure into an exception without a status.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode, urlsplit

from ..errors import CollectError
from ..model.lazy_regex import pattern
from ..model.proxy_container import proxy_container
from ..model.snapshot import NodeDump, NodeOutcome, Unreachable
from .fanout import NodeTarget
from .node_script import MAX_BYTES, Connections, framed, new_nonce, node_dump, node_script, one_line, read_with

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
_GRACE_SECONDS = 5.0
"""How long after the status the rest of the output may take."""


class ExecApi(Protocol):
    """What is needed of the API's client (`collect.kube.KubeApi`): where it is, and who we are."""

    @property
    def server(self) -> str:
        """`https://host:port`."""

    @property
    def configuration(self) -> Any:
        """Certificates and proxy, as attributes of kubernetes.client.Configuration."""

    def headers(self) -> list[tuple[str, str]]:
        """Credentials, impersonation, user agent."""


class ProxyPod(NamedTuple):
    """The container that kube-proxy runs in."""

    namespace: str
    pod: str
    container: str


class ExecResult(NamedTuple):
    """What a command in a container came to."""

    out: bytes
    err: bytes
    status: int


class _NoShellError(CollectError):
    """The container's image has no such program."""


class _NotRunningError(CollectError):
    """The container does not run."""


def find_proxy_pod(pods: Iterable[Mapping[str, Any]], node: str, *, running: bool = True) -> ProxyPod | None:
    """The running kube-proxy pod of a node, as the distributions name it; or, not `running`, one that is not in that phase.

    kubeadm, EKS and kOps label it `k8s-app: kube-proxy`; AKS, GKE and RKE2 `component: kube-proxy`, the last two as
    static pods `kube-proxy-<node>`; OpenShift runs it in `openshift-kube-proxy` (`app: kube-proxy`) or, up to 4.16, within
    `sdn` in `openshift-sdn`. k3s has none: it runs kube-proxy within its own process.
    """
    found: list[tuple[int, ProxyPod]] = []
    for pod in pods:
        metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
        if spec.get("nodeName") != node or ((pod.get("status") or {}).get("phase") == "Running") is not running:
            continue
        if metadata.get("deletionTimestamp"):
            continue
        name, namespace = str(metadata.get("name", "")), str(metadata.get("namespace", ""))
        wanted: tuple[str, ...] = ("kube-proxy",)
        labels = metadata.get("labels") or {}
        if namespace == "openshift-sdn" and labels.get("app") == "sdn":
            rank, wanted = 2, ("kube-proxy", "sdn")
        elif namespace not in ("kube-system", "openshift-kube-proxy"):
            # Anyone may label a pod so in a namespace of their own; it would be asked for the node's rules.
            continue
        elif "kube-proxy" in (labels.get("k8s-app"), labels.get("component"), labels.get("app")):
            rank = 0
        elif name.startswith("kube-proxy-"):
            rank = 1
        else:
            continue
        names = [str(container.get("name", "")) for container in spec.get("containers") or ()]
        if names:
            container = next((w for w in wanted if w in names), names[0])
            found.append((rank, ProxyPod(namespace, name, container)))
    return min(found)[1] if found else None


class ExecReader:
    """A `NodeReader` through `pods/exec`. Safe to use from many threads."""

    via = "exec"

    def __init__(
        self,
        api: ExecApi,
        pods: Iterable[Mapping[str, Any]],
        *,
        connect_timeout: float = 10.0,
        command_timeout: float = 180.0,
        max_bytes: int = MAX_BYTES,
        connections: Connections | None = None,
    ) -> None:
        self._api = api
        self._pods = list(pods)
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._max_bytes = max_bytes
        self._connections = connections

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read one node through its kube-proxy pod."""
        try:
            pod = find_proxy_pod(self._pods, target.name)
            if pod is None:
                other = find_proxy_pod(self._pods, target.name, running=False)
                known = "k3s has none; where there is one, list pods"
                raise CollectError(f"no running kube-proxy pod on this node ({self._state(other) if other else known})")
            try:
                return self._read_pod(pod, target)
            except _NotRunningError:
                raise CollectError(f"the container {pod.container} of {self._state(pod)}") from None
        except CollectError as error:
            return Unreachable(node=target.name, reason=one_line(f"exec: {error}"), via=self.via)

    def _state(self, pod: ProxyPod) -> str:
        """Why a pod cannot be asked, by its status: `pod kube-proxy-x does not run: CrashLoopBackOff, restarted 7 times`."""
        for item in self._pods:
            meta, status = item.get("metadata") or {}, item.get("status") or {}
            if (meta.get("namespace"), meta.get("name")) == (pod.namespace, pod.pod):
                said = str(proxy_container(item, pod.container) or "")
                phase = status.get("phase", "")
                said = said or (f"it is {phase}" if phase not in ("Running", "") else "")
                return f"pod {pod.pod} does not run" + (f": {said}" if said else "")
        return f"pod {pod.pod} does not run"

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:  # noqa: ARG002 - the interface's
        """What another script prints in the node's kube-proxy pod, which has the node's network. Raises CollectError."""
        pod = find_proxy_pod(self._pods, target.name)
        if pod is None:
            raise CollectError("no running kube-proxy pod on this node")
        return self.run_inside(pod, script)

    def run_inside(self, pod: ProxyPod, script: str) -> bytes:
        """What a script prints in a container. Raises CollectError."""
        result = self._run(pod, ["sh", "-s"], script.encode())
        if result.status in (126, 127) and _NO_PROGRAM.search((result.out[-4000:] + result.err).decode("utf-8", "replace")):
            raise _NoShellError(f"the image of {pod.pod} has no shell")  # as dockershim and cri-dockerd say it
        if result.status != 0:
            said = one_line(result.err.decode("utf-8", "backslashreplace"))
            raise CollectError(f"the shell in {pod.pod} ended with status {result.status}" + (f": {said}" if said else ""))
        return result.out

    def close(self) -> None:
        """Nothing is shared between nodes."""

    def _read_pod(self, pod: ProxyPod, target: NodeTarget) -> NodeDump:
        try:
            return read_with(lambda tools: self._read_with_shell(pod, target, tools))
        except _NoShellError:
            return self._read_without_shell(pod, target)

    def _read_with_shell(self, pod: ProxyPod, target: NodeTarget, tools: str) -> NodeDump:
        taken, nonce = time.time(), new_nonce()
        # On stdin and not as an argument: arguments travel in the URL, which proxies cut and servers log.
        data = self.run_inside(pod, node_script(nonce, tools=tools, connections=self._connections))
        return node_dump(data, nonce, node=target.name, via=self.via, taken=taken, max_bytes=self._max_bytes)

    def _read_without_shell(self, pod: ProxyPod, target: NodeTarget) -> NodeDump:
        """The rules alone, a command at a time: what is left where the image has iptables and no shell."""
        taken, nonce = time.time(), new_nonce()
        sections: list[tuple[str, bytes, bytes, int]] = []
        notes = {"sysctl.txt": f"the image of {pod.pod} has no shell, and nothing else that could read it"}

        def run(name: str, *command: str) -> ExecResult | None:
            try:
                result = self._run(pod, command, None)
            except _NoShellError:
                return None
            sections.append((name, *result))
            return result

        # Not `list tables`: that would read every rule of the node first (node_script.py).
        listed = run("nft-tables.txt", "nft", "list", "flowtables")
        tables = f"\n{listed.out.decode('utf-8', 'replace')}" if listed is not None and listed.status == 0 else None
        if listed is None:
            notes["nft-tables.json"] = f"the image of {pod.pod} has no nft"
        for family, program in (("ip", "iptables"), ("ip6", "ip6tables")):
            saved = run(f"{program}-save.txt", f"{program}-save")
            if saved is None:
                continue
            mine = [t for t in ("filter", "nat", "mangle", "raw", "security") if f"\ntable {family} {t} {{" in (tables or "")]
            if b"(nf_tables)" in saved.out[:200]:
                # iptables-nft warns of legacy tables; without them, the other program would load the kernel's modules.
                if b"-legacy tables present" in saved.err + saved.out:
                    run(f"{program}-legacy-save.txt", f"{program}-legacy-save")
                else:
                    notes[f"{program}-legacy-save.txt"] = f"no tables: {program}-save warns of none"
            elif mine:
                run(f"{program}-nft-save.txt", f"{program}-nft-save")
            else:
                said = "no tables: nft lists none" if tables is not None else "nft does not list the kernel's tables"
                notes[f"{program}-nft-save.txt"] = said
        for family in ("ip", "ip6"):
            if f"\ntable {family} kube-proxy {{" in (tables or ""):
                run(f"nft-ruleset.json/{family}", "nft", "-j", "list", "table", family, "kube-proxy")
        if not sections:
            raise CollectError(f"the image of {pod.pod} has neither a shell nor iptables-save nor nft")
        run("tools.txt", "iptables", "-V")
        data = framed(nonce, sections, notes)
        return node_dump(data, nonce, node=target.name, via=self.via, taken=taken, max_bytes=self._max_bytes)

    def _run(self, pod: ProxyPod, command: Sequence[str], stdin: bytes | None) -> ExecResult:
        return run_in_pod(
            self._api,
            pod,
            command,
            stdin,
            connect_timeout=self._connect_timeout,
            timeout=self._command_timeout,
            max_bytes=self._max_bytes,
        )


def run_in_pod(
    api: ExecApi,
    pod: ProxyPod,
    command: Sequence[str],
    stdin: bytes | None,
    *,
    connect_timeout: float,
    timeout: float,
    max_bytes: int,
) -> ExecResult:
    """Run a command in a container, with a bound on time and on bytes.

    Raises CollectError when it cannot be started, when the connection ends before the command's status has come, and
    when a bound is passed.
    """
    import websocket  # noqa: PLC0415 - loaded only by those who read nodes this way

    query = [("command", word) for word in command]
    query += [("container", pod.container), ("stdout", "true"), ("stderr", "true")]
    if stdin is not None:
        query.append(("stdin", "true"))
    path = f"/api/v1/namespaces/{quote(pod.namespace)}/pods/{quote(pod.pod)}/exec"
    # http becomes ws, and https wss.
    url = f"ws{api.server.removeprefix('http')}{path}?{urlencode(query)}"
    socket: Any = websocket.WebSocket(sslopt=_tls(api.configuration), skip_utf8_validation=True)
    try:
        socket.connect(
            url,
            timeout=connect_timeout,
            header=[f"{name}: {value}" for name, value in api.headers()],
            subprotocols=["v5.channel.k8s.io", "v4.channel.k8s.io"],
            suppress_origin=True,
            **_proxy(api.configuration),
        )
        if stdin is not None:
            # A command that could not even start closes before it reads; its status, which follows, says why.
            with contextlib.suppress(ConnectionError, websocket.WebSocketConnectionClosedException):
                socket.send_binary(bytes([STDIN]) + stdin)
                if socket.subprotocol == "v5.channel.k8s.io":
                    socket.send_binary(bytes([CLOSE, STDIN]))
        return _receive(socket, time.monotonic() + timeout, timeout, max_bytes)
    except websocket.WebSocketBadStatusException as error:
        raise _refused(error, pod) from None
    except (websocket.WebSocketTimeoutException, TimeoutError):
        raise CollectError(f"{pod.pod}: the API server gave no answer within {connect_timeout:g} s") from None
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise CollectError(f"{pod.pod}: the connection failed: {one_line(str(error)) or type(error).__name__}") from None
    finally:
        socket.shutdown()


def _receive(socket: Any, until: float, timeout: float, max_bytes: int) -> ExecResult:
    """Both streams to their end, and the status."""
    import websocket  # noqa: PLC0415 - see run_in_pod

    out, err = bytearray(), bytearray()
    status: bytes | None = None
    while True:
        socket.settimeout(max(0.01, until - time.monotonic()))
        try:
            opcode, frame = socket.recv_data_frame(control_frame=True)
        except (websocket.WebSocketTimeoutException, TimeoutError):
            if status is not None:
                break
            raise CollectError(f"the node script did not end within {timeout:g} s ({len(out)} bytes came)") from None
        except (websocket.WebSocketConnectionClosedException, ConnectionError, ssl.SSLError):
            break
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        if opcode not in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) or not frame.data:
            if time.monotonic() > until:
                raise CollectError(f"the node script did not end within {timeout:g} s ({len(out)} bytes came)")
            continue
        channel, data = frame.data[0], memoryview(frame.data)[1:]
        if channel == STDOUT:
            out += data
        elif channel == STDERR:
            err = (err + data)[-4000:]
        elif channel == ERROR:
            status = (status or b"") + bytes(data)
            until = min(until, time.monotonic() + _GRACE_SECONDS)
        if len(out) > max_bytes:
            raise CollectError(f"the node printed more than {max_bytes >> 20} MiB")
    if status is None:
        raise CollectError(f"the connection ended before the command did ({len(out)} bytes came)")
    return ExecResult(bytes(out), bytes(err), _exit_status(status))


def _exit_status(status: bytes) -> int:
    """The exit status in the Status object of the error channel. Raises CollectError when there is none."""
    try:
        said = json.loads(status)
        if said.get("status") == "Success":
            return 0
        causes = (said.get("details") or {}).get("causes") or ()
        for cause in causes:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        message = one_line(str(said.get("message") or said.get("reason") or "unknown"), 4000)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        shown = one_line(status.decode("utf-8", "replace"), 120)
        raise CollectError(f"the command's status is not understood: {shown}") from None
    if _NO_PROGRAM.search(message):
        raise _NoShellError("the container's image has no shell")
    if _NOT_RUNNING.search(message):
        raise _NotRunningError(_end_of(message))
    raise CollectError(f"the command could not be run: {_end_of(message)}")


_NO_PROGRAM = pattern(r"executable file not found|exec: .*no such file or directory|stat .*no such file or directory")
_NOT_RUNNING = pattern(r"container not found|container .*(?:is )?not running|cannot exec in a stopped|container is in .*EXITED")
"""What kubelet, containerd, CRI-O and runc say of a container that has ended."""


def _end_of(message: str, limit: int = 240) -> str:
    """The end of what a container runtime says, where the reason is: before it come the names of those who passed it on."""
    return message if len(message) <= limit else f"…{message[1 - limit :]}"


def _refused(error: Any, pod: ProxyPod) -> CollectError:
    """Why the API server refused the websocket, in its own words where it has any."""
    body = error.resp_body or b""
    try:
        said = str(json.loads(body).get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        said = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    if _NOT_RUNNING.search(said):
        return _NotRunningError(_end_of(one_line(said, 4000)))
    said = one_line(said, 200)
    if error.status_code == 403:
        return CollectError(
            f"no permission to run commands in pod {pod.namespace}/{pod.pod}: the role needs the verbs get and create on "
            f"pods/exec in {pod.namespace}" + (f" ({said})" if said else "")
        )
    return CollectError(f"{pod.pod}: the API server answered {error.status_code}" + (f": {said}" if said else ""))


def _tls(configuration: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if getattr(configuration, "verify_ssl", True):
        options["cert_reqs"] = ssl.CERT_REQUIRED
        if getattr(configuration, "ssl_ca_cert", None):
            options["ca_certs"] = configuration.ssl_ca_cert
        if getattr(configuration, "assert_hostname", None) is False:
            options["check_hostname"] = False
    else:
        options.update(cert_reqs=ssl.CERT_NONE, check_hostname=False)
    for ours, theirs in (("cert_file", "certfile"), ("key_file", "keyfile"), ("tls_server_name", "server_hostname")):
        if getattr(configuration, ours, None):
            options[theirs] = getattr(configuration, ours)
    return options


def _proxy(configuration: Any) -> dict[str, Any]:
    proxy = getattr(configuration, "proxy", None)
    if not proxy:
        return {}
    parts = urlsplit(proxy)
    found: dict[str, Any] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or {"https": 443, "socks5": 1080}.get(parts.scheme, 80),
        "proxy_type": "socks5h" if parts.scheme.startswith("socks") else "http",
    }
    if parts.username:
        found["http_proxy_auth"] = (parts.username, parts.password or "")
    if getattr(configuration, "no_proxy", None):
        found["http_no_proxy"] = [host.strip() for host in configuration.no_proxy.split(",")]
    return found
