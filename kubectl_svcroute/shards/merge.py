"""Reports of parts -> the report of the whole: byte for byte the one that a single run over all nodes makes.

What makes them parts of one whole is looked at first: the same program, cluster, question and number of parts, each part
once, and the API as it was at one moment. What does not fit together is refused; what is missing is not verified, by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from ..audit.report_builder import conclude, not_read
from ..errors import UsageError
from ..model.facts import EndpointFact, Facts, ServiceFacts
from ..model.fast_dataclass import dataclass, replace
from ..model.node_result import NodeResult
from ..model.report import Report
from ..model.shard import Shard, ShardOf, part_of
from ..observe.config_votes import Inference, Votes
from ..render.text import listed
from .encoding import Contents, unpack

WITHIN = 900.0
"""Seconds between the first reading of the API and the last, up to which parts of a live cluster make one report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part's report as it was read."""

    name: str
    """The file, or the pod: for messages."""
    shard: Shard
    origin: str
    """Where the cluster was read from, as the part's report says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The report of the whole, and what the person who merges should hear of."""

    report: Report
    words: tuple[str, ...] = ()


def merge(parts: Iterable[Part], *, within: float = WITHIN, strict: bool = False) -> Merged:
    """One report of all parts, in whatever order they come. Raises UsageError for parts that are not of one whole.

    `strict`: see `conclude`.
    """
    kept, words = _each_once(sorted(parts, key=lambda part: (part.shard.of.index, part.shard.of.node, part.name)))
    _same(kept, within)
    opened = [(part, _contents(part)) for part in kept]
    inference, strayed = _inference(opened)
    facts = _facts(opened, inference)
    results: dict[str, NodeResult] = {}
    for part, contents in opened:
        for result in contents.results:
            name = result.row.node
            if name in results or not part.shard.of.owns(name):
                raise UsageError(f"{part.name}: shard {part.shard.of} tells of node {name}, which is not its own")
            results[name] = _unsure(part, result, strayed[part.shard.of], inference) if part.shard.of in strayed else result
    absent = _absent(opened, results)
    for name, reason in absent.items():
        results[name] = not_read(name, "SR910", reason)
    if not results:
        raise UsageError("the reports tell of no node at all")
    missing = _missing(kept)
    if missing:
        nobody = "" if absent else ", to which no node belongs"
        words.append(f"missing: shard {listed(missing, 12)} of {kept[0].shard.of.count}{nobody}")
    report = conclude(facts, list(results.values()), origin=kept[0].origin, strict=strict)
    return Merged(report=report, words=tuple(words))


def _contents(part: Part) -> Contents:
    try:
        return unpack(part.shard.results)
    except UsageError as error:
        raise UsageError(f"{part.name}: {error}") from error


# ---- whether they belong together ------------------------------------------------------------------------------------


def _each_once(parts: Sequence[Part]) -> tuple[list[Part], list[str]]:
    """Every part once. Two reports of one part that say the same are one; two that differ are refused."""
    kept: dict[ShardOf, Part] = {}
    words = []
    for part in parts:
        first = kept.setdefault(part.shard.of, part)
        if first is part:
            continue
        if first.shard != part.shard:
            raise UsageError(
                f"{first.name} and {part.name} both are of shard {part.shard.of}, and they do not say the same:"
                " give the one that counts"
            )
        words.append(f"{part.name} says what {first.name} says: counted once")
    if not kept:
        raise UsageError("nothing to merge: name the reports of the shards")
    return list(kept.values()), words


def _same(parts: Sequence[Part], within: float) -> None:
    first = parts[0]
    for part in parts[1:]:
        one, other = first.shard, part.shard
        for what, mine, theirs in (
            ("are of different versions of this program", one.program, other.program),
            ("are of different clusters", one.cluster or "unknown", other.cluster or "unknown"),
            ("divide the nodes differently", f"{one.of.count or 'node'}", f"{other.of.count or 'node'}"),
            ("were asked for different things", one.asked, other.asked),
            ("were read differently", one.source, other.source),
        ):
            if mine != theirs:
                raise UsageError(f"{first.name} and {part.name} {what}: {mine} and {theirs}")
        if one.source == "snapshot" and one.fingerprint != other.fingerprint:
            raise UsageError(f"{first.name} and {part.name} are of different snapshots: the API's objects in them differ")
    began = {part.name: part.shard.began for part in parts if part.shard.began is not None}
    if began and within:
        early, late = min(began, key=lambda name: began[name]), max(began, key=lambda name: began[name])
        apart = began[late] - began[early]
        if apart > within:
            raise UsageError(
                f"{early} and {late} read the cluster {_span(apart)} apart, which is no one moment;"
                f" up to {_span(within)} is taken (--within)"
            )


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds:.0f} s"


# ---- what all of them say --------------------------------------------------------------------------------------------


def _inference(opened: Sequence[tuple[Part, Contents]]) -> tuple[Inference | None, Mapping[ShardOf, str]]:
    """What all nodes together tell of kube-proxy's configuration, and the parts that went by something else."""
    mine = [(part, contents) for part, contents in opened if contents.inference is not None]
    if not mine:
        return None, {}
    if any(contents.everybody for _, contents in mine):
        return mine[0][1].inference, {}
    votes, nodes = Votes(), 0
    for _, contents in mine:
        if contents.inference is not None:
            votes, nodes = votes + contents.inference.votes, nodes + contents.inference.nodes
    whole = Inference(nodes=nodes, votes=votes)
    return whole, {
        part.shard.of: contents.inference.told
        for part, contents in mine
        if contents.inference is not None and contents.inference.settings != whole.settings
    }


def _unsure(part: Part, result: NodeResult, told: str, inference: Inference | None) -> NodeResult:
    """A node that was judged by a configuration which the others contradict: neither right nor wrong."""
    if not result.row.mode:
        return result  # it was not judged
    reason = (
        f"shard {part.shard.of} judged it by a configuration inferred from its own nodes alone ({told}),"
        f" and all nodes together tell another ({inference.told if inference is not None else ''}):"
        " let the shards read kube-proxy's ConfigMap, or check this node in a run over all of them"
    )
    bare = not_read(result.row.node, "SR906", reason, via=result.row.via)
    row = replace(bare.row, mode=result.row.mode, version=result.row.version)
    return replace(bare, row=row, unverified=(*bare.unverified, *result.unverified))


def _facts(opened: Sequence[tuple[Part, Contents]], inference: Inference | None) -> Facts:
    """What the API says: the same in every part, or that of the part that read it last, and what changed meanwhile."""
    last = max(opened, key=lambda pair: (pair[0].shard.ended or 0.0, -pair[0].shard.of.index))
    facts = last[1].facts
    notes = list(dict.fromkeys(note for _, contents in opened for note in contents.facts.notes))
    if inference is not None:
        notes.append(inference.note)
    changed: set[str] = set()
    mine = {service.service: _comparable(service) for service in facts.services}
    for _, contents in opened:
        theirs = {service.service: _comparable(service) for service in contents.facts.services}
        changed |= {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    if changed:
        times = sorted(part.shard.began for part, _ in opened if part.shard.began is not None)
        clock = [time.strftime("%H:%M:%S", time.gmtime(at)) for at in (times[0], times[-1])]
        notes.append(
            f"the shards read the API at different moments, {clock[0]} to {clock[1]} UTC; meanwhile changed"
            f" {listed(sorted(changed), 6)}: shown is the last reading, and each node was held against its own shard's"
        )
    denied = tuple(dict.fromkeys(item for _, contents in opened for item in contents.facts.denied))
    return replace(facts, notes=tuple(notes), denied=denied)


def _comparable(service: ServiceFacts) -> tuple[ServiceFacts, tuple[EndpointFact, ...]]:
    return replace(service, endpoints=()), tuple(service.endpoints)


def _missing(parts: Sequence[Part]) -> list[str]:
    count = parts[0].shard.of.count
    here = {part.shard.of.index for part in parts}
    return [str(index) for index in range(1, count + 1) if index not in here]


def _absent(opened: Sequence[tuple[Part, Contents]], results: Mapping[str, NodeResult]) -> dict[str, str]:
    """Nodes that somebody saw and nobody read -> why. One that had left before its own part looked is no node any more."""
    found: dict[str, str] = {}
    by_part = {part.shard.of: (part, contents) for part, contents in opened}
    for part, contents in opened:
        for name in contents.listed:
            if name in results or name in found:
                continue
            owner = _owner(part.shard.of, name)
            theirs = by_part.get(owner)
            if theirs is None:
                found[name] = f"there is no report of shard {owner}, to which the node belongs"
            elif (theirs[0].shard.began or 0.0) <= (part.shard.began or 0.0):
                found[name] = f"it was not there yet when shard {owner}, to which it belongs, listed the nodes"
    return found


def _owner(like: ShardOf, node: str) -> ShardOf:
    return ShardOf(index=part_of(node, like.count), count=like.count) if like.count else ShardOf(node=node)
