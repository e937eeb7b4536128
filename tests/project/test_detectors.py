"""AGIPD stays in its place: everything else takes shapes from arrays or a `Detector`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "xfelmpi"

NAMES_AGIPD = {
    # raw data, their constants and dark runs are AGIPD's
    "calibration/catalogue.py",
    "calibration/constants.py",
    "calibration/constants_file.py",
    "calibration/dark_statistics.py",
    "output/constants_file.py",
    "workflows/darks.py",
}
"""Modules outside detectors/ and simulate/ that may name AGIPD-1M. No new ones: give the function
the detector, or take the shape of its arrays."""


def imported_from_agipd(path: Path) -> set[str]:
    """Return the names that a module imports from detectors/agipd.py."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.module == "xfelmpi.detectors.agipd":
                names |= {name.name for name in node.names}
            elif node.module == "xfelmpi.detectors":
                names |= {name.name for name in node.names} & {"agipd"}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names if name.name == "xfelmpi.detectors.agipd"}
    return names


def importers() -> dict[str, set[str]]:
    """Return what modules outside detectors/ and simulate/ import from detectors/agipd.py."""
    found = {
        str(path.relative_to(PACKAGE)): imported_from_agipd(path) for path in PACKAGE.rglob("*.py")
    }
    own = ("detectors/", "simulate/")
    return {name: names for name, names in found.items() if names and not name.startswith(own)}


def test_agipd_is_one_object():
    """Nobody takes a number of AGIPD's by itself."""
    assert {name for names in importers().values() for name in names} == {"AGIPD_1M"}


def test_only_these_modules_name_agipd():
    """A list that may only shrink; what it lists without need must be taken out, too."""
    assert set(importers()) == NAMES_AGIPD


def test_no_constants_of_agipd_elsewhere():
    names = ("N_MODULES", "MODULE_SHAPE", "MODULE_PIXELS", "FRAME_PIXELS", "FRAME_SHAPE", "N_CELLS")
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).parts[0]
        if inside not in ("detectors", "simulate"):
            text = path.read_text()
            assert not [name for name in names if name in text], path
