"""Following a run that is being written: outputs of what is there, until it ends.

Every round is a job on the sequences that all modules have, which are linked in a folder of their
own, so that files that are still growing are not opened. It reads the trains that are new: what
earlier rounds have made of the others is in the checkpoint of the run, which is also what a job
that was killed goes on from. The last round is the job on the finished run: its outputs are the
same to the bit as if nobody had followed it.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, PeerError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import duration, log, plural
from xfelmpi.detectors.known import module_of_file
from xfelmpi.io.output_file import cannot_write, make_folder
from xfelmpi.reduction.checkpoint import discard_checkpoint
from xfelmpi.run.arrival import Listing, Stamp, list_folder, stamp_files, unequal_ends
from xfelmpi.workflows.wait import Completeness

LOOK_EVERY = 1.0
"""Seconds between looks; files that have not changed from one to the next are at rest."""

TAKEN_AFTER = 30.0
"""Seconds after which a sequence is taken as it is, if files of it cannot be read or end early."""


@dataclass(frozen=True)
class Following:
    """How a run is followed.

    Parameters
    ----------
    timeout : float
        Seconds without a change after which the run is treated as finished.
    resume : bool
        What an earlier job that followed the run has read is not read again.
    """

    timeout: float
    resume: bool = False


def follow(
    comm, config: Config, argv: list[str], how: Following, process: Callable[..., int]
) -> int:
    """Process a run while it is written, and once more when it is complete; collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
    argv : list of str
        The command line, without the program's name.
    how : Following
    process : callable
        Processes the run of a job, told whether to go on from its checkpoint, and returns the exit
        status.

    Returns
    -------
    int
        Exit status of the last job.
    """
    if not config.checkpoint_minutes:
        # a round goes on from the checkpoint of the one before
        config = replace(config, checkpoint_minutes=Config.checkpoint_minutes)

    def new_job() -> RunJob:
        return replace(RunJob.of(comm, config, argv), growing=True)

    job = new_job()
    experiment = job.experiment
    if not how.resume:
        why = "of an earlier job is not used"
        mpi.run_on_root(comm, lambda: discard_checkpoint(experiment.checkpoint, why))
    rounds = _Rounds(job, how.timeout)
    if comm.rank == 0:
        # before the lock is given back
        job.shutdown.releases.insert(0, rounds.clean_up)
    try:
        while so_far := mpi.bcast_from_root(comm, rounds.another):
            _show(new_job(), so_far, rounds.staging, process)
            # masks and constants, which the next round reads anew
            mpi.free_unused(comm)
            # if it is stopped while it waits, nothing is complete
            new_job().announce()
    finally:
        if comm.rank == 0:
            job.shutdown.releases.remove(rounds.clean_up)
            rounds.clean_up()
    return process(new_job(), resume=True)


def _show(job: RunJob, so_far: str, staging: Path, process: Callable[..., int]) -> None:
    """Make outputs and report of what there is of a run; collective."""
    # the virtual dataset would be one of links that will be gone
    config = replace(job.config, vds=False)
    experiment = replace(job.experiment, prefix=staging)
    try:
        process(replace(job, config=config, experiment=experiment, so_far=so_far), resume=True)
    except Exception as error:
        # alone with an error: the program ends all ranks
        if job.comm.size > 1 and not getattr(error, "agreed", False):
            raise
        # of another's error a rank does not know the class
        passes = isinstance(error, InputError | PeerError)
        if not mpi.allreduce_min(job.comm, int(passes)):
            raise
        if job.comm.rank == 0:
            log.info("nothing to show yet: %s", error)


class _Rounds:
    """Waits for more sequences of a run, and links them; rank 0.

    Parameters
    ----------
    job : RunJob
    timeout : float
        See `Following`.
    """

    def __init__(self, job: RunJob, timeout: float):
        self._job, self._experiment, self._timeout = job, job.experiment, timeout
        self.staging = self._experiment.output / "follow" / self._experiment.name
        self._done: dict[str, set[int]] = {"raw": set(), "proc": set()}
        self._complete = Completeness(job)
        self._stamp, self._since = Stamp(), monotonic()
        self._at_rest: dict[tuple[str, int], tuple[Stamp, float]] = {}

    def another(self) -> str:
        """Return what there is when there are more sequences, nothing when the run has ended."""
        run, detector = self._experiment.run, self._job.config.detector
        if not any(self._done.values()):
            log.info("following run %d …", run)
        while self._complete.lacking():
            listings = {
                kind: list_folder(self._experiment.run_folder(kind), kind, detector)
                for kind in ("raw", "proc")
            }
            kind = self._kind(listings)
            if new := self._new_sequences(listings, kind):
                self._done[kind] |= new
                self._link(listings, kind)
                n = len(self._done[kind])
                so_far = f"{n} {plural(n, 'sequence')} so far"
                log.info("run %d: %s", run, so_far)
                return so_far
            self._see_changes(listings)
            if monotonic() - self._since >= self._timeout:
                log.warning(
                    "run %d has not changed for %s: it is treated as finished",
                    *(run, duration(self._timeout)),
                )
                return ""
            sleep(min(LOOK_EVERY, self._timeout / 4))
        return ""

    def clean_up(self) -> None:
        """Remove the links."""
        shutil.rmtree(self.staging, ignore_errors=True)
        with suppress(OSError):
            self.staging.parent.rmdir()

    def _kind(self, listings: dict[str, Listing]) -> str:
        if self._job.config.data in ("raw", "proc"):
            return self._job.config.data
        return "proc" if listings["proc"].sequences else "raw"

    def _see_changes(self, listings: dict[str, Listing]) -> None:
        """Note when something came last: files of sequences that are done do not change."""
        parts = [_detector_files(x, _all(x) - self._done[kind]) for kind, x in listings.items()]
        stamp = stamp_files(*parts)
        stamp = replace(stamp, files=sum(len(x.names) for x in listings.values()))
        if stamp != self._stamp:
            self._stamp, self._since = stamp, monotonic()

    def _new_sequences(self, listings: dict[str, Listing], kind: str) -> set[int]:
        """Return the sequences that are whole, at rest and can be read, and were not yet."""
        raw = listings["raw"] if kind == "proc" else None
        new = set()
        for number in whole_sequences(listings[kind], raw) - self._done[kind]:
            files = _detector_files(listings[kind], {number})
            stamp, now = stamp_files(files), monotonic()
            before, since = self._at_rest.get((kind, number), (None, now))
            if stamp != before:
                self._at_rest[kind, number] = stamp, now
            elif now - since > TAKEN_AFTER or not unequal_ends(files, None, self._experiment.run):
                new.add(number)
        return new

    def _link(self, listings: dict[str, Listing], kind: str) -> None:
        """Link the files of what is done, and all that are not of detector modules."""
        self.clean_up()
        folders = [self.staging / name / self._experiment.name for name in listings]
        try:
            for folder, listing in zip(folders, listings.values(), strict=True):
                make_folder(folder)
                chosen = _detector_files(listing, self._done[kind]).names
                for file in (n for n in listing.names if module_of_file(n) < 0 or n in chosen):
                    (folder / file).symlink_to((listing.folder / file).absolute())
            scratch = self._experiment.prefix / "scratch"
            if scratch.is_dir():
                # masks, geometry and constants of the experiment
                (self.staging / "scratch").symlink_to(scratch.absolute())
        except OSError as error:
            raise cannot_write(self.staging, error) from None


def whole_sequences(listing: Listing, raw: Listing | None = None) -> set[int]:
    """Return the sequences that all modules have.

    Parameters
    ----------
    listing : Listing
    raw : Listing, optional
        Of the raw run: which modules there will be. Without it these are all modules of the
        detector, or those that there are, for a sequence that other ones follow.
    """
    found, last = listing.sequences, max(_all(listing), default=0)
    expected = (
        {n: {m for m, has in raw.sequences.items() if n in has} for n in _all(raw)} if raw else {}
    )
    whole = set()
    for n in _all(listing):
        have = {m for m, has in found.items() if n in has}
        if n in expected:
            all_there = expected[n] <= have
        else:
            all_there = len(have) == listing.n_modules or (len(have) == len(found) and n < last)
        if all_there:
            whole.add(n)
    return whole


def _all(listing: Listing) -> set[int]:
    return set().union(*listing.sequences.values())


def _detector_files(listing: Listing, sequences: set[int]) -> Listing:
    """Return only the detector files of some sequences."""
    ends = tuple(f"-S{number:05d}.h5" for number in sequences)
    names = tuple(n for n in listing.names if module_of_file(n) >= 0 and n.endswith(ends))
    by_module = {m: has & sequences for m, has in listing.sequences.items() if has & sequences}
    return replace(listing, names=names, sequences=by_module)
