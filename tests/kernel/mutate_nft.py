# ruff: noqa: E501 - a rule is one line, however long
"""Seeded edits of nftables rule sets, in the text that `nft list ruleset` prints and `nft -f` takes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from .mutate import World

_RULE = re.compile(r"^\t\t(?!type |flags |size |timeout |elements |policy |comment |\t|\})\S.*$")
_ELEMENTS = re.compile(r"elements = \{(.*?)\}\n", re.DOTALL)
_BASE = ("prerouting", "input", "forward", "output", "postrouting")


class NftMutator:
    """One to five edits of one rule set."""

    def __init__(self, text: str, world: World, rng: random.Random) -> None:
        self.lines = text.splitlines()
        self.world = world
        self.rng = rng
        self.word = "ip6" if world.family == 6 else "ip"
        self.touched: list[str] = []

    def run(self) -> list[str]:
        """Do the edits; what they were, in words."""
        done = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 4, 5))):
            for _ in range(20):
                edit = self.rng.choice(EDITS)
                if what := edit(self):
                    done.append(f"{edit.__name__}: {what}")
                    break
        return done

    def render(self) -> str:
        return "\n".join(self.lines) + "\n"

    def mine(self) -> list[int]:
        """The lines of the tables of the family."""
        found, mine = [], False
        for at, line in enumerate(self.lines):
            if line.startswith("table "):
                mine = line.split()[1] == self.word
            elif mine:
                found.append(at)
        return found

    def rules(self) -> list[int]:
        """Where rules stand, of the tables of the family."""
        found, mine, chain = [], False, False
        for at, line in enumerate(self.lines):
            if line.startswith("table "):
                mine = line.split()[1] == self.word
            elif line.startswith("\t") and not line.startswith("\t\t"):
                chain = line.startswith("\tchain ")
            elif mine and chain and _RULE.match(line):
                found.append(at)
        return found

    def around(self, at: int) -> str:
        """The chain that a line stands in."""
        return next((self.lines[n].split()[1] for n in range(at, -1, -1) if self.lines[n].startswith("\tchain ")), "")

    def change(self, new: Callable[[str], str]) -> str:
        for _ in range(30):
            at = self.rng.choice(self.rules())
            changed = new(self.lines[at])
            if changed != self.lines[at]:
                what = f"{self.around(at)}: {self.lines[at].strip()} => {changed.strip()}"
                self.touched += [self.around(at), self.lines[at], changed]
                self.lines[at] = changed
                return what
        return ""

    def foreign(self, kind: str) -> str:
        """A rule of another program."""
        rng, ip = self.rng, self.word
        address, port = rng.choice(self.world.addresses), rng.choice(self.world.ports)
        proto = rng.choice(("tcp", "tcp", "udp"))
        match = rng.choice((
            "", "", f"{ip} daddr {address} ", f"{ip} saddr {rng.choice(self.world.networks)} ", f"{proto} dport {port} ",
            f"{ip} daddr != {rng.choice(self.world.networks)} ", "ct state new ", "ct state established,related ",
            f"{ip} daddr {address} {proto} dport {port} ", f"fib daddr type local {proto} dport {port} ", "meta l4proto udp ",
            "meta mark & 0x00004000 != 0x00000000 ", f"{ip} saddr {{ {address}, {rng.choice(self.world.addresses)} }} ",
            "ct status dnat ", f"meta l4proto {{ tcp, sctp }} th dport {port} ", "numgen random mod 4 < 1 ",
            f"ct original {ip} daddr {address} ",
        ))  # fmt: skip
        targets = ["accept", "drop", "return", "meta mark set meta mark | 0x00004000", "meta mark set 0x00000000", "counter"]
        if kind == "dstnat":
            there = f"[{address}]" if self.world.family == 6 else address
            targets += [f"meta l4proto {proto} dnat to {there}:{port}", f"dnat to {address}"] * 2
        elif kind == "srcnat":
            targets += ["masquerade fully-random", f"snat to {address}"] * 2
        elif kind == "filter":
            targets += ["reject", "drop"]
        return match + rng.choice(targets)


def delete(m: NftMutator) -> str:
    at = m.rng.choice(m.rules())
    what = f"{m.around(at)}: {m.lines[at].strip()}"
    m.touched += [m.around(at), m.lines[at]]
    del m.lines[at]
    return what


def duplicate(m: NftMutator) -> str:
    at, to = m.rng.choice(m.rules()), m.rng.choice(m.rules())
    what = f"{m.around(at)} -> {m.around(to)}: {m.lines[at].strip()}"
    m.touched += [m.around(at), m.around(to), m.lines[at]]
    m.lines.insert(to, m.lines[at])
    return what


def reorder(m: NftMutator) -> str:
    at = m.rng.choice(m.rules())
    near = [n for n in m.rules() if n != at and m.around(n) == m.around(at)]
    if not near:
        return ""
    to = m.rng.choice(near)
    m.lines[at], m.lines[to] = m.lines[to], m.lines[at]
    m.touched += [m.around(at), m.lines[at], m.lines[to]]
    return f"{m.around(at)}: {m.lines[at].strip()} with {m.lines[to].strip()}"


def change_address(m: NftMutator) -> str:
    look = r"\b[0-9a-f]{1,4}:[0-9a-f:]+:[0-9a-f]*" if m.world.family == 6 else r"\b\d+\.\d+\.\d+\.\d+\b"

    def new(line: str) -> str:
        if "@" in line or "jump" in line or ("goto" in line and "vmap" in line):
            return line
        return re.sub(look, lambda _: m.rng.choice(m.world.addresses), line, count=1)

    return m.change(new)


def change_port(m: NftMutator) -> str:
    port = m.rng.choice(m.world.ports)
    return m.change(lambda line: re.sub(r"(dport |dnat to \S+:|(?<= )\. )(\d+)\b", lambda f: f"{f[1]}{port}", line, count=1))


def change_protocol(m: NftMutator) -> str:
    return m.change(lambda line: re.sub(r"\b(l4proto tcp|tcp dport)", lambda f: f[1].replace("tcp", "udp"), line))


def change_mark(m: NftMutator) -> str:
    return m.change(lambda line: re.sub(r"0x0000[04]000", lambda _: hex(1 << m.rng.randint(0, 31)), line, count=1))


def negate(m: NftMutator) -> str:
    def new(line: str) -> str:
        if " != " in line:
            return line.replace(" != ", " ", 1) if "0x0" not in line else line.replace(" != ", " == ", 1)
        return re.sub(r"(ip6? [sd]addr|dport|l4proto) (?=[\w@{])(?!vmap|map|\.)", lambda f: f"{f[1]} != ", line, count=1)

    return m.change(new)


def change_element(m: NftMutator) -> str:
    """A set's or map's element goes, changes its verdict, or takes another key."""
    text = m.render()
    start = text.find(f"table {m.word} ")
    end = text.find("\ntable ", start + 1)
    blocks = [f for f in _ELEMENTS.finditer(text) if start <= f.start() and (end < 0 or f.start() < end)]
    if not blocks:
        return ""
    block = m.rng.choice(blocks)
    elements = [e.strip() for e in block[1].split(",")]
    at = m.rng.randrange(len(elements))
    old = elements[at]
    way = m.rng.choice(("drop", "verdict", "key"))
    if way == "drop" or " : " not in old:
        new = ""
    elif way == "verdict":
        other = m.rng.choice(elements).partition(" : ")[2]
        new = old.partition(" : ")[0] + " : " + m.rng.choice((other, "drop", other))
    else:
        new = re.sub(r"\. (\d+)", lambda _: f". {m.rng.choice(m.world.ports)}", old, count=1)
    if new == old:
        return ""
    elements[at : at + 1] = [new] if new else []
    inner = f"elements = {{ {', '.join(elements)} }}\n" if elements else "\n"
    m.lines = (text[: block.start()] + inner + text[block.end() :]).splitlines()
    m.touched += [old, new, *re.findall(r"[\d.a-f:]+(?= \.)", old)]
    return f"{old} => {new or 'gone'}"


def retarget(m: NftMutator) -> str:
    """A jump or goto, or a verdict within a rule, that leads to another chain or ends."""
    chains = [line.split()[1] for line in m.lines if line.startswith("\tchain ")]
    like = [c for c in chains if c.startswith(("service-", "endpoint-", "external-", "local-", "mark-for", "reject-", "nodeport"))]

    def new(line: str) -> str:
        found = list(re.finditer(r"\b(?:jump|goto) [^\s,}]+", line))
        if not found:
            return line
        one = m.rng.choice(found)
        other = m.rng.choice([*(f"{m.rng.choice(('jump', 'goto'))} {m.rng.choice(like)}" for _ in range(3)), "return", "accept"])
        return line[: one.start()] + other + line[one.end() :]

    return m.change(new) if like else ""


def change_chance(m: NftMutator) -> str:
    """Another number of parts, or parts that begin elsewhere: endpoints get more, less, or nothing."""
    def new(line: str) -> str:
        kind = m.rng.choice(("mod", "key", "offset"))
        if kind == "mod":
            return re.sub(r"(numgen random mod )(\d+)", lambda f: f[1] + str(max(1, int(f[2]) + m.rng.choice((-1, 1, 2)))), line)
        if kind == "offset":
            return re.sub(r"(numgen random mod \d+) ", lambda f: f"{f[1]} offset 1 ", line)
        keys = list(re.finditer(r"(?<=[{,] )\d+(?= : )", line)) if "numgen" in line else []
        if not keys:
            return line
        one = m.rng.choice(keys)
        return line[: one.start()] + str(len(keys) + m.rng.randint(0, 2)) + line[one.end() :]

    return m.change(new) if any("numgen" in line for line in m.lines) else ""


def add_source(m: NftMutator) -> str:
    def new(line: str) -> str:
        if f"{m.word} saddr" in line:
            return re.sub(rf"{m.word} saddr (!= )?\S+ ", "", line, count=1)
        return f"\t\t{m.word} saddr {m.rng.choice(('', '!= '))}{m.rng.choice(m.world.networks)} {line.strip()}"

    return m.change(new)


def empty_chain(m: NftMutator) -> str:
    at = m.rng.choice(m.rules())
    name = m.around(at)
    gone = [n for n in m.rules() if m.around(n) == name]
    m.touched += [name, *(m.lines[n] for n in gone)]
    for n in reversed(gone):
        del m.lines[n]
    return name


def change_policy(m: NftMutator) -> str:
    found = [n for n in m.mine() if "policy accept" in m.lines[n] and "type filter" in m.lines[n]]
    if not found or m.rng.random() < 0.7:
        return ""
    at = m.rng.choice(found)
    m.lines[at] = m.lines[at].replace("policy accept", "policy drop")
    m.touched.append(m.around(at))
    return f"{m.around(at)}: policy drop"


def foreign_chain(m: NftMutator) -> str:
    """Another program's chain in kube-proxy's own table, jumped to from one of its rules."""
    at = m.rng.choice(m.rules())
    chain = m.around(at)
    kind = "srcnat" if "masq" in chain or "postrouting" in chain else "filter" if "check" in chain or "filter" in chain else "dstnat"
    name = f"foreign-{m.rng.randint(0, 999)}"
    rules = [m.foreign(kind) for _ in range(m.rng.randint(1, 3))]
    start = next(n for n in range(at, -1, -1) if m.lines[n].startswith("\tchain "))
    match = f"{m.word} saddr {m.rng.choice(m.world.networks)} " if m.rng.random() < 0.4 else ""
    jump = f"{match}{m.rng.choice(('jump', 'goto'))} {name}"
    m.lines.insert(at, "\t\t" + jump)
    m.lines[start:start] = [f"\tchain {name} {{", *("\t\t" + rule for rule in rules), "\t}"]
    m.touched += [chain, name, *rules]
    return f"{chain}: {jump} with {rules}"


def insert(m: NftMutator) -> str:
    at = m.rng.choice(m.rules())
    chain = m.around(at)
    kind = "srcnat" if "masq" in chain or "postrouting" in chain else "filter" if "check" in chain or "filter" in chain else "dstnat"
    rule = m.foreign(kind)
    m.lines.insert(at, "\t\t" + rule)
    m.touched += [chain, rule]
    return f"{chain}: {rule}"


def foreign_table(m: NftMutator) -> str:
    """Another program's table, hooked in before or behind kube-proxy's."""
    hook = m.rng.choice(_BASE)
    nat = hook != "forward" and m.rng.random() < 0.5
    kind = ("dstnat" if hook in ("prerouting", "output") else "srcnat") if nat else "filter"
    priority = m.rng.choice((-300, -150, -120, -105, -101, -50, 0, 10, 50, 99, 101)) if not nat else m.rng.choice((-110, -99, 90, 110))
    if hook == "postrouting" and kind == "filter" and m.rng.random() < 0.5:
        priority = m.rng.choice((90, 110))
    name = f"foreign{m.rng.randint(0, 999)}"
    rules = [m.foreign(kind) for _ in range(m.rng.randint(1, 3))]
    policy = "drop" if not nat and m.rng.random() < 0.15 else "accept"
    body = [
        f"table {m.word} {name} {{", "\tchain c {",
        f"\t\ttype {'nat' if nat else 'filter'} hook {hook} priority {priority}; policy {policy};",
        *("\t\t" + rule for rule in rules), "\t}", "}",
    ]  # fmt: skip
    m.lines = [*body, *m.lines] if m.rng.random() < 0.5 else [*m.lines, *body]
    m.touched += [name, *rules]
    return f"{hook} {priority} {'nat' if nat else 'filter'} policy {policy}: {rules}"


EDITS: Sequence[Callable[[NftMutator], str]] = (
    delete, delete, duplicate, reorder, reorder, retarget, change_address, change_address, change_port, change_protocol,
    change_mark, change_chance, add_source, negate, negate, change_element, change_element, change_element, insert, insert,
    insert, empty_chain, change_policy, foreign_chain, foreign_table, foreign_table,
)  # fmt: skip
