"""Services whose rules are the same but for names and addresses are walked once.

Theory of operation. Most Services of a large cluster are alike: one cluster IP, ready endpoints, and rules that differ from
each other's only in the Service's name, its address, and its endpoints. When one of them, the *model*, has been walked
and found right, another one is right too, without a walk, if a renaming of names and addresses turns the model's rules
into its own, and if no other rule of the node tells the two apart. Both are checked, neither is assumed:

1. The *cone* of a Service port (its entry rule, its chain, the chains of its endpoints) becomes a template: every
   occurrence of its own names and addresses a placeholder. The template filled with the model's own values must give the
   model's cone back, and filled with the other's values must give the other's, to the letter. The values are distinct
   among themselves, so the renaming is one to one.
2. All other rules of all tables are read. Those that ask for one address are collected: no address of the Service may be
   among them. Those that ask for a network, a port or the node's own addresses divide addresses and ports into cells:
   each address and port of the Service must lie in the same cells as the model's (`Twins._key`). A rule that asks for
   anything else that could tell packets apart (an ipset, say) turns this off, and everything is walked.
3. Rules of KUBE-SERVICES that catch every Service stand on the same side of both entries.

A Service that does not fit, for whatever reason, is walked. A test holds the two ways to the same answer on changed rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from ..model.fast_dataclass import dataclass
from ..model.ranges import Ranges, contains, network, number
from ..model.ruleset import Chains, IptablesRules
from .cells import PINNED, Cells

OWN = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-")
_OWN_NAME = re.compile(r"KUBE-(?:SVC|SVL|EXT|XLB|FW|SEP)-\w")
_ENTRY_PORT = re.compile(
    r'.*(?<!!) -p (\w+) (?:-m comment --comment (?:"[^"\\]*"|[^" ]+) )?-m \1 --dport (\d{1,5}) '
    r"(?:-m nfacct --nfacct-name +\S+ )?-j (KUBE-[A-Z]+(?:-[A-Z]+|-[A-Z0-9]{16})?)\Z"
)
_PLAIN_ENTRY = re.compile(
    r'-A KUBE-SERVICES -d [0-9a-f.:]+/\d+ -p (\w+) -m comment --comment (?:"[^"\\]*"|[^" ]+) -m \1 --dport (\d{1,5}) '
    r"-j (KUBE-(?:SVC|EXT)-[A-Z0-9]{16})\Z"
)
"""The usual form of what the other one takes."""
_INTO_OWN = re.compile(r" -[jg] KUBE-(?:SVC|SVL|EXT|XLB|FW|SEP)-")
_NETWORK = re.compile(r"-A \S+ (?:! )?-[sd] (\S+) -p ")
_ADDRESS = re.compile(r"(?<![\w.:/%-])(?<!--mask )(?:\d+(?:\.\d+){3}|[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*)(?:/[0-9.]+)?(?![\w.:/])")
_OTHER_PORT = re.compile(r"--(?:dport|destination-port|ports?)\S* (?!%s )")
_COMMENT = re.compile(r' --comment (?:"[^"]*"|[^" ]+)')
_OPTION = re.compile(r" (?:--([\w-]+)|-([a-zA-Z])(?= ))")
_OWN_OPTIONS = frozenset(
    # Letters: those of iptables itself. Words: of comment, mark, statistic, recent, nfacct, addrtype, conntrack, and targets.
    ("A", "s", "d", "p", "m", "j", "g", "i", "o", "comment", "dport", "mark", "mode", "probability", "every", "packet", "name",
     "mask", "rsource", "set", "rcheck", "update", "remove", "seconds", "reap", "nfacct-name", "src-type", "dst-type", "ctstate",
     "state", "to-destination", "persistent", "set-xmark", "or-mark", "xor-mark", "random-fully")
)  # fmt: skip
"""Options by which a Service's own rules cannot tell it from another whose rules look the same: what is the Service's own has
a placeholder, and all else is the same for both. Any other, such as `--ctorigdstport`, may ask for what only one of them has."""
_MOST_OUTER = 4
_MOST_MODELS = 8


@dataclass(slots=True)
class Template:
    """The rules of a Service that was walked, with placeholders for its own names, addresses and ports."""

    text: str
    pick: itemgetter[object]
    """Takes the values in the order in which the placeholders stand."""
    count: int
    """How many values there are."""
    owner: str = ""
    """The Service that was walked."""

    def fits(self, cone: Cone) -> bool:
        """Whether these rules, with this Service's names and addresses, are the Service's own."""
        return len(cone.values) == self.count and self.text % self.pick(cone.values) == cone.text


class Cone(NamedTuple):
    """The rules that belong to one Service port, and what stands in them."""

    text: str
    values: tuple[str, ...]
    """Its names and addresses, each once; the ports that are dialled come last."""
    ports: int
    """How many of the values are ports."""
    ips: Sequence[str]
    destinations: Sequence[str]
    """The endpoints' addresses, and addresses with port, in the order of the rules."""
    more: object = ()
    """What else of the node's rules is about it: how many rules that catch everything stand before each entry, for one."""
    chains: Sequence[str] = ()
    """Its chains."""


class Ask(NamedTuple):
    """A Service port as the API has it."""

    addresses: tuple[str, ...]
    """The cluster IP, then the external ones."""
    kinds: tuple[str, ...]
    """What each of these is, so that only Services of the same build are compared."""
    proto: str
    port: int
    node_port: int
    names: str
    """`namespace/name:port` as comments spell it."""
    endpoints: int
    """How many there are."""
    affinity: int | None
    local: frozenset[str] = frozenset()
    """The endpoints, as address and port, that run on the node; noted only where that makes a difference."""


class Models:
    """Templates of Services that were walked and found right, by what else two Services must have in common."""

    def __init__(self, make: Callable[[Cone], Template | None]) -> None:
        self._make = make
        self._templates: dict[object, list[Template]] = {}

    @staticmethod
    def _key(key: object, cone: Cone) -> object:
        # A large cluster's rules have comments or not, by when they were written; that need not be tried.
        return key, len(cone.values), cone.text.count(" --comment ")

    def of(self, key: object, cone: Cone) -> str | None:
        """The model with this key that has the same rules, by its Service; None when there is none."""
        return next((template.owner for template in self._templates.get(self._key(key, cone), ()) if template.fits(cone)), None)

    def learn(self, key: object, cone: Cone, owner: str) -> None:
        """Take a port of a Service that was walked and found right as a model."""
        templates = self._templates.setdefault(self._key(key, cone), [])
        if any(template.fits(cone) for template in templates):
            return  # another port of the same Service has taught it
        if len(templates) < _MOST_MODELS and (template := self._make(cone)) is not None:
            template.owner = owner
            templates.append(template)


def cells_of(cells: Cells, cone: Cone, ask: Ask) -> object | None:
    """In which cells the addresses and ports of a Service port lie; None when one of them is pinned."""
    asked = tuple([cells.cell_of(address) for address in ask.addresses])
    ips = cells.cells_of(cone.ips)
    numbers = [destination[destination.rfind(":") + 1 :] for destination in cone.destinations]
    # Nearly always all are sent to one port; where they are not, which is sent where is in the order of the endpoints.
    ports = tuple([cells.port_cell_of(number_) for number_ in (numbers if len(set(numbers)) > 1 else numbers[:1])])
    dialled = (cells.port_cell_of(str(ask.port)), cells.port_cell_of(str(ask.node_port)) if ask.node_port else ())
    if None in asked or ips is None or None in ports or None in dialled:
        return None
    return asked, ips, ports, dialled


class Entries:
    """The rules that lead to Services' chains, by the address or the node port that they ask for."""

    def __init__(self, nat: Chains) -> None:
        self.addresses: dict[str, list[tuple[int, str]]] = {}
        """Address -> (how many rules that catch everything stand before it, rule) in their order."""
        self.ports: dict[int, list[tuple[int, str]]] = {}
        self.catch_all: list[str] = []
        self.catch_all_ports: list[str] = []
        for rule in nat.get("KUBE-SERVICES", ()):
            found = PINNED.match(rule)
            if found:
                self.addresses.setdefault(found[1], []).append((len(self.catch_all), rule))
            else:
                self.catch_all.append(rule)
        for rule in nat.get("KUBE-NODEPORTS", ()):
            found = _ENTRY_PORT.match(rule)
            if found:
                self.ports.setdefault(int(found[2]), []).append((len(self.catch_all_ports), rule))
            else:
                self.catch_all_ports.append(rule)

    def differing(self, other: Entries) -> tuple[set[str], set[int]] | None:
        """Addresses and node ports whose rules are others there, or stand elsewhere among those that catch everything.

        None where the latter differ themselves. In which order two stand that ask for different ones makes no difference.
        """
        if self.catch_all != other.catch_all or self.catch_all_ports != other.catch_all_ports:
            return None
        mine, theirs = self.addresses, other.addresses
        addresses = {a for a in {*mine, *theirs} if _apart(mine.get(a, [])) != _apart(theirs.get(a, []))}
        ports = {p for p in {*self.ports, *other.ports} if self.ports.get(p) != other.ports.get(p)}
        return addresses, ports


def _apart(entries: list[tuple[int, str]]) -> object:
    """The entries of one address by what they ask for besides, each in its order; as they are where that is not plain."""
    if len(entries) < 2:
        return entries
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for entry in entries:
        asked = _ENTRY_PORT.match(entry[1])
        if not asked:
            return entries
        found.setdefault((asked[1], asked[2]), []).append(entry)
    return found


class Twins:
    """The Services of one node and family that need no walk of their own."""

    def __init__(
        self, rules: IptablesRules, *, cells: Sequence[Ranges], local: Ranges, others: Sequence[IptablesRules] = ()
    ) -> None:
        """`others`: the rules of the other backend, which packets pass too."""
        self._width = "/128" if rules.family == 6 else "/32"
        self._v6 = rules.family == 6
        nat = rules.tables["nat"].chains if "nat" in rules.tables else Chains({})
        self._texts: Mapping[str, str] = nat.texts
        self.cells = Cells((*cells, local))
        self.models = Models(partial(_template, self.cells))
        self.entries = Entries(nat)
        self.at_node = False
        """Whether an address of the node itself has an entry, before those of the node ports."""
        try:
            rest = all(self._read_other(other, local) for other in others)
            self.usable = "KUBE-SERVICES" in nat and rest and self._read_rest(rules, local) and self.cells.few
        except (IndexError, ValueError):
            self.usable = False  # a rule that iptables would not print: whoever walks it says so

    def _read_rest(self, rules: IptablesRules, local: Ranges) -> bool:
        """Collect what other rules ask for; False when one asks for something that this cannot weigh."""
        for table in rules.tables.values():
            for chain in table.chains:
                if chain.startswith(OWN):
                    continue
                if table.name == "nat" and chain == "KUBE-SERVICES":
                    if not self._read_entries(local):
                        return False
                    continue
                by_port = table.name == "nat" and chain == "KUBE-NODEPORTS"
                for rule in table.chains[chain]:
                    if by_port and _ENTRY_PORT.match(rule):
                        # Its port is its own; a network that it asks for besides divides as any other does.
                        if (nets := _NETWORK.match(rule)) and not self.cells.note_network(nets[1]):
                            return False
                        continue
                    if not self._read_outer(rule, local):
                        return False
        return True

    def _read_other(self, rules: IptablesRules, local: Ranges) -> bool:
        """The same of the other backend, where no rule is a Service's own."""
        chains = (chain for table in rules.tables.values() for chain in table.chains.values())
        return all(self._read_outer(rule, local) for chain in chains for rule in chain)

    def _read_outer(self, rule: str, local: Ranges) -> bool:
        """Collect what one rule that is no Service's asks for; False when that cannot be weighed."""
        found = PINNED.match(rule)
        if found:
            address = number(found[1])
            self.cells.pinned.add(address)
            if not contains(local, address):
                return True
            # Node ports are dialled there: which of them it is about counts.
        return self.cells.weigh(rule) and not _INTO_OWN.search(rule)

    def _read_entries(self, local: Ranges) -> bool:
        """The same of the rules that lead to Services: each is about one address, or about all."""
        rules = list(self.entries.catch_all)
        for address, its in self.entries.addresses.items():
            if contains(local, number(address)):
                # Node ports are dialled there: which of them it is about counts.
                self.at_node = True
                rules += [rule for _, rule in its]
        return not any(not self.cells.weigh(rule) or _INTO_OWN.search(rule) for rule in rules)

    # ---- one Service port ---------------------------------------------------------------------------------------------

    def cone(self, ask: Ask) -> Cone | None:
        """The rules of one Service port; None when they do not have the usual build."""
        count = ask.endpoints
        chain = outer = None
        parts: list[str] = []
        positions: list[int] = []
        for number_, address in enumerate(ask.addresses):
            target = self._entry(self.entries.addresses.get(address, ()), ask.proto, ask.port, parts, positions)
            if target is None:
                return None
            if number_ == 0:
                chain = target
            elif outer is None or outer == target:
                outer = target
            else:
                return None
        if ask.node_port:
            if self.at_node:
                return None
            entries = self.entries.ports.get(ask.node_port, ())
            target = self._entry(entries, ask.proto, ask.node_port, parts, positions)
            if target is None or (outer is not None and target != outer):
                return None
            outer = target
        if chain is None or not chain.startswith("KUBE-SVC-"):
            return None
        texts = self._texts
        if outer is not None:
            # What the template holds of it: KUBE-EXT-… marks, and leads to the Service's chain and nowhere else.
            rules = texts.get(outer)
            if rules is None or not outer.startswith("KUBE-EXT-") or rules.count("\n") > _MOST_OUTER:
                return None
            parts.append(rules)
        rules = texts.get(chain)
        if rules is None:
            return None
        parts.append(rules)
        lines = rules.split("\n")
        ends = [line[line.rfind(" ") + 1 :] for line in lines[-count - 1 : -1]]
        if len(ends) != count or len(set(ends)) != count:
            return None
        endpoints = "".join([texts.get(end, "") for end in ends if end.startswith("KUBE-SEP-")])
        parts.append(endpoints)
        sent = endpoints.split(" --to-destination ")
        if len(sent) != count + 1 or endpoints.count("\n") != 2 * count:
            return None
        del sent[0]
        destinations = [rest[: rest.find("\n")] for rest in sent]
        if len(set(destinations)) != count:
            return None
        if self._v6:
            ips = [where[1 : where.find("]")] for where in destinations]
        else:
            ips = [where[: where.find(":")] for where in destinations]
        ports = [str(ask.port)] + ([str(ask.node_port)] if ask.node_port else [])
        values = (*ask.addresses, chain, ask.names, *([outer] if outer else ()), *ends, *ips, *destinations, *ports)
        chains = [chain, outer, *ends] if outer else [chain, *ends]
        return Cone("".join(parts), values, len(ports), ips, destinations, tuple(positions), chains)

    @staticmethod
    def _entry(
        entries: Sequence[tuple[int, str]], proto: str, port: int, parts: list[str], positions: list[int]
    ) -> str | None:
        """The chain that the entry rules for one address and port lead to; their lines go to `parts`."""
        chain = None
        for before, rule in entries:
            found = _PLAIN_ENTRY.match(rule) or _ENTRY_PORT.match(rule)
            if not found:
                return None
            if found[1] != proto or int(found[2]) != port:
                continue  # another port of the same address: it asks for that, so it never catches these packets
            parts.append(rule + "\n")
            positions.append(before)  # of the mark too: what catches everything may stand between the two
            if found[3] == "KUBE-MARK-MASQ":
                continue
            if chain is not None and found[3] != chain:
                return None
            chain = found[3]
        return chain

    def key(self, cone: Cone, ask: Ask) -> object | None:
        """What two Services must have in common beside their template; None when the Service is one of a kind."""
        cells = cells_of(self.cells, cone, ask) if self.usable else None
        if cells is None:
            return None
        here = tuple([where in ask.local for where in cone.destinations]) if ask.local else ()
        return (ask.proto, ask.kinds, ask.affinity, cone.more, here, cells)


def _template(cells: Cells, cone: Cone) -> Template | None:
    """The cone with placeholders for its own values; None when that does not give the cone back."""
    index = {}
    for position, value in enumerate(cone.values):
        if value in index or not value:
            return None  # a name, an address or a port that is also another of them cannot be told apart in the text
        index[value] = position
    ports = cone.values[len(cone.values) - cone.ports :]
    words = sorted((v for v in index if v not in ports), key=len, reverse=True)
    named = "|".join(re.escape(word) for word in words)
    dialled = "|".join(re.escape(port) for port in ports)
    pattern = re.compile(rf"(?<![\w.:/-])(?:{named})(?![\w.:-])|(?<=--dport )(?:{dialled})(?= )")
    order: list[int] = []

    def replace(found: re.Match[str]) -> str:
        order.append(index[found[0]])
        return "%s"

    text = pattern.sub(replace, cone.text.replace("%", "%%"))
    if len(order) < 2 or _OWN_NAME.search(text):
        return None  # rules that lead on to another Service's chains: what stands there is not part of the template
    if not _weighed(text, cells):
        return None
    template = Template(text=text, pick=itemgetter(*order), count=len(cone.values))
    return template if template.text % template.pick(cone.values) == cone.text else None


def _weighed(text: str, cells: Cells) -> bool:
    """Whether what the rules ask of addresses and ports, beside those of their own Service, is what all rules were weighed by.

    Else it might be about another Service whose rules look the same.
    """
    if any((word or letter) not in _OWN_OPTIONS for word, letter in _OPTION.findall(_COMMENT.sub("", text))):
        return False
    try:
        return _OTHER_PORT.search(text) is None and all(cells.divides(network(where)) for where in _ADDRESS.findall(text))
    except ValueError:
        return False  # what looks like an address and is none
