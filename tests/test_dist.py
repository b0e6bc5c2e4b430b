"""What `make dist` builds for a release, and the archive as krew installs it: a program with no Python around it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import many
import pytest
import yaml
from api_server import ApiServer, exec_plugin
from captured import capture
from distribution import ROOT, Dist, sources, unpack_as_krew_does
from packaging.requirements import Requirement
from sshd import SshLab, why_not
from test_process import FIRST, NAME, THIRD, Cluster

from kubectl_svcroute import PLUGIN, __version__
from kubectl_svcroute.collect import archive

sys.path.insert(0, str(ROOT / "scripts"))
try:
    from krew_rules import archive_problems, manifest_problems, name_problems
    from make_dist import pack
    from make_manifest import SOURCE, filled
    from make_readme import README, blocks
    from try_ranges import requirements
finally:
    sys.path.pop(0)

pytestmark = pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="no archive is made for this system")

DEMO = str(ROOT / "kubectl_svcroute" / "data" / "demo.tar.gz")
MEGABYTE = 1_000_000
PACKAGED = {path.relative_to(ROOT).as_posix() for path in sources() if (ROOT / "kubectl_svcroute") in path.parents}


# ---- wheel and source distribution -----------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(dist: Dist) -> None:
    """Every file of the package, the demo, the schema and the codes' pages among them, and beside them only what pip needs."""
    with zipfile.ZipFile(dist.wheel) as wheel:
        names = set(wheel.namelist())
    about = f"kubectl_svcroute-{__version__}.dist-info"
    assert {name for name in names if not name.startswith(about)} == PACKAGED
    assert {"py.typed", "data/demo.tar.gz", "data/report.schema.json", "data/codes/SR201.md"} <= {
        name.removeprefix("kubectl_svcroute/") for name in names
    }
    assert {f"{about}/licenses/LICENSE", f"{about}/entry_points.txt"} <= names


def test_the_source_distribution_can_be_built_from(dist: Dist) -> None:
    """The same files, with what the build reads; the wheel of this test was built from it. No test, no capture, no leftover."""
    with tarfile.open(dist.sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames() if not tar.getmember(name).isdir()}
    extra = {name for name in names if not name.startswith("kubectl_svcroute.egg-info/")} - PACKAGED
    assert extra == {"LICENSE", "README.md", "CHANGELOG.md", "MANIFEST.in", "PKG-INFO", "pyproject.toml", "setup.cfg"}
    assert names >= PACKAGED


def test_modes_in_the_wheel_do_not_depend_on_the_umask(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as wheel:
        assert {entry.external_attr >> 16 for entry in wheel.infolist()} == {0o100644}


# ---- the archive -----------------------------------------------------------------------------------------------------------


def test_nothing_in_the_archive_names_the_folder_that_it_was_built_in(dist: Dist) -> None:
    """Neither as text nor in a checksum of such text: what installers note of an installation is left out."""
    names, found = [], []
    with tarfile.open(dist.archive) as tar:
        for member in tar:
            names.append(member.name)
            if member.isfile() and any(word in tar.extractfile(member).read() for word in (b"svcroute-dist-", bytes(ROOT))):  # type: ignore[union-attr]
                found.append(member.name)
    assert found == []
    assert not [name for name in names if re.search(r"dist-info/(RECORD|INSTALLER|REQUESTED|direct_url.json)$", name)]
    assert any(name.endswith("data/build.json") for name in names)


@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("objdump"), reason="needs Linux and objdump")
def test_what_the_archive_needs_of_the_system_is_documented(dist: Dist) -> None:
    """The program that starts is linked with glibc and libz alone, and docs/install.md says so."""
    shown = subprocess.run(["objdump", "-p", dist.program], capture_output=True, text=True, check=True).stdout
    needed = {name.partition(".")[0] for name in re.findall(r"NEEDED +(\S+)", shown)}
    assert needed <= {"libc", "libdl", "libm", "libpthread", "libz"}
    assert "`libz.so.1`" in (ROOT / "docs" / "install.md").read_text()


def test_krew_would_take_manifest_and_archive(dist: Dist) -> None:
    """The manifest that the build wrote and the archive that it is about keep krew's rules, and the checksum is the archive's."""
    manifest = dist.folder / f"{PLUGIN}.yaml"
    assert manifest_problems(manifest) == []
    assert name_problems(manifest) == []
    found = yaml.safe_load(manifest.read_text())
    (platform,) = found["spec"]["platforms"]
    assert archive_problems(dist.archive, platform["bin"]) == []
    assert platform["sha256"] == hashlib.sha256(dist.archive.read_bytes()).hexdigest()
    assert platform["uri"].endswith(f"/v{__version__}/{dist.archive.name}")
    assert found["spec"]["version"] == f"v{__version__}"
    # But for what is filled in, it is the source, caveats and all.
    source = yaml.safe_load(SOURCE.read_text())
    assert {**found["spec"], "platforms": 0} == {**source["spec"], "platforms": 0}


def test_checksums_are_those_of_all_files(dist: Dist) -> None:
    """SHA256SUMS names everything that is released, as sha256sum reads it."""
    lines = (dist.folder / "SHA256SUMS").read_text().splitlines()
    found = dict(reversed(line.split("  ", 1)) for line in lines)
    assert found == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.folder.iterdir() if path.name != "SHA256SUMS"
    }


def test_the_archive_is_small_and_the_same_for_everybody(dist: Dist) -> None:
    """30 MB at most; entries sorted, without owner or time; no test, no header, none of the models that are never used."""
    assert dist.archive.stat().st_size <= 30 * MEGABYTE
    with tarfile.open(dist.archive) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert [name.split("/") for name in names] == sorted(name.split("/") for name in names)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {m.mode for m in members} == {0o755, 0o644}
    assert dist.archive.read_bytes()[4:8] == b"\0\0\0\0"  # gzip's own time
    assert not [name for name in names if re.search(r"kubernetes/client/models|/tests?/|\.pyc?$|/include/|aiohttp", name)]


def test_packing_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    """The same content gives the same bytes, whenever and by whomever it was written; links become what they lead to."""
    packed = []
    for number, names in enumerate((("b", "a/x", "a/y"), ("a/y", "b", "a/x"))):
        tree = tmp_path / str(number)
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name)
            (tree / name).chmod(0o600 if number else 0o664)
            os.utime(tree / name, (number, number))
        (tree / "run").write_text("run")
        (tree / "run").chmod(0o755 if number else 0o700)
        (tree / "link").symlink_to("b")
        os.link(tree / "b", tree / "c")
        target = tmp_path / f"{number}.tar.gz"
        pack(tree, target)
        packed.append(target.read_bytes())
        unpack_as_krew_does(target, tmp_path / f"out{number}")
    assert packed[0] == packed[1]
    assert (tmp_path / "out0" / "link").read_text() == (tmp_path / "out0" / "c").read_text() == "b"
    assert os.access(tmp_path / "out1" / "run", os.X_OK)


def test_the_licences_of_everything_inside_come_along(dist: Dist) -> None:
    """LICENSE is ours; the other file has those of Python, of each package and of each library that is in the archive."""
    assert (dist.installed / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    text = (dist.installed / "THIRD-PARTY-LICENSES.txt").read_text()
    inside = {path.name.partition(".so")[0] for path in (dist.installed / "kubectl-svcroute" / "_internal").glob("lib*.so*")}
    for part in ("Python 3", "paramiko", "kubernetes", "cryptography", "PyNaCl", "bcrypt", "cffi", "urllib3", "pydantic_core",
                 "msgspec", "PyYAML", "tabulate", "click", "websocket-client", "pyinstaller",
                 *(name for name in inside if not name.startswith("libpython"))):  # fmt: skip
        assert re.search(rf"(?mi)^=+\n{re.escape(part)}\b", text), part
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in text  # paramiko's


def test_a_manifest_is_filled_for_all_platforms(tmp_path: Path) -> None:
    """A release has several archives: each platform gets its own checksum, a platform without an archive is left out."""
    archives = {}
    for name in ("linux_amd64", "linux_arm64", "darwin_arm64"):
        archives[name] = tmp_path / f"kubectl-svcroute_v1.2.3_{name}.tar.gz"
        archives[name].write_text(name)
    made = tmp_path / "svcroute.yaml"
    made.write_text(filled(SOURCE.read_text(), archives, "v1.2.3"))
    assert manifest_problems(made) == []
    spec = yaml.safe_load(made.read_text())["spec"]
    assert spec["version"] == "v1.2.3"
    found = {p["uri"].rpartition("/")[2]: p["sha256"] for p in spec["platforms"]}
    assert found == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in archives.values()}
    assert all("/download/v1.2.3/" in p["uri"] for p in spec["platforms"])
    with pytest.raises(ValueError, match="no platform for plan9_amd64"):
        filled(SOURCE.read_text(), {"plan9_amd64": made}, "v1.2.3")


def test_pins_of_the_archive_are_in_the_ranges_of_the_package() -> None:
    """What archives hold is what pip could install: each pin fits the range of setup.cfg, and nothing is left unpinned."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "scripts" / "dist-requirements.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    for pin in pins:
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
    by_name = {re.sub(r"[-_.]+", "-", pin.name).lower(): pin for pin in pins}
    for line in requirements():
        wanted = Requirement(line)
        (exact,) = by_name[wanted.name.lower()].specifier
        assert wanted.specifier.contains(exact.version) or wanted.marker, line


# ---- the installed program -------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(dist: Dist, tmp_path: Path) -> dict[str, str]:
    """A user who has kubectl and what krew links, an empty HOME, and nothing else."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl (Debian: kubernetes-client)")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"kubectl-{PLUGIN}").symlink_to(dist.program)
    (tmp_path / "bin" / "kubectl").symlink_to(kubectl)
    (tmp_path / "home").mkdir()
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home")}


def test_kubectl_runs_it_with_nothing_around(bare: dict[str, str]) -> None:
    """`kubectl svcroute demo` in an empty HOME with a bare PATH prints what the README shows, and ends with 1."""
    kubectl = f"{bare['PATH']}/kubectl"
    shown = dict(blocks(README.read_text(encoding="utf-8")))["demo"]
    done = subprocess.run(
        [kubectl, PLUGIN, "demo"], capture_output=True, check=False, env={**bare, "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.stdout.decode(), done.returncode) == (shown, 1), done.stderr
    # kubectl hands a status through as it is.
    for words, status in ((["--version"], 0), (["explain", "SR999"], 2), (["--help"], 0), ([], 2)):
        done = subprocess.run([kubectl, PLUGIN, *words], capture_output=True, check=False, env=bare, stdin=subprocess.DEVNULL)
        assert done.returncode == status, (words, done.stderr)
        assert b"Traceback" not in done.stderr


def both(dist: Dist, folder: Path, *words: str) -> list[tuple[int, str, str]]:
    """What the frozen program and the one of this tree make of a command line, each in a folder of its own."""
    found = []
    for name, program in (("frozen", [str(dist.program)]), ("tree", [sys.executable, "-c", _TREE])):
        (folder / name).mkdir(exist_ok=True)
        done = subprocess.run(
            [*program, *words], capture_output=True, text=True, check=False, cwd=folder / name, stdin=subprocess.DEVNULL,
            env={"HOME": str(folder), "PATH": os.environ["PATH"], "COLUMNS": "100", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        found.append((done.returncode, done.stdout, done.stderr))
    return found


_TREE = "import sys; sys.argv[0] = 'kubectl-svcroute'; from kubectl_svcroute.cli.main import main; main()"


def test_every_report_is_the_same_when_frozen(dist: Dist, tmp_path: Path) -> None:
    """Each format, of every Service of the demo: what is frozen has every module, page and library that a renderer needs."""
    from kubectl_svcroute.render import FORMATS

    formats = [name for name in FORMATS if name != "shard"]  # that one is for `merge`
    outputs = [word for name in formats for word in ("-o", f"{name}=report.{name}")]
    frozen, tree = both(dist, tmp_path, "-A", "--snapshot", DEMO, *outputs)
    assert frozen == tree
    assert frozen[0] == 1
    for name in formats:
        one, other = ((tmp_path / where / f"report.{name}").read_bytes() for where in ("frozen", "tree"))
        assert one == other, name


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_a_large_cluster_is_read_when_frozen(dist: Dist, tmp_path: Path, mode: str) -> None:
    """Lists and rulesets that are not decoded at once, and Services that are compared in two processes."""
    place = many.write(tmp_path / "made", mode=mode, count=1400, endpoints=3, nodes=1)
    assert (place / "api" / "endpointslices.json").stat().st_size > archive._LARGE
    frozen, tree = both(dist, tmp_path, "-A", "--snapshot", str(place), "-o", "json")
    assert frozen == tree
    assert frozen[0] == 0
    assert len(json.loads(frozen[1])["services"]) >= 1400


@pytest.mark.parametrize(
    "words",
    [
        *(["trace", "kuard", "--node", "kubworker3", "-o", name] for name in ("tree", "json", "svg")),
        ["explain", "SR201"],
        ["trace", "--help"],
    ],
    ids=lambda words: "-".join(words[:1] + words[-1:]),
)
def test_every_command_is_the_same_when_frozen(dist: Dist, tmp_path: Path, words: list[str]) -> None:
    """The other commands say the same too."""
    if words[0] == "trace" and "--help" not in words:
        words = [*words, "--snapshot", DEMO]
    frozen, tree = both(dist, tmp_path, *words)
    assert frozen == tree
    assert "Traceback" not in frozen[2]
    assert frozen[0] in (0, 1)


def test_every_subcommand_is_there_when_frozen(dist: Dist, tmp_path: Path) -> None:
    """Subcommands load when they are called, which PyInstaller cannot see: each shows its help."""
    from kubectl_svcroute.cli.root import LAZY, cli

    for name in [*cli.commands, *LAZY]:
        if name != "check":
            done = subprocess.run([str(dist.program), name, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert f"kubectl {PLUGIN} {name}" in done.stdout


class Frozen(Cluster):
    """The cluster of test_process.py, looked at by the frozen program, whose credentials come from a plugin."""

    program: Path

    def command(self, *arguments: str, nodes: tuple[str, ...] = (FIRST, THIRD)) -> list[str]:
        return [str(self.program), *super().command(*arguments, nodes=nodes)[3:]]


@pytest.fixture(scope="module")
def cluster(dist: Dist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    if reason := why_not():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("frozen")
    with SshLab() as lab, ApiServer(capture(NAME)) as api:
        found = Frozen(api, lab, home)
        found.program = dist.program
        plugin = exec_plugin(home, ["good"])
        script = home / "plugin.py"
        note = f"import os\nopen({str(home / 'environment')!r}, 'w').write(repr(dict(os.environ)))\n"
        script.write_text(note + script.read_text())
        found.kubeconfig = api.kubeconfig(home / "kubeconfig", token=None, plugin=plugin)
        yield found


def test_the_frozen_program_audits_a_cluster(cluster: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS API, a credential plugin, two nodes over a real sshd: the fault is found, as from source.

    What it starts gets the user's own library path back, not the one into the archive, whose libcrypto ssh would load.
    """
    for value in ("/opt/own/lib", None):
        if value is None:
            monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        else:
            monkeypatch.setenv("LD_LIBRARY_PATH", value)
        (cluster.folder / "environment").unlink(missing_ok=True)
        done = cluster.run("kuard", "-o", "json")
        assert done.returncode == 1, done.stderr
        report = json.loads(done.stdout)
        assert [(f["code"], f["node"], f["service"]) for f in report["findings"]] == [("SR201", THIRD, "default/kuard")]
        assert {node["via"] for node in report["nodes"]} == {"ssh"}
        child: dict[str, str] = eval((cluster.folder / "environment").read_text())
        assert child.get("LD_LIBRARY_PATH") == value
        assert not [name for name, text in child.items() if "_internal" in text and name.startswith("LD_")]


def test_the_frozen_program_reads_through_pods(cluster: Frozen) -> None:
    """`--via exec`: a websocket over the API's TLS to the kube-proxy pod, where the script is really run, on real rules."""
    from contextlib import suppress

    sys.path.insert(0, str(ROOT / "tests" / "collect"))
    try:
        from test_pod_exec import SUCCESS, Session, accept_key, failure
        from test_pod_exec import pod as pod_of
    finally:
        sys.path.pop(0)

    def kubelet(handler: object) -> None:
        """What a kubelet does: hand over the script, and send back what it printed."""
        protocol = "v5.channel.k8s.io"
        session = Session(handler.connection, {}, handler.path, {}, protocol)  # type: ignore[attr-defined]
        session.connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(handler.headers['Sec-WebSocket-Key'])}\r\n"  # type: ignore[attr-defined]
            f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n".encode()
        )
        inside = ["ip", "netns", "exec", cluster.broken.namespace, "sh", "-s"]
        done = subprocess.run(inside, input=session.script(), capture_output=True, check=False)
        session.send(1, done.stdout)
        session.end(failure(done.returncode) if done.returncode else SUCCESS)
        with suppress(OSError):
            while session.connection.recv(65536):
                pass

    cluster.api.objects["pods"].append(pod_of("kube-proxy-abcde", THIRD, k8s_app="kube-proxy"))
    cluster.api.upgrade = kubelet
    try:
        done = cluster.run("kuard", "-o", "json", "--via", "exec", nodes=(THIRD,))
    finally:
        cluster.api.upgrade = None
    report = json.loads(done.stdout)
    assert done.returncode == 1, (done.stderr, report["unverified"])
    assert [(f["code"], f["node"]) for f in report["findings"]] == [("SR201", THIRD)]
    assert {node["via"] for node in report["nodes"]} == {"exec"}


def test_the_frozen_program_saves_snapshots(cluster: Frozen, tmp_path: Path) -> None:
    """`snapshot save` and `--snapshot`, and a node that cannot be reached is not verified: status 3."""
    path = tmp_path / "audit.tar.gz"
    assert cluster.run("snapshot", "save", str(path), nodes=(FIRST,)).returncode == 0
    done = cluster.run("-A", "--snapshot", str(path), nodes=(FIRST,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.run("kuard", nodes=(FIRST, "kubworker2.prefetch.net")).returncode == 3
