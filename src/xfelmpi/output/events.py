"""``events/rRRRR_events.h5``: one row per frame, and the problems found; written, and read back."""

import json
import shlex
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.config.options import Config
from xfelmpi.core.event_table import AddedColumn, EventColumns
from xfelmpi.core.frame_table import FARTHEST_TRAIN
from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import detectors_of
from xfelmpi.io.checked import check_stored, checked_array, checked_attribute
from xfelmpi.io.input_file import finished_file
from xfelmpi.io.parallel_hdf5 import ParallelFile
from xfelmpi.output.provenance import JOB_ATTRIBUTES

SUMS = ("ones", "peak", "entries")
"""Group ``sums``: what re-thresholding needs of `FrameSums` besides the columns."""

ALL_READ, SOME_READ = "all", "hits and misses"
"""Root attribute ``frames_read``; sums of frames that were not read are 0."""

UNITS = {"pulse_energy": "J", "wavelength": "m"}

PROBLEM_TYPE = np.dtype(
    [("what", "S200"), ("file", "S80"), ("module", "i2"), ("train", "u8"), ("action", "S80")]
)


def write_events(
    comm,
    path,
    attributes: dict,
    events: EventColumns,
    sums: FrameSums,
    start: int,
    n_frames: int,
    *,
    problems: list[Problem],
) -> None:
    """Write the events file; collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name afterwards.
    attributes : dict
        Root attributes.
    events : EventColumns
        The rows of this rank.
    sums : FrameSums
        Of the same frames.
    start, n_frames : int
        First row of this rank, and rows of the run.
    problems : list of Problem
        Those of the run, on rank 0.
    """
    file = ParallelFile(comm, path, attributes)
    columns = [*events.columns(), *((f"sums/{name}", getattr(sums, name)) for name in SUMS)]
    units = {name: {"units": unit} for name, unit in UNITS.items()}
    rows = [(name, column, units.get(name, {})) for name, column in columns]
    rows += [(added.name, added.values, added.attributes()) for added in events.added]
    file.columns(start, n_frames, rows)
    file.store(
        "problems",
        np.array(
            [
                (
                    _cut(p.what, 200),
                    _cut(p.file, 80),
                    p.module,
                    p.train,
                    _cut(p.action, 80),
                )
                for p in problems
            ],
            PROBLEM_TYPE,
        ),
    )
    file.close()


def _cut(text: str, size: int) -> bytes:
    """Return the UTF-8 of a text in at most `size` bytes, without half a character at the end."""
    return text.encode()[:size].decode(errors="ignore").encode()


_NEEDED = ("data", "detector", "masks_digest", "proposal", "configuration", "creation_date")
_NEEDED += ("command_line",)
"""Texts of the root that reading back stands on."""

_SOURCE = ("value", "source", "rule")
"""Of every entry of the attribute ``beamline_sources``."""

_COLUMNS = [column for column in fields(EventColumns) if column.metadata]
_SUMS = {"ones": np.uint32, "peak": np.uint16, "entries": np.uint32}


@dataclass(frozen=True)
class FinishedRun:
    """What the events file says of a run.

    Parameters
    ----------
    config : Config
        The settings it was made with.
    masks : str
        Digest of the masks it was made with.
    events : EventColumns
        All frames of the run.
    sums : FrameSums
        Of all frames; `region_lit` and `region_photons` are not in the file, and are 0 here.
    problems : list of Problem
    attributes : dict
        Of the root group: where the file comes from.
    """

    config: Config
    masks: str
    events: EventColumns
    sums: FrameSums
    problems: list[Problem]
    attributes: dict

    @property
    def modules_in_run(self) -> int:
        """Bit field of the modules that the run has, also those that only trains left out have."""
        return int(self.attributes["modules_in_run"])

    @property
    def whole(self) -> bool:
        """Whether the job was to read all frames; hits and misses may be all there are."""
        return self.attributes.get("frames_read", ALL_READ) != SOME_READ

    @property
    def was_read(self) -> np.ndarray:
        """Which frames were read, bool (frame,): all, or hits and misses."""
        return self.events.was_read(whole=self.whole)

    @property
    def detector_type(self) -> Detector:
        """What kind of detector the run has."""
        return detectors_of(self.attributes["detector"])[0]

    @property
    def scores_by(self) -> str:
        """The job that read the whole run, as JSON."""
        attributes = self.attributes
        job = {name: str(attributes.get(name, "")) for name in JOB_ATTRIBUTES}
        return attributes.get("scores_by", json.dumps(job))

    @property
    def complete(self) -> np.ndarray:
        """Which frames every module of the run has, bool (frame,)."""
        return self.events.modules == self.modules_in_run


def read_settings(path: Path) -> tuple[Config, dict[str, str]]:
    """Return the settings that an events file was made with, and what some of them came to.

    Returns
    -------
    config : Config
    chosen : dict
        Which ``data`` and ``detector`` were taken.

    Raises
    ------
    InputError
        If it cannot be read, or has none.
    """
    with finished_file(path, "an events file") as file:
        chosen = {name: checked_attribute(file, name, str) for name in ("data", "detector")}
        return _config(file), chosen


def read_finished_run(path: Path, *, compared: bool = True) -> FinishedRun:
    """Read an events file; one rank.

    Parameters
    ----------
    path : Path
    compared : bool
        Whether types, lengths and values are compared here; ``verify`` does that itself.

    Raises
    ------
    InputError
        If it is missing, damaged, or of a version that did not write what is needed.
    """
    with finished_file(path, "an events file") as file:
        attributes = _attributes(file)
        read = checked_array if compared else _plain_array
        events = _events(file, read)
        n = len(events.trainId)
        more = {name: read(file, f"sums/{name}", dtype, (n,)) for name, dtype in _SUMS.items()}
        if compared:
            most = detectors_of(attributes["detector"])[0].frame_pixels
            _compare(events, more, attributes["modules_in_run"], most)
        sums = FrameSums.zeros(n)
        sums = FrameSums(
            **{name: getattr(sums, name) for name in FrameSums.__dataclass_fields__}
            | more
            | {"lit": events.litpixels, "photons": events.photons, "modules": events.modules}
            | ({} if events.gain_switched is None else {"switched": events.gain_switched})
        )
        problems = [
            Problem(what.decode(), name.decode(), int(module), int(train), action.decode())
            for what, name, module, train, action in checked_array(
                file, "problems", PROBLEM_TYPE, (None,)
            ).tolist()
        ]
        return FinishedRun(
            _config(file), attributes["masks_digest"], events, sums, problems, attributes
        )


def read_added_columns(path: Path) -> tuple[AddedColumn, ...]:
    """Read the columns that ``--add`` and analyses of hits have put into an events file.

    Raises
    ------
    InputError
        If one is damaged.
    """
    with finished_file(path, "an events file") as file:
        n = len(checked_array(file, "trainId", np.uint64, (None,)))
        found = []
        for name, item in file.items():
            if not (isinstance(item, h5py.Dataset) and "source" in item.attrs):
                continue
            if item.dtype.kind not in "fiu":
                raise ValueError(f"{name} is {item.dtype}, expected numbers")
            about = (str(item.attrs[key]) for key in ("source", "units") if key in item.attrs)
            found.append(AddedColumn(name, checked_array(file, name, item.dtype, (n,)), *about))
        return tuple(found)


def _attributes(file: h5py.File) -> dict:
    """Return the attributes of the root, of which those that others use are compared."""
    kinds = dict.fromkeys(_NEEDED, str) | {"run": int, "modules_in_run": int}
    found = {name: checked_attribute(file, name, kind) for name, kind in kinds.items()}
    if not 0 <= found["modules_in_run"] < 1 << detectors_of(found["detector"])[0].n_modules:
        raise ValueError(f"modules_in_run {found['modules_in_run']}")
    if found["data"] not in ("raw", "proc"):
        raise ValueError(f"data {found['data']!r}, expected raw or proc")
    datetime.fromisoformat(found["creation_date"])
    shlex.split(found["command_line"])
    listed_files(file.attrs, "input_files")
    if not all({"role", "sha256"} <= set(used) for used in listed_files(file.attrs, "used_files")):
        raise ValueError("used_files: expected role and sha256 of each")
    sources = json.loads(file.attrs.get("beamline_sources", "[]"))
    if not all(isinstance(source[name], str) for source in sources for name in _SOURCE):
        raise ValueError("beamline_sources: expected texts")
    if not all(isinstance(text, str) for pair in _reduction(file) for text in pair):
        raise ValueError("reduction: expected texts")
    warnings = json.loads(file.attrs.get("warnings", "[]"))
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        raise ValueError("warnings are not a list of texts")
    return dict(file.attrs)


def _reduction(file: h5py.File) -> list[tuple]:
    return [(title, text) for title, text in json.loads(file.attrs.get("reduction", "[]"))]


def listed_files(attributes, name: str) -> list[dict]:
    """Return path, size and time of files as the root attributes have them, perhaps with more.

    Raises
    ------
    ValueError
        If the attribute is something else.
    """
    files = json.loads(attributes.get(name, "[]"))
    if not isinstance(files, list):
        raise ValueError(f"{name} is not a list of files")
    for file in files:
        # outputs of the first version had the paths alone
        there = isinstance(file, dict) and isinstance(file.get("path"), str) and "mtime" in file
        if not isinstance(file, str) and not (
            there and type(file.get("size")) in (int, type(None))
        ):
            raise ValueError(f"{name}: {str(file)[:80]}, expected path, size and mtime of a file")
    return [file for file in files if isinstance(file, dict)]


def _plain_array(file: h5py.File, name: str, *_expected) -> np.ndarray:
    check_stored(file[name])
    return file[name][()]


def _events(file: h5py.File, read) -> EventColumns:
    """Return the columns, each read by `read`, which is called as `checked_array`."""
    n = len(read(file, "trainId", np.uint64, (None,)))
    columns = {}
    for column in _COLUMNS:
        name, dtype = column.name, column.metadata["dtype"]
        if name == "n_pulses" and name not in file:
            # files of earlier versions say nothing of pulses
            columns[name] = np.full(n, UNKNOWN_PULSES, dtype)
        elif name in file or column.default is MISSING:
            columns[name] = read(file, name, dtype.base, (n, *dtype.shape))
    return EventColumns(**columns)


def _compare(
    events: EventColumns, sums: dict[str, np.ndarray], modules_in_run: int, most: int
) -> None:
    """Raise `ValueError` if columns do not fit each other, or frames of `most` pixels."""
    if (sums["entries"] > most).any() or (sums["ones"] > sums["entries"]).any():
        raise ValueError("sums are not those of frames")
    train = events.trainId
    step = (train[1:] > train[:-1]) | (
        (train[1:] == train[:-1]) & (events.cellId[1:] > events.cellId[:-1])
    )
    if not step.all():
        raise ValueError("frames do not ascend by train and cell")
    if len(train) and train[-1] - train[0] > 2 * FARTHEST_TRAIN:
        raise ValueError(f"trains {train[0]} and {train[-1]} cannot be of one run")
    incomplete = events.modules != modules_in_run
    if (events.modules & ~np.uint16(modules_in_run)).any():
        raise ValueError("frames of modules that the run has not")
    if (incomplete & (events.is_hit | events.is_miss)).any():
        raise ValueError("incomplete frames that are hits or misses")
    if (events.is_dark & (events.is_hit | events.is_miss)).any():
        raise ValueError("frames without a pulse that are hits or misses")
    if (events.litpixels > most).any():
        raise ValueError("more lit pixels than a frame has")
    decided = np.isfinite(events.hit_threshold)
    if not np.isfinite(events.hitscore[decided]).all():
        raise ValueError("scores of candidates are not numbers")


def _config(file: h5py.File) -> Config:
    return Config.from_json(checked_attribute(file, "configuration", str))
