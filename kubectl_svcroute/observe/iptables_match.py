"""What each iptables match says of the first packet of a connection.

One table in one place: every match that the walker knows, which of them it answers, which it may ignore and why, and
which a dump cannot answer (`Doubt`: both futures are walked). A match that is in none of these makes the rule's answer a
doubt as well, so an unknown one is never assumed to hold or not to hold.

Semantics from the kernel's net/netfilter/xt_*.c and net/ipv4/netfilter/ip_tables.c; the printed forms from the
`_save` functions of iptables' extensions (1.8.9).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from ..errors import ParseError
from ..model.fast_dataclass import dataclass
from ..model.ranges import Ranges, contains, network, number
from .packet import Chance, Doubt, Packet, Result, SourceSplit, negate

Test = Callable[[Packet], Result]

PROTOCOLS = {"tcp": "tcp", "6": "tcp", "udp": "udp", "17": "udp", "sctp": "sctp", "132": "sctp"}


@dataclass(frozen=True, slots=True)
class Match:
    """One match of a rule, ready to be asked."""

    test: Test
    remember: str = ""
    """The affinity list that a packet's source enters when the whole rule matches (`recent --set`)."""
    pins: bool = False
    """Whether it singles out one address or one port to dial: the rule is about that, not about all traffic."""


class Options:
    """The words of one match, taken one option at a time."""

    def __init__(self, module: str, words: list[str], raw: str) -> None:
        self.module = module
        self.words = words
        self.raw = raw
        self.at = 0

    def next(self) -> tuple[bool, str] | None:
        """(negated, option) of the next option, or None at the end."""
        if self.at >= len(self.words):
            return None
        negated = self.words[self.at] == "!"
        if negated:
            self.at += 1
        return negated, self.value()

    def value(self) -> str:
        """The next word, which has to be there."""
        if self.at >= len(self.words):
            raise ParseError(f"match {self.module} lacks a value", 0, self.raw)
        self.at += 1
        return self.words[self.at - 1]


def _maybe_negated(test: Test, negated: bool) -> Test:
    return (lambda packet: negate(test(packet), packet.ctx)) if negated else test


def source(ranges: Ranges, negated: bool) -> Test:
    """`-s`."""
    answer = SourceSplit(ranges)
    if not negated:
        return lambda _: answer
    return lambda packet: negate(answer, packet.ctx)


def destination(ranges: Ranges, negated: bool) -> Test:
    """`-d`."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        only = ranges[0][0]
        return lambda packet: (packet.dst == only) is not negated
    return lambda packet: contains(ranges, packet.dst) is not negated


def protocol(name: str, negated: bool) -> Test:
    """`-p`."""
    if name in ("all", "0"):
        return lambda _: not negated
    wanted = PROTOCOLS.get(name, name)
    return lambda packet: (packet.proto == wanted) is not negated


def interface_in(pattern: str, negated: bool) -> Test:
    """`-i`. A packet of a local process has none at OUTPUT and POSTROUTING: no name fits there."""

    def test(packet: Packet) -> Result:
        if packet.hook == "POSTROUTING":
            return negated
        answer = packet.iif.matches(pattern)
        if answer is None:
            reason = f"whether the packet comes in by an interface named {pattern} is not in the dump"
            return Doubt(reason, f"in {pattern}", negated)
        return answer is not negated

    return test


def interface_out(pattern: str, negated: bool) -> Test:
    """`-o`. Which way a packet leaves is in the routing table, not in the dump; only `lo` can be told.

    At OUTPUT it is the way to where the packet was first sent, DNAT or not: it is routed anew behind the hook.
    """

    def test(packet: Packet) -> Result:
        if packet.hook in ("PREROUTING", "INPUT"):
            return negated
        if pattern == "+":
            return not negated
        if pattern == "lo":
            return packet.ctx.is_local(packet.original[0] if packet.hook == "OUTPUT" else packet.dst) is not negated
        reason = f"whether the packet leaves by an interface named {pattern} is not in the dump"
        # A way out belongs to a destination; at OUTPUT that is where the packet was first sent.
        where = packet.original[0] if packet.hook == "OUTPUT" else packet.dst
        return Doubt(reason, f"out {pattern} to {where}", negated)

    return test


def _port_range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    first = int(low) if low else 0
    return (first, int(high) if high else 65535) if colon else (first, first)


def _ports(options: Options) -> list[Match]:
    # The module does not look at the protocol, `-p` does: iptables-nft takes `! -p udp -m udp --dport 53`, which matches
    # a TCP packet to port 53. (ip_tables refuses it.)
    matches = []
    proto = options.module
    while found := options.next():
        negated, option = found
        if option in ("--dport", "--destination-port", "--dports"):
            low, high = _port_range(options.value())
            matches.append(
                Match(lambda packet, a=low, b=high, n=negated: (a <= packet.dport <= b) is not n, pins=low == high)  # type: ignore[misc]
            )
        elif option in ("--sport", "--source-port", "--sports"):
            low, high = _port_range(options.value())
            if (low, high) == (0, 65535):
                matches.append(Match(lambda _, n=negated: not n))  # type: ignore[misc]
            else:
                matches.append(_doubt("a source port decides, and clients take any"))
        elif option == "--tcp-flags":
            mask = set(options.value().split(","))
            wanted = set(options.value().split(","))
            if "ALL" in mask:
                mask = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
            if "ALL" in wanted:
                wanted = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
            matches.append(Match(_first_flags(({"SYN"} & mask) == (wanted - {"NONE"}), negated)))
        elif option == "--syn":
            matches.append(Match(_first_flags(True, negated)))
        elif option in ("--tcp-option", "--chunk-types"):
            if option == "--chunk-types":
                options.value()
            options.value()
            matches.append(_doubt(f"{proto} {option} looks into the packet"))
        else:
            raise ParseError(f"option {option} of match {proto} is not known", 0, options.raw)
    return matches


def _first_flags(holds: bool, negated: bool) -> Test:
    def test(packet: Packet) -> Result:
        if packet.proto != "tcp":
            return Doubt(f"a match of TCP flags on {packet.proto} looks into the packet")
        return holds is not negated

    return test


def _multiport(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, option = found
        ranges = [_port_range(part) for part in options.value().split(",")]
        if option in ("--dports", "--destination-ports"):
            matches.append(
                Match(
                    lambda packet, r=ranges, n=negated: any(a <= packet.dport <= b for a, b in r) is not n,  # type: ignore[misc]
                    pins=len(ranges) == 1 and ranges[0][0] == ranges[0][1],
                )
            )
        elif option == "--ports":
            matches.append(
                Match(
                    lambda packet, r=ranges, n=negated: (  # type: ignore[misc]
                        not n
                        if any(a <= packet.dport <= b for a, b in r)
                        else Doubt("a source port decides, and clients take any")
                    )
                )
            )
        else:
            matches.append(_doubt("a source port decides, and clients take any"))
    return matches


def masked(text: str) -> tuple[int, int]:
    """`0x4000/0x4000` or `16384` as (value, mask)."""
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else 0xFFFFFFFF


def _mark(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, option = found
        if option != "--mark":
            raise ParseError(f"option {option} of match {options.module} is not known", 0, options.raw)
        value, mask = masked(options.value())
        if options.module == "mark":
            matches.append(
                Match(lambda packet, v=value, m=mask, n=negated: ((packet.mark & m) == v) is not n)  # type: ignore[misc]
            )
        else:
            matches.append(
                Match(lambda packet, v=value, m=mask, n=negated: packet.tracked and ((packet.ctmark & m) == v) is not n)  # type: ignore[misc]
            )
    return matches


def _states(packet: Packet) -> set[str]:
    # conntrack_mt: a packet without a connection that nobody untracked is INVALID. So is every packet in table raw.
    states = {"UNTRACKED"} if packet.untracked else {"INVALID"} if packet.early else {"NEW"}
    if packet.bound_dst:
        states.add("DNAT")
    if packet.bound_src:
        states.add("SNAT")
    return states


def _conntrack(options: Options) -> list[Match]:
    matches: list[Match] = []
    state: list[Match] = []
    while found := options.next():
        negated, option = found
        value = options.value()
        if option in ("--ctstate", "--state"):
            wanted = set(value.split(","))
            state.append(Match(lambda packet, w=wanted, n=negated: bool(_states(packet) & w) is not n))  # type: ignore[misc]
        elif option == "--ctdir":
            matches.append(Match(lambda _, v=value, n=negated: (v == "ORIGINAL") is not n))  # type: ignore[misc]
        elif option == "--ctorigdst":
            nets = network(value)
            matches.append(Match(lambda packet, r=nets, n=negated: contains(r, packet.original[0]) is not n))  # type: ignore[misc]
        elif option == "--ctorigdstport":
            low, high = _port_range(value)
            matches.append(
                Match(lambda packet, a=low, b=high, n=negated: (a <= packet.original[1] <= b) is not n)  # type: ignore[misc]
            )
        elif option == "--ctorigsrc":
            split = SourceSplit(network(value), original=True)
            matches.append(Match(_maybe_negated(lambda _, s=split: s, negated)))  # type: ignore[misc]
        elif option == "--ctproto":
            matches.append(Match(protocol(value.lower(), negated)))
        else:
            matches.append(_doubt(f"{options.module} {option} is not in the dump"))
    # conntrack_mt: a packet without a connection is asked for its state alone; the rest holds where a state is asked for
    # too, and does not where none is, negated or not.
    rest = [Match(_with_connection(match.test, otherwise=bool(state)), pins=match.pins) for match in matches]
    return state + rest


def _with_connection(test: Test, *, otherwise: bool) -> Test:
    return lambda packet: test(packet) if packet.tracked else otherwise


def _addrtype(options: Options) -> list[Match]:
    matches: list[Match] = []
    while found := options.next():
        negated, option = found
        if option == "--src-type":
            types = set(options.value().split(","))
            matches.append(Match(_maybe_negated(_source_type(types), negated)))
        elif option == "--dst-type":
            types = set(options.value().split(","))
            matches.append(Match(_maybe_negated(_destination_type(types), negated)))
        elif option in ("--limit-iface-in", "--limit-iface-out"):
            matches.append(_doubt("which interface holds the address is not in the dump"))
        else:
            raise ParseError(f"option {option} of match addrtype is not known", 0, options.raw)
    return matches


def _type6(types: set[str]) -> bool | str | None:
    """What IPv6 makes of types, for an address that hosts can have: True, False, `local`, or None for not known.

    xt_addrtype.c, match_type6: every type that is named has to hold, and a local address is unicast too. IPv4 asks
    whether the one type that the routing table gives is among the named.
    """
    if types & {"MULTICAST", "UNSPEC"}:
        return False
    if not types <= {"UNICAST", "LOCAL"}:
        return None
    return "local" if "LOCAL" in types else True


def _source_type(types: set[str]) -> Test:
    def test(packet: Packet) -> Result:
        local = SourceSplit(packet.ctx.local)
        if packet.ctx.family == 6:
            answer = _type6(types)
            if answer is None:
                return Doubt(f"addrtype --src-type {','.join(sorted(types))} needs the routing table")
            return answer if isinstance(answer, bool) else local
        if types == {"LOCAL"}:
            return local
        if types == {"UNICAST"}:
            return negate(local, packet.ctx)
        if {"LOCAL", "UNICAST"} <= types:
            return True
        return Doubt(f"addrtype --src-type {','.join(sorted(types))} needs the routing table")

    return test


def _destination_type(types: set[str]) -> Test:
    def test(packet: Packet) -> Result:
        if packet.ctx.family == 6:
            answer = _type6(types)
            if answer is None:
                return Doubt(f"addrtype --dst-type {','.join(sorted(types))} needs the routing table")
            return answer if isinstance(answer, bool) else packet.ctx.is_local(packet.dst)
        if packet.ctx.is_local(packet.dst):
            return "LOCAL" in types
        if "UNICAST" in types:
            return True
        if types <= {"LOCAL", "MULTICAST", "BROADCAST", "ANYCAST"}:
            return False
        return Doubt(f"addrtype --dst-type {','.join(sorted(types))} needs the routing table")

    return test


def _statistic(options: Options) -> list[Match]:
    mode = ""
    probability: float | None = None
    negated = False
    while found := options.next():
        _, option = found
        value = options.value()
        if option == "--mode":
            mode = value
        elif option == "--probability":
            negated = found[0]
            probability = float(value)
        elif option == "--every":
            negated = found[0]
            probability = 1 / int(value)
        elif option != "--packet":
            raise ParseError(f"option {option} of match statistic is not known", 0, options.raw)
    if mode not in ("random", "nth") or probability is None:
        raise ParseError("a statistic match that iptables would not print", 0, options.raw)
    answer = Chance(1 - probability if negated else probability)
    return [Match(lambda _: answer)]


def _recent(options: Options) -> list[Match]:
    name, action, seconds, negated, doubtful, what = "DEFAULT", "", 0, False, False, ""
    while found := options.next():
        inverted, option = found
        if option in ("--rcheck", "--update", "--set", "--remove"):
            action, negated = option, inverted
        elif option == "--name":
            name = options.value()
        elif option == "--seconds":
            seconds = int(options.value())
        elif option == "--mask":
            mask = options.value()
            if int(ip_address(mask)) not in ((1 << 32) - 1, (1 << 128) - 1):
                what += f" --mask {mask}"
        elif option in ("--hitcount",):
            doubtful |= int(options.value()) > 1
        elif option == "--rdest":
            what += " --rdest"
        elif option not in ("--rsource", "--reap", "--rttl"):
            raise ParseError(f"option {option} of match recent is not known", 0, options.raw)
    # xt_recent.c keeps the address that the rule takes, under its mask: a rule that takes another one does not find it.
    name, doubtful = name + what, doubtful or bool(what)
    if action == "--set":
        return [Match(lambda _: not negated, remember=name)]

    def test(packet: Packet) -> Result:
        if name not in packet.memory:
            # A rule before may have entered the client for this very connection.
            return (name in packet.remembered) is not negated
        if doubtful:
            return Doubt(f"how often or by which mask list {name} saw the client is not in the dump")
        return not negated

    def test_and_note(packet: Packet) -> Result:
        answer = test(packet)
        if answer is True and not negated and packet.seconds is None and name in packet.memory:
            # Only the first list that decides counts; the note is harmless on a branch that another match then denies,
            # because kube-proxy's rule has no other.
            packet.seconds = seconds
        return answer

    return [Match(test_and_note)]


def _iprange(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, option = found
        low, _, high = options.value().partition("-")
        ranges = ((number(low), number(high or low)),)
        maker = source if option == "--src-range" else destination
        matches.append(Match(maker(ranges, negated), pins=option == "--dst-range" and low == high))
    return matches


_POD_SETS = {
    # Calico's felix keeps its IP pools in these (felix/rules: IPSetIDAllPools, IPSetIDNATOutgoingMasqPools).
    "cali40all-ipam-pools", "cali40masq-ipam-pools", "cali60all-ipam-pools", "cali60masq-ipam-pools",
}  # fmt: skip


def _set(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, option = found
        if option in ("--return-nomatch", "--update-counters", "--update-subcounters"):
            continue
        name = options.value()
        if option != "--match-set":
            matches.append(_doubt(f"set {option} is not in the dump"))
            continue
        directions = options.value()
        if name in _POD_SETS and directions in ("src", "dst"):
            maker = _pods_source if directions == "src" else _pods_destination
            matches.append(Match(_maybe_negated(maker, negated)))
        else:
            matches.append(_doubt(f"the members of ipset {name} are not in the dump"))
    return matches


def _pods_source(packet: Packet) -> Result:
    return SourceSplit(packet.ctx.pod_networks)


def _pods_destination(packet: Packet) -> Result:
    return contains(packet.ctx.pod_networks, packet.dst)


def _physdev(options: Options) -> list[Match]:
    # A packet that is routed, as all of ours are, has no bridge port once it is at PREROUTING of the IP layer
    # (physdev_mt answers by the inverted flag when nf_bridge is absent). Only br_netfilter on a bridge of pods differs:
    # kube-proxy up to 1.20 keeps such packets off its external IPs.
    held = True
    while found := options.next():
        negated, option = found
        if option in ("--physdev-in", "--physdev-out"):
            options.value()
        held &= negated
    answer = held
    return [Match(lambda _: answer)]


def _owner(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, option = found
        if option != "--socket-exists":
            options.value()
        matches.append(
            Match(
                lambda packet, n=negated: (  # type: ignore[misc]
                    Doubt("which user's process sends is not in the dump") if packet.from_node else n
                )
            )
        )
    return matches


def _pkttype(options: Options) -> list[Match]:
    matches = []
    while found := options.next():
        negated, _ = found
        value = options.value()
        matches.append(Match(lambda _, v=value, n=negated: (v in ("unicast", "host")) is not n))  # type: ignore[misc]
    return matches


def _policy(options: Options) -> list[Match]:
    # IPsec: the packets of Services travel in the clear.
    answer = True
    while found := options.next():
        negated, option = found
        if option == "--strict":
            continue
        value = options.value()
        if option == "--pol":
            answer = (value == "none") is not negated
    return [Match(lambda _: answer)]


def _rpfilter(options: Options) -> list[Match]:
    # A representative packet comes in by the way that leads back to its source.
    inverted = "--invert" in options.words
    return [Match(lambda _: not inverted)]


def _ignored(_: Options) -> list[Match]:
    return []


def _doubt(reason: str) -> Match:
    answer = Doubt(reason)
    return Match(lambda _: answer)


MODULES: dict[str, Callable[[Options], list[Match]]] = {
    "tcp": _ports, "udp": _ports, "sctp": _ports, "multiport": _multiport,
    "mark": _mark, "connmark": _mark,
    "conntrack": _conntrack, "state": _conntrack,
    "addrtype": _addrtype, "statistic": _statistic, "recent": _recent, "iprange": _iprange,
    "set": _set, "physdev": _physdev, "owner": _owner, "pkttype": _pkttype, "policy": _policy, "rpfilter": _rpfilter,
    "comment": _ignored,  # says nothing to the kernel
    "nfacct": _ignored,  # counts, and matches unless a quota is set, which kube-proxy's counters have not
}  # fmt: skip
"""Every match that is answered. All others, these among them, are doubts: limit, hashlimit, time, string, u32, bpf,
cgroup, length, ttl, hl, tos, dscp, mac, socket, helper, connlimit, connbytes, quota, realm, devgroup."""


def parse_module(module: str, words: list[str], raw: str) -> list[Match]:
    """The matches that `-m module words...` stands for. Raises ParseError where iptables would not print it so."""
    known = MODULES.get(module)
    if known is None:
        return [_doubt(f"match {module} is not one that a dump can answer")]
    try:
        return known(Options(module, words, raw))
    except ValueError as error:
        raise ParseError(f"match {module} has a value that iptables would not print ({error})", 0, raw) from error
