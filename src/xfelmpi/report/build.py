"""Page and overview of a finished run, written."""

from collections.abc import Callable
from typing import Any

from xfelmpi.core.paths import Experiment
from xfelmpi.io.replace_file import replace_text
from xfelmpi.report.detector_images import thumbnail
from xfelmpi.report.overview import record_success
from xfelmpi.report.run_files import RunFiles, read_run_files
from xfelmpi.report.run_page import run_answers, run_page
from xfelmpi.report.trends import run_numbers
from xfelmpi.report.verdicts import as_json


def make_report(experiment: Experiment, made: Callable[[str], Any] = {}.get) -> RunFiles:
    """Write the page of a run from its output files, and the overview; one rank.

    Parameters
    ----------
    experiment : Experiment
    made : callable
        See `run_page`.

    Returns
    -------
    RunFiles
        What the output files say, for the hit browser.

    Raises
    ------
    InputError
        If the output files cannot be used.
    OSError
        If the page cannot be written.
    """
    found = read_run_files(experiment)
    page = run_page(found, made)
    replace_text(experiment.page, page)
    verdicts = as_json(run_answers(found))
    numbers = run_numbers(found.run)
    record_success(experiment, found.head, thumbnail(found), verdicts, numbers)
    return found
