"""What modules lack: whole trains, parts of trains, everything."""

import numpy as np

from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.log import plural
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.module_bits import modules_of


def _rare_frames(frames: FrameTable) -> list[Problem]:
    problems = []
    for m in range(frames.n_modules):
        trains = frames.train_id[frames.file_of(slice(None), m) >= 0]
        if len(trains):
            n = len(np.unique(trains))
            what = f"module has {len(trains)} frames in {n} trains that most other modules lack"
            action = "frames incomplete: neither hits nor misses"
            problems.append(Problem(what, "", m, int(trains[0]), action))
    return problems


def gap_problems(frames: FrameTable, modules_in_run: int) -> list[Problem]:
    """Name what modules lack: whole trains (in runs of them), parts of trains, everything.

    Frames that most modules lack are told of the modules that have them.
    """
    absent = [
        Problem("module has no frames in the whole run", "", m, 0, "its pixels count as missing")
        for m in range(frames.n_modules)
        if not modules_in_run >> m & 1
    ]
    module, first, end = frames.segments[:, :3].T
    lacking = np.bincount(module, end - first, frames.n_modules) < len(frames)
    lacking &= modules_of(modules_in_run, frames.n_modules)
    if not lacking.any():
        return absent
    rare = 2 * (frames.files >= 0).sum(axis=1) < modules_in_run.bit_count()
    rare = rare[frames.group]
    problems_of_rare = _rare_frames(frames[rare]) if rare.any() else []
    frames = frames[~rare] if rare.any() else frames
    trains, train_of_frame, n_frames = np.unique(
        frames.train_id, return_inverse=True, return_counts=True
    )
    problems = absent
    for m in np.flatnonzero(lacking).tolist():
        lacks = frames.file_of(slice(None), m) < 0
        missing = np.bincount(train_of_frame, lacks, len(trains)).astype(int)
        whole = missing == n_frames
        problems += [
            Problem(
                f"module lacks {missing[t]} of {n_frames[t]} frames",
                "",
                m,
                int(trains[t]),
                "frames incomplete: neither hits nor misses",
            )
            for t in np.flatnonzero((missing > 0) & ~whole)
        ]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], whole, [0]])))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            last = f" … {trains[b - 1]}" if b - a > 1 else ""
            problems.append(
                Problem(
                    f"module lacks {b - a} {plural(b - a, 'train')}: {trains[a]}{last}",
                    "",
                    m,
                    int(trains[a]),
                    "frames incomplete: neither hits nor misses",
                )
            )
    return [*problems_of_rare, *sorted(problems, key=lambda problem: problem.module)]
