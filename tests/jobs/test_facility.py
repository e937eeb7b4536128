"""The facility's hits and lit pixels, in files that EXtra-redu itself writes."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from damage import frames_of, image_group, module_files
from mockrun import tiny_run
from mpi4py import MPI
from runnames import file_name

from xfelmpi.cli import process, verify
from xfelmpi.core.errors import InputError
from xfelmpi.core.log import start_logging

pytest.importorskip("extra_redu.spi")
pytestmark = pytest.mark.filterwarnings("ignore")

DETECTOR = "SPB_DET_AGIPD1M-1"
MODULES = [3, 4, 8, 15]
RUN = {
    "trains": 4,
    "cells": tuple(range(12)),
    "dark_cells": 1,
    "hit_rate": 0.3,
    "with_mask": True,
    "veto": 0.1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without what the facility finds."""
    return tiny_run(tmp_path_factory.mktemp("facility") / "p007927", **RUN)


def counted(folder):
    """Return EXtra-redu's count of the lit pixels of a run."""
    from extra_redu.fileutils import StackedPulseSource
    from extra_redu.spi import LitPixelCounter
    from extradata import RunDirectory

    with RunDirectory(folder) as data:
        pattern = rf"{DETECTOR}/CORR/(?P<key>\d+)CH0:output"
        source = StackedPulseSource.from_datacollection(data, pattern, "image")
        counter = LitPixelCounter(source)
        counter(source)
    return counter


@pytest.fixture(scope="module")
def redu(run):
    """The same with what EXtra-redu finds, in its own file."""
    return find_hits(run)


def find_hits(run):
    """Let EXtra-redu find hits, and save these in its own file of the run."""
    from extra_redu.fileutils import exdf_save
    from extra_redu.spi import SpiHitfinder

    counter = counted(run.paths.proc)
    finder = SpiHitfinder(MODULES, snr=3.0, min_scores=20, xgm_norm=False)
    finder.find_hits(counter)
    sources = {"LITPX_COUNTER": counter, "SPI_HITFINDER": finder}
    sources = {f"{DETECTOR}/REDU/{name}": found for name, found in sources.items()}
    exdf_save(str(run.paths.proc), "REDU00", 50, sources)
    assert (run.paths.proc / "CORR-R0050-REDU00-S00000.h5").exists()
    return finder


def job(run, output, *options):
    """Process the run in this process; return the columns and attributes of the events."""
    start_logging(0)
    where = ["--prefix", str(run.options.prefix), "--output", str(output)]
    assert process.main(["50", *where, *map(str, options)], MPI.COMM_WORLD) in (0, 3)
    with h5py.File(output / "events" / "r0050_events.h5") as file:
        columns = {name: file[name][()] for name in file if name != "sums"}
        return columns, dict(file.attrs)


def of_frames(events, finder, column):
    """Return what EXtra-redu has for the frames of the events file."""
    place = {pair: i for i, pair in enumerate(zip(finder.trainId, finder.pulseId, strict=True))}
    ids = zip(events["trainId"], events["pulseId"], strict=True)
    return np.array([column[place[pair]] for pair in ids])


def test_hits_of_the_facility(run, redu, tmp_path, capfd):
    events, attributes = job(run, tmp_path, "--hits", "facility", "--with-misses")
    lit = events["n_pulses"] > 0
    for name, column in (("is_hit", redu.hit_mask), ("is_miss", redu.miss_mask)):
        np.testing.assert_array_equal(events[name], of_frames(events, redu, column) & lit)
    assert events["is_hit"].any()
    assert events["is_miss"].any()
    np.testing.assert_array_equal(events["hitscore"], of_frames(events, redu, redu.hitscore))
    thresholds = np.repeat(redu.threshold, redu.count)
    right = np.where(lit, of_frames(events, redu, thresholds), np.nan).astype("f4")
    np.testing.assert_array_equal(events["hit_threshold"], right)
    read = events["is_hit"] | events["is_miss"]
    assert attributes["frames_read"] == "hits and misses"
    assert (events["photons"] > 0)[read].all()
    assert (events["photons"] == 0)[~read].all()
    sources = {s["value"]: s for s in json.loads(attributes["beamline_sources"])}
    assert sources["facility_hits"]["source"] == f"{DETECTOR}/REDU/SPI_HITFINDER:output"
    assert "snr 3" in sources["facility_hits"]["rule"]
    with h5py.File(tmp_path / "powder" / "r0050_powder.h5") as file:
        assert set(file) == {
            f"{n}_{k}" for n in ("powder", "good_frames") for k in ("hits", "misses")
        }
    with h5py.File(tmp_path / "saved_hits" / "r0050_hits.cxi") as file:
        for entry, rows in (("entry_1", events["is_hit"]), ("entry_2", events["is_miss"])):
            np.testing.assert_array_equal(file[entry]["trainId"], events["trainId"][rows])
            photons = file[entry]["instrument_1/detector_1/data"][:].sum(axis=(1, 2, 3))
            np.testing.assert_array_equal(photons, events["photons"][rows])
    assert "hits and misses only" in capfd.readouterr().out
    where = ["--prefix", str(run.options.prefix), "--output", str(tmp_path)]
    assert verify.main(["50", *where, "--all"], MPI.COMM_WORLD) == 0


def test_hits_of_the_facility_in_other_cells(run, redu, tmp_path):
    """What says which frames can be hits counts; what finds hits has no effect, and is named."""
    options = ("--exclude-cells", "0-3", "--first-cell", 5, "--sigma", 9)
    events, attributes = job(run, tmp_path, "--hits", "facility", *options)
    right = of_frames(events, redu, redu.hit_mask) & (events["n_pulses"] > 0)
    assert right[events["cellId"] < 5].any()
    np.testing.assert_array_equal(events["is_hit"], right & (events["cellId"] >= 5))
    assert not events["is_miss"][events["cellId"] < 5].any()
    told = "--sigma 9.0 has no effect with --hits facility"
    assert told in json.loads(attributes["warnings"])


def test_scores_of_the_facility(run, redu, tmp_path):
    """The same hits as from our own counting of the same pixels, without reading them."""
    options = ("--hit-modules", *MODULES, "--decide", "run", "--sigma", 3)
    own, attributes = job(run, tmp_path / "own", *options)
    events, about = job(run, tmp_path / "facility", *options, "--score", "facility")
    for name in ("hitscore", "is_hit", "is_miss", "hit_threshold", "hit_median"):
        np.testing.assert_array_equal(events[name], own[name], name)
    assert events["is_hit"].any()
    assert about["frames_read"] == "hits and misses"
    # the pass compares its hits with the facility's
    counts = json.loads(attributes["facility_hits"])
    theirs = of_frames(own, redu, redu.hit_mask)
    right = (own["is_hit"] & theirs, own["is_hit"] & ~theirs, ~own["is_hit"] & theirs)
    assert list(counts.values()) == [int(which.sum()) for which in right]
    assert list(counts) == ["both", "only ours", "only theirs"]
    page = (tmp_path / "own" / "report" / "r0050.html").read_text()
    assert "only theirs" in page
    assert "SPI_HITFINDER" in page
    assert (tmp_path / "facility" / "report" / "r0050.html").exists()


@pytest.fixture
def moved(run, redu, tmp_path):
    """A copy of the run with what EXtra-redu finds."""
    copy = shutil.copytree(run.options.prefix, tmp_path / "p007927")
    paths = replace(run.paths, proc=copy / "proc" / "r0050")
    return replace(run, options=replace(run.options, prefix=copy), paths=paths)


def make_unreadable(run, modules):
    """Let no frame of some modules inflate."""
    for module in modules:
        for path in module_files(run, module):
            with h5py.File(path, "r+") as file:
                data = frames_of(run, image_group(run, file)).id
                for i in range(data.get_num_chunks()):
                    data.write_direct_chunk(data.get_chunk_info(i).chunk_offset, b"garbage!" * 8)


def test_module_of_which_no_frame_can_be_read(moved, redu, tmp_path, capfd):
    """It is as good as absent, as in a job that reads all frames."""
    make_unreadable(moved, [5])
    own, about_own = job(moved, tmp_path / "own", "--no-report")
    events, about = job(moved, tmp_path / "facility", "--hits", "facility", "--no-report")
    lit = events["n_pulses"] > 0
    np.testing.assert_array_equal(events["is_hit"], of_frames(events, redu, redu.hit_mask) & lit)
    assert events["is_hit"].any()
    np.testing.assert_array_equal(events["modules"], own["modules"])
    assert about["modules_in_run"] == about_own["modules_in_run"] == 0xFFFF & ~(1 << 5)
    assert "module 5: no frame of this module can be read" in capfd.readouterr().out
    where = ["--prefix", str(moved.options.prefix), "--output", str(tmp_path / "facility")]
    assert verify.main(["50", *where, "--all"], MPI.COMM_WORLD) == 0


def test_no_frame_can_be_read(moved, tmp_path):
    """Earlier outputs stay."""
    job(moved, tmp_path / "out", "--hits", "facility", "--no-report")
    before = (tmp_path / "out" / "emc" / "r0050.emc").read_bytes()
    make_unreadable(moved, range(16))
    with pytest.raises(InputError, match=r"no frame of any module can be read .* does not inflate"):
        job(moved, tmp_path / "out", "--hits", "facility", "--no-report")
    assert (tmp_path / "out" / "emc" / "r0050.emc").read_bytes() == before


def test_all_frames_are_hits_or_misses(tmp_path, capfd):
    """The outputs are those of a job that reads hits and misses, and are read back as such."""
    run = tiny_run(tmp_path / "p007927", trains=2, with_mask=True)
    find_hits(run)
    fixed = ("--decide", "fixed", "--fixed-threshold", 1000)
    more = ("--miss-fraction", 1, "--miss-base", "misses")
    events, about = job(run, tmp_path / "out", "--score", "facility", *fixed, *more)
    assert (events["is_hit"] | events["is_miss"]).all()
    assert about["frames_read"] == "hits and misses"
    assert "report could not be made" not in capfd.readouterr().err
    where = ["50", "--prefix", str(run.options.prefix), "--output", str(tmp_path / "out")]
    assert verify.main([*where, "--all"], MPI.COMM_WORLD) == 0
    with pytest.raises(InputError, match="only hits and misses were read"):
        process.main([*where, "--from-events", "--sigma", "3"], MPI.COMM_WORLD)


def test_no_frame_has_to_be_read(moved, tmp_path):
    """Without hits and misses nothing is said of frames that cannot be read."""
    nothing = ("--decide", "fixed", "--fixed-threshold", 1e9, "--miss-fraction", 0, "--no-report")
    events, _ = job(moved, tmp_path / "out", "--score", "facility", *nothing)
    assert not (events["is_hit"] | events["is_miss"]).any()


class LitPixels:
    """What the facility's correction adds to the file of a module, for EXtra-redu's writer."""

    def __init__(self, counter, column: int):
        from extra_redu.fileutils import ChannelData

        keys = {"litPixels": counter.num_lit_px, "unmaskedPixels": counter.num_unmasked_px}
        keys = {name: np.ascontiguousarray(values[:, column]) for name, values in keys.items()}
        keys |= {"trainId": counter.trainId, "pulseId": counter.pulseId}
        self.train_ids = counter.train_ids
        about = counter.train_ids, counter.count, counter.pulseId
        self._channels = {"output.litpx": ChannelData(keys, *about)}


def test_lit_pixels_in_the_files_of_the_modules(run, tmp_path):
    """As the correction leaves them there, and EXtra-redu's hit finder reads them."""
    from extra_redu.fileutils import StackedPulseSource, exdf_save
    from extradata import RunDirectory

    options = ("--hit-modules", *MODULES, "--decide", "run", "--sigma", 3)
    own, _ = job(run, tmp_path / "own", *options)
    shutil.copytree(run.options.prefix, tmp_path / "p007927")
    proc = tmp_path / "p007927" / "proc" / "r0050"
    for path in proc.glob("*REDU*"):
        path.unlink()
    counter = counted(proc)
    for column, module in enumerate(counter.modules):
        source = f"{DETECTOR}/CORR/{module}CH0"
        (tmp_path / str(module)).mkdir()
        exdf_save(str(tmp_path / str(module)), "LITPX00", 50, {source: LitPixels(counter, column)})
        (made,) = (tmp_path / str(module)).iterdir()
        name = file_name(module)
        with h5py.File(made) as new, h5py.File(proc / name, "r+") as file:
            np.testing.assert_array_equal(new["INDEX/trainId"], file["INDEX/trainId"])
            for group in ("INDEX", "INSTRUMENT"):
                new.copy(f"{group}/{source}:output/litpx", file[f"{group}/{source}:output"])
    with RunDirectory(proc) as data:
        pattern = rf"{DETECTOR}/CORR/(?P<key>\d+)CH0:output"
        theirs = StackedPulseSource.from_datacollection(data, pattern, "litpx")
        lit = theirs["litPixels"].ndarray(MODULES, fill_value=0)
    np.testing.assert_array_equal(lit, counter.num_lit_px[:, MODULES])
    moved = replace(run, options=replace(run.options, prefix=tmp_path / "p007927"))
    events, about = job(moved, tmp_path / "facility", *options, "--score", "facility")
    for name in ("hitscore", "is_hit", "is_miss", "hit_threshold"):
        np.testing.assert_array_equal(events[name], own[name], name)
    assert events["is_hit"].any()
    assert about["frames_read"] == "hits and misses"
    (source,) = (s for s in json.loads(about["beamline_sources"]) if s["value"] == "score")
    assert source["source"] == f"{DETECTOR}/CORR/*CH0:output litpx.litPixels"


def test_nothing_of_the_facility(tmp_path, capfd):
    run = tiny_run(tmp_path / "p007927", trains=2)
    events, attributes = job(run, tmp_path / "out", "--hits", "facility")
    assert attributes["frames_read"] == "all"
    assert json.loads(attributes["configuration"])["hits"] == "own"
    assert (events["photons"] > 0).any()
    assert "no REDU/SPI_HITFINDER" in capfd.readouterr().err
