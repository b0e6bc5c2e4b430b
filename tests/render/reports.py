"""Reports to render: of real captures, and made ones of any size and with any text in them."""

from __future__ import annotations

from functools import cache

from captured import capture, faulty

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import EndpointRow, Finding, NodeRow, NotJudged, Report, ServiceRow, Severity, Unverified
from kubectl_svcroute.model.selection import Selection

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\n\tb|c `d` <script>alert(1)</script> &amp; \"e\" 'f' \u202egnp.\u200b\x9b31m{g} $(h) # \\"
"""Everything that somebody could write into an annotation or a rule's comment to be taken for something else."""


@cache
def of_capture(name: str, fault: str = "", *services: str) -> Report:
    """The report of a capture, healthy or with a fault; of these Services (`namespace/name`) or all."""
    snapshot = load_snapshot(str(faulty(name, fault) if fault else capture(name)))
    return audit(snapshot.api, snapshot.outcomes(), Selection(services=frozenset(services)) if services else Selection())


def made(
    *,
    nodes: int = 5,
    endpoints: int = 5,
    services: int = 1,
    text: str = "",
    name: str = "kuard",
    wrong: int = 1,
    dark: int = 0,
    ipv6: bool = False,
) -> Report:
    """A report with `wrong` nodes at the front that miss the first endpoint, and `dark` ones at the end not verified."""
    names = [f"worker-{n:03d}.example.net" for n in range(nodes)]
    bad, unread = names[:wrong], names[nodes - dark :] if dark else []

    def endpoint(n: int) -> EndpointRow:
        even, more = 1 / endpoints, 1 / max(endpoints - 1, 1)
        share = {node: None if node in unread else (0.0 if n == 0 else more) if node in bad else even for node in names}
        return EndpointRow(
            address=f"[fd00:244::{n:x}]:8080" if ipv6 else f"10.244.{n // 256}.{n % 256}:8080",
            pod=f"{name}-{n:05d}{text}", node=names[n % nodes],
            ready=True, state="ready", port="http", share=share, wrong=frozenset(bad),
        )  # fmt: skip

    def service(n: int) -> ServiceRow:
        own = f"{name}{'' if services == 1 else n}{text}"
        return ServiceRow(
            service=f"default/{own}", type="ClusterIP", cluster_ips=(f"10.96.{n // 250}.{n % 250 + 1}",), ports=("http 80/TCP",),
            policy="", frontends=(f"10.96.{n // 250}.{n % 250 + 1}:80/TCP",), endpoints=tuple(map(endpoint, range(endpoints))),
            nodes=nodes, nodes_verified=nodes - dark, errors=len(bad) if n == 0 else 0, warnings=0,
            evidence=("-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-KONBHUEJ3TRSITPT",),
        )  # fmt: skip

    findings = tuple(
        Finding(
            code="SR201", name="backend-missing", severity=Severity.ERROR, node=node,
            service=f"default/{name}{'' if services == 1 else 0}{text}",
            frontend="10.96.0.1:80/TCP", client="pod", message=f"no rule sends to 10.244.0.0:8080 ({name}-00000{text})",
            effect="that pod gets no connections from this node; the others carry its share", heals="heals at a full sync",
            expected="20% each", observed="25% each", elsewhere=f"the other {nodes - len(bad)} nodes do not have this",
            evidence=(f'-A KUBE-SVC-KONBHUEJ3TRSITPT -m comment --comment "{text}" -j KUBE-SEP-XBHBVLGDRRLPQ3KS',), count=8,
        )
        for node in bad
    )  # fmt: skip
    return Report(
        findings=findings,
        unverified=tuple(Unverified(code="SR901", node=node, reason=f"ssh: connection refused{text}") for node in unread),
        services=tuple(map(service, range(services))),
        nodes=tuple(
            NodeRow(
                node=node, verified=node not in unread, mode="" if node in unread else "iptables",
                version="" if node in unread else "1.36", via="ssh", errors=int(node in bad),
            )
            for node in names
        ),
        not_judged=(
            NotJudged(
                code="SR911", node=names[0], program=f"Calico{text}", effects=("drop",), reason=f"set x{text} is not in the dump",
                evidence=(f"-A cali-x -m set --match-set x{text} dst -j DROP",),
            ),
        ) if text else (),
        notes=(f"masqueradeAll is inferred{text}",) if text or dark else (),
        meta={"origin": f"context {name}{text}", "proxy": "iptables 1.36"},
    )  # fmt: skip
