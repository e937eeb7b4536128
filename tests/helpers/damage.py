"""Damage done to the files of a simulated run, and what it means for the run's known answer.

Every function takes the run, a random number generator and one file of a module, changes the file,
and returns which frames the module has lost, as rows of the truth; None if the job must name the
file though nothing is lost.
"""

import random
import zlib
from pathlib import Path

import h5py
import numpy as np
from mockrun import MockRun


def module_files(mock: MockRun, module: int) -> list[Path]:
    """Return the files of a module, in the order of their trains."""
    folder = mock.paths.proc if mock.options.kind == "proc" else mock.paths.raw
    about = mock.options.detector_type
    return sorted(folder.glob(f"*{about.file_name}{about.first_module + module:02d}-S*.h5"))


def image_group(mock: MockRun, file: h5py.File) -> h5py.Group:
    """Return the images of a module's file, by the name that the program takes."""
    detector = file[f"INSTRUMENT/{mock.options.device}"]
    kind = next(detector[name] for name in ("CORR", "DET") if name in detector)
    ((_, channel),) = kind.items()
    return channel[mock.options.detector_type.datasets.group]


def frames_of(mock: MockRun, image: h5py.Group) -> h5py.Dataset:
    """Return the dataset with the frames."""
    return image[mock.options.detector_type.datasets.data.rpartition("/")[2]]


def cells_of(mock: MockRun, image: h5py.Group) -> h5py.Dataset:
    """Return the dataset with the memory cells."""
    return image[mock.options.detector_type.datasets.cell_id.rpartition("/")[2]]


def trains_in(mock: MockRun, image: h5py.Group) -> np.ndarray:
    """Return the train of every frame of a file."""
    trains, cells = image["trainId"][:].reshape(-1), cells_of(mock, image)
    return np.repeat(trains, cells.size // max(len(trains), 1))


def rows_in(mock: MockRun, image: h5py.Group) -> np.ndarray:
    """Return which row of the truth every frame of a file is."""
    ids = trains_in(mock, image), cells_of(mock, image)[:].reshape(-1)
    return np.array([mock.row(train, cell) for train, cell in zip(*ids, strict=True)], int)


def _all_rows(mock: MockRun, path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return rows_in(mock, image_group(mock, file))


def remove_file(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Delete the file."""
    lost = _all_rows(mock, path)
    path.unlink()
    return lost


def truncate(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Cut the file off anywhere: HDF5 refuses what is shorter than it says itself."""
    lost = _all_rows(mock, path)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return lost


def garbage(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Put bytes that mean nothing where the file's header is."""
    lost = _all_rows(mock, path)
    content = bytearray(path.read_bytes())
    content[:512] = rng.randbytes(512)
    path.write_bytes(content)
    return lost


def zero_train(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Set a train ID of the index to 0, as dropped trains have it."""
    with h5py.File(path, "r+") as file:
        trains = file["INDEX/trainId"]
        rows = rows_in(mock, image_group(mock, file))
        if not len(trains):
            return rows
        at = rng.randrange(len(trains))
        lost = rows[mock.truth["trainId"][rows] == trains[at]]
        trains[at] = 0
    return lost


def wrong_cell(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Give a frame a memory cell that the detector does not have."""
    with h5py.File(path, "r+") as file:
        image = image_group(mock, file)
        rows = rows_in(mock, image)
        if not len(rows):
            return rows
        at = rng.randrange(len(rows))
        cells = cells_of(mock, image)[...]
        cells.reshape(-1)[at] = min(9999, np.iinfo(cells.dtype).max)
        cells_of(mock, image)[...] = cells
    return rows[at : at + 1]


def damaged_chunk(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Zero a packed chunk, or change some of its bytes; zlib says whether that matters."""
    with h5py.File(path) as file:
        image = image_group(mock, file)
        rows, data = rows_in(mock, image), frames_of(mock, image)
        if not len(rows):
            return rows
        chunk = data.id.get_chunk_info(rng.randrange(data.id.get_num_chunks()))
        axes = data.ndim - 2
        inside = zip(chunk.chunk_offset, data.chunks, strict=True)
        part = tuple(slice(start, start + n) for start, n in inside)[:axes]
        lost = rows.reshape(data.shape[:axes])[part].reshape(-1)
    content = bytearray(path.read_bytes())
    here = slice(chunk.byte_offset, chunk.byte_offset + chunk.size)
    before = bytes(content[here])
    after = bytearray(before)
    if rng.random() < 0.3:
        after = bytes(chunk.size)
    else:
        for _ in range(rng.randint(1, 3)):
            after[rng.randrange(chunk.size)] = rng.randrange(256)
    content[here] = after
    path.write_bytes(content)
    return lost[:0] if _inflated(after) == _inflated(before) else lost


def _inflated(packed: bytes) -> bytes | None:
    try:
        return zlib.decompress(packed)
    except zlib.error:
        return None


def _moved(mock: MockRun, path: Path) -> tuple[Path, str]:
    """Move a file out of the run and return its new path and the name of its frames."""
    there = path.parents[2] / "elsewhere" / path.name
    there.parent.mkdir(exist_ok=True)
    with h5py.File(path) as file:
        name = frames_of(mock, image_group(mock, file)).name
    there.write_bytes(path.read_bytes())
    return there, name


def behind_link(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have the frames behind an external link: nothing is lost."""
    there, name = _moved(mock, path)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(there.resolve()), name)
    return np.empty(0, int)


def virtual_frames(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have the frames in a virtual dataset, at times without its source, which is named."""
    there, name = _moved(mock, path)
    with h5py.File(path, "r+") as file:
        rows, data = rows_in(mock, image_group(mock, file)), file[name]
        if not len(rows):
            return rows
        layout = h5py.VirtualLayout(data.shape, data.dtype)
        layout[:] = h5py.VirtualSource(str(there.resolve()), name, data.shape)
        del file[name]
        file.create_virtual_dataset(name, layout)
    if rng.random() < 0.5:
        return rows[:0]
    there.unlink()
    return rows


def plugin_filter(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have the frames packed by a filter of a plugin: nothing is lost."""
    import hdf5plugin

    with h5py.File(path, "r+") as file:
        data = frames_of(mock, image_group(mock, file))
        name, values = data.name, data[()]
        if len(values):
            del file[name]
            file.create_dataset(
                name, data=values, chunks=(1, *values.shape[1:]), **hdf5plugin.Zstd()
            )
    return np.empty(0, int)


def other_run(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have the file say that it is of another run."""
    lost = _all_rows(mock, path)
    with h5py.File(path, "r+") as file:
        file["METADATA/runNumber"][...] = mock.options.run + 1
    return lost if len(lost) else None


ODD_MODULES = 3
"""Most modules whose ids are damaged in one run."""


def _settled(mock: MockRun, rows: np.ndarray) -> bool:
    """Return whether most modules know the ids of some frames, whatever else is damaged."""
    voters = (
        mock.truth["modules"][rows][:, None] >> np.arange(mock.options.detector_type.n_modules) & 1
    ).sum(axis=1)
    return bool(len(rows)) and bool((voters > 2 * ODD_MODULES).all())


def odd_pulses(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have other pulseIds than the other modules: theirs count."""
    with h5py.File(path, "r+") as file:
        image = image_group(mock, file)
        if not _settled(mock, rows_in(mock, image)):
            return np.empty(0, int)
        # by another number in every module: two must not agree
        image["pulseId"][...] = image["pulseId"][...] + np.uint64(1 + module)
    return None


def odd_cells(mock: MockRun, rng: random.Random, path: Path, module: int):
    """Have two frames of a train with each other's cellIds: neither counts."""
    with h5py.File(path, "r+") as file:
        image = image_group(mock, file)
        rows = rows_in(mock, image)
        train = trains_in(mock, image)
        pairs = [i for i in range(len(train) - 1) if train[i] == train[i + 1]]
        if not pairs or not _settled(mock, rows):
            return np.empty(0, int)
        at = rng.choice(pairs)
        cells = cells_of(mock, image)[...]
        flat = cells.reshape(-1)
        flat[[at, at + 1]] = flat[[at + 1, at]]
        cells_of(mock, image)[...] = cells
    return rows[at : at + 2]


KINDS = {
    "file removed": remove_file,
    "file cut off": truncate,
    "file without its header": garbage,
    "train 0": zero_train,
    "impossible cell": wrong_cell,
    "frames behind a link": behind_link,
    "virtual frames": virtual_frames,
    "filter of a plugin": plugin_filter,
    "file of another run": other_run,
    "odd pulseIds": odd_pulses,
    "odd cellIds": odd_cells,
}
PACKED_KINDS = {**KINDS, "packed chunk": damaged_chunk, "another packed chunk": damaged_chunk}
"""Kinds of damage by name, and of packed frames; without filters a changed byte cannot be seen."""

UNREADABLE = ("virtual frames", "packed chunk", "another packed chunk")
"""Those whose frames are in the index, though they cannot be read."""


def do_damage(mock: MockRun, rng: random.Random, kind: str, module: int) -> bool:
    """Damage one of a module's files and the truth; returns whether the job must report it."""
    files = module_files(mock, module)
    if not files:
        return False
    lost = PACKED_KINDS[kind](mock, rng, rng.choice(files), module)
    if lost is None:
        return True
    for row in lost:
        mock.lose(int(row), module)
    # a file that cannot be opened is named even if all of its trains were vetoed
    return bool(len(lost)) or kind in ("file cut off", "file without its header")


def remove_last_sequence(mock: MockRun) -> int | None:
    """Remove the last file of every module, as if correction were still going on.

    Returns
    -------
    int or None
        How many frames stay; None if nothing was removed, since one file is all there is.
    """
    numbers = {path.stem.rpartition("-S")[2] for m in mock.options.modules
               for path in module_files(mock, m)}  # fmt: skip
    if len(numbers) < 2:
        return None
    first = len(mock)
    for module in mock.options.modules:
        for path in module_files(mock, module):
            if path.stem.endswith(max(numbers)):
                first = min([first, *_all_rows(mock, path)])
                path.unlink()
    return int(first)
