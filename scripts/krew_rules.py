#!/usr/bin/env python3
"""krew's rules for a plugin's manifest and its archives, as its validator and installer hold them.

    scripts/krew_rules.py MANIFEST [ARCHIVE]...

krew itself reads YAML leniently: an unknown field is ignored, so that a typo in `caveats` passes there. Here it does not.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

API_VERSION, KIND = "krew.googlecontainertools.github.com/v1alpha2", "Plugin"
PAIRS = tuple(
    (system, arch)
    for system, arches in (
        ("linux", ("386", "amd64", "arm", "arm64", "ppc64le")),
        ("darwin", ("386", "amd64", "arm64")),
        ("windows", ("386", "amd64", "arm64")),
    )
    for arch in arches
)
"""The platforms that krew's validator knows."""

_NAME = re.compile(r"[\w-]+", re.ASCII)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_NUMBER, _WORD = r"(?:0|[1-9]\d*)", r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_WORD}(?:\.{_WORD})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?")
_FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name"},
    "spec": {"version", "homepage", "shortDescription", "description", "caveats", "platforms"},
    "platform": {"selector", "uri", "sha256", "bin", "files"},
    "selector": {"matchLabels", "matchExpressions"},
    "file": {"from", "to"},
}
LICENCES = re.compile(r"(?:LICENSE|LICENSES|COPYING)(?:\.(?:txt|md))?")


def manifest_problems(path: Path) -> list[str]:
    """What krew would refuse a manifest for, but for its file's name (`name_problems`)."""
    try:
        # BaseLoader: a version or a checksum is text, whatever it looks like.
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - makes nothing but text
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [f"not readable as YAML: {error}"]
    return list(_manifest(found))


def name_problems(path: Path) -> list[str]:
    """krew's index wants the file named like the plugin: `svcroute.yaml`."""
    found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    name = found["metadata"]["name"]
    return [] if path.name == f"{name}.yaml" else [f"the file has to be named {name}.yaml, not {path.name}"]


def _manifest(found: Any) -> Iterator[str]:
    if not isinstance(found, dict):
        yield "the manifest is no mapping"
        return
    yield from _unknown("", found)
    if found.get("apiVersion") != API_VERSION:
        yield f"apiVersion has to be {API_VERSION}"
    if found.get("kind") != KIND:
        yield f"kind has to be {KIND}"
    meta, spec = found.get("metadata"), found.get("spec")
    if not isinstance(meta, dict) or not isinstance(spec, dict):
        yield "metadata and spec have to be mappings"
        return
    yield from _unknown("metadata", meta)
    yield from _unknown("spec", spec)
    name = meta.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _DEVICES:
        yield f"metadata.name {name!r} is no name that krew takes"
    version = spec.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        yield f"spec.version {version!r} has to be v and a full semantic version, as v1.2.3"
    short = spec.get("shortDescription")
    if not isinstance(short, str) or not short.strip():
        yield "spec.shortDescription is required"
    elif "\n" in short or "\r" in short:
        yield "spec.shortDescription has to be one line"
    platforms = spec.get("platforms")
    if not isinstance(platforms, list) or not platforms:
        yield "spec.platforms has to be a list with at least one platform"
        return
    for number, platform in enumerate(platforms):
        for problem in _platform(platform):
            yield f"spec.platforms[{number}]: {problem}"
    for pair in PAIRS:
        mine = [n for n, platform in enumerate(platforms) if _selects(platform, *pair)]
        if len(mine) > 1:
            yield f"{'/'.join(pair)} is matched by spec.platforms {', '.join(map(str, mine))}: one at most"


def _unknown(place: str, found: Mapping[str, Any]) -> Iterator[str]:
    for field in sorted(set(found) - _FIELDS[place]):
        yield f"{place or 'the manifest'} has no field {field!r}: krew would ignore it"


def _platform(platform: Any) -> Iterator[str]:
    if not isinstance(platform, dict):
        yield "no mapping"
        return
    yield from _unknown("platform", platform)
    for field in ("uri", "sha256", "bin"):
        if not isinstance(platform.get(field), str) or not platform[field]:
            yield f"{field} is required"
    digest = platform.get("sha256")
    if isinstance(digest, str) and digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        yield "sha256 has to be 64 lower-case hexadecimal digits"
    program = platform.get("bin")
    if isinstance(program, str) and program and not _inside(program):
        yield f"bin {program!r} leaves the plugin's folder"
    if "files" in platform:
        files = platform["files"]
        if not isinstance(files, list) or not files:
            yield "files has to be left out, or to be a list with at least one entry"
        else:
            for entry in files:
                yield from _file(entry)
    selector = platform.get("selector")
    if not isinstance(selector, dict) or not any(selector.values()):
        yield "selector is required, and has to ask for something"
        return
    yield from _unknown("selector", selector)
    keys = set(selector.get("matchLabels") or {}) | {one.get("key") for one in selector.get("matchExpressions") or []}
    if keys - {"os", "arch"}:
        yield f"selector asks for {', '.join(sorted(map(str, keys - {'os', 'arch'})))}: there are os and arch only"
    elif not any(_selects(platform, *pair) for pair in PAIRS):
        yield "selector matches no platform that krew knows"


def _file(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not entry.get("from") or not entry.get("to"):
        yield "each of files needs from and to"
        return
    yield from _unknown("file", entry)
    if not _inside(entry["to"]) or posixpath.normpath(entry["to"]) != entry["to"]:
        yield f"files: to {entry['to']!r} is no clean path inside the plugin's folder"


def _inside(path: str) -> bool:
    return not path.startswith("/") and posixpath.normpath(path).split("/")[0] != ".."


def _selects(platform: Any, system: str, arch: str) -> bool:
    """Whether a platform's selector, a Kubernetes label selector, matches an os and an arch."""
    selector = platform.get("selector") if isinstance(platform, dict) else None
    if not isinstance(selector, dict):
        return False
    labels = {"os": system, "arch": arch}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or []:
        value, values = labels.get(one.get("key")), one.get("values") or []
        holds = {
            "In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None
        }.get(one.get("operator"), False)  # fmt: skip
        if not holds:
            return False
    return True


def archive_problems(path: Path, program: str) -> list[str]:
    """What krew would refuse an archive for when it installs it; `program` is the manifest's `bin`."""
    problems = []
    try:
        with tarfile.open(path, "r:gz") as tar:
            members = tar.getmembers()
    except (OSError, tarfile.TarError) as error:
        return [f"{path.name}: not a .tar.gz: {error}"]
    for member in members:
        if not (member.isreg() or member.isdir()):
            problems.append(f"{member.name}: neither a file nor a folder: krew stops at links of both kinds")
        if member.name.startswith("/") or ".." in member.name:
            problems.append(f"{member.name}: krew refuses paths that begin with / or hold ..")
    names = {posixpath.normpath(member.name): member for member in members}
    found = names.get(posixpath.normpath(program))
    if found is None or not found.isreg():
        problems.append(f"there is no {program} in it")
    elif not found.mode & 0o100:
        problems.append(f"{program} cannot be executed")
    if not any(LICENCES.fullmatch(name) for name in names):
        problems.append("there is no LICENSE at its top: krew's index refuses it")
    return problems


def main(arguments: list[str]) -> int:
    """Check a manifest and, with its `bin`, archives."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    manifest, *archives = map(Path, arguments)
    problems = manifest_problems(manifest)
    if not problems:
        found = yaml.load(manifest.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
        for archive in archives:
            problems += [f"{archive.name}: {p}" for p in archive_problems(archive, found["spec"]["platforms"][0]["bin"])]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
