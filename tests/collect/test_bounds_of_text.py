"""What a node prints is taken apart in time that grows with its length and no faster: each input is tried small and large.

Nothing here asserts a time. An input that once took minutes would keep this test from ending.
"""

from __future__ import annotations

import pytest

from kubectl_svcroute.collect.flags import HIDDEN, without_secrets
from kubectl_svcroute.collect.node_script import framed, parse_sections
from kubectl_svcroute.collect.projection import project
from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.observe.iptables_words import split_rule

NONCE = "svcroute-0123"


@pytest.mark.parametrize("length", [10, 10_000, 3_000_000])
@pytest.mark.parametrize("shape", ['{}"', '"{}', '"{}\\', '"{}" x"', '{}\\"', '"{}"x'])
def test_a_word_with_a_quote_in_the_wrong_place(shape: str, length: int) -> None:
    """iptables prints no such word; three million characters of it are refused as quickly as ten."""
    with pytest.raises(ParseError, match="quoting"):
        split_rule("-A FORWARD -m comment --comment " + shape.format("a" * length) + " -j ACCEPT")


@pytest.mark.parametrize("length", [10, 3_000_000])
def test_long_words_are_read(length: int) -> None:
    long = "a" * length
    assert split_rule(f'-A X  --comment "{long}"   -j Y ') == ["-A", "X", "--comment", long, "-j", "Y"]
    assert split_rule(f'-A X --comment "{long}" {long}')[-1] == long
    assert split_rule(f'-A X --comment "{chr(92)}"{long}"')[-1] == f'"{long}'


@pytest.mark.parametrize("count", [1, 400, 400_000])
def test_flags_that_look_like_secrets(count: int) -> None:
    """`-token` four hundred thousand times over is one flag, whose value comes next."""
    flag = "-" + "-token" * count
    assert without_secrets([flag, "s3cr3t", "--v=2"]) == [flag, HIDDEN, "--v=2"]
    assert without_secrets([f"{flag}=s3cr3t"]) == [f"{flag}={HIDDEN}"]
    assert without_secrets(["sh", "-c", "kube-proxy --token=s3cr3t --password s3cr3t --v=2"])[2] == (
        f"kube-proxy --token={HIDDEN} --password {HIDDEN} --v=2"
    )


@pytest.mark.parametrize("command", [["kube-proxy"], ["kube-proxy", "--token"], None])
def test_a_kube_proxy_pod_is_kept_without_its_secrets(command: list[str] | None) -> None:
    """What a snapshot keeps of a pod or a DaemonSet: also where a flag ends `command` and its value begins `args`."""
    args = ["s3cr3t" if command and len(command) > 1 else "--token=s3cr3t", "--cluster-cidr=10.0.0.0/8"]
    container = {"name": "kube-proxy", "image": "kube-proxy:v1.36.0", "args": args, **({"command": command} if command else {})}
    meta = {"name": "kube-proxy-x", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}}
    pod = project("pods", {"metadata": meta, "spec": {"containers": [container]}, "status": {}})
    assert "s3cr3t" not in str(pod)
    assert "--cluster-cidr=10.0.0.0/8" in str(pod)
    daemon = {"metadata": meta, "spec": {"template": {"spec": {"containers": [container]}}}}
    assert "s3cr3t" not in str(project("daemonsets", daemon))


@pytest.mark.parametrize(("length", "kept"), [(10, True), (50_000, True), (30_000_000, False)])
def test_bytes_that_are_no_text(length: int, kept: bool) -> None:
    """Some odd bytes are shown; megabytes of them are no dump, and are refused in one pass."""
    data = framed(NONCE, [("iptables-save.txt", b"\xff" * length, b"", 0)])
    read = parse_sections(data, NONCE)
    assert ("iptables-save.txt" in read.files) is kept
    assert kept or "are not UTF-8" in read.reasons["iptables-save.txt"]
