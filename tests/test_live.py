"""A cluster that moves: what stays is a fault, what passes is none, and what could not be told is said. On a clock of its own."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from churn import SERVICES, Churn, addresses, snapshot

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.collect.fanout import NodeTarget
from kubectl_svcroute.collect.refresh import changed_services
from kubectl_svcroute.errors import CollectError
from kubectl_svcroute.model.report import ExitCode, Report
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeOutcome
from kubectl_svcroute.run.live import Live, audit_live

FIRST, SECOND, THIRD = (handle.node for handle in snapshot().nodes[:3])


def live_of(world: Churn, **more: Any) -> Live:
    """How the program would read this cluster."""
    given: dict[str, Any] = {
        "refresh": world.refresh,
        "changed": changed_services,
        "is_gone": lambda node: False,
        "reader": world,
        "targets": tuple(NodeTarget(name=node) for node in world.nodes),
        "parallel": 1,
        "sleep": world.sleep,
        "clock": world.clock,
    }
    return Live(**{**given, **more})


def run(world: Churn, services: frozenset[str] | None = frozenset(SERVICES), **more: Any) -> Report:
    """One audit of it."""
    listed = world.clock()
    report, whole = audit_live(live_of(world, **more), world.api(), Selection(services=services), origin="test", listed=listed)
    assert whole
    return report


def test_the_churn_is_what_kube_proxy_would_write() -> None:
    """Rules and objects of one moment agree, whatever is out: only their being of different moments makes differences."""
    world = Churn(seed=1, nodes=(FIRST,), lag=(0.0, 0.0), read_seconds=0.0)
    for _ in range(12):
        world.sleep(5)
        outcome = world.read(NodeTarget(name=FIRST))
        world.now -= 0.05
        result = Audit(world.api(), Selection(services=frozenset(SERVICES))).node(outcome)
        assert (result.findings, result.unverified) == ((), ())


def test_a_hundred_audits_of_a_cluster_that_never_rests() -> None:
    """Objects and rules change all the time, the rules always some seconds behind: no audit calls anything a fault, and where
    one endpoint's rule is lost for good on one node, that is found, there, and nothing else is.
    """
    told = 0
    for seed in range(100):
        rng = random.Random(seed)
        world = Churn(seed=seed, nodes=(FIRST,) if seed % 4 else (FIRST, SECOND), every=(0.5, 12.0))
        lost = None
        if seed % 3 == 0:
            service = SERVICES[seed % 2]
            lost = (FIRST, service, rng.choice(addresses(service)))
            world.calm(service, 30.0, {lost[2]})
            world.hurt = lost
        report = run(world)
        if lost is None:
            assert report.findings == (), f"seed {seed}: {[(f.code, f.node, f.service, f.message) for f in report.findings]}"
            assert report.exit_code() in (ExitCode.OK, ExitCode.NOT_VERIFIED)
            told += report.exit_code() is ExitCode.OK
            continue
        assert {(f.node, f.service) for f in report.findings} == {lost[:2]}, f"seed {seed}: {report.findings}"
    assert told > 30, "a cluster that moves is mostly well, and has to be told so"


# ---- one thing at a time: kuard's rule for one endpoint is lost, and the cluster is at rest --------------------------------

LOST = (FIRST, "default/kuard", "10.244.3.2")


def still(*nodes: str, **more: Any) -> Churn:
    """A cluster at rest; without further words, with the lost rule."""
    return Churn(**{"seed": 1, "nodes": nodes or (FIRST,), "changing": (), "hurt": LOST, **more})


def codes(report: Report) -> list[tuple[str, str | None, str | None]]:
    return [(f.code, f.node, f.service) for f in report.findings]


def test_what_stays_is_a_fault_after_settle() -> None:
    """A difference of a cluster at rest is called a fault, and not before `settle` has passed."""
    world = still(FIRST, SECOND)
    report = run(world)
    assert {(node, service) for _, node, service in codes(report)} == {LOST[:2]}
    assert report.exit_code() is ExitCode.FINDINGS
    assert world.now - 1000 > 10


def test_a_difference_that_comes_late_has_to_stay_as_long() -> None:
    """What is first seen when `settle` has nearly passed is watched for another `settle`: it is as young as any."""
    world = still(hurt=None)
    # At rest but for one change of the rules alone, which the objects follow never: the fault begins at second 9.
    begun = world.now + 9

    class Late(Churn):
        def read(self, target: NodeTarget) -> NodeOutcome:
            self.hurt = LOST if self.now > begun else (FIRST, "shop/web", "10.244.1.10")
            return super().read(target)

    late = Late(seed=1, nodes=(FIRST,), changing=())
    report = run(late)
    assert {service for _, _, service in codes(report)} == {"default/kuard"}
    assert late.now > begun + 10


def test_a_node_that_is_lost_meanwhile_is_not_verified() -> None:
    """A node that differed and cannot be read again is unreachable, with what it showed: neither a fault nor a pass."""
    world = still(FIRST, SECOND, deaf={FIRST: (1000.5, 9999.0)})
    report = run(world)
    assert report.findings == ()
    assert [(u.code, u.node) for u in report.unverified] == [("SR901", FIRST)]
    assert re.search(r"connection refused \(when it was first read it differed: SR\d+\)", report.unverified[0].reason)
    assert report.exit_code() is ExitCode.NOT_VERIFIED


def test_a_node_that_comes_back_is_judged() -> None:
    """One refused connection at the second look costs nothing but time."""
    report = run(still(FIRST, SECOND, deaf={FIRST: (1001.0, 1003.0)}))
    assert {(node, service) for _, node, service in codes(report)} == {LOST[:2]}
    assert report.unverified == ()


def test_a_node_that_was_taken_away_is_left_out() -> None:
    """A node that the API no longer has is no failure to read it; one that it has, is."""
    world = still(FIRST, SECOND, hurt=None, deaf={SECOND: (0.0, 9999.0)})
    report = run(world, is_gone=lambda node: node == SECOND)
    assert [row.node for row in report.nodes] == [FIRST]
    assert report.exit_code() is ExitCode.OK
    assert any(SECOND in note and "taken out of the cluster" in note for note in report.notes)
    assert run(world, is_gone=lambda node: False).exit_code() is ExitCode.NOT_VERIFIED


def test_an_api_that_fails_at_the_second_look_loses_nothing() -> None:
    """When the API cannot be read a second time, what agreed stays verified, and what differed is not called a fault."""

    def fails(before: ApiObjects) -> ApiObjects:
        raise CollectError("https://api: connection refused")

    report = run(still(FIRST, SECOND), refresh=fails)
    assert report.findings == ()
    assert [(u.code, u.node) for u in report.unverified] == [("SR908", FIRST)]
    assert "could not be read a second time (https://api: connection refused); seen: SR" in report.unverified[0].reason
    assert {row.node: row.verified for row in report.nodes} == {FIRST: False, SECOND: True}


def test_an_api_that_fails_for_a_moment_is_asked_again() -> None:
    """One failed listing among many delays the verdict, and no more."""
    world = still()
    failures = iter([True, False, True])

    def fails(before: ApiObjects) -> ApiObjects:
        if next(failures, False):
            raise CollectError("https://api: the server answered 503")
        return world.api()

    assert {(node, service) for _, node, service in codes(run(world, refresh=fails))} == {LOST[:2]}


def test_nodes_are_judged_by_objects_of_their_own_time() -> None:
    """A node that is read long after the API was listed and still has the rules of then is behind, not right."""
    # Thirty seconds between two nodes. At second 5 an endpoint comes that no node ever gets to know.
    out = frozenset({"10.244.3.2"})
    world = still(FIRST, SECOND, hurt=None, read_seconds=30.0, stuck={"default/kuard": out})
    world.timeline["default/kuard"] = [(0.0, out), (1005.0, frozenset())]
    report = run(world)
    assert {(code, service) for code, _, service in codes(report)} == {("SR201", "default/kuard")}
    assert {node for _, node, _ in codes(report)} >= {SECOND}


def test_a_slow_api_is_not_listed_for_every_node() -> None:
    """Where one listing takes longer than `settle`, it is not begun again for each node that answers."""
    world = still(*[handle.node for handle in snapshot().nodes], hurt=None, read_seconds=4.0)
    listings = []

    def slow(before: ApiObjects) -> ApiObjects:
        listings.append(world.now)
        world.sleep(15.0)
        return world.api()

    assert run(world, refresh=slow).exit_code() is ExitCode.OK
    assert len(world.nodes) >= 5
    assert len(listings) <= 1


def without_service(world: Churn, *gone: str) -> Callable[[ApiObjects], ApiObjects]:
    def refresh(before: ApiObjects) -> ApiObjects:
        api = world.api()
        items = [i for i in api.items("services") if f"{i['metadata']['namespace']}/{i['metadata']['name']}" not in gone]
        return replace(api, objects={**api.objects, "services": {"kind": "ServiceList", "items": items}})

    return refresh


def test_a_service_that_is_deleted_meanwhile_is_no_pass() -> None:
    """When all that was asked for is gone at the second look, nothing was verified; when others are left, a note says so."""
    world = still()
    report = run(world, frozenset({"default/kuard"}), refresh=without_service(world, "default/kuard"))
    assert report.findings == ()
    assert report.exit_code() is ExitCode.NOT_VERIFIED
    assert "deleted while the cluster was read" in report.unverified[0].reason
    world = still()
    report = run(world, refresh=without_service(world, "shop/web"))
    assert {service for _, _, service in codes(report)} == {"default/kuard"}
    assert any("deleted while the cluster was read: shop/web" in note for note in report.notes)


def test_a_service_that_is_made_meanwhile_is_not_called_verified() -> None:
    """A Service that the first listing lacks is not among those verified: no node was judged for it."""
    world = still(FIRST, SECOND)
    first = without_service(world, "shop/cart")(world.api())
    report, _ = audit_live(live_of(world), first, Selection(), origin="test")
    assert "shop/cart" not in {row.service for row in report.services}
    assert any("made while the cluster was read, and not verified: shop/cart" in note for note in report.notes)


def test_an_interrupt_keeps_what_was_verified_and_calls_nothing_a_fault() -> None:
    """Ctrl-C at the second look: nodes that agreed are verified, and what was seen once is not verified, with what it was."""
    world = still(FIRST, SECOND)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    report, whole = audit_live(
        live_of(world, sleep=interrupt), world.api(), Selection(services=frozenset(SERVICES)), origin="test"
    )
    assert not whole
    assert report.findings == ()
    assert [(u.code, u.node, u.service) for u in report.unverified] == [("SR908", FIRST, "default/kuard")]
    assert report.unverified[0].reason.startswith("interrupted before it was looked at a second time; seen: SR")
    assert {row.node: row.verified for row in report.nodes} == {FIRST: False, SECOND: True}


def test_an_interrupt_while_reading_names_what_was_not_read() -> None:
    """Ctrl-C at the first reading: what was read is verified, the rest is named."""
    world = still(FIRST, SECOND, THIRD, hurt=None)
    read = world.read

    class Interrupted(Churn):
        def read(self, target: NodeTarget) -> NodeOutcome:
            if target.name == SECOND:
                raise KeyboardInterrupt  # in a reader's thread: it is this node's alone, and the others are read
            return read(target)

    heard = []

    def progress(_: object) -> None:
        heard.append(1)
        if len(heard) == 3:  # before the first, after it, and after the second
            raise KeyboardInterrupt

    report, whole = audit_live(
        live_of(world, progress=progress), world.api(), Selection(services=frozenset(SERVICES)), origin="test"
    )
    assert not whole
    assert {row.node: row.verified for row in report.nodes} == {FIRST: True, SECOND: False, THIRD: False}
    assert {u.reason for u in report.unverified} == {"interrupted before it was read"}


def test_nodes_that_were_read_in_another_way_are_told() -> None:
    """Where some nodes were read over SSH and some through their pods, the report says how many, and of each node which."""

    class Mixed(Churn):
        def read(self, target: NodeTarget) -> NodeOutcome:
            found = super().read(target)
            assert isinstance(found, NodeDump)
            return replace(found, via="exec" if target.name == SECOND else "ssh")

    report = run(Mixed(seed=1, nodes=(FIRST, SECOND, THIRD), changing=()))
    assert {row.node: row.via for row in report.nodes} == {FIRST: "ssh", SECOND: "exec", THIRD: "ssh"}
    assert any("1 through exec, 2 through ssh" in note for note in report.notes)
    assert not any("in the same way" in note for note in run(still(FIRST, THIRD, hurt=None)).notes)


# ---- kube-proxy's own word -------------------------------------------------------------------------------------------------


class Metered(Churn):
    """Nodes whose kube-proxy tells how far it is: (queued, written), each seconds before the reading."""

    tells: Callable[[float], tuple[float, float]]

    def read(self, target: NodeTarget) -> NodeOutcome:
        found = super().read(target)
        assert isinstance(found, NodeDump)
        queued, written = (1e9 + self.now - ago for ago in self.tells(self.now - 1000))
        metrics = (
            f'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{ip_family="IPv4"}} {queued!r}\n'
            f'kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family="IPv4"}} {written:.9e}\n'
        )
        clock = f"{int(1e9 + self.now)}\n"
        return replace(found, files={**found.files, "metrics.txt": metrics, "clock.txt": clock})


def metered(tells: Callable[[float], tuple[float, float]], **more: Any) -> Metered:
    world = Metered(**{"seed": 1, "nodes": (FIRST,), "changing": (), "hurt": LOST, **more})
    world.tells = tells
    return world


def test_a_kube_proxy_at_rest_shortens_the_wait() -> None:
    """When kube-proxy has written nothing for long and has nothing queued, a fault is called one sooner."""
    resting, silent = metered(lambda now: (300.0 + now, 299.0 + now)), still()
    assert codes(run(resting)) == codes(run(silent)) != []
    assert resting.now < silent.now - 2


def test_rules_that_are_late_are_not_wrong() -> None:
    """While kube-proxy has a change queued and ends no sync, a difference is waited for; when it is written, all is well."""
    # Queued at second 0, written at second 45: far beyond `settle`, and what a large cluster does.
    world = metered(lambda now: (now, now + 20 if now < 45 else now - 45), hurt=None)
    world.timeline["default/kuard"] = [(0.0, frozenset({"10.244.3.2"})), (999.0, frozenset())]
    world._lags = {FIRST: 46.0}
    report = run(world)
    assert codes(report) == []
    assert report.exit_code() is ExitCode.OK
    assert 1040 < world.now < 1060


def test_a_kube_proxy_that_writes_nothing_for_a_minute_has_failed() -> None:
    """A queue that is not written for a minute is said of kube-proxy, and the rules are called wrong."""
    report = run(metered(lambda now: (now, now + 3600)))
    assert {code for code, _, _ in codes(report)} >= {"SR603"}
    assert "default/kuard" in {service for _, _, service in codes(report)}


def test_a_queue_that_is_never_empty_hides_no_fault() -> None:
    """Where something else changes all the time, there is always a change queued; syncs that end in between prove the fault."""
    report = run(metered(lambda now: (0.2, 1.0 + now % 1.5)))
    assert {(node, service) for _, node, service in codes(report)} == {LOST[:2]}


@pytest.mark.parametrize("metrics", ["", "kubeproxy_sync_proxy_rules_last_timestamp_seconds nothing\n", "# junk\n\x00"])
def test_metrics_that_do_not_tell_change_nothing(metrics: str) -> None:
    """Without kube-proxy's word, or with one that cannot be read, a difference is waited for as ever."""

    class Mute(Churn):
        def read(self, target: NodeTarget) -> NodeOutcome:
            found = super().read(target)
            assert isinstance(found, NodeDump)
            return replace(found, files={**found.files, "metrics.txt": metrics, "clock.txt": "x"})

    assert {service for _, _, service in codes(run(Mute(seed=1, nodes=(FIRST,), changing=(), hurt=LOST)))} == {"default/kuard"}


# ---- memory ----------------------------------------------------------------------------------------------------------------


def test_a_configuration_is_inferred_without_holding_all_nodes() -> None:
    """Where every node votes on the configuration, the dumps of the others are not kept in memory meanwhile."""
    import gc
    import weakref

    class Text(str):
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    most = 0

    class Counted(Churn):
        def read(self, target: NodeTarget) -> NodeOutcome:
            nonlocal most
            found = super().read(NodeTarget(name=FIRST))
            assert isinstance(found, NodeDump)
            text = Text(found.files["iptables-save.txt"])
            alive.add(text)
            gc.collect()
            most = max(most, len(alive))
            return NodeDump(node=target.name, files={**found.files, "iptables-save.txt": text})

    world = Counted(seed=1, nodes=(FIRST,), changing=())
    objects = {key: value for key, value in world.api().objects.items() if key != "configmap-kube-proxy"}
    targets = tuple(NodeTarget(name=f"n{number}") for number in range(30))
    nodes = [{**snapshot().api.items("nodes")[0], "metadata": {"name": target.name}} for target in targets]
    api = replace(world.api(), objects={**objects, "nodes": {"kind": "NodeList", "items": nodes}})
    report, _ = audit_live(
        live_of(world, targets=targets, settle=0.0), api, Selection(services=frozenset({"default/kuard"})), origin="test"
    )
    assert any("inferred from what 30 nodes have in common" in note for note in report.notes)
    assert len(report.nodes) == 30
    assert most <= 6
