"""A trace as a tree, as JSON and as pictures: fit to be shown, whatever a cluster's text says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from captured import capture, faulty
from reports import HOSTILE

from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.routes import Client
from kubectl_svcroute.model.snapshot import Unreachable
from kubectl_svcroute.model.trace import Branch, Hop, Trace
from kubectl_svcroute.render import RenderOptions
from kubectl_svcroute.render.text import is_unsafe, width
from kubectl_svcroute.render.trace_graph import dot, graph_of, mermaid, svg
from kubectl_svcroute.render.trace_json import as_json, document
from kubectl_svcroute.render.trace_tree import pieces
from kubectl_svcroute.trace.question import Question
from kubectl_svcroute.trace.tracer import Tracer

Golden = Callable[[str, str], None]
KUBE, NFT = "v1.36-iptables-nft", "v1.36-nftables"


@cache
def traced(service: str, node: int, client: str = "pod", to: str = "", name: str = KUBE, fault: str = "") -> Trace:
    snapshot = load_snapshot(str(faulty(name, fault) if fault else capture(name)))
    dump = next(h for h in snapshot.nodes if h.node == f"kubworker{node}.prefetch.net").read()
    return Tracer(snapshot.api, Question(service=service, client=Client(client), to=to)).trace(dump)


def many(count: int) -> Trace:
    """kuard with so many endpoints."""
    trace = traced("default/kuard", 3)
    way = trace.ways[0]
    leaf = way.tree.branches[0]
    assert leaf.end is not None
    branches = tuple(
        replace(
            leaf,
            share=1 / count,
            end=replace(
                leaf.end, share=1 / count, should=1 / count, pod=f"kuard-{n:05d}", address=f"10.244.{n // 250}.{n % 250}:8080",
                node=f"kubworker{n % 12}.prefetch.net",
            ),
        )
        for n in range(count)
    )  # fmt: skip
    exits = (replace(way.exits[0], ends=count),)
    way = replace(way, tree=replace(way.tree, branches=branches), exits=exits, expected=f"{1 / count:.2%} each")
    return replace(trace, ways=(way,))


def hostile() -> Trace:
    """A trace in which everything that comes from a cluster is somebody's attempt."""
    trace = traced("shop/web", 3, fault="wrong-dnat-address")

    def spoil(branch: Branch) -> Branch:
        return replace(
            branch,
            hops=tuple(map(spoil_hop, branch.hops)),
            branches=tuple(map(spoil, branch.branches)),
            end=branch.end and replace(branch.end, pod=HOSTILE, node=HOSTILE, state=HOSTILE),
        )

    def spoil_hop(hop: Hop) -> Hop:
        return replace(
            hop, rule=HOSTILE, chain=HOSTILE, target=HOSTILE, table=HOSTILE, words=HOSTILE, why=HOSTILE, command=HOSTILE
        )

    ways = tuple(
        replace(
            way, sources=HOSTILE, expected=HOSTILE, tree=spoil(way.tree), affinity=HOSTILE, affinity_rule=HOSTILE, alike=HOSTILE,
            exits=tuple(
                replace(e, hops=tuple(map(spoil_hop, e.hops)), who=HOSTILE, answer=HOSTILE, source=HOSTILE) for e in way.exits
            ),
        )
        for way in trace.ways
    )  # fmt: skip
    findings = tuple(replace(f, message=HOSTILE, expected=HOSTILE, observed=HOSTILE) for f in trace.findings)
    return replace(trace, service=HOSTILE, node=HOSTILE, port=HOSTILE, ways=ways, findings=findings, notes=(HOSTILE,))


def dark() -> Trace:
    snapshot = load_snapshot(str(capture(KUBE)))
    gone = Unreachable(node="kubworker1.prefetch.net", reason="ssh: connection refused")
    return Tracer(snapshot.api, Question(service="default/kuard")).trace(gone)


SAMPLES: dict[str, Callable[[], Trace]] = {
    "pod": lambda: traced("default/kuard", 3),
    "pod-1.17": lambda: traced("default/kuard", 3, name="v1.17-iptables-legacy"),
    "pod-nft": lambda: traced("default/kuard", 3, name=NFT),
    "hairpin": lambda: traced("default/kuard", 1, "hairpin"),
    "hairpin-nft": lambda: traced("default/kuard", 1, "hairpin", name=NFT),
    "node": lambda: traced("default/kuard", 2, "node"),
    "node-port": lambda: traced("shop/web", 3, "outside", "nodeport"),
    "local-here": lambda: traced("shop/api", 2, "outside", "nodeport"),
    "local-elsewhere": lambda: traced("shop/api", 3, "outside", "nodeport"),
    "source-ranges": lambda: traced("shop/api", 2, "outside", "lb"),
    "source-ranges-nft": lambda: traced("shop/api", 2, "outside", "lb", name="v1.31-nftables"),
    "affinity": lambda: traced("shop/cart", 3),
    "empty": lambda: traced("shop/empty", 3),
    "six": lambda: traced("shop/six", 2),
    "dual-node": lambda: traced("shop/dual", 1, "node", "[fd00:96::bb5f]:80"),
    "wrong-address": lambda: traced("shop/web", 3, fault="wrong-dnat-address"),
    "missing": lambda: traced("default/kuard", 3, fault="missing-endpoint"),
    "no-jump": lambda: traced("default/kuard", 3, fault="no-prerouting-jump"),
    "mark-mismatch": lambda: traced("default/kuard", 3, "node", fault="mark-mismatch"),
    "no-forwarding": lambda: traced("default/kuard", 4, fault="node-not-forwarding"),
    "many": lambda: many(300),
    "hostile": hostile,
    "dark": dark,
}


def tree(trace: Trace, columns: int = 80, **more: bool) -> str:
    options = RenderOptions(width=columns, color=more.pop("color", False), ascii_only=more.pop("ascii_only", False))
    return "".join(pieces(trace, options, **more))


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_tree_looks_as_it_did(sample: str, golden: Golden) -> None:
    golden(f"trace-{sample}.txt", tree(SAMPLES[sample]()))


def test_commands_and_everything_look_as_they_did(golden: Golden) -> None:
    golden("trace-hairpin.commands.txt", tree(SAMPLES["hairpin"](), commands=True))
    golden("trace-hairpin-nft.commands.txt", tree(SAMPLES["hairpin-nft"](), commands=True))
    golden("trace-pod.everything.txt", tree(SAMPLES["pod"](), everything=True))
    golden("trace-wrong-address.color.txt", tree(SAMPLES["wrong-address"](), color=True))
    golden("trace-source-ranges.ascii.txt", tree(SAMPLES["source-ranges"](), ascii_only=True))


@pytest.mark.parametrize("sample", ["pod", "hairpin", "source-ranges", "wrong-address", "many"])
def test_pictures_look_as_they_did(sample: str, golden: Golden) -> None:
    trace = SAMPLES[sample]()
    golden(f"trace-{sample}.mmd", mermaid(trace))
    golden(f"trace-{sample}.dot", dot(trace))
    golden(f"trace-{sample}.svg", svg(trace))


@pytest.mark.parametrize("sample", ["hairpin", "wrong-address", "hostile"])
def test_json_looks_as_it_did(sample: str, golden: Golden) -> None:
    trace = replace(SAMPLES[sample](), origin="")
    golden(f"trace-{sample}.json", document(trace, commands=True))


# ---- what holds for all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_tree_fits_and_cannot_be_abused(sample: str, columns: int) -> None:
    """No line is too long (commands aside, which are copied), and nothing reaches a terminal that it would obey."""
    for everything in (False, True):
        text = tree(SAMPLES[sample](), columns, everything=everything)
        assert not is_unsafe(text.replace("\n", ""))
        assert max(map(width, text.splitlines())) <= columns
        assert not any(line != line.rstrip() for line in text.splitlines())
    assert not is_unsafe(tree(SAMPLES[sample](), columns, commands=True).replace("\n", ""))


@pytest.mark.parametrize("sample", SAMPLES)
def test_ascii_is_ascii_and_says_the_same(sample: str) -> None:
    trace = SAMPLES[sample]()
    text = tree(trace, ascii_only=True)
    assert text.isascii()
    assert document(trace, RenderOptions(ascii_only=True)).isascii()
    assert text.count("\n") == tree(trace).count("\n") or sample == "hostile"


@pytest.mark.parametrize("sample", SAMPLES)
def test_colour_says_nothing_alone(sample: str) -> None:
    trace = SAMPLES[sample]()
    assert re.sub(r"\x1b\[[0-9;]*m", "", tree(trace, color=True)) == tree(trace)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s not in ("dark", "hostile")])
def test_a_trace_answers_what_the_marks_are_for(sample: str) -> None:
    """Whoever reached an endpoint is told of the bit, of who sets and tests it, whether it was set here, and of the answer."""
    trace = SAMPLES[sample]()
    text = " ".join(tree(trace).split())
    if any(end.action == "translate" for way in trace.ways for end in way.endings()):
        assert f"bit {trace.mark:#x}" in text
        assert f"{trace.test_chain} looks for the note" in text
        assert re.search(r"is (not )?marked: ", text)
        assert "HOW THE ANSWER COMES BACK" in text
        assert "conntrack" in text or any(e.wrong for way in trace.ways for e in way.exits)
    assert ("AS IT SHOULD BE" in text) is (trace.verdict == "as it should be")


def test_many_endpoints_fold() -> None:
    """Five are named, the others counted; JSON has them all."""
    text = tree(many(300))
    assert "and 295 more, each 0.33%, on 12 nodes, all ready" in text
    assert text.count("kuard-0") == 5
    assert len(tree(many(300), everything=True).splitlines()) > 1500
    assert len(as_json(many(300))["ways"][0]["tree"]["branches"]) == 300
    assert sum(box.kind == "endpoint" for box in graph_of(many(300)).boxes) <= 7


def test_what_is_wrong_among_many_is_not_folded_away() -> None:
    trace = many(300)
    way = trace.ways[0]
    branches = list(way.tree.branches)
    end = branches[200].end
    assert end is not None
    branches[200] = replace(branches[200], end=replace(end, wrong="is no endpoint of the Service"))
    trace = replace(trace, ways=(replace(way, tree=replace(way.tree, branches=tuple(branches))),))
    assert "kuard-00200" in tree(trace)
    assert any("kuard-00200" in line for box in graph_of(trace).boxes for line in box.lines)


@pytest.mark.parametrize("sample", SAMPLES)
def test_json_is_json(sample: str) -> None:
    trace = SAMPLES[sample]()
    text = document(trace, commands=True)
    assert not is_unsafe(text.replace("\n", ""))
    said = json.loads(text)
    assert said == as_json(trace, commands=True)
    assert (said["kind"], said["verdict"]) == ("RouteTrace", trace.verdict)


# ---- pictures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_svg_stands_alone(sample: str) -> None:
    """Well-formed, without scripts, links or fonts from elsewhere; boxes inside the picture and beside each other."""
    text = svg(SAMPLES[sample]())
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert {e.tag.removeprefix(space) for e in root.iter()} <= {
        "svg", "title", "style", "defs", "marker", "path", "rect", "text", "g",
    }  # fmt: skip
    assert not re.search(r"href|url\((?!#tip\))|@import|<script|on\w+=", re.sub(r">[^<]*<", "><", text))
    assert not is_unsafe(text.replace("\n", ""))
    _, _, wide, high = map(float, root.attrib["viewBox"].split())
    boxes = []
    for group in root.iter(f"{space}g"):
        rect = group.find(f"{space}rect")
        assert rect is not None
        x, y, w, h = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= wide + 1
        assert y + h <= high + 1
        for ox, oy, ow, oh in boxes:
            assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h, "two boxes overlap"
        boxes.append((x, y, w, h))
        assert all(float(t.attrib["textLength"]) <= w for t in group.iter(f"{space}text"))
    assert boxes


@pytest.mark.parametrize("sample", SAMPLES)
def test_graphviz_draws_it(sample: str) -> None:
    if shutil.which("dot") is None:
        pytest.skip("graphviz is not installed")
    trace = SAMPLES[sample]()
    done = subprocess.run(["dot", "-Tplain"], input=dot(trace), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    graph = graph_of(trace)
    drawn = [line.split()[0] for line in done.stdout.splitlines()]
    assert drawn.count("node") == len(graph.boxes)
    assert drawn.count("edge") == len(graph.edges)


@pytest.mark.parametrize("sample", SAMPLES)
def test_mermaid_is_a_flowchart(sample: str) -> None:
    """Every line is one of the few forms of the grammar that it uses, and every arrow joins boxes that are there."""
    trace = SAMPLES[sample]()
    lines = mermaid(trace).splitlines()
    assert lines[0] == "flowchart TD"
    label = r'"(?:[A-Za-z0-9 .,:/\-_()]|#\d+;|<br/>)*"'
    forms = {
        "title": rf"  accTitle: {label[1:-1]}",
        "box": rf"  (n\d+)\[{label}\]:::(\w+)",
        "edge": rf"  (n\d+) -->(?:\|{label}\|)? (n\d+)",
        "class": r"  classDef (\w+) fill:#\w{6},stroke:#\w{6},color:#\w{6}(?:,stroke-dasharray:6 3)?",
    }
    found: dict[str, list[re.Match[str]]] = {form: [] for form in forms}
    for line in lines[1:]:
        form, match = next((f, m) for f, p in forms.items() if (m := re.fullmatch(p, line)))
        found[form].append(match)
    boxes = {match[1] for match in found["box"]}
    assert len(boxes) == len(graph_of(trace).boxes)
    assert {end for match in found["edge"] for end in match.groups()} <= boxes
    assert {match[2] for match in found["box"]} == {match[1] for match in found["class"]}
