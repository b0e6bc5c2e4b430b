"""The command line: options in, one call, text out; `main` alone decides the exit status (design.md, section 5).

Nothing here imports kubernetes, paramiko or any other stage before a command needs it: `--help` has to be instant.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import NoReturn

import click

from .. import PROGRAM, __version__
from ..errors import ExitCode, SvcrouteError, UsageError, is_interrupt
from .options import COMPLETE
from .root import cli, program, route


def main() -> NoReturn:
    """Run the plugin and exit with a status of design.md, section 5.

    click ends with 1 on its own errors and Python does on a traceback; 1 means findings here, so neither may pass.
    """
    from .process import finish, prepare  # noqa: PLC0415

    prepare()
    if sys.argv[1:2] == [COMPLETE]:
        from .complete import main as complete  # noqa: PLC0415

        complete(sys.argv[2:])
    try:
        try:
            status = cli.main(args=route(sys.argv[1:]), prog_name=program(), standalone_mode=False)
            sys.stdout.flush()
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            raise
    except click.ClickException as error:
        text = io.StringIO()
        error.show(file=text)
        click.echo(_shown(text.getvalue().rstrip("\n")), err=True)
        status = ExitCode.CANNOT_RUN
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        status = ExitCode.INTERRUPTED
    except UsageError as error:
        click.echo(f"error: {_shown(error)}", err=True)
        status = ExitCode.CANNOT_RUN
    except SvcrouteError as error:
        click.echo(f"error: {_shown(error)}", err=True)
        status = ExitCode.CANNOT_RUN
    except BrokenPipeError:
        # The reader of our output went away (`| head`): what was found cannot be told any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = ExitCode.CANNOT_RUN
    except OSError as error:
        status = _machine_fails(error) or _bug(error)
    except Exception as error:  # the last resort, so that a bug is not taken for a finding
        status = _bug(error)
    finish()
    sys.exit(int(status or 0))


_FULL = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
"""What no program can do anything about, and whoever runs it can."""


def _machine_fails(error: OSError) -> int | None:
    """Say what the machine cannot give; None when the error may be a bug of ours."""
    if "usable temporary directory" in str(error):
        said = "no folder for temporary files: TMPDIR, /tmp, /var/tmp and the current folder cannot be written to; set TMPDIR"
    elif error.errno in _FULL:
        said = f"{_FULL[error.errno]}: {error.filename or 'what was to be written'} is not complete"
    else:
        return None
    click.echo(f"error: {_shown(said)}", err=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return ExitCode.CANNOT_RUN
    # What is left in the buffer would be tried again at the end, and end the process with a status of Python's own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.CANNOT_RUN


def _shown(error: object) -> str:
    """An error for a terminal: it may quote a file, a node or the API, whose text must not move the cursor."""
    from ..render.text import clean  # noqa: PLC0415 - not before something is wrong

    return "\n".join(map(clean, str(error).split("\n")))


def _bug(error: Exception) -> int:
    if "-v" in sys.argv or "-vv" in sys.argv or "--verbose" in sys.argv:
        import traceback  # noqa: PLC0415

        traceback.print_exception(error)
    click.echo(
        f"error: a bug in {PROGRAM} {__version__}: {type(error).__name__}: {_shown(error)}"
        " (run again with -v for the traceback, and report it)",
        err=True,
    )
    return ExitCode.CANNOT_RUN
