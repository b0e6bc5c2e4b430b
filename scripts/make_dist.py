#!/usr/bin/env python3
"""Build what a release is made of, for the platform that this runs on: a wheel, a source distribution, and krew's archive.

    scripts/make_dist.py [FOLDER]       `make dist` calls it, with a Python that has scripts/dist-requirements.txt installed

The archive holds the program with a Python of its own, made by PyInstaller from what is in the wheel: a folder rather than
one file, which would unpack itself at every start. The same source, built with the same Python, gives the same bytes: entries
are sorted, and have no owner and no time. krew unpacks files and folders only, so links are followed.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "kubectl-svcroute"
PACKAGE = "kubectl_svcroute"
SYSTEMS = {"linux": "linux", "darwin": "darwin"}
ARCHES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
EPOCH = "315532800"
"""The time that files have where a format wants one: 1980-01-01, the first that zip knows."""
ENTRY = f"""\
import sys
import types

# kubernetes' API client imports the package of its models, of which nothing is used, and which stays out of the archive.
sys.modules["kubernetes.client.models"] = types.ModuleType("kubernetes.client.models")

from {PACKAGE}.cli.main import main

main()
"""

EXCLUDED = (
    # kubernetes' models and calls: two thirds of all modules. The API is read as raw JSON (collect/kube.py).
    "kubernetes.client.models", "kubernetes.client.api", "kubernetes.aio",
    # What only those need, or what a module would use if it happened to be there.
    "aiohttp", "aiohttp_retry", "yarl", "multidict", "frozenlist", "propcache", "aiosignal", "aiohappyeyeballs", "attr", "attrs",
    "setuptools", "pkg_resources", "_distutils_hack", "pip", "wheel", "tzdata",
    "pydantic.v1", "pydantic.mypy", "pydantic._hypothesis_plugin", "PyInstaller",
    # Parts of Python that no command reaches.
    "tkinter", "turtle", "curses", "readline", "sqlite3", "unittest", "test", "idlelib", "lib2to3", "distutils", "ensurepip",
)  # fmt: skip


INSTALLERS_NOTES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip notes of an installation: it holds the checksums of scripts, which hold the path of the build folder."""


class BuildError(Exception):
    """The build cannot go on; said in one line."""


def version() -> str:
    """The program's version, as its source has it."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise BuildError(f"{PACKAGE}/__init__.py names no __version__")
    return found.group(1)


def tag() -> str:
    """The version as krew and the release's tag have it: v0.2.0-rc.1 for Python's 0.2.0rc1."""
    words = {"a": "alpha", "b": "beta", "rc": "rc"}
    return "v" + re.sub(r"(a|b|rc)(\d+)$", lambda found: f"-{words[found[1]]}.{found[2]}", version())


def commit() -> str:
    """The commit that is checked out; empty outside of a clone, or where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changed.strip() else head.strip()


def pair() -> tuple[str, str]:
    """The os and arch of this machine, in krew's words."""
    try:
        return SYSTEMS[sys.platform], ARCHES[platform.machine().lower()]
    except KeyError:
        raise BuildError(f"no archive is made for {sys.platform} on {platform.machine()}") from None


def archive_name() -> str:
    """The archive's file name. It bears the tag: krew's release bot knows nothing else about a release."""
    return f"{PROGRAM}_{tag()}_{'_'.join(pair())}.tar.gz"


def run(*command: str | Path, cwd: Path = ROOT, **extra: str) -> None:
    """Run a build step. What it prints is shown only when it fails."""
    env = {**os.environ, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **extra}
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env,
        cwd=cwd,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise BuildError(f"{' '.join(map(str, command[:4]))} ended with {done.returncode}")


# ---- wheel and source distribution -----------------------------------------------------------------------------------------


def build_wheel(out: Path, work: Path) -> Path:
    """Source distribution and, from it, the wheel; returns the wheel."""
    made = work / "python"
    # The build backend is installed here already, in a version that is pinned: nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, ROOT)
    (source,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    with tarfile.open(source) as tar:
        if hasattr(tarfile, "data_filter"):  # Debian 12's Python 3.11.2 has no filters
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(work / "source")  # noqa: S202 - the file is our own
    pack(work / "source", out / source.name)
    repack(wheel, out / wheel.name)
    return out / wheel.name


def repack(wheel: Path, target: Path) -> None:
    """The same wheel, with modes that do not depend on the umask, nor on those of the checkout."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            info = zipfile.ZipInfo(entry.filename, entry.date_time)
            info.external_attr = (0o100644 << 16)
            info.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(info, old.read(entry))


# ---- the archive -----------------------------------------------------------------------------------------------------------


def build_archive(wheel: Path, out: Path, work: Path) -> Path:
    """Freeze what is in the wheel, with the licences of all that comes along."""
    with zipfile.ZipFile(wheel) as zipped:
        zipped.extractall(work / "program")  # noqa: S202 - the wheel is our own
    built = {"by": "archive", "commit": commit()}
    (work / "program" / PACKAGE / "data" / "build.json").write_text(json.dumps(built) + "\n", encoding="utf-8")
    entry = work / f"{PROGRAM}.py"
    entry.write_text(ENTRY, encoding="utf-8")
    strip = () if sys.platform == "darwin" else ("--strip",)  # a stripped file has lost its signature, which macOS asks for
    run(
        sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "--onedir", "--noupx", *strip,
        "--name", PROGRAM, "--paths", work / "program",
        "--collect-submodules", PACKAGE, "--collect-data", PACKAGE,
        *(f"--exclude-module={name}" for name in EXCLUDED),
        "--distpath", work / "frozen", "--workpath", work / "steps", "--specpath", work, entry,
        cwd=work, PYTHONPATH=str(work / "program"), PYINSTALLER_CONFIG_DIR=str(work / "cache"),
    )  # fmt: skip
    steps = work / "steps" / PROGRAM
    modules = [name for name, _, _ in _toc(steps / "PYZ-00.toc", 1)]
    expected = {
        ".".join(path.relative_to(work / "program").with_suffix("").parts).removesuffix(".__init__")
        for path in (work / "program" / PACKAGE).rglob("*.py")
    }
    if missing := sorted(expected - set(modules)):
        raise BuildError(f"not in the archive: {', '.join(missing)}")
    tree = work / "archive"
    shutil.copytree(work / "frozen" / PROGRAM, tree / PROGRAM, symlinks=False)
    for name in INSTALLERS_NOTES:
        for path in (tree / PROGRAM).rglob(f"*.dist-info/{name}"):
            path.unlink()
    shutil.copyfile(ROOT / "LICENSE", tree / "LICENSE")
    collected = _toc(steps / "COLLECT-00.toc", 0)
    modules += [re.split(r"[./]", name)[0] for name, _, kind in collected if kind == "EXTENSION"]
    libraries = [Path(source) for _, source, kind in collected if kind == "BINARY"]
    (tree / "THIRD-PARTY-LICENSES.txt").write_text("".join(licences(modules, libraries)), encoding="utf-8")
    target = out / archive_name()
    pack(tree, target)
    return target


def _toc(path: Path, place: int) -> list[tuple[str, str, str]]:
    """What PyInstaller notes of its steps: (name, where from, what kind)."""
    found = ast.literal_eval(path.read_text(encoding="utf-8"))[place]
    return [(entry[0], entry[1], entry[2]) for entry in found]


def pack(tree: Path, target: Path) -> None:
    """A .tar.gz of what is in a folder, in which nothing depends on when, where, or by whom it was made."""
    part = target.with_name(target.name + ".part")
    with (
        part.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).parts):
            state = path.stat()  # of what a link leads to
            info = tarfile.TarInfo(path.relative_to(tree).as_posix())
            info.mode = 0o755 if path.is_dir() or state.st_mode & 0o100 else 0o644
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info.size = state.st_size
            with path.open("rb") as content:
                tar.addfile(info, content)
    part.replace(target)


# ---- licences --------------------------------------------------------------------------------------------------------------


def licences(modules: list[str], libraries: list[Path]) -> Iterator[str]:
    """The licence texts of all that the archive holds besides this program."""
    yield f"{PROGRAM} comes with the parts below. Each is the property of its authors, under its own licence.\n"
    yield from _section(f"Python {platform.python_version()} (PSF-2.0)", [_python_licence()])
    names = {name.partition(".")[0] for name in modules}
    distributions = {one for name, some in importlib.metadata.packages_distributions().items() if name in names for one in some}
    distributions.add("pyinstaller")  # its bootloader is the program that starts
    for name in sorted(distributions, key=str.lower):
        found = importlib.metadata.distribution(name)
        texts = [
            path.read_text(encoding="utf-8", errors="replace").rstrip()
            for file in sorted(found.files or (), key=str)
            if re.match(r"(?i)(licen[cs]e|copying|notice|authors)", file.name) and file.suffix not in (".py", ".pyc")
            and (path := Path(str(file.locate()))).is_file()
        ]  # fmt: skip
        kind = found.metadata.get("License-Expression") or found.metadata.get("License") or _classifier(found)
        kind = kind.strip().partition("\n")[0]
        if not texts and not kind:
            raise BuildError(f"{name}: no licence is known")
        yield from _section(f"{found.metadata['Name']} {found.version}" + (f" ({kind})" if kind else ""), texts)
    site, standard = sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")
    system = {path.resolve() for path in libraries if not str(path).startswith((site, standard))}
    for path in sorted(system, key=lambda path: path.name):
        if "libpython" not in path.name:
            yield from _section(path.name, _system_licence(path))


def _section(title: str, texts: list[str]) -> Iterator[str]:
    yield f"\n{'=' * 100}\n{title}\n{'=' * 100}\n"
    yield from (f"\n{text}\n" for text in texts)


def _classifier(found: importlib.metadata.Distribution) -> str:
    classifiers = found.metadata.get_all("Classifier") or []
    return "; ".join(text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::"))


def _python_licence() -> str:
    short = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [Path(sysconfig.get_path("stdlib")) / "LICENSE.txt", Path(f"/usr/share/doc/{short}/copyright")]
    for path in places:
        if path.is_file():
            return path.read_text(encoding="utf-8").rstrip()
    raise BuildError(f"Python's licence is in none of {', '.join(map(str, places))}")


def _system_licence(path: Path) -> list[str]:
    """Of a library that the build machine's own packages brought: Debian keeps the text, RPM at least the name."""
    for asked in (str(path), str(path).removeprefix("/usr")):
        if shutil.which("dpkg-query"):
            done = subprocess.run(["dpkg-query", "-S", asked], capture_output=True, text=True, check=False)  # noqa: S607
            text = Path(f"/usr/share/doc/{done.stdout.partition(':')[0]}/copyright")
            if not done.returncode and text.is_file():
                return [text.read_text(encoding="utf-8").rstrip()]
        if shutil.which("rpm"):
            form = "%{name} %{version}: %{license}"
            done = subprocess.run(["rpm", "-qf", "--qf", form, asked], capture_output=True, text=True, check=False)  # noqa: S607
            if not done.returncode:
                return [done.stdout]
    return [f"a library of the machine that this was built on: {path}"]


# ---- what was built ----------------------------------------------------------------------------------------------------------


def glibc(tree: Path) -> tuple[int, ...]:
    """The oldest glibc that all of it runs on: the newest symbol version that anything asks for."""
    asked = {(2, 0)}
    for path in tree.rglob("*"):
        if path.is_file() and path.open("rb").read(4) == b"\x7fELF":
            done = subprocess.run(["objdump", "-T", str(path)], capture_output=True, text=True, check=True)  # noqa: S607
            asked |= {tuple(map(int, text.split("."))) for text in re.findall(r"GLIBC_(\d+\.\d+)", done.stdout)}
    return max(asked)


def try_out(tree: Path, home: Path) -> None:
    """Start what was built, with nothing around it."""
    program = tree / PROGRAM / PROGRAM
    for arguments, status in ((["--version"], 0), (["--help"], 0), (["demo", "-A"], 1), (["explain"], 0)):
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, check=False, env={"HOME": str(home)}, cwd=home
        )
        if done.returncode != status:
            sys.stderr.write(done.stdout + done.stderr)
            raise BuildError(f"{PROGRAM} {' '.join(arguments)}: ended with {done.returncode} instead of {status}")


def main() -> int:
    """Build all of it into a folder."""
    parser = argparse.ArgumentParser(description="Build the wheel, the source distribution and krew's archive.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where to put them (default: dist)")
    parser.add_argument("--glibc", metavar="VERSION", help="fail when the archive needs a newer glibc than this")
    given = parser.parse_args()
    out: Path = given.folder.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="svcroute-dist-") as folder:
            work = Path(folder)
            wheel = build_wheel(out, work)
            archive = build_archive(wheel, out, work)
            try_out(work / "archive", work)
            print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB, Python {platform.python_version()}", end="")
            if sys.platform == "linux":
                needs = glibc(work / "archive")
                print(f", glibc {'.'.join(map(str, needs))} or later", end="")
                if given.glibc and needs > tuple(map(int, given.glibc.split("."))):
                    raise BuildError(f"the archive needs glibc {'.'.join(map(str, needs))}; asked for was {given.glibc}")
            print()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
