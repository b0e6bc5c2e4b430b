"""Where the print of a rule set and a captured one differ: nothing, when generator and kube-proxy agree."""

from __future__ import annotations

from collections import Counter

UNORDERED = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL")
"""kube-proxy writes these in the order of a hash map."""


def read(text: str) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains[f"{table} {line[1:].split()[0]}"] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains[f"{table} {chain}"].append(rule)
    return chains


def differences(made: str, real: str) -> list[str]:
    ours, theirs = read(made), read(real)
    out = [f"not made: {c}" for c in theirs.keys() - ours.keys()] + [f"made: {c}" for c in ours.keys() - theirs.keys()]
    for chain in sorted(ours.keys() & theirs.keys()):
        a, b = ours[chain], theirs[chain]
        same = Counter(a) == Counter(b) if chain.split()[1] in UNORDERED else a == b
        if not same:
            out += [f"{chain} - {r}" for r in (Counter(b) - Counter(a))] + [f"{chain} + {r}" for r in (Counter(a) - Counter(b))]
            if Counter(a) == Counter(b):
                out.append(f"{chain}: order {a} {b}")
    return out
