"""Units of files → SI."""

import numpy as np
import pytest

from xfelmpi.core.units import si_unit


@pytest.mark.parametrize(
    ("unit", "prefix", "symbol", "factor"),
    [
        ("joule", "micro", "J", 1e-6),
        ("J", "u", "J", 1e-6),
        ("J", "\u03bc", "J", 1e-6),
        ("J", "\u00b5", "J", 1e-6),
        ("Joule", "Micro", "J", 1e-6),
        ("J", "M", "J", 1e6),
        ("J", "m", "J", 1e-3),
        ("JOULE", "NONE", "J", 1),
        ("electronvolt", "kilo", "J", 1.602176634e-16),
        ("m", "n", "m", 1e-9),
        ("gram", "", "kg", 1e-3),
        ("bar", "milli", "Pa", 100),
        ("min", "", "s", 60),
        ("degree", "", "rad", np.pi / 180),
        ("degC", "", "degC", 1),
        ("degree celsius", "", "degC", 1),
        ("percent", "", "1", 0.01),
        ("K", "", "K", 1),
        ("number", "", "", 1),
        ("N_A", "", "", 1),
        ("count", "", "", 1),
        # what is not known stays as it is, and is not called by another name
        ("furlong", "milli", "millifurlong", 1),
        ("joule", "dozen", "dozenjoule", 1),
        ("j", "", "j", 1),
    ],
)
def test_units(unit, prefix, symbol, factor):
    found = si_unit(unit, prefix)
    assert found.symbol == symbol
    assert found.factor == pytest.approx(factor, rel=1e-14)
