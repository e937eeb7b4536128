"""Nothing is left of what was used once: every name of a module is used somewhere."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
USERS = [
    *(p for folder in ("src", "cython", "tests", "jobs") for p in (ROOT / folder).rglob("*")),
    *(ROOT / "docs").rglob("*.py"),
    *(ROOT / "docs").rglob("*.ipynb"),
    ROOT / "pyproject.toml",
]
_CODE = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".sh", ".ipynb", ".toml", ".build"}


def words(text: str) -> Counter:
    return Counter(re.findall(r"\w+", text))


@pytest.fixture(scope="module")
def everywhere() -> Counter:
    found = Counter()
    for path in USERS:
        if path.suffix in _CODE:
            found += words(path.read_text("utf-8"))
    return found


def defined(text: str) -> list[str]:
    """Return the functions, classes and constants of a module."""
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [name for name in names if not name.startswith("__")]


def unused(text: str, everywhere: Counter) -> list[str]:
    """Return the names of a module that nobody uses: its own are used in itself."""
    here = words(text)
    return [n for n in defined(text) if (here if n.startswith("_") else everywhere)[n] < 2]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_names_are_used(source, everywhere):
    assert unused(source.read_text("utf-8"), everywhere) == []


def test_unused_names_are_found():
    text = "_A = 1\nB, C = _A, 2\ndef f():\n    return B\nclass _D:\n    pass\n"
    assert unused(text, words(text + "from m import f")) == ["C", "_D"]
