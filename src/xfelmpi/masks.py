"""Good pixels: masks from files and of the run, combined by AND, as bits, once per node.

Bit order: pixel p of a module is bit ``p % 8`` of byte ``p // 8``, so that a photon's look-up is
one byte of an 8 KiB row, which stays in the nearest cache with the frame.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.collective import NodeShared, from_root, sum_all, together
from xfelmpi.detector import (
    ALL_MASK_BITS,
    BAD_PIXELS,
    FRAME_SHAPE,
    MAX_CELLS,
    MODULE_BYTES,
    MODULE_PIXELS,
    N_MODULES,
)
from xfelmpi.errors import InputError
from xfelmpi.framemasks import MaskSamples
from xfelmpi.read import FilePool
from xfelmpi.records import Problem, UsedFile
from xfelmpi.staticmask import add_static, find_drift

_ONES = (
    np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
).sum(axis=1, dtype=np.uint8)
"""Set bits of every number of 16 bits."""


@dataclass(frozen=True)
class Masks:
    """Which pixels count.

    Parameters
    ----------
    good : ndarray, uint8 (16, row, 8192)
        Bits of the good pixels; one row per cell of the run, or one row for all cells.
    row_of_cell : ndarray, int32 (352,)
        Row of every memory cell.
    region : ndarray, uint8 (16, 8192)
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
    counted : ndarray, int64 (16, row), or None
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

    @cached_property
    def good_in_region(self) -> np.ndarray:
        """Good pixels of the region, int64 (16, 352), by module and memory cell."""
        n = self.counted
        if n is None:
            n = _count(self.good, self.region, range(N_MODULES))
        return n[:, self.row_of_cell]

    @cached_property
    def region_pixels(self) -> int:
        """Number of pixels of the region, good or not."""
        return int(_ONES[self.region.view(np.uint16)].sum(dtype=np.int64))


def _count(good: np.ndarray, region: np.ndarray, modules: range) -> np.ndarray:
    """Return the good pixels of the region in some modules, 0 in others, int64 (16, row)."""
    n = np.zeros(good.shape[:2], np.int64)
    for m in modules:
        n[m] = _ONES[(good[m] & region[m]).view(np.uint16)].sum(axis=1, dtype=np.int64)
    return n


def pack(good: np.ndarray) -> np.ndarray:
    """Return the bits of boolean pixels: (…, 512, 128) → uint8 (…, 8192)."""
    flat = np.ascontiguousarray(good, bool).reshape(*good.shape[:-2], MODULE_PIXELS)
    return np.packbits(flat, axis=-1, bitorder="little")


def unpack(bits: np.ndarray) -> np.ndarray:
    """Return 0/1 pixels of bits: uint8 (…, 8192) → uint8 (…, 65536)."""
    return np.unpackbits(bits, axis=-1, bitorder="little")


@dataclass(frozen=True)
class _MaskFile:
    # what rank 0 found, small enough to send to every rank
    path: Path
    cells: tuple[int, ...] | None  # of a per-cell mask


_ROLES = ("per-cell mask", "global mask")


@dataclass(frozen=True)
class _Plan:
    # which masks are used, as rank 0 decides
    files: tuple[_MaskFile, ...]
    frame_bits: int
    static_bits: int
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def load_masks(
    comm,
    experiment,
    config,
    cells: np.ndarray,
    calibration=None,
    files: FilePool | None = None,
    samples: MaskSamples | None = None,
    only_global: bool = False,
) -> Masks:
    """Find, check and read the masks; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
        Says where masks usually lie.
    config : Config
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

    Raises
    ------
    InputError
        If a named mask is missing, or one has the wrong shape or dtype.
    """
    plan = from_root(comm, lambda: _plan(experiment, config, cells, files, samples, only_global))
    region_bits, region_notes = np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8), ()
    used = tuple(UsedFile(_ROLES[file.cells is None], str(file.path)) for file in plan.files)
    if not only_global:
        region_bits, of_region, *region_notes = from_root(comm, lambda: _region(experiment, config))
        used += of_region
    # without anything per cell, one row serves all cells
    per_cell = calibration is not None or any(file.cells is not None for file in plan.files)
    rows = cells if per_cell or plan.static_bits else cells[:0]
    shared = NodeShared(comm, (N_MODULES, max(1, len(rows)), MODULE_BYTES), np.uint8)
    with together(comm):
        for module in range(shared.node_rank, N_MODULES, shared.node_size):
            shared.array[module] = _module_mask(plan.files, module, rows)
            if calibration is not None:
                shared.array[module] &= ~calibration.bad_in_high_stage(module)
    good = shared.ready()
    problems, drift, warnings = list(plan.problems), (), ()
    if plan.static_bits:
        with together(comm):
            problems += add_static(shared, files, samples.first, plan.static_bits)
        good = shared.ready()
        drift, warnings = find_drift(comm, files, samples, plan.static_bits)
    row_of_cell = np.zeros(MAX_CELLS, np.int32)
    row_of_cell[rows] = np.arange(len(rows))
    notes = (*plan.notes, *drift, *region_notes)
    problems = tuple(problems)
    mine = range(comm.rank, N_MODULES, comm.size)
    counted = sum_all(comm, _count(good, region_bits, mine))
    return Masks(
        good, row_of_cell, region_bits, notes, problems, plan.frame_bits, warnings, used, counted
    )


def _plan(experiment, config, cells, pool: FilePool | None, samples, only_global) -> _Plan:
    """Decide which masks are used.

    Raises
    ------
    InputError
        If one that is named is not there, or cannot be used.
    """
    wanted = set(config.mask)
    usual = bool({"auto", "file"} & wanted)
    files, notes, problems = _find(experiment, config, cells, usual, only_global)
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
    bits = ALL_MASK_BITS
    if config.mask_bits is not None:
        bits = int(np.bitwise_or.reduce(np.array(config.mask_bits, np.int64)))
    if of_run:
        notes += (f"masks of the run: {_describe(of_run, config, bits)}",)
    elif "auto" in wanted and not files and not only_global:
        notes += ("masks of the run: none (its files hold no image/mask)",)
    frame_bits, static_bits = (bits if name in wanted else 0 for name in ("run", "run-static"))
    return _Plan(tuple(files), frame_bits, static_bits, notes, problems)


def _describe(of_run: list[str], config, bits: int) -> str:
    each = {
        "run": "image/mask of every frame",
        "run-static": f"bits of image/mask set in the first {config.mask_trains} trains",
    }
    names = [name for i, name in enumerate(BAD_PIXELS) if bits >> i & 1]
    which = (
        "all bits" if bits == ALL_MASK_BITS else f"bits {bits:#x}: {' '.join(names)}".rstrip(": ")
    )
    auto = " (--mask auto)" if "auto" in config.mask else ""
    return f"{', '.join(each[name] for name in of_run)}; {which}{auto}"


def mask_digest(comm, masks: Masks) -> str:
    """Return a digest of good pixels and region, the same on every rank; collective."""
    shares = comm.allgather(
        [
            hashlib.blake2b(masks.good[m].tobytes(), digest_size=16).digest()
            for m in range(comm.rank, N_MODULES, comm.size)
        ]
    )
    modules = [shares[m % comm.size][m // comm.size] for m in range(N_MODULES)]
    rows = masks.row_of_cell.astype("<i4").tobytes() + masks.region.tobytes()
    return hashlib.blake2b(rows + b"".join(modules), digest_size=16).hexdigest()


def _locate(named: Path | None, usual: Path, what: str) -> tuple[Path | None, str]:
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file ({what})")
        return named, f"{what}: {named}"
    if usual.exists():
        return usual, f"{what}: {usual} (found)"
    return None, f"{what}: none ({usual} does not exist)"


def _find(experiment, config, cells, usual: bool, only_global: bool):
    """Find and check the mask files; returns them, notes for the log, and problems.

    Those at the usual places only count if `usual`.
    """
    files, notes, problems = [], [], []
    places = (
        (config.cell_mask, experiment.cell_mask, "per-cell mask"),
        (config.global_mask, experiment.global_mask, "global mask"),
    )
    for named, place, what in places[1:] if only_global else places:
        if named is None and not usual:
            notes.append(f"{what}: none (--mask {' '.join(config.mask)})")
            continue
        path, note = _locate(named, place, what)
        notes.append(note)
        if path is None:
            continue
        in_file = _check(path)
        files.append(_MaskFile(path, in_file))
        missing = [] if in_file is None else np.setdiff1d(cells, in_file)
        if len(missing):
            text = f"mask lacks {len(missing)} of the run's cells, e.g. cell {missing[0]}"
            problems.append(Problem(text, path.name, -1, 0, "it does not apply to them"))
    return files, tuple(notes), tuple(problems)


def _good_pixels(file: h5py.File, path: Path) -> h5py.Dataset:
    try:
        good = file["entry_1/good_pixels"]
    except KeyError:
        raise InputError(f"{path}: no entry_1/good_pixels in this mask file") from None
    if not isinstance(good, h5py.Dataset):
        raise InputError(f"{path}: entry_1/good_pixels is no dataset")
    if good.dtype.kind not in "bui":
        raise InputError(f"{path}: good_pixels is {good.dtype}, expected 0/1 integers or bool")
    return good


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: no readable HDF5 file ({error})") from None


def _check(path: Path) -> tuple[int, ...] | None:
    """Check a mask file and return the cells of a per-cell mask, None for one of all cells."""
    with _open(path) as file:
        good = _good_pixels(file, path)
        if good.shape == FRAME_SHAPE:
            return None
        if good.shape[1:] != FRAME_SHAPE:
            raise InputError(
                f"{path}: good_pixels has shape {good.shape}, expected {FRAME_SHAPE} or "
                "(cells, 16, 512, 128)"
            )
        if "entry_1/cellIds" not in file:
            raise InputError(f"{path}: a per-cell mask needs entry_1/cellIds ({good.shape[0]},)")
        cells = file["entry_1/cellIds"]
        if not isinstance(cells, h5py.Dataset) or cells.dtype.kind not in "iu":
            raise InputError(f"{path}: entry_1/cellIds are no integers")
        cells = cells[()].astype(int).reshape(-1)
        n_masks = good.shape[0]
    in_range = ((cells >= 0) & (cells < MAX_CELLS)).all()
    if len(cells) != n_masks or len(np.unique(cells)) != len(cells) or not in_range:
        raise InputError(
            f"{path}: entry_1/cellIds must name one different cell 0 … {MAX_CELLS - 1} per mask"
        )
    return tuple(cells.tolist())


def _module_mask(files: list[_MaskFile], module: int, cells: np.ndarray) -> np.ndarray:
    """Return the bits of a module's good pixels, uint8 (cell, 8192), one row if no cells."""
    rows = np.full((max(1, len(cells)), MODULE_BYTES), 0xFF, np.uint8)
    for about in files:
        with _open(about.path) as file:
            good = _good_pixels(file, about.path)
            if about.cells is None:
                rows &= pack(good[module] != 0)
                continue
            for row, cell in enumerate(cells):
                if cell in about.cells:
                    rows[row] &= pack(good[about.cells.index(cell), module] != 0)
    return rows


def _region(experiment, config) -> tuple[np.ndarray, tuple[UsedFile, ...], str]:
    """Return the bits of the region, uint8 (16, 8192), its file if any, and what to say of it."""
    path, note = _locate(config.hit_mask, experiment.hit_mask, "hit-finding region")
    if path is not None:
        if _check(path) is not None:
            raise InputError(f"{path}: a hit-finding region cannot be per cell")
        if config.hit_modules is not None:
            note += "; --hit-modules is ignored, because this file comes first"
        with _open(path) as file:
            used = (UsedFile("hit-finding region", str(path)),)
            return pack(_good_pixels(file, path)[()] != 0), used, note
    if config.hit_modules is None:
        everything = np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8)
        return everything, (), "hit-finding region: all pixels"
    region = np.zeros((N_MODULES, MODULE_BYTES), np.uint8)
    region[list(config.hit_modules)] = 0xFF
    return region, (), f"hit-finding region: modules {' '.join(map(str, config.hit_modules))}"
