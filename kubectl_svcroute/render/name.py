"""Names for scripts: a line for each Service that was looked at, as `kubectl get -o name` prints them."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.report import Report
from . import RenderOptions
from .text import clean, to_ascii


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """`service/kuard`; like kubectl, without the namespace."""
    for row in report.services:
        line = f"service/{clean(row.service.rpartition('/')[2])}\n"
        yield to_ascii(line) if options.ascii_only else line
