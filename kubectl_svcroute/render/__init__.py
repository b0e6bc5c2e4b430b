"""A report as people and programs read it: one module a format.

    render(report, "table", RenderOptions(width=80))

A format's module is imported when that format is asked for, and not before: YAML and tables cost more to load than the
rest of the program. Each module has one function, `pieces(report, options)`, that yields the text in order, so that a big
report can be written as it is made.

Everything that came from a cluster (names, comments, reasons, rules) is somebody else's text. Each module brings it through
`text.clean` or its format's own escaping before it is shown: a comment in a rule must not be able to move the cursor, to
close a tag or to forge a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ..model.fast_dataclass import dataclass, replace

if TYPE_CHECKING:
    from ..model.report import Report

RENDERERS: dict[str, str] = {
    "table": "table",
    "wide": "table",
    "json": "json_",
    "yaml": "yaml_",
    "name": "name",
    "junit": "junit",
    "sarif": "sarif",
    "markdown": "markdown",
    "html": "html",
    "prometheus": "prometheus",
    "brief": "brief",
    "shard": "shard",
}
"""Format -> the module in this folder that makes it."""
FORMATS = tuple(RENDERERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How a report should look. Formats that are read by programs ignore all of it."""

    width: int = 80
    """Columns that a line should fit in."""
    color: bool = False
    """Colour comes on top of words and marks, and never says anything alone."""
    no_headers: bool = False
    """Tables without their head line."""
    wide: bool = False
    """More columns, every endpoint, all evidence. The format `wide` sets it."""
    ascii_only: bool = False
    """The stream cannot show more than ASCII: marks become letters, everything else is escaped."""


class _Renderer(Protocol):
    def pieces(self, report: Report, options: RenderOptions) -> Iterator[str]: ...


def render_pieces(report: Report, fmt: str, options: RenderOptions | None = None) -> Iterator[str]:
    """The text of a report, piece by piece; together they end with a newline. Raises KeyError for an unknown format."""
    module = cast(_Renderer, import_module(f".{RENDERERS[fmt]}", __name__))
    chosen = options or RenderOptions()
    return module.pieces(report, replace(chosen, wide=chosen.wide or fmt == "wide"))


def render(report: Report, fmt: str, options: RenderOptions | None = None) -> str:
    """The text of a report. Raises KeyError for an unknown format."""
    return "".join(render_pieces(report, fmt, options))


def summary_line(report: Report) -> str:
    """The closing line for people: what was looked at, what was found, what was not verified."""
    from .view import summary_of  # noqa: PLC0415

    return summary_of(report)
