"""Work that is Python's alone, on two processors: one part here, one in a child process that is a copy of this one.

The child has all that was read and parsed without a copy being made, works on its part, and sends back what came of it. It
writes nothing else, and touches nothing outside itself. Where that cannot be done (one processor, other threads at work, no
fork) or goes wrong, all the work is done here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_halves(work: Callable[[Sequence[_Item]], _Result], items: Sequence[_Item], *, least: int) -> list[_Result]:
    """`work` of the items, as a whole or of their two halves in order; below `least` items as a whole.

    What it returns must be picklable, and small beside the work: it comes through a pipe. Raises what `work` raises here.
    """
    if len(items) < least or not possible():
        return [work(items)]
    middle = len(items) // 2
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no more processes are allowed here, or there is no memory for one
        os.close(reading)
        os.close(writing)
        return [work(items)]
    if child == 0:
        _child(lambda: work(items[middle:]), writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            first = work(items[:middle])
            data = pipe.read()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 9)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if status != 0:
        return [first, work(items[middle:])]
    second: _Result = pickle.loads(data)  # noqa: S301 - of our own child
    return [first, second]


def possible() -> bool:
    """Whether a child can be of use: Linux, two processors, and no other thread, which a fork would leave half way."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1


def _child(work: Callable[[], object], writing: int) -> None:
    """What the child does, to its end: nothing that was left to do when it was made is done twice."""
    status = 1
    try:
        gc.disable()  # a search for cycles would touch, and so copy, every object of the parent
        data = pickle.dumps(work(), pickle.HIGHEST_PROTOCOL)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        status = 0
    finally:
        os._exit(status)
