"""What is fuzzed: each parser of text that somebody else wrote, with real texts to begin from and the errors that are its own.

Most parsers look at a rule only when a walk comes to it. So a target reads everything that it was given: all rules, all
statements; and the last ones are the whole audit, which may never raise for what a node says.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from captured import CAPTURES, capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.checks.node import health, parse_sysctl
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.collect.known_hosts import KnownHosts, parse_line
from kubectl_svcroute.collect.node_script import framed, node_dump
from kubectl_svcroute.errors import CollectError, ParseError, SnapshotError, UsageError
from kubectl_svcroute.model.nft import NftRules
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.shard import ShardOf
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, Unreachable
from kubectl_svcroute.observe.iptables_rule import compile_rule
from kubectl_svcroute.parse.conntrack import parse_flows
from kubectl_svcroute.parse.iptables_save import parse_iptables_save
from kubectl_svcroute.parse.kube_objects import build_config, parse_cluster
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_other_tables import foreign_tables
from kubectl_svcroute.parse.nft_text import parse_nft_text
from kubectl_svcroute.parse.proxy_config import (
    duration,
    settings_from_configz,
    settings_from_file,
    settings_from_flags,
    version_of,
)
from kubectl_svcroute.parse.proxy_metrics import sync_state
from kubectl_svcroute.parse.proxy_mode import node_mode
from kubectl_svcroute.render import render
from kubectl_svcroute.run.check import matches_selector
from kubectl_svcroute.shards.merge import merge
from kubectl_svcroute.shards.read import parts_of
from kubectl_svcroute.shards.run import PartOf

NONCE = "svcroute-0123456789abcdef"


@dataclass(frozen=True)
class Target:
    """A parser and what it may do."""

    name: str
    read: Callable[[str], object]
    """Reads a text as far as it can be read; what it returns says what was understood, where `whole`."""
    errors: tuple[type[Exception], ...]
    samples: Callable[[], list[str]]
    whole: bool = False
    """A text that is cut anywhere is refused; or, where only white space is missing, read as the whole is."""
    dear: bool = False
    """One run takes long: fewer are made."""


@cache
def _file(name: str, file: str) -> str:
    node = sorted((capture(name) / "nodes").iterdir())[1]
    return (node / file).read_text()


def _texts(file: str, *, mode: str) -> Callable[[], list[str]]:
    return lambda: [_file(name, file) for name in CAPTURES if mode in name]


# ---- what reads a rule set to its last word ------------------------------------------------------------------------------


def _iptables(text: str) -> object:
    found = parse_iptables_save(text, family=4)
    for table in found.tables.values():
        for rules in table.chains.values():
            for rule in rules:
                with suppress(ParseError):
                    compile_rule(rule)
    return {name: (table.chains, table.policies) for name, table in found.tables.items()}


def _statements(found: NftRules) -> object:
    return {
        key: (
            {name: [rule.text for rule in chain.rules] for name, chain in table.chains.items()},
            {name: [str(element) for element in one.elements] for name, one in table.sets.items()},
        )
        for key, table in found.tables.items()
    }


def _nft_json(text: str) -> object:
    foreign_tables(text, walked=())
    return _statements(parse_nft_json(text))


def _nft_text(text: str) -> object:
    return _statements(parse_nft_text(text))


# ---- the API's side ------------------------------------------------------------------------------------------------------


@cache
def _objects(name: str) -> dict[str, str]:
    return {path.stem: path.read_text() for path in (capture(name) / "api").glob("*.json")}


def _api(key: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:  # whoever read it from the API server or the archive says so
            raise ParseError(str(error)) from error
        if not isinstance(found, dict) or not all(isinstance(item, dict) for item in found.get("items") or ()):
            raise ParseError("no List: refused where it is read")
        objects = {name: json.loads(other) for name, other in _objects(CAPTURES[-1]).items()}
        state = parse_cluster(ApiObjects(objects={**objects, key: found}))
        return [state.slices[service] for service in state.slices]

    return read


def _pieces(key: str) -> Callable[[], list[str]]:
    """A List's items in small groups, so that a change hits something."""

    def made() -> list[str]:
        whole = json.loads(_objects(CAPTURES[-1])[key])
        if "items" not in whole:
            return [json.dumps(whole)]
        return [json.dumps({**whole, "items": whole["items"][at : at + 2]}) for at in range(0, len(whole["items"]), 2)]

    return made


def _configz() -> list[str]:
    config = {
        "Mode": "nftables", "ClusterCIDR": "10.244.0.0/16,fd00:244::/56", "DetectLocalMode": "NodeCIDR",
        "FeatureGates": {"A": True},
        "IPTables": {"MasqueradeBit": 14, "MasqueradeAll": False, "SyncPeriod": {"Duration": 30000000000}},
        "NFTables": {"MasqueradeBit": 10, "SyncPeriod": "1m30s"}, "NodePortAddresses": ["primary"],
    }  # fmt: skip
    return [json.dumps({"kubeproxy.config.k8s.io": config})]


def _config_files() -> list[str]:
    yaml = [text for name in CAPTURES for text in json.loads(_objects(name)["configmap-kube-proxy"])["data"].values()]
    return [text for text in yaml if "KubeProxyConfiguration" in text]


def _config_file(text: str) -> object:
    return build_config((1, 30), settings_from_file(text, source="f"))


def _flags(text: str) -> object:
    version_of(text)
    duration(text)
    return build_config((1, 30), settings_from_flags(text.splitlines()))


# ---- what comes over a wire, or in a file ---------------------------------------------------------------------------------


def _sections(text: str) -> object:
    return node_dump(text.encode("utf-8", "surrogateescape"), NONCE, node="n", via="ssh", taken=0.0).files


def _framed() -> list[str]:
    rules = b"*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    printed = [("proxy-mode.txt", b"iptables", b"", 0), ("iptables-save.txt", rules, b"warning", 0)]
    return [framed(NONCE, [*printed, ("sysctl.txt", b"", b"no", 127)]).decode()]


def _archive(text: str) -> object:
    """The text is the tar within a right gzip: else every change would be a wrong checksum."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.tar.gz"
        path.write_bytes(gzip.compress(text.encode("latin-1", "replace"), compresslevel=0))
        snapshot = load_snapshot(path)
        return [handle.read() for handle in snapshot.nodes]


def _archives() -> list[str]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in (
            ("api/services.json", '{"kind":"ServiceList","items":[]}'), ("api/nodes.json", '{"kind":"NodeList","items":[]}'),
            ("nodes/a/proxy-mode.txt", "iptables\n"), ("nodes/b/unreachable.txt", "no route\n"), ("cluster.json", "{}"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return [out.getvalue().decode("latin-1")]


def _known_hosts(text: str) -> object:
    for line in text.splitlines():
        with suppress(ValueError):
            if (key := parse_line(line, "f:1")) is not None:
                KnownHosts([key]).lines_for("host", 22)
    return None


def _selector(text: str) -> object:
    return matches_selector(text, {"app": "web", "tier": "front"})


def _reports() -> list[str]:
    judge, api = _audit(_OLD), ApiObjects(objects={key: json.loads(text) for key, text in _objects(_OLD).items()})
    results = [judge.node(Unreachable(node=name, reason="no route")) for name in ("a", "b")]
    one = ShardOf(index=1, count=1)
    part = PartOf(of=one, origin="here", asked="{}", listed=("a", "b"), api=api, source="snapshot", everybody=True)
    report = part.report(judge, results)
    return [render(report, kind) for kind in ("json", "yaml", "shard")]


def _parts(text: str) -> object:
    return merge(parts_of(text, "f"))


def _mode(text: str) -> object:
    return node_mode({"iptables-save.txt": text, "nft-tables.json": text, "proxy-mode.txt": text[:40]})


# ---- the whole ------------------------------------------------------------------------------------------------------------


@cache
def _audit(name: str) -> Audit:
    return Audit(ApiObjects(objects={key: json.loads(text) for key, text in _objects(name).items()}), Selection())


def _node(name: str, file: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        node = sorted((capture(name) / "nodes").iterdir())[1]
        files = {path.name: path.read_text() for path in node.iterdir() if not path.name.startswith("nft-ruleset")}
        result = _audit(name).judged(NodeDump(node=node.name, files={**files, file: text}))
        return [(f.code, f.message) for f in result.findings], result.unverified

    return read


_FLAGS = """kube-proxy
--cluster-cidr=10.244.0.0/16
--proxy-mode
iptables
--iptables-masquerade-bit=14
--feature-gates=A=true,B=false
--iptables-sync-period=1m30s
--nodeport-addresses=10.0.0.0/8
"""
_METRICS = """# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.7e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.70000012e+09 1700000200
1700000300
"""
_FLOWS = """\
udp      17 29 src=10.244.1.5 dst=10.96.0.10 sport=4 dport=53 [UNREPLIED] src=10.244.1.14 dst=10.244.1.5 sport=53 dport=4 mark=0
ipv6     10 tcp      6 117 TIME_WAIT src=fd00::1 dst=fd00::2 sport=1 dport=2 src=fd00::2 dst=fd00::1 sport=2 dport=1 zone=0 use=2
"""
_KNOWN = """host,[a]:22 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh4
@cert-authority *.x,!y ssh-rsa AAAAB3NzaC1yc2EAAA==
|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh4
"""
_OLD, _NFT, _NEW = "v1.17-iptables-legacy", "v1.31-nftables", "v1.36-nftables"

TARGETS: tuple[Target, ...] = (
    Target("iptables-save", _iptables, (ParseError,), _texts("iptables-save.txt", mode="iptables"), whole=True),
    Target("nft-json", _nft_json, (ParseError,), _texts("nft-ruleset.json", mode="nftables"), whole=True),
    Target("nft-text", _nft_text, (ParseError,), _texts("nft-ruleset.txt", mode="nftables"), whole=True),
    *(Target(f"api-{key}", _api(key), (ParseError,), _pieces(key), whole=True)
      for key in ("services", "endpointslices", "endpoints", "nodes", "pods", "configmap-kube-proxy", "version")),
    Target("configz", lambda text: settings_from_configz(text, source="f"), (ParseError,), _configz, whole=True),
    Target("proxy-config", _config_file, (ParseError,), _config_files),
    Target("flags", _flags, (ParseError,), lambda: [_FLAGS]),
    Target("sysctl", parse_sysctl, (ParseError,), _texts("sysctl.txt", mode="v1")),
    Target("healthz", lambda text: list(health(text)), (ParseError,), _texts("healthz.json", mode="v1"), whole=True),
    Target("metrics", lambda text: sync_state(text, text[-12:]), (ParseError,), lambda: [_METRICS]),
    Target("conntrack", lambda text: list(parse_flows(text.splitlines())), (ParseError,), lambda: [_FLOWS]),
    Target("reports", _parts, (UsageError,), _reports),
    Target("mode", _mode, (ParseError,), _texts("proxy-mode.txt", mode="v1")),
    Target("node-output", _sections, (CollectError,), _framed, whole=True),
    Target("archive", _archive, (SnapshotError,), _archives, whole=True),
    Target("known-hosts", _known_hosts, (), lambda: [_KNOWN]),
    Target("selector", _selector, (UsageError,), lambda: ["app=web,tier!=back,a in (b,c),!d,e notin (f),g==h, i"]),
    Target("audit-iptables", _node(_OLD, "iptables-save.txt"), (), lambda: [_file(_OLD, "iptables-save.txt")], dear=True),
    Target("audit-nft-json", _node(_NEW, "nft-ruleset.json"), (), lambda: [_file(_NEW, "nft-ruleset.json")], dear=True),
    Target("audit-nft-text", _node(_NFT, "nft-ruleset.txt"), (), lambda: [_file(_NFT, "nft-ruleset.txt")], dear=True),
)  # fmt: skip

BY_NAME = {target.name: target for target in TARGETS}


def cuts(text: str, most: int) -> Iterator[int]:
    """Places to cut a text: every one of its end, and a choice of the others."""
    yield from range(max(0, len(text) - most // 3), len(text))
    yield from range(0, len(text), max(1, len(text) // most))
