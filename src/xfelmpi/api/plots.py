"""Plots for notebooks, by matplotlib."""

import numpy as np

from xfelmpi.report.curves import histogram, over_trains, score_edges


def _pyplot():
    import matplotlib.pyplot as plt

    return plt


def _axes(ax):
    return ax if ax is not None else _pyplot().subplots(figsize=(7, 4))[1]


def plot_image(image: np.ndarray, title: str, ax=None, *, colour_bar: bool = True):
    """Draw an assembled image on a logarithmic scale; NaN stays empty."""
    from matplotlib.colors import LogNorm

    ax = ax if ax is not None else _pyplot().subplots(figsize=(6, 6))[1]
    lit = image[np.isfinite(image) & (image > 0)]
    low, high = np.quantile(lit, (0.01, 0.999)) if len(lit) else (0.1, 1.0)
    # one photon more than none must be seen
    norm = LogNorm(low / 2, max(high, 1.001 * low))
    shown = np.where(image == 0, low / 2, image)
    drawn = ax.imshow(shown, norm=norm, cmap="magma", interpolation="nearest")
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()
    if colour_bar:
        ax.figure.colorbar(drawn, ax=ax, label="photons per pixel", shrink=0.7)
    return ax


def plot_hits(hits: list, columns: int):
    """Draw hits side by side and return the figure."""
    plt = _pyplot()
    columns = max(min(columns, len(hits)), 1)
    rows = max(-(-len(hits) // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, hit in zip(axes.flat, hits, strict=False):
        plot_image(hit.assembled(), hit.title, ax, colour_bar=False)
    figure.tight_layout()
    return figure


def plot_scores(score: np.ndarray, threshold: np.ndarray, title: str, ax=None):
    """Draw the histogram of the scores, with the median threshold."""
    ax = _axes(ax)
    edges, logarithmic = score_edges(score)
    ax.stairs(histogram(score, edges), edges, fill=True)
    ax.set_yscale("log")
    if logarithmic:
        ax.set_xscale("log")
    known = threshold[np.isfinite(threshold)]
    if len(known):
        middle = float(np.median(known))
        ax.axvline(middle, color="C3", label=f"threshold {middle:,.1f}")
        ax.legend()
    ax.set(xlabel="hit score", ylabel="frames", title=title)
    return ax


def plot_hit_rate(events, searched: np.ndarray, title: str, ax=None):
    """Draw the hit rate of the searched frames against the train, with a running mean."""
    ax = _axes(ax)
    curve = over_trains(events.trainId, searched, events.is_hit, events.pulse_energy)
    ax.plot(curve.train, 100 * curve.hit_rate, ".", alpha=0.4, label="hit rate")
    ax.plot(curve.train, 100 * curve.running, "-", label="running mean")
    ax.set(xlabel="train of the run", ylabel="hit rate / %", title=title)
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax
