"""The signal of one photon that a few frames of float data show, against --adu-per-photon."""

import math

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.log import plural
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.run.distribution import LocalRun
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_bytes import READ_ERRORS
from xfelmpi.run.frames.frame_masks import MaskReader

SAMPLED_FRAMES = 16
"""Frames that are looked at, evenly from the whole run."""

SAMPLED_MODULES = 4
"""Modules that are looked at of each of them, others of the next one."""

_QUARTERS = ("first", "second", "third", "last")

PARTS = len(_QUARTERS)
"""Parts of the run whose signals are looked at by themselves, as those of every module are."""

_DROPPED_BITS = 18
"""Of a float32: a bin of the histogram is 1.6 to 3.1 % wide, relative to its value."""

_BINS = 1 << (31 - _DROPPED_BITS)

_EDGES = (np.arange(_BINS, dtype=np.uint32) << _DROPPED_BITS).view(np.float32)
"""Lower edges, ascending; those of the last bins are not finite."""

_N_FINITE = int(np.isfinite(_EDGES).sum())

_NOISE_WIDTHS = 4.0
"""Values above so many widths of the noise are signals."""

SIGMA_OF_MEDIAN = 1.4826
"""Width of a normal distribution, from the median of its absolute values."""

_LEAST_NEGATIVE = 0.01
"""Share of pixels below zero that tells the width of the noise."""

_LEAST_SIGNALS = 300
_LEAST_SHARE = 0.5
"""Share of the signals that the peak of single photons has in frames that are weak enough."""

_PEAK_RATIO = 1.35
"""Upper over lower end of a peak, which is wide by noise and by charge shared among pixels."""

_LEAST_RATIO, _LARGEST_RATIO = 0.65, 1.3
"""The peak over --adu-per-photon: beyond, one or two photons are not counted as such."""


class SignalHistogram:
    """How many good pixels have which signal, in exact numbers: the same on any number of ranks.

    Parameters
    ----------
    counts : ndarray, int64 (3, bin)
        Pixels by absolute value; those with a positive value; and the sum of what their values are
        above the bin's lower edge, in units of the last bit of a float32.
    """

    def __init__(self, counts: np.ndarray | None = None):
        self.counts = np.zeros((3, _BINS), np.int64) if counts is None else counts

    def add(self, values: np.ndarray) -> None:
        """Add the values of good pixels, any shape; what is not finite is left out."""
        values = values.astype(np.float32, copy=False).reshape(-1)
        finite = np.isfinite(values)
        bits = (values if finite.all() else values[finite]).view(np.uint32)
        # the sign is the highest bit
        place = (bits >> np.uint32(_DROPPED_BITS)).astype(np.intp)
        above = bits & np.uint32((1 << _DROPPED_BITS) - 1)
        positive, negative = np.bincount(place, minlength=2 * _BINS).reshape(2, _BINS)
        self.counts[0] += positive + negative
        self.counts[1] += positive
        self.counts[1, 0] -= len(bits) - np.count_nonzero(bits)
        sums = np.bincount(place, above, minlength=2 * _BINS)[:_BINS]
        self.counts[2] += sums.astype(np.int64)

    def photon_signal(self) -> float | None:
        """Return the signal of most single photons, None if the values show none clearly.

        It is a peak above the noise that holds at least half of the signals, with a valley below.
        """
        edges = _EDGES[:_N_FINITE].astype(np.float64)
        every, positive, above = (row[:_N_FINITE] for row in self.counts)
        if not every.sum():
            return None
        # below zero, there is noise alone
        noisy = every - positive
        noisy[0] = 0
        if noisy.sum() < _LEAST_NEGATIVE * every.sum():
            noisy = every
        middle = int(np.searchsorted(np.cumsum(noisy), noisy.sum() / 2))
        noise = SIGMA_OF_MEDIAN * float(edges[middle])
        first = max(1, int(np.searchsorted(edges, _NOISE_WIDTHS * noise)))
        signals = int(positive[first:].sum())
        if signals < _LEAST_SIGNALS:
            return None
        before = np.concatenate(([0], np.cumsum(positive)))
        ends = np.searchsorted(edges, edges * _PEAK_RATIO)
        inside = before[ends] - before[:-1]
        start = first + int(np.argmax(inside[first:]))
        stop, below = int(ends[start]), int(np.searchsorted(edges, edges[start] / _PEAK_RATIO))
        valley = int(before[start] - before[below])
        if inside[start] < _LEAST_SHARE * signals or valley > inside[start] / 2:
            return None
        last_bit = np.diff(_EDGES[: _N_FINITE + 1].astype(np.float64)) / (1 << _DROPPED_BITS)
        peak = slice(start, stop)
        total = (positive[peak] * edges[peak] + above[peak] * last_bit[peak]).sum()
        return float(total / inside[start])


def doubtful_signal(histogram: SignalHistogram, adu_per_photon: float) -> tuple[str, ...]:
    """Return a warning if the values contradict `adu_per_photon`, else nothing."""
    peak = _other_peak(histogram, adu_per_photon)
    if peak is None:
        return ()
    return (
        f"most signals of the frames are near {peak:.2g}, which is likely one photon, but "
        f"--adu-per-photon is {adu_per_photon:g}: photons are miscounted. Give --adu-per-photon "
        f"{peak:.2g}, or the exact value",
    )


def doubtful_parts(histograms: list[SignalHistogram], adu_per_photon: float) -> tuple[str, ...]:
    """Return a warning if a part of the frames is in other units than the others, else nothing.

    Parameters
    ----------
    histograms : list of SignalHistogram
        Of all frames; of `PARTS` parts of the run, one after the other; of every module.
    adu_per_photon : float
    """
    parts, modules = (
        [(n, peak) for n, h in enumerate(some) if (peak := _other_peak(h, adu_per_photon))]
        for some in (histograms[1 : 1 + PARTS], histograms[1 + PARTS :])
    )
    if not parts and not modules:
        return ()
    # most modules are in other units where a part of the run is
    found = parts or modules
    numbers = [n for n, _ in found]
    where = f"{plural(len(found), 'module')} {', '.join(map(str, numbers))}"
    if parts:
        where = f"the {' and '.join(_QUARTERS[n] for n in numbers)} quarter of the run"
    return (
        f"most signals of {where} are near {found[0][1]:.2g}, which is likely one photon, but "
        f"--adu-per-photon is {adu_per_photon:g}: photons are miscounted there. Were these data "
        "corrected in another way than the others?",
    )


def _other_peak(histogram: SignalHistogram, adu_per_photon: float) -> float | None:
    """Return the signal of single photons if it contradicts `adu_per_photon`, else None."""
    peak = histogram.photon_signal()
    fits = peak is None or _LEAST_RATIO <= peak / adu_per_photon <= _LARGEST_RATIO
    return None if fits else peak


def check_photon_signal(
    comm, files: FilePool, local_run: LocalRun, masks: Masks, adu_per_photon: float
) -> tuple[str, ...]:
    """Return a warning on rank 0 if corrected float data contradict `adu_per_photon`; collective.

    Parameters
    ----------
    comm : Intracomm
    files : FilePool
    local_run : LocalRun
    masks : Masks
    adu_per_photon : float
    """
    frames, about = local_run.frames, local_run.facts.files
    reader = MaskReader(files)
    counts = np.zeros((1 + PARTS + frames.n_modules, *SignalHistogram().counts.shape), np.int64)
    wanted = np.unique(
        np.linspace(0, local_run.facts.n_frames - 1, SAMPLED_FRAMES).round().astype(np.int64)
    )
    with mpi.fail_together(comm):
        for number, row in enumerate((wanted - local_run.first_frame).tolist()):
            if not 0 <= row < len(frames):
                continue
            modules = np.flatnonzero(frames.files[frames.group[row]] >= 0)
            step = max(1, math.ceil(len(modules) / SAMPLED_MODULES))
            part = number * PARTS // len(wanted)
            for module in modules[number % step :: step].tolist():
                own = SignalHistogram()
                _add_module(own, files, about, reader, frames[row : row + 1], module, masks)
                for place in (0, 1 + part, 1 + PARTS + module):
                    counts[place] += own.counts
    counts = mpi.allreduce_sum(comm, counts)
    if comm.rank:
        return ()
    found = [SignalHistogram(some) for some in counts]
    return doubtful_signal(found[0], adu_per_photon) or doubtful_parts(found, adu_per_photon)


def _add_module(histogram, files, about, reader, frame: FrameTable, module: int, masks) -> None:
    """Add the good pixels of one module of one frame; what cannot be read is said by the pass."""
    number, rows = int(frame.file_of(0, module)), frame.row[:, module]
    if about[number].dtype and np.dtype(about[number].dtype).kind != "f":
        return
    good = masks.good[module, masks.row_of_cell[frame.cell_id[0]]]
    try:
        values = files.get(number).values(int(rows[0])).reshape(-1)
        if masks.frame_bits:
            bad, status = reader.bad_pixels(number, rows, masks.frame_bits)
            good = good & ~bad[0] if not status[0] else np.zeros_like(good)
    except READ_ERRORS:
        return
    if values.dtype.kind == "f":
        histogram.add(values[unpack(good).astype(bool)])
