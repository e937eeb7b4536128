"""The main job within the processes of the tests, where its limits can be made small."""

from functools import partial

import numpy as np
import pytest
from checks import check_outputs
from expected import Expected
from mockrun import tiny_run

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, PeerError
from xfelmpi.core.job_context import RunJob
from xfelmpi.io import parallel_hdf5
from xfelmpi.output import write_stage
from xfelmpi.reduction import observers
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.workflows import inputs, process

pytestmark = [pytest.mark.mpi, pytest.mark.filterwarnings("default::UserWarning")]


def simulated(comm, folder, **options):
    """Return a simulated run; every rank gets the answer, rank 0 writes."""
    return comm.bcast(tiny_run(folder / "p007927", **options) if comm.rank == 0 else None)


def run(comm, mock, folder, **options):
    config = Config(
        mock.options.run,
        mock.options.prefix,
        folder / "out",
        geometry=mock.paths.geometry,
        **options,
    )
    status = process.process(RunJob.of(comm, config, ["50"]))
    comm.Barrier()
    return status


def check(comm, folder, mock, **expect):
    """Check the outputs on rank 0 and tell all ranks."""
    with mpi.fail_together(comm):
        if comm.rank == 0:
            check_outputs(folder / "out", Expected(mock, **expect))


def test_outputs_equal_the_truth(comm, shared_path):
    mock = simulated(comm, shared_path)
    status = run(comm, mock, shared_path)
    check(comm, shared_path, mock)
    assert status == 0


def test_what_needs_all_frames_is_computed_once_while_files_are_written(
    comm, shared_path, monkeypatch
):
    """Also with sizes, which need it before the hits are written."""
    called = []
    for name in ("beam_wavelength", "background_weights"):
        function = getattr(write_stage, name)
        counted = partial(_counted, called, name, function)
        monkeypatch.setattr(write_stage, name, counted)
    mock = simulated(comm, shared_path)
    assert run(comm, mock, shared_path, size="sphere") == 0
    assert called == ["beam_wavelength", "background_weights"]


def _counted(called, name, function, *arguments):
    called.append(name)
    return function(*arguments)


@pytest.mark.parametrize("kept", [0, 50_000])
def test_without_room_for_the_hits(comm, shared_path, monkeypatch, kept):
    """None or some of the hits stay in memory; small blocks, many rounds."""
    monkeypatch.setattr(inputs, "FrameBuffer", lambda n, *_, **__: FrameBuffer(n, kept))
    monkeypatch.setattr(HitReader, "BLOCK_FRAMES", 2)
    monkeypatch.setattr(parallel_hdf5, "ROUND_BYTES", 1 << 20)
    mock = simulated(comm, shared_path, cells=tuple(range(5)), missing=((3, 1),))
    status = run(comm, mock, shared_path, decide="fixed", fixed_threshold=600.0)
    check(comm, shared_path, mock, decide="fixed", fixed_threshold=600.0)
    assert status == 3


def test_kept_guesses_that_were_wrong(comm, shared_path, monkeypatch):
    """The run decides otherwise than the trains did: kept are hits that are none, and others."""
    monkeypatch.setattr(observers, "MISS_MARGIN", 0.5)
    monkeypatch.setattr(HitReader, "BLOCK_FRAMES", 5)
    mock = simulated(comm, shared_path, trains=3, cells=tuple(range(14)), hit_photons=(20.0, 1e3))
    options = {"decide": "run", "sigma": 0.3, "miss_fraction": 3.0}
    status = run(comm, mock, shared_path, **options)
    expected = Expected(mock, **options)
    by_train = Expected(mock, decide="train", sigma=0.3, _frames=expected._frames)
    check(comm, shared_path, mock, **options)
    assert status == 0
    assert (expected.is_hit & ~by_train.is_hit).any()
    assert (expected.is_hit & by_train.is_hit).any()


def test_error_of_rank_0_is_raised_on_all(comm, shared_path):
    config = Config(51, shared_path, shared_path / "out")
    try:
        process.process(RunJob.of(comm, config, ["51"]))
    except (InputError, PeerError) as error:
        raised = error
    else:
        raised = None
    everywhere = comm.allgather(raised is not None and raised.exit_status == 2)
    assert all(everywhere)
    assert "no such run" in str(raised)
    assert raised.told_elsewhere == (comm.rank != 0)


def test_mask_that_cannot_be_read_by_one(comm, shared_path, monkeypatch):
    """An error while the node's mask is filled is everybody's."""
    mock = simulated(comm, shared_path, trains=1, cells=(0,))

    def fail(*_):
        raise OSError("input/output error")

    monkeypatch.setattr("xfelmpi.calibration.pixel_mask.module_mask", fail)
    try:
        run(comm, mock, shared_path)
    except Exception as error:
        message = str(error)
    else:
        message = "nothing"
    everywhere = comm.allgather(message)
    assert all("input/output error" in text for text in everywhere)
    assert np.unique(everywhere).size <= 2
