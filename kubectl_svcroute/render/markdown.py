"""Markdown for a ticket: short on top, evidence folded. Text from the cluster cannot become markup, a link or a mention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..model.lazy_regex import pattern
from ..model.report import Report, ServiceRow
from . import RenderOptions
from .codes import label_of
from .text import clean, percent, plural, to_ascii
from .view import Group, Matrix, endpoint_counts, group_findings, group_not_judged, group_unverified, short_names, summary_of

_SPECIAL = pattern(r"[\\`*_\[\]<>|~&$!]")
_AT_START = pattern(r"^(?:[-+#=]|\d+(?=[.)]))")
NODE_COLUMNS = 12
SERVICE_ROWS = 50


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report, section by section."""
    for text in _sections(report):
        yield to_ascii(text) if options.ascii_only else text


def plain(text: str) -> str:
    """Text that shows as it is: nothing in it is markup, a link, a mention or a reference to an issue."""
    text = _SPECIAL.sub(lambda m: "\\" + m[0], clean(text))
    text = _AT_START.sub(lambda m: f"{m[0]}\\" if m[0][0].isdigit() else "\\" + m[0], text)
    # An empty comment parts what GitHub and GitLab look for in the text after Markdown is done with it.
    text = re.sub(r"([@#])(?=\w)", r"\1<!-- -->", text)
    return text.replace("://", ":<!-- -->//").replace("www.", "www<!-- -->.")


def code(text: str, *, cell: bool = False) -> str:
    """A code span around any text. In a table's cell a pipe is escaped even here."""
    text = clean(text)
    if not text.strip():
        return ""
    runs = {len(run) for run in re.findall("`+", text)}
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    if cell:
        text = text.replace("|", "\\|")
    return f"{fence}{gap}{text}{gap}{fence}"


def _block(lines: Sequence[str]) -> str:
    cleaned = [clean(line) for line in lines]
    longest = max((len(run) for line in cleaned for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n" + "".join(f"{line}\n" for line in cleaned) + f"{fence}\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _sections(report: Report) -> Iterator[str]:
    yield f"# Service routes: {report.verdict}\n\n{plain(summary_of(report))}\n"
    if report.meta.get("origin"):
        proxy = f", kube-proxy {code(report.meta['proxy'])}" if report.meta.get("proxy") else ""
        yield f"\nFrom {code(report.meta['origin'])}{proxy}.\n"
    if len(report.services) == 1:
        yield from _one(report, report.services[0])
    elif report.services:
        yield from _many(report)
    groups = group_findings(report.findings)
    if groups:
        yield "\n## Findings\n"
        for group in groups:
            yield from _finding(group)
    doubts = group_unverified(report.unverified)
    if doubts:
        yield "\n## Not verified\n\n"
        for doubt in doubts:
            places = [
                *map(code, doubt.nodes[:12]),
                *([plural(len(doubt.nodes) - 12, "more node")] if len(doubt.nodes) > 12 else []),
            ]
            places += [*map(code, doubt.services[:12])]
            if len(doubt.services) > 12:
                places.append(plural(len(doubt.services) - 12, "more Service"))
            yield f"- **{label_of(doubt.code)}**{' on ' if places else ''}{', '.join(places)}: {plain(doubt.reason)}\n"
    others = group_not_judged(report.not_judged)
    if others:
        yield "\n## Not judged\n\n"
        for doubt in others:
            more = f", {plural(len(doubt.nodes) - 12, 'more node')}" if len(doubt.nodes) > 12 else ""
            nodes = ", ".join(map(code, doubt.nodes[:12])) + more
            yield f"- **{label_of(doubt.code)}** on {nodes}: {plain(doubt.reason)}\n"
    if report.notes:
        yield "\n## Notes\n\n"
        for note in report.notes:
            yield f"- {plain(note)}\n"


def _one(report: Report, service: ServiceRow) -> Iterator[str]:
    yield f"\n## {code(service.service)}\n\n"
    yield f"{plain(service.type)}, cluster IP {', '.join(map(code, service.cluster_ips)) or 'none'}"
    yield f", ports {', '.join(map(code, service.ports)) or 'none'}" + (f", {plain(service.policy)}" if service.policy else "")
    yield f". Verified on {service.nodes_verified} of {plural(service.nodes, 'node')}.\n"
    if service.skipped:
        yield f"\nNothing to verify: {plain(service.skipped)}\n"
        return
    if not service.endpoints:
        return
    nodes = [row.node for row in report.nodes]
    names, _ = short_names(nodes)
    folded = len(nodes) > NODE_COLUMNS
    heads = ["Right on"] if folded else [code(names[node], cell=True) for node in nodes]
    yield "\n" + _row(["Pod", "Address", "Node", "Ready", *heads]) + _row(["---"] * (4 + len(heads)))
    for row in service.endpoints:
        cells = [
            code(row.pod or "", cell=True) or "none",
            code(row.address, cell=True),
            code(row.node or "", cell=True) or "none",
        ]
        cells.append(plain(row.state))
        if folded:
            good = sum(share is not None and node not in row.wrong for node, share in row.share.items())
            cells.append(f"{good} of {len(nodes)} nodes" + (" ✗" if row.wrong else ""))
        else:
            cells += [_share(row.share.get(node), node in row.wrong) for node in nodes]
        yield _row(cells)


def _share(share: float | None, wrong: bool) -> str:
    if share is None:
        return "?"
    if wrong:
        return f"**{percent(share)} ✗**"
    return percent(share) if share else "-"


def _many(report: Report) -> Iterator[str]:
    matrix = Matrix(report)
    nodes = [row.node for row in report.nodes]
    odd, right, skipped = [], 0, 0
    for service in report.services:
        states = {matrix.cell(service, node).status for node in nodes}
        if service.skipped:
            skipped += 1
        elif states <= {"ok"}:
            right += 1
        else:
            odd.append(service)
    if odd:
        yield "\n" + _row(["Service", "Type", "Endpoints", "Verified on", "Errors", "Warnings"]) + _row(["---"] * 6)
        for service in odd[:SERVICE_ROWS]:
            ready, total = endpoint_counts(service)
            cells = [code(service.service, cell=True), plain(service.type), f"{ready}/{total} ready"]
            cells += [f"{service.nodes_verified}/{service.nodes} nodes", str(service.errors), str(service.warnings)]
            yield _row(cells)
        if len(odd) > SERVICE_ROWS:
            yield f"\n{plural(len(odd) - SERVICE_ROWS, 'more Service')} with something wrong or not verified.\n"
    rest = [f"{plural(right, 'Service')} right on every node"] if right else []
    rest += [f"{plural(skipped, 'Service')} for which kube-proxy programs nothing"] if skipped else []
    if rest:
        yield f"\n{'; '.join(rest)}.\n"


def _finding(group: Group) -> Iterator[str]:
    finding = group.first
    places = [*map(code, group.nodes[:6])]
    if len(group.nodes) > 6:
        places.append(plural(len(group.nodes) - 6, "more node"))
    if finding.service:
        places.append(code(finding.service))
    where = f": {', '.join(places)}" if places else ""
    title = f"{finding.severity.value.capitalize()} {label_of(finding.code, finding.name)}"
    yield f"\n### {title}{where}\n\n{plain(finding.message)}\n\n"
    seen = " from ".join(part for part in (code(finding.frontend or ""), plain(finding.client or "")) if part)
    every = ", ".join(map(code, group.nodes)) if len(group.nodes) > 6 else ""
    for label, text in (
        ("Seen at" if finding.frontend else "Clients", seen),
        ("Should be", plain(finding.expected)),
        ("Is", plain(finding.observed)),
        ("Traffic", plain(finding.effect)),
        ("Repair", plain(finding.heals)),
        ("Elsewhere", plain(finding.elsewhere)),
        ("All nodes", every),
    ):
        if text:
            yield f"- {label}: {text}\n"
    if finding.evidence:
        yield f"\n<details><summary>Evidence ({plural(len(finding.evidence), 'line')})</summary>\n\n"
        yield f"{_block(finding.evidence)}\n</details>\n"
