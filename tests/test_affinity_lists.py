"""Session affinity: lists that are shared, swapped, filled or emptied by others, or kept under another key; in both data planes.

Each edit is one of a class, and what it does to clients is known: some break affinity, some only give lists other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from test_twins import further, judges, snapshot, told

from kubectl_svcroute.model.fast_dataclass import replace
from kubectl_svcroute.model.snapshot import NodeDump

Edit = Callable[[str], str]
SERVICE = "shop/cart"

# ---- iptables -------------------------------------------------------------------------------------------------------------

SVC = "KUBE-SVC-KVN33XW5FL34ZNHH"
ONE, TWO = "KUBE-SEP-XOBCDQMCXP5LH5JR", "KUBE-SEP-OY4LJW25YVLNBMGI"


def sub(pattern: str, put: str) -> Edit:
    """Every match of a pattern replaced."""
    return lambda text: re.sub(pattern, put, text, flags=re.MULTILINE)


def recent(chain: str, action: str, name: str = ONE, match: str = "") -> Edit:
    """A rule about a list as the first of a chain."""
    rule = f"-A {chain} {match}-m recent --{action} --name {name} --mask 255.255.255.255 --rsource\n"
    return lambda text: re.sub(rf"^(?=-A {chain} )", rule, text, count=1, flags=re.MULTILINE)


def other_service(text: str) -> str:
    """The endpoint of a Service without affinity enters its clients too."""
    put = rf"\1-m recent --set --name {TWO} --mask 255.255.255.255 --rsource \2"
    return re.sub(r"^(-A KUBE-SEP-\S+ -p tcp (?!.*recent).*)(-m tcp -j DNAT)", put, text, count=1, flags=re.MULTILINE)


def exchanged(text: str, form: str = "--name {}") -> str:
    """Two lists in each other's place."""
    one, two = form.format(ONE), form.format(TWO)
    return text.replace(one, "\0").replace(two, one).replace("\0", two)


IPTABLES: dict[str, tuple[Edit, str]] = {
    # what is edited, and the code that is due
    "one list for two endpoints": (sub(f"--name (?:{ONE}|{TWO})", "--name SHARED"), "SR404"),
    "each other's lists": (lambda text: exchanged(text, "--set --name {}"), "SR404"),
    "lists with each other's names": (exchanged, ""),
    "no rule that enters": (sub(rf" -m recent --set --name {ONE} --mask \S+ --rsource", ""), "SR404"),
    "no rule that looks up": (sub(rf"^-A {SVC} .*--name {ONE} .*\n", ""), "SR404"),
    "looked up, and sent to another": (sub(rf"^(-A {SVC} .*--rcheck .*) -j {ONE}$", rf"\1 -j {TWO}"), "SR404"),
    "entered by the address dialled": (sub(r"(--set --name \S+ --mask \S+) --rsource", r"\1 --rdest"), "SR404"),
    "looked up by the address dialled": (sub(r"(--reap --name \S+ --mask \S+) --rsource", r"\1 --rdest"), "SR404"),
    "kept by the address dialled": (sub("--rsource", "--rdest"), "SR404"),
    "entered as a network": (sub(r"(--set --name \S+) --mask \S+", r"\1 --mask 255.255.255.0"), "SR404"),
    "looked up as a network": (sub(r"(--reap --name \S+) --mask \S+", r"\1 --mask 255.255.255.0"), "SR404"),
    "more than one hit": (sub("--reap", "--reap --hitcount 5"), "SR404"),
    "one hit": (sub("--reap", "--reap --hitcount 1"), ""),
    "another time": (sub("--seconds 3600", "--seconds 10"), "SR405"),
    "no time": (sub("--seconds 3600 --reap ", ""), "SR405"),
    "removed before it is looked up": (recent(SVC, "remove"), "SR404"),
    "removed before any Service": (recent("KUBE-SERVICES", "remove"), "SR404"),
    "removed on the way": (recent("FORWARD", "remove"), "SR404"),
    "entered on the way": (recent("FORWARD", "set", TWO), "SR404"),
    "entered by another Service": (other_service, "SR404"),
    "a firewall that drops what exceeds a rate": (
        sub(r"\A((?:.*\n)*?)(?=-A FORWARD )", r"\1-A FORWARD -m limit --limit 5/sec -j DROP\n"), ""),
    "a firewall's own list": (recent("FORWARD", "set", "ssh", "-p tcp -m tcp --dport 22 "), ""),
}  # fmt: skip

# ---- nftables -------------------------------------------------------------------------------------------------------------

SERVICE_CHAIN = "service-NC25JZ2F-shop/cart/tcp/tcp"
FIRST, SECOND = "D4TUJHP5-shop/cart/tcp/tcp__10.244.3.13/7000", "ZR6YT2WS-shop/cart/tcp/tcp__10.244.4.13/7000"
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}


def rules(pattern: str, put: str, *, chain: str = "") -> Edit:
    """The statements of rules, as printed, with every match of a pattern replaced."""

    def edit(text: str) -> str:
        found = json.loads(text)["nftables"]
        for one in found:
            if "rule" in one and one["rule"]["family"] == "ip" and one["rule"]["chain"].startswith(chain):
                one["rule"]["expr"] = json.loads(re.sub(pattern, put, json.dumps(one["rule"]["expr"])))
        return json.dumps({"nftables": [one for one in found if one.get("rule", {}).get("expr") != []]})

    return edit


def update(chain: str, operation: str, which: str = FIRST) -> Edit:
    """A rule that changes a set as the first of a chain."""

    def edit(text: str) -> str:
        found: list[dict[str, Any]] = json.loads(text)["nftables"]
        at = next(n for n, one in enumerate(found) if re.match(chain, one.get("rule", {}).get("chain", "")))
        name = found[at]["rule"]["chain"]
        change = {"set": {"op": operation, "elem": SADDR, "set": f"@affinity-{which}"}}
        found.insert(at, {"rule": {"family": "ip", "table": "kube-proxy", "chain": name, "handle": 99, "expr": [change]}})
        return json.dumps({"nftables": found})

    return edit


def each_others(text: str) -> str:
    """Two endpoints update each other's set."""
    found = json.loads(text)["nftables"]
    for one in found:
        if one.get("rule", {}).get("chain", "").startswith("endpoint-"):
            one["rule"]["expr"] = json.loads(_swap(json.dumps(one["rule"]["expr"])))
    return json.dumps({"nftables": found})


def _swap(text: str) -> str:
    one, two = f'"@affinity-{FIRST}"', f'"@affinity-{SECOND}"'
    return text.replace(one, "\0").replace(two, one).replace("\0", two)


NFTABLES: dict[str, tuple[Edit, str]] = {
    "one set for two endpoints": (rules(f"@affinity-{SECOND}", f"@affinity-{FIRST}"), "SR404"),
    "each other's sets": (each_others, "SR404"),
    "sets with each other's names": (_swap, ""),
    "no rule that enters": (rules(r"^\[\{\"set\": .*\]$", "[]", chain=f"endpoint-{FIRST}"), "SR404"),
    "not renewed": (rules('"op": "update"', '"op": "add"'), "SR404"),
    "removed instead": (rules('"op": "update"', '"op": "delete"', chain=f"endpoint-{FIRST}"), "SR404"),
    "entered by the address dialled": (rules("saddr", "daddr", chain=f"endpoint-{FIRST}"), "SR903"),
    "looked up by the address dialled": (
        rules(rf'saddr("\}}\}}, "right": "@affinity-{FIRST})', r"daddr\1", chain=SERVICE_CHAIN), "SR903"),
    "another time of the set": (sub(r'"timeout": 3600\b', '"timeout": 10'), "SR405"),
    "removed before it is looked up": (update(re.escape(SERVICE_CHAIN), "delete"), "SR404"),
    "removed before any Service": (update("services$", "delete"), "SR404"),
    "removed on the way": (update("filter-forward", "delete"), "SR404"),
    "entered on the way": (update("filter-forward", "update", SECOND), "SR404"),
    "entered by another Service": (update(r"service-\w+-shop/web", "update", SECOND), "SR404"),
}  # fmt: skip


def check(name: str, file: str, edit: Edit, code: str) -> None:
    dump = snapshot(name).nodes[1].read()
    assert isinstance(dump, NodeDump)
    text = edit(dump.files[file])
    assert text != dump.files[file]
    node = replace(dump, files={**dump.files, file: text})
    quick = judges(name)[0].node(node)
    codes = {found.code for found in (*quick.findings, *quick.unverified) if found.service == SERVICE}
    assert (code in codes) if code else not codes
    assert told(further(name).node(node)) == told(quick), "as a later node"


@pytest.mark.parametrize("case", IPTABLES)
def test_iptables(case: str) -> None:
    check("v1.36-iptables-nft", "iptables-save.txt", *IPTABLES[case])


@pytest.mark.parametrize("case", NFTABLES)
def test_nftables(case: str) -> None:
    check("v1.36-nftables", "nft-ruleset.json", *NFTABLES[case])
