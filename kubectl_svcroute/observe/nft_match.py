"""What nftables' expressions say of the first packet of a connection.

An expression that is compared, or looked up in a set, becomes a `Part`: it either has one value that is known
(`exact`), or answers for each value whether the packet has it (a `Result`, observe/packet.py). What a dump cannot tell
is a `Doubt`, never an assumption.

Semantics from the kernel's net/netfilter/nft_{meta,ct,payload,fib,numgen,lookup}.c. A field of a header that the packet
has not got breaks the rule, whatever is asked of it: nft leaves out of what it prints the dependency (`meta l4proto tcp`)
that it has put before `tcp dport`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from ..model.fast_dataclass import dataclass
from ..model.nft import (
    Binary,
    Concat,
    Ct,
    Element,
    Expression,
    Fib,
    Flags,
    Hash,
    Meta,
    Numgen,
    Opaque,
    Payload,
    Prefix,
    Range,
    Scalar,
    SetOf,
    Value,
    render_element,
    render_value,
)
from ..model.nft_elements import ADDRESS4, ADDRESS6, NUMBER, PROTOCOL, PlainElements
from ..model.ranges import ALL, Ranges, intersect, network, number, union
from ..model.ranges import text as address_text
from .iptables_match import PROTOCOLS
from .packet import Doubt, Interface, Packet, Result, SourceSplit, negate

Known = int | str
"""Addresses, ports and marks as integers; protocols, states and the like by nft's names."""

CATCH_ALL = "*"

Item = tuple[int, int] | str
"""A value of a set, made ready to be compared: integers as a closed interval, everything else as text."""

_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "ece": 64, "cwr": 128}
_ECN = 64 | 128
_TRANSPORTS = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", "th": ""}
_OTHER_PROTOCOLS = frozenset(("icmp", "icmpv6", "igmp", "udplite", "dccp", "esp", "ah", "comp", "gre", "arp"))


def _integer_item(value: Value) -> Item:
    if isinstance(value, int):
        return (int(value), int(value))
    if isinstance(value, Range) and isinstance(value.low, int) and isinstance(value.high, int):
        return (value.low, value.high)
    if value == CATCH_ALL:
        return CATCH_ALL
    raise ValueError(f"{value} is no number")


@dataclass(frozen=True, slots=True)
class Part:
    """One expression, or one of a concatenation."""

    exact: Callable[[Packet], Known | None] | None = None
    """The value that the packet has; None when it has not got the header or the state that this is part of."""
    holds: Callable[[Item, Packet], Result] | None = None
    """Where there is no one value: whether the packet has this one."""
    source: bool = False
    """The address that the packet comes from, which is a set: answered all at once where many are asked for."""
    original: bool = False
    present: Callable[[Packet], bool] | None = None
    """Whether the packet has the header; where None, it has."""
    read: Callable[[Value], Item] = _integer_item
    """A printed value as an item. Raises ValueError for one that is not understood."""
    dials: bool = False
    """It is the address or the port that the packet is sent to."""
    bits: Mapping[int, str] | None = None
    """Bit -> name, where values are bits of one state, of which a connection has one (`ct state`) or some (`ct status`)."""
    flags: bool = False
    """Values are TCP flags, as one number."""

    def answer(self, item: Item, packet: Packet) -> Result:
        """Whether the packet has this value."""
        if self.exact is not None:
            value = self.exact(packet)
            return value is not None and has(item, value)
        if self.holds is None:
            return Doubt("nothing is known of this expression")
        return self.holds(item, packet)


def has(item: Item, value: Known) -> bool:
    """Whether a known value is the item."""
    if isinstance(value, int):
        return isinstance(item, tuple) and item[0] <= value <= item[1]
    return item == value


# ---- values as printed ------------------------------------------------------------------------------------------------------


def address_ranges(value: Value) -> Ranges:
    """The addresses of `10.0.0.1`, a prefix or a range. Raises ValueError for anything else."""
    match value:
        case str():
            return network(value)
        case Prefix(address=address, length=length):
            return network(f"{address}/{length}")
        case Range(low=str(low), high=str(high)):
            return ((number(low), number(high)),)
    raise ValueError(f"{value} is no address")


def _address_item(value: Value) -> Item:
    if value == CATCH_ALL:
        return CATCH_ALL
    if isinstance(value, str) and "/" not in value:
        only = number(value)
        return (only, only)
    return address_ranges(value)[0]


def _name_item(value: Value) -> Item:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, int):
        return str(value)
    raise ValueError(f"{value} is no name")


_CT_STATES = {0x1: "invalid", 0x2: "established", 0x4: "related", 0x8: "new", 0x40: "untracked"}
_CT_STATUS = {
    0x1: "expected", 0x2: "seen-reply", 0x4: "assured", 0x8: "confirmed", 0x10: "snat", 0x20: "dnat", 0x200: "dying",
}  # fmt: skip
"""Bits by name, as `nft -n` prints them (nf_conntrack_common.h: state bits of nft_ct.c, enum ip_conntrack_status)."""
_FIB_TYPES = {
    1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit",
}  # fmt: skip
"""Types of routes by number (include/uapi/linux/rtnetlink.h), as `nft -n` prints them."""
_ETHERTYPES = {0x0800: "ip", 0x86DD: "ip6", 8: "ip", 0xDD86: "ip6"}
"""In both byte orders: `nft -n` prints 0x0800 in text, and 8 in JSON on a little-endian machine."""


def _named(names: Mapping[int, str]) -> Callable[[Value], Item]:
    """A reader of values that are printed by name, and by `nft -n` as numbers."""

    def read(value: Value) -> Item:
        return names.get(value, str(value)) if type(value) is int else _name_item(value)

    return read


def named_bits(value: Value, names: Mapping[int, str]) -> list[Value]:
    """The names of the bits of a number; any other value as it is."""
    if type(value) is not int or not value:
        return [value]
    return [names.get(1 << n, str(1 << n)) for n in range(value.bit_length()) if value >> n & 1]


def _protocol_item(value: Value) -> Item:
    name = _name_item(value)
    return PROTOCOLS.get(str(name), name)


# ---- expressions ----------------------------------------------------------------------------------------------------------


def doubtful(reason: str, *, present: Callable[[Packet], bool] | None = None) -> Part:
    """A part of which a dump tells nothing."""
    answer = Doubt(reason)
    return Part(holds=lambda _item, _packet: answer, read=str, present=present)


def part_of(expression: Expression) -> Part:
    """What an expression has to say."""
    match expression:
        case Payload():
            return _payload(expression)
        case Meta(key=key):
            return _meta(key)
        case Ct():
            return _ct(expression)
        case Fib():
            return _fib(expression)
        case Binary():
            return _binary(expression)
    return doubtful(f"{render_value(expression)} is not one that a dump can answer")


def _has_transport(protocol: str) -> Callable[[Packet], bool]:
    return lambda packet: packet.proto == protocol


def _has_family(family: int) -> Callable[[Packet], bool]:
    return lambda packet: packet.ctx.family == family


def _payload(payload: Payload) -> Part:
    protocol, name = payload.protocol, payload.field
    if protocol in ("ip", "ip6"):
        return _address_header(4 if protocol == "ip" else 6, payload)
    if protocol in _TRANSPORTS:
        wanted = _TRANSPORTS[protocol]
        present = _has_transport(wanted) if wanted else None
        if name == "dport":
            return Part(
                exact=lambda packet: packet.dport if not wanted or packet.proto == wanted else None, dials=True, present=present
            )
        if name == "sport":
            return Part(holds=_source_port, present=present)
        if protocol == "tcp" and name == "flags":
            # The first packet of a connection has SYN, and none of the others but, perhaps, the two of ECN.
            return Part(exact=lambda packet: 2 if packet.proto == "tcp" else None, read=_flag_item, flags=True, present=present)
        return doubtful(f"{render_value(payload)} looks into the packet", present=present)
    if protocol in _OTHER_PROTOCOLS:
        return Part(exact=lambda _: None, read=str, present=lambda _: False)
    return doubtful(f"{render_value(payload)} looks into the packet")


def _flag_item(value: Value) -> Item:
    bits = flag_bits(value)
    if bits & _ECN:
        raise ValueError("whether a packet asks for ECN is not known")
    return (bits, bits)


def flag_bits(value: Expression) -> int:
    """TCP flags as a number. Raises ValueError for what is none."""
    if isinstance(value, int):
        return value
    names = value.names if isinstance(value, Flags) else (value,)
    bits = 0
    for name in names:
        if isinstance(name, int):
            bits |= name
        elif isinstance(name, str) and name in _TCP_FLAGS:
            bits |= _TCP_FLAGS[name]
        else:
            raise ValueError(f"{name} is no TCP flag")
    return bits


def _source_port(item: Item, _: Packet) -> Result:
    if isinstance(item, tuple) and item[0] <= 1 and item[1] >= 65535:
        return True
    return Doubt("a source port decides, and clients take any")


def _address_header(family: int, payload: Payload) -> Part:
    present = _has_family(family)
    match payload.field:
        case "daddr":
            return Part(
                exact=lambda packet: packet.dst if packet.ctx.family == family else None,
                read=_address_item, dials=True, present=present,
            )  # fmt: skip
        case "saddr":
            return Part(holds=_source, read=_address_item, source=True, present=present)
        case "protocol" | "nexthdr":
            return Part(
                exact=lambda packet: packet.proto if packet.ctx.family == family else None, read=_protocol_item, present=present
            )
        case "version":
            return Part(exact=lambda packet: packet.ctx.family if packet.ctx.family == family else None, present=present)
    return doubtful(f"{render_value(payload)} looks into the packet", present=present)


def _source(item: Item, _: Packet) -> Result:
    return SourceSplit((item,)) if isinstance(item, tuple) else Doubt(f"{item} is no address")


def _original_source(item: Item, _: Packet) -> Result:
    return SourceSplit((item,), original=True) if isinstance(item, tuple) else Doubt(f"{item} is no address")


def _meta(key: str) -> Part:
    match key:
        case "l4proto":
            return Part(exact=lambda packet: packet.proto, read=_protocol_item)
        case "mark":
            return Part(exact=lambda packet: packet.mark)
        case "nfproto":
            return Part(exact=lambda packet: "ipv6" if packet.ctx.family == 6 else "ipv4", read=_nfproto_item)
        case "protocol":
            return Part(exact=lambda packet: "ip6" if packet.ctx.family == 6 else "ip", read=_named(_ETHERTYPES))
        case "iifname" | "iif":
            return Part(holds=_came_in_by, read=_name_item)
        case "oifname" | "oif":
            return Part(holds=_leaves_by, read=_name_item)
        case "pkttype":
            return Part(exact=lambda _: "host", read=_packet_type_item)
        case "skuid" | "skgid":
            # nft_meta.c breaks where the packet has no socket, and one that came in has none yet.
            return doubtful("which user's process sends is not in the dump", present=lambda packet: packet.from_node)
    return doubtful(f"{render_value(Meta(key))} is not in the dump")


def _nfproto_item(value: Value) -> Item:
    return {2: "ipv4", 10: "ipv6"}.get(value, "other") if isinstance(value, int) else _name_item(value)


def _packet_type_item(value: Value) -> Item:
    return "host" if value in ("host", "unicast", 0) else _name_item(value)


def _pattern_doubt(item: str, direction: str, fact: str) -> Doubt:
    name = f"{item[:-1]}+" if item.endswith("*") else item  # as iptables, which may ask for the same, would write it
    return Doubt(f"whether the packet {direction} by an interface named {item} is not in the dump", fact.format(name))


def _came_in_by(item: Item, packet: Packet) -> Result:
    # Since Linux 5.7 the interface that a packet came in by is known at POSTROUTING too. (kube-proxy asks for 5.13.)
    if not isinstance(item, str) or item.isdigit():
        return Doubt("which interface has which number is not in the dump")
    answer = packet.iif.matches(item)
    return _pattern_doubt(item, "comes in", "in {}") if answer is None else answer


_LO = Interface(name="lo")


def _leaves_by(item: Item, packet: Packet) -> Result:
    if not isinstance(item, str) or item.isdigit():
        return Doubt("which interface has which number is not in the dump")
    if item == CATCH_ALL:
        return True
    if packet.hook in ("PREROUTING", "INPUT"):
        return False  # nft_meta_store_ifname: no interface, an empty name
    # At OUTPUT it is the way to where the packet was first sent: it is routed anew only behind the hook.
    where = packet.original[0] if packet.hook == "OUTPUT" else packet.dst
    if packet.ctx.is_local(where):
        return bool(_LO.matches(item))
    if item == "lo":
        return False
    return _pattern_doubt(item, "leaves", f"out {{}} to {where}")


def _ct(ct: Ct) -> Part:
    key, family = ct.key, 0
    if ct.direction == "reply":
        return doubtful(f"{render_value(ct)} is decided by what comes after this")
    for prefix, number_ in (("ip ", 4), ("ip6 ", 6)):
        if key.startswith(prefix):
            key, family = key.removeprefix(prefix), number_
    match key:
        case "state":
            return Part(exact=_state, read=_named(_CT_STATES), bits=_CT_STATES)
        case "status":
            return Part(holds=_status, read=_named(_CT_STATUS), bits=_CT_STATUS, present=_tracked)
        case "mark":
            return Part(exact=lambda packet: packet.ctmark if packet.tracked else None)
        case "direction":
            return Part(
                exact=lambda packet: "original" if packet.tracked else None,
                read=lambda value: "original" if value == 0 else _name_item(value),
            )  # fmt: skip
        case "l3proto":
            return Part(
                exact=lambda packet: ("ipv6" if packet.ctx.family == 6 else "ipv4") if packet.tracked else None,
                read=_nfproto_item,
            )  # fmt: skip
        case "protocol":
            return Part(exact=lambda packet: packet.proto if packet.tracked else None, read=_protocol_item)
        case "daddr":
            return Part(
                exact=lambda packet: packet.original[0] if packet.tracked and family in (0, packet.ctx.family) else None,
                read=_address_item, dials=True,
            )  # fmt: skip
        case "saddr":
            return Part(
                holds=_original_source, read=_address_item, source=True, original=True,
                present=lambda packet: packet.tracked and family in (0, packet.ctx.family),
            )  # fmt: skip
        case "proto-dst":
            return Part(exact=lambda packet: packet.original[1] if packet.tracked else None, dials=True)
        case "proto-src":
            return Part(holds=_source_port, present=_tracked)
    return doubtful(f"{render_value(ct)} is not in the dump")


def _tracked(packet: Packet) -> bool:
    return packet.tracked


def _state(packet: Packet) -> str:
    # nft_ct_get_eval: a packet without a connection that nobody untracked is invalid, as every packet before -200 is.
    return "untracked" if packet.untracked else "invalid" if packet.early else "new"


def _status(item: Item, packet: Packet) -> Result:
    """What nf_nat_setup_info has set so far; the other bits come with later packets."""
    if item == "dnat":
        return packet.bound_dst
    if item == "snat":
        return packet.bound_src
    return False if item in ("seen-reply", "assured", "dying", "expected") else Doubt(f"ct status {item} is not in the dump")


_NEVER = frozenset(("broadcast", "multicast", "anycast"))


def _fib(fib: Fib) -> Part:
    narrowed = any(flag in ("iif", "oif", "mark") for flag in fib.flags)
    if fib.result == "type" and "daddr" in fib.flags:

        def destination(item: Item, packet: Packet) -> Result:
            if packet.ctx.is_local(packet.dst):
                if narrowed and item == "local":
                    return Doubt("which interface holds the address is not in the dump")
                return item == "local"
            if item == "unicast":
                return True
            if item == "local" or item in _NEVER:
                return False
            return Doubt(f"fib daddr type {item} needs the routing table")

        return Part(holds=destination, read=_named(_FIB_TYPES))
    if fib.result == "type" and "saddr" in fib.flags:

        def origin(item: Item, packet: Packet) -> Result:
            local = SourceSplit(packet.ctx.local)
            if narrowed:
                return Doubt("which interface holds the address is not in the dump")
            if item == "local":
                return local
            if item == "unicast":
                return negate(local, packet.ctx)
            return False if item in _NEVER else Doubt(f"fib saddr type {item} needs the routing table")

        return Part(holds=origin, read=_named(_FIB_TYPES))
    if fib.result in ("oif", "oifname") and "saddr" in fib.flags:

        def way_back(item: Item, _: Packet) -> Result:
            # A representative packet comes in by the way that leads back to its source.
            if item in ("missing", "0", ""):
                return False
            return True if item in ("exists", "1") else Doubt("which way leads back is not in the dump")

        return Part(holds=way_back, read=_name_item)
    return doubtful(f"{render_value(fib)} needs the routing table")


def _binary(binary: Binary) -> Part:
    if binary.op == "&" and len(binary.parts) == 2 and binary.parts[0] == Payload("tcp", "flags"):
        try:
            mask = flag_bits(binary.parts[1])
        except ValueError:
            return doubtful(f"{render_value(binary)} is not understood")
        if not mask & _ECN:
            return Part(
                exact=lambda packet: 2 & mask if packet.proto == "tcp" else None, read=_flag_item, flags=True,
                present=_has_transport("tcp"),
            )  # fmt: skip
    match binary:
        case Binary(op="&", parts=(Meta(key="mark"), int(mask))):
            return Part(exact=lambda packet: packet.mark & mask)
    if calculable(binary):
        return Part(exact=lambda packet: calculate(binary, packet))
    return doubtful(f"{render_value(binary)} is not one that a dump can answer")


def calculable(expression: Expression) -> bool:
    """Whether an expression comes to a number that is known: marks, and what is made of them."""
    match expression:
        case int():
            return True
        case Meta(key="mark") | Ct(key="mark"):
            return True
        case Binary(op=op, parts=parts):
            return op in ("&", "|", "^", "<<", ">>") and all(calculable(part) for part in parts)
    return False


def calculate(expression: Expression, packet: Packet) -> int | None:
    """The number that a calculable expression comes to, of 32 bits; None where the packet has no connection."""
    match expression:
        case int():
            return int(expression)
        case Meta(key="mark"):
            return packet.mark
        case Ct(key="mark"):
            return packet.ctmark if packet.tracked else None
        case Binary(op=op, parts=parts):
            values = [calculate(part, packet) for part in parts]
            if any(value is None for value in values):
                return None
            result = values[0] or 0
            for value in values[1:]:
                other = value or 0
                if op == "&":
                    result &= other
                elif op == "|":
                    result |= other
                elif op == "^":
                    result ^= other
                elif op == "<<":
                    result <<= other
                else:
                    result >>= other
            return result & 0xFFFFFFFF
    raise ValueError(f"{render_value(expression)} is no number")


# ---- lookups --------------------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """An element that the packet may have: under these conditions, all of which have to hold."""

    element: Element
    conditions: tuple[Result, ...]


class _Entry(NamedTuple):
    element: Element
    items: tuple[Item, ...]
    trouble: str


_READERS: dict[str, Callable[[Value], Item]] = {
    ADDRESS4: _address_item, ADDRESS6: _address_item, PROTOCOL: _protocol_item, NUMBER: _integer_item,
}  # fmt: skip
_ADDRESSES = (ADDRESS4, ADDRESS6)


class Lookup:
    """A key expression over the elements of a set or map, found by the parts of the key that are known."""

    def __init__(self, key: Expression, elements: Sequence[Element], name: str) -> None:
        self.key = key
        self.name = name
        self.parts = tuple(part_of(e) for e in (key.parts if isinstance(key, Concat) else (key,)))
        self.known = tuple(n for n, part in enumerate(self.parts) if part.exact is not None)
        self.rest = tuple(n for n, part in enumerate(self.parts) if part.exact is None)
        self.dials = any(part.dials for part in self.parts)
        self.index: dict[tuple[Known, ...], list[_Entry]] = {}
        self.others: list[_Entry] = []
        self.catch_all: Element | None = None
        self._elements = elements
        self._rows = self._plain_rows(elements)
        """Of elements that need not be understood to be found: the key's known parts -> which they are."""
        self._entries: dict[int, _Entry] = {}
        if self._rows is None:
            for element in elements:
                self._add(element)
        self._all_sources: Ranges | None = None
        self._present = tuple(part.present for part in self.parts if part.present is not None)
        self._exact = tuple(part.exact for part in self.parts if part.exact is not None)

    def _plain_rows(self, elements: Sequence[Element]) -> Mapping[tuple[Scalar, ...], Sequence[int]] | None:
        """The elements by the known parts of their keys, where each can stand there in one spelling only."""
        if not isinstance(elements, PlainElements) or not self.known or len(elements.kinds) != len(self.parts):
            return None
        for part, kind in zip(self.parts, elements.kinds, strict=True):
            if part.read is not _READERS[kind]:
                return None
        return elements.by(self.known)

    def _found(self, values: Sequence[Known], packet: Packet) -> Sequence[_Entry]:
        """The elements that have these values in the known parts of their keys."""
        if self._rows is None or not isinstance(self._elements, PlainElements):
            return self.index.get(tuple(values), ())
        family = packet.ctx.family
        key: list[Scalar] = []
        for n, value in zip(self.known, values, strict=True):
            kind = self._elements.kinds[n]
            if kind not in _ADDRESSES:
                key.append(value)
            elif kind == _ADDRESSES[family == 6] and isinstance(value, int):
                key.append(address_text(value, family))
            else:
                return ()  # an address of the other family
        return [self._entry(n) for n in self._rows.get(tuple(key), ())]

    def _entry(self, row: int) -> _Entry:
        entry = self._entries.get(row)
        if entry is None:
            element = self._elements[row]
            items = tuple(part.read(value) for part, value in zip(self.parts, element.key, strict=True))
            entry = self._entries[row] = _Entry(element, items, "")
        return entry

    def _add(self, element: Element) -> None:
        if element.key == (CATCH_ALL,):
            self.catch_all = element
            return
        values = element.key
        if len(values) != len(self.parts):
            self.others.append(_Entry(element, (), f"element {render_element(element)} of {self.name} does not fit the key"))
            return
        try:
            items = tuple(part.read(value) for part, value in zip(self.parts, values, strict=True))
        except ValueError as error:
            self.others.append(_Entry(element, (), f"element {render_element(element)} of {self.name}: {error}"))
            return
        key: list[Known] = []
        for n in self.known:
            item = items[n]
            if isinstance(item, str):
                key.append(item)
            elif item[0] == item[1]:
                key.append(item[0])
            else:
                self.others.append(_Entry(element, items, ""))
                return
        self.index.setdefault(tuple(key), []).append(_Entry(element, items, ""))

    def candidates(self, packet: Packet) -> list[Candidate] | None:
        """The elements that the packet has or may have, the catch-all last; None when the packet lacks what is asked for."""
        for present in self._present:
            if not present(packet):
                return None
        values: list[Known] = []
        for exact in self._exact:
            value = exact(packet)
            if value is None:
                return None
            values.append(value)
        found = [c for e in self._found(values, packet) if (c := self._ask(e, packet, self.rest)) is not None]
        if self.others:
            every = range(len(self.parts))
            found += [c for e in self.others if (c := self._ask(e, packet, every)) is not None]
        if self.catch_all is not None:
            found.append(Candidate(self.catch_all, ()))
        return found

    def _ask(self, entry: _Entry, packet: Packet, parts: Sequence[int]) -> Candidate | None:
        if entry.trouble:
            return Candidate(entry.element, (Doubt(entry.trouble),))
        conditions = []
        for n in parts:
            answer = self.parts[n].answer(entry.items[n], packet)
            if answer is False:
                return None
            if answer is not True:
                conditions.append(answer)
        return Candidate(entry.element, tuple(conditions))

    def member(self, packet: Packet) -> Result | None:
        """Whether the packet is in the set; None when it lacks what is asked for."""
        if len(self.parts) == 1 and self.parts[0].source and not self.catch_all:
            sources = self._sources()
            if sources is not None:
                present = self.parts[0].present
                if present is not None and not present(packet):
                    return None
                return SourceSplit(sources, self.parts[0].original)
        found = self.candidates(packet)
        if found is None:
            return None
        sets: list[Ranges] = []
        originals: set[bool] = set()
        doubts: list[Doubt] = []
        for candidate in found:
            if not candidate.conditions:
                return True
            splits = [c for c in candidate.conditions if isinstance(c, SourceSplit)]
            others = [c for c in candidate.conditions if isinstance(c, Doubt)]
            if others:
                doubts.extend(others)
                continue
            ranges: Ranges = ALL[packet.ctx.family]
            for split in splits:
                ranges = intersect(ranges, split.ranges)
                originals.add(split.original)
            sets.append(ranges)
        if doubts:
            alone = len(found) == 1 and len(found[0].conditions) == 1
            return doubts[0] if alone else Doubt(doubts[0].reason)
        if not sets:
            return False
        if len(originals) > 1:
            return Doubt(f"{self.name} asks for a source before and after it was changed")
        return SourceSplit(union(sets), originals.pop())

    def _sources(self) -> Ranges | None:
        if self._all_sources is None:
            entries = [*self.index.get((), ()), *self.others]
            if any(entry.trouble for entry in entries):
                return None
            self._all_sources = union((item,) for entry in entries for item in entry.items if isinstance(item, tuple))
        return self._all_sources


def slots(element: Element, numbers: Numgen | Hash) -> int | None:
    """How many of the numbers that `numbers` can give lead to an element; None when that cannot be told."""
    if len(element.key) != 1:
        return None
    if element.key == (CATCH_ALL,):
        return numbers.mod
    try:
        item = _integer_item(element.key[0])
    except ValueError:
        return None
    if not isinstance(item, tuple):
        return None
    low, high = max(item[0], numbers.offset), min(item[1], numbers.offset + numbers.mod - 1)
    return max(0, high - low + 1)


def numbers_of(value: Expression) -> list[tuple[int, int]]:
    """The intervals of numbers on the right of a comparison. Raises ValueError for anything else."""
    values: Sequence[Expression] = [v for e in value.elements for v in e.key] if isinstance(value, SetOf) else [value]
    found = []
    for one in values:
        if not isinstance(one, int | str | Prefix | Range | Flags | Opaque):
            raise ValueError(render_value(one))
        item = _integer_item(one)
        if not isinstance(item, tuple):
            raise ValueError(render_value(one))
        found.append(item)
    return found


def plain_address(value: Value) -> int:
    """The one address that a value is. Raises ValueError for more than one, or none."""
    ranges = address_ranges(value)
    if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
        raise ValueError(f"{render_value(value)} is more than one address")
    return ranges[0][0]


def canonical(value: int, family: int) -> str:
    """An address as people read it."""
    return str(ip_address(value.to_bytes(4 if family == 4 else 16, "big")))
