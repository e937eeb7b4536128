"""``events/rRRRR_events.h5``: one row per frame, and the problems found."""

import numpy as np

from xfelmpi.core.event_table import EventColumns, Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.io.parallel_hdf5 import ParallelFile

SUMS = ("ones", "peak", "entries")
"""Group ``sums``: what deciding again needs of `FrameSums` besides the columns."""

UNITS = {"pulse_energy": "J", "wavelength": "m"}

PROBLEM_TYPE = np.dtype(
    [("what", "S200"), ("file", "S80"), ("module", "i2"), ("train", "u8"), ("action", "S80")]
)


def write_events(
    comm,
    path,
    attributes: dict,
    events: EventColumns,
    sums: FrameSums,
    start: int,
    n_frames: int,
    problems: list[Problem],
) -> None:
    """Write the events file; collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name afterwards.
    attributes : dict
        Root attributes.
    events : EventColumns
        The rows of this rank.
    sums : FrameSums
        Of the same frames.
    start, n_frames : int
        First row of this rank, and rows of the run.
    problems : list of Problem
        Those of the run, on rank 0.
    """
    file = ParallelFile(comm, path, attributes)
    columns = [*events.columns(), *((f"sums/{name}", getattr(sums, name)) for name in SUMS)]
    units = {name: {"units": unit} for name, unit in UNITS.items()}
    rows = [(name, column, units.get(name, {})) for name, column in columns]
    rows += [(added.name, added.values, added.attributes()) for added in events.added]
    file.columns(start, n_frames, rows)
    file.put(
        "problems",
        np.array(
            [
                (
                    _cut(p.what, 200),
                    _cut(p.file, 80),
                    p.module,
                    p.train,
                    _cut(p.action, 80),
                )
                for p in problems
            ],
            PROBLEM_TYPE,
        ),
    )
    file.close()


def _cut(text: str, size: int) -> bytes:
    """Return the UTF-8 of a text in at most `size` bytes, without half a character at the end."""
    return text.encode()[:size].decode(errors="ignore").encode()
