"""What the probe's script printed, taken apart (probe/script.py says what it prints)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import ParseError
from ..model.fast_dataclass import dataclass
from ..model.flow import Flow
from ..model.net import Frontend, Protocol, canonical_ip
from ..parse.conntrack import parse_flows

RESULTS = ("connected", "refused", "timeout", "unreachable", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One connection that was tried."""

    number: int
    result: str
    """One of RESULTS."""
    seconds: float | None = None
    source: str = ""
    """The local address; empty when it is not known."""
    port: int = 0
    """The local port; 0 when it is not known."""
    begun: float = 0.0
    """When, on the clock of who dialled; 0 when it is not known."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """What came of one target."""

    tool: str
    """Empty: nothing there that could dial."""
    attempts: tuple[Attempt, ...]
    seen_by: str
    """What told where connections went; empty when nothing could."""
    flows: tuple[Flow, ...]
    packets: tuple[Packet, ...]
    no_capture: bool = False
    """A capture was asked for, and there is no tcpdump (or no timeout to bound it with)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet as tcpdump showed it."""

    time: float
    src: str
    sport: int
    dst: str
    dport: int
    mark: str
    """TCP's sequence number, which no translation changes; empty where none is shown."""
    text: str


_TRY = re.compile(r"try (\d+) (\w+) (-|[\d.]+) (\S+) (\d+)(?: @([\d.]+))?\s*(.*)")
_SAME_MOMENT = 0.05
"""Seconds after the beginning of a connection within which its first packet leaves, on a busy node too."""
_PACKET = re.compile(
    r"(?P<time>[\d.]+) (?P<how>.*?)\bIP6? (?P<src>\S+)\.(?P<sport>\d+) > (?P<dst>\S+)\.(?P<dport>\d+): (?P<rest>.*)"
)


def parse_probe(text: str, frontend: Frontend) -> Dialled:
    """One section of the script's. Raises ParseError when it is not whole, or not what the script prints."""
    tool, seen_by, no_capture, done = "", "", False, False
    attempts: dict[int, Attempt] = {}
    pending: list[int] = []
    lines: list[str] = []
    events: list[str] = []
    packets: list[Packet] = []
    flows = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("# "):
            word, _, rest = line[2:].partition(" ")
            if word == "tool":
                tool = "" if rest == "none" else rest
            elif word == "capture":
                no_capture = True
            elif word == "flows":
                flows, seen_by = True, "" if rest == "none" else rest
            elif word == "status":
                done = True
                if rest != "0":
                    seen_by, lines = "", []
        elif flows:
            lines.append(line)
        elif line.lstrip().startswith("[NEW] "):
            events.append(line.lstrip().removeprefix("[NEW] "))
        elif found := _TRY.fullmatch(line):
            attempt = _attempt(found)
            if attempt.result not in RESULTS or attempt.number in attempts:
                raise ParseError("not a line of the probe's", number, line)
            attempts[attempt.number] = attempt
        elif found := re.fullmatch(r"pending (\d+)", line):
            pending.append(int(found[1]))
        elif found := _PACKET.fullmatch(line):
            packets.append(
                Packet(
                    time=float(found["time"]),
                    mark=seq[1] if (seq := re.search(r"seq (\d+)", found["rest"])) else "",
                    src=canonical_ip(found["src"]), sport=int(found["sport"]),
                    dst=canonical_ip(found["dst"]), dport=int(found["dport"]),
                    text=f"{found['how'].strip()} {found['src']}.{found['sport']} > {found['dst']}.{found['dport']}: "
                    f"{found['rest'].partition(', ')[0]}".strip(),
                )
            )  # fmt: skip
        elif line.strip() and not line[0].isdigit():
            raise ParseError("not a line of the probe's", number, line)
    if not done:
        raise ParseError("the probe's output stops before its end")
    # What the table holds afterwards says more than how it began, and comes first.
    entries = [flow for flow in parse_flows([*lines, *events]) if _of(flow, frontend)]
    return Dialled(
        tool=tool,
        attempts=_with_pending(attempts, pending),
        seen_by=seen_by,
        flows=tuple(entries),
        packets=tuple(packets),
        no_capture=no_capture,
    )


def _attempt(found: re.Match[str]) -> Attempt:
    number, result, seconds, source, port, begun, detail = found.groups()
    return Attempt(
        number=int(number),
        result=result,
        seconds=None if seconds == "-" else float(seconds),
        source="" if source == "-" else canonical_ip(source.partition("%")[0]),
        port=int(port),
        begun=float(begun or 0),
        detail=detail.strip(),
    )


def _of(flow: Flow, frontend: Frontend) -> bool:
    same = (flow.protocol, flow.dst, flow.dport) == (frontend.protocol, frontend.address, frontend.port)
    return same and not flow.zone


def _with_pending(attempts: dict[int, Attempt], pending: Sequence[int]) -> tuple[Attempt, ...]:
    """Local ports of connections that were given up are known as a set: which is whose makes no difference."""
    rest = list(pending)
    found = []
    for _, attempt in sorted(attempts.items()):
        if attempt.result == "timeout" and not attempt.port and rest:
            attempt = Attempt(number=attempt.number, result="timeout", port=rest.pop(0))  # noqa: PLW2901
        found.append(attempt)
    return tuple(found)


def flow_of(attempt: Attempt, dialled: Dialled, frontend: Frontend) -> Flow | None:
    """Where a connection went: by its entry, else by the packet that was captured behind the rules."""
    if not attempt.port:
        return None
    for flow in dialled.flows:
        if flow.sport == attempt.port and attempt.source in ("", flow.src):
            return flow
    return _captured(attempt, dialled, frontend)


def packets_of(attempt: Attempt, dialled: Dialled, flow: Flow | None) -> list[Packet]:
    """The packets that are a connection's first, before and behind the rules.

    They are known by the local port; behind a masquerade, which changes it, by what conntrack says of it or by TCP's
    sequence number; and where neither is known, by the moment, when one packet alone left at that moment.
    """
    mine = [p for p in dialled.packets if p.sport == attempt.port]
    if flow is not None:
        away = (flow.reply_dst, flow.reply_dport, flow.reply_src, flow.reply_sport)
        mine += [p for p in dialled.packets if (p.src, p.sport, p.dst, p.dport) == away and p not in mine]
    marks = {p.mark for p in mine} - {""}
    if not mine and attempt.begun:
        # The first packet leaves within the very call that begins a connection: before the next one begins.
        until = min((a.begun for a in dialled.attempts if a.begun > attempt.begun), default=attempt.begun + _SAME_MOMENT)
        near = [p for p in dialled.packets if attempt.begun <= p.time < min(until, attempt.begun + _SAME_MOMENT)]
        if len({(p.mark, p.sport, p.dst) for p in near}) == 1:
            mine = near
    mine += [p for p in dialled.packets if p.mark in marks and p not in mine]
    return sorted(mine, key=lambda p: p.time)


def _captured(attempt: Attempt, dialled: Dialled, frontend: Frontend) -> Flow | None:
    away = [p for p in packets_of(attempt, dialled, None) if (p.dst, p.dport) != (frontend.address, frontend.port)]
    if not away:
        return None
    last = away[-1]
    return Flow(
        protocol=frontend.protocol, src=attempt.source or last.src, sport=attempt.port, dst=frontend.address, dport=frontend.port,
        reply_src=last.dst, reply_sport=last.dport, reply_dst=last.src, reply_dport=last.sport,
        state="", replied=attempt.result == "connected", zone=False, raw=last.text,
    )  # fmt: skip


def told_by(dialled: Dialled) -> str:
    """What told where connections went."""
    if dialled.seen_by:
        return dialled.seen_by
    return "tcpdump" if dialled.packets else ""


def is_udp(frontend: Frontend) -> bool:
    """Whether it is dialled with a datagram."""
    return frontend.protocol is Protocol.UDP
