"""The report in at most 4,096 bytes: what Kubernetes keeps of a pod's termination message, and a chat window bears.

First the numbers and the verdict, then a line a finding, worst first, as many as fit; how many do not is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model.report import Report
from . import RenderOptions
from .codes import label_of
from .text import clean, to_ascii
from .view import group_findings, group_not_judged, group_unverified, summary_of

MOST = 4096
"""Bytes (kubernetes, pkg/kubelet/container: MaxPodTerminationMessageLogLength)."""
_REST = 80
"""Bytes kept for the line that says how many did not fit."""


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The lines that fit."""
    part = f"shard {report.shard.of}: " if report.shard is not None else ""
    lines = [f"{part}{report.verdict}: {summary_of(report)}"]
    for group in group_findings(report.findings):
        f = group.first
        where = ", ".join(filter(None, (_some(group.nodes), f.service)))
        lines.append(f"{f.severity.value} {label_of(f.code, f.name)} {where}: {f.message}")
    for doubt in group_unverified(report.unverified):
        where = ", ".join(filter(None, (_some(doubt.nodes), _some(doubt.services))))
        lines.append(f"not verified {label_of(doubt.code)} {where}: {doubt.reason}")
    for doubt in group_not_judged(report.not_judged):
        lines.append(f"not judged {label_of(doubt.code)} {_some(doubt.nodes)}: {doubt.reason}")
    used = 0
    for at, line in enumerate(lines):
        text = (to_ascii(clean(line)) if options.ascii_only else clean(line)) + "\n"
        size = len(text.encode("utf-8", "backslashreplace"))
        if used + size > MOST - _REST:
            yield f"and {len(lines) - at} more: the report has them\n"
            return
        used += size
        yield text


def _some(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""
