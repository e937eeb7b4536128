"""Numpy twins of the kernels and of the pure stages: dense, slow and obvious.

Nothing here imports what it is compared with. Frames are dense images, (frame, 512, 128) of one
module or (frame, 16, 512, 128) of all.
"""

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

MODULES, SS, FS = 16, 512, 128
PIXELS = SS * FS
MOST_PHOTONS = 65535
EMPTY = {"lit": 0, "photons": 0, "region_lit": 0, "region_photons": 0, "region_bad": 0}
EMPTY |= {"ones": 0, "peak": 0}


def photon_image(values, adu_per_photon=1.0, threshold=0.7):
    """Return the photons of every pixel, int64, and which pixels are bad in this frame, bool.

    Integers are photons as they stand. Floats: floor(signal / adu_per_photon + 1 - threshold),
    every step in float32. Never below 0; NaN, ±inf and more than 65535 photons are bad.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        bad = values > MOST_PHOTONS
        return np.where(bad | (values < 0), 0, values).astype(np.int64), bad
    with np.errstate(over="ignore", invalid="ignore"):
        signal = values.astype(np.float32)
        scaled = signal / np.float32(adu_per_photon) + np.float32(1) - np.float32(threshold)
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
    region_bad: list[int]
    ones: list[int]
    peak: list[int]
    entries: list[int]
    pixel: list[np.ndarray]
    count: list[np.ndarray]
    powder: np.ndarray
    invalid: np.ndarray


def module_twin(
    values, good, region, adu_per_photon=1.0, threshold=0.7, masks=None, bits=0xFFFFFFFF
) -> ModuleTwin:
    """Work off frames of one module.

    Parameters
    ----------
    values : ndarray (frame, 512, 128)
    good : ndarray, bool (frame, 512, 128)
    region : ndarray, bool (512, 128)
    adu_per_photon, threshold : float
    masks : ndarray, uint32 (frame, 512, 128), optional
        Masks of the frames themselves.
    bits : int
        Which of their bits make a pixel bad.
    """
    images = (photon_image(frame, adu_per_photon, threshold) for frame in values)
    if masks is not None:
        images = (
            masked_image(*image, mask, bits) for image, mask in zip(images, masks, strict=True)
        )
    return images_twin(images, good, region)


def masked_image(photons, bad, mask, bits):
    """Add the pixels that a frame's own mask calls bad to those that are bad in this frame."""
    masked = mask & np.uint32(bits) != 0
    return np.where(masked, 0, photons), bad | masked


def images_twin(images, good, region) -> ModuleTwin:
    """Sum up and list photon images, each with the pixels that are bad in this frame."""
    columns = {name: [] for name in (*EMPTY, "entries", "pixel", "count")}
    powder, invalid = np.zeros((2, PIXELS), np.int64)
    region = region.reshape(-1)
    for image, mask in zip(images, good, strict=True):
        photons, bad = (a.reshape(-1) for a in image)
        mask = mask.reshape(-1)
        photons, bad = np.where(mask, photons, 0), bad & mask
        pixel = np.flatnonzero((photons > 0) | bad)
        columns["lit"].append(int((photons > 0).sum()))
        columns["photons"].append(int(photons.sum()))
        columns["region_lit"].append(int((photons[region] > 0).sum()))
        columns["region_photons"].append(int(photons[region].sum()))
        columns["region_bad"].append(int(bad[region].sum()))
        columns["ones"].append(int((photons == 1).sum()))
        columns["peak"].append(int(photons.max()))
        columns["entries"].append(len(pixel))
        columns["pixel"].append(pixel)
        columns["count"].append(photons[pixel])
        powder += photons
        invalid += bad
    return ModuleTwin(**columns, powder=powder, invalid=invalid)


def gain_stage(digital, level):
    """Return the stage of every pixel, by the thresholds in level[1] and level[2]."""
    return np.where(digital < level[1], 0, np.where(digital > level[2], 2, 1))


def of_stage(values, stage):
    """Return the value of every pixel's stage, of values by stage."""
    return np.take_along_axis(values, stage[None], axis=0)[0]


def bad_constants(offset, gain, level, bad):
    """Return the bad pixels of every stage, those with unusable constants among them."""
    finite = np.isfinite(offset.astype(np.float32)) & np.isfinite(gain.astype(np.float32))
    unknown_stage = np.isnan(level[1:]).any(axis=0)
    return (bad != 0) | ~finite | ~(gain > 0) | unknown_stage


def raw_photons(
    analogue, digital, offset, gain, level, bad, good, adu, threshold=0.7, *, common_mode=False
):
    """Return the photons of a raw frame, the pixels that are bad in it, and those that switched.

    Parameters
    ----------
    analogue, digital : ndarray, uint16 (512, 128)
    offset, gain, level, bad : ndarray (3, 512, 128)
        Constants of the module and cell, as they stand in the files.
    good : ndarray, bool (512, 128)
        By the masks. What is bad in the high stage is bad in every frame.
    adu, threshold : float
    common_mode : bool
        Subtract the median of the good pixels of every 64 x 64 ASIC.

    Returns
    -------
    photons : ndarray, int64 (512, 128)
        0 in all bad pixels.
    bad_in_frame : ndarray, bool (512, 128)
        Good pixels that are bad in this frame only: bad in their stage, or too many photons.
    switched : (int, int)
        Good pixels in medium and in low gain.
    """
    stage = gain_stage(digital.astype(np.int64), level)
    bad = bad_constants(offset, gain, level, bad)
    good = good & ~bad[0]
    bad_in_frame = good & of_stage(bad, stage)
    usable = good & ~bad_in_frame
    with np.errstate(invalid="ignore", over="ignore"):
        signal = analogue.astype(np.float32) - of_stage(offset, stage).astype(np.float32)
        signal *= of_stage(gain, stage).astype(np.float32)
    signal[~usable] = 0
    if common_mode:
        for ss in range(0, SS, 64):
            for fs in range(0, FS, 64):
                asic = (slice(ss, ss + 64), slice(fs, fs + 64))
                if usable[asic].any():
                    middle = np.median(signal[asic][usable[asic]])
                    assert middle.dtype == np.float32
                    signal[asic] -= middle
    photons, too_many = photon_image(signal, adu, threshold)
    bad_in_frame |= usable & too_many
    switched = tuple(int((good & (stage == s)).sum()) for s in (1, 2))
    return np.where(usable & ~too_many, photons, 0), bad_in_frame, switched


def quantile(values, q: float) -> float:
    """Return a quantile by linear interpolation between the two nearest of the sorted values."""
    ordered = sorted(float(v) for v in values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def statistics(scores, width="lower", *, floor=True) -> tuple[float, float]:
    """Return median and width of a group: 1.4826 (median - q25), at least √median and 1."""
    if not len(scores):
        return math.nan, math.nan
    low, median, high = (quantile(scores, q) for q in (0.25, 0.5, 0.75))
    half = {"lower": 1.4826 * (median - low), "half": (median - low) / 0.67448}
    spread = half.get(width, (high - low) / 1.34896)
    return median, max(spread, math.sqrt(median), 1.0) if floor else spread


def window(usable, a, b, min_scores) -> list[int]:
    """Return the usable frames around the train of frames a … b, as EXtra-redu counts them."""
    rank = [sum(usable[: i + 1]) for i in range(len(usable))]
    extent = max(0, (min_scores - (rank[b - 1] - rank[a] + 1)) // 2)
    left = [i for i in range(a) if extent and rank[i] > rank[a] - extent]
    right = [i for i in range(b, len(usable)) if extent and rank[i] < rank[b - 1] + extent]
    return [i for i in (*left, *range(a, b), *right) if usable[i]]


def fit_background(values, least) -> tuple[float, float, float]:
    """Return level, width and background frames of a group; `least` gives the smallest width.

    Mean and deviation of the values from 3 widths below to 1.5 above, made those of a whole normal
    distribution, again and again from the narrowest quarter of the lowest 40 %.
    """
    values, n = sorted(map(float, values)), len(values)
    step = math.ceil(0.25 * n) - 1
    starts = range(max(math.ceil(0.4 * n) - step, 1))
    best = min(starts, key=lambda i: (values[i + step] - values[i], i))
    level = (values[best] + values[best + step]) / 2
    width = max((values[best + step] - values[best]) / 2 / 0.89, least(level))
    normal = NormalDist()
    share = normal.cdf(1.5) - normal.cdf(-3)
    mean = (normal.pdf(-3) - normal.pdf(1.5)) / share
    variance = 1 + (-3 * normal.pdf(-3) - 1.5 * normal.pdf(1.5)) / share - mean**2
    for _ in range(60):
        taken = [v for v in values if level - 3 * width <= v <= level + 1.5 * width]
        # without any, nothing is known
        middle = math.fsum(taken) / len(taken) if taken else level
        squares = math.fsum((v - middle) ** 2 for v in taken) / max(len(taken) - 1, 1)
        new_width = max(math.sqrt(squares / variance), least(level))
        new = middle - mean * new_width
        change = abs(new - level) + abs(new_width - width)
        level, width = new, new_width
        if change <= 1e-3 * width:
            break
    return level, width, min(max(len(taken), 1) / share, n)


def spread(values) -> list[float]:
    """Return whole numbers spread over the unit around them, evenly."""
    found = []
    for value in sorted(set(values)):
        n = sum(v == value for v in values)
        found += [value + (i + 0.5) / n - 0.5 for i in range(n)]
    return found


def blocks(counts, wanted) -> list[range]:
    """Return blocks of trains with the wanted frames; what is left belongs to the last."""
    edges, total = [0], 0.0
    for train, n in enumerate(counts):
        total += n
        if total >= wanted:
            edges.append(train + 1)
            total = 0.0
    edges = [*edges[:-1], len(counts)] if len(edges) > 1 else [0, len(counts)]
    return [range(a, b) for a, b in pairwise(edges)]


def background(trains, min_scores=100, *, floor=True) -> list[tuple[float, float]]:
    """Return level and width for every train of a run, told its trains' usable scores."""

    def noise(level):
        return math.sqrt(max(level, 1)) if floor else 0.0

    counts = [len(scores) for scores in trains]
    everything = [float(v) for scores in trains for v in scores]
    if not everything:
        return [(math.nan, math.nan)] * len(trains)
    whole = floor and all(v == round(v) for v in everything)
    wanted = min(2 * min_scores, len(everything))
    parts = blocks(counts, wanted / 4)
    level, share = [math.nan] * len(trains), [0.0] * len(trains)
    for p, part in enumerate(parts):

        def window(n, p=p):
            for extent in range(len(parts)):
                some = parts[max(p - extent, 0) : p + extent + 1]
                values = [float(v) for block in some for t in block for v in trains[t]]
                if len(values) >= n:
                    break
            return spread(values) if whole else values

        values = window(wanted)
        found = fit_background(values, noise)
        growth = min(max(wanted / found[2], 1), 8)
        if growth > 1:
            values = window(growth * len(values))
            found = fit_background(values, noise)
        for t in part:
            level[t], share[t] = found[0], found[2] / len(values)
    width = [math.nan] * len(trains)
    for part in blocks([n * s for n, s in zip(counts, share, strict=True)], 10 * min_scores):
        offsets = [
            (float(v) - level[t]) / math.sqrt(max(level[t], 1)) for t in part for v in trains[t]
        ]
        found = fit_background(offsets, lambda _: float(floor)) if offsets else (math.nan, math.nan)
        for t in part:
            width[t] = found[1] * math.sqrt(max(level[t], 1))
    return list(zip(level, width, strict=True))


def skewed_threshold(level, width, sigma, *, floor=True) -> float:
    """Return the threshold for counts; Cornish and Fisher's first term."""
    moment = max(3 * width**2 - 2 * max(level, 0), 0)
    if floor and level < 1:
        moment = max(level, 0)
    skew = moment / width**3 if width else 0
    return level + width * (sigma + (max(sigma**2 - 1, 0) / 6 * skew if sigma > 1 else 0))


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


def sampling_key(train: int, cell: int) -> int:
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
