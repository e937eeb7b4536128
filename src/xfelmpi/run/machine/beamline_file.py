"""A file with beamline data, open: what is asked of it again and again is looked up once.

A file of a usual format is opened once, without EXtra-data, which opens whatever is unusual.
"""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.io.facility_file import open_access, plain_sources
from xfelmpi.io.input_file import guarded_call, open_hdf5
from xfelmpi.io.links import leads_on
from xfelmpi.io.plain_values import plain_form
from xfelmpi.run import train_index


class BeamlineFile:
    """A file that can hold beamline data.

    Parameters
    ----------
    path : Path
    plain : bool
        Try to do without EXtra-data, which closes files that were not used for long.

    Attributes
    ----------
    filename : str
        Absolute.
    name : str
    control_sources, instrument_sources : frozenset of str
        As EXtra-data has them.

    Raises
    ------
    Exception
        Of any class if it cannot be opened.
    """

    def __init__(self, path: Path, *, plain: bool = True):
        self.name = path.name
        self._access: Any = None
        self._file: h5py.File | None = None
        self._linked: set[str] = set()
        self._trains: np.ndarray | None = None
        self._index: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        try:
            if not plain:
                raise ValueError("by EXtra-data")
            self._file, sources = guarded_call(path, _open_plainly, path)
            self.filename = os.path.abspath(path)  # noqa: PTH100, as EXtra-data has it
        except Exception:
            # whatever it is: EXtra-data knows every version of the format, or the error
            self._access = open_access(path)
            self.filename = self._access.filename
            sources = self._access.instrument_sources, self._access.control_sources
        self.instrument_sources, self.control_sources = sources

    @property
    def file(self) -> h5py.File:
        """The file itself."""
        return self._access.file if self._file is None else self._file

    @property
    def all_sources(self) -> frozenset[str]:
        """Control and instrument sources."""
        return self.control_sources | self.instrument_sources

    @property
    def access(self):
        """The file as EXtra-data has it."""
        if self._access is None:
            self._access = open_access(self.filename)
        return self._access

    @property
    def reduction_sources(self) -> frozenset[str]:
        """What the facility left out, as EXtra-data has it; none in versions without it."""
        return self._auxiliary("reduction_sources")

    @property
    def errata_sources(self) -> frozenset[str]:
        """What the facility knows to be wrong, as EXtra-data has it."""
        return self._auxiliary("errata_sources")

    def _auxiliary(self, which: str) -> frozenset[str]:
        if self._file is not None and not self.has("METADATA/auxiliarySources"):
            return frozenset()
        return getattr(self.access, which, frozenset())

    def has(self, path: str) -> bool:
        """Return whether there is something of this name; links to pipes are not followed.

        Raises
        ------
        OSError
            If there is such a link.
        """
        return leads_on(self.file, path, self._linked)

    def rows_of_trains(self, group: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `train_index.rows_of_trains` does, read once; not to be changed."""
        if group not in self._index:
            if self._trains is None:
                self._trains = train_index.listed_trains(self.file)
            self._index[group] = train_index.rows_of_trains(self.file, group, self._trains)
        return self._index[group]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        if self._access is not None:
            self._access.close()


def _open_plainly(path: Path) -> tuple[h5py.File, tuple[frozenset[str], frozenset[str]]]:
    """Return a file of a usual format, open, and its instrument and control sources.

    Raises
    ------
    Exception
        Of any class if it is unusual or damaged: EXtra-data opens it, or says what is wrong.
    """
    file = open_hdf5(path)
    try:
        version, instrument, control = plain_sources(file, all_strings=True)
        # without these EXtra-data does not open it, either
        trains, flags = (plain_form(file, f"INDEX/{name}") for name in ("trainId", "flag"))
        if trains is None or flags is None:
            raise InputError(f"INDEX of format {version} is not stored as usual")
    except Exception:
        file.close()
        raise
    return file, (instrument, control)
