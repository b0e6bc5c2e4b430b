"""`completion`: put the file in place through which kubectl completes a plugin's words.

pip installs it beside the program. krew links one file of a plugin and no more, so it has to be written: two lines of shell
that hand kubectl's question on to the program.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from .. import PLUGIN, PROGRAM
from ..errors import ExitCode, UsageError
from .help import Command, Group
from .options import COMPLETE, CONTEXT

NAME = f"kubectl_complete-{PLUGIN}"
"""What kubectl looks for on PATH."""
SHIM = f"""\
#!/bin/sh
# Written by `kubectl {PLUGIN} completion install`: kubectl asks here what can come next on the line.
if ! command -v {PROGRAM} >/dev/null 2>&1; then
  # The plugin was uninstalled, for example by krew, which knows nothing of this file. Shells show such a line as a hint.
  printf '_activeHelp_ %s is not installed any more; remove this file too: rm %s\\n:4\\n' '{PLUGIN}' "$0"
  exit 0
fi
exec {PROGRAM} {COMPLETE} "$@"
"""
_MARK = f"# Written by `kubectl {PLUGIN} completion install`"


@click.group(cls=Group, context_settings=CONTEXT)
def command() -> None:
    """Let the shell complete Services, namespaces, nodes, flags and codes, through kubectl's own completion.

    kubectl 1.26 or later asks a file named kubectl_complete-svcroute on PATH. With pip, pipx and uv it is there already; krew
    links one file only, so it has to be installed.

    \b
    Examples:
      # After `kubectl krew install svcroute`
      kubectl svcroute completion install

      # Into another folder of PATH
      kubectl svcroute completion install --to ~/bin
    """  # noqa: D301 - a backslash and b is click's mark for lines that stay as they are


@command.command(cls=Command)
@click.option("--to", metavar="DIR", type=click.Path(path_type=Path), help="Write it there instead of into a folder on PATH.")
def install(to: Path | None) -> int:
    """Write kubectl_complete-svcroute into a folder of yours that is on PATH.

    \b
    Examples:
      # Into ~/.local/bin, or another folder of your home that is on PATH
      kubectl svcroute completion install
    """  # noqa: D301 - see above
    present = shutil.which(NAME)
    if present is not None and to is None and not _ours(Path(present)):
        click.echo(f"{present} is there already: nothing to do")
        _say_next()
        return ExitCode.OK
    folder = to if to is not None else _folder()
    _not_krews(folder)
    target = folder / NAME
    if target.exists() and not _ours(target):
        raise UsageError(f"{target} is there already, and was not written by this command: remove it first")
    try:
        part = target.with_name(f".{NAME}.part")
        part.write_text(SHIM, encoding="utf-8")
        part.chmod(0o755)
        part.replace(target)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    click.echo(f"wrote {target}")
    if present is not None and _ours(Path(present)) and Path(present).resolve() != target.resolve():
        # An earlier release wrote it into krew's own folder.
        Path(present).unlink(missing_ok=True)
        click.echo(f"removed {present}, which an earlier release wrote")
    if str(folder.absolute()) not in _path():
        click.echo(f"note: {folder} is not on PATH: kubectl will not find it there", err=True)
    _say_next()
    return ExitCode.OK


@command.command(cls=Command)
def uninstall() -> int:
    """Remove what `install` wrote.

    \b
    Examples:
      # Before `kubectl krew uninstall svcroute`
      kubectl svcroute completion uninstall
    """  # noqa: D301 - see above
    found = shutil.which(NAME)
    if found is None:
        click.echo(f"there is no {NAME} on PATH: nothing to do")
    elif not _ours(Path(found)):
        raise UsageError(f"{found} was not written by `completion install`: it belongs to the package that brought it")
    else:
        try:
            Path(found).unlink()
        except OSError as error:
            raise UsageError(f"{found}: cannot be removed: {error.strerror}") from error
        click.echo(f"removed {found}")
    return ExitCode.OK


@command.command(cls=Command)
def script() -> int:
    """Print what `install` writes.

    \b
    Examples:
      # To put it in place by hand: it belongs into a file kubectl_complete-svcroute, executable, on PATH
      kubectl svcroute completion script
    """  # noqa: D301 - see above
    click.echo(SHIM, nl=False)
    return ExitCode.OK


def _say_next() -> None:
    shell = Path(os.environ.get("SHELL", "bash")).name
    load = "kubectl completion fish | source" if shell == "fish" else f"source <(kubectl completion {shell})"
    click.echo(f"Where kubectl's own completion is loaded, it knows `kubectl {PLUGIN}` from now on. To load it: {load}")


def _ours(path: Path) -> bool:
    """True if `install` of this or an earlier release wrote the file."""
    try:
        return path.read_text(encoding="utf-8").startswith(f"#!/bin/sh\n{_MARK}")
    except (OSError, ValueError):
        return False


def _path() -> list[str]:
    return [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder.startswith("/")]


def _folder() -> Path:
    """Where to write: a folder of PATH below the user's home, ~/.local/bin and ~/bin first; krew's own never.

    krew takes every file of its bin folder for a plugin's. Where none has a receipt, it takes itself for outdated and each of its
    commands fails (krew's internal/receiptsmigration, `Done`). A folder outside of the home, such as root's
    /usr/bin, is only written to by name. Raises UsageError where there is none.
    """
    try:
        home = Path.home().resolve()
    except RuntimeError:
        home = Path("/nonexistent")
    krew = Path(os.environ.get("KREW_ROOT") or home / ".krew").resolve()
    on_path = [Path(folder) for folder in _path()]
    first = [folder for folder in (home / ".local" / "bin", home / "bin") if folder in on_path]
    for folder in [*first, *on_path]:
        place = folder.resolve()
        if not place.is_relative_to(home) or place.is_relative_to(krew):
            continue
        try:
            mine = folder.is_dir() and folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
        except OSError:
            continue
        if mine:
            return folder
    raise UsageError(
        "no folder of PATH is in your home and yours to write: make one (mkdir -p ~/.local/bin), put it on PATH, or name another"
        f" with --to DIR; `kubectl {PLUGIN} completion script` prints what it has to hold"
    )


def _not_krews(folder: Path) -> None:
    """Raises UsageError for the folder of which krew counts the files."""
    root = os.environ.get("KREW_ROOT")
    place = folder.resolve()
    if (root and place.is_relative_to(Path(root).resolve())) or place.parts[-2:] == (".krew", "bin"):
        raise UsageError(f"{folder} is krew's, whose commands can fail when there is a file that krew did not link: name another")
