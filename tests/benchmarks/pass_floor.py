"""The pass over a corrected run, against reading and inflating the same bytes and nothing else.

    python tests/benchmarks/pass_floor.py FOLDER [TRAINS CELLS [KIND ...]]

KIND is one of

    libdeflate   photons as u1, packed by the simulator
    zlib         the same, packed by zlib at level 1, as HDF5 does
    weak         the same with 30 photons per module-frame, a tenth
    u2, f4       photons, or signals with noise, packed by the simulator
    u2-plain, f4-plain   the same, not packed

or several; all if none is given. FOLDER gets a simulated run of every kind unless it has it.
Prints CPU time in microseconds per module-frame (medians of 7, measured in turn): the floor, the
pass with every frame made dense, and the pass as it is; with the ratios that matter.
"""

import sys
import zlib
from pathlib import Path
from statistics import median

import h5py
from bench import row
from measure import Floor, in_turn, ratio, set_up, simulate_once
from mpi4py import MPI

from xfelmpi._kernels._frames import Inflater
from xfelmpi.core.config.options import Config
from xfelmpi.core.log import start_logging
from xfelmpi.core.paths import Experiment
from xfelmpi.simulate import SimulationOptions

REPEATS = 7
KINDS = {
    "libdeflate": {"dtype": "u1"},
    "zlib": {"dtype": "u1"},
    "u2": {"dtype": "u2"},
    "f4": {"dtype": "f4"},
    "u2-plain": {"dtype": "u2", "compression": "none"},
    "f4-plain": {"dtype": "f4", "compression": "none"},
    "weak": {"dtype": "u1", "background": 30.0},
}


TARGETS = {
    "libdeflate": "≤ 1.2",
    "zlib": "≤ 1.2",
    "u2-plain": "≤ 2",
    "f4-plain": "≤ 2",
    "weak": "≤ 0.4",
}


def pack_again(folder: Path) -> None:
    """Replace the frames' chunks in the files of a run by what zlib makes of them at level 1.

    They lie one after the other, as in the facility's files.
    """

    def data_of(name, item):
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype == "u1":
            names.append(name)

    for path in sorted(folder.glob("*AGIPD*.h5")):
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visititems(data_of)
            for name in names:
                old = file[name].id
                kind = old.get_type(), old.get_space(), old.get_create_plist()
                # the old one stays meanwhile: its place would be filled, chunk by chunk
                new = h5py.h5d.create(file.id, b"packed again", *kind)
                for row, frame in enumerate(file[name]):
                    new.write_direct_chunk((row, 0, 0), zlib.compress(frame.tobytes(), 1))
                del file[name]
                file.move("packed again", name)


def main() -> None:
    comm = MPI.COMM_WORLD
    start_logging(comm.rank)
    folder = Path(sys.argv[1])
    trains, cells = (int(a) for a in sys.argv[2:4]) if len(sys.argv) > 2 else (4, 32)
    sys.stdout.write(
        f"{'':12}{'floor':>8}{'dense':>8}{'pass':>8}{'pass/floor':>12}{'dense/pass':>12}\n"
    )
    for kind in sys.argv[4:] or KINDS:
        run = 60 + list(KINDS).index(kind)
        experiment = Experiment(folder, folder / "scratch", run)
        options = SimulationOptions(
            folder, run=run, trains=trains, cells=tuple(range(cells)), **KINDS[kind]
        )
        if simulate_once(comm, options) and kind in ("zlib", "weak"):
            pack_again(experiment.run_folder("proc"))
        config = Config(run, prefix=folder, output=folder / "scratch", data="proc", vds=False)
        passes = {"dense": set_up(comm, config, Inflater(0)), "pass": set_up(comm, config)}
        actions = {"floor": Floor(passes["pass"]).run}
        actions |= {name: one.run for name, one in passes.items()}
        times = in_turn(comm, actions, len(passes["pass"].frames) * 16, REPEATS)
        floor, dense, ours = (median(spent) for spent in times.values())
        sys.stdout.write(
            f"{kind:12}{floor:8.2f}{dense:8.2f}{ours:8.2f}{ratio(times, 'pass', 'floor'):12.2f}"
            f"{ratio(times, 'dense', 'pass'):12.2f}\n"
        )
        what = f"pass over its floor, {kind}, {trains} trains of {cells} cells"
        row(what, ratio(times, "pass", "floor"), TARGETS.get(kind, ""))


if __name__ == "__main__":
    main()
