"""Which detector a source, a file or a CXI is of."""

import numpy as np
import pytest
from otherdetectors import of_extra_data

from xfelmpi.calibration.geometry import load_geometry, nominal_geometry
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.config.validation import validate_for
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.detectors.agipd import AGIPD_1M, AGIPD_500K
from xfelmpi.detectors.dssc import DSSC_1M
from xfelmpi.detectors.jungfrau import JUNGFRAU_4M
from xfelmpi.detectors.known import (
    DETECTORS,
    DEVICES,
    detector_of_modules,
    detectors_of,
    find_source,
    module_of_file,
    names_another,
)
from xfelmpi.detectors.lpd import LPD_1M
from xfelmpi.report.layout import lay_out
from xfelmpi.simulate import SimulationOptions
from xfelmpi.workflows.merge.hits import _check_geometry

EXAMPLES = {
    "SPB_DET_AGIPD1M-1": AGIPD_1M,
    "MID_DET_AGIPD1M-1": AGIPD_1M,
    "HED_DET_AGIPD500K2G": AGIPD_500K,
    "SCS_DET_DSSC1M-1": DSSC_1M,
    "SQS_DET_DSSC1M-1": DSSC_1M,
    "FXE_DET_LPD1M-1": LPD_1M,
}

EACH = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.name)


@pytest.mark.parametrize(("device", "detector"), EXAMPLES.items())
@pytest.mark.parametrize("group", ["CORR/{}CH0:output", "DET/{}CH0:xtdf"])
def test_sources(device, detector, group):
    assert detectors_of(device) == (detector,)
    for module in (0, detector.n_modules - 1):
        assert find_source(f"{device}/{group.format(module)}") == (device, module)
    assert find_source(f"{device}/{group.format(detector.n_modules)}") is None


@pytest.mark.parametrize(
    "source", ["SPB_XTD9_XGM/DOOCS/MAIN:output", "SPB_DET_AGIPD1M-1/DET/CONTROL", ""]
)
def test_sources_of_others(source):
    assert find_source(source) is None


@pytest.mark.parametrize(
    ("source", "device", "another"),
    [
        ("SPB_IRU_AGIPD1M1/REDU/LITFRM", "SPB_IRDA_JF4M", True),
        ("SPB_IRU_AGIPD1M1/REDU/LITFRM", "SPB_DET_AGIPD1M-1", False),
        ("SPB_IRU_AGIPD1M/MOTOR/Q1M1", "SPB_DET_AGIPD1M-1", False),
        ("SPB_IRU_DET/REDU/LITFRM", "SPB_IRDA_JF4M", False),
        ("SPB_IRU_AGIPD1M1/REDU/LITFRM", "", False),
    ],
)
def test_sources_of_the_beamline_for_another_detector(source, device, another):
    """Both detectors of SPB/SFX may run: the settings of one say nothing of the other's frames."""
    assert names_another(source, device) is another


@EACH
def test_as_extra_data_has_it(detector):
    theirs = of_extra_data(detector)
    # a JUNGFRAU's is that of the run
    assert theirs.n_modules in (0, detector.n_modules)
    assert theirs.module_shape == detector.module_shape
    assert getattr(theirs, "_modnos_start_at", 0) == detector.first_module
    assert theirs._main_data_key.replace(".", "/") == detector.datasets.data
    assert theirs._mask_data_key.replace(".", "/") == detector.datasets.mask


@pytest.mark.parametrize(
    "source",
    [
        "DET/JNGFR{:02}:daqOutput",
        "CORR/JNGFR{:02}:output",
        "CORR/JNGFR{:02}:daqOutput",
        "DET/MODULE_{}:daqOutput",
        "DET/RECEIVER-{}:daqOutput",
    ],
)
def test_sources_that_count_from_1(source):
    assert detectors_of("SPB_IRDA_JF4M") == (JUNGFRAU_4M,)
    found = [find_source(f"SPB_IRDA_JF4M/{source.format(number)}") for number in range(10)]
    assert found == [None, *(("SPB_IRDA_JF4M", module) for module in range(8)), None]


@EACH
def test_as_extra_geom_has_it(detector):
    theirs = nominal_geometry(detector)
    assert theirs.expected_data_shape == detector.frame_shape
    panels = sum(len(module) for module in theirs.modules)
    assert panels == len(detector.tile_names)
    tile = theirs.modules[0][0]
    assert (tile.ss_pixels, tile.fs_pixels) == detector.tile_shape
    steps = np.linalg.norm([tile.ss_vec, tile.fs_vec], axis=1)
    np.testing.assert_allclose(steps, detector.pixel_size, rtol=1e-6)
    assert np.isclose(detector.pixel_area, np.prod(steps))


@EACH
def test_simulated_sources_are_of_the_detector(detector):
    for source in detector.sources:
        names = [f"{DEVICES[detector.name]}/{source}".format(n) for n in range(20)]
        found = [find_source(name) for name in names]
        modules = [module for place in found if place for module in place[1:]]
        assert modules == list(range(detector.n_modules))


@EACH
def test_modules_tell_the_detector(detector):
    assert detector_of_modules(list(detector.module_names)) is detector


def test_modules_of_none():
    with pytest.raises(ValueError, match="EIGER00 are of no known detector"):
        detector_of_modules(["EIGER00"])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("CORR-R0050-AGIPD07-S00000.h5", 7),
        ("RAW-R12345-DSSC15-S00012.h5", 15),
        ("CORR-R0050-JNGFR01-S00000.h5", 0),
        ("RAW-R0050-AGIPD500K2G00-S00000.h5", -1),
        ("RAW-R0050-DA01-S00000.h5", -1),
        ("CORR-R0050-LPD03-S00000.h5.part", -1),
    ],
)
def test_names_of_files(name, module):
    assert module_of_file(name) == module


@pytest.mark.parametrize(
    ("detector", "options", "message"),
    [
        (AGIPD_1M, {"exclude_cells": (3, 352, 799)}, "found 352, 799, expected 0 … 351 of the AG"),
        (AGIPD_1M, {"first_cell": 352}, "0 … 351"),
        (AGIPD_500K, {"hit_modules": (3, 8)}, "found 8, expected 0 … 7 of the AGIPD-500K"),
        (LPD_1M, {"bin": 64}, "divisor of 32"),
    ],
)
def test_options_that_the_detector_has_not(tmp_path, detector, options, message):
    config = Config(run=1, prefix=tmp_path, **options).part(RunSettings)
    with pytest.raises(UsageError, match=message):
        validate_for(config, detector)
    others = [d for d in DETECTORS if d is not detector]
    assert any(validate_for(config, other) is None for other in others if fits(config, other))


def fits(config, detector) -> bool:
    cells = (*config.exclude_cells, config.first_cell)
    modules = config.hit_modules or (0,)
    within = max(cells) < detector.max_cells and max(modules) < detector.n_modules
    return within and min(detector.asic_shape) % config.bin == 0


def test_simulated_at_no_instrument(tmp_path):
    with pytest.raises(UsageError, match="XYZ_DET_AGIPD1M-1: expected one at SPB"):
        SimulationOptions(tmp_path, detector="XYZ_DET_AGIPD1M-1")


def test_hits_of_other_detectors_are_not_merged():
    first, other = (load_geometry(None, detector, 0.7)[0] for detector in (AGIPD_1M, DSSC_1M))
    with pytest.raises(InputError, match=r"hits of the DSSC-1M.* of the AGIPD-1M"):
        _check_geometry(first, other)


@EACH
def test_modules_at_the_same_place_have_a_picture(detector):
    """As absent ones may have in a geometry: the picture is no larger than the detector."""
    xyz = load_geometry(None, detector, 0.7)[0].xyz
    xyz[:, 1] = xyz[:, 0]
    ((raster, _),) = lay_out(xyz.reshape(3, -1), detector, min(detector.pixel_size), 1)
    assert max(raster.shape) < 4000
