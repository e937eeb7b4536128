"""What the facility left out when it recorded or reduced a run: sections REDUCTION and ERRATA.

EXtra-data has them as ``run.auxiliary``, from version 1.23 on. Rules are in the files of the
detector's modules (``PULSE_REDUCTION/<source>``, ``…/REDU/LITFRM:daqFilter``), errata in any file.
"""

from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.machine_records import RunReduction
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import MODULE_FILE, detectors_of
from xfelmpi.io.input_file import guarded_call
from xfelmpi.run.machine.control_data import BeamlineFile, BeamlineFiles, opened
from xfelmpi.run.machine.findings import Damage, tolerated
from xfelmpi.run.machine.train_table import read_table
from xfelmpi.run.machine.xgm import Frames
from xfelmpi.run.train_index import first_and_count

_PULSES = "PULSE_REDUCTION/"


def run_reduction(
    experiment: Experiment, folders: tuple[BeamlineFiles, ...], frames: Frames, damage: Damage
) -> RunReduction | None:
    """Return what was left out of a run; None if nothing is said of it.

    Parameters
    ----------
    experiment : Experiment
    folders : tuple of BeamlineFiles
        Files that are not of the detector's modules.
    frames : Frames
        All of the run.
    damage : dict
        Gets the files that cannot be read.
    """
    files = [file for of_folder in folders for file in of_folder]
    # in the order of the files, each once
    rules: dict[str, None] = {}
    errata: dict[str, int] = {}
    ratios: list[np.ndarray] = []
    _look(files, rules, errata, ratios, damage)
    # what is wrong with the files of modules is told by those who read their frames
    of_module = folders[0].once(
        ("reduction", frames.detector), {}, lambda _: _of_module(experiment, frames.detector)
    )
    rules |= of_module[0]
    for source, n in of_module[1].items():
        errata[source] = errata.get(source, 0) + n
    ratios += of_module[2]
    if not rules and not errata:
        return None
    n = len(frames.train_id)
    return RunReduction(n, _before(files, frames, ratios, damage), tuple(rules), errata)


def _of_module(experiment: Experiment, detector: str) -> tuple[dict, dict, list]:
    """Return the rules, events of errata, and ratios in the files of a module."""
    found: tuple[dict, dict, list] = ({}, {}, [])
    aside: Damage = {}
    for kind in ("raw", "proc"):
        folder = experiment.run_folder(kind)
        paths = _one_module(folder, detector, aside)
        if not paths:
            continue
        with opened(folder, aside, paths=paths) as of_module:
            _look(of_module, *found, aside)
    return found


def _one_module(folder: Path, detector: str, damage: Damage) -> list[Path]:
    """Return the files of the first module: all modules are reduced by the same rules."""
    start = detectors_of(detector)[0].file_name
    found: dict[str, list[Path]] = {}
    with tolerated(str(folder), damage):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = MODULE_FILE.fullmatch(path.name)
            if match and match["detector"] == start:
                found.setdefault(match["module"], []).append(path)
    return found[min(found)] if found else []


def _look(
    files: list[BeamlineFile], rules: dict, errata: dict, ratios: list, damage: Damage
) -> None:
    """Collect the names of rules, events of errata by name, and ratios of frames that were kept."""
    for file in files:
        with tolerated(file.name, damage):
            for source in sorted(file.reduction_sources):
                rule = source.partition("/")[0] if source.startswith(_PULSES) else source
                rules[rule] = None
                if source.startswith(_PULSES):
                    ratios += guarded_call(file.filename, _ratios, file.file, source)
            for source in sorted(file.errata_sources):
                n = guarded_call(file.filename, _events, file.file, source)
                errata[source] = errata.get(source, 0) + n


def _ratios(file: h5py.File, source: str) -> list[np.ndarray]:
    """Return the share of the frames that was kept in the trains of a file."""
    group = file.get(f"REDUCTION/{source}/image")
    if group is None:
        return []
    for key in ("data", "cellId", "pulseId"):
        reduced, ratio = group.get(f"{key}/wasReduced"), group.get(f"{key}/reductionRatio")
        if reduced is not None and ratio is not None and ratio.shape == reduced.shape:
            _, count = first_and_count(file, f"{source}/image")
            n = int(count.sum())
            values = np.where(reduced[:n] != 0, ratio[:n], 1.0)
            return [values[np.isfinite(values) & (values > 0) & (values <= 1)]]
    return []


def _events(file: h5py.File, source: str) -> int:
    group = file.get(f"INDEX/{source}")
    if group is None:
        return 0
    names = [f"{source}/{name}" for name in group if isinstance(group[name], h5py.Group)]
    return sum(int(first_and_count(file, name)[1].sum()) for name in names)


def _before(
    files: list[BeamlineFile], frames: Frames, ratios: list[np.ndarray], damage: Damage
) -> int:
    """Return how many frames the detector took in the run's trains, 0 if that is not known."""
    trains = np.unique(frames.train_id)
    sources = {s for f in files for s in f.instrument_sources if "/REDU/LITFRM" in s}
    for source in sorted(sources):
        path = f"INSTRUMENT/{source}/data/nFrame"
        table = read_table(files, f"{source}/data", path, damage)
        if table is not None and table.values.ndim == 1 and table.trains.size:
            row = table.rows(trains)
            of_others = int(np.median(table.values))
            return int(np.where(row < 0, of_others, table.values[row]).astype(np.int64).sum())
    known = np.concatenate(ratios) if ratios else np.zeros(0)
    if not known.size or not len(frames.train_id):
        return 0
    return round(len(frames.train_id) / float(known.mean()))
