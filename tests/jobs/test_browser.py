"""The pages in a real browser, opened from disk: Debian's Chromium, driven by Playwright."""

import os
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import run_xfelmpi
from mockrun import tiny_run
from optional import unavailable

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from overview_page import make_reports

from xfelmpi.report import overview

pytestmark = pytest.mark.browser

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of reports: a run with a problem, one without hits, one that failed."""
    prefix = tmp_path_factory.mktemp("browser") / "p007927"
    cells = tuple(range(12))
    mock = tiny_run(prefix, trains=4, cells=cells, missing=((3, 1),))
    blank = tiny_run(prefix, run=51, trains=2, cells=cells, hit_rate=0.0)
    (prefix / "proc" / "r0052").mkdir()
    for run, geometry, status in (
        (50, mock.paths.geometry, 3),
        (51, blank.paths.geometry, 0),
        (52, mock.paths.geometry, 2),
    ):
        done = run_xfelmpi([run, "--prefix", prefix, "--geometry", geometry])
        assert done.returncode == status, done.stderr
    return prefix / "scratch" / "report"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        unavailable("no Chromium; name one: CHROMIUM=", "XFELMPI_TEST_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of the browser, and all that it said and asked for."""

    def __init__(self, chromium, path: Path, size: dict):
        self.messages, self.requests = [], []
        self.page = chromium.new_page(viewport=size)
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.path = path

    def assert_quiet(self):
        assert self.messages == []
        asked = [url for url in self.requests if not url.startswith("data:")]
        assert set(asked) == {self.path.as_uri()}

    def number(self, name: str) -> str:
        return self.page.locator(f'dd[data-name="{name}"]').inner_text()


@pytest.fixture
def opened(chromium, report):
    """Open a page of the folder; at the end it must have been quiet."""
    watched = []

    def open_page(name, size=DESKTOP):
        watched.append(Watched(chromium, report / name, size))
        return watched[-1]

    yield open_page
    for one in watched:
        one.assert_quiet()
        one.page.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["r0050.html", "r0051.html", "index.html"])
def test_pages_fit_and_every_image_is_one(opened, name, size):
    page = opened(name, size).page
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    images = page.locator("img")
    broken = "list => list.filter(i => i.src.length > 9 && !i.naturalWidth).length"
    assert images.evaluate_all(broken) == 0
    if name == "r0050.html":
        assert images.count() > 5
    # nothing reaches out of its text box, and letters are large enough to read
    texts = page.locator(".chart text").all()
    assert all(t.bounding_box()["height"] > 9 for t in texts[:20])


def test_headline_equals_the_events_file(opened, report):
    watched = opened("r0050.html")
    with h5py.File(report.parent / "events" / "r0050_events.h5") as file:
        hits, modules = int(file["is_hit"][:].sum()), file["modules"][:]
        trains = len(np.unique(file["trainId"][:]))
    complete = int((modules == 0xFFFF).sum())
    assert watched.number("hits") == f"{hits:,}"
    assert watched.number("hit rate") == f"{100 * hits / complete:.2f} %"
    assert watched.number("frames") == f"{len(modules):,}"
    assert watched.number("trains") == str(trains)
    assert watched.number("excluded") == f"1 problem, {len(modules) - complete} incomplete frames"
    red = 'document.querySelector("dd.alarm")'
    assert watched.page.evaluate(f"getComputedStyle({red}).color") == "rgb(179, 32, 28)"
    assert watched.page.locator(".hits img").count() == min(hits, 24)


def test_overview_lists_all_runs_and_sorts(opened, report):
    watched = opened("index.html")
    runs = watched.page.locator("tbody tr td:first-child")
    assert runs.all_inner_texts() == ["52", "51", "50"]
    rows = watched.page.locator("tbody tr")
    assert "failed" in rows.nth(0).inner_text()
    assert "no such run" in rows.nth(0).inner_text()
    assert rows.nth(1).locator(".badge").inner_text() == "complete"
    assert rows.nth(2).locator(".badge").inner_text().startswith("complete, 1 problem")
    with h5py.File(report.parent / "events" / "r0050_events.h5") as file:
        hits = int(file["is_hit"][:].sum())
    assert rows.nth(2).locator("td").nth(4).inner_text() == f"{hits:,}"
    watched.page.get_by_role("button", name="hits").first.click()
    assert runs.all_inner_texts() == ["51", "50", "52"]
    watched.page.get_by_role("button", name="hits").first.click()
    assert runs.all_inner_texts() == ["50", "51", "52"]
    assert rows.nth(0).locator("a").get_attribute("href") == "r0050.html"


def test_overview_on_the_wall_and_filtered(opened):
    page = opened("index.html").page
    shown = (
        "list => list.filter(row => row.offsetParent !== null).map(row => row.cells[0].innerText)"
    )
    rows = page.locator("tbody tr")
    page.locator("select[name=state]").select_option("failed")
    assert rows.evaluate_all(shown) == ["52"]
    page.reload()
    assert rows.evaluate_all(shown) == ["52"], "what was chosen lasts"
    page.locator("select[name=state]").select_option("")
    page.locator("select[name=sample]").select_option("Simulated spheres")
    assert rows.evaluate_all(shown) == ["51", "50"]
    assert not page.evaluate("document.body.classList.contains('wall')")
    page.get_by_text("wall screen").click()
    assert page.evaluate("document.body.classList.contains('wall')")
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 24
    assert not page.locator(".filters").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == DESKTOP["width"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_overview_of_a_thousand_runs(chromium, tmp_path, size):
    """All rows, the trends, and nothing beside the screen; on the wall the latest runs only."""
    path = make_reports(tmp_path / "report", 1000)
    overview.rebuild(path)
    watched = Watched(chromium, path, size)
    page = watched.page
    assert page.locator("tbody tr").count() == 1000
    assert page.get_by_text("half way").count() == 1
    assert page.locator(".trends figure").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    page.evaluate("location.hash = '#wall'")
    page.wait_for_function("document.body.classList.contains('wall')")
    visible = "list => list.filter(row => row.offsetParent !== null).length"
    assert 0 < page.locator("tbody tr").evaluate_all(visible) <= 20
    watched.assert_quiet()
    page.close()


def test_hovering_and_zooming(opened):
    page = opened("r0050.html").page
    chart = page.locator("figure.chart").nth(2)
    frame, tip = chart.locator(".frame"), chart.locator(".tip")
    chart.scroll_into_view_if_needed()
    box = frame.bounding_box()
    middle = box["y"] + box["height"] / 2
    assert not tip.is_visible()
    # the middle of the first of twelve cells
    page.mouse.move(box["x"] + box["width"] / 24, middle)
    assert tip.inner_text().startswith("memory cell: 0\nhits: ")
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, middle)
    page.mouse.up()
    shown = chart.locator(".x text").all_text_contents()
    assert shown == ["6", "7", "8"]
    chart.get_by_role("button", name="whole range").click()
    assert len(chart.locator(".x text").all_text_contents()) > 3


def test_images_grow_and_commands_are_copied(opened):
    page = opened("r0050.html").page
    page.locator(".hits img").first.click()
    assert page.locator("dialog img").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog img").is_visible()
    command = page.locator(".command").nth(1)
    command.get_by_role("button").click()
    assert re.fullmatch("copied|selected", command.get_by_role("button").inner_text())
    text = page.evaluate("getSelection().toString()").strip()
    assert text.startswith("xfelmpi 50 --prefix /")
    assert text.endswith("--from-events --dry-run --sigma 3 4 5 6")


def test_it_can_be_printed(opened, tmp_path):
    page = opened("r0050.html").page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 15
