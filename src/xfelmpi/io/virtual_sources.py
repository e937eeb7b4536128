"""The sources of a virtual dataset, row by row, found without HDF5's own reading of them.

HDF5 gives the fill value where a source is missing, where nothing is mapped, and where the source
itself was never written; it does not return from a dataset that is its own source. So mappings of
whole rows are followed here, one source at a time.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from h5py import h5s

from xfelmpi.core.text import one_line
from xfelmpi.io.dataset_storage import home_descriptor, require_readable, written_rows
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.io.links import require_files

_UNLIMITED = h5s.UNLIMITED


@dataclass(frozen=True)
class SourceRows:
    """Rows of a virtual dataset that are rows of another one.

    Parameters
    ----------
    file, dataset : str
        As the mapping names them; a file of ``.`` is the virtual dataset's own.
    rows, source_rows : ndarray, int64 (row,)
        The same rows in both.
    """

    file: str
    dataset: str
    rows: np.ndarray
    source_rows: np.ndarray


def map_rows(data: h5py.Dataset) -> list[SourceRows] | None:
    """Return the mappings of a virtual dataset, in order, or None if one has parts of rows."""
    found = []
    for source in data.virtual_sources():
        names = source.file_name, source.dset_name
        rows = _whole_rows(source.vspace, data.shape, len(data))
        if rows is None:
            return None
        numbered = any("%b" in name.replace("%%", "") for name in names)
        numbered = numbered and source.vspace.is_regular_hyperslab()
        step = max(1, int(source.vspace.get_regular_hyperslab()[3][0])) if numbered else len(rows)
        # how large the source is, its space does not know: whoever opens it has to look
        own = _whole_rows(source.src_space, (step, *data.shape[1:]), step)
        if own is None:
            return None
        for number in range(-(-len(rows) // step) if step else 0):
            part = rows[number * step : (number + 1) * step]
            n = min(len(part), len(own))
            found.append(SourceRows(*(_name(x, number) for x in names), part[:n], own[:n]))
    return found


def _name(pattern: str, number: int) -> str:
    """Return a name of a source: ``%b`` is the number of the block, ``%%`` a percent sign."""
    return pattern.replace("%%", "\0").replace("%b", str(number)).replace("\0", "%")


def _whole_rows(space: h5s.SpaceID, shape, most: int) -> np.ndarray | None:
    """Return the rows that a selection is made of, at most so many if it has no end, or None."""
    kind = space.get_select_type()
    if kind == h5s.SEL_ALL:
        return np.arange(most)
    if kind != h5s.SEL_HYPERSLABS:
        return None
    if space.is_regular_hyperslab():
        start, stride, count, block = space.get_regular_hyperslab()
        for axis in range(1, len(shape)):
            touching = count[axis] == 1 or stride[axis] == block[axis]
            if start[axis] or not touching or count[axis] * block[axis] != shape[axis]:
                return None
        block0 = most if block[0] == _UNLIMITED else min(int(block[0]), most)
        # count may have no end either, and more rows than wanted are of no use
        blocks = min(int(count[0]), -(-most // max(block0, 1)))
        rows = np.arange(blocks)[:, None] * int(stride[0]) + np.arange(block0)
        return (rows.ravel() + int(start[0]))[:most]
    blocks = space.get_select_hyper_blocklist()
    if blocks[:, 0, 1:].any() or (blocks[:, 1, 1:] + 1 != np.array(shape[1:])).any():
        return None
    return np.concatenate([np.arange(a, b + 1) for a, b in blocks[:, :, 0].astype(np.int64)])


def find_source_file(data: h5py.Dataset, name: str) -> Path | None:
    """Return the file that HDF5 takes for a source of that name, None if there is none.

    Besides the name itself it looks in ``HDF5_VDS_PREFIX`` and beside the file of the virtual
    dataset; of an absolute name that is not there, the last part counts.
    """
    own = Path(data.file.filename)
    if name == ".":
        return own
    tries = [Path(name)] if Path(name).is_absolute() else []
    name = Path(name).name if tries else name
    folder = str(own.resolve().parent)
    prefixes = filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":"))
    tries += [Path(prefix.replace("${ORIGIN}", folder), name) for prefix in prefixes]
    tries += [own.parent / name, Path(name), Path(folder, name)]
    return next((path for path in tries if path.exists()), None)


def open_source(data: h5py.Dataset, file: str, dataset: str) -> tuple[h5py.File, h5py.Dataset]:
    """Open a source of a virtual dataset.

    Raises
    ------
    OSError, ValueError
        If it is not there, or is no dataset.
    """
    path = find_source_file(data, file)
    if path is None:
        raise FileNotFoundError("it is not there")
    opened = open_hdf5(path)
    found = None
    try:
        require_files(opened, dataset)
        found = opened.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"it has no dataset {dataset}")
    except (OSError, ValueError, RuntimeError):
        opened.close()
        raise
    return opened, found


def dataset_identity(data: h5py.Dataset) -> tuple:
    """Return what is the same for two names of one dataset."""
    descriptor = home_descriptor(data)
    file = data.file.filename
    if descriptor is not None:
        status = os.fstat(descriptor)
        file = status.st_dev, status.st_ino
    return file, h5py.h5g.get_objinfo(data.id).objno


def not_written(data: h5py.Dataset) -> str:
    """Return what of a file that a person made is not there, empty if all of it is.

    As `lacking`, but a fill value that its author set is the value of chunks never written.
    """
    in_file = not data.is_virtual and data.external is None
    set_by_author = data.id.get_create_plist().fill_value_defined()
    if in_file and set_by_author == h5py.h5d.FILL_VALUE_USER_DEFINED:
        return ""
    return lacking(data)


def lacking(data: h5py.Dataset, rows: np.ndarray | None = None, above=frozenset()) -> str:
    """Return what of a dataset's bytes HDF5 would make up, empty if all of them are there.

    Parameters
    ----------
    data : h5py.Dataset
    rows : ndarray, int (row,), optional
        Those that count; default: all.
    above : frozenset
        Virtual datasets that it is a source of.
    """
    if not data.size:
        return ""
    if not data.shape:
        return "" if data.id.get_storage_size() else "it was never written"
    if not data.is_virtual:
        there = written_rows(data)
        if there is None or there[slice(None) if rows is None else rows].all():
            return ""
        n = int((~there).sum())
        return f"{n} of its {len(data)} rows were never written or are not there"
    above = above | {dataset_identity(data)}
    mappings = map_rows(data)
    if mappings is None:
        sources = [(s.file_name, s.dset_name, None) for s in data.virtual_sources()]
        if reason := _pieces_lacking(data):
            return reason
    else:
        wanted = np.ones(len(data), bool) if rows is None else np.zeros(len(data), bool)
        wanted[slice(None) if rows is None else rows] = True
        sources = []
        for part in reversed(mappings):
            use = wanted[part.rows]
            wanted[part.rows] = False
            if use.any():
                sources.append((part.file, part.dataset, part.source_rows[use]))
        if wanted.any():
            return f"{int(wanted.sum())} of its {len(data)} rows are mapped to nothing"
    for file, name, part in sources:
        if reason := _source_lacking(data, file, name, part, above):
            return f"source {file}: {reason}"
    return ""


def rows_there(data: h5py.Dataset) -> tuple[np.ndarray, str]:
    """Return which rows of a dataset HDF5 would not make up, and why it would the others.

    Returns
    -------
    there : ndarray, bool (row,)
    reason : str
        Of the first rows that are not there; empty if all are.
    """
    if not data.is_virtual or not data.size or (mappings := map_rows(data)) is None:
        there = None if data.is_virtual or not data.size else written_rows(data)
        reason = lacking(data)
        return np.full(len(data), not reason) if there is None else there, reason
    above = frozenset([dataset_identity(data)])
    reasons, mapped, there = [], np.zeros(len(data), bool), np.ones(len(data), bool)
    for part in reversed(mappings):
        use = ~mapped[part.rows]
        mapped[part.rows] = True
        rows = part.source_rows[use]
        why = _source_lacking(data, part.file, part.dataset, rows, above) if len(rows) else ""
        if why:
            there[part.rows[use]] = False
            reasons.append(f"source {part.file}: {why}")
    if not mapped.all():
        reasons.append(f"{int((~mapped).sum())} of its {len(data)} rows are mapped to nothing")
    return there & mapped, reasons[-1] if reasons else ""


def _source_lacking(data, file: str, name: str, rows, above) -> str:
    try:
        opened, source = open_source(data, file, name)
    except (OSError, ValueError, RuntimeError) as error:
        return one_line(error)
    try:
        if dataset_identity(source) in above:
            return "it is its own source"
        require_readable(source)
        if rows is not None and rows.max() >= len(source):
            return f"it has only {len(source)} rows"
        return lacking(source, rows, above)
    finally:
        opened.close()


def _pieces_lacking(data: h5py.Dataset) -> str:
    """Return whether pieces of rows leave gaps, as far as their bounds show it."""
    spaces = [source.vspace for source in data.virtual_sources()]
    n = [space.get_select_npoints() for space in spaces]
    low, high = np.array([space.get_select_bounds() for space in spaces], np.int64).swapaxes(0, 1)
    # boxes that touch each other nowhere, and together have as many elements as there are
    meet = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(axis=2)
    filled = n == (high - low + 1).prod(axis=1)
    if sum(n) == data.size and filled.all() and meet.sum() == len(n):
        return ""
    return "its pieces leave gaps or overlap"
