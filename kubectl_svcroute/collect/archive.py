"""Saved snapshots, read: a folder, or a .tar.gz of it (the format is told in `model.snapshot`). `saving` writes them.

Theory of operation. A snapshot may come from a stranger, so nothing of it is believed, and nothing of an archive is
ever written under a name that the archive chose:

- The names in a source are listed first (`_Source`), and only those that the format knows are ever opened.
- How a .tar.gz is read is told in `packed`.
- Nodes are read when they are asked for. A node that cannot be read is an `Unreachable`, with the reason.

Beside the files of the format, `api/denied.json` keeps what the reader was not allowed to list: without it, a saved
audit would be greener than the live one.

A node may be a bundle of the EKS log collector instead: `nodes/<node>/` with a `networking` folder in it, or the bundle
itself as `nodes/<node>.tar.gz`.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ..errors import SnapshotError
from ..model.lazy_regex import pattern
from ..model.report import Unverified, read_code
from ..model.snapshot import ApiObjects, NodeDump, NodeHandle, NodeOutcome, Snapshot, Unreachable
from .limits import LIMITS, Limits

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

NODE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_KNOWN = pattern(
    rf"(?:[^/]+/)?(?:cluster\.json|api/[^/]+\.json|nodes/{NODE}/[^/]+\.(?:txt|json)"
    rf"|nodes/{NODE}\.(?:tar\.gz|tgz)|nodes/{NODE}/(?:networking|sysctls)/[^/]+\.txt)"
)
"""The members that are kept of an archive; a leading folder is allowed."""
_BUNDLE_KNOWN = pattern(r"(?:[^/]+/)?(?:networking|sysctls)/[^/]+\.txt")


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
    source: _Source = _Folder(place) if place.is_dir() else _packed(place, limits, _BUNDLE_KNOWN)
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
        self._inside = root.resolve()
        self._limits = limits
        names: list[str] = []
        folders: list[str] = []
        # Only where the format has files: a user may well point at a home folder by mistake.
        for place in ("*", "api/*", "nodes/*", "nodes/*/*", "nodes/*/networking/*", "nodes/*/sysctls/*"):
            for path in root.glob(place):
                name = path.relative_to(root).as_posix()
                (folders if path.is_dir() else names).append(name)
        for place in ("networking/*", "sysctls/*"):
            names += [path.relative_to(root).as_posix() for path in root.glob(place)]
        self.names = frozenset(names)
        self.folders = frozenset(folders)

    def read(self, name: str) -> bytes:
        path = self._root / name
        try:
            if not path.resolve().is_relative_to(self._inside):
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


def _packed(path: Path, limits: Limits, known: re.Pattern[str]) -> _Source:
    from .archive_reader import open_packed  # noqa: PLC0415 - a folder needs none of the libraries that an archive does

    return open_packed(path, limits, known)


def _open(path: Path, limits: Limits) -> _Source:
    source: _Source = _Folder(path, limits) if path.is_dir() else _packed(path, limits, _KNOWN)
    if "api/services.json" not in source.names:
        raise SnapshotError(f"{path}: no snapshot: it holds no api/services.json")
    return source


def _object(source: _Source, name: str) -> dict[str, Any]:
    """A file that holds one JSON object."""
    return _decoded(source, name, source.read(name))


def _decoded(source: _Source, name: str, data: bytes) -> dict[str, Any]:
    text = _text(data)
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


_LARGE = 1 << 18
"""Bytes from which on a List's items are decoded one by one, as they are asked for."""
KINDS = {
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
    data = source.read(name)
    found = _large(data, KINDS[key]) or _decoded(source, name, data)
    kind = str(found.get("kind", "List"))
    items = found.get("items", None)
    if items is None and "items" in found:
        items = []  # what Go prints for an empty list
    if not kind.endswith("List") or not isinstance(items, Sequence) or isinstance(items, str):
        raise SnapshotError(f"{source.label}: {name}: not a List but {kind}")
    if isinstance(items, list) and not all(isinstance(item, dict) for item in items):
        raise SnapshotError(f"{source.label}: {name}: not a List of objects")
    # A list of other objects, empty or not, would read as a cluster without these.
    if kind not in ("List", f"{KINDS[key]}List"):
        raise SnapshotError(f"{source.label}: {name}: a {kind}, and not a list of {KINDS[key]} objects")
    if not isinstance(items, list):
        return found  # what each of its items is was looked at
    other = next((i["kind"] for i in items if i.get("kind", KINDS[key]) != KINDS[key]), "")
    if other:
        raise SnapshotError(f"{source.label}: {name}: has a {other} in it, and should be a list of {KINDS[key]} objects")
    return {**found, "items": items}


def _large(data: bytes, kind: str) -> dict[str, Any] | None:
    if len(data) < _LARGE:
        return None
    from .large_list import large_list  # noqa: PLC0415 - its library is not worth loading for a small one

    return large_list(data, kind)


def _denied(source: _Source) -> tuple[tuple[Unverified, ...], str | None]:
    if "api/denied.json" not in source.names:
        return (), None
    found = _object(source, "api/denied.json")
    try:
        denied = tuple(
            Unverified(code=read_code(one["code"]), node=one.get("node"), reason=str(one["reason"]))
            for one in found.get("denied", ())
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
                from .archive_reader import Packed  # noqa: PLC0415 - as in _packed

                inner = io.BytesIO(source.read(name))
                bundle = Packed(inner, f"{source.label}: {name}", LIMITS, _BUNDLE_KNOWN)
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
