"""Frames that a file takes from another one: those of other modules, runs or trains are missing."""

import h5py
import numpy as np
import pytest
from modulefiles import DATASET, make_table, read, sparse_images
from reference import FS, SS

from xfelmpi.core.frame_table import ModuleFile

N = 3
MODULE_4 = DATASET.replace("/3CH0", "/4CH0")
LEGACY = DATASET.replace("/CORR/3CH0:output", "/DET/3CH0:xtdf")


def write_source(folder, name=DATASET, run=50, first_train=1000):
    """Write frames with their ids, as they are in a file of the facility."""
    values = sparse_images(np.random.default_rng(1), N, "u1")
    with h5py.File(folder / "there.h5", "w") as file:
        file.create_dataset(name, data=values, chunks=(1, SS, FS), compression="gzip")
        file[f"{name.rpartition('/')[0]}/trainId"] = np.arange(first_train, first_train + N)
        file["METADATA/runNumber"] = np.array([run])
    return values


def write_here(folder, there, how):
    """Write a file of module 3, run 50, that has ids of its own and the frames of another file."""
    with h5py.File(folder / "here.h5", "w") as file:
        if how == "group":
            file[DATASET.rpartition("/")[0]] = h5py.ExternalLink(
                "there.h5", there.rpartition("/")[0]
            )
        elif how == "link":
            file[DATASET] = h5py.ExternalLink("there.h5", there)
        else:
            layout = h5py.VirtualLayout((N, SS, FS), "u1")
            layout[:] = h5py.VirtualSource("there.h5", there, (N, SS, FS))
            file.create_virtual_dataset(DATASET, layout)
        if how != "group":
            file[f"{DATASET.rpartition('/')[0]}/trainId"] = np.arange(1000, 1000 + N)
        file["METADATA/runNumber"] = np.array([50])
    return ModuleFile(str(folder / "here.h5"), 3, DATASET)


def write_in_one_file(folder, there, how):
    """Write a file of module 3 whose frames are a soft link to others of the file."""
    values = write_source(folder, there)
    (folder / "there.h5").rename(folder / "here.h5")
    group, name = DATASET.rpartition("/")[0], there
    with h5py.File(folder / "here.h5", "r+") as file:
        if how == "link to link":
            name = "elsewhere"
            file[name] = h5py.SoftLink(f"/{there}")
        if how == "group":
            file.require_group(group.rpartition("/")[0])
            file[group] = h5py.SoftLink(f"/{there.rpartition('/')[0]}")
        else:
            file[DATASET] = h5py.SoftLink(f"/{name}")
            file[f"{group}/trainId"] = np.arange(1000, 1000 + N)
    return values, ModuleFile(str(folder / "here.h5"), 3, DATASET)


SOFT = ("link", "group", "link to link")


@pytest.mark.parametrize("how", SOFT)
def test_frames_of_another_module_in_the_same_file_are_missing(how, tmp_path):
    reading = read_all(write_in_one_file(tmp_path, MODULE_4, how)[1])
    assert not reading.block.sums.modules.any()
    what = f"its frames are those of here.h5, /{MODULE_4}: of another module"
    assert all(what in problem.what for problem in reading.problems)
    assert sum(int(problem.what.split()[0]) for problem in reading.problems) == N


@pytest.mark.parametrize("how", SOFT)
def test_soft_links_to_own_frames_are_followed(how, tmp_path):
    """The facility links old names of sources to new ones."""
    values, about = write_in_one_file(tmp_path, LEGACY, how)
    reading = read_all(about)
    assert reading.problems == []
    photons = values.sum(axis=(1, 2), dtype=np.int64)
    assert reading.block.sums.photons.tolist() == photons.tolist()


def read_all(about):
    return read([about], make_table({3: (0, np.arange(N))}))


HOW = ("link", "group", "virtual")


OTHERS = {
    "module": ({"name": MODULE_4}, f"there.h5, /{MODULE_4}: of another module"),
    "run": ({"run": 51}, "of run 51, expected run 50"),
    "trains": ({"first_train": 2000}, "of other trains, 2000"),
}


@pytest.mark.parametrize(
    ("how", "other"),
    # behind the link of a group, ids are those of the other file, too
    [(how, other) for how in HOW for other in OTHERS if (how, other) != ("group", "trains")],
)
def test_frames_of_others_are_missing(how, other, tmp_path):
    source, what = OTHERS[other]
    write_source(tmp_path, **source)
    reading = read_all(write_here(tmp_path, source.get("name", DATASET), how))
    assert not reading.block.sums.modules.any()
    assert not reading.block.sums.photons.any()
    assert all(what in problem.what for problem in reading.problems)
    assert sum(int(problem.what.split()[0]) for problem in reading.problems) == N


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("group", DATASET),
        *((how, n) for how in HOW[::2] for n in (DATASET, LEGACY, "entry_1/data")),
    ],
)
def test_own_frames_elsewhere_are_read(how, name, tmp_path):
    """Corrected again, under the old name of the source, or in a file of any other form."""
    values = write_source(tmp_path, name, first_train=1001)
    reading = read_all(write_here(tmp_path, name, how))
    assert reading.problems == []
    photons = values.sum(axis=(1, 2), dtype=np.int64)
    assert reading.block.sums.photons.tolist() == photons.tolist()
