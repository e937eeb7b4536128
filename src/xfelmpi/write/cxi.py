"""``saved_hits/rRRRR_hits.cxi``: hits as dense photon frames, CXI 1.6 (Maia, Nat. Meth. 2012)."""

from dataclasses import dataclass

import numpy as np

from xfelmpi.collective import before_and_total
from xfelmpi.detector import (
    CXI_BAD,
    CXI_MISSING,
    FRAME_PIXELS,
    FRAME_SHAPE,
    MODULE_PIXELS,
    N_MODULES,
    PIXEL_SIZE,
)
from xfelmpi.masks import Masks, unpack
from xfelmpi.records import EventColumns
from xfelmpi.sparse import SparseFrames
from xfelmpi.units import PLANCK_TIMES_C
from xfelmpi.write._h5 import ParallelFile

_ENTRY = "entry_1"
_INSTRUMENT = "entry_1/instrument_1"
_DETECTOR = "entry_1/instrument_1/detector_1"
_AXES = "experiment_identifier"
_FRAME_AXES = "experiment_identifier:module_identifier:y:x"


@dataclass(frozen=True)
class CxiHeader:
    """What stands once in the file; only rank 0 needs it.

    Parameters
    ----------
    name, title, start_time, sample, instrument : str
        `start_time` is ISO 8601 with zone, or empty.
    geometry : DetectorGeometry
    good_pixels : ndarray, bool (16, 512, 128)
        Good in at least one cell.
    powder : ndarray, uint64 (16, 512, 128)
        Over all frames.
    background : ndarray, float32 (16, 512, 128)
        Mean photons per good frame over all non-hits, NaN where no frame was good.
    """

    name: str
    title: str
    start_time: str
    sample: str
    instrument: str
    geometry: object
    good_pixels: np.ndarray
    powder: np.ndarray
    background: np.ndarray


class CxiWriter:
    """Writes hits block by block; every method is collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name after `close`.
    attributes : dict
        Root attributes.
    prefix : str
        Start of every experiment identifier, e.g. ``p007927_r0050``.
    hits : EventColumns
        Rows of this rank's hits.
    vds_index : ndarray, uint64 (hit,)
        Their row numbers in the events file.
    weighting : ndarray, float64 (hit,)
        What scales the background to each hit.
    masks : Masks
    modules_in_run : int
        Bit field of the modules that the run has; others are missing in every hit.
    count_dtype : numpy.dtype
        u1 or u2, the same on all ranks.
    """

    def __init__(
        self,
        comm,
        path,
        attributes,
        prefix,
        hits: EventColumns,
        vds_index,
        weighting,
        masks: Masks,
        modules_in_run: int,
        count_dtype,
    ):
        self._comm = comm
        self._masks = masks
        self._next, n_hits = before_and_total(comm, len(vds_index))
        self._file = ParallelFile(comm, path, attributes)
        self._file.group(_ENTRY, NX_class="NXentry")
        self._file.group(_INSTRUMENT, NX_class="NXinstrument")
        self._file.group(_DETECTOR, NX_class="NXdetector")
        self._file.group(f"{_INSTRUMENT}/source_1", NX_class="NXsource")
        self._file.group(f"{_ENTRY}/sample_1", NX_class="NXsample")
        for name, column, units in _hit_columns(prefix, hits, vds_index, weighting):
            attrs = {"axes": _AXES, **({"units": units} if units else {})}
            dataset = self._file.create(name, (n_hits,), column.dtype, **attrs)
            self._file.write(dataset, self._next, column)
        for added in hits.added:
            dataset = self._file.create(
                f"{_INSTRUMENT}/{added.name}",
                (n_hits,),
                added.values.dtype,
                axes=_AXES,
                **added.attributes(),
            )
            self._file.write(dataset, self._next, added.values)
        self._has_added = bool(hits.added)
        shape = (n_hits, *FRAME_SHAPE)
        self._data = self._file.create(
            f"{_DETECTOR}/data",
            shape,
            count_dtype,
            chunk_rows=1,
            axes=_FRAME_AXES,
            units="photons",
        )
        self._mask = self._file.create(
            f"{_DETECTOR}/mask", shape, np.uint32, chunk_rows=1, axes=_FRAME_AXES
        )
        self._absent = ~modules_in_run

    def write(self, hits: SparseFrames, cell_id: np.ndarray) -> None:
        """Append a block of this rank's hits, possibly none, given their cells."""
        n = len(hits)
        frame = np.repeat(np.arange(n), np.diff(hits.indptr))
        data = np.zeros((n, FRAME_PIXELS), self._data.dtype)
        data[frame, hits.pixel] = hits.count
        mask = np.empty((n, N_MODULES, MODULE_PIXELS), np.uint32)
        for i, cell in enumerate(cell_id):
            mask[i] = self._cell_mask(cell)
        bad = hits.count == 0
        mask.reshape(n, FRAME_PIXELS)[frame[bad], hits.pixel[bad]] |= CXI_BAD
        self._file.write(self._data, self._next, data.reshape(n, *FRAME_SHAPE))
        self._file.write(self._mask, self._next, mask.reshape(n, *FRAME_SHAPE))
        self._next += n

    def _cell_mask(self, cell: int) -> np.ndarray:
        good = unpack(self._masks.good[:, self._masks.row_of_cell[cell]])
        mask = np.where(good, np.uint32(0), np.uint32(CXI_BAD))
        for module in range(N_MODULES):
            if self._absent >> module & 1:
                mask[module] |= np.uint32(CXI_MISSING)
        return mask

    def close(self, header: CxiHeader | None) -> None:
        """Write what stands once in the file, from rank 0, and close it."""
        for name, value, attributes in _single_values(header):
            self._file.put(name, value, **attributes)
        # a real group with '.' for axes is what silx and nexusformat both read
        self._file.group(
            f"{_ENTRY}/data_1", NX_class="NXdata", signal="data", axes=[".", ".", ".", "."]
        )
        for name in ("data", "module_identifier"):
            self._file.link(f"{_ENTRY}/data_1/{name}", f"/{_DETECTOR}/{name}")
        # CXI wants every dataset that `axes` names in the same group
        groups = [f"{_ENTRY}/data_1", _DETECTOR, f"{_INSTRUMENT}/source_1"]
        groups += [_INSTRUMENT] if self._has_added else []
        for group in groups:
            self._file.link(f"{group}/{_AXES}", f"/{_ENTRY}/{_AXES}")
        self._file.close()


def _hit_columns(prefix, hits: EventColumns, vds_index, weighting):
    """Return (path, values, units) of everything with one value per hit."""
    identifier = np.array(
        [f"{prefix}_t{t}_c{c}".encode() for t, c in zip(hits.trainId, hits.cellId, strict=True)],
        # train IDs have up to 20 digits, cells 3: the same length on all ranks
        dtype=f"S{len(prefix) + 27}",
    )
    source, detector = f"{_INSTRUMENT}/source_1", _DETECTOR
    return [
        (f"{_ENTRY}/experiment_identifier", identifier, None),
        (f"{_ENTRY}/trainId", hits.trainId, None),
        (f"{_ENTRY}/cellId", hits.cellId, None),
        (f"{_ENTRY}/pulseId", hits.pulseId, None),
        (f"{_ENTRY}/vds_index", vds_index, None),
        (f"{source}/photon_energy", PLANCK_TIMES_C / hits.wavelength, "J"),
        (f"{source}/photon_wavelength", hits.wavelength, "m"),
        (f"{source}/pulse_energy", hits.pulse_energy, "J"),
        (f"{detector}/background_weighting", weighting, None),
        (f"{detector}/lit_pixels", hits.litpixels, None),
        (f"{detector}/photon_counts", hits.photons, "photons"),
        (f"{detector}/hit_score", hits.hitscore, None),
        (f"{detector}/hit_sigma", hits.hit_sigma, None),
    ]


def _single_values(header: CxiHeader | None):
    """Return (path, value, attributes) of what stands once; values are None but on rank 0."""
    h = header
    g = header.geometry if header else None
    module_names = [f"AGIPD{m:02}" for m in range(N_MODULES)]
    metre = {"units": "m"}

    def of(holder, name):
        return getattr(holder, name) if holder else None

    return [
        ("cxi_version", 160, {}),
        (f"{_ENTRY}/name", of(h, "name"), {}),
        (f"{_ENTRY}/title", of(h, "title"), {}),
        (f"{_ENTRY}/start_time", of(h, "start_time"), {}),
        (f"{_ENTRY}/sample_1/name", of(h, "sample"), {}),
        (f"{_INSTRUMENT}/name", of(h, "instrument"), {}),
        (f"{_DETECTOR}/good_pixels", of(h, "good_pixels"), {}),
        (f"{_DETECTOR}/powder", of(h, "powder"), {"units": "photons"}),
        (f"{_DETECTOR}/background", of(h, "background"), {"units": "photons"}),
        (f"{_DETECTOR}/x_pixel_size", PIXEL_SIZE, metre),
        (f"{_DETECTOR}/y_pixel_size", PIXEL_SIZE, metre),
        (f"{_DETECTOR}/pixel_area", PIXEL_SIZE**2, {"units": "m2"}),
        (f"{_DETECTOR}/distance", of(g, "distance"), metre),
        (f"{_DETECTOR}/xyz_map", of(g, "xyz"), metre),
        (
            f"{_DETECTOR}/corner_position",
            of(g, "corner_position"),
            {"axes": "module_identifier:coordinate", **metre},
        ),
        (
            f"{_DETECTOR}/basis_vectors",
            of(g, "basis_vectors"),
            {"axes": "module_identifier:dimension:coordinate", **metre},
        ),
        (f"{_DETECTOR}/module_identifier", module_names, {}),
    ]
