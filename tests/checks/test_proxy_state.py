"""A kube-proxy that crashes, does not run, or cannot write: by the API, the node's processes, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.fast_dataclass import replace
from kubectl_svcroute.model.report import ExitCode, Finding
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeOutcome, Snapshot, Unreachable

NAME, NODE = "v1.36-iptables-nft", "kubworker3.prefetch.net"
NOW = 1795804800  # 2026-11-27T18:40:00Z


@cache
def snapshot() -> Snapshot:
    return load_snapshot(capture(NAME))


def with_pod(**status: Any) -> ApiObjects:
    """The capture's objects with this state of the node's kube-proxy container."""
    pod = {
        "metadata": {"name": "kube-proxy-x", "namespace": "kube-system"},
        "spec": {
            "nodeName": NODE,
            "hostNetwork": True,
            "containers": [{"name": "kube-proxy", "image": "registry.k8s.io/kube-proxy:v1.36.2"}],
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "kube-proxy", "ready": False, **status}]},
    }
    api = snapshot().api
    others = [item for item in api.items("pods") if not str(item["metadata"]["name"]).startswith("kube-proxy")]
    return replace(api, objects={**api.objects, "pods": {"items": [*others, pod]}})


def findings(api: ApiObjects, outcome: NodeOutcome | None = None, **files: str | None) -> tuple[list[Finding], ExitCode]:
    if outcome is None:
        dump = next(found for handle in snapshot().nodes if handle.node == NODE if isinstance(found := handle.read(), NodeDump))
        every = {**dump.files, **{name.replace("_", ".").replace("-", "-"): text for name, text in files.items()}}
        outcome = NodeDump(node=NODE, files={name: text for name, text in every.items() if text is not None})
    report = Audit(api, Selection()).report([outcome])
    return [f for f in report.findings if f.severity.value != "info"], report.exit_code()


def ended(code: int, start: str, end: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": "Error", "startedAt": start, "finishedAt": end}}


CRASHED = ended(1, "2026-11-27T18:38:00Z", "2026-11-27T18:38:30Z")
LONG = ended(255, "2026-11-20T00:00:00Z", "2026-11-27T18:30:00Z")
CONTAINERS: dict[str, tuple[dict[str, Any], str]] = {
    "runs": ({"state": {"running": {"startedAt": "2026-11-20T00:00:00Z"}}, "restartCount": 0}, ""),
    "backs off": ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 12, "lastState": CRASHED}, "SR609"),
    "backs off, first": ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1}, "SR609"),
    "between crashes": (
        {"state": {"running": {"startedAt": "2026-11-27T18:39:00Z"}}, "restartCount": 5, "lastState": CRASHED}, "SR609",
    ),
    "just crashed again": ({"state": CRASHED, "restartCount": 5}, "SR609"),
    "crashed once": ({"state": CRASHED, "restartCount": 0}, ""),
    "crashed long ago": (
        {"state": {"running": {"startedAt": "2026-11-27T10:00:00Z"}}, "restartCount": 5, "lastState": CRASHED}, "",
    ),
    "the node was booted": (
        {"state": {"running": {"startedAt": "2026-11-27T18:39:00Z"}}, "restartCount": 9, "lastState": LONG}, "",
    ),
    "is being made": ({"state": {"waiting": {"reason": "ContainerCreating"}}, "restartCount": 0}, ""),
    "no image": ({"state": {"waiting": {"reason": "ImagePullBackOff"}}, "restartCount": 0}, "SR610"),
    "no config": ({"state": {"waiting": {"reason": "CreateContainerConfigError"}}, "restartCount": 0}, "SR610"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_api_says_how_kube_proxy_fares(name: str) -> None:
    """A container that crashes again and again, or cannot be started, is the node's finding; a healthy rollout is none."""
    status, code = CONTAINERS[name]
    found, _ = findings(with_pod(**status), clock_txt=f"{NOW}\n")
    assert [(f.code, f.node, f.severity.value) for f in found] == ([(code, NODE, "warning")] if code else [])


def test_a_node_that_was_not_read_has_it_too() -> None:
    """Where the pod is the way in, its crashes are the reason: named beside the node that is not verified."""
    status, code = CONTAINERS["backs off"]
    found, status_ = findings(with_pod(**status), Unreachable(node=NODE, reason="exec: …", via="exec"))
    assert [f.code for f in found] == [code]
    assert "CrashLoopBackOff, restarted 12 times, its last run ended with Error, exit code 1" in found[0].message
    assert status_ is ExitCode.FINDINGS


PROCESS = "kube-proxy process: none\n"
DEAF = "not read: proxy-mode.txt: nothing answers\nnot read: healthz.json: ended with status 7\n"
SILENT = {"proxy-mode_txt": None, "healthz_json": None}
TOOLS = {
    "dead": (PROCESS + DEAF, SILENT, ["SR610"]),
    "answers": (PROCESS, {}, []),
    "health check answers": (PROCESS + "not read: proxy-mode.txt: nothing answers\n", {"proxy-mode_txt": None}, []),
    "a process, and no answer": ("kube-proxy process: /proc/7\n" + DEAF, SILENT, []),
    "in a container": ("kube-proxy process: unknown\n" + DEAF, SILENT, []),
    "within k3s": ("kube-proxy process: embedded\n" + DEAF, SILENT, []),
    "nothing to ask with": (PROCESS + "not read: proxy-mode.txt: neither curl nor wget on this node\n", SILENT, []),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_dead_kube_proxy_with_right_rules_is_a_warning(name: str) -> None:
    """No process, and no answer anywhere: changes do not reach the node, though every rule is right."""
    tools, files, codes = TOOLS[name]
    found, _ = findings(snapshot().api, tools_txt=tools, **files)
    assert [f.code for f in found] == codes


QUEUED = (
    f"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{ip_family=\"IPv4\"}} {NOW - 100}\n"
    f"kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"IPv4\"}} {NOW - 900}\n"
)
FAILED = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv4\"} 57\n"
FAILED_NFT = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 5.7e+01\n"
STATES: dict[str, tuple[dict[str, str | None], str]] = {
    "runs": ({}, "kube-proxy fixes this"),
    "fails": ({"metrics_txt": QUEUED + FAILED, "clock_txt": f"{NOW}\n"}, "neither a change nor a restart fixes this"),
    "fails in nftables": ({"metrics_txt": QUEUED + FAILED_NFT, "clock_txt": f"{NOW}\n"}, "neither a change nor a restart"),
    "is behind": ({"metrics_txt": QUEUED, "clock_txt": f"{NOW}\n"}, "another change need not fix this"),
    "failed long ago": ({"metrics_txt": FAILED, "clock_txt": f"{NOW}\n"}, "kube-proxy fixes this"),
    "is dead": ({"tools_txt": PROCESS + DEAF, **SILENT}, "no kube-proxy runs on this node"),
}


@pytest.mark.parametrize("name", STATES)
def test_no_finding_says_that_a_kube_proxy_that_cannot_write_will_fix_it(name: str) -> None:
    """The advice of a fault in the rules depends on what is known of kube-proxy itself."""
    files, says = STATES[name]
    dump = next(found for handle in snapshot().nodes if handle.node == NODE if isinstance(found := handle.read(), NodeDump))
    nat = dump.files["iptables-save.txt"]
    rule = next(line for line in nat.splitlines() if line.startswith("-A PREROUTING") and "KUBE-SERVICES" in line)
    found, _ = findings(snapshot().api, **{"iptables-save_txt": nat.replace(rule + "\n", "")}, **files)
    (fault,) = [f for f in found if f.code == "SR103"]
    assert says in fault.heals
    if name != "runs" and "long ago" not in name:
        assert "kube-proxy fixes this" not in fault.heals


def flushed(name: str, text: str) -> str:
    """What `iptables -t nat -F`, or `nft flush table ip kube-proxy`, leaves: chains, sets and maps, and no rule."""
    if "nftables" in name:
        items = json.loads(text)["nftables"]
        kept = [item for item in items if "rule" not in item or item["rule"]["family"] != "ip"]
        return json.dumps({"nftables": kept})
    head, start, rest = text.partition("*nat\n")
    nat, end, tail = rest.partition("COMMIT\n")
    return head + start + "".join(line for line in nat.splitlines(keepends=True) if not line.startswith("-A ")) + end + tail


def deleted(name: str, text: str) -> str:
    """What is left when the chains are gone too: `iptables -t nat -X`, `nft delete table ip kube-proxy`."""
    if "nftables" in name:
        items = json.loads(text)["nftables"]
        kept = [item for item in items if all(thing.get("family") != "ip" for thing in item.values())]
        return json.dumps({"nftables": kept})
    head, start, rest = flushed(name, text).partition("*nat\n")
    nat, end, tail = rest.partition("COMMIT\n")
    return head + start + "".join(line for line in nat.splitlines(keepends=True) if not line.startswith(":KUBE-")) + end + tail


FLUSHED = {
    # As seen on a cluster: after a flush two changes made no full sync; where chains are gone, a partial sync fails.
    ("v1.36-iptables-nft", flushed): "kube-proxy fixes this at its next full sync (within an hour)",
    ("v1.36-nftables", flushed): "kube-proxy fixes this at its next full sync (within an hour)",
    ("v1.31-nftables", flushed): "kube-proxy does not fix this by itself (this version makes no full sync by itself)",
    ("v1.28-iptables-legacy", flushed): "kube-proxy does not fix this by itself (this version makes no full sync by itself)",
    ("v1.23-iptables-nft", flushed): "kube-proxy fixes this at the next change of any Service or endpoint",
    ("v1.36-iptables-nft", deleted): "kube-proxy fixes this at the next change of any Service or endpoint",
    ("v1.36-nftables", deleted): "kube-proxy fixes this at the next change of any Service or endpoint",
}


@pytest.mark.parametrize(("name", "edit"), FLUSHED, ids=lambda given: getattr(given, "__name__", given))
def test_a_flush_heals_as_the_version_does_it(name: str, edit: Callable[[str, str], str]) -> None:
    """SR106 names what is left: empty chains wait for a full sync, and chains that are gone bring one about."""
    whole = load_snapshot(capture(name))
    dump = next(found for handle in whole.nodes if isinstance(found := handle.read(), NodeDump))
    file = "nft-ruleset.json" if "nftables" in name else "iptables-save.txt"
    files = {key: text for key, text in dump.files.items() if key != "nft-ruleset.txt"}
    files[file] = edit(name, files[file])
    report = Audit(whole.api, Selection()).report([NodeDump(node=dump.node, files=files)])
    (found,) = [f for f in report.findings if f.code == "SR106"]
    assert found.heals.startswith(FLUSHED[name, edit])
