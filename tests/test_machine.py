"""What `make` and CI do before and after the tests: preparing a machine, and judging what ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MACHINE = ROOT / "scripts" / "machine.sh"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with next to nothing on its PATH; its apt-get notes what is asked for and brings a Python."""
    found = tmp_path / "bin"
    found.mkdir()
    for tool in ("bash", "env", "cat", "ln"):
        where = shutil.which(tool)
        assert where is not None
        (found / tool).symlink_to(where)
    return found


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def run(machine: Path, *words: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    program(machine / "id", f"echo {uid}")
    return subprocess.run(
        ["bash", str(MACHINE), *words], env={"PATH": str(machine)}, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_machine_without_python_gets_one(machine: Path, tmp_path: Path) -> None:
    """Root on Debian with no Python: python3 and python3-venv are installed, and the environment is made with it."""
    program(tmp_path / "python3", f'case "$1" in -m) echo "$*" >{tmp_path}/made ;; esac')
    program(machine / "apt-get", f'echo "$*" >>{tmp_path}/apt; ln -sf {tmp_path}/python3 {machine}/python3')
    done = run(machine, "venv", "/the/venv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apt").read_text().split("\n")[0].endswith("--no-install-recommends python3 python3-venv")
    assert (tmp_path / "made").read_text() == "-m venv /the/venv\n"


def test_a_python_without_venv_does_not_count(machine: Path, tmp_path: Path) -> None:
    """Debian's python3 without python3-venv looks like a Python and makes half an environment: it is passed over."""
    program(machine / "python3", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    program(machine / "python3.12", f'case "$1" in -m) echo "$0" >{tmp_path}/made ;; esac')
    assert run(machine, "venv", "/the/venv").returncode == 0
    assert (tmp_path / "made").read_text() == f"{machine}/python3.12\n"


def test_whoever_may_not_install_is_told_what_to(machine: Path) -> None:
    """Without root nothing is installed, and the message says what is missing and how to get it."""
    program(machine / "apt-get", "exit 99")
    done = run(machine, "venv", "/the/venv", uid=1000)
    assert done.returncode == 1
    assert "sudo apt-get install python3 python3-venv" in done.stderr
    done = run(machine, "test-tools", uid=1000)
    assert done.returncode == 0
    assert " busybox " in done.stderr
    assert "are skipped" in done.stderr


def test_a_package_that_is_not_to_be_had_costs_no_other(machine: Path, tmp_path: Path) -> None:
    """Where apt knows one of them not, the rest is installed all the same, and the one is named."""
    program(machine / "apt-get", f'case "$*" in *kubernetes-client*) exit 100 ;; esac; echo "$*" >>{tmp_path}/apt')
    done = run(machine, "test-tools")
    assert done.returncode == 0
    assert "warning: kubernetes-client could not be installed" in done.stderr
    assert " busybox\n" in (tmp_path / "apt").read_text()


JUNIT = '<testsuites><testsuite><testcase name="a"/><testcase name="b">{}</testcase></testsuite></testsuites>'


def judged(tmp_path: Path, inner: str) -> tuple[int, str]:
    path = tmp_path / "tests.xml"
    path.write_text(JUNIT.format(inner))
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "judge_tests.py"), str(path)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_run_is_judged_by_what_ran(tmp_path: Path) -> None:
    """All passed is a pass; a failure is none; a run that left no record is none."""
    assert judged(tmp_path, "") == (0, "tests: 2 passed\n")
    assert judged(tmp_path, '<failure message="x"/>')[0] == 1
    (tmp_path / "tests.xml").unlink()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "judge_tests.py"), str(tmp_path / "tests.xml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1


def test_a_skip_without_need_fails_the_run(tmp_path: Path) -> None:
    """Where everything can run, a skip is a hole, unless its reason is among those that are allowed."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from judge_tests import able
    finally:
        sys.path.pop(0)
    status, said = judged(tmp_path, '<skipped message="needs busybox"/>')
    assert "skipped 1: needs busybox" in said
    assert status == (0 if able() else 1)
    assert judged(tmp_path, '<skipped message="this machine has a sudo of its own"/>')[0] == 0
    assert judged(tmp_path, '<skipped type="pytest.xfail" message="a known bug"/>')[0] == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_make_demo_ends_as_the_demo_should(tmp_path: Path, status: int, ends: int) -> None:
    """Findings are what the demo is there for; any other failure is one of make."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    program(tmp_path / "venv" / "bin" / "kubectl-svcroute", f"exit {status}")
    (tmp_path / "venv" / ".installed").touch()
    done = subprocess.run(
        ["make", "-C", str(ROOT), "-o", f"{tmp_path}/venv/.installed", f"VENV={tmp_path}/venv", "demo"],
        capture_output=True, check=False, env={k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"},
    )  # fmt: skip
    assert done.returncode == ends, done.stderr
