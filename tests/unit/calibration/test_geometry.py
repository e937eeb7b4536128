"""Geometries that extra-geom wrote, then one thing broken at a time."""

import inspect
import re
from contextlib import nullcontext
from dataclasses import replace

import extra_geom
import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry

from xfelmpi.calibration import geometry_file
from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.calibration.geometry_writer import crystfel_text
from xfelmpi.core.errors import InputError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.known import DETECTORS


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
    geometry, warnings = load_geometry(path, AGIPD_1M)
    assert warnings == ()
    assert geometry.distance == 0.7
    assert geometry.xyz.shape == (3, 16, 512, 128)
    assert geometry.xyz.dtype == np.float64
    right = np.moveaxis(tilted.get_pixel_positions(), -1, 0) + np.reshape([0, 0, 0.7], (3, 1, 1, 1))
    np.testing.assert_allclose(geometry.xyz, right, atol=1e-9)
    assert str(path) in geometry.description
    assert "0.7 m" in geometry.description


@pytest.mark.parametrize("equals", ["=", " =", "= ", "\t=  "])
def test_spaces_around_equals_signs(path, equals):
    """EXtra-geom's parser passes over statements such as ``corner_x =-5``, without a word."""
    right, _ = load_geometry(path, AGIPD_1M)
    region = "badp/min_fs = 0\nbadp/max_fs = 9\nbadp/min_ss = 128\nbadp/max_ss = 131\n"
    moved = f"p12a2/coffset = 0.001\n{region}badp/panel = p12a2\n"
    path.write_text("\ufeff" + (path.read_text() + moved).replace(" = ", equals))
    geometry, warnings = load_geometry(path, AGIPD_1M)
    assert warnings == ()
    np.testing.assert_array_equal(geometry.xyz[:2], right.xyz[:2])
    right.xyz[2, 12, 128:192] = 0.701
    np.testing.assert_allclose(geometry.xyz[2], right.xyz[2], atol=1e-12)
    assert geometry.bad.sum() == geometry.bad[12, 128:132, :10].sum() == 40


def test_lines_that_are_no_statements_are_named(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "p0a0/corner_x 5", *lines[1:], "; a comment", "clen"]))
    _, (warning,) = load_geometry(path, AGIPD_1M)
    assert warning == (
        f"{path}: line 2 is not used: 'p0a0/corner_x 5', expected NAME = VALUE (and 1 lines more)"
    )


def test_corner_and_basis_give_the_first_asic(path):
    geometry, _ = load_geometry(path, AGIPD_1M)
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


@pytest.mark.parametrize("given", [True, False])
def test_tiles_give_all_pixels(path, given):
    """Corner and basis of 128 tiles, from EXtra-geom, or from the pixels of an older file."""
    geometry, _ = load_geometry(path, AGIPD_1M)
    if not given:
        exact = geometry
        geometry = replace(geometry, tile_corners=None, tile_basis=None)
        np.testing.assert_allclose(geometry.tile_basis, exact.tile_basis, atol=1e-12)
    assert geometry.tile_corners.shape == (128, 3)
    assert geometry.tile_basis.shape == (128, 2, 3)
    i, j = np.mgrid[:64, :128] + 0.5
    slow, fast = np.moveaxis(geometry.tile_basis, 1, 0)[:, :, None, None]
    centres = geometry.tile_corners[:, None, None] + i[..., None] * slow + j[..., None] * fast
    right = np.moveaxis(geometry.xyz, 0, -1).reshape(128, 64, 128, 3)
    np.testing.assert_allclose(centres, right, atol=1e-11)
    np.testing.assert_allclose(geometry.tile_corners[::8], geometry.corner_position, atol=1e-12)
    # what one corner per module would be off by, in pixels
    whole = np.mgrid[:512, :128] + 0.5
    flat = geometry.corner_position[:, None, None] + np.einsum(
        "dij,mdc->mijc", whole, geometry.basis_vectors
    )
    off = np.linalg.norm(flat - np.moveaxis(geometry.xyz, 0, -1), axis=-1).max() / 200e-6
    assert off > 10


def test_distance_given(path):
    geometry, warnings = load_geometry(path, AGIPD_1M, 0.25)
    assert warnings == ()
    assert geometry.distance == 0.25
    np.testing.assert_allclose(geometry.xyz[2, 0, 0, 0], 0.254, atol=1e-9)


def test_nominal():
    geometry, warnings = load_geometry(None, AGIPD_1M, 0.5)
    assert len(warnings) == 1
    assert "nominal" in warnings[0]
    right = AGIPD_1MGeometry.example().get_pixel_positions()
    np.testing.assert_array_equal(geometry.xyz[0], right[..., 0])
    assert (geometry.xyz[2] == 0.5).all()


def test_nominal_without_distance():
    geometry, warnings = load_geometry(None, AGIPD_1M)
    assert len(warnings) == 2
    assert np.isnan(geometry.distance)
    assert np.isnan(geometry.xyz[2]).all()
    assert np.isfinite(geometry.xyz[:2]).all()
    assert np.isnan(geometry.corner_position[:, 2]).all()
    assert np.isfinite(geometry.basis_vectors).all()


@pytest.mark.slow
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
    geometry, warnings = load_geometry(path, AGIPD_1M)
    if distance is None:
        assert np.isnan(geometry.distance)
        assert len(warnings) == 1
        assert str(path) in warnings[0]
        assert np.isfinite(geometry.xyz[:2]).all()
    else:
        assert geometry.distance == pytest.approx(distance)
        assert warnings == ()
    assert load_geometry(path, AGIPD_1M, 0.3)[1] == ()


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
        load_geometry(path, AGIPD_1M)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("header", ["", "dim3 = fs\nmin_ss = 0\n"])
def test_two_panels_of_the_same_pixels(path, header):
    """A panel that somebody copied and moved: the last one counted, silently."""
    lines = path.read_text().splitlines()
    copied = [line.replace("p3a2/", "p3a2_old/") for line in lines if line.startswith("p3a2/")]
    assert len(copied) > 8
    path.write_text(header + "\n".join([*lines, *copied]))
    with pytest.raises(InputError, match="panels p3a2 and p3a2_old have the same pixels") as error:
        load_geometry(path, AGIPD_1M)
    assert str(path) in str(error.value)


def test_statements_of_panels():
    """As extra-geom's parser sorts them: a default is for panels that are named after it first."""
    text = """
        min_fs = 0
        max_fs = 127 ; a default
        a/min_ss = 0
        bada/min_fs = 5
        max_fs = 63
        b/min_ss = 64
        a/max_ss = 63
        b/min_fs = 1
        b/x/min_ss = 3
        bad_row/panel = a
    """
    assert geometry_file.panels(geometry_file.statements(text)) == {
        "a": {"min_fs": "0", "max_fs": "127", "min_ss": "0", "max_ss": "63"},
        "b": {"min_fs": "1", "max_fs": "63", "min_ss": "64", "x/min_ss": "3"},
    }


@pytest.mark.parametrize(
    ("statements", "same"),
    [
        ("min_ss = 0; min_fs = 0; a/dim1 = 3; b/dim1 = 3", True),
        ("a/dim1 = 3; b/dim1 = 3; min_ss = 0; min_fs = 0", False),
        ("min_fs = 0; a/min_ss = 64; b/min_ss = 64.0", True),
        ("min_fs = 0; a/min_ss = 64; b/min_ss = 128; b/x/min_ss = 64", False),
        ("min_fs = 0; a/min_ss = 64; bad/min_ss = 64; bad_b/min_fs = 0", False),
        ("min_fs = 0; min_ss = 0; a/dim1 = 3; b/dim1 = 4", False),
        ("min_fs = 0; a/min_ss = here; b/min_ss = here", False),
        ("min_fs = 0; a/min_ss = nan; b/min_ss = nan", False),
    ],
)
def test_panels_are_told_apart_by_their_first_pixels(tmp_path, statements, same):
    found = geometry_file.statements(statements.replace("; ", "\n"))
    with pytest.raises(InputError, match="a and b have the same") if same else nullcontext():
        geometry_file.require_different_panels(found, tmp_path)


def test_number_of_pixels_by_default(path):
    """It was looked at only where a panel has limits of its own."""
    text = re.sub(r"(?m)^p\w+/m(in|ax)_fs = .*\n", "", path.read_text())
    path.write_text(f"min_fs = 0\nmax_fs = 63\n{text}")
    warnings = load_geometry(path, AGIPD_1M)[1]
    words = "min_fs and max_fs of p0a0 and 127 more are not applied: found 64 pixels, expected 128"
    assert [warning for warning in warnings if words in warning] == list(warnings)


def test_whole_numbers_written_as_floats(path):
    right, _ = load_geometry(path, AGIPD_1M)
    region = "badp/min_fs = 0\nbadp/max_fs = 9\nbadp/min_ss = 128\nbadp/max_ss = 131.00\n"
    text = re.sub(r"(?m)((?:min|max)_[fs]s = \d+)$", r"\1.0", path.read_text() + region)
    assert text.count(".0\n") > 512
    path.write_text(f"{text}badp/panel = p12a2\n")
    geometry, warnings = load_geometry(path, AGIPD_1M)
    assert warnings == ()
    np.testing.assert_array_equal(geometry.xyz, right.xyz)
    assert geometry.bad.sum() == geometry.bad[12, 128:132, :10].sum() == 40
    rewrite(path, "p3a2/max_ss = 191.0", "p3a2/max_ss = 191.5")
    with pytest.raises(InputError, match=r"191\.5"):
        load_geometry(path, AGIPD_1M)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("p3a2/x/coffset = 1", "x/coffset is not used: no such statement is known"),
        ("p3a2/ = 1", "p3a2/ is not used: no such statement is known"),
        ("p3a2 /coffset = 1\np3a3 / coffset = 1", "'p3a2 /coffset' is not used: expected a name "),
        ("co ffset = 1", "'co ffset' is not used: expected a name without spaces"),
    ],
)
def test_names_that_the_parser_passes_over(path, lines, words):
    before, _ = load_geometry(path, AGIPD_1M)
    path.write_text(f"{path.read_text()}{lines}\n")
    after, (warning,) = load_geometry(path, AGIPD_1M)
    assert words in warning
    np.testing.assert_array_equal(after.xyz, before.xyz)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n\xff\xfe", b"no geometry\n"])
def test_no_geometry(tmp_path, content):
    path = tmp_path / "some.geom"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.geom"):
        load_geometry(path, AGIPD_1M)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.geom"):
        load_geometry(tmp_path / "nowhere.geom", AGIPD_1M)


# statements that say more than where panels are


@pytest.mark.parametrize(
    ("x", "y", "right"),
    [
        ("5.0 mm", "-3.0 mm", (5e-3, -3e-3)),
        ("0.005", "-3e-3 m", (5e-3, -3e-3)),
        ("1mm", ".002", (1e-3, 2e-3)),
    ],
)
def test_detector_shift(path, x, y, right):
    before, _ = load_geometry(path, AGIPD_1M)
    rewrite(path, "dim0 = %", f"dim0 = %\ndetector_shift_x = {x}\ndetector_shift_y = {y} ; by eye")
    after, warnings = load_geometry(path, AGIPD_1M)
    assert warnings == ()
    step = np.reshape([*right, 0], (3, 1, 1, 1))
    np.testing.assert_allclose(
        after.xyz - before.xyz, np.broadcast_to(step, after.xyz.shape), atol=1e-9
    )
    np.testing.assert_allclose(
        after.corner_position - before.corner_position, [[*right, 0]] * 16, atol=1e-9
    )
    assert "shifted by" in after.description


@pytest.mark.parametrize("value", ["/entry/shift", "5 cm", "1e9", "nan", "1e999"])
def test_shift_that_is_not_understood_is_named(path, value):
    before, _ = load_geometry(path, AGIPD_1M)
    rewrite(path, "dim0 = %", f"dim0 = %\ndetector_shift_x = {value}")
    after, (warning,) = load_geometry(path, AGIPD_1M)
    assert "detector_shift_x" in warning
    assert value in warning
    assert np.array_equal(after.xyz, before.xyz)


@pytest.mark.parametrize("energy", ["9000 eV", "9 keV", "9000.0", "/LCLS/photon_energy_eV"])
def test_photon_energy_in_any_unit(path, energy):
    rewrite(path, "photon_energy = 6000", f"photon_energy = {energy}")
    assert load_geometry(path, AGIPD_1M)[1] == ()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("badfs/min_fs = 5", "bad region badfs is not applied"),
        ("badp/panel = p99\nbadp/min_fs = 1\nbadp/max_fs = 2", "bad region badp is not applied"),
        ("Detector_shift_x = 5 mm", "expected detector_shift_x"),
        ("p3a2/detector_shift_y = 5 mm", "expected detector_shift_y, of all panels"),
    ],
)
@pytest.mark.filterwarnings("ignore:Discarding")
def test_regions_and_shifts_that_are_left_out_are_named(path, lines, words):
    before, _ = load_geometry(path, AGIPD_1M)
    path.write_text(f"{path.read_text()}{lines}\n")
    after, (warning,) = load_geometry(path, AGIPD_1M)
    assert words in warning
    assert after.bad is None
    assert np.array_equal(after.xyz, before.xyz)


def test_bad_regions(path):
    regions = "badfirst/panel = p3a2\nbadfirst/min_fs = 10\nbadfirst/max_fs = 20\n"
    regions += "badfirst/min_ss = 130\nbadfirst/max_ss = 131\n"
    regions += (
        "badbeam/min_x = -30\nbadbeam/max_x = 40.5\nbadbeam/min_y = -700\nbadbeam/max_y = 700\n"
    )
    path.write_text(path.read_text() + regions)
    geometry, warnings = load_geometry(path, AGIPD_1M)
    assert warnings == ()
    right = np.zeros((16, 512, 128), bool)
    right[3, 130:132, 10:21] = True
    x, y = geometry.xyz[:2] / 200e-6
    right |= (x >= -30) & (x <= 40.5) & (y >= -700) & (y <= 700)
    assert right.sum() > 1000
    np.testing.assert_array_equal(geometry.bad, right)
    assert f"{right.sum():,} pixels in bad regions" in geometry.description


@pytest.mark.parametrize(
    "line",
    [
        "mask = /entry/mask\nmask_good = 0x0\nmask_bad = 0xffff",
        "max_adu = 10000",
        "p0a0/no_index = 1",
        "saturation_map = /entry/saturation",
        "adu_per_photon = 3",
        "rail_direction = z",
        "clen_for_centering = 0.5",
        "mask1_data = /entry/mask",
        "p3a2/frobnicate = 7",
        "detector_shift_z = 5 mm",
    ],
)
def test_what_is_not_applied_is_named(path, line):
    path.write_text(path.read_text() + line + "\n")
    (warning,) = load_geometry(path, AGIPD_1M)[1]
    name = line.partition(" ")[0].rpartition("/")[2]
    assert f"{name} is not used" in warning


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("p3a2/res = 4000", "pixels of p3a2 have an area of 6.25e+04 µm²"),
        ("p3a2/max_fs = 500", "min_fs and max_fs of p3a2 are not applied: found 501 pixels"),
        (
            "badx/min_x = 9\nbadx/max_x = -9\nbadx/min_y = -9\nbadx/max_y = 9",
            "bad region badx has no pixels",
        ),
    ],
)
def test_panels_and_regions_that_are_odd_are_named(path, lines, words):
    path.write_text(path.read_text() + lines + "\n")
    assert any(words in warning for warning in load_geometry(path, AGIPD_1M)[1])


@pytest.mark.parametrize("corner", ["nan", "inf", "-1e6", "1e300"])
@pytest.mark.parametrize("axis", "xy")
def test_panels_that_are_nowhere(path, axis, corner):
    """NaN was found out by an array without rings, 1e6 pixels by its size."""
    text, n = re.subn(
        f"(?m)^p3a2/corner_{axis} = .*", f"p3a2/corner_{axis} = {corner}", path.read_text()
    )
    assert n == 1
    path.write_text(text)
    with pytest.raises(InputError, match=r"panel p3a2 has its corner at x = .* 10 m from the beam"):
        load_geometry(path, AGIPD_1M)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("^res = .*", "res = 500", "pixels of p0a0 and 127 more have an area of 4e+06 µm², those "
         "of an AGIPD-1M (16 modules of 8 panels) 4e+04 µm²: check res, fs and ss"),
        ("^p5a1/ss = .*", "p5a1/ss = +2x +0y", "pixels of p5a1 have an area of "),
        ("^p5a1/fs = .*", "p5a1/fs = +0.1x +0.0y", "pixels of p5a1 have an area of "),
    ],
)  # fmt: skip
def test_pixels_of_another_size_are_named(path, old, new, words):
    text, n = re.subn(f"(?m){old}", new, path.read_text())
    assert n == 1
    path.write_text(text)
    assert any(words in warning for warning in load_geometry(path, AGIPD_1M)[1])


def test_panels_that_lie_on_each_other(path):
    text = path.read_text()
    for axis in "xy":
        (corner,) = re.findall(f"(?m)^p3a3/corner_{axis} = (.*)", text)
        text = re.sub(f"(?m)^p3a2/corner_{axis} = .*", f"p3a2/corner_{axis} = {corner}", text)
    path.write_text(text)
    (warning,) = load_geometry(path, AGIPD_1M)[1]
    assert warning == f"{path}: panels p3a2 and p3a3 lie on each other"


def test_empty_lines_take_no_time(path):
    right, _ = load_geometry(path, AGIPD_1M)
    path.write_text("\n" * 200_000 + path.read_text())
    assert np.array_equal(load_geometry(path, AGIPD_1M)[0].xyz, right.xyz)


def test_not_text(path):
    path.write_bytes(bytes(range(256)) * 34)
    with pytest.raises(InputError, match="byte 128 is not text") as caught:
        load_geometry(path, AGIPD_1M)
    assert len(str(caught.value)) < 300


def test_a_geometry_without_end(path):
    with path.open("w") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="expected at most"):
        load_geometry(path, AGIPD_1M)
    with pytest.raises(InputError, match="geometry"):
        load_geometry(type(path)("/dev/zero"), AGIPD_1M)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_written_and_read_again(tmp_path, detector):
    """Pixels and tiles stay where they are, of every detector."""
    first, _ = load_geometry(None, detector, distance=0.7)
    path = tmp_path / "again.geom"
    path.write_bytes(crystfel_text(first, 2e-10))
    again, _ = load_geometry(path, detector)
    for name in ("xyz", "tile_corners", "tile_basis", "corner_position", "basis_vectors"):
        np.testing.assert_allclose(getattr(again, name), getattr(first, name), atol=1e-8)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.name)
@pytest.mark.parametrize("by", ["ss and fs", "x and y"])
def test_bad_region_of_one_panel(tmp_path, detector, by):
    """All of a panel, whatever the order of its detector's tiles; nothing of others."""
    path = tmp_path / "some.geom"
    example = getattr(extra_geom, detector.geometry).example
    some = "n_modules" in inspect.signature(example).parameters
    nominal = example(n_modules=detector.n_modules) if some else example()
    nominal.write_crystfel_geom(str(path), clen=0.7, photon_energy=6000)
    limits = {"ss and fs": ("ss", "fs"), "x and y": ("x", "y")}[by]
    lines = [f"badall/panel = p2a{len(nominal.modules[2]) - 1}"]
    for axis in limits:
        lines += [f"badall/min_{axis} = {0 if 's' in axis else -9999}", f"badall/max_{axis} = 9999"]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    bad = load_geometry(path, detector)[0].bad
    numbers = np.arange(np.prod(detector.frame_shape)).reshape(detector.frame_shape)[2]
    right = np.sort(nominal.split_tiles(numbers)[-1].ravel())
    np.testing.assert_array_equal(np.flatnonzero(bad), right)
