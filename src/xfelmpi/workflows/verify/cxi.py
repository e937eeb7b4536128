"""Checks of the CXI file but for its frames: rows, shapes, links, attributes, what stands once."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.units import PLANCK_TIMES_C
from xfelmpi.mpi import alone
from xfelmpi.output.hit_columns import DETECTOR, SOURCE
from xfelmpi.reduction.background import mean_background
from xfelmpi.reduction.cell_background import background_row
from xfelmpi.reduction.run_sums import background_weights
from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_CLASSES = {
    "": "NXentry",
    "process_1": "NXprocess",
    "sample_1": "NXsample",
    "data_1": "NXdata",
    "instrument_1": "NXinstrument",
    SOURCE: "NXsource",
    DETECTOR: "NXdetector",
}
_CLOSE = 1e-3
"""How well the photons of a background in float32 are known, and of pixels bad in few frames."""

_TEXTS = ("title", "name", "start_time", "sample_1/name", "instrument_1/name")
_FRAME_AXES = "experiment_identifier:module_identifier:y:x"
_UNITS = {
    f"{SOURCE}/photon_energy": "J",
    f"{SOURCE}/photon_wavelength": "m",
    f"{SOURCE}/pulse_energy": "J",
    f"{DETECTOR}/photon_counts": "photons",
    f"{DETECTOR}/data": "photons",
    f"{DETECTOR}/powder": "photons",
    f"{DETECTOR}/background": "photons",
    **{
        f"{DETECTOR}/{name}": "m"
        for name in (
            *("x_pixel_size", "y_pixel_size", "distance"),
            *("xyz_map", "corner_position", "basis_vectors"),
            *("tile_corner_position", "tile_basis_vectors"),
        )
    },
    f"{DETECTOR}/pixel_area": "m2",
}


def structure(outputs: Outputs) -> Iterator[Finding]:
    """Entries, classes, links, axes and units are those that CXI and its readers need."""
    entries = list(outputs.rows_of_entries)
    yield from structure_of(outputs.experiment.cxi, outputs.files["cxi"], entries)


def structure_of(path: Path, file: h5py.File, entries: list[str]) -> Iterator[Finding]:
    """Check the structure of an open CXI file, given the names of the entries that it must have."""
    yield from expect(path, "cxi_version", int(file["cxi_version"][()]), 160)
    yield from expect(path, "default", file.attrs.get("default"), "entry_1")
    found = sorted(name for name in file if name.startswith("entry_"))
    yield from expect(path, "entries", found, sorted(entries))
    for name in entries:
        entry = file[name]
        for group, kind in _CLASSES.items():
            attributes = entry[group or "."].attrs
            yield from expect(path, f"{name}/{group}, class", attributes.get("NX_class"), kind)
        for link in ("background_index", "background_weighting"):
            here, there = entry[link], entry[f"{DETECTOR}/{link}"]
            yield from expect(path, f"{name}/{link} is {there.name}", here == there, True)
        for link in ("data", "module_identifier"):
            here, there = entry[f"data_1/{link}"], entry[f"{DETECTOR}/{link}"]
            yield from expect(path, f"{name}/data_1/{link} is {there.name}", here == there, True)
        yield from expect(path, f"{name}, default", entry.attrs.get("default"), "data_1")
        yield from expect(path, f"{name}, signal", entry["data_1"].attrs.get("signal"), "data")
        for text in _TEXTS:
            yield from expect(path, f"{name}/{text} is text", entry[text].dtype.kind, "S")
        for dataset, units in _UNITS.items():
            yield from expect(
                path, f"{name}/{dataset}, units", entry[dataset].attrs.get("units"), units
            )
        for dataset in ("data", "mask"):
            axes = entry[f"{DETECTOR}/{dataset}"].attrs.get("axes")
            yield from expect(path, f"{name}/{dataset}, axes", axes, _FRAME_AXES)


def shapes(outputs: Outputs) -> Iterator[Finding]:
    """Frames and masks have their shapes and types, one of each for every row."""
    path, file = outputs.experiment.cxi, outputs.files["cxi"]
    about = outputs.run.detector_type
    for name, rows in outputs.rows_of_entries.items():
        detector = file[f"{name}/{DETECTOR}"]
        peak = int(outputs.run.sums.peak[rows].max(initial=0))
        types = {"data": np.dtype("u2" if peak > 255 else "u1"), "mask": np.dtype("u4")}
        for dataset, dtype in types.items():
            where = f"{name}/{dataset}"
            shape = (len(rows), *about.frame_shape)
            yield from expect(path, f"{where}, shape", detector[dataset].shape, shape)
            yield from expect(path, f"{where}, type", detector[dataset].dtype, dtype)
        for dataset, shape, kind in (
            ("good_pixels", about.frame_shape, "b"),
            ("powder", about.frame_shape, "u"),
            ("background", (*_rows_of_backgrounds(detector), *about.frame_shape), "f"),
            ("xyz_map", (3, *about.frame_shape), "f"),
            ("corner_position", (about.n_modules, 3), "f"),
            ("basis_vectors", (about.n_modules, 2, 3), "f"),
            ("module_identifier", (about.n_modules,), "S"),
            ("tile_corner_position", (len(about.tile_names), 3), "f"),
            ("tile_basis_vectors", (len(about.tile_names), 2, 3), "f"),
            ("tile_identifier", (len(about.tile_names),), "S"),
        ):
            yield from expect(path, f"{name}/{dataset}, shape", detector[dataset].shape, shape)
            found = detector[dataset].dtype.kind
            yield from expect(path, f"{name}/{dataset}, kind of type", found, kind)


def _rows_of_backgrounds(detector: h5py.Group) -> tuple[int, ...]:
    """Return how many backgrounds there are, if there may be several."""
    return detector["background_cell"].shape if "background_cell" in detector else ()


def rows(outputs: Outputs) -> Iterator[Finding]:
    """Every value per frame is that of the events file, in its order."""
    path, file, events = outputs.experiment.cxi, outputs.files["cxi"], outputs.run.events
    weights = background_weights(alone(), events, outputs.run.modules_in_run, outputs.run.was_read)
    detector = file[f"entry_1/{DETECTOR}"]
    named = "background_cell" in detector
    cells = detector["background_cell"][1:] if named else np.empty(0, np.int32)
    for name, chosen in outputs.rows_of_entries.items():
        entry, e = file[name], events.take(chosen)
        expected = {
            "trainId": e.trainId,
            "cellId": e.cellId,
            "pulseId": e.pulseId,
            "vds_index": chosen.astype(np.uint64),
            f"{SOURCE}/photon_wavelength": e.wavelength,
            f"{SOURCE}/photon_energy": PLANCK_TIMES_C / e.wavelength,
            f"{SOURCE}/pulse_energy": e.pulse_energy,
            f"{DETECTOR}/lit_pixels": e.litpixels,
            f"{DETECTOR}/photon_counts": e.photons,
            f"{DETECTOR}/hit_score": e.hitscore,
            f"{DETECTOR}/hit_sigma": e.hit_sigma,
            f"{DETECTOR}/background_weighting": weights[chosen],
            f"{DETECTOR}/background_index": background_row(cells, e.cellId),
        }
        if outputs.mask_patched:
            # by the sums that the non-hits had before
            del expected[f"{DETECTOR}/background_weighting"]
        for text in outputs.run.config.add:
            column = text.partition("=")[0]
            expected[f"instrument_1/{column}"] = outputs.files["events"][column][()][chosen]
        for dataset, values in expected.items():
            yield from compare(path, f"{name}/{dataset}", entry[dataset][()], values)
        yield from _identifiers(outputs, entry, e)


def _backgrounds_of_cells(outputs: Outputs) -> Iterator[Finding]:
    """Each background of a memory cell has the photons of the cell's non-hits."""
    path, events, cells = outputs.experiment.cxi, outputs.run.events, outputs.header.background_cell
    wanted = outputs.run.config.background == "cell"
    yield from expect(path, "has backgrounds of memory cells", cells is not None, wanted)
    if cells is None or outputs.mask_patched:
        return
    non_hits = outputs.run.was_read & ~events.is_hit & ~events.is_dark
    rows = outputs.files["cxi"][f"entry_1/{DETECTOR}/background"]
    for number, cell in enumerate(cells[1:].tolist(), 1):
        own = non_hits & (events.cellId == cell)
        mean = np.nansum(rows[number].reshape(len(rows[number]), -1), axis=1, dtype=np.float64)
        frames = [(events.modules[own] >> module & 1).sum() for module in range(len(mean))]
        photons, found = int(events.photons[own].sum()), float(mean @ frames)
        # pixels that are bad in some frames alone have a mean over fewer
        whole = abs(found - photons) <= _CLOSE * photons
        right = found >= (1 - _CLOSE) * photons if "run" in outputs.run.config.mask else whole
        what = f"background of memory cell {cell} has the {photons:,} photons of its non-hits"
        yield from expect(path, what, bool(right), True)


def _identifiers(outputs: Outputs, entry: h5py.Group, events) -> Iterator[Finding]:
    path = outputs.experiment.cxi
    prefix = f"{outputs.run.attributes['proposal']}_{outputs.experiment.name}"
    names = np.array(
        [f"{prefix}_t{t}_c{c}".encode() for t, c in zip(events.trainId, events.cellId, strict=True)]
    )
    found = entry["experiment_identifier"][()]
    yield from compare(
        path, f"{entry.name}/experiment_identifier", found, names.astype(found.dtype)
    )


def singles(outputs: Outputs) -> Iterator[Finding]:
    """Powder, background and geometry fit the powder file and the settings."""
    path, header = outputs.experiment.cxi, outputs.header
    suffixes = ["", "_hits"] + (["_dark"] if "powder_dark" in outputs.files["powder"] else [])
    sums = [[outputs.powder(f"{name}{s}") for name in ("powder", "good_frames")] for s in suffixes]
    powder, good = sums[0]
    yield from compare(path, "powder", header.powder.reshape(-1), powder, "pixel")
    mean = mean_background(*sums)
    yield from compare(path, "background", header.background.reshape(-1), mean, "pixel")
    yield from _backgrounds_of_cells(outputs)
    never = good[~header.good_pixels.reshape(-1)]
    yield from compare(
        path, "frames in which pixels count that good_pixels excludes", never, never * 0, "pixel"
    )
    geometry, distance = header.geometry, outputs.run.config.distance
    if distance is not None:
        yield from expect(path, "distance", geometry.distance, distance)
    positions = np.isfinite(geometry.xyz[:2]).all()
    yield from expect(path, "xyz_map has a place for every pixel", bool(positions), True)
    detector = outputs.files["cxi"][f"entry_1/{DETECTOR}"]
    names = ("y_pixel_size", "x_pixel_size")
    for name, size in zip(names, outputs.run.detector_type.pixel_size, strict=True):
        yield from expect(path, name, float(detector[name][()]), size)
