#!/usr/bin/env python3
"""Judge a test run by its JUnit file: say what ran, and refuse skips where nothing had to be skipped.

A test that needs root, namespaces or sshd skips itself where there is none, and says why. That is right on a laptop and
a hole in CI: so on a machine that can run everything (root on Linux, with network namespaces), a skip fails the run
unless its reason stands in `ALLOWED`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

ALLOWED = (
    # reason (a regular expression), and why a machine that can run everything may still lack it
    ("this machine has a sudo of its own", "the test puts a sudo on the PATH; hosted CI runners have one"),
    ("not in this family or backend", "a case of one family or backend, among parameters of all"),
    ("mermaid is not installed", "it comes from npm's registry, which not every machine can reach"),
    ("this kubectl is older than 1.26", "Debian 12's kubernetes-client is of 1.20, which asks no plugin for completions"),
    ("a folder that only root may read", "the clone or its Python is below root's home: another user cannot start the program"),
    ("the kernel lacks a table", "kernels from 6.17 on can be built without ip_tables' legacy tables"),
)


def able() -> str:
    """Why this machine cannot run everything; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode:
        return "no network namespaces"
    return ""


def main(path: Path) -> int:
    """Print what ran; returns 1 when the run has a hole."""
    if not path.is_file():
        print(f"{path}: the tests left no record of what ran", file=sys.stderr)
        return 1
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - our own pytest wrote it
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            counts["passed"] += 1
        elif outcome.get("type") == "pytest.xfail":
            counts["expected to fail"] += 1
        elif outcome.tag == "skipped":
            counts["skipped"] += 1
            skipped[outcome.get("message") or (outcome.text or "").strip()] += 1
        else:
            counts["failed"] += 1
    print("tests: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count}: {reason}")
    if counts["failed"] or not counts["passed"]:
        return 1
    refused = [reason for reason in skipped if not any(re.search(allowed, reason) for allowed, _ in ALLOWED)]
    why_not = able()
    if refused and why_not:
        print(f"(this machine cannot run everything: {why_not})")
    elif refused:
        print("error: this machine can run everything, and these were skipped:", file=sys.stderr)
        for reason in refused:
            print(f"  {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
