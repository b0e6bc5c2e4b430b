"""The house's one-way streets (docs/architecture.md): who may import whom, and what may load when."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kubectl_svcroute"
STAGES = ("collect", "parse", "expect", "observe", "checks", "render")
THIRD_PARTY = {
    "kubernetes": {"collect/kube.py", "collect/pod_exec.py"},
    "paramiko": {"collect/ssh.py"},
    "tabulate": {"render/table.py"},
    "msgspec": {
        "collect/large_list.py", "model/raw_items.py", "parse/kube_objects.py", "parse/nft_large.py", "parse/raw_slices.py",
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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """A stage imports the model, errors and itself; the model imports itself alone; nobody below imports audit or cli."""
    parts = path.relative_to(PACKAGE).parts
    own = {name.removeprefix("self:").partition(".")[0] for name in imports(path) if name.startswith("self:")}
    own -= {"__version__", "PLUGIN", "PROGRAM", ""}
    if parts[0] == "model":
        assert own <= {"model", "errors", "net", "ranges"} | {p.stem for p in (PACKAGE / "model").glob("*.py")}
    elif parts[0] in STAGES:
        assert not own & (set(STAGES) - {parts[0]}), f"{path} imports a sibling stage: {own}"
        assert not own & {"audit", "cli", "commands", "session", "live"}
    elif parts not in (("cli.py",), ("__main__.py",), ("completion.py",)):  # a completion is told from the command line
        assert "cli" not in own, f"{path} imports the command line"


@pytest.mark.parametrize("library", sorted(THIRD_PARTY))
def test_each_library_is_imported_in_its_own_module_alone(library: str) -> None:
    """A third-party interface is confined, so that a new major of it is one file's work."""
    users = {str(path.relative_to(PACKAGE)) for path in MODULES if library in imports(path)}
    assert users <= THIRD_PARTY[library]


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["snapshot", "save", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """`--help` loads neither kubernetes nor paramiko nor tabulate."""
    code = (
        "import sys; from kubectl_svcroute import cli\n"
        f"sys.argv = ['kubectl-svcroute', *{arguments!r}]\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'kubernetes', 'paramiko', 'tabulate', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


_LOADED = """if 1:
    import sys, click, json
    before = set(sys.modules)
    from kubectl_svcroute import cli
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
    "checks.flows", "checks.structure_nft", "collect.fanout", "collect.kube", "collect.packed", "collect.saving", "collect.ssh",
    "live", "merge", "model.nft", "model.trace", "observe.nft_match", "observe.nftables", "observe.twins_nft", "parse.conntrack",
    "parse.nft_json", "parse.nft_text", "partial", "render.html", "render.json_", "settling", "shard", "trace",
}  # fmt: skip
"""Modules for what a snapshot of iptables nodes in a folder has not: nftables, connections, archives, a cluster, parts."""


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        (["--help"], {"command_help", "command_options", "errors", "model.patterns", "startup", "cli", "model"}),
        (["--snapshot", "FOLDER", "kuard"], None),
    ],
)
def test_a_start_loads_what_it_needs(arguments: list[str], own: set[str] | None, tmp_path: Path) -> None:
    """Neither help nor a check of one Service loads a dear library, or modules for other ways than the one that it goes.

    And no class that is made at start is the standard library's kind, of which each costs a millisecond (model/records.py).
    """
    from kubectl_svcroute.options import DEMO

    with tarfile.open(DEMO) as archive:
        archive.extractall(tmp_path, filter="data")
    words = [str(tmp_path) if word == "FOLDER" else word for word in arguments]
    done = subprocess.run([sys.executable, "-c", _LOADED, *words], capture_output=True, text=True, check=True)
    loaded, dear = json.loads(done.stdout.splitlines()[-1])
    assert not {name for name in loaded if name in _DEAR or name.partition(".")[0] in _DEAR}
    mine = {name.removeprefix("kubectl_svcroute.") for name in loaded if name.startswith("kubectl_svcroute.")}
    assert not mine & _OTHER_WAYS
    assert all((PACKAGE / f"{name.replace('.', '/')}.py").is_file() for name in _OTHER_WAYS), "renamed: name it here as it is"
    assert not {name for name in mine if name.partition(".")[0] in ("probe", "commands")}
    assert own is None or mine <= own
    assert own is not None or {"audit", "render.table"} <= mine, "the check did not run"
    assert dear == []
