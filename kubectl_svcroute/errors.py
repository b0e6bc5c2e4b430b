"""What can go wrong, one base per stage of the data's way, and how the program says at its end how it went.

Every message names the input, the place in it and the remedy: it is shown to a person as it stands, without a
traceback. An inability to verify is *not* an exception: it is a value (`model.report.Unverified`).
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status means (design.md, section 5). Scripts rely on it."""

    OK = 0
    FINDINGS = 1
    CANNOT_RUN = 2
    NOT_VERIFIED = 3
    INTERRUPTED = 130


class SvcrouteError(Exception):
    """Base of all errors that end the program with exit status 2 and one clear line."""


class UsageError(SvcrouteError):
    """What was asked for makes no sense as asked: a name that does not exist, options that exclude each other."""


class CollectError(SvcrouteError):
    """The API or a node could not be read. For one node this becomes an `Unreachable`; for the API it is fatal."""


class SnapshotError(SvcrouteError):
    """A saved snapshot is damaged, unsafe or not a snapshot."""


class ParseError(SvcrouteError):
    """Text from a node or the API is not what its producer would print.

    `line` is 1-based and 0 when no line can be named; `text` is the offending line, cut to a readable length.
    """

    def __init__(self, what: str, line: int = 0, text: str = "") -> None:
        self.what = what
        self.line = line
        self.text = text if len(text) <= 160 else text[:157] + "..."
        place = f"line {line}: " if line else ""
        quoted = f": {self.text!r}" if text else ""
        super().__init__(f"{place}{what}{quoted}")


def is_interrupt(error: BaseException) -> bool:
    """Return True if an exception is a Ctrl-C, or was raised while one unwound the stack.

    Python raises KeyboardInterrupt between any two instructions. Within `threading.Condition.wait` a lock may then be released
    twice, and a RuntimeError takes its place; libraries wrap what interrupts them. Either is a Ctrl-C all the same.
    """
    seen: set[int] = set()
    now: BaseException | None = error if isinstance(error, (Exception, KeyboardInterrupt)) else None
    while now is not None and id(now) not in seen:
        if isinstance(now, KeyboardInterrupt):
            return True
        seen.add(id(now))
        now = now.__cause__ or now.__context__
    return False
