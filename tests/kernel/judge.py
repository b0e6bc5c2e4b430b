"""Whether the kernel did what the walker says.

For each set of sources that the walker says the node treats alike (an atom), packets are sent from its lowest and
highest address and from some between.

* What the walker gives no share must not happen at all: one such packet is a disagreement.
* A share is tested by the exact binomial tail of each branch, two-sided. A first sample that lies three standard
  deviations off only asks for a second, larger and independent one; the second decides, at `ALPHA` for the whole atom.
  A run of a million atoms then has a false alarm with a probability below 1e6 * 0.01 * ALPHA = 1e-7.
* Every disagreement is asked again after all connections are forgotten: one that does not persist was two connections
  that met in one tuple, which the kernel resolves by another port.
* Where there is affinity, every client is new in the sample, and each is sent a second time: it has to stay.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kubectl_svcroute.model.net import Backend
from kubectl_svcroute.model.ranges import Ranges, contains, describe, intersect, number, single, size, text
from kubectl_svcroute.model.routes import Action, Leg
from kubectl_svcroute.model.walk_result import Atom, Observed
from kubectl_svcroute.observe.shares import CLOSE

from .lab import Lab, Outcome, Probe
from .questions import Question

ALPHA = 1e-11
SUSPECT = "suspect"
_FIRST, _SECOND = 128, 3000
_MOST_CLIENTS = 90
"""An affinity list holds a hundred clients (xt_recent's ip_list_tot), and forgets the oldest."""


class Key(NamedTuple):
    """A branch as both sides see it."""

    action: str
    backend: Backend | None
    masquerade: bool | None


@dataclass
class Figures:
    """What was done, for the record."""

    rule_sets: int = 0
    refused: int = 0
    """Rule sets that the tool did not accept."""
    questions: int = 0
    atoms: int = 0
    unverified: int = 0
    """Atoms of which the walker says that it cannot tell."""
    packets: int = 0
    disagreements: int = 0
    changed: int = 0
    """Rule sets whose behaviour differs from the unmodified one's, says the kernel."""
    false_greens: int = 0
    false_alarms: int = 0
    audited: int = 0
    splits: int = 0
    """Rule sets on which the audit does not agree with itself: JSON and text, or its short cuts and the whole walk."""
    apart: int = 0
    """Questions whose answer from JSON and from text is not the same."""
    mild: Counter[str] = field(default_factory=Counter)
    """Codes of what was found, none of it an error, where the kernel's behaviour did change."""
    reasons: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Findings of severity error on rule sets whose behaviour is the same."""

    @property
    def wrong(self) -> int:
        """All that should not be."""
        return self.disagreements + self.false_greens + self.false_alarms + self.splits + self.apart

    def __str__(self) -> str:
        names = ("rule_sets", "refused", "questions", "atoms", "unverified", "packets", "disagreements", "changed",
                 "audited", "false_greens", "false_alarms", "splits", "apart")  # fmt: skip
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in names)


def binomial_tail(count: int, n: int, p: float) -> float:
    """The probability of a count as far off as this one, both sides."""
    if p <= 0 or p >= 1:
        return 1.0 if count == n * p else 0.0
    logs, logp, logq = math.lgamma(n + 1), math.log(p), math.log1p(-p)

    def mass(k: int) -> float:
        return math.exp(logs - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * logp + (n - k) * logq)

    lower = count <= n * p
    return min(1.0, 2 * math.fsum(mass(k) for k in (range(count + 1) if lower else range(count, n + 1))))


def spread(sources: Ranges, how_many: int, rng: random.Random, also: Ranges = ()) -> list[int]:
    """Addresses of a set: its lowest and highest, those that `also` names, and others at random; no two alike."""
    found = dict.fromkeys([sources[0][0], sources[-1][1]])
    for low, high in intersect(sources, also):
        found.setdefault(low)
        found.setdefault(high)
    total = size(sources)
    how_many = min(how_many, total)
    for _ in range(4 * how_many):
        if len(found) >= how_many:
            break
        low, high = sources[rng.randrange(len(sources))]
        found.setdefault(rng.randint(low, high))
    if len(found) < how_many:
        for low, high in sources:
            for address in range(low, min(high, low + how_many) + 1):
                found.setdefault(address)
    # The anycast address of all routers of a subnet is no client's, and gets no errors.
    picked = [a for a in found if not a >> 64 or a & (1 << 64) - 1] or list(found)
    if len(picked) > how_many:
        picked = [picked[0], *rng.sample(picked[1:], how_many - 1)]
    return picked


def wanted_keys(shares: dict[Leg, float], question: Question, lax: bool) -> dict[Key, float]:
    """The walker's legs as keys. `lax`: whether it is masqueraded cannot be seen."""
    keys: dict[Key, float] = {}
    for leg, share in shares.items():
        if share <= CLOSE:
            continue
        action, backend = leg.action.value, leg.backend
        if leg.action is Action.TRANSLATE and backend == (question.frontend.address, question.frontend.port):
            action, backend = "pass", None  # translated to what it was: nobody can tell
        masquerade = None if lax or action != "translate" else leg.masquerade
        key = Key(action, backend if action == "translate" else None, masquerade)
        keys[key] = keys.get(key, 0.0) + share
    return keys


def seen_key(outcome: Outcome, probe: Probe, wanted: Iterable[Key], lax: bool) -> Key:
    """An outcome as a key, told no finer than the walker tells it."""
    if outcome.action != "translate":
        return Key(outcome.action, None, None)
    backend = Backend(text(outcome.dst, probe.family), outcome.dport)
    blind = lax or any(key.backend == backend and key.masquerade is None for key in wanted)
    changed = outcome.src != probe.src or (probe.way == "node" and outcome.renumbered)
    return Key("translate", backend, None if blind else changed)


@dataclass(frozen=True)
class Disagreement:
    """What the walker says and the kernel does not do."""

    question: Question
    sources: Ranges
    said: dict[Key, float]
    seen: Counter[Key]
    what: str

    def __str__(self) -> str:
        said = ", ".join(f"{k.action} {k.backend or ''} masq={k.masquerade}: {p:.4f}" for k, p in self.said.items())
        seen = ", ".join(f"{k.action} {k.backend or ''} masq={k.masquerade}: {n}" for k, n in self.seen.items())
        where = describe(self.sources, self.question.frontend.family)
        return f"{self.question} from {where}: {self.what}\n    walker: {said}\n    kernel: {seen}"


@dataclass
class Judge:
    """Holds walker and kernel against each other on one lab, its rules loaded."""

    lab: Lab
    rng: random.Random
    figures: Figures
    first: int = _FIRST
    second: int = _SECOND

    def probe(self, question: Question, source: int) -> Probe:
        """The packet of a question."""
        frontend = question.frontend
        return Probe(
            frontend.family, source, number(frontend.address), frontend.protocol.value.lower(), frontend.port, question.way
        )

    def check(self, asked: Sequence[tuple[Question, Observed]], also: Ranges = ()) -> list[Disagreement]:
        """All disagreements about some questions. `also`: addresses worth asking from, where a client has them."""
        plain: list[tuple[Question, Atom, list[Probe]]] = []
        found = []
        for question, observed in asked:
            self.figures.questions += 1
            sticky = observed.affinity - {None} or any(end.remembered for atom in observed.atoms for end in atom.ends)
            for atom in observed.atoms:
                self.figures.atoms += 1
                if atom.unknown_share > CLOSE or not atom.shares:
                    self.figures.unverified += 1
                    self.figures.reasons.update(reason[:60] for reason in atom.unknown)
                elif sticky:
                    found += self._sticky(question, observed, atom)
                else:
                    plain.append((question, atom, self._sample(question, atom, self.first, also)))
        outcomes = self._send([probe for _, _, probes in plain for probe in probes])
        at = 0
        for question, atom, probes in plain:
            mine = outcomes[at : at + len(probes)]
            at += len(probes)
            if self._differs(question, atom, probes, mine, suspect=True):
                self.lab.forget()
                again = self._sample(question, atom, self.second, also)
                more = self._send(again)
                what = self._differs(question, atom, again, more)
                if what:
                    found.append(self._disagreement(question, atom, again, more, what))
        self.figures.disagreements += len(found)
        return found

    def _send(self, probes: list[Probe]) -> list[Outcome]:
        self.figures.packets += len(probes)
        return self.lab.send(probes)

    def _lax(self, question: Question) -> bool:
        """From the node's own address a masquerade that keeps the port changes nothing that can be seen."""
        return question.from_node and question.sources[0][0] >> 24 != 127 and not self.renumbers

    renumbers: bool = True
    """Whether every MASQUERADE that can be met takes a new port (`--random-fully`)."""

    def _sample(
        self, question: Question, atom: Atom, n: int, also: Ranges, *, thorough: bool = False
    ) -> list[Probe]:
        sure = max(atom.shares.values()) >= 1 - CLOSE
        sources = spread(atom.sources, 4 if sure and not thorough else 8, self.rng, also)
        if sure and not thorough:
            n = min(n, 16)  # enough to see a rule of chance that the walker overlooked, in the long run of many
        return [self.probe(question, sources[i % len(sources)]) for i in range(n)]

    def _differs(
        self, question: Question, atom: Atom, probes: Sequence[Probe], outcomes: Sequence[Outcome], *, suspect: bool = False
    ) -> str:
        lax = self._lax(question)
        said = wanted_keys(atom.shares, question, lax)
        seen = Counter(seen_key(o, p, said, lax) for o, p in zip(outcomes, probes, strict=True))
        if question.from_node:
            # A port taken at random is, once in 64,000 times, the one that the packet had.
            for key in [k for k in seen if k.masquerade is False and k not in said and seen[k] <= len(probes) // 500]:
                if (other := key._replace(masquerade=True)) in said:
                    seen[other] += seen.pop(key)
        if any(end.masquerade == text(p.src, p.family) for end in atom.ends for p in probes[:8]):
            return ""  # a rule gives a client the source that it has: whether it did cannot be seen
        never = [key for key in seen if key not in said]
        silent = never and all(key.action == "drop" for key in never) and any(key.action == "reject" for key in said)
        if silent and self._rejected(probes):
            return ""  # a rule on the way out ate the messages
        silence, refusal = Key("drop", None, None), Key("reject", None, None)
        if silence in said and refusal in said and refusal not in seen and self._some_refused(probes):
            # Some are dropped and some rejected, and all messages were eaten: the two look the same.
            said = {key: share for key, share in said.items() if key != refusal}
            said[silence] += 1 - sum(said.values())
        if not never and silence in said and refusal in said and not suspect and unlikely(said, seen):
            # The messages themselves leave through OUTPUT, where a rule of chance may eat some: the kernel's count tells.
            before = self.lab.refusals(probes[0].family)
            again = Counter(seen_key(o, p, said, lax) for o, p in zip(self._send(list(probes)), probes, strict=True))
            refused = self.lab.refusals(probes[0].family) - before
            again[silence] += again[refusal] - refused
            again[refusal] = refused
            seen = again
        if never:
            return f"the walker says that this cannot happen: {never[0].action} {never[0].backend or ''}"
        return unlikely(said, seen, suspect=suspect)

    def _some_refused(self, probes: Sequence[Probe]) -> bool:
        before = self.lab.refusals(probes[0].family)
        self._send(list(probes[:60]))
        return self.lab.refusals(probes[0].family) > before

    def _rejected(self, probes: Sequence[Probe]) -> bool:
        """Whether silence is rejection whose messages a rule ate: the kernel counts what it says, here for every packet."""
        before = self.lab.refusals(probes[0].family)
        lost = []
        for probe in probes[:60]:
            self.lab.forget_clients()  # else one that found an endpoint would stay with it
            lost += [outcome for outcome in self._send([probe]) if outcome.action in ("drop", "reject")]
        return self.lab.refusals(probes[0].family) - before >= len(lost) > 0

    def _sticky(self, question: Question, observed: Observed, atom: Atom) -> list[Disagreement]:
        what = ""
        again: list[Probe] = []
        more: list[Outcome] = []
        for _ in range(2):
            what, again, more = self._first_and_second(question, observed, atom)
            if not what:
                return []
        return [self._disagreement(question, atom, again, more, what)]

    def _first_and_second(
        self, question: Question, observed: Observed, atom: Atom
    ) -> tuple[str, list[Probe], list[Outcome]]:
        """What is wrong about new clients and their second connections; a client that is one of few comes again."""
        sources = spread(atom.sources, _MOST_CLIENTS, self.rng)
        probes: list[Probe] = []
        outcomes: list[Outcome] = []
        while len(probes) < 2 * _MOST_CLIENTS // 3:
            self.lab.forget_clients()
            first = [self.probe(question, source) for source in sources]
            firsts = self._send(first)
            probes += first
            outcomes += firsts
            if None in observed.affinity:
                continue
            for probe, one, two in zip(first, firsts, self._send(first), strict=True):
                # Affinity is about backends: a client that reached none may reach one the next time.
                if one.action == "translate" and one[:3] != two[:3]:
                    where = text(probe.src, probe.family)
                    return f"the second connection of {where} went elsewhere", probes, outcomes
        return self._differs(question, atom, probes, outcomes), probes, outcomes

    def _disagreement(
        self, question: Question, atom: Atom, probes: Sequence[Probe], outcomes: Sequence[Outcome], what: str
    ) -> Disagreement:
        lax = self._lax(question)
        said = wanted_keys(atom.shares, question, lax)
        seen = Counter(seen_key(o, p, said, lax) for o, p in zip(outcomes, probes, strict=True))
        return Disagreement(question, atom.sources, said, seen, what)

    # ---- against another answer than the walker's about these rules --------------------------------------------------

    def kernel_differs(self, question: Question, before: Observed, now: Observed, also: Ranges = ()) -> str:
        """Whether the kernel, with the rules that are loaded, does other than `before` says; empty when it does not.

        Sources that either of the two answers tells apart are asked for apart.
        """
        sticky = before.affinity - {None}
        pieces = [
            replace(atom, sources=common)
            for atom in before.atoms
            for other in now.atoms
            if (common := intersect(atom.sources, other.sources))
        ]
        for atom in pieces:
            if atom.unknown_share > CLOSE or not atom.shares:
                continue
            if sticky:
                # Addresses that rules name are asked for apart: one among ninety clients would be lost.
                named = intersect(atom.sources, also)
                for part in (atom, replace(atom, sources=named)) if named and size(named) <= 16 else (atom,):
                    if found := self._sticky(question, before, part):
                        return found[0].what
                continue
            probes = self._sample(question, atom, self.first, also, thorough=True)
            first = self._differs(question, atom, probes, self._send(probes), suspect=True)
            # What cannot happen and does, again and again, needs no large sample; shares do.
            for size_ in (self.first, self.second) if first not in ("", SUSPECT) else (self.second,) if first else ():
                self.lab.forget()
                probes = self._sample(question, atom, size_, also, thorough=True)
                if what := self._differs(question, atom, probes, self._send(probes)):
                    return what
        return ""


def unlikely(said: dict[Key, float], seen: Counter[Key], *, suspect: bool = False) -> str:
    """Why a sample cannot be of these shares; empty when it can. `suspect`: a first look, at three deviations."""
    n = sum(seen.values())
    if len(said) == 1:
        return ""
    for key, share in said.items():
        count = seen.get(key, 0)
        if suspect:
            if abs(count - n * share) <= 3 * math.sqrt(n * share * (1 - share)):
                continue
            return SUSPECT
        chance = binomial_tail(count, n, share)
        if chance < ALPHA / len(said):
            return f"{key.backend or key.action} got {count} of {n}, should get {share:.4f} (p = {chance:.1e})"
    return ""


def points(texts: Iterable[str], family: int) -> Ranges:
    """Single addresses as a set, for `also`."""
    values = sorted({number(t) for t in texts if (":" in t) == (family == 6)})
    return tuple(r for v in values for r in single(v))


__all__ = ["ALPHA", "Disagreement", "Figures", "Judge", "binomial_tail", "contains", "points", "spread", "unlikely"]
