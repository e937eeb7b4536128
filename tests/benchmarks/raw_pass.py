"""The pass over a raw run, against plain reads of the same bytes into a warm buffer.

    mpirun -n 2 python tests/benchmarks/raw_pass.py FOLDER [TRAINS CELLS]

FOLDER gets two simulated raw runs unless it has them: run 90, and run 91, in which the
medians of ASICs drift by 8 ADU from frame to frame. Prints for every rank the CPU time in
microseconds per module-frame of plain reads and of the pass, without and with common mode, and the
fraction of the reads' speed that the pass has (medians of 7, measured in turn).
"""

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import row
from measure import Floor, Pass, in_turn, ratio, set_up, simulate_once
from mpi4py import MPI

from xfelmpi.calibration.constants import Calibration
from xfelmpi.core.config.options import Config
from xfelmpi.core.log import start_logging
from xfelmpi.simulate import SimulationOptions

REPEATS = 7
RUN = 90
DRIFTING = 91


def main() -> None:
    comm = MPI.COMM_WORLD
    start_logging(comm.rank)
    folder = Path(sys.argv[1])
    trains, cells = (int(a) for a in sys.argv[2:4]) if len(sys.argv) > 2 else (16, 32)
    steady = SimulationOptions(
        folder, run=RUN, kind="raw", trains=trains, cells=tuple(range(cells))
    )
    drifting = replace(steady, run=DRIFTING, common_mode=8.0)
    calibration = measure(comm, steady, {"none": "≤ 2", "asic": "≤ 4"})
    measure(comm, drifting, {"asic": "≤ 4"}, ", drifting medians")
    if comm.rank == 0:
        node, n_cells = calibration.nbytes, int(calibration.row_of_cell.max()) + 1
        sys.stdout.write(
            f"constants: {node / 2**20:.0f} MiB a node for {n_cells} cells, "
            f"{node / n_cells * 352 / 2**30:.2f} GiB for 352\n"
        )


def measure(
    comm: MPI.Comm, options: SimulationOptions, targets: dict[str, str], which: str = ""
) -> Calibration:
    """Measure passes over a run with every common mode that has a target, and print what they took.

    `which` tells this run from others. Returns the constants.
    """
    simulate_once(comm, options)
    passes = {mode: set_up_pass(comm, options, mode) for mode in targets}
    of = next(iter(passes.values()))
    actions = {"read": Floor(of).run} | {mode: one.run for mode, one in passes.items()}
    times = in_turn(comm, actions, len(of.frames) * 16, REPEATS)
    table = comm.gather({name: median(spent) for name, spent in times.items()})
    ratios = comm.gather({mode: ratio(times, "read", mode) for mode in passes})
    if comm.rank == 0:
        for rank, (t, r) in enumerate(zip(table, ratios, strict=True)):
            spent = ", ".join(
                f"pass, common mode {mode}{which} {t[mode]:.1f} ({100 * r[mode]:.0f} % of the "
                "read's speed)"
                for mode in targets
            )
            sys.stdout.write(
                f"rank {rank}: plain read {t['read']:.1f} us a module-frame, {spent}\n"
            )
        for mode, target in targets.items():
            slowest = max(1 / r[mode] for r in ratios)
            row(f"pass over its floor, raw, common mode {mode}{which}", slowest, target)
    return of.calibration


def set_up_pass(comm: MPI.Comm, options: SimulationOptions, common_mode: str) -> Pass:
    """Return the pass over a run with or without common mode."""
    config = Config(
        options.run,
        prefix=options.prefix,
        output=options.prefix / "scratch",
        data="raw",
        adu_per_photon=60.0,
        common_mode=common_mode,
        vds=False,
    )
    return set_up(comm, config)


if __name__ == "__main__":
    main()
