"""A packet walked through iptables chains, as net/ipv4/netfilter/ip_tables.c does it.

A chain with many rules is not tried rule by rule: rules that begin with one destination address, or that ask for one
destination port, are found by it (`_Chain.candidates`), in their own order among the rest. Rules are understood when a
walk first arrives at them, and kept.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from ..errors import ParseError
from ..model.net import ONE_ADDRESS
from ..model.ranges import ALL, network, number, subtract
from ..model.ruleset import IptablesRules, Table
from .hooks import SOURCE_HOOKS, BaseChain
from .iptables_rule import CONTINUE_TARGETS, Rule, compile_rule, mark_change
from .look_ahead import LookAhead, felt
from .packet import Doubt, Packet, Result, divide
from .verdict import Verdict

PRIORITIES = {"raw": -300, "mangle": -150, "nat-dst": -100, "filter": 0, "security": 50, "nat-src": 100}
"""include/uapi/linux/netfilter_ipv4.h: the order of the tables at one hook."""

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}

LOOPBACK_ADDRESSES = {4: network("127.0.0.0/8"), 6: network("::1")}
"""MASQUERADE never takes one of these (inet_select_addr asks for global scope)."""

_INDEX_FROM = 16
"""A chain with fewer rules is simply tried in order."""
_MAX_DEPTH = 512
"""Deeper than any kernel allows (nf_tables: 16 jumps; ip_tables: the number of chains, loops refused at load)."""

# Only text that cannot stand inside a comment is relied on: these anchor at the line's start.
_BY_ADDRESS = re.compile(rf"-A \S+ (?:(?:! )?-s \S+ )?-d ({ONE_ADDRESS})/\d+ ")
_BY_PORT = re.compile(
    r'-A \S+ (?:(?:! )?-[sd] \S+ )*-p (?:tcp|udp|sctp) (?:-m comment --comment (?:"[^"\\]*"|[^" ]+) )?'
    r"(?:-m addrtype --dst-type LOCAL )?-m (?:tcp|udp|sctp) --dport (\d{1,5}) "
)


class _Chain:
    """A chain's rules, and an index over them when they are many."""

    __slots__ = ("by_address", "by_port", "compiled", "name", "others", "raw")

    def __init__(self, name: str, raw: list[str]) -> None:
        self.name = name
        self.raw = raw
        self.compiled: dict[int, Rule] = {}
        self.by_address: dict[int, list[int]] = {}
        self.by_port: dict[int, list[int]] = {}
        self.others: list[int] | None = None
        if len(raw) >= _INDEX_FROM:
            self.others = []
            for position, line in enumerate(raw):
                if found := _BY_ADDRESS.match(line):
                    try:
                        key = number(found[1])
                    except ValueError:
                        self.others.append(position)
                    else:
                        self.by_address.setdefault(key, []).append(position)
                elif found := _BY_PORT.match(line):
                    self.by_port.setdefault(int(found[1]), []).append(position)
                else:
                    self.others.append(position)

    def candidates(self, packet: Packet) -> list[int] | range:
        """Positions of the rules that could match the packet's destination, in order."""
        if self.others is None:
            return range(len(self.raw))
        found = self.by_address.get(packet.dst, []) + self.by_port.get(packet.dport, [])
        if not found:
            return self.others
        return sorted(found + self.others)

    def rule(self, position: int) -> Rule:
        """The rule at a position, understood. Raises ParseError when it cannot be."""
        rule = self.compiled.get(position)
        if rule is None:
            rule = self.compiled[position] = compile_rule(self.raw[position])
        return rule


class IptablesTable:
    """One table of one family, ready to be walked from any of its built-in chains."""

    def __init__(self, table: Table, rules: IptablesRules) -> None:
        self.table = table
        self.family = rules.family
        self.label = f"{'ip6' if rules.family == 6 else 'ip'} {table.name}"
        self.chains: dict[str, _Chain] = {}
        self._ahead = LookAhead()

    def chain(self, name: str) -> _Chain | None:
        """A chain by name; None when the table has none of that name."""
        chain = self.chains.get(name)
        if chain is None:
            raw = self.table.chains.get(name)
            if raw is None:
                return None
            chain = self.chains[name] = _Chain(name, raw)
        return chain

    def run(self, packet: Packet) -> list[tuple[Verdict, Packet]]:
        """Walk a packet from the built-in chain of its hook to the verdict of each of its branches."""
        base = self.chain(packet.hook)
        if base is None:
            return [(Verdict.ACCEPT, packet)]
        done: list[tuple[Verdict, Packet]] = []
        # A frame is (chain, positions, index into positions, frame to return to).
        todo: list[tuple[Packet, _Frame]] = [(packet, _Frame(base, base.candidates(packet), 0, None))]
        while todo:
            branch, frame = todo.pop()
            self._follow(branch, frame, todo, done)
        return done

    def _follow(
        self,
        packet: Packet,
        frame: _Frame | None,
        todo: list[tuple[Packet, _Frame]],
        done: list[tuple[Verdict, Packet]],
        stop: _Frame | None = None,
    ) -> None:
        """Take one branch to its end, or back to `stop`; side branches go to `todo`."""
        budget = packet.budget
        while True:
            budget.steps -= 1
            if budget.spent:
                done.append((Verdict.UNKNOWN, packet))  # the walk is given up, and whoever began it says why
                return
            if frame is stop and stop is not None:
                done.append((Verdict.BACK, packet))
                return
            if frame is None:
                policy = self.table.policies.get(packet.hook, "ACCEPT")
                told = f"(policy DROP of chain {packet.hook}, table {self.label})"
                if policy == "DROP" and not self._left_out(packet, packet.hook, told, "DROP"):
                    packet.step(self.label, packet.hook, told, "DROP")
                    done.append((Verdict.DROP, packet))
                else:
                    done.append((Verdict.ACCEPT, packet))
                return
            chain, positions, index, back = frame
            if index >= len(positions):
                frame = back
                continue
            try:
                rule = chain.rule(positions[index])
            except ParseError as error:
                if self._left_out(packet, chain.name, chain.raw[positions[index]], ""):
                    frame = _Frame(chain, positions, index + 1, back)
                    continue
                # It may or may not match; what it does is not known either.
                packet.step(self.label, chain.name, chain.raw[positions[index]], "?")
                packet.unknown = f"rule not understood: {error.what}"
                done.append((Verdict.UNKNOWN, packet))
                return
            frame = _Frame(chain, positions, index + 1, back)
            if packet.without is not None and packet.without(self.label, chain.name, rule.raw, rule.target):
                continue
            matched = self._ask(rule, packet)
            if matched is None:
                continue
            yes, no = matched
            if no and len(yes[0].doubts) > len(packet.doubts) and self._idle(rule, packet, chain, frame):
                continue
            for branch in no:
                todo.append((branch, frame))
            # `yes` may hold several branches (none but unusual rules make more than one).
            for branch in yes[1:]:
                follow = self._do(rule, branch, chain, frame, done)
                if follow is not _END:
                    todo.append((branch, follow or _LAST))
            if not yes:
                return
            packet = yes[0]
            next_frame = self._do(rule, packet, chain, frame, done)
            if next_frame is _END:
                return
            frame = None if next_frame is _LAST else next_frame

    def _idle(self, rule: Rule, packet: Packet, chain: _Chain, frame: _Frame) -> bool:
        """True if a rule of which nobody knows whether it matches leaves the packet as it is either way."""
        if rule.remembers:
            return False

        def ahead() -> bool:
            done: list[tuple[Verdict, Packet]] = []
            branch = packet.copy()
            follow = self._do(rule, branch, chain, frame, done)
            if follow is _END or follow is _LAST or (follow is not frame and rule.target == "RETURN"):
                return False
            return self._comes_back(branch, follow or frame, frame, felt(packet))

        return self._ahead.idle((chain.name, frame[1][frame[2] - 1]), packet, ahead)

    def _comes_back(self, packet: Packet, start: _Frame, stop: _Frame, state: tuple[object, ...]) -> bool:
        """True if every branch from a frame comes back to another in this state."""
        done: list[tuple[Verdict, Packet]] = []
        todo = [(packet, start)]
        while todo:
            branch, frame = todo.pop()
            self._follow(branch, frame, todo, done, stop)
            if any(verdict is not Verdict.BACK or felt(end) != state for verdict, end in done):
                return False
            done.clear()
        return True

    def _left_out(self, packet: Packet, chain: str, rule: str, target: str) -> bool:
        return packet.without is not None and packet.without(self.label, chain, rule, target)

    @staticmethod
    def _ask(rule: Rule, packet: Packet) -> tuple[list[Packet], list[Packet]] | None:
        """(branches that match, branches that do not), or None when the whole packet does not."""
        results: list[Result] = []
        for match in rule.matches:
            answer = match.test(packet)
            if answer is False:
                return None
            if answer is not True:
                results.append(answer)
        yes, no = [packet], list[Packet]()
        if results:
            # What is certain splits first: a doubt that only matters to some sources is not one for the others.
            results.sort(key=lambda result: isinstance(result, Doubt))
            yes, no = divide(packet, results)
            if not yes:
                return None
        if rule.remembers:
            for branch in yes:
                branch.remembered = branch.remembered.union(rule.remembers)
        return yes, no

    def _do(
        self, rule: Rule, packet: Packet, chain: _Chain, frame: _Frame, done: list[tuple[Verdict, Packet]]
    ) -> _Frame | None:
        """Carry out a target: the frame to go on with, `_LAST` for the base chain's end, or `_END` when it is done."""
        target = rule.target
        if not target:
            return frame
        if rule.trouble:
            packet.step(self.label, chain.name, rule.raw, target, pins=rule.pins)
            packet.unknown = rule.trouble
            done.append((Verdict.UNKNOWN, packet))
            return _END
        inner = self.chain(target)
        if inner is not None:
            packet.step(self.label, chain.name, rule.raw, target, pins=rule.pins)
            wrong = _cannot_enter(inner, frame)
            if wrong:
                packet.unknown = wrong
                done.append((Verdict.UNKNOWN, packet))
                return _END
            if not rule.goto and self._ahead.entered_again(packet, (self.label, target)):
                start = _Frame(inner, inner.candidates(packet), 0, frame)

                def ahead() -> bool:
                    return self._comes_back(packet.copy(), start, frame, felt(packet))

                if self._ahead.idle((chain.name, frame[1][frame[2] - 1], target), packet, ahead):
                    return frame
            back = frame.back if rule.goto else frame
            return _Frame(inner, inner.candidates(packet), 0, back)
        if target in CONTINUE_TARGETS:
            return frame
        packet.step(self.label, chain.name, rule.raw, target, pins=rule.pins)
        if target == "RETURN":
            return frame.back or _LAST
        if target == "CONNMARK" and not packet.tracked:
            return frame  # xt_connmark.c: without a connection there is nothing to mark or to restore
        if target in ("MARK", "CONNMARK"):
            try:
                packet.mark, packet.ctmark = mark_change(rule, packet.mark, packet.ctmark)
            except (ParseError, ValueError) as error:
                packet.unknown = f"mark not understood: {error}"
                done.append((Verdict.UNKNOWN, packet))
                return _END
            return frame
        if target in ("CT", "NOTRACK"):
            if target == "NOTRACK" or "--notrack" in rule.options:
                # xt_CT.c: a connection that is known, as one that came back over loopback, is left alone.
                packet.untracked = packet.untracked or packet.early
            elif any(option.startswith("--zone") for option in rule.options):
                packet.unknown = "the connection is tracked in a zone of its own, where it cannot be followed"
                done.append((Verdict.UNKNOWN, packet))
                return _END
            return frame
        verdict = {"ACCEPT": Verdict.ACCEPT, "DROP": Verdict.DROP, "REJECT": Verdict.REJECT}.get(target)
        if verdict is None:
            try:
                verdict = self._translate(rule, packet)
            except (IndexError, ValueError):
                packet.unknown, verdict = f"{target} with options that iptables would not print", Verdict.UNKNOWN
        done.append((verdict, packet))
        return _END

    def _translate(self, rule: Rule, packet: Packet) -> Verdict:
        """The NAT targets; UNKNOWN for everything else."""
        target, options = rule.target, rule.options
        if target == "DNAT":
            where = options[options.index("--to-destination") + 1]
            try:
                packet.dst, packet.dport = parse_target(where, packet.dport)
            except ValueError:
                packet.unknown = f"DNAT to {where}: more than one destination, or none that iptables would print"
                return Verdict.UNKNOWN
            packet.bound_dst = True
            return Verdict.ACCEPT
        if target == "REDIRECT":
            ports = options[options.index("--to-ports") + 1] if "--to-ports" in options else str(packet.dport)
            if not ports.isdigit():
                packet.unknown = f"REDIRECT to ports {ports}: more than one destination"
                return Verdict.UNKNOWN
            # nf_nat_redirect.c: loopback for the node's own packets; for others the first address of the interface that
            # they came in by, or a drop where it has none, as the host's end of many CNIs' veth pairs.
            if not packet.from_node:
                packet.unknown = f"REDIRECT to port {ports} of whatever address the packet's interface has, or of none"
                return Verdict.UNKNOWN
            packet.dst = number("::1") if self.family == 6 else number("127.0.0.1")
            packet.dport, packet.bound_dst = int(ports), True
            return Verdict.ACCEPT
        if target == "MASQUERADE":
            packet.masquerade, packet.bound_src = "node", True
            packet.left_as = subtract(packet.ctx.local, LOOPBACK_ADDRESSES[self.family]) or ALL[self.family]
            return Verdict.ACCEPT
        if target == "SNAT" and "--to-source" in options:
            where = options[options.index("--to-source") + 1]
            low, _, high = _address_part(where).partition("-")
            try:
                own_address = all(packet.ctx.is_local(number(part)) for part in (low, high) if part)
                packet.masquerade = "node" if own_address else str(ip_address(low))
                packet.left_as = ((number(low), number(high or low)),)
            except ValueError:
                packet.unknown = f"SNAT to {where}: not understood"
                return Verdict.UNKNOWN
            packet.bound_src = True
            return Verdict.ACCEPT
        packet.unknown = f"target {target} is not one whose effect a dump can tell"
        return Verdict.UNKNOWN


class _Frame(tuple[_Chain, "list[int] | range", int, "_Frame | None"]):
    """Where a walk stands: chain, positions, index, and the frame to return to."""

    __slots__ = ()

    def __new__(cls, chain: _Chain, positions: list[int] | range, index: int, back: _Frame | None) -> _Frame:
        return tuple.__new__(cls, (chain, positions, index, back))

    @property
    def back(self) -> _Frame | None:
        """The frame to return to; None in a base chain."""
        return self[3]


def _cannot_enter(inner: _Chain, frame: _Frame) -> str:
    """Return why no kernel would let a packet into a chain from here, or nothing. It refuses to load chains that form a loop."""
    at: _Frame | None = frame
    depth = 0
    while at is not None:
        if at[0] is inner:
            return f"chain {inner.name} leads back to itself, which no kernel allows"
        depth, at = depth + 1, at.back
    return f"chains jump into each other more than {_MAX_DEPTH} deep, which no kernel allows" if depth > _MAX_DEPTH + 1 else ""


_END = _Frame(_Chain("", []), [], 0, None)
_LAST = _Frame(_Chain("", []), [], 0, None)


def _address_part(where: str) -> str:
    """The address of `1.2.3.4:80`, `1.2.3.4`, `[fd00::1]:80` or `fd00::1`."""
    if where.startswith("["):
        return where[1 : where.index("]")]
    return where.partition(":")[0] if where.count(":") == 1 else where


def parse_target(where: str, dport: int) -> tuple[int, int]:
    """(address, port) of a DNAT's destination; the port that was dialled where it names none.

    Raises ValueError for ranges: their shares are not a matter of the rules alone.
    """
    address = _address_part(where)
    rest = where[where.index("]") + 1 :] if where.startswith("[") else where[len(address) :]
    if "-" in where or "/" in where:
        low, _, high = address.partition("-")
        if low != high or "-" in rest or "/" in rest:
            raise ValueError(where)
        address = low
    if rest and not rest.startswith(":"):
        raise ValueError(where)
    port = int(rest[1:]) if rest else dport
    if not 0 < port < 65536:
        raise ValueError(where)
    return number(address), port


def base_chains(rules: IptablesRules) -> dict[str, list[BaseChain]]:
    """The tables of one family and backend as base chains, hook by hook."""
    hooks: dict[str, list[BaseChain]] = {}
    for name, table in rules.tables.items():
        runner = IptablesTable(table, rules)
        for hook in HOOKS.get(name, ()):
            if hook not in table.chains:
                continue
            priority = PRIORITIES.get(name, 0)
            if name == "nat":
                priority = PRIORITIES["nat-src" if hook in SOURCE_HOOKS else "nat-dst"]
            base = BaseChain(priority=priority, nat=name == "nat", runner=runner, label=f"{runner.label} {hook}")
            hooks.setdefault(hook, []).append(base)
    return hooks
