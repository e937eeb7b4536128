"""The description of a detector can tell what the facility's detectors are."""

import pickle

import numpy as np
import pytest
from otherdetectors import WIDE

from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.dssc import DSSC_1M
from xfelmpi.detectors.known import DETECTORS
from xfelmpi.detectors.module_bits import bits_of, modules_of

MOST_MODULES = 16


def test_agipd_1m():
    d = AGIPD_1M
    assert d.frame_shape == (16, 512, 128)
    assert (d.module_pixels, d.frame_pixels, d.module_bytes) == (65536, 1048576, 8192)
    assert d.pixel_area == 200e-6**2
    assert d.module_names[0] == "AGIPD00"
    assert d.module_names[-1] == "AGIPD15"


@pytest.mark.parametrize(
    ("name", "shape", "cells", "modules"),
    [
        ("AGIPD-500K", (8, 512, 128), 352, ("AGIPD00", "AGIPD07")),
        ("DSSC-1M", (16, 128, 512), 800, ("DSSC00", "DSSC15")),
        ("LPD-1M", (16, 256, 256), 512, ("LPD00", "LPD15")),
        ("JUNGFRAU-4M", (8, 512, 1024), 16, ("JNGFR01", "JNGFR08")),
    ],
)
def test_other_detectors(name, shape, cells, modules):
    (d,) = (detector for detector in DETECTORS if detector.name == name)
    assert d.frame_shape == shape
    assert d.frame_pixels == np.prod(shape)
    assert d.max_cells == cells
    assert (d.module_names[0], d.module_names[-1]) == modules
    assert d.pixel_area == np.prod(d.pixel_size)


def test_hexagons_take_the_area_of_their_cell():
    # regular ones, 236 µm from edge to edge
    assert DSSC_1M.pixel_area == pytest.approx(np.sqrt(3) / 2 * 236e-6**2)


def test_most_modules_have_a_bit_each_in_the_sums():
    described = {**vars(AGIPD_1M), "n_modules": MOST_MODULES}
    names = Detector.__dataclass_fields__
    d = Detector(**{name: described[name] for name in names})
    assert len(d.module_names) == MOST_MODULES
    sums, one = FrameSums.zeros(1), np.zeros(1, int)
    for m in range(MOST_MODULES):
        sums.add_module(m, one, FrameSums.zeros(1), one == 0)
    assert modules_of(sums.modules, MOST_MODULES).all()


@pytest.mark.parametrize("d", [*DETECTORS, WIDE], ids=lambda d: d.name)
def test_description_travels_between_processes(d):
    there = pickle.loads(pickle.dumps(d))
    assert there == d
    assert hash(there) == hash(d)
    assert np.array_equal(there.pixel_area, d.pixel_area)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"asic_shape": (64, 60)}, "do not fill"),
        ({"max_cells": 65537}, "65537 memory cells"),
        ({"max_cells": 0}, "0 memory cells"),
        ({"n_modules": MOST_MODULES + 1}, "17 modules, expected 1 … 16"),
    ],
)
def test_description_that_cannot_be(wrong, message):
    names = Detector.__dataclass_fields__
    with pytest.raises(ValueError, match=message):
        Detector(**{**{name: vars(AGIPD_1M)[name] for name in names}, **wrong})


def test_bit_field_of_modules():
    there = np.array([[True, False, True], [False, False, False]])
    assert bits_of(there).tolist() == [5, 0]
    assert modules_of(5, 3).tolist() == [True, False, True]
    assert modules_of(0, 8).tolist() == [False] * 8
