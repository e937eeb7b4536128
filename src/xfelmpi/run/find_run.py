"""All that the files say of a run, which rank 0 finds out; other ranks read files for its index."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.config.validation import validate_for
from xfelmpi.core.machine_records import BeamlineSource, MachineData
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.run.data_choice import choose_data
from xfelmpi.run.index.cache import KeptIndex, cached_index, look_for_index
from xfelmpi.run.index.completeness import missing_parts, unfinished_correction
from xfelmpi.run.index.module_file import FileContent, SourceContent
from xfelmpi.run.index.run_index import RunIndex
from xfelmpi.run.machine.cache import cached_machine_data
from xfelmpi.run.machine.control_data import machine_files
from xfelmpi.run.machine.facility_hits import facility_hits, facility_lit_pixels
from xfelmpi.run.machine.machine_data import OpenRun, read_ahead, says_nothing
from xfelmpi.run.machine.metadata_catalogue import CatalogueQuery
from xfelmpi.run.virtual_layout import VirtualLayout, plan_virtual


@dataclass(frozen=True)
class LookedFor:
    """What there is of a run before its files are opened.

    Parameters
    ----------
    kind, why : str
        Which data are read, and why.
    kept : KeptIndex
    n_beamline : int
        Files that can hold beamline data.
    """

    kind: str
    why: str
    kept: KeptIndex
    n_beamline: int


def look_for_run(experiment: Experiment, settings: RunSettings) -> LookedFor:
    """Return which data are read, and their index if an earlier job kept it."""
    kind, why = choose_data(experiment, settings.data)
    chosen = (settings.detector, settings.suspect_trains)
    folder = experiment.run_folder(kind)
    kept = look_for_index(experiment.index(kind), folder, kind, *chosen)
    n_beamline = 0
    with suppress(OSError):
        n_beamline = sum(len(machine_files(experiment.run_folder(k))) for k in ("proc", "raw"))
    return LookedFor(kind, why, kept, n_beamline)


def read_beamline_ahead(
    experiment: Experiment, settings: RunSettings, contents: dict[Path, FileContent]
) -> OpenRun | None:
    """Read beamline data of a run of which only some files are known; None without frames.

    Parameters
    ----------
    experiment : Experiment
    settings : RunSettings
    contents : dict of Path to FileContent
        The first frames in them tell which beamline data are wanted.
    """
    for content in contents.values():
        for detector, source, _ in content.sources:
            found = content.by_source.get(source, SourceContent()).frames
            if found is not None and len(found.train):
                ids, proposal = (found.train, found.pulse), content.identity.proposal
                return read_ahead(experiment, *ids, settings.add, detector, found.cell, proposal)
    return None


def find_run(
    experiment: Experiment,
    settings: RunSettings,
    work_of,
    looked: LookedFor,
    contents,
    opened_run: OpenRun | None,
    *,
    so_far: bool,
) -> tuple[RunIndex, MachineData, VirtualLayout | None, tuple[Problem, ...], np.ndarray, tuple]:
    """Return what is known of the run, problems included, and how much work its frames are.

    The last value is what the facility found: its hits, and its lit pixels if these are scores.

    Parameters
    ----------
    experiment : Experiment
    settings : RunSettings
    work_of, so_far
        See `distribute_run`.
    looked : LookedFor
        Of `look_for_run`.
    contents : dict of Path to FileContent, or None
        What the files have, if no index was kept.
    opened_run : OpenRun or None
        Of `read_beamline_ahead`.
    """
    kind, kept = looked.kind, looked.kept
    folder, path = experiment.run_folder(kind), experiment.index(kind)
    chosen = (settings.detector, settings.trains, settings.suspect_trains)
    index = cached_index(path, folder, kind, *chosen, kept=kept, contents=contents)
    validate_for(settings, index.detector_type)
    index = replace(index, notes=(looked.why, *index.notes))
    if not so_far:
        unfinished = unfinished_correction(experiment, index) if kind == "proc" else []
        unfinished += missing_parts(experiment, kind, index, settings.detector)
        index = replace(index, problems=(*index.problems, *unfinished))
    number = index.proposal or experiment.known_proposal or _number(experiment.proposal)
    asked = CatalogueQuery(number, experiment.run, allowed=settings.ask_catalogue)
    frames = index.frames
    work = work_of(index) if work_of else np.ones(len(frames), np.int64)
    ids = frames.train_id, frames.pulse_id
    machine = cached_machine_data(
        experiment,
        *ids,
        settings.add,
        index.detector,
        frames.cell_id,
        index.proposal,
        opened_run=opened_run,
    )
    machine, facility = _of_facility(experiment, settings, index, machine)
    machine = _described(settings.sample, machine, asked)
    machine = replace(machine, warnings=(*machine.warnings, *_other_proposal(experiment, index)))
    # laid out here, since only here the frames of the whole run are in one place
    virtual, problems = plan_virtual(index) if settings.vds else (None, ())
    return index, machine, virtual, (*index.problems, *problems), work, facility


def _other_proposal(experiment: Experiment, index: RunIndex) -> tuple[str, ...]:
    """Return a warning if the data are of another proposal than their folder, the data count."""
    by_folder = _number(experiment.of_proposal(0).proposal)
    if not index.proposal or by_folder in (0, index.proposal):
        return ()
    return (
        f"the files are of proposal p{index.proposal:06d} (METADATA/proposalNumber), their folder "
        f"of p{by_folder:06d}; p{index.proposal:06d} is used",
    )


def _number(proposal: str) -> int:
    digits = proposal.removeprefix("p")
    return int(digits) if digits.isdecimal() else 0


def _described(sample: str | None, machine: MachineData, asked: CatalogueQuery) -> MachineData:
    """Return the beamline data with the best sample name and run type that there are.

    The metadata catalogue counts, then the files' metadata, then what the user says.
    """
    answer, why = asked.answer()
    notes, warnings, sources = [why] if why else [], [], []
    chosen = {}
    for name, stored, said in (
        ("sample", machine.sample, sample or ""),
        ("run_type", machine.run_type, ""),
    ):
        known = {
            "metadata catalogue (extra_proposal)": answer.get(name, ""),
            "METADATA of the run's files": stored,
            "--sample": said,
        }
        known = {source: value for source, value in known.items() if not says_nothing(value)}
        source = next(iter(known), "")
        chosen[name] = known.get(source, "")
        if source:
            sources.append(BeamlineSource(name, source, chosen[name]))
            notes.append(f"{name.replace('_', ' ')} from {source}: {chosen[name]}")
        others = [f"{v!r} by {s}" for s, v in known.items() if v != chosen[name]]
        if others:
            what = name.replace("_", " ")
            warnings.append(f"{what} is {chosen[name]!r} by {source}, {', '.join(others)}")
    return replace(
        machine,
        **chosen,
        notes=(*machine.notes, *notes),
        warnings=(*machine.warnings, *warnings),
        sources=(*machine.sources, *sources),
    )


def _of_facility(
    experiment: Experiment, settings: RunSettings, index: RunIndex, machine: MachineData
):
    """Return the beamline data that name them, and the facility's hits and lit pixels."""
    ids = index.frames.train_id, index.frames.pulse_id
    hits, found = facility_hits(experiment, index.detector, *ids)
    score = None
    if settings.score == "facility":
        there = modules_of(index.modules_in_run, index.detector_type.n_modules)
        modules = settings.hit_modules or tuple(np.flatnonzero(there).tolist())
        counted = facility_lit_pixels(experiment, index.detector, index.files, modules, *ids)
        if counted is not None:
            lit, good, of_score = counted
            score = lit, good
            found.notes += of_score.notes
            found.sources += of_score.sources
            found.damage |= of_score.damage
    warnings = machine.warnings + tuple(
        f"{name} cannot be read: {why}" for name, why in sorted(found.damage.items())
    )
    machine = replace(
        machine,
        notes=(*machine.notes, *found.notes),
        warnings=warnings,
        sources=(*machine.sources, *found.sources),
    )
    return machine, (hits, score)
