"""Further values of the machine (``--add``): read alone, then in a whole job."""

import h5py
import numpy as np
import pytest
from bothways import read_machine_data
from compare import assert_same_outputs
from extradata import RunDirectory
from launch import run_job
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
    Device,
    TimeServer,
    XGMTwo,
    channel,
    control,
    fill,
    frames,
    packed,
    values_of,
    write_run,
)
from mockrun import HALF, tiny_run
from readers import check_cxi_rules, read_cxi_with_nexusformat, read_cxi_with_silx

FLOW = "SPB_IRU_AEROSOL/FLOW/HE"
INNER = "SPB_IRU_AEROSOL/FLOW/HE/INNER"
FAST = "SPB_EXP_FAST/ADC/1"
DEVICES = (
    NAME,
    Device(
        FLOW,
        {
            "measureCapacity": ("f8", ()),
            "value": ("i4", ()),
            "channel1/on": ("?", ()),
            "state": (h5py.string_dtype(), ()),
            "table": ("f8", (5,)),
            "image": ("f8", (5, 5)),
        },
    ),
    Device(INNER, {"value": ("f8", ())}),
    Device(
        FAST,
        instrument={
            "mean": ("f4", ()),
            "one": ("f4", (1,)),
            "pulses": ("f8", (PULSES,)),
            "slots": ("f8", (1000,)),
            "bunches": ("i8", (2700,)),
            "more": ("f8", (2701,)),
        },
    ),
)
PER_TRAIN = 3.5 + np.arange(TRAINS)


@pytest.fixture
def path(experiment):
    """8 trains of 12 pulses, a slow device and a fast one; the values tell train and pulse."""
    path = write_run(experiment.run_folder("raw") / "RAW-R0050-DA01-S00000.h5", DEVICES)
    fill(path, packed(values_of()))
    control(path, FLOW, "measureCapacity", PER_TRAIN)
    control(path, FLOW, "value", np.arange(TRAINS))
    control(path, FLOW, "channel1/on", np.arange(TRAINS) % 2 == 0)
    control(path, INNER, "value", PER_TRAIN)
    channel(path, FAST, "mean", PER_TRAIN)
    channel(path, FAST, "one", PER_TRAIN[:, None])
    return path


def read(experiment, *wanted, ids=None):
    return read_machine_data(experiment, *(ids or frames()), added=wanted)


def of_trains(values=PER_TRAIN):
    return np.repeat(np.asarray(values, float), PULSES)


def of_pulses():
    """Values as `values_of` makes them, of all frames."""
    return values_of().astype(float).ravel()


def missing(data, *words):
    """The values are all NaN, and one warning says why."""
    (column,) = data.added
    assert np.isnan(column.values).all()
    (warning,) = (line for line in data.warnings if line.startswith(f"--add {column.name}: "))
    assert sum(column.source in line for line in data.warnings) <= 1
    for word in words:
        assert word in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "right"),
    [
        (f"{FLOW}/measureCapacity", PER_TRAIN),
        (f"{FLOW}/measureCapacity.value", PER_TRAIN),
        (f"{FLOW}/measureCapacity/value", PER_TRAIN),
        (f"{FLOW}/value", np.arange(TRAINS)),
        (f"{FLOW}/value.value", np.arange(TRAINS)),
        (f"{FLOW}/channel1.on", np.arange(TRAINS) % 2 == 0),
        (f"{FLOW}/channel1/on", np.arange(TRAINS) % 2 == 0),
        # the longest source that the run has
        (f"{INNER}/value", PER_TRAIN),
        (f"{FAST}:output/data.mean", PER_TRAIN),
        (f"{FAST}:output/data/mean", PER_TRAIN),
        (f"{FAST}:output/data.one", PER_TRAIN),
    ],
)
def test_one_number_a_train(experiment, path, where, right):
    data = read(experiment, f"x={where}")
    (column,) = data.added
    np.testing.assert_array_equal(column.values, of_trains(right))
    assert column.values.dtype == np.float64
    assert (column.name, column.source, column.units) == ("x", where, "")
    assert data.warnings == ()
    assert any(line.startswith(f"x from {where}") for line in data.notes)


def test_longest_source(experiment, path):
    """The dataset lies below both sources, but only one of them has its trains."""
    with h5py.File(path, "r+") as file:
        file[f"INDEX/{INNER}/count"][2] = 0
    (column,) = read(experiment, f"x={INNER}/value").added
    assert np.isnan(column.values.reshape(TRAINS, PULSES)).all(axis=1).nonzero()[0].tolist() == [2]


def test_same_as_extra_data(experiment, path):
    run = RunDirectory(path.parent)
    source, key = f"{FAST}:output", "data.mean"
    (column,) = read(experiment, f"x={source}/{key}").added
    np.testing.assert_array_equal(column.values[::PULSES], run[source, key].ndarray())
    (column,) = read(experiment, f"x={FLOW}/measureCapacity").added
    np.testing.assert_array_equal(column.values[::PULSES], run[FLOW, "measureCapacity"].ndarray())


def test_frames_in_any_order_and_trains_that_lack_it(experiment, path):
    with h5py.File(path, "r+") as file:
        file[f"INDEX/{FLOW}/count"][2] = 0
    train_id, pulse_id = frames(trains=TRAINS + 2)
    order = np.random.default_rng(5).permutation(train_id.size)
    data = read(experiment, f"x={FLOW}/measureCapacity", ids=(train_id[order], pulse_id[order]))
    by_train = np.append(PER_TRAIN, [np.nan, np.nan])
    by_train[2] = np.nan
    right = by_train[(train_id[order] - FIRST).astype(int)]
    np.testing.assert_array_equal(data.added[0].values, right)
    assert sum(f"x unknown for {3 * PULSES} of" in line for line in data.warnings) == 1
    assert all("unknown for" in line for line in data.warnings)


def test_several_and_their_order(experiment, path):
    wanted = [f"b={FLOW}/value", f"a={FAST}:output/data.mean"]
    assert [column.name for column in read(experiment, *wanted).added] == ["b", "a"]


@pytest.mark.parametrize("folder", ["proc", "raw"])
def test_either_folder(experiment, path, folder):
    other = experiment.run_folder("proc") / "CORR-R0050-DA01-S00000.h5"
    write_run(other, DEVICES if folder == "proc" else [NAME])
    if folder == "proc":
        control(other, FLOW, "measureCapacity", 2 * PER_TRAIN)
    (column,) = read(experiment, f"x={FLOW}/measureCapacity").added
    factor = 2 if folder == "proc" else 1
    np.testing.assert_array_equal(column.values, factor * of_trains())


def test_sequences(experiment, path):
    other = path.with_name("RAW-R0050-DA01-S00001.h5")
    write_run(other, DEVICES, first=FIRST + TRAINS)
    control(other, FLOW, "measureCapacity", 2 * PER_TRAIN)
    data = read(experiment, f"x={FLOW}/measureCapacity", ids=frames(trains=2 * TRAINS))
    right = np.append(of_trains(), of_trains(2 * PER_TRAIN))
    np.testing.assert_array_equal(data.added[0].values, right)


@pytest.mark.parametrize(
    ("attributes", "units", "factor"),
    [
        ({"unitName": b"bar", "unitSymbol": b"bar", "metricPrefixName": b"milli"}, "Pa", 100),
        ({"unitSymbol": "bar", "metricPrefixSymbol": "m"}, "Pa", 100),
        ({"unitName": b"meter", "metricPrefixName": b"micro"}, "m", 1e-6),
        ({"unitName": b"number"}, "", 1),
        ({"unitName": b"furlong"}, "furlong", 1),
    ],
)
def test_units(experiment, path, attributes, units, factor):
    control(path, FLOW, "measureCapacity", PER_TRAIN, **attributes)
    channel(path, FAST, "mean", PER_TRAIN, **attributes)
    data = read(experiment, f"x={FLOW}/measureCapacity", f"y={FAST}:output/data.mean")
    for column in data.added:
        np.testing.assert_allclose(column.values, factor * of_trains(), rtol=1e-14)
        assert column.units == units
        assert column.attributes().get("units", "") == units


def test_array_of_the_monitor_itself(experiment, path):
    values = np.full((TRAINS, 1000), 99.0)
    values[:, :PULSES] = values_of()
    channel(path, NAME, "xTD", values)
    # a train whose pulses end early: what stands behind them is no measurement
    energy = values_of()
    energy[2, 5:] = 1
    fill(path, packed(energy))
    data = read(experiment, f"x={NAME}:output/data.xTD")
    right = of_pulses().reshape(TRAINS, PULSES)
    right[2, 5:] = np.nan
    np.testing.assert_array_equal(data.added[0].values, right.ravel())


def test_arrays_of_one_and_both_undulators(experiment, path):
    both = XGMTwo(NAME)
    both.instrument_keys = (
        *XGMTwo.instrument_keys,
        ("xSa1TD", "f4", (1000,)),
        ("xSa3TD", "f4", (1000,)),
    )
    write_run(path, [both, TimeServer(TIMESERVER)])
    with h5py.File(path, "r+") as file:
        file[TABLE][:, : PULSES * STEP : STEP] = TO_SASE1
        file[TABLE][:, 1 : PULSES * STEP : STEP] = TO_SASE3
    shared = np.repeat(values_of(), 2, axis=1)
    fill(path, packed(values_of()), key="intensitySa1TD")
    fill(path, packed(shared))
    channel(path, NAME, "xSa1TD", packed(values_of()))
    channel(path, NAME, "xTD", packed(shared))
    data = read(experiment, f"a={NAME}:output/data.xSa1TD", f"b={NAME}:output/data.xTD")
    for column in data.added:
        np.testing.assert_array_equal(column.values, of_pulses())
    missing(read(experiment, f"c={NAME}:output/data.xSa3TD"), NAME, "pulse energies")


@pytest.mark.parametrize("pattern", [False, True])
def test_array_as_long_as_the_monitors(experiment, path, pattern):
    """Slots of the pulse energy hold for any array of the same length."""
    ids = frames()
    if pattern:
        write_run(path, [*DEVICES, TimeServer(TIMESERVER)])
        fill(path, packed(values_of()))
        with h5py.File(path, "r+") as file:
            file[TABLE][:, : PULSES * STEP : STEP] = TO_SASE1
        # a few frames only: pulse numbers alone could not tell
        kept = np.isin(ids[1], [6, 14])
        ids = ids[0][kept], ids[1][kept]
    values = np.zeros((TRAINS, 1000))
    values[:, :PULSES] = values_of() % 3
    channel(path, FAST, "slots", values)
    data = read(experiment, f"x={FAST}:output/data.slots", ids=ids)
    right = values[(ids[0] - FIRST).astype(int), ids[1].astype(int) // STEP]
    np.testing.assert_array_equal(data.added[0].values, right)


def test_array_by_bunch_slot(experiment, path):
    values = np.arange(TRAINS)[:, None] * 10000 + np.arange(2700)
    channel(path, FAST, "bunches", values)
    train_id, pulse_id = frames()
    pulse_id[3] = 2**60
    data = read(experiment, f"x={FAST}:output/data.bunches", ids=(train_id, pulse_id))
    right = (train_id - FIRST).astype(float) * 10000 + pulse_id
    right[3] = np.nan
    np.testing.assert_array_equal(data.added[0].values, right)


def test_array_by_pulse_number_of_the_run(experiment, path):
    channel(path, FAST, "pulses", values_of())
    fill(path, 1)
    train_id, pulse_id = frames()
    kept = (train_id + pulse_id // STEP) % 3 > 0
    data = read(experiment, f"x={FAST}:output/data.pulses", ids=(train_id[kept], pulse_id[kept]))
    np.testing.assert_array_equal(data.added[0].values, of_pulses()[kept])


def test_monitor_without_pulses(experiment, path):
    fill(path, 1)
    data = read(experiment, f"x={NAME}:output/data.xTD")
    assert np.isnan(data.added[0].values).all()
    assert sum(line.startswith("--add x: ") for line in data.warnings) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("SPB_IRU_AEROSOL/FLOW/HF/value", ("no source", FLOW)),
        ("nothing/like/it", ("no source", "it has 5, e.g. ")),
        (f"{FLOW}/measureCapacitance", (FLOW, "no measureCapacitance", "measureCapacity")),
        (f"{FAST}:output/data.man", (f"{FAST}:output", "no data.man", "data.mean")),
        (f"{FAST}:output/man", (f"{FAST}:output", "no man")),
        (f"{FLOW}/state", ("object", "expected numbers")),
        (f"{FLOW}/image", ("(5, 5)", "expected one number a train")),
        (f"{FAST}:output/data.more", ("(2701,)", "expected one number a train")),
        (f"{FLOW}/table", ("5 numbers a train", f"1, {PULSES}, 1000, 2700")),
    ],
)
def test_one_warning_and_nan(experiment, path, where, words):
    missing(read(experiment, f"x={where}"), *words)


def test_run_without_beamline_data(experiment, path):
    path.unlink()
    words = ("names no source", "the run has no beamline data")
    missing(read(experiment, f"x={FLOW}/value"), *words)


def test_several_entries_a_train(experiment, path):
    write_run(path, [NAME, Device(FAST, instrument={"mean": ("f4", ())}, nsamples=3 * TRAINS)])
    fill(path, packed(values_of()))
    missing(read(experiment, f"x={FAST}:output/data.mean"), "3 entries a train")


def by_pulse_run(path, pulses=PULSES):
    """A source with an entry for every pulse, in an order of its own, and their numbers."""
    keys = {"score": ("f4", ()), "pulseId": ("u8", ())}
    write_run(path, [NAME, Device(FAST, instrument=keys, nsamples=pulses * TRAINS)])
    fill(path, packed(values_of()))
    order = np.random.default_rng(3).permutation(pulses)
    channel(path, FAST, "pulseId", np.tile(order * STEP, TRAINS))
    channel(path, FAST, "score", values_of(pulses=pulses)[:, order].ravel())


def test_an_entry_for_every_pulse(experiment, path):
    by_pulse_run(path)
    train_id, pulse_id = frames(trains=TRAINS + 1)
    pulse_id[[7, 30]] = [1, 2**60]
    with h5py.File(path, "r+") as file:
        # a train of which the source has less, and a train that is repeated
        file[f"INDEX/{FAST}:output/data/count"][2] = 0
        file["INDEX/trainId"][5] = FIRST + 4
        # flipped bits on both sides are no match
        file[f"INSTRUMENT/{FAST}:output/data/pulseId"][40] = 2**61
        lost = file[f"INSTRUMENT/{FAST}:output/data/pulseId"][40 - 3 * PULSES]
    data = read(experiment, f"x={FAST}:output/data.score", ids=(train_id, pulse_id))
    train = (train_id - FIRST).astype(float)
    right = 1000 + 100 * train + pulse_id // STEP
    right[[7, 30]] = np.nan
    right[np.isin(train, [2, 4, 5, TRAINS]) | ((train == 3) & (pulse_id == lost))] = np.nan
    np.testing.assert_array_equal(data.added[0].values, right)
    assert all("unknown for" in line or "assumed" in line for line in data.warnings)


def test_entries_of_pulses_beyond_the_data(experiment, path):
    by_pulse_run(path)
    with h5py.File(path, "r+") as file:
        dataset = file[f"INSTRUMENT/{FAST}:output/data/score"]
        dataset.resize(3 * PULSES + 5, axis=0)
        kept = file[f"INSTRUMENT/{FAST}:output/data/pulseId"][3 * PULSES : 3 * PULSES + 5]
    train_id, pulse_id = frames()
    data = read(experiment, f"x={FAST}:output/data.score")
    known = (train_id < FIRST + 3) | ((train_id == FIRST + 3) & np.isin(pulse_id, kept))
    np.testing.assert_array_equal(data.added[0].values, np.where(known, of_pulses(), np.nan))


def test_other_trains_only(experiment, path):
    ids = frames(first=FIRST + 100)
    data = read(experiment, f"x={FLOW}/value", ids=ids)
    assert np.isnan(data.added[0].values).all()
    assert sum("no values for the frames" in line for line in data.warnings) == 1


def test_no_files_and_no_frames(experiment):
    data = read(experiment, f"x={FLOW}/value")
    assert np.isnan(data.added[0].values).all()
    nothing = np.zeros(0, np.uint64)
    assert read(experiment, f"x={FLOW}/value", ids=(nothing, nothing)).added[0].values.shape == (0,)


def test_without_its_index(experiment, path):
    with h5py.File(path, "r+") as file:
        del file[f"INDEX/{FLOW}/first"]
    data = read(experiment, f"x={FLOW}/value")
    assert np.isnan(data.added[0].values).all()
    assert sum(f"{FLOW}/value cannot be read" in line for line in data.warnings) == 1
    assert sum(path.name in line for line in data.warnings) == 1


def test_damaged_file(experiment, path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data = read(experiment, f"x={FLOW}/value")
    assert np.isnan(data.added[0].values).all()
    assert sum(path.name in line for line in data.warnings) == 1


# --- the whole job


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    """A simulated run, and a slow and a fast device in a file of their own."""
    mock = tiny_run(tmp_path_factory.mktemp("exp"), **HALF)
    first = int(mock.truth["trainId"][0])
    trains = int(mock.truth["trainId"][-1]) - first + 1
    cells = len(np.unique(mock.truth["cellId"]))
    path = mock.options.prefix / "raw" / "r0050" / "RAW-R0050-DA02-S00000.h5"
    write_run(
        path,
        [
            Device(FLOW, {"measureCapacity": ("f8", ())}),
            Device(FAST, instrument={"pulses": ("f4", (cells,))}),
        ],
        first=first,
        trains=trains,
    )
    unit = {"unitName": b"bar", "unitSymbol": b"bar", "metricPrefixName": b"milli"}
    control(path, FLOW, "measureCapacity", 1.0 + np.arange(trains), **unit)
    channel(path, FAST, "pulses", np.arange(trains * cells).reshape(trains, cells))
    return mock


def job(mock, output, *options, ranks):
    args = [mock.options.run, "--prefix", mock.options.prefix, "--output", output]
    done = run_job([*args, "--geometry", mock.paths.geometry, *options, "--no-report"], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_in_the_files_on_several_ranks(mock, tmp_path):
    wanted = [
        f"flow={FLOW}/measureCapacity",
        f"fast={FAST}:output/data.pulses",
        "none=SPB_IRU_AEROSOL/FLOW/HF/measureCapacity",
    ]
    for ranks in (0, 2):
        done = job(mock, tmp_path / str(ranks), "--add", *wanted, ranks=ranks)
        said = done.stdout + done.stderr
        assert said.count("--add none: ") == 1
        assert said.count("--add ") == 1
    assert_same_outputs(tmp_path / "0", tmp_path / "2")
    train = (mock.truth["trainId"] - mock.truth["trainId"][0]).astype(float)
    cells, cell = np.unique(mock.truth["cellId"], return_inverse=True)
    flow, fast = 100 * (1 + train), train * len(cells) + cell
    with h5py.File(tmp_path / "0" / "events" / "r0050_events.h5") as events:
        hits = events["is_hit"][:]
        np.testing.assert_array_equal(events["flow"][:], flow)
        np.testing.assert_array_equal(events["fast"][:], fast)
        assert np.isnan(events["none"][:]).all()
        assert {n: dict(events[n].attrs) for n in ("flow", "fast")} == {
            "flow": {"units": "Pa", "source": f"{FLOW}/measureCapacity"},
            "fast": {"source": f"{FAST}:output/data.pulses"},
        }
        # only added columns have a source in the run
        sources = {n: events[n].attrs["source"] for n in events if "source" in events[n].attrs}
        of_run = {n for n, source in sources.items() if not source.startswith("analysis ")}
        assert of_run == {"flow", "fast", "none"}
    assert 0 < hits.sum() < len(hits)
    path = tmp_path / "0" / "saved_hits" / "r0050_hits.cxi"
    check_cxi_rules(path)
    assert read_cxi_with_silx(path)[0][0] == read_cxi_with_nexusformat(path)[0][0] == hits.sum()
    with h5py.File(path) as cxi:
        instrument = cxi["entry_1/instrument_1"]
        np.testing.assert_array_equal(instrument["flow"][:], flow[hits])
        np.testing.assert_array_equal(instrument["fast"][:], fast[hits])
        assert instrument["flow"].attrs["units"] == "Pa"
        assert instrument["flow"].attrs["axes"] == "experiment_identifier"
        np.testing.assert_array_equal(
            instrument["experiment_identifier"][:], cxi["entry_1/experiment_identifier"][:]
        )


@pytest.mark.slow
def test_decided_again(mock, tmp_path):
    """The columns stay, and others can be added."""
    flow, fast = f"flow={FLOW}/measureCapacity", f"fast={FAST}:output/data.pulses"
    job(mock, tmp_path / "full", "--add", flow, fast, "--sigma", "-1", ranks=0)
    job(mock, tmp_path / "again", "--add", flow, ranks=0)
    job(mock, tmp_path / "again", "--from-events", "--sigma", "-1", ranks=0)
    with h5py.File(tmp_path / "again" / "events" / "r0050_events.h5") as events:
        assert "flow" in events
        assert "fast" not in events
    job(mock, tmp_path / "again", "--from-events", "--add", flow, fast, ranks=2)
    assert_same_outputs(tmp_path / "full", tmp_path / "again")


@pytest.mark.slow
def test_no_hits_and_more_ranks_than_trains(mock, tmp_path):
    options = ("--min-score", "1e9", "--trains", "0:1")
    job(mock, tmp_path, "--add", f"flow={FLOW}/measureCapacity", *options, ranks=2)
    with h5py.File(tmp_path / "saved_hits" / "r0050_hits.cxi") as cxi:
        assert cxi["entry_1/instrument_1/flow"].shape == (0,)
