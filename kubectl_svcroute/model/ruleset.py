"""What a node's tools printed, as tables and chains. Rules stay raw text: on a large node most are never walked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .fast_dataclass import dataclass


class Chains(Mapping[str, list[str]]):
    """Chain -> its raw rule lines, in the order printed; a chain's text is cut into lines when they are first asked for.

    Whoever looks at every chain of a large node looks at the texts: tens of thousands of lists are never made.
    """

    __slots__ = ("_lines", "texts")

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts`: chain -> its rules as printed, each with its newline; empty for a chain without rules."""
        self.texts = texts
        self._lines: dict[str, list[str]] = {}

    def __getitem__(self, chain: str) -> list[str]:
        found = self._lines.get(chain)
        if found is None:
            found = self._lines[chain] = self.texts[chain].split("\n")[:-1]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __contains__(self, chain: object) -> bool:
        return chain in self.texts

    def __eq__(self, other: object) -> bool:
        return self.texts == other.texts if isinstance(other, Chains) else NotImplemented

    def __repr__(self) -> str:
        return f"Chains({self.texts!r})"

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One iptables table: its chains in the order printed, each with its raw rule lines in order."""

    name: str
    chains: Chains
    policies: Mapping[str, str]
    """Built-in chains only: ACCEPT or DROP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesRules:
    """What iptables-save or ip6tables-save printed of one address family and one backend."""

    family: int
    tables: Mapping[str, Table]
    backend: str = ""
    """`legacy` or `nft`, as far as the header or the file's name says; empty where they do not."""
    legacy_too: bool = False
    """The program warned that the kernel holds tables of the legacy backend beside these."""
    source: str = ""
    """The file it was parsed from, for messages."""

    @property
    def idle(self) -> bool:
        """Nothing happens to any packet here: no base chain has a rule, or a policy but ACCEPT."""
        return all(
            policy == "ACCEPT" and not table.chains.texts.get(chain)
            for table in self.tables.values()
            for chain, policy in table.policies.items()
        )
