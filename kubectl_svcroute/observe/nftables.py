"""A packet walked through nftables chains, as net/netfilter/nf_tables_core.c does it (nft_do_chain).

* A rule is a list of statements, carried out one after the other until one does not hold (NFT_BREAK): what the ones
  before it have done, a mark that they set, stays.
* `accept`, and every NAT statement, ends the base chain that it is reached from, not the hook: base chains of a later
  priority still see the packet. `drop` and `reject` are final.
* `jump` comes back to the next rule, `goto` does not: where its chain ends, the packet goes on behind the jump that led
  to the chain with the goto, or to the base chain's policy.
* A verdict map without an element for the packet is a rule that does not match.
* `numgen random mod N` gives each of N numbers the same share; a number without an element does not match.

Chains and rules are understood when a walk first arrives at them, maps are indexed by the parts of their key that are
known of a packet. A statement that is not understood ends the walk with a packet of which nothing can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from ..model.fast_dataclass import dataclass
from ..model.nft import (
    Aside,
    Assign,
    Concat,
    Ct,
    Decide,
    Element,
    Expression,
    Flags,
    Hash,
    Limit,
    MapOf,
    Match,
    Meta,
    Nat,
    NftChain,
    NftRules,
    NftTable,
    Notrack,
    Numgen,
    Opaque,
    Payload,
    Prefix,
    Range,
    Reject,
    Rule,
    SetOf,
    SetRef,
    Statement,
    TableKey,
    Unknown,
    Update,
    Value,
    VerdictMap,
    render_element,
    render_statement,
    render_value,
)
from ..model.ranges import ALL, number, subtract
from .hooks import SOURCE_HOOKS, BaseChain
from .iptables import LOOPBACK_ADDRESSES
from .look_ahead import LookAhead, felt
from .nft_match import (
    Lookup,
    Part,
    address_ranges,
    calculable,
    calculate,
    canonical,
    flag_bits,
    has,
    named_bits,
    numbers_of,
    part_of,
    plain_address,
    slots,
)
from .packet import Chance, Doubt, Packet, Result, divide, negate
from .verdict import Verdict

FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
"""The tables that see a packet of each family. Those of arp, bridge and netdev see frames, before or beside routing."""

_JUMPS = 16
"""NFT_JUMP_STACK_SIZE: the kernel loads nothing deeper."""
_GOTOS = 1024
"""More chains than this in one walk of a base chain can only be a circle, which the kernel does not load either."""


class _Next(Enum):
    STATEMENT = "the next statement"
    RULE = "the next rule"
    RETURN = "return"


class _To(NamedTuple):
    """On to another chain."""

    chain: str
    jump: bool


_Action = _Next | _To | Verdict
_Outcome = bool | list[tuple[Packet, _Action]]
"""True: the statement holds and does nothing else. False: it does not hold."""

_Op = Callable[[Packet], _Outcome]


class _Compiled(NamedTuple):
    ops: tuple[_Op, ...]


class _Frame(NamedTuple):
    """Where a walk stands: the rules of a chain, the next of them, and where to go on when they end."""

    chain: _Chain
    position: int
    back: _Frame | None
    jumps: int
    gotos: int


class _Chain:
    """A chain whose rules are understood as they are reached."""

    __slots__ = ("compiled", "name", "rules")

    def __init__(self, chain: NftChain) -> None:
        self.name = chain.name
        self.rules = chain.rules
        self.compiled: list[_Compiled | None] = [None] * len(chain.rules)


class NftTableWalker:
    """One table, for packets of one family."""

    def __init__(self, table: NftTable, family: int) -> None:
        self.table = table
        self.family = family
        self.label = table.label
        self._chains: dict[str, _Chain] = {}
        self._lookups: dict[tuple[Expression, str], Lookup] = {}
        self.seconds: dict[str, int] = {}
        """How long an element stays, for sets whose rules say so themselves."""

    def forget(self) -> None:
        """Let go of what was understood."""
        self._chains.clear()
        self._lookups.clear()

    def chain(self, name: str) -> _Chain | None:
        """A chain by name; None when the dump has none of that name."""
        chain = self._chains.get(name)
        if chain is None:
            declared = self.table.chains.get(name)
            if declared is None:
                return None
            chain = self._chains[name] = _Chain(declared)
        return chain

    def lookup(self, key: Expression, data: SetRef | SetOf) -> Lookup | None:
        """The lookup of a key; None when the dump lacks the set. Named sets are indexed once for all rules that ask alike."""
        if isinstance(data, SetOf):
            return Lookup(key, data.elements, "the rule's own set")
        named = self.table.sets.get(data.name)
        if named is None:
            return None
        found = self._lookups.get((key, data.name))
        if found is None:
            found = self._lookups[key, data.name] = Lookup(key, named.elements, f"set {data.name}")
        return found

    def elements(self, data: SetRef | SetOf) -> Sequence[Element] | None:
        """The elements of a set or map; None when the dump lacks it."""
        if isinstance(data, SetOf):
            return data.elements
        named = self.table.sets.get(data.name)
        return None if named is None else named.elements

    def memory(self, name: str) -> str:
        """What a packet calls a set that remembers it."""
        return f"{self.label} {name}"

    def rule(self, chain: _Chain, position: int, *, nat: bool) -> _Compiled:
        """The rule at a position, understood."""
        compiled = chain.compiled[position]
        if compiled is None:
            compiled = chain.compiled[position] = _Compiler(self, chain.name, chain.rules[position], nat=nat).compile()
        return compiled


def _same_place(one: _Frame, other: _Frame) -> bool:
    return one.position == other.position and one.chain is other.chain and one.back is other.back


class NftBase:
    """One base chain, as a Runner (observe/hooks.py)."""

    def __init__(self, walker: NftTableWalker, chain: NftChain) -> None:
        self.walker = walker
        self.name = chain.name
        self.policy = chain.policy
        self.nat = chain.type == "nat"
        self._ahead = LookAhead()

    def run(self, packet: Packet) -> list[tuple[Verdict, Packet]]:
        """Walk a packet from the first rule to the verdict of each of its branches."""
        base = self.walker.chain(self.name)
        if base is None:
            return [(Verdict.ACCEPT, packet)]
        done: list[tuple[Verdict, Packet]] = []
        todo: list[tuple[Packet, _Frame | None, int]] = [(packet, _Frame(base, 0, None, 0, 0), 0)]
        while todo:
            branch, frame, at = todo.pop()
            self._follow(branch, frame, at, todo, done)
        return done

    def _follow(
        self,
        packet: Packet,
        frame: _Frame | None,
        at: int,
        todo: list[tuple[Packet, _Frame | None, int]],
        done: list[tuple[Verdict, Packet]],
        stop: _Frame | None = None,
    ) -> None:
        """Take one branch to its end, or back to `stop`; side branches go to `todo`.

        `at` is the statement of the frame's rule to begin with.
        """
        walker, budget = self.walker, packet.budget
        while True:
            budget.steps -= 1
            if budget.spent:
                done.append((Verdict.UNKNOWN, packet))  # the walk is given up, and whoever began it says why
                return
            if frame is not None and stop is not None and not at and _same_place(frame, stop):
                done.append((Verdict.BACK, packet))
                return
            if frame is None:
                done.append(self._by_policy(packet))
                return
            chain, index, back, jumps, gotos = frame
            if index >= len(chain.rules):
                frame, at = back, 0
                continue
            behind = _Frame(chain, index + 1, back, jumps, gotos)
            if packet.without is not None and packet.without(walker.label, chain.name, chain.rules[index], ""):
                frame, at = behind, 0
                continue
            ops = walker.rule(chain, index, nat=self.nat).ops
            while at < len(ops):
                outcome = ops[at](packet)
                at += 1
                if outcome is True:
                    continue
                if outcome is False:
                    break
                if len(outcome) > 1 and self._idle(packet, outcome, frame, at, behind):
                    break
                stay: Packet | None = None
                for branch, action in outcome:
                    if action is _Next.STATEMENT:
                        if stay is None:
                            stay = branch
                        else:
                            todo.append((branch, frame, at))
                    elif action is _Next.RULE:
                        todo.append((branch, behind, 0))
                    elif action is _Next.RETURN:
                        todo.append((branch, back, 0))
                    elif isinstance(action, Verdict):
                        done.append((action, branch))
                    else:
                        self._go(branch, action, behind, todo, done)
                if stay is None:
                    return
                packet = stay
            frame, at = behind, 0

    def _idle(
        self, packet: Packet, outcome: Sequence[tuple[Packet, _Action]], frame: _Frame, at: int, behind: _Frame
    ) -> bool:
        """True if a doubt forked the packet, and every branch comes to the next rule as the packet was."""
        if not any(len(branch.doubts) > len(packet.doubts) for branch, _ in outcome):
            return False

        def ahead() -> bool:
            todo: list[tuple[Packet, _Frame | None, int]] = []
            done: list[tuple[Verdict, Packet]] = []
            for branch, action in outcome:
                if action is _Next.STATEMENT:
                    todo.append((branch.copy(), frame, at))
                elif action is _Next.RULE:
                    todo.append((branch.copy(), behind, 0))
                elif isinstance(action, _To):
                    self._go(branch.copy(), action, behind, todo, done)
                else:
                    return False  # a return or a verdict
            return self._come_back(todo, done, behind, felt(packet))

        return self._ahead.idle((frame.chain.name, frame.position, at), packet, ahead)

    def _come_back(
        self, todo: list[tuple[Packet, _Frame | None, int]], done: list[tuple[Verdict, Packet]], stop: _Frame,
        state: tuple[object, ...],
    ) -> bool:  # fmt: skip
        """True if every branch comes to a frame in this state."""
        while todo:
            branch, frame, at = todo.pop()
            self._follow(branch, frame, at, todo, done, stop)
            if any(verdict is not Verdict.BACK or felt(end) != state for verdict, end in done):
                return False
            done.clear()
        return not done

    def _go(
        self,
        packet: Packet,
        to: _To,
        behind: _Frame,
        todo: list[tuple[Packet, _Frame | None, int]],
        done: list[tuple[Verdict, Packet]],
    ) -> None:
        inner = self.walker.chain(to.chain)
        jumps = behind.jumps + to.jump
        if inner is None:
            packet.unknown = f"chain {to.chain} of table {self.walker.label} is not in the dump"
        elif jumps > _JUMPS or behind.gotos > _GOTOS:
            packet.unknown = f"chains of table {self.walker.label} lead into each other deeper than the kernel allows"
        else:
            inside = _Frame(inner, 0, behind, jumps, behind.gotos + 1)

            def ahead() -> bool:
                return self._come_back([(packet.copy(), inside, 0)], [], behind, felt(packet))

            again = to.jump and self._ahead.entered_again(packet, (self.walker.label, to.chain))
            if again and self._ahead.idle((behind.chain.name, behind.position, to.chain), packet, ahead):
                todo.append((packet, behind, 0))
                return
            # A goto leaves no trace of its own chain: it comes back where that one would have. (Its depth stays what it was.)
            todo.append((packet, _Frame(inner, 0, behind if to.jump else behind.back, jumps, behind.gotos + 1), 0))
            return
        done.append((Verdict.UNKNOWN, packet))

    def _by_policy(self, packet: Packet) -> tuple[Verdict, Packet]:
        if self.policy != "drop":
            return Verdict.ACCEPT, packet
        told = f"(policy drop of chain {self.name}, table {self.walker.label})"
        if packet.without is not None and packet.without(self.walker.label, self.name, told, "DROP"):
            return Verdict.ACCEPT, packet
        packet.step(self.walker.label, self.name, told, "DROP")
        return Verdict.DROP, packet


# ---- rules ----------------------------------------------------------------------------------------------------------------


class _Compiler:
    """Makes the statements of one rule into something that can be carried out."""

    def __init__(self, walker: NftTableWalker, chain: str, rule: Rule, *, nat: bool) -> None:
        self.walker = walker
        self.label = walker.label
        self.chain = chain
        self.statements = rule.statements
        self.comment = rule.comment
        self.text = rule.text
        self.nat = nat
        self.pins = any(_pins(statement) for statement in self.statements)

    def compile(self) -> _Compiled:
        ops = []
        for position, statement in enumerate(self.statements):
            op = self._op(statement, position)
            if op is not None:
                ops.append(op)
        return _Compiled(tuple(ops))

    def _op(self, statement: Statement, position: int) -> _Op | None:
        match statement:
            case Match():
                return self._match(statement)
            case Decide():
                return lambda packet: [(packet, self._decided(packet, statement, self.text, self.pins))]
            case VerdictMap():
                return self._verdict_map(statement, position)
            case Assign():
                return self._assign(statement, position)
            case Nat():
                return self._translate(statement, position)
            case Reject():
                return self._reject
            case Update():
                return self._update(statement)
            case Notrack():
                return self._notrack
            case Aside():
                return None
            case Limit(text=text):
                answer = Doubt(f"whether {text} lets the packet through depends on what came before it")
                return lambda packet: _split(packet, answer)
            case Unknown(text=text):
                return self._unknown(f"rule not understood: {text}")

    # ---- what every statement needs -----------------------------------------------------------------------------------

    def _step(self, packet: Packet, target: str, text: str = "", *, pins: bool | None = None) -> None:
        packet.step(self.label, self.chain, text or self.text, target, pins=self.pins if pins is None else pins)

    def _unknown(self, why: str) -> _Op:
        def give_up(packet: Packet) -> _Outcome:
            self._step(packet, "?")
            packet.unknown = why
            return [(packet, Verdict.UNKNOWN)]

        return give_up

    def _showing(self, position: int, key: Expression) -> Callable[[Element], str]:
        """What shows the rule with only the element that decided in its map. Kept: packets come to the same one often."""
        kept: dict[int, str] = {}

        def show(element: Element) -> str:
            text = kept.get(id(element))
            if text is None:
                text = kept[id(element)] = self._shown(position, render_element(element, key))
            return text

        return show

    def _shown(self, position: int, element: str) -> str:
        """The rule with these words in its map's place."""
        parts = [
            render_statement(statement, deciding=element if n == position else "") for n, statement in enumerate(self.statements)
        ]
        text = " ".join(parts)
        return f'{text} comment "{self.comment}"' if self.comment else text

    def _decided(self, packet: Packet, decide: Decide, text: str, pins: bool) -> _Action:
        kind = decide.kind
        if kind == "continue":
            return _Next.RULE
        if kind in ("jump", "goto"):
            self._step(packet, decide.target, text, pins=pins)
            return _To(decide.target, kind == "jump")
        self._step(packet, kind.upper(), text, pins=pins)
        if kind == "return":
            return _Next.RETURN
        return Verdict.ACCEPT if kind == "accept" else Verdict.DROP

    # ---- matches ------------------------------------------------------------------------------------------------------

    def _match(self, match: Match) -> _Op | None:
        left, right, op = match.left, match.right, match.op
        shown = render_statement(match)
        try:
            if isinstance(left, Numgen):
                return _numbers(match, left)
            if isinstance(left, Hash):
                answer = Doubt(f"what {left.text} gives for a client is not in the dump")
                return lambda packet: _split(packet, answer)
            if isinstance(right, SetRef | SetOf):
                return self._in_set(match, right)
            if isinstance(left, Concat):
                values = right.parts if isinstance(right, Concat) else ()
                key = tuple(v for v in values if isinstance(v, int | str | Prefix | Range | Flags | Opaque))
                if len(key) != len(left.parts):
                    raise ValueError("a concatenation compared with something else")
                return _membership(Lookup(left, (Element(key),), "the rule"), negated=op == "!=")
            part = part_of(left)
            if op in ("<", ">", "<=", ">="):
                return _ordered(part, op, right)
            if not isinstance(right, int | str | Prefix | Range | Flags | Opaque):
                return _calculated(part, right, op)
            return _comparison(part, op, right)
        except ValueError as error:
            reason = Doubt(f"{shown} is not understood: {error}")
            return lambda packet: _split(packet, reason)

    def _in_set(self, match: Match, right: SetRef | SetOf) -> _Op:
        if isinstance(right, SetRef) and self._remembers(right.name):
            return self._in_memory(match, right.name)
        lookup = self.walker.lookup(match.left, right)
        if lookup is None:
            return self._unknown(f"set {render_value(right)} of table {self.label} is not in the dump")
        return _membership(lookup, negated=match.op == "!=")

    def _remembers(self, name: str) -> bool:
        """Whether a set is one of a NAT chain that traffic fills: kube-proxy's session affinity.

        What such a set holds at the moment says which clients are being served, not what a new one meets. Sets that a
        firewall fills, in chains that do no NAT, are taken as they were read.
        """
        named = self.walker.table.sets.get(name)
        return self.nat and named is not None and named.runtime

    def _in_memory(self, match: Match, name: str) -> _Op:
        memory, negated = self.walker.memory(name), match.op == "!="
        part = part_of(match.left)
        if not part.source or part.original:
            doubt = Doubt(f"set {name} remembers {render_value(match.left)}, which is not followed here")
            return lambda packet: _split(packet, doubt)
        timeout = self.walker.table.sets[name].timeout

        def remembered(packet: Packet) -> bool:
            if part.present is not None and not part.present(packet):
                return False
            held = memory in packet.memory
            if held and not negated and packet.seconds is None:
                packet.seconds = self.walker.seconds.get(memory, timeout)
            return held is not negated

        return remembered

    # ---- maps ---------------------------------------------------------------------------------------------------------

    def _verdict_map(self, statement: VerdictMap, position: int) -> _Op:
        chooser = self._chooser(statement.key, statement.data)
        if isinstance(chooser, str):
            return self._unknown(chooser)
        # A shared map that has nothing for the packet is worth a step of its own where it is the reason for a lost Service.
        named = statement.data.name if self.nat and isinstance(statement.data, SetRef) else ""
        nothing = self._shown(position, "no element for the packet")
        show = self._showing(position, statement.key)

        def look_up(packet: Packet) -> _Outcome:
            chosen, rest = chooser(packet)
            if not chosen:
                if named and rest is not None:
                    self._step(packet, named, nothing, pins=False)
                return False
            outcome: list[tuple[Packet, _Action]] = []
            for branch, element, pins in chosen:
                if not isinstance(element.data, Decide):
                    branch.unknown = f"element {render_element(element)} gives no verdict"
                    outcome.append((branch, Verdict.UNKNOWN))
                    continue
                outcome.append((branch, self._decided(branch, element.data, show(element), self.pins or pins)))
            if rest is not None:
                outcome.append((rest, _Next.RULE))
            return outcome

        return look_up

    def _chooser(self, key: Expression, data: SetRef | SetOf) -> _Chooser | str:
        """What finds the elements for a packet, or why there is none."""
        if isinstance(key, Numgen | Hash):
            elements = self.walker.elements(data)
            if elements is None:
                return f"map {render_value(data)} of table {self.label} is not in the dump"
            return _by_number(key, elements)
        lookup = self.walker.lookup(key, data)
        if lookup is None:
            return f"map {render_value(data)} of table {self.label} is not in the dump"
        return lambda packet: _by_key(lookup, packet)

    # ---- changes ------------------------------------------------------------------------------------------------------

    def _assign(self, statement: Assign, position: int) -> _Op | None:
        key, value = statement.key, statement.value
        if isinstance(key, Meta) and key.key == "mark":
            target = "MARK"
        elif isinstance(key, Ct) and key.key == "mark":
            target = "CONNMARK"
        elif _harmless(key):
            return None
        else:
            return self._unknown(f"{render_statement(statement)}: what this does to the packet's way is not known")

        def put(packet: Packet, mark: int, text: str = "") -> None:
            self._step(packet, target, text)
            if target == "MARK":
                packet.mark = mark & 0xFFFFFFFF
            elif packet.tracked:
                packet.ctmark = mark & 0xFFFFFFFF

        if calculable(value):

            def compute(packet: Packet) -> _Outcome:
                mark = calculate(value, packet)
                if mark is None:
                    return False
                put(packet, mark)
                return True

            return compute
        if isinstance(value, MapOf):
            chooser = self._chooser(value.key, value.data)
            if isinstance(chooser, str):
                return self._unknown(chooser)
            show = self._showing(position, value.key)

            def look_up(packet: Packet) -> _Outcome:
                chosen, rest = chooser(packet)
                outcome: list[tuple[Packet, _Action]] = [] if rest is None else [(rest, _Next.RULE)]
                for branch, element, _ in chosen:
                    data = element.data
                    if isinstance(data, tuple) and len(data) == 1 and isinstance(data[0], int):
                        put(branch, data[0], show(element))
                        outcome.append((branch, _Next.STATEMENT))
                    else:
                        branch.unknown = f"element {render_element(element)} gives no mark"
                        outcome.append((branch, Verdict.UNKNOWN))
                return outcome

            return look_up
        return self._unknown(f"{render_statement(statement)}: which mark this gives is not in the dump")

    def _update(self, statement: Update) -> _Op | None:
        name = statement.set
        limit = Doubt(f"whether set {name} still has room for the client is not in the dump")
        if not self.nat:
            return (lambda packet: _split(packet, limit)) if statement.limited else None
        part = part_of(statement.key)
        if not part.source or part.original:
            return self._unknown(f"{render_statement(statement)}: remembers something else than the client")
        memory = self.walker.memory(name)

        def remember(packet: Packet) -> _Outcome:
            if part.present is not None and not part.present(packet):
                return False
            if statement.op == "delete":
                packet.remembered = packet.remembered - {memory}
            else:
                packet.remembered = packet.remembered | {memory}
                if statement.timeout is not None:
                    self.walker.seconds[memory] = statement.timeout
            return _split(packet, limit) if statement.limited else True

        return remember

    def _notrack(self, packet: Packet) -> _Outcome:
        self._step(packet, "NOTRACK")
        if not packet.tracked:  # nft_notrack_eval: a connection that is known is left alone
            packet.untracked = True
        return True

    def _reject(self, packet: Packet) -> _Outcome:
        self._step(packet, "REJECT")
        return [(packet, Verdict.REJECT)]

    # ---- NAT ----------------------------------------------------------------------------------------------------------

    def _translate(self, nat: Nat, position: int) -> _Op:
        if (nat.family == "ip" and self.walker.family == 6) or (nat.family == "ip6" and self.walker.family == 4):
            return lambda _: False  # nft_nat.c: another family's packets are not for it
        if nat.kind == "masquerade":
            return self._masquerade
        if nat.kind == "redirect":
            return self._redirect(nat)
        where = nat.address
        if "netmap" in nat.flags or where is None or isinstance(nat.port, MapOf):
            return self._unknown(f"{render_statement(nat)}: more than one destination, or none that is understood")
        if isinstance(where, MapOf):
            chooser = self._chooser(where.key, where.data)
            if isinstance(chooser, str):
                return self._unknown(chooser)
            show = self._showing(position, where.key)

            def look_up(packet: Packet) -> _Outcome:
                chosen, rest = chooser(packet)
                outcome: list[tuple[Packet, _Action]] = [] if rest is None else [(rest, _Next.RULE)]
                for branch, element, pins in chosen:
                    data = element.data if isinstance(element.data, tuple) else ()
                    outcome.append((branch, self._change(nat, branch, data, show(element), pins)))
                return outcome

            return look_up
        data = tuple(
            v for v in (where.parts if isinstance(where, Concat) else (where,)) if isinstance(v, int | str | Prefix | Range)
        )
        return lambda packet: [(packet, self._change(nat, packet, data, self.text, False))]

    def _change(self, nat: Nat, packet: Packet, data: tuple[Value, ...], text: str, pins: bool) -> _Action:
        self._step(packet, nat.kind.upper(), text, pins=self.pins or pins)
        try:
            if not 1 <= len(data) <= 2:
                raise ValueError("neither an address nor an address with a port")
            port: Value | None = data[1] if len(data) == 2 else None
            if isinstance(nat.port, int | Range):
                port = nat.port
            elif nat.port is not None:
                raise ValueError(f"port {render_value(nat.port)}")
            if nat.kind == "snat":
                return self._leave_as(packet, data[0])
            address = plain_address(data[0])
            if port is not None and not isinstance(port, int):
                if not isinstance(port, Range) or port.low != port.high or not isinstance(port.low, int):
                    raise ValueError("more than one port")
                port = port.low
            if port is not None and not 0 < port < 65536:
                raise ValueError(f"port {port}")
        except ValueError as error:
            packet.unknown = f"{text}: more than one destination, or none that is understood ({error})"
            return Verdict.UNKNOWN
        packet.dst = address
        if port is not None:
            packet.dport = port
        packet.bound_dst = True
        return Verdict.ACCEPT

    def _leave_as(self, packet: Packet, value: Value) -> _Action:
        ranges = address_ranges(value)
        low, high = ranges[0]
        own = all(packet.ctx.is_local(end) for end in (low, high))
        packet.masquerade = "node" if own else canonical(low, self.walker.family)
        packet.left_as = ranges
        packet.bound_src = True
        return Verdict.ACCEPT

    def _masquerade(self, packet: Packet) -> _Outcome:
        self._step(packet, "MASQUERADE")
        packet.masquerade, packet.bound_src = "node", True
        family = self.walker.family
        packet.left_as = subtract(packet.ctx.local, LOOPBACK_ADDRESSES[family]) or ALL[family]
        return [(packet, Verdict.ACCEPT)]

    def _redirect(self, nat: Nat) -> _Op:
        def redirect(packet: Packet) -> _Outcome:
            self._step(packet, "REDIRECT")
            port = packet.dport if nat.port is None else nat.port
            # nf_nat_redirect.c: loopback for the node's own packets; for others an address of the interface that they came
            # in by, or a drop where it has none, as the host's end of many CNIs' veth pairs.
            if not isinstance(port, int) or not packet.from_node:
                packet.unknown = f"{self.text}: to whatever address the packet's interface has, or more than one port"
                return [(packet, Verdict.UNKNOWN)]
            packet.dst = number("::1" if self.walker.family == 6 else "127.0.0.1")
            packet.dport, packet.bound_dst = port, True
            return [(packet, Verdict.ACCEPT)]

        return redirect


def _harmless(key: Expression) -> bool:
    """Whether what an assignment changes has no part in where a packet goes or what a rule of kube-proxy's asks."""
    match key:
        case Meta(key="priority" | "nftrace" | "secmark"):
            return True
        case Ct(key="label" | "event" | "helper" | "timeout" | "expectation" | "secmark"):
            return True
        case Payload(protocol="ip" | "ip6", field="dscp" | "ecn" | "ttl" | "hoplimit" | "flowlabel"):
            return True
        case Opaque(text=text):
            return text.startswith("tcp option ")
    return False


def _pins(statement: Statement) -> bool:
    """Whether a match singles out one address or one port to dial."""
    if not isinstance(statement, Match) or statement.op not in ("==", "in"):
        return False
    left = statement.left.parts if isinstance(statement.left, Concat) else (statement.left,)
    right: Expression | None = statement.right
    if isinstance(right, SetOf):
        return len(right.elements) == 1 and any(part_of(e).dials for e in left)
    return isinstance(right, int | str) and any(part_of(e).dials for e in left)


def _split(packet: Packet, answer: Result) -> _Outcome:
    if isinstance(answer, bool):
        return answer
    yes, no = divide(packet, [answer])
    if not no:
        return True if yes[0] is packet else [(yes[0], _Next.STATEMENT)]
    if not yes:
        return False
    return [*((p, _Next.STATEMENT) for p in yes), *((p, _Next.RULE) for p in no)]


def _membership(lookup: Lookup, *, negated: bool) -> _Op:
    def test(packet: Packet) -> _Outcome:
        answer = lookup.member(packet)
        if answer is None:
            return False
        return _split(packet, negate(answer, packet.ctx) if negated else answer)

    return test


def _comparison(part: Part, op: str, right: Value) -> _Op:
    """One value, or names of bits: `ct state established,related` holds for any of them, `==` for exactly those."""
    negated = op == "!="
    exact = part.exact
    if part.flags:
        bits = flag_bits(right)

        def test_flags(packet: Packet) -> bool:
            value = exact(packet) if exact else None
            if not isinstance(value, int):
                return False
            return bool(value & bits) if op == "in" else (value == bits) is not negated

        return test_flags
    names: Sequence[Value] = right.names if isinstance(right, Flags) else (right,)
    if part.bits is not None:
        names = [name for value in names for name in named_bits(value, part.bits)]
    if op == "==" and part.bits is not None:
        if exact is None:
            raise ValueError("all bits of a state that is known in part")
        if len(names) > 1:
            return lambda _: False  # a connection is in one state at a time
    items = [part.read(name) for name in names]
    if exact is not None and part.present is None and len(items) == 1:
        only = items[0]

        def test_one(packet: Packet) -> bool:
            value = exact(packet)
            return value is not None and has(only, value) is not negated

        return test_one

    def test(packet: Packet) -> _Outcome:
        if part.present is not None and not part.present(packet):
            return False
        if exact is not None:
            value = exact(packet)
            if value is None:
                return False
            return any(has(item, value) for item in items) is not negated
        answers = [part.answer(item, packet) for item in items]
        answer = True if True in answers else next((a for a in answers if a is not False), False)
        if isinstance(answer, Doubt) and len(answers) > 1:
            answer = Doubt(answer.reason)  # of several names: which of them would hold is not this one's fact
        return _split(packet, negate(answer, packet.ctx) if negated else answer)

    return test


def _ordered(part: Part, op: str, right: Expression) -> _Op:
    exact = part.exact
    if not isinstance(right, int) or exact is None:
        if not isinstance(right, str) or exact is None or not part.dials:
            raise ValueError("an order over something that is no known number")
        limit = plain_address(right)
    else:
        limit = right

    def test(packet: Packet) -> bool:
        value = exact(packet)
        return isinstance(value, int) and _compare(value, op, limit)

    return test


def _compare(value: int, op: str, limit: int) -> bool:
    return {"<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit}[op]


def _calculated(part: Part, right: Expression, op: str) -> _Op:
    """`meta mark ct mark`: two things of the packet's own compared."""
    exact = part.exact
    if exact is None or not calculable(right):
        raise ValueError("compared with something that is not known")

    def test(packet: Packet) -> bool:
        mine, other = exact(packet), calculate(right, packet)
        if mine is None or other is None:
            return False
        return (mine == other) is not (op == "!=")

    return test


def _numbers(match: Match, numgen: Numgen) -> _Op:
    """`numgen random mod 100 < 50`: a share."""
    possible = range(numgen.offset, numgen.offset + numgen.mod)
    if match.op in ("<", ">", "<=", ">="):
        if not isinstance(match.right, int):
            raise ValueError("an order over something that is no number")
        limit = match.right
        low, high = possible[0], possible[-1]
        kept = {
            "<": (low, min(high, limit - 1)), "<=": (low, min(high, limit)),
            ">": (max(low, limit + 1), high), ">=": (max(low, limit), high),
        }[match.op]  # fmt: skip
        count = max(0, kept[1] - kept[0] + 1)
    else:
        count = sum(
            max(0, min(high, possible[-1]) - max(low, possible[0]) + 1) for low, high in numbers_of(match.right)
        )
        if match.op == "!=":
            count = numgen.mod - count
    answer = Chance(count / numgen.mod)
    return lambda packet: _split(packet, answer)


# ---- maps -----------------------------------------------------------------------------------------------------------------

_Chosen = tuple[list[tuple[Packet, Element, bool]], Packet | None]
"""(branch, its element, whether that singles out an address or port) each, and the branch without an element."""
_Chooser = Callable[[Packet], _Chosen]


def _by_key(lookup: Lookup, packet: Packet) -> _Chosen:
    candidates = lookup.candidates(packet)
    if candidates is None:
        return [], None
    chosen: list[tuple[Packet, Element, bool]] = []
    rest = [packet]
    for candidate in candidates:
        # What is certain splits first: a doubt that only matters to some sources is not one for the others.
        conditions = sorted(candidate.conditions, key=lambda c: isinstance(c, Doubt))
        again: list[Packet] = []
        for branch in rest:
            yes, no = divide(branch, conditions) if conditions else ([branch], [])
            chosen.extend((p, candidate.element, lookup.dials and candidate.element is not lookup.catch_all) for p in yes)
            again.extend(no)
        rest = again
        if not rest:
            break
    if len(rest) > 1:
        # Doubts and sources made several of it; each goes on as one that found nothing.
        return [*chosen, *((p, _NOTHING, False) for p in rest[1:])], rest[0]
    return chosen, rest[0] if rest else None


_NOTHING = Element(("*",), Decide("continue"))


def _by_number(numbers: Numgen | Hash, elements: Sequence[Element]) -> _Chooser:
    """A share for each element by how many of the numbers lead to it; of what the packet itself decides, a doubt for each."""
    counted: list[tuple[Element, int]] = []
    left = numbers.mod
    trouble = ""
    for element in elements:
        count = slots(element, numbers)
        if count is None:
            trouble = f"element {render_element(element)} is none of {render_value(numbers)}"
            continue
        count = min(count, left)
        if count:
            counted.append((element, count))
            left -= count
    whole = numbers.mod
    none = Element(("*",), ())

    def choose(packet: Packet) -> _Chosen:
        if trouble:
            other = packet.copy()
            other.unknown = trouble
            return [(other, none, False)], None
        if isinstance(numbers, Hash):
            return _by_hash(numbers, counted, packet, covered=not left)
        if len(counted) == 1 and not left:
            return [(packet, counted[0][0], False)], None
        chosen = []
        for element, count in counted:
            branch = packet.copy()
            branch.weight = packet.weight * count / whole
            chosen.append((branch, element, False))
        rest = None
        if left:
            rest = packet.copy()
            rest.weight = packet.weight * left / whole
        return chosen, rest

    return choose


def _by_hash(numbers: Hash, counted: Sequence[tuple[Element, int]], packet: Packet, *, covered: bool) -> _Chosen:
    chosen: list[tuple[Packet, Element, bool]] = []
    rest = packet
    answer = Doubt(f"what {numbers.text} gives for a client is not in the dump")
    for n, (element, _) in enumerate(counted):
        if covered and n == len(counted) - 1:
            return [*chosen, (rest, element, False)], None
        yes, no = divide(rest, [answer])
        chosen.append((yes[0], element, False))
        rest = no[0]
    return chosen, rest


# ---- base chains ----------------------------------------------------------------------------------------------------------


def base_chains(rules: NftRules, family: int, *, skip_tables: Collection[TableKey] = ()) -> dict[str, list[BaseChain]]:
    """The base chains that see packets of a family (4 or 6), hook by hook.

    `skip_tables` are (family, name) of tables that are walked otherwise: what iptables-save has printed of iptables-nft's
    own. At one priority the kernel asks the chain first that was hooked in last (nf_hook_entries_grow inserts before its
    equals), and nft prints tables in the order in which they were made: so the later table comes first.
    """
    hooks: dict[str, list[BaseChain]] = {}
    for key, table in reversed(list(rules.tables.items())):
        if key in skip_tables or table.family not in FAMILIES[family] or table.dormant:
            continue
        walker = NftTableWalker(table, family)
        for chain in reversed(table.based):
            hook = chain.hook.upper()
            if hook in _HOOKS:
                base = BaseChain(
                    priority=chain.priority, nat=chain.type == "nat", runner=NftBase(walker, chain),
                    label=f"{table.label} {chain.name}",
                )  # fmt: skip
                hooks.setdefault(hook, []).append(base)
    return hooks


def forget(hooks: Mapping[str, Sequence[BaseChain]]) -> None:
    """Let go of what walks have understood, which refers to the walkers themselves.

    Else a node's rules would stay until somebody looks for cycles, which is seldom done.
    """
    for base in (base for bases in hooks.values() for base in bases):
        if isinstance(base.runner, NftBase):
            base.runner.walker.forget()


_HOOKS = frozenset(("PREROUTING", "FORWARD", "OUTPUT", *SOURCE_HOOKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Base chains that were read and are not walked."""

    table: TableKey
    chains: tuple[str, ...]
    why: str


def not_walked(rules: NftRules) -> list[Passed]:
    """Tables with base chains that see packets elsewhere than where they are routed, and why that is left out."""
    reasons = {
        "arp": "it sees ARP, not the packets of connections",
        "bridge": "it sees frames on bridges; what is routed passes it by",
        "netdev": "it sees frames of single devices before they are routed",
    }
    found = []
    for key, table in rules.tables.items():
        if table.dormant:
            continue
        based = table.based
        if table.family in reasons:
            if based:
                found.append(Passed(table=key, chains=_names(based), why=reasons[table.family]))
        elif early := [chain for chain in based if chain.hook in ("ingress", "egress")]:
            found.append(Passed(table=key, chains=_names(early), why="it sees frames of single devices before they are routed"))
    return found


def _names(chains: Iterable[NftChain]) -> tuple[str, ...]:
    return tuple(chain.name for chain in chains)
