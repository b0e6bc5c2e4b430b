"""Being here puts this folder on the path: tests say `from captured import capture`, in whatever folder they are."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="Write golden files anew instead of comparing with them.")
