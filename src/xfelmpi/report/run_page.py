"""The page of a run: one HTML file that holds everything it shows."""

import json
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np

from xfelmpi.core.config.choices import DECISIONS, score_title
from xfelmpi.core.config.options import Config
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.output.events import FinishedRun
from xfelmpi.report import curves
from xfelmpi.report.axes import Axis, axis_around
from xfelmpi.report.charts import Charts, Mark, Series
from xfelmpi.report.detector_images import detector_images
from xfelmpi.report.headline import Headline, clock, duration_in_words, energy
from xfelmpi.report.page_parts import PARTS
from xfelmpi.report.run_files import RunFiles
from xfelmpi.report.size_charts import size_section
from xfelmpi.report.tables import beamline, commands, complaints, module_table, settings
from xfelmpi.report.template import fill_page
from xfelmpi.report.verdicts import Answer, answers


def run_page(found: RunFiles, made: Callable[[str], Any] = {}.get) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    found : RunFiles
    made : callable
        Told the name of one of `PARTS`, returns what another rank has made of it; None if it is
        to be made here.
    """

    def part(name: str):
        there = made(name)
        return PARTS[name](found) if there is None else there

    good = found.powder["good_frames"].reshape(found.run.detector_type.n_modules, -1)
    head, charts = found.head, Charts()
    sections = [
        _header(found),
        _rates(found, charts),
        _scores(found, charts, part("sigmas")),
        *detector_images(found, charts),
        part("hits"),
        size_section(found, charts),
        module_table(found, good),
        beamline(found),
        complaints(head),
        commands(found),
        settings(found),
        '<dialog aria-label="detector image, large"><img src="data:," alt=""></dialog>',
        charts.document(),
    ]
    title = f"r{head.run:04d} {head.proposal}"
    return fill_page(title, "\n".join(sections), "page.js", with_bokeh=True)


def run_answers(found: RunFiles) -> list[Answer]:
    """Return the answers about a run, as on its page and in its JSON file."""
    good = found.powder["good_frames"].reshape(found.run.detector_type.n_modules, -1)
    in_run = _modules_in_run(found.run)
    bad_pixels = float((good[in_run] == 0).mean()) if in_run.any() else float("nan")
    return answers(found.run, found.head, bad_pixels, _distance(found))


def _distance(found: RunFiles) -> float | None:
    return float(np.median(found.hit_file.xyz[2])) if found.hit_file else None


def _header(found: RunFiles) -> str:
    head = found.head
    distance = _distance(found)
    numbers = [
        ("hits", f"{head.hits:,}", "first"),
        ("hit rate", f"{100 * head.hit_rate:.2f} %", "first"),
        ("frames", f"{head.frames:,}", ""),
        *([("dark frames", f"{head.dark:,}", "")] if head.dark else []),
        ("trains", f"{head.trains:,}", ""),
        ("duration", duration_in_words(head.seconds), ""),
        ("sample", head.sample or "unknown", ""),
        ("pulse energy, mean", energy(head.pulse_energy), ""),
        ("photon energy", _kilo_electronvolt(head.photon_energy), ""),
        ("detector distance", _metres(distance), ""),
        ("excluded", head.excluded or "nothing", "alarm" if head.excluded else ""),
    ]
    cells = "".join(
        f'<div class="{kind}"><dt>{escape(name)}</dt><dd class="{kind}" data-name="{escape(name)}">'
        f"{escape(value)}</dd></div>"
        for name, value, kind in numbers
    )
    cards = "".join(
        f'<li class="{a.state}"><b>{escape(a.question)}</b> <strong>{escape(a.short)}</strong>'
        f" <div>{escape(a.why)}</div></li>"
        for a in run_answers(found)
    )
    started = f", started {clock(head.start_time)}" if head.start_time else ""
    return (
        f"<nav>{_links(found)}</nav><header>"
        f"<h1>Run {head.run} · {escape(head.proposal)}</h1>"
        f'<p class="soft">{escape(head.kind)} data{escape(started)}; processed '
        f"{escape(clock(head.created))}{_so_far(head)}</p></header>"
        f'<dl class="numbers">{cells}</dl><ul class="answers">{cards}</ul>'
    )


def _links(found: RunFiles) -> str:
    """Return links to the pages beside this one: those of other commands only if there are any."""
    files = found.experiment
    pages = [(files.hit_browser, "all hits")]
    if any(column.name == "class" for column in found.run.events.added):
        pages.append((files.classes_page, "classes"))  # written last by the command that adds them
    if files.geometry_picture.exists():
        pages.append((files.geometry_picture, "geometry"))
    pages.append((files.overview, "all runs"))
    return " ".join(f'<a href="{path.name}">{text}</a>' for path, text in pages)


def _so_far(head: Headline) -> str:
    """Return that a run is still being written; the page is then loaded again by itself."""
    if not head.so_far:
        return ""
    return (
        f'; <span class="alarm" data-refresh="10">still being written: {escape(head.so_far)}</span>'
    )


def _kilo_electronvolt(electronvolt: float) -> str:
    return f"{electronvolt / 1e3:.3f} keV" if np.isfinite(electronvolt) else "unknown"


def _metres(distance: float | None) -> str:
    known = distance is not None and np.isfinite(distance)
    return f"{distance:.4g} m" if known else "unknown"


def _rates(found: RunFiles, charts: Charts) -> str:
    events = found.run.events
    seen = found.run.complete & ~events.is_dark
    energy_seen = np.where(events.is_dark, np.nan, events.pulse_energy)
    curve = curves.over_trains(events.trainId, seen, events.is_hit, energy_seen)
    binned = curves.binned_rate(events.trainId, seen, events.is_hit)
    first = f"from {events.trainId[0]}" if len(events.trainId) else ""
    trains = Axis(f"train, {first}", -0.5, float(binned.edges[-1]), whole=True)
    rates = 100 * curve.hit_rate
    words = "The band is one standard deviation of the number of hits."
    shown = []
    if binned.trains_per_bin > curve.trains_per_point:
        together = f"per {curve.trains_per_point} trains" if curve.trains_per_point > 1 else ""
        shown.append(Series(together or "per train", curve.train, rates, "dots", "soft"))
    number = binned.trains_per_bin
    binned_label = f"mean of {number:,} trains" if number > 1 else "per train"
    band = 100 * binned.low, 100 * binned.high
    shown.append(Series(binned_label, binned.edges, 100 * binned.rate, "steps", "hit", *band))
    parts = [
        charts.chart(
            "Hit rate against train",
            trains,
            axis_around("hit rate in %", np.append(rates, band[1]), zero=True),
            shown,
            caption=words,
            link="train",
        ),
        charts.chart(
            "Pulse energy against train",
            trains,
            axis_around("mean pulse energy in mJ", 1e3 * curve.pulse_energy, zero=True),
            [Series("pulse energy in mJ", curve.train, 1e3 * curve.pulse_energy)],
            link="train",
        ),
        *_cells(found, charts),
    ]
    return f'<h2>Over the run</h2><div class="pair">{"".join(parts)}</div>'


def _cells(found: RunFiles, charts: Charts) -> list[str]:
    events = found.run.events
    cells, hits, score = curves.over_cells(events.cellId, events.hitscore, events.is_hit)
    edges = np.append(cells, cells[-1:] + 1) - 0.5 if len(cells) else np.array([0.0, 1.0])
    hits = hits if len(cells) else np.zeros(1)
    cell = Axis("memory cell", float(edges[0]), float(edges[-1]), whole=True)
    return [
        charts.chart(
            "Hits against memory cell",
            cell,
            axis_around("hits", hits, zero=True, whole=True),
            [Series("hits", edges, hits, "area", "hit")],
            link="cell",
        ),
        charts.chart(
            "Mean score against memory cell",
            cell,
            axis_around("mean score", score),
            [Series("mean score", cells.astype(float), score)],
            link="cell",
        ),
    ]


def _scores(found: RunFiles, charts: Charts, by_sigma: list[tuple[float, int, float]]) -> str:
    run, config = found.run, found.run.config
    events = run.events
    decided = np.isfinite(events.hit_threshold) & np.isfinite(events.hitscore)
    score = events.hitscore[decided]
    edges, logarithmic = curves.score_edges(score)
    everything = curves.histogram(score, edges).astype(float)
    hits = curves.histogram(events.hitscore[events.is_hit], edges).astype(float)
    marks = []
    if len(score):
        name = "threshold" if config.decide == "fixed" else f"threshold (σ {config.sigma:g})"
        marks.append(Mark(float(np.median(events.hit_threshold[decided])), name))
    if len(score) and np.isfinite(events.hit_median[decided]).any():
        marks.append(Mark(float(np.nanmedian(events.hit_median[decided])), "median"))
    if config.decide != "fixed":
        marks += [
            Mark(threshold, f"σ {sigma:g}")
            for sigma, _, threshold in by_sigma
            if np.isfinite(threshold) and edges[0] < threshold < edges[-1] and sigma != config.sigma
        ]
    figure = charts.chart(
        "Hit-score histogram",
        Axis(
            score_title(config.score),
            float(edges[0]),
            float(edges[-1]),
            logarithmic,
        ),
        Axis("frames", 0.5, max(float(everything.max(initial=1)), 1) * 1.6, True),
        [
            Series("all", edges, everything, "area", "quiet"),
            Series("hits", edges, hits, "area", "hit"),
        ],
        tuple(marks),
        caption="Median and thresholds: medians over the frames, where every train has its own."
        if config.decide != "fixed"
        else "",
    )
    note = "" if config.decide != "fixed" else "<p>A fixed threshold: σ has no effect.</p>"
    return (
        f'<h2>Hit finding</h2><div class="pair">{figure}<div><h3>Hits with other thresholds'
        f"</h3>{_sigma_table(found.head, by_sigma)}{note}"
        f"{_decision_words(config)}{_agreement(found)}</div></div>"
    )


def _sigma_table(head: Headline, by_sigma: list[tuple[float, int, float]]) -> str:
    rows = "".join(
        f"<tr><td>{sigma:g}</td><td>{hits:,}</td>"
        f"<td>{100 * hits / max(head.searched, 1):.2f} %</td>"
        f"<td>{'–' if np.isnan(threshold) else f'{threshold:,.1f}'}</td></tr>"
        for sigma, hits, threshold in by_sigma
    )
    return (
        "<table><thead><tr><th>σ</th><th>hits</th><th>hit rate</th><th>threshold</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _agreement(found: RunFiles) -> str:
    """Return a table of our hits and the facility's, if the run has these."""
    counts = json.loads(found.run.attributes.get("facility_hits", "{}"))
    cells = "".join(f"<tr><td>{escape(who)}</td><td>{n:,}</td></tr>" for who, n in counts.items())
    title = "<h3>Hits: the facility's hit finder and xfelmpi</h3>"
    return f"{title}<table><tbody>{cells}</tbody></table>" if cells else ""


def _decision_words(config: Config) -> str:
    if config.hits == "facility":
        return '<p class="soft">Hits, scores and thresholds of the facility\'s hit finder.</p>'
    if config.decide == "fixed":
        words = f"hit if score > {config.fixed_threshold:g}"
    else:
        words = f"hit if score > median + {config.sigma:g} × background width σ, both from the "
        words += DECISIONS[config.decide].words
    return f'<p class="soft">Settings of this run: {escape(words)}.</p>'


def _modules_in_run(run: FinishedRun) -> np.ndarray:
    return modules_of(run.modules_in_run, run.detector_type.n_modules)
