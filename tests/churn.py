"""A cluster in which everything changes all the time, on a clock of its own: endpoints come and go, and each node's rules follow.

Real rules of a real kube-proxy, of which endpoints are taken out and put back as it would do it. Every node writes what the API
had `lag` seconds ago, so at almost every moment rules and objects differ, and nothing is wrong. `hurt` takes an endpoint's rule
out of one node for good: the real fault that has to be found meanwhile.
"""

from __future__ import annotations

import copy
import random
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from captured import capture

from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.collect.fanout import NodeTarget
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeOutcome, Snapshot, Unreachable

NAME = "v1.36-iptables-nft"
SERVICES = ("default/kuard", "shop/web")


@cache
def snapshot() -> Snapshot:
    """The cluster at rest."""
    return load_snapshot(capture(NAME))


@cache
def dump(node: str) -> NodeDump:
    """A node at rest."""
    found = next(handle.read() for handle in snapshot().nodes if handle.node == node)
    assert isinstance(found, NodeDump)
    return found


@cache
def slices() -> dict[str, dict[str, Any]]:
    """The one EndpointSlice of each Service that changes."""
    found = {}
    for item in snapshot().api.items("endpointslices"):
        key = f"{item['metadata']['namespace']}/{item['metadata'].get('labels', {}).get('kubernetes.io/service-name')}"
        if key in SERVICES and item["addressType"] == "IPv4":
            assert key not in found
            found[key] = item
    return found


def addresses(service: str) -> list[str]:
    """All endpoints that a Service can have."""
    return sorted(e["addresses"][0] for e in slices()[service]["endpoints"] if e["conditions"].get("ready"))


def without(text: str, service: str, gone: set[str]) -> str:
    """Rules without some endpoints of a Service, as kube-proxy writes them: their chains gone, the others' shares even."""
    if not gone:
        return text
    lines = text.split("\n")
    endpoint = {m[1]: m[2] for line in lines if (m := re.match(r"-A (KUBE-SEP-\S+) .*-j DNAT --to-destination ([\d.]+):", line))}
    chains: dict[str, list[int]] = defaultdict(list)
    for n, line in enumerate(lines):
        if found := re.match(rf'-A (KUBE-SVC-\S+) .*"{service}(:\S+)? -> .*-j KUBE-SEP-', line):
            chains[found[1]].append(n)
    fresh: dict[int, str] = {}
    drop: set[int] = set()
    dead: set[str] = set()
    for balancing in chains.values():
        out = [n for n in balancing if endpoint[lines[n].rpartition(" ")[2]] in gone]
        kept = [n for n in balancing if n not in out]
        assert kept
        drop.update(out)
        dead.update(lines[n].rpartition(" ")[2] for n in out)
        for place, n in enumerate(kept):
            line = re.sub(r" -m statistic --mode random --probability \S+", "", lines[n])
            left = len(kept) - place
            chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            fresh[n] = re.sub(r" -j (KUBE-SEP-\S+)$", rf"{chance} -j \1", line)
    return "\n".join(
        fresh.get(n, line)
        for n, line in enumerate(lines)
        if n not in drop and not any(line.startswith((f":{chain} ", f"-A {chain} ")) for chain in dead)
    )


@dataclass
class Churn:
    """The cluster and its clock. Also what `Live` asks for: `refresh`, `clock`, `sleep`, and a reader of nodes."""

    seed: int
    nodes: tuple[str, ...]
    lag: tuple[float, float] = (0.5, 8.0)
    every: tuple[float, float] = (0.5, 4.0)
    """Seconds between two changes."""
    changing: tuple[str, ...] = SERVICES
    now: float = 1000.0
    hurt: tuple[str, str, str] | None = None
    """(node, Service, address): the rule that is lost."""
    stuck: dict[str, frozenset[str]] = field(default_factory=dict)
    """Service -> the endpoints that are out of every node's rules, whatever the API says: nothing is written any more."""
    deaf: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Node -> when it cannot be read."""
    timeline: dict[str, list[tuple[float, frozenset[str]]]] = field(default_factory=dict)
    read_seconds: float = 0.2

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self._lags = {node: rng.uniform(*self.lag) for node in self.nodes}
        self._lock = threading.Lock()
        self.timeline = {service: [(0.0, frozenset())] for service in SERVICES}
        at = self.now - 60
        while at < self.now + 400 and self.changing:
            at += rng.uniform(*self.every)
            service = rng.choice(self.changing)
            all_of = addresses(service)
            self.timeline[service].append((at, frozenset(rng.sample(all_of, rng.randrange(len(all_of))))))

    def clock(self) -> float:
        with self._lock:
            return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds

    def calm(self, service: str, apart: float, stays: set[str]) -> None:
        """Let a Service change at most every `apart` seconds, and some of its endpoints never: a lost rule of one that changes
        all the time would not stay lost, because kube-proxy writes a Service's rules anew when it changes.
        """
        kept: list[tuple[float, frozenset[str]]] = []
        for at, out in self.timeline[service]:
            if not kept or at - kept[-1][0] >= apart:
                kept.append((at, out - stays))
        self.timeline[service] = kept

    def gone(self, service: str, at: float) -> tuple[int, frozenset[str]]:
        """(how many changes there were, the endpoints that are out) at a moment."""
        found = [(n, out) for n, (when, out) in enumerate(self.timeline[service]) if when <= at]
        return found[-1]

    def api(self) -> ApiObjects:
        """The objects as they are now."""
        self.sleep(0.05)
        now = self.clock()
        items = []
        for item in snapshot().api.items("endpointslices"):
            key = next((service for service, mine in slices().items() if mine is item), None)
            if key is None:
                items.append(item)
                continue
            number, out = self.gone(key, now)
            changed = copy.deepcopy(item)
            changed["metadata"]["resourceVersion"] = f"{number + 1}"
            changed["endpoints"] = [e for e in item["endpoints"] if e["addresses"][0] not in out]
            items.append(changed)
        objects = {**snapshot().api.objects, "endpointslices": {"kind": "EndpointSliceList", "items": items}}
        return replace(snapshot().api, objects=objects)

    def refresh(self, before: ApiObjects) -> ApiObjects:
        return self.api()

    def read(self, target: NodeTarget) -> NodeOutcome:
        """The node's rules: those of `lag` seconds ago."""
        self.sleep(self.read_seconds)
        now = self.clock()
        start, end = self.deaf.get(target.name, (0.0, 0.0))
        if start <= now < end:
            return Unreachable(node=target.name, reason="ssh: connection refused", via="ssh")
        text = dump(target.name).files["iptables-save.txt"]
        for service in SERVICES:
            out = self.stuck.get(service) or self.gone(service, now - self._lags[target.name])[1]
            text = without(text, service, set(out))
        if self.hurt is not None and self.hurt[0] == target.name:
            address = re.escape(self.hurt[2])
            pattern = rf'^-A (KUBE-SEP-\S+) .*"{self.hurt[1]}(?::[\w-]+)?" .*--to-destination {address}:'
            found = re.search(pattern, text, re.MULTILINE)
            assert found, "the endpoint that loses its rule is there at all times"
            text = re.sub(rf"^-A KUBE-SVC-\S+ .*-j {found[1]}\n", "", text, flags=re.MULTILINE)
        return replace(dump(target.name), files={**dump(target.name).files, "iptables-save.txt": text}, via="ssh")

    def close(self) -> None:
        """Nothing to close."""
