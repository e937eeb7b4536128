"""The table of frames in less memory."""

import numpy as np
import pytest

from xfelmpi.core.frame_table import FrameTable

N, MODULES = 7, 16


def a_table(file: np.ndarray, row: np.ndarray) -> FrameTable:
    ids = np.arange(len(file), dtype=np.uint64)
    return FrameTable.of_places(ids, ids.astype(np.uint16), ids, file, row)


def same_rows() -> tuple[np.ndarray, np.ndarray]:
    row = np.repeat(np.arange(N, dtype=np.int32)[:, None], MODULES, axis=1)
    return np.tile(np.arange(MODULES, dtype=np.int32), (N, 1)), row


def test_rows_that_all_modules_share_are_kept_once():
    file, row = same_rows()
    table = a_table(file, row).compact()
    assert table.file.dtype == np.int16
    assert table.row.strides == (4, 0)
    np.testing.assert_array_equal(table.file, file)
    np.testing.assert_array_equal(table.row, row)
    part = table[np.array([5, 2])]
    assert part.n_modules == MODULES
    np.testing.assert_array_equal(part.row, row[[5, 2]])
    np.testing.assert_array_equal(table[2:4].row, row[2:4])


@pytest.mark.parametrize("module", [0, 3, 15])
def test_rows_of_modules_that_differ_stay(module):
    file, row = same_rows()
    row[N // 2, module] = 0
    file[N // 2, module] = -1
    table = a_table(file, row).compact()
    assert table.row is row
    np.testing.assert_array_equal(table.file, file)


def test_more_files_than_short_numbers_have():
    file, row = same_rows()
    file[0, 0] = np.iinfo(np.int16).max + 1
    table = a_table(file, row).compact()
    assert table.file.dtype == np.int32
    np.testing.assert_array_equal(table.file, file)


def test_files_are_named_once_for_frames_in_a_row():
    file, row = (np.repeat(x, 100, axis=0) for x in next_file_and_other_order())
    file[250, 3] = -1
    table = a_table(file, row)
    assert table.group.dtype == np.int32
    assert np.bincount(table.group).tolist() == [250, 1, 149, 300]
    np.testing.assert_array_equal(table.file, file)
    np.testing.assert_array_equal(table[240:260].file, file[240:260])
    assert table.file_of(250, 3) == -1
    np.testing.assert_array_equal(table.file_of(slice(240, 260), 3), file[240:260, 3])


def test_no_frames():
    file, row = same_rows()
    assert len(a_table(file[:0], row[:0]).compact()) == 0


def absent(file: np.ndarray, row: np.ndarray, frame, module) -> None:
    file[frame, module], row[frame, module] = -1, 0


def whole_run():
    return same_rows()


def lacking_frames():
    file, row = same_rows()
    absent(file, row, [2, 3, 6], [0, 0, 5])
    absent(file, row, slice(None), 9)
    return file, row


def next_file_and_other_order():
    file, row = same_rows()
    file[4:] += MODULES
    row[:, 3] = row[::-1, 3]
    return file, row


def many_frames():
    file, row = (np.concatenate([x] * 2000) for x in lacking_frames())
    file[9000:, 1] = 40_000
    return file, row


@pytest.mark.parametrize(
    "places", [whole_run, lacking_frames, next_file_and_other_order, many_frames]
)
def test_segments_tell_where_all_frames_are(places):
    file, row = places()
    table = a_table(file, row)
    for module, first, end, number, start in table.segments.tolist():
        assert (file[first:end, module] == number).all()
        assert row[first:end, module].tolist() == list(range(start, start + end - first))
        follows = end < len(file) and file[end, module] == number
        assert not follows or row[end, module] != start + end - first
    order = [tuple(segment) for segment in table.segments[:, :2].tolist()]
    assert order == sorted(order)
    ids = table.train_id, table.cell_id, table.pulse_id
    again = FrameTable.of_segments(*ids, table.segments, MODULES)
    compact = table.compact()
    for name in ("file", "row"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
        assert getattr(again, name).dtype == getattr(compact, name).dtype
    assert (again.row.strides[1] == 0) == (compact.row.strides[1] == 0)


def test_segments_of_no_frames():
    file, row = same_rows()
    table = a_table(file[:0], row[:0])
    assert table.segments.shape == (0, 5)
    ids = table.train_id, table.cell_id, table.pulse_id
    assert FrameTable.of_segments(*ids, table.segments, MODULES).file.shape == (0, MODULES)
