"""A part of an audit for `merge` alone: what `-o json` has under `shard`, without the report around it.

It begins on a line of its own with `{"apiVersion": …, "kind": "RouteReportShard"` and ends with a line `}`, so that it is
found again in a pod's log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..model.report import Report
from ..model.shard import Shard
from . import RenderOptions
from .document import API_VERSION
from .text import json_safe

KIND = "RouteReportShard"
START = f'{{"apiVersion": "{API_VERSION}", "kind": "{KIND}",'


def shard_of(shard: Shard) -> dict[str, Any]:
    """The section `shard` of a report."""
    return {
        "shard": str(shard.of),
        "index": shard.of.index or None,
        "of": shard.of.count or None,
        "node": shard.of.node or None,
        "program": shard.program,
        "cluster": shard.cluster,
        "asked": shard.asked,
        "source": shard.source,
        "fingerprint": shard.fingerprint,
        "began": shard.began,
        "ended": shard.ended,
        "nodes": list(shard.nodes),
        "results": list(shard.results),
    }


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:  # noqa: ARG001 - it is ASCII in any case
    """The part's own section; null for the report of a whole cluster, which is no part of anything."""
    encode = json.JSONEncoder(ensure_ascii=True).encode
    yield f"{START}\n"
    yield f'"origin": {json_safe(encode(report.meta.get("origin", "")))},\n"shard": '
    if report.shard is None:
        yield "null\n}\n"
        return
    section = shard_of(report.shard)
    lines = section.pop("results")
    yield json_safe(encode(section)).removesuffix("}") + ', "results": [\n'
    for at, line in enumerate(lines):
        yield encode(line) + (",\n" if at + 1 < len(lines) else "\n")
    yield "]}\n}\n"
