"""Modules with other numbers of pixels than AGIPD's, and views that do not fit each other."""

import os
import zlib

import numpy as np
import pytest

from xfelmpi._kernels import _masks, _sparse
from xfelmpi._kernels._frames import (
    DEFLATE,
    OK,
    SHUFFLE,
    ChunkSource,
    EntryList,
    FrameOutputs,
    Inflater,
    PhotonRule,
    PixelMasks,
    PowderView,
)
from xfelmpi.run.frames.frame_bytes import make_buffers, packed_room

SIZES = (64, 65536, 131072, 524288)
N_FRAMES = 3
OUTPUTS = {
    **{"start": np.int64, "stop": np.int64, "status": np.uint8, "lit": np.uint32},
    **{"photons": np.uint64, "roi_lit": np.uint32, "roi_photons": np.uint64},
    **{"roi_bad": np.uint32, "n_single": np.uint32, "max_count": np.uint16, "nnz": np.uint32},
}


def pack(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags, axis=-1, bitorder="little")


@pytest.fixture
def file():
    file = os.memfd_create("frames")
    yield file
    os.close(file)


def packed(file: int, values: np.ndarray) -> ChunkSource:
    """Write frames (frame, pixel) as chunks of their own, packed as HDF5 packs them."""
    n, n_pixels = values.shape
    streams = []
    for frame in values:
        planes = frame.view(np.uint8).reshape(n_pixels, -1).T
        streams.append(zlib.compress(np.ascontiguousarray(planes).tobytes(), 1))
    size = np.array([len(stream) for stream in streams])
    os.pwrite(file, b"".join(streams), 0)
    return ChunkSource(
        fd=file,
        memory=np.empty(0, np.uint8),
        offset=np.cumsum(size) - size,
        size=size,
        filters=np.full(n, DEFLATE | (SHUFFLE if values.itemsize > 1 else 0), np.uint8),
        index_in_chunk=np.zeros(n, np.int32),
        chunk_frames=1,
        n_pixels=n_pixels,
        itemsize=values.itemsize,
        is_float=values.dtype.kind == "f",
    )


def arguments(source: ChunkSource, itemsize: int) -> dict:
    """Return what the kernel takes, all pixels good, the list long enough."""
    n, n_pixels = source.n_frames, source.n_pixels
    everywhere = pack(np.ones((1, n_pixels), bool))
    return {
        "source": source,
        "buffers": make_buffers(n_pixels * itemsize, n_pixels, Inflater()),
        "rule": PhotonRule(one_photon_threshold=1, adu_per_photon=1, threshold=1),
        "masks": PixelMasks(good=everywhere, mask_row=np.zeros(n, np.int32), roi=everywhere[0]),
        "entries": EntryList(
            pixel=np.empty(n * n_pixels, np.uint32), count=np.empty(n * n_pixels, np.uint16)
        ),
        "out": FrameOutputs(**{name: np.zeros(n, dtype) for name, dtype in OUTPUTS.items()}),
        "powder": PowderView(
            photons=np.zeros(n_pixels, np.uint64), invalid=np.zeros(n_pixels, np.uint32)
        ),
    }


@pytest.mark.parametrize("n_pixels", SIZES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_frames_of_any_size(file, n_pixels, dtype):
    rng = np.random.default_rng(n_pixels)
    values = rng.poisson(0.002, (N_FRAMES, n_pixels)).astype(dtype)
    values[:, [0, n_pixels - 1]] = 3
    good, roi = rng.random((2, n_pixels)) < 0.9
    masked = rng.random((N_FRAMES, n_pixels)) < 0.01
    pixel, count = (np.empty(N_FRAMES * n_pixels, t) for t in (np.uint32, np.uint16))
    out = {name: np.zeros(N_FRAMES, dtype) for name, dtype in OUTPUTS.items()}
    powder = np.zeros(n_pixels, np.uint64)
    inputs = arguments(packed(file, values), values.itemsize) | {
        "masks": PixelMasks(
            good=pack(good[None]),
            mask_row=np.zeros(N_FRAMES, np.int32),
            roi=pack(roi[None])[0],
            masked_in_frame=pack(masked),
            pixel_offset=n_pixels,
        ),
        "entries": EntryList(pixel=pixel, count=count),
        "out": FrameOutputs(**out),
        "powder": PowderView(photons=powder, invalid=np.zeros(n_pixels, np.uint32)),
    }
    _sparse.sparsify(**inputs)
    assert (out["status"] == OK).all()
    seen = values * (good & ~masked)
    assert np.array_equal(powder, seen.sum(axis=0))
    assert np.array_equal(out["roi_photons"], (seen * roi).sum(axis=1))
    for f in range(N_FRAMES):
        here = slice(out["start"][f], out["stop"][f])
        where = np.flatnonzero((seen[f] > 0) | (masked[f] & good))
        assert np.array_equal(pixel[here], where + n_pixels)
        assert np.array_equal(count[here], seen[f][where])


@pytest.mark.parametrize("n_pixels", SIZES)
def test_masks_of_any_size(file, n_pixels):
    values = np.random.default_rng(n_pixels).integers(0, 16, (N_FRAMES, n_pixels), np.uint32)
    source = packed(file, values)
    buffers = make_buffers(4 * n_pixels, n_pixels, Inflater())
    bad, status = np.zeros((N_FRAMES, n_pixels // 8), np.uint8), np.full(N_FRAMES, 77, np.uint8)
    _masks.fold_masks(source, buffers, 0, 6, bad, status)
    assert np.array_equal(bad, pack(values & 6 != 0))
    held = np.full((1, n_pixels), 0xFFFFFFFF, np.uint32)
    before = np.empty(packed_room(4 * n_pixels), np.uint8)
    slot = np.zeros(N_FRAMES, np.int32)
    _masks.join_masks(source, buffers, before, 0, slot, held, status)
    assert np.array_equal(held[0], np.bitwise_and.reduce(values))
    assert (status == OK).all()


@pytest.mark.parametrize("n_pixels", [0, -64, 100, 524288 + 64])
def test_number_of_pixels_that_no_kernel_takes(file, n_pixels):
    nothing = np.empty(0, np.int64)
    with pytest.raises(ValueError, match=f"{n_pixels} pixels, expected a multiple of 64"):
        ChunkSource(
            fd=file,
            memory=nothing.view(np.uint8),
            offset=nothing,
            size=nothing,
            filters=nothing.view(np.uint8),
            index_in_chunk=nothing.view(np.int32),
            chunk_frames=1,
            n_pixels=n_pixels,
            itemsize=1,
        )


@pytest.mark.parametrize("name", ["buffers", "masks", "out", "powder"])
def test_views_that_do_not_fit(file, name):
    """Kernels take pointers into these: what is too short must be found before."""
    values = np.ones((2, 128), np.uint8)
    inputs = arguments(packed(file, values), 1)
    smaller = arguments(packed(file, values[:1, :64]), 1)
    inputs["source"] = packed(file, values)
    with pytest.raises(ValueError, match=r"another|room for 64 of 128"):
        _sparse.sparsify(**(inputs | {name: smaller[name]}))


def test_mask_kernels_find_views_that_do_not_fit(file):
    source, status = packed(file, np.ones((2, 128), np.uint32)), np.zeros(2, np.uint8)
    buffers, slot = make_buffers(512, 128, Inflater()), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="rows of 8 bytes"):
        _masks.fold_masks(source, buffers, 0, 1, np.zeros((2, 8), np.uint8), status)
    held = np.zeros((1, 128), np.uint32)
    with pytest.raises(ValueError, match="another size"):
        _masks.join_masks(source, buffers, np.empty(8, np.uint8), 0, slot, held, status)
    with pytest.raises(ValueError, match="another size"):
        _masks.join_masks(
            source, buffers, np.empty(4096, np.uint8), 0, slot, held[:, 64:].copy(), status
        )
