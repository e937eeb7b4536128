"""Machine data: a valid small run first, then one thing broken at a time."""

import h5py
import numpy as np
import pytest
from bothways import read_machine_data
from extra_data.tests.mockdata.xgm import XGM
from machinerun import (
    FIRST,
    NAME,
    PULSES,
    STEP,
    TABLE,
    TIMESERVER,
    TO_SASE1,
    TO_SASE3,
    TRAINS,
    TUNNEL,
    Device,
    TimeServer,
    XGMTwo,
    control,
    fill,
    frames,
    intensity,
    packed,
    values_of,
    write_run,
)

from xfelmpi.core.problems import Problem
from xfelmpi.run.machine import machine_data, train_table
from xfelmpi.run.machine.machine_data import read_ahead
from xfelmpi.run.machine.pulse_matching import (
    DARK,
    LINE,
    OWN,
    decode_pattern,
    match_pattern,
    match_slots,
    written_slots,
)


@pytest.fixture
def path(experiment):
    """A good file: 8 trains of 12 pulses, packed."""
    path = experiment.run_folder("raw") / "RAW-R0050-DA01-S00000.h5"
    write_run(path)
    fill(path, packed(values_of()))
    return path


def expected(train_id, pulse_id, step=STEP):
    return (1000 + 100 * (train_id - FIRST).astype(float) + pulse_id // step) * 1e-6


def check(data, good=slice(None), step=STEP, ids=None):
    """Energies are right at `good` and NaN elsewhere."""
    train_id, pulse_id = ids or frames(step)
    right = np.full(len(train_id), np.nan)
    right[good] = expected(train_id, pulse_id, step)[good]
    np.testing.assert_allclose(data.pulse_energy, right, rtol=1e-7)
    assert data.pulse_energy.dtype == np.float64


def said(data, text):
    return sum(text in note for note in (*data.notes, *data.warnings))


def test_packed(experiment, path):
    data = read_machine_data(experiment, *frames())
    check(data)
    np.testing.assert_allclose(data.wavelength, 0.2e-9, rtol=1e-6)
    assert data.wavelength.dtype == np.float64
    assert data.sample == ""
    assert said(data, NAME) == 2
    assert not said(data, "unknown")
    assert not said(data, "assumed")


def test_what_was_read_ahead_is_not_read_again(experiment, path, monkeypatch):
    ids, some = frames(), [column[:9] for column in frames()]
    about = (), "SPB_DET_AGIPD1M-1", None
    read, found = [], train_table._read_samples

    def counted(file, *what):
        read.append(what)
        return found(file, *what)

    monkeypatch.setattr(train_table, "_read_samples", counted)
    with read_ahead(experiment, *some, *about, 0) as run:
        assert read
        read.clear()
        check(machine_data.read_machine_data(experiment, *ids, *about, opened_run=run))
        assert not read
    # for another proposal, other files count
    with read_ahead(experiment, *some, *about, 1) as run:
        read.clear()
        check(machine_data.read_machine_data(experiment, *ids, *about, opened_run=run))
        assert read


def test_frames_in_any_order(experiment, path):
    train_id, pulse_id = frames()
    order = np.random.default_rng(1).permutation(train_id.size)[:40]
    ids = train_id[order], pulse_id[order]
    check(read_machine_data(experiment, *ids), ids=ids)


def test_no_frames(experiment, path):
    data = read_machine_data(experiment, np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    assert data.pulse_energy.shape == data.wavelength.shape == (0,)


def test_vetoed_frames(experiment, path):
    train_id, pulse_id = frames()
    # two of three frames lost, others in every train
    kept = (train_id + pulse_id // STEP) % 3 == 0
    ids = train_id[kept], pulse_id[kept]
    check(read_machine_data(experiment, *ids), ids=ids)


def test_slots_by_pulse_number(experiment, path):
    values = np.ones((TRAINS, 1000), np.float32)
    values[:, : PULSES * STEP : STEP] = values_of()
    fill(path, values)
    check(read_machine_data(experiment, *frames()))


def test_old_format(experiment, path):
    write_run(path, version="0.5")
    fill(path, packed(values_of()))
    check(read_machine_data(experiment, *frames()))


def test_nothing_there(experiment):
    data = read_machine_data(experiment, *frames())
    check(data, good=[])
    assert np.isnan(data.wavelength).all()
    assert data.sample == ""
    assert len(data.warnings) == 2
    what = "pulse energy unknown for 96 of 96 frames"
    assert data.problems == (Problem(what, "", -1, 0, "pulse energy is NaN there"),)
    assert data.notes == ()


def test_files_without_xgm(experiment):
    write_run(experiment.run_folder("raw") / "RAW-R0050-DA01-S00000.h5", [TimeServer(TIMESERVER)])
    check(read_machine_data(experiment, *frames()), good=[])


def test_xgm_without_values(experiment, path):
    fill(path, 0, wavelength=0)
    data = read_machine_data(experiment, *frames())
    check(data, good=[])
    assert np.isnan(data.wavelength).all()


def test_instrument_before_tunnel(experiment, path):
    write_run(path, [TUNNEL, NAME])
    fill(path, packed(2 * values_of()), TUNNEL)
    data = read_machine_data(experiment, *frames())
    np.testing.assert_allclose(data.pulse_energy, 2 * expected(*frames()))
    assert said(data, TUNNEL)
    fill(path, packed(values_of()))
    check(read_machine_data(experiment, *frames()))


def test_own_undulator_before_both(experiment, path):
    write_run(path, [XGMTwo(NAME)])
    fill(path, packed(values_of()))
    check(read_machine_data(experiment, *frames()))
    fill(path, packed(values_of()), key="intensitySa1TD")
    fill(path, packed(3 * values_of(pulses=2 * PULSES)))
    data = read_machine_data(experiment, *frames())
    check(data)
    assert said(data, "intensitySa1TD")


def test_proc_before_raw(experiment, path):
    fill(path, packed(2 * values_of()), wavelength=0.5)
    other = write_run(experiment.run_folder("proc") / "CORR-R0050-DA01-S00000.h5")
    fill(other, packed(values_of()), wavelength=0)
    data = read_machine_data(experiment, *frames())
    check(data)
    np.testing.assert_allclose(data.wavelength, 0.5e-9)


def test_module_files_stay_closed(experiment, path):
    for name in ("RAW-R0050-AGIPD03-S00000.h5", "RAW-R0050-AGIPD15-S00001.h5"):
        path.with_name(name).write_bytes(b"no HDF5")
    data = read_machine_data(experiment, *frames())
    check(data)
    assert not said(data, "AGIPD")


def test_sequences(experiment, path):
    other = write_run(path.with_name("RAW-R0050-DA01-S00001.h5"), first=FIRST + TRAINS)
    fill(other, packed(values_of(FIRST + TRAINS)))
    ids = frames(trains=2 * TRAINS)
    check(read_machine_data(experiment, *ids), ids=ids)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_file(experiment, path, damage):
    other = write_run(path.with_name("RAW-R0050-DA01-S00001.h5"), first=FIRST + TRAINS)
    fill(other, packed(values_of(FIRST + TRAINS)))
    content = other.read_bytes()
    new = {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * 5000}
    other.write_bytes(new[damage])
    ids = frames(trains=2 * TRAINS)
    data = read_machine_data(experiment, *ids)
    check(data, ids[0] < FIRST + TRAINS, ids=ids)
    assert said(data, other.name) == 1


@pytest.mark.parametrize(
    "missing",
    [
        f"INDEX/{NAME}:output/data/count",
        f"INDEX/{NAME}:output/data",
        f"INSTRUMENT/{NAME}:output/data",
        "INDEX/trainId",
        "METADATA/dataSources",
    ],
)
def test_missing_group(experiment, path, missing):
    with h5py.File(path, "r+") as file:
        del file[missing]
    check(read_machine_data(experiment, *frames()), good=[])


def test_text_for_numbers(experiment, path):
    with h5py.File(path, "r+") as file:
        for name in (intensity(), f"CONTROL/{NAME}/pulseEnergy/wavelengthUsed/value"):
            del file[name]
            file[name] = [b"1 mJ"] * TRAINS
    data = read_machine_data(experiment, *frames())
    check(data, good=[])
    assert np.isnan(data.wavelength).all()


def test_index_beyond_data(experiment, path):
    with h5py.File(path, "r+") as file:
        file[intensity()].resize(5, axis=0)
    check(read_machine_data(experiment, *frames()), frames()[0] < FIRST + 5)


def test_no_sample_of_one_train(experiment, path):
    with h5py.File(path, "r+") as file:
        file[f"INDEX/{NAME}:output/data/count"][2] = 0
        file[f"INDEX/{NAME}:output/data/first"][3:] -= 1
        values = file[intensity()][:]
        file[intensity()][2:-1] = values[3:]
    data = read_machine_data(experiment, *frames())
    check(data, frames()[0] != FIRST + 2)
    assert said(data, f"{PULSES} of {TRAINS * PULSES}") == 1


def test_shifted_trains(experiment, path):
    write_run(path, first=FIRST + 3)
    fill(path, packed(values_of(FIRST + 3)))
    data = read_machine_data(experiment, *frames())
    check(data, frames()[0] >= FIRST + 3)
    assert np.isnan(data.wavelength[: 3 * PULSES]).all()
    assert np.isfinite(data.wavelength[3 * PULSES :]).all()


def test_zero_train(experiment, path):
    with h5py.File(path, "r+") as file:
        file["INDEX/trainId"][3] = 0
    data = read_machine_data(experiment, *frames())
    check(data, frames()[0] != FIRST + 3)
    assert np.isnan(data.wavelength).sum() == PULSES


def test_suspect_train(experiment, path):
    with h5py.File(path, "r+") as file:
        file["INDEX/flag"][4] = 0
    check(read_machine_data(experiment, *frames()))


def test_unsorted_trains(experiment, path):
    order = np.random.default_rng(2).permutation(TRAINS)
    with h5py.File(path, "r+") as file:
        file["INDEX/trainId"][:] = FIRST + order
    fill(path, packed(values_of())[order])
    check(read_machine_data(experiment, *frames()))


@pytest.mark.parametrize("same", [True, False])
def test_repeated_train(experiment, path, same):
    values = values_of()
    values[5] = values[4] if same else 7
    with h5py.File(path, "r+") as file:
        file["INDEX/trainId"][5] = FIRST + 4
    fill(path, packed(values))
    lost = {FIRST + 5} if same else {FIRST + 4, FIRST + 5}
    check(read_machine_data(experiment, *frames()), ~np.isin(frames()[0], list(lost)))


def test_fewer_pulses_than_frames(experiment, path):
    fill(path, packed(values_of(pulses=7)))
    data = read_machine_data(experiment, *frames())
    check(data, frames()[1] < 7 * STEP)
    assert sum("assumed" in line for line in data.warnings) == 1


def test_fewer_pulses_in_one_train(experiment, path):
    values = values_of()
    values[2, 5:] = 1
    fill(path, packed(values))
    train_id, pulse_id = frames()
    good = (train_id != FIRST + 2) | (pulse_id < 5 * STEP)
    check(read_machine_data(experiment, train_id, pulse_id), good)


def test_more_pulses_than_frames(experiment, path):
    fill(path, packed(values_of(pulses=30)))
    ids = frames(step=1)
    check(read_machine_data(experiment, *ids), step=1, ids=ids)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0, 1])
@pytest.mark.parametrize("where", [3, slice(None)])
def test_bad_slot_moves_no_other(experiment, path, bad, where):
    values = values_of()
    values[where, 6] = bad
    fill(path, packed(values))
    train_id, pulse_id = frames()
    lost = (pulse_id == 6 * STEP) & ((train_id == FIRST + 3) | (where != 3))
    check(read_machine_data(experiment, train_id, pulse_id), ~lost)


@pytest.mark.parametrize(
    ("attributes", "factor", "assumed"),
    [
        ({"metricPrefixName": b"milli", "metricPrefixSymbol": b"m"}, 1e3, False),
        ({"metricPrefixName": b""}, 1e6, False),
        ({"metricPrefixName": "micro", "unitName": "joule"}, 1, False),
        ({"unitName": b"watt"}, 1, True),
        ({"metricPrefixName": b"dozen"}, 1, True),
    ],
)
def test_units(experiment, path, attributes, factor, assumed):
    with h5py.File(path, "r+") as file:
        file[intensity()].attrs.update(attributes)
        values = file[intensity()][...]
        file[intensity()][...] = np.where(values > 1, values * 1.5 / factor, values)
    data = read_machine_data(experiment, *frames())
    np.testing.assert_allclose(data.pulse_energy, 1.5 * expected(*frames()), rtol=1e-6)
    assert said(data, "microjoule assumed") == assumed


@pytest.mark.parametrize("bad", [-1e3, 1e30, -1e30, 1e-38])
@pytest.mark.parametrize("where", [3, slice(None)])
def test_impossible_pulse_energy_is_unknown_and_a_problem(experiment, path, bad, where):
    values = values_of()
    values[where, 6] = bad
    fill(path, packed(values))
    train_id, pulse_id = frames()
    lost = (pulse_id == 6 * STEP) & ((train_id == FIRST + 3) | (where != 3))
    data = read_machine_data(experiment, train_id, pulse_id)
    check(data, ~lost)
    assert [p.action for p in data.problems] == [
        "pulse energy is unknown there",
        "pulse energy is NaN there",
    ]
    assert f"of {NAME}:output data." in data.problems[0].what


@pytest.mark.parametrize("order", [">f4", "vax"])
def test_bytes_that_are_taken_for_other_numbers(experiment, path, order):
    """As with a flipped bit in the type of the dataset: a few of the numbers look possible."""
    values = packed(values_of() + np.pi * 0.1)
    if order == "vax":
        words = values.astype("<f4").view("<u2").reshape(*values.shape, 2)
        values = words[..., ::-1].copy().view("<f4")[..., 0]
    else:
        values = values.astype("<f4").view(order)
    fill(path, values)
    data = read_machine_data(experiment, *frames())
    assert np.isnan(data.pulse_energy).all()
    assert "none of them is used" in [p.action for p in data.problems]


def test_no_units(experiment, path):
    with h5py.File(path, "r+") as file:
        for name in list(file[intensity()].attrs):
            del file[intensity()].attrs[name]
    data = read_machine_data(experiment, *frames())
    check(data)
    assert said(data, "microjoule assumed") == 1


def sequences(path, n):
    """Write further sequences of a good run; return all of them."""
    for k in range(1, n):
        other = path.with_name(f"RAW-R0050-DA01-S{k:05}.h5")
        write_run(other, first=FIRST + k * TRAINS)
        fill(other, packed(values_of(FIRST + k * TRAINS)))
    return sorted(path.parent.iterdir())


PLACES = {
    intensity(): {"unitName": b"joule", "metricPrefixName": b"micro"},
    f"CONTROL/{NAME}/pulseEnergy/wavelengthUsed": {
        "unitName": b"meter",
        "metricPrefixName": b"nano",
    },
}
DAMAGED_UNITS = {
    "prefix": {"metricPrefixName": b"pico", "metricPrefixSymbol": b"p"},
    "no prefix": {"metricPrefixName": b"", "metricPrefixSymbol": b""},
    "unit": {"unitName": b"second", "unitSymbol": b"s"},
    "garbage": {"unitName": b"\xff\x01ule"},
}


@pytest.mark.parametrize("damaged", DAMAGED_UNITS)
@pytest.mark.parametrize("which", range(3))
def test_unit_that_one_sequence_says_is_that_of_the_others(experiment, path, which, damaged):
    """Of numbers whose unit is not that of most files nothing is known."""
    paths = sequences(path, 3)
    for n, other in enumerate(paths):
        with h5py.File(other, "r+") as file:
            for place, words in PLACES.items():
                file[place].attrs.update(words)
                file[place].attrs.update(DAMAGED_UNITS[damaged] if n == which else {})
    ids = frames(trains=3 * TRAINS)
    data = read_machine_data(experiment, *ids)
    bad = (ids[0] - FIRST) // TRAINS == which
    check(data, ~bad, ids=ids)
    assert np.isnan(data.wavelength[bad]).all()
    assert np.isfinite(data.wavelength[~bad]).all()
    assert said(data, f"{paths[which].name} ({intensity()} is in ")
    assert said(data, "expected 1e-06 J as in most files")
    (problem,) = data.problems
    assert problem.file == paths[which].name


def test_two_sequences_that_say_different_units(experiment, path):
    """Nobody knows which one is right."""
    paths = sequences(path, 2)
    with h5py.File(paths[1], "r+") as file:
        file[intensity()].attrs.update(DAMAGED_UNITS["prefix"])
    data = read_machine_data(experiment, *frames(trains=2 * TRAINS))
    assert np.isnan(data.pulse_energy).all()
    for path, said_there in zip(paths, ("1e-06 J", "1e-12 J"), strict=True):
        why = f"{path.name} ({intensity()} is in {said_there}, expected the same unit in all files)"
        assert said(data, why)


def test_unit_that_one_sequence_does_not_say(experiment, path):
    """It is that of the others."""
    with h5py.File(sequences(path, 2)[0], "r+") as file:
        for name in list(file[intensity()].attrs):
            del file[intensity()].attrs[name]
    ids = frames(trains=2 * TRAINS)
    data = read_machine_data(experiment, *ids)
    check(data, ids=ids)
    assert not said(data, "microjoule assumed")


def test_wavelength_unit_and_gaps(experiment, path):
    key = f"CONTROL/{NAME}/pulseEnergy/wavelengthUsed"
    with h5py.File(path, "r+") as file:
        file[key].attrs["unitName"] = b"meter"
        file[key].attrs["metricPrefixName"] = b"pico"
        file[f"{key}/value"][:] = [200, np.nan, 0, -1, np.inf, 200, 200, 300]
    wavelength = read_machine_data(experiment, *frames()).wavelength[::PULSES]
    nan = np.nan
    np.testing.assert_allclose(
        wavelength, np.array([200, nan, nan, nan, nan, 200, 200, 300]) / 1e12
    )


UNDULATOR = "SPB_XTD2_UND/DOOCS/ENERGY"


def undulator_run(path, name=UNDULATOR, keys=None, used=0):
    """Write a run with an undulator, and an XGM that tells no wavelength unless `used`."""
    write_run(path, [NAME, Device(name, {"actualPosition": ("f8", ())})])
    fill(path, packed(values_of()), wavelength=used)
    values = keys if keys is not None else np.full(TRAINS, 6.0)
    with h5py.File(path, "r+") as file:
        file[f"CONTROL/{name}/actualPosition/value"][:] = values
    return path


@pytest.mark.parametrize("bad", [-0.2, 2e30, 1e-30, np.inf])
def test_impossible_wavelength_is_unknown_and_a_problem(experiment, path, bad):
    with h5py.File(path, "r+") as file:
        wavelengths = file[f"CONTROL/{NAME}/pulseEnergy/wavelengthUsed/value"]
        wavelengths[...] = 0.2
        wavelengths[2] = bad
    data = read_machine_data(experiment, *frames())
    assert np.flatnonzero(np.isnan(data.wavelength[::PULSES])).tolist() == [2]
    assert [p.action for p in data.problems] == ["wavelength is unknown there"]


@pytest.mark.parametrize("bad", [-6.0, 6e30, 1e-30])
def test_impossible_photon_energy_is_unknown_and_a_problem(experiment, path, bad):
    undulator_run(path, keys=np.full(TRAINS, bad))
    data = read_machine_data(experiment, *frames())
    assert np.isnan(data.wavelength).all()
    assert [p.action for p in data.problems] == ["none of them is used"]


def test_wavelength_from_the_undulator(experiment, path):
    undulator_run(path, keys=[6, 7, 6, np.nan, 0, -1, 6, 6])
    data = read_machine_data(experiment, *frames())
    # 12.39841984 keV A: CODATA 2018
    right = 12.39841984e-10 / np.array([6, 7, 6, np.nan, np.nan, np.nan, 6, 6])
    np.testing.assert_allclose(data.wavelength[::PULSES], right, rtol=1e-9)
    assert said(data, f"wavelength from {UNDULATOR} actualPosition") == 1
    assert data.warnings == (f"wavelength unknown for {3 * PULSES} of {TRAINS * PULSES} frames",)


def test_xgm_before_the_undulator(experiment, path):
    undulator_run(path, used=0.2)
    data = read_machine_data(experiment, *frames())
    np.testing.assert_allclose(data.wavelength, 0.2e-9, rtol=1e-6)
    assert not said(data, UNDULATOR)


def test_unit_of_the_undulator(experiment, path):
    undulator_run(path, keys=np.full(TRAINS, 6000.0))
    with h5py.File(path, "r+") as file:
        file[f"CONTROL/{UNDULATOR}/actualPosition"].attrs.update(
            {"unitName": b"electronvolt", "unitSymbol": b"eV", "metricPrefixName": b""}
        )
    wavelength = read_machine_data(experiment, *frames()).wavelength
    np.testing.assert_allclose(wavelength, 12.39841984e-10 / 6, rtol=1e-9)


@pytest.mark.parametrize(
    ("detector", "known"), [("SPB_DET_AGIPD1M-1", True), ("", True), ("MID_DET_AGIPD1M-1", False)]
)
def test_undulator_of_another_beamline(experiment, path, detector, known):
    undulator_run(path)
    data = read_machine_data(experiment, *frames(), detector=detector)
    assert np.isfinite(data.wavelength).all() == known
    assert said(data, "wavelength unknown") == (not known)


def test_own_instrument_before_its_neighbour(experiment, path):
    neighbour = "FXE_XTD9_XGM/DOOCS/MAIN"
    write_run(path, [NAME, neighbour])
    fill(path, packed(2 * values_of()), neighbour)
    fill(path, packed(values_of()))
    check(read_machine_data(experiment, *frames(), detector="SPB_DET_AGIPD1M-1"))


_MICRO = "5 µm café"


@pytest.mark.slow
@pytest.mark.parametrize("text", [_MICRO.encode(), _MICRO.encode("latin-1")], ids=["utf", "latin"])
@pytest.mark.parametrize("charset", ["ascii", "utf-8"])
@pytest.mark.parametrize("length", [None, 20], ids=["variable", "fixed"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "array"])
def test_sample_in_any_character_set(experiment, path, text, charset, length, shape):
    with h5py.File(path, "r+") as file:
        del file["METADATA/sample"]
        dtype = h5py.string_dtype(charset, length)
        file["METADATA"].create_dataset("sample", shape, dtype, data=np.full(shape, text, dtype))
    assert read_machine_data(experiment, *frames()).sample == _MICRO


@pytest.mark.parametrize(
    ("stored", "sample"),
    [(b"lysozyme", "lysozyme"), (b"No Sample", ""), (b" none ", ""), (b"", "")],
)
def test_sample(experiment, path, stored, sample):
    with h5py.File(path, "r+") as file:
        del file["METADATA/sample"]
        file["METADATA/sample"] = [stored]
    assert read_machine_data(experiment, *frames()).sample == sample


@pytest.fixture
def bunches(path):
    """The good file with a time server; returns what sets its table."""
    write_run(path, [NAME, TimeServer(TIMESERVER)])
    fill(path, packed(values_of()))

    def set_table(table):
        with h5py.File(path, "r+") as file:
            file[TABLE][:] = table

    return set_table


def table_of(pulses=range(0, PULSES * STEP, STEP)):
    table = np.zeros((TRAINS, 2700), np.uint32)
    table[:, list(pulses)] = TO_SASE1
    return table


def test_bunch_pattern(experiment, bunches):
    bunches(table_of())
    train_id, pulse_id = frames()
    # only a few cells recorded: pulse numbers alone could not tell
    kept = np.isin(pulse_id, [6, 14])
    ids = train_id[kept], pulse_id[kept]
    data = read_machine_data(experiment, *ids)
    check(data, ids=ids)
    assert said(data, "bunch pattern") == 1
    assert not said(data, "assumed")


@pytest.mark.parametrize("recorded", [0, 1])
def test_time_server_that_recorded_nothing(experiment, path, recorded):
    """Its source is in the file, without an entry or with entries of no train: ask the decoder."""
    decoder = "SPB_RR_SYS/MDL/BUNCH_PATTERN"
    keys = {"sase1/nPulses": ("i4", ()), "sase1/pulseIds": ("i4", (300,))}
    write_run(path, [NAME, TimeServer(TIMESERVER), Device(decoder, keys)])
    fill(path, packed(values_of()))
    control(path, decoder, "sase1/nPulses", PULSES)
    slots = np.arange(300) * STEP
    control(path, decoder, "sase1/pulseIds", np.where(slots < PULSES * STEP, slots, 0))
    with h5py.File(path, "r+") as file:
        index = file[f"INDEX/{TIMESERVER}:outputBunchPattern/data"]
        index["first"][:] = 10**6 * recorded
        index["count"][:] = recorded
    train_id, pulse_id = frames()
    kept = np.isin(pulse_id, [6, 14])
    ids = train_id[kept], pulse_id[kept]
    data = read_machine_data(experiment, *ids)
    check(data, ids=ids)
    assert said(data, "bunch pattern") == 1


def test_bunch_pattern_changes(experiment, bunches):
    table = table_of()
    table[3] = 0
    table[3, [4, 20]] = TO_SASE1
    bunches(table)
    train_id, pulse_id = frames()
    data = read_machine_data(experiment, train_id, pulse_id)
    energy = data.pulse_energy
    other = train_id != FIRST + 3
    np.testing.assert_allclose(energy[other], expected(train_id, pulse_id)[other])
    right = np.zeros(PULSES)
    right[[2, 10]] = [1300e-6, 1301e-6]
    np.testing.assert_allclose(energy[~other], right)
    np.testing.assert_array_equal(data.n_pulses[~other], right > 0)
    # no light, no energy: nothing was lost
    assert said(data, "10 of 96 frames are dark") == 1
    assert not said(data, "unknown")
    assert data.problems == ()


def test_bunch_pattern_of_two_undulators(experiment, bunches, path):
    table = table_of()
    table[:, 1 : PULSES * STEP : STEP] = TO_SASE3
    bunches(table)
    values = np.full((TRAINS, 2 * PULSES), 9, np.float32)
    values[:, ::2] = values_of()
    fill(path, packed(values))
    check(read_machine_data(experiment, *frames()))


def test_bunch_pattern_with_a_few_of_the_other_undulator(experiment, bunches, path):
    """No rule on pulse numbers alone gives this."""
    table = table_of()
    table[:, [1, 5]] = TO_SASE3
    bunches(table)
    values = np.full((TRAINS, PULSES + 2), 9, np.float32)
    values[:, [k for k in range(PULSES + 2) if k not in (1, 4)]] = values_of()
    fill(path, packed(values))
    check(read_machine_data(experiment, *frames()))


def test_bunch_pattern_from_another_zero(experiment, bunches):
    bunches(table_of(np.arange(PULSES) * STEP + 1001))
    data = read_machine_data(experiment, *frames())
    check(data)
    assert sum("assumed" in line for line in data.warnings) == 1


def test_bunch_pattern_lacks_a_train(experiment, bunches, path):
    bunches(table_of())
    with h5py.File(path, "r+") as file:
        file[f"INDEX/{TIMESERVER}:outputBunchPattern/data/count"][2] = 0
    check(read_machine_data(experiment, *frames()))


@pytest.mark.slow
@pytest.mark.parametrize("width", [PULSES - 4, PULSES, 3000])
@pytest.mark.parametrize("pattern", [True, False])
def test_arrays_of_any_length(experiment, path, width, pattern):
    """The monitor's array holds fewer slots than there are pulses, as many, or more."""
    monitor = XGM(NAME)
    monitor.instrument_keys = (("intensityTD", "f4", (width,)),)
    write_run(path, [monitor, *([TimeServer(TIMESERVER)] if pattern else [])])
    values = np.ones((TRAINS, width), np.float32)
    values[:, :PULSES] = values_of()[:, :width]
    fill(path, values)
    with h5py.File(path, "r+") as file:
        file[intensity()].attrs.update({"unitName": "joule", "metricPrefixName": "micro"})
        if pattern:
            file[TABLE][:] = table_of()
    data = read_machine_data(experiment, *frames())
    check(data, frames()[1] < min(width, PULSES) * STEP)


@pytest.mark.parametrize("step", [1, 2, 8])
def test_slots_that_were_never_written_are_minus_one(experiment, path, step):
    """No pulse has an energy of exactly -1: the monitor saw 12 pulses, not 1000."""
    write_run(path)
    values = packed(values_of())
    values[values == 1] = -1
    fill(path, values)
    check(read_machine_data(experiment, *frames(step)), step=step)


@pytest.mark.parametrize("table", [0, table_of(np.arange(3))])
def test_useless_bunch_pattern(experiment, bunches, table):
    bunches(table)
    check(read_machine_data(experiment, *frames()))


def test_written_slots():
    values, slots = written_slots(np.array([[5, 1, np.nan, -2, 1, np.inf], [1, 1, 1, 0, 1, 1]]))
    nan = np.nan
    np.testing.assert_array_equal(values[0], [5, nan, nan, -2, nan, nan])
    assert slots.tolist() == [0, 2, 3]
    assert written_slots(np.ones((3, 4)))[1].size == 0
    assert written_slots(np.ones((0, 4)))[1].size == 0


@pytest.mark.parametrize(
    ("numbers", "slots", "right"),
    [
        # 1: by number
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([0, 4, 8], [0, 4, 8], [0, 4, 8]),
        ([0, 1, 2, 3], [0, 1], [0, 1, -1, -1]),
        # 2: packed
        ([0, 4, 8], [0, 1, 2], [0, 1, 2]),
        ([5, 6, 7], [0, 1, 2], [0, 1, 2]),
        ([0, 3, 11], [0, 1, 2], [0, 1, 2]),
        # 3: by number, with gaps
        ([0, 2, 8], [0, 4, 8], [0, -1, 8]),
        # 4: the XGM saw more
        ([0, 2, 4], [0, 1, 2, 3, 4, 5], [0, 2, 4]),
        # 5: assumed regular
        ([4, 8, 12, 20], [0, 1, 2], [0, 1, 2, -1]),
        ([4, 8, 12, 20], [0, 1, 2, 3, 4, 5], [1, 2, 3, 5]),
        ([40], [0, 1], [1]),
    ],
)
def test_match_slots(numbers, slots, right):
    slot, rule = match_slots(np.array(numbers, np.uint64), np.array(slots))
    assert slot.tolist() == right
    assert rule


def test_flipped_bits_in_a_pulse_number():
    pulse_id = np.tile(np.arange(0, 24, 2, dtype=np.uint64), 200)
    pulse_id[[5, 100]] = [7, 2**40]
    slot, _ = match_slots(pulse_id, np.arange(12))
    right = np.tile(np.arange(12), 200)
    right[[5, 100]] = -1
    np.testing.assert_array_equal(slot, right)


def test_decode_pattern():
    table = np.array([[TO_SASE1 | 9, TO_SASE3, 2 << 18, 0]], np.uint32)
    assert decode_pattern(table, 1)[0, :4].tolist() == [LINE | OWN, LINE, 0, 0]
    assert decode_pattern(table, 3)[0, :4].tolist() == [LINE, LINE | OWN, 0, 0]
    assert decode_pattern(table, 2)[0, :4].tolist() == [0, 0, LINE | OWN, 0]
    assert decode_pattern(table, 1).shape == (1, 2700)


def test_match_pattern_beyond_the_table():
    codes = decode_pattern(table_of()[:1], 1)
    pulse_id = np.array([0, 2, 3, 2**50], np.uint64)
    slot, _ = match_pattern(pulse_id, np.zeros(4, np.int64), codes, LINE)
    assert slot.tolist() == [0, 1, DARK, -1]
