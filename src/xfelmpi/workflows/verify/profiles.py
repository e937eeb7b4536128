"""Checks of the radial profiles that ``--profiles`` adds to the CXI file."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.analysis.radial_rings import RadialRings
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.output.cxi.profile_names import AXES, GROUP
from xfelmpi.workflows.analyse_cxi import hits_of_file, median_wavelength, run_of_file
from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_CHECKED = 8
"""Hits whose profiles are made again."""

_TYPES = {"photons": np.dtype("f4"), "pixels": np.dtype("u4")}


def profiles(outputs: Outputs) -> Iterator[Finding]:
    """Rings are those of the geometry, and some hits have the profiles that their frames give."""
    run, path, file = outputs.run, outputs.experiment.cxi, outputs.files["cxi"]
    for name in outputs.rows_of_entries:
        yield from expect(path, f"{name}/{GROUP}", GROUP in file[name], run.config.profiles)
    if not run.config.profiles:
        return
    settings = run.config.part(AnalysisSettings)
    wavelength = median_wavelength(settings.photon_energy, run.events.wavelength)
    about = run_of_file(settings, outputs.header, wavelength)
    rings = RadialRings(about.geometry, wavelength, about.masks, about.modules_in_run)
    for name, rows in outputs.rows_of_entries.items():
        group = file[f"{name}/{GROUP}"]
        for dataset, values in (("q", rings.q), ("edges", rings.edges)):
            found = group[dataset][()]
            yield from expect(path, f"{name}/{dataset}, shape", found.shape, values.shape)
            if found.shape == values.shape:
                close = np.isclose(found, values, 1e-9, equal_nan=True)
                yield from compare(path, f"{name}/{dataset}", close, close | True, "ring")
        for dataset, dtype in _TYPES.items():
            where, shape = f"{name}/{GROUP}/{dataset}", (len(rows), len(rings.q))
            yield from expect(path, f"{where}, shape", group[dataset].shape, shape)
            yield from expect(path, f"{where}, type", group[dataset].dtype, dtype)
            yield from expect(path, f"{where}, axes", group[dataset].attrs.get("axes"), AXES)
    n_hits, group = len(outputs.hits), file[f"entry_1/{GROUP}"]
    chosen = np.unique(np.linspace(0, n_hits - 1, min(n_hits, _CHECKED)).astype(np.int64))
    for part, block in hits_of_file(settings.photon_energy, path, outputs.header, chosen):
        made = rings(block.frames, block.cell_id)
        for dataset, values in zip(_TYPES, made, strict=True):
            where = f"entry_1/{GROUP}/{dataset} of hits made again"
            yield from compare(path, where, group[dataset][part], values, "hit")
