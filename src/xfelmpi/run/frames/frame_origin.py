"""Whether frames behind links, or virtual ones, are a file's own: those of its module and run.

HDF5 follows a link, or the mapping of a virtual dataset, wherever it leads. Ids and counts of all
modules are alike, so that nothing else tells whose frames these are.
"""

import os
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
from h5py import h5g

from xfelmpi.detectors.known import find_source
from xfelmpi.io.links import follow
from xfelmpi.run.index.identity import identity
from xfelmpi.run.train_index import read_column

_DAMAGED = (KeyError, OSError, RuntimeError, ValueError)


def require_own_frames(
    file: h5py.File,
    name: str,
    data: h5py.Dataset,
    rows: np.ndarray | None = None,
    source_rows: np.ndarray | None = None,
) -> None:
    """Check that frames elsewhere are of the same module, run and trains, as far as it is told.

    Parameters
    ----------
    file : h5py.File
        Which may take frames, or their masks, from elsewhere.
    name : str
        Of the frames in this file.
    data : h5py.Dataset
        Where they really are.
    rows, source_rows : ndarray, int (row,), optional
        The same rows there and here; default: all.

    Raises
    ------
    OSError
        If it is not.
    """
    home, where = data.file, data.name or name
    with suppress(*_DAMAGED):
        home, where = follow(home, where)
    if home.filename == file.filename and where.strip("/") == name.strip("/"):
        return
    place = f"of {Path(home.filename).name}, /{where.strip('/')}"
    if reason := _other_owner(file, name, home, where):
        raise OSError(f"its frames are those {place}: {reason}")
    # whoever has mended some of the ids has links to other ones
    trains, others = _trains(file, name, rows), _trains(home, where, source_rows)
    if len(trains) and len(others) and not np.isin(trains, others).any():
        raise OSError(f"its frames are those {place}: of other trains, {others[0]} …")


def require_own(file: h5py.File, name: str) -> None:
    """Check that what links lead to is of the same module and run, as far as it is told.

    Parameters
    ----------
    file : h5py.File
    name : str
        In this file, e.g. of ids or of a group of ``INDEX``.

    Raises
    ------
    ValueError
        If it is not.
    """
    try:
        home, where = follow(file, name)
    except _DAMAGED:
        # whoever reads it says so
        return
    if reason := _other_owner(file, name, home, where):
        raise ValueError(f"{name} is that of {Path(home.filename).name}, /{where}: {reason}")


def require_one_owner(file: h5py.File, source: str, data: str) -> None:
    """Check that a file has the frames of a module under the names of no other module, too.

    Of a hard link nobody knows which one of the names was there first.

    Parameters
    ----------
    file : h5py.File
    source : str
        E.g. ``SPB_DET_AGIPD1M-1/CORR/3CH0:output``.
    data : str
        Of the frames, below the source.

    Raises
    ------
    ValueError
        If it has.
    """
    own, (device, group, *_) = find_source(source), source.split("/")
    for kind in dict.fromkeys((group, "CORR", "DET")):
        members: list[bytes] = []
        with suppress(*_DAMAGED):
            members = list(h5g.open(file.id, f"INSTRUMENT/{device}/{kind}".encode()))
        for name in members:
            other = f"{device}/{kind}/{os.fsdecode(name)}"
            if find_source(other) in (None, own):
                continue
            found = file.get(f"INSTRUMENT/{other}/{data}")
            if found is not None and found == file.get(f"INSTRUMENT/{source}/{data}"):
                raise ValueError(f"its frames are those of {other}, too: of another module")


def _other_owner(file: h5py.File, name: str, home: h5py.File, where: str) -> str:
    """Return which other module or run something is of, by its place; empty if of none."""
    own, found = _module_of(name), _module_of(where)
    if own and found and own != found:
        return "of another module"
    run, other = (identity(of, Path(of.filename)).run for of in (file, home))
    if run and other and run != other:
        return f"of run {other}, expected run {run}"
    return ""


def _module_of(name: str) -> tuple[str, int] | None:
    """Return detector and module of a dataset by its path; None if it does not tell."""
    return find_source("/".join(name.strip("/").split("/")[1:4]))


def _trains(file: h5py.File, name: str, rows: np.ndarray | None) -> np.ndarray:
    """Return the trains of frames by the ids beside them; none if they do not tell."""
    with suppress(*_DAMAGED):
        found = read_column(file, f"{name.strip('/').rpartition('/')[0]}/trainId")
        return found if rows is None else found[rows[rows < len(found)]]
    return np.empty(0, np.uint64)
