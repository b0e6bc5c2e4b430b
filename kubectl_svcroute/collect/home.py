"""The user's home folder, which a container's user may not have."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CollectError


def expand(path: str, remedy: str = "") -> Path:
    """A path with its `~` replaced. Raises CollectError, with the remedy beside `set HOME`, where there is no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        more = f", or {remedy}" if remedy else ""
        raise CollectError(
            f"{path}: the home folder is unknown: HOME is not set, and user {os.getuid()} is not in /etc/passwd; set HOME{more}"
        ) from None
