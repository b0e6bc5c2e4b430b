"""known_hosts files and the answers of `ssh -G`, as OpenSSH takes them."""

from __future__ import annotations

import base64
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_svcroute.collect.known_hosts import HostKeyError, KnownHosts, fingerprint, host_name, parse_line
from kubectl_svcroute.collect.ssh_config import (
    HostConfig,
    Overrides,
    expand_proxy_command,
    parse_hop,
    resolve,
    split_jump,
)
from kubectl_svcroute.errors import CollectError


def blob(seed: str, kind: str = "ssh-ed25519") -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode() + seed.encode()


def line(names: str, seed: str, kind: str = "ssh-ed25519", marker: str = "") -> str:
    key = f"{names} {kind} {base64.b64encode(blob(seed, kind)).decode()}"
    return f"{marker} {key}" if marker else key


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    path = tmp_path / "known_hosts"
    path.write_text("\n".join(lines) + "\n")
    warnings: list[str] = []
    found = KnownHosts.load([str(path)], warnings.append)
    assert warnings == []
    return found


@pytest.mark.parametrize(
    ("names", "host", "port", "matches"),
    [
        ("host", "host", 22, True),
        ("HOST", "host", 22, True),
        ("host", "HOST", 22, True),
        ("host,10.0.0.1", "10.0.0.1", 22, True),
        ("ho?t", "host", 22, True),
        ("10.0.*", "10.0.0.1", 22, True),
        ("10.0.*,!10.0.0.1", "10.0.0.1", 22, False),
        ("!10.0.0.1,10.0.*", "10.0.0.2", 22, True),
        ("[host]:2222", "host", 2222, True),
        ("[host]:2222", "host", 22, False),
        ("[ho*]:2222", "host", 2222, True),
        ("[host]:2222", "h", 22, False),
        ("host", "host", 2222, True),
        ("fe80::1", "fe80::1", 22, True),
        ("[fe80::1]:23", "fe80::1", 23, True),
    ],
)
def test_names_match_as_in_openssh(names: str, host: str, port: int, matches: bool, tmp_path: Path) -> None:
    """Lists, wildcards, negations and ports of known_hosts match as sshd(8) says."""
    assert known(tmp_path, line(names, "k")).knows(host, port, blob("k")) == matches


def test_a_key_of_another_type_is_a_changed_key(tmp_path: Path) -> None:
    """A host that is known, but with other keys only, is refused, and the line is named."""
    found = known(tmp_path, "# comment", line("host", "k", "ssh-rsa"), line("host", "m"))
    assert found.knows("host", 22, blob("m"))
    with pytest.raises(HostKeyError, match=r"known_hosts:2 has SHA256:"):
        found.knows("host", 22, blob("other"))
    assert found.types("host", 22) == ["ssh-rsa", "ssh-ed25519"]


def test_another_key_under_the_bare_name_proves_nothing(tmp_path: Path) -> None:
    """For another port, the key under the bare name is believed if it is the same and ignored if it is not."""
    found = known(tmp_path, line("host", "k"))
    assert found.knows("host", 2222, blob("k"))
    assert not found.knows("host", 2222, blob("other"))


def test_markers(tmp_path: Path) -> None:
    """A revoked key is refused though known, and an authority's key is not a host's."""
    found = known(
        tmp_path, line("*", "bad", marker="@revoked"), line("host", "bad"), line("*.example", "ca", marker="@cert-authority")
    )
    with pytest.raises(HostKeyError, match="revoked"):
        found.knows("host", 22, blob("bad"))
    assert not found.knows("a.example", 22, blob("ca"))
    assert [key.blob for key in found.authorities("a.example", 2222)] == [blob("ca")]
    revoked = known(tmp_path, line("*", "ca", marker="@cert-authority"), line("a.example", "ca", marker="@revoked"))
    assert revoked.authorities("a.example", 22) == []


@given(st.text(max_size=80))
def test_any_line_is_read_or_refused(text: str) -> None:
    """Whatever stands on a line, it is a key, nothing, or a ValueError."""
    for candidate in (text, f"host ssh-ed25519 {text}", f"@revoked {text}", f"|1|{text} ssh-rsa AAAA"):
        try:
            found = parse_line(candidate, "f:1")
        except ValueError:
            continue
        if found is not None:
            KnownHosts([found]).lines_for("host", 22)


def test_hashes_are_openssh_s(tmp_path: Path) -> None:
    """What ssh-keygen hashes is found here, and what is hashed here is found by ssh-keygen."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    words = (tmp_path / "key.pub").read_text().split()
    mine = base64.b64decode(words[1])
    path = tmp_path / "known_hosts"
    path.write_text(f"[host.example]:2222 {words[0]} {words[1]}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", str(path)], check=True, capture_output=True)
    assert KnownHosts.load([str(path)], print).knows("host.example", 2222, mine)
    KnownHosts().accept("other.example", 22, words[0], mine, path=str(path), hashed=True)
    shown = subprocess.run(["ssh-keygen", "-F", "other.example", "-f", str(path)], capture_output=True, text=True, check=True)
    assert words[1] in shown.stdout
    listed = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True)
    assert fingerprint(mine) in listed.stdout


def test_many_accept_at_once(tmp_path: Path) -> None:
    """Keys that many nodes show at once all end up in the file, a line each."""
    path = tmp_path / "new" / "known_hosts"
    found = KnownHosts()
    threads = [
        threading.Thread(
            target=found.accept,
            args=(f"h{i}", 22, "ssh-ed25519", blob(f"k{i}")),
            kwargs={"path": str(path), "hashed": False},
        )
        for i in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().splitlines()) == sorted(line(f"h{i}", f"k{i}") for i in range(50))
    assert path.stat().st_mode & 0o777 == 0o600
    assert found.knows("h7", 22, blob("k7"))


def test_a_key_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    """Where the new key cannot be written down, that is said."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CollectError, match="cannot be added"):
        KnownHosts().accept("h", 22, "ssh-ed25519", blob("k"), path=str(tmp_path / "file" / "x"), hashed=False)


def test_the_name_of_a_host() -> None:
    """A port other than 22 is part of a host's name."""
    assert [host_name("H", 22), host_name("h", 2222), host_name("fd00::1", 2)] == ["h", "[h]:2222", "[fd00::1]:2"]


@pytest.mark.parametrize(
    ("hop", "host", "user", "port"),
    [
        ("b", "b", "", 0),
        ("me@b:2222", "b", "me", 2222),
        ("ssh://me@b:2222/", "b", "me", 2222),
        ("me@[fd00::1]:22", "fd00::1", "me", 22),
        ("fd00::1", "fd00::1", "", 0),
        ("me@corp.example@b", "b", "me@corp.example", 0),
    ],
)
def test_jump_hosts_are_understood(hop: str, host: str, user: str, port: int) -> None:
    """A jump host is a name, perhaps with a user and a port, in any of ssh's spellings."""
    assert parse_hop(hop) == (host, Overrides(user=user, port=port))


@pytest.mark.parametrize("hop", ["", "-oX", "a b", "me@", "$(x)@b", "b:x", "b:1:2:z", "`id`", "-l@b"])
def test_jump_hosts_that_make_no_sense_are_refused(hop: str) -> None:
    """A jump host that could be an option or shell is refused."""
    with pytest.raises(CollectError):
        parse_hop(hop)


def test_a_list_of_jump_hosts() -> None:
    """Hops stand in the order in which they are passed, and `none` is none."""
    assert split_jump("a, me@b:22") == ["a", "me@b:22"]
    assert split_jump("none") == split_jump("") == []


def test_the_tokens_of_a_proxy_command() -> None:
    """%h, %p, %r, %n and %% are filled in, and a user name that is shell is refused."""
    config = HostConfig(alias="n", hostname="h", user="me", port=2, proxy_command="nc %h %p # %r %n 100%%")
    assert expand_proxy_command(config) == "nc h 2 # me n 100%"
    evil = HostConfig(alias="n", hostname="h", user="$(id)", port=2, proxy_command="nc %r")
    with pytest.raises(CollectError, match="may not stand in a ProxyCommand"):
        expand_proxy_command(evil)


def test_what_openssh_says_is_taken(tmp_path: Path) -> None:
    """Every setting that matters is taken from `ssh -G`, and the command line wins over the file."""
    config = tmp_path / "config"
    config.write_text(
        'Host n1\n HostName 10.0.0.1\n User core\n Port 2222\n IdentityFile "~/.ssh/with space"\n IdentitiesOnly yes\n'
        " CertificateFile /c\n ProxyJump b1,b2:23\n UserKnownHostsFile /k1 /k2\n GlobalKnownHostsFile none\n"
        " IdentityAgent none\n HostKeyAlias alias\n HashKnownHosts yes\n StrictHostKeyChecking accept-new\n"
    )

    def never(host: str, overrides: Overrides) -> dict[str, list[str]]:
        raise AssertionError

    found = resolve("n1", Overrides(config_file=str(config)), fallback=never)
    assert found == HostConfig(
        alias="n1",
        hostname="10.0.0.1",
        user="core",
        port=2222,
        identity_files=(str(Path.home() / ".ssh/with space"),),
        certificate_files=("/c",),
        proxy_jump="b1,b2:23",
        user_known_hosts=("/k1", "/k2"),
        global_known_hosts=(),
        identities_only=True,
        identity_agent="none",
        host_key_alias="alias",
        hash_known_hosts=True,
        trust="accept-new",
        algorithms=found.algorithms,
    )
    assert [keyword for keyword, _ in found.algorithms] == ["ciphers", "macs", "kexalgorithms", "hostkeyalgorithms"]
    over = resolve(
        "n1",
        Overrides(config_file=str(config), user="root", port=22, identities=("/id",), jump="j"),
        fallback=never,
    )
    assert (over.user, over.port, over.identity_files, over.proxy_jump) == ("root", 22, ("/id",), "j")
