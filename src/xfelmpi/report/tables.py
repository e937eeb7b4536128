"""Tables and lists at the end of a page: modules, problems, commands, settings."""

import dataclasses
import json
import shlex
from html import escape

import numpy as np

from xfelmpi.core.config.options import Config
from xfelmpi.core.log import counted
from xfelmpi.core.problems import foremost
from xfelmpi.report.headline import Headline
from xfelmpi.report.page_parts import SIGMAS
from xfelmpi.report.run_files import RunFiles

PROBLEMS_SHOWN = 200

_NOT_SHOWN = (
    "configuration",
    "input_files",
    "used_files",
    "beamline_sources",
    "warnings",
    "reduction",
)
"""Attributes that are shown elsewhere on the page."""


def module_table(found: RunFiles, good: np.ndarray) -> str:
    """Return a section as HTML."""
    n_modules, n_pixels = good.shape
    photons = found.powder["powder"].reshape(good.shape)
    n_frames = found.head.frames
    rows = []
    for module in range(n_modules):
        here = found.run.events.modules >> module & 1
        present, n_read = int(here.sum()), int(here[found.run.was_read].sum())
        usable = good[module] > 0
        lit = int((photons[module][usable] > 0).sum())
        n_bad = n_pixels - int(usable.sum()) if present else n_pixels
        alarm = ' class="alarm"' if present < n_frames else ""
        a_frame = photons[module].sum() / n_read if n_read else 0.0
        share_lit, share_bad = lit / max(usable.sum(), 1), n_bad / n_pixels
        rows.append(
            f"<tr><td>{module}</td><td{alarm}>{present:,}</td>"
            f"<td{alarm}>{n_frames - present:,}</td>"
            f"<td>{a_frame:,.1f}</td><td>{lit:,}</td><td>{100 * share_lit:.2f} %</td>"
            f"<td>{n_bad:,}</td><td>{100 * share_bad:.2f} %</td></tr>"
        )
    return (
        '<h2>Modules</h2><div class="wide"><table><thead><tr><th>module</th><th>frames</th>'
        "<th>missing</th><th>photons per frame</th><th>lit pixels</th><th>% of good pixels</th>"
        "<th>bad pixels</th><th>% of all pixels</th></tr></thead>"
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="soft">Lit: good pixels with at '
        "least one photon in the whole run. Bad: never good in any frame.</p>"
    )


def beamline(found: RunFiles) -> str:
    """Return a section as HTML: where every value of the beamline came from."""
    sources = json.loads(found.run.attributes.get("beamline_sources", "[]"))
    said = json.loads(found.run.attributes.get("reduction", "[]"))
    left_out = "".join(f"<p>{escape(title)}: {escape(text)}</p>" for title, text in said)
    if not sources:
        return left_out
    rows = "".join(
        f"<tr><td>{escape(s['value'].replace('_', ' '))}</td>"
        f'<td class="text">{escape(s["source"])}</td>'
        f'<td class="words">{escape(s["rule"])}</td></tr>'
        for s in sources
    )
    return (
        '<h2>Beamline values</h2><div class="wide"><table><thead><tr><th>value</th>'
        '<th class="text">source</th><th class="text">how</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{left_out}"
    )


def complaints(head: Headline) -> str:
    """Return a section as HTML."""
    warnings = "".join(f"<li>{escape(line)}</li>" for line in head.warnings)
    rows = "".join(
        f'<tr><td class="words">{escape(p.what)}</td><td class="text">{escape(p.file)}</td>'
        f"<td>{p.module if p.module >= 0 else ''}</td><td>{p.train or ''}</td>"
        f'<td class="words">{escape(p.action)}</td></tr>'
        for p in foremost(head.problems, PROBLEMS_SHOWN)
    )
    more = len(head.problems) - PROBLEMS_SHOWN
    parts = ["<h2>Problems and warnings</h2>"]
    if rows:
        parts.append(
            f'<h3 class="alarm">{counted(len(head.problems), "problem")}: what was excluded</h3>'
            '<div class="wide"><table><thead><tr><th>found</th><th class="text">file</th>'
            '<th>module</th><th>train</th><th class="text">what was done</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    if more > 0:
        parts.append(f"<p>… and {more:,} more, all in the events file (problems).</p>")
    if warnings:
        parts.append(
            f'<h3>{counted(len(head.warnings), "warning")}</h3><ul class="list">{warnings}</ul>'
        )
    if not rows and not warnings:
        parts.append("<p>None.</p>")
    return "".join(parts)


def commands(found: RunFiles) -> str:
    """Return a section as HTML."""
    experiment, head, config = found.experiment, found.head, found.run.config
    where = ["--prefix", str(config.prefix.absolute())] if config.prefix else []
    if experiment.output.absolute() != (experiment.prefix / "scratch").absolute():
        where += ["--output", str(experiment.output.absolute())]
    first = shlex.split(found.run.attributes["command_line"])
    if "--prefix" not in first:
        first += where
    again = ["xfelmpi", str(head.run), *where, "--from-events"]
    lines = [
        ("process the run again, with the same settings", shlex.join(first)),
        (
            "show the hit rate with other thresholds; takes a second, and writes nothing",
            _dry_run(again),
        ),
        (
            "re-threshold: replaces the outputs, and reads only hits and misses",
            shlex.join([*again, "--sigma", "5"]),
        ),
        ("write this report again", shlex.join(["xfelmpi", "report", str(head.run), *where])),
    ]
    shown = "".join(
        f'<p>{escape(title)}</p><div class="command"><pre>{escape(line)}</pre>'
        '<button type="button">copy</button></div>'
        for title, line in lines
    )
    return (
        f"<h2>Commands</h2>{shown}<p class='soft'>To use N ranks, put mpirun -n N or "
        "srun --mpi=pmix -n N before xfelmpi.</p>"
    )


def _dry_run(again: list[str]) -> str:
    return shlex.join([*again, "--dry-run", "--sigma", *(f"{s:g}" for s in SIGMAS)])


def settings(found: RunFiles) -> str:
    """Return a section as HTML."""
    config, attributes = found.run.config, found.run.attributes
    plain = Config()
    rows = []
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        other = value != getattr(plain, field.name)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        mark = "<b>{}</b>" if other else "{}"
        name = mark.format(field.name.replace("_", "-"))
        rows.append(f'<tr><td>{name}</td><td class="words">{mark.format(escape(shown))}</td></tr>')
    inputs = json.loads(attributes.get("input_files", "[]"))
    origin = "".join(
        f'<tr><td>{escape(name)}</td><td class="words">{escape(str(value))}</td></tr>'
        for name, value in sorted(attributes.items())
        if name not in _NOT_SHOWN
    )
    experiment = found.experiment
    outputs = (experiment.events, experiment.powder, experiment.cxi, experiment.emc)
    files_there = "".join(
        f"<li>{escape(str(path.absolute()))}, {path.stat().st_size / 1e6:,.1f} MB</li>"
        for path in outputs
        if path.exists()
    )
    listed = "".join(f"<li>{_described(file)}</li>" for file in inputs)
    used = json.loads(attributes.get("used_files", "[]"))
    used_listed = "".join(
        f"<li>{escape(file['role'])}: {_described(file)}, sha256 {escape(str(file['sha256']))}</li>"
        for file in used
    )
    return (
        "<h2>Settings and provenance</h2><details><summary>all settings (bold: not the "
        f"default)</summary><table><tbody>{''.join(rows)}</tbody></table></details>"
        f"<details><summary>program and versions</summary><table><tbody>{origin}</tbody></table>"
        f'</details><details><summary>output files</summary><ul class="list">{files_there}</ul>'
        f"</details><details><summary>{len(inputs):,} input files</summary>"
        f'<ul class="list">{listed}</ul></details>'
        f"<details><summary>masks, calibration constants and geometry: "
        f"{counted(len(used), 'file')}</summary>"
        f'<ul class="list">{used_listed}</ul></details>'
    )


def _described(file: dict | str) -> str:
    if isinstance(file, str):  # outputs of earlier versions
        return escape(file)
    if file["size"] is None:
        return escape(f"{file['path']}, not found at the end of the job")
    return escape(f"{file['path']}, {file['size'] / 1e6:,.1f} MB, {file['mtime']}")
