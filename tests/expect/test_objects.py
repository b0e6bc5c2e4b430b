"""Which API objects kube-proxy takes into account, by version: labels, types, copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.expect.versions import behaviour
from kubectl_svcroute.model.cluster import ProxyConfig
from kubectl_svcroute.model.fast_dataclass import replace
from kubectl_svcroute.model.report import Report
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump, Snapshot
from kubectl_svcroute.parse.kube_objects import parse_node, parse_service

OLD, MID, NEW = "v1.17-iptables-legacy", "v1.28-iptables-legacy", "v1.36-iptables-nft"
NAMED, HEADLESS = "service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"
Objects = dict[str, Any]


@cache
def snapshot(name: str) -> Snapshot:
    return load_snapshot(capture(name))


def audited(name: str, edit: Callable[[Objects], None], change: Callable[[str], str] = str) -> Report:
    """The audit of kubworker3, with the API's objects and its iptables-save edited."""
    whole = snapshot(name)
    objects = copy.deepcopy(dict(whole.api.objects))
    edit(objects)
    dump = next(d for handle in whole.nodes if handle.node.startswith("kubworker3") if isinstance(d := handle.read(), NodeDump))
    files = {**dump.files, "iptables-save.txt": change(dump.files["iptables-save.txt"])}
    selection = Selection(services=frozenset(["default/kuard"]))
    return Audit(replace(whole.api, objects=objects), selection).report([NodeDump(node=dump.node, files=files)])


def codes(report: Report) -> list[str]:
    assert report.unverified == ()
    return sorted({f.code for f in report.findings if f.severity.value != "info"})


def of(objects: Objects, kind: str, name: str = "kuard") -> Objects:
    """The object of a kind that is kuard's."""
    return next(
        item
        for item in objects[kind]["items"]
        if item["metadata"]["name"] == name or (item["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name
    )


def another_slice(objects: Objects, *, label: str = "", first: bool = False, **conditions: bool) -> None:
    """A further slice of kuard with a copy of its first endpoint (under these conditions), or with a stranger's address."""
    piece = copy.deepcopy(of(objects, "endpointslices"))
    piece["metadata"]["name"] = "kuard-0" if first else "kuard-zzzzz"
    piece["endpoints"] = piece["endpoints"][:1]
    if conditions:
        piece["endpoints"][0]["conditions"] = conditions
    else:
        piece["endpoints"][0]["addresses"] = ["10.244.9.9"]
    if label:
        piece["metadata"]["labels"][label] = ""
    objects["endpointslices"]["items"].append(piece)


@pytest.mark.parametrize(("name", "label", "wanted"), [
    (MID, "", ["SR201"]), (MID, NAMED, []), (MID, HEADLESS, []),
    (NEW, "", ["SR201"]), (NEW, NAMED, ["SR201"]), (NEW, HEADLESS, []),
])  # fmt: skip
def test_labels_hide_slices_by_version(name: str, label: str, wanted: list[str]) -> None:
    """kube-proxy up to 1.35 never receives a slice of another proxy, none ever uses a headless one, and 1.36 reads the first."""
    assert codes(audited(name, lambda objects: another_slice(objects, label=label))) == wanted


@pytest.mark.parametrize(("label", "hidden"), [("", False), (NAMED, True), (HEADLESS, True), ("app", False)])
def test_labels_hide_endpoints_too(label: str, hidden: bool) -> None:
    """Where Endpoints are read, one that is hidden leaves the Service without any, and its rules lead astray."""

    def edit(objects: Objects) -> None:
        of(objects, "endpoints")["metadata"].setdefault("labels", {})[label] = ""

    assert ("SR202" in codes(audited(OLD, edit)) or "SR204" in codes(audited(OLD, edit))) is hidden


def test_only_the_zone_label_of_today_is_a_zone() -> None:
    """The label failure-domain.beta.kubernetes.io/zone is not read by kube-proxy, alone or beside the other."""
    old, new = "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"
    for labels, zone in (({old: "a"}, ""), ({new: "b"}, "b"), ({old: "a", new: "b"}, "b"), ({}, "")):
        assert parse_node({"metadata": {"name": "n", "labels": labels}}).zone == zone


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_load_balancer_addresses_are_served_whatever_the_type(kind: str) -> None:
    """kube-proxy programs what the status has, and closes it to other sources, without asking for the Service's type."""
    spec = {"type": kind, "clusterIP": "10.96.0.9", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "x"}]}}
    service = parse_service({"metadata": {"namespace": "a", "name": "b"}, "spec": spec, "status": status})
    assert (service.load_balancer_ips, service.source_ranges) == ((("203.0.113.7", ""),), ("192.0.2.0/24",))

    def edit(objects: Objects) -> None:
        of(objects, "services")["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}

    report = audited(MID, edit)
    assert codes(report) == ["SR101"]
    assert any("203.0.113.7" in (f.frontend or "") for f in report.findings)


def test_who_reads_slices() -> None:
    """EndpointSliceProxying: off up to 1.18, on from 1.19, a matter of course from 1.22."""
    for minor in range(14, 37):
        for gate, wanted in ((None, minor >= 19), (True, True), (False, minor >= 22)):
            gates = {} if gate is None else {"EndpointSliceProxying": gate}
            config = ProxyConfig(version=(1, minor), feature_gates=gates)
            assert behaviour(config, mode="iptables").reads_slices is wanted


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("name", "conditions", "either"), [
    # What a copy may be beside a ready one, and whether kube-proxy may have taken either.
    (MID, {"ready": True, "serving": True}, False),
    (MID, {"ready": False, "serving": False}, True),
    (MID, {"ready": False, "serving": True, "terminating": True}, True),
    (NEW, {"ready": False, "serving": False}, True),
    (NEW, {"ready": False, "serving": True, "terminating": True}, False),
])  # fmt: skip
def test_of_two_copies_either_may_count(name: str, conditions: dict[str, bool], either: bool, first: bool) -> None:
    """kube-proxy meets slices in any order: up to 1.35 it may have taken either copy; from 1.36 on the one that lasts."""

    def edit(objects: Objects) -> None:
        another_slice(objects, first=first, **conditions)

    assert codes(audited(name, edit)) == []
    removed = of(dict(snapshot(name).api.objects), "endpointslices")["endpoints"][0]["addresses"][0]

    def gone(text: str) -> str:
        """As kube-proxy writes it without that endpoint: the chain of the others, evenly."""
        lines, kept = text.splitlines(keepends=True), []
        chain = next(line.split()[1] for line in lines if line.startswith("-A KUBE-SVC-") and "default/kuard" in line)
        seps = [line.split()[-1] for line in lines if line.startswith(f"-A {chain} ") and " -j KUBE-SEP-" in line]
        mine = next(line.split()[1] for line in lines if f"-s {removed}/32 " in line and line.split()[1] in seps)
        rest = [sep for sep in seps if sep != mine]
        done = False
        for line in lines:
            if line.startswith(f"-A {chain} ") and " -j KUBE-SEP-" in line:
                for n, sep in enumerate(() if done else rest):
                    last = n == len(rest) - 1
                    chance = "" if last else f"-m statistic --mode random --probability {1 / (len(rest) - n):.11f} "
                    kept.append(f"-A {chain} {chance}-j {sep}\n")
                done = True
                continue
            kept.append(line)
        return "".join(kept)

    assert codes(audited(name, edit, gone)) == ([] if either else ["SR201"])


def test_what_the_node_sends_to_itself_is_refused_by_itself() -> None:
    """A rule in front that lets loopback traffic in takes no reject away: the node's own TCP refuses, where nothing listens."""

    def let_in(text: str) -> str:
        at = text.index("-A INPUT ", text.index("*filter"))
        return f"{text[:at]}-A INPUT -i lo -j ACCEPT\n{text[at:]}"

    whole = snapshot(NEW)
    dump = next(d for h in whole.nodes if h.node.startswith("kubworker3") if isinstance(d := h.read(), NodeDump))
    files = {**dump.files, "iptables-save.txt": let_in(dump.files["iptables-save.txt"])}
    report = Audit(whole.api, Selection()).report([NodeDump(node=dump.node, files=files)])
    assert codes(report) == []


@pytest.mark.parametrize("has_cluster_cidr", [True, False])
def test_without_a_pod_cidr_pods_are_asked_for_all_the_same(has_cluster_cidr: bool) -> None:
    """A fault that pods alone feel is found where the Node has no podCIDR and its only pod is the endpoint: or it is said."""
    whole = snapshot(NEW)
    objects = copy.deepcopy(dict(whole.api.objects))
    for item in objects["nodes"]["items"]:
        for key in ("podCIDR", "podCIDRs"):
            item["spec"].pop(key, None)
    if not has_cluster_cidr:
        objects["configmap-kube-proxy"]["data"]["config.conf"] = "mode: iptables\nclusterCIDR: ''\n"
    mine = {e["addresses"][0] for e in of(objects, "endpointslices")["endpoints"]}
    objects["pods"]["items"] = [p for p in objects["pods"]["items"] if p.get("status", {}).get("podIP") in mine]
    dump = next(d for h in whole.nodes if h.node.startswith("kubworker3") if isinstance(d := h.read(), NodeDump))
    text = dump.files["iptables-save.txt"]
    kuard = of(objects, "services")["spec"]["clusterIP"]
    at = text.index("-A PREROUTING ", text.index("*nat"))
    text = f"{text[:at]}-A PREROUTING -s 10.244.0.0/16 -d {kuard}/32 -j RETURN\n{text[at:]}"
    selection = Selection(services=frozenset(["default/kuard"]))
    report = Audit(replace(whole.api, objects=objects), selection).report(
        [NodeDump(node=dump.node, files={**dump.files, "iptables-save.txt": text})]
    )
    if has_cluster_cidr:
        assert [(f.code, f.client) for f in report.findings if f.severity.value == "error"] == [("SR102", "pod")]
    said = [note for note in report.notes if "no podCIDR" in note]
    assert [note.partition("(IPv4)")[1] for note in said] == ([] if has_cluster_cidr else ["(IPv4)"])
