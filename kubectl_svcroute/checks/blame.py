"""Where on its way a packet went wrong, and whose rule that is.

A way is a list of steps. For each kind of wrong end there is one question to ask of it: did it reach kube-proxy's chain; did
it find its Service there; was it marked; did it reach the masquerade. A step that is not about one address or port, outside
the chains of one Service, is the node's fault and not the Service's. Another program's rule is to blame only where
`effect.py` has shown that the packet would end as it should without it (`Case.culprits`): then it alone is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.fast_dataclass import dataclass, replace
from ..model.net import FrontendKind
from ..model.routes import Action
from ..model.walk_result import End, Step
from . import programs
from .case import Case
from .landmarks import NFTABLES

_TERMINAL = ("ACCEPT", "RETURN", "DROP", "REJECT", "DNAT", "REDIRECT", "SNAT", "MASQUERADE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """The cause of a wrong end."""

    code: str
    message: str
    key: str = ""
    node_wide: bool = False
    place: str = ""


def _entry_hook(case: Case) -> str:
    return "OUTPUT" if case.expectation.from_node else "PREROUTING"


def _where(step: Step) -> str:
    return f"{step.target} in chain {step.chain} of table {step.table}"


def foreign(case: Case, step: Step, does: str, *, code: str, one: str = "") -> Blame:
    """Another program's rule is to blame, whose name and remedy are said. `one`: the code if it is about one address or port."""
    program = programs.of_step(step, case.facts.chains())
    whose = f": a rule of {program.name}; {program.advice}" if program is not None else ""
    return Blame(
        code=one if one and step.pins else code,
        message=f"{_where(step)} {does}{whose}",
        key=step.rule,
        node_wide=not step.pins,
        place="foreign",
    )


def blame_untranslated(case: Case, end: End) -> Blame:
    """The packet passed as it came: where was it lost on its way to a DNAT?"""
    marks = case.landmarks
    if (culprit := case.culprit(end)) is not None:
        return foreign(case, culprit, f"takes the packet before {marks.services} translates it", code="SR104", one="SR102")
    hook = _entry_hook(case)
    # What stopped it in the end is another question: this one is why it was not translated before.
    way = end.way[:-1] if end.action in (Action.DROP, Action.REJECT) else end.way
    steps = [s for s in way if s.hook == hook]
    entered = next((n for n, s in enumerate(steps) if s.target == marks.services and s.table.endswith(marks.table)), None)
    if entered is None:
        if not case.facts.services_programmed:
            return _never_programmed(case)
        if (hook, marks.services) in case.facts.hooks:
            message = f"{hook}'s jump to {marks.services} does not catch the packet"
        else:
            message = f"{hook} no longer jumps to {marks.services}"
        return Blame(code="SR103", message=message, key=hook, node_wide=True, place="hook")
    # A table that comes later has no part in the translation.
    after = [s for s in steps[entered + 1 :] if s.table.endswith(marks.table)]
    own = [s for s in after if marks.of_service(s.target)]
    if own:
        stopper = next((s for s in reversed(after) if s.target in ("ACCEPT", "RETURN")), None)
        chain = own[-1].target
        if stopper is not None:
            message = f"{_where(stopper)} ends the way to an endpoint"
            return Blame(code="SR107", message=message, key=chain, place="foreign")
        return Blame(code="SR107", message=f"chain {chain} does not lead to an endpoint", key=chain, place="service")
    blocker = next((s for s in reversed(after) if s.target in _TERMINAL), None)
    if blocker is not None:
        code, wide = ("SR102", False) if blocker.pins else ("SR104", True)
        message = f"{_where(blocker)} takes the packet before the Service's rule"
        return Blame(code=code, message=message, key=blocker.rule, node_wide=wide, place="foreign")
    if not case.facts.services_programmed:
        return _never_programmed(case)
    frontend = case.expectation.frontend
    looked = case.facts.node_port_lookup
    if looked is None:
        looked = any(s.target == marks.node_ports for s in after)
    served = case.facts.node_port_ips
    if frontend.kind is FrontendKind.NODE_PORT and (not looked or (served is not None and frontend.address not in served)):
        message = f"no rule sends packets for {frontend.address} on to {marks.node_ports}"
        return Blame(code="SR105", message=message, key=frontend.address, node_wide=True, place="fixed")
    if frontend.kind is FrontendKind.NODE_PORT and not case.facts.node_ports_programmed:
        # Of one Service this is its fault, of several the node's: `rollup` counts them.
        return Blame(code="SR105", message=f"{marks.node_ports} leads to no Service", key=marks.node_ports, place="fixed")
    return Blame(code="SR101", message=f"no rule for {frontend.kind} {frontend}", key=str(frontend), place="entry")


def _never_programmed(case: Case) -> Blame:
    message = f"{case.landmarks.services} leads to no Service: kube-proxy has programmed nothing here, or it was flushed"
    return Blame(code="SR106", message=message, node_wide=True, place="flushed" if case.facts.own_chains else "gone")


def blame_stopped(case: Case, end: End) -> Blame:
    """The packet was dropped or rejected: by whom?"""
    step = end.way[-1]
    marks, frontend = case.landmarks, case.expectation.frontend
    lb = frontend.kind is FrontendKind.LOAD_BALANCER
    allowed = case.expectation.action is Action.TRANSLATE
    culprit = case.culprit(end)
    if culprit is not None and culprit.target not in ("DROP", "REJECT"):
        if allowed and not end.translated and culprit.target not in ("MARK", "CONNMARK"):
            return blame_untranslated(case, end)
        return foreign(case, culprit, f"leads the packet to {_where(step)}", code="SR402")
    if culprit is None and allowed and not end.translated and _to_filter(step):
        # It should not have come here with this address: what kept it from being translated is the cause.
        lost = blame_untranslated(case, end)
        early = lost.code == "SR103" and _stopped_first(case, step)
        if not early and (lost.node_wide or lost.code in ("SR101", "SR102", "SR105", "SR107")):
            return lost
    targets = {s.target for s in end.way}
    if allowed and marks.mark in targets and step.chain == "KUBE-FIREWALL" and "KUBE-MARK-DROP" not in targets:
        return _mismatch(case, end)
    if step.chain.startswith(marks.firewall_prefixes) and allowed and case.plan.service.source_ranges and lb:
        message = f"{_where(step)} keeps out sources that loadBalancerSourceRanges let in"
        return Blame(code="SR408", message=message, key=str(frontend), place="service")
    if not marks.own(step):
        stopped = foreign(case, step, "stops the packet", code="SR402")
        return stopped if stopped.node_wide else replace(stopped, key=f"{step.rule} {frontend}")
    if step.target == "REJECT":
        message = f"{_where(step)} refuses connections although the Service has usable endpoints"
        return Blame(code="SR401", message=message, key=str(frontend), place="entry")
    service = marks.of_service(step.chain)
    wide = not step.pins and not service
    return Blame(
        code="SR402",
        message=f"{_where(step)} stops the packet",
        key=step.rule if wide else f"{step.rule} {frontend}",
        node_wide=wide,
        place="service" if service else "fixed",
    )


def _stopped_first(case: Case, step: Step) -> bool:
    """nftables up to 1.33: at OUTPUT kube-proxy checks before it translates, so a packet may never come to a jump that stands."""
    own = step.hook == "OUTPUT" and step.table.endswith(NFTABLES.table)
    return own and ("OUTPUT", case.landmarks.services) in case.facts.hooks


def _last(way: Sequence[Step], targets: tuple[str, ...]) -> Step | None:
    return next((s for s in reversed(way) if s.target in targets), None)


def blame_translation(case: Case, end: End) -> Blame | None:
    """The packet was translated somewhere it should not go: another program's doing? None when kube-proxy's own chains did it."""
    culprit = case.culprit(end)
    if culprit is not None:
        does = f"sends the packet to {end.backend}, past the Service's endpoints"
        return foreign(case, culprit, does, code="SR104", one="SR102")
    step = _last(end.way, ("DNAT", "REDIRECT"))
    if step is None or case.landmarks.of_service(step.chain):
        return None
    wide = not step.pins
    message = f"{_where(step)} sends the packet to {end.backend}, past the Service's endpoints"
    return Blame(code="SR104" if wide else "SR102", message=message, key=step.rule, node_wide=wide, place="foreign")


def marked(case: Case, end: End) -> Step | None:
    """The step that asked for masquerade: a jump to the mark chain, or the mark itself where rules set it."""
    before = [s for s in end.way if s.hook in ("PREROUTING", "OUTPUT")]
    if case.landmarks.mark:
        found = next((s for s in before if s.target == case.landmarks.mark), None)
        if found is not None:
            return found
    return next((s for s in before if s.target == "MARK" and case.landmarks.own(s)), None)


def by_proxy(case: Case, end: End) -> bool:
    """Whether kube-proxy's own rule masqueraded the packet."""
    step = _last(end.way, ("MASQUERADE", "SNAT"))
    return step is not None and case.landmarks.own(step)


def blame_no_masquerade(case: Case, end: End, *, hairpin: bool) -> Blame:
    """The packet should leave masqueraded and does not: was it marked, and did the mark arrive?"""
    marks = case.landmarks
    if (culprit := case.culprit(end)) is not None:
        if culprit.target in ("MARK", "CONNMARK"):
            return foreign(case, culprit, "changes the mark that asks for masquerade", code="SR311")
        return foreign(case, culprit, f"ends POSTROUTING before {marks.postrouting}", code="SR306")
    by_set = hairpin and case.facts.hairpin_rule is not None
    if by_set and marked(case, end) is None:
        lost = _postrouting_lost(case, end)
        if lost is not None:
            return lost
        if not case.facts.hairpin_rule:
            message = f"{marks.postrouting} has no rule for what a pod sends to itself"
            return Blame(code="SR302", message=message, node_wide=True, place="fixed")
    if marked(case, end) is None:
        code = "SR302" if hairpin else "SR301"
        who = "a pod that is sent to itself" if hairpin else f"{case.expectation.client} clients"
        return Blame(code=code, message=f"no rule marks packets of {who} for masquerade", place="service")
    return _postrouting_lost(case, end) or _mismatch(case, end)


def _postrouting_lost(case: Case, end: End) -> Blame | None:
    """What kept the packet from kube-proxy's masquerade rules; None when it reached them."""
    marks = case.landmarks
    after = [s for s in end.way if s.hook == "POSTROUTING"]
    if not any(s.target == marks.postrouting for s in after):
        if ("POSTROUTING", marks.postrouting) in case.facts.hooks:
            message = f"POSTROUTING's jump to {marks.postrouting} does not catch the packet"
        else:
            message = f"POSTROUTING no longer jumps to {marks.postrouting}"
        return Blame(code="SR305", message=message, node_wide=True, place="hook")
    return None


def _to_filter(step: Step) -> bool:
    return step.hook in ("INPUT", "FORWARD") or (step.hook == "OUTPUT" and not step.table.endswith(" nat"))


def _mismatch(case: Case, end: End) -> Blame:
    marks = case.landmarks
    setter = next((s for s in end.way if s.target == "MARK"), None)
    found = setter.rule.partition("--set-xmark ")[2].partition(" ")[0] if setter and "--set-xmark " in setter.rule else "?"
    message = f"packets are marked ({marks.mark or 'in their chains'}: {found}), and {marks.postrouting} does not masquerade them"
    return Blame(code="SR304", message=message, node_wide=True, place="fixed")


def blame_masquerade(case: Case, end: End) -> Blame:
    """The packet is masqueraded and should not be: who asked for it?"""
    marks = case.landmarks
    if (culprit := case.culprit(end)) is not None:
        if culprit.target in ("MARK", "CONNMARK"):
            return foreign(case, culprit, "sets the mark that asks for masquerade", code="SR311")
        return foreign(case, culprit, "changes the source of Service traffic", code="SR310")
    asked = marked(case, end)
    step = _last(end.way, ("MASQUERADE", "SNAT"))
    if asked is not None and step is not None and marks.own(step):
        wide = not asked.pins and not marks.of_service(asked.chain)
        message = f"chain {asked.chain} marks packets of {case.expectation.client} clients for masquerade"
        return Blame(code="SR303", message=message, key=asked.rule if wide else "", node_wide=wide, place="service")
    if step is not None and not marks.own(step):
        return foreign(case, step, "changes the source of Service traffic", code="SR310")
    where = step.chain if step else marks.postrouting
    return Blame(code="SR309", message=f"{where} masquerades packets that are not marked", key="", node_wide=True, place="fixed")
