"""Radial profiles of all frames of an entry, ``--profiles``: written by all ranks, in batches."""

from collections.abc import Iterator

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.radial_rings import RadialRings
from xfelmpi.calibration.geometry import share_geometry
from xfelmpi.io.parallel_hdf5 import ParallelFile
from xfelmpi.output.cxi.profile_names import AXES, GROUP
from xfelmpi.output.hit_writer import FrameSet, HitsToWrite

_BATCH = 2000
"""Frames whose profiles, 1.6 kB each, are written together, at least."""


def rings_of(hits: HitsToWrite) -> RadialRings:
    """Return the rings of all frames of a job; collective."""
    geometry = share_geometry(hits.comm, hits.geometry)
    return RadialRings(geometry, hits.wavelength, hits.masks, hits.modules_in_run)


def write_profiles(
    file: ParallelFile, entry: str, start: int, frames: FrameSet, rings: RadialRings
) -> None:
    """Write the profiles of an entry; collective.

    Parameters
    ----------
    file : ParallelFile
    entry : str
    start : int
        First row of this rank.
    frames : FrameSet
        Of this rank; they are read here.
    rings : RadialRings
    """
    group, shape = f"{entry}/{GROUP}", (frames.n_frames, len(rings.q))
    file.group(group, NX_class="NXcollection")
    about = "mean over the good pixels of a ring"
    photons = file.create(
        f"{group}/photons", shape, np.float32, axes=AXES, units="photons", comment=about
    )
    pixels = file.create(f"{group}/pixels", shape, np.uint32, axes=AXES)
    comment = "4 pi sin(theta) / lambda"
    file.store(f"{group}/q", rings.q, units="1/m", comment=comment)
    file.store(f"{group}/edges", rings.edges, units="1/m", comment=comment)
    batches = _batches(frames, rings)
    # all ranks write as often as the one with most batches
    while mpi.allreduce_max(file.comm, (batch := next(batches, None)) is not None):
        mean, count = batch or (None, None)
        file.write(photons, start, mean)
        file.write(pixels, start, count)
        start += 0 if mean is None else len(mean)


def _batches(frames: FrameSet, rings: RadialRings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    held: list[tuple[np.ndarray, np.ndarray]] = []
    done = n_held = 0
    for block in frames.read():
        held.append(rings(block, frames.cell_id[done : done + len(block)]))
        done, n_held = done + len(block), n_held + len(block)
        if n_held >= _BATCH:
            yield _joined(held)
            held, n_held = [], 0
    if n_held:
        yield _joined(held)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    mean, count = zip(*parts, strict=True)
    return np.concatenate(mean), np.concatenate(count)
