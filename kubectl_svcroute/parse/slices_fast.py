"""EndpointSlices of a large List, decoded straight into what rules depend on.

The objects of a List that is kept as text (`model/raw_items.py`) go past the dictionaries of `kube_objects`: a slice is
decoded when its Service is looked at, and of its endpoints no more than their addresses is made until somebody asks for one.
Whatever does not have the shape that an API server gives it is left to `kube_objects`, which says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ..model.cluster import Endpoint, EndpointPort, PlainEndpoints, Slice
from ..model.lazy_list import Lazy
from ..model.net import Protocol, canonical_ip
from ..model.raw_items import Metadata

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_CANONICAL = re.compile(f"{_IPV4}(?: {_IPV4})*")
"""IPv4 addresses that need no other spelling, and blanks between them."""


class _Conditions(msgspec.Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct, frozen=True, gc=False):
    kind: str | None = None
    name: str | None = None


class _For(msgspec.Struct, frozen=True, gc=False):
    name: str


class _Hints(msgspec.Struct, frozen=True, gc=False):
    for_zones: tuple[_For, ...] | None = msgspec.field(name="forZones", default=None)
    for_nodes: tuple[_For, ...] | None = msgspec.field(name="forNodes", default=None)


class _Endpoint(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...] | None = None
    topology: dict[str, str] | None = None
    conditions: _Conditions | None = None
    hints: _Hints | None = None
    node: str | None = msgspec.field(name="nodeName", default=None)
    zone: str | None = None
    target: _Target | None = msgspec.field(name="targetRef", default=None)


class _Port(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata
    type: str = msgspec.field(name="addressType")
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


_SLICE = msgspec.json.Decoder(_Slice)


def slice_of(text: msgspec.Raw) -> Slice:
    """One slice. Raises ValueError (msgspec.ValidationError is one) for another shape."""
    found = _SLICE.decode(text)
    ports = tuple(
        [
            EndpointPort(port.name or "", Protocol(port.protocol or "TCP"), port.port)
            for port in found.ports or ()
            # As in kube_objects: a nil or zero port is skipped.
            if port.port
        ]
    )
    endpoints = [one for one in found.endpoints or () if one.addresses]
    addresses = [one.addresses[0] for one in endpoints if one.addresses]
    if not _CANONICAL.fullmatch(" ".join(addresses)):
        addresses = [canonical_ip(address) for address in addresses]
    plain = None
    if not any(map(_special, endpoints)):
        pods = [_pod(one.target) for one in endpoints]
        plain = PlainEndpoints(addresses, [_node(one) for one in endpoints], pods)
    return Slice(
        name=found.metadata.name,
        family=4 if found.type == "IPv4" else 6,
        ports=ports,
        # Decoded again by whoever asks: tens of thousands of endpoints are not kept for nobody.
        endpoints=_endpoints(text) if plain is None else Lazy(lambda: _endpoints(text)),
        named=PROXY_NAME_LABEL in (found.metadata.labels or {}),
        plain=plain,
    )


PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"


def _special(found: _Endpoint) -> bool:
    conditions = found.conditions
    return found.hints is not None or (conditions is not None and (conditions.ready is False or conditions.terminating is True))


def _node(found: _Endpoint) -> str | None:
    return found.node or (found.topology or {}).get("kubernetes.io/hostname")


def _pod(target: _Target | None) -> str | None:
    return target.name if target is not None and target.kind == "Pod" else None


def _endpoints(text: msgspec.Raw) -> list[Endpoint]:
    return [_endpoint(one, canonical_ip(one.addresses[0])) for one in _SLICE.decode(text).endpoints or () if one.addresses]


_NO_CONDITIONS = _Conditions()
_NO_HINTS = _Hints()


def _endpoint(found: _Endpoint, address: str) -> Endpoint:
    conditions, hints = found.conditions or _NO_CONDITIONS, found.hints or _NO_HINTS
    return Endpoint(
        address,
        conditions.ready is not False,
        conditions.serving is not False,
        bool(conditions.terminating),
        _node(found),
        found.zone,
        _names(hints.for_zones),
        _names(hints.for_nodes),
        _pod(found.target),
    )


def _names(found: Sequence[_For] | None) -> tuple[str, ...] | None:
    return tuple([one.name for one in found]) if found else None
