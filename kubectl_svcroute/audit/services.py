"""Audit every Service asked for on one node: walk it, or show that its rules are those of one that was walked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..checks.frame_iptables import Stops
from ..expect.routes import node_port_addresses
from ..fork import in_halves
from ..model.cluster import Service
from ..sharing.eligible import Alike, PortCone
from ..sharing.reference import Difference, Reference
from .ask_port import Ground
from .subject import Subject

if TYPE_CHECKING:
    from ..sharing.reference_nft import Difference as NftDifference
    from ..sharing.reference_nft import NftReference

MODELS_AMONG = 256
"""Among so many Services most of the kinds that a cluster has are met."""
WORTH_HALVING = 1000
"""Services whose comparison takes longer than starting a second process and reading its answer."""


class _Recognised(NamedTuple):
    """A Service whose rules are a model's."""

    frontends: list[str]
    chains: list[str]
    counts: tuple[int, int]
    """(ready, all) endpoints."""
    kept: Sequence[PortCone]
    """What later nodes are compared with, where there are any."""


def on_first_node(subject: Subject, ground: Ground, alike: Alike | None) -> Stops:
    """Audit every Service of one family; `alike`: what decides which Services need no walk, None to walk them all."""
    context, ledger = subject.context, subject.ledger
    disturbed = len(ledger.disturbances)
    stops = Stops()
    node_ports = node_port_addresses(ground.view)
    twins = []
    services = list(subject.programmed())
    recognised: dict[str, _Recognised] = {}
    for place, service in enumerate(services):
        key = service.key
        if place == MODELS_AMONG and alike is not None:
            # The models are known by now: whose rules are theirs is found out on two processors.
            recognised = _recognised(subject, services[place:], alike, node_ports)
        if (found := recognised.get(key)) is not None and alike is not None:
            twins.append(key)
            ledger.frontends[key].extend(found.frontends)
            alike.covered.update(found.chains)
            context.memory.counts[key] = found.counts
            if alike.reference is not None:
                alike.reference.add(key, found.kept, found.frontends)
            continue
        slices = subject.slices_of(service)
        cones = alike.cones(service, slices) if alike is not None else None
        if alike is not None and cones is not None and all(cone.twin for cone in cones):
            twins.append(key)
            for cone in cones:
                ledger.frontends[key].extend(cone.dialled(node_ports))
                alike.covered.update(cone.cone.chains)
            if alike.reference is not None:
                alike.reference.add(key, alike.reference.kept(cones), ledger.frontends[key])
            continue
        noted = len(ledger.shares)
        right = subject.walk(service, slices, ground, stops)
        if alike is not None and cones is not None and right:
            alike.learn(key, cones)
            ledger.told_as_twin(key, noted)
            if alike.reference is not None:
                alike.reference.add(key, alike.reference.kept(cones), ledger.frontends[key], walked=True)
    ledger.right_as_others(twins, ground.view.family, partial(subject.hairpins, twins, ground.view))
    context.memory.disturbances.setdefault(ground.view.family, tuple(ledger.disturbances)[disturbed:])
    return stops


def _recognised(
    subject: Subject, services: Sequence[Service], alike: Alike, node_ports: Sequence[str]
) -> dict[str, _Recognised]:
    """Of many Services those whose rules are a model's, and what is kept of each."""

    def work(part: Sequence[Service]) -> dict[str, _Recognised]:
        found = {}
        for service in part:
            cones = alike.cones(service, subject.slices_of(service))
            if cones is not None and all(cone.twin for cone in cones):
                found[service.key] = _Recognised(
                    [text for cone in cones for text in cone.dialled(node_ports)],
                    [chain for cone in cones for chain in cone.cone.chains],
                    subject.context.counts_of(service),
                    alike.reference.kept(cones) if alike.reference is not None else (),
                )
        return found

    return {key: twin for part in in_halves(work, services, least=WORTH_HALVING) for key, twin in part.items()}


def on_later_node(subject: Subject, ground: Ground, reference: Reference, differs: Difference) -> Stops:
    """The same on a later node: walk what was walked on the first one and what differs, and take over the rest."""
    stops = Stops()
    ledger = subject.ledger
    touched = differs.touched
    wrong, later = [], []
    for service in subject.programmed():
        key = service.key
        if key in reference.twins and key not in touched and (differs.alike or not reference.twins[key].walked):
            later.append(service)
            continue
        noted = len(ledger.shares)
        if not subject.walk(service, subject.slices_of(service), ground, stops):
            wrong.append(key)
        elif key in reference.twins:
            ledger.told_as_twin(key, noted)
    # A model that differs here is no model here, whatever becomes of it.
    right = reference.right([*wrong, *touched], (service.key for service in later))
    _take_over(subject, right, reference, ground)
    for service in later if len(right) < len(later) else ():
        if service.key not in right:
            subject.walk(service, subject.slices_of(service), ground, stops)
    return stops


def on_later_nft_node(subject: Subject, ground: Ground, reference: NftReference, differs: NftDifference) -> Stops:
    """The same on a later node in nftables mode: walk what differs, and one of each kind of Services that are alike."""
    stops = Stops()
    ledger = subject.ledger
    asked = {service.key: service for service in subject.programmed()}

    def walk(key: str) -> bool:
        noted = len(ledger.shares)
        right = subject.walk(asked[key], subject.slices_of(asked[key]), ground, stops)
        if right and key in reference.plain:
            ledger.told_as_twin(key, noted)
        return right

    for key in asked:
        if key not in reference.twins or key in differs.touched:
            walk(key)
    right: set[str] = set()
    shown: set[object] = set()
    """What ports of Services that were found right here are like."""
    for group, keys in sorted(differs.groups.items(), key=lambda item: -len(item[0])):  # those of several ports show more
        for n, key in enumerate(keys):
            if shown.issuperset(group):
                right.update(keys[n:])
                break
            if walk(key):
                shown.update(group)
    _take_over(subject, right, reference, ground)
    return stops


def _take_over(subject: Subject, right: set[str], reference: Reference | NftReference, ground: Ground) -> None:
    """Note what is known of Services that are right because they are on the first node."""
    view, ledger = ground.view, subject.ledger
    for disturbance in subject.context.memory.disturbances.get(view.family, ()) if right else ():
        ledger.note(disturbance)
    there = node_port_addresses(reference.view) == node_port_addresses(view)
    # With two families a Service's frontends are put together from both.
    shared = len(subject.families) == 1 and subject.context.memory.parts.first_node == reference.view.node.name
    for key in right:
        twin = reference.twins[key]
        if there or not twin.node_ports:
            if shared:
                ledger.like_first.append(key)
                continue
            ledger.frontends[key].extend(twin.frontends)
        else:
            ledger.frontends[key].extend(twin.dialled(node_port_addresses(view)))
    ledger.right_as_others(right, view.family, partial(subject.hairpins, right, view))
