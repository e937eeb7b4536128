"""The mask files and the hit-finding region: found, checked, read."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.io.dataset_storage import require_filters
from xfelmpi.io.input_file import input_file
from xfelmpi.io.virtual_sources import not_written

_EXPECTED = "a mask file"


def all_pixels(detector: Detector) -> np.ndarray:
    """Return the bits of a region that is everything, uint8 (module, byte)."""
    return np.full((detector.n_modules, detector.module_bytes), 0xFF, np.uint8)


@dataclass(frozen=True)
class MaskFile:
    """A file with good pixels.

    Parameters
    ----------
    path : Path
    cells : tuple of int or None
        Those that it has masks of; None: one mask of all cells.
    """

    path: Path
    cells: tuple[int, ...] | None


def _locate(named: Path | None, usual: Path, what: str) -> tuple[Path | None, str]:
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file ({what})")
        return named, f"{what}: {named}"
    if usual.exists():
        return usual, f"{what}: {usual} (found)"
    return None, f"{what}: none ({usual} does not exist)"


def find_mask_files(experiment, config, cells, detector: Detector, usual: bool, only_global: bool):
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
        in_file = _check(path, detector)
        files.append(MaskFile(path, in_file))
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
    if good.shape is None:
        raise InputError(f"{path}: good_pixels has no values (its dataspace is null)")
    require_filters(good)
    if reason := not_written(good):
        # HDF5 would call all of these pixels bad
        raise InputError(f"{path}: good_pixels: {reason}")
    if good.dtype.kind not in "bui":
        raise InputError(f"{path}: good_pixels is {good.dtype}, expected 0/1 integers or bool")
    return good


def _check(path: Path, detector: Detector) -> tuple[int, ...] | None:
    """Check a mask file and return the cells of a per-cell mask, None for one of all cells."""
    with input_file(path, _EXPECTED) as file:
        good = _good_pixels(file, path)
        frame_shape = detector.frame_shape
        if good.shape == frame_shape:
            return None
        if good.shape[1:] != frame_shape:
            raise InputError(
                f"{path}: good_pixels has shape {good.shape}, expected {frame_shape} or "
                f"(cells, {str(frame_shape)[1:]}"
            )
        if "entry_1/cellIds" not in file:
            raise InputError(f"{path}: a per-cell mask needs entry_1/cellIds ({good.shape[0]},)")
        cells = file["entry_1/cellIds"]
        if not isinstance(cells, h5py.Dataset) or cells.dtype.kind not in "iu":
            raise InputError(f"{path}: entry_1/cellIds are no integers")
        if cells.size != good.shape[0] or cells.size > detector.max_cells:
            raise InputError(
                f"{path}: entry_1/cellIds has {cells.size or 'no'} values, expected one for each "
                f"of {good.shape[0]} masks, and at most {detector.max_cells}"
            )
        cells = cells[()].astype(int).reshape(-1)
        n_masks = good.shape[0]
    in_range = ((cells >= 0) & (cells < detector.max_cells)).all()
    if len(cells) != n_masks or len(np.unique(cells)) != len(cells) or not in_range:
        last = detector.max_cells - 1
        raise InputError(
            f"{path}: entry_1/cellIds must name one different cell 0 … {last} per mask"
        )
    return tuple(cells.tolist())


def module_mask(files: list[MaskFile], module: int, cells: np.ndarray, n_bytes: int) -> np.ndarray:
    """Return the bits of a module's good pixels, uint8 (cell, n_bytes), one row if no cells."""
    rows = np.full((max(1, len(cells)), n_bytes), 0xFF, np.uint8)
    for about in files:
        with input_file(about.path, _EXPECTED) as file:
            good = _good_pixels(file, about.path)
            if about.cells is None:
                rows &= pack(good[module] != 0)
                continue
            for row, cell in enumerate(cells):
                if cell in about.cells:
                    rows[row] &= pack(good[about.cells.index(cell), module] != 0)
    return rows


def find_region(
    experiment, config, detector: Detector
) -> tuple[np.ndarray, tuple[UsedFile, ...], str]:
    """Return the bits of the region, uint8 (module, byte), its file if any, and a note."""
    path, note = _locate(config.hit_mask, experiment.hit_mask, "hit-finding region")
    if path is not None:
        if _check(path, detector) is not None:
            raise InputError(f"{path}: a hit-finding region cannot be per cell")
        if config.hit_modules is not None:
            note += "; --hit-modules is ignored, because this file comes first"
        with input_file(path, _EXPECTED) as file:
            used = (UsedFile("hit-finding region", str(path)),)
            return pack(_good_pixels(file, path)[()] != 0), used, note
    if config.hit_modules is None:
        return all_pixels(detector), (), "hit-finding region: all pixels"
    region = np.zeros_like(all_pixels(detector))
    region[list(config.hit_modules)] = 0xFF
    return region, (), f"hit-finding region: modules {' '.join(map(str, config.hit_modules))}"
