"""One changed rule set on trial: does the walker still say what the kernel does, and does the audit notice a change?"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.ranges import ALL, Ranges, contains, network, number, union
from kubectl_svcroute.model.report import Severity
from kubectl_svcroute.model.routes import Client
from kubectl_svcroute.model.snapshot import NodeDump
from kubectl_svcroute.model.walk_result import Observed

from .crowd import crowd_of, folder
from .judge import Disagreement, Figures, Judge
from .lab import Lab, LoadError
from .mutate import Mutator, World
from .mutate_nft import NftMutator
from .questions import Case, Question, case, mode_of, nodes


@dataclass
class Bench:
    """A node, its lab, and what the walker says of its rules as they were captured."""

    case: Case
    lab: Lab
    figures: Figures
    baseline: list[tuple[Question, Observed]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lab.load(self.case.text, self.case.family)
        self.text = self.lab.save(self.case.family)
        asker = self.case.asker(self.text)
        self.baseline = [(q, self.case.ask(asker, q)) for q in self.case.questions]
        self.world = world_of(self.case, self.text)
        ways: dict[tuple[str, str], None] = {}
        self.through: dict[str, list[int]] = {}
        for index, (_, observed) in enumerate(self.baseline):
            for atom in observed.atoms:
                for end in atom.ends:
                    for step in end.way:
                        ways.setdefault((step.table.split()[-1], step.chain))
                        for name in (step.chain, step.target):
                            self.through.setdefault(name, []).append(index)
        self.way = [pair for pair in ways if pair[0] in ("nat", "filter")]

    @classmethod
    def of(cls, name: str, node: str, family: int, figures: Figures, flavour: str = "") -> Bench:
        """A bench with a lab of its own; `flavour`: another backend than the capture's own."""
        one = case(name, node, family)
        return cls(one, Lab(flavour or mode_of(name), one.addresses, one.pod_cidrs, one.endpoints), figures)

    @property
    def name(self) -> str:
        """Capture, node, family and what the rules are loaded with."""
        return f"{self.case.name}/{self.case.node}/{self.case.family} ({self.lab.flavour})"

    def trial(self, seed: int, *, questions: int = 30) -> Trial:
        """Make the rule set of a seed, load it, and hold walker and kernel against each other."""
        rng = random.Random(seed)
        mutator: Mutator | NftMutator
        if self.lab.flavour == "nftables":
            mutator = NftMutator(self.case.text, self.world, rng)
        else:
            mutator = Mutator(self.text, self.world, rng, self.way)
        edits = mutator.run()
        name = f"{self.name} seed {seed}"
        try:
            self.lab.load(mutator.render(), self.case.family)
        except LoadError as error:
            self.figures.refused += 1
            return Trial(name, edits, refused=str(error))
        self.figures.rule_sets += 1
        text = self.lab.save(self.case.family)
        plain = self.lab.listing() if self.case.mode == "nftables" else ""
        asker = self.case.asker(text)
        picked = self.pick(mutator.touched, rng, questions)
        # What every question comes to is asked too, for the few that the edits reach by ways that no name tells.
        also = interesting(mutator.touched, self.case.family)
        renumbers = not re.search(r"-j MASQUERADE(?! --random-fully)", text)
        judge = Judge(self.lab, rng, self.figures, renumbers=renumbers)
        asked = [(self.baseline[i][0], self.case.ask(asker, self.baseline[i][0])) for i in picked]
        moved = [i for i, (_, now) in zip(picked, asked, strict=True) if outline(now) != outline(self.baseline[i][1])]
        disagreements = judge.check(asked, also)
        trial = Trial(
            name, edits, text=text, plain=plain, disagreements=disagreements, picked=picked, moved=moved, judge=judge, also=also
        )
        if plain:
            reader = self.case.asker(plain)
            for question, now in asked:
                if outline(self.case.ask(reader, question)) != outline(now):
                    trial.apart.append(str(question))
                    self.figures.apart += 1
        return trial

    def pick(self, touched: list[str], rng: random.Random, most: int) -> list[int]:
        """Questions that go through what was edited, and some others."""
        near: dict[int, None] = {}
        words = {word for rule in touched for word in rule.split()}
        for word in words:
            for index in self.through.get(word, ()):
                near.setdefault(index)
        for index, (question, _) in enumerate(self.baseline):
            if f"{question.frontend.address}/32" in words or f"{question.frontend.address}/128" in words:
                near.setdefault(index)
        everything = range(len(self.baseline))
        chosen = rng.sample(list(near), min(len(near), most * 2 // 3))
        others = rng.sample(everything, min(len(everything), most))
        return list(dict.fromkeys(chosen + others))[:most]

    def close(self) -> None:
        self.lab.close()


@dataclass
class Trial:
    """How it went."""

    name: str
    edits: list[str]
    refused: str = ""
    text: str = ""
    plain: str = ""
    """nftables: the same rules as `nft list ruleset` prints them."""
    apart: list[str] = field(default_factory=list)
    """Questions whose answer from JSON and from text is not the same."""
    disagreements: list[Disagreement] = field(default_factory=list)
    picked: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    """Questions whose answer, says the walker, is another than before."""
    judge: Judge | None = None
    also: Ranges = ()

    def __str__(self) -> str:
        apart = [f"JSON and text differ: {question}" for question in self.apart]
        return "\n  ".join([self.name, *self.edits, *map(str, self.disagreements), *apart])


def outline(observed: Observed) -> object:
    """What an answer comes to, to be compared."""
    return (
        [
            (atom.sources, sorted((str(leg), round(share, 6)) for leg, share in atom.shares.items()), atom.unknown_share > 0)
            for atom in observed.atoms
        ],
        observed.affinity,
    )


def interesting(rules: list[str], family: int) -> Ranges:
    """The addresses at the edges of every source that some rules ask for."""
    edges = []
    for found in re.finditer(r"(?:-s |--ctorigsrc |--src-range )(\S+)", " ".join(rules)):
        first, _, last = found[1].partition("-")
        try:
            ranges = ((number(first), number(last)),) if last else network(first)
        except ValueError:
            continue
        for low, high in ranges:
            for edge in (low - 1, low, high, high + 1):
                if 0 < edge < ALL[family][0][1]:
                    edges.append(((edge, edge),))
    return union(edges)


def world_of(one: Case, text: str) -> World:
    """Words for edits: what the cluster and its rules name."""
    six = one.family == 6
    found = set(re.findall(r"-[sd] (\S+)/(?:32|128)", text))
    found |= set(re.findall(r'"((?:\d+\.){3}\d+|[0-9a-f:]+::[0-9a-f:]*)"', text)) if one.mode == "nftables" else set()
    found |= {a.strip("[]") for a in re.findall(r"--to-destination (\[[^\]]+\]|[0-9.]+)", text)}
    found |= {q.frontend.address for q in one.questions}
    # A few that nothing knows: an endpoint that is gone, somebody outside.
    found |= {"fd00:244:9::9", "2001:db8::7"} if six else {"10.244.9.9", "198.51.100.7", "203.0.113.77"}
    ports = {q.frontend.port for q in one.questions} | {int(p) for p in re.findall(r"--to-destination \S+:(\d+)", text)}
    networks = set(re.findall(r"(?<=-[sd] )\S+/(?!32\b|128\b)\d+", text))
    more = {"fd00:244::/32", "2001:db8::/32", "::/1"}
    networks |= more if six else {"10.244.0.0/16", "10.0.0.0/8", "172.18.0.0/24", "128.0.0.0/1"}
    return World(
        one.family, sorted(a for a in found if (":" in a) == six), sorted(n for n in networks if (":" in n) == six),
        sorted(ports) or [80], 0x400 if "/0x400 " in text + " " and "0x4000" not in text else 0x4000,
    )  # fmt: skip


def benches(
    figures: Figures, *, only: Sequence[str] = (), nftables: bool = False, crowds: bool = False, backends: Sequence[str] = ()
) -> list[Bench]:
    """A bench a capture and family: one node each, its lab its own; where `backends` are given, one for each of these.

    `crowds`: captures grown by many Services that are alike, instead of the captures.
    """
    from captured import CAPTURES

    found = []
    for name in CAPTURES:
        if (mode_of(name) == "nftables") is not nftables or (only and name not in only):
            continue
        node = nodes(name)[zlib.crc32(name.encode()) % len(nodes(name))]
        for family in (4,) if crowds else (4, 6):
            grown = crowd_of(name) if crowds else name
            if case(grown, node, family).questions:
                found += [Bench.of(grown, node, family, figures, backend) for backend in backends or ("",)]
    return found


def told(result: NodeResult) -> object:
    """What the audit says, without how it came to it."""
    findings = sorted((f.code, f.service or "", f.frontend or "", f.client or "", f.message, f.count) for f in result.findings)
    return findings, sorted((u.code, u.service or "", u.reason) for u in result.unverified)


@dataclass
class Auditor:
    """The audit of one node of a capture, its rules replaced."""

    case: Case
    thorough: bool = False
    """Ask the audit that walks everything too: its short cuts may not hide anything."""

    def __post_init__(self) -> None:
        from kubectl_svcroute.audit.cluster import Audit
        from kubectl_svcroute.model.selection import Selection

        from .questions import api_objects

        self.audit = Audit(api_objects(self.case.name), Selection())
        self.slow = Audit(api_objects(self.case.name), Selection(), thorough=True) if self.thorough else None
        place = folder(self.case.name) / "nodes" / self.case.node
        self.files = {path.name: path.read_text() for path in place.iterdir()}

    def of(self, trial: Trial) -> tuple[NodeResult, str]:
        """What the audit makes of the node with a trial's rules, and in what it differs from itself."""
        if self.case.mode == "nftables":
            files = {name: text for name, text in self.files.items() if not name.startswith("nft-ruleset")}
            dump = NodeDump(node=self.case.node, files={**files, "nft-ruleset.json": trial.text})
            result = self.audit.judged(dump)
            other = self.audit.judged(NodeDump(node=self.case.node, files={**files, "nft-ruleset.txt": trial.plain}))
            if _plainly(result) != _plainly(other):
                return result, f"JSON and text: {_difference(_plainly(result), _plainly(other))}"
        else:
            name = "ip6tables-save.txt" if self.case.family == 6 else "iptables-save.txt"
            dump = NodeDump(node=self.case.node, files={**self.files, name: trial.text})
            result = self.audit.judged(dump)
        if self.slow is not None and (walked := told(self.slow.judged(dump))) != told(result):
            return result, f"a short cut: {_difference(told(result), walked)}"
        return result, ""


def _plainly(result: NodeResult) -> object:
    """What stays the same whether rules were read as JSON or as text: not how they are quoted."""
    findings = sorted({(f.code, f.service or "", f.node) for f in result.findings})
    return findings, sorted({(u.code, u.service or "") for u in result.unverified})


def _difference(one: Any, other: Any) -> str:
    first, second = [*one[0], *one[1]], [*other[0], *other[1]]
    mine, others = [x for x in first if x not in second], [x for x in second if x not in first]
    return f"only the one: {mine[:4]}, only the other: {others[:4]}"


def verdict(bench: Bench, trial: Trial, auditor: Auditor) -> str:
    """`false green`, `false alarm` or empty: whether the audit notices exactly what the kernel does otherwise than before.

    The kernel's word is had on every question whose answer the walker says has changed, and, where the audit finds
    something that the walker's changed answers do not bear out, on all of them.
    """
    assert trial.judge is not None
    bench.figures.audited += 1
    result, split = auditor.of(trial)
    if split:
        bench.figures.splits += 1
        return f"the audit does not agree with itself, {split}"
    errors = [f for f in result.findings if f.severity is Severity.ERROR]
    quiet = not result.findings and not result.unverified
    changed = ""
    unfelt: set[str] = set()
    asker = bench.case.asker(trial.text)
    # Which questions the edits reach is the walker's word; the kernel's is had on a few that it says are as before, too.
    for index in range(len(bench.baseline)):
        if index in trial.picked and index not in trial.moved:
            continue  # asked already, and the kernel does what it did before
        question, before = bench.baseline[index]
        now = bench.case.ask(asker, question)
        if outline(now) == outline(before) or allowed(question, now):
            continue
        if not felt(bench.case, question, before, now):
            unfelt.add(str(question.frontend))
            continue
        if what := trial.judge.kernel_differs(question, before, now, trial.also):
            changed = f"{question}: {what}"
            break
    if changed:
        bench.figures.changed += 1
        if quiet:
            bench.figures.false_greens += 1
            return f"false green: {changed}"
        if not errors and not result.unverified:
            bench.figures.mild[", ".join(sorted({f.code for f in result.findings}))] += 1
    elif errors:
        bench.figures.codes.update({f.code for f in errors})
        asked = {str(question.frontend) for question, _ in bench.baseline}
        # A mark of kube-proxy's own that only endpoints of other nodes would meet is a wrong rule, and no packet feels it.
        excused = [
            f.code in UNMEASURED
            or (f.code == "SR411" and f.frontend not in asked)
            or (f.code == "SR303" and f.frontend in unfelt)
            for f in errors
        ]
        if not all(excused):
            bench.figures.false_alarms += 1
            return "false alarm: " + "; ".join(f"{f.code} {f.message}" for f in errors[:3])
    return ""


def felt(case: Case, question: Question, before: Observed, now: Observed) -> bool:
    """Whether any packet can feel the change.

    What an endpoint on another node sends passes through that node's rules. So who masquerades it here is no matter, and CNIs do
    (flannel masquerades what has a pod's address of another node and goes to a third).
    """
    if question.client is not Client.HAIRPIN:
        return True
    for first, last in question.sources:
        for source in range(first, last + 1):
            was, does = (_shares_of(observed, source, masquerade=contains(case.own_pods, source)) for observed in (before, now))
            if was != does:
                return True
    return False


def _shares_of(observed: Observed, source: int, *, masquerade: bool) -> list[tuple[str, float]]:
    """What becomes of one source's packets, with or without a word about masquerade."""
    atom = next(atom for atom in observed.atoms if contains(atom.sources, source))
    found: dict[str, float] = {"unknown": atom.unknown_share}
    for leg, share in atom.shares.items():
        what = f"{leg.action} {leg.backend}" + (f" {leg.masquerade}" if masquerade else "")
        found[what] = found.get(what, 0.0) + share
    return sorted((what, round(share, 6)) for what, share in found.items())


def allowed(question: Question, now: Observed) -> bool:
    """What other versions or the kubelet's own rules decide is as right one way as the other: neither is a change."""
    e = question.expectation
    if e is None or not e.also:
        return False
    return all({leg.action for leg in atom.shares} <= {e.action, *e.also} and not atom.unknown for atom in now.atoms)


UNMEASURED = {
    "SR205": "a share that moved by less than a sample can tell",
    "SR405": "seconds of affinity, which nobody waits for here",
    "SR501": "an address that no Service has, about which no question asks",
    "SR308": "the address that a packet is masqueraded with, which answers do not compare",
}
"""Findings of severity error that a kernel whose behaviour looks the same does not refute, and why."""
