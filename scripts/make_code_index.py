#!/usr/bin/env python3
"""Make docs/codes/README.md, the index of finding codes, from the registry. A test compares the two."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

INDEX = ROOT / "docs" / "codes" / "README.md"
PAGES = "../../kubectl_svcroute/data/codes"
_FAMILIES = {
    "1": "SR1xx: the way in",
    "2": "SR2xx: backends",
    "3": "SR3xx: marks and masquerade",
    "4": "SR4xx: policy",
    "5": "SR5xx: leftovers and conflicts",
    "6": "SR6xx: the node",
    "7": "SR7xx: what a probe saw",
    "9": "SR9xx: not verified",
}
_HEAD = """\
# Finding codes

Made from `kubectl_svcroute/checks/registry.py` by `make generated`; do not edit.

A code is given at birth and never used again for anything else. `kubectl svcroute explain CODE` shows its page on the
command line. On the pages, words in CAPITALS stand for your own names; the names of chains (`KUBE-SVC-HASH`) are in a
finding's evidence. All commands there only read, but for what stands under *What to do*; those that begin with `iptables`,
`nft`, `conntrack` or `sysctl` want root on the node.

An **error** means that traffic goes wrong, a **warning** that it will or that a setting is unsafe, **info** is worth knowing.
What is *not verified* (SR9xx) is no finding: it has an exit status of its own (3).
"""


def index() -> str:
    """The text of the index."""
    from kubectl_svcroute.checks.registry import CODES  # noqa: PLC0415 - the path is set above

    lines = [_HEAD]
    for digit, heading in _FAMILIES.items():
        codes = [code for code in CODES.values() if code.code[2] == digit]
        if not codes:
            continue
        lines += [
            f"## {heading}\n",
            "| code | name | severity | what it means | what traffic feels |",
            "| --- | --- | --- | --- | --- |",
        ]
        for code in codes:
            severity = "not verified" if digit == "9" else code.severity.value
            lines.append(f"| [{code.code}]({PAGES}/{code.code}.md) | {code.name} | {severity} | {code.title} | {code.effect} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    INDEX.parent.mkdir(parents=True, exist_ok=True)
    INDEX.write_text(index(), encoding="utf-8")
    print(INDEX.relative_to(ROOT))
