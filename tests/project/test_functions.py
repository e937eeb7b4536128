"""Functions stay short, and take few arguments by position."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MOST_LINES = 65
MOST_POSITIONAL = 7


def functions(source: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(source.read_text("utf-8"))
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def n_positional(function: ast.FunctionDef) -> int:
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def lines_of_code(function: ast.FunctionDef) -> int:
    """Return its lines but for those of the docstring, which gives shapes, units and errors."""
    n = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        n -= first.end_lineno - first.lineno + 1
    return n


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_short_and_with_few_positional_arguments(source):
    found = functions(source)
    long = [f"{f.name}: {lines_of_code(f)}" for f in found if lines_of_code(f) > MOST_LINES]
    many = [f"{f.name}: {n_positional(f)}" for f in found if n_positional(f) > MOST_POSITIONAL]
    assert not long, f"more than {MOST_LINES} lines"
    assert not many, f"more than {MOST_POSITIONAL} positional parameters"


def test_functions_are_found():
    assert sum(len(functions(source)) for source in SOURCES) > 1000
