"""Will kube-proxy mend it by itself? (kube-proxy-rules.md, section 8; field-notes.md, 1.3)"""

from __future__ import annotations

from ..model.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Healing:
    """What the answer depends on."""

    rewrites_always: bool
    """Each sync rewrites everything (up to 1.26)."""
    hourly: bool
    """A full sync at least hourly (from 1.33)."""
    large: bool
    """More than 1000 endpoints: the hourly full sync is left out in iptables mode."""
    version: tuple[int, int]
    nftables: bool

    def of(self, place: str) -> str:
        """Whether and when a mistake at a place is mended."""
        where = place.partition(":")[0]
        restart = "restart the node's kube-proxy pod to mend it now"
        if not where or where == "foreign":
            return "kube-proxy will not mend this: the rule is another program's" if where else ""
        if self.rewrites_always:
            if self.version <= (1, 16):
                return "heals by itself: this kube-proxy rewrites its rules every 30 s; if it stays, kube-proxy is stuck"
            return f"heals at the next change of any Service or endpoint, or within the hour; {restart}"
        if where in ("fixed", "filter"):
            return f"heals at the next change of any Service or endpoint, or within the hour; {restart}"
        full = "a full sync"
        if self.hourly and not (self.large and not self.nftables):
            return f"heals at {full}, at the latest within the hour; {restart}"
        if where == "service":
            only = "heals only when this Service or its endpoints change"
            why = "above 1000 endpoints there is no hourly full sync" if self.large and self.hourly else "partial syncs leave it"
            return f"{only} ({why}); {restart}"
        why = "no hourly full sync above 1000 endpoints" if self.hourly else "partial syncs leave it"
        return f"will not heal by itself ({why}); {restart}"
