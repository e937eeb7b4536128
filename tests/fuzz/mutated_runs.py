"""Runs whose files are mutated at random, read by the program's own index reader and kernels.

    python tests/fuzz/mutated_runs.py --runs 2000 --seed 1 [--folder DIR]

Every run is a tiny valid one, of counts, of signals with masks, or raw, in which bytes of some
files are changed, blocks exchanged, zeroed or cut off. A child process reads it: index, machine
data, masks and all frames. It must end with a result or with an `XfelmpiError`, or if HDF5 crashes,
with a traceback that names the file; and frames of files that were not touched must be right. A
child that dies or hangs is noted, with the number of the run, and replaced. The same numbers make
the same runs again: ``--only N``.

The last line tells how many runs ended how; the status is 1 if any ended as it must not.
"""

import argparse
import faulthandler
import json
import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

RUNS_OF_A_CHILD = 100
"""After these it is replaced: nobody frees the memory that ranks share before a job ends."""

HANGS = 20.0 * float(os.environ.get("XFELMPI_TEST_PATIENCE", "1"))
"""Seconds after which a run counts as hanging."""

ADDRESS_SPACE = 3 << 30
"""Bytes that a child may have, most of which are libraries."""

KINDS = {
    "counts": {"dtype": "u1"},
    "signals": {"dtype": "f4", "masked_pixels": 0.01},
    "raw": {"kind": "raw"},
}
SMALL = {
    **{"trains": 4, "cells": (0, 2), "sequence_length": 2, "hit_rate": 0.3, "background": 5.0},
    **{"hit_photons": (100.0, 1000.0), "absent_modules": tuple(range(4, 16)), "seed": 5},
}
OPTIONS = {
    "counts": {"data": "proc"},
    "signals": {"data": "proc", "mask": ("run", "run-static"), "mask_trains": 2},
    "raw": {"data": "raw", "adu_per_photon": 60.0, "common_mode": "asic"},
}
BAD = ("died", "hung", "exception", "wrong")


def make_runs(folder: Path) -> None:
    """Simulate the valid runs."""
    from mockrun import tiny_run

    for kind, options in KINDS.items():
        tiny_run(folder / kind, **{**SMALL, **options})


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes of a file, damaged."""
    data = np.frombuffer(raw, np.uint8).copy()
    kind = rng.choice(
        ["bytes", "bits", "number", "zeros", "swap", "cut"], p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]
    )
    # most of a small HDF5 file is empty
    used = np.flatnonzero(data)
    n = int(rng.integers(1, 65))
    at = rng.choice(used, n) if rng.random() < 0.8 else rng.integers(0, len(data), n)
    if kind == "bytes":
        data[at] = rng.integers(0, 256, n)
    elif kind == "bits":
        data[at] ^= (1 << rng.integers(0, 8, n)).astype(np.uint8)
    elif kind == "number":
        # what numbers of 2, 4 or 8 bytes go wrong with
        value = int(rng.choice(np.array([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1], np.uint64)))
        width = int(rng.choice([2, 4, 8]))
        bytes_ = (value % (1 << 8 * width)).to_bytes(width, "little")
        start = min(int(at[0]), len(data) - width)
        data[start : start + width] = np.frombuffer(bytes_, np.uint8)
    elif kind == "zeros":
        data[at[0] : at[0] + int(rng.integers(1, 4096))] = 0
    elif kind == "swap":
        size = int(rng.integers(1, 2048))
        a, b = (min(int(i), len(data) - size) for i in rng.choice(used, 2))
        data[a : a + size], data[b : b + size] = (
            data[b : b + size].copy(),
            data[a : a + size].copy(),
        )
    else:
        data = data[: int(rng.integers(0, len(data)))]
    return data.tobytes()


def mutated_run(good: Path, folder: Path, seed: int) -> list[str]:
    """Make the mutated run of a seed out of a good one; returns the names of its damaged files."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder, copy_function=os.link)
    files = sorted(p for part in ("raw", "proc") for p in (folder / part).rglob("*.h5"))
    modules = [p for p in files if "AGIPD" in p.name]
    # of at most one module: most modules know which trains are of this run
    module = rng.choice(4)
    candidates = [p for p in modules if f"AGIPD{module:02}" in p.name]
    candidates = candidates if rng.random() < 0.9 else [p for p in files if p not in modules]
    chosen = rng.permutation(len(candidates))[: int(rng.integers(1, 3))]
    for path in (candidates[i] for i in chosen):
        raw = path.read_bytes()
        path.unlink()
        path.write_bytes(mutate(raw, rng))
    return [candidates[i].name for i in chosen]


def read_run(prefix: Path, output: Path, kind: str):
    """Read a run as the main job does, up to the photons of every frame.

    Returns
    -------
    frames : dict of (file, train, cell) to (pixel, count)
    n_problems : int
    """
    from mpi4py import MPI

    from xfelmpi.core.config.options import Config
    from xfelmpi.core.config.parts import RunSettings
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.core.paths import Experiment
    from xfelmpi.core.problems import summarised
    from xfelmpi.detectors.agipd import AGIPD_1M
    from xfelmpi.reduction.powder import PowderSum
    from xfelmpi.run.distribution import distribute_run
    from xfelmpi.run.frames.file_pool import FilePool
    from xfelmpi.workflows.inputs import load_inputs, make_sparsifier

    config = Config(50, prefix, output, **OPTIONS[kind])
    experiment = Experiment(prefix, output, 50)
    local_run = distribute_run(MPI.COMM_SELF, experiment, config.part(RunSettings))
    files = FilePool(local_run.facts.files)
    try:
        inputs = load_inputs(RunJob.of(MPI.COMM_SELF, config), local_run, files)
        sparsifier = make_sparsifier(config, inputs, files)
        powder = PowderSum.zeros(inputs.masks.good.shape[1], AGIPD_1M)
        block = sparsifier.frames(local_run.frames, powder)
    finally:
        files.close()
    table, found = local_run.frames, {}
    for row, module in np.argwhere(table.file >= 0):
        if block.sums.modules[row] >> module & 1:
            entries = slice(block.start[row, module], block.stop[row, module])
            lists = (block.pixel[entries].tolist(), block.count[entries].tolist())
            name = files.name(table.file[row, module])
            found[name, int(table.train_id[row]), int(table.cell_id[row])] = lists
    problems = summarised([*local_run.problems, *inputs.problems, *sparsifier.problems])
    return found, len(problems)


def outcome(good: Path, folder: Path, kind: str, seed: int, right: tuple) -> str:
    """Return how a mutated run ends, with what is wrong if something is."""
    from xfelmpi.core.errors import XfelmpiError

    damaged = mutated_run(good, folder / "run", seed)
    # says where it hangs
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        found, n_problems = read_run(folder / "run", folder / "out", kind)
    except XfelmpiError as error:
        return f"refused: {error}"
    except Exception:
        return f"exception: {damaged}: {traceback.format_exc()}"
    finally:
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(folder / "out", ignore_errors=True)
    if "run-static" in OPTIONS[kind].get("mask", ()):
        # masks of one file say what is bad in all files of the module
        damaged_modules = {name.rpartition("-")[0] for name in damaged}
        damaged = [p[0] for p in right[0] if p[0].rpartition("-")[0] in damaged_modules]
    for place, lists in right[0].items():
        if place[0] not in damaged and found.get(place) != lists:
            return f"wrong: {place} after damage of {damaged}"
    # that modules are absent is one, too
    return f"problems: {n_problems}" if n_problems > right[1] else "nothing noticed"


def work(runs: Path) -> None:
    """Read the mutated runs whose numbers come in, and say how each ends."""
    from parsedgeometry import keep_parsed

    faulthandler.enable()
    # the geometry is never damaged
    keep_parsed()
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which maps terabytes
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    right = {}
    with tempfile.TemporaryDirectory(dir=runs) as name:
        folder = Path(name)
        for line in sys.stdin:
            seed = int(line)
            kind = list(KINDS)[seed % len(KINDS)]
            if kind not in right:
                right[kind] = read_run(runs / kind, folder / "out", kind)
                shutil.rmtree(folder / "out")
            result = outcome(runs / kind, folder, kind, seed, right[kind])
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


class Child:
    """A process that reads mutated runs, replaced when it dies or hangs."""

    def __init__(self, runs: Path):
        self._runs = runs
        self._errors = runs / "stderr"
        self._n_read = 0
        self._process = None

    def _start(self) -> None:
        self._n_read = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", str(self._runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(self._errors, "wb"),  # noqa: SIM115, the child's
        )

    def read(self, seed: int) -> str:
        """Return how the run of a number ends."""
        if self._n_read >= RUNS_OF_A_CHILD:
            self.stop()
        first = self._process is None
        if first:
            self._start()
        self._n_read += 1
        self._process.stdin.write(f"{seed}\n".encode())
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            # the first one also imports everything
            if not selector.select(HANGS * (4 if first else 2)):
                self.stop()
                return "hung: and could not say where"
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._process = None
        words = self._errors.read_text(errors="replace")[:3000]
        if words.startswith("Timeout"):
            return f"hung: {words}"
        # the least that a user needs
        named = "HDF5_fails_on_this_file" in words
        return f"HDF5 crashed, file named: {words}" if named else f"died: {status}: {words}"

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> int:
    """Read mutated runs and tell how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="number of the first run")
    parser.add_argument("--only", type=int, nargs="+", help="only these runs, told in full")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        work(given.child)
        return 0
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        make_runs(Path(name))
        child = Child(Path(name))
        for seed in given.only or range(given.seed, given.seed + given.runs):
            result = child.read(seed)
            kind = result.partition(":")[0]
            counts[kind] += 1
            if kind in BAD or given.only:
                sys.stdout.write(f"run {seed}: {result}\n")
                sys.stdout.flush()
        child.stop()
    told = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
    sys.stdout.write(f"{counts.total()} mutated runs: {told}\n")
    return 1 if any(counts[kind] for kind in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
