"""Following a run that is being written: outputs of what is there, again and again, until it ends.

Every round is a job on the sequences that all modules have, which are linked in a folder of their
own, so that files that are still growing are not opened. The last round is an ordinary job on the
finished run: its outputs are the same to the bit as if nobody had followed it.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, PeerError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import duration, log, plural
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import module_of_file
from xfelmpi.io.output_file import make_folder
from xfelmpi.run.arrival import Listing, Stamp, list_folder, stamp_files
from xfelmpi.workflows.wait import run_is_complete

LOOK_EVERY = 2.0
"""Seconds between looks."""


def follow(
    comm, config: Config, argv: list[str], timeout: float, process: Callable[[RunJob], int]
) -> int:
    """Process a run while it is written, and once more when it is complete; collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
    argv : list of str
        The command line, without the program's name.
    timeout : float
        Seconds without a change after which the run is taken for finished.
    process : callable
        Processes the run of a job, and returns its exit status.

    Returns
    -------
    int
        Exit status of the last job.
    """

    def job_of(chosen: Config) -> RunJob:
        return RunJob.of(comm, chosen, argv)

    experiment = job_of(config).experiment
    staging = experiment.output / "follow" / experiment.name
    rounds = _Rounds(experiment, config, staging, timeout, lambda: job_of(config))
    try:
        while mpi.bcast_from_root(comm, rounds.another):
            try:
                process(job_of(replace(config, prefix=staging)))
            except (InputError, PeerError) as error:
                if comm.rank == 0:
                    log.info("nothing to show yet: %s", error)
    finally:
        if comm.rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            with suppress(OSError):
                staging.parent.rmdir()
    return process(job_of(config))


class _Rounds:
    """Waits for more sequences of a run, and links them; rank 0."""

    def __init__(
        self,
        experiment: Experiment,
        config: Config,
        staging: Path,
        timeout: float,
        job: Callable[[], RunJob],
    ):
        self._experiment, self._config, self._staging = experiment, config, staging
        self._timeout, self._job = timeout, job
        self._done: set[tuple[str, int]] = set()
        self._stamp, self._since = Stamp(), monotonic()

    def another(self) -> bool:
        """Return True when there are more sequences, False when the run has ended."""
        log.info("following run %d …", self._experiment.run)
        while not run_is_complete(self._job()):
            listings = {k: list_folder(self._experiment.run_folder(k), k) for k in ("raw", "proc")}
            kind = "proc" if listings["proc"].sequences else "raw"
            if self._config.data in ("raw", "proc"):
                kind = self._config.data
            stamp = stamp_files(*listings.values())
            if stamp != self._stamp:
                self._stamp, self._since = stamp, monotonic()
            new = {(kind, n) for n in whole_sequences(listings[kind])} - self._done
            if new and self._at_rest(listings[kind], {n for _, n in new}):
                self._done |= new
                self._link(listings, kind)
                n = len({number for k, number in self._done if k == kind})
                log.info("%d %s of run %d", n, plural(n, "sequence"), self._experiment.run)
                return True
            if monotonic() - self._since >= self._timeout:
                log.warning(
                    "nothing of run %d has changed for %s: it is taken for finished",
                    *(self._experiment.run, duration(self._timeout)),
                )
                return False
            sleep(min(LOOK_EVERY, self._timeout / 4))
        return False

    def _at_rest(self, listing: Listing, sequences: set[int]) -> bool:
        """Return whether the files of sequences do not grow."""
        chosen = replace(listing, names=_names_of(listing, sequences))
        before = stamp_files(chosen)
        sleep(min(LOOK_EVERY, self._timeout / 4) / 4)
        return stamp_files(chosen) == before

    def _link(self, listings: dict[str, Listing], kind: str) -> None:
        """Link all files but those of sequences that are not whole."""
        shutil.rmtree(self._staging, ignore_errors=True)
        for name, listing in listings.items():
            folder = self._staging / name / self._experiment.name
            make_folder(folder)
            wanted = {n for k, n in self._done if k == name} if name == kind else None
            for file in _names_of(listing, wanted):
                (folder / file).symlink_to((listing.folder / file).absolute())
        scratch = self._experiment.prefix / "scratch"
        if scratch.is_dir():
            # masks, geometry and constants of the experiment
            (self._staging / "scratch").symlink_to(scratch.absolute())


def whole_sequences(listing: Listing) -> set[int]:
    """Return the sequences that all modules have."""
    found = list(listing.sequences.values())
    return set(frozenset.intersection(*found)) if found else set()


def _names_of(listing: Listing, sequences: set[int] | None) -> tuple[str, ...]:
    """Return the names of all files but those of detector modules of other sequences."""
    if sequences is None:
        sequences = whole_sequences(listing)
    ends = tuple(f"-S{number:05d}.h5" for number in sequences)
    return tuple(n for n in listing.names if module_of_file(n) < 0 or n.endswith(ends))
