"""How the detector was triggered: which bunch slots every one of its frames was open for.

As EXtra-redu 1.1 reads it (``litfrm/agipd_offline.py``, ``base/litfrm.py``): the settings are those
at the start of the run, of the detector's control device and of the lit-frame finder.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from xfelmpi.detectors.base import DetectorControl
from xfelmpi.detectors.known import detectors_of, names_another
from xfelmpi.run.machine.control_data import BeamlineFiles, data_selectors, run_value
from xfelmpi.run.machine.findings import Damage
from xfelmpi.run.machine.pulse_matching import REFERENCE_FRAME

STRIDE_OF_RATE = {"4.5": 1, "2.2": 2, "1.1": 4, "0.5": 8}
"""Bunch slots from frame to frame, by the repetition rate in MHz."""

_LARGEST = 1e12
"""No setting is as large as this."""

_FINDER = re.compile(r"/REDU/LITFRM")

_TICKS_PER_PULSE = 24
"""Ticks of 9.23 ns of the time server between bunch slots; delays are in these."""

_METRES_PER_TICK = 2.76708438734
"""Light in such a tick."""

_EVENTS = {"SPB": 180, "FXE": 180, "MID": 181, "HED": 181, "SQS": 182, "SCS": 182}
"""Number of the event that comes with the first bunch of an undulator."""

_FIXED_EVENT = 16
"""Number of the event that comes at the same time in every train."""

ASSUMED_FRAME = "assumed, EXtra-redu's default"
"""Of a frame of the first pulse that no setting tells."""

BY_FIRST_PULSE, BY_DELAY = "by first pulse", "by reference delay"


class UnusableError(Exception):
    """Why settings that are there do not tell how the detector was triggered."""


@dataclass(frozen=True, kw_only=True)
class DetectorTiming:
    """Which bunch slots the frames of a train were open for.

    Frame c is open for the slots ``first pulse of the train - shift + c * stride`` and
    ``exposure - 1`` more. Its pulse number is ``c * stride + first``.

    Parameters
    ----------
    n_frames, first, stride, exposure, shift : int
    source : str
        The detector's control device.
    rule : str
        How frames and pulses are aligned.
    assumed : bool
        Whether the alignment is an assumption.
    """

    n_frames: int
    first: int
    stride: int
    exposure: int
    shift: int
    source: str
    rule: str
    assumed: bool


class _Device:
    """Settings of one device, which has a source of its own or a part of a data selector.

    Parameters
    ----------
    files : BeamlineFiles
    name : str
    damage : dict
    """

    def __init__(self, files: BeamlineFiles, name: str, damage: Damage):
        self._files, self._damage, self.name = files, damage, name
        self._places = [(name, "", ".")] if _is_control(files, name) else []
        if not self._places:
            part = "".join(c if c.isalnum() else "_" for c in name)
            self._places = [(s, f"{part}.", "_") for s in data_selectors(files, damage)]

    def get(self, key: str) -> Any:
        """Return a setting, None if it is not there."""
        for source, prefix, dot in self._places:
            value = run_value(self._files, source, prefix + key.replace(".", dot), self._damage)
            if value is not None:
                return value
        return None

    def need(self, key: str) -> Any:
        """Return a setting.

        Raises
        ------
        UnusableError
            If it is not there.
        """
        value = self.get(key)
        if value is None:
            raise UnusableError(f"{self.name} has no {key}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number; without `default` it must be there."""
        value = self.need(key) if default is None else self.get(key)
        if value is None:
            value = default
        # false for NaN, too
        if not isinstance(value, (int, float)) or not abs(value) < _LARGEST:
            raise UnusableError(f"{self.name} {key} is {value!r:.40}, expected a number")
        return value


def _is_control(files: BeamlineFiles, name: str) -> bool:
    return any(name in file.control_sources for file in files)


def lit_frame_finders(
    files: BeamlineFiles, detector: str, section: str = "control_sources"
) -> list[str]:
    """Return the lit-frame finders of a detector, or of one whose name does not tell.

    Parameters
    ----------
    files : BeamlineFiles
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    section : str
        ``control_sources``: devices; ``instrument_sources``: what they send.
    """
    return _of_detector(
        {s for f in files for s in getattr(f, section) if _FINDER.search(s)}, detector
    )


def _of_detector(sources: set[str], detector: str) -> list[str]:
    """Return those of a detector, ``SPB_IRU_AGIPD1M1/…`` for ``SPB_DET_AGIPD1M-1``."""
    topic, name = detector.partition("_")[0], detector.rpartition("_")[2].replace("-", "")
    own = sorted(s for s in sources if s.startswith(topic) and not names_another(s, detector))
    return [s for s in own if name and name in s.partition("/")[0]] or own


def detector_timing(files: BeamlineFiles, detector: str, damage: Damage) -> DetectorTiming | None:
    """Return how the detector was triggered; None if the files do not have its control device.

    Parameters
    ----------
    files : BeamlineFiles
    detector : str
        Its name, e.g. ``SPB_DET_AGIPD1M-1``.
    damage : dict
        Gets the files that cannot be read.

    Raises
    ------
    UnusableError
        If the settings are not complete.
    """
    known = detectors_of(detector)[0]
    if known.control is None:
        return None
    finders = lit_frame_finders(files, detector)
    finder = _Device(files, finders[0], damage) if finders else None
    control = _control_device(files, detector, known.control, finder, damage)
    if control is None:
        return None
    generations, clocks = known.control.generations, known.control.clocks_per_pulse
    kind = control.need("classId")
    if kind not in generations:
        raise UnusableError(
            f"{control.name} is of class {kind!r:.40}, expected one of {', '.join(generations)}"
        )
    rate = f"{control.number('bunchStructure.repetitionRate'):.1f}"
    if rate not in STRIDE_OF_RATE:
        raise UnusableError(
            f"{control.name} has repetition rate {rate} MHz, expected one of "
            f"{', '.join(STRIDE_OF_RATE)}"
        )
    stride = STRIDE_OF_RATE[rate]
    exposure = math.ceil(control.number("integrationTime") / clocks)
    if exposure < 1:
        raise UnusableError(f"{control.name} has integrationTime {exposure * clocks}")
    # the second generation has no such setting
    first = int(control.number("bunchStructure.firstPulse")) if generations[kind] == 1 else 0
    shift, rule = _alignment(files, detector, stride, finder, damage)
    return DetectorTiming(
        n_frames=min(int(control.number("bunchStructure.nPulses")), known.max_cells),
        first=first,
        stride=stride,
        exposure=min(exposure, stride),
        shift=shift,
        source=control.name,
        rule=rule,
        assumed=finder is None,
    )


def _control_device(
    files, detector: str, known: DetectorControl, finder: _Device | None, damage: Damage
) -> _Device | None:
    """Return the detector's control device: the one that the lit-frame finder names, if any."""
    named = (finder.get("detectorId") or finder.get("DetectorCtrl")) if finder else None
    if isinstance(named, str) and _is_control(files, named):
        return _Device(files, named, damage)
    found = _of_detector(
        {s for f in files for s in f.control_sources if s.endswith(known.device)}, detector
    )
    return _Device(files, found[0], damage) if found else None


def known_reference_frame(files: BeamlineFiles, detector: str, damage: Damage) -> int | None:
    """Return the frame of the first pulse by the lit-frame finder's settings, None if unknown.

    Parameters
    ----------
    files : BeamlineFiles
    detector : str
    damage : dict
        Gets the files that cannot be read.
    """
    for name in lit_frame_finders(files, detector)[:1]:
        finder = _Device(files, name, damage)
        if finder.get("alignMethod") in (None, BY_FIRST_PULSE):
            return _stored_frame(finder, detector)
    return None


def _stored_frame(finder: _Device | None, detector: str) -> int | None:
    """Return the setting ``referenceFrame``, None if it is not there or no frame's number."""
    most = detectors_of(detector)[0].max_cells
    stored = finder.get("referenceFrame") if finder else None
    return stored if isinstance(stored, int) and 0 <= stored < most else None


def _alignment(
    files: BeamlineFiles, detector: str, stride: int, finder: _Device | None, damage: Damage
) -> tuple[int, str]:
    """Return the shift in bunch slots, and how it is known."""
    method = finder.get("alignMethod") if finder else None
    if method in (None, BY_FIRST_PULSE):
        stored = _stored_frame(finder, detector)
        frame = REFERENCE_FRAME if stored is None else stored
        rule = f"{BY_FIRST_PULSE}, which made frame {frame}"
        return frame * stride, f"{rule} ({ASSUMED_FRAME})" if stored is None else rule
    if method != BY_DELAY or finder is None:
        raise UnusableError(
            f"alignMethod is {method!r:.40}, expected {BY_FIRST_PULSE!r} or {BY_DELAY!r}"
        )
    return _shift_by_delay(files, detector, finder, damage), BY_DELAY


def _shift_by_delay(files: BeamlineFiles, detector: str, finder: _Device, damage: Damage) -> int:
    """Return the shift by the trigger's delay, against that of a reference."""
    # versions before 0.4 name the devices in other places
    device = finder.get("trigger.deviceId") or finder.get("Timer")
    name = finder.get("trigger.name") or finder.get("trigger")
    if not isinstance(device, str) or not isinstance(name, str):
        raise UnusableError(f"{finder.name} names no trigger")
    trigger = _Device(files, device, damage)
    delay, event = trigger.number(f"{name}.delay"), trigger.number(f"{name}.event")
    events = {_EVENTS.get(detector[:3], 0): "dynamic", _FIXED_EVENT: "static"}
    kind = events.get(int(event))
    reference = f"referenceDelay.{kind}"
    if kind is None or finder.number(f"{reference}.delay", -1) == -1:
        raise UnusableError(f"{finder.name} has no reference delay for event {event:g}")
    rate = f"{finder.number(f'{reference}.repetitionRate'):.1f}"
    if rate not in STRIDE_OF_RATE:
        raise UnusableError(f"{finder.name} {reference}.repetitionRate is {rate} MHz")
    step = STRIDE_OF_RATE[rate] * _TICKS_PER_PULSE
    ticks = finder.number(f"{reference}.delay") + finder.number(f"{reference}.frame") * step - delay
    position = finder.number("detectorDistance", 0.0) * 1e-3 + _motor_position(
        files, finder, damage
    )
    ticks -= (finder.number(f"{reference}.position") * 1e-3 - position) / _METRES_PER_TICK
    return round(ticks / _TICKS_PER_PULSE)


def _motor_position(files: BeamlineFiles, finder: _Device, damage: Damage) -> float:
    """Return where the detector's motor stood, in m; 0 if that is not known."""
    device, key = finder.get("motor.deviceId"), finder.get("motor.positionProperty")
    if not isinstance(device, str) or not isinstance(key, str) or not device:
        return 0.0
    position = _Device(files, device, damage).get(key)
    if not isinstance(position, (int, float)):
        return 0.0
    return finder.number("motor.unitConversionCoef", 1.0) * position
