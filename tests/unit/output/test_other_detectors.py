"""What is written and read takes its shapes and names from the detector, whichever that is."""

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from modulefiles import make_masks, make_table, read
from mpi4py import MPI
from otherdetectors import MINI

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.mask_files import all_pixels, find_region
from xfelmpi.calibration.pixel_mask import Masks, load_masks, mask_digest
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M, AGIPD_500K
from xfelmpi.detectors.pixel_bits import pack, unpack
from xfelmpi.io.publish import publish
from xfelmpi.output.cxi.hit_file import read_hit, read_hit_file
from xfelmpi.output.cxi.reader import read_finished_hits
from xfelmpi.output.cxi.writer import CxiFile
from xfelmpi.output.dragonfly.binning import bin_frames, in_blocks
from xfelmpi.output.dragonfly.detector import make_detector
from xfelmpi.output.hit_columns import hit_columns
from xfelmpi.output.hit_writer import HitHeader
from xfelmpi.output.mask_file import write_mask
from xfelmpi.output.powder import write_powder
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool

SHAPE = MINI.frame_shape
IN_RUN = 0b101
CELLS = (3, 1199)


@pytest.fixture
def good():
    """Good pixels by cell, bool (2, module, ss, fs)."""
    return np.random.default_rng(2).random((len(CELLS), *SHAPE)) < 0.9


@pytest.fixture
def photons():
    """Photons on good pixels, a frame for each cell, int (2, module, ss, fs)."""
    return np.random.default_rng(3).poisson(0.05, (len(CELLS), *SHAPE))


def geometry() -> DetectorGeometry:
    """A flat detector at right angles to the beam, one module above the other."""
    module, ss, fs = np.indices(SHAPE)
    step_ss, step_fs = MINI.pixel_size
    xyz = np.stack([fs * step_fs, (module * 20 + ss) * step_ss, np.full(SHAPE, 0.5)])
    corners, steps = np.zeros((3, 3)), np.zeros((3, 2, 3))
    return DetectorGeometry(xyz, corners, steps, 0.5, "flat", detector=MINI)


def sparse(images) -> SparseFrames:
    flat = np.reshape(images, (len(images), -1))
    pixels = [np.flatnonzero(image) for image in flat]
    return SparseFrames(
        np.cumsum([0, *map(len, pixels)]).astype(np.int64),
        np.concatenate(pixels).astype(np.uint32),
        np.concatenate([image[p] for image, p in zip(flat, pixels, strict=True)]).astype("u2"),
    )


def masks_of(good) -> Masks:
    bits = np.ascontiguousarray(np.moveaxis(pack(good), 0, 1))
    return Masks(bits, MINI.rows_of_cells(np.array(CELLS)), all_pixels(MINI))


def events() -> EventColumns:
    dtypes = ["u8", "u8", "u2", "u4", "u8", "f4", "?", "?", *["f4"] * 4, "f8", "f8", "u2", "u1"]
    columns = [np.ones(len(CELLS), dtype) for dtype in dtypes]
    columns[0], columns[2] = np.full(len(CELLS), 2**47, "u8"), np.array(CELLS, "u2")
    return EventColumns(*columns)


def test_cxi(tmp_path, good, photons, monkeypatch):
    monkeypatch.setattr("xfelmpi.detectors.known.DETECTORS", (MINI,))
    path, comm = tmp_path / "hits.cxi", MPI.COMM_SELF
    photons = photons * good
    photons[:, 1] = 0
    about = {"command_line": "", "program_version": "", "creation_date": "", "proposal": "p1"}
    about["configuration"] = "{}"
    cxi = CxiFile(comm, path, about, masks_of(good), IN_RUN, MINI)
    rows = np.arange(len(CELLS), dtype="u8")
    columns = hit_columns("p1_r0001", events(), rows, rows.astype("f8"), rows.astype("u4"), MINI)
    entry = cxi.entry("hits", columns, np.dtype("u1"))
    cxi.begin_frames()
    entry.write(sparse(photons), np.array(CELLS))
    mean = np.ones(SHAPE, "f4")
    cxi.close(HitHeader("", "", "", "LAB", geometry(), good[0], mean.astype("u8"), mean))
    publish(path)
    with h5py.File(path) as file:
        detector = file["entry_1/instrument_1/detector_1"]
        assert np.array_equal(detector["data"][()], photons)
        absent = np.zeros(SHAPE, bool)
        absent[1] = True
        mask = detector["mask"][()]
        assert np.array_equal(mask & 0x200 != 0, [absent] * len(CELLS))
        assert np.array_equal(mask & 0x80 == 0, good)
        assert detector["module_identifier"][()].tolist() == [b"MINI01", b"MINI02", b"MINI03"]
        assert (detector["y_pixel_size"][()], detector["x_pixel_size"][()]) == MINI.pixel_size
        assert detector["pixel_area"][()] == pytest.approx(100e-6 * 50e-6)
        names = file["entry_1/experiment_identifier"].asstr()[()].tolist()
        assert names == [f"p1_r0001_t{2**47}_c{cell}" for cell in CELLS]
    found = read_finished_hits(path)
    assert (found.modules, found.powder.shape) == (IN_RUN, SHAPE)
    assert read_hit_file(path).pixel_size == 50e-6
    image, usable = read_hit(path, 1)
    assert np.array_equal(image.reshape(SHAPE), photons[1])
    assert np.array_equal(usable.reshape(SHAPE), good[1] & ~absent)


def test_masks(tmp_path, good):
    """Written, found by the usual name, and read again; refused where an AGIPD is expected."""
    experiment = Experiment(tmp_path, tmp_path, 1)
    experiment.cell_mask.parent.mkdir(parents=True)
    bits = masks_of(good).good
    write_mask(experiment.cell_mask, {}, np.array(CELLS), bits, MINI)
    publish(experiment.cell_mask)
    found = load_masks(
        MPI.COMM_SELF, experiment, Config(), np.array([3, 7, 1199]), None, detector=MINI
    )
    assert found.good.shape == (3, 3, MINI.module_bytes)
    assert np.array_equal(found.good[:, [0, 2]], bits)
    assert (found.good[:, 1] == 0xFF).all()
    assert found.row_of_cell[[3, 7, 1199]].tolist() == [0, 1, 2]
    expected = good[1].sum(axis=(1, 2))
    assert found.good_in_region[:, 1199].tolist() == expected.tolist()
    assert found.region_pixels == MINI.frame_pixels
    assert mask_digest(MPI.COMM_SELF, found) != mask_digest(MPI.COMM_SELF, masks_of(good))
    with pytest.raises(InputError, match=r"expected \(16, 512, 128\) or \(cells, 16, 512, 128\)"):
        load_masks(MPI.COMM_SELF, experiment, Config(), np.array([3]), detector=AGIPD_1M)


def test_region_of_modules():
    config = Config(hit_modules=(0, 2))
    experiment = SimpleNamespace(hit_mask=Path("nowhere"))
    region, _, note = find_region(experiment, config, MINI)
    assert unpack(region).reshape(SHAPE).any(axis=(1, 2)).tolist() == [True, False, True]
    assert "modules 0 2" in note


def test_powder(tmp_path, good, photons):
    powder = PowderSum.zeros(len(CELLS), MINI)
    powder.add_sparse(sparse(photons), np.full(2, IN_RUN, "u2"), np.arange(2))
    assert np.array_equal(powder.photons.reshape(SHAPE), photons.sum(axis=0))
    assert powder.frames.tolist() == [[1, 1], [0, 0], [1, 1]]
    sums = {"": (powder.photons, powder.invalid)}
    write_powder(MPI.COMM_SELF, tmp_path / "p.h5", {}, sums, SHAPE)
    publish(tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        assert np.array_equal(file["powder"][()], photons.sum(axis=0))
        assert file["good_frames"].shape == SHAPE


@pytest.mark.parametrize("n", [2, 4, 8])
def test_bins(n, good, photons):
    binned = bin_frames(sparse(photons), n, good[0])
    for i, image in enumerate(photons):
        right = in_blocks(image * good[0], n).sum(axis=(2, 4)).reshape(-1)
        entries = slice(*binned.indptr[i : i + 2])
        assert binned.pixel[entries].tolist() == np.flatnonzero(right).tolist()
        assert binned.count[entries].tolist() == right[right > 0].tolist()


def test_solid_angles_of_pixels_that_are_not_square():
    """A cos³(2θ) / d² of a flat detector, with the area of its own pixels."""
    flat = geometry()
    detector = make_detector(Config(polarisation="none").part(OutputSettings), flat, 1e-10)
    x, y, z = flat.xyz.reshape(3, -1)
    cosine = z / np.sqrt(x**2 + y**2 + z**2)
    polarised = (1 + cosine**2) / 2
    expected = MINI.pixel_area * cosine**3 / 0.5**2 * polarised
    np.testing.assert_allclose(detector.corr, expected, rtol=1e-9)


def test_detector_with_eight_modules_is_read(tmp_path):
    """As the first half of one with 16, pixel for pixel."""
    half = AGIPD_500K
    path = tmp_path / "m.h5"
    images = np.random.default_rng(5).poisson(0.01, (3, 512, 128)).astype("u1")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=images, chunks=(1, 512, 128), compression="gzip")
    files = (ModuleFile(str(path), 7, "data"),)
    whole = make_table({7: (0, [0, 1, 2])})
    table = FrameTable.of_places(
        whole.train_id, whole.cell_id, whole.pulse_id, whole.file[:, :8], whole.row[:, :8]
    )
    masks = make_masks()
    masks = Masks(masks.good[:8], masks.row_of_cell, masks.region[:8])
    powder, pool = PowderSum.zeros(1, half), FilePool(files)
    sparsifier = Sparsifier(pool, masks, 1.0, 0.7, 0)
    block = sparsifier.frames(table, powder)
    pool.close()
    assert sparsifier.capacity == half.frame_pixels
    assert np.array_equal(powder.photons[7].reshape(512, 128), images.sum(axis=0))
    expected = read(files, whole)
    found, right = block.take(np.arange(3)), expected.block.take(np.arange(3))
    assert np.array_equal(found.pixel, right.pixel)
    assert np.array_equal(found.count, right.count)
    assert block.sums.modules.tolist() == [1 << 7] * 3
