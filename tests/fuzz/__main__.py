"""Fuzzing guided by coverage: `python -m tests.fuzz TARGET [--minutes N]`, with atheris (`pip install atheris`).

Begins from real texts; what it finds is printed with the text that did it, and kept in `fuzz-TARGET/`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path


def main() -> int:
    from .targets import BY_NAME

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=sorted(BY_NAME))
    parser.add_argument("--list", action="store_true", help="what there is to fuzz")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.list or options.target is None:
        print("\n".join(BY_NAME))
        return 0
    try:
        import atheris  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("atheris is not installed here: pip install atheris", file=sys.stderr)
        return 2
    for name, module in list(sys.modules.items()):
        if name.startswith("kubectl_svcroute.") and "data" not in name:
            for one in list(vars(module).values()):
                if getattr(one, "__module__", "") != name or not hasattr(one, "__code__"):
                    continue
                try:
                    atheris.instrument_func(one)
                except (RuntimeError, TypeError, ValueError):
                    continue
    target = BY_NAME[options.target]

    def once(data: bytes) -> None:
        with contextlib.suppress(*target.errors):
            target.read(data.decode("utf-8", "replace"))

    folder = Path(f"fuzz-{target.name}")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate(target.samples()):
            (Path(corpus) / str(number)).write_text(text)
        arguments = [
            sys.argv[0], corpus, f"-max_total_time={int(60 * options.minutes)}", f"-seed={options.seed}", "-timeout=60",
            f"-artifact_prefix={folder}/", "-max_len=200000", "-print_final_stats=1", "-rss_limit_mb=4000",
        ]  # fmt: skip
        atheris.Setup(arguments, once)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
