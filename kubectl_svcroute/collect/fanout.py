"""One outcome per node, as it arrives: a dead or slow node is data, and never costs the others anything."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..errors import SvcrouteError
from ..model.fast_dataclass import dataclass
from ..model.snapshot import NodeHandle, NodeOutcome, Unreachable
from .node_script import one_line

ADDRESS_KINDS = ("internal", "external", "hostname", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTarget:
    """A node to be read: its name, and the addresses that it may answer at."""

    name: str
    addresses: tuple[tuple[str, str], ...] = ()
    """(kind, address) with kinds of ADDRESS_KINDS, in the API's order."""

    def of_kinds(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """The addresses of these kinds, in the order of the kinds, each once. The kind `name` is the node's name."""
        found = [a for kind in kinds for k, a in (*self.addresses, ("name", self.name)) if k == kind]
        return tuple(dict.fromkeys(found))


def node_target(node: Mapping[str, Any]) -> NodeTarget:
    """The target of a Node object as the API returned it. Raises KeyError when it has no name."""
    kinds = {"InternalIP": "internal", "ExternalIP": "external", "Hostname": "hostname"}
    addresses = (node.get("status") or {}).get("addresses") or ()
    return NodeTarget(
        name=node["metadata"]["name"],
        addresses=tuple((kinds[a["type"]], a["address"]) for a in addresses if a.get("type") in kinds and a.get("address")),
    )


class NodeReader(Protocol):
    """A way to read nodes. `read` may be called from many threads, and gives an outcome whatever happens."""

    @property
    def via(self) -> str:
        """Its name: ssh, exec, local, auto."""

    def read(self, target: NodeTarget) -> NodeOutcome:
        """Read one node. Not being able to is an outcome (`Unreachable`), not an exception."""

    def run(self, target: NodeTarget, script: str, nonce: str, *, via: str = "") -> bytes:
        """What another script in the node script's frame prints there. Raises CollectError. `via`: by which way, of several."""

    def close(self) -> None:
        """Let go of what is shared between nodes (a bastion's connection)."""


def handles(reader: NodeReader, targets: Sequence[NodeTarget]) -> tuple[NodeHandle, ...]:
    """Nodes as a Snapshot has them: each can be read, and read again."""

    def bound(target: NodeTarget) -> Callable[[], NodeOutcome]:
        return lambda: reader.read(target)

    return tuple(NodeHandle(node=target.name, read=bound(target)) for target in targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the reading is."""

    done: int
    """Nodes that were read."""
    failed: int
    """Nodes that could not be read."""
    left: int


def read_all(
    nodes: Sequence[NodeHandle],
    *,
    parallel: int = 32,
    node_timeout: float = 300.0,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[NodeOutcome]:
    """Yield one outcome per node in the order of arrival; `parallel` are read at once.

    A node still silent `node_timeout` seconds after its reading began is given up, and another takes its place: its
    thread is left behind, and as a daemon it holds up nothing. Closing the iterator (Ctrl-C raises in its `next`) ends
    at once: no further node is begun. At most `parallel` outcomes wait here, so memory does not grow with the nodes.
    """
    pool = _Pool(nodes, max(1, parallel), node_timeout)
    done = failed = 0
    try:
        while done + failed < len(nodes):
            outcome = pool.next()
            if isinstance(outcome, Unreachable):
                failed += 1
            else:
                done += 1
            if progress is not None:
                progress(Progress(done=done, failed=failed, left=len(nodes) - done - failed))
            yield outcome
            del outcome  # the consumer has reduced it by now; its text must not live until the next arrives
    finally:
        pool.stop()


class _Pool:
    """Daemon threads that take nodes from one queue and put outcomes on another.

    Not a ThreadPoolExecutor: that joins its threads when the interpreter ends, and one stuck node would hold up the
    whole program.
    """

    def __init__(self, nodes: Sequence[NodeHandle], parallel: int, node_timeout: float) -> None:
        self._todo = iter(enumerate(nodes))
        self._timeout = node_timeout
        self._lock = threading.Lock()
        self._running: dict[int, tuple[str, float]] = {}
        self._stopped = threading.Event()
        # The bound makes readers wait for a slow consumer instead of piling up texts.
        self._outcomes: queue.Queue[NodeOutcome] = queue.Queue(maxsize=parallel)
        for _ in range(min(parallel, len(nodes))):
            self._start_thread()

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="collect", daemon=True).start()

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                number, node = next(self._todo, (-1, None))
                if node is None:
                    return
                self._running[number] = (node.node, time.monotonic() + self._timeout)
            outcome = _read(node)
            with self._lock:
                if self._running.pop(number, None) is None:
                    return  # given up meanwhile: another thread has this one's place
            while not self._stopped.is_set():
                try:
                    self._outcomes.put(outcome, timeout=1.0)
                    break
                except queue.Full:
                    continue
            del outcome

    def next(self) -> NodeOutcome:
        """The next outcome to arrive, or that of a node whose time is over."""
        while True:
            try:
                return self._outcomes.get(timeout=self._patience())
            except queue.Empty:
                pass
            with self._lock:
                now = time.monotonic()
                late = next((n for n, (_, until) in self._running.items() if until <= now), None)
                if late is None:
                    continue
                name, _ = self._running.pop(late)
            self._start_thread()
            return Unreachable(node=name, reason=f"gave no answer within {self._timeout:g} s")

    def _patience(self) -> float:
        with self._lock:
            earliest = min((until for _, until in self._running.values()), default=time.monotonic() + 1.0)
        # Woken now and then even so: a node may have begun since, with an earlier end than was known.
        return min(1.0, max(0.01, earliest - time.monotonic()))

    def stop(self) -> None:
        self._stopped.set()


def _read(node: NodeHandle) -> NodeOutcome:
    try:
        return node.read()
    except SvcrouteError as error:
        return Unreachable(node=node.node, reason=one_line(str(error)))
    except Exception as error:  # a defect in the reading of one node must not cost the others
        return Unreachable(node=node.node, reason=one_line(f"{type(error).__name__}: {error}"))
