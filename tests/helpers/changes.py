"""Changes of finished outputs, each of one thing, for tests of what checks them."""

import numpy as np


def own(path):
    """Put a copy in place of a link."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def overwrite(path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def mask_a_pixel(file):
    """Mask a pixel of the first hit that has photons, in a CXI file."""
    detector = file["entry_1/instrument_1/detector_1"]
    lit = np.argwhere(detector["data"][0])[0]
    detector["mask"][(0, *lit)] = 0x80


def add_one(name, where=0):
    def change(file):
        values = file[name]
        row = values[where]
        values[where] = row + 1

    return change


def flip(name, where=0):
    def change(file):
        file[name][where] = ~file[name][where]

    return change


def swap(*names):
    def change(file):
        for name in names:
            file[name][0], file[name][1] = file[name][1], file[name][0]

    return change


def replace(name, make):
    """Write another dataset in place of one."""

    def change(file):
        values, attributes = file[name][()], dict(file[name].attrs)
        # HDF5 cannot free chunks that are shared
        file["old"] = file[name]
        del file[name]
        file[name] = make(values)
        file[name].attrs.update(attributes)

    return change


def attribute(name, value, of="/"):
    def change(file):
        if value is None:
            del file[of].attrs[name]
        else:
            file[of].attrs[name] = value

    return change


def move_photon(name):
    """Move what one pixel has to the next pixel without photons."""

    def change(file):
        values = file[name][0] if file[name].ndim == 4 else file[name][()]
        flat = values.reshape(-1)
        (lit,) = np.nonzero(flat[:-1])
        at = lit[flat[lit + 1] == 0][0]
        flat[at + 1], flat[at] = flat[at], 0
        file[name][(0,) if file[name].ndim == 4 else ()] = values

    return change


def emc_number(at, add):
    def change(data):
        np.frombuffer(data, "<i4")[at] += add

    return change
