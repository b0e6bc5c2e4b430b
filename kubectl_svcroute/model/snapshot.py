"""What was read of a cluster, as it was read: raw JSON from the API, raw text from the nodes.

A snapshot on disk is a folder or a .tar.gz of it (design.md, 6.1):

    api/services.json api/endpointslices.json api/pods.json api/nodes.json   Lists, as the API server returned them
    api/configmap-kube-proxy.json version.json endpoints.json namespaces.json daemonsets.json   optional
    nodes/<node>/iptables-save.txt ip6tables-save.txt nft-ruleset.json proxy-mode.txt sysctl.txt ...
    nodes/<node>/unreachable.txt                                  instead of all these: why it could not be read

A file that is absent was not read; a file that is present was read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .fast_dataclass import dataclass, field
from .report import Unverified

NOT_READ = "not read: "
"""How a line of a node's tools.txt begins that says why a file could not be read: `not read: FILE: REASON`."""

EMPTY = "empty: "
"""How a line of tools.txt begins that says that there is nothing to read, and how that is known: `empty: FILE: WHY`.

The kernel holds no such table: on a node in nftables mode that is as it should be, on one in iptables mode all is lost.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDump:
    """What one node printed, by the file name that a snapshot gives it (`iptables-save.txt`, ...)."""

    node: str
    files: Mapping[str, str]
    via: str = "snapshot"
    """How it was read: snapshot, ssh, exec or local."""
    taken: float | None = None
    """Seconds since the epoch on the reader's clock when the reading began; None when not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """A node that could not be read, and why, in one line."""

    node: str
    reason: str
    via: str = ""
    final: bool = False
    """No other way to the node may be tried: whoever answers may not be the node."""


NodeOutcome = NodeDump | Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiObjects:
    """The API's side of a snapshot: each value a List (or a single object) as the API server returned it, or absent.

    Keys are the file names without `.json`: services, endpointslices, endpoints, pods, nodes, namespaces,
    configmap-kube-proxy, daemonsets, version.
    """

    objects: Mapping[str, Any]
    denied: tuple[Unverified, ...] = ()
    """What the reader's permissions did not allow it to list: each names the verb and the resource."""
    namespace: str | None = None
    """The only namespace that Services and EndpointSlices were listed from; None when they were listed from all."""

    def items(self, key: str) -> Sequence[dict[str, Any]]:
        """The items of a List, of a large one perhaps as `RawItems`; empty when it was not read (ask `key in objects`)."""
        found = self.objects.get(key)
        if not isinstance(found, dict):
            return []
        items = found.get("items")
        return items if isinstance(items, Sequence) and not isinstance(items, str) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHandle:
    """A node that can be read, perhaps more than once: a folder of a snapshot, or a live node behind a transport."""

    node: str
    read: Callable[[], NodeOutcome] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A cluster at one moment: the API objects, and one handle a node, read one at a time so that memory stays flat."""

    api: ApiObjects
    nodes: tuple[NodeHandle, ...]
    origin: str
    """Where it came from, for people: a path, or the name of a context."""

    def outcomes(self) -> Iterator[NodeOutcome]:
        """Read every node, in order."""
        for handle in self.nodes:
            yield handle.read()
