"""Constants of raw data: what is found, refused, kept in which form, and in how much memory."""

import h5py
import numpy as np
import pytest
from rawfiles import ADU, MODULE, RawSetup, calibrate, flat, make_constants
from reference import FS, PIXELS, SS

from xfelmpi.calibration.constants import _arrays
from xfelmpi.calibration.constants_file import (
    ConstantsLayout,
    _smallest_photon,
    constants_file,
    prepare_cell,
)
from xfelmpi.calibration.dark_statistics import ALWAYS_HIGH
from xfelmpi.core.errors import InputError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.pixel_bits import unpack

NAMES = ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel")


@pytest.fixture
def rng():
    return np.random.default_rng(31)


@pytest.fixture
def written(tmp_path, rng):
    """Constants of two cells, as they stand in a file."""
    constants = make_constants(rng, 2)
    constants.write(tmp_path / "constants")
    return constants


def change(folder, work, module=MODULE):
    """Change a file of constants."""
    with h5py.File(constants_file(folder / "constants", module), "r+") as file:
        work(file)


def replace_dataset(name, values):
    def work(file):
        del file[name]
        file[name] = values

    return work


def test_gain_stages_in_the_wrong_order(tmp_path, written):
    """A digital level that descends from stage to stage: a warning, once for all files."""
    assert calibrate(tmp_path, [0]).warnings == ()

    def swap(file):
        level = file["DigitalGainLevel"][:]
        assert np.median(level[1]) < np.median(level[2])
        file["DigitalGainLevel"][...] = level[[0, 2, 1]]

    change(tmp_path, swap)
    written.write(tmp_path / "constants", 5)
    change(tmp_path, swap, 5)
    (told,) = calibrate(tmp_path, [0], 1 << MODULE | 1 << 5).warnings
    assert told.startswith("Cheetah-AGIPD03-calib.h5: DigitalGainLevel descends from ")
    assert told.endswith("were the dark runs in the wrong order? (and 1 files more alike)")


def part(value, name, stages, cells=slice(None), pixels=slice(256)):
    """Put a number in place of constants of some stages, cells and rows."""

    def work(file):
        values = file[name][:].astype("f4" if np.isnan(value) else file[name].dtype)
        values[stages, cells, pixels] = value
        replace_dataset(name, values)(file)

    return work


ALL = "high, medium, low"


@pytest.mark.parametrize(
    ("name", "stage", "value", "stages"),
    [
        ("AnalogOffset", 0, 0, "high"),
        ("AnalogOffset", 1, 0, "medium"),
        ("AnalogOffset", 2, np.nan, "low"),
        ("RelativeGain", 1, 0, "medium"),
        ("RelativeGain", 0, np.nan, "high"),
        ("DigitalGainLevel", 1, 0, ALL),
        ("DigitalGainLevel", 2, 0, ALL),
        ("DigitalGainLevel", 2, np.nan, ALL),
    ],
)
@pytest.mark.parametrize("cells", [slice(None), 1])
def test_constants_that_lack_a_part_of_a_stage(
    tmp_path, written, name, stage, value, stages, cells
):
    """What nobody has filled in is 0: a threshold of 0 made a thousand photons of each pixel."""
    change(tmp_path, part(value, name, stage, cells))
    calibration = calibrate(tmp_path, [0, 1])
    (problem,) = calibration.problems
    assert problem.what.startswith(f"calibration constants of {stages} gain are 0, or no numbers, ")
    expected = "1 cell, e.g. cell 1" if cells == 1 else "2 cells, e.g. cell 0"
    assert problem.what.endswith(expected)
    assert (problem.file, problem.module) == ("Cheetah-AGIPD03-calib.h5", MODULE)
    bad = unpack(calibration.modules[MODULE].bad)[:, 1].reshape(3, SS, FS).astype(bool)
    lacking = [0, 1, 2] if stages == ALL else [stage]
    for s in range(3):
        own = written.bad[s, 1] != 0
        own[:256] |= s in lacking
        np.testing.assert_array_equal(bad[s], own)
    assert calibration.warnings == () or name == "DigitalGainLevel"


def test_a_few_pixels_that_lack_constants_are_no_problem(tmp_path, written):
    change(tmp_path, part(0, "AnalogOffset", 0, pixels=slice(5)))
    assert calibrate(tmp_path, [0, 1]).problems == ()


def test_offsets_that_were_subtracted(tmp_path, written):
    """They are used, and that is told: it is not what the detector gives."""
    change(tmp_path, part(0, "AnalogOffset", slice(None), pixels=slice(None)))
    calibration = calibrate(tmp_path, [0, 1])
    (problem,) = calibration.problems
    assert (problem.what, problem.action) == ("AnalogOffset is 0 for all pixels of 2 cells", "used")
    np.testing.assert_array_equal(
        unpack(calibration.modules[MODULE].bad).reshape(written.bad.shape), written.bad
    )


# what is refused


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("there", ["nothing", "empty folder", "other modules"])
def test_no_constants_at_all(tmp_path, rng, named, there):
    """The message lists what was looked for, and says what to do."""
    # the experiment's own place is named, unless there is a det folder beside the outputs
    beside = tmp_path / ("scratch" if there == "nothing" else "out")
    folder = tmp_path / "constants" if named else beside / "det" / "constants"
    if there != "nothing":
        folder.mkdir(parents=True)
    if there == "other modules":
        make_constants(rng).write(folder, 5)
    with pytest.raises(InputError) as error:
        calibrate(tmp_path, [0], **({} if named else {"constants": None}))
    message = str(error.value)
    for text in (str(folder), "Cheetah-AGIPDmm-calib.h5", "--constants", "darks"):
        assert text in message
    assert error.value.exit_status == 2


def test_no_constants_lists_every_module_of_the_run(tmp_path):
    with pytest.raises(InputError) as error:
        calibrate(tmp_path, [0], 1 << 2 | 1 << 15)
    assert "mm = 02 15;" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_dataset_that_is_missing(tmp_path, written, name):
    change(tmp_path, lambda file: file.pop(name))
    with pytest.raises(InputError, match=rf"Cheetah-AGIPD03-calib\.h5: no dataset {name}"):
        calibrate(tmp_path, [0])
    change(tmp_path, lambda file: file.create_group(name))
    with pytest.raises(InputError, match=f"no dataset {name}"):
        calibrate(tmp_path, [0])


SHAPES = [(2, 2, SS, FS), (3, 2, FS, SS), (3, SS, FS), (3, 2, PIXELS), (2, 3, SS, FS, 1), ()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wrong_shape(tmp_path, written, name, shape):
    with h5py.File(constants_file(tmp_path / "constants", MODULE), "r+") as file:
        dtype = file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype)
    with pytest.raises(InputError) as error:
        calibrate(tmp_path, [0])
    for text in (name, str(shape), "(3, cells, 512, 128)"):
        assert text in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_other_number_of_cells(tmp_path, written, name):
    values = np.zeros((3, 1, SS, FS), "f4" if name == "RelativeGain" else "i2")
    change(tmp_path, replace_dataset(name, values))
    with pytest.raises(InputError, match="differ in their number of cells"):
        calibrate(tmp_path, [0])


def test_constants_of_no_cell(tmp_path):
    """A file that has all datasets, but nothing in them: a problem, as any cell that is missing."""
    path = constants_file(tmp_path / "constants", MODULE)
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for name in NAMES:
            dtype = "f4" if name == "RelativeGain" else "i2"
            file.create_dataset(name, (3, 0, SS, FS), dtype)
    calibration = calibrate(tmp_path, [0, 1])
    (problem,) = calibration.problems
    assert problem.what == "calibration constants have 0 cells, the run uses cell 1"
    assert not calibration.good_in_high_stage(MODULE).any()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, "S3") for n in NAMES]
    + [(n, "c8") for n in NAMES]
    + [("RelativeGain", "i4"), ("Badpixel", "f4")],
)
def test_wrong_type(tmp_path, written, name, dtype):
    change(tmp_path, replace_dataset(name, np.zeros((3, 2, SS, FS), dtype)))
    with pytest.raises(InputError) as error:
        calibrate(tmp_path, [0])
    assert f"{name} is {np.dtype(dtype)}" in str(error.value)


def test_file_that_is_no_hdf5(tmp_path, written):
    constants_file(tmp_path / "constants", MODULE).write_bytes(b"constants")
    with pytest.raises(InputError, match="expected a file of calibration constants"):
        calibrate(tmp_path, [0])


# what is a problem


def test_module_that_is_missing(tmp_path, written):
    calibration = calibrate(tmp_path, [0], 1 << MODULE | 1 << 9)
    (problem,) = calibration.problems
    assert (problem.file, problem.module) == ("Cheetah-AGIPD09-calib.h5", 9)
    assert "no calibration constants" in problem.what
    assert "bad" in problem.action
    assert list(calibration.modules) == [MODULE]
    assert calibration.lacking == (9,)
    assert not calibration.good_in_high_stage(9).any()
    assert calibration.good_in_high_stage(MODULE).any()
    assert (calibration.good_in_high_stage(5) == 0xFF).all(), "missing in the run, not bad"


def test_modules_that_the_run_lacks_need_no_constants(tmp_path, written, rng):
    make_constants(rng).write(tmp_path / "constants", 4)
    calibration = calibrate(tmp_path, [0])
    assert calibration.problems == ()
    assert list(calibration.modules) == [MODULE]


def test_cells_that_are_missing(tmp_path, written):
    calibration = calibrate(tmp_path, [1, 2, 351])
    (problem,) = calibration.problems
    assert "2 cells" in problem.what
    assert "351" in problem.what
    assert problem.module == MODULE
    constants = calibration.modules[MODULE]
    bad = unpack(constants.bad)
    np.testing.assert_array_equal(bad[:, 0].reshape(3, SS, FS), written.bad[:, 1])
    assert bad[:, 1:].all()
    assert calibration.row_of_cell[[1, 2, 351]].tolist() == [0, 1, 2]


# how they are kept


def kept(calibration):
    """Return offset and gain of the cells, (3, cell, 512, 128)."""
    constants = calibration.modules[MODULE]
    return [np.moveaxis(a, 1, 0).reshape(3, -1, SS, FS) for a in (constants.offset, constants.gain)]


def whole(rng, low, high, dtype):
    return rng.integers(low, high, (3, 2, SS, FS)).astype(dtype)


OFFSETS = {
    "i2": (lambda rng: whole(rng, -32768, 32768, "i2"), "i2"),
    "u2 that fits": (lambda rng: whole(rng, 0, 32768, "u2"), "i2"),
    "u2": (lambda rng: whole(rng, 0, 65536, "u2"), "f4"),
    "i4 that fits": (lambda rng: whole(rng, -32768, 32768, "i4"), "i2"),
    "i4": (lambda rng: whole(rng, 0, 32770, "i4"), "f4"),
    "i8 that fits": (lambda rng: whole(rng, -9, 9, "i8"), "i2"),
    "f4 of integers": (lambda rng: whole(rng, -32768, 32768, "f4"), "i2"),
    "f4": (lambda rng: rng.normal(6000, 300, (3, 2, SS, FS)).astype("f4"), "f4"),
    "f8": (lambda rng: rng.normal(6000, 300, (3, 2, SS, FS)), "f4"),
    "i1": (lambda rng: whole(rng, -128, 128, "i1"), "i2"),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_are_exact_and_tight(tmp_path, written, rng, name):
    make, expected = OFFSETS[name]
    values = make(rng)
    change(tmp_path, replace_dataset("AnalogOffset", values))
    offset, _ = kept(calibrate(tmp_path, [0, 1]))
    assert offset.dtype == np.dtype(expected)
    np.testing.assert_array_equal(offset, values.astype(np.float32))


@pytest.mark.parametrize(
    "odd", [32767.5, -32769.0, 32768.0, 0.25, np.nan, np.inf], ids=lambda v: f"{v}"
)
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (2, 1, 511, 127)])
def test_one_odd_offset_is_enough(tmp_path, rng, odd, where):
    values = whole(rng, 5000, 7000, "f4")
    constants = make_constants(rng, 2)
    values[where] = odd
    constants.write(tmp_path / "constants")
    change(tmp_path, replace_dataset("AnalogOffset", values))
    calibration = calibrate(tmp_path, [0, 1])
    offset, _ = kept(calibration)
    assert offset.dtype == np.float32
    bad = unpack(calibration.modules[MODULE].bad).reshape(3, 2, SS, FS)
    assert bad[where] == (constants.bad[where] or not np.isfinite(odd))
    values[where] = np.nan_to_num(odd, posinf=0)
    np.testing.assert_array_equal(offset, values)


def test_odd_offset_of_a_cell_that_is_not_used(tmp_path, rng):
    constants = make_constants(rng, 3, "f4")
    constants.offset[:, [0, 2]] = 6000
    constants.write(tmp_path / "constants")
    assert kept(calibrate(tmp_path, [0, 2]))[0].dtype == np.int16


@pytest.mark.parametrize("depends", ["constant", "cell", "pixel"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_gains_are_broadcast_where_they_are_constant(tmp_path, rng, depends, dtype):
    constants = make_constants(rng, 2, gain=depends)
    constants.write(tmp_path / "constants")
    change(tmp_path, replace_dataset("RelativeGain", constants.gain.astype(dtype)))
    calibration = calibrate(tmp_path, [0, 1])
    _, gain = kept(calibration)
    np.testing.assert_array_equal(gain, constants.gain)
    strides = calibration.modules[MODULE].gain.strides
    assert (strides[0] != 0, strides[2] != 0) == {
        "constant": (False, False),
        "cell": (True, False),
        "pixel": (True, True),
    }[depends]


@pytest.mark.parametrize("where", [(0, 0, 0, 1), (2, 0, 511, 127), (1, 1, 3, 3)])
def test_one_odd_gain_is_enough(tmp_path, rng, where):
    constants = make_constants(rng, 2, gain="constant")
    constants.gain[where] *= 1.01
    constants.write(tmp_path / "constants")
    np.testing.assert_array_equal(kept(calibrate(tmp_path, [0, 1]))[1], constants.gain)


def test_form_serves_all_modules(tmp_path, rng):
    """One module with fractions or gains by pixel is enough for all to be kept like that."""
    each = {3: ("i2", "constant"), 8: ("f4", "constant"), 9: ("i2", "pixel")}
    written = {m: make_constants(rng, 1, o, gain=g) for m, (o, g) in each.items()}
    for module, constants in written.items():
        constants.write(tmp_path / "constants", module)
    calibration = calibrate(tmp_path, [0], sum(1 << m for m in each))
    for module, constants in written.items():
        found = calibration.modules[module]
        assert found.offset.dtype == np.float32
        np.testing.assert_array_equal(found.offset[0].reshape(3, SS, FS), constants.offset[:, 0])
        np.testing.assert_array_equal(found.gain[0].reshape(3, SS, FS), constants.gain[:, 0])


# memory


def bytes_of(form, modules, cells):
    arrays = _arrays(form, modules, cells, AGIPD_1M)
    return sum(int(np.prod(s)) * np.dtype(d).itemsize for _, s, d in arrays)


@pytest.mark.parametrize(
    ("offset", "gain", "by_pixel"),
    [
        ("i2", "constant", 2 + 2 + 2 + 3 * 2),
        ("f4", "constant", 2 + 2 + 2 + 3 * 4),
        ("i2", "pixel", 2 + 2 + 2 + 3 * 2 + 3 * 4),
        ("f4", "pixel", 2 + 2 + 2 + 3 * 4 + 3 * 4),
    ],
)
def test_memory_of_a_node(tmp_path, rng, offset, gain, by_pixel):
    """Three u2 and three offsets a pixel, three bits, the gains; a level for every 64 pixels."""
    make_constants(rng, 5, offset, gain=gain).write(tmp_path / "constants")
    calibration = calibrate(tmp_path, [0, 2, 4])
    few = 12 if gain == "constant" else 0
    expected = 3 * (PIXELS * by_pixel + 3 * PIXELS // 8 + 2 * PIXELS // 64) + few
    assert calibration.nbytes == expected
    (note,) = calibration.notes
    assert f"{expected / 2**20:,.0f} MiB" in note


def test_memory_of_a_whole_detector():
    """352 cells of 16 modules, as the documentation states it."""
    tight, loose = ConstantsLayout("i2", False, False), ConstantsLayout("f4", True, True)
    assert bytes_of(tight, 16, 352) / 2**30 == pytest.approx(4.27, abs=0.02)
    assert bytes_of(loose, 16, 352) / 2**30 == pytest.approx(10.45, abs=0.02)
    assert (
        bytes_of(ConstantsLayout("i2", True, False), 16, 352) - bytes_of(tight, 16, 352) < 100_000
    )


# the smallest photon


def brute_force(offset, gain, adu, threshold):
    analogue = np.arange(65536, dtype=np.float32)
    adu, threshold = np.float32(adu), np.float32(threshold)
    photons = np.empty_like(analogue)
    first = []
    for o, g in zip(offset, gain, strict=True):
        # one step after the other in place, each rounded to float32
        with np.errstate(over="ignore"):
            np.subtract(analogue, o, out=photons)
            np.multiply(photons, g, out=photons)
            np.divide(photons, adu, out=photons)
            np.add(photons, np.float32(1), out=photons)
            np.subtract(photons, threshold, out=photons)
        # a number is at least 1 just if the integer below it is
        found = photons >= 1
        n = np.count_nonzero(found)
        assert found[65536 - n :].all(), "grows with the analogue number"
        first.append(65536 - n if n else 65535)
    return np.array(first)


@pytest.mark.parametrize(
    ("adu", "threshold"),
    [(60, 0.7), (1, 0.7), (1, 0.5), (57.3, 0.61), (60, 1e-6), (60, 1), (1e-3, 0.7), (1e5, 0.3)],
)
@pytest.mark.slow
def test_smallest_photon(adu, threshold, rng):
    """Against all 65536 analogue numbers; the hard ones are where float32 has no fractions."""
    n = 40
    offset = np.concatenate(
        [
            rng.integers(-200, 66000, n),
            rng.uniform(-100, 65600, n),
            rng.integers(0, 9000, n) + adu * threshold % 1 - adu * threshold,
            [0, -0.0, 65535, 65534.5, -1e4, 7e4, 1e8, -1e8, 3e37, -3e37, 1e-40],
        ]
    ).astype(np.float32)
    for gain in (1, 0.01, 1e-6, 1e-38, 37.9, 1e6):
        gains = np.full_like(offset, gain) * (1 + rng.uniform(-0.1, 0.1, offset.size)).astype("f4")
        for g in (np.full_like(offset, gain), gains):
            with np.errstate(over="ignore"):
                usable = np.isfinite(2 * (np.abs(offset) + 65535) * g)
            found = _smallest_photon(offset[usable], g[usable], adu, threshold)
            np.testing.assert_array_equal(
                found, brute_force(offset[usable], g[usable], adu, threshold)
            )


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_levels_out_of_range(dtype, tmp_path):
    """Thresholds stand as the nearest 16-bit number; fractions go to the integer that matters."""
    zero, one = np.zeros((3, PIXELS)), np.ones((3, PIXELS), np.float32)
    level = np.zeros((3, PIXELS), dtype)
    level[1:, :4] = [[5, 30000, 0, -3], [5, 30000, 0, -3]]
    expected = [[5, 30000, 0, 0], [5, 30000, 0, 0]]
    if dtype != "i2":
        level[1:, 4:6] = ALWAYS_HIGH, 10**9
        expected = [[*e, 65535, 65535] for e in expected]
        expected[0][4:6] = expected[1][4:6] = [65535, 65535]
        level[1:, 4:6] = [[ALWAYS_HIGH, 10**9]] * 2
    if dtype == "f4":
        level[1:, 6:8] = [[4999.5, np.inf], [6999.5, -np.inf]]
        expected[0] += [5000, 65535]
        expected[1] += [6999, 0]
    found = prepare_cell(zero, one, level, zero != 0, RawSetup(adu=ADU).config(tmp_path))
    for name, values in zip(("level1", "level2"), expected, strict=True):
        assert found[name][: len(values)].tolist() == values
    assert not unpack(found["bad"]).any()


def test_unknown_stage_is_bad(tmp_path):
    zero, one = np.zeros((3, PIXELS)), np.ones((3, PIXELS), np.float32)
    level = zero.astype("f4")
    level[[1, 2], [7, 9]] = np.nan
    level[0, 11] = np.nan  # nobody looks at this one
    found = prepare_cell(zero, one, level, zero != 0, RawSetup().config(tmp_path))
    assert np.argwhere(unpack(found["bad"])).tolist() == [[s, p] for s in range(3) for p in (7, 9)]


def test_flat_is_an_image():
    assert flat(np.arange(PIXELS))[1, 0] == FS
