"""Checks of where the files come from: all of one job, with all that they must say of it."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.file_digest import file_digest
from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_ATTRIBUTES = (
    *("run", "proposal", "program", "program_version", "program_commit", "command_line"),
    *("configuration", "input_files", "used_files", "job_id", "start_time", "creation_date"),
    *("end_time", "ranks", "nodes", "host", "python_version", "numpy_version", "h5py_version"),
    *("hdf5_version", "mpi", "mpi4py_version", "libdeflate_version"),
)
_TIMES = ("start_time", "creation_date", "end_time")


PROCESS = (
    ("command", "command_line"),
    ("version", "program_version"),
    ("date", "creation_date"),
)
"""What a CXI file's record of the processing step repeats, and of which attribute."""


def provenance(outputs: Outputs) -> Iterator[Finding]:
    """Every file says how, when, where and from what it was made."""
    for file in outputs.files.values():
        yield from provenance_of(outputs, file)


def provenance_of(outputs: Outputs, file: h5py.File) -> Iterator[Finding]:
    """Check what an open file of the run says of how it was made."""
    path, attributes = Path(file.filename), dict(file.attrs)
    missing = [name for name in _ATTRIBUTES if name not in attributes]
    if missing:
        yield Finding(path.name, f"lacks the attributes {', '.join(missing)}")
        return
    # merged hits name all their runs
    runs = np.ravel(attributes["run"]).tolist()
    yield from expect(path, "run", runs, [outputs.experiment.run])
    if not json.loads(attributes["input_files"]):
        yield Finding(path.name, "input_files is empty")
    json.loads(attributes["used_files"])
    json.loads(attributes["configuration"])
    times = [datetime.fromisoformat(attributes[name]) for name in _TIMES]
    if sorted(times) != times:
        yield Finding(path.name, f"{' ≤ '.join(_TIMES)} expected, found {times}")


def one_job(outputs: Outputs) -> Iterator[Finding]:
    """All files are of the same job; the virtual dataset may be of another."""
    for kind, file in outputs.files.items():
        if kind != "vds":
            yield from same_job(outputs, file)


def same_job(outputs: Outputs, file: h5py.File) -> Iterator[Finding]:
    """Check that an open file is of the job of the events file."""
    wanted = outputs.run.attributes
    for name in ("job_id", "proposal", "program_version", "program_commit", "configuration"):
        yield from expect(Path(file.filename), name, file.attrs.get(name), wanted.get(name))


def process_entry(outputs: Outputs) -> Iterator[Finding]:
    """The CXI file's record of the processing step says what its attributes say."""
    path, file = outputs.experiment.cxi, outputs.files["cxi"]
    for name in outputs.rows_of_entries:
        process = file[f"{name}/process_1"]
        for dataset, attribute in PROCESS:
            found = process[dataset][()].decode()
            yield from compare(path, f"{name}/process_1/{dataset}", found, file.attrs[attribute])


def changed_files(outputs: Outputs) -> list[str]:
    """Return which masks, constants or geometry have changed since, as notes."""
    notes = []
    for file in json.loads(outputs.run.attributes.get("used_files", "[]")):
        path = Path(file["path"])
        # not by size and time: another mask may have the same
        digest = file_digest(str(path))
        if digest is None:
            notes.append(f"{file['role']} {path} is not there any more")
        elif digest != file["sha256"]:
            notes.append(f"{file['role']} {path} has changed since the job")
    return notes
