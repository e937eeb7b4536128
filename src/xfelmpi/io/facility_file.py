"""The facility's files: opened by EXtra-data, and what they say of their sources.

HDF5 1.10 reads for ever where the heap of a file's strings is damaged. The heap is checked here, so
that such a file is a problem like any other.
"""

import math
import os
import struct
import warnings

import h5py
import numpy as np
from h5py import h5d, h5t

from xfelmpi.io.input_file import guarded_call, open_hdf5
from xfelmpi.io.plain_values import plain_values

_STRINGS = (
    "dataFormatVersion",
    *(f"dataSources/{n}" for n in ("dataSourceId", "deviceId", "root")),
)
"""What EXtra-data reads of ``METADATA`` when it opens a file."""

_READ_WHOLE = (
    *("INDEX/trainId", "INDEX/flag", "METADATA/dataFormatVersion"),
    *("METADATA/dataSourceId", "METADATA/dataSources/dataSourceId"),
)

_TOLD = ("dataFormatVersion", "dataSources/dataSourceId")

_USUAL_FORMATS = ("1.0", "1.1", "1.2", "1.3")
"""Those that say their sources in the same place."""

_MOST_ENTRIES = 100_000
"""Trains or sources of a file at most."""

_LARGEST_HEAP = 64 << 20

_STRING = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])

_HEADER = 16


def open_access(path):
    """Open a file by EXtra-data, which knows every version of the format.

    Raises
    ------
    Exception
        Whatever EXtra-data and HDF5 raise, and `ValueError` for damaged strings.
    """
    return guarded_call(path, _open_access, path)


def read_access(path, read, *arguments):
    """Return ``read(access, *arguments)`` of a file opened by EXtra-data, and closed again.

    Raises
    ------
    Exception
        As for `open_access`, or what `read` raises.
    """
    return guarded_call(path, _read_access, path, read, arguments)


def _read_access(path, read, arguments):
    access = _open_access(path)
    try:
        return read(access, *arguments)
    finally:
        access.close()


def _open_access(path):
    # extra_data takes a second to import: only the rank that indexes pays for it
    from extra_data.file_access import FileAccess

    with open_hdf5(path) as file, warnings.catch_warnings():
        _check_sizes(file)
        _check_sources(file)
        _check_strings(file)
        warnings.simplefilter("ignore")
        return FileAccess(str(path))


def plain_sources(
    file: h5py.File, *, all_strings: bool = False
) -> tuple[str, frozenset[str], frozenset[str]]:
    """Return format, instrument and control sources of a file stored as the facility does.

    As EXtra-data reads them (``FileAccess._read_data_sources``), of the formats since 1.0.

    Parameters
    ----------
    file : h5py.File
    all_strings : bool
        Check the heaps of all strings, not only of those that are read here.

    Raises
    ------
    ValueError
        If there is anything unusual: EXtra-data reads it, or says what is wrong.
    """
    _check_strings(file, _STRINGS if all_strings else _TOLD)
    version, names = (plain_values(file, f"METADATA/{n}", "OS", _MOST_ENTRIES) for n in _TOLD)
    if version is None or names is None or version.ndim != 1 or names.ndim != 1:
        raise ValueError("format or sources are missing, or not stored as usual")
    if (number := version[0].decode("ascii")) not in _USUAL_FORMATS:
        raise ValueError(f"format {number}")
    sources, control = set(), set()
    for name in filter(None, names.tolist()):
        category, _, source = name.decode().partition("/")
        if category not in ("INSTRUMENT", "CONTROL"):
            raise ValueError(f"source {name}")
        if category == "INSTRUMENT":
            device, _, channel = source.partition(":")
            sources.add(f"{device}:{channel.partition('/')[0]}")
        else:
            control.add(source)
    return number, frozenset(sources), frozenset(control)


def plain_text(file: h5py.File, name: str) -> str | None:
    """Return the first string of a dataset of ``METADATA`` stored as the facility does, or None.

    Raises
    ------
    ValueError
        If the heap of its strings is damaged, or it is not ASCII.
    """
    _check_strings(file, (name,))
    values = plain_values(file, f"METADATA/{name}", "OS", _MOST_ENTRIES)
    return None if values is None or not values.size else values.flat[0].decode("ascii")


def _check_sizes(file: h5py.File) -> None:
    """Check that what EXtra-data reads whole when it opens a file is no more than a file has."""
    for name in _READ_WHOLE:
        data = file.get(name)
        if isinstance(data, h5py.Dataset) and (data.size is None or data.size > _MOST_ENTRIES):
            raise ValueError(f"{name} has {data.size} values, expected at most {_MOST_ENTRIES}")


def _check_sources(file: h5py.File) -> None:
    """Check that what says which trains and sources there are is not made up by HDF5.

    It gives zeros for sources of virtual data that are missing, and does not return from data that
    are their own source: what it takes if a source is gone and the file has the same name.
    """
    from xfelmpi.io.dataset_storage import require_readable
    from xfelmpi.io.virtual_sources import lacking

    for group in ("INDEX", "METADATA", "METADATA/dataSources"):
        found = file.get(group)
        for name in found if isinstance(found, h5py.Group) else ():
            data = found.get(name)
            if not isinstance(data, h5py.Dataset) or data.shape is None:
                continue
            require_readable(data)
            if (data.is_virtual or data.external) and (reason := lacking(data)):
                raise ValueError(f"{group}/{name}: {reason}")


def _check_strings(file: h5py.File, names: tuple[str, ...] = _STRINGS) -> None:
    """Check the heaps of the strings that tell format and sources."""
    plist = file.id.get_create_plist()
    if file.driver != "sec2" or plist.get_userblock() or tuple(plist.get_sizes()) != (8, 8):
        # addresses of another width, or counted from another place: not those of the DAQ's files
        return
    fd = file.id.get_vfd_handle()
    heaps = set()
    for name in names:
        try:
            data = h5d.open(file.id, f"METADATA/{name}".encode())
        except KeyError:
            continue
        kind = data.get_type()
        if not isinstance(kind, h5t.TypeStringID) or not kind.is_variable_str():
            continue
        if data.get_create_plist().get_layout() in (h5d.COMPACT, h5d.CONTIGUOUS):
            place, n_values = data.get_offset(), math.prod(data.shape)
            n_bytes = min(n_values, 1 << 16) * _STRING.itemsize
            stored = os.pread(fd, n_bytes, place) if place is not None else b""
            whole = len(stored) // _STRING.itemsize
            heaps.update(np.frombuffer(stored, _STRING, whole)["heap"].tolist())
    for address in sorted(heaps - {0}):
        _check_heap(fd, address)


def _check_heap(fd: int, address: int) -> None:
    """Check that the objects of a global heap collection end where it ends (HDF5: III.E)."""
    try:
        signature, size = struct.unpack("<8sQ", os.pread(fd, _HEADER, address))
        if signature != b"GCOL\1\0\0\0" or not _HEADER <= size <= _LARGEST_HEAP:
            raise ValueError(f"{signature} of {size} bytes")
        heap = os.pread(fd, size, address)
        if len(heap) < size:
            raise ValueError(f"{len(heap)} of {size} bytes")
        at = _HEADER
        while at + _HEADER <= size:
            index, length = struct.unpack_from("<H6xQ", heap, at)
            # number 0 is the free space, with its header
            need = _HEADER + (length + 7) // 8 * 8 if index else length
            if need < _HEADER or at + need > size:
                raise ValueError(f"object {index} of {length} bytes at {at} of {size}")
            at += need
    except (ValueError, struct.error, OverflowError, OSError) as error:
        raise ValueError(f"heap of strings at {address} is damaged: {error}") from None
