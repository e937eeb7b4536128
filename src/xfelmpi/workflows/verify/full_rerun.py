"""All frames of the run once more, by the same pass: sums, powder, decision and hits."""

from functools import partial
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.reduction.dead_modules import without_dead_modules
from xfelmpi.reduction.frame_loop import run_pass, train_source
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.observers import PassProgress, SumKeeper
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.run_sums import sum_powder
from xfelmpi.workflows.inputs import make_sparsifier
from xfelmpi.workflows.process import decide
from xfelmpi.workflows.verify.cxi_frames import CxiMaskReader
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, compare, describe
from xfelmpi.workflows.verify.open_outputs import Outputs
from xfelmpi.workflows.verify.run_data import RunData

SUMS = "run, all frames: sums"
DECISION = "run, all frames: scores and decision"
POWDER = "run, all frames: powder"
HITS = "run, all frames: hits and masks of the CXI"

_SUMS = {"lit": "litpixels", "photons": "photons", "modules": "modules", "ones": "sums/ones"}
_SUMS |= {"peak": "sums/peak", "entries": "sums/entries", "switched": "gain_switched"}
_DECISION = ("hitscore", "is_hit", "is_miss", "hit_median", "hit_std", "hit_threshold", "hit_sigma")


class SumComparison(SumKeeper):
    """Keeps the sums of every frame, and compares all with those of the events file at the end.

    Parameters
    ----------
    path : Path
        The events file.
    in_file, sums : FrameSums
        Of all frames of the rank; the latter to be filled.
    first : int
        Row of the first of them in the file.

    Attributes
    ----------
    findings : list of Finding
    """

    def __init__(self, path: Path, in_file: FrameSums, sums: FrameSums, first: int):
        super().__init__(sums)
        self._path, self._in_file, self._first = path, in_file, first
        self.findings: list[Finding] = []

    def finish(self) -> None:
        """Compare."""
        for name, column in _SUMS.items():
            pair = (getattr(self._in_file, name), getattr(self._sums, name))
            first = self._first * pair[0][:1].size
            self.findings += compare(self._path, column, *pair, first=first)


def check_all(job: RunJob, data: RunData, outputs: Outputs | None) -> dict[str, list[Finding]]:
    """Read the whole run and compare; collective. Returns findings by check, on rank 0.

    Parameters
    ----------
    job : RunJob
    data : RunData
    outputs : Outputs or None
        On rank 0.
    """
    comm, experiment, config = job.comm, job.experiment, job.config
    local_run, masks, first = data.local_run, data.inputs.masks, data.local_run.first_frame
    sparsifier = make_sparsifier(config, data.inputs, data.files)
    sums = FrameSums.zeros(len(local_run.frames))
    powder = PowderSum.zeros(masks.good.shape[1], local_run.facts.detector_type)
    progress = Progress(local_run.facts.n_frames, found="")
    compared = SumComparison(experiment.events, data.sums, sums, first)
    run_pass(
        train_source(local_run.frames, sums, sparsifier.capacity, local_run.facts.kind),
        partial(sparsifier.frames, powder=powder, name_invalid=True),
        (compared, PassProgress(comm, progress)),
    )
    progress.close()
    path = experiment.events
    findings: dict[str, list[Finding]] = {SUMS: compared.findings, DECISION: [], HITS: []}
    local_run = without_dead_modules(comm, local_run, sums)
    events = decide(job, local_run, masks, sums)
    for name in _DECISION:
        pair = (getattr(data.events, name), getattr(events, name))
        findings[DECISION] += compare(path, name, *pair, first=first)
    total = sum_powder(comm, masks, powder)
    if mpi.allreduce_max(comm, len(findings[SUMS])):
        # frames with other sums would stop the reading of the hits
        del findings[HITS]
    else:
        reader = HitReader(local_run.frames, data.sums, sparsifier, masks)
        findings[HITS] = _check_entries(comm, experiment, config, data, reader)
    gathered = {name: mpi.gather_objects(comm, own) for name, own in findings.items()}
    if comm.rank == 0:
        gathered[POWDER] = _check_powder(outputs, total)
    return gathered


def _check_powder(outputs: Outputs, total) -> list[Finding]:
    path, findings = outputs.experiment.powder, []
    for name, values in zip(("powder", "good_frames"), total, strict=True):
        try:
            found = outputs.powder(name)
        except DAMAGE as error:
            findings.append(Finding(path.name, f"{name} cannot be read: {describe(error)}"))
            continue
        findings += compare(path, name, found, values.reshape(-1).astype(np.int64), "pixel")
    return findings


def _check_entries(comm, experiment, config: Config, data: RunData, reader: HitReader):
    """Compare the hits, and misses if they are there, of this rank with the CXI; collective."""
    findings: list[Finding] = []
    entries = {"entry_1": data.events.is_hit}
    if config.with_misses:
        entries["entry_2"] = data.events.is_miss
    for name, chosen in entries.items():
        rows = np.flatnonzero(chosen)
        before, _ = mpi.exscan_and_total(comm, len(rows))
        with mpi.fail_together(comm):
            findings += _check_hits(experiment, name, before, rows, reader, data)
    return findings


def _check_hits(experiment, name: str, first: int, rows, reader: HitReader, data: RunData):
    """Compare frames of this rank with those of an entry, where they start with number `first`."""
    findings: list[Finding] = []
    powder = PowderSum.zeros(data.inputs.masks.good.shape[1], data.local_run.facts.detector_type)
    number, path = first, experiment.cxi
    try:
        with open_hdf5(path) as file:
            images, masks = (file[f"{name}/{DETECTOR}/{d}"] for d in ("data", "mask"))
            in_file = CxiMaskReader(masks, ~_pixels_in_run(data), first, len(rows))
            for frames, sparse in reader.stream(rows, powder):
                for i, row in enumerate(frames):
                    entries = slice(sparse.indptr[i], sparse.indptr[i + 1])
                    pixel, count = sparse.pixel[entries], sparse.count[entries]
                    findings += compare_hit(
                        path,
                        f"{name}, frame {number}",
                        (images[number], ~in_file.bad(number)[0]),
                        dense(pixel, count, powder.photons.size),
                        good_pixels(data, int(row), pixel[count == 0]),
                    )
                    number += 1
    except DAMAGE as error:
        findings.append(Finding(path.name, f"{name}: cannot be read: {describe(error)}"))
    return findings


def dense(pixel: np.ndarray, count: np.ndarray, n_pixels: int) -> np.ndarray:
    """Return photons as an image, uint16 (n_pixels,)."""
    image = np.zeros(n_pixels, np.uint16)
    image[pixel] = count
    return image


def good_pixels(data: RunData, row: int, bad_here: np.ndarray) -> np.ndarray:
    """Return the good pixels of one frame of this rank, bool (pixel,).

    Parameters
    ----------
    data : RunData
    row : int
        Among the frames of this rank.
    bad_here : ndarray, int (pixel,)
        Those that are bad in this frame only.
    """
    masks = data.inputs.masks
    of_cell = masks.row_of_cell[data.local_run.frames.cell_id[row]]
    good = unpack(masks.good[:, of_cell]).reshape(-1).astype(bool)
    good[bad_here] = False
    return good & _pixels_in_run(data)


def _pixels_in_run(data: RunData) -> np.ndarray:
    """Return which pixels belong to modules of the run, bool (pixel,)."""
    masks = data.inputs.masks
    there = modules_of(data.local_run.facts.modules_in_run, masks.n_modules)
    return np.repeat(there, masks.module_pixels)


def compare_hit(path: Path, what: str, in_file, image, good) -> list[Finding]:
    """Compare photons and good pixels of a CXI file with those expected, (pixel,) each."""
    data, good_in_file = (values.reshape(-1) for values in in_file)
    return [
        *compare(path, f"{what}, photons", data, image, "pixel"),
        *compare(path, f"{what}, good pixels", good_in_file, good, "pixel"),
    ]
