"""A run in the terminal: the same numbers, curves of dots, one hit."""

import os
import pty
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi, run_job
from mockrun import tiny_run

from xfelmpi.report.images import Assembled
from xfelmpi.report.terminal import hit_lines, plot_lines


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "p007927"
    mock = tiny_run(folder, trains=3, cells=tuple(range(8)), missing=((3, 1),))
    done = run_job([50, "--prefix", folder, "--geometry", mock.paths.geometry, "--no-report"])
    assert done.returncode == 3, done.stderr
    return folder


@pytest.mark.parametrize("ranks", [0, 3])
@pytest.mark.quick
def test_headline_equals_the_events_file(prefix, ranks):
    done = run_job(["show", 50, "--prefix", prefix], ranks)
    assert done.returncode == 0, done.stderr
    with h5py.File(prefix / "scratch/events/r0050_events.h5") as file:
        hits, complete = int(file["is_hit"][:].sum()), int((file["modules"][:] == 0xFFFF).sum())
    text = re.sub(" +", " ", done.stdout)
    assert f"hits {hits} {100 * hits / complete:.2f} % of the complete frames" in text
    assert f"frames 24 {complete} complete" in text
    assert "excluded 1 problem, 8 incomplete frames" in text
    assert "run 50, p007927, Simulated spheres" in text
    assert len(re.findall("^.*│[\u2800-\u28ff]+$", done.stdout, re.M)) == 16
    assert "\x1b" not in done.stdout
    assert done.stdout.count("run 50") == 1
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_several_runs_and_hits(prefix):
    where = ["--prefix", prefix]
    once = call_xfelmpi(["show", 50, *where]).stdout
    assert call_xfelmpi(["show", 50, 50, *where]).stdout == f"{once}\n{once}"
    hits = [call_xfelmpi(["show", 50, "--hit", n, *where]).stdout for n in (0, 1)]
    assert call_xfelmpi(["show", 50, "--hit", 0, 1, *where]).stdout == "".join(hits)
    pages = call_xfelmpi(["report", "50,50", *where])
    assert pages.stdout == 2 * f"{prefix / 'scratch/report/r0050.html'}\n"


@pytest.mark.quick
def test_one_hit(prefix):
    done = run_job(["show", 50, "--prefix", prefix, "--hit", 1])
    assert done.returncode == 0, done.stderr
    with h5py.File(prefix / "scratch/saved_hits/r0050_hits.cxi") as file:
        train, cell = (file[f"entry_1/{name}"][1] for name in ("trainId", "cellId"))
        photons = file["entry_1/instrument_1/detector_1/photon_counts"][1]
    first, *image = done.stdout.splitlines()
    assert f"hit 1: train {train}, cell {cell}, {photons:,} photons" in first
    assert len(image) > 20
    # the particle scatters around the middle
    brightest = [i for i, line in enumerate(image) if "@" in line]
    assert abs(np.mean(brightest) - len(image) / 2) < len(image) / 6
    assert "\x1b" not in done.stdout


@pytest.mark.quick
def test_hits_that_are_not_there(prefix):
    for hit in (-1, 1000):
        done = call_xfelmpi(["show", 50, "--prefix", prefix, "--hit", hit])
        assert done.returncode == 2
        assert f"--hit {hit}: " in done.stderr
        assert "hits, from 0 on" in done.stderr
    done = call_xfelmpi(["show", 51, "--prefix", prefix])
    assert done.returncode == 2
    assert "process the run first" in done.stderr


@pytest.mark.parametrize("plain", [False, True])
def test_colours_on_a_terminal_only_if_wished(prefix, plain):
    main, terminal = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1"} if plain else dict(os.environ)
    environment.pop("XFELMPI", None)
    command = [sys.executable, "-m", "xfelmpi", "show", "50", "--prefix", str(prefix)]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(main)
    assert process.wait(30) == 0
    assert (b"\x1b[1mrun 50" in text) is not plain
    assert (b"\x1b[31m" in text) is not plain


def test_plot_of_a_line():
    """From the lower left to the upper right."""
    x = np.linspace(0, 1, 8)
    lines = plot_lines(x, x, (4, 2), "10", "e", start="a")
    assert [line[-4:] for line in lines[:2]] == [
        "\u2800\u2800\u2860\u280a",
        "\u2860\u280a\u2800\u2800",
    ]
    assert lines[2] == " 0 └────"
    assert lines[3].split() == ["a", "e"]


def test_plot_with_gaps_and_a_mark():
    y = np.array([np.nan, np.nan, 0.0, 0.0])
    lines = plot_lines(np.linspace(0, 1, 4), y, (2, 1), "1", "e", filled=True)
    assert lines[0] == "1 │\u2800\u28c0"
    lines = plot_lines(np.linspace(0, 1, 4), y, (2, 1), "1", "e", mark=0.0)
    assert lines[0] == "1 │\u2805\u28c0"


def test_hit_with_bad_pixels():
    values = np.array([[0, 1, 100], [0, 0, 0], [np.nan, np.nan, 50]])
    bad = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0]], bool)
    plain = hit_lines(Assembled(values, bad), colour=False)
    assert plain[0][0] != plain[0][1] != plain[0][2] == "@"
    assert plain[1][:2] == " x"
    painted = hit_lines(Assembled(values, bad), colour=True)
    assert len(painted) == 2
    assert painted[0].count("▀") == 3
    assert all(line.endswith("\x1b[0m") for line in painted)
