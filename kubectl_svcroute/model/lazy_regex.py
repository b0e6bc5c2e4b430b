"""Regular expressions that are compiled when they are first asked something.

A module has the patterns of all that it may meet: foreign data planes, faults, other modes. To compile them costs more than to
load the module, and most runs ask few of them.
"""

from __future__ import annotations

import re
from typing import Any, cast


class _Later:
    """Stands for a pattern; each of its methods is the pattern's own from the first use on."""

    def __init__(self, text: str, flags: int) -> None:
        self._given = (text, flags)

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._given), name)
        setattr(self, name, found)
        return found


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """As `re.compile`, and at once."""
    return cast("re.Pattern[str]", _Later(text, flags))
