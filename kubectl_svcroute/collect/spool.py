"""Outcomes kept on disk between two passes over them, so that memory does not grow with the number of nodes.

Needed where kube-proxy's configuration is not shown: every node votes on it, and only then can any be judged. The files are
the user's alone, compressed, and gone at the end.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from ..model.snapshot import NodeDump, NodeOutcome, Unreachable


class Spool:
    """Outcomes, written as they come, and read back one at a time."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="svcroute-")  # mode 0700
        self._files: list[Path] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.cleanup()

    def keep(self, outcomes: Iterable[NodeOutcome]) -> Iterator[NodeOutcome]:
        """Pass outcomes on, each written down."""
        for outcome in outcomes:
            path = Path(self._folder.name) / f"{len(self._files)}.json.gz"
            # surrogatepass: a text may hold what no UTF-8 can say, and comes back as it was
            path.write_bytes(gzip.compress(json.dumps(_plain(outcome)).encode("utf-8", "surrogatepass"), 1))
            self._files.append(path)
            yield outcome

    def outcomes(self) -> Iterator[NodeOutcome]:
        """Everything that was kept, in its order; each file is gone once it was read."""
        for path in self._files:
            yield _outcome(json.loads(gzip.decompress(path.read_bytes())))
            path.unlink()


def _plain(outcome: NodeOutcome) -> dict[str, object]:
    if isinstance(outcome, Unreachable):
        return {"node": outcome.node, "reason": outcome.reason, "via": outcome.via}
    return {"node": outcome.node, "files": dict(outcome.files), "via": outcome.via, "taken": outcome.taken}


def _outcome(plain: dict[str, object]) -> NodeOutcome:
    return NodeDump(**plain) if "files" in plain else Unreachable(**plain)  # type: ignore[arg-type] # as `_plain` made it
