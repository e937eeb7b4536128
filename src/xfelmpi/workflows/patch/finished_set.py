"""A finished run's hits, or those of a merged set, as they are to be with other inputs."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from xfelmpi.analysis.hit_analysis import chosen_analyses
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.mask_files import MaskFile
from xfelmpi.core.config.choices import CLASS_COLUMNS
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.detectors.base import Detector
from xfelmpi.io.checked import checked_attribute, checked_text
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.reader import FinishedHits, HitColumn, read_entry, read_finished_hits
from xfelmpi.output.dragonfly.classes import NOT_CLASSIFIED, Classes
from xfelmpi.output.events import FinishedRun, read_finished_run
from xfelmpi.output.hit_columns import SOURCE
from xfelmpi.output.provenance import JOB_ATTRIBUTES, check_same_job
from xfelmpi.workflows.analyse_cxi import median_wavelength
from xfelmpi.workflows.patch.new_inputs import Change, read_inputs

ENTRIES = {"hits": "entry_1", "misses": "entry_2"}


@dataclass(frozen=True, kw_only=True)
class FinishedSet:
    """What rank 0 knows of a finished set of hits, and of the change.

    Parameters
    ----------
    config : Config
        As if the files had been made with the new inputs.
    attributes : dict
        Of the CXI file's root.
    name : str
        Of the first entry.
    header : FinishedHits
    entries : dict of (str, dict of HitColumn)
        Title and columns of hits, and of misses if they are there.
    run : FinishedRun or None
        None of a merged set.
    geometry : DetectorGeometry
        The new one.
    bad : ndarray, bool (pixel,)
        Further bad pixels, in all frames.
    cell_mask : MaskFile or None
        Says of further bad pixels by cell.
    cells : ndarray, int (cell,)
        All memory cells of the run; of merged hits, those that they have.
    warnings : tuple of str
        Of the new geometry.
    obsolete : tuple of str
        Warnings of the old geometry, if that is replaced.
    files : tuple of UsedFile
        The new inputs.
    analyses : tuple of str
        Names of those whose columns are made anew.
    lost : dict of (ndarray, ndarray)
        Photons and good frames that the powders of a run lose by a mask per cell, (module, ss, fs),
        by the end of their names.
    classes : tuple of AddedColumn
        Of all hits; they replace others of the same names.
    """

    config: Config
    attributes: dict
    name: str
    header: FinishedHits
    entries: dict[str, tuple[str, dict[str, HitColumn]]]
    run: FinishedRun | None
    geometry: DetectorGeometry
    bad: np.ndarray
    cell_mask: MaskFile | None
    cells: np.ndarray
    warnings: tuple[str, ...]
    obsolete: tuple[str, ...]
    files: tuple[UsedFile, ...]
    analyses: tuple[str, ...]
    lost: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    classes: tuple[AddedColumn, ...] = ()

    @property
    def detector(self) -> Detector:
        """What kind of detector it is."""
        return self.geometry.detector

    @property
    def modules(self) -> int:
        """Bit field of the modules there."""
        return self.run.modules_in_run if self.run else self.header.modules

    @property
    def wavelength(self) -> np.ndarray:
        """Those of which the detector file has the median, float64 (frame,)."""
        if self.run:
            return self.run.events.wavelength
        return self.header.columns[f"{SOURCE}/photon_wavelength"].values

    @property
    def earlier(self) -> list[dict]:
        """What the files say of the jobs that made them, the first one first."""
        names = (*JOB_ATTRIBUTES, "configuration", "used_files")
        own = {name: str(self.attributes.get(name, "")) for name in names}
        return [*json.loads(self.attributes.get("patched_from", "[]")), own]

    @property
    def beamline_sources(self) -> str:
        """Where beamline values came from, as JSON; the distance may have another source now."""
        along, text = self.geometry.along, self.attributes.get("beamline_sources", "[]")
        # merged hits name no sources
        if along is None or self.run is None:
            return text
        sources = [source for source in json.loads(text) if source["value"] != "distance"]
        return json.dumps([*sources, asdict(along)])

    def used_before(self) -> list[dict]:
        """Return what was used for the files and still counts; see `describe_used`."""
        replaced = {file.role for file in self.files} & {"geometry"}
        found = json.loads(self.attributes.get("used_files", "[]"))
        return [file for file in found if file["role"] not in replaced]


def read_set(files: Experiment | MergedFiles, change: Change) -> FinishedSet:
    """Read a finished set of hits but for the frames, and the new inputs; one rank.

    Raises
    ------
    InputError
        If an output or an input cannot be used.
    UsageError
        If the distance alone is to change and the geometry is not known.
    """
    header = read_finished_hits(files.cxi)
    with finished_file(files.cxi, "a CXI file") as file:
        first = Config.from_json(checked_attribute(file, "configuration", str))
        name, attributes = checked_text(file, "entry_1/name"), dict(file.attrs)
    entries = {kind: read_entry(files.cxi, entry) for kind, entry in ENTRIES.items()}
    run = None
    if isinstance(files, Experiment):
        run = read_finished_run(files.events)
        if run.attributes.get("job_id") != attributes.get("job_id"):
            raise InputError(f"{files.cxi}: is not of the job of {files.events}")
        check_same_job(files.powder, "a powder file", str(attributes.get("job_id", "")))
        _check_rows(files, run, entries)
    new = read_inputs(files, change, first, attributes, header.geometry, run)
    entries = {kind: found for kind, found in entries.items() if found}
    cells = _cells(files.cxi, run, entries, header.geometry.detector)
    found = FinishedSet(
        config=new.config,
        attributes=attributes,
        name=name,
        header=header,
        entries=entries,
        run=run,
        geometry=new.geometry,
        bad=new.bad,
        cell_mask=new.cell_mask,
        cells=cells,
        warnings=(*new.warnings, *_unlike(new.cell_mask, cells)),
        obsolete=new.obsolete,
        files=new.files,
        analyses=(),
    )
    classes = _classes(files, header, change.classes) if change.classes else ()
    return replace(found, analyses=_analyses(found, change), classes=classes)


def _check_rows(files: Experiment, run: FinishedRun, entries: dict) -> None:
    """Check that the frames of the CXI file are the hits and misses of the events file."""
    for kind, is_one in (("hits", run.events.is_hit), ("misses", run.events.is_miss)):
        rows = entries[kind][1]["vds_index"].values if entries[kind] else None
        if rows is not None and not np.array_equal(rows, np.flatnonzero(is_one)):
            raise InputError(
                f"{files.cxi}: has {len(rows)} {kind}, which are not the {int(is_one.sum())} of "
                f"{files.events}; process the run again"
            )


def _classes(files: Experiment, header: FinishedHits, found: Classes) -> tuple[AddedColumn, ...]:
    """Return the columns of classes.

    Raises
    ------
    InputError
        If no hit of the run is among those that Dragonfly had.
    """
    train, cell = (header.columns[name].values for name in ("trainId", "cellId"))
    place = found.of_run(files.run, train, cell)
    there = place >= 0
    if not there.any():
        raise InputError(
            f"{found.path}: no frame of it is a hit of {files.cxi}; it has hits of runs "
            f"{', '.join(map(str, np.unique(found.hits.run).tolist()))}"
        )
    number = np.where(there, found.number[place], NOT_CLASSIFIED).astype(np.int16)
    weight = np.where(there, found.weight[place], np.float32(np.nan))
    return tuple(
        AddedColumn(name, values, f"Dragonfly {found.path}", group="classes")
        for name, values in zip(CLASS_COLUMNS, (number, weight), strict=True)
    )


def _cells(path: Path, run: FinishedRun | None, entries: dict, detector: Detector) -> np.ndarray:
    """Return all memory cells that there are, int (cell,), ascending."""
    of_frames = [columns["cellId"].values for _, columns in entries.values()]
    cells = np.unique(run.events.cellId if run else np.concatenate(of_frames))
    kinds = {values.dtype.kind for values in (cells, *of_frames)}
    if not kinds <= set("iu") or not (
        np.isin(cells, range(detector.max_cells)).all()
        and all(np.isin(values, cells).all() for values in of_frames)
    ):
        raise InputError(f"{path}: cellId has cells that the run or the detector does not have")
    return cells.astype(int)


def _unlike(mask: MaskFile | None, cells: np.ndarray) -> tuple[str, ...]:
    """Return warnings of a mask by cell."""
    if mask is None:
        return ()
    missing = np.setdiff1d(cells, mask.cells)
    texts = (
        f"{mask.path}: powder and background keep what frames that are not in the CXI file have in "
        "pixels that are bad in some cells only",
    )
    if len(missing):
        texts += (
            f"{mask.path}: mask lacks {len(missing)} of the cells, e.g. cell {missing[0]}; it "
            "does not apply to them",
        )
    return texts


def _analyses(found: FinishedSet, change: Change) -> tuple[str, ...]:
    """Return the names of the analyses that are asked for, or that the hits have columns of."""
    if change.analysis is not None:
        settings = found.config.part(AnalysisSettings)
        wavelength = median_wavelength(settings.photon_energy, found.wavelength)
        return tuple(chosen_analyses(settings, found.geometry.distance, wavelength))
    names = (analysis_of(column.attributes) for column in found.header.columns.values())
    return tuple(dict.fromkeys(name for name in names if name))


def analysis_of(attributes) -> str:
    """Return the analysis that a column comes from, by its attributes; empty if from none."""
    source = str(attributes.get("source", ""))
    return source.removeprefix("analysis ") if source.startswith("analysis ") else ""
