"""The beam centre, and the quadrants, from the hits of processed runs: a new geometry file."""

import json
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.centre_fit import PowderPixels, Shifts, fit_shifts
from xfelmpi.analysis.hit_powder import NEAR, HitPowder, has_signal
from xfelmpi.calibration import geometry_file
from xfelmpi.calibration.geometry_writer import crystfel_text, moved
from xfelmpi.core.errors import EXIT_COMPLETE, InputError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import counted, log
from xfelmpi.core.paths import Experiment
from xfelmpi.io.checked import checked_array, checked_attribute
from xfelmpi.io.input_file import finished_file
from xfelmpi.io.partial_file import begin_partial, write_new
from xfelmpi.io.publish import check_writable
from xfelmpi.output.cxi.reader import FinishedHits, read_finished_hits
from xfelmpi.output.hit_columns import DETECTOR, SOURCE
from xfelmpi.output.provenance import check_same_job
from xfelmpi.output.publishing import publish_together
from xfelmpi.report import images

_MODULES_OF_QUADRANTS = 16

_MOST_ERROR = 0.5
"""Pixels: with a larger error, a shift is not applied."""

_POINT, _SHADES = 2.0, 200
"""Pixels of a point of the picture, and its colours."""


def refine_geometry(job: RunJob, runs: list[int], out: Path, *, quadrants: bool) -> int:
    """Fit the centre to the hits of runs, write the geometry, and return the exit status.

    Parameters
    ----------
    job : RunJob
        With the folders.
    runs : list of int
        Processed with one geometry.
    out : Path
        Of the geometry file.
    quadrants : bool
        Whether each quadrant moves by itself.

    Raises
    ------
    XfelmpiError
        On all ranks, if outputs cannot be used, or do not tell the centre.
    """
    comm, config = job.comm, job.config
    files = [Experiment(config.prefix, config.output, run) for run in runs]
    first = files[0]
    picture = first.geometry_picture
    written = mpi.run_on_root(comm, lambda: _refined(files, out, picture, quadrants=quadrants))
    publish_together(comm, written or [])
    if comm.rank == 0:
        log.info(f"picture, before and after: {picture}")
        log.info(f"geometry: {out}")
        names = " ".join(str(run) for run in runs)
        log.info(f"to apply it: xfelmpi patch {names} --geometry {out}")
    return EXIT_COMPLETE


def _refined(files: list[Experiment], out: Path, picture: Path, *, quadrants: bool) -> list[Path]:
    """Write geometry and picture under their temporary names; one rank."""
    for path in (out, picture):
        check_writable(path)
    powder, wavelength = sum_hits(files)
    detector = powder.geometry.detector
    if quadrants and detector.n_modules < _MODULES_OF_QUADRANTS:
        raise InputError(
            f"{files[0].cxi}: {detector.title} has no quadrants: leave out --quadrants"
        )
    _tell_of_bad_regions(files[0].cxi)
    pixels, near = powder.near(quadrants=quadrants)
    if not has_signal(pixels):
        raise InputError(f"{files[0].powder}: the hits have no photons within {NEAR} m of the beam")
    _check_parts(pixels, files[0].powder)
    found = fit_shifts(pixels)
    if not found.converged:
        raise InputError(
            f"{files[0].powder}: the centre cannot be found from the hits: the fit does not "
            "converge"
        )
    _tell(powder, found, pixels.pixel_size)
    if not found.error.max() < _MOST_ERROR * pixels.pixel_size:
        raise InputError(
            f"{files[0].powder}: the centre cannot be found from the hits: its error is "
            f"{found.error.max() / pixels.pixel_size:.1f} pixels, expected {_MOST_ERROR}"
        )
    shift = np.repeat(found.shift, detector.n_modules // pixels.n_parts, axis=0)
    new = moved(powder.geometry, shift, f"refined from {powder.n_hits} hits")
    write_new(begin_partial(out), crystfel_text(new, wavelength))
    write_new(begin_partial(picture), _picture(pixels, new.xyz.reshape(3, -1)[:, near]))
    return [out, picture]


def _check_parts(pixels: PowderPixels, path: Path) -> None:
    n_pixels = np.bincount(pixels.part, minlength=pixels.n_parts)
    if not n_pixels.all():
        without = ", ".join(str(part + 1) for part in np.flatnonzero(n_pixels == 0))
        raise InputError(
            f"{path}: no good pixels within {NEAR} m of the beam in quadrant {without}: "
            "leave out --quadrants"
        )


def _tell_of_bad_regions(cxi: Path) -> None:
    """Warn if the geometry file that a job used has bad regions; the new one will have none."""
    with finished_file(cxi, "a CXI file") as file:
        used = json.loads(checked_attribute(file, "used_files", str))
    for path in (Path(entry["path"]) for entry in used if entry["role"] == "geometry"):
        try:
            found = geometry_file.statements(geometry_file.read_text(path))
        except InputError:
            # it may be gone: the positions are those of the CXI file
            continue
        if any(name.startswith("bad") and "/" in name for name, _ in found):
            log.warning(
                f"{path} has bad regions, the new geometry has none: they stay in the masks of "
                "the runs that are patched; for others, copy them to the new file"
            )


def sum_hits(files: list[Experiment]) -> tuple[HitPowder, float]:
    """Return sums over the hits of runs, and their median wavelength in m; one rank.

    Raises
    ------
    InputError
        If outputs are missing or damaged, or of several geometries.
    """
    powders, wavelengths = [], []
    for own in files:
        header = read_finished_hits(own.cxi)
        if powders and not np.array_equal(header.geometry.xyz, powders[0].geometry.xyz):
            raise InputError(f"{own.cxi}: has another geometry than {files[0].cxi}")
        powders.append(_powder(own, header))
        wavelengths.append(header.columns[f"{SOURCE}/photon_wavelength"].values)
    known = np.concatenate(wavelengths)
    known = known[np.isfinite(known)]
    sums = [sum(getattr(p, name) for p in powders) for name in ("photons", "good", "background")]
    first, n_hits = powders[0], sum(p.n_hits for p in powders)
    powder = HitPowder(first.geometry, n_hits, first.pixels, *sums)
    return powder, float(np.median(known)) if len(known) else np.nan


def _powder(own: Experiment, header: FinishedHits) -> HitPowder:
    frame = header.geometry.detector.frame_shape
    with finished_file(own.cxi, "a CXI file") as file:
        job = checked_attribute(file, "job_id", str)
    check_same_job(own.powder, "a powder file", job)
    with finished_file(own.powder, "a powder file") as file:
        photons = checked_array(file, "powder_hits", np.uint64, frame)
        good = checked_array(file, "good_frames_hits", np.uint32, frame)
    weighting = header.columns[f"{DETECTOR}/background_weighting"].values
    mean = float(weighting.mean()) if len(weighting) else 0.0
    sums = (photons, good, header.background * mean)
    return HitPowder.of_sums(header.geometry, len(weighting), *sums)


def _tell(powder: HitPowder, found: Shifts, pixel_size: float) -> None:
    log.info(f"from {counted(powder.n_hits, 'hit')}, misfit {found.misfit:.2f}")
    for part, (shift, error) in enumerate(zip(found.shift, found.error, strict=True), 1):
        name = "detector" if len(found.shift) == 1 else f"quadrant {part}"
        along = (
            f"{axis} {1e3 * by:+.4f} ± {1e3 * e:.4f} mm ({by / pixel_size:+.2f} pixels)"
            for axis, by, e in zip("xy", shift, error, strict=True)
        )
        log.info(f"{name} moved by {', '.join(along)}")


def _picture(pixels: PowderPixels, new: np.ndarray) -> bytes:
    """Return a PNG: the powder over its mean around the beam, before on the left, and after."""
    halves = []
    for xyz in (pixels.xyz, new):
        radius = np.hypot(xyz[0], xyz[1])
        ring = (radius / pixels.pixel_size).astype(np.int64)
        exposure = np.maximum(np.bincount(ring, pixels.exposure), 1e-300)
        mean = np.bincount(ring, pixels.photons) / exposure
        raster = images.make_raster(xyz, _POINT, pixels.pixel_size)
        image = images.assemble(raster, pixels.photons, pixels.exposure * mean[ring])
        halves.append(images.shade(image, (0.5, 2.0), _SHADES))
    shown = np.zeros((max(len(half) for half in halves), 0), np.uint8)
    for half in halves:
        rest = ((0, len(shown) - len(half)), (0, 8))
        shown = np.concatenate([shown, np.pad(half, rest, constant_values=images.GAP)], axis=1)
    return images.png(shown, images.palette(_SHADES))
