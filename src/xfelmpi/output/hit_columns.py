"""What every hit has one value of: the columns of the events file that go with it, and more."""

import numpy as np

from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.units import PLANCK_TIMES_C
from xfelmpi.detectors.base import Detector
from xfelmpi.output.hit_writer import FrameColumn

# below an entry of the CXI file
INSTRUMENT = "instrument_1"
SOURCE = "instrument_1/source_1"
DETECTOR = "instrument_1/detector_1"


def hit_columns(
    prefix: str,
    hits: EventColumns,
    vds_index: np.ndarray,
    weighting: np.ndarray,
    background_row: np.ndarray,
    detector: Detector,
) -> list[FrameColumn]:
    """Return the columns of some frames.

    Parameters
    ----------
    prefix : str
        Start of every experiment identifier, e.g. ``p007927_r0050``.
    hits : EventColumns
        Their rows.
    vds_index : ndarray, uint64 (frame,)
        Their row numbers in the events file.
    weighting : ndarray, float64 (frame,)
        What scales the background to each frame.
    background_row : ndarray, uint32 (frame,)
        Which of the backgrounds is that of each frame.
    detector : Detector
    """
    identifier = np.array(
        [f"{prefix}_t{t}_c{c}".encode() for t, c in zip(hits.trainId, hits.cellId, strict=True)],
        # train IDs have up to 20 digits: the same length on all ranks
        dtype=f"S{len(prefix) + 24 + len(str(detector.max_cells - 1))}",
    )
    columns = [
        ("experiment_identifier", identifier, {}),
        ("trainId", hits.trainId, {}),
        ("cellId", hits.cellId, {}),
        ("pulseId", hits.pulseId, {}),
        ("vds_index", vds_index, {}),
        (f"{SOURCE}/photon_energy", PLANCK_TIMES_C / hits.wavelength, {"units": "J"}),
        (f"{SOURCE}/photon_wavelength", hits.wavelength, {"units": "m"}),
        (f"{SOURCE}/pulse_energy", hits.pulse_energy, {"units": "J"}),
        (f"{DETECTOR}/background_weighting", weighting, {}),
        (f"{DETECTOR}/background_index", background_row, {}),
        (f"{DETECTOR}/lit_pixels", hits.litpixels, {}),
        (f"{DETECTOR}/photon_counts", hits.photons, {"units": "photons"}),
        (f"{DETECTOR}/hit_score", hits.hitscore, {}),
        (f"{DETECTOR}/hit_sigma", hits.hit_sigma, {}),
        *((f"{a.group or INSTRUMENT}/{a.name}", a.values, a.attributes()) for a in hits.added),
    ]
    return [FrameColumn(*column) for column in columns]
