"""The pages of classes, made from what the columns of finished runs say."""

import numpy as np

from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.io.replace_file import replace_text
from xfelmpi.output.cxi.reader import read_hit_columns
from xfelmpi.output.dragonfly.classes import Classes
from xfelmpi.report.classes_page import ClassOfRun, classes_page

_CLASS, _SIZE = "classes/class", "sizing/diameter"


def write_pages(sets: list[Experiment], found: Classes) -> None:
    """Write ``report/rRRRR_classes.html`` of every run; one rank.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    for files in sets:
        columns = read_hit_columns(files.cxi)
        number = columns[_CLASS].values
        size = np.full(len(number), np.nan)
        if _SIZE in columns:
            size = columns[_SIZE].values * 1e9
        shown = [
            ClassOfRun(i, average, size[number == i], int((number == i).sum()))
            for i, average in enumerate(found.average)
        ]
        page = classes_page(files.name, shown, int((number < 0).sum()), str(found.path))
        replace_text(files.classes_page, page)
        log.info(f"classes: {files.classes_page}")
