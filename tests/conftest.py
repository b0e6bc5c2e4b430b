"""Being here puts this folder on the path: tests say `from captured import capture`, in whatever folder they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import distribution
import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Seeds and figures that tests recorded: a seed that nobody saw cannot be tried again."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name in ("seed", "figures"):
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="Write golden files anew instead of comparing with them.")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin early, in one process, with what takes long (`distribution`)."""
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if first and not session.config.option.collectonly and any("dist" in getattr(i, "fixturenames", ()) for i in session.items):
        builder = subprocess.Popen(
            [sys.executable, str(Path(distribution.__file__))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        session.config.add_cleanup(lambda: (builder.terminate(), builder.wait()))


@pytest.fixture(scope="session")
def dist() -> distribution.Dist:
    """What `make dist` makes of this tree. Whether it can be made at all is what the first test of it finds out."""
    return distribution.built()
