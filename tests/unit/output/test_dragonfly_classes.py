"""What Dragonfly's classification says of hits: matched by their ids, refused where in doubt."""

import configparser
import os

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError, OutputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.publish import give_names
from xfelmpi.mpi import alone
from xfelmpi.output import emc
from xfelmpi.output.dragonfly.classes import read_classes
from xfelmpi.output.dragonfly.folder import check_folder, uses_background
from xfelmpi.output.dragonfly.hit_list import HitList, read_hit_list, write_hit_list
from xfelmpi.output.dragonfly.scale import fixed_scale
from xfelmpi.output.dragonfly.settings import class_config, volume_config
from xfelmpi.output.emc import EmcWriter

TRAINS, CELLS = np.array([9, 9, 4, 4]), np.array([1, 3, 1, 2])


def emc_bytes(ones, multi=0):
    """Return an EMC file of frames with so many pixels of one photon."""
    header = np.zeros(256, "<i4")
    header[:2] = len(ones), 64
    places = np.zeros(sum(ones), "<i4")
    return b"".join(
        part.tobytes()
        for part in (header, np.array(ones, "<i4"), np.full(len(ones), multi, "<i4"), places)
    )


def result(path, likely, shape=(3, 5, 5)):
    """Write what Dragonfly writes."""
    with h5py.File(path, "w") as file:
        file["intens"] = file["inter_weight"] = np.ones(shape)
        file["occupancies"] = likely
        file["orientations"] = np.zeros(len(likely), np.int32)


@pytest.fixture
def folder(tmp_path):
    """A folder with photons of four hits of two runs, and a result of two iterations."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photons.emc").write_bytes(emc_bytes([1, 2, 3, 4]))
    (tmp_path / "config.ini").write_text(class_config("photons.emc", "detector.h5", 4, 16.0))
    hits = HitList.of([50, 50, 51, 51], TRAINS, CELLS, tmp_path / "data/photons.emc")
    give_names(write_hit_list(tmp_path / "data/hits.h5", hits))
    result(tmp_path / "data/output_001.h5", np.eye(4, 3))
    likely = np.array([[0.2, 0.7, 0.1], [1, 0, 0], [0, 0, 0], [0.1, 0.1, 0.8]])
    result(tmp_path / "data/output_010.h5", likely)
    result(tmp_path / "data/output_000.h5", np.ones((1, 1)))
    later(tmp_path, "output_0*.h5", 2)
    return tmp_path


def later(folder, pattern, seconds):
    for path in (folder / "data").glob(pattern):
        about = path.stat()
        os.utime(path, (about.st_atime, about.st_mtime + seconds))


def test_most_likely_class_of_the_last_result(folder):
    found = read_classes(folder)
    assert found.path.name == "output_010.h5"
    assert found.number.tolist() == [1, 0, -1, 2]
    np.testing.assert_array_equal(found.weight, np.float32([0.7, 1, np.nan, 0.8]))
    first = read_classes(folder / "data/output_001.h5")
    assert first.number.tolist() == [0, 1, 2, -1]


def test_hits_are_matched_by_train_and_cell(folder):
    """In any order, with others among them, each run its own."""
    found = read_classes(folder)
    train, cell = np.array([9, 5, 9, 4]), np.array([3, 1, 1, 1])
    assert found.of_run(50, train, cell).tolist() == [1, -1, 0, -1]
    assert found.of_run(51, train, cell).tolist() == [-1, -1, -1, 2]


def test_results_of_other_hits_are_refused(folder):
    later(folder, "hits.h5", 10)
    with pytest.raises(InputError, match="older than the list"):
        read_classes(folder)
    later(folder, "hits.h5", -10)
    (folder / "data/photons.emc").write_bytes(emc_bytes([2, 1, 3, 4]))
    later(folder, "photons.emc", 1000)
    # made with what was there before
    assert read_classes(folder).number.tolist() == [1, 0, -1, 2]
    later(folder, "photons.emc", -2000)
    with pytest.raises(InputError, match="other frames"):
        read_classes(folder)


@pytest.mark.parametrize(
    ("likely", "shape", "message"),
    [
        (np.ones((5, 3)), (3, 5, 5), "5 frames, expected 4"),
        (np.ones((4, 2)), (3, 5, 5), "occupancies"),
        (np.ones((4, 1)), (1, 5, 5, 5), "no classes in 2-D"),
    ],
)
def test_results_that_do_not_fit(likely, shape, message, folder):
    result(folder / "data/output_011.h5", likely, shape)
    later(folder, "output_011.h5", 2)
    with pytest.raises(InputError, match=message):
        read_classes(folder)


def test_no_result_or_damaged_list(folder):
    with h5py.File(folder / "data/hits.h5", "r+") as file:
        file["cellId"][0] = 7
    with pytest.raises(InputError, match="digest"):
        read_classes(folder)
    for path in (folder / "data").glob("output*"):
        path.unlink()
    with pytest.raises(InputError, match=r"no output_NNN\.h5"):
        read_classes(folder)


def test_list_that_is_the_same_stays(folder):
    """So that it is not newer than the results."""
    path = folder / "data/hits.h5"
    before = path.stat().st_ino
    hits = HitList.of([50, 50, 51, 51], TRAINS, CELLS, folder / "data/photons.emc")
    assert not write_hit_list(path, hits)
    other = HitList.of([50] * 4, TRAINS, CELLS, folder / "data/photons.emc")
    give_names(write_hit_list(path, other))
    assert path.stat().st_ino != before


def test_list_with_another_scale_is_a_new_one(folder):
    """Results of another scale are of other hits, so to say."""
    path = folder / "data/hits.h5"
    hits = HitList.of([50, 50, 51, 51], TRAINS, CELLS, folder / "data/photons.emc")
    scale = np.array([0.5, 1, 1, 1.5])
    for values in (scale, scale[::-1], None):
        give_names(write_hit_list(path, hits, values))
        with h5py.File(path) as file:
            found = file["scale"][()] if "scale" in file else None
        np.testing.assert_array_equal(found, values)
        assert not write_hit_list(path, hits, values)
    assert read_hit_list(path).digest == hits.digest


def emc_of(path, frames):
    """Write an EMC file of dense frames."""
    ones, multi = frames == 1, frames > 1
    writer = EmcWriter(alone(), path, ones.sum(axis=1), multi.sum(axis=1), frames.shape[1])
    number, pixel = np.nonzero(frames)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(frames)))])
    writer.write(SparseFrames(indptr, pixel, frames[number, pixel]))
    writer.close()
    give_names([path])


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 1024])
def test_scale_of_every_hit(at_once, background, tmp_path, monkeypatch):
    """Photons on the pixels in use, without the background where it is part of the model."""
    monkeypatch.setattr(emc, "_FRAMES_AT_ONCE", at_once)
    rng = np.random.default_rng(2)
    frames = rng.poisson(0.7, (7, 64)) * rng.integers(1, 400, (7, 64))
    frames[3] = 0
    emc_of(tmp_path / "p.emc", frames)
    mask, ground, weight = rng.integers(0, 3, 64), rng.random(64), rng.random(7)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["mask"], file["background"], file["scale"] = mask.astype("u1"), ground, weight
    photons = frames[:, mask == 0].sum(axis=1).astype(float)
    if background:
        photons -= weight * ground[mask == 0].sum()
    photons[3] = 1
    found = fixed_scale(tmp_path / "p.emc", tmp_path / "d.h5", background=background)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, photons / photons.mean())


def test_merged_hits_have_no_background(tmp_path):
    emc_of(tmp_path / "p.emc", np.array([[1, 0, 2], [5, 3, 4]]))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["mask"] = np.array([0, 2, 0], np.uint8)
    found = fixed_scale(tmp_path / "p.emc", tmp_path / "d.h5", background=True)
    assert found.tolist() == [0.5, 1.5]


def test_configuration_of_classes():
    """Dragonfly reads it: the scale is fixed, and the background is no part of the model."""
    config = configparser.ConfigParser()
    config.read_string(class_config("p.emc", "d.h5", 448, 16.0))
    found = config["emc"]
    expected = {"recon_type": "2d", "num_modes": "22", "beta_schedule": "2.0 10"}
    expected |= {"need_scaling": "1", "scale_file": "data/hits.h5", "update_scale": "0"}
    assert expected.items() <= dict(found).items()
    assert "background_file" not in found
    volume = volume_config("p.emc", "d.h5")
    assert "need_scaling = 1" in volume
    assert "scale_file = data/hits" not in volume
    assert "update_scale" not in volume


def test_background_is_used_once_the_user_says_so(folder):
    assert not uses_background(folder / "missing")
    assert not uses_background(folder)
    config = folder / "config.ini"
    config.write_text(config.read_text().replace("# background_file", "background_file"))
    assert uses_background(folder)


def test_folder_of_the_other_kind_is_refused(folder):
    check_folder(folder, "2d")
    with pytest.raises(OutputError, match="recon_type = 2d, expected 3d"):
        check_folder(folder, "3d")
    (folder / "config.ini").write_text(volume_config("photons.emc", "detector.h5"))
    check_folder(folder, "3d")
    with pytest.raises(OutputError, match="recon_type = 3d, expected 2d"):
        check_folder(folder, "2d")


@pytest.mark.parametrize(("n_hits", "modes"), [(20, 4), (448, 22), (10**6, 50)])
def test_number_of_classes(n_hits, modes):
    text = class_config("p.emc", "d.h5", n_hits, 16.0)
    assert f"num_modes = {modes}\nnum_rot = 34\n" in text
