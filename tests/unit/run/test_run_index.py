"""The run index: a valid small run, then one thing broken at a time.

Every test says which frames must be left, checks against the files' own ids that each is found
where it is, and that the damage is named with its file, module and train.
"""

import pathlib
import pickle
import shutil
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from extra_data.tests.make_examples import make_reduced_spb_run
from launch import run_python
from mockrun import tiny_run
from runnames import file_name, source_of

from xfelmpi.core.errors import InputError
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.problems import Problem, summarised
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.run.index import module_file
from xfelmpi.run.index.run_index import (
    index_files,
    index_run,
    read_files,
    share_of_files,
    slice_trains,
)

pytestmark = pytest.mark.slow

FIRST = 1_500_000_000
TRAINS, CELLS = tuple(range(FIRST, FIRST + 4)), (0, 2, 5)
ALL = {(t, c) for t in TRAINS for c in CELLS}
FAR = 2**64 - 1


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Four trains of three cells in two files of every module."""
    folder = tmp_path_factory.mktemp("valid") / "p007927"
    return tiny_run(folder, trains=4, cells=CELLS, sequence_length=2, pulse_step=4).paths.proc


@pytest.fixture
def run(valid, tmp_path):
    return shutil.copytree(valid, tmp_path / "r0050")


@contextmanager
def opened(run, module, sequence=0):
    """Give the INDEX of trains, that of the images, and the images of a module's file to edit."""
    with h5py.File(run / file_name(module, sequence), "r+") as file:
        name = source_of(module)
        yield file["INDEX"], file[f"INDEX/{name}/image"], file[f"INSTRUMENT/{name}/image"]


def replace(group, name, values):
    del group[name]
    group[name] = values


def check_places(index):
    """Assert that every frame stands in the files where the index says."""
    table = index.frames
    key = [(int(t), int(c)) for t, c in zip(table.train_id, table.cell_id, strict=True)]
    assert key == sorted(set(key)), "rows out of order, or twice"
    for number in range(len(index.files)):
        about = index.files[number]
        frames, modules = np.nonzero(table.file == number)
        assert (modules == about.module).all()
        assert about.dataset.endswith("/image/data")
        with h5py.File(about.path) as file:
            image = file[about.dataset].parent
            rows = table.row[frames, about.module]
            for name, column in (("trainId", table.train_id), ("cellId", table.cell_id)):
                found = image[name][:].reshape(-1)[rows]
                np.testing.assert_array_equal(found, column[frames])
            assert (rows < len(image["data"])).all()


def indexed(run, *args, missing=(), frames=ALL, problems=()):
    """Index a run and assert which frames there are, which module lacks which, and what is named.

    `missing` has (module, train, cell); `problems` has (file, module, train, words of it).
    """
    index = index_run(run, "proc", *args)
    table = index.frames
    check_places(index)
    ids = list(zip(table.train_id.tolist(), table.cell_id.tolist(), strict=True))
    assert set(ids) == set(frames)
    np.testing.assert_array_equal(table.pulse_id, table.cell_id * 4)
    lacking = {
        (int(m), *ids[f])
        for f, m in zip(*np.nonzero(table.file < 0), strict=True)
        if index.modules_in_run >> m & 1
    }
    assert lacking == set(missing)
    for file, module, train, words in problems:
        assert any(
            (p.file, p.module, p.train) == (file, module, train) and words in p.what
            for p in index.problems
        ), f"{file}, module {module}, train {train}, {words}: not in {index.problems}"
    gaps = {(p.module, p.train) for p in index.problems if not p.file}
    named = {(p.module, p.train) for p in index.problems}
    assert len(index.problems) == len(problems) + len(gaps - {("", 0)}), index.problems
    for module, train, _ in missing:
        whole_run_of_trains = {(module, t) for t in TRAINS if t <= train}
        assert named & whole_run_of_trains, f"module {module}, train {train} is not named"
    return index


@pytest.mark.quick
def test_valid_run(run):
    index = indexed(run)
    assert index.kind == "proc"
    assert index.detector == "SPB_DET_AGIPD1M-1"
    assert index.source == "SPB_DET_AGIPD1M-1/CORR/*CH0:output"
    assert index.modules_in_run == 0xFFFF
    assert len(index.files) == 32
    assert index.problems == ()
    assert index.start_time.endswith("+00:00")
    names = FrameTable.__dataclass_fields__
    dtypes = {name: getattr(index.frames, name).dtype for name in names}
    assert dtypes == {
        **{"train_id": np.uint64, "pulse_id": np.uint64, "cell_id": np.uint16},
        **{"group": np.int32, "files": np.int16, "row": np.int32},
    }


def test_a_usual_file_is_opened_once(run, monkeypatch):
    """And what that tells is what reading with care does, by EXtra-data."""
    opened_files = []

    def counted(path):
        opened_files.append(path.name)
        return open_hdf5(path)

    monkeypatch.setattr(module_file, "open_hdf5", counted)
    plain = index_run(run, "proc")
    names = sorted(path.name for path in run.iterdir())
    # the first one is asked for the date
    assert sorted(opened_files) == [names[0], *names]

    def unusual(path, detector):
        raise ValueError("as if it were not stored as usual")

    monkeypatch.setattr(module_file, "_read_plainly", unusual)
    careful = index_run(run, "proc")
    for name in FrameTable.__dataclass_fields__:
        np.testing.assert_array_equal(
            getattr(plain.frames, name), getattr(careful.frames, name), strict=True
        )
    assert plain.files == careful.files
    assert (plain.problems, plain.proposal) == (careful.problems, careful.proposal)
    np.testing.assert_array_equal(plain.recorded, careful.recorded, strict=True)


@pytest.mark.parametrize("beamline", [0, 1, 100])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 64])
def test_shares_of_ranks(n_ranks, beamline):
    """Every file is read once; rank 0 reads fewer, because it reads beamline data."""
    names = [f"CORR-R0050-AGIPD{m:02}-S{s:05}.h5" for m in range(16) for s in range(4)]
    paths = [pathlib.Path(name) for name in names]
    shares = [share_of_files(paths, rank, n_ranks, beamline) for rank in range(n_ranks)]
    assert sorted(path for share in shares for path in share) == paths
    first, *others = filter(None, map(len, shares))
    work = first + 6 * beamline
    if n_ranks > 1:
        assert max(others) - min(others) <= 1
        assert abs(work - others[0]) < 8 or (first == 1 and work > others[0])
    else:
        assert first == 64


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 64])
def test_several_ranks_read_the_files(run, n_ranks):
    """Each file is read by one of them, and the index is that of a single rank, damage included."""
    with opened(run, 3) as (index, _, _):
        index["trainId"][1] = 0
    alone = index_run(run, "proc")
    paths = module_file.module_files(run, "proc")
    shares = [share_of_files(paths, rank, n_ranks) for rank in range(n_ranks)]
    assert sorted(path for share in shares for path in share) == paths
    found = [pickle.loads(pickle.dumps(read_files(share, quiet=True))) for share in shares]
    together = index_files(run, "proc", contents={k: v for part in found for k, v in part.items()})
    for name in FrameTable.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(together.frames, name), getattr(alone.frames, name))
    assert together.files == alone.files
    assert slice_trains(together, (None, None), run).problems == alone.problems


def test_legacy_names(tmp_path):
    run = tiny_run(tmp_path, trains=2, cells=CELLS, pulse_step=4, layout="legacy").paths.proc
    index = indexed(run, frames={(t, c) for t, c in ALL if t < FIRST + 2})
    assert index.source == "SPB_DET_AGIPD1M-1/DET/*CH0:xtdf"


def test_files_that_break_elsewhere_and_reordered_cells(tmp_path):
    mock = tiny_run(
        tmp_path,
        trains=9,
        cells=tuple(range(0, 12, 2)),
        sequence_length=4,
        ragged_sequences=True,
        reorder_cells=True,
        veto=0.3,
        pulse_step=4,
        hit_rate=0.0,
    )
    ids = zip(mock.truth["trainId"].tolist(), mock.truth["cellId"].tolist(), strict=True)
    index = indexed(mock.paths.proc, frames=set(ids))
    assert index.problems == ()
    lengths = {len(files) for files in np.split(index.frames.file, 16, axis=1)}
    assert lengths == {len(mock)}
    sequences = [sum(f.module == m for f in index.files) for m in range(16)]
    assert set(sequences) == {3}
    rows = index.frames.row
    assert any((np.diff(rows[:, m].astype(int)) < 0).any() for m in range(16)), "cells in order"


@pytest.mark.parametrize("style", ["empty", "gone"])
def test_modules_lack_trains(tmp_path, style):
    lost = ((0, 0), (7, 1), (7, 2), (7, 3), (15, 3))
    run = tiny_run(
        tmp_path, trains=4, cells=CELLS, sequence_length=2, pulse_step=4, missing=lost,
        missing_style=style,
    ).paths.proc  # fmt: skip
    missing = {(m, FIRST + t, c) for m, t in lost for c in CELLS}
    index = indexed(run, missing=missing)
    assert {(p.module, p.train, p.what) for p in index.problems} == {
        (0, FIRST, f"module lacks 1 train: {FIRST}"),
        (7, FIRST + 1, f"module lacks 3 trains: {FIRST + 1} … {FIRST + 3}"),
        (15, FIRST + 3, f"module lacks 1 train: {FIRST + 3}"),
    }


@pytest.mark.quick
def test_absent_module(run):
    for path in run.glob("*AGIPD11*"):
        path.unlink()
    index = index_run(run, "proc")
    check_places(index)
    assert index.modules_in_run == 0xFFFF & ~(1 << 11)
    assert (index.frames.file[:, 11] == -1).all()
    assert (np.delete(index.frames.file, 11, axis=1) >= 0).all()
    (problem,) = index.problems
    assert (problem.module, problem.train) == (11, 0)
    assert "whole run" in problem.what


def test_train_id_zero_in_the_middle(run):
    with opened(run, 3) as (trains, _, images):
        trains["trainId"][0] = 0
        images["trainId"][:3] = 0
    indexed(
        run,
        missing={(3, FIRST, c) for c in CELLS},
        problems=[(file_name(3), 3, 0, "train ID 0 at position 0 with 3 frames")],
    )


def test_train_ids_zero_as_padding(run):
    """The facility's files may end in zeros, with and without an index for them."""
    for module in range(16):
        with opened(run, module, 1) as (trains, index, images):
            replace(trains, "trainId", np.concatenate([trains["trainId"][:], np.zeros(5, "u8")]))
            replace(trains, "flag", np.concatenate([trains["flag"][:], np.zeros(5, "i4")]))
            for name in ("first", "count"):
                replace(index, name, np.concatenate([index[name][:], np.zeros(3, "u8")]))
            assert len(images["data"]) == 6
    assert indexed(run).problems == ()


@pytest.mark.quick
def test_train_repeated_in_one_file(run):
    """The second train claims to be the first one again, with other images."""
    with opened(run, 4) as (trains, _, images):
        trains["trainId"][1] = FIRST
        images["trainId"][3:] = FIRST
    index = indexed(
        run,
        missing={(4, FIRST + 1, c) for c in CELLS},
        problems=[(file_name(4), 4, FIRST, "3 frames have ids that were there before")],
    )
    assert index.frames.row[:3, 4].tolist() == [0, 1, 2], "not the first ones"


def test_train_repeated_in_the_index_only(run):
    """Listed twice with the same rows: the same frames are there once."""
    with opened(run, 4) as (trains, index, _):
        replace(trains, "trainId", np.array([FIRST, FIRST, FIRST + 1], np.uint64))
        replace(trains, "flag", np.ones(3, np.int32))
        replace(index, "first", np.array([0, 0, 3], np.uint64))
        replace(index, "count", np.array([3, 3, 3], np.uint64))
    indexed(run, problems=[(file_name(4), 4, FIRST, "3 frames have ids that were there before")])


def test_train_repeated_across_files(run):
    with opened(run, 4, 1) as (trains, _, images):
        trains["trainId"][0] = FIRST + 1
        images["trainId"][:3] = FIRST + 1
    index = indexed(
        run,
        missing={(4, FIRST + 2, c) for c in CELLS},
        problems=[(file_name(4, 1), 4, FIRST + 1, "3 frames have ids that were there before")],
    )
    assert all(index.files[n].path.endswith(file_name(4, 0)) for n in index.frames.file[3:6, 4])


@pytest.mark.parametrize("flipped", [FAR, FIRST ^ 1 << 40, FIRST ^ 1 << 62, 17, FIRST + 2_000_000])
def test_train_far_outside(run, flipped):
    with opened(run, 9) as (trains, _, images):
        trains["trainId"][1] = flipped
        images["trainId"][3:] = flipped
    indexed(
        run,
        missing={(9, FIRST + 1, c) for c in CELLS},
        problems=[(file_name(9), 9, flipped, "far outside the run")],
    )


def test_train_far_outside_in_every_module(run):
    """The first and the last train of all modules: neither shifts the others."""
    for module in range(16):
        with opened(run, module, 0) as (trains, _, images):
            trains["trainId"][0] = 1
            images["trainId"][:3] = 1
        with opened(run, module, 1) as (trains, _, images):
            trains["trainId"][1] = FAR
            images["trainId"][3:] = FAR
    indexed(
        run,
        frames={(t, c) for t, c in ALL if t in TRAINS[1:3]},
        problems=[
            (file_name(m, s), m, t, "far outside") for m in range(16) for s, t in ((0, 1), (1, FAR))
        ],
    )


def test_train_id_of_index_and_images_differ(run):
    with opened(run, 2) as (_, _, images):
        images["trainId"][4] = FIRST + 77
    indexed(
        run,
        missing={(2, FIRST + 1, 2)},
        problems=[(file_name(2), 2, FIRST + 1, "1 frames have another trainId")],
    )


def test_index_beyond_the_data(run):
    """As after a full disk: fewer images than the index says."""
    with opened(run, 8, 1) as (_, _, images):
        for name in ("data", "trainId", "cellId", "pulseId"):
            replace(images, name, images[name][:4])
    indexed(
        run,
        missing={(8, FIRST + 3, 2), (8, FIRST + 3, 5)},
        problems=[(file_name(8, 1), 8, FIRST + 3, "INDEX names rows 3 … 5, but there are 4")],
    )


def test_fewer_images_than_ids(run):
    with opened(run, 8, 1) as (_, _, images):
        replace(images, "data", images["data"][:5])
    indexed(
        run,
        missing={(8, FIRST + 3, 5)},
        problems=[
            (file_name(8, 1), 8, 0, "5 frames but 6 trainId"),
            (file_name(8, 1), 8, FIRST + 3, "INDEX names rows 3 … 5, but there are 5"),
        ],
    )


@pytest.mark.parametrize("garbage", [6, 2**31, 2**63, FAR])
@pytest.mark.parametrize("name", ["first", "count"])
def test_garbage_in_the_index(run, name, garbage):
    with opened(run, 1) as (_, index, _):
        index[name][1] = garbage
    lost = {(1, FIRST + 1, c) for c in CELLS} if name == "first" else set()
    indexed(run, missing=lost, problems=[(file_name(1), 1, FIRST + 1, "INDEX names rows")])


def test_count_takes_the_next_trains_frames(run):
    """The first train claims all six frames, three of which are the second train's."""
    with opened(run, 1) as (_, index, _):
        index["count"][0] = 6
    indexed(run, problems=[(file_name(1), 1, FIRST, "3 frames have another trainId")])


def test_count_leaves_frames_out(run):
    with opened(run, 1) as (_, index, _):
        index["count"][0] = 2
    indexed(run, missing={(1, FIRST, 5)})


def test_frames_that_no_index_names(run):
    """All modules alike: no module lacks what another has. Room without a train is no frame."""
    for module in range(16):
        with opened(run, module) as (_, index, images):
            index["count"][0] = 2
            for name in ("data", "trainId", "cellId", "pulseId"):
                values = images[name][:]
                replace(images, name, np.concatenate([values, np.zeros_like(values[:4])]))
    index = index_run(run, "proc")
    assert len(index.frames) == len(ALL) - 1
    (problem,) = index.problems
    assert problem.what == "1 frames in 1 trains are in the files, but not in their INDEX"
    assert (problem.file, problem.module, problem.train) == ("", -1, FIRST)
    assert problem.action == "frames left out"


@pytest.mark.parametrize("cell", [352, 511, 512, 65535])
def test_cell_out_of_range(run, cell):
    with opened(run, 6) as (_, _, images):
        images["cellId"][1] = cell
    indexed(
        run,
        missing={(6, FIRST, 2)},
        problems=[(file_name(6), 6, FIRST, f"cellId {cell}, expected 0 … 351")],
    )


def test_another_cell_in_one_module(run):
    """Joined by cell, not by position: a frame of its own, which all other modules lack."""
    with opened(run, 6) as (_, _, images):
        images["cellId"][1] = 3
        images["pulseId"][1] = 12
    index = index_run(run, "proc")
    check_places(index)
    ids = zip(index.frames.train_id.tolist(), index.frames.cell_id.tolist(), strict=True)
    assert set(ids) == ALL | {(FIRST, 3)}
    np.testing.assert_array_equal(index.frames.pulse_id, index.frames.cell_id * 4)
    has = (index.frames.file >= 0).tolist()
    assert has[1] == [m != 6 for m in range(16)]
    assert has[2] == [m == 6 for m in range(16)]
    assert [(p.module, p.train, p.what) for p in index.problems] == [
        (6, FIRST, "module has 1 frames in 1 trains that most other modules lack"),
        (6, FIRST, "module lacks 1 of 3 frames"),
    ]


def test_pulse_ids_that_differ(run):
    with opened(run, 6) as (_, _, images):
        images["pulseId"][1] = 77
    index = index_run(run, "proc")
    assert [(p.module, p.train) for p in index.problems] == [(6, FIRST)]
    np.testing.assert_array_equal(index.frames.pulse_id, index.frames.cell_id * 4)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((6, 128, 512), np.float32),
        np.zeros((6, 2, 512, 128), np.uint16),
        np.zeros((6, 512), np.float32),
        np.zeros((6, 512, 128), np.complex64),
        np.zeros((6, 512, 128), "S1"),
    ],
    ids=["turned", "raw", "flat", "complex", "text"],
)
def test_images_of_another_kind(run, data):
    with opened(run, 12) as (_, _, images):
        replace(images, "data", data)
    indexed(
        run,
        missing={(12, t, c) for t in TRAINS[:2] for c in CELLS},
        problems=[(file_name(12), 12, 0, f"frames are {data.dtype}")],
    )


def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


DAMAGE = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "no HDF5": lambda path: path.write_text("moved to tape"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere.h5")),
    "HDF5 of something else": lambda path: h5py.File(path, "w").close(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_file_that_cannot_be_used(run, damage):
    DAMAGE[damage](run / file_name(13, 1))
    indexed(
        run,
        missing={(13, t, c) for t in TRAINS[2:] for c in CELLS},
        problems=[(file_name(13, 1), 13, 0, "file ")],
    )


@pytest.mark.parametrize("name", ["data", "cellId", "pulseId", "trainId"])
@pytest.mark.quick
def test_file_without_a_dataset(run, name):
    with opened(run, 13, 1) as (_, _, images):
        del images[name]
    indexed(
        run,
        missing={(13, t, c) for t in TRAINS[2:] for c in CELLS},
        problems=[(file_name(13, 1), 13, 0, "file cannot be indexed")],
    )


def test_all_files_damaged(run):
    for path in run.glob("*AGIPD*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"r0050.*none of its detector files.*AGIPD00-S00000"):
        index_run(run, "proc")


def test_no_usable_frame(run):
    for module in range(16):
        for sequence in range(2):
            with opened(run, module, sequence) as (_, index, _):
                index["count"][:] = 0
    with pytest.raises(InputError, match="no usable frame"):
        index_run(run, "proc")


def add_other_detector(run):
    other = "MID_DET_AGIPD1M-1/CORR/0CH0:output"
    path = run / file_name(0).replace("S00000", "S00007")
    shutil.copy(run / file_name(0), path)
    with h5py.File(path, "r+") as file:
        for section in ("INDEX", "INSTRUMENT"):
            file.create_group(f"{section}/MID_DET_AGIPD1M-1/CORR")
            file.move(f"{section}/{source_of(0)}", f"{section}/{other}")
            del file[f"{section}/SPB_DET_AGIPD1M-1"]
        for key in ("dataSourceId", "root", "deviceId"):
            del file[f"METADATA/dataSources/{key}"]
        file["METADATA/dataSources/dataSourceId"] = [f"INSTRUMENT/{other}/image"]
        file["METADATA/dataSources/root"] = ["INSTRUMENT"]
        file["METADATA/dataSources/deviceId"] = [f"{other}/image"]


def test_two_detectors(run):
    add_other_detector(run)
    with pytest.raises(InputError, match=r"MID_DET_AGIPD1M-1, SPB_DET_AGIPD1M-1.*--detector"):
        index_run(run, "proc")
    assert indexed(run, "SPB_DET_AGIPD1M-1").detector == "SPB_DET_AGIPD1M-1"
    other = index_run(run, "proc", "MID_DET_AGIPD1M-1")
    assert other.modules_in_run == 1
    check_places(other)
    with pytest.raises(InputError, match="no detector FXE"):
        index_run(run, "proc", "FXE_DET_AGIPD1M-1")


@pytest.mark.parametrize(
    ("part", "left"),
    [
        ((None, None), TRAINS),
        ((0, 1), TRAINS[:1]),
        ((1, 3), TRAINS[1:3]),
        ((3, None), TRAINS[3:]),
        ((None, 2), TRAINS[:2]),
        ((2, 99), TRAINS[2:]),
    ],
)
@pytest.mark.quick
def test_slices_of_trains(run, part, left):
    indexed(run, None, part, frames={(t, c) for t, c in ALL if t in left})


def test_slice_without_trains(run):
    with pytest.raises(InputError, match=r"--trains 4:.*none of its 4 trains"):
        index_run(run, "proc", None, (4, None))


def test_slice_counts_trains_that_any_module_has(run):
    """A module that lacks the first train does not shift the others."""
    with opened(run, 0) as (_, index, _):
        index["count"][0] = 0
    indexed(run, None, (1, 2), frames={(TRAINS[1], c) for c in CELLS})
    index = indexed(
        run,
        None,
        (0, 1),
        frames={(TRAINS[0], c) for c in CELLS},
        missing={(0, TRAINS[0], c) for c in CELLS},
    )
    assert index.modules_in_run == 0xFFFF, "the module is in the run, if not in these trains"


def test_counts_that_vary_without_a_pattern(tmp_path):
    make_reduced_spb_run(str(tmp_path), raw=False, rng=np.random.RandomState(3))
    index = index_run(tmp_path, "proc")
    check_places(index)
    assert index.problems == ()
    _, counts = np.unique(index.frames.train_id, return_counts=True)
    assert len(set(counts.tolist())) > 5


def flag(run, module, position, sequence=0):
    with opened(run, module, sequence) as (trains, _, _):
        trains["flag"][position] = 0


def test_flagged_trains_stay(run):
    flag(run, 5, 1)
    index = indexed(run, problems=[(file_name(5), 5, FIRST + 1, "flagged suspect")])
    assert [p.action for p in index.problems] == ["used (--suspect-trains include)"]


def test_trains_flagged_by_some_modules_are_left_out_there(run):
    for module in (5, 9):
        flag(run, module, 1)
    lost = {(m, FIRST + 1, c) for m in (5, 9) for c in CELLS}
    index = index_run(run, "proc", suspect_trains="exclude")
    lacking = np.argwhere(index.frames.file < 0)
    assert {(m, TRAINS[f // 3], CELLS[f % 3]) for f, m in lacking.tolist()} == lost
    found = [p for p in index.problems if "INDEX/flag" in p.what]
    assert found == [
        Problem(
            "flagged suspect (INDEX/flag) by modules 5 9",
            train=FIRST + 1,
            action="frames left out there",
        )
    ]


def test_trains_flagged_by_all_modules_are_left_out(run):
    """Two stretches of one and two trains, over the boundary of files, each named once."""
    for module in range(16):
        for position, sequence in ((0, 0), (0, 1), (1, 1)):
            flag(run, module, position, sequence)
    index = index_run(run, "proc", suspect_trains="exclude")
    assert np.unique(index.frames.train_id).tolist() == [FIRST + 1]
    assert (index.frames.file >= 0).all()
    assert [(p.train, p.what, p.action) for p in index.problems] == [
        (FIRST, "flagged suspect (INDEX/flag) by all modules", "train excluded"),
        (
            FIRST + 2,
            f"2 trains flagged suspect (INDEX/flag) by all modules: {FIRST + 2} … {FIRST + 3}",
            "train excluded",
        ),
    ]
    assert [p.train for p in index_run(run, "proc").problems] == [FIRST, FIRST + 2]


def test_every_train_suspect(run):
    for module in range(16):
        for position, sequence in ((0, 0), (1, 0), (0, 1), (1, 1)):
            flag(run, module, position, sequence)
    with pytest.raises(InputError, match="no usable frame"):
        index_run(run, "proc", suspect_trains="exclude")
    assert [p.what[:16] for p in indexed(run).problems] == ["4 trains flagged"]


def test_flag_of_format_1_1_is_a_server(run):
    with opened(run, 5) as (trains, _, _):
        trains["flag"][:] = (0, 3)
        del trains.file["METADATA/dataFormatVersion"]
        trains.file["METADATA/dataFormatVersion"] = [b"1.1"]
    indexed(run, problems=[(file_name(5), 5, FIRST + 1, "flagged suspect")])


def test_index_that_names_the_same_frames_again_and_again(run):
    """Thousands of trains times all frames would be more than fits the memory."""
    n = 5000
    with opened(run, 3) as (trains, index, images):
        for group, name in ((trains, "trainId"), (index, "first"), (index, "count")):
            replace(group, name, np.resize(group[name][:], n))
        replace(trains, "flag", np.ones(n, np.int32))
        trains["trainId"][:] = FIRST + np.arange(n)
        index["first"][:] = 0
        index["count"][:] = len(images["trainId"])
    index = index_run(run, "proc")
    check_places(index)
    assert {t for t, m in zip(*np.nonzero(index.frames.file < 0), strict=True)} == set()
    found = [p for p in index.problems if p.file == file_name(3)]
    assert f"INDEX gives it {2 * len(CELLS)} frames, of which {len(CELLS)} are its own" in {
        p.what for p in found
    }
    assert len(summarised(found)) < 50


@pytest.mark.slow
def test_header_that_asks_for_more_memory_than_there_is(run):
    with opened(run, 3) as (_, _, images):
        del images["cellId"]
        images.create_dataset("cellId", (1 << 40,), "u2", chunks=(1024,))
    indexed(
        run,
        missing={(3, t, c) for t in TRAINS[:2] for c in CELLS},
        problems=[(file_name(3), 3, 0, "values of uint16, expected whole numbers, at most")],
    )


MEMORY_OF_A_LONG_RUN = """
import re
from pathlib import Path
import numpy as np
from xfelmpi.run.index import module_file, run_index
from xfelmpi.run.index.file_index import FileIndex
from xfelmpi.run.index.identity import FileIdentity

TRAINS = 2841  # of 352 cells: a million frames
N = TRAINS * 352

def read(path, detector):
    number = module_file.module_of_file(path.name)
    source = f"SPB_DET_AGIPD1M-1/CORR/{number}CH0:output"
    trains = np.arange(TRAINS, dtype=np.uint64) + np.uint64(10**9)
    cell = np.tile(np.arange(352), TRAINS)
    ids = {"trainId": np.repeat(trains, 352), "cellId": cell, "pulseId": cell.astype(np.uint64)}
    of_trains = trains, np.arange(TRAINS) * 352, np.full(TRAINS, 352), np.zeros(TRAINS, bool)
    about = (N, 512, 128), np.dtype("u1"), True
    index = FileIndex(*of_trains, ids, *about)
    return {source}, FileIdentity(50, 7927, 50), {source: index}

module_file._read_plainly = read
run_index.module_files = lambda folder, kind, detector: [
    Path(f"CORR-R0050-AGIPD{m:02}-S00000.h5") for m in range(16)
]
run_index.start_time = lambda path: ""
index = run_index.index_run(Path("run"), "proc")
assert len(index.frames) == TRAINS * 352 and index.modules_in_run == 0xFFFF
# ru_maxrss would include what the parent process had before the exec
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_of_a_long_run():
    """A million frames: what rank 0 needs for the index leaves room for the rest of the job."""
    done = run_python(["-c", MEMORY_OF_A_LONG_RUN])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 170, f"{done.stdout.strip()} MiB"
