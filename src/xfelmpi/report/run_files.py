"""The output files of a run, read back."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.io.checked import checked_array
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.hit_file import HitFile, check_rows, read_hit_file
from xfelmpi.output.events import FinishedRun, read_added_columns, read_finished_run
from xfelmpi.output.provenance import check_same_job
from xfelmpi.report.headline import Headline, headline
from xfelmpi.report.images import Raster
from xfelmpi.report.layout import BINS, lay_out

SUMS = ("", "_hits", "_misses")
"""Ends of the names in the powder file: all frames, hits, misses."""


@dataclass(frozen=True)
class RunFiles:
    """What the output files of a run say.

    Parameters
    ----------
    experiment : Experiment
    run : FinishedRun
    head : Headline
    powder : dict of str to ndarray
        Datasets of the powder file by name, (pixel,) each.
    hit_file : HitFile or None
        None if it is not there, or cannot be read.
    missing : str
        Why there is none.
    """

    experiment: Experiment
    run: FinishedRun
    head: Headline
    powder: dict[str, np.ndarray]
    hit_file: HitFile | None
    missing: str

    @cached_property
    def layouts(self) -> list[tuple[Raster, tuple[float, float]]]:
        """Where pixels are in a picture of the detector, see `lay_out`: `BINS` at a time, and one.

        If there is a CXI file.
        """
        found = self.hit_file
        return lay_out(found.xyz, self.run.detector_type, found.pixel_size, BINS, 1)


def read_run_files(experiment: Experiment) -> RunFiles:
    """Read events, powder and CXI of a run; of the latter only what stands there once.

    Raises
    ------
    InputError
        If events or powder file are missing or damaged.
    """
    run = read_finished_run(experiment.events)
    run = replace(run, events=replace(run.events, added=read_added_columns(experiment.events)))
    job = str(run.attributes.get("job_id", ""))
    check_same_job(experiment.powder, "a powder file", job)
    powder, frame = {}, run.detector_type.frame_shape
    with finished_file(experiment.powder, "a powder file") as file:
        for name in (f"{kind}{which}" for kind in ("powder", "good_frames") for which in SUMS):
            dtype = np.uint64 if name.startswith("powder") else np.uint32
            if name in ("powder", "good_frames") and not run.whole:
                continue
            powder[name] = checked_array(file, name, dtype, frame).reshape(-1)
    for name in ("powder", "good_frames"):
        # of the frames that were read
        powder.setdefault(name, powder[f"{name}_hits"] + powder[f"{name}_misses"])
    hit_file, missing = None, ""
    try:
        check_same_job(experiment.cxi, "a CXI file", job)
        hit_file = read_hit_file(experiment.cxi)
        check_rows(hit_file, run.events.is_hit, run.detector_type.frame_pixels)
    except InputError as error:
        hit_file, missing = None, f"{error}; no pictures without it"
    return RunFiles(experiment, run, headline(run, hit_file), powder, hit_file, missing)
