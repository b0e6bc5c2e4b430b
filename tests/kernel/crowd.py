"""A captured cluster with many Services that are alike: what large clusters are made of, and what the audit has short cuts for.

Two Services of a capture are copied again and again, under other names and addresses, in the API and in the nodes' rules.
The copies' chains have the names that kube-proxy would give them. What comes out is healthy, and a test says so.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from captured import capture

from kubectl_svcroute.expect.names import endpoint_hash, nft_endpoint, nft_service, service_hash
from kubectl_svcroute.model.net import Protocol

COUNT = 10
"""Copies of each model: as many as it takes for chains to be indexed, and a short cut to have something to leave out."""
_PREFIX = "crowd-"
_MODELS = (("default", "kuard"), ("shop", "web"))


def is_crowd(name: str) -> bool:
    """Whether a capture's name is that of a crowd."""
    return name.startswith(_PREFIX)


def crowd_of(name: str) -> str:
    """The name of the crowd that is made of a capture."""
    return _PREFIX + name


@cache
def folder(name: str) -> Path:
    """The snapshot folder of a capture or of a crowd, made once a machine."""
    if not is_crowd(name):
        return capture(name)
    source = capture(name[len(_PREFIX) :])
    target = source.with_name(f"{_PREFIX}{COUNT}-{source.name}")
    if not target.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=source.parent, prefix="unpacking-"))
        try:
            _make(source, scratch / "made")
            (scratch / "made").rename(target)
        except OSError:
            if not target.is_dir():  # of two processes that make it at once, one comes second
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


@dataclass
class _Copy:
    """One Service's new name and addresses, and what that changes in text."""

    namespace: str
    old: str
    new: str
    words: dict[str, str]
    """Whatever stands in rules for the old one -> the same for the new one."""
    cluster_ip: str
    node_ports: dict[int, int]

    def __post_init__(self) -> None:
        longest_first = sorted(self.words, key=len, reverse=True)
        self.find = re.compile(r"(?<![\w.])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w]|\.\d)")

    def of(self, text: str) -> str:
        """The text with the one's words in the other's place."""
        return self.find.sub(lambda found: self.words[found[0]], text)

    def concerns(self, text: str) -> bool:
        """Whether the old one is meant."""
        return self.find.search(text) is not None


def _make(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("faults"))
    documents = {path: json.loads(path.read_text()) for path in (target / "api").glob("*.json")}
    services = documents[target / "api/services.json"]["items"]
    slices = documents[target / "api/endpointslices.json"]["items"]
    copies = [copy for index in range(COUNT) for copy in _copies(index, services, slices)]
    for path, document in documents.items():
        if path.stem in ("services", "endpointslices", "endpoints"):
            document["items"] += [found for copy in copies for found in _objects(document["items"], copy)]
            path.write_text(json.dumps(document))
    for node in (target / "nodes").iterdir():
        for path in node.iterdir():
            if path.name in ("iptables-save.txt", "nft-ruleset.txt"):
                grow = _grow_iptables if path.name == "iptables-save.txt" else _grow_nft
                path.write_text(grow(path.read_text(), copies))
        (node / "nft-ruleset.json").unlink(missing_ok=True)  # the text is the whole truth of a crowd


def _copies(index: int, services: list[dict[str, Any]], slices: list[dict[str, Any]]) -> Iterator[_Copy]:
    for model, (namespace, name) in enumerate(_MODELS):
        service = next(s for s in services if (s["metadata"]["namespace"], s["metadata"]["name"]) == (namespace, name))
        mine = [
            s for s in slices
            if s["metadata"]["namespace"] == namespace and s["metadata"]["labels"].get("kubernetes.io/service-name") == name
        ]  # fmt: skip
        new = f"{name}-{index}"
        cluster_ip = f"10.96.{70 + model}.{10 + index}"
        words = {service["spec"]["clusterIP"]: cluster_ip, f"{namespace}/{name}": f"{namespace}/{new}"}
        node_ports = {}
        addresses = {}
        for piece in mine:
            for endpoint in piece["endpoints"]:
                for address in endpoint["addresses"]:
                    # 10.244.N.M -> another address of the same node's pods.
                    addresses[address] = f"{address.rpartition('.')[0]}.{100 + model * 50 + index}"
        words.update(addresses)
        for port in service["spec"]["ports"]:
            proto, label = Protocol(port.get("protocol", "TCP")), port.get("name", "")
            if "nodePort" in port:
                node_ports[port["nodePort"]] = 31000 + 100 * len(node_ports) + index
            for colon in (True, False):
                old_hash, new_hash = (service_hash(namespace, n, label, proto, colon=colon) for n in (name, new))
                words.update({f"KUBE-{kind}-{old_hash}": f"KUBE-{kind}-{new_hash}" for kind in ("SVC", "EXT")})
            old_name, new_name = (nft_service(namespace, n, label, proto) for n in (name, new))
            words.update({f"{kind}-{old_name}": f"{kind}-{new_name}" for kind in ("service", "external")})
            for piece in mine:
                number = next(p["port"] for p in piece["ports"] if p.get("name", "") == label)
                for pair in addresses.items():
                    ends = tuple(zip((name, new), pair, strict=True))
                    for colon in (True, False):
                        old_end, new_end = (endpoint_hash(namespace, n, label, proto, a, number, colon=colon) for n, a in ends)
                        words[f"KUBE-SEP-{old_end}"] = f"KUBE-SEP-{new_end}"
                    old_end, new_end = (nft_endpoint(namespace, n, label, proto, a, number) for n, a in ends)
                    words[f"endpoint-{old_end}"] = f"endpoint-{new_end}"
        words.update({str(old): str(other) for old, other in node_ports.items()})
        yield _Copy(namespace, name, new, words, cluster_ip, node_ports)


def _objects(items: list[dict[str, Any]], copy: _Copy) -> Iterator[dict[str, Any]]:
    for item in list(items):
        meta = item["metadata"]
        owner = (meta.get("labels") or {}).get("kubernetes.io/service-name", meta["name"])
        if meta["namespace"] != copy.namespace or owner != copy.old:
            continue
        found: dict[str, Any] = json.loads(copy.of(json.dumps(item)))
        found["metadata"]["name"] = meta["name"].replace(copy.old, copy.new, 1)
        if "labels" in meta and "kubernetes.io/service-name" in meta["labels"]:
            found["metadata"]["labels"]["kubernetes.io/service-name"] = copy.new
        for port in found.get("spec", {}).get("ports", ()):
            if "nodePort" in port:
                port["nodePort"] = copy.node_ports.get(port["nodePort"], port["nodePort"])
        yield found


def _grow_iptables(text: str, copies: list[_Copy]) -> str:
    lines = []
    for line in text.splitlines():
        lines.append(line)
        # A Service's rules bear its chains' names or, in a comment, its own.
        for copy in copies:
            if any(found[0].startswith("KUBE-") or "/" in found[0] for found in copy.find.finditer(line)):
                lines.append(copy.of(line))
    return "\n".join(lines) + "\n"


def _grow_nft(text: str, copies: list[_Copy]) -> str:
    def grown(found: re.Match[str]) -> str:
        elements = [element.strip() for element in found[1].split(",\n") for element in _split(element)]
        more = [copy.of(element) for element in elements for copy in copies if copy.concerns(element)]
        return "elements = { " + ",\n\t\t\t     ".join([*elements, *more]) + " }\n"

    start = text.find("table ip6 ")
    four, six = (text, "") if start < 0 else (text[:start], text[start:])
    blocks = []
    for block in re.split(r"(?m)^(?=\tchain )", re.sub(r"elements = \{ (.*?) \}\n", grown, four, flags=re.DOTALL)):
        blocks.append(block)
        # The last block of a table holds the table's end, which is no part of the chain.
        body, closed, _ = block.partition("\n\t}\n")
        name = block.split(None, 2)[1]
        for copy in copies:
            if block.startswith("\tchain ") and name in copy.words:
                blocks.insert(len(blocks) - 1, copy.of(body + closed) + "\n")
    return "".join(blocks) + six


def _split(element: str) -> list[str]:
    # A set of single addresses has several on a line.
    return element.split(", ")
