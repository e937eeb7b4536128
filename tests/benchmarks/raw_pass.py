"""The pass over a raw run, against plain reads of the same bytes into a warm buffer.

    mpirun -n 2 python tests/benchmarks/raw_pass.py FOLDER [TRAINS CELLS]

FOLDER gets a simulated raw run (run 90) unless it has one. Prints for every rank the CPU time
in microseconds per module-frame of plain reads and of the pass, without and with common mode, and
the fraction of the reads' speed that the pass has (medians of 7, measured in turn).
"""

import os
import sys
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from mpi4py import MPI

from xfelmpi.calibration import load_calibration
from xfelmpi.config import Config
from xfelmpi.experiment import Experiment
from xfelmpi.masks import load_masks
from xfelmpi.photons import Sparsifier
from xfelmpi.powder import PowderSum
from xfelmpi.read import FilePool
from xfelmpi.report import start_logging
from xfelmpi.share import share_run
from xfelmpi.simulate import SimulationOptions, simulate

REPEATS = 7
RUN = 90


def read_all(pool: FilePool, frames) -> None:
    """Read the bytes of all frames with `pread`, nothing else."""
    buffer = np.empty(1 << 20, np.uint8)
    for module in range(16):
        for number in np.unique(frames.file[:, module]):
            rows = frames.row[frames.file[:, module] == number, module]
            source = pool.get(int(number)).frames(rows)
            for offset, size in zip(source.offset.tolist(), source.size.tolist(), strict=True):
                os.preadv(source.fd, [buffer[:size]], offset)


def main() -> None:
    comm = MPI.COMM_WORLD
    start_logging(comm.rank)
    folder = Path(sys.argv[1])
    trains, cells = (int(a) for a in sys.argv[2:4]) if len(sys.argv) > 2 else (16, 32)
    if not Experiment(folder, folder / "scratch", RUN).run_folder("raw").exists():
        comm.Barrier()
        simulate(
            SimulationOptions(folder, run=RUN, kind="raw", trains=trains, cells=range(cells)), comm
        )
    comm.Barrier()
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
        experiment = Experiment(folder, folder / "scratch", RUN)
        share = share_run(comm, experiment, config)
        facts = share.facts
        calibration = load_calibration(comm, experiment, config, facts.cells, facts.modules_in_run)
        masks = load_masks(comm, experiment, config, facts.cells, calibration)
        pool = FilePool(facts.files)
        sparsifier = Sparsifier(pool, masks, 60.0, 0.7, 8 << 20, calibration)
        powder = PowderSum.zeros(masks.good.shape[1])
        passes[common_mode] = (sparsifier, powder)
    n = len(share.frames) * 16
    times = {"read": [], "none": [], "asic": []}
    for _ in range(REPEATS):
        for name, spent in times.items():
            comm.Barrier()
            start = process_time()
            if name == "read":
                read_all(pool, share.frames)
            else:
                sparsifier, powder = passes[name]
                sparsifier.frames(share.frames, powder)
            spent.append((process_time() - start) / n * 1e6)
    table = comm.gather({name: median(spent) for name, spent in times.items()})
    ratios = comm.gather(
        {
            name: median(r / p for r, p in zip(times["read"], times[name], strict=True))
            for name in ("none", "asic")
        }
    )
    if comm.rank == 0:
        for rank, (t, r) in enumerate(zip(table, ratios, strict=True)):
            sys.stdout.write(
                f"rank {rank}: plain read {t['read']:.1f} us a module-frame, pass {t['none']:.1f} "
                f"({100 * r['none']:.0f} % of the read's speed), with common mode "
                f"{t['asic']:.1f} ({100 * r['asic']:.0f} %)\n"
            )
        node = calibration.nbytes
        sys.stdout.write(
            f"constants: {node / 2**20:.0f} MiB a node for {len(facts.cells)} cells, "
            f"{node / len(facts.cells) * 352 / 2**30:.2f} GiB for 352\n"
        )


if __name__ == "__main__":
    main()
