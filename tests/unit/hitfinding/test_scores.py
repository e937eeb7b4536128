"""What goes into a decision, against references that loop; and whole decisions on any split."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import reference

from xfelmpi.core.config.options import Config
from xfelmpi.hitfinding import hit_finder, scores
from xfelmpi.hitfinding.thresholds import Decision


class Ranks:
    """Plays all ranks at once: what each holds is known from a first round of calls."""

    def __init__(self, monkeypatch):
        self.size, self.notes = 1, []
        for name in ("allgather_concat", "exscan_and_total", "allreduce_sum"):
            monkeypatch.setattr(hit_finder.mpi, name, getattr(self, name))

    def run(self, work, parts):
        """Return work(part) of every rank, until no collective call changes its answer."""
        self.seen = [[] for _ in parts]
        for _ in range(8):
            before = self.seen
            self.known, self.seen, found = before, [[] for _ in parts], []
            for self.rank, part in enumerate(parts):
                found.append(work(part))
            if repr(before) == repr(self.seen):
                return found
        raise AssertionError("never settles")

    def _all(self, value):
        call = len(self.seen[self.rank])
        self.seen[self.rank].append(value)
        return [
            known[call] if call < len(known) and r != self.rank else value
            for r, known in enumerate(self.known)
        ]

    def allgather_concat(self, comm, array):
        return np.concatenate(self._all(array))

    def exscan_and_total(self, comm, value):
        values = self._all(value)
        return sum(values[: self.rank]), sum(values)

    def allreduce_sum(self, comm, array):
        return np.sum(self._all(array), axis=0)


def made_up(seed, lengths=(30, 0, 1, 2, 25, 40, 7, 1, 19)):
    """Return train, cell, energy, complete, score; energies unknown, zero and low among them."""
    rng = np.random.default_rng(seed)
    train = np.repeat(700 + np.arange(len(lengths), dtype=np.uint64), lengths)
    cell = np.array([c for n in lengths for c in range(n)]).astype(np.uint16)
    energy = rng.normal(1e-3, 2e-4, len(train))
    energy[rng.random(len(train)) < 0.1] = np.nan
    energy[rng.random(len(train)) < 0.05] = 0
    score = rng.poisson(60, len(train)).astype(float)
    score[rng.random(len(train)) < 0.1] += 500
    return train, cell, energy, rng.random(len(train)) < 0.9, score


def decide(config, columns):
    train, cell, energy, complete, score = columns
    frames = hit_finder.score_frames("comm", config, train, cell, energy, complete, score)
    found = hit_finder.decide_run("comm", config, frames)
    return frames, found, hit_finder.draw_misses("comm", config, frames, found)


SETTINGS = {
    "auto": {"min_scores": 3},
    "auto over everything": {"sigma_floor": "none"},
    "train": {"decide": "train"},
    "window": {"decide": "window", "min_scores": 50},
    "window over everything": {"decide": "window", "min_scores": 100_000, "width": "iqr"},
    "run": {"decide": "run", "width": "iqr", "sigma_floor": "none"},
    "fixed": {"decide": "fixed", "fixed_threshold": 100.0, "max_score": 560.0},
    "energy": {"normalise": "pulse-energy", "min_scores": 60, "decide": "run"},
    "energy and window": {
        "normalise": "pulse-energy",
        "min_scores": 31,
        "decide": "window",
        "min_pulse_energy": 9e-4,
        "exclude_cells": (0, 4),
        "miss_base": "misses",
        "miss_fraction": 0.4,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_for_any_number_of_ranks(monkeypatch, name):
    config = Config(1, **SETTINGS[name])
    columns = made_up(3)
    edges = scores.train_edges(columns[0])
    ranks = Ranks(monkeypatch)
    ((frames, whole, misses),) = ranks.run(lambda part: decide(config, part), [columns])
    assert whole.is_hit.any()
    assert misses.any()
    for cuts in ((), (3,), (1, 2), (2, 2, 5), (0, 1, 4, 8)):
        bounds = [0, *edges[list(cuts)], len(columns[0])]
        parts = [tuple(c[a:b] for c in columns) for a, b in pairwise(bounds)]
        found = ranks.run(lambda part: decide(config, part), parts)
        assert np.array_equal(np.concatenate([f[2] for f in found]), misses)
        assert {f[1].note for f in found} == {whole.note}
        for which, right, names in ((0, frames, ["score", "usable"]), (1, whole, FIELDS)):
            for field in names:
                joined = np.concatenate([getattr(f[which], field) for f in found])
                assert joined.tobytes() == getattr(right, field).tobytes(), field


FIELDS = tuple(name for name in Decision.__dataclass_fields__ if name != "note")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("lengths", [(), (1,), (1, 1), (2,), (0, 1, 0)], ids=str)
def test_few_frames(monkeypatch, name, lengths):
    config = Config(1, **SETTINGS[name])
    columns = made_up(1, lengths)
    (found,) = Ranks(monkeypatch).run(lambda part: decide(config, part), [columns])
    frames, decided, misses = found
    assert not (decided.is_hit & ~decided.decidable).any()
    assert not (misses & ~decided.is_non_hit).any()
    assert not np.isinf(decided.threshold).any()
    assert len(frames.score) == sum(lengths)


@pytest.mark.parametrize("name", [n for n in SETTINGS if n != "fixed"])
@pytest.mark.parametrize("score", [0.0, 70.0])
def test_constant_scores(monkeypatch, name, score):
    """Nobody stands out, with whatever width."""
    config = replace(Config(1, **SETTINGS[name]), sigma_floor="none", normalise="none")
    *columns, old = made_up(2)
    columns = (*columns, np.full(len(old), score))
    ((_, found, misses),) = Ranks(monkeypatch).run(lambda part: decide(config, part), [columns])
    assert not found.is_hit.any()
    assert not misses.any() or config.miss_base == "misses"
    assert (found.std[found.decidable] == 0).all()
    assert (found.threshold[found.decidable] == score).all()
    assert np.isnan(found.sigma).all()


@pytest.mark.parametrize("energy", [np.nan, 0.0, -1e-3, np.inf])
def test_no_energies(monkeypatch, energy):
    """Nothing to normalise by: no score, no hit, no miss, no statistics."""
    train, cell, old, complete, score = made_up(4)
    columns = (train, cell, np.full(len(old), energy), complete, score)
    config = Config(1, normalise="pulse-energy")
    ((frames, found, misses),) = Ranks(monkeypatch).run(lambda p: decide(config, p), [columns])
    assert np.isnan(frames.score).all()
    assert not frames.usable.any()
    assert not found.is_hit.any()
    assert not found.decidable.any()
    assert not misses.any()
    assert np.isnan(found.threshold).all()


def test_fully_masked_frames(monkeypatch):
    train, cell, energy, _, score = made_up(5, (10, 10))
    factor = scores.unmasked_factor(np.repeat([0, 500, 1000, 1000], 5), 1000)
    assert np.isnan(factor[:5]).all()
    assert factor[5:].tolist() == [2.0] * 5 + [1.0] * 10
    columns = (train, cell, energy, np.ones(20, bool), score * factor)
    config = Config(1, sigma=-100.0, decide="train")
    ((_, found, _),) = Ranks(monkeypatch).run(lambda p: decide(config, p), [columns])
    assert found.decidable.tolist() == [False] * 5 + [True] * 15
    assert found.is_hit.tolist() == found.decidable.tolist(), "all that can be are hits"
    assert np.isnan(found.median[:5]).all()
    assert found.median[5] == np.float32(np.median(2 * score[5:10]))


@pytest.mark.parametrize("base", ["hits", "misses"])
def test_only_hits(monkeypatch, base):
    """Then there are no misses to draw."""
    columns = made_up(6)
    config = Config(1, decide="fixed", fixed_threshold=-1.0, miss_base=base)
    ((_, found, misses),) = Ranks(monkeypatch).run(lambda p: decide(config, p), [columns])
    assert np.array_equal(found.is_hit, columns[3])
    assert not misses.any()


def test_above_the_maximum_is_neither_hit_nor_miss(monkeypatch):
    columns = made_up(7)
    config = Config(1, max_score=300.0, min_score=80.0, miss_base="misses", sigma=1.0)
    ((frames, found, misses),) = Ranks(monkeypatch).run(lambda p: decide(config, p), [columns])
    above = frames.usable & (frames.score > 300)
    assert above.any()
    assert not found.is_hit[above].any()
    assert not misses[above].any()
    assert found.decidable[above].all()
    dim = frames.usable & (frames.score < 80) & (frames.score > found.threshold)
    assert dim.any()
    assert misses[dim].all()
    both = frames.usable & (frames.score >= 80) & (frames.score <= 300)
    assert np.array_equal(found.is_hit, both & (frames.score > found.threshold))


def test_limits_belong_to_the_hits():
    assert scores.usable_frames(
        np.array([True, True, True, True, False, True]),
        np.array([0, 1, 2, 3, 4, 5], np.uint16),
        np.array([9.0, 9.0, 2.0, 1.9, 9.0, np.nan]),
        excluded=(1,),
        min_energy=2.0,
    ).tolist() == [True, False, True, False, False, False]
    cells = np.arange(6, dtype=np.uint16)
    found = scores.usable_frames(np.ones(6, bool), cells, np.full(6, np.nan), first_cell=4)
    assert found.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("min_scores", [1, 2, 3, 4, 5, 10, 11, 40, 41, 100, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_windows(seed, min_scores):
    train, _, _, usable, _ = made_up(seed)
    numbers = np.flatnonzero(usable)
    found = scores.windows(train, usable, 0, len(numbers), min_scores)
    for a, b, low, high in zip(found.edges, found.edges[1:], found.low, found.high, strict=False):
        right = reference.window(usable.tolist(), a, b, min_scores)
        assert numbers[low:high].tolist() == right
        own = usable[a:b].sum()
        if own >= min_scores:
            assert high - low == own
        elif low > 0 and high < len(numbers):
            assert min_scores - 3 <= high - low <= min_scores


def test_mean_energy_does_not_depend_on_the_order():
    values = np.random.default_rng(8).normal(1e-3, 1e-4, 10_001)
    means = {scores.mean_energy(np.random.default_rng(i).permutation(values)) for i in range(20)}
    assert len(means) == 1
    assert means.pop() == pytest.approx(values.mean(), rel=1e-14)
    assert math.isnan(scores.mean_energy(values[:0]))


def test_energy_factor_by_hand():
    energy = np.array([2.0, 4.0, 1.0, 0.0, np.nan, np.inf, -2.0])
    found = scores.energy_factor(energy, np.full(7, 4.0), None)
    np.testing.assert_array_equal(found, [2, 1, 4, *[np.nan] * 4])
    found = scores.energy_factor(energy, np.full(7, 4.0), 2.0)
    np.testing.assert_array_equal(found, [2, 1, *[np.nan] * 5])
