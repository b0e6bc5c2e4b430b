"""Read a node's iptables rules: those of kube-proxy in iptables mode, and those beside it in every mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..checks import frame_iptables
from ..checks.landmarks import IPTABLES
from ..checks.observation import Observation
from ..errors import ParseError
from ..model.fast_dataclass import replace
from ..model.node_tools import parse_tools
from ..model.ruleset import IptablesRules
from ..parse.iptables_delta import Known
from ..parse.iptables_save import parse_iptables_save
from .files import IPTABLES_SAVE, OTHER_BACKENDS, iptables_files, said_empty, why_absent
from .subject import Subject

if TYPE_CHECKING:
    from ..model.nft import TableKey

Changed = frozenset[tuple[str, str]]
"""(table, chain) of every chain that is not as on the first node."""


class IptablesReader:
    """Reads the iptables rules of one node."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.changed: dict[int, Changed] = {}
        """Family -> what is not as on the first node; absent where that is not known."""
        self.tools = parse_tools(subject.dump.files.get("tools.txt", ""))
        self.printed: dict[int, set[TableKey]] = {}
        """Family -> the nftables tables that iptables-nft has printed, to be walked once. A legacy dump prints none of them."""
        self.complete = True
        """Nothing that the kernel may hold of the family's iptables rules was left out."""

    def every(self, family: int, *, asked: bool) -> list[IptablesRules]:
        """The rules of all backends, one each, that of the node's own iptables first; see also `_unread`.

        `asked`: the family matters. If not, the files are read all the same: one that is there was read whole, or something
        went wrong.
        """
        dump, ledger = self.subject.dump, self.subject.ledger
        self.complete = True
        found: list[IptablesRules] = []
        for file in iptables_files(family):
            if file not in dump.files:
                continue
            try:
                rules = self._parse(file, family)
            except ParseError as error:
                ledger.cannot("SR902", f"{file}: {error}")
                self.complete = False
                return []
            if not rules.backend:
                rules = replace(rules, backend=self._backend(rules))
            same = [other for other in found if _same_backend(other, rules)]
            if not same:
                found.append(rules)
        self.printed[family] = {
            ("ip" if family == 4 else "ip6", name) for rules in found if rules.backend != "legacy" for name in rules.tables
        }
        for file, why in self._unread(family, found) if asked else ():
            ledger.cannot("SR902", f"{file} was not read ({why}), and packets to Services pass its rules too")
            self.complete = False
        return found

    def _backend(self, rules: IptablesRules) -> str:
        """The backend of rules whose program does not name it (1.8.0 to 1.8.7), by what else is known of the node."""
        named = self.tools.backend.get(rules.family, "")
        if named or rules.legacy_too:
            return named or "nft"  # iptables-nft alone warns of the other
        text = self.subject.dump.files.get("nft-tables.json")
        if text is None:
            return ""
        from ..parse.nft_other_tables import has_iptables_tables  # noqa: PLC0415 - few snapshots have such a file

        try:
            return "nft" if has_iptables_tables(text, rules) else "legacy"
        except ParseError:
            return ""  # said where the file is asked for

    def _unread(self, family: int, found: Sequence[IptablesRules]) -> Iterator[tuple[str, str]]:
        """(file, why) of every backend that the kernel may hold rules of, and that was not read."""
        tools, own = self.tools, IPTABLES_SAVE[family]
        legacy, nft = OTHER_BACKENDS[family]
        read = {rules.backend for rules in found}
        # Without a program of their own, nodes can still show that there is nothing to print.
        known = all(file in tools.empty or file in self.subject.dump.files for file in (legacy, nft))
        if own in tools.not_read and (found or self.subject.behaviour.nftables) and not known:
            yield own, tools.not_read[own]
        if "legacy" not in read:
            warned = any(rules.legacy_too for rules in found)
            if legacy in tools.not_read:
                yield legacy, tools.not_read[legacy]
            elif legacy not in tools.empty and (warned or tools.legacy_tables.get(family)):
                yield legacy, "the kernel holds legacy tables"
        if "nft" not in read and nft in tools.not_read:
            yield nft, tools.not_read[nft]

    def of_proxy(self, family: int) -> list[IptablesRules]:
        """What the kernel runs, the backend with kube-proxy's rules first; empty, with the reason in the ledger, if unknown."""
        dump, ledger = self.subject.dump, self.subject.ledger
        found = self.every(family, asked=True)
        if found and not self.complete and not any(map(frame_iptables.programmed, found)):
            return []  # kube-proxy's rules may be where nobody could look
        own = IPTABLES_SAVE[family]
        if not found and not self.complete:
            return []
        if said_empty(dump, own) and not any(map(frame_iptables.programmed, found)):
            # The kernel holds no rules of kube-proxy's at all: that is known, and every Service says so.
            return [IptablesRules(family=family, tables={}, source=own), *(rules for rules in found if not rules.idle)]
        if not found:
            name = "iptables-save" if family == 4 else "ip6tables-save"
            why = why_absent(dump, own) or f"{name} was not read"
            ledger.cannot("SR902", f"{own} is not there ({why}), and the Services have IPv{family} addresses")
            return []
        first, *others = sorted(found, key=lambda rules: not frame_iptables.programmed(rules))
        # A backend whose chains do nothing is as one that is not there.
        found = [first, *(rules for rules in others if not rules.idle)]
        if first.source != own:
            self.changed.pop(family, None)  # that was said of the file that the first node's is
        for table in ["nat", "filter"] + (["mangle"] if self.subject.config.version >= (1, 16) else []):
            if table not in first.tables:
                ledger.cannot("SR902", f"{first.source}: table {table} is not in it, and kube-proxy always has it")
                return []
        if len(found) > 1 and frame_iptables.programmed(found[1]):
            ledger.observations.append(
                Observation(
                    code="SR502",
                    node_wide=True,
                    service=None,
                    key=str(family),
                    message=f"Service chains stand in {first.source} and in {found[1].source}: one of the two is a leftover",
                    evidence=tuple(frame_iptables.programmed_sample(rules) for rules in found),
                    place="leftover",
                )
            )
            # Which of the two NAT tables comes first depends on which was registered first, and no dump tells.
            return [first]
        return found

    def _parse(self, file: str, family: int) -> IptablesRules:
        """The rules in a file: by what differs from the first node's, where that can be told. Raises ParseError."""
        context = self.subject.context
        text = self.subject.dump.files[file]
        if file != IPTABLES_SAVE[family] or not context.worth_comparing:
            return parse_iptables_save(text, family=family, source=file)
        known = context.memory.texts.get(file)
        again = known.read(text, source=file) if known is not None else None
        if again is not None:
            self.changed[family] = again.changed
            return again.rules
        rules = parse_iptables_save(text, family=family, source=file)
        if known is None and not context.alone:
            context.memory.texts[file] = Known(text, rules)
            self.changed[family] = frozenset()
        return rules


def _same_backend(one: IptablesRules, other: IptablesRules) -> bool:
    """True if both are the rules of one backend, printed under two names."""
    if one.backend and other.backend:
        return one.backend == other.backend
    return one.tables == other.tables


def other_chains(sources: Iterable[IptablesRules]) -> frozenset[str]:
    """The names of the chains of some iptables rules that are not kube-proxy's."""
    names = (name for rules in sources for table in rules.tables.values() for name in table.chains)
    return frozenset(name for name in names if not IPTABLES.of_proxy("", name))
