"""Raw frames and constants of one module made by hand, and what the program makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from modulefiles import Reading, assert_same_as_twin, make_table, write_module
from mpi4py import MPI
from reference import FS, SS, ModuleTwin, bad_constants, images_twin, of_stage, raw_photons
from runnames import constants_name

from xfelmpi.calibration.constants import Calibration, load_calibration
from xfelmpi.calibration.pixel_mask import load_masks
from xfelmpi.core.config.options import Config
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool

MODULE = 3
ADU = 60.0

RAW_LAYOUTS = {
    "contiguous": {},
    "chunk": {"chunks": (1, 2, SS, FS)},
    "chunk of 16": {"chunks": (16, 2, SS, FS), "maxshape": (None, 2, SS, FS)},
    "gzip": {"chunks": (1, 2, SS, FS), "compression": "gzip", "compression_opts": 1},
    "shuffle gzip of 4": {"chunks": (4, 2, SS, FS), "shuffle": True, "compression": "gzip"},
    "checksum": {"chunks": (1, 2, SS, FS), "fletcher32": True},
}
"""Whole frames as they are stored, packed by filters, and one that only h5py reads."""


@dataclass(frozen=True)
class Constants:
    """Constants of one module as they stand in its file, each (3, cell, 512, 128)."""

    offset: np.ndarray
    gain: np.ndarray
    level: np.ndarray
    bad: np.ndarray

    def of_cell(self, cell: int) -> tuple[np.ndarray, ...]:
        """Return offset, gain, level and bad pixels of one cell."""
        return tuple(getattr(self, name)[:, cell] for name in self.__dataclass_fields__)

    def write(self, folder: Path, module: int = MODULE) -> Path:
        """Write the file."""
        folder.mkdir(exist_ok=True)
        path = folder / constants_name(module)
        names = ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel")
        with h5py.File(path, "w") as file:
            for name, field in zip(names, self.__dataclass_fields__, strict=True):
                file[name] = getattr(self, field)
        return path


def make_constants(rng, n_cells=1, offset="i2", level="i2", gain="pixel", bad=0.02) -> Constants:
    """Return constants like those of a detector; floats have fractions.

    `gain`: ``constant``, ``cell`` or ``pixel`` says what it depends on besides the stage.
    """
    shape = (3, n_cells, SS, FS)
    stage = np.array([[6000.0, 5200.0, 5600.0], [0.0, 5000.0, 7000.0], [1.0, 38.0, 180.0]])
    middle, edge, nominal = stage.reshape(3, 3, 1, 1, 1)
    offsets = middle + rng.normal(0, 300, shape)
    levels = edge + rng.normal(0, 50, shape)
    levels[0] = 0
    spread = {"constant": (1,) * 4, "cell": (1, n_cells, 1, 1), "pixel": shape}[gain]
    gains = np.broadcast_to(nominal * (1 + rng.uniform(-0.1, 0.1, spread)), shape)
    return Constants(
        _rounded(offsets, offset),
        gains.astype(np.float32),
        _rounded(levels, level),
        (rng.random(shape) < bad).astype(np.uint8),
    )


def _rounded(values, dtype):
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(values).astype(dtype)


def make_frames(rng, constants: Constants, cells, adu=ADU, switched=0.01) -> np.ndarray:
    """Return raw frames, uint16 (frame, 2, 512, 128), with everything that is hard at its edge.

    Photons in all stages; analogue numbers at the edge of a photon, digital ones at the edges of
    the stages, each one less and one more; the smallest and the largest number.
    """
    frames = np.empty((len(cells), 2, SS, FS), np.uint16)
    for frame, cell in zip(frames, cells, strict=True):
        offset, gain, level, _ = (a.astype(np.float64) for a in constants.of_cell(cell))
        stage = rng.choice(3, (SS, FS), p=[1 - 2 * switched, switched, switched])

        signal = adu * (rng.poisson(0.02, (SS, FS)) + rng.normal(0, 0.2, (SS, FS)))
        edge = rng.random((SS, FS)) < 0.1
        signal[edge] = adu * 0.7
        analogue = of_stage(offset, stage) + signal / of_stage(gain, stage)
        analogue[edge] += rng.integers(-2, 3, edge.sum())
        digital = np.choose(stage, [level[1] - 900, level[1] + 900, level[2] + 900])
        for threshold in (1, 2):
            at = rng.random((SS, FS)) < 0.02
            digital[at] = np.rint(level[threshold][at]) + rng.integers(-1, 2, at.sum())
        for image in (analogue, digital):
            at = rng.random((SS, FS)) < 0.01
            image[at] = rng.choice([0, 1, 65534, 65535], at.sum())
        frame[0] = np.clip(np.rint(analogue), 0, 65535)
        frame[1] = np.clip(digital, 0, 65535)
    return frames


@dataclass(frozen=True)
class RawSetup:
    """How raw frames are read.

    Parameters
    ----------
    adu, threshold : float
    common_mode : bool
    good, region : ndarray, bool (512, 128), or None
        Mask and hit-finding region of the module.
    layout : dict
        Of the dataset, as h5py takes it.
    """

    adu: float = ADU
    threshold: float = 0.7
    common_mode: bool = False
    good: np.ndarray | None = None
    region: np.ndarray | None = None
    layout: dict | None = None

    def config(self, folder: Path) -> Config:
        """Return the program's configuration, with masks and constants in a folder."""
        masks = {}
        for name, image in (("global_mask", self.good), ("hit_mask", self.region)):
            if image is not None:
                masks[name] = folder / f"{name}.h5"
                with h5py.File(masks[name], "w") as file:
                    file["entry_1/good_pixels"] = np.broadcast_to(image, (16, SS, FS))
        return Config(
            50,
            folder,
            folder / "out",
            constants=folder / "constants",
            adu_per_photon=self.adu,
            photon_threshold=self.threshold,
            common_mode="asic" if self.common_mode else "none",
            **masks,
        )


def calibrate(folder: Path, cells, modules=1 << MODULE, **options) -> Calibration:
    """Load the constants in ``folder/constants`` as the program does."""
    config = replace(RawSetup().config(folder), **options)
    experiment = Experiment(folder, folder / "out", 50)
    return load_calibration(
        MPI.COMM_SELF, experiment, config, np.unique(cells), modules, detector=AGIPD_1M
    )


def read_raw(folder: Path, frames, cells, constants=None, setup=None, before=None) -> Reading:
    """Read raw frames as the program does.

    Parameters
    ----------
    folder : Path
    frames : ndarray, uint16 (frame, 2, 512, 128)
    cells : sequence of int
    constants : Constants, optional
        To be written first.
    setup : RawSetup, optional
    before : callable, optional
        Gets the path of the frames' file, which is open by then.
    """
    setup = setup or RawSetup()
    if constants is not None:
        constants.write(folder / "constants")
    about = write_module(folder / "frames.h5", frames, MODULE, **(setup.layout or {}))
    config, experiment = setup.config(folder), Experiment(folder, folder / "out", 50)
    used = np.unique(cells)
    calibration = load_calibration(
        MPI.COMM_SELF, experiment, config, used, 1 << MODULE, detector=AGIPD_1M
    )
    masks = load_masks(MPI.COMM_SELF, experiment, config, used, calibration, detector=AGIPD_1M)
    pool = FilePool((about,))
    powder = PowderSum.zeros(masks.good.shape[1], AGIPD_1M)
    sparsifier = Sparsifier(pool, masks, setup.adu, setup.threshold, 0, calibration)
    if before:
        pool.get(0)
        before(folder / "frames.h5")
    table = make_table({MODULE: (0, np.arange(len(frames)))}, cell=cells)
    block = sparsifier.frames(table, powder)
    pool.close()
    return Reading(block, powder, sparsifier.problems, sparsifier.bytes_read)


def raw_twin(frames, cells, constants: Constants, setup=None) -> tuple[ModuleTwin, list]:
    """Return what numpy finds in raw frames, and how many pixels of each switched."""
    setup = setup or RawSetup()
    everywhere = np.ones((SS, FS), bool)
    good = everywhere if setup.good is None else setup.good
    region = everywhere if setup.region is None else setup.region
    found = [
        raw_photons(
            *frame,
            *constants.of_cell(cell),
            good,
            setup.adu,
            setup.threshold,
            common_mode=setup.common_mode,
        )
        for frame, cell in zip(frames, cells, strict=True)
    ]
    high = {cell: good & ~bad_constants(*constants.of_cell(cell))[0] for cell in set(cells)}
    twin = images_twin((f[:2] for f in found), [high[cell] for cell in cells], region)
    return twin, [f[2] for f in found]


def assert_reads_raw(folder: Path, frames, cells, constants: Constants, setup=None) -> Reading:
    """Assert that the program reads raw frames like numpy; returns what it read."""
    cells = [int(cell) for cell in cells]
    reading = read_raw(folder, frames, cells, constants, setup)
    twin, switched = raw_twin(frames, cells, constants, setup)
    assert reading.problems == []
    assert_same_as_twin(reading, MODULE, twin)
    assert reading.block.sums.switched.tolist() == [list(pair) for pair in switched]
    return reading


def flat(values) -> np.ndarray:
    """Return values by pixel as an image of the module."""
    return np.asarray(values).reshape(*np.shape(values)[:-1], SS, FS)
