"""The files of one node's reading: which there are, and why one is missing."""

from __future__ import annotations

from ..model.fast_dataclass import replace
from ..model.snapshot import NodeDump

IPTABLES_SAVE = {4: "iptables-save.txt", 6: "ip6tables-save.txt"}
"""Family -> the file of a snapshot that holds what the node's own iptables prints."""
OTHER_BACKENDS = {
    4: ("iptables-legacy-save.txt", "iptables-nft-save.txt"),
    6: ("ip6tables-legacy-save.txt", "ip6tables-nft-save.txt"),
}
"""Family -> the files of the backends that the node's own iptables may not be."""


def iptables_files(family: int) -> tuple[str, ...]:
    """Every file that can hold iptables rules of a family, the node's own iptables first."""
    return (IPTABLES_SAVE[family], *OTHER_BACKENDS[family])


def why_absent(dump: NodeDump, file: str) -> str:
    """Why the node could not give a file, as its tools.txt says; empty when it does not say."""
    start = f"not read: {file}: "
    lines = dump.files.get("tools.txt", "").splitlines()
    return next((line[len(start) :] for line in lines if line.startswith(start)), "")


def said_empty(dump: NodeDump, file: str) -> bool:
    """True if the node itself said that its kernel has no rules, so that there was nothing to put into a file."""
    return any(line.startswith(f"empty: {file}:") for line in dump.files.get("tools.txt", "").splitlines())


def with_plain_line_ends(dump: NodeDump) -> NodeDump:
    """The same node; a file whose lines all end with CR LF, as a terminal or an editor writes them, ends them with LF."""
    plain = {name: text.replace("\r\n", "\n") for name, text in dump.files.items() if _ends_with_cr_lf(text)}
    return replace(dump, files={**dump.files, **plain}) if plain else dump


def _ends_with_cr_lf(text: str) -> bool:
    return "\r\n" in text and text.count("\r\n") == text.count("\n")
