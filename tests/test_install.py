"""pip installs the wheel into an empty environment, with the lowest and the highest version of each dependency, and it works.

One interpreter here; `make ranges` tries every Python that there is, with the tests of everything that meets a library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import ApiServer
from captured import capture
from distribution import ROOT, Dist
from sshd import SshLab, why_not
from test_process import FIRST, NAME, THIRD, Cluster

sys.path.insert(0, str(ROOT / "scripts"))
try:
    from try_ranges import ENDS, environment, lowest, pip, pip_for, requirements, try_installed
finally:
    sys.path.pop(0)


class Installed(Cluster):
    """The cluster of test_process.py, looked at by what pip put into an environment."""

    python: Path

    def command(self, *arguments: str, nodes: tuple[str, ...] = (FIRST, THIRD)) -> list[str]:
        return [str(self.python.parent / "kubectl-svcroute"), *super().command(*arguments, nodes=nodes)[3:]]


@pytest.fixture(scope="module")
def environments(dist: Dist) -> dict[str, Path]:
    """The Python of an environment for each end."""
    made = {}
    for end in ENDS:
        made[end] = environment(f"{sys.base_prefix}/bin/python3", end, ROOT / "build" / "ranges" / f"tested-{end}")
        pip(made[end], "--no-deps", "--force-reinstall", str(dist.wheel))
    return made


@pytest.fixture(scope="module")
def cluster(environments: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed | None]:
    """Made after the environments: from within its network namespace, no package index can be reached."""
    if why_not():
        yield None
        return
    with SshLab() as lab, ApiServer(capture(NAME)) as api:
        yield Installed(api, lab, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("end", ENDS)
def test_both_ends_of_the_ranges_work(environments: dict[str, Path], end: str, cluster: Installed | None) -> None:
    """Installed by pip and nothing else: no conflict, demo and completion work, a live audit finds the fault."""
    python = environments[end]
    try_installed(python)
    versions = json.loads(
        subprocess.run([*pip_for(python), "list", "--format", "json"], capture_output=True, check=True).stdout
    )
    found = {one["name"].lower(): one["version"] for one in versions}
    if end == "lowest":
        for line in lowest():
            name, _, version = line.partition(";")[0].partition("==")
            assert found[name.lower()] == version or ";" in line
    # Every library that is needed is asked for by name or comes with one that is; none is there because a test needs it.
    assert not {"pytest", "hypothesis", "click-man"} & set(found)
    typed = "import kubectl_svcroute, pathlib; print((pathlib.Path(kubectl_svcroute.__file__).parent / 'py.typed').exists())"
    assert subprocess.run([str(python), "-I", "-c", typed], capture_output=True, text=True, check=True).stdout == "True\n"
    if cluster is None:
        pytest.skip(why_not())
    cluster.python = python
    done = cluster.run("kuard", "-o", "json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [(f["code"], f["node"], f["service"]) for f in report["findings"]] == [("SR201", THIRD, "default/kuard")]
    assert done.stderr.count("\n") == 1, "a library warned"  # the summary alone


def test_lower_bounds_are_versions() -> None:
    """Each dependency has a lower bound, which `lowest` can ask for exactly."""
    assert len(lowest()) >= len([line for line in requirements() if ">=" in line]) >= 6
    assert all("==" in line for line in lowest())
