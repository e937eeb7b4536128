"""Good pixels: masks from files and of the run, combined by AND, as bits, once per node."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from xfelmpi.calibration.mask_files import (
    MaskFile,
    all_pixels,
    bad_bits,
    find_mask_files,
    find_region,
    join_mask,
    odd_numbers,
)
from xfelmpi.calibration.static_mask import add_static, find_drift
from xfelmpi.core.config.parts import MaskSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.bad_pixels import ALL_MASK_BITS, BAD_PIXELS, USUAL_MASK_BITS
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.mpi import (
    NodeSharedArray,
    allreduce_max,
    allreduce_sum,
    bcast_from_root,
    fail_together,
    holders,
    private_limit,
)
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.mask_samples import MaskSamples


@dataclass(frozen=True)
class Masks:
    """Which pixels count.

    Parameters
    ----------
    good : ndarray, uint8 (module, row, byte)
        Bits of the good pixels; one row per cell of the run, or one row for all cells.
    row_of_cell : ndarray, int32 (max_cells,)
        Row of every memory cell.
    region : ndarray, uint8 (module, byte)
        Bits of the hit-finding region.
    notes : tuple of str
        What was used, for the log.
    problems : tuple of Problem
        The same ones on several ranks.
    frame_bits : int
        Bits of the frames' own masks that make a pixel bad as well; 0: these do not count.
    warnings : tuple of str
        For the log.
    files : tuple of UsedFile
        Where masks and region come from, but for the files of the run.
    counted : ndarray, int64 (module, row), or None
        Good pixels of the region, if the ranks have counted them together.
    """

    good: np.ndarray
    row_of_cell: np.ndarray
    region: np.ndarray
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    frame_bits: int = 0
    warnings: tuple[str, ...] = ()
    files: tuple[UsedFile, ...] = ()
    counted: np.ndarray | None = None

    @classmethod
    def all_good(cls, detector: Detector) -> "Masks":
        """Return masks that call every pixel good: those of frames that bring their bad pixels."""
        good = np.full((detector.n_modules, 1, detector.module_bytes), 0xFF, np.uint8)
        return cls(good, np.zeros(detector.max_cells, np.int32), good[:, 0])

    @property
    def n_modules(self) -> int:
        """Modules of the detector."""
        return self.good.shape[0]

    @property
    def module_pixels(self) -> int:
        """Pixels of a module."""
        return 8 * self.good.shape[2]

    @property
    def frame_pixels(self) -> int:
        """Pixels of a frame."""
        return self.n_modules * self.module_pixels

    @cached_property
    def good_in_region(self) -> np.ndarray:
        """Good pixels of the region, int64 (module, max_cells), by memory cell."""
        n = self.counted
        if n is None:
            n = count_good(self.good, self.region, range(self.n_modules))
        return n[:, self.row_of_cell]

    @cached_property
    def region_pixels(self) -> int:
        """Number of pixels of the region, good or not."""
        return int(np.bitwise_count(self.region).sum(dtype=np.int64))


def count_good(good: np.ndarray, region: np.ndarray, modules: range) -> np.ndarray:
    """Return the good pixels of the region in some modules, 0 in others, int64 (module, row)."""
    n = np.zeros(good.shape[:2], np.int64)
    for m in modules:
        n[m] = np.bitwise_count(good[m] & region[m]).sum(axis=1, dtype=np.int64)
    return n


_ROLES = ("per-cell mask", "global mask")


@dataclass(frozen=True)
class _MaskChoice:
    # which masks are used, as rank 0 decides
    files: tuple[MaskFile, ...]
    frame_bits: int
    static_bits: int
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def load_masks(
    comm,
    experiment,
    settings: MaskSettings,
    cells: np.ndarray,
    calibration=None,
    *,
    files: FilePool | None = None,
    samples: MaskSamples | None = None,
    only_global: bool = False,
    detector: Detector,
    bad: np.ndarray | None = None,
) -> Masks:
    """Find, check and read the masks; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    settings : MaskSettings
        ``mask``, ``mask_bits``, ``cell_mask``, ``global_mask``, ``hit_mask``, ``hit_modules``.
    cells : ndarray, int (cell,)
        Cells of the run, the same on all ranks; one that the per-cell mask lacks is a problem.
    calibration : Calibration, optional
        Constants of raw data, whose bad pixels join the masks.
    files : FilePool, optional
        The files of the run.
    samples : MaskSamples, optional
        Some of its frames, if the files hold masks.
    only_global : bool
        Leave out the per-cell mask and the hit-finding region.
    detector : Detector
        That of the run.
    bad : ndarray, bool (module, ss, fs), optional
        Further pixels that are bad in all frames.

    Raises
    ------
    InputError
        If a named mask is missing, or one has the wrong shape or dtype.
    """
    about = (experiment, settings, cells, files, samples, only_global, detector)
    choice = bcast_from_root(comm, lambda: _choose_masks(*about))
    used = tuple(UsedFile(_ROLES[file.cells is None], str(file.path)) for file in choice.files)
    region, region_file, *region_notes = all_pixels(detector), ()
    if not only_global:
        find = partial(find_region, experiment, settings, detector)
        region, region_file, *region_notes = bcast_from_root(comm, find)
    # without anything per cell, one row serves all cells
    per_cell = calibration is not None or any(file.cells is not None for file in choice.files)
    rows = cells if per_cell or choice.static_bits else cells[:0]
    limit = private_limit(settings.memory_per_rank)
    shared, odd = _read_shared(comm, choice.files, rows, calibration, detector, limit, bad)
    problems, drift, warnings = (), (), ()
    if choice.static_bits:
        problems, drift, warnings = _apply_static(comm, shared, files, samples, choice.static_bits)
    good, mine = shared.array, range(comm.rank, detector.n_modules, comm.size)
    return Masks(
        good=good,
        row_of_cell=detector.rows_of_cells(rows),
        region=region,
        notes=(*choice.notes, *drift, *region_notes),
        problems=(*choice.problems, *problems),
        frame_bits=choice.frame_bits,
        warnings=(*odd, *warnings),
        files=(*used, *region_file),
        counted=allreduce_sum(comm, count_good(good, region, mine)),
    )


def load_mask(comm, file: MaskFile, cells: np.ndarray, memory_per_rank: int, detector) -> Masks:
    """Read one mask per cell, once per node; collective.

    Parameters
    ----------
    comm : Intracomm
    file : MaskFile
    cells : ndarray, int (cell,)
        Which cells. All pixels are good in those that the file lacks.
    memory_per_rank : int
        In bytes, where nothing can be shared.
    detector : Detector

    Raises
    ------
    InputError
        On all ranks, if it cannot be read, or floating-point values are neither 0 nor 1.
    """
    limit = private_limit(memory_per_rank)
    shared, odd = _read_shared(comm, (file,), cells, None, detector, limit, None)
    rows = detector.rows_of_cells(cells)
    return Masks(shared.array, rows, all_pixels(detector), warnings=odd)


def _apply_static(
    comm, shared: NodeSharedArray, files: FilePool, samples: MaskSamples, bits: int
) -> tuple[list[Problem], tuple, tuple]:
    """Mask what the frames' own masks call bad all the time; return problems, notes, warnings."""
    with fail_together(comm):
        problems = add_static(shared, files, samples.first, bits)
    shared.ready()
    drift, warnings = find_drift(comm, files, samples, bits, 8 * shared.array.shape[2])
    return problems, drift, warnings


def _read_shared(
    comm,
    files: tuple[MaskFile, ...],
    rows: np.ndarray,
    calibration,
    detector: Detector,
    limit: int,
    bad: np.ndarray | None,
) -> tuple[NodeSharedArray, tuple[str, ...]]:
    """Read good pixels of files and constants, the modules shared by the ranks of the node.

    Returns warnings as well.
    """
    n_modules, n_bytes = detector.n_modules, detector.module_bytes
    layout = (n_modules, max(1, len(rows)), n_bytes), np.uint8
    shared = NodeSharedArray(holders(comm, [layout], limit), *layout)
    with fail_together(comm):
        for module in range(shared.node_rank, n_modules, shared.node_size):
            shared.array[module] = module_mask(calibration, bad, module)
    shared.ready()
    odd: tuple[str, ...] = ()
    for file in files:
        # one file after the other: blocks of two may be of the same bytes
        with fail_together(comm):
            largest = join_mask(file, shared.array, rows, shared.node_rank, shared.node_size)
        shared.ready()
        odd += odd_numbers(file, allreduce_max(comm, largest))
    return shared, odd


def module_mask(calibration, bad: np.ndarray | None, module: int) -> np.ndarray:
    """Return the bits of what constants and geometry call good, uint8 (row, byte) or less."""
    good = np.full((1, 1), 0xFF, np.uint8)
    if calibration is not None:
        good = good & calibration.good_in_high_stage(module)
    if bad is not None:
        good = good & pack(~bad[module])
    return good


def _choose_masks(
    experiment, settings, cells, pool: FilePool | None, samples, only_global, detector
) -> _MaskChoice:
    """Decide which masks are used.

    Raises
    ------
    InputError
        If one that is named is not there, or cannot be used.
    """
    wanted = set(settings.mask)
    usual = bool({"auto", "file"} & wanted)
    files, notes, problems = find_mask_files(
        experiment, settings, cells, detector, usual=usual, only_global=only_global
    )
    if "file" in wanted and not files:
        raise InputError(
            f"--mask file: neither {experiment.cell_mask} nor {experiment.global_mask} exists"
        )
    if "auto" in wanted and not files and samples is not None:
        wanted = {"run-static"}
    of_run = sorted({"run", "run-static"} & wanted)
    if of_run and samples is None:
        raise InputError(
            f"--mask {of_run[0]}: the files of this run hold no masks, e.g. {pool.name(0)} has no "
            "image/mask; expected corrected data with masks"
        )
    bits = bad_bits(settings)
    if of_run:
        notes += (f"masks in the data: {_describe(of_run, settings, bits)}",)
    elif "auto" in wanted and not files and not only_global:
        notes += ("masks in the data: none (the files have no image/mask)",)
    frame_bits, static_bits = (bits if name in wanted else 0 for name in ("run", "run-static"))
    return _MaskChoice(tuple(files), frame_bits, static_bits, notes, problems)


def _describe(of_run: list[str], settings, bits: int) -> str:
    each = {
        "run": "image/mask of every frame",
        "run-static": f"bits of image/mask set in the first {settings.mask_trains} trains",
    }
    whole = {ALL_MASK_BITS: "all bits", USUAL_MASK_BITS: "all bits but NON_STANDARD_SIZE"}
    names = [name for name, bit in BAD_PIXELS.items() if bits & bit]
    which = whole.get(bits) or f"bits {bits:#x}: {' '.join(names)}".rstrip(": ")
    auto = " (--mask auto)" if "auto" in settings.mask else ""
    return f"{', '.join(each[name] for name in of_run)}; {which}{auto}"


def mask_digest(comm, masks: Masks) -> str:
    """Return a digest of good pixels and region, the same on every rank; collective."""
    shares = comm.allgather(
        [
            hashlib.blake2b(masks.good[m].tobytes(), digest_size=16).digest()
            for m in range(comm.rank, masks.n_modules, comm.size)
        ]
    )
    modules = [shares[m % comm.size][m // comm.size] for m in range(masks.n_modules)]
    rows = masks.row_of_cell.astype("<i4").tobytes() + masks.region.tobytes()
    return hashlib.blake2b(rows + b"".join(modules), digest_size=16).hexdigest()
