"""Command lines without the values of their secret-looking flags, for what is kept in snapshots and reports."""

from __future__ import annotations

from collections.abc import Iterable

_SECRET = ("token", "password", "passwd", "secret", "passphrase", "credential", "bearer")
HIDDEN = "…"


def without_secrets(arguments: Iterable[str]) -> list[str]:
    """The arguments again; `--token=x`, `--token x` and such words within `sh -c '…'` lose the value. Linear in their length."""
    found: list[str] = []
    hide = False
    for argument in arguments:
        if hide:
            found.append(HIDDEN)
            hide = False
        elif " " in argument.strip() and "-" in argument:
            # A shell's line in one argument: words are enough, since a value that has blanks is cut at the first.
            words = without_secrets(argument.split(" "))
            found.append(" ".join(words))
        else:
            name, equals, _ = argument.partition("=")
            secret = name.startswith("-") and any(word in name.lower() for word in _SECRET)
            found.append(f"{name}={HIDDEN}" if secret and equals else argument)
            hide = secret and not equals
    return found
