"""The lab's fixtures, and the one reason for which all of this folder is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from .judge import Figures
from .lab import Lab, missing
from .micro import WORDS

_why = cache(missing)


@pytest.fixture(autouse=True)
def _needs_a_kernel(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("root") and (why := _why()):
        pytest.skip(f"no kernel to ask: {why}")


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Shared by a whole run, for its summary."""
    return Figures()


@pytest.fixture(scope="module", params=["legacy", "nft"])
def micro_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A node for hand-written rule sets."""
    lab = Lab(request.param, (WORDS[4]["node"], WORDS[6]["node"]), (WORDS[4]["podnet"], WORDS[6]["podnet"]))
    yield lab
    lab.close()
