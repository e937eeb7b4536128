"""Float data whose photons are not those of --adu-per-photon, which is 1 if nobody gives it."""

import h5py
import pytest
from launch import call_xfelmpi, run_job
from mockrun import HALF, tiny_run


@pytest.mark.parametrize("masks", ["auto", "run"])
def test_unit_of_float_data(tmp_path, masks):
    run = {**HALF, "trains": 2, "cells": tuple(range(1, 9)), "with_mask": True}
    mock = tiny_run(tmp_path, dtype="f4", adu_per_photon=7.5, **run)
    base = [50, "--prefix", mock.options.prefix, "--mask", masks]
    text = "most signals of the frames are near 7.5, which is likely one photon"
    warnings = []
    for ranks in (0, 2):
        options = ["--size", "none", *["--no-report"] * bool(ranks)]
        done = run_job([*base, *options, "--output", tmp_path / f"out{ranks}"], ranks)
        warnings += [line for line in done.stderr.splitlines() if text in line]
    assert text in (tmp_path / "out0/report/r0050.html").read_text()
    # the same frames are looked at by any number of ranks
    assert len(warnings) == 2
    assert warnings[0] == warnings[1]
    done = call_xfelmpi(
        [*base, "--no-report", "--output", tmp_path / "right", "--adu-per-photon", 7.5]
    )
    assert done.returncode == 0, done.stderr
    assert "most signals" not in done.stderr + done.stdout


def test_one_module_in_other_units(tmp_path):
    """Corrected once more in another way: most frames still say that one photon is 1."""
    mock = tiny_run(tmp_path, dtype="f4", trains=2, cells=tuple(range(8)), background=2e3)
    base = [50, "--prefix", mock.options.prefix, "--no-report"]
    done = call_xfelmpi([*base, "--output", tmp_path / "right"])
    assert done.returncode == 0, done.stderr
    assert "most signals" not in done.stderr + done.stdout
    (path,) = mock.paths.proc.glob("*AGIPD08-S00000.h5")
    with h5py.File(path, "r+") as file:
        data = file["INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/8CH0:output/image/data"]
        data[...] = data[...] * 6
    for ranks in (0, 2):
        done = run_job([*base, "--output", tmp_path / f"out{ranks}"], ranks)
        assert "most signals of module 8 are near 6, which is likely one photon" in done.stderr
