"""Frames as words come back as they were; what does not fit, and words that are no frames."""

import numpy as np
import pytest

from xfelmpi._kernels._packed import add_entries, pack, unpack

LONG_GAP, LONG_COUNT = 0xFFF, 0xF

FRAMES = {
    "empty": ([], []),
    "first pixel": ([0], [1]),
    "longest short ones": ([LONG_GAP - 1], [LONG_COUNT - 1]),
    "shortest long ones": ([LONG_GAP], [LONG_COUNT]),
    "last pixel": ([0, 2**32 - 1], [0, 65535]),
    "neighbours": ([5, 6, 7, 70_000, 70_001], [1, 0, 300, 65535, 2]),
}


def lists(names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixel = [p for name in names for p in FRAMES[name][0]]
    count = [c for name in names for c in FRAMES[name][1]]
    indptr = np.cumsum([0] + [len(FRAMES[name][0]) for name in names])
    return indptr, np.array(pixel, np.uint32), np.array(count, np.uint16)


def packed(indptr, pixel, count, first=0, room=100):
    words, stop = np.zeros(room, np.uint16), np.zeros(len(indptr) - 1, np.int64)
    n = pack(indptr, pixel, count, words, first, room, stop)
    return words, np.concatenate([[first], stop[:n]])


def unpacked(words, start, stop, indptr):
    pixel, count = np.zeros(indptr[-1], np.uint32), np.zeros(indptr[-1], np.uint16)
    return unpack(words, start, stop, indptr, pixel, count), pixel, count


@pytest.mark.parametrize(
    "names",
    [*([name] for name in FRAMES), [*FRAMES, *FRAMES], []],
    ids=lambda names: "+".join(names),
)
def test_frames_come_back(names):
    indptr, pixel, count = lists(names)
    words, ends = packed(indptr, pixel, count, first=3)
    n, pixels, counts = unpacked(words, ends[:-1], ends[1:], indptr)
    assert n == len(names)
    np.testing.assert_array_equal(pixels, pixel)
    np.testing.assert_array_equal(counts, count)
    assert not words[:3].any()
    assert not words[ends[-1] :].any()


def test_most_entries_take_one_word():
    pixel = np.arange(0, 1 << 20, 7, dtype=np.uint32)
    indptr, count = np.array([0, len(pixel)]), np.full(len(pixel), 14, np.uint16)
    _, ends = packed(indptr, pixel, count, room=1 << 20)
    assert ends.tolist() == [0, len(pixel)]


@pytest.mark.parametrize("room", range(20))
def test_only_whole_frames_that_fit(room):
    """Nothing is written behind the room; the frames before one that does not fit are there."""
    indptr, pixel, count = lists(FRAMES)
    _, all_ends = packed(indptr, pixel, count)
    words, stop = np.zeros(100, np.uint16), np.zeros(len(FRAMES), np.int64)
    n = pack(indptr, pixel, count, words, 0, room, stop)
    assert n == int((all_ends[1:] <= room).sum())
    assert stop[:n].tolist() == all_ends[1 : n + 1].tolist()
    assert not words[room:].any()


@pytest.mark.parametrize("change", ["cut", "one more", "one fewer", "before", "behind"])
def test_words_that_are_not_the_frame(change):
    """None reads or writes outside of its arrays; the frames before are right."""
    indptr, pixel, count = lists(["neighbours", "neighbours"])
    words, ends = packed(indptr, pixel, count)
    start, stop = ends[:-1].copy(), ends[1:].copy()
    if change == "cut":
        stop[1] -= 1
    elif change == "before":
        start[1] = -1
    elif change == "behind":
        stop[1] = len(words) + 1
    else:
        indptr[2] += 1 if change == "one more" else -1
    n, pixels, counts = unpacked(words, start, stop, indptr)
    assert n == 1
    np.testing.assert_array_equal(pixels[:5], pixel[:5])
    np.testing.assert_array_equal(counts[:5], count[:5])


def test_arrays_that_do_not_fit():
    indptr, pixel, count = lists(["neighbours"])
    words, stop = np.zeros(20, np.uint16), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        pack(indptr, pixel, count, words, 0, 21, stop)
    with pytest.raises(ValueError, match="do not fit"):
        unpack(words, stop, stop[:0], indptr, pixel, count)
    with pytest.raises(ValueError, match="end before"):
        pack(indptr + 1, pixel, count, words, 0, 20, stop)
    with pytest.raises(ValueError, match="end before"):
        unpack(words, stop, stop, indptr, pixel[:4], count)


def test_entries_are_added():
    photons, invalid = np.full(4, 2**40, np.uint64), np.full(4, 7, np.uint32)
    pixel, count = (
        np.array([3, 0, 3, 0, 3], np.uint32),
        np.array([65535, 0, 1, 0, 65535], np.uint16),
    )
    add_entries(pixel, count, photons, invalid)
    assert photons.tolist() == [2**40, 2**40, 2**40, 2**40 + 2 * 65535 + 1]
    assert invalid.tolist() == [9, 7, 7, 7]


def test_entries_outside_of_the_frame_are_refused():
    photons, invalid = np.zeros(4, np.uint64), np.zeros(4, np.uint32)
    for pixel in (4, 2**32 - 1):
        with pytest.raises(IndexError, match=f"pixel {pixel} of a frame of 4 pixels"):
            add_entries(np.array([pixel], np.uint32), np.ones(1, np.uint16), photons, invalid)
    with pytest.raises(ValueError, match="do not fit"):
        add_entries(np.zeros(2, np.uint32), np.ones(1, np.uint16), photons, invalid)
    with pytest.raises(ValueError, match="do not fit"):
        add_entries(np.zeros(1, np.uint32), np.ones(1, np.uint16), photons, invalid[:3])
    assert not photons.any()
    assert not invalid.any()
