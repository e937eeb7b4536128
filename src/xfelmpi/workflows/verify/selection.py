"""Checks of the files of ``--where``: the hits of the run that fulfil it, as files of their own.

Everything in them is compared with the files of the run, which have been checked before: columns
and what stands once on rank 0, frames one at a time, distributed to the ranks.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import mpi
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.mpi.partition import split_trains
from xfelmpi.output.cxi.profile_names import GROUP as PROFILES
from xfelmpi.output.dragonfly.detector import usable_pixels
from xfelmpi.output.emc import EmcFile
from xfelmpi.output.hit_columns import DETECTOR, SOURCE
from xfelmpi.workflows.merge.hits import choose_hits, run_type, with_run
from xfelmpi.workflows.verify import cxi, dragonfly, provenance
from xfelmpi.workflows.verify.cxi_frames import CxiMaskReader, compare_emc
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, Results, compare, describe, expect
from xfelmpi.workflows.verify.open_outputs import Outputs, check_stored_values

ORIGIN, ROWS, FRAMES, EMC, PIXELS = (
    "selection: files of the same job",
    "selection: hits that fulfil --where",
    "selection: frames are those of the run's CXI",
    "selection: EMC frames are those of its CXI",
    "selection: Dragonfly's detector",
)

_BACKGROUND, _BACKGROUND_CELL = f"{DETECTOR}/background", f"{DETECTOR}/background_cell"
_PER_HIT = {f"{PROFILES}/{name}" for name in ("photons", "pixels")}
"""Values per hit that are no columns."""

_OWN = {"title", "name", *(f"process_1/{name}" for name, _ in provenance.PROCESS)}
_OWN |= {f"{DETECTOR}/{name}" for name in ("data", "mask")}
"""What differs from the run's file, or is compared frame by frame."""


@dataclass(frozen=True)
class _Facts:
    # what rank 0 tells the others
    cxi: Path
    emc: Path
    detector: Detector
    modules_in_run: int
    bin: int
    max_bad: float
    has_emc: bool


def check_selection(
    comm, experiment: Experiment, outputs: Outputs | None, results: Results
) -> None:
    """Check the files of ``--where``, if the job had one; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    outputs : Outputs or None
        On rank 0, with the CXI file of the run.
    results : Results
        Gets the findings, on rank 0.
    """
    with ExitStack() as stack:
        opened = mpi.run_on_root(comm, lambda: _open(stack, outputs, results))
        facts = mpi.bcast_from_root(comm, lambda: opened and opened.facts())
        if not facts:
            return
        n = mpi.bcast_from_root(comm, lambda: len(opened.rows))
        bounds = split_trains(np.ones(n, np.int64), comm.size)
        rows = mpi.scatter_rows(comm, opened.rows if opened else None, bounds)
        first = int(bounds[comm.rank])
        found, good = _check_frames(comm, experiment, facts, first, rows)
        good = mpi.allreduce_sum(comm, good).reshape(facts.detector.frame_shape)
        usable = usable_pixels(good, n, facts.max_bad)
        frames = mpi.gather_objects(comm, found)
        of_emc = mpi.gather_objects(comm, _check_emc(comm, facts, usable, first, len(rows)))
        if comm.rank == 0:
            results.add(FRAMES, frames)
            results.add(EMC, [*dragonfly.emc_header_of(outputs, facts.emc, n), *of_emc])
            path = opened.paths.dragonfly_detector
            results.run(PIXELS, lambda: opened.check_detector(usable), path)


def _open(stack: ExitStack, outputs: Outputs | None, results: Results) -> "_Selection | None":
    """Open the selection and check all but its frames; None if these cannot be compared."""
    if outputs is None or not outputs.run.config.where:
        return None
    paths, where = outputs.selection, outputs.run.config.where
    columns = with_run(outputs.header.columns, outputs.experiment.run)
    chosen = choose_hits(columns, where, outputs.experiment.run)
    names = (paths.cxi, paths.emc, paths.dragonfly_detector)
    if not chosen.any():
        findings = [f for path in names for f in expect(path, "is there", path.exists(), False)]
        results.add(ORIGIN, findings)
        return None
    try:
        file = stack.enter_context(open_hdf5(paths.cxi))
        check_stored_values(file)
        origin = _of_another_job(outputs, file)
        if origin:
            results.notes.append(f"{paths.cxi} is not compared: {origin}")
            return None
        selection = _Selection(outputs, paths, file, np.flatnonzero(chosen))
        results.run(ORIGIN, selection.check_origin, paths.cxi)
        results.run(ROWS, selection.check_rows, paths.cxi)
        shape = (len(selection.rows), *outputs.run.detector_type.frame_shape)
        comparable = all(file[f"entry_1/{DETECTOR}/{d}"].shape == shape for d in ("data", "mask"))
    except DAMAGE as error:
        results.add(ORIGIN, [Finding(paths.cxi.name, f"cannot be opened: {describe(error)}")])
        return None
    return selection if comparable else None


def _of_another_job(outputs: Outputs, file: h5py.File) -> str:
    """Return why a selection is rightly not of the job of the run's files; empty if it is."""
    if "patched_from" in file.attrs:
        return "it was patched by itself"
    earlier = json.loads(outputs.run.attributes.get("patched_from", "[]"))
    if file.attrs.get("job_id") in [job["job_id"] for job in earlier]:
        return "the run was patched, measured or classified after it was written"
    return ""


@dataclass(frozen=True)
class _Selection:
    """The open CXI file of a selection, on rank 0.

    Parameters
    ----------
    outputs : Outputs
    paths : MergedFiles
    file : h5py.File
    rows : ndarray, int64 (hit,)
        Which hits of the run's CXI file it must have.
    """

    outputs: Outputs
    paths: MergedFiles
    file: h5py.File
    rows: np.ndarray

    def facts(self) -> _Facts:
        """Return what all ranks must know."""
        run, emc = self.outputs.run, self.paths.emc
        has_emc = dragonfly.readable_emc(emc, len(self.rows))
        about = (run.detector_type, run.modules_in_run, run.config.bin, run.config.max_bad)
        return _Facts(self.paths.cxi, emc, *about, has_emc)

    def check_origin(self) -> Iterator[Finding]:
        """Files are there, of the job of the run's files, with their structure and condition."""
        path, file, outputs = self.paths.cxi, self.file, self.outputs
        yield from provenance.provenance_of(outputs, file)
        yield from provenance.same_job(outputs, file)
        yield from expect(path, "where", file.attrs.get("where"), outputs.run.config.where)
        yield from cxi.structure_of(path, file, ["entry_1"])
        named = f"{outputs.run.attributes['proposal']} {outputs.experiment.name}"
        yield from expect(path, "entry_1/name", file["entry_1/name"].asstr()[()], named)
        process = file["entry_1/process_1"]
        for name, attribute in provenance.PROCESS:
            found = process[name].asstr()[()]
            yield from expect(path, f"process_1/{name}", found, file.attrs[attribute])

    def check_rows(self) -> Iterator[Finding]:
        """All but the frames is as in the run's CXI file: values per hit, and what stands once."""
        path, run = self.paths.cxi, self.outputs.experiment.run
        own, of_run = self.file["entry_1"], self.outputs.files["cxi"]["entry_1"]
        columns = with_run(self.outputs.header.columns, run, 0, run_type((run,)))
        names = {*_datasets(of_run), "run"} - {_BACKGROUND_CELL}
        yield from expect(path, "entry_1, datasets", sorted(_datasets(own)), sorted(names))
        for name in sorted(names & {*_datasets(own)} - _OWN):
            found, where = own[name], f"entry_1/{name}"
            if name in columns:
                values = columns[name].values[self.rows]
            else:
                values = of_run[name][()]
                values = values[self.rows] if name in _PER_HIT else values
            if name == _BACKGROUND:
                # those of memory cells are not in merged hits, which have one for each run
                values = self.outputs.header.background[None]
            yield from compare(path, where, found[()], values, "value")
            yield from expect(path, f"{where}, type", found.dtype, np.asarray(values).dtype)
            if name in of_run:
                units = (item.attrs.get("units") for item in (found, of_run[name]))
                yield from expect(path, f"{where}, units", *units)
        peak = int(self.outputs.run.sums.peak[self.outputs.hits[self.rows]].max(initial=0))
        dtype = np.dtype("u2" if peak > 255 else "u1")
        yield from expect(path, "data, type", own[f"{DETECTOR}/data"].dtype, dtype)

    def check_detector(self, usable: np.ndarray) -> Iterator[Finding]:
        """Dragonfly's detector file is that of these hits."""
        path, outputs = self.paths.dragonfly_detector, self.outputs
        wanted = bool(np.isfinite(outputs.header.geometry.distance))
        yield from expect(path, "is there", path.exists(), wanted)
        if not (wanted and path.exists()):
            return
        wavelength, weighting = (
            outputs.header.columns[name].values[self.rows]
            for name in (f"{SOURCE}/photon_wavelength", f"{DETECTOR}/background_weighting")
        )
        with open_hdf5(path) as file:
            yield from provenance.same_job(outputs, file)
            yield from dragonfly.detector_of(outputs, path, file, (wavelength, usable, weighting))


def _datasets(group: h5py.Group) -> list[str]:
    """Return the names of all datasets of a group; what is linked has one."""
    names: list[str] = []

    def note(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    group.visititems(note)
    return names


def _check_frames(
    comm, experiment: Experiment, facts: _Facts, first: int, rows: np.ndarray
) -> tuple[list[Finding], np.ndarray]:
    """Compare frames and masks with those of the run's CXI file; collective.

    Returns
    -------
    findings : list of Finding
    good : ndarray, int64 (pixel,)
        In how many of these frames each pixel is good, by the run's file.
    """
    found: list[Finding] = []
    good = np.zeros(facts.detector.frame_pixels, np.int64)
    missing = ~modules_of(facts.modules_in_run, facts.detector.n_modules)
    missing = np.repeat(missing, facts.detector.module_pixels)
    with mpi.fail_together(comm), open_hdf5(facts.cxi) as own, open_hdf5(experiment.cxi) as of_run:
        (data, mask), (run_data, run_mask) = (
            [file[f"entry_1/{DETECTOR}/{name}"] for name in ("data", "mask")]
            for file in (own, of_run)
        )
        masks = CxiMaskReader(mask, missing, first, len(rows))
        low = int(rows.min(initial=0))
        run_masks = CxiMaskReader(run_mask, missing, low, int(rows.max(initial=-1)) + 1 - low)
        for number, row in enumerate(rows.tolist(), first):
            where = f"frame {number}"
            try:
                (bad, complaint), (right, _) = masks.bad(number), run_masks.bad(row)
                good += ~right
                if complaint:
                    found.append(Finding(facts.cxi.name, f"{where}: {complaint}"))
                found += compare(facts.cxi, f"{where}, bad pixels", bad, right, "pixel")
                found += compare(
                    facts.cxi, f"{where}, photons", data[number], run_data[row], "pixel"
                )
            except DAMAGE as error:
                text = f"{where}: cannot be read: {describe(error)}"
                found.append(Finding(facts.cxi.name, text))
    return found, good


def _check_emc(comm, facts: _Facts, usable: np.ndarray, first: int, n: int) -> list[Finding]:
    """Compare frames of the EMC file with those of the selection's CXI file; collective."""
    found: list[Finding] = []
    if not facts.has_emc:
        # the check of the header says so
        return found
    with mpi.fail_together(comm), open_hdf5(facts.cxi) as file:
        emc, data = EmcFile(facts.emc), file[f"entry_1/{DETECTOR}/data"]
        for number in range(first, first + n):
            try:
                image = data[number].reshape(-1)
                pixel = np.flatnonzero(image != 0)
                hit = pixel, image[pixel]
                found += compare_emc(facts.emc, emc, number, hit, (facts.bin, usable))
            except DAMAGE as error:
                text = f"frame {number}: cannot be read: {describe(error)}"
                found.append(Finding(facts.emc.name, text))
    return found
