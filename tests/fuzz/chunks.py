"""Chunks of frames through the kernels, made, damaged and random, against zlib and numpy.

    python tests/fuzz/chunks.py FRAMES SEED

Meant for a build with sanitizers, or with bounds checks: see docs/testing.md. The chunks lie in a
file in memory: packed or not, shuffled or not, one frame or several each, u1, u2, f4 or masks, cut
off, with bytes changed, with places and sizes that cannot be. What zlib refuses must be refused,
all else must give the twin's lists, or masks. Every number follows from the seed; the first
difference raises, and says from which.
"""

import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from kernelcalls import run_kernel
from reference import EMPTY, FS, PIXELS, SS, module_twin

from xfelmpi._kernels import _masks
from xfelmpi._kernels._frames import DEFLATE, SHUFFLE, ChunkSource, Inflater
from xfelmpi.run.frames.frame_bytes import make_buffers, packed_room

ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.69999, 0.7, 65535.7, 3e38, -3e38, -5, 1])
SHARES = (0, 1e-4, 1e-3, 0.02, 0.3, 1)
KNOWN = _masks.KnownMasks(arena=np.empty(1 << 15, np.uint64), place=np.zeros(64, np.uint32))
"""Masks of earlier chunks, which now and then fill it."""
"""How many of the pixels are not like all the others."""


@dataclass
class Chunks:
    """Chunks of a file in memory, and the frames that can be read from it.

    Parameters
    ----------
    place : dict
        Where they are, as the kernels take it, an item per frame.
    values : ndarray (frame, 512, 128)
        What zlib makes of them; zeros where that is nothing.
    readable : ndarray, bool (frame,)
    """

    place: dict
    values: np.ndarray
    readable: np.ndarray


def random_frames(rng, n: int, dtype: np.dtype) -> np.ndarray:
    """Return frames that are all alike but for some pixels, (frame, 512, 128)."""
    values = np.zeros((n, PIXELS), dtype)
    if rng.random() < 0.1:
        values[:] = rng.integers(0, 256)
    where = rng.random((n, PIXELS), np.float32) < rng.choice(SHARES)
    if dtype.kind == "f":
        chosen = rng.normal(0, 3, where.sum())
        odd = rng.random(len(chosen)) < 0.2
        chosen[odd] = rng.choice(ODD, odd.sum())
    else:
        chosen = rng.integers(0, rng.choice((3, 256, 1 << 8 * dtype.itemsize)), where.sum())
    with np.errstate(over="ignore"):
        values[where] = chosen.astype(dtype)
    return values.reshape(n, SS, FS)


def pack_chunk(rng, frames: np.ndarray, filters: int) -> bytes:
    """Return the bytes of a chunk, some of them changed or missing now and then."""
    content = frames.reshape(-1)
    if filters & SHUFFLE:
        content = content.view(np.uint8).reshape(-1, frames.itemsize).T.reshape(-1)
    content = content.tobytes()
    if filters & DEFLATE:
        strategy = int(rng.choice((zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY)))
        packer = zlib.compressobj(int(rng.integers(1, 4)), zlib.DEFLATED, 15, 9, strategy)
        content = packer.compress(content) + packer.flush()
    if rng.random() < 0.25:
        damaged = bytearray(content)
        for at in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        content = bytes(damaged)
    return content[: rng.integers(1, len(content))] if rng.random() < 0.05 else content


def unpack_chunk(content: bytes, filters: int, shape: tuple, dtype: np.dtype):
    """Return the frames of a chunk, None if it is damaged."""
    if filters & DEFLATE:
        try:
            content = zlib.decompress(content)
        except zlib.error:
            return None
    if len(content) != np.prod(shape) * dtype.itemsize:
        return None
    if filters & SHUFFLE:
        planes = np.frombuffer(content, np.uint8).reshape(dtype.itemsize, -1)
        content = np.ascontiguousarray(planes.T).tobytes()
    return np.frombuffer(content, dtype).reshape(shape)


def make_chunks(rng, file: int, dtype: np.dtype) -> Chunks:
    """Write chunks to a file and read them back with zlib."""
    per_chunk, n_chunks = (int(n) for n in (rng.choice((1, 1, 2, 3)), rng.integers(1, 7)))
    shape = (per_chunk, SS, FS)
    offset, size, filters, values = [], [], [], []
    at = 0
    for _ in range(n_chunks):
        # shuffling single bytes changes nothing: nobody says so to the kernel
        kind = int(rng.choice((0, 1) if dtype.itemsize == 1 else (0, 1, 2, 3)))
        content = pack_chunk(rng, random_frames(rng, per_chunk, dtype), kind)
        length, found = len(content), unpack_chunk(content, kind, shape, dtype)
        os.pwrite(file, content, at)
        place = at
        at += length
        fault = rng.integers(0, 40)
        if fault < 4:
            # never written, unreadable, behind the end of the file, larger than any buffer
            place = (-1, -2, 1 << 40, place)[fault]
            length = 1 << 40 if fault == 3 else length
            found = None
        offset += [place] * per_chunk
        size += [length] * per_chunk
        filters += [kind] * per_chunk
        values += [found] * per_chunk
    os.ftruncate(file, at)
    n = len(offset)
    within = np.arange(n, dtype=np.int32) % per_chunk
    chosen = rng.permutation(n)[: rng.integers(1, n + 1)] if rng.random() < 0.3 else np.arange(n)
    place = {
        "fd": file,
        "memory": np.empty(0, np.uint8),
        "offset": np.array(offset, np.int64)[chosen],
        "size": np.array(size, np.int64)[chosen],
        "filters": np.array(filters, np.uint8)[chosen],
        "index_in_chunk": within[chosen],
        "chunk_frames": per_chunk,
    }
    readable = np.array([values[i] is not None for i in chosen])
    nothing = np.zeros((SS, FS), dtype)
    frames = [nothing if values[i] is None else values[i][within[i]] for i in chosen]
    return Chunks(place, np.stack(frames), readable)


def try_masks(rng, file: int) -> int:
    """Fold masks of frames; returns how many there were."""
    chunks = make_chunks(rng, file, np.dtype("u4"))
    n, bits = len(chunks.values), int(rng.choice((1, 0xFFFFFFFF, rng.integers(1, 1 << 32))))
    chunk_bytes = 4 * PIXELS * chunks.place["chunk_frames"]
    # what was never written is the fill value, which is no damage
    blank = chunks.place["offset"] == -1
    fill = int(rng.choice((0, 4)))
    chunks.values[blank], chunks.readable[blank] = fill, True
    bad, status = np.zeros((n, PIXELS // 8), np.uint8), np.full(n, 77, np.uint8)
    _masks.fold_masks(
        source=ChunkSource(**chunks.place, n_pixels=PIXELS, itemsize=4),
        buffers=make_buffers(chunk_bytes, PIXELS, Inflater()),
        known=KNOWN,
        fill=fill,
        bits=bits,
        bad=bad,
        status=status,
    )
    assert ((status == 0) == chunks.readable).all(), status
    right = np.packbits(chunks.values & np.uint32(bits) != 0, axis=-1, bitorder="little")
    right = right.reshape(n, -1)[chunks.readable]
    assert np.array_equal(bad[chunks.readable], right)
    try_joined_masks(rng, chunks, fill)
    return n


def try_joined_masks(rng, chunks: Chunks, fill: int) -> None:
    """Join the masks of some frames, of which many are copies of those before."""
    n = len(chunks.values)
    again = np.repeat(np.arange(n), rng.integers(0, 3, n))
    place = chunks.place | {
        name: chunks.place[name][again] for name in ("offset", "size", "filters", "index_in_chunk")
    }
    if chunks.readable.all():
        # what lies beyond the end of the file must go on doing so
        for i in np.flatnonzero(rng.random(len(again)) < 0.5).tolist():
            copy_chunk(place, i)
    chunk_bytes = 4 * PIXELS * place["chunk_frames"]
    slot = np.sort(rng.integers(0, 3, len(again))).astype(np.int32)
    held, status = np.full((3, PIXELS), 0xFFFFFFFF, np.uint32), np.full(len(again), 77, np.uint8)
    _masks.join_masks(
        source=ChunkSource(**place, n_pixels=PIXELS, itemsize=4),
        buffers=make_buffers(chunk_bytes, PIXELS, Inflater()),
        packed_before=np.empty(packed_room(chunk_bytes), np.uint8),
        fill=fill,
        slot=slot,
        held=held,
        status=status,
    )
    readable = chunks.readable[again]
    assert ((status == 0) == readable).all(), status
    for i in range(3):
        values = chunks.values[again[readable & (slot == i)]].astype(np.uint32)
        right = np.bitwise_and.reduce(values, initial=np.uint32(0xFFFFFFFF))
        assert np.array_equal(held[i], right.reshape(-1))


def copy_chunk(place: dict, frame: int) -> None:
    """Write the bytes of a frame's chunk to the end of the file once more, and have them read."""
    file, offset, size = place["fd"], int(place["offset"][frame]), int(place["size"][frame])
    if offset >= 0:
        place["offset"][frame] = os.lseek(file, 0, os.SEEK_END)
        os.pwrite(file, os.pread(file, size, offset), place["offset"][frame])


def try_frames(rng, file: int) -> int:
    """Make lists of frames; returns how many there were."""
    dtype = np.dtype(str(rng.choice(("u1", "u1", "u2", "f4"))))
    chunks = make_chunks(rng, file, dtype)
    n, readable = len(chunks.values), chunks.readable
    options = {}
    if rng.random() < 0.3:
        options["masked_in_frame"] = rng.random((n, SS, FS), np.float32) < rng.choice(SHARES)
    if rng.random() < 0.2:
        options["room"] = int(rng.integers(1, 3000))
    good = rng.random((2, SS, FS), np.float32) < rng.choice((0, 0.5, 0.99, 1))
    region = rng.random((SS, FS), np.float32) < 0.5
    row = rng.integers(0, 2, n).astype(np.int32)
    out = run_kernel(chunks.values, good, region, row, source=chunks.place, **options)
    assert ((out.status == 0) == readable).all(), out.status
    masks = options.get("masked_in_frame")
    masks = None if masks is None else masks[readable].astype(np.uint32)
    twin = module_twin(chunks.values[readable], good[row[readable]], region, masks=masks)
    for name in (*EMPTY, "entries"):
        assert getattr(out, name)[readable].tolist() == getattr(twin, name), name
        assert not getattr(out, name)[~readable].any(), name
    assert np.array_equal(out.powder, twin.powder)
    assert np.array_equal(out.invalid, twin.invalid)
    used = 0
    for i, frame in enumerate(np.flatnonzero(readable)):
        if used + twin.entries[i] > options.get("room", used + PIXELS):
            assert out.start[frame] == -1
            continue
        here = slice(out.start[frame], out.stop[frame])
        assert here == slice(used, used + twin.entries[i])
        assert np.array_equal(out.pixel[here], twin.pixel[i])
        assert np.array_equal(out.count[here], twin.count[i])
        used = here.stop
    assert out.used == used
    return n


def main(n_frames: int, seed: int) -> None:
    file = os.memfd_create("chunks")
    done = number = 0
    while done < n_frames:
        rng = np.random.default_rng((seed, number))
        try:
            done += (try_masks if rng.random() < 0.2 else try_frames)(rng, file)
        except BaseException:
            print(f"seed {seed}, number {number}", file=sys.stderr)
            raise
        number += 1
    print(f"{done} frames, {number} files")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
