"""Where this program comes from: its version, the commit that it was built from, how it was installed, what it runs on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .. import PROGRAM, __version__
from ..expect.versions import NEWEST, OLDEST
from ..model.fast_dataclass import dataclass

LIBRARIES = ("click", "cryptography", "kubernetes", "msgspec", "paramiko", "PyYAML", "tabulate", "urllib3", "websocket-client")
BUILD = Path(__file__).parent.parent / "data" / "build.json"
"""Written into archives and images by what builds them: `{"by": "archive" or "image", "commit": "<40 hex digits>"}`."""
Route = Literal["krew", "archive", "image", "pipx", "uv", "pip", "clone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What `version` prints."""

    version: str
    commit: str
    """Empty where nothing tells it."""
    installed: Route
    path: str
    """The program's file."""
    python: str
    libraries: tuple[tuple[str, str], ...]
    """(name, version); empty for one that is not installed."""
    kube_proxy: tuple[str, str]
    """The oldest and the newest kube-proxy that is known."""

    def document(self) -> dict[str, object]:
        """For `-o json`."""
        return {
            "version": self.version,
            "commit": self.commit or None,
            "installed": self.installed,
            "path": self.path,
            "python": self.python,
            "libraries": dict(self.libraries),
            "kubeProxy": {"oldest": self.kube_proxy[0], "newest": self.kube_proxy[1]},
        }


def about() -> About:
    """Everything that can be found out without a cluster, a network or another program."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - dear, and for this alone

    def version_of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return ""

    built = _built()
    origin = _origin()
    return About(
        version=__version__,
        commit=built.get("commit") or origin.get("commit") or _commit_of_clone(),
        installed=_route(built.get("by", ""), origin),
        path=os.path.abspath(sys.argv[0]) if sys.argv[0] else sys.executable,  # noqa: PTH100 - links are not followed
        python=platform.python_version(),
        libraries=tuple((name, version_of(name)) for name in LIBRARIES),
        kube_proxy=(_dotted(OLDEST), _dotted(NEWEST)),
    )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _built() -> dict[str, str]:
    try:
        found = json.loads(BUILD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _origin() -> dict[str, str]:
    """What pip, pipx or uv noted of where the package came from (PEP 610): its commit, and whether it is a clone."""
    from importlib.metadata import PackageNotFoundError, distribution  # noqa: PLC0415 - as above

    try:
        noted = json.loads(distribution(PROGRAM).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return {
        "commit": str(noted.get("vcs_info", {}).get("commit_id", "")),
        "editable": "yes" if noted.get("dir_info", {}).get("editable") else "",
    }


def _route(by: str, origin: dict[str, str]) -> Route:
    """How the program was installed, by where it is."""
    place = Path(sys.executable).as_posix()
    if by == "image":
        return "image"
    if getattr(sys, "frozen", False):
        return "krew" if f"/store/{PROGRAM.partition('-')[2]}/" in place else "archive"
    if "/pipx/venvs/" in place:
        return "pipx"
    if "/uv/tools/" in place:
        return "uv"
    return "clone" if origin.get("editable") or (not origin and _git() is not None) else "pip"


def _git() -> Path | None:
    """The git folder of the clone that this module is in; a further work tree has a file that names it."""
    place = Path(__file__).resolve().parent.parent.parent / ".git"
    try:
        if place.is_file():
            place = Path(place.read_text(encoding="utf-8").strip().removeprefix("gitdir: "))
    except (OSError, ValueError):
        return None
    return place if place.is_dir() else None


def _commit_of_clone() -> str:
    """The commit that a clone has checked out, read as git keeps it."""
    git = _git()
    if git is None:
        return ""
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text(encoding="ascii").strip() if (git / "commondir").is_file() else git
        if (shared / name).is_file():
            return (shared / name).read_text(encoding="ascii").strip()
        packed = (shared / "packed-refs").read_text(encoding="ascii").splitlines()
        return next((line.split(" ")[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, ValueError):
        return ""
