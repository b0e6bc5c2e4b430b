"""Healthy clusters of versions and configurations that were never captured: the audit says nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode, Report, Severity

from .cluster import Setup
from .in_nft import missing
from .snapshots import Objects, more_kinds

DUAL = ("10.244.0.0/16", "fd00:244::/32")
OLD = {f"1.{m}": Setup(m, kubelet=True) for m in (14, 16, 18, 20)}
NEW = {f"1.{m}": Setup(m, families=(4, 6), cluster_cidrs=DUAL, counters=m % 2 == 0) for m in (21, 22, 24, 26, 29, 34, 35)}
CONFIGURED = {
    "1.20 bit 10": Setup(20, bit=10),
    "1.20 slices": Setup(20, slices=True),
    "1.21 masqueradeAll": Setup(21, families=(4, 6), cluster_cidrs=DUAL, masquerade_all=True),
    "1.23 no detector": Setup(23, families=(4, 6), cluster_cidrs=()),
    "1.23 masqueradeAll": Setup(23, families=(4, 6), cluster_cidrs=DUAL, masquerade_all=True),
    "1.25 bridge": Setup(25, families=(4, 6), detect="BridgeInterface", interface="cbr0"),
    "1.25 NodeCIDR": Setup(25, families=(4, 6), detect="NodeCIDR"),
    "1.33 primary": Setup(33, families=(4, 6), cluster_cidrs=DUAL, node_port_addresses=("primary",)),
    "1.35 large": Setup(35, families=(4, 6), cluster_cidrs=DUAL, large=True, kubelet=True),
    "1.35 no localhost": Setup(35, families=(4, 6), cluster_cidrs=DUAL, localhost_node_ports=False, bit=15),
}
RANGES = ("10.96.0.0/16", "fd00:96::/112")
IN_NFT = {
    f"nft 1.{m}": Setup(m, mode="nftables", families=(4, 6), cluster_cidrs=DUAL, service_cidrs=RANGES if m >= 33 else ())
    for m in (29, 30, 32, 33, 34, 35)
} | {
    "nft 1.33 old chains": Setup(33, mode="nftables", families=(4, 6), cluster_cidrs=DUAL, old_base_chains=True, bit=10),
    "nft 1.35 masqueradeAll": Setup(35, mode="nftables", families=(4, 6), cluster_cidrs=DUAL, masquerade_all=True),
    "nft 1.36 all addresses": Setup(
        36,
        mode="nftables",
        families=(4, 6),
        detect="InterfaceNamePrefix",
        interface="veth",
        node_port_addresses=("0.0.0.0/0", "::/0"),
    ),
}
HIDDEN = ("1.20 bit 10", "1.23 masqueradeAll", "1.25 bridge", "1.33 primary", "1.35 large")
ALL = OLD | NEW | CONFIGURED


@cache
def objects(name: str, *, six: bool, nodes: int) -> Objects:
    """The API objects of a capture with more kinds of Services, on its first nodes."""
    found = Objects(capture(name))
    found.nodes(nodes)
    more_kinds(found, six=six)
    return found


def report_of(setup: Setup, folder: Path, *, shows_config: bool = True) -> Report:
    six = 6 in setup.families
    base = objects("v1.36-iptables-nft" if six else "v1.17-iptables-legacy", six=six, nodes=1 if shows_config else 2)
    base.copy().write(folder, setup, shows_config=shows_config)
    snapshot = load_snapshot(folder)
    return audit(snapshot.api, snapshot.outcomes())


def healthy(report: Report) -> None:
    assert [(f.code, f.node, f.service, f.message) for f in report.findings if f.severity is not Severity.INFO] == []
    assert [(u.code, u.node, u.reason) for u in report.unverified] == []
    assert report.exit_code() is ExitCode.OK


@pytest.mark.parametrize("name", ALL)
def test_a_healthy_cluster_of_any_version_and_configuration_is_healthy(name: str, tmp_path: Path) -> None:
    healthy(report_of(ALL[name], tmp_path / "s"))


@pytest.mark.parametrize("name", HIDDEN)
def test_a_healthy_cluster_that_does_not_show_its_configuration_is_healthy(name: str, tmp_path: Path) -> None:
    """No ConfigMap, no answer to /proxyMode: what nodes have in common tells."""
    healthy(report_of(ALL[name], tmp_path / "s", shows_config=False))


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=f"no kernel to ask: {missing()}")
@pytest.mark.parametrize("name", IN_NFT)
def test_a_healthy_cluster_in_nftables_mode_is_healthy(name: str, tmp_path: Path) -> None:
    """Both shapes of rules, both shapes of base chains; shown and, on every other one, hidden configuration."""
    healthy(report_of(IN_NFT[name], tmp_path / "s", shows_config=len(name) % 2 == 1))
