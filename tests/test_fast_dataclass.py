"""`model/fast_dataclass.py` against the standard library, whose meaning it has: one class made by both."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_svcroute.model import fast_dataclass

_SHAPES: dict[str, tuple[str, dict[str, bool], list[dict[str, Any]]]] = {
    "frozen": ("a: str\n b: int = 3\n c: tuple[str, ...] = ()", {"frozen": True, "kw_only": True},
               [{"a": "x"}, {"a": "y", "c": ("z",)}]),
    "positional": ("a: str\n b: int = 3", {"frozen": True}, [{"a": "x"}, {"a": "x", "b": 4}]),
    "mutable": ("a: list[int] = field(default_factory=list)\n b: int = 0", {}, [{}, {"a": [1]}]),
    "beside": ("a: int\n b: int = field(default=1, compare=False)\n c: int = field(default=2, repr=False)",
               {"frozen": True, "kw_only": True}, [{"a": 1}, {"a": 1, "b": 7}, {"a": 1, "c": 7}]),
    "empty": ("", {"frozen": True}, [{}]),
    "one": ("only: object", {"frozen": True, "kw_only": True}, [{"only": 1}, {"only": None}]),
    "with methods": ("a: int\n def __str__(self): return f'<{self.a}>'\n @property\n def twice(self): return 2 * self.a",
                     {"frozen": True, "kw_only": True}, [{"a": 1}]),
    "with its own repr": ("a: int\n def __repr__(self): return 'own'", {"frozen": True}, [{"a": 1}, {"a": 2}]),
    "a required field behind one with a default": ("a: int = 1\n b: int", {"frozen": True, "kw_only": True}, [{"b": 1}]),
}  # fmt: skip
"""Shape -> its body, how it is made, and instances. Not in the table: bare defaults that are mutable, which nobody writes."""


def made(shape: str) -> tuple[type, type]:
    """The class by the standard library, and by us."""
    body, how, _ = _SHAPES[shape]
    found = []
    for module in (dataclasses, fast_dataclass):
        known: dict[str, Any] = {"how": module.dataclass(slots=True, **how), "field": dataclasses.field, "__name__": __name__}
        code = f"from __future__ import annotations\n@how\nclass Thing:\n 'What it is.'\n {body or 'pass'}\n"
        exec(code, known)
        found.append(known["Thing"])
    return found[0], found[1]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the kind of error that it raises."""
    try:
        return call()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("shape", _SHAPES)
def test_instances_do_what_the_standard_librarys_do(shape: str) -> None:
    """repr, str, equality, hash, freezing, replace, match arguments, fields, slots: the same, at the first time and later."""
    theirs, ours = made(shape)
    for given_ in _SHAPES[shape][2]:
        for _ in range(2):
            a, b = theirs(**given_), ours(**given_)
            assert repr(a) == repr(b)
            assert str(a) == str(b)
            assert outcome(lambda: hash(a)) == outcome(lambda: hash(b))  # noqa: B023
            assert [a == theirs(**other) for other in _SHAPES[shape][2]] == [b == ours(**other) for other in _SHAPES[shape][2]]
            assert b != a
            assert b.__eq__(a) is NotImplemented
            assert not hasattr(b, "__dict__")
            assert dataclasses.asdict(a) == dataclasses.asdict(b)
            for again in (copy.copy(b), copy.deepcopy(b), fast_dataclass.replace(b), dataclasses.replace(b)):
                assert repr(again) == repr(a)
            for name in given_:
                assert outcome(lambda: setattr(a, name, 5)) == outcome(lambda: setattr(b, name, 5))  # noqa: B023
                assert outcome(lambda: delattr(a, name)) == outcome(lambda: delattr(b, name))  # noqa: B023
    assert theirs.__match_args__ == ours.__match_args__
    assert theirs.__slots__ == ours.__slots__
    assert theirs.__doc__ == ours.__doc__
    told = [[(f.name, f.type, f.compare, f.repr) for f in dataclasses.fields(cls)] for cls in (theirs, ours)]
    assert told[0] == told[1]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("call", [{}, {"a": 1}, {"unknown": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3, "d": 4}])
def test_wrong_calls_are_refused(shape: str, call: dict[str, int]) -> None:
    """A field that is missing, or unknown, is a TypeError, as the first call and as a later one."""
    theirs, ours = made(shape)
    for _ in range(2):
        assert repr(outcome(lambda: theirs(**call))) == repr(outcome(lambda: ours(**call)))
        assert repr(outcome(lambda: theirs(*call.values()))) == repr(outcome(lambda: ours(*call.values())))


def test_default_factories_make_one_for_each() -> None:
    """Two instances share nothing."""
    _, ours = made("mutable")
    a, b = ours(), ours()
    a.a.append(1)
    assert b.a == []


@fast_dataclass.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A class that pickle finds."""

    name: str
    of: tuple[int, ...] = ()


@given(st.text(), st.lists(st.integers()).map(tuple), st.text())
def test_pickling_and_replacing_keep_every_value(name: str, of: tuple[int, ...], other: str) -> None:
    """What comes back is equal; what was replaced differs in that alone."""
    item = Kept(name=name, of=of)
    assert pickle.loads(pickle.dumps(item)) == item
    assert hash(pickle.loads(pickle.dumps(item))) == hash(item)
    changed = fast_dataclass.replace(item, name=other)
    assert (changed.name, changed.of) == (other, of)
    assert (changed == item) == (name == other)


def test_a_derived_class_is_no_equal_of_its_base() -> None:
    """A class derived from a record takes its methods, and its instances are of another kind."""

    class More(Kept):
        __slots__ = ()

    assert More(name="x") == More(name="x")
    assert More(name="x") != Kept(name="x")
    assert repr(More(name="x")).endswith("More(name='x', of=())")


def test_what_is_not_supported_is_refused() -> None:
    """A record without slots, or with a record for a base, would not be what its decorator says."""
    with pytest.raises(TypeError, match="have slots"):
        fast_dataclass.dataclass(slots=False)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no record for a base"):
        fast_dataclass.dataclass(slots=True)(type("Sub", (Kept,), {"__annotations__": {}}))
    for body in ({"__annotations__": {"a": "ClassVar[int]"}}, {"__annotations__": {}, "__post_init__": print}):
        with pytest.raises(TypeError, match="take the standard library's"):
            fast_dataclass.dataclass(slots=True)(type("Odd", (), body))
