"""`trace`: the way of one packet on one node, from what the audit of that node saw.

The node is judged as always (`audit`), for the one Service. Then the question is put once more for the one frontend and
client alone, so that what is told and what is found are about the same packets. The ends of that walk become a tree:

* each set of sources that the node treats alike is a way of its own (`model.trace.Way`);
* where an unknown did not matter one of its sides is told, where it did both are, without a share;
* up to the DNAT the ends share their steps as a tree does, behind it ends with the same steps share an exit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .audit import Audit
from .checks.blame import Facts
from .checks.compare import expected_text
from .checks.landmarks import Landmarks
from .checks.observation import Observation, Unsure
from .errors import UsageError
from .expect.routes import NodeView
from .model.cluster import Node, ProxyConfig, Service
from .model.net import Backend, Frontend, FrontendKind, canonical_ip, host_port
from .model.node_result import NodeResult
from .model.plan import Candidate, Expectation, PortPlan
from .model.ranges import Ranges, contains, describe, intersect, network, number, single, union
from .model.report import Finding, Unverified
from .model.routes import Action, Client
from .model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable
from .model.trace import Branch, Command, Ending, Exit, Hop, Role, Trace, Way
from .model.ways import Atom, End, Observed, Step
from .node_audit import NodeAudit
from .observe.observe import Asker
from .observe.settle import CLOSE
from .observe.walk import walk
from .selection import Selection
from .trace_words import asks, does, show_rule

CLIENTS = (Client.POD, Client.NODE, Client.OUTSIDE, Client.HAIRPIN)
"""What `--from` can be. A stranger (outside of the source ranges) is told beside the others from outside."""

_KINDS = {
    "cluster": FrontendKind.CLUSTER_IP,
    "clusterip": FrontendKind.CLUSTER_IP,
    "nodeport": FrontendKind.NODE_PORT,
    "lb": FrontendKind.LOAD_BALANCER,
    "loadbalancer": FrontendKind.LOAD_BALANCER,
    "external": FrontendKind.EXTERNAL_IP,
    "externalip": FrontendKind.EXTERNAL_IP,
    "health": FrontendKind.HEALTH_CHECK,
}
_FINAL = frozenset(
    ("ACCEPT", "RETURN", "DROP", "REJECT", "DNAT", "REDIRECT", "SNAT", "MASQUERADE", "MARK", "CONNMARK", "CT", "NOTRACK", "?")
)
"""Targets that are no chains."""
_NOTHING_FOUND = "{ no element for the packet }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked."""

    service: str
    """`namespace/name`."""
    client: Client = Client.POD
    to: str = ""
    """A frontend as the user names it; empty for the cluster IP and its first port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """One Service port of one family on the node: what should be, and the rules to ask."""

    plan: PortPlan
    view: NodeView
    asker: Asker
    landmarks: Landmarks
    facts: Facts


class _Watched(NodeAudit):
    """The audit of a node that keeps what it asked, to ask one question of it again."""

    def __init__(self, whole: Audit, node: Node, dump: NodeDump) -> None:
        super().__init__(whole, node, dump)
        self.grounds: list[_Ground] = []
        self.config: ProxyConfig | None = None
        self.asked_for: list[Unsure] = []
        self._concluded: tuple[Any, ...] = (None, None)

    def _port(self, plan: PortPlan, view: NodeView, asker: Asker, landmarks: Landmarks, facts: Facts) -> None:
        self.grounds.append(_Ground(plan=plan, view=view, asker=asker, landmarks=landmarks, facts=facts))
        super()._port(plan, view, asker, landmarks, facts)

    def _not_sure(self, unsure: Unsure) -> None:
        self.asked_for.append(unsure)
        super()._not_sure(unsure)

    def _result(self, *given: Any) -> NodeResult:
        self._concluded = given
        self.config = given[0]
        return super()._result(*given)

    def again(self, ground: _Ground, expectation: Expectation) -> tuple[list[Observation], list[Unsure]]:
        """What the audit says of one expectation alone."""
        observed, unsure = len(self.observations), len(self.asked_for)
        plan = replace(ground.plan, expectations=(expectation,))
        super()._port(plan, ground.view, ground.asker, ground.landmarks, ground.facts)
        found = self.observations[observed:], self.asked_for[unsure:]
        del self.observations[observed:]
        return found

    def findings(self, observations: Iterable[Observation]) -> tuple[Finding, ...]:
        """What some observations come to."""
        kept, self.observations = self.observations, list(observations)
        try:
            found = super()._result(*self._concluded).findings
            # One Service is all that was asked for, so its number says nothing here.
            return tuple(replace(f, message=f.message.removesuffix("; 1 Service affected")) for f in found)
        finally:
            self.observations = kept


class Tracer:
    """One Service of a cluster, to be traced on any node."""

    def __init__(self, api: ApiObjects, question: Question, *, origin: str = "") -> None:
        self.audit = Audit(api, Selection(services=frozenset([question.service])), thorough=True)
        self.question = question
        self.origin = origin
        if not self.audit.services:
            raise UsageError(f"service {question.service} is not there any more")
        self.service: Service = self.audit.services[0]
        if self.service.skipped:
            raise UsageError(f"service {self.service.key} has no way to trace: {self.service.skipped}")
        self._seen: tuple[NodeDump, _Watched, NodeResult, tuple[Unverified, ...]] | None = None

    def endpoint_nodes(self) -> tuple[str, ...]:
        """Nodes that hold an endpoint of the Service, ready ones first."""
        found: dict[str, bool] = {}
        for piece in self.audit.slices_of(self.service):
            for endpoint in piece.endpoints:
                if endpoint.node:
                    found[endpoint.node] = min(found.get(endpoint.node, True), not endpoint.ready)
        return tuple(sorted(found, key=lambda name: (found[name], name)))

    def trace(self, outcome: NodeOutcome) -> Trace:
        """The trace on one node. Raises UsageError when the node has no such frontend or client."""
        base = Trace(
            service=self.service.key, node=outcome.node, client=self.question.client, frontend=None, origin=self.origin
        )
        if isinstance(outcome, Unreachable):
            return replace(base, unverified=(Unverified(code="SR901", node=outcome.node, reason=outcome.reason),))
        node = self.audit.nodes.get(outcome.node)
        if node is None:
            return replace(base, unverified=self.audit.node(outcome).unverified)
        watched, result, general = self._judged(node, outcome)
        notes = tuple(dict.fromkeys((*self.audit.notes, *result.notes)))
        version = f"{watched.config.version[0]}.{watched.config.version[1]}" if watched.config else ""
        base = replace(base, mode=watched.mode, version=version, notes=notes)
        if not watched.grounds:
            if not general:
                raise UsageError(f"kube-proxy on {node.name} serves no address of {self.service.key}")
            return replace(base, unverified=general)
        return _Telling(self, watched, result, general).tell(base)

    def _judged(self, node: Node, dump: NodeDump) -> tuple[_Watched, NodeResult, tuple[Unverified, ...]]:
        """The audit of a node, once for all questions about it."""
        if self._seen is None or self._seen[0] is not dump:
            watched = _Watched(self.audit, node, dump)
            result = watched.judge()
            general = tuple(u for u in watched.unverified if u.service is None) + tuple(self.audit.denied)
            self._seen = dump, watched, result, general
        return self._seen[1:]


# ---- what is asked for -----------------------------------------------------------------------------------------------------


def choose_frontend(to: str, service: Service, grounds: Sequence[tuple[PortPlan, Frontend]]) -> Frontend:
    """The frontend that the user means by `10.0.0.1:80`, `30080`, `nodeport`, `lb:https`, `http`. Raises UsageError for none."""
    fronts = list(dict.fromkeys(front for _, front in grounds))
    ports = {front: plan.port for plan, front in grounds}
    own = {a: n for n, a in enumerate(service.cluster_ips)}
    order = {str(port): n for n, port in enumerate(service.ports)}
    fronts.sort(key=lambda f: (own.get(f.address, 0) if f.address in own else f.family != _family(service), order[str(ports[f])]))
    wanted = to.strip()
    word, _, rest = wanted.lower().partition(":")
    bare, _, protocol = wanted.partition("/")
    if not wanted:
        found = [f for f in fronts if f.kind is FrontendKind.CLUSTER_IP]
    elif word in _KINDS and "." not in wanted:
        found = [f for f in fronts if f.kind is _KINDS[word]]
        if rest:
            found = [f for f in found if rest in (str(f.port), str(ports[f].port), ports[f].name.lower())]
    elif bare.isdigit():
        found = [f for f in fronts if f.port == int(bare)]
        found.sort(key=lambda f: f.kind is not FrontendKind.NODE_PORT)
    elif any(port.name == wanted for port in service.ports):
        found = [f for f in fronts if ports[f].name == wanted and f.kind is FrontendKind.CLUSTER_IP]
    else:
        found = [f for f in fronts if bare in (host_port(f.address, f.port), f.address) or _same_address(bare, f.address)]
    if protocol:
        found = [f for f in found if f.protocol.value == protocol.upper()]
    # 127.0.0.1 is a node port's last address, because only the node itself reaches it.
    found.sort(key=lambda f: f.address in ("127.0.0.1", "::1"))
    if not found:
        have = ", ".join(f"{f} ({f.kind})" for f in fronts[:8]) + (", …" if len(fronts) > 8 else "")
        raise UsageError(f"--to {to}: {service.key} has no such frontend on this node; it has {have}")
    return found[0]


def _family(service: Service) -> int:
    return 6 if service.cluster_ips and ":" in service.cluster_ips[0] else 4


def _same_address(text: str, address: str) -> bool:
    try:
        return canonical_ip(text.strip("[]")) == address
    except ValueError:
        return False


# ---- telling ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """An end with the share that it has in the telling."""

    end: End
    share: float
    unknown: str
    head: tuple[Step, ...]
    tail: tuple[Step, ...]


class _Telling:
    """One question, and everything that its answer is made of."""

    def __init__(self, tracer: Tracer, watched: _Watched, result: NodeResult, general: tuple[Unverified, ...]) -> None:
        self.watched = watched
        self.result = result
        self.general = general
        self.node = watched.node
        self.client = tracer.question.client
        self.service = tracer.service
        pairs = [(g.plan, e.frontend) for g in watched.grounds for e in g.plan.expectations]
        self.frontend = choose_frontend(tracer.question.to, self.service, pairs)
        self.ground = next(g for g in watched.grounds if any(e.frontend == self.frontend for e in g.plan.expectations))
        self.view = self.ground.view
        self.marks = self.ground.landmarks
        self.nft = self.view.behaviour.nftables
        self.mark = 1 << self.view.config.masquerade_bit
        self.source: Candidate | None = None
        """The endpoint that dials, for hairpin."""
        self.expectations = self._expectations()
        self.external = self.frontend.kind is not FrontendKind.CLUSTER_IP
        self.notes: list[str] = []

    def tell(self, base: Trace) -> Trace:
        observations: list[Observation] = []
        unsure: list[Unsure] = []
        ways: list[Way] = []
        for expectation in self.expectations:
            found, not_sure = self.watched.again(self.ground, expectation)
            observations += found
            unsure += not_sure
            masquerade_wrong = any(o.code.startswith("SR3") for o in found)
            ways += self._ways(expectation, masquerade_wrong=masquerade_wrong)
        wide = [o for o in self.watched.observations if o.frontend is None]
        everything = self.watched.findings([*observations, *wide])
        alone = self.watched.findings(wide)
        mine = tuple(f for f in everything if f not in alone)
        said = {f.code for f in everything}
        reasons = tuple(
            Unverified(code=u.code, node=self.node.name, service=self.service.key, reason=u.reason, evidence=u.evidence)
            for u in dict.fromkeys(unsure)
        )
        return replace(
            base,
            frontend=self.frontend,
            port=str(self.ground.plan.port),
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

    # ---- whose packets ----------------------------------------------------------------------------------------------

    def _expectations(self) -> list[Expectation]:
        plan = self.ground.plan
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

    def _who(self, expectation: Expectation, sources: Ranges, *, alone: bool) -> str:
        node, family = self.node.name, self.frontend.family
        if expectation.client is Client.HAIRPIN and self.source is not None:
            pod = self.source.endpoint.pod
            return f"the endpoint {f'{pod} ' if pod else ''}({self.source.backend.address}) on {node}"
        if expectation.client is Client.NODE:
            return f"a process on {node} itself ({describe(sources, family)})"
        if expectation.client is Client.POD:
            return f"a pod on {node} that is no endpoint of the Service ({self._addresses(sources)})"
        ranges = self.frontend.kind is FrontendKind.LOAD_BALANCER and self.service.source_ranges
        if not ranges:
            return "a client outside the cluster" + ("" if alone else f" ({describe(sources, family)})")
        if expectation.client is Client.STRANGER:
            return "a client outside the cluster, in none of the loadBalancerSourceRanges"
        mine = [r for r in self.service.source_ranges if (":" in r) == (family == 6)]
        told = f"loadBalancerSourceRanges ({', '.join(mine[:3])}{', …' if len(mine) > 3 else ''})"
        return f"a client outside the cluster, in its {told}" if mine else "a client outside the cluster"

    def _addresses(self, sources: Ranges) -> str:
        family = self.frontend.family
        for cidr in self.node.pod_cidrs:
            if (":" in cidr) == (family == 6) and intersect(sources, network(cidr)) == sources:
                return f"of {cidr}"
        return describe(sources, family, most=2)

    # ---- ways -------------------------------------------------------------------------------------------------------

    def _ways(self, expectation: Expectation, *, masquerade_wrong: bool) -> Iterable[Way]:
        from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
        observed = self.ground.asker.ask(
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

    def _expected(self, expectation: Expectation) -> str:
        text = expected_text(expectation)
        if expectation.action is not Action.TRANSLATE:
            why = self._why_not(expectation)
            return f"{text}: {why}" if why else text
        if self.client is Client.HAIRPIN and expectation.masquerade == "self":
            text = text.replace("source kept", "masqueraded where it is sent to itself and nowhere else")
        return text

    def _why_not(self, expectation: Expectation) -> str:
        """Why no endpoint should be reached."""
        selection = self.ground.plan.selection
        if self.frontend.kind is FrontendKind.HEALTH_CHECK:
            return "kube-proxy itself answers there"
        if expectation.denied:
            return "its source is in none of the Service's loadBalancerSourceRanges"
        if not selection.any:
            return "the Service has no endpoint that could take it" if selection.known else "the Service has no endpoint"
        policies = []
        if self.external and self.service.external_local:
            policies.append("externalTrafficPolicy")
        if not self.external and self.service.internal_local:
            policies.append("internalTrafficPolicy")
        if policies and not selection.local:
            where = sorted({c.endpoint.node for b, c in selection.known.items() if c.endpoint.ready and c.endpoint.node})
            others = f" (there are some on {', '.join(where[:3])}{', …' if len(where) > 3 else ''})" if where else ""
            return f"{policies[0]} is Local, and no endpoint is on this node{others}"
        return ""

    def _told(self, atom: Atom) -> list[_Told]:
        """The ends of an atom with the shares that they are told with, each way once."""
        found: dict[tuple[Any, ...], _Told] = {}
        for end, share, unknown in self._certain(atom.ends, 0):
            way = tuple(step for step in end.way if not step.rule.endswith(_NOTHING_FOUND))
            cut = max((n + 1 for n, s in enumerate(way) if s.target in ("DNAT", "REDIRECT") and s.hook in _ENTRY), default=0)
            if not cut:
                first = way[0].hook if way else ""
                cut = next((n for n, s in enumerate(way) if s.hook != first), len(way))
            key = (way, end.action, end.backend, end.masquerade, unknown)
            before = found.get(key)
            found[key] = _Told(end, share + (before.share if before else 0.0), unknown, way[:cut], way[cut:])
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

    def _branch(self, expectation: Expectation, told: Sequence[_Told], exit_of: dict[int, int], start: int) -> Branch:
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
        groups: dict[tuple[Any, ...], list[_Told]] = {}
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

    def _foreign(self, step: Step) -> bool:
        if self.nft and not step.table.endswith(self.marks.table):
            return True
        return not self.marks.of_proxy(step.chain) and not self.marks.of_proxy(step.target)

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

    def _why(self, step: Step, role: Role, *, entered: bool) -> str:
        mark = f"{self.mark:#x}"
        if role is Role.FIND and not entered:
            if step.target.startswith(("KUBE-FW-", "firewall-")):
                told = "its source is in one of the ranges" if self.nft else "its source is in none of the ranges"
                return f"{told}: it comes back as it was"
            if self.external and self.service.external_local and not self.ground.plan.selection.local:
                return "the policy is Local, and no endpoint is on this node: it comes back as it was"
            return "no rule there is about this packet: it comes back as it was"
        if role is Role.ENTER and step.target == self.marks.services and step.hook in _ENTRY:
            return "only the first packet of a connection is asked; conntrack does the same with the rest"
        if role is Role.ASK:
            return self._mark_reason(step)
        if role is Role.MARK:
            set_ = _bits(step.rule)
            if set_ is not None and set_ != self.mark:
                return f"bit {set_:#x} of the mark, and {self.marks.postrouting} should look for bit {mark}"
            return f"bit {mark} of the mark, which the kernel keeps beside the packet: a note to {self.marks.postrouting}"
        if role is Role.UNMARKED:
            return f"bit {mark} is not set: nobody asked for masquerade"
        if role is Role.CLEAR:
            return "it has done its work; a tunnel's outer packet would inherit it and be masqueraded again"
        if role is Role.MASQUERADE and not self._foreign(step):
            return "that of the interface that it leaves by, with a port that is free"
        if role is Role.ACCEPT and "mark" in asks(step.rule):
            return "what kube-proxy has marked may pass, whatever FORWARD's policy is"
        if role is Role.STOP:
            return "the client hears at once: connection refused" if step.target == "REJECT" else "the client waits in vain"
        return ""

    # ---- marks ------------------------------------------------------------------------------------------------------

    def _asked(self, way: Sequence[Step]) -> Step | None:
        """The step that asked for masquerade by the mark."""
        for step in way:
            if step.hook not in _ENTRY or self._foreign(step):
                continue
            if self.marks.mark and step.target == self.marks.mark:
                return step
            if step.target == "MARK" and "DROP" not in step.chain and step.chain != self.marks.postrouting:
                return step
        return None

    def _mark_reason(self, step: Step) -> str:
        """Why masquerade is asked for."""
        if self.view.config.masquerade_all and not self.external:
            return "kube-proxy runs with masqueradeAll: every connection to a cluster IP is masqueraded"
        if step.chain.startswith(("KUBE-SEP-", "endpoint-")):
            return "the endpoint that was chosen is the one that dials, and must not see its own address as the sender"
        if self.client is Client.NODE:
            return "it comes from the node and not from a pod, and answers to its source need not come back here"
        if self.external and not self.service.external_local:
            return "it came in from outside, and the endpoint may be on another node, whose answer would not pass here"
        return "it does not come from a pod of the cluster, so an answer to its source need not pass here"

    def _unmarked_reason(self, told: Sequence[_Told]) -> str:
        """Why nobody asked for masquerade."""
        end = told[0].end
        if end.action is not Action.TRANSLATE:
            return "no endpoint was chosen, so there is nothing to masquerade"
        if end.local:
            return "the endpoint is in the node's own network: the packet never leaves the node"
        if self.external and self.service.external_local and self.client is Client.OUTSIDE:
            return "externalTrafficPolicy is Local: the endpoint is on this node, its answer passes here, and it sees the client"
        if self.client in (Client.POD, Client.HAIRPIN):
            return "it comes from a pod on this node, and an answer to that pod comes back to this node anyway"
        if self.view.detector.kind == "none":
            return "kube-proxy was not told which addresses are pods' (clusterCIDR), and so marks no packet to a cluster IP"
        return "no rule on its way asks for it"

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _place(self, backend: Backend) -> Ending:
        known = self.ground.plan.selection.known.get(backend)
        base = Ending(action="translate", share=0.0, should=None, address=str(backend))
        if known is None:
            return base
        e = known.endpoint
        return replace(base, pod=e.pod or "", node=e.node or "", state=e.state, ready=e.ready, here=known.local)

    def _ending(self, expectation: Expectation, told: _Told, exit_: int | None) -> Ending:
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
        self, expectation: Expectation, told: Sequence[_Told], *, masquerade_wrong: bool
    ) -> tuple[tuple[Exit, ...], dict[int, int]]:
        groups: dict[tuple[Any, ...], list[_Told]] = {}
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

    def _exit(self, expectation: Expectation, group: list[_Told], *, several: bool, masquerade_wrong: bool) -> Exit:
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

    def _which(self, group: Sequence[_Told]) -> str:
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

    def _answer(self, expectation: Expectation, group: Sequence[_Told]) -> tuple[str, str]:
        """(its source when it leaves, how the answer comes back) in words."""
        end = group[0].end
        front, node = str(self.frontend).partition("/")[0], self.node.name
        if end.action is Action.REJECT:
            return "", "The client gets an ICMP error at once: connection refused."
        if end.action is Action.DROP:
            return "", "The client gets no answer at all, and waits until it gives up."
        if end.action is None:
            return "", "What becomes of it cannot be told."
        if end.action is Action.PASS:
            return "its own", self._untranslated()
        known = all(self._place(t.end.backend).state for t in group if t.end.backend is not None)
        nobody = "" if known else " (if anybody is there to answer)"
        if end.local:
            return "its own", f"The endpoint is {node} itself. Its answer passes conntrack here, and gets back {front} as source."
        if end.masquerade:
            address = f"an address of {node}" if end.masquerade == "node" else end.masquerade
            example = f" ({self.view.address}, if it leaves there)" if self.view.address and end.masquerade == "node" else ""
            back = (
                f"The endpoint sees {address} as its client and answers to that{nobody}. So the answer comes back"
                f" here, where conntrack knows the connection: it turns the source back into {front} and the destination back"
                " into the client."
            )
            if self.source is not None and end.backend == self.source.backend:
                back += (
                    " Without that the pod would see its own address as the sender and answer to itself without ever leaving"
                    " its own network: from an address that it never dialled."
                )
            elif self.client in (Client.OUTSIDE, Client.STRANGER) or self.external:
                back += (
                    " Without that an endpoint on another node would answer to the client directly, from an address that the"
                    " client never dialled. The price: the endpoint does not see who its client is."
                )
            return f"{address}{example}", back
        here = all(self._place(t.end.backend).here for t in group if t.end.backend is not None)
        if self.client in (Client.POD, Client.HAIRPIN):
            return "the pod's own", (
                f"The endpoint sees the pod's own address and answers to it{nobody}. The pod is on this node, so the answer comes"
                f" back here, where conntrack knows the connection and turns the source back into {front}."
            )
        if self.client is Client.NODE:
            return f"the node's own ({describe(expectation.sources, self.frontend.family)})", (
                f"The endpoint answers to {node}{nobody}, where conntrack turns the source back into {front}."
            )
        if here:
            return "the client's own", (
                f"The endpoint sees the client's own address and answers to it{nobody}. It runs on this node, so its"
                f" answer leaves through here, where conntrack knows the connection and turns the source back into {front}."
            )
        return "the client's own", (
            "The endpoint sees the client's own address and answers to it, past this node: from an address that the client never"
            " dialled. The client refuses that answer."
        )

    def _untranslated(self) -> str:
        kind = self.frontend.kind
        if kind is FrontendKind.HEALTH_CHECK:
            return "It is taken in as it came: kube-proxy itself answers there, and tells whether the node has an endpoint."
        if kind is FrontendKind.NODE_PORT:
            return "It is taken in as it came: whatever program listens on that port of the node answers, or nobody does."
        if kind is FrontendKind.CLUSTER_IP:
            return "Nobody holds a cluster IP: it goes on as it came, wherever the node's routes send it, and is lost."
        return "It goes on as it came, to whoever holds that address."

    # ---- affinity, and what to look with ------------------------------------------------------------------------------

    def _affinity(self, expectation: Expectation, observed: Observed, told: Sequence[_Told]) -> tuple[str, str]:
        if expectation.action is not Action.TRANSLATE or (expectation.affinity is None and observed.affinity <= {None}):
            return "", ""
        first = next((t.end for t in told if t.end.remembered), None)
        rule = ""
        if first is not None:
            from_pod = expectation.client in (Client.POD, Client.HAIRPIN)
            packet = self.ground.asker.packet(
                expectation.frontend, first.sources, from_node=expectation.from_node, from_pod=from_pod
            )
            packet.memory = first.remembered
            before = {step.rule for step in first.way}
            back = [end for end in walk(self.ground.asker.hooks, packet) if end.seconds is not None]
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


_ANY = ("every packet that comes here", "all that is left")
_ENTRY = ("PREROUTING", "OUTPUT")


def _bits(rule: str) -> int | None:
    """The bits that a rule sets in the mark, as far as it is one that only sets."""
    found = re.search(r"--set-xmark (0x[0-9a-f]+)/|meta mark set meta mark \| (0x[0-9a-f]+)", rule)
    return int(found[1] or found[2], 16) if found else None


def _shares(found: Sequence[tuple[End, float, str]]) -> dict[Any, float]:
    shares: dict[Any, float] = {}
    for end, share, unknown in found:
        key = (end.leg, unknown) if end.leg is not None else (end.unknown, unknown)
        shares[key] = shares.get(key, 0.0) + share
    return {key: round(share, 9) for key, share in shares.items()}
