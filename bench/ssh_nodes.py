"""100 nodes to read over SSH, which are one sshd under 100 names: what our reader and OpenSSH's do against it.

Both run the same script, in shells of the same kind, over connections of their own, 32 at once.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sshd  # in tests/

from kubectl_svcroute.collect.node_script import new_nonce, node_script

if TYPE_CHECKING:
    from types import TracebackType

NODES = 100
AT_ONCE = 32
_READ = """
import sys
from kubectl_svcroute.collect.fanout import NodeTarget, handles, read_all
from kubectl_svcroute.collect.ssh import SshOptions, SshReader
from kubectl_svcroute.model.snapshot import NodeDump
reader = SshReader(SshOptions(config_file=sys.argv[1], batch=True))
targets = [NodeTarget(name=f"bench-{n}") for n in range(int(sys.argv[2]))]
outcomes = list(read_all(handles(reader, targets), parallel=int(sys.argv[3])))
reader.close()
bad = [o for o in outcomes if not isinstance(o, NodeDump)]
sys.exit(f"{len(bad)} of {len(outcomes)} not read: {bad[0]}" if bad else 0)
"""


def why_not() -> str:
    """Why this cannot be measured here; empty when it can."""
    return sshd.why_not() or ("" if shutil.which("ssh") and shutil.which("xargs") else "needs OpenSSH's client and xargs")


class Lab:
    """The sshd, and what either side is started with."""

    def __init__(self) -> None:
        self._lab = sshd.SshLab()
        node = self._lab.node("bench", settings=["MaxStartups 200", "MaxSessions 200"])
        self._lab.trust(node)
        self._config = self._lab.config("Host bench-*", f"  HostName {node.address}", "  User root")
        self._script = self._lab.script("read.sh", node_script(new_nonce()))

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lab.close()

    def ours(self) -> list[str]:
        """The command that reads all nodes with our reader."""
        return [sys.executable, "-c", _READ, str(self._config), str(NODES), str(AT_ONCE)]

    def theirs(self, *, exchange: str = "") -> list[str]:
        """The command that reads them with OpenSSH's client; `exchange`: with this key exchange instead of its first choice."""
        chosen = f"-o KexAlgorithms={exchange} " if exchange else ""
        ssh = f"ssh -F {self._config} -o BatchMode=yes {chosen}bench-$1 'sh -s' < {self._script} > /dev/null"
        inner = self._lab.script(f"one-{exchange or 'default'}.sh", f"#!/bin/sh\nexec {ssh}\n")
        return ["sh", "-c", f"seq 0 {NODES - 1} | xargs -P {AT_ONCE} -n 1 {Path(inner)}"]
