"""The output files of a run, opened for checking by one rank."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.io.checked import check_stored
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.io.partial_file import unfinished_files
from xfelmpi.output.cxi.reader import FinishedHits, read_finished_hits
from xfelmpi.output.dragonfly.detector import usable_pixels
from xfelmpi.output.events import FinishedRun, read_finished_run
from xfelmpi.workflows.selection import selected_files
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, describe


@dataclass(frozen=True)
class Outputs:
    """Open files of a run.

    Parameters
    ----------
    experiment : Experiment
    run : FinishedRun
        What the events file says.
    files : dict of str to h5py.File
        ``events``, ``powder``, ``cxi``, ``detector``, ``vds``: those that are there.
    findings : list of Finding
        Files that should be there and are not, or cannot be opened.
    """

    experiment: Experiment
    run: FinishedRun
    files: dict[str, h5py.File]
    findings: list[Finding]
    _sums: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def hits(self) -> np.ndarray:
        """Rows of the hits, int64 (hit,)."""
        return np.flatnonzero(self.run.events.is_hit)

    @property
    def misses(self) -> np.ndarray:
        """Rows of the misses, int64 (miss,)."""
        return np.flatnonzero(self.run.events.is_miss)

    @property
    def rows_of_entries(self) -> dict[str, np.ndarray]:
        """Rows of the frames expected in every entry of the CXI file."""
        entries = {"entry_1": self.hits}
        return entries | ({"entry_2": self.misses} if self.run.config.with_misses else {})

    @property
    def selection(self) -> MergedFiles:
        """Paths of the files of ``--where``."""
        return selected_files(self.experiment)

    @property
    def for_dragonfly(self) -> Experiment | MergedFiles:
        """The files that a folder for Dragonfly starts with."""
        return self.selection if self.run.config.where else self.experiment

    @property
    def mask_patched(self) -> bool:
        """Whether pixels were masked later (``xfelmpi patch --mask``), without the run."""
        return "mask_patched" in self.run.attributes

    @cached_property
    def header(self) -> FinishedHits:
        """What stands once in the CXI file; `InputError` if it is damaged."""
        return read_finished_hits(self.experiment.cxi)

    def powder(self, name: str) -> np.ndarray:
        """Return a dataset of the powder file, int64 (pixel,), read once and read-only.

        If only hits and misses were read, these are all frames.
        """
        if name in self._sums:
            return self._sums[name]
        file = self.files["powder"]
        names = [name]
        if name in ("powder", "good_frames") and not self.run.whole:
            names = [f"{name}_hits", f"{name}_misses"]
        frame, total = self.run.detector_type.frame_shape, 0
        for part in names:
            if file[part].shape != frame:
                raise ValueError(f"{part}: found shape {file[part].shape}, expected {frame}")
            total = total + file[part][()].reshape(-1).astype(np.int64)
        total.flags.writeable = False
        self._sums[name] = total
        return total

    @property
    def usable(self) -> np.ndarray:
        """Pixels that Dragonfly may use, bool (module, ss, fs)."""
        good = self.powder("good_frames_hits").reshape(self.run.detector_type.frame_shape)
        return usable_pixels(good, len(self.hits), self.run.config.max_bad)


@contextmanager
def opened_outputs(experiment: Experiment) -> Iterator[Outputs]:
    """Open all outputs of a run.

    Raises
    ------
    InputError
        If there is no usable events file.
    """
    with ExitStack() as stack:
        run = read_finished_run(experiment.events, compared=False)
        files, findings = {}, []
        for name, path in _paths(experiment, run).items():
            try:
                files[name] = stack.enter_context(open_hdf5(path))
                if name != "vds":
                    check_stored_values(files[name])
            except DAMAGE as error:
                files.pop(name, None)
                wanted = name in ("events", "powder", "cxi")
                if path.exists():
                    findings.append(Finding(path.name, f"cannot be opened: {describe(error)}"))
                elif wanted:
                    findings.append(Finding(path.name, f"{path} is not there"))
        yield Outputs(experiment, run, files, findings)


def check_stored_values(file: h5py.File) -> None:
    """Check that all values are in the file; of frames, those of all frames."""

    def check(_name, item):
        """Check a dataset; what has three axes and more is read in parts, or of a known shape."""
        if isinstance(item, h5py.Dataset):
            check_stored(item, known_shape=item.ndim > 2)

    file.visititems(check)


def _paths(experiment: Experiment, run: FinishedRun) -> dict[str, Path]:
    return {
        "events": experiment.events,
        "powder": experiment.powder,
        "cxi": experiment.cxi,
        "detector": experiment.dragonfly_detector,
        "vds": experiment.vds(str(run.attributes["data"])),
    }


def leftovers(experiment: Experiment) -> list[str]:
    """Return what a job that did not end has left, as notes."""
    paths = [experiment.events, experiment.powder, experiment.cxi, experiment.emc]
    paths += [experiment.dragonfly_detector, experiment.vds("proc"), experiment.vds("raw")]
    selection = selected_files(experiment)
    paths += [selection.cxi, selection.emc, selection.dragonfly_detector]
    return [
        f"{part}: left by a job that did not end, or is still running"
        for part in unfinished_files(paths)
    ]


def damaged_events(experiment: Experiment, error: InputError) -> Finding:
    """Return the finding of an events file that is there, but of no use."""
    return Finding(experiment.events.name, str(error).removeprefix(f"{experiment.events}: "))
