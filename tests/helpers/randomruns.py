"""Random simulated runs, damaged or not, how to process each, and what must come out.

All choices come from a `random.Random`: the same seed gives the same run.
"""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from checks import check_outputs
from compare import assert_same_outputs
from damage import (
    KINDS,
    PACKED_KINDS,
    UNREADABLE,
    do_damage,
    image_group,
    module_files,
    remove_last_sequence,
    rows_in,
)
from expected import Expected
from launch import run_xfelmpi
from mockrun import MockRun, tiny_raw_run, tiny_run

from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import DEVICES, detectors_of

RANKS = (0, 1, 2, 3, 5)
"""Numbers of ranks; 0: without mpirun."""

RUN = 50
MOST_FRAMES = 24


@dataclass(frozen=True)
class RandomRun:
    """What to simulate, to damage, and how to process it.

    Parameters
    ----------
    simulate : dict
        Options of the simulation, besides those of `mockrun`.
    damage : tuple of (str, int)
        Kind and module.
    masks : dict of str to float
        Fraction of good pixels of random masks, by option of the main job.
    options : tuple
        Further options of the main job.
    expect : dict
        The same for `Expected`.
    ranks : (int, int)
        Numbers of ranks, which must give the same.
    seed : int
        Of what is drawn while the run is made.
    half_corrected : bool
        The last file of every module is not there yet.
    """

    simulate: dict
    damage: tuple[tuple[str, int], ...] = ()
    masks: dict[str, float] = field(default_factory=dict)
    options: tuple = ()
    expect: dict = field(default_factory=dict)
    ranks: tuple[int, int] = (2, 3)
    seed: int = 0
    half_corrected: bool = False

    def __str__(self):
        simulate = {"kind": "proc", "dtype": "u1"} | self.simulate
        kind = simulate["kind"] if simulate["kind"] == "raw" else simulate["dtype"]
        words = [f"{kind}, {simulate['trains']} x {len(simulate['cells'])}"]
        words += [f"{what} of module {module}" for what, module in self.damage]
        words += ["half corrected"] * self.half_corrected
        words += [f"{name} {good}" for name, good in self.masks.items()]
        words += [" ".join(map(str, self.options))]
        return f"{'; '.join(filter(None, words))}; ranks {self.ranks[0]}, {self.ranks[1]}"


def random_run(rng: random.Random, detector: str = "AGIPD-1M") -> RandomRun:
    """Choose a run of a detector, its damage and its options."""
    about = detectors_of(DEVICES[detector])[0]
    n = about.n_modules
    raw = rng.random() < 0.2 and bool(about.raw_planes)
    simulate = _simulated(rng, about, raw=raw)
    absent = _modules(rng, n - 2, n) if rng.random() < 0.6 else ()
    there = [m for m in range(n) if m not in absent]
    simulate["absent_modules"] = tuple(absent)
    trains = simulate["trains"]
    if rng.random() < 0.4:
        gaps = {(rng.choice(there[1:]), rng.randrange(trains)) for _ in range(rng.randint(1, 4))}
        simulate["missing"] = tuple(sorted(gaps))
        simulate["missing_style"] = rng.choice(("empty", "gone"))
    damage = ()
    if rng.random() < 0.7:
        kinds = list(KINDS if raw or simulate.get("compression") == "none" else PACKED_KINDS)
        if about.datasets.pulse_id is None:
            kinds.remove("odd pulseIds")
        # the first module stays whole, so that every frame is there
        victims = rng.sample(there[1:], min(len(there) - 1, rng.randint(1, 3)))
        damage = tuple((rng.choice(kinds), module) for module in victims)
    options, expect = _decision(rng, about)
    if simulate.get("with_mask"):
        options += ("--mask", rng.choice(("run", "run", "none")))
    masks = {
        name: rng.choice((0.0, 0.5, 0.9, 1.0) if name == "--cell-mask" else (0.5, 0.9))
        for name in ("--global-mask", "--cell-mask", "--hit-mask")
        if rng.random() < 0.2
    }
    if "--hit-modules" in options:
        masks.pop("--hit-mask", None)
    if raw and (damage or masks):
        # the truth has the pixels that leave high gain by frame, not by module: there must be none
        simulate["hit_photons"] = (300.0, 3e3)
    if rng.random() < 0.15:
        options += ("--bin", rng.choice((2, 4, 8)))
    if rng.random() < 0.2:
        options += ("--memory-per-rank", "256M")
    return RandomRun(
        simulate,
        damage,
        masks,
        options,
        expect,
        tuple(rng.sample(RANKS, 2)),
        rng.randrange(1 << 30),
        not raw and not simulate["ragged_sequences"] and rng.random() < 0.15,
    )


def _modules(rng, most: int, n: int = 16) -> list[int]:
    return sorted(rng.sample(range(n), rng.randint(1, most)))


def _simulated(rng: random.Random, about: Detector, *, raw: bool) -> dict:
    trains = rng.randint(1, 6)
    n_cells = rng.randint(1, min(8, MOST_FRAMES // trains))
    # the constants of raw data are large: cells up to the last one in use
    last_cell = 8 if raw else rng.choice((8, min(30, about.max_cells), about.max_cells))
    first_photons = rng.choice((300.0, 3e3, 2e4))
    run = {
        "trains": trains,
        "cells": tuple(sorted(rng.sample(range(last_cell), n_cells))),
        "veto": rng.choice((0.0, 0.0, 0.2, 0.5)),
        "reorder_cells": rng.random() < 0.3,
        "sequence_length": rng.choice((1, 2, 3, 64)),
        "ragged_sequences": rng.random() < 0.3,
        "hit_rate": rng.choice((0.0, 0.2, 0.3, 0.6, 1.0)),
        "background": rng.choice((20.0, 100.0, 3000.0)),
        "hit_photons": (first_photons, first_photons * 10),
        "seed": rng.randrange(1 << 30),
    }
    if about.datasets.by_train:
        # every train has the same burst; and frames are large
        trains, n_cells = min(trains, 3), min(n_cells, 3)
        run |= {"trains": trains, "cells": tuple(range(n_cells)), "veto": 0.0}
        run["reorder_cells"] = False
    if about is not AGIPD_1M:
        run["detector"] = about.name
    if raw:
        run |= {"kind": "raw", "chunk_frames": rng.choice((0, 1, 2, 16))}
        return run | {"constants_dtype": rng.choice(("i2", "i4", "f4"))}
    run["dtype"] = rng.choice(("u1", "u1", "u2", "f4"))
    run["layout"] = rng.choice(("modern", "modern", "legacy"))
    run["compression"] = rng.choice(("gzip", "gzip", "none"))
    run["chunk_frames"] = rng.choice((1, 1, 2, 5) if run["compression"] == "gzip" else (0, 1, 3))
    if rng.random() < 0.3:
        run |= {"with_mask": True, "masked_pixels": 0.02, "masked_at_times": 20.0}
    return run


def _decision(rng: random.Random, about: Detector) -> tuple[tuple, dict]:
    """Choose some options of the decision; returns them twice, the second time for `Expected`."""
    choices = {
        "score": ("--score", ("photons",)),
        "sigma": ("--sigma", (-0.5, 1.0, 2.0, 5.0)),
        "width": ("--width", ("iqr",)),
        "sigma_floor": ("--sigma-floor", ("none",)),
        "miss_fraction": ("--miss-fraction", (0.0, 0.3, 2.0)),
        "miss_base": ("--miss-base", ("misses",)),
        "normalise": ("--normalise", ("unmasked",)),
        "max_score": ("--max-score", (5000.0,)),
        "min_score": ("--min-score", (400.0,)),
    }
    expect = {name: rng.choice(c[1]) for name, c in choices.items() if rng.random() < 0.25}
    options = sum(((choices[name][0], value) for name, value in expect.items()), ())
    decide = rng.choice(("auto", "train", "run", "window", "fixed"))
    expect["decide"] = decide
    options += ("--decide", decide)
    if decide == "fixed":
        expect["fixed_threshold"] = rng.choice((0.0, 500.5, 3000.0))
        options += ("--fixed-threshold", expect["fixed_threshold"])
    if decide == "window":
        expect["min_scores"] = rng.choice((1, 5, 12, 100))
        options += ("--min-scores", expect["min_scores"])
    if rng.random() < 0.2:
        expect["excluded"] = tuple(_modules(rng, 3))
        options += ("--exclude-cells", ",".join(map(str, expect["excluded"])))
    if rng.random() < 0.2:
        modules = _modules(rng, 5, about.n_modules)
        expect["region"] = np.zeros(about.frame_shape, bool)
        expect["region"][modules] = True
        options += ("--hit-modules", *modules)
    if rng.random() < 0.3:
        expect["with_misses"] = True
        options += ("--with-misses",)
    return options, expect


def make(run: RandomRun, folder: Path) -> tuple[MockRun, Expected, list, bool]:
    """Simulate and damage a run in a folder.

    Returns
    -------
    mock : MockRun
    expected : Expected
    options : list
        Of the main job.
    is_damaged : bool
        Whether the job must report problems.
    """
    raw = run.simulate.get("kind") == "raw"
    simulated = {k: v for k, v in run.simulate.items() if k != "kind"}
    mock = (tiny_raw_run if raw else tiny_run)(folder / "p007927", **simulated)
    options = ["--prefix", mock.options.prefix, "--geometry", mock.paths.geometry, *run.options]
    if raw:
        options += ["--adu-per-photon", 60, "--constants", mock.paths.constants]
    frame_masks = _frame_masks(mock) if ("--mask", "run") in pairwise(run.options) else {}
    rng = random.Random(run.seed)
    end = remove_last_sequence(mock) if run.half_corrected else None
    losses = [do_damage(mock, rng, kind, module) for kind, module in run.damage]
    whole = (1 << mock.options.detector_type.n_modules) - 1
    gaps = end is not None or any(mock.truth["modules"] != whole)
    expected = Expected(mock, rows=(0, end), **run.expect)
    for row, bad in list(frame_masks.items())[: len(expected)]:
        expected.bad[row] = bad & expected.present(row)[:, None, None]
    good, region, words = _masks(run, mock, folder)
    if region is not None:
        expected = replace(expected, region=region)
    if raw:
        # of modules that the run lacks, nobody reads the constants; frames that cannot be read are
        # noticed later
        noticed_later = [m for kind, m in run.damage if kind in UNREADABLE]
        lacking = expected.absent
        lacking[noticed_later] = False
        by_constants = {c: mock.truth["bad_kind"][:, c] == 0 for c in mock.options.cells}
        for pixels in by_constants.values():
            pixels[lacking] = True
        good = {c: by_constants[c] & good.get(c, True) for c in mock.options.cells}
    return mock, replace(expected, good=good or None), options + words, any(losses) or gaps


def _frame_masks(mock: MockRun) -> dict[int, np.ndarray]:
    """Return by frame which pixels the masks in the files call bad, bool (module, ss, fs)."""
    shape = mock.options.detector_type.frame_shape
    bad = {row: np.zeros(shape, bool) for row in range(len(mock))}
    for module in mock.options.modules:
        for path in module_files(mock, module):
            with h5py.File(path) as file:
                image = image_group(mock, file)
                masks = image["mask"][()].reshape(-1, *shape[1:])
                for row, mask in zip(rows_in(mock, image), masks, strict=True):
                    bad[row][module] = mask != 0
    return bad


def _masks(run: RandomRun, mock: MockRun, folder: Path):
    """Write random masks; returns good pixels by cell, the hit-finding region, and the options."""
    rng = np.random.default_rng(run.seed)
    cells = mock.options.cells
    good, region, words = {}, None, []
    for option, fraction in run.masks.items():
        path = folder / f"{option[2:]}.h5"
        shape = mock.options.detector_type.frame_shape
        shape = (len(cells), *shape) if option == "--cell-mask" else shape
        values = rng.random(shape, np.float32) < fraction
        with h5py.File(path, "w") as file:
            file["entry_1/good_pixels"] = values
            if option == "--cell-mask":
                file["entry_1/cellIds"] = cells
        words += [option, path]
        if option == "--hit-mask":
            region = values
            continue
        of_cell = values if option == "--cell-mask" else [values] * len(cells)
        good = {c: good.get(c, True) & m for c, m in zip(cells, of_cell, strict=True)}
    return good, region, words


def check(run: RandomRun, folder: Path, seconds: float) -> None:
    """Make a run, process it twice, and assert that both give its known answer.

    Raises
    ------
    AssertionError
        If a value is wrong, or the exit status.
    subprocess.TimeoutExpired
        If a job takes more than `seconds`.
    """
    mock, expected, options, is_damaged = make(run, folder)
    # a run whose frames have all been vetoed is refused
    status = 2 if not len(expected) else 3 if is_damaged else 0
    outputs = [folder / f"out{i}" for i in range(2)]
    for output, ranks in zip(outputs, run.ranks, strict=True):
        words = [mock.options.run, *options, "--output", output]
        words += [] if output == outputs[0] else ["--no-report"]
        done = run_xfelmpi(words, ranks, seconds=seconds)
        text = done.stdout + done.stderr
        assert done.returncode == status, text
        assert "Traceback" not in text, text
        if output == outputs[0] and status != 2:
            check_outputs(output, expected, binned="--bin" in run.options)
    if status != 2:
        assert_same_outputs(*outputs)
