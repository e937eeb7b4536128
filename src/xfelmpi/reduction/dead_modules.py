"""Modules of which no frame can be read are as good as absent."""

from dataclasses import replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.run.distribution import LocalRun


def without_dead_modules(comm, share: LocalRun, sums: FrameSums) -> LocalRun:
    """Return the share without modules of which no frame could be read; collective.

    Such a module is as good as absent from the run: it must not make every frame incomplete.
    """
    present = bits_of((share.frames.file >= 0).any(axis=0))
    found, read = mpi.allreduce_bor(
        comm, np.array([present, np.bitwise_or.reduce(sums.modules, initial=0)], np.int64)
    ).tolist()
    dead = found & ~read
    if not dead:
        return share
    facts = replace(share.facts, modules_in_run=share.facts.modules_in_run & ~dead)
    problems = [
        Problem("no frame of this module can be read", "", m, 0, "its pixels count as missing")
        for m in range(share.frames.n_modules)
        if dead >> m & 1 and comm.rank == 0
    ]
    return replace(share, facts=facts, problems=(*share.problems, *problems))
