"""Outputs of the main job, opened by the programs that users open them with."""

import h5py
import numpy as np
import pytest
import silx.io
from extradata import RunDirectory
from launch import run_xfelmpi
from mockrun import tiny_run
from readers import (
    CXI_SIGNAL,
    FRAME_SHAPE,
    assemble_cxi_with_extra_geom,
    check_cxi_has_layout_of_extra_data,
    check_cxi_rules,
    read_cxi_with_nexusformat,
    read_cxi_with_silx,
    read_emc,
    read_emc_with_dragonfly,
)
from runnames import source_of

DATA = {
    "u1": {},
    "u2, an absent module": {"dtype": "u2", "hit_photons": (2e6, 4e6), "absent_modules": (15,)},
}
"""What is simulated; the second one has counts above 255."""


@pytest.fixture(scope="module", params=DATA)
def outputs(request, tmp_path_factory):
    """Return a simulated run and the folder of its outputs."""
    folder = tmp_path_factory.mktemp("external")
    mock = tiny_run(folder / "p007927", seed=3, **DATA[request.param])
    status = 3 if mock.options.absent_modules else 0
    where = ["--prefix", mock.options.prefix, "--output", folder / "out"]
    options = ["--geometry", mock.paths.geometry, "--with-misses"]
    done = run_xfelmpi([50, *where, *options, "--no-report"], 2)
    assert done.returncode == status, done.stdout + done.stderr
    return mock, folder / "out"


@pytest.fixture
def cxi(outputs):
    return outputs[1] / "saved_hits" / "r0050_hits.cxi"


@pytest.fixture
def emc(outputs):
    return outputs[1] / "emc" / "r0050.emc"


@pytest.fixture
def frames(cxi):
    """The frames of the CXI file, read with h5py."""
    with h5py.File(cxi) as file:
        data = file[CXI_SIGNAL][:]
    assert len(data) > 1
    return data


def test_cxi_rules(cxi):
    check_cxi_rules(cxi)


@pytest.mark.parametrize("read", [read_cxi_with_silx, read_cxi_with_nexusformat])
def test_viewers_show_the_frames(cxi, frames, read):
    for row in (0, len(frames) - 1):
        shape, frame = read(cxi, row)
        assert shape == (len(frames), *FRAME_SHAPE)
        np.testing.assert_array_equal(frame, frames[row])


@pytest.mark.parametrize("read", [read_cxi_with_silx, read_cxi_with_nexusformat])
def test_viewers_show_the_misses(cxi, read):
    with h5py.File(cxi) as file:
        right = file["entry_2/instrument_1/detector_1/data"][:]
    shape, frame = read(cxi, 1, "entry_2")
    assert shape == right.shape
    assert frame.any()
    np.testing.assert_array_equal(frame, right[1])


def test_silx_reads_the_masks(cxi):
    """Through a reader that opens the file its own way, in any order."""
    with h5py.File(cxi) as file:
        right = file["entry_1/instrument_1/detector_1/mask"][:]
    with silx.io.open(str(cxi)) as root:
        mask = root["entry_1/instrument_1/detector_1/mask"]
        for row in (*range(len(right))[::-2], 0):
            np.testing.assert_array_equal(mask[row], right[row])


def test_cxi_has_what_extra_datas_own_has(cxi, tmp_path):
    check_cxi_has_layout_of_extra_data(cxi, tmp_path)


def test_extra_geom_assembles_the_frames(outputs, cxi, frames):
    image = assemble_cxi_with_extra_geom(cxi, outputs[0].paths.geometry, 1)
    assert np.nansum(image) == frames[1].sum()


def test_frames_are_those_that_extra_data_reads(outputs, cxi, frames):
    """By train and cell, through EXtra-data and past everything of ours."""
    mock, _ = outputs
    run = RunDirectory(mock.paths.proc)
    with h5py.File(cxi) as file:
        trains, cells = file["entry_1/trainId"][:], file["entry_1/cellId"][:]
    for module in mock.options.modules:
        source = source_of(module)
        ids, in_file, images = (
            run[source, f"image.{key}"].ndarray() for key in ("trainId", "cellId", "data")
        )
        for frame, train, cell in zip(frames, trains, cells, strict=True):
            (row,) = np.flatnonzero((ids == train) & (in_file == cell))
            np.testing.assert_array_equal(frame[module], images[row])


def test_emc_has_the_frames_of_the_cxi(emc, frames):
    content = read_emc(emc)
    assert len(content) == len(frames)
    for row, frame in enumerate(frames):
        np.testing.assert_array_equal(content.dense(row), frame.reshape(-1))


def test_dragonfly_gives_back_the_frames_of_the_cxi(emc, frames, tmp_path, capfd):
    pytest.importorskip("dragonfly")
    read = read_emc_with_dragonfly(emc, tmp_path)
    for found, frame in zip(read, frames, strict=True):
        np.testing.assert_array_equal(found, frame.reshape(-1))
    assert "arning" not in "".join(capfd.readouterr())
