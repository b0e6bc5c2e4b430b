"""A trace for people: hook by hook and rule by rule, what each is for, and at the end what the marks were for.

One endpoint is told in full, and every one that is not as it should be; the others are a line each, because their rules say
the same with other names (`everything` tells them all). Many endpoints fold into one line that says how many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..model.fast_dataclass import dataclass
from ..model.report import Finding
from ..model.routes import Client
from ..model.trace import Branch, Ending, Exit, Hop, Role, Trace, Way
from . import RenderOptions
from .text import MARKS, Paint, clean, listed, pad, percent, plural, to_ascii, width, wrap

FOLD = 8
"""More branches than this at one fork are folded."""
_SHOWN = 5
"""So many of these are still shown one by one."""
_WAYS = 4

_JUMPS = frozenset((Role.ENTER, Role.FIND, Role.THROUGH, Role.CHOOSE, Role.ASK, Role.LOOK))
_FROM = {
    Client.POD: "a pod",
    Client.NODE: "the node itself",
    Client.OUTSIDE: "outside",
    Client.HAIRPIN: "an endpoint of its own",
}


@dataclass(frozen=True, slots=True)
class _Glyphs:
    tee: str
    bar: str
    corner: str
    arrow: str


_UNICODE = _Glyphs("├─ ", "│  ", "└─ ", "→")
_ASCII = _Glyphs("+- ", "|  ", "`- ", "->")


def pieces(trace: Trace, options: RenderOptions, *, commands: bool = False, everything: bool = False) -> Iterator[str]:
    """The trace, line by line. Raises nothing: what is missing is said."""
    teller = _Teller(trace, options, commands=commands, everything=everything)
    for line in teller.lines():
        text = line.rstrip()
        yield (to_ascii(text) if options.ascii_only else text) + "\n"


class _Teller:
    def __init__(self, trace: Trace, options: RenderOptions, *, commands: bool, everything: bool) -> None:
        self.trace = trace
        self.width = max(options.width, 40)
        self.paint = Paint(options.color)
        self.glyphs = _ASCII if options.ascii_only else _UNICODE
        self.commands = commands
        self.everything = everything
        self.last_command = ""
        self.marks = MARKS if not options.ascii_only else {**MARKS, "error": "x"}

    # ---- the whole --------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        trace = self.trace
        yield from self._head()
        shown = sorted(trace.ways, key=lambda way: not _wrong(way))[:_WAYS] if len(trace.ways) > _WAYS else trace.ways
        for n, way in enumerate(shown):
            yield ""
            yield from self._way(way, n + 1 if len(trace.ways) > 1 else 0)
        if len(trace.ways) > len(shown):
            yield ""
            yield from self.prose(f"The node tells {len(trace.ways)} sets of sources apart; {len(shown)} of them are shown.")
        if trace.frontend is not None:
            yield from self._marks()
            yield from self._answers(shown)
        yield from self._verdict()
        if self.commands and trace.frontend is not None:
            yield from self._by_hand()

    def _head(self) -> Iterator[str]:
        trace = self.trace
        to = f" to {trace.frontend}" if trace.frontend is not None else ""
        head = f"{clean(trace.service)} on {clean(trace.node)}: from {_FROM.get(trace.client, trace.client)}{to}"
        for line in wrap(head, self.width, indent="  "):
            yield self.paint("bold", line)
        facts = []
        if trace.frontend is not None:
            facts.append(f"{trace.frontend.kind}, port {trace.port}")
        if trace.mode:
            facts.append(f"kube-proxy {trace.version} in {trace.mode} mode".replace("  ", " "))
        if facts:
            yield from self.prose("; ".join(facts), kind="dim", indent="  ")
        if trace.frontend is not None:
            yield from self._links()

    def _links(self) -> Iterator[str]:
        for note in self.trace.notes:
            yield from self.prose(f"note: {note}", kind="dim")

    def prose(self, text: str, *, lead: str = "", kind: str = "", indent: str = "") -> Iterator[str]:
        """Words, wrapped behind a lead; `indent` begins every line but the first."""
        for line in wrap(clean(text), self.width - width(lead), indent=indent):
            yield lead + (self.paint(kind, line) if kind else line)

    def hung(self, text: str, tee: str, bar: str, *, kind: str = "", indent: str = "") -> Iterator[str]:
        """Words on a branch of the tree: the first line behind `tee`, the others behind `bar`."""
        for n, line in enumerate(wrap(clean(text), self.width - width(tee), indent=indent)):
            yield (bar if n else tee) + (self.paint(kind, line) if kind else line)

    def title(self, text: str) -> Iterator[str]:
        yield ""
        yield self.paint("bold", text.upper())

    # ---- a way ------------------------------------------------------------------------------------------------------

    def _way(self, way: Way, number: int) -> Iterator[str]:
        who = way.sources[:1].upper() + way.sources[1:]
        lead = f"{number}. " if number else ""
        first = f"{who} sends the first packet of a connection to {self.trace.frontend}."
        yield from self.hung(first, lead, " " * len(lead))
        if way.alike:
            yield from self.prose(f"({way.alike})", lead=" " * len(lead))
        yield from self._unasked(way)
        yield from self._tree(way)
        several = len(way.exits) > 1 or bool(way.exits and way.exits[0].who)
        for exit_ in way.exits:
            if several:
                yield ""
                words = exit_.who or "the packet"
                share = f" ({percent(exit_.share)} of connections)"
                yield from self.prose(f"Then {words}{share}:", kind="bold")
            yield from self._stages(exit_.hops, "", last=True)
            yield from self._leaves(exit_)
        for reason in way.unknown:
            yield from self.prose(f"{self.marks['unverified']} cannot be told: {reason}", kind="unverified")

    def _unasked(self, way: Way) -> Iterator[str]:
        """Where a packet is translated no rule was met: that has to be said, because a tree shows only what is there."""
        hook = "OUTPUT" if way.client is Client.NODE else "PREROUTING"
        nft = self.trace.mode == "nftables"
        if any(hop.hook == hook and (nft or hop.table == "nat") for hop in _all_hops(way.tree)):
            return
        yield ""
        head = f"{hook}, table {'kube-proxy' if nft else 'nat'}:"
        yield f"{self.paint('info', head)} where does it go?"
        text = f"{self.marks['error']} no rule here is about this packet: nothing sends it to kube-proxy's list of all Services"
        yield from self.hung(text, self.glyphs.corner, "   ", kind="error")

    def _leaves(self, exit_: Exit) -> Iterator[str]:
        if exit_.action == "translate":
            change = "masqueraded" if exit_.masquerade else "unchanged"
            text = f"{self.glyphs.arrow} it leaves with its source {change}: {exit_.source}"
            yield from self._wrong_or(text, exit_.wrong)
        elif exit_.action == "pass":
            yield from self.prose(f"{self.glyphs.arrow} it goes on untranslated")

    def _wrong_or(self, text: str, wrong: bool, *, lead: str = "") -> Iterator[str]:
        if wrong:
            yield from self.prose(f"{self.marks['error']} {text}, and should not", lead=lead, kind="error", indent="  ")
        else:
            yield from self.prose(text, lead=lead, indent="  ")

    def _tree(self, way: Way) -> Iterator[str]:
        yield from self._stages(way.tree.hops, "", last=not way.tree.branches)
        if way.tree.end is not None:
            yield from self._end_line(way.tree.end, "")
            yield from self._missing(way, "")
        else:
            yield from self._fork(way, way.tree, "")
        if way.affinity:
            yield ""
            yield from self.prose(f"Affinity: {way.affinity}.")
            if way.affinity_rule:
                yield from self._raw(way.affinity_rule, "")

    def _stages(self, hops: Sequence[Hop], lead: str, *, last: bool) -> Iterator[str]:
        """Hops under a head line for each hook and table."""
        stages = [(key, list(group)) for key, group in groupby(hops, key=lambda hop: (hop.hook, hop.table))]
        for n, ((hook, table), group) in enumerate(stages):
            if not lead:
                yield ""
                question = _question(hook, table, group)
                left = f"{hook}, table {clean(table)}:"
                for line in wrap(f"{left} {question}", self.width, indent="  "):
                    yield f"{self.paint('info', left)}{line[len(left) :]}" if line.startswith(left) else line
            yield from self._hops(group, lead, last=last or n < len(stages) - 1)

    def _hops(self, hops: Sequence[Hop], lead: str, *, last: bool) -> Iterator[str]:
        runs: list[list[Hop]] = []
        for hop in hops:
            look = hop.role is Role.LOOK and not self.everything
            if look and runs and runs[-1][0].role is Role.LOOK:
                runs[-1].append(hop)
            else:
                runs.append([hop])
        for n, run in enumerate(runs):
            end = last and n == len(runs) - 1
            tee = lead + (self.glyphs.corner if end else self.glyphs.tee)
            bar = lead + ("   " if end else self.glyphs.bar)
            if run[0].role is Role.LOOK and not self.everything:
                yield from self._looked(run, tee, bar)
            else:
                yield from self._hop(run[0], tee, bar)

    def _looked(self, run: Sequence[Hop], tee: str, bar: str) -> Iterator[str]:
        names = ", ".join(dict.fromkeys(hop.target for hop in run))
        words = f"past {names}: {'none' if len(run) > 1 else 'nothing there'} is about this packet"
        yield from self.hung(words, tee, bar, kind="dim")

    def _hop(self, hop: Hop, tee: str, bar: str) -> Iterator[str]:
        sign = f" {self.glyphs.arrow} " if hop.role in _JUMPS or (hop.role is Role.UNMARKED and hop.target != "RETURN") else ": "
        own = f"   {self.marks['warning']} not kube-proxy's rule" if hop.foreign else ""
        text = f"{hop.chain}{sign}{hop.target}{own}"
        yield from self.hung(text, tee, bar, kind="warning" if hop.foreign else "bold", indent="  ")
        yield from self.prose(hop.words, lead=bar + "  ")
        if hop.why:
            yield from self.prose(f"({hop.why})", lead=bar + "  ")
        yield from self._raw(hop.rule, bar)
        if self.commands and hop.command and hop.command != self.last_command:
            self.last_command = hop.command
            yield from self._command(hop.command, bar + "    ")

    def _raw(self, rule: str, bar: str) -> Iterator[str]:
        lead = bar + "    "
        for line in wrap(clean(rule), self.width - width(lead), indent="  "):
            yield lead + self.paint("dim", line)

    def _command(self, command: str, lead: str) -> Iterator[str]:
        # A command is there to be copied: it is never broken.
        yield lead + self.paint("info", f"$ {clean(command)}")

    # ---- forks and ends -----------------------------------------------------------------------------------------------

    def _fork(self, way: Way, branch: Branch, lead: str) -> Iterator[str]:
        branches = branch.branches
        if not branches:
            return
        yield lead + self.glyphs.bar
        yield from self.prose(self._chance(branch), lead=lead + self.glyphs.bar)
        whole = [b for b in branches if _interesting(b)]
        first = next((b for b in branches if b.end is not None), None)
        keep = branches
        if len(branches) > FOLD and not self.everything:
            kept = {id(b) for b in (*branches[:_SHOWN], *whole[:FOLD])}
            keep = tuple(b for b in branches if id(b) in kept)
        columns = self._columns([b.end for b in keep if b.end is not None] + list(way.missing))
        rest = [b for b in branches if all(b is not k for k in keep)]
        closing = not rest and not way.missing
        for n, b in enumerate(keep):
            final = closing and n == len(keep) - 1
            tee = lead + (self.glyphs.corner if final else self.glyphs.tee)
            bar = lead + ("   " if final else self.glyphs.bar)
            full = self.everything or b is first or _interesting(b)
            if b.end is not None:
                yield from self._endpoint(b.end, tee, bar, columns)
                if full:
                    yield from self._hops(b.hops, bar, last=True)
            else:
                yield from self.prose(f"{percent(b.share)} of connections:", lead=tee)
                yield from self._hops(b.hops, bar, last=False)
                yield from self._fork(way, b, bar)
        if rest:
            tee = lead + (self.glyphs.tee if way.missing else self.glyphs.corner)
            yield from self._folded(rest, tee, lead)
        yield from self._missing(way, lead, columns)

    def _chance(self, branch: Branch) -> str:
        count = len(branch.branches)
        ends = [b.end for b in branch.branches if b.end is not None]
        if any(e.unknown for e in ends):
            return "Here it cannot be told which way it goes:"
        first = branch.branches[0].hops[0] if branch.branches[0].hops else None
        if first is None or "by chance" not in first.words:
            return "Here the ways part:"
        if any(e.wrong == _UNEVEN for e in ends):
            return f"Chance decides among {count} endpoints, and does not treat them alike."
        if first.rule.startswith("-A "):
            if count == 2:
                return "Chance decides between 2 endpoints: half go to the first, the rest to the other."
            return (
                f"Chance decides among {count} endpoints. Their rules are asked in turn: the first takes 1 in {count}, the"
                f" next 1 in {count - 1} of what is left, and so on, so that all get the same."
            )
        return f"Chance decides among {count} endpoints: the kernel draws a number of 0 to {count - 1}."

    def _columns(self, ends: Sequence[Ending]) -> tuple[int, int, int, int]:
        pods = max((width(clean(e.pod or _NO_POD)) for e in ends), default=0)
        addresses = max((width(clean(e.address)) for e in ends), default=0)
        nodes = max((width(clean(e.node)) for e in ends), default=0)
        return pods, addresses, nodes, any(e.wrong for e in ends)

    def _endpoint(self, end: Ending, tee: str, bar: str, columns: tuple[int, int, int, int]) -> Iterator[str]:
        share = "   ?" if end.unknown else f"{percent(end.share):>4}"
        if end.action == "translate" or end.address:
            cells = [pad(clean(end.pod or _NO_POD), columns[0]), pad(clean(end.address), columns[1])]
            if end.node:
                cells.append(pad(clean(end.node), columns[2]))
            cells.append(clean(end.state) or "not known to the API")
            text = f"{share}  {'  '.join(cells)}"
        else:
            text = f"{share}  {_ENDS.get(end.action or '', 'cannot be told')}"
        bad = bool(end.wrong)
        mark = f"{self.marks['error']} " if bad else ""
        if not bad and columns[3]:
            mark = "  "
        lines = wrap_columns(mark + text, self.width - width(tee))
        for n, line in enumerate(lines):
            yield (tee if not n else bar) + (self.paint("error", line) if bad else line)
        if bad:
            should = f"; should get {percent(end.should)}" if end.should else ""
            yield from self.prose(f"{end.wrong}{should}", lead=bar + "  ", kind="error")
        if end.unknown:
            yield from self.prose(f"{self.marks['unverified']} {end.unknown}", lead=bar + "  ", kind="unverified")

    def _end_line(self, end: Ending, lead: str) -> Iterator[str]:
        """The end of a way without a fork."""
        if end.action == "translate":
            bits = [x for x in (end.pod, end.address, f"on {end.node}" if end.node else "", end.state) if x]
            text = f"{self.glyphs.arrow} all connections go to {', '.join(bits)}"
        else:
            text = f"{self.glyphs.arrow} {_WHOLE.get(end.action or '', 'what becomes of it cannot be told')}"
        if end.wrong:
            yield from self.prose(f"{self.marks['error']} {text[2:]}: {end.wrong}", lead=lead, kind="error", indent="  ")
        elif end.exit is None or end.action == "translate":
            yield from self.prose(text, lead=lead, indent="  ")
        if end.unknown:
            yield from self.prose(f"{self.marks['unverified']} {end.unknown}", lead=lead + "  ", kind="unverified")

    def _folded(self, rest: Sequence[Branch], tee: str, lead: str) -> Iterator[str]:
        shares = {percent(b.share) for b in rest}
        each = f"each {shares.pop()}" if len(shares) == 1 else f"{percent(sum(b.share for b in rest))} together"
        nodes = {b.end.node for b in rest if b.end is not None and b.end.node}
        states = {b.end.state for b in rest if b.end is not None}
        where = f", on {plural(len(nodes), 'node')}" if nodes else ""
        state = f", all {states.pop()}" if len(states) == 1 else ""
        text = f"and {len(rest)} more, {each}{where}{state}"
        yield from self.hung(text, tee, lead + "   ")

    def _missing(self, way: Way, lead: str, columns: tuple[int, int, int, int] = (0, 0, 0, 1)) -> Iterator[str]:
        if len(way.missing) > 1 and not any(end.action == "translate" for end in way.endings()):
            text = f"{self.marks['error']} none of its {len(way.missing)} endpoints gets a connection"
            yield from self.hung(text, lead + self.glyphs.corner, lead + "   ", kind="error")
            return
        shown = way.missing if self.everything else way.missing[:FOLD]
        for n, end in enumerate(shown):
            final = n == len(way.missing) - 1
            tee = lead + (self.glyphs.corner if final else self.glyphs.tee)
            yield from self._endpoint(end, tee, lead + ("   " if final else self.glyphs.bar), columns)
        if len(way.missing) > len(shown):
            more = f"{self.marks['error']} and {len(way.missing) - len(shown)} more that get no connection, and should"
            yield from self.hung(more, lead + self.glyphs.corner, lead + "   ", kind="error")

    # ---- marks and answers ------------------------------------------------------------------------------------------

    def _marks(self) -> Iterator[str]:
        trace = self.trace
        ways = [way for way in trace.ways for e in way.exits if e.action == "translate"]
        if not ways:
            return
        yield from self.title("What the mark is for")
        bit = f"{trace.mark:#x}"
        place = trace.test_chain
        setter = trace.mark_chain or "the Service's own chain"
        yield from self.prose(
            "The source of a packet can only be changed at the very end, in POSTROUTING, when it is known where it leaves."
            " Whether that is needed shows only at the beginning, while the address that was dialled still stands in the"
            f" packet. So {setter} leaves a note there: bit {bit} (bit {trace.mark.bit_length() - 1}) of the packet's mark, a"
            f" number that the kernel keeps beside the packet, and that no other machine ever sees. {place} looks for the"
            " note, takes it off, and masquerades the packets that bore it: it gives them an address of this node as their"
            " source."
        )
        said: set[tuple[str, bool, str]] = set()
        for n, way in enumerate(trace.ways, 1):
            for exit_ in way.exits:
                key = (exit_.who, exit_.marked, exit_.mark_reason)
                if exit_.action != "translate" or key in said:
                    continue
                said.add(key)
                who = exit_.who[:1].upper() + exit_.who[1:] if exit_.who else "Here the packet"
                who = f"{n}. {who}" if len(trace.ways) > 1 else who
                state = "is marked" if exit_.marked else "is not marked"
                yield from self._wrong_or_plain(f"{who} {state}: {exit_.mark_reason}.", exit_.wrong)

    def _wrong_or_plain(self, text: str, wrong: bool) -> Iterator[str]:
        yield ""
        if wrong:
            yield from self.prose(f"{self.marks['error']} {text}", kind="error")
        else:
            yield from self.prose(text)

    def _answers(self, ways: Sequence[Way]) -> Iterator[str]:
        said: list[str] = []
        for n, way in enumerate(ways, 1):
            number = f"{n}. " if len(self.trace.ways) > 1 else ""
            for exit_ in way.exits:
                who = f"{exit_.who[:1].upper()}{exit_.who[1:]}: " if exit_.who else ""
                if exit_.answer:
                    said.append(f"{number}{who}{exit_.answer}")
            stopped = {_STOPPED.get(end.action or "", "") for end in way.endings() if end.exit is None}
            said += [f"{number}{text}" for text in sorted(stopped) if text]
        if not said:
            return
        yield from self.title("How the answer comes back")
        for n, text in enumerate(dict.fromkeys(said)):
            if n:
                yield ""
            yield from self.prose(text)

    # ---- the verdict ------------------------------------------------------------------------------------------------

    def _verdict(self) -> Iterator[str]:
        trace = self.trace
        if trace.findings:
            yield from self.title("Where it differs from what should be")
            for finding in trace.findings:
                yield from self._finding(finding)
        if trace.beside:
            yield from self.title("What else is wrong on this node")
            for finding in trace.beside:
                yield from self._finding(finding)
        if trace.unverified:
            yield from self.title("Not verified")
            for u in trace.unverified:
                yield from self.prose(f"{self.marks['unverified']} {u.code}: {u.reason}", kind="unverified")
                for rule in u.evidence[-2:]:
                    yield from self._raw(rule, "")
        if trace.verdict == "as it should be":
            yield from self.title("As it should be")
            for n, way in enumerate(trace.ways, 1):
                number = f"{n}. " if len(trace.ways) > 1 else ""
                yield from self.prose(f"{self.marks['ok']}: {number}{way.expected}", kind="ok", indent="    ")
        if trace.elsewhere:
            yield ""
            codes = listed(sorted({f"{f.code} {f.name}" for f in trace.elsewhere}))
            yield from self.prose(
                f"Not on this way, but for other clients or addresses on this node: {codes}. Look at all of it with"
                f" `kubectl svcroute {_bare(trace.service)} -n {_namespace(trace.service)} --node {trace.node}`."
            )

    def _finding(self, finding: Finding) -> Iterator[str]:
        kind = finding.severity.value
        yield from self.prose(f"{self.marks[kind]} {finding.code} {finding.name}: {finding.message}", kind=kind)
        rows = [
            ("should be", finding.expected), ("is", finding.observed), ("traffic", finding.effect), ("repair", finding.heals),
            ("more", f"kubectl svcroute explain {finding.code}"),
        ]  # fmt: skip
        for label, text in rows:
            if text:
                lead = f"  {label:<10}"
                for n, line in enumerate(wrap(clean(text), self.width - len(lead))):
                    yield (lead if not n else " " * len(lead)) + line

    def _by_hand(self) -> Iterator[str]:
        yield from self.title("By hand")
        counted = (
            " In front of a rule, [packets:bytes] counts what has matched it: in table nat that is one packet a connection, so"
            " dial the Service and look again."
        )
        if self.trace.mode == "nftables":
            counted = ""  # kube-proxy's nftables rules have no counters
        yield from self.prose(f"On {self.trace.node}, as root. Nothing here changes anything.{counted}")
        for command in self.trace.commands:
            yield ""
            yield from self.prose(f"{command.shows}:", lead="  ")
            yield from self._command(command.command, "    ")


_UNEVEN = "its share is not even"
_NO_POD = "(no pod)"
_ENDS = {"reject": "rejected", "drop": "dropped", "pass": "not translated"}
_WHOLE = {
    "reject": "it is rejected",
    "drop": "it is dropped",
    "pass": "it is not translated",
}
_STOPPED = {
    "reject": "The client gets an ICMP error at once: connection refused.",
    "drop": "The client gets no answer at all, and waits until it gives up.",
}


def wrap_columns(text: str, columns: int) -> list[str]:
    """A row of columns on one line when it fits, else as words."""
    return [text] if width(text) <= columns else wrap(" ".join(text.split()), columns, indent="      ")


def _interesting(branch: Branch) -> bool:
    ends = [leaf.end for leaf in branch.leaves() if leaf.end is not None]
    return any((end.wrong and end.wrong != _UNEVEN) or end.unknown for end in ends) or any(
        hop.foreign or hop.role in (Role.ASK, Role.MARK) for hop in branch.hops
    )


def _all_hops(branch: Branch) -> Iterator[Hop]:
    yield from branch.hops
    for further in branch.branches:
        yield from _all_hops(further)


def _wrong(way: Way) -> bool:
    return bool(way.missing or way.unknown) or any(e.wrong for e in way.endings()) or any(e.wrong for e in way.exits)


def _question(hook: str, table: str, hops: Sequence[Hop]) -> str:
    roles = {hop.role for hop in hops}
    if roles & {Role.FIND, Role.CHOOSE, Role.TRANSLATE} or (hook in ("PREROUTING", "OUTPUT") and table == "nat"):
        return "where does it go?"
    if hook == "POSTROUTING":
        return "must its source change?"
    return {
        "FORWARD": "may it pass through the node?",
        "INPUT": "may it come into the node?",
        "OUTPUT": "may it leave the node?",
    }.get(hook, "may it come in?")


def _bare(service: str) -> str:
    return service.partition("/")[2]


def _namespace(service: str) -> str:
    return service.partition("/")[0]
