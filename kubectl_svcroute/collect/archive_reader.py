"""A .tar.gz from a stranger, read: a snapshot, or a bundle of the EKS log collector.

Theory of operation. It is read once, from front to end. Each known member is compressed again into a file of its own in a
private temporary folder, so that any node can be read at any time, and again, while memory and disk stay small. The folder
goes with the last handle that can read it, and with the process at the latest. Nothing is ever written under a name that
the archive chose.

An archive that is damaged, cut off, or has anything behind its end is refused as a whole: half of it would look like a cluster
with fewer nodes. `tarfile` stops silently at a damaged header; so its last block is looked at here.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

from ..errors import SnapshotError
from .limits import Limits


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


class Packed:
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
        """All of a file."""
        return gzip.decompress(self._files[name].read_bytes())

    def prefix_of(self, name: str) -> str:
        """The leading folder under which a file is: "" or "something/"."""
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


def open_packed(path: Path, limits: Limits, known: re.Pattern[str]) -> Packed:
    """The archive of that path. Raises SnapshotError when it is none."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise SnapshotError(f"{path}: neither a folder nor a .tar.gz")
            file.seek(0)
            return Packed(file, str(path), limits, known)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error
