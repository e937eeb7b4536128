"""Numpy twins of the kernels and of the pure stages: dense, slow and obvious.

Nothing here imports what it is compared with. Frames are dense images, (frame, 512, 128) of one
module or (frame, 16, 512, 128) of all.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np

MODULES, SS, FS = 16, 512, 128
PIXELS = SS * FS
MOST_PHOTONS = 65535
EMPTY = {"lit": 0, "photons": 0, "region_lit": 0, "region_photons": 0, "ones": 0, "peak": 0}


def photon_image(values, adu_per_photon=1.0, threshold=0.7):
    """Return the photons of every pixel, int64, and which pixels are bad in this frame, bool.

    Integers are photons as they stand. Floats: floor(signal / adu_per_photon + (1 - threshold)),
    every step in float32. Never below 0; NaN, ±inf and more than 65535 photons are bad.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        bad = values > MOST_PHOTONS
        return np.where(bad | (values < 0), 0, values).astype(np.int64), bad
    with np.errstate(over="ignore", invalid="ignore"):
        signal = values.astype(np.float32)
        scaled = signal / np.float32(adu_per_photon) + np.float32(1 - threshold)
        assert scaled.dtype == np.float32
        photons = np.floor(scaled)
        bad = ~np.isfinite(signal) | (photons > MOST_PHOTONS)
    return np.where(bad | (photons < 0), 0, photons).astype(np.int64), bad


@dataclass(frozen=True)
class ModuleTwin:
    """What the kernel finds in frames of one module; powder and invalid are (65536,)."""

    lit: list[int]
    photons: list[int]
    region_lit: list[int]
    region_photons: list[int]
    ones: list[int]
    peak: list[int]
    entries: list[int]
    pixel: list[np.ndarray]
    count: list[np.ndarray]
    powder: np.ndarray
    invalid: np.ndarray


def module_twin(values, good, region, adu_per_photon=1.0, threshold=0.7) -> ModuleTwin:
    """Work off frames of one module.

    Parameters
    ----------
    values : ndarray (frame, 512, 128)
    good : ndarray, bool (frame, 512, 128)
    region : ndarray, bool (512, 128)
    adu_per_photon, threshold : float
    """
    columns = {name: [] for name in (*EMPTY, "entries", "pixel", "count")}
    powder, invalid = np.zeros((2, PIXELS), np.int64)
    region = region.reshape(-1)
    for frame, mask in zip(values, good, strict=True):
        photons, bad = (a.reshape(-1) for a in photon_image(frame, adu_per_photon, threshold))
        mask = mask.reshape(-1)
        photons, bad = np.where(mask, photons, 0), bad & mask
        pixel = np.flatnonzero((photons > 0) | bad)
        columns["lit"].append(int((photons > 0).sum()))
        columns["photons"].append(int(photons.sum()))
        columns["region_lit"].append(int((photons[region] > 0).sum()))
        columns["region_photons"].append(int(photons[region].sum()))
        columns["ones"].append(int((photons == 1).sum()))
        columns["peak"].append(int(photons.max()))
        columns["entries"].append(len(pixel))
        columns["pixel"].append(pixel)
        columns["count"].append(photons[pixel])
        powder += photons
        invalid += bad
    return ModuleTwin(**columns, powder=powder, invalid=invalid)


def quantile(values, q: float) -> float:
    """Return a quantile by linear interpolation between the two nearest of the sorted values."""
    ordered = sorted(float(v) for v in values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def statistics(scores) -> tuple[float, float]:
    """Return median and width of a group: 1.4826 (median - q25), at least √median and 1."""
    if not len(scores):
        return math.nan, math.nan
    median = quantile(scores, 0.5)
    return median, max(1.4826 * (median - quantile(scores, 0.25)), math.sqrt(median), 1.0)


def decide(score, complete, group, n_sigma) -> list[tuple]:
    """Return (is_hit, median, std, threshold, sigma) of every frame, by groups of equal label."""
    rows = []
    for own, usable, label in zip(score, complete, group, strict=True):
        median, std = statistics(
            [s for s, c, g in zip(score, complete, group, strict=True) if c and g == label]
        )
        if not usable:
            rows.append((False, *[math.nan] * 4))
            continue
        threshold = median + n_sigma * std
        rows.append((float(own) > threshold, median, std, threshold, (own - median) / std))
    return rows


def lottery(train: int, cell: int) -> int:
    """Return SplitMix64's output for the seed train x 512 + cell."""
    modulo = 1 << 64
    z = (train * 512 + cell + 0x9E3779B97F4A7C15) % modulo
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % modulo
    z = (z ^ z >> 27) * 0x94D049BB133111EB % modulo
    return z ^ z >> 31


def emc_bytes(frames) -> bytes:
    """Return Dragonfly's sparse file of photon images, int (frame, 16, 512, 128)."""
    flat = [np.asarray(frame).reshape(-1) for frame in frames]
    ones = [np.flatnonzero(f == 1) for f in flat]
    multi = [np.flatnonzero(f > 1) for f in flat]
    counts = [f[m] for f, m in zip(flat, multi, strict=True)]
    header = struct.pack("<3i", len(flat), MODULES * PIXELS, 0).ljust(1024, b"\0")

    def packed(numbers):
        return struct.pack(f"<{len(numbers)}i", *(int(n) for n in numbers))

    per_frame = packed([len(p) for p in ones]) + packed([len(p) for p in multi])
    return header + per_frame + b"".join(packed(p) for part in (ones, multi, counts) for p in part)


def mean_background(frames, good, is_hit) -> np.ndarray:
    """Return mean photons per good frame over the non-hits, NaN where none was good."""
    total = np.zeros(frames.shape[1:])
    number = np.zeros(frames.shape[1:])
    for frame, mask, hit in zip(frames, good, is_hit, strict=True):
        if not hit:
            total += np.where(mask, frame, 0)
            number += mask
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, total / number, np.nan)
