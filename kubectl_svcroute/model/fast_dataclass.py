"""`dataclass` and `replace`, at a fraction of the price where many classes are made and few of them used.

A command makes some seventy classes of named fields before it looks at anything. The standard library compiles six functions
for each (a millisecond a class: a quarter of what a small check takes). Here a class costs next to nothing, and each method
is compiled when it is first called. Type checkers see the standard library's own.

What is here is what this package uses of it: `frozen`, `slots` (always), `kw_only`; fields with defaults, default factories,
`repr=False` and `compare=False`; equality, hash, repr, copying, pickling and `match`. `fields`, `asdict` and whoever else asks
for `__dataclass_fields__` gets what the standard library makes. `tests/test_records.py` holds classes made by both to the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, field
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass", "field", "replace"]

_OWN = "__record__"
"""Where a record's class keeps its fields: name -> default, Field, or MISSING."""


def _dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False) -> Callable[[type], type]:
    if not slots:
        raise TypeError("records have slots: where none are wanted, take the standard library's dataclass")

    def make(cls: type) -> type:
        if any(hasattr(base, "__dataclass_fields__") for base in cls.__bases__):
            raise TypeError(f"{cls.__name__}: a record has no record for a base")
        kinds = cls.__annotations__.values()
        if hasattr(cls, "__post_init__") or any(kind.startswith(("ClassVar", "InitVar")) for kind in kinds):
            raise TypeError(f"{cls.__name__}: for __post_init__, ClassVar and InitVar take the standard library's dataclass")
        own = {name: cls.__dict__.get(name, MISSING) for name in cls.__annotations__}
        made: dict[str, Any] = {
            "__init__": _first_init,
            "__repr__": _repr,
            "__eq__": _first_eq,
            "__hash__": _first_hash if frozen else None,
            "__getstate__": _state,
            "__setstate__": _restore,
            "__match_args__": () if kw_only else tuple(own),
            "__dataclass_fields__": _StandardFields(cls),
        }
        if frozen:
            made |= {"__setattr__": _fixed, "__delattr__": _fixed}
        body = {name: value for name, value in cls.__dict__.items() if name not in own}
        del body["__dict__"], body["__weakref__"]
        named = {"__qualname__": cls.__qualname__, "__slots__": tuple(own), _OWN: own}
        return type(cls)(cls.__name__, cls.__bases__, made | body | named)

    return make


# ---- methods that are written when they are first called --------------------------------------------------------------------


def _first_init(self: Any, *given: Any, **named: Any) -> None:
    cls = _record(self)
    cls.__init__ = _written(cls, "__init__", *_init(cls))
    cls.__init__(self, *given, **named)


def _first_eq(self: Any, other: object) -> Any:
    cls = _record(self)
    mine, its = _values(cls, "self"), _values(cls, "other")
    text = f" return {mine} == {its} if other.__class__ is self.__class__ else NotImplemented"
    cls.__eq__ = _written(cls, "__eq__", ["self", "other"], [text], {})
    return cls.__eq__(self, other)


def _first_hash(self: Any) -> int:
    cls = _record(self)
    cls.__hash__ = _written(cls, "__hash__", ["self"], [f" return hash({_values(cls, 'self')})"], {})
    return int(cls.__hash__(self))


def _record(item: Any) -> Any:
    """The class that was made here; an item's own may be derived from it."""
    return next(cls for cls in type(item).__mro__ if _OWN in cls.__dict__)


def _fields(cls: Any) -> dict[str, Field[Any]]:
    return {name: one if isinstance(one, Field) else field(default=one) for name, one in getattr(cls, _OWN).items()}


def _values(cls: Any, item: str) -> str:
    """A tuple of what is compared."""
    return f"({''.join(f'{item}.{name}, ' for name, one in _fields(cls).items() if one.compare)})"


def _init(cls: Any) -> tuple[list[str], list[str], dict[str, Any]]:
    known: dict[str, Any] = {"MISSING": MISSING}
    parameters, lines = ["self"], []
    if not cls.__match_args__ and getattr(cls, _OWN):
        parameters.append("*")
    for name, one in _fields(cls).items():
        # A slot is set through its descriptor: that is what a frozen class leaves open, and quicker than object.__setattr__.
        known[f"set_{name}"] = getattr(cls, name).__set__
        value, parameter = name, name
        if one.default_factory is not MISSING:
            known[f"make_{name}"] = one.default_factory
            value, parameter = f"make_{name}() if {name} is MISSING else {name}", f"{name}=MISSING"
        elif one.default is not MISSING:
            known[f"default_{name}"] = one.default
            parameter = f"{name}=default_{name}"
        parameters.append(parameter)
        lines.append(f" set_{name}(self, {value})")
    return parameters, lines or [" pass"], known


def _written(cls: Any, name: str, parameters: Sequence[str], lines: Sequence[str], known: dict[str, Any]) -> Callable[..., Any]:
    exec("\n".join([f"def {name}({', '.join(parameters)}):", *lines]), known)  # noqa: S102 - of a class's own names, as there
    method: Callable[..., Any] = known[name]
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    return method


# ---- what is the same for all ---------------------------------------------------------------------------------------------


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, one in _fields(self).items() if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in getattr(self, _OWN)]


def _restore(self: Any, state: list[Any]) -> None:
    for name, value in zip(getattr(self, _OWN), state, strict=True):
        object.__setattr__(self, name, value)


def _fixed(_: object, name: str, value: Any = MISSING) -> NoReturn:
    raise FrozenInstanceError(f"cannot {'delete' if value is MISSING else 'assign to'} field {name!r}")


class _StandardFields:
    """`__dataclass_fields__`, made when somebody asks for it."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._made: dict[str, Field[Any]] = {}

    def __get__(self, _: object, __: type) -> dict[str, Field[Any]]:
        if not self._made:
            same: Any = dataclasses.dataclass(kw_only=True)(type(self._cls.__name__, (), dict(self._cls.__dict__)))
            self._made = same.__dataclass_fields__
        return self._made


def _replace(item: Any, /, **changes: Any) -> Any:
    if not hasattr(item, _OWN):
        return dataclasses.replace(item, **changes)
    return type(item)(**{name: getattr(item, name) for name in getattr(item, _OWN)} | changes)


if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:
    dataclass, replace = _dataclass, _replace
