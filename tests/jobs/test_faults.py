"""Ranks that fail on purpose, at every stage: the job ends, soon, and harms nothing.

By default every pair of stage, action, place among the ranks and number of ranks; with
``XFELMPI_ALL_FAULTS=1`` every combination, which takes a quarter of an hour.
"""

import os
import re
import uuid
from itertools import product
from pathlib import Path
from time import monotonic, sleep

import pytest
from compare import assert_same_outputs
from launch import all_files, call_xfelmpi, limit, output_files, run_xfelmpi
from mockrun import tiny_dark_runs, tiny_run

MEANWHILE = ("index", "deal", "masks", "geometry", "vds", "photons", "decide")
WRITING = ("cxi", "emc", "hits", "misses", "powder", "detector", "frames", "events", "publish")
AFTERWARDS = ("folder", "finish", "report")
STAGES = (*MEANWHILE, *WRITING, *AFTERWARDS)

CAUSES = {
    "raise": "as XFELMPI_FAULT asks, at ",
    "exit": "exiting improperly",
    "kill": "signal 9",
}
RANKS = (2, 3, 4)
PLACES = {"first": lambda n: 0, "middle": lambda n: n // 2, "last": lambda n: n - 1}

FIRST = ("--decide", "fixed", "--distance", 0.7, "--with-misses", "--fixed-threshold", 750)
OTHER = (*FIRST[:-1], 500)
"""Both have hits and misses, but not the same ones."""

AGAIN = ("photons", "vds", "cxi", "hits", "frames", "events", "publish")
"""Where a job leaves what the next one must get over."""

TOGETHER = ("cxi", "publish")


def chosen():
    """Yield (stage, action, place, number of ranks) of the jobs to run."""
    if os.environ.get("XFELMPI_ALL_FAULTS"):
        yield from product(STAGES, CAUSES, PLACES, RANKS)
        return
    for i, stage in enumerate(STAGES):
        for j, action in enumerate(CAUSES):
            yield stage, action, list(PLACES)[(i + j) % 3], RANKS[(i + 2 * j) % 3]


def test_pairs_are_complete():
    columns = list(zip(*chosen(), strict=True))
    for i, a in enumerate(columns):
        for b in columns[:i]:
            assert len(set(zip(a, b, strict=True))) == len(set(a)) * len(set(b))


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "p007927"
    few = {"detector": "AGIPD-500K", "trains": 5, "cells": (1, 2), "dark_cells": 1}
    return tiny_run(folder, **few, hit_rate=0.5)


def job(mock, output, options, ranks=0, **env):
    """Process the run into a folder, without a page; without ranks in this process."""
    where = ["--prefix", mock.options.prefix, "--output", output, "--no-report"]
    if not ranks and not env:
        return call_xfelmpi([50, *where, *options])
    return run_xfelmpi([50, *where, *options], ranks, **env)


def contents(folder) -> dict[str, bytes]:
    """Return all complete outputs; a checkpoint is none."""
    no_output = re.compile(r"checkpoint/|.*\.part$")
    names = [name for name in output_files(folder) if not no_output.match(name)]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def first(mock, tmp_path_factory):
    """The folder that all jobs here write to, with the outputs of a job, and these."""
    folder = tmp_path_factory.mktemp("out")
    done = job(mock, folder, FIRST)
    assert done.returncode == 0, done.stderr
    before = contents(folder)
    assert len(before) == 6, list(before)
    return folder, before


@pytest.fixture(scope="module")
def other(mock, tmp_path_factory):
    """What the jobs would have written."""
    folder = tmp_path_factory.mktemp("other")
    done = job(mock, folder, OTHER)
    assert done.returncode == 0, done.stderr
    return folder


def still_running(mark: str) -> list[str]:
    """Return the processes with a text in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def failed(run, action: str, **env):
    """Run a job that must fail, in time and leaving no process; `run` takes the environment."""
    mark, start = uuid.uuid4().hex, monotonic()
    done = run(FAULT_TEST=mark, **env)
    while (left := still_running(mark)) and monotonic() - start < limit():
        sleep(0.1)
    assert not left
    assert monotonic() - start < limit()
    assert done.returncode != 0, done.stdout
    assert CAUSES[action] in done.stderr
    return done


@pytest.mark.parametrize(("stage", "action", "place", "ranks"), list(chosen()))
def test_failing_rank(stage, action, place, ranks, mock, first, other):
    folder, before = first
    fault = f"{stage}:{PLACES[place](ranks)}:{action}"
    done = failed(lambda **env: job(mock, folder, OTHER, ranks, **env), action, XFELMPI_FAULT=fault)
    if stage not in AFTERWARDS:
        assert "files written" not in done.stdout
        assert contents(folder) == before
    else:
        # all had their names already
        assert_same_outputs(folder, other)
    if action == "kill" and stage in AGAIN:
        # on other ranks where several write one file
        again = job(mock, folder, OTHER, (5 - ranks if ranks < 4 else 3) * (stage in TOGETHER))
        assert again.returncode == 0, again.stderr
        assert_same_outputs(folder, other)
        assert not [name for name in all_files(folder) if name.endswith((".part", ".lock"))]
    for name, content in before.items():
        (folder / name).write_bytes(content)
    assert not [name for name in all_files(folder / "lock") if name != "r0050.lock"]


@pytest.mark.parametrize("action", CAUSES)
def test_failing_rank_while_deciding_again(action, mock, first, other):
    folder, before = first
    again = [*OTHER, "--from-events"]
    failed(
        lambda **env: job(mock, folder, again, 3, **env), action, XFELMPI_FAULT="hits:1:" + action
    )
    assert contents(folder) == before


@pytest.mark.parametrize(("stage", "action"), [("sums", "kill"), ("mask", "raise")])
def test_failing_rank_while_a_mask_is_made(stage, action, mock, tmp_path):
    where = ["--prefix", mock.options.prefix, "--output", tmp_path, "--mask-file"]
    mask = tmp_path / "mask.h5"
    mask.write_text("old")
    args = ["mask", 50, *where, mask, "--overwrite"]
    fault = f"{stage}:1:{action}"
    failed(lambda **env: run_xfelmpi(args, 3, **env), action, XFELMPI_FAULT=fault)
    assert mask.read_bytes() == b"old"
    assert call_xfelmpi(args).returncode == 0
    assert mask.read_bytes() != b"old"


@pytest.mark.parametrize(("stage", "action"), [("hits", "exit"), ("publish", "kill")])
def test_failing_rank_while_runs_are_merged(stage, action, mock, first):
    folder, _ = first
    args = ["merge", 50, "--prefix", mock.options.prefix, "--output", folder, "--name", action]
    fault = f"{stage}:1:{action}"
    failed(lambda **env: run_xfelmpi(args, 2, **env), action, XFELMPI_FAULT=fault)
    assert not (folder / "merged" / f"{action}.emc").exists()
    assert call_xfelmpi(args).returncode == 0
    assert (folder / "merged" / f"{action}.emc").exists()


@pytest.mark.parametrize(("stage", "action"), [("darks", "kill"), ("publish", "raise")])
def test_failing_rank_while_constants_are_made(stage, action, tmp_path):
    tiny_dark_runs(tmp_path, ("high",), trains=2, cells=(0,))
    out = tmp_path / "out"
    args = ["darks", 10, "--prefix", tmp_path, "--out", out]
    fault = f"{stage}:2:{action}"
    failed(lambda **env: run_xfelmpi(args, 3, **env), action, XFELMPI_FAULT=fault)
    assert not list(out.glob("*.h5"))
    assert call_xfelmpi(args).returncode == 0
    assert len(list(out.glob("*.h5"))) == 16


def test_a_fault_that_does_not_exist(mock, tmp_path):
    done = job(mock, tmp_path, FIRST, 0, XFELMPI_FAULT="photons:0:hang")
    assert done.returncode == 1
    assert "found hang" in done.stderr
