"""The pages of classes, made from what the columns of finished runs say."""

import numpy as np

from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.io.replace_file import replace_text
from xfelmpi.output.cxi.reader import HitColumn, read_hit_columns
from xfelmpi.output.dragonfly.classes import Classes
from xfelmpi.report.classes_page import ClassOfRun, classes_page
from xfelmpi.workflows.merge.hits import choose_hits, with_run

_CLASS, _WEIGHT, _SIZE = "classes/class", "classes/class_weight", "sizing/diameter"


def check_where(sets: list[Experiment], where: str | None) -> None:
    """Check a condition against the columns that the hits will have; one rank.

    Raises
    ------
    UsageError
        If it cannot be used.
    """
    for files in sets if where else ():
        columns = read_hit_columns(files.cxi)
        n_hits = len(columns["trainId"].values)
        columns[_CLASS] = HitColumn(np.zeros(n_hits, np.int16), {})
        columns[_WEIGHT] = HitColumn(np.zeros(n_hits, np.float32), {})
        choose_hits(with_run(columns, files.run), where, files.run)


def write_pages(sets: list[Experiment], found: Classes, where: str | None = None) -> None:
    """Write ``report/rRRRR_classes.html`` of every run; one rank.

    Parameters
    ----------
    sets : list of Experiment
    found : Classes
    where : str, optional
        Condition of the hits that are counted.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    for files in sets:
        columns = read_hit_columns(files.cxi)
        wanted = choose_hits(with_run(columns, files.run), where, files.run)
        number = columns[_CLASS].values[wanted]
        size = np.full(len(number), np.nan)
        if _SIZE in columns:
            size = columns[_SIZE].values[wanted] * 1e9
        shown = [
            ClassOfRun(i, average, size[number == i], int((number == i).sum()))
            for i, average in enumerate(found.average)
        ]
        n_without = int((number < 0).sum())
        page = classes_page(files.name, shown, n_without, str(found.path), where)
        replace_text(files.classes_page, page)
        log.info(f"classes: {files.classes_page}")
