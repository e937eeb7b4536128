"""What the benchmarks share: runs to measure on, passes over them, and what no pass can avoid."""

import ctypes
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from mpi4py import MPI

from xfelmpi._kernels._frames import DEFLATE, Inflater
from xfelmpi.calibration.constants import Calibration, load_calibration
from xfelmpi.calibration.pixel_mask import load_masks
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.paths import Experiment
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.distribution import distribute_run
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.simulate import SimulationOptions, simulate

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from compiled import compile_with_libdeflate

BUFFER_BYTES = 1 << 21


def simulate_once(comm: MPI.Comm, options: SimulationOptions) -> bool:
    """Simulate a run unless it is there; returns whether it was made."""
    experiment = Experiment(options.prefix, options.prefix / "scratch", options.run)
    exists = experiment.run_folder("raw" if options.kind == "raw" else "proc").exists()
    comm.Barrier()
    if not exists:
        simulate(options, comm)
    comm.Barrier()
    return not exists


@dataclass(frozen=True)
class Pass:
    """The pass over this rank's frames of a run, as the main job does it."""

    frames: FrameTable
    files: FilePool
    sparsifier: Sparsifier
    powder: PowderSum
    calibration: Calibration | None

    def run(self) -> None:
        self.sparsifier.frames(self.frames, self.powder)
        assert not self.sparsifier.problems, self.sparsifier.problems[:3]


def set_up(comm: MPI.Comm, config: Config, inflater: Inflater | None = None) -> Pass:
    """Share out a run and load what its pass needs."""
    experiment = Experiment(config.prefix, config.output, config.run)
    local_run = distribute_run(comm, experiment, config.part(RunSettings))
    facts = local_run.facts
    calibration = None
    if config.data == "raw":
        calibration = load_calibration(
            comm,
            experiment,
            config,
            facts.cells,
            facts.modules_in_run,
            detector=facts.detector_type,
        )
    detector = facts.detector_type
    masks = load_masks(comm, experiment, config, facts.cells, calibration, detector=detector)
    files = FilePool(facts.files)
    adu = config.adu_per_photon or 1.0
    sparsifier = Sparsifier(files, masks, adu, 0.7, 8 << 20, calibration, inflater)
    powder = PowderSum.zeros(masks.good.shape[1], detector)
    return Pass(local_run.frames, files, sparsifier, powder, calibration)


class Floor:
    """Reads the bytes of all frames into a warm buffer, and inflates them, nothing else."""

    def __init__(self, of: Pass):
        with tempfile.TemporaryDirectory() as folder:
            library = compile_with_libdeflate(
                "benchmarks/floor.c", Path(folder) / "floor.so", "-O3", "-shared", "-fPIC"
            )
            self._spend = ctypes.CDLL(str(library)).spend_floor
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._spend.argtypes = [ctypes.c_int, number, *[pointer] * 4, ctypes.c_size_t]
        self._spend.restype = number
        self._of = of
        self._buffers = np.zeros((2, BUFFER_BYTES), np.uint8)

    def run(self) -> None:
        table, files = self._of.frames, self._of.files
        for module in range(16):
            for file in np.unique(table.file[:, module]):
                rows = table.row[table.file[:, module] == file, module]
                source = files.get(int(file)).frames(rows)
                packed, dense = (buffer.ctypes.data for buffer in self._buffers)
                frame_bytes = 65536 * source.dtype.itemsize
                inflates = bool(source.filters[0] & DEFLATE)
                assert source.chunk_frames == 1
                failed = self._spend(
                    source.fd,
                    len(rows),
                    source.offset.ctypes.data,
                    source.size.ctypes.data,
                    packed,
                    dense if inflates else None,
                    frame_bytes,
                )
                assert failed == 0, f"{failed} of {len(rows)} chunks failed"


def in_turn(
    comm: MPI.Comm, actions: dict[str, Callable[[], None]], n: int, repeats: int
) -> dict[str, list[float]]:
    """Return the CPU time of every repetition in microseconds per module-frame, of n."""
    times = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            comm.Barrier()
            start = process_time()
            action()
            times[name].append((process_time() - start) / n * 1e6)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Return the median ratio of what was measured next to each other."""
    return median(a / b for a, b in zip(times[above], times[below], strict=True))
