#!/usr/bin/env python3
"""Fill in krew's manifest from the archives of a release, and note the checksums of all that is released.

    scripts/make_manifest.py [FOLDER]       `make manifest` calls it: FOLDER (default: dist) holds the archives

Writes FOLDER/svcroute.yaml from krew-manifest.yaml, with the platforms for which there is an archive, and FOLDER/SHA256SUMS.
It needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "krew-manifest.yaml"
SUMS = "SHA256SUMS"

_PLATFORM = re.compile(r"(?m)^    - selector:\n(?:^      .*\n)+")
_URI = re.compile(r"(?m)^(      uri: .*/download/)v[^/]+(/kubectl-svcroute)_v[^_]+_(\w+)\.tar\.gz$")
_SHA = re.compile(r'(?m)^      sha256: .*$')


def digest(path: Path) -> str:
    """A file's SHA-256, as `sha256sum` prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plugin(text: str) -> str:
    """The plugin's name. krew wants the manifest's file named like it."""
    found = re.search(r"(?m)^metadata:\n  name: (\S+)$", text)
    if found is None:
        raise ValueError(f"{SOURCE.name}: no metadata.name")
    return found[1]


def filled(source: str, archives: dict[str, Path], version: str) -> str:
    """The manifest's text for these archives (by `os_arch`). Raises ValueError for one that it has no platform for."""
    left = dict(archives)

    def platform(found: re.Match[str]) -> str:
        text = found[0]
        uri = _URI.search(text)
        if uri is None:
            raise ValueError(f"{SOURCE.name}: a uri has to end in /download/vX/kubectl-svcroute_vX_OS_ARCH.tar.gz")
        archive = left.pop(uri[3], None)
        if archive is None:
            return ""
        text = _URI.sub(rf"\g<1>{version}\g<2>_{version}_\g<3>.tar.gz", text)
        return _SHA.sub(f"      sha256: {digest(archive)}", text)

    text = _PLATFORM.sub(platform, source)
    if left:
        raise ValueError(f"{SOURCE.name} has no platform for {', '.join(sorted(left))}")
    text = re.sub(r"\A(?:#.*\n)+", "", text)  # what the source says of itself is not for krew's index
    return re.sub(r"(?m)^  version: v.*$", f"  version: {version}", text)


def main(folder: Path) -> int:
    """Write both files; 1 when the folder's archives are no release."""
    found = {path: re.fullmatch(r"kubectl-svcroute_(v[^_]+)_(\w+)\.tar\.gz", path.name) for path in folder.glob("*.tar.gz")}
    named = {path: name for path, name in found.items() if name}
    versions = {name[1] for name in named.values()}
    if len(versions) != 1:
        wrong = ", ".join(sorted(versions)) or "none"
        print(f"error: {folder}: archives of one version are needed, found {wrong} (make clean removes them)", file=sys.stderr)
        return 1
    try:
        text = filled(SOURCE.read_text(encoding="utf-8"), {name[2]: path for path, name in named.items()}, versions.pop())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    manifest = folder / f"{plugin(text)}.yaml"
    manifest.write_text(text, encoding="utf-8")
    released = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{digest(path)}  {path.name}\n" for path in released), encoding="utf-8")
    print(f"{manifest.name}: {', '.join(sorted(name[2].replace('_', '/') for name in named.values()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")))
