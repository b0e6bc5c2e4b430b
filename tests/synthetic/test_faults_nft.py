"""Faults in nftables mode on rules that no capture holds: 1.33 with its older base chains, and 1.35.

The truth beside each: the Services that a right audit names, None for the node as a whole, `"none"` for what is no fault,
`"info"` for what harms nobody, `"unverified"` for what cannot be told.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from captured import capture

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode, Report, Severity
from kubectl_svcroute.model.snapshot import NodeDump

from .cluster import Setup
from .in_nft import missing
from .snapshots import Objects, more_kinds

COMMON = {"mode": "nftables", "families": (4, 6), "cluster_cidrs": ("10.244.0.0/16", "fd00:244::/32")}
SETUPS = {"1.33": Setup(33, old_base_chains=True, **COMMON), "1.35": Setup(35, service_cidrs=("10.96.0.0/16",), **COMMON)}
K = "default/kuard"
Json = dict[str, Any]


class Cluster:
    def __init__(self, version: str) -> None:
        objects = Objects(capture("v1.36-nftables"))
        objects.nodes(1)
        more_kinds(objects)
        objects.keep(frozenset({"itp-node", "both-local", "ranged", "sticky-local"}))
        with TemporaryDirectory() as folder:
            snapshot = load_snapshot(objects.write(Path(folder) / "s", SETUPS[version]))
            self.api = snapshot.api
            self.dump = next(dump for dump in (handle.read() for handle in snapshot.nodes) if isinstance(dump, NodeDump))
        services = objects.lists["services"]["items"]
        self.ips = {f"{s['metadata']['namespace']}/{s['metadata']['name']}": s["spec"].get("clusterIP") for s in services}

    def judge(self, files: dict[str, str]) -> Report:
        return audit(self.api, [dataclasses.replace(self.dump, files={**self.dump.files, **files})])


cluster = cache(Cluster)


class Ruleset:
    """`nft -j`'s list of table ip kube-proxy, to be changed."""

    def __init__(self, text: str) -> None:
        self.items: list[Json] = json.loads(text)["nftables"]

    @property
    def text(self) -> str:
        return json.dumps({"nftables": self.items})

    def chain(self, name: str) -> str:
        """A chain by its name, or by its name without the hash."""
        for item in self.items:
            found = item.get("chain")
            if found and found["family"] == "ip":
                kind, _, rest = found["name"].partition("-")
                if name in (found["name"], f"{kind}-{rest.partition('-')[2]}"):
                    return str(found["name"])
        raise KeyError(name)

    def rules(self, chain: str, having: str = "") -> list[Json]:
        name = self.chain(chain)
        found = [i for i in self.items if "rule" in i and (i["rule"]["family"], i["rule"]["chain"]) == ("ip", name)]
        found = [i for i in found if having in json.dumps(i)]
        assert found, chain
        return found

    def drop(self, chain: str, having: str = "") -> None:
        gone = {id(item) for item in self.rules(chain, having)}
        self.items = [item for item in self.items if id(item) not in gone]

    def add(self, chain: str, *expr: Json) -> None:
        """A rule at the head of a chain."""
        rule = {"family": "ip", "table": "kube-proxy", "chain": self.chain(chain), "handle": 9999, "expr": list(expr)}
        self.items.insert(self.items.index(self.rules(chain)[0]), {"rule": rule})

    def set(self, name: str) -> Json:
        found = (i.get("set") or i.get("map") or {} for i in self.items)
        return next(s for s in found if s.get("name") == name and s["family"] == "ip")

    def without(self, name: str, *having: str) -> None:
        """A set without the elements that hold these texts."""
        held = self.set(name)
        kept = [e for e in held["elem"] if not all(text in json.dumps(e) for text in having)]
        assert len(kept) < len(held["elem"])
        held["elem"] = kept

    def replace(self, old: str, new: str, *, chains: tuple[str, ...]) -> None:
        """In the rules of the chains that begin so."""
        for n, item in enumerate(self.items):
            if "rule" in item and item["rule"]["chain"].startswith(chains):
                self.items[n] = json.loads(json.dumps(item).replace(old, new))

    def table(self, name: str, hook: str, priority: int, *exprs: list[Json]) -> None:
        """Another program's table, with one base chain."""
        own = {"family": "inet", "table": name}
        chain = {**own, "name": "c", "handle": 1, "type": "filter", "hook": hook, "prio": priority, "policy": "accept"}
        self.items += [{"table": {"family": "inet", "name": name, "handle": 99}}, {"chain": chain}]
        self.items += [{"rule": {**own, "chain": "c", "handle": 2 + n, "expr": e}} for n, e in enumerate(exprs)]


def to(address: Any) -> Json:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": address}}


def numgen(r: Ruleset) -> Json:
    rule = r.rules("service-default/kuard/tcp/", "numgen")[0]["rule"]["expr"]
    found: Json = next(s["vmap"] for s in rule if "vmap" in s)
    return found


IPTABLES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
HOOK-A KUBE-SERVICES -d 10.96.0.99/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.1.9:80
COMMIT
"""
UNREAD = {
    "nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "firewalld", "handle": 5}},
        {
            "chain": {
                "family": "inet",
                "table": "firewalld",
                "name": "f",
                "handle": 1,
                "type": "filter",
                "hook": "forward",
                "prio": 10,
            }
        },
    ]
}


def fewer_slots(r: Ruleset, c: Cluster) -> None:
    del numgen(r)["data"]["set"][1]


def swapped(r: Ruleset, c: Cluster) -> None:
    elements = r.set("service-ips")["elem"]
    web, edge = (next(e for e in elements if e[0] == {"concat": [c.ips[s], "tcp", 80]}) for s in ("shop/web", "shop/edge"))
    web[1], edge[1] = edge[1], web[1]


def local_to_cluster(r: Ruleset, c: Cluster) -> None:
    for rule in r.rules("external-more/sticky-local/tcp/", '"goto": {"target": "local-'):
        rule["rule"]["expr"] = json.loads(json.dumps(rule["rule"]["expr"]).replace('"local-', '"service-'))


def deleted(r: Ruleset, c: Cluster) -> None:
    name = "service-ABCDEFGH-gone/old/tcp/http"
    r.set("service-ips")["elem"].append([{"concat": ["10.96.99.99", "tcp", 80]}, {"goto": {"target": name}}])
    r.items.append({"chain": {"family": "ip", "table": "kube-proxy", "name": name, "handle": 9990}})
    r.items.append({"rule": {**r.rules("service-default/kuard/tcp/", "numgen")[0]["rule"], "chain": name}})


def dropped(r: Ruleset, c: Cluster) -> None:
    element = {"elem": {"val": {"concat": [c.ips["shop/api"], "tcp", 9000]}, "comment": "shop/api:grpc"}}
    r.set("no-endpoint-services")["elem"].append([element, {"drop": None}])


def rejected(r: Ruleset, c: Cluster) -> None:
    element = {"elem": {"val": {"concat": [c.ips[K], "tcp", 8080]}, "comment": K}}
    r.set("no-endpoint-services")["elem"].append([element, {"goto": {"target": "reject-chain"}}])


def ranges(r: Ruleset) -> list[Any]:
    found: list[Any] = r.rules("firewall-more/ranged/tcp/")[0]["rule"]["expr"][0]["match"]["right"]["set"]
    return found


FAULTS: dict[str, tuple[Any, Callable[[Ruleset, Cluster], Any]]] = {
    "fewer-slots": ([K], fewer_slots),
    "swapped": (["shop/web", "shop/edge"], swapped),
    "local-to-cluster": (["more/sticky-local"], local_to_cluster),
    "local-unreached": (
        ["more/sticky-local"],
        lambda r, c: r.drop("external-more/sticky-local/tcp/", '"goto": {"target": "local-'),
    ),
    "pod-shortcut-gone": (["more/sticky-local"], lambda r, c: r.drop("external-more/sticky-local/tcp/", "short-circuit pod")),
    "range-added": (["more/ranged"], lambda r, c: ranges(r).append({"prefix": {"addr": "192.0.2.0", "len": 24}})),
    "range-gone": (["more/ranged"], lambda r, c: ranges(r).remove({"prefix": {"addr": "10.0.0.0", "len": 8}})),
    "firewall-unhooked": (None, lambda r, c: r.drop("filter-prerouting" + ("-pre-dnat" if "pre-dnat" in r.text else ""))),
    "node-ports-empty": (None, lambda r, c: r.set("service-nodeports").pop("elem")),
    "drop-gone": (["more/both-local"], lambda r, c: r.without("no-endpoint-services", "more/both-local")),
    "affinity-set-not-fed": (["shop/cart"], lambda r, c: r.drop("endpoint-shop/cart/tcp/tcp__10.244.3.13/7000", "@affinity")),
    "masquerade-gone": ([K], lambda r, c: r.drop("service-default/kuard/tcp/", "mark-for-masquerade")),
    "wrong-cidr": (None, lambda r, c: r.replace("10.244.0.0", "10.200.0.0", chains=("service-", "local-"))),
    "hairpin-gone": ([K], lambda r, c: r.drop("endpoint-default/kuard/tcp/__10.244.1.2/8080", "mark-for-masquerade")),
    "chain-accepts": ([K], lambda r, c: r.add("service-default/kuard/tcp/", {"accept": None})),
    "chain-empty": ([K], lambda r, c: r.drop("service-default/kuard/tcp/")),
    "return-one": ([K], lambda r, c: r.add("services", to(c.ips[K]), {"return": None})),
    "accept-all": (None, lambda r, c: r.add("services", {"accept": None})),
    "deleted-service": (["gone/old"], deleted),
    "dropped-though-served": (["shop/api"], dropped),
    "rejected-though-served": ([K], rejected),
    "foreign-drop-one": ([K], lambda r, c: r.table("fw", "prerouting", -150, [to(c.ips[K]), {"drop": None}])),
    "foreign-harmless": ("none", lambda r, c: r.table("fw", "input", 0, [to("192.0.2.9"), {"drop": None}])),
    "foreign-unread": ("not judged", lambda r, c: {"nft-tables.json": json.dumps(UNREAD)}),
    "unknown-expression": (
        "unverified",
        lambda r, c: r.add("services", {"xt": {"type": "match", "name": "bpf"}}, {"return": None}),
    ),
    "iptables-live": (None, lambda r, c: {"iptables-save.txt": IPTABLES.replace("HOOK", "-A PREROUTING -j KUBE-SERVICES\n")}),
    "iptables-idle": ("info", lambda r, c: {"iptables-save.txt": IPTABLES.replace("HOOK", "")}),
}


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=f"no kernel to ask: {missing()}")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_where_it_is_and_nowhere_else(name: str) -> None:
    truth, edit = FAULTS[name]
    healthy = cluster(list(SETUPS)[len(name) % 2])
    rules = Ruleset(healthy.dump.files["nft-ruleset.json"])
    more = edit(rules, healthy)
    report = healthy.judge({"nft-ruleset.json": rules.text, **(more if isinstance(more, dict) and "elem" not in more else {})})
    bad = [f for f in report.findings if f.severity is not Severity.INFO]
    seen = [(f.code, f.service, f.message) for f in bad]
    if truth == "unverified":
        assert seen == []
        assert report.exit_code() is ExitCode.NOT_VERIFIED
        assert report.unverified
        return
    assert report.unverified == ()
    if truth in ("none", "info", "not judged"):
        assert seen == []
        assert report.exit_code() is ExitCode.OK
        assert truth != "info" or report.findings
        assert truth != "not judged" or report.not_judged
        return
    assert {f.service for f in bad} == ({None} if truth is None else set(truth)), seen
    assert report.exit_code() is ExitCode.FINDINGS
