"""Good pixels: masks from files, combined by AND, as bits, once per node.

Bit order: pixel p of a module is bit ``p % 8`` of byte ``p // 8``, so that a photon's look-up is
one byte of an 8 KiB row, which stays in the nearest cache with the frame.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.collective import NodeShared, from_root, together
from xfelmpi.detector import FRAME_SHAPE, MAX_CELLS, MODULE_PIXELS, N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.records import Problem

MODULE_BYTES = MODULE_PIXELS // 8

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


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
        Which files were used, for the log.
    problems : tuple of Problem
    """

    good: np.ndarray
    row_of_cell: np.ndarray
    region: np.ndarray
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @cached_property
    def good_in_region(self) -> np.ndarray:
        """Good pixels of the region, int64 (16, 352), by module and memory cell."""
        n = [
            _ONES[good & region].sum(axis=1, dtype=np.int64)
            for good, region in zip(self.good, self.region, strict=True)
        ]
        return np.array(n)[:, self.row_of_cell]

    @cached_property
    def region_pixels(self) -> int:
        """Number of pixels of the region, good or not."""
        return int(_ONES[self.region].sum(dtype=np.int64))


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


def load_masks(
    comm, experiment, config, cells: np.ndarray, calibration=None, only_global: bool = False
) -> Masks:
    """Find, check and read the masks; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
        Says where masks usually lie.
    config : Config
        ``cell_mask``, ``global_mask``, ``hit_mask``, ``hit_modules``.
    cells : ndarray, int (cell,)
        Cells of the run, the same on all ranks; one that the per-cell mask lacks is a problem.
    calibration : Calibration, optional
        Constants of raw data, whose bad pixels join the masks.
    only_global : bool
        Leave out the per-cell mask and the hit-finding region.

    Raises
    ------
    InputError
        If a named mask is missing, or one has the wrong shape or dtype.
    """
    files, notes, problems = from_root(comm, lambda: _find(experiment, config, cells, only_global))
    region_bits = np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8)
    if not only_global:
        region_bits, region_note = from_root(comm, lambda: _region(experiment, config))
        notes += (region_note,)
    # without anything per cell, one row serves all cells
    per_cell = calibration is not None or any(file.cells is not None for file in files)
    rows = cells if per_cell else cells[:0]
    shared = NodeShared(comm, (N_MODULES, max(1, len(rows)), MODULE_BYTES), np.uint8)
    with together(comm):
        for module in range(shared.node_rank, N_MODULES, shared.node_size):
            shared.array[module] = _module_mask(files, module, rows)
            if calibration is not None:
                shared.array[module] &= ~calibration.bad_in_high_stage(module)
    good = shared.ready()
    row_of_cell = np.zeros(MAX_CELLS, np.int32)
    row_of_cell[rows] = np.arange(len(rows))
    return Masks(good, row_of_cell, region_bits, notes, problems)


def mask_digest(comm, masks: Masks) -> str:
    """Return a digest of the good pixels of all cells, the same on every rank; collective."""
    shares = comm.allgather(
        [
            hashlib.blake2b(masks.good[m].tobytes(), digest_size=16).digest()
            for m in range(comm.rank, N_MODULES, comm.size)
        ]
    )
    modules = [shares[m % comm.size][m // comm.size] for m in range(N_MODULES)]
    rows = masks.row_of_cell.astype("<i4").tobytes()
    return hashlib.blake2b(rows + b"".join(modules), digest_size=16).hexdigest()


def _locate(named: Path | None, usual: Path, what: str) -> tuple[Path | None, str]:
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file ({what})")
        return named, f"{what}: {named}"
    if usual.exists():
        return usual, f"{what}: {usual} (found)"
    return None, f"{what}: none ({usual} does not exist)"


def _find(experiment, config, cells, only_global: bool):
    """Find and check the mask files; returns them, notes for the log, and problems."""
    files, notes, problems = [], [], []
    places = (
        (config.cell_mask, experiment.cell_mask, "per-cell mask"),
        (config.global_mask, experiment.global_mask, "global mask"),
    )
    for named, usual, what in places[1:] if only_global else places:
        path, note = _locate(named, usual, what)
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


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
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


def _region(experiment, config) -> tuple[np.ndarray, str]:
    """Return the bits of the hit-finding region, uint8 (16, 8192), and what to say of it."""
    path, note = _locate(config.hit_mask, experiment.hit_mask, "hit-finding region")
    if path is not None:
        if _check(path) is not None:
            raise InputError(f"{path}: a hit-finding region cannot be per cell")
        if config.hit_modules is not None:
            note += "; --hit-modules is ignored, because this file comes first"
        with _open(path) as file:
            return pack(_good_pixels(file, path)[()] != 0), note
    if config.hit_modules is None:
        return np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8), "hit-finding region: all pixels"
    region = np.zeros((N_MODULES, MODULE_BYTES), np.uint8)
    region[list(config.hit_modules)] = 0xFF
    return region, f"hit-finding region: modules {' '.join(map(str, config.hit_modules))}"
