"""Conditions such as ``hit_sigma > 8 and run != 51`` on columns of numbers. Pure.

The text is parsed by Python's own parser and then walked; what is not listed here is refused, and
nothing of it is ever executed.
"""

import ast
import difflib
import operator
from functools import reduce

import numpy as np

from xfelmpi.core.errors import UsageError

_COMPARISONS = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_SIGNS = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS = {"abs": np.abs, "isfinite": np.isfinite}
_LONGEST = 10_000
_EXACT = 2.0**62
"""Integers below this are far from wrapping around."""

_MISTAKES = (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What the parser and the walk raise on a text that is no condition."""


def rows_where(condition: str, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return which rows fulfil a condition, bool (row,).

    Numbers, names of columns, ``+ - * / %``, comparisons (also ``200 < x <= 300`` and
    ``run in (50, 52)``), ``and``, ``or``, ``not``, ``abs(x)``, ``isfinite(x)``. NaN is neither more
    nor less than anything.

    Parameters
    ----------
    condition : str
    columns : dict of ndarray (row,)
        Numbers, by name; at least one.

    Raises
    ------
    UsageError
        If it is no such condition, or names a column that is not there.
    """
    try:
        if len(condition) > _LONGEST:
            raise ValueError("too long")
        tree = ast.parse(condition.strip(), mode="eval")
        with np.errstate(all="ignore"):
            found = _Evaluation(columns).value_of(tree.body)
    except _MISTAKES as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(f"--where {condition!r}: {reason}") from None
    if np.asarray(found).dtype != bool:
        raise UsageError(f"--where {condition!r}: is a number, expected a condition, e.g. x > 8")
    n = len(next(iter(columns.values())))
    return np.broadcast_to(found, n).copy()


class _Evaluation:
    """Walks a parsed condition."""

    def __init__(self, columns: dict[str, np.ndarray]):
        self._columns = columns

    def value_of(self, node: ast.expr):
        """Return the value of a part of the condition."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ValueError(f"{ast.unparse(node)!r} is not possible here")
        return method(node)

    def _constant(self, node: ast.Constant):
        if type(node.value) not in (int, float, bool):
            raise ValueError(f"{node.value!r} is no number")
        return node.value

    def _name(self, node: ast.Name):
        if node.id not in self._columns:
            near = difflib.get_close_matches(node.id, self._columns, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"no column {node.id}{hint}; there are {', '.join(self._columns)}")
        return self._columns[node.id]

    def _boolop(self, node: ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return reduce(join, [self._condition(part) for part in node.values])

    def _compare(self, node: ast.Compare):
        parts = [node.left, *node.comparators]
        found = [
            self._one_comparison(*pair)
            for pair in zip(parts[:-1], node.ops, parts[1:], strict=True)
        ]
        return reduce(np.logical_and, found)

    def _one_comparison(self, left: ast.expr, how: ast.cmpop, right: ast.expr):
        value = self._number(left)
        if isinstance(how, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List)):
                raise ValueError(f"{ast.unparse(right)!r} is no list, e.g. (50, 52)")
            equal = [np.equal(value, self._number(part)) for part in right.elts]
            found = reduce(np.logical_or, equal, np.False_)
            return found if isinstance(how, ast.In) else np.logical_not(found)
        if type(how) not in _COMPARISONS:
            raise ValueError(f"{ast.unparse(left)!r}: this comparison is not possible here")
        return np.asarray(_COMPARISONS[type(how)](value, self._number(right)))

    def _call(self, node: ast.Call):
        name = ast.unparse(node.func)
        if name not in _FUNCTIONS or len(node.args) != 1 or node.keywords:
            raise ValueError(f"{ast.unparse(node)!r}: there are abs(x) and isfinite(x)")
        return _exactly(_FUNCTIONS[name], self._number(node.args[0]))

    def _condition(self, node: ast.expr):
        value = self.value_of(node)
        if np.asarray(value).dtype != bool:
            raise ValueError(f"{ast.unparse(node)!r} is a number, expected a condition")
        return value

    def _unaryop(self, node: ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            return np.logical_not(self._condition(node.operand))
        if type(node.op) not in _SIGNS:
            raise ValueError(f"{ast.unparse(node)!r} is not possible here")
        return _exactly(_SIGNS[type(node.op)], self._number(node.operand))

    def _binop(self, node: ast.BinOp):
        if type(node.op) not in _ARITHMETIC:
            raise ValueError(f"{ast.unparse(node)!r} is not possible here (use and, or, not)")
        left, right = self._number(node.left), self._number(node.right)
        return _exactly(_ARITHMETIC[type(node.op)], left, right)

    def _number(self, node: ast.expr):
        value = self.value_of(node)
        return value if np.asarray(value).dtype != bool else np.asarray(value, np.float64)


def _exactly(function, *values):
    """Return ``function(*values)``, of integers without wrapping around beyond 64 bits."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return function(*values)
    arrays = [np.asarray(value) for value in values]
    if function is np.isfinite or any(array.dtype.kind == "f" for array in arrays):
        return function(*(a.astype(np.float64) if a.dtype == object else a for a in arrays))
    if function is operator.truediv:
        return function(*(array.astype(np.float64) for array in arrays))
    found = np.asarray(function(*(array.astype(np.float64) for array in arrays)))
    if np.abs(found).max(initial=0) < _EXACT and all(a.dtype != object for a in arrays):
        return function(*arrays)
    return np.asarray(function(*(array.astype(object) for array in arrays)), object)
