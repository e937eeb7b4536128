"""Whether two builds of the program write the same files.

    python tests/helpers/compare_builds.py FOLDER OLD NEW

OLD and NEW are folders with an installed `xfelmpi` (for PYTHONPATH); simulated runs and all outputs
go to FOLDER, where those of OLD are used again if they are there. Corrected and raw data, a mask
with the powder of every cell, merged runs, other thresholds, binned pixels; one and two ranks. Exit
status 1 if any file differs in more than how and when it was made; the first difference is shown.
"""

import os
import subprocess
import sys
from pathlib import Path

import h5py
from compare import UNSTABLE, UNSTABLE_ATTRIBUTES, assert_same_hdf5
from launch import run_python

FIXED = ("--decide", "fixed", "--fixed-threshold", 2500, "--distance", 0.7)
TRAIN = ("--decide", "train")

SIMULATED = {
    50: ("--hit-rate", 0.3, "--seed", 11),
    51: ("--hit-rate", 0.3, "--seed", 12, "--dtype", "f4", "--with-mask", "--missing", "3:1"),
    52: ("--hit-rate", 0.3, "--seed", 13, "--kind", "raw"),
}
"""Run number to options of ``xfelmpi simulate``, all with 4 trains of 16 cells."""

JOBS = {
    "hits": (50, *FIXED, "--with-misses", "--vds"),
    "frame_masks": (51, *FIXED, "--mask", "run", "--detector", "SPB_DET_AGIPD1M-1"),
    "raw": (52, *FIXED, "--data", "raw", "--adu-per-photon", 60, "--common-mode", "none"),
    "by_train": (50, *TRAIN, "--normalise", "pulse-energy", "--with-misses", "--distance", 0.7),
    "no_hits": (50, "--decide", "fixed", "--fixed-threshold", 1e9),
    "binned": (50, *FIXED, "--bin", 2),
    "again": (50, "--from-events", "--fixed-threshold", 4000),
    "mask": ("mask", 51, "--powder-cells", "--mask-file", "{out}/mask.h5"),
    # last: see `main`
    "merged": ("merge", 50, 51, "--where", "hit_score > 3000"),
}
"""Name to arguments; ``again`` and ``merged`` start from the outputs of the jobs in `_AFTER`."""

_AFTER = {"again": ("hits",), "merged": ("hits", "frame_masks")}

_NOT_COMPARED = ("report/", "index/", "lock/", "checkpoint/")


def main() -> int:
    UNSTABLE.add("version")
    UNSTABLE_ATTRIBUTES.update(("program_commit", "program_version"))
    folder, *sites = map(Path, sys.argv[1:])
    prefix = folder / "p007927"
    for run, options in SIMULATED.items():
        if not (prefix / "raw" / f"r{run:04}").exists():
            args = ["simulate", run, "--prefix", prefix, "--trains", 4, "--cells", 16, *options]
            _run(sites[0], args, 0)
    failures = 0
    for name, args in JOBS.items():
        if name == "merged":
            # those of another folder
            UNSTABLE_ATTRIBUTES.add("input_files")
        for ranks in (0, 2):
            outputs = [folder / f"build{i}" / f"{name}{ranks}" for i in range(len(sites))]
            for site, output in zip(sites, outputs, strict=True):
                if site == sites[0] and output.exists():
                    continue
                for before in _AFTER.get(name, ()):
                    _job(site, prefix, output, JOBS[before], ranks)
                _job(site, prefix, output, args, ranks)
            try:
                n = same_outputs(*outputs)
            except AssertionError as error:
                failures += 1
                sys.stdout.write(f"{name}, {ranks} ranks: {error}\n")
            else:
                sys.stdout.write(f"{name}, {ranks} ranks: {n} files, all the same\n")
            sys.stdout.flush()
    return 1 if failures else 0


def same_outputs(a: Path, b: Path) -> int:
    """Assert that two folders have the same outputs; return how many."""
    names = [_outputs(folder) for folder in (a, b)]
    assert names[0], f"no outputs in {a}"
    assert names[0] == names[1], f"other files: {names[0]} and {names[1]}"
    for name in names[0]:
        if h5py.is_hdf5(a / name):
            assert_same_hdf5(a / name, b / name)
        else:
            assert (a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs"
    return len(names[0])


def _outputs(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(folder)) for path in paths)
    return [name for name in names if not name.startswith(_NOT_COMPARED)]


def _job(site: Path, prefix: Path, output: Path, args, ranks: int) -> None:
    args = [str(arg).format(out=output) for arg in args]
    output.mkdir(parents=True, exist_ok=True)
    if args[0] == "mask":
        args.append("--overwrite")
    _run(site, [*args, "--prefix", prefix, "--output", output], ranks)


def _run(site: Path, args, ranks: int) -> None:
    environment = {"PYTHONPATH": site.absolute(), "XFELMPI_DATA": None}
    try:
        done = run_python(["-m", "xfelmpi", *args], ranks, seconds=300, **environment)
    except subprocess.TimeoutExpired:
        sys.exit(f"no end: {args} with {site}")
    if done.returncode not in (0, 3):
        sys.exit(f"{args} with {site}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    os.environ.setdefault("XFELMPI_TEST_PATIENCE", "10")
    sys.exit(main())
