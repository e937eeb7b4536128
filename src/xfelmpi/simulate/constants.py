"""The pixels of the simulated detector: offsets, gains, digital levels, and which are bad.

What a pixel is depends on seed, module, gain stage, memory cell and pixel only, so that raw runs,
dark runs and the files of constants agree. Nothing is kept per cell: the cells of a module share
one field of deviations, shifted by another number of pixels in every stage and cell.

Axis order as in the files: (stage, cell, ss, fs); the stages are high, medium and low gain.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from xfelmpi._kernels._deflate import zlib_compress
from xfelmpi.detectors.agipd import MAX_CELLS, MODULE_PIXELS, MODULE_SHAPE, N_MODULES
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.simulate.exdf import unfinished
from xfelmpi.simulate.options import STAGES, SimulationOptions

OFFSET = np.array([6000.0, 5200.0, 5600.0])
OFFSET_PIXEL_SPREAD, OFFSET_CELL_SPREAD = 300.0, 30.0
"""Mean analogue level without light in ADU by stage, and standard deviations."""

DIGITAL_LEVEL = np.array([4000.0, 6000.0, 8000.0])
DIGITAL_PIXEL_SPREAD, DIGITAL_CELL_SPREAD = 50.0, 10.0
"""Mean digital level in ADU by stage, and standard deviations."""

NOMINAL_GAIN = np.array([1.0, 38.0, 180.0])
"""ADU of the high stage in one ADU of each stage."""

BAD_KINDS = ("good", "dead", "hot", "noisy")
GOOD, DEAD, HOT, NOISY = range(4)
"""Dead pixels always give the same number, hot ones have their offset far away, noisy ones have
`NOISY_FACTOR` times the noise."""

DEAD_LEVELS = (50, 500)
HOT_SHIFTS = (3000, 6000)
"""Ranges of what dead pixels give, and of how far away the offsets of hot pixels are, in ADU."""

NOISY_FACTOR = 10

_PIXELS = 3
"""Second number of the generators' seeds; other modules use others."""

GZIP_LEVEL = 1

_MADE_FROM = "simulation"
"""Attribute of the files with the options that they depend on."""


class PixelConstants:
    """The pixels of one module.

    Parameters
    ----------
    options : SimulationOptions
        For seed, data type, spread of the gains and fraction of bad pixels.
    module : int
        Module number.

    Attributes
    ----------
    gain : ndarray, float32 (stage, pixel)
        ADU of the high stage in one ADU, the same for all cells.
    dead_level : ndarray, uint16 (pixel,)
        What a pixel gives in ADU if it is dead.
    hot_shift : ndarray, int16 (pixel,)
        How far the offset of a pixel is off in ADU if it is hot.
    """

    def __init__(self, options: SimulationOptions, module: int):
        self._seed = (options.seed, _PIXELS, module)
        self._n_bad = round(options.bad_fraction / 2 * MODULE_PIXELS)
        dtypes = str(np.dtype(options.constants_dtype)), str(level_dtype(options))
        pixels = _draw(self._seed, self._n_bad, options.gain_spread, *dtypes)
        self._offset, self._level = pixels.offset, pixels.level
        self.gain, self._always_bad = pixels.gain, pixels.always_bad
        self.dead_level, self.hot_shift = pixels.dead_level, pixels.hot_shift

    def offset(self, stage: int, cell: int) -> np.ndarray:
        """Return the analogue level without light, ``constants_dtype`` (pixel,) ADU."""
        return self._offset.of_cell(stage, cell)

    def digital_level(self, stage: int, cell: int) -> np.ndarray:
        """Return the mean digital level of a stage, int16 or int32 (pixel,) ADU."""
        return self._level.of_cell(stage, cell)

    def digital_threshold(self, stage: int, cell: int) -> np.ndarray:
        """Return where a stage begins, int16 or int32 (pixel,) ADU.

        Midway between the mean digital levels of the stage and of the one before; 0 for the
        first. A pixel is in high gain below that of stage 1, in low gain above that of stage 2.
        """
        if stage == 0:
            return np.zeros(MODULE_PIXELS, self._level.dtype)
        below, above = self.digital_level(stage - 1, cell), self.digital_level(stage, cell)
        return (below + above) // self._level.dtype.type(2)

    def bad_kind(self, cell: int) -> np.ndarray:
        """Return what is wrong with the pixels, uint8 (pixel,): an index of `BAD_KINDS`.

        Half of the bad pixels are bad in all cells, half in this one only.
        """
        # + 1: a trailing zero would not change what a generator makes of its seed
        kinds = _draw_bad(np.random.default_rng([*self._seed, cell + 1]), self._n_bad)
        return np.where(self._always_bad, self._always_bad, kinds)


@dataclass(frozen=True)
class _Pixels:
    """What `PixelConstants` has of all cells."""

    offset: "_Levels"
    level: "_Levels"
    gain: np.ndarray
    dead_level: np.ndarray
    hot_shift: np.ndarray
    always_bad: np.ndarray


@lru_cache(maxsize=N_MODULES)
def _draw(seed: tuple, n_bad: int, gain_spread: float, offset_dtype: str, level: str) -> _Pixels:
    """Draw the pixels of a module; kept: constants, each file of the module, and truth use them."""
    rng = np.random.default_rng(seed)
    offset = _Levels(rng, OFFSET, OFFSET_PIXEL_SPREAD, OFFSET_CELL_SPREAD, offset_dtype)
    levels = _Levels(rng, DIGITAL_LEVEL, DIGITAL_PIXEL_SPREAD, DIGITAL_CELL_SPREAD, level)
    deviation = np.clip(rng.standard_normal((len(STAGES), MODULE_PIXELS)), -3, 3)
    gain = (NOMINAL_GAIN[:, None] * (1 + gain_spread * deviation)).astype(np.float32)
    dead_level = rng.integers(*DEAD_LEVELS, MODULE_PIXELS, np.uint16)
    hot_shift = rng.integers(*HOT_SHIFTS, MODULE_PIXELS, np.int16)
    arrays = gain, dead_level, hot_shift, _draw_bad(rng, n_bad)
    for array in arrays:
        array.flags.writeable = False
    return _Pixels(offset, levels, *arrays)


def _draw_bad(rng, n_bad: int) -> np.ndarray:
    """Draw which pixels are bad, and how, uint8 (pixel,)."""
    kinds = np.zeros(MODULE_PIXELS, np.uint8)
    pixels = rng.integers(0, MODULE_PIXELS, n_bad)
    kinds[pixels] = rng.integers(DEAD, len(BAD_KINDS), n_bad, np.uint8)
    return kinds


class _Levels:
    """Levels that vary by stage, pixel and cell, rounded to a data type before they are added."""

    def __init__(self, rng, means, pixel_spread: float, cell_spread: float, dtype):
        self.dtype = np.dtype(dtype)
        pixel = rng.standard_normal((len(means), MODULE_PIXELS)) * pixel_spread
        cell = rng.standard_normal(MODULE_PIXELS) * cell_spread
        self._base = self._rounded(means[:, None] + pixel)
        self._field = np.tile(self._rounded(cell), 2)
        self._shift = rng.integers(0, MODULE_PIXELS, (len(means), MAX_CELLS))

    def _rounded(self, values):
        return (np.rint(values) if self.dtype.kind == "i" else values).astype(self.dtype)

    def of_cell(self, stage: int, cell: int) -> np.ndarray:
        """Return the values of a cell, float (65536,)."""
        shift = self._shift[stage, cell]
        return self._base[stage] + self._field[shift : shift + MODULE_PIXELS]


def level_dtype(options: SimulationOptions) -> np.dtype:
    """Return the data type of digital levels, which are integers whatever the offsets are."""
    return np.dtype("i4" if options.constants_dtype == "i4" else "i2")


def n_cells(options: SimulationOptions) -> int:
    """Return the cells that constants are written for: all up to the last one in use."""
    return options.cells[-1] + 1


def is_simulated(path: Path) -> bool:
    """Whether a file of constants was written here; there may be others in its place."""
    try:
        with open_hdf5(path) as file:
            return _MADE_FROM in file.attrs
    except OSError:
        return False


def _made_from(options: SimulationOptions) -> str:
    names = ("seed", "constants_dtype", "gain_spread", "bad_pixels")
    return json.dumps({name: getattr(options, name) for name in names})


def _has_all(path: Path, options: SimulationOptions) -> bool:
    """Whether a file has these constants already, perhaps those of more cells."""
    if not is_simulated(path):
        return False
    with h5py.File(path, "r") as file:
        same = file.attrs[_MADE_FROM] == _made_from(options)
        return same and file["AnalogOffset"].shape[1] >= n_cells(options)


def write_constants(path: Path, options: SimulationOptions, module: int) -> None:
    """Write the true constants of a module in the layout of Cheetah and OM.

    Constants that are there already, of this or another run, stay as they are.

    Parameters
    ----------
    path : Path
        The file.
    options : SimulationOptions
        As for `PixelConstants`, and for the number of cells.
    module : int
        Module number.
    """
    if _has_all(path, options):
        return
    pixels = PixelConstants(options, module)
    shape = (len(STAGES), n_cells(options), *MODULE_SHAPE)
    dtypes = {
        "AnalogOffset": options.constants_dtype,
        "RelativeGain": "f4",
        "DigitalGainLevel": level_dtype(options),
        "Badpixel": "u1",
    }
    with unfinished(path) as file:
        file.attrs[_MADE_FROM] = _made_from(options)
        for name, dtype in dtypes.items():
            _create(file, name, shape, dtype, compressed=name == "Badpixel")
        file["AnalogOffset"].attrs["units"] = file["DigitalGainLevel"].attrs["units"] = "ADU"
        for cell in range(n_cells(options)):
            bad = zlib_compress((pixels.bad_kind(cell) != GOOD).view(np.uint8), GZIP_LEVEL)
            for stage in range(len(STAGES)):
                for name, values in {
                    "AnalogOffset": pixels.offset(stage, cell),
                    "RelativeGain": pixels.gain[stage],
                    "DigitalGainLevel": pixels.digital_threshold(stage, cell),
                }.items():
                    file[name].id.write_direct_chunk((stage, cell, 0, 0), values.tobytes())
                file["Badpixel"].id.write_direct_chunk((stage, cell, 0, 0), bad)


def write_bad_kinds(file: h5py.File, options: SimulationOptions) -> None:
    """Write what is wrong with which pixel of all modules, ``bad_kind`` u1 (module, cell, ss, fs).

    Parameters
    ----------
    file : h5py.File
        The truth file. The cells are those of the constants, so a cellId is an index.
    options : SimulationOptions
        As for `write_constants`.
    """
    detector = options.detector_type
    shape = (detector.n_modules, n_cells(options), *detector.module_shape)
    kinds = _create(file, "bad_kind", shape, "u1", compressed=True)
    kinds.attrs["kinds"] = list(BAD_KINDS)
    for module in range(detector.n_modules):
        pixels = PixelConstants(options, module)
        for cell in range(n_cells(options)):
            chunk = zlib_compress(pixels.bad_kind(cell), GZIP_LEVEL)
            kinds.id.write_direct_chunk((module, cell, 0, 0), chunk)


def _create(file, name, shape, dtype, *, compressed: bool) -> h5py.Dataset:
    """Make a dataset with one chunk for each image of a module."""
    filters = {"compression": "gzip", "compression_opts": GZIP_LEVEL} if compressed else {}
    return file.create_dataset(name, shape, dtype, chunks=(1, 1, *MODULE_SHAPE), **filters)
