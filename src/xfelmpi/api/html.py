"""What a notebook shows of our objects."""

import html

import numpy as np

from xfelmpi.report import images


def block(title: str, inner: str) -> str:
    """Return a heading with HTML below it."""
    return f"<div><strong>{html.escape(title)}</strong>{inner}</div>"


def table(rows: list[tuple]) -> str:
    """Return rows of texts as a table."""
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def picture(title: str, image: np.ndarray) -> str:
    """Return an assembled image with a heading, its values on a logarithmic scale."""
    # two by two, so that it fits into a notebook
    height, width = (size - size % 2 for size in image.shape)
    parts = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    there = np.isfinite(parts).any(axis=(1, 3))
    values = np.where(there, np.nansum(parts, axis=(1, 3)), np.nan)
    shown = images.Assembled(values, np.zeros(values.shape, bool))
    shades = 60
    numbers = images.shade(shown, images.count_limits(shown), shades)
    address = images.data_uri(images.png(numbers, images.palette(shades)))
    return block(title, f'<br><img alt="{html.escape(title)}" src="{address}">')
