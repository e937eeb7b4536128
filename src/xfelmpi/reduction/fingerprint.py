"""What the pass depends on, by what a user calls it: checkpoints of other things are of no use."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xfelmpi import __version__, mpi
from xfelmpi._commit import COMMIT
from xfelmpi.core.config.parsing import CATALOGUE
from xfelmpi.core.config.parts import InputFileSettings, RunSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import detectors_of
from xfelmpi.io.checkpoint_file import FORMAT
from xfelmpi.run.data_choice import choose_data

if TYPE_CHECKING:
    from xfelmpi.run.index.run_index import RunIndex

RUN_FILES = "the run's files"


def fingerprint_of(
    options: dict[str, str], index: "RunIndex", contents: dict[str, str], *, growing: bool = False
) -> dict[str, str]:
    """Return everything that the pass depends on, by what a user calls it; rank 0.

    Files of the run are in it with size and time; masks, geometry and constants with what is in
    them. Options of the decision do not: another decision needs the same sums. Nor do ranks and
    memory, of which the result is independent.

    Parameters
    ----------
    options : dict of str
        See `Config.of_groups`.
    index : RunIndex
    contents : dict of str
        Digests of what is in other files.
    growing : bool
        The run is still being written: files and frames are looked at checkpoint by checkpoint.
    """
    files, table = "of every checkpoint", "of every checkpoint"
    if not growing:
        files = _digest_of_files(Path(file.path) for file in index.files)
        table = _digest_of_frames(index.frames)
    return {
        "the program": f"{__version__} (commit {COMMIT}), {FORMAT}",
        **options,
        RUN_FILES: files,
        "frames (--trains, --detector, --data)": table,
        **contents,
    }


def digest_contents(
    comm, experiment: Experiment, settings: RunSettings, inputs: InputFileSettings
) -> dict[str, str]:
    """Return digests of what is in masks, geometry and constants: collective.

    Another mask may have the same size and time.
    """
    # its bad regions are masks; which detector it is, the run will say
    usual = {experiment.geometry(detector): None for detector in detectors_of(settings.detector)}
    geometry = [inputs.geometry] if inputs.geometry else list(usual)
    masks = [(inputs.cell_mask, experiment.cell_mask), (inputs.global_mask, experiment.global_mask)]
    masks += [(inputs.hit_mask, experiment.hit_mask)]
    groups = mpi.bcast_from_root(
        comm,
        lambda: {
            "mask files": [str(named or usual) for named, usual in masks],
            "geometry file": [str(path) for path in geometry],
            "constants": _constants_to_digest(experiment, settings.data, inputs.constants),
        },
    )
    digests = mpi.digests_of(comm, [path for paths in groups.values() for path in paths])
    return {name: digest_of([digests[p] for p in paths]) for name, paths in groups.items()}


def _constants_to_digest(experiment: Experiment, data: str, named: Path | None) -> list[str]:
    """Return the paths of the constants of raw data; none of corrected ones, which need none."""
    try:
        kind, _ = choose_data(experiment, data)
    except InputError:  # indexing will say so
        return []
    folder = named or experiment.constants
    return sorted(map(str, folder.glob("*.h5"))) if kind == "raw" else []


def catalogue_constants(
    experiment: Experiment, constants: Path | None, index: "RunIndex"
) -> dict[str, str]:
    """Return a digest of which constants the catalogue has for a raw run, if they count; rank 0."""
    if index.kind != "raw" or constants != CATALOGUE:
        return {}
    # with yaml, which other jobs do without
    from xfelmpi.calibration.catalogue_files import identify_catalogue_files

    return {"constants": digest_of(identify_catalogue_files(experiment, index.detector))}


def _digest_of_files(paths) -> str:
    about = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            about.append((str(path.absolute()), "none"))
        else:
            about.append((str(path.absolute()), found.st_size, found.st_mtime_ns))
    return digest_of(about)


def _digest_of_frames(frames: FrameTable) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # segments tell file and row of every frame and module in a tenth of the time
    for column in (frames.train_id, frames.cell_id, frames.pulse_id, frames.segments):
        digest.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_of(about: list) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()
