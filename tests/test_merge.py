"""An audit in parts: merged, it is the audit of the whole, and what is missing or foreign never passes unsaid."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
from captured import CAPTURES, capture, faults, faulty
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import UsageError
from kubectl_svcroute.model.net import Backend
from kubectl_svcroute.model.node_result import NodeResult
from kubectl_svcroute.model.report import ExitCode, Report
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.shard import ShardOf, part_of
from kubectl_svcroute.model.snapshot import ApiObjects
from kubectl_svcroute.render import RENDERERS, RenderOptions, render
from kubectl_svcroute.shards import encoding
from kubectl_svcroute.shards.encoding import Contents, pack, unpack
from kubectl_svcroute.shards.merge import Part, merge
from kubectl_svcroute.shards.read import parts_of
from kubectl_svcroute.shards.run import PartOf

NAME = "v1.36-iptables-nft"
SOME = ("v1.28-iptables-legacy", "v1.36-iptables-nft", "v1.36-nftables")
"""Captures of all ways to keep rules; what differs by version differs before results go together."""
CASES = [(name, fault) for name in SOME for fault in (None, faults(name)[-1])]


@cache
def judged(name: str, fault: str | None = None, config: bool = True) -> tuple[Audit, tuple[NodeResult, ...], ApiObjects]:
    """An audit of every node, made once: what is asked here is how its parts go together."""
    found = load_snapshot(faulty(name, fault) if fault else capture(name))
    hidden = () if config else ("configmap-kube-proxy", "daemonsets")
    api = replace(found.api, objects={key: value for key, value in found.api.objects.items() if key not in hidden})
    judge = Audit(api, Selection())
    if judge.needs_inference:
        judge.learn(found.outcomes())
    return judge, tuple(judge.node(outcome) for outcome in found.outcomes()), api


def part(name: str, of: ShardOf, fault: str | None = None, *, config: bool = True, **changed: object) -> Report:
    """One part's report."""
    judge, results, api = judged(name, fault, config)
    names = tuple(sorted(result.row.node for result in results))
    usual: dict[str, object] = {"asked": "{}", "listed": names, "api": api, "source": "snapshot", "everybody": True}
    whole = PartOf(of=of, origin="here", **{**usual, **changed})  # type: ignore[arg-type]
    ended = whole.began + 1 if whole.began is not None else None
    return whole.report(judge, [result for result in results if of.owns(result.row.node)], ended=ended)


def sent(report: Report, fmt: str, name: str = "part") -> Part:
    """A part's report as it is read again from what was written."""
    (found,) = parts_of(render(report, fmt), name)
    return found


@cache
def whole(name: str, fault: str | None = None, *, config: bool = True) -> Report:
    judge, results, _ = judged(name, fault, config)
    return judge.conclude(results, origin="here")


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_parts_make_the_whole(data: st.DataObject) -> None:
    """Any number of parts, in any order and form, of healthy clusters and faulty ones: the same bytes as one run."""
    name, fault = data.draw(st.sampled_from(CASES))
    count = data.draw(st.integers(1, 9))
    order = data.draw(st.permutations(range(1, count + 1)))
    form = data.draw(st.sampled_from(["shard", "json", "shard", "yaml"]))
    parts = [sent(part(name, ShardOf(index=index, count=count), fault), form) for index in order]
    merged, one = merge(parts).report, whole(name, fault)
    assert merged.shard is None
    for fmt in ("json", "table"):
        assert render(merged, fmt, RenderOptions(width=100)) == render(one, fmt, RenderOptions(width=100))
    assert merged.exit_code() == one.exit_code()


@pytest.mark.parametrize("name", SOME)
def test_a_part_for_each_node_makes_the_whole_in_every_format(name: str) -> None:
    """Parts of one node each, with a fault among them: every format that merge offers has the same bytes."""
    fault = faults(name)[-1]
    one = whole(name, fault)
    nodes = [row.node for row in one.nodes]
    merged = merge([sent(part(name, ShardOf(node=node), fault), "shard", node) for node in reversed(nodes)]).report
    for fmt in RENDERERS:
        assert render(merged, fmt, RenderOptions(width=90)) == render(one, fmt, RenderOptions(width=90)), fmt


@settings(max_examples=4, deadline=None, derandomize=True)
@given(name=st.sampled_from(SOME), count=st.integers(1, 6))
def test_what_was_inferred_survives(name: str, count: int) -> None:
    """Without kube-proxy's configuration, the parts of a snapshot infer what all its nodes tell, and merge to the same."""
    parts = [sent(part(name, ShardOf(index=n, count=count), config=False), "shard") for n in range(1, count + 1)]
    assert render(merge(parts).report, "json") == render(whole(name, config=False), "json")
    assert any("inferred" in note for note in merge(parts).report.notes)


def test_a_part_that_inferred_something_else_is_not_verified() -> None:
    """A live part whose own nodes tell another configuration than all nodes together: its nodes are not verified, and say why."""
    _, results, api = judged(NAME, None, config=False)
    snapshot = load_snapshot(capture(NAME))
    parts = []
    strange = results[0].row.node
    for result in results:
        judge = Audit(api, Selection())
        outcomes = [outcome for outcome in snapshot.outcomes() if outcome.node == result.row.node]
        judge.learn(outcomes)
        if result.row.node == strange:
            assert judge.inference is not None
            judge.inference.votes.bits.clear()
            judge.inference.votes.bits[11] = 1
        alone = PartOf(
            of=ShardOf(node=result.row.node), asked="", listed=tuple(r.row.node for r in results), api=api, source="live",
            everybody=False, began=1.0, origin="here",
        )  # fmt: skip
        parts.append(sent(alone.report(judge, [result], ended=2.0), "shard"))
    report = merge(parts).report
    assert [(u.code, u.node) for u in report.unverified] == [("SR906", strange)]
    assert "masquerade_bit=11" in report.unverified[0].reason
    assert report.exit_code() is ExitCode.NOT_VERIFIED
    assert [note for note in report.notes if "inferred" in note] == [f"{whole(NAME, config=False).notes[0]}"]


@pytest.mark.parametrize("name", SOME)
def test_a_missing_part_is_never_a_pass(name: str) -> None:
    """Every part left out in turn: exactly its nodes are not verified, by name, and the status is 3, or 0 if it has none."""
    nodes = sorted(row.node for row in whole(name).nodes)
    for absent in range(1, 4):
        parts = [sent(part(name, ShardOf(index=n, count=3)), "shard") for n in range(1, 4) if n != absent]
        merged = merge(parts)
        gone = [node for node in nodes if part_of(node, 3) == absent]
        assert [u.node for u in merged.report.unverified if u.code == "SR910"] == gone
        assert [row.node for row in merged.report.nodes] == nodes
        if gone:
            assert merged.report.exit_code() is ExitCode.NOT_VERIFIED
            assert merged.report.exit_code(allow_partial=True) is ExitCode.OK
        nobody = "" if gone else ", to which no node belongs"
        assert f"missing: shard {absent} of 3{nobody}" in merged.words


def test_the_same_part_twice_counts_once_and_two_that_differ_are_refused() -> None:
    """One report given twice is one; two reports of one shard that say different things are an error that names both."""
    parts = [sent(part(NAME, ShardOf(index=n, count=2)), "shard", f"p{n}") for n in (1, 2)]
    twice = merge([*parts, replace(parts[0], name="again")])
    assert render(twice.report, "json") == render(whole(NAME), "json")
    assert any("again" in word for word in twice.words)
    fault = next(f for f in faults(NAME) if part(NAME, ShardOf(index=1, count=2), f).findings or f == faults(NAME)[-1])
    other = sent(part(NAME, ShardOf(index=1, count=2), fault, listed=("x",)), "shard", "other")
    with pytest.raises(UsageError, match=r"other and p1|p1 and other"):
        merge([*parts, other])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"of": ShardOf(index=2, count=3)}, "divide the nodes differently"),
        ({"program": "0.0.1"}, "different versions of this program"),
        ({"cluster": "another"}, "different clusters"),
        ({"asked": "other"}, "asked for different things"),
        ({"source": "live"}, "read differently"),
        ({"fingerprint": "sha256:0"}, "different snapshots"),
    ],
)
def test_parts_of_different_wholes_are_refused(change: dict[str, object], says: str) -> None:
    """Another division, version, cluster, question, source or snapshot: both files are named, and nothing is merged."""
    one = sent(part(NAME, ShardOf(index=1, count=2)), "shard", "one.json")
    two = sent(part(NAME, ShardOf(index=2, count=2)), "shard", "two.json")
    two = replace(two, shard=replace(two.shard, **change))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=says) as error:
        merge([two, one])
    assert "one.json" in str(error.value)
    assert "two.json" in str(error.value)


def test_moments_that_lie_apart_are_said_and_those_that_lie_too_far_apart_refused() -> None:
    """Live parts of moments near each other merge without a word while the API says the same; else it is said, or refused."""
    def live(index: int, began: float, name: str) -> Part:
        made = part(NAME, ShardOf(index=index, count=2), source="live", began=began)
        return sent(made, "shard", name)

    near = merge([live(1, 1000.0, "a"), live(2, 1200.0, "b")])
    assert render(near.report, "json") == render(whole(NAME), "json")
    with pytest.raises(UsageError, match=r"a and b read the cluster 1 h 0 min apart"):
        merge([live(1, 1000.0, "a"), live(2, 4600.0, "b")])
    assert merge([live(1, 1000.0, "a"), live(2, 4600.0, "b")], within=0).report.exit_code() is ExitCode.OK
    late = live(2, 1200.0, "b")
    contents = unpack(late.shard.results)
    first, *rest = contents.facts.services
    changed = replace(contents, facts=replace(contents.facts, services=(replace(first, counts=(9, 9)), *rest)))
    moved = replace(late, shard=replace(late.shard, results=pack(changed)))
    report = merge([live(1, 1000.0, "a"), moved]).report
    assert any(first.service in note and "00:16:40 to 00:20:00 UTC" in note for note in report.notes)
    assert report.services[0].counts == (9, 9)


def test_a_node_that_came_between_is_not_verified_and_one_that_left_is_no_node() -> None:
    """A node that its own part did not list yet is named as not verified; one that was gone when its part looked is not."""
    nodes = tuple(sorted(row.node for row in whole(NAME).nodes))
    new = next(f"new{n}" for n in range(99) if part_of(f"new{n}", 2) == 1)
    parts = {
        index: sent(part(NAME, ShardOf(index=index, count=2), source="live", began=1000.0 + index, listed=listed), "shard")
        for index, listed in ((1, nodes), (2, (*nodes, new)))
    }
    report = merge(parts.values()).report
    assert [(u.code, u.node) for u in report.unverified] == [("SR910", new)]
    left = next(f"old{n}" for n in range(99) if part_of(f"old{n}", 2) == 2)
    early = sent(part(NAME, ShardOf(index=1, count=2), source="live", began=1000.0, listed=(*nodes, left)), "shard")
    late = sent(part(NAME, ShardOf(index=2, count=2), source="live", began=1002.0), "shard")
    assert merge([late, early]).report.exit_code() is ExitCode.OK


def test_a_nodes_result_comes_back_whole() -> None:
    """Every field of a node's result survives packing; a field that is added has to be added there too."""
    for name, fault in CASES:
        judge, results, _ = judged(name, fault)
        contents = Contents(
            listed=("a",), facts=judge.facts(), inference=None, everybody=False,
            results=tuple(replace(r, notes=("a note",), ways={"default/x": ("a rule",), **r.ways}) for r in results),
        )  # fmt: skip
        again = unpack(pack(contents))
        for one, other in zip(contents.results, again.results, strict=True):
            for field in fields(NodeResult):
                assert getattr(one, field.name) == getattr(other, field.name), field.name
        assert pack(again) == pack(contents)


@pytest.mark.parametrize("name", SOME[:2])
def test_an_address_that_one_node_alone_sends_to_takes_nothing_elsewhere(name: str) -> None:
    """The even shares of a healthy node are those of the API's endpoints, whatever another node has beside them."""
    judge, results, _ = judged(name)
    service = next(s.service for s in judge.facts().services if s.service == "default/kuard")
    facts = next(s for s in judge.facts().services if s.service == service)
    stray = replace(results[0], shares={**results[0].shares, (service, facts.port_order[0], Backend("192.0.2.1", 8080)): 0.5})
    healthy = [replace(r, shares={key: share for key, share in r.shares.items() if key[0] != service}) for r in results[1:]]
    even = [replace(r, even=r.even | {service}) for r in healthy]
    row = next(s for s in judge.conclude([stray, *even]).services if s.service == service)
    node = even[0].row.node
    shares: Sequence[float | None] = [e.share[node] for e in row.endpoints]
    assert sum(filter(None, shares)) == pytest.approx(1.0)


def test_a_log_is_searched_for_the_part_in_it() -> None:
    """What else a pod printed is passed over; a part that is cut off anywhere is an error, never a part."""
    text = render(part(NAME, ShardOf(index=1, count=2)), "shard")
    log = f"warning: something\n{text}3 services: 0 errors\n"
    assert parts_of(log, "log") == parts_of(text, "log")
    for at in range(60, len(text) - 2, max(1, len(text) // 40)):
        with pytest.raises(UsageError, match="pod-x"):
            parts_of(text[:at], "pod-x")
    with pytest.raises(UsageError, match="not of a shard"):
        parts_of(render(whole(NAME), "json"), "whole.json")
    for nonsense in ("", "{}", "[1]", "kind: Pod\n", '{"kind": "RouteReport", "shard": {}}', "\x00"):
        with pytest.raises(UsageError, match="file"):
            parts_of(nonsense, "file")


def test_results_that_were_tampered_with_are_an_error() -> None:
    """A flipped bit anywhere in the packed results is found, but for the few behind the end of the stream, which hold nothing."""
    found = sent(part(NAME, ShardOf(index=1, count=1)), "shard", "p.json")
    text = "".join(found.shard.results)
    whole, refused = merge([found]), 0
    for at in range(0, len(text), max(1, len(text) // 50)):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        broken = replace(found, shard=replace(found.shard, results=(changed,)))
        said = ""
        try:
            report = merge([broken]).report
        except UsageError as error:
            said = str(error)
        if said:
            assert "p.json" in said
            refused += 1
        else:
            assert render(report, "json") == render(whole.report, "json")
    assert refused > 45


def test_nodes_keep_their_part_when_others_come_and_go() -> None:
    """A node's part hangs on its name alone, is the same in every release, and parts are of about one size."""
    assert [part_of(name, 7) for name in ("node-1", "node-2", "kubworker3.prefetch.net")] == [4, 7, 4]
    sizes = [0] * 10
    for n in range(5000):
        sizes[part_of(f"ip-10-0-{n // 250}-{n % 250}.ec2.internal", 10) - 1] += 1
    assert min(sizes) > 400
    assert max(sizes) < 600


def test_the_command_line_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--shard` and `merge` as they are typed: the same bytes as one run, exit statuses, and usage errors with status 2."""
    from kubectl_svcroute.cli import main

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["kubectl-svcroute", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    source = str(faulty(NAME, "missing-endpoint"))
    one = tmp_path / "one.json"
    assert run("-A", "--snapshot", source, "-o", f"json={one}") == 1
    paths = []
    for index in range(3):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        paths.append(str(tmp_path / f"{index}.json"))
        output = f"{('shard', 'json', 'yaml')[index]}={paths[-1]}"
        assert run("-A", "--snapshot", source, "--shard", "job/3", "-o", output) in (0, 1, 3)  # 3: a part without nodes
    merged = tmp_path / "merged.json"
    assert run("merge", *reversed(paths), "-o", f"json={merged}") == 1
    assert merged.read_bytes() == one.read_bytes()
    assert run("merge", *paths, "--fail-on", "never") == 0
    assert run("merge", paths[0]) == 3 or run("merge", paths[1]) == 3
    capsys.readouterr()
    for words, says in (
        (("-A", "--snapshot", source, "--shard", "4/3"), "--shard 4/3"),
        (("-A", "--snapshot", source, "--shard", "node/"), "--shard node/"),
        (("-A", "--snapshot", source, "-o", "shard"), "name the shard"),
        (("merge", str(one)), "not of a shard"),
        (("merge", str(tmp_path / "none")), "cannot be read"),
    ):
        assert run(*words) == 2
        said = capsys.readouterr()
        assert says in said.err
        assert not said.out
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    assert run("-A", "--snapshot", source, "--shard", "job/3") == 2


def test_a_part_says_that_it_is_one() -> None:
    """A part's own report names its shard, says nothing of what other nodes have, and keeps to the published form."""
    fault = next(f for f in faults(NAME) if whole(NAME, f).findings)
    node = whole(NAME, fault).findings[0].node
    assert node is not None
    report = part(NAME, ShardOf(node=node), fault)
    assert report.findings
    assert not any(finding.elsewhere for finding in report.findings)
    assert any(f"this is shard node/{node}: 1 of the 5 nodes" in note for note in report.notes)
    assert json.loads(render(report, "json"))["shard"]["node"] == node
    assert len(render(report, "brief").encode()) <= 4096


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in CAPTURES for fault in (None, *faults(name)[::7])])
def test_whoever_comes_first(name: str, fault: str | None) -> None:
    """Nodes arrive in any order, and each part has a first one of its own: the report is the same, to its evidence."""
    found = load_snapshot(faulty(name, fault) if fault else capture(name))
    outcomes = list(found.outcomes())
    told = {
        render(Audit(found.api, Selection()).report(order), "json")
        for order in (outcomes, outcomes[::-1], outcomes[2:] + outcomes[:2])
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[" * 100_000, "damaged"),
        ('{"table": [' + "[]," * 2_000 + "[]]}", "more than 1000 values"),
        ('{"x": "' + "a" * 200_000 + '"}', "larger than any"),
    ],
)
def test_results_that_would_take_all_memory_are_refused(document: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes can unpack to gigabytes, and each value takes many times its text."""
    monkeypatch.setattr(encoding, "_MOST_VALUES", 1_000 if "table" in document else 10_000_000)
    monkeypatch.setattr(encoding, "_MOST", 150_000)
    squeezer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = base64.b64encode(squeezer.compress(document.encode()) + squeezer.flush()).decode()
    with pytest.raises(UsageError, match=says):
        unpack([packed])
