"""Rules that change an affinity list from elsewhere than the chain of the endpoint whose clients it remembers.

A walk sees what one Service's rules remember of a client. It does not see that another Service's rules, or those of another
program, enter the same client in the list, or remove it: the client is then sent to an endpoint that it never had, or away
from the one that it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from ..model.lazy_regex import pattern
from ..model.ruleset import IptablesRules
from .frame_iptables import target_of
from .observation import Observation

_COMMENT = pattern(r' --comment (?:"(?:[^"\\]|\\.)*"|[^" ]+)')
_RECENT = pattern(r" -m recent (?:! )?--(rcheck|update|set|remove)\b.*? --name (\S+)")
_USES = {"set": "enters clients in", "remove": "removes clients from"}


def of_iptables(sources: Iterable[IptablesRules], owners_of: Callable[[], Mapping[str, str]]) -> Iterator[Observation]:
    """What changes the lists of `recent` matches, which all backends share.

    `owners_of`: chain -> Service, called only when something is found.
    """
    readers: dict[str, dict[str, str]] = defaultdict(dict)
    writers: list[tuple[str, str, str, str, str]] = []
    for table in (table for rules in sources for table in rules.tables.values()):
        for chain, text in table.chains.texts.items():
            if " -m recent " not in text:
                continue
            for rule in table.chains[chain]:
                for action, name in _RECENT.findall(_COMMENT.sub("", rule)):
                    if action in _USES:
                        writers.append((name, action, table.name, chain, rule))
                    elif table.name == "nat" and (target := target_of(rule)).startswith("KUBE-SEP-"):
                        readers[name][target] = chain
    owners: Mapping[str, str] | None = None
    for name, action, where, chain, rule in writers:
        if name not in readers or (action == "set" and where == "nat" and chain in readers[name]):
            continue
        owners = owners_of() if owners is None else owners
        for endpoint, reader in readers[name].items():
            if (service := owners.get(reader)) is not None:
                says = f"chain {chain} of table {where} {_USES[action]} the affinity list of {endpoint}"
                yield observation(service, says, rule)


def observation(service: str, says: str, rule: str) -> Observation:
    """The finding about one rule; `says`: what it does."""
    return Observation(
        code="SR404", node_wide=False, service=service,
        message=f"{says}: clients do not stay on the endpoint that they have had", evidence=(rule,), place="service",
    )  # fmt: skip
