"""What the audit of one node finds as it goes, collected and turned into a `NodeResult` at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..checks.heal import Healing, ProxyState
from ..checks.observation import Answered, Disturbance, Observation, Result, Unsure
from ..checks.rollup import roll_up
from ..errors import ParseError
from ..model.cluster import Service
from ..model.net import Backend, FrontendKind
from ..model.node_result import NodeResult, SharedParts, ShareKey, SyncState
from ..model.plan import Expectation, PortPlan
from ..model.report import Finding, NodeRow, NotJudged, Severity, Unverified
from ..model.routes import Action, Client
from ..model.walk_result import Observed

if TYPE_CHECKING:
    from ..expect.routes import NodeView
    from ..expect.versions import Behaviour
    from ..model.cluster import ProxyConfig


_RULES_SHOWN = 3
"""How many rules of another program are shown."""


class Ledger:
    """Observations, doubts, shares and notes about one node."""

    def __init__(self, node: str, services: Sequence[Service]) -> None:
        """`services`: those asked for."""
        self.node = node
        self.services = services
        self.observations: list[Observation] = []
        self.disturbances: dict[Disturbance, None] = {}
        """What other programs may do, in the order in which it was noted."""
        self.unverified: list[Unverified] = []
        self.unverified_services: set[str] = set()
        self.notes: list[str] = []
        self.shares: dict[ShareKey, float] = {}
        self.wrong: set[ShareKey] = set()
        self.even: set[str] = set()
        self.ways: dict[str, tuple[str, ...]] = {}
        self.frontends: dict[str, list[str]] = defaultdict(list)
        self.proxy: ProxyState = "runs"
        self.canary_gone = False
        """kube-proxy's canary is not in table mangle."""
        self.like_first: list[str] = []
        """Services whose frontends are those of the first node."""
        self._unsure: dict[tuple[str, str, str], tuple[Unsure, int]] = {}
        self._possible: dict[tuple[str, int], set[str]] = defaultdict(set)
        """(`*`, or a code that only some Services can have; family) -> the Services that could have it."""
        self._hairpins: list[tuple[int, Callable[[], set[str]]]] = []
        """Family -> Services that were not walked, and could have SR302."""

    # ---- what could not be verified ---------------------------------------------------------------------------------

    def not_verified(self, code: str, reason: str) -> None:
        """Note something about the node that could not be verified, beside what its rules do."""
        self.unverified.append(Unverified(code=code, node=self.node, reason=reason))

    def cannot(self, code: str, reason: str) -> None:
        """Note why no Service asked for can be verified on this node."""
        self.not_verified(code, reason)
        self.unverified_services.update(service.key for service in self.services if not service.skipped)

    @contextmanager
    def unreadable(self, file: str, *, every_service: bool = True) -> Iterator[None]:
        """Turn a ParseError about a file into what is not verified: every Service, or only what the file says."""
        try:
            yield
        except ParseError as error:
            (self.cannot if every_service else self.not_verified)("SR902", f"{file}: {error}")

    def unsure(self, doubt: Unsure) -> None:
        """Note one frontend and client that could not be judged."""
        key = (doubt.code, doubt.service, doubt.reason)
        first, count = self._unsure.get(key, (doubt, 0))
        self._unsure[key] = (first, count + 1)
        self.unverified_services.add(doubt.service)

    # ---- what was found ---------------------------------------------------------------------------------------------

    def note(self, result: Result) -> None:
        """Note what the comparison of one frontend and client gave."""
        if isinstance(result, Observation):
            self.observations.append(result)
        elif isinstance(result, Disturbance):
            self.disturbances[result] = None
        elif isinstance(result, Answered):
            if str(result) not in self.notes:
                self.notes.append(str(result))
        else:
            self.unsure(result)

    @property
    def mark(self) -> tuple[int, int]:
        """Changes when anything is found wrong, or could not be judged."""
        return len(self.observations), sum(count for _, count in self._unsure.values())

    def expected(self, expectation: Expectation, service: str, family: int) -> None:
        """Note a frontend, and which faults its Service could have, so that a node-wide cause can say how many it affects."""
        text = str(expectation.frontend)
        if text not in self.frontends[service]:
            self.frontends[service].append(text)
        if expectation.action is not Action.TRANSLATE:
            return
        self._possible["*", family].add(service)
        if expectation.client is Client.HAIRPIN:
            if not expectation.lenient_masquerade.issuperset(expectation.backends):  # an endpoint is here
                self._possible["SR302", family].add(service)
        elif expectation.frontend.kind is FrontendKind.CLUSTER_IP:
            self._possible["SR301" if expectation.masquerade == "always" else "SR303", family].add(service)

    def right_as_others(self, services: Iterable[str], family: int, hairpins: Callable[[], set[str]]) -> None:
        """Note Services whose rules are those of Services that were walked and found right.

        `hairpins`: those of them that could lack the masquerade of hairpin traffic; called only where some Service lacks it.
        """
        self.even.update(services)
        for code in ("*", "SR301", "SR303"):
            self._possible[code, family].update(services)
        self._hairpins.append((family, hairpins))

    def shares_of(self, plan: PortPlan, expectation: Expectation, observed: Observed, view: NodeView) -> None:
        """Keep what the table shows: a pod's shares on the cluster IP (the node's own where it can have no pods)."""
        wanted_client = Client.POD if view.pods else Client.NODE
        if expectation.frontend.kind is not FrontendKind.CLUSTER_IP or expectation.client is not wanted_client:
            return
        service, port = plan.service.key, str(plan.port)
        got: dict[Backend, float] = {}
        atom = observed.atoms[0]
        for leg, share in atom.shares.items():
            if leg.backend is not None:
                got[leg.backend] = got.get(leg.backend, 0.0) + share
        fair = 1 / len(expectation.backends) if expectation.action is Action.TRANSLATE else 0.0
        for backend in {*got, *expectation.backends}:
            key = (service, port, backend)
            self.shares[key] = got.get(backend, 0.0)
            should = fair if backend in expectation.backends else 0.0
            if abs(got.get(backend, 0.0) - should) > 1e-4 + 2 * view.behaviour.share_tolerance:
                self.wrong.add(key)
        if service not in self.ways and atom.ends:
            self.ways[service] = tuple(dict.fromkeys(step.rule for step in atom.ends[0].way))

    def told_as_twin(self, service: str, noted: int) -> None:
        """Report a model that was walked as its twins are reported: which one is walked depends on the order of nodes.

        `noted`: how many shares were noted before the walk.
        """
        for share in list(self.shares)[noted:]:
            del self.shares[share]
        self.even.add(service)

    def _not_judged(self) -> Iterator[NotJudged]:
        """What other programs may do: one for each program, the same in whatever order it was noted."""
        by_program: dict[str, list[Disturbance]] = defaultdict(list)
        for disturbance in self.disturbances:
            by_program[disturbance.program].append(disturbance)
        for program, mine in sorted(by_program.items()):
            effects = {disturbance.effect for disturbance in mine}
            yield NotJudged(
                code="SR911",
                node=self.node,
                program=program,
                effects=tuple(effect for effect in ("drop", "reject", "masquerade") if effect in effects),
                reason=min(disturbance.reason for disturbance in mine),
                evidence=tuple(sorted({disturbance.rule for disturbance in mine if disturbance.rule})[:_RULES_SHOWN]),
            )

    # ---- the result -------------------------------------------------------------------------------------------------

    def findings(
        self, observations: Sequence[Observation], config: ProxyConfig, behaviour: Behaviour, *, large: bool
    ) -> list[Finding]:
        """Roll observations up: one cause is one finding, with what becomes of it."""
        healing = Healing(
            rewrites_always=behaviour.rewrites_always,
            version=config.version,
            large=large,
            nftables=behaviour.nftables,
            proxy=self.proxy,
            canary_gone=self.canary_gone,
        )
        if any(observation.code == "SR302" for observation in observations):
            for family, hairpins in self._hairpins:
                self._possible["SR302", family].update(hairpins())
            self._hairpins.clear()
        return roll_up(
            self.node,
            observations,
            heals=healing.of,
            services_expected={key: len(names) for key, names in self._possible.items()},
        )

    def result(
        self, findings: Sequence[Finding], *, mode: str, version: str, via: str, tracked: Mapping[str, int],
        sync: SyncState | None, parts: SharedParts,
    ) -> NodeResult:  # fmt: skip
        """Everything that is kept of the node. `tracked`: how full the connection-tracking table is, where it was asked."""
        for (code, service, reason), (first, count) in self._unsure.items():
            more = f" ({count} of its addresses and clients)" if count > 1 else ""
            self.unverified.append(
                Unverified(
                    code=code,
                    node=self.node,
                    service=service,
                    reason=f"{first.frontend} from {first.client}: {reason}{more}",
                    evidence=first.evidence,
                )
            )
        return NodeResult(
            row=NodeRow(
                node=self.node,
                verified=not self.unverified,
                mode=mode,
                version=version,
                via=via,
                errors=sum(f.severity is Severity.ERROR for f in findings),
                warnings=sum(f.severity is Severity.WARNING for f in findings),
                **tracked,
            ),
            findings=tuple(findings),
            unverified=tuple(self.unverified),
            not_judged=tuple(self._not_judged()),
            shares=self.shares,
            wrong=frozenset(self.wrong),
            even=parts.names(self.even),
            unverified_services=frozenset(self.unverified_services),
            ways=self.ways,
            frontends=parts.frontends(self.node, self.frontends, like_first=self.like_first),
            notes=tuple(self.notes),
            sync=sync,
        )
