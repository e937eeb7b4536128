"""The kernel of raw frames (stages, offsets, common mode) against its numpy twin."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
from modulefiles import DATASET, make_masks, make_table, write_module
from rawfiles import (
    ADU,
    MODULE,
    RAW_LAYOUTS,
    Constants,
    RawSetup,
    assert_reads_raw,
    calibrate,
    flat,
    make_constants,
    make_frames,
    raw_twin,
    read_raw,
)
from reference import FS, PIXELS, SS

from xfelmpi.calibration import constants_file
from xfelmpi.calibration.dark_statistics import ALWAYS_HIGH
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool

FRAME_BYTES = 4 * PIXELS
EVERY = {"plain": RawSetup(), "common mode": RawSetup(common_mode=True)}

both_ways = pytest.mark.parametrize("setup", EVERY.values(), ids=EVERY)


def simple(n_cells=1, offset=0, gain=1, level=(0, 5000, 7000), bad=0, dtype="f4") -> Constants:
    """Return constants that are the same for all pixels, as far as they broadcast."""
    shape = (3, n_cells, SS, FS)
    level = np.broadcast_to(np.reshape(level, (3, 1, 1, 1)), shape)
    return Constants(
        np.broadcast_to(np.asarray(offset, dtype), shape).copy(),
        np.broadcast_to(np.asarray(gain, np.float32), shape).copy(),
        level.astype(np.int32),
        np.broadcast_to(np.asarray(bad, np.uint8), shape).copy(),
    )


def frame_of(analogue, digital=0) -> np.ndarray:
    """Return one raw frame, (1, 2, 512, 128)."""
    planes = [np.broadcast_to(np.asarray(a, np.uint16), (SS, FS)) for a in (analogue, digital)]
    return np.array([planes])


@pytest.mark.slow
@both_ways
@pytest.mark.parametrize("offset", ["i2", "i4", "f4"])
@pytest.mark.parametrize("level", ["i2", "i4", "f4"])
@pytest.mark.parametrize("gain", ["constant", "cell", "pixel"])
def test_types_of_constants(setup, offset, level, gain, tmp_path):
    rng = np.random.default_rng(4)
    cells = [2, 0, 2]
    constants = make_constants(rng, 3, offset, level, gain)
    frames = make_frames(rng, constants, cells)
    reading = assert_reads_raw(tmp_path, frames, cells, constants, setup)
    sums = reading.block.sums
    assert sums.switched.min() > 500, "all stages should be there"
    assert sums.entries.min() > sums.lit.min() > 2000


@both_ways
def test_mask_and_region(setup, tmp_path):
    rng = np.random.default_rng(5)
    good, region = rng.random((2, SS, FS)) < 0.8
    good[64:128, :64] = False
    constants = make_constants(rng, 2)
    frames = make_frames(rng, constants, [0, 1, 1])
    setup = replace(setup, good=good, region=region)
    reading = assert_reads_raw(tmp_path, frames, [0, 1, 1], constants, setup)
    sums = reading.block.sums
    assert (sums.region_lit > 0).all()
    assert (sums.region_lit < sums.lit).all()
    everything = read_raw(tmp_path, frames, [0, 1, 1], None, replace(setup, good=None))
    assert (everything.block.sums.switched > sums.switched).all()


@both_ways
def test_many_cells_in_any_order(setup, tmp_path):
    """Frames are worked off cell by cell; they come out where they belong."""
    rng = np.random.default_rng(6)
    constants = make_constants(rng, 8, bad=0.2)
    cells = rng.permutation([0, 3, 4, 7, 7, 4, 0, 3, 7]).tolist()
    frames = make_frames(rng, constants, cells)
    reading = assert_reads_raw(tmp_path, frames, cells, constants, setup)
    assert len(set(reading.block.sums.photons.tolist())) == 9


@pytest.mark.slow
@both_ways
@pytest.mark.parametrize("layout", RAW_LAYOUTS)
def test_layouts(setup, layout, tmp_path):
    rng = np.random.default_rng(7)
    constants = make_constants(rng, 2)
    cells = [1, 0, 1, 0, 0]
    frames = make_frames(rng, constants, cells)
    reading = assert_reads_raw(
        tmp_path, frames, cells, constants, replace(setup, layout=RAW_LAYOUTS[layout])
    )
    if layout in ("contiguous", "chunk", "chunk of 16"):
        assert reading.bytes_read == 5 * FRAME_BYTES


@pytest.mark.parametrize("layout", ["contiguous", "chunk", "chunk of 16"])
def test_uncompressed_frames_are_read_in_place(layout, tmp_path):
    """No copy: the kernel gets the place of every frame in the file."""
    frames = np.zeros((20, 2, SS, FS), np.uint16)
    frames[:, 0, 0, 0] = np.arange(20)
    about = write_module(tmp_path / "a.h5", frames, MODULE, **RAW_LAYOUTS[layout])
    pool = FilePool((about,))
    file = pool.get(0)
    assert file.direct
    rows = np.array([17, 3, 0, 19])
    source = file.frames(rows)
    assert (source.chunk_frames, len(source.memory)) == (1, 0)
    assert (source.index_in_chunk == 0).all()
    assert (source.size == FRAME_BYTES).all()
    found = [os.pread(source.fd, 2, int(place)) for place in source.offset]
    pool.close()
    assert [int.from_bytes(two, "little") for two in found] == rows.tolist()


def test_stages_begin_exactly_at_the_thresholds(tmp_path):
    """High below level[1], low above level[2]; where they cross, high comes first."""
    level = np.zeros((3, 1, PIXELS), np.int32)
    level[1], level[2] = 5000, 7000
    level[2, 0, 100:200] = 4000
    digital = np.full(PIXELS, 100)
    digital[:6] = [4999, 5000, 5001, 6999, 7000, 7001]
    digital[100:106] = [3999, 4000, 4001, 4999, 5000, 5001]
    # an analogue number tells the stage: 1000, 100 and 10 photons
    constants = simple(gain=np.reshape([1000, 100, 10], (3, 1, 1, 1)))
    constants = replace(constants, level=flat(level))
    reading = assert_reads_raw(
        tmp_path, frame_of(1, flat(digital)), [0], constants, RawSetup(adu=1.0)
    )
    _, count = reading.lists(0)
    assert count[:6].tolist() == [1000, 100, 100, 100, 100, 10]
    assert count[100:106].tolist() == [1000, 1000, 1000, 1000, 10, 10]
    assert reading.block.sums.switched.tolist() == [[4, 3]]


@both_ways
@pytest.mark.parametrize("level", [(0, ALWAYS_HIGH, ALWAYS_HIGH), (0, 40000, ALWAYS_HIGH)])
def test_stages_out_of_range_are_never_reached(setup, level, tmp_path):
    """Constants of one gain stage alone: the others are all bad, and it does not matter."""
    rng = np.random.default_rng(8)
    bad = np.reshape([0, 1, 1], (3, 1, 1, 1))
    constants = simple(offset=6000, level=level, bad=bad)
    frames = frame_of(rng.integers(5900, 6200, (SS, FS)), rng.integers(0, 40000, (SS, FS)))
    reading = assert_reads_raw(tmp_path, frames, [0], constants, setup)
    assert not reading.block.sums.switched.any()
    assert reading.block.sums.entries == reading.block.sums.lit > 1000


@both_ways
def test_largest_digital_number_is_never_high(setup, tmp_path):
    """The one number that thresholds of 16 bits cannot let pass; no converter gives it."""
    constants = simple(
        level=(0, ALWAYS_HIGH, ALWAYS_HIGH), gain=np.reshape([1, 2, 3], (3, 1, 1, 1))
    )
    constants.write(tmp_path / "constants")
    digital = np.zeros(PIXELS, np.uint16)
    digital[5] = 65535
    reading = read_raw(tmp_path, frame_of(100, flat(digital)), [0], setup=replace(setup, adu=7.0))
    assert reading.block.sums.switched.tolist() == [[1, 0]]


@both_ways
def test_all_pixels_switched(setup, tmp_path):
    rng = np.random.default_rng(9)
    constants = make_constants(rng, 1, bad=0.1)
    frames = np.concatenate([make_frames(rng, constants, [0], switched=s) for s in (0, 0.5)])
    frames[1, 1] = np.maximum(frames[1, 1], 5600)
    frames[0, 1] = 9000
    reading = assert_reads_raw(tmp_path, frames, [0, 0], constants, setup)
    good = int((constants.bad[0] == 0).sum())
    assert reading.block.sums.switched[0].tolist() == [0, good]
    assert reading.block.sums.switched[1].sum() == good


@pytest.mark.parametrize("offset", ["i2", "f4"])
@pytest.mark.parametrize("gain", [0.013, 0.9, 1, 38.7, 1e4])
def test_photons_begin_exactly_at_the_cut(offset, gain, tmp_path):
    """One ADU less than the smallest photon, that, and one more, for all pixels of the stage."""
    rng = np.random.default_rng(10)
    constants = make_constants(rng, 1, offset, gain="constant", bad=0)
    constants.gain[0] = gain
    edge = constants.offset[0, 0].astype(np.float64) + 0.7 * ADU / gain
    frames = np.concatenate(
        [frame_of(np.clip(np.floor(edge) + step, 0, 65535)) for step in (-1, 0, 1, 2)]
    )
    reading = assert_reads_raw(tmp_path, frames, [0] * 4, constants)
    lit = reading.block.sums.lit.tolist()
    assert lit[0] == 0
    if gain > 0.1 and (edge % 1).any():
        assert lit[1] < PIXELS / 100, "rounding of float32 moves the edge now and then"
    assert lit[2] == lit[3] == PIXELS or not (edge < 65534).all()


@both_ways
def test_saturated_numbers(setup, tmp_path):
    """65535, as 0, is a number like any other; more than 65535 photons is a bad pixel."""
    rng = np.random.default_rng(11)
    constants = make_constants(rng, 1, bad=0.01)
    constants.gain[:, :, 200:300] *= 1000
    frames = np.concatenate([frame_of(a, d) for a in (0, 65535) for d in (0, 6000, 65535)])
    reading = assert_reads_raw(tmp_path, frames, [0] * 6, constants, setup)
    assert not reading.block.sums.lit[0] or setup.common_mode
    if not setup.common_mode:
        n_bad = [(reading.lists(i)[1] == 0).sum() for i in range(3, 6)]
        assert n_bad[0] > 12000


def test_too_many_photons(tmp_path):
    """The number at which a pixel counts as bad: 65535 photons are still a signal."""
    constants = simple(gain=np.float32(1))
    analogue = np.zeros(PIXELS)
    analogue[:4] = [65534, 65535, 1, 0]
    reading = assert_reads_raw(
        tmp_path, frame_of(flat(analogue)), [0], constants, RawSetup(adu=1.0)
    )
    assert reading.lists(0)[1].tolist() == [65534, 65535, 1]
    reading = assert_reads_raw(
        tmp_path, frame_of(flat(analogue)), [0], constants, RawSetup(adu=0.999989)
    )
    assert reading.lists(0)[1].tolist() == [65535, 0, 1]


@both_ways
def test_pixels_bad_in_some_stage(setup, tmp_path):
    """All combinations of bad stages with all stages that the pixel may be in."""
    kinds = np.arange(PIXELS) % 24
    stage = kinds // 8
    bad = np.array([kinds >> s & 1 for s in range(3)])
    digital = np.array([100, 6000, 9000])[stage]
    constants = simple(bad=flat(bad)[:, None], gain=np.reshape([1, 40, 200], (3, 1, 1, 1)))
    analogue = np.random.default_rng(12).integers(0, 300, (SS, FS))
    reading = assert_reads_raw(tmp_path, frame_of(analogue, flat(digital)), [0], constants, setup)
    pixel, count = reading.lists(0)
    here = kinds[pixel - MODULE * PIXELS]
    assert (here & 1 == 0).all(), "bad in the high stage is bad always"
    bad_here = (stage > 0) & (bad[np.maximum(stage, 0), np.arange(PIXELS)] == 1) & (bad[0] == 0)
    assert (count == 0).sum() == bad_here.sum() == reading.powder.invalid.sum()
    assert set(here[count == 0]) == set(kinds[bad_here])
    other_stage_bad = (stage == 1) & (bad[2] == 1) & (bad[1] == 0) & (bad[0] == 0)
    assert not np.isin(np.flatnonzero(other_stage_bad), pixel[count == 0] - MODULE * PIXELS).any()


@both_ways
def test_everything_bad(setup, tmp_path):
    rng = np.random.default_rng(13)
    constants = replace(make_constants(rng, 1), bad=np.ones((3, 1, SS, FS), np.uint8))
    reading = assert_reads_raw(tmp_path, make_frames(rng, constants, [0]), [0], constants, setup)
    assert not reading.block.sums.entries.any()
    assert not reading.block.sums.switched.any()
    assert reading.block.sums.modules.tolist() == [1 << MODULE], "the frame is there nevertheless"


UNUSABLE = {
    "offset": (np.nan, np.inf, -np.inf, 3e38, -3e38),
    "gain": (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e38),
    "level": (np.nan,),
}


@pytest.mark.slow
@both_ways
@pytest.mark.parametrize("field", UNUSABLE)
@pytest.mark.parametrize("stages", [(0,), (1,), (2,), (0, 1, 2)])
def test_constants_that_are_no_numbers(setup, field, stages, tmp_path):
    """Such pixels are bad in these stages, and disturb nobody else; what is unknown is bad."""
    rng = np.random.default_rng(14)
    constants = make_constants(rng, 1, "f4", "f4", bad=0.01)
    frames = make_frames(rng, constants, [0])
    values = getattr(constants, field)
    at = np.array([rng.random((SS, FS)) < 0.03] * 3) & np.isin(range(3), stages)[:, None, None]
    values[:, 0][at] = rng.choice(np.array(UNUSABLE[field], np.float32), at.sum())
    # what float32 cannot hold in the end is as bad as what it cannot hold at all
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = ~np.isfinite(2 * (np.abs(constants.offset) + 65535) * constants.gain)
    told = replace(constants, bad=constants.bad | beyond)
    reading = read_raw(tmp_path, frames, [0], constants, setup)
    twin, _ = raw_twin(frames, [0], told, setup)
    pixel, count = reading.lists(0)
    assert np.array_equal(pixel, twin.pixel[0] + MODULE * PIXELS)
    assert np.array_equal(count, twin.count[0])
    assert np.array_equal(reading.powder.invalid[MODULE], twin.invalid)
    if stages == (0,) and field != "level":
        assert not at[0].reshape(-1)[pixel - MODULE * PIXELS].any()


# common mode


def sizes(n):
    """Return which pixels of an ASIC are good if there are n, spread over it."""
    good = np.zeros(4096, bool)
    good[np.linspace(0, 4095, n).round().astype(int)] = True
    assert good.sum() == n
    return good


def first_asic(values, others=0.0):
    """Return a flat module image with `values` (4096,) in the first ASIC."""
    image = np.full((8, 64, 2, 64), others, np.asarray(values).dtype)
    image[0, :, 0] = np.reshape(values, (64, 64))
    return image.reshape(-1)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 65, 4095, 4096])
def test_few_good_pixels_in_an_asic(n, tmp_path):
    rng = np.random.default_rng(n)
    good = flat(first_asic(sizes(n), others=True))
    analogue = rng.integers(5000, 9000, (SS, FS))
    setup = RawSetup(common_mode=True, good=good, adu=1.7)
    reading = assert_reads_raw(tmp_path, frame_of(analogue), [0], simple(offset=100), setup)
    inside = good & flat(first_asic(np.ones(4096, bool), others=False))
    pixel, _ = reading.lists(0)
    lit = inside.reshape(-1)[pixel - MODULE * PIXELS].sum()
    assert lit == pytest.approx(n / 2, abs=5), "half of the pixels are above the median"


def test_drift_of_every_asic(tmp_path):
    """What is added to all pixels of an ASIC changes nothing; its neighbours do not matter."""
    rng = np.random.default_rng(15)
    constants = make_constants(rng, 1, "f4", gain="constant", bad=0.05)
    constants.gain[0] = 1
    frame = make_frames(rng, constants, [0], switched=0)
    frame[:, 1] = 100
    frame[0, 0] = np.clip(frame[0, 0], 2000, 20000)
    drifted = frame.copy()
    drift = rng.integers(-900, 900, (8, 1, 2, 1))
    drifted[0, 0] = (frame[0, 0].reshape(8, 64, 2, 64) + drift).reshape(SS, FS)
    setup = RawSetup(common_mode=True, adu=2.3)
    found = [
        assert_reads_raw(tmp_path, f, [0], constants, setup).lists(0) for f in (frame, drifted)
    ]
    differ = np.setxor1d(found[0][0], found[1][0])
    # rounding of float32 at the very edge of a photon
    assert len(differ) < 1e-3 * len(found[0][0])


def ramp(n):
    return np.arange(n, dtype=np.float64)


def misleading(n, rng, high):
    """Return values of which an evenly spaced sample of 32 sees only one end."""
    values = rng.permutation(n).astype(np.float64) + 100
    values[np.arange(32) * n // 32 % n] = 1e6 + ramp(32) if high else -1e6 - ramp(32)
    return values


MEDIANS = {
    "normal": lambda n, rng: rng.normal(0, 100, n),
    "all the same": lambda n, rng: np.full(n, 17.3),
    "two values": lambda n, rng: np.where(ramp(n) < n // 2, -3.0, 8.0),
    "two values, one more": lambda n, rng: np.where(ramp(n) <= n // 2, 8.0, -3.0),
    "two values mixed": lambda n, rng: rng.choice([-3.0, 8.0], n),
    "integers": lambda n, rng: rng.integers(-5, 6, n).astype(float),
    "one apart": lambda n, rng: np.where(ramp(n) == n // 3, 1e4, 5.0),
    "sorted": lambda n, rng: ramp(n),
    "reversed": lambda n, rng: -ramp(n),
    "sorted halves": lambda n, rng: np.where(ramp(n) < n / 2, ramp(n), -ramp(n)),
    "saw": lambda n, rng: ramp(n) % 37,
    "up and down": lambda n, rng: -np.abs(ramp(n) - n / 2),
    "exponential": lambda n, rng: rng.permutation(2.0 ** np.linspace(-60, 60, n)),
    "huge outliers": lambda n, rng: np.where(
        rng.random(n) < 0.4, rng.choice([-1e30, 1e30], n), rng.normal(0, 3, n)
    ),
    "mostly huge": lambda n, rng: np.where(rng.random(n) < 0.3, rng.normal(0, 3, n), 3e37),
    "tiny numbers": lambda n, rng: rng.integers(-9, 9, n) * 1e-45,
    "zeros of both signs": lambda n, rng: rng.choice([0.0, -0.0], n),
    "sample too high": lambda n, rng: misleading(n, rng, True),
    "sample too low": lambda n, rng: misleading(n, rng, False),
    "heavy middle": lambda n, rng: np.where(rng.random(n) < 0.98, 2.5, rng.normal(2.5, 50, n)),
}
"""Values of the good pixels of an ASIC, float64 (n,)."""

NUMBERS = (1, 2, 3, 63, 64, 65, 66, 127, 1000, 2049, 4095, 4096)


@pytest.fixture
def any_offsets(monkeypatch):
    """Take offsets of 0 for numbers like any other, however many there are."""
    monkeypatch.setattr(constants_file, "_FEW", 1.0)


def test_median_of_whatever_values(tmp_path, any_offsets):
    """An offset of -v and an analogue number of 0 make a signal of exactly v, any float32.

    The photons of all pixels show the median: less than a tenth of the steps between values is
    a photon.
    """
    rng = np.random.default_rng(16)
    cases = [(kind, n) for kind in MEDIANS for n in NUMBERS]
    n_cells = -(-len(cases) // 16)
    signal = np.zeros((n_cells * 16, 4096), np.float32)
    bad = np.ones((n_cells * 16, 4096), bool)
    for (kind, n), values, out in zip(cases, signal, bad, strict=False):
        good = sizes(n)
        values[:] = rng.normal(0, 1e5, 4096)
        values[good] = MEDIANS[kind](n, rng)
        out[:] = ~good

    def images(asics):
        return asics.reshape(n_cells, 8, 2, 64, 64).swapaxes(2, 3).reshape(n_cells, SS, FS)

    constants = simple(n_cells)
    constants.offset[0] = -images(signal)
    constants.bad[:] = images(bad)
    frames = np.repeat(frame_of(0), n_cells, axis=0)
    setup = RawSetup(common_mode=True, adu=0.03, threshold=0.5)
    reading = assert_reads_raw(tmp_path, frames, range(n_cells), constants, setup)
    assert reading.block.sums.lit.sum() > 50_000


def drifting(rng, frame, n):
    return rng.normal(8 * rng.normal(), 7, n) + 60 * (rng.random(n) < 0.02)


def off_samples(rng, frame, n):
    """Return values of which half of the rows are huge: no sample of rows is like all."""
    rows = np.where(np.arange(n) // 64 % 4 < 2, 1e6, 0)
    return rng.permutation(n) * 0.01 + np.roll(rows, 128 * frame)


SEQUENCES = {
    "drift": drifting,
    "drift of integers": lambda *a: np.rint(drifting(*a)),
    "drift of integers, wide": lambda *a: np.rint(7 * drifting(*a)),
    "drift, gains by pixel": lambda *a: np.rint(drifting(*a)) * np.linspace(0.9, 1.1, a[2]),
    "integers or not": lambda *a: np.rint(drifting(*a)) if a[1] % 2 else drifting(*a),
    "jumps": lambda *a: drifting(*a) + 3000 * (-1) ** a[1],
    "jumps of integers": lambda *a: np.rint(drifting(*a)) + 3000 * (-1) ** a[1],
    "many photons": lambda *a: drifting(*a) + 60 * (a[0].random(a[2]) < 0.4),
    "the same again": lambda rng, frame, n: np.arange(n) % 100,
    "all equal": lambda rng, frame, n: np.full(n, 17.3 * (frame // 2)),
    "two values": lambda rng, frame, n: np.where(np.arange(n) < n // 2 + frame % 3 - 1, -3, 8),
    "zeros of both signs": lambda rng, frame, n: rng.choice([0.0, -0.0, frame % 3 - 1], n),
    "one after the other": lambda rng, frame, n: 1 + (rng.permutation(n) + 99 * frame) * 2.0**-23,
    "off all samples": off_samples,
    "exponential": lambda rng, frame, n: rng.permutation(2.0 ** np.linspace(-60, 9 * frame, n)),
    "half huge": lambda rng, frame, n: rng.choice([-1e37, 1e37, frame], n, p=[0.25, 0.25, 0.5]),
}
"""Values of an ASIC, float64 (n,), by generator, number of the frame, and n."""


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 0.005, 0.3, 0.99, 1 - 1 / 4096])
def test_median_of_frame_after_frame(bad, tmp_path, any_offsets):
    """What is remembered of a frame's median says nothing about the next one's.

    Every ASIC has frames of its own kind; with the last of `bad`, one good pixel.
    """
    rng = np.random.default_rng(20)
    n_frames = 12
    signal = np.array(
        [[make(rng, frame, 4096) for make in SEQUENCES.values()] for frame in range(n_frames)]
    )
    is_bad = np.argsort(rng.random((n_frames, 16, 4096))) < round(bad * 4096)
    # even and odd numbers of good pixels
    is_bad[::2, :, 7] = bad < 0.9
    signal, is_bad = (
        a.reshape(n_frames, 8, 2, 64, 64).swapaxes(2, 3).reshape(n_frames, SS, FS)
        for a in (signal, is_bad)
    )
    constants = simple(n_frames)
    constants.offset[0] = -signal
    constants.bad[:] = is_bad
    frames = np.repeat(frame_of(0), n_frames, axis=0)
    setup = RawSetup(common_mode=True, adu=0.03, threshold=0.5)
    reading = assert_reads_raw(tmp_path, frames, range(n_frames), constants, setup)
    assert reading.block.sums.lit.sum() > n_frames * ((~is_bad[1]).sum() - 16) / 4


@pytest.mark.parametrize("spread", [1, 4, 300])
def test_median_of_integer_signals(spread, tmp_path):
    """Many ties, as with integer offsets and a gain of 1; even and odd numbers of good pixels."""
    rng = np.random.default_rng(17)
    constants = simple(offset=rng.integers(5000, 7000, (SS, FS)), dtype="i2")
    constants.bad[:, :, :256] = rng.random((256, FS)) < 0.1
    signal = rng.integers(0, spread + 1, (SS, FS))
    frames = frame_of(constants.offset[0, 0] + signal)
    assert_reads_raw(tmp_path, frames, [0], constants, RawSetup(common_mode=True, adu=0.4))


@pytest.mark.parametrize("stage", [1, 2])
def test_switched_pixels_take_part_in_the_median(stage, tmp_path):
    """With the signal of their own stage, unless they are bad in it."""
    rng = np.random.default_rng(18)
    constants = make_constants(rng, 1, "f4", bad=0.1)
    digital = np.where(rng.random((SS, FS)) < 0.4, (0, 6000, 9000)[stage], 100)
    frames = frame_of(rng.integers(5000, 7000, (SS, FS)), digital)
    assert_reads_raw(tmp_path, frames, [0], constants, RawSetup(common_mode=True, adu=3.0))


# what goes wrong


@both_ways
@pytest.mark.parametrize("layout", ["contiguous", "chunk", "chunk of 16"])
def test_file_cut_short(setup, layout, tmp_path):
    """Frames that end beyond the end of the file are flagged; the others stand."""
    rng = np.random.default_rng(19)
    constants = make_constants(rng, 2)
    cells = [1, 0, 1, 0]
    frames = make_frames(rng, constants, cells)
    setup = replace(setup, layout=RAW_LAYOUTS[layout])

    def cut(path):
        content = path.read_bytes()
        # in the last but one frame; its digital numbers are missing
        at = content.index(frames[2].tobytes()[:256])
        os.truncate(path, at + FRAME_BYTES // 2 + 10)

    reading = read_raw(tmp_path, frames, cells, constants, setup, before=cut)
    assert [p.what for p in reading.problems] == [
        "2 frames: bytes cannot be read (file too short?)"
    ]
    assert reading.block.sums.modules.tolist() == [1 << MODULE] * 2 + [0, 0]
    assert not reading.block.sums.entries[2:].any()
    assert not reading.block.sums.switched[2:].any()
    twin, switched = raw_twin(frames[:2], cells[:2], constants, setup)
    for i in range(2):
        assert np.array_equal(reading.lists(i)[1], twin.count[i])
    assert reading.block.sums.switched[:2].tolist() == [list(pair) for pair in switched]
    assert np.array_equal(reading.powder.photons[MODULE], twin.powder)


def test_chunk_that_does_not_inflate(tmp_path):
    rng = np.random.default_rng(20)
    constants = make_constants(rng, 1)
    frames = make_frames(rng, constants, [0, 0])

    def spoil(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 4 : len(content) // 4 + 2000] = bytes(2000)
        path.write_bytes(content)

    setup = RawSetup(layout=RAW_LAYOUTS["gzip"])
    reading = read_raw(tmp_path, frames, [0, 0], constants, setup, before=spoil)
    assert [p.what for p in reading.problems] == ["1 frames: chunk does not inflate to a frame"]
    twin, _ = raw_twin(frames[1:], [0], constants)
    assert np.array_equal(reading.lists(1)[1], twin.count[0])


def test_chunk_that_was_never_written(tmp_path):
    rng = np.random.default_rng(21)
    layout = {"shape": (3, 2, SS, FS), "dtype": "u2", "chunks": (1, 2, SS, FS), "data": None}
    constants = make_constants(rng, 1)
    frames = make_frames(rng, constants, [0])

    about = write_module(tmp_path / "frames.h5", None, MODULE, **layout)
    with h5py.File(about.path, "r+") as file:
        file[DATASET][1] = frames[0]
    constants.write(tmp_path / "constants")
    calibration = calibrate(tmp_path, [0])
    pool = FilePool((about,))
    sparsifier = Sparsifier(pool, make_masks(), ADU, 0.7, 0, calibration)
    block = sparsifier.frames(
        make_table({MODULE: (0, [0, 1, 2])}, cell=[0] * 3), PowderSum.zeros(1, AGIPD_1M)
    )
    pool.close()
    assert block.sums.modules.tolist() == [0, 1 << MODULE, 0]
    assert [p.what for p in sparsifier.problems] == [
        "2 frames: chunk was never written or cannot be read"
    ]


def test_dataset_that_was_never_written(tmp_path):
    """EXtra-data's mock runs: nothing was measured, so that no frame is there."""
    layout = {"shape": (3, 2, SS, FS), "dtype": "u2", "chunks": (1, 2, SS, FS), "data": None}
    constants = simple(offset=-60)
    setup = RawSetup(layout=layout)
    reading = read_raw(tmp_path, np.empty(3), [0, 0, 0], constants, setup)
    assert ["never written" in problem.what for problem in reading.problems] == [True]
    assert not reading.block.sums.modules.any()
    assert not reading.block.sums.ones.any()


# limits of the program


def test_frames_that_do_not_fit(tmp_path):
    """Sums stand, lists that have no room are left out."""
    cells = [0] * 18
    constants = simple(offset=-60)
    reading = read_raw(tmp_path, np.repeat(frame_of(0), 18, axis=0), cells, constants)
    assert reading.block.sums.lit.tolist() == [PIXELS] * 18
    assert reading.block.stored.tolist() == [True] * 16 + [False] * 2
    assert (reading.powder.photons[MODULE] == 18).all()


def test_module_without_constants(tmp_path):
    """Its frames are there, but none of its pixels count; others are as ever."""
    rng = np.random.default_rng(22)
    constants = make_constants(rng, 1)
    frames = make_frames(rng, constants, [0, 0])
    constants.write(tmp_path / "constants", MODULE)
    files = [write_module(tmp_path / f"{m}.h5", frames, m) for m in (MODULE, 9)]
    calibration = calibrate(tmp_path, [0], 1 << MODULE | 1 << 9)
    assert not calibration.good_in_high_stage(9).any()
    pool = FilePool(tuple(files))
    sparsifier = Sparsifier(pool, make_masks(), ADU, 0.7, 0, calibration)
    table = make_table({MODULE: (0, [0, 1]), 9: (1, [0, -1])}, cell=[0, 0])
    powder = PowderSum.zeros(1, AGIPD_1M)
    block = sparsifier.frames(table, powder)
    pool.close()
    assert block.sums.modules.tolist() == [1 << MODULE | 1 << 9, 1 << MODULE]
    assert not powder.photons[9].any()
    assert powder.photons[MODULE].any()
    assert (block.take(np.arange(2)).pixel // PIXELS == MODULE).all()


def test_cell_beyond_the_constants(tmp_path):
    """The cells that have constants are not touched by the one that has none."""
    rng = np.random.default_rng(23)
    constants = make_constants(rng, 2)
    frames = make_frames(rng, constants, [1, 0, 1])
    reading = read_raw(tmp_path, frames, [1, 7, 0], constants)
    twin, _ = raw_twin(frames[[0, 2]], [1, 0], constants)
    for i, frame in enumerate((0, 2)):
        assert np.array_equal(reading.lists(frame)[1], twin.count[i])
    assert not reading.block.sums.entries[1]
    assert not reading.block.sums.switched[1].any()
    assert reading.block.sums.modules.tolist() == [1 << MODULE] * 3
