"""Small simulated runs for tests, and their known answer as dense images."""

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.detector import FRAME_PIXELS, FRAME_SHAPE
from xfelmpi.simulate import SimulationOptions, SimulationResult, simulate

TINY = {
    "trains": 3,
    "cells": tuple(range(6)),
    "hit_rate": 0.3,
    "background": 40.0,
    "hit_photons": (3e3, 2e4),
    "truth": "full",
    "seed": 11,
}


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

    def has(self, module: int) -> np.ndarray:
        """Return which frames a module has, bool (frame,)."""
        return (self.truth["modules"] >> module & 1).astype(bool)


def read_truth(path: Path) -> dict[str, np.ndarray]:
    """Return all datasets of a truth file."""
    with h5py.File(path, "r") as file:
        return {name: dataset[()] for name, dataset in file.items()}


def tiny_run(folder: Path, **options) -> MockRun:
    """Simulate a small but complete run: full-size modules, few frames.

    Parameters
    ----------
    folder : Path
        The experiment folder.
    **options
        Of `SimulationOptions`, instead of those of `TINY`.
    """
    chosen = replace(SimulationOptions(folder), **{**TINY, **options})
    paths = simulate(chosen)
    return MockRun(chosen, paths, read_truth(paths.truth))
