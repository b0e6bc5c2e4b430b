"""The house's one-way streets (docs/architecture.md): who may import whom, and what may load when."""

from __future__ import annotations

import ast
import subprocess
import sys
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
