"""What replaces the inputs of a finished set of hits: geometry, mask, options of analyses."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xfelmpi.analysis.hit_powder import GEOMETRY_OFF
from xfelmpi.calibration.geometry import DetectorGeometry, load_geometry
from xfelmpi.calibration.mask_files import MaskFile, check_mask, odd_numbers, read_bits
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.file_digest import file_digest
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.machine_records import motors_from_json
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.dragonfly.classes import Classes
from xfelmpi.output.events import FinishedRun


@dataclass(frozen=True)
class Change:
    """What is to be different; at least one is given.

    Parameters
    ----------
    geometry : Path or None
    mask : Path or None
        Further bad pixels, in all cells or by cell.
    distance : float or None
        In m.
    analysis : dict or None
        Other options of the analyses of hits, by their name in `Config`; None: there are only
        those of which the hits have columns.
    classes : Classes or None
        On rank 0: become columns of the hits.
    """

    geometry: Path | None = None
    mask: Path | None = None
    distance: float | None = None
    analysis: dict | None = None
    classes: Classes | None = None


@dataclass(frozen=True)
class NewInputs:
    """What a set is to be made with; the fields are those of `FinishedSet`."""

    config: Config
    geometry: DetectorGeometry
    bad: np.ndarray
    cell_mask: MaskFile | None
    warnings: tuple[str, ...]
    obsolete: tuple[str, ...]
    files: tuple[UsedFile, ...]


def read_inputs(
    files: Experiment | MergedFiles,
    change: Change,
    made_with: Config,
    attributes: dict,
    geometry: DetectorGeometry,
    run: FinishedRun | None,
) -> NewInputs:
    """Read the geometry and the mask that are new; one rank.

    Parameters
    ----------
    files : Experiment or MergedFiles
        Those of the set.
    change : Change
    made_with : Config
        Settings that the set was made with.
    attributes : dict
        Of the CXI file's root.
    geometry : DetectorGeometry
        Of the CXI file; stays if none is given.
    run : FinishedRun or None
        None of a merged set.

    Raises
    ------
    InputError
        If an input cannot be used.
    UsageError
        If the distance alone is to change and the geometry is not known.
    """
    detector = geometry.detector
    mask = check_mask(change.mask, detector) if change.mask else None
    config = _config(made_with, attributes, change, mask)
    bad = np.zeros(detector.frame_pixels, bool)
    warnings, obsolete, used = (), (), ()
    if change.geometry or change.distance is not None:
        motors = _motors(files, attributes)
        geometry, warnings = _geometry(config.geometry, detector, config, motors)
        obsolete = _old_warnings(made_with, detector, attributes, motors)
        obsolete += _said_of_powder(run)
        used = geometry.files
        if geometry.bad is not None:
            bad |= geometry.bad.reshape(-1)
    by_cell = mask if mask and mask.cells is not None else None
    if mask:
        used = (*used, UsedFile("per-cell mask" if by_cell else "global mask", str(mask.path)))
        if not by_cell:
            bits, largest = read_bits(mask, detector)
            bad |= unpack(bits).reshape(-1) == 0
            warnings += odd_numbers(mask, largest)
    return NewInputs(config, geometry, bad, by_cell, warnings, obsolete, used)


def _config(first: Config, attributes: dict, change: Change, mask: MaskFile | None) -> Config:
    """Return the settings that the main job would have had with the new inputs."""
    changed = dict(change.analysis or {})
    if change.analysis is not None:
        changed["size"] = _size(first, changed)
    if mask:
        changed["global_mask" if mask.cells is None else "cell_mask"] = mask.path
    if change.distance is not None:
        changed["distance"] = change.distance
    if change.geometry:
        changed["geometry"] = change.geometry
    elif change.distance is not None:
        changed["geometry"] = _known_geometry(attributes)
    return replace(first, **changed)


def _size(first: Config, changed: dict) -> str:
    """Return how sizes are to be measured where options of analyses change."""
    of_sizes = {"size", "density", "size_range"} & changed.keys()
    if changed.keys() and not of_sizes:
        # other analyses alone: sizes stay as they were
        return first.size
    size = changed.get("size") or first.size.replace("none", "auto")
    # whoever asks for sizes wants them, or hears why not
    return "sphere" if size == "auto" else size


def _known_geometry(attributes: dict) -> Path | None:
    """Return the geometry file that was used, None for the nominal positions."""
    if "where" in attributes:
        raise UsageError("--distance: merged hits do not say their geometry; add --geometry")
    used = [file for file in json.loads(attributes["used_files"]) if file["role"] == "geometry"]
    if not used:
        return None
    path = Path(used[0]["path"])
    if not path.exists():
        raise InputError(f"{path}: the geometry is not there any more; name it with --geometry")
    if file_digest(str(path)) != used[0]["sha256"]:
        raise InputError(f"{path}: the geometry is another one now; name it with --geometry")
    return path


def _motors(files: Experiment | MergedFiles, attributes: dict) -> tuple:
    """Return where the detector's motors stood, by the events file; of merged hits, the first."""
    if isinstance(files, Experiment):
        path = files.events
    else:
        path = Experiment(files.output, files.output, int(np.ravel(attributes["run"])[0])).events
        if not path.exists():
            return None, None
    with finished_file(path, "an events file") as file:
        # older files have none
        text = file.attrs.get("detector_motors")
        return motors_from_json(text) if text else (None, None)


def _geometry(path: Path | None, detector: Detector, config: Config, motors: tuple):
    quadrants, along = motors
    return load_geometry(path, detector, config.distance, quadrants, config.distance_offset, along)


def _old_warnings(
    first: Config, detector: Detector, attributes: dict, motors: tuple
) -> tuple[str, ...]:
    """Return what the log said of the geometry that is replaced, as far as that can be told."""
    if "where" in attributes:
        return ()
    try:
        return _geometry(_known_geometry(attributes), detector, first, motors)[1]
    except InputError:
        return ()


def _said_of_powder(run: FinishedRun | None) -> tuple[str, ...]:
    """Return what the job said of the geometry that is replaced, by the powder of its hits."""
    said = json.loads(run.attributes.get("warnings", "[]")) if run else []
    return tuple(text for text in said if text.startswith(GEOMETRY_OFF))
