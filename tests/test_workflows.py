"""What GitHub runs cannot run here: so it is linted, and each script that it calls is one that `make` calls, and runs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_svcroute.shards.manifests import IMAGE

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MANIFEST = ROOT / "krew-manifest.yaml"
E2E = ROOT / "scripts" / "e2e.sh"


def commands() -> list[tuple[str, str]]:
    """(workflow, line) of everything that a workflow gives a shell."""
    found = []
    for path in WORKFLOWS:
        jobs: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        for job in jobs.values():
            for step in job["steps"]:
                found += [(path.name, line.strip()) for line in step.get("run", "").splitlines()]
    return found


def test_there_are_workflows() -> None:
    """Tests, and releases."""
    assert [path.name for path in WORKFLOWS] == ["release.yml", "test.yml"]


def test_actionlint_finds_nothing() -> None:
    """Syntax, expressions, runners, permissions, versions of actions, and the shell in between."""
    tool = Path(sys.executable).parent / "actionlint"
    if not tool.exists():
        pytest.skip("actionlint has no wheel for this platform")
    done = subprocess.run([tool, "-no-color", *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing() -> None:
    """The scripts that make and CI call are as clean as the Python."""
    scripts = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_a_workflow_calls_is_there() -> None:
    """A target of make that is gone breaks a release, and only on its day."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.M))
    called = set()
    for name, line in commands():
        if found := re.match(r"make ([a-z0-9-]+)", line):
            called.add(found[1])
            assert found[1] in targets, f"{name}: {line}"
        for script in re.findall(r"\b(?:bash|sh|python3?) (\.?[a-z]+/\S+)", line):
            assert (ROOT / script).is_file(), f"{name}: {line}"
    assert called >= {"check", "dist", "manifest", "e2e"}


def test_the_bots_template_is_the_manifest() -> None:
    """.krew.yaml, filled in as the bot does it, says what krew-manifest.yaml says."""
    text = (ROOT / ".krew.yaml").read_text(encoding="utf-8")
    assert text.count("{{addURIAndSha ") == MANIFEST.read_text(encoding="utf-8").count("uri: ")
    assert "sha256" not in text.replace("SHA256SUMS", "")
    text = text.replace("{{ .TagName }}", "v0.1.0")

    def fill(found: re.Match[str]) -> str:
        # The bot indents what follows the first line; the first stands where the template has it.
        return f'uri: {found[1]}\n{" " * int(found[2])}sha256: "{"0" * 64}"'

    filled = re.sub(r'\{\{addURIAndSha "(\S+)" \.TagName \| indent (\d+) \}\}', fill, text)
    assert "{{" not in filled
    assert yaml.safe_load(filled) == yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))


# ---- the end-to-end run, with a cluster of paper ---------------------------------------------------------------------------

STUB = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$LOG"
case "${0##*/} $*" in
  *"jsonpath={.spec.clusterIP}"*) printf 10.96.1.2 ;;
  *"iptables-save -t nat"*) cat <<'RULES'
-A KUBE-SERVICES -d 10.96.1.2/32 -p tcp -m comment --comment "default/kuard" -m tcp --dport 8080 -j KUBE-SVC-KONBHUEJ3TRSITPT
-A KUBE-SVC-KONBHUEJ3TRSITPT ! -s 10.244.0.0/16 -d 10.96.1.2/32 -p tcp -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-KONBHUEJ3TRSITPT -m statistic --mode random --probability 0.5 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-KONBHUEJ3TRSITPT -j KUBE-SEP-BBBBBBBBBBBBBBBB
RULES
  ;;
  *"iptables-restore"*) cat >>"$LOG" ;;
  plugin*) read -r status <"$STATUSES"; sed -i 1d "$STATUSES"; [ "$status" = 1 ] && echo "$CODE"; exit "$status" ;;
  "kind create"*) cat >/dev/null ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("sed") is None, reason="needs bash and sed")
@pytest.mark.parametrize(
    ("mode", "statuses", "says", "ends"),
    [
        ("iptables", [0, 1, 0], "SR201", 0),
        ("nftables", [0, 1, 0], "SR101", 0),
        ("ipvs", [3], "SR904", 1),  # the paper plugin says nothing of SR904: a status alone is not enough
        ("iptables", [1], "SR201", 1),  # a false alarm
        ("iptables", [0, 0], "SR201", 1),  # a false green
        ("iptables", [0, 1, 0], "SR999", 1),  # another finding than the one that was made
        ("iptables", [0, 1, 1], "SR201", 1),  # not mended
    ],
)
def test_the_end_to_end_run_believes_no_wrong_answer(
    tmp_path: Path, mode: str, statuses: list[int], says: str, ends: int
) -> None:
    """It passes on silence, the right finding and silence again, and fails on anything else; its cluster is taken away."""
    for name in ("kind", "kubectl", "docker", "plugin"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    done = subprocess.run(
        ["bash", str(E2E), mode, "v1.34.0", str(tmp_path / "plugin")],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"),
            "STATUSES": str(tmp_path / "statuses"), "CODE": says,
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    log = (tmp_path / "log").read_text()
    assert done.returncode == ends, done.stderr
    assert log.rstrip().endswith(f"kind delete cluster --name svcroute-e2e-{mode}")
    if mode == "iptables" and statuses[:1] == [0]:
        assert "*nat\n-D KUBE-SVC-KONBHUEJ3TRSITPT -m statistic --mode random --probability 0.5 -j KUBE-SEP-A" in log
    if mode == "nftables":
        assert "nft delete element ip kube-proxy service-ips { 10.96.1.2 . tcp . 8080 }" in log


def test_the_image_that_job_names_is_the_one_that_is_pushed() -> None:
    """Its name is asked of the program itself, with nothing but Python installed."""
    lines = [line for name, line in commands() if name == "release.yml" and line.startswith("IMAGE=")]
    assert len(lines) == 2
    (asked,) = {re.search(r"-c '([^']+)'", line)[1] for line in lines}  # type: ignore[index]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {asked}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == IMAGE
