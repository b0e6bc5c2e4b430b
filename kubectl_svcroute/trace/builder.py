"""One question put to an audited node, and its answer as a tree of hops, forks, ends and exits.

* Each set of sources that the node treats alike is a way of its own (`model.trace.Way`);
* where an unknown did not matter one of its sides is told, where it did both are, without a share;
* up to the DNAT the ends share their steps as a tree does, behind it ends with the same steps share an exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..checks.case import expected_text
from ..checks.observation import Answered, Disturbance, Observation, Result, Unsure
from ..errors import UsageError
from ..model.cluster import Service
from ..model.fast_dataclass import replace
from ..model.net import Backend, FrontendKind
from ..model.plan import Expectation, PortPlan
from ..model.ranges import contains, describe, number, single, union
from ..model.report import Unverified
from ..model.routes import Action, Client
from ..model.trace import Branch, Command, Ending, Exit, Hop, Role, Trace, Way
from ..model.walk_result import Atom, End, Observed, Step
from ..observe.hooks import walk
from ..observe.shares import CLOSE
from .explanations import ENTRY, Reasons, Told
from .question import Question, TracedNode
from .rule_words import asks, does, show_rule

_FINAL = frozenset(
    ("ACCEPT", "RETURN", "DROP", "REJECT", "DNAT", "REDIRECT", "SNAT", "MASQUERADE", "MARK", "CONNMARK", "CT", "NOTRACK", "?")
)
"""Targets that are no chains."""
_NOTHING_FOUND = "{ no element for the packet }"
_ANY = ("every packet that comes here", "all that is left")


class Telling(Reasons):
    """One question, and everything that its answer is made of."""

    def __init__(
        self, question: Question, service: Service, traced: TracedNode, general: tuple[Unverified, ...]
    ) -> None:
        super().__init__(question, service, traced)
        self.traced = traced
        self.result = traced.audited.result
        self.general = general
        self.expectations = self._expectations()
        self.notes: list[str] = []

    def tell(self, base: Trace) -> Trace:
        """The trace: `base` with everything that was asked for."""
        observations: list[Observation] = []
        unsure: list[Unsure] = []
        ways: list[Way] = []
        for expectation in self.expectations:
            answers = self.asked.again(expectation)
            found = [answer for answer in answers if isinstance(answer, Observation)]
            observations += found
            unsure += [answer for answer in answers if isinstance(answer, Unsure)]
            self._others(answers)
            masquerade_wrong = any(o.code.startswith("SR3") for o in found)
            if any(isinstance(answer, Answered) for answer in answers):
                # A process of the node answers, so that the packet is to be left alone.
                expectation = replace(expectation, action=Action.PASS, backends=())  # noqa: PLW2901
            ways += self._ways(expectation, masquerade_wrong=masquerade_wrong)
        wide = [o for o in self.traced.observations if o.frontend is None]
        everything = self.traced.findings([*observations, *wide])
        alone = self.traced.findings(wide)
        mine = tuple(f for f in everything if f not in alone)
        said = {f.code for f in everything}
        reasons = tuple(
            Unverified(code=u.code, node=self.node.name, service=self.service.key, reason=u.reason, evidence=u.evidence)
            for u in dict.fromkeys(unsure)
        )
        return replace(
            base,
            frontend=self.frontend,
            port=str(self.asked.plan.port),
            mark=self.mark,
            mark_chain=self.marks.mark,
            test_chain=self.marks.postrouting,
            ways=tuple(ways),
            findings=mine,
            beside=tuple(f for f in alone if f in everything),
            elsewhere=tuple(f for f in self.result.findings if f.code not in said),
            unverified=self.general + reasons,
            commands=tuple(self._commands(ways)),
            notes=(*base.notes, *dict.fromkeys(self.notes)),
        )

    def _others(self, answers: Iterable[Result]) -> None:
        """Note what other programs' rules may do."""
        effects: dict[str, dict[str, None]] = {}
        for answer in answers:
            if isinstance(answer, Disturbance):
                effects.setdefault(answer.program, {})[answer.effect] = None
        for program, can in effects.items():
            self.notes.append(f"rules of {program} can {' or '.join(can)} these packets, and were not judged (SR911)")

    # ---- whose packets ----------------------------------------------------------------------------------------------

    def _expectations(self) -> list[Expectation]:
        plan = self.asked.plan
        wanted = {self.client, Client.STRANGER} if self.client is Client.OUTSIDE else {self.client}
        found = [e for e in plan.expectations if e.frontend == self.frontend and e.client in wanted]
        if self.client is Client.HAIRPIN:
            return self._hairpin(plan, found)
        if not found:
            who = {
                Client.POD: f"node {self.node.name} has no addresses for pods, as far as the API shows",
                Client.NODE: f"the API shows no address of node {self.node.name}",
            }.get(self.client, "nothing is known of such clients")
            reach = sorted({str(e.client) for e in plan.expectations if e.frontend == self.frontend} - {"stranger"})
            if self.frontend.address == "127.0.0.1" or self.frontend.kind is FrontendKind.HEALTH_CHECK:
                who = f"only {' and '.join(reach)} clients dial that"
            raise UsageError(f"--from {self.client}: no such packet to {self.frontend} ({self.frontend.kind}): {who}")
        return found

    def _hairpin(self, plan: PortPlan, found: list[Expectation]) -> list[Expectation]:
        """One endpoint on this node, and no other, dials its own Service."""
        used = dict.fromkeys((*plan.selection.local, *plan.selection.cluster))
        for backend in used:
            known = plan.selection.known[backend]
            for expectation in found:
                if known.local and contains(expectation.sources, number(backend.address)):
                    self.source = known
                    return [replace(expectation, sources=single(number(backend.address)))]
        where = sorted({c.endpoint.node for b, c in plan.selection.known.items() if b in used and c.endpoint.node})
        hint = f"; there are some on {', '.join(where[:5])}" if where else ""
        if self.node.name in where:
            hint = ": those that it has run in the node's own network, and dial as the node does (--from node)"
        raise UsageError(f"--from hairpin: {self.service.key} has no endpoint of its own address on {self.node.name}{hint}")

    # ---- ways -------------------------------------------------------------------------------------------------------

    def _ways(self, expectation: Expectation, *, masquerade_wrong: bool) -> Iterable[Way]:
        from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
        observed = self.asked.asker.ask(
            expectation.frontend, expectation.sources, from_node=expectation.from_node, from_pod=from_pod
        )
        groups: list[list[Atom]] = []
        for atom in observed.atoms:
            same = next((g for g in groups if g[0].shares == atom.shares and g[0].unknown == atom.unknown), None)
            if same is not None:
                same.append(atom)
            else:
                groups.append([atom])
        for group in groups:
            alone = len(groups) == 1
            yield self._way(expectation, observed, group, alone=alone, masquerade_wrong=masquerade_wrong)

    def _way(
        self, expectation: Expectation, observed: Observed, atoms: Sequence[Atom], *, alone: bool, masquerade_wrong: bool
    ) -> Way:
        """What becomes of some sources: told of the first, where others have rules of their own that do the same."""
        atom = atoms[0]
        told = self._told(atom)
        sources = union(a.sources for a in atoms)
        family = self.frontend.family
        who = self._who(expectation, sources, alone=alone)
        if not alone and expectation.client is not Client.NODE:
            who += f": {describe(sources, family)}"
        alike = ""
        if len(atoms) > 1:
            rest = describe(union(a.sources for a in atoms[1:]), family)
            alike = f"told of {describe(atom.sources, family)}; of {rest} other rules say the same"
        exits, exit_of = self._exits(expectation, told, masquerade_wrong=masquerade_wrong)
        tree = self._branch(expectation, told, exit_of, 0)
        reached = {t.end.backend for t in told}
        missing: tuple[Ending, ...] = ()
        if expectation.action is Action.TRANSLATE and atom.unknown_share <= CLOSE:
            fair = 1 / len(expectation.backends)
            missing = tuple(
                replace(self._place(backend), action=None, share=0.0, should=fair, wrong="gets no connection")
                for backend in expectation.backends
                if backend not in reached
            )
        affinity, rule = self._affinity(expectation, observed, told)
        return Way(
            client=expectation.client,
            sources=who,
            expected=self._expected(expectation),
            tree=tree,
            exits=exits,
            missing=missing,
            unknown=atom.unknown if atom.unknown_share > CLOSE else (),
            alike=alike,
            affinity=affinity,
            affinity_rule=rule,
        )

    def _told(self, atom: Atom) -> list[Told]:
        """The ends of an atom with the shares that they are told with, each way once."""
        found: dict[tuple[Any, ...], Told] = {}
        for end, share, unknown in self._certain(atom.ends, 0):
            way = tuple(step for step in end.way if not step.rule.endswith(_NOTHING_FOUND))
            cut = max((n + 1 for n, s in enumerate(way) if s.target in ("DNAT", "REDIRECT") and s.hook in ENTRY), default=0)
            if not cut:
                first = way[0].hook if way else ""
                cut = next((n for n, s in enumerate(way) if s.hook != first), len(way))
            key = (way, end.action, end.backend, end.masquerade, unknown)
            before = found.get(key)
            found[key] = Told(end, share + (before.share if before else 0.0), unknown, way[:cut], way[cut:])
        told = list(found.values())
        if self.nft:
            told.sort(key=lambda t: t.end.backend or Backend("", 0))  # a map has no order of its own
        return told

    def _certain(self, ends: Sequence[End], depth: int) -> list[tuple[End, float, str]]:
        """The ends with their shares: of a doubt that does not matter one side, of one that does both, and its reason."""
        found: list[tuple[End, float, str]] = []
        forks: dict[int, tuple[list[End], list[End], str]] = {}
        for end in ends:
            if len(end.doubts) <= depth:
                found.append((end, end.weight, end.unknown if end.action is None else ""))
                continue
            fork, taken, reason = end.doubts[depth]
            sides = forks.setdefault(fork, ([], [], reason))
            (sides[0] if taken else sides[1]).append(end)
        for with_it, without, reason in forks.values():
            if not with_it or not without:
                found += self._certain(with_it or without, depth + 1)
                continue
            one, other = self._certain(with_it, depth + 1), self._certain(without, depth + 1)
            if _shares(one) == _shares(other):
                self.notes.append(f"not known, and without effect on this way: {reason}")
                found += other
            else:
                found += [(end, share / 2, unknown or reason) for end, share, unknown in (*one, *other)]
        return found

    def _branch(self, expectation: Expectation, told: Sequence[Told], exit_of: dict[int, int], start: int) -> Branch:
        """The tree of what some ends share from a step on."""
        at = start
        heads = [t.head for t in told]
        shortest = min(map(len, heads))
        while at < shortest and all(head[at] == heads[0][at] for head in heads):
            at += 1
        share = sum(t.share for t in told)
        hops = tuple(self._hops(told[0].head, start, at, fork=len(told) > 1))
        if len(told) == 1:
            return Branch(share=share, hops=hops, end=self._ending(expectation, told[0], exit_of.get(id(told[0]))))
        groups: dict[tuple[Any, ...], list[Told]] = {}
        for t in told:
            # What has no further step ends here, each for itself.
            groups.setdefault((t.head[at],) if len(t.head) > at else (None, id(t)), []).append(t)
        if len(groups) == 1:  # the same steps, and different ends: they are told apart by their exits
            groups = {(n,): [t] for n, t in enumerate(told)}
        branches = tuple(self._branch(expectation, group, exit_of, at) for group in groups.values())
        return Branch(share=share, hops=hops, branches=branches)

    # ---- hops -------------------------------------------------------------------------------------------------------

    def _hops(self, way: Sequence[Step], start: int, stop: int, *, fork: bool = False) -> Iterable[Hop]:
        for n in range(start, stop):
            step = way[n]
            after = way[n + 1] if n + 1 < len(way) else None
            entered = after is not None and after.chain == step.target and (after.hook, after.table) == (step.hook, step.table)
            # The branches behind a fork go on in the chain that the last common step leads to.
            yield self._hop(step, entered=entered or (fork and n == stop - 1))

    def _hop(self, step: Step, *, entered: bool) -> Hop:
        foreign = self._foreign(step)
        role = self._role(step, entered=entered, foreign=foreign)
        shared = not self.marks.of_service(step.chain)
        table = step.table if self.nft else step.table.partition(" ")[2]
        return Hop(
            role=role,
            hook=step.hook,
            table=table,
            chain=step.chain,
            target=step.target,
            rule=step.rule,
            words=f"{asks(step.rule, any_=_ANY[role is Role.CHOOSE])}: {does(step, role, nft=self.nft, foreign=foreign)}",
            why=self._why(step, role, entered=entered),
            foreign=foreign,
            command=show_rule(step, shared=shared),
        )

    def _role(self, step: Step, *, entered: bool, foreign: bool) -> Role:
        target, marks = step.target, self.marks
        if target == "?":
            return Role.UNKNOWN
        if target in ("DROP", "REJECT"):
            return Role.STOP
        if target in ("DNAT", "REDIRECT"):
            return Role.TRANSLATE
        if target in ("MASQUERADE", "SNAT"):
            return Role.MASQUERADE
        if target == "ACCEPT":
            return Role.ACCEPT
        if foreign:
            return Role.OTHER if target in _FINAL or entered else Role.LOOK
        if target == "MARK":
            if step.chain == marks.postrouting:
                return Role.CLEAR
            return Role.DROP_MARK if "DROP" in step.chain else Role.MARK
        if step.chain == marks.postrouting and target == "RETURN":
            return Role.UNMARKED
        if target == marks.postrouting and not entered:
            return Role.UNMARKED
        if target in _FINAL:
            return Role.OTHER
        if target == marks.mark:
            return Role.ASK
        if step.pins and not marks.of_service(step.chain) and marks.of_service(target):
            return Role.FIND if entered or step.table.endswith(marks.table) else Role.LOOK
        if not entered:
            return Role.LOOK
        if target.startswith(("KUBE-SEP-", "endpoint-")):
            return Role.CHOOSE
        if marks.of_service(target) or target == "KUBE-MARK-DROP":
            return Role.THROUGH
        return Role.ENTER

    # ---- marks ------------------------------------------------------------------------------------------------------

    def _asked(self, way: Sequence[Step]) -> Step | None:
        """The step that asked for masquerade by the mark."""
        for step in way:
            if step.hook not in ENTRY or self._foreign(step):
                continue
            if self.marks.mark and step.target == self.marks.mark:
                return step
            if step.target == "MARK" and "DROP" not in step.chain and step.chain != self.marks.postrouting:
                return step
        return None

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _ending(self, expectation: Expectation, told: Told, exit_: int | None) -> Ending:
        end = told.end
        place = self._place(end.backend) if end.backend is not None else Ending(action=None, share=0.0, should=None)
        should: float | None = None
        wrong = ""
        if told.unknown or end.action is None:
            return replace(place, action=end.action.value if end.action else None, share=told.share, exit=exit_,
                           unknown=told.unknown or end.unknown)  # fmt: skip
        allowed = {expectation.action, *expectation.also}
        if expectation.action is Action.TRANSLATE:
            should = 0.0
            if end.action is Action.TRANSLATE and end.backend in expectation.backends:
                should = 1 / len(expectation.backends)
            elif end.action is Action.TRANSLATE:
                wrong = "should get no connection" if place.state else "is no endpoint of the Service"
            elif end.action not in allowed:
                wrong = "should reach an endpoint"
            if not wrong and should and abs(told.share - should) > 1e-4 + 2 * self.view.behaviour.share_tolerance:
                wrong = "its share is not even"
        elif end.action not in allowed:
            wrong = f"should be {expected_text(expectation)}"
        return replace(place, action=end.action.value, share=told.share, should=should, exit=exit_, wrong=wrong)

    def _exits(
        self, expectation: Expectation, told: Sequence[Told], *, masquerade_wrong: bool
    ) -> tuple[tuple[Exit, ...], dict[int, int]]:
        groups: dict[tuple[Any, ...], list[Told]] = {}
        for t in told:
            if not t.tail and t.end.action is not Action.TRANSLATE:
                continue  # stopped before
            hidden = t.end.action is not Action.TRANSLATE
            key = (t.tail, t.end.action, t.end.masquerade, self._asked(t.head) is None, t.end.local, hidden, t.unknown)
            groups.setdefault(key, []).append(t)
        exits: list[Exit] = []
        exit_of: dict[int, int] = {}
        several = len(groups) > 1 or sum(map(len, groups.values())) < len(told)
        for n, group in enumerate(groups.values()):
            exit_of.update((id(t), n) for t in group)
            exits.append(self._exit(expectation, group, several=several, masquerade_wrong=masquerade_wrong))
        return tuple(exits), exit_of

    def _exit(self, expectation: Expectation, group: list[Told], *, several: bool, masquerade_wrong: bool) -> Exit:
        first = group[0]
        end = first.end
        asked = self._asked(first.head)
        source, answer = self._answer(expectation, group)
        hairpin = self.source is not None and end.backend == self.source.backend
        wanted: set[bool | None] = set()
        if expectation.action is Action.TRANSLATE:
            mine = number(self.source.backend.address) if self.source else None
            legs = {leg.backend: leg.masquerade for leg, _ in expectation.route(mine).legs}
            wanted = {legs.get(t.end.backend) for t in group}
        masquerade = bool(end.masquerade)
        wrong = masquerade_wrong and not end.local and (not masquerade) in wanted
        if end.action is Action.TRANSLATE and asked is None and masquerade and first.tail and not wrong:
            reason = "no mark is needed: POSTROUTING itself sees that the endpoint was sent to itself"
            if not hairpin:
                reason = "kube-proxy's mark was not asked for; another rule changes the source"
        else:
            reason = self._mark_reason(asked) if asked is not None else self._unmarked_reason(group)
            if wrong and asked is None and not masquerade:
                reason = "no rule asks for it, and one should"
            elif wrong and asked is not None and not masquerade:
                reason += f"; but {self.marks.postrouting} does not masquerade it"
            elif wrong and asked is not None:
                reason = "a rule asks for it, and none should"
        if wrong and masquerade:
            answer += " But its source should be kept: now the endpoint does not see who its client is."
        elif wrong and hairpin:
            answer = (
                "The pod sees its own address as the sender, and answers to itself without ever leaving its own network: from an"
                " address that it never dialled. It waits for another answer in vain."
            )
        elif wrong:
            answer = (
                f"Nothing makes the answer come back here. The endpoint answers to {source}, by whatever way leads there; if that"
                " is not through this node, the client gets it from an address that it never dialled, and refuses it."
            )
        return Exit(
            share=sum(t.share for t in group),
            hops=tuple(self._hops(first.tail, 0, len(first.tail))),
            ends=len(group),
            who=self._which(group) if several else "",
            action=end.action.value if end.action else None,
            marked=asked is not None,
            mark_reason=reason,
            masquerade=masquerade,
            source=source,
            answer=answer,
            wrong=wrong,
        )

    def _which(self, group: Sequence[Told]) -> str:
        if group[0].end.action is not Action.TRANSLATE:
            return "what is not translated"
        names = []
        for t in group:
            place = self._place(t.end.backend) if t.end.backend is not None else None
            names.append((place.pod or place.address) if place is not None else "")
        if self.source is not None and len(group) == 1 and group[0].end.backend == self.source.backend:
            return f"what {names[0]} sends to itself"
        if self.source is not None and self.source.backend not in {t.end.backend for t in group}:
            return f"what is sent to the other {len(names)} endpoints" if len(names) > 1 else f"what is sent to {names[0]}"
        if len(names) <= 3:
            return f"what is sent to {' and '.join(names)}" if len(names) < 3 else f"what is sent to {', '.join(names)}"
        return f"what is sent to {', '.join(names[:2])} and {len(names) - 2} more"

    # ---- affinity, and what to look with ------------------------------------------------------------------------------

    def _affinity(self, expectation: Expectation, observed: Observed, told: Sequence[Told]) -> tuple[str, str]:
        if expectation.action is not Action.TRANSLATE or (expectation.affinity is None and observed.affinity <= {None}):
            return "", ""
        first = next((t.end for t in told if t.end.remembered), None)
        rule = ""
        if first is not None:
            from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
            packet = self.asked.asker.packet(
                expectation.frontend, first.sources, from_node=expectation.from_node, from_pod=from_pod
            )
            packet.memory = first.remembered
            before = {step.rule for step in first.way}
            back = [end for end in walk(self.asked.asker.hooks, packet) if end.seconds is not None]
            rule = next((s.rule for end in back for s in end.way if s.rule not in before), "")
        kept = sorted(value for value in observed.affinity if value is not None)
        if None in observed.affinity or not kept:
            return "the Service asks for session affinity, and not every endpoint keeps its clients", rule
        return f"a client that has been sent to an endpoint is sent there again for {kept[0]} s after its last connection", rule

    def _commands(self, ways: Sequence[Way]) -> Iterable[Command]:
        front = self.frontend
        protocol = front.protocol.value.lower()
        six = front.family == 6
        ends = [e for way in ways for e in way.endings() if e.address]
        shown = list(dict.fromkeys(e.address.rpartition(":")[0].strip("[]") for e in ends))[:2]
        yield Command(
            shows="the connections: what the client sent, then what is expected as its answer. There src= is the endpoint,"
            " and dst= the address that it sees as its client",
            command=f"conntrack -L{' -f ipv6' if six else ''} -p {protocol} -d {front.address} --dport {front.port}",
        )
        hosts = " or ".join(f"host {a}" for a in (front.address, *shown))
        yield Command(
            shows="the packets, once before and once behind the rules",
            command=f"tcpdump -nni any '{protocol} and ({hosts})'",
        )
        if shown:
            yield Command(
                shows="by which interface it leaves, and (src) the address that a masquerade gives it",
                command=f"ip {'-6 ' if six else ''}route get {shown[0]}",
            )


def _shares(found: Sequence[tuple[End, float, str]]) -> dict[Any, float]:
    shares: dict[Any, float] = {}
    for end, share, unknown in found:
        key = (end.leg, unknown) if end.leg is not None else (end.unknown, unknown)
        shares[key] = shares.get(key, 0.0) + share
    return {key: round(share, 9) for key, share in shares.items()}
