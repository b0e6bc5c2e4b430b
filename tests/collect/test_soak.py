"""Two hundred nodes in one run, some of them sick. SVCROUTE_SOAK=200 runs it in full; otherwise it is sixty."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import replace

from sshd import SshLab, SshNode
from test_ssh import REFUSES, RUN, node_files, rules, sudo

from kubectl_svcroute.collect.fanout import NodeTarget, Progress, handles, read_all
from kubectl_svcroute.collect.ssh import SshOptions, SshReader
from kubectl_svcroute.model.snapshot import NodeDump, Unreachable

NODES = int(os.environ.get("SVCROUTE_SOAK", "60"))


def test_many_nodes_some_of_them_sick(ssh_lab: SshLab) -> None:
    """Of many nodes every sound one is read whole, and every sick one is named once with its own reason."""
    sound = ssh_lab.node("sound", files=node_files(), settings=("MaxSessions 100",))
    ssh_lab.trust(sound)

    def sick(name: str, body: str = "", *settings: str) -> SshNode:
        forced = (f"ForceCommand {ssh_lab.script(f'sick-{name}', body)}",) if body else ()
        return ssh_lab.node(name, settings=(*settings, *forced), users=("operator",))

    says: dict[str, str] = {}
    nodes: list[SshNode] = []
    for name, body, reason in (
        ("deaf", "", "connection refused"),
        ("stranger", "", "is not known"),
        ("impostor", "", "host key has changed"),
        ("locked", "", "permission denied"),
        ("half", "#!/bin/sh\nhead -c 100000 /dev/zero; exec sleep 600\n", "did not end within"),
        ("endless", "#!/bin/sh\nexec cat /dev/zero\n", "something else than the node script"),
        ("closed", "#!/bin/sh\necho go away >&2; exit 1\n", "status 1: go away"),
        ("cut", f"#!/bin/sh\n( {RUN} ) | head -c 300; exit 0\n", "cut off"),
        ("broken", "#!/bin/sh\nkill -9 $PPID; sleep 1\n", ""),
    ):
        nodes.append(sick(name, body))
        says[name] = reason
    nodes.append(sick("powerless", "", sudo(ssh_lab, REFUSES)))
    says["powerless"] = "sudo refused"
    ssh_lab.trust(*(node for node in nodes if node.name not in ("stranger", "impostor")))
    by_name = {node.name: node for node in nodes}
    by_name["deaf"].stop_processes()
    (by_name["locked"].folder / "authorized_keys").write_text("")
    with ssh_lab.known_hosts.open("a") as file:
        file.write(f"{by_name['impostor'].address} {sound.host_key}\n")

    good = [NodeTarget(name=f"sound{i}", addresses=(("internal", sound.address),)) for i in range(NODES - 20)]
    bad = [NodeTarget(name=f"{n.name}-{copy}", addresses=(("internal", n.address),)) for copy in "ab" for n in nodes]
    config = ssh_lab.config(f"Host {by_name['powerless'].address}", "  User operator")
    heard: list[Progress] = []
    whole = rules((node_files() / "iptables-save.txt").read_text())
    # Little patience with the one that hangs, so that the test ends; much with the others, which here all share one machine.
    options = SshOptions(config_file=str(config), batch=True, addresses=("internal",), connect_timeout=120)
    patient, hasty = (SshReader(replace(options, command_timeout=seconds)) for seconds in (240, 5))
    seen: set[str] = set()
    with contextlib.closing(patient), contextlib.closing(hasty):
        in_order = (*bad[:10], *good, *bad[10:])
        readings = [handle for t in in_order for handle in handles(hasty if t.name.startswith("half") else patient, [t])]
        for outcome in read_all(readings, parallel=32, progress=heard.append):
            assert outcome.node not in seen
            seen.add(outcome.node)
            if outcome.node.startswith("sound"):
                assert isinstance(outcome, NodeDump), outcome
                assert rules(outcome.files["iptables-save.txt"]) == whole
            else:
                assert isinstance(outcome, Unreachable), outcome
                assert says[outcome.node[:-2]] in outcome.reason
    assert seen == {target.name for target in (*good, *bad)}
    assert (heard[-1].done, heard[-1].failed, heard[-1].left) == (NODES - 20, 20, 0)
    for _ in range(600):  # sshd ends its processes in its own time
        left = subprocess.run(["ip", "netns", "pids", sound.namespace], capture_output=True, text=True, check=True)
        if len(left.stdout.split()) <= 2:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("sessions were left open on the node")
