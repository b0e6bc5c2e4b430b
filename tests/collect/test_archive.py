"""Saved snapshots: what is read of them, what is refused, what is written."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captured import CAPTURES, capture

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect import archive
from kubectl_svcroute.collect.archive import eks_bundle_files, load_snapshot
from kubectl_svcroute.collect.limits import Limits
from kubectl_svcroute.collect.saving import save_snapshot
from kubectl_svcroute.errors import SnapshotError
from kubectl_svcroute.model.report import Unverified
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump, NodeHandle, Snapshot, Unreachable
from kubectl_svcroute.render import render
from kubectl_svcroute.shards.encoding import fingerprint_of

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, text: str | bytes = "x\n") -> Member:
    data = text.encode() if isinstance(text, str) else text
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def special(name: str, kind: bytes, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info, b""


def services(*items: dict[str, Any]) -> str:
    return json.dumps({"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": list(items)})


SERVICES = file("api/services.json", services())


def packed(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def folder(path: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in {"api/services.json": services(), **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def contents(snapshot: Snapshot) -> dict[str, Any]:
    return {o.node: dict(o.files) if isinstance(o, NodeDump) else o.reason for o in snapshot.outcomes()}


def in_memory(*outcomes: NodeDump | Unreachable, api: ApiObjects | None = None) -> Snapshot:
    return Snapshot(
        api=api or ApiObjects(objects={"services": json.loads(services())}),
        nodes=tuple(NodeHandle(node=o.node, read=lambda o=o: o) for o in outcomes),  # type: ignore[misc]
        origin="memory",
    )


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURES)
def test_capture_is_read_as_it_lies(name: str) -> None:
    """Every List and every file of a real cluster comes out as it stands on disk."""
    root = capture(name)
    snapshot = load_snapshot(root)
    assert snapshot.origin == str(root)
    assert snapshot.api.denied == ()
    assert snapshot.api.namespace is None
    assert snapshot.api.objects == {p.stem: json.loads(p.read_text()) for p in (root / "api").glob("*.json")}
    assert contents(snapshot) == {
        node.name: {p.name: p.read_text() for p in node.iterdir()} for node in sorted((root / "nodes").iterdir())
    }


@pytest.mark.parametrize("leading", ["", "./", "audit/"])
def test_archive_reads_like_its_folder(tmp_path: Path, leading: str) -> None:
    """A .tar.gz gives what its folder gives, whether tar was told `*`, `.` or the folder's name."""
    root = capture("v1.36-nftables")
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        tar.add(root, leading or ".")
    read, expected = load_snapshot(tmp_path / "s.tar.gz"), load_snapshot(str(root))
    assert read.api.objects == expected.api.objects
    assert contents(read) == contents(expected)


def test_node_is_read_when_asked_and_again(tmp_path: Path) -> None:
    """A folder's node is read from disk each time, so that memory holds one node at a time."""
    root = folder(tmp_path / "s", {"nodes/a/iptables-save.txt": "one"})
    (node,) = load_snapshot(root).nodes
    (root / "nodes/a/iptables-save.txt").write_text("two")
    assert node.read() == NodeDump(node="a", files={"iptables-save.txt": "two"})
    shutil.rmtree(root / "nodes/a")
    outcome = node.read()
    assert isinstance(outcome, Unreachable)
    assert "nodes/a/iptables-save.txt: cannot be read" in outcome.reason


def test_archive_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive's unpacked files live exactly as long as somebody can read a node of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = packed(tmp_path / "s.tgz", SERVICES, file("nodes/a/iptables-save.txt"))
    snapshot = load_snapshot(path)
    (node,) = snapshot.nodes
    del snapshot
    assert node.read() == node.read() == NodeDump(node="a", files={"iptables-save.txt": "x\n"})
    assert list((tmp_path / "scratch").iterdir())
    del node
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


def test_refused_archive_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusing an archive half-way removes what was unpacked of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = packed(tmp_path / "s.tgz", SERVICES, special("nodes/a/x.txt", tarfile.SYMTYPE, "/etc/passwd"))
    with pytest.raises(SnapshotError):
        load_snapshot(path)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("how", ["folder", "archive"])
def test_unreachable_nodes_keep_their_reason(tmp_path: Path, how: str) -> None:
    """`unreachable.txt` outranks everything else of a node, and a node with no file at all was not read."""
    files: dict[str, str | bytes] = {
        "nodes/dead/unreachable.txt": "ssh: connection\n  refused\n",
        "nodes/dead/iptables-save.txt": "*nat\n",
        "nodes/mute/unreachable.txt": " \n",
        "nodes/fine/iptables-save.txt": "*nat\n",
        "nodes/odd/core.dump": "x",
    }
    root = folder(tmp_path / "s", files)
    (root / "nodes/empty").mkdir()
    if how == "archive":
        with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
            tar.add(root, "s")
        root = tmp_path / "s.tar.gz"
    assert contents(load_snapshot(root)) == {
        "dead": "ssh: connection refused",
        "empty": "nothing was read of it",
        "fine": {"iptables-save.txt": "*nat\n"},
        "mute": "no reason was kept",
        "odd": "nothing was read of it",
    }


@pytest.mark.parametrize("how", ["folder", "archive"])
def test_bytes_that_are_no_utf8_stay_visible(tmp_path: Path, how: str) -> None:
    """A comment in some other encoding costs no line; line ends stay as the node printed them."""
    data = b'-A X -m comment --comment "caf\xe9\r"\r\n'
    root = folder(tmp_path / "s", {"nodes/a/iptables-save.txt": data})
    if how == "archive":
        root = packed(tmp_path / "s.tar.gz", SERVICES, file("nodes/a/iptables-save.txt", data))
    text = '-A X -m comment --comment "caf\\xe9\r"\r\n'
    assert contents(load_snapshot(root)) == {"a": {"iptables-save.txt": text}}


def test_list_of_kubectl_is_a_list(tmp_path: Path) -> None:
    """What `kubectl get -o json` prints will do, and so will Go's null for an empty list."""
    item = {"kind": "Service", "metadata": {"name": "a"}}
    root = folder(
        tmp_path,
        {
            "api/services.json": json.dumps({"kind": "List", "apiVersion": "v1", "items": [item]}),
            "api/pods.json": json.dumps({"kind": "PodList", "items": None}),
        },
    )
    api = load_snapshot(root).api
    assert api.items("services") == [item]
    assert "pods" in api.objects
    assert api.items("pods") == []
    assert "nodes" not in api.objects


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("api/pods.json", '{"items": [}', r"api/pods.json: not JSON: .* at line 1, column 12"),
        ("api/services.json", '{\n"kind": "Ser', r"api/services.json: not JSON: .* at line 2, column 9"),
        ("api/services.json", "[]", "api/services.json: not an object of the API"),
        ("api/services.json", '{"kind": "Service", "items": []}', "api/services.json: not a List but Service"),
        ("api/services.json", '{"kind": "ServiceList"}', "api/services.json: not a List"),
        ("api/services.json", '{"kind": "PodList", "items": []}', "a PodList, and not a list of Service objects"),
        ("api/services.json", '{"kind": "List", "items": [{"kind": "Pod"}]}', "has a Pod in it, and should be a list of Service"),
        ("api/services.json", '{"kind": "ServiceList", "items": [1]}', "api/services.json: not a List of objects"),
        ("api/services.json", "[" * 200_000, "api/services.json: not JSON of the API: nested too deeply"),
        ("api/version.json", "1", "api/version.json: not an object of the API"),
        ("api/denied.json", '{"denied": [{}]}', "api/denied.json: not what a snapshot holds there"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    """What is not a List of the API is refused with the file's name and the place in it."""
    with pytest.raises(SnapshotError, match=message):
        load_snapshot(folder(tmp_path, {name: text}))


def test_no_snapshot_is_said(tmp_path: Path) -> None:
    """A folder or an archive without Services is no snapshot, and what is not there cannot be read."""
    with pytest.raises(SnapshotError, match=r"no snapshot: it holds no api/services\.json"):
        load_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match=r"no snapshot: it holds no api/services\.json"):
        load_snapshot(packed(tmp_path / "s.tar.gz", file("readme.txt")))
    with pytest.raises(SnapshotError, match="cannot be read: No such file"):
        load_snapshot(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SnapshotError, match=r"neither a folder nor a \.tar\.gz"):
        load_snapshot(tmp_path / "text")


# Refusing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (file("/etc/cron.d/x"), "'/etc/cron.d/x': an absolute path"),
        (file("C:/x.txt"), "an absolute path"),
        (file("nodes/../../x.txt"), r"'nodes/../../x.txt': a path that leads out"),
        (file("nodes\\..\\x.txt"), "a path with a backslash"),
        (file("nodes/a/\x1b[2J.txt"), "a control character"),
        (special("nodes/a/x.txt", tarfile.SYMTYPE, "/etc/passwd"), "'nodes/a/x.txt': a link"),
        (special("nodes/a", tarfile.SYMTYPE, "/etc"), "'nodes/a': a link"),
        (special("nodes/a/x.txt", tarfile.LNKTYPE, "api/services.json"), "'nodes/a/x.txt': a link"),
        (special("nodes/a/x.txt", tarfile.CHRTYPE), "'nodes/a/x.txt': not a plain file"),
        (special("nodes/a/x.txt", tarfile.BLKTYPE), "not a plain file"),
        (special("nodes/a/x.txt", tarfile.FIFOTYPE), "not a plain file"),
        (file("api/services.json", services()), "'api/services.json': it is there twice"),
        (file("other/api/services.json", services()), "two snapshots in one archive"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, member: Member, message: str) -> None:
    """Nothing that leads out of the archive, or is no plain file, or hides another, is let in; it is named."""
    with pytest.raises(SnapshotError, match=message):
        load_snapshot(packed(tmp_path / "s.tar.gz", SERVICES, member))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(total=1 << 20), "more than 1048576 bytes unpacked"),
        (Limits(member=1 << 20), "'nodes/a/iptables-save.txt': 3000000 bytes, more than 1048576"),
        (Limits(members=2), "more than 2 members"),
    ],
)
def test_bombs_are_refused(tmp_path: Path, limits: Limits, message: str) -> None:
    """An archive that unpacks to more than it may is refused before it does."""
    path = packed(tmp_path / "s.tar.gz", SERVICES, file("nodes/a/iptables-save.txt", b"\0" * 3_000_000), file("x"))
    with pytest.raises(SnapshotError, match=message):
        load_snapshot(path, limits=limits)


def test_skipped_members_count_too(tmp_path: Path) -> None:
    """A bomb in a member that nobody opens is a bomb."""
    path = packed(tmp_path / "s.tar.gz", SERVICES, file("holiday.mov", b"\0" * 3_000_000), file("x"))
    with pytest.raises(SnapshotError, match="more than 1048576 bytes unpacked"):
        load_snapshot(path, limits=Limits(total=1 << 20))


def test_header_bomb_is_refused(tmp_path: Path) -> None:
    """An extended header is read into memory by its own word about its length, so that word has a limit."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 34
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(SnapshotError, match="a header of 17179869184 bytes"):
        load_snapshot(tmp_path / "s.tar.gz")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    """A sparse member claims any size with no bytes behind it."""
    info = tarfile.TarInfo("nodes/a/iptables-save.txt")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(SnapshotError, match="not a plain file"):
        load_snapshot(packed(tmp_path / "s.tar.gz", SERVICES, (info, b"")))


def test_archive_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """However much of its end an archive lacks, it is refused: a node that is missing would be a node not audited."""
    whole = packed(tmp_path / "s.tar.gz", SERVICES, *(file(f"nodes/n{i}/iptables-save.txt", os.urandom(700)) for i in range(3)))
    data = whole.read_bytes()
    for length in [*range(2, len(data), 97), len(data) - 1, len(data) - 8]:
        (tmp_path / "cut.tar.gz").write_bytes(data[:length])
        with pytest.raises(SnapshotError, match=r"cut\.tar\.gz: "):
            load_snapshot(tmp_path / "cut.tar.gz")


def test_tar_cut_off_within_whole_gzip_is_refused(tmp_path: Path) -> None:
    """A tar that was cut off and then compressed has a right checksum, and is damaged all the same."""
    with io.BytesIO() as plain:
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for info, data in (SERVICES, file("nodes/a/iptables-save.txt"), file("nodes/b/iptables-save.txt")):
                tar.addfile(info, io.BytesIO(data))
        data = plain.getvalue()
    end = 6 * 512  # three headers, three bodies; then zeros
    for length in [*range(100, end, 256), end, end + 100]:
        (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(data[:length]))
        with pytest.raises(SnapshotError, match="damaged, or cut off"):
            load_snapshot(tmp_path / "cut.tar.gz")


@pytest.mark.parametrize("at", [20, 1024 + 20, 1024 + 150, 2048 + 10])
def test_damaged_header_is_refused(tmp_path: Path, at: int) -> None:
    """One flipped byte in a header must not end the archive early: `tarfile` alone would stop there and say nothing."""
    with io.BytesIO() as plain:
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for name in ("api/services.json", "nodes/a/iptables-save.txt", "nodes/b/iptables-save.txt"):
                info, data = file(name, services())
                tar.addfile(info, io.BytesIO(data))
        flipped = bytearray(plain.getvalue())
    flipped[at] ^= 0x55
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(bytes(flipped)))
    with pytest.raises(SnapshotError):
        load_snapshot(tmp_path / "s.tar.gz")


def test_junk_behind_the_end_is_refused(tmp_path: Path) -> None:
    """What stands behind the end of an archive is not part of it, and was part of something."""
    path = packed(tmp_path / "s.tar.gz", SERVICES)
    path.write_bytes(path.read_bytes() + gzip.compress(b"junk"))
    with pytest.raises(SnapshotError, match="damaged, or cut off"):
        load_snapshot(path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    """A flipped bit in the compressed data is found by its checksum, if by nothing before."""
    path = packed(tmp_path / "s.tar.gz", SERVICES, file("nodes/a/iptables-save.txt", os.urandom(2000)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotError):
        load_snapshot(path)


def test_folder_is_not_left(tmp_path: Path) -> None:
    """A link out of a snapshot's folder is not followed, and a fifo is not waited for."""
    (tmp_path / "secret.json").write_text(services())
    root = folder(tmp_path / "s", {"nodes/a/iptables-save.txt": "*nat\n"})
    (root / "nodes/b").mkdir()
    (root / "nodes/b/iptables-save.txt").symlink_to(tmp_path / "secret.json")
    (root / "nodes/c").mkdir()
    os.mkfifo(root / "nodes/c/iptables-save.txt")
    read = contents(load_snapshot(root))
    assert read["b"].endswith("nodes/b/iptables-save.txt: a link that leads out of the snapshot")
    assert read["c"].endswith("nodes/c/iptables-save.txt: not a plain file")
    (root / "api/pods.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(SnapshotError, match=r"api/pods\.json: a link that leads out of the snapshot"):
        load_snapshot(root)


# Bundles of the EKS log collector ------------------------------------------------------------------------------------

BUNDLE: dict[str, str | bytes] = {
    "networking/iptables-save.txt": "*nat\nCOMMIT\n",
    "networking/ip6tables-save.txt": "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
    "networking/conntrack.txt": "tcp 6\n",
    "sysctls/sysctl_all.txt": "kernel.hostname = ip-10-0-0-1\nnet.ipv4.ip_forward = 1\nvm.swappiness = 0\n",
    "kubelet/kubeconfig.yaml": "users: [{user: {token: SECRET}}]\n",
}
BUNDLE_READ = {
    "iptables-save.txt": "*nat\nCOMMIT\n",
    "ip6tables-save.txt": "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
    "sysctl.txt": "net.ipv4.ip_forward = 1\n",
}


def bundle(path: Path) -> Path:
    """A bundle as `tar --directory=... .` writes it."""
    return packed(path, special(".", tarfile.DIRTYPE), *(file(f"./{name}", text) for name, text in BUNDLE.items()))


def test_bundle_is_read_as_a_node(tmp_path: Path) -> None:
    """A bundle gives the files of a node by a snapshot's names, packed or not, and nothing else of what it holds."""
    root = folder(tmp_path / "bundle", BUNDLE)
    assert eks_bundle_files(root) == BUNDLE_READ
    assert eks_bundle_files(bundle(tmp_path / "b.tar.gz")) == BUNDLE_READ
    with pytest.raises(SnapshotError, match="no bundle of the EKS log collector"):
        eks_bundle_files(packed(tmp_path / "x.tar.gz", file("x.txt")))
    with pytest.raises(SnapshotError, match="no bundle of the EKS log collector"):
        eks_bundle_files(tmp_path)


@pytest.mark.parametrize("how", ["folder", "archive"])
def test_bundle_is_a_node_of_a_snapshot(tmp_path: Path, how: str) -> None:
    """A node may be a bundle's folder or the bundle as it was downloaded, in a folder as in an archive."""
    root = folder(tmp_path / "s", {f"nodes/a/{name}": text for name, text in BUNDLE.items()})
    bundle(root / "nodes/b.tar.gz")
    (root / "nodes/c.tgz").write_bytes(b"\x1f\x8bnonsense")
    if how == "archive":
        with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
            tar.add(root, "s")
        root = tmp_path / "s.tar.gz"
    read = contents(load_snapshot(root))
    assert read["a"] == read["b"] == BUNDLE_READ
    assert "nodes/c.tgz: damaged, or cut off" in read["c"]


# Saving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize("target", ["saved", "saved.tar.gz"])
def test_saved_is_read_again(tmp_path: Path, name: str, target: str) -> None:
    """What is saved is what is read: all node files, and the objects as an audit sees them, however often it is done."""
    snapshot = load_snapshot(capture(name))
    saved = save_snapshot(snapshot, tmp_path / target)
    again = load_snapshot(tmp_path / target)
    assert contents(again) == contents(snapshot)
    assert again.api.items("services") == snapshot.api.items("services")
    assert again.api.items("endpointslices") == snapshot.api.items("endpointslices")
    assert (saved.nodes, saved.unreachable) == (5, 0)
    assert saved.services == len(snapshot.api.items("services"))
    assert saved.path == tmp_path / target
    save_snapshot(again, tmp_path / "second")
    assert load_snapshot(tmp_path / "second").api.objects == again.api.objects


def test_saving_is_deterministic(tmp_path: Path) -> None:
    """The same snapshot gives the same bytes, in whatever order the nodes came, and nothing of this machine."""
    snapshot = load_snapshot(capture("v1.36-nftables"))
    save_snapshot(snapshot, tmp_path / "a.tar.gz")
    save_snapshot(snapshot, tmp_path / "b.tar.gz", outcomes=reversed(list(snapshot.outcomes())))
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert (tmp_path / "a.tar.gz").stat().st_mode & 0o077 == 0


def test_what_was_denied_survives_saving(tmp_path: Path) -> None:
    """A replay must not be greener than the audit: what the reader could not list, and where, is kept."""
    denied = (Unverified(code="SR907", node=None, reason="not allowed: needs verb list on resource pods"),)
    api = ApiObjects(objects={"services": json.loads(services())}, denied=denied, namespace="shop")
    save_snapshot(in_memory(api=api), tmp_path / "s.tar.gz")
    again = load_snapshot(tmp_path / "s.tar.gz").api
    assert again.denied == denied
    assert again.namespace == "shop"


def test_unreachable_nodes_survive_saving(tmp_path: Path) -> None:
    """A dead node is saved as dead, with its reason, and counted so."""
    dead = Unreachable(node="b", reason="ssh: connection refused", via="ssh")
    saved = save_snapshot(in_memory(NodeDump(node="a", files={"sysctl.txt": "x"}), dead), tmp_path / "s")
    assert (saved.nodes, saved.unreachable, saved.files) == (1, 1, 4)
    assert contents(load_snapshot(tmp_path / "s")) == {"a": {"sysctl.txt": "x"}, "b": "ssh: connection refused"}


def test_secrets_are_not_saved(tmp_path: Path) -> None:
    """No environment, no arguments but kube-proxy's, no last-applied copy, no kubeconfig reaches the disk."""
    kept = {"name": "c", "ports": [{"containerPort": 80}]}
    secret = {
        "image": "SECRET",
        "env": [{"name": "PASSWORD", "value": "SECRET"}],
        "args": ["--password=SECRET"],
        "command": ["SECRET"],
        "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "SECRET"}]}},
    }
    last = {"kubectl.kubernetes.io/last-applied-configuration": "SECRET"}
    proxy = {"name": "kube-proxy", "image": "kube-proxy:v1.36.2", "command": ["kube-proxy"], "args": ["--v=2"]}
    objects = {
        "services": {"kind": "ServiceList", "items": [{"metadata": {"name": "s", "annotations": {**last, "mine": "1"}}}]},
        "pods": {
            "kind": "PodList",
            "items": [
                {
                    "metadata": {
                        "name": "p",
                        "namespace": "default",
                        "annotations": last,
                        "managedFields": ["SECRET"],
                        "finalizers": ["SECRET"],
                    },
                    "spec": {
                        "nodeName": "n",
                        "hostNetwork": True,
                        "containers": [{**kept, **secret}],
                        "volumes": [{"name": "SECRET"}],
                    },
                    "status": {"phase": "Running", "podIP": "10.0.0.1", "message": "SECRET"},
                },
                {
                    "metadata": {"name": "kube-proxy-x", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
                    "spec": {"containers": [{**proxy, "env": secret["env"]}]},
                },
            ],
        },
        "daemonsets": {
            "kind": "DaemonSetList",
            "items": [
                {
                    "metadata": {"name": "kube-proxy", "annotations": last},
                    "spec": {"template": {"spec": {"containers": [{**proxy, "env": secret["env"]}]}}},
                }
            ],
        },
        "configmap-kube-proxy": {
            "kind": "ConfigMap",
            "metadata": {"name": "kube-proxy", "annotations": last},
            "data": {"config.conf": "mode: nftables", "kubeconfig.conf": "token: SECRET"},
        },
    }
    save_snapshot(in_memory(api=ApiObjects(objects=objects)), tmp_path / "s")
    assert not [p for p in (tmp_path / "s").rglob("*.json") if "SECRET" in p.read_text()]
    api = load_snapshot(tmp_path / "s").api
    assert api.items("services")[0]["metadata"]["annotations"] == {"mine": "1"}
    pod, proxy_pod = api.items("pods")
    assert pod == {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n", "hostNetwork": True, "containers": [kept]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }
    assert proxy_pod["spec"]["containers"] == [proxy]
    assert api.items("daemonsets")[0]["spec"]["template"]["spec"]["containers"] == [proxy]
    assert api.objects["configmap-kube-proxy"]["data"] == {"config.conf": "mode: nftables"}
    save_snapshot(in_memory(api=ApiObjects(objects=objects)), tmp_path / "t", redact=True)
    assert load_snapshot(tmp_path / "t").api.items("services")[0]["metadata"]["annotations"] == {}


def test_saving_replaces_snapshots_only(tmp_path: Path) -> None:
    """An older snapshot is replaced; what is no snapshot is left alone, whatever it is."""
    snapshot = in_memory(NodeDump(node="a", files={"sysctl.txt": "new"}))
    folder(tmp_path / "old", {"nodes/gone/sysctl.txt": "x"})
    save_snapshot(snapshot, tmp_path / "old")
    assert contents(load_snapshot(tmp_path / "old")) == {"a": {"sysctl.txt": "new"}}
    (tmp_path / "empty").mkdir()
    save_snapshot(snapshot, tmp_path / "empty")
    save_snapshot(snapshot, tmp_path / "s.tgz")
    save_snapshot(snapshot, tmp_path / "s.tgz")

    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("x")
    (tmp_path / "dir.tar.gz").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name in ("home", "dir.tar.gz", "notes.txt"):
        with pytest.raises(SnapshotError, match="not overwritten; name another place"):
            save_snapshot(snapshot, tmp_path / name)
    assert (tmp_path / "home/thesis.txt").read_text() == "x"
    with pytest.raises(SnapshotError, match="cannot be written: No such file"):
        save_snapshot(snapshot, tmp_path / "nowhere/s.tar.gz")


@pytest.mark.parametrize("target", ["s", "s.tar.gz"])
def test_saving_is_whole_or_not_at_all(tmp_path: Path, target: str) -> None:
    """When reading a node fails, what was there before is still there, and nothing else is."""
    save_snapshot(in_memory(NodeDump(node="a", files={"sysctl.txt": "old"})), tmp_path / target)

    def fail() -> NodeDump:
        raise KeyboardInterrupt

    broken = in_memory(NodeDump(node="a", files={"sysctl.txt": "new"}))
    broken = Snapshot(api=broken.api, nodes=(*broken.nodes, NodeHandle(node="b", read=fail)), origin="")
    with pytest.raises(KeyboardInterrupt):
        save_snapshot(broken, tmp_path / target)
    assert contents(load_snapshot(tmp_path / target)) == {"a": {"sysctl.txt": "old"}}
    assert [p.name for p in tmp_path.iterdir()] == [target]


@pytest.mark.parametrize(
    "make",
    [
        lambda: NodeDump(node="../../etc", files={"x.txt": ""}),
        lambda: NodeDump(node="a", files={"../../x.txt": ""}),
        lambda: NodeDump(node="a", files={"sub/x.txt": ""}),
        lambda: Unreachable(node="a/b", reason="x"),
    ],
)
def test_names_from_a_cluster_stay_in_their_folder(tmp_path: Path, make: Callable[[], Any]) -> None:
    """A node's name is the API's word, and must not be a way out of the folder that is written."""
    (tmp_path / "in").mkdir()
    with pytest.raises(SnapshotError, match="is no name"):
        save_snapshot(in_memory(make()), tmp_path / "in/s")
    assert not list((tmp_path / "in").iterdir())


@pytest.mark.parametrize("name", CAPTURES)
def test_large_lists_say_what_small_ones_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that stay text until they are asked for are the same items; and the audit by them is the same audit."""
    small = load_snapshot(capture(name))
    monkeypatch.setattr(archive, "_LARGE", 0)
    large = load_snapshot(capture(name))
    assert small.api.objects.keys() == large.api.objects.keys()
    for key in archive.API_LISTS:
        assert not isinstance(large.api.items(key), list) or not large.api.items(key)
        assert list(large.api.items(key)) == list(small.api.items(key))
    assert fingerprint_of(large.api) == fingerprint_of(small.api)
    services = sorted(f"{i['metadata']['namespace']}/{i['metadata']['name']}" for i in small.api.items("services"))
    for asked in (None, frozenset(services[:1]), frozenset(services[1:3])):
        reports = [render(audit(s.api, s.outcomes(), Selection(services=asked)), "json") for s in (small, large)]
        assert reports[0] == reports[1]


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "ServiceList", "items": [{"metadata": {"name": "a"}]}',
        '{"kind": "ServiceList", "items": [{"kind": "Pod", "metadata": {"name": "a"}}]}',
        '{"kind": "PodList", "items": [{"metadata": {"name": "a"}}]}',
        '{"kind": "Service", "metadata": {"name": "a"}}',
        '{"kind": "ServiceList", "items": [1]}',
        '{"kind": "ServiceList"}',
        "[]",
        "",
    ],
)
def test_what_is_wrong_with_a_large_list_is_said_as_for_a_small_one(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the letter."""
    place = folder(tmp_path, {"api/services.json": text})
    said = []
    for limit in (1 << 18, 0):
        monkeypatch.setattr(archive, "_LARGE", limit)
        with pytest.raises(SnapshotError) as caught:
            load_snapshot(place)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("code", ["SR907\x1b[31m", "<script>", "SR9071", "", None, 7])
def test_a_code_that_no_finding_has_is_refused(code: object, tmp_path: Path) -> None:
    """Codes are printed as they are in every format, so none comes from a file unread."""
    folder = tmp_path / "snapshot"
    shutil.copytree(capture("v1.36-nftables"), folder, ignore=shutil.ignore_patterns("faults"))
    (folder / "api" / "denied.json").write_text(json.dumps({"denied": [{"code": code, "node": None, "reason": "r"}]}))
    with pytest.raises(SnapshotError, match=r"denied\.json"):
        load_snapshot(folder)
    (folder / "api" / "denied.json").write_text(json.dumps({"denied": [{"code": "SR907", "node": None, "reason": "r"}]}))
    assert load_snapshot(folder).api.denied[0].code == "SR907"
