"""The captures themselves: what the other tests rely on."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import captured
import pytest
from captured import CAPTURES, capture, faults, faulty, truth


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CAPTURES)
def test_faulty_cluster_differs_in_one_node(name: str) -> None:
    """A fault is the healthy cluster with other files for the node that its truth names, and for no other."""
    healthy = {path: data for path, data in files(capture(name)).items() if not path.startswith("faults/")}
    assert faults(name)
    for fault in faults(name):
        broken = files(faulty(name, fault))
        assert broken.keys() == healthy.keys()
        differing = {path.split("/")[1] for path in broken if broken[path] != healthy[path]}
        assert differing == {truth(name, fault)["node"]}, fault


def test_unknown_names_are_errors() -> None:
    """A misspelt capture or fault is an error, not a healthy cluster."""
    with pytest.raises(KeyError, match=r"no capture v0; there are v1\."):
        capture("v0")
    with pytest.raises(KeyError, match="has no fault x"):
        faulty(CAPTURES[0], "x")


def unpack(cache: str) -> str:
    captured._cache = lambda: Path(cache)
    return str(capture.__wrapped__(CAPTURES[0]))


def test_processes_may_unpack_at_once(tmp_path: Path) -> None:
    """Several workers that need the same capture for the first time get the same whole folder."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        roots = set(pool.map(unpack, [str(tmp_path)] * 4))
    (root,) = roots
    assert files(Path(root)) == files(capture(CAPTURES[0]))
    assert [path.name for path in tmp_path.iterdir()] == [Path(root).name]
