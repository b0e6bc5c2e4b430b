"""`version`: the program says where it comes from, and what the machine lacks is not called a bug."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubectl_svcroute import __version__
from kubectl_svcroute.expect.versions import NEWEST
from kubectl_svcroute.run import about

ROOT = Path(__file__).parent.parent
NOBODY = 54321


def typed(*words: str, root: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """The program as a user types it. `root=False`: as a user without a home folder or an entry in passwd."""
    given: dict[str, object] = {"stdout": subprocess.PIPE, **options}
    program = [sys.executable, "-m", "kubectl_svcroute", *words]
    if not root:
        program = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", *program]
    return subprocess.run(program, stderr=subprocess.PIPE, text=True, check=False, timeout=60, cwd=ROOT, **given)  # type: ignore[call-overload,no-any-return]


def test_version_tells_where_the_program_comes_from() -> None:
    """A clone names its commit; every library that is imported has a version; the newest kube-proxy is the newest known."""
    done = typed("version", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
    assert (found["version"], found["commit"]) == (__version__, head or None)
    assert found["kubeProxy"]["newest"] == ".".join(map(str, NEWEST))
    assert all(found["libraries"].values())
    text = typed("version").stdout
    assert __version__ in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("python", "built", "frozen", "route"),
    [
        ("/opt/svcroute/bin/python3", {"by": "image", "commit": "a" * 40}, False, "image"),
        ("/home/me/.krew/store/svcroute/v0.1.0/kubectl-svcroute/kubectl-svcroute", {"by": "archive"}, True, "krew"),
        ("/home/me/.local/share/svcroute/kubectl-svcroute/kubectl-svcroute", {"by": "archive"}, True, "archive"),
        ("/home/me/.local/share/pipx/venvs/kubectl-svcroute/bin/python", {}, False, "pipx"),
        ("/home/me/.local/share/uv/tools/kubectl-svcroute/bin/python", {}, False, "uv"),
        ("/srv/venv/bin/python", {}, False, "pip"),
    ],
)
def test_each_way_to_install_is_known(
    python: str, built: dict[str, str], frozen: bool, route: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "build.json"
    note.write_text(json.dumps(built))
    monkeypatch.setattr(about, "BUILD", note)
    monkeypatch.setattr(about, "_origin", lambda: {"commit": "", "editable": ""})
    monkeypatch.setattr(about, "_git", lambda: None)
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    found = about.about()
    assert (found.installed, found.commit) == (route, built.get("commit", ""))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["demo"], ["demo", "-o", "json"], ["explain", "SR201"], ["version"]])
def test_a_full_disk_is_no_bug(words: list[str]) -> None:
    """What was to be written is not there: status 2 and one line, whatever was written."""
    with Path("/dev/full").open("w") as full:
        done = typed(*words, stdout=full)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: no space left on the disk: what was to be written is not complete"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to run as a user whom passwd does not know")
def test_no_home_and_no_entry_in_passwd() -> None:
    """What needs no home folder works; what does names an option that the command has."""
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = typed("demo", "-o", "brief", root=False, env=env)
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this Python is in a folder that only root may read")
    assert done.returncode == 1, done.stderr
    done = typed("kuard", root=False, env=env)
    assert (done.returncode, "bug" in done.stderr) == (2, False), done.stderr
    assert "set HOME, or name the file with --kubeconfig or KUBECONFIG" in done.stderr
    done = typed("completion", "install", root=False, env=env)
    assert (done.returncode, "--to DIR" in done.stderr) == (2, True)


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that has to be unpacked somewhere, on a machine where nothing can be written."""
    from kubectl_svcroute.cli import main
    from kubectl_svcroute.run import check

    def nowhere(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']")

    monkeypatch.setattr(check, "run", nowhere)
    monkeypatch.setattr(sys, "argv", ["kubectl-svcroute", "--snapshot", "audit.tar.gz"])
    with CliRunner().isolation() as streams, pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert b"error: no folder for temporary files" in streams[1].getvalue()
    assert b"set TMPDIR" in streams[1].getvalue()
