"""Connections that a node already tracks, compared with the endpoints that there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ..errors import ParseError
from ..expect.routes import NodeView, plan_service
from ..model.flow import Flow
from ..model.node_result import BESIDE_RULES
from ..model.snapshot import NodeDump
from .files import why_absent
from .ledger import Ledger
from .subject import Subject


def read_flows(dump: NodeDump, ledger: Ledger, *, asked: bool) -> dict[int, list[Flow]]:
    """Family -> the connections that were read; where they were asked for and could not be read, the ledger says why."""
    text = dump.files.get("conntrack.txt")
    found: dict[int, list[Flow]] = defaultdict(list)
    why = ""
    if text is not None:
        try:
            from ..parse.conntrack import parse_conntrack  # noqa: PLC0415 - few snapshots hold connections

            read = parse_conntrack(text)
        except ParseError as error:
            why = f"conntrack.txt: {error}"
        else:
            for flow in read.flows:
                found[flow.family].append(flow)
            if any(part.startswith("udp") for part in read.cut):
                why = "the node has more UDP flows than are read of one: only the first were looked at"
            elif read.cut:
                # What TCP connections show is no fault, so it is not missed as one would be.
                ledger.notes.append("some nodes have more TCP connections than are read of one: only the first were looked at")
    elif asked:
        absent = "the snapshot was made without --conntrack" if dump.via == "snapshot" else "they were not read"
        why = f"the node's connections are not known ({why_absent(dump, 'conntrack.txt') or absent})"
    if why:
        ledger.not_verified("SR920", why)
        ledger.unverified_services.add(BESIDE_RULES)
    return found


def check_connections(subject: Subject, view: NodeView) -> None:
    """Compare one family's connections to the Services asked for with their endpoints."""
    mine = subject.flows.get(view.family)
    if not mine:
        return
    from ..checks.flows import flows_of_services, stale_flows  # noqa: PLC0415 - as above

    services = {service.key: service for service in subject.context.services}
    for key, its in flows_of_services(mine, subject.context.services, view.local, view.address).items():
        service = services[key]
        for plan in plan_service(service, subject.slices_of(service), view):
            subject.ledger.observations.extend(stale_flows(plan, its))


def tracked(sysctl: Mapping[str, str]) -> dict[str, int]:
    """How full the connection-tracking table is."""
    names = {"tracked": "net.netfilter.nf_conntrack_count", "tracked_most": "net.netfilter.nf_conntrack_max"}
    return {key: int(sysctl[name]) for key, name in names.items() if sysctl.get(name, "").isdigit()}
