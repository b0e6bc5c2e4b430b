"""No exception but the parser's own, no hang, and nothing that was cut off is taken for the whole.

The same changes on every run; `SVCROUTE_FUZZ=20` makes twenty times as many, and others each time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .changes import KINDS, Change, apply
from .targets import TARGETS, Target, cuts

HANGS_AFTER = 60
"""Seconds: thousands of times what any of these texts needs."""


_TIMES = int(os.environ.get("SVCROUTE_FUZZ", "1"))


def rules(examples: int) -> settings:
    """How hypothesis goes about it."""
    return settings(
        max_examples=examples * _TIMES, derandomize=_TIMES == 1, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


class HungError(BaseException):
    """It did not come to an end. Nobody catches it by accident."""


@contextmanager
def no_hang() -> Iterator[None]:
    """What is inside ends, or raises."""

    def hung(_: int, __: FrameType | None) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(target: Target, text: str) -> object:
    """What the parser makes of a text; its error's type where it refuses it."""
    with no_hang():
        try:
            return target.read(text)
        except target.errors as error:
            return type(error)


CHANGES = st.lists(
    st.builds(Change, st.integers(0, KINDS - 1), st.integers(0, 1 << 20), st.integers(0, 1 << 10), st.integers(0, 1 << 16)),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_is_changed_it_is_read_or_refused(target: Target) -> None:
    """Real text with a few things changed: an answer, or the parser's own error."""
    samples = target.samples()

    @rules(4 if target.dear else 60)
    @given(st.integers(0, len(samples) - 1), CHANGES)
    def run(which: int, changes: list[Change]) -> None:
        read(target, apply(samples[which], changes))

    run()


@pytest.mark.parametrize("target", [t for t in TARGETS if not t.dear], ids=lambda target: target.name)
def test_whatever_it_is_it_is_read_or_refused(target: Target) -> None:
    """The same of text that is nothing real."""

    @rules(40)
    @given(st.text(max_size=200))
    def run(text: str) -> None:
        read(target, text)

    run()


@pytest.mark.parametrize("target", [t for t in TARGETS if t.whole], ids=lambda target: target.name)
def test_what_was_cut_off_is_refused(target: Target) -> None:
    """A text that stops anywhere is refused, unless all that it lacks is a line's end; whole tables at its end may be missing."""
    text = target.samples()[0]
    whole = read(target, text)
    assert not isinstance(whole, type), "the sample itself is refused: nothing would be shown"
    for at in cuts(text, 90):
        piece = text[:at]
        found = read(target, piece)
        if isinstance(found, type) or (found == whole and not text[at:].strip(" \n\0")):
            continue
        # What ends with a table's last line is whole as far as its frame can tell. That a table is missing altogether
        # is the audit's to see: it knows which ones kube-proxy has.
        assert target.name in ("iptables-save", "nft-text"), f"cut at {at} of {len(text)}: {piece[-80:]!r}"
        assert isinstance(found, dict)
        assert isinstance(whole, dict)
        assert piece.rstrip().endswith(("}", "COMMIT")) or "# Completed" in piece.splitlines()[-1]
        assert len(found) < len(whole)
        assert all(found[name] == whole[name] for name in found)
