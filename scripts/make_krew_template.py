#!/usr/bin/env python3
"""Write .krew.yaml, the template of krew-release-bot, from krew-manifest.yaml.

The bot fills in the tag, and for each archive its address and checksum; it indents all but the first line of what it fills in.
The template has no comments: the bot would carry them into the index.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_ARCHIVE = re.compile(r"uri: (.+)\n( +)sha256: .*")


def template(manifest: str) -> str:
    """The template of a manifest. Raises ValueError when the manifest names no version."""
    version = re.search(r"^  version: (v\S+)$", manifest, re.M)
    if version is None:
        raise ValueError("krew-manifest.yaml: no line `  version: vX.Y.Z`")
    body = re.sub(r"\A(?:#.*\n)+", "", manifest).replace(version[1], "{{ .TagName }}")
    return _ARCHIVE.sub(lambda found: f'{{{{addURIAndSha "{found[1]}" .TagName | indent {len(found[2])} }}}}', body)


if __name__ == "__main__":
    (ROOT / ".krew.yaml").write_text(template((ROOT / "krew-manifest.yaml").read_text(encoding="utf-8")), encoding="utf-8")
