"""Constants of raw data for the cells of a run, once per node, filled by its ranks together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from xfelmpi.calibration.constants_file import (
    STAGES,
    ConstantsLayout,
    check_constants,
    constants_file,
    descending_thresholds,
    fill_without_constants,
    lacking_constants,
    open_constants,
    prepare_cell,
    problem_of_cells,
    survey,
)
from xfelmpi.core.config.parsing import CATALOGUE
from xfelmpi.core.config.parts import RawSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.log import plural
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.mpi import (
    NodeSharedArray,
    bcast_from_root,
    fail_together,
    gather_objects,
    holders,
    private_limit,
)

_STAGE_NAMES = ("high", "medium", "low")

if TYPE_CHECKING:
    from xfelmpi.calibration.catalogue import CatalogueConstants

    _Source: TypeAlias = "_FolderConstants | CatalogueConstants"


@dataclass(frozen=True)
class ModuleConstants:
    """Constants of one module for the cells of the run; the arrays are shared by the node's ranks.

    Parameters
    ----------
    one_photon_adc : ndarray, uint16 (row, pixel)
        Smallest analogue value that is a photon in the high stage.
    lowest1 : ndarray, uint16 (row, pixel / 64)
        Smallest `level1` of every 64 pixels.
    level1, level2 : ndarray, uint16 (row, pixel)
        High stage below the first, low stage above the second. Thresholds out of range stand as 0
        or 65535, numbers that a converter of 14 bits never gives for a good pixel.
    offset : ndarray, int16 or float32 (row, 3, pixel)
        ADU.
    gain : ndarray, float32 (row, 3, pixel)
        ADU of the high stage per ADU; may be broadcast along cells and pixels.
    bad : ndarray, uint8 (3, row, byte)
        Bits of the bad pixels of every stage.
    """

    one_photon_adc: np.ndarray
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
    detector : Detector
    row_of_cell : ndarray, int32 (cell,)
        Row of every memory cell in the constants.
    common_mode : bool
        Subtract the median of every ASIC.
    nbytes : int
        Memory of the constants on a node.
    notes : tuple of str
    problems : tuple of Problem
    files : tuple of UsedFile
    warnings : tuple of str
        For the log.
    """

    modules: dict[int, ModuleConstants]
    lacking: tuple[int, ...]
    detector: Detector
    row_of_cell: np.ndarray
    common_mode: bool
    nbytes: int
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    files: tuple[UsedFile, ...] = ()
    warnings: tuple[str, ...] = ()

    def good_in_high_stage(self, module: int) -> np.ndarray:
        """Return the bits of a module's good pixels, uint8 (row, byte).

        No pixel if it lacks constants; all if the run lacks the module, whose pixels are missing.
        """
        if module in self.modules:
            return ~self.modules[module].bad[0]
        n_bytes = self.detector.module_bytes
        return np.full((1, n_bytes), 0 if module in self.lacking else 0xFF, np.uint8)


def load_calibration(
    comm,
    experiment,
    settings: RawSettings,
    cells_used,
    modules_in_run: int,
    name: str = "",
    *,
    detector: Detector,
) -> Calibration:
    """Read the constants of all modules for the cells of the run; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
        Says where constants usually lie.
    settings : RawSettings
        ``constants``, ``adu_per_photon``, ``photon_threshold``, ``common_mode``.
    cells_used : ndarray, int (cell,)
        Cells of the whole run, ascending; the same on all ranks.
    modules_in_run : int
        Bit field of the modules that need constants.
    name : str
        E.g. ``SPB_DET_AGIPD1M-1``, for constants of the catalogue.
    detector : Detector

    Raises
    ------
    InputError
        On all ranks, if there are none at all or a file has the wrong shape or dtype.
    """
    wanted = np.flatnonzero(modules_of(modules_in_run, detector.n_modules)).tolist()
    source = bcast_from_root(
        comm, lambda: _find_source(experiment, settings, wanted, cells_used, name, detector)
    )
    modules = source.modules
    form = _tightest_form(comm, source, cells_used)
    arrays, problems = _read_shared(comm, source, form, cells_used, settings)
    full = (len(cells_used), STAGES, detector.module_pixels)
    by_module = {}
    for i, module in enumerate(modules):
        own = {key: array[i] for key, array in arrays.items()}
        own["gain"] = np.broadcast_to(own["gain"], full)
        by_module[module] = ModuleConstants(**own)
    nbytes = sum(array.nbytes for array in arrays.values())
    return Calibration(
        modules=by_module,
        lacking=tuple(m for m in wanted if m not in by_module),
        detector=detector,
        row_of_cell=detector.rows_of_cells(cells_used),
        common_mode=settings.common_mode == "asic",
        nbytes=nbytes,
        notes=(
            f"constants: {source.origin}, {len(modules)} modules, {len(cells_used)} cells, "
            f"{nbytes / 2**20:,.0f} MiB on each node",
        ),
        problems=(*source.problems, *problems),
        files=source.used,
        warnings=source.warnings,
    )


@dataclass(frozen=True)
class _FolderConstants:
    """Files of the modules in a folder, in the layout of Cheetah and OM."""

    folder: Path
    detector: Detector
    modules: list[int]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    @property
    def origin(self) -> str:
        return str(self.folder)

    @property
    def used(self) -> tuple[UsedFile, ...]:
        paths = (constants_file(self.folder, module) for module in self.modules)
        return tuple(UsedFile("constants", str(path)) for path in paths)

    def layout(self, module: int, cells_used) -> ConstantsLayout:
        """Return how a module's constants can be kept."""
        return survey(constants_file(self.folder, module), cells_used)

    def fill(self, module: int, arrays, cells_used, settings) -> list[Problem]:
        """Write a module's constants into its part of the shared arrays; return what they lack."""
        path = constants_file(self.folder, module)
        n_there, lacking = _fill(path, arrays, cells_used, settings)
        problems = [_problem_of_lacking(path.name, module, lacking)] if lacking else []
        if n_there and not arrays["offset"].any():
            what = f"AnalogOffset is 0 for all pixels of {n_there} cells"
            problems.append(Problem(what, path.name, module, 0, "used"))
        return problems


def _find_source(
    experiment, settings, wanted: list[int], cells_used, name: str, detector: Detector
) -> "_Source":
    """Find the constants of the wanted modules; one rank."""
    if settings.constants == CATALOGUE:
        # with yaml, which ranks without such constants do without
        from xfelmpi.calibration.catalogue import find_constants
        from xfelmpi.calibration.catalogue_files import find_catalogue_files

        return find_constants(find_catalogue_files(experiment, name), wanted, cells_used, detector)
    folder = settings.constants or experiment.constants
    return _FolderConstants(folder, detector, *_find(folder, wanted, cells_used, detector))


def _tightest_form(comm, source: "_Source", cells_used) -> ConstantsLayout:
    """Return the tightest form that is exact for all modules, of which every rank reads some."""
    form = ConstantsLayout("i2", False, False)
    with fail_together(comm):
        for module in source.modules[comm.rank :: comm.size]:
            form = form.join(source.layout(module, cells_used))
    for other in comm.allgather(form):
        form = form.join(other)
    return form


def _read_shared(
    comm,
    source: "_Source",
    form: ConstantsLayout,
    cells_used,
    settings,
) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Return the constants of all modules, (module, ...), by the names of `ModuleConstants`.

    Besides, which modules lack some of them, the same on all ranks.
    """
    modules = source.modules
    layouts = _arrays(form, len(modules), len(cells_used), source.detector)
    # together: the ranks that fill one of them fill them all
    several = holders(
        comm, [layout[1:] for layout in layouts], private_limit(settings.memory_per_rank)
    )
    shared = {name: NodeSharedArray(several, *layout) for name, *layout in layouts}
    any_array = next(iter(shared.values()))
    problems: list[Problem] = []
    with fail_together(comm):
        # every rank of a node fills some of the modules
        for i in range(any_array.node_rank, len(modules), any_array.node_size):
            own = {name: array.array[i] for name, array in shared.items()}
            problems += source.fill(modules[i], own, cells_used, settings)
    # those of other nodes are the same
    found = dict.fromkeys(comm.bcast(gather_objects(comm, problems)))
    ready = {name: array.ready() for name, array in shared.items()}
    return ready, sorted(found, key=lambda problem: problem.module)


def _arrays(form: ConstantsLayout, n_modules: int, n_cells: int, detector: Detector):
    """Return (name, shape, dtype) of the shared arrays."""
    n_pixels = detector.module_pixels
    per_cell = (n_modules, n_cells, n_pixels)
    gain = (
        n_modules,
        n_cells if form.gain_cells else 1,
        STAGES,
        n_pixels if form.gain_pixels else 1,
    )
    return [
        ("one_photon_adc", per_cell, "u2"),
        ("lowest1", (*per_cell[:2], n_pixels // 64), "u2"),
        ("level1", per_cell, "u2"),
        ("level2", per_cell, "u2"),
        ("offset", (n_modules, n_cells, STAGES, n_pixels), form.offset),
        ("gain", gain, "f4"),
        ("bad", (n_modules, STAGES, n_cells, detector.module_bytes), "u1"),
    ]


def _find(
    folder: Path, wanted: list[int], cells_used, detector: Detector
) -> tuple[list[int], tuple[Problem, ...], tuple[str, ...]]:
    """Find and check the constants files; returns their modules, problems, and warnings."""
    modules = [m for m in wanted if constants_file(folder, m).exists()]
    if not modules:
        raise InputError(
            f"{folder}: no calibration constants for raw data; looked for "
            f"Cheetah-AGIPDmm-calib.h5, mm = {' '.join(f'{m:02}' for m in wanted)}; "
            "name their folder with --constants, or make them with: xfelmpi darks"
        )
    problems = [
        Problem(
            "no calibration constants for this module",
            constants_file(folder, m).name,
            m,
            0,
            "all its pixels count as bad",
        )
        for m in wanted
        if m not in modules
    ]
    complaints: list[str] = []
    for module in modules:
        path = constants_file(folder, module)
        with open_constants(path) as file:
            n_cells = check_constants(file, path, detector)
            if complaint := descending_thresholds(file, path.name):
                complaints.append(complaint)
        problems += problem_of_cells(path.name, module, n_cells, cells_used)
    if complaints[1:]:
        complaints = [f"{complaints[0]} (and {len(complaints) - 1} files more alike)"]
    return modules, tuple(problems), tuple(complaints)


def _problem_of_lacking(file: str, module: int, lacking: dict[int, np.ndarray]) -> Problem:
    """Return the problem of constants that are missing, (stage,) pixels by cell."""
    pixels = np.array(list(lacking.values()))
    stages = [name for name, n in zip(_STAGE_NAMES, pixels.sum(axis=0), strict=True) if n]
    cells = plural(len(lacking), "cell")
    what = (
        f"calibration constants of {', '.join(stages)} gain are 0, or no numbers, for "
        f"{pixels.max():,} pixels of {len(lacking)} {cells}, e.g. cell {min(lacking)}"
    )
    return Problem(what, file, module, 0, "pixels count as bad in these stages")


def _fill(
    path: Path, arrays: dict[str, np.ndarray], cells_used, settings
) -> tuple[int, dict[int, np.ndarray]]:
    """Write a module's constants into its part of the shared arrays, one cell at a time.

    Returns how many of the cells the file has, and how many pixels lack constants, int (stage,),
    by cell, where many do.
    """
    found = {}
    with open_constants(path) as file:
        offsets = file["AnalogOffset"]
        n_cells = offsets.shape[1]
        subtracted = not any(offsets[:, cell].any() for cell in cells_used if cell < n_cells)
        for row, cell in enumerate(cells_used):
            if cell >= n_cells:
                fill_without_constants(arrays, row)
                continue
            offset, gain, level, bad = (
                file[name][:, cell].reshape(STAGES, -1)
                for name in ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel")
            )
            lacking = lacking_constants(offset, gain, level, bad != 0, subtracted=subtracted)
            if lacking.any():
                found[int(cell)] = lacking.sum(axis=1)
            cell_arrays = prepare_cell(offset, gain, level, (bad != 0) | lacking, settings)
            for name in ("one_photon_adc", "lowest1", "level1", "level2", "offset"):
                arrays[name][row] = cell_arrays[name]
            arrays["bad"][:, row] = cell_arrays["bad"]
            gain_row = row if arrays["gain"].shape[0] > 1 else 0
            arrays["gain"][gain_row] = cell_arrays["gain"][:, : arrays["gain"].shape[2]]
    return sum(1 for cell in cells_used if cell < n_cells), found
