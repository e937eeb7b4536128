"""The frames of a CXI file, which stays open: many hits one after the other."""

from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from h5py import h5z

from xfelmpi._kernels._deflate import zlib_compress
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.io.checked import check_stored
from xfelmpi.io.dataset_storage import frame_places, is_plain
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.profile_names import GROUP
from xfelmpi.output.hit_columns import DETECTOR

_DETECTOR = f"entry_1/{DETECTOR}"

_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


class HitFrames:
    """Photons and good pixels of the hits in a CXI file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        If it cannot be read.
    """

    def __init__(self, path: Path):
        # says in one line what is wrong with a file
        with finished_file(path, "a CXI file") as file:
            for name in ("data", "mask"):
                check_stored(file[_DETECTOR][name], known_shape=True)
        self._path = path
        self._file = h5py.File(path, "r")
        self._data, self._mask = (self._file[_DETECTOR][name] for name in ("data", "mask"))
        self._good: dict[int, np.ndarray] = {}

    def photons(self, hit: int) -> np.ndarray:
        """Return the photons of a hit, uint8 or uint16 (module, ss, fs)."""
        return self._read(self._data, hit)

    def packed(self, hit: int) -> bytes:
        """Return the photons of a hit as a zlib stream, as the file has it if it has one.

        All low bytes in the order of the pixels, then, of uint16, all high bytes.
        """
        if self._is_packed:
            try:
                skipped, stream = self._data.id.read_direct_chunk((hit, 0, 0, 0))
                if not skipped:
                    return bytes(stream)
            except _DAMAGED:
                # below, with the number of the hit in the message
                pass
        photons = np.ascontiguousarray(self.photons(hit).reshape(-1))
        planes = photons.astype(photons.dtype.newbyteorder("<")).view(np.uint8)
        return zlib_compress(planes.reshape(-1, photons.itemsize).T.reshape(-1))

    @cached_property
    def _is_packed(self) -> bool:
        """Whether chunks hold one hit each, shuffled and deflated."""
        data = self._data
        plist = data.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        shuffled = [h5z.FILTER_SHUFFLE] if data.dtype.itemsize > 1 else []
        return (
            is_plain(data)
            and not data.is_virtual
            and data.chunks == (1, *data.shape[1:])
            and filters == [*shuffled, h5z.FILTER_DEFLATE]
        )

    def good(self, hit: int) -> np.ndarray:
        """Return which pixels of a hit are good, bool (module, ss, fs); not to be changed.

        Hits share masks, which take longer to read than their photons.
        """
        place = self.mask_number(hit)
        if place not in self._good:
            good = self._read(self._mask, hit) == 0
            good.flags.writeable = False
            # of masks that every hit has of its own, only the last is kept
            if place < 0:
                self._good = {n: mask for n, mask in self._good.items() if n >= 0}
            self._good[place] = good
        return self._good[place]

    def mask_number(self, hit: int) -> int:
        """Return a number that hits with the same mask share."""
        return int(self._places[hit])

    @cached_property
    def _places(self) -> np.ndarray:
        return frame_places(self._mask, np.arange(len(self._mask)))

    def profiles(self, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the radial profiles of some hits.

        Parameters
        ----------
        rows : ndarray, int (hit,)
            Which hits.

        Returns
        -------
        q : ndarray, float64 (ring,)
            4 π sin θ / λ in 1/m.
        photons : ndarray, float32 (hit, ring)
            Mean over the good pixels, NaN without any.
        pixels : ndarray, uint32 (hit, ring)
            How many are good.

        Raises
        ------
        UsageError
            If the file has none.
        InputError
            If they cannot be read.
        """
        group = self._file.get(f"entry_1/{GROUP}")
        if group is None:
            raise UsageError(
                f"{self._path} has no radial profiles; xfelmpi size RUN --profiles adds them"
            )
        try:
            # of any hits in any order, which HDF5 itself does not take
            for dataset in group.values():
                check_stored(dataset)
            photons, pixels = (group[name][()][rows] for name in ("photons", "pixels"))
            return group["q"][()], photons, pixels
        except (*_DAMAGED, IndexError) as error:
            raise InputError(f"{self._path}: profiles cannot be read ({error})") from None

    def profile(self, hit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the radial profile of one hit; as `profiles`, with (ring,) each."""
        q, photons, pixels = self.profiles([hit])
        return q, photons[0], pixels[0]

    def _read(self, dataset: h5py.Dataset, hit: int) -> np.ndarray:
        try:
            return dataset[hit]
        except _DAMAGED as error:
            reason = error if self._file else "the file has been closed; open the run again"
            raise InputError(f"{self._path}: hit {hit} cannot be read ({reason})") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
