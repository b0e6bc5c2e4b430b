"""The report of one part of a cluster's nodes: what was found there, and what `merge` needs of it."""

from __future__ import annotations

from collections.abc import Sequence

from .. import __version__
from ..audit.cluster import Audit
from ..audit.report_builder import conclude
from ..model.fast_dataclass import dataclass, replace
from ..model.node_result import NodeResult
from ..model.report import Report, Unverified
from ..model.shard import Shard, ShardOf
from ..model.snapshot import ApiObjects
from .encoding import Contents, cluster_of, fingerprint_of, pack


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOf:
    """One part of an audit, before it has found anything."""

    of: ShardOf
    asked: str
    listed: tuple[str, ...]
    """The nodes of all parts."""
    api: ApiObjects
    """As it was first read."""
    source: str
    """`snapshot` or `live`."""
    everybody: bool
    """Whether nodes of all parts voted on a configuration that the API does not show."""
    began: float | None = None
    origin: str = ""

    def report(self, judge: Audit, results: Sequence[NodeResult], *, ended: float | None = None) -> Report:
        """The part's own report."""
        facts = judge.facts()
        ordered = sorted(results, key=lambda result: result.row.node)
        contents = Contents(
            listed=self.listed,
            facts=replace(facts, notes=judge.context.state.notes),
            inference=judge.inference,
            everybody=self.everybody,
            results=tuple(ordered),
        )
        shard = Shard(
            of=self.of,
            program=__version__,
            cluster=cluster_of(self.api),
            asked=self.asked,
            source=self.source,
            fingerprint=fingerprint_of(self.api),
            began=self.began,
            ended=ended,
            nodes=tuple(result.row.node for result in ordered),
            results=pack(contents),
        )
        strict = judge.context.selection.strict
        report = conclude(facts, ordered, origin=self.origin, whole=False, strict=strict)
        own = len(shard.nodes)
        note = (
            f"this is shard {self.of}: {own} of the {len(self.listed)} nodes; what the others have is not looked at here"
            " (kubectl svcroute merge)"
        )
        # Of this part alone: a merged report has the nodes of the others.
        reason = f"shard {self.of} has none of the cluster's nodes"
        nobody = () if ordered else (Unverified(code="SR912", node=None, reason=reason),)
        return replace(report, notes=(*report.notes, note), unverified=(*report.unverified, *nobody), shard=shard)
