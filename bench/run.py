"""The benchmarks: each figure is a ratio of two things measured in turn within one run, never a time.

    make bench                                  the whole table, and build/bench/result.json
    .venv/bin/python bench/run.py nft further   only the rows with these words in their names

The input is the captured cluster of 5,000 Services where it is at hand (`--captures`, else ../shared/captures), and one that
`tests/many.py` makes where it is not. What one row of the table means stands beside it in `ROWS`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import many  # noqa: E402 - it is in tests/
from captured import unpack  # noqa: E402

from kubectl_svcroute.cli.completion import NAME as COMPLETER  # noqa: E402
from kubectl_svcroute.cli.completion import SHIM  # noqa: E402
from kubectl_svcroute.run.demo import DEMO  # noqa: E402

PROGRAM = Path(sys.executable).with_name("kubectl-svcroute")
PYTHON = sys.executable
NAMES = {"iptables": "v1.36-iptables-5000x10", "nftables": "v1.36-nftables-5000x10"}


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""An installed program has its bytecode, and so has the one that is measured here from its second run on."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a command took."""

    wall: float
    cpu: float
    memory: int
    """Its largest resident set, in bytes."""


def run(command: Sequence[str], *, stdin: Path | None = None, fine: Sequence[int] = (0,)) -> Cost:
    """Run a command to its end. Raises RuntimeError where its exit status is none of those expected."""
    with open(stdin or os.devnull, "rb") as source, open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - as it is passed on
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=source, stdout=nowhere, stderr=subprocess.PIPE, env=ENVIRONMENT)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in fine:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}: {errors.decode()[-400:]}")
    return Cost(wall=wall, cpu=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss * 1024)


@dataclass(slots=True)
class Row:
    """One line of the table."""

    work: str
    against: str
    goal: float
    ratios: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def ratio(self) -> float:
        """The median of the pairs."""
        return median(self.ratios)


class Bench:
    """Where the input is, and how often each pair is measured."""

    def __init__(self, folder: Path, captures: Path, pairs: int, count: int) -> None:
        self.folder = folder
        self.captures = captures
        self.pairs = pairs
        self.count = count

    def of_another_node(self, text: str) -> str:
        """The ruleset of the second node of the nftables cluster, where it has one: other endpoints are its own."""
        nodes = sorted((self.cluster("nftables") / "nodes").iterdir())
        if len(nodes) < 2:
            return text
        found = shuffled_nft((nodes[1] / "nft-ruleset.json").read_text(encoding="utf-8"))
        listed = json.loads((self.cluster("nftables") / "api" / "nodes.json").read_text(encoding="utf-8"))["items"]
        by_name = {node["metadata"]["name"]: f'"{_address(node)}"' for node in listed}
        return found.replace(by_name[nodes[1].name], by_name[nodes[0].name])

    # ---- input ----------------------------------------------------------------------------------------------------------

    def cluster(self, mode: str) -> Path:
        """The large cluster of a mode: captured, else made."""
        name = NAMES[mode]
        folder = self.folder / name
        if not folder.is_dir():
            packed = self.captures / f"scale-{name}.tar.xz"
            packed = packed if packed.is_file() else self.captures / f"{name}.tar.xz"
            if packed.is_file():
                with tarfile.open(packed) as archive:
                    unpack(archive, self.folder)
            else:
                many.write(folder, mode=mode, count=self.count)
        return folder

    def nodes(self, mode: str, count: int, change: Callable[[str], str] | None = None, *, name: str = "") -> Path:
        """The large cluster with so many nodes, each with the files of the first; `change` edits those of all but the first."""
        source = self.cluster(mode)
        first = sorted((source / "nodes").iterdir())[0]
        target = self.folder / f"{mode}-{(name or 'same').replace(' ', '-')}-{count}"
        if target.is_dir():
            return target
        target.mkdir(parents=True)
        shutil.copytree(source / "api", target / "api", copy_function=os.link)
        listed = json.loads((source / "api" / "nodes.json").read_text(encoding="utf-8"))
        model = listed["items"][0]
        listed["items"] = [_node(model, first.name if n == 0 else f"further{n}", n) for n in range(count)]
        (target / "api" / "nodes.json").unlink()
        (target / "api" / "nodes.json").write_text(json.dumps(listed), encoding="utf-8")
        files = ("iptables-save.txt", "nft-ruleset.json")
        changed: dict[str, str] = {}
        own = f'"{_address(model)}"'
        for n in range(count):
            node = target / "nodes" / (first.name if n == 0 else f"further{n}")
            node.mkdir(parents=True)
            for file in first.iterdir():
                if n and file.name in files and (change is not None or file.name == "nft-ruleset.json"):
                    if file.name not in changed:
                        text = file.read_text(encoding="utf-8")
                        changed[file.name] = change(text) if change is not None else text
                    # The set nodeport-ips holds the node's own address, and nothing else does.
                    text = changed[file.name].replace(own, f'"{_address(listed["items"][n])}"')
                    (node / file.name).write_text(text, encoding="utf-8")
                else:
                    os.link(file, node / file.name)
        return target

    def made(self, mode: str, count: int) -> Path:
        """A made cluster of so many nodes, whose Services with a traffic policy Local have other chains on each."""
        folder = self.folder / f"{mode}-local-{count}"
        if not folder.is_dir():
            many.write(folder, mode=mode, count=self.count, nodes=count, local=True)
        return folder

    def installed(self) -> Path:
        """Where the programs are of an installation as users have it, in an environment of its own.

        An editable one, as developers have, loads a dozen modules at every start of Python there, with the program or without.
        """
        place = self.folder / "installed"
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([PYTHON, "-m", "venv", place], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
        else:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", ROOT], check=True)
        return place / "bin"

    # ---- measuring ------------------------------------------------------------------------------------------------------

    def pair(self, row: Row, one: Callable[[], Cost], other: Callable[[], Cost]) -> Row:
        """Measure two things in turn, after a first time that does not count."""
        one(), other()
        for _ in range(self.pairs):
            a, b = one(), other()
            row.ratios.append(a.wall / b.wall)
            row.cpu.append(a.cpu / b.cpu)
        return row

    def audit(self, snapshot: Path, *words: str) -> Cost:
        """One run of the program over a snapshot. (Status 3: not every node that the API lists is in it.)"""
        return run([str(PROGRAM), "--snapshot", str(snapshot), *words], fine=(0, 1, 3))


def _address(node: dict[str, Any]) -> str:
    """A Node's own address."""
    return next(str(a["address"]) for a in node["status"]["addresses"] if a["type"] == "InternalIP")


def _node(model: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    """A Node like another, with a name, a pod network and an address of its own."""
    node: dict[str, Any] = json.loads(json.dumps(model))
    node["metadata"]["name"] = name
    if number:
        node["spec"]["podCIDR"] = f"10.244.{100 + number % 150}.0/24"
        node["spec"]["podCIDRs"] = [node["spec"]["podCIDR"]]
        address = f"172.18.{100 + number // 250}.{number % 250 + 1}"
        node["status"]["addresses"] = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return node


# ---- how a further node may differ ----------------------------------------------------------------------------------------


def counted(text: str) -> str:
    """Other counters, and another time."""
    text = re.sub(r"^(:[A-Z]+ ACCEPT) \[0:0\]$", r"\1 [1234:56789]", text, flags=re.MULTILINE)
    return text.replace(" 20:58:", " 21:03:")


def shuffled(text: str) -> str:
    """Services, and their chains, in another order: what kube-proxy has made in another order."""
    start = text.index("*nat\n")
    head, nat = text[:start], text[start:].split("\n")
    rng = random.Random(7)
    declared = [line for line in nat if line.startswith(":KUBE-")]
    chains: dict[str, list[str]] = {}
    for line in nat:
        if line.startswith("-A "):
            chains.setdefault(line.split(" ", 2)[1], []).append(line)
    entries = chains["KUBE-SERVICES"]
    mixed = entries[:-1]
    rng.shuffle(mixed)
    chains["KUBE-SERVICES"] = [*mixed, entries[-1]]
    rng.shuffle(declared)
    own = [name for name in chains if name.startswith("KUBE-")]
    rng.shuffle(own)
    base = [name for name in chains if not name.startswith("KUBE-")]
    before = [line for line in nat[: nat.index(next(li for li in nat if li.startswith("-A ")))] if not line.startswith(":KUBE-")]
    after = nat[max(n for n, line in enumerate(nat) if line.startswith("-A ")) + 1 :]
    rules = [line for name in base + own for line in chains[name]]
    return head + "\n".join([*before, *declared, *rules, *after])


def handled(text: str) -> str:
    """Other handles, as a kernel gives that made the objects in another order."""
    return re.sub(r'"handle": (\d+)', lambda found: f'"handle": {int(found[1]) + 7}', text)


def shuffled_nft(text: str) -> str:
    """Chains, sets and elements in another order, with other handles: what kube-proxy has made in another order."""
    rng = random.Random(7)
    head, *objects = json.loads(text)["nftables"]
    printed = [head]
    for table in (o for o in objects if "table" in o):
        where = (table["table"]["family"], table["table"]["name"])
        mine = [o for o in objects for body in o.values() if (body["family"], body.get("table")) == where]
        sets = [o for o in mine if "set" in o or "map" in o]
        chains = [o for o in mine if "chain" in o]
        rules: dict[str, list[dict[str, Any]]] = {}
        for o in mine:
            if "rule" in o:
                rules.setdefault(o["rule"]["chain"], []).append(o)
        own = [o for o in chains if "hook" not in o["chain"]]
        blocks = list(rules.values())
        for several in (sets, own, blocks):
            rng.shuffle(several)
        printed += [table, *sets, *(o for o in chains if "hook" in o["chain"]), *own, *(o for block in blocks for o in block)]
    return handled(json.dumps({"nftables": printed}))


# ---- the rows -------------------------------------------------------------------------------------------------------------


def _iptables(bench: Bench) -> list[Row]:
    one = bench.nodes("iptables", 1)
    dump = next((one / "nodes").iterdir()) / "iptables-save.txt"
    tool = shutil.which("iptables-nft-restore", path="/usr/sbin:/sbin:/usr/bin")
    rows = []
    if tool is None:
        rows.append(Row("iptables -A audit, one node", "iptables-nft-restore --test", 1.0, note="not measured: no iptables here"))
    else:
        for words in ([], ["-o", "json"]):
            row = Row(" ".join(["iptables -A audit, one node", *words]), "iptables-nft-restore --test", 1.0)
            rows.append(
                bench.pair(row, lambda: bench.audit(one, "-A", *words), lambda: run([tool, "--test"], stdin=dump))  # noqa: B023
            )
    size = sum(file.stat().st_size for file in (dump, *(one / "api").iterdir()))
    memory = Row("its peak memory", "size of dump and API objects", 8.0)
    memory.ratios.append(bench.audit(one, "-A", "-o", "json").memory / size)
    return [*rows, memory]


def _nftables(bench: Bench) -> list[Row]:
    one, other = bench.nodes("nftables", 1), bench.nodes("iptables", 1)
    row = Row("nft -A audit, one node", "the iptables audit", 1.0)
    return [bench.pair(row, lambda: bench.audit(one, "-A"), lambda: bench.audit(other, "-A"))]


def _further(bench: Bench) -> list[Row]:
    more = 8
    rows = []
    for mode, name, change in (
        ("iptables", "same", None), ("iptables", "counters", counted), ("iptables", "order", shuffled),
        ("iptables", "local policies", None),
        ("nftables", "same", None), ("nftables", "handles", handled), ("nftables", "local policies", None),
    ):  # fmt: skip
        if name == "local policies":
            one, several = bench.made(mode, 1), bench.made(mode, 1 + more)
        else:
            one, several = bench.nodes(mode, 1), bench.nodes(mode, 1 + more, change, name=name)
        row = Row(f"further {mode} node: {name}", "the first node", 0.05)
        for _ in range(bench.pairs):
            few, all_ = bench.audit(one, "-A", "-o", "name"), bench.audit(several, "-A", "-o", "name")
            row.ratios.append((all_.wall - few.wall) / more / few.wall)
            row.cpu.append((all_.cpu - few.cpu) / more / few.cpu)
        rows.append(row)
    return rows


def _fleet(bench: Bench) -> list[Row]:
    row = Row("fleet: 200 nodes, memory", "2 nodes", 1.5)
    few, all_ = bench.nodes("iptables", 2), bench.nodes("iptables", 200)
    row.ratios.append(bench.audit(all_, "-A", "-o", "name").memory / bench.audit(few, "-A", "-o", "name").memory)
    return [row]


def _one(bench: Bench) -> list[Row]:
    rows = []
    for mode in ("iptables", "nftables"):
        one = bench.nodes(mode, 1)
        row = Row(f"one Service, {mode}", "the -A audit", 0.25)
        name = json.loads((one / "api" / "services.json").read_text(encoding="utf-8"))["items"][777]["metadata"]
        asked = ["-n", name["namespace"], name["name"]]
        rows.append(
            bench.pair(row, lambda: bench.audit(one, *asked), lambda: bench.audit(one, "-A"))  # noqa: B023
        )
    return rows


def _start(bench: Bench) -> list[Row]:
    many_ = Bench(bench.folder, bench.captures, bench.pairs * 7, bench.count)
    programs = bench.installed()
    python, program = str(programs / "python"), str(programs / PROGRAM.name)
    click = [python, "-c", "import click"]
    row = Row("start: --help", "python -c 'import click'", 1.5)
    rows = [many_.pair(row, lambda: run([program, "--help"]), lambda: run(click))]
    completer = str(programs / COMPLETER)
    for what, words in (("a flag", ["--no"]), ("a format", ["-o", ""]), ("a subcommand", ["snapshot", ""])):
        row = Row(f"start: completing {what}", "python -c 'import click'", 1.5)
        rows.append(many_.pair(row, lambda: run([completer, *words]), lambda: run(click)))  # noqa: B023
    krew = bench.folder / COMPLETER
    krew.write_text(SHIM.replace(f"exec {PROGRAM.name}", f"exec {program}"), encoding="utf-8")
    krew.chmod(0o755)
    row = Row("start: one through krew's file", "python -c 'import click'", 1.5)
    rows.append(many_.pair(row, lambda: run([str(krew), "--no"]), lambda: run(click)))
    small = bench.folder / "demo"
    if not small.is_dir():
        small.mkdir()
        with tarfile.open(DEMO) as archive:
            unpack(archive, small)
    plain = [python, "-c", "import click, json"]
    row = Row("start: kuard on a small snapshot", "python -c 'import click, json'", 3.0)
    kuard = [program, "--snapshot", str(small), "kuard"]
    rows.append(many_.pair(row, lambda: run(kuard, fine=(1,)), lambda: run(plain)))
    return rows


def _ssh(bench: Bench) -> list[Row]:
    import ssh_nodes  # noqa: PLC0415 - beside this file

    row = Row("ssh: 100 nodes, 32 at once", "OpenSSH under xargs -P 32", 1.0)
    reason = ssh_nodes.why_not()
    if reason:
        row.note = f"not measured: {reason}"
        return [row]
    # OpenSSH's first choice withstands quantum computers, for 0.1 s of CPU a connection; paramiko has none of that kind.
    same = Row("ssh: the same key exchange", "OpenSSH with curve25519", 1.0)
    with ssh_nodes.Lab() as lab:
        bench.pair(row, lambda: run(lab.ours()), lambda: run(lab.theirs()))
        bench.pair(same, lambda: run(lab.ours()), lambda: run(lab.theirs(exchange="curve25519-sha256")))
    return [row, same]


def _growth(bench: Bench) -> list[Row]:
    sizes = (1000, 2000, 4000, 8000)
    folders = []
    for size in sizes:
        folder = bench.folder / f"made-{size}"
        if not folder.is_dir():
            many.write(folder, mode="iptables", count=size, nodes=1)
        folders.append(folder)
    rows = [Row(f"growth: {b} Services", f"twice {a} Services", 1.15) for a, b in pairwise(sizes)]
    for _ in range(bench.pairs):
        costs = [bench.audit(folder, "-A", "-o", "name") for folder in folders]
        for row, (a, b) in zip(rows, pairwise(costs), strict=True):
            row.ratios.append(b.wall / a.wall / 2)
            row.cpu.append(b.cpu / a.cpu / 2)
    return rows


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "iptables": _iptables,
    "nft": _nftables,
    "further": _further,
    "fleet": _fleet,
    "one": _one,
    "start": _start,
    "ssh": _ssh,
    "growth": _growth,
}


def show(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [f"{'work':34} {'held against':30} {'goal':>6} {'ratio':>7} {'CPU':>7}"]
    for row in rows:
        if not row.ratios:
            lines.append(f"{row.work:34} {row.against:30} {row.goal:>6.2f} {row.note}")
            continue
        cpu = f"{median(row.cpu):7.3f}" if row.cpu else " " * 7
        met = "" if row.ratio <= row.goal else "  over"
        lines.append(f"{row.work:34} {row.against:30} {row.goal:>6.2f} {row.ratio:7.3f} {cpu}{met}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which rows (all)")
    parser.add_argument("--pairs", type=int, default=3, help="how often each pair is measured")
    parser.add_argument("--captures", type=Path, default=ROOT.parent / "shared" / "captures")
    parser.add_argument("--services", type=int, default=5000, help="size of the cluster that is made where none was captured")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="where unpacked and made clusters are kept")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work, options.captures, options.pairs, options.services)
    rows: list[Row] = []
    for name in options.rows or ROWS:
        found = ROWS[name](bench)
        print(show(found) if not rows else show(found).split("\n", 1)[1], flush=True)
        rows += found
    told = [
        {"work": r.work, "against": r.against, "goal": r.goal, "note": r.note, "ratios": r.ratios, "cpu": r.cpu,
         "ratio": r.ratio if r.ratios else None, "met": r.ratio <= r.goal if r.ratios else None}
        for r in rows
    ]  # fmt: skip
    result = {"rows": told, "cores": os.cpu_count(), "python": sys.version.split()[0], "pairs": options.pairs}
    (options.work / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nratio: wall clock, median of {options.pairs} pairs; CPU: the same of user and system time; kept in "
          f"{options.work / 'result.json'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
