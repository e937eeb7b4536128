"""Whole jobs on runs of other detectors than the AGIPD-1M of SPB/SFX."""

import os
import shutil

import h5py
import numpy as np
import pytest
from checks import check_outputs
from compare import assert_same_outputs
from expected import Expected
from extradata import RunDirectory, complaints
from launch import call_xfelmpi, process
from mockrun import tiny_run
from otherdetectors import of_extra_data
from readers import assemble_cxi_with_extra_geom, read_cxi_with_silx, read_emc_with_dragonfly

from xfelmpi import open_run
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.known import DETECTORS

PROPOSAL = "p007927"

RUNS = {
    # cell 0 is assumed to be dark
    "MID_DET_AGIPD1M-1": {"cells": (1, 2, 5), "dark_cells": 1},
    "AGIPD-500K": {"cells": (1, 3, 5, 351), "dark_cells": 1, "dtype": "u2"},
    "DSSC-1M": {"cells": (0, 3, 400, 799), "dtype": "u2", "chunk_frames": 3},
    "LPD-1M": {"cells": (0, 2, 511), "dtype": "f4", "adu_per_photon": 12.0},
    # without noise the files are small
    "JUNGFRAU-4M": {
        "trains": 2,
        "cells": (0, 1, 2),
        "dtype": "f4",
        "noise": 0.0,
        "adu_per_photon": 6.0,
        "chunk_frames": 2,
    },
}
"""Options of the simulated runs of some detectors."""

OTHERS = {
    detector.name: {"trains": 2, "cells": tuple(range(min(3, detector.max_cells))), "dtype": "u2"}
    for detector in DETECTORS
    # other tests have an AGIPD-1M
    if detector.name not in RUNS and detector is not AGIPD_1M
}


@pytest.fixture(scope="module", params=RUNS | OTHERS)
def run(request, tmp_path_factory):
    """A run with its known answer, of every detector."""
    options = (RUNS | OTHERS)[request.param]
    folder = tmp_path_factory.mktemp("run") / PROPOSAL
    return tiny_run(folder, detector=request.param, hit_rate=0.4, **options)


def options_of(run) -> tuple:
    adu = run.options.signal_per_photon
    return () if adu == 1 else ("--adu-per-photon", adu)


@pytest.fixture(scope="module")
def outputs(run, tmp_path_factory):
    """The outputs of one process, and its page."""
    output = tmp_path_factory.mktemp("outputs")
    process(run, output, *options_of(run), page=True)
    return output


def test_outputs_equal_the_truth(run, outputs):
    check_outputs(outputs, Expected(run))


def test_same_bits_on_more_ranks(run, outputs, tmp_path):
    process(run, tmp_path, *options_of(run), "--no-vds", ranks=2)
    assert_same_outputs(outputs, tmp_path)


def test_verified(run, outputs):
    done = call_xfelmpi(["verify", 50, "--prefix", run.options.prefix, "--output", outputs])
    assert done.returncode == 0, done.stdout + done.stderr


def test_extra_data_opens_the_run(run):
    complaints(run.paths.proc)
    opened = RunDirectory(str(run.paths.proc))
    about = run.options.detector_type
    detector = of_extra_data(about)(opened)
    assert (detector.n_modules, detector.detector_name) == (about.n_modules, run.options.device)
    frames = detector.get_array(about.datasets.data.replace("/", ".")).values
    assert frames.shape[0] == about.n_modules
    assert frames.shape[-2:] == about.module_shape


def test_readers_open_the_outputs(run, outputs, tmp_path):
    expected, about = Expected(run), run.options.detector_type
    hits = np.flatnonzero(expected.is_hit)
    cxi = outputs / "saved_hits" / "r0050_hits.cxi"
    shape, frame = read_cxi_with_silx(cxi)
    assert shape == (len(hits), *about.frame_shape)
    np.testing.assert_array_equal(frame, expected.frame(hits[0]))
    image = assemble_cxi_with_extra_geom(cxi, run.paths.geometry, of_detector=about.geometry)
    assert np.nansum(image) == expected.frame(hits[0]).sum()
    emc, detector = outputs / "emc" / "r0050.emc", outputs / "emc" / "r0050_det.h5"
    for row, frame in zip(hits, read_emc_with_dragonfly(emc, tmp_path, detector), strict=True):
        np.testing.assert_array_equal(frame, expected.frame(row).reshape(-1))


def test_hits_in_python(run, outputs):
    opened = open_run(50, prefix=run.options.prefix, output=outputs)
    expected = Expected(run)
    hit = opened.hits[0]
    frame = expected.frame(np.flatnonzero(expected.is_hit)[0])
    np.testing.assert_array_equal(hit.data, frame)
    assert np.nansum(hit.assembled()) == frame.sum()


def test_nothing_of_other_detectors(run, outputs):
    others = {about.module_name for about in DETECTORS} - {run.options.detector_type.module_name}
    found = []
    for path in outputs.rglob("r0050*.*"):
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                file.visit(found.append)
                found += [str(value) for value in file.attrs.values()]
    found = [text.replace(str(run.options.prefix), "") for text in found]
    assert found
    assert not [text for text in found if any(name in text for name in others)]


def test_threshold_and_merge(run, outputs, tmp_path):
    """Other thresholds from the events, and the same as a job of its own."""
    again, fresh = tmp_path / "again", tmp_path / "fresh"
    # files are replaced as a whole, never changed
    shutil.copytree(outputs, again, copy_function=os.link)
    options = (*options_of(run), "--sigma", 3, "--no-vds")
    process(run, fresh, *options)
    process(run, again, "--from-events", *options)
    assert_same_outputs(again, fresh)
    done = call_xfelmpi(
        ["merge", 50, "--prefix", run.options.prefix, "--output", again, "--name", "all"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
