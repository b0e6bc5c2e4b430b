"""Ask a node's rules what they do with one client's packets to one frontend."""

from __future__ import annotations

from collections.abc import Callable

from ..model.fast_dataclass import dataclass
from ..model.net import Frontend
from ..model.ranges import Ranges, number
from ..model.routes import Action
from ..model.walk_result import End, Observed, Step
from .hooks import Hooks, walk
from .packet import Interface, NodeContext, Packet, Without
from .shares import settle, stopped_by_other


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A node's rules of one family, ready to be asked."""

    hooks: Hooks
    context: NodeContext
    pod_side: Interface
    """What is known of the interfaces that pods' packets come in by."""
    uplink: Interface
    """What is known of the interface that everybody else's come in by."""

    own: Callable[[Step], bool] = lambda _: True
    """True for the steps of kube-proxy's own rules, false for another program's."""

    def packet(self, frontend: Frontend, sources: Ranges, *, from_node: bool, from_pod: bool) -> Packet:
        """The first packet of a connection."""
        return Packet(
            self.context, src=sources, dst=number(frontend.address), proto=frontend.protocol.value.lower(),
            dport=frontend.port, iif=self.pod_side if from_pod else self.uplink, from_node=from_node,
        )  # fmt: skip

    def ask(
        self, frontend: Frontend, sources: Ranges, *, from_node: bool, from_pod: bool, without: Without | None = None
    ) -> Observed:
        """What becomes of new connections, and of the next one of a client that has had one.

        `without`: rules that are left out, to ask what would happen without them; affinity is not asked for then.
        """
        packet = self.packet(frontend, sources, from_node=from_node, from_pod=from_pod)
        packet.without = without
        ends = walk(self.hooks, packet)
        atoms = settle(ends, own=self.own)
        if without is not None:
            return Observed(atoms=tuple(atoms), affinity=frozenset())
        affinity: set[int | None] = set()
        seen: set[tuple[object, ...]] = set()
        for end in ends:
            if end.action is not Action.TRANSLATE:
                continue
            if not end.remembered:
                affinity.add(None)
            # Two endpoints may share one list by mistake: what a list leads to says nothing about who entered it.
            elif (key := (end.remembered, end.backend, end.sources)) not in seen:
                seen.add(key)
                affinity.add(self._again(frontend, end, from_node=from_node, from_pod=from_pod))
        return Observed(atoms=tuple(atoms), affinity=frozenset(affinity))

    def _again(self, frontend: Frontend, first: End, *, from_node: bool, from_pod: bool) -> int | None:
        """For how long a client that was sent to `first` is sent there again; None when it may be sent elsewhere."""
        packet = self.packet(frontend, first.sources, from_node=from_node, from_pod=from_pod)
        packet.memory = first.remembered
        ends = walk(self.hooks, packet)
        # Whom another program's rule stops is not sent elsewhere, and that rule is reported for what it does to everybody.
        kept = [end for end in ends if not stopped_by_other(end, self.own)]
        if any(end.backend != first.backend for end in kept):
            return None
        # A way that no list decides may lead there all the same: what counts is that none leads elsewhere.
        return min((end.seconds for end in kept if end.seconds is not None), default=None)
