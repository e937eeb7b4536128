"""The files with frames that a rank has open: no more at a time than the system allows."""

import errno
import os
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

import h5py

from xfelmpi.core.errors import OutOfFilesError
from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.io.input_file import guarded_call
from xfelmpi.run.frames.frame_dataset import FrameDataset, MaskDataset


class OpenModuleFile(FrameDataset):
    """One file with frames of a module, opened once.

    Raises
    ------
    OSError, KeyError
        If the file or its dataset cannot be opened.
    """

    def __init__(self, about: ModuleFile):
        self.about = about
        self._file = h5py.File(about.path, "r")
        try:
            data, fd = self._file[about.dataset], os.open(about.path, os.O_RDONLY)
        except (OSError, KeyError):
            self._file.close()
            raise
        super().__init__(data, fd)

    @cached_property
    def masks(self) -> MaskDataset:
        """The masks of the frames.

        Raises
        ------
        OSError, KeyError, ValueError
            If there are none, or none that can be used.
        """
        return MaskDataset(self._file[self.about.mask_dataset], self._fd, self.module_shape)

    def close(self) -> None:
        """Close the file."""
        guarded_call(self.about.path, self._file.close)
        os.close(self._fd)


class FilePool:
    """The files of a rank, the least recently used closed beyond `limit`."""

    def __init__(self, files: tuple[ModuleFile, ...], limit: int = 40):
        self._files = files
        self._limit = limit
        self._open: OrderedDict[int, OpenModuleFile] = OrderedDict()

    def get(self, number: int) -> OpenModuleFile:
        """Return a file by its number in the run index, opened if need be."""
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            try:
                path = self._files[number].path
                self._open[number] = guarded_call(path, OpenModuleFile, self._files[number])
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # no damage of this file: every further one would be lost as well
                    raise OutOfFilesError(f"{self._files[number].path}: {error}") from None
                raise
        return self._open[number]

    def name(self, number: int) -> str:
        """Return the name of a file, without its folder."""
        return Path(self._files[number].path).name

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()
