"""Read a node's iptables rules: those of kube-proxy in iptables mode, and those beside it in every mode."""

from __future__ import annotations

from ..checks import frame_iptables
from ..checks.observation import Observation
from ..errors import ParseError
from ..model.ruleset import IptablesRules
from ..parse.iptables_delta import Known
from ..parse.iptables_save import parse_iptables_save
from .files import IPTABLES_SAVE, iptables_files, said_empty, why_absent
from .subject import Subject

Changed = frozenset[tuple[str, str]]
"""(table, chain) of every chain that is not as on the first node."""


class IptablesReader:
    """Reads the iptables rules of one node."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.changed: dict[int, Changed] = {}
        """Family -> what is not as on the first node; absent where that is not known."""

    def present(self, family: int) -> bool:
        """True if there is any file with rules of the family."""
        return any(file in self.subject.dump.files for file in iptables_files(family))

    def every(self, family: int) -> list[IptablesRules] | None:
        """The rules of all backends, one each; None, with the reason in the ledger, when one cannot be read."""
        found: list[IptablesRules] = []
        for file in iptables_files(family):
            if file not in self.subject.dump.files:
                continue
            try:
                rules = self._parse(file, family)
            except ParseError as error:
                self.subject.ledger.cannot("SR902", f"{file}: {error}")
                return None
            if found and rules.backend and rules.backend == found[0].backend:
                continue  # the same backend under its other name
            found.append(rules)
        return found

    def of_proxy(self, family: int) -> list[IptablesRules]:
        """What the kernel runs, the backend with kube-proxy's rules first; empty, with the reason in the ledger, if unknown."""
        dump, ledger = self.subject.dump, self.subject.ledger
        found = self.every(family)
        if found is None:
            return []
        own = IPTABLES_SAVE[family]
        if not found and said_empty(dump, own):
            # The kernel holds no rules at all: that is known, and every Service says so.
            return [IptablesRules(family=family, tables={}, source=own)]
        if not found:
            name = "iptables-save" if family == 4 else "ip6tables-save"
            why = why_absent(dump, own) or f"{name} was not read"
            ledger.cannot("SR902", f"{own} is not there ({why}), and the Services have IPv{family} addresses")
            return []
        found.sort(key=lambda rules: not frame_iptables.programmed(rules))
        first = found[0]
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
                    place="hook",
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
