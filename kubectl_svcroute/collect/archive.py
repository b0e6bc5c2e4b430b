"""Saved snapshots: a folder, or a .tar.gz of it (the format is told in `model.snapshot`).

Theory of operation. A snapshot may come from a stranger, so nothing of it is believed, and nothing of an archive is
ever written under a name that the archive chose:

- The names in a source are listed first (`_Source`), and only those that the format knows are ever opened.
- A .tar.gz is read once, from front to end. Each known member is compressed again into a file of its own in a private
  temporary folder, so that any node can be read at any time, and again, while memory and disk stay small. The folder
  goes with the last handle that can read it, and with the process at the latest.
- An archive that is damaged, cut off, or has anything behind its end is refused as a whole: half of it would look like
  a cluster with fewer nodes. `tarfile` stops silently at a damaged header; so its last block is looked at here.
- Nodes are read when they are asked for. A node that cannot be read is an `Unreachable`, with the reason.

Beside the files of the format, `api/denied.json` keeps what the reader was not allowed to list: without it, a saved
audit would be greener than the live one.

A node may be a bundle of the EKS log collector instead: `nodes/<node>/` with a `networking` folder in it, or the bundle
itself as `nodes/<node>.tar.gz`.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import stat
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from .. import __version__
from ..errors import SnapshotError
from ..model.records import dataclass
from ..model.report import Unverified
from ..model.snapshot import ApiObjects, NodeDump, NodeHandle, NodeOutcome, Snapshot, Unreachable
from .projection import project_list

API_LISTS = ("services", "endpointslices", "endpoints", "pods", "nodes", "namespaces", "daemonsets")
API_OBJECTS = ("configmap-kube-proxy", "version")
SUFFIXES = (".tar.gz", ".tgz")

BUNDLE_FILES = {
    "networking/iptables-save.txt": "iptables-save.txt",
    "networking/ip6tables-save.txt": "ip6tables-save.txt",
    "sysctls/sysctl_all.txt": "sysctl.txt",
}
"""What the EKS log collector writes, and what a snapshot calls it. Older ones wrote no ip6tables-save.txt.

awslabs/amazon-eks-ami: log-collector-script/linux/eks-log-collector.sh, get_iptables_info and get_sysctls_info. The
rest of a bundle is logs and, in places, a kubeconfig: it is never opened.
"""

_NODE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_KNOWN = re.compile(
    rf"(?:[^/]+/)?(?:cluster\.json|api/[^/]+\.json|nodes/{_NODE}/[^/]+\.(?:txt|json)"
    rf"|nodes/{_NODE}\.(?:tar\.gz|tgz)|nodes/{_NODE}/(?:networking|sysctls)/[^/]+\.txt)"
)
"""The members that are kept of an archive; a leading folder is allowed."""
_BUNDLE_KNOWN = re.compile(r"(?:[^/]+/)?(?:networking|sysctls)/[^/]+\.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may hold, unpacked, before it is taken for a bomb. The defaults fit a thousand big nodes.

    The dump of one node with 5,000 Services of 10 endpoints is 32 MB.
    """

    total: int = 64 << 30
    """Bytes of all members together."""
    member: int = 1 << 30
    """Bytes of one member that is kept."""
    header: int = 1 << 20
    """Bytes of one extended header; an honest one holds a path."""
    members: int = 200_000


LIMITS = Limits()


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


def load_snapshot(path: str | Path, *, limits: Limits = LIMITS) -> Snapshot:
    """A saved snapshot. The API's side is read now, each node when its handle is asked.

    Raises SnapshotError, naming the member, when it is damaged, unsafe or no snapshot.
    """
    source = _open(Path(path), limits)
    objects = {key: _list(source, key) for key in API_LISTS if f"api/{key}.json" in source.names}
    objects |= {key: _object(source, f"api/{key}.json") for key in API_OBJECTS if f"api/{key}.json" in source.names}
    denied, namespace = _denied(source)
    nodes = tuple(NodeHandle(node=node, read=partial(_read_node, source, node)) for node in _nodes(source))
    api = ApiObjects(objects=objects, denied=denied, namespace=namespace)
    return Snapshot(api=api, nodes=nodes, origin=str(path))


def eks_bundle_files(path: str | Path, *, limits: Limits = LIMITS) -> dict[str, str]:
    """The files of a node by the names that a snapshot gives them, from a bundle of the EKS log collector.

    `path` is the bundle, or the folder that it was unpacked to. What the bundle lacks is not in the answer. Raises
    SnapshotError when it is damaged or holds no `networking` folder.
    """
    place = Path(path)
    source: _Source = _Folder(place) if place.is_dir() else _packed_file(place, limits, _BUNDLE_KNOWN)
    files = _bundle(source, source.prefix_of("networking/iptables-save.txt"))
    if not files:
        raise SnapshotError(f"{path}: no bundle of the EKS log collector: it holds no networking/iptables-save.txt")
    return files


# Reading ------------------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where a snapshot's files are: names relative to its top, and their bytes."""

    label: str
    names: frozenset[str]
    """Files that the format may know."""
    folders: frozenset[str]
    """Folders, so that an empty one is told from none."""

    def read(self, name: str) -> bytes:
        """All of a file. Raises SnapshotError."""

    def prefix_of(self, name: str) -> str:
        """The leading folder under which a file is: "" or "something/"."""


class _Folder:
    """A folder on this machine, where nothing that leads out of it is followed, and nothing but plain files opened."""

    def __init__(self, root: Path, limits: Limits = LIMITS) -> None:
        self.label = str(root)
        self._root = root
        self._limits = limits
        names: list[str] = []
        folders: list[str] = []
        # Only where the format has files: a user may well point at a home folder by mistake.
        for pattern in ("*", "api/*", "nodes/*", "nodes/*/*", "nodes/*/networking/*", "nodes/*/sysctls/*"):
            for path in root.glob(pattern):
                name = path.relative_to(root).as_posix()
                (folders if path.is_dir() else names).append(name)
        for pattern in ("networking/*", "sysctls/*"):
            names += [path.relative_to(root).as_posix() for path in root.glob(pattern)]
        self.names = frozenset(names)
        self.folders = frozenset(folders)

    def read(self, name: str) -> bytes:
        path = self._root / name
        try:
            if not path.resolve().is_relative_to(self._root.resolve()):
                raise SnapshotError(f"{self.label}: {name}: a link that leads out of the snapshot")
            # Asked before opening: to open a fifo is to wait for ever.
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise SnapshotError(f"{self.label}: {name}: not a plain file")
            if facts.st_size > self._limits.member:
                raise SnapshotError(f"{self.label}: {name}: {facts.st_size} bytes, more than {self._limits.member}")
            return path.read_bytes()
        except OSError as error:
            raise SnapshotError(f"{self.label}: {name}: cannot be read: {error.strerror or error}") from error

    def prefix_of(self, name: str) -> str:
        return "" if name in self.names else "?/"


class _Bounded:
    """The bytes of a .tar.gz as `tarfile` wants them: forwards only, and no more than allowed."""

    def __init__(self, raw: IO[bytes], limits: Limits) -> None:
        self._raw = raw
        self._limits = limits
        self._at = 0
        self.last = b""
        """What was read last: when `tarfile` stops, the block that made it stop."""

    def read(self, size: int) -> bytes:
        """`tarfile` reads headers with it, and a header that lies about its length would fill the memory."""
        if not 0 <= size <= self._limits.header:
            raise SnapshotError(f"a header of {size} bytes, more than {self._limits.header}")
        self.last = self._read(size)
        return self.last

    def _read(self, size: int) -> bytes:
        data = self._raw.read(size)
        self._at += len(data)
        if self._at > self._limits.total:
            raise SnapshotError(f"more than {self._limits.total} bytes unpacked")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        """Skip forwards. Bytes that are skipped count like bytes that are read."""
        if position < self._at:
            raise SnapshotError("its members overlap")
        while self._at < position:
            if not self._read(min(position - self._at, 1 << 20)):
                raise EOFError
        return self._at

    def chunks(self, size: int) -> Iterable[bytes]:
        """The next `size` bytes. Raises EOFError when there are fewer."""
        while size:
            data = self._read(min(size, 1 << 20))
            if not data:
                raise EOFError
            size -= len(data)
            yield data

    def rest_is_zeros(self) -> bool:
        """Read to the end, which also makes gzip check its sum."""
        blank = True
        while data := self._read(1 << 16):
            blank = blank and not data.strip(b"\0")
        return blank


class _Packed:
    """A .tar.gz, read once; its known members wait, compressed, in a private folder."""

    def __init__(self, file: IO[bytes], label: str, limits: Limits, known: re.Pattern[str]) -> None:
        self.label = label
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix="svcroute-"))
        # Not TemporaryDirectory: that one warns when it is collected, and being collected is the plan.
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files: dict[str, Path] = {}
        folders: set[str] = set()
        try:
            self._unpack(file, known, folders)
        except BaseException:
            self._finalizer()
            raise
        prefix = self._prefix()
        self._files = {name[len(prefix) :]: path for name, path in self._files.items() if name.startswith(prefix)}
        self.names = frozenset(self._files)
        self.folders = frozenset(name[len(prefix) :] for name in folders if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        return gzip.decompress(self._files[name].read_bytes())

    def prefix_of(self, name: str) -> str:
        return min((n[: -len(name)] for n in self.names if n == name or n.endswith(f"/{name}")), default="")

    def _prefix(self) -> str:
        tops = {
            n[: -len("api/services.json")] for n in self._files if re.fullmatch(r"(?:[^/]+/)?api/services\.json", n)
        }
        if len(tops) > 1:
            raise SnapshotError(f"{self.label}: two snapshots in one archive: {', '.join(sorted(tops))}")
        return tops.pop() if tops else ""

    def _unpack(self, file: IO[bytes], known: re.Pattern[str], folders: set[str]) -> None:
        member = "its first bytes"
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                stream = _Bounded(cast("IO[bytes]", unzipped), self._limits)
                with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as tar:
                    count = 0
                    while (info := tar.next()) is not None:
                        member = repr(info.name)
                        count += 1
                        if count > self._limits.members:
                            raise SnapshotError(f"more than {self._limits.members} members")
                        self._take(info, stream, known, folders)
                        member = f"what follows {info.name!r}"
                if len(stream.last) < tarfile.BLOCKSIZE or stream.last.strip(b"\0") or not stream.rest_is_zeros():
                    raise SnapshotError(f"damaged, or cut off, at {member}")
        except SnapshotError as error:
            raise SnapshotError(f"{self.label}: {member}: {error}") from None
        except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error, UnicodeError, ValueError) as error:
            why = str(error) or "it ends too early"
            raise SnapshotError(f"{self.label}: damaged, or cut off, at {member}: {why}") from error
        except OSError as error:
            raise SnapshotError(f"{self.label}: cannot be read: {error.strerror or error}") from error

    def _take(self, info: tarfile.TarInfo, stream: _Bounded, known: re.Pattern[str], folders: set[str]) -> None:
        """Keep one member, when the format knows it. Raises SnapshotError for what no snapshot has a use for."""
        name = _safe(info.name)
        if info.isdir():
            folders.add(name)
            return
        if not info.isreg() or info.issparse():
            kind = "a link" if info.issym() or info.islnk() else "not a plain file"
            raise SnapshotError(f"{kind}; a snapshot holds plain files only")
        if info.size < 0 or info.offset_data + info.size > self._limits.total:
            raise SnapshotError(f"more than {self._limits.total} bytes unpacked")
        if not known.fullmatch(name):
            return
        if info.size > self._limits.member:
            raise SnapshotError(f"{info.size} bytes, more than {self._limits.member}")
        if name in self._files:
            raise SnapshotError("it is there twice")
        path = self._folder / f"{len(self._files)}.gz"
        with gzip.open(path, "wb", compresslevel=1) as out:
            for data in stream.chunks(info.size):
                out.write(data)
        self._files[name] = path


def _safe(name: str) -> str:
    """A member's name without `./`. Raises SnapshotError when it could lead anywhere else, or hide something."""
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise SnapshotError("an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SnapshotError("a path that leads out of the snapshot")
    if "\\" in name or not name.isprintable():
        raise SnapshotError("a path with a backslash or a control character")
    return "/".join(parts)


def _packed_file(path: Path, limits: Limits, known: re.Pattern[str]) -> _Packed:
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise SnapshotError(f"{path}: neither a folder nor a .tar.gz")
            file.seek(0)
            return _Packed(file, str(path), limits, known)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: Path, limits: Limits) -> _Source:
    source: _Source = _Folder(path, limits) if path.is_dir() else _packed_file(path, limits, _KNOWN)
    if "api/services.json" not in source.names:
        raise SnapshotError(f"{path}: no snapshot: it holds no api/services.json")
    return source


def _object(source: _Source, name: str) -> dict[str, Any]:
    """A file that holds one JSON object."""
    text = _text(source.read(name))
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise SnapshotError(f"{source.label}: {name}: not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise SnapshotError(f"{source.label}: {name}: not JSON of the API: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise SnapshotError(f"{source.label}: {name}: not JSON of the API: {error}") from error
    if not isinstance(found, dict):
        raise SnapshotError(f"{source.label}: {name}: not an object of the API")
    return found


_KINDS = {
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "endpoints": "Endpoints",
    "pods": "Pod",
    "nodes": "Node",
    "namespaces": "Namespace",
    "daemonsets": "DaemonSet",
}


def _list(source: _Source, key: str) -> dict[str, Any]:
    """A file that holds a List, as the API server or `kubectl get -o json` prints it."""
    name = f"api/{key}.json"
    found = _object(source, name)
    kind = str(found.get("kind", "List"))
    items = found.get("items", None)
    if items is None and "items" in found:
        items = []  # what Go prints for an empty list
    if not kind.endswith("List") or not isinstance(items, list):
        raise SnapshotError(f"{source.label}: {name}: not a List but {kind}")
    if not all(isinstance(item, dict) for item in items):
        raise SnapshotError(f"{source.label}: {name}: not a List of objects")
    # A list of other objects, empty or not, would read as a cluster without these.
    if kind not in ("List", f"{_KINDS[key]}List"):
        raise SnapshotError(f"{source.label}: {name}: a {kind}, and not a list of {_KINDS[key]} objects")
    other = next((i["kind"] for i in items if i.get("kind", _KINDS[key]) != _KINDS[key]), "")
    if other:
        raise SnapshotError(f"{source.label}: {name}: has a {other} in it, and should be a list of {_KINDS[key]} objects")
    return {**found, "items": items}


def _denied(source: _Source) -> tuple[tuple[Unverified, ...], str | None]:
    if "api/denied.json" not in source.names:
        return (), None
    found = _object(source, "api/denied.json")
    try:
        denied = tuple(
            Unverified(code=str(one["code"]), node=one.get("node"), reason=str(one["reason"]))
            for one in found.get("denied", ())
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise SnapshotError(f"{source.label}: api/denied.json: not what a snapshot holds there") from error
    namespace = found.get("namespace")
    return denied, namespace if isinstance(namespace, str) else None


def _nodes(source: _Source) -> list[str]:
    """The nodes of a snapshot, sorted: folders, even empty ones, and bundles."""
    found: set[str] = set()
    for name in source.names | source.folders:
        parts = PurePosixPath(name).parts
        if len(parts) < 2 or parts[0] != "nodes":
            continue
        if len(parts) > 2 or name in source.folders:
            found.add(parts[1])
        elif name.endswith(SUFFIXES):
            found.add(_stem(parts[1]))
    return sorted(found)


def _stem(name: str) -> str:
    return name[: -len(next(suffix for suffix in SUFFIXES if name.endswith(suffix)))]


def _read_node(source: _Source, node: str) -> NodeOutcome:
    """Read one node. What is wrong with its files is why it could not be read, not why nothing can."""
    top = f"nodes/{node}/"
    try:
        if f"{top}unreachable.txt" in source.names:
            reason = " ".join(_text(source.read(f"{top}unreachable.txt")).split())
            return Unreachable(node=node, reason=reason or "no reason was kept", via="snapshot")
        files: dict[str, str] = {}
        for suffix in SUFFIXES:
            if f"nodes/{node}{suffix}" in source.names:
                name = f"nodes/{node}{suffix}"
                inner = io.BytesIO(source.read(name))
                bundle = _Packed(inner, f"{source.label}: {name}", LIMITS, _BUNDLE_KNOWN)
                files |= _bundle(bundle, bundle.prefix_of("networking/iptables-save.txt"))
        files |= _bundle(source, top)
        for name in sorted(source.names):
            if name.startswith(top) and "/" not in name[len(top) :] and name.endswith((".txt", ".json")):
                files[name[len(top) :]] = _text(source.read(name))
    except SnapshotError as error:
        return Unreachable(node=node, reason=str(error), via="snapshot")
    if not files:
        return Unreachable(node=node, reason="nothing was read of it", via="snapshot")
    return NodeDump(node=node, files=files)


def _bundle(source: _Source, top: str) -> dict[str, str]:
    files = {kept: _text(source.read(top + name)) for name, kept in BUNDLE_FILES.items() if top + name in source.names}
    if "sysctl.txt" in files:
        # All thousand settings of the machine: only the network's are asked about.
        lines = files["sysctl.txt"].splitlines(keepends=True)
        files["sysctl.txt"] = "".join(line for line in lines if line.startswith("net."))
    return files


def _text(data: bytes) -> str:
    """What a tool printed. A byte that is no UTF-8 (a comment can hold any) becomes visible, and is not lost."""
    return data.decode("utf-8", errors="backslashreplace")


# Saving -------------------------------------------------------------------------------------------------------------


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
        if not re.fullmatch(_NODE, outcome.node):
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
