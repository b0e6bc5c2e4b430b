"""Walking one of many alike is as good as walking all: on healthy rules, and on rules changed anywhere, in any way."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import sys
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import many
import pytest
from captured import CAPTURES, capture

from kubectl_svcroute.audit import services
from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.audit.subject import Subject
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.cluster import Service
from kubectl_svcroute.model.nft import LazyChains
from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump, Snapshot
from kubectl_svcroute.parse import nft_json

MADE = ("made-iptables", "made-nftables")
"""Clusters of Services that are nearly all alike, as large ones are; captured ones have every kind, and few of each."""
IPTABLES = [*(name for name in CAPTURES if "iptables" in name), "made-iptables"]
NFTABLES = [*(name for name in CAPTURES if "nftables" in name), "made-nftables"]
SEEDS = int(os.environ.get("SVCROUTE_TWINS", "0"))
"""How many more seeds are tried of everything here: `make twins`."""
FOREIGN = [
    "-j ACCEPT", "-p tcp -j DROP", "-s 10.244.1.0/24 -j RETURN", "-p tcp -m tcp --dport 80 -j DNAT --to-destination 9.9.9.9:9",
    "-d 10.244.3.0/24 -j DROP", "-s 10.244.2.10/32 -j ACCEPT", "-j MARK --set-xmark 0x4000/0x4000",
    "-m u32 --u32 0x0=0x0 -j DROP",
    "-d 10.96.0.0/13 -j ACCEPT", "-p tcp -m tcp --dport 8080 -j DROP", "-m set --match-set x dst -j ACCEPT", "-p udp -j ACCEPT",
    "-i lo -j ACCEPT", "-m addrtype --dst-type LOCAL -j ACCEPT", "-m conntrack --ctstate NEW -j MARK --set-xmark 0x0/0xffffffff",
]  # fmt: skip


@cache
def snapshot(name: str) -> Snapshot:
    """A capture, or a made cluster, loaded once."""
    if name in CAPTURES:
        return load_snapshot(capture(name))
    with tempfile.TemporaryDirectory() as folder:
        many.write(Path(folder), mode=name.removeprefix("made-"), count=24, endpoints=3)
        found = load_snapshot(folder)
        kept = {handle.node: handle.read() for handle in found.nodes}
    return replace(found, nodes=tuple(replace(h, read=partial(kept.__getitem__, h.node)) for h in found.nodes))


@cache
def judges(name: str, *, alone: bool = False) -> tuple[Audit, Audit]:
    """(the usual audit, the one that walks everything). `alone`: as where one node is judged, and no more."""
    return Audit(snapshot(name).api, Selection(), alone=alone), Audit(snapshot(name).api, Selection(), thorough=True)


def edited(text: str, rng: random.Random) -> str:
    """One to four edits of a dump, each somewhere in its rules."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        rules = [n for n, line in enumerate(lines) if line.startswith("-A ")]
        at = rng.choice(rules)
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                other = rng.choice(rules)
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                digits = [m.start() for m in re.finditer(r"\d", lines[at])]
                where = rng.choice(digits) if digits else 0
                lines[at] = lines[at][:where] + str(rng.randrange(10)) + lines[at][where + 1 :] if digits else lines[at]
            case 4:
                lines[at] = re.sub(r" (-[sd]) ", r" ! \1 ", lines[at], count=1)
            case 5:
                targets = re.findall(r"-j (KUBE-S\S+)$", "\n".join(lines), re.MULTILINE)
                lines[at] = re.sub(r"-j \S+$", f"-j {rng.choice(targets)}", lines[at])
            case 6:
                chain = lines[at].split(" ")[1]
                lines.insert(at, f"-A {chain} {rng.choice(FOREIGN)}")
            case 7:
                base = rng.choice([n for n in rules if re.match(r"-A [A-Z]+ ", lines[n])])
                lines.insert(base, f"-A {lines[base].split(' ')[1]} {rng.choice(FOREIGN)}")
    return "\n".join(lines)


FOREIGN_NFT: list[list[Any]] = [
    [{"accept": None}], [{"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.244.4.7"}}, {"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.244.4.7"}}, {"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                "right": {"prefix": {"addr": "10.96.0.8", "len": 29}}}}, {"accept": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}}, {"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"range": [30000, 30010]}}},
     {"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "@cluster-ips"}}, {"drop": None}],
    [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                "right": {"set": ["10.244.4.3", "10.244.4.9"]}}}, {"return": None}],
    [{"match": {"op": "==", "left": {"meta": {"key": "length"}}, "right": 60}}, {"drop": None}],
    [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"meta": {"key": "mark"}}, 16384]}}}],
    [{"dnat": {"addr": "9.9.9.9", "port": 9}}],
]  # fmt: skip


def edited_nft(text: str, rng: random.Random) -> str:
    """One to four edits of what `nft -j` printed, each somewhere in its rules, sets and maps."""
    objects: list[dict[str, Any]] = json.loads(text)["nftables"]
    for _ in range(rng.randint(1, 4)):
        rules = [n for n, o in enumerate(objects) if "rule" in o]
        filled = [o[kind] for o in objects for kind in ("set", "map") if o.get(kind, {}).get("elem")]
        mine = [o["chain"] for o in objects if "chain" in o and o["chain"]["family"] == "ip"]
        at = rng.choice(rules)
        body = objects[at]["rule"]
        targets = [o["chain"]["name"] for o in objects if "/" in o.get("chain", {}).get("name", "")]
        match rng.randrange(9):
            case 0:
                del objects[at]
            case 1:
                objects.insert(at, json.loads(json.dumps(objects[at])))
            case 2:
                other = rng.choice(rules)
                objects[at], objects[other] = objects[other], objects[at]
            case 3:
                body["expr"] = _digit(body["expr"], rng)
            case 4:
                body["expr"] = json.loads(json.dumps(body["expr"]).replace('"op": "=="', '"op": "!="', 1))
            case 5:
                printed = json.dumps(body["expr"])
                target = f'"target": "{rng.choice(targets)}"'
                body["expr"] = json.loads(re.sub(r'"target": "[^"]*/[^"]*"', target, printed, count=1))
            case 6:
                found = rng.choice(filled)["elem"]
                which = rng.randrange(len(found))
                if rng.random() < 0.5:
                    del found[which]
                else:
                    found[which] = _digit(found[which], rng)
            case 7:
                chain = rng.choice([c for c in mine if "/" not in c["name"]] if rng.random() < 0.7 else mine)
                where = {"family": chain["family"], "table": chain["table"], "chain": chain["name"], "handle": 1}
                objects.insert(rng.choice(rules), {"rule": where | {"expr": rng.choice(FOREIGN_NFT)}})
            case 8 if not any(o.get("table", {}).get("name") == "other" for o in objects):
                hooks = [("prerouting", "nat"), ("prerouting", "filter"), ("forward", "filter"), ("postrouting", "nat")]
                hook, kind = rng.choice(hooks)
                where = {"family": "ip", "table": "other"}
                base = {"name": "c", "handle": 1, "type": kind, "hook": hook, "prio": -150, "policy": "accept"}
                objects.append({"table": {"family": "ip", "name": "other", "handle": 9}})
                objects.append({"chain": where | base})
                objects.append({"rule": where | {"chain": "c", "handle": 2, "expr": rng.choice(FOREIGN_NFT)}})
    return json.dumps({"nftables": objects})


def _digit(value: Any, rng: random.Random) -> Any:
    """The same with one digit changed, where that is still JSON."""
    text = json.dumps(value)
    digits = [m.start() for m in re.finditer(r"\d", text)]
    if not digits:
        return value
    at = rng.choice(digits)
    try:
        return json.loads(text[:at] + str(rng.randrange(10)) + text[at + 1 :])
    except ValueError:
        return value


def told(result: NodeResult) -> object:
    """What a result says, without how it came to it."""
    findings = sorted((f.code, f.service or "", f.message, f.severity, f.count) for f in result.findings)
    return findings, sorted((u.code, u.service or "", u.reason) for u in result.unverified)


def changed(dump: NodeDump, rng: random.Random) -> NodeDump:
    """The node with some of its rules edited."""
    if "nft-ruleset.json" in dump.files:
        file, edit = "nft-ruleset.json", edited_nft
    else:
        six = "KUBE-SVC" in dump.files["ip6tables-save.txt"] and rng.random() < 0.2
        file, edit = "ip6tables-save.txt" if six else "iptables-save.txt", edited
    return replace(dump, files={**dump.files, file: edit(dump.files[file], rng)})


def compare(name: str, seed: int) -> None:
    """Both audits of one node with edited rules say the same."""
    rng = random.Random(seed)
    dump = rng.choice(snapshot(name).nodes).read()
    assert isinstance(dump, NodeDump)
    node = changed(dump, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nft_json, "LARGE", 0 if seed % 4 else sys.maxsize)
        # Recognised in two halves after the first few: with a child process where there is no other thread.
        patch.setattr(services, "MODELS_AMONG", 5)
        patch.setattr(services, "WORTH_HALVING", 2)
        quick, thorough = (judge.node(node) for judge in judges(name, alone=seed % 2 == 0))
    assert told(quick) == told(thorough), f"{name}, seed {seed}"


@pytest.mark.parametrize(("name", "large"), [*((name, 0) for name in IPTABLES + NFTABLES), *((n, sys.maxsize) for n in NFTABLES)])
def test_healthy_rules(name: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every node of a healthy cluster both say the same, and the shares too."""
    monkeypatch.setattr(nft_json, "LARGE", large)  # from which size on a document is read the fast way
    judges.cache_clear()  # what was learned of rules that were read the other way
    monkeypatch.setattr(services, "MODELS_AMONG", 12)
    monkeypatch.setattr(services, "WORTH_HALVING", 2)
    for number, handle in enumerate(snapshot(name).nodes):
        quick, thorough = (judge.node(handle.read()) for judge in judges(name, alone=number % 2 == 0))
        assert told(quick) == told(thorough)
        assert quick.even or name not in IPTABLES, "no Service was recognised as a twin: the test would prove nothing"
        assert len(quick.even) > 12 or name not in MADE, "these are nearly all twins"
        assert {k: sorted(v) for k, v in quick.frontends.items()} == {k: sorted(v) for k, v in thorough.frontends.items()}
        for (service, _, _), share in thorough.shares.items():
            if service in quick.even:
                assert share > 0


@pytest.mark.parametrize("name", IPTABLES + NFTABLES)
@pytest.mark.parametrize("block", range(1 + SEEDS // 8))
def test_changed_rules(name: str, block: int) -> None:
    """Whatever is changed, the quick way sees what the walk sees."""
    for seed in range(block * 8, block * 8 + (8 if name in MADE or block else 4)):
        compare(name, seed)


def test_fresh_changes() -> None:
    """Changes that nobody has tried before; the seed is printed."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seeds from {seed}")
    for number in range(8 + SEEDS):
        compare((*MADE, *CAPTURES)[number % (2 + len(CAPTURES))], seed + number)


@pytest.fixture(autouse=True)
def _read_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rulesets of nftables are read as large ones are, where a test does not say otherwise."""
    monkeypatch.setattr(nft_json, "LARGE", 0)


# ---- a further node -------------------------------------------------------------------------------------------------------


def reordered(text: str, rng: random.Random) -> str:
    """The same rules, their chains and their entries in another order, with other counters."""
    parts = []
    for table in re.split(r"(?m)^(?=# Generated)", text)[1:]:
        lines = table.split("\n")
        rules = [line for line in lines if line.startswith("-A ")]
        chains = list(dict.fromkeys(line.split(" ")[1] for line in rules))
        rng.shuffle(chains)
        mixed = [line for chain in chains for line in rules if line.split(" ")[1] == chain]
        entries = [n for n, line in enumerate(mixed) if re.match(r"-A KUBE-SERVICES -d \S+ -p .* cluster IP", line)]
        moved = [mixed[n] for n in entries]
        rng.shuffle(moved)
        for n, line in zip(entries, moved, strict=True):
            mixed[n] = line
        left = iter(mixed)
        new = [next(left) if line.startswith("-A ") else line for line in lines]
        parts.append(re.sub(r"(?m)^(:[A-Z]+ [A-Z]+) \[\d+:\d+\]$", r"\1 [12:345]", "\n".join(new)))
    return "".join(parts)


@cache
def further(name: str) -> Audit:
    """An audit that has judged the first node of a cluster."""
    judge = Audit(snapshot(name).api, Selection())
    judge.node(snapshot(name).nodes[0].read())
    return judge


def reordered_nft(text: str, rng: random.Random) -> str:
    """The same chains, sets and elements in another order, with other handles: table by table, as nft prints them."""
    head, *objects = json.loads(text)["nftables"]
    printed = [head]
    for table in (o for o in objects if "table" in o):
        where = (table["table"]["family"], table["table"]["name"])
        mine = [(kind, body) for o in objects for kind, body in o.items() if (body["family"], body.get("table")) == where]
        sets = [(kind, body) for kind, body in mine if kind in ("set", "map")]
        chains = [(kind, body) for kind, body in mine if kind == "chain"]
        bases = [(kind, body) for kind, body in chains if body.get("hook")]
        chains = [(kind, body) for kind, body in chains if not body.get("hook")]
        rules: dict[str, list[tuple[str, Any]]] = {}
        for kind, body in mine:
            if kind == "rule":
                rules.setdefault(body["chain"], []).append((kind, body))
        for _, body in sets:
            if isinstance(body.get("elem"), list):
                rng.shuffle(body["elem"])
        mixed = list(rules.values())
        for several in (sets, chains, mixed):
            rng.shuffle(several)
        its = [*sets, *bases, *chains, *(one for several in mixed for one in several)]
        printed += [table, *({kind: body} for kind, body in its)]
    return re.sub(r'"handle": \d+', lambda _: f'"handle": {rng.randrange(1, 9999)}', json.dumps({"nftables": printed}))


def compare_further(name: str, seed: int) -> None:
    """A node with edited rules behind a healthy one, and a healthy one behind it: both as if each had been alone."""
    rng = random.Random(seed)
    healthy = snapshot(name).nodes[1].read()
    assert isinstance(healthy, NodeDump)
    nft = "nft-ruleset.json" in healthy.files
    file, reorder, edit = ("nft-ruleset.json", reordered_nft, edited_nft) if nft else ("iptables-save.txt", reordered, edited)
    text = healthy.files[file]
    if rng.random() < 0.5:
        text = reorder(text, rng)
    if rng.random() < 0.8:
        text = edit(text, rng)
    node = replace(healthy, files={**healthy.files, file: text})
    _, thorough = judges(name)
    assert told(further(name).node(node)) == told(thorough.node(node)), f"{name}, seed {seed}: behind a healthy node"
    if seed % 4 == 0:
        judge = Audit(snapshot(name).api, Selection())
        assert told(judge.node(node)) == told(thorough.node(node))
        first = snapshot(name).nodes[0].read()
        assert told(judge.node(first)) == told(thorough.node(first)), f"{name}, seed {seed}: a healthy node behind it"


ABOUT_NODES = [
    "-s 10.244.1.0/24", "-s 10.244.2.0/25", "! -s 10.244.2.0/24", "-s 10.250.1.0/24", "-s 172.18.0.0/30", "-s 172.18.0.3/32",
    "-d 172.18.0.4/31", "-d 172.18.0.12/32", "-s 10.244.2.7/32", "-d 10.244.1.0/24", "-m addrtype --dst-type LOCAL",
    "-s 192.0.2.0/24", "-d 192.0.2.2/32", "-s 10.244.0.0/15",
]  # fmt: skip


def compare_same(name: str, seed: int) -> None:
    """Two nodes that have the same rules, of which some are about nodes: each as if it had been alone."""
    rng = random.Random(seed)
    nodes = [handle.read() for handle in rng.sample(snapshot(name).nodes, 2)]
    assert all(isinstance(node, NodeDump) for node in nodes)
    text = nodes[0].files["iptables-save.txt"]
    if rng.random() < 0.5:
        text = edited(text, rng)
    lines = text.split("\n")
    for _ in range(rng.randrange(3)):
        at = rng.choice([n for n, line in enumerate(lines) if re.match(r"-A (?:[A-Z]+|KUBE-SERVICES|KUBE-POSTROUTING) ", line)])
        what = rng.choice(("ACCEPT", "RETURN", "MARK --set-xmark 0x4000/0x4000", "MARK --set-xmark 0x0/0x4000"))
        lines.insert(at, f"-A {lines[at].split(' ')[1]} {rng.choice(ABOUT_NODES)} -j {what}")
    judge = Audit(snapshot(name).api, Selection())
    for node in nodes:
        assert isinstance(node, NodeDump)
        same = replace(node, files={**node.files, "iptables-save.txt": "\n".join(lines)})
        assert told(judge.node(same)) == told(judges(name)[1].node(same)), f"{name}, seed {seed}: {node.node}"


@pytest.mark.parametrize("name", IPTABLES)
def test_nodes_that_rules_tell_apart(name: str) -> None:
    """The walks of the first node stand for another's only where no rule could tell the two from each other."""
    for seed in (1, 7, 10, *range(11, 11 + SEEDS)):  # 7 and 10 find a walk that stands for one that it should not stand for
        compare_same(name, seed)


@pytest.mark.parametrize(("name", "file"), [("made-iptables", "iptables-save.txt"), ("made-nftables", "nft-ruleset.json")])
def test_a_further_node_with_the_same_rules_is_not_walked_again(name: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    healthy = snapshot(name).nodes[1].read()
    assert isinstance(healthy, NodeDump)
    text = healthy.files[file]
    judge = further(name)
    walked: list[str] = []
    walk = Subject.walk

    def noted(self: Subject, service: Service, *rest: Any) -> bool:
        walked.append(service.key)
        return walk(self, service, *rest)

    monkeypatch.setattr(Subject, "walk", noted)
    for changed_text in (text, (reordered_nft if "nft" in name else reordered)(text, rng)):
        walked.clear()
        result = judge.node(replace(healthy, files={**healthy.files, file: changed_text}))
        assert not result.findings
        assert len(walked) < 8
        assert len(result.even.union(walked)) == len(judge.context.services)
        thorough = judges(name)[1].node(healthy)
        assert {k: sorted(v) for k, v in result.frontends.items()} == {k: sorted(v) for k, v in thorough.frontends.items()}


@pytest.mark.parametrize("name", IPTABLES + NFTABLES)
def test_a_further_node_is_judged_as_if_it_were_alone(name: str) -> None:
    """Whatever differs from the first node, in rules, in their order, or in what the node itself is."""
    for seed in range((8 if name in MADE else 4) + SEEDS):
        compare_further(name, seed)


def test_a_further_node_with_fresh_changes() -> None:
    """Changes that nobody has tried before; the seed is printed."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seeds from {seed}")
    for number in range(6 + SEEDS):
        compare_further(MADE[number % 2], seed + number)


# ---- what could hide in nftables' shortcuts ---------------------------------------------------------------------------------


def _rules_of(objects: list[dict[str, Any]], chain: str) -> int:
    """Where the rules of a chain begin."""
    return next(n for n, o in enumerate(objects) if o.get("rule", {}).get("chain") == chain)


def test_an_address_in_a_services_own_rules_is_not_part_of_a_template() -> None:
    """Two Services have a rule about one address in their chains: to the second it is an endpoint, to the first nobody."""
    dump = snapshot("made-nftables").nodes[0].read()
    assert isinstance(dump, NodeDump)
    objects = json.loads(dump.files["nft-ruleset.json"])["nftables"]
    first, second = (
        next(o["chain"]["name"] for o in objects if o.get("chain", {}).get("name", "").endswith(f"scale/svc-{n:05}/tcp/http"))
        for n in (5, 7)
    )
    ends = re.findall(r'"concat": \["([0-9.]+)", 8080\]', json.dumps(objects[_rules_of(objects, second)]))
    own = {o["concat"][0] for s in objects for o in s.get("set", {}).get("elem", []) if "hairpin" in s["set"]["name"]}
    remote = next(address for address in ends if address not in own)
    for chain in (first, second):
        source = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": remote}}
        rule = {"family": "ip", "table": "kube-proxy", "chain": chain, "handle": 9999, "expr": [source, {"drop": None}]}
        objects.insert(_rules_of(objects, chain), {"rule": rule})
    node = replace(dump, files={**dump.files, "nft-ruleset.json": json.dumps({"nftables": objects})})
    quick, thorough = (judge.node(node) for judge in judges("made-nftables"))
    assert told(quick) == told(thorough)
    assert not any("svc-00007" in key for key in quick.even), "the rule may be about it"


def test_an_address_in_a_services_own_rules_is_not_part_of_a_template_of_iptables() -> None:
    """The same in iptables mode."""
    dump = snapshot("made-iptables").nodes[0].read()
    assert isinstance(dump, NodeDump)
    text = dump.files["iptables-save.txt"]
    entries = "(?m)^-A KUBE-SERVICES .*scale/svc-{}:http .* -j (KUBE-SVC-\\w+)$"
    first, second = (re.findall(entries.format(name), text)[0] for name in ("00005", "00007"))
    (end, *_) = re.findall(rf"(?m)^-A {second} .* -j (KUBE-SEP-\w+)$", text)
    (remote,) = re.findall(rf"(?m)^-A {end} .* --to-destination ([0-9.]+):", text)
    for chain in (first, second):
        text = re.sub(rf"(?m)^(?=-A {chain} )", f"-A {chain} -s {remote}/32 -j RETURN\n", text, count=1)
    node = replace(dump, files={**dump.files, "iptables-save.txt": text})
    quick, thorough = (judge.node(node) for judge in judges("made-iptables"))
    assert any(finding.service == "scale/svc-00007" for finding in thorough.findings)
    assert told(quick) == told(thorough)


def test_a_nodes_rules_go_with_it() -> None:
    """Nothing but what the first node is kept for is left of any node's ruleset, though nobody looks for cycles."""
    judge = Audit(snapshot("made-nftables").api, Selection())
    nodes = [handle.read() for handle in snapshot("made-nftables").nodes]
    judge.node(nodes[0])
    gc.collect()
    kept = sum(isinstance(thing, LazyChains) for thing in gc.get_objects())
    gc.disable()
    try:
        for node in nodes[1:]:
            judge.node(node)
        assert sum(isinstance(thing, LazyChains) for thing in gc.get_objects()) == kept
    finally:
        gc.enable()


def test_elements_are_looked_at_again_where_a_node_is_configured_otherwise() -> None:
    """The first node is of a version that fills cluster-ips no more than the second one's rules do: only the second should."""
    name = "made-nftables"
    dump = snapshot(name).nodes[0].read()
    assert isinstance(dump, NodeDump)
    objects = json.loads(dump.files["nft-ruleset.json"])["nftables"]
    elements = next(o["set"]["elem"] for o in objects if o.get("set", {}).get("name") == "cluster-ips")
    del elements[3]
    node = replace(dump, files={**dump.files, "nft-ruleset.json": json.dumps({"nftables": objects})})
    old, new = (Audit(snapshot(name).api, Selection(), thorough=thorough) for thorough in (False, True))
    for judge in (old, new):
        state = judge.context.state
        judge.context = replace(judge.context, state=replace(state, proxy_versions={**state.proxy_versions, dump.node: (1, 29)}))
    first = old.node(node)
    assert told(first) == told(new.node(node))
    for judge in (old, new):
        state = judge.context.state
        judge.context = replace(judge.context, state=replace(state, proxy_versions={**state.proxy_versions, dump.node: (1, 36)}))
    second = old.node(node)
    assert told(second) == told(new.node(node))
    assert any(f.code == "SR403" for f in second.findings)
    assert not any(f.code == "SR403" for f in first.findings)
