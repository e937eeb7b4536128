"""What Dragonfly needs besides the EMC file: detector file, and a folder to start it in."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.core.regular_file import read_small
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.io.lock_file import held_by_one
from xfelmpi.io.output_file import make_folder, make_readable, serial_file
from xfelmpi.io.partial_file import begin_partial, write_new
from xfelmpi.io.publish import check_writable, give_names
from xfelmpi.output.dragonfly.detector import DragonflyDetector
from xfelmpi.output.dragonfly.hit_list import NAME as HIT_LIST
from xfelmpi.output.dragonfly.hit_list import HitList, write_hit_list


def write_detector(path: Path, attributes: dict, detector: DragonflyDetector) -> None:
    """Write the detector file under its temporary name; one rank.

    Parameters
    ----------
    path : Path
        Final name.
    attributes : dict
        Root attributes.
    detector : DragonflyDetector

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        with serial_file(begin_partial(path)) as file:
            file.attrs.update(attributes)
            file.attrs["bin"] = detector.bin
            file.attrs["polarisation"] = detector.polarisation
            for name, value, units in (
                *zip(("qx", "qy", "qz"), detector.q, ["voxels"] * 3, strict=True),
                ("corr", detector.corr, "sr"),
                ("mask", detector.mask, ""),
                ("detd", detector.detd, "pixels"),
                ("ewald_rad", detector.ewald_rad, "voxels"),
                # what `background_file` and `bgscale_file` of its configuration name
                ("background", detector.background, "photons"),
                ("scale", detector.weighting, ""),
                # Dragonfly does not read these
                ("wavelength", detector.wavelength, "m"),
                ("voxel", detector.voxel, "1/m"),
            ):
                if value is None:
                    continue
                file[name] = value
                if units:
                    file[name].attrs["units"] = units
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None


_FOLDERS = ("data", "images", "logs")
_WITH_BACKGROUND = "background.ini"
"""A second configuration, of which the folder ``background`` has the outputs."""

_OURS = ("emc", "merged")
"""Folders of the files that links of earlier jobs lead to."""


_KIND = re.compile(r"^\s*recon_type\s*[=:]\s*(\w+)", re.MULTILINE)
"""What a ``config.ini`` is for; without it, a volume."""

_BACKGROUND = re.compile(r"^\s*background_file\s*[=:]\s*\S", re.MULTILINE)

_LONGEST_CONFIG = 1 << 20

_PATIENCE = 60.0
"""Seconds that another job may take to make the same folder."""


def check_folder(folder: Path, recon: str = "3d") -> None:
    """Make a folder for Dragonfly and check that `write_folder` will not fail; one rank.

    Parameters
    ----------
    folder : Path
    recon : str
        ``3d`` or ``2d``.

    Raises
    ------
    OutputError
        If it cannot be written, or has photons or a detector that no job of this program linked, or
        a ``config.ini`` for something else than `recon`.
    """
    config = folder / "config.ini"
    check_writable(config, held=False)
    if config.is_file():
        found = _KIND.search(_text(config))
        kind = found[1].lower() if found else "3d"
        if kind != recon:
            raise OutputError(
                f"{config}: is for recon_type = {kind}, expected {recon}: name another folder, or "
                f"give --recon {kind}"
            )
    for name in _FOLDERS:
        try:
            make_folder(folder / name)
        except OSError as error:
            raise OutputError(f"{folder / name}: cannot be made ({error.strerror})") from None
    for path in (*_links(folder), folder / "data" / HIT_LIST, folder / _WITH_BACKGROUND):
        check_writable(path, held=False)
    _check_hit_list(folder / "data" / HIT_LIST)


def _text(config: Path) -> str:
    return read_small(config, _LONGEST_CONFIG).decode(errors="replace")


def uses_background(folder: Path) -> bool:
    """Return whether the user has made the background part of Dragonfly's model."""
    config = folder / "config.ini"
    return config.is_file() and _BACKGROUND.search(_text(config)) is not None


def _check_hit_list(path: Path) -> None:
    """Check that there is no other file of this name than a list of an earlier job.

    Raises
    ------
    OutputError
        If there is.
    """
    if not os.path.lexists(path):
        return
    try:
        with open_hdf5(path) as file:
            ours = not path.is_symlink() and "emc_digest" in file.attrs
    except (OSError, RuntimeError):
        ours = False
    if not ours:
        raise OutputError(
            f"{path}: found something else than a list of hits of an earlier job; move it away, or "
            "name another folder"
        )


def _links(folder: Path) -> list[Path]:
    """Return the names for the photons and the detector: others where the user has files.

    Raises
    ------
    OutputError
        If the user has files under all of them.
    """
    for prefix in ("", "xfelmpi_"):
        links = [folder / "data" / f"{prefix}{name}" for name in ("photons.emc", "detector.h5")]
        if all(map(_may_be_replaced, links)):
            return links
    raise OutputError(
        f"{links[0]}: found a file that no job of xfelmpi linked there, expected none; move it "
        "away, or name another folder"
    )


def _may_be_replaced(link: Path) -> bool:
    if not os.path.lexists(link):
        return True
    return link.is_symlink() and link.readlink().parent.name in _OURS


def write_folder(
    folder: Path,
    emc: Path,
    detector: Path,
    config_text: Callable[[str, str], str],
    hits: HitList | None = None,
    scale: np.ndarray | None = None,
    background_text: Callable[[str, str], str] | None = None,
) -> str:
    """Make a folder in which ``dragonfly.emc`` starts as it is, and say what was done; one rank.

    A ``config.ini`` that is there already stays: it may have been edited. What it names are links,
    which are made anew. All files are new, or none: jobs that make the same folder at the same time
    wait for each other.

    Parameters
    ----------
    folder : Path
    emc, detector : Path
        What is linked.
    config_text : callable
        Returns the ``config.ini`` for the names of the links.
    hits : HitList, optional
        Of the EMC file.
    scale : ndarray, float64 (hit,), optional
        Goes with them.
    background_text : callable, optional
        Returns the ``background.ini`` likewise.

    Raises
    ------
    OutputError
        If it cannot be written, or as `check_folder`.
    """
    what = f"the folder {folder} for Dragonfly is being made"
    configs = {folder / "config.ini": config_text}
    if background_text:
        configs[folder / _WITH_BACKGROUND] = background_text
    try:
        for name in (*_FOLDERS, *(["background"] if background_text else [])):
            make_folder(folder / name)
        with held_by_one(folder / "xfelmpi.lock", what, _PATIENCE):
            written = photons, pixels = _links(folder)
            _link(photons, emc)
            _link(pixels, detector)
            if hits is not None:
                _check_hit_list(folder / "data" / HIT_LIST)
                written = [*written, *write_hit_list(folder / "data" / HIT_LIST, hits, scale)]
            kept = [path.name for path in configs if os.path.lexists(path)]
            for path in (path for path in configs if path.name not in kept):
                part = begin_partial(path)
                write_new(part, configs[path](photons.name, pixels.name).encode())
                make_readable(part)
                written = [*written, path]
            give_names(written)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror})") from None
    return _done(folder, kept, photons.name, pixels.name)


def _done(folder: Path, kept: list[str], photons: str, pixels: str) -> str:
    """Return what was done, given the files of the user that stay and the names of the links."""
    text = f"Dragonfly: {folder}"
    if kept:
        ends = ("was", "stays") if len(kept) == 1 else ("were", "stay")
        text += f", {' and '.join(kept)} {ends[0]} there already and {ends[1]}"
    if photons != "photons.emc":
        text += f"; your own files in data/ stay, the new ones are {photons}, {pixels}"
    return text


def _link(link: Path, target: Path) -> None:
    """Make a link under its temporary name."""
    # relative, so that the outputs may be moved as a whole; through real folders, because '..'
    # does not lead back through a link
    name = os.path.relpath(target.resolve(), link.parent.resolve())
    new = begin_partial(link)
    new.unlink(missing_ok=True)
    new.symlink_to(name)
