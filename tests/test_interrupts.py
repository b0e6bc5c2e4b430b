"""Ctrl-C at every moment: an audit that is interrupted says what it saw and what it did not, and never anything else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from churn import Churn
from test_live import FIRST, LOST, SECOND, THIRD, live_of

from kubectl_svcroute.collect.fanout import NodeTarget, handles, read_all
from kubectl_svcroute.errors import CollectError, is_interrupt
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeOutcome, Unreachable
from kubectl_svcroute.run.live import audit_live

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def interrupt_after(seconds: float) -> Iterator[list[bool]]:
    """A real signal, handled as Python handles Ctrl-C: KeyboardInterrupt between two instructions of the main thread."""
    came: list[bool] = []

    def raise_it(*_: object) -> None:
        came.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Reader:
    via = "ssh"

    def read(self, target: NodeTarget) -> NodeOutcome:
        return Unreachable(node=target.name, reason="quick")


def test_an_interrupt_while_nodes_are_waited_for_is_never_lost() -> None:
    """At moments all along: in the queue, in the locks under it, in what starts threads. Some become a RuntimeError."""
    nodes = handles(_Reader(), [NodeTarget(name=f"n{number}") for number in range(40)])
    tried = lost = 0
    for step in range(300):
        try:
            with interrupt_after(10e-6 * (1 + step)) as came:
                for _ in read_all(nodes, parallel=2):
                    pass
            lost += len(came)
        except BaseException as error:
            assert is_interrupt(error), repr(error)  # noqa: PT017 - of which kind is the question
            tried += 1
    assert lost == 0
    assert tried > 5


def test_an_interrupted_audit_reports_every_node_and_calls_nothing_certain() -> None:
    """From the first reading to the last: all nodes are in the report, and what differed is not verified."""
    interrupted = 0
    for step in range(40):
        world = Churn(seed=1, nodes=(FIRST, SECOND, THIRD), changing=(), hurt=LOST)
        live = live_of(world, settle=60.0)
        try:
            with interrupt_after(0.002 * (1 + step)) as came:
                report, whole = audit_live(live, world.api(), Selection(services=frozenset({"default/kuard"})), origin="test")
        except BaseException as error:
            assert is_interrupt(error), repr(error)  # noqa: PT017 - of which kind is the question
            continue
        rows = {row.node: row.verified for row in report.nodes}
        assert sorted(rows) == sorted((FIRST, SECOND, THIRD))
        if not whole:
            interrupted += 1
            assert not rows[FIRST], "it differed, and was not looked at again"
            assert report.findings == ()
        elif came:
            pytest.fail("the interrupt was lost")
    assert interrupted > 0


def test_what_hides_an_interrupt_is_one() -> None:
    """A lock that is released twice, a library's own error around it; and no error that came without any."""
    for wrap in (lambda: RuntimeError("release unlocked lock"), lambda: CollectError("gone")):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise wrap()
        except Exception as error:
            assert is_interrupt(error)  # noqa: PT017 - that it is raised is certain
    assert not is_interrupt(CollectError("gone"))
    assert not is_interrupt(SystemExit(1))


_EXEC = """
import sys
from kubectl_svcroute.cli import process
process.prepare()
class Dies:
    def __del__(self): raise KeyboardInterrupt
try: exec("raise KeyboardInterrupt")
except KeyboardInterrupt: pass
if sys.argv[1:] == ["lost"]:
    try:
        d = Dies(); del d
        while True: pass
    except KeyboardInterrupt: print("came")
process.finish()
sys.exit(3)
"""


@pytest.mark.parametrize("argument", ["", "lost"])
def test_the_status_is_ours_whatever_was_interrupted(argument: str, tmp_path: Path) -> None:
    """An interrupt within `exec` of a text makes CPython end by SIGINT; one within a destructor is printed and forgotten."""
    (tmp_path / "interrupted.py").write_text(_EXEC)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "interrupted", *filter(None, [argument])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == ("came\n" if argument else "")
