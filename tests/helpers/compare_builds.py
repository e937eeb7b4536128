"""Whether two builds of the program write the same files.

    python tests/helpers/compare_builds.py FOLDER OLD NEW [JOB…]

OLD and NEW are folders with an installed `xfelmpi` (for PYTHONPATH); simulated runs and all outputs
go to FOLDER, where those of OLD are used again if they are there. Corrected and raw data, a mask
with the powder of every cell, merged runs, other thresholds, binned pixels, or only some of these
by their names in `JOBS`; one and two ranks. Takes 3 minutes on 2 quiet cores.

All that differs in more than how and when a file was made is named. Exit status 1 if something does
that is not in `ANNOUNCED`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import h5py
from compare import UNSTABLE, UNSTABLE_ATTRIBUTES, same_values
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

ANNOUNCED = {
    "*_det.h5/background": "Dragonfly's detector file has the background",
    "*_det.h5/scale": "Dragonfly's detector file has the background",
    "*/size_edge": "`size_edge` is 1 for every size at an end of the grid",
}
"""What differs between releases on purpose: pattern to words of CHANGES.md."""

_NOT_COMPARED = ("report/", "index/", "lock/", "checkpoint/")


def main() -> int:
    UNSTABLE.add("version")
    UNSTABLE_ATTRIBUTES.update(("program_commit", "program_version"))
    folder, *sites = map(Path, sys.argv[1:4])
    chosen = sys.argv[4:] or list(JOBS)
    prefix = folder / "p007927"
    for run, options in SIMULATED.items():
        if not (prefix / "raw" / f"r{run:04}").exists():
            args = ["simulate", run, "--prefix", prefix, "--trains", 4, "--cells", 16, *options]
            _run(sites[0], args, 0)
    failures = 0
    for name in sorted(chosen, key=list(JOBS).index):
        args = JOBS[name]
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
            failures += _tell(f"{name}, {ranks} ranks", *outputs)
    return 1 if failures else 0


def _tell(job: str, a: Path, b: Path) -> int:
    """Write what differs between two folders of outputs; return how much was not announced."""
    names = [set(_outputs(folder)) for folder in (a, b)]
    assert names[0], f"no outputs in {a}"
    differing = [f"{name} is in one folder only" for name in names[0] ^ names[1]]
    for name in sorted(names[0] & names[1]):
        if h5py.is_hdf5(a / name):
            with h5py.File(a / name) as first, h5py.File(b / name) as second:
                differing += [f"{name}/{what}" for what in differences(first, second)]
        elif (a / name).read_bytes() != (b / name).read_bytes():
            differing.append(name)
    known = {what for what in differing if any(fnmatch(what, known) for known in ANNOUNCED)}
    sys.stdout.write(f"{job}: {len(names[0])} files, {len(differing) - len(known)} differences")
    sys.stdout.write(f", {len(known)} announced\n")
    for what in sorted(differing):
        sys.stdout.write(f"  {what}{' (announced)' if what in known else ''}\n")
    sys.stdout.flush()
    return len(differing) - len(known)


def differences(a: h5py.File, b: h5py.File) -> Iterator[str]:
    """Yield the paths of what differs; ``PATH@NAME`` is an attribute."""
    found = [_nodes(file, "") for file in (a, b)]
    yield from sorted(found[0].keys() ^ found[1].keys())
    for path in sorted(found[0].keys() & found[1].keys()):
        one, other = (nodes[path] for nodes in found)
        if isinstance(one, str) or type(one) is not type(other):
            if one != other:
                yield path
            continue
        for name in sorted({*one.attrs, *other.attrs} - UNSTABLE_ATTRIBUTES):
            values = [node.attrs.get(name) for node in (one, other)]
            if any(value is None for value in values) or not same_values(*values):
                yield f"{path}@{name}"
        if isinstance(one, h5py.Dataset) and path.rpartition("/")[2] not in UNSTABLE:
            storage = [(node.dtype, node.shape, node.chunks) for node in (one, other)]
            # frame by frame: the stacks of hits are large
            rows = range(len(one)) if one.ndim > 2 else [()]
            if storage[0] != storage[1] or not all(same_values(one[r], other[r]) for r in rows):
                yield path


def _nodes(group: h5py.Group, path: str) -> dict[str, h5py.HLObject | str]:
    """Return groups and datasets by path; of a link the path that it names."""
    found: dict[str, h5py.HLObject | str] = {path: group}
    for name in group:
        link, inside = group.get(name, getlink=True), f"{path}/{name}".lstrip("/")
        if isinstance(link, h5py.SoftLink):
            found[inside] = link.path
        elif isinstance(group[name], h5py.Group):
            found |= _nodes(group[name], inside)
        else:
            found[inside] = group[name]
    return found


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
