"""Sets of addresses as sorted, disjoint, closed intervals of integers: `((low, high), ...)`.

A walk carries the set of source addresses that a client can have, and a rule that asks for a source splits it. So one
walk covers every address of a client, and no rule about one address of ten thousand can hide from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network

Ranges = tuple[tuple[int, int], ...]

EMPTY: Ranges = ()
ALL = {4: ((0, (1 << 32) - 1),), 6: ((0, (1 << 128) - 1),)}


@lru_cache(maxsize=1 << 17)
def number(address: str) -> int:
    """The address as an integer. Raises ValueError when it is none."""
    if ":" not in address:
        a, b, c, d = address.split(".")
        value = int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
        if not 0 <= value < 1 << 32:
            raise ValueError(address)
        return value
    if "%" in address:
        raise ValueError(address)  # a zone may hold any text
    return int(ip_address(address))


def text(value: int, family: int) -> str:
    """An integer as the canonical address of a family."""
    if family == 4:
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    return str(ip_address(value.to_bytes(16, "big")))


@lru_cache(maxsize=1 << 14)
def network(cidr: str) -> Ranges:
    """The addresses of `10.0.0.0/8`, `10.0.0.1`, or `10.0.0.0/255.0.0.0`. Raises ValueError for anything else."""
    if "/" not in cidr:
        value = number(cidr)
        return ((value, value),)
    net = ip_network(cidr, strict=False)
    return ((int(net.network_address), int(net.broadcast_address)),)


def single(value: int) -> Ranges:
    """The set of one address."""
    return ((value, value),)


def union(sets: Iterable[Ranges]) -> Ranges:
    """All addresses that are in any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(r for s in sets for r in s):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def intersect(a: Ranges, b: Ranges) -> Ranges:
    """The addresses that are in both."""
    if a == b:
        return a
    found = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            found.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def subtract(a: Ranges, b: Ranges) -> Ranges:
    """The addresses of `a` that are not in `b`."""
    found = []
    for low, high in a:
        start = low
        for b_low, b_high in b:
            if b_high < start:
                continue
            if b_low > high:
                break
            if b_low > start:
                found.append((start, b_low - 1))
            start = b_high + 1
            if start > high:
                break
        if start <= high:
            found.append((start, high))
    return tuple(found)


def size(ranges: Ranges) -> int:
    """How many addresses."""
    return sum(high - low + 1 for low, high in ranges)


def contains(ranges: Ranges, value: int) -> bool:
    """Whether an address is in the set."""
    return any(low <= value <= high for low, high in ranges)


def describe(ranges: Ranges, family: int, *, most: int = 3) -> str:
    """A few words for people: `10.244.1.2`, `10.0.0.0-10.0.0.9`, `... and 4 more ranges`."""
    parts = [text(low, family) if low == high else f"{text(low, family)}-{text(high, family)}" for low, high in ranges[:most]]
    more = f" and {len(ranges) - most} more ranges" if len(ranges) > most else ""
    return ", ".join(parts) + more
