"""Checks of what Dragonfly gets: EMC file, detector file, folder; frames are in `hitframes`."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.mpi import alone
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.dragonfly.binning import n_blocks
from xfelmpi.output.dragonfly.detector import background_of_blocks, make_detector
from xfelmpi.output.emc import EmcFile
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.workflows.verify.findings import DAMAGE, Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs


def emc_header(outputs: Outputs) -> Iterator[Finding]:
    """The EMC file is there if there are hits; its header and size are those of these hits."""
    path, n_hits = outputs.experiment.emc, len(outputs.hits)
    if not n_hits or not path.exists():
        yield from expect(path, "is there", path.exists(), n_hits > 0)
        return
    emc = EmcFile(path)
    pixels = outputs.run.detector_type.frame_pixels
    yield from expect(path, "num_data", emc.num_data, n_hits)
    yield from expect(path, "num_pix", emc.num_pix, n_blocks(pixels, outputs.run.config.bin))
    yield from expect(path, "type", emc.kind, 0)
    yield from expect(path, "bytes", path.stat().st_size, emc.expected_bytes)


def detector(outputs: Outputs) -> Iterator[Finding]:
    """Dragonfly's detector file is that of geometry, wavelength and settings."""
    path = outputs.experiment.dragonfly_detector
    settings = outputs.run.config.part(OutputSettings)
    geometry = outputs.header.geometry
    wanted = len(outputs.hits) > 0 and bool(np.isfinite(geometry.distance))
    yield from expect(path, "is there", "detector" in outputs.files, wanted)
    if not wanted or "detector" not in outputs.files:
        return
    file = outputs.files["detector"]
    wavelength, _ = beam_wavelength(alone(), settings.photon_energy, outputs.run.events.wavelength)
    right = make_detector(settings, geometry, wavelength, outputs.usable)
    yield from compare(path, "mask", file["mask"][()], right.mask, "pixel")
    values = dict(zip(("qx", "qy", "qz"), right.q, strict=True))
    values |= {"corr": right.corr, "detd": right.detd, "ewald_rad": right.ewald_rad}
    values |= {"wavelength": right.wavelength, "voxel": right.voxel}
    ground = background_of_blocks(outputs.header.background, outputs.usable, settings.bin)
    weighting = outputs.header.columns[f"{DETECTOR}/background_weighting"].values
    values |= {"background": ground, "scale": weighting}
    for name, value in values.items():
        found = file[name][()]
        if np.shape(found) == np.shape(value):
            # libraries differ in the last digit
            near = np.isclose(found, value, rtol=1e-9, atol=1e-12, equal_nan=True)
            value = np.where(near, found, value)
        yield from compare(path, name, found, value, "pixel")
    yield from expect(path, "bin", int(file.attrs["bin"]), settings.bin)


def folder_notes(outputs: Outputs) -> list[str]:
    """Return what the user should know of the folder to start Dragonfly in."""
    folder, notes = outputs.run.config.dragonfly, []
    if folder is None or not len(outputs.hits):
        return []
    for name, target in (
        ("photons.emc", outputs.experiment.emc),
        ("detector.h5", outputs.experiment.dragonfly_detector),
    ):
        link = folder / "data" / name
        if not link.exists() or not target.exists():
            notes.append(f"{link} is not there, or leads nowhere")
        elif not link.samefile(target):
            notes.append(f"{link} leads to {link.resolve()}, not to the files of this run")
    return notes


def readable_emc(outputs: Outputs) -> bool:
    """Return whether the frames of the EMC file can be looked up."""
    path = outputs.experiment.emc
    try:
        emc = EmcFile(path)
        return emc.num_data == len(outputs.hits) and emc.expected_bytes <= path.stat().st_size
    except DAMAGE:
        return False
