"""A processed run, read from its output files alone."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np

from xfelmpi.api.hits import Hits, hits_of
from xfelmpi.api.merged import MergedRuns
from xfelmpi.api.open_hits import OpenHits
from xfelmpi.api.powder import Powder
from xfelmpi.api.rethreshold import Rethresholded, rethreshold
from xfelmpi.core.config.parsing import parse_run
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment, MergedFiles, experiment_folder
from xfelmpi.core.problems import Problem
from xfelmpi.output.cxi.hit_file import check_rows, read_hit_file
from xfelmpi.output.cxi.reader import read_positions
from xfelmpi.output.events import FinishedRun, read_finished_run, read_settings
from xfelmpi.report.assembly import Assembler
from xfelmpi.report.curves import momentum_transfer, radial_profile
from xfelmpi.report.run_files import RunFiles, read_run_files
from xfelmpi.report.verdicts import Answer

_KINDS = {"all": "", "hits": "_hits", "misses": "_misses", "non-hits": "_misses"}


def open_run(
    run: int | str | Sequence[int],
    prefix: str | Path | None = None,
    output: str | Path | None = None,
) -> "Run | MergedRuns":
    """Open a processed run, or runs that ``xfelmpi merge`` has joined.

    Parameters
    ----------
    run : int, str or sequence of int
        A run number, ``r0050``, the name of merged runs (``r0050-r0053``), or their numbers.
    prefix : path, optional
        Experiment folder (default: that of `output`, or ``EXP_PREFIX``).
    output : path, optional
        Folder of the outputs (default: ``scratch`` in the experiment folder).

    Raises
    ------
    UsageError
        If no experiment folder is named, or `run` is none of these.
    InputError
        If the run has not been processed.
    """
    prefix, output = _folder(prefix, "prefix"), _folder(output, "output")
    if output is not None and prefix is None:
        prefix = output.parent
    prefix = experiment_folder(prefix)
    output = output if output is not None else prefix / "scratch"
    if isinstance(run, str) and run and not run.lstrip("rR").isdecimal():
        return MergedRuns(MergedFiles(output, run))
    if not isinstance(run, (str, int, np.integer)):
        # an array of one number says that it can be iterated over
        several = isinstance(run, Iterable) and not isinstance(run, bytes)
        several = several and getattr(run, "ndim", 1) > 0
        runs = [_number(one) for one in run] if several else []
        if not runs:
            raise UsageError(f"found {run!r:.40}, expected a run number, or those of merged runs")
        return MergedRuns(MergedFiles(output, f"r{min(runs):04d}-r{max(runs):04d}"))
    return Run(Experiment(prefix, output, _number(run)))


def _folder(path, name: str) -> Path | None:
    if path is not None and not isinstance(path, (str, PathLike)):
        raise UsageError(f"{name}: found {path!r:.40}, expected a folder")
    return None if path is None else Path(path)


def _number(run: int | str) -> int:
    try:
        return parse_run(str(run))
    except ValueError as error:
        raise UsageError(str(error)) from None


class Run(OpenHits):
    """A processed run; files are read when something of them is asked for.

    Parameters
    ----------
    experiment : Experiment

    Raises
    ------
    InputError
        If there is no events file.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._first, self._chosen = read_settings(experiment.events)

    @property
    def _cxi(self) -> Path:
        return self._experiment.cxi

    @property
    def number(self) -> int:
        """Run number."""
        return self._experiment.run

    @property
    def settings(self) -> dict:
        """The settings that the run was processed with, by the names of the options."""
        return dataclasses.asdict(self._first)

    @cached_property
    def events(self):
        """One row per frame, pandas DataFrame; columns are read when they are used.

        Names in CXI are understood, too: ``events.hit_score`` is ``events.hitscore``. Units stand
        in ``events.attrs["units"]``.
        """
        from xfelmpi.api.table import read_table

        return read_table(self._experiment.events)

    def to_xarray(self):
        """Return the events as xarray Dataset with the dimension ``frame``, and units."""
        import xarray as xr

        table = self.events
        units = table.attrs["units"]
        variables = {
            name: (
                "frame",
                np.asarray(table[name]),
                {"units": units[name]} if name in units else {},
            )
            for name in table.columns
        }
        ids = {name: variables.pop(name) for name in ("trainId", "pulseId", "cellId")}
        return xr.Dataset(variables, ids, {"run": self.number})

    @cached_property
    def _finished(self) -> FinishedRun:
        return read_finished_run(self._experiment.events)

    @cached_property
    def _files(self) -> RunFiles:
        return read_run_files(self._experiment)

    @property
    def problems(self) -> list[Problem]:
        """What was found wrong in the run's files, and what was done about it."""
        return self._finished.problems

    @cached_property
    def verdicts(self) -> dict[str, Answer]:
        """The answers of the run report by subject, e.g. ``beam``."""
        from xfelmpi.api.verdicts import Verdicts
        from xfelmpi.report.run_page import run_answers

        return Verdicts((answer.subject, answer) for answer in run_answers(self._files))

    @cached_property
    def _assembler(self) -> Assembler:
        xyz = read_positions(self._experiment.cxi)
        return Assembler(xyz, self._finished.detector_type)

    @cached_property
    def hits(self) -> Hits:
        """The hits, in the order of the CXI file.

        Raises
        ------
        InputError
            If the CXI file is missing, damaged, or of another job than the events file.
        """
        path = self._experiment.cxi
        run = self._finished
        check_rows(read_hit_file(path), run.events.is_hit, run.detector_type.frame_pixels)
        return hits_of(path, self._frames, self._assembler, f"run {self.number}")

    def powder(self, which: str = "all") -> Powder:
        """Return the sum over frames: ``all``, ``hits`` or ``misses`` (as many non-hits).

        Raises
        ------
        UsageError
            If there is no such sum.
        """
        if not isinstance(which, str) or which not in _KINDS:
            raise UsageError(f"no powder of {which!r:.40}; there are {', '.join(_KINDS)}")
        shape = self._finished.detector_type.frame_shape
        photons, frames = (
            self._files.powder[f"{kind}{_KINDS[which]}"].reshape(shape)
            for kind in ("powder", "good_frames")
        )
        return Powder(photons, frames, f"powder of {which} of run {self.number}", self._assembler)

    def radial_profile(self, which: str = "all", bins: int = 240):
        """Return mean photons per frame and pixel against the distance from the beam.

        Parameters
        ----------
        which : str
            See `powder`.
        bins : int
            Rings of the same width in distance.

        Returns
        -------
        DataFrame
            Columns ``radius`` in m, ``q`` in 1/m (4 π sin θ / λ; NaN if distance or wavelength
            are unknown) and ``photons``.

        Raises
        ------
        UsageError
            If there is no such sum, or no ring.
        InputError
            If the run has no CXI file with the positions of the pixels.
        """
        import pandas as pd

        if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
            raise UsageError(f"bins is {bins!r:.40}, expected a whole number, 1 or more")
        powder = self.powder(which)
        xyz = read_hit_file(self._experiment.cxi).xyz
        radius = np.hypot(xyz[0], xyz[1])
        image = powder.data.reshape(-1), powder.frames.reshape(-1)
        middle, (mean,) = radial_profile(radius, [image], bins)
        wavelength = self._finished.events.wavelength
        known = wavelength[np.isfinite(wavelength)]
        distance = np.full(bins, np.median(xyz[2]))
        q = momentum_transfer(
            np.stack([middle, np.zeros(bins), distance]), known.mean() if len(known) else np.nan
        )
        return pd.DataFrame({"radius": middle, "q": q, "photons": mean})

    def rethreshold(self, **options) -> Rethresholded:
        """Find hits anew from the scores; numbers only, nothing is written.

        Parameters
        ----------
        **options
            Settings that differ, as ``sigma=5, decide="window"``; all others as the run has them.

        Raises
        ------
        UsageError
            If a setting is unknown, impossible, or would change the scores.
        """
        return rethreshold(self._finished, self._chosen, options)

    def plot_scores(self, ax=None):
        """Draw the histogram of the hit scores with the threshold; return matplotlib axes."""
        from xfelmpi.api.plots import plot_scores

        events = self._finished.events
        decided = np.isfinite(events.hit_threshold)
        title = f"run {self.number}"
        return plot_scores(events.hitscore[decided], events.hit_threshold, title, ax)

    def plot_hit_rate(self, ax=None):
        """Draw the hit rate against the train; return matplotlib axes."""
        from xfelmpi.api.plots import plot_hit_rate

        finished = self._finished
        searched = finished.complete & ~finished.events.is_dark
        return plot_hit_rate(finished.events, searched, f"run {self.number}", ax)

    def __repr__(self) -> str:
        events = self._finished.events
        return (
            f"<run {self.number}: {len(events.trainId):,} frames, {int(events.is_hit.sum()):,} "
            f"hits; {self._experiment.output}>"
        )

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import block, table

        rows = [(a.question, a.short, a.why) for a in self.verdicts.values()]
        return block(repr(self).strip("<>"), table(rows))
