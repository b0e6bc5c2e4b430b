"""Snapshots, written: to a folder, or to a .tar.gz of it (the format is told in `model.snapshot`)."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, cast

from .. import __version__
from ..errors import SnapshotError
from ..model.fast_dataclass import dataclass
from ..model.snapshot import NodeOutcome, Snapshot, Unreachable
from .archive import NODE, SUFFIXES
from .projection import project_list


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What `save_snapshot` wrote."""

    path: Path
    services: int
    pods: int
    nodes: int
    """Nodes with files."""
    unreachable: int
    files: int
    size: int
    """Bytes of all files before compression."""


def save_snapshot(
    snapshot: Snapshot,
    path: str | Path,
    *,
    outcomes: Iterable[NodeOutcome] | None = None,
    redact: bool = False,
    facts: Mapping[str, str] | None = None,
) -> Saved:
    """Write a snapshot to a folder, or to a .tar.gz when `path` ends so. The same snapshot gives the same bytes.

    `outcomes` are the nodes as they were read, in any order; without it each node is read now, one after the other.
    What `collect.projection` takes out of an object is never written; `redact` takes out foreign annotations as well.
    `facts` are kept in cluster.json for the reader.

    The whole is there or nothing is: it is written beside its place and renamed. A snapshot that is there already is
    replaced; anything else is not. Raises SnapshotError.
    """
    target = Path(path)
    packed = target.name.endswith(SUFFIXES)
    if target.is_dir() and (packed or (any(target.iterdir()) and not (target / "api" / "services.json").is_file())):
        raise SnapshotError(f"{target}: a folder that is no snapshot: not overwritten; name another place")
    if target.exists() and not target.is_dir() and not packed:
        raise SnapshotError(f"{target}: a file that is no .tar.gz: not overwritten; name another place")
    try:
        # Beside its place: renaming works within one file system only. mkdtemp makes it readable by its owner alone.
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    except OSError as error:
        raise SnapshotError(f"{target}: cannot be written: {error.strerror or error}") from error
    try:
        writer: _Writer = _TarWriter(scratch) if packed else _FolderWriter(scratch)
        saved = _write(writer, snapshot, snapshot.outcomes() if outcomes is None else outcomes, redact, facts)
        _replace(writer.finish(), target, scratch)
    except OSError as error:
        raise SnapshotError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Saved(path=target, **saved)


def _write(
    writer: _Writer,
    snapshot: Snapshot,
    outcomes: Iterable[NodeOutcome],
    redact: bool,
    facts: Mapping[str, str] | None,
) -> dict[str, int]:
    counts = dict.fromkeys(("services", "pods", "nodes", "unreachable", "files", "size"), 0)

    def put(name: str, text: str) -> None:
        data = text.encode("utf-8", errors="backslashreplace")
        writer.put(name, data)
        counts["files"] += 1
        counts["size"] += len(data)

    for key, found in snapshot.api.objects.items():
        # One List at a time: projected, written, forgotten.
        put(f"api/{key}.json", _json(project_list(key, found, terse=redact)))
    if snapshot.api.denied or snapshot.api.namespace is not None:
        denied = [{"code": one.code, "node": one.node, "reason": one.reason} for one in snapshot.api.denied]
        put("api/denied.json", _json({"namespace": snapshot.api.namespace, "denied": denied}))
    put(
        "cluster.json",
        _json({"origin": snapshot.origin, "savedBy": f"kubectl-svcroute {__version__}", **(facts or {})}),
    )
    for outcome in outcomes:
        if not re.fullmatch(NODE, outcome.node):
            raise SnapshotError(f"{outcome.node!r} is no name that a node can have")
        if isinstance(outcome, Unreachable):
            put(f"nodes/{outcome.node}/unreachable.txt", outcome.reason + "\n")
            counts["unreachable"] += 1
            continue
        counts["nodes"] += 1
        for name, text in outcome.files.items():
            if not re.fullmatch(r"[A-Za-z0-9._-]+\.(?:txt|json)", name):
                raise SnapshotError(f"nodes/{outcome.node}: {name!r} is no name of a snapshot's file")
            put(f"nodes/{outcome.node}/{name}", text)
    counts["services"] = len(snapshot.api.items("services"))
    counts["pods"] = len(snapshot.api.items("pods"))
    return counts


def _json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n"


class _Writer(Protocol):
    def put(self, name: str, data: bytes) -> None:
        """Take a file."""

    def finish(self) -> Path:
        """Where the whole is, ready to be renamed."""


class _FolderWriter:
    def __init__(self, scratch: Path) -> None:
        self._root = scratch / "snapshot"
        self._root.mkdir(mode=0o700)

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def finish(self) -> Path:
        return self._root


class _TarWriter:
    """Nodes come in any order, and the archive's order must not depend on it: so each file waits, compressed."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._sizes: dict[str, tuple[Path, int]] = {}

    def put(self, name: str, data: bytes) -> None:
        path = self._scratch / f"{len(self._sizes)}.gz"
        path.write_bytes(gzip.compress(data, compresslevel=1))
        self._sizes[name] = (path, len(data))

    def finish(self) -> Path:
        whole = self._scratch / "snapshot.tar.gz"
        with (
            whole.open("wb") as out,
            gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as zipped,
            tarfile.open(fileobj=cast("IO[bytes]", zipped), mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, (path, size) in sorted(self._sizes.items()):
                info = tarfile.TarInfo(name)  # mtime 0, uid 0, mode 0644: nothing of this machine or this moment
                info.size = size
                with gzip.open(path) as data:
                    tar.addfile(info, cast("IO[bytes]", data))
        whole.chmod(0o600)
        return whole


def _replace(whole: Path, target: Path, scratch: Path) -> None:
    if target.is_dir():
        # A folder that is not empty cannot be renamed over: the old one steps aside first, and back if that fails.
        old = scratch / "old"
        target.rename(old)
        try:
            whole.rename(target)
        except OSError:
            old.rename(target)
            raise
    else:
        whole.replace(target)
