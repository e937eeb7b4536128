"""Good pixels: masks from files, combined by AND, as bits, once per node.

Bit order: pixel p of a module is bit ``p % 8`` of byte ``p // 8``, so that a photon's look-up is
one byte of an 8 KiB row, which stays in the nearest cache with the frame.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.collective import NodeShared, on_root, together
from xfelmpi.detector import FRAME_SHAPE, MAX_CELLS, MODULE_PIXELS, N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.records import Problem

MODULE_BYTES = MODULE_PIXELS // 8


@dataclass(frozen=True)
class Masks:
    """Which pixels count.

    Parameters
    ----------
    good : ndarray, uint8 (16, row, 8192)
        Bits of the good pixels; one row per cell of the per-cell mask, or one row for all cells.
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


def pack(good: np.ndarray) -> np.ndarray:
    """Return the bits of boolean pixels: (…, 512, 128) → uint8 (…, 8192)."""
    flat = np.ascontiguousarray(good, bool).reshape(*good.shape[:-2], MODULE_PIXELS)
    return np.packbits(flat, axis=-1, bitorder="little")


def unpack(bits: np.ndarray) -> np.ndarray:
    """Return 0/1 pixels of bits: uint8 (…, 8192) → uint8 (…, 65536)."""
    return np.unpackbits(bits, axis=-1, bitorder="little")


@dataclass(frozen=True)
class _MaskFiles:
    # what rank 0 found, small enough to send to every rank
    cell_path: Path | None
    cell_ids: tuple[int, ...]
    global_path: Path | None
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def load_masks(comm, experiment, config, cells_used: np.ndarray) -> Masks:
    """Find, check and read the masks; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
        Says where masks usually lie.
    config : Config
        ``cell_mask``, ``global_mask``, ``hit_mask``, ``hit_modules``.
    cells_used : ndarray, int
        Cells of this rank's frames; a cell that the per-cell mask lacks is a problem.

    Raises
    ------
    InputError
        If a named mask is missing, or one has the wrong shape or dtype.
    """
    used = np.zeros(MAX_CELLS, bool)
    used[cells_used] = True
    used = np.logical_or.reduce(comm.allgather(used))
    found = comm.bcast(on_root(comm, lambda: _find(experiment, config, used)))
    region = comm.bcast(on_root(comm, lambda: _region(experiment, config)))
    n_cells = len(found.cell_ids)
    shared = NodeShared(comm, (N_MODULES, n_cells + 1, MODULE_BYTES), np.uint8)
    with together(comm):
        if shared.is_filler:
            _fill(shared.array, found)
    good = shared.ready()
    # the last row is for cells without a mask of their own: the global mask alone
    row_of_cell = np.full(MAX_CELLS, n_cells, np.int32)
    row_of_cell[list(found.cell_ids)] = np.arange(n_cells)
    region_bits, region_note = region
    return Masks(good, row_of_cell, region_bits, (*found.notes, region_note), found.problems)


def _locate(named: Path | None, usual: Path, what: str) -> tuple[Path | None, str]:
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file ({what})")
        return named, f"{what}: {named}"
    if usual.exists():
        return usual, f"{what}: {usual} (found)"
    return None, f"{what}: none ({usual} does not exist)"


def _find(experiment, config, used) -> _MaskFiles:
    cell_path, cell_note = _locate(config.cell_mask, experiment.cell_mask, "per-cell mask")
    global_path, global_note = _locate(config.global_mask, experiment.global_mask, "global mask")
    problems = []
    cell_ids: tuple[int, ...] = ()
    if global_path is not None:
        _check(global_path, per_cell=False)
    if cell_path is not None:
        in_file = _check(cell_path, per_cell=True)
        missing = np.setdiff1d(np.flatnonzero(used), in_file)
        if len(missing):
            problems.append(
                Problem(
                    f"per-cell mask lacks {len(missing)} of the run's cells, e.g. cell "
                    f"{missing[0]}",
                    cell_path.name,
                    -1,
                    0,
                    "only the global mask applies",
                )
            )
        cell_ids = tuple(int(c) for c in in_file)
    return _MaskFiles(cell_path, cell_ids, global_path, (cell_note, global_note), tuple(problems))


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


def _check(path: Path, *, per_cell: bool) -> np.ndarray:
    """Check a mask file and return the cells of a per-cell one, int (cell,)."""
    with _open(path) as file:
        good = _good_pixels(file, path)
        if not per_cell:
            if good.shape != FRAME_SHAPE:
                raise InputError(
                    f"{path}: good_pixels has shape {good.shape}, expected {FRAME_SHAPE}"
                )
            return np.empty(0, int)
        if good.shape[1:] != FRAME_SHAPE:
            raise InputError(
                f"{path}: good_pixels has shape {good.shape}, expected (cells, 16, 512, 128)"
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
    return cells


def _fill(good: np.ndarray, found: _MaskFiles) -> None:
    everywhere = np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8)
    if found.global_path is not None:
        with _open(found.global_path) as file:
            everywhere = pack(_good_pixels(file, found.global_path)[()] != 0)
    good[:, -1] = everywhere
    if found.cell_path is not None:
        with _open(found.cell_path) as file:
            in_file = _good_pixels(file, found.cell_path)
            for row in range(len(in_file)):
                good[:, row] = pack(in_file[row] != 0) & everywhere


def _region(experiment, config) -> tuple[np.ndarray, str]:
    """Return the bits of the hit-finding region, uint8 (16, 8192), and what to say of it."""
    if config.hit_mask is None and config.hit_modules is not None:
        region = np.zeros((N_MODULES, MODULE_BYTES), np.uint8)
        region[list(config.hit_modules)] = 0xFF
        return region, f"hit-finding region: modules {' '.join(map(str, config.hit_modules))}"
    path, note = _locate(config.hit_mask, experiment.hit_mask, "hit-finding region")
    if path is None:
        return np.full((N_MODULES, MODULE_BYTES), 0xFF, np.uint8), "hit-finding region: all pixels"
    _check(path, per_cell=False)
    with _open(path) as file:
        return pack(_good_pixels(file, path)[()] != 0), note
