"""The mask files and the hit-finding region: found, checked, read."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.mask_blocks import mask_blocks, read_block, with_chunk_cache
from xfelmpi.core.config.parts import MaskSettings, RawSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.problems import Problem
from xfelmpi.core.regular_file import is_there
from xfelmpi.core.text import one_line
from xfelmpi.detectors.bad_pixels import USUAL_MASK_BITS
from xfelmpi.detectors.base import Detector
from xfelmpi.io.dataset_storage import require_whole_readable
from xfelmpi.io.input_file import input_file
from xfelmpi.io.links import require_files
from xfelmpi.io.virtual_sources import not_written

_EXPECTED = "a mask file"

_NAMES = ("entry_1/good_pixels", "good_pixels", "mask", "data")
"""Where good pixels are: in files of this program first, then as beamtimes have written them."""

_CELL_IDS = ("entry_1/cellIds", "cellIds")


def bad_bits(settings: MaskSettings | RawSettings) -> int:
    """Return the bits of ``image/mask`` that make a pixel bad, by ``--mask-bits`` or as usual."""
    if settings.mask_bits is None:
        return USUAL_MASK_BITS
    return int(np.bitwise_or.reduce(np.array(settings.mask_bits, np.int64)))


def all_pixels(detector: Detector) -> np.ndarray:
    """Return the bits of a region that is everything, uint8 (module, byte)."""
    return np.full((detector.n_modules, detector.module_bytes), 0xFF, np.uint8)


@dataclass(frozen=True)
class MaskFile:
    """A file with good pixels.

    Parameters
    ----------
    path : Path
    dataset : str
        Where they are in it.
    cells : tuple of int or None
        Those that it has masks of; None: one mask of all cells.
    """

    path: Path
    dataset: str
    cells: tuple[int, ...] | None

    @property
    def note(self) -> str:
        """What the log says of it besides its path."""
        return "" if self.dataset == _NAMES[0] else f", dataset {self.dataset}, 1 = good"


def _locate(named: Path | None, usual: Path, what: str) -> tuple[Path | None, str]:
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file ({what})")
        return named, f"{what}: {named}"
    if is_there(usual):
        return usual, f"{what}: {usual} (found)"
    return None, f"{what}: none ({usual} does not exist)"


def find_mask_files(
    experiment, settings: MaskSettings, cells, detector: Detector, *, usual: bool, only_global: bool
):
    """Find and check the mask files; returns them, notes for the log, and problems.

    Those at the usual places only count if `usual`.
    """
    files, notes, problems = [], [], []
    places = (
        (settings.cell_mask, experiment.cell_mask, "per-cell mask"),
        (settings.global_mask, experiment.global_mask, "global mask"),
    )
    for named, place, what in places[1:] if only_global else places:
        if named is None and not usual:
            notes.append(f"{what}: none (--mask {' '.join(settings.mask)})")
            continue
        path, note = _locate(named, place, what)
        if path is None:
            notes.append(note)
            continue
        found = check_mask(path, detector)
        notes.append(note + found.note)
        files.append(found)
        missing = [] if found.cells is None else np.setdiff1d(cells, found.cells)
        if len(missing):
            text = f"mask lacks {len(missing)} of the run's cells, e.g. cell {missing[0]}"
            problems.append(Problem(text, path.name, -1, 0, "it does not apply to them"))
    return files, tuple(notes), tuple(problems)


def _good_pixels(file: h5py.File, path: Path) -> tuple[str, h5py.Dataset]:
    """Return the dataset of the good pixels: the first name there, if several are."""
    require_files(file, *_NAMES, *_CELL_IDS)
    there = [name for name in _NAMES if name in file]
    found = {name: _behind(file, path, name) for name in there}
    name = next((name for name in there if isinstance(found[name], h5py.Dataset)), None)
    if name is None:
        if there:
            raise InputError(f"{path}: {there[0]} is not a dataset")
        raise InputError(f"{path}: no {', '.join(_NAMES[:-1])} or {_NAMES[-1]} in this mask file")
    good = found[name]
    if good.shape is None:
        raise InputError(f"{path}: {name} has no values (its dataspace is null)")
    require_whole_readable(good)
    if reason := not_written(good):
        # HDF5 would call all of these pixels bad
        raise InputError(f"{path}: {name}: {reason}")
    if good.dtype.kind not in "buif":
        raise InputError(f"{path}: {name} is {good.dtype}, expected 0/1 numbers or bool")
    return name, good


def _behind(file: h5py.File, path: Path, name: str):
    """Return what a name stands for; it may be a link that leads nowhere."""
    try:
        return file[name]
    except (KeyError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: {name}: {one_line(error)}") from None


def check_mask(path: Path, detector: Detector) -> MaskFile:
    """Check a mask file and return what it has.

    Raises
    ------
    InputError
        If it cannot be used.
    """
    with input_file(path, _EXPECTED) as file:
        name, good = _good_pixels(file, path)
        frame_shape = detector.frame_shape
        if good.shape == frame_shape:
            return MaskFile(path, name, None)
        if good.shape[1:] != frame_shape:
            raise InputError(
                f"{path}: {name} has shape {good.shape}, expected {frame_shape} or "
                f"(cells, {str(frame_shape)[1:]}"
            )
        return MaskFile(path, name, _cells(file, path, name, detector))


def _cells(file: h5py.File, path: Path, mask: str, detector: Detector) -> tuple[int, ...]:
    """Return the cells of a per-cell mask: those that it names, or all of the detector."""
    n_masks = len(file[mask])
    name = next((name for name in _CELL_IDS if name in file), None)
    if name is None:
        if n_masks == detector.max_cells:
            return tuple(range(n_masks))
        raise InputError(
            f"{path}: a per-cell mask needs {_CELL_IDS[0]} ({n_masks},), unless it has all "
            f"{detector.max_cells} cells"
        )
    cells = _behind(file, path, name)
    if not isinstance(cells, h5py.Dataset) or cells.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} are not integers")
    if cells.size != n_masks or cells.size > detector.max_cells:
        raise InputError(
            f"{path}: {name} has {cells.size or 'no'} values, expected one for each "
            f"of {n_masks} masks, and at most {detector.max_cells}"
        )
    cells = cells[()].astype(int).reshape(-1)
    in_range = ((cells >= 0) & (cells < detector.max_cells)).all()
    if len(np.unique(cells)) != n_masks or not in_range:
        last = detector.max_cells - 1
        raise InputError(f"{path}: {name} must name one different cell 0 … {last} per mask")
    return tuple(cells.tolist())


def join_mask(about: MaskFile, good: np.ndarray, cells: np.ndarray, part: int, of: int) -> int:
    """Take out of good pixels what a file calls bad; several ranks share the work.

    Returns the largest number of this rank's share; see `odd_numbers`.

    Parameters
    ----------
    about : MaskFile
    good : ndarray, uint8 (module, row, byte)
        Bits, changed in place: this rank's share of the file's blocks.
    cells : ndarray, int (row,)
        The cell of every row; empty: one row for all cells.
    part, of : int
        Number of this rank, and of ranks.

    Raises
    ------
    InputError
        If it cannot be read, or floating-point values are neither 0 nor 1.
    """
    rows = [slice(None)] if about.cells is None else []
    wanted = np.zeros(1, int)
    if about.cells is not None:
        _, number, row = np.intersect1d(about.cells, cells, return_indices=True)
        order = np.argsort(number)
        wanted, rows = number[order], row[order].tolist()
    row_of = dict(zip(wanted.tolist(), rows, strict=True))
    largest = 0
    with input_file(about.path, _EXPECTED) as file:
        pixels = with_chunk_cache(file, about.dataset)
        for block in mask_blocks(pixels, wanted)[part::of]:
            a, b = (ss * pixels.shape[-1] // 8 for ss in (block.ss.start, block.ss.stop))
            for masks, bits, number in read_block(pixels, block):
                largest = max(largest, number)
                for mask, its in zip(masks.tolist(), bits, strict=True):
                    good[block.modules, row_of[mask], a:b] &= _like_rows(its, about)
    return largest


def odd_numbers(about: MaskFile, largest: int) -> tuple[str, ...]:
    """Return a warning if a mask has numbers that hardly mean good; 255 is white in an image."""
    if largest in (0, 1, 255):
        return ()
    return (
        f"{about.path}: {about.dataset} has numbers up to {largest}, expected 0 for bad and 1 for "
        "good pixels; any number but 0 counts as good. Are these bits that say why a pixel is bad, "
        "as in image/mask? There, 0 is good",
    )


def _like_rows(bits: np.ndarray, about: MaskFile) -> np.ndarray:
    """Return the bits of one mask, (module, byte), for all rows if it is that of all cells."""
    return bits[:, None] if about.cells is None else bits


def read_pixels(path: Path, detector: Detector, what: str) -> tuple[np.ndarray, MaskFile, int]:
    """Return the bits of a mask of all cells, uint8 (module, byte), its file and largest number.

    Raises
    ------
    InputError
        If it cannot be used, or is per cell.
    """
    found = check_mask(path, detector)
    if found.cells is not None:
        raise InputError(f"{path}: {what} cannot be per cell")
    bits, largest = read_bits(found, detector)
    return bits, found, largest


def read_bits(about: MaskFile, detector: Detector) -> tuple[np.ndarray, int]:
    """Return the bits of a mask of all cells, uint8 (module, byte), and its largest number.

    Raises
    ------
    InputError
        If it cannot be read, or floating-point values are neither 0 nor 1.
    """
    bits = all_pixels(detector)
    return bits, join_mask(about, bits[:, None], np.empty(0, int), 0, 1)


def find_region(
    experiment, settings: MaskSettings, detector: Detector
) -> tuple[np.ndarray, tuple[UsedFile, ...], str]:
    """Return the bits of the region, uint8 (module, byte), its file if any, and a note."""
    path, note = _locate(settings.hit_mask, experiment.hit_mask, "hit-finding region")
    if path is not None:
        region, found, largest = read_pixels(path, detector, "a hit-finding region")
        note += "; ".join([found.note, *odd_numbers(found, largest)])
        if settings.hit_modules is not None:
            note += "; --hit-modules is ignored, because this file comes first"
        return region, (UsedFile("hit-finding region", str(path)),), note
    if settings.hit_modules is None:
        return all_pixels(detector), (), "hit-finding region: all pixels"
    region = np.zeros_like(all_pixels(detector))
    region[list(settings.hit_modules)] = 0xFF
    return region, (), f"hit-finding region: modules {' '.join(map(str, settings.hit_modules))}"
