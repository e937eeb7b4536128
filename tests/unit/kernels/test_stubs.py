"""The stubs beside the compiled kernels say what these have: names, numbers, arguments."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import xfelmpi._kernels

FOLDER = Path(xfelmpi._kernels.__file__).parent
KERNELS = sorted({path.name.split(".")[0] for path in FOLDER.glob("_[a-z]*.so")})


def load(name: str) -> tuple[dict, object]:
    """Return the declarations of a stub by name, and the module itself."""
    found = {}
    for node in ast.parse((FOLDER / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
    return found, importlib.import_module(f"xfelmpi._kernels.{name}")


def arguments(function: ast.FunctionDef) -> list[str]:
    found = [*function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in found if argument.arg != "self"]


def test_every_kernel_has_a_stub():
    assert sorted(path.stem for path in FOLDER.glob("_[a-z]*.pyi")) == KERNELS
    assert "_sparse" in KERNELS


@pytest.mark.parametrize("name", KERNELS)
def test_names_and_numbers(name):
    declared, module = load(name)
    assert set(declared) == {key for key in vars(module) if not key.startswith("_")}
    for key, node in declared.items():
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            assert getattr(module, key) == ast.literal_eval(node.value), key


@pytest.mark.parametrize("name", KERNELS)
def test_arguments(name):
    declared, module = load(name)
    for key, node in declared.items():
        if isinstance(node, ast.FunctionDef):
            assert list(inspect.signature(getattr(module, key)).parameters) == arguments(node)
        elif isinstance(node, ast.ClassDef):
            check_class(getattr(module, key), node)


def check_class(view: type, node: ast.ClassDef) -> None:
    """Every keyword of the stub is known, one more is not; so are its attributes."""
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    names = arguments(methods.pop("__init__"))
    wrong = dict.fromkeys(names, object())
    with pytest.raises(TypeError) as known:
        view(**wrong)
    assert "unexpected keyword" not in str(known.value)
    with pytest.raises(TypeError, match=r"unexpected keyword|at most"):
        view(**wrong, another=1)
    assert all(hasattr(view, method) for method in methods)
