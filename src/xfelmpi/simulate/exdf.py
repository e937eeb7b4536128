"""Writing European XFEL data files: what all of them share, and the machine data.

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
from xfelmpi.simulate import model
from xfelmpi.simulate.options import BUNCH_SLOTS, SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

TRAIN_SECONDS = 0.1
TRAIN_ZERO = datetime(2019, 3, 22, 13, 20, tzinfo=UTC)
"""When the simulated machine counted train 0: files must not depend on the time of writing."""

XGM = "SPB_XTD9_XGM/DOOCS/MAIN"
TIMESERVER = "SPB_RR_UTC/TSYS/TIMESERVER"
XGM_ENTRIES = 1000
XGM_EMPTY = 1.0
"""The gas monitor always sends 1000 numbers; 1 stands behind the last pulse."""

TO_SASE1 = 4 << 18
"""Bunch pattern: destination (bits 18 … 21) is the dump behind SASE 1, whose light SPB gets."""

MICRO_JOULE = {
    "metricPrefixEnum": np.array([14], np.int32),
    "metricPrefixName": b"micro",
    "metricPrefixSymbol": b"u",
    "unitEnum": np.array([15], np.int32),
    "unitName": b"joule",
    "unitSymbol": b"J",
}
NANO_METRE = {
    "metricPrefixName": b"nano",
    "metricPrefixSymbol": b"n",
    "unitName": b"meter",
    "unitSymbol": b"m",
}


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
    _resizable(index, "trainId", train_ids.astype(np.uint64))
    _resizable(index, "flag", np.ones(len(train_ids), np.int32))
    _resizable(index, "timestamp", _timestamps(train_ids))
    if version == "1.2":
        _resizable(index, "origin", np.full(len(train_ids), -1, np.int32))
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
    _resizable(group, "first", np.cumsum(counts) - counts)
    _resizable(group, "count", counts)


def write_machine_file(
    path: Path,
    plans: list[TrainPlan],
    *,
    options: SimulationOptions,
    proposal: int,
    sequence: int,
) -> None:
    """Write gas monitor and bunch pattern of some trains.

    Parameters
    ----------
    path : Path
        The file.
    plans : list of TrainPlan
        Its trains.
    options, proposal, sequence
        As for `write_common`.
    """
    train_ids = np.array([plan.train_id for plan in plans], np.uint64)
    energy = np.full((len(plans), XGM_ENTRIES), XGM_EMPTY, np.float32)
    pattern = np.zeros((len(plans), BUNCH_SLOTS), np.uint32)
    for i, plan in enumerate(plans):
        energy[i, : len(plan.pulse_energy_uj)] = plan.pulse_energy_uj
        pattern[i, plan.pulse_slots] = TO_SASE1
    n_pulses = np.array([len(plan.pulse_slots) for plan in plans], np.int32)
    mean = np.array([plan.pulse_energy_uj.mean() for plan in plans], np.float32)
    wavelength = np.full(len(plans), model.wavelength_nm(options))
    with unfinished(path) as file:
        sources = [
            f"CONTROL/{XGM}",
            f"INSTRUMENT/{XGM}:output/data",
            f"INSTRUMENT/{TIMESERVER}:outputBunchPattern/data",
        ]
        write_common(
            file, sources, train_ids, options=options, proposal=proposal, sequence=sequence
        )
        _write_control(file, XGM, "pulseEnergy/wavelengthUsed", wavelength, train_ids, NANO_METRE)
        _write_control(file, XGM, "pulseEnergy/photonFlux", mean, train_ids, MICRO_JOULE)
        _write_control(file, XGM, "pulseEnergy/numberOfBunchesActual", n_pulses, train_ids, {})
        file[f"RUN/{XGM}/classId/value"] = [b"DoocsXGM"]
        file[f"RUN/{XGM}/classId/timestamp"] = _timestamps(train_ids[:1])
        write_index(file, XGM, np.ones(len(plans)))
        _write_channel(file, f"{XGM}:output", "intensityTD", energy, train_ids, MICRO_JOULE)
        channel = f"{TIMESERVER}:outputBunchPattern"
        _write_channel(file, channel, "bunchPatternTable", pattern, train_ids, {})


def _write_control(file, source, key, values, train_ids, units):
    """Write one value a train; the units stand at the group, as in the facility's files."""
    for section, part in (("CONTROL", slice(None)), ("RUN", slice(1))):
        group = file.create_group(f"{section}/{source}/{key}")
        _resizable(group, "value", values[part])
        _resizable(group, "timestamp", _timestamps(train_ids[part]))
        group.attrs.update(units)


def _write_channel(file, source, key, values, train_ids, units):
    """Write one array a train of a fast source, in the index group ``data``."""
    group = file.create_group(f"INSTRUMENT/{source}/data")
    _resizable(group, "trainId", train_ids)
    _resizable(group, key, values)
    group[key].attrs.update(units)
    write_index(file, f"{source}/data", np.ones(len(train_ids)))


def _timestamps(train_ids: np.ndarray) -> np.ndarray:
    """Return the times of trains in ns since 1970, uint64 (train,)."""
    zero = int(TRAIN_ZERO.timestamp()) * 10**9
    return np.uint64(zero) + train_ids.astype(np.uint64) * np.uint64(TRAIN_SECONDS * 1e9)


def _resizable(group, name, values):
    group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
