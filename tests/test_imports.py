"""The house's one-way streets (docs/architecture.md): who may import whom, and what may load when."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from captured import unpack

PACKAGE = Path(__file__).parent.parent / "kubectl_svcroute"
STAGES = ("collect", "parse", "expect", "observe", "checks", "render")
LAYERS = (
    ("errors", "fork", "model"), STAGES, ("sharing",), ("audit",), ("shards",), ("run",), ("trace", "probe"), ("cli",),
    ("__main__",),
)  # fmt: skip
"""From the bottom up: a module imports its own folder and the layers below it, and no sibling."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NOT_YET: set[str] = set()
"""Arrows that still point the wrong way. This list may only shrink."""
CYCLES_YET = {
    "sharing.eligible", "sharing.reference", "sharing.reference_nft",
}  # fmt: skip
"""Modules that still import each other. This list may only shrink."""
THIRD_PARTY = {
    "kubernetes": {"collect/kube.py", "collect/pod_exec.py"},
    "paramiko": {"collect/ssh.py"},
    "tabulate": {"render/table.py"},
    "msgspec": {
        "collect/large_list.py", "model/raw_items.py", "parse/kube_objects.py", "parse/nft_json_fast.py", "parse/slices_fast.py",
    },
}


def imports(path: Path) -> set[str]:
    """Dotted names of the package's own modules, and top-level names of others, that a module imports anywhere."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = parts[: len(parts) - node.level]
                inner = ".".join((*base, node.module)) if node.module else ".".join(base)
                names = {f"{inner}.{alias.name}".strip(".") for alias in node.names} if not node.module else {inner}
                found.update(f"self:{name}" for name in names)
            else:
                found.add((node.module or "").partition(".")[0])
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


def arrows(path: Path) -> set[str]:
    """The package's own modules that a module imports, dotted, without the package's name."""
    return {name.removeprefix("self:") for name in imports(path) if name.startswith("self:")} & set(NAMES)


NAMES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES}


def test_every_arrow_points_down() -> None:
    """A stage imports the model, errors and itself; the model imports itself alone; and so on up to the command line."""
    wrong = set()
    for name, path in NAMES.items():
        folder = name.partition(".")[0]
        for other in arrows(path):
            target = other.partition(".")[0]
            if target != folder and LEVEL[target] >= LEVEL[folder] and (folder, target) != ("model", "errors"):
                wrong.add(f"{name} -> {other}")
    assert wrong == NOT_YET


def test_no_module_imports_itself_through_others() -> None:
    """No import cycle, whenever the imports are carried out: a module can be read and tried with what is below it alone."""
    ways = {name: arrows(path) - {name} for name, path in NAMES.items()}
    reached = {name: set(others) for name, others in ways.items()}
    changed = True
    while changed:
        changed = False
        for name, others in reached.items():
            more = set().union(*(reached[other] for other in others)) - others
            reached[name] = others | more
            changed = changed or bool(more)
    assert {name for name, others in reached.items() if name in others} == CYCLES_YET


def test_the_root_holds_layers_alone() -> None:
    """Every module of the package is in a folder that is a layer, one level deep."""
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "fork.py"}
    assert {p.parent.relative_to(PACKAGE).as_posix() for p in MODULES} - {"."} == {n for n in LEVEL if (PACKAGE / n).is_dir()}


@pytest.mark.parametrize("library", sorted(THIRD_PARTY))
def test_each_library_is_imported_in_its_own_module_alone(library: str) -> None:
    """A third-party interface is confined, so that a new major of it is one file's work."""
    users = {str(path.relative_to(PACKAGE)) for path in MODULES if library in imports(path)}
    assert users <= THIRD_PARTY[library]


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["snapshot", "save", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """`--help` loads neither kubernetes nor paramiko nor tabulate."""
    code = (
        "import sys; from kubectl_svcroute.cli import main as cli\n"
        f"sys.argv = ['kubectl-svcroute', *{arguments!r}]\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'kubernetes', 'paramiko', 'tabulate', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


_LOADED = """if 1:
    import sys, click, json
    before = set(sys.modules)
    from kubectl_svcroute.cli import main as cli
    sys.argv = ["kubectl-svcroute", *sys.argv[1:]]
    try: cli.main()
    except SystemExit: pass
    own = [vars(m) for name, m in sys.modules.items() if name.startswith("kubectl_svcroute.")]
    dear = {c.__name__ for names in own for c in names.values() if isinstance(c, type) and "__dataclass_params__" in vars(c)}
    print(json.dumps([sorted(set(sys.modules) - before), sorted(dear)]))
"""
_DEAR = {
    "asyncio", "cryptography", "difflib", "email", "gzip", "html", "http", "importlib.metadata", "importlib.resources",
    "kubernetes", "logging", "msgspec", "multiprocessing", "paramiko", "random", "socket", "ssl", "subprocess", "tabulate",
    "tarfile", "tempfile", "urllib3", "wcwidth", "websocket", "xml", "yaml", "zipfile",
}  # fmt: skip
"""What costs milliseconds to load, each."""
_OTHER_WAYS = {
    "checks.flows", "checks.frame_nftables", "collect.archive_reader", "collect.fanout", "collect.kube", "collect.saving",
    "collect.ssh", "model.nft", "model.trace", "observe.nft_match", "observe.nftables", "parse.conntrack", "parse.nft_json",
    "parse.nft_text", "render.html", "render.json_", "run.live", "run.settling", "shards.encoding", "shards.merge",
    "shards.run", "sharing.nftables", "trace.tracer",
}  # fmt: skip
"""Modules for what a snapshot of iptables nodes in a folder has not: nftables, connections, archives, a cluster, parts."""


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        (
            ["--help"],
            {
                "cli", "cli.help", "cli.main", "cli.options", "cli.process", "cli.root", "errors", "model",
                "model.fast_dataclass", "model.lazy_regex", "render",
            },
        ),
        (["--snapshot", "FOLDER", "kuard"], None),
    ],
)
def test_a_start_loads_what_it_needs(arguments: list[str], own: set[str] | None, tmp_path: Path) -> None:
    """Neither help nor a check of one Service loads a dear library, or modules for other ways than the one that it goes.

    And no class that is made at start is the standard library's kind, each of which costs a millisecond (fast_dataclass.py).
    """
    from kubectl_svcroute.cli.root import LAZY
    from kubectl_svcroute.run.settings import DEMO

    with tarfile.open(DEMO) as archive:
        unpack(archive, tmp_path)
    words = [str(tmp_path) if word == "FOLDER" else word for word in arguments]
    done = subprocess.run([sys.executable, "-c", _LOADED, *words], capture_output=True, text=True, check=True)
    loaded, dear = json.loads(done.stdout.splitlines()[-1])
    assert not {name for name in loaded if name in _DEAR or name.partition(".")[0] in _DEAR}
    mine = {name.removeprefix("kubectl_svcroute.") for name in loaded if name.startswith("kubectl_svcroute.")}
    assert not mine & _OTHER_WAYS
    assert all((PACKAGE / f"{name.replace('.', '/')}.py").is_file() for name in _OTHER_WAYS), "renamed: name it here as it is"
    assert not {name for name in mine if name.partition(".")[0] == "probe"}
    assert not mine & {f"cli.{command}" for command in LAZY}
    assert own is None or mine <= own
    assert own is not None or {"audit.cluster", "render.table"} <= mine, "the check did not run"
    assert dear == []
