"""Functions stay short, and take few arguments by position."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MOST_LINES = 60
MOST_POSITIONAL = 7


def functions(source: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(source.read_text("utf-8"))
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def n_positional(function: ast.FunctionDef) -> int:
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def calls_by_position(source: Path) -> list[str]:
    """Return the calls that give many arguments by position, which may be mistaken for each other.

    What is packed into bytes has its order from the format.
    """
    found = []
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or len(node.args) <= MOST_POSITIONAL:
            continue
        name = ast.unparse(node.func)
        if name not in ("struct.pack", "TypeVar"):
            found.append(f"{name} in line {node.lineno}: {len(node.args)}")
    return found


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


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_calls_with_few_arguments_by_position(source):
    assert not calls_by_position(source), f"more than {MOST_POSITIONAL} by position"


def test_calls_by_position_are_found(tmp_path):
    path = tmp_path / "calls.py"
    path.write_text("f(1, 2, 3, 4, 5, 6, 7)\nf(1, 2, 3, 4, 5, 6, 7, 8)\nf(*a, b=1, c=2)\n")
    assert calls_by_position(path) == ["f in line 2: 8"]


def test_functions_are_found():
    assert sum(len(functions(source)) for source in SOURCES) > 1000
