"""All rows of the table of targets, one program after the other; the table as Markdown at the end.

    python tests/benchmarks/table.py FOLDER [REPEATS]

FOLDER gets the simulated runs (25 GB) unless it has them. Nothing else should run meanwhile: two
cores take some hours with EXtra-redu and the script pipeline. Medians (of 3). A program that fails
is named in the table, and the others go on. Exit status 1 then.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

from bench import PYTHON

HERE = Path(__file__).parent
TARGETS = {
    "2 ranks: wall": "≤ 50",
    "2 ranks: CPU a frame": "≤ 95",
    "2 ranks: index": "≤ 0.5",
    "2 ranks: write": "≤ 2",
    "--from-events --sigma 4.5: wall": "≤ 4",
    "pass over its floor, zlib, 16 trains of 352 cells": "≤ 0.5",
    "2 ranks against 1, 16 trains": "≥ 1.6",
    "2 ranks against 1, 64 trains": "≥ 1.8",
    "indexing 1600 files the second time": "≤ 0.1",
}
"""Targets that are stricter than those of the programs, by the words of their rows."""


def programs(folder: Path, repeats: int) -> list[list]:
    """Return what is run, one after the other."""
    return [
        ["long_run.py", folder / "long", repeats],
        ["pass_floor.py", folder / "pass", 16, 352, "libdeflate", "zlib", "weak"],
        ["mask_layouts.py", folder / "masks", repeats],
        ["index_run.py", folder / "index", repeats],
        ["rethreshold.py", folder / "again", 2, 64, repeats],
        ["whole_job.py", folder / "jobs", repeats, 16, 64],
        ["start.py", folder / "start", repeats],
        ["peers.py", folder / "peers", repeats, 64],
        ["scaling_model.py", "--rows"],
    ]


def in_words(lines: list[list[str]]) -> str:
    """Return rows (what, value, unit, target) as a table in Markdown."""
    text = "| what | now | target |\n|---|---|---|\n"
    for what, value, unit, target in lines:
        wanted = TARGETS.get(what, target)
        missed = ""
        if wanted:
            sign, limit = wanted.split()
            far = float(value) > float(limit) if sign == "≤" else float(value) < float(limit)
            missed = ", **missed**" if far else ""
        text += f"| {what} | {value} {unit}".rstrip() + f" | {wanted}{missed} |\n"
    return text


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.csv"
    table.unlink(missing_ok=True)
    failed = []
    for program, *arguments in programs(folder, repeats):
        command = [PYTHON, HERE / program, *arguments]
        environment = {**os.environ, "BENCHMARK_CSV": str(table)}
        if subprocess.run([str(part) for part in command], env=environment).returncode:
            failed.append(program)
    lines = []
    if table.exists():
        with open(table, newline="") as file:
            lines = list(csv.reader(file))
    sys.stdout.write(f"\n{in_words(lines)}")
    for program in failed:
        sys.stdout.write(f"\n{program} failed: its rows are not complete\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
