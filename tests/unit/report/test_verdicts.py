"""What the page says of a run in colours: green only when it should be."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.event_table import EventColumns
from xfelmpi.hitfinding.hit_finder import decide_run
from xfelmpi.hitfinding.scores import ScoredFrames
from xfelmpi.output.events import FinishedRun
from xfelmpi.report.headline import headline
from xfelmpi.report.verdicts import answers, as_json, by_chance

ALL_MODULES = 0xFFFF


def finished(score, per_train=352, **options) -> FinishedRun:
    """Return a run with these scores, decided; all else about it is good."""
    n = len(score)
    train = np.repeat(np.arange(-(-n // per_train), dtype=np.uint64), per_train)[:n]
    cell = np.arange(n).astype(np.uint16) % per_train
    config = Config(50, **options)
    scored = ScoredFrames(train, cell, score.astype(np.float32), np.ones(n, bool))
    found = decide_run(mpi.alone(), config, scored)
    columns = {f.name: np.zeros(n) for f in fields(EventColumns) if f.name != "added"}
    columns |= {
        "trainId": train,
        "cellId": cell,
        "photons": score.astype(np.uint64),
        "is_hit": found.is_hit,
        "is_miss": np.zeros(n, bool),
        "hit_sigma": found.sigma,
        "pulse_energy": np.full(n, 1e-3),
        "wavelength": np.full(n, 2e-10),
        "modules": np.full(n, ALL_MODULES),
        "n_pulses": np.ones(n, np.uint8),
        "gain_switched": None,
        "pumped": None,
    }
    attributes = {"modules_in_run": ALL_MODULES, "run": 50, "proposal": "p007927"}
    attributes["detector"] = "SPB_DET_AGIPD1M-1"
    attributes["creation_date"] = "2026-01-01T00:00:00+00:00"
    return FinishedRun(config, "", EventColumns(**columns), None, [], attributes)


def verdicts(run: FinishedRun) -> dict:
    return as_json(answers(run, headline(run, SimpleNamespace(sample="", start_time="")), 0.0, 0.7))


def states(run: FinishedRun) -> dict[str, str]:
    return {name: verdict["state"] for name, verdict in verdicts(run).items()}


def background(n, mean=800, seed=1):
    return np.random.default_rng(seed).poisson(mean, n).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"decide": "train"}, {"sigma": 3.0}], ids=str)
@pytest.mark.parametrize("per_train", [8, 352])
def test_a_run_without_particles_is_not_green(options, per_train):
    run = finished(background(100_000), per_train, **options)
    assert run.events.is_hit.any()
    found = states(run)
    assert found["beam"] == found["detector"] == "good"
    assert found["sample"] == found["hits"] == found["reconstruction"] == "bad"


def test_three_false_hits_of_a_short_run():
    score = background(2816)
    score[[7, 900, 2000]] = 800 + 4.6 * np.sqrt(800)
    run = finished(score)
    assert run.events.is_hit.sum() == 3
    found = verdicts(run)
    assert found["sample"]["state"] == found["hits"]["state"] == "bad"
    assert "3 hits, 0.089 expected by chance" in found["hits"]["why"]


@pytest.mark.parametrize("decide", ["auto", "run", "train"])
@pytest.mark.parametrize("n", [24, 100, 199])
def test_few_frames_without_a_particle_are_not_green(n, decide):
    """Some frames far above the others are hits, but nobody knows how wide the background is."""
    score = background(n)
    score[::4] += 3000
    run = finished(score, decide=decide)
    run.events.is_hit[::4], run.events.hit_sigma[::4] = True, 90.0
    found = verdicts(run)
    assert found["sample"]["state"] == found["hits"]["state"] == "doubtful"
    n_background = n - run.events.is_hit.sum()
    expected = f"only {n_background} frames without a particle, fewer than 200"
    assert expected in found["hits"]["why"]
    assert expected in found["sample"]["why"]


def test_many_particles_are_green():
    score = background(50_000)
    score[::20] += 3000
    assert set(states(finished(score)).values()) == {"good"}


@pytest.mark.parametrize(
    ("every", "state"), [(400, "bad"), (260, "bad"), (100, "doubtful"), (20, "good")]
)
def test_enough_for_a_reconstruction(every, state):
    """125, 193, 500 and 2500 hits."""
    score = background(50_000)
    score[::every] += 3000
    found = verdicts(finished(score))
    assert found["sample"]["state"] == found["hits"]["state"] == "good"
    assert found["reconstruction"]["state"] == state
    assert "photons in the median one" in found["reconstruction"]["why"]
    assert ("thousands" in found["reconstruction"]["why"]) == (state != "good")


def test_a_few_bright_hits_say_that_there_is_a_sample():
    score = background(20_000)
    score[[5, 5000, 9000, 15_000]] += 2000
    found = states(finished(score))
    assert found["sample"] == "good"
    # one in ten may be false
    assert found["hits"] == "doubtful"
    assert found["reconstruction"] == "bad"


def test_hits_that_chance_explains_in_part_are_doubtful():
    score = background(100_000)
    score[::10_000] += 3000
    run = finished(score, sigma=3.0)
    found = verdicts(run)
    assert found["hits"]["state"] == "doubtful"
    assert 80 < by_chance(run).expected < 250


def test_a_heavy_tail_explains_more():
    rng = np.random.default_rng(2)
    score = background(50_000)
    far = rng.random(50_000) < 0.02
    score[far] += rng.exponential(25, far.sum())
    run = finished(score)
    assert by_chance(run).heavier > 2
    assert states(run)["hits"] != "good"


def test_no_hits():
    run = finished(np.full(1000, 800.0))
    found = states(run)
    assert found["sample"] == found["hits"] == found["reconstruction"] == "bad"


def test_fixed_threshold_has_no_tail():
    score = background(5000)
    score[::2] += 3000
    run = finished(score, decide="fixed", fixed_threshold=2000.0)
    found = states(run)
    assert found["hits"] == "doubtful"
    assert np.isnan(by_chance(run).expected)
    assert found["reconstruction"] == "good"
