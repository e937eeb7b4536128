"""Small simulated runs for tests, and their known answer as dense images."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.detectors.agipd import FRAME_PIXELS, FRAME_SHAPE, MODULE_PIXELS
from xfelmpi.simulate import SimulationOptions, SimulationResult, simulate
from xfelmpi.simulate.constants import constants_path

TINY = {
    "trains": 3,
    "cells": tuple(range(6)),
    "hit_rate": 0.3,
    "background": 40.0,
    "hit_photons": (3e3, 2e4),
    "truth": "full",
    "seed": 11,
}

TINY_RAW = {**TINY, "kind": "raw", "trains": 2, "cells": (0, 2, 3)}
TINY_DARK = {**TINY, "kind": "dark", "trains": 4, "cells": (0, 2, 3)}


@dataclass(frozen=True)
class MockRun:
    """A simulated run: where its files are, and its answer by name of the truth file's dataset."""

    options: SimulationOptions
    paths: SimulationResult
    truth: dict[str, np.ndarray]

    def __len__(self):
        return len(self.truth["trainId"])

    def frame(self, row: int) -> np.ndarray:
        """Return the photons of one frame, uint16 (module, ss, fs); zero where modules lack."""
        (kept,) = np.flatnonzero(self.truth["frames"] == row)
        entries = slice(*self.truth["indptr"][kept : kept + 2])
        image = np.zeros(FRAME_PIXELS, np.uint16)
        image[self.truth["pixel"][entries]] = self.truth["count"][entries]
        return image.reshape(FRAME_SHAPE)

    def row(self, train_id: int, cell: int) -> int:
        """Return the row of a frame."""
        match = (self.truth["trainId"] == train_id) & (self.truth["cellId"] == cell)
        (row,) = np.flatnonzero(match)
        return int(row)

    def lose(self, row: int, module: int) -> None:
        """Make the truth that of a run whose module lacks a frame."""
        self.truth["modules"][row] &= 0xFFFF ^ 1 << module
        (kept,) = np.flatnonzero(self.truth["frames"] == row)
        start, stop = self.truth["indptr"][kept : kept + 2]
        of_module = self.truth["pixel"][start:stop] // MODULE_PIXELS == module
        self.truth["count"][start:stop][of_module] = 0

    def has(self, module: int) -> np.ndarray:
        """Return which frames a module has, bool (frame,)."""
        return (self.truth["modules"] >> module & 1).astype(bool)

    def good(self, row: int) -> np.ndarray:
        """Return the good pixels of one raw frame, bool (module, ss, fs)."""
        return self.truth["bad_kind"][:, self.truth["cellId"][row]] == 0

    def constants(self, module: int) -> dict[str, np.ndarray]:
        """Return the constants of raw data by name, each (stage, cell, ss, fs)."""
        return read_truth(constants_path(self.paths.constants, module))


def read_truth(path: Path) -> dict[str, np.ndarray]:
    """Return all datasets of a truth file, or of a file of constants."""
    with h5py.File(path, "r") as file:
        return {name: dataset[()] for name, dataset in file.items()}


def write_mask(path: Path, good, cells=None) -> Path:
    """Write a mask file; of `cells`, or of all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["entry_1/good_pixels"] = good
        if cells is not None:
            file["entry_1/cellIds"] = cells
    return path


def tiny_run(folder: Path, **options) -> MockRun:
    """Simulate a small but complete run: full-size modules, few frames.

    Parameters
    ----------
    folder : Path
        The experiment folder.
    **options
        Of `SimulationOptions`, instead of those of `TINY`.
    """
    return _simulated(folder, {**TINY, **options})


def tiny_raw_run(folder: Path, **options) -> MockRun:
    """Simulate a small raw run and its constants; other `options` than those of `TINY_RAW`."""
    return _simulated(folder, {**TINY_RAW, **options})


def tiny_dark_runs(
    folder: Path, stages=("high", "medium", "low"), first_run: int = 10, **options
) -> tuple[MockRun, ...]:
    """Simulate a small dark run for every gain stage, with the constants of `tiny_raw_run`.

    Parameters
    ----------
    folder : Path
        The experiment folder.
    stages : tuple of str
        Gain stages of the runs.
    first_run : int
        Number of the first run; the others follow.
    **options
        Of `SimulationOptions`, instead of those of `TINY_DARK`.
    """
    return tuple(
        _simulated(folder, {**TINY_DARK, "run": run, "gain_stage": stage, **options})
        for run, stage in enumerate(stages, first_run)
    )


def _simulated(folder: Path, options: dict) -> MockRun:
    chosen = SimulationOptions(folder, **options)
    paths = simulate(chosen)
    return MockRun(chosen, paths, read_truth(paths.truth))
