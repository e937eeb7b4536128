"""Constants of raw data: read, checked, put into the form the kernel needs, once per node.

Layout of the files (Cheetah, OM): ``Cheetah-AGIPDmm-calib.h5`` with ``AnalogOffset``,
``RelativeGain``, ``DigitalGainLevel`` and ``Badpixel``, each (3, cell, 512, 128), first axis the
gain stage high, medium, low. The stage of a pixel is high if digital < DigitalGainLevel[1], low if
digital > DigitalGainLevel[2], else medium; its signal is (analogue − offset[stage]) × gain[stage]
in float32, in ADU of the high stage.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.collective import NodeShared, from_root, together
from xfelmpi.detector import MAX_CELLS, MODULE_PIXELS, MODULE_SHAPE, N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.masks import MODULE_BYTES, pack
from xfelmpi.records import Problem

STAGES = 3
_NEVER = 65535
"""Cut of a pixel that cannot have a photon in the high stage."""


@dataclass(frozen=True)
class ModuleConstants:
    """Constants of one module for the cells of the run; the arrays are shared by the node's ranks.

    Parameters
    ----------
    cut : ndarray, uint16 (row, 65536)
        Smallest analogue value that is a photon in the high stage.
    lowest1 : ndarray, uint16 (row, 1024)
        Smallest `level1` of every 64 pixels.
    level1, level2 : ndarray, uint16 (row, 65536)
        High stage below the first, low stage above the second. Thresholds out of range stand as 0
        or 65535, numbers that a converter of 14 bits never gives for a good pixel.
    offset : ndarray, int16 or float32 (row, 3, 65536)
        ADU.
    gain : ndarray, float32 (row, 3, 65536)
        ADU of the high stage per ADU; may be broadcast along cells and pixels.
    bad : ndarray, uint8 (3, row, 8192)
        Bits of the bad pixels of every stage.
    """

    cut: np.ndarray
    lowest1: np.ndarray
    level1: np.ndarray
    level2: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    bad: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """What turns raw frames into photons.

    Parameters
    ----------
    modules : dict of int to ModuleConstants
        Of the modules of the run that have constants.
    lacking : tuple of int
        Modules of the run that have none.
    row_of_cell : ndarray, int32 (352,)
        Row of every memory cell in the constants.
    common_mode : bool
        Subtract the median of every ASIC.
    nbytes : int
        Memory of the constants on a node.
    notes : tuple of str
    problems : tuple of Problem
    """

    modules: dict[int, ModuleConstants]
    lacking: tuple[int, ...]
    row_of_cell: np.ndarray
    common_mode: bool
    nbytes: int
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    def bad_in_high_stage(self, module: int) -> np.ndarray:
        """Return the bits of a module's bad pixels, uint8 (row, 8192).

        All if it lacks constants; none if the run lacks the module, whose pixels are missing.
        """
        if module in self.modules:
            return self.modules[module].bad[0]
        return np.full((1, MODULE_BYTES), 0xFF if module in self.lacking else 0, np.uint8)


@dataclass(frozen=True)
class _Form:
    # how the arrays of all modules are kept: the tightest that is exact
    offset: str
    gain_cells: bool
    gain_pixels: bool

    def join(self, other: "_Form") -> "_Form":
        return _Form(
            "f4" if "f4" in (self.offset, other.offset) else "i2",
            self.gain_cells or other.gain_cells,
            self.gain_pixels or other.gain_pixels,
        )


def constants_file(folder: Path, module: int) -> Path:
    """Return the name of a module's constants file."""
    return folder / f"Cheetah-AGIPD{module:02}-calib.h5"


def load_calibration(comm, experiment, config, cells_used, modules_in_run: int) -> Calibration:
    """Read the constants of all modules for the cells of the run; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
        Says where constants usually lie.
    config : Config
        ``constants``, ``adu_per_photon``, ``photon_threshold``, ``common_mode``.
    cells_used : ndarray, int (cell,)
        Cells of the whole run, ascending; the same on all ranks.
    modules_in_run : int
        Bit field of the modules that need constants.

    Raises
    ------
    InputError
        On all ranks, if there are none at all or a file has the wrong shape or dtype.
    """
    folder = config.constants or experiment.constants
    found = from_root(comm, lambda: _find(folder, modules_in_run, cells_used))
    modules, problems = found
    form = _Form("i2", False, False)
    with together(comm):
        for module in modules[comm.rank :: comm.size]:
            form = form.join(_survey(constants_file(folder, module), cells_used))
    for other in comm.allgather(form):
        form = form.join(other)
    shared = {
        name: NodeShared(comm, shape, dtype)
        for name, shape, dtype in _arrays(form, len(modules), len(cells_used))
    }
    any_array = next(iter(shared.values()))
    with together(comm):
        # every rank of a node fills some of the modules
        for i in range(any_array.node_rank, len(modules), any_array.node_size):
            _fill(
                constants_file(folder, modules[i]),
                {k: s.array[i] for k, s in shared.items()},
                cells_used,
                config,
            )
    arrays = {name: s.ready() for name, s in shared.items()}
    row_of_cell = np.zeros(MAX_CELLS, np.int32)
    row_of_cell[cells_used] = np.arange(len(cells_used))
    nbytes = sum(a.nbytes for a in arrays.values())
    full = (len(cells_used), STAGES, MODULE_PIXELS)
    by_module = {
        module: ModuleConstants(
            arrays["cut"][i],
            arrays["lowest1"][i],
            arrays["level1"][i],
            arrays["level2"][i],
            arrays["offset"][i],
            np.broadcast_to(arrays["gain"][i], full),
            arrays["bad"][i],
        )
        for i, module in enumerate(modules)
    }
    notes = (
        f"constants: {folder}, {len(modules)} modules, {len(cells_used)} cells, "
        f"{nbytes / 2**20:,.0f} MiB on each node",
    )
    wanted = np.flatnonzero(modules_in_run >> np.arange(N_MODULES) & 1).tolist()
    return Calibration(
        by_module,
        tuple(m for m in wanted if m not in by_module),
        row_of_cell,
        config.common_mode == "asic",
        nbytes,
        notes,
        problems,
    )


def _arrays(form: _Form, n_modules: int, n_cells: int):
    """Return (name, shape, dtype) of the shared arrays."""
    per_cell = (n_modules, n_cells, MODULE_PIXELS)
    gain = (
        n_modules,
        n_cells if form.gain_cells else 1,
        STAGES,
        MODULE_PIXELS if form.gain_pixels else 1,
    )
    return [
        ("cut", per_cell, "u2"),
        ("lowest1", (*per_cell[:2], MODULE_PIXELS // 64), "u2"),
        ("level1", per_cell, "u2"),
        ("level2", per_cell, "u2"),
        ("offset", (n_modules, n_cells, STAGES, MODULE_PIXELS), form.offset),
        ("gain", gain, "f4"),
        ("bad", (n_modules, STAGES, n_cells, MODULE_BYTES), "u1"),
    ]


def _find(folder: Path, modules_in_run: int, cells_used) -> tuple[list[int], tuple[Problem, ...]]:
    wanted = [m for m in range(N_MODULES) if modules_in_run >> m & 1]
    modules = [m for m in wanted if constants_file(folder, m).exists()]
    if not modules:
        raise InputError(
            f"{folder}: no constants for raw data; looked for Cheetah-AGIPDmm-calib.h5, "
            f"mm = {' '.join(f'{m:02}' for m in wanted)}; name their folder with --constants, or "
            "make them with: xfelmpi darks"
        )
    problems = [
        Problem(
            "no constants for this module",
            constants_file(folder, m).name,
            m,
            0,
            "all its pixels count as bad",
        )
        for m in wanted
        if m not in modules
    ]
    for module in modules:
        path = constants_file(folder, module)
        with _open(path) as file:
            n_cells = _check(file, path)
        lacking = np.asarray(cells_used)[np.asarray(cells_used) >= n_cells]
        if len(lacking):
            problems.append(
                Problem(
                    f"constants have {n_cells} cells, the run uses cell {lacking[-1]}",
                    path.name,
                    module,
                    0,
                    "pixels of the cells without constants count as bad",
                )
            )
    return modules, tuple(problems)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: constants cannot be read ({error})") from None


def _check(file: h5py.File, path: Path) -> int:
    """Check the four datasets of a file and return its number of cells."""
    shapes = {}
    for name, kinds in (
        ("AnalogOffset", "iuf"),
        ("RelativeGain", "f"),
        ("DigitalGainLevel", "iuf"),
        ("Badpixel", "biu"),
    ):
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{path}: no dataset {name} in this constants file")
        if dataset.dtype.kind not in kinds:
            raise InputError(
                f"{path}: {name} is {dataset.dtype}, expected kind {' or '.join(kinds)}"
            )
        if dataset.ndim != 4 or (dataset.shape[0], *dataset.shape[2:]) != (STAGES, *MODULE_SHAPE):
            raise InputError(
                f"{path}: {name} has shape {dataset.shape}, expected (3, cells, 512, 128)"
            )
        shapes[name] = dataset.shape
    if len(set(shapes.values())) > 1:
        raise InputError(f"{path}: datasets differ in their number of cells: {shapes}")
    return shapes["AnalogOffset"][1]


def _survey(path: Path, cells_used) -> _Form:
    """Find the tightest exact form of a module's offsets and gains, one cell at a time."""
    with _open(path) as file:
        offset, gain = file["AnalogOffset"], file["RelativeGain"]
        cells = [c for c in cells_used if c < offset.shape[1]]
        tight = offset.dtype.str[1:] in ("i2", "i1", "u1")
        if not tight:
            tight = all(_fits_i2(offset[s, c]) for c in cells for s in range(STAGES))
        by_cell = by_pixel = False
        for stage in range(STAGES):
            first = None
            for cell in cells:
                if by_cell and by_pixel:
                    break
                values = gain[stage, cell]
                first = values if first is None else first
                by_pixel = by_pixel or bool((values != values[0, 0]).any())
                by_cell = by_cell or not np.array_equal(values, first)
    return _Form("i2" if tight else "f4", by_cell, by_pixel)


def _fits_i2(values: np.ndarray) -> bool:
    # NaN is neither: such offsets stay floats, and their pixels become bad
    with np.errstate(invalid="ignore"):
        return bool(((values >= -32768) & (values <= 32767) & (values == np.trunc(values))).all())


def _fill(path: Path, arrays: dict[str, np.ndarray], cells_used, config) -> None:
    """Write a module's constants into its part of the shared arrays, one cell at a time."""
    with _open(path) as file:
        n_cells = file["AnalogOffset"].shape[1]
        for row, cell in enumerate(cells_used):
            if cell >= n_cells:
                arrays["cut"][row] = _NEVER
                arrays["lowest1"][row] = _NEVER
                arrays["level1"][row] = _NEVER
                arrays["level2"][row] = _NEVER
                arrays["offset"][row] = 0
                arrays["bad"][:, row] = 0xFF
                if arrays["gain"].shape[0] > 1:
                    arrays["gain"][row] = 1
                continue
            offset, gain, level, bad = (
                file[name][:, cell].reshape(STAGES, MODULE_PIXELS)
                for name in ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel")
            )
            cell_arrays = prepare_cell(offset, gain, level, bad != 0, config)
            for name in ("cut", "lowest1", "level1", "level2", "offset"):
                arrays[name][row] = cell_arrays[name]
            arrays["bad"][:, row] = cell_arrays["bad"]
            gain_row = row if arrays["gain"].shape[0] > 1 else 0
            arrays["gain"][gain_row] = cell_arrays["gain"][:, : arrays["gain"].shape[2]]


def prepare_cell(offset, gain, level, bad, config) -> dict[str, np.ndarray]:
    """Put the constants of one module and cell into the kernel's form.

    Parameters
    ----------
    offset, gain, level : ndarray (3, 65536)
    bad : ndarray, bool (3, 65536)
    config : Config
        ``adu_per_photon``, ``photon_threshold``.

    Returns
    -------
    dict
        The fields of `ModuleConstants`.
        Pixels whose constants are not finite, or whose gain is not positive, become bad; so do
        those whose signal could be more than float32 holds.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        offset = offset.astype(np.float32)
        gain = gain.astype(np.float32)
        # the median of an ASIC adds two signals
        farthest = 2 * (np.abs(offset) + 65535) * gain
        usable = np.isfinite(farthest) & (gain > 0) & ~np.isnan(level[1:]).any(axis=0)
    offset = np.where(np.isfinite(farthest), offset, np.float32(0))
    gain = np.where(np.isfinite(farthest) & (gain > 0), gain, np.float32(1))
    bad = bad | ~usable
    cut = _smallest_photon(offset[0], gain[0], config.adu_per_photon, config.photon_threshold)
    # the digital level is an integer, so thresholds that are not can be rounded to the next one
    level = np.nan_to_num(level.astype(np.float64))
    # a bad pixel is of no interest, whatever its stage
    level1 = np.where(bad[0], _NEVER, np.clip(np.ceil(level[1]), 0, 65535)).astype(np.uint16)
    level2 = np.clip(np.floor(level[2]), 0, 65535)
    return {
        "cut": np.where(bad[0], _NEVER, cut).astype(np.uint16),
        "lowest1": level1.reshape(-1, 64).min(axis=1),
        "level1": level1,
        "level2": level2.astype(np.uint16),
        "offset": offset,
        "gain": gain,
        "bad": pack(bad.reshape(STAGES, *MODULE_SHAPE)),
    }


def _smallest_photon(offset, gain, adu_per_photon: float, threshold: float) -> np.ndarray:
    """Return the smallest analogue value 0 … 65535 that is a photon in the high stage, (pixel,).

    65535 also where no value is: the kernel takes what is not below for a candidate only.
    """
    adu, threshold = np.float32(adu_per_photon), np.float32(threshold)

    def is_photon(analogue):
        # the very arithmetic of the kernel, which rounds after every step
        with np.errstate(over="ignore"):
            return (
                np.floor((analogue.astype(np.float32) - offset) * gain / adu + 1 - threshold) >= 1
            )

    about = np.floor(offset + threshold * adu_per_photon / gain.astype(np.float64))
    low = np.clip(about - 2, 0, 65535).astype(np.int32)
    high = np.clip(about + 3, 0, 65535).astype(np.int32)
    # rounding of float32 may have moved the edge farther than the few values around it
    low = np.where(is_photon(low), 0, low)
    high = np.where(is_photon(high), high, 65535)
    while (low < high).any():
        middle = (low + high) // 2
        found = is_photon(middle)
        high = np.where(found, middle, high)
        low = np.where(found, low, np.minimum(middle + 1, high))
    return low
