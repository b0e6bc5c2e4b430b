"""Will kube-proxy fix it by itself, and when? (kube-proxy-rules.md, section 8; field-notes.md, 1.3)

A kube-proxy that can write its partial syncs (iptables from 1.27, nftables from 1.31) repairs what each of them writes anyway,
which in iptables mode are all chains that Services share, and in nftables mode nothing but the changed Services' own. The rest
waits for a full sync: at start, after a sync that failed, when the canary chain of table mangle is gone (iptables), and from 1.33
on when the last one is an hour old. A sync fails, and a full one follows, where a rule leads to a chain that is gone; chains that
are there and empty do not make it fail.
"""

from __future__ import annotations

from typing import Literal

from ..model.fast_dataclass import dataclass

Place = Literal["", "hook", "fixed", "filter", "entry", "service", "flushed", "gone", "belief", "mode", "leftover", "foreign"]
"""Where a mistake is.

`hook`: kube-proxy's jumps from built-in chains, or its base chains; `fixed`: chains that Services share; `filter`: of those the
ones that refuse and drop; `entry`: a Service's rule or element in a chain or map that Services share; `service`: a Service's own
chains; `flushed`: all of kube-proxy's chains are empty; `gone`: they are not there; `belief`: rules that only kube-proxy itself
can have written so; `mode`: rules of another mode, which kube-proxy removes when it starts; `leftover`: rules of another backend
or mode, which it never removes; `foreign`: another program's rule. Behind a colon the hook may follow."""

ProxyState = Literal["runs", "behind", "failing", "crashing", "stopped"]
"""What is known of the node's kube-proxy; `runs` where nothing speaks against it."""

_RESTART = "To fix it now: restart the node's kube-proxy pod"
_STATES: dict[ProxyState, str] = {
    "behind": "kube-proxy has not written the changes that it knows (SR603), so another change need not fix this",
    "failing": "kube-proxy fails to write its rules (SR603): neither a change nor a restart fixes this before the reason in its"
    " log is gone",
    "crashing": "kube-proxy keeps crashing on this node (SR609), so nothing fixes this until it runs",
    "stopped": "no kube-proxy runs on this node (SR610), so nothing fixes this until it is started",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Healing:
    """What the answer depends on."""

    rewrites_always: bool
    """Each sync rewrites everything: there are no partial syncs."""
    large: bool
    """More than 1000 endpoints."""
    version: tuple[int, int]
    nftables: bool
    proxy: ProxyState = "runs"
    canary_gone: bool = False
    """kube-proxy's canary is not in table mangle, which it looks for every 30 s."""

    def of(self, place: str) -> str:
        """Whether and when kube-proxy fixes a mistake at a place."""
        where = place.partition(":")[0]
        if not where:
            return ""
        if where == "foreign":
            return "kube-proxy will not fix this, nor does a restart: another program added the rule"
        if where == "leftover":
            return "kube-proxy will not fix this, nor does a restart: it leaves these rules of another backend or mode alone"
        if self.proxy != "runs":
            return _STATES[self.proxy] + (f". {_RESTART}" if self.proxy == "behind" else "")
        if where == "mode":
            return f"kube-proxy removes rules of its other modes when it starts, and not afterwards. {_RESTART}"
        if where == "belief":
            return (
                "kube-proxy itself may take this for right, and then writes it again at every sync."
                f" {_RESTART}, which reads Services and endpoints anew"
            )
        if self.rewrites_always and self.version <= (1, 16):
            return "kube-proxy fixes this within 30 s, when it rewrites its rules; if it stays, kube-proxy is stuck"
        if self.canary_gone and not self.nftables and self.version >= (1, 16):
            return "kube-proxy fixes this within 30 s, as its canary is gone from table mangle too; if it stays, it is stuck"
        if self._by_any_sync(where):
            return (
                "kube-proxy fixes this at the next change of any Service or endpoint, at the latest within an hour."
                f" {_RESTART}"
            )
        own = "when this Service or its endpoints change" if where in ("service", "entry") else ""
        if not self._why_no_full_sync:
            first = f"{own}, or " if own else ""
            return f"kube-proxy fixes this {first}at its next full sync (within an hour). {_RESTART}"
        if own:
            return f"kube-proxy fixes this only {own} ({self._why_no_full_sync}). {_RESTART}"
        return f"kube-proxy does not fix this by itself ({self._why_no_full_sync}). {_RESTART}"

    def _by_any_sync(self, where: str) -> bool:
        """True if every sync repairs it, whatever changed: by writing it, or by failing, after which a full one follows."""
        return self.rewrites_always or where == "gone" or (where in ("fixed", "filter", "entry") and not self.nftables)

    @property
    def _why_no_full_sync(self) -> str:
        """Why no full sync comes by itself; empty where one comes at least hourly."""
        if self.version < (1, 33):
            return "this version makes no full sync by itself"
        if not self.large or self.nftables or self.version == (1, 33):
            return ""
        if self.version <= (1, 35):
            return "late releases of this version make no hourly full sync above 1000 endpoints"
        return "above 1000 endpoints there is no hourly full sync"
