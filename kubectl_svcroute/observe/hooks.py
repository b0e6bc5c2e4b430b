"""A packet's way through one node: from the hook where it enters to what becomes of it.

    from a wire:   PREROUTING -> (is the destination the node's own?) -> INPUT, or FORWARD -> POSTROUTING
    from a process: OUTPUT -> POSTROUTING, and when the destination is the node's own: PREROUTING -> INPUT

At each hook the base chains run by priority (raw, mangle, NAT of destinations, filter, security, NAT of sources). A NAT
table sees only the first packet of a tracked connection, and each kind of NAT is set up once: later NAT chains of the
same kind are passed over (net/netfilter/nf_nat_core.c, nf_nat_inet_fn).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..model.fast_dataclass import dataclass
from ..model.net import Backend
from ..model.ranges import text
from ..model.routes import Action
from ..model.walk_result import End
from .look_ahead import felt
from .packet import LOOPBACK, NO_INTERFACE, Packet, new_fork, steps
from .verdict import Verdict


class Runner(Protocol):
    """Something that takes a packet through one base chain: an iptables table or an nftables base chain."""

    def run(self, packet: Packet) -> list[tuple[Verdict, Packet]]:
        """Every branch of the packet with its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChain:
    """A base chain: where it hooks in, when its turn comes, and whether it does NAT."""

    priority: int
    nat: bool
    runner: Runner
    label: str
    """Table and chain, for people."""


Hooks = Mapping[str, Sequence[BaseChain]]
"""Hook (`PREROUTING`, `INPUT`, `FORWARD`, `OUTPUT`, `POSTROUTING`) -> its base chains by priority."""

CONNTRACK = -200
"""Where connection tracking hooks in, at PREROUTING and OUTPUT (NF_IP_PRI_CONNTRACK)."""

SOURCE_HOOKS = frozenset(("POSTROUTING", "INPUT"))
"""Where NAT changes sources; at the others it changes destinations."""


def walk(hooks: Hooks, packet: Packet) -> list[End]:
    """Walk a packet to all its ends. Its `hook` is set here, by where it comes from."""
    sources = packet.src
    ways = _ways(hooks, packet)
    if given_up := packet.budget.end():
        whole = packet.copy()
        whole.src, whole.weight, whole.doubts, whole.unknown = sources, 1.0, (), given_up
        return [_end(None, whole)]
    return [_end(action, branch) for action, branch in ways]


def _ways(hooks: Hooks, packet: Packet) -> list[tuple[Action | None, Packet]]:
    done: list[tuple[Action | None, Packet]] = []
    if packet.from_node:
        packet.iif = NO_INTERFACE
        going = _hook(hooks, "OUTPUT", [packet], done)
        going = _hook(hooks, "POSTROUTING", going, done)
        away = [p for p in going if not p.ctx.is_local(p.dst)]
        home = [p for p in going if p.ctx.is_local(p.dst)]
        for branch in home:
            branch.iif = LOOPBACK
        arrived = _hook(hooks, "INPUT", _hook(hooks, "PREROUTING", home, done), done)
        done.extend((_passed(p), p) for p in away + arrived)
        return done
    routed = _hook(hooks, "PREROUTING", [packet], done)
    # To ::1 a packet from a wire is routed by the interface that it came in by (net/ipv6/route.c, rt6_need_strict): out of
    # the uplink again, or nowhere. 127.0.0.1 is taken in where route_localnet is on, as kube-proxy has it.
    for branch in [p for p in routed if p.dst == 1 and p.ctx.family == 6]:
        branch.unknown = "the packet is sent to ::1, which is not reached from a wire; where it goes is in the routing table"
        done.append((None, branch))
    routed = [p for p in routed if p.dst != 1 or p.ctx.family != 6]
    home = _hook(hooks, "INPUT", [p for p in routed if p.ctx.is_local(p.dst)], done)
    away = _hook(hooks, "FORWARD", [p for p in routed if not p.ctx.is_local(p.dst)], done)
    away = _hook(hooks, "POSTROUTING", away, done)
    done.extend((_passed(p), p) for p in home + away)
    return done


def _passed(packet: Packet) -> Action:
    return Action.TRANSLATE if packet.bound_dst else Action.PASS


def _hook(hooks: Hooks, hook: str, packets: list[Packet], done: list[tuple[Action | None, Packet]]) -> list[Packet]:
    for branch in packets:
        branch.hook = hook
    for base in hooks.get(hook, ()):
        if not packets:
            break
        going = []
        for branch in packets:
            for verdict, other in meet(base, branch):
                if verdict is Verdict.ACCEPT:
                    going.append(other)
                elif verdict is Verdict.DROP:
                    done.append((Action.DROP, other))
                elif verdict is Verdict.REJECT:
                    done.append((Action.REJECT, other))
                else:
                    done.append((None, other))
        packets = going
    return packets


def meet(base: BaseChain, packet: Packet) -> list[tuple[Verdict, Packet]]:
    """Take a packet that is at a hook through one base chain there; a NAT chain does not see every packet."""
    # A connection that the node sent to itself has had its chance at OUTPUT.
    looped = packet.from_node and packet.hook in ("PREROUTING", "INPUT")
    bound = packet.bound_src if packet.hook in SOURCE_HOOKS else packet.bound_dst
    if base.nat and (packet.untracked or bound or looped):
        return [(Verdict.ACCEPT, packet)]
    # A connection that the node sent to itself is known when it comes back.
    packet.early = base.priority < CONNTRACK and packet.hook in ("PREROUTING", "OUTPUT") and not looped
    return _merged(packet, base.runner.run(packet))


def _merged(packet: Packet, results: list[tuple[Verdict, Packet]]) -> list[tuple[Verdict, Packet]]:
    """The branches of one base chain, those that doubts led to the same state as one.

    A doubt says that one of its sides happens and not which. So what counts is which states can come of all doubts together, not
    on how many paths: the states are told apart by new doubts, one fewer than there are states. Where chance or sources split the
    packet too, each part has its own states, and the branches stay as they are.
    """
    known = len(packet.doubts)
    if len(results) < 3 or any(b.src != packet.src or b.weight != packet.weight or len(b.doubts) == known for _, b in results):
        return results
    states: dict[object, tuple[Verdict, Packet]] = {}
    for verdict, branch in results:
        states.setdefault((verdict, branch.unknown, branch.facts, felt(branch)), (verdict, branch))
    if len(states) == len(results):
        return results
    merged, doubts = [*states.values()], packet.doubts
    for _, branch in merged[:-1]:
        fork, reason = new_fork(), branch.doubts[known][2]
        branch.doubts = (*doubts, (fork, True, reason))
        doubts = (*doubts, (fork, False, reason))
    merged[-1][1].doubts = doubts
    return merged


def _end(action: Action | None, packet: Packet) -> End:
    family = packet.ctx.family
    backend = None
    if action is Action.TRANSLATE:
        backend = Backend(text(packet.dst, family), packet.dport)
    return End(
        sources=packet.src,
        weight=packet.weight,
        action=action,
        backend=backend,
        masquerade=packet.masquerade,
        translated=packet.bound_dst,
        local=packet.ctx.is_local(packet.dst),
        mark=packet.mark,
        remembered=packet.remembered,
        seconds=packet.seconds,
        unknown=packet.unknown,
        doubts=packet.doubts,
        way=tuple(steps(packet.trace)),
    )
