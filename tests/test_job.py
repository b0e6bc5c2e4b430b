"""A run inside the cluster: manifests that Kubernetes takes, pods that do what they say, and reports that come back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from api_server import ApiServer, rules_of
from captured import faulty

from kubectl_svcroute.shards import manifests as made
from kubectl_svcroute.shards.manifests import CLUSTER_RULES, CONFIG_RULES, EXEC_RULES, Plan, arguments, manifests

NAME, FAULT = "v1.36-iptables-nft", "missing-endpoint"
ROOT = Path(__file__).parent.parent
VERSIONS = ("1.29", "1.31", "1.33", "1.35", "1.37")
"""From the first on the API server knows backoffLimitPerIndex without being asked to."""
PLANS = {
    "exec": Plan(),
    "ssh": Plan(via="ssh", shards=40),
    "local": Plan(via="local"),
    "nightly": Plan(schedule="17 3 * * *", name="nightly", namespace="audit", words=("web", "-n", "shop")),
}


def of_kind(plan: Plan, *kinds: str) -> list[dict[str, Any]]:
    return [found for found in manifests(plan) if found["kind"] in kinds]


def pod_of(plan: Plan) -> dict[str, Any]:
    (workload,) = of_kind(plan, "Job", "CronJob", "DaemonSet")
    spec = workload["spec"].get("jobTemplate", workload)["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


# ---- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("plan", PLANS)
def test_kubernetes_knows_every_field(plan: str, version: str) -> None:
    """The published OpenAPI schemas of five versions take every manifest, and know every field in it."""
    for found in yaml.safe_load_all(yaml.safe_dump_all(manifests(PLANS[plan]))):
        kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_do_refuse() -> None:
    """A field with a wrong name, and one with a wrong type, are refused: the test above can fail."""
    for change in ({"completions": "many"}, {"compleetions": 3}):
        (job,) = of_kind(Plan(), "Job")
        job["spec"] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job, VERSIONS[0], strict=True)


def test_nothing_is_granted_that_people_do_not_need() -> None:
    """The service account may do what docs/rbac.yaml grants to people who read by the same way, and only read."""
    documents = {d["metadata"]["name"]: d for d in yaml.safe_load_all((ROOT / "docs" / "rbac.yaml").read_text()) if d}

    def pairs(rules: Any) -> set[tuple[str, str, str, str]]:
        return {
            (group, resource, verb, name)
            for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]
            for verb in rule["verbs"] for name in rule.get("resourceNames", ["*"])
        }  # fmt: skip

    for mine, theirs in (
        (CLUSTER_RULES, "svcroute-reader"), (CONFIG_RULES, "svcroute-kube-proxy-reader"), (EXEC_RULES, "svcroute-exec"),
    ):  # fmt: skip
        assert pairs(mine) <= pairs(documents[theirs]["rules"])
    for name, plan in PLANS.items():
        granted = pairs([rule for role in of_kind(plan, "ClusterRole", "Role") for rule in role["rules"]])
        assert ("", "pods/exec", "create", "*") in granted or plan.via != "exec", name
        assert {verb for _, resource, verb, _ in granted if resource != "pods/exec"} <= {"get", "list"}
        assert not any(resource == "pods/exec" for _, resource, _, _ in granted) or plan.via == "exec"
        assert not any(resource == "secrets" for _, resource, _, _ in granted)


@pytest.mark.parametrize("plan", PLANS)
def test_pods_keep_to_their_level(plan: str) -> None:
    """By exec and SSH a pod meets the Pod Security level `restricted`; locally it has the host's network and two capabilities."""
    pod, local = pod_of(PLANS[plan]), PLANS[plan].via == "local"
    (namespace,) = of_kind(PLANS[plan], "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == ("privileged" if local else "restricted")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        reads = local and container["name"] == made.CONTAINER
        assert security["capabilities"].get("add") == (["NET_ADMIN", "NET_RAW"] if reads else None)
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
    assert bool(pod.get("hostNetwork")) is local
    assert not {"hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    if not local:
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("plan", PLANS)
def test_the_command_line_in_it_is_one(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program takes the pod's arguments as they stand in the manifest."""
    from kubectl_svcroute.cli.root import check
    from kubectl_svcroute.run.settings import settings

    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    found = settings(check.make_context("check", list(arguments(PLANS[plan]))).params)
    assert found.cached
    assert found.via == PLANS[plan].via
    assert found.shard is not None
    assert found.shard.count == (0 if found.via == "local" else PLANS[plan].shards)


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes no sense together is an error with status 2; nothing is printed then."""
    from kubectl_svcroute.cli import main

    for words, says in (
        (["--via", "local", "--schedule", "@daily"], "--schedule"),
        (["web"], "-n"),
        (["-o", "json"], "--collect"),
        (["web", "-n", "shop", "-l", "a=b"], "not both"),
        (["--shards", "0"], "--shards"),
    ):
        monkeypatch.setattr("sys.argv", ["kubectl-svcroute", "job", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        assert ended.value.code == 2, words
        assert says in said.err
        assert not said.out


# ---- what it does ----------------------------------------------------------------------------------------------------


def why_not() -> str:
    """Why pods cannot be played here; empty when they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, for mount namespaces"
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    return ""


class Pods:
    """Pods of a Job in a cluster of one HTTPS API server, which runs the node script in kube-proxy's pods."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api = api
        self.folder = folder
        account = folder / "account"
        account.mkdir()
        (account / "token").write_text("pod")
        (account / "namespace").write_text("svcroute")
        shutil.copy(api.pki.ca, account / "ca.crt")
        self.account = account
        quiet = folder / "site"
        quiet.mkdir()
        # The pause before the start is for API servers with much to do.
        (quiet / "sitecustomize.py").write_text("import random\nrandom.uniform = lambda low, high: low\n")
        try_it = ["setpriv", "--reuid", str(made.USER), "--clear-groups", sys.executable, "-c", "import kubectl_svcroute.cli"]
        allowed = subprocess.run(try_it, capture_output=True, check=False, cwd="/").returncode == 0
        self.uid = made.USER if allowed else 0  # a Python in root's own folder is root's alone

    def start(self, container: dict[str, Any], words: list[str], index: int) -> subprocess.Popen[str]:
        """Start one pod's container."""
        scratch = self.folder / f"pod{len(list(self.folder.glob('pod*')))}"
        scratch.mkdir()
        scratch.chmod(0o755)
        env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        env |= {
            "PATH": os.environ["PATH"], "JOB_COMPLETION_INDEX": str(index), "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.api.port), "PYTHONPATH": f"{self.folder / 'site'}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        command = ["unshare", "--mount", str(ROOT / "tests" / "in_pod.sh"), str(self.account), str(scratch), str(self.uid), "-"]
        return subprocess.Popen(
            [*command, sys.executable, "-m", "kubectl_svcroute", *words], env=env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def message(self, number: int) -> str:
        return (self.folder / f"pod{number}" / "termination-log").read_text()


@pytest.fixture(scope="module")
def pods() -> Iterator[Pods]:
    """The cluster, with the service account's permissions."""
    folder = Path(tempfile.mkdtemp(prefix="svcroute-job-"))  # pytest's own folders are for their owner alone, pods are nobody
    folder.chmod(0o755)
    roles = folder / "roles.yaml"
    roles.write_text(yaml.safe_dump_all(of_kind(Plan(shards=3), "ClusterRole", "Role")))
    with ApiServer(faulty(NAME, FAULT), tokens={"pod": "system:serviceaccount:svcroute:svcroute"}, rules=rules_of(roles)) as api:
        for at, node in enumerate(api.objects["nodes"]):
            # kube-proxy ran outside of pods where this was captured.
            api.objects["pods"].append({
                "metadata": {"name": f"kube-proxy-{at}", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
                "spec": {"nodeName": node["metadata"]["name"], "hostNetwork": True, "containers": [{"name": "kube-proxy"}]},
                "status": {"phase": "Running"},
            })  # fmt: skip
        yield Pods(api, folder)
    shutil.rmtree(folder)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")
def test_the_job_does_what_one_run_does(pods: Pods, tmp_path: Path) -> None:
    """Every pod's command line as it stands in the manifest, all at once, as the service account: merged, one run's bytes.

    The pods' logs and termination messages are what `job --collect` finds; a pod that is gone leaves its nodes not verified.
    """
    plan = Plan(shards=3)
    (container,) = pod_of(plan)["containers"]
    running = [pods.start(container, container["args"], index) for index in range(3)]
    one = pods.start(container, ["-A", "--via", "exec", "--cached", "-o", f"json={pods.folder / 'pod3' / 'tmp' / 'one.json'}"], 0)
    logs = [pod.communicate(timeout=120)[0] for pod in running]
    said = one.communicate(timeout=120)[0]
    assert one.returncode == 1, said
    # One of the parts has no node: it proves nothing, and says so.
    assert sorted({pod.returncode for pod in running} - {0}) == [1, 3], logs
    whole = (pods.folder / "pod3" / "tmp" / "one.json").read_text()
    assert json.loads(whole)["summary"]["nodesVerified"] == 5, whole
    for index in range(3):
        assert pods.message(index).startswith(f"shard {index + 1}/3: ")
        assert len(pods.message(index).encode()) <= 4096

    def pod(index: int, name: str, created: str, code: int) -> dict[str, Any]:
        over = {"terminated": {"exitCode": code, "message": "shard"}}
        return {
            "metadata": {
                "name": name, "namespace": "svcroute", "creationTimestamp": created,
                "labels": {**made.NAME_LABEL, "app.kubernetes.io/instance": "svcroute", "job-name": "svcroute"},
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            },
            "spec": {"nodeName": f"n{index}"},
            "status": {"phase": "Failed", "containerStatuses": [{"name": made.CONTAINER, "state": over}]},
        }  # fmt: skip

    def collect(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kubectl_svcroute", "job", "--collect", "--kubeconfig", str(config), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    codes = [found.returncode for found in running]
    objects = {"pods": [pod(n, f"svcroute-{n}-x", f"2026-01-01T00:00:1{n}Z", code) for n, code in enumerate(codes)]}
    # A pod that could not run at all came first; another run was there before.
    objects["pods"].append(pod(1, "svcroute-1-first", "2026-01-01T00:00:01Z", 2))
    old = pod(0, "old-0", "2025-01-01T00:00:00Z", 0)
    old["metadata"]["labels"]["job-name"] = "old"
    objects["pods"].append(old)
    with ApiServer(objects) as admin:
        config = admin.kubeconfig(tmp_path / "config")
        admin.logs = {("svcroute", f"svcroute-{n}-x"): log for n, log in enumerate(logs)}
        admin.logs["svcroute", "svcroute-1-first"] = "error: no API server\n"
        admin.logs["svcroute", "old-0"] = "something else\n"
        merged = collect("-o", "json")
        assert merged.returncode == 1, merged.stderr
        assert merged.stdout == whole
        del admin.logs["svcroute", "svcroute-1-x"]
        partial = collect("-o", "json", "--fail-on", "never")
        report = json.loads(partial.stdout)
        gone = [u["node"] for u in report["unverified"] if u["code"] == "SR910"]
        assert gone
        assert "svcroute-1-x" in partial.stderr
        assert collect("--name", "nobody").returncode == 2
    cached = [r for r in pods.api.log if r.path.endswith("/services") and r.query.get("resourceVersion") == "0"]
    assert len(cached) == 4
    # The pods that found something read again, past the cache.
    assert [r for r in pods.api.log if r.path.endswith("/services") and "resourceVersion" not in r.query]


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")
def test_two_capabilities_are_enough_to_read_a_node(tmp_path: Path) -> None:
    """`--via local` reads both of iptables' backends and nftables with NET_ADMIN and NET_RAW; without either it is refused."""
    for tool in ("iptables-nft-save", "iptables-legacy-save", "nft"):
        if shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"needs {tool}")
    rules = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
    program = (
        # Root may write into /dev, where the termination log is mounted: it cannot be replaced.
        "from kubectl_svcroute.run.output_file import write_file\n"
        "write_file('/dev/termination-log', 'a message', 'it')\n"
        "from kubectl_svcroute.collect.transports import LocalReader\n"
        "from kubectl_svcroute.collect.fanout import NodeTarget\n"
        "found = LocalReader(command_timeout=60).read(NodeTarget(name='n1'))\n"
        "print(sorted(n for n, t in found.files.items() if 'KUBE-SERVICES' in t or 'kube-proxy' in t)"
        " if hasattr(found, 'files') else found.reason)\n"
    )
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "token").write_text("x")
    (tmp_path / "rules").write_text(rules)
    pod = f"{ROOT / 'tests' / 'in_pod.sh'} {tmp_path / 'account'} {tmp_path} 0"
    setup = (
        f"hostname n1; ip link set lo up; iptables-nft-restore <{tmp_path / 'rules'};"
        f" iptables-legacy-restore <{tmp_path / 'rules'}; nft add table ip kube-proxy;"
    )

    def read(capabilities: str) -> str:
        line = f"{setup} exec {pod} {capabilities} {sys.executable} -c \"$PROGRAM\""
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--uts", "sh", "-c", line], capture_output=True, text=True, check=False, timeout=90,
            env={**os.environ, "PROGRAM": program, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "tmp")},
        )  # fmt: skip
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr

    both = read("net_admin,net_raw")
    assert "'iptables-save.txt'" in both
    legacy = subprocess.run(["unshare", "--net", "iptables-legacy-save", "-t", "nat"], capture_output=True, check=False)
    if legacy.returncode == 0:  # kernels from 6.17 on can be built without its tables
        assert "'iptables-legacy-save.txt'" in both or "'iptables-nft-save.txt'" in both
    assert "'nft-ruleset.json'" in both
    assert (tmp_path / "termination-log").read_text() == "a message"
    assert "no rules could be read" in read("-")
