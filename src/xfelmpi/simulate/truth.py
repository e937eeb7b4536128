"""The ground truth of a simulated run, in one plain HDF5 file.

Of raw data it says what the good pixels hold (see `raw`), how many of them left high gain, and
what is wrong with the others. Of corrected data with masks it says what all pixels hold, and as
``unmasked_litpixels`` and ``unmasked_photons`` what those do that the masks call good.

Whoever writes a module's file also writes a *piece*: the answer for these frames of this module.
Rank 0 then joins the pieces train by train, so that no rank ever holds more than one train of
the whole detector.
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.detectors.base import Detector
from xfelmpi.io.output_file import serial_file
from xfelmpi.simulate import model
from xfelmpi.simulate.constants import write_bad_kinds
from xfelmpi.simulate.exdf import unfinished
from xfelmpi.simulate.model import ModulePhotons, Scene
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan, has_data, plan_train, sequences


def kept_frames(options: SimulationOptions, plan: TrainPlan) -> np.ndarray:
    """Return the frames of a train whose pixels the truth file has, int64 (kept frame,)."""
    if options.truth == "full":
        return np.arange(len(plan))
    return np.flatnonzero(plan.is_particle)


def piece_path(folder: Path, module: int, sequence: int) -> Path:
    """Return where the piece of a module's file lies."""
    return folder / f"m{module:02d}_s{sequence:05d}.h5"


@dataclass
class Piece:
    """The answer for the frames of one module in one file, filled train by train."""

    options: SimulationOptions
    _columns: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {name: [] for name in _PIECE_COLUMNS}
    )

    def __post_init__(self):
        self.powder = np.zeros(self.options.detector_type.module_pixels, np.uint64)

    def append(self, plan: TrainPlan, photons: ModulePhotons) -> None:
        """Take the photons of the next train that the module has."""
        lit = np.diff(photons.indptr)
        # the sum of nothing does not exist for reduceat: differences of a running sum instead
        running = np.concatenate([[0], np.cumsum(photons.count, dtype=np.uint64)])
        switched = np.zeros((len(plan), 2)) if photons.switched is None else photons.switched
        count_unmasked = photons.count
        if photons.masked is not None:
            count_unmasked = np.where(photons.masked, 0, photons.count)
        frame = np.repeat(np.arange(len(plan)), lit)
        kept = kept_frames(self.options, plan)
        entries = np.repeat(np.isin(np.arange(len(plan)), kept), lit)
        pixel, count = photons.pixel, photons.count
        self.powder += np.bincount(pixel, count, len(self.powder)).astype(np.uint64)
        for name, values in {
            "litpixels": lit,
            "photons": np.diff(running[photons.indptr]),
            "unmasked_lit": np.bincount(frame, count_unmasked > 0, len(plan)),
            "unmasked_photons": np.bincount(frame, count_unmasked, len(plan)),
            "medium": switched[:, 0],
            "low": switched[:, 1],
            "entries": lit[kept],
            "pixel": pixel[entries],
            "count": count[entries],
        }.items():
            self._columns[name].append(values.astype(self._dtype(name)))

    def write(self, path: Path) -> None:
        """Write the piece into a file of its own."""
        with serial_file(path) as file:
            file["powder"] = self.powder.reshape(self.options.detector_type.module_shape)
            for name in _PIECE_COLUMNS:
                file[name] = np.concatenate([np.empty(0, self._dtype(name)), *self._columns[name]])

    def _dtype(self, name: str) -> np.dtype:
        n_pixels = self.options.detector_type.module_pixels
        return np.dtype(_PIECE_COLUMNS[name] or model.pixel_dtype(n_pixels))


_PIECE_SUMS = {"litpixels": "u4", "photons": "u8", "medium": "u4", "low": "u4"}
_PIECE_SUMS |= {"unmasked_lit": "u4", "unmasked_photons": "u8"}
_PIECE_COLUMNS = {**_PIECE_SUMS, "entries": "i8", "pixel": "", "count": "u2"}
"""By dtype, that of pixel numbers by the size of a module."""


class _ModulePieces:
    """Reads the pieces of one module one train after the other."""

    def __init__(self, folder: Path, module: int, options: SimulationOptions):
        self.module = module
        self._options = options
        self._files = [
            (trains, piece_path(folder, module, sequence))
            for sequence, trains in enumerate(sequences(options, module))
        ]
        self._file = None

    def read(self, plan: TrainPlan):
        """Return the sums by name, entries, pixel and count of the module's next train."""
        if self._file is None or plan.position >= self._stop:
            self._open(plan.position)
        sums = {name: self._take(name, len(plan)) for name in _PIECE_SUMS}
        entries = self._take("entries", len(kept_frames(self._options, plan)))
        total = int(entries.sum())
        return sums, entries, self._take("pixel", total), self._take("count", total)

    def _open(self, position):
        self.close()
        self._stop, path = next(
            (trains.stop, path) for trains, path in self._files if position in trains
        )
        self._file = h5py.File(path, "r")
        # looking a dataset up takes as long as reading a train of it
        self._columns = {name: self._file[name] for name in _PIECE_COLUMNS}
        self._at = dict.fromkeys(_PIECE_COLUMNS, 0)

    def _take(self, name, n):
        start = self._at[name]
        self._at[name] += n
        return self._columns[name][start : start + n]

    def powder(self) -> np.ndarray:
        """Return the sum over all frames of the module, uint64 (ss, fs)."""
        total = np.zeros(self._options.detector_type.module_shape, np.uint64)
        for _, path in self._files:
            if path.exists():
                with h5py.File(path, "r") as file:
                    total += file["powder"][:]
        return total

    def total_entries(self) -> int:
        """Return the number of (pixel, count) entries in all pieces of the module."""
        total = 0
        for _, path in self._files:
            if path.exists():
                with h5py.File(path, "r") as file:
                    total += file["pixel"].size
        return total

    def close(self):
        if self._file is not None:
            self._file.close()


def join_pieces(
    folder: Path, path: Path, options: SimulationOptions, scene: Scene
) -> tuple[int, int]:
    """Write the truth file from all pieces.

    Parameters
    ----------
    folder : Path
        Where the pieces are.
    path : Path
        The truth file.
    options : SimulationOptions
        The options of the run.
    scene : Scene

    Returns
    -------
    tuple of int
        Number of frames, and of those with a particle.
    """
    modules = [_ModulePieces(folder, module, options) for module in options.modules]
    columns = {name: [np.empty(0, dtype)] for name, dtype in _COLUMNS.items()}
    lengths = [np.zeros(1, np.int64)]
    n_rows = n_entries = 0
    with unfinished(path) as file:
        total = sum(module.total_entries() for module in modules)
        pixel = file.create_dataset("pixel", (total,), np.int32)
        count = file.create_dataset("count", (total,), np.uint16)
        for position in range(options.trains):
            plan = plan_train(options, position)
            present = [m for m in modules if has_data(options, m.module, position)]
            if not present:
                continue
            train = _join_train(present, plan, options, scene)
            for name, values in train.columns.items():
                columns[name].append(values.astype(_COLUMNS[name]))
            columns["frames"].append(n_rows + kept_frames(options, plan))
            lengths.append(train.entries)
            part = slice(n_entries, n_entries + len(train.pixel))
            pixel[part], count[part] = train.pixel, train.count
            n_rows += len(plan)
            n_entries += len(train.pixel)
        left_out = _RAW_ONLY if options.kind == "proc" else ()
        if not options.masks_frames:
            left_out += _MASKED_ONLY
        for name, values in columns.items():
            if name not in left_out:
                file[name] = np.concatenate(values)
        file["indptr"] = np.cumsum(np.concatenate(lengths))
        _write_powder(file, modules, options.detector_type)
        if options.kind != "proc" or options.bad_cells:
            write_bad_kinds(file, options)
        for name, unit in _UNITS.items():
            file[name].attrs["units"] = unit
        file.attrs["run"] = options.run
        file.attrs["options"] = options.to_json()
    return n_rows, int(np.concatenate(columns["is_particle"]).sum())


def _write_powder(file: h5py.File, modules: list[_ModulePieces], detector: Detector) -> None:
    """Write the sums over all frames; the pieces have no further use."""
    powder = np.zeros(detector.frame_shape, np.uint64)
    for module in modules:
        powder[module.module] = module.powder()
        module.close()
    file["powder"] = powder


_COLUMNS = {
    "trainId": "u8",
    "cellId": "u2",
    "pulseId": "u8",
    "modules": "u2",
    "litpixels": "u4",
    "photons": "u8",
    "medium_pixels": "u4",
    "low_pixels": "u4",
    "unmasked_litpixels": "u4",
    "unmasked_photons": "u8",
    "is_particle": "?",
    "particle_kind": "u1",
    "diameter": "f8",
    "short_axis_diameter": "f8",
    "long_axis_diameter": "f8",
    "theta_z": "f8",
    "fluence": "f8",
    "pulse_energy": "f8",
    "n_pulses": "u1",
    "wavelength": "f8",
    "frames": "i8",
}
_UNITS = {
    "pulse_energy": "J",
    "wavelength": "m",
    "diameter": "m",
    "short_axis_diameter": "m",
    "long_axis_diameter": "m",
    "theta_z": "rad",
    "fluence": "photons/um2",
}
_RAW_ONLY = ("medium_pixels", "low_pixels")
_MASKED_ONLY = ("unmasked_litpixels", "unmasked_photons")


@dataclass(frozen=True)
class _Train:
    """One train of the whole detector: columns by frame, entries by kept frame, and these."""

    columns: dict[str, np.ndarray]
    entries: np.ndarray
    pixel: np.ndarray
    count: np.ndarray


def _particles(plan: TrainPlan, options: SimulationOptions, scene: Scene) -> dict:
    """Return what is known of the particles of a train, by column; NaN where there is none."""
    short, long, angle = plan.seen(spheroids=options.particle == "spheroid").T
    light = np.full(len(plan), np.nan)
    for i in np.flatnonzero(plan.is_particle):
        light[i] = model.fluence(scene, plan.diameter[i], plan.particle_photons[i]) * 1e-12
    return {
        "particle_kind": plan.kind,
        "diameter": np.where(plan.is_particle, plan.diameter, np.nan),
        "short_axis_diameter": short,
        "long_axis_diameter": long,
        "theta_z": angle,
        "fluence": light,
    }


def _join_train(present: list[_ModulePieces], plan: TrainPlan, options, scene: Scene) -> _Train:
    """Put the modules of a train together, entries in ascending order of frame and pixel."""
    sums = {name: np.zeros(len(plan), dtype) for name, dtype in _PIECE_SUMS.items()}
    parts = []
    for module in present:
        of_module, *part = module.read(plan)
        for name, values in of_module.items():
            sums[name] += values
        parts.append(part)
    entries = np.array([part[0] for part in parts])
    pixel = np.empty(int(entries.sum()), np.int32)
    count = np.empty(len(pixel), np.uint16)
    # frame after frame, and in each module after module
    n_pixels = options.detector_type.module_pixels
    ends = np.cumsum(entries.T).reshape(entries.T.shape).T
    for module, part, starts in zip(present, parts, ends - entries, strict=True):
        n, local, counts = part
        target = np.repeat(starts - (np.cumsum(n) - n), n) + np.arange(len(local))
        pixel[target] = module.module * n_pixels + local.astype(np.int32)
        count[target] = counts
    bits = sum(1 << module.module for module in present)
    columns = {
        "trainId": np.full(len(plan), plan.train_id),
        "cellId": plan.cells,
        "pulseId": plan.pulse_ids,
        "modules": np.full(len(plan), bits),
        "litpixels": sums["litpixels"],
        "photons": sums["photons"],
        "medium_pixels": sums["medium"],
        "low_pixels": sums["low"],
        "unmasked_litpixels": sums["unmasked_lit"],
        "unmasked_photons": sums["unmasked_photons"],
        "is_particle": plan.is_particle,
        **_particles(plan, options, scene),
        # from the float32 numbers of the gas monitor's file, so that readers get the same
        "pulse_energy": plan.frame_energy_uj.astype(np.float32).astype(np.float64) * 1e-6,
        "n_pulses": plan.n_pulses,
        "wavelength": np.full(len(plan), float(model.wavelength_nm(options)) * 1e-9),
    }
    return _Train(columns, entries.sum(axis=0), pixel, count)
