"""``saved_hits/rRRRR_hits.cxi``: hits as dense photon frames, CXI 1.6 (Maia, Nat. Meth. 2012)."""

import h5py
import numpy as np

from xfelmpi._kernels._deflate import compress_sparse
from xfelmpi.analysis.radial_rings import RadialRings
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.io.chunk_writer import ChunkAppender
from xfelmpi.io.parallel_hdf5 import ParallelFile, fixed_length
from xfelmpi.mpi import exscan_and_total
from xfelmpi.output.cxi.mask_writer import MaskDeduplicator
from xfelmpi.output.cxi.profile_writer import write_profiles
from xfelmpi.output.hit_columns import DETECTOR, INSTRUMENT, SOURCE
from xfelmpi.output.hit_writer import FrameColumn, FrameSet, HitHeader

_GROUPS = {
    "": "NXentry",
    "process_1": "NXprocess",
    "sample_1": "NXsample",
    INSTRUMENT: "NXinstrument",
    SOURCE: "NXsource",
    DETECTOR: "NXdetector",
}
_AXES = "experiment_identifier"
_FRAME_AXES = "experiment_identifier:module_identifier:y:x"

_BACKGROUND, _BACKGROUND_CELL = f"{DETECTOR}/background", f"{DETECTOR}/background_cell"


class CxiFile:
    """A CXI file with one or more entries, each with frames of its own; all methods collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name after `close`.
    attributes : dict
        Root attributes.
    masks : Masks
    modules_in_run : int
        Bit field of the modules that the run has; others are missing in every frame.
    detector : Detector
    """

    def __init__(
        self, comm, path, attributes: dict, masks: Masks, modules_in_run: int, detector: Detector
    ):
        self._comm = comm
        self._path = path
        self._attributes = attributes
        self._masks = (masks, modules_in_run)
        self._detector = detector
        self._file = ParallelFile(comm, path, {**attributes, "default": "entry_1"})
        self._entries: list[CxiEntry] = []

    def entry(self, title: str, columns: list[FrameColumn], count_dtype) -> "CxiEntry":
        """Add the next entry.

        Parameters
        ----------
        title : str
            What its frames are.
        columns : list of FrameColumn
            Everything with one value per frame, for this rank's frames.
        count_dtype : numpy.dtype
            u1 or u2, the same on all ranks.
        """
        name = f"entry_{len(self._entries) + 1}"
        n_pixels = self._detector.frame_pixels
        new = CxiEntry(self._comm, self._file, name, columns, count_dtype, n_pixels)
        self._file.store(f"{name}/title", title)
        self._entries.append(new)
        return new

    def begin_frames(self) -> None:
        """Begin with the frames; all entries have been added."""
        self._file.close()
        self._packed = ChunkAppender(self._comm, self._path, self._detector.frame_shape)
        masks = MaskDeduplicator(self._comm, self._packed, *self._masks)
        for entry in self._entries:
            entry.begin(self._packed, masks)

    def close(self, header: HitHeader | None) -> None:
        """Write what stands once in the file, given on rank 0, and close it."""
        self._packed.close(lambda file: self._fill(file, header))

    def _fill(self, file: h5py.File, header: HitHeader) -> None:
        file["cxi_version"] = 160
        first, *others = (entry.name for entry in self._entries)
        for name, value, attributes in _single_values(header, self._attributes, self._detector):
            if name == _BACKGROUND and header.cells:
                _write_backgrounds(file[first], header)
            else:
                file[f"{first}/{name}"] = fixed_length(value)
                file[f"{first}/{name}"].attrs.update(attributes)
            for other in others:
                file[f"{other}/{name}"] = h5py.SoftLink(f"/{first}/{name}")
        for other in others if header.cells else ():
            file[f"{other}/{_BACKGROUND_CELL}"] = h5py.SoftLink(f"/{first}/{_BACKGROUND_CELL}")


class CxiEntry:
    """One entry of the file, whose frames are written block by block; made by `CxiFile.entry`.

    Parameters
    ----------
    comm : Intracomm
    file : ParallelFile
    name : str
    columns : list of FrameColumn
    count_dtype : numpy.dtype
    n_pixels : int
        Of a frame.
    """

    def __init__(self, comm, file: ParallelFile, name, columns, count_dtype, n_pixels: int):
        self.name = name
        self._n_pixels = n_pixels
        self._file = file
        self._dtype = np.dtype(count_dtype)
        self._next, self._n_frames = exscan_and_total(comm, len(columns[0][1]))
        for group, nx_class in _GROUPS.items():
            file.group(f"{name}/{group}", NX_class=nx_class)
        rows = [(f"{name}/{path}", c, {"axes": _AXES, **more}) for path, c, more in columns]
        file.columns(self._next, self._n_frames, rows)
        self._link_data({path.rpartition("/")[0] for path, _, _ in columns})
        for path, _, _ in columns:
            # where other programs of the field look for them
            if path in (f"{DETECTOR}/background_weighting", f"{DETECTOR}/background_index"):
                file.link(f"{name}/{path.rpartition('/')[2]}", f"/{name}/{path}")

    def _link_data(self, groups: set[str]) -> None:
        name, file = self.name, self._file
        file.group(name, default="data_1")
        # a real group with '.' for axes is what silx and nexusformat both read
        file.group(f"{name}/data_1", NX_class="NXdata", signal="data", axes=[".", ".", ".", "."])
        for dataset in ("data", "module_identifier"):
            file.link(f"{name}/data_1/{dataset}", f"/{name}/{DETECTOR}/{dataset}")
        # CXI wants every dataset that `axes` names in the same group
        for group in sorted(groups - set(_GROUPS)):
            file.group(f"{name}/{group}", NX_class="NXcollection")
        for group in sorted({"data_1", *groups} - {""}):
            file.link(f"{name}/{group}/{_AXES}", f"/{name}/{_AXES}")

    def write_profiles(self, frames: FrameSet, rings: RadialRings) -> None:
        """Write the radial profiles of all its frames; collective, before `begin`."""
        write_profiles(self._file, self.name, self._next, frames, rings)

    def begin(self, packed: ChunkAppender, masks: MaskDeduplicator) -> None:
        """Assign the output positions of the frames; collective."""
        self._packed, self._masks = packed, masks
        detector, n, axes = f"{self.name}/{DETECTOR}", self._n_frames, _FRAME_AXES
        self._first_frame = packed.dataset(
            f"{detector}/data", n, self._dtype, axes=axes, units="photons"
        )
        self._first_mask = packed.dataset(f"{detector}/mask", n, np.uint32, axes=axes)

    def write(self, frames: SparseFrames, cell_id: np.ndarray) -> None:
        """Append a block of this rank's frames, possibly none, given their cells; collective."""
        n = len(frames)
        first = self._first_frame + self._next
        numbers, chunks = self._masks.chunks(self._first_mask + self._next, frames, cell_id)
        numbers += range(first, first + n)
        chunks += [
            compress_sparse(
                frames.pixel[a:b], frames.count[a:b], self._dtype.itemsize, self._n_pixels
            )
            for a, b in zip(frames.indptr[:-1], frames.indptr[1:], strict=True)
        ]
        self._packed.add(numbers, chunks)
        self._next += n


def _write_backgrounds(entry: h5py.Group, header: HitHeader) -> None:
    """Write the background of the run, and those of its memory cells."""
    cells = header.cells
    shape = (1 + len(cells.mean), *header.background.shape)
    rows = entry.create_dataset(_BACKGROUND, shape, np.float32)
    rows[0] = header.background
    # one by one: all of them take gigabytes
    for number, mean in enumerate(cells.mean, 1):
        rows[number] = mean.reshape(shape[1:])
    rows.attrs["units"] = "photons"
    entry[_BACKGROUND_CELL] = np.concatenate([[-1], cells.cells]).astype(np.int32)


def _single_values(header: HitHeader, provenance: dict, detector: Detector):
    """Return (path below the entry, value, attributes) of what all entries have in common."""
    geometry = header.geometry
    size_y, size_x = detector.pixel_size
    metre = {"units": "m"}

    return [
        ("name", header.name, {}),
        ("start_time", header.start_time, {}),
        ("process_1/command", provenance["command_line"], {}),
        ("process_1/version", provenance["program_version"], {}),
        ("process_1/date", provenance["creation_date"], {}),
        ("sample_1/name", header.sample, {}),
        (f"{INSTRUMENT}/name", header.instrument, {}),
        (f"{DETECTOR}/good_pixels", header.good_pixels, {}),
        (f"{DETECTOR}/powder", header.powder, {"units": "photons"}),
        (_BACKGROUND, header.background, {"units": "photons"}),
        (f"{DETECTOR}/x_pixel_size", size_x, metre),
        (f"{DETECTOR}/y_pixel_size", size_y, metre),
        (f"{DETECTOR}/pixel_area", detector.pixel_area, {"units": "m2"}),
        (f"{DETECTOR}/distance", geometry.distance, metre),
        (f"{DETECTOR}/xyz_map", geometry.xyz, metre),
        (
            f"{DETECTOR}/corner_position",
            geometry.corner_position,
            {"axes": "module_identifier:coordinate", **metre},
        ),
        (
            f"{DETECTOR}/basis_vectors",
            geometry.basis_vectors,
            {"axes": "module_identifier:dimension:coordinate", **metre},
        ),
        (f"{DETECTOR}/module_identifier", list(detector.module_names), {}),
        (
            f"{DETECTOR}/tile_corner_position",
            geometry.tile_corners,
            {"axes": "tile_identifier:coordinate", **metre},
        ),
        (
            f"{DETECTOR}/tile_basis_vectors",
            geometry.tile_basis,
            {"axes": "tile_identifier:dimension:coordinate", **metre},
        ),
        (f"{DETECTOR}/tile_identifier", list(detector.tile_names), {}),
    ]
