"""What a node's tools printed, as tables and chains. Rules stay raw lines: on a large node most are never walked."""

from __future__ import annotations

from collections.abc import Mapping

from .records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One iptables table: its chains in the order printed, each with its raw rule lines in order."""

    name: str
    chains: Mapping[str, list[str]]
    policies: Mapping[str, str]
    """Built-in chains only: ACCEPT or DROP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesRules:
    """What iptables-save or ip6tables-save printed of one address family and one backend."""

    family: int
    tables: Mapping[str, Table]
    flavour: str = ""
    """`legacy` or `nft`, as far as the header tells; empty when it does not."""
    source: str = ""
    """The file it was parsed from, for messages."""
