"""The detector file against Dragonfly's own `Detector`, and against geometry done another way."""

from dataclasses import replace

import numpy as np
import pytest
from dragonfly import Detector
from extra_geom import AGIPD_1MGeometry
from mpi4py import MPI
from readers import FRAME_PIXELS, FRAME_SHAPE

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.config.choices import BIN_SIZES
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.scattering import ewald_vectors, solid_angle
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.dragonfly.binning import bin_frames, block_of_pixel, in_blocks, n_blocks
from xfelmpi.output.dragonfly.detector import make_detector

PIXEL = 200e-6
DISTANCE = 0.31


def settings(**options) -> OutputSettings:
    return Config(**options).part(OutputSettings)


@pytest.fixture(scope="module")
def flat():
    """A flat detector at right angles to the beam."""
    xyz = np.moveaxis(AGIPD_1MGeometry.example().get_pixel_positions(), -1, 0).copy()
    xyz[2] = DISTANCE
    return DetectorGeometry(
        xyz, np.zeros((16, 3)), np.zeros((16, 2, 3)), DISTANCE, "flat", AGIPD_1M
    )


def of_dragonfly(x, y, detd, ewald_rad, direction):
    """Return q (3, pixel) and corr of a flat detector, calculated by Dragonfly."""
    det = Detector()
    det.cx, det.cy = x.ravel().copy(), y.ravel().copy()
    det.detd, det.ewald_rad = detd, ewald_rad
    det.calc_from_coords(pol=direction)
    return np.array(det.qvals).T, np.array(det.corr)


@pytest.mark.slow
@pytest.mark.parametrize("ewald_rad", [None, 700.0])
@pytest.mark.parametrize("direction", ["x", "y", "none"])
def test_flat_detector_as_in_dragonfly(flat, direction, ewald_rad):
    ours = make_detector(settings(polarisation=direction, ewald_rad=ewald_rad), flat, 2e-10)
    detd = DISTANCE / PIXEL
    assert ours.detd == pytest.approx(detd, rel=1e-12)
    assert ours.ewald_rad == (ewald_rad or ours.detd)
    q, corr = of_dragonfly(*flat.xyz[:2] / PIXEL, detd, ewald_rad or detd, direction)
    np.testing.assert_allclose(ours.q, q, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.corr, corr, rtol=1e-9)
    assert not ours.mask.any()
    assert ours.voxel == pytest.approx(1 / (2e-10 * ours.ewald_rad))


@pytest.mark.parametrize("n", [2, 8, 64])
def test_flat_binned_detector_as_in_dragonfly(flat, n):
    """Blocks are pixels n times as large at the mean position, up to their own curvature."""
    ours = make_detector(settings(bin=n), flat, np.nan)
    assert ours.q.shape == (3, FRAME_PIXELS // n**2)
    x, y = (in_blocks(part, n).mean(axis=(2, 4)) / (n * PIXEL) for part in flat.xyz[:2])
    detd = DISTANCE / (n * PIXEL)
    q, corr = of_dragonfly(x, y, detd, detd, "x")
    np.testing.assert_allclose(ours.q, q, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.corr, corr, rtol=2e-3 if n == 64 else 5e-5)
    assert ours.ewald_rad == pytest.approx(detd)
    assert np.isnan(ours.voxel)


def test_a_voxel_is_a_pixel_at_the_centre(flat):
    q = make_detector(settings(), flat, 1e-10).q.reshape(3, *FRAME_SHAPE)
    nearest = np.unravel_index(np.hypot(q[0], q[1])[:, :-1].argmin(), (16, 511, 128))
    module, ss, fs = nearest
    step = np.linalg.norm(q[:, module, ss + 1, fs] - q[:, module, ss, fs])
    assert step == pytest.approx(1, rel=1e-3)


def tilted_module(rng):
    """Return positions of a module whose ASICs are all turned differently, and their edges."""
    xyz = np.empty((3, 512, 128))
    edges = np.empty((8, 2, 2, 3))
    ss, fs = np.mgrid[:64, :64]
    for i in range(8):
        for j in range(2):
            turn, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
            a, b = turn[:, 0] * PIXEL, turn[:, 1] * 1.5 * PIXEL
            corner = np.array([i * 0.02 - 0.08, j * 0.03, 0.3])
            block = corner[:, None, None] + a[:, None, None] * ss + b[:, None, None] * fs
            xyz[:, i * 64 : i * 64 + 64, j * 64 : j * 64 + 64] = block
            edges[i, j] = a, b
    return xyz, edges


def triangle(a, b, c):
    """Return the solid angle of a triangle: Van Oosterom & Strackee, IEEE BME-30 (1983) 125."""
    la, lb, lc = (np.linalg.norm(v) for v in (a, b, c))
    volume = abs(a @ np.cross(b, c))
    rest = la * lb * lc + (a @ b) * lc + (a @ c) * lb + (b @ c) * la
    return 2 * np.arctan2(volume, rest)


def test_solid_angle_of_tilted_panels():
    rng = np.random.default_rng(1)
    xyz, edges = tilted_module(rng)
    ours = solid_angle(xyz, (64, 64))
    for _ in range(50):
        ss, fs = rng.integers(512), rng.integers(128)
        a, b = edges[ss // 64, fs // 64]
        corners = [xyz[:, ss, fs] + (i * a + j * b) / 2 for i, j in ((-1, -1), (-1, 1), (1, 1))]
        other = xyz[:, ss, fs] + (a - b) / 2
        exact = triangle(*corners) + triangle(corners[0], corners[2], other)
        # that of a small plane element, against that of the pixel as it is
        assert ours[ss, fs] == pytest.approx(exact, rel=1e-5)


def test_ewald_vectors():
    """Elastic: the scattered wave vector is as long as the incident one, at the angle 2 theta."""
    xyz = np.random.default_rng(1).normal(size=(3, 1000))
    xyz[2] += 3
    q = ewald_vectors(xyz, 5.0)
    scattered = q + np.array([[0], [0], [5]])
    np.testing.assert_allclose(np.linalg.norm(scattered, axis=0), 5)
    np.testing.assert_allclose(np.cross(scattered, xyz, axis=0), 0, atol=1e-12)
    two_theta = np.arctan2(np.hypot(*xyz[:2]), xyz[2])
    np.testing.assert_allclose(np.linalg.norm(q, axis=0), 10 * np.sin(two_theta / 2), atol=1e-12)


def test_panels_with_an_offset_along_the_beam(flat):
    """Where the panels are counts, not the nominal distance."""
    moved = flat.xyz.copy()
    moved[2] += 0.05
    ours = make_detector(settings(), replace(flat, xyz=moved), np.nan)
    assert ours.detd == pytest.approx((DISTANCE + 0.05) / PIXEL)


@pytest.mark.parametrize(("limit", "voxels"), [((90.0, ""), 90.0), ((0.2, "/nm"), None)])
def test_region_of_interest(flat, limit, voxels):
    whole = make_detector(settings(), flat, 2e-10)
    ours = make_detector(settings(roi_qmax=limit), flat, 2e-10)
    voxels = voxels or 0.2e9 / whole.voxel
    length = np.linalg.norm(whole.q, axis=0)
    np.testing.assert_array_equal(ours.mask, np.where(length > voxels, 2, 0))
    assert 0 < ours.n_used < FRAME_PIXELS
    inside = ours.mask == 0
    np.testing.assert_array_equal(ours.q[:, inside], whole.q[:, inside])
    # the others go to the edge, on the Ewald sphere, in the same direction
    moved = ours.q[:, ~inside]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=0), voxels, rtol=1e-8)
    scattered = moved + np.array([[0], [0], [ours.ewald_rad]])
    np.testing.assert_allclose(np.linalg.norm(scattered, axis=0), ours.ewald_rad)
    before = np.arctan2(*whole.q[:2, ~inside])
    np.testing.assert_allclose(np.arctan2(*moved[:2]), before, atol=1e-9)
    assert ours.volume_edge == 2 * np.ceil(voxels) + 3


def test_region_of_interest_without_wavelength(flat):
    with pytest.raises(InputError, match="--photon-energy"):
        make_detector(settings(roi_qmax=(0.2, "/nm")), flat, np.nan)


def test_blocks_with_bad_pixels(flat):
    """A block lies where its usable pixels are and takes as much light as they do."""
    usable = np.ones(FRAME_SHAPE, bool)
    usable[3, 0, 0] = False
    usable[5, 8:12, 4:8] = False
    ours = make_detector(settings(bin=4), flat, np.nan, usable)
    whole = make_detector(settings(), flat, np.nan)
    block = block_of_pixel(np.array([3 * 65536]), 128, 4)[0]
    pixels = np.flatnonzero(block_of_pixel(np.arange(FRAME_PIXELS), 128, 4) == block)[1:]
    assert ours.corr[block] == pytest.approx(whole.corr[pixels].sum())
    np.testing.assert_allclose(ours.q[:, block], whole.q[:, pixels].mean(axis=1) / 4, atol=1e-3)
    gone = block_of_pixel(np.array([5 * 65536 + 8 * 128 + 4]), 128, 4)
    assert np.flatnonzero(ours.mask == 2).tolist() == gone.tolist()
    assert (ours.corr > 0).all()
    unbinned = make_detector(settings(), flat, np.nan, usable)
    np.testing.assert_array_equal(unbinned.mask.reshape(FRAME_SHAPE) == 0, usable)


def test_unknown_distance(flat):
    with pytest.raises(InputError, match="distance is unknown"):
        make_detector(settings(), replace(flat, distance=np.nan), 1e-10)


@pytest.mark.parametrize("n", [n for n in BIN_SIZES if 64 % n == 0])
def test_bin_frames(n):
    """Sums over blocks of usable pixels of the dense image, frame by frame."""
    rng = np.random.default_rng(n)
    usable = rng.random(FRAME_PIXELS) < 0.9
    dense, parts = [], []
    for entries in (3000, 0, 1, 200_000):
        pixel = np.sort(rng.choice(FRAME_PIXELS, entries, replace=False)).astype(np.uint32)
        count = rng.choice([0, 1, 2, 65535], entries).astype(np.uint16)
        image = np.zeros(FRAME_PIXELS, np.int64)
        image[pixel] = count
        dense.append(in_blocks((image * usable).reshape(FRAME_SHAPE), n).sum(axis=(2, 4)).ravel())
        parts.append(SparseFrames(np.array([0, entries], np.int64), pixel, count))
    binned = bin_frames(SparseFrames.join(parts), n, usable.reshape(FRAME_SHAPE))
    assert len(binned) == 4
    for i, right in enumerate(dense):
        entries = slice(*binned.indptr[i : i + 2])
        np.testing.assert_array_equal(binned.pixel[entries], np.flatnonzero(right))
        np.testing.assert_array_equal(binned.count[entries], right[right > 0])


def test_block_numbers():
    assert n_blocks(FRAME_PIXELS, 8) == 16384
    pixel = np.array([0, 7, 8, 128 * 8, FRAME_PIXELS - 1])
    assert block_of_pixel(pixel, 128, 8).tolist() == [0, 0, 1, 16, 16383]
    assert len(bin_frames(SparseFrames.empty(), 8, np.ones(FRAME_SHAPE, bool))) == 0


@pytest.mark.parametrize(
    ("wavelength", "photon_energy", "right", "warned"),
    [
        ([2e-10, 2.001e-10, np.nan, 1.999e-10], None, 2e-10, False),
        ([2e-10, 2.1e-10, 2e-10], None, 2e-10, True),
        ([np.nan], None, np.nan, False),
        ([2e-10, 3e-10], 1e-15, 1.9864458571489e-10, False),
    ],
)
def test_wavelength(wavelength, photon_energy, right, warned):
    """The median of what is known, with a warning if it varies; the user's comes first."""
    found, warning = beam_wavelength(MPI.COMM_SELF, photon_energy, np.array(wavelength))
    assert found == pytest.approx(right, nan_ok=True)
    assert bool(warning) == warned
