"""Ports of cluster IPs that no Service has: kube-proxy's table has to reject them, whichever they are (nftables mode, from 1.30).

No packet to a Service meets `cluster-ips-check`, so it is asked about ports of its own: one on each side of everything that the
rules distinguish. Ports and addresses between which no rule distinguishes need not be asked one by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from ..model.net import Frontend, FrontendKind, Protocol
from ..model.nft import (
    Concat,
    Expression,
    Match,
    Meta,
    NftTable,
    Payload,
    Prefix,
    Range,
    SetOf,
    SetRef,
    Statement,
    Value,
    VerdictMap,
)
from ..model.ranges import network, number
from ..model.ranges import text as address_text
from ..model.routes import Action, Client
from ..model.walk_result import Observed
from .frame_iptables import Known
from .frame_nftables import NftFrame
from .landmarks import NFTABLES
from .observation import Observation

MOST_QUESTIONS = 512
"""More addresses and ports than this are not asked about; kube-proxy's own rules distinguish a dozen."""
_OF_SERVICES = frozenset(("service-ips", "service-nodeports", "no-endpoint-services", "no-endpoint-nodeports", "firewall-ips"))
"""Maps about ports that Services have, which are none of those asked about here."""


def questions(frame: NftFrame, known: Known) -> list[Frontend] | None:
    """The unused ports to ask about; None where the rules distinguish more of them than `MOST_QUESTIONS`."""
    if frame.version < (1, 30) or "cluster-ips-check" not in frame.table.chains:
        return []
    ours = sorted(a for a in known.cluster_ips if (a >> 32 != 0) == (frame.family == 6))
    if not ours:
        return []
    ports, addresses, protocols = {1}, {ours[0], ours[-1]}, {Protocol.TCP}
    for part, value in _distinguished(frame.table):
        match part:
            case Payload(protocol="ip" | "ip6", field="daddr"):
                addresses.update(_beside(ours, value))
            case Payload(protocol=protocol, field="dport" | "sport"):
                protocols.update(one for one in Protocol if one.value.lower() == protocol)
                ports.update(_edges(value))
            case Meta(key="l4proto") | Payload(field="protocol" | "nexthdr"):
                protocols.update(Protocol)
    found = [
        Frontend(address_text(address, frame.family), protocol, port, FrontendKind.CLUSTER_IP)
        for protocol in Protocol if protocol in protocols
        for address in sorted(addresses)
        for port in sorted(ports)
        if 0 < port < 65536 and (address, protocol.value.lower(), port) not in known.addresses
    ]  # fmt: skip
    return found if len(found) <= MOST_QUESTIONS else None


def _distinguished(table: NftTable) -> Iterator[tuple[Expression, Value]]:
    """(field, value) of everything that the rules outside of the Services' own chains match on."""
    for name in table.chains:
        if not NFTABLES.of_service(name):
            for rule in table.chains[name].rules:
                for statement in rule.statements:
                    yield from _matched(statement, table)


def _matched(statement: Statement, table: NftTable) -> Iterator[tuple[Expression, Value]]:
    if isinstance(statement, Match):
        left, right = statement.left, statement.right
    elif isinstance(statement, VerdictMap):
        left, right = statement.key, statement.data
    else:
        return
    parts: Sequence[Expression] = left.parts if isinstance(left, Concat) else (left,)
    if isinstance(right, SetRef):
        named = table.sets.get(right.name)
        if named is None or named.runtime or right.name in _OF_SERVICES or right.name == "cluster-ips":
            return
        right = SetOf(tuple(named.elements))
    if isinstance(right, SetOf):
        for element in right.elements:
            yield from zip(parts, element.key, strict=False)
    elif isinstance(right, Concat):
        yield from ((part, value) for part, value in zip(parts, right.parts, strict=False) if isinstance(value, int | str))
    elif isinstance(right, int | str | Prefix | Range):
        yield left, right


def _edges(value: Value) -> Iterator[int]:
    """Ports on each side of what a rule matches on."""
    low, high = (value.low, value.high) if isinstance(value, Range) else (value, value)
    if isinstance(low, int) and isinstance(high, int):
        yield from (low - 1, low, high, high + 1)


def _beside(ours: Sequence[int], value: Value) -> Iterator[int]:
    """Cluster IPs on each side of the edges of what a rule matches on."""
    try:
        match value:
            case str():
                low = high = number(value)
            case Prefix(address=address, length=length):
                ((low, high),) = network(f"{address}/{length}")
            case Range(low=str(first), high=str(last)):
                low, high = number(first), number(last)
            case _:
                return
    except ValueError:
        return
    for at in (bisect_left(ours, low) - 1, bisect_left(ours, low), bisect_right(ours, high) - 1, bisect_right(ours, high)):
        if 0 <= at < len(ours):
            yield ours[at]


def unused_ports(frame: NftFrame, client: Client, seen: Observed) -> Iterator[Observation]:
    """What becomes of packets to an unused port of a cluster IP: it is cluster-ips-check that has to reject them.

    Where they are stopped by something else, or cannot be followed, that is said of every Service already.
    """
    for end in (end for atom in seen.atoms for end in atom.ends):
        if end.action in (Action.REJECT, None) or (end.action is not Action.PASS and end.way[-1].chain != "cluster-ips-check"):
            continue
        found = frame.table.chains.get("cluster-ips-check")
        fate = "pass" if end.action is Action.PASS else "are dropped"
        what = f"packets of {client.value} clients to unused ports of cluster IPs {fate} instead of being rejected"
        yield Observation(
            code="SR608", node_wide=True, service=None, key="cluster-ips-check",
            message=f"{what} ({frame.name})",
            evidence=tuple(str(rule) for rule in (found.rules if found else ())), place="fixed",
        )  # fmt: skip
        return


