"""What every output file says about where it comes from, as attributes of its root group."""

import json
from datetime import UTC, datetime

import h5py

from xfelmpi import __version__, collective
from xfelmpi.config import Config
from xfelmpi.experiment import Experiment
from xfelmpi.runindex import ModuleFile


def provenance(
    experiment: Experiment, config: Config, files: tuple[ModuleFile, ...], argv: list[str]
) -> dict:
    """Return the root attributes of every file.

    Parameters
    ----------
    experiment : Experiment
    config : Config
    files : tuple of ModuleFile
        The input.
    argv : list of str
        The command line, without the program's name.
    """
    return {
        "run": config.run,
        "proposal": experiment.proposal,
        "program": "xfelmpi",
        "program_version": __version__,
        "command_line": " ".join(["xfelmpi", *argv]),
        "configuration": config.to_json(),
        "input_files": json.dumps([file.path for file in files]),
        "creation_date": datetime.now(UTC).isoformat(timespec="seconds"),
        "h5py_version": h5py.version.version,
        "hdf5_version": h5py.version.hdf5_version,
        **collective.library_versions(),
    }
