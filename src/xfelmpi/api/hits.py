"""The hits of a CXI file as a sequence."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xfelmpi.core.errors import UsageError
from xfelmpi.core.text import did_you_mean, one_line
from xfelmpi.core.vocabulary import column_name, under_both_names
from xfelmpi.output.cxi.frames import HitFrames
from xfelmpi.output.cxi.reader import read_hit_columns
from xfelmpi.report.assembly import Assembler, lit_pixels
from xfelmpi.workflows.merge.row_filter import rows_where, signed


class Coordinates(NamedTuple):
    """A hit as a sparse list: the arguments of ``sparse.COO``.

    Parameters
    ----------
    coords : ndarray, int64 (3, pixel)
        Module, ss and fs of the good pixels with photons.
    data : ndarray, uint8 or uint16 (pixel,)
        Photons.
    shape : (int, int, int)
    """

    coords: np.ndarray
    data: np.ndarray
    shape: tuple[int, int, int]


class Profiles(NamedTuple):
    """Mean photons of hits in rings around the beam.

    Parameters
    ----------
    q : ndarray, float64 (ring,)
        4 π sin θ / λ in 1/m, 2 θ being the scattering angle; NaN in a ring without pixels.
    photons : ndarray, float32 (hit, ring)
        Mean over the good pixels of a ring, NaN without any.
    pixels : ndarray, uint32 (hit, ring)
        How many are good.
    """

    q: np.ndarray
    photons: np.ndarray
    pixels: np.ndarray


class HitSource(NamedTuple):
    """Where hits come from, shared by all selections of them.

    Parameters
    ----------
    frames : HitFrames
    columns : dict of str to ndarray (hit,)
        Values per hit, by name.
    units : dict of str to str
    assembler : Assembler
    title : str
        E.g. ``run 50``.
    """

    frames: HitFrames
    columns: dict[str, np.ndarray]
    units: dict[str, str]
    assembler: Assembler
    title: str


class _Columns:
    """Values per hit as attributes, under the names of the events file and of CXI."""

    _source: HitSource

    def _values(self, name: str):
        found = column_name(name, self._source.columns)
        if found is None:
            hint = did_you_mean(name, under_both_names(self._source.columns))
            raise AttributeError(f"no value {name!r} per hit{hint}")
        return self._source.columns[found]

    def __dir__(self):
        return [*super().__dir__(), *under_both_names(self._source.columns)]


class Hits(_Columns, Iterable):
    """Hits in the order of the file; slices and conditions give fewer of them.

    ``hits[3]`` is a `Hit`, ``hits[:10]`` and ``hits.where(...)`` are `Hits`. Every value per hit is
    an attribute: ``hits.photons`` or ``hits.photon_counts``, an array.
    """

    def __init__(self, source: HitSource, rows: np.ndarray):
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator["Hit"]:
        return (Hit(self._source, int(row)) for row in self._rows)

    def __getitem__(self, which):
        """Return a hit by its place, or several: a slice, places, or bool (hit,).

        Raises
        ------
        IndexError
            If there are fewer hits.
        UsageError
            If it is none of these.
        """
        if isinstance(which, slice):
            return Hits(self._source, self._rows[which])
        rows = self._rows[_places(which, len(self))]
        return Hits(self._source, rows) if rows.ndim else Hit(self._source, int(rows))

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._values(name)[self._rows]

    @property
    def columns(self) -> list[str]:
        """Names of the values per hit."""
        return list(self._source.columns)

    @property
    def table(self):
        """All values per hit, pandas DataFrame; the index is the place in the file.

        Columns have both names, as in `Run.events`.
        """
        import pandas as pd

        from xfelmpi.api.table import EventTable

        return EventTable(
            {name: values[self._rows] for name, values in self._source.columns.items()},
            index=pd.Index(self._rows, name="hit"),
        )

    def where(self, condition: str) -> "Hits":
        """Return the hits that fulfil a condition, e.g. ``hit_sigma > 8 and photons < 5000``.

        Names as in the events file or in CXI; numbers may have units: ``pulse_energy > 200 uJ``.

        Raises
        ------
        UsageError
            If it is no such condition, or names a value that is not there.
        """
        if not isinstance(condition, str):
            raise UsageError(
                f"where: found {_shown(condition)}, expected a text, e.g. 'hit_sigma > 8' "
                "(hits[...] takes bool)"
            )
        numbers = {
            name: signed(values[self._rows])
            for name, values in self._source.columns.items()
            if values.dtype.kind in "iuf"
        }
        try:
            chosen = rows_where(condition, numbers, self._source.units)
        except UsageError as error:
            # here it is no option
            raise UsageError(str(error).removeprefix("--")) from None
        return Hits(self._source, self._rows[chosen])

    def radial_profiles(self) -> Profiles:
        """Return the radial profiles of all hits, of a run processed with ``--profiles``.

        Raises
        ------
        UsageError
            If there are none in the file.
        """
        return Profiles(*self._source.frames.profiles(self._rows))

    def assembled(self) -> Iterator[np.ndarray]:
        """Yield the images of all hits, float32 (y, x), NaN where no pixel is good."""
        return (hit.assembled() for hit in self)

    def plot(self, which: int | Iterable[int] = range(12), columns: int = 4):
        """Draw hits side by side and return the matplotlib figure.

        Parameters
        ----------
        which : int or iterable of int
            Places among these hits; those past the end are left out.
        columns : int
            Images in a row.
        """
        from xfelmpi.api.plots import plot_hits

        places = np.asarray([*which] if isinstance(which, Iterable) else [which])
        if places.dtype.kind in "iu":
            places = places[places < len(self)]
        return plot_hits(list(self[places]), columns)

    def __repr__(self) -> str:
        return f"<{len(self):,} hits of {self._source.title}>"

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import block

        return block(repr(self).strip("<>"), self[:10].table.to_html(index=True))


def _places(which, n: int) -> np.ndarray:
    """Return which of n hits are meant, int (hit,), or () for one."""
    try:
        places = np.asarray(which)
    except ValueError:
        # lists of unlike lengths
        places = np.empty((0, 0))
    if places.shape == (0,):
        # of no numbers numpy makes floats
        return places.astype(np.int64)
    if places.dtype.kind in "iu" and places.ndim < 2:
        wrong = places[(places < -n) | (places >= n)]
        if wrong.size:
            there = f"expected {-n} … {n - 1}" if n else "there are none"
            raise IndexError(f"no hit {wrong.flat[0]}: {there}")
        return places
    if places.dtype == bool and places.shape == (n,):
        return np.flatnonzero(places)
    raise UsageError(
        f"hits[...]: found {_shown(which)}, expected a place, a slice, places, or bool for each of "
        f"{n} hits"
    )


def _shown(value) -> str:
    return one_line(repr(value))[:40]


class Hit(_Columns):
    """One hit: its photons, and its values as attributes, e.g. ``hit.train_id``."""

    def __init__(self, source: HitSource, row: int):
        self._source = source
        self._row = row

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._values(name)[self._row]

    @property
    def number(self) -> int:
        """Place in the CXI file, from 0 on."""
        return self._row

    @cached_property
    def data(self) -> np.ndarray:
        """Photons, uint8 or uint16 (module, ss, fs)."""
        return self._source.frames.photons(self._row)

    @property
    def mask(self) -> np.ndarray:
        """Which pixels are good, bool (module, ss, fs): True is good, here and everywhere."""
        return self._source.frames.good(self._row)

    def image(self) -> np.ndarray:
        """Return the photons, float32 (module, ss, fs), NaN where a pixel is bad."""
        return np.where(self.mask, self.data, np.float32(np.nan)).astype(np.float32, copy=False)

    def coo(self) -> Coordinates:
        """Return the good pixels with photons as a sparse list."""
        pixel = lit_pixels(self.data)
        pixel = pixel[self.mask.reshape(-1)[pixel]]
        coords = np.stack(np.unravel_index(pixel, self.data.shape))
        return Coordinates(coords, self.data.reshape(-1)[pixel], self.data.shape)

    def radial_profile(self):
        """Return the radial profile, of a run processed with ``--profiles``.

        Returns
        -------
        DataFrame
            A row for each ring: ``q`` in 1/m (4 π sin θ / λ), ``photons``, the mean over its
            good pixels, and ``pixels``, how many these are.

        Raises
        ------
        UsageError
            If there is none in the file.
        """
        import pandas as pd

        q, photons, pixels = self._source.frames.profile(self._row)
        return pd.DataFrame({"q": q, "photons": photons, "pixels": pixels})

    def assembled(self) -> np.ndarray:
        """Return the photons where the pixels are, float32 (y, x), by EXtra-geom.

        NaN where there is no pixel, or a bad one.
        """
        number = self._source.frames.mask_number(self._row)
        return self._source.assembler.photons(self.data, self.mask, number)

    @property
    def title(self) -> str:
        """Train, cell and photons, for a caption."""
        return f"train {self.trainId}, cell {self.cellId}: {int(self.photons):,} photons"

    def __repr__(self) -> str:
        return f"<hit {self._row} of {self._source.title}: {self.title}>"

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import picture

        return picture(repr(self).strip("<>"), self.assembled())


def hits_of(path: Path, frames: HitFrames, assembler: Assembler, title: str) -> Hits:
    """Return the hits of a CXI file with their values, by the last part of the names there."""
    found = read_hit_columns(path)
    named = {name.rpartition("/")[2]: column for name, column in found.items()}
    units = {n: str(c.attributes["units"]) for n, c in named.items() if "units" in c.attributes}
    columns = {name: column.values for name, column in named.items()}
    source = HitSource(frames, columns, units, assembler, title)
    return Hits(source, np.arange(len(columns["trainId"])))
