"""Types that docstrings name are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TREES = {source: ast.parse(source.read_text("utf-8")) for source in SOURCES}
COMPILED = re.findall(
    r"^class (\w+)", "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.pyi")), re.M
)
OF_PACKAGE = {
    *(
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ),
    *COMPILED,
}
OF_LIBRARIES = {
    *("None", "Path", "Intracomm", "BaseException", "Exception", "ArgumentParser", "Namespace"),
    *("File", "Group", "Dataset", "FileAccess", "Generator", "OSError", "TextIO"),
}
TYPED = re.compile(r"^\s+\*{0,2}\w+(?:, \*{0,2}\w+)* : (.+)$", re.M)


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
    assert set(named_types(TREES[source])) <= OF_PACKAGE | OF_LIBRARIES


def test_types_are_found():
    assert sum(len(named_types(tree)) for tree in TREES.values()) > 300
