"""Checks of what was computed for every hit: sizes, and what else ``--analyse`` named."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.analysis.hit_analysis import HitAnalysis, chosen_analyses
from xfelmpi.core.config.choices import CLASS_COLUMNS
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.output.hit_columns import INSTRUMENT
from xfelmpi.workflows.analyse_cxi import hits_of_file, median_wavelength, run_of_file
from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_CHECKED = 8
"""Hits that are analysed again."""

_DETERMINED = 0.2
"""Relative error of the fluence of a hit whose diameter is one."""

_TOLERANCE = 0.01
"""Relative; sums of the same numbers in another order differ in the last digits only."""


def _classes(outputs: Outputs) -> dict[str, type[HitAnalysis]]:
    run = outputs.run
    settings = run.config.part(AnalysisSettings)
    wavelength = median_wavelength(settings.photon_energy, run.events.wavelength)
    return chosen_analyses(settings, outputs.header.geometry.distance, wavelength)


def columns(outputs: Outputs) -> Iterator[Finding]:
    """Columns of the analyses are there, hits alone have values, and the CXI has the same."""
    events, cxi, path = outputs.files["events"], outputs.files["cxi"], outputs.experiment.events
    is_hit = outputs.run.events.is_hit
    for name, cls in _classes(outputs).items():
        for about in cls.columns:
            dataset = events[about.name]
            yield from expect(path, f"{about.name}, shape", dataset.shape, is_hit.shape)
            yield from expect(path, f"{about.name}, type", dataset.dtype, np.dtype(about.dtype))
            found = tuple(str(dataset.attrs.get(key, "")) for key in ("source", "units"))
            yield from expect(
                path, f"{about.name}, source and units", found, (f"analysis {name}", about.units)
            )
            values = dataset[()]
            others = np.isnan(values[~is_hit])
            yield from compare(path, f"{about.name} of non-hits is NaN", others, others | True)
            where = f"entry_1/{about.group or INSTRUMENT}/{about.name}"
            yield from compare(outputs.experiment.cxi, where, cxi[where][()], values[is_hit])


def classes(outputs: Outputs) -> Iterator[Finding]:
    """Columns of classes are there together, hits alone have values, and the CXI has the same."""
    events, cxi, path = outputs.files["events"], outputs.files["cxi"], outputs.experiment.events
    is_hit, entry = outputs.run.events.is_hit, cxi["entry_1"]
    there = {name: (name in events, f"classes/{name}" in entry) for name in CLASS_COLUMNS}
    if not any(map(any, there.values())):
        return
    for name, found in there.items():
        yield from expect(path, f"{name} in the events file and the CXI file", found, (True, True))
    if not all(map(all, there.values())):
        return
    number, weight = (events[name][()] for name in CLASS_COLUMNS)
    yield from expect(path, "class, type", number.dtype, np.dtype(np.int16))
    yield from expect(path, "class_weight, type", weight.dtype, np.dtype(np.float32))
    yield from compare(path, "class of non-hits is -1", number[~is_hit] == -1, ~is_hit[~is_hit])
    known = number >= 0
    right = np.where(known, (weight > 0) & (weight <= 1), np.isnan(weight) & (number == -1))
    yield from compare(
        path, "class_weight is from 0 to 1, NaN without a class", right, right | True
    )
    for name, values in zip(CLASS_COLUMNS, (number, weight), strict=True):
        found = entry[f"classes/{name}"][()]
        yield from compare(outputs.experiment.cxi, f"entry_1/classes/{name}", found, values[is_hit])


def again(outputs: Outputs) -> Iterator[Finding]:
    """Some hits have the values that their frames in the CXI file give."""
    run, path = outputs.run, outputs.experiment.cxi
    hits = outputs.hits
    chosen = (
        np.unique(np.linspace(0, len(hits) - 1, _CHECKED).astype(np.int64)) if len(hits) else []
    )
    classes = _classes(outputs)
    if not classes or not len(chosen):
        return
    settings = run.config.part(AnalysisSettings)
    wavelength = median_wavelength(settings.photon_energy, run.events.wavelength)
    about = run_of_file(settings, outputs.header, wavelength)
    analyses = {name: cls(about) for name, cls in classes.items()}
    for part, block in hits_of_file(settings.photon_energy, path, outputs.header, chosen):
        for analysis in analyses.values():
            for column, values in zip(analysis.columns, analysis.process(block), strict=True):
                if column.units == "rad":
                    # of a particle that is nearly round, it may be any
                    continue
                found = outputs.files["events"][column.name][()][hits[part]]
                close = np.isclose(found, values, _TOLERANCE, equal_nan=True)
                close |= _undetermined(outputs, hits[part])
                yield from compare(
                    path, f"{column.name} of hits analysed again", close, np.ones_like(close), "hit"
                )


def _undetermined(outputs: Outputs, rows: np.ndarray) -> np.ndarray:
    """Return which hits have no size worth the name: rounding may move it anywhere."""
    events = outputs.files["events"]
    if "fluence_error" not in events:
        return np.zeros(len(rows), bool)
    # with few photons the diameter may jump to another fringe; the error of the fluence tells
    fluence, error = events["fluence"][()][rows], events["fluence_error"][()][rows]
    return ~(error < _DETERMINED * fluence)
