"""What is asked for: Services by name, nodes."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from .fast_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is asked for."""

    services: frozenset[str] | None = None
    """`namespace/name`; None for all that were read."""
    nodes: frozenset[str] | None = None
    """None for all that run kube-proxy."""
    conntrack: bool = False
    """The connections that are there, too: where they could not be read, that is said."""
    strict: bool = False
    """What other programs' rules may do counts as not verified."""


def resolve_names(names: Sequence[str], services: Sequence[tuple[str, str]], namespace: str) -> frozenset[str]:
    """`kuard`, `svc/kuard`, `service/kuard` -> `namespace/name`. `services`: (namespace, name) of all that there are.

    Raises UsageError, naming near misses, for one that is not there.
    """
    keys = {f"{space}/{called}" for space, called in services}
    found = set()
    for name in names:
        kind, slash, rest = name.partition("/")
        bare = rest if slash and kind in ("svc", "service", "services") else name
        key = f"{namespace}/{bare}"
        if key in keys:
            found.add(key)
            continue
        from difflib import get_close_matches  # noqa: PLC0415 - only when a name is wrong

        near = get_close_matches(bare, [called for space, called in services if space == namespace], n=3)
        elsewhere = sorted(space for space, called in services if called == bare)
        hint = ""
        if elsewhere:
            hint = f"; namespace {elsewhere[0]} has one (-n {elsewhere[0]})"
        elif near:
            hint = f"; did you mean {', '.join(near)}?"
        raise UsageError(f'service "{bare}" not found in namespace {namespace}{hint}')
    return frozenset(found)
