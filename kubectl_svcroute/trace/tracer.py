"""`trace`: the way of one packet on one node, from what the audit of that node saw.

The node is judged as always (`audit`), for the one Service. Then the question is put once more for the one frontend and
client alone, so that what is told and what is found are about the same packets. `question.py` is the question, `builder.py`
makes the tree of it, `explanations.py` has the words for what is in no rule, `rule_words.py` those for what is.
"""

from __future__ import annotations

from ..audit.ask_port import AskedPort
from ..audit.cluster import Audit
from ..errors import UsageError
from ..model.cluster import Node, Service
from ..model.fast_dataclass import replace
from ..model.report import Unverified
from ..model.routes import Client
from ..model.selection import Selection
from ..model.snapshot import ApiObjects, NodeDump, NodeOutcome, Unreachable
from ..model.trace import Trace
from .builder import Telling
from .question import Question, TracedNode

CLIENTS = (Client.POD, Client.NODE, Client.OUTSIDE, Client.HAIRPIN)
"""What `--from` can be. A stranger (outside of the source ranges) is told beside the others from outside."""


class Tracer:
    """One Service of a cluster, to be traced on any node."""

    def __init__(self, api: ApiObjects, question: Question, *, origin: str = "") -> None:
        self.audit = Audit(api, Selection(services=frozenset([question.service])), thorough=True)
        self.question = question
        self.origin = origin
        if not self.audit.context.services:
            raise UsageError(f"service {question.service} is not there any more")
        self.service: Service = self.audit.context.services[0]
        if self.service.skipped:
            raise UsageError(f"service {self.service.key} has no way to trace: {self.service.skipped}")
        self._seen: tuple[NodeDump, TracedNode, tuple[Unverified, ...]] | None = None

    def endpoint_nodes(self) -> tuple[str, ...]:
        """Nodes that hold an endpoint of the Service, ready ones first."""
        found: dict[str, bool] = {}
        for piece in self.audit.context.slices_of(self.service):
            for endpoint in piece.endpoints:
                if endpoint.node:
                    found[endpoint.node] = min(found.get(endpoint.node, True), not endpoint.ready)
        return tuple(sorted(found, key=lambda name: (found[name], name)))

    def trace(self, outcome: NodeOutcome) -> Trace:
        """The trace on one node. Raises UsageError when the node has no such frontend or client."""
        base = Trace(
            service=self.service.key, node=outcome.node, client=self.question.client, frontend=None, origin=self.origin
        )
        if isinstance(outcome, Unreachable):
            return replace(base, unverified=(Unverified(code="SR901", node=outcome.node, reason=outcome.reason),))
        node = self.audit.context.nodes.get(outcome.node)
        if node is None:
            return replace(base, unverified=self.audit.node(outcome).unverified)
        traced, general = self._audited(node, outcome)
        notes = tuple(dict.fromkeys((*self.audit.notes, *traced.audited.result.notes)))
        row = traced.audited.result.row
        base = replace(base, mode=row.mode, version=row.version, notes=notes)
        if not traced.ports:
            if not general:
                raise UsageError(f"kube-proxy on {node.name} serves no address of {self.service.key}")
            return replace(base, unverified=general)
        return Telling(self.question, self.service, traced, general).tell(base)

    def _audited(self, node: Node, dump: NodeDump) -> tuple[TracedNode, tuple[Unverified, ...]]:
        """The audit of a node, once for all questions about it, and what of the node as a whole is not verified."""
        if self._seen is None or self._seen[0] is not dump:
            ports: list[AskedPort] = []
            audited = self.audit.audited(dump, listeners=[ports.append])
            general = tuple(u for u in audited.ledger.unverified if u.service is None) + tuple(self.audit.denied)
            self._seen = dump, TracedNode(node=node, audited=audited, ports=ports), general
        return self._seen[1:]
