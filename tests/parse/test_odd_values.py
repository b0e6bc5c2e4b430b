"""Values that no kube-proxy and no kernel prints, and that must not bring a parser down: each was found by fuzzing."""

from __future__ import annotations

import json

import pytest
from captured import CAPTURES, capture

from kubectl_svcroute.audit.cluster import Audit
from kubectl_svcroute.checks.node import health, sysctls
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.model.nft import Unknown
from kubectl_svcroute.model.ranges import single
from kubectl_svcroute.model.selection import Selection
from kubectl_svcroute.model.snapshot import NodeDump
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.iptables import base_chains
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.iptables_save import parse_iptables_save
from kubectl_svcroute.parse.nft_text import parse_nft_text
from kubectl_svcroute.parse.proxy_config import duration, settings_from_configz, settings_from_flags, version_of
from kubectl_svcroute.sharing.iptables import Twins

DEEP = '{"kubeproxy.config.k8s.io":' + "[" * 20_000


@pytest.mark.parametrize("value", ["1.2.3s", "..s", "9" * 400 + "h", float("nan"), float("inf"), 10**400, "٣s", True, -1])
def test_what_is_no_duration_is_none(value: object) -> None:
    """Neither an exception nor a number that no timer has."""
    assert duration(value) is None


def test_durations_are_read() -> None:
    """Go's own spelling, nanoseconds and the object that older ones print."""
    assert duration("1m30.5s") == 90.5
    assert duration(".5s") == 0.5
    assert duration({"duration": 30_000_000_000}) == 30


def test_deep_nesting_is_refused() -> None:
    """JSON can be nested deeper than Python can read it."""
    for read in (lambda text: settings_from_configz(text, source="f"), lambda text: list(health(text))):
        with pytest.raises(ParseError, match="not JSON"):
            read(DEEP)


def test_health_of_another_shape() -> None:
    """A status that is no object says nothing of a family."""
    assert list(health('{"lastUpdated": "x", "status": "healthy"}')) == []


@pytest.mark.parametrize("bit", ["²", "32", "-1", "9" * 5000, ""])
def test_a_bit_that_no_mark_has_is_not_taken(bit: str) -> None:
    """kube-proxy refuses to start with one."""
    assert "masquerade_bit" not in settings_from_flags(["kube-proxy", f"--iptables-masquerade-bit={bit}"])
    with pytest.raises(ParseError, match="masqueradeBit"):
        settings_from_configz(json.dumps({"kubeproxy.config.k8s.io": {"iptables": {"masqueradeBit": True}}}), source="f")


def test_a_version_of_thousands_of_digits() -> None:
    """It is none."""
    assert version_of("v1." + "3" * 5000) is None
    assert version_of("v1.٣") is None


def test_counts_in_other_digits_are_no_counts() -> None:
    """`str.isdigit` holds for more than `int` takes."""
    values = {"net.netfilter.nf_conntrack_count": "²", "net.netfilter.nf_conntrack_max": "²"}
    assert list(sysctls(values, families=frozenset([4]), localhost_node_ports=True)) == []


@pytest.mark.parametrize(
    "options",
    ["DNAT --to-destination", "DNAT --to-destination [fd00::1", "SNAT --to-source", "SNAT --to-source [x",
     "REDIRECT --to-ports ²", "REDIRECT --to-ports", "MARK --set-xmark x", "MARK --set-xmark", "CONNMARK --mask"],
)  # fmt: skip
def test_a_target_that_iptables_would_not_print_is_unverified(options: str) -> None:
    """The walk comes to it and says that it cannot tell."""
    chain = "POSTROUTING" if options.startswith("SNAT") else "OUTPUT"
    text = f"*nat\n:{chain} ACCEPT [0:0]\n-A {chain} -p tcp -j {options}\nCOMMIT\n"
    asker = Asker(
        hooks=merge([base_chains(parse_iptables_save(text, family=4))]), context=NodeContext(family=4, local=single(1)),
        pod_side=Interface(), uplink=Interface(),
    )  # fmt: skip
    frontend = Frontend("10.96.0.1", Protocol.TCP, 80, FrontendKind.CLUSTER_IP)
    observed = asker.ask(frontend, single(1), from_node=True, from_pod=False)
    assert [atom.unknown_share for atom in observed.atoms] == [1.0]


@pytest.mark.parametrize("rule", [f"ip daddr {'9' * 5000} drop", f"th dport {'9' * 5000} drop", f"meta mark {'( ' * 5000}drop"])
def test_a_rule_of_nftables_that_is_beyond_reading_is_unknown(rule: str) -> None:
    """It is kept as it stands, and a walk that comes to it says that it cannot tell."""
    text = f"table ip t {{\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n"
    (found,) = parse_nft_text(text).tables["ip", "t"].chains["c"].rules
    assert isinstance(found.statements[0], Unknown)
    elements = f"table ip t {{\n\tset s {{\n\t\ttype ipv4_addr\n\t\telements = {{ {'9' * 5000} }}\n\t}}\n}}\n"
    with pytest.raises(ParseError, match="elements of set s"):
        parse_nft_text(elements)


@pytest.mark.parametrize("rule", ["-A FORWARD -p tcp --dport -j DROP", "-A FORWARD -s", "-A FORWARD -m", "-A FORWARD --dport x"])
def test_a_rule_that_cannot_be_weighed_turns_the_short_cut_off(rule: str) -> None:
    """Services are not taken for one another when a rule is not understood that may tell them apart."""
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n{rule}\nCOMMIT\n*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
    assert not Twins(parse_iptables_save(text, family=4), cells=(), local=single(1)).usable


def test_a_command_line_that_was_cut_is_not_used() -> None:
    """`--cluster-cidr=10.244.0.0/16` cut to `/1` is another network: what it would decide is not verified."""
    name = CAPTURES[0]
    snapshot = load_snapshot(capture(name))
    audit = Audit(snapshot.api, Selection())
    dump = snapshot.nodes[0].read()
    assert isinstance(dump, NodeDump)
    for text, cut in (("kube-proxy\n--cluster-cidr=10.244.0.0/16\n", False), ("kube-proxy\n--cluster-cidr=10.244.0.0/1", True)):
        result = audit.node(NodeDump(node=dump.node, files={**dump.files, "kube-proxy-cmdline.txt": text}))
        assert bool([u for u in result.unverified if "kube-proxy-cmdline" in u.reason]) is cut
        assert result.findings == ()
