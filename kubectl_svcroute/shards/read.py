"""Parts' reports as they come: JSON, YAML, or somewhere in a pod's log."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..model.lazy_regex import pattern
from ..model.shard import Shard, ShardOf
from .merge import Part

_START = pattern(r'^\{"apiVersion": "svcroute/v1", "kind": "RouteReportShard",$', re.MULTILINE)


def read_parts(path: str) -> list[Part]:
    """The parts in a file (`-`: stdin): a report of `-o json` or `-o yaml`, or one or more of `-o shard` in whatever text.

    Raises UsageError when there is none, naming the file.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return parts_of(text, "standard input" if path == "-" else path)


def parts_of(text: str, name: str) -> list[Part]:
    """The parts in a text; `name` says which, in messages."""
    starts = [found.start() for found in _START.finditer(text)]
    if starts:
        return [_part(_decoded(text, at, name), name) for at in starts]
    if text.lstrip().startswith("{"):
        try:
            return [_part(json.loads(text), name)]
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}: no whole JSON document: {error}") from error
    return [_part(_yaml(text, name), name)]


def _decoded(text: str, at: int, name: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, at)[0]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: a shard's report begins there and is not whole: {error}") from error


def _yaml(text: str, name: str) -> Any:
    import yaml  # noqa: PLC0415 - for those who keep reports as YAML

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are the safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from error


def _part(found: Any, name: str) -> Part:
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind not in ("RouteReport", "RouteReportShard"):
        raise UsageError(f"{name}: no report of kubectl svcroute in it")
    section = found.get("shard")
    if not isinstance(section, dict):
        raise UsageError(f"{name}: a report of all nodes that were asked for, not of a shard: there is nothing to merge")
    origin = found.get("origin") if kind == "RouteReportShard" else (found.get("meta") or {}).get("origin")
    try:
        shard = Shard(
            of=ShardOf(index=section["index"] or 0, count=section["of"] or 0, node=section["node"] or ""),
            program=section["program"],
            cluster=section["cluster"],
            asked=section["asked"],
            source=section["source"],
            fingerprint=section["fingerprint"],
            began=section["began"],
            ended=section["ended"],
            nodes=tuple(section["nodes"]),
            results=tuple(section["results"]),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{name}: the section `shard` is not whole: {type(error).__name__}: {error}") from error
    return Part(name=name, shard=shard, origin=str(origin or ""))
