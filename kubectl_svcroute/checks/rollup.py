"""From observations to findings: one for each cause, worst first.

A cause that is the node's is one finding with the number of Services that it breaks. What a cause explains is not said a
second time: a node that was never programmed has no rejects and no filter rules either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from ..model.fast_dataclass import replace
from ..model.report import Finding, Severity
from ..model.routes import Client
from .observation import Observation
from .registry import CODES

_ALL_SERVICES_FROM = 4
"""So many Services with one and the same fault, and no other Service without it, is the node's fault."""

_EXPLAINED_BY_FOREIGN_RULE = {"SR402", "SR403", "SR404", "SR407", "SR408", "SR409", "SR410", "SR412"}
"""What a rule that catches everything does to a Service besides its main harm: said once, for the node."""

_EXPLAINED_BY_NEVER_PROGRAMMED = {
    "SR101",
    "SR103",
    "SR305",
    "SR105",
    "SR107",
    "SR201",
    "SR403",
    "SR404",
    "SR407",
    "SR409",
    "SR412",
    "SR507",
    "SR606",
    "SR607",
    "SR608",
}


def roll_up(
    node: str,
    observations: Iterable[Observation],
    *,
    services_expected: Mapping[tuple[str, int], int],
    heals: Callable[[str], str],
) -> list[Finding]:
    """The findings of one node.

    `services_expected`: (code or `*`, family) -> how many Services could have that fault there.
    """
    seen = list(observations)
    codes = {o.code for o in seen}
    if "SR106" in codes:
        seen = [o for o in seen if o.code not in _EXPLAINED_BY_NEVER_PROGRAMMED]
    seen = _empty_node_ports(_foreign_rules(_unfiltered(_filter_hooks(seen))))
    seen = _shared(seen, services_expected)
    wide: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    own: dict[tuple[str, str, str], list[Observation]] = defaultdict(list)
    for observation in seen:
        if observation.node_wide or observation.service is None:
            wide[observation.code, observation.key].append(observation)
        else:
            own[observation.service, observation.code, observation.key].append(observation)
    findings = [_finding(node, group, wide=True, heals=heals) for group in wide.values()]
    findings += [_finding(node, group, wide=False, heals=heals) for group in own.values()]
    return sorted(findings, key=sort_key)


def sort_key(finding: Finding) -> tuple[object, ...]:
    """Worst first; the node's own before its Services'; then by name, so that the order is the same on every run."""
    return (
        finding.severity.rank,
        finding.service is not None,
        finding.code,
        finding.node or "",
        finding.service or "",
        finding.frontend or "",
        finding.client or "",
        finding.message,
    )


def _foreign_rules(seen: list[Observation]) -> list[Observation]:
    """What is seen on a way that a catch-all rule of another program changed is that rule's doing."""
    culprits = {o.key for o in seen if o.node_wide and o.place == "foreign" and o.key}
    if not culprits:
        return seen
    return [o for o in seen if o.node_wide or o.code not in _EXPLAINED_BY_FOREIGN_RULE or not culprits.intersection(o.evidence)]


def _unfiltered(seen: list[Observation]) -> list[Observation]:
    """nftables: where the check of source ranges is not reached, every Service that has some is open for that one reason."""
    causes = {o.key: o for o in seen if o.code == "SR608" and "firewall-check" in o.key}
    if not causes:
        return seen
    kept = []
    for observation in seen:
        hook = "OUTPUT" if observation.client is Client.NODE else "PREROUTING"
        cause = causes.get("firewall-check") or causes.get(f"{hook} firewall-check")
        if observation.code != "SR407" or observation.node_wide or cause is None:
            kept.append(observation)
            continue
        same = replace(observation, code=cause.code, node_wide=True, key=cause.key, message=cause.message, place=cause.place)
        kept.append(replace(same, evidence=cause.evidence, severity=Severity.ERROR))
    return kept


def _empty_node_ports(seen: list[Observation]) -> list[Observation]:
    """Several Services whose node ports are gone, because those of all are, have one cause."""
    services = {o.service for o in seen if o.code == "SR105" and not o.node_wide}
    if len(services) < 2:
        return seen
    return [replace(o, node_wide=True) if o.code == "SR105" else o for o in seen]


def _filter_hooks(seen: list[Observation]) -> list[Observation]:
    """A missing filter hook is the cause of what passes there and should have been stopped."""
    broken = {o.place.partition(":")[2]: o for o in seen if o.code == "SR608"}
    if not broken:
        return seen
    kept: list[Observation] = []
    for observation in seen:
        hook = observation.place.partition(":")[2] if observation.place.startswith("filter:") else None
        # A cause without a hook of its own (nftables' reject-chain) is behind whatever was not rejected.
        cause = broken.get(hook) or (broken.get("") if observation.code == "SR403" else None) if hook is not None else None
        if cause is None:
            kept.append(observation)
            continue
        kept.append(
            Observation(
                code="SR608",
                node_wide=True,
                service=observation.service,
                key=cause.key,
                message=cause.message,
                frontend=observation.frontend,
                client=observation.client,
                expected=observation.expected,
                observed=observation.observed,
                evidence=cause.evidence,
                severity=Severity.ERROR,
                place="hook",
            )
        )
    return kept


def _shared(seen: list[Observation], services_expected: Mapping[tuple[str, int], int]) -> list[Observation]:
    """One fault on every Service of the node, for which no common rule was found, is still the node's."""
    services: Mapping[tuple[str, int], set[str]] = defaultdict(set)
    for observation in seen:
        if not observation.node_wide and observation.service is not None and observation.frontend is not None:
            services[observation.code, observation.frontend.family].add(observation.service)
    everywhere = {
        (code, family)
        for (code, family), names in services.items()
        if len(names) >= _ALL_SERVICES_FROM
        and len(names) >= services_expected.get((code, family), services_expected.get(("*", family), 1 << 30))
    }
    if not everywhere:
        return seen
    again = []
    for observation in seen:
        family = observation.frontend.family if observation.frontend else 0
        if observation.node_wide or (observation.code, family) not in everywhere:
            again.append(observation)
            continue
        title = CODES[observation.code].title
        again.append(
            Observation(
                code=observation.code,
                node_wide=True,
                service=observation.service,
                key=f"*{family}",
                message=f"on every Service of this node{' (IPv6)' if family == 6 else ''}: {title}",
                frontend=observation.frontend,
                client=observation.client,
                expected=observation.expected,
                observed=observation.observed,
                evidence=observation.evidence,
                severity=observation.severity,
                place=observation.place,
            )
        )
    return again


def _finding(node: str, group: list[Observation], *, wide: bool, heals: Callable[[str], str]) -> Finding:
    severities = [o.severity or CODES[o.code].severity for o in group]
    worst = min(severities, key=lambda severity: severity.rank)
    first = group[severities.index(worst)]
    code = CODES[first.code]
    services = {o.service for o in group if o.service is not None}
    message = first.message
    if wide and services:
        message += f"; {len(services)} Service{'s' if len(services) != 1 else ''} affected"
    clients = sorted({str(o.client) for o in group if o.client is not None})
    frontends = sorted({str(o.frontend) for o in group if o.frontend is not None})
    return Finding(
        code=first.code,
        name=code.name,
        severity=worst,
        node=node,
        service=None if wide else first.service,
        frontend=None if wide else (str(first.frontend) if first.frontend else None),
        client=", ".join(clients) if wide and clients else (str(first.client) if first.client else None),
        message=message if wide or len(frontends) < 2 else f"{message} (and on {len(frontends) - 1} more of its addresses)",
        effect=code.effect,
        heals=heals(first.place),
        expected=first.expected,
        observed=first.observed,
        evidence=first.evidence,
        count=max(1, len(services)) if wide else len(group),
        about=frozenset(services),
        cause=first.key if wide else f"{first.key}: {first.message}",
    )
