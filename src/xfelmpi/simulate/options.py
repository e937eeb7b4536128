"""What a simulated run shall be: one frozen, validated set of options."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from xfelmpi.core.config.parsing import LAST_RUN
from xfelmpi.core.errors import UsageError
from xfelmpi.core.text import storable
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import DEVICES, MAX_CELLS, detectors_of

UNDULATOR = {"SPB": 1, "FXE": 1, "MID": 2, "HED": 2, "SCS": 3, "SQS": 3, "SXP": 3}
"""Whose light an instrument gets."""

BUNCH_SLOTS = 2700
"""Electron bunches that one train of the machine has room for."""

STAGES = ("high", "medium", "low")
"""The gain stages of AGIPD, in the order of their numbers."""

DEFAULT_ADU_PER_PHOTON = {"proc": 1.0, "raw": 60.0, "dark": 60.0}

LEAST_ADU_PER_PHOTON = 15.0
"""In raw data: whole ADU must be fine enough to give back the photons in spite of the noise."""

CHOICES = {
    "kind": ("proc", "raw", "dark"),
    "gain_stage": STAGES,
    "constants_dtype": ("i2", "i4", "f4"),
    "layout": ("modern", "legacy"),
    "dtype": ("u1", "u2", "f4"),
    "compression": ("gzip", "none"),
    "missing_style": ("empty", "gone"),
    "truth": ("hits", "full"),
    "particle": ("sphere", "spheroid", "cluster"),
    "lit_frames": ("found", "settings", "none"),
    "alignment": ("by first pulse", "by reference delay"),
    "bunch_pattern": ("timeserver", "decoder", "none"),
}

STRIDE_OF_RATE = {4.5: 1, 2.2: 2, 1.1: 4, 0.5: 8}
"""Bunch slots from one memory cell to the next, by the detector's repetition rate in MHz."""


@dataclass(frozen=True)
class SimulationOptions:
    """What to simulate; `simulate` turns it into files.

    Parameters
    ----------
    prefix : Path
        The experiment folder to write into; made if it does not exist.
    run : int
        Run number.
    detector : str
        The facility's name of the detector, e.g. ``MID_DET_AGIPD1M-1``, or a kind of detector,
        e.g. ``DSSC-1M``: see `DEVICES`.
    kind : str
        ``proc`` (corrected data), ``raw`` (with matching constants), or ``dark`` (raw data
        without any light).
    trains : int
        Number of trains.
    cells : tuple of int
        Memory cells in use, ascending.
    pulse_step : int
        Bunch slots from one memory cell to the next: ``pulseId = cellId * pulse_step``.
    dark_cells : int
        Memory cells before the first X-ray pulse: their frames have no light.
    lit_cells : int
        Memory cells with light after these, 0 for all the others.
    pulses_per_frame : int
        X-ray pulses of a frame with light, one bunch slot apart; at most `pulse_step`.
    first_pulse : int
        Bunch slot of the first X-ray pulse in the time server's table.
    lit_frames : str
        ``found``: the run has what the facility's lit-frame finder sends, and the detector's
        settings; ``settings``: only these; ``none``: neither.
    alignment : str
        How the lit-frame finder is set to align frames and pulses.
    detector_generation : int
        Of the detector's control device, 1 or 2.
    bunch_pattern : str
        What has the bunch pattern: the time server, a device that decodes it, or nothing.
    unseen_trains : tuple of int
        Positions of trains of which the gas monitor sent nothing.
    veto : float
        Chance of every frame not to be recorded (in any module), 0 … 1.
    reorder_cells : bool
        Whether every train stores its cells in another, random order.
    sequence_length : int
        Trains in one file.
    ragged_sequences : bool
        Whether the files of different modules break at different trains.
    first_train : int
        Train ID of the first train.
    missing : tuple of (int, int)
        (module, train position) pairs without data.
    missing_style : str
        ``empty``: the module's file lists a missing train, with no frames; ``gone``: it does
        not list it.
    absent_modules : tuple of int
        Modules without any file.
    hit_rate : float
        Chance of a particle in a frame, 0 … 1.
    particle : str
        ``sphere``; ``spheroid``: of the volume of such a sphere; or ``cluster``: balls that form
        one particle without any symmetry.
    axis_ratio : tuple of float
        Smallest and largest ratio of the spheroids' axis of revolution to the other axes.
    pairs, ice, rings : float
        Fractions of the particles that are two spheres in one pulse, pieces of ice, and stray
        light.
    size_nm : tuple of float
        Smallest and largest diameter of the particles in nm.
    hit_photons : tuple of float
        Smallest and largest mean number of photons from a particle on the whole detector;
        log-uniform in between.
    background : float
        Mean background in photons per module and frame.
    pulse_energy_mj, pulse_jitter : float
        Mean pulse energy in mJ, and its relative standard deviation.
    photon_energy_kev : float
        Photon energy in keV.
    distance : float
        Sample to detector in m.
    dtype : str
        Of ``proc`` data: ``u1`` (counts are cut at 255), ``u2`` or ``f4`` (signal with noise).
    compression : str
        Of ``proc`` data: ``gzip`` (shuffle and gzip level 1) or ``none``.
    chunk_frames : int
        Frames in one chunk; 0 for contiguous data (only without compression).
    layout : str
        ``modern`` (``CORR/…:output`` and a link from the old name) or ``legacy``
        (``DET/…:xtdf`` only); of ``raw`` data only the version of the file format.
    adu_per_photon : float or None
        Signal of one photon in ``f4``, ``raw`` and ``dark`` data; None for 1 in ``proc`` data
        and 60 in the others.
    noise : float
        Standard deviation of the noise of ``f4``, ``raw`` and ``dark`` data in photons.
    clip_noise : float
        Largest noise in photons, 0 for no limit. Up to 0.25, floor(signal + 1 - 0.7) gives back
        the exact counts, also after rounding to float32 or to whole ADU: that needs -0.3 … 0.7.
    gain_spread : float
        Relative standard deviation of the gains of the pixels.
    common_mode : float
        Standard deviation of the common mode of an ASIC from frame to frame in ADU.
    bad_pixels : float
        Fraction of the pixels that is bad in a memory cell, in ``raw`` and ``dark`` data.
    bad_cells : float
        The same for ``proc`` data, as hot, dead and flickering pixels.
    gain_stage : str
        In which gain stage the pixels of a ``dark`` run are: ``high``, ``medium`` or ``low``.
    constants_dtype : str
        Of the offsets of ``raw`` and ``dark`` data: ``i2``, ``i4`` or ``f4``.
    with_mask : bool
        Whether to write ``image/mask`` (u4, all good) of ``proc`` data.
    masked_pixels : float
        Fraction of the pixels that ``image/mask`` of ``proc`` data calls bad in every frame of a
        memory cell. They hold photons all the same.
    masked_at_times : float
        Mean number of further pixels of a module that it calls bad in one frame.
    sample : str
        Name of the sample in the files' metadata.
    truth : str
        Which frames' pixels the truth file has: ``hits`` or ``full``.
    seed : int
        Seed of all random numbers.

    Raises
    ------
    UsageError
        If a value is out of its range, or values do not fit each other.
    """

    prefix: Path
    run: int = 50
    detector: str = "AGIPD-1M"
    kind: str = "proc"
    trains: int = 16
    cells: tuple[int, ...] = tuple(range(352))
    pulse_step: int = 1
    dark_cells: int = 0
    lit_cells: int = 0
    pulses_per_frame: int = 1
    first_pulse: int = 0
    lit_frames: str = "found"
    alignment: str = "by first pulse"
    detector_generation: int = 1
    bunch_pattern: str = "timeserver"
    unseen_trains: tuple[int, ...] = ()
    veto: float = 0.0
    reorder_cells: bool = False
    sequence_length: int = 64
    ragged_sequences: bool = False
    first_train: int = 1_500_000_000
    missing: tuple[tuple[int, int], ...] = ()
    missing_style: str = "empty"
    absent_modules: tuple[int, ...] = ()
    hit_rate: float = 0.05
    particle: str = "sphere"
    axis_ratio: tuple[float, float] = (1.0, 2.0)
    pairs: float = 0.0
    ice: float = 0.0
    rings: float = 0.0
    size_nm: tuple[float, float] = (40.0, 80.0)
    hit_photons: tuple[float, float] = (5e3, 5e4)
    background: float = 300.0
    pulse_energy_mj: float = 2.0
    pulse_jitter: float = 0.05
    photon_energy_kev: float = 6.0
    distance: float = 0.7
    dtype: str = "u1"
    compression: str = "gzip"
    chunk_frames: int = 1
    layout: str = "modern"
    adu_per_photon: float | None = None
    noise: float = 0.08
    clip_noise: float = 0.25
    gain_spread: float = 0.03
    common_mode: float = 0.0
    bad_pixels: float = 0.005
    bad_cells: float = 0.0
    gain_stage: str = "high"
    constants_dtype: str = "i2"
    with_mask: bool = False
    masked_pixels: float = 0.0
    masked_at_times: float = 0.0
    sample: str = "Simulated spheres"
    truth: str = "hits"
    seed: int = 1

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        if len(detectors_of(self.device)) > 1:
            known = f"{', '.join(DEVICES)}, or a name such as {', '.join(DEVICES.values())}"
            raise UsageError(f"detector is {self.detector!r}, expected {known}")
        if self.topic not in UNDULATOR:
            raise UsageError(f"detector {self.device}: expected one at {', '.join(UNDULATOR)}")
        if self.kind != "proc" and not self.detector_type.raw_planes:
            raise UsageError(f"{self.kind} data of the {self.detector_type.name}: expected proc")
        self._check_ranges()
        self._check_cells()
        self._check_modules()
        for name, most in _PAIRS:
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise UsageError(
                    f"{name} is {low} … {high}, expected 0 < smallest <= largest <= {most:g}"
                )
        if self.pairs + self.ice + self.rings > 1:
            raise UsageError("pairs, ice and rings are more than all particles")
        if self.sample != storable(self.sample) or "\0" in self.sample:
            raise UsageError(f"sample is {self.sample!r}, expected text (UTF-8)")
        if self.kind == "proc" and self.compression == "gzip" and self.chunk_frames == 0:
            raise UsageError("contiguous data (chunk_frames 0) cannot be compressed")

    def _check_ranges(self):
        least = 1e-6 if self.kind == "proc" else LEAST_ADU_PER_PHOTON
        values = {**vars(self), "adu_per_photon": self.signal_per_photon}
        for name, low, high in (*_RANGES, ("adu_per_photon", least, 1e6)):
            if not low <= values[name] <= high:
                raise UsageError(f"{name} is {values[name]}, expected {low} … {high}")

    def _check_cells(self):
        cells = self.cells
        if not cells or list(cells) != sorted(set(cells)):
            raise UsageError(f"cells are {cells}, expected at least one, ascending, each once")
        last = self.detector_type.max_cells - 1
        if not 0 <= cells[0] <= cells[-1] <= last:
            raise UsageError(f"cells {cells[0]} … {cells[-1]}, expected 0 … {last}")
        if self.detector_type.datasets.by_train:
            self._check_burst()
        if cells[-1] * self.pulse_step >= BUNCH_SLOTS:
            raise UsageError(
                f"cell {cells[-1]} with a pulse step of {self.pulse_step} is bunch slot "
                f"{cells[-1] * self.pulse_step}, expected below {BUNCH_SLOTS}"
            )
        self._check_pulses()

    def _check_burst(self):
        # every train has all of them, in the order of the pulses
        if self.cells != tuple(range(len(self.cells))) or self.veto or self.reorder_cells:
            raise UsageError(
                f"{self.detector_type.name}: expected cells 0 … n - 1, all and in order in every "
                "train (no veto, no reorder_cells)"
            )

    def _check_pulses(self):
        if self.dark_cells > self.cells[-1]:
            raise UsageError(f"dark_cells is {self.dark_cells}, expected 0 … {self.cells[-1]}")
        if self.pulses_per_frame > self.pulse_step:
            raise UsageError(
                f"pulses_per_frame is {self.pulses_per_frame}, expected 1 … pulse_step, "
                f"{self.pulse_step}"
            )
        last = self.first_pulse + (self.n_lit - 1) * self.pulse_step + self.pulses_per_frame - 1
        if last >= BUNCH_SLOTS:
            raise UsageError(
                f"the last pulse is in bunch slot {last} (first_pulse {self.first_pulse}), "
                f"expected below {BUNCH_SLOTS}"
            )

    def _check_modules(self):
        n_modules = self.detector_type.n_modules
        for module in (*self.absent_modules, *(module for module, _ in self.missing)):
            if not 0 <= module < n_modules:
                raise UsageError(f"module {module}, expected 0 … {n_modules - 1}")
        for position in (*(position for _, position in self.missing), *self.unseen_trains):
            if not 0 <= position < self.trains:
                raise UsageError(
                    f"missing or unseen train {position}, expected 0 … {self.trains - 1}"
                )
        if len(set(self.absent_modules)) == n_modules:
            raise UsageError("all modules are absent, expected at least one to be there")

    @property
    def device(self) -> str:
        """The facility's name of the detector."""
        return DEVICES.get(self.detector, self.detector)

    @property
    def topic(self) -> str:
        """The instrument, e.g. ``SPB``."""
        return self.device.partition("_")[0]

    @property
    def detector_type(self) -> Detector:
        """What kind of detector it is."""
        return detectors_of(self.device)[0]

    @property
    def modules(self) -> tuple[int, ...]:
        """The modules that have files."""
        return tuple(m for m in range(self.detector_type.n_modules) if m not in self.absent_modules)

    @property
    def n_lit(self) -> int:
        """Memory cells with light, recorded or not."""
        most = self.cells[-1] + 1 - self.dark_cells
        return min(self.lit_cells or most, most)

    @property
    def repetition_rate(self) -> float:
        """The detector's repetition rate in MHz, as its control device calls it."""
        for rate, stride in STRIDE_OF_RATE.items():
            if stride == self.pulse_step:
                return rate
        return 4.5 / self.pulse_step

    @property
    def bad_fraction(self) -> float:
        """Fraction of the pixels that is bad in a memory cell of this kind of data."""
        return self.bad_cells if self.kind == "proc" else self.bad_pixels

    @property
    def needs_vectors(self) -> bool:
        """Whether there are particles that do not scatter alike to all sides."""
        return self.particle != "sphere" or self.pairs + self.ice + self.rings > 0

    @property
    def masks_frames(self) -> bool:
        """Whether the frames have masks that are not all good."""
        return self.kind == "proc" and bool(self.masked_pixels or self.masked_at_times)

    @property
    def max_count(self) -> int:
        """The largest photon count that a pixel of the data can hold.

        In raw data less than 65535, so that noise and gain do not lead beyond that.
        """
        if self.kind != "proc":
            return 60_000
        return 255 if self.dtype == "u1" else 65535

    @property
    def signal_per_photon(self) -> float:
        """Signal of one photon in ADU: what was asked for, or what is usual for the data."""
        if self.adu_per_photon is None:
            return DEFAULT_ADU_PER_PHOTON[self.kind]
        return self.adu_per_photon

    def to_json(self) -> str:
        """Return all options as JSON; the same whatever folder is written to."""
        values = dataclasses.asdict(self)
        del values["prefix"]
        values["adu_per_photon"] = self.signal_per_photon
        return json.dumps(values, sort_keys=True)


_RANGES = (
    ("run", 0, LAST_RUN),
    ("trains", 1, 10**7),
    ("pulse_step", 1, BUNCH_SLOTS),
    ("dark_cells", 0, MAX_CELLS),
    ("lit_cells", 0, MAX_CELLS),
    ("pulses_per_frame", 1, 8),
    ("first_pulse", 0, BUNCH_SLOTS - 1),
    ("detector_generation", 1, 2),
    ("veto", 0, 1),
    ("sequence_length", 1, 10**7),
    # times in ns fit into 64 bits until then
    ("first_train", 1, 10**11),
    ("hit_rate", 0, 1),
    ("pairs", 0, 1),
    ("ice", 0, 1),
    ("rings", 0, 1),
    ("background", 0, 1e6),
    ("pulse_energy_mj", 1e-9, 1e3),
    ("pulse_jitter", 0, 0.2),
    ("photon_energy_kev", 0.1, 100),
    ("distance", 1e-3, 100),
    ("chunk_frames", 0, 4096),
    ("noise", 0, 1),
    ("clip_noise", 0, 100),
    ("gain_spread", 0, 0.1),
    ("common_mode", 0, 500),
    ("bad_pixels", 0, 0.5),
    ("bad_cells", 0, 0.5),
    ("masked_pixels", 0, 1),
    ("masked_at_times", 0, 65536),
    ("seed", 0, 2**32 - 1),
)


_PAIRS = (("size_nm", 1e6), ("hit_photons", 1e9), ("axis_ratio", 1e6))
"""Options that are the smallest and the largest of something, and what that may be at most."""


def parse_cells(text: str) -> tuple[int, ...]:
    """Return the memory cells that a text names.

    Parameters
    ----------
    text : str
        A number of cells (``352``), a range (``0:352:2``), or a list (``1,5,9``; one cell is
        ``5,``).

    Raises
    ------
    UsageError
        If the text is none of these.
    """
    try:
        if ":" in text:
            cells = range(*(int(part) for part in text.split(":")))
        elif "," in text:
            cells = sorted({int(part) for part in text.split(",") if part.strip()})
        else:
            cells = range(int(text))
    except (ValueError, TypeError):
        raise UsageError(
            f"cells are {text!r}, expected a number, START:STOP[:STEP] or A,B,C"
        ) from None
    # one too many is told as such; a range may have more than there is memory for
    return tuple(cells[: MAX_CELLS + 1])
