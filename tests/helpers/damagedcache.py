"""What may become of a file that is kept for the next job."""

from pathlib import Path

import h5py

DAMAGES = ("cut", "text", "no table", "flipped")


def damage_cache(path: Path, damage: str, lost: str, flipped: str, byte: int) -> None:
    """Damage a file in one of the `DAMAGES`.

    Parameters
    ----------
    path : Path
    damage : str
    lost : str
        The dataset that goes with ``no table``.
    flipped : str
        The dataset that changes with ``flipped``.
    byte : int
        The byte of it that does.
    """
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("no HDF5")
    elif damage == "no table":
        with h5py.File(path, "r+") as file:
            del file[lost]
    else:
        with h5py.File(path) as file:
            offset = file[flipped].id.get_offset()
        with open(path, "r+b") as file:
            file.seek(offset + byte)
            file.write(b"\x07")
