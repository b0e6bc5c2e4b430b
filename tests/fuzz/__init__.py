"""Every parser of other people's text, changed and cut at random. `python -m tests.fuzz --list` says what there is."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    sys.path.append(_TESTS)  # as conftest.py does for pytest
