"""What a node promises: the audit's own expectations and rules, kept to be held against real connections."""

from __future__ import annotations

from collections.abc import Sequence

from ..audit.ask_port import AskedPort
from ..model.fast_dataclass import dataclass, replace
from ..model.net import Backend, Frontend, FrontendKind, Protocol
from ..model.node_result import NodeResult
from ..model.plan import Expectation
from ..model.ranges import contains, number, single
from ..model.routes import Action, Client, Leg
from ..model.snapshot import NodeDump
from ..model.walk_result import Atom
from ..observe.shares import CLOSE
from .script import Target

DNS_QUERY = (
    b"\x53\x56\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"
)
"""A query for the address of kubernetes.default.svc.cluster.local, recursion desired. Every DNS server answers it somehow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the API asks for and what the node's rules do, for one source and one frontend."""

    asked: AskedPort
    expectation: Expectation
    atom: Atom
    affinity: bool
    """The rules keep a client that they have had, at every endpoint."""

    @property
    def shares(self) -> dict[Backend, float]:
        """Backend -> the share that the rules give it."""
        found: dict[Backend, float] = {}
        for leg, share in self.atom.shares.items():
            if leg.action is Action.TRANSLATE and leg.backend is not None:
                found[leg.backend] = found.get(leg.backend, 0.0) + share
        return found

    @property
    def known(self) -> bool:
        """Whether the rules could be understood to their end."""
        return self.atom.unknown_share <= CLOSE

    def gives(self, action: Action) -> bool:
        """Whether the rules do this to some of the connections."""
        return any(leg.action is action and share > CLOSE for leg, share in self.atom.shares.items())

    def legs(self, backend: Backend) -> list[Leg]:
        """What the rules do on the way to a backend."""
        return [leg for leg in self.atom.shares if leg.backend == backend]

    def name(self, backend: Backend) -> str:
        """A backend for people: the pod's name where there is one."""
        pod = self.pod(backend)
        return f"{pod} ({backend})" if pod else str(backend)

    def pod(self, backend: Backend) -> str | None:
        """The pod behind a backend."""
        known = self.asked.plan.selection.known.get(backend)
        return known.endpoint.pod if known is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialler:
    """Who dials: processes of the nodes, or one pod."""

    pod: str = ""
    """`namespace/name`; empty: the nodes themselves."""
    addresses: tuple[str, ...] = ()
    """The pod's."""

    @property
    def label(self) -> str:
        """For the report."""
        return f"pod/{self.pod.partition('/')[2]}" if self.pod else "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node: what its audit says, and what is dialled from there."""

    node: str
    via: str
    result: NodeResult
    ports: tuple[AskedPort, ...]
    targets: tuple[Target, ...]
    skipped: tuple[tuple[str, str, str], ...] = ()
    """(Service, frontend, why it is not dialled)."""

    def port(self, frontend: Frontend) -> AskedPort:
        """Where a frontend belongs."""
        return next(g for g in self.ports if any(e.frontend == frontend for e in g.plan.expectations))


def plan_node(
    dump: NodeDump, result: NodeResult, ports: Sequence[AskedPort], dialler: Dialler, *, payload: bytes
) -> NodePlan:
    """What is dialled from a node: every frontend that it should serve to this dialler."""
    targets: list[Target] = []
    skipped: list[tuple[str, str, str]] = []
    for asked in ports:
        service = asked.plan.service.key
        for frontend in dict.fromkeys(e.frontend for e in asked.plan.expectations if _dialled(e, dialler)):
            why, sent = "", b""
            if frontend.protocol is Protocol.SCTP:
                why = "it is SCTP, which no tool there can dial"
            elif frontend.protocol is Protocol.UDP:
                sent = payload or (DNS_QUERY if asked.plan.port.port == 53 or frontend.port == 53 else b"")
                why = "" if sent else "it is UDP, and what its endpoints answer to is not known: give --payload"
            if why:
                skipped.append((service, str(frontend), why))
                continue
            used = {*asked.plan.selection.cluster, *asked.plan.selection.local}
            targets.append(
                Target(
                    number=len(targets) + 1,
                    frontend=frontend,
                    payload=sent,
                    hosts=tuple(f"{b.address} {b.port}" for b in sorted(used)[:64]),
                )
            )
    return NodePlan(
        node=dump.node,
        via=dump.via,
        result=result,
        ports=tuple(ports),
        targets=tuple(targets),
        skipped=tuple(skipped),
    )


def _dialled(expectation: Expectation, dialler: Dialler) -> bool:
    """Not what is left alone on purpose: a connection there would leave the cluster, or meet whatever listens there."""
    if expectation.frontend.kind is FrontendKind.HEALTH_CHECK or expectation.action is Action.PASS:
        return False
    if not dialler.pod:
        return expectation.from_node
    mine = [a for a in dialler.addresses if (":" in a) == (expectation.frontend.family == 6)]
    return not expectation.from_node and any(contains(expectation.sources, number(a)) for a in mine)


def promise(plan: NodePlan, frontend: Frontend, dialler: Dialler, source: str) -> Promise | None:
    """What is promised to connections from one address; None when nothing is (it is no client that the audit knows)."""
    asked = plan.port(frontend)
    mine = [e for e in asked.plan.expectations if e.frontend == frontend and e.from_node is not bool(dialler.pod)]
    if not mine:
        return None
    first = next((e for e in mine if source and contains(e.sources, number(source))), None)
    if first is None and dialler.pod:
        return None
    expectation = first or mine[0]
    # A process may leave with another address of the node than the first: it is the node all the same.
    sources = single(number(source)) if source else expectation.sources
    observed = asked.asker.ask(
        frontend, sources, from_node=expectation.from_node, from_pod=expectation.client in (Client.POD, Client.HAIRPIN)
    )
    atom = next((a for a in observed.atoms if not source or contains(a.sources, number(source))), None)
    if atom is None:
        return None
    return Promise(
        asked=asked,
        expectation=replace(expectation, sources=sources),
        atom=atom,
        affinity=bool(observed.affinity) and None not in observed.affinity,
    )
