"""Entries of the connection-tracking table, as the tool and the kernel print them."""

from __future__ import annotations

import pytest

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.model.net import Protocol
from kubectl_svcroute.parse.conntrack import parse_conntrack, parse_flows

TOOL = (
    "udp      17 29 src=10.244.1.5 dst=10.96.0.10 sport=40000 dport=53 [UNREPLIED] src=10.244.1.14 dst=10.244.1.5 sport=53"
    " dport=40000 mark=0 use=1"
)
KERNEL = (
    "ipv6     10 tcp      6 117 TIME_WAIT src=fd00:0018:0000:0000:0000:0000:0000:000b dst=fd00:0096:0000:0000:0000:0000:0000:ce98"
    " sport=41 dport=80 packets=6 bytes=300"
    " src=fd00:0244:0002:0000:0000:0000:0000:001a dst=fd00:0018:0000:0000:0000:0000:0000:000b"
    " sport=8080 dport=7 packets=4 bytes=200 [ASSURED] mark=0 zone=0 use=2"
)


def test_both_forms_say_the_same_things() -> None:
    """Who dialled what, who answers to whom, in canonical addresses; accounting in between changes nothing."""
    one, two = parse_flows([TOOL, KERNEL])
    assert one[:9] == (Protocol.UDP, "10.244.1.5", 40000, "10.96.0.10", 53, "10.244.1.14", 53, "10.244.1.5", 40000)
    assert (one.state, one.replied, one.translated, one.family, one.zone) == ("", False, True, 4, False)
    assert two[:9] == (Protocol.TCP, "fd00:18::b", 41, "fd00:96::ce98", 80, "fd00:244:2::1a", 8080, "fd00:18::b", 7)
    assert (two.state, two.replied, two.zone) == ("TIME_WAIT", True, False)


def test_what_is_in_a_zone_of_its_own_is_marked() -> None:
    """Open vSwitch tracks a connection again, in a zone where kube-proxy's rules are not met."""
    assert [flow.zone for flow in parse_flows([TOOL + " zone=5", TOOL + " zone-orig=7", TOOL + " zone=0"])] == [True, True, False]


def test_what_has_no_ports_is_passed_over() -> None:
    """ICMP and the like are no connections to a Service."""
    icmp = "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7 mark=0 use=1"
    assert list(parse_flows([icmp, ""])) == []


DAMAGED = [TOOL[:60], TOOL.replace("dport=53", "dport=x"), "conntrack: operation failed", "udp", "udp 17 29"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_no_entry(line: str) -> None:
    """What is cut or is something else raises, and is not passed over."""
    with pytest.raises(ParseError):
        list(parse_flows([line]))


DUMP = f"# udp ipv4\n{TOOL}\n# status 0\n# udp ipv6\n# status 0\n# tcp ipv4\n# status 0\n# tcp ipv6\n# status 0\n# end\n"


def test_a_dump_is_whole_cut_or_damaged() -> None:
    """Parts with their status are whole, one without was cut at the bound, a failed tool or a missing end raises."""
    assert [flow.dst for flow in parse_conntrack(DUMP).flows] == ["10.96.0.10"]
    assert parse_conntrack(DUMP).cut == ()
    assert parse_conntrack(DUMP.replace("# status 0\n# udp ipv6", "# udp ipv6")).cut == ("udp ipv4",)
    assert parse_conntrack(DUMP.replace("# status 0\n# end", "# end")).cut == ("tcp ipv6",)
    for damaged in (DUMP.replace("# status 0\n# tcp ipv6", "# status 1\n# tcp ipv6"), DUMP[:-6], ""):
        with pytest.raises(ParseError):
            parse_conntrack(damaged)
