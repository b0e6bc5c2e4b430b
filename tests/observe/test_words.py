"""The words of a rule: iptables' own quoting, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_svcroute.errors import ParseError
from kubectl_svcroute.observe.iptables_words import Quoted, split_rule


def quoted(text: str) -> str:
    """As libxtables' xtables_save_string prints a string that needs quotes."""
    return '"' + "".join("\\" + c if c in "\"\\'" else c for c in text) + '"'


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_quoting_round_trip(text: str) -> None:
    """Whatever stands in a comment comes out as it was, and is never taken for an option."""
    words = split_rule(f"-A X -m comment --comment {quoted(text)} -j Y")
    assert words == ["-A", "X", "-m", "comment", "--comment", text, "-j", "Y"]
    assert isinstance(words[5], Quoted)


@pytest.mark.parametrize("line", ['-A X --comment "open', '-A X --comment "a"b -j Y', '-A X a"b" -j Y'])
def test_other_quoting_is_refused(line: str) -> None:
    """A quote that iptables would not print raises instead of being guessed at."""
    with pytest.raises(ParseError):
        split_rule(line)
