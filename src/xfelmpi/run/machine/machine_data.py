"""What the machine did: pulse energy and wavelength of every frame, and the sample's name.

The values come through the run's non-detector files. Whatever is missing or damaged there becomes
NaN and a warning, and for pulse energies a problem; it never stops a run.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

import numpy as np

from xfelmpi.core.free_memory import give_back
from xfelmpi.core.machine_records import UNKNOWN_PULSES, BeamlineSource, MachineData
from xfelmpi.core.paths import Experiment
from xfelmpi.core.units import ELECTRONVOLT, PLANCK_TIMES_C, Unit
from xfelmpi.detectors.known import detectors_of
from xfelmpi.run.machine.computed_light import computed_light
from xfelmpi.run.machine.control_data import BeamlineFiles, opened
from xfelmpi.run.machine.detector_timing import known_reference_frame
from xfelmpi.run.machine.extra_columns import read_added
from xfelmpi.run.machine.findings import Damage, Findings, tolerated
from xfelmpi.run.machine.lit_frames import (
    FrameLight,
    contradictions,
    matched_light,
    pumped_frames,
)
from xfelmpi.run.machine.possible import (
    PHOTON_ENERGY,
    WAVELENGTH,
    Possible,
    without_impossible,
)
from xfelmpi.run.machine.pulse_matching import Grid
from xfelmpi.run.machine.quadrant_motors import quadrant_motors, z_motor
from xfelmpi.run.machine.recorded_light import recorded_light
from xfelmpi.run.machine.reduction import run_reduction
from xfelmpi.run.machine.texts import first_text
from xfelmpi.run.machine.train_table import read_table
from xfelmpi.run.machine.xgm import (
    XGM,
    Frames,
    MonitorSlots,
    beamline_sources,
    pulse_energy,
    record_unknown,
)

_UNDULATOR = re.compile(r"_XTD\d+_UND/DOOCS/ENERGY$")
UNREADABLE = "beamline data could not be read from"
"""Start of the warning that names files; what kept one from being read may not be the file."""

_NO_MONITOR = "pulse energy unknown: the run has no XGM with values"

_NO_SAMPLE = {"", "no sample", "none", "unknown", "n/a", "na", "-"}


class OpenRun:
    """The files of a run that can hold beamline data, open until the end of a ``with`` block.

    Parameters
    ----------
    experiment : Experiment
        The run's folders, of which proc comes first.
    proposal : int
        That of the detector's files: files of another one are left out. 0: unknown.

    Attributes
    ----------
    folders : tuple of BeamlineFiles
    damage : dict
        Files that could not be opened.
    """

    def __init__(self, experiment: Experiment, proposal: int):
        self.proposal = proposal
        self.damage: Damage = {}
        with ExitStack() as stack:
            proc, raw = (
                stack.enter_context(
                    opened(experiment.run_folder(kind), self.damage, proposal=proposal)
                )
                for kind in ("proc", "raw")
            )
            self.folders = proc, raw
            self._close = stack.pop_all()

    def __enter__(self) -> "OpenRun":
        return self

    def __exit__(self, *_) -> None:
        self._close.close()


def read_ahead(
    experiment: Experiment,
    train_id: np.ndarray,
    pulse_id: np.ndarray,
    added: tuple[str, ...],
    detector: str,
    cell_id: np.ndarray | None,
    proposal: int,
) -> OpenRun:
    """Read what `read_machine_data` reads of files, as far as some of the frames tell.

    Parameters
    ----------
    experiment, train_id, pulse_id, added, detector, cell_id, proposal
        As for `read_machine_data`.

    Returns
    -------
    OpenRun
        For `read_machine_data`, which names what is damaged.
    """
    run = OpenRun(experiment, proposal)
    for files in run.folders:
        files.reads_ahead = True
    # whoever needs the data will fail as well, and say so
    with suppress(Exception):
        read_machine_data(
            experiment, train_id, pulse_id, added, detector, cell_id, proposal, opened_run=run
        )
    for files in run.folders:
        files.reads_ahead = False
    give_back()
    return run


def read_machine_data(
    experiment: Experiment,
    train_id: np.ndarray,
    pulse_id: np.ndarray,
    added: tuple[str, ...] = (),
    detector: str = "",
    cell_id: np.ndarray | None = None,
    proposal: int = 0,
    *,
    opened_run: OpenRun | None = None,
) -> MachineData:
    """Read what a run tells of the machine: pulse energies, wavelengths, sample name and so on.

    Looks in the proc folder first, then in the raw folder, and only into files that can hold
    beamline data, never into those of the detector modules. Runs on one rank.

    Parameters
    ----------
    experiment : Experiment
        The run's folders.
    train_id, pulse_id : ndarray, uint64 (frame,)
        The frames, in any order. They are matched by these ids, never by position.
    added : tuple of str
        ``NAME=SOURCE/KEY`` of further values.
    detector : str
        Its name, e.g. ``SPB_DET_AGIPD1M-1``, says whose gas monitor, undulator and motors.
    cell_id : ndarray, uint16 (frame,), optional
        Memory cells. Without them nothing is assumed of cell 0.
    proposal : int
        That of the detector's files: files of another one are left out. 0: unknown.
    opened_run : OpenRun, optional
        Of `read_ahead`, used if it is of this proposal; stays open.

    Returns
    -------
    MachineData
        NaN where unknown. Its notes say which sources and which rule were used, its warnings what
        was missing or assumed.
    """
    found = Findings()
    grid = _grid_of(detector, cell_id, pulse_id)
    frames = Frames(train_id, pulse_id, detector.partition("_")[0], grid, detector=detector)
    with ExitStack() as stack:
        if opened_run is None or opened_run.proposal != proposal:
            opened_run = stack.enter_context(OpenRun(experiment, proposal))
        folders = opened_run.folders
        found.damage |= opened_run.damage
        light, slots = _light(folders, frames, found)
        if light is not None:
            frames = replace(frames, slots=light.slots)
        wavelength = _wavelength_or_nan(folders, frames, found)
        columns = tuple(read_added(folders, wanted, frames, slots, found) for wanted in added)
        motors = _first(quadrant_motors, folders, frames, found)
        along = _first(z_motor, folders, frames, found)
        pumped = _pumped(folders, frames, light, found) if light is not None else None
        everything = [file for files in folders for file in files]
        sample, run_type = (_metadata(everything, n, found.damage) for n in ("sample", "runType"))
        reduction = run_reduction(experiment, folders, frames, found.damage)
        files = tuple(file.filename for file in everything)
    _warn_of_damage(found)
    n = len(train_id)
    return MachineData(
        pulse_energy=light.energy if light else np.full(n, np.nan),
        wavelength=wavelength,
        n_pulses=light.n_pulses if light else np.full(n, UNKNOWN_PULSES, np.uint8),
        sample=sample,
        notes=tuple(found.notes),
        warnings=tuple(found.warnings),
        added=columns,
        motors=motors,
        files=files,
        problems=tuple(found.problems),
        sources=tuple(found.sources),
        pumped=pumped,
        z_motor=along,
        reduction=reduction,
        run_type=run_type,
    )


def _grid_of(detector: str, cell_id: np.ndarray | None, pulse_id: np.ndarray) -> Grid | None:
    """Return the pulse numbers of cells; None if nothing may be assumed of the first cell."""
    if cell_id is None or not detectors_of(detector)[0].dark_first_cell:
        return None
    return Grid.of(cell_id, pulse_id)


def _first(
    read: Callable, folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, found: Findings
):
    """Return what `read` finds in the first folder that has it, or None."""
    for files in folders:
        if (got := read(files, frames, found)) is not None:
            return got
    return None


def _light(
    folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, found: Findings
) -> tuple[FrameLight | None, MonitorSlots | None]:
    """Return the light of the frames, and which slots of the gas monitor are theirs.

    The lit-frame finder's word counts, then what the detector's settings tell, then the rules of
    `pulse_matching`.
    """
    aside = Findings(damage=found.damage)
    recorded = _first(recorded_light, folders, frames, found)
    computed = _first(computed_light, folders, frames, aside)
    light = recorded or computed
    if recorded and computed:
        # only compared: its large arrays would be in memory together with those of the monitor
        computed = replace(computed, bunch=computed.bunch[:0].copy(), slots=None)
    if light is None:
        found.warnings += aside.warnings
        found.problems += aside.problems
        return _matched(folders, _with_reference(folders, frames, found), found)
    # arrays of the gas monitor that are to be added have the same slots
    frames, silent = replace(frames, slots=light.slots), Findings(damage=found.damage)
    by_slot = _first(pulse_energy, folders, frames, silent)
    if recorded is None:
        found.warnings += aside.warnings
        found.problems += aside.problems
    else:
        _compare(recorded, computed, by_slot, found)
    found.use("pulse_energy", light.source, light.rule)
    _say_pulses(light, found)
    if by_slot is None and np.isnan(light.energy[light.n_pulses > 0]).all():
        found.warnings.append(_NO_MONITOR)
    else:
        found.warn_missing("pulse energy", light.energy)
    record_unknown(np.isnan(light.energy), frames, found)
    return light, by_slot[1] if by_slot else None


def _with_reference(
    folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, found: Findings
) -> Frames:
    """Return frames that know the cell of the first pulse, if the settings tell it."""

    def read(files: BeamlineFiles, frames: Frames, found: Findings) -> int | None:
        return known_reference_frame(files, frames.detector, found.damage)

    if frames.grid is None:
        return frames
    reference = _first(read, folders, frames, found)
    return replace(frames, grid=replace(frames.grid, reference=reference))


def _compare(recorded: FrameLight, computed: FrameLight | None, by_slot, found: Findings) -> None:
    """Warn if the lit-frame finder contradicts the settings, or the gas monitor."""
    other = computed
    if other is None and by_slot is not None:
        # a slot is that of the last of several pulses
        energy = np.where(recorded.n_pulses <= 1, by_slot[0], np.nan)
        other = replace(recorded, energy=energy, source="the gas monitor")
    if other is not None and (what := contradictions(recorded, other)):
        found.warnings.append(
            f"{recorded.source} and {other.source} contradict each other in {what}; the first "
            "is used"
        )


def _matched(
    folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, found: Findings
) -> tuple[FrameLight | None, MonitorSlots | None]:
    """Return the light by the rules of `pulse_matching`; None and a warning without a monitor."""
    for files in folders:
        known = pulse_energy(files, frames, found)
        if known is not None:
            energy, slots = known
            light = matched_light(files, frames, slots, energy, found)
            _say_pulses(light, found)
            return light, slots
    found.warnings.append(_NO_MONITOR)
    record_unknown(np.ones(len(frames.train_id), bool), frames, found)
    return None, None


def _say_pulses(light: FrameLight, found: Findings) -> None:
    source = light.source or next(s.source for s in found.sources if s.value == "pulse_energy")
    found.sources.append(BeamlineSource("n_pulses", source, light.rule))
    if "assumed" in light.rule:
        found.warnings.append(
            f"pulse energies and dark frames may be off by one pulse or more: {light.rule}"
        )
    dark, n = int((light.n_pulses == 0).sum()), len(light.n_pulses)
    if dark:
        note = f"{dark:,} of {n:,} frames are dark: no X-ray pulse ({light.rule})"
        (found.warnings if dark == n else found.notes).append(note)


def _pumped(
    folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, light: FrameLight, found: Findings
):
    """Return which frames saw the pump laser, uint8 (frame,); None if nothing tells."""
    for files in folders:
        known = pumped_frames(files, frames, light, found)
        if known is not None:
            pumped, source = known
            n = int((pumped == 1).sum())
            found.use("pumped", source, f"{n:,} of {len(pumped):,} frames with a laser pulse")
            return pumped
    return None


def _wavelength_or_nan(
    folders: tuple[BeamlineFiles, BeamlineFiles], frames: Frames, found: Findings
) -> np.ndarray:
    """Return the wavelength of every frame in m, float64 (frame,), from monitor or undulator."""
    for read in (_monitor_wavelength, _undulator_wavelength):
        wavelength = _first(read, folders, frames, found)
        if wavelength is not None:
            return wavelength
    found.warnings.append(
        "wavelength unknown: the run has no XGM with pulseEnergy.wavelengthUsed, "
        "and no undulator with actualPosition"
    )
    return np.full(len(frames.train_id), np.nan)


def _warn_of_damage(found: Findings) -> None:
    if found.damage:
        reasons = "; ".join(f"{name} ({why})" for name, why in sorted(found.damage.items()))
        found.warnings.append(f"{UNREADABLE} {reasons}")


def _monitor_wavelength(files: BeamlineFiles, frames: Frames, found: Findings) -> np.ndarray | None:
    """Return the wavelength of every frame in m, float64 (frame,); None if no XGM tells it.

    ``pulseEnergy.wavelengthUsed`` is the nominal wavelength in nm (EXtra, ``XGM.wavelength``).
    """
    # Most files give this key no unit.
    key, nanometre = "pulseEnergy.wavelengthUsed", Unit("m", 1e-9)
    return _per_train(files, WAVELENGTH, XGM, key, nanometre, frames, found)


def _undulator_wavelength(
    files: BeamlineFiles, frames: Frames, found: Findings
) -> np.ndarray | None:
    """Return the wavelength from the undulator's photon energy; None if the run has none.

    ``actualPosition`` of ``MID_XTD1_UND/DOOCS/ENERGY`` is in keV (EXtra-data, "Using aliases").
    """
    kilo_electronvolt = Unit("J", 1e3 * ELECTRONVOLT)
    energy = _per_train(
        files, PHOTON_ENERGY, _UNDULATOR, "actualPosition", kilo_electronvolt, frames, found
    )
    return None if energy is None else PLANCK_TIMES_C / energy


def _per_train(
    files: BeamlineFiles,
    possible: Possible,
    pattern: re.Pattern,
    key: str,
    usual: Unit,
    frames: Frames,
    found: Findings,
) -> np.ndarray | None:
    """Return what tells every frame's wavelength, in SI; None if the files have none."""
    for source in beamline_sources(files, "control_sources", pattern, frames.topic):
        path = f"CONTROL/{source}/{key.replace('.', '/')}/value"
        table = read_table(files, source, path, found.damage)
        if table is None or not table.trains.size:
            continue
        unit = table.unit()
        factor = (unit if unit and unit.symbol == usual.symbol else usual).factor
        values = table.values.astype(np.float64)
        # what was never set
        values[values == 0] = np.nan
        values = without_impossible(values, factor, possible, f"{source} {key}", found)
        if values.ndim != 1 or np.isnan(values).all():
            continue
        row = table.rows(frames.train_id)
        wanted = np.where(row < 0, np.nan, values[row])
        found.use("wavelength", f"{source} {key}", "")
        found.warn_missing("wavelength", wanted)
        return wanted * factor
    return None


def _metadata(files: list, name: str, damage: Damage) -> str:
    """Return the first value in the files' metadata that says something, empty if there is none."""
    for file in files:
        with tolerated(file.name, damage):
            if f"METADATA/{name}" in file.file:
                value = first_text(file.file[f"METADATA/{name}"])
                if not says_nothing(value):
                    return value
    return ""


def says_nothing(name: str) -> bool:
    """Whether a name stands for no name, e.g. ``No Sample``."""
    return name.strip().lower() in _NO_SAMPLE
