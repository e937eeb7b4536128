"""Runs to Slurm as array jobs: one array for all runs that get the same number of nodes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xfelmpi.core.errors import OutputError
from xfelmpi.core.log import plural, size_text
from xfelmpi.core.paths import Experiment
from xfelmpi.run.arrival import list_folder, stamp_files
from xfelmpi.workflows.watch.nodes import nodes_for
from xfelmpi.workflows.watch.queues import ask_slurm, find_script, job_environment
from xfelmpi.workflows.watch.rules import last_value

_MOST_IN_ARRAY = 1000
"""Tasks of an array; sites limit them (MaxArraySize is 1001 by default)."""


@dataclass(frozen=True)
class Submitted:
    """A run, and what became of it.

    Parameters
    ----------
    run : int
    kind : str
        ``proc`` or ``raw``, empty if it is not there.
    n_bytes, nodes : int
    job : str
        Number of the job, empty if it was not submitted.
    why : str
        Why not.
    """

    run: int
    kind: str = ""
    n_bytes: int = 0
    nodes: int = 0
    job: str = ""
    why: str = ""


def submit_runs(
    prefix: Path,
    output: Path,
    runs: Iterable[int],
    *,
    slurm: tuple[str, ...],
    nodes: int,
    words: list[str],
    environment: dict[str, str],
) -> list[Submitted]:
    """Submit runs, and return what became of each.

    Parameters
    ----------
    prefix, output : Path
    runs : iterable of int
    slurm : tuple of str
        Options for ``sbatch``.
    nodes : int
        Of each job; 0: by the size of the run.
    words : list of str
        Options of the jobs.
    environment : dict
        Of the jobs.

    Raises
    ------
    UsageError
        If the batch script is not there.
    """
    script = find_script()
    found = [_about(Experiment(prefix, output, run), words, nodes) for run in runs]
    groups: dict[int, list[Submitted]] = {}
    for about in found:
        if about.kind:
            groups.setdefault(about.nodes, []).append(about)
    done = {about.run: about for about in found}
    environment = {**environment, **job_environment(), "XFELMPI_ROOT": str(script.parent.parent)}
    for n, group in groups.items():
        for first in range(0, len(group), _MOST_IN_ARRAY):
            part = group[first : first + _MOST_IN_ARRAY]
            array = ",".join(_ranges([about.run for about in part]))
            command = ["sbatch", "--parsable", *slurm, f"--nodes={n}", f"--array={array}"]
            try:
                said = ask_slurm([*command, str(script), *words], environment).split()
                job, why = said[-1].partition(";")[0] if said else "", ""
            except OutputError as error:
                job, why = "", str(error)
            for about in part:
                number = f"{job}_{about.run}" if job else ""
                done[about.run] = Submitted(about.run, about.kind, about.n_bytes, n, number, why)
    return [done[run] for run in sorted(done)]


def _about(experiment: Experiment, words: list[str], nodes: int) -> Submitted:
    wanted, detector = last_value(words, "--data"), last_value(words, "--detector") or None
    kinds = [wanted] if wanted and wanted != "auto" else ["proc", "raw"]
    for kind in kinds:
        listing = list_folder(experiment.run_folder(kind), kind, detector)
        if listing.sequences:
            size = stamp_files(listing).size
            return Submitted(experiment.run, kind, size, nodes or nodes_for(size))
    return Submitted(experiment.run, why=f"no detector files in {' or '.join(kinds)}/")


def _ranges(numbers: list[int]) -> list[str]:
    """Return numbers, ascending, as Slurm wants them: ``50-53``, ``60``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return [f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts]


def submission_table(found: list[Submitted]) -> tuple[list[str], bool]:
    """Return the table of what was submitted, and whether that is all of it."""
    lines = [f"{'run':>5}  {'data':<5} {'size':>10} {'nodes':>5}  job"]
    for about in found:
        size = size_text(about.n_bytes) if about.kind else ""
        nodes = str(about.nodes or "")
        job = about.job or f"not submitted: {about.why}"
        lines.append(f"{about.run:>5}  {about.kind:<5} {size:>10} {nodes:>5}  {job}")
    n = sum(bool(about.job) for about in found)
    lines.append(f"{n} of {len(found)} {plural(len(found), 'run')} submitted")
    return lines, n == len(found)
