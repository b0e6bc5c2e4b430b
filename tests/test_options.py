"""What the command line's words become."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubectl_svcroute.run.settings import DEMO, settings


def test_demo_names_the_cluster_that_comes_with_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is something of that name here: then it is that."""
    monkeypatch.chdir(tmp_path)
    assert settings({"snapshot": "demo"}).snapshot == str(DEMO)
    (tmp_path / "demo").mkdir()
    assert settings({"snapshot": "demo"}).snapshot == "demo"
    assert settings({"snapshot": None}).snapshot is None
