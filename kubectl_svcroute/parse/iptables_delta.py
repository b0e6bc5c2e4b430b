"""iptables-save text -> tables and chains, by what differs from a text that was parsed before.

Most nodes of a cluster hold the same rules. A text is cut into its tables; one that is to the letter that of the earlier
text, but for dates and counters, *is* that table. One that is not is compared chain by chain, many chains at once where they
stand in the same order: chains whose rules are the earlier ones are the earlier chains, the others are named. What is not of
the plain form (a chain's rules in two places, another frame) is not decided here: it goes to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..model.fast_dataclass import dataclass, replace
from ..model.ruleset import Chains, IptablesRules, Table
from .iptables_save import BLOCK, Part, declared_in, parts_of

_COMMENT = re.compile(r' -m comment --comment (?:"(?:[^"\\]|\\.)*"|[^" ]+)')
_COUNTED = re.compile(r"^\[\d+:\d+\] (?=-A )", re.MULTILINE)
_PIECE = 256
"""How many chains are compared at once."""


@dataclass(frozen=True, slots=True)
class Again:
    """A text that was understood by an earlier one."""

    rules: IptablesRules
    changed: frozenset[tuple[str, str]]
    """(table, chain) of every chain whose rules are not the earlier text's."""


def _parts(text: str, like: Sequence[Part] = ()) -> list[Part] | None:
    """The tables of a text of the usual frame, without counters; None for any other."""
    found = parts_of(text, like)
    if found is None or any(part.body.startswith("[") or "\n[" in part.body for part in found if part not in like):
        return parts_of(_COUNTED.sub("", text), like)
    return found


class Known:
    """A text that was parsed, for the next ones to be held against."""

    def __init__(self, text: str, rules: IptablesRules) -> None:
        self.rules = rules
        parts = _parts(text)
        # Legacy iptables can print what this frame has no room for; then every text goes to the parser.
        self._parts = parts if parts is not None and [p.name for p in parts] == list(rules.tables) else None
        self._blocks: dict[str, _Blocks] = {}

    def read(self, text: str, *, source: str) -> Again | None:
        """A further text; None where only the parser can tell what it is."""
        parts = _parts(text, self._parts) if self._parts is not None else None
        if parts is None or self._parts is None or len(parts) != len(self._parts):
            return None
        tables: dict[str, Table] = {}
        changed: set[tuple[str, str]] = set()
        for part, old in zip(parts, self._parts, strict=True):
            if (part.tool, part.name) != (old.tool, old.name):
                return None
            table = self.rules.tables[part.name]
            if part.policies != old.policies:
                if {name for name, _ in part.policies} != {name for name, _ in old.policies}:
                    return None
                was = dict(old.policies)
                changed.update((part.name, name) for name, policy in part.policies if was[name] != policy)
                table = replace(table, policies=dict(part.policies))
            if part.body != old.body:
                if old.name not in self._blocks:
                    self._blocks[old.name] = _Blocks(old.body, self.rules.tables[old.name])
                found = self._blocks[old.name].read(part.body, table)
                if found is None:
                    return None
                table, names = found
                changed.update((part.name, name) for name in names)
            tables[part.name] = table
        return Again(replace(self.rules, tables=tables, source=source), frozenset(changed))


def _start(body: str) -> int:
    """Where the rules begin, behind the declarations."""
    return 0 if body.startswith("-A ") else body.find("\n-A ") + 1 or len(body)


class _Blocks:
    """The chains of one table in the order of their rules, and pieces of many of them that are compared whole."""

    def __init__(self, body: str, table: Table) -> None:
        self.body = body
        self.declarations = body[: _start(body)]
        self.texts = texts = table.chains.texts
        # iptables-save prints the chains in the order in which it declares them.
        self._in_order([name for name, rules in texts.items() if rules])
        if not self.plain:
            self._in_order([name for _, name in BLOCK.findall(body, len(self.declarations))])

    def _in_order(self, names: list[str]) -> None:
        """Take the chains that have rules in the order in which these stand in the text."""
        self.names = names
        self.place = {name: n for n, name in enumerate(names)}
        self.pieces = ["".join([self.texts[name] for name in names[n : n + _PIECE]]) for n in range(0, len(names), _PIECE)]
        self.plain = self.declarations + "".join(self.pieces) == self.body

    def read(self, body: str, table: Table) -> tuple[Table, set[str]] | None:
        """The table of another body, and the names of the chains that differ."""
        start = _start(body)
        if not self.plain:
            return None
        known = table.chains.texts
        new: set[str] = set()
        gone: set[str] = set()
        if body[:start] != self.declarations:
            names = declared_in(body[:start])
            declared = {*names} if names is not None else set()
            if names is None or len(declared) != len(names) or declared & table.policies.keys():
                return None
            old = known.keys() - table.policies.keys()
            new, gone = declared - old, old - declared
        found = self._chains(body, start)
        if found is None:
            return None
        other, seen = found
        if not gone.isdisjoint(other) or not other.keys() <= known.keys() | new:
            return None  # rules of a chain that is not declared
        # A chain that had rules, and none were met: it has none now.
        other.update((name, "") for n, name in enumerate(self.names) if not seen[n] and name not in other and name not in gone)
        if any(seen[self.place[name]] for name in gone if name in self.place):
            return None
        if not other and not new and not gone:
            return table, set()
        texts = {name: text for name, text in known.items() if name not in gone} if gone else dict(known)
        texts.update(dict.fromkeys(new, ""))
        texts.update(other)
        changed = {name for name, text in other.items() if _uncommented(text) != _uncommented(known.get(name, ""))}
        return replace(table, chains=Chains(texts)), changed | new | gone

    def _chains(self, body: str, at: int) -> tuple[dict[str, str], bytearray] | None:
        """(chain -> its rules, where they are not the earlier ones; which of the earlier chains have the same rules)."""
        names, pieces = self.names, self.pieces
        other: dict[str, str] = {}
        seen = bytearray(len(names))
        known = self.texts
        wanted = 0
        while at < len(body):
            if wanted % _PIECE == 0 and wanted < len(names) and body.startswith(pieces[wanted // _PIECE], at):
                piece = pieces[wanted // _PIECE]
                count = min(_PIECE, len(names) - wanted)
                end = at + len(piece)
                # A chain whose rules go on behind the piece is longer than it was.
                if not body.startswith(f"-A {names[wanted + count - 1]} ", end):
                    if any(seen[wanted : wanted + count]):
                        return None
                    seen[wanted : wanted + count] = b"\1" * count
                    at, wanted = end, wanted + count
                    continue
            block = BLOCK.match(body, at)
            if block is None:
                return None
            name = block[2]
            place = self.place.get(name, -1)
            if name in other or (place >= 0 and seen[place]):
                return None  # rules of one chain in two places
            if place >= 0 and block[1] == known[name]:
                seen[place] = 1
            else:
                other[name] = block[1]
            if place >= 0:
                wanted = place + 1
            at = block.end()
        return other, seen


def _uncommented(rules: str) -> str:
    """Rules without their comments, which say nothing to the kernel: kube-proxy leaves them out once a cluster is large."""
    return _COMMENT.sub("", rules)
