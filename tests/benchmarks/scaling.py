"""Strong and weak scaling of the main job: seconds, CPU seconds and memory over the ranks.

    python tests/benchmarks/scaling.py TARGET RUN RANKS… [-- options of xfelmpi]

Strong: the whole run on every number of ranks. Weak: the first trains of the run, as many times
more as there are more ranks, all of them on the most. Everything is measured REPEATS times
(environment, default 3), in turn. TARGET, a folder, gets scaling.csv (medians), scaling.png and
the outputs of the jobs. Ranks are started with srun inside a Slurm job, else with mpirun; CPU time
is known only of ranks of mpirun on this machine.
"""

import csv
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import matplotlib
from bench import xfelmpi

matplotlib.use("Agg")
from matplotlib import pyplot

STAGES = ("index", "photons", "decide", "write")
NAMES = {"decide": "find hits"}


@dataclass(frozen=True)
class Job:
    """What one job took: seconds, and MiB of the rank with most."""

    kind: str
    ranks: int
    trains: int
    frames: int
    wall: float
    cpu: float
    index: float
    photons: float
    decide: float
    write: float
    memory: float

    @property
    def start_up(self) -> float:
        """Seconds outside of the stages."""
        return self.wall - sum(getattr(self, name) for name in STAGES)


def run_job(kind: str, ranks: int, options: list) -> Job:
    """Run the program once."""
    spent = xfelmpi(*options, ranks=ranks)

    def number(pattern):
        return float(re.search(pattern, spent.said)[1].replace(",", ""))

    return Job(
        kind,
        ranks,
        int(number(r"\nframes +[\d,]+ +in ([\d,]+) trains")),
        int(number(r"\nframes +([\d,]+)")),
        spent.wall,
        float("nan") if "SLURM_JOB_ID" in os.environ else spent.cpu,
        *(number(rf"\ntime .*\b{NAMES.get(name, name)} ([\d.]+)") for name in STAGES),
        number(r"\nmemory +([\d,]+) +MiB"),
    )


def medians(jobs: list[Job]) -> Job:
    """Return the medians of several runs of the same job."""
    first = jobs[0]
    values = {name: median(getattr(j, name) for j in jobs) for name in list(asdict(first))[4:]}
    return Job(first.kind, first.ranks, first.trains, first.frames, **values)


def measure(ranks: list[int], repeats: int, options: list) -> list[Job]:
    """Measure strong and weak scaling in turn; return medians."""
    n_trains = run_job("strong", ranks[-1], options).trains
    rounds = []
    for _ in range(repeats):
        jobs = [run_job("strong", n, options) for n in ranks]
        for n in ranks:
            trains = max(1, n_trains * n // ranks[-1])
            jobs.append(run_job("weak", n, [*options, "--trains", f"0:{trains}"]))
        rounds.append(jobs)
    return [medians(list(same)) for same in zip(*rounds, strict=True)]


def plot(jobs: list[Job], path: Path) -> None:
    """Draw seconds over ranks, by stage; in the strong one with what would be ideal."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for panel, kind in zip(axes, ("strong", "weak"), strict=True):
        of_kind = [job for job in jobs if job.kind == kind]
        ranks = [job.ranks for job in of_kind]
        for name in ("wall", "start_up", *STAGES):
            style = "k-o" if name == "wall" else "-"
            panel.plot(ranks, [getattr(j, name) for j in of_kind], style, label=name)
        first = of_kind[0]
        ideal = [first.wall * (first.ranks / n if kind == "strong" else 1) for n in ranks]
        panel.plot(ranks, ideal, "k:", label="ideal")
        panel.set(xscale="log", yscale="log", xlabel="ranks", title=kind)
        panel.set_xticks(ranks, [str(n) for n in ranks])
        panel.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    target, run, *ranks = sys.argv[1:at]
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    options = [run, "--output", target / "outputs", *sys.argv[at + 1 :]]
    jobs = measure(sorted(map(int, ranks)), int(os.environ.get("REPEATS", 3)), options)
    with open(target / "scaling.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, [*asdict(jobs[0]), "start_up"])
        rows.writeheader()
        rows.writerows(asdict(job) | {"start_up": job.start_up} for job in jobs)
    plot(jobs, target / "scaling.png")


if __name__ == "__main__":
    main()
