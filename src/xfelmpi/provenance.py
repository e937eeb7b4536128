"""What every output file says about where it comes from, as attributes of its root group."""

import json
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime

import h5py

from xfelmpi import __version__, collective
from xfelmpi.experiment import Experiment
from xfelmpi.frametable import ModuleFile


def provenance(
    experiment: Experiment, configuration: str, files: Iterable[ModuleFile], argv: list[str]
) -> dict:
    """Return the root attributes of every file.

    Parameters
    ----------
    experiment : Experiment
    configuration : str
        All settings, as JSON.
    files : iterable of ModuleFile
        The input.
    argv : list of str
        The command line, without the program's name.
    """
    return {
        "run": experiment.run,
        "proposal": experiment.proposal,
        "program": "xfelmpi",
        "program_version": __version__,
        "command_line": shlex.join(["xfelmpi", *argv]),
        "configuration": configuration,
        "input_files": json.dumps([file.path for file in files]),
        "creation_date": datetime.now(UTC).isoformat(timespec="seconds"),
        "h5py_version": h5py.version.version,
        "hdf5_version": h5py.version.hdf5_version,
        **collective.library_versions(),
    }
