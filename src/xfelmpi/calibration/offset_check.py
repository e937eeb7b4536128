"""Whether offsets are those of raw frames: else signals differ between pixels all the time.

Noise differs from train to train as much as from pixel to pixel beside it, and light about as much.
Offsets of another module or memory cell are the same wrong ones in every train.
"""

import math

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.constants import Calibration
from xfelmpi.calibration.photon_signal import SIGMA_OF_MEDIAN
from xfelmpi.core.log import plural
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.run.distribution import LocalRun
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_bytes import READ_ERRORS

SAMPLED_CELLS = 8
"""Memory cells that are looked at, in the first and in the last train."""

SAMPLED_MODULES = 4
"""Modules that are looked at in each of them, others in the next one."""

_RATIO = 3.0
"""Width between pixels over width between trains: 1 with the right offsets."""

_LEAST_WIDTH = 0.25
"""Width between pixels, in photons, that makes photons of offsets."""


def check_offsets(
    comm, files: FilePool, local_run: LocalRun, calibration: Calibration, adu_per_photon: float
) -> tuple[str, ...]:
    """Return a warning on rank 0 if offsets are not those of the frames; collective.

    Parameters
    ----------
    comm : Intracomm
    files : FilePool
    local_run : LocalRun
    calibration : Calibration
    adu_per_photon : float
    """
    ends = _trains_at_the_ends(local_run)
    first, last = (
        next((cells for cells in of_ranks if cells is not None), np.empty(0, np.uint16))
        for of_ranks in zip(*comm.allgather([cells for cells, _ in ends]), strict=True)
    )
    cells = np.intersect1d(first, last)
    if len(cells):
        # of few cells, each more than once, with other modules
        chosen = np.linspace(0, len(cells) - 1, min(SAMPLED_CELLS, len(cells))).round()
        cells = np.resize(cells[chosen.astype(np.int64)], SAMPLED_CELLS)
    modules = sorted(calibration.modules)
    step = max(1, math.ceil(len(modules) / SAMPLED_MODULES))
    found = []
    with mpi.fail_together(comm):
        for end, (_, rows) in enumerate(ends):
            for number, cell in enumerate(cells.tolist() if len(rows) else ()):
                (row,) = rows[local_run.frames.cell_id[rows] == cell][:1]
                for module in modules[number % step :: step]:
                    signal = _signal(files, local_run, calibration, int(row), module)
                    found.append((module, number, end, signal))
    found = mpi.gather_objects(comm, found)
    return () if comm.rank else doubtful_offsets(found, adu_per_photon)


def doubtful_offsets(
    found: list[tuple[int, int, int, np.ndarray | None]], adu_per_photon: float
) -> tuple[str, ...]:
    """Return a warning if signals differ more between pixels than between trains, else nothing.

    Parameters
    ----------
    found : list of (int, int, int, ndarray or None)
        Module, number of the frame, 0 or 1 for the train, and the signals, float32 (ss, fs), in
        ADU of the high stage, NaN where there is none; None if the frame cannot be read.
    adu_per_photon : float
    """
    signals = {(m, n, end): signal for m, n, end, signal in found if signal is not None}
    wrong = []
    for module in sorted({module for module, _, _ in signals}):
        pairs = [
            (signal, signals[module, number, 1])
            for (its, number, end), signal in signals.items()
            if its == module and end == 0 and (module, number, 1) in signals
        ]
        if not pairs:
            continue
        between_pixels = _width(np.concatenate([np.diff(a, axis=1).ravel() for a, _ in pairs]))
        between_trains = _width(np.concatenate([(a - b).ravel() for a, b in pairs]))
        if between_pixels > max(_RATIO * between_trains, _LEAST_WIDTH * adu_per_photon):
            wrong.append((module, between_pixels, between_trains))
    if not wrong:
        return ()
    _, pixels, trains = wrong[0]
    return (
        f"{plural(len(wrong), 'module')} {', '.join(str(module) for module, *_ in wrong)}: signals "
        f"differ by {pixels:.3g} ADU from pixel to pixel, but only by {trains:.3g} ADU from train "
        "to train: are the calibration constants those of these modules and memory cells?",
    )


def _width(differences: np.ndarray) -> float:
    """Return the width of values of whose differences most are given; 0 without any."""
    usable = differences[np.isfinite(differences)]
    return SIGMA_OF_MEDIAN / math.sqrt(2) * float(np.median(np.abs(usable))) if len(usable) else 0.0


def _trains_at_the_ends(local_run: LocalRun) -> tuple[tuple[np.ndarray | None, np.ndarray], ...]:
    """Return memory cells and rows of the run's first and last train; None, none if elsewhere.

    Of a run with a single train the last one is none, too.
    """
    frames, first = local_run.frames, local_run.first_frame
    nothing = None, np.empty(0, np.int64)
    if not len(frames):
        return nothing, nothing
    in_first = np.flatnonzero(frames.train_id == frames.train_id[0])
    in_last = np.flatnonzero(frames.train_id == frames.train_id[-1])
    has_last = first + len(frames) == local_run.facts.n_frames and first + in_last[0] > 0
    return (
        (frames.cell_id[in_first], in_first) if first == 0 else nothing,
        (frames.cell_id[in_last], in_last) if has_last else nothing,
    )


def _signal(files, local_run, calibration: Calibration, row: int, module: int):
    """Return the signals of a frame in the high stage, float32 (ss, fs); None without any."""
    number = int(local_run.frames.file_of(row, module))
    if number < 0:
        return None
    try:
        values = files.get(number).values(int(local_run.frames.row[row, module]))
    except READ_ERRORS:
        return None
    constants = calibration.modules[module]
    at = calibration.row_of_cell[local_run.frames.cell_id[row]]
    analogue, digital = values.reshape(2, -1)
    signal = (analogue.astype(np.float32) - constants.offset[at, 0]) * constants.gain[at, 0]
    usable = (digital < constants.level1[at]) & ~unpack(constants.bad[0, at]).astype(bool)
    signal[~usable] = np.nan
    return signal.reshape(values.shape[-2:])
