"""The kernel of corrected frames, called as the program calls it, with guards behind its lists."""

from types import SimpleNamespace

import numpy as np
from reference import FS, PIXELS, SS

from xfelmpi._kernels import _sparse
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.reduction.sparsifier import photon_cut
from xfelmpi.run.frames.frame_dataset import packed_room


def run_kernel(
    values,
    good=None,
    region=None,
    mask_row=None,
    room=None,
    adu=1.0,
    threshold=0.7,
    readonly=False,
    spoilt=None,
    source=None,
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
    readonly : bool
        Whether all inputs refuse to be written to.
    spoilt : ndarray, bool (frame, 512, 128), optional
        Pixels that the frames' own masks call bad.
    source : dict, optional
        Inputs of the kernel that say where the bytes of the frames are, if not in memory.

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
    out = _outputs(n)
    inputs = {
        "memory": np.ascontiguousarray(values).reshape(-1).view(np.uint8),
        "offset": np.arange(n, dtype=np.int64) * frame_bytes,
        "size": np.full(n, frame_bytes, np.int64),
        "filters": np.zeros(n, np.uint8),
        "within": np.zeros(n, np.int32),
        "chunk_frames": 1,
        "good": pack(good),
        "mask_row": np.zeros(n, np.int32) if mask_row is None else mask_row,
        "region": pack(region),
        "spoilt": np.empty((0, PIXELS // 8), np.uint8) if spoilt is None else pack(spoilt),
    }
    inputs |= source or {"fd": -1}
    if readonly:
        for array in inputs.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    chunk_bytes = frame_bytes * inputs["chunk_frames"]
    scratch = {name: np.empty(chunk_bytes, np.uint8) for name in ("spare", "dense")}
    scratch["packed"] = np.empty(packed_room(chunk_bytes), np.uint8)
    out.used = _sparse.sparsify(
        inflater=_sparse.Inflater(),
        itemsize=values.dtype.itemsize,
        is_float=values.dtype.kind == "f",
        cut=photon_cut(adu, threshold),
        adu=adu,
        threshold=threshold,
        base=0,
        used=0,
        out_pixel=pixel[:room],
        out_count=count[:room],
        **inputs,
        **scratch,
        **{name: value for name, value in vars(out).items() if name != "used"},
    )
    assert (pixel[room:] == 0xFFFFFFFF).all(), "written behind the end"
    assert (count[room:] == 0xFFFF).all(), "written behind the end"
    out.pixel, out.count = pixel, count
    return out


def _outputs(n: int) -> SimpleNamespace:
    """Return what the kernel fills for every frame, and the sums over frames."""
    return SimpleNamespace(
        powder=np.zeros(PIXELS, np.uint64),
        invalid=np.zeros(PIXELS, np.uint32),
        start=np.full(n, 77, np.int64),
        stop=np.full(n, 77, np.int64),
        status=np.full(n, 77, np.uint8),
        lit=np.zeros(n, np.uint32),
        photons=np.zeros(n, np.uint64),
        region_lit=np.zeros(n, np.uint32),
        region_photons=np.zeros(n, np.uint64),
        ones=np.zeros(n, np.uint32),
        peak=np.zeros(n, np.uint16),
        entries=np.zeros(n, np.uint32),
        region_bad=np.zeros(n, np.uint32),
    )
