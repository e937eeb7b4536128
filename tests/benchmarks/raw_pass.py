"""The pass over a raw run, against plain reads of the same bytes into a warm buffer.

    mpirun -n 2 python tests/benchmarks/raw_pass.py FOLDER [TRAINS CELLS]

FOLDER gets a simulated raw run (run 90) unless it has one. Prints for every rank the CPU time
in microseconds per module-frame of plain reads and of the pass, without and with common mode, and
the fraction of the reads' speed that the pass has (medians of 7, measured in turn).
"""

import sys
from pathlib import Path
from statistics import median

from bench import row
from measure import Floor, in_turn, ratio, set_up, simulate_once
from mpi4py import MPI

from xfelmpi.config import Config
from xfelmpi.report import start_logging
from xfelmpi.simulate import SimulationOptions

REPEATS = 7
RUN = 90


def main() -> None:
    comm = MPI.COMM_WORLD
    start_logging(comm.rank)
    folder = Path(sys.argv[1])
    trains, cells = (int(a) for a in sys.argv[2:4]) if len(sys.argv) > 2 else (16, 32)
    simulate_once(
        comm,
        SimulationOptions(folder, run=RUN, kind="raw", trains=trains, cells=tuple(range(cells))),
    )
    passes = {}
    for common_mode in ("none", "asic"):
        config = Config(
            RUN,
            prefix=folder,
            output=folder / "scratch",
            data="raw",
            adu_per_photon=60.0,
            common_mode=common_mode,
            vds=False,
        )
        passes[common_mode] = set_up(comm, config)
    actions = {"read": Floor(passes["none"]).run}
    actions |= {name: one.run for name, one in passes.items()}
    times = in_turn(comm, actions, len(passes["none"].frames) * 16, REPEATS)
    table = comm.gather({name: median(spent) for name, spent in times.items()})
    ratios = comm.gather({name: ratio(times, "read", name) for name in passes})
    if comm.rank == 0:
        for rank, (t, r) in enumerate(zip(table, ratios, strict=True)):
            sys.stdout.write(
                f"rank {rank}: plain read {t['read']:.1f} us a module-frame, pass {t['none']:.1f} "
                f"({100 * r['none']:.0f} % of the read's speed), with common mode "
                f"{t['asic']:.1f} ({100 * r['asic']:.0f} %)\n"
            )
        for name, target in (("none", "≤ 2"), ("asic", "≤ 4")):
            slowest = max(1 / r[name] for r in ratios)
            row(f"pass over its floor, raw, common mode {name}", slowest, target)
        calibration = passes["none"].calibration
        node, n_cells = calibration.nbytes, int(calibration.row_of_cell.max()) + 1
        sys.stdout.write(
            f"constants: {node / 2**20:.0f} MiB a node for {n_cells} cells, "
            f"{node / n_cells * 352 / 2**30:.2f} GiB for 352\n"
        )


if __name__ == "__main__":
    main()
