"""How long the overview of many runs takes to be written, and to be opened in Chromium.

    python tests/benchmarks/overview_page.py [RUNS]

Every run has a hit powder of the usual size. Shown: the page's size, the seconds of writing it, and
those from asking for it until it is drawn and its script has run; medians of 5.
"""

import base64
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np

from xfelmpi.report import overview
from xfelmpi.report.comments import add_comment
from xfelmpi.report.overview import RunStatus

REPEATS = 5

THUMBNAIL = 4000
"""Bytes of a hit powder."""


def make_reports(folder: Path, n: int) -> Path:
    """Write what jobs leave of `n` runs, and return where the overview is to be."""
    folder.mkdir()
    random = np.random.default_rng(5)
    for run in range(1, n + 1):
        image = base64.b64encode(random.bytes(THUMBNAIL)).decode()
        status = RunStatus(
            run,
            "3" if run % 10 == 0 else "0",
            f"2024-05-{1 + run // 100:02}T{run // 60 % 24:02}:{run % 60:02}:00+00:00",
            "2 problems" if run % 10 == 0 else "",
            f"sample {run // 50}",
            1_000_000,
            int(random.integers(10_000)),
            float(random.random() / 50),
            1e-3,
            f"data:image/png;base64,{image}",
            brightest_100=float(random.normal(1e5, 1e4)),
            median_size=float(random.normal(5e-8, 1e-9)),
            background=float(random.normal(40, 1)),
        )
        (folder / f"r{run:04}.json").write_text(json.dumps(asdict(status)))
    add_comment(folder, n // 2, "half way")
    return folder / "index.html"


def seconds_to_open(browser, path: Path, rows: int) -> float:
    """Return the seconds until a page is drawn, with all rows of its table."""
    page = browser.new_page()
    start = time.monotonic()
    page.goto(path.as_uri(), wait_until="load")
    # two frames: the first may have been drawn before the script ran
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    seconds = time.monotonic() - start
    assert page.locator("tbody tr").count() == rows
    page.close()
    return seconds


def main(n: int = 1000) -> None:
    """Measure, and print."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = make_reports(Path(folder) / "report", n)
        written, opened = [], []
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(REPEATS):
            start = time.monotonic()
            overview.rebuild(path)
            written.append(time.monotonic() - start)
            opened.append(seconds_to_open(browser, path, n))
        browser.close()
        print(
            f"{n} runs, {path.stat().st_size / 1e6:.1f} MB: written in {median(written):.2f} s, "
            f"opened in {median(opened):.2f} s (load {os.getloadavg()[0]:.0f})"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
