"""The kernel of corrected frames, called as the program calls it, with guards behind its lists."""

from types import SimpleNamespace

import numpy as np
from reference import FS, PIXELS, SS

from xfelmpi._kernels import _sparse
from xfelmpi._kernels._frames import (
    ChunkSource,
    EntryList,
    FrameOutputs,
    Inflater,
    PhotonRule,
    PixelMasks,
    PowderView,
)
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.reduction.sparsifier import one_photon_threshold
from xfelmpi.run.frames.frame_bytes import make_buffers


def run_kernel(
    values,
    good=None,
    region=None,
    mask_row=None,
    room=None,
    adu=1.0,
    threshold=0.7,
    masked_in_frame=None,
    source=None,
    *,
    readonly=False,
):
    """Call the kernel of corrected frames itself; `room` entries are followed by a guard.

    Parameters
    ----------
    values : ndarray (frame, 512, 128)
        Frames in memory.
    good : ndarray, bool (row, 512, 128), optional
    region : ndarray, bool (512, 128), optional
    mask_row : ndarray, int32 (frame,), optional
    room : int, optional
        Entries of the list; default: enough for all pixels.
    adu, threshold : float
    masked_in_frame : ndarray, bool (frame, 512, 128), optional
        Pixels that the frames' own masks call bad.
    source : dict, optional
        Inputs of the kernel that say where the bytes of the frames are, if not in memory.
    readonly : bool
        Whether all inputs refuse to be written to.

    Returns
    -------
    SimpleNamespace
        All outputs of the kernel; ``used``: entries of the list.
    """
    n = len(values)
    good = np.ones((1, SS, FS), bool) if good is None else good
    region = np.ones((SS, FS), bool) if region is None else region
    frame_bytes = PIXELS * values.dtype.itemsize
    room = n * PIXELS if room is None else room
    pixel = np.full(room + 64, 0xFFFFFFFF, np.uint32)
    count = np.full(room + 64, 0xFFFF, np.uint16)
    place = {
        "memory": np.ascontiguousarray(values).reshape(-1).view(np.uint8),
        "offset": np.arange(n, dtype=np.int64) * frame_bytes,
        "size": np.full(n, frame_bytes, np.int64),
        "filters": np.zeros(n, np.uint8),
        "index_in_chunk": np.zeros(n, np.int32),
        "chunk_frames": 1,
    }
    place |= source or {"fd": -1}
    masks = {
        "good": pack(good),
        "mask_row": np.zeros(n, np.int32) if mask_row is None else mask_row,
        "roi": pack(region),
        "masked_in_frame": None if masked_in_frame is None else pack(masked_in_frame),
    }
    if readonly:
        for array in [*place.values(), *masks.values()]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    out, powder = _outputs(n)
    entries = EntryList(pixel=pixel[:room], count=count[:room])
    _sparse.sparsify(
        source=ChunkSource(
            **place,
            n_pixels=PIXELS,
            itemsize=values.dtype.itemsize,
            is_float=values.dtype.kind == "f",
        ),
        buffers=make_buffers(frame_bytes * place["chunk_frames"], PIXELS, Inflater()),
        rule=PhotonRule(
            one_photon_threshold=one_photon_threshold(adu, threshold),
            adu_per_photon=adu,
            threshold=threshold,
        ),
        masks=PixelMasks(**masks),
        entries=entries,
        out=FrameOutputs(**out),
        powder=PowderView(**powder),
    )
    assert (pixel[room:] == 0xFFFFFFFF).all(), "written behind the end"
    assert (count[room:] == 0xFFFF).all(), "written behind the end"
    return SimpleNamespace(
        pixel=pixel,
        count=count,
        used=entries.n_entries,
        powder=powder["photons"],
        invalid=powder["invalid"],
        **{TWIN_NAMES.get(name, name): array for name, array in out.items()},
    )


TWIN_NAMES = {
    "roi_lit": "region_lit",
    "roi_photons": "region_photons",
    "roi_bad": "region_bad",
    "n_single": "ones",
    "max_count": "peak",
    "nnz": "entries",
}
"""What the sums over frames, and the numpy twin, call the outputs of the kernel."""


def _outputs(n: int) -> tuple[dict, dict]:
    """Return what the kernel fills for every frame, and the sums over frames."""
    frames = {
        "start": np.full(n, 77, np.int64),
        "stop": np.full(n, 77, np.int64),
        "status": np.full(n, 77, np.uint8),
        "lit": np.zeros(n, np.uint32),
        "photons": np.zeros(n, np.uint64),
        "roi_lit": np.zeros(n, np.uint32),
        "roi_photons": np.zeros(n, np.uint64),
        "roi_bad": np.zeros(n, np.uint32),
        "n_single": np.zeros(n, np.uint32),
        "max_count": np.zeros(n, np.uint16),
        "nnz": np.zeros(n, np.uint32),
    }
    return frames, {"photons": np.zeros(PIXELS, np.uint64), "invalid": np.zeros(PIXELS, np.uint32)}
