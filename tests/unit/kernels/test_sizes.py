"""Modules with other numbers of pixels than AGIPD's, and views that do not fit each other."""

import os
import zlib

import numpy as np
import pytest

from xfelmpi._kernels import _masks, _sparse
from xfelmpi._kernels._frames import (
    DEFLATE,
    INFLATE_FAILED,
    OK,
    READ_FAILED,
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


def known_masks(n_bytes: int = 1 << 16) -> _masks.KnownMasks:
    """Return a memory of so many bytes for masks that come again."""
    return _masks.KnownMasks(arena=np.empty(n_bytes // 8, np.uint64), place=np.zeros(64, np.uint32))


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


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0, 1, 1024, 1025, 5000])
@pytest.mark.parametrize("order", ["ascending", "descending", "random", "twice"])
def test_chunks_anywhere_in_the_file(file, order, gap):
    """Those that lie one after the other are read together; large ones between them are not."""
    rng = np.random.default_rng(gap)
    n, n_pixels = 300, 65536
    values = rng.poisson(0.002, (n, n_pixels)).astype("u1")
    values[::50] = rng.poisson(0.5, (len(values[::50]), n_pixels))
    streams = [zlib.compress(frame.tobytes(), 1) for frame in values]
    size = np.array([len(stream) for stream in streams])
    assert (size > 4096).any()
    offset = 100 + np.cumsum(size + gap) - size
    for at, stream in zip(offset.tolist(), streams, strict=True):
        os.pwrite(file, stream, at)
    cut = n - 4
    # the file ends within a chunk
    os.ftruncate(file, int(offset[cut]) + 5)
    chosen = {
        "ascending": np.arange(n),
        "descending": np.arange(n)[::-1],
        "random": rng.permutation(n),
        "twice": np.repeat(np.arange(n), 2),
    }[order]
    source = ChunkSource(
        fd=file,
        memory=np.empty(0, np.uint8),
        offset=offset[chosen],
        size=size[chosen],
        filters=np.full(len(chosen), DEFLATE, np.uint8),
        index_in_chunk=np.zeros(len(chosen), np.int32),
        chunk_frames=1,
        n_pixels=n_pixels,
        itemsize=1,
    )
    out = {name: np.zeros(len(chosen), dtype) for name, dtype in OUTPUTS.items()}
    powder = np.zeros(n_pixels, np.uint64)
    inputs = arguments(source, 1) | {
        "out": FrameOutputs(**out),
        "powder": PowderView(photons=powder, invalid=np.zeros(n_pixels, np.uint32)),
    }
    _sparse.sparsify(**inputs)
    there = chosen < cut
    assert np.array_equal(out["status"], np.where(there, OK, READ_FAILED))
    assert np.array_equal(out["photons"], values[chosen].sum(axis=1, dtype=np.uint64) * there)
    assert np.array_equal(powder, values[chosen[there]].sum(axis=0, dtype=np.uint64))


@pytest.mark.parametrize("n_pixels", SIZES)
def test_masks_of_any_size(file, n_pixels):
    values = np.random.default_rng(n_pixels).integers(0, 16, (N_FRAMES, n_pixels), np.uint32)
    source = packed(file, values)
    buffers = make_buffers(4 * n_pixels, n_pixels, Inflater())
    bad, status = np.zeros((N_FRAMES, n_pixels // 8), np.uint8), np.full(N_FRAMES, 77, np.uint8)
    _masks.fold_masks(source, buffers, known_masks(), 0, 6, bad, status)
    assert np.array_equal(bad, pack(values & 6 != 0))
    held = np.full((1, n_pixels), 0xFFFFFFFF, np.uint32)
    before = np.empty(packed_room(4 * n_pixels), np.uint8)
    slot = np.zeros(N_FRAMES, np.int32)
    _masks.join_masks(source, buffers, before, 0, slot, held, status)
    assert np.array_equal(held[0], np.bitwise_and.reduce(values))
    assert (status == OK).all()


def fold(file, known, values, bits=6, damage=()):
    """Return the bad pixels and the status of masks (frame, 128), packed by themselves."""
    source = packed(file, values)
    for f in damage:
        os.pwrite(file, b"????", source_offset(values, f) + 3)
    bad, status = np.zeros((len(values), 16), np.uint8), np.full(len(values), 77, np.uint8)
    _masks.fold_masks(source, make_buffers(512, 128, Inflater()), known, 0, bits, bad, status)
    return bad, status


def source_offset(values, f):
    """Return where the chunk of a frame begins in what `packed` writes."""
    planes = [v.view(np.uint8).reshape(128, 4).T.tobytes() for v in values[:f]]
    return sum(len(zlib.compress(plane, 1)) for plane in planes)


def test_masks_that_come_again_are_not_inflated(file):
    """Whatever comes again is found, and only that; other bits are another question."""
    rng = np.random.default_rng(1)
    different = rng.integers(0, 16, (5, 128), np.uint32)
    different[1] = different[0]
    different[1, 7] ^= 2
    values, known = different[rng.integers(0, 5, 40)], known_masks()
    for n_found, bits in ((35, 6), (70, 9), (110, 6)):
        bad, status = fold(file, known, values, bits)
        assert (status == OK).all()
        assert np.array_equal(bad, pack(values & bits != 0))
        assert known.n_found == n_found
    assert known.n == 10


@pytest.mark.parametrize("n_bytes", [8, 400, 2000])
def test_no_room_for_all_masks(file, n_bytes):
    """With too little memory masks are inflated again; those that fill it make room if useless."""
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 16, (2, 6, 128), np.uint32)
    known = known_masks(n_bytes)
    for values in (first, second, second[:1].repeat(20, axis=0), first):
        bad, status = fold(file, known, values)
        assert (status == OK).all()
        assert np.array_equal(bad, pack(values & 6 != 0))
    assert (known.n_found >= 19) == (n_bytes > 8)


def test_more_masks_than_fit_come_in_turns(file):
    """Those that fit stay: if all were forgotten when the room is full, none would be found."""
    values = np.random.default_rng(4).integers(0, 16, (12, 128), np.uint32)
    known = known_masks(1600)
    fold(file, known, values)
    n = known.n
    assert 0 < n < len(values)
    for turn in range(1, 6):
        bad, _ = fold(file, known, values)
        assert np.array_equal(bad, pack(values & 6 != 0))
        assert known.n_found == turn * n


def test_damaged_masks_are_never_known(file):
    values = np.random.default_rng(3).integers(0, 16, (1, 128), np.uint32).repeat(4, axis=0)
    known = known_masks()
    bad, status = fold(file, known, values, damage=(0, 2))
    assert status.tolist() == [INFLATE_FAILED, OK, INFLATE_FAILED, OK]
    assert np.array_equal(bad[[1, 3]], pack(values & 6 != 0)[[1, 3]])
    assert (known.n, known.n_found) == (1, 1)


@pytest.mark.parametrize(("words", "places"), [(0, 64), (8, 0), (8, 1), (8, 48)])
def test_memory_for_masks_that_cannot_be(words, places):
    with pytest.raises(ValueError, match="expected a power of 2"):
        _masks.KnownMasks(arena=np.empty(words, np.uint64), place=np.zeros(places, np.uint32))


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
    bad, known = np.zeros((2, 8), np.uint8), known_masks()
    with pytest.raises(ValueError, match="rows of 8 bytes"):
        _masks.fold_masks(source, buffers, known, 0, 1, bad, status)
    held = np.zeros((1, 128), np.uint32)
    with pytest.raises(ValueError, match="another size"):
        _masks.join_masks(source, buffers, np.empty(8, np.uint8), 0, slot, held, status)
    with pytest.raises(ValueError, match="another size"):
        _masks.join_masks(
            source, buffers, np.empty(4096, np.uint8), 0, slot, held[:, 64:].copy(), status
        )
