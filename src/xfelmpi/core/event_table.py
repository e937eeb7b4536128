"""The events table, one row per frame: what passes between the stages, and is written at last."""

from dataclasses import dataclass, field, replace

import numpy as np


def missing(dtype: np.dtype) -> float | int:
    """Return the value of an added column where there is none: NaN, or -1 of integers."""
    return float("nan") if np.dtype(dtype).kind == "f" else -1


@dataclass(frozen=True)
class AddedColumn:
    """One more value per frame: what the user asked for (``--add``), or an analysis found.

    Parameters
    ----------
    name : str
        Of the column in the events file.
    values : ndarray, float64, float32 or int16 (frame,)
        In `units`, NaN (-1 of integers) where unknown.
    source : str
        ``SOURCE/KEY`` as the user wrote it, or the name of the analysis.
    units : str
        SI where the run's files tell the unit; empty where not, or for plain numbers.
    group : str
        Where it is below the entry of the CXI file; empty: with the instrument.
    """

    name: str
    values: np.ndarray
    source: str
    units: str = ""
    group: str = ""

    def attributes(self) -> dict[str, str]:
        """Return the attributes of the column's dataset in the output files."""
        return {"source": self.source, **({"units": self.units} if self.units else {})}


def typed_field(dtype, **default):
    """Return the field of a column, by whose type it is made empty, or read back from a file."""
    return field(metadata={"dtype": np.dtype(dtype)}, **default)


@dataclass(frozen=True)
class EventColumns:
    """The columns of the events file, for some frames in ascending (trainId, cellId) order.

    Parameters
    ----------
    trainId, pulseId : ndarray, uint64 (frame,)
    cellId : ndarray, uint16 (frame,)
    litpixels : ndarray, uint32 (frame,)
        Good pixels with at least one photon.
    photons : ndarray, uint64 (frame,)
        Sum of photons over good pixels.
    hitscore : ndarray, float32 (frame,)
        The number the hit decision used.
    is_hit, is_miss : ndarray, bool (frame,)
    hit_median, hit_std, hit_threshold, hit_sigma : ndarray, float32 (frame,)
        Statistics of the decision, NaN where undecidable.
    pulse_energy, wavelength : ndarray, float64 (frame,)
        In J and m, NaN where unknown.
    modules : ndarray, uint16 (frame,)
        Bit m set: module m has this frame.
    n_pulses : ndarray, uint8 (frame,)
        X-ray pulses of the frame; 0: it is dark, 255: not known.
    gain_switched : ndarray, uint32 (frame, 2) or None
        Good pixels in medium and in low gain; raw data only.
    pumped : ndarray, uint8 (frame,) or None
        1: with a pulse of the pump laser, 0: without, 255: not known. None if there is no laser.
    added : tuple of AddedColumn
        What the user asked for besides.
    """

    trainId: np.ndarray = typed_field(np.uint64)  # noqa: N815, names as in the file
    pulseId: np.ndarray = typed_field(np.uint64)  # noqa: N815
    cellId: np.ndarray = typed_field(np.uint16)  # noqa: N815
    litpixels: np.ndarray = typed_field(np.uint32)
    photons: np.ndarray = typed_field(np.uint64)
    hitscore: np.ndarray = typed_field(np.float32)
    is_hit: np.ndarray = typed_field(bool)
    is_miss: np.ndarray = typed_field(bool)
    hit_median: np.ndarray = typed_field(np.float32)
    hit_std: np.ndarray = typed_field(np.float32)
    hit_threshold: np.ndarray = typed_field(np.float32)
    hit_sigma: np.ndarray = typed_field(np.float32)
    pulse_energy: np.ndarray = typed_field(np.float64)
    wavelength: np.ndarray = typed_field(np.float64)
    modules: np.ndarray = typed_field(np.uint16)
    n_pulses: np.ndarray = typed_field(np.uint8)
    gain_switched: np.ndarray | None = typed_field((np.uint32, 2), default=None)
    pumped: np.ndarray | None = typed_field(np.uint8, default=None)
    added: tuple[AddedColumn, ...] = ()

    @property
    def is_dark(self) -> np.ndarray:
        """Which frames have no X-ray pulse, bool (frame,)."""
        return self.n_pulses == 0

    def was_read(self, *, whole: bool) -> np.ndarray:
        """Return which frames were read, bool (frame,): all of a whole run, or hits and misses."""
        return self.is_hit | self.is_miss | whole

    def take(self, rows: np.ndarray) -> "EventColumns":
        """Return some of the rows."""
        added = tuple(replace(column, values=column.values[rows]) for column in self.added)
        return replace(self, added=added, **{name: c[rows] for name, c in self.columns()})

    def columns(self) -> list[tuple[str, np.ndarray]]:
        """Return (name, values) of every column but the added, in the order of the file."""
        names = [name for name in self.__dataclass_fields__ if name != "added"]
        named = [(name, getattr(self, name)) for name in names]
        return [(name, column) for name, column in named if column is not None]
