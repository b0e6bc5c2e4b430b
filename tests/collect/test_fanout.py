"""Many nodes at once: one outcome each, as it arrives, whatever the others do."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from kubectl_svcroute.collect.fanout import NodeTarget, Progress, handles, node_target, read_all
from kubectl_svcroute.collect.transports import LocalReader, is_here, run_bounded
from kubectl_svcroute.errors import CollectError
from kubectl_svcroute.model.snapshot import NodeDump, NodeHandle, NodeOutcome, Unreachable


def dump(name: str) -> NodeDump:
    return NodeDump(node=name, files={"iptables-save.txt": "*nat\n"}, via="test")


def node(name: str, read: Callable[[], NodeOutcome] | None = None) -> NodeHandle:
    return NodeHandle(node=name, read=read or (lambda: dump(name)))


def test_every_node_has_one_outcome() -> None:
    """However many nodes and however few threads, each node has exactly one outcome."""
    names = [f"n{i}" for i in range(200)]
    outcomes = list(read_all([node(name) for name in names], parallel=7))
    assert sorted(outcome.node for outcome in outcomes) == sorted(names)


def test_no_nodes_no_outcomes() -> None:
    """Without nodes there is nothing to wait for."""
    assert list(read_all([])) == []


def test_a_slow_node_does_not_delay_the_others() -> None:
    """All others' outcomes arrive while one node still hangs, and its own arrives when it is done."""
    release = threading.Event()

    def slow() -> NodeOutcome:
        release.wait(60)
        return dump("slow")

    outcomes = read_all([node("slow", slow), *(node(f"n{i}") for i in range(20))], parallel=2)
    assert {next(outcomes).node for _ in range(20)} == {f"n{i}" for i in range(20)}
    release.set()
    assert [outcome.node for outcome in outcomes] == ["slow"]


def test_a_node_that_hangs_is_given_up_and_its_place_taken() -> None:
    """With every thread stuck in a hanging node, those are given up and all the others are read."""
    release = threading.Event()

    def hang() -> NodeOutcome:
        release.wait(60)
        return dump("late")

    nodes = [*(node(f"sick{i}", hang) for i in range(4)), *(node(f"n{i}") for i in range(10))]
    outcomes = {o.node: o for o in read_all(nodes, parallel=4, node_timeout=0.3)}
    release.set()
    assert set(outcomes) == {n.node for n in nodes}
    for i in range(4):
        assert outcomes[f"sick{i}"] == Unreachable(node=f"sick{i}", reason="gave no answer within 0.3 s")
        assert isinstance(outcomes[f"n{i}"], NodeDump)


def test_whatever_a_reading_raises_is_an_outcome() -> None:
    """An error of one node, foreseen or a defect, is that node's reason in one line, and costs the others nothing."""

    def fails(error: Exception) -> Callable[[], NodeOutcome]:
        def read() -> NodeOutcome:
            raise error

        return read

    nodes = [node("a", fails(CollectError("two\nlines\x1b[0m"))), node("b", fails(ValueError("oops"))), node("c")]
    outcomes = {o.node: o for o in read_all(nodes)}
    assert outcomes["a"] == Unreachable(node="a", reason="two lines [0m")
    assert outcomes["b"] == Unreachable(node="b", reason="ValueError: oops")
    assert isinstance(outcomes["c"], NodeDump)


def test_progress_counts_to_the_end() -> None:
    """The callback hears after every node how many are read, failed and left."""
    heard: list[Progress] = []
    bad: NodeOutcome = Unreachable(node="bad", reason="x")
    list(read_all([node("a"), node("bad", lambda: bad), node("b")], parallel=1, progress=heard.append))
    assert [(p.done, p.failed, p.left) for p in heard] == [(1, 0, 2), (1, 1, 1), (2, 1, 0)]


def test_texts_are_let_go() -> None:
    """Memory does not grow with the nodes: no more dumps are alive than are being read and waiting."""

    class Text(str):
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    most = 0

    def reading(name: str) -> Callable[[], NodeOutcome]:
        def read() -> NodeOutcome:
            text = Text(name)
            alive.add(text)
            return NodeDump(node=name, files={"iptables-save.txt": text})

        return read

    outcomes = read_all([node(f"n{i}", reading(f"n{i}")) for i in range(300)], parallel=4)
    for number, outcome in enumerate(outcomes):
        del outcome
        if number % 20 == 0:
            gc.collect()
        most = max(most, len(alive))
    assert most <= 4 + 4 + 2  # in the queue, in the threads, in hand


def test_closing_stops_the_reading() -> None:
    """When the consumer stops, no further node is begun."""
    begun: list[str] = []

    def reading(name: str) -> Callable[[], NodeOutcome]:
        def read() -> NodeOutcome:
            begun.append(name)
            return dump(name)

        return read

    outcomes = read_all([node(f"n{i}", reading(f"n{i}")) for i in range(1000)], parallel=2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name == "collect":
            thread.join(20)
    assert len(begun) < 20


def test_interrupting_ends_at_once() -> None:
    """Ctrl-C while nodes hang ends the program with what was read, and no thread holds it up."""
    code = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it for its children
from kubectl_svcroute.collect.fanout import read_all
from kubectl_svcroute.model.snapshot import NodeDump, NodeHandle
def hang():
    threading.Event().wait()
nodes = [NodeHandle(node="a", read=lambda: NodeDump(node="a", files={})), *(NodeHandle(node=str(i), read=hang) for i in range(5))]
try:
    for outcome in read_all(nodes):
        print(outcome.node, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "a\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()


NODE = {
    "metadata": {"name": "n1"},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
            {"type": "Hostname", "address": "host1"},
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalDNS", "address": "n1.internal"},
        ]
    },
}


def test_the_addresses_of_a_node() -> None:
    """A node's addresses come in the order of the kinds asked for, and each once."""
    target = node_target(NODE)
    assert target.of_kinds(("external", "internal", "name")) == ("203.0.113.1", "10.0.0.1", "fd00::1", "n1")
    assert target.of_kinds(("hostname",)) == ("host1",)
    assert node_target({"metadata": {"name": "bare"}}).of_kinds(("internal", "name")) == ("bare",)
    assert NodeTarget(name="x", addresses=(("hostname", "x"),)).of_kinds(("hostname", "name")) == ("x",)


def test_handles_can_be_read_again() -> None:
    """A handle reads its own node each time it is asked."""

    class Reader:
        def read(self, target: NodeTarget) -> NodeOutcome:
            return dump(target.name)

        def close(self) -> None:
            pass

    first, second = handles(Reader(), [NodeTarget(name="a"), NodeTarget(name="b")])
    assert [first.read().node, first.read().node, second.read().node] == ["a", "a", "b"]


# -- this machine -------------------------------------------------------------------------------------------------------


def test_only_the_node_itself_is_read_locally() -> None:
    """`--via local` refuses a node that is not this machine: another's rules under its name would be a lie."""
    assert is_here(NodeTarget(name=socket.gethostname()))
    assert is_here(NodeTarget(name="x", addresses=(("internal", "127.0.0.1"),)))
    elsewhere = NodeTarget(name="elsewhere", addresses=(("internal", "192.0.2.199"), ("hostname", "127.0.0.1")))
    assert not is_here(elsewhere)
    outcome = LocalReader().read(elsewhere)
    assert isinstance(outcome, Unreachable)
    assert outcome.reason.startswith("local: this machine (")


def test_this_machine_is_read() -> None:
    """`--via local` reads the machine that it runs on, with the same script."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it reads the kernel's rules")
    outcome = LocalReader().read(NodeTarget(name=socket.gethostname()))
    assert isinstance(outcome, NodeDump), outcome
    assert outcome.via == "local"
    assert "net.ipv4.ip_forward = " in outcome.files["sysctl.txt"]


def test_without_root_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone who is not root and may not sudo is told what to do."""
    fake = tmp_path / "sudo"
    fake.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    outcome = LocalReader().read(NodeTarget(name=socket.gethostname()))
    assert isinstance(outcome, Unreachable)
    assert "sudo: a password is required: run the program as root, or sudo -v first" in outcome.reason


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo half; sleep 600", "did not end within 1 s"),
        ("exec >&- 2>&-; sleep 600", "did not end within 1 s"),
        ("cat /dev/zero", "printed more than 1 MiB"),
    ],
)
def test_local_commands_are_bounded(script: str, says: str) -> None:
    """A local command that hangs, with its streams open or closed, or prints without end, is ended with all it started."""
    with pytest.raises(CollectError, match=says):
        run_bounded(["sh", "-c", script], b"", timeout=1, max_bytes=1 << 20)


def test_local_output_and_status() -> None:
    """Both streams and the status of a local command come back, full pipes or not."""
    flood = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 5"
    out, err, status = run_bounded(["sh", "-c", flood], b"", timeout=60, max_bytes=4 << 20)
    assert (len(out), len(err), status) == (3_000_000, 4000, 5)
    with pytest.raises(CollectError, match="cannot be run"):
        run_bounded(["/does/not/exist"], b"", timeout=1, max_bytes=1)
