"""Writing the corrected images of one AGIPD module into a European XFEL file."""

from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from xfelmpi._deflate import Deflater
from xfelmpi.detector import MODULE_PIXELS, MODULE_SHAPE
from xfelmpi.simulate import exdf
from xfelmpi.simulate.model import ModulePhotons
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

DETECTOR = "SPB_DET_AGIPD1M-1"
GZIP_LEVEL = 1
"""What the files declare, as the facility's do."""

DEFLATE_LEVEL = 2
"""libdeflate's: on sparse frames twice as fast as its level 1, with chunks of the same size."""


def source_name(layout: str, module: int) -> str:
    """Return the source of a module's images in files of a layout."""
    if layout == "modern":
        return f"{DETECTOR}/CORR/{module}CH0:output"
    return legacy_name(module)


def legacy_name(module: int) -> str:
    """Return the name that the source of corrected images shared with that of raw ones."""
    return f"{DETECTOR}/DET/{module}CH0:xtdf"


@contextmanager
def module_file(
    path: Path,
    plans: list[TrainPlan],
    *,
    module: int,
    sequence: int,
    proposal: int,
    options: SimulationOptions,
):
    """Write a file of one module, all but the images, and give what takes those.

    Parameters
    ----------
    path : Path
        The file.
    plans : list of TrainPlan
        The trains with data, in order.
    module, sequence, proposal : int
        Numbers of the module, of the file among the module's, and of the proposal.
    options : SimulationOptions
        For layout, types and missing trains.

    Yields
    ------
    ImageWriter
        To be given the photons of all `plans` in order.
    """
    source = source_name(options.layout, module)
    groups = ["image"] if options.layout == "modern" else ["header", "image", "trailer"]
    sources = [f"INSTRUMENT/{source}/{group}" for group in groups]
    if options.layout == "modern":
        sources.append(f"INSTRUMENT/{legacy_name(module)}/image")
    listed = [p for p in plans if len(p)] if options.missing_style == "gone" else plans
    train_ids = np.array([plan.train_id for plan in listed], np.uint64)
    counts = np.array([len(plan) for plan in listed], np.int64)
    with exdf.published(path) as file:
        exdf.write_common(
            file,
            sources,
            train_ids,
            options=options,
            proposal=proposal,
            sequence=sequence,
            version="1.2" if options.layout == "modern" else "1.0",
        )
        exdf.write_index(file, f"{source}/image", counts)
        if options.layout == "legacy":
            _write_header_and_trailer(file, source, train_ids, counts)
        images = file.create_group(f"INSTRUMENT/{source}/image")
        _write_ids(images, plans)
        with ImageWriter(images, int(counts.sum()), options) as writer:
            yield writer
        if options.layout == "modern":
            for section in ("INDEX", "INSTRUMENT"):
                link = h5py.SoftLink(f"/{section}/{source}")
                file[f"{section}/{legacy_name(module)}"] = link


def _write_ids(images: h5py.Group, plans: list[TrainPlan]) -> None:
    """Write train, cell and pulse of every frame, in the order of the file."""
    images["trainId"] = np.concatenate(
        [np.full(len(plan), plan.train_id, np.uint64) for plan in plans]
    )
    images["cellId"] = np.concatenate([plan.cells[plan.order] for plan in plans])
    images["pulseId"] = np.concatenate([plan.pulse_ids[plan.order] for plan in plans])


def _write_header_and_trailer(file, source, train_ids, counts) -> None:
    """Write what the detector's own train format has around the images."""
    for part, key, values in (
        ("header", "pulseCount", counts.astype(np.uint64)),
        ("trailer", "status", np.zeros(len(counts), np.uint64)),
    ):
        group = file.create_group(f"INSTRUMENT/{source}/{part}")
        group["trainId"] = train_ids
        group[key] = values
        exdf.write_index(file, f"{source}/{part}", np.ones(len(counts)))


class ImageWriter:
    """Turns photons into dense images and writes them chunk by chunk.

    Chunks are compressed here and go around HDF5's filters, which would take five times as long.

    Parameters
    ----------
    images : h5py.Group
        The group to make the datasets in.
    n_frames : int
        Frames in the file.
    options : SimulationOptions
        For type, chunks and compression.
    """

    def __init__(self, images: h5py.Group, n_frames: int, options: SimulationOptions):
        self._dtype = np.dtype(options.dtype)
        self._scale = np.float32(options.adu_per_photon)
        self._deflater = Deflater(DEFLATE_LEVEL) if options.compression == "gzip" else None
        self._contiguous = options.chunk_frames == 0 or n_frames == 0
        length = max(1, min(options.chunk_frames, n_frames))
        self._chunk = np.zeros((length, MODULE_PIXELS), self._dtype)
        filters = {"shuffle": True, "compression": "gzip", "compression_opts": GZIP_LEVEL}
        chunks = None if self._contiguous else (length, *MODULE_SHAPE)
        compressed = self._deflater and not self._contiguous
        self._dataset = images.create_dataset(
            "data",
            (n_frames, *MODULE_SHAPE),
            self._dtype,
            chunks=chunks,
            **(filters if compressed else {}),
        )
        if options.with_mask:
            # no chunk is ever written: all pixels read as the fill value 0, good
            chunks = (1, *MODULE_SHAPE) if n_frames else None
            images.create_dataset(
                "mask", self._dataset.shape, np.uint32, chunks=chunks, **(filters if chunks else {})
            )
        self._next = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None and self._next % len(self._chunk):
            self._flush()

    def append(self, plan: TrainPlan, photons: ModulePhotons, noise) -> None:
        """Write the frames of a train, in the order of the plan.

        Parameters
        ----------
        plan : TrainPlan
            The train.
        photons : ModulePhotons
            Its photons in this module.
        noise : iterator of ndarray, float32 (pixel,)
            Noise of one frame after the other; only used for float data.
        """
        is_float = self._dtype.kind == "f"
        bounds = photons.indptr.tolist()
        for frame in plan.order.tolist():
            image = self._chunk[self._next % len(self._chunk)]
            entries = slice(bounds[frame], bounds[frame + 1])
            image.fill(0)
            image[photons.pixel[entries]] = photons.count[entries]
            if is_float:
                image += next(noise)
                image *= self._scale
            self._next += 1
            if self._next % len(self._chunk) == 0:
                self._flush()

    def _flush(self) -> None:
        """Write the current chunk, which begins at a multiple of its length."""
        length = len(self._chunk)
        start = (self._next - 1) // length * length
        if self._contiguous:
            self._dataset[start : self._next] = self._chunk.reshape(-1, *MODULE_SHAPE)
            return
        # frames behind the end of the file are in the chunk but never read
        self._chunk[self._next - start :] = 0
        self._dataset.id.write_direct_chunk((start, 0, 0), self._encoded())

    def _encoded(self) -> bytes:
        """Return the bytes of the chunk as HDF5's shuffle and gzip filters would store them."""
        data = self._chunk.reshape(-1)
        if self._deflater is None:
            return data.tobytes()
        data = data.view(np.uint8)
        if self._dtype.itemsize > 1:
            data = data.reshape(-1, self._dtype.itemsize).T.reshape(-1)
        return self._deflater.compress(data)
