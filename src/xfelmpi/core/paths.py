"""The experiment folder: where each input and output file lies."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from xfelmpi.core.errors import UsageError
from xfelmpi.detectors.base import Detector


def experiment_folder(prefix: Path | None) -> Path:
    """Return the experiment folder, from ``EXP_PREFIX`` if it is not given.

    Raises
    ------
    UsageError
        If neither names one.
    """
    if prefix is not None:
        return prefix
    if not os.environ.get("EXP_PREFIX"):
        raise UsageError(
            "no experiment folder: name it with --prefix DIR or set EXP_PREFIX, e.g. "
            "/gpfs/exfel/exp/SPB/202405/p007927"
        )
    return Path(os.environ["EXP_PREFIX"])


@dataclass(frozen=True)
class Experiment:
    """Paths of one run in an experiment folder.

    Parameters
    ----------
    prefix : Path
        The experiment folder, with ``raw/`` and ``proc/`` in it.
    output : Path
        The folder for all outputs, and for user-made masks in ``det/``.
    run : int
        Run number.
    known_proposal : int
        Number of the proposal by the data themselves, 0 if they do not say it.
    """

    prefix: Path
    output: Path
    run: int
    known_proposal: int = 0

    @property
    def name(self) -> str:
        """The run's name in file and folder names, e.g. ``r0050``."""
        return f"r{self.run:04d}"

    @property
    def proposal(self) -> str:
        """The proposal, e.g. ``p007927``; ``p000000`` if nothing tells it.

        By the data, else by the folders that hold the run's, behind links: ``p000001/proc`` may
        be a link to another proposal's.
        """
        if self.known_proposal:
            return f"p{self.known_proposal:06d}"
        folders = [self.run_folder(kind) for kind in ("proc", "raw")]
        places = [f.resolve() for f in folders if f.exists()]
        for place in (*places, self.prefix.resolve(), self.prefix.absolute()):
            for part in reversed(place.parts):
                if re.fullmatch(r"p\d{6}", part):
                    return part
        return "p000000"

    def of_proposal(self, number: int) -> "Experiment":
        """Return the same with the proposal that the data say, if they say one."""
        return replace(self, known_proposal=number)

    def run_folder(self, kind: str) -> Path:
        """Return the folder of the run's files; `kind` is ``raw`` or ``proc``."""
        return self.prefix / kind / self.name

    @property
    def events(self) -> Path:
        """The events table."""
        return self.output / "events" / f"{self.name}_events.h5"

    @property
    def powder(self) -> Path:
        """The powder patterns."""
        return self.output / "powder" / f"{self.name}_powder.h5"

    @property
    def cell_powder(self) -> Path:
        """The powder patterns of every memory cell."""
        return self.output / "powder" / f"{self.name}_powder_cells.h5"

    @property
    def cxi(self) -> Path:
        """The hits as CXI."""
        return self.output / "saved_hits" / f"{self.name}_hits.cxi"

    def hit_file(self, folder: str, ending: str) -> Path:
        """Return a file with the hits in a further format: name of a folder, end of the name."""
        return self.output / folder / f"{self.name}{ending}"

    @property
    def emc(self) -> Path:
        """The hits as a sparse EMC file for Dragonfly."""
        return self.output / "emc" / f"{self.name}.emc"

    @property
    def dragonfly_detector(self) -> Path:
        """Dragonfly's detector file for the EMC file."""
        return self.output / "emc" / f"{self.name}_det.h5"

    def index(self, kind: str) -> Path:
        """Return the index of the run's files, kept for the next job; ``raw`` or ``proc``."""
        return self.output / "index" / f"{self.name}_index_{kind}.h5"

    @property
    def checkpoint(self) -> Path:
        """The folder of what an unfinished job has read so far."""
        return self.output / "checkpoint" / self.name

    @property
    def machine(self) -> Path:
        """What the run tells of the machine, kept for the next job."""
        return self.output / "index" / f"{self.name}_machine.h5"

    def vds(self, kind: str) -> Path:
        """Return the virtual dataset over all modules; `kind` is ``raw`` or ``proc``."""
        return self.output / "vds" / f"{self.name}_vds_{kind}.h5"

    @property
    def page(self) -> Path:
        """What a person looks at after the run."""
        return self.output / "report" / f"{self.name}.html"

    @property
    def hit_browser(self) -> Path:
        """The page with all hits."""
        return self.page.with_name(f"{self.name}_hits.html")

    @property
    def classes_page(self) -> Path:
        """The page with the classes of the hits."""
        return self.page.with_name(f"{self.name}_classes.html")

    @property
    def geometry_picture(self) -> Path:
        """The powder under the geometry before and after a fit."""
        return self.page.with_name(f"{self.name}_geometry.png")

    @property
    def status(self) -> Path:
        """The run's line in the run overview."""
        return self.page.with_suffix(".json")

    @property
    def overview(self) -> Path:
        """The page of all runs."""
        return self.page.with_name("index.html")

    @property
    def lock(self) -> Path:
        """Of the job that writes the outputs of the run."""
        return self.output / "lock" / f"{self.name}.lock"

    @property
    def mask_lock(self) -> Path:
        """Of the job that makes a mask of the run."""
        return self.lock.with_name(f"{self.name}_mask.lock")

    @property
    def geometry_lock(self) -> Path:
        """Of the job that refines a geometry, of which this is the first run."""
        return self.lock.with_name(f"{self.name}_geometry.lock")

    @property
    def simulation_lock(self) -> Path:
        """Of the job that simulates the run."""
        return self.lock.with_name(f"{self.name}_simulation.lock")

    def geometry(self, detector: Detector) -> Path:
        """Return the usual place of the CrystFEL geometry, e.g. ``det/agipd.geom``."""
        return self.det / f"{detector.file_name.lower()}.geom"

    @property
    def det(self) -> Path:
        """The folder of masks, geometry and constants that users make.

        The one beside the outputs, if there is one, else that of the experiment.
        """
        beside = self.output / "det"
        return beside if beside.is_dir() else self.prefix / "scratch" / "det"

    @property
    def constants(self) -> Path:
        """The usual folder of constants for raw data."""
        return self.det / "constants"

    @property
    def cell_mask(self) -> Path:
        """The usual place of a per-cell mask of this run."""
        return self.det / f"{self.name}_mask.h5"

    @property
    def global_mask(self) -> Path:
        """The usual place of a mask for all runs and cells."""
        return self.det / "mask.h5"

    @property
    def hit_mask(self) -> Path:
        """The usual place of the hit-finding region."""
        return self.det / "hit_finding_mask.h5"


@dataclass(frozen=True)
class WatchFiles:
    """Paths of what watches an experiment folder for new runs.

    Parameters
    ----------
    output : Path
    """

    output: Path

    @property
    def folder(self) -> Path:
        """The folder of all that watching leaves."""
        return self.output / "watch"

    @property
    def state(self) -> Path:
        """What was done, runs, failed and waits."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Of the process that watches."""
        return self.output / "lock" / "watch.lock"

    @property
    def requests(self) -> Path:
        """The folder in which other processes ask for runs to be tried again."""
        return self.folder / "again"

    def result(self, name: str) -> Path:
        """Return the file in which a job says that it has begun, and how it ended."""
        return self.folder / "jobs" / name

    def log(self, name: str) -> Path:
        """Return the log of a job that runs on this machine."""
        return self.output / "log" / f"{name}.log"


@dataclass(frozen=True)
class MergedFiles:
    """Paths of the hits of several runs in one.

    Parameters
    ----------
    output : Path
    name : str
    """

    output: Path
    name: str

    @property
    def cxi(self) -> Path:
        """The hits as CXI."""
        return self.output / "merged" / f"{self.name}_hits.cxi"

    def hit_file(self, folder: str, ending: str) -> Path:
        """Return a file with the hits in a further format, beside the others."""
        return self.output / "merged" / f"{self.name}{ending}"

    @property
    def lock(self) -> Path:
        """Of the job that writes them."""
        return self.output / "lock" / f"merged_{self.name}.lock"

    @property
    def emc(self) -> Path:
        """The hits as a sparse EMC file for Dragonfly."""
        return self.output / "merged" / f"{self.name}.emc"

    @property
    def dragonfly_detector(self) -> Path:
        """Dragonfly's detector file for the EMC file."""
        return self.output / "merged" / f"{self.name}_det.h5"
