"""No text from the API means anything to a node's shell, whatever it is: every script builder is tried with hostile values."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kubectl_svcroute.collect.node_script import Connections, framed_script, node_script, shown_address, words
from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol, canonical_ip
from kubectl_svcroute.model.ranges import number
from kubectl_svcroute.parse.kube_objects import parse_node
from kubectl_svcroute.probe.script import Bounds, Target, dial_script, look_script, watch_script

NONCE = "svcroute-0123456789abcdef"
HOSTILE = (
    "fe80::1%$(touch {mark})", "fe80::1%`touch {mark}`", "fe80::1%;touch {mark};", "fe80::1%'; touch {mark}; '",
    '10.0.0.1"; touch {mark}; "', "10.0.0.1 || touch {mark}", "10.0.0.1\ntouch {mark}\n", "-e x", "", "10.0.0.1/8", "::1%1",
)  # fmt: skip


def _front(address: str) -> Frontend:
    return Frontend(address, Protocol.TCP, 80, FrontendKind.CLUSTER_IP)


BUILDERS = {
    "dial": lambda text: dial_script(NONCE, [Target(number=1, frontend=_front(text), payload=b"'")], Bounds()),
    "dial to an endpoint": lambda text: dial_script(
        NONCE, [Target(number=1, frontend=_front("10.0.0.1"), hosts=(f"{text} 80",))], Bounds(capture=True)
    ),
    "look": lambda text: look_script(NONCE, [Target(number=1, frontend=_front(text), ports=(1,))]),
    "watch": lambda text: watch_script(NONCE, [Target(number=1, frontend=_front(text))], Bounds(capture=True)),
    "connections": lambda text: node_script(NONCE, connections=Connections(addresses=(text,))),
}


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_address_gets_into_no_script(builder: str, text: str) -> None:
    """Addresses are printed anew from their numbers; what has no number, a zone above all, is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message is that of whoever parses numbers
        BUILDERS[builder](text.format(mark="/tmp/mark"))


@pytest.mark.parametrize("text", [*HOSTILE, "$(touch {mark})", "'", '"', "\\", "*", "~", "a b", "\t"])
def test_a_word_is_one_word(text: str, tmp_path: Path) -> None:
    """`words` is the one way for a value into a script: a shell hands on what was put in, and does nothing else."""
    mark = tmp_path / "mark"
    hostile = text.format(mark=mark)
    body = f"shown() {{ for w; do printf '<%s>' \"$w\"; done; }}\nsection shown.txt {words('shown', hostile, hostile)}\n"
    for shell in filter(shutil.which, ("sh", "bash", "busybox")):
        command = [shell, "sh"] if shell == "busybox" else [shell]
        script = framed_script(NONCE, body).replace("yes$(", "no$(")  # as text, not compressed
        done = subprocess.run([*command, "-s"], input=script, capture_output=True, text=True, check=True)
        assert f"<{hostile}><{hostile}>" in done.stdout
        assert not mark.exists()


def test_every_spelling_of_an_address_is_printed_anew() -> None:
    assert [shown_address(text) for text in ("10.0.0.1", "FE80:0::1", "fd00:0:0:0:0:0:0:1")] == ["10.0.0.1", "fe80::1", "fd00::1"]
    for text in ("fe80::1%eth0", "::1%1"):
        for parse in (canonical_ip, number, shown_address):
            with pytest.raises(ValueError):  # noqa: PT011 - as above
                parse(text)


@pytest.mark.parametrize("address", ["fe80::1%$(id>x)", "node-1.example", "", "10.0.0.0/8"])
def test_a_kubelet_that_gives_no_ip_costs_its_node_alone(address: str) -> None:
    """The API server takes any text from a kubelet as its node's address."""
    node = parse_node({
        "metadata": {"name": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": address}]},
    })  # fmt: skip
    assert node.ips(4) == ("10.0.0.1",)
    assert node.odd_addresses == (f"ExternalIP {address}",)
