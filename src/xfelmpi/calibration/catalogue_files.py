"""Which constants of the facility's calibration catalogue belong to a run.

Those that the correction used are listed in ``calibration_metadata.yml`` beside the corrected files
(``extra.calibration.CalibrationData.from_correction`` reads the same). Without that list the
catalogue is asked for those of the run's operating conditions, by ``extra.calibration`` (package
euxfel-extra). Both name files below the folder of all constants.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from xfelmpi.calibration.constants_file import STAGES
from xfelmpi.core.errors import InputError
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.core.regular_file import open_regular
from xfelmpi.core.text import one_line
from xfelmpi.detectors.known import detectors_of

STORES = (Path("/common/cal/caldb_store"), Path("/gpfs/exfel/d/cal/caldb_store"))
"""Where the constants are at the facility (``extra.calibration.calcat``)."""

STORE_VARIABLE, ADDRESS_VARIABLE = "XFELMPI_CALDB", "XFELMPI_CALCAT"
"""Of the environment: the folder of all constants, and the catalogue's address, if elsewhere."""

ADDRESS = "http://exflcalproxy.desy.de:8080"
"""Of the catalogue, inside the facility's network."""

WANTED = ("Offset", "ThresholdsDark", "SlopesFF", "SlopesPC", "SlopesCS")
"""Constants that are used, besides all whose names begin with ``BadPixels``."""

_SECONDS = (5, 60)
"""How long to wait for a connection to the catalogue, and for an answer."""

ADAPTIVE = 0
_LIST = "calibration_metadata.yml"
_LARGEST_LIST = 16 << 20


@dataclass(frozen=True)
class ConstantFile:
    """One constant of one module.

    Parameters
    ----------
    path : Path
    dataset : str
        Its group; the values are in ``data`` there.
    """

    path: Path
    dataset: str


@dataclass(frozen=True)
class CatalogueFiles:
    """The constants of a run.

    Parameters
    ----------
    origin : str
        Where they are listed.
    modules : dict of int to dict of str to ConstantFile
        By module and name of the constant.
    gain_mode : int
        0: adaptive; 1, 2, 3: fixed to the high, medium or low stage.
    """

    origin: str
    modules: dict[int, dict[str, ConstantFile]]
    gain_mode: int


def find_catalogue_files(experiment: Experiment, detector: str) -> CatalogueFiles:
    """Find the constants of a run; one rank.

    Parameters
    ----------
    experiment : Experiment
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.

    Raises
    ------
    InputError
        If they are neither listed nor to be had from the catalogue.
    """
    path = _list_of_correction(experiment, detector)
    if path is not None:
        found = _listed(path, detector)
        mode = _gain_mode(experiment, detector, found)
        return CatalogueFiles(f"those of the correction, {path}", found, mode)
    address = os.environ.get(ADDRESS_VARIABLE, ADDRESS)
    folder = experiment.run_folder("proc")
    log.info(f"constants: no {folder / _LIST}; asking the catalogue at {address}")
    found, mode = _asked(experiment, detector, address)
    return CatalogueFiles(f"by the run's conditions, from {address}", found, mode)


def identify_catalogue_files(experiment: Experiment, detector: str) -> list:
    """Return what tells the constants of a run from others, as JSON can hold it; one rank.

    Files of the store are gigabytes and do not change: their size and time stand for them.

    Raises
    ------
    InputError
        As `find_catalogue_files`.
    """
    path = _list_of_correction(experiment, detector)
    if path is not None:
        found, mode = _listed(path, detector), None
    else:
        found, mode = _asked(experiment, detector, os.environ.get(ADDRESS_VARIABLE, ADDRESS))
    files = sorted((m, kind, file) for m, own in found.items() for kind, file in own.items())
    return [mode, *([m, kind, str(f.path), f.dataset, _stamp(f.path)] for m, kind, f in files)]


def _stamp(path: Path) -> list[int] | None:
    try:
        about = path.stat()
    except OSError:  # reading it will say so
        return None
    return [about.st_size, about.st_mtime_ns]


def _list_of_correction(experiment: Experiment, detector: str) -> Path | None:
    """Return the list that the correction has left, None if there is none."""
    folder = experiment.run_folder("proc")
    names = (f"calibration_metadata_{detector}.yml", _LIST)
    return next((folder / name for name in names if (folder / name).exists()), None)


def _store() -> Path:
    """Return the folder of all constants."""
    if named := os.environ.get(STORE_VARIABLE):
        return Path(named)
    there = [path for path in STORES if path.is_dir()]
    if not there:
        raise InputError(
            f"--constants catalogue: neither {STORES[0]} nor {STORES[1]} is there; name the folder "
            f"of the catalogue's constants with the environment variable {STORE_VARIABLE}"
        )
    return there[0]


def _modules(detector: str) -> dict[str, int]:
    """Return the modules of a detector by the names of their data aggregators, e.g. ``AGIPD03``."""
    return {name: module for module, name in enumerate(detectors_of(detector)[0].module_names)}


def _listed(path: Path, detector: str) -> dict[int, dict[str, ConstantFile]]:
    """Read the list that the correction has left."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            text = file.read(_LARGEST_LIST)
        about = yaml.safe_load(text)
        of = about["calibration-configurations"]["karabo-id"]
        if of != detector:
            raise InputError(f"{path}: lists constants of {of}, expected those of {detector}")
        store, modules, found = _store(), _modules(detector), {}
        for name, group in about["retrieved-constants"].items():
            # there are other entries as well, such as how long it took
            if name not in modules or "constants" not in group:
                continue
            found[modules[name]] = {
                kind: ConstantFile(store / entry["path"], str(entry["dataset"]))
                for kind, entry in group["constants"].items()
                if _used(kind)
            }
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (
        yaml.YAMLError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
    ) as error:
        reason = one_line(error)
        raise InputError(f"{path}: no list of constants of a correction: {reason}") from None
    return found


def _used(kind: str) -> bool:
    return kind in WANTED or kind.startswith("BadPixels")


def _gain_mode(experiment: Experiment, detector: str, found: dict) -> int:
    """Return the gain mode by the run's control data, else by whether there are thresholds."""
    from extra_data import RunDirectory

    guess = ADAPTIVE if any("ThresholdsDark" in its for its in found.values()) else 1
    control = detectors_of(detector)[0].control
    if control is None:
        return guess
    domain = re.sub(r"_DET_(\w+)-(\d)$", r"_IRU_\1\2", detector)
    folders = (experiment.run_folder(kind) for kind in ("raw", "proc"))
    for folder in filter(Path.is_dir, folders):
        try:
            run = RunDirectory(str(folder))
            sources = sorted(s for s in run.control_sources if s.endswith(control.device))
            sources.sort(key=lambda name: not name.startswith(domain))
            if sources:
                return _known_mode(run[sources[0]]["gainModeIndex"].as_single_value(atol=0))
        # damaged files are the index's affair, and a value that varies says nothing
        except Exception as error:
            log.info(f"{folder}: no gain mode: {one_line(error)[:200]}")
    return guess


def _known_mode(value) -> int:
    """Return a gain mode, 0 … 3; see `CatalogueFiles`.

    Raises
    ------
    ValueError
        If it is another number.
    """
    mode = int(value)
    if not ADAPTIVE <= mode <= STAGES:
        raise ValueError(f"gain mode {mode}, expected {ADAPTIVE} … {STAGES}")
    return mode


def _asked(experiment: Experiment, detector: str, address: str) -> tuple[dict, int]:
    """Ask the catalogue for the constants of the raw run's conditions."""
    try:
        from extra.calibration import CalCatAPIClient, CalibrationData, calcat
    except ImportError as error:
        raise InputError(
            f"--constants catalogue: asking the catalogue needs the package euxfel-extra ({error})"
        ) from None
    # it keeps units of measurement in the user's cache, and fails on those of an environment that
    # was removed
    except Exception as error:
        raise InputError(
            "--constants catalogue: the package euxfel-extra cannot be loaded "
            f"({type(error).__name__}: {error}); if that names a folder that is gone, remove the "
            "folder pint of the user's cache (~/.cache/pint), which it makes again"
        ) from None
    from extra_data import RunDirectory

    class Client(CalCatAPIClient):
        """Waits for the catalogue, but not for ever."""

        def request(self, *arguments, **options):
            """Send a request with a limit of time."""
            return super().request(*arguments, **{"timeout": _SECONDS, **options})

    store = _store()
    try:
        # parts of the library take the global client
        calcat.global_client = client = Client(f"{address.rstrip('/')}/api/", user_email="")
        run = RunDirectory(str(experiment.run_folder("raw")))
        found = CalibrationData.from_data(run, detector, client=client)
        modules, by_module = _modules(detector), {}
        for kind in filter(_used, found):
            for name, constant in found[kind].constants.items():
                if name in modules:
                    own = by_module.setdefault(modules[name], {})
                    own[kind] = ConstantFile(constant.file_path(store), constant.dataset)
        mode = _known_mode(getattr(found._condition, "gain_mode", None) or ADAPTIVE)
    # the library and what it stands on raise many classes
    except Exception as error:
        reason = one_line(error)[:500]
        raise InputError(
            f"--constants catalogue: {address} has no answer for {detector}, run {experiment.run}: "
            f"{type(error).__name__}: {reason}"
        ) from None
    return by_module, mode
