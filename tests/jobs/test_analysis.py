"""Analyses of hits: their columns are in the events file and in the CXI file."""

import h5py
import numpy as np
from launch import call_xfelmpi, run_job, run_xfelmpi
from mockrun import tiny_run

from xfelmpi.analysis.spheroid_size import SpheroidSize


def test_columns_of_an_analysis(tmp_path):
    mock = tiny_run(tmp_path / "p007927", trains=2, cells=(0, 1, 2), hit_rate=0.6)
    where = ("--prefix", mock.options.prefix, "--output", tmp_path / "out", "--no-vds")
    options = ("--decide", "fixed", "--fixed-threshold", 3000, "--no-report")
    done = run_xfelmpi([50, *where, *options, "--analyse", "radius"], 2)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as file:
        is_hit, radius = file["is_hit"][:], file["photon_radius"][:]
        assert file["photon_radius"].attrs["units"] == "m"
    assert 1 < is_hit.sum() < len(is_hit)
    assert np.isnan(radius[~is_hit]).all()
    with h5py.File(tmp_path / "out" / "saved_hits" / "r0050_hits.cxi") as file:
        in_cxi = file["entry_1/instrument_1/photon_radius"][:]
        weighting = file["entry_1/instrument_1/detector_1/background_weighting"]
        assert file["entry_1/background_weighting"] == weighting
        x, y, _ = file["entry_1/instrument_1/detector_1/xyz_map"][:].reshape(3, -1)
        images = file["entry_1/instrument_1/detector_1/data"][:].reshape(len(in_cxi), -1)
    np.testing.assert_array_equal(in_cxi, radius[is_hit])
    expected = (images * np.hypot(x, y)).sum(axis=1) / images.sum(axis=1)
    np.testing.assert_allclose(in_cxi, expected, rtol=1e-9)


def test_unknown_analysis(tmp_path):
    mock = tiny_run(tmp_path / "p007927", trains=2, cells=(0, 1))
    where = ("--prefix", mock.options.prefix, "--output", tmp_path / "out", "--no-vds")
    done = run_xfelmpi([50, *where, "--analyse", "mass"], 2)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("--analyse mass: unknown, there are: radius") == 1


def test_spheroids_on_any_number_of_ranks(tmp_path):
    """The same bits, in both files, and NaN where there is no hit; verify finds nothing wrong."""
    mock = tiny_run(
        tmp_path / "p007927", trains=2, cells=(0, 1, 2), hit_rate=0.6, particle="spheroid"
    )
    where = ("--prefix", mock.options.prefix, "--no-vds", "--no-report")
    options = ("--decide", "fixed", "--fixed-threshold", 3000, "--size", "spheroid")
    tables = []
    for ranks in (1, 3):
        output = tmp_path / f"out{ranks}"
        done = run_job([50, *where, "--output", output, *options], ranks)
        assert done.returncode == 0, done.stderr
        with h5py.File(output / "events" / "r0050_events.h5") as file:
            is_hit = file["is_hit"][:]
            tables.append({c.name: file[c.name][:] for c in SpheroidSize.columns})
        with h5py.File(output / "saved_hits" / "r0050_hits.cxi") as file:
            for name, values in tables[-1].items():
                in_cxi = file[f"entry_1/sizing/{name}"][:]
                np.testing.assert_array_equal(in_cxi, values[is_hit], name)
    for name, values in tables[0].items():
        np.testing.assert_array_equal(tables[1][name], values, name)
        assert np.isnan(values[~is_hit]).all()
    long = mock.truth["long_axis_diameter"][is_hit]
    found = tables[0]["long_axis_diameter"][is_hit]
    assert np.median(np.abs(found / long - 1)) < 0.03
    checked = ("verify", 50, "--prefix", mock.options.prefix, "--output", output, "--frames", 0)
    assert call_xfelmpi(checked).returncode == 0
