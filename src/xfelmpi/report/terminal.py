"""A run in the terminal: the headline, curves in braille dots, one hit in half blocks. Pure."""

import numpy as np

from xfelmpi.core.log import BOLD, PLAIN, RED
from xfelmpi.core.text import printable
from xfelmpi.report import curves, images
from xfelmpi.report.headline import Headline, clock, duration_in_words, energy

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bits of the dots of a braille character: 4 rows of 2 (Unicode, block U+2800)."""

_SHADES = " ·:-=+*#%@"


def headline_lines(head: Headline, *, colour: bool) -> list[str]:
    """Return the headline as lines of text."""
    started = f", started {printable(clock(head.start_time))}" if head.start_time else ""
    sample = printable(head.sample) or "sample unknown"
    excluded = printable(head.excluded)
    bold, plain = (BOLD, PLAIN) if colour else ("", "")
    alarm = RED if colour and head.excluded else ""
    rows = [
        (
            "hits",
            f"{head.hits:,}",
            f"{100 * head.hit_rate:.2f} % of the complete frames"
            f"{' with light' if head.dark else ''}",
        ),
        ("misses", f"{head.misses:,}", "drawn for comparison"),
        ("frames", f"{head.frames:,}", f"{head.complete:,} complete"),
        ("trains", f"{head.trains:,}", duration_in_words(head.seconds)),
        ("pulse energy", energy(head.pulse_energy), "mean"),
    ]
    lines = [f"{bold}run {head.run}, {printable(head.proposal)}, {sample}{plain}"]
    created = printable(clock(head.created))
    lines.append(f"{printable(head.kind)} data{started}; processed {created}")
    lines += [f"{name:<13}{value:>12}   {more}" for name, value, more in rows]
    lines.append(f"{'excluded':<13}{alarm}{excluded or 'nothing':>12}{plain if alarm else ''}")
    return lines


def rate_lines(curve: curves.TrainCurve, columns: int, rows: int) -> list[str]:
    """Return the running hit rate against train as lines of text."""
    if not len(curve.train):
        return ["no trains"]
    rate = 100 * curve.running
    top = float(np.nanmax(rate)) * 1.15 if np.nanmax(rate, initial=0) > 0 else 1.0
    # every column has a point, however few trains there are
    x = np.linspace(0, 1, 2 * columns)
    nearest = np.round(x * (len(rate) - 1)).astype(int)
    end = f"train {curve.train[-1]:,.0f}"
    return plot_lines(x, rate[nearest] / top, (columns, rows), f"{top:.3g} %", end, filled=True)


def score_lines(score: np.ndarray, threshold: float, columns: int, rows: int) -> list[str]:
    """Return the histogram of scores, logarithmic, as lines of text; the threshold is a line."""
    edges, logarithmic = curves.score_edges(score)
    number = curves.histogram(score, edges)
    place = np.log if logarithmic else np.asarray
    low, high = place(edges[0]), place(edges[-1])
    at = np.linspace(low, high, 2 * columns)
    values = np.exp(at) if logarithmic else at
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(number) - 1)
    height = np.log10(np.maximum(number[index], 0.5) / 0.5)
    top = max(float(height.max()), 0.1)
    mark = (place(threshold) - low) / (high - low) if threshold > edges[0] else None
    return plot_lines(
        np.linspace(0, 1, 2 * columns),
        height / top,
        (columns, rows),
        f"{int(number.max(initial=0)):,}",
        f"score {edges[-1]:,.0f}",
        filled=True,
        mark=mark,
        start=f"{edges[0]:,.0f}",
    )


def plot_lines(
    x: np.ndarray,
    y: np.ndarray,
    size: tuple[int, int],
    top: str,
    end: str,
    *,
    filled: bool = False,
    mark: float | None = None,
    start: str = "0",
) -> list[str]:
    """Return a plot in braille dots as lines of text.

    Parameters
    ----------
    x, y : ndarray, float64 (point,)
        0 … 1; NaN in `y` leaves a gap.
    size : (int, int)
        Columns and rows of characters.
    top, end, start : str
        What stands at the upper end of y, and at both ends of x.
    filled : bool
        Down to the axis.
    mark : float, optional
        x of a vertical line.
    """
    columns, rows = size
    dots = np.zeros((4 * rows, 2 * columns), bool)
    known = np.isfinite(y)
    across = np.clip(np.round(x[known] * (2 * columns - 1)), 0, 2 * columns - 1).astype(int)
    down = np.round((1 - np.clip(y[known], 0, 1)) * (4 * rows - 1)).astype(int)
    dots[down, across] = True
    if filled:
        highest = np.full(2 * columns, 4 * rows)
        np.minimum.at(highest, across, down)
        dots |= np.arange(4 * rows)[:, None] >= highest
    if mark is not None and 0 <= mark <= 1:
        dots[::2, round(mark * (2 * columns - 1))] ^= True
    cells = dots.reshape(rows, 4, columns, 2).transpose(0, 2, 1, 3)
    codes = 0x2800 + (cells * _DOTS).sum(axis=(2, 3))
    width = max(len(top), 1)
    lines = [
        f"{top if row == 0 else '':>{width}} │{''.join(map(chr, codes[row]))}"
        for row in range(rows)
    ]
    return [
        *lines,
        f"{'0':>{width}} └{'─' * columns}",
        f"{'':{width}}  {start:<{columns - len(end)}}{end}",
    ]


def hit_lines(image: images.Assembled, *, colour: bool) -> list[str]:
    """Return a detector image as lines of text: two points above each other in a character.

    With `colour` in 24-bit colours, else in characters of growing weight.
    """
    limits = images.count_limits(image)
    if not colour:
        levels = len(_SHADES) - 1
        numbers = images.shade(image, limits, levels).astype(int)[::2]
        letters = np.array([*"  ", *_SHADES[1:]])
        letters[images.BAD] = "x"
        return ["".join(line).rstrip() for line in letters[numbers]]
    numbers = images.shade(image, limits, 32)
    table = images.palette(32)[:, :3]
    if len(numbers) % 2:
        numbers = np.append(numbers, np.zeros_like(numbers[:1]), axis=0)
    lines = []
    for upper, lower in zip(table[numbers[::2]], table[numbers[1::2]], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper.tolist(), lower.tolist(), strict=True)
        )
        lines.append("".join(cells) + PLAIN)
    return lines
