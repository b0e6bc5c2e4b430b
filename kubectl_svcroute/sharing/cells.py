"""How a node's rules could tell addresses and ports apart, whoever's they are.

Rules that ask for a network, for the node's own addresses or for a span of ports divide addresses and ports into *cells*;
rules that ask for one address or port *pin* it. Two packets whose addresses and ports lie in the same cells, none of them
pinned, get the same answer from every one of these rules. A rule that asks for anything else that could tell packets apart
cannot be weighed, and whoever reads it has to say so.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from ..errors import ParseError
from ..model.net import ONE_ADDRESS
from ..model.ranges import Ranges, contains, network, number
from ..observe.iptables_words import Quoted, split_rule

MOST_NETWORKS = 64
PINNED = re.compile(rf"-A \S+ (?:(?:! )?-s \S+ )?-d ({ONE_ADDRESS})/\d+ ")
_SAFE = {
    "comment": 1, "ctstate": 1, "state": 1, "mark": 1, "nfacct-name": 1, "dport": 1, "src-type": 1, "dst-type": 1,
}  # fmt: skip
"""Options of matches that cannot tell two Services apart, or do so only by what is noted: how many words each has."""
_MODULES = {"comment", "conntrack", "state", "mark", "nfacct", "addrtype", "tcp", "udp", "sctp"}


class Cells:
    """What rules ask of addresses and ports."""

    def __init__(self, known: Iterable[Ranges]) -> None:
        """`known`: what divides addresses besides the rules."""
        self.pinned: set[int] = set()
        self.pinned_ports: set[int] = set()
        self._networks: dict[Ranges, None] = dict.fromkeys(known)
        self._ports: dict[tuple[int, int], None] = {}
        self._edges: list[int] = []
        self._cells: list[int] = []
        self._port_cells: dict[str, tuple[bool, ...] | None] = {}
        self._sorted: list[int] = []
        self._neighbours: dict[str, int | None] = {}
        """The first three numbers of an IPv4 address -> the cell of all 256 addresses; -1 where they are not in one."""

    @property
    def few(self) -> bool:
        """Whether the division is coarse enough to be worth its while."""
        return len(self._networks) <= MOST_NETWORKS

    # ---- what rules ask for -------------------------------------------------------------------------------------------

    def note(self, ranges: Ranges) -> None:
        """Take addresses into the division: a single one is pinned."""
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            self.pinned.add(ranges[0][0])
        else:
            self._networks[ranges] = None
        self._edges = []

    def pins_in(self, ranges: Ranges) -> bool:
        """True if a rule matches on a single address among these."""
        return any(contains(ranges, address) for address in self.pinned)

    def divides(self, ranges: Ranges) -> bool:
        """Whether this very set of addresses was taken into the division."""
        return ranges in self._networks

    def note_network(self, where: str) -> bool:
        """Take `10.96.0.0/12` into the division; False for what is no network."""
        try:
            found = network(where)
        except ValueError:
            return False
        self._networks[found] = None
        self._edges = []
        return True

    def note_ports(self, low: int, high: int) -> None:
        """Take a span of ports into the division; a single one is pinned."""
        if low == high:
            self.pinned_ports.add(low)
        else:
            self._ports[low, high] = None

    def weigh(self, rule: str) -> bool:
        """Note what a raw iptables rule asks for; False when it asks for something that cannot be weighed."""
        found = PINNED.match(rule)
        if found:
            self.pinned.add(number(found[1]))
        try:
            words = split_rule(rule)
        except ParseError:
            return False
        at = 2
        while at < len(words):
            word = words[at]
            if isinstance(word, Quoted):
                return False
            if word == "!":
                at += 1
            elif word in ("-s", "-d"):
                if not self.note_network(words[at + 1]):
                    return False
                at += 2
            elif word in ("-i", "-o", "-p"):
                at += 2
            elif word == "-m":
                if words[at + 1] not in _MODULES:
                    return False
                at += 2
            elif word in ("-j", "-g"):
                return True
            elif word.startswith("--") and word[2:] in _SAFE:
                if word == "--dport":
                    low, _, high = words[at + 1].partition(":")
                    if not high and ":" not in words[at + 1]:
                        self.note_ports(int(low), int(low))
                    else:
                        self.note_ports(int(low or 0), int(high or 65535))
                at += 2
            else:
                return False
        return True

    # ---- in which cell ------------------------------------------------------------------------------------------------

    def cell(self, address: int) -> int | None:
        """The cell of an address; None where it is pinned."""
        if address in self.pinned:
            return None
        if not self._edges:
            self._divide()
        return self._cells[bisect_right(self._edges, address)]

    def cell_of(self, address: str) -> int | None:
        """The cell of an address as text; asked when all rules have been weighed. Raises ValueError when it is none."""
        near, dot, _ = address.rpartition(".")
        if not dot:
            return self.cell(number(address))
        found = self._neighbours.get(near, -2)
        if found == -2:
            first = number(near + ".0")
            if not self._edges:
                self._divide()
            between = bisect_right(self._edges, first) == bisect_right(self._edges, first + 255)
            if not self._neighbours:
                self._sorted = sorted(self.pinned)
            pinned = bisect_right(self._sorted, first + 255) > bisect_left(self._sorted, first)
            found = self._neighbours[near] = self.cell(first) if between and not pinned else -1
        return self.cell(number(address)) if found == -1 else found

    def cells_of(self, addresses: Iterable[str]) -> tuple[int, ...] | None:
        """The cells of addresses, in their order, or the one cell of all of them; None where one is pinned."""
        near = {address[: address.rfind(".")] for address in addresses}
        if len(near) == 1 and (found := self._neighbours.get(near.pop(), -2)) is not None and found >= 0:
            return (found,)
        cells = [-1 if (cell := self.cell_of(address)) is None else cell for address in addresses]
        if -1 in cells:
            return None
        return (cells[0],) if len(set(cells)) == 1 else tuple(cells)

    def same(self, one: tuple[int, int], other: tuple[int, int], *, but: Ranges) -> bool:
        """Whether each division but one has all addresses of two ranges on one side."""
        for ranges in self._networks:
            if ranges != but:
                sides = {_side(ranges, *one), _side(ranges, *other)}
                if len(sides) > 1 or None in sides:
                    return False
        return True

    def _divide(self) -> None:
        """Number the cells: between two neighbouring edges, all addresses are in the same networks."""
        edges = sorted({edge for ranges in self._networks for low, high in ranges for edge in (low, high + 1)} | {0})
        numbers: dict[tuple[bool, ...], int] = {}
        self._cells = [-1]
        for edge in edges:
            mine = tuple([contains(ranges, edge) for ranges in self._networks])
            self._cells.append(numbers.setdefault(mine, len(numbers)))
        self._edges = edges

    def port_cell_of(self, port: str) -> tuple[bool, ...] | None:
        """The cell of a port as it stands in a rule; asked when all rules have been weighed, and kept."""
        if port not in self._port_cells:
            self._port_cells[port] = self.port_cell(int(port))
        return self._port_cells[port]

    def port_cell(self, port: int) -> tuple[bool, ...] | None:
        """The cell of a port; None where it is pinned."""
        if port in self.pinned_ports:
            return None
        return tuple([low <= port <= high for low, high in self._ports])


def _side(ranges: Ranges, low: int, high: int) -> bool | None:
    """Whether all addresses from low to high are in a set, or none (False); None where some are."""
    for first, last in ranges:
        if first <= low and high <= last:
            return True
        if first <= high and low <= last:
            return None
    return False
