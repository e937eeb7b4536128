"""Writing what the beamline says of a run: gas monitor, bunch pattern, detector settings, motors.

The names of sources and keys are those of SPB/SFX, as EXtra-redu 1.1 (``litfrm/agipd_offline.py``)
looks for them; at other instruments, the gas monitor and the time server of their own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from xfelmpi.detectors.agipd import MAX_CELLS
from xfelmpi.detectors.known import names_another
from xfelmpi.simulate import model
from xfelmpi.simulate.exdf import resizable, timestamps, unfinished, write_common, write_index
from xfelmpi.simulate.options import BUNCH_SLOTS, UNDULATOR, SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

XGM = "SPB_XTD9_XGM/DOOCS/MAIN"
TIMESERVER = "SPB_RR_UTC/TSYS/TIMESERVER"
DECODER = "SPB_RR_SYS/MDL/BUNCH_PATTERN"
LITFRM = "SPB_IRU_AGIPD1M1/REDU/LITFRM"
CONTROL = "SPB_IRU_AGIPD1M1/MDL/FPGA_COMP"
TRIGGER = "SPB_EXP_SYS/TSYS/UTC_1_S3"
Z_MOTOR = "SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER"

XGM_ENTRIES = 1000
XGM_EMPTY = 1.0
"""The gas monitor always sends 1000 numbers; 1 stands behind the last pulse."""

XGM_SIGMA = 0.02
"""Relative uncertainty of a pulse energy, as the gas monitor gives it."""

MISSED = 10000.0
"""What the lit-frame finder takes for the energy of a pulse that the gas monitor missed."""

TO_SASE = {1: 4 << 18, 2: 2 << 18, 3: 4 << 18 | 1 << 27}
"""Bunch pattern: destination (bits 18 … 21) is the dump behind SASE 1 and 3, or behind SASE 2;
bit 27 deflects a bunch, so that it makes light in SASE 3 only."""

Z_OFFSET = 0.49957
"""Distance in m where the motor of the detector stands at 0."""

TICKS_PER_PULSE, TICKS_PER_METRE = 24, 1 / 2.76708438734
"""Ticks of 9.23 ns of the time server: between bunch slots, and for light along a metre."""

CLOCKS_PER_PULSE = 22
"""Clocks of 10 ns of the detector between bunch slots."""

REFERENCE_DELAY, REFERENCE_POSITION = 6_381_852, 150.0
"""Trigger delay in ticks at which frame 1 sees the first pulse, and the motor's position then."""

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
MILLI_METRE = NANO_METRE | {"metricPrefixName": b"milli", "metricPrefixSymbol": b"m"}


class _Values(NamedTuple):
    """Values of a key, (train, ...), and their unit."""

    values: np.ndarray
    units: dict = {}  # noqa: RUF012, never changed


@dataclass(frozen=True)
class _Source:
    """A source of the file.

    Parameters
    ----------
    name : str
    control : dict of str to _Values
        Once per train; by key, with dots.
    run : dict of str to object
        Only the value at the start of the run: settings.
    channel : str
        Name of the output channel, if there is one; its index group is ``data``.
    data : dict of str to _Values
        What comes from it, once for every train in `sent`.
    sent : ndarray, bool (train,), or None
        Default: all.
    """

    name: str
    control: dict[str, _Values] = field(default_factory=dict)
    run: dict[str, object] = field(default_factory=dict)
    channel: str = ""
    data: dict[str, _Values] = field(default_factory=dict)
    sent: np.ndarray | None = None

    @property
    def is_device(self) -> bool:
        """Whether it has a control source."""
        return bool(self.control or self.run)

    def listed(self) -> list[str]:
        """Return how METADATA names it."""
        names = [f"CONTROL/{self.name}"] if self.is_device else []
        return names + ([f"INSTRUMENT/{self.name}:{self.channel}/data"] if self.channel else [])


def write_machine_file(
    path: Path,
    plans: list[TrainPlan],
    *,
    options: SimulationOptions,
    proposal: int,
    sequence: int,
) -> None:
    """Write what the beamline says of some trains.

    Parameters
    ----------
    path : Path
        The file.
    plans : list of TrainPlan
        Its trains.
    options, proposal, sequence
        As for `write_common`.
    """
    trains = np.array([plan.train_id for plan in plans], np.uint64)
    sources = [_gas_monitor(plans, options), *_bunch_pattern(plans, options)]
    has_agipd = options.topic == "SPB" and not names_another(LITFRM, options.device)
    if has_agipd:
        sources.append(_z_motor(options))
    if has_agipd and options.lit_frames != "none":
        sources += [
            _detector_control(options),
            _trigger(options),
            _lit_frame_finder(plans, options),
        ]
    with unfinished(path) as file:
        names = [name for source in sources for name in source.listed()]
        write_common(file, names, trains, options=options, proposal=proposal, sequence=sequence)
        for source in sources:
            _write_source(file, source, trains)


def _gas_monitor(plans: list[TrainPlan], options: SimulationOptions) -> _Source:
    n = len(plans)
    energy = np.full((n, XGM_ENTRIES), XGM_EMPTY, np.float32)
    sigma = np.zeros((n, XGM_ENTRIES), np.float32)
    for i, plan in enumerate(plans):
        pulses = plan.pulse_energy_uj[:XGM_ENTRIES]
        energy[i, : len(pulses)] = pulses
        sigma[i, : len(pulses)] = pulses * np.float32(XGM_SIGMA)
    mean = np.array([plan.pulse_energy_uj.mean() for plan in plans], np.float32)
    n_pulses = np.array([len(plan.pulse_slots) for plan in plans], np.int32)
    return _Source(
        _here(XGM, options),
        {
            "pulseEnergy.wavelengthUsed": _Values(
                np.full(n, model.wavelength_nm(options)), NANO_METRE
            ),
            "pulseEnergy.photonFlux": _Values(mean, MICRO_JOULE),
            "pulseEnergy.numberOfBunchesActual": _Values(n_pulses),
        },
        {"classId": b"DoocsXGM"},
        "output",
        {
            "intensityTD": _Values(energy, MICRO_JOULE),
            "intensitySigmaTD": _Values(sigma, MICRO_JOULE),
        },
        np.array([plan.position not in options.unseen_trains for plan in plans]),
    )


def _here(source: str, options: SimulationOptions) -> str:
    """Return the name that a source at SPB would have at the detector's instrument."""
    return options.topic + source.removeprefix("SPB")


def _bunch_pattern(plans: list[TrainPlan], options: SimulationOptions) -> list[_Source]:
    if options.bunch_pattern == "none":
        return []
    if options.bunch_pattern == "decoder":
        pulse_ids = np.zeros((len(plans), BUNCH_SLOTS), np.int32)
        for i, plan in enumerate(plans):
            pulse_ids[i, : len(plan.pulse_slots)] = plan.pulse_slots
        counts = np.array([len(plan.pulse_slots) for plan in plans], np.int32)
        keys = {}
        for sase in (1, 2, 3):
            light = int(sase == UNDULATOR[options.topic])
            keys[f"sase{sase}.nPulses"] = _Values(counts * light)
            keys[f"sase{sase}.pulseIds"] = _Values(pulse_ids * light)
        return [_Source(_here(DECODER, options), keys, {"classId": b"BunchPatternDecoder"})]
    pattern = np.zeros((len(plans), BUNCH_SLOTS), np.uint32)
    for i, plan in enumerate(plans):
        pattern[i, plan.pulse_slots] = TO_SASE[UNDULATOR[options.topic]]
    data = {"bunchPatternTable": _Values(pattern)}
    return [_Source(_here(TIMESERVER, options), channel="outputBunchPattern", data=data)]


def _z_motor(options: SimulationOptions) -> _Source:
    position = _Values(np.array(z_position(options)), MILLI_METRE)
    return _Source(Z_MOTOR, {"encoderPosition": position, "actualPosition": position})


def z_position(options: SimulationOptions) -> float:
    """Return where the motor of the detector stands, in mm."""
    return 1e3 * (options.distance - Z_OFFSET)


def _detector_control(options: SimulationOptions) -> _Source:
    second = options.detector_generation == 2
    pattern_type = b"Dark" if options.kind == "dark" else b"XRay"
    settings: dict[str, object] = {
        "classId": b"Agipd2Composite" if second else b"AgipdComposite",
        "deviceId": CONTROL.encode(),
        "bunchStructure.nPulses": np.int32(options.cells[-1] + 1),
        "bunchStructure.repetitionRate": np.float64(options.repetition_rate),
        "integrationTime": np.int32(options.pulses_per_frame * CLOCKS_PER_PULSE - 2),
    }
    if second:
        return _Source(CONTROL, run=settings | {"expType": pattern_type})
    settings["bunchStructure.firstPulse"] = np.int32(0)
    return _Source(CONTROL, run=settings | {"patternType": pattern_type})


def _trigger(options: SimulationOptions) -> _Source:
    """Return the trigger of the detector, with the delay that puts the first pulse where it is."""
    frames = 1 - options.dark_cells
    moved = z_position(options) - REFERENCE_POSITION
    delay = REFERENCE_DELAY + frames * options.pulse_step * TICKS_PER_PULSE
    delay += round(moved * 1e-3 * TICKS_PER_METRE)
    settings = {"backTrg3.event": np.int32(180), "backTrg3.delay": np.int32(delay)}
    return _Source(TRIGGER, run=settings)


def _lit_frame_finder(plans: list[TrainPlan], options: SimulationOptions) -> _Source:
    reference = {
        "delay": np.int32(REFERENCE_DELAY),
        "pulse": np.int32(0),
        "frame": np.int32(1),
        "repetitionRate": np.float64(options.repetition_rate),
        "position": np.float64(REFERENCE_POSITION),
    }
    settings: dict[str, object] = {
        "classId": b"AgipdLitFrameFinder",
        "detectorId": CONTROL.encode(),
        "alignMethod": options.alignment.encode(),
        "instrumentName": b"SPB",
        "referenceFrame": np.int32(options.dark_cells),
        "trigger.deviceId": TRIGGER.encode(),
        "trigger.name": b"backTrg3",
        "motor.deviceId": Z_MOTOR.encode(),
        "motor.positionProperty": b"encoderPosition",
        "motor.unitConversionCoef": np.float64(1e-3),
        "useDistanceDelay": np.bool_(True),
        "detectorDistance": np.float64(0),
    }
    for event in ("dynamic", "static"):
        settings |= {f"referenceDelay.{event}.{key}": value for key, value in reference.items()}
    if options.lit_frames == "settings":
        return _Source(LITFRM, run=settings)
    return _Source(LITFRM, run=settings, channel="output", data=_lit_frames(plans, options))


def _lit_frames(plans: list[TrainPlan], options: SimulationOptions) -> dict[str, _Values]:
    """Return what the lit-frame finder sends, by key; see docs/formats.md."""
    n, n_cells, per_frame = len(plans), options.cells[-1] + 1, options.pulses_per_frame
    lit = slice(options.dark_cells, options.dark_cells + options.n_lit)
    found = {
        "nFrame": np.full(n, n_cells, np.uint16),
        "detectorPulseId": np.zeros((n, MAX_CELLS), np.uint16),
        "nPulsePerFrame": np.zeros((n, MAX_CELLS), np.uint16),
        "energyPerFrame": np.zeros((n, MAX_CELLS), np.float32),
        "energySigma": np.zeros((n, MAX_CELLS), np.float32),
        "dataFramePattern": np.zeros((n, MAX_CELLS), bool),
        "masterPulseId": np.zeros((n, BUNCH_SLOTS), np.uint16),
        "xgmPulseId": np.zeros((n, BUNCH_SLOTS), np.uint16),
    }
    found["detectorPulseId"][:, :n_cells] = np.arange(n_cells) * options.pulse_step
    found["nPulsePerFrame"][:, lit] = per_frame
    found["dataFramePattern"][:, lit] = True
    for i, plan in enumerate(plans):
        energy = plan.pulse_energy_uj.reshape(-1, per_frame).astype(np.float64)
        sigma = energy * XGM_SIGMA
        if plan.position in options.unseen_trains:
            energy, sigma = np.full_like(energy, MISSED), np.zeros_like(sigma)
        found["energyPerFrame"][i, lit] = energy.sum(axis=1)
        found["energySigma"][i, lit] = np.sqrt((sigma**2).sum(axis=1))
        found["masterPulseId"][i, : len(plan.pulse_slots)] = plan.pulse_slots
        found["xgmPulseId"][i, : len(plan.pulse_slots)] = np.arange(len(plan.pulse_slots))
    return {name: _Values(values) for name, values in found.items()}


def _write_source(file: h5py.File, source: _Source, trains: np.ndarray) -> None:
    n = len(trains)
    if source.is_device:
        file.require_group(f"CONTROL/{source.name}")
        for key, (values, units) in source.control.items():
            _write_key(file, source.name, key, _per_train(values, n), units, trains)
        for key, value in source.run.items():
            _write_run_value(file, source.name, key, value, trains)
        write_index(file, source.name, np.ones(n))
    if source.channel:
        sent = np.ones(n, bool) if source.sent is None else source.sent
        name = f"{source.name}:{source.channel}/data"
        group = file.create_group(f"INSTRUMENT/{name}")
        resizable(group, "trainId", trains[sent])
        for key, (values, units) in source.data.items():
            resizable(group, key, values[sent])
            group[key].attrs.update(units)
        write_index(file, name, sent)


def _per_train(values: np.ndarray, n: int) -> np.ndarray:
    return values if values.ndim else np.full(n, values)


def _write_key(file, source, key, values, units, trains) -> None:
    """Write one value a train; the units stand at the group, as in the facility's files."""
    for section, part in (("CONTROL", slice(None)), ("RUN", slice(1))):
        group = file.create_group(f"{section}/{source}/{key.replace('.', '/')}")
        resizable(group, "value", values[part])
        resizable(group, "timestamp", timestamps(trains[part]))
        group.attrs.update(units)


def _write_run_value(file, source, key, value, trains) -> None:
    """Write a setting; numbers come once a train as well."""
    if not isinstance(value, bytes):
        _write_key(file, source, key, np.full(len(trains), value), {}, trains)
        return
    group = file.create_group(f"RUN/{source}/{key.replace('.', '/')}")
    group["value"] = [value]
    group["timestamp"] = timestamps(trains[:1])
