"""Detector images: assembled where the pixels really are, coloured, as PNG. Pure."""

import base64
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xfelmpi._kernels._deflate import zlib_compress

GAP, BAD, LOWEST = 0, 1, 2
"""First colours of every palette: no detector there, bad pixels, and the lowest value."""

LARGEST = 700
"""Points of an image along one edge at most, however far apart the quadrants are."""

_SHADES = ("#04040c", "#1c1044", "#4f127b", "#812581", "#b5367a", "#e55064", "#fb8761", "#fec287")
_SHADES += ("#fcfdbf",)
_BAD_COLOUR = "#5f9e8f"


@dataclass(frozen=True)
class Raster:
    """Which point of an image every pixel falls on, seen along the beam, y up.

    Parameters
    ----------
    point : ndarray, int64 (pixel,)
    shape : (int, int)
        Of the image.
    size : float
        Edge of a point in m.
    """

    point: np.ndarray
    shape: tuple[int, int]
    size: float

    @cached_property
    def pixels(self) -> np.ndarray:
        """How many pixels fall on every point, float64, of the image's shape."""
        return self.sums(np.ones(len(self.point)))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the pixels on every point, float64, of the image's shape."""
        n = self.shape[0] * self.shape[1]
        there = values != 0
        if 2 * np.count_nonzero(there) > len(values):
            return np.bincount(self.point, values, n).reshape(self.shape)
        (some,) = np.nonzero(there)
        return np.bincount(self.point[some], values[some], n).reshape(self.shape)


def make_raster(xyz: np.ndarray, pixels: float, pixel_size: float) -> Raster:
    """Lay points of `pixels` x `pixels` detector pixels over the detector.

    Parameters
    ----------
    xyz : ndarray, float64 (3, pixel)
        Positions in m, right-handed with z along the beam: seen along it, x points left.
    pixels : float
        Edge of a point; larger ones are taken if there were more than `LARGEST` along an edge.
    pixel_size : float
        In m.
    """
    x, y = xyz[0].max() - xyz[0], xyz[1].max() - xyz[1]
    size = max(pixels * pixel_size, (max(x.max(), y.max()) + pixel_size) / LARGEST)
    column, row = (x / size).astype(np.int64), (y / size).astype(np.int64)
    shape = int(row.max()) + 1, int(column.max()) + 1
    return Raster(row * shape[1] + column, shape, size)


@dataclass(frozen=True)
class Assembled:
    """An image of the detector.

    Parameters
    ----------
    values : ndarray, float64 (y, x)
        NaN where there is no good pixel.
    bad : ndarray, bool (y, x)
        Where there are pixels, but no good one.
    """

    values: np.ndarray
    bad: np.ndarray


def assemble(raster: Raster, photons: np.ndarray, frames: np.ndarray) -> Assembled:
    """Return mean photons per frame and pixel.

    Parameters
    ----------
    raster : Raster
    photons : ndarray (pixel,)
        Sums over frames.
    frames : ndarray (pixel,)
        In how many of them the pixel was good.
    """
    total, n = raster.sums(photons), raster.sums(frames)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(n > 0, total / n, np.nan)
    return Assembled(values, (n == 0) & (raster.pixels > 0))


def assemble_counts(raster: Raster, photons: np.ndarray, good: np.ndarray) -> Assembled:
    """Return how many photons of one frame fall on every point, given its good pixels."""
    # most pixels are good, and most have no photon
    some_good = raster.pixels > raster.sums(~good)
    counts = raster.sums(np.where(good, photons, 0))
    return Assembled(np.where(some_good, counts, np.nan), (raster.pixels > 0) & ~some_good)


def count_limits(image: Assembled) -> tuple[float, float]:
    """Return the lowest and highest value to show of counts: one photon stands out from none."""
    return 0.08, max(logarithmic_limits(image)[1], 2.0)


def logarithmic_limits(image: Assembled) -> tuple[float, float]:
    """Return the lowest and highest value to show, leaving out outliers."""
    values = image.values[image.values > 0]
    if not len(values):
        return 0.1, 1.0
    low, high = np.quantile(values, (0.01, 0.999))
    return float(low), float(max(high, 1.001 * low))


def shade(image: Assembled, limits: tuple[float, float], shades: int) -> np.ndarray:
    """Return colour numbers, uint8 (y, x), on a logarithmic scale; see `palette`."""
    low, high = np.log(limits)
    numbers = np.full(image.values.shape, LOWEST, np.uint8)
    # few points of a hit have photons
    lit = image.values > 0
    level = (np.log(image.values[lit]) - low) / (high - low) * (shades - 1)
    numbers[lit] += np.clip(np.round(level), 0, shades - 1).astype(np.uint8)
    numbers[np.isnan(image.values)] = GAP
    numbers[image.bad] = BAD
    return numbers


LEVELS = 253
"""Steps of the values in `levels`."""


def levels(image: Assembled) -> tuple[np.ndarray, float, float]:
    """Return an image in numbers that fit into a grey picture, whose values can be had back.

    Returns
    -------
    numbers : ndarray, uint8 (y, x)
        0: no detector, 1: bad, 2: zero, 3 … 255: values on a logarithmic scale.
    lowest, highest : float
        Values of 3 and 255.
    """
    positive = image.values[image.values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    span = max(float(np.log(high / low)), 1e-9)
    numbers = np.full(image.values.shape, GAP, np.uint8)
    numbers[image.bad] = BAD
    numbers[image.values == 0] = LOWEST
    lit = image.values > 0
    step = np.round(np.log(image.values[lit] / low) / span * (LEVELS - 1))
    numbers[lit] = LOWEST + 1 + step.astype(np.uint8)
    return numbers, float(low), float(high)


def grey_png(numbers: np.ndarray) -> bytes:
    """Return a PNG whose red, green and blue are the numbers, uint8 (y, x)."""
    table = np.full((256, 4), 255, np.uint8)
    table[:, :3] = np.arange(256, dtype=np.uint8)[:, None]
    return png(numbers, table)


def palette(shades: int) -> np.ndarray:
    """Return red, green, blue, opacity of every colour number, uint8 (2 + shades, 4)."""
    anchors = np.array([_rgb(colour) for colour in _SHADES], float)
    at = np.linspace(0, len(anchors) - 1, shades)
    ramp = [np.interp(at, np.arange(len(anchors)), anchors[:, i]) for i in range(3)]
    table = np.full((LOWEST + shades, 4), 255, np.uint8)
    table[GAP] = 0
    table[BAD, :3] = _rgb(_BAD_COLOUR)
    table[LOWEST:, :3] = np.round(np.stack(ramp, axis=1))
    return table


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def png(numbers: np.ndarray, table: np.ndarray) -> bytes:
    """Return a PNG with a palette.

    Parameters
    ----------
    numbers : ndarray, uint8 (y, x)
    table : ndarray, uint8 (colour, 4)
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width = numbers.shape
    # every line begins with the number of its filter: none
    lines = np.zeros((height, width + 1), np.uint8)
    lines[:, 1:] = numbers
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", np.ascontiguousarray(table[:, :3]).tobytes()),
            chunk(b"tRNS", np.ascontiguousarray(table[:, 3]).tobytes()),
            chunk(b"IDAT", zlib_compress(lines.reshape(-1), 6)),
            chunk(b"IEND", b""),
        )
    )


def data_uri(content: bytes) -> str:
    """Return a PNG as an address that holds the image itself."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
