"""Where the time of a module-frame goes, as a picture: user time by function, the kernel's copies.

    python tests/benchmarks/microsecond.py FOLDER PICTURE.svg

FOLDER gets simulated runs of every kind unless it has them. Linux's `perf` samples passes over
each; the microseconds are those of the pass by the CPU clock, distributed by the samples. Prints
them too. What the compiler put into the loop over frames counts as noting photons: for packed
runs, inflating as well.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import matplotlib

matplotlib.use("Agg")
from bench import PYTHON
from matplotlib import pyplot
from measure import set_up, simulate_once
from mpi4py import MPI

from xfelmpi.core.config.options import Config
from xfelmpi.core.log import start_logging
from xfelmpi.simulate import SimulationOptions

SECONDS = 4.0
RUN = 100
WAIT = "--passes"


@dataclass(frozen=True)
class Kind:
    """A kind of run, and what the pass over it is told."""

    label: str
    run: int
    options: dict
    common_mode: str = "none"

    @property
    def data(self) -> str:
        return self.options.get("kind", "proc")


RAW = {"kind": "raw", "common_mode": 8.0}
KINDS = (
    Kind("u1, packed", RUN, {"dtype": "u1"}),
    Kind("u2, packed", RUN + 1, {"dtype": "u2"}),
    Kind("u2, not packed", RUN + 2, {"dtype": "u2", "compression": "none"}),
    Kind("f4, not packed", RUN + 3, {"dtype": "f4", "compression": "none"}),
    Kind("raw", RUN + 4, RAW),
    Kind("raw, common mode", RUN + 4, RAW, "asic"),
)

GUESSING = ("middle", "mean_", "guess", "nearest", "is_tied", "largest_below")
PARTS = (
    ("read: the operating system", ("[k]",)),
    ("high stage: offset, gain", ("high_stage",)),
    ("median of ASICs", ("median", "_kth", "kth_", "count_up_to", "between", *GUESSING)),
    ("find photons", ("find_", "mark_", "list_bits")),
    ("note photons: list, sums, powder; packed: inflate", ("_sparse.", "_raw.")),
    ("Python: blocks, files, chunk index", ("",)),
)
"""Parts with what stands in the names of functions; the first that fits counts."""


def main() -> None:
    if sys.argv[1] == WAIT:
        repeat_passes(Path(sys.argv[2]), KINDS[int(sys.argv[3])])
        return
    folder, picture = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    table = [measure(folder, i) for i in range(len(KINDS))]
    for kind, spent in zip(KINDS, table, strict=True):
        parts = ", ".join(f"{name} {spent[name]:.1f}" for name, _ in PARTS if spent[name] >= 0.05)
        sys.stdout.write(f"{kind.label}: {sum(spent.values()):.1f} us ({parts})\n")
    draw(table, picture)


def set_up_pass(folder: Path, kind: Kind):
    """Return the pass over a run of this kind, which is simulated unless it is there."""
    start_logging(0)
    cells = tuple(range(32))
    options = SimulationOptions(folder, run=kind.run, trains=4, cells=cells, **kind.options)
    simulate_once(MPI.COMM_WORLD, options)
    told = {"adu_per_photon": 60.0, "common_mode": kind.common_mode} if kind.data == "raw" else {}
    config = Config(
        kind.run, prefix=folder, output=folder / "scratch", data=kind.data, vds=False, **told
    )
    return set_up(MPI.COMM_WORLD, config)


def repeat_passes(folder: Path, kind: Kind) -> None:
    """Do passes between two lines of output, so that `perf` sees nothing but these."""
    one = set_up_pass(folder, kind)
    one.run()
    control, answer = (int(os.environ[name]) for name in ("PERF_CONTROL", "PERF_ANSWER"))
    os.write(control, b"enable\n")
    os.read(answer, 8)
    n, start = 0, process_time()
    while process_time() - start < SECONDS:
        one.run()
        n += 1
    spent = process_time() - start
    os.write(control, b"disable\n")
    os.read(answer, 8)
    sys.stdout.write(f"microseconds {spent / n / (len(one.frames) * 16) * 1e6}\n")


def measure(folder: Path, number: int) -> Counter:
    """Return the microseconds of a module-frame by part."""
    data = folder / "perf.data"
    control, answer = os.pipe(), os.pipe()
    given = (*control, *answer)
    command = ["perf", "record", "-q", "-F", "2000", "--delay=-1", "-o", data]
    command += [f"--control=fd:{control[0]},{answer[1]}"]
    command += [PYTHON, __file__, WAIT, folder, str(number)]
    env = {**os.environ, "PERF_CONTROL": str(control[1]), "PERF_ANSWER": str(answer[0])}
    said = subprocess.run(
        command, env=env, pass_fds=given, check=True, capture_output=True, text=True
    ).stdout
    for end in given:
        os.close(end)
    total = float(said.split("microseconds ")[1])
    report = ["perf", "report", "-i", data, "--stdio", "-q", "--sort=symbol,dso", "-F"]
    report += ["overhead,symbol,dso", "--no-children"]
    lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout.splitlines()
    data.unlink()
    spent = Counter()
    for line in lines:
        share, _, function = line.strip().partition("%")
        if function:
            part = next(name for name, known in PARTS if any(word in function for word in known))
            spent[part] += float(share) / 100 * total
    return spent


def draw(table: list[Counter], picture: Path) -> None:
    """Draw a bar for every kind, stacked by part."""
    # texts as texts, and the same picture from the same numbers
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xfelmpi"})
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    left = [0.0] * len(KINDS)
    colours = pyplot.get_cmap("tab10").colors
    for (name, _), colour in zip(PARTS, colours, strict=False):
        widths = [spent[name] for spent in table]
        axes.barh([k.label for k in KINDS], widths, left=left, label=name, color=colour)
        for i, width in enumerate(widths):
            if width > 0.03 * max(sum(spent.values()) for spent in table):
                middle = left[i] + width / 2
                axes.text(middle, i, f"{width:.1f}", ha="center", va="center", fontsize=8)
            left[i] += width
    for i, end in enumerate(left):
        axes.text(end, i, f" {end:.1f}", va="center", weight="bold")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("CPU µs of a module-frame (512 × 128 pixels, 300 photons)")
    axes.margins(x=0.08)
    axes.legend(frameon=False, fontsize=8, loc="best")
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
