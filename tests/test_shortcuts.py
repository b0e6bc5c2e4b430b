"""Rules that tell one Service from another in ways that a shortcut could overlook: found on the first node and on a later one.

Each edit is a member of a class that once passed. The long way must find it, or it tests nothing; the short way says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from test_twins import further, judges, snapshot, told

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.model.fast_dataclass import replace
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump

Edit = Callable[[str], str]
SERVICE = "scale/svc-00009"
"""One of many that are alike: neither the first, which is walked, nor the last."""


def in_front(chain: str, rule: str, *, of: str = "") -> Edit:
    """A rule as the first of a chain, or before the first rule of it that matches `of`."""

    def edit(text: str) -> str:
        start = re.search(rf"^-A {chain} .*{of}.*$", text, re.MULTILINE)
        assert start, (chain, of)
        return f"{text[: start.start()]}-A {chain} {rule}\n{text[start.start() :]}"

    return edit


def of_service(text: str, form: str, service: str = SERVICE) -> re.Match[str]:
    """A rule of a Service."""
    found = re.search(form.format(service=service), text, re.MULTILINE)
    assert found, form
    return found


def between_mark_and_jump(service: str, text: str) -> str:
    """Every Service has its mark before its jump; what catches marked packets comes between the two of one Service."""
    text = re.sub(
        r"^(-A KUBE-SERVICES) (-d \S+ .* cluster IP\".*) -j KUBE-SVC-\S+$",
        r"\1 ! -s 10.240.0.0/12 \2 -j KUBE-MARK-MASQ\n\g<0>", text, flags=re.MULTILINE,
    )  # fmt: skip
    jump = of_service(text, r'^-A KUBE-SERVICES -d \S+ .*"{service}:http cluster IP".* -j KUBE-SVC-\S+$', service)
    return text.replace(jump[0], f"-A KUBE-SERVICES -m mark --mark 0x4000/0x4000 -j RETURN\n{jump[0]}")


def in_every_service_chain(match: str) -> Edit:
    """The same rule in the chains of all Services, about the address or the port of one of them."""

    def edit(text: str) -> str:
        entry = of_service(text, r'^-A KUBE-SERVICES -d (\S+)/32 .*"{service}:http cluster IP"')
        for chain in dict.fromkeys(re.findall(r"^:(KUBE-SVC-\S+)", text, re.MULTILINE)):
            text = in_front(chain, match.format(address=entry[1]))(text)
        return text

    return edit


def among_many(rule: str) -> Edit:
    """A rule of a chain that is long enough for an index."""

    def edit(text: str) -> str:
        others = [f"-A KUBE-SERVICES -d fd00:97::{n}/128 -p tcp -m tcp --dport 9 -j RETURN\n" for n in range(1, 20)]
        at = text.index("-A KUBE-SERVICES ")
        return f"{text[:at]}{''.join(others)}-A KUBE-SERVICES {rule}\n{text[at:]}"

    return edit


def _each_others(found: re.Match[str]) -> str:
    return f"--set --name {'KUBE-SEP-XOBCDQMCXP5LH5JR' if 'R6AC' in found[1] else 'KUBE-SEP-R6ACQKFJC3MT4IWK'}"


IPTABLES: dict[str, tuple[str, str, Edit]] = {
    # capture, file, edit
    **{
        f"what catches all is between the mark and the jump of {service}": (
            "made-iptables", "iptables-save.txt", partial(between_mark_and_jump, service))
        for service in ("scale/svc-00004", "scale/svc-00015", "scale/svc-00022")
    },
    "the port that was dialled, by conntrack": (
        "made-iptables", "iptables-save.txt", in_every_service_chain("-p tcp -m conntrack --ctorigdstport 443 -j RETURN")),
    "the address that was dialled, by conntrack": (
        "made-iptables", "iptables-save.txt", in_every_service_chain("-m conntrack --ctorigdst {address} -j RETURN")),
    "a list of ports": (
        "made-iptables", "iptables-save.txt", in_every_service_chain("-p tcp -m multiport --dports 443,444 -j RETURN")),
    "one port": ("made-iptables", "iptables-save.txt", in_every_service_chain("-p tcp -m tcp --dport 443 -j RETURN")),
    "one address": ("made-iptables", "iptables-save.txt", in_every_service_chain("-d {address}/32 -j RETURN")),
    "2^96 addresses of IPv6": ("v1.36-iptables-nft", "ip6tables-save.txt", among_many("-d fd00:96::/32 -j RETURN")),
    "2^96 addresses by one of them": ("v1.36-iptables-nft", "ip6tables-save.txt", among_many("-d fd00:96::bb5f/32 -j RETURN")),
    "two endpoints with one affinity list": (
        "v1.36-iptables-nft", "iptables-save.txt",
        lambda text: re.sub(r"(--name) (KUBE-SEP-R6ACQKFJC3MT4IWK|KUBE-SEP-XOBCDQMCXP5LH5JR)", r"\1 KUBE-SEP-SHARED", text)),
    "two endpoints that note their clients in each other's list": (
        "v1.36-iptables-nft", "iptables-save.txt",
        lambda text: re.sub(r"--set --name (KUBE-SEP-(?:R6AC|XOBC)\w+)", _each_others, text)),
}  # fmt: skip


def nft(*objects: dict[str, Any], chain: str = "", first: bool = True) -> Edit:
    """Objects of nft's JSON added to the table; a rule (a list of statements) as the first of its chain."""

    def edit(text: str) -> str:
        found = json.loads(text)["nftables"]
        where = {"family": "ip", "table": "kube-proxy"}
        name = next((o["chain"]["name"] for o in found if "chain" in o and re.search(chain, o["chain"]["name"])), "")
        for one in objects:
            if "expr" in one:
                at = next(n for n, o in enumerate(found) if o.get("rule", {}).get("chain") == name)
                found.insert(at, {"rule": where | {"chain": name, "handle": 99, "expr": one["expr"]}})
            else:
                ((kind, body),) = one.items()
                at = next(n for n, o in enumerate(found) if "rule" in o)
                found.insert(at, {kind: where | {"handle": 98} | body})
        return json.dumps({"nftables": found})

    return edit


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
DROP: dict[str, Any] = {"drop": None}
OWN = rf"^service-\w+-{SERVICE}/"


def in_each(statements: list[dict[str, Any]]) -> Edit:
    """The same rule at the beginning of every Service's chain."""

    def edit(text: str) -> str:
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        for one in json.loads(text)["nftables"]:
            chain = one.get("rule", {}).get("chain", "")
            if re.match(r"service-\w+-scale/", chain) and chain not in seen:
                seen.add(chain)
                where = {"family": "ip", "table": "kube-proxy", "chain": chain, "handle": 97}
                found.append({"rule": where | {"expr": statements}})
            found.append(one)
        return json.dumps({"nftables": found})

    return edit


def without_hairpins(text: str) -> str:
    """No connection of an endpoint to itself is masqueraded: a fault of every Service with an endpoint here, and of no other."""
    found = json.loads(text)["nftables"]
    for one in found:
        if one.get("set", {}).get("name") == "hairpin-connections":
            one["set"]["elem"] = []
    return json.dumps({"nftables": found})


def address_of(service: str) -> tuple[str, int]:
    """A Service's address and port in the made cluster."""
    for one in snapshot("made-nftables").api.objects["services"]["items"]:
        if f"{one['metadata']['namespace']}/{one['metadata']['name']}" == service:
            return one["spec"]["clusterIP"], one["spec"]["ports"][0]["port"]
    raise KeyError(service)


def nft_edits() -> dict[str, Edit]:
    address, port = address_of(SERVICE)
    concat = {"concat": [DADDR, DPORT]}
    into = {"goto": {"target": "reject-chain"}}
    named = {"name": "odd", "type": "inet_service", "map": "verdict"}
    return {
        "what only Services with an endpoint here can lack": without_hairpins,
        "a verdict map by port in every Service's chain": in_each(
            [{"vmap": {"key": DPORT, "data": {"set": [[443, DROP]]}}}]),
        "a verdict map by a number in every Service's chain": in_each(
            [{"vmap": {"key": {"ct": {"key": "proto-dst", "dir": "original"}}, "data": {"set": [[443, DROP]]}}}]),
        "the port that was dialled in every Service's chain": in_each(
            [{"match": {"op": "==", "left": {"ct": {"key": "proto-dst", "dir": "original"}}, "right": 443}}, DROP]),
        "the address that was dialled in every Service's chain": in_each(
            [{"match": {"op": "==", "left": {"ct": {"key": "ip daddr", "dir": "original"}}, "right": address}}, DROP]),
        "a set asked by port": nft(
            {"set": {"name": "odd", "type": "inet_service", "elem": [port]}},
            {"expr": [{"match": {"op": "==", "left": DADDR, "right": address}},
                      {"match": {"op": "==", "left": DPORT, "right": "@odd"}}, DROP]}, chain=r"^filter-prerouting"),
        "a map asked by port, for a Service's address": nft(
            {"map": named | {"elem": [[port, DROP]]}},
            {"expr": [{"match": {"op": "==", "left": DADDR, "right": address}}, {"vmap": {"key": DPORT, "data": "@odd"}}]},
            chain=r"^services$"),
        "a set asked by address and port": nft(
            {"set": {"name": "odd", "type": ["ipv4_addr", "inet_service"], "elem": [{"concat": [address, port]}]}},
            {"expr": [{"match": {"op": "==", "left": concat, "right": "@odd"}}, DROP]}, chain=r"^filter-prerouting"),
        "the address that was dialled, by conntrack": nft(
            {"set": {"name": "odd", "type": "ipv4_addr", "elem": [address]}},
            {"expr": [{"match": {"op": "==", "left": {"ct": {"key": "ip daddr", "dir": "original"}}, "right": "@odd"}}, DROP]},
            chain=r"^filter-forward"),
        "a set of ports asked in the Services' own map's way": nft(
            {"set": {"name": "odd", "type": "inet_service", "elem": [port]}},
            {"expr": [{"match": {"op": "==", "left": DPORT, "right": "@odd"}}, into]}, chain=r"^services$"),
        "an interval map into a Service's chain": lambda text: nft(
            {"map": {"name": "odd", "type": "ipv4_addr", "map": "verdict", "flags": ["interval"], "elem": [
                [{"range": [address, _next(address)]}, {"goto": {"target": re.findall(rf'"({OWN[1:]}[^"]*)"', text)[0]}}]]}},
            {"expr": [{"vmap": {"key": DADDR, "data": "@odd"}}]}, chain=r"^services$")(text),
    }  # fmt: skip


def _next(address: str) -> str:
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) + 1}"


def compare(name: str, file: str, edit: Edit) -> None:
    dump = snapshot(name).nodes[1].read()
    assert isinstance(dump, NodeDump)
    text = edit(dump.files[file])
    assert text != dump.files[file]
    node = replace(dump, files={**dump.files, file: text})
    quick, thorough = (judge.node(node) for judge in judges(name))
    assert thorough.findings or thorough.unverified, "the long way sees nothing: this edit tests nothing"
    assert told(quick) == told(thorough), "as the first node"
    assert told(further(name).node(node)) == told(thorough), "as a later node"


@pytest.mark.parametrize("case", IPTABLES)
def test_iptables(case: str) -> None:
    name, file, edit = IPTABLES[case]
    compare(name, file, edit)


@pytest.mark.parametrize("case", nft_edits())
def test_nftables(case: str) -> None:
    compare("made-nftables", "nft-ruleset.json", nft_edits()[case])


@pytest.mark.parametrize("name", ["v1.17-iptables-legacy", "v1.28-iptables-legacy", "v1.36-iptables-nft"])
def test_a_lost_dnat_says_nothing_about_clients_that_are_elsewhere(name: str) -> None:
    """Without its DNAT an endpoint's chain still marks what the endpoint sends, and the next rule takes it elsewhere.

    Where the endpoint runs on this node that is felt (SR303); where it does not, no such packet begins here.
    """
    for handle in snapshot(name).nodes[:2]:
        node = handle.read()
        assert isinstance(node, NodeDump)
        lost = re.search(
            r'^-A KUBE-SEP-\S+ -p tcp .*--to-destination 10\.244\.3\.2:8080\n',
            node.files["iptables-save.txt"], re.MULTILINE,
        )  # fmt: skip
        assert lost
        files = {**node.files, "iptables-save.txt": node.files["iptables-save.txt"].replace(lost[0], "")}
        result = judges(name)[1].node(replace(node, files=files))
        assert {(finding.code, finding.service) for finding in result.findings} == {("SR201", "default/kuard")}


def at_second_node() -> dict[str, Edit]:
    """Rules about one address of the second node and a node port, in both nodes' tables."""
    api = judges("made-nftables")[1].context
    address = api.nodes[snapshot("made-nftables").nodes[1].node].ips(4)[0]
    (port,) = {port.node_port for service in api.services for port in service.ports if service.key == "scale/svc-00020"}
    key = {"concat": [DADDR, DPORT]}
    both = {"concat": [address, port]}
    return {
        "a named set": nft(
            {"set": {"name": "odd", "type": ["ipv4_addr", "inet_service"], "elem": [both]}},
            {"expr": [{"match": {"op": "==", "left": key, "right": "@odd"}}, DROP]}, chain=r"^filter-prerouting"),
        "a set in the rule": nft(
            {"expr": [{"match": {"op": "==", "left": key, "right": {"set": [both]}}}, DROP]}, chain=r"^filter-prerouting"),
        "a value": nft({"expr": [{"match": {"op": "==", "left": key, "right": both}}, DROP]}, chain=r"^filter-prerouting"),
        "a verdict map": nft({"expr": [{"vmap": {"key": key, "data": {"set": [[both, DROP]]}}}]}, chain=r"^filter-prerouting"),
        "two matches": nft(
            {"expr": [{"match": {"op": "==", "left": DADDR, "right": address}},
                      {"match": {"op": "==", "left": DPORT, "right": port}}, DROP]}, chain=r"^filter-prerouting"),
    }  # fmt: skip


@pytest.mark.parametrize("case", at_second_node())
def test_what_is_about_a_later_nodes_own_address(case: str) -> None:
    """On the first node no packet meets such a rule; on the node whose address it is, a node port does."""
    edit = at_second_node()[case]
    short, long = Audit(snapshot("made-nftables").api, Selection()), judges("made-nftables")[1]
    for handle in snapshot("made-nftables").nodes[:2]:
        dump = handle.read()
        assert isinstance(dump, NodeDump)
        node = replace(dump, files={**dump.files, "nft-ruleset.json": edit(dump.files["nft-ruleset.json"])})
        thorough = long.node(node)
        assert told(short.node(node)) == told(thorough), handle.node
    assert thorough.findings, "the long way sees nothing: this edit tests nothing"
