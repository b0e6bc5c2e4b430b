"""The example on a code's page is what the program finds: the repaired text is silent, the other one has the code.

An example is a diff of what a node printed, from a node with the finding (`-`) to one as it should be (`+`), and a comment
that says of which capture, node, file and Service. A file of which every line is `-` is not there on a node as it should be.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import pytest
from captured import capture
from test_codes import PAGES, sections

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.checks.registry import CODES
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump, NodeOutcome, Snapshot, Unreachable

WITHOUT = {
    "SR906": "the API does not list the node, or nothing tells a version: no line that a node prints",
    "SR907": "the API's refusal, which is in the message",
    "SR609": "what the API says of kube-proxy's pod; tests/checks/test_proxy_state.py makes them",
    "SR610": "processes and addresses that do not answer; as before",
    "SR621": "connections, of which no capture has any; tests/test_probe.py makes them",
    "SR622": "as before",
    "SR623": "as before",
    "SR908": "objects that change between two readings: no line that a node prints",
    "SR910": "a report that is missing: no line that a node prints",
    "SR912": "an audit of no node: no line that a node prints",
    "SR920": "what could not be read of a node: no line that it prints",
    "SR921": "what a probe could not dial: no line that a node prints",
}
"""Codes whose page has no example, and why; and SR7xx, which a probe sees in no text of the node's."""


class Example(NamedTuple):
    capture: str
    node: str
    file: str
    service: str
    hunks: tuple[tuple[str, ...], ...]


def example(code: str) -> Example:
    """The one on the page."""
    text = sections((PAGES / f"{code}.md").read_text(encoding="utf-8"))["Example"]
    found = re.fullmatch(r"\n<!-- example: (\S+) (\S+) (\S+)(?: (\S+))? -->\n.+:\n\n```diff\n(.+)\n```\n\n", text, re.DOTALL)
    assert found, "the section is a comment, a sentence and a diff"
    hunks = tuple(tuple(hunk.split("\n")) for hunk in found[5].split("\n@@\n"))
    assert all(line[:1] in ("-", "+", " ") for hunk in hunks for line in hunk)
    return Example(found[1], found[2], found[3], found[4] or "", hunks)


def broken(text: str, hunk: tuple[str, ...]) -> str:
    """The text of a node as it should be, with the hunk undone in the last place where it fits."""
    right = "".join(r"(?:.*\n)*?" if line == "+…" else re.escape(line[1:]) + r"(?:\n|\Z)" for line in hunk if line[0] in "+ ")
    wrong = "".join(f"{line[1:]}\n" for line in hunk if line[0] in "- ")
    places = list(re.finditer(f"^{right}", text, re.MULTILINE))
    assert places, f"no node prints {right}"
    return text[: places[-1].start()] + wrong + text[places[-1].end() :]


@cache
def snapshot(name: str) -> Snapshot:
    return load_snapshot(capture(name))


@cache
def dump(name: str, node: str) -> NodeDump:
    found = next(handle.read() for handle in snapshot(name).nodes if handle.node.partition(".")[0] == node)
    assert isinstance(found, NodeDump)
    return found


def judged(name: str, outcome: NodeOutcome, service: str) -> set[str]:
    """Every code that the audit of the one node gives out."""
    report = audit(snapshot(name).api, [outcome], Selection(services=frozenset([service])) if service else Selection())
    return {found.code for found in (*report.findings, *report.unverified, *report.not_judged)}


@cache
def healthy(name: str, node: str, service: str) -> set[str]:
    return judged(name, dump(name, node), service)


def test_every_page_has_an_example_or_a_reason() -> None:
    """Whoever adds a code adds what it looks like."""
    with_one = {code for code in CODES if "Example" in sections((PAGES / f"{code}.md").read_text(encoding="utf-8"))}
    assert {code for code in CODES if not code.startswith("SR7")} - with_one == set(WITHOUT)


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT and not code.startswith("SR7")])
def test_the_example_is_found(code: str) -> None:
    """The broken node has this code and no other; the same node as it should be has none."""
    shown = example(code)
    before = dump(shown.capture, shown.node)
    lines = [line for hunk in shown.hunks for line in hunk]
    if shown.file in before.files:
        text = before.files[shown.file]
        for hunk in shown.hunks:
            text = broken(text, hunk)
        if not before.files[shown.file].endswith("\n"):
            text = text.removesuffix("\n")
    else:
        assert all(line[0] == "-" for line in lines)
        text = "".join(f"{line[1:]}\n" for line in lines)
    after: NodeOutcome = NodeDump(node=before.node, files={**before.files, shown.file: text})
    if shown.file == "unreachable.txt":
        after = Unreachable(node=before.node, reason=text.strip())
    assert healthy(shown.capture, shown.node, shown.service) == set()
    assert judged(shown.capture, after, shown.service) == {code}
