"""A packet's way through hand-written rules: chance, sources, doubts, NAT, returns."""

from __future__ import annotations

import pytest

from kubectl_svcroute.model.net import Frontend, FrontendKind, Protocol
from kubectl_svcroute.model.ranges import network, number, single, union
from kubectl_svcroute.model.routes import Action
from kubectl_svcroute.model.walk_result import Atom, Observed
from kubectl_svcroute.observe.ask import Asker
from kubectl_svcroute.observe.hook_order import merge
from kubectl_svcroute.observe.iptables import base_chains
from kubectl_svcroute.observe.packet import Interface, NodeContext
from kubectl_svcroute.parse.iptables_save import parse_iptables_save

PODS = network("10.244.1.0/24")
KUARD = Frontend("10.96.0.9", Protocol.TCP, 80, FrontendKind.CLUSTER_IP)


def dump(**tables: str) -> str:
    """iptables-save text of tables given as `chain rule` lines; user chains are declared by being named."""
    builtin = {
        "raw": ["PREROUTING", "OUTPUT"],
        "mangle": ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        "nat": ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        "filter": ["INPUT", "FORWARD", "OUTPUT"],
    }
    text = ""
    for name, body in tables.items():
        lines = [line.strip() for line in body.strip().splitlines() if line.strip()]
        policies = dict(line[1:].split() for line in lines if line.startswith(":"))
        rules = [line for line in lines if not line.startswith(":")]
        own = [w for w in dict.fromkeys(line.split()[0] for line in rules) if w not in builtin[name]]
        text += f"*{name}\n" + "".join(f":{c} {policies.get(c, 'ACCEPT')} [0:0]\n" for c in builtin[name])
        text += "".join(f":{c} - [0:0]\n" for c in own) + "".join(f"-A {rule}\n" for rule in rules) + "COMMIT\n"
    return text


def ask(text: str, *, sources: str = "10.244.1.0/24", from_node: bool = False, frontend: Frontend = KUARD) -> Observed:
    """What becomes of packets of some sources to the cluster IP."""
    context = NodeContext(
        family=4, local=union([single(number("172.18.0.13")), network("127.0.0.0/8")]), pod_networks=network("10.244.0.0/16")
    )
    asker = Asker(
        hooks=merge([base_chains(parse_iptables_save(text, family=4))]),
        context=context,
        pod_side=Interface(fits=frozenset({"veth+"}), not_fits=frozenset({"lo"})),
        uplink=Interface(not_fits=frozenset({"veth+", "lo"})),
    )
    return asker.ask(frontend, network(sources), from_node=from_node, from_pod=not from_node)


def only(observed: Observed) -> Atom:
    """The one atom of an answer."""
    assert len(observed.atoms) == 1
    return observed.atoms[0]


def shares(atom: Atom) -> dict[str, float]:
    """Backend or action -> share."""
    found: dict[str, float] = {}
    for leg, share in atom.shares.items():
        key = str(leg.backend or leg.action.value)
        found[key] = found.get(key, 0.0) + share
    return found


def test_chance_splits_the_weight() -> None:
    """1/3, 1/2, rest is an even spread."""
    text = dump(
        nat="""
        PREROUTING -j S
        S -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 1.1.1.1:1
        S -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 1.1.1.2:1
        S -p tcp -j DNAT --to-destination 1.1.1.3:1""",
        filter="",
    )
    assert shares(only(ask(text))) == pytest.approx({"1.1.1.1:1": 1 / 3, "1.1.1.2:1": 1 / 3, "1.1.1.3:1": 1 / 3}, abs=1e-8)


def test_a_source_splits_the_atom() -> None:
    """A rule about one address of many makes two atoms, and neither hides the other."""
    text = dump(nat="PREROUTING -s 10.244.1.7/32 -j ACCEPT\nPREROUTING -p tcp -j DNAT --to-destination 1.1.1.1:1", filter="")
    atoms = ask(text).atoms
    assert len(atoms) == 2
    one = next(atom for atom in atoms if atom.sources == single(number("10.244.1.7")))
    assert set(shares(one)) == {"pass"}
    assert all(set(shares(atom)) == {"1.1.1.1:1"} for atom in atoms if atom is not one)


def test_a_doubt_that_does_not_matter_is_none() -> None:
    """An unknown match before LOG, or before what comes next anyway, leaves the answer certain."""
    text = dump(nat="PREROUTING -m time --timestart 00:00:00 -j LOG\nPREROUTING -m u32 --u32 0x0=0x0 -j D\nPREROUTING -j D\n"
                "D -p tcp -j DNAT --to-destination 1.1.1.1:1", filter="")  # fmt: skip
    atom = only(ask(text))
    assert atom.unknown_share == 0
    assert set(shares(atom)) == {"1.1.1.1:1"}


def test_a_doubt_that_matters_is_said() -> None:
    """An unknown match that decides makes the route unverified, with the reason."""
    text = dump(nat="PREROUTING -m u32 --u32 0x0=0x0 -j ACCEPT\nPREROUTING -p tcp -j DNAT --to-destination 1.1.1.1:1", filter="")
    atom = only(ask(text))
    assert atom.unknown_share == pytest.approx(1)
    assert "u32" in atom.unknown[0]


@pytest.mark.parametrize("target", ["NFQUEUE --queue-num 0", "TPROXY --on-port 1", "FANCY --x", "CT --zone 7"])
def test_an_unknown_target_is_said(target: str) -> None:
    """What a target does that the walker does not know is never assumed."""
    text = dump(mangle=f"PREROUTING -j {target}", nat="PREROUTING -p tcp -j DNAT --to-destination 1.1.1.1:1", filter="")
    assert only(ask(text)).unknown_share == pytest.approx(1)


@pytest.mark.parametrize(
    "rule", ["DNAT --to-destination :0 --persistent", "DNAT [unsupported revision]", "DNAT --to-destination 0.0.0.0:0"]
)
def test_a_misprinted_dnat_is_unreadable_and_not_wrong(rule: str) -> None:
    """k/k#95409, #112477: the node's iptables cannot print the rule; what it does is not known."""
    atom = only(ask(dump(nat=f"PREROUTING -p tcp -j {rule}", filter="")))
    assert atom.unknown_share == pytest.approx(1)
    assert "print" in atom.unknown[0]


def test_a_loop_ends() -> None:
    """A chain that jumps to itself, which no kernel loads, is given up and not followed for ever."""
    atom = only(ask(dump(nat="PREROUTING -j A\nA -j B\nB -j A", filter="")))
    assert atom.unknown_share == pytest.approx(1)


def test_a_packet_is_filtered_after_translation() -> None:
    """The filter table sees the backend's address, not the Service's (hook priorities)."""
    nat = "PREROUTING -p tcp -j DNAT --to-destination 10.244.1.9:8080"
    text = dump(nat=nat, filter="FORWARD -d 10.96.0.9/32 -j REJECT --reject-with icmp-port-unreachable")
    assert set(shares(only(ask(text)))) == {"10.244.1.9:8080"}
    text = dump(nat=nat, filter="FORWARD -d 10.244.1.9/32 -j DROP")
    assert set(shares(only(ask(text)))) == {"drop"}


def test_notrack_turns_translation_off() -> None:
    """An untracked connection is not translated."""
    text = dump(raw="PREROUTING -j CT --notrack", nat="PREROUTING -p tcp -j DNAT --to-destination 1.1.1.1:1", filter="")
    assert only(ask(text)).shares.keys().__iter__().__next__().action is Action.PASS


def test_goto_returns_past_its_caller() -> None:
    """After -g, the end of a chain leads to the caller's caller."""
    text = dump(nat="PREROUTING -j A\nPREROUTING -p tcp -j DNAT --to-destination 1.1.1.3:1\nA -g B\n"
                "A -p tcp -j DNAT --to-destination 1.1.1.1:1\nB -m comment --comment x", filter="")  # fmt: skip
    assert set(shares(only(ask(text)))) == {"1.1.1.3:1"}


def test_affinity_is_asked_with_a_second_packet() -> None:
    """A client that was put on a list is sent to the list's endpoint again, for as long as the rule says."""
    text = dump(
        nat="""
        PREROUTING -j S
        S -m recent --rcheck --seconds 60 --reap --name E1 --mask 255.255.255.255 --rsource -j E1
        S -m recent --rcheck --seconds 60 --reap --name E2 --mask 255.255.255.255 --rsource -j E2
        S -m statistic --mode random --probability 0.50000000000 -j E1
        S -j E2
        E1 -p tcp -m recent --set --name E1 --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 1.1.1.1:1
        E2 -p tcp -m recent --set --name E2 --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 1.1.1.2:1
        """,
        filter="",
    )
    assert ask(text).affinity == frozenset({60})
    assert ask(text.replace("--rcheck --seconds 60 --reap --name E2", "--rcheck --seconds 60 --reap --name E3")).affinity == {
        60,
        None,
    }


def test_the_node_itself_starts_at_output() -> None:
    """A local process does not pass PREROUTING on its way out."""
    text = dump(
        nat="PREROUTING -p tcp -j DNAT --to-destination 1.1.1.1:1\nOUTPUT -p tcp -j DNAT --to-destination 1.1.1.2:1", filter=""
    )
    assert set(shares(only(ask(text, sources="172.18.0.13/32", from_node=True)))) == {"1.1.1.2:1"}
