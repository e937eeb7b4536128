"""What Dragonfly's classification says of hits: matched by their ids, refused where in doubt."""

import os

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError, OutputError
from xfelmpi.io.publish import give_names
from xfelmpi.output.dragonfly.classes import read_classes
from xfelmpi.output.dragonfly.folder import check_folder
from xfelmpi.output.dragonfly.hit_list import HitList, write_hit_list
from xfelmpi.output.dragonfly.settings import class_config, volume_config

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


def test_folder_of_the_other_kind_is_refused(folder):
    check_folder(folder, "2d")
    with pytest.raises(OutputError, match="recon_type = 2d, expected 3d"):
        check_folder(folder, "3d")
    (folder / "config.ini").write_text(volume_config("photons.emc", "detector.h5"))
    check_folder(folder, "3d")
    with pytest.raises(OutputError, match="recon_type = 3d, expected 2d"):
        check_folder(folder, "2d")


@pytest.mark.parametrize(("n_hits", "modes"), [(20, 10), (1000, 20), (10**6, 128)])
def test_number_of_classes(n_hits, modes):
    text = class_config("p.emc", "d.h5", n_hits, 16.0)
    assert f"num_modes = {modes}\nnum_rot = 34\n" in text
