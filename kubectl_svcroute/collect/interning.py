"""Equal parts of API objects, held once.

Decoded page by page, each pod has labels, conditions and containers of its own, and each endpoint the name of its node. In a
cluster of a hundred thousand pods that is half of what they take. Only the parts that repeat are looked at: to compare everything
would cost more than it saves.
"""

from __future__ import annotations

from typing import Any

_PARTS = {
    "metadata": ("labels", "ownerReferences"),
    "spec": ("containers",),
    "status": ("conditions",),
}
"""Of a Pod."""
_OF_ENDPOINT = ("conditions", "nodeName", "zone", "hints")


class Shared:
    """A memory of parts. What `of` gives back is not to be changed: others hold the same parts."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def of(self, key: str, item: dict[str, Any]) -> dict[str, Any]:
        """The object of a List, with the parts that others have as well taken from them. Changes and returns it."""
        if key == "pods":
            for name, parts in _PARTS.items():
                self._share(item.get(name), parts)
            self._share(item.get("spec"), ("nodeName",))
            self._share(item.get("metadata"), ("namespace",))
            self._share(item.get("status"), ("phase", "hostIP", "hostIPs"))
        elif key == "endpointslices":
            for endpoint in item.get("endpoints") or ():
                self._share(endpoint, _OF_ENDPOINT)
                self._share(endpoint.get("targetRef"), ("kind", "namespace"))
            self._share(item, ("ports",))
        return item

    def _share(self, holder: Any, names: tuple[str, ...]) -> None:
        if not isinstance(holder, dict):
            return
        for name in names:
            if name in holder:
                value = holder[name]
                # Text that shows every difference, also that between 1 and true.
                holder[name] = self._known.setdefault(repr(value), value)
