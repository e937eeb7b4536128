"""What happens when something is wrong: all ranks end, soon, with the right status and message."""

import os
import re
import shutil
from time import monotonic

import h5py
import numpy as np
import pytest
from checks import check_outputs
from compare import assert_same_outputs
from expected import Expected
from launch import all_files, call_xfelmpi, limit, output_files, run_job, run_python, run_xfelmpi
from mockrun import TINY_500K, tiny_dark_runs, tiny_run
from runnames import images_of


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("failures") / "p007927", trains=4, cells=(0, 1, 2, 3))


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run of a smaller detector, for what is done on three ranks many times."""
    few = {**TINY_500K, "trains": 4, "cells": (1, 2, 3), "absent_modules": ()}
    return tiny_run(tmp_path_factory.mktemp("half") / "p007927", **few)


@pytest.fixture
def options(mock, tmp_path):
    """What every job here is started with."""
    return ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]


@pytest.fixture
def half_options(half, tmp_path):
    return ["--prefix", half.options.prefix, "--output", tmp_path / "out", "--no-report"]


def explained(done, *words):
    """Assert that a job was refused with one line of explanation, and nothing else of ours."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    # of options every rank may complain before the first one has ended all
    ours = {
        re.sub(r"^xfelmpi: error( \(rank \d\))?: ", "", line)
        for line in done.stderr.splitlines()
        if line.startswith("xfelmpi: error")
    }
    assert len(ours) == 1, done.stderr
    for word in words:
        assert str(word) in min(ours)


def broken_hdf5(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    return path


def empty_run(folder):
    (folder / "proc" / "r0050").mkdir(parents=True)
    return folder


def mask_of_shape(path, shape):
    with h5py.File(path, "w") as file:
        file["entry_1/good_pixels"] = np.ones(shape, np.uint8)
    return path


def text_file(path, text):
    path.write_text(text)
    return path


# run number, options made in a folder, words of the message
REFUSED = {
    "no such run": (51, lambda _: [], ("proc/r0051", "no such run")),
    "no prefix": (50, lambda d: ["--prefix", d / "nowhere"], ("nowhere",)),
    "empty folder": (50, lambda d: ["--prefix", empty_run(d)], ("proc/r0050", "no detector files")),
    "raw data": (50, lambda _: ["--data", "raw"], ("raw",)),
    "detector": (50, lambda _: ["--detector", "MID_DET_AGIPD1M-1"], ("SPB_DET_AGIPD1M-1",)),
    "trains": (50, lambda _: ["--trains", "4:9"], ("4:9", "none of its 4 trains")),
    "output is a file": (
        50,
        lambda d: ["--output", text_file(d / "file", "")],
        ("file", "cannot be written"),
    ),
    "no right to write": (50, lambda _: ["--output", "/proc/xfelmpi"], ("/proc/xfelmpi",)),
    "number out of range": (50, lambda _: ["--photon-threshold", "2"], ("photon-threshold", "2.0")),
    "options that contradict": (50, lambda _: ["--decide", "fixed"], ("--fixed-threshold",)),
    "unknown name in the file": (
        50,
        lambda d: ["--config", text_file(d / "a.toml", "sigmo = 4\n")],
        ("a.toml", "sigmo", "did you mean sigma?"),
    ),
    "no such file of options": (50, lambda d: ["--config", d / "none.toml"], ("none.toml",)),
    "broken geometry": (
        50,
        lambda d: ["--geometry", text_file(d / "a.geom", "clen = 0.7\nnonsense\n")],
        ("a.geom",),
    ),
    "no geometry": (50, lambda d: ["--geometry", d / "none.geom"], ("none.geom",)),
    "broken mask": (50, lambda d: ["--global-mask", broken_hdf5(d / "m.h5")], ("m.h5",)),
    "no mask": (50, lambda d: ["--cell-mask", d / "none.h5"], ("none.h5", "no such file")),
    "mask of another shape": (
        50,
        lambda d: ["--hit-mask", mask_of_shape(d / "m.h5", (16, 128, 512))],
        ("m.h5", "(16, 128, 512)", "(16, 512, 128)"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_input_is_explained(name, options, tmp_path):
    run, make, words = REFUSED[name]
    # of an option given twice the last one counts
    done = call_xfelmpi([run, *options, *make(tmp_path)])
    explained(done, *words)
    assert "r00" not in " ".join(output_files(tmp_path / "out"))


SOME_REFUSED = (
    *("no such run", "output is a file", "broken mask", "no geometry"),
    *("unknown name in the file", "options that contradict"),
)


@pytest.mark.parametrize("name", SOME_REFUSED)
def test_unusable_input_is_explained_on_several_ranks(name, options, tmp_path):
    run, make, words = REFUSED[name]
    done = run_xfelmpi([run, *options, *make(tmp_path)], 2)
    explained(done, *words)
    assert "r00" not in " ".join(output_files(tmp_path / "out"))


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["50", "--sigmo", "4"], "--sigmo"),
        (["50", "--sigma", "four"], "--sigma"),
        (["50", "--score", "size"], "--score"),
        (["fifty"], "no command 'fifty'"),
        ([], "usage"),
    ],
)
def test_wrong_command_lines(arguments, words, ranks, options, tmp_path):
    args = [*arguments, *(options if len(arguments) > 1 else [])]
    done = run_job(args, ranks)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert all_files(tmp_path) == []


def test_without_an_experiment_folder():
    explained(run_xfelmpi([50]), "--prefix", "EXP_PREFIX")


def test_help_needs_no_mpi():
    top = run_xfelmpi(["--help"])
    assert top.returncode == 0
    assert "simulate" in top.stdout
    for command in ("process", "simulate"):
        done = run_xfelmpi([command, "--help"], PATH=os.environ["PATH"])
        assert done.returncode == 0, done.stderr
        assert "default" in done.stdout


CRASH = """
import sys
from mpi4py import MPI

import {module}
from xfelmpi.__main__ import main

if MPI.COMM_WORLD.rank == {rank}:
    def fail(*_, **__):
        raise {error}
    {target} = fail
sys.exit(main(sys.argv[1:]))
"""


def unfinished(output) -> bool:
    """Return whether no output has its final name."""
    return all(name.endswith(".part") for name in output_files(output))


# where: module, what is replaced there
CRASHES = {
    "index": ("xfelmpi.run.find_run", "xfelmpi.run.find_run.cached_index", 0),
    "masks": ("xfelmpi.calibration.pixel_mask", "xfelmpi.calibration.pixel_mask.module_mask", 2),
    "photons": (
        "xfelmpi.reduction.sparsifier",
        "xfelmpi.reduction.sparsifier.Sparsifier.frames",
        1,
    ),
    "decide": ("xfelmpi.hitfinding.sampling", "xfelmpi.hitfinding.sampling.sampling_cutoff", 1),
    "open parallel file": (
        "xfelmpi.output.cxi.writer",
        "xfelmpi.output.cxi.writer.CxiEntry.write",
        1,
    ),
    "emc": ("xfelmpi.output.emc", "xfelmpi.output.emc.EmcWriter.write", 2),
    "kept": (
        "xfelmpi.reduction.frame_buffer",
        "xfelmpi.reduction.frame_buffer.FrameBuffer.take",
        1,
    ),
    "header": ("xfelmpi.output.write_stage", "xfelmpi.output.write_stage._header", 0),
    "index of the hits": ("xfelmpi.io.chunk_writer", "xfelmpi.io.chunk_writer.write_dummy", 0),
    "events": ("xfelmpi.output.write_stage", "xfelmpi.output.write_stage.write_events", 2),
    "publish": ("xfelmpi.output.publishing", "xfelmpi.output.publishing.publish", 0),
}


@pytest.mark.parametrize("where", CRASHES)
def test_crash_of_one_rank_ends_all(where, half, half_options, tmp_path):
    module, target, rank = CRASHES[where]
    script = tmp_path / "crash.py"
    script.write_text(
        CRASH.format(module=module, target=target, rank=rank, error="ZeroDivisionError('oh dear')")
    )
    options = [*half_options, "--decide", "fixed", "--fixed-threshold", "0"]
    start = monotonic()
    done = run_python([script, 50, *options], 3)
    assert monotonic() - start < limit()
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"xfelmpi: failed (rank {rank}):" in done.stderr
    assert "ZeroDivisionError: oh dear" in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "files written" not in done.stdout
    assert unfinished(tmp_path / "out")
    if where == "emc":  # which leaves parts of all kinds
        again = run_xfelmpi([50, *options], 2)
        assert again.returncode == 0, again.stderr
        options[3] = tmp_path / "clean"
        assert call_xfelmpi([50, *options]).returncode == 0
        assert_same_outputs(tmp_path / "out", tmp_path / "clean")


@pytest.mark.parametrize("where", ["photons", "open parallel file", "index of the hits", "events"])
def test_killed_rank_ends_all(where, half_options, tmp_path):
    """SIGKILL, as from a machine without memory: nobody can say anything, and nobody waits."""
    module, target, rank = CRASHES[where]
    script = tmp_path / "crash.py"
    text = CRASH.format(module=module, target=target, rank=rank, error="None")
    script.write_text(text.replace("raise None", "import os; os.kill(os.getpid(), 9)"))
    start = monotonic()
    options = [*half_options, "--decide", "fixed", "--fixed-threshold", "0"]
    done = run_python([script, 50, *options], 3)
    assert monotonic() - start < limit()
    assert done.returncode != 0
    assert "files written" not in done.stdout
    assert unfinished(tmp_path / "out")


def test_crash_leaves_old_outputs_alone(half_options, tmp_path):
    assert call_xfelmpi([50, *half_options]).returncode == 0
    before = {
        name: (tmp_path / "out" / name).read_bytes() for name in output_files(tmp_path / "out")
    }
    assert len(before) >= 4
    script = tmp_path / "crash.py"
    module, target, rank = CRASHES["events"]
    script.write_text(
        CRASH.format(module=module, target=target, rank=rank, error="OSError(28, 'full')")
    )
    done = run_python([script, 50, *half_options], 3)
    assert done.returncode == 1, done.stderr
    for name, content in before.items():
        assert (tmp_path / "out" / name).read_bytes() == content, name


def test_few_open_files(mock, options, tmp_path):
    """The limit of some machines is lower than the number of files of a run."""
    script = tmp_path / "limit.py"
    script.write_text(
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
        "from xfelmpi.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    many = tiny_run(tmp_path / "p007927", trains=10, cells=(0,), sequence_length=1)
    where = ["--prefix", many.options.prefix, "--output", tmp_path / "out", "--no-report"]
    done = run_python([script, 50, *where, "--geometry", many.paths.geometry], 2)
    assert done.returncode == 0, done.stdout + done.stderr
    check_outputs(tmp_path / "out", Expected(many))


@pytest.fixture(scope="module")
def darks(tmp_path_factory):
    """Three dark runs of 48 files each."""
    folder = tmp_path_factory.mktemp("darks") / "p007927"
    few = {"trains": 3, "cells": (0,), "sequence_length": 1}
    return tiny_dark_runs(folder, **few, bad_pixels=0.0)


@pytest.mark.parametrize(("limit", "status"), [(128, 0), (40, 2)])
def test_few_open_files_for_darks(darks, tmp_path, limit, status):
    """Three runs at a time within a low limit; a limit that is too low is no damage of the data."""
    script = tmp_path / "limit.py"
    script.write_text(
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "from xfelmpi.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    runs = [mock.options.run for mock in darks]
    out = tmp_path / "out"
    where = ["--prefix", darks[0].options.prefix, "--out", out]
    done = run_python([script, "darks", *runs, *where])
    assert done.returncode == status, done.stdout + done.stderr
    assert (len(list(out.glob("Cheetah-*.h5"))) == 16) == (status == 0)


def test_slurm_without_pmi_is_explained(options):
    """Slurm's srun without PMIx starts single processes that know nothing of each other."""
    done = run_xfelmpi([50, *options], SLURM_PROCID=1, SLURM_NTASKS=4, SLURM_STEP_NUM_TASKS=4)
    explained(done, "srun --mpi=pmix")


def test_launcher_of_another_mpi_is_explained(options):
    """MPICH's mpirun starts processes of Open MPI, each of which believes to be alone."""
    done = run_xfelmpi([50, *options], PMI_SIZE=3, PMI_RANK=1)
    explained(done, "3 processes were started, but each is alone by its own MPI")


def test_run_that_vanishes_while_it_is_read(mock, tmp_path):
    """A module's file without its images' bytes: named, and its frames are incomplete."""
    prefix = tmp_path / "p007927"
    shutil.copytree(mock.options.prefix, prefix)
    victim = sorted((prefix / "proc" / "r0050").glob("*AGIPD06*"))[0]
    with h5py.File(victim) as file:
        data = file["INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/6CH0:output/image/data"]
        chunk = data.id.get_chunk_info(1)
    raw = bytearray(victim.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    victim.write_bytes(raw)
    where = ["--prefix", prefix, "--output", tmp_path / "out", "--no-report"]
    done = run_xfelmpi([50, *where], 2)
    assert done.returncode == 3, done.stdout + done.stderr
    train = mock.options.first_train
    named = f"{victim.name} module 6 train {train}: 1 frames: chunk does not inflate to a frame"
    assert named in done.stdout
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as file:
        assert file["modules"][:4].tolist() == [0xFFFF, 0xFFFF & ~(1 << 6), 0xFFFF, 0xFFFF]
        assert np.isnan(file["hit_threshold"][1])


@pytest.mark.parametrize("ranks", [0, 2])
def test_module_that_cannot_be_read_at_all_stops_nothing(ranks, mock, tmp_path):
    """It is as good as absent: the other modules' frames are complete, and hits are found."""
    copy = shutil.copytree(mock.options.prefix, tmp_path / "exp")
    victim = next((copy / "proc" / "r0050").glob("*AGIPD06-S00000.h5"))
    with h5py.File(victim) as file:
        data = file["INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/6CH0:output/image/data"]
        chunks = [data.id.get_chunk_info(i) for i in range(data.id.get_num_chunks())]
    raw = bytearray(victim.read_bytes())
    for chunk in chunks:
        raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    victim.write_bytes(raw)
    done = run_job(
        [50, "--prefix", copy, "--fixed-threshold", 0, "--decide", "fixed", "--no-report"], ranks
    )
    assert done.returncode == 3, done.stderr
    assert "module 6: no frame of this module can be read" in done.stdout
    with h5py.File(copy / "scratch" / "events" / "r0050_events.h5") as events:
        assert (events["modules"][:] == 0xFFFF & ~(1 << 6)).all()
        assert events["is_hit"][:].all()
    with h5py.File(copy / "scratch" / "saved_hits" / "r0050_hits.cxi") as cxi:
        mask = cxi["entry_1/instrument_1/detector_1/mask"][0]
        assert (mask[6] & 0x200 != 0).all()
        assert (mask[5] == 0).all()


def test_no_readable_frame_keeps_earlier_outputs(mock, tmp_path):
    """Status 2 with one of the reasons, never empty files in the place of good ones."""
    copy = shutil.copytree(mock.options.prefix, tmp_path / "exp")
    args = [50, "--prefix", copy, "--output", tmp_path / "out", "--no-report"]
    assert call_xfelmpi(args).returncode == 0
    outputs = [tmp_path / "out" / name for name in output_files(tmp_path / "out")]
    before = {path: path.read_bytes() for path in outputs}
    assert len(before) >= 5
    for path in (copy / "proc" / "r0050").glob("*AGIPD*"):
        module = int(path.name.partition("AGIPD")[2][:2])
        with h5py.File(path, "r+") as file:
            image = file[images_of(module)]
            old = image["data"]
            shape, kind = old.shape, old.dtype
            del image["data"]
            image.create_dataset("data", shape, kind, chunks=(1, *shape[1:]), compression="gzip")
    explained(
        call_xfelmpi(args),
        "no frame of any module can be read (CORR-R0050-AGIPD",
        "never written",
        "earlier outputs stay as they are",
    )
    assert {path: path.read_bytes() for path in outputs} == before


def test_wrong_option_beside_help():
    done = call_xfelmpi(["process", "--sigma", "much", "--help"])
    assert done.returncode == 2
    assert "--sigma" in done.stderr
    assert "Traceback" not in done.stderr


def test_simulation_leaves_another_geometry_alone(tmp_path):
    geometry = tmp_path / "scratch" / "det" / "agipd.geom"
    geometry.parent.mkdir(parents=True)
    geometry.write_text("; the experiment's own\n")
    done = call_xfelmpi(["simulate", 9, "--prefix", tmp_path, "--trains", 1, "--cells", 2])
    assert done.returncode == 2
    assert "agipd.geom was not written by a simulation" in done.stderr
    assert geometry.read_text() == "; the experiment's own\n"


def test_simulation_into_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    done = call_xfelmpi(["simulate", 9, "--prefix", tmp_path / "file" / "x", "--trains", 1])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
