"""The particle without symmetry, against a sum over the points that it is made of."""

import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry
from mockrun import tiny_run

from xfelmpi.simulate.cluster import CENTRES, RADII, Cluster, rotation

SIZE = 30e-9


def points():
    """Return points that fill the balls of a cluster evenly, (3, point), and how many in each."""
    step = 0.01 * SIZE
    grid = np.arange(-25, 26) * step
    cube = np.stack(np.meshgrid(grid, grid, grid)).reshape(3, -1)
    length = np.linalg.norm(cube, axis=0)
    balls = [
        cube[:, length < radius * SIZE] + centre[:, None] * SIZE
        for centre, radius in zip(CENTRES, RADII, strict=True)
    ]
    return np.concatenate(balls, axis=1)


def test_intensity():
    rng = np.random.default_rng(1)
    particle, turn = points(), rotation(rng.normal(size=4))
    q = rng.normal(size=(3, 20)) * 3 / SIZE
    right = np.abs(np.exp(1j * q.T @ turn @ particle).mean(axis=1)) ** 2
    cluster = Cluster(SIZE)
    found = cluster.intensity(q, cluster.amplitudes(np.linalg.norm(q, axis=0)), turn)
    np.testing.assert_allclose(found, right, rtol=0.02, atol=2e-4)
    at_zero = cluster.intensity(np.zeros(3), cluster.amplitudes(np.float64(0)), turn)
    np.testing.assert_allclose(at_zero, 1, rtol=1e-4)


def test_mean_over_all_orientations():
    rng = np.random.default_rng(2)
    cluster, length = Cluster(SIZE), np.linspace(0.5, 15, 8) / SIZE
    q = np.stack([np.zeros(8), np.zeros(8), length])
    amplitudes = cluster.amplitudes(length)
    turns = [rotation(turn) for turn in rng.normal(size=(5000, 4))]
    seen = np.mean([cluster.intensity(q, amplitudes, turn) for turn in turns], axis=0)
    np.testing.assert_allclose(seen, cluster.mean_intensity(length), rtol=0.08)


def test_rotations():
    for quaternion in np.random.default_rng(3).normal(size=(20, 4)):
        turn = rotation(quaternion)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) > 0
    half_turn = rotation(np.array([0, 0, 0, 2.0]))
    np.testing.assert_allclose(half_turn, np.diag([-1, -1, 1]), atol=1e-12)


@pytest.mark.slow
def test_simulated_hits(tmp_path):
    """All photons of the model, where the model has them, and every hit turned differently."""
    mock = tiny_run(
        tmp_path / "p000001",
        particle="cluster",
        size_nm=(20, 20),
        hit_photons=(2e5, 2e5),
        dtype="u2",
        background=0.0,
        hit_rate=1.0,
        trains=2,
        cells=(0, 1, 2),
    )
    geometry = AGIPD_1MGeometry.from_crystfel_geom(str(mock.paths.geometry))
    x, y, _ = np.moveaxis(geometry.get_pixel_positions(), -1, 0)
    two_theta = np.arctan2(np.hypot(x, y), mock.options.distance)
    wavelength = mock.truth["wavelength"][0]
    length = 4 * np.pi / wavelength * np.sin(two_theta / 2)
    ring = np.minimum(length / length.max() * 40, 39).astype(int)
    expected = Cluster(20e-9).mean_intensity(length) * np.cos(two_theta) ** 3
    frames = np.array([mock.frame(row) for row in range(6)], float)
    total = frames.sum()
    np.testing.assert_allclose(total, 6 * 2e5, rtol=0.3)
    seen = np.bincount(ring.ravel(), frames.sum(axis=0).ravel())
    right = np.bincount(ring.ravel(), expected.ravel())
    assert np.corrcoef(seen, right)[0, 1] > 0.98
    blurred = frames.reshape(6, 16, 32, 16, 8, 16).sum(axis=(3, 5)).reshape(6, -1)
    alike = np.corrcoef(np.sqrt(blurred))
    assert (alike[~np.eye(6, dtype=bool)] < 0.98).all()
