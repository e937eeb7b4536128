"""Compares what the demo found with what was simulated, reading the files only with h5py and numpy.

Usage: ``python jobs/demo_summary.py PREFIX RUN``. Exit status 1 if a number that must be equal is
not: photons, lit pixels, powder, the frames in the CXI and EMC files.
"""

import sys
from pathlib import Path

import h5py
import numpy as np


class Comparison:
    """Rows of a table: what, simulated, found, and whether that must and does agree."""

    def __init__(self):
        self.rows = []
        self.failed = 0

    def add(self, what: str, simulated, found, *, equal: bool | None = None) -> None:
        """Add a row; `equal` None is for numbers that need not agree."""
        verdict = "" if equal is None else "equal" if equal else "DIFFERENT"
        self.failed += equal is False
        self.rows.append((what, f"{simulated}", f"{found}", verdict))

    def __str__(self) -> str:
        """Return the table, its columns aligned."""
        rows = [("", "simulated", "found", ""), *self.rows]
        width = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = (
            f"{row[0]:<{width[0]}}  {row[1]:>{width[1]}}  {row[2]:>{width[2]}}  {row[3]}".rstrip()
            for row in rows
        )
        return "\n".join(lines)


def compare_frames(table: Comparison, truth: h5py.File, events: h5py.File) -> None:
    """Compare the rows of the events file with those of the truth."""
    ids = [(f["trainId"][:], f["cellId"][:]) for f in (truth, events)]
    same = all(np.array_equal(a, b) for a, b in zip(*ids, strict=True))
    table.add("frames", len(ids[0][0]), len(ids[1][0]), equal=same)
    for name, label in (("photons", "photons"), ("litpixels", "lit pixels")):
        simulated, found = truth[name][:], events[name][:]
        equal = np.array_equal(simulated, found)
        table.add(label, simulated.sum(dtype=np.uint64), found.sum(dtype=np.uint64), equal=equal)
    if not same:
        return
    particle, hit = truth["is_particle"][:], events["is_hit"][:]
    table.add("frames with a particle / hits", particle.sum(), hit.sum())
    table.add("  particles that are hits", particle.sum(), (particle & hit).sum())
    table.add("  hits without a particle", 0, (hit & ~particle).sum())
    for name, label in (
        ("pulse_energy", "mean pulse energy / mJ"),
        ("wavelength", "mean wavelength / Å"),
    ):
        scale = 1e3 if name == "pulse_energy" else 1e10
        values = [scale * np.mean(f[name][:], dtype=float) for f in (truth, events)]
        table.add(
            label, *(f"{value:.6g}" for value in values), equal=np.isclose(*values, rtol=1e-6)
        )


def sparse_rows(truth: h5py.File) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return (pixels, counts), ascending pixels, by the frame's row in the events file."""
    indptr, pixel, count = (truth[name][:] for name in ("indptr", "pixel", "count"))
    found = {}
    for i, frame in enumerate(truth["frames"][:]):
        rows = slice(indptr[i], indptr[i + 1])
        order = np.argsort(pixel[rows], kind="stable")
        found[int(frame)] = pixel[rows][order], count[rows][order]
    return found


def compare_cxi(table: Comparison, expected: dict, path: Path) -> None:
    """Compare the frames of the CXI file, one after the other, with the simulated pixels."""
    with h5py.File(path) as file:
        data = file["entry_1/instrument_1/detector_1/data"]
        index = [int(i) for i in file["entry_1/vds_index"][:]]
        known = [i for i in index if i in expected]
        photons, equal = 0, True
        for row, i in enumerate(index):
            if i in expected:
                frame = data[row].reshape(-1)
                pixel = np.flatnonzero(frame)
                photons += int(frame.sum(dtype=np.uint64))
                equal &= np.array_equal(pixel, expected[i][0])
                equal &= np.array_equal(frame[pixel], expected[i][1])
    simulated = sum(int(expected[i][1].sum(dtype=np.uint64)) for i in known)
    table.add(f"photons of {len(known)} CXI frames", simulated, photons, equal=bool(equal))


def compare_emc(table: Comparison, expected: dict, path: Path, index: np.ndarray) -> None:
    """Compare the photons of every frame of the EMC file; `index` are the hits' event rows."""
    values = np.fromfile(path, np.int32)
    n, header = int(values[0]), 256
    ones, multi = values[header : header + n], values[header + n : header + 2 * n]
    starts = np.cumsum([0, ones.sum(dtype=np.int64), multi.sum(dtype=np.int64)]) + header + 2 * n
    counts = values[starts[2] :]
    ends = np.cumsum(multi, dtype=np.int64)
    equal, simulated, found = n == len(index), 0, 0
    for row, i in enumerate(index[:n]):
        if int(i) in expected:
            photons = int(ones[row]) + int(counts[ends[row] - multi[row] : ends[row]].sum())
            truth = int(expected[int(i)][1].sum(dtype=np.uint64))
            simulated, found = simulated + truth, found + photons
            equal &= photons == truth
    table.add(f"photons of {n} EMC frames", simulated, found, equal=bool(equal))


def main(prefix: Path, run: int) -> int:
    """Write the table and the paths; return the exit status."""
    name = f"r{run:04d}"
    scratch = prefix / "scratch"
    paths = {
        "truth": scratch / "truth" / f"{name}_truth.h5",
        "events": scratch / "events" / f"{name}_events.h5",
        "powder": scratch / "powder" / f"{name}_powder.h5",
        "CXI": scratch / "saved_hits" / f"{name}_hits.cxi",
        "EMC": scratch / "emc" / f"{name}.emc",
    }
    table = Comparison()
    with h5py.File(paths["truth"]) as truth, h5py.File(paths["events"]) as events:
        compare_frames(table, truth, events)
        with h5py.File(paths["powder"]) as powder:
            sums = [f["powder"][:] for f in (truth, powder)]
        lit = [np.count_nonzero(a) for a in sums]
        table.add("powder: pixels with photons", *lit, equal=np.array_equal(*sums))
        expected = sparse_rows(truth)
        hits = np.flatnonzero(events["is_hit"][:])
    if len(hits):
        compare_cxi(table, expected, paths["CXI"])
        compare_emc(table, expected, paths["EMC"], hits)
    lines = [f"Found against simulated, run {run}:", str(table), "", "Files:"]
    lines += [
        f"  {label:<7} {path}  ({path.stat().st_size / 1e6:.1f} MB)"
        for label, path in paths.items()
        if path.exists()
    ]
    if table.failed:
        lines += ["", f"{table.failed} of these numbers are DIFFERENT and must not be."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
