"""Where the print of a rule set and a captured one differ: nothing, when generator and kube-proxy agree."""

from __future__ import annotations

import json
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


def _read_nft(text: str) -> dict[str, list[str]]:
    """Everything in `nft -j`'s print but handles: sets with their elements in no order, chains with their rules in order."""
    found: dict[str, list[str]] = {}
    for item in json.loads(text)["nftables"]:
        kind, body = next(iter(item.items()))
        body = {k: v for k, v in body.items() if k != "handle"} if isinstance(body, dict) else body
        if kind in ("set", "map"):
            elements = sorted(json.dumps(e, sort_keys=True) for e in body.pop("elem", []))
            found[f"{body['family']} {kind} {body['name']}"] = [json.dumps(body, sort_keys=True), *elements]
        elif kind == "chain":
            found[f"{body['family']} chain {body['name']}"] = [json.dumps(body, sort_keys=True)]
        elif kind == "rule":
            found[f"{body['family']} chain {body['chain']}"].append(json.dumps(body, sort_keys=True))
    return found


def nft_differences(made: str, real: str) -> list[str]:
    ours, theirs = _read_nft(made), _read_nft(real)
    out = [f"not made: {c}" for c in theirs.keys() - ours.keys()] + [f"made: {c}" for c in ours.keys() - theirs.keys()]
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if a != b:
            out += [f"{name} - {r}" for r in b if r not in a] + [f"{name} + {r}" for r in a if r not in b]
            if sorted(a) == sorted(b):
                out.append(f"{name}: order")
    return out
