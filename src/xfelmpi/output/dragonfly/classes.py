"""What Dragonfly's 2-D classification found, frame by frame: ``output_NNN.h5`` of a folder.

Its file has for every frame how likely each class is (``occupancies``, summed over rotations) and
the average of every class (``intens``); github.com/duaneloh/Dragonfly, ``recon.pyx``.
"""

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.regular_file import read_small
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.dragonfly.hit_list import NAME as HIT_LIST
from xfelmpi.output.dragonfly.hit_list import HitList, emc_digest, read_hit_list

NOT_CLASSIFIED = -1

_OUTPUT = re.compile(r"output_(\d+)\.h5")
_MOST_CLASSES = 10_000
_LONGEST_CONFIG = 1 << 20


@dataclass(frozen=True)
class Classes:
    """Classes of hits.

    Parameters
    ----------
    hits : HitList
    number : ndarray, int16 (hit,)
        The most likely class, as Dragonfly counts them, from 0; -1 where it gave none.
    weight : ndarray, float32 (hit,)
        How likely it is; NaN where there is none.
    average : ndarray, float64 (class, x, y)
        Mean of each class over its hits, turned onto each other; NaN where no pixel was.
    path : Path
        Dragonfly's file.
    """

    hits: HitList
    number: np.ndarray
    weight: np.ndarray
    average: np.ndarray
    path: Path

    def of_run(self, run: int, train: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return where hits of a run are among these, int64 (hit,), -1 where they are not."""
        own = np.flatnonzero(self.hits.run == run)
        pairs = zip(self.hits.train_id[own].tolist(), self.hits.cell_id[own].tolist(), strict=True)
        place = dict(zip(pairs, own.tolist(), strict=True))
        wanted = zip(train.tolist(), cell.tolist(), strict=True)
        return np.array([place.get(pair, NOT_CLASSIFIED) for pair in wanted], np.int64)


def read_classes(path: Path) -> Classes:
    """Read the classes that Dragonfly found; one rank.

    Parameters
    ----------
    path : Path
        A folder that ``--dragonfly --recon 2d`` made, whose last output is taken, or an output.

    Raises
    ------
    InputError
        If there is no result, it is not one of a classification, or not of the hits in the list.
    """
    folder, output = _places(path)
    list_path = folder / "data" / HIT_LIST
    hits = read_hit_list(list_path)
    with finished_file(output, "Dragonfly's result") as file:
        average, number, weight = _read(file)
    if len(number) != len(hits.run):
        raise InputError(
            f"{output}: has {len(number):,} frames, expected {len(hits.run):,} as in {list_path}"
        )
    if output.stat().st_mtime < list_path.stat().st_mtime:
        raise InputError(
            f"{output}: is older than the list of the hits, {list_path}: run dragonfly.emc again"
        )
    _check_photons(folder, output, hits)
    return Classes(hits, number, weight, average, output)


def _places(path: Path) -> tuple[Path, Path]:
    """Return the folder and Dragonfly's output."""
    if path.is_file():
        return path.parent.parent, path
    found = [(int(m[1]), p) for p in path.glob("data/output_*.h5") if (m := _OUTPUT.match(p.name))]
    found = [(n, p) for n, p in found if n > 0]
    if not found:
        raise InputError(
            f"{path / 'data'}: no output_NNN.h5 of dragonfly.emc, expected one in a folder that "
            "--dragonfly DIR --recon 2d has made"
        )
    return path, max(found)[1]


def _read(file: h5py.File) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return averages, most likely class and how likely it is."""
    average, weight = file["intens"][()], file["inter_weight"][()]
    if average.ndim != 3 or average.shape != weight.shape:
        raise ValueError(f"intens is {average.shape}: no classes in 2-D (recon_type = 2d)")
    n_classes, n_frames = len(average), len(file["orientations"])
    if not 0 < n_classes <= _MOST_CLASSES:
        raise ValueError(f"{n_classes} classes, expected 1 … {_MOST_CLASSES}")
    average = np.where(weight > 0, average, np.nan)
    if n_classes == 1:
        likely = (file["orientations"][()] >= 0).astype(np.float64)[:, None]
    else:
        likely = file["occupancies"][()]
    if likely.shape != (n_frames, n_classes):
        raise ValueError(f"occupancies are {likely.shape}, expected {(n_frames, n_classes)}")
    likely = np.nan_to_num(likely, nan=0.0, posinf=0.0, neginf=0.0)
    best = likely.argmax(axis=1)
    weight = likely[np.arange(n_frames), best]
    known = weight > 0
    number = np.where(known, best, NOT_CLASSIFIED).astype(np.int16)
    weight = np.where(known, np.minimum(weight, 1), np.nan).astype(np.float32)
    return average, number, weight


def _check_photons(folder: Path, output: Path, hits: HitList) -> None:
    """Check that what Dragonfly read has the hits of the list, in their order.

    The link may lead to the file of a later job with other hits; a result that is older than that
    file was made with what was there before.
    """
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read_string(
            read_small(folder / "config.ini", _LONGEST_CONFIG).decode(errors="replace")
        )
        emc = folder / config["emc"]["in_photons_file"]
        if output.stat().st_mtime < emc.stat().st_mtime:
            return
        found = emc_digest(emc)
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        raise InputError(f"{folder}: photons of config.ini cannot be read ({error})") from None
    if found != hits.emc:
        raise InputError(
            f"{emc}: has other frames than {folder / 'data' / HIT_LIST}, because a later job "
            "replaced it: make the folder anew with --dragonfly, and run dragonfly.emc again"
        )
