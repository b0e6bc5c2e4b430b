"""Walking one of many alike is as good as walking all: on healthy rules, and on rules changed anywhere, in any way."""

from __future__ import annotations

import random
import re
from functools import cache

import pytest
from captured import CAPTURES, capture

from kubectl_svcroute.audit import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.snapshot import NodeDump, Snapshot
from kubectl_svcroute.selection import Selection

IPTABLES = [name for name in CAPTURES if "iptables" in name]
FOREIGN = [
    "-j ACCEPT", "-p tcp -j DROP", "-s 10.244.1.0/24 -j RETURN", "-p tcp -m tcp --dport 80 -j DNAT --to-destination 9.9.9.9:9",
    "-d 10.244.3.0/24 -j DROP", "-s 10.244.2.10/32 -j ACCEPT", "-j MARK --set-xmark 0x4000/0x4000",
    "-m u32 --u32 0x0=0x0 -j DROP",
    "-d 10.96.0.0/13 -j ACCEPT", "-p tcp -m tcp --dport 8080 -j DROP", "-m set --match-set x dst -j ACCEPT", "-p udp -j ACCEPT",
    "-i lo -j ACCEPT", "-m addrtype --dst-type LOCAL -j ACCEPT", "-m conntrack --ctstate NEW -j MARK --set-xmark 0x0/0xffffffff",
]  # fmt: skip


@cache
def snapshot(name: str) -> Snapshot:
    """A capture, loaded once."""
    return load_snapshot(capture(name))


@cache
def judges(name: str) -> tuple[Audit, Audit]:
    """(the usual audit, the one that walks everything)."""
    return Audit(snapshot(name).api, Selection()), Audit(snapshot(name).api, Selection(), thorough=True)


def edited(text: str, rng: random.Random) -> str:
    """One to four edits of a dump, each somewhere in its rules."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        rules = [n for n, line in enumerate(lines) if line.startswith("-A ")]
        at = rng.choice(rules)
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                other = rng.choice(rules)
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                digits = [m.start() for m in re.finditer(r"\d", lines[at])]
                where = rng.choice(digits) if digits else 0
                lines[at] = lines[at][:where] + str(rng.randrange(10)) + lines[at][where + 1 :] if digits else lines[at]
            case 4:
                lines[at] = re.sub(r" (-[sd]) ", r" ! \1 ", lines[at], count=1)
            case 5:
                targets = re.findall(r"-j (KUBE-S\S+)$", "\n".join(lines), re.MULTILINE)
                lines[at] = re.sub(r"-j \S+$", f"-j {rng.choice(targets)}", lines[at])
            case 6:
                chain = lines[at].split(" ")[1]
                lines.insert(at, f"-A {chain} {rng.choice(FOREIGN)}")
            case 7:
                base = rng.choice([n for n in rules if re.match(r"-A [A-Z]+ ", lines[n])])
                lines.insert(base, f"-A {lines[base].split(' ')[1]} {rng.choice(FOREIGN)}")
    return "\n".join(lines)


def told(result: NodeResult) -> object:
    """What a result says, without how it came to it."""
    findings = sorted((f.code, f.service or "", f.message, f.severity, f.count) for f in result.findings)
    return findings, sorted((u.code, u.service or "", u.reason) for u in result.unverified)


def compare(name: str, seed: int) -> None:
    """Both audits of one node with edited rules say the same."""
    rng = random.Random(seed)
    dump = rng.choice(snapshot(name).nodes).read()
    assert isinstance(dump, NodeDump)
    file = "ip6tables-save.txt" if "KUBE-SVC" in dump.files["ip6tables-save.txt"] and rng.random() < 0.2 else "iptables-save.txt"
    changed = NodeDump(node=dump.node, files={**dump.files, file: edited(dump.files[file], rng)})
    quick, thorough = (judge.node(changed) for judge in judges(name))
    assert told(quick) == told(thorough), f"capture {name}, seed {seed}"


@pytest.mark.parametrize("name", IPTABLES)
def test_healthy_rules(name: str) -> None:
    """On every node of a healthy cluster both say the same, and the shares too."""
    for handle in snapshot(name).nodes:
        quick, thorough = (judge.node(handle.read()) for judge in judges(name))
        assert told(quick) == told(thorough)
        assert quick.even, "no Service was recognised as a twin: the test would prove nothing"
        for (service, _, _), share in thorough.shares.items():
            if service in quick.even:
                assert share > 0


@pytest.mark.parametrize("name", IPTABLES)
@pytest.mark.parametrize("block", range(4))
def test_changed_rules(name: str, block: int) -> None:
    """Whatever is changed, the quick way sees what the walk sees."""
    for seed in range(block * 12, block * 12 + 12):
        compare(name, seed)


def test_fresh_changes() -> None:
    """Changes that nobody has tried before; the seed is printed."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seeds from {seed}")
    for number in range(20):
        compare(IPTABLES[number % len(IPTABLES)], seed + number)
