"""Our output files, opened as their users open them: with numpy alone, and with real readers.

Every function takes paths, asserts what makes a file valid for that reader, and returns content.
Nothing of xfelmpi is imported: these readers must not share its mistakes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

FRAME_SHAPE = (16, 512, 128)
FRAME_PIXELS = 16 * 512 * 128

CXI_SIGNAL = "/entry_1/instrument_1/detector_1/data"
_UNITS = {"Pa", "m", "m2", "J", "photons", "photons/um2", "rad", "deg"}
_MASK_BITS = 1 | 2 | 4 | 8 | 0x80 | 0x200 | 0x400
"""Invalid, saturated, hot, dead, bad, missing, noisy."""
_IMPLICIT_AXES = {"y", "x", "coordinate", "dimension", "dot_product", "unit_cell"}


@dataclass(frozen=True)
class Emc:
    """A sparse EMC file.

    Parameters
    ----------
    num_pix : int
        Pixels of a frame.
    frames : list of (ndarray, ndarray, ndarray)
        ``place_ones``, ``place_multi``, ``count_multi`` of every frame, int32.
    """

    num_pix: int
    frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    def __len__(self):
        return len(self.frames)

    def dense(self, row: int) -> np.ndarray:
        """Return one frame, int32 (num_pix,)."""
        frame = np.zeros(self.num_pix, np.int32)
        ones, multi, count = self.frames[row]
        frame[ones] = 1
        frame[multi] = count
        return frame


def read_emc(path: Path) -> Emc:
    """Read a binary sparse EMC file with numpy, and check every number in it."""
    raw = Path(path).read_bytes()
    assert len(raw) % 4 == 0, f"{len(raw)} bytes are no int32 numbers"
    numbers = np.frombuffer(raw, "<i4")
    assert numbers.size > 256, "no frame after the header: Dragonfly crashes on such a file"
    n, num_pix, kind = numbers[:3].tolist()
    assert n > 0, "no frames: Dragonfly crashes on such a file"
    assert kind == 0, f"type {kind}, expected 0 (sparse)"
    assert not numbers[3:256].any(), "header is not zero after the type"
    ones, multi = numbers[256 : 256 + n], numbers[256 + n : 256 + 2 * n]
    assert (ones >= 0).all()
    assert (multi >= 0).all()
    sizes = [ones.sum(dtype=np.int64), *[multi.sum(dtype=np.int64)] * 2]
    start = 256 + 2 * n
    assert numbers.size == start + sum(sizes), "length does not fit the counts"
    place_ones, place_multi, count_multi = np.split(numbers[start:], np.cumsum(sizes)[:-1])
    frames = list(
        zip(
            np.split(place_ones, np.cumsum(ones, dtype=np.int64)[:-1]),
            np.split(place_multi, np.cumsum(multi, dtype=np.int64)[:-1]),
            np.split(count_multi, np.cumsum(multi, dtype=np.int64)[:-1]),
            strict=True,
        )
    )
    for one, many, count in frames:
        places = np.concatenate([one, many])
        assert np.unique(places).size == places.size, "a pixel stands twice in a frame"
        assert not places.size or (places.min() >= 0 and places.max() < num_pix)
        assert (count > 1).all(), "a count of multi-photon pixels below 2"
    return Emc(num_pix, frames)


def write_flat_detector(path: Path, num_pix: int = FRAME_PIXELS) -> Path:
    """Write a Dragonfly detector file: a flat detector, all pixels good, rows of 128."""
    row, column = np.divmod(np.arange(num_pix), 128)
    x, y, distance = row - row.mean(), column - column.mean(), 1e4
    length = np.sqrt(x**2 + y**2 + distance**2)
    with h5py.File(path, "w") as file:
        file["qx"] = x * distance / length
        file["qy"] = y * distance / length
        file["qz"] = distance * (distance / length - 1)
        file["corr"] = np.ones(num_pix)
        file["mask"] = np.zeros(num_pix, np.uint8)
        file["detd"] = distance
        file["ewald_rad"] = distance
    return path


def read_emc_with_dragonfly(
    emc_path: Path, tmp_path: Path, det_path: Path | None = None
) -> Iterator[np.ndarray]:
    """Read an EMC file with Dragonfly's own readers, the one for viewing and the one in C.

    Parameters
    ----------
    emc_path : Path
        The file.
    tmp_path : Path
        Where to write a detector file if there is none.
    det_path : Path, optional
        The detector file that belongs to the EMC file.

    Yields
    ------
    ndarray, int32 (num_pix,)
        Frame by frame, in the file's order.
    """
    from dragonfly import CDataset, Detector, EMCReader

    if det_path is None:
        det_path = write_flat_detector(tmp_path / "flat_det.h5")
    # Paths must be str: the C side encodes them.
    detector = Detector(str(det_path))
    reader = EMCReader([str(emc_path)], detector)
    loaded = CDataset(str(emc_path), detector)
    # A mismatch is but a warning there, and a crash later.
    assert reader.flist[0]["num_pix"] == loaded.num_pix == detector.num_pix
    assert loaded.num_data == reader.num_frames
    assert loaded.ftype == "sparse"
    ones, multi = loaded.ones, loaded.multi
    for row in range(reader.num_frames):
        place_ones, place_multi, count_multi = reader.get_frame(row, raw=True, sparse=True)
        start, end = int(ones[:row].sum()), int(ones[: row + 1].sum())
        np.testing.assert_array_equal(loaded.place_ones[start:end], place_ones)
        start, end = int(multi[:row].sum()), int(multi[: row + 1].sum())
        np.testing.assert_array_equal(loaded.place_multi[start:end], place_multi)
        np.testing.assert_array_equal(loaded.count_multi[start:end], count_multi)
        yield reader.get_frame(row, raw=True)


def read_cxi_with_silx(
    path: Path, row: int = 0, entry: str = "entry_1"
) -> tuple[tuple[int, ...], np.ndarray]:
    """Find the data to plot as silx does; return their shape and one frame."""
    import silx.io
    from silx.io import nxdata

    with silx.io.open(str(path)) as root:
        data = nxdata.NXdata(root[f"{entry}/data_1"])
        assert data.is_valid, data.issues
        assert data.signal_dataset_name == "data"
        # what is shown when the file, or an entry of it, is opened
        for opened, first in ((root, "entry_1"), (root[entry], entry)):
            default = nxdata.get_default(opened)
            assert default.group.name == f"/{first}/data_1"
        return data.signal.shape, data.signal[row]


def read_cxi_with_nexusformat(
    path: Path, row: int = 0, entry: str = "entry_1"
) -> tuple[tuple[int, ...], np.ndarray]:
    """Find the data to plot as nexusformat (NeXpy) does; return their shape and one frame."""
    from nexusformat.nexus import NXdata, NXentry, nxload

    with nxload(str(path), "r") as root:
        assert isinstance(root[entry], NXentry), type(root[entry])
        group = root[f"{entry}/data_1"]
        assert isinstance(group, NXdata), type(group)
        assert root[entry].plottable_data.nxpath == group.nxpath
        assert root.plottable_data.nxpath == "/entry_1/data_1"
        signal = group.nxsignal
        assert signal is not None, "nexusformat finds no signal"
        return tuple(signal.shape), np.asarray(signal[row].nxvalue)


def assemble_cxi_with_extra_geom(
    path: Path, geom_path: Path, row: int = 0, of_detector: str = "AGIPD_1MGeometry"
) -> np.ndarray:
    """Assemble one frame with the CrystFEL geometry, at the place extra-geom's files name."""
    import extra_geom

    geometry = getattr(extra_geom, of_detector).from_crystfel_geom(str(geom_path))
    assert geometry.metadata["crystfel"]["data"] == CXI_SIGNAL
    with h5py.File(path, "r") as file:
        image, _ = geometry.position_modules(file[CXI_SIGNAL][row].astype(np.float32))
    return image


def check_cxi_has_layout_of_extra_data(path: Path, tmp_path: Path) -> None:
    """Assert that all that EXtra-data's own CXI files have (but gain) stands at the same place.

    EXtra-data writes CXI files and reads none; users' scripts read its files.
    """
    from extra_data.components import AGIPD1M
    from extra_data.tests.make_examples import make_modern_spb_proc_run
    from extradata import RunDirectory

    run = tmp_path / "modern_proc_run"
    run.mkdir()
    make_modern_spb_proc_run(str(run))
    theirs = tmp_path / "extra_data.cxi"
    AGIPD1M(RunDirectory(str(run))).write_virtual_cxi(str(theirs))
    with h5py.File(theirs, "r") as reference, h5py.File(path, "r") as ours:
        names: list[str] = ["entry_1/data_1/data", "entry_1/data_1/experiment_identifier"]
        reference.visit(names.append)
        missing = [name for name in names if name not in ours and not name.endswith("gain")]
        assert not missing, missing
        assert reference[CXI_SIGNAL].shape[1:] == ours[CXI_SIGNAL].shape[1:]


def check_cxi_rules(path: Path) -> None:
    """Assert the rules of CXI 1.6: those that its validator checks, units, times and mask bits."""
    with h5py.File(path, "r") as file:
        version = file["cxi_version"]
        assert version.shape == ()
        assert version.dtype.kind in "iu"
        assert version[()] == 160
        entries = sorted(set(file) - {"cxi_version"})
        assert entries == [f"entry_{i}" for i in range(1, len(entries) + 1)]
        for name in entries:
            _check_entry(file[name])
        for group in _groups(file):
            for name, item in group.items():
                if isinstance(item, h5py.Dataset):
                    if "axes" in item.attrs:
                        _check_axes(group, name)
                    assert item.attrs.get("units", "photons") in _UNITS, f"{group.name}/{name}"


def _check_entry(entry: h5py.Group) -> None:
    assert "data" in entry["data_1"]
    detector = entry["instrument_1/detector_1"]
    modules = len(detector["module_identifier"])
    for name in ("corner_position", "basis_vectors"):
        assert detector[name].shape[0] == modules, name
    assert detector["mask"].dtype == np.uint32
    assert detector["mask"].shape == detector["data"].shape
    for row in range(len(detector["mask"])):
        assert not np.bitwise_or.reduce(detector["mask"][row], axis=None) & ~np.uint32(_MASK_BITS)
    process = entry["process_1"]
    assert all(process[name][()] for name in ("command", "version"))
    for time in (entry["start_time"], process["date"]):
        assert datetime.fromisoformat(time[()].decode()).tzinfo is not None, time.name


def _groups(group: h5py.Group) -> Iterator[h5py.Group]:
    """Yield a group and all below it, through soft links as well, as a user would walk."""
    yield group
    for item in group.values():
        if isinstance(item, h5py.Group):
            yield from _groups(item)


def _check_axes(group: h5py.Group, name: str) -> None:
    dataset = group[name]
    axes = dataset.attrs["axes"]
    where = f"{group.name}/{name}"
    assert isinstance(axes, str), f"{where}: axes is a {type(axes)}, expected a scalar str"
    names = axes.split(":")
    assert len(names) == dataset.ndim, f"{where}: {axes} for {dataset.ndim} dimensions"
    for axis, size in zip(names, dataset.shape, strict=True):
        if axis not in _IMPLICIT_AXES:
            assert axis in group, f"{where}: axis {axis} is not in {group.name}"
            assert group[axis].shape == (size,), f"{where}: {axis} is {group[axis].shape}"
