"""Conditions such as ``hit_sigma > 8 and pulse_energy > 200 uJ`` on columns of numbers. Pure.

The text is parsed by Python's own parser and then walked; what is not listed here is refused, and
nothing of it is ever executed.
"""

import ast
import difflib
import operator
import re
from collections.abc import Mapping
from functools import reduce

import numpy as np

from xfelmpi.core.errors import UsageError
from xfelmpi.core.units import Unit, parse_unit
from xfelmpi.core.vocabulary import PLAIN_NUMBERS, under_both_names

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

_QUANTITY = re.compile(
    # all of a number or nothing: 1e-3 is not 1 in the unit e
    r"(?<![\w.])(?P<number>(?>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))\s*(?P<unit>[^\W\d_]+)(?!\w|\()"
)
_WORDS = {"and", "or", "not", "in", "if", "else", "is"}
_PLACE = "_quantity_"

_CLASS, _CLASS_PLACE = re.compile(r"(?<![\w.])class(?!\w)"), "_class_"
"""A name of a column that is a word of Python's, and what stands for it."""

_MISTAKES = (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What the parser and the walk raise on a text that is no condition."""


def rows_where(
    condition: str, columns: Mapping[str, np.ndarray], units: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return which rows fulfil a condition, bool (row,).

    Numbers, with units (``200 uJ``) or in SI, names of columns as in the events file or in CXI,
    ``+ - * / %``, comparisons (also ``200 < x <= 300`` and ``run in (50, 52)``), ``and``, ``or``,
    ``not``, ``abs(x)``, ``isfinite(x)``. NaN is neither more nor less than anything.

    Parameters
    ----------
    condition : str
    columns : mapping of str to ndarray (row,)
        Numbers, by name; at least one.
    units : mapping of str to str, optional
        SI units of columns, where known. Such a column is not compared with another unit.

    Raises
    ------
    UsageError
        If it is no such condition, or names a column that is not there.
    """
    quantities: dict[str, tuple[str, float, Unit]] = {}
    try:
        if len(condition) > _LONGEST:
            raise ValueError("too long")
        text = _CLASS.sub(_CLASS_PLACE, condition.strip())
        text = _QUANTITY.sub(lambda found: _quantity(found, quantities), text)
        tree = ast.parse(text, mode="eval")
        with np.errstate(all="ignore"):
            found = _Evaluation(columns, units or {}, quantities).value_of(tree.body)
    except _MISTAKES as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        for name, (written, *_) in reversed(quantities.items()):
            reason = reason.replace(name, written)
        reason = reason.replace(_CLASS_PLACE, "class")
        raise UsageError(f"--where {condition!r}: {reason}") from None
    if np.asarray(found).dtype != bool:
        raise UsageError(f"--where {condition!r}: is a number, expected a condition, e.g. x > 8")
    n = len(next(iter(columns.values())))
    return np.broadcast_to(found, n).copy()


def signed(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as signed ones, exactly: the difference of unsigned is never below 0."""
    if values.dtype.kind not in "iu":
        return values
    too_large = values.dtype == np.uint64 and values.max(initial=0) > np.iinfo(np.int64).max
    return values.astype(object if too_large else np.int64)


def _quantity(found: re.Match, quantities: dict[str, tuple[str, float, Unit]]) -> str:
    """Return the name that stands for a number with a unit, and keep what it is."""
    written, unit = found[0], found["unit"]
    if unit in _WORDS or re.fullmatch(r"0[xXbBoO]\w*", written):
        return written
    known = parse_unit(unit)
    if known is None:
        raise ValueError(f"{written!r}: {unit} is not a known unit; expected e.g. uJ, keV or nm")
    # as if the number had been written in SI: 200 uJ is 2e-4, not a product of rounded numbers
    value = float(found["number"]) * known.factor
    inverse = round(1 / known.factor)
    if known.factor < 1 and 1 / inverse == known.factor:
        value = float(found["number"]) / inverse
    name = f"{_PLACE}{len(quantities)}_"
    quantities[name] = (written, value, known)
    return name


class _Evaluation:
    """Walks a parsed condition."""

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        units: Mapping[str, str],
        quantities: dict[str, tuple[str, float, Unit]],
    ):
        self._named = columns
        self._columns = under_both_names(columns)
        self._units = under_both_names(dict.fromkeys(PLAIN_NUMBERS, "") | dict(units))
        self._quantities = quantities

    def value_of(self, node: ast.expr):
        """Return the value of a part of the condition."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ValueError(f"{ast.unparse(node)!r} is not possible here")
        return method(node)

    def _constant(self, node: ast.Constant):
        if type(node.value) not in (int, float, bool):
            raise ValueError(f"{node.value!r} is not a number")
        return node.value

    def _name(self, node: ast.Name):
        if node.id in self._quantities:
            return self._quantities[node.id][1]
        if node.id == _CLASS_PLACE and "class" in self._columns:
            return self._columns["class"]
        if node.id in (_CLASS_PLACE, "class_weight") and node.id not in self._columns:
            raise ValueError(
                f"no column {node.id} yet: xfelmpi classes RUN --from DIR adds it, then "
                "xfelmpi merge RUN --where takes it"
            )
        if node.id not in self._columns:
            near = difflib.get_close_matches(node.id, self._columns, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"no column {node.id}{hint}; there are {', '.join(self._named)}")
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

    def _unit_of(self, node: ast.expr) -> str | None:
        """Return the unit of a column or a number, None where it is not known."""
        if isinstance(node, ast.UnaryOp):
            return self._unit_of(node.operand)
        if not isinstance(node, ast.Name):
            return None
        if node.id in self._quantities:
            return self._quantities[node.id][2].symbol
        return self._units.get(node.id)

    def _check_units(self, left: ast.expr, right: ast.expr) -> None:
        for one, other in ((left, right), (right, left)):
            units = self._unit_of(one), self._unit_of(other)
            written = isinstance(other, ast.Name) and other.id in self._quantities
            if written and None not in units and units[0] != units[1]:
                what = f"is in {units[0]}" if units[0] else "is a plain number"
                raise ValueError(f"{ast.unparse(one)} {what}, {ast.unparse(other)} is not")

    def _one_comparison(self, left: ast.expr, how: ast.cmpop, right: ast.expr):
        value = self._number(left)
        for part in right.elts if isinstance(right, (ast.Tuple, ast.List)) else (right,):
            self._check_units(left, part)
        if isinstance(how, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List)):
                raise ValueError(f"{ast.unparse(right)!r} is not a list, e.g. (50, 52)")
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
