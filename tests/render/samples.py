"""Reports written by hand, for what no capture shows: every severity, every kind of doubt, names of all sorts."""

from __future__ import annotations

from reports import HOSTILE, made

from kubectl_svcroute.model.report import EndpointRow, Finding, NodeRow, NotJudged, Report, ServiceRow, Severity, Unverified

_NODES = ("kubworker1.prefetch.net", "kubworker2.prefetch.net", "kubworker3.prefetch.net", "kubworker4.prefetch.net")
_WAY = (
    '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp --dport 53'
    " -j KUBE-SVC-TCOU7JCQXEZGVUNU",
    '-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns -> 10.244.1.7:53"'
    " -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-OLH6EXLANY3RYH34",
    '-A KUBE-SEP-OLH6EXLANY3RYH34 -p udp -m comment --comment "kube-system/kube-dns:dns" -m udp -j DNAT'
    " --to-destination 10.244.1.7:53",
)


def _row(address: str, pod: str | None, node: str | None, even: float, **more: object) -> EndpointRow:
    shares: dict[str, float | None] = dict.fromkeys(_NODES, even)
    shares[_NODES[3]] = None
    given = {"ready": True, "state": "ready", "port": "dns", "share": shares, **more}
    return EndpointRow(address=address, pod=pod, node=node, **given)  # type: ignore[arg-type]


def everything() -> Report:
    """Errors, warnings, infos, a fault of a node, a Service that is skipped, nodes and parts of nodes that are not verified."""
    dns = ServiceRow(
        service="kube-system/kube-dns", type="ClusterIP", cluster_ips=("10.96.0.10", "fd00:10:96::a"),
        ports=("dns 53/UDP", "metrics 9153/TCP"), policy="internalTrafficPolicy Local, affinity ClientIP 10800 s",
        frontends=("10.96.0.10:53/UDP",), nodes=4, nodes_verified=3, errors=1, warnings=1, evidence=_WAY,
        endpoints=(
            _row("10.244.1.7:53", "coredns-5d78c9869d-4xk2p", _NODES[0], 0.5),
            _row("10.244.2.9:53", "coredns-5d78c9869d-zz9qm", _NODES[1], 0.5, wrong=frozenset({_NODES[2]}),
                 share={_NODES[0]: 0.5, _NODES[1]: 0.5, _NODES[2]: 0.0, _NODES[3]: None}),
            _row("10.244.9.9:53", None, None, 0.0, ready=False, state="not an endpoint", wrong=frozenset({_NODES[2]}),
                 share={_NODES[0]: 0.0, _NODES[1]: 0.0, _NODES[2]: 0.5, _NODES[3]: None}),
            _row("10.244.3.1:53", "coredns-5d78c9869d-term1", _NODES[2], 0.0, ready=False, state="terminating"),
            _row("[fd00:244:1::7]:53", "coredns-5d78c9869d-4xk2p", _NODES[0], 1 / 3),
            _row("10.244.1.7:9153", "coredns-5d78c9869d-4xk2p", _NODES[0], 0.0625, port="metrics"),
        ),
    )  # fmt: skip
    web = ServiceRow(
        service="shop/web", type="LoadBalancer", cluster_ips=("10.96.7.7",), ports=("http 80:30080/TCP",), policy="", nodes=4,
        frontends=("10.96.7.7:80/TCP",), nodes_verified=3, errors=0, warnings=0,
        endpoints=(_row("10.244.1.8:8080", "web-0", _NODES[0], 1.0, port="http"),),
    )  # fmt: skip
    db = ServiceRow(
        service="shop/db", type="ClusterIP", cluster_ips=(), ports=("5432/TCP",), policy="", frontends=(), endpoints=(), nodes=4,
        nodes_verified=4, errors=0, warnings=0, skipped="headless: kube-proxy programs nothing for it; look at DNS",
    )  # fmt: skip
    findings = (
        Finding(
            code="SR304", name="mark-mismatch", severity=Severity.ERROR, node=_NODES[1], service=None, client="node, outside",
            message="packets are marked (KUBE-MARK-MASQ: 0x4000/0x4000), and KUBE-POSTROUTING does not masquerade them",
            effect="no Service traffic is masqueraded", heals="heals at a full sync, at the latest within the hour",
            elsewhere="the other 2 nodes do not have this", count=2,
            evidence=("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
                      "-A KUBE-POSTROUTING -m mark ! --mark 0x8000/0x8000 -j RETURN"),
        ),
        Finding(
            code="SR202", name="backend-stale", severity=Severity.ERROR, node=_NODES[2], service="kube-system/kube-dns",
            frontend="10.96.0.10:53/UDP", client="pod", expected="50% each to 10.244.1.7:53, 10.244.2.9:53, source kept",
            message="50% of connections go to 10.244.9.9:53: no EndpointSlice of the Service has this address",
            observed="50% to 10.244.9.9:53", effect="a share of connections goes to an address where nobody answers",
            heals="heals only when this Service or its endpoints change", evidence=_WAY, count=6,
        ),
        Finding(
            code="SR503", name="duplicate-rules", severity=Severity.WARNING, node=_NODES[0], service="kube-system/kube-dns",
            message="a rule stands 2 times in chain KUBE-SERVICES of table nat (IPv4)", evidence=_WAY[1:2], effect="nothing yet",
        ),
        *(
            Finding(code="SR504", name="leftover-chains", severity=Severity.INFO, node=node, service=None, effect="nothing",
                    message="nothing jumps to KUBE-SEP-SFUDTDMZJR7QPBC4 (IPv4)")
            for node in _NODES[:3]
        ),
    )  # fmt: skip
    unverified = (
        Unverified(code="SR907", node=None, reason='cannot list endpointslices in namespace "secret": forbidden'),
        Unverified(code="SR901", node=_NODES[3], reason="ssh: connect to 192.168.56.104 port 22: Connection refused"),
    )
    not_judged = tuple(
        NotJudged(
            code="SR911", node=node, program="Calico", effects=("drop", "masquerade"),
            reason="the members of ipset cali40s:x are not in the dump",
            evidence=("-A cali-tw-cali1234 -m set ! --match-set cali40s:x src -j DROP",),
        )
        for node in _NODES[:2]
    )  # fmt: skip
    nodes = tuple(
        NodeRow(node=node, verified=n < 3, mode="iptables" if n < 3 else "", version="1.28" if n < 3 else "", via="ssh",
                errors=int(n in (1, 2)), warnings=int(n == 0))
        for n, node in enumerate(_NODES)
    )  # fmt: skip
    return Report(
        findings=findings, unverified=unverified, services=(dns, web, db), nodes=nodes, not_judged=not_judged,
        notes=("kube-proxy's configuration could not be read; inferred from what 3 nodes have in common: nothing",),
        meta={"origin": "context prod", "proxy": "iptables 1.28"},
    )  # fmt: skip


def only(report: Report, service: str) -> Report:
    """What the same audit says when it is asked for one Service."""
    return Report(
        findings=tuple(f for f in report.findings if f.service in (None, service)),
        unverified=report.unverified,
        not_judged=report.not_judged,
        services=tuple(row for row in report.services if row.service == service),
        nodes=report.nodes,
        notes=report.notes,
        meta=report.meta,
    )


def empty() -> Report:
    """Nothing was there to be looked at."""
    return Report(findings=(), unverified=(), services=(), nodes=())


SAMPLES: dict[str, Report] = {
    "healthy": made(wrong=0),
    "one-fault": made(),
    "everything": everything(),
    "dns": only(everything(), "kube-system/kube-dns"),
    "skipped": only(everything(), "shop/db"),
    "empty": empty(),
    "tiny": made(nodes=1, endpoints=1, wrong=0),
    "200-nodes": made(nodes=200, endpoints=3, wrong=30, dark=9),
    "300-endpoints": made(nodes=3, endpoints=300),
    "many": made(nodes=5, services=30, wrong=1, dark=1),
    "cjk": made(name="日本語のサービス", dark=1),
    "long-names": made(name="a-service-with-a-name-of-sixty-three-characters-which-is-the-most", nodes=3),
    "hostile": made(text=HOSTILE, dark=1),
}
"""Name -> a report to be shown in every format."""
