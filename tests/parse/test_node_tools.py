"""tools.txt, read."""

from __future__ import annotations

from kubectl_svcroute.model.node_tools import parse_tools

TEXT = """iptables: iptables v1.8.9 (nf_tables)
legacy tables (IPv4): nat filter
legacy tables (IPv6):
nf_tables: yes
kube-proxy process: none
not read: nft-tables.json: status 1: Error: cache
not read: bare
empty: ip6tables-save.txt: the tool ended well and printed nothing
"""


def test_what_was_not_read_and_what_is_empty_is_told_apart() -> None:
    """Reasons are kept with their file, colons and all; a reason that is missing is empty; other lines are passed over."""
    tools = parse_tools(TEXT)
    assert tools.not_read == {"nft-tables.json": "status 1: Error: cache", "bare": ""}
    assert tools.empty == {"ip6tables-save.txt": "the tool ended well and printed nothing"}
    assert tools.legacy_tables == {4: "nat filter", 6: ""}
    assert tools.backend == {4: "nft"}
    assert tools.process is False


def test_nothing_is_known_without_the_file() -> None:
    """An absent tools.txt says nothing, and a process that was seen is one."""
    nothing = parse_tools("")
    assert (nothing.not_read, nothing.empty, nothing.legacy_tables, nothing.process) == ({}, {}, {}, None)
    assert parse_tools("kube-proxy process: /proc/17\n").process is True
