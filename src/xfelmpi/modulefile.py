"""The index of one file of a detector module, read as it stands, with every problem found.

EXtra-data opens the file, since it knows every version of the format; the index arrays are read
here, because damage (a train ID of 0, an index beyond the data) must be seen.
"""

import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from xfelmpi.detector import MAX_CELLS, MODULE_SHAPE, N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.records import Problem

_FILE_NAME = re.compile(r"(RAW|CORR)-R\d{4}-AGIPD(\d\d)-S(\d{5})\.h5")
FILE_LEFT_OUT = "file left out"
"""What is done about a file that cannot be used at all."""

_SOURCE = re.compile(r"(.+)/(CORR|DET)/(\d+)CH0:(output|xtdf)")


@dataclass(frozen=True)
class ModuleRows:
    """Frames of one module as they stand in its files.

    Parameters
    ----------
    train, pulse : ndarray, uint64 (frame,)
    cell : ndarray, uint16 (frame,)
    file : ndarray, int32 (frame,)
        Number of the file in the run index.
    row : ndarray, int32 (frame,)
        Row in that file's dataset.
    """

    train: np.ndarray
    cell: np.ndarray
    pulse: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def keep(self, which) -> "ModuleRows":
        """Return some of the frames."""
        return ModuleRows(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def module_files(folder: Path, kind: str) -> list[Path]:
    """Return the detector's files in a run folder, in the order of module and sequence.

    Raises
    ------
    InputError
        If there is no such folder, or no such file in it.
    """
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: no such run ({error.strerror})") from None
    wanted = "CORR" if kind == "proc" else "RAW"
    found = [folder / n for n in names if (m := _FILE_NAME.fullmatch(n)) and m[1] == wanted]
    if not found:
        raise InputError(
            f"{folder}: no AGIPD files; found {len(names)} files, expected {wanted}-R….-AGIPD00-"
            "S00000.h5 and so on"
        )
    return found


def _open(path: Path):
    # extra_data takes a second to import: only the rank that indexes pays for it
    from extra_data.file_access import FileAccess

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FileAccess(str(path))


def agipd_sources(path: Path, problems: list[Problem]) -> list[tuple[str, str, int]]:
    """Return (detector, source, module) of a file; a modern name wins over its legacy link."""
    number = int(_FILE_NAME.fullmatch(path.name)[2])
    try:
        names = _open(path).instrument_sources
    except Exception as error:
        problems.append(
            Problem(
                f"file cannot be opened: {_one_line(error)}", path.name, number, 0, FILE_LEFT_OUT
            )
        )
        return []
    best: dict[tuple[str, int], str] = {}
    for name in sorted(names):  # CORR sorts before DET
        if (m := _SOURCE.fullmatch(name)) and int(m[3]) < N_MODULES:
            best.setdefault((m[1], int(m[3])), name)
    if not best:
        problems.append(Problem("file has no AGIPD source", path.name, number, 0, FILE_LEFT_OUT))
    return [(detector, source, module) for (detector, module), source in best.items()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def start_time(path: Path) -> str:
    """Return the creation date in a file's metadata, which is UTC."""
    dates = _open(path).file.get("METADATA/creationDate")
    try:
        stamp = bytes(dates[0]).decode("ascii")
        return datetime.strptime(stamp, "%Y%m%dT%H%M%S%z").isoformat()
    except (TypeError, IndexError, ValueError):  # no date, or not in this form
        return ""


def read_module_file(
    path, source, module, number, problems, notes
) -> tuple[ModuleRows, str, bool] | None:
    """Return the usable frames of one file, their dtype and whether they have masks, or None.

    What is not usable becomes a problem.
    """

    def problem(what, train=0, action="frames left out"):
        problems.append(Problem(what, path.name, module, int(train), action))

    try:
        access = _open(path)
        file = access.file
        image = file[f"INSTRUMENT/{source}/image"]
        train_ids = file["INDEX/trainId"][:].astype(np.uint64).reshape(-1)
        first, count = _first_count(file[f"INDEX/{source}/image"])
        ids = {
            k: image[k][:].reshape(-1).astype(np.int64 if k == "cellId" else np.uint64)
            for k in ("trainId", "cellId", "pulseId")
        }
        data = image["data"]
        shape, dtype, has_mask = data.shape, data.dtype, "mask" in image
        if (~access.validity_flag).any():
            notes.append("some trains are flagged suspect in INDEX/flag; they are included")
        access.close()
    except Exception as error:
        problem(f"file cannot be indexed: {_one_line(error)}", action=FILE_LEFT_OUT)
        return None
    expected = (2, *MODULE_SHAPE) if path.name.startswith("RAW") else MODULE_SHAPE
    right_dtype = dtype == np.uint16 if path.name.startswith("RAW") else dtype.kind in "uif"
    if shape[1:] != expected or not right_dtype:
        problem(
            f"frames are {dtype} {shape}, expected numbers (N, {str(expected)[1:]}",
            action=FILE_LEFT_OUT,
        )
        return None
    usable = min(shape[0], *(len(v) for v in ids.values()))
    if len({shape[0], *(len(v) for v in ids.values())}) > 1:
        problem(f"{shape[0]} frames but {', '.join(f'{len(v)} {k}' for k, v in ids.items())}")
    n = min(len(train_ids), len(first), len(count))
    train_ids, first, count = train_ids[:n], first[:n], count[:n]
    for t in np.flatnonzero((train_ids == 0) & (count > 0)):
        problem(f"train ID 0 at position {t} with {count[t]} frames")
    beyond = (count > 0) & ((first > usable) | (count > usable) | (first + count > usable))
    for t in np.flatnonzero(beyond):
        problem(
            f"INDEX names rows {first[t]} … {first[t] + count[t] - 1}, but there are {usable}",
            train_ids[t],
            "rows beyond left out",
        )
    first = np.minimum(first, usable)
    count = np.where(train_ids == 0, 0, np.minimum(count, usable - first))
    train = np.repeat(train_ids, count)
    row = np.arange(len(train)) - np.repeat(np.cumsum(count) - count, count)
    row += np.repeat(first, count)
    return _check_rows(train, row, ids, number, problem), dtype.str, has_mask


def _first_count(group) -> tuple[np.ndarray, np.ndarray]:
    first = group["first"][:].reshape(-1)
    if "count" in group:
        count = group["count"][:].reshape(-1)
    else:  # files older than format 0.5
        count = (group["last"][:] - first + 1) * group["status"][:]
    # a garbage value of more than 62 bits stays a large number
    limit = np.uint64(1 << 40)
    return (
        np.minimum(first.astype(np.uint64), limit).astype(np.int64),
        np.minimum(count.astype(np.uint64), limit).astype(np.int64),
    )


def _check_rows(train, row, ids, number, problem) -> ModuleRows:
    cell = ids["cellId"][row]
    wrong_train = ids["trainId"][row] != train
    wrong_cell = (cell < 0) | (cell >= MAX_CELLS)
    for t in np.unique(train[wrong_train]):
        n = int((wrong_train & (train == t)).sum())
        problem(f"{n} frames have another trainId than the INDEX says", t)
    for t in np.unique(train[wrong_cell]):
        problem(f"cellId {cell[wrong_cell & (train == t)].max()}, expected 0 … {MAX_CELLS - 1}", t)
    good = ~(wrong_train | wrong_cell)
    return ModuleRows(
        train[good],
        cell[good].astype(np.uint16),
        ids["pulseId"][row[good]],
        np.full(int(good.sum()), number, np.int32),
        row[good].astype(np.int32),
    )
