"""Packets to ports that a cluster IP does not have: who has to reject them is asked, not only looked for."""

from __future__ import annotations

import re

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import Severity
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump

_RULES = re.compile(r"(?<=\tchain cluster-ips-check \{\n)\t\t(.*)\n\t\t(.*)\n(?=\t\})")


@pytest.mark.parametrize("name", ["v1.36-nftables"])
@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (("{0}", "{1}"), None),
        (("{1}", "{0}"), "are dropped instead of being rejected"),
        (("ip saddr 10.244.0.0/16 {0}", "{1}"), "outside clients to unused ports of cluster IPs are dropped"),
        (("ip saddr 10.0.0.0/8 accept", "{0}", "{1}"), "pod clients to unused ports of cluster IPs pass"),
        (("meta l4proto udp {0}", "return", "{1}"), "pass instead of being rejected"),
        (("tcp dport 6 drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("tcp dport 1000-1999 return", "{0}", "{1}"), "pass instead of being rejected"),
        (("tcp dport {{ 7, 9 }} drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("udp dport 6 drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("meta l4proto sctp drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("tcp dport >= 60000 drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("ip daddr 10.96.0.10 drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("ip daddr . tcp dport {{ 10.96.0.10 . 6 }} drop", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("ip daddr 10.96.0.8/29 tcp dport vmap {{ 6 : drop }}", "{0}", "{1}"), "are dropped instead of being rejected"),
        (("tcp dport 6 reject", "{0}", "{1}"), None),
    ],
)
def test_what_no_port_of_a_cluster_ip_is_for_is_rejected(name: str, rules: tuple[str, ...], says: str | None) -> None:
    """The chain's rules as kube-proxy has them are silent; in another order, or with a condition, they are not (SR608)."""
    snapshot = load_snapshot(capture(name))
    node = snapshot.nodes[1].read()
    assert isinstance(node, NodeDump)
    text = (capture(name) / "nodes" / node.node / "nft-ruleset.txt").read_text()
    found = _RULES.search(text)
    assert found is not None
    changed = text[: found.start()] + "".join(f"\t\t{rule.format(*found.groups())}\n" for rule in rules) + text[found.end() :]
    files = {file: kept for file, kept in node.files.items() if file != "nft-ruleset.json"}
    result = Audit(snapshot.api, Selection()).node(NodeDump(node=node.node, files={**files, "nft-ruleset.txt": changed}))
    assert not result.unverified
    if says is None:
        assert not result.findings
        return
    assert {found.code for found in result.findings} <= {"SR402", "SR608"}  # a Service without endpoints is stopped there too
    (finding,) = [found for found in result.findings if found.code == "SR608"]
    assert (finding.code, finding.severity) == ("SR608", Severity.WARNING)
    assert says in finding.message
