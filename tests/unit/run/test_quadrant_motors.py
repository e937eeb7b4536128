"""Quadrants that follow their motors: positions of a run, then the geometry moved by them."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from bothways import read_machine_data
from extra_data.tests.mockdata.motor import Motor
from extra_geom import AGIPD_1MGeometry
from launch import call_xfelmpi
from machinerun import (
    FIRST,
    NAME,
    TRAINS,
    Device,
    control,
    fill,
    frames,
    packed,
    values_of,
    write_run,
)
from mockrun import tiny_run

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.core.machine_records import (
    QuadrantMotors,
    ZMotor,
    motors_as_json,
    motors_from_json,
)
from xfelmpi.detectors.agipd import AGIPD_1M

DEVICE = "SPB_IRU_AGIPD1M/MOTOR/"
DETECTOR = "SPB_DET_AGIPD1M-1"
POSITIONS = np.array([[56.4, 83.8], [-15.2, -72.3], [45.0, 697.6], [-10.4, -30.8]])
"""mm"""
REFERENCE = POSITIONS - [[0.5, 0], [0, 1.25], [-2, 0], [0.25, -0.75]]
# EXtra-geom, AGIPD_1MMotors: (motor 1, motor 2) → (x, y), in mm
SHIFTS = np.array([[0, -0.5], [-1.25, 0], [0, -2], [-0.75, -0.25]])
NAMES = [[f"Q{q}M{m}" for m in (1, 2)] for q in (1, 2, 3, 4)]
CAMEL = "spbIruAgipd1MMotor{}/actualPosition"
MANGLED = "SPB_IRU_AGIPD1M_MOTOR_{}/actualPosition"


def each():
    return [(NAMES[q][m], POSITIONS[q, m]) for q in range(4) for m in range(2)]


@pytest.fixture
def path(experiment):
    """A run with all motors, which stand still."""
    path = experiment.run_folder("raw") / "RAW-R0050-DA01-S00000.h5"
    devices = [Device(DEVICE + name, {"actualPosition": ("f8", ())}) for name, _ in each()]
    write_run(path, [NAME, *devices])
    fill(path, packed(values_of()))
    for name, position in each():
        control(path, DEVICE + name, "actualPosition", position)
    return path


def motors_of(experiment, detector=DETECTOR):
    return read_machine_data(experiment, *frames(), detector=detector).motors


def test_positions(experiment, path):
    motors = motors_of(experiment)
    assert motors.device == DEVICE
    np.testing.assert_allclose(motors.positions, POSITIONS * 1e-3, rtol=1e-12)
    assert (motors.travel == 0).all()


@pytest.mark.parametrize("keys", [CAMEL, MANGLED])
def test_slow_data_selector(experiment, path, keys):
    """As the facility records them today."""
    selector = "SPB_IRU_AGIPD1M1/MDL/DATA_SELECTOR"
    device = Device(
        selector,
        {keys.format(name): ("f8", ()) for name, _ in each()},
        run_values=[("classId", None, "SlowDataSelector")],
    )
    other = Device("SPB_OTHER/MDL/SELECTOR", {keys.format("Q1M1"): ("f8", ())})
    write_run(path, [NAME, other, device])
    for name, position in each():
        control(path, selector, keys.format(name), position)
    np.testing.assert_allclose(motors_of(experiment).positions, POSITIONS * 1e-3, rtol=1e-12)


def test_unit_of_the_file(experiment, path):
    unit = {"unitName": b"meter", "unitSymbol": b"m", "metricPrefixName": b"micro"}
    control(path, DEVICE + "Q1M2", "actualPosition", POSITIONS[0, 1] * 1e3, **unit)
    np.testing.assert_allclose(motors_of(experiment).positions, POSITIONS * 1e-3, rtol=1e-12)


def test_moving(experiment, path):
    moved = POSITIONS[1, 0] + np.append(np.zeros(TRAINS - 2), [0.125, -0.25])
    control(path, DEVICE + "Q2M1", "actualPosition", moved)
    motors = motors_of(experiment)
    np.testing.assert_allclose(motors.positions, POSITIONS * 1e-3, rtol=1e-12)
    right = np.zeros((4, 2))
    right[1, 0] = 0.375e-3
    np.testing.assert_allclose(motors.travel, right, atol=1e-12)


def test_only_the_trains_of_the_frames(experiment, path):
    position = np.full(TRAINS, POSITIONS[0, 0])
    position[3:] = 0
    control(path, DEVICE + "Q1M1", "actualPosition", position)
    ids = frames(trains=3)
    motors = read_machine_data(experiment, *ids, detector=DETECTOR).motors
    np.testing.assert_allclose(motors.positions, POSITIONS * 1e-3, rtol=1e-12)
    assert (motors.travel == 0).all()
    ids = frames(first=FIRST + 100)
    assert read_machine_data(experiment, *ids, detector=DETECTOR).motors is None


@pytest.mark.parametrize("damage", ["nan", "impossible", "text", "gone"])
def test_one_motor_missing(experiment, path, damage):
    name = f"CONTROL/{DEVICE}Q3M2/actualPosition"
    with h5py.File(path, "r+") as file:
        if damage in ("nan", "impossible"):
            file[f"{name}/value"][:] = np.nan if damage == "nan" else -1e30
        else:
            del file[f"{name}/value"]
        if damage == "text":
            file[f"{name}/value"] = [b"far"] * TRAINS
    data = read_machine_data(experiment, *frames(), detector=DETECTOR)
    assert np.argwhere(np.isnan(data.motors.positions)).tolist() == [[2, 1]]
    assert any("Q3M2" in p.what for p in data.problems) == (damage == "impossible")


@pytest.mark.parametrize("detector", ["", "MID_DET_AGIPD1M-1", "HED_DET_AGIPD1M-1"])
def test_motors_of_another_detector(experiment, path, detector):
    assert motors_of(experiment, detector) is None


def test_no_motors(experiment):
    assert motors_of(experiment) is None


# --- the geometry


@pytest.fixture(scope="module")
def nominal():
    return AGIPD_1MGeometry.example()


@pytest.fixture
def geom(tmp_path, nominal):
    return write_geometry(tmp_path / "agipd.geom", nominal)


def write_geometry(path, nominal, reference=REFERENCE):
    geometry = nominal.offset((0, 0))
    if reference is not None:
        geometry.motor_positions = reference
    geometry.write_crystfel_geom(str(path), adu_per_ev=1, clen=0.7, photon_energy=6000)
    return path


MOTORS = QuadrantMotors(DEVICE, POSITIONS * 1e-3, np.zeros((4, 2)))


def shifts_of(geometry, nominal):
    """Return by how much every module is shifted against the nominal one, mm (16, 2)."""
    there = np.moveaxis(nominal.get_pixel_positions(), -1, 0)[:2]
    difference = (geometry.xyz[:2] - there).reshape(2, 16, -1) * 1e3
    assert np.ptp(difference, axis=2).max() < 1e-6
    return difference.mean(axis=2).T


def test_quadrants_follow(geom, nominal):
    geometry, warnings = load_geometry(geom, AGIPD_1M, motors=MOTORS)
    assert warnings == ()
    np.testing.assert_allclose(shifts_of(geometry, nominal), np.repeat(SHIFTS, 4, 0), atol=1e-6)
    corner = geometry.corner_position - load_geometry(geom, AGIPD_1M)[0].corner_position
    np.testing.assert_allclose(corner[:, :2] * 1e3, np.repeat(SHIFTS, 4, 0), atol=1e-6)
    assert geometry.distance == 0.7
    for text in (str(geom), DEVICE, "Q1 +0.500 +0.000", "Q3 -2.000 +0.000"):
        assert text in geometry.description


def test_motors_where_they_were(geom, nominal):
    geometry, warnings = load_geometry(
        geom, AGIPD_1M, motors=replace(MOTORS, positions=REFERENCE * 1e-3)
    )
    assert warnings == ()
    np.testing.assert_allclose(shifts_of(geometry, nominal), 0, atol=1e-6)


def test_file_without_motors(tmp_path, nominal):
    path = write_geometry(tmp_path / "agipd.geom", nominal, None)
    geometry, warnings = load_geometry(path, AGIPD_1M, motors=MOTORS)
    assert warnings == ()
    np.testing.assert_allclose(shifts_of(geometry, nominal), 0, atol=1e-6)
    assert "moved" not in geometry.description


def without(quadrant, motor):
    positions = POSITIONS * 1e-3
    positions[quadrant, motor] = np.nan
    return replace(MOTORS, positions=positions)


@pytest.mark.parametrize(
    ("motors", "words"),
    [(None, "the run has none"), (without(2, 1), "no positions of motor Q3M2 of SPB_IRU")],
)
def test_run_without_motors(geom, nominal, motors, words):
    geometry, (warning,) = load_geometry(geom, AGIPD_1M, motors=motors)
    assert words in warning
    assert "the quadrants stay as in the file" in warning
    np.testing.assert_allclose(shifts_of(geometry, nominal), 0, atol=1e-6)


@pytest.mark.parametrize(("travel", "warned"), [(5e-6, False), (0.375e-3, True)])
def test_motors_on_the_way(geom, nominal, travel, warned):
    ways = np.zeros((4, 2))
    ways[1, 0] = travel
    geometry, warnings = load_geometry(geom, AGIPD_1M, motors=replace(MOTORS, travel=ways))
    assert len(warnings) == warned
    if warned:
        assert f"{DEVICE}Q2M1 moved by 0.375 mm" in warnings[0]
    np.testing.assert_allclose(shifts_of(geometry, nominal), np.repeat(SHIFTS, 4, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (";XGEOM MOTOR_Q2=", ";XGEOM MOTOR_Q2=here,", "damaged"),
        (";XGEOM MOTORS=4,2", ";XGEOM MOTORS=2,2", "another detector"),
    ],
)
def test_damaged_comments(geom, nominal, old, new, words):
    text = geom.read_text()
    assert old in text
    geom.write_text(text.replace(old, new))
    geometry, (warning,) = load_geometry(geom, AGIPD_1M, motors=MOTORS)
    assert words in warning
    np.testing.assert_allclose(shifts_of(geometry, nominal), 0, atol=1e-6)


@pytest.mark.slow
def test_in_the_files_of_a_job(tmp_path, nominal):
    mock = tiny_run(tmp_path / "exp", trains=2)
    path = tmp_path / "exp" / "raw" / "r0050" / "RAW-R0050-DA02-S00000.h5"
    first = int(mock.truth["trainId"][0])
    write_run(path, [Motor(DEVICE + name) for name, _ in each()], first=first, trains=2)
    for name, position in each():
        control(path, DEVICE + name, "actualPosition", position)
    geom = write_geometry(tmp_path / "moved.geom", nominal)
    args = [50, "--prefix", tmp_path / "exp", "--output", tmp_path / "out", "--geometry", geom]
    done = call_xfelmpi([*args, "--no-report"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"quadrants moved with the motors {DEVICE}" in done.stdout
    with h5py.File(tmp_path / "out" / "saved_hits" / "r0050_hits.cxi") as cxi:
        xyz = cxi["entry_1/instrument_1/detector_1/xyz_map"][:]
    right, _ = load_geometry(geom, AGIPD_1M, motors=MOTORS)
    np.testing.assert_allclose(xyz, right.xyz, atol=1e-9)


@pytest.mark.parametrize("there", [True, False])
def test_motors_as_text_are_exact(there):
    """As the events file keeps them; a NaN stays one."""
    rng = np.random.default_rng(3)
    positions = rng.random((4, 2)) / 3
    positions[1, 1] = np.nan
    quadrants = QuadrantMotors(DEVICE, positions, rng.random((4, 2))) if there else None
    along = ZMotor("SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER", 1 / 3, 1e-7) if there else None
    found, z = motors_from_json(motors_as_json(quadrants, along))
    assert z == along
    assert (found is None) == (quadrants is None)
    if there:
        np.testing.assert_array_equal(found.positions, positions)
        np.testing.assert_array_equal(found.travel, quadrants.travel)
        assert found.device == DEVICE
