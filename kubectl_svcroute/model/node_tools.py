"""tools.txt: which tools a node has, what they could not read, and what is known to be empty.

Its lines `not read: FILE: REASON` and `empty: FILE: REASON` are written when a node is read (collect/node_script.py), so that a
saved snapshot says it too. A file of which neither is said, and that is not there, was not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from .fast_dataclass import dataclass
from .snapshot import EMPTY, NOT_READ

_LEGACY = {4: "legacy tables (IPv4): ", 6: "legacy tables (IPv6): "}
_PROGRAM = {"iptables: ": 4, "ip6tables: ": 6}
_PROCESS = "kube-proxy process: "


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTools:
    """What a node's tools.txt says."""

    not_read: Mapping[str, str]
    """File -> why it could not be read."""
    empty: Mapping[str, str]
    """File -> how it is known that there is nothing to read."""
    legacy_tables: Mapping[int, str]
    """Family -> the tables that the kernel holds of the legacy backend, by /proc/net; absent where it was not asked."""
    backend: Mapping[int, str]
    """Family -> the backend that the node's own iptables says it is of, `legacy` or `nft`; absent where it does not say."""
    process: bool | None = None
    """Whether a process named kube-proxy was seen; None where that cannot be told: in a container, or within k3s."""


def parse_tools(text: str) -> NodeTools:
    """Read a tools.txt. A line of another form is a tool's version and is passed over; an absent file is an empty text."""
    not_read: dict[str, str] = {}
    empty: dict[str, str] = {}
    legacy: dict[int, str] = {}
    backend: dict[int, str] = {}
    process: bool | None = None
    for line in text.splitlines():
        for start, into in ((NOT_READ, not_read), (EMPTY, empty)):
            if line.startswith(start):
                file, _, why = line[len(start) :].partition(": ")
                into[file.rstrip(":")] = why
        for family, start in _LEGACY.items():
            if line.startswith(start.rstrip()):
                legacy[family] = line[len(start) :].strip()
        for start, family in _PROGRAM.items():
            if line.startswith(start) and line.endswith(("(legacy)", "(nf_tables)")):
                backend[family] = "legacy" if line.endswith("(legacy)") else "nft"
        if line.startswith(_PROCESS):
            process = {"none": False, "unknown": None, "embedded": None}.get(line[len(_PROCESS) :].strip(), True)
    return NodeTools(not_read=not_read, empty=empty, legacy_tables=legacy, backend=backend, process=process)
