"""Every finding code: its number, its name, how bad it is, and one line of what it means.

SR1xx the way in, SR2xx backends, SR3xx marks and masquerade, SR4xx policy, SR5xx leftovers and conflicts, SR6xx the node,
SR7xx what a probe saw, SR9xx not verified. Given at birth, never reused. Each has a page in `data/codes/`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model.report import Severity


class Code(NamedTuple):
    """One finding code."""

    code: str
    name: str
    severity: Severity
    title: str
    """What it means, in one line."""
    effect: str
    """What traffic feels of it, in one line."""


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

_ALL = (
    # The way in.
    Code("SR101", "frontend-missing", _E, "no rule catches packets for one of the Service's addresses",
         "connections to that address are not translated: they leave the node for an address that nobody has"),
    Code("SR102", "frontend-hidden", _E, "another program's rule takes the Service's packets before kube-proxy's rules",
         "clients reach what that rule decides, not the Service"),
    Code("SR103", "hook-missing", _E, "a built-in chain no longer jumps to kube-proxy's rules",
         "every Service fails for the clients that enter there"),
    Code("SR104", "hook-bypassed", _E, "another program's rule takes all packets before kube-proxy's rules",
         "every Service that it catches fails for the clients that enter there"),
    Code("SR105", "node-ports-unreachable", _E, "kube-proxy's node-port rules are not reached",
         "no node port is served on this node"),
    Code("SR106", "never-programmed", _E, "the node has no Service rules at all", "no Service works from this node"),
    Code("SR107", "service-chain-broken", _E, "the Service's chain does not lead to an endpoint",
         "connections, or a share of them, are not translated and time out"),
    # Backends.
    Code("SR201", "backend-missing", _E, "a usable endpoint gets no traffic from this node",
         "that pod gets no connections from this node; the others carry its share"),
    Code("SR202", "backend-stale", _E, "rules send to an address that is no endpoint of the Service",
         "a share of connections goes to an address where nobody, or somebody else, answers"),
    Code("SR203", "backend-wrong-port", _E, "rules send to the right address on a wrong port",
         "a share of connections is refused or reaches another program"),
    Code("SR204", "backend-not-usable", _E, "rules send to an endpoint that should get no traffic from this node",
         "a share of connections goes to a pod that is not ready, or that policy or hints exclude"),
    Code("SR205", "shares-uneven", _E, "endpoints do not get even shares", "some pods carry more load than others"),
    # Marks and masquerade.
    Code("SR301", "masquerade-missing", _E, "packets that must be masqueraded leave with their own source",
         "answers do not come back through this node, and the connection hangs"),
    Code("SR302", "hairpin-masquerade-missing", _E, "a pod that reaches itself through the Service is not masqueraded",
         "the pod gets no answer when the Service sends it to itself"),
    Code("SR303", "masquerade-unneeded", _E, "packets are masqueraded that should keep their source",
         "pods see the node's address instead of the client's; network policies and logs are wrong"),
    Code("SR304", "mark-mismatch", _E, "the masquerade mark is set in one way and looked for in another",
         "no Service traffic is masqueraded: nodes, outside clients and pods that reach themselves get no answer"),
    Code("SR305", "postrouting-missing", _E, "POSTROUTING no longer jumps to kube-proxy's masquerade rules",
         "no Service traffic is masqueraded: nodes, outside clients and pods that reach themselves get no answer"),
    Code("SR306", "postrouting-bypassed", _E, "another rule ends POSTROUTING before kube-proxy's masquerade rules",
         "Service traffic that it catches is not masqueraded, and answers do not come back"),
    Code("SR307", "mark-not-cleared", _W, "the masquerade mark stays on packets that leave",
         "a packet that is encapsulated keeps the mark, and can be masqueraded or dropped a second time"),
    Code("SR308", "masquerade-wrong-address", _E, "packets are masqueraded with an address that the node does not hold",
         "answers go to another host"),
    Code("SR309", "masquerade-everything", _E, "packets are masqueraded without the mark",
         "pods see the node's address instead of the client's, for all traffic"),
    Code("SR310", "masquerade-foreign", _E, "another program's rule masquerades Service traffic between pods or from outside",
         "pods see another address than the client's; network policies and logs are wrong"),
    Code("SR311", "mark-conflict", _E, "another program's rule changes the masquerade mark",
         "masquerade is applied or left out against kube-proxy's intention"),
    # Policy.
    Code("SR401", "rejected-with-endpoints", _E, "connections are rejected although the Service has usable endpoints",
         "clients get \"connection refused\""),
    Code("SR402", "dropped", _E, "connections to the Service are dropped on the way", "clients wait until they time out"),
    Code("SR403", "reject-missing", _E, "a Service without endpoints is not rejected",
         "clients wait until they time out, or reach something else, instead of being refused at once"),
    Code("SR404", "affinity-missing", _E, "session affinity is not kept", "clients are spread over pods that should stay put"),
    Code("SR405", "affinity-timeout", _E, "session affinity lasts another time than the Service says",
         "clients are moved to another pod too early or too late"),
    Code("SR406", "affinity-unexpected", _E, "session affinity is kept although the Service asks for none",
         "a client always reaches the same pod, and load is uneven"),
    Code("SR407", "source-range-open", _E, "sources outside loadBalancerSourceRanges get in",
         "the Service is open to clients that it should be closed to"),
    Code("SR408", "source-range-closed", _E, "sources inside loadBalancerSourceRanges are kept out",
         "clients that should be served time out"),
    Code("SR409", "traffic-policy-ignored", _E, "a local traffic policy is not obeyed",
         "traffic that should stay on the node leaves it, or passes where it should be dropped"),
    Code("SR410", "health-check-closed", _E, "the health-check node port is not let in",
         "the load balancer takes this node out of rotation"),
    Code("SR411", "unexpected-frontend", _E, "an address serves the Service that should not",
         "clients reach the Service where configuration closes it"),
    Code("SR412", "health-check-rule-missing", _W, "kube-proxy's rule that lets health checks in is missing",
         "nothing yet; when INPUT's policy is DROP, the load balancer takes this node out of rotation"),
    # Leftovers and conflicts.
    Code("SR501", "deleted-service-programmed", _E, "rules catch an address that no Service has",
         "traffic to that address is sent to pods, or refused, in the name of a Service that is gone"),
    Code("SR502", "two-backends", _E, "Service rules stand in both iptables backends",
         "stale rules of the one decide over packets meant for the other"),
    Code("SR503", "duplicate-rules", _W, "a rule stands twice where kube-proxy writes it once",
         "nothing yet; each reload can add more, until syncs slow down"),
    Code("SR504", "leftover-chains", _I, "chains of Services that are gone, which nothing jumps to", "nothing"),
    Code("SR505", "leftover-mode", _W, "rules of another proxy mode still catch packets",
         "packets can be decided by rules that nobody maintains"),
    Code("SR506", "leftover-mode-idle", _I, "rules of another proxy mode stand idle", "nothing"),
    Code("SR507", "table-flushed", _W, "kube-proxy's canary is gone from one table and stands in another",
         "somebody emptied the table; kube-proxy watches only the mangle canary and may not notice"),
    # The node.
    Code("SR601", "not-forwarding", _E, "the node does not forward packets",
         "pods on this node reach no other host, and nobody reaches them"),
    Code("SR602", "conntrack-full", _W, "the connection-tracking table is nearly full",
         "when it is full, new connections are dropped"),
    Code("SR603", "kube-proxy-unhealthy", _W, "kube-proxy's own health check says that it is not in sync",
         "changes do not reach this node"),
    Code("SR604", "localhost-node-ports-broken", _W, "route_localnet is off although node ports are served on localhost",
         "connections to 127.0.0.1 on a node port are dropped"),
    Code("SR605", "bridge-calls-off", _W, "bridged packets do not pass iptables",
         "pods that reach a pod on the same node through a Service get answers from the wrong address"),
    Code("SR606", "forward-guard-missing", _W, "kube-proxy's KUBE-FORWARD rules are incomplete",
         "nothing while FORWARD's policy is ACCEPT; with DROP, Service traffic stops"),
    Code("SR607", "localnet-guard-missing", _W, "nothing keeps neighbours from reaching the node's loopback addresses",
         "hosts on the same network can reach programs that listen on 127.0.0.1 (CVE-2020-8558)"),
    Code("SR608", "filter-hook-missing", _W, "a filter chain of kube-proxy is not reached from a built-in chain",
         "rejects and drops of some Services do not work there"),
    Code("SR609", "kube-proxy-crashes", _W, "the node's kube-proxy crashes again and again",
         "changes reach this node late or never"),
    Code("SR610", "kube-proxy-not-running", _W, "no kube-proxy runs on the node", "changes do not reach this node"),
    Code("SR621", "udp-flow-stale", _E, "UDP flows are held to an endpoint that no longer exists",
         "these clients get no answer as long as they keep sending, while every rule is right"),
    Code("SR622", "udp-flow-untranslated", _E, "UDP flows to the Service are held untranslated, although it has endpoints",
         "these clients get no answer as long as they keep sending, while every rule is right"),
    Code("SR623", "tcp-flow-stale", _I, "TCP connections are held to an endpoint that no longer exists",
         "these connections hang until their clients give them up; new ones are not touched"),
    # What a probe saw.
    Code("SR701", "endpoint-silent", _E, "connections that the rules rightly send to an endpoint time out",
         "a share of connections hangs until it times out"),
    Code("SR702", "endpoint-refuses", _E, "connections that the rules rightly send to an endpoint are refused",
         "a share of connections is refused"),
    Code("SR703", "way-unexplained", _E, "connections go where no rule that was read sends them",
         "something else than kube-proxy's rules decides where connections go"),
    Code("SR704", "shares-improbable", _W, "endpoints get connections in shares that the rules do not explain",
         "some pods carry more load than others"),
    Code("SR705", "source-not-as-promised", _E, "connections are masqueraded, or not, against what the rules say",
         "answers do not come back, or pods see another address than the client's"),
    Code("SR706", "failed-by-rules", _E, "real connections fail or go astray where the rules lead them wrong",
         "what the audit says of the rules is what clients feel now"),
    Code("SR707", "affinity-not-kept", _E, "connections of one client go to several endpoints against session affinity",
         "clients are spread over pods that should stay put"),
    Code("SR708", "connections-fail", _E, "real connections fail, and where they went is not known",
         "a share of connections fails"),
    # Not verified.
    Code("SR901", "node-unreachable", _W, "the node could not be read", "unknown"),
    Code("SR902", "dump-unreadable", _W, "what the node printed is not whole, or not what it should be", "unknown"),
    Code("SR903", "rule-not-understood", _W, "a rule on the packet's way cannot be judged from a dump", "unknown"),
    Code("SR904", "mode-not-supported", _W, "the node's proxy mode is one that this tool does not verify", "unknown"),
    Code("SR905", "dump-misprinted", _W, "the node's tools print kube-proxy's rules wrongly", "unknown"),
    Code("SR906", "config-unknown", _W, "kube-proxy's configuration or version could not be found out", "unknown"),
    Code("SR907", "not-permitted", _W, "the API does not let the reader see something that is needed", "unknown"),
    Code("SR908", "still-changing", _W, "the Service kept changing while it was read", "unknown"),
    Code("SR909", "not-walked", _W, "other programs' rules on the packet's way were not read", "unknown"),
    Code("SR910", "shard-missing", _W, "no shard's report tells of the node", "unknown"),
    Code("SR911", "others-not-judged", _I, "another program's rules can disturb traffic of Services, and were not judged",
         "unknown: kube-proxy's own rules are verified, and the other program may stop traffic or masquerade it besides"),
    Code("SR912", "no-node", _W, "no node was looked at", "unknown"),
    Code("SR920", "connections-not-seen", _W, "where connections go could not be read on the node", "unknown"),
    Code("SR921", "not-probed", _W, "an address that should be dialled could not be", "unknown"),
)  # fmt: skip

CODES: dict[str, Code] = {code.code: code for code in _ALL}
"""Code -> what it stands for."""
