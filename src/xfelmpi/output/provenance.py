"""What every output file says about where it comes from, as attributes of its root group."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import __version__, mpi
from xfelmpi._commit import COMMIT
from xfelmpi._kernels._deflate import LIBDEFLATE
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.job_context import JobContext
from xfelmpi.core.log import date_text
from xfelmpi.core.machine_records import BeamlineSource
from xfelmpi.core.text import printable, storable
from xfelmpi.io.input_file import finished_file

JOB_ATTRIBUTES = ("job_id", "start_time", "program_version", "program_commit", "command_line")
"""What tells a job from others."""


def provenance(
    job: JobContext,
    files: Iterable[str],
    used: Sequence[dict] = (),
    beamline: Sequence[BeamlineSource] = (),
) -> dict:
    """Return the root attributes of every file, the same on all ranks; collective.

    Nothing of the environment is in them: it may hold secrets.

    Parameters
    ----------
    job : JobContext
    files : iterable of str
        Paths of the input, on rank 0.
    used : sequence of dict
        Masks, constants and geometry; see `describe_used`.
    beamline : sequence of BeamlineSource
    """
    comm, experiment = job.comm, job.experiment
    # names of files need not be UTF-8, which an HDF5 text must be
    command = storable(shlex.join(["xfelmpi", *job.argv]))
    nodes = len(set(mpi.gather_objects(comm, [os.uname().nodename])))

    def attributes() -> dict:
        """Return those that every rank gets from rank 0, where times and versions are taken."""
        return {
            "run": experiment.run,
            "proposal": experiment.proposal,
            "program": "xfelmpi",
            "program_version": __version__,
            "program_commit": COMMIT,
            "command_line": command,
            "configuration": job.settings,
            "input_files": json.dumps(describe_files(files)),
            "used_files": json.dumps(list(used)),
            "beamline_sources": json.dumps([asdict(source) for source in beamline]),
            "job_id": job.job_id,
            "start_time": _iso(job.started),
            "creation_date": _iso(datetime.now(UTC)),
            "ranks": comm.size,
            "nodes": nodes,
            "host": printable(os.uname().nodename),
            **_versions(comm),
        }

    return mpi.bcast_from_root(comm, attributes)


@cache
def _distribution(name: str) -> str:
    # slow to import and to ask, and needed on one rank only
    from importlib import metadata

    return metadata.version(name)


def _versions(comm) -> dict[str, str]:
    return {
        "python_version": sys.version.split()[0],
        "numpy_version": np.__version__,
        "h5py_version": h5py.version.version,
        "hdf5_version": h5py.version.hdf5_version,
        "libdeflate_version": LIBDEFLATE,
        "extra_data_version": _distribution("extra-data"),
        "extra_geom_version": _distribution("extra-geom"),
        **mpi.library_versions(comm),
    }


def describe_used(comm, files: Sequence[UsedFile]) -> tuple[dict, ...]:
    """Return role, path, size, mtime and sha256 of files, on all ranks; collective.

    The ranks share the work, because constants are gigabytes.

    Parameters
    ----------
    comm : Intracomm
    files : sequence of UsedFile
        On rank 0.
    """
    files = comm.bcast(tuple(files))
    digests = mpi.digests_of(comm, [file.path for file in files])
    return tuple(
        {"role": file.role, **_describe(file.path), "sha256": digests[file.path]} for file in files
    )


def describe_files(paths: Iterable[str]) -> list[dict]:
    """Return path, size in bytes and time of the last change of files; None if one has gone."""
    return [_describe(path) for path in paths]


def _describe(path: str) -> dict:
    try:
        about = Path(path).stat()
    except OSError:
        return {"path": path, "size": None, "mtime": None}
    return {"path": path, "size": about.st_size, "mtime": date_text(about.st_mtime)}


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def check_same_job(path: Path, expected: str, job: str) -> None:
    """Check that an output is of the job of another one, which nobody has replaced meanwhile.

    Parameters
    ----------
    path : Path
    expected : str
        As in `finished_file`.
    job : str
        ``job_id`` of the other one.

    Raises
    ------
    InputError
        If it is not.
    """
    with finished_file(path, expected) as file:
        if (found := str(file.attrs.get("job_id", ""))) != job:
            raise InputError(
                f"{path}: is of another job than the run's other files (job_id {found:.40}, "
                f"expected {job:.40}); if no job is writing them, process the run again"
            )
