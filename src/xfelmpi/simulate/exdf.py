"""Writing European XFEL data files: what all of them share.

The format is the facility's EXDF, versions 1.0 and 1.2, as EXtra-data reads and validates it:
``METADATA`` names the sources, ``INDEX`` says which entries of a source belong to which train,
``INSTRUMENT`` has data that come many times a train, ``CONTROL`` what comes once, ``RUN`` the
values at the start of the run.
"""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.io.output_file import serial_file
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.simulate.options import SimulationOptions

TRAIN_SECONDS = 0.1
TRAIN_ZERO = datetime(2019, 3, 22, 13, 20, tzinfo=UTC)
"""When the simulated machine counted train 0: files must not depend on the time of writing."""


def train_time(train_id: int) -> datetime:
    """Return when the simulated machine made a train."""
    return TRAIN_ZERO + timedelta(seconds=train_id * TRAIN_SECONDS)


@contextmanager
def unfinished(path: Path, **options):
    """Open a new HDF5 file, which gets its name later, with all files of the run.

    Parameters
    ----------
    path : Path
        Final name.
    **options
        For `h5py.File`.
    """
    part = begin_partial(path)
    with serial_file(part, **options) as file:
        yield file


def write_common(
    file: h5py.File,
    sources: list[str],
    train_ids: np.ndarray,
    *,
    options: SimulationOptions,
    proposal: int,
    sequence: int,
    version: str = "1.2",
) -> None:
    """Write METADATA and the trains of INDEX.

    Parameters
    ----------
    file : h5py.File
        The file.
    sources : list of str
        Names below ``INSTRUMENT/`` and ``CONTROL/``, with these prefixes.
    train_ids : ndarray, uint64 (train,)
        The trains of the file.
    options : SimulationOptions
        For run number and sample.
    proposal, sequence : int
        Numbers of the proposal and of the file in the run.
    version : str
        Version of the file format, ``1.0`` or ``1.2``.
    """
    _write_metadata(file, sources, options, proposal, sequence, version)
    index = file.create_group("INDEX")
    resizable(index, "trainId", train_ids.astype(np.uint64))
    resizable(index, "flag", np.ones(len(train_ids), np.int32))
    resizable(index, "timestamp", timestamps(train_ids))
    if version == "1.2":
        resizable(index, "origin", np.full(len(train_ids), -1, np.int32))
    file.create_group("RUN")


def _write_metadata(
    file: h5py.File,
    sources: list[str],
    options: SimulationOptions,
    proposal: int,
    sequence: int,
    version: str,
) -> None:
    meta = file.create_group("METADATA")
    for name, values in {
        "dataSourceId": sources,
        "root": [source.partition("/")[0] for source in sources],
        "deviceId": [source.partition("/")[2] for source in sources],
    }.items():
        text = h5py.string_dtype("ascii")
        meta.create_dataset(f"dataSources/{name}", data=values, dtype=text, maxshape=(None,))
    start = train_time(options.first_train)
    end = train_time(options.first_train + options.trains)
    for name, value in {
        "creationDate": start.strftime("%Y%m%dT%H%M%SZ"),
        "updateDate": end.strftime("%Y%m%dT%H%M%SZ"),
        "dataFormatVersion": version,
        "daqLibrary": "1.9.0",
        "karaboFramework": "2.7.0",
        "runType": "Simulation",
        "sample": options.sample,
    }.items():
        meta[name] = [value.encode()]
    for name, number in {
        "proposalNumber": proposal,
        "runNumber": options.run,
        "sequenceNumber": sequence,
    }.items():
        meta[name] = np.array([number], np.uint32)


def write_index(file: h5py.File, name: str, counts: np.ndarray) -> None:
    """Write which entries of a source belong to which train.

    Parameters
    ----------
    file : h5py.File
        The file.
    name : str
        The source, with its index group if it has one.
    counts : ndarray, int (train,)
        Entries of every train.
    """
    counts = np.asarray(counts, np.uint64)
    group = file.create_group(f"INDEX/{name}")
    resizable(group, "first", np.cumsum(counts) - counts)
    resizable(group, "count", counts)


def timestamps(train_ids: np.ndarray) -> np.ndarray:
    """Return the times of trains in ns since 1970, uint64 (train,)."""
    zero = int(TRAIN_ZERO.timestamp()) * 10**9
    return np.uint64(zero) + train_ids.astype(np.uint64) * np.uint64(TRAIN_SECONDS * 1e9)


def resizable(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write a dataset that has room for more, as the facility's files do."""
    group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
