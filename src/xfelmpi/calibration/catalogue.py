"""A module's constants of the facility's catalogue, in the form that the kernel needs.

Every constant is an array (fs, ss, cell, stage), (128, 512, cells, 3). Arrays are read in blocks of
rows, all cells at once, as stored in the file.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import h5py
import numpy as np

from xfelmpi.calibration.catalogue_files import ADAPTIVE, CatalogueFiles, ConstantFile
from xfelmpi.calibration.constants_file import (
    STAGES,
    ConstantsLayout,
    fill_without_constants,
    prepare_cell,
    problem_of_cells,
)
from xfelmpi.calibration.mask_files import bad_bits
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector
from xfelmpi.io.dataset_storage import require_whole_readable
from xfelmpi.io.input_file import input_file
from xfelmpi.io.virtual_sources import not_written

_BLOCK_BYTES = 8 << 20
"""Of one constant, read at once."""

_ALWAYS = 1e9
"""Threshold that no digital value reaches."""

_RELATIVE = ("SlopesCS", "SlopesPC")
"""Gains of the stages, of which the first one there counts."""


@dataclass(frozen=True)
class CatalogueConstants:
    """The catalogue's constants for the modules of a run.

    Parameters
    ----------
    files : CatalogueFiles
    detector : Detector
    modules : list of int
        Those that have what is needed.
    problems : tuple of Problem
    warnings : tuple of str
        For the log.
    """

    files: CatalogueFiles
    detector: Detector
    modules: list[int]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """For the log."""
        mode = ("adaptive gain", "fixed high gain", "fixed medium gain", "fixed low gain")
        kinds = sorted({kind for m in self.modules for kind in self.files.modules[m]})
        return f"catalogue ({self.files.origin}), {mode[self.files.gain_mode]}, {', '.join(kinds)}"

    @property
    def used(self) -> tuple[UsedFile, ...]:
        """All files, for provenance."""
        return tuple(
            UsedFile(f"constants {kind}", str(file.path))
            for module in self.modules
            for kind, file in sorted(self.files.modules[module].items())
        )

    def layout(self, module: int, cells_used) -> ConstantsLayout:
        """Return the form of a module's constants: offsets are means, gains vary with slopes."""
        has_slopes = any(kind.startswith("Slopes") for kind in self.files.modules[module])
        return ConstantsLayout("f4", has_slopes, has_slopes)

    def fill(self, module: int, arrays, cells_used, settings) -> list[Problem]:
        """Write a module's constants into its part of the shared arrays; return no problems."""
        with ExitStack() as stack:
            data = {
                kind: stack.enter_context(_values(file))
                for kind, file in self.files.modules[module].items()
            }
            cells, shape = np.asarray(cells_used), self.detector.module_shape
            _Module(data, self.files.gain_mode, cells, settings, shape).fill(arrays)
        return []


def find_constants(
    files: CatalogueFiles, wanted: list[int], cells_used, detector: Detector
) -> CatalogueConstants:
    """Check which modules have what is needed; one rank.

    Raises
    ------
    InputError
        If none has, or a file cannot be used.
    """
    needed = ("Offset", "ThresholdsDark") if files.gain_mode == ADAPTIVE else ("Offset",)
    modules = []
    files, problems = _without_other_slopes(files, wanted)
    for module in wanted:
        its, name = files.modules.get(module, {}), detector.module_names[module]
        missing = [kind for kind in needed if kind not in its]
        if missing:
            text = f"the catalogue has no {' and no '.join(missing)} of this module"
            problems.append(Problem(text, name, module, 0, "all its pixels count as bad"))
            continue
        modules.append(module)
        n_cells = min(_check(kind, file, detector) for kind, file in sorted(its.items()))
        problems += problem_of_cells(its["Offset"].path.name, module, n_cells, cells_used)
        if files.gain_mode == ADAPTIVE and not any(kind in its for kind in _RELATIVE):
            text = "the catalogue has no SlopesPC or SlopesCS by stage of this module"
            action = "pixels in medium and low gain count as bad"
            problems.append(Problem(text, name, module, 0, action))
    if not modules:
        raise InputError(
            f"--constants catalogue: {files.origin}: no calibration constants for any module"
        )
    return CatalogueConstants(files, detector, modules, tuple(problems))


def _without_other_slopes(
    files: CatalogueFiles, wanted: list[int]
) -> tuple[CatalogueFiles, list[Problem]]:
    """Leave out slopes that are not one for each stage, e.g. all numbers of a fit.

    Which of these is the slope of which stage the files do not say, and gains of other numbers
    would be wrong.
    """
    modules, problems = dict(files.modules), []
    for module in wanted:
        for kind in _RELATIVE:
            if (file := modules.get(module, {}).get(kind)) is None:
                continue
            with _values(file) as data:
                shape = data.shape
            if len(shape) == 4 and shape[3] == STAGES:
                continue
            text = f"{kind} has shape {shape}, expected {STAGES} values of a cell, one of each gain"
            problems.append(Problem(text, file.path.name, module, 0, f"{kind} is not used"))
            modules[module] = {k: f for k, f in modules[module].items() if k != kind}
    return replace(files, modules=modules), problems


@contextmanager
def _values(file: ConstantFile) -> Iterator[h5py.Dataset]:
    """Open the values of a constant."""
    with input_file(file.path, "a file of constants") as opened:
        data = opened.get(f"{file.dataset}/data")
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise InputError(f"{file.path}: no values {file.dataset}/data")
        yield data


def _check(kind: str, file: ConstantFile, detector: Detector) -> int:
    """Check a constant and return its number of cells."""
    with _values(file) as data:
        where = f"{file.path}: {kind}"
        require_whole_readable(data)
        kinds = "iu" if kind.startswith("BadPixels") else "iuf"
        if data.dtype.kind not in kinds:
            raise InputError(f"{where} is {data.dtype}, expected kind {' or '.join(kinds)}")
        n_ss, n_fs = detector.module_shape
        least = 2 if kind == "ThresholdsDark" else STAGES
        plain = data.ndim == 3 and kind not in ("Offset", "ThresholdsDark")
        if data.shape[:2] != (n_fs, n_ss) or not (
            plain or (data.ndim == 4 and data.shape[3] >= least)
        ):
            raise InputError(
                f"{where} has shape {data.shape}, expected ({n_fs}, {n_ss}, cells, {least})"
            )
        if reason := not_written(data):
            raise InputError(f"{where}: {reason}")
        return data.shape[2]


class _Module:
    """The constants of one module, open; filled block by block."""

    def __init__(
        self, data: dict[str, h5py.Dataset], gain_mode: int, cells: np.ndarray, settings, shape
    ):
        self._data, self._config, self._shape = data, settings, shape
        self._stage = gain_mode - 1 if gain_mode != ADAPTIVE else None
        n_cells = min(its.shape[2] for its in data.values())
        self._rows = np.flatnonzero(cells < n_cells)
        self._cells = cells[self._rows]
        self._bits = np.uint32(bad_bits(settings))
        self._relative = next((kind for kind in _RELATIVE if kind in data), None)
        # by cell, for the high stage, so that an ADU stays an ADU in the mean
        self._mean = {
            kind: self._mean_of(kind) for kind in (self._relative, "SlopesFF") if kind in data
        }

    def _blocks(self) -> Iterator[slice]:
        n_ss, n_fs = self._shape
        row = n_fs * STAGES * 4 * max(1, int(self._cells.max(initial=0)) + 1)
        step = max(1, _BLOCK_BYTES // row)
        chunked = [its.chunks[1] for its in self._data.values() if its.chunks]
        step = max([step, *chunked])
        for a in range(0, n_ss, step):
            yield slice(a, min(a + step, n_ss))

    def _read(self, kind: str, ss: slice) -> np.ndarray:
        """Return some rows of a constant, (stage, cell · pixel); one stage stands for all."""
        values = self._data[kind][:, ss, : int(self._cells.max()) + 1]
        values = values[:, :, self._cells]
        if values.ndim == 3:
            values = values[..., None]
        return np.ascontiguousarray(values.transpose(3, 2, 1, 0)).reshape(values.shape[3], -1)

    def _mean_of(self, kind: str) -> np.ndarray:
        total, number = np.zeros(len(self._cells)), np.zeros(len(self._cells))
        for ss in self._blocks() if len(self._cells) else ():
            slope = self._read(kind, ss)[0].reshape(len(self._cells), -1).astype(np.float64)
            usable = np.isfinite(slope) & (slope > 0)
            total += np.where(usable, slope, 0).sum(axis=1)
            number += usable.sum(axis=1)
        return total / np.maximum(number, 1)

    def fill(self, arrays: dict[str, np.ndarray]) -> None:
        """Write everything into the shared arrays of the module."""
        fill_without_constants(arrays, slice(None))
        n_fs = self._shape[1]
        for ss in self._blocks() if len(self._cells) else ():
            self._put(arrays, ss.start * n_fs, ss.stop * n_fs, self._prepared(ss))

    def _prepared(self, ss: slice) -> dict[str, np.ndarray]:
        offset = self._read("Offset", ss)[:STAGES].astype(np.float32)
        gain = self._gain(ss, offset.shape)
        level = np.full(offset.shape, _ALWAYS)
        if self._stage is None:
            level[1:] = self._read("ThresholdsDark", ss)[:2]
        # pixels whose gain is 0 or infinite become bad further down
        bad = np.isnan(gain)
        for kind in self._data:
            if kind.startswith("BadPixels"):
                bits = self._read(kind, ss)[:STAGES]
                bad |= bits & self._bits.astype(bits.dtype) != 0
        if self._stage is not None:
            offset, gain, bad = (
                np.repeat(its[self._stage : self._stage + 1], STAGES, axis=0)
                for its in (offset, gain, bad)
            )
        gain = np.nan_to_num(gain, nan=1.0).astype(np.float32)
        return prepare_cell(offset, gain, level, bad, self._config)

    def _gain(self, ss: slice, shape: tuple[int, int]) -> np.ndarray:
        """Return what an ADU of every stage is in the high one, NaN where unknown."""
        n_pixels = shape[1] // len(self._cells)
        gain = np.ones(shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self._relative is not None:
                slope = self._read(self._relative, ss)[:STAGES].astype(np.float64)
                gain = np.repeat(self._mean[self._relative], n_pixels) / slope
            elif self._stage is None:
                gain[1:] = np.nan
            if "SlopesFF" in self._data:
                flat = self._read("SlopesFF", ss)[0].astype(np.float64)
                gain = gain * (np.repeat(self._mean["SlopesFF"], n_pixels) / flat)
        return gain

    def _put(self, arrays, first: int, last: int, found: dict[str, np.ndarray]) -> None:
        rows, n = self._rows, len(self._rows)
        parts = {"lowest1": slice(first // 64, last // 64)}
        for name in ("one_photon_adc", "lowest1", "level1", "level2"):
            part = parts.get(name, slice(first, last))
            arrays[name][rows, part] = found[name].reshape(n, -1)
        offset = found["offset"].reshape(STAGES, n, -1).swapaxes(0, 1)
        arrays["offset"][rows, :, first:last] = offset
        bad = found["bad"].reshape(STAGES, n, -1)
        arrays["bad"][:, rows, first // 8 : last // 8] = bad
        if arrays["gain"].shape[0] > 1:
            gain = found["gain"].reshape(STAGES, n, -1).swapaxes(0, 1)
            arrays["gain"][rows, :, first:last] = gain
        else:
            arrays["gain"][:] = 1
