"""The virtual dataset of a run, written alone."""

from time import monotonic

from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL, OutputError


def write_run_vds(config: Config, argv: list[str]) -> int:
    """Index the run, write its virtual dataset and return the exit status; on one process."""
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.core.log import log
    from xfelmpi.core.paths import Experiment
    from xfelmpi.core.problems import summarised
    from xfelmpi.io.publish import check_writable, publish
    from xfelmpi.mpi import alone
    from xfelmpi.output.provenance import provenance
    from xfelmpi.output.vds import write_vds
    from xfelmpi.run.data_choice import choose_data
    from xfelmpi.run.index.run_index import index_run
    from xfelmpi.run.virtual_layout import plan_virtual
    from xfelmpi.workflows.summary import problem_lines

    start = monotonic()
    experiment = Experiment(config.prefix, config.output, config.run)
    kind, why = choose_data(experiment, config.data)
    chosen = (config.detector, config.trains, config.suspect_trains)
    index = index_run(experiment.run_folder(kind), kind, *chosen)
    job = RunJob.of(alone(), config, argv).of_proposal(index.proposal)
    for line in (why, f"{index.detector}, source {index.source}", *index.notes):
        log.info(line)
    layout, left_out = plan_virtual(index)
    path = experiment.vds(kind)
    if layout is None:
        raise OutputError(f"{path}: not written: {left_out[-1].what}; select fewer with --trains")
    check_writable(path)
    files = [file.path for file in index.files]
    write_vds(job.experiment, provenance(job, files), layout)
    publish(path)
    problems = summarised({*index.problems, *left_out})
    for line in problem_lines(problems, "the main job writes all into the events file (problems)"):
        log.info(line)
    n, seconds = len(layout.mappings), monotonic() - start
    log.info(f"{len(index.frames):,} frames in {n:,} mappings, {seconds:.2f} s: {path}")
    return EXIT_PARTIAL if problems else EXIT_COMPLETE
