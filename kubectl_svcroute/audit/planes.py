"""The data planes that kube-proxy can program, each behind one interface.

A plane reads its rules of a node and family, and gives them as `FamilyRules`: ready to be asked (`ground`), to be shared between
equal Services and nodes (`audit_services`), and to be checked for what no packet to a Service meets (`frame_checks`). Everything
else is the same for all planes: `audit/node.py`. Adding a plane is a module with a class like these, and a line in `PLANES`.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Literal, Protocol, cast

from ..checks.frame_iptables import Stops
from .ask_port import Ground
from .subject import Subject

Mode = Literal["iptables", "nftables"]
"""A mode of kube-proxy that can be audited, as kube-proxy names it."""


class FamilyRules(Protocol):
    """The rules of one family of one node."""

    @property
    def ground(self) -> Ground:
        """The rules, ready to be asked."""

    def audit_services(self) -> Stops:
        """Audit every Service asked for, and return at which addresses somebody should be stopped."""

    def frame_checks(self, stops: Stops) -> None:
        """Note what is wrong with rules that belong to no Service, or that no packet to one meets."""

    def close(self) -> None:
        """Let go of what is not needed any more, and remember what later nodes are compared with."""


class DataPlane(Protocol):
    """One mode of kube-proxy on one node."""

    def tables(self) -> Collection[tuple[str, str]] | None:
        """(family, name) of the nftables tables that are walked beside iptables' own; None where they cannot be told."""

    def printed(self) -> Collection[int]:
        """The families of which iptables-nft's rules were read; known once they were opened."""

    def open(self, family: int, *, asked: bool) -> FamilyRules | None:
        """Read a family's rules. None, with the reason in the ledger, where they cannot be read.

        `asked`: some Service asked for has addresses of the family. If not, the files are read all the same: a file that is
        there was read whole, or something went wrong.
        """


class _Plane(Protocol):
    def __call__(self, subject: Subject) -> DataPlane: ...


PLANES: dict[Mode, tuple[str, str]] = {
    "iptables": ("plane_iptables", "IptablesPlane"),
    "nftables": ("plane_nftables", "NftablesPlane"),
}
"""Mode -> (module of this folder, class): a plane's modules load where a node runs in its mode."""


def is_mode(text: str) -> bool:
    """True if nodes in this mode can be audited."""
    return text in PLANES


def plane(mode: str, subject: Subject) -> DataPlane:
    """The data plane of a node in a mode of `PLANES`."""
    module, name = PLANES[cast("Mode", mode)]
    return cast("_Plane", getattr(import_module(f".{module}", __package__), name))(subject)
