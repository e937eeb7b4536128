"""Reading the files of a run that hold beamline data: one row per train, whatever is damaged.

Nothing here raises on damage: beamline data are welcome, not necessary. A file that cannot be read
is named in `Damage`, and its values are unknown.
"""

import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from xfelmpi.detectors.known import MODULE_NAMES
from xfelmpi.io.input_file import guarded_call
from xfelmpi.run.index.identity import FileIdentity, expected_run, identity
from xfelmpi.run.machine.beamline_file import BeamlineFile
from xfelmpi.run.machine.findings import Damage, tolerated
from xfelmpi.run.machine.texts import first_text
from xfelmpi.run.train_index import shape_of

_SHARE_OF_FILES = 4
"""Of the files that a process may have open, a folder's are this share at most."""

_NOT_MACHINE = re.compile(rf"-({MODULE_NAMES})\d+-|-OVERVIEW")


def machine_files(folder: Path) -> list[Path]:
    """Return the files of a run folder that can hold beamline data, in the order of their names.

    Parameters
    ----------
    folder : Path
        E.g. ``raw/r0050``; need not exist.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("*.h5") if not _NOT_MACHINE.search(p.name))


class BeamlineFiles(list[BeamlineFile]):
    """The files of a folder, with what was found in them before.

    Attributes
    ----------
    reads_ahead : bool
        Tables are read for later: whoever asks for one gets its beginning.
    """

    def __init__(self):
        super().__init__()
        self.reads_ahead = False
        self._found: dict[Any, tuple[Any, Damage]] = {}

    def once(self, what, damage: Damage, find: Callable[[Damage], Any]):
        """Return ``find(damage)``, called only the first time that it is asked for.

        Parameters
        ----------
        what : hashable
            What is found.
        damage : dict
            Gets the files that cannot be read, each time.
        find : callable
            Its result is not to be changed.
        """
        if what not in self._found:
            own: Damage = {}
            # what is kept is of whole tables
            ahead, self.reads_ahead = self.reads_ahead, False
            try:
                self._found[what] = find(own), own
            finally:
                self.reads_ahead = ahead
        return self._tell(*self._found[what], damage)

    def ahead(self, what, damage: Damage, find: Callable[[Damage], Any]):
        """Return what `once` does, for large things: kept from reading ahead to their first use."""
        if self.reads_ahead:
            return self.once(what, damage, find)
        if what not in self._found:
            return find(damage)
        return self._tell(*self._found.pop(what), damage)

    @staticmethod
    def _tell(found, own: Damage, damage: Damage):
        for name, why in own.items():
            damage.setdefault(name, why)
        return found


@contextmanager
def opened(
    folder: Path,
    damage: Damage,
    named: re.Pattern | None = None,
    paths: list[Path] | None = None,
    proposal: int = 0,
) -> Iterator[BeamlineFiles]:
    """Open the files of a run folder that can hold beamline data.

    Parameters
    ----------
    folder : Path
        E.g. ``raw/r0050``; need not exist.
    damage : dict
        Gets the files that cannot be opened.
    named : re.Pattern, optional
        Only files whose names have it.
    paths : list of Path, optional
        These files of the folder instead.
    proposal : int
        That of the detector's files; files that name another one are left out. 0: unknown.

    Yields
    ------
    BeamlineFiles
        All but the files of the detector's modules, in the order of their names.
    """
    if paths is None:
        paths = []
        with tolerated(str(folder), damage):
            paths = [p for p in machine_files(folder) if not named or named.search(p.name)]
    files = BeamlineFiles()
    expected = expected_run(folder)
    plain = len(paths) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_FILES
    for path in paths:
        with tolerated(path.name, damage):
            file = BeamlineFile(path, plain=plain)
            about = guarded_call(path, _identity_of, file, path)
            if expected and about.run not in (0, expected):
                raise ValueError(f"file is of run {about.run}, expected run {expected}")
            if proposal and about.proposal not in (0, proposal):
                of, wanted = f"p{about.proposal:06d}", f"p{proposal:06d}"
                raise ValueError(f"file is of proposal {of}, expected {wanted}")
            files.append(file)
    try:
        yield files
    finally:
        for file in files:
            guarded_call(file.filename, file.close)


def _identity_of(file: BeamlineFile, path: Path) -> FileIdentity:
    return identity(file.file, path)


def run_value(files: list, source: str, key: str, damage: Damage) -> Any:
    """Return a setting of a device at the start of the run, from the first file that has it.

    Parameters
    ----------
    files : BeamlineFiles
    source : str
        A control source.
    key : str
        With dots.
    damage : dict
        Gets the files that cannot be read.

    Returns
    -------
    str, int, float, bool or None
        None if no file has it.
    """
    path = f"RUN/{source}/{key.replace('.', '/')}/value"
    for file in files:
        with tolerated(file.name, damage):
            value = guarded_call(file.filename, _first_value, file, path)
            if value is not None:
                return value
    return None


def _first_value(file: BeamlineFile, path: str):
    dataset = file.file.get(path) if file.has(path) else None
    if not isinstance(dataset, h5py.Dataset) or 0 in shape_of(dataset):
        return None
    if dataset.dtype.kind not in "fiub":
        return first_text(dataset)
    return dataset[(0,) * len(dataset.shape)].item()


def data_selectors(files: BeamlineFiles, damage: Damage) -> list[str]:
    """Return the slow data selectors, known by their names or the class they tell."""
    return files.once("selectors", damage, lambda own: _data_selectors(files, own))


def _data_selectors(files: list, damage: Damage) -> list[str]:
    names = set()
    for file in files:
        with tolerated(file.name, damage):
            for source in file.control_sources:
                path = f"RUN/{source}/classId/value"
                named = source.endswith("/MDL/DATA_SELECTOR")
                if named or (file.has(path) and first_text(file.file[path]) == "SlowDataSelector"):
                    names.add(source)
    return sorted(names)
