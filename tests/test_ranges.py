"""Sets of addresses obey the laws of sets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kubectl_svcroute.model.ranges import ALL, Ranges, contains, intersect, network, number, size, subtract, text, union

ADDRESSES = st.integers(0, 63)
SETS = st.lists(st.tuples(ADDRESSES, ADDRESSES).map(lambda p: (min(p), max(p))), max_size=6).map(lambda r: union([tuple(r)]))


def members(ranges: Ranges) -> set[int]:
    """The addresses one by one."""
    return {n for low, high in ranges for n in range(low, high + 1)}


@given(SETS, SETS)
def test_set_algebra(a: Ranges, b: Ranges) -> None:
    """Union, intersection and difference are those of the members, and results are sorted and disjoint."""
    for got, want in (
        (union([a, b]), members(a) | members(b)),
        (intersect(a, b), members(a) & members(b)),
        (subtract(a, b), members(a) - members(b)),
    ):
        assert members(got) == want
        assert size(got) == len(want)
        assert all(low <= high for low, high in got)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(got))


@given(SETS, ADDRESSES)
def test_contains(a: Ranges, n: int) -> None:
    """An address is in a set or it is not."""
    assert contains(a, n) is (n in members(a))


@given(st.ip_addresses())
def test_numbers_and_texts_are_inverse(address: object) -> None:
    """An address survives the way to a number and back."""
    family = 6 if ":" in str(address) else 4
    assert text(number(str(address)), family) == str(address)
    assert contains(ALL[family], number(str(address)))


def test_networks() -> None:
    """A CIDR, a bare address, and a network with a mask of dots."""
    assert network("10.0.0.0/30") == ((number("10.0.0.0"), number("10.0.0.3")),)
    assert network("10.0.0.1") == ((number("10.0.0.1"),) * 2,)
    assert network("10.0.0.0/255.0.0.0") == network("10.0.0.0/8")
    assert size(network("fd00::/120")) == 256
