"""Photons are found, and laid out, as numpy and EXtra-geom do."""

import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry
from readers import FRAME_SHAPE

from xfelmpi.api import html
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.report import assembly


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [0, 8, 13, 4096])
def test_lit_pixels(dtype, size):
    photons = np.random.default_rng(size).poisson(0.1, size).astype(dtype)
    np.testing.assert_array_equal(assembly.lit_pixels(photons), np.flatnonzero(photons))


def test_layout_is_that_of_extra_geom():
    quadrants = [(-525, 625), (-550, -10), (520, -160), (542.5, 475)]
    geometry = AGIPD_1MGeometry.from_quad_positions(quadrants)
    assembler = assembly.Assembler(np.moveaxis(geometry.get_pixel_positions(), -1, 0), AGIPD_1M)
    rng = np.random.default_rng(1)
    photons = rng.poisson(0.01, FRAME_SHAPE).astype(np.uint8)
    good = rng.random(FRAME_SHAPE) > 0.1
    values = np.where(good, photons, np.nan).astype(np.float32)
    expected, _ = geometry.position_modules(values)
    np.testing.assert_array_equal(assembler.image(values), expected)
    np.testing.assert_array_equal(assembler.photons(photons, good, 0), expected)
    assert assembler.shape == expected.shape
    # empty images are kept for some masks only
    for number in range(1, 20):
        assembler.photons(photons, good, number)
    assert len(assembler._templates) == assembly._MOST_TEMPLATES


def test_names_are_no_markup():
    assert "<b>" not in html.block("<b>", "") + html.table([("<b>",)])
