# SPDX-License-Identifier: MIT
"""The page that explains a search: whole, self-contained, well-formed, and readable on a phone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bitwright import compare_layers, lower
from bitwright.allocation import LatencyTable
from bitwright.auto import Measured, Searched
from bitwright.auto.searched import TracedFrontier, TracedPoint
from bitwright.auto.settings import EVERY_WIDTH
from bitwright.errors import DataError, FileFormatError
from bitwright.report import Explained, explain
from bitwright.report.page import Point, bars, histograms, page, scatter
from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
from training.small import digits, small_graph, small_quantized

VOID = {"meta", "br"}
PHONE = 360
HOSTILE = '"><script src="https://example.org/x.js"></script>'


class Reader(HTMLParser):
    """What a page holds; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attributes)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def _seen(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attributes if key in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    """A page, parsed."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


COUNTS = Measured(images=1000, right=890, lost=15, gained=5)
SEARCHED = Searched(
    "size0.5", "calibrated", Measured(1000, 900, 0, 0), COUNTS, 2.0, 1.0, (1000, 1000), "equal",
    tried=tuple(("calibrated", name, COUNTS) for name in ("size0.5", "size0")),
    choices=(),
    frontier=TracedFrontier("size", "MB", (TracedPoint("size0", 0.1, 1.0), TracedPoint("size0.5", 0.2, 0.1))),
)  # fmt: skip


REPORT = {
    "scheme": {"name": "size0.5"}, "way": "calibrated", "integers": COUNTS.to_dict(), "float": COUNTS.to_dict(),
    "milliseconds": {"float": 1.0, "integers": 2.0}, "equal_images": 3, "compared_images": 3, "checked": "equal", "tried": [],
    "frontier": None, "environment": {},
}  # fmt: skip
"""As `bitwright auto` writes it."""


@pytest.fixture(scope="module")
def table() -> SensitivityTable:
    """Of the small network."""
    settings = SensitivitySettings(max_probes=10)
    return measure_sensitivity(small_graph(), *digits().calibration(32), settings, data="digits")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, table: SensitivityTable) -> Path:
    """A page with everything but latencies."""
    graph, model = small_graph(), lower(small_quantized("W4A4"))
    layers = compare_layers(graph, model, digits().test.read(range(8))[0])
    path = tmp_path_factory.mktemp("page") / "small.html"
    explain(Explained(graph, model, table, EVERY_WIDTH, layers, SEARCHED), path)
    return path


def test_nothing_else_is_needed(written: Path) -> None:
    """No script, no link, no picture from elsewhere; every layer is named, with each of its choices and its proof."""
    text = written.read_text(encoding="utf-8")
    found = read(text)
    assert not found.links
    assert not {"script", "link", "img", "iframe"} & found.tags
    assert "url(" not in text
    assert 'name="viewport"' in text
    for layer in small_graph().layers:
        assert found.text.count(layer) >= 3
    for words in (
        "90.00 ± 0.95 %",
        "What could have been had",
        "of them hold for every 32-bit sum",
        "1.00 ± 0.45 points",
    ):
        assert words in found.text
    assert all(str(choice) in found.text for choice in EVERY_WIDTH)


def test_what_was_not_measured_has_no_section(table: SensitivityTable, tmp_path: Path) -> None:
    """Without images, results and latencies the page is shorter, and still whole."""
    explain(Explained(small_graph(), lower(small_quantized("W4A4")), table), tmp_path / "short.html")
    found = read((tmp_path / "short.html").read_text(encoding="utf-8"))
    assert "Why each layer has its bits" in found.text
    assert not any(words in found.text for words in ("Float against integers", "could have been had", "How long"))


def test_of_another_network(table: SensitivityTable, tmp_path: Path) -> None:
    """Sensitivities that were measured on other weights explain nothing."""
    what = Explained(small_graph(), lower(small_quantized("W4A4")), replace(table, network="0" * 64))
    with pytest.raises(DataError, match="another network, other weights"):
        explain(what, tmp_path / "none.html")
    assert not list(tmp_path.iterdir())


def test_latencies_that_a_table_lacks_are_named(tmp_path: Path) -> None:
    """A layer at a precision that was not timed is said to be so; without sensitivities there are no errors to show."""
    graph, model = small_graph(), lower(small_quantized("W4A4"))
    first, *others = model.scheme.layers
    latency = LatencyTable("cpu", "engine", 1, by_layer={first: {model.scheme.layers[first]: 0.25}})
    explain(Explained(graph, model, latency=latency), tmp_path / "timed.html")
    found = read((tmp_path / "timed.html").read_text(encoding="utf-8"))
    assert "0.25" in found.text
    lacking = found.text.partition("Not in the table, so not timed: ")[2]
    assert [layer for layer in others if layer not in lacking] == []
    assert f"{first} " not in lacking
    assert "Why each layer has its bits" not in found.text


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ([], "expected a mapping"),
        ({"way": "calibrated"}, "missing key 'scheme'; missing key 'integers'"),
        (REPORT | {"integers": {"images": 0, "right": 0, "lost": 0, "gained": 0}}, "at least one image"),
        (REPORT | {"milliseconds": {"float": 1.0}}, "missing key 'integers'"),
        (REPORT | {"tried": [3]}, "expected a mapping, got 3"),
    ],
)
def test_a_report_of_something_else(report: object, message: str) -> None:
    """Is refused with what it lacks."""
    with pytest.raises(FileFormatError, match=message):
        Searched.from_dict(report)


def test_names_are_text() -> None:
    """Whatever a model or a layer is called, it is no code of the page."""
    parts = [
        scatter(
            [Point(0, 1, 0.1, HOSTILE), Point(1, 2, label=HOSTILE, marked=True, joined=True)], HOSTILE, HOSTILE, HOSTILE
        ),
        bars([(HOSTILE, 1.0, 0.5, True), (HOSTILE, -1.0, 0.0, False)], HOSTILE),
        histograms(0.0, 1.0, (1, 2, 0), (0, 0, 3), HOSTILE),
    ]
    found = read(page(HOSTILE, parts))
    assert not found.links
    assert "script" not in found.tags


@pytest.mark.parametrize("logarithmic", [True, False])
def test_drawings_of_little(logarithmic: bool) -> None:
    """One point, equal points, zeros and nothing draw without an infinite or undefined number."""
    for points in ([Point(1, 0)], [Point(1, 2)] * 3, [Point(0, 0), Point(1, 5)], []):
        drawn = scatter(points, "x", "y", "some", logarithmic=logarithmic)
        assert "nan" not in drawn
        assert "inf" not in drawn
    assert bars([("a", float("inf"), 0.0, False)], "none") == ""


@pytest.mark.slow
def test_in_a_browser(written: Path) -> None:
    """Chromium shows it at a phone's width without scrolling aside, opens its details, and asks for nothing else."""
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with browsers.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (PHONE, 1280):
            shown = browser.new_page(viewport={"width": width, "height": 740})
            asked: list[str] = []
            faults: list[str] = []
            shown.on("request", lambda request, into=asked: into.append(request.url))
            shown.on("console", lambda message, into=faults: into.append(message.text))
            shown.goto(written.as_uri())
            for summary in shown.query_selector_all("summary"):
                summary.click()
            assert shown.evaluate("document.querySelectorAll('details:not([open])').length") == 0
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert (
                min(shown.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"))
                > 200
            )
            assert shown.is_visible("text=Why each layer has its bits")
            assert asked == [written.as_uri()]
            assert not faults
        browser.close()
