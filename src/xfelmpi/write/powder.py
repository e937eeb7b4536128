"""``powder/rRRRR_powder.h5``: sums over all frames, hits and misses."""

import numpy as np

from xfelmpi.detector import FRAME_SHAPE
from xfelmpi.write._h5 import ParallelFile


def write_powder(comm, path, attributes: dict, sums: dict[str, tuple] | None) -> None:
    """Write the powder file; collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name afterwards.
    attributes : dict
        Root attributes.
    sums : dict or None
        On rank 0: for the suffixes "", "_hits" and "_misses" the photons, uint64 (16, 65536), and
        the good frames, uint32 (16, 65536).
    """
    file = ParallelFile(comm, path, attributes)
    for suffix in ("", "_hits", "_misses"):
        photons, good = sums[suffix] if sums else (None, None)
        for name, dtype, units, values in (
            (f"powder{suffix}", np.uint64, "photons", photons),
            (f"good_frames{suffix}", np.uint32, "frames", good),
        ):
            dataset = file.create(name, FRAME_SHAPE, dtype, chunk_rows=1, units=units)
            rows = None if values is None else values.reshape(FRAME_SHAPE)
            file.write(dataset, 0, rows)
    file.close()
