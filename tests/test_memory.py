"""What is kept of a node is small: results of many nodes hold what they have in common once."""

from __future__ import annotations

from captured import capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.node_result import SharedParts
from kubectl_svcroute.model.selection import Selection


def test_nodes_hold_what_they_have_in_common_once() -> None:
    """Of two nodes' results only what differs is held twice: node ports, whose addresses are the node's own."""
    snapshot = load_snapshot(capture("v1.36-iptables-nft"))
    judge = Audit(snapshot.api, Selection())
    first, second = (judge.node(handle.read()) for handle in snapshot.nodes[:2])
    alike = {key for key in first.frontends if first.frontends[key] == second.frontends[key]}
    assert alike >= {"default/kuard", "shop/cart"}
    assert "shop/web" not in alike
    assert all(first.frontends[key] is second.frontends[key] for key in alike)
    assert any("30080" in frontend for frontend in second.frontends["shop/web"])


def test_what_is_shared_says_the_same() -> None:
    """Equal sets and addresses are one object; those that differ are each node's own; a node with other Services stands alone."""
    parts = SharedParts()
    assert parts.names(["a", "b"]) is parts.names({"b", "a"})
    nodes = [{"a": ["1", "2"], "b": ["3"]}, {"a": ["1", "2"], "b": ["4"]}, {"a": ["1", "2"], "b": ["3"]}, {"a": ["1", "2"]}]
    shared = [parts.frontends(f"n{number}", node) for number, node in enumerate(nodes)]
    assert [dict(found) for found in shared] == [{key: tuple(value) for key, value in node.items()} for node in nodes]
    assert shared[0] is shared[2]
    assert shared[0]["a"] is shared[1]["a"] is shared[3]["a"]
    assert parts.first_node == "n0"
    assert parts.frontends("n4", {"b": ["3"]}, like_first=["a"]) is shared[0]
    assert dict(parts.frontends("n5", {"b": ["5"]}, like_first=["a"])) == {"a": ("1", "2"), "b": ("5",)}
    assert dict(parts.frontends("n6", {}, like_first=["b"])) == {"b": ("3",)}
