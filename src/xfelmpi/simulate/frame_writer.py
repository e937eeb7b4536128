"""Writing the images of a file frame by frame, in chunks of any number of frames."""

import h5py
import numpy as np

from xfelmpi._kernels._deflate import Deflater

GZIP_LEVEL = 1
"""What the files declare, as the facility's do."""

DEFLATE_LEVEL = 2
"""libdeflate's: on sparse frames twice as fast as its level 1, with chunks of the same size."""


class FrameWriter:
    """Writes a dataset frame by frame.

    Chunks are compressed here and go around HDF5's filters, which would take five times as long.

    Parameters
    ----------
    images : h5py.Group
        The group to make the datasets in.
    shape : tuple of int
        Shape of the dataset, frames first.
    dtype : dtype-like
        Its data type.
    name : str
        Its name.
    chunk_frames : int
        Frames in a chunk, 0 for contiguous data.
    compressed : bool
        Whether to shuffle and compress the chunks.
    resizable : bool
        Whether the dataset can get more frames, if it has chunks.
    per_train : int
        Frames of a train, if the dataset has an axis for them; then no chunk has frames of two
        trains. Else 0.
    """

    def __init__(
        self,
        images: h5py.Group,
        shape: tuple[int, ...],
        dtype,
        *,
        name: str = "data",
        chunk_frames: int,
        compressed: bool = False,
        resizable: bool = False,
        per_train: int = 0,
    ):
        self._images = images
        self._frame_shape = shape[1:]
        self._contiguous = chunk_frames == 0 or shape[0] == 0
        self._per_train = per_train
        length = max(1, min(chunk_frames, per_train or shape[0]))
        self._chunk = np.zeros((length, int(np.prod(self._frame_shape))), dtype)
        self._filters = {}
        if compressed and not self._contiguous:
            self._filters = {
                "shuffle": True,
                "compression": "gzip",
                "compression_opts": GZIP_LEVEL,
            }
        self._deflater = Deflater(DEFLATE_LEVEL) if compressed else None
        one_train = (1,) if per_train else ()
        layout = {}
        if not self._contiguous:
            layout["chunks"] = (*one_train, length, *self._frame_shape)
        if per_train:
            shape = (shape[0] // per_train, per_train, *self._frame_shape)
        if resizable and layout:
            layout["maxshape"] = (None, *self._frame_shape)
        self._dataset = images.create_dataset(name, shape, dtype, **layout, **self._filters)
        self._next = 0

    def create_empty(self, name: str, dtype) -> None:
        """Make another dataset like the data; it reads as 0, no chunk is ever written."""
        shape = self._dataset.shape
        ones = (1,) * (len(shape) - len(self._frame_shape))
        chunks = (*ones, *self._frame_shape) if shape[0] else None
        self._images.create_dataset(name, shape, dtype, chunks=chunks, **self._filters)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None and self._in_row % len(self._chunk):
            self._flush()

    @property
    def _in_row(self) -> int:
        """Number of the next frame in its train, or in the dataset without an axis of trains."""
        return self._next % self._per_train if self._per_train else self._next

    def frame(self) -> np.ndarray:
        """Return the flat image of the next frame, to be filled, with anything in it."""
        return self._chunk[self._in_row % len(self._chunk)]

    def finish_frame(self) -> None:
        """Take the image of `frame` as it now is."""
        self._next += 1
        if self._in_row % len(self._chunk) == 0:
            self._flush()

    def _flush(self) -> None:
        """Write the current chunk, which begins at a multiple of its length."""
        length, last = len(self._chunk), self._next - 1
        train, last = divmod(last, self._per_train) if self._per_train else (None, last)
        start = last // length * length
        row = () if train is None else (train,)
        if self._contiguous:
            part = (*row, slice(start, last + 1))
            self._dataset[part] = self._chunk.reshape(-1, *self._frame_shape)
            return
        # frames behind the end of the file are in the chunk but never read
        self._chunk[last + 1 - start :] = 0
        corner = (*row, start, *(0 for _ in self._frame_shape))
        self._dataset.id.write_direct_chunk(corner, self._encoded())

    def _encoded(self) -> bytes:
        """Return the bytes of the chunk as HDF5's shuffle and gzip filters would store them."""
        data = self._chunk.reshape(-1)
        if self._deflater is None:
            return data.tobytes()
        data = data.view(np.uint8)
        if self._chunk.itemsize > 1:
            data = data.reshape(-1, self._chunk.itemsize).T.reshape(-1)
        return self._deflater.compress(data)
