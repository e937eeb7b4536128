"""What the facility's own hit finder says of the frames, and how many lit pixels it counted.

EXtra-redu 1.1 (``spi/``) writes ``REDU/SPI_HITFINDER`` and, unless the corrected files count lit
pixels themselves (index group ``litpx``), ``REDU/LITPX_COUNTER``, into files ``CORR-R…-REDU00-S…``.
"""

import re
from pathlib import Path

import numpy as np

from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.core.machine_records import FacilityHits
from xfelmpi.core.paths import Experiment
from xfelmpi.run.machine.control_data import opened, run_value
from xfelmpi.run.machine.findings import Damage, Findings
from xfelmpi.run.machine.train_table import TrainTable, pulse_key, read_table

_FINDER = re.compile(r"/REDU/SPI_HITFINDER:output$")
_COUNTER = re.compile(r"/REDU/LITPX_COUNTER:output$")
_REDUCED = re.compile(r"-REDU\d*-")
_SETTINGS = ("mode", "snr", "minScores", "lqr", "fixedThreshold", "xgmNormalization")


def facility_hits(
    experiment: Experiment, detector: str, train_id: np.ndarray, pulse_id: np.ndarray
) -> tuple[FacilityHits | None, Findings]:
    """Return what the facility's hit finder says of frames; one rank.

    Parameters
    ----------
    experiment : Experiment
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    train_id, pulse_id : ndarray, uint64 (frame,)
        By these the frames are found.

    Returns
    -------
    FacilityHits or None
        None if the run has none.
    Findings
        For the log.
    """
    found = Findings()
    for kind in ("proc", "raw"):
        with opened(experiment.run_folder(kind), found.damage, _REDUCED) as files:
            for source in _sources(files, _FINDER, detector):
                hits = _read_hits(files, source, train_id, pulse_id, found)
                if hits is not None:
                    return hits, found
    return None, found


def _sources(files: list, pattern: re.Pattern, detector: str) -> list[str]:
    named = {s for f in files for s in f.instrument_sources if pattern.search(s)}
    return sorted(s for s in named if s.startswith(f"{detector}/"))


def _read_hits(files: list, source: str, train_id, pulse_id, found: Findings):
    """Return the hits that one source has, None if it has no flags."""
    key = pulse_key(train_id, pulse_id)
    columns = {}
    for name in ("hitFlag", "missFlag", "hitscore"):
        path = f"INSTRUMENT/{source}/data/{name}"
        table = read_table(files, f"{source}/data", path, found.damage, by_pulse=True)
        columns[name] = _of_frames(table, key)
    if np.isnan(columns["hitFlag"]).all():
        return None
    trains = {}
    for name in ("value", "mu", "sig"):
        path = f"INSTRUMENT/{source}/threshold/{name}"
        table = read_table(files, f"{source}/threshold", path, found.damage)
        trains[name] = _of_frames(table, train_id)
    device = source.removesuffix(":output")
    settings = {name: run_value(files, device, name, found.damage) for name in _SETTINGS}
    shown = [f"{name} {value}" for name, value in settings.items() if value is not None]
    is_hit, is_miss = (columns[name] == 1 for name in ("hitFlag", "missFlag"))
    known = ~np.isnan(columns["hitFlag"])
    found.use(
        "facility_hits",
        source,
        f"{int(is_hit.sum()):,} hits, {int(is_miss.sum()):,} misses among {int(known.sum()):,} of "
        f"{len(known):,} frames; {', '.join(shown)}",
    )
    return FacilityHits(
        known,
        is_hit,
        is_miss,
        columns["hitscore"],
        trains["value"],
        trains["mu"],
        trains["sig"],
    )


def _of_frames(table: TrainTable | None, key: np.ndarray) -> np.ndarray:
    """Return one number of a table for each frame, float64, NaN where there is none."""
    if table is None or not table.trains.size or table.values.size != len(table.trains):
        return np.full(len(key), np.nan)
    row = table.rows(key)
    return np.where(row < 0, np.nan, table.values.reshape(-1)[row].astype(np.float64))


def facility_lit_pixels(
    experiment: Experiment,
    detector: str,
    module_files: tuple[ModuleFile, ...],
    modules: tuple[int, ...],
    train_id: np.ndarray,
    pulse_id: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Findings] | None:
    """Return the lit pixels that the facility counted in some modules, and the good pixels.

    Parameters
    ----------
    experiment : Experiment
    detector : str
    module_files : tuple of ModuleFile
        Of the corrected run.
    modules : tuple of int
    train_id, pulse_id : ndarray, uint64 (frame,)

    Returns
    -------
    lit, good : ndarray, float64 (frame,)
        Sums over the modules, NaN if one of these does not have the frame.
    Findings
        For the log. None instead of all if there are no counts.
    """
    found, key = Findings(), pulse_key(train_id, pulse_id)
    parts = []
    for module in modules:
        paths = [Path(file.path) for file in module_files if file.module == module]
        source = f"{detector}/CORR/{module}CH0:output"
        folder = paths[0].parent if paths else Path()
        with opened(folder, found.damage, paths=paths) as files:
            parts.append(_counts(files, f"{source}/litpx", key, found))
    if parts and all(part is not None for part in parts):
        lit, good = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
        what = f"{detector}/CORR/*CH0:output litpx.litPixels"
        found.use("score", what, f"modules {' '.join(map(str, modules))}")
        return lit, good, found
    return _counted_apart(experiment, detector, modules, key, found)


def _counts(files: list, index: str, key: np.ndarray, found: Findings):
    """Return lit and good pixels of one module, None if the files have no counts."""
    tables = [
        read_table(files, index, f"INSTRUMENT/{index}/{name}", found.damage, by_pulse=True)
        for name in ("litPixels", "unmaskedPixels")
    ]
    if tables[0] is None:
        return None
    return [_of_frames(table, key) for table in tables]


def _counted_apart(experiment, detector: str, modules, key: np.ndarray, found: Findings):
    """Return what the lit-pixel counter wrote, as `facility_lit_pixels` does."""
    for kind in ("proc", "raw"):
        with opened(experiment.run_folder(kind), found.damage, _REDUCED) as files:
            for source in _sources(files, _COUNTER, detector):
                tables = [
                    read_table(files, f"{source}/data", path, found.damage, by_pulse=True)
                    for path in (
                        f"INSTRUMENT/{source}/data/litPixels",
                        f"INSTRUMENT/{source}/data/unmaskedPixels",
                    )
                ]
                columns = _columns_of(files, source.removesuffix(":output"), modules, found.damage)
                sums = [_sum_of_columns(table, columns, key) for table in tables]
                if sums[0] is not None and sums[1] is not None:
                    rule = f"modules {' '.join(map(str, modules))}"
                    found.use("score", f"{source} data.litPixels", rule)
                    return sums[0], sums[1], found
    return None


def _sum_of_columns(table: TrainTable | None, columns: np.ndarray | None, key: np.ndarray):
    """Return the sum over some modules for each frame, NaN where there is none; None without."""
    if table is None or columns is None or table.values.ndim != 2 or not table.trains.size:
        return None
    if columns.max() >= table.values.shape[1]:
        return None
    row = table.rows(key)
    return np.where(row < 0, np.nan, table.values[row][:, columns].sum(axis=1))


def _columns_of(files: list, device: str, modules, damage: Damage) -> np.ndarray | None:
    """Return which columns of the counter are those of the modules, None if one lacks."""
    listed, number = (
        read_table(files, device, f"CONTROL/{device}/{name}/value", damage)
        for name in ("modules", "numModules")
    )
    if listed is None or number is None or not len(listed.values) or not len(number.values):
        return None
    counted = np.ravel(listed.values[0])[: int(np.ravel(number.values)[0])].tolist()
    if not set(modules) <= set(counted):
        return None
    return np.array([counted.index(module) for module in modules])
