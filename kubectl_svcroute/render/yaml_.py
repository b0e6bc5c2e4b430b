"""YAML: the same document as JSON, entry by entry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from ..model.report import Report
from . import RenderOptions
from .json_ import envelope, lists
from .text import is_unsafe

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml is three times as fast, and not everywhere


def pieces(report: Report, options: RenderOptions) -> Iterator[str]:
    """The report as YAML. One document, made of its top-level keys one after the other."""
    yield _dump(envelope(report), options)
    for name, entries in lists(report):
        first = True
        for entry in entries:
            yield (f"{name}:\n" if first else "") + _dump([entry], options)
            first = False
        if first:
            yield f"{name}: []\n"
    if report.shard is not None:
        from .shard import shard_of  # noqa: PLC0415 - of the few reports that are parts

        yield _dump({"shard": shard_of(report.shard)}, options)


def _dump(value: Any, options: RenderOptions) -> str:
    def dump(unicode: bool) -> str:
        return str(
            yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, default_flow_style=False, width=1 << 20)
        )

    value = _sound(value)
    text = dump(not options.ascii_only)
    # PyYAML escapes controls, but lets through what turns the direction of writing or has no width.
    return dump(False) if is_unsafe(text.replace("\n", "")) else text


def _sound(value: Any) -> Any:
    """Lone surrogates (bytes that were no UTF-8) have no form in YAML: they are shown as the escape that JSON has."""
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", value)
    if isinstance(value, dict):
        return {key: _sound(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_sound(inner) for inner in value]
    return value
