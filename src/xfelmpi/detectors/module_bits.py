"""Which modules there are, as a bit field: bit m is set if module m is there."""

import numpy as np


def bits_of(there: np.ndarray) -> np.ndarray:
    """Return bit fields, int64 (…), of modules that are there: bool (…, module)."""
    return there @ (1 << np.arange(there.shape[-1]))


def modules_of(bits: int, n_modules: int) -> np.ndarray:
    """Return which of `n_modules` modules are in a bit field, bool (module,)."""
    return (bits >> np.arange(n_modules) & 1).astype(bool)
