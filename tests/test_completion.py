"""kubectl completes the plugin's words: what is offered, through the real kubectl, and silence where nothing can be told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from api_server import ApiServer, rules_of
from captured import capture
from click.testing import CliRunner

from kubectl_svcroute import PLUGIN, PROGRAM
from kubectl_svcroute.cli.complete import answer, complete
from kubectl_svcroute.cli.completion import NAME, SHIM

ROOT = Path(__file__).parent.parent
DEMO = str(ROOT / "kubectl_svcroute" / "data" / "demo.tar.gz")


def offered(*words: str) -> list[str]:
    return [value for value, _ in complete(words)[0]]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test of this file finds a cluster that it does not name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["exp"], ["explain"]),
        (["explain", "SR60"], [f"SR60{n}" for n in range(1, 10)]),
        (["explain", "sr202"], ["SR202"]),
        (["explain", "backend-m"], ["backend-missing"]),
        (["explain", "SR201", ""], []),
        (["snapshot", ""], ["save"]),
        (["kuard", "--namesp"], ["--namespace"]),
        (["kuard", "--namespace=shop", "--namesp"], []),
        (["kuard", "--node", "a", "--nod"], ["--node", "--node-selector"]),
        (["--via", ""], ["auto", "ssh", "exec", "local"]),
        (["--via=e"], ["--via=exec"]),
        (["-o", "j"], ["json", "junit"]),
        (["trace", "kuard", "-o", "t"], ["tree"]),
        (["trace", "kuard", "--from", "o"], ["outside"]),
        (["trace", "kuard", ""], []),
        (["demo", "ku"], ["kuard", "kubernetes"]),
        (["demo", "kuard", "ku"], ["kubernetes"]),
        (["demo", "svc/ku"], ["svc/kuard", "svc/kubernetes"]),
        (["demo", "pod/ku"], []),
        (["demo", "-n", "s"], ["shop"]),
        (["demo", "-A", ""], []),
        (["--snapshot", DEMO, "-n", "shop", "we"], ["web"]),
        (["--snapshot", DEMO, "-nshop", "we"], ["web"]),
        (["--snapshot", DEMO, "--node", "kubworker3"], ["kubworker3.prefetch.net"]),
        (["trace", "--snapshot", DEMO, "kua"], ["kuard"]),
        (["--snapshot", DEMO, "-l", "comp"], ["component=apiserver"]),
        (["--snapshot", DEMO, "-l", "a=b,comp"], ["a=b,component=apiserver"]),
        (["--", "--v"], []),
        (["--no-such-flag=", ""], ["demo", "trace", "snapshot", "explain"]),
        (["--snapshot", "/no/such/file", "--node", ""], []),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_offered(words: list[str], values: list[str]) -> None:
    """Subcommands, flags not yet given, their values, codes, and names of the snapshot that the line names."""
    found = offered(*words)
    assert found[: len(values)] == values
    assert len(found) == len(values) or "demo" in values


def test_subcommands_come_first_and_services_beside_them() -> None:
    """The first word may be either."""
    from kubectl_svcroute.cli.root import LAZY

    found = offered("--snapshot", DEMO, "")
    assert found[:4] == ["demo", "trace", "snapshot", "explain"]
    assert set(LAZY) < set(found)
    assert found[-2:] == ["kuard", "kubernetes"]
    assert "check" not in found


@pytest.mark.parametrize(
    "words", [["--kubeconfig", ""], ["-i", ""], ["-o", "json="], ["snapshot", "save", ""], ["--snapshot", "./"]], ids=" ".join
)
def test_files_are_left_to_the_shell(words: list[str]) -> None:
    """Where a file is named, the shell completes; everywhere else it must not."""
    assert answer(words) == ":0\n"
    assert answer(["--settle", ""]) == ":4\n"


def test_hostile_names_do_not_reach_the_shell(tmp_path: Path) -> None:
    """A snapshot that somebody sent may hold anything: a name with a line break or an escape is not offered."""
    (tmp_path / "api").mkdir()
    items = [{"metadata": {"name": name, "namespace": "default"}} for name in ("a\n:0", "a\x1b[2J", "a b", "ab")]
    (tmp_path / "api" / "services.json").write_text(json.dumps({"kind": "ServiceList", "items": items}))
    (tmp_path / "api" / "nodes.json").write_text('{"kind":"NodeList","items":[]}')
    assert answer(["--snapshot", str(tmp_path), "a"]) == "ab\tClusterIP\n:4\n"


def test_contexts_are_those_of_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every file that KUBECONFIG names, or of the one that the line names."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"contexts:\n- name: {name}1\n- name: {name}2\nusers:\n- name: {name}-user\n")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/none")
    assert offered("--context", "") == ["a1", "a2", "b1", "b2"]
    assert offered("--kubeconfig", str(tmp_path / "b"), "--context", "") == ["b1", "b2"]
    assert offered("--user", "b") == ["b-user"]
    (tmp_path / "b").write_text("{")
    assert offered("--context", "") == []


def test_what_needs_no_cluster_loads_no_library() -> None:
    """Flags, codes, formats and subcommands cost click and the command line's own definition, nothing more."""
    own = ("kubectl_svcroute.run.check", "kubectl_svcroute.audit.cluster")
    heavy = ("kubernetes", "paramiko", "yaml", "tabulate", "urllib3", *own)
    lines = [["--n"], ["explain", "SR"], ["-o", ""], ["trace", "kuard", "--from", ""], ["--via", "s"]]
    program = f"""if 1:
        import sys
        from kubectl_svcroute.cli.complete import complete
        assert all(complete(words)[0] for words in {lines})
        print([name for name in {heavy} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder of PATH as krew makes it: the plugin and kubectl, and a `sh` for the shim."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl (Debian: kubernetes-client)")
    version = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False).stdout
    found = re.search(r'"minor": "(\d+)', version)
    if found is None or int(found[1]) < 26:
        pytest.skip("this kubectl is older than 1.26")
    folder = tmp_path / ".krew" / "bin"
    folder.mkdir(parents=True)
    (folder / "kubectl").symlink_to(kubectl)
    (folder / PROGRAM).write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom kubectl_svcroute.cli.main import main\nmain()\n"
    )
    (folder / PROGRAM).chmod(0o755)
    return folder


def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    home = path.parent.parent
    env = {"PATH": f"{path}:{home / '.local' / 'bin'}:/usr/bin:/bin", "HOME": str(home), "SHELL": "/bin/bash"}
    return subprocess.run(
        list(words), capture_output=True, text=True, check=False, env=env, stdin=subprocess.DEVNULL, timeout=60,
        executable=path / "kubectl",
    )  # fmt: skip


def test_kubectl_asks_the_plugin(path: Path, tmp_path: Path) -> None:
    """`completion install`, as a krew user runs it, and then the real kubectl completes; `uninstall` takes it back."""
    done = run(path, "kubectl", PLUGIN, "completion", "install")
    assert done.returncode == 2, "no folder of the user's is there yet"
    assert "mkdir -p ~/.local/bin" in done.stderr
    done = run(path, "kubectl", PLUGIN, "completion", "install", "--to", str(path))
    assert done.returncode == 2
    assert "krew's" in done.stderr
    mine = path.parent.parent / ".local" / "bin"
    mine.mkdir(parents=True)
    # An earlier release wrote into krew's own folder, where krew counts the files.
    (path / NAME).write_text("#!/bin/sh\n# Written by `kubectl svcroute completion install`: as it was\n")
    (path / NAME).chmod(0o755)
    done = run(path, "kubectl", PLUGIN, "completion", "install")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {mine / NAME}\nremoved {path / NAME}")
    assert "source <(kubectl completion bash)" in done.stdout
    assert (mine / NAME).read_text() == SHIM
    assert {entry.name for entry in path.iterdir()} == {"kubectl", PROGRAM}, "nothing is left where krew counts"

    done = run(path, "kubectl", "__complete", PLUGIN, "explain", "SR20")
    assert done.returncode == 0
    assert re.findall(r"^SR20\d\t", done.stdout, flags=re.MULTILINE) == [f"SR20{n}\t" for n in range(1, 6)]
    assert done.stdout.endswith(":4\n")

    with ApiServer(capture("v1.36-nftables")) as api:
        config = str(api.kubeconfig(tmp_path / "config"))
        done = run(path, "kubectl", "__complete", PLUGIN, "--kubeconfig", config, "kua")
        assert done.stdout.splitlines()[0].startswith("kuard\tClusterIP 10."), done.stdout
        done = run(path, "kubectl", "__complete", PLUGIN, "--kubeconfig", config, "--node", "")
        assert re.match(r"\S+\tReady \d", done.stdout), done.stdout

    assert run(path, "kubectl", PLUGIN, "completion", "install").returncode == 0  # again
    (path / PROGRAM).rename(path / "away")  # `kubectl krew uninstall svcroute`
    left = subprocess.run([mine / NAME, "x"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert left.stdout == f"_activeHelp_ {PLUGIN} is not installed any more; remove this file too: rm {mine / NAME}\n:4\n"
    (path / "away").rename(path / PROGRAM)
    done = run(path, "kubectl", PLUGIN, "completion", "uninstall")
    assert done.stdout == f"removed {mine / NAME}\n"
    assert not (mine / NAME).exists()
    assert "nothing to do" in run(path, "kubectl", PLUGIN, "completion", "uninstall").stdout


def test_a_cluster_that_does_not_answer_is_met_with_silence(tmp_path: Path) -> None:
    """No permission, no server, a server that hangs up: no name is offered, and nothing is said on either stream."""
    def typed(*words: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", "from kubectl_svcroute.cli.complete import main; main()", *words],
            capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)}, timeout=60,
        )  # fmt: skip
        return done.stdout, done.stderr

    allowed = [
        replace(rule, resources=tuple(name for name in rule.resources if name != "nodes"))
        for rule in rules_of(ROOT / "docs" / "rbac.yaml")
    ]
    with ApiServer(capture("v1.36-nftables"), rules=allowed) as api:
        given = ("--kubeconfig", str(api.kubeconfig(tmp_path / "config")))
        assert typed(*given, "--node", "") == (":4\n", "")
        assert typed(*given, "-n", "shop", "we")[0].startswith("web\t")
        assert [request.path for request in api.log if request.path.endswith("s")][-1] == "/api/v1/namespaces/shop/services"
    assert typed(*given, "-n", "shop", "we") == (":4\n", "")


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own script stays; a folder that is not the user's is not written to; --to names another."""
    from kubectl_svcroute.cli.completion import command
    from kubectl_svcroute.errors import UsageError

    runner = CliRunner()

    def install(*words: str) -> str:
        done = runner.invoke(command, ["install", *words], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.output

    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    (folder / NAME).write_text("#!/bin/sh\n")
    (folder / NAME).chmod(0o755)
    assert install().startswith(f"{folder / NAME} is there already: nothing to do\n")
    with pytest.raises(UsageError, match="was not written by this command"):
        install("--to", str(folder))
    refused = runner.invoke(command, ["uninstall"], standalone_mode=False).exception
    assert "belongs to the package" in str(refused)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no folder of PATH is in your home"):
        install()
    other = tmp_path / "other"
    other.mkdir()
    assert install("--to", str(other)).startswith(f"wrote {other / NAME}\n")
    assert os.access(other / NAME, os.X_OK)
    with pytest.raises(UsageError, match="cannot be written"):
        install("--to", str(tmp_path / "nowhere"))
    assert runner.invoke(command, ["script"], standalone_mode=False).output == SHIM
