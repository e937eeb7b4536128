"""Deviance of counts from what a model expects. Pure."""

from functools import cache

import numpy as np

_LOWEST, _HIGHEST, _STEPS = 1e-5, 60.0, 3000


def deviance(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return 2 [k log(k / µ) − (k − µ)] of counts k and expected values µ > 0, float64 (…)."""
    # k log(k / µ) is 0 without photons
    ratio = np.where(counts > 0, counts, 1.0) / np.where(counts > 0, expected, 1.0)
    return 2 * (counts * np.log(ratio) - (counts - expected))


def expected_deviance(expected: np.ndarray) -> np.ndarray:
    """Return the mean deviance of Poisson counts from their expected value, float64 (…).

    It is 1 where many photons are expected, but far from it where there are few: the number of
    bins is no measure then of how well a model fits.

    Parameters
    ----------
    expected : ndarray, float64 (…)
        Expected values, 0 or more.
    """
    values = _table()
    bounded = np.clip(expected, _LOWEST, _HIGHEST)
    step = np.log(_HIGHEST / _LOWEST) / (_STEPS - 1)
    few = values[np.rint(np.log(bounded / _LOWEST) / step).astype(np.int64)]
    few = np.where(expected < _LOWEST, values[0] / _LOWEST * expected, few)
    return np.where(expected > _HIGHEST, 1 + 1 / (6 * np.maximum(expected, 1.0)), few)


@cache
def _table() -> np.ndarray:
    """Return the mean deviance at expected values of equal ratios, float64 (step,)."""
    mean = np.geomspace(_LOWEST, _HIGHEST, _STEPS)[:, None]
    k = np.arange(160.0)[None]
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k[0, 1:]))])
    probability = np.exp(k * np.log(mean) - mean - log_factorial)
    return (probability * deviance(k + 0 * mean, mean + 0 * k)).sum(axis=1)
