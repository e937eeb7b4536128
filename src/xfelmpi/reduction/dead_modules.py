"""Modules of which no frame can be read are as good as absent."""

from dataclasses import replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.errors import InputError
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.run.distribution import LocalRun


def require_frames(comm, sums: FrameSums, problems: list[Problem]) -> None:
    """Check that any frame of any module could be read; collective.

    Parameters
    ----------
    comm : Intracomm
    sums : FrameSums
        Of the frames that this rank had to read.
    problems : list of Problem
        What went wrong.

    Raises
    ------
    InputError
        On all ranks, with one of the reasons, if there were frames to read and none could be.
    """
    read = mpi.allreduce_bor(comm, np.array([np.bitwise_or.reduce(sums.modules, initial=0)]))[0]
    if read or not mpi.allreduce_max(comm, len(sums.modules)):
        return
    told = mpi.gather_objects(comm, problems[:1])

    def refuse():
        reason = f"{told[0].file}: {told[0].what}" if told else "its files are not there"
        raise InputError(
            f"no frame of any module can be read ({reason}); earlier outputs stay as they are"
        )

    mpi.run_on_root(comm, refuse)


def without_dead_modules(
    comm, local_run: LocalRun, sums: FrameSums, rows: np.ndarray | slice = slice(None)
) -> LocalRun:
    """Return the local run without modules of which no frame could be read; collective.

    Such a module is as good as absent from the run: it must not make every frame incomplete.

    Parameters
    ----------
    comm : Intracomm
    local_run : LocalRun
    sums : FrameSums
        Of all frames of this rank.
    rows : ndarray, int (frame,), or slice
        Those that were read, if not all.
    """
    frames = local_run.frames
    present = bits_of((frames.files[np.unique(frames.group[rows])] >= 0).any(axis=0))
    read_here = np.bitwise_or.reduce(sums.modules[rows], initial=0)
    found, read = mpi.allreduce_bor(comm, np.array([present, read_here], np.int64)).tolist()
    dead = found & ~read
    if not dead:
        return local_run
    facts = replace(local_run.facts, modules_in_run=local_run.facts.modules_in_run & ~dead)
    problems = [
        Problem("no frame of this module can be read", "", m, 0, "its pixels count as missing")
        for m in range(local_run.frames.n_modules)
        if dead >> m & 1 and comm.rank == 0
    ]
    return replace(local_run, facts=facts, problems=(*local_run.problems, *problems))
