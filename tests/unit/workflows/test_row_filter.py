"""Conditions on columns: the same rows as numpy gives, and nothing else is possible."""

import re

import numpy as np
import pytest

from xfelmpi.core.errors import UsageError
from xfelmpi.workflows.merge.row_filter import rows_where

COLUMNS = {
    "run": np.array([50, 50, 51, 52, 52]),
    "hit_sigma": np.array([3.0, 9.0, np.nan, 8.0, 20.0]),
    "photons": np.array([10, 2000, 300, 40, 5]),
}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("hit_sigma > 8", [1, 4]),
        (" hit_sigma >= 8 ", [1, 3, 4]),
        ("8 <= hit_sigma < 20", [1, 3]),
        ("not hit_sigma > 8", [0, 2, 3]),
        ("run == 50 or run == 52 and photons > 10", [0, 1, 3]),
        ("run in (50, 51)", [0, 1, 2]),
        ("run not in [50, 51]", [3, 4]),
        ("run in ()", []),
        ("photons / hit_sigma < 5 + -1 * 0", [0, 4]),
        ("photons - 100 > 0", [1, 2]),
        ("abs(photons - 40) <= 30", [0, 3]),
        ("isfinite(hit_sigma)", [0, 1, 3, 4]),
        ("(hit_sigma > 8) + (photons > 100) == 2", [1]),
        ("run % 2 == 0", [0, 1, 3, 4]),
        ("photons / 0 > 1", [0, 1, 2, 3, 4]),
        ("hit_sigma != hit_sigma", [2]),
        ("True", [0, 1, 2, 3, 4]),
        ("1 > 2", []),
        ("run != 51 and hit_sigma > 1e0 and photons < 99", [0, 3, 4]),
    ],
)
def test_rows(condition, rows):
    found = rows_where(condition, COLUMNS)
    assert found.dtype == bool
    assert np.flatnonzero(found).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "hit_sgima > 8",
            "no column hit_sgima (did you mean hit_sigma?); there are run, hit",
        ),
        ("hit_sigma", "is a number, expected a condition"),
        ("hit_sigma + 1", "is a number, expected a condition"),
        ("hit_sigma and run", "'hit_sigma' is a number, expected a condition"),
        ("not run", "'run' is a number"),
        ("hit_sigma > ", "invalid syntax"),
        ("hit_sigma = 8", "invalid syntax"),
        ("", "invalid syntax"),
        ("hit_sigma > 8; run", "invalid syntax"),
        ("run == 'r0050'", "'r0050' is not a number"),
        ("run == None", "None is not a number"),
        ("run is 50", "not possible here"),
        ("run in 50", "'50' is not a list"),
        ("(hit_sigma > 8) & (run > 5)", "use and, or, not"),
        ("run ** 9999 > 1", "not possible here"),
        ("~run > 1", "not possible here"),
        ("1 / 0 > 1", "division by zero"),
        ("__import__('os').system('true')", "there are abs(x) and isfinite(x)"),
        ("run.__class__ == 1", "not possible here"),
        ("abs(run, 2) > 1", "there are abs(x)"),
        ("[r for r in (1, 2)] == 1", "not possible here"),
        ("(lambda: 1)() > 0", "there are abs(x)"),
        ("run[0] > 1", "not possible here"),
        ("(run := 5) > 1", "not possible here"),
        ("run > 1 if 1 else 0", "not possible here"),
        ("-" * 5000 + "run > 1", ""),
        ("1 +" * 5000 + "1 > 0", "too long"),
        ("run > \0", ""),
    ],
)
def test_refused(condition, message):
    with pytest.raises(UsageError) as error:
        rows_where(condition, COLUMNS)
    assert message in str(error.value)
    assert "--where" in str(error.value)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a * 4 > 0", [True, True, False]),
        ("a + a > a", [True, True, False]),
        ("a * a * a > 0", [True, True, False]),
        ("a - 9223372036854775807 - 9223372036854775807 < 0", [True, True, True]),
        ("-b - b - b < 0", [True, True, False]),
        ("abs(c) > 0", [True, True, True]),
        ("a % 7 == 0", [True, False, True]),
        ("a / a > 0.5", [True, True, False]),
        ("isfinite(b)", [True, True, True]),
        ("b == 18446744073709551615", [False, True, False]),
    ],
)
def test_integers_do_not_wrap(condition, expected):
    columns = {
        "a": np.array([2**63 - 1, 2**62, 0]),
        "b": np.array([2**63, 2**64 - 1, 0], object),
        "c": np.array([-(2**63), -1, 5]),
    }
    assert rows_where(condition, columns).tolist() == expected


HITS = {
    "pulse_energy": np.array([0.0002, 0.00021, np.nan]),
    "photon_energy": np.array([8.0, 9.0, 10.0]) * 1.602176634e-16,
    "lit_pixels": np.array([5, 6, 7]),
    "trainId": np.array([1, 2, 3]),
    "size": np.array([40e-9, 60e-9, 80e-9]),
}
UNITS = {"pulse_energy": "J", "photon_energy": "J", "size": "m", "lit_pixels": ""}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("pulse_energy > 200 uJ", [1]),
        ("pulse_energy > 2e-4", [1]),
        ("pulse_energy > 2E-4 and size < 1e3", [1]),
        ("pulse_energy > 2.e2uJ", [1]),
        ("pulse_energy >= 200µJ", [0, 1]),
        ("pulse_energy >= 0.2 mJ and size < 60nm", [0]),
        ("size in (40 nm, 80 nanometer)", [0, 2]),
        ("8.5 keV < photon_energy < 9.5e3 eV", [1]),
        ("205 < pulse_energy / 1 uJ < 300", [1]),
        ("-size < -50 nm", [1, 2]),
        # names of the events file and of CXI
        ("litpixels > 5 and train_id < 3", [1]),
        ("lit_pixels > 5 and trainId == 3", [2]),
        # numbers and words that are no quantities
        ("lit_pixels > 5 and trainId in (1,2)", [1]),
        ("lit_pixels > 5if 1 else 2", None),
    ],
)
def test_units_and_both_names(condition, rows):
    if rows is None:
        with pytest.raises(UsageError):
            rows_where(condition, HITS, UNITS)
    else:
        assert np.flatnonzero(rows_where(condition, HITS, UNITS)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("pulse_energy > 200 nm", "pulse_energy is in J, 200 nm is not"),
        ("60 mJ > size", "size is in m, 60 mJ is not"),
        ("lit_pixels > 3 uJ", "lit_pixels is a plain number, 3 uJ is not"),
        ("2 nm < train_id", "train_id is a plain number, 2 nm is not"),
        ("pulse_energy > 5 parsec", "'5 parsec': parsec is not a known unit"),
        ("pulse_energy > 5 uJ uJ", "invalid syntax"),
        ("uJ > 5", "no column uJ"),
    ],
)
def test_units_that_do_not_fit(condition, message):
    with pytest.raises(UsageError, match=re.escape(message)) as failure:
        rows_where(condition, HITS, UNITS)
    assert "_quantity_" not in str(failure.value)
