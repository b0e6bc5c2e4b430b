"""A trace as a picture: Mermaid and Graphviz text, and an SVG of our own that needs no other program.

All three draw one graph: who dials, the chains on the way, a box for each endpoint that chance can choose, and the exits
that the branches share. A picture is for the shape; the raw rules are in the tree and in the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from ..model.fast_dataclass import dataclass, field
from ..model.trace import Branch, Ending, Exit, Hop, Role, Trace, Way
from .text import clean, percent, width, wrap

MOST = 6
"""More endpoints than this at one fork are drawn as one box."""
_COLUMNS = 34
"""Width of the text in a box."""
_SILENT = frozenset((Role.LOOK, Role.UNMARKED, Role.CLEAR))


@dataclass(frozen=True, slots=True)
class Box:
    """A node of the graph."""

    id: str
    lines: tuple[str, ...]
    kind: str
    """client, chain, mark, endpoint, exit, stop, wrong, unknown."""
    layer: int
    head: int
    """So many lines at the top are its name."""
    way: int
    """Which way it belongs to: ways are drawn side by side."""
    exit: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow, with the share that takes it."""

    start: str
    end: str
    label: str = ""


@dataclass(slots=True)
class Graph:
    """Boxes in layers, from who dials to what becomes of it."""

    title: str
    verdict: str
    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def add(self, texts: Sequence[str], kind: str, layer: int, *, way: int = 0, exit_: bool = False) -> str:
        """A new box; returns its id."""
        name = f"n{len(self.boxes)}"
        wrapped = [wrap(clean(text), _COLUMNS) for text in texts if text]
        lines = tuple(line for part in wrapped for line in part)
        self.boxes.append(Box(name, lines, kind, layer, len(wrapped[0]) if wrapped else 0, way, exit_))
        return name


def graph_of(trace: Trace) -> Graph:
    """The graph of a trace."""
    to = f" to {trace.frontend}" if trace.frontend is not None else ""
    graph = Graph(clean(f"{trace.service} on {trace.node}: from {trace.client}{to}"), trace.verdict)
    for number, way in enumerate(trace.ways):
        _Drawing(graph, trace, way, number).draw()
    if not trace.ways:
        reason = trace.unverified[0].reason if trace.unverified else "nothing is known"
        graph.add(["not verified", reason], "unknown", 0)
    return graph


class _Drawing:
    def __init__(self, graph: Graph, trace: Trace, way: Way, number: int) -> None:
        self.graph = graph
        self.number = number
        self.trace = trace
        self.way = way
        self.exits: dict[int, list[tuple[str, int]]] = {}
        """Exit -> the boxes that lead there and their layers."""

    def _add(self, texts: Sequence[str], kind: str, layer: int, *, exit_: bool = False) -> str:
        return self.graph.add(texts, kind, layer, way=self.number, exit_=exit_)

    def draw(self) -> None:
        start = self._add([self.way.sources, f"dials {self.trace.frontend}"], "client", 0)
        self._branch(self.way.tree, start, 0, "")
        deepest = max((layer for group in self.exits.values() for _, layer in group), default=0)
        for number, sources in sorted(self.exits.items()):
            self._exit(self.way.exits[number], sources, deepest + 1)

    def _branch(self, branch: Branch, before: str, layer: int, label: str) -> None:
        at, layer, label = self._hops(branch.hops, before, layer, label, chosen=branch.end)
        if branch.end is not None:
            self._end(branch.end, at, layer, label)
            return
        rest = [b for b in branch.branches if b.end is not None and not b.end.wrong and not b.end.unknown]
        fold = rest[MOST - 1 :] if len(branch.branches) > MOST and len(rest) > MOST else []
        for b in branch.branches:
            if not any(b is other for other in fold):
                self._branch(b, at, layer, percent(b.share) if not (b.end and b.end.unknown) else "?")
        if fold:
            share = sum(b.share for b in fold)
            box = self._add([f"and {len(fold)} more endpoints", f"{percent(fold[0].share)} each"], "endpoint", layer + 1)
            self.graph.edges.append(Edge(at, box, percent(share)))
            for number in {b.end.exit for b in fold if b.end is not None and b.end.exit is not None}:
                self.exits.setdefault(number, []).append((box, layer + 1))
        for missing in self.way.missing[:MOST]:
            box = self._add([*_place(missing), "gets no connection, and should"], "wrong", layer + 1)
            self.graph.edges.append(Edge(at, box, "0%"))

    def _hops(
        self, hops: Sequence[Hop], before: str, layer: int, label: str, *, chosen: Ending | None
    ) -> tuple[str, int, str]:
        """Boxes for the chains of a stretch; the DNAT is the endpoint's box."""
        at = before
        for hop in hops:
            if hop.role in _SILENT or hop.role in (Role.ASK, Role.TRANSLATE, Role.CHOOSE):
                continue
            if hop.role is Role.STOP and chosen is not None:
                continue
            if hop.role is Role.MARK:
                lines, kind = [f"{hop.chain}", f"sets the mark {self.trace.mark:#x}"], "mark"
            elif hop.foreign:
                lines, kind = [f"{hop.chain}: {hop.target}", "not kube-proxy's rule"], "wrong"
            elif hop.role is Role.DROP_MARK:
                lines, kind = [hop.chain, "marks it to be dropped"], "stop"
            else:
                lines, kind = [hop.target, hop.words.rpartition(": ")[2].removeprefix("on to ")], "chain"
                if hop.role is Role.ENTER:
                    lines.append(f"(in {hop.hook})")
            layer += 1
            box = self._add(lines, kind, layer)
            self.graph.edges.append(Edge(at, box, label))
            at, label = box, ""
        return at, layer, label

    def _end(self, end: Ending, at: str, layer: int, label: str) -> None:
        if end.action == "translate":
            lines = [*_place(end), end.wrong]
            box = self._add(lines, "wrong" if end.wrong else "unknown" if end.unknown else "endpoint", layer + 1)
        else:
            words = {"reject": "rejected", "drop": "dropped", "pass": "not translated"}.get(end.action or "", "cannot be told")
            kind = "wrong" if end.wrong else "unknown" if end.action is None else "stop"
            box = self._add([words, end.wrong or end.unknown or _STOPS.get(end.action or "", "")], kind, layer + 1)
        self.graph.edges.append(Edge(at, box, label))
        if end.exit is not None and end.action == "translate":
            self.exits.setdefault(end.exit, []).append((box, layer + 1))

    def _exit(self, exit_: Exit, sources: Sequence[tuple[str, int]], layer: int) -> None:
        at = list(sources)
        hops = [h for h in exit_.hops if h.foreign or h.role in (Role.STOP, Role.UNKNOWN)]
        lines = ["leaves masqueraded" if exit_.masquerade else "leaves as it is", f"source: {exit_.source}"]
        mark = f"{self.trace.test_chain}: mark {'found' if exit_.marked and exit_.masquerade else 'not found'}"
        if exit_.action != "translate":
            lines = [{"reject": "rejected", "drop": "dropped"}.get(exit_.action or "", "cannot be told")]
            mark = ""
        foreign = [f"{h.chain}: {h.target}" for h in hops if h.foreign]
        kind = "wrong" if exit_.wrong or foreign else "mark" if exit_.masquerade else "exit"
        box = self._add([mark, *foreign, *lines], kind, layer, exit_=True)
        for start, _ in at:
            self.graph.edges.append(Edge(start, box))


_STOPS = {
    "reject": "the client hears at once: connection refused",
    "drop": "the client waits until it gives up",
    "pass": "it goes on as it came",
}


def _place(end: Ending) -> list[str]:
    where = f"on {end.node}" if end.node else ""
    state = end.state or "not known to the API"
    return [end.pod, end.address, f"{where}, {state}" if where else state]


# ---- Mermaid ----------------------------------------------------------------------------------------------------------------

_PALETTE = {
    # kind: (fill, line, text) for a light ground, and the same for a dark one.
    "client": (("#e8eefc", "#3b5bdb", "#16213e"), ("#1c2a4a", "#7c9cff", "#e6ecff")),
    "chain": (("#f4f4f5", "#71717a", "#18181b"), ("#27272a", "#a1a1aa", "#fafafa")),
    "mark": (("#fff3d6", "#b7791f", "#3d2a00"), ("#40310c", "#f2c14e", "#fff3d6")),
    "endpoint": (("#e3f6e8", "#2f7d4a", "#0f2d1a"), ("#12331f", "#6fcf8f", "#e3f6e8")),
    "exit": (("#e8eefc", "#3b5bdb", "#16213e"), ("#1c2a4a", "#7c9cff", "#e6ecff")),
    "stop": (("#f1f1f1", "#555555", "#222222"), ("#303030", "#bbbbbb", "#eeeeee")),
    "wrong": (("#fde4e4", "#c92a2a", "#4a0d0d"), ("#4a1616", "#ff8787", "#ffe3e3")),
    "unknown": (("#f3e8fd", "#7b3fb5", "#2c1245"), ("#33204a", "#c79bf2", "#f3e8fd")),
}
_DASHED = frozenset(("wrong", "unknown"))
"""Kinds that a dashed line tells as well as their colour."""


def mermaid(trace: Trace) -> str:
    """A Mermaid flowchart. Everything that is not plain text is an entity, so that no name can be taken for syntax."""
    graph = graph_of(trace)
    lines = ["flowchart TD", f"  accTitle: {_mermaid(f'{graph.title}: {graph.verdict}')}"]
    for box in graph.boxes:
        lines.append(f'  {box.id}["{"<br/>".join(map(_mermaid, box.lines))}"]:::{box.kind}')
    for edge in graph.edges:
        label = f'|"{_mermaid(edge.label)}"|' if edge.label else ""
        lines.append(f"  {edge.start} -->{label} {edge.end}")
    for kind in dict.fromkeys(box.kind for box in graph.boxes):
        fill, line, text = _PALETTE[kind][0]
        dashed = ",stroke-dasharray:6 3" if kind in _DASHED else ""
        lines.append(f"  classDef {kind} fill:{fill},stroke:{line},color:{text}{dashed}")
    return "\n".join(lines) + "\n"


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:/-_()")


def _mermaid(text: str) -> str:
    return "".join(c if c in _PLAIN else f"#{ord(c)};" for c in text)


# ---- Graphviz ---------------------------------------------------------------------------------------------------------------


def dot(trace: Trace) -> str:
    """A Graphviz digraph."""
    graph = graph_of(trace)
    lines = [
        "digraph trace {",
        f"  graph [label={_dot((graph.title, graph.verdict))}, labelloc=t, rankdir=TB, fontname=Helvetica];",
        '  node [shape=box, style="rounded,filled", fontname=Helvetica, fontsize=11];',
        "  edge [fontname=Helvetica, fontsize=10];",
    ]
    for box in graph.boxes:
        fill, line, text = _PALETTE[box.kind][0]
        style = ', style="rounded,filled,dashed"' if box.kind in _DASHED else ""
        lines.append(f'  {box.id} [label={_dot(box.lines)}, fillcolor="{fill}", color="{line}", fontcolor="{text}"{style}];')
    for edge in graph.edges:
        label = f" [label={_dot((edge.label,))}]" if edge.label else ""
        lines.append(f"  {edge.start} -> {edge.end}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _dot(lines: Sequence[str]) -> str:
    # In a quoted string a backslash begins dot's own escapes (\N is a node's name), and only \n is ours. HTML entities are
    # read in labels too, so an ampersand is one.
    parts = [line.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(parts) + '"'


# ---- SVG --------------------------------------------------------------------------------------------------------------------

_CHARACTER = 7.3
"""Columns of the box font at 12 px, in px; every line says how long it is, so no font can overflow its box."""
_LINE = 16
_PAD = 10
_GAP_X = 24
_GAP_Y = 52


def svg(trace: Trace) -> str:
    """An SVG that stands alone: no script, no font and no picture from elsewhere; light and dark by the reader's choice."""
    graph = graph_of(trace)
    layout = _Layout(graph)
    head = [*wrap(graph.title, max(40, int(layout.wide / _CHARACTER / 1.25))), graph.verdict]
    top = 30.0 + 20 * len(head)
    places = {name: (x, y + top, w, h) for name, (x, y, w, h) in layout.places.items()}
    return "\n".join(_svg(graph, head, places, layout.wide, top + layout.high + _GAP_X)) + "\n"


class _Layout:
    """Where the boxes stand: each over the middle of what follows it, an exit under the middle of what leads there."""

    def __init__(self, graph: Graph) -> None:
        self.sizes = {box.id: _size(box) for box in graph.boxes}
        self.boxes = {box.id: box for box in graph.boxes}
        self.after: dict[str, list[str]] = {box.id: [] for box in graph.boxes}
        self.before: dict[str, list[str]] = {box.id: [] for box in graph.boxes}
        for edge in graph.edges:
            self.before[edge.end].append(edge.start)
            if not self.boxes[edge.end].exit:
                self.after[edge.start].append(edge.end)
        rows: dict[int, float] = {}
        for box in graph.boxes:
            rows[box.layer] = max(rows.get(box.layer, 0.0), self.sizes[box.id][1])
        self.tops: dict[int, float] = {}
        self.high = 0.0
        for layer in sorted(rows):
            self.tops[layer] = self.high
            self.high += rows[layer] + _GAP_Y
        self.high -= _GAP_Y if rows else 0
        self.places: dict[str, tuple[float, float, float, float]] = {}
        left = _GAP_X * 1.0
        for way in sorted({box.way for box in graph.boxes}):
            left += self._block([box for box in graph.boxes if box.way == way], left) + 2 * _GAP_X
        self.wide = max(left - _GAP_X, 420.0)

    def _span(self, name: str) -> float:
        mine = [self._span(child) for child in self.after[name]]
        return max(self.sizes[name][0], sum(mine) + _GAP_X * (len(mine) - 1) if mine else 0.0)

    def _put(self, name: str, middle: float) -> None:
        w, h = self.sizes[name]
        self.places[name] = (middle - w / 2, self.tops[self.boxes[name].layer], w, h)

    def _tree(self, name: str, left: float) -> None:
        span = self._span(name)
        self._put(name, left + span / 2)
        spans = [self._span(child) for child in self.after[name]]
        at = left + (span - sum(spans) - _GAP_X * (len(spans) - 1)) / 2
        for child, own in zip(self.after[name], spans, strict=True):
            self._tree(child, at)
            at += own + _GAP_X

    def _block(self, boxes: Sequence[Box], left: float) -> float:
        """One way, from a left edge on; returns how wide it is."""
        exits = [box for box in boxes if box.exit]
        roots = [box for box in boxes if not box.exit and not self.before[box.id]]
        wide = max(
            sum(self._span(box.id) for box in roots) + _GAP_X * (len(roots) - 1),
            sum(self.sizes[box.id][0] for box in exits) + _GAP_X * (len(exits) - 1),
        )
        at = left + (wide - sum(self._span(box.id) for box in roots)) / 2
        for box in roots:
            self._tree(box.id, at)
            at += self._span(box.id) + _GAP_X
        wanted = sorted((self._middle(box), box.id) for box in exits)
        at = left
        room = left + wide
        for n, (middle, name) in enumerate(wanted):
            own = self.sizes[name][0]
            later = sum(self.sizes[other][0] + _GAP_X for _, other in wanted[n + 1 :])
            start = min(max(at, middle - own / 2), room - later - own)
            self._put(name, start + own / 2)
            at = start + own + _GAP_X
        return wide

    def _middle(self, box: Box) -> float:
        middles = [self.places[name][0] + self.places[name][2] / 2 for name in self.before[box.id]]
        return sum(middles) / len(middles) if middles else 0.0


def _size(box: Box) -> tuple[float, float]:
    return max(map(width, box.lines), default=1) * _CHARACTER + 2 * _PAD, len(box.lines) * _LINE + 2 * _PAD - 4


def _svg(
    graph: Graph, head: Sequence[str], places: dict[str, tuple[float, float, float, float]], wide: float, high: float
) -> Iterator[str]:
    title = f"{graph.title}: {graph.verdict}"
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" height="{high:.0f}"'
        f' role="img" aria-label={quoteattr(title)}>'
    )
    yield f"<title>{escape(title)}</title>"
    yield f"<style>{_style()}</style>"
    yield '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    yield '<path class="tip" d="M0 0 10 5 0 10z"/></marker></defs>'
    yield f'<rect class="ground" width="{wide:.0f}" height="{high:.0f}"/>'
    for n, line in enumerate(head):
        yield f'<text class="head" x="{wide / 2:.1f}" y="{26 + 20 * n}">{escape(line)}</text>'
    labels = []
    for edge in graph.edges:
        x1, y1, w1, h1 = places[edge.start]
        x2, y2, w2, _ = places[edge.end]
        sx, sy, ex, ey = x1 + w1 / 2, y1 + h1, x2 + w2 / 2, y2
        mid = (sy + ey) / 2
        yield (
            f'<path class="edge" marker-end="url(#tip)" d="M{sx:.1f} {sy:.1f}C{sx:.1f} {mid:.1f} {ex:.1f} {mid:.1f}'
            f' {ex:.1f} {ey:.1f}"/>'
        )
        if edge.label:
            # Near the end that it belongs to, where arrows of one fork do not meet.
            labels.append((ex, ey - 12, edge.label))
    for x, y, text in labels:
        long = width(text) * _CHARACTER
        yield f'<rect class="ground" x="{x - long / 2 - 3:.1f}" y="{y - 11:.1f}" width="{long + 6:.1f}" height="15"/>'
        yield f'<text class="share" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    for box in graph.boxes:
        x, y, w, h = places[box.id]
        yield f'<g class="{box.kind}"><rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="7"/>'
        for n, line in enumerate(box.lines):
            bold = ' class="first"' if n < box.head else ""
            yield (
                f'<text{bold} x="{x + w / 2:.1f}" y="{y + _PAD + 10 + n * _LINE:.1f}"'
                f' textLength="{width(line) * _CHARACTER:.1f}" lengthAdjust="spacingAndGlyphs">{escape(line)}</text>'
            )
        yield "</g>"
    yield "</svg>"


def _style() -> str:
    rules = [
        "text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;text-anchor:middle}",
        ".head{font:600 14px system-ui,sans-serif}.first{font-weight:600}.edge{fill:none;stroke-width:1.4}",
        ".ground{fill:#fff}.head,.share{fill:#18181b}.edge{stroke:#71717a}.tip{fill:#71717a}g rect{stroke-width:1.5}",
    ]
    dark = [".ground{fill:#111214}.head,.share{fill:#f4f4f5}.edge{stroke:#a1a1aa}.tip{fill:#a1a1aa}"]
    for kind, (light, night) in _PALETTE.items():
        dashed = "stroke-dasharray:6 3" if kind in _DASHED else ""
        rules.append(f".{kind} rect{{fill:{light[0]};stroke:{light[1]};{dashed}}}.{kind} text{{fill:{light[2]}}}")
        dark.append(f".{kind} rect{{fill:{night[0]};stroke:{night[1]}}}.{kind} text{{fill:{night[2]}}}")
    return "".join(rules) + f"@media (prefers-color-scheme:dark){{{''.join(dark)}}}"
