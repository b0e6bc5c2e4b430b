"""The text form of nft: the same model as the JSON's, and as strict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.nft import NftRules, Rule, Unknown
from kubectl_svcroute.parse.nft_json import parse_nft_json
from kubectl_svcroute.parse.nft_text import parse_nft_text, read_line
from tests.captured import CAPTURES, capture, faults

NFTABLES = [name for name in CAPTURES if name.endswith("-nftables")]

SMALL = """table inet t {
	comment "for { tests"
	set s {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8,
			192.168.1.1-192.168.1.9 }
	}

	map m {
		type inet_proto . inet_service : verdict
		elements = { tcp . 80 comment "a/b, }" : goto c,
			udp . 53 : drop }
	}

	chain b {
		type filter hook forward priority filter + 5; policy drop;
		meta l4proto . th dport vmap @m
	}

	chain c {
		ip saddr @s accept comment "all } of them"
	}
}
"""


def dumps(name: str) -> list[Path]:
    root = capture(name)
    return sorted([*root.glob("nodes/*/nft-ruleset.json"), *root.glob("faults/*/nodes/*/nft-ruleset.json")])


@pytest.mark.parametrize("name", NFTABLES)
def test_both_forms_of_a_capture_come_to_the_same(name: str) -> None:
    """Healthy or faulty, JSON and text of one node are one model."""
    assert len(dumps(name)) == 5 + len(faults(name))
    for file in dumps(name):
        assert parse_nft_json(file.read_text()) == parse_nft_text(file.with_suffix(".txt").read_text()), file


def test_cut_anywhere_it_raises() -> None:
    """A text that stops early is never a smaller ruleset."""
    for cut in range(len(SMALL)):
        with pytest.raises(ParseError):
            parse_nft_text(SMALL[:cut])
    assert parse_nft_text(SMALL).tables


@pytest.mark.parametrize("name", NFTABLES)
def test_captures_cut_at_any_line_raise(name: str) -> None:
    """But between two whole tables, where nothing can show it: a missing family is then missing."""
    lines = dumps(name)[0].with_suffix(".txt").read_text().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        if lines[cut - 1] == "}\n" or (lines[cut - 1] == "\n" and lines[cut - 2] == "}\n"):
            continue
        with pytest.raises(ParseError):
            parse_nft_text("".join(lines[:cut]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "hello\n",
        SMALL + "}\n",
        SMALL + SMALL,
        SMALL + "x\n",
        SMALL.replace("chain c {", "chain b {"),
        SMALL.replace("hook forward", "hook sideways"),
        SMALL.replace("priority filter + 5", "priority banana"),
        SMALL.replace("type ipv4_addr", "banana ipv4_addr"),
        SMALL.replace(" : goto c,", " : goto c"),
        SMALL.replace("table inet", "table ipx"),
    ],
)
def test_what_nft_would_not_print_raises(text: str) -> None:
    """Each is refused as a whole."""
    with pytest.raises(ParseError):
        parse_nft_text(text)


def test_a_small_text_is_read() -> None:
    """Names, priorities by name, elements over several lines, comments with braces."""
    table = parse_nft_text(SMALL).tables["inet", "t"]
    assert (table.chains["b"].priority, table.chains["b"].policy) == (5, "drop")
    assert [len(table.sets[name].elements) for name in ("s", "m")] == [2, 2]
    assert table.chains["c"].rules[0].comment == "all } of them"


@pytest.mark.parametrize(
    "line", ["banana split", "ip daddr 1.1.1.1 banana", "xt match statistic", 'ip daddr "', "ip saddr { 1.1.1.1"]
)
def test_a_rule_that_is_not_known_ends_in_unknown(line: str) -> None:
    """What is not understood is kept, and says so."""
    statements, _ = read_line(line)
    assert isinstance(statements[-1], Unknown)


# ---- against nft itself ---------------------------------------------------------------------------------------------------

needs_nft = [
    pytest.mark.root,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="loading rules takes root"),
    pytest.mark.skipif(not shutil.which("nft") or not shutil.which("unshare"), reason="no nft or no unshare on this machine"),
]

BASE = """table inet foo {
 set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.1-192.168.1.9 } }
 set d { type ipv4_addr; flags dynamic,timeout; timeout 3h; elements = { 1.2.3.4 timeout 1h comment "x, y" } }
 set c { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 80-90, 1.1.1.1 . 22 } }
 map m { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 1.2.3.4 . 80 : 10.0.0.1 . 8080 } }
 map pm { type inet_service : ipv4_addr; elements = { 80 : 10.0.0.5 } }
 map n { type inet_service : verdict; flags interval; elements = { 1-10 : accept, 20 : drop, 22 : jump x } }
 map k { type ipv4_addr : mark; elements = { 1.1.1.1 : 0x5 } }
 map catch { type inet_service : verdict; elements = { 1 : accept, * : drop } }
 set ifs { type ifname; flags interval; elements = { "eth0", "veth*" } ; }
 counter cc { packets 0 bytes 0; }
 chain x { return; }
 chain base { type filter hook forward priority filter + 5; policy drop; RULES; }
 chain nat { type nat hook prerouting priority dstnat; NAT; }
 chain post { type nat hook postrouting priority srcnat - 3; POST; }
}
"""
RULES = """
ct state established,related accept
ct state { new, untracked } counter log prefix "hi; there" level info limit rate 10/second jump x comment "co"
ct state != new drop
ct status dnat,snat accept
ct direction original accept
ct original ip daddr 1.2.3.4 accept
ct mark & 0x3 == 0x1 accept
iifname "veth*" oifname { "eth0", "eth1" } accept
iifname @ifs drop
iif "lo" accept
meta skuid 0 counter accept
tcp flags syn / fin,syn,rst,ack accept
tcp dport { 80, 443, 1000-2000 } ip daddr @s accept
tcp dport != { 1, 2 } accept
tcp dport >= 1024 accept
tcp sport 1024-65535 accept
ip saddr . tcp dport @c drop
ip daddr . tcp dport vmap { 1.2.3.4 . 80 : accept, 1.2.3.5 . 81 : goto x }
th dport vmap @n
tcp dport vmap @catch
meta mark set meta mark & 0xffffbfff | 0x4000
meta mark set meta mark ^ 0x4000
meta mark set ct mark
ct mark set ct mark | 0x10
meta mark set 0x10
meta mark set ip saddr map @k
meta mark & 0xff == 0x10 accept
meta mark { 0x10, 0x20 } accept
fib saddr . iif oif missing drop
fib daddr type { local, broadcast } accept
numgen random mod 100 < 50 accept
meta l4proto tcp reject with tcp reset
reject with icmpx type admin-prohibited
reject
ip6 saddr fd00::/8 accept
meta nfproto ipv4 accept
ip protocol udp accept
add @d { ip saddr timeout 10s }
ip daddr != 127.0.0.0/8 meta l4proto { tcp, udp } accept
meta l4proto . th dport { tcp . 53, udp . 53 } accept
counter name cc
ip daddr 10.0.0.1-10.0.0.9 accept
meta nftrace set 1
ip dscp set cs1
tcp option maxseg size set rt mtu
"""
NAT = """
dnat ip to ip daddr . tcp dport map @m
dnat ip to tcp dport map @pm
tcp dport 80 dnat ip to 10.0.0.1:8080
tcp dport 80 dnat ip to 10.0.0.1
tcp dport 80 dnat ip to 10.0.0.1-10.0.0.3:80-90 persistent
tcp dport 80 dnat ip6 to [fd00::1]:80
tcp dport 80 redirect to :8080
tcp dport 80 dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
tcp dport 80 dnat ip to numgen inc mod 2 offset 1 map { 1 : 10.0.0.1, 2 : 10.0.0.2 }
tcp dport 80 dnat ip to numgen random mod 10 map { 0-4 : 10.0.0.1, 5-9 : 10.0.0.2 }
"""
POST = """
masquerade
oifname "eth0" masquerade random,persistent
meta l4proto tcp masquerade to :1024-65535 fully-random
snat ip to 1.2.3.4
tcp dport 80 snat ip to 1.2.3.4:1000-2000
"""


def load(text: str) -> tuple[NftRules, NftRules]:
    """Load a ruleset into a namespace of its own and read it back both ways."""
    script = "nft -f - && nft -j list ruleset && echo ======== && nft list ruleset"
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], input=text, text=True, capture_output=True, check=False)
    if done.returncode and ("unshare" in done.stderr or "Operation not supported" in done.stderr):
        pytest.skip(f"this machine cannot: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    printed, _, plain = done.stdout.partition("========\n")
    return parse_nft_json(printed), parse_nft_text(plain)


def lines(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if line)


@pytest.mark.root
@needs_nft[1]
@needs_nft[2]
def test_every_statement_comes_to_the_same_in_both_forms() -> None:
    """What this machine's nft prints of one ruleset as JSON and as text is one model, and nothing of it is unknown."""
    text = BASE.replace("RULES;", lines(RULES)).replace("NAT;", lines(NAT)).replace("POST;", lines(POST))
    from_json, from_text = load(text)
    assert from_json == from_text
    for chain in from_text.tables["inet", "foo"].chains.values():
        assert not [rule for rule in chain.rules if any(isinstance(s, Unknown) for s in rule.statements)]


@pytest.mark.root
@needs_nft[1]
@needs_nft[2]
@pytest.mark.parametrize("name", NFTABLES)
def test_a_capture_loaded_into_a_kernel_reads_back_the_same(name: str) -> None:
    """The captured text, through this machine's nft and kernel, is the captured model again."""
    file = dumps(name)[0]
    from_json, from_text = load(file.with_suffix(".txt").read_text())
    assert from_json == from_text == parse_nft_json(file.read_text())


def test_rules_compare_by_what_they_say() -> None:
    """A rule read from JSON equals the same rule read from text."""
    from kubectl_svcroute.parse.nft_json import read_rule

    printed = json.dumps({"rule": {"expr": [{"jump": {"target": "services"}}]}})
    assert Rule(printed, read_rule) == Rule("jump services", read_line)
