"""Small simulated runs for tests, and their known answer as dense images."""

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.constants_file import constants_file
from xfelmpi.core.paths import Experiment
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

TINY_RAW = {**TINY, "kind": "raw", "trains": 2, "cells": (0, 2, 3)}
TINY_DARK = {**TINY, "kind": "dark", "trains": 4, "cells": (0, 2, 3)}

TINY_500K = {
    "detector": "AGIPD-500K",
    "seed": 3,
    "trains": 3,
    # cell 0 of this detector is dark
    "cells": tuple(range(1, 8)),
    "dark_cells": 1,
    "hit_photons": (500.0, 3e3),
    "absent_modules": (5,),
}
"""Of the detector with the fewest modules, for what is done to the same run many times."""

HALF = {"detector": "SPB_DET_AGIPD500K", "dark_cells": 1, "cells": tuple(range(1, 7))}
"""Half of an AGIPD-1M among SPB's beamline data, for whole jobs that are compared: half the time.

Its cell 0 would be dark.
"""

NEAR = {"absent_modules": tuple(module for module in range(16) if module not in (3, 4, 8, 15))}
"""Only the modules around the beam, where most photons are, for what is said of single pixels."""


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
        detector = self.options.detector_type
        image = np.zeros(detector.frame_pixels, np.uint16)
        image[self.truth["pixel"][entries]] = self.truth["count"][entries]
        return image.reshape(detector.frame_shape)

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
        n_pixels = self.options.detector_type.module_pixels
        of_module = self.truth["pixel"][start:stop] // n_pixels == module
        self.truth["count"][start:stop][of_module] = 0

    def has(self, module: int) -> np.ndarray:
        """Return which frames a module has, bool (frame,)."""
        return (self.truth["modules"] >> module & 1).astype(bool)

    def good(self, row: int) -> np.ndarray:
        """Return the good pixels of one raw frame, bool (module, ss, fs)."""
        return self.truth["bad_kind"][:, self.truth["cellId"][row]] == 0

    def constants(self, module: int) -> dict[str, np.ndarray]:
        """Return the constants of raw data by name, each (stage, cell, ss, fs)."""
        return read_truth(constants_file(self.paths.constants, module))


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
    paths = simulate(chosen) if _has_files(folder) else _copied(folder, chosen, options)
    return MockRun(chosen, paths, read_truth(paths.truth))


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in Path(folder).rglob("*"))


_kept: dict[str, tuple[Path, SimulationResult]] = {}
"""The runs that tests of this process have simulated last, by their options, as they were."""

_KEPT_RUNS = 6

_folder = tempfile.TemporaryDirectory(prefix="xfelmpi-runs-")


def _copied(folder: Path, chosen: SimulationOptions, options: dict) -> SimulationResult:
    """Simulate a run in an empty folder, or copy one with the same options: a tenth of the time."""
    key = repr((Experiment(Path(folder), Path(), 0).proposal, sorted(options.items())))
    if any(isinstance(value, Path | np.ndarray) for value in options.values()):
        return simulate(chosen)  # what stands in a file may change; of an array not all is in `key`
    if key in _kept:
        home, paths = _kept[key] = _kept.pop(key)  # to the end: the last one used
        shutil.copytree(home, folder, dirs_exist_ok=True)
        return _moved(paths, home, folder)
    paths = simulate(chosen)
    home = Path(_folder.name) / str(time.monotonic_ns())
    shutil.copytree(folder, home)
    _kept[key] = home, _moved(paths, folder, home)
    if len(_kept) > _KEPT_RUNS:
        shutil.rmtree(_kept.pop(next(iter(_kept)))[0])
    return paths


def _moved(paths: SimulationResult, home: Path, folder: Path) -> SimulationResult:
    """Return the paths of a run whose experiment folder was copied."""
    changes: dict = {
        name: Path(folder) / value.relative_to(home)
        for name, value in vars(paths).items()
        if isinstance(value, Path)
    }
    experiment = replace(
        paths.experiment,
        prefix=Path(folder),
        output=Path(folder) / paths.experiment.output.relative_to(home),
    )
    return replace(paths, experiment=experiment, **changes)


def allocate_frames(folder: Path) -> None:
    """Have EXtra-data's example files hold their frames, all zeros, in space that takes no disk.

    As it makes them they were never written, so that no reader can tell what was measured.
    """
    for path in folder.glob("*AGIPD*"):
        with h5py.File(path, "r+") as file:
            for name in _frame_datasets(file):
                old = file[name]
                layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                kind, space = old.id.get_type(), h5py.h5s.create_simple(old.shape)
                del file[name]
                h5py.h5d.create(file.id, name.encode(), kind, space, layout)


def _frame_datasets(file: h5py.File) -> list[str]:
    found = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and name.endswith("image/data"):
            found.append(name)

    file.visititems(visit)
    return found
