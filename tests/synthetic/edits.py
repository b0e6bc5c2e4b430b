"""Edits of a rule set's text, each of which fails where there is nothing to edit."""

from __future__ import annotations

import re


class Rules:
    """An iptables-save text, to be changed."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def span(self, table: str) -> tuple[int, int]:
        start = self.lines.index(f"*{table}")
        return start, self.lines.index("COMMIT", start)

    def rules(self, table: str, chain: str) -> list[int]:
        """Where the rules of a chain stand."""
        start, end = self.span(table)
        return [n for n in range(start, end) if self.lines[n].startswith(f"-A {chain} ")]

    def insert(self, table: str, chain: str, rule: str) -> None:
        """At the head of a chain, as another program would."""
        found, (_, end) = self.rules(table, chain), self.span(table)
        self.lines.insert(found[0] if found else end, f"-A {chain} {rule}")

    def append(self, table: str, chain: str, rule: str) -> None:
        found, (_, end) = self.rules(table, chain), self.span(table)
        self.lines.insert(found[-1] + 1 if found else end, f"-A {chain} {rule}")

    def matching(self, table: str, pattern: str) -> list[int]:
        start, end = self.span(table)
        found = [n for n in range(start, end) if self.lines[n].startswith("-A ") and re.search(pattern, self.lines[n])]
        assert found, pattern
        return found

    def delete(self, table: str, pattern: str, first: int | None = None) -> None:
        for n in reversed(self.matching(table, pattern)[:first]):
            del self.lines[n]

    def sub(self, table: str, pattern: str, to: str, first: int | None = None) -> None:
        for n in self.matching(table, pattern)[:first]:
            self.lines[n] = re.sub(pattern, to, self.lines[n])

    def chain(self, table: str, name: str) -> None:
        """Declare a chain."""
        self.lines.insert(self.span(table)[0] + 1, f":{name} - [0:0]")

    def policy(self, table: str, chain: str, policy: str) -> None:
        start, end = self.span(table)
        for n in range(start, end):
            if self.lines[n].startswith(f":{chain} "):
                self.lines[n] = f":{chain} {policy} [0:0]"

    def table(self, name: str) -> None:
        """One more table, with no rules."""
        self.lines[:0] = [f"*{name}", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", "COMMIT"]

    def flush(self, table: str) -> None:
        """Nothing left of a table but its built-in chains."""
        start, end = self.span(table)
        kept = [line for line in self.lines[start + 1 : end] if line.startswith(":") and not line.startswith(":KUBE-")]
        self.lines[start + 1 : end] = kept
