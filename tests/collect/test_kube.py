"""The API as it is read: as whom, from where, how it fails, and what of it is kept."""

from __future__ import annotations

import base64
import datetime
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer, ConnectProxy, Rule, exec_plugin, rules_of
from captured import CAPTURES, capture

from kubectl_svcroute import __version__
from kubectl_svcroute.collect import kube
from kubectl_svcroute.collect.interning import Shared
from kubectl_svcroute.collect.kube import ApiError, KubeOptions, collect_api, connect
from kubectl_svcroute.collect.projection import project
from kubectl_svcroute.collect.refresh import changed_services, is_gone, refresh
from kubectl_svcroute.collect.spool import Spool
from kubectl_svcroute.errors import CollectError, UsageError
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def nobody_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the kubeconfig, the proxy or the service account of the machine that it runs on."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(capture("v1.36-iptables-nft")) as running:
        yield running


@pytest.fixture
def config(server: ApiServer, tmp_path: Path) -> str:
    return str(server.kubeconfig(tmp_path / "config"))


def many(count: int) -> list[dict[str, Any]]:
    return [{"metadata": {"name": f"s{i}", "namespace": "default", "resourceVersion": "1"}} for i in range(count)]


def connected(server: ApiServer, folder: Path) -> kube.KubeApi:
    return connect(KubeOptions(kubeconfig=str(server.kubeconfig(folder / "c"))))


def paths(server: ApiServer) -> list[str]:
    return [request.path for request in server.log]


# What is read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURES)
def test_cluster_is_read_whole(tmp_path: Path, name: str) -> None:
    """Every object of a cluster arrives as the server has it, but for what the projection drops; and only by GET."""
    root = capture(name)
    with ApiServer(root) as server, connected(server, tmp_path) as api:
        found = collect_api(api)
    assert found.denied == ()
    assert found.namespace is None
    for key in ("services", "endpointslices", "pods", "nodes", "namespaces"):
        captured = json.loads((root / "api" / f"{key}.json").read_text())
        assert found.objects[key]["items"] == [project(key, item) for item in captured["items"]]
        assert found.objects[key]["kind"] == captured["kind"]
        assert found.objects[key]["apiVersion"] == captured["apiVersion"]
        assert found.objects[key]["metadata"]["resourceVersion"]
    assert found.objects["version"] == json.loads((root / "api/version.json").read_text())
    assert found.objects["configmap-kube-proxy"]["data"]
    assert {request.method for request in server.log} == {"GET"}


def test_endpoints_are_read_for_old_kube_proxies_only(tmp_path: Path) -> None:
    """Endpoints repeat what the slices say, and are read where a kube-proxy of 1.20 or older goes by them."""
    for name in CAPTURES:
        with ApiServer(capture(name)) as server:
            options = KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "c")))
            with connect(options) as api:
                assert ("endpoints" in collect_api(api).objects) is name.startswith("v1.17"), name
                assert "endpoints" in collect_api(api, endpoints=True).objects
                assert "endpoints" not in collect_api(api, endpoints=False).objects


def test_endpoints_stand_in_for_slices_that_the_api_lacks(tmp_path: Path) -> None:
    """An API without EndpointSlices is read by its Endpoints, and nothing is called denied."""
    with ApiServer(capture("v1.36-nftables"), without=["discovery.k8s.io/v1"]) as server, connected(server, tmp_path) as api:
        found = collect_api(api)
    assert "endpointslices" not in found.objects
    assert found.items("endpoints")
    assert found.denied == ()


def test_lists_come_in_pages(tmp_path: Path) -> None:
    """Twelve hundred Services come in pages of 500, in order, each once."""
    with ApiServer({"services": many(1200)}) as server, connected(server, tmp_path) as api:
        found = api.list("/api/v1/services", "services")
    assert [item["metadata"]["name"] for item in found["items"]] == [f"s{i}" for i in range(1200)]
    assert found["kind"] == "ServiceList"
    assert [request.query.get("limit") for request in server.log] == ["500"] * 3
    assert [("continue" in request.query) for request in server.log] == [False, True, True]


def test_cached_reads_ask_the_watch_cache(tmp_path: Path) -> None:
    """`cached` asks for resourceVersion 0, which the server answers from memory, and in one piece."""
    with ApiServer({"services": many(1200)}) as server, connected(server, tmp_path) as api:
        assert len(api.list("/api/v1/services", "services", cached=True)["items"]) == 1200
    assert [request.query["resourceVersion"] for request in server.log] == ["0"]


@pytest.mark.parametrize(("times", "limits"), [(1, ["500"] * 5), (3, ["500"] * 6 + [None]), (99, ["500"] * 6 + [None])])
def test_expired_list_is_begun_again(tmp_path: Path, times: int, limits: list[str | None]) -> None:
    """When the server forgot the moment of a List, it is begun again, and after some times asked for whole."""
    with ApiServer({"services": many(1200)}) as server:
        server.expire_continues(times)
        with connected(server, tmp_path) as api:
            found = api.list("/api/v1/services", "services")
    assert [item["metadata"]["name"] for item in found["items"]] == [f"s{i}" for i in range(1200)]
    assert [request.query.get("limit") for request in server.log] == limits


def test_requests_say_who_asks(server: ApiServer, config: str) -> None:
    """Each request names this program and its version, and takes compressed answers."""
    with connect(KubeOptions(kubeconfig=config)) as api:
        collect_api(api)
    for request in server.log:
        assert request.header("User-Agent") == [f"kubectl-svcroute/{__version__}"]
        assert request.header("Accept-Encoding") == ["gzip"]
        assert request.user == "alice"


def test_kube_proxy_of_eks_is_found(tmp_path: Path) -> None:
    """EKS keeps the configuration in `kube-proxy-config`; its `kube-proxy` holds a kubeconfig, which is not kept."""
    maps: list[dict[str, Any]] = [
        {"metadata": {"name": "kube-proxy", "namespace": "kube-system"}, "data": {"kubeconfig": "token: SECRET"}},
        {"metadata": {"name": "kube-proxy-config", "namespace": "kube-system"}, "data": {"config": "mode: iptables"}},
    ]
    for served, expected in ((maps, {"config": "mode: iptables"}), (maps[:1], {}), ([], None)):
        with ApiServer({"configmaps": served}) as server, connected(server, tmp_path) as api:
            found = collect_api(api).objects.get("configmap-kube-proxy")
        assert (found and found["data"]) == expected


def test_flags_of_kube_proxy_are_found(tmp_path: Path) -> None:
    """The DaemonSets of kube-system come with images and arguments, and without environment."""
    container = {"name": "kube-proxy", "image": "kube-proxy:v1.36.2", "command": ["kube-proxy", "--v=2"]}
    template = {"spec": {"containers": [{**container, "env": [{"name": "A", "value": "SECRET"}]}]}}
    sets = [
        {"metadata": {"name": "kube-proxy", "namespace": "kube-system"}, "spec": {"template": template}},
        {"metadata": {"name": "other", "namespace": "default"}, "spec": {"template": template}},
    ]
    with ApiServer({"daemonsets": sets}) as server, connected(server, tmp_path) as api:
        (found,) = collect_api(api).items("daemonsets")
    assert found["spec"]["template"]["spec"]["containers"] == [container]


# What is allowed -----------------------------------------------------------------------------------------------------

READER = ("svcroute-reader", "svcroute-kube-proxy-reader")


def test_documented_permissions_suffice(tmp_path: Path) -> None:
    """With docs/rbac.yaml, and nothing else, all is read of any cluster."""
    rules = rules_of(DOCS / "rbac.yaml", *READER)
    for name in ("v1.17-iptables-legacy", "v1.36-nftables"):
        with ApiServer(capture(name), rules=rules) as server, connected(server, tmp_path) as api:
            allowed = collect_api(api)
        with ApiServer(capture(name)) as server, connected(server, tmp_path) as api:
            assert collect_api(api) == allowed
        assert allowed.denied == ()


def test_documented_permissions_are_the_least() -> None:
    """Nothing but reading is granted, except the Role for exec, which stands alone."""
    assert {verb for rule in rules_of(DOCS / "rbac.yaml", *READER) for verb in rule.verbs} == {"get", "list"}
    (alone,) = rules_of(DOCS / "rbac.yaml", "svcroute-exec")
    assert (alone.resources, alone.verbs, alone.namespace) == (("pods/exec",), ("get", "create"), "kube-system")


def less(*resources: str) -> list[Rule]:
    """The documented rules without some resources."""
    rules = rules_of(DOCS / "rbac.yaml", *READER)
    return [Rule(r.groups, tuple(x for x in r.resources if x not in resources), r.verbs, r.names, r.namespace) for r in rules]


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ("endpointslices", "needs verb list on resource endpointslices.discovery.k8s.io in all namespaces"),
        ("pods", "needs verb list on resource pods in all namespaces"),
        ("daemonsets", "needs verb list on resource daemonsets.apps in namespace kube-system"),
        ("configmaps", "needs verb get on resource configmaps named kube-proxy in namespace kube-system"),
        ("endpoints", "needs verb list on resource endpoints in all namespaces"),
    ],
)
def test_what_may_not_be_read_is_said(tmp_path: Path, resource: str, reason: str) -> None:
    """A List that is forbidden is one Unverified, which names the verb, the resource, the place and the remedy."""
    with ApiServer(capture("v1.17-iptables-legacy"), rules=less(resource)) as server, connected(server, tmp_path) as api:
        found = collect_api(api)
    (denied,) = found.denied
    assert (denied.code, denied.node) == ("SR907", None)
    assert reason in denied.reason
    assert "docs/rbac.md" in denied.reason
    assert resource not in found.objects


def test_unseen_namespaces_leave_nothing_unverified(tmp_path: Path) -> None:
    """No check looks at Namespaces: not to be allowed to list them is no reason to doubt an audit."""
    with ApiServer(capture("v1.36-nftables"), rules=less("namespaces")) as server, connected(server, tmp_path) as api:
        found = collect_api(api)
    assert found.denied == ()
    assert "namespaces" not in found.objects


@pytest.mark.parametrize("resource", ["services", "nodes"])
def test_without_services_or_nodes_there_is_no_audit(tmp_path: Path, resource: str) -> None:
    """Services and Nodes are needed: the error names what to ask for."""
    message = rf'list {resource} in the API group "".*docs/rbac\.md'
    with (
        ApiServer(capture("v1.36-nftables"), rules=less(resource)) as server,
        connected(server, tmp_path) as api,
        pytest.raises(CollectError, match=message),
    ):
        collect_api(api)


def test_role_in_one_namespace_is_used(tmp_path: Path) -> None:
    """Where only a namespace is allowed, it is read, and the reader is told that the rest was not."""
    rules = [
        Rule(("",), ("nodes",), ("list",)),
        Rule(("",), ("services",), ("list",), namespace="shop"),
        Rule(("discovery.k8s.io",), ("endpointslices",), ("list",), namespace="shop"),
    ]
    root = capture("v1.36-nftables")
    with ApiServer(root, rules=rules) as server, connected(server, tmp_path) as api:
        found = collect_api(api, namespaces=["shop"])
        with pytest.raises(CollectError, match=r"list services .* in the namespace default"):
            collect_api(api, namespaces=["default"])
        with pytest.raises(CollectError, match=r"list services .* in all namespaces"):
            collect_api(api)
    services = json.loads((root / "api/services.json").read_text())["items"]
    assert found.namespace == "shop"
    assert len(found.items("services")) == sum(s["metadata"]["namespace"] == "shop" for s in services) > 0
    assert [one.reason.partition(";")[0] for one in found.denied] == [
        "not allowed: needs verb list on resource pods in namespace shop",
        "not allowed: needs verb list on resource daemonsets.apps in namespace kube-system",
        "not allowed: needs verb get on resource configmaps named kube-proxy in namespace kube-system",
    ]


def test_narrow_reading_asks_for_its_namespace_at_once(server: ApiServer, config: str) -> None:
    """`wide=False` never lists all namespaces' Services."""
    with connect(KubeOptions(kubeconfig=config)) as api:
        assert collect_api(api, namespaces=["shop"], wide=False).namespace == "shop"
    assert "/api/v1/services" not in paths(server)
    assert "/api/v1/namespaces/shop/services" in paths(server)


# As whom -------------------------------------------------------------------------------------------------------------


def test_client_certificate(server: ApiServer, tmp_path: Path) -> None:
    """A kubeconfig with a client certificate is who its certificate says."""
    path = server.kubeconfig(tmp_path / "c", client_cert=True)
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["carol"]


def test_token_option_outranks_the_kubeconfig(server: ApiServer, tmp_path: Path) -> None:
    """With --token, the kubeconfig's credential plugin is not even run."""
    server.tokens["mine"] = "bob"
    path = server.kubeconfig(tmp_path / "c", plugin=exec_plugin(tmp_path, ["good"]))
    with connect(KubeOptions(kubeconfig=str(path), token="mine")) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["bob"]
    assert (tmp_path / "runs").read_text() == ""


def test_server_and_token_need_no_kubeconfig(server: ApiServer) -> None:
    """--server and --token are enough, as for kubectl."""
    options = KubeOptions(server=server.url, token="good", certificate_authority=str(server.pki.ca))
    with connect(options) as api:
        assert api.get("/version")["gitVersion"] == "v1.36.2"
        assert api.context_name == server.url


def test_server_option_keeps_the_users_identity(server: ApiServer, tmp_path: Path) -> None:
    """--server replaces the address alone: who we are still comes from ~/.kube/config, as with kubectl."""
    (tmp_path / "home" / ".kube").mkdir()
    path = server.kubeconfig(tmp_path / "home" / ".kube" / "config", cluster={"server": "https://127.0.0.1:1"})
    assert path.is_file()
    with connect(KubeOptions(server=server.url)) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["alice"]


@pytest.mark.parametrize("inside", [True, False])
def test_no_home_folder(inside: bool, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--server and a pod's service account need none; everybody else is told what to set."""
    monkeypatch.delenv("HOME")

    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    options = KubeOptions(server=server.url, token="good", certificate_authority=str(server.pki.ca))
    with connect(options) as api:
        assert api.get("/version")
    if inside:
        (tmp_path / "token").write_text("good")
        (tmp_path / "ca.crt").write_bytes(server.pki.ca.read_bytes())
        monkeypatch.setattr(kube, "SERVICE_ACCOUNT", tmp_path)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        assert kube._where(KubeOptions()).in_cluster
    else:
        with pytest.raises(CollectError, match="set HOME, or name the file with --kubeconfig or KUBECONFIG"):
            connect(KubeOptions())


def test_token_file(server: ApiServer, tmp_path: Path) -> None:
    """A relative tokenFile is relative to its kubeconfig, not to where we are."""
    (tmp_path / "token").write_text("good")
    path = server.kubeconfig(tmp_path / "c", token=None, user={"tokenFile": "token"})
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["alice"]


def test_credential_plugin_is_run_again_for_a_dead_token(server: ApiServer, tmp_path: Path) -> None:
    """A token that the server no longer takes is renewed once, unasked."""
    path = server.kubeconfig(tmp_path / "c", plugin=exec_plugin(tmp_path, ["old", "good"]))
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        assert api.get("/version")
        assert api.get("/version")
    assert [request.user for request in server.log] == [None, "alice", "alice"]
    assert (tmp_path / "runs").read_text() == "xx"


def test_expired_credential_is_renewed_before_it_is_sent(server: ApiServer, tmp_path: Path) -> None:
    """A credential whose time is over is renewed without troubling the server."""
    past = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = server.kubeconfig(tmp_path / "c", plugin=exec_plugin(tmp_path, ["old", "good"], expires=past))
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        assert api.get("/version")
    assert [request.user for request in server.log] == ["alice"]


def test_refused_credential_is_an_error_without_the_token(server: ApiServer, tmp_path: Path) -> None:
    """A wrong token ends in one line that names the user, and never the token."""
    path = server.kubeconfig(tmp_path / "c", token="s3cr3t")
    with connect(KubeOptions(kubeconfig=str(path))) as api, pytest.raises(ApiError) as caught:
        api.get("/version")
    assert caught.value.status == 401
    assert "does not accept the credentials of the user test-user: log in again" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.log) == 2
    assert "s3cr3t" not in repr(KubeOptions(token="s3cr3t"))


@pytest.mark.parametrize("token", ["s3cr3t\n", "s3c\r\nX-Evil: 1", "s3cr3t\x00", "s3cr3t\u2028"])
def test_a_token_that_no_header_can_hold_is_never_shown(server: ApiServer, token: str) -> None:
    """It was cut or copied with a line break: one line says so, without the token, and nothing is sent."""
    options = KubeOptions(server=server.url, token=token, certificate_authority=str(server.pki.ca))
    with connect(options) as api, pytest.raises(CollectError) as caught:
        api.get("/version")
    assert "s3c" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.log == []


@pytest.mark.parametrize("user", [{"token": "s3cr3t"}, {"username": "me", "password": "s3cr3t"}])
def test_no_credential_is_sent_in_the_clear(user: dict[str, str], tmp_path: Path) -> None:
    """To http:// goes what kubectl sends there: no credentials (client-go, IsConfigTransportTLS)."""
    plain = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
    }
    (tmp_path / "c").write_text(json.dumps(plain))
    for options in (KubeOptions(kubeconfig=str(tmp_path / "c")), KubeOptions(server="http://127.0.0.1:1", token="s3cr3t")):
        with connect(options) as api:
            assert [name for name, _ in api.headers()] == ["User-Agent"]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create (Linux)")
def test_an_inline_key_gets_into_no_file(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client certificate and key that stand in the kubeconfig stay in memory, and work."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = server.kubeconfig(tmp_path / "c")
    config = json.loads(json.dumps(yaml.safe_load(path.read_text())))
    authority = config["clusters"][0]["cluster"].pop("certificate-authority", None)
    if authority:
        config["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(Path(authority).read_bytes()).decode()
    path.write_text(json.dumps(config))
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        assert api.get("/version")
        assert str(api.configuration.ssl_ca_cert).startswith("/proc/self/fd/")


class _Pages(kube.KubeApi):
    """An API server that gives one page again and again."""

    def __init__(self, pages: list[dict[str, Any]]) -> None:
        self.given = iter(pages)

    @property
    def server(self) -> str:
        return "https://127.0.0.1:1"

    def _request(self, path: str, params: Any, accept: str) -> bytes:
        return json.dumps(next(self.given)).encode()


def test_pages_that_lead_on_to_each_other_end() -> None:
    page = {"kind": "ServiceList", "metadata": {"continue": "more"}, "items": []}
    with pytest.raises(CollectError, match="the List does not end"):
        _Pages([page] * 10).list("/api/v1/services", "services")


def test_a_list_of_other_objects_is_refused() -> None:
    """Pods where Services belong would be a cluster without any."""
    with pytest.raises(CollectError, match="the answer is a PodList, and not a List of Service"):
        _Pages([{"kind": "PodList", "metadata": {}, "items": []}]).list("/api/v1/services", "services")


def test_failing_credential_plugin_is_an_error(server: ApiServer, tmp_path: Path) -> None:
    """A credential plugin that fails is said, with its words and its hint: to go on as nobody would hide the cause."""
    failing = {**exec_plugin(tmp_path, [], status=3), "installHint": "get it from example.com"}
    missing = {**failing, "command": "no-such-plugin"}
    for plugin, message in (
        (failing, r"credential plugin .* of the user test-user failed: .*your session has ended; get it from example\.com"),
        (missing, r"credential plugin no-such-plugin of the user test-user failed: .*No such file"),
        ({**failing, "apiVersion": None, "args": []}, "credential plugin .* failed"),
    ):
        path = server.kubeconfig(tmp_path / "c", plugin=plugin)
        with pytest.raises(CollectError, match=message):
            connect(KubeOptions(kubeconfig=str(path)))
    assert server.log == []


def test_relative_credential_plugin(server: ApiServer, tmp_path: Path) -> None:
    """A plugin's command with a slash in it is relative to its kubeconfig."""
    plugin = exec_plugin(tmp_path, ["good"])
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {plugin["command"]} "$@"\n')
    wrapper.chmod(0o755)
    path = server.kubeconfig(tmp_path / "c", plugin={**plugin, "command": "./wrapper"})
    with connect(KubeOptions(kubeconfig=str(path))) as api:
        assert api.get("/version")


def test_impersonation_of_the_kubeconfig(server: ApiServer, tmp_path: Path) -> None:
    """`as`, `as-groups`, `as-uid` and `as-user-extra` are honoured: to ignore them is to act as somebody else."""
    user = {"as": "eve", "as-groups": ["a", "b"], "as-uid": "7", "as-user-extra": {"Ex.org/Scopes": ["x", "y"]}}
    path = str(server.kubeconfig(tmp_path / "c", user=user))
    with connect(KubeOptions(kubeconfig=path)) as api:
        api.get("/version")
    with connect(KubeOptions(kubeconfig=path, as_user="mallory", as_groups=("c",), as_uid="8")) as api:
        api.get("/version")
    first, second = server.log
    assert first.header("Impersonate-User") == ["eve"]
    assert first.header("Impersonate-Group") == ["a", "b"]
    assert first.header("Impersonate-Uid") == ["7"]
    assert first.header("Impersonate-Extra-ex.org%2Fscopes") == ["x", "y"]
    assert second.header("Impersonate-User") == ["mallory"]
    assert second.header("Impersonate-Group") == ["c"]
    assert second.header("Impersonate-Uid") == ["8"]


def test_groups_without_a_user_are_refused(config: str) -> None:
    """As kubectl, we do not act as a group of nobody."""
    with pytest.raises(UsageError, match="need --as"):
        connect(KubeOptions(kubeconfig=config, as_groups=("admins",)))


# Which cluster -------------------------------------------------------------------------------------------------------


def test_context_gives_the_namespace(server: ApiServer, tmp_path: Path) -> None:
    """Names without a namespace are in the option's, the context's, or `default`."""
    path = str(server.kubeconfig(tmp_path / "c", context="prod", namespace="shop"))
    with connect(KubeOptions(kubeconfig=path)) as api:
        assert (api.context_name, api.current_namespace) == ("prod", "shop")
    with connect(KubeOptions(kubeconfig=path, namespace="other")) as api:
        assert api.current_namespace == "other"
    with connect(KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "d")))) as api:
        assert api.current_namespace == "default"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "prdo"}, r"no context 'prdo'; did you mean prod\?; there are: prod"),
        ({"context": "x"}, r"no context 'x'; there are: prod"),
        ({"cluster": "prod-clustr"}, r"no cluster 'prod-clustr'; did you mean prod-cluster\?"),
        ({"user": "nobody"}, r"no user 'nobody'; there are: prod-user"),
        ({"kubeconfig": "/nowhere/config"}, "--kubeconfig /nowhere/config: there is no such file"),
        ({"certificate_authority": "/nowhere/ca"}, "--certificate-authority /nowhere/ca: there is no such file"),
    ],
)
def test_wrong_names_are_usage_errors(server: ApiServer, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """A name that does not exist is the user's to mend: it is named, with those that are near and those that are."""
    path = str(server.kubeconfig(tmp_path / "c", context="prod"))
    with pytest.raises(UsageError, match=message):
        connect(KubeOptions(**{"kubeconfig": path, **options}))


def test_cluster_and_user_can_be_chosen(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--cluster and --user outrank the context's; all files of KUBECONFIG are looked at, and the first word counts."""
    server.tokens["other"] = "dave"
    first = server.kubeconfig(tmp_path / "a", context="a", cluster={"server": "https://127.0.0.1:1"})
    second = server.kubeconfig(tmp_path / "b", context="b", token="other")
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(tmp_path / "missing"), str(first), str(second)]))
    with connect(KubeOptions()) as api:
        assert api.context_name == "a"
    with connect(KubeOptions(context="b")) as api:
        api.get("/version")
    with connect(KubeOptions(cluster="b-cluster", user="b-user")) as api:
        api.get("/version")
    with connect(KubeOptions(server=server.url, user="b-user")) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["dave"] * 3


def test_relative_paths_belong_to_their_file(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of a user and of a cluster in different files are each found beside the file that names them."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/ca.crt").write_bytes(server.pki.ca.read_bytes())
    (tmp_path / "two/me.crt").write_bytes(server.pki.client_cert.read_bytes())
    (tmp_path / "two/me.key").write_bytes(server.pki.client_key.read_bytes())
    one = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url, "certificate-authority": "ca.crt"}}],
    }
    two = {"users": [{"name": "u", "user": {"client-certificate": "me.crt", "client-key": "me.key"}}]}
    (tmp_path / "one/config").write_text(json.dumps(one))
    (tmp_path / "two/config").write_text(json.dumps(two))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/one/config{os.pathsep}{tmp_path}/two/config")
    with connect(KubeOptions()) as api:
        api.get("/version")
    assert [request.user for request in server.log] == ["carol"]


def test_default_kubeconfig_is_found(server: ApiServer, tmp_path: Path) -> None:
    """Without any option, ~/.kube/config is read."""
    (tmp_path / "home/.kube").mkdir()
    server.kubeconfig(tmp_path / "home/.kube/config")
    with connect(KubeOptions()) as api:
        assert api.get("/version")


def test_no_kubeconfig_is_said() -> None:
    """Without any configuration the error says where it was looked for, and what to do."""
    with pytest.raises(CollectError, match=r"no kubeconfig: there is no .*/home/\.kube/config; set KUBECONFIG"):
        connect(KubeOptions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "c: no kubeconfig: "),
        ("", "c: no kubeconfig: .*empty"),
        ("[]", "c: no kubeconfig"),
        ("clusters: [{}]", "c: no kubeconfig"),
        ("{}", "c: no current-context; name one with --context; there are none"),
        ("current-context: a", "c: no context 'a'; there are none"),
        ("{current-context: a, contexts: [{name: a, context: {cluster: c}}]}", "no cluster 'c'"),
        ("{current-context: a, contexts: [{name: a}]}", "the context a names no cluster"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: c}]}",
            "the cluster c has no server",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}],"
            " clusters: [{name: c, cluster: {server: 'https://x', certificate-authority: gone.crt}}]}",
            "cannot be used: .*gone.crt",
        ),
    ],
)
def test_bad_kubeconfig_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is wrong with a kubeconfig, the file is named, in one line."""
    (tmp_path / "c").write_text(text)
    with pytest.raises((CollectError, UsageError), match=message) as caught:
        connect(KubeOptions(kubeconfig=str(tmp_path / "c")))
    assert "\n" not in str(caught.value)


def test_service_account_is_the_last_resort(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod without a kubeconfig, its service account is used, in its namespace."""
    from kubernetes.config import incluster_config

    for name, text in (("token", "good"), ("namespace", "ops"), ("ca.crt", server.pki.ca.read_text())):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kube, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    with connect(KubeOptions()) as api:
        assert (api.context_name, api.current_namespace) == ("in-cluster", "ops")
        api.get("/version")
    assert [request.user for request in server.log] == ["alice"]


# How it fails --------------------------------------------------------------------------------------------------------


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def api(server: ApiServer, config: str, slept: list[float]) -> Iterator[kube.KubeApi]:
    with connect(KubeOptions(kubeconfig=config), sleep=slept.append) as made:
        yield made


def test_busy_server_is_asked_again_when_it_says(server: ApiServer, api: kube.KubeApi, slept: list[float]) -> None:
    """429 is not an error while time lasts: Retry-After is waited for, and not less."""
    server.inject(times=7, status=429, headers={"Retry-After": "3"})
    assert api.get("/version")
    assert len(slept) == 7
    assert min(slept) >= 3


def test_too_busy_server_is_an_error(server: ApiServer, api: kube.KubeApi, slept: list[float]) -> None:
    """A wait that is longer than the time left is not begun."""
    server.inject(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ApiError, match=r"too busy .*--request-timeout") as caught:
        api.get("/version")
    assert caught.value.status == 429
    assert slept == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_failing_server_is_asked_again(server: ApiServer, api: kube.KubeApi, slept: list[float], status: int) -> None:
    """A server that fails for a moment costs a moment; one that goes on failing is an error with its own words."""
    server.inject(times=3, status=status)
    assert api.get("/version")
    assert slept == sorted(slept)
    assert len(slept) == 3
    server.inject(times=99, status=status)
    with pytest.raises(ApiError, match=f"/version: the server answered {status}"):
        api.get("/version")
    assert len(server.log) == 4 + kube.MAX_TRIES


def test_answer_cut_off_is_asked_for_again(server: ApiServer, api: kube.KubeApi) -> None:
    """Half an answer is none: it is never parsed, and asked for again."""
    server.inject(times=2, cut=True)
    assert api.get("/version")["gitVersion"]
    server.inject(times=99, cut=True)
    with pytest.raises(CollectError, match="the connection ended before the answer did"):
        api.get("/version")


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_silent_server_is_given_up(server: ApiServer, config: str, fault: str) -> None:
    """A server that says nothing, or a byte now and then, is given up after --request-timeout."""
    server.inject(**{fault: True})  # type: ignore[arg-type]
    message = r"no whole answer within 0\.2 s: raise --request-timeout"
    options = KubeOptions(kubeconfig=config, request_timeout=0.2)
    with connect(options) as api, pytest.raises(CollectError, match=message):
        api.get("/version")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 200, "body": b"<html>Sign in</html>"}, "no JSON: is this the address of an API server, or of a proxy"),
        ({"status": 200, "body": b"{}"}, "the answer is no List"),
        ({"status": 302, "headers": {"Location": "https://example.com"}}, "sends us elsewhere"),
        ({"status": 418, "body": b"short\n\x1b[31mand stout"}, r"answered 418: short \[31mand stout"),
        ({"status": 404}, "answered 404"),
        ({"status": 400}, "answered 400"),
        ({"status": 200, "body": b"junk", "headers": {"Content-Encoding": "gzip"}}, "https://127"),
    ],
)
def test_strange_answers_are_named(server: ApiServer, api: kube.KubeApi, fault: dict[str, Any], message: str) -> None:
    """What is no API server's answer is one line that says so, with the address, and nothing that a terminal obeys."""
    server.inject(**fault)
    with pytest.raises(CollectError, match=message) as caught:
        api.list("/api/v1/services", "services")
    assert server.url in str(caught.value)
    assert str(caught.value).isprintable()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_refused_connection(server: ApiServer, tmp_path: Path) -> None:
    """Nobody listens: said so, with the address and the kubeconfig that names it."""
    path = server.kubeconfig(tmp_path / "c", cluster={"server": f"https://127.0.0.1:{closed_port()}"})
    with (
        connect(KubeOptions(kubeconfig=str(path))) as api,
        pytest.raises(CollectError, match=r"/c: https://127.0.0.1:\d+: connection refused: is the cluster running"),
    ):
        api.get("/version")


def test_unknown_host(server: ApiServer, tmp_path: Path) -> None:
    """A host name that does not resolve is not called an unreachable server."""
    path = server.kubeconfig(tmp_path / "c", cluster={"server": "https://api.invalid:6443"})
    with (
        connect(KubeOptions(kubeconfig=str(path))) as api,
        pytest.raises(CollectError, match=r"https://api\.invalid:6443: no connection: .*is the address right\?"),
    ):
        api.get("/version")


def test_untrusted_server(server: ApiServer, tmp_path: Path) -> None:
    """A certificate of somebody else's authority is refused, unless the user says not to look."""
    path = str(server.kubeconfig(tmp_path / "c", cluster={"certificate-authority": str(server.pki.other_ca)}))
    with (
        connect(KubeOptions(kubeconfig=path)) as api,
        pytest.raises(CollectError, match=r"no trust in the server \(certificate verify failed.*--certificate-auth"),
    ):
        api.get("/version")
    assert server.log == []
    for options in (
        KubeOptions(kubeconfig=path, insecure_skip_tls_verify=True),
        KubeOptions(kubeconfig=path, certificate_authority=str(server.pki.ca)),
    ):
        with connect(options) as api:
            assert api.get("/version")


def test_server_of_another_name(server: ApiServer, tmp_path: Path) -> None:
    """A certificate for another name is refused, and --tls-server-name says which to expect."""
    where = {"server": f"https://127.0.0.2:{server.port}"}
    path = str(server.kubeconfig(tmp_path / "c", cluster={**where, "tls-server-name": "wrong.test"}))
    with (
        connect(KubeOptions(kubeconfig=path, server=server.url)) as api,
        pytest.raises(CollectError, match=r"the server's certificate is for another name .*--tls-server-name"),
    ):
        api.get("/version")
    with connect(KubeOptions(kubeconfig=path, server=server.url, tls_server_name="kube.test")) as api:
        assert api.get("/version")


def test_proxy_is_used(server: ApiServer, tmp_path: Path) -> None:
    """The kubeconfig's `proxy-url` is honoured, and so is the option."""
    with ConnectProxy() as proxy:
        path = str(server.kubeconfig(tmp_path / "c", cluster={"proxy-url": proxy.url}))
        with connect(KubeOptions(kubeconfig=path)) as api:
            assert api.get("/version")
        assert proxy.targets == [f"127.0.0.1:{server.port}"]
        path = str(server.kubeconfig(tmp_path / "c", cluster={"proxy-url": "http://127.0.0.1:1"}))
        with connect(KubeOptions(kubeconfig=path, proxy=proxy.url)) as api:
            assert api.get("/version")
        assert len(proxy.targets) == 2


def test_dead_proxy_is_named(server: ApiServer, tmp_path: Path) -> None:
    """When it is the proxy that does not answer, it is the proxy that is named, without its password."""
    url = f"http://me:s3cr3t@127.0.0.1:{closed_port()}"
    path = str(server.kubeconfig(tmp_path / "c", cluster={"proxy-url": url}))
    with connect(KubeOptions(kubeconfig=path)) as api, pytest.raises(CollectError, match="through the proxy http") as caught:
        api.get("/version")
    assert "s3cr3t" not in str(caught.value)


def test_warnings_of_the_api_are_passed_on_once(server: ApiServer, config: str) -> None:
    """Each warning reaches the user once, however often it is sent, and as plain text."""
    server.warnings = ['v1 "Endpoints" is deprecated, in v1.33+', "second\\one"]
    heard: list[str] = []
    with connect(KubeOptions(kubeconfig=config), on_warning=heard.append) as api:
        collect_api(api)
    assert heard == server.warnings


def test_nothing_is_imported_before_it_is_needed() -> None:
    """Importing this module loads neither the kubernetes package nor urllib3: --help must not wait for them."""
    script = (
        "import sys, kubectl_svcroute.collect.kube; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'kubernetes', 'urllib3', 'yaml', 'pydantic'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The second look -----------------------------------------------------------------------------------------------------


def test_unchanged_cluster_has_no_changed_services(api: kube.KubeApi) -> None:
    """Two readings of a cluster at rest are the same."""
    assert changed_services(collect_api(api), collect_api(api)) == set()


def test_changes_are_noticed(server: ApiServer, api: kube.KubeApi) -> None:
    """A Service counts as changed when it, one of its slices or its Endpoints changed, came or went."""
    before = collect_api(api, endpoints=True)
    slices = {s["metadata"]["labels"]["kubernetes.io/service-name"]: s for s in server.objects["endpointslices"]}

    server.change("services", "kuard")
    assert changed_services(before, collect_api(api, endpoints=True)) == {"default/kuard"}
    before = collect_api(api, endpoints=True)
    server.change("endpointslices", slices["web"]["metadata"]["name"])
    assert changed_services(before, collect_api(api, endpoints=True)) == {"shop/web"}
    before = collect_api(api, endpoints=True)
    server.change("endpoints", "web")
    assert changed_services(before, collect_api(api, endpoints=True)) == {"shop/web"}
    before = collect_api(api, endpoints=True)
    server.objects["services"] = [s for s in server.objects["services"] if s["metadata"]["name"] != "kuard"]
    server.objects["endpointslices"].remove(slices["web"])
    after = collect_api(api, endpoints=True)
    assert changed_services(before, after) == changed_services(after, before) == {"default/kuard", "shop/web"}


def test_slices_of_no_service_change_nothing() -> None:
    """Slices and Endpoints that belong to no Service, such as those used for leader election, are nobody's change."""

    def state(version: str) -> ApiObjects:
        thing = {"metadata": {"name": "lease", "namespace": "kube-system", "resourceVersion": version}}
        return ApiObjects(objects={k: {"items": [thing]} for k in ("endpoints", "endpointslices")})

    assert changed_services(state("1"), state("2")) == set()


# -- a second look ------------------------------------------------------------------------------------------------------


def test_a_second_look_asks_for_what_is_asked_about(tmp_path: Path) -> None:
    """Few Services are asked for one by one, by selector; the answer is the whole of a new reading all the same."""
    with ApiServer(capture("v1.36-iptables-nft")) as server, connect(
        KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "config")))
    ) as api:
        before = collect_api(api)
        slices = [i["metadata"]["name"] for i in before.items("endpointslices")]
        kuard = next(name for name in slices if name.startswith("kuard-"))
        for _ in range(2):
            server.log.clear()
            assert changed_services(before, refresh(api, before, frozenset({"default/kuard"}))) == set()
            assert {r.path.rpartition("/")[2] for r in server.log} == {"services", "endpointslices"}
            assert all("/namespaces/default/" in r.path and "kuard" in " ".join(r.query.values()) for r in server.log)
        server.change("endpointslices", kuard)
        after = refresh(api, before, frozenset({"default/kuard"}))
        assert changed_services(before, after) == {"default/kuard"}
        for key in ("services", "endpointslices"):
            names = sorted(str(i["metadata"]["name"]) for i in after.items(key))
            assert names == sorted(str(i["metadata"]["name"]) for i in before.items(key))
        # What did not change is not held twice.
        assert after.objects["pods"] is before.objects["pods"]
        assert {id(i) for i in before.items("services")} >= {id(i) for i in after.items("services")[:-1]}
        server.objects["services"] = [i for i in server.objects["services"] if i["metadata"]["name"] != "kuard"]
        gone = refresh(api, before, frozenset({"default/kuard"}))
        assert changed_services(before, gone) == {"default/kuard"}
        assert "kuard" not in {i["metadata"]["name"] for i in gone.items("services")}
        server.log.clear()
        assert changed_services(before, refresh(api, before, None)) == {"default/kuard"}
        assert [r.path for r in server.log] == ["/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"]


def test_a_pod_that_came_meanwhile_is_known(tmp_path: Path) -> None:
    """An endpoint that is a pod of after the first reading has its pod read: where pods have no network, addresses tell them."""
    with ApiServer(capture("v1.36-iptables-nft")) as server, connect(
        KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "config")))
    ) as api:
        pods = server.objects["pods"]
        late = next(pod for pod in pods if pod["metadata"]["name"].startswith("kuard-"))
        server.objects["pods"] = [pod for pod in pods if pod is not late]
        before = collect_api(api)
        server.objects["pods"] = pods
        kuard = next(i["metadata"]["name"] for i in before.items("endpointslices") if i["metadata"]["name"].startswith("kuard-"))
        server.change("endpointslices", kuard)
        after = refresh(api, before, frozenset({"default/kuard"}))
        assert late["metadata"]["name"] in {pod["metadata"]["name"] for pod in after.items("pods")}
        assert len(after.items("pods")) == len(pods)


def test_a_node_that_is_gone(tmp_path: Path) -> None:
    """A Node that the API does not have is gone; one that it does not let us see is not."""
    with ApiServer(capture("v1.36-iptables-nft")) as server, connect(
        KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "config")))
    ) as api:
        name = server.objects["nodes"][0]["metadata"]["name"]
        assert not is_gone(api, name)
        assert is_gone(api, "elsewhere")
        server.rules = []
        with pytest.raises(ApiError):
            is_gone(api, "elsewhere")


def test_outcomes_come_back_from_disk_as_they_were() -> None:
    """What is kept between two passes comes back whole, one at a time, and nothing is left on the disk."""
    outcomes: list[NodeOutcome] = [
        NodeDump(node="a", files={"x": "text\n\x00\udcff", "y": ""}, via="ssh", taken=1.5),
        Unreachable(node="b", reason="no", via="exec"),
    ]
    with Spool() as spool:
        folder = Path(spool._folder.name)
        assert list(spool.keep(outcomes)) == outcomes
        assert folder.stat().st_mode & 0o077 == 0
        assert list(spool.outcomes()) == outcomes
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def test_what_repeats_is_held_once(tmp_path: Path) -> None:
    """Equal labels, conditions and names of many pods and endpoints are one object in memory, and the objects say the same."""
    with ApiServer(capture("v1.36-iptables-nft")) as server, connect(
        KubeOptions(kubeconfig=str(server.kubeconfig(tmp_path / "config")))
    ) as api:
        read = collect_api(api)
        for key in ("pods", "endpointslices"):
            assert read.items(key) == [project(key, item) for item in server.objects[key]]
        ready = [pod["status"]["conditions"] for pod in read.items("pods")]
        assert len({id(found) for found in ready}) == len({json.dumps(found) for found in ready}) < len(ready)
        endpoints = [e for item in read.items("endpointslices") for e in item.get("endpoints") or ()]
        assert len({id(e["conditions"]) for e in endpoints}) == len({json.dumps(e["conditions"]) for e in endpoints})
    assert Shared().of("endpointslices", {"endpoints": [{"conditions": {"ready": 1}}, {"conditions": {"ready": True}}]}) == {
        "endpoints": [{"conditions": {"ready": 1}}, {"conditions": {"ready": True}}]
    }
