"""Links in HDF5 files of others: HDF5 follows them, also to a pipe, on which it waits for ever."""

import os
from contextlib import suppress
from pathlib import Path

import h5py
from h5py import h5g, h5l

from xfelmpi.core.regular_file import open_regular

_DEEPEST = 16
"""Links that lead to links: HDF5 follows no more."""

_DAMAGED = (KeyError, OSError, RuntimeError, ValueError)


def require_files(file: h5py.File, *names: str) -> list[str]:
    """Check that links on the way to datasets lead to regular files, or nowhere.

    Parameters
    ----------
    file : h5py.File
    *names : str
        Paths in the file; one that ends with ``/*`` is everything in a group.

    Returns
    -------
    list of str
        Paths with a soft or external link on the way.

    Raises
    ------
    OSError
        If one leads to something else.
    """
    plain: set[str] = set()
    linked = []
    for name in names:
        group, star, _ = name.partition("/*")
        _walk(file, group, 0, plain)
        if group not in plain and _is_linked(file, group):
            linked.append(group)
        for member in _members_elsewhere(file, group) if star else ():
            _check(file, f"{group}/{member}", "", 0)
            linked.append(f"{group}/{member}")
    return linked


def _is_linked(file: h5py.File, name: str) -> bool:
    """Return whether there is a soft or external link on the way to something in a file."""
    parts = name.split("/")
    with suppress(*_DAMAGED):
        for i in range(len(parts)):
            link = file.id.links.get_info(os.fsencode("/".join(parts[: i + 1])))
            if link.type != h5l.TYPE_HARD:
                return True
    return False


def follow(file: h5py.File, name: str) -> tuple[h5py.File, str]:
    """Return in which file, and under which name, something is that links may lead to.

    HDF5 does not tell: what a soft link leads to has the name of the link.

    Parameters
    ----------
    file : h5py.File
    name : str
        Of what is there; `require_files` has checked it.

    Raises
    ------
    KeyError, OSError, RuntimeError, ValueError
        If it is not, or damaged.
    """
    for _ in range(_DEEPEST):
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for i in range(len(parts)):
            path, rest = "/".join(parts[: i + 1]), "/".join(parts[i + 1 :])
            kind = file.id.links.get_info(os.fsencode(path)).type
            if kind == h5l.TYPE_HARD:
                continue
            if kind == h5l.TYPE_SOFT:
                target = os.fsdecode(file.id.links.get_val(os.fsencode(path)))
                folder = "" if target.startswith("/") else path.rpartition("/")[0]
                name = f"{folder}/{target}/{rest}"
            else:
                found = file[path]
                file, name = found.file, f"{found.name}/{rest}"
            break
        else:
            return file, "/".join(parts)
    raise OSError(f"{name}: more than {_DEEPEST} links that lead to links")


def leads_on(file: h5py.File, name: str, plain: set[str]) -> bool:
    """Return ``name in file``, having checked the links on the way as `require_files` does.

    Parameters
    ----------
    file : h5py.File
    name : str
    plain : set of str
        Paths that are known to be there, by hard links only; gets new ones. Kept by the caller as
        long as the file is open.

    Raises
    ------
    OSError
        If a link leads to something else than a regular file.
    """
    name = name.strip("/")
    _walk(file, name, 0, plain)
    if name in plain:
        return True
    parts = name.split("/")
    unknown = next(n for n in range(1, len(parts) + 1) if "/".join(parts[:n]) not in plain)
    with suppress(*_DAMAGED):
        # faster where the first unknown link is not there
        if not file.id.links.exists(os.fsencode("/".join(parts[:unknown]))):
            return False
    return name in file


def require_files_everywhere(file: h5py.File) -> None:
    """Check all links of a file that a person made, which has few; see `require_files`.

    Files that it links to are checked as a whole, too.

    Raises
    ------
    OSError
        If one leads to something else than a regular file.
    """
    _check_everywhere(file, set())


def _check_everywhere(file: h5py.File, checked: set[tuple[int, int]]) -> None:
    """Check all links of a file, and of those it links to; `checked` are devices and inodes."""
    status = Path(os.fsdecode(file.filename)).stat()
    checked.add((status.st_dev, status.st_ino))
    found: list[str] = []

    def visit(name, info):
        """Take an external link; hard and soft ones stay in the file."""
        if info.type == h5l.TYPE_EXTERNAL:
            found.append(name.decode("utf-8", "surrogateescape"))

    # of a damaged file, whoever reads it says what is wrong
    with suppress(*_DAMAGED):
        file.id.links.visit(visit, info=True)
    for name in found:
        _walk(file, name, 0)
        other = os.fsdecode(file.id.links.get_val(os.fsencode(name))[0])
        for place in _places(file, other)[:1]:
            status = place.stat()
            if (status.st_dev, status.st_ino) in checked:
                continue
            try:
                target = h5py.File(place, "r")
            except OSError:
                # whoever reads it says what is wrong
                continue
            with target:
                _check_everywhere(target, checked)


def _members_elsewhere(file: h5py.File, group: str) -> list[str]:
    """Return the names in a group that are soft or external links, asked for in one call."""
    found: list[str] = []

    def visit(name, info):
        """Take a link that leads somewhere else."""
        if info.type != h5l.TYPE_HARD:
            found.append(os.fsdecode(name))

    # of a damaged file, whoever reads it says what is wrong
    with suppress(*_DAMAGED):
        # its links do not keep it open
        opened = h5g.open(file.id, os.fsencode(group))
        opened.links.iterate(visit, info=True)
    return found


def _walk(file: h5py.File, name: str, depth: int, plain: set[str] | None = None) -> None:
    """Check every link of a path; those in `plain` are known to lead on here."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    known = set() if plain is None else plain
    for i in range(len(parts)):
        path = "/".join(parts[: i + 1])
        if path in known:
            continue
        if not _check(file, path, "/".join(parts[i + 1 :]), depth):
            return
        known.add(path)


def _check(file: h5py.File, path: str, rest: str, depth: int) -> bool:
    """Check one link, and what it leads to; whether it is a plain one, that leads on here."""
    links, name = file.id.links, os.fsencode(path)
    try:
        kind = links.get_info(name).type
        if kind == h5l.TYPE_HARD:
            return True
        value = links.get_val(name)
    except _DAMAGED:
        # not there, or damaged
        return False
    if depth >= _DEEPEST:
        return False
    if kind == h5l.TYPE_SOFT:
        target = os.fsdecode(value)
        folder = "" if target.startswith("/") else path.rpartition("/")[0]
        _walk(file, f"{folder}/{target}/{rest}", depth + 1)
    elif kind == h5l.TYPE_EXTERNAL:
        other, inner = map(os.fsdecode, value)
        _check_file(file, other, f"{inner}/{rest}", depth + 1)
    return False


def _places(file: h5py.File, name: str) -> list[Path]:
    """Return what there is at the places where HDF5 looks for a file that a link names."""
    own = Path(os.fsdecode(file.filename))
    base = Path(name).name if Path(name).is_absolute() else name
    prefixes = filter(None, os.environ.get("HDF5_EXT_PREFIX", "").split(":"))
    folders = [*map(Path, prefixes), own.parent, own.resolve().parent, Path()]
    places = [Path(name), *(folder / base for folder in folders)]
    return [place for place in places if place.exists()]


def _check_file(file: h5py.File, name: str, inner: str, depth: int) -> None:
    """Check the files that HDF5 may take for one that a link names, and the links in the first."""
    own = Path(os.fsdecode(file.filename))
    there = _places(file, name)
    for place in there:
        try:
            os.close(open_regular(place))
        except PermissionError:
            # HDF5 cannot open it either
            continue
    for place in there[:1]:
        if place.samefile(own):
            _walk(file, inner, depth)
            continue
        try:
            target = h5py.File(place, "r")
        except OSError:
            return
        with target:
            _walk(target, inner, depth)
