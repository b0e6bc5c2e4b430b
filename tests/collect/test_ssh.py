"""Nodes read over SSH: real sshds in network namespaces, with real rules in their kernels."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from captured import capture
from sshd import SshLab, SshNode

from kubectl_svcroute.collect.fanout import NodeTarget, handles, read_all
from kubectl_svcroute.collect.ssh import SshOptions, SshReader
from kubectl_svcroute.collect.transports import FirstOf
from kubectl_svcroute.errors import CollectError
from kubectl_svcroute.model.snapshot import NodeDump, NodeOutcome, Unreachable

FILES = {
    "v1.36-iptables-nft": ("iptables-save.txt", "ip6tables-save.txt"),
    "v1.17-iptables-legacy": ("iptables-legacy-save.txt", "ip6tables-legacy-save.txt"),
    "v1.36-nftables": ("nft-ruleset.json",),
}


def node_files(name: str = "v1.36-iptables-nft", number: int = 1) -> Path:
    return capture(name) / "nodes" / f"kubworker{number}.prefetch.net"


def rules(text: str) -> list[list[str]]:
    """The rules of each table, without what differs from run to run. The kernel says the tables in an order of its own."""
    tables = text.split("\n*")[1:]
    return sorted([line for line in table.splitlines() if line[:1].isalpha() or line.startswith("-A")] for table in tables)


def target(*nodes: SshNode) -> NodeTarget:
    return NodeTarget(name=nodes[0].name, addresses=tuple(("internal", node.address) for node in nodes))


def options(lab: SshLab, *config: str, **more: Any) -> SshOptions:
    return SshOptions(**{"config_file": str(lab.config(*config)), "batch": True, **more})


@contextlib.contextmanager
def reading(options: SshOptions, warnings: list[str] | None = None) -> Iterator[SshReader]:
    """A reader, closed at the end; no connection of its may live on."""
    reader = SshReader(options, warn=(warnings if warnings is not None else []).append)
    with contextlib.closing(reader):
        yield reader


def read(lab: SshLab, node: SshNode, *config: str, warnings: list[str] | None = None, **more: Any) -> NodeOutcome:
    with reading(options(lab, *config, **more), warnings) as reader:
        return reader.read(target(node))


def reason(outcome: NodeOutcome) -> str:
    assert isinstance(outcome, Unreachable), outcome
    assert "\n" not in outcome.reason
    assert outcome.reason.isprintable()
    return outcome.reason


def sessions(node: SshNode) -> int:
    """How many logins the node's sshd has taken."""
    return node.log.count("Accepted publickey")


@pytest.mark.parametrize("name", FILES)
def test_what_the_kernel_holds_is_what_is_read(name: str, ssh_lab: SshLab) -> None:
    """The dump of a node holds the rules of its kernel, whichever backend they are in, and nothing else is needed."""
    node = ssh_lab.node("kubworker1", files=node_files(name), proxy=True)
    ssh_lab.trust(node)
    outcome = read(ssh_lab, node)
    assert isinstance(outcome, NodeDump), outcome
    assert outcome.via == "ssh"
    for file in FILES[name]:
        original = node_files(name) / file.replace("-legacy", "")
        if file.endswith(".json"):
            assert '"name": "kube-proxy"' in outcome.files[file]
        else:
            assert rules(outcome.files[file]) == rules(original.read_text())
    assert outcome.files["proxy-mode.txt"] == (node_files(name) / "proxy-mode.txt").read_text()
    assert "net.ipv4.ip_forward = 1\n" in outcome.files["sysctl.txt"]
    assert node.address in outcome.files["addresses.txt"]
    assert sessions(node) == 1


# -- host keys ----------------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_with_the_remedy(ssh_lab: SshLab) -> None:
    """A host key that known_hosts does not have is refused, and the reason says how to add it."""
    node = ssh_lab.node("kubworker1")
    said = reason(read(ssh_lab, node))
    assert f"the host key of {node.address} is not known" in said
    assert f"ssh-keyscan {node.address}" in said
    assert "--ssh-accept-new-host-keys" in said
    assert sessions(node) == 0


def test_a_changed_key_is_refused_by_file_and_line(ssh_lab: SshLab) -> None:
    """A key other than the known one is refused, whatever the options, and the line that it contradicts is named."""
    node, other = ssh_lab.node("kubworker1"), ssh_lab.node("kubworker2")
    ssh_lab.known_hosts.write_text(f"# a comment\n\n{node.address} {other.host_key}\n")
    for more in ({}, {"accept_new_host_keys": True}):
        said = reason(read(ssh_lab, node, **more))
        assert "the host key has changed" in said
        assert f"{ssh_lab.known_hosts}:3" in said
    assert reason(read(ssh_lab, node, "Host *", "  StrictHostKeyChecking no"))
    assert sessions(node) == 0


def test_a_new_key_is_kept_when_the_user_says_so(ssh_lab: SshLab) -> None:
    """With --ssh-accept-new-host-keys a new key is written down, once, and known from then on."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.known_hosts.write_text("elsewhere ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==")  # without a newline at its end
    warnings: list[str] = []
    assert isinstance(read(ssh_lab, node, warnings=warnings, accept_new_host_keys=True), NodeDump)
    assert ssh_lab.known_hosts.read_text().splitlines()[1] == f"{node.address} {node.host_key}"
    assert any("was new and is now kept" in warning for warning in warnings)
    assert isinstance(read(ssh_lab, node), NodeDump)
    assert len(ssh_lab.known_hosts.read_text().splitlines()) == 2


def test_strict_checking_off_keeps_nothing(ssh_lab: SshLab) -> None:
    """`StrictHostKeyChecking no` lets the node in; who the key belongs to is not known, so it is not written down."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.known_hosts.write_text("")
    warnings: list[str] = []
    assert isinstance(read(ssh_lab, node, "Host *", "  StrictHostKeyChecking no", warnings=warnings), NodeDump)
    assert ssh_lab.known_hosts.read_text() == ""
    assert any("StrictHostKeyChecking is no" in warning for warning in warnings)


def test_a_key_of_the_revoked_file_is_refused(ssh_lab: SshLab) -> None:
    """RevokedHostKeys counts for more than known_hosts; a file that cannot be read or understood lets nobody in."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    revoked = ssh_lab.known_hosts.with_name("revoked")
    said = []
    for data in (f"{node.host_key}\n".encode(), b"SSHKRL\n\0\0\0\0\1", None):
        revoked.unlink(missing_ok=True)
        if data is not None:
            revoked.write_bytes(data)
        said.append(reason(read(ssh_lab, node, "Host *", f"  RevokedHostKeys {revoked}")))
    assert "is revoked" in said[0]
    assert "key revocation list" in said[1]
    assert "cannot be read" in said[2]
    assert sessions(node) == 0
    revoked.write_text("# none\n")
    assert isinstance(read(ssh_lab, node, "Host *", f"  RevokedHostKeys {revoked}"), NodeDump)


@pytest.mark.parametrize(
    ("keyword", "weak", "good"),
    [
        ("Ciphers", "3des-cbc", "aes256-ctr"),
        ("MACs", "hmac-md5", "hmac-sha2-512"),
        ("KexAlgorithms", "diffie-hellman-group1-sha1", "curve25519-sha256@libssh.org"),
    ],
)
def test_algorithms_of_the_configuration_are_kept_to(keyword: str, weak: str, good: str, ssh_lab: SshLab) -> None:
    """What only allows what the node does not offer, or what is not known here, connects nowhere."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    assert reason(read(ssh_lab, node, "Host *", f"  {keyword} {weak}"))
    assert sessions(node) == 0
    assert isinstance(read(ssh_lab, node, "Host *", f"  {keyword} {good}"), NodeDump)


def test_a_changed_key_is_hidden_by_no_other_way(ssh_lab: SshLab) -> None:
    """`--via auto` goes on to exec where SSH does not work; not where somebody else may be answering."""
    node, other = ssh_lab.node("kubworker1"), ssh_lab.node("kubworker2")
    ssh_lab.known_hosts.write_text(f"{node.address} {other.host_key}\n")
    changed = read(ssh_lab, node)
    assert isinstance(changed, Unreachable)
    assert changed.final
    ssh_lab.known_hosts.write_text("")
    unknown = read(ssh_lab, node)
    assert isinstance(unknown, Unreachable)
    assert not unknown.final

    class Says:
        """A reader that always gives one answer."""

        via = "says"

        def __init__(self, answer: NodeOutcome) -> None:
            self.read = lambda _: answer

        def close(self) -> None:
            pass

    dump = NodeDump(node="n", files={})
    for first, right in ((changed, False), (unknown, True)):
        found = FirstOf([Says(first), Says(dump)]).read(NodeTarget(name="n"))  # type: ignore[list-item]
        assert isinstance(found, NodeDump) is right


@pytest.mark.parametrize("how", ["hashed", "wildcard", "several"])
def test_known_hosts_of_every_form(how: str, ssh_lab: SshLab) -> None:
    """Hashed names, wildcards and lists of names in known_hosts are understood."""
    node = ssh_lab.node("kubworker1", files=node_files(), port=2222)
    names = {
        "hashed": node.known_as,
        "wildcard": f"other,[{node.address.rpartition('.')[0]}.*]:2222",
        "several": f"other,{node.known_as},x",
    }
    ssh_lab.known_hosts.write_text(f"{names[how]} {node.host_key}\n")
    if how == "hashed":
        subprocess.run(["ssh-keygen", "-H", "-f", str(ssh_lab.known_hosts)], check=True, capture_output=True)
        assert node.address not in ssh_lab.known_hosts.read_text()
    assert isinstance(read(ssh_lab, node, port=2222), NodeDump)


def test_a_bad_line_costs_a_warning_only(ssh_lab: SshLab) -> None:
    """A line of known_hosts that makes no sense is skipped, with a warning that names it."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.known_hosts.write_text("what is this\n@strange x ssh-ed25519 AAAA\n")
    ssh_lab.trust(node)
    warnings: list[str] = []
    assert isinstance(read(ssh_lab, node, warnings=warnings), NodeDump)
    assert [w.partition(" is skipped")[0] for w in warnings] == [f"{ssh_lab.known_hosts}:1", f"{ssh_lab.known_hosts}:2"]


def test_a_revoked_key_is_refused(ssh_lab: SshLab) -> None:
    """A key that a @revoked line holds is refused although another line knows it."""
    node = ssh_lab.node("kubworker1")
    ssh_lab.trust(node)
    with ssh_lab.known_hosts.open("a") as file:
        file.write(f"@revoked * {node.host_key}\n")
    assert "is revoked" in reason(read(ssh_lab, node))
    assert sessions(node) == 0


def certify(lab: SshLab, node: SshNode, authority: Path, *more: str) -> str:
    """Sign the node's host key; the line for sshd_config."""
    public = f"{node.host_key_file}.pub"
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-h", *more, public]
    subprocess.run(command, check=True, capture_output=True)
    return f"HostCertificate {node.host_key_file}-cert.pub"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_host_certificate_of_a_known_authority_is_trusted(kind: str, ssh_lab: SshLab) -> None:
    """A host that shows a certificate by an authority of an @cert-authority line is known, with no line of its own."""
    authority = ssh_lab.keygen("ca", kind)
    node = ssh_lab.node("kubworker1", files=node_files())
    line = certify(ssh_lab, node, authority, "-n", node.address)
    restart(ssh_lab, node, line)
    words = authority.with_suffix(".pub").read_text().split()[:2]
    ssh_lab.known_hosts.write_text(f"@cert-authority *.example,{node.address.rpartition('.')[0]}.* {' '.join(words)}\n")
    assert isinstance(read(ssh_lab, node), NodeDump)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (("-n", "another.host"), "is for another.host, not for"),
        (("-V", "20200101:20210101"), "is not valid now"),
        ((), ""),
    ],
)
def test_a_host_certificate_that_is_not_good_is_refused(how: tuple[str, ...], says: str, ssh_lab: SshLab) -> None:
    """A host certificate for another name, out of its time, or by an authority that is not known, is refused."""
    authority = ssh_lab.keygen("ca")
    known = authority if how else ssh_lab.keygen("other-ca")
    node = ssh_lab.node("kubworker1")
    restart(ssh_lab, node, certify(ssh_lab, node, authority, *how))
    words = known.with_suffix(".pub").read_text().split()[:2]
    ssh_lab.known_hosts.write_text(f"@cert-authority * {' '.join(words)}\n")
    assert (says or "is not known") in reason(read(ssh_lab, node))
    assert sessions(node) == 0


def restart(lab: SshLab, node: SshNode, *settings: str) -> None:
    """Start the node's sshd again with other settings."""
    node.stop_processes()
    lab.start_sshd(node, settings)


# -- who we are ---------------------------------------------------------------------------------------------------------


def test_a_refused_key_is_named(ssh_lab: SshLab) -> None:
    """When the node takes none of the keys, the reason says who was refused and which keys were offered."""
    node = ssh_lab.node("kubworker1")
    ssh_lab.trust(node)
    wrong = ssh_lab.keygen("wrong")
    said = reason(read(ssh_lab, node, identities=(str(wrong),), user="root"))
    assert said == f"ssh: permission denied for root@{node.address} (publickey); offered {wrong}"


def test_no_key_at_all_is_said(ssh_lab: SshLab) -> None:
    """Without any key to offer, the reason says so, and a missing identity file is warned of."""
    node = ssh_lab.node("kubworker1")
    ssh_lab.trust(node)
    warnings: list[str] = []
    said = reason(read(ssh_lab, node, identities=("/nonexistent/key",), warnings=warnings))
    assert "there is no key to offer" in said
    assert warnings == ["identity file /nonexistent/key does not exist"]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_every_kind(kind: str, ssh_lab: SshLab) -> None:
    """Ed25519, ECDSA and RSA keys log in; RSA with SHA-2, which is all that today's sshds take."""
    key = ssh_lab.keygen("key", kind)
    node = ssh_lab.node("kubworker1", files=node_files(), keys=(key,))
    ssh_lab.trust(node)
    assert isinstance(read(ssh_lab, node, identities=(str(key),)), NodeDump)


@pytest.fixture
def agent(ssh_lab: SshLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh-agent, empty."""
    path = ssh_lab.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if path.exists():
                break
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield path
    finally:
        process.kill()
        process.wait()


def add(*keys: Path) -> None:
    for key in keys:
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)


AGENT = ("Host *", "  IdentityAgent SSH_AUTH_SOCK", "  IdentitiesOnly no", "  IdentityFile none")


def test_the_agents_keys_are_offered(ssh_lab: SshLab, agent: Path) -> None:
    """A key that only the agent has logs in, for many nodes at once."""
    key = ssh_lab.keygen("in-agent", "rsa")
    add(key)
    key.unlink()
    nodes = [ssh_lab.node(f"kubworker{n}", files=node_files(number=n), keys=(key,)) for n in (1, 2, 3)]
    ssh_lab.trust(*nodes)
    with reading(options(ssh_lab, *AGENT)) as reader:
        outcomes = list(read_all(handles(reader, [target(node) for node in nodes])))
    assert all(isinstance(outcome, NodeDump) for outcome in outcomes), outcomes


def test_a_certificate_logs_in(ssh_lab: SshLab, agent: Path) -> None:
    """A user certificate logs in, from a file beside its key and from the agent."""
    authority, key = ssh_lab.keygen("user-ca"), ssh_lab.keygen("certified")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "root", f"{key}.pub"], check=True, capture_output=True
    )
    trusted = f"TrustedUserCAKeys {authority}.pub"
    node = ssh_lab.node("kubworker1", files=node_files(), settings=(trusted, "AuthorizedKeysFile none"))
    ssh_lab.trust(node)
    assert isinstance(read(ssh_lab, node, identities=(str(key),)), NodeDump)
    add(key)
    key.unlink()
    assert isinstance(read(ssh_lab, node, *AGENT), NodeDump)


def test_too_many_keys_are_explained(ssh_lab: SshLab, agent: Path) -> None:
    """When sshd hangs up because of the many wrong keys of an agent, the reason says that, and what to do."""
    keys = [ssh_lab.keygen(f"wrong{n}") for n in range(7)]
    add(*keys)
    node = ssh_lab.node("kubworker1")
    ssh_lab.trust(node)
    said = reason(read(ssh_lab, node, *AGENT))
    assert "MaxAuthTries" in said
    assert "-i" in said


def test_an_identity_that_is_named_is_the_only_one_offered(ssh_lab: SshLab, agent: Path) -> None:
    """With -i, an agent full of wrong keys is no hindrance."""
    add(*[ssh_lab.keygen(f"wrong{n}") for n in range(7)])
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    assert isinstance(read(ssh_lab, node, *AGENT, identities=(str(ssh_lab.identity),)), NodeDump)


def test_an_encrypted_key_is_not_asked_about_without_a_terminal(ssh_lab: SshLab) -> None:
    """In a pipe no passphrase is asked for: the key is left out, with a warning that says what to do."""
    key = ssh_lab.keygen("encrypted", passphrase="correct horse")
    node = ssh_lab.node("kubworker1", keys=(key,))
    ssh_lab.trust(node)
    warnings: list[str] = []
    assert "there is no key to offer" in reason(read(ssh_lab, node, identities=(str(key),), warnings=warnings))
    assert "it is encrypted, and there is no terminal to ask at" in warnings[0]


def test_an_encrypted_key_is_asked_about_once(ssh_lab: SshLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the passphrase of a key is asked for once, however many nodes are read."""
    key = ssh_lab.keygen("encrypted", passphrase="correct horse")
    nodes = [ssh_lab.node(f"kubworker{n}", files=node_files(number=n), keys=(key,)) for n in (1, 2, 3)]
    ssh_lab.trust(*nodes)
    asked: list[str] = []

    def getpass(prompt: str, stream: object) -> str:
        asked.append(prompt)
        return "correct horse" if len(asked) > 1 else "wrong"

    monkeypatch.setattr("getpass.getpass", getpass)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with reading(options(ssh_lab, identities=(str(key),), batch=False)) as reader:
        outcomes = list(read_all(handles(reader, [target(node) for node in nodes])))
    assert all(isinstance(outcome, NodeDump) for outcome in outcomes), outcomes
    assert asked == [f"Passphrase for {key}: "] * 2


# -- root ---------------------------------------------------------------------------------------------------------------


def sudo(lab: SshLab, body: str) -> str:
    """A sudo on the node's PATH, as the line for sshd_config."""
    lab.script("bin/sudo", f"#!/bin/sh\n{body}\n")
    return f"SetEnv PATH={lab.folder}/bin:/usr/bin:/bin"


REFUSES = 'echo "sudo: a password is required" >&2; exit 1'
WITHOUT_PASSWORD = 'while [ "${1#-}" != "$1" ]; do case $1 in -p) shift ;; esac; shift; done; exec "$@"'
WITH_PASSWORD = """
ask= n=
while [ "${1#-}" != "$1" ]; do case $1 in -p) ask=$2; shift ;; -n) n=1 ;; esac; shift; done
if [ -n "$n" ]; then echo 'sudo: a password is required' >&2; exit 1; fi
tries=0
while [ $tries -lt 3 ]; do
  printf '%s' "$ask" >&2
  IFS= read -r word || exit 1
  if [ "$word" = 'open sesame' ]; then exec "$@"; fi
  echo 'Sorry, try again.' >&2
  tries=$((tries+1))
done
echo 'sudo: 3 incorrect password attempts' >&2; exit 1
"""


def test_sudo_that_refuses_is_a_clear_reason(ssh_lab: SshLab) -> None:
    """A user who may not sudo without a password is told so, with the ways out."""
    node = ssh_lab.node("kubworker1", users=("operator",), settings=(sudo(ssh_lab, REFUSES),))
    ssh_lab.trust(node)
    said = reason(read(ssh_lab, node, user="operator"))
    assert "sudo refused (sudo: a password is required)" in said
    assert "NOPASSWD" in said
    assert "-K" in said


def test_a_node_without_sudo_is_a_clear_reason(ssh_lab: SshLab) -> None:
    """A user who is not root, on a node without sudo, is told to log in as root."""
    node = ssh_lab.node("kubworker1", users=("operator",), settings=("SetEnv PATH=/usr/bin:/bin",))
    ssh_lab.trust(node)
    if Path("/usr/bin/sudo").exists():
        pytest.skip("this machine has a sudo of its own")
    assert "not root, and the node has no sudo" in reason(read(ssh_lab, node, user="operator"))


def test_sudo_without_a_password_is_used(ssh_lab: SshLab) -> None:
    """A user who is not root goes through sudo -n, and its shell runs the script."""
    node = ssh_lab.node("kubworker1", files=node_files(), users=("operator",), settings=(sudo(ssh_lab, WITHOUT_PASSWORD),))
    ssh_lab.trust(node)
    # This sudo makes nobody root, so the kernel refuses the rules: that the script ran at all is what counts here.
    said = reason(read(ssh_lab, node, user="operator"))
    assert said.startswith("ssh: no rules could be read: iptables-save.txt: ended with status")
    assert "Permission denied" in said


@pytest.mark.parametrize("body", [WITH_PASSWORD, WITHOUT_PASSWORD], ids=["asks", "asks-not"])
def test_the_sudo_password_goes_to_sudo_alone(body: str, ssh_lab: SshLab) -> None:
    """With -K the password answers sudo's prompt; where sudo asks for none it is not sent at all."""
    node = ssh_lab.node("kubworker1", users=("operator",), settings=(sudo(ssh_lab, body),))
    ssh_lab.trust(node)
    said = reason(read(ssh_lab, node, user="operator", sudo_password="open sesame"))
    assert said.startswith("ssh: no rules could be read")
    assert "sesame" not in said + node.log


def test_a_wrong_sudo_password_is_tried_once(ssh_lab: SshLab) -> None:
    """A wrong password is not repeated: three tries on two hundred nodes would lock the account."""
    counted = WITH_PASSWORD.replace("  IFS= read", f"  echo asked >>{ssh_lab.folder}/asked; IFS= read")
    node = ssh_lab.node("kubworker1", users=("operator",), settings=(sudo(ssh_lab, counted),))
    (ssh_lab.folder / "asked").touch()
    (ssh_lab.folder / "asked").chmod(0o666)
    ssh_lab.trust(node)
    assert reason(read(ssh_lab, node, user="operator", sudo_password="x")) == "ssh: sudo: the password was refused"
    assert "x" not in node.log.split()


def test_root_needs_no_sudo(ssh_lab: SshLab) -> None:
    """Root's reading asks for no sudo, even when a sudo password was given."""
    node = ssh_lab.node("kubworker1", files=node_files(), settings=(sudo(ssh_lab, REFUSES),))
    ssh_lab.trust(node)
    assert isinstance(read(ssh_lab, node), NodeDump)
    assert isinstance(read(ssh_lab, node, sudo_password="open sesame"), NodeDump)


# -- the user's configuration -------------------------------------------------------------------------------------------


def test_the_users_configuration_applies(ssh_lab: SshLab) -> None:
    """HostName, Port, Match, Include and HostKeyAlias of the user's ssh configuration hold, for the node's name."""
    node = ssh_lab.node("kubworker1", files=node_files(), port=2222)
    ssh_lab.known_hosts.write_text(f"alias-of-worker {node.host_key}\n")
    included = ssh_lab.folder / "included"
    included.write_text(f"Host kubworker*\n  HostName {node.address}\n  HostKeyAlias alias-of-worker\n")
    lines = (f"Include {included}", "Match originalhost kubworker1", "  Port 2222")
    with reading(options(ssh_lab, *lines)) as reader:
        outcome = reader.read(NodeTarget(name="kubworker1", addresses=(("internal", "192.0.2.77"),)))
    assert isinstance(outcome, NodeDump), outcome


def test_a_broken_configuration_is_a_reason(ssh_lab: SshLab) -> None:
    """A configuration that ssh would refuse is refused here, with ssh's own words."""
    node = ssh_lab.node("kubworker1")
    assert "Bad configuration option" in reason(read(ssh_lab, node, "Host *", "  NoSuchThing yes"))


def test_without_openssh_the_file_is_read_all_the_same(ssh_lab: SshLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ssh to ask, the configuration is read here, and Include, which is not followed, is warned of."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    warnings: list[str] = []
    lines = ("Include /etc/whatever", "Host kubworker1", f"  HostName {node.address}", "  User root")
    with reading(options(ssh_lab, *lines), warnings) as reader:
        outcome = reader.read(NodeTarget(name="kubworker1"))
    assert isinstance(outcome, NodeDump), outcome
    assert "Include is not followed" in warnings[0]


def test_a_proxy_command_carries_the_connection(ssh_lab: SshLab) -> None:
    """ProxyCommand is run, with its tokens filled in, and its streams are the connection."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    relay = (
        "import socket,sys,os,threading\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
        "def up():\n"
        "  while (d:=os.read(0,65536)): s.sendall(d)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while (d:=s.recv(65536)): os.write(1,d)\n"
    )
    (ssh_lab.folder / "relay.py").write_text(relay)
    command = f"{sys.executable} {ssh_lab.folder}/relay.py %h %p"
    assert isinstance(read(ssh_lab, node, "Host *", f"  ProxyCommand {command}"), NodeDump)


def test_a_proxy_command_that_fails_is_a_reason(ssh_lab: SshLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ProxyCommand that ends at once is reported, not waited for."""
    monkeypatch.setattr("kubectl_svcroute.collect.ssh._BUSY_TRIES", 1)
    node = ssh_lab.node("kubworker1")
    said = reason(read(ssh_lab, node, "Host *", "  ProxyCommand false"))
    assert "hung up before the SSH handshake was over" in said


@pytest.mark.parametrize("name", ["-oProxyCommand=reboot", "a b", "$(reboot)", "x;y", "", "a\nb", "`id`", "x'y"])
def test_names_that_are_options_or_shell_are_refused(name: str, ssh_lab: SshLab) -> None:
    """A node's name or address that could be taken for an option or for shell is refused before anything is run."""
    with reading(options(ssh_lab)) as reader:
        for bad in (NodeTarget(name=name), NodeTarget(name="n", addresses=(("internal", name), ("external", name)))):
            outcome = reader.read(bad)
            assert isinstance(outcome, Unreachable)
            assert "not a host name" in outcome.reason


# -- bastions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["option", "configuration"])
def test_a_bastion_is_opened_once_for_all_nodes(how: str, ssh_lab: SshLab) -> None:
    """With -J and with ProxyJump, one connection to the bastion carries every node."""
    bastion = ssh_lab.node("bastion")
    nodes = [ssh_lab.node(f"kubworker{n}", files=node_files(number=n)) for n in (1, 2, 3)]
    ssh_lab.trust(bastion, *nodes)
    if how == "option":
        chosen = options(ssh_lab, jump=f"root@{bastion.address}:22")
    else:
        chosen = options(ssh_lab, f"Host !{bastion.address} *", f"  ProxyJump root@{bastion.address}")
    with reading(chosen) as reader:
        outcomes = list(read_all(handles(reader, [target(node) for node in nodes])))
    assert all(isinstance(outcome, NodeDump) for outcome in outcomes), outcomes
    assert sessions(bastion) == 1
    assert [sessions(node) for node in nodes] == [1, 1, 1]
    assert all(f"from {bastion.address}" in node.log for node in nodes)


def test_two_bastions_in_a_row(ssh_lab: SshLab) -> None:
    """A chain of jump hosts is passed in its order."""
    first, second, node = (ssh_lab.node(name) for name in ("first", "second", "kubworker1"))
    node.load(node_files())
    ssh_lab.trust(first, second, node)
    outcome = read(ssh_lab, node, jump=f"{first.address},{second.address}")
    assert isinstance(outcome, NodeDump), outcome
    assert f"from {first.address}" in second.log
    assert f"from {second.address}" in node.log


def test_a_bastion_that_refuses_is_asked_once(ssh_lab: SshLab) -> None:
    """When the bastion does not let us in, every node behind it has that reason, and it is knocked at once."""
    bastion = ssh_lab.node("bastion")
    nodes = [ssh_lab.node(f"kubworker{n}") for n in (1, 2, 3)]
    ssh_lab.trust(bastion, *nodes)
    (bastion.folder / "authorized_keys").write_text("")
    before = bastion.log.count("Connection from")
    with reading(options(ssh_lab, jump=bastion.address)) as reader:
        outcomes = list(read_all(handles(reader, [target(node) for node in nodes])))
    for outcome in outcomes:
        assert f"jump host root@{bastion.address}: permission denied" in reason(outcome)
    assert bastion.log.count("Connection from") - before == 1


def test_a_node_that_the_bastion_cannot_reach(ssh_lab: SshLab) -> None:
    """When the bastion is well and the node behind it is not, the reason names both."""
    bastion = ssh_lab.node("bastion")
    ssh_lab.trust(bastion)
    gone = NodeTarget(name="gone", addresses=(("internal", bastion.address.rpartition(".")[0] + ".250"),))
    with reading(options(ssh_lab, jump=bastion.address, port=1, connect_timeout=4)) as reader:
        said = reason(reader.read(gone))
    assert f"jump host root@{bastion.address}" in said


def test_jump_hosts_in_a_circle_end(ssh_lab: SshLab) -> None:
    """Jump hosts that jump through each other are an error, not a hang."""
    lines = ("Host a", "  ProxyJump b", "Host b", "  ProxyJump a")
    with reading(options(ssh_lab, *lines)) as reader:
        assert reason(reader.read(NodeTarget(name="a")))


# -- sick nodes ---------------------------------------------------------------------------------------------------------


def sick(lab: SshLab, name: str, body: str, **more: Any) -> SshNode:
    """A node that does something of its own whatever it is asked to run."""
    script = lab.script(f"sick-{name}", f"#!/bin/sh\n{body}\n")
    node = lab.node(name, settings=(f"ForceCommand {script}",), **more)
    lab.trust(node)
    return node


RUN = 'exec sh -c "$SSH_ORIGINAL_COMMAND"'


def test_a_node_that_hangs_after_half_its_output(ssh_lab: SshLab) -> None:
    """A node that stops in the middle is given up when its time is over, and says how much came."""
    node = sick(ssh_lab, "half", "head -c 100000 /dev/zero; exec sleep 600")
    said = reason(read(ssh_lab, node, command_timeout=1.5))
    assert "did not end within" in said
    assert "100000 bytes came" in said


def test_a_node_that_prints_a_gigabyte(ssh_lab: SshLab) -> None:
    """Endless output is cut off soon when it is not the script's, and at the bound when it is."""
    node = sick(ssh_lab, "endless", "exec head -c 1000000000 /dev/zero")
    said = reason(read(ssh_lab, node))
    assert "prints something else than the node script" in said
    node = sick(
        ssh_lab, "pretender", "n=$(sed -n 's/^K=//p' | head -1); echo \"$n start plain\"; exec head -c 1000000000 /dev/zero"
    )
    assert "printed more than 2 MiB" in reason(read(ssh_lab, node, max_bytes=2 << 20))


def test_noise_and_terminal_escapes(ssh_lab: SshLab) -> None:
    """A chatty profile on both streams does no harm to a dump, and escapes do not reach a reason."""
    node = sick(ssh_lab, "chatty", rf"printf 'Hi!\033[2J\n'; printf '\033]0;pwned\007' >&2; {RUN}")
    node.load(node_files())
    outcome = read(ssh_lab, node)
    assert isinstance(outcome, NodeDump)
    assert rules(outcome.files["iptables-save.txt"]) == rules((node_files() / "iptables-save.txt").read_text())
    node = sick(ssh_lab, "rude", r"printf '\033[31mno\033[0m\r\nway' >&2; exit 7")
    assert reason(read(ssh_lab, node)) == "ssh: the node's shell ended with status 7: [31mno [0m way"


def test_both_streams_full(ssh_lab: SshLab) -> None:
    """Megabytes on stderr and on stdout at the same time block nothing."""
    flood = "head -c 4000000 /dev/zero | tr '\\0' x"
    node = sick(ssh_lab, "full", f"{flood} >&2; {flood.replace('4000000', '900000')}; {flood} >&2; {RUN}")
    node.load(node_files())
    outcome = read(ssh_lab, node)
    assert isinstance(outcome, NodeDump), outcome


def test_a_session_that_is_killed(ssh_lab: SshLab) -> None:
    """A connection that breaks in the middle of the output is a reason, never a dump."""
    node = sick(ssh_lab, "killed", "echo some output; kill -9 $PPID; sleep 1")
    said = reason(read(ssh_lab, node))
    assert "exit status" in said or "connection broke" in said


def test_a_script_that_is_cut_off_with_status_0(ssh_lab: SshLab) -> None:
    """Output that ends early is refused although the status is 0."""
    node = sick(ssh_lab, "cut", f"( {RUN} ) | head -c 700; exit 0")
    node.load(node_files())
    assert "cut off" in reason(read(ssh_lab, node)) or "damaged" in reason(read(ssh_lab, node))


def test_a_restricted_account(ssh_lab: SshLab) -> None:
    """An account that runs nothing is a reason with the account's own words."""
    node = sick(ssh_lab, "nologin", "echo 'This account is currently not available.'; exit 1")
    assert "status 1" in reason(read(ssh_lab, node))


def test_a_shell_that_ends_before_it_was_told_anything(ssh_lab: SshLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an account that ends at once has said is the reason, also when it ended before the script could be sent."""
    import paramiko

    send = paramiko.Channel.sendall

    def late(channel: Any, data: bytes) -> None:
        for _ in range(600):
            if channel.closed:
                break
            time.sleep(0.05)
        assert channel.closed
        send(channel, data)

    monkeypatch.setattr(paramiko.Channel, "sendall", late)
    node = sick(ssh_lab, "nologin", "echo go away >&2; exit 1")
    assert reason(read(ssh_lab, node)) == "ssh: the node's shell ended with status 1: go away"
    node = sick(ssh_lab, "killed", "kill -9 $PPID; sleep 1")
    assert reason(read(ssh_lab, node)) == "ssh: the connection broke: Socket is closed"


def test_nobody_there(ssh_lab: SshLab) -> None:
    """A port that nobody listens on and a name that does not exist are told apart."""
    node = ssh_lab.node("kubworker1")
    assert f"[{node.address}]:9: connection refused" in reason(read(ssh_lab, node, port=9))
    with reading(options(ssh_lab, addresses=("name",))) as reader:
        assert "no such host" in reason(reader.read(NodeTarget(name="does-not-exist.invalid")))
    with reading(options(ssh_lab, addresses=("external",))) as reader:
        assert "no address of the kinds external" in reason(reader.read(target(node)))


def test_the_next_address_is_tried(ssh_lab: SshLab) -> None:
    """A node that does not answer at one of its addresses is read at the next."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    with reading(options(ssh_lab)) as reader:
        outcome = reader.read(
            NodeTarget(name="kubworker1.invalid", addresses=(("internal", "127.0.0.9"), ("external", node.address)))
        )
    assert isinstance(outcome, NodeDump), outcome


def test_max_startups_is_respected(ssh_lab: SshLab) -> None:
    """Forty readings at once of an sshd that takes three unauthenticated connections all succeed."""
    node = ssh_lab.node("kubworker1", files=node_files(), settings=("MaxStartups 3", "MaxSessions 100"))
    ssh_lab.trust(node)
    targets = [NodeTarget(name=f"node{n}", addresses=(("internal", node.address),)) for n in range(40)]
    with reading(options(ssh_lab)) as reader:
        outcomes = list(read_all(handles(reader, targets), parallel=40))
    assert [o for o in outcomes if isinstance(o, Unreachable)] == []
    assert {o.node for o in outcomes} == {t.name for t in targets}


# -- servers that no sshd would be --------------------------------------------------------------------------------------


class OddServer:
    """A server of paramiko's that misbehaves in ways in which sshd cannot be made to."""

    def __init__(self, behave: Any) -> None:
        import paramiko

        self.key = paramiko.ECDSAKey.generate()
        self.behave = behave
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.transports: list[paramiko.Transport] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        import paramiko

        behave = self.behave

        class Session(paramiko.ServerInterface):
            def check_auth_none(self, username: str) -> int:
                return paramiko.common.AUTH_SUCCESSFUL

            def get_allowed_auths(self, username: str) -> str:
                return "none"

            def check_channel_request(self, kind: str, chanid: int) -> int:
                return paramiko.common.OPEN_SUCCEEDED

            def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
                threading.Thread(target=behave, args=(channel,), daemon=True).start()
                return True

        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.key)
            with contextlib.suppress(Exception):
                transport.start_server(server=Session())
            self.transports.append(transport)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(10)
        for transport in self.transports:
            transport.close()


def odd(tmp_path: Path, behave: Any, **more: Any) -> str:
    """The reason that a reading of an odd server ends with."""
    server = OddServer(behave)
    try:
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{server.port} {server.key.get_name()} {server.key.get_base64()}\n")
        config = tmp_path / "config"
        config.write_text("")
        chosen = SshOptions(config_file=str(config), known_hosts=(str(known),), port=server.port, batch=True, **more)
        with reading(chosen) as reader:
            return reason(reader.read(NodeTarget(name="odd", addresses=(("internal", "127.0.0.1"),))))
    finally:
        server.close()


def test_an_exit_status_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that closes its output and sends no exit status is a failure, whether the channel stays open or not."""
    monkeypatch.setattr("kubectl_svcroute.collect.ssh_session._STATUS_SECONDS", 0.3)

    def silent(channel: Any) -> None:
        channel.sendall(b"all of it\n")
        channel.shutdown_write()

    def closing(channel: Any) -> None:
        while channel.recv(65536):  # the whole script, to its end
            pass
        channel.sendall(b"all of it\n")
        channel.close()

    assert "sent no exit status" in odd(tmp_path, silent)
    assert "sent no exit status" in odd(tmp_path, closing)


def test_a_port_that_is_no_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that takes the connection and says nothing, or something else than SSH, is a reason in bounded time."""
    monkeypatch.setattr("kubectl_svcroute.collect.ssh._BUSY_TRIES", 2)
    for word in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 100_000):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def answer(server: socket.socket = server, word: bytes = word) -> None:
                held = []
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        held.append(connection)
                        connection.sendall(word)
                for connection in held:
                    connection.close()

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            (tmp_path / "config").write_text("")
            chosen = SshOptions(config_file=str(tmp_path / "config"), port=port, batch=True, connect_timeout=1)
            with reading(chosen) as reader:
                here = NodeTarget(name="odd.invalid", addresses=(("internal", "127.0.0.1"),))
                assert f"[127.0.0.1]:{port}" in reason(reader.read(here))
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_nothing_is_left_behind(ssh_lab: SshLab) -> None:
    """After the readings, good and bad, no thread of a connection and no descriptor is left."""
    node = ssh_lab.node("kubworker1", files=node_files())
    ssh_lab.trust(node)
    bad = sick(ssh_lab, "bad", "exit 3")
    read(ssh_lab, node)  # loads what is loaded once

    def left() -> tuple[int, int]:
        for _ in range(100):
            if not any("Transport" in type(t).__name__ for t in threading.enumerate()):
                break
            time.sleep(0.05)
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = left()
    for _ in range(3):
        assert isinstance(read(ssh_lab, node), NodeDump)
        assert isinstance(read(ssh_lab, bad), Unreachable)
    assert left() == before


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    """Importing the reader does not load paramiko: --help must not pay for it."""
    code = "import kubectl_svcroute.collect.ssh, sys; sys.exit('paramiko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_do_not_show_the_password() -> None:
    """The sudo password is not part of what is printed of the options."""
    assert "sesame" not in repr(SshOptions(sudo_password="open sesame"))
    with pytest.raises(CollectError):
        raise CollectError(str(SshOptions()))
