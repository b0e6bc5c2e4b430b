"""Tables in kubectl's look: upper-case heads, left-aligned, three spaces between columns, no lines.

One Service is shown endpoint by endpoint and node by node; many Services a row each. Findings follow, worst first, then
what was not verified, then notes. A table that is too wide for the terminal folds; text is wrapped, and never cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..model.lazy_regex import pattern
from ..model.report import EndpointRow, Report, ServiceRow
from . import RenderOptions, probe_table
from .codes import label_of
from .text import MARKS, Paint, StandIns, clean, listed, percent, plural, to_ascii, width, wrap
from .view import (
    NOT_AN_ENDPOINT,
    Doubt,
    Group,
    Matrix,
    common_prefix,
    endpoint_counts,
    group_findings,
    group_not_judged,
    group_unverified,
    short_names,
)

_GAP = 3
SMALL, LONG = 64, 1000
"""Up to so many rows, and above so many, are padded here, into the lines that tabulate would make.

To load it takes as long as to load click, and of thousands of rows it looks into each cell many times.
"""

NODE_COLUMNS = 12
"""Above so many nodes their columns fold into one."""
ENDPOINT_ROWS = 40
"""Above so many endpoints, those that are right everywhere fold into one line (`wide` shows them)."""
_CHAIN = pattern(r"\b(?:KUBE-(?:SVC|SVL|EXT|XLB|FW)-[A-Z0-9]+|(?:service|external)-[A-Z0-9]{8}-[\w./-]+)")

_JUMP = pattern(r"-A (?P<source>\S+) (?:.* )?-[jg] (?P<target>\S+)")
_STEP = pattern(r"KUBE-(?:SERVICES|NODEPORTS|(?:SVC|SVL|EXT|XLB|FW|SEP)-[A-Z0-9]+)")


class _Show:
    """How text from the report reaches the page: cleaned, in what the stream can show, coloured where that is on."""

    def __init__(self, options: RenderOptions) -> None:
        self.options = options
        self.paint = Paint(options.color)
        self.marks = {kind: to_ascii(mark) if options.ascii_only else mark for kind, mark in MARKS.items()}
        self.cut = "..." if options.ascii_only else "…"

    def most(self, usual: int) -> int:
        """How many of a list to show: all of it in `wide`."""
        return 1 << 30 if self.options.wide else usual

    def text(self, text: str) -> str:
        """Text from a cluster."""
        cleaned = clean(text)
        return to_ascii(cleaned) if self.options.ascii_only else cleaned

    def mark(self, kind: str) -> str:
        """A mark in its colour."""
        return self.paint(kind, self.marks[kind])

    def marked(self, kind: str, text: str) -> str:
        """Text with a mark behind it, both in the mark's colour."""
        return self.paint(kind, f"{text} {self.marks[kind]}")

    def wrapped(self, text: str, indent: str, *, hang: str = "") -> Iterator[str]:
        """Lines of cleaned text, indented; `hang` more from the second on."""
        for line in wrap(text, self.options.width - len(indent), indent=hang):
            yield f"{indent}{line}\n"

    def field(self, label: str, text: str, indent: str = "    ", size: int = 11) -> Iterator[str]:
        """A label and its text, wrapped under itself."""
        lines = wrap(text, self.options.width - len(indent) - size)
        yield f"{indent}{self.paint('dim', label)}{' ' * (size - len(label))}{lines[0]}\n"
        for line in lines[1:]:
            yield f"{indent}{' ' * size}{line}\n"


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report for a person at a terminal. Blocks are parted by an empty line."""
    show = _Show(options)
    blocks: list[Iterator[str]] = []
    if len(report.services) == 1:
        blocks.append(_one(report, report.services[0], show))
    else:
        blocks.append(_many(report, show))
    if options.wide:
        blocks.append(_nodes(report, show))
    if report.probes:
        blocks.append(_probes(report, show))
    blocks += [_finding(group, report, show) for group in group_findings(report.findings)]
    blocks += [_doubt(doubt, report, show) for doubt in group_unverified(report.unverified)]
    blocks += [_doubt(doubt, report, show, judged=False) for doubt in group_not_judged(report.not_judged)]
    blocks.append(line for note in report.notes for line in show.field("note:", show.text(note), "", 6))
    blocks.append(_hint(report, show))
    parted = ""
    for block in blocks:
        for line in block:
            yield parted + line
            parted = ""
        parted = "\n"
    # An empty block leaves its separator behind, and the next one takes it: never two, and none at the end.


def _hint(report: Report, show: _Show) -> Iterator[str]:
    """Where to read on, for the codes that were met."""
    codes = [f.code for f in report.findings] + [u.code for u in report.unverified] + [n.code for n in report.not_judged]
    codes = list(dict.fromkeys(codes))
    if codes and not show.options.no_headers:
        more = "" if len(codes) == 1 else ", and so for every code"
        yield f"{show.paint('dim', f'kubectl svcroute explain {show.text(codes[0])} says more{more}')}\n"


# ---- tables ----------------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    heads: list[str]
    rows: list[list[str]]

    def size(self) -> int:
        """Columns that it takes on the terminal."""
        if not self.heads:
            return 0
        return sum(max(width(cell) for cell in column) for column in zip(self.heads, *self.rows, strict=True)) + _GAP * (
            len(self.heads) - 1
        )


def _lines(table: _Table, show: _Show, *, indent: str = "") -> Iterator[str]:
    # The head goes in as a row: tabulate would make each column two wider than its head.
    rows = table.rows if show.options.no_headers else [table.heads, *table.rows]
    if not rows:
        return
    for line in (tabulated if SMALL < len(rows) <= LONG else padded)(rows):
        yield f"{indent}{line}".rstrip() + "\n"


def padded(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Left-aligned columns."""
    cells = [[cell.strip() for cell in row] for row in rows]
    widths = [[width(cell) for cell in column] for column in zip(*cells, strict=True)]
    rooms = [max(column) for column in widths]
    for row, taken in zip(cells, zip(*widths, strict=True), strict=True):
        yield (" " * _GAP).join([f"{cell}{' ' * (room - wide)}" for cell, room, wide in zip(row, rooms, taken, strict=True)])


def tabulated(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The same, where it is worth loading tabulate."""
    from tabulate import DataRow, TableFormat, tabulate  # noqa: PLC0415 - see SMALL

    line = DataRow("", " " * _GAP, "")
    kubectl = TableFormat(None, None, None, None, headerrow=line, datarow=line, padding=0, with_header_hide=None)
    # Without help tabulate takes every character for one column wide.
    names = StandIns()
    even = [[names.put(cell.strip()) for cell in row] for row in rows]
    yield from names.back(tabulate(even, tablefmt=kubectl, disable_numparse=True, colglobalalign="left")).split("\n")


def _fitting(table: _Table, show: _Show) -> Iterator[str]:
    """A table; when it is too wide, its first column goes on a line of its own above the rest of the row."""
    if table.size() <= show.options.width or show.options.wide or len(table.heads) < 3:
        yield from _lines(table, show)
        return
    rest = list(_lines(_Table(table.heads[1:], [row[1:] for row in table.rows]), show, indent="   "))
    firsts = [row[0] for row in table.rows]
    if not show.options.no_headers:
        firsts.insert(0, table.heads[0])
    for first, line in zip(firsts, rest, strict=True):
        yield f"{first}\n"
        yield line


# ---- what was dialled ------------------------------------------------------------------------------------------------


def _probes(report: Report, show: _Show) -> Iterator[str]:
    names, _ = short_names([row.node for row in report.nodes])
    parted = ""
    for heading, rows in probe_table.by_frontend(report):
        yield parted
        yield from show.wrapped(show.text(heading), "")
        tables = [probe_table.results(rows, names), probe_table.endpoints(rows, names)]
        for number, found in enumerate(table for table in tables if table is not None):
            if number:
                yield "\n"
                yield from show.wrapped(probe_table.explained(rows), "")
            heads, lines = found
            cells = [[show.text(cell) for cell in line] for line in lines]
            yield from _fitting(_Table([show.text(head) for head in heads], cells), show)
        for row in rows:
            if row.shown:
                yield from show.wrapped(f"Seen on {show.text(names.get(row.node, row.node))}:", "")
                yield from (line for text in row.shown for line in show.wrapped(show.text(text), "  ", hang="    "))
        parted = "\n"


# ---- one Service -----------------------------------------------------------------------------------------------------


def _one(report: Report, service: ServiceRow, show: _Show) -> Iterator[str]:
    names, domain = short_names([row.node for row in report.nodes])
    if not show.options.no_headers:
        yield from _head(report, service, domain, show)
        yield "\n"
    if service.skipped:
        yield from show.wrapped(f"Nothing to verify: {show.text(service.skipped)}", "")
        return
    if not service.endpoints:
        yield "No endpoints.\n"
        return
    nodes = [row.node for row in report.nodes]
    rows = _rows_to_show(service, show)
    left_out = len(service.endpoints) - len(rows)
    if len(nodes) <= NODE_COLUMNS:
        tables = _with_columns(service, rows, nodes, names, show)
        if tables is not None:
            yield from tables
            yield from _left_out(left_out, show)
            return
    yield from _folded(service, rows, nodes, names, show)
    yield from _left_out(left_out, show)
    yield from _differing(service, nodes, names, show)


def _head(report: Report, service: ServiceRow, domain: str, show: _Show) -> Iterator[str]:
    verified = f"{service.nodes_verified} of {service.nodes} verified"
    if service.nodes_verified < service.nodes:
        verified = show.marked("unverified", verified)
    modes = Counter(f"{row.mode} {row.version}".strip() for row in report.nodes if row.mode)
    proxies = ", ".join(
        show.text(mode) + (f" on {plural(count, 'node')}" if len(modes) > 1 else "") for mode, count in modes.most_common()
    )
    fields = [
        ("Service:", f"{show.text(service.service)} ({show.text(service.type)})"),
        ("Cluster IP:", ", ".join(map(show.text, service.cluster_ips)) or "none"),
        ("Ports:", ", ".join(map(show.text, service.ports))),
        ("Policy:", show.text(service.policy)),
        ("kube-proxy:", proxies),
        ("Nodes:", verified + (f"; names end in {show.text(domain)}" if domain else "")),
        ("Chains:", show.text(" → ".join(_way(service.evidence)))),
        ("Origin:", show.text(report.meta.get("origin", "")) if show.options.wide else ""),
    ]
    for label, text in fields:
        if text:
            yield from show.field(label, text, "", 13)
    if show.options.wide and service.evidence:
        yield from show.field("Rules:", "a pod's packet to the first cluster IP, on the first node that was verified:", "", 13)
        for rule in service.evidence:
            yield from show.wrapped(show.text(rule), " " * 13, hang="  ")


def _way(evidence: Sequence[str]) -> list[str]:
    """The chains that a packet walks from the entry to an endpoint's chain, which stands for all of them."""
    found: dict[str, None] = {}
    for rule in evidence:
        jump = _JUMP.match(rule)
        for chain in (jump["source"], jump["target"]) if jump else _CHAIN.findall(rule):
            if jump and not _STEP.fullmatch(chain):
                continue
            if chain.startswith("KUBE-SEP-"):
                return [*found, "KUBE-SEP-…"]
            found[chain] = None
    return [*found]


def _unusual(row: EndpointRow) -> bool:
    return bool(row.wrong) or row.state != "ready" or len(set(row.share.values())) > 1


def _rows_to_show(service: ServiceRow, show: _Show) -> list[int]:
    """Which endpoints to show: of very many, those that differ from the others, and some of the rest."""
    every = range(len(service.endpoints))
    if show.options.wide or len(every) <= ENDPOINT_ROWS:
        return list(every)
    shown = set([n for n in every if _unusual(service.endpoints[n])][:ENDPOINT_ROWS])
    for n in every:
        if len(shown) >= ENDPOINT_ROWS // 2:
            break
        shown.add(n)
    return sorted(shown)


def _left_out(count: int, show: _Show) -> Iterator[str]:
    if count:
        yield f"{show.cut} and {plural(count, 'more endpoint')} (-o wide shows all)\n"


def _cell(row: EndpointRow, node: str, show: _Show) -> str:
    share = row.share.get(node)
    if share is None:
        return show.mark("unverified")
    if node in row.wrong:
        return show.marked("error", percent(share))
    return percent(share) if share else "-"


def _base(rows: Sequence[EndpointRow], names: dict[str, str], show: _Show) -> list[tuple[str, list[str]]]:
    """The columns that hold for every node, each a head and a cell per endpoint."""
    columns = [
        ("POD", [show.text(row.pod or "<none>") for row in rows]),
        ("ADDRESS", [show.text(row.address) for row in rows]),
        ("NODE", [show.text(names.get(row.node, row.node) if row.node else "<none>") for row in rows]),
        ("READY", [_ready(row, show) for row in rows]),
    ]
    if len({row.port for row in rows}) > 1:
        columns.insert(1, ("PORT", [show.text(row.port) for row in rows]))
    return columns


def _ready(row: EndpointRow, show: _Show) -> str:
    if row.state == "ready":
        return "yes"
    return show.paint("error" if row.state == NOT_AN_ENDPOINT else "warning", show.text(row.state))


def _with_columns(
    service: ServiceRow, rows: Sequence[int], nodes: Sequence[str], names: dict[str, str], show: _Show
) -> Iterator[str] | None:
    """A column for each node, in one table or in two, with heads as long as fits; None when nothing fits."""
    base = _base([service.endpoints[n] for n in rows], names, show)
    shares = [[_cell(service.endpoints[n], node, show) for n in rows] for node in nodes]
    full = [show.text(names[node]) for node in nodes]
    prefix = common_prefix(full)
    brief = [show.cut + name[len(prefix) :] for name in full]
    say = f"{show.cut} stands for {prefix}\n"
    limit = show.options.width

    def table(left: Sequence[tuple[str, list[str]]], heads: Sequence[str]) -> _Table:
        columns = [*left, *zip(heads, shares, strict=True)]
        return _Table([head for head, _ in columns], [list(row) for row in zip(*(cells for _, cells in columns), strict=True)])

    whole = table(base, full)
    if whole.size() <= limit or show.options.wide:
        return _lines(whole, show)
    if len(prefix) > 2:
        whole = table(base, brief)
        if whole.size() <= limit:
            return iter([*_lines(whole, show), say])
    keys = [column for column in base if column[0] in ("ADDRESS", "PORT")]
    alone = _Table([head for head, _ in base], [list(row) for row in zip(*(cells for _, cells in base), strict=True)])
    for heads, line in ((full, ""), (brief, say)):
        second = table(keys, heads)
        if second.size() <= limit and (heads is full or len(prefix) > 2):
            return iter([*_fitting(alone, show), "\n", *_lines(second, show), *([line] if line else [])])
    return None


def _span(shares: Sequence[float]) -> str:
    """The shares of some nodes in one cell: they may differ and all be right, by policy or topology."""
    if not shares:
        return "?"
    low, high = min(shares), max(shares)
    if high - low < 1e-4:
        return percent(high) if high else "-"
    return f"{percent(low)} to {percent(high)}"


def _folded(service: ServiceRow, rows: Sequence[int], nodes: Sequence[str], names: dict[str, str], show: _Show) -> Iterator[str]:
    """One column for all nodes: the share, and on how many nodes it is what it should be."""
    columns = _base([service.endpoints[n] for n in rows], names, show)
    shares, right = [], []
    for row in (service.endpoints[n] for n in rows):
        told = {node: row.share[node] for node in nodes if row.share.get(node) is not None}
        good = [share for node, share in told.items() if node not in row.wrong and share is not None]
        shares.append(_span(good))
        text = f"{len(good)} of {len(nodes)}"
        if len(told) < len(nodes):
            text = show.marked("unverified", text)
        right.append(show.marked("error", text) if row.wrong else text)
    columns += [("SHARE", shares), ("NODES RIGHT", right)]
    table = _Table([head for head, _ in columns], [list(row) for row in zip(*(cells for _, cells in columns), strict=True)])
    yield from _fitting(table, show)


def _differing(service: ServiceRow, nodes: Sequence[str], names: dict[str, str], show: _Show) -> Iterator[str]:
    """The nodes that differ, and how."""
    most = show.most(6)
    alike: dict[tuple[str, ...], list[str]] = {}
    for node in nodes:
        rows = [row for row in service.endpoints if node in row.wrong]
        if rows:
            shares = tuple(f"{show.text(row.address)} {percent(row.share.get(node) or 0.0)}" for row in rows)
            alike.setdefault(shares, []).append(show.text(names[node]))
    ways = sorted(alike.items(), key=lambda way: -len(way[1]))  # nodes with one fault in common first
    for shares, which in ways[: show.most(20)]:
        yield "\n"
        lines = wrap(f"{show.marks['error']} wrong on {listed(which, most)}:", show.options.width, indent="  ")
        yield from (f"{show.paint('error', line)}\n" for line in lines)
        yield from show.wrapped(listed(shares, show.most(12)), "  ")
    if len(ways) > show.most(20):
        yield f"{show.cut} and {plural(sum(len(which) for _, which in ways[20:]), 'more node')} (-o wide)\n"
    dark = [node for node in nodes if any(row.share.get(node) is None for row in service.endpoints)]
    if dark:
        yield "\n"
        text = listed([show.text(names[node]) for node in dark], most)
        yield from show.wrapped(f"{show.marks['unverified']} not verified on {text}", "", hang="  ")


# ---- many Services ---------------------------------------------------------------------------------------------------


def _many(report: Report, show: _Show) -> Iterator[str]:
    if not report.services:
        yield "No Services found.\n"
        return
    matrix = Matrix(report)
    names, _ = short_names([row.node for row in report.nodes])
    rows = []
    for service in report.services:
        namespace, _, name = service.service.rpartition("/")
        ready, total = endpoint_counts(service)
        nodes = f"{service.nodes_verified}/{service.nodes}"
        if service.nodes_verified < service.nodes:
            nodes = show.marked("unverified", nodes)
        if service.skipped:
            nodes = "-"
        ips = list(map(show.text, service.cluster_ips))
        row = [
            show.text(namespace), show.text(name), show.text(service.type),
            ",".join(ips) or "None",
            "-" if service.skipped else f"{ready}/{total}",
            nodes,
            _found(service, matrix, names, show),
        ]  # fmt: skip
        if show.options.wide:
            row[4:4] = [",".join(map(show.text, service.ports)) or "<none>", show.text(service.policy) or "-"]
        rows.append(row)
    heads = ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "ENDPOINTS", "NODES", "FINDINGS"]
    if show.options.wide:
        heads[4:4] = ["PORTS", "POLICY"]
    yield from _squeezed(_Table(heads, rows), show)
    skipped: dict[str, list[str]] = {}
    for service in report.services:
        if service.skipped:
            skipped.setdefault(service.skipped, []).append(show.text(service.service))
    parted = "\n"
    for reason, which in skipped.items():
        yield parted
        yield from show.wrapped(f"Nothing to verify for {listed(which, show.most(6))}: {show.text(reason)}", "", hang="  ")
        parted = ""


def _found(service: ServiceRow, matrix: Matrix, names: dict[str, str], show: _Show) -> str:
    """What was found for one Service, with what hangs over it from its nodes."""
    if service.skipped:
        return "skipped"
    parts = [plural(count, word) for count, word in ((service.errors, "error"), (service.warnings, "warning")) if count]
    by_node = [node for node in sorted(service.wrong_on) if not matrix.has_own_error(service.service, node)]
    if by_node:
        parts.append(f"node {show.text(names[by_node[0]])}" if len(by_node) == 1 else plural(len(by_node), "node"))
    if not parts:
        # A fault of a node may concern this Service without changing its shares (masquerade, forwarding): say where to look.
        over = matrix.faulty_nodes
        if not over:
            return "-"
        return f"see {show.text(names.get(over[0], over[0])) if len(over) == 1 else plural(len(over), 'node')}"
    return show.marked("error" if service.errors or by_node else "warning", ", ".join(parts))


def _squeezed(table: _Table, show: _Show) -> Iterator[str]:
    """Leave out what matters least until the table fits: the type, then the addresses; then fold it."""
    for dropped in ((), ("TYPE",), ("TYPE", "CLUSTER-IP")):
        kept = [n for n, head in enumerate(table.heads) if head not in dropped]
        smaller = _Table([table.heads[n] for n in kept], [[row[n] for n in kept] for row in table.rows])
        if smaller.size() <= show.options.width or show.options.wide:
            yield from _lines(smaller, show)
            return
    kept = [n for n, head in enumerate(table.heads) if n > 1 and head not in ("TYPE", "CLUSTER-IP")]
    merged = _Table(
        ["NAMESPACE/NAME", *(table.heads[n] for n in kept)],
        [[f"{row[0]}/{row[1]}", *(row[n] for n in kept)] for row in table.rows],
    )
    yield from _fitting(merged, show)


def _nodes(report: Report, show: _Show) -> Iterator[str]:
    rows = [
        [
            show.text(row.node), "yes" if row.verified else show.marked("unverified", "no"), show.text(row.mode) or "-",
            show.text(row.version) or "-", show.text(row.via) or "-", str(row.errors), str(row.warnings),
        ]
        for row in report.nodes
    ]  # fmt: skip
    yield from _lines(_Table(["NODE", "VERIFIED", "PROXY", "VERSION", "VIA", "ERRORS", "WARNINGS"], rows), show)


# ---- findings --------------------------------------------------------------------------------------------------------


def _finding(group: Group, report: Report, show: _Show) -> Iterator[str]:
    finding = group.first
    severity = finding.severity.value
    head = f"{show.marks[severity]} {severity.upper()} {label_of(finding.code, finding.name)}"
    most = show.most(6)
    every = len(group.nodes) == len(report.nodes) > 1
    places = []
    if group.nodes:
        places.append(f"all {len(group.nodes)} nodes" if every else f"node {listed(map(show.text, group.nodes), most)}")
    if finding.service:
        places.append(show.text(finding.service))
    where = ", ".join(places)
    yield from _titled(head, where, severity, show)
    yield from show.wrapped(show.text(finding.message), "    ")
    seen = show.text(finding.frontend or "") + (f" from {show.text(finding.client)}" if finding.client else "")
    if seen:
        more = group.count - 1 if finding.service else 0
        label = "seen at" if finding.frontend else "seen"
        yield from show.field(label, seen.strip() + (f" (and {more} more)" if more > 0 else ""))
    for label, text, always in (
        ("should be", finding.expected, False), ("is", finding.observed, False), ("traffic", finding.effect, True),
        ("repair", finding.heals, True), ("elsewhere", finding.elsewhere, True),
    ):  # fmt: skip
        if text and (always or show.options.wide):
            yield from show.field(label, show.text(text))
    yield from _evidence(finding.evidence, finding.message, show)


def _titled(head: str, where: str, kind: str, show: _Show) -> Iterator[str]:
    """A finding's first line: what it is, and where; the places on their own lines when they are many."""
    if not where:
        yield f"{show.paint(kind, head)}\n"
    elif width(head) + _GAP + width(where) <= show.options.width:
        yield f"{show.paint(kind, head)}   {show.paint('bold', where)}\n"
    else:
        yield f"{show.paint(kind, head)}\n"
        for line in wrap(where, show.options.width - 4):
            yield f"    {show.paint('bold', line)}\n"


def _evidence(evidence: Sequence[str], message: str, show: _Show) -> Iterator[str]:
    shown = list(evidence) if show.options.wide else telling(evidence, message, 2)
    label = "rules"
    for rule in shown:
        lines = wrap(show.text(rule), show.options.width - 15, indent="  ")
        yield f"    {show.paint('dim', label)}{' ' * (11 - len(label))}{lines[0]}\n"
        for line in lines[1:]:
            yield f"{' ' * 15}{line}\n"
        label = ""
    if len(shown) < len(evidence):
        more = f"({plural(len(evidence) - len(shown), 'more line')}: -o wide)"
        yield f"{' ' * 15}{show.paint('dim', more)}\n"


def telling(evidence: Sequence[str], message: str, most: int) -> list[str]:
    """The lines that a message is about, in their order: those that share a name or an address with it, and lie deepest.

    A way begins with jumps that every packet takes; where it went wrong is further down.
    """
    words = {word.strip("()[],;:'\"") for word in message.split()}
    words = {word for word in words if len(word) > 5 and (any(c.isdigit() for c in word) or word.isupper())}
    hosts = {word.rpartition(":")[0] for word in words if ":" in word}

    def rank(at: int) -> tuple[int, int, int]:
        rule = evidence[at]
        hits = sum(word in rule for word in words | hosts if word)
        return (hits, int(_CHAIN.search(rule) is not None or "KUBE-SEP-" in rule), at)

    best = sorted(range(len(evidence)), key=rank, reverse=True)[:most]
    return [evidence[at] for at in sorted(best)]


def _doubt(doubt: Doubt, report: Report, show: _Show, *, judged: bool = True) -> Iterator[str]:
    """What could not be verified; not `judged`: only what other programs' rules do besides."""
    most = show.most(6)
    places = []
    if doubt.nodes:
        every = len(doubt.nodes) == len(report.nodes) > 1
        places.append(f"all {len(doubt.nodes)} nodes" if every else f"node {listed(map(show.text, doubt.nodes), most)}")
    if doubt.services:
        places.append(listed(map(show.text, doubt.services), most))
    kind, words = ("unverified", "NOT VERIFIED") if judged else ("info", "NOT JUDGED")
    yield from _titled(f"{show.marks[kind]} {words} {label_of(doubt.code)}", ", ".join(places), kind, show)
    yield from show.wrapped(show.text(doubt.reason), "    ")
    yield from _evidence(doubt.evidence, doubt.reason, show)
