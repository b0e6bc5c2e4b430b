"""What `make dist` makes of this tree, built once and kept in build/ until the sources change; see `dist` in conftest.py.

Freezing a Python takes a minute. So it begins in the background when the tests begin, and whoever needs it waits at a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "tested-dist"
SOURCES = (
    *("setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "krew-manifest.yaml"),
    *(f"scripts/{name}" for name in ("make_dist.py", "make_manifest.py", "dist-requirements.txt")),
)


class Dist(NamedTuple):
    """A release for this platform."""

    folder: Path
    """What `make dist` leaves in dist/."""
    installed: Path
    """Where the archive was unpacked as krew does."""

    @property
    def archive(self) -> Path:
        (found,) = self.folder.glob("kubectl-svcroute_v*.tar.gz")
        return found

    @property
    def wheel(self) -> Path:
        (found,) = self.folder.glob("*.whl")
        return found

    @property
    def sdist(self) -> Path:
        (found,) = self.folder.glob("kubectl_svcroute-*.tar.gz")
        return found

    @property
    def program(self) -> Path:
        return self.installed / "kubectl-svcroute" / "kubectl-svcroute"


def sources() -> list[Path]:
    """Files that a release is made from."""
    package = [path for path in (ROOT / "kubectl_svcroute").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted([*package, *(ROOT / name for name in SOURCES)])


def _key() -> str:
    whole = hashlib.sha256(sys.version.encode())
    for path in sources():
        whole.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o100}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def unpack_as_krew_does(archive: Path, target: Path) -> None:
    """krew's extractTARGZ (internal/download/downloader.go): folders and files, and an error for whatever else there is."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = target / member.name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
                path.chmod(member.mode)
            else:
                raise AssertionError(f"krew: unable to handle file type {member.type!r} of {member.name}")


def built() -> Dist:
    """The release of this tree: as it was built before, or built now. Waits for another process that builds it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = _key()
        found = Dist(KEPT / key / "dist", KEPT / key / "krew")
        if not (KEPT / key / "whole").exists():
            for old in KEPT.iterdir():
                # Sources may have changed while somebody tests what was made of them before.
                if old.is_dir() and time.time() - old.stat().st_mtime > 3600:
                    shutil.rmtree(old)
            env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
            done = subprocess.run(
                ["make", "-C", str(ROOT), "dist", f"DIST={found.folder}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env,
            )  # fmt: skip
            assert done.returncode == 0, f"make dist failed:\n{done.stdout}"
            unpack_as_krew_does(found.archive, found.installed)
            (KEPT / key / "whole").touch()
        return found


if __name__ == "__main__":
    built()
