"""The benchmark programs follow the package: its functions, and what the summary says."""

import csv
import sys
from pathlib import Path

import pytest
from launch import run_python
from mockrun import TINY_500K, tiny_run

from xfelmpi.output import write_stage
from xfelmpi.workflows import inputs, output_stage, process

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from communication import writers
from rank_profile import PARTS

PROGRAMS = Path(__file__).parents[1] / "benchmarks"
HOLDERS = {
    "pipeline": process,
    "ending": output_stage,
    "inputs": inputs,
    "outputs": write_stage,
    **writers(),
}


@pytest.mark.parametrize(("holder", "function"), [part[:2] for part in PARTS])
def test_timed_functions_exist(holder, function):
    assert callable(getattr(HOLDERS[holder], function))


@pytest.mark.slow
def test_scaling(tmp_path):
    """Strong and weak scaling of a small run: a table with what was measured, and a picture."""
    few = {**TINY_500K, "trains": 4, "cells": (1, 2), "absent_modules": ()}
    mock = tiny_run(tmp_path / "p007927", **few)
    options = ["--prefix", mock.options.prefix, "--no-report"]
    program = PROGRAMS / "scaling.py"
    done = run_python([program, tmp_path, mock.options.run, 1, 2, "--", *options], REPEATS=1)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["kind"], r["ranks"]) for r in rows} >= {("strong", "1"), ("strong", "2")}
    assert all(float(r["memory"]) > 50 and float(r["photons"]) >= 0 for r in rows)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
