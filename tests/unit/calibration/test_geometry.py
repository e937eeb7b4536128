"""Geometries that extra-geom wrote, then one thing broken at a time."""

import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.core.errors import InputError


@pytest.fixture(scope="module")
def tilted():
    """A geometry that is nowhere nominal: shifted, rotated, and 4 mm off along the beam."""
    geometry = AGIPD_1MGeometry.from_quad_positions(
        [(-530, 620), (-555, -12), (518, -158), (540, 478)]
    )
    geometry = geometry.rotate((0.5, -0.3, 1.0), modules=np.s_[3:9], degrees=True)
    return geometry.offset((1e-3, -2e-3, 4e-3), modules=np.s_[:4])


@pytest.fixture
def path(tmp_path, tilted):
    path = tmp_path / "agipd.geom"
    tilted.write_crystfel_geom(str(path), adu_per_ev=1, clen=0.7, photon_energy=6000)
    return path


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_positions(path, tilted):
    geometry, warnings = load_geometry(path)
    assert warnings == ()
    assert geometry.distance == 0.7
    assert geometry.xyz.shape == (3, 16, 512, 128)
    assert geometry.xyz.dtype == np.float64
    right = np.moveaxis(tilted.get_pixel_positions(), -1, 0) + np.reshape([0, 0, 0.7], (3, 1, 1, 1))
    np.testing.assert_allclose(geometry.xyz, right, atol=1e-9)
    assert str(path) in geometry.description
    assert "0.7 m" in geometry.description


def test_corner_and_basis_give_the_first_asic(path):
    geometry, _ = load_geometry(path)
    assert geometry.corner_position.shape == (16, 3)
    assert geometry.basis_vectors.shape == (16, 2, 3)
    ss, fs = np.mgrid[:64, :128] + 0.5
    for module in range(16):
        slow, fast = geometry.basis_vectors[module]
        centres = geometry.corner_position[module] + ss[..., None] * slow + fs[..., None] * fast
        np.testing.assert_allclose(
            np.moveaxis(geometry.xyz[:, module, :64], 0, -1), centres, atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.norm(slow), 200e-6, rtol=1e-5)


def test_distance_given(path):
    geometry, warnings = load_geometry(path, 0.25)
    assert warnings == ()
    assert geometry.distance == 0.25
    np.testing.assert_allclose(geometry.xyz[2, 0, 0, 0], 0.254, atol=1e-9)


def test_nominal():
    geometry, warnings = load_geometry(None, 0.5)
    assert len(warnings) == 1
    assert "nominal" in warnings[0]
    right = AGIPD_1MGeometry.example().get_pixel_positions()
    np.testing.assert_array_equal(geometry.xyz[0], right[..., 0])
    assert (geometry.xyz[2] == 0.5).all()


def test_nominal_without_distance():
    geometry, warnings = load_geometry(None)
    assert len(warnings) == 2
    assert np.isnan(geometry.distance)
    assert np.isnan(geometry.xyz[2]).all()
    assert np.isfinite(geometry.xyz[:2]).all()
    assert np.isnan(geometry.corner_position[:, 2]).all()
    assert np.isfinite(geometry.basis_vectors).all()


@pytest.mark.parametrize(
    ("clen", "distance"),
    [
        ("clen = 95.3 mm", 0.0953),
        ("clen = 1.2 m ; measured", 1.2),
        ("clen=2e-1", 0.2),
        ("clen = /LCLS/detector_1/EncoderValue", None),
        ("clen = 0", None),
        ("clen = -1", None),
        ("clen = 1-2", None),
        ("clen = nan", None),
        ("clen =", None),
        ("; clen = 0.7", None),
        ("clen = 0.7\np3a2/clen = 0.8", None),
        ("p3a2/clen = 0.7", 0.7),
    ],
)
def test_clen(path, clen, distance):
    rewrite(path, "clen = 0.7", clen)
    geometry, warnings = load_geometry(path)
    if distance is None:
        assert np.isnan(geometry.distance)
        assert len(warnings) == 1
        assert str(path) in warnings[0]
        assert np.isfinite(geometry.xyz[:2]).all()
    else:
        assert geometry.distance == pytest.approx(distance)
        assert warnings == ()
    assert load_geometry(path, 0.3)[1] == ()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("p7a3/fs = ", "p7a3/fs = q", "p7a3|direction|fast scan"),
        ("p7a3", "p0a0", "16 modules"),
        ("p7a3/corner_x = ", "p7a3/corner_x = here", "here"),
        ("data = /", "data = ", "data"),
    ],
)
def test_broken_geometry(path, old, new, why):
    rewrite(path, old, new)
    with pytest.raises(InputError, match=why) as error:
        load_geometry(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n\xff\xfe", b"no geometry\n"])
def test_no_geometry(tmp_path, content):
    path = tmp_path / "some.geom"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.geom"):
        load_geometry(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.geom"):
        load_geometry(tmp_path / "nowhere.geom")
