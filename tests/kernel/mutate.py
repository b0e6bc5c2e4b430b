# ruff: noqa: E501 - a rule of iptables is one line, however long
"""Seeded edits of rule sets, as people, other programs and accidents make them.

An edit need not make sense; iptables-restore says whether it is one that a node could have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .lab import complete

_HOOKED = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


@dataclass
class Rules:
    """iptables-save text in pieces that can be edited: table -> chain -> policy and rules."""

    chains: dict[str, dict[str, str]]
    rules: dict[str, dict[str, list[str]]]
    """Without their `-A chain `."""

    @classmethod
    def parse(cls, text: str) -> Rules:
        chains: dict[str, dict[str, str]] = {}
        rules: dict[str, dict[str, list[str]]] = {}
        table = ""
        for line in complete(text).splitlines():
            if line.startswith("*"):
                table = line[1:]
                chains[table], rules[table] = {}, {}
            elif line.startswith(":"):
                name, policy = line[1:].split()[:2]
                chains[table][name], rules[table][name] = policy, []
            elif line.startswith("-A "):
                _, name, rest = line.split(" ", 2)
                rules[table][name].append(rest)
        return cls(chains, rules)

    def render(self) -> str:
        lines = []
        for table, chains in self.chains.items():
            lines.append(f"*{table}")
            lines += [f":{name} {policy} [0:0]" for name, policy in chains.items()]
            for name, mine in self.rules[table].items():
                lines += [f"-A {name} {rule}" for rule in mine]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class World:
    """Words to make edits of: what exists in the cluster that the rules are of."""

    family: int
    addresses: Sequence[str]
    """Frontends, backends, nodes, clients."""
    networks: Sequence[str]
    ports: Sequence[int]
    bit: int = 0x4000

    @property
    def host(self) -> str:
        return "/128" if self.family == 6 else "/32"


Edit = Callable[["Mutator"], str]


class Mutator:
    """One to five edits of one rule set. `on_the_way`: (table, chain) pairs to prefer, as packets go through them."""

    def __init__(self, text: str, world: World, rng: random.Random, on_the_way: Sequence[tuple[str, str]] = ()) -> None:
        self.rules = Rules.parse(text)
        self.world = world
        self.rng = rng
        self.way = [pair for pair in on_the_way if pair[1] in self.rules.chains.get(pair[0], ())]
        self.touched: list[str] = []
        """The rules that were edited, before and after, and the chains that they stand in."""

    def run(self) -> list[str]:
        """Do the edits; what they were, in words."""
        done = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 4, 5))):
            for _ in range(20):
                edit = self.rng.choice(EDITS)
                what = edit(self)
                if what:
                    done.append(f"{edit.__name__}: {what}")
                    break
        return done

    def render(self) -> str:
        return self.rules.render()

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def chain(self, table: str = "") -> tuple[str, str]:
        choices = [pair for pair in self.way if not table or pair[0] == table]
        if choices and self.rng.random() < 0.8:
            return self.rng.choice(choices)
        if not table:
            table = self.rng.choice(("nat", "nat", "filter", "filter", "mangle", "raw", "security"))
        if self.rng.random() < 0.5:
            return table, self.rng.choice(_HOOKED[table])
        return table, self.rng.choice(list(self.rules.chains[table]))

    def rule(self, contains: str = "") -> tuple[str, str, int] | None:
        """(table, chain, position) of a rule that contains something."""
        for preferred in (True, False):
            found = [
                (table, name, at)
                for table, chains in self.rules.rules.items()
                for name, mine in chains.items()
                if not preferred or (table, name) in self.way
                for at, rule in enumerate(mine)
                if contains in rule
            ]
            if found and not (preferred and self.rng.random() < 0.2):
                return self.rng.choice(found)
        return None

    def change(self, contains: str, new: Callable[[str], str | None]) -> str:
        place = self.rule(contains)
        if place is None:
            return ""
        table, name, at = place
        mine = self.rules.rules[table][name]
        changed = new(mine[at])
        if changed is None or changed == mine[at]:
            return ""
        what = f"{table} {name} {at}: {mine[at]} => {changed}"
        self.touched += [name, mine[at], changed]
        mine[at] = changed
        return what

    def address(self, *, network: bool = True) -> str:
        if network and self.rng.random() < 0.3:
            return self.rng.choice(self.world.networks)
        return self.rng.choice(self.world.addresses) + (self.world.host if network else "")

    def match(self, hook: str) -> str:
        """Some matches, of the kinds that the walker answers and a few that it cannot."""
        rng = self.rng
        port = rng.choice(self.world.ports)
        proto = rng.choice(("tcp", "tcp", "udp", "sctp"))
        no = rng.choice(("", "", "! "))
        six = self.world.family == 6
        low, high = sorted(rng.sample(range(1, 65536), 2))
        two = sorted((self.address(network=False), self.address(network=False)), key=_order)
        choices = [
            "", "", "",
            f"{no}-d {self.address()} ", f"-d {self.address()} ", f"{no}-s {self.address()} ",
            f"-d {self.address()} -p {proto} -m {proto} --dport {port} ",
            f"-p {proto} -m {proto} {no}--dport {port} ", f"-p {proto} -m {proto} --dport {low}:{high} ",
            f"{no}-p {proto} ", f"-p {proto} -m multiport {no}--dports {port},{low}:{high} ",
            f"-p tcp -m tcp {no}--tcp-flags {rng.choice(('FIN,SYN,RST,ACK SYN', 'SYN SYN', 'SYN,ACK ACK', 'ALL SYN'))} ",
            f"-p tcp -m tcp {no}--syn ",
            f"-m mark {no}--mark {hex(self.world.bit)}/{hex(self.world.bit)} ",
            f"-m connmark {no}--mark {rng.choice(('0x1/0x1', '0x0', '0x4000/0x4000'))} ",
            f"-m conntrack {no}--ctstate {rng.choice(('NEW', 'RELATED,ESTABLISHED', 'DNAT', 'SNAT', 'INVALID', 'NEW,UNTRACKED'))} ",
            f"-m conntrack {no}--ctorigdst {self.address()} ", f"-p {proto} -m conntrack {no}--ctorigdstport {port} ",
            f"-m conntrack {no}--ctorigsrc {self.address()} ", f"-m conntrack {no}--ctproto {proto} ",
            f"-m conntrack --ctdir {rng.choice(('ORIGINAL', 'REPLY'))} ", f"-m state --state {rng.choice(('NEW', 'ESTABLISHED'))} ",
            f"-m addrtype {no}--{rng.choice(('src', 'dst'))}-type LOCAL ",
            f"-m addrtype {no}--{rng.choice(('src', 'dst'))}-type UNICAST ",
            f"-m statistic --mode random {no}--probability 0.{rng.randint(1, 9)} ",
            _nth(hook, rng.randint(2, 4)),
            f"-m iprange {no}--{rng.choice(('src', 'dst'))}-range {two[0]}-{two[1]} ",
            f"-m pkttype {no}--pkt-type {rng.choice(('unicast', 'broadcast', 'multicast'))} ",
            f"-m recent --name foreign {rng.choice(('--set', '--rcheck', '--update'))} ",
            "-m limit --limit 1/hour ", "-m length --length 40:60 ", "-m comment --comment \"-j DROP\" ",
        ]  # fmt: skip
        if hook in ("PREROUTING", "INPUT", "FORWARD"):
            choices += [f"{no}-i {rng.choice(('veth0', 'eth0', 'veth+', 'lo'))} "] * 2
            choices += [f"-m physdev {no}--physdev-is-in ", f"-m policy --dir in --pol {rng.choice(('none', 'ipsec'))} "]
        if hook in ("FORWARD", "OUTPUT", "POSTROUTING"):
            choices += [f"{no}-o {rng.choice(('veth0', 'eth0', 'lo'))} "]
        if hook in ("OUTPUT", "POSTROUTING"):
            choices += [f"-m owner {no}--uid-owner 0 ", f"-m owner {no}--socket-exists "]
        if hook == "PREROUTING":
            choices += ["-m rpfilter ", "-m rpfilter --invert "]
        found = rng.choice(choices)
        if rng.random() < 0.15:
            more = rng.choice(choices)
            if not any(f"-{letter} " in found and f"-{letter} " in more for letter in "sdpio"):
                found += more
        return found if not six or "-m physdev" not in found else ""

    def foreign(self, table: str, chain: str) -> str:
        """A rule for a chain; empty when nothing came of it."""
        hook = hook_of(table, chain)
        match, target = self.match(hook), self.target(table, hook)
        if "-p " in match and target.startswith("-p "):
            target = target.split(" ", 2)[2]
            if "! -p" in match:
                match = ""
        if "-p " not in match and target.startswith("-p "):
            protocol = target.split(" ", 2)[1]
            match, target = f"-p {protocol} {match}", target.split(" ", 2)[2]
        return match + target

    def target(self, table: str, hook: str) -> str:
        """A target that the table allows, most of the time."""
        rng = self.rng
        bit = hex(self.world.bit)
        address = self.address(network=False)
        there = f"[{address}]" if self.world.family == 6 else address
        port = rng.choice(self.world.ports)
        choices = [
            "-j ACCEPT", "-j ACCEPT", "-j DROP", "-j DROP", "-j RETURN", "-j RETURN", "",
            f"-j {rng.choice(list(self.rules.chains[table]))}", f"-g {rng.choice(list(self.rules.chains[table]))}",
            "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark", "-j CONNMARK --set-mark 1",
        ]  # fmt: skip
        marks = [
            f"-j MARK --set-xmark {bit}/{bit}", f"-j MARK --set-xmark 0x0/{bit}", f"-j MARK --set-xmark {bit}/0x0",
            "-j MARK --set-mark 0x8000", f"-j MARK --or-mark {bit}", "-j MARK --set-xmark 0x0/0xffffffff",
        ]  # fmt: skip
        choices += marks
        if table == "nat":
            # The nat table takes no DROP. Mark, save, masquerade: what the chain is for decides which NAT it allows.
            choices = [choice for choice in choices if choice != "-j DROP"]
        if table == "nat" and hook in ("PREROUTING", "OUTPUT", ""):
            proto = rng.choice(("tcp", "tcp", "udp", "sctp"))
            choices += [f"-p {proto} -j DNAT --to-destination {there}:{port}", f"-j DNAT --to-destination {address}"] * 3
            choices += [f"-p {proto} -j REDIRECT --to-ports {port}", "-j REDIRECT"]
        if table == "nat" and hook in ("POSTROUTING", "INPUT"):
            choices += ["-j MASQUERADE --random-fully", "-j MASQUERADE", f"-j SNAT --to-source {address}"] * 2
        if table == "filter":
            choices += ["-j REJECT", "-p tcp -j REJECT --reject-with tcp-reset"]
        if table == "raw":
            choices += ["-j CT --notrack", "-j NOTRACK"]
        return rng.choice(choices)


def hook_of(table: str, chain: str) -> str:
    """The hook that packets are at in a chain; empty where it may be more than one of those that change destinations."""
    if chain in _HOOKED[table]:
        return chain
    return "POSTROUTING" if table == "nat" and "POSTROUTING" in chain else ""


def _order(address: str) -> tuple[int, ...]:
    from kubectl_svcroute.model.ranges import number

    return (number(address),)


# ---- the edits ---------------------------------------------------------------------------------------------------------


def delete(m: Mutator) -> str:
    place = m.rule()
    if place is None:
        return ""
    table, name, at = place
    gone = m.rules.rules[table][name].pop(at)
    m.touched += [name, gone]
    return f"{table} {name} {at}: {gone}"


def duplicate(m: Mutator) -> str:
    place = m.rule()
    if place is None:
        return ""
    table, name, at = place
    mine = m.rules.rules[table][name]
    rule = mine[at]
    elsewhere = m.chain(table)[1] if m.rng.random() < 0.3 else name
    m.rules.rules[table][elsewhere].insert(m.rng.randint(0, len(m.rules.rules[table][elsewhere])), rule)
    m.touched += [name, elsewhere, rule]
    return f"{table} {name} -> {elsewhere}: {rule}"


def reorder(m: Mutator) -> str:
    place = m.rule()
    if place is None:
        return ""
    table, name, at = place
    mine = m.rules.rules[table][name]
    if len(mine) < 2:
        return ""
    rule = mine.pop(at)
    m.touched += [name, rule]
    to = m.rng.randint(0, len(mine))
    mine.insert(to, rule)
    return f"{table} {name}: {rule} from {at} to {to}" if to != at else ""


def retarget(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        match = re.search(r"-[jg] \S+.*$", rule)
        if not match:
            return None
        others = [c for c in m.rules.chains["nat"] if c.startswith(("KUBE-SE", "KUBE-SVC", "KUBE-EXT", "KUBE-MARK"))]
        target = m.rng.choice([*(f"-{m.rng.choice('jg')} {m.rng.choice(others)}" for _ in range(2)), "-j RETURN", "-j ACCEPT"])
        return rule[: match.start()] + target

    return m.change("-j KUBE", new)


def change_address(m: Mutator) -> str:
    option = m.rng.choice(("-d ", "-s ", "--to-destination "))

    def new(rule: str) -> str | None:
        if option == "--to-destination ":
            address = m.address(network=False)
            there = f"[{address}]" if m.world.family == 6 else address
            return re.sub(r"(--to-destination )(\[[^\]]*\]|[0-9.]+)", lambda f: f[1] + there, rule)
        return re.sub(rf"({option})(\S+)", lambda f: f[1] + m.address(), rule, count=1)

    return m.change(option, new)


def change_port(m: Mutator) -> str:
    option = m.rng.choice(("--dport ", "--to-destination "))
    port = m.rng.choice((*m.world.ports, m.rng.randint(1, 65535)))

    def new(rule: str) -> str | None:
        if option == "--dport ":
            return re.sub(r"(--dport )\d+", lambda f: f"{f[1]}{port}", rule)
        return re.sub(r"(--to-destination \S+:)\d+$", lambda f: f"{f[1]}{port}", rule)

    return m.change(option, new)


def change_protocol(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        found = re.search(r"-p (tcp|udp|sctp)\b", rule)
        if not found:
            return None
        other = m.rng.choice([p for p in ("tcp", "udp", "sctp") if p != found[1]])
        return re.sub(rf"-([pm]) {found[1]}\b", lambda f: f"-{f[1]} {other}", rule)

    return m.change("-p ", new)


def change_mark(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        value = hex(1 << m.rng.randint(0, 31))
        place = m.rng.choice((r"(mark )0x[0-9a-f]+", r"(mark 0x[0-9a-f]+/)0x[0-9a-f]+"))
        return re.sub(place, lambda f: f[1] + m.rng.choice((value, "0x0", "0xffffffff")), rule, flags=re.I)

    return m.change("mark 0x", new)


def change_probability(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        return re.sub(r"(--probability )\S+", lambda f: f"{f[1]}{m.rng.choice((0.0, 0.05, 0.25, 0.5, 0.9, 1.0)):.11f}", rule)

    return m.change("--probability", new)


def add_source(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        if "-s " in rule:
            return re.sub(r"(! )?-s \S+ ", "", rule) if m.rng.random() < 0.5 else None
        return f"{m.rng.choice(('', '! '))}-s {m.address()} {rule}"

    return m.change("", new)


def negate(m: Mutator) -> str:
    def new(rule: str) -> str | None:
        options = "-s|-d|-p|-i|--dport|--mark|--ctstate|--dst-type|--src-type|--probability|--rcheck|--syn"
        found = list(re.finditer(rf"(! )?(?<![\w-])({options})(?= )", rule))
        if not found:
            return None
        one = m.rng.choice(found)
        flipped = one[2] if one[1] else f"! {one[2]}"
        return rule[: one.start()] + flipped + rule[one.end() :]

    return m.change("-", new)


def insert(m: Mutator) -> str:
    table, name = m.chain()
    if m.rng.random() < 0.3:
        # Every hook that a packet goes through is on its way, whether kube-proxy has rules there or not.
        table = m.rng.choice(("raw", "mangle", "filter", "security"))
        name = m.rng.choice(_HOOKED[table])
    mine = m.rules.rules[table][name]
    rule = m.foreign(table, name)
    if not rule:
        return ""
    at = m.rng.choice((0, 0, m.rng.randint(0, len(mine)), len(mine)))
    mine.insert(at, rule)
    m.touched += [name, rule]
    return f"{table} {name} {at}: {rule}"


def change_policy(m: Mutator) -> str:
    if m.rng.random() < 0.7:
        return ""
    table = m.rng.choice(("filter", "filter", "mangle", "raw", "security"))
    name = m.rng.choice(_HOOKED[table])
    m.rules.chains[table][name] = "DROP"
    m.touched.append(name)
    return f"{table} {name}"


def empty_chain(m: Mutator) -> str:
    if m.rng.random() < 0.5:
        return ""
    table, name = m.chain()
    if not m.rules.rules[table][name]:
        return ""
    m.rules.rules[table][name].clear()
    m.touched.append(name)
    return f"{table} {name}"


def foreign_chain(m: Mutator) -> str:
    """Another program's chain, jumped to from one on the way, with a few rules in it."""
    table, name = m.chain()
    new = f"FOREIGN-{m.rng.randint(0, 999)}"
    if new in m.rules.chains[table]:
        return ""
    m.rules.chains[table][new] = "-"
    m.rules.rules[table][new] = [
        rule for rule in (m.foreign(table, name) for _ in range(m.rng.randint(1, 3))) if rule
    ]
    jump = f"{m.match(hook_of(table, name))}-{m.rng.choice('jg')} {new}"
    m.rules.rules[table][name].insert(m.rng.randint(0, len(m.rules.rules[table][name])), jump)
    m.touched += [name, new, jump, *m.rules.rules[table][new]]
    return f"{table} {name}: {jump} with {m.rules.rules[table][new]}"


EDITS: tuple[Edit, ...] = (
    delete, delete, duplicate, reorder, reorder, retarget, change_address, change_address, change_port, change_protocol,
    change_mark, change_probability, add_source, negate, negate, insert, insert, insert, insert, change_policy,
    empty_chain, foreign_chain, foreign_chain,
)  # fmt: skip


def _nth(hook: str, every: int) -> str:
    """Every so many packets; where the lab's own answers pass too, and are counted, by chance."""
    if hook in ("INPUT", "OUTPUT"):
        return f"-m statistic --mode random --probability 0.{every} "
    return f"-m statistic --mode nth --every {every} --packet 0 "
