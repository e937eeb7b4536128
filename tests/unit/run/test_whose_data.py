"""Whose data these are: run, proposal, pulses and cells by what most files say; what is missing."""

import shutil
from contextlib import contextmanager
from dataclasses import replace as changed
from functools import partial

import h5py
import hdf5plugin
import numpy as np
import pytest
from damagedrun import replace_dataset
from mockrun import HALF, tiny_run
from runnames import file_name
from runnames import images_of as images_of_detector
from runnames import source_of as source_of_detector

from xfelmpi.core.errors import InputError
from xfelmpi.core.log import shortened
from xfelmpi.core.paths import Experiment
from xfelmpi.io.output_file import make_folder
from xfelmpi.run.data_choice import choose_data
from xfelmpi.run.find_run import _other_proposal
from xfelmpi.run.index.completeness import missing_parts, unfinished_correction
from xfelmpi.run.index.run_index import index_run
from xfelmpi.run.index.settle_ids import UNKNOWN_PULSE
from xfelmpi.run.machine.control_data import opened
from xfelmpi.run.machine.machine_data import read_machine_data
from xfelmpi.run.machine.train_table import read_table

FIRST = 1_500_000_000
CELLS, STEP = (0, 2, 5, 6), 4
N = 8 * len(CELLS)
DETECTOR = HALF["detector"]
"""With half of the modules: most tests here open all files."""

source_of = partial(source_of_detector, detector=DETECTOR)
images_of = partial(images_of_detector, detector=DETECTOR)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Eight trains in four files of every module."""
    folder = tmp_path_factory.mktemp("valid") / "p007927"
    files = {"detector": DETECTOR, "sequence_length": 2}
    return tiny_run(folder, trains=8, cells=CELLS, pulse_step=STEP, hit_rate=0.0, **files)


@pytest.fixture
def experiment(valid, tmp_path):
    prefix = tmp_path / "p007927"
    for kind in ("raw", "proc"):
        shutil.copytree(valid.options.prefix / kind, prefix / kind)
    return Experiment(prefix, prefix / "scratch", 50)


@pytest.fixture
def run(experiment):
    return experiment.run_folder("proc")


@contextmanager
def opened_images(run, module, sequence=0):
    with h5py.File(run / file_name(module, sequence), "r+") as file:
        yield file[images_of(module)]


def told(index):
    return [(p.module, p.file, p.what, p.action) for p in index.problems]


def energies(experiment, index):
    table = index.frames
    return read_machine_data(experiment, table.train_id, table.pulse_id, (), index.detector)


# ---------------------------------------------------------------- run and proposal


@pytest.mark.slow
def test_whole_folder_of_another_run(run):
    for path in run.iterdir():
        with h5py.File(path, "r+") as file:
            replace_dataset(file, "METADATA/runNumber", np.array([51], np.uint32))
    with pytest.raises(InputError, match=r"its 32 detector files are of run 51 .*expected run 50"):
        index_run(run, "proc")


@pytest.mark.slow
def test_names_count_where_files_say_nothing(run):
    for path in list(run.iterdir()):
        with h5py.File(path, "r+") as file:
            del file["METADATA/runNumber"], file["METADATA/proposalNumber"]
    assert index_run(run, "proc").problems == ()
    assert index_run(run, "proc").proposal == 0
    for path in list(run.iterdir()):
        path.rename(path.with_name(path.name.replace("R0050", "R0051")))
    with pytest.raises(InputError, match="are of run 51"):
        index_run(run, "proc")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "number", "words"),
    [
        ("runNumber", 51, "file is of run 51, expected run 50"),
        ("proposalNumber", 8316, "file is of proposal p008316, most others of p007927"),
    ],
)
def test_one_foreign_file_is_left_out(run, key, number, words):
    with h5py.File(run / file_name(3, 1), "r+") as file:
        replace_dataset(file, f"METADATA/{key}", np.array([number], np.uint32))
    index = index_run(run, "proc")
    assert (3, file_name(3, 1), words, "file left out") in told(index)
    lacks = index.frames.file[:, 3] < 0
    np.testing.assert_array_equal(lacks, np.isin(index.frames.train_id, [FIRST + 2, FIRST + 3]))
    assert (np.delete(index.frames.file, 3, axis=1) >= 0).all()
    assert index.proposal == 7927


def test_proposal_that_only_a_few_files_say(run):
    """Whose data the others are is not known: nobody's name is put on them."""
    for path in run.iterdir():
        with h5py.File(path, "r+") as file:
            say = 8316 if path.name in (file_name(3), file_name(3, 1)) else 0
            replace_dataset(file, "METADATA/proposalNumber", np.array([say], np.uint32))
    index = index_run(run, "proc")
    what = "2 of 32 detector files are of proposal p008316, most others of none"
    assert told(index) == [(3, file_name(3), what, "used")]
    assert index.proposal == 0
    assert (index.frames.file >= 0).all()


@pytest.mark.parametrize(
    ("gone", "said"),
    [([0], "sequence 0"), ([1, 2], "sequences 1, 2"), ([3], None)],
)
def test_sequences_that_no_module_has(experiment, gone, said):
    for kind in ("raw", "proc"):
        for number in gone:
            for path in experiment.run_folder(kind).glob(f"*AGIPD*-S{number:05d}.h5"):
                path.unlink()
    index = index_run(experiment.run_folder("proc"), "proc")
    what = f"no module has a file of {said}; the last one is 3"
    expected = [(what, "the others are used")] if said else []
    found = missing_parts(experiment, "proc", index)
    assert [(p.what, p.action) for p in found] == expected


def test_file_with_another_runs_name_is_used_and_named(run):
    (run / file_name(3)).rename(run / file_name(3, run=49))
    index = index_run(run, "proc")
    what = "file is of run 50 (METADATA/runNumber), but named R0049"
    assert told(index) == [(3, file_name(3, run=49), what, "used")]
    assert (index.frames.file >= 0).all()


def test_files_with_each_others_names(run):
    """A file's module is that of its source: names that somebody swapped change nothing."""
    right = index_run(run, "proc")
    names = {file_name(1): file_name(2), file_name(2): file_name(1)}
    for name in names:
        (run / name).rename(run / f"{name}.moved")
    for name, other in names.items():
        (run / f"{name}.moved").rename(run / other)
    found = index_run(run, "proc")
    assert told(found) == told(right) == []
    for module in range(found.frames.n_modules):
        of_frames = [
            [index.files[number].path.rpartition("/")[2] for number in index.frames.file[:, module]]
            for index in (right, found)
        ]
        assert [names.get(name, name) for name in of_frames[0]] == of_frames[1]


def test_beamline_file_of_another_run(experiment):
    index = index_run(experiment.run_folder("proc"), "proc")
    right = energies(experiment, index)
    paths = sorted(experiment.run_folder("raw").glob("*DA01*"))
    with h5py.File(paths[1], "r+") as file:
        replace_dataset(file, "METADATA/runNumber", np.array([51], np.uint32))
    found = energies(experiment, index)
    assert any(f"{paths[1].name} (file is of run 51, expected run 50)" in w for w in found.warnings)
    lost = np.isin(index.frames.train_id, [FIRST + 2, FIRST + 3])
    np.testing.assert_array_equal(np.isnan(found.pulse_energy), lost)
    np.testing.assert_array_equal(found.pulse_energy[~lost], right.pulse_energy[~lost])


def test_beamline_file_of_another_proposal(experiment):
    """As one of another run: its values are not taken for those of this run."""
    index = index_run(experiment.run_folder("proc"), "proc")
    assert index.proposal == 7927
    path = sorted(experiment.run_folder("raw").glob("*DA01*"))[1]
    with h5py.File(path, "r+") as file:
        replace_dataset(file, "METADATA/proposalNumber", np.array([1234], np.uint32))
    ids = index.frames.train_id, index.frames.pulse_id
    found = read_machine_data(experiment, *ids, (), index.detector, proposal=index.proposal)
    said = f"{path.name} (file is of proposal p001234, expected p007927)"
    assert any(said in warning for warning in found.warnings)
    lost = np.isin(index.frames.train_id, [FIRST + 2, FIRST + 3])
    np.testing.assert_array_equal(np.isnan(found.pulse_energy), lost)


def test_all_files_of_another_proposal_than_the_folder(experiment):
    index = index_run(experiment.run_folder("proc"), "proc")
    assert _other_proposal(experiment.of_proposal(7927), index) == ()
    (said,) = _other_proposal(experiment, changed(index, proposal=1234))
    assert said.startswith("the files are of proposal p001234 (METADATA/proposalNumber), their f")


def test_proposal_behind_links(tmp_path):
    real = tmp_path / "p007927" / "proc" / "r0050"
    real.mkdir(parents=True)
    (tmp_path / "mine").symlink_to(tmp_path / "p007927")
    assert Experiment(tmp_path / "mine", tmp_path, 50).proposal == "p007927"
    (tmp_path / "p000001" / "proc").mkdir(parents=True)
    (tmp_path / "p000001" / "proc" / "r0050").symlink_to(real)
    linked = Experiment(tmp_path / "p000001", tmp_path, 50)
    assert linked.proposal == "p007927"
    assert changed(linked, known_proposal=8316).proposal == "p008316"
    assert Experiment(tmp_path / "none", tmp_path, 50).proposal == "p000000"


# ---------------------------------------------------------------- ids by the majority


@pytest.mark.slow
@pytest.mark.parametrize("module", [0, 3, 7])
def test_one_module_with_wrong_pulses(experiment, run, module):
    right = energies(experiment, index_run(run, "proc"))
    for sequence in range(4):
        with opened_images(run, module, sequence) as images:
            images["pulseId"][:] = images["pulseId"][:] + STEP
    index = index_run(run, "proc")
    what = f"pulseId of {N} frames in 8 trains differs from that of most modules"
    assert told(index) == [(module, "", what, "that of most modules used")]
    np.testing.assert_array_equal(index.frames.pulse_id, index.frames.cell_id * STEP)
    found = energies(experiment, index)
    np.testing.assert_array_equal(found.pulse_energy, right.pulse_energy)
    assert np.isfinite(found.pulse_energy).all()


@pytest.mark.slow
def test_two_modules_that_contradict_each_other(experiment, run):
    right = energies(experiment, index_run(run, "proc")).pulse_energy
    for path in list(run.iterdir()):
        if not any(f"AGIPD{m:02d}" in path.name for m in (4, 6)):
            path.unlink()
    with opened_images(run, 4) as images:
        images["pulseId"][1] = 20
    index = index_run(run, "proc")
    unknown = np.flatnonzero(index.frames.pulse_id == UNKNOWN_PULSE)
    assert unknown.tolist() == [1]
    assert (-1, "", "pulseId of 1 frames is not settled by a majority of modules",
            "pulseId unknown, pulse energy NaN there") in told(index)  # fmt: skip
    found = energies(experiment, index).pulse_energy
    assert np.flatnonzero(np.isnan(found)).tolist() == [1]
    np.testing.assert_array_equal(np.delete(found, 1), np.delete(right, 1))


@pytest.mark.parametrize("pulses", [[0, 0, 0, 0], [24, 8, 24, 20], [0, 8, 8, 24]])
def test_frames_that_share_a_pulse(experiment, run, pulses):
    """In all modules alike, as where pulseId is not filled in: no frame gets another's energy."""
    right = energies(experiment, index_run(run, "proc")).pulse_energy
    for path in run.glob("*S00001.h5"):
        with opened_images(run, int(path.name[16:18]), 1) as images:
            images["pulseId"][:4] = pulses
    index = index_run(run, "proc")
    here = index.frames.train_id == FIRST + 2
    shared = np.array([pulses.count(pulse) > 1 for pulse in pulses])
    np.testing.assert_array_equal(index.frames.pulse_id[here] == UNKNOWN_PULSE, shared)
    what = f"pulseId of {shared.sum()} frames in 1 trains is that of another frame of the train"
    assert told(index) == [(-1, "", what, "pulseId unknown, pulse energy NaN there")]
    found = energies(experiment, index).pulse_energy
    assert np.isnan(found[here][shared]).all()
    np.testing.assert_array_equal(found[~here], right[~here])


def test_frames_that_only_a_module_with_wrong_pulses_has(experiment, run):
    """Nobody else says what their pulses are."""
    with opened_images(run, 2, 0) as images:
        images["pulseId"][:] = images["pulseId"][:] + STEP
    for path in run.glob("*S00003.h5"):
        if "AGIPD02" not in path.name:
            path.unlink()
    index = index_run(run, "proc")
    last = index.frames.train_id >= FIRST + 6
    np.testing.assert_array_equal(index.frames.pulse_id == UNKNOWN_PULSE, last)
    np.testing.assert_array_equal(np.isnan(energies(experiment, index).pulse_energy), last)
    # one line for the module that goes on, not fifteen for those that agree
    assert {p.module for p in index.problems} == {2, -1}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [[2, 5, 6, 7], [2, 0, 5, 6], [100, 102, 105, 106]])
def test_one_module_with_wrong_cells(run, wrong):
    """Moved by one, swapped, or all others: no frame is put together of two pulses."""
    with opened_images(run, 5) as images:
        images["cellId"][:4] = wrong
    index = index_run(run, "proc")
    here = index.frames.train_id == FIRST
    assert index.frames.cell_id[here].tolist() == list(CELLS)
    np.testing.assert_array_equal(index.frames.pulse_id, index.frames.cell_id * STEP)
    stays = [cell == told_ for cell, told_ in zip(CELLS, wrong, strict=True)]
    np.testing.assert_array_equal(index.frames.file[here, 5] >= 0, stays)
    assert (index.frames.file[~here] >= 0).all()
    what = f"cellId of {4 - sum(stays)} frames in 1 trains differs from that of most modules"
    assert (5, "", what, "frames left out there") in told(index)
    assert {p.module for p in index.problems} == {5}


def test_one_module_with_more_trains_is_the_one_named(run):
    for path in run.glob("*S00003.h5"):
        if "AGIPD00" not in path.name:
            path.unlink()
    index = index_run(run, "proc")
    what = "module has 8 frames in 2 trains that most other modules lack"
    assert told(index) == [(0, "", what, "frames incomplete: neither hits nor misses")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trainId", "cellId", "pulseId"])
def test_ids_of_two_columns_are_refused(run, name):
    with opened_images(run, 6) as images:
        replace_dataset(images, name, np.stack([images[name][:]] * 2, axis=1))
    index = index_run(run, "proc")
    (problem,) = (p for p in index.problems if p.file)
    assert (problem.file, problem.action) == (file_name(6), "file left out")
    assert "has shape (8, 2), expected one number in each of N rows" in problem.what
    assert (np.flatnonzero(index.frames.file[:, 6] < 0) == np.arange(8)).all()


LINKED = (
    *(f"INSTRUMENT/{{}}/image/{name}" for name in ("data", "trainId", "cellId", "pulseId")),
    *(f"INDEX/{{}}/image/{name}" for name in ("first", "count")),
    "INSTRUMENT/{}/image",
    "INSTRUMENT/{}",
    "INDEX/{}/image",
    "INDEX/{}",
)
SOURCE, OTHER, LEGACY = (
    f"{DETECTOR}/{name}" for name in ("CORR/6CH0:output", "CORR/7CH0:output", "DET/6CH0:xtdf")
)


def link(run, name, source, how):
    """Have one name of module 6 be a link to what another source has."""
    own, target = name.format(SOURCE), name.format(source)
    with h5py.File(run / file_name(6), "r+") as file:
        # files have such links already, of the whole source
        del file[f"INSTRUMENT/{LEGACY}"], file[f"INDEX/{LEGACY}"]
        if how == "soft":
            file.move(own, target)
            file[own] = h5py.SoftLink(f"/{target}")
        elif source == LEGACY:
            file.move(own, target)
            file[own] = h5py.ExternalLink(file_name(6), target)
        else:
            del file[own]
            file[own] = h5py.ExternalLink(file_name(7), target)
    return target


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("how", ["soft", "external"])
def test_links_to_what_another_module_has(run, name, how):
    target = link(run, name, OTHER, how)
    index = index_run(run, "proc")
    (problem,) = (p for p in index.problems if p.file)
    assert (problem.file, problem.action) == (file_name(6), "file left out")
    home = file_name(6 if how == "soft" else 7)
    assert f" is that of {home}, /{target}" in problem.what
    assert problem.what.endswith(": of another module")
    assert (np.flatnonzero(index.frames.file[:, 6] < 0) == np.arange(8)).all()


def test_frames_that_two_modules_have(run):
    """A hard link: nobody knows whose they are."""
    data = "INSTRUMENT/{}/image/data"
    with h5py.File(run / file_name(6), "r+") as file:
        file[data.format(OTHER)] = file[data.format(SOURCE)]
    index = index_run(run, "proc")
    (problem,) = (p for p in index.problems if p.file)
    assert (problem.file, problem.action) == (file_name(6), "file left out")
    assert f"its frames are those of {OTHER}, too: of another module" in problem.what


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("how", ["soft", "external"])
def test_links_to_old_names_of_the_module(run, name, how):
    link(run, name, LEGACY, how)
    index = index_run(run, "proc")
    assert index.problems == ()
    assert (index.frames.file >= 0).all()


# ---------------------------------------------------------------- what is missing


def unfinished(experiment):
    index = index_run(experiment.run_folder("proc"), "proc")
    return [(p.file, p.train, p.what) for p in unfinished_correction(experiment, index)]


@pytest.mark.slow
def test_correction_that_lacks_a_sequence_of_beamline_data(experiment, run):
    assert unfinished(experiment) == []
    for path in run.glob("*S00003.h5"):
        path.unlink()
    what = "proc has 6 of 8 trains: is correction finished?"
    assert [(t, w) for _, t, w in unfinished(experiment)] == [(FIRST + 6, what)]
    for path in run.glob("*S00001.h5"):
        path.unlink()
    what = "proc has 4 of 8 trains: is correction finished?"
    assert [(t, w) for _, t, w in unfinished(experiment)] == [(FIRST + 2, what)]


@pytest.mark.slow
@pytest.mark.slow
def test_correction_that_lists_trains_without_frames(experiment, run):
    """At the end of the run: at its begin the detector may not have been triggered yet."""

    def empty(sequence):
        for module in range(8):
            with h5py.File(run / file_name(module, sequence), "r+") as file:
                index = file[f"INDEX/{source_of(module)}/image"]
                replace_dataset(index, "count", np.zeros(2, np.uint64))

    empty(0)
    assert unfinished(experiment) == []
    empty(3)
    ((_, train, what),) = unfinished(experiment)
    assert (train, what) == (FIRST + 6, "proc has 6 of 8 trains: is correction finished?")


@pytest.mark.slow
def test_correction_that_lacks_a_train_of_the_raw_run(tmp_path):
    options = {"trains": 8, "cells": CELLS[:2], "sequence_length": 2, "hit_rate": 0.0}
    options["absent_modules"] = tuple(range(2, 16))
    proc = tiny_run(tmp_path / "p007927", **options)
    raw = tiny_run(tmp_path / "p000001", **options, kind="raw")
    experiment = proc.paths.experiment
    for path in experiment.run_folder("raw").iterdir():
        path.unlink()
    for path in raw.paths.raw.glob("*AGIPD*"):
        shutil.copy(path, experiment.run_folder("raw"))
    assert unfinished(experiment) == []
    for path in proc.paths.proc.glob("*S00003.h5"):
        path.unlink()
    what = "proc has 6 of 8 trains: is correction finished?"
    assert unfinished(experiment) == [("RAW-R0050-AGIPD00-S00003.h5", FIRST + 6, what)]


def test_file_that_is_open_for_writing_elsewhere(run):
    path = run / file_name(7, 2)
    path.unlink()
    with h5py.File(path, "w", libver="latest") as writer:
        writer["x"] = 1
        writer.swmr_mode = True
        copied = path.read_bytes()
    path.write_bytes(copied)
    index = index_run(run, "proc")
    (problem,) = (p for p in index.problems if p.file)
    assert (problem.file, problem.module, problem.action) == (path.name, 7, "file left out")
    assert "it is open for writing elsewhere" in problem.what


# ---------------------------------------------------------------- what is there instead


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data", r"AGIPD00-S00000.h5: file cannot be indexed: .*data.* \(and 31 files more alike"),
        ("pulseId", r"pulseId.*and 31 files more alike"),
    ],
)
def test_no_usable_frame_says_why(run, name, words):
    for path in run.iterdir():
        module = int(path.name.partition("AGIPD")[2][:2])
        with h5py.File(path, "r+") as file:
            del file[f"{images_of(module)}/{name}"]
    with pytest.raises(InputError, match=f"no usable frame of {DETECTOR} in 32 files: .*{words}"):
        index_run(run, "proc")


def test_corrected_files_in_the_raw_folder(experiment, run):
    for path in list(run.iterdir()):
        path.rename(experiment.run_folder("raw") / path.name)
    with pytest.raises(InputError, match=r"its detector files are corrected ones .*proc/r0050"):
        choose_data(experiment, "auto")
    with pytest.raises(InputError, match=r"32 of them CORR files of detector m.*RAW-R"):
        index_run(experiment.run_folder("raw"), "raw")


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_named_data_that_are_elsewhere(experiment, run, folder_is_there):
    """``--data proc`` says where the files are, whether or not there is a folder."""
    raw = experiment.run_folder("raw")
    for path in list(run.iterdir()):
        path.rename(raw / path.name)
    if not folder_is_there:
        run.rmdir()
    with pytest.raises(InputError) as told:
        choose_data(experiment, "proc")
    assert f"{raw}: its detector files are corrected ones (CORR-R…); expected" in str(told.value)
    assert ("ln -s" in str(told.value)) == (not folder_is_there)
    for path in list(raw.glob("CORR*")):
        path.rename(path.with_name(path.name.replace("CORR", "RAW")))
    with pytest.raises(InputError, match=r"there are raw data in .*raw/r0050; --data raw or"):
        choose_data(experiment, "proc")


def test_experiment_folder_that_is_not_there(tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(
        InputError, match=r"gone: no such run, since this folder is not there; .*EXP_P"
    ):
        choose_data(Experiment(gone, tmp_path, 50), "auto")
    gone.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not there, it is a link to .*nowhere"):
        choose_data(Experiment(gone, tmp_path, 50), "auto")


@pytest.mark.parametrize("named", ["raw", "proc", "proc/r0050"])
def test_folder_in_the_experiment_folder(tmp_path, named):
    (tmp_path / "raw").mkdir()
    (tmp_path / "proc/r0050").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"run 50; did you mean --prefix {tmp_path}\?"):
        choose_data(Experiment(tmp_path / named, tmp_path / "out", 50), "auto")
    with pytest.raises(InputError, match=r"expected the folder of run 51$"):
        choose_data(Experiment(tmp_path / named, tmp_path / "out", 51), "auto")


# ---------------------------------------------------------------- INDEX of any age, sizes


def make_oldest(path):
    """Give a file the form of 2017: first, last and status, no numbers of run and format."""
    with h5py.File(path, "r+") as file:
        groups = []
        file["INDEX"].visititems(
            lambda _, item: groups.append(item) if "count" in getattr(item, "keys", dict)() else 0
        )
        for group in groups:
            first, count = group["first"][:], group["count"][:]
            del group["count"]
            group["last"] = (first + np.maximum(count, 1) - 1).astype("u8")
            group["status"] = (count > 0).astype("u8")
        for name in ("flag", "timestamp", "origin"):
            file["INDEX"].pop(name, None)
        meta = file["METADATA"]
        for name in list(meta["dataSources"]):
            meta.move(f"dataSources/{name}", name)
        for name in set(meta) - {"dataSourceId", "deviceId", "root"}:
            del meta[name]


@pytest.mark.slow
def test_oldest_index_of_detector_and_beamline(experiment, run):
    new = index_run(run, "proc")
    right = energies(experiment, new)
    for path in [*run.iterdir(), *experiment.run_folder("raw").iterdir()]:
        make_oldest(path)
    index = index_run(run, "proc")
    assert index.problems == ()
    np.testing.assert_array_equal(index.frames.row, new.frames.row)
    found = energies(experiment, index)
    np.testing.assert_array_equal(found.pulse_energy, right.pulse_energy)
    np.testing.assert_array_equal(found.wavelength, right.wavelength)
    assert np.isfinite(found.pulse_energy).all()
    assert found.warnings == ()


LARGE = ("INDEX/flag", "INDEX/trainId", "METADATA/dataSources/dataSourceId")


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_header_that_asks_for_memory(run, name):
    with h5py.File(run / file_name(3), "r+") as file:
        kind = file[name].dtype
        del file[name]
        file.create_dataset(name, shape=(200_000_000,), dtype=kind, chunks=(1000,))
    (problem,) = (p for p in index_run(run, "proc").problems if p.file)
    assert (problem.file, problem.action) == (file_name(3), "file left out")
    assert "200000000 values" in problem.what


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "cellId", "pulseId", "trainId"])
def test_dataset_without_a_space(run, name):
    with opened_images(run, 3) as images:
        replace_dataset(images, name, h5py.Empty("u1"))
    (problem,) = (p for p in index_run(run, "proc").problems if p.file)
    assert (problem.file, problem.action) == (file_name(3), "file left out")
    assert "has no values (its dataspace is null)" in problem.what


def test_beamline_datasets_without_a_space_or_with_too_much(experiment, run):
    index = index_run(run, "proc")
    (path, *others) = sorted(experiment.run_folder("raw").glob("*DA01*"))
    for other in others:
        other.unlink()
    source = "INSTRUMENT/SPB_XTD9_XGM/DOOCS/MAIN:output/data/intensityTD"
    with h5py.File(path, "r+") as file:
        del file["INSTRUMENT/SPB_IRU_AGIPD1M1/REDU/LITFRM:output"]
    for new in ({"data": h5py.Empty("f4")}, {"shape": (60_000, 1000), "chunks": (100, 1000)}):
        with h5py.File(path, "r+") as file:
            del file[source]
            file.create_dataset(source, **({"dtype": "f4"} if "shape" in new else {}), **new)
        found = energies(experiment, index)
        assert np.isnan(found.pulse_energy).all()
        assert any(path.name in warning for warning in found.warnings)


VIRTUAL = ("INDEX/trainId", "INDEX/flag", "METADATA/runNumber", "METADATA/dataSources/dataSourceId")


@pytest.mark.slow
@pytest.mark.parametrize("there", ["gone.h5", "itself"])
@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_index_whose_source_is_gone(run, name, there):
    """HDF5 gives zeros, or never returns: it takes a file of the same name, which is itself."""
    path = run / file_name(3)
    source = there if there == "gone.h5" else f"/elsewhere/{path.name}"
    with h5py.File(path, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(source, name, shape)
        file.create_virtual_dataset(name, layout)
    (problem,) = (p for p in index_run(run, "proc").problems if p.file)
    assert (problem.file, problem.action) == (file_name(3), "file left out")
    why = "it is not there" if there == "gone.h5" else "it is its own source"
    assert f"{name}: source {source}: {why}" in problem.what


def test_index_packed_by_a_filter_that_nobody_has(run):
    """Its number is said, not only that data cannot be read."""
    with h5py.File(run / file_name(3), "r+") as file:
        trains = file["INDEX/trainId"][:]
        del file["INDEX/trainId"]
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((len(trains),))
        layout.set_filter(333, h5py.h5z.FLAG_OPTIONAL, (1,))
        kind, space = h5py.h5t.py_create(trains.dtype), h5py.h5s.create_simple(trains.shape)
        packed = h5py.h5d.create(file.id, b"INDEX/trainId", kind, space, layout)
        packed.write_direct_chunk((0,), trains.tobytes())
    (problem,) = (p for p in index_run(run, "proc").problems if p.file)
    assert (problem.file, problem.action) == (file_name(3), "file left out")
    assert "INDEX/trainId is packed with HDF5 filter 333" in problem.what


XGM = "INSTRUMENT/SPB_XTD9_XGM/DOOCS/MAIN:output/data/intensityTD"


def spoil(path, how):
    """Replace pulse energies in a file by what HDF5 makes up in part, or cannot read as it is."""
    there = path.parent.parent / "elsewhere.h5"
    there.unlink(missing_ok=True)
    with h5py.File(path, "r+") as file:
        values = file[XGM][:]
        del file[XGM]
        if how == "packed by a plugin":
            file.create_dataset(XGM, data=values, chunks=(1, values.shape[1]), **hdf5plugin.Zstd())
            return
        if how == "second row never written":
            data = file.create_dataset(XGM, values.shape, values.dtype, chunks=(1, values.shape[1]))
            data[0] = values[0]
            return
        with h5py.File(there, "w") as source:
            source["x"] = values[:1] if how == "second source gone" else values
        if how in ("link", "link to nowhere"):
            file[XGM] = h5py.ExternalLink(str(there), "x")
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[0] = h5py.VirtualSource(str(there), "x", values[:1].shape)[0]
            layout[1:] = h5py.VirtualSource("gone.h5", "x", values[1:].shape)
            file.create_virtual_dataset(XGM, layout)
    if how == "link to nowhere":
        there.unlink()


@pytest.mark.parametrize(
    ("how", "lost", "words"),
    [
        ("packed by a plugin", [], ""),
        ("link", [], ""),
        ("link to nowhere", [2, 3], "unable to open external file"),
        ("second row never written", [3], "1 of its 2 rows were never written"),
        ("second source gone", [3], "source gone.h5: it is not there"),
    ],
)
def test_beamline_values_that_hdf5_would_make_up(experiment, how, lost, words):
    """Their trains have no value, never 0; those beside them are right."""
    folder = experiment.run_folder("raw")
    path = sorted(folder.glob("*DA01*"))[1]

    def table(damage):
        index = XGM.removeprefix("INSTRUMENT/").removesuffix("/intensityTD")
        with opened(folder, damage) as files:
            return read_table(files, index, XGM, damage)

    right, damage = table({}), {}
    spoil(path, how)
    found = table(damage)
    keep = ~np.isin(right.trains, [FIRST + n for n in lost])
    np.testing.assert_array_equal(found.trains, right.trains[keep])
    np.testing.assert_array_equal(found.values, right.values[keep])
    assert set(damage) == ({path.name} if words else set())
    assert words in damage.get(path.name, "")


def test_output_folder_that_is_a_link_to_nowhere(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.symlink_to(tmp_path / "gone")
    with pytest.raises(OSError, match=r"scratch is a link to .*gone, which is not there"):
        make_folder(scratch / "lock")
    assert not (tmp_path / "gone").exists()


def test_long_foreign_text_is_not_quoted_whole():
    quoted = shortened("geometry: " + "x" * 8704)
    assert len(quoted) < 1600
    assert quoted.startswith("geometry: xxx")
    assert "(7,214 characters left out)" in quoted
    assert shortened("short") == "short"
