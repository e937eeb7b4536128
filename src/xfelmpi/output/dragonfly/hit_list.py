"""``data/hits.h5`` of a folder for Dragonfly: which hits the frames of its EMC file are.

Results of Dragonfly are numbers per frame; they are matched with hits by this list, never by
position alone: the run may have other hits by then.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi.io.checked import checked_array, checked_attribute
from xfelmpi.io.input_file import finished_file, open_hdf5
from xfelmpi.io.output_file import cannot_write, make_readable, serial_file
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.output.emc import EmcFile

NAME = "hits.h5"


@dataclass(frozen=True)
class HitList:
    """The hits of a folder, in the order of the EMC file.

    Parameters
    ----------
    run : ndarray, uint32 (hit,)
    train_id : ndarray, uint64 (hit,)
    cell_id : ndarray, uint16 (hit,)
    emc : str
        Digest of the EMC file's numbers of pixels with photons; see `emc_digest`.
    """

    run: np.ndarray
    train_id: np.ndarray
    cell_id: np.ndarray
    emc: str

    @classmethod
    def of(cls, run, train_id, cell_id, emc: Path) -> "HitList":
        """Return the list of hits, of any integers (hit,), and their EMC file."""
        run, train_id, cell_id = (
            np.asarray(values).astype(dtype)
            for values, dtype in ((run, np.uint32), (train_id, np.uint64), (cell_id, np.uint16))
        )
        return cls(run, train_id, cell_id, emc_digest(emc))

    @property
    def digest(self) -> str:
        """SHA-256 of run, train and cell of every hit, in order."""
        return _sha256(self.run, self.train_id, self.cell_id)


def _sha256(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for values in arrays:
        found.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")))
    return found.hexdigest()


def emc_digest(path: Path) -> str:
    """Return the SHA-256 of how many pixels have one and more photons, frame by frame.

    Raises
    ------
    OSError, ValueError
        If the EMC file cannot be read.
    """
    emc = EmcFile(path)
    return _sha256(np.array([emc.num_data, emc.num_pix]), emc.ones, emc.multi)


def write_hit_list(path: Path, hits: HitList, scale: np.ndarray | None = None) -> list[Path]:
    """Write the list under its temporary name; one rank.

    Parameters
    ----------
    path : Path
        Final name.
    hits : HitList
    scale : ndarray, float64 (hit,), optional
        What Dragonfly is to take as the brightness of each hit.

    Returns
    -------
    list of Path
        What is to get its name: nothing if the list is there already, since results are newer
        than it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        with open_hdf5(path) as file:
            same = (hits.digest, hits.emc) == (file.attrs["digest"], file.attrs["emc_digest"])
            if scale is None:
                same &= "scale" not in file
            else:
                kept = checked_array(file, "scale", np.float64, scale.shape)
                same &= np.array_equal(kept, scale)
    except (OSError, RuntimeError, KeyError, ValueError):
        same = False
    if same:
        return []
    part = begin_partial(path)
    with serial_file(part) as file:
        file["run"], file["trainId"], file["cellId"] = hits.run, hits.train_id, hits.cell_id
        if scale is not None:
            file["scale"] = scale
        file.attrs["digest"], file.attrs["emc_digest"] = hits.digest, hits.emc
    try:
        make_readable(part)
    except OSError as error:
        raise cannot_write(path, error) from None
    return [path]


def read_hit_list(path: Path) -> HitList:
    """Read the list.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "a list of the hits of a folder for Dragonfly") as file:
        run = checked_array(file, "run", np.uint32, (None,))
        train = checked_array(file, "trainId", np.uint64, run.shape)
        cell = checked_array(file, "cellId", np.uint16, run.shape)
        found = HitList(run, train, cell, checked_attribute(file, "emc_digest", str))
        if checked_attribute(file, "digest", str) != found.digest:
            raise ValueError("the hits are not those of their digest")
        return found
