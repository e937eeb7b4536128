"""Checks of what Dragonfly gets: EMC file, detector file, folder; frames are in `cxi_frames`."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.io.checked import checked_array
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.mpi import alone
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.reader import read_hit_columns
from xfelmpi.output.dragonfly.binning import n_blocks
from xfelmpi.output.dragonfly.detector import background_of_blocks, make_detector
from xfelmpi.output.dragonfly.hit_list import NAME as HIT_LIST
from xfelmpi.output.dragonfly.hit_list import HitList, read_hit_list
from xfelmpi.output.dragonfly.scale import fixed_scale
from xfelmpi.output.emc import EmcFile
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs


def emc_header(outputs: Outputs) -> Iterator[Finding]:
    """The EMC file is there if there are hits; its header and size are those of these hits."""
    yield from emc_header_of(outputs, outputs.experiment.emc, len(outputs.hits))


def emc_header_of(outputs: Outputs, path: Path, n_hits: int) -> Iterator[Finding]:
    """Check header and size of an EMC file with so many hits of the run."""
    if not n_hits or not path.exists():
        yield from expect(path, "is there", path.exists(), n_hits > 0)
        return
    emc = EmcFile(path)
    pixels = outputs.run.detector_type.frame_pixels
    yield from expect(path, "num_data", emc.num_data, n_hits)
    yield from expect(path, "num_pix", emc.num_pix, n_blocks(pixels, outputs.run.config.bin))
    yield from expect(path, "type", emc.kind, 0)
    yield from expect(path, "bytes", path.stat().st_size, emc.expected_bytes)


def detector(outputs: Outputs) -> Iterator[Finding]:
    """Dragonfly's detector file is that of geometry, wavelength and settings."""
    path = outputs.experiment.dragonfly_detector
    wanted = len(outputs.hits) > 0 and bool(np.isfinite(outputs.header.geometry.distance))
    yield from expect(path, "is there", "detector" in outputs.files, wanted)
    if not wanted or "detector" not in outputs.files:
        return
    weighting = outputs.header.columns[f"{DETECTOR}/background_weighting"].values
    of_hits = outputs.run.events.wavelength, outputs.usable, weighting
    yield from detector_of(outputs, path, outputs.files["detector"], of_hits)


def detector_of(
    outputs: Outputs,
    path: Path,
    file: h5py.File,
    of_hits: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Iterator[Finding]:
    """Check an open detector file of hits of the run.

    Parameters
    ----------
    outputs : Outputs
    path : Path
    file : h5py.File
    of_hits : (ndarray, ndarray, ndarray)
        Wavelengths of which the median counts, float64 (frame,) in m; pixels that are good in
        enough of the hits, bool (module, ss, fs); weightings of the background, float64 (hit,).
    """
    settings, (wavelengths, usable, weighting) = outputs.run.config.part(OutputSettings), of_hits
    wavelength, _ = beam_wavelength(alone(), settings.photon_energy, wavelengths)
    right = make_detector(settings, outputs.header.geometry, wavelength, usable)
    yield from compare(path, "mask", file["mask"][()], right.mask, "pixel")
    values = dict(zip(("qx", "qy", "qz"), right.q, strict=True))
    values |= {"corr": right.corr, "detd": right.detd, "ewald_rad": right.ewald_rad}
    values |= {"wavelength": right.wavelength, "voxel": right.voxel}
    ground = background_of_blocks(outputs.header.background, usable, settings.bin)
    values |= {"background": ground, "scale": weighting}
    for name, value in values.items():
        yield from compare(path, name, *_nearly(file[name][()], value), "pixel")
    yield from expect(path, "bin", int(file.attrs["bin"]), settings.bin)


def _nearly(found, expected) -> tuple:
    """Return both, with what is found in place of what is expected where they agree well enough."""
    if np.shape(found) == np.shape(expected) and not np.array_equal(found, expected):
        # libraries differ in the last digit
        near = np.isclose(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)
        expected = np.where(near, found, expected)
    return found, expected


def folder(outputs: Outputs) -> Iterator[Finding]:
    """The list of the folder has the hits of the photons that are linked there, and how bright."""
    files, place = outputs.for_dragonfly, outputs.run.config.dragonfly
    if place is None or not _is_linked(place, files):
        # a note says so
        return
    path, events = place / "data" / HIT_LIST, outputs.run.events
    if outputs.run.config.where:
        columns = read_hit_columns(files.cxi)
        train, cell = (columns[name].values for name in ("trainId", "cellId"))
    else:
        train, cell = events.trainId[outputs.hits], events.cellId[outputs.hits]
    found, run = read_hit_list(path), np.full(len(train), outputs.experiment.run)
    right = HitList.of(run, train, cell, files.emc)
    for name, here, there in (
        ("run", found.run, right.run),
        ("trainId", found.train_id, right.train_id),
        ("cellId", found.cell_id, right.cell_id),
    ):
        yield from compare(path, name, here, there)
    if _pixels_changed(files):
        # photons and detector have other pixels than when the folder was made: a note says so
        return
    yield from expect(path, "emc_digest", found.emc, right.emc)
    yield from _brightness(outputs, path, files)


def _brightness(outputs: Outputs, path: Path, files: Experiment | MergedFiles) -> Iterator[Finding]:
    """Check the brightness of every hit; classes in 2-D may be made with background or without."""
    emc, pixels = files.emc, files.dragonfly_detector
    models = (True, False) if outputs.run.config.recon == "2d" else (True,)
    with open_hdf5(path) as file:
        scale = checked_array(file, "scale", np.float64, (None,))
    rights = [fixed_scale(emc, pixels, background=background) for background in models]
    differences = [list(compare(path, "scale", *_nearly(scale, right))) for right in rights]
    yield from min(differences, key=len)


def _is_linked(place: Path, files: Experiment | MergedFiles) -> bool:
    """Return whether the photons of a folder are those of these files, under either name."""
    links = (place / "data" / f"{prefix}photons.emc" for prefix in ("", "xfelmpi_"))
    return files.emc.exists() and any(link.exists() and link.samefile(files.emc) for link in links)


def _pixels_changed(files: Experiment | MergedFiles) -> bool:
    """Return whether the files were patched with another geometry, distance or mask."""
    with open_hdf5(files.cxi) as file:
        earlier, now = json.loads(file.attrs.get("patched_from", "[]")), dict(file.attrs)
    return any(_pixels_of(job) != _pixels_of(now) for job in earlier)


def _pixels_of(job: dict) -> tuple:
    """Return what settings and files say of the pixels."""
    settings, used = (json.loads(job[name]) for name in ("configuration", "used_files"))
    named = [settings.get(name) for name in ("geometry", "distance", "global_mask", "cell_mask")]
    return named, sorted((file["role"], file["sha256"]) for file in used)


def folder_notes(outputs: Outputs) -> list[str]:
    """Return what the user should know of the folder to start Dragonfly in."""
    place, files, notes = outputs.run.config.dragonfly, outputs.for_dragonfly, []
    if place is None or not len(outputs.hits):
        return []
    # beside files of the user, links have other names
    prefix = "xfelmpi_" if (place / "data" / "xfelmpi_photons.emc").is_symlink() else ""
    for name, target in (
        ("photons.emc", files.emc),
        ("detector.h5", files.dragonfly_detector),
    ):
        link = place / "data" / f"{prefix}{name}"
        if not link.exists() or not target.exists():
            notes.append(f"{link} is not there, or leads nowhere")
        elif not link.samefile(target):
            notes.append(f"{link} leads to {link.resolve()}, not to the files of this run")
    if not notes and files.cxi.exists() and _pixels_changed(files):
        notes.append(
            f"{place} is of before the files were patched: its list of hits is not compared with "
            "the photons"
        )
    return notes


def readable_emc(path: Path, n_hits: int) -> bool:
    """Return whether the frames of an EMC file with so many hits can be looked up."""
    try:
        emc = EmcFile(path)
        return emc.num_data == n_hits and emc.expected_bytes <= path.stat().st_size
    except DAMAGE:
        return False
