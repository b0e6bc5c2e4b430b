#!/usr/bin/env python3
"""Put the program's real output into README.md, behind each `<!-- output: ARGUMENTS -->`. A test compares the two.

`<!-- output: ARGUMENTS | from: WORDS -->` begins with the line that begins with these words.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

_BLOCK = re.compile(
    r"(<!-- output: (?P<arguments>.+?) -->\n```console\n\$ .+?\n(?:…\n)?)(?P<output>.*?)(?P<end>```\n)", re.DOTALL
)
_PROGRAM = "import sys; sys.argv[0] = 'kubectl-svcroute'; from kubectl_svcroute.cli.main import main; main()"
"""As kubectl starts it, whatever is installed where."""


def output(arguments: str) -> tuple[str, int]:
    """(what the program prints on a page of 80 columns, its exit status)."""
    arguments, _, words = arguments.partition(" | from: ")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments.split()],
        capture_output=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=120,
        env={**kept, "COLUMNS": "80", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    shown = done.stdout.decode("utf-8")
    return shown[shown.index(f"\n{words}") + 1 :] if words else shown, done.returncode


def blocks(text: str) -> list[tuple[str, str]]:
    """(arguments, output that the text shows) of each block."""
    return [(found["arguments"], found["output"]) for found in _BLOCK.finditer(text)]


def renewed(text: str) -> str:
    """The text with what the program prints now."""
    return _BLOCK.sub(lambda found: found[1] + output(found["arguments"])[0] + found["end"], text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(README.relative_to(ROOT))
