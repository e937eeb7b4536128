"""Whether two runs of the program gave the same files, read with h5py and numpy only."""

import filecmp
from pathlib import Path

import h5py
import numpy as np

FOLDERS = ("events", "powder", "saved_hits", "emc")

UNSTABLE = {"date", "created", "creation_date", "command", "command_line", "ranks", "end_time"}
"""Attributes and datasets about how and when a file was made; `configuration` holds paths."""

_JOB = {"job_id", "start_time", "host", "nodes", "used_files", "scores_by"}
_JOB |= {"mpi", "mpi4py_version", "mpi_io"}

UNSTABLE_ATTRIBUTES = UNSTABLE | _JOB | {"configuration", "config"}


def assert_same_outputs(folder_a: Path, folder_b: Path) -> None:
    """Assert that two output folders hold the same files.

    HDF5 files must have the same groups, links, datasets, types, shapes, values (NaN equals NaN)
    and attributes, except those that say how and when they were made; others the same bytes.

    Parameters
    ----------
    folder_a, folder_b : Path
        Output folders with ``events/``, ``powder/``, ``saved_hits/`` and ``emc/``.
    """
    files_a, files_b = (_files(Path(folder)) for folder in (folder_a, folder_b))
    assert files_a, f"no outputs in {folder_a}"
    assert files_a == files_b, f"files differ: {files_a} and {files_b}"
    for name in files_a:
        a, b = Path(folder_a) / name, Path(folder_b) / name
        if h5py.is_hdf5(a):
            assert_same_hdf5(a, b)
        else:
            assert a.read_bytes() == b.read_bytes(), f"{name} differs"


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file()
    )


def assert_same_hdf5(path_a: Path, path_b: Path) -> None:
    """Assert that two HDF5 files hold the same things; see `assert_same_outputs`."""
    with h5py.File(path_a) as a, h5py.File(path_b) as b:
        _same_attributes(a, b, path_a.name)
        _same_group(a, b, path_a.name)


def _same_group(a: h5py.Group, b: h5py.Group, where: str) -> None:
    assert sorted(a) == sorted(b), f"{where}: {sorted(a)} and {sorted(b)}"
    for name in a:
        inside = f"{where}/{name}"
        links = [group.get(name, getlink=True) for group in (a, b)]
        assert type(links[0]) is type(links[1]), f"{inside}: other kinds of links"
        if isinstance(links[0], h5py.SoftLink):
            assert links[0].path == links[1].path, f"{inside}: links to other places"
            continue
        _same_attributes(a[name], b[name], inside)
        if isinstance(a[name], h5py.Group):
            assert isinstance(b[name], h5py.Group), f"{inside}: a group and a dataset"
            _same_group(a[name], b[name], inside)
        elif name not in UNSTABLE:
            _same_dataset(a[name], b[name], inside)


def _same_dataset(a: h5py.Dataset, b: h5py.Dataset, where: str) -> None:
    assert isinstance(b, h5py.Dataset), f"{where}: a dataset and a group"
    assert a.dtype == b.dtype, f"{where}: {a.dtype} and {b.dtype}"
    assert a.shape == b.shape, f"{where}: {a.shape} and {b.shape}"
    assert a.chunks == b.chunks, f"{where}: chunks {a.chunks} and {b.chunks}"
    if _same_chunks(a, b):
        return
    # Frame by frame: the stacks of hits are large.
    rows = range(len(a)) if a.ndim > 2 else [()]
    for row in rows:
        assert same_values(a[row], b[row]), f"{where}: values differ in {row}"


def _same_chunks(a: h5py.Dataset, b: h5py.Dataset) -> bool:
    """Return whether two datasets are stored alike, which is seen without inflating anything.

    Chunks that differ may still hold the same values; and a chunk with references to other places
    in the file says nothing.
    """
    if a.chunks is None or not a.size or a.dtype.hasobject or _filters(a) != _filters(b):
        return False
    try:
        for place in a.iter_chunks():
            start = tuple(part.start for part in place)
            if a.id.read_direct_chunk(start) != b.id.read_direct_chunk(start):
                return False
    except (OSError, RuntimeError, ValueError):
        return False  # a chunk that was never written
    return True


def _filters(dataset: h5py.Dataset) -> list[tuple]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i) for i in range(plist.get_nfilters())]


def _same_attributes(a, b, where: str) -> None:
    names = [sorted(set(node.attrs) - UNSTABLE_ATTRIBUTES) for node in (a, b)]
    assert names[0] == names[1], f"{where}: attributes {names[0]} and {names[1]}"
    for name in names[0]:
        values = a.attrs[name], b.attrs[name]
        assert type(values[0]) is type(values[1]), f"{where}, {name}: {values[0]!r}, {values[1]!r}"
        assert same_values(*values), f"{where}, {name}: {values[0]!r} and {values[1]!r}"


def same_values(a, b) -> bool:
    """Return whether two arrays or attributes are the same to the bit; NaN equals NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype and not {a.dtype.kind, b.dtype.kind} <= {"U", "S", "O"}:
        return False
    plain = a.dtype == b.dtype and not a.dtype.hasobject
    if plain and a.shape == b.shape and a.tobytes() == b.tobytes():
        return True
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc")


def same_files(a: Path, b: Path) -> list[Path]:
    """Return the files below `a`, after comparing them byte by byte with those below `b`."""
    names = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(b) for path in b.rglob("*") if path.is_file())
    match, mismatch, errors = filecmp.cmpfiles(a, b, names, shallow=False)
    assert (mismatch, errors) == ([], [])
    return match
