"""Whether corrected or raw data of a run are taken, and what is said if there are none."""

from pathlib import Path

from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import MODULE_FILE


def choose_data(experiment: Experiment, wanted: str) -> tuple[str, str]:
    """Return ``proc`` or ``raw``, and why, for the log."""
    folders = {kind: experiment.run_folder(kind) for kind in ("proc", "raw")}
    if wanted != "auto":
        if reason := _elsewhere(folders, wanted):
            raise InputError(reason)
        return wanted, f"using {wanted} data (--data {wanted})"
    if _has_detector_files(folders["proc"], "CORR"):
        return "proc", "using corrected data (proc)"
    if _has_detector_files(folders["raw"], "RAW"):
        return "raw", f"using raw data: {folders['proc']} has no detector files"
    raise InputError(_nothing_found(experiment, folders))


_FILES_OF = {"proc": "CORR", "raw": "RAW"}
"""How the names of detector files begin."""


def _elsewhere(folders: dict[str, Path], wanted: str) -> str:
    """Say where detector files are if there are none where they are wanted; else nothing."""
    if _has_detector_files(folders[wanted], _FILES_OF[wanted]):
        return ""
    other = "raw" if wanted == "proc" else "proc"
    if misplaced := _misplaced(folders, wanted):
        return misplaced
    if _has_detector_files(folders[other], _FILES_OF[other]):
        return (
            f"{folders[wanted]}: no detector files, but there are {other} data in "
            f"{folders[other]}; --data {other} or --data auto uses them"
        )
    return ""


def _misplaced(folders: dict[str, Path], kind: str) -> str:
    """Say that detector files of a kind are in the folder of the other kind, if they are."""
    there = folders["raw" if kind == "proc" else "proc"]
    if not _has_detector_files(there, _FILES_OF[kind]):
        return ""
    what = "corrected" if kind == "proc" else "raw"
    link = f", e.g. as a link: ln -s {there.absolute()} {folders[kind].absolute()}"
    return (
        f"{there}: its detector files are {what} ones ({_FILES_OF[kind]}-R…); expected them in "
        f"{folders[kind]}{'' if folders[kind].exists() else link}"
    )


def _nothing_found(experiment: Experiment, folders: dict[str, Path]) -> str:
    """Say what is there instead of the run."""
    prefix, run = experiment.prefix, experiment.run
    if not prefix.is_dir():
        link = f", it is a link to {prefix.readlink()}" if prefix.is_symlink() else ""
        return (
            f"{prefix}: no such run, since this folder is not there{link}; expected the experiment "
            "folder (--prefix, EXP_PREFIX)"
        )
    for kind in ("proc", "raw"):
        if misplaced := _misplaced(folders, kind):
            return misplaced
    found = []
    for folder in folders.values():
        n = sum(path.suffix == ".h5" for path in folder.iterdir()) if folder.is_dir() else 0
        found.append(f"{folder} (with {n} other files)" if n else str(folder))
    return (
        f"no such run, and no detector files in {' or '.join(found)}; "
        f"expected the folder of run {run}{_folder_above(experiment)}"
    )


def _folder_above(experiment: Experiment) -> str:
    """Return a hint if the folder that was named is in the experiment folder."""
    for above in experiment.prefix.absolute().parents[:2]:
        if any((above / kind / experiment.name).is_dir() for kind in _FILES_OF):
            return f"; did you mean --prefix {above}?"
    return ""


def _has_detector_files(folder: Path, prefix: str) -> bool:
    # a glob would say nothing of a folder that cannot be read
    paths = folder.iterdir() if folder.is_dir() else ()
    found = (MODULE_FILE.fullmatch(path.name) for path in paths)
    return any(match and match["kind"] == prefix for match in found)
