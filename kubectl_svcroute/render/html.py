"""One HTML file that needs nothing else: no network, no script.

A summary, a matrix of Services by nodes, the findings with their evidence folded. Without script nothing in it can run,
whatever a cluster puts into a comment, and a policy in the head says so to the browser. In the matrix what is wrong stands
in the first rows and columns, heads stay in sight, and every cell that is not right leads to what was found there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..model.report import Report, ServiceRow
from . import RenderOptions
from .codes import label_of, page_of
from .text import clean, percent, plural
from .view import (
    Cell,
    Matrix,
    endpoint_counts,
    group_findings,
    group_not_judged,
    group_unverified,
    short_names,
    summary_of,
    totals,
)

_SORT_FROM = 16
"""From so many rows or columns on, those with something wrong come first."""
_ENDPOINT_TABLES = 60
"""So many Services get a table of their endpoints; more than that are the ones with something wrong alone."""

_ORDER = {"error": 0, "unverified": 1, "warning": 2, "node": 3, "ok": 4, "skipped": 5}
_SIGNS = {"error": "✗", "unverified": "?", "warning": "!", "node": "n", "ok": "·", "skipped": "-"}
_WORDS = {
    "error": "wrong",
    "unverified": "not verified",
    "warning": "warning",
    "node": "a fault of the node as a whole",
    "ok": "right",
    "skipped": "nothing to verify: kube-proxy programs nothing for it",
}
_VERDICTS = {
    "failed": "Traffic goes wrong.",
    "warned": "Traffic goes right, and something is unsafe.",
    "unverified": "Nothing wrong was found, and not everything could be verified.",
    "passed": "Everything was verified, and nothing wrong was found.",
}

_STYLE = """
:root{color-scheme:light dark;--fg:#1b1f24;--dim:#59636e;--bg:#fff;--box:#f6f8fa;--line:#d1d9e0;--link:#0a5dc2;
--error:#b3161f;--error-bg:#ffdfdd;--warning:#7a5200;--warning-bg:#ffedc2;--unverified:#6a3a9c;--unverified-bg:#efe2ff;
--ok:#1a6b32;--ok-bg:#e3f6e8}
@media (prefers-color-scheme:dark){:root{--fg:#e6edf3;--dim:#9aa5b1;--bg:#0f141a;--box:#171d25;--line:#333c47;--link:#6cb0ff;
--error:#ff8f88;--error-bg:#54191b;--warning:#f0c04a;--warning-bg:#47360a;--unverified:#cda6ff;--unverified-bg:#3a2459;
--ok:#6fd08c;--ok-bg:#14301d}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:90rem;font:1rem/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg)}
h1{font-size:1.5rem;margin:0}h2{font-size:1.2rem;margin:2rem 0 .6rem}h3{font-size:1rem;margin:0}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--link);outline-offset:1px}
code,pre,.m{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.86em}
code{overflow-wrap:anywhere}
pre{margin:.5rem 0 0;padding:.6rem .8rem;background:var(--bg);border:1px solid var(--line);border-radius:4px;
white-space:pre-wrap;overflow-wrap:anywhere}
nav ul{list-style:none;display:flex;gap:1.2rem;padding:0;margin:.4rem 0 0;flex-wrap:wrap}
.verdict{padding:1rem 1.2rem;border-left:6px solid;border-radius:4px;margin:1rem 0}
.verdict p{margin:.2rem 0 0}
.error{color:var(--error)}.warning{color:var(--warning)}.unverified{color:var(--unverified)}.ok{color:var(--ok)}
.dim{color:var(--dim)}
.verdict.error{background:var(--error-bg)}.verdict.warning{background:var(--warning-bg)}
.verdict.unverified{background:var(--unverified-bg)}.verdict.ok{background:var(--ok-bg)}
.verdict p{color:var(--fg)}
.numbers{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:0;padding:0}
.numbers div{min-width:5rem}.numbers dt{color:var(--dim);font-size:.85rem}.numbers dd{margin:0;font-size:1.4rem}
.scroll{overflow:auto;width:fit-content;max-width:100%;max-height:80vh;border:1px solid var(--line);border-radius:4px}
table{border-collapse:separate;border-spacing:0;font-size:.9rem}
th,td{padding:.3rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;background:var(--box)}
thead th{position:sticky;top:0;z-index:2}
.matrix td,.matrix thead th{padding:0;text-align:center;vertical-align:middle;border-right:1px solid var(--line)}
.matrix td{min-width:1.9rem;height:1.6rem;padding:0 .15rem}
.matrix thead th:first-child{left:0;z-index:3;vertical-align:bottom;text-align:left;padding:.3rem .6rem}
.matrix thead th span{writing-mode:vertical-rl;transform:rotate(180deg);padding:.4rem .1rem;max-height:14rem;white-space:nowrap;
font-weight:500}
.matrix tbody th{position:sticky;left:0;z-index:1;font-weight:500;white-space:nowrap;border-right:1px solid var(--line)}
.matrix tbody th,.matrix thead th{font-size:.85rem}
.matrix tr:hover td,.matrix tr:hover th{background-image:linear-gradient(rgba(128,128,128,.14),rgba(128,128,128,.14))}
.matrix td a{display:block;color:inherit;text-decoration:none;font-weight:700}
.e{background:var(--error-bg);color:var(--error)}.w{background:var(--warning-bg);color:var(--warning)}
.u{background:var(--unverified-bg);color:var(--unverified)}.n{color:var(--error)}.o,.s{color:var(--dim)}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;margin:.6rem 0;list-style:none;font-size:.9rem}
.legend b{display:inline-block;min-width:1.5rem;text-align:center;border:1px solid var(--line);margin-right:.4rem}
@media screen{#endpoints td,#endpoints th{white-space:nowrap}}
.finding{background:var(--box);border:1px solid var(--line);border-left:5px solid;border-radius:4px;
padding:.8rem 1rem;margin:.7rem 0}
.finding h3,.finding p,.finding dl,.finding details{color:var(--fg)}
.finding.error{border-left-color:var(--error)}.finding.warning{border-left-color:var(--warning)}
.finding.unverified{border-left-color:var(--unverified)}.finding.info{border-left-color:var(--dim)}
.finding:target{outline:3px solid var(--link)}
.finding p{margin:.3rem 0}
.finding dl{display:grid;grid-template-columns:6.5rem 1fr;gap:.15rem .8rem;margin:.5rem 0}
.finding dt{color:var(--dim)}.finding dd{margin:0}
.tag{display:inline-block;padding:0 .45rem;border-radius:3px;font-size:.85rem;font-weight:700;margin-right:.5rem}
.tag.error{background:var(--error-bg)}.tag.warning{background:var(--warning-bg)}.tag.unverified{background:var(--unverified-bg)}
.tag.info{background:var(--line);color:var(--fg)}
summary{cursor:pointer;color:var(--link)}
details>summary{padding:.15rem 0}
footer{margin-top:3rem;color:var(--dim);font-size:.85rem}
@media (max-width:40rem){body{padding:.8rem}.finding dl{grid-template-columns:1fr}.finding dt{margin-top:.3rem}}
@media print{:root{--fg:#000;--bg:#fff;--box:#fff;--dim:#444}body{padding:0;max-width:none;font-size:9pt}
.scroll{overflow:visible;max-height:none;border:0}.finding{break-inside:avoid-page}thead th,.matrix tbody th{position:static}
nav{display:none}details::details-content{content-visibility:visible;block-size:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as one HTML document, part by part."""
    for text in _Page(report).parts():
        yield text.encode("ascii", "xmlcharrefreplace").decode() if options.ascii_only else text


def _text(text: str) -> str:
    return escape(clean(text))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


class _Page:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.matrix = Matrix(report)
        self.groups = group_findings(report.findings)
        self.doubts = group_unverified(report.unverified)
        self.others = group_not_judged(report.not_judged)
        self.nodes = [row.node for row in report.nodes]
        self.names, self.domain = short_names(self.nodes)
        self.anchors: dict[tuple[str | None, str | None], str] = {}
        """(Service, node) -> the first finding, or else doubt, about them."""
        for n, group in enumerate(self.groups, start=1):
            for node in group.nodes or (None,):
                self.anchors.setdefault((group.first.service, node), f"f{n}")
        for n, doubt in enumerate(self.doubts, start=1):
            for service in doubt.services or (None,):
                for node in doubt.nodes or (None,):
                    self.anchors.setdefault((service, node), f"u{n}")

    def parts(self) -> Iterator[str]:
        """Head, summary, matrix, findings, doubts, endpoints, nodes, notes."""
        yield from self._head()
        yield from self._matrix()
        yield from self._findings()
        yield from self._doubts()
        yield from self._not_judged()
        yield from self._endpoints()
        yield from self._nodes()
        if self.report.notes:
            yield '<section id="notes"><h2>Notes</h2><ul>\n'
            yield from (f"<li>{_text(note)}</li>\n" for note in self.report.notes)
            yield "</ul></section>\n"
        yield "</main>\n<footer>Made by kubectl svcroute. What a code means: "
        yield "<code>kubectl svcroute explain CODE</code>.</footer>\n"
        yield "</body>\n</html>\n"

    def _head(self) -> Iterator[str]:
        found = totals(self.report)
        kind = {"failed": "error", "warned": "warning", "unverified": "unverified", "passed": "ok"}[found.verdict]
        origin = self.report.meta.get("origin", "")
        yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        yield '<meta name="referrer" content="no-referrer">\n'
        yield f"<title>Service routes: {_text(found.verdict)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        yield '<header><h1>Service routes</h1>\n<nav aria-label="Parts of the report"><ul>\n'
        for anchor, name, there in (
            ("matrix", "Matrix", self.report.services),
            ("findings", "Findings", True),
            ("unverified", "Not verified", self.doubts),
            ("not-judged", "Not judged", self.others),
            ("endpoints", "Endpoints", self.report.services),
            ("nodes", "Nodes", self.nodes),
            ("notes", "Notes", self.report.notes),
        ):
            if there:
                yield f'<li><a href="#{anchor}">{name}</a></li>\n'
        yield "</ul></nav></header>\n<main>\n"
        yield f'<div class="verdict {kind}"><strong>{_text(found.verdict.capitalize())}.</strong> {_VERDICTS[found.verdict]}'
        yield f"<p>{_text(summary_of(self.report))}</p></div>\n"
        yield '<dl class="numbers">\n'
        for name, value, colour in (
            ("Services", str(found.services), ""),
            ("Endpoints", str(found.endpoints), ""),
            (
                "Nodes verified",
                f"{found.nodes_verified} of {found.nodes}",
                "unverified" if found.nodes_verified < found.nodes else "",
            ),
            ("Errors", str(found.errors), "error" if found.errors else ""),
            ("Warnings", str(found.warnings), "warning" if found.warnings else ""),
            ("Not verified", str(found.unverified), "unverified" if found.unverified else ""),
        ):
            yield f'<div><dt>{name}</dt><dd class="{colour}">{value}</dd></div>\n'
        yield "</dl>\n"
        facts = [f"kube-proxy {_code(self.report.meta['proxy'])}"] if self.report.meta.get("proxy") else []
        if origin:
            facts.append(f"from {_code(origin)}")
        if facts:
            yield f'<p class="dim">{", ".join(facts)}</p>\n'

    # ---- the matrix --------------------------------------------------------------------------------------------------

    def _matrix(self) -> Iterator[str]:
        services, nodes = list(self.report.services), list(self.nodes)
        if not services or not nodes:
            return
        cells = {(s.service, node): self.matrix.cell(s, node) for s in services for node in nodes}
        of_node = {node: self.matrix.of_node(node) for node in nodes}
        if len(services) >= _SORT_FROM:
            services.sort(key=lambda s: min(_ORDER[cells[s.service, node].status] for node in nodes))
        if len(nodes) >= _SORT_FROM:
            worst = {
                node: min(_ORDER[of_node[node].status], *(_ORDER[cells[s.service, node].status] for s in services))
                for node in nodes
            }
            nodes.sort(key=worst.__getitem__)
        yield '<section id="matrix"><h2>Services by nodes</h2>\n'
        used = {cell.status for cell in cells.values()} | {cell.status for cell in of_node.values()}
        yield '<ul class="legend">\n'
        for status in _ORDER:
            if status in used:
                yield f'<li><b class="{status[0]}">{_SIGNS[status]}</b>{_WORDS[status]}</li>\n'
        yield "</ul>\n"
        if self.domain:
            yield f'<p class="dim">Names of nodes end in {_code(self.domain)}.</p>\n'
        yield '<div class="scroll" role="region" aria-label="Services by nodes" tabindex="0"><table class="matrix"><thead><tr>'
        yield '<th scope="col">Service</th>'
        for node in nodes:
            yield f'<th scope="col" title="{_text(node)}"><span>{_text(self.names[node])}</span></th>'
        yield '</tr></thead>\n<tbody>\n<tr><th scope="row"><em>the node itself</em></th>'
        for node in nodes:
            yield self._cell(of_node[node], None, node)
        yield "</tr>\n"
        for service in services:
            yield f'<tr><th scope="row">{_text(service.service)}</th>'
            for node in nodes:
                yield self._cell(cells[service.service, node], service.service, node)
            yield "</tr>\n"
        yield "</tbody></table></div></section>\n"

    def _cell(self, cell: Cell, service: str | None, node: str) -> str:
        sign, kind = _SIGNS[cell.status], cell.status[0]
        if cell.status in ("ok", "skipped"):
            return f"<td class={kind}>{sign}</td>"
        tries = ((service, node), (None, node), (service, None), (None, None))
        anchor = next((self.anchors[key] for key in tries if key in self.anchors), "findings")
        codes = " ".join(dict.fromkeys([*(f.code for f in cell.findings), *(u.code for u in cell.unverified)]))
        says = f"{service or 'the node itself'} on {node}: {_WORDS[cell.status]}{' ' + codes if codes else ''}"
        return f'<td class={kind}><a href="#{anchor}" title="{_text(says)}" aria-label="{_text(says)}">{sign}</a></td>'

    # ---- findings ----------------------------------------------------------------------------------------------------

    def _findings(self) -> Iterator[str]:
        yield f'<section id="findings"><h2>Findings ({len(self.report.findings)})</h2>\n'
        if not self.groups:
            yield "<p>None.</p>\n"
        for n, group in enumerate(self.groups, start=1):
            finding = group.first
            kind = finding.severity.value
            yield f'<article class="finding {kind}" id="f{n}"><h3><span class="tag {kind}">{kind}</span>'
            yield f"{_text(label_of(finding.code, finding.name))}{self._where(group.nodes, finding.service)}</h3>\n"
            yield f"<p>{_text(finding.message)}</p>\n<dl>\n"
            seen = " from ".join(
                part for part in (_code(finding.frontend) if finding.frontend else "", _text(finding.client or "")) if part
            )
            yield from _field("Seen at" if finding.frontend else "Clients", seen)
            for label, text in (
                ("Should be", finding.expected),
                ("Is", finding.observed),
                ("Traffic", finding.effect),
                ("Repair", finding.heals),
                ("Elsewhere", finding.elsewhere),
                ("Code", page_of(finding.code).title),
            ):
                yield from _field(label, _text(text))
            if len(group.nodes) > 6:
                yield from _field("Nodes", ", ".join(map(_code, group.nodes)))
            yield "</dl>\n"
            yield from _evidence(finding.evidence)
            yield "</article>\n"
        yield "</section>\n"

    @staticmethod
    def _where(nodes: Sequence[str], service: str | None) -> str:
        places = [_code(node) for node in nodes[:6]]
        if len(nodes) > 6:
            places.append(plural(len(nodes) - 6, "more node"))
        if service:
            places.append(_code(service))
        return f": {', '.join(places)}" if places else ""

    def _doubts(self) -> Iterator[str]:
        if not self.doubts:
            return
        yield f'<section id="unverified"><h2>Not verified ({len(self.report.unverified)})</h2>\n'
        for n, doubt in enumerate(self.doubts, start=1):
            yield f'<article class="finding unverified" id="u{n}"><h3><span class="tag unverified">not verified</span>'
            yield f"{_text(label_of(doubt.code))}{self._where(doubt.nodes, None)}</h3>\n<p>{_text(doubt.reason)}</p>\n"
            if doubt.services:
                yield f"<p>{', '.join(map(_code, doubt.services))}</p>\n"
            yield from _evidence(doubt.evidence)
            yield "</article>\n"
        yield "</section>\n"

    def _not_judged(self) -> Iterator[str]:
        if not self.others:
            return
        yield f'<section id="not-judged"><h2>Not judged ({len(self.report.not_judged)})</h2>\n'
        for doubt in self.others:
            yield '<article class="finding info"><h3><span class="tag info">not judged</span>'
            yield f"{_text(label_of(doubt.code))}{self._where(doubt.nodes, None)}</h3>\n<p>{_text(doubt.reason)}</p>\n"
            yield from _evidence(doubt.evidence)
            yield "</article>\n"
        yield "</section>\n"

    # ---- endpoints and nodes -----------------------------------------------------------------------------------------

    def _endpoints(self) -> Iterator[str]:
        services = list(self.report.services)
        if not services:
            return
        yield '<section id="endpoints"><h2>Endpoints</h2>\n'
        if len(services) > _ENDPOINT_TABLES:
            services = [s for s in services if any(row.wrong for row in s.endpoints) or s.errors or s.warnings]
            yield f"<p>Of {plural(len(self.report.services), 'Service')}, those with findings or wrong shares.</p>\n"
        for service in services:
            ready, total = endpoint_counts(service)
            open_ = " open" if len(self.report.services) == 1 else ""
            says = "nothing to verify" if service.skipped else f"{ready} of {total} ready"
            yield f"<details{open_}><summary>{_code(service.service)} {_text(service.type)}, {says}</summary>\n"
            if service.skipped:
                yield f"<p>{_text(service.skipped)}</p></details>\n"
                continue
            facts = [*map(_code, service.cluster_ips), *map(_code, service.ports)]
            if service.policy:
                facts.append(_text(service.policy))
            yield f"<p>{', '.join(facts)}</p>\n"
            if service.endpoints:
                yield from self._endpoint_table(service)
            yield from _evidence(service.evidence, "Rules that a pod's packet to the first cluster IP walks")
            yield "</details>\n"
        yield "</section>\n"

    def _endpoint_table(self, service: ServiceRow) -> Iterator[str]:
        # Beyond a dozen nodes only those that differ get a column: the rest are one number.
        nodes = (
            self.nodes
            if len(self.nodes) <= 12
            else [n for n in self.nodes if any(n in row.wrong for row in service.endpoints)][:12]
        )
        yield f'<div class="scroll" role="region" aria-label="Endpoints of {_text(service.service)}" tabindex="0">'
        yield "<table><thead><tr>"
        for head in ("Pod", "Address", "Port", "Node", "Ready", "Right on"):
            yield f'<th scope="col">{head}</th>'
        for node in nodes:
            yield f'<th scope="col" title="{_text(node)}">{_text(self.names[node])}</th>'
        yield "</tr></thead><tbody>\n"
        for row in service.endpoints:
            good = sum(share is not None and node not in row.wrong for node, share in row.share.items())
            on = self.names.get(row.node or "", row.node or "-")
            yield "<tr>"
            for text in (row.pod or "-", row.address, row.port, on):
                yield f"<td class=m>{_text(text)}</td>"
            yield f"<td>{_text(row.state)}</td>"
            yield f"<td>{good} of {len(row.share)} nodes</td>"
            for node in nodes:
                share = row.share.get(node)
                if share is None:
                    yield '<td class=u title="not verified">?</td>'
                elif node in row.wrong:
                    yield f"<td class=e>{percent(share)} ✗</td>"
                else:
                    yield f"<td>{percent(share) if share else '-'}</td>"
            yield "</tr>\n"
        yield "</tbody></table></div>\n"

    def _nodes(self) -> Iterator[str]:
        if not self.nodes:
            return
        yield '<section id="nodes"><h2>Nodes</h2>\n<div class="scroll" role="region" aria-label="Nodes" tabindex="0">'
        yield "<table><thead><tr>"
        for head in ("Node", "Verified", "kube-proxy", "Read via", "Errors", "Warnings"):
            yield f'<th scope="col">{head}</th>'
        yield "</tr></thead><tbody>\n"
        for row in self.report.nodes:
            verified = "yes" if row.verified else '<span class="unverified">? no</span>'
            proxy = f"{row.mode} {row.version}".strip() or "-"
            yield f"<tr><td class=m>{_text(row.node)}</td><td>{verified}</td><td>{_text(proxy)}</td>"
            yield f"<td>{_text(row.via or '-')}</td><td>{row.errors}</td><td>{row.warnings}</td></tr>\n"
        yield "</tbody></table></div></section>\n"


def _field(label: str, text: str) -> Iterator[str]:
    if text:
        yield f"<dt>{label}</dt><dd>{text}</dd>\n"


def _evidence(lines: Sequence[str], title: str = "Evidence") -> Iterator[str]:
    if lines:
        yield f"<details><summary>{title} ({plural(len(lines), 'line')})</summary><pre>"
        yield "\n".join(map(_text, lines))
        yield "</pre></details>\n"
