"""The Kubernetes API, read as raw JSON over the connection pool of the `kubernetes` package.

That package finds out who we are and whom we ask (contexts, exec plugins, certificates), and makes the connections.
Its typed models are not used: they cost ten times the time and the memory, and the calls around them changed in each of
its last two majors. It is imported when `connect` is called, and nowhere else in this program.

What it does not do, or does otherwise than kubectl, is done here, because to act as the wrong identity would be a lie:

- the kubeconfig's `as`, `as-groups`, `as-uid` and `as-user-extra`, and the options of that name: it ignores them;
- `proxy-url`, which its versions before 37 ignore;
- merging several files: it takes the last `current-context`, kubectl the first; and it resolves a client certificate's
  relative path against the cluster's file, kubectl against the user's. So files are merged here, with kubectl's rules
  (client-go, tools/clientcmd/loader.go: "the first file to set a particular value wins"), and paths made absolute;
- a failing credential plugin: it logs an error and goes on as nobody. Here it is an error;
- overriding the cluster or the user of a context.

Lists are read in pages, each projected (`collect.projection`) before the next is asked for. They are consistent reads;
`cached=True` reads from the API server's cache instead: cheaper for it, and perhaps some seconds old.
"""

from __future__ import annotations

import difflib
import email.utils
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from .. import __version__
from ..errors import CollectError, UsageError
from ..model.fast_dataclass import dataclass, field
from ..model.report import Unverified
from ..model.snapshot import ApiObjects
from .archive import KINDS
from .home import expand
from .interning import Shared
from .list_stream import decode_list
from .projection import project

PAGE = 500
"""Items of one page of a List: kubectl's chunk size."""
DEFAULT_TIMEOUT = 60.0
"""Seconds for one request with all its tries, when the user names none."""
CONNECT_TIMEOUT = 10.0
MAX_TRIES = 5
"""Tries of a request that the server fails to serve. One that it asks to repeat later is repeated while time lasts."""
MAX_ANSWER = 1 << 30
"""Bytes of one answer: a page of the largest objects that the API server stores has less."""
MAX_PAGES = 20_000
"""Pages of one List: ten million objects."""
MAX_RESTARTS = 2
"""How often a List is begun again after its pages expired, before it is asked for in one piece (as client-go does)."""
CUT_OFF = 0
"""In place of an HTTP status: the connection ended before the answer did."""
RBAC_DOC = "docs/rbac.md"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(CollectError):
    """The API server answered a request with an error. `status` is the HTTP status, `reason` that of its Status."""

    def __init__(self, text: str, *, status: int, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeOptions:
    """kubectl's own configuration flags, as far as the user gave them."""

    kubeconfig: str | None = None
    context: str | None = None
    cluster: str | None = None
    user: str | None = None
    server: str | None = None
    token: str | None = field(default=None, repr=False)
    as_user: str | None = None
    as_groups: tuple[str, ...] = ()
    as_uid: str | None = None
    certificate_authority: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    namespace: str | None = None
    request_timeout: float | None = None
    """Seconds for one request with all its tries; None: DEFAULT_TIMEOUT; 0: no limit."""
    proxy: str | None = None


def connect(
    options: KubeOptions,
    *,
    on_warning: Callable[[str], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> KubeApi:
    """Find the cluster and the identity, as kubectl does. Nothing is sent yet, but a credential plugin may run.

    `on_warning` gets each warning that the API server sends, once. `sleep` waits between tries.

    Raises UsageError for a context, cluster, user or file that does not exist, CollectError when there is no
    configuration or no credential can be had.
    """
    where = _where(options)
    return KubeApi(where, options, on_warning=on_warning, sleep=sleep)


class KubeApi:
    """Read-only access to one API server as one identity. Safe to use from several threads."""

    def __init__(
        self,
        where: _Where,
        options: KubeOptions,
        *,
        on_warning: Callable[[str], None] | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._where = where
        self._options = options
        self._on_warning = on_warning
        self._sleep = sleep
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._impersonation = _impersonation(where.user, options)
        limit = DEFAULT_TIMEOUT if options.request_timeout is None else options.request_timeout
        self._limit = limit or 7 * 86400.0
        self._configuration: Any = None
        self._client: Any = None
        self._complaints: list[str] = []
        self._reload()

    @property
    def context_name(self) -> str:
        """The kubeconfig's context, `in-cluster`, or the server's address when there is neither."""
        return self._where.name

    @property
    def current_namespace(self) -> str:
        """The namespace of names without one: the option's, the context's, the service account's, or `default`."""
        return self._options.namespace or self._where.namespace or "default"

    @property
    def server(self) -> str:
        """The API server's address, `https://host:port`."""
        return str(self._configuration.host)

    @property
    def configuration(self) -> Any:
        """The `kubernetes.client.Configuration`: server, certificates, proxy. Its token is in `headers()`."""
        return self._configuration

    def headers(self) -> list[tuple[str, str]]:
        """Who we are: credentials (refreshed when they have expired), impersonation, user agent.

        Pairs, because a header for each group that we act as has the same name.
        """
        headers = [("User-Agent", f"kubectl-svcroute/{__version__}"), *self._impersonation]
        if not self.server.startswith("https://"):
            # As kubectl: whoever listens on the way would have the credentials (client-go, IsConfigTransportTLS).
            return headers
        if self._options.token:
            return [*headers, ("Authorization", self._sound(f"Bearer {self._options.token}"))]
        with self._lock, _complaints() as complaints:
            settings = self._configuration.auth_settings().values()
        self._complaints += complaints
        found = [(str(s["key"]).title(), str(s["value"])) for s in settings if s.get("in") == "header" and s["value"]]
        return headers + [(name, self._sound(value)) for name, value in found]

    def _sound(self, credential: str) -> str:
        """A credential that can stand in a header. Raises CollectError, without the credential, for one that cannot."""
        if not credential.isprintable() or not credential.isascii():
            raise CollectError(
                f"{self._where.origin}: the credential of {self._where.who} holds a line break or another character that no token"
                " has: it was cut, or copied with more than itself"
            )
        return credential

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """One GET, decoded. Tries again when the server is busy or fails, within the time limit.

        Raises ApiError for an answer that is an error, CollectError when there is none.
        """
        response = self._request(path, params or {}, "application/json")
        try:
            return json.loads(response)
        except (ValueError, RecursionError) as error:
            raise self._no_json(path) from error

    def _no_json(self, path: str) -> CollectError:
        return CollectError(f"{self.server}{path}: the answer is no JSON: is this the address of an API server, or of a proxy?")

    def get_text(self, path: str, params: Mapping[str, str | int] | None = None) -> str:
        """One GET of something that is not JSON, such as metrics. Raises as `get` does."""
        return self._request(path, params or {}, "*/*").decode("utf-8", errors="backslashreplace")

    def list(
        self,
        path: str,
        key: str,
        *,
        cached: bool = False,
        params: Mapping[str, str | int] | None = None,
    ) -> dict[str, Any]:
        """A whole List, in pages, each projected as `key` before the next. Raises ApiError, CollectError."""
        restarts = 0
        while True:
            query: dict[str, str | int] = dict(params or {})
            if restarts <= MAX_RESTARTS:
                query["limit"] = PAGE
            if cached:
                query["resourceVersion"] = 0
            try:
                return self._pages(path, key, query)
            except ApiError as error:
                # The pages are those of one moment, which the server forgets after some minutes.
                if error.status != 410 or restarts > MAX_RESTARTS:
                    raise
                restarts += 1

    def _pages(self, path: str, key: str, query: dict[str, str | int]) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        items: list[dict[str, Any]] = []
        shared = Shared()
        asked: set[str] = set()
        while True:
            try:
                page, found = decode_list(
                    self._request(path, query, "application/json"), lambda item: shared.of(key, project(key, item))
                )
            except (ValueError, RecursionError) as error:
                raise self._no_json(path) from error
            if not isinstance(page, dict) or not str(page.get("kind", "")).endswith("List"):
                raise CollectError(f"{self.server}{path}: the answer is no List: is this the address of an API server?")
            if key in KINDS and page["kind"] != f"{KINDS[key]}List":
                raise CollectError(f"{self.server}{path}: the answer is a {page['kind']}, and not a List of {KINDS[key]}")
            metadata = page.get("metadata") or {}
            if not whole:
                version = {"resourceVersion": metadata.get("resourceVersion", "")}
                whole = {"kind": page["kind"], "apiVersion": page.get("apiVersion", "v1"), "metadata": version}
            items += found
            del found
            if not metadata.get("continue"):
                return {**whole, "items": items}
            token = str(metadata["continue"])
            if token in asked or len(asked) >= MAX_PAGES:
                raise CollectError(f"{self.server}{path}: the List does not end: its pages lead on to each other")
            asked.add(token)
            query = {**query, "continue": token}
            query.pop("resourceVersion", None)  # the token says it; the server refuses both

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def __enter__(self) -> KubeApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # How a request is made ------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Read the configuration, and run its credential plugin, afresh."""
        from kubernetes import client  # noqa: PLC0415 # half a second, which --help must not wait for

        configuration, complaints = _configure(self._where, self._options)
        self._complaints = complaints
        if self._client is not None:
            self.close()
        try:
            made = client.ApiClient(configuration)
        except Exception as error:  # whatever urllib3 or ssl make of a bad certificate or proxy
            raise CollectError(f"{self._where.origin}: cannot be used: {_one_line(str(error))}") from error
        self._configuration, self._client = configuration, made

    def _request(self, path: str, params: Mapping[str, str | int], accept: str) -> bytes:
        url = self.server + path + (f"?{urlencode(params)}" if params else "")
        deadline = time.monotonic() + self._limit
        tries = 0
        renewed = False
        while True:
            tries += 1
            status, headers, body = self._once(url, accept, deadline)
            if status == 200:
                return body
            error = self._error(status, body, path)
            if status == 401 and not renewed:
                # A token can be taken back before its time: ask for a new one, once.
                renewed = True
                with self._lock:
                    self._reload()
                continue
            if status == 429 or ((status >= 500 or status == CUT_OFF) and tries < MAX_TRIES):
                wait = _retry_after(headers) or min(0.25 * 2**tries, 10.0)
                wait *= 1 + random.random() / 4  # noqa: S311 # so that many clients do not come back as one
                if time.monotonic() + wait < deadline:
                    self._sleep(wait)
                    continue
            raise error

    def _once(self, url: str, accept: str, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """One try: status, headers, decoded body; CUT_OFF and why, when the connection ended before the answer did."""
        import urllib3  # noqa: PLC0415 # comes with the kubernetes package

        left = max(deadline - time.monotonic(), 0.1)
        headers = urllib3.HTTPHeaderDict()
        for name, value in [*self.headers(), ("Accept", accept), ("Accept-Encoding", "gzip")]:
            headers.add(name, value)
        response = None
        try:
            response = self._client.rest_client.pool_manager.request(
                "GET",
                url,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, left), read=left),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            # read1 (urllib3 2.1) gives what has come; read waits for all that was asked, however slowly it drips.
            read = getattr(response, "read1", response.read)
            chunks, size = [], 0
            while chunk := read(1 << 20, decode_content=True):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_ANSWER:
                    response.close()
                    raise CollectError(f"{self.server}: one answer has more than {MAX_ANSWER >> 20} MiB: it was given up")
                if time.monotonic() > deadline:  # the read time-out is for each packet only
                    response.close()
                    raise CollectError(self._too_slow())
            self._warnings(response.headers.getlist("Warning"))
            response.release_conn()
            return response.status, response.headers, b"".join(chunks)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if response is not None:
                response.close()
            if isinstance(error, urllib3.exceptions.ProtocolError):
                return CUT_OFF, {}, _one_line(str(error)).encode()
            raise CollectError(self._explain(error)) from error

    def _warnings(self, headers: Sequence[str]) -> None:
        """Pass on the API's warnings (RFC 7234, 5.5: `299 - "text"`), each once."""
        for header in headers:
            for text in re.findall(r'299 \S+ "((?:[^"\\]|\\.)*)"', header):
                clean = _one_line(re.sub(r"\\(.)", r"\1", text))
                with self._lock:
                    known = clean in self._warned
                    self._warned.add(clean)
                if not known and self._on_warning is not None:
                    self._on_warning(clean)

    def _error(self, status: int, body: bytes, path: str) -> ApiError:
        """What an answer that is no success means, and what to do about it."""
        said = _status(body)
        message = _one_line(str(said.get("message") or body[:200].decode("utf-8", "replace")))
        reason = str(said.get("reason") or "")
        if status == 401:
            why = f": {self._complaints[-1]}" if self._complaints else ""
            text = (
                f"{self._where.origin}: {self.server} does not accept the credentials of {self._where.who}{why}: "
                "log in again, or name another --context, --user or --token"
            )
        elif status == 403:
            text = f"{self.server}: {message}: {RBAC_DOC} has the ClusterRole to ask for"
        elif status == CUT_OFF:
            text = f"{self.server}{path}: the connection ended before the answer did: {message}"
        elif status == 429:
            text = f"{self.server}{path}: the server is too busy ({message}): try later, or raise --request-timeout"
        elif 300 <= status < 400:
            text = f"{self.server}{path}: the server sends us elsewhere ({status}): is this an API server's address?"
        else:
            text = f"{self.server}{path}: the server answered {status}: {message}"
        return ApiError(text, status=status, reason=reason)

    def _too_slow(self) -> str:
        return f"{self.server}: no whole answer within {self._limit:g} s: raise --request-timeout, or see to the server"

    def _explain(self, error: Exception) -> str:
        """Why no connection came about, in one line, with what to look at."""
        from urllib3 import exceptions  # noqa: PLC0415 # comes with the kubernetes package

        origin = f"{self._where.origin}: " if self._where.origin else ""
        via = f" through the proxy {_bare(self._configuration.proxy)}" if self._configuration.proxy else ""
        detail = _one_line(str(error))
        match error:
            case exceptions.ReadTimeoutError():
                return self._too_slow()
            case exceptions.SSLError() if "hostname" in detail.lower() or "ip address mismatch" in detail.lower():
                what = "the server's certificate is for another name"
                return f"{origin}{self.server}: {what} ({_tls(detail)}): see --tls-server-name"
            case exceptions.SSLError():
                return f"{origin}{self.server}: no trust in the server ({_tls(detail)}): see --certificate-authority"
            case exceptions.ProxyError():
                return f"{origin}{self.server}: no connection{via}: {detail}: see proxy-url and HTTPS_PROXY"
            case exceptions.NewConnectionError() if "refused" in detail.lower():
                return f"{origin}{self.server}: connection refused{via}: is the cluster running, and this its address?"
            case exceptions.NewConnectionError():
                return f"{origin}{self.server}: no connection{via}: {detail.rpartition(': ')[2]}: is the address right?"
            # Behind NewConnectionError, which is one.
            case exceptions.ConnectTimeoutError():
                return f"{origin}{self.server}: no connection{via} in time: is the address right, and the way there open?"
            case _:
                return f"{origin}{self.server}: {detail}"


# Which cluster, as whom ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """A cluster and an identity, as they stand in a kubeconfig after merging, with paths made absolute."""

    name: str
    origin: str
    """Where this was found, for messages."""
    who: str
    namespace: str | None
    cluster: Mapping[str, Any] = field(repr=False)
    user: Mapping[str, Any] = field(repr=False)
    files: tuple[str, ...] = ()
    in_cluster: bool = False
    persists: bool = False
    """An `auth-provider` whose refreshed token has to be written back to the kubeconfig, as kubectl does: a refresh
    token can be used once, so whoever does not write the next one down logs the user out."""


def _where(options: KubeOptions) -> _Where:
    files = _kubeconfig_files(options)
    if not files:
        if options.server:
            cluster = {"server": _server(options)}
            return _Where(name=options.server, origin="--server", who="--token", namespace=None, cluster=cluster, user={})
        if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").is_file():
            return _in_cluster()
        looked = os.environ.get("KUBECONFIG") or str(_default())
        raise CollectError(
            f"no kubeconfig: there is no {looked}; set KUBECONFIG, or give --kubeconfig, or --snapshot to look at a saved cluster"
        )
    named, current = _merge(files)
    origin = files[0] if len(files) == 1 else os.pathsep.join(files)
    name = options.context or current
    context: Mapping[str, Any] = {}
    if name:
        context = _pick(named["contexts"], name, "context", origin)
    elif not (options.cluster or options.server):
        raise UsageError(f"{origin}: no current-context; name one with --context{_list_of(named['contexts'])}")
    cluster_name = options.cluster or context.get("cluster")
    user_name = options.user or context.get("user")
    if cluster_name:
        cluster = dict(_pick(named["clusters"], str(cluster_name), "cluster", origin))
    elif options.server:
        cluster = {}
    else:
        raise UsageError(f"{origin}: the context {name} names no cluster")
    user = dict(_pick(named["users"], str(user_name), "user", origin)) if user_name else {}
    if not (cluster.get("server") or options.server):
        raise UsageError(f"{origin}: the cluster {cluster_name} has no server")
    overridden = bool(options.cluster or options.user or options.server)
    return _Where(
        name=str(name or cluster_name or options.server),
        origin=origin,
        who=f"the user {user_name}" if user_name else "nobody",
        namespace=context.get("namespace"),
        cluster=cluster,
        user=user,
        files=tuple(files),
        persists="auth-provider" in user and not overridden and not options.token,
    )


def _in_cluster() -> _Where:
    file = SERVICE_ACCOUNT / "namespace"
    namespace = file.read_text(encoding="utf-8").strip() if file.is_file() else None
    origin = f"the service account in {SERVICE_ACCOUNT}"
    return _Where(name="in-cluster", origin=origin, who=origin, namespace=namespace, cluster={}, user={}, in_cluster=True)


def _kubeconfig_files(options: KubeOptions) -> list[str]:
    """The files to merge. One that --kubeconfig names has to exist; KUBECONFIG may name some that do not."""
    if options.kubeconfig:
        if not (file := expand(options.kubeconfig)).is_file():
            raise UsageError(f"--kubeconfig {options.kubeconfig}: there is no such file")
        return [str(file)]
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    paths = [expand(name) for name in named if name]
    if not paths:
        try:
            paths = [_default()]
        except CollectError:
            # Without a home folder there is no such file; --server, or a pod's service account, may do without it.
            if not options.server and not os.environ.get("KUBERNETES_SERVICE_HOST"):
                raise
    return [str(path) for path in paths if path.is_file()]


def _default() -> Path:
    return expand("~/.kube/config", "name the file with --kubeconfig or KUBECONFIG")


def kubeconfig_names(kind: str, kubeconfig: str | None = None) -> list[str]:
    """Names of the `contexts`, `clusters` or `users` that the kubeconfig has. Raises UsageError, CollectError.

    Without the kubernetes package, for which nobody who presses the tab key should wait.
    """
    import yaml  # noqa: PLC0415 # comes with the kubernetes package

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, None] = {}
    for file in _kubeconfig_files(KubeOptions(kubeconfig=kubeconfig)):
        try:
            read = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 # a safe loader, both
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CollectError(f"{file}: no kubeconfig: {_one_line(str(error))}") from error
        entries = read.get(kind) if isinstance(read, dict) else None
        found |= dict.fromkeys(str(entry["name"]) for entry in entries or () if isinstance(entry, dict) and "name" in entry)
    return sorted(found)


_Named = dict[str, dict[str, Mapping[str, Any]]]


def _merge(files: Sequence[str]) -> tuple[_Named, str | None]:
    """What the files hold, by kind and name; and the current context. The first file to set a value wins."""
    from kubernetes.config import kube_config  # noqa: PLC0415 # as in _reload

    merger: Any = kube_config.KubeConfigMerger
    named: _Named = {"contexts": {}, "clusters": {}, "users": {}}
    current: str | None = None
    for file in files:
        try:
            read = merger(file).config_files.get(file)
        except Exception as error:  # it raises whatever YAML, the disk and malformed entries make it raise
            raise CollectError(f"{file}: no kubeconfig: {_one_line(str(error)) or type(error).__name__}") from error
        if not isinstance(read, dict):
            raise CollectError(f"{file}: no kubeconfig: it holds no mapping")
        current = current or read.get("current-context") or None
        for kind, known in named.items():
            for entry in read.get(kind) or ():
                inner = entry.get(kind[:-1]) or {} if isinstance(entry, dict) else None
                if not isinstance(inner, dict) or "name" not in entry:
                    raise CollectError(f"{file}: no kubeconfig: an entry of its {kind} has no name, or is no mapping")
                known.setdefault(str(entry["name"]), _absolute(inner, Path(file).resolve().parent))
    return named, current


def _absolute(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths of a kubeconfig are relative to its file, whoever reads it, wherever."""
    made = dict(entry)
    for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
        if made.get(key):
            made[key] = str(folder / str(made[key]))
    plugin = made.get("exec")
    if isinstance(plugin, dict) and "/" in str(plugin.get("command", "")):
        made["exec"] = {**plugin, "command": str(folder / str(plugin["command"]))}
    return made


def _pick(named: Mapping[str, Mapping[str, Any]], name: str, kind: str, origin: str) -> Mapping[str, Any]:
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"{origin}: no {kind} {name!r}{hint}{_list_of(named)}")
    return named[name]


def _list_of(named: Mapping[str, object], most: int = 12) -> str:
    if not named:
        return "; there are none"
    names = sorted(named)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"; there are: {', '.join(names[:most])}{more}"


def _server(options: KubeOptions) -> str:
    server = (options.server or "").rstrip("/")
    return server if "://" in server else f"https://{server}"


def _configure(where: _Where, options: KubeOptions) -> tuple[Any, list[str]]:
    """The package's Configuration for a cluster and an identity, and what it complained about on the way."""
    from kubernetes import client  # noqa: PLC0415 # as in _reload
    from kubernetes import config as untyped  # noqa: PLC0415

    config: Any = untyped
    made = client.Configuration()
    cluster, user = dict(where.cluster), dict(where.user)
    if options.server:
        cluster["server"] = _server(options)
    if options.certificate_authority:
        cluster.pop("certificate-authority-data", None)
        cluster["certificate-authority"] = options.certificate_authority
        cluster.pop("insecure-skip-tls-verify", None)
        if not Path(options.certificate_authority).is_file():
            raise UsageError(f"--certificate-authority {options.certificate_authority}: there is no such file")
    if options.insecure_skip_tls_verify:
        cluster["insecure-skip-tls-verify"] = True
    if options.tls_server_name:
        cluster["tls-server-name"] = options.tls_server_name
    if options.token:
        # The token given is the credential: no plugin is run, no password sent. Client certificates stay, as in kubectl.
        user = {key: value for key, value in user.items() if key.startswith("client-")}
    kept_in_memory = _keys_in_memory()
    with _complaints() as complaints:
        try:
            if where.in_cluster:
                config.load_incluster_config(client_configuration=made)
            elif where.persists:
                config.load_kube_config(config_file=os.pathsep.join(where.files), context=where.name, client_configuration=made)
            else:
                whole = {
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                    "clusters": [{"name": "it", "cluster": cluster}],
                    "users": [{"name": "it", "user": user or {"none": ""}}],
                }
                config.load_kube_config_from_dict(whole, context="it", client_configuration=made)
        except Exception as error:  # ConfigException, and what files, base64 and YAML make it raise
            raise CollectError(f"{where.origin}: cannot be used: {_one_line(str(error))}") from error
        finally:
            kept_in_memory.close()
    plugin = user.get("exec")
    if isinstance(plugin, dict) and not made.api_key and not made.cert_file:
        why = complaints[-1] if complaints else "it gave no credential"
        hint = f"; {_one_line(str(plugin['installHint']))}" if plugin.get("installHint") else ""
        command = plugin.get("command")
        raise CollectError(f"{where.origin}: the credential plugin {command} of {where.who} failed: {why}{hint}")
    if not made.verify_ssl:
        import urllib3  # noqa: PLC0415 # comes with the kubernetes package

        # The user asked for it; once a request would be a page of warnings.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if proxy := options.proxy or cluster.get("proxy-url"):
        made.proxy = str(proxy)
    return made, complaints


def _keys_in_memory() -> ExitStack:
    """Until it is closed, what a kubeconfig holds inline (client keys above all) is kept in memory instead of in /tmp.

    The package writes it into a temporary file, which stays when the process is killed. A file of memfd_create(2) goes with the
    process, and has a path that OpenSSL can open. Where there are none (macOS) the package's files are used, which are removed
    when the process ends, by SIGTERM too (cli/process.py).
    """
    from kubernetes.config import kube_config  # noqa: PLC0415 # as in _reload

    stack = ExitStack()
    usual = getattr(kube_config, "_create_temp_file_with_content", None)
    if usual is None or not hasattr(os, "memfd_create"):
        return stack
    made: dict[bytes, str] = {}

    def in_memory(content: str | bytes, *_: object, **__: object) -> str:
        data = content.encode() if isinstance(content, str) else content
        if data not in made:
            descriptor = os.memfd_create("svcroute")
            os.write(descriptor, data)
            made[data] = f"/proc/self/fd/{descriptor}"
        return made[data]

    kube_config._create_temp_file_with_content = in_memory
    stack.callback(setattr, kube_config, "_create_temp_file_with_content", usual)
    return stack


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the package logs meanwhile: it reports a failing credential plugin to the root logger, and goes on."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                found.append(_one_line(record.getMessage())[:300])

    handler = Keep()
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


def _impersonation(user: Mapping[str, Any], options: KubeOptions) -> list[tuple[str, str]]:
    """Headers that make the server take us for somebody else, from the kubeconfig and, before it, from the options.

    client-go refuses groups, a uid or extra fields without a user, and so does this.
    """
    name = options.as_user or user.get("as")
    groups = options.as_groups or tuple(user.get("as-groups") or ())
    uid = options.as_uid or user.get("as-uid")
    extra: Mapping[str, Sequence[str]] = user.get("as-user-extra") or {}
    if not name:
        if groups or uid or extra:
            raise UsageError("--as-group and --as-uid need --as: there is nobody to be a member")
        return []
    headers = [("Impersonate-User", str(name))]
    if uid:
        headers.append(("Impersonate-Uid", str(uid)))
    headers += [("Impersonate-Group", str(group)) for group in groups]
    for key, values in extra.items():
        # client-go, transport/round_trippers.go, headerKeyEscape.
        escaped = quote(str(key).lower(), safe="!#$&'*+-.^_`|~")
        headers += [(f"Impersonate-Extra-{escaped}", str(value)) for value in values]
    return headers


def _status(body: bytes) -> dict[str, Any]:
    """The Status object of an error, as far as there is one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After: 3` or a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After") or ""
    if value.isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.1)
    except (TypeError, ValueError):
        return None


def _one_line(text: str) -> str:
    """Text from elsewhere as one line without control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _tls(detail: str) -> str:
    """The part of OpenSSL's error that says what is wrong: `certificate verify failed: self-signed certificate`."""
    found = re.search(r"\[SSL[^\]]*\] (.*?)(?: \(_ssl\.c:\d+\))?['\")]*$", detail)
    return found.group(1) if found else detail


def _bare(url: str) -> str:
    """A URL without the password that a proxy's may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


# What an audit reads -------------------------------------------------------------------------------------------------


class Resource(NamedTuple):
    """A kind of object that is listed."""

    key: str
    group: str
    """API group and version: `v1` for the core group."""
    plural: str
    namespaced: bool

    @property
    def name(self) -> str:
        """`endpointslices.discovery.k8s.io`: as RBAC's messages and `kubectl auth can-i` have it."""
        group = self.group.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural

    def path(self, namespace: str | None = None) -> str:
        """Where it is listed: in one namespace, or in all."""
        root = f"/apis/{self.group}" if "/" in self.group else f"/api/{self.group}"
        return f"{root}/namespaces/{quote(namespace)}/{self.plural}" if namespace else f"{root}/{self.plural}"


SERVICES = Resource("services", "v1", "services", True)
ENDPOINTSLICES = Resource("endpointslices", "discovery.k8s.io/v1", "endpointslices", True)
ENDPOINTS = Resource("endpoints", "v1", "endpoints", True)
PODS = Resource("pods", "v1", "pods", True)
NODES = Resource("nodes", "v1", "nodes", False)
NAMESPACES = Resource("namespaces", "v1", "namespaces", False)
DAEMONSETS = Resource("daemonsets", "apps/v1", "daemonsets", True)
CONFIG_MAPS = ("kube-proxy", "kube-proxy-config")
"""Where kube-proxy's configuration is: kubeadm's name, and that of EKS, whose `kube-proxy` holds a kubeconfig only."""


def collect_api(
    api: KubeApi,
    *,
    namespaces: Sequence[str] | None = None,
    wide: bool = True,
    cached: bool = False,
    endpoints: bool | None = None,
) -> ApiObjects:
    """Read what an audit needs.

    `namespaces`: those that are asked about; None: all. Lists are read from all namespaces where that is allowed,
    because a node's rules are about all of them, and from these where it is not; `wide=False` reads from these at once.
    `cached`: from the API server's cache. `endpoints`: whether to read Endpoints beside EndpointSlices; None: when a
    node's kube-proxy is of 1.20 or older, or the API has no EndpointSlices.

    What may not be listed is in `denied`. Raises CollectError when Services or Nodes may not: there is nothing to audit.
    """
    reader = _Reader(api, namespaces, wide, cached)
    nodes = reader.must(NODES)
    objects: dict[str, Any] = {"nodes": nodes, "services": reader.must(SERVICES)}
    for resource in (ENDPOINTSLICES, PODS):
        if (found := reader.may(resource)) is not None:
            objects[resource.key] = found
    # Kept for whoever reads the snapshot. No check depends on it: not to see it leaves nothing unverified.
    if (found := reader.may(NAMESPACES, note=False)) is not None:
        objects["namespaces"] = found
    if endpoints is None:
        missing = "endpointslices" not in objects and not reader.denies(ENDPOINTSLICES)
        endpoints = missing or any(_reads_endpoints(node) for node in nodes["items"])
    if endpoints and (found := reader.may(ENDPOINTS)) is not None:
        objects["endpoints"] = found
    if (found := reader.may(DAEMONSETS, only="kube-system")) is not None:
        objects["daemonsets"] = found
    if (found := reader.config_map()) is not None:
        objects["configmap-kube-proxy"] = found
    if (found := reader.version()) is not None:
        objects["version"] = found
    return ApiObjects(objects=objects, denied=tuple(reader.denied), namespace=reader.narrowed)


class _Reader:
    def __init__(self, api: KubeApi, namespaces: Sequence[str] | None, wide: bool, cached: bool) -> None:
        self._api = api
        self._namespaces = None if namespaces is None else sorted(set(namespaces))
        self._wide = wide
        self._cached = cached
        self._denied: dict[str, list[Unverified]] = {}
        self.narrowed: str | None = None
        """The namespaces that Services or their endpoints were read from, when not all."""

    @property
    def denied(self) -> list[Unverified]:
        return [one for some in self._denied.values() for one in some]

    def denies(self, resource: Resource) -> bool:
        return resource.key in self._denied

    def must(self, resource: Resource) -> dict[str, Any]:
        found = self.may(resource)
        if found is None:
            scope = f"in the namespace {', '.join(self._namespaces or ())}" if self._scoped(resource) else "in all namespaces"
            where = f" {scope}" if resource.namespaced else ""
            group = resource.group.rpartition("/")[0]
            raise CollectError(
                f'{self._api.context_name}: we may not list {resource.plural} in the API group "{group}"{where}: '
                f"ask for the ClusterRole of {RBAC_DOC}"
            )
        return found

    def may(self, resource: Resource, *, only: str | None = None, note: bool = True) -> dict[str, Any] | None:
        """A List, or None when it is denied (which is noted, unless not) or the API has no such resource."""
        if only is not None:
            return self._from(resource, [only])
        if not resource.namespaced or self._wide or self._namespaces is None:
            try:
                return self._api.list(resource.path(), resource.key, cached=self._cached)
            except ApiError as error:
                if error.status == 404:
                    return None
                if error.status != 403:
                    raise
                if not self._scoped(resource):
                    if note:
                        self._deny(resource, None)
                    return None
        return self._from(resource, self._namespaces or [])

    def _scoped(self, resource: Resource) -> bool:
        return resource.namespaced and bool(self._namespaces)

    def _from(self, resource: Resource, namespaces: Sequence[str]) -> dict[str, Any] | None:
        whole: dict[str, Any] | None = None
        for namespace in namespaces:
            try:
                part = self._api.list(resource.path(namespace), resource.key, cached=self._cached)
            except ApiError as error:
                if error.status == 404:
                    continue
                if error.status != 403:
                    raise
                self._deny(resource, namespace)
                continue
            whole = part if whole is None else {**whole, "items": whole["items"] + part["items"]}
        if resource in (SERVICES, ENDPOINTSLICES, ENDPOINTS):
            self.narrowed = ",".join(namespaces)
        return whole

    def config_map(self) -> dict[str, Any] | None:
        """kube-proxy's ConfigMap. Not every cluster has one: some set flags instead."""
        found: dict[str, Any] | None = None
        for name in CONFIG_MAPS:
            try:
                read = project("configmap-kube-proxy", self._api.get(f"/api/v1/namespaces/kube-system/configmaps/{name}"))
            except ApiError as error:
                if error.status == 403:
                    self._note("configmaps", f"needs verb get on resource configmaps named {name}", "kube-system")
                    break
                if error.status != 404:
                    raise
                continue
            found = read if found is None or read.get("data") else found
            if found.get("data"):
                break
        return found

    def version(self) -> dict[str, Any] | None:
        try:
            found = self._api.get("/version")
        except ApiError as error:
            if error.status in (403, 404):
                return None
            raise
        return found if isinstance(found, dict) else None

    def _deny(self, resource: Resource, namespace: str | None) -> None:
        self._note(resource.key, f"needs verb list on resource {resource.name}", namespace, resource.namespaced)

    def _note(self, key: str, needs: str, namespace: str | None, namespaced: bool = True) -> None:
        where = f" in namespace {namespace}" if namespace else " in all namespaces" if namespaced else ""
        reason = f"not allowed: {needs}{where}; {RBAC_DOC} has the ClusterRole"
        self._denied.setdefault(key, []).append(Unverified(code="SR907", node=None, reason=reason))


def _reads_endpoints(node: Mapping[str, Any]) -> bool:
    """Whether a node's kube-proxy, taken to be of its kubelet's version, is of 1.20 or older."""
    version = str(((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""))
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (int(found.group(1)), int(found.group(2))) <= (1, 20)
