"""The distance: given, by the detector's motor, or of the geometry file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from beamlinefiles import BeamlineRun

from xfelmpi.calibration.distance import find_distance
from xfelmpi.core.machine_records import ZMotor
from xfelmpi.simulate import beamline

PATH = Path("agipd.geom")
CLEN = [("clen", "0.7")]
MOTOR = ZMotor("Z_STEPPER encoderPosition", 0.2, 0.0)
COMMENT = ";XGEOM MOTORS=4,2\n;XGEOM DISTANCE_OFFSET=0.49957\nclen = 0.7\n"


def test_what_is_given_counts():
    found = find_distance(PATH, COMMENT, CLEN, 0.3, 0.4, MOTOR)
    assert (found.metres, found.source.source, found.warnings) == (0.3, "--distance", ())


@pytest.mark.parametrize(
    ("text", "offset"),
    [("", 0.49957), (COMMENT, None), (";XGEOM DISTANCE_OFFSET = 499.57 mm \r\n", None)],
)
def test_motor_and_offset(text, offset):
    found = find_distance(PATH, text, [("clen", "0.6996")], None, offset, MOTOR)
    assert found.metres == pytest.approx(0.69957)
    assert found.source.source == MOTOR.source
    assert ("--distance-offset" if offset else "agipd.geom") in found.source.rule
    assert found.words() == "distance 0.69957 m (Z_STEPPER encoderPosition)"
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("given", "clen", "source"),
    [(95.3, "0.7", "--distance"), (0.0019, "0.7", "--distance"), (None, "70", "clen of the ")],
)
def test_distance_in_another_unit(given, clen, source):
    """95.3 mm, 1.9 m as km, 70 cm: radii in q and sizes were wrong without a word."""
    found = find_distance(PATH, "", [("clen", clen)], given)
    assert found.metres == (given or float(clen))
    (warning,) = found.warnings
    assert warning.startswith(f"distance {found.metres:g} m ({source}")
    assert warning.endswith("expected 0.02 to 30 m; is it in m?")
    for usual in (0.02, 0.7, 6.0, 30.0):
        assert find_distance(PATH, "", CLEN, usual).warnings == ()


@pytest.mark.parametrize("clen", ["1e-9", "0.5 mm"])
def test_clen_that_is_no_distance(clen):
    found = find_distance(PATH, "", [("clen", clen)])
    assert np.isnan(found.metres)
    (warning,) = found.warnings
    assert f"has clen = {clen}, expected a length in m" in warning


def test_option_before_comment():
    assert find_distance(PATH, COMMENT, CLEN, None, 0.5, MOTOR).metres == pytest.approx(0.7)


def test_motor_contradicts_the_file():
    (warning,) = find_distance(PATH, "", CLEN, None, 1.5, MOTOR).warnings
    assert "1.7 m by Z_STEPPER encoderPosition, 0.7 m by clen" in warning


def test_motor_moved():
    moving = ZMotor(MOTOR.source, 0.2, 0.003)
    (warning,) = find_distance(PATH, "", CLEN, None, 0.5, moving).warnings
    assert "moved by 3.000 mm" in warning


@pytest.mark.parametrize(
    ("text", "offset", "motor", "words"),
    [
        ("", 0.5, None, "no position"),
        (COMMENT, None, None, "no position"),
        ("", -0.5, MOTOR, "would be -0.3 m"),
        (";XGEOM DISTANCE_OFFSET=1.2.3\n", None, MOTOR, "expected a length"),
        (";XGEOM DISTANCE_OFFSET=1e9\n", None, MOTOR, "expected a length"),
        (";XGEOM DISTANCE_OFFSET=nan\n", None, MOTOR, "=nan is not used: expected a length"),
        (";XGEOM DISTANCE_OFFSET = 0,49957\n", None, MOTOR, "=0,49957 is not used"),
        (";XGEOM DISTANCE_OFFSET=\n0.2\n", None, MOTOR, "DISTANCE_OFFSET= is not used"),
    ],
)
def test_clen_is_the_next_best(text, offset, motor, words):
    found = find_distance(PATH, text, CLEN, None, offset, motor)
    assert found.metres == 0.7
    assert "clen" in found.source.source
    (warning,) = found.warnings
    assert words in warning


def test_without_offset_the_motor_tells_nothing():
    found = find_distance(PATH, "clen = 0.7", CLEN, None, None, MOTOR)
    assert (found.metres, found.warnings) == (0.7, ())


def test_motor_of_a_run(tmp_path):
    run = BeamlineRun(tmp_path, distance=0.61)
    motor = run.read().z_motor
    assert motor.source == f"{beamline.Z_MOTOR} encoderPosition"
    assert beamline.Z_OFFSET + motor.position == pytest.approx(0.61)
    values = np.full(6, 100.0)
    values[4] = 103.5
    run.change(
        **{"CONTROL__" + f"{beamline.Z_MOTOR}__encoderPosition__value".replace("/", "__"): values}
    )
    motor = run.read().z_motor
    assert (motor.position, motor.travel) == pytest.approx((0.1, 0.0035))


def test_motor_in_a_data_selector(tmp_path):
    run = BeamlineRun(tmp_path, distance=0.61)
    selector = "SPB_IRU_AGIPD1M1/MDL/DATA_SELECTOR"
    with h5py.File(run.path, "r+") as file:
        for section in ("CONTROL", "RUN", "INDEX"):
            old = file[f"{section}/{beamline.Z_MOTOR}"]
            name = selector if section == "INDEX" else f"{selector}/spbIruAgipd1MMotorZStepper"
            file[f"{section}/{name}"] = old
            del file[f"{section}/{beamline.Z_MOTOR}"]
            if section != "INDEX":
                del file[f"{section}/{name}/encoderPosition"]
        sources = file["METADATA/dataSources/dataSourceId"]
        sources[:] = [s.decode().replace(beamline.Z_MOTOR, selector) for s in sources[:]]
        devices = file["METADATA/dataSources/deviceId"]
        devices[:] = [s.decode().replace(beamline.Z_MOTOR, selector) for s in devices[:]]
    motor = run.read().z_motor
    assert motor.source.endswith("actualPosition")
    assert beamline.Z_OFFSET + motor.position == pytest.approx(0.61)
