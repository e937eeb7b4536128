"""Checks of the powder file against the events file; its hits are checked with the frames."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.workflows.verify.findings import Finding, compare, expect
from xfelmpi.workflows.verify.open_outputs import Outputs

_SUFFIXES = ("", "_hits", "_misses", "_dark")


def _sets(outputs: Outputs) -> dict[str, slice | np.ndarray]:
    """Return the frames of each sum by its suffix; dark ones if there are any."""
    dark = np.flatnonzero(outputs.run.events.is_dark)
    frames = (slice(None), outputs.hits, outputs.misses, dark)
    sets = dict(zip(_SUFFIXES, frames, strict=True))
    whole = outputs.run.whole
    if not len(dark) or not whole:
        del sets["_dark"]
    if not whole:
        del sets[""]
    return sets


def shapes(outputs: Outputs) -> Iterator[Finding]:
    """All sums are there, with their shapes, types and units."""
    path, file = outputs.experiment.powder, outputs.files["powder"]
    frame_shape = outputs.run.detector_type.frame_shape
    for suffix in _sets(outputs):
        for name, dtype, units in (("powder", "u8", "photons"), ("good_frames", "u4", "frames")):
            dataset = file[f"{name}{suffix}"]
            yield from expect(path, f"{name}{suffix}, shape", dataset.shape, frame_shape)
            yield from expect(path, f"{name}{suffix}, type", dataset.dtype, np.dtype(dtype))
            yield from expect(path, f"{name}{suffix}, units", dataset.attrs.get("units"), units)


def photons(outputs: Outputs) -> Iterator[Finding]:
    """The photons in each powder are those of its frames in the events file."""
    path, events = outputs.experiment.powder, outputs.run.events
    for suffix, frames in _sets(outputs).items():
        total = int(events.photons[frames].sum())
        found = int(outputs.powder(f"powder{suffix}").sum())
        if outputs.mask_patched and suffix != "_hits":
            # frames that are in no file keep the sums of the first mask
            total = min(total, found)
        yield from expect(path, f"photons in powder{suffix}", found, total)


def parts(outputs: Outputs) -> Iterator[Finding]:
    """Parts together are never more than all; no pixel is good more often than seen."""
    path, events, about = outputs.experiment.powder, outputs.run.events, outputs.run.detector_type
    for name in ("powder", "good_frames"):
        rest = outputs.powder(name)
        for suffix in _sets(outputs).keys() - {""}:
            rest = rest - outputs.powder(f"{name}{suffix}")
        yield from compare(
            path, f"{name} without its parts", np.minimum(rest, 0), rest * 0, "pixel"
        )
    for suffix, frames in _sets(outputs).items():
        seen = [(events.modules[frames] >> m & 1).sum() for m in range(about.n_modules)]
        good = outputs.powder(f"good_frames{suffix}")
        most = np.minimum(good, np.repeat(seen, about.module_pixels))
        yield from compare(path, f"good_frames{suffix} up to its frames", good, most, "pixel")
        dark = outputs.powder(f"powder{suffix}")[good == 0]
        yield from compare(path, f"powder{suffix} where never good", dark, dark * 0, "pixel")
