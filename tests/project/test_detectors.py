"""AGIPD stays in its place: everything else takes shapes from arrays or a `Detector`."""

import ast
import re
from pathlib import Path

import pytest

from xfelmpi.detectors.known import DETECTORS, detectors_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "xfelmpi"


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


def test_nobody_names_agipd():
    """Give the function the detector, or take the shape of its arrays."""
    assert importers() == {}


def test_what_names_agipd_is_found():
    for path in ("detectors/known.py", "simulate/constants.py"):
        assert imported_from_agipd(PACKAGE / path), path


def test_no_constants_of_agipd_elsewhere():
    names = ["N_MODULES", "MODULE_SHAPE", "MODULE_PIXELS", "FRAME_PIXELS", "FRAME_SHAPE", "N_CELLS"]
    names += ["FPGA_COMP", "AgipdComposite"]
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).parts[0]
        if inside not in ("detectors", "simulate"):
            text = path.read_text()
            assert not [name for name in names if name in text], path


def test_no_shapes_of_agipd_in_texts_elsewhere():
    """Shapes in docstrings are (frame, module), (row, byte), (pixel,)."""
    shape = re.compile(r"\((?:[a-z]+, |\d, )*(?:16|8192|65536|1048576)(?:, [a-z]+)*,?\)")
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("detectors", "simulate"):
            found = [words for words in shape.findall(path.read_text()) if words]
            assert found == [], path


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_page_has_the_detector(detector):
    page = (ROOT / "docs" / "howto" / "detectors.md").read_text()
    (row,) = re.findall(rf"(?m)^\| {detector.name} \| (.*) \|$", page)
    devices, modules, pixels, cells, kinds = row.split(" | ")
    assert all(detectors_of(name) == (detector,) for name in re.findall("`(.+?)`", devices))
    assert int(modules) == detector.n_modules
    assert pixels.partition(",")[0] == "{} × {}".format(*detector.module_shape)
    assert int(cells) == detector.max_cells
    assert ("raw" in kinds) == (detector.raw_planes > 0)
