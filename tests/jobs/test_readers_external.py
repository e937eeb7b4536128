"""The readers themselves, on small files written by hand as the formats are documented."""

import h5py
import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry
from readers import (
    CXI_SIGNAL,
    FRAME_PIXELS,
    FRAME_SHAPE,
    assemble_cxi_with_extra_geom,
    check_cxi_has_layout_of_extra_data,
    check_cxi_rules,
    read_cxi_with_nexusformat,
    read_cxi_with_silx,
    read_emc,
    read_emc_with_dragonfly,
    write_flat_detector,
)

COUNTS = {0: [(0, 1), (77, 3), (FRAME_PIXELS - 1, 1)], 1: [], 2: [(5, 300)], 3: [(9, 1)]}


def sparse_frames():
    images = np.zeros((len(COUNTS), FRAME_PIXELS), np.int32)
    for row, pixels in COUNTS.items():
        for pixel, count in pixels:
            images[row, pixel] = count
    return images


def emc_bytes(images, header=()):
    numbers = [len(images), images.shape[1], 0, *header]
    numbers += [0] * (256 - len(numbers))
    ones = [np.flatnonzero(image == 1) for image in images]
    multi = [np.flatnonzero(image > 1) for image in images]
    count = [image[places] for image, places in zip(images, multi, strict=True)]
    parts = [numbers, [o.size for o in ones], [m.size for m in multi], *ones, *multi, *count]
    return np.concatenate(parts).astype("<i4").tobytes()


@pytest.fixture
def emc(tmp_path):
    path = tmp_path / "hits.emc"
    path.write_bytes(emc_bytes(sparse_frames()))
    return path


def test_read_emc(emc):
    content = read_emc(emc)
    assert content.num_pix == FRAME_PIXELS
    np.testing.assert_array_equal(
        [content.dense(row) for row in range(len(content))], sparse_frames()
    )


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        emc_bytes(sparse_frames())[:-4],
        emc_bytes(sparse_frames())[:-1],
        emc_bytes(sparse_frames()) + bytes(4),
        emc_bytes(sparse_frames(), header=[7]),
        emc_bytes(sparse_frames()[:0]),
    ],
)
def test_read_emc_refuses(emc, broken):
    emc.write_bytes(broken)
    with pytest.raises(AssertionError):
        read_emc(emc)


def test_read_emc_with_dragonfly(emc, tmp_path, capfd):
    pytest.importorskip("dragonfly")
    frames = list(read_emc_with_dragonfly(emc, tmp_path))
    np.testing.assert_array_equal(frames, sparse_frames())
    assert "arning" not in "".join(capfd.readouterr())


def test_dragonfly_and_another_detector(emc, tmp_path):
    pytest.importorskip("dragonfly")
    other = write_flat_detector(tmp_path / "other.h5", FRAME_PIXELS // 2)
    with pytest.raises(AssertionError):
        next(read_emc_with_dragonfly(emc, tmp_path, other))


@pytest.fixture
def cxi(tmp_path):
    """Two hits, as documented: `data_1` is a real group of soft links."""
    path = tmp_path / "hits.cxi"
    identifiers = np.array([b"p000001_r0050_t1_c0", b"p000001_r0050_t1_c3"])
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file["cxi_version"] = 160
        entry = file.create_group("entry_1")
        entry.attrs["NX_class"] = "NXentry"
        file.attrs["default"], entry.attrs["default"] = "entry_1", "data_1"
        entry["start_time"] = np.bytes_("2024-10-01T12:00:00+02:00")
        entry["process_1/command"] = np.bytes_("program 50")
        entry["process_1/version"] = np.bytes_("1.0")
        entry["process_1/date"] = np.bytes_("2024-10-02T12:00:00+02:00")
        entry["experiment_identifier"] = identifiers
        for name in ("trainId", "cellId", "pulseId"):
            entry[name] = np.arange(2)
            entry[name].attrs["axes"] = "experiment_identifier"
        detector = file.create_group("entry_1/instrument_1/detector_1")
        entry["instrument_1"].attrs["NX_class"] = "NXinstrument"
        detector.attrs["NX_class"] = "NXdetector"
        detector["experiment_identifier"] = h5py.SoftLink("/entry_1/experiment_identifier")
        detector["module_identifier"] = np.array([b"%d" % m for m in range(16)])
        detector["corner_position"] = np.zeros((16, 3))
        detector["basis_vectors"] = np.zeros((16, 2, 3))
        for name, dtype in (("data", np.uint8), ("mask", np.uint32)):
            data = detector.create_dataset(name, (2, *FRAME_SHAPE), dtype, compression="gzip")
            data.attrs["axes"] = "experiment_identifier:module_identifier:y:x"
        detector["data"][1, 2, 3, 4] = 5
        shown = entry.create_group("data_1")
        shown.attrs["NX_class"] = "NXdata"
        shown.attrs["signal"] = "data"
        shown.attrs["axes"] = [".", ".", ".", "."]
        for name in ("data", "experiment_identifier", "module_identifier"):
            shown[name] = h5py.SoftLink(f"/entry_1/instrument_1/detector_1/{name}")
    return path


def right_frame():
    frame = np.zeros(FRAME_SHAPE, np.uint8)
    frame[2, 3, 4] = 5
    return frame


@pytest.mark.parametrize("read", [read_cxi_with_silx, read_cxi_with_nexusformat])
def test_cxi_readers(cxi, read):
    shape, frame = read(cxi, row=1)
    assert shape == (2, *FRAME_SHAPE)
    np.testing.assert_array_equal(frame, right_frame())


def test_extra_geom_assembles(cxi, tmp_path):
    geom = tmp_path / "agipd.geom"
    AGIPD_1MGeometry.example().write_crystfel_geom(
        str(geom), data_path=CXI_SIGNAL, adu_per_ev=1, clen=0.7, photon_energy=6000
    )
    assert np.nansum(assemble_cxi_with_extra_geom(cxi, geom, row=1)) == 5


def test_layout_of_extra_data(cxi, tmp_path):
    check_cxi_has_layout_of_extra_data(cxi, tmp_path)


def test_cxi_rules(cxi):
    check_cxi_rules(cxi)


@pytest.mark.parametrize(
    ("where", "axes"),
    [
        (CXI_SIGNAL, np.bytes_("experiment_identifier:module_identifier:y:x")),
        (CXI_SIGNAL, ["experiment_identifier:module_identifier:y:x"]),
        (CXI_SIGNAL, "experiment_identifier:module_identifier:y"),
        (CXI_SIGNAL, "experiment_identifier:pulse:y:x"),
        ("/entry_1/trainId", "module_identifier"),
    ],
)
def test_cxi_rules_are_checked(cxi, where, axes):
    with h5py.File(cxi, "r+") as file:
        file[where].attrs["axes"] = axes
    with pytest.raises(AssertionError):
        check_cxi_rules(cxi)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cxi_version", 150),
        ("entry_1/process_1/date", np.bytes_("2024-10-02T12:00:00")),
        ("entry_1/process_1/command", np.bytes_("")),
        ("entry_1/instrument_1/detector_1/mask", np.full((2, *FRAME_SHAPE), 0x10, np.uint32)),
        ("entry_1/instrument_1/detector_1/mask", np.zeros((2, *FRAME_SHAPE), np.uint8)),
        ("entry_3", np.zeros(1)),
    ],
)
def test_cxi_rules_on_values_are_checked(cxi, name, value):
    with h5py.File(cxi, "r+") as file:
        if name in file:
            del file[name]
        file[name] = value
    with pytest.raises((AssertionError, ValueError)):
        check_cxi_rules(cxi)


def test_silx_refuses_axes_that_are_not_there(cxi):
    with h5py.File(cxi, "r+") as file:
        file["entry_1/data_1"].attrs["axes"] = ["a", "b", "c", "d"]
    with pytest.raises(AssertionError):
        read_cxi_with_silx(cxi)
