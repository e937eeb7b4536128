"""Damage is a record, not a crash: a good run, one thing damaged at a time, and the whole job.

Every case says what is lost. All other frames must be exactly as the truth of the run has them, in
all output files; what is lost must be flagged (bits of `modules`, or the train left out), named in
the summary and in the events file's `problems`, and end in exit status 3.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from checks import check_events, check_outputs, check_powder, problems
from compare import assert_same_outputs
from damagedrun import NOWHERE, cut, deflated, left_over, linked_run, replace_dataset, without
from expected import Expected
from launch import run_xfelmpi
from mockrun import HALF, tiny_raw_run, tiny_run
from mpi4py import MPI
from runnames import constants_name

from xfelmpi.cli import process
from xfelmpi.core.errors import InputError
from xfelmpi.core.log import start_logging

FIRST = 1_500_000_000
TRAINS, CELLS = tuple(range(FIRST, FIRST + 4)), (1, 2, 5)
N_MODULES = 8
FRAME = (N_MODULES, 512, 128)
FAR = 2**64 - 1
RUN = {"trains": 4, "cells": CELLS, "sequence_length": 2, "pulse_step": 4, "hit_rate": 0.5}
SEEN = {**RUN, "cells": (0, 2, 5), "absent_modules": (0, 1, 2, *range(5, 16))}
"""Of two modules, which are enough for what is said of the gas monitor."""
# nearly every test compares all pixels
RUN = {**HALF, **RUN}
DECIDED = {"decide": "fixed", "fixed_threshold": 1000.0}
OPTIONS = ["--decide", "fixed", "--fixed-threshold", "1000", "--no-report"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good run: four trains of three cells, two files of every module."""
    return tiny_run(tmp_path_factory.mktemp("damage") / "p007927", **RUN)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A good run of the AGIPD-1M, which SPB's lit-frame finder is of."""
    return tiny_run(tmp_path_factory.mktemp("damage") / "p007927", **SEEN)


@pytest.fixture(scope="module")
def good_signal(tmp_path_factory):
    """The same of float signals."""
    return tiny_run(tmp_path_factory.mktemp("damage") / "p007927", dtype="f4", **RUN)


@pytest.fixture(scope="module")
def good_raw(tmp_path_factory):
    """A good raw run and its constants."""
    return tiny_raw_run(tmp_path_factory.mktemp("damage") / "p007927")


@dataclass(frozen=True)
class Loss:
    """What a damage costs.

    Parameters
    ----------
    lost : set of (train position, cell or None, module)
    problems : list of (module, train, words)
        Records that must be there; `module` -1: of no module, `train` 0: of no train.
    excluded : tuple of int
        Positions of trains that are left out.
    options : list
        To start the job with.
    """

    lost: frozenset | set = frozenset()
    problems: tuple | list = ()
    excluded: tuple = ()
    options: tuple | list = ()


def together(losses) -> Loss:
    """Return what several damages cost."""
    losses = list(losses)
    lost = set().union(*(loss.lost for loss in losses))
    return Loss(lost, [p for loss in losses for p in loss.problems])


def job(run, output, *options) -> int:
    """Run the main job in this process."""
    start_logging(0)
    # run → proc or raw → experiment folder
    where = ["--prefix", str(run.folder.parents[1]), "--output", str(output)]
    return process.main(["50", *where, *OPTIONS, *options], MPI.COMM_WORLD)


def check(run, output, loss: Loss, status: int, log: str) -> None:
    """Assert everything that must be true of a job on a damaged run."""
    assert status == 3, log
    check_outputs(output, Expected(left_over(run.good, loss.lost, loss.excluded), **DECIDED))
    named = problems(output)
    for module, train, words in loss.problems:
        assert [p for p in named if p[2:4] == (module, train) and words in p[0]], (words, named)
    summary = log[log.index("\nexcluded ") :]
    assert re.match(rf"\nexcluded +{len(named)}   problem\w*, exit status 3:", summary)
    for what, *_, action in named[:20]:
        assert len(what) < 200, what
        assert f"{what}; {action}" in summary


def module_bytes(module, row, data):
    """Damage the bytes of a chunk: of zeros, for one that was inflated before."""

    def damage(run):
        path = run.path(module)
        info = run.chunk(path, row)
        run.patch(path, info.byte_offset, data(info.size))
        return Loss({(row // 3, CELLS[row % 3], module)}, [(module, TRAINS[row // 3], "inflate")])

    return damage


def stored(n_bytes):
    """Store a correct chunk of another size."""

    def damage(run):
        run.rewrite_chunk(run.path(4), 1, deflated(n_bytes))
        return Loss({(0, CELLS[1], 4)}, [(4, FIRST, "1 frames: chunk does not inflate")])

    return damage


def entry(field, value, words):
    """Put garbage into the index of the chunks: their size or their address."""

    def damage(run):
        path = run.path(4)
        at = run.chunk_entry(path, 4) + {"size": 0, "address": 40}[field]
        run.patch(path, at, value.to_bytes(4 if field == "size" else 8, "little"))
        return Loss({(1, CELLS[1], 4)}, [(4, TRAINS[1], words)])

    return damage


def never_allocated(run):
    with run.opened(7) as (_, _, images):
        data = images["data"]
        packed = [data.id.read_direct_chunk((row, 0, 0))[1] for row in range(6)]
        shape, plist = data.shape, {"chunks": data.chunks, "shuffle": True, "compression": "gzip"}
        dtype = data.dtype
        del images["data"]
        data = images.create_dataset("data", shape, dtype, **plist)
        for row in (0, 1, 2, 4, 5):
            data.id.write_direct_chunk((row, 0, 0), packed[row])
    return Loss({(1, CELLS[0], 7)}, [(7, TRAINS[1], "1 frames: chunk was never written")])


def whole_file(change, words, module=7, sequence=1):
    """Damage a file so that nothing of it can be used: two trains of a module are lost."""

    def damage(run):
        change(run.path(module, sequence))
        first = 2 * sequence
        return Loss(
            {(first, None, module), (first + 1, None, module)},
            [(module, 0, words), (module, TRAINS[first], "module lacks 2 trains")],
        )

    return damage


def missing_file(run):
    run.path(2, 1).unlink()
    return Loss({(2, None, 2), (3, None, 2)}, [(2, TRAINS[2], "module lacks 2 trains")])


def missing_module(run):
    for sequence in (0, 1):
        run.path(2, sequence).unlink()
    lost = {(t, None, 2) for t in range(4)}
    return Loss(lost, [(2, 0, "module has no frames in the whole run")])


def dead_module(run):
    """Every chunk of a module is garbage: it is as good as absent."""
    for sequence in (0, 1):
        path = run.path(2, sequence)
        for row in range(6):
            info = run.chunk(path, row)
            run.patch(path, info.byte_offset, bytes(info.size))
    lost = {(t, None, 2) for t in range(4)}
    return Loss(lost, [(2, 0, "no frame of this module can be read"), (2, FIRST, "3 frames")])


def index_entry(name, position, value, loss):
    """Put another number into the INDEX of a module's images."""

    def damage(run):
        with run.opened(5) as (_, index, _):
            index[name][position] = value
        return loss

    return damage


def image_ids(name, rows, values, loss):
    """Put other ids to the images of a module."""

    def damage(run):
        with run.opened(5) as (_, _, images):
            images[name][rows] = values
        return loss

    return damage


def train_ids(positions, values, loss):
    """Put other train IDs into INDEX and images of a module's first file."""

    def damage(run):
        with run.opened(5) as (trains, _, images):
            ids = trains["trainId"][:]
            ids[positions] = values
            trains["trainId"][:] = ids
            images["trainId"][:] = np.repeat(ids, 3)
        return loss

    return damage


def fewer_images(run):
    with run.opened(6, 1) as (_, _, images):
        for name in ("data", "trainId", "cellId", "pulseId"):
            replace_dataset(images, name, images[name][:4])
    lost = {(3, CELLS[1], 6), (3, CELLS[2], 6)}
    return Loss(lost, [(6, TRAINS[3], "INDEX names rows 3 … 5, but there are 4")])


def fewer_ids(run):
    with run.opened(6, 1) as (_, _, images):
        replace_dataset(images, "cellId", images["cellId"][:5])
    return Loss({(3, CELLS[2], 6)}, [(6, 0, "6 frames but 6 trainId, 5 cellId")])


def decreasing(with_places):
    """Exchange two trains of the INDEX; with or without the places of their frames."""

    def damage(run):
        with run.opened(5) as (trains, index, _):
            for group, name in ((trains, "trainId"), (index, "first"))[: 1 + with_places]:
                group[name][:] = group[name][:][::-1]
        named = [(5, FIRST, "train IDs of INDEX decrease")]
        if with_places:
            return Loss(problems=named)
        another = [(5, t, "3 frames have another trainId") for t in TRAINS[:2]]
        return Loss({(0, None, 5), (1, None, 5)}, [*named, *another])

    return damage


def suspect(choice, modules, loss):
    """Flag the second train of some modules as suspect."""

    def damage(run):
        for module in modules:
            with run.opened(module) as (trains, _, _):
                trains["flag"][1] = 0
        return Loss(options=("--suspect-trains", choice), **loss)

    return damage


def other_data(values, words):
    """Put images of another kind into a module's file."""

    def damage(run):
        with run.opened(6) as (_, _, images):
            replace_dataset(images, "data", values)
        return Loss({(0, None, 6), (1, None, 6)}, [(6, 0, words)])

    return damage


def signal_among_counts(run):
    """Floats in one module, whole numbers in the others: no frame of the virtual dataset."""
    with run.opened(6) as (_, _, images):
        replace_dataset(images, "data", images["data"][:].astype(np.float32))
    return Loss(problems=[(6, 0, "frames are float32, those of most files uint8")])


DAMAGE = {
    "chunk of zeros": module_bytes(4, 1, bytes),
    "chunk of ones": module_bytes(0, 5, lambda n: b"\xff" * n),
    "chunk too small": stored(1000),
    "chunk too large": stored(2 * 512 * 128),
    "chunk empty": stored(0),
    "length 0": entry("size", 0, "does not inflate"),
    "length 1": entry("size", 1, "does not inflate"),
    "length garbage": entry("size", 0xFFFF_FFFF, "impossible size"),
    "address garbage": entry("address", NOWHERE, "cannot be read"),
    "never allocated": never_allocated,
    "empty file": whole_file(lambda path: path.write_bytes(b""), "file cannot be opened"),
    "not HDF5": whole_file(lambda path: path.write_text("moved to tape"), "file cannot be opened"),
    "HDF5 of something else": whole_file(
        lambda path: h5py.File(path, "w").close(), "file cannot be opened"
    ),
    "dangling link": whole_file(
        lambda path: (path.unlink(), path.symlink_to("nowhere.h5")), "file cannot be opened"
    ),
    "missing sequence file": missing_file,
    "missing module": missing_module,
    "module of garbage": dead_module,
    "INDEX beyond the data": fewer_images,
    "fewer ids than images": fewer_ids,
    "INDEX starts nowhere": index_entry(
        "first", 1, NOWHERE, Loss({(1, None, 5)}, [(5, TRAINS[1], "INDEX names rows")])
    ),
    "count takes the next train": index_entry(
        "count", 0, 6, Loss(problems=[(5, FIRST, "3 frames have another trainId")])
    ),
    "count leaves frames out": index_entry(
        "count", 0, 2, Loss({(0, CELLS[2], 5)}, [(5, FIRST, "module lacks 1 of 3 frames")])
    ),
    "ids of images differ": image_ids(
        "trainId", 4, FIRST + 77, Loss({(1, CELLS[1], 5)}, [(5, TRAINS[1], "another trainId")])
    ),
    "train repeated": train_ids(
        1, FIRST, Loss({(1, None, 5)}, [(5, FIRST, "3 frames have ids that were there before")])
    ),
    "cell repeated": image_ids(
        "cellId", 1, CELLS[0], Loss({(0, CELLS[1], 5)}, [(5, FIRST, "1 frames have ids that")])
    ),
    "trains decrease": decreasing(True),
    "ids decrease": decreasing(False),
    "train 0": train_ids(1, 0, Loss({(1, None, 5)}, [(5, 0, "train ID 0 at position 1")])),
    "train 2⁶⁴−1": train_ids(
        1, FAR, Loss({(1, None, 5)}, [(5, FAR, "train ID far outside the run")])
    ),
    "train of another run": train_ids(
        1, FIRST + 2_000_000, Loss({(1, None, 5)}, [(5, FIRST + 2_000_000, "far outside")])
    ),
    "suspect by all, excluded": suspect(
        "exclude",
        range(N_MODULES),
        {"excluded": (1,), "problems": [(-1, TRAINS[1], "flagged suspect (INDEX/flag) by all")]},
    ),
    "suspect by one, excluded": suspect(
        "exclude",
        (3,),
        {"lost": {(1, None, 3)}, "problems": [(3, TRAINS[1], "flagged suspect")]},
    ),
    "suspect by all, included": suspect(
        "include", range(N_MODULES), {"problems": [(-1, TRAINS[1], "flagged suspect")]}
    ),
    "suspect by one, included": suspect(
        "include", (3,), {"problems": [(3, TRAINS[1], "flagged suspect")]}
    ),
    "images turned": other_data(np.zeros((6, 128, 512), np.uint8), "frames are uint8 (6, 128"),
    "images of text": other_data(np.zeros((6, 512, 128), "S1"), "frames are |S1"),
    "signal among counts": signal_among_counts,
    "cell 352": image_ids(
        "cellId", 1, 352, Loss({(0, CELLS[1], 5)}, [(5, FIRST, "cellId 352, expected 0 … 351")])
    ),
    "cell 65535": image_ids(
        "cellId", 1, 65535, Loss({(0, CELLS[1], 5)}, [(5, FIRST, "cellId 65535")])
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(name, good, tmp_path, capfd):
    run = linked_run(good, tmp_path / "p007927")
    loss = DAMAGE[name](run)
    status = job(run, tmp_path / "out", *loss.options)
    check(run, tmp_path / "out", loss, status, capfd.readouterr().out)


CUTS = {
    "1 byte": 1,
    "within the signature": 5,
    "within the superblock": 40,
    "superblock alone": 96,
    "root group": 700,
    "METADATA": 2000,
    "sources": 6000,
    "numbers": 9900,
    "first chunk": 10_100,
    "another chunk": 10_700,
    "INDEX/trainId": 20_400,
    "INDEX/flag": 23_100,
    "INDEX of the images": 33_000,
    "INDEX first": 34_700,
    "INSTRUMENT": 39_700,
    "image group": 43_500,
    "header of the frames": 45_700,
    "tree of the chunks": 46_500,
    "legacy names": 48_800,
    "last byte": -1,
}


def check_cuts(good, folder, capfd, change, positions, words):
    """Assert what becomes of a run with files of different modules, each changed at a position.

    First and second files in turn: trains are of the run if half of its modules have them.
    """
    run = linked_run(good, folder / "p007927")
    loss = together(
        whole_file(lambda path, at=at: change(run, path, at), words, module, 1 - module % 2)(run)
        for module, at in enumerate(positions)
    )
    status = job(run, folder / "out")
    check(run, folder / "out", loss, status, capfd.readouterr().out)


@pytest.mark.parametrize("names", [[*CUTS][i::4] for i in range(4)], ids=", ".join)
def test_file_cut_at_any_point(names, good, tmp_path, capfd):
    """Of a file that is not as long as its superblock says HDF5 reads nothing."""
    positions = [CUTS[name] for name in names]
    check_cuts(
        good, tmp_path, capfd, lambda _, path, at: cut(path, at), positions, "file cannot be opened"
    )


def cut_in_agreement(run, path, at):
    """Cut a file whose superblock then names its new length."""
    cut(path, at)
    run.patch(path, 40, at.to_bytes(8, "little"))


def test_file_cut_with_a_superblock_that_agrees(good, tmp_path, capfd):
    """HDF5 opens it, and finds the end wherever it looks."""
    check_cuts(good, tmp_path, capfd, cut_in_agreement, [10_700, 33_000], "file cannot be")


def test_frames_cut_with_a_superblock_that_agrees(good, tmp_path, capfd):
    """All that tells where the frames are is there, but the frames themselves are not."""
    run = linked_run(good, tmp_path / "p007927")
    for module, at in ((2, 45_700), (3, 46_500)):
        cut_in_agreement(run, run.path(module, 1), at)
    trains, modules = (2, 3), (2, 3)
    loss = Loss(
        {(train, None, module) for train in trains for module in modules},
        [(m, TRAINS[t], "3 frames: bytes cannot be read") for t in trains for m in modules],
    )
    status = job(run, tmp_path / "out")
    check(run, tmp_path / "out", loss, status, capfd.readouterr().out)


TOGETHER = (
    *("chunk of zeros", "chunk of ones", "never allocated", "INDEX beyond the data"),
    *("train 2⁶⁴−1", "suspect by one, excluded", "module of garbage"),
)


def test_much_damage_on_three_ranks(good, tmp_path, capfd):
    run = linked_run(good, tmp_path / "p007927")
    loss = together(DAMAGE[name](run) for name in TOGETHER)
    options = ["--suspect-trains", "exclude"]
    status = job(run, tmp_path / "one", *options)
    check(run, tmp_path / "one", loss, status, capfd.readouterr().out)
    # with its page
    options += ["--prefix", run.folder.parents[1], "--output", tmp_path / "three"]
    done = run_xfelmpi([50, *options, *OPTIONS[:-1]], 3)
    check(run, tmp_path / "three", loss, done.returncode, done.stdout)
    assert_same_outputs(tmp_path / "one", tmp_path / "three")
    assert problems(tmp_path / "one") == problems(tmp_path / "three")
    page = (tmp_path / "three" / "report" / "r0050.html").read_text()
    assert "no frame of this module can be read" in page


def test_trains_of_a_run_nearby(good, tmp_path, capfd):
    """Frames that only one module has: they stand in the table, but nothing is decided of them."""
    run = linked_run(good, tmp_path / "p007927")
    train_ids(1, FIRST + 500, None)(run)
    assert job(run, tmp_path / "out") == 3
    left = Expected(left_over(good, {(1, None, 5)}), **DECIDED)
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as events:
        assert events["modules"][12:].tolist() == [1 << 5] * 3
        assert not (events["is_hit"][12:] | events["is_miss"][12:]).any()
        for name in ("trainId", "cellId", "modules"):
            np.testing.assert_array_equal(events[name][:12], left.column(name))
        np.testing.assert_array_equal(events["litpixels"][:12], left.sums["lit"])
        np.testing.assert_array_equal(events["is_hit"][:12], left.is_hit)
    named = {(p[2], p[3]) for p in problems(tmp_path / "out")}
    # nobody else says which pulses these frames are of: their energy stays unknown
    assert named == {(5, TRAINS[1]), (5, FIRST + 500), (-1, FIRST + 500)}
    assert "module lacks 1 train" in capfd.readouterr().out


def test_thousands_of_damaged_frames_are_told_in_a_few_lines(tmp_path, capfd):
    """One line a train would fill the log and the table."""
    many = tiny_run(
        tmp_path / "good" / "p007927", trains=60, hit_rate=0.0, background=1.0,
        sequence_length=60, **{**HALF, "cells": (1,), "absent_modules": tuple(range(3, 8))},
    )  # fmt: skip
    run = linked_run(many, tmp_path / "p007927")
    path = run.path(1)
    for row in range(1, 60):
        info = run.chunk(path, row)
        run.patch(path, info.byte_offset, bytes(info.size))
    assert job(run, tmp_path / "out", "--no-vds") == 3
    named = [p for p in problems(tmp_path / "out") if p[2] == 1]
    assert len(named) == 21
    trains = f"39 more, trains {many.truth['trainId'][21]} … {many.truth['trainId'][59]}, such as"
    assert [p[0] for p in named if p[0].startswith(trains)]
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as events:
        assert events["modules"][:].tolist() == [0b111] + [0b101] * 59
    assert len(capfd.readouterr().out.splitlines()) < 60


# pixels that are not valid photon counts


def put_pixels(run, row, values):
    """Put values into some pixels of a frame of module 3; returns these pixels of the detector."""
    with run.opened(3) as (_, _, images):
        frame = images["data"][row]
        frame[7, 20 : 20 + len(values)] = values
        images["data"][row] = frame
    bad = np.zeros(FRAME, bool)
    bad[3, 7, 20 : 20 + len(values)] = True
    return bad


def odd_pixels(run):
    """Put NaN, infinities and more than 65535 photons into two frames; returns them by row."""
    values = {0: [np.nan, np.inf, -np.inf], 4: [1e30, -np.nan]}
    return {row: put_pixels(run, row, values) for row, values in values.items()}


def odd_problem(run, train, pixels):
    """Return the record of such pixels in one frame of a train."""
    what = f"1 frames: {pixels} pixels are not valid photon counts (NaN, infinite or above 65535), "
    what += "though no mask calls them bad"
    name = "CORR-R0050-AGIPD03-S00000.h5"
    return what, name, 3, TRAINS[train], "bad pixels of these frames"


def test_nan_and_infinite_pixels(good_signal, tmp_path, capfd):
    """They are bad in this frame, which stays complete, and a mask should have said so."""
    run = linked_run(good_signal, tmp_path / "p007927")
    bad = odd_pixels(run)
    assert job(run, tmp_path / "out") == 3
    check_outputs(tmp_path / "out", Expected(good_signal, bad=bad, **DECIDED))
    named = [odd_problem(run, 0, 3), odd_problem(run, 1, 2)]
    assert sorted(problems(tmp_path / "out")) == sorted(named)
    summary = capfd.readouterr().out
    for what, *_, action in named:
        assert f"{what}; {action}" in summary
    # deciding again reads the hits again, and keeps what was found
    assert job(run, tmp_path / "out", "--from-events", "--sigma", "5") == 3
    assert sorted(problems(tmp_path / "out")) == sorted(named)


def global_mask(run, bad):
    return "--global-mask", str(write_mask(run.folder.parents[1] / "mask.h5", ~bad))


def cell_mask(run, bad):
    pixels = np.repeat(~bad[None], len(CELLS), axis=0)
    return "--cell-mask", str(write_mask(run.folder.parents[1] / "mask.h5", pixels, CELLS))


def own_masks(kind):
    """Make the frames' own masks call these pixels of module 3 bad."""

    def write(run, bad):
        for module in range(N_MODULES):
            for sequence in (0, 1):
                with run.opened(module, sequence) as (_, _, images):
                    masks = images.create_dataset("mask", images["data"].shape, np.uint32)
                    if bad[module].any():
                        masks[:] = bad[module]
        return "--mask", kind

    return write


@pytest.mark.parametrize(
    "mask",
    [global_mask, cell_mask, own_masks("run"), own_masks("run-static"), own_masks("auto")],
    ids=["global", "per cell", "run", "run-static", "auto"],
)
def test_nan_where_masks_call_pixels_bad(mask, good_signal, tmp_path):
    """Corrected data have NaN in every bad pixel: all is well."""
    run = linked_run(good_signal, tmp_path / "p007927")
    bad = odd_pixels(run)
    options = mask(run, bad[0] | bad[4])
    assert job(run, tmp_path / "out", *options) == 0
    assert problems(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_nan_where_the_own_mask_of_a_frame_calls_pixels_bad(kind, good_signal, tmp_path):
    """Although these masks do not count: the correction knew of it."""
    run = linked_run(good_signal, tmp_path / "p007927")
    bad = odd_pixels(run)
    own_masks(kind)(run, np.zeros_like(bad[0]))
    with run.opened(3) as (_, _, images):
        for row in bad:
            images["mask"][row] = 8 * bad[row][3].astype(np.uint32)
    assert job(run, tmp_path / "out", "--mask", kind) == 0
    check_outputs(tmp_path / "out", Expected(good_signal, bad=bad, **DECIDED))
    assert problems(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["run", "none"])
def test_nan_that_the_own_mask_does_not_call_bad(kind, good_signal, tmp_path):
    """Next to pixels that it does."""
    run = linked_run(good_signal, tmp_path / "p007927")
    bad = odd_pixels(run)[0]
    # one of these, and two that are numbers
    own_masks(kind)(run, np.roll(bad, 2, axis=2))
    assert job(run, tmp_path / "out", "--mask", kind) == 3
    named = [odd_problem(run, 0, 2), odd_problem(run, 1, 2)]
    assert sorted(problems(tmp_path / "out")) == sorted(named)


# masks and constants


def write_mask(path, good, cells=None):
    """Write a mask file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("entry_1/good_pixels", data=good, compression="gzip")
        if cells is not None:
            file["entry_1/cellIds"] = cells
    return path


def test_mask_that_lacks_a_cell(good, tmp_path, capfd):
    run = linked_run(good, tmp_path / "p007927")
    pixels = np.random.default_rng(3).random((2, *FRAME)) > 0.1
    mask = write_mask(tmp_path / "cells.h5", pixels, [CELLS[2], CELLS[0]])
    assert job(run, tmp_path / "out", "--cell-mask", str(mask)) == 3
    named = {CELLS[2]: pixels[0], CELLS[0]: pixels[1], CELLS[1]: np.ones(FRAME, bool)}
    check_outputs(tmp_path / "out", Expected(good, good=named, **DECIDED))
    what = f"mask lacks 1 of the run's cells, e.g. cell {CELLS[1]}"
    assert problems(tmp_path / "out") == [(what, "cells.h5", -1, 0, "it does not apply to them")]
    assert f"{what}; it does not apply to them" in capfd.readouterr().out


def broken_chunk(path):
    """A mask that opens, but whose pixels do not inflate."""
    write_mask(path, np.random.default_rng(1).random(FRAME) > 0.5)
    with h5py.File(path) as file:
        info = file["entry_1/good_pixels"].id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset + 20 : info.byte_offset + 60] = bytes(40)
    path.write_bytes(raw)


UNUSABLE = {
    "mask of another shape": (
        "--global-mask",
        lambda path: write_mask(path, np.ones((N_MODULES, 128, 512), "u1")),
        "8, 128, 512",
    ),
    "mask of neither good nor bad": (
        "--global-mask",
        lambda path: write_mask(path, np.full(FRAME, 0.5, "f4")),
        "has the value 0.5",
    ),
    "mask that does not inflate": ("--global-mask", broken_chunk, "expected a mask file"),
    "geometry that does not parse": (
        "--geometry",
        lambda path: path.write_text("clen = 0.7\nnonsense\n"),
        "geometry",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_was_named_and_cannot_be_used(name, good, tmp_path):
    """It was asked for: a job without it would not be what the user wants."""
    option, make, words = UNUSABLE[name]
    path = tmp_path / "wrong_file"
    make(path)
    run = linked_run(good, tmp_path / "p007927")
    with pytest.raises(InputError, match=f"wrong_file.*{words}") as error:
        job(run, tmp_path / "out", option, str(path))
    assert error.value.exit_status == 2
    assert not (tmp_path / "out" / "events").exists()


def raw_expected(good_raw, **lacking):
    """Return the answer of the raw run with pixels that lack constants, by module or cell."""
    good = {c: good_raw.truth["bad_kind"][:, c] == 0 for c in good_raw.options.cells}
    if "module" in lacking:
        for pixels in good.values():
            pixels[lacking["module"]] = False
    else:
        good[lacking["cell"]][lacking["of_module"]] = False
    return Expected(good_raw, good=good, **DECIDED)


def constants_of(run, module):
    """Return the file of a module's constants, safe to damage."""
    return run.own(run.folder.parents[1] / "scratch/det/constants" / constants_name(module))


RAW = ("--data", "raw", "--adu-per-photon", "60")


def test_module_without_constants(good_raw, tmp_path, capfd):
    run = linked_run(good_raw, tmp_path / "p007927")
    constants_of(run, 4).unlink()
    assert job(run, tmp_path / "out", *RAW) == 3
    check_outputs(tmp_path / "out", raw_expected(good_raw, module=4))
    what = "no calibration constants for this module"
    assert [p[:3] for p in problems(tmp_path / "out")] == [(what, constants_name(4), 4)]
    assert what in capfd.readouterr().out


def test_cell_without_constants(good_raw, tmp_path, capfd):
    """Those of one module end before the run's last cell."""
    run = linked_run(good_raw, tmp_path / "p007927")
    last = good_raw.options.cells[-1]
    with h5py.File(constants_of(run, 4), "r+") as file:
        for name in list(file):
            replace_dataset(file, name, file[name][:, :last])
    assert job(run, tmp_path / "out", *RAW) == 3
    check_outputs(tmp_path / "out", raw_expected(good_raw, cell=last, of_module=4))
    what = f"calibration constants have {last} cells, the run uses cell {last}"
    assert [p[:3] for p in problems(tmp_path / "out")] == [(what, constants_name(4), 4)]
    assert what in capfd.readouterr().out


CONSTANTS = {
    "another shape": (lambda values: np.zeros((3, 128, 512, 4), "i2"), "has shape"),
    "another dtype": (lambda values: values.astype("S3"), "expected kind"),
    "another number of cells": (lambda values: values[:, :1], "differ in their number of cells"),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_cannot_be_used(name, good_raw, tmp_path):
    change, words = CONSTANTS[name]
    run = linked_run(good_raw, tmp_path / "p007927")
    with h5py.File(constants_of(run, 4), "r+") as file:
        replace_dataset(file, "AnalogOffset", change(file["AnalogOffset"][:]))
    with pytest.raises(InputError, match=f"{constants_name(4)}.*{words}"):
        job(run, tmp_path / "out", *RAW)


# the machine's data: what the run lacks is NaN and a warning; of pulse energies, a problem too


def gas_monitor(run, sequence=0):
    """Return the file of the gas monitor, safe to damage."""
    return run.own(run.folder.parents[1] / "raw" / "r0050" / f"RAW-R0050-DA01-S{sequence:05d}.h5")


LIT_FRAMES = "INSTRUMENT/SPB_IRU_AGIPD1M1/REDU/LITFRM:output"
ENERGIES = "INSTRUMENT/SPB_XTD9_XGM/DOOCS/MAIN:output/data/intensityTD"


def no_monitor(run):
    for sequence in (0, 1):
        gas_monitor(run, sequence).unlink()
    return np.arange(12), {"wavelength": np.full(12, np.nan)}


def monitor_lacks_trains(run, change=Path.unlink):
    change(gas_monitor(run, 1))
    return np.arange(6, 12), {"wavelength": np.r_[run.good.truth["wavelength"][:6], [np.nan] * 6]}


def monitor_of_garbage(run):
    return monitor_lacks_trains(run, lambda path: cut(path, 5000))


def monitor_with_nan(run):
    with h5py.File(gas_monitor(run), "r+") as file:
        values = file[ENERGIES][:]
        values[1, :] = np.nan
        file[ENERGIES][:] = values
        del file[LIT_FRAMES]
    with h5py.File(gas_monitor(run, 1), "r+") as file:
        del file[LIT_FRAMES]
    return np.arange(3, 6), {}


def monitor_shorter(run):
    """Slots for the first cells only."""
    for sequence in (0, 1):
        with h5py.File(gas_monitor(run, sequence), "r+") as file:
            group, name = file[ENERGIES].parent, "intensityTD"
            replace_dataset(group, name, group[name][:, :3])
            del file[LIT_FRAMES]
    return np.arange(2, 12, 3), {}


MONITORS = (no_monitor, monitor_lacks_trains, monitor_of_garbage, monitor_with_nan, monitor_shorter)


@pytest.mark.parametrize("damage", MONITORS, ids=lambda damage: damage.__name__)
def test_gas_monitor(damage, seen, tmp_path, capfd):
    run = linked_run(seen, tmp_path / "p007927")
    unknown, columns = damage(run)
    energy = seen.truth["pulse_energy"].copy()
    energy[unknown] = np.nan
    left = Expected(without(seen, pulse_energy=energy, **columns), **DECIDED)
    what, file = f"pulse energy unknown for {len(unknown)} of 12 frames", ""
    if damage is monitor_of_garbage:
        what, file = f"{what}, and this file cannot be read", "RAW-R0050-DA01-S00001.h5"
    train = 0 if len(unknown) == 12 else seen.truth["trainId"][unknown[0]]
    named = [(what, file, -1, train, "pulse energy is NaN there")]
    absent = [(module, 0) for module in SEEN["absent_modules"]]
    # the second job has them from the first one
    for _ in range(2):
        assert job(run, tmp_path / "out") == 3
        found = problems(tmp_path / "out")
        assert [p for p in found if p[2] == -1] == named
        assert [p[2:4] for p in found if p[2] != -1] == absent
        text = capfd.readouterr()
        assert text.err.count("WARNING: pulse energy unknown") == 1
        assert f"{what}; pulse energy is NaN there" in text.out
        is_miss = check_events(tmp_path / "out/events/r0050_events.h5", left)["is_miss"]
        check_powder(tmp_path / "out/powder/r0050_powder.h5", left, is_miss)


def test_wavelength_and_added_values_are_only_warnings(good, tmp_path, capfd):
    run = linked_run(good, tmp_path / "p007927")
    for sequence in (0, 1):
        with h5py.File(gas_monitor(run, sequence), "r+") as file:
            del file["CONTROL/SPB_XTD9_XGM/DOOCS/MAIN/pulseEnergy/wavelengthUsed"]
    assert job(run, tmp_path / "out", "--add", "flow=NO/SUCH/SOURCE/key") == 0
    assert "WARNING: wavelength unknown" in capfd.readouterr().err
    assert problems(tmp_path / "out") == []
