"""The virtual dataset: frame by frame what the run's files hold, and found wherever it goes."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from checks import equal
from extra_data.tests.make_examples import make_modern_spb_proc_run, make_spb_run
from launch import all_files, call_xfelmpi, run_job
from mockrun import HALF, tiny_run
from mpi4py import MPI
from runnames import file_name, images_of

from xfelmpi.cli import parser
from xfelmpi.cli import vds as command
from xfelmpi.core.errors import OutputError, UsageError
from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io.partial_file import part_name
from xfelmpi.io.publish import publish
from xfelmpi.output.vds import fill_value, source_names, write_vds
from xfelmpi.output.write_inputs import begin_vds
from xfelmpi.run.index.run_index import RunIndex, index_run
from xfelmpi.run.virtual_layout import BYTES_PER_MAPPING, Mappings, find_mappings, plan_virtual

pytestmark = pytest.mark.slow

IMAGE = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/image"
IMAGE_OF_HALF = f"INSTRUMENT/{HALF['detector']}/DET/image"
TYPES = {"trainId": "u8", "pulseId": "u8", "cellId": "u2"}


def write(prefix: Path, run=50, kind="proc", output=None) -> tuple[Path, RunIndex, Mappings]:
    """Write the virtual dataset of a run; return its path, the run's index, and the mappings."""
    experiment = Experiment(prefix, output or prefix / "scratch", run)
    index = index_run(experiment.run_folder(kind), kind)
    layout, problems = plan_virtual(index)
    assert problems == []
    experiment.vds(kind).parent.mkdir(parents=True)
    path = write_vds(experiment, {"run": run}, layout)
    assert not path.exists(), "only complete under its name"
    publish(path)
    return path, index, layout.mappings


def frames_in_files(folder: Path, detector: str):
    """Yield module, {(trainId, cellId): (pulseId, image)} from a run's files, read with h5py."""
    for module in range(16):
        found = {}
        for path in sorted(folder.glob(f"*AGIPD{module:02d}-S*.h5")):
            with h5py.File(path) as file:
                instrument = file[f"INSTRUMENT/{detector}"]
                (name,) = [n for n in ("CORR", "DET") if n in instrument][:1]
                channel = "output" if name == "CORR" else "xtdf"
                group = instrument[f"{name}/{module}CH0:{channel}/image"]
                ids = (group[k][:].reshape(-1).tolist() for k in ("trainId", "cellId", "pulseId"))
                images = group["data"][:]
                found |= {(t, c): (p, i) for t, c, p, i in zip(*ids, images, strict=True)}
        yield module, found


def check(path: Path, folder: Path, fill, image=IMAGE) -> None:
    """Assert that a virtual dataset holds every frame of the files, and the fill elsewhere."""
    with h5py.File(path) as file:
        columns = (file[f"{image}/{name}"][:].tolist() for name in ("trainId", "cellId"))
        ids = list(zip(*columns, strict=True))
        pulses = file[f"{image}/pulseId"][:].tolist()
        data = file[f"{image}/data"]
        assert ids == sorted(set(ids))
        everything = set()
        for module, found in frames_in_files(folder, image.split("/")[1]):
            if module >= len(data):
                assert not found
                continue
            images = data[module]
            everything |= set(found)
            for row, key in enumerate(ids):
                if key in found:
                    assert found[key][0] == pulses[row]
                    equal(images[row], found[key][1])
                elif np.isnan(fill):
                    assert np.isnan(images[row]).all()
                else:
                    assert (images[row] == fill).all()
        assert everything == set(ids)


FEW = (1, 2, 6, 8, *range(10, 15))
"""Modules that are absent where fewer show the same."""

RUNS = {
    "complete": {},
    "floats": {"dtype": "f4", "compression": "none", "absent_modules": FEW},
    "u2, chunks of 4": {"dtype": "u2", "chunk_frames": 4, "absent_modules": FEW},
    "contiguous": {"compression": "none", "chunk_frames": 0, "absent_modules": FEW},
    "legacy": {"layout": "legacy", "absent_modules": FEW},
    "reordered cells": {"reorder_cells": True, "veto": 0.2, "absent_modules": FEW},
    "ragged files": {"trains": 7, "sequence_length": 3, "ragged_sequences": True},
    "gaps": {
        "trains": 5,
        "missing": ((3, 0), (3, 1), (7, 2), (15, 4)),
        "missing_style": "gone",
        "absent_modules": FEW,
    },
    "listed gaps, floats": {"dtype": "f4", "missing": ((0, 1), (4, 2)), "absent_modules": FEW},
    "absent modules": {"absent_modules": (0, 5, *FEW), "dtype": "f4"},
    "everything at once": {
        "trains": 8,
        "veto": 0.3,
        "reorder_cells": True,
        "sequence_length": 3,
        "ragged_sequences": True,
        "missing": ((3, 0), (3, 5), (7, 2)),
        "absent_modules": (9, *FEW),
        "cells": (3, 4, 8, 11),
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_every_frame_equals_the_files(name, tmp_path):
    mock = tiny_run(tmp_path / "p007927", **RUNS[name])
    path, index, mappings = write(mock.options.prefix)
    assert path == mock.options.prefix / "scratch" / "vds" / "r0050_vds_proc.h5"
    kind = np.dtype(mock.options.dtype)
    check(path, mock.paths.proc, np.nan if kind.kind == "f" else np.iinfo(kind).max)
    with h5py.File(path) as file:
        assert file[IMAGE]["data"].dtype == kind
        assert file[IMAGE]["data"].shape == (16, len(mock), 512, 128)
        assert {k: file[IMAGE][k].dtype for k in TYPES} == {
            k: np.dtype(t) for k, t in TYPES.items()
        }
        for key in TYPES:
            np.testing.assert_array_equal(file[IMAGE][key][:], mock.truth[key])
    if name in ("complete", "ragged files"):
        assert len(mappings) == len(index.files)


def test_every_raw_frame_equals_the_files(tmp_path):
    mock = tiny_run(
        tmp_path,
        kind="raw",
        trains=2,
        reorder_cells=True,
        missing=((6, 1),),
        absent_modules=(2, *range(7, 16)),
    )
    path, *_ = write(mock.options.prefix, kind="raw")
    check(path, mock.paths.raw, 65535)
    with h5py.File(path) as file:
        assert file[IMAGE]["data"].shape == (16, len(mock), 2, 512, 128)
        assert file[IMAGE]["data"].dtype == np.uint16


def test_layout(tmp_path):
    mock = tiny_run(tmp_path, trains=1)
    path, *_ = write(mock.options.prefix)
    names = []
    with h5py.File(path) as file:
        file.visit(names.append)
        assert file.attrs["run"] == 50
        assert file[IMAGE]["data"].is_virtual
        name = file[IMAGE]["data"].virtual_sources()[0].file_name
        assert name == "../../proc/r0050/CORR-R0050-AGIPD00-S00000.h5"
    assert [n for n in names if n.startswith(f"{IMAGE}/")] == sorted(
        f"{IMAGE}/{k}" for k in ("data", *TYPES)
    )
    assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("make", [make_modern_spb_proc_run, make_spb_run])
def test_runs_of_extra_data(make, tmp_path):
    """Thousands of frames, all zeros but some that are made different here."""
    raw = make is make_spb_run
    run, kind = (238, "raw") if raw else (142, "proc")
    folder = tmp_path / kind / f"r{run:04d}"
    folder.mkdir(parents=True)
    make(str(folder), **({"raw": True} if raw else {}))
    channel = "DET/{}CH0:xtdf" if raw else "CORR/{}CH0:output"
    marked = range(5, 2000, 331)
    inner = (2, 512, 128) if raw else (512, 128)
    rng = np.random.default_rng(4)
    images = rng.integers(0, 60000, (16, len(marked), *inner)).astype("u2" if raw else "f4")
    for module in range(16):
        (name,) = folder.glob(f"*AGIPD{module:02d}*")
        with h5py.File(name, "r+") as file:
            for k, row in enumerate(marked):
                image = file[f"INSTRUMENT/SPB_DET_AGIPD1M-1/{channel.format(module)}/image"]
                image["data"][row] = images[module, k]
    path, index, mappings = write(tmp_path, run, kind)
    assert len(mappings) == 16
    with h5py.File(path) as file:
        data = file[IMAGE]["data"]
        assert data.dtype == images.dtype
        assert data.shape == (16, len(index.frames), *inner)
        assert data.fillvalue == 65535 if raw else np.isnan(data.fillvalue)
        for k, row in enumerate(marked):
            np.testing.assert_array_equal(data[:, row], images[:, k])
        others = np.setdiff1d(np.arange(len(index.frames)), marked)
        assert not data[(7, slice(None), *(0,) * len(inner))][others].any()


def table(columns: dict[int, tuple], trains) -> FrameTable:
    """Return frames of which some modules have (file, row); file -1 where they lack them."""
    trains = np.asarray(trains, np.uint64)
    file = np.full((len(trains), 16), -1, np.int32)
    row = np.zeros((len(trains), 16), np.int32)
    for module, (files, rows) in columns.items():
        file[:, module], row[:, module] = files, rows
    cells = np.zeros(len(trains), np.uint16)
    return FrameTable.of_places(trains, cells, trains, file, row)


def expand(mappings: Mappings, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return file and row of every frame and module, as the mappings say."""
    file = np.full((n_frames, 16), -1)
    row = np.zeros((n_frames, 16), int)
    for module, number, frame, first, frame_step, row_step, count, length in mappings:
        assert min(count, length) >= 1
        assert min(frame_step, row_step) >= length
        blocks, inside = np.arange(count)[:, None], np.arange(length)
        at = (frame + blocks * frame_step + inside).ravel()
        assert (file[at, module] == -1).all(), "mapped twice"
        file[at, module] = number
        row[at, module] = (first + blocks * row_step + inside).ravel()
    return file, row


def assert_maps(frames: FrameTable, fits=None) -> int:
    """Assert that the mappings say what the table says; return how many they are."""
    fits = np.ones(frames.file.max() + 1, bool) if fits is None else fits
    mappings = find_mappings(frames, fits)
    file, row = expand(mappings, len(frames))
    there = (frames.file >= 0) & fits[frames.file]
    np.testing.assert_array_equal(file, np.where(there, frames.file, -1))
    np.testing.assert_array_equal(row, np.where(there, frames.row, 0))
    return len(mappings)


TRAINS = np.repeat(np.arange(100, 150), 20)


def test_a_complete_run_needs_one_mapping_per_module_and_file():
    file, row = np.divmod(np.arange(1000), 260)
    assert assert_maps(table(dict.fromkeys(range(16), (file, row)), TRAINS)) == 16 * 4


def test_lost_trains_cost_a_mapping_each():
    lost = np.isin(TRAINS, (110, 111, 130))
    row = np.cumsum(~lost) - 1
    assert assert_maps(table({3: (np.where(lost, -1, 0), row)}, TRAINS)) == 3


def test_a_frame_lost_in_every_train_costs_little():
    lost = np.arange(1000) % 20 == 7
    row = np.cumsum(~lost) - 1
    # the end of a train and the start of the next are one block
    assert assert_maps(table({3: (np.where(lost, -1, 0), row)}, TRAINS)) == 3


def test_the_same_other_order_in_every_train_needs_a_mapping_per_cell():
    order = np.random.default_rng(1).permutation(20)
    row = np.arange(1000) // 20 * 20 + np.tile(order, 50)
    assert assert_maps(table({0: (0, row), 9: (1, row)}, TRAINS)) <= 2 * 20


def test_trains_backwards_in_the_file():
    row = (49 - np.arange(1000) // 20) * 20 + np.arange(1000) % 20
    assert assert_maps(table({2: (0, row)}, TRAINS)) == 50


@pytest.mark.parametrize("seed", range(20))
def test_any_order(seed):
    """Random order, gaps, files and train lengths; some files left out."""
    rng = np.random.default_rng(seed)
    trains = np.sort(rng.integers(0, 30, rng.integers(1, 400)))
    columns = {}
    for module in rng.permutation(16)[: rng.integers(1, 17)]:
        row = np.arange(len(trains))
        shuffled = rng.random(len(trains)) < rng.choice([0, 0.1, 1])
        row[shuffled] = rng.permutation(row[shuffled])
        file = np.where(rng.random(len(trains)) < rng.choice([0, 0.3]), -1, row // 100 + module)
        columns[module] = (file, row)
    frames = table(columns, trains)
    assert_maps(frames, rng.random(frames.file.max() + 1) < 0.8 if frames.file.max() >= 0 else None)


def test_no_frames_of_a_module():
    assert len(find_mappings(table({}, [5, 6]), np.ones(1, bool))) == 0


def test_strided_mappings_read_right(tmp_path):
    """The same other order in every train, in real files: regular hyperslabs on both sides."""
    mock = tiny_run(tmp_path, trains=6, cells=tuple(range(5)))
    order = np.array([3, 0, 4, 2, 1])
    rows = (np.arange(6)[:, None] * 5 + order).ravel()
    for name in mock.paths.proc.glob("*AGIPD*.h5"):
        with h5py.File(name, "r+") as file:
            module = int(re.search(r"AGIPD(\d\d)", name.name)[1])
            image = file[images_of(module)]
            for key in ("data", "cellId", "pulseId"):
                image[key][...] = image[key][:][rows]
    path, _, mappings = write(mock.options.prefix)
    assert len(mappings) == 16 * 5
    check(path, mock.paths.proc, 255)


def test_files_of_another_type_are_left_out(tmp_path):
    mock = tiny_run(tmp_path, dtype="u2")
    others = tuple(module for module in range(16) if module != 4)
    other = tiny_run(tmp_path / "other", dtype="f4", absent_modules=others)
    name = "CORR-R0050-AGIPD04-S00000.h5"
    shutil.copy(other.paths.proc / name, mock.paths.proc / name)
    layout, problems = plan_virtual(index_run(mock.paths.proc, "proc"))
    (problem,) = problems
    assert (problem.file, problem.module) == (name, 4)
    assert "float32" in problem.what
    assert "uint16" in problem.what
    assert 4 not in layout.mappings.module
    done = call_xfelmpi(["vds", 50, "--prefix", tmp_path])
    assert done.returncode == 3, done.stderr
    assert name in done.stdout
    with h5py.File(tmp_path / "scratch/vds/r0050_vds_proc.h5") as file:
        data = file[IMAGE]["data"]
        assert data.dtype == np.uint16
        assert (data[4, 2] == 65535).all()
        np.testing.assert_array_equal(data[5, 2], mock.frame(2)[5])


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("u1", 255), ("<u2", 65535), (">u2", 65535), ("i2", 32767), ("f4", np.nan), ("f8", np.nan)],
)
def test_fill_value(dtype, fill):
    found = fill_value(dtype)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_equal(found[()], fill)


def assert_finds_its_files(path: Path, mock) -> None:
    """Assert that frames of the first and the last module are read, not filled in."""
    with h5py.File(path) as file:
        for module in (0, 15):
            np.testing.assert_array_equal(file[IMAGE]["data"][module, 3], mock.frame(3)[module])


def test_the_experiment_folder_may_move(tmp_path, monkeypatch):
    mock = tiny_run(tmp_path / "before")
    write(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    name = Path("scratch/vds/r0050_vds_proc.h5")
    assert_finds_its_files(tmp_path / "after" / name, mock)
    monkeypatch.chdir(tmp_path / "after" / "scratch")
    assert_finds_its_files(Path("vds/r0050_vds_proc.h5"), mock)
    (tmp_path / "link.h5").symlink_to(tmp_path / "after" / name)
    assert_finds_its_files(tmp_path / "link.h5", mock)
    (tmp_path / "folder").symlink_to(tmp_path / "after" / "scratch" / "vds")
    assert_finds_its_files(tmp_path / "folder" / name.name, mock)


def test_data_elsewhere_behind_a_link(tmp_path):
    """The facility keeps proc/ elsewhere; the experiment folder moves with a link to it."""
    prefix = tmp_path / "exp" / "p007927"
    mock = tiny_run(prefix)
    (tmp_path / "store").mkdir()
    shutil.move(prefix / "proc", tmp_path / "store" / "deep")
    (prefix / "proc").symlink_to(tmp_path / "store" / "deep")
    path, *_ = write(prefix)
    assert_finds_its_files(path, mock)
    prefix.rename(tmp_path / "p1")
    assert_finds_its_files(tmp_path / "p1" / "scratch" / "vds" / path.name, mock)


def test_scratch_elsewhere_behind_a_link(tmp_path, monkeypatch):
    """`..` from the folder of the virtual dataset would not lead back through the link."""
    mock = tiny_run(tmp_path / "exp")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "results").mkdir()
    (tmp_path / "exp" / "out").symlink_to(tmp_path / "a" / "b" / "c" / "results")
    monkeypatch.chdir(tmp_path)
    path, *_ = write(Path("exp"), output=Path("exp/out"))
    with h5py.File(path) as file:
        source = file[IMAGE]["data"].virtual_sources()[0].file_name
    assert source == str(tmp_path / "exp/proc/r0050/CORR-R0050-AGIPD00-S00000.h5")
    monkeypatch.chdir("/")
    assert_finds_its_files(tmp_path / path, mock)
    path = (tmp_path / path).resolve()
    assert_finds_its_files(path.rename(tmp_path / "moved.h5"), mock)


def test_experiment_folder_named_through_a_link(tmp_path):
    mock = tiny_run(tmp_path / "real" / "p007927")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path, *_ = write(tmp_path / "link" / "p007927")
    assert_finds_its_files(path, mock)
    (tmp_path / "link").unlink()
    real = tmp_path / "real" / "p007927" / "scratch" / "vds" / path.name
    assert_finds_its_files(real, mock)


def test_output_outside_the_experiment_folder(tmp_path):
    prefix, folder = tmp_path / "exp", tmp_path / "out" / "vds"
    source = prefix / "raw" / "r0001" / "a.h5"
    assert source_names([source], prefix, folder) == [str(source)]
    inside = prefix / "usr" / "me" / "vds"
    assert source_names([source], prefix, inside) == ["../../../raw/r0001/a.h5"]


@pytest.mark.parametrize("name", ["50 %b", "é ü"])
def test_unusual_names(name, tmp_path):
    mock = tiny_run(tmp_path / name, trains=2)
    path, *_ = write(tmp_path / name)
    assert_finds_its_files(path, mock)
    outside, *_ = write(tmp_path / name, output=tmp_path / "out")
    assert_finds_its_files(outside, mock)


def big_run(n_files: int, rows: int) -> RunIndex:
    """Return the index of a complete run whose files do not exist."""
    n = n_files * rows
    files = tuple(
        ModuleFile(f"/p/proc/r0050/{file_name(m, s)}", m,
                   f"{images_of(m)}/data", "<f4")
        for m in range(16) for s in range(n_files)
    )  # fmt: skip
    sequence, row = np.divmod(np.arange(n), rows)
    trains = np.arange(n) // 352
    columns = {m: (sequence + m * n_files, row) for m in range(16)}
    frames = table(columns, trains)
    return RunIndex("proc", "SPB_DET_AGIPD1M-1", "", files, frames, 0xFFFF, (), AGIPD_1M)


def test_a_long_run_has_a_mapping_for_each_file(tmp_path):
    """So that it opens fast, with a million frames; what is not there reads as the fill value."""
    layout, _ = plan_virtual(big_run(100, 352 * 30))
    assert len(layout.mappings) == 1600
    (tmp_path / "vds").mkdir()
    path = write_vds(Experiment(Path("/p"), tmp_path, 50), {}, layout)
    publish(path)
    with h5py.File(path) as file:
        data = file[IMAGE]["data"]
        assert data.shape == (16, 352 * 3000, 512, 128)
        assert np.isnan(data[7, 777777, ::64]).all()


def share_of(index: RunIndex) -> SimpleNamespace:
    """Return what writing the virtual dataset needs of rank 0's share of the run."""
    facts = SimpleNamespace(kind=index.kind, files=index.files)
    return SimpleNamespace(facts=facts, virtual=plan_virtual(index)[0])


def test_too_many_mappings_are_a_problem(tmp_path):
    share = share_of(big_run(3, 352))
    experiment = Experiment(Path("/p"), tmp_path / "out", 50)
    path, problems = begin_vds(experiment, {"run": 50}, share, 48 * BYTES_PER_MAPPING - 1)
    assert path is None
    assert "48 mappings" in problems[0].what
    assert all_files(tmp_path) == []
    path, problems = begin_vds(experiment, {"run": 50}, share, 48 * BYTES_PER_MAPPING)
    assert problems == ()
    assert all_files(tmp_path) == [f"out/vds/{part_name(path).name}"]
    with h5py.File(part_name(path)) as file:
        assert file.attrs["run"] == 50


def test_frames_that_nobody_could_open(tmp_path, monkeypatch):
    mock = tiny_run(tmp_path, trains=2, reorder_cells=True)
    index = index_run(mock.paths.proc, "proc")
    needed = len(plan_virtual(index)[0].mappings)
    assert needed > 48
    monkeypatch.setattr("xfelmpi.run.virtual_layout.MAX_MAPPINGS", needed)
    assert plan_virtual(index)[1] == []
    monkeypatch.setattr("xfelmpi.run.virtual_layout.MAX_MAPPINGS", needed - 1)
    layout, problems = plan_virtual(index)
    assert layout is None
    assert f"more than {needed - 1} mappings" in problems[0].what
    with pytest.raises(OutputError, match="more than"):
        command.main(["50", "--prefix", str(tmp_path)], MPI.COMM_SELF)
    assert not (tmp_path / "scratch" / "vds").exists()


def test_folder_that_cannot_be_written(tmp_path):
    layout, _ = plan_virtual(big_run(1, 3))
    with pytest.raises(OutputError, match=r"r0050_vds_proc\.h5: cannot be written"):
        write_vds(Experiment(tmp_path, tmp_path / "out", 50), {}, layout)


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vds") / "p007927"
    return tiny_run(folder, **HALF, missing=((3, 1),), missing_style="gone")


@pytest.mark.parametrize("ranks", [0, 3])
def test_main_job_writes_it_with_the_rows_of_the_events_file(ranks, mock, tmp_path):
    options = ["--prefix", mock.options.prefix, "--output", tmp_path]
    done = run_job([50, *options, "--trains", "1:", "--no-report"], ranks)
    assert done.returncode == 3, done.stderr
    path = tmp_path / "vds" / "r0050_vds_proc.h5"
    assert str(path) in done.stdout.partition("files written:")[2]
    with h5py.File(path) as file, h5py.File(tmp_path / "events/r0050_events.h5") as events:
        for name in TYPES:
            np.testing.assert_array_equal(file[IMAGE_OF_HALF][name][:], events[name][:])
        assert len(events["trainId"]) == 12
        there = events["modules"][:] >> 3 & 1 == 1
        data = file[IMAGE_OF_HALF]["data"]
        np.testing.assert_array_equal((data[3] != 255).any(axis=(1, 2)), there)
        same = {"configuration", "input_files", "program_version", "command_line", "mpi"}
        own = {"masks_digest", "modules_in_run", "data", "detector", "warnings"}
        own |= {"detector_motors", "frames_read", "run_type", "reduction"}
        assert set(file.attrs) == set(events.attrs) - own
        assert {k: file.attrs[k] for k in same} == {k: events.attrs[k] for k in same}
        rows = np.flatnonzero(events["is_hit"][:])
        for row in rows:
            np.testing.assert_array_equal(data[:, row], mock.frame(row + 6))
    assert not [n for n in all_files(tmp_path) if n.endswith(".part")]


def test_main_job_can_do_without(mock, tmp_path):
    options = ["--prefix", mock.options.prefix, "--no-report", "--output", tmp_path / "a"]
    assert call_xfelmpi([50, *options, "--no-vds"]).returncode == 3
    settings = tmp_path / "settings.toml"
    settings.write_text("vds = false\n")
    options[-1] = tmp_path / "b"
    assert call_xfelmpi([50, *options, "--config", settings]).returncode == 3
    for folder in "ab":
        assert "events/r0050_events.h5" in all_files(tmp_path / folder)
        assert not (tmp_path / folder / "vds").exists()


@pytest.mark.parametrize("value", ["0", '"no"', "[true]"])
def test_a_flag_in_the_file_is_true_or_false(value, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text(f"vds = {value}\n")
    with pytest.raises(UsageError, match="vds"):
        parser.read_toml(settings)


@pytest.mark.parametrize("ranks", [0, 3])
def test_command(ranks, mock, tmp_path):
    done = run_job(["vds", 50, "--prefix", mock.options.prefix, "--output", tmp_path], ranks)
    assert done.returncode == 3, done.stderr
    path = tmp_path / "vds" / "r0050_vds_proc.h5"
    assert all_files(tmp_path) == ["vds/r0050_vds_proc.h5"]
    assert "module 3 train 1500000001: module lacks 1 train" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"18 frames in 8 mappings, \d+\.\d\d s: " + re.escape(str(path)), last)
    check(path, mock.paths.proc, 255, IMAGE_OF_HALF)
    with h5py.File(path) as file:
        assert file.attrs["command_line"].startswith("xfelmpi vds 50 --prefix")


def test_command_takes_raw_if_there_is_no_proc(tmp_path):
    folder = tmp_path / "raw" / "r0238"
    folder.mkdir(parents=True)
    make_spb_run(str(folder), raw=True)
    done = call_xfelmpi(["vds", 238, "--prefix", tmp_path, "--trains", ":2"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("using raw data")
    with h5py.File(tmp_path / "scratch/vds/r0238_vds_raw.h5") as file:
        assert file[IMAGE]["data"].shape == (16, 128, 2, 512, 128)
        assert not file[IMAGE]["data"][3, 100].any()


@pytest.mark.parametrize("ranks", [0, 2])
def test_command_without_a_run(ranks, tmp_path):
    args = ["vds", 7, "--prefix", tmp_path]
    done = run_job(args, ranks)
    assert done.returncode == 2
    assert done.stderr.count(str(tmp_path / "proc" / "r0007")) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert all_files(tmp_path) == []


def test_failure_leaves_the_old_file_alone(mock, tmp_path):
    path = tmp_path / "vds" / "r0050_vds_proc.h5"
    path.mkdir(parents=True)
    (path / "mine").write_text("old")
    done = call_xfelmpi(["vds", 50, "--prefix", mock.options.prefix, "--output", tmp_path])
    assert done.returncode == 2
    assert f"{path}: found a folder of that name" in done.stderr
    assert all_files(tmp_path) == ["vds/r0050_vds_proc.h5/mine"]


def test_help():
    done = call_xfelmpi(["vds", "--help"])
    assert done.returncode == 0
    for option in ("--prefix", "--output", "--data", "--detector", "--trains", "--config"):
        assert option in done.stdout
    assert "--sigma" not in done.stdout
    assert "--no-vds" in call_xfelmpi(["process", "--help"]).stdout


def test_old_file_with_other_frames_is_removed(mock, tmp_path):
    """Row numbers of the events file must never lead into a virtual dataset of other frames."""
    where = ["--prefix", mock.options.prefix, "--output", tmp_path, "--no-report"]
    vds = tmp_path / "vds" / "r0050_vds_proc.h5"
    assert call_xfelmpi([50, *where, "--trains", "0:1"]).returncode in (0, 3)
    assert vds.exists()
    again = call_xfelmpi([50, *where, "--trains", "0:1", "--no-vds"])
    assert again.returncode in (0, 3)
    assert vds.exists(), "it has the same frames"
    other = call_xfelmpi([50, *where, "--no-vds"])
    assert other.returncode in (0, 3)
    assert not vds.exists()
    assert "has other frames and is removed" in other.stderr
