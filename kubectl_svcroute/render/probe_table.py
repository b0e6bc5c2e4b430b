"""What real connections came to, as tables: who answered whom from where, and what was due to each endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..model.flow import ProbeRow
from ..model.report import Report
from .text import plural

Table = tuple[list[str], list[list[str]]]
MOST_PLACES = 6
"""Above so many places, endpoints are shown for all places together."""


def by_frontend(report: Report) -> Iterator[tuple[str, list[ProbeRow]]]:
    """(heading, rows): a frontend of a Service with a row for each place that dialled it."""
    groups: dict[tuple[str, str, str], list[ProbeRow]] = {}
    for row in report.probes:
        groups.setdefault((row.service, row.frontend, row.source), []).append(row)
    many = len({service for service, _, _ in groups}) > 1
    for (service, frontend, source), rows in groups.items():
        who = "" if source == "node" else f" from {source}"
        yield f"Dialled {frontend}{f' ({service})' if many else ''}{who}", rows


def results(rows: Sequence[ProbeRow], names: dict[str, str]) -> Table:
    """What became of the connections from each place."""
    heads = ["FROM", "CONNECTED", "REFUSED", "TIMED OUT", "MEDIAN", "LONGEST", "SEEN BY"]
    failed = any(row.failed for row in rows)
    if failed:
        heads.insert(4, "FAILED")
    lines = []
    for row in rows:
        times = [_milliseconds(t) for t in row.latency] if row.latency is not None else ["-", "-"]
        line = [
            names.get(row.node, row.node), f"{row.connected} of {row.dialled}", _count(row.refused), _count(row.timed_out),
            *([_count(row.failed)] if failed else []), *times, row.seen_by or "nothing",
        ]  # fmt: skip
        lines.append(line)
    return heads, lines


def endpoints(rows: Sequence[ProbeRow], names: dict[str, str]) -> Table | None:
    """How many connections went to each endpoint, and how many were due to it; None where nothing was seen."""
    keys = list(dict.fromkeys((a.backend, a.pod) for row in rows for a in row.answers))
    if not keys:
        return None
    if len(rows) > MOST_PLACES:
        heads, places = ["POD", "ADDRESS", f"ALL {len(rows)}"], [list(rows)]
    else:
        heads, places = ["POD", "ADDRESS", *(names.get(row.node, row.node) for row in rows)], [[row] for row in rows]
    lines = []
    for backend, pod in keys:
        cells = []
        for place in places:
            sent = answered = 0
            due: float | None = 0.0
            for row in place:
                mine = next((a for a in row.answers if a.backend == backend), None)
                seen = row.dialled - row.unseen
                if mine is not None:
                    sent, answered = sent + mine.sent, answered + mine.answered
                    due = None if due is None or mine.share is None else due + mine.share * seen
            cells.append(_cell(sent, answered, due))
        lines.append([pod or "<none>", backend, *cells])
    return heads, lines


def explained(rows: Sequence[ProbeRow]) -> str:
    """What the numbers of the second table are."""
    unseen = sum(row.unseen for row in rows)
    lost = f"; of {plural(unseen, 'connection')} it is not known where they went" if unseen else ""
    return f"Connections that went to each, of about as many as the rules make due{lost}."


def _cell(sent: int, answered: int, due: float | None) -> str:
    text = f"{sent}" if answered == sent else f"{sent}, {answered} answered"
    return text if due is None else f"{text} of ~{due:.3g}"


def _count(number: int) -> str:
    return str(number) if number else "-"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"
