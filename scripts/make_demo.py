#!/usr/bin/env python3
"""Make kubectl_svcroute/data/demo.tar.gz, the cluster that `kubectl svcroute demo` looks at.

It is one of the captures that the tests run on, with one fault put in, kept as `snapshot save` keeps a cluster: five
nodes, the five pods of `kuard` beside some twenty other Services, and one rule gone from one node. Run it again when the
capture or the snapshot's format changes; a test compares the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CAPTURE, FAULT = "v1.36-iptables-nft", "missing-endpoint"
DEMO = ROOT / "kubectl_svcroute" / "data" / "demo.tar.gz"
LIMIT = 400_000
"""Bytes. It is part of every wheel and archive."""


def make(path: Path) -> int:
    """Write the demo snapshot; returns its size."""
    from captured import faulty  # noqa: PLC0415 - the path is set above

    from kubectl_svcroute.collect.archive import load_snapshot  # noqa: PLC0415
    from kubectl_svcroute.collect.saving import save_snapshot  # noqa: PLC0415

    snapshot = load_snapshot(faulty(CAPTURE, FAULT))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_snapshot(snapshot, path, facts={"origin": "demo", "capture": CAPTURE, "fault": FAULT})
    # Snapshots are their owner's alone; this one is everybody's, and packaging tools keep modes.
    path.chmod(0o644)
    return path.stat().st_size


def main() -> int:
    """Make it, and say how large it became."""
    size = make(DEMO)
    print(f"{DEMO.relative_to(ROOT)}: {size} bytes")
    if size > LIMIT:
        print(f"more than {LIMIT} bytes: too large to ship", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
