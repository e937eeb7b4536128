"""Runs that arrive piece by piece, and a project whose jobs end at once."""

import shutil
from pathlib import Path

from launch import write_script
from mockrun import tiny_run

ROOT = Path(__file__).parents[2]


def raw_twin(prefix: Path, run: int) -> None:
    """Give a simulated corrected run the detector files that its raw run would have.

    They have the right trains, which is all that is read of them.
    """
    folder = prefix / "raw" / f"r{run:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((prefix / "proc" / folder.name).glob("CORR-*-AGIPD*.h5")):
        shutil.copyfile(path, folder / path.name.replace("CORR-", "RAW-"))


def arriving_run(source: Path, run: int = 50, **options) -> list[Path]:
    """Simulate a run with raw files in a folder; return its files, relative to it, in order."""
    tiny_run(source, run=run, **{"trains": 4, "cells": (0, 1), "sequence_length": 2} | options)
    raw_twin(source, run)
    files = [p.relative_to(source) for p in source.rglob(f"*R{run:04d}*.h5")]
    return sorted(files, key=lambda p: (p.parts[0] != "raw", p))


def arrive(source: Path, prefix: Path, files) -> None:
    """Copy some files to where they are expected."""
    for path in files:
        (prefix / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, prefix / path)


def quick_project(folder: Path, seconds: float = 0.0) -> Path:
    """Make a project with the real scripts of jobs, whose ``mpirun`` only notes that it was called.

    The notes are ``calls/RUN``, a line for each call with all arguments.
    """
    (folder / "jobs").mkdir(parents=True)
    for name in ("process_run.sh", "common.sh"):
        shutil.copyfile(ROOT / "jobs" / name, folder / "jobs" / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (folder / "calls").mkdir()
    # under Slurm there is no mpirun: srun starts the program itself
    note = f'set -e; shift 2; echo "$@" >>"{folder}/calls/$1"; sleep {seconds}'
    write_script(programs / "python", f"[[ $1 == -m ]] || exit 0; {note}")
    write_script(
        programs / "mpirun",
        f'set -e; shift 5; echo "$@" >>"{folder}/calls/$1"; sleep {seconds}; '
        'if [[ -e "$(dirname "$0")/status" ]]; then exit "$(cat "$(dirname "$0")/status")"; fi',
    )
    return folder


def calls(project: Path) -> dict[int, list[str]]:
    """Return how jobs of every run were called."""
    return {int(p.name): p.read_text().splitlines() for p in (project / "calls").iterdir()}
