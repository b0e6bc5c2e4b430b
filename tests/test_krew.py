"""The krew manifest keeps krew's rules, and the checker of those rules finds what breaks them."""

from __future__ import annotations

import copy
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_svcroute import __version__

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "krew-manifest.yaml"
sys.path.insert(0, str(ROOT / "scripts"))
try:
    from krew_rules import archive_problems, manifest_problems, name_problems
finally:
    sys.path.pop(0)


@pytest.fixture
def manifest() -> dict[str, Any]:
    """Our own manifest, to be broken."""
    found: dict[str, Any] = yaml.load(MANIFEST.read_text(), Loader=yaml.BaseLoader)
    return copy.deepcopy(found)


def test_our_manifest_keeps_the_rules() -> None:
    """krew would take it."""
    assert manifest_problems(MANIFEST) == []


def test_our_manifest_is_about_this_program(manifest: dict[str, Any]) -> None:
    """Its name is what users type, its version is the program's, its archives bear the tag in their names."""
    assert manifest["metadata"]["name"] == "svcroute"
    spec = manifest["spec"]
    assert spec["version"] == f"v{__version__}"
    pairs = [(p["selector"]["matchLabels"]["os"], p["selector"]["matchLabels"]["arch"]) for p in spec["platforms"]]
    assert pairs == [("linux", "amd64"), ("linux", "arm64"), ("darwin", "arm64"), ("darwin", "amd64")]
    for platform, pair in zip(spec["platforms"], pairs, strict=True):
        tag = spec["version"]
        assert platform["uri"].endswith(f"/releases/download/{tag}/kubectl-svcroute_{tag}_{'_'.join(pair)}.tar.gz")
    assert len(spec["shortDescription"]) <= 50  # the index's advice
    for word in ("only reads", "SSH", "demo"):
        assert word in spec["caveats"]


def test_the_file_has_to_be_named_like_the_plugin(tmp_path: Path) -> None:
    """What is handed to krew's index is called svcroute.yaml; the source at the top of the repository is not."""
    right = tmp_path / "svcroute.yaml"
    right.write_text(MANIFEST.read_text())
    assert name_problems(right) == []
    assert name_problems(MANIFEST) == ["the file has to be named svcroute.yaml, not krew-manifest.yaml"]


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: Any) -> None:
        for step in path[:-1]:
            found = found[step]
        if to is None:
            del found[path[-1]]
        else:
            found[path[-1]] = to

    return change


def _overlap(found: dict[str, Any]) -> None:
    found["spec"]["platforms"].append(found["spec"]["platforms"][0])


_P = ("spec", "platforms", 0)
_ANY_LINUX = {"matchExpressions": [{"key": "os", "operator": "In", "values": ["linux"]}]}
BROKEN = [
    (_set("apiVersion", to="krew.googlecontainertools.github.com/v1alpha1"), "apiVersion"),
    (_set("kind", to="plugin"), "kind"),
    (_set("metadata", "name", to="svc route"), "metadata.name"),
    (_set("metadata", "name", to="aux"), "metadata.name"),
    (_set("spec", "version", to="0.1.0"), "spec.version"),
    (_set("spec", "version", to="v0.1"), "spec.version"),
    (_set("spec", "version", to="v0.01.0"), "spec.version"),
    (_set("spec", "shortDescription", to=None), "shortDescription is required"),
    (_set("spec", "shortDescription", to="two\nlines"), "one line"),
    (_set("spec", "caveat", to="a typo"), "no field 'caveat'"),
    (_set("spec", "platforms", to=[]), "at least one platform"),
    (_set(*_P, "uri", to=None), "uri is required"),
    (_set(*_P, "sha256", to=None), "sha256 is required"),
    (_set(*_P, "sha256", to="A" * 64), "lower-case"),
    (_set(*_P, "bin", to=None), "bin is required"),
    (_set(*_P, "bin", to="../kubectl-svcroute"), "leaves the plugin's folder"),
    (_set(*_P, "files", to=[]), "left out"),
    (_set(*_P, "files", to=[{"from": "*", "to": "a/../.."}]), "clean path"),
    (_set(*_P, "selector", to=None), "selector is required"),
    (_set(*_P, "selector", to={"matchLabels": {}}), "selector is required"),
    (_set(*_P, "selector", to={"matchLabels": {"os": "linux", "cpu": "amd64"}}), "os and arch only"),
    (_set(*_P, "selector", to={"matchLabels": {"os": "linux", "arch": "x86_64"}}), "no platform that krew knows"),
    (_overlap, "linux/amd64 is matched by"),
    (_set(*_P, "selector", to=_ANY_LINUX), "linux/arm64 is matched by"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "why"), BROKEN, ids=[why for _, why in BROKEN])
def test_a_broken_manifest_is_refused(manifest: dict[str, Any], change: Any, why: str, tmp_path: Path) -> None:
    """Each rule of krew's, broken alone, is found and named."""
    change(manifest)
    path = tmp_path / "svcroute.yaml"
    path.write_text(yaml.safe_dump(manifest))
    problems = manifest_problems(path)
    assert [problem for problem in problems if why in problem], problems


@pytest.mark.parametrize("version", ["v0.1.0-rc.1", "v1.0.0+build.5", "v10.20.30"])
def test_versions_that_krew_takes(manifest: dict[str, Any], version: str, tmp_path: Path) -> None:
    """Pre-releases and builds are full versions too."""
    manifest["spec"]["version"] = version
    path = tmp_path / "svcroute.yaml"
    path.write_text(yaml.safe_dump(manifest))
    assert manifest_problems(path) == []


def archive(path: Path, *extra: tarfile.TarInfo, leave_out: str = "", mode: int = 0o755) -> Path:
    """An archive as a release makes it, and what a test adds to it or leaves out."""
    with tarfile.open(path, "w:gz") as tar:
        for name in ("LICENSE", "kubectl-svcroute/kubectl-svcroute", "kubectl-svcroute/_internal/lib.so"):
            if name != leave_out:
                info = tarfile.TarInfo(name)
                info.size, info.mode = 1, mode
                tar.addfile(info, io.BytesIO(b"x"))
        for info in extra:
            tar.addfile(info)
    return path


def link(kind: bytes) -> tarfile.TarInfo:
    """A link inside of the archive."""
    info = tarfile.TarInfo("kubectl-svcroute/link")
    info.type, info.linkname = kind, "kubectl-svcroute"
    return info


BIN = "kubectl-svcroute/kubectl-svcroute"


def test_archives_are_held_to_what_krew_unpacks(tmp_path: Path) -> None:
    """krew unpacks files and folders and nothing else, and its index wants a licence inside."""
    path = tmp_path / "a.tar.gz"
    assert archive_problems(archive(path), BIN) == []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        assert "links" in archive_problems(archive(path, link(kind)), BIN)[0]
    assert "begin with /" in archive_problems(archive(path, tarfile.TarInfo("/etc/x")), BIN)[0]
    assert "hold .." in archive_problems(archive(path, tarfile.TarInfo("a/../../x")), BIN)[0]
    assert archive_problems(archive(path, leave_out="LICENSE"), BIN) == [
        "there is no LICENSE at its top: krew's index refuses it"
    ]
    assert archive_problems(archive(path, leave_out=BIN), BIN) == [f"there is no {BIN} in it"]
    assert archive_problems(archive(path, mode=0o644), BIN) == [f"{BIN} cannot be executed"]
    path.write_text("no archive")
    assert "not a .tar.gz" in archive_problems(path, BIN)[0]
