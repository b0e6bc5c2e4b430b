"""What has to be put right before anything else runs, and when all is done."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import threading

from ..errors import ExitCode


def prepare() -> None:
    """Give children their own libraries back, and let Ctrl-C and pipes behave.

    A frozen program runs with LD_LIBRARY_PATH pointing into itself; ssh, ProxyCommand and credential plugins would load
    its libcrypto. PyInstaller keeps the user's value in LD_LIBRARY_PATH_ORIG, and sets nothing when there was none.
    """
    if getattr(sys, "frozen", False):
        original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
        if original is not None:
            os.environ["LD_LIBRARY_PATH"] = original
        else:
            os.environ.pop("LD_LIBRARY_PATH", None)
    # Tens of thousands of objects are made and kept, and hardly a cycle among them: look for those less often.
    gc.set_threshold(1_000_000, 50, 100)
    # What was begun is ended in order: temporary files are removed, children are ended.
    signal.signal(signal.SIGTERM, _terminated)
    sys.unraisablehook = _unraisable
    for stream in (sys.stdout, sys.stderr):
        # Text from a cluster may hold what the terminal's encoding cannot show: better an escape than a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _terminated(number: int, _: object) -> None:
    sys.exit(128 + number)


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Deliver a Ctrl-C again that came in a destructor or a weak reference's callback: Python would print and forget it."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        again = threading.Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(what)


def finish() -> None:
    """Before the process ends: what is left goes with it, and nothing is gained by a search for cycles in it."""
    # All is written. From here on a Ctrl-C ends at once; a traceback of the interpreter's last steps tells nobody anything.
    signal.signal(signal.SIGINT, lambda *_: os._exit(ExitCode.INTERRUPTED))
    # CPython ends with SIGINT instead of our status when the string that it executed last (dataclasses, named tuples) was
    # interrupted (run_eval_code_obj in Python/pythonrun.c); executing another takes that back.
    exec("")  # noqa: S102 - nothing is executed
    gc.freeze()
