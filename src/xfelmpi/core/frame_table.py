"""Which frame is where: the table that the index makes and every later stage reads."""

from dataclasses import dataclass

import numpy as np

FARTHEST_TRAIN = 1_000_000
"""Trains (28 hours) from the run's median train beyond which a train ID cannot be of this run."""


@dataclass(frozen=True)
class ModuleFile:
    """One file with frames of one module.

    Parameters
    ----------
    path : str
        The file.
    module : int
        Module number.
    dataset : str
        Path of the frames in the file: (frame, ss, fs), or (train, cell, ss, fs).
    dtype : str
        Of the frames, in numpy's notation, e.g. ``<f4``; empty if nobody needs it.
    has_mask : bool
        A mask of every frame lies beside them.
    stamp : str
        Inode, size and time of the file when it was indexed; empty if nobody looked.
    frames_per_train : int
        Frames along the second axis, if the dataset has one for them; else 0. A frame's row counts
        the frames of all trains.
    """

    path: str
    module: int
    dataset: str
    dtype: str = ""
    has_mask: bool = False
    stamp: str = ""
    frames_per_train: int = 0

    @property
    def frame_axes(self) -> int:
        """How many axes number the frames."""
        return 2 if self.frames_per_train else 1

    @property
    def mask_dataset(self) -> str:
        """Path of the frames' masks in the file, if there are any."""
        return self.dataset.rpartition("/")[0] + "/mask"


@dataclass(frozen=True)
class FrameTable:
    """Frames in ascending (trainId, cellId) order, and where each module has them.

    Parameters
    ----------
    train_id, pulse_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    file : ndarray, int32 or int16 (frame, module)
        Index of the file that has the module's frame, -1 where the module lacks it.
    row : ndarray, int32 (frame, module)
        Row in that file's dataset; not to be changed.
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    pulse_id: np.ndarray
    file: np.ndarray
    row: np.ndarray

    @property
    def n_modules(self) -> int:
        """Modules of the detector, whether they have frames or not."""
        return self.file.shape[1]

    def __len__(self) -> int:
        return len(self.train_id)

    def compact(self) -> "FrameTable":
        """Return the same table in a quarter of its memory, as far as the run allows.

        In most runs all modules have a frame in the same row of their files, which are few: one
        row stands for all, and files have short numbers.
        """
        file, row = self.file, self.row
        if file.max(initial=0) <= np.iinfo(np.int16).max:
            file = file.astype(np.int16)
        if all(np.array_equal(row[:, 0], column) for column in row.T[1:]):
            row = np.broadcast_to(row[:, :1].copy(), row.shape)
        return FrameTable(self.train_id, self.cell_id, self.pulse_id, file, row)

    def __getitem__(self, rows) -> "FrameTable":
        return FrameTable(
            self.train_id[rows],
            self.cell_id[rows],
            self.pulse_id[rows],
            self.file[rows],
            self.row[rows],
        )
