"""Page and overview of a finished run, written."""

from pathlib import Path

from xfelmpi.experiment import Experiment
from xfelmpi.outfile import make_folder
from xfelmpi.page.images import thumbnail
from xfelmpi.page.overview import record_success, replace_file
from xfelmpi.page.runfiles import read_run_files
from xfelmpi.page.runpage import run_page


def make_report(experiment: Experiment) -> Path:
    """Write the page of a run from its output files, and the overview; one rank.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    InputError
        If the output files cannot be used.
    OSError
        If the page cannot be written.
    """
    found = read_run_files(experiment)
    page = run_page(found)
    make_folder(experiment.page.parent)
    replace_file(experiment.page, page)
    record_success(experiment, found.head, thumbnail(found))
    return experiment.page
