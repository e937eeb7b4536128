"""Checks of the events file: columns, order, sums that must fit each other, the decision."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.core.event_table import EventColumns
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.output.events import PROBLEM_TYPE, SUMS, UNITS
from xfelmpi.workflows.rethreshold import decide_finished
from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_TYPES = {
    **{"trainId": "u8", "pulseId": "u8", "cellId": "u2", "litpixels": "u4", "photons": "u8"},
    **{"hitscore": "f4", "is_hit": "?", "is_miss": "?", "hit_median": "f4", "hit_std": "f4"},
    **{"hit_threshold": "f4", "hit_sigma": "f4", "pulse_energy": "f8", "wavelength": "f8"},
    **{"modules": "u2", "gain_switched": "u4", "n_pulses": "u1", "pumped": "u1"},
    **{"sums/ones": "u4", "sums/peak": "u2", "sums/entries": "u4"},
}
"""Of `EventColumns` and ``sums``, as docs/formats.md says; columns of ``--add`` are f8."""


def columns(outputs: Outputs) -> Iterator[Finding]:
    """All columns of the events file are there, equally long, of their types, with units."""
    path, file = outputs.experiment.events, outputs.files["events"]
    n = len(file["trainId"])
    names = [name for name in EventColumns.__dataclass_fields__ if name != "added"]
    names += [f"sums/{name}" for name in SUMS]
    if outputs.run.attributes["data"] == "proc":
        names.remove("gain_switched")
    if "pumped" not in file:
        names.remove("pumped")
    added = [text.partition("=")[0] for text in outputs.run.config.add]
    for name in (*names, *added):
        dataset = file[name]
        inner = (2,) if name == "gain_switched" else ()
        yield from expect(path, f"{name}, shape", dataset.shape, (n, *inner))
        dtype = np.dtype(_TYPES.get(name, "f8"))
        yield from expect(path, f"{name}, type", dataset.dtype, dtype)
        if name in UNITS:
            yield from expect(path, f"{name}, units", dataset.attrs.get("units"), UNITS[name])
        if name in added:
            # the others have been read
            dataset[()]
            yield from expect(path, f"{name} has its source", "source" in dataset.attrs, True)


def order(outputs: Outputs) -> Iterator[Finding]:
    """Rows are in ascending order of train and cell, none twice."""
    path, events = outputs.experiment.events, outputs.run.events
    train, cell = events.trainId, events.cellId.astype(np.int64)
    same = train[1:] == train[:-1]
    ascends = (train[1:] > train[:-1]) | (same & (cell[1:] > cell[:-1]))
    yield from compare(path, "ascending (trainId, cellId)", ascends, np.ones_like(ascends), first=1)
    most = outputs.run.detector_type.max_cells
    yield from compare(path, f"cellId below {most}", cell < most, np.ones(len(cell), bool))


def sums(outputs: Outputs) -> Iterator[Finding]:
    """Sums of every frame fit each other, and its modules are those of the run."""
    path, e, s = outputs.experiment.events, outputs.run.events, outputs.run.sums
    lit, photons, ones, peak = (
        a.astype(np.int64) for a in (e.litpixels, e.photons, s.ones, s.peak)
    )
    multi = lit - ones
    possible = {
        "sums/ones up to litpixels": ones <= lit,
        "sums/entries from litpixels on": s.entries >= lit,
        # every pixel that has more than one photon has from 2 to peak
        "photons by ones, litpixels and peak": (photons >= ones + 2 * multi)
        & (photons <= ones + multi * np.maximum(peak, 1)),
        "sums/peak by ones and litpixels": np.where(multi > 0, peak > 1, peak == (lit > 0)),
        "modules of the run": (e.modules & ~np.uint16(outputs.run.modules_in_run)) == 0,
    }
    for what, right in possible.items():
        yield from compare(path, what, right, np.ones_like(right))
    config = outputs.run.config
    everywhere = outputs.run.whole and config.hit_mask is None and config.hit_modules is None
    region = "hit-finding region" in str(outputs.run.attributes.get("used_files"))
    # what other scores must be is told by the run alone
    columns = {"litpixels": lit, "photons": photons}
    if everywhere and not region and config.normalise == "none" and config.score in columns:
        score = columns[config.score].astype(np.float32)
        score[np.isnan(e.hitscore)] = np.nan
        if outputs.mask_patched:
            # hits were found before pixels were masked, which can only lower their sums
            earlier = (e.is_hit | e.is_miss) & (e.hitscore > score)
            score = np.where(earlier, e.hitscore, score)
        yield from compare(path, f"hitscore ({config.score})", e.hitscore, score)


def decision(outputs: Outputs) -> Iterator[Finding]:
    """Hits, misses and statistics are those that the scores and settings give."""
    path, events = outputs.experiment.events, outputs.run.events
    if outputs.run.config.hits == "own":
        again = decide_finished(outputs.run.config, outputs.run)
        for name in ("is_hit", "is_miss", "hit_median", "hit_std", "hit_threshold", "hit_sigma"):
            yield from compare(path, name, getattr(events, name), getattr(again, name))
    else:
        # somebody else's hits, which only have to be those of their thresholds
        below = events.is_hit & ~(events.hitscore > events.hit_threshold)
        yield from compare(path, "hits up to the threshold", below, np.zeros_like(below))
    both = events.is_hit & events.is_miss
    yield from compare(path, "hit and miss at once", both, np.zeros_like(both))


def pulses(outputs: Outputs) -> Iterator[Finding]:
    """Frames without an X-ray pulse have no energy, and are neither hits nor misses."""
    path, events = outputs.experiment.events, outputs.run.events
    dark = events.is_dark
    energy = events.pulse_energy[dark]
    yield from compare(path, "pulse_energy of dark frames", energy, energy * 0)
    chosen = dark & (events.is_hit | events.is_miss)
    yield from compare(path, "dark frames among hits and misses", chosen, np.zeros_like(chosen))
    if events.pumped is not None:
        known = np.isin(events.pumped, (0, 1, 255))
        yield from compare(path, "pumped is 0, 1 or 255", known, np.ones_like(known))


def problems(outputs: Outputs) -> Iterator[Finding]:
    """The table of problems can be read, and says why frames are incomplete."""
    path, table = outputs.experiment.events, outputs.files["events"]["problems"]
    yield from expect(path, "problems, type", table.dtype, PROBLEM_TYPE)
    n_modules = outputs.run.detector_type.n_modules
    for i, p in enumerate(outputs.run.problems):
        if not p.what or not p.action or not -1 <= p.module < n_modules:
            yield Finding(path.name, f"problem {i}: {p}, expected what, action and a module")
    incomplete = int((~outputs.run.complete).sum())
    if incomplete and not len(table):
        yield Finding(path.name, f"{incomplete:,} frames lack modules, but there is no problem")


def virtual(outputs: Outputs) -> Iterator[Finding]:
    """The virtual dataset has the frames of the events file, and its sources are there."""
    file, events = outputs.files["vds"], outputs.run.events
    path = outputs.experiment.vds(str(outputs.run.attributes["data"]))
    image = file[f"INSTRUMENT/{outputs.run.attributes['detector']}/DET/image"]
    for name in ("trainId", "pulseId", "cellId"):
        yield from compare(path, name, image[name][()], getattr(events, name))
    raw = outputs.run.attributes["data"] == "raw"
    about = outputs.run.detector_type
    planes = (about.raw_planes,) if raw else ()
    shape = (about.n_modules, len(events.trainId), *planes, *about.module_shape)
    yield from expect(path, "data, shape", image["data"].shape, shape)
    for name in sorted({source.file_name for source in image["data"].virtual_sources()}):
        # HDF5 reads fill values, and says nothing, where a source is not there
        source = path.parent / name.replace("%%", "%")
        try:
            open_hdf5(source).close()
        except OSError:
            yield Finding(path.name, f"source {source} is not there, or no HDF5 file")
