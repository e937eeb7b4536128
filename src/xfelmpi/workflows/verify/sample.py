"""Some frames of the run, read by other means than the job's: h5py and numpy, pixel by pixel.

Corrected data: frames, ids and masks of the frames come from the files by h5py, photons by numpy;
nothing of the kernels, of the chunk index or of the sparse lists is used. What the masks of files
and constants say is taken from where the job takes it. Raw data: the kernels read the frames again.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.sparse_frames import MAX_COUNT
from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.io.virtual_sources import lacking
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.workflows.inputs import make_sparsifier
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, describe
from xfelmpi.workflows.verify.full_rerun import compare_hit, dense, good_pixels
from xfelmpi.workflows.verify.run_data import RunData

HITS_PER_FRAME = 0.1
"""Hits that are drawn besides, of the frames that are asked for."""

_SEED = 20240519

_FILES_OPEN = 48
"""Two or three for every module."""

FrameRead = tuple[np.ndarray, np.ndarray, int, list[str]]
"""A frame: photons, int64 (pixel,), 0 where a pixel is bad; pixels that are bad in this frame
only, bool (pixel,); bit field of the modules that were read; what is wrong with its ids."""


def draw(is_hit: np.ndarray, was_read: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of a sample, int64 (frame,), ascending: any frames, and some hits.

    Parameters
    ----------
    is_hit, was_read : ndarray, bool (frame,)
        Of the run; only frames that were read are drawn.
    n : int
        How many of any kind; the same frames are drawn every time.
    """
    random = np.random.default_rng(_SEED)
    hits = np.flatnonzero(is_hit)
    n_hits = min(len(hits), max(1, round(n * HITS_PER_FRAME)))
    read = np.flatnonzero(was_read)
    any_kind = read[random.choice(len(read), min(n, len(read)), replace=False)]
    return np.union1d(any_kind, random.choice(hits, n_hits, replace=False))


def check_sample(job: RunJob, data: RunData, rows: np.ndarray) -> list[Finding]:
    """Compare frames of the run with events and CXI file; collective. Findings are on rank 0.

    Parameters
    ----------
    job : RunJob
    data : RunData
    rows : ndarray, int (frame,)
        Rows of the events file, the same on all ranks.
    """
    comm, experiment, config = job.comm, job.experiment, job.config
    first = data.local_run.first_frame
    own = rows[(rows >= first) & (rows < first + len(data.local_run.frames))] - first
    before, _ = mpi.exscan_and_total(comm, int(data.events.is_hit.sum()))
    number = before + np.cumsum(data.events.is_hit) - 1
    opened = _RunFiles()
    raw = data.local_run.facts.kind == "raw"
    read = _kernel_reader(config, data) if raw else _h5py_reader(config, data, opened)
    found: list[Finding] = []
    with mpi.fail_together(comm):
        for row in own.tolist():
            try:
                hit = int(number[row]) if data.events.is_hit[row] else -1
                found += _check_frame(experiment, data, row, hit, read(row))
            except DAMAGE as error:
                text = f"row {first + row}: cannot be compared: {describe(error)}"
                found.append(Finding(experiment.events.name, text))
    opened.close()
    return mpi.gather_objects(comm, found)


def _check_frame(experiment, data: RunData, row: int, hit: int, frame: FrameRead) -> list[Finding]:
    """Compare one frame as it was read with the events, and with hit number `hit` if not -1."""
    image, bad_here, modules, complaints = frame
    events, sums, where = data.events, data.sums, f"row {data.local_run.first_frame + row}"
    found = [Finding(experiment.events.name, f"{where}: {text}") for text in complaints]
    own = {
        "litpixels": (events.litpixels, np.count_nonzero(image)),
        "photons": (events.photons, int(image.sum())),
        "sums/ones": (sums.ones, int((image == 1).sum())),
        "sums/peak": (sums.peak, int(image.max(initial=0))),
        "modules": (events.modules, modules),
    }
    for name, (column, value) in own.items():
        if column[row] != value:
            text = f"{where}, {name}: found {column[row]}, but the run has {value}"
            found.append(Finding(experiment.events.name, text))
    if hit >= 0:
        good = good_pixels(data, row, np.flatnonzero(bad_here))
        with open_hdf5(experiment.cxi) as file:
            photons, mask = (file[f"entry_1/{DETECTOR}/{name}"][hit] for name in ("data", "mask"))
        found += compare_hit(experiment.cxi, f"frame {hit}", (photons, mask == 0), image, good)
    return found


def _kernel_reader(config: Config, data: RunData) -> Callable[[int], FrameRead]:
    """Return what reads a frame of raw data by its row, by the same kernels as the job."""
    sparsifier = make_sparsifier(config, data.inputs, data.files)
    powder = PowderSum.zeros(data.inputs.masks.good.shape[1], data.local_run.facts.detector_type)

    def read(row: int) -> FrameRead:
        """Read a frame by itself, not in a block as the job does, and make its list dense."""
        block = sparsifier.frames(data.local_run.frames[row : row + 1], powder)
        sparse = block.take(np.arange(1))
        image = dense(sparse.pixel, sparse.count, powder.photons.size)
        bad_here = np.zeros(len(image), bool)
        bad_here[sparse.pixel[sparse.count == 0]] = True
        return image.astype(np.int64), bad_here, int(block.sums.modules[0]), []

    return read


class _RunFiles:
    """The run's files, opened with h5py; few at a time."""

    def __init__(self):
        self._opened: dict[str, h5py.File] = {}

    def get(self, path: str) -> h5py.File:
        """Return a file, open for reading."""
        if path not in self._opened:
            if len(self._opened) == _FILES_OPEN:
                self.close()
            self._opened[path] = open_hdf5(path)
        return self._opened[path]

    def close(self) -> None:
        """Close all of them."""
        for file in self._opened.values():
            file.close()
        self._opened.clear()


def _h5py_reader(config: Config, data: RunData, opened: _RunFiles) -> Callable[[int], FrameRead]:
    """Return what reads a frame of corrected data by its row, by h5py and numpy alone."""

    def read(row: int) -> FrameRead:
        """Read all modules that have the frame; of those that cannot be read, the bit is unset."""
        table = data.local_run.frames
        good = good_pixels(data, row, np.empty(0, np.int64))
        n_pixels = len(good) // table.n_modules
        image = np.zeros(len(good), np.int64)
        bad_here = np.zeros(len(good), bool)
        modules, complaints = 0, []
        for module in range(table.n_modules):
            if table.file_of(row, module) < 0:
                continue
            file = data.local_run.facts.files[table.file_of(row, module)]
            ids = (int(table.train_id[row]), int(table.cell_id[row]))
            found = _read_module(opened, file, int(table.row[row, module]), ids, data, config)
            if found is None:
                continue
            if isinstance(found, str):
                complaints.append(found)
                continue
            pixels = slice(module * n_pixels, (module + 1) * n_pixels)
            usable = good[pixels]
            image[pixels] = np.where(usable, found[0], 0)
            bad_here[pixels] = found[1] & usable
            modules |= 1 << module
        return image, bad_here, modules, complaints

    return read


def _read_module(
    opened: _RunFiles, file, row: int, ids: tuple[int, int], data: RunData, config: Config
):
    """Return a module's photons and bad pixels in a frame, or what is wrong; None: unreadable.

    Parameters
    ----------
    opened : _RunFiles
    file : ModuleFile
    row : int
        In the file.
    ids : (int, int)
        Train and cell that must stand there.
    data : RunData
    config : Config
    """
    frame_bits = data.inputs.masks.frame_bits
    try:
        # not the dataset's own parent, which is in another file if it is behind a link
        names = data.local_run.facts.detector_type.datasets
        frames = opened.get(file.path)[file.dataset.removesuffix(f"/{names.data}")]
        at = divmod(row, file.frames_per_train) if file.frames_per_train else (row,)
        in_file = (
            int(frames[names.train_id][at[0]].reshape(-1)[0]),
            int(frames[names.cell_id][at].reshape(-1)[0]),
        )
        if in_file != ids:
            name = Path(file.path).name
            return f"{name} has train and cell {in_file} in row {row}, expected {ids}"
        made_up = frame_bits and _is_made_up(frames[names.mask], at[0])
        if made_up or _is_missing(frames[names.data], at):
            return None
        values = frames[names.data][at].reshape(-1)
        mask = frames[names.mask][at].reshape(-1) if frame_bits else None
    except (OSError, KeyError, ValueError):
        return None
    photons, bad = photons_of(values, config.adu_per_photon, config.photon_threshold)
    if mask is not None:
        bad |= mask & np.uint32(frame_bits) != 0
    return np.where(bad, 0, photons), bad


def _is_missing(data: h5py.Dataset, at: tuple[int, ...]) -> bool:
    """Return whether HDF5 would make up a frame, given by its place along the first axes."""
    require_readable(data)
    if data.is_virtual or data.external is not None or data.chunks is None:
        return bool(lacking(data, np.array(at[:1])))
    first = (number // step * step for number, step in zip(at, data.chunks, strict=False))
    place = (*first, *(0,) * (data.ndim - len(at)))
    return data.id.get_chunk_info_by_coord(place).byte_offset is None


def _is_made_up(mask: h5py.Dataset, row: int) -> bool:
    """Return whether a frame's own mask is not there; in chunks never written the fill value is."""
    outside = mask.is_virtual or mask.external is not None
    return outside and bool(lacking(mask, np.array([row])))


def photons_of(values: np.ndarray, adu_per_photon: float, threshold: float):
    """Return photons, int64 (pixel,), and which pixels are bad in this frame, bool (pixel,).

    As docs/formats.md has it: integers are photons as they stand, floats are
    floor(signal / adu_per_photon + 1 − threshold), every step in float32.
    """
    if values.dtype.kind in "iu":
        bad = values > MAX_COUNT
        return np.where(bad | (values < 0), 0, values).astype(np.int64), bad
    with np.errstate(over="ignore", invalid="ignore"):
        signal = values.astype(np.float32)
        photons = signal / np.float32(adu_per_photon) + np.float32(1) - np.float32(threshold)
        photons = np.floor(photons)
        bad = ~np.isfinite(signal) | (photons > MAX_COUNT)
    return np.where(bad | ~(photons > 0), 0, photons).astype(np.int64), bad
