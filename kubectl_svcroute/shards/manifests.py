"""The manifests of a run inside the cluster, as plain objects: what `kubectl svcroute job` prints, and never applies.

By exec or SSH an Indexed Job (or a CronJob of one), whose pods each take a shard of the nodes. Locally a DaemonSet, because
that alone puts one pod on each node: its init container reads the node, and its container waits to be collected.

What differs from place to place is for kustomize: resources, node selectors, image, labels. What the program itself has to
know (how many shards, how nodes are read, which Services) are its options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..model.fast_dataclass import dataclass

IMAGE = f"ghcr.io/kubectl-svcroute/kubectl-svcroute:{__version__}"
CONTAINER = "svcroute"
NAME_LABEL = {"app.kubernetes.io/name": "svcroute"}
USER = 65532
"""Nobody in particular, in the image and outside of it."""
_MESSAGE = "/dev/termination-log"
_SSH = "/etc/svcroute/ssh"
_PARALLEL = 10
"""Pods of one Job at work at once: each reads all Services, EndpointSlices and pods of the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the run is to be."""

    name: str = "svcroute"
    namespace: str = "svcroute"
    image: str = IMAGE
    shards: int = 10
    via: str = "exec"
    """exec, ssh or local."""
    schedule: str = ""
    """Of a CronJob; empty for a Job that runs once."""
    ssh_secret: str = "svcroute-ssh"
    ssh_user: str = "root"
    words: tuple[str, ...] = ("-A",)
    """What is asked for, as on the command line."""


def manifests(plan: Plan) -> list[dict[str, Any]]:
    """Everything that the run needs, in the order in which it can be applied."""
    found = [_namespace(plan), _meta("v1", "ServiceAccount", plan), *_reading(plan)]
    if plan.via == "exec":
        found += _granted(plan, f"{plan.name}-exec", EXEC_RULES)
    if plan.via == "ssh":
        found.append({**_meta("v1", "ConfigMap", plan, name=f"{plan.name}-ssh-config"), "data": {"config": _ssh_config(plan)}})
    found.append(_daemon_set(plan) if plan.via == "local" else _cron_job(plan) if plan.schedule else _job(plan))
    return found


def _meta(version: str, kind: str, plan: Plan, *, name: str = "", namespace: str | None = "") -> dict[str, Any]:
    """The head of an object; namespace None: it has none."""
    metadata: dict[str, Any] = {"name": name or plan.name}
    if namespace is not None:
        metadata["namespace"] = namespace or plan.namespace
    return {"apiVersion": version, "kind": kind, "metadata": {**metadata, "labels": _labels(plan)}}


def _labels(plan: Plan) -> dict[str, str]:
    return {**NAME_LABEL, "app.kubernetes.io/instance": plan.name}


def _namespace(plan: Plan) -> dict[str, Any]:
    """Its own namespace, with the Pod Security level that the pods keep to, so that nothing else slips in beside them."""
    found = _meta("v1", "Namespace", plan, name=plan.namespace, namespace=None)
    level = "privileged" if plan.via == "local" else "restricted"
    found["metadata"]["labels"] |= {"pod-security.kubernetes.io/enforce": level}
    return found


# ---- what it may see -------------------------------------------------------------------------------------------------

CLUSTER_RULES: Sequence[Mapping[str, Sequence[str]]] = (
    {"apiGroups": [""], "resources": ["nodes", "services", "endpoints", "pods", "namespaces"], "verbs": ["list"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
)
CONFIG_RULES: Sequence[Mapping[str, Sequence[str]]] = (
    {
        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kube-proxy", "kube-proxy-config"], "verbs": ["get"],
    },
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["list"]},
)  # fmt: skip
# A websocket is opened with GET: up to 1.34 the API server asks for the verb `get` alone, from 1.35 on for `create`.
EXEC_RULES: Sequence[Mapping[str, Sequence[str]]] = (
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
)


def _reading(plan: Plan) -> list[dict[str, Any]]:
    """What docs/rbac.yaml grants to people, for the service account, and no more."""
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": plan.name, "namespace": plan.namespace}
    role = {**_meta(f"{rbac}/v1", "ClusterRole", plan, namespace=None), "rules": [dict(rule) for rule in CLUSTER_RULES]}
    binding = {
        **_meta(f"{rbac}/v1", "ClusterRoleBinding", plan, namespace=None),
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": plan.name},
        "subjects": [subject],
    }
    return [role, binding, *_granted(plan, f"{plan.name}-config", CONFIG_RULES)]


def _granted(plan: Plan, name: str, rules: Sequence[Mapping[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """A Role in kube-system, and its binding."""
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": plan.name, "namespace": plan.namespace}
    return [
        {**_meta(f"{rbac}/v1", "Role", plan, name=name, namespace="kube-system"), "rules": [dict(rule) for rule in rules]},
        {
            **_meta(f"{rbac}/v1", "RoleBinding", plan, name=name, namespace="kube-system"),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


# ---- what it runs ----------------------------------------------------------------------------------------------------


def arguments(plan: Plan) -> list[str]:
    """The command line of a pod. `$(NODE_NAME)` is Kubernetes' own way to name a variable, no shell's."""
    part = "node/$(NODE_NAME)" if plan.via == "local" else f"job/{plan.shards}"
    words = [*plan.words, "--via", plan.via, "--shard", part, "--cached"]
    # Every pod of a DaemonSet begins at once; of a Job a handful do.
    words += ["--jitter", "5m" if plan.via == "local" else "30s"]
    if plan.via == "ssh":
        words += ["--ssh-user", plan.ssh_user, "--ssh-config", f"{_SSH}/config/config", "--identity", f"{_SSH}/key/id"]
    if plan.via == "local":
        # An init container that fails is begun again; what it found is in its log.
        words += ["--fail-on", "never", "--allow-partial"]
    return [*words, "-o", "shard", "-o", f"brief={_MESSAGE}"]


def _container(plan: Plan) -> dict[str, Any]:
    local = plan.via == "local"
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if local:
        # The kernel shows its rules to NET_ADMIN alone, and iptables-legacy opens a raw socket to ask for them.
        capabilities["add"] = ["NET_ADMIN", "NET_RAW"]
    environment: list[dict[str, Any]] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - a volume of the pod's own
    if local:
        environment.append({"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - as above
    if plan.via == "ssh":
        mounts += [
            {"name": "ssh-key", "mountPath": f"{_SSH}/key", "readOnly": True},
            {"name": "ssh-config", "mountPath": f"{_SSH}/config", "readOnly": True},
        ]
    return {
        "name": CONTAINER,
        "image": plan.image,
        "args": arguments(plan),
        "env": environment,
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": capabilities,
            **({"runAsUser": 0} if local else {}),
        },
        "terminationMessagePath": _MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _pod(plan: Plan) -> dict[str, Any]:
    local = plan.via == "local"
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]
    if plan.via == "ssh":
        volumes += [
            {"name": "ssh-key", "secret": {"secretName": plan.ssh_secret, "defaultMode": 0o440}},
            {"name": "ssh-config", "configMap": {"name": f"{plan.name}-ssh-config"}},
        ]
    security: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if not local:
        security |= {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    spec: dict[str, Any] = {
        "serviceAccountName": plan.name,
        "enableServiceLinks": False,
        "securityContext": security,
        "volumes": volumes,
    }
    if local:
        waiting = {
            "name": "wait",
            "image": plan.image,
            "command": ["sleep", "infinity"],
            "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "16Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": True,
                "runAsUser": USER,
            },
        }
        return {
            **spec,
            "hostNetwork": True,
            "dnsPolicy": "Default",
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "initContainers": [_container(plan)],
            "containers": [waiting],
        }
    return {**spec, "restartPolicy": "Never", "containers": [_container(plan)]}


def _job_spec(plan: Plan) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": plan.shards,
        "parallelism": min(plan.shards, _PARALLEL),
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 86400,
        # Findings (1) and what could not be verified (3) are answers: the index has failed, and is not asked again. What
        # could not run at all (2) is tried once more, and a pod that was evicted as often as it takes.
        "backoffLimitPerIndex": 1,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailIndex", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [1, 3]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"metadata": {"labels": _labels(plan)}, "spec": _pod(plan)},
    }


def _job(plan: Plan) -> dict[str, Any]:
    return {**_meta("batch/v1", "Job", plan), "spec": _job_spec(plan)}


def _cron_job(plan: Plan) -> dict[str, Any]:
    spec = {
        "schedule": plan.schedule,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 300,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 2,
        "jobTemplate": {"metadata": {"labels": _labels(plan)}, "spec": _job_spec(plan)},
    }
    return {**_meta("batch/v1", "CronJob", plan), "spec": spec}


def _daemon_set(plan: Plan) -> dict[str, Any]:
    spec = {
        "selector": {"matchLabels": _labels(plan)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        "template": {"metadata": {"labels": _labels(plan)}, "spec": _pod(plan)},
    }
    return {**_meta("apps/v1", "DaemonSet", plan), "spec": spec}


def _ssh_config(plan: Plan) -> str:
    """How nodes are reached: their keys are in the Secret, and one that is not there is refused."""
    return f"""\
# Added to what kubectl svcroute is told on its command line. The Secret {plan.ssh_secret} holds `id`, a private key, and
# `known_hosts`, the nodes' own keys (ssh-keyscan prints them; compare before you trust them).
Host *
  UserKnownHostsFile {_SSH}/key/known_hosts
  StrictHostKeyChecking yes
"""
