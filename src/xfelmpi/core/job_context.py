"""What all stages of a job share: ranks, folder, settings, command line, stages, what stops it."""

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Self, cast

from xfelmpi.core.config.options import Config
from xfelmpi.core.free_memory import give_back
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.core.shutdown import StopPlan, describe_job, stop_plan

STAGE_TITLES = {
    "index": "indexing the run",
    "photons": "reading frames",
    "decide": "finding hits",
    "write": "writing",
    "selection": "writing the selection",
}


@dataclass
class Stages:
    """Seconds of every stage, in the order they ran, and the one that runs now."""

    seconds: dict[str, float] = field(default_factory=dict)
    now: str = ""

    @contextmanager
    def timed(self, name: str):
        """Say that a stage begins, and time it; at its end, give back what it no longer uses."""
        log.info("%s …", STAGE_TITLES.get(name, name))
        start = monotonic()
        self.now = name
        yield
        give_back()
        self.now = ""
        self.seconds[name] = self.seconds.get(name, 0.0) + monotonic() - start


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """A job, on one of its ranks. Functions that need more than the ranks take it first.

    Parameters
    ----------
    comm : Intracomm
        All ranks.
    experiment : Experiment
        Of the run; of the first one, if there are several.
    settings : str
        All of them, as JSON.
    argv : tuple of str
        The command line, without the program's name.
    stages : Stages
    shutdown : StopPlan
        What is said and done when this process is stopped.
    job_id : str
        Tells the job from others; that of rank 0 goes to the files.
    started : datetime
    growing : bool
        The run is followed while it is written: what was read of it serves the next job, too.
    so_far : str
        What there is of a run that is not complete, for the report; empty: all of it.
    """

    comm: Any
    experiment: Experiment
    settings: str
    argv: tuple[str, ...] = ()
    stages: Stages = field(default_factory=Stages)
    shutdown: StopPlan = field(default_factory=lambda: stop_plan)
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    growing: bool = False
    so_far: str = ""

    def of_proposal(self, proposal: int) -> Self:
        """Return the job with the proposal that the run's files name, if they name one."""
        return replace(self, experiment=self.experiment.of_proposal(proposal))


@dataclass(frozen=True, kw_only=True)
class RunJob(JobContext):
    """A job with the settings of the main job.

    Parameters
    ----------
    config : Config
        What a stage gets of it, the workflows choose.
    """

    config: Config

    @classmethod
    def of(cls, comm, config: Config, argv=()) -> "RunJob":
        """Return the job of a command."""
        # from options: both are there
        prefix, output = (cast(Path, path) for path in (config.prefix, config.output))
        experiment = Experiment(prefix, output, config.run)
        return cls(
            comm=comm,
            experiment=experiment,
            settings=config.to_json(),
            argv=tuple(argv),
            config=config,
        )

    def announce(self) -> None:
        """Prepare what is said if the job is stopped."""
        describe_job(self.comm.rank, self.comm.size, list(self.argv), self.stages)
