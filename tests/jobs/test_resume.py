"""Jobs that are killed and resumed give the files of one that never was; stopped ones say so."""

import json
import os
import shutil
import signal

import h5py
import numpy as np
import pytest
from compare import assert_same_outputs
from launch import all_files, call_xfelmpi, run_job
from mockrun import TINY_500K, tiny_raw_run, tiny_run
from stopped import run_until

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import InputFileSettings, RunSettings
from xfelmpi.core.paths import Experiment
from xfelmpi.io.checkpoint_file import DamagedError, open_checkpoint, write_checkpoint
from xfelmpi.reduction.fingerprint import digest_contents
from xfelmpi.reduction.resume import CheckpointInfo, choose

TRAINS = 10
OFTEN = ("--checkpoint-minutes", "1e-5")
WRITTEN = "reduction.checkpoint:write_checkpoint"


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    """In one train a module is missing, in others frames of another cannot be read."""
    folder = tmp_path_factory.mktemp("resume") / "p007927"
    changes = {"trains": TRAINS, "missing": ((3, 4),), "absent_modules": ()}
    mock = tiny_run(folder, **{**TINY_500K, **changes})
    path = sorted((folder / "proc" / "r0050").glob("*AGIPD06*"))[0]
    with h5py.File(path) as file:
        data = file["INSTRUMENT/HED_DET_AGIPD500K2G/CORR/6CH0:output/image/data"]
        chunks = [data.id.get_chunk_info(i) for i in (1, 27, 50)]
    content = bytearray(path.read_bytes())
    for chunk in chunks:
        content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    return mock


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """More trains than a block has at most, of few modules."""
    folder = tmp_path_factory.mktemp("resume_raw") / "p007927"
    return tiny_raw_run(folder, trains=20, absent_modules=tuple(range(4, 16)))


def options(mock, output, *more):
    """What every job here is started with."""
    return [50, "--prefix", mock.options.prefix, "--output", output, "--no-report",
            "--geometry", mock.paths.geometry, *more]  # fmt: skip


def raw_options(mock, output, *more):
    adu, constants = mock.options.signal_per_photon, mock.paths.constants
    more = ("--data", "raw", "--adu-per-photon", adu, "--constants", constants, *more)
    return options(mock, output, *more)


def run_here(args, ranks=0):
    done = run_job(args, ranks)
    assert done.returncode == 3, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def undisturbed(mock, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    run_here(options(mock, output))
    return output


@pytest.fixture(scope="module")
def killed(mock, tmp_path_factory):
    """A killed job's outputs, with the first checkpoints of two ranks."""
    folder = tmp_path_factory.mktemp("killed")
    kill(folder, options(mock, folder / "out", *OFTEN), 2, rank=1, call=3)
    assert len(checkpoint(folder / "out")) >= 2
    return folder / "out"


@pytest.fixture
def output(killed, tmp_path):
    """A copy of what the killed job left."""
    return shutil.copytree(killed, tmp_path / "out")


def kill(folder, args, ranks, function=WRITTEN, **where):
    done = run_until(folder, args, ranks, signal.SIGKILL, function, **where)
    assert done.returncode not in (0, 2, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def checkpoint(output):
    return sorted((output / "checkpoint" / "r0050").glob("*.checkpoint"))


def frames_done(done):
    """The number of frames that a resumed job found done, by its log."""
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("resume: "))
    return 0 if "starting over" in line else int(line.split()[1].replace(",", ""))


@pytest.mark.parametrize(
    ("ranks", "rank", "call", "then"), [(1, 0, 4, 3), (2, 1, 2, 1), (3, 0, 3, 5), (5, 4, 2, 2)]
)
def test_killed_job_resumes_on_other_ranks(mock, undisturbed, tmp_path, ranks, rank, call, then):
    args = options(mock, tmp_path / "out", *OFTEN)
    kill(tmp_path, args, ranks, rank=rank, call=call)
    assert len(checkpoint(tmp_path / "out")) >= call - 1
    done = run_here([*args, "--resume"], then)
    assert 0 < frames_done(done) < len(mock)
    assert_same_outputs(tmp_path / "out", undisturbed)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_killed_twice(mock, undisturbed, tmp_path):
    args = options(mock, tmp_path / "out", *OFTEN)
    kill(tmp_path, args, 2, rank=1, call=2)
    first = len(checkpoint(tmp_path / "out"))
    kill(tmp_path, [*args, "--resume"], 3, rank=2, call=2)
    assert len(checkpoint(tmp_path / "out")) > first
    assert frames_done(run_here([*args, "--resume"], 2)) > 0
    assert_same_outputs(tmp_path / "out", undisturbed)


def test_killed_while_a_checkpoint_gets_its_name(mock, undisturbed, tmp_path):
    args = options(mock, tmp_path / "out", *OFTEN)
    # index and machine data, kept for the next job, get theirs before
    kill(tmp_path, args, 2, "io.checkpoint_file:Path.replace", call=4)
    left = all_files(tmp_path / "out" / "checkpoint")
    assert any(".checkpoint." in name and name.endswith(".part") for name in left), left
    assert frames_done(run_here([*args, "--resume"])) > 0
    assert_same_outputs(tmp_path / "out", undisturbed)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_ranks_without_frames(mock, tmp_path):
    args = options(mock, tmp_path / "out", *OFTEN, "--trains", "0:1")
    done = run_here(args, 2)
    assert done.returncode == run_here(args).returncode, done.stderr


def test_nothing_is_left_to_read(mock, undisturbed, tmp_path):
    args = options(mock, tmp_path / "out", *OFTEN)
    kill(tmp_path, args, 3, "output.write_stage:write_powder")
    done = run_here([*args, "--resume"], 2)
    assert frames_done(done) == len(mock)
    assert f", 0 frames/s; {len(mock)} frames were done before" in done.stdout
    assert_same_outputs(tmp_path / "out", undisturbed)


def test_one_file_for_several_ranks(mock, undisturbed, tmp_path):
    """Its frames go to those that have the trains, its powder to one of them."""
    args = options(mock, tmp_path / "out")
    done = run_until(tmp_path, args, 0, signal.SIGTERM, "workflows.process:draw_misses")
    assert done.returncode == 143, done.stderr
    assert len(checkpoint(tmp_path / "out")) == 1
    assert frames_done(run_here([*args, "--resume"], 3)) == len(mock)
    assert_same_outputs(tmp_path / "out", undisturbed)


def test_raw_run(raw, tmp_path):
    run_here(raw_options(raw, tmp_path / "whole"), 2)
    args = raw_options(raw, tmp_path / "out", *OFTEN)
    kill(tmp_path, args, 2, rank=1, call=2)
    assert 0 < frames_done(run_here([*args, "--resume"], 3)) < len(raw)
    assert_same_outputs(tmp_path / "out", tmp_path / "whole")


def test_other_decision(mock, output, tmp_path):
    run_here(options(mock, tmp_path / "whole", "--sigma", "2", "--with-misses"))
    more = ("--sigma", "2", "--with-misses", "--resume", "--memory-per-rank", "256M")
    assert frames_done(run_here(options(mock, output, *more), 2)) > 0
    assert_same_outputs(output, tmp_path / "whole")


def damage_byte(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_damaged_files_are_left_out(mock, undisturbed, output):
    first, second, *_ = checkpoint(output)
    damage_byte(first)
    os.truncate(second, second.stat().st_size - 100)
    (first.parent / f"empty{first.suffix}").touch()
    done = run_here(options(mock, output, "--resume"), 2)
    assert done.stderr.count("is damaged and left out") == 3, done.stderr
    assert_same_outputs(output, undisturbed)
    assert not (output / "checkpoint").exists()


def test_overlapping_files(mock, undisturbed, output, tmp_path):
    kill(tmp_path, options(mock, tmp_path / "other", *OFTEN), 3, "output.write_stage:write_powder")
    for path in checkpoint(tmp_path / "other"):
        shutil.copy(path, checkpoint(output)[0].parent / f"other_{path.name}")
    done = run_here(options(mock, output, "--resume"), 2)
    assert "others have the same frames" in done.stderr
    assert frames_done(done) >= TRAINS // 2
    assert_same_outputs(output, undisturbed)


def test_other_settings_start_over_and_keep_the_checkpoint(mock, output, tmp_path):
    more = ("--photon-threshold", "0.5", "--resume")
    before = {path: path.read_bytes() for path in checkpoint(output)}
    args = options(mock, output, *more)
    done = run_until(tmp_path, args, 0, signal.SIGTERM, "workflows.process:draw_misses")
    assert done.returncode == 143
    assert "--photon-threshold was 0.7 and is 0.5" in done.stderr
    assert frames_done(done) == 0
    assert {path: path.read_bytes() for path in before} == before
    run_here(args)
    run_here(options(mock, tmp_path / "whole", *more[:2]))
    assert_same_outputs(output, tmp_path / "whole")


def test_changed_run_starts_over(mock, output, tmp_path):
    path = sorted((mock.options.prefix / "proc" / "r0050").glob("*AGIPD05*"))[0]
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1000))
    done = run_here(options(mock, output, "--resume"))
    # the time of the file stands in all outputs
    run_here(options(mock, tmp_path / "whole"))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert "the run's files changed" in done.stderr
    assert frames_done(done) == 0
    assert_same_outputs(output, tmp_path / "whole")


def test_without_resume_everything_is_read(mock, undisturbed, output):
    done = run_here(options(mock, output))
    assert "resume: " not in done.stdout
    assert_same_outputs(output, undisturbed)
    assert not (output / "checkpoint").exists()


def test_resumes_if_the_run_has_nothing_of_the_facility(mock, undisturbed, output):
    """The job of all frames that it is then goes on where it was stopped."""
    done = run_here(options(mock, output, "--score", "facility", "--resume"), 2)
    assert 0 < frames_done(done) < len(mock)
    assert_same_outputs(output, undisturbed)


def test_resume_without_a_checkpoint(mock, undisturbed, tmp_path):
    done = run_here(options(mock, tmp_path, "--resume"))
    assert "resume: no checkpoint that fits, starting over" in done.stdout
    assert_same_outputs(tmp_path, undisturbed)


def test_resume_does_not_go_with_from_events(mock, tmp_path):
    done = call_xfelmpi(options(mock, tmp_path, "--resume", "--from-events"))
    assert done.returncode == 2
    assert "leave out --resume" in done.stderr


def test_checkpoints_that_cannot_be_written_are_a_warning(mock, undisturbed, tmp_path):
    (tmp_path / "checkpoint").write_text("in the way")
    done = run_here(options(mock, tmp_path, *OFTEN), 2)
    assert "checkpoints could not be written on 2 of 2 ranks" in done.stderr
    assert_same_outputs(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("stage", "function", "ranks", "stuck"),
    [
        ("index", "run.find_run:cached_index", 2, True),
        ("photons", "reduction.sparsifier:Sparsifier.frames", 3, False),
        ("photons", "reduction.sparsifier:Sparsifier.frames", 0, False),
        ("decide", "workflows.process:draw_misses", 3, True),
        ("write", "output.write_stage:write_powder", 3, True),
        ("write", "output.publishing:publish", 2, False),
    ],
)
def test_stopped_in_every_stage(mock, undisturbed, tmp_path, stage, function, ranks, stuck):
    """Also if one rank hangs and the others wait for it: one message, nothing left, and the end."""
    output = shutil.copytree(undisturbed, tmp_path / "out")
    before = {name: (output / name).read_bytes() for name in all_files(output)}
    args = options(mock, output, *OFTEN)
    call = 2 if stage == "photons" else 1
    done = run_until(tmp_path, args, ranks, signal.SIGTERM, function, call=call, stuck=stuck)
    assert done.returncode == 143, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("xfelmpi: ")]
    assert len(ours) == 2, done.stderr
    assert ours[0].startswith(f"xfelmpi: stopped by SIGTERM in stage {stage}")
    assert (f"of {len(mock)} frames" in ours[0]) == (stage == "photons")
    assert ("start again with: " in ours[1]) == (stage == "index")
    left = [name for name in all_files(output) if not name.startswith("checkpoint/")]
    assert left == list(before)
    if function != "output.publishing:publish":
        assert {name: (output / name).read_bytes() for name in left} == before
    if stage == "index":
        return
    assert ours[1].endswith("--resume")
    again = run_here([*args, "--resume"])
    assert frames_done(again) == len(mock) or stage == "photons"
    assert frames_done(again) > 0
    assert_same_outputs(output, undisturbed)


def test_interrupted_at_the_terminal(mock, tmp_path):
    args = [*options(mock, tmp_path / "out"), "--report"]
    function = "reduction.sparsifier:Sparsifier.frames"
    # tests in the background of a shell ignore it, and so would the job
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = run_until(tmp_path, args, 0, signal.SIGINT, function, call=3, stuck=False)
    assert done.returncode == 130
    assert done.stderr.count("stopped by SIGINT in stage photons") == 1
    assert "Traceback" not in done.stderr
    assert len(checkpoint(tmp_path / "out")) == 1
    status = json.loads((tmp_path / "out" / "report" / "r0050.json").read_text())
    assert status["status"] == "failed"
    assert status["message"].endswith("--resume")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_end_a_job_alike(number, mock, tmp_path):
    function = "reduction.sparsifier:Sparsifier.frames"
    args = options(mock, tmp_path / "out")
    done = run_until(tmp_path, args, 0, number, function, call=3, stuck=False)
    assert done.returncode == 128 + number
    assert done.stderr.count(f"stopped by {number.name} in stage photons") == 1
    assert len(checkpoint(tmp_path / "out")) == 1
    left = [name for name in all_files(tmp_path / "out") if name.endswith((".part", ".lock"))]
    assert not left


def test_another_mask_of_the_same_size_and_time_is_another(mock, tmp_path):
    """What counts is what is in it."""
    path = tmp_path / "mask.h5"
    prefix, found = mock.options.prefix, []
    config = Config(50, prefix, tmp_path, global_mask=path)
    settings = config.part(RunSettings), config.part(InputFileSettings)
    for content in ("one", "two"):
        path.write_text(content)
        os.utime(path, (1, 1))
        found.append(digest_contents(mpi.alone(), Experiment(prefix, tmp_path, 50), *settings))
    assert found[0]["mask files"] != found[1]["mask files"]
    assert found[0]["geometry file"] == found[1]["geometry file"]


@pytest.mark.parametrize("change", ["mask", "commit", "ids"])
def test_checkpoint_of_another_mask_commit_or_frames(change, mock, output, undisturbed, tmp_path):
    """Whatever differs, what the job had read is read again; the outputs are right."""
    args, (path, *others) = options(mock, output, *OFTEN, "--resume"), checkpoint(output)
    for other in others:
        other.unlink()
    file = open_checkpoint(path)
    about, arrays = file.about, {name: file.array(name) for name in file.places}
    if change == "commit":
        program = about["fingerprint"]["the program"]
        about["fingerprint"]["the program"] = program.replace("commit ", "commit 0")
    elif change == "mask":
        about["fingerprint"]["mask files"] = "0" * 32
    else:
        arrays["cell_id"] = arrays["cell_id"] + 1
    write_checkpoint(path, about, arrays)
    done = call_xfelmpi(args)
    if change == "ids":
        assert done.returncode == 2
        assert "cell_id are not those of the run's frames" in done.stderr
        return
    assert done.returncode == 3, done.stderr
    name = {"mask": "mask files", "commit": "the program"}[change]
    assert f"1 checkpoint file left out, made with other input: {name} changed" in done.stderr
    assert frames_done(done) == 0
    assert_same_outputs(output, undisturbed)


def test_every_damaged_byte_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "x.checkpoint"
    arrays = {"a": np.arange(5, dtype=np.uint16).reshape(5, 1), "none": np.zeros(0), "b": np.eye(2)}
    write_checkpoint(path, {"rows": [[0, 5]]}, arrays)
    file = open_checkpoint(path)
    assert file.about == {"rows": [[0, 5]]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.array(name), array)
        assert file.array(name).dtype == array.dtype
    np.testing.assert_array_equal(file.part("b", 1, 3), [0, 0])
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i])
        with pytest.raises(DamagedError):
            open_checkpoint(path)
        path.write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :])
        with pytest.raises(DamagedError):
            open_checkpoint(path)


def test_choice_of_files_is_disjoint_and_does_not_depend_on_their_order(tmp_path):
    def found(name, *rows, basis="x", damage=""):
        return CheckpointInfo(tmp_path / name, damage, {"frames": basis}, rows, f"time of {name}")

    files = [
        found("a", (0, 10)),
        found("b", (5, 25)),
        found("c", (25, 30), (40, 45)),
        found("d", (42, 50)),
        found("e", (50, 60), basis="y"),
        found("f", (60, 70), damage="too short"),
    ]
    for order in (files, files[::-1]):
        selection = choose(order, {"frames": "x"}, 100)
        assert [file.path.name for file in selection.files] == ["b", "c"]
        assert selection.n_done == 30
        assert (
            "30 of 100 frames are done (2 checkpoint files, the last of time of c)"
            in (selection.notes[0])
        )
        assert any("frames changed" in line for line in selection.warnings)
