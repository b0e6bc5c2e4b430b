"""A part's report as merging needs it: every node's result and what the API says, to the last digit, in few bytes.

Values that stand many times (thousands of nodes have the same of most Services) are kept once, in a table, and named by
their number. What is left is JSON, gzip'd: hundreds of nodes fit into a pod's log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import UsageError
from ..model.facts import EndpointFact, Facts, ServiceFacts
from ..model.fast_dataclass import dataclass
from ..model.net import Backend
from ..model.node_result import NodeResult, ShareKey
from ..model.report import Finding, NodeRow, NotJudged, Severity, Unverified, read_code
from ..model.snapshot import ApiObjects
from ..observe.config_votes import Inference, Votes

_LINE = 4096
"""Characters of a line of base64: logs are cut at some kilobytes, and people's terminals are too."""
_MOST = 1 << 29
"""Bytes that results may unpack to: those of 2,000 nodes and 5,000 Services have a tenth of that."""
_MOST_VALUES = 10_000_000
"""Values in them: each takes a hundred bytes of memory, however short it is in the text."""


_FOR_THE_RUN = frozenset({"about", "cause"})
"""Fields of a finding that tell two sights of it apart while the cluster is read, and are of no use afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a part found out."""

    listed: tuple[str, ...]
    """All nodes that were asked about, those of other parts as well."""
    facts: Facts
    """`notes` are without the one about the inference."""
    inference: Inference | None
    everybody: bool
    """Whether all nodes voted in the inference, or those of this part alone."""
    results: tuple[NodeResult, ...]


def pack(contents: Contents) -> tuple[str, ...]:
    """The contents in lines of base64; the same for the same contents."""
    text = json.dumps(_Packer().contents(contents), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    squeezer = zlib.compressobj(6, zlib.DEFLATED, 31)
    data = base64.b64encode(squeezer.compress(text.encode()) + squeezer.flush()).decode()
    return tuple(data[at : at + _LINE] for at in range(0, len(data), _LINE))


def unpack(lines: Iterable[str]) -> Contents:
    """What `pack` kept. Raises UsageError for anything else."""
    try:
        packed = "".join(lines).encode("ascii")
        data = base64.b64decode(packed, validate=True)
        if base64.b64encode(data) != packed:  # the last character has bits that decoding passes over
            raise ValueError("not as it was written")
        opener = zlib.decompressobj(31)
        text = opener.decompress(data, _MOST)
        if not opener.eof:
            raise UsageError("the results in it are cut off, or larger than any that this program writes")
        if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise UsageError(f"the results in it have more than {_MOST_VALUES} values: no part of an audit has")
        return _Unpacker(json.loads(text)).contents()
    except (ValueError, zlib.error, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise UsageError(f"the results in it are damaged: {type(error).__name__}: {error}") from error


# ---- there -----------------------------------------------------------------------------------------------------------


class _Packer:
    def __init__(self) -> None:
        self._table: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._texts: dict[tuple[str, ...], int] = {}
        self._services: dict[str, int] = {}

    def contents(self, contents: Contents) -> dict[str, Any]:
        facts = contents.facts
        self._services = {service.service: n for n, service in enumerate(facts.services)}
        inference = contents.inference
        return {
            "listed": list(contents.listed),
            "services": [self._service(service) for service in facts.services],
            "notes": list(facts.notes),
            "denied": [plain(item) for item in facts.denied],
            "inference": None if inference is None else {
                "nodes": inference.nodes, "everybody": contents.everybody, "votes": inference.votes.plain(),
            },
            "results": [self._result(result) for result in contents.results],
            "table": self._table,
        }  # fmt: skip

    @staticmethod
    def _service(service: ServiceFacts) -> list[Any]:
        endpoints = [[e.port, *e.backend, e.pod, e.node, e.ready, e.state] for e in service.endpoints]
        return [
            service.service, service.type, service.cluster_ips, service.ports, service.port_order, service.policy,
            service.counts, service.skipped, endpoints,
        ]  # fmt: skip

    def _result(self, result: NodeResult) -> dict[str, Any]:
        shares: dict[str, list[Any]] = {}
        for (service, port, backend), share in result.shares.items():
            shares.setdefault(service, []).append([port, *backend, share])
        return {
            "row": plain(result.row),
            "findings": [plain(finding) for finding in result.findings],
            "unverified": [plain(item) for item in result.unverified],
            "notJudged": [plain(item) for item in result.not_judged],
            "notes": list(result.notes),
            "shares": self._by_service(shares),
            "wrong": sorted([service, port, *backend] for service, port, backend in result.wrong),
            "even": self._names(result.even),
            "unverifiedServices": self._names(result.unverified_services),
            "ways": self._by_service(result.ways),
            "frontends": self._by_service(result.frontends),
        }

    def _names(self, names: Iterable[str]) -> int:
        return self._once([self._services.get(name, name) for name in sorted(names)])

    def _by_service(self, values: Mapping[str, Sequence[Any]]) -> int:
        return self._once([[self._services.get(key, key), self._once(values[key])] for key in sorted(values)])

    def _once(self, value: Sequence[Any]) -> int:
        """The number of a value in the table."""
        if isinstance(value, tuple):  # of texts alone: frontends and ways, of which every node has thousands
            known = self._texts.get(value)
            if known is None:
                known = self._texts[value] = self._entry(value)
            return known
        return self._entry(value)

    def _entry(self, value: Sequence[Any]) -> int:
        text = json.dumps(value, separators=(",", ":"))
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._table)
            self._table.append(list(value))
        return number


def plain(item: Finding | Unverified | NotJudged | NodeRow) -> dict[str, Any]:
    """A frozen record as JSON has it, without what is empty."""
    found = {}
    for f in fields(item):
        value = getattr(item, f.name)
        if value is None or value in ((), "") or f.name in _FOR_THE_RUN:
            continue
        found[f.name] = list(value) if isinstance(value, tuple) else value.value if isinstance(value, Severity) else value
    return found


# ---- and back --------------------------------------------------------------------------------------------------------


class _Unpacker:
    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found
        self._table = found["table"]
        self._names = [service[0] for service in found["services"]]
        self._made: dict[tuple[str, int], Any] = {}

    def contents(self) -> Contents:
        found = self._found
        inference = found["inference"]
        return Contents(
            listed=tuple(found["listed"]),
            facts=Facts(
                services=tuple(self._service(service) for service in found["services"]),
                notes=tuple(found["notes"]),
                denied=tuple(_unverified(item) for item in found["denied"]),
            ),
            inference=None
            if inference is None
            else Inference(nodes=inference["nodes"], votes=Votes.from_plain(inference["votes"])),
            everybody=inference is not None and bool(inference["everybody"]),
            results=tuple(self._result(result) for result in found["results"]),
        )

    @staticmethod
    def _service(service: list[Any]) -> ServiceFacts:
        key, kind, ips, ports, order, policy, counts, skipped, endpoints = service
        return ServiceFacts(
            service=key,
            type=kind,
            cluster_ips=tuple(ips),
            ports=tuple(ports),
            port_order=tuple(order),
            policy=policy,
            counts=(counts[0], counts[1]),
            skipped=skipped,
            endpoints=tuple(
                EndpointFact(port, Backend(address, number), pod, node, ready, state)
                for port, address, number, pod, node, ready, state in endpoints
            ),
        )

    def _result(self, found: dict[str, Any]) -> NodeResult:
        shares: dict[ShareKey, float] = {}
        for key, values in self._map("shares", found["shares"]).items():
            shares.update({(key, port, Backend(address, number)): share for port, address, number, share in values})
        return NodeResult(
            row=NodeRow(**{"mode": "", "version": "", "via": "", **found["row"]}),
            findings=tuple(_finding(item) for item in found["findings"]),
            unverified=tuple(_unverified(item) for item in found["unverified"]),
            not_judged=tuple(_not_judged(item) for item in found.get("notJudged", ())),
            notes=tuple(found["notes"]),
            shares=shares,
            wrong=frozenset((key, port, Backend(address, number)) for key, port, address, number in found["wrong"]),
            even=self._set("even", found["even"]),
            unverified_services=self._set("unverified", found["unverifiedServices"]),
            ways=self._map("ways", found["ways"]),
            frontends=self._map("frontends", found["frontends"]),
        )

    def _name(self, name: int | str) -> str:
        return self._names[name] if isinstance(name, int) else name

    def _set(self, kind: str, number: int) -> frozenset[str]:
        made: frozenset[str] | None = self._made.get((kind, number))
        if made is None:
            made = self._made[kind, number] = frozenset(self._name(name) for name in self._table[number])
        return made

    def _map(self, kind: str, number: int) -> Mapping[str, tuple[Any, ...]]:
        """One object for all nodes that have the same: thousands of nodes cost what one does."""
        made: dict[str, tuple[Any, ...]] | None = self._made.get((kind, number))
        if made is None:
            made = self._made[kind, number] = {self._name(key): self._tuple(value) for key, value in self._table[number]}
        return made

    def _tuple(self, number: int) -> tuple[Any, ...]:
        made: tuple[Any, ...] | None = self._made.get(("tuple", number))
        if made is None:
            made = self._made["tuple", number] = tuple(self._table[number])
        return made


def _finding(item: dict[str, Any]) -> Finding:
    given = {"name": "", "node": None, "service": None, "message": "", **item, "severity": Severity(item["severity"])}
    read_code(given["code"], given["name"])
    return Finding(**{**given, "evidence": tuple(item.get("evidence", ()))})


def _unverified(item: dict[str, Any]) -> Unverified:
    read_code(item["code"])
    return Unverified(**{"node": None, **item, "evidence": tuple(item.get("evidence", ()))})


def _not_judged(item: dict[str, Any]) -> NotJudged:
    given = {"reason": "", **item, "effects": tuple(item["effects"]), "evidence": tuple(item.get("evidence", ()))}
    read_code(given["code"])
    return NotJudged(**given)


# ---- which cluster, at which moment ----------------------------------------------------------------------------------


def cluster_of(api: ApiObjects) -> str:
    """What tells a cluster from all others for as long as it lives: the uid of its namespace kube-system.

    Where that may not be read, the uid of the Service default/kubernetes; empty text when neither was.
    """
    for kind, key, namespace, name in (
        ("namespace", "namespaces", None, "kube-system"),
        ("service", "services", "default", "kubernetes"),
    ):
        for item in api.items(key):
            meta = item.get("metadata") or {}
            if meta.get("name") == name and meta.get("namespace") == namespace and meta.get("uid"):
                return f"{kind}/{name}/{meta['uid']}"
    return ""


def fingerprint_of(api: ApiObjects) -> str:
    """A digest of the API objects that were read: their versions, or the whole of those that have none."""
    whole = hashlib.sha256()
    for key in sorted(api.objects):
        found = api.objects[key]
        listed = isinstance(found, dict) and "items" in found
        for item in api.items(key) if listed else [found]:
            meta = (item.get("metadata") if isinstance(item, dict) else None) or {}
            version = meta.get("resourceVersion")
            names = [key, meta.get("namespace"), meta.get("name"), meta.get("uid"), version]
            whole.update(json.dumps(names if version else [key, item], sort_keys=True).encode())
    return f"sha256:{whole.hexdigest()}"
