"""The HTML report in a real browser, light and dark, by keyboard and on paper, and a trace drawn by Mermaid.

Skipped where Chromium is not installed. One browser serves all of them.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reports import made
from samples import SAMPLES, everything
from test_trace_views import SAMPLES as TRACES

from kubectl_svcroute.model.report import Report
from kubectl_svcroute.render import render
from kubectl_svcroute.render.trace_graph import graph_of, mermaid

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Browser:
    """One page of a headless Chromium, spoken to over its debugging protocol."""

    def __init__(self, port: int) -> None:
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            page = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; what happens meanwhile is kept in `events`."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            self.events.append(message)

    def open(self, path: Path) -> None:
        """Show a file, and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        for _ in range(600):
            if self.value("document.readyState") == "complete" and self.value("location.href").startswith("file"):
                return
            time.sleep(0.05)
        pytest.fail("the page was never loaded")

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def colour_scheme(self, scheme: str) -> None:
        """Prefer light or dark."""
        self.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("chromium")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    arguments += ["--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1200,900"]
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "/dev/null"}
    assert CHROMIUM is not None
    with subprocess.Popen(
        [CHROMIUM, *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            told = folder / "DevToolsActivePort"
            for _ in range(600):
                if told.exists() and told.read_text().count("\n"):
                    break
                time.sleep(0.1)
            page = Browser(int(told.read_text().split("\n")[0]))
            yield page
            with contextlib.suppress(Exception):
                page.call("Browser.close")
            page.socket.close()
        finally:
            process.terminate()


def shown(browser: Browser, report: Report, folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(render(report, "html"), encoding="utf-8")
    browser.open(path)


@pytest.mark.parametrize("sample", ["everything", "hostile", "empty", "200-nodes"])
def test_a_page_loads_nothing_and_complains_of_nothing(browser: Browser, tmp_path: Path, sample: str) -> None:
    """No request but for the file itself, no script, no error in the console, and nothing wider than the window."""
    shown(browser, SAMPLES[sample], tmp_path)
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition("#")[0] for url in asked} <= {(tmp_path / "report.html").as_uri()}
    assert [e for e in browser.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] == []
    assert browser.value("document.scripts.length") == 0
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")


def test_text_of_the_cluster_is_seen_as_text(browser: Browser, tmp_path: Path) -> None:
    """What somebody wrote to be taken for markup is there to be read."""
    shown(browser, SAMPLES["hostile"], tmp_path)
    assert "<script>alert(1)</script>" in browser.value("document.getElementById('findings').textContent")


def test_light_and_dark_can_be_read(browser: Browser, tmp_path: Path) -> None:
    """In both schemes every text stands out from what is behind it, at least 4.5 to 1 (WCAG 2 AA)."""
    shown(browser, everything(), tmp_path)
    seen = {}
    for scheme in ("light", "dark"):
        browser.colour_scheme(scheme)
        seen[scheme] = browser.value("getComputedStyle(document.body).backgroundColor")
        worst = browser.value(
            """(() => {
              const light = c => c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
              const rgb = text => text.match(/[\\d.]+/g).map(Number);
              const behind = element => { for (; element; element = element.parentElement) {
                const found = rgb(getComputedStyle(element).backgroundColor);
                if (found.length < 4 || found[3] > 0) return found.slice(0, 3); } return [255, 255, 255]; };
              return [...document.querySelectorAll('body *')]
                .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
                .map(e => { const front = rgb(getComputedStyle(e).color).slice(0, 3);
                  const [a, b] = [light(front), light(behind(e))].sort((x, y) => y - x);
                  return [(a + .05) / (b + .05), e.outerHTML.slice(0, 80)]; }).sort((x, y) => x[0] - y[0])[0];
            })()"""
        )
        assert worst[0] >= 4.5, (scheme, worst)
    assert seen["light"] != seen["dark"]


def test_the_keyboard_reaches_everything(browser: Browser, tmp_path: Path) -> None:
    """Tab goes through links, the matrix, its cells and the folded evidence; Enter follows and unfolds."""
    shown(browser, everything(), tmp_path)
    browser.press("Tab")
    assert browser.value("document.activeElement.textContent") == "Matrix"
    browser.press("Enter")
    assert browser.value("location.hash") == "#matrix"
    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "scroll"
    browser.press("Tab")
    assert browser.value("document.activeElement.getAttribute('aria-label')").startswith("the node itself on kubworker2")
    browser.press("Enter")
    assert browser.value("location.hash") == "#f1"
    browser.press("Tab")
    assert browser.value("document.activeElement.tagName") == "SUMMARY"
    browser.press("Enter")
    assert browser.value("document.activeElement.parentElement.open")
    assert browser.value("document.activeElement.parentElement.querySelector('pre').checkVisibility()")


def test_a_big_matrix_keeps_its_heads_in_sight(browser: Browser, tmp_path: Path) -> None:
    """500 Services by 100 nodes: scrolled to the far corner, the row's name and the column's are still there."""
    shown(browser, made(nodes=100, services=500, endpoints=2, wrong=2, dark=1), tmp_path)
    browser.value("Object.assign(document.querySelector('#matrix .scroll'), {scrollTop: 1e6, scrollLeft: 1e6})")
    seen = browser.value(
        """(() => { const box = document.querySelector('#matrix .scroll'), frame = box.getBoundingClientRect();
          const inside = e => { const r = e.getBoundingClientRect();
            return r.left >= frame.left - 1 && r.right <= frame.right + 1
              && r.top >= frame.top - 1 && r.bottom <= frame.bottom + 1; };
          return [box.scrollTop > 1000, box.scrollLeft > 500, inside(document.querySelector('.matrix tbody tr:last-child th')),
            inside(document.querySelector('.matrix thead th:last-child'))]; })()"""
    )
    assert seen == [True, True, True, True]


def test_on_paper_the_evidence_is_unfolded(browser: Browser, tmp_path: Path) -> None:
    """Printed, every rule line is there, and the page comes out as a PDF."""
    shown(browser, everything(), tmp_path)
    folded = "[...document.querySelectorAll('.finding pre')].filter(e => e.checkVisibility({contentVisibilityAuto: true})).length"
    before = browser.value("[...document.querySelectorAll('.finding pre')].map(e => e.getBoundingClientRect().height)")
    browser.call("Emulation.setEmulatedMedia", media="print")
    after = browser.value("[...document.querySelectorAll('.finding pre')].map(e => e.getBoundingClientRect().height)")
    visible = browser.value(folded)
    browser.call("Emulation.setEmulatedMedia", media="")
    assert visible == len(after)
    assert all(height > 10 for height in after), (before, after)
    assert base64.b64decode(browser.call("Page.printToPDF")["data"]).startswith(b"%PDF")


def test_mermaid_itself_draws_a_trace(browser: Browser, tmp_path: Path) -> None:
    """Mermaid takes every picture, and draws its boxes with their words as words, a hostile one's as well."""
    scripts = sorted((ROOT / "build" / "mermaid").glob("mermaid-*.min.js"))
    if not scripts:
        pytest.skip("mermaid is not installed")
    page = tmp_path / "mermaid.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body><script src="{scripts[-1].as_uri()}"></script>')
    browser.open(page)
    browser.value('mermaid.initialize({startOnLoad: false, securityLevel: "strict"})')
    for name, make in TRACES.items():
        assert browser.value(f"mermaid.parse({json.dumps(mermaid(make()))}).then(found => found.diagramType)"), name
    for name in ("hairpin", "hostile"):
        trace = TRACES[name]()
        drawn = browser.value(
            f"""mermaid.render("picture", {json.dumps(mermaid(trace))}).then(found => {{
              document.body.innerHTML = found.svg;
              return [document.querySelectorAll(".node").length, document.querySelectorAll(".node script, .node img").length,
                document.body.innerText]; }})"""
        )
        assert drawn[:2] == [len(graph_of(trace).boxes), 0]
        assert ("<script>alert(1)</script>" in " ".join(drawn[2].split())) is (name == "hostile")
