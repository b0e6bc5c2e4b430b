"""Work in two processes: the same as in one, whatever becomes of the second."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence

import pytest

from kubectl_svcroute import fork
from kubectl_svcroute.fork import in_halves


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine, and in a test process that has threads which do nothing here."""
    monkeypatch.setattr(fork, "possible", lambda: True)


def squares(part: Sequence[int]) -> tuple[int, list[int]]:
    return os.getpid(), [n * n for n in part]


def no_child_is_left() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG) == (0, 0)  # others' children, of the test runner
    except ChildProcessError:
        return True


def test_both_halves_come_back_in_order() -> None:
    (here, first), (there, second) = in_halves(squares, range(1001), least=10)
    assert first + second == [n * n for n in range(1001)]
    assert here == os.getpid() != there
    assert no_child_is_left()


def test_more_than_a_pipe_holds_comes_back() -> None:
    assert "".join(in_halves(lambda part: "x" * 1_000_000 * len(part), [1, 2, 3], least=2)) == "x" * 3_000_000


@pytest.mark.parametrize(("count", "least"), [(0, 1), (5, 6)])
def test_little_work_is_done_at_once(count: int, least: int) -> None:
    assert in_halves(squares, range(count), least=least) == [(os.getpid(), [n * n for n in range(count)])]


def dies(_: Sequence[int]) -> object:
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def raises(_: Sequence[int]) -> object:
    raise MemoryError


def leaves(_: Sequence[int]) -> object:
    raise SystemExit(0)


def gives_what_cannot_be_sent(_: Sequence[int]) -> object:
    return lambda: None


@pytest.mark.parametrize("fate", [dies, raises, leaves, gives_what_cannot_be_sent])
def test_what_a_child_does_not_do_is_done_here(fate: Callable[[Sequence[int]], object]) -> None:
    here = os.getpid()

    def work(part: Sequence[int]) -> object:
        return fate(part) if os.getpid() != here else squares(part)

    assert in_halves(work, range(10), least=2) == [squares(range(5)), squares(range(5, 10))]
    assert no_child_is_left()


def test_what_goes_wrong_here_goes_wrong() -> None:
    """And the child goes with it, whatever it was doing."""
    here = os.getpid()

    def work(part: Sequence[int]) -> object:
        if os.getpid() == here:
            raise KeyboardInterrupt
        signal.pause()
        return part

    with pytest.raises(KeyboardInterrupt):
        in_halves(work, range(10), least=2)
    assert no_child_is_left()


def test_not_beside_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork copies one thread alone, and locks that others held stay locked."""
    monkeypatch.undo()
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        assert not fork.possible()
        assert in_halves(squares, range(10), least=2) == [(os.getpid(), [n * n for n in range(10)])]
    finally:
        stop.set()
        other.join()


def test_where_no_child_can_be_made_all_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may allow no further process: that costs time, and no verdict."""

    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    assert in_halves(squares, range(10), least=2) == [(os.getpid(), [n * n for n in range(10)])]
