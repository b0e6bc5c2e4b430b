"""Why a packet is marked or not, where an answer finds its way back, who dials: what `trace` says beside the rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..checks.case import expected_text
from ..model.cluster import Service
from ..model.fast_dataclass import dataclass, replace
from ..model.net import Backend, FrontendKind
from ..model.plan import Candidate, Expectation
from ..model.ranges import Ranges, describe, intersect, network
from ..model.routes import Action, Client
from ..model.trace import Ending, Role
from ..model.walk_result import End, Step
from .question import Question, TracedNode, choose_frontend
from .rule_words import asks

ENTRY = ("PREROUTING", "OUTPUT")
"""Hooks at which a destination is changed."""


class Reasons:
    """One question on one node, and the words for what is true of it."""

    def __init__(self, question: Question, service: Service, traced: TracedNode) -> None:
        self.node = traced.node
        self.client = question.client
        self.service = service
        pairs = [(g.plan, e.frontend) for g in traced.ports for e in g.plan.expectations]
        self.frontend = choose_frontend(question.to, service, pairs)
        self.asked = next(g for g in traced.ports if any(e.frontend == self.frontend for e in g.plan.expectations))
        self.view = self.asked.view
        self.marks = self.asked.ground.landmarks
        self.nft = self.view.behaviour.nftables
        self.mark = 1 << self.view.config.masquerade_bit
        self.external = self.frontend.kind is not FrontendKind.CLUSTER_IP
        self.source: Candidate | None = None
        """The endpoint that dials, for hairpin."""

    def _who(self, expectation: Expectation, sources: Ranges, *, alone: bool) -> str:
        node, family = self.node.name, self.frontend.family
        if expectation.client is Client.HAIRPIN and self.source is not None:
            pod = self.source.endpoint.pod
            return f"the endpoint {f'{pod} ' if pod else ''}({self.source.backend.address}) on {node}"
        if expectation.client is Client.NODE:
            return f"a process on {node} itself ({describe(sources, family)})"
        if expectation.client is Client.POD:
            return f"a pod on {node} that is no endpoint of the Service ({self._addresses(sources)})"
        ranges = self.frontend.kind is FrontendKind.LOAD_BALANCER and self.service.source_ranges
        if not ranges:
            return "a client outside the cluster" + ("" if alone else f" ({describe(sources, family)})")
        if expectation.client is Client.STRANGER:
            return "a client outside the cluster, in none of the loadBalancerSourceRanges"
        mine = [r for r in self.service.source_ranges if (":" in r) == (family == 6)]
        told = f"loadBalancerSourceRanges ({', '.join(mine[:3])}{', …' if len(mine) > 3 else ''})"
        return f"a client outside the cluster, in its {told}" if mine else "a client outside the cluster"

    def _addresses(self, sources: Ranges) -> str:
        family = self.frontend.family
        for cidr in self.node.pod_cidrs:
            if (":" in cidr) == (family == 6) and intersect(sources, network(cidr)) == sources:
                return f"of {cidr}"
        return describe(sources, family, most=2)

    def _expected(self, expectation: Expectation) -> str:
        text = expected_text(expectation)
        if expectation.action is not Action.TRANSLATE:
            why = self._why_not(expectation)
            return f"{text}: {why}" if why else text
        if self.client is Client.HAIRPIN and expectation.masquerade == "self":
            text = text.replace("source kept", "masqueraded where it is sent to itself and nowhere else")
        return text

    def _why_not(self, expectation: Expectation) -> str:
        """Why no endpoint should be reached."""
        selection = self.asked.plan.selection
        if self.frontend.kind is FrontendKind.HEALTH_CHECK:
            return "kube-proxy itself answers there"
        if expectation.action is Action.PASS and self.frontend.kind is FrontendKind.CLUSTER_IP:
            return "the node itself holds this cluster IP"
        if expectation.denied:
            return "its source is in none of the Service's loadBalancerSourceRanges"
        if not selection.any:
            return "the Service has no endpoint that could take it" if selection.known else "the Service has no endpoint"
        policies = []
        if self.external and self.service.external_local:
            policies.append("externalTrafficPolicy")
        if not self.external and self.service.internal_local:
            policies.append("internalTrafficPolicy")
        if policies and not selection.local:
            where = sorted({c.endpoint.node for b, c in selection.known.items() if c.endpoint.ready and c.endpoint.node})
            others = f" (there are some on {', '.join(where[:3])}{', …' if len(where) > 3 else ''})" if where else ""
            return f"{policies[0]} is Local, and no endpoint is on this node{others}"
        return ""

    def _foreign(self, step: Step) -> bool:
        if self.nft and not step.table.endswith(self.marks.table):
            return True
        return not self.marks.own(step) and not self.marks.of_proxy(step.table, step.target)

    def _why(self, step: Step, role: Role, *, entered: bool) -> str:
        mark = f"{self.mark:#x}"
        if role is Role.FIND and not entered:
            if step.target.startswith(("KUBE-FW-", "firewall-")):
                told = "its source is in one of the ranges" if self.nft else "its source is in none of the ranges"
                return f"{told}: it comes back as it was"
            if self.external and self.service.external_local and not self.asked.plan.selection.local:
                return "the policy is Local, and no endpoint is on this node: it comes back as it was"
            return "no rule there is about this packet: it comes back as it was"
        if role is Role.ENTER and step.target == self.marks.services and step.hook in ENTRY:
            return "only the first packet of a connection is asked; conntrack does the same with the rest"
        if role is Role.ASK:
            return self._mark_reason(step)
        if role is Role.MARK:
            set_ = bits(step.rule)
            if set_ is not None and set_ != self.mark:
                return f"bit {set_:#x} of the mark, and {self.marks.postrouting} should look for bit {mark}"
            return f"bit {mark} of the mark, which the kernel keeps beside the packet: a note to {self.marks.postrouting}"
        if role is Role.UNMARKED:
            return f"bit {mark} is not set: nobody asked for masquerade"
        if role is Role.CLEAR:
            return "it has done its work; a tunnel's outer packet would inherit it and be masqueraded again"
        if role is Role.MASQUERADE and not self._foreign(step):
            return "that of the interface that it leaves by, with a port that is free"
        if role is Role.ACCEPT and "mark" in asks(step.rule):
            return "what kube-proxy has marked may pass, whatever FORWARD's policy is"
        if role is Role.STOP:
            return "the client hears at once: connection refused" if step.target == "REJECT" else "the client waits in vain"
        return ""

    def _mark_reason(self, step: Step) -> str:
        """Why masquerade is asked for."""
        if self.view.config.masquerade_all and not self.external:
            return "kube-proxy runs with masqueradeAll: every connection to a cluster IP is masqueraded"
        if step.chain.startswith(("KUBE-SEP-", "endpoint-")):
            return "the endpoint that was chosen is the one that dials, and must not see its own address as the sender"
        if self.client is Client.NODE:
            return "it comes from the node and not from a pod, and answers to its source need not come back here"
        if self.external and not self.service.external_local:
            return "it came in from outside, and the endpoint may be on another node, whose answer would not pass here"
        return "it does not come from a pod of the cluster, so an answer to its source need not pass here"

    def _unmarked_reason(self, told: Sequence[Told]) -> str:
        """Why nobody asked for masquerade."""
        end = told[0].end
        if end.action is not Action.TRANSLATE:
            return "no endpoint was chosen, so there is nothing to masquerade"
        if end.local:
            return "the endpoint is in the node's own network: the packet never leaves the node"
        if self.external and self.service.external_local and self.client is Client.OUTSIDE:
            return "externalTrafficPolicy is Local: the endpoint is on this node, its answer passes here, and it sees the client"
        if self.client in (Client.POD, Client.HAIRPIN):
            return "it comes from a pod on this node, and an answer to that pod comes back to this node anyway"
        if self.view.detector.kind == "none":
            return "kube-proxy was not told which addresses are pods' (clusterCIDR), and so marks no packet to a cluster IP"
        return "no rule on its way asks for it"

    def _place(self, backend: Backend) -> Ending:
        known = self.asked.plan.selection.known.get(backend)
        base = Ending(action="translate", share=0.0, should=None, address=str(backend))
        if known is None:
            return base
        e = known.endpoint
        return replace(base, pod=e.pod or "", node=e.node or "", state=e.state, ready=e.ready, here=known.local)

    def _answer(self, expectation: Expectation, group: Sequence[Told]) -> tuple[str, str]:
        """(its source when it leaves, how the answer comes back) in words."""
        end = group[0].end
        front, node = str(self.frontend).partition("/")[0], self.node.name
        if end.action is Action.REJECT:
            return "", "The client gets an ICMP error at once: connection refused."
        if end.action is Action.DROP:
            return "", "The client gets no answer at all, and waits until it gives up."
        if end.action is None:
            return "", "What becomes of it cannot be told."
        if end.action is Action.PASS:
            return "its own", self._untranslated(end)
        known = all(self._place(t.end.backend).state for t in group if t.end.backend is not None)
        nobody = "" if known else " (if anybody is there to answer)"
        if end.local:
            return "its own", f"The endpoint is {node} itself. Its answer passes conntrack here, and gets back {front} as source."
        if end.masquerade:
            address = f"an address of {node}" if end.masquerade == "node" else end.masquerade
            example = f" ({self.view.address}, if it leaves there)" if self.view.address and end.masquerade == "node" else ""
            back = (
                f"The endpoint sees {address} as its client and answers to that{nobody}. So the answer comes back"
                f" here, where conntrack knows the connection: it turns the source back into {front} and the destination back"
                " into the client."
            )
            if self.source is not None and end.backend == self.source.backend:
                back += (
                    " Without that the pod would see its own address as the sender and answer to itself without ever leaving"
                    " its own network: from an address that it never dialled."
                )
            elif self.client in (Client.OUTSIDE, Client.STRANGER) or self.external:
                back += (
                    " Without that an endpoint on another node would answer to the client directly, from an address that the"
                    " client never dialled. The price: the endpoint does not see who its client is."
                )
            return f"{address}{example}", back
        here = all(self._place(t.end.backend).here for t in group if t.end.backend is not None)
        if self.client in (Client.POD, Client.HAIRPIN):
            return "the pod's own", (
                f"The endpoint sees the pod's own address and answers to it{nobody}. The pod is on this node, so the answer comes"
                f" back here, where conntrack knows the connection and turns the source back into {front}."
            )
        if self.client is Client.NODE:
            return f"the node's own ({describe(expectation.sources, self.frontend.family)})", (
                f"The endpoint answers to {node}{nobody}, where conntrack turns the source back into {front}."
            )
        if here:
            return "the client's own", (
                f"The endpoint sees the client's own address and answers to it{nobody}. It runs on this node, so its"
                f" answer leaves through here, where conntrack knows the connection and turns the source back into {front}."
            )
        return "the client's own", (
            "The endpoint sees the client's own address and answers to it, past this node: from an address that the client never"
            " dialled. The client refuses that answer."
        )

    def _untranslated(self, end: End) -> str:
        kind = self.frontend.kind
        if kind is FrontendKind.HEALTH_CHECK:
            return "It is taken in as it came: kube-proxy itself answers there, and tells whether the node has an endpoint."
        if kind is FrontendKind.NODE_PORT:
            return "It is taken in as it came: whatever program listens on that port of the node answers, or nobody does."
        if kind is FrontendKind.CLUSTER_IP and end.local:
            return "The node itself holds this cluster IP and takes it in: a process of the node answers, or nobody does."
        if kind is FrontendKind.CLUSTER_IP:
            return "Nobody holds a cluster IP: it goes on as it came, wherever the node's routes send it, and is lost."
        return "It goes on as it came, to whoever holds that address."


def bits(rule: str) -> int | None:
    """The bits that a rule sets in the mark, as far as it is one that only sets."""
    found = re.search(r"--set-xmark (0x[0-9a-f]+)/|meta mark set meta mark \| (0x[0-9a-f]+)", rule)
    return int(found[1] or found[2], 16) if found else None


@dataclass(frozen=True, slots=True)
class Told:
    """An end with the share that it has in the telling."""

    end: End
    share: float
    unknown: str
    head: tuple[Step, ...]
    tail: tuple[Step, ...]
