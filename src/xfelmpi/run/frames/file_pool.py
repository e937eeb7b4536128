"""The files with frames that a rank has open: no more at a time than the system allows."""

import errno
import os
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

from xfelmpi.core.errors import OutOfFilesError
from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.io.dataset_storage import home_descriptor
from xfelmpi.io.input_file import (
    ChangedFileError,
    Origins,
    file_stamp,
    guarded_call,
    open_hdf5,
)
from xfelmpi.io.links import require_files
from xfelmpi.run.frames.frame_dataset import FrameDataset, MaskDataset
from xfelmpi.run.frames.frame_origin import require_own_frames


class OpenModuleFile(FrameDataset):
    """One file with frames of a module, opened once.

    Raises
    ------
    OSError, KeyError
        If the file or its dataset cannot be opened.
    """

    def __init__(self, about: ModuleFile, origins: Origins | None = None):
        self.about = about
        self._file = open_hdf5(about.path)
        try:
            self._check_unchanged()
            require_files(self._file, about.dataset, about.mask_dataset)
            data = self._file[about.dataset]
            require_own_frames(self._file, about.dataset, data)
            super().__init__(data, origins, frame_axes=about.frame_axes)
        except Exception:
            self._file.close()
            raise
        self._origins.add(about.path, home_descriptor(self._file))

    def _check_unchanged(self) -> None:
        now = file_stamp(os.fstat(home_descriptor(self._file)))
        if self.about.stamp and now != self.about.stamp:
            raise ChangedFileError(
                "changed since it was indexed: is the run being corrected again?"
            )

    @cached_property
    def masks(self) -> MaskDataset:
        """The masks of the frames.

        Raises
        ------
        OSError, KeyError, ValueError
            If there are none, or none that can be used.
        """
        masks = self._file[self.about.mask_dataset]
        require_own_frames(self._file, self.about.mask_dataset, masks)
        shape = *self._data.shape[1 : self.about.frame_axes], *self.module_shape
        arguments = masks, self._origins, frozenset(), self.about.frame_axes, shape
        return guarded_call(self.about.path, MaskDataset, *arguments)

    def close(self) -> None:
        """Close the file."""
        super().close()
        if "masks" in self.__dict__:
            self.masks.close()
        guarded_call(self.about.path, self._file.close)


class FilePool:
    """The files of a rank, the least recently used closed beyond a limit.

    Parameters
    ----------
    files : tuple of ModuleFile
        Of the run index.
    limit : int
        Files that are open at a time, at most.
    """

    def __init__(self, files: tuple[ModuleFile, ...], limit: int = 40):
        self._files = files
        self._limit = limit
        self._open: OrderedDict[int, OpenModuleFile] = OrderedDict()
        self._origins = Origins()

    def get(self, number: int) -> OpenModuleFile:
        """Return a file by its number in the run index, opened if need be.

        Raises
        ------
        OSError, KeyError
            If it cannot be opened.
        OutOfFilesError
            If the process may not open another file.
        """
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            try:
                about = self._files[number]
                self._open[number] = guarded_call(about.path, OpenModuleFile, about, self._origins)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # no damage of this file: every further one would be lost as well
                    raise OutOfFilesError(f"{self._files[number].path}: {error}") from None
                raise
        return self._open[number]

    def check_unchanged(self) -> None:
        """Check that all files that frames were read from are still the same.

        Raises
        ------
        InputError
            If one was replaced or written to.
        """
        self._origins.check()

    def name(self, number: int) -> str:
        """Return the name of a file, without its folder."""
        return Path(self._files[number].path).name

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()
