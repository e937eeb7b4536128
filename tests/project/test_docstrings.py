"""Types that docstrings name are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OF_LIBRARIES = {
    *("None", "Path", "Intracomm", "BaseException", "Exception", "ArgumentParser", "Namespace"),
    *("File", "Group", "Dataset", "FileAccess", "Generator", "OSError", "TextIO"),
}
TYPED = re.compile(r"^\s+\*{0,2}\w+(?:, \*{0,2}\w+)* : (.+)$", re.M)


@cache
def trees() -> dict[Path, ast.Module]:
    """Return all sources, parsed; every process that runs tests imports this file."""
    return {source: ast.parse(source.read_text("utf-8")) for source in SOURCES}


@cache
def of_package() -> set[str]:
    stubs = "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.pyi"))
    nodes = (node for tree in trees().values() for node in ast.walk(tree))
    return {node.name for node in nodes if isinstance(node, ast.ClassDef)} | {
        *re.findall(r"^class (\w+)", stubs, re.M)
    }


def named_types(tree: ast.Module) -> list[str]:
    kinds = ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return [
        name
        for text in texts
        for line in TYPED.findall("\n" + text.replace("\n", "\n "))
        for name in re.findall(r"(?<![\w.])[A-Z][A-Za-z]*[a-z]\w*", line)
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_types_exist(source):
    assert set(named_types(trees()[source])) <= of_package() | OF_LIBRARIES


def test_types_are_found():
    assert sum(len(named_types(tree)) for tree in trees().values()) > 300
