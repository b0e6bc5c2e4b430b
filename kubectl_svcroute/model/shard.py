"""An audit in parts: which nodes are whose, and what a part's report carries so that the parts can be put together."""

from __future__ import annotations

from .fast_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOf:
    """The `index`-th of `count` parts of a cluster's nodes, or (`count` 0) one node alone.

    A node's part hangs on its name and on nothing else: nodes that come and go move no other node to another part.
    """

    index: int = 0
    """From 1 on."""
    count: int = 0
    node: str = ""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}" if self.count else f"node/{self.node}"

    def owns(self, node: str) -> bool:
        """Whether a node is of this part."""
        return part_of(node, self.count) == self.index if self.count else node == self.node


def part_of(node: str, count: int) -> int:
    """Which of `count` parts a node is of, from 1 on. Every release has to say the same: reports of it are merged."""
    import hashlib  # noqa: PLC0415 - for parts alone

    return int.from_bytes(hashlib.sha256(node.encode()).digest()[:8], "big") % count + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of a report that merging reads."""

    of: ShardOf
    program: str
    """Version of the program that judged the nodes: others may judge otherwise."""
    cluster: str
    """What tells this cluster from others; empty when nothing that was read does."""
    asked: str
    """What was asked for, as text to compare."""
    source: str
    """`snapshot` or `live`."""
    fingerprint: str
    """Digest of the API objects that were read: of a snapshot it is the same in all parts."""
    began: float | None
    """Seconds since the epoch when the API was read; None for a snapshot."""
    ended: float | None
    nodes: tuple[str, ...]
    """The nodes of this part."""
    results: tuple[str, ...]
    """What was found on each node, and what the API says: gzip'd JSON in base64, in lines."""
