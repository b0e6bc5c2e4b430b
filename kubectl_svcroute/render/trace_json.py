"""A trace for programs: every hop and every branch, none of them folded."""

from __future__ import annotations

import json
from typing import Any

from ..model.report import Finding, Unverified
from ..model.trace import Branch, Ending, Exit, Hop, Trace, Way
from . import RenderOptions
from .text import json_safe


def document(trace: Trace, options: RenderOptions | None = None, *, commands: bool = False) -> str:
    """The JSON text, ending with a newline."""
    ascii_only = options is not None and options.ascii_only
    return json_safe(json.dumps(as_json(trace, commands=commands), indent=2, ensure_ascii=ascii_only)) + "\n"


def as_json(trace: Trace, *, commands: bool = False) -> dict[str, Any]:
    """The trace as plain values. Fields are added, never renamed."""
    front = trace.frontend
    return {
        "apiVersion": "svcroute/v1",
        "kind": "RouteTrace",
        "service": trace.service,
        "node": trace.node,
        "client": trace.client.value,
        "frontend": None
        if front is None
        else {
            "address": front.address, "port": front.port, "protocol": front.protocol.value, "kind": front.kind.value,
            "servicePort": trace.port,
        },
        "verdict": trace.verdict,
        "proxy": {"mode": trace.mode, "version": trace.version},
        "mark": {"bit": f"{trace.mark:#x}", "setBy": trace.mark_chain, "testedBy": trace.test_chain},
        "ways": [_way(way, commands=commands) for way in trace.ways],
        "findings": [_finding(f) for f in trace.findings],
        "nodeFindings": [_finding(f) for f in trace.beside],
        "otherFindings": [_finding(f) for f in trace.elsewhere],
        "unverified": [_unverified(u) for u in trace.unverified],
        "notes": list(trace.notes),
        "origin": trace.origin,
        **({"commands": [{"shows": c.shows, "command": c.command} for c in trace.commands]} if commands else {}),
    }  # fmt: skip


def _way(way: Way, *, commands: bool) -> dict[str, Any]:
    return {
        "client": way.client.value,
        "sources": way.sources,
        "expected": way.expected,
        "tree": _branch(way.tree, commands=commands),
        "exits": [_exit(e, commands=commands) for e in way.exits],
        "missing": [_ending(e) for e in way.missing],
        "affinity": {"text": way.affinity, "rule": way.affinity_rule} if way.affinity else None,
        "toldOf": way.alike,
        "unknown": list(way.unknown),
    }


def _branch(branch: Branch, *, commands: bool) -> dict[str, Any]:
    return {
        "share": round(branch.share, 9),
        "hops": [_hop(hop, commands=commands) for hop in branch.hops],
        "branches": [_branch(b, commands=commands) for b in branch.branches],
        "end": None if branch.end is None else _ending(branch.end),
    }


def _hop(hop: Hop, *, commands: bool) -> dict[str, Any]:
    return {
        "role": hop.role.value, "hook": hop.hook, "table": hop.table, "chain": hop.chain, "target": hop.target,
        "rule": hop.rule, "words": hop.words, "why": hop.why, "foreign": hop.foreign,
        **({"command": hop.command} if commands else {}),
    }  # fmt: skip


def _ending(end: Ending) -> dict[str, Any]:
    return {
        "action": end.action, "share": None if end.unknown else round(end.share, 9),
        "shouldBe": None if end.should is None else round(end.should, 9),
        "address": end.address or None, "pod": end.pod or None, "node": end.node or None, "ready": end.ready,
        "state": end.state or None, "onThisNode": end.here, "exit": end.exit, "unknown": end.unknown or None,
        "wrong": end.wrong or None,
    }  # fmt: skip


def _exit(found: Exit, *, commands: bool) -> dict[str, Any]:
    return {
        "share": round(found.share, 9), "branches": found.ends, "action": found.action, "marked": found.marked,
        "markReason": found.mark_reason, "masquerade": found.masquerade, "source": found.source, "answer": found.answer,
        "wrong": found.wrong, "hops": [_hop(hop, commands=commands) for hop in found.hops],
    }  # fmt: skip


def _finding(f: Finding) -> dict[str, Any]:
    return {
        "code": f.code, "name": f.name, "severity": f.severity.value, "node": f.node, "service": f.service,
        "frontend": f.frontend, "client": f.client, "message": f.message, "effect": f.effect, "heals": f.heals,
        "expected": f.expected, "observed": f.observed, "evidence": list(f.evidence),
    }  # fmt: skip


def _unverified(u: Unverified) -> dict[str, Any]:
    return {"code": u.code, "node": u.node, "service": u.service, "reason": u.reason, "evidence": list(u.evidence)}
