"""Machine data kept from an earlier job: the same as reading them again, or not used."""

from dataclasses import replace

import numpy as np
import pytest
from damagedcache import DAMAGES, damage_cache
from mockrun import tiny_run

from xfelmpi.core.paths import Experiment
from xfelmpi.run.machine import cache
from xfelmpi.run.machine.machine_data import read_machine_data

pytestmark = pytest.mark.slow

DETECTOR = "SPB_DET_AGIPD1M-1"
ADDED = ("pressure=SPB_XTD9_XGM/XGM/DOOCS/pressure.pressureFiltered",)


@pytest.fixture
def experiment(tmp_path):
    prefix = tmp_path / "p007927"
    made = tiny_run(prefix, trains=6, cells=(0, 3, 4), sequence_length=2)
    return Experiment(prefix, tmp_path / "scratch", int(made.paths.proc.name[1:]))


@pytest.fixture
def counted(monkeypatch):
    """How often the files were really read."""
    calls = []

    def read(*arguments, **options):
        calls.append(arguments)
        return read_machine_data(*arguments, **options)

    monkeypatch.setattr(cache, "read_machine_data", read)
    return calls


def ids(n=18):
    return np.repeat(np.arange(10_000, 10_006), 3).astype("u8")[:n], np.arange(n, dtype="u8")


def read_now(experiment, n=18, added=()):
    train_id, pulse_id = ids(n)
    cells = pulse_id.astype(np.uint16)
    return read_machine_data(experiment, train_id, pulse_id, added, DETECTOR, cells)


def get(experiment, n=18, added=()):
    train_id, pulse_id = ids(n)
    cells = pulse_id.astype(np.uint16)
    return cache.cached_machine_data(experiment, train_id, pulse_id, added, DETECTOR, cells)


def assert_same(found, expected):
    for name in ("pulse_energy", "wavelength", "n_pulses"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert (found.sample, found.warnings) == (expected.sample, expected.warnings)
    assert found.sources == expected.sources
    assert [n for n in found.notes if "earlier job" not in n] == list(expected.notes)
    assert len(found.added) == len(expected.added)
    for one, other in zip(found.added, expected.added, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert replace(one, values=None) == replace(other, values=None)
    assert (found.motors is None) == (expected.motors is None)
    if found.motors:
        assert found.motors.device == expected.motors.device
        np.testing.assert_array_equal(found.motors.positions, expected.motors.positions)
        np.testing.assert_array_equal(found.motors.travel, expected.motors.travel)


def machine_files(experiment):
    folders = [experiment.run_folder(kind) for kind in ("proc", "raw")]
    return [
        p for f in folders if f.is_dir() for p in sorted(f.glob("*.h5")) if "AGIPD" not in p.name
    ]


@pytest.mark.parametrize("added", [(), ADDED])
def test_second_time_is_the_same(experiment, counted, added):
    expected = read_now(experiment, added=added)
    for _ in range(3):
        assert_same(get(experiment, added=added), expected)
    assert len(counted) == 1
    assert get(experiment, added=added).notes[-1].endswith(str(experiment.machine))


def test_whatever_it_depends_on_counts(experiment, counted):
    get(experiment)
    get(experiment, n=15)
    assert len(counted) == 2
    get(experiment, n=15, added=ADDED)
    assert len(counted) == 3
    victim = machine_files(experiment)[-1]
    victim.touch()
    get(experiment, n=15, added=ADDED)
    assert len(counted) == 4
    victim.unlink()
    assert_same(get(experiment), read_now(experiment))
    assert len(counted) == 5


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_used(experiment, counted, damage):
    expected = get(experiment)
    damage_cache(experiment.machine, damage, "wavelength", "pulse_energy", 3)
    assert_same(get(experiment), expected)
    assert len(counted) == 2


def test_what_could_not_be_read_is_tried_again(experiment, counted):
    victim = machine_files(experiment)[0]
    content = victim.read_bytes()
    victim.write_text("no HDF5")
    for _ in range(2):
        assert any("could not be read" in warning for warning in get(experiment).warnings)
    assert len(counted) == 2
    victim.write_bytes(content)
    for _ in range(2):
        assert not any("could not be read" in warning for warning in get(experiment).warnings)
    assert len(counted) == 3
