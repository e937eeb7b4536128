"""Lists made while inflating, against those found in the dense frames of libdeflate."""

import struct
import subprocess
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_with_libdeflate
from modulefiles import (
    LAYOUTS,
    assert_reads,
    make_masks,
    make_table,
    read,
    write_module,
    write_streams,
)
from reference import FS, MODULES, PIXELS, SS

from xfelmpi._kernels import _deflate

MODULE = 3
ALWAYS = 1 << 20
"""A limit that no chunk reaches: nothing is left to the dense way because of its size."""


def images() -> dict[str, np.ndarray]:
    """Return frames, uint8 (65536,), by name; those that h5py users meet come first."""
    rng = np.random.default_rng(5)
    empty = np.zeros(PIXELS, np.uint8)
    frames = {"empty": empty}
    for photons in (1, 50, 300, 1000, 5000):
        image = empty.copy()
        np.add.at(image, rng.integers(0, PIXELS, photons), 1)
        frames[f"{photons} photons"] = image
    image = empty.copy()
    image[(PIXELS * rng.beta(1, 6, 700)).astype(int)] = rng.integers(1, 256, 700)
    frames["uneven"] = image
    for pixel in (0, 1, PIXELS - 2, PIXELS - 1):
        image = empty.copy()
        image[pixel] = 255
        frames[f"pixel {pixel}"] = image
    for step in (2, 3, 64, 255, 259):
        image = empty.copy()
        image[::step] = 1 + np.arange(len(image[::step])) % 3
        frames[f"every {step}"] = image
    frames["ramp"] = np.arange(PIXELS).astype(np.uint8)
    frames["full"] = np.full(PIXELS, 255, np.uint8)
    frames["random"] = rng.integers(0, 256, PIXELS).astype(np.uint8)
    return frames


SPARSE = ("empty", "1 photons", "50 photons", "300 photons", "1000 photons", "pixel 0", "uneven")


def by_zlib(image, level=1, strategy=zlib.Z_DEFAULT_STRATEGY, flush=None, **options) -> bytes:
    """Return the stream of a frame; `flush` ends a block after every quarter."""
    compressor = zlib.compressobj(level, strategy=strategy, **options)
    parts = []
    for quarter in image.reshape(4, -1):
        parts.append(compressor.compress(quarter.tobytes()))
        parts.append(b"" if flush is None else compressor.flush(flush))
    return b"".join([*parts, compressor.flush()])


ENCODERS = {
    **{f"zlib {n}": lambda image, n=n: by_zlib(image, n) for n in range(10)},
    **{f"libdeflate {n}": lambda image, n=n: _deflate.zlib_compress(image, n) for n in range(13)},
    "filtered": lambda image: by_zlib(image, strategy=zlib.Z_FILTERED),
    "huffman only": lambda image: by_zlib(image, strategy=zlib.Z_HUFFMAN_ONLY),
    "run lengths": lambda image: by_zlib(image, strategy=zlib.Z_RLE),
    "fixed": lambda image: by_zlib(image, strategy=zlib.Z_FIXED),
    "small window": lambda image: by_zlib(image, wbits=9),
    "many blocks": lambda image: by_zlib(image, 6, memLevel=4),
    "sync flush": lambda image: by_zlib(image, flush=zlib.Z_SYNC_FLUSH),
    "full flush": lambda image: by_zlib(image, flush=zlib.Z_FULL_FLUSH),
    "block flush": lambda image: by_zlib(image, flush=zlib.Z_BLOCK),
}
"""What writes zlib streams: those that HDF5 and the simulator use, and unusual ones."""

WITHOUT_LISTS = ("zlib 0", "libdeflate 0", "fixed", "huffman only")
WITHOUT_LISTS += ("sync flush", "full flush", "block flush")
"""Encoders of stored blocks, fixed codes, or no distances, which are left to libdeflate."""


def assert_same(folder, streams):
    """Assert that streams are read the same in both ways; returns what was read."""
    about = write_streams(folder / "streams.h5", streams, MODULE)
    rng = np.random.default_rng(1)
    masks = make_masks(
        rng.random((MODULES, 2, SS, FS)) < 0.9,
        rng.random((MODULES, SS, FS)) < 0.5,
        np.arange(352) % 2,
    )
    # a train for every frame, so that the problems name it
    n = len(streams)
    rows = np.arange(n)
    table = make_table({MODULE: (0, rows)}, train=1000 + rows, cell=rows % 352)
    ours, dense = (
        read([about], table, masks, sparse_bytes=limit, room=1 << 20) for limit in (ALWAYS, 0)
    )
    assert dense.n_sparse == 0
    assert ours.problems == dense.problems
    for column in fields(ours.block.sums):
        found = getattr(ours.block.sums, column.name)
        assert np.array_equal(found, getattr(dense.block.sums, column.name)), column.name
    assert np.array_equal(ours.block.start, dense.block.start)
    assert np.array_equal(ours.block.stop, dense.block.stop)
    used = int(ours.block.stop.max(initial=0))
    assert np.array_equal(ours.block.pixel[:used], dense.block.pixel[:used])
    assert np.array_equal(ours.block.count[:used], dense.block.count[:used])
    for name in ("photons", "invalid"):
        assert np.array_equal(getattr(ours.powder, name), getattr(dense.powder, name))
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders(tmp_path, encoder):
    frames = images()
    ours = assert_same(tmp_path, [ENCODERS[encoder](image) for image in frames.values()])
    assert ours.problems == []
    sparse = assert_same(tmp_path, [ENCODERS[encoder](frames[name]) for name in SPARSE])
    if encoder in WITHOUT_LISTS:
        assert sparse.n_sparse < len(SPARSE)
    else:
        assert sparse.n_sparse == len(SPARSE), "declined, and read slowly"


@pytest.mark.parametrize("encoder", ["zlib 1", "zlib 6", "libdeflate 2"])
def test_weak_frames(tmp_path, encoder):
    """Between few photons the same match comes again and again: many are worked off as one."""
    rng = np.random.default_rng(8)
    streams = []
    for photons in [0, 1, 2, 5, 10, 30, 60, 400] * 4:
        image = np.zeros(SS * FS, np.uint8)
        np.add.at(image, rng.integers(0, image.size, photons), 1)
        streams.append(ENCODERS[encoder](image))
    # less than SPARSE_WEAK in sparse_inflate.h, and more
    assert min(map(len, streams)) < 500 < 700 < max(map(len, streams))
    ours = assert_same(tmp_path, streams)
    assert ours.problems == []
    assert ours.n_sparse == len(streams), "declined, and read slowly"


def test_pixels_of_two_bytes(tmp_path):
    """Low bytes and high ones are two planes: a pixel can have either, or both."""
    rng = np.random.default_rng(3)
    frames = np.zeros((6, PIXELS), np.uint16)
    for frame, lit in zip(frames[1:], (1, 50, 300, 300, 2000), strict=True):
        frame[rng.integers(0, PIXELS, lit)] = rng.choice([1, 2, 255, 256, 257, 512, 65535], lit)
    frames[3] %= 3
    frames[4, [0, -1]] = 256, 511
    frames = frames.reshape(-1, SS, FS)
    for layout in ("shuffle gzip", "gzip"):
        about = write_module(tmp_path / f"{layout}.h5", frames, **LAYOUTS[layout])
        reading = assert_reads(about, frames)
        assert reading.n_sparse == (5 if layout == "shuffle gzip" else 0)


def test_large_chunks_take_the_dense_way(tmp_path):
    """Where so many photons are that this is faster, by the limit of the program itself."""
    frames = images()
    streams = [zlib.compress(frames[name], 1) for name in ("300 photons", "random")]
    about = write_streams(tmp_path / "a.h5", streams, MODULE)
    assert read([about], make_table({MODULE: (0, [0, 1, 1])})).n_sparse == 1


@pytest.mark.parametrize("encoder", ["zlib 1", "libdeflate 2"])
def test_every_truncation(tmp_path, encoder):
    stream = ENCODERS[encoder](images()["50 photons"])
    ours = assert_same(tmp_path, [stream[:n] for n in range(1, len(stream) + 1)])
    assert ours.n_sparse == 1, "only the whole stream is right"
    assert len(ours.problems) == len(stream) - 1


@pytest.mark.parametrize("encoder", ["zlib 1", "libdeflate 2"])
def test_every_bit_flipped(tmp_path, encoder):
    stream = ENCODERS[encoder](images()["50 photons"])
    flipped = []
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(damaged))
    ours = assert_same(tmp_path, flipped)
    # copies of other zeros, and bits that say nothing, are as good
    assert len(ours.problems) > len(flipped) / 2
    assert ours.n_sparse + len(ours.problems) >= len(flipped) - 8


def test_bytes_behind_the_stream(tmp_path):
    stream = zlib.compress(images()["300 photons"], 1)
    streams = [stream + bytes([7]) * n for n in (0, 1, 4, 5, 64)]
    assert assert_same(tmp_path, streams).n_sparse == len(streams)


@pytest.mark.parametrize("n", [0, 1, 65535, 65537, 131072])
def test_another_length(tmp_path, n):
    """A right stream, of a frame that is too small or too large."""
    ours = assert_same(tmp_path, [zlib.compress(np.eye(1, n, n // 2, np.uint8), 1)])
    assert len(ours.problems) == 1
    assert ours.n_sparse == 0


def test_too_many_codes(tmp_path):
    """Codes of 2 bits are complete, and there is one of 4 bits, too."""
    begin, end = "7801edc10101000000a220ff9fae23c002", "803a0f000100"
    ours = assert_same(tmp_path, [bytes.fromhex(begin) + bytes(62) + bytes.fromhex(end)])
    assert ours.n_sparse == 0
    assert len(ours.problems) == 1


def test_preset_dictionary(tmp_path):
    stream = by_zlib(images()["300 photons"], zdict=bytes(300))
    assert len(assert_same(tmp_path, [stream]).problems) == 1


def write_corpus(path: Path) -> None:
    """Write the streams of all encoders as the fuzz program reads them."""
    with open(path, "wb") as file:
        for image in images().values():
            for encode in ENCODERS.values():
                stream = encode(image)
                file.write(struct.pack("=I", len(stream)) + stream)


@pytest.mark.slow
def test_fuzz(tmp_path):
    """A short run of the fuzz program; `fuzz/sparse_inflate.c` says how to make it longer."""
    write_corpus(tmp_path / "corpus")
    checks = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_with_libdeflate("fuzz/sparse_inflate.c", tmp_path / "fuzz", *checks)
    done = subprocess.run(
        [program, "15000", "1", "corpus"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    executions, valid, accepted = (int(word) for word in done.stdout.split() if word.isdigit())
    assert executions == 15000
    assert valid > accepted > 2000, "too few streams reach the end"
