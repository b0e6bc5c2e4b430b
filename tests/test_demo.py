"""The cluster that ships with the package is the capture that it says it is, and small."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest

from kubectl_svcroute.run.settings import DEMO

ROOT = Path(__file__).parent.parent


def contents(path: Path) -> dict[str, bytes]:
    """Name -> bytes of every file in an archive."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def test_the_demo_is_what_its_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make generated` brings it up to date; what differs between zlibs does not count."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from make_demo import LIMIT, make

    made = tmp_path / "demo.tar.gz"
    make(made)
    ours, shipped = contents(made), contents(DEMO)
    assert ours.keys() == shipped.keys()
    # cluster.json holds the version of the program that saved it.
    assert [name for name in ours if ours[name] != shipped[name] and name != "cluster.json"] == []
    assert DEMO.stat().st_size < LIMIT


def test_everybody_can_read_it() -> None:
    """Snapshots are their owner's alone; this one is in a package that another user may have installed."""
    assert DEMO.stat().st_mode & 0o444 == 0o444
