"""A long run of changed rule sets: `python -m tests.kernel.long --count 2000 --seed 1`, as root.

Prints every disagreement with its seed, and the figures at the end. Seed N of capture C is always the same rule set.
"""

from __future__ import annotations

import argparse
import sys
import time

from .judge import Figures
from .lab import missing
from .trial import Auditor, benches, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="rule sets to try, over all captures")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--only", action="append", default=[], metavar="CAPTURE")
    parser.add_argument("--family", type=int, choices=(4, 6))
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--no-audit", dest="audit", action="store_false", help="walker against kernel only")
    parser.add_argument("--nftables", action="store_true", help="nftables captures instead of iptables ones")
    parser.add_argument("--crowds", action="store_true", help="captures grown by many Services that are alike")
    parser.add_argument("--backends", action="store_true", help="iptables: each capture in both backends, not only its own")
    parser.add_argument("--thorough", action="store_true", help="hold the audit's short cuts to the audit that walks everything")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    options = parser.parse_args()
    if why := missing():
        print(f"cannot run: {why}", file=sys.stderr)
        return 2
    figures = Figures()
    auditors: dict[int, Auditor] = {}
    started = time.monotonic()
    backends = ("legacy", "nft") if options.backends and not options.nftables else ()
    found = benches(figures, only=options.only, nftables=options.nftables, crowds=options.crowds, backends=backends)
    found = [b for b in found if options.family in (None, b.case.family)]
    try:
        for step in range(options.count):
            if time.monotonic() - started > 60 * options.minutes:
                break
            bench = found[step % len(found)]
            trial = bench.trial(options.seed + step // len(found), questions=options.questions)
            if trial.disagreements or trial.apart:
                print(trial, flush=True)
            if options.audit and not trial.refused:
                if id(bench) not in auditors:
                    auditors[id(bench)] = Auditor(bench.case, thorough=options.thorough)
                if what := verdict(bench, trial, auditors[id(bench)]):
                    print("\n  ".join([trial.name, *trial.edits, what]), flush=True)
    finally:
        for bench in found:
            bench.close()
    print(f"{figures}, {time.monotonic() - started:.0f} s")
    for reason, count in figures.reasons.most_common(12):
        print(f"  unverified {count}: {reason}")
    print(f"  errors without a change: {dict(figures.codes)}")
    print(f"  a change, and no error: {dict(figures.mild)}")
    print(f"  benches: {', '.join(bench.name for bench in found)}")
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
