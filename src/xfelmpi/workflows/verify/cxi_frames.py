"""Checks of the frames in CXI and EMC file, all of them, distributed to the ranks.

Frames are read with h5py, one at a time; nothing of the way they were written is used.
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import mpi
from xfelmpi.core.paths import Experiment
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.io.dataset_storage import frame_places
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.mpi.partition import split_trains
from xfelmpi.output.cxi.mask_bits import CXI_BAD, CXI_MISSING
from xfelmpi.output.dragonfly.binning import bin_frames
from xfelmpi.output.emc import EmcFile
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.workflows.verify.dragonfly import readable_emc
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, compare, describe
from xfelmpi.workflows.verify.open_outputs import Outputs

_MASKS_KEPT = 400
"""Different masks that are kept as bits, 128 KiB each: those of all cells."""

SUMS, MASKS, POWDER, EMC = (
    "CXI: frames have the sums of the events file",
    "CXI: masks",
    "powder: hits and misses are the sums of the CXI",
    "EMC: frames are those of the CXI",
)


@dataclass(frozen=True)
class _Facts:
    # what rank 0 tells the others
    entries: tuple[tuple[str, int], ...]
    detector: Detector
    modules_in_run: int
    bin: int
    usable: np.ndarray | None
    has_emc: bool


@dataclass
class FrameFindings:
    """What a rank has found so far.

    Parameters
    ----------
    photons, good : ndarray, int64 (pixel,)
        Sums over the frames of an entry.
    by_check : dict of str to list of Finding
    """

    photons: np.ndarray
    good: np.ndarray
    by_check: dict[str, list[Finding]] = field(
        default_factory=lambda: {name: [] for name in (SUMS, MASKS, EMC)}
    )


def check_frames(
    comm, experiment: Experiment, outputs: Outputs | None
) -> dict[str, list[Finding]] | None:
    """Check all frames of the CXI file; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    outputs : Outputs or None
        On rank 0.

    Returns
    -------
    dict or None
        Findings by check, on rank 0; checks that are not possible are left out.
    """
    facts = mpi.bcast_from_root(comm, lambda: _facts(outputs))
    results: dict[str, list[Finding]] = {}
    for name, n in facts.entries:
        expected = mpi.run_on_root(comm, lambda name=name: _expected(outputs, name))
        bounds = split_trains(np.ones(n, np.int64), comm.size)
        own = mpi.scatter_rows(comm, expected, bounds)
        found = FrameFindings(*np.zeros((2, facts.detector.frame_pixels), np.int64))
        progress = Progress(n, stage=f"checking {name}", unit="frames", found="")
        board = mpi.ProgressBoard(comm, progress.show, n_values=1)
        with mpi.fail_together(comm):
            _check_entry(experiment, facts, name, int(bounds[comm.rank]), own, found, board)
        board.finish()
        progress.close()
        photons = mpi.reduce_sum(comm, found.photons)
        good = mpi.reduce_sum(comm, found.good)
        for check, findings in found.by_check.items():
            everyone = mpi.gather_objects(comm, findings)
            if check != EMC or (facts.has_emc and name == "entry_1"):
                results.setdefault(check, []).extend(everyone)
        if comm.rank == 0 and "powder" in outputs.files:
            sums = _compare_powder(outputs, name, photons, good)
            results.setdefault(POWDER, []).extend(sums)
    return results if comm.rank == 0 else None


def _facts(outputs: Outputs) -> _Facts:
    config, entries = outputs.run.config, []
    for name, rows in outputs.rows_of_entries.items():
        try:
            detector = outputs.files["cxi"][f"{name}/{DETECTOR}"]
            if all(detector[d].shape[0] == len(rows) for d in ("data", "mask")):
                entries.append((name, len(rows)))
        except DAMAGE:
            # the check of the shapes says so
            continue
    has_emc = readable_emc(outputs.experiment.emc, len(outputs.hits))
    usable = None
    if has_emc and config.bin > 1:
        try:
            usable = outputs.usable
        except DAMAGE:
            has_emc = False
    run = outputs.run
    about = (run.detector_type, run.modules_in_run, config.bin)
    return _Facts(tuple(entries), *about, usable, has_emc)


def _expected(outputs: Outputs, name: str) -> np.ndarray:
    """Return photons, litpixels, ones and peak of an entry's frames, int64 (frame, 4)."""
    rows, events, sums = outputs.rows_of_entries[name], outputs.run.events, outputs.run.sums
    columns = (events.photons, events.litpixels, sums.ones, sums.peak)
    return np.stack([column[rows].astype(np.int64) for column in columns], axis=1)


def _check_entry(experiment, facts: _Facts, name, first, expected, found: FrameFindings, board):
    """Check frames of this rank, whose numbers start at `first`."""
    emc = EmcFile(experiment.emc) if facts.has_emc and name == "entry_1" else None
    with open_hdf5(experiment.cxi) as file:
        data, masks = (file[f"{name}/{DETECTOR}/{d}"] for d in ("data", "mask"))
        missing = ~modules_of(facts.modules_in_run, facts.detector.n_modules)
        missing = np.repeat(missing, facts.detector.module_pixels)
        reader = CxiMaskReader(masks, missing, first, len(expected))
        for i, sums in enumerate(expected):
            number = first + i
            where = f"{name}, frame {number}"
            try:
                image = data[number].reshape(-1)
                # numpy finds what is true several times faster than bytes that are not 0
                pixel = np.flatnonzero(image != 0)
                hit = pixel, image[pixel]
                _check_frame(experiment, where, hit, reader.bad(number), sums, found)
                if emc:
                    how = facts.bin, facts.usable
                    found.by_check[EMC] += compare_emc(experiment.emc, emc, number, hit, how)
            except DAMAGE as error:
                text = f"{where}: cannot be read: {describe(error)}"
                found.by_check[SUMS].append(Finding(experiment.cxi.name, text))
            board.update(i + 1)


def _check_frame(experiment, where, hit, mask, sums, found: FrameFindings) -> None:
    path, (pixel, count), (bad, complaint) = experiment.cxi, hit, mask
    count = count.astype(np.int64)
    own = [count.sum(), len(pixel), (count == 1).sum(), count.max(initial=0)]
    names = ("photons", "lit pixels", "pixels with one photon", "most photons")
    for name, a, b in zip(names, own, sums, strict=True):
        if a != b:
            text = f"{where}, {name}: found {a:,}, expected {b:,} as in the events file"
            found.by_check[SUMS].append(Finding(path.name, text))
    if complaint:
        found.by_check[MASKS].append(Finding(path.name, f"{where}: {complaint}"))
    bad_here = int(bad[pixel].sum())
    if bad_here:
        text = f"{where}: photons on {bad_here} bad pixels, expected none"
        found.by_check[MASKS].append(Finding(path.name, text))
    found.photons[pixel] += count
    found.good += ~bad


def compare_emc(
    path: Path,
    emc: EmcFile,
    number: int,
    hit: tuple[np.ndarray, np.ndarray],
    how: tuple[int, np.ndarray | None],
) -> list[Finding]:
    """Compare a frame of an EMC file with the hit that it must be.

    Parameters
    ----------
    path : Path
        Of the EMC file.
    emc : EmcFile
    number : int
        Of the frame.
    hit : (ndarray, ndarray)
        Pixels with photons, int64 (entry,), ascending, and their counts.
    how : (int, ndarray or None)
        Edge of a block in pixels, and for blocks the pixels that are summed, bool (module, ss, fs).
    """
    pixel, count = hit
    indptr = np.array([0, len(pixel)])
    frame = SparseFrames(indptr, pixel.astype(np.uint32), count.astype(np.uint16))
    n, usable = how
    if n > 1:
        frame = bin_frames(frame, n, usable)
    other, what = emc.frame(number), f"frame {number}"
    return [
        *compare(path, f"{what}, pixels", other.pixel, frame.pixel, "entry"),
        *compare(path, f"{what}, photons", other.count, frame.count, "entry"),
    ]


def _compare_powder(outputs: Outputs, name: str, photons, good) -> list[Finding]:
    suffix = {"entry_1": "_hits", "entry_2": "_misses"}[name]
    path = outputs.experiment.powder
    try:
        return [
            *compare(path, f"powder{suffix}", outputs.powder(f"powder{suffix}"), photons, "pixel"),
            *compare(
                path, f"good_frames{suffix}", outputs.powder(f"good_frames{suffix}"), good, "pixel"
            ),
        ]
    except DAMAGE as error:
        return [Finding(path.name, f"cannot be read: {describe(error)}")]


class CxiMaskReader:
    """Reads masks of an entry of a CXI file; what shares a chunk is read once.

    Parameters
    ----------
    masks : h5py.Dataset
    missing : ndarray, bool (pixel,)
        Pixels that must be missing in every mask.
    first, n : int
        First frame that is going to be asked for, and how many.
    """

    def __init__(self, masks: h5py.Dataset, missing: np.ndarray, first: int, n: int):
        self._masks = masks
        self._missing = missing * np.uint32(CXI_MISSING)
        self._known: dict[int, tuple[np.ndarray, str]] = {}
        self._first, self._places = first, frame_places(masks, np.arange(first, first + n))

    def bad(self, number: int) -> tuple[np.ndarray, str]:
        """Return a frame's bad pixels, bool (pixel,), and what is wrong with the mask, if any."""
        place = int(self._places[number - self._first])
        if place not in self._known:
            mask = self._masks[number].reshape(-1)
            wrong = np.count_nonzero((mask & ~np.uint32(CXI_BAD)) != self._missing)
            complaint = f"{wrong:,} pixels with impossible mask bits" if wrong else ""
            if len(self._known) == _MASKS_KEPT:
                self._known.clear()
            self._known[place] = np.packbits(mask != 0), complaint
        bits, complaint = self._known[place]
        return np.unpackbits(bits).view(bool), complaint
