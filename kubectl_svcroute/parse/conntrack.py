"""Entries of the connection-tracking table, as `conntrack -L` and /proc/net/nf_conntrack print them.

    udp      17 29 src=10.244.1.5 dst=10.96.0.10 sport=40000 dport=53 [UNREPLIED] src=10.244.1.14 dst=10.244.1.5 sport=53 …
    ipv4     2 tcp      6 117 TIME_WAIT src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… [ASSURED] mark=0 zone=0 use=2

The first four words are the direction of who dialled, the second four that of the answer (conntrack-tools, src/conntrack.c;
linux, net/netfilter/nf_conntrack_standalone.c). What is no TCP, UDP or SCTP is passed over: it has no ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..errors import ParseError
from ..model.fast_dataclass import dataclass
from ..model.flow import Flow
from ..model.net import Protocol, canonical_ip

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}
_TUPLE = ("src", "dst", "sport", "dport")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackDump:
    """A node's conntrack.txt."""

    flows: tuple[Flow, ...]
    cut: tuple[str, ...]
    """Protocols and families (`udp ipv4`) of which the node has more than it was asked to give."""


def parse_conntrack(text: str) -> ConntrackDump:
    """The node script's conntrack.txt: a part for each protocol and family, in each the entries and the tool's status.

        # udp ipv4
        udp      17 29 src=…
        # status 0
        …
        # end

    A part without a status was cut at the bound. Raises ParseError for a text that is not whole, or a tool that failed.
    """
    flows: list[Flow] = []
    cut: list[str] = []
    part, lines, ended = "", list[str](), True
    rows = text.splitlines()
    if not rows or rows[-1] != "# end":
        raise ParseError("the text stops before its end", len(rows), rows[-1] if rows else "")
    for number, row in enumerate(rows, start=1):
        if not row.startswith("# "):
            lines.append(row)
            continue
        if row.startswith("# status "):
            if row != "# status 0":
                raise ParseError(f"the tool failed on {part}", number, row)
            ended = True
            continue
        if part and not ended:
            cut.append(part)
        flows.extend(parse_flows(lines))
        part, lines, ended = row[2:], [], False
    return ConntrackDump(flows=tuple(flows), cut=tuple(cut))


def parse_flows(lines: Iterable[str]) -> Iterator[Flow]:
    """The entries of some lines. Raises ParseError for a line that is none."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if words[0] in ("ipv4", "ipv6"):
            words = words[2:]
        if len(words) < 4 or not words[1].isdigit():
            raise ParseError("not an entry of the connection-tracking table", number, line)
        protocol = _PROTOCOLS.get(words[0])
        if protocol is not None:
            yield _flow(protocol, words, number, line)


def _flow(protocol: Protocol, words: list[str], number: int, line: str) -> Flow:
    pairs: list[tuple[str, str]] = []
    zone = False
    for word in words[2:]:
        key, equals, value = word.partition("=")
        if equals and key in _TUPLE:
            pairs.append((key, value))
        elif equals and key.startswith("zone"):
            zone = zone or value != "0"
    there, back = dict(pairs[:4]), dict(pairs[4:])
    try:
        if len(pairs) != 8 or set(there) != set(_TUPLE) or set(back) != set(_TUPLE):
            raise ValueError(line)
        return Flow(
            protocol=protocol,
            src=canonical_ip(there["src"]),
            sport=int(there["sport"]),
            dst=canonical_ip(there["dst"]),
            dport=int(there["dport"]),
            reply_src=canonical_ip(back["src"]),
            reply_sport=int(back["sport"]),
            reply_dst=canonical_ip(back["dst"]),
            reply_dport=int(back["dport"]),
            state=next((word for word in words[2:5] if word.isupper() and word.replace("_", "").isalnum()), ""),
            replied="[UNREPLIED]" not in words,
            zone=zone,
            raw=line.strip(),
        )
    except ValueError:
        raise ParseError("not an entry of the connection-tracking table", number, line) from None
