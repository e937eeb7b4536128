"""The pages in a real browser, opened from disk: Debian's Chromium, driven by Playwright."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import limit, run_xfelmpi
from mockrun import tiny_run
from optional import unavailable

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from overview_page import make_reports

from xfelmpi.report import overview
from xfelmpi.workflows.merge.row_filter import rows_where

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


def assert_soon(look, wanted):
    """Assert that a page shows something, which it may do a little after what it was asked."""
    end = time.monotonic() + limit(10)
    while look() != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert look() == wanted


def keep_labels(page):
    """Have a button that says "copied" go on saying so, however long the test takes to look."""
    page.evaluate("window.setTimeout = () => 0")


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
@pytest.mark.parametrize(
    "name", ["r0050.html", "r0051.html", "r0050_hits.html", "r0051_hits.html", "index.html"]
)
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
    if name in ("r0050.html", "r0051.html"):
        page.wait_for_selector("body[data-drawn]", state="attached")
        widths = page.locator(".plot").evaluate_all("all => all.map(e => e.offsetWidth)")
        assert len(widths) >= 7
        assert min(widths) > 200
        assert max(widths) <= size["width"]


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
    assert_soon(runs.all_inner_texts, ["51", "50", "52"])
    watched.page.get_by_role("button", name="hits").first.click()
    assert_soon(runs.all_inner_texts, ["50", "51", "52"])
    assert rows.nth(0).locator("a").get_attribute("href") == "r0050.html"


# Asked again by "evaluate": the page's own rules forbid the script of wait_for_function.
ON_THE_WALL = "document.body.classList.contains('wall')"


def test_overview_on_the_wall_and_filtered(opened):
    page = opened("index.html").page
    rows = page.locator("tbody tr")

    def shown():
        seen = "list => list.filter(row => row.offsetParent !== null)"
        return rows.evaluate_all(f"{seen}.map(row => row.cells[0].innerText)")

    page.locator("select[name=state]").select_option("failed")
    assert_soon(shown, ["52"])
    page.reload()
    # what was chosen lasts
    assert_soon(shown, ["52"])
    page.locator("select[name=state]").select_option("")
    page.locator("select[name=sample]").select_option("Simulated spheres")
    assert_soon(shown, ["51", "50"])
    assert not page.evaluate(ON_THE_WALL)
    page.get_by_text("wall screen").click()
    assert_soon(lambda: page.evaluate(ON_THE_WALL), True)
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
    assert_soon(lambda: page.evaluate(ON_THE_WALL), True)
    visible = "list => list.filter(row => row.offsetParent !== null).length"
    assert 0 < page.locator("tbody tr").evaluate_all(visible) <= 20
    watched.assert_quiet()
    page.close()


RANGES = """element => {
    const root = charts.roots, id = Object.keys(root).find((key) => root[key] === element.id);
    const view = Bokeh.index.get_by_id(id), box = view.canvas_view.el.getBoundingClientRect();
    const { left, top, width, height } = view.frame.bbox, { x_range: x, y_range: y } = view.model;
    return { x: [x.start, x.end], y: [y.start, y.end],
             box: [box.left + left, box.top + top, width, height] };
}"""


@pytest.fixture
def drawn(opened):
    """Open the page of run 50 with its charts drawn."""

    def open_page(size=DESKTOP):
        page = opened("r0050.html", size).page
        page.wait_for_selector("body[data-drawn]", state="attached")
        return page

    return open_page


def plot(page, title: str):
    """The element of a chart, on the screen."""
    element = page.locator("figure.chart", has=page.get_by_text(title, exact=True))
    element = element.locator(".plot")
    element.scroll_into_view_if_needed()
    return element


def drag(page, box, start: float, end: float):
    """Draw a box over a part of a plot, from start to end of its width."""
    left, top, width, height = box
    page.mouse.move(left + width * start, top + height * 0.05)
    page.mouse.down()
    page.mouse.move(left + width * (start + end) / 2, top + height / 2)
    page.mouse.move(left + width * end, top + height * 0.95)
    page.mouse.up()


def test_hovering_shows_numbers(drawn):
    page = drawn()
    left, top, width, height = plot(page, "Hits against memory cell").evaluate(RANGES)["box"]
    # the middle of the first of twelve cells
    page.mouse.move(left + width / 24, top + height / 2)
    page.mouse.move(left + width / 24 + 1, top + height / 2)
    names, values = (page.locator(f".bk-tooltip-row-{part}:visible") for part in ("label", "value"))
    names.first.wait_for()
    assert [text.strip(": ") for text in names.all_inner_texts()] == ["memory cell", "hits"]
    assert values.nth(0).inner_text() == "0"
    assert values.nth(1).inner_text().isdigit()


def test_zooming_is_linked_and_can_be_taken_back(drawn):
    page = drawn()
    cells, score = (
        plot(page, f"{what} memory cell") for what in ("Hits against", "Mean score against")
    )
    before = cells.evaluate(RANGES)
    drag(page, before["box"], 0.5, 0.75)
    assert_soon(lambda: cells.evaluate(RANGES)["x"] != before["x"], True)
    zoomed = cells.evaluate(RANGES)
    assert zoomed["x"] == pytest.approx([5.5, 8.5], abs=0.2)
    assert_soon(lambda: score.evaluate(RANGES)["x"], zoomed["x"])
    assert plot(page, "Hit rate against train").evaluate(RANGES)["x"] == [-0.5, 3.5]
    cells.hover()
    cells.locator(".bk-tool-icon-reset").click()
    assert_soon(lambda: cells.evaluate(RANGES)["x"], before["x"])


def test_series_can_be_switched_off(drawn):
    page = drawn()
    element = plot(page, "Hit-score histogram")
    hidden = """() => Bokeh.documents[0].all_models ? [...Bokeh.documents[0].all_models]
        .filter(m => m.type === "GlyphRenderer" && !m.visible).length : -1"""
    assert page.evaluate(hidden) == 0
    element.locator(".bk-Legend .bk-item").first.click()
    assert_soon(lambda: page.evaluate(hidden), 1)


def test_powders_have_their_values_and_share_a_scale_on_request(drawn):
    page = drawn()
    limits = """() => ["", "_hits", "_misses"].map(which => {
        const scale = Bokeh.documents[0].get_model_by_name("scale" + which);
        return [scale.low, scale.high];
    })"""
    own = page.evaluate(limits)
    assert len({tuple(pair) for pair in own}) == 3
    page.locator("#same-scale").check()
    widest = [min(p[0] for p in own), max(p[1] for p in own)]
    assert_soon(lambda: page.evaluate(limits), [widest] * 3)
    page.locator("#same-scale").uncheck()
    assert_soon(lambda: page.evaluate(limits), own)
    for part, size in ((0, 300), (1, 256)):
        values = page.evaluate(
            """name => {
            const { data } = Bokeh.documents[0].get_model_by_name(name), image = data.image[0];
            return [image.shape[0], Math.max(...[...image].filter(v => v > 0))];
        }""",
            f"powder_hits-{part}",
        )
        assert values[0] >= size
        assert values[1] > 0


# the hit browser

SHOWN = "figures => figures.map(f => Number(f.querySelector('b').innerText.slice(4)))"


@pytest.fixture
def browser_of_hits(opened):
    """Open the hit browser of run 50, its images drawn."""

    def open_page(size=DESKTOP, name="r0050_hits.html"):
        page = opened(name, size).page
        page.wait_for_selector("body[data-drawn]", state="attached")
        return page

    return open_page


def hit_columns(report) -> dict[str, np.ndarray]:
    with h5py.File(report.parent / "events" / "r0050_events.h5") as file:
        hit = file["is_hit"][:].astype(bool)
        names = ("trainId", "cellId", "photons", "hitscore")
        return {name: file[name][:][hit] for name in names}


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hits_are_sorted_and_filtered(browser_of_hits, report, size):
    page, columns = browser_of_hits(size), hit_columns(report)
    figures = page.locator("#grid figure")

    def shown():
        return figures.evaluate_all(SHOWN)

    by_score = np.argsort(-columns["hitscore"], kind="stable").tolist()
    assert_soon(shown, by_score[:48])
    page.locator("#sort").select_option("trainId")
    page.locator("#direction").click()
    assert_soon(shown, list(range(len(by_score)))[:48])
    least = int(np.median(columns["photons"]))
    page.locator("#where").fill(f"photon_counts > {least} and cellId < 9")
    page.locator("#where").press("Enter")
    expected = np.flatnonzero((columns["photons"] > least) & (columns["cellId"] < 9)).tolist()
    assert expected
    assert_soon(shown, expected)
    assert f"{len(expected)} of {len(by_score)} hits" in page.locator("#page").inner_text()
    page.locator("#where").fill("cellId not in (0, 1, 2) and wavelength < 1 um")
    page.locator("#where").press("Enter")
    assert_soon(shown, np.flatnonzero(columns["cellId"] > 2).tolist()[:48])
    page.locator("#where").fill("brightness > 3")
    page.locator("#where").press("Enter")
    page.get_by_text("no column 'brightness'; there are hit, trainId").wait_for()
    page.locator("#where").fill("")
    page.locator("#column").select_option("photons")
    page.locator("#operator").select_option(">=")
    page.locator("#value").fill(str(int(columns["photons"].max())))
    page.locator("#add").click()
    assert_soon(shown, [int(np.argmax(columns["photons"]))])
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_hit_is_enlarged_with_all_its_photons(browser_of_hits, report, size):
    page, columns = browser_of_hits(size), hit_columns(report)
    page.locator("#grid figure canvas").first.click()
    dialog = page.locator("dialog")
    dialog.wait_for()
    best = int(np.argsort(-columns["hitscore"], kind="stable")[0])
    caption = dict(row.split("\t") for row in dialog.locator("table").inner_text().splitlines())
    assert caption["hit"].strip() == str(best)
    assert int(caption["trainId"]) == columns["trainId"][best]
    read = """async i => {
        const found = await photons(data.columns.hit.indexOf(i));
        return [[...found.count].reduce((a, b) => a + b, 0), found.count.length];
    }"""
    with h5py.File(report.parent / "saved_hits" / "r0050_hits.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        frame = np.where(detector["mask"][best] == 0, detector["data"][best], 0)
    assert page.evaluate(read, best) == [int(frame.sum()), int((frame > 0).sum())]
    # all values can be read, and all of the hit is seen
    text = dialog.locator(".caption")
    assert text.evaluate("e => e.scrollWidth <= e.clientWidth")
    right = (
        "e => Math.max(...[...e.querySelectorAll('td')].map(c => c.getBoundingClientRect().right))"
    )
    assert text.evaluate(right) <= size["width"]
    # full resolution: a point of the canvas is a pixel
    canvas = dialog.locator("canvas")
    place = canvas.bounding_box()
    assert place["y"] >= 0
    assert place["y"] + place["height"] <= size["height"]
    assert canvas.evaluate("c => c.width") > 1000
    before = canvas.bounding_box()["width"]
    page.locator("#zoom").click()
    assert_soon(lambda: canvas.bounding_box()["width"] > 1.5 * before, True)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_hits_by_keyboard_and_ticked(browser_of_hits, report):
    page, columns = browser_of_hits(), hit_columns(report)
    order = np.argsort(-columns["hitscore"], kind="stable").tolist()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.locator("#page", has_text="2 ticked").wait_for()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    assert_soon(lambda: page.locator("dialog td").first.inner_text().strip(), str(order[1]))
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="hidden")
    page.locator("#only-ticked").check()
    figures = page.locator("#grid figure")
    assert_soon(lambda: figures.evaluate_all(SHOWN), [order[0], order[2]])
    assert page.evaluate("list()") == sorted([order[0], order[2]])
    condition = page.evaluate("where()")
    both = [order[0], order[2]]
    assert rows_where(condition, columns).nonzero()[0].tolist() == sorted(both)
    keep_labels(page)
    page.locator("#copy-where").click()
    page.locator("#copy-where", has_text=re.compile("^(copied|not allowed here)$")).wait_for()


def test_thousands_of_hits(chromium, report, tmp_path):
    """The page of run 50 with its hits many times over."""
    text = (report / "r0050_hits.html").read_text()
    start, content, end = re.split(r'(?<=id="hits">)(.*?)(?=</script>)', text, maxsplit=1)
    data = json.loads(content)
    n = len(data["photons"])
    for column in (data["photons"], *data["columns"].values()):
        column[:] = (column * (4000 // n + 1))[:4000]
    data["columns"]["hit"] = list(range(4000))
    path = tmp_path / "r0050_hits.html"
    path.write_text(start + json.dumps(data) + end)
    watched = Watched(chromium, path, DESKTOP)
    page = watched.page
    page.wait_for_selector("body[data-drawn]", state="attached")
    assert "page 1 of 84, 4000 of 4000 hits" in page.locator("#page").inner_text()
    page.locator("#sort").select_option("hit")
    page.locator("#direction").click()
    page.get_by_role("button", name="next").click()
    page.keyboard.press("PageDown")
    figures = page.locator("#grid figure")
    assert_soon(lambda: figures.evaluate_all(SHOWN), list(range(96, 144)))
    watched.assert_quiet()
    page.close()


def test_images_grow_and_commands_are_copied(opened):
    page = opened("r0050.html").page
    page.locator(".hits img").first.click()
    page.locator("dialog img").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog img").wait_for(state="hidden")
    command = page.locator(".command").nth(1)
    keep_labels(page)
    command.get_by_role("button").click()
    command.get_by_role("button", name=re.compile("^(copied|selected)$")).wait_for()
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
