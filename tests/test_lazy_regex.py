"""`model/lazy_regex.py`: what is compiled later says what would have been compiled at once."""

from __future__ import annotations

import re
import sys

import pytest

from kubectl_svcroute.model.lazy_regex import pattern


@pytest.mark.parametrize("flags", [0, re.MULTILINE | re.IGNORECASE])
def test_a_later_pattern_answers_as_the_pattern_does(flags: int) -> None:
    """Every method that this package calls, and the pattern's text, at the first time and the second."""
    text, subject = r"^(?P<word>\w+)=(\d+)", "one=1 two=2\nthree=3"
    now, later = re.compile(text, flags), pattern(text, flags)
    for _ in range(2):
        for name in ("match", "search", "fullmatch"):
            mine, its = getattr(later, name)(subject), getattr(now, name)(subject)
            assert (mine and (mine.span(), mine.groupdict())) == (its and (its.span(), its.groupdict()))
        assert (later.findall(subject), later.split(subject)) == (now.findall(subject), now.split(subject))
        assert later.sub("x", subject) == now.sub("x", subject)
        assert [m[0] for m in later.finditer(subject)] == [m[0] for m in now.finditer(subject)]
        assert (later.pattern, later.flags, later.groupindex) == (now.pattern, now.flags, now.groupindex)


def test_every_pattern_of_the_package_is_one() -> None:
    """A mistake in a pattern that few runs use is found here, not by them."""
    from importlib import import_module
    from pkgutil import walk_packages

    import kubectl_svcroute

    for module in walk_packages(kubectl_svcroute.__path__, "kubectl_svcroute."):
        if module.name.rpartition(".")[2] != "__main__":
            import_module(module.name)
    found = {
        f"{name}.{key}": value
        for name, module in list(sys.modules.items())
        if name.startswith("kubectl_svcroute.")
        for key, value in vars(module).items()
        if type(value).__name__ == "_Later"
    }
    assert len(found) > 10
    assert all(value.pattern is not None for value in found.values())
