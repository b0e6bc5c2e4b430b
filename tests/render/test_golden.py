"""Every format, compared with what somebody looked at. `pytest tests/render --update` writes the files anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from samples import SAMPLES

from kubectl_svcroute.render import RenderOptions, render

Golden = Callable[[str, str], None]
EXTENSIONS = {
    "json": "json",
    "yaml": "yaml",
    "junit": "xml",
    "sarif": "sarif",
    "markdown": "md",
    "html": "html",
    "prometheus": "prom",
}


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("sample", SAMPLES)
def test_the_table_looks_as_it_did(sample: str, columns: int, golden: Golden) -> None:
    """The table of every sample, in a narrow and a wide terminal."""
    golden(f"{sample}.{columns}.txt", render(SAMPLES[sample], "table", RenderOptions(width=columns)))


@pytest.mark.parametrize("sample", ["dns", "everything"])
def test_wide_looks_as_it_did(sample: str, golden: Golden) -> None:
    """All columns and all evidence."""
    golden(f"{sample}.wide.txt", render(SAMPLES[sample], "wide", RenderOptions(width=120)))


@pytest.mark.parametrize("sample", ["dns", "cjk"])
def test_ascii_and_bare_look_as_they_did(sample: str, golden: Golden) -> None:
    """A stream that shows ASCII alone, and a table without heads for a script."""
    golden(f"{sample}.ascii.txt", render(SAMPLES[sample], "table", RenderOptions(ascii_only=True)))
    golden(f"{sample}.bare.txt", render(SAMPLES[sample], "table", RenderOptions(no_headers=True)))


def test_colour_looks_as_it_did(golden: Golden) -> None:
    """Where colour begins and ends, and with what meaning."""
    golden("dns.color.txt", render(SAMPLES["dns"], "table", RenderOptions(color=True)))


@pytest.mark.parametrize("fmt", EXTENSIONS)
@pytest.mark.parametrize("sample", ["everything", "hostile", "empty"])
def test_reports_look_as_they_did(sample: str, fmt: str, golden: Golden) -> None:
    """Each format for programs and documents."""
    # The version changes with every release, and the style of the page is looked at in a browser.
    from kubectl_svcroute import __version__
    from kubectl_svcroute.render import html

    text = render(SAMPLES[sample], fmt).replace(f'"version": "{__version__}"', '"version": "VERSION"')
    golden(f"{sample}.{EXTENSIONS[fmt]}", text.replace(html._STYLE, "..."))
