"""What the main job costs on many ranks: a model, from measured constants and stated assumptions.

    python tests/benchmarks/scaling_model.py                    the tables of docs/scaling.md
    python tests/benchmarks/scaling_model.py --rows             the efficiencies with a target
    python tests/benchmarks/scaling_model.py --check COUNTS FRAMES TRAINS HITS

COUNTS is what `communication.py` printed for a run of so many frames, trains and hits, all complete
and used, on 2 or more ranks with as many trains each: every count of it is compared with the
formulas here, and the status is 1 if one differs.
"""

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from math import ceil, log2

MODULES = 16
BLOCK = 64
"""Hits of a block, `HitReader.BLOCK_FRAMES`."""

POWDER_BYTES = MODULES * 65536 * (4 + 4)
FRAME_BYTES = 43
"""Of the frame table and the machine data of a frame, scattered."""

FILES_BYTES = 2 * MODULES
"""Of the files of all modules, for each rank and each sequence that it has frames of."""

HIT_COLUMNS, EVENT_COLUMNS = 23, 27

# Measured, CPU seconds; docs/scaling.md says with which command.
START_CPU = 0.21
START_FILE_CALLS = 2360
OPEN_FILE_CALLS = 3
"""Of a rank, for a file that it reads."""

INDEX_BASE, INDEX_FILE, INDEX_FILE_AGAIN, INDEX_FRAME = 0.1, 1.4e-3, 0.03e-3, 0.1e-6
LEAST_SHARE = 8
"""Files that a rank reads for the index at least."""

BEAMLINE_FILE, BEAMLINE_FRAME = 9e-3, 0.2e-6
"""Of one file of each sequence; rank 0 reads them while others read those of modules."""

CONSTANTS, CONSTANTS_BYTES = 4.5e-3, 1.58e6
"""Of one cell of one module, on every node."""
DECIDE_FRAME = 0.1e-6
HIT = 0.7e-3
REDUCE = 0.01
POWDER_FILE = 0.08
CXI_BASE, CXI_HIT = 0.02, 11e-6
REST_OF_WRITE, PAGE = 0.2, 0.8
CXI_BYTES, EMC_BYTES, EVENT_BYTES = 53e3, 59e3, 83


@dataclass(frozen=True)
class Data:
    """A kind of data: CPU seconds of the kernel and stored bytes, a module-frame."""

    name: str
    kernel: float
    stored: float
    constants: int = 0
    """Cells of all modules that have constants."""


U1 = Data("u1, packed", 4.4e-6, 943)
F4 = Data("f4, not packed", 22.6e-6, 262144)
RAW = Data("raw", 24.0e-6, 262144, 352 * MODULES)


@dataclass(frozen=True)
class Run:
    """A run of whole trains of 352 frames; `files` in all, 5 % hits."""

    frames: int = 1_000_000
    files: int = 200
    hits: int = 50_000
    indexed_before: bool = False

    def most(self, n: int, ranks: int) -> float:
        """Return how many of n things the rank with most trains has."""
        trains = max(1, round(self.frames / 352))
        return n * ceil(trains / ranks) / trains


@dataclass(frozen=True)
class Machine:
    """Assumptions that cannot be measured on one node."""

    disk: float
    """Bytes per second of the file system, over all nodes."""
    ranks_per_node: int = 64
    latency: float = 2e-6
    network: float = 10e9
    """Bytes per second of a node, of messages and of files."""
    memory: float = 50e9
    """Bytes per second that all ranks of a node can copy together."""
    metadata: float = 20e3
    """Calls per second that the file system's servers answer."""
    file_call: float = 0.2e-3
    """Seconds until a call that opens, looks up or writes a file returns, with no other there."""
    collective_write: float = 1e-3
    """Seconds of an empty collective write, besides 2 µs per rank."""
    launch: float = 0.5
    """Seconds of the launcher and MPI_Init, besides 1 ms per rank."""

    def nodes(self, ranks: int) -> int:
        return ceil(ranks / self.ranks_per_node)

    def files_bandwidth(self, ranks: int) -> float:
        """Return bytes per second that all nodes together get from the file system."""
        return min(self.disk, self.nodes(ranks) * self.network)

    def small(self, ranks: int) -> float:
        """Return seconds of a collective call with a few bytes."""
        return self.latency * max(1, ceil(log2(ranks)))

    def gather(self, ranks: int, n_bytes: float) -> float:
        """Return seconds until all ranks have what the others hold, so many bytes together."""
        on_node = min(ranks, self.ranks_per_node)
        between = n_bytes / self.network if self.nodes(ranks) > 1 else 0
        return self.small(ranks) + between + on_node * n_bytes / self.memory

    def reduce(self, ranks: int, n_bytes: float) -> float:
        """Return seconds of a large sum onto rank 0: read twice and written in every rank."""
        on_node = min(ranks, self.ranks_per_node)
        between = 2 * n_bytes / self.network if self.nodes(ranks) > 1 else 0
        return self.small(ranks) + between + 3 * on_node * n_bytes / self.memory

    def metadata_calls(self, per_client: int, clients: int) -> float:
        return max(per_client * self.file_call, per_client * clients / self.metadata)

    def writes(self, ranks: int, n: int) -> float:
        return n * (self.collective_write + 2e-6 * ranks)


def blocks(run: Run, ranks: int) -> int:
    """Return how often frames are written: as often as the rank with most hits has to."""
    return ceil(run.most(run.hits, ranks) / BLOCK)


def seconds(run: Run, data: Data, machine: Machine, ranks: int) -> dict[str, float]:
    """Return the seconds of every stage."""
    m, p = machine, ranks
    module_frames = run.frames * MODULES
    share = run.most(1, p)
    if run.indexed_before:
        index = run.files * (INDEX_FILE_AGAIN + m.file_call)
    else:
        readers = min(p, ceil(run.files / LEAST_SHARE))
        beamline = ceil(run.files / MODULES) * BEAMLINE_FILE
        modules = run.files * (INDEX_FILE + m.file_call)
        index = max(beamline, (modules + beamline) / readers)
        index += run.frames * (INDEX_FRAME + BEAMLINE_FRAME)
    reduced = REDUCE * (p > 1) + m.reduce(p, POWDER_BYTES)
    n = blocks(run, p)
    loaded = data.constants * CONSTANTS / min(p, m.ranks_per_node)
    loaded += data.constants * CONSTANTS_BYTES * m.nodes(p) / m.files_bandwidth(p)
    return {
        "start": m.launch
        + 1e-3 * p
        + START_CPU
        # the other ranks of a node find the files in its cache
        + m.metadata_calls(START_FILE_CALLS, m.nodes(p)),
        "index": INDEX_BASE
        + index
        + run.frames * FRAME_BYTES / m.network * (m.nodes(p) > 1)
        + 9 * (p - 1) * m.latency,
        **({"constants": loaded} if data.constants else {}),
        "read": module_frames * data.stored / m.files_bandwidth(p)
        + m.metadata_calls(OPEN_FILE_CALLS * MODULES, p),
        "kernel": module_frames * share * data.kernel,
        "powder": 3 * reduced,
        "decide": run.frames * share * DECIDE_FRAME
        + m.gather(p, 4 * run.frames + 8 * min(run.frames - run.hits, run.hits * p))
        + m.gather(p, 8 * run.frames),
        "hits": run.hits * share * HIT + 4 * n * m.file_call + 4 * n * m.small(p),
        "columns": m.writes(p, HIT_COLUMNS + EVENT_COLUMNS),
        "bytes": (run.hits * (CXI_BYTES + EMC_BYTES) + run.frames * EVENT_BYTES)
        / m.files_bandwidth(p),
        "rank 0": POWDER_FILE + CXI_BASE + run.hits * CXI_HIT + REST_OF_WRITE + PAGE,
    }


def efficiency(run: Run, data: Data, machine: Machine, ranks: int) -> float:
    """Return the part of the time that is work, evenly spread, and bytes at full bandwidth."""
    work = run.frames * MODULES * data.kernel + run.hits * HIT
    moved = run.frames * (MODULES * data.stored + EVENT_BYTES) + run.hits * (CXI_BYTES + EMC_BYTES)
    ideal = work / ranks + moved / machine.files_bandwidth(ranks)
    return ideal / sum(seconds(run, data, machine, ranks).values())


def below(run: Run, data: Data, machine: Machine, limit: float = 0.8) -> str:
    """Return the smallest number of ranks, on one node or full ones, that is less efficient."""
    full = machine.ranks_per_node
    for ranks in (*range(1, full), *range(full, 64 * full + 1, full)):
        if efficiency(run, data, machine, ranks) < limit:
            return str(ranks)
    return f"more than {64 * full}"


def counts(
    run: Run, trains: int, ranks: int, hits_of_rank: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return calls and, of large ones, bytes of every part, as `communication.py` counts them."""
    p, n = ranks, ceil(hits_of_rank / BLOCK)
    blanks = 8 * (run.frames - run.hits)
    # as many misses as hits: the lowest keys of every rank, evenly spread
    keys = min(blanks, 8 * run.hits * p)
    # of files with one sequence
    scattered = round(run.frames * FRAME_BYTES * (1 - 1 / p)) + FILES_BYTES * (p - 1)
    return {
        ("index: share", "bcast"): (40, 0),
        ("index: share", "send"): (9 * (p - 1), scattered),
        ("photons: powder", "reduce"): (2, POWDER_BYTES),
        ("write: powder sums", "reduce"): (4, 2 * POWDER_BYTES),
        ("decide", "allgatherv"): (6, keys + 4 * run.frames + 32 * trains),
        ("write: background", "allgatherv"): (1, blanks),
        ("write: frames", "allgather"): (1 + 2 * n, 0),
        ("write: frames", "allgatherv"): (1 + n, 24 * run.hits + 5 * p),
        ("write: frames", "allreduce"): (1 + n, 0),
        ("write: frames", "file write_at"): (4 * n, 0),
        ("write: CXI columns", "file write_at_all"): (HIT_COLUMNS, 0),
        ("write: EMC head", "file write_at"): (3, 0),
        ("write: events file", "file write_at_all"): (EVENT_COLUMNS, 0),
        ("write: CXI columns", "file set_view"): (2 * HIT_COLUMNS, 0),
        ("write: events file", "file set_view"): (2 * EVENT_COLUMNS, 0),
    }


def check(path: str, frames: int, trains: int, hits: int) -> int:
    """Compare formulas and counts; return how many differ."""
    found = defaultdict(dict)
    with open(path) as file:
        for row in csv.DictReader(file):
            found[int(row["ranks"])][row["stage"], row["call"]] = (
                int(row["calls"]),
                int(row["bytes"]),
            )
    wrong = 0
    for ranks, table in found.items():
        # how the hits are spread is not known here, but the EMC file has four pieces a block
        n = table["write: frames", "file write_at"][0] // 4
        formulas = counts(Run(frames, 0, hits), trains, ranks, n * BLOCK)
        for key, (calls, n_bytes) in formulas.items():
            counted = table.get(key, (0, 0))
            if counted[0] != calls or (n_bytes and counted[1] != n_bytes):
                wrong += 1
                print(f"{ranks} ranks, {key}: counted {counted}, formula {(calls, n_bytes)}")
        print(f"{ranks} ranks: {len(formulas)} compared")
    return wrong


def table(data: Data, run: Run) -> None:
    """Print seconds by stage for 64, 256 and 1024 ranks and three file systems."""
    names = list(seconds(run, data, Machine(20e9), 64))
    print(f"\n{data.name}\n\n| ranks, GB/s | {' | '.join(names)} | all | efficiency |")
    print("|---" * (len(names) + 3) + "|")
    for ranks in (64, 256, 1024):
        for disk in (20e9, 100e9, 500e9):
            machine = Machine(disk)
            spent = seconds(run, data, machine, ranks)
            most = max(spent.values())
            cells = [f"**{s:.2f}**" if s == most else f"{s:.2f}" for s in spent.values()]
            cells += [
                f"{sum(spent.values()):.1f}",
                f"{100 * efficiency(run, data, machine, ranks):.0f} %",
            ]
            print(f"| {ranks}, {disk / 1e9:.0f} | {' | '.join(cells)} |")
    limits = (below(run, data, Machine(disk)) for disk in (20e9, 100e9, 500e9))
    print(f"\nbelow 80 % from {', '.join(limits)} ranks on (20, 100, 500 GB/s)")


def what_if() -> None:
    """Print what a change would bring, u1 on 1024 ranks and 100 GB/s."""
    run, machine = Run(), Machine(100e9)
    cases = {
        "as it is": (run, machine),
        "indexed before": (replace(run, indexed_before=True), machine),
        "and software on the nodes' own disks": (
            replace(run, indexed_before=True),
            replace(machine, metadata=1e9, file_call=1e-6),
        ),
        "20 times the calls, for every rank by itself": (
            run,
            replace(machine, metadata=machine.metadata / 20),
        ),
        "50 ms per collective write": (run, replace(machine, collective_write=0.05)),
    }
    print("\n| u1, 1024 ranks, 100 GB/s | all | efficiency |\n|---|---|---|")
    for name, (r, m) in cases.items():
        total = sum(seconds(r, U1, m, 1024).values())
        print(f"| {name} | {total:.1f} | {100 * efficiency(r, U1, m, 1024):.0f} % |")


def rows() -> None:
    """Show rows of the table of targets: u1, a file system of 100 GB/s."""
    from bench import row

    for ranks, target in ((64, "≥ 75"), (256, "≥ 45")):
        percent = 100 * efficiency(Run(), U1, Machine(100e9), ranks)
        row(f"efficiency, 10⁶ frames u1 on {ranks} ranks (model)", percent, target, "%")


def main() -> None:
    if sys.argv[1:2] == ["--rows"]:
        rows()
        return
    if sys.argv[1:2] == ["--check"]:
        sys.exit(check(sys.argv[2], *map(int, sys.argv[3:6])) > 0)
    for data in (U1, F4, RAW):
        table(data, Run())
    what_if()


if __name__ == "__main__":
    main()
