"""Frames behind a virtual dataset, read from its sources one by one.

HDF5 would give zeros for a source that is missing, and not return from one that is its own source.
"""

import errno
from collections import OrderedDict

import h5py
import numpy as np

from xfelmpi._kernels._frames import NEVER_WRITTEN, UNREADABLE
from xfelmpi.core.errors import InputError, OutOfFilesError
from xfelmpi.core.log import log
from xfelmpi.io.input_file import Origins, guarded_call
from xfelmpi.io.virtual_sources import dataset_identity, lacking, map_rows, open_source
from xfelmpi.run.frames.frame_bytes import READ_ERRORS, FrameBytes, MissingFrameError, in_memory
from xfelmpi.run.frames.frame_origin import require_own_frames

MOST_OPEN = 8
"""Sources of a virtual dataset that are open at a time."""


class VirtualFrames:
    """The sources of one virtual dataset.

    Parameters
    ----------
    data : h5py.Dataset
    kind : type
        Of `FrameDataset`, for the sources.
    origins : Origins
        Gets the sources' files.
    above : frozenset
        Virtual datasets that this one is a source of, as `dataset_identity` names them.
    frame_axes : int
        Axes that number the frames, 1 or 2.

    Attributes
    ----------
    mapped : bool
        Whole rows are mapped to whole rows, so that frames can be read from the sources.
    lacking : str
        Otherwise: what is missing, so that no frame can be trusted; empty if HDF5 may read.
    dtype : numpy.dtype
        Of the frames.
    """

    def __init__(
        self, data: h5py.Dataset, kind: type, origins: Origins, above: frozenset, frame_axes: int
    ):
        self._data, self._kind, self._origins = data, kind, origins
        self.dtype = data.dtype
        self._above = above | {dataset_identity(data)}
        self._axes = frame_axes
        planes = data.ndim - frame_axes == 3
        self._nothing = "u2" if planes else "u4" if kind._fill_value_counts else "f4"
        self._open: OrderedDict[tuple[str, str], tuple] = OrderedDict()
        parts = map_rows(data)
        self.mapped = parts is not None
        self.lacking = "" if self.mapped else lacking(data, above=above)
        self._source = np.full(len(data), -1, np.int32)
        self._row = np.zeros(len(data), np.int64)
        names: dict[tuple[str, str], int] = {}
        for part in parts or ():
            name = part.file, part.dataset
            self._source[part.rows] = names.setdefault(name, len(names))
            self._row[part.rows] = part.source_rows
        self._names = list(names)
        if frame_axes > 1:
            # by frame instead of by train
            n = data.shape[1]
            self._source = np.repeat(self._source, n)
            self._row = (self._row[:, None] * n + np.arange(n)).reshape(-1)

    def source_of(self, row: int):
        """Return the dataset that holds a row, and the row there.

        Raises
        ------
        MissingFrameError
            If it is not there.
        """
        source = self._get(self._source[row])
        if isinstance(source, str) or self._row[row] >= len(source):
            raise MissingFrameError(source if isinstance(source, str) else _beyond(source))
        return source, int(self._row[row])

    def frames(self, rows: np.ndarray) -> FrameBytes:
        """Locate or read frames by their rows, int (frame,)."""
        numbers = np.unique(self._source[rows])
        if len(numbers) == 1:
            found = self._from_one(numbers[0], self._row[rows], "frames")
            # the fill value of a source is none of this dataset's
            found.offset[found.offset == NEVER_WRITTEN] = UNREADABLE
            return found
        parts = {
            number: self._from_one(number, self._row[rows[self._source[rows] == number]], "dense")
            for number in numbers
        }
        offset = np.full(len(rows), UNREADABLE, np.int64)
        start, reasons = 0, []
        for number, part in parts.items():
            offset[self._source[rows] == number] = np.where(
                part.offset >= 0, part.offset + start, UNREADABLE
            )
            start += part.memory.nbytes
            reasons.append(part.lacking)
        some = max(parts.values(), key=lambda part: part.memory.nbytes)
        memory = np.concatenate([part.memory for part in parts.values()]).view(some.dtype)
        size = int(some.size[0]) if len(some.size) else 0
        reason = "; ".join(filter(None, reasons))
        return in_memory(memory, offset, size, reason, from_integers=some.from_integers)

    def _from_one(self, number: int, rows: np.ndarray, how: str) -> FrameBytes:
        """Return frames of one source, or nothing but the reason why there are none."""
        source = self._get(number)
        reason = source if isinstance(source, str) else ""
        if not reason and (rows >= len(source)).any():
            reason = _beyond(source)
            inside = rows < len(source)
            if inside.any():
                found = source.dense(rows[inside])
                offset = np.full(len(rows), UNREADABLE, np.int64)
                offset[inside] = found.offset
                values, size = found.memory.view(found.dtype), int(found.size[0])
                return in_memory(values, offset, size, reason, from_integers=found.from_integers)
        if reason:
            offset = np.full(len(rows), UNREADABLE, np.int64)
            integers = self.dtype.kind != "f"
            return in_memory(np.empty(0, self._nothing), offset, 0, reason, from_integers=integers)
        return getattr(source, how)(rows)

    def _get(self, number: int):
        """Return an opened source, or why it cannot be read."""
        if number < 0:
            return "nothing is mapped there in the virtual dataset"
        name = self._names[number]
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name][0]
        if len(self._open) >= MOST_OPEN:
            self._close(self._open.popitem(last=False)[1])
        file = source = None
        try:
            file, data = open_source(self._data, *name)
            if dataset_identity(data) in self._above:
                # other programs crash on it
                log.error("%s: %s is its own source", data.file.filename, data.name)
                raise ValueError("it is its own source")
            self._require_own(number, data)
            path = data.file.filename
            arguments = data, self._origins, self._above, self._axes
            source = guarded_call(path, self._kind, *arguments)
            if data.shape[1:] != self._data.shape[1:]:
                raise ValueError(f"its frames are {data.shape[1:]}")
            if data.id.get_type() != self._data.id.get_type() or data.dtype != self.dtype:
                source.convert(self.dtype)
        except InputError:
            raise
        except READ_ERRORS as error:
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                raise OutOfFilesError(f"{name[0]}: {error}") from None
            source = f"source {name[0]} of the virtual dataset: {' '.join(str(error).split())}"
        self._open[name] = source, file
        return source

    def _require_own(self, number: int, data: h5py.Dataset) -> None:
        """Check that a source has frames of this module."""
        here, rows, there = self._data, None, None
        if self._axes == 1:
            rows = np.flatnonzero(self._source == number)
            there = self._row[rows]
        require_own_frames(here.file, here.name, data, rows, there)

    def close(self) -> None:
        """Close all sources."""
        while self._open:
            self._close(self._open.popitem()[1])

    @staticmethod
    def _close(opened) -> None:
        source, file = opened
        if not isinstance(source, str):
            source.close()
        if file is not None:
            guarded_call(file.filename, file.close)


def _beyond(source) -> str:
    return f"a source of the virtual dataset has only {len(source)} frames"
