"""A report into a file: whole or not at all, because a collector may read it at any moment, and a run may be interrupted."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..errors import UsageError


def _drawn() -> str:
    return os.urandom(8).hex()  # `secrets` costs a millisecond to load


def write_file(name: str, text: str, what: str) -> None:
    """Put `text` into the file of that name, in place of what is there. Raises UsageError, which says what `what` is.

    It is written beside the file and moved there, with the rights that the file had. What is no regular file (/dev/stdout, a
    pipe) is written as it is, and so is a file in a folder to which nothing may be added, and one that cannot be replaced
    because it is mounted there, as a pod's termination log is.
    """
    given = Path(name)
    target = Path(os.path.realpath(given))
    # A name that nobody can have put a link at; O_EXCL follows none.
    part = target.with_name(f".{target.name}.{_drawn()}.part")
    try:
        present = given.stat() if given.exists() else None
        if (present is not None and not stat.S_ISREG(present.st_mode)) or not os.access(target.parent, os.W_OK):
            given.write_text(text, encoding="utf-8")
            return
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.write(text)
            if present is not None:
                part.chmod(stat.S_IMODE(present.st_mode))
            try:
                part.replace(target)
            except OSError:
                if present is None:
                    raise
                given.write_text(text, encoding="utf-8")
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    except OSError as error:
        raise UsageError(f"{name}: {what} cannot be written: {error.strerror}") from error
