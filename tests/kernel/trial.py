"""One changed rule set on trial: does the walker still say what the kernel does, and does the audit notice a change?"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field

from captured import capture

from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.ranges import ALL, Ranges, network, number, union
from kubectl_svcroute.model.report import Severity
from kubectl_svcroute.model.snapshot import NodeDump
from kubectl_svcroute.model.ways import Observed

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
    def of(cls, name: str, node: str, family: int, figures: Figures) -> Bench:
        """A bench with a lab of its own."""
        one = case(name, node, family)
        return cls(one, Lab(mode_of(name), one.addresses, one.pod_cidrs), figures)

    def trial(self, seed: int, *, questions: int = 30) -> Trial:
        """Make the rule set of a seed, load it, and hold walker and kernel against each other."""
        rng = random.Random(seed)
        mutator: Mutator | NftMutator
        if self.lab.flavour == "nftables":
            mutator = NftMutator(self.case.text, self.world, rng)
        else:
            mutator = Mutator(self.text, self.world, rng, self.way)
        edits = mutator.run()
        name = f"{self.case.name}/{self.case.node}/{self.case.family} seed {seed}"
        try:
            self.lab.load(mutator.render(), self.case.family)
        except LoadError as error:
            self.figures.refused += 1
            return Trial(name, edits, refused=str(error))
        self.figures.rule_sets += 1
        text = self.lab.save(self.case.family)
        asker = self.case.asker(text)
        picked = self.pick(mutator.touched, rng, questions)
        # What every question comes to is asked too, for the few that the edits reach by ways that no name tells.
        also = interesting(mutator.touched, self.case.family)
        renumbers = not re.search(r"-j MASQUERADE(?! --random-fully)", text)
        judge = Judge(self.lab, rng, self.figures, renumbers=renumbers)
        asked = [(self.baseline[i][0], self.case.ask(asker, self.baseline[i][0])) for i in picked]
        moved = [i for i, (_, now) in zip(picked, asked, strict=True) if outline(now) != outline(self.baseline[i][1])]
        disagreements = judge.check(asked, also)
        return Trial(name, edits, text=text, disagreements=disagreements, picked=picked, moved=moved, judge=judge, also=also)

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
    disagreements: list[Disagreement] = field(default_factory=list)
    picked: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    """Questions whose answer, says the walker, is another than before."""
    judge: Judge | None = None
    also: Ranges = ()

    def __str__(self) -> str:
        return "\n  ".join([self.name, *self.edits, *(str(d) for d in self.disagreements)])


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


def benches(figures: Figures, *, only: tuple[str, ...] = (), nftables: bool = False) -> list[Bench]:
    """A bench a capture and family: one node each, its lab its own."""
    from captured import CAPTURES

    found = []
    for name in CAPTURES:
        if (mode_of(name) == "nftables") is not nftables or (only and name not in only):
            continue
        node = nodes(name)[zlib.crc32(name.encode()) % len(nodes(name))]
        for family in (4, 6):
            if case(name, node, family).questions:
                found.append(Bench.of(name, node, family, figures))
    return found


@dataclass
class Auditor:
    """The audit of one node of a capture, its rules replaced."""

    case: Case

    def __post_init__(self) -> None:
        from kubectl_svcroute.audit import Audit
        from kubectl_svcroute.selection import Selection

        from .questions import api_objects

        self.audit = Audit(api_objects(self.case.name), Selection())
        folder = capture(self.case.name) / "nodes" / self.case.node
        self.files = {path.name: path.read_text() for path in folder.iterdir()}

    def of(self, text: str) -> NodeResult:
        """What the audit makes of the node with other rules in the case's family."""
        name = "ip6tables-save.txt" if self.case.family == 6 else "iptables-save.txt"
        return self.audit.node(NodeDump(node=self.case.node, files={**self.files, name: text}))


def verdict(bench: Bench, trial: Trial, auditor: Auditor) -> str:
    """`false green`, `false alarm` or empty: whether the audit notices exactly what the kernel does otherwise than before.

    The kernel's word is had on every question whose answer the walker says has changed, and, where the audit finds
    something that the walker's changed answers do not bear out, on all of them.
    """
    assert trial.judge is not None
    bench.figures.audited += 1
    result = auditor.of(trial.text)
    errors = [f for f in result.findings if f.severity is Severity.ERROR]
    quiet = not result.findings and not result.unverified
    changed = ""
    asker = bench.case.asker(trial.text)
    order = trial.moved if not errors else list(dict.fromkeys([*trial.moved, *range(len(bench.baseline))]))
    for index in order:
        question, before = bench.baseline[index]
        now = bench.case.ask(asker, question)
        if index not in trial.moved and outline(now) == outline(before):
            continue
        if allowed(question, now):
            continue
        if what := trial.judge.kernel_differs(question, before, now, trial.also):
            changed = f"{question}: {what}"
            break
    if changed:
        bench.figures.changed += 1
        if quiet:
            bench.figures.false_greens += 1
            return f"false green: {changed}"
    elif errors:
        bench.figures.codes.update({f.code for f in errors})
        asked = {str(question.frontend) for question, _ in bench.baseline}
        if not all(f.code in UNMEASURED or (f.code == "SR411" and f.frontend not in asked) for f in errors):
            bench.figures.false_alarms += 1
            return "false alarm: " + "; ".join(f"{f.code} {f.message}" for f in errors[:3])
    return ""


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
