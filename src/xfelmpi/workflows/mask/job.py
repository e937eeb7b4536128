"""Making a mask per memory cell: the stages in order."""

import resource
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.plausible import LEAST_GOOD
from xfelmpi.core import fault_injection
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL, OutputError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem, summarised
from xfelmpi.core.progress import Progress
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import pack, unpack
from xfelmpi.io.publish import check_writable
from xfelmpi.output.mask_file import write_mask
from xfelmpi.output.provenance import describe_used, provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.reduction.frame_loop import run_pass
from xfelmpi.reduction.memory_budget import base_memory
from xfelmpi.reduction.observers import PassProgress
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.workflows.mask.bad_pixels import KINDS, asic_edges
from xfelmpi.workflows.mask.cell_mask import (
    PartJudge,
    Tally,
    dead_asics,
    mask_dead_asics,
    noise_outliers,
)
from xfelmpi.workflows.mask.cell_powder_file import CellPowderWriter
from xfelmpi.workflows.mask.cell_sums import (
    BYTES_PER_ENTRY,
    CellSums,
    LabelledFrames,
    Part,
    plan_parts,
)
from xfelmpi.workflows.mask.inputs import MaskInputs, MaskOptions, load_mask_inputs, used_files
from xfelmpi.workflows.summary import problem_lines


def make_mask(job: RunJob, options: MaskOptions) -> int:
    """Make the mask of a run on all ranks and return the exit status.

    Raises
    ------
    XfelmpiError
        On all ranks, if the run or another input cannot be used, or an output not be written.
    """
    start = monotonic()
    comm, experiment, config = job.comm, job.experiment, job.config
    path = options.mask_file or experiment.cell_mask
    mpi.run_on_root(comm, lambda: _refuse_to_replace(path, options))
    log.info("indexing the run …")
    inputs = load_mask_inputs(job, options)
    job = job.of_proposal(inputs.local_run.facts.proposal)
    experiment = job.experiment
    mpi.run_on_root(comm, lambda: _prepare(experiment, path, options))
    facts, masks, calibration = inputs.local_run.facts, inputs.masks, inputs.calibration
    used = describe_used(comm, used_files(experiment, options, inputs))
    attributes = provenance(job, facts.input_files, used)
    writer = None
    if options.powder_cells:
        split = inputs.events is not None
        writer = CellPowderWriter(
            comm,
            experiment.cell_powder,
            attributes,
            facts.cells,
            facts.detector_type,
            split=split,
        )
    good, tally, problems = _sum_and_judge(comm, config, options, inputs, writer)
    found_before = _add_other_masks(comm, options, inputs, good, tally)
    problems += inputs.local_run.problems
    if comm.rank == 0:
        problems += [*masks.problems, *(calibration.problems if calibration else ())]
    problems = summarised(mpi.gather_objects(comm, problems))
    written = [path, *([experiment.cell_powder] if writer else [])]
    detector = facts.detector_type
    mpi.run_on_root(comm, lambda: write_mask(path, attributes, facts.cells, good, detector))
    publish_together(comm, written, point="mask")
    peak = mpi.allreduce_max(comm, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if comm.rank == 0:
        for line in _summary(inputs, tally, found_before, good):
            log.info(line)
        log.info(f"memory     {peak / 2**20:14,.0f}   MiB peak per rank ({comm.size} ranks)")
        log.info(f"time       {monotonic() - start:14.2f}   s")
        for line in problem_lines(problems, "the others are of the same kinds"):
            log.info(line)
        for line in ("files written:", *(f"  {name}" for name in written)):
            log.info(line)
    return EXIT_PARTIAL if comm.bcast(bool(problems)) else EXIT_COMPLETE


def _refuse_to_replace(path: Path, options: MaskOptions) -> None:
    if path.exists() and not options.overwrite:
        raise OutputError(f"{path} exists; --overwrite replaces it, --mask-file writes elsewhere")


def _prepare(experiment: Experiment, path: Path, options: MaskOptions) -> None:
    check_writable(path)
    if options.powder_cells:
        check_writable(experiment.cell_powder)


def _sum_and_judge(
    comm, config: Config, options: MaskOptions, inputs: MaskInputs, writer: CellPowderWriter | None
) -> tuple[np.ndarray, Tally, list[Problem]]:
    """Sum and judge the detector part by part; collective.

    Returns
    -------
    good : ndarray, uint8 (module, cell, byte)
        Bits of the good pixels.
    tally : Tally
        Of all ranks.
    problems : list of Problem
        Of this rank.
    """
    facts, masks = inputs.local_run.facts, inputs.masks
    detector = facts.detector_type
    spare = max(0, config.memory_per_rank - base_memory(detector.frame_pixels))
    capacity = max(detector.frame_pixels, spare // 4 // BYTES_PER_ENTRY)
    planes = 3 if writer is None else 6
    n_cells = len(facts.cells)
    parts = plan_parts(detector, facts.modules_in_run, n_cells, planes, spare // 2, comm.size)
    log.info(_plan(parts))
    files = FilePool(facts.files)
    signal = (config.adu_per_photon, config.photon_threshold)
    sparsifier = Sparsifier(files, masks, *signal, capacity, inputs.calibration)
    bright = options.leave_out == "bright"
    labelled = LabelledFrames(
        inputs.local_run.frames, inputs.labels, n_cells, leave_out_bright=bright
    )
    read = partial(sparsifier.frames, powder=PowderSum.zeros(masks.good.shape[1], detector))
    good = np.full((detector.n_modules, n_cells, detector.module_bytes), 0xFF, np.uint8)
    tally = Tally.zeros(detector)
    progress = Progress(
        facts.n_frames * sum(len(p.modules) for p in parts), unit="module frames", found=""
    )
    for part in parts:
        fault_injection.inject(comm, "sums")
        summed = CellSums(comm, part, labelled, (planes, n_cells), capacity)
        source = labelled.source(part, sparsifier.capacity, facts.kind)
        run_pass(source, read, (summed, PassProgress(comm, progress)))
        frames = {kind: mpi.allreduce_sum(comm, n) for kind, n in labelled.counts.items()}
        about = {"cells": facts.cells, "limits": options.limits, "tally": tally}
        judge = PartJudge(comm, part, summed.sums, frames, masks, **about)
        for module, bits in judge.bad_bits():
            good[module] &= ~bits
        if writer:
            writer.write(part, summed.sums)
    progress.close()
    with mpi.fail_together(comm):
        files.check_unchanged()
    files.close()
    if writer:
        writer.close(facts.modules_in_run, frames)
    return good, tally.of_all_ranks(comm), list(sparsifier.problems)


def _plan(parts: list[Part]) -> str:
    times = len(parts) // len({module for part in parts for module in part.modules})
    if times <= 1:
        return f"summing in {len(parts)} parts, every frame is read once"
    return (
        f"summing in {len(parts)} parts, every frame is read {times} times; once with more "
        "ranks, or more --memory-per-rank"
    )


def _add_other_masks(
    comm, options: MaskOptions, inputs: MaskInputs, good: np.ndarray, tally: Tally
) -> dict[str, np.ndarray]:
    """Take what the sums do not tell out of `good`; collective.

    Returns
    -------
    dict of str to ndarray, int64 (module,)
        Cells × pixels of every kind of mask, by module.
    """
    facts, masks = inputs.local_run.facts, inputs.masks
    n_modules = facts.detector_type.n_modules
    in_run = np.flatnonzero(modules_of(facts.modules_in_run, n_modules)).tolist()
    mask_dead_asics(facts.detector_type, dead_asics(tally, options.limits), good, tally)
    found = {"masked before": np.zeros(n_modules, np.int64)}
    rows = masks.row_of_cell[facts.cells]
    for module in in_run:
        before = ~masks.good[module][rows]
        found["masked before"][module] = unpack(before).sum(dtype=np.int64)
        good[module] &= ~before
    if options.noise:
        found["noise"] = np.zeros(n_modules, np.int64)
        sigma = options.noise_sigma
        for module, bits in noise_outliers(
            comm, facts.detector_type, options.noise, in_run, facts.cells, sigma
        ):
            found["noise"][module] = unpack(bits).sum(dtype=np.int64)
            good[module] &= ~bits
    if options.asic_edges:
        edges = asic_edges(facts.detector_type)
        found["ASIC edges"] = np.zeros(n_modules, np.int64)
        found["ASIC edges"][in_run] = edges.sum() * len(facts.cells)
        good[in_run] &= pack(~edges)
    return found


def _summary(
    inputs: MaskInputs, tally: Tally, others: dict[str, np.ndarray], good: np.ndarray
) -> list[str]:
    """Return what was found as lines of text, and warn of what could not be."""
    facts = inputs.local_run.facts
    n_modules = facts.modules_in_run.bit_count()
    total = facts.detector_type.module_pixels * len(facts.cells) * n_modules
    found = dict(zip(KINDS.values(), tally.kinds, strict=True)) | others
    masked = np.array([unpack(~bits).sum(dtype=np.int64) for bits in good])
    whole = sum(int(unpack(~np.bitwise_or.reduce(bits)).sum()) for bits in good)
    lines = ["", f"{'cells × pixels':14} {total:14,}   in {n_modules} modules"]
    for name, n in (*found.items(), ("masked", masked)):
        share = f"{100 * n.sum() / total:8.3f} % in {np.count_nonzero(n)} modules"
        lines.append(f"{name:14} {n.sum():14,} {share}")
    lines.append(f"{'whole pixels':14} {whole:14,}   masked in all cells")
    dark, judged = int(tally.too_dark.sum()), max(int(tally.judged.sum()), 1)
    percent = 100 * dark / judged
    lines.append(f"{'too dark':14} {dark:14,} {percent:8.3f} % cannot be distinguished from dead")
    if masked.sum() > (1 - LEAST_GOOD) * total:
        log.warning(
            f"the mask leaves {100 - 100 * masked.sum() / total:.2g} % of the cells × pixels good: "
            "is the run what it should be, and no other mask inverted?"
        )
    if dark > judged // 100:
        log.warning(
            f"too little light to tell dead cells in {percent:.1f} % of the cells × "
            f"pixels, and dead pixels in {tally.pixels_too_dark.sum():,} pixels: they stay good. "
            "More trains help"
        )
    return lines
