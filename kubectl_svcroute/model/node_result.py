"""What the audit of one node comes to: small enough to keep for thousands of nodes."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, Sequence

from .fast_dataclass import dataclass, field
from .net import Backend
from .report import Finding, NodeRow, NotJudged, Unverified

BESIDE_RULES = "(connections)"
"""Stands among the unverified Services where the rules of all Services are verified, and what could not be is none of them."""

ShareKey = tuple[str, str, Backend]
"""(Service, its port as text, backend)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncState:
    """What the node's kube-proxy itself said of its work when it was read."""

    now: float
    """The node's own clock at the end of its reading; the other times are of that clock too."""
    queued: float | None
    """When the change was queued that is not written yet; None when nothing is queued."""
    written: float
    """When a sync last ended well: of the two families, the one that is further behind."""
    busy: float
    """When anything was last queued or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """One node's findings, what of it is not verified, and the share that each endpoint gets."""

    row: NodeRow
    findings: tuple[Finding, ...] = ()
    unverified: tuple[Unverified, ...] = ()
    not_judged: tuple[NotJudged, ...] = ()
    """Other programs' rules of which it is not known whether they disturb traffic of Services."""
    shares: Mapping[ShareKey, float] = field(default_factory=dict)
    """Share of a pod's new connections to the cluster IP."""
    even: frozenset[str] = frozenset()
    """Services all of whose endpoints get the same share, as they should: nothing is kept of them in `shares`."""
    wrong: frozenset[ShareKey] = frozenset()
    unverified_services: frozenset[str] = frozenset()
    """Services of which something could not be verified here; all of them when `row.verified` is false and this is empty."""
    ways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> the rule lines that a pod's packet to its first cluster IP walked."""
    frontends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader should know of how this node was judged; said once for all nodes that have it."""
    sync: SyncState | None = None
    """How far kube-proxy said that it was; None where it could not be asked."""


class SharedParts:
    """What nodes' results have in common, held once: nearly every Service looks the same from every node.

    Without it a node of 5,000 Services takes more than a megabyte, and hundreds of nodes what hundreds of their dumps would.
    """

    def __init__(self) -> None:
        self._names: dict[frozenset[str], frozenset[str]] = {}
        self._texts: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._first: dict[str, tuple[str, ...]] = {}
        self.first_node = ""
        """Whose frontends the others' are held against."""

    def names(self, names: Iterable[str]) -> frozenset[str]:
        """A set of Services, the same object for equal sets."""
        found = frozenset(names)
        return self._names.setdefault(found, found)

    def frontends(
        self, node: str, frontends: Mapping[str, Sequence[str]], *, like_first: Collection[str] = ()
    ) -> Mapping[str, tuple[str, ...]]:
        """Service -> its addresses as one node has them: those of the first node, and over them what is otherwise here.

        `like_first`: Services that have those of the first node, and do not stand in `frontends`.
        """
        found = {key: self._once(tuple(value)) for key, value in frontends.items()}
        if not self._first:
            self._first, self.first_node = found, node
        if len(found) + len(like_first) != len(self._first) or not found.keys() <= self._first.keys():
            return {**found, **{key: self._first[key] for key in like_first}}
        own = {key: value for key, value in found.items() if value is not self._first[key]}
        return ChainMap(own, self._first) if own else self._first

    def _once(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        return self._texts.setdefault(texts, texts)
