"""The main job on a run of 10⁶ frames: seconds of its stages, hits found again, `verify --all`.

    python tests/benchmarks/long_run.py FOLDER [REPEATS [TIMES]]

FOLDER gets a run (900) of 2,835 trains x 352 cells unless it has one (15 GB): 63 simulated trains,
0.37 % of whose frames have a particle, and their files TIMES (45) times over with train IDs that go
on. Shows rows of the table: medians (of 3).
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import h5py
from bench import Spent, row, simulated, xfelmpi
from rethreshold import stages

RUN = 900
TRAINS = 63
CELLS = 352
TIMES = 45


def lengthen(folder: Path, run: int, n_trains: int, times: int) -> None:
    """Add to a simulated run of one file a source its files again, with train IDs that go on.

    Parameters
    ----------
    folder : Path
        The experiment.
    run : int
    n_trains : int
        In each file.
    times : int
        Files of each source at the end.
    """
    for path in sorted(folder.glob(f"*/r{run:04}/*-S00000.h5")):
        for n in range(1, times):
            copy = path.with_name(path.name.replace("S00000", f"S{n:05}"))
            shutil.copyfile(path, copy)
            with h5py.File(copy, "r+") as file:
                file["METADATA/sequenceNumber"][...] = n
                for ids in _train_ids(file):
                    ids[...] = ids[...] + n * n_trains


def _train_ids(file: h5py.File) -> list[h5py.Dataset]:
    """Return all datasets of train IDs."""
    found = []

    def collect(name: str, item) -> None:
        if name.endswith("/trainId") and isinstance(item, h5py.Dataset):
            found.append(item)

    file.visititems(collect)
    return found


def long_run(folder: Path, times: int) -> Path:
    """Return an experiment folder that has the run; it is made unless it is there."""
    if not (folder / "complete").exists():
        simulated(folder, RUN, TRAINS, "--hit-rate", 0.0037)
        lengthen(folder, RUN, TRAINS, times)
        (folder / "complete").touch()
    return folder


def repeated(repeats: int, job: Callable[[], Spent]) -> list[Spent]:
    """Run a job some times."""
    return [job() for _ in range(repeats)]


def show(what: str, jobs: list[Spent], n_frames: int) -> None:
    """Show what jobs took, all and by stage."""
    row(f"{what}: wall", median(job.wall for job in jobs), "", "s")
    row(f"{what}: CPU a frame", median(job.cpu for job in jobs) / n_frames * 1e6, "", "µs")
    row(f"{what}: memory of a rank", max(job.memory for job in jobs), "≤ 400", "MB")
    times = [stages(job.said) for job in jobs]
    for stage in times[0]:
        row(f"{what}: {stage}", median(t[stage] for t in times), "", "s")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    repeats, times = map(int, [*sys.argv[2:], *("3", str(TIMES))[len(sys.argv) - 2 :]])
    long_run(folder, times)
    n = TRAINS * CELLS * times

    def job(ranks: int, *options) -> list[Spent]:
        return repeated(repeats, lambda: xfelmpi(RUN, "--prefix", folder, *options, ranks=ranks))

    shutil.rmtree(folder / "scratch" / "index", ignore_errors=True)
    first = xfelmpi(RUN, "--prefix", folder, ranks=2)
    row("index, first time", stages(first.said)["index"], "≤ 1.5", "s")
    two, one = job(2), job(1)
    gain = median(o.wall / t.wall for o, t in zip(one, two, strict=True))
    show("2 ranks", two, n)
    show("1 rank", one, n)
    row("2 ranks against 1", gain, "≥ 1.95")
    show("--from-events --sigma 4.5", job(2, "--from-events", "--sigma", 4.5), n)
    verify = ("verify", RUN, "--prefix", folder, "--all")
    check = repeated(repeats, lambda: xfelmpi(*verify, ranks=2))
    over = median(c.wall / t.wall for c, t in zip(check, two, strict=True))
    row("verify --all over the job", over, "≤ 1.3")


if __name__ == "__main__":
    main()
