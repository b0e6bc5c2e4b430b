"""Real clusters to test against: `tests/captures/<name>.tar.xz`, each a snapshot folder with a `faults/` folder in it.

A capture is healthy. `faults/<id>/` holds the files of the one node that differs, and `fault.json`, its truth:
`node`, `services` (empty: the fault is the node's), `what` and `effect`. Real kube-proxies and a real kernel printed
every line.

A new capture is a new file here; every test that goes over `CAPTURES` finds it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "captures"
SUFFIX = ".tar.xz"

CAPTURES: tuple[str, ...] = tuple(sorted(path.name[: -len(SUFFIX)] for path in HERE.glob(f"*{SUFFIX}")))


def _cache() -> Path:
    """A folder that lasts longer than a run: unpacking is the slow part, and each worker of xdist would do it again."""
    uid = os.getuid() if hasattr(os, "getuid") else "me"
    folder = Path(tempfile.gettempdir()) / f"kubectl-svcroute-captures-{uid}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive of ours; Debian 12's Python 3.11.2 has no filters yet, and from 3.12 on one has to be named."""
    if hasattr(tarfile, "data_filter"):
        tar.extraction_filter = tarfile.data_filter
    tar.extractall(folder)


@cache
def capture(name: str) -> Path:
    """The folder of a capture, unpacked once a machine. Treat it as read-only: every test shares it.

    Raises KeyError when there is no capture of that name.
    """
    if name not in CAPTURES:
        raise KeyError(f"no capture {name}; there are {', '.join(CAPTURES)}")
    packed = HERE / f"{name}{SUFFIX}"
    # The digest in the name makes a changed capture a new folder.
    target = _cache() / f"{name}-{hashlib.sha256(packed.read_bytes()).hexdigest()[:16]}"
    if not target.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=_cache(), prefix="unpacking-"))
        try:
            with tarfile.open(packed) as tar:
                unpack(tar, scratch)
            # Renaming is the lock: of two processes that unpack at once, one comes second and takes the first one's.
            (scratch / name).rename(target)
        except OSError:
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


@cache
def faults(name: str) -> list[str]:
    """The ids of a capture's faults."""
    return sorted(path.parent.name for path in capture(name).glob("faults/*/fault.json"))


def truth(name: str, fault: str) -> dict[str, Any]:
    """What a right audit finds: the `fault.json` of a fault."""
    found: dict[str, Any] = json.loads((capture(name) / "faults" / fault / "fault.json").read_text())
    return found


@cache
def faulty(name: str, fault: str) -> Path:
    """A snapshot folder of the capture with one fault: the node's files replaced. Gone when the process ends."""
    healthy = capture(name)
    if fault not in faults(name):
        raise KeyError(f"capture {name} has no fault {fault}; it has {', '.join(faults(name))}")
    broken = Path(tempfile.mkdtemp(prefix=f"svcroute-{fault}-"))
    atexit.register(shutil.rmtree, broken, ignore_errors=True)
    # Copies, not links: a test that writes into one of these must not spoil the others.
    for part in ("api", "nodes", "cluster.json"):
        source = healthy / part
        if source.is_dir():
            shutil.copytree(source, broken / part)
        else:
            shutil.copy(source, broken / part)
    for node in (healthy / "faults" / fault / "nodes").iterdir():
        shutil.rmtree(broken / "nodes" / node.name)
        shutil.copytree(node, broken / "nodes" / node.name)
    return broken
