#!/usr/bin/env python3
"""Install the wheel into empty environments with the lowest and the highest versions that setup.cfg allows, and try it there.

    scripts/try_ranges.py WHEEL [TEST]...       every Python of 3.10 or later that is here; `make ranges` calls it

Each environment runs the tests that meet a library: the API, SSH, exec, the tables and the process as a whole.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("lowest", "highest")
TESTS = (
    "tests/test_demo.py", "tests/test_process.py", "tests/test_completion.py", "tests/collect/test_kube.py",
    "tests/collect/test_pod_exec.py", "tests/collect/test_known_hosts.py", "tests/collect/test_ssh.py",
    "tests/render/test_table.py", "tests/render/test_formats.py",
)  # fmt: skip


def requirements(section: str = "options", key: str = "install_requires") -> list[str]:
    """The dependencies of setup.cfg, one a line."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [line for line in config[section][key].strip().splitlines() if line and not line.startswith("#")]


def lowest() -> list[str]:
    """Constraints that leave nothing but the lower bounds of our own dependencies."""
    found = []
    for line in requirements():
        name, marker = re.split(r"[\s<>=!~;]", line)[0], line.partition(";")[2]
        if bound := re.search(r">=\s*([\w.]+)", line.partition(";")[0]):
            found.append(f"{name}=={bound[1]}" + (f";{marker}" if marker else ""))
    return found


def environment(python: str, end: str, folder: Path, *extra: str) -> Path:
    """An environment with our dependencies at one end of their ranges; returns its Python. Made once, and not without need."""
    inside = folder / "bin" / "python"
    wanted = "\n".join([end, python, *requirements(), *extra])
    note = folder / "made-of.txt"
    if note.is_file() and note.read_text(encoding="utf-8") == wanted:
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in (lowest() if end == "lowest" else [])), encoding="utf-8")
    pip(inside, "-c", str(constraints), *requirements(), *extra)
    note.write_text(wanted, encoding="utf-8")
    return inside


def pip(python: Path, *words: str) -> None:
    """`pip install` into an environment; what it prints is shown when it fails. Raises CalledProcessError."""
    done = subprocess.run(
        [*pip_for(python), "install", "--quiet", "--no-compile", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout)
    done.check_returncode()


def pip_for(python: Path) -> list[str]:
    """Our own pip, at work in another environment: making one with a pip of its own takes seconds."""
    return [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]


def try_installed(python: Path) -> None:
    """What pip put there works by itself, away from this tree. Raises CalledProcessError."""
    folder = python.parent
    env = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    for command, status in (
        ([*pip_for(python), "check"], 0),
        ([str(folder / "kubectl-svcroute"), "demo", "-A"], 1),
        ([str(folder / "kubectl_complete-svcroute"), "explain", "SR20"], 0),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
        if done.returncode != status:
            sys.stderr.write(done.stdout + done.stderr)
            raise subprocess.CalledProcessError(done.returncode or 1, command)


def pythons() -> dict[str, str]:
    """The interpreters that are here, by version: on PATH, or pyenv's."""
    found: dict[str, str] = {}
    pyenv = sorted((Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions").glob("3.*/bin/python3"))
    for path in [*(shutil.which(f"python3.{minor}") for minor in range(10, 20)), *map(str, pyenv)]:
        if path is None:
            continue
        asked = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))"
        done = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found.setdefault(done.stdout.strip(), path)
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(".")[2])))


def main(arguments: list[str]) -> int:
    """Try all of them; returns 1 when one fails."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    wheel, tests = Path(arguments[0]).resolve(), arguments[1:] or TESTS
    unneeded = ("mypy", "ruff", "types-")
    test_tools = [line for line in requirements("options.extras_require", "test") if not line.startswith(unneeded)]
    failed = []
    for version, python in pythons().items():
        for end in ENDS:
            name = f"Python {version}, {end} versions"
            try:
                inside = environment(python, end, ROOT / "build" / "ranges" / f"{version}-{end}", *test_tools)
                pip(inside, "--no-deps", "--force-reinstall", str(wheel))
                try_installed(inside)
                command = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
                status = subprocess.run(command, check=False, cwd=ROOT).returncode
            except subprocess.CalledProcessError as error:
                status = error.returncode
            print(f"== {name}: {'passed' if status == 0 else 'FAILED'}", flush=True)
            if status:
                failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
