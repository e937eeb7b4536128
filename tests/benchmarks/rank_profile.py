"""CPU seconds of the main job by stage: of one rank, and of all ranks of several together.

    python tests/benchmarks/rank_profile.py FOLDER RUN [RANKS… [-- options of xfelmpi]]

FOLDER is an experiment folder with the run; 1 and 16 ranks unless told otherwise. What several
ranks take more than one is what each does once, waiting, and shared caches. Medians of 3
(environment: REPEATS).
"""

import json
import os
import sys
from pathlib import Path
from statistics import median
from time import process_time

from bench import PYTHON, timed
from communication import PARTS as COUNTED
from communication import Stage, writers

PARTS = (
    *(part for part in COUNTED if part[1] != "load_inputs"),
    ("inputs", "load_inputs", "index: inputs, other"),
    ("inputs", "load_masks", "index: masks"),
    ("inputs", "load_run_geometry", "index: geometry"),
    ("pipeline", "start_vds", "index: virtual dataset"),
    ("DragonflyWriter", "close", "write: EMC end, detector"),
    ("pipeline", "report_run", "page"),
)
_LINE = "CPU seconds: "


def main() -> None:
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    folder, run, *ranks = arguments[:at]
    options = [run, "--prefix", Path(folder).absolute(), *arguments[at + 1 :]]
    columns = {n: profile(n, options) for n in map(int, ranks or (1, 16))}
    first = next(iter(columns.values()))
    head = "".join(f"{f'{n} ranks':>10}" for n in columns)
    sys.stdout.write(f"{'CPU s of all ranks':28}{head}     ratio\n")
    for name in first:
        values = [column[name] for column in columns.values()]
        ratio = values[-1] / values[0] if values[0] >= 0.005 else float("nan")
        numbers = "".join(f"{value:10.2f}" for value in values)
        sys.stdout.write(f"{name:28}{numbers}{ratio:10.1f}\n")


def profile(ranks: int, options: list) -> dict[str, float]:
    """Return the CPU seconds of all ranks together by stage, medians."""
    jobs = []
    for _ in range(int(os.environ.get("REPEATS", 3))):
        spent = timed(["mpirun", "-n", ranks, PYTHON, __file__, "--rank", *options])
        stages = json.loads(spent.said.split(_LINE)[1].split("\n")[0])
        known = sum(stages.values())
        jobs.append(stages | {"end, and mpirun": spent.cpu - known, "all": spent.cpu})
    return {name: median(job[name] for job in jobs) for name in jobs[0]}


def run_rank(argv: list[str]) -> None:
    """Run the main job on this rank; rank 0 shows what all took."""
    import numpy as np
    from mpi4py import MPI

    from xfelmpi.__main__ import load

    process = load("process").main
    from xfelmpi.core.job_context import Stages
    from xfelmpi.output import write_stage
    from xfelmpi.workflows import inputs, output_stage
    from xfelmpi.workflows import process as pipeline

    stage = Stage(clock=process_time)
    holders = {
        "pipeline": pipeline,
        "ending": output_stage,
        "inputs": inputs,
        "outputs": write_stage,
        **writers(),
    }
    for holder, function, name in PARTS:
        stage.around(holders[holder], function, name)
    Stages.timed = lambda _, name: stage.of(name)
    process(argv, MPI.COMM_WORLD)
    # the parts have been taken off
    stage.seconds[0] += process_time()
    of_rank = dict(zip(stage.names, stage.seconds, strict=True))
    # rank 0 alone loads the geometry
    names = MPI.COMM_WORLD.bcast(stage.names)
    mine = np.array([of_rank.get(name, 0.0) for name in names])
    total = np.empty_like(mine)
    MPI.COMM_WORLD.Reduce(mine, total)
    if MPI.COMM_WORLD.rank == 0:
        seconds = dict(zip(names, total.tolist(), strict=True))
        sys.stdout.write(f"\n{_LINE}{json.dumps(seconds)}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        run_rank(sys.argv[2:])
    else:
        main()
