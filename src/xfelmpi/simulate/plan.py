"""What happens in every train, and which trains are in which file: decided before any photon.

Pure functions of the options, so that every rank can work them out for itself.
"""

from dataclasses import dataclass, replace

import numpy as np

from xfelmpi.simulate.cluster import rotation
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.particles import ICE, NOTHING, PAIR, RING, SINGLE, seen_axes

_PURPOSE, _ORIENTATIONS, _KINDS, _MORE_PULSES = 0, 3, 4, 6
"""First numbers after the seed of the generators of this module; `model` uses others."""

LOWEST_PULSE_ENERGY = 0.2
"""Of the mean: a machine that delivers less is off."""


@dataclass(frozen=True)
class TrainPlan:
    """One train; frames in ascending order of their cells.

    Parameters
    ----------
    position : int
        Number of the train in the run, from 0.
    train_id : int
        Train ID.
    cells : ndarray, uint16 (frame,)
        Memory cells, ascending.
    order : ndarray, int64 (frame,)
        Frame ``order[i]`` is the i-th of this train in the files.
    pulse_ids : ndarray, uint64 (frame,)
        Bunch slots of the frames.
    pulse_slots : ndarray, int64 (pulse,)
        Bunch slots of all pulses of the machine, recorded or not.
    pulse_energy_uj : ndarray, float32 (pulse,)
        Energies of all pulses in µJ, as the gas monitor gives them.
    n_pulses : ndarray, uint8 (frame,)
        X-ray pulses that the frame saw; 0: it is dark.
    frame_energy_uj : ndarray, float64 (frame,)
        Sum of their energies in µJ; NaN if the gas monitor sent nothing for the train.
    is_particle : ndarray, bool (frame,)
        Whether a particle was in the beam.
    diameter : ndarray, float64 (frame,)
        Diameter of the particle in m.
    kind : ndarray, uint8 (frame,)
        What is in the beam: `particles.SINGLE` and so on.
    axis_ratio : ndarray, float64 (frame,)
        Of a spheroid: axis of revolution over the others.
    place : ndarray, float64 (frame, 4)
        Random numbers in [0, 1) for what is no single particle.
    orientation : ndarray, float64 (frame, 4)
        Of the particle: a quaternion of any length.
    particle_photons : ndarray, float64 (frame,)
        Mean number of photons from the particle on the whole detector.
    background : ndarray, float64 (frame,)
        Mean background in photons per module.
    """

    position: int
    train_id: int
    cells: np.ndarray
    order: np.ndarray
    pulse_ids: np.ndarray
    pulse_slots: np.ndarray
    pulse_energy_uj: np.ndarray
    n_pulses: np.ndarray
    frame_energy_uj: np.ndarray
    is_particle: np.ndarray
    diameter: np.ndarray
    kind: np.ndarray
    axis_ratio: np.ndarray
    place: np.ndarray
    orientation: np.ndarray
    particle_photons: np.ndarray
    background: np.ndarray

    def __len__(self):
        return len(self.cells)

    def without_frames(self) -> "TrainPlan":
        """Return the same train with no frame recorded."""
        per_frame = ("cells", "order", "pulse_ids", "n_pulses", "is_particle")
        per_frame += ("frame_energy_uj",)
        per_frame += ("diameter", "orientation", "particle_photons", "background")
        per_frame += ("kind", "axis_ratio", "place")
        return replace(self, **{name: getattr(self, name)[:0] for name in per_frame})

    def semi_axes(self, frame: int) -> tuple[float, float]:
        """Return the semi-axes of a spheroid across and along its axis of revolution, in m.

        Its volume is that of the sphere with the frame's diameter.
        """
        across = self.diameter[frame] / 2 / np.cbrt(self.axis_ratio[frame])
        return across, across * self.axis_ratio[frame]

    def axis(self, frame: int) -> np.ndarray:
        """Return the direction of a spheroid's axis of revolution, float64 (3,)."""
        return rotation(self.orientation[frame])[:, 2]

    def seen(self, *, spheroids: bool) -> np.ndarray:
        """Return short and long diameter in m and angle in rad, as seen, float64 (frame, 3).

        Those of spheres have no angle; without a particle there is nothing, NaN.
        """
        found = np.full((len(self), 3), np.nan)
        for frame in np.flatnonzero(self.is_particle):
            found[frame, :2] = self.diameter[frame]
            if spheroids:
                found[frame] = seen_axes(self.semi_axes(frame), self.axis(frame))
        return found


def plan_train(options: SimulationOptions, position: int) -> TrainPlan:
    """Decide what happens in one train."""
    rng = np.random.default_rng([options.seed, _PURPOSE, position])
    # drawn for all memory cells up to the last one in use, so that which cells are recorded, or
    # have light, changes nothing in the others
    n_cells = options.cells[-1] + 1
    relative = 1 + options.pulse_jitter * rng.standard_normal(n_cells)
    relative = np.maximum(relative, LOWEST_PULSE_ENERGY)
    is_particle = rng.random(n_cells) < options.hit_rate
    diameter = rng.uniform(*options.size_nm, n_cells) * 1e-9
    photons = np.exp(rng.uniform(*np.log(options.hit_photons), n_cells))
    vetoed = rng.random(n_cells) < options.veto
    level = options.background * _drift(position) * (1 + 0.01 * rng.standard_normal())
    orientations = np.random.default_rng([options.seed, _ORIENTATIONS, position])
    orientation = orientations.standard_normal((n_cells, 4))
    lit = np.arange(n_cells) - options.dark_cells
    lit = (lit >= 0) & (lit < options.n_lit)
    of_frame = _pulses_of_frames(options, relative, position)
    energy_uj = (options.pulse_energy_mj * 1e3 * of_frame).astype(np.float32)
    frame_energy = np.where(lit, energy_uj.sum(axis=1, dtype=np.float64), 0.0)
    frame_energy[lit & (position in options.unseen_trains)] = np.nan
    relative = np.where(lit, of_frame.sum(axis=1), 0.0)
    is_particle &= lit
    kinds = np.random.default_rng([options.seed, _KINDS, position])
    chance, axis_ratio, place = _draw_kinds(kinds, options, n_cells)
    if options.kind == "dark":
        is_particle[:], level = False, 0.0
    kind = np.where(is_particle, chance, NOTHING).astype(np.uint8)

    cells = np.array(options.cells)
    cells = cells[~vetoed[cells]]
    order = rng.permutation(len(cells)) if options.reorder_cells else np.arange(len(cells))
    return TrainPlan(
        position=position,
        train_id=options.first_train + position,
        cells=cells.astype(np.uint16),
        order=order,
        pulse_ids=(cells * _pulse_step(options)).astype(np.uint64),
        pulse_slots=_pulse_slots(options),
        pulse_energy_uj=energy_uj[lit].reshape(-1),
        n_pulses=(lit[cells] * options.pulses_per_frame).astype(np.uint8),
        frame_energy_uj=frame_energy[cells],
        is_particle=is_particle[cells],
        diameter=diameter[cells],
        kind=kind[cells],
        axis_ratio=axis_ratio[cells],
        place=place[cells],
        orientation=orientation[cells],
        particle_photons=photons[cells],
        background=level * relative[cells],
    )


def _pulse_step(options: SimulationOptions) -> int:
    """Return by how much the pulse number grows from cell to cell, as readers have it."""
    return 1 if options.detector_type.datasets.pulse_id is None else options.pulse_step


def _draw_kinds(rng, options: SimulationOptions, n: int):
    """Return what particles are, and the numbers that they need."""
    ends = np.cumsum([options.pairs, options.ice, options.rings])
    which = np.searchsorted(ends, rng.random(n), side="right")
    axis_ratio = np.exp(rng.uniform(*np.log(options.axis_ratio), n))
    return np.array([PAIR, ICE, RING, SINGLE])[which], axis_ratio, rng.random((n, 4))


def _pulses_of_frames(options: SimulationOptions, first: np.ndarray, position: int) -> np.ndarray:
    """Return the relative energies of the pulses of every cell, float64 (cell, pulse).

    Parameters
    ----------
    options : SimulationOptions
    first : ndarray, float64 (cell,)
        Of the first pulse of each.
    position : int
        Of the train.
    """
    more = np.random.default_rng([options.seed, _MORE_PULSES, position])
    relative = 1 + options.pulse_jitter * more.standard_normal(
        (len(first), options.pulses_per_frame - 1)
    )
    return np.concatenate([first[:, None], np.maximum(relative, LOWEST_PULSE_ENERGY)], axis=1)


def _pulse_slots(options: SimulationOptions) -> np.ndarray:
    """Return the bunch slots of all pulses of the machine, int64 (pulse,)."""
    frame = options.first_pulse + np.arange(options.n_lit) * options.pulse_step
    return (frame[:, None] + np.arange(options.pulses_per_frame)).reshape(-1)


def _drift(position: int) -> float:
    """Return the relative background of a train: it comes and goes over 20 s."""
    return 1 + 0.1 * np.sin(2 * np.pi * position / 200)


def has_data(options: SimulationOptions, module: int, position: int) -> bool:
    """Whether a module recorded a train."""
    return module not in options.absent_modules and (module, position) not in options.missing


def sequences(options: SimulationOptions, module: int = 0) -> list[range]:
    """Return the positions of the trains of each file of a module, or of the beamline data.

    With ragged sequences the first file of module m is m % 8 trains shorter (but never empty).
    """
    length = options.sequence_length
    first = length - module % 8 % length if options.ragged_sequences else length
    starts = [0, *range(first, options.trains, length)]
    stops = [*starts[1:], options.trains]
    return [range(a, b) for a, b in zip(starts, stops, strict=True)]
