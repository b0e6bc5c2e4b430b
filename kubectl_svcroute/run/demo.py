"""The cluster that comes with the package: five nodes, one of them with a fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model.fast_dataclass import replace
from .settings import DEMO, Settings, settings

_NOTE = """\
A cluster of five nodes that comes with the plugin: real rules of a real
kube-proxy, and one fault on kubworker3. Look at all of it with -A, at a finding's
meaning with `explain CODE`, and at your own cluster with no command at all.
"""


def demo_settings(given: Mapping[str, Any]) -> Settings:
    """What `demo` looks at: kuard, unless the user names something else."""
    found = settings(given)
    if not found.names and not found.all_namespaces and not found.namespace:
        found = replace(found, names=("kuard",))
    return replace(found, snapshot=str(DEMO), note=_NOTE)
